//! Where a document came from, and how the files that it names are found.

use super::Section;
use super::search::Search;
use std::path::{Path, PathBuf};

/// Longest path in a document, in characters.
pub(crate) const PATH_CHARS_MAX: usize = 4096;

/// Where a config came from, and what is asked of it.
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

    fn search(&self) -> Search {
        Search::of_config(&self.dir)
    }
}
