//! What is known of pictures, and how well inspections agree with it.
//!
//! ```text
//! truth.jsonl --truth, own_word--> Truth --.
//!                            Inspections --+--score--> Metrics --assertion--> holds, or not
//! confirmed parts, as they were inspected --calibrate, binomial--> the limits on the score that keep a promise
//! a window of values, and an older one    --drift--> have they changed?
//! ```
//!
//! The room asks no model and prints nothing: the commands do, and whoever else inspects what is known.

pub(crate) mod binomial;
pub mod calibrate;
pub(crate) mod drift;
pub(crate) mod gate;
pub(crate) mod own_word;
pub(crate) mod score;
pub(crate) mod truth;
