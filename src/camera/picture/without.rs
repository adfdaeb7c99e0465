//! In place of `opencv` in a build without it: nothing is measured, and whoever asks for what only OpenCV can do gets an
//! error. A config that asks for it is refused before.

use super::measures::{Condition, Correction};
use crate::camera::device::DeviceError;
use image::RgbImage;

fn missing<T>() -> Result<T, DeviceError> {
    Err(DeviceError::NotBuilt { what: "OpenCV".into(), feature: "opencv" })
}

/// Nobody measures.
///
/// # Errors
/// Never.
pub fn condition(_: &RgbImage) -> Result<Option<Condition>, DeviceError> {
    Ok(None)
}

/// Nobody measures.
///
/// # Errors
/// Always.
pub fn sharpness(_: &RgbImage) -> Result<f64, DeviceError> {
    missing()
}

/// There is none.
pub enum Thumbnail {}

/// Nobody measures.
///
/// # Errors
/// Always.
pub fn thumbnail(_: &RgbImage) -> Result<Thumbnail, DeviceError> {
    missing()
}

/// Nobody measures.
///
/// # Errors
/// Always.
pub fn difference(_: &Thumbnail, _: &Thumbnail) -> Result<f64, DeviceError> {
    missing()
}

/// Corrects nothing.
pub struct Corrector(());

impl Corrector {
    /// A corrector of a camera that needs none.
    ///
    /// # Errors
    /// The settings ask for a correction.
    pub fn new(correction: &Correction) -> Result<Self, DeviceError> {
        if *correction == Correction::default() { Ok(Self(())) } else { missing() }
    }

    /// Leaves the picture as it is.
    ///
    /// # Errors
    /// Never.
    pub fn correct(&mut self, _: &mut RgbImage) -> Result<(), DeviceError> {
        Ok(())
    }
}
