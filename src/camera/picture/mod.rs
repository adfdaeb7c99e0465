//! What is measured and corrected on a picture.
//!
//! ```text
//! condition   sharpness and exposure, which tell a dirty lens and a light that is off
//! thumbnail, difference, sharpness    what the key-frame policies compare
//! Corrector   undistortion by the camera's calibration (lens), then white balance
//! ```
//!
//! OpenCV does it (feature `opencv`); without it no picture is measured.

#[cfg(feature = "opencv")]
mod lens;
mod measures;
#[cfg(feature = "opencv")]
mod opencv;
#[cfg(not(feature = "opencv"))]
#[path = "without.rs"]
mod opencv;

pub use measures::{Condition, Correction, Lens};
pub use opencv::{Corrector, Thumbnail, condition, difference, sharpness, thumbnail};
