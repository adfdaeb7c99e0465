//! A document written back: keys and values as a file would hold them.

use std::fmt::{Display, Write};
use std::path::Path;

/// The lines of a document.
#[derive(Default)]
pub(crate) struct Text(String);

impl Text {
    /// One line as it is.
    pub(crate) fn line(&mut self, line: &str) {
        self.0.push_str(line);
        self.0.push('\n');
    }

    /// `key = value`; the value as TOML writes it.
    pub(crate) fn pair(&mut self, key: &str, value: impl Display) {
        writeln!(self.0, "{key} = {value}").expect("a String takes everything that is written to it");
    }

    /// The pair of a key that may be absent.
    pub(crate) fn some(&mut self, key: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.pair(key, value);
        }
    }

    /// All of it.
    pub(crate) fn into_string(self) -> String {
        self.0
    }
}

/// A text as a TOML string.
pub(crate) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// A path as a TOML string.
pub(crate) fn path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}
