//! Fine-tuning: the model itself learns from confirmed parts, on the box.
//!
//! ```text
//! pictures with boxes, lines --examples--> tiles as the line cuts them --draw, augment--> batch: ids, patches, targets
//! GGUF pair --weights--> f32 variables (all, or adapters') --tower, text--> loss --optim--> variables … (train)
//!                                                                   '--checkpoint each minute
//! variables --write--> a new pair, or an adapter
//! ```
//!
//! - The training graph is the engine's function: a test holds both to the same reference values.
//! - A step is the same on any number of threads; a run that was ended goes on as it would have.
//! - Good and defective tiles are drawn, cut and changed alike, so that nothing but the defect tells them apart.
//! - Nothing here touches a running line. A new pair is another model, which has to be accepted there.

#![allow(clippy::inline_always, reason = "a loop's steps are compiled for the instructions of their caller")]

mod attend;
mod augment;
mod batch;
mod checkpoint;
pub(crate) mod draw;
pub(crate) mod examples;
mod loss;
mod ops;
mod optim;
mod product;
mod rows;
mod text;
pub(crate) mod tile;
mod tower;
pub(crate) mod train;
mod weights;
mod write;

pub(crate) use checkpoint::FILE as CHECKPOINT_FILE;
pub(crate) use weights::{How, Pair};

#[cfg(test)]
mod tests;
