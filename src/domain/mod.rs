//! The words of the product as plain types: no serde, no tokio, no candle, no sled.
//!
//! ```text
//! Frame -> Grid of Tiles -> Detections -> Findings -> Grade -> Verdict -> Inspection
//! ```
//!
//! Disk and wire forms are versioned types of their own, in `store` and `mqtt`, so that a change
//! here never changes what is stored or published without anybody noticing.

pub mod alarm;
pub mod camera;
pub(crate) mod detection;
pub mod finding;
pub mod frame;
pub mod grade;
pub mod grid;
pub mod inspection;
pub mod learn;
pub mod network;
pub mod part;
pub mod pattern;
pub mod pipeline;
pub mod plc;
pub mod product;
pub mod promise;
pub mod recipe;
pub mod rect;
pub mod reference;
pub mod review;
pub mod text;
pub mod trigger;
