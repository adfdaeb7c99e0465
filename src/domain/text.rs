//! Text read from a part, and what it was expected to say.

/// One line of marked text as the model read it, with the outcome of its check.
#[derive(Clone, Debug, PartialEq)]
pub struct TextLine {
    /// `id` of the prompt that read it.
    pub prompt: String,
    /// 1 for the first line.
    pub line: usize,
    /// What was read; `None` when a line was expected here and none was read.
    pub read: Option<String>,
    /// What it should be, as far as that is a single string (literal or from the trigger).
    pub expected: Option<String>,
    /// `None` when nothing was expected of this line.
    pub matches: Option<bool>,
    /// Where and how it differs; empty unless `matches` is false.
    pub mismatches: Vec<Mismatch>,
    /// Product of the line's token probabilities under the answer's grammar, 0..=1.
    pub confidence: f32,
}

/// One place where a line differs from what was expected, or a rule that it breaks.
#[derive(Clone, Debug, PartialEq)]
pub struct Mismatch {
    /// Character position (0 for the first) in what was read; for a missing character, the
    /// position before which it is missing; for a broken rule, where the rule looked.
    pub at: usize,
    /// What was read there; empty when a character is missing.
    pub read: String,
    /// What should be there, or the rule in words (`regex ^SN…`, `gs1: check digit 7`).
    pub expected: String,
}
