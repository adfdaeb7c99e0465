//! Where a file lies that a relative path names.
//!
//! ```text
//! in a config        beside the config file, the working directory, /usr/share/inspectd
//! without a config   the working directory, /etc/inspectd, /usr/share/inspectd
//! ```
//!
//! The first folder that has the file wins. A model is looked for in `fixtures/model` of the working directory, too: there
//! a checkout has the one that ships. An absolute path is looked for nowhere else.

use std::path::{Path, PathBuf};

/// The folder of the installed config and of its pipelines.
pub(crate) const CONFIG_DIR: &str = "/etc/inspectd";
/// What the package brings and nobody edits: the model, the schemas.
pub(crate) const SHARE_DIR: &str = "/usr/share/inspectd";
/// Where a checkout has the shipped model.
const CHECKOUT_MODEL: &str = "fixtures/model";

/// Folders in the order in which they are looked through; an empty one is the working directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Search {
    folders: Vec<PathBuf>,
}

impl Search {
    /// For the paths of a config file in the folder `dir`.
    pub(crate) fn of_config(dir: &Path) -> Self {
        Self::through([dir, Path::new(""), Path::new(SHARE_DIR)])
    }

    /// For a command that no config was named to.
    pub(crate) fn without_config() -> Self {
        Self::through([Path::new(""), Path::new(CONFIG_DIR), Path::new(SHARE_DIR)])
    }

    fn through<const N: usize>(folders: [&Path; N]) -> Self {
        let mut once: Vec<PathBuf> = Vec::new();
        for folder in folders {
            if !once.iter().any(|other| other == folder) {
                once.push(folder.to_owned());
            }
        }
        Self { folders: once }
    }

    /// The file or folder of this path; `None`: no folder has it.
    pub(crate) fn find(&self, path: &Path) -> Option<PathBuf> {
        self.folders.iter().map(|folder| folder.join(path)).find(|path| path.exists())
    }

    /// As `find`; the path as written where no folder has it.
    pub(crate) fn find_or(&self, path: &Path) -> PathBuf {
        self.find(path).unwrap_or_else(|| path.to_owned())
    }

    /// As `find_or`, for a file of a model.
    pub(crate) fn model(&self, path: &Path) -> PathBuf {
        self.for_model().find_or(path)
    }

    /// These folders, with that of a checkout's model behind the working directory.
    fn for_model(&self) -> Self {
        let mut folders = self.folders.clone();
        let here = folders.iter().position(|folder| folder.as_os_str().is_empty());
        folders.insert(here.map_or(folders.len(), |at| at + 1), CHECKOUT_MODEL.into());
        Self { folders }
    }

    /// `there is no file x: looked in a, b`, for a message; `what` is file or folder.
    pub(crate) fn missing(&self, what: &str, path: &Path) -> String {
        let text = format!("there is no {what} {}", path.display());
        if path.is_absolute() { text } else { format!("{text}: looked in {}", self.places()) }
    }

    /// As `missing`, for a file of a model.
    pub(crate) fn missing_model(&self, path: &Path) -> String {
        self.for_model().missing("file", path)
    }

    /// The folders, for a message.
    pub(crate) fn places(&self) -> String {
        let here = std::env::current_dir();
        let shown = |folder: &PathBuf| match &here {
            Ok(here) if folder.as_os_str().is_empty() => here.display().to_string(),
            Ok(here) if folder.is_relative() => here.join(folder).display().to_string(),
            _ if folder.as_os_str().is_empty() => "the working directory".to_owned(),
            _ => folder.display().to_string(),
        };
        let shown: Vec<_> = self.folders.iter().map(shown).collect();
        shown.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The working directory of the tests is the checkout.
    #[test]
    fn the_folder_of_the_config_comes_before_the_working_directory() {
        let dir = tempfile::tempdir().expect("a folder");
        let search = Search::of_config(dir.path());
        let recipe = Path::new("pipelines/photo.toml");
        assert_eq!(search.find(recipe).expect("the checkout has it"), recipe);
        std::fs::create_dir(dir.path().join("pipelines")).expect("a folder");
        std::fs::write(dir.path().join(recipe), "").expect("a file");
        assert_eq!(search.find(recipe).expect("both have it"), dir.path().join(recipe));
    }

    #[test]
    fn the_shipped_model_is_found_in_a_checkout_and_beside_a_config() {
        let dir = tempfile::tempdir().expect("a folder");
        let name = Path::new("inspectd-small.gguf");
        let search = Search::of_config(dir.path());
        assert_eq!(search.model(name), Path::new(CHECKOUT_MODEL).join(name));
        assert_eq!(Search::without_config().model(name), Path::new(CHECKOUT_MODEL).join(name));
        std::fs::write(dir.path().join(name), "").expect("a file");
        assert_eq!(search.model(name), dir.path().join(name));
    }

    #[test]
    fn a_message_names_every_place() {
        let here = std::env::current_dir().expect("a working directory");
        let here = here.display();
        let missing = Search::of_config(Path::new("/plant")).missing("file", Path::new("x.gguf"));
        assert_eq!(missing, format!("there is no file x.gguf: looked in /plant, {here}, {SHARE_DIR}"));
        let missing = Search::without_config().missing("file", Path::new("x.gguf"));
        assert_eq!(missing, format!("there is no file x.gguf: looked in {here}, {CONFIG_DIR}, {SHARE_DIR}"));
        let absolute = Search::of_config(Path::new("/plant")).missing("folder", Path::new("/srv/x"));
        assert_eq!(absolute, "there is no folder /srv/x");
        assert!(Search::of_config(Path::new("")).missing_model(Path::new("y")).contains("/fixtures/model, "));
    }
}
