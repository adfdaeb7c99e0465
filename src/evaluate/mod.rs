//! What is known of pictures, and how well inspections agree with it.
//!
//! ```text
//! truth.jsonl --truth, own_word--> Truth --.
//!                            Inspections --+--score--> Metrics --assertion--> holds, or not
//! ```
//!
//! The room asks no model and prints nothing: the commands do, and whoever else inspects what is known.

pub(crate) mod gate;
pub(crate) mod own_word;
pub(crate) mod score;
pub(crate) mod truth;
