//! What can go wrong in the engine, by what a caller can do about it.

use std::path::PathBuf;

/// An error of the engine.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the message of each variant says what it is and names its fields")]
pub enum VlmError {
    /// The file cannot be read at all.
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    /// The file is not what it should be; `what` names the key or the tensor.
    #[error("{}: {what}: {why}", path.display())]
    Model { path: PathBuf, what: String, why: String },
    /// Both files are sound but do not belong together.
    #[error("{} and {} do not belong together: {why}", text.display(), mmproj.display())]
    Pair { text: PathBuf, mmproj: PathBuf, why: String },
    /// The model cannot compute on the device that was asked for.
    #[error("[model] device = {name:?}: {why}")]
    Processor { name: String, why: String },
    /// The picture cannot be shown to the model.
    #[error("image of {width}x{height} px: {why}")]
    Image { width: u32, height: u32, why: String },
    /// Picture, question and answer do not fit into the memory set aside for keys and values.
    #[error(
        "needs {needed} tokens of key/value memory, {available} are available: raise [model] memory_mb (--memory-mb of a command), or show less"
    )]
    TooLong { needed: usize, available: usize },
    /// The grammar of an answer is wrong, or the model left it.
    #[error("answer grammar: {why}")]
    Grammar { why: String },
    /// A conversation that the model's template cannot say.
    #[error("{why}")]
    Turns { why: String },
    /// The tokenizer refused a text.
    #[error("tokenizer: {why}")]
    Tokenizer { why: String },
    /// The model computed a number that is not finite.
    #[error("the model's output is not finite")]
    NotFinite,
    /// What answers is gone, or gave no answer that could be one.
    #[error("no answer: {why}")]
    Lost { why: String },
    /// Whoever was asked cannot answer this, whenever it is asked.
    #[error("the engine cannot answer this: {why}")]
    Unable { why: String },
    /// The caller asked to stop.
    #[error("stopped before the answer was complete")]
    Stopped,
    /// candle refused an operation.
    #[error("tensor operation: {0}")]
    Candle(#[from] candle_core::Error),
}
