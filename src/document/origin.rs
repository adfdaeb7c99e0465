//! Where a document came from, and how the files that it names are found.

use super::Section;
use super::search::Search;
use std::path::{Component, Path, PathBuf};

/// Longest path in a document, in characters.
pub(crate) const PATH_CHARS_MAX: usize = 4096;

/// Where a config came from, and what is asked of it.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    /// Names the config in messages.
    pub file: String,
    /// Folder of the config file: relative inputs are looked for here first.
    pub dir: PathBuf,
    /// Variables with our prefix.
    pub environment: Vec<(String, String)>,
    /// A named file that does not exist is a problem.
    pub files_must_exist: bool,
    /// Errors in a recipe that a camera names are kept apart (`Config::broken`): the version that was active before may
    /// stand in for it.
    pub may_break: bool,
    /// The store's directory, once it is known: a missing folder below it the station makes itself.
    pub own_dir: Option<PathBuf>,
}

/// Whether a path lies below a directory, as both are written.
pub(crate) fn is_below(path: &Path, dir: &Path) -> bool {
    let rest = path.strip_prefix(dir).ok();
    rest.is_some_and(|rest| {
        let mut steps = rest.components().peekable();
        steps.peek().is_some() && steps.all(|step| matches!(step, Component::Normal(_)))
    })
}

impl Origin {
    /// Where an input lies: the first place that has it, and as written where none has.
    pub(crate) fn input(&self, path: &Path) -> PathBuf {
        self.search().find_or(path)
    }

    /// The input that a key names, or its default.
    pub(crate) fn input_of(&self, section: &Section<'_>, key: &'static str, default: &str) -> PathBuf {
        let path = section.text(key, PATH_CHARS_MAX);
        self.input(Path::new(path.as_deref().unwrap_or(default)))
    }

    /// The model's file that a key names, or the shipped one.
    pub(crate) fn model_of(&self, section: &Section<'_>, key: &'static str, shipped: &str) -> PathBuf {
        let path = section.text(key, PATH_CHARS_MAX);
        let path = self.search().model(Path::new(path.as_deref().unwrap_or(shipped)));
        if self.files_must_exist && !path.is_file() {
            section.problem(key, self.search().missing_model(&path));
        }
        path
    }

    pub(crate) fn must_be_file(&self, section: &Section<'_>, key: &str, path: &Path) {
        if self.files_must_exist && !path.is_file() {
            section.problem(key, self.search().missing("file", path));
        }
    }

    pub(crate) fn must_be_dir(&self, section: &Section<'_>, key: &str, path: &Path) {
        if self.files_must_exist && !path.is_dir() {
            section.problem(key, self.search().missing("folder", path));
        }
    }

    /// As `must_be_dir`, but for what the station makes itself.
    pub(crate) fn must_be_or_become_dir(&self, section: &Section<'_>, key: &str, path: &Path) {
        let is_made = self.own_dir.as_ref().is_some_and(|own| is_below(path, own)) && !path.exists();
        if !is_made {
            self.must_be_dir(section, key, path);
        }
    }

    fn search(&self) -> Search {
        Search::of_config(&self.dir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn below_a_directory_is_what_is_written_below_it() {
        let is = |path: &str, dir: &str| is_below(Path::new(path), Path::new(dir));
        assert!(is("/var/lib/inspectd/inbox", "/var/lib/inspectd") && is("var/a/b", "var/"));
        for (path, dir) in
            [("/srv/inbox", "/var"), ("/var", "/var"), ("/variable", "/var"), ("/var/../etc", "/var")]
        {
            assert!(!is(path, dir), "{path}");
        }
    }
}
