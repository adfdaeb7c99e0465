//! The form of an answer, and the grammar that holds the model to it.
//!
//! ```text
//! Form --grammar--> Lark or a JSON schema, for llguidance --> decoding --> an answer of this form
//! ```
//!
//! A form says what an answer may be, not how somebody is held to it: another backend makes of it what its own server
//! takes. Forms are those that models are trained on: compact JSON, in the very order of keys of the training answers.

use super::cells::Features;
use llguidance::api::{GrammarInit, ParserLimits, TopLevelGrammar};
use llguidance::{Logger, Matcher, ParserFactory};
use std::sync::Arc;
use toktrie::{ApproximateTokEnv, InferenceCapabilities};

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
    /// A matcher at the start of an answer of this form; `None`: nothing holds it.
    ///
    /// # Errors
    /// Why the form's grammar does not compile.
    pub fn matcher(&self, factory: &ParserFactory) -> Result<Option<Matcher>, String> {
        let Some(grammar) = self.grammar().map_err(|error| format!("the schema: {error}"))? else {
            return Ok(None);
        };
        let limits = if self.is_foreign() { foreign_limits() } else { factory.limits().clone() };
        let (init, logger) = (GrammarInit::Serialized(grammar), Logger::new(0, 0));
        let parser =
            factory.create_parser_from_init_ext(init, logger, InferenceCapabilities::default(), limits);
        let matcher = Matcher::new(parser);
        matcher.get_error().map_or(Ok(Some(matcher)), Err)
    }

    /// True where somebody else has written the grammar: it may be anything.
    pub const fn is_foreign(&self) -> bool {
        matches!(self, Self::Schema(_) | Self::Lark(_))
    }

    fn grammar(&self) -> Result<Option<TopLevelGrammar>, serde_json::Error> {
        Ok(Some(match self {
            Self::Defects { labels } => TopLevelGrammar::from_lark(defects(labels)),
            Self::Lines => TopLevelGrammar::from_lark(lines()),
            Self::Schema(schema) => TopLevelGrammar::from_json_schema(serde_json::from_str(schema)?),
            Self::Lark(grammar) => TopLevelGrammar::from_lark(grammar.to_string()),
            Self::Free | Self::Cells(_) => return Ok(None),
        }))
    }
}

/// A factory of grammars over single bytes, for whoever has no tokenizer.
///
/// # Errors
/// The grammars' library refuses its own bytes.
pub fn factory_of_bytes() -> Result<ParserFactory, String> {
    let env = ApproximateTokEnv::single_byte_env();
    let mut factory = ParserFactory::new_simple(&env).map_err(|error| format!("{error:#}"))?;
    factory.quiet();
    Ok(factory)
}

/// What a grammar of others may cost. They do not see everything: `{"multipleOf": 999983}` compiles for eleven seconds. A
/// state of the lexer takes one or two kB, and a text of at most so many characters as many states.
fn foreign_limits() -> ParserLimits {
    ParserLimits {
        initial_lexer_fuel: 100_000,
        max_lexer_states: 50_000,
        max_grammar_size: 100_000,
        ..ParserLimits::default()
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
