//! Learning on the box: from parts that people have confirmed to what a recipe judges by.
//!
//! ```text
//! pictures with their truth --engine: features--> examples --references--> bank, with its limits and how well it does
//!                                                          '-head--------> head, and how well it does on other parts
//! pictures with their truth --finetune--> a pair of files, or an adapter: another model, which the gate takes
//! ```
//!
//! Nothing that is learned judges a part by being there: a bank or a head is a file beside a recipe, and a recipe with
//! another file is another version, which the registry takes through its checks and its gate.

mod cell_planes;
pub(crate) mod coreset;
pub(crate) mod example;
pub(crate) mod finetune;
mod folds;
pub(crate) mod head;
pub(crate) mod limit;
mod logistic;
pub(crate) mod product;
pub(crate) mod references;
mod tile_plane;

/// Why nothing was learned.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LearnError {
    /// The recipe does not ask what is to be learned.
    #[error("{why}")]
    Recipe { why: String },
    /// There is too little to learn from.
    #[error("{why}")]
    TooLittle { why: String },
    /// There are more examples than there is memory for.
    #[error("{parts} pictures are more than there is memory for: take fewer")]
    TooMany { parts: usize },
    /// Nobody wants it any more.
    #[error("it was stopped")]
    Stopped,
    /// The features of a picture could not be had.
    #[error("{picture}: {why}")]
    Picture { picture: String, why: String },
    /// The model cannot be read or computed with.
    #[error(transparent)]
    Model(#[from] vlm::VlmError),
    /// A file of a run cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io { path: std::path::PathBuf, source: std::io::Error },
    /// There is a checkpoint, and this run cannot go on from it.
    #[error("{}: {why}", path.display())]
    Checkpoint { path: std::path::PathBuf, why: String },
}

impl From<candle_core::Error> for LearnError {
    fn from(error: candle_core::Error) -> Self {
        Self::Model(error.into())
    }
}
