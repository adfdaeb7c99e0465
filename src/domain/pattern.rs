//! A regular expression of a recipe, compiled.
//!
//! This module knows no crate for regular expressions: who compiles a recipe brings what decides
//! (`crate::inspect::expect::whole_line`). So a text that does not compile is no pattern, and no line is judged by one.

use std::fmt;
use std::sync::Arc;

/// Decides about whole lines. Two patterns are the same when their texts are.
#[derive(Clone)]
pub struct Pattern {
    text: Arc<str>,
    matches: Arc<dyn Fn(&str) -> bool + Send + Sync>,
}

impl Pattern {
    /// A pattern by its text and by what it means.
    pub fn new(text: &str, matches: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        Self { text: text.into(), matches: Arc::new(matches) }
    }

    /// Whether the whole line is as the text says.
    pub fn matches(&self, line: &str) -> bool {
        (self.matches)(line)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
