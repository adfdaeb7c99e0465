//! The form of an answer, and the grammar that holds the model to it.
//!
//! ```text
//! Form --grammar--> Lark or a JSON schema, for llguidance --> decoding --> an answer of this form
//! ```
//!
//! A form says what an answer may be, not how somebody is held to it: another backend makes of it what its own server
//! takes. Forms are those that models are trained on: compact JSON, in the very order of keys of the training answers.

use super::cells::Features;
use llguidance::api::TopLevelGrammar;
use std::sync::Arc;

/// Most defects that one answer may name. A tile with more is ruined anyway, and a model that
/// repeats itself must come to an end.
pub const DEFECTS_MAX: usize = 24;
/// The words for how grave a defect is, the least first.
pub const SEVERITIES: [&str; 3] = ["minor", "major", "critical"];
/// Coordinates are thousandths of the picture's side.
pub const COORDINATE_MAX: u16 = 1000;
/// Most lines of text that one answer may hold.
pub const LINES_MAX: usize = 12;
/// Most characters of one line.
pub const LINE_CHARS_MAX: usize = 64;

/// What an answer may be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// A JSON list of at most [`DEFECTS_MAX`] defects: each a box (`bbox_2d`, four coordinates), one of these labels
    /// and a severity. Without labels only `[]` is left.
    Defects {
        /// The words that a defect may have.
        labels: Arc<[String]>,
    },
    /// A JSON list of at most [`LINES_MAX`] strings of 1 to [`LINE_CHARS_MAX`] characters without control characters,
    /// in which only `"` and `\` are escaped.
    Lines,
    /// JSON that this JSON schema allows.
    Schema(Arc<str>),
    /// What this grammar in llguidance's Lark dialect allows.
    Lark(Arc<str>),
    /// Any text.
    Free,
    /// No text, but the features of the picture's cells: the text model is not asked.
    Cells(Features),
}

impl Form {
    /// The grammar that holds an answer to this form; `None`: there is none.
    ///
    /// # Errors
    /// Why a schema is no JSON.
    pub fn grammar(&self) -> Result<Option<TopLevelGrammar>, serde_json::Error> {
        Ok(Some(match self {
            Self::Defects { labels } => TopLevelGrammar::from_lark(defects(labels)),
            Self::Lines => TopLevelGrammar::from_lark(lines()),
            Self::Schema(schema) => TopLevelGrammar::from_json_schema(serde_json::from_str(schema)?),
            Self::Lark(grammar) => TopLevelGrammar::from_lark(grammar.to_string()),
            Self::Free | Self::Cells(_) => return Ok(None),
        }))
    }
}

/// Grammar of a list of defects, in llguidance's Lark dialect.
fn defects(labels: &[String]) -> String {
    if labels.is_empty() {
        return "start: \"[]\"\n".to_owned();
    }
    let labels: Vec<String> = labels.iter().map(|label| literal(&json_string(label))).collect();
    let severities: Vec<String> = SEVERITIES.iter().map(|word| literal(&json_string(word))).collect();
    format!(
        "start: \"[\" (item (\",\" item){{0,{more}}})? \"]\"\n\
         item: {head} NUMBER \",\" NUMBER \",\" NUMBER \",\" NUMBER {label_key} label {severity_key} severity \"}}\"\n\
         NUMBER: /0|[1-9][0-9]{{0,2}}|{COORDINATE_MAX}/\n\
         label: {labels}\n\
         severity: {severities}\n",
        more = DEFECTS_MAX - 1,
        head = literal("{\"bbox_2d\":["),
        label_key = literal("],\"label\":"),
        severity_key = literal(",\"severity\":"),
        labels = labels.join(" | "),
        severities = severities.join(" | "),
    )
}

/// Grammar of a list of text lines, in llguidance's Lark dialect.
fn lines() -> String {
    format!(
        "start: \"[\" (LINE (\",\" LINE){{0,{more}}})? \"]\"\n\
         LINE: /\"([^\"\\\\\\x00-\\x1f\\x7f-\\x9f]|\\\\[\"\\\\]){{1,{LINE_CHARS_MAX}}}\"/\n",
        more = LINES_MAX - 1,
    )
}

/// `text` as a JSON string with its quotes.
pub fn json_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// `text` as a Lark literal. Lark's are JSON strings, but it wants DEL escaped, which JSON does not.
fn literal(text: &str) -> String {
    json_string(text).replace('\u{7f}', "\\u007f")
}

#[cfg(test)]
#[path = "form_tests.rs"]
mod tests;
