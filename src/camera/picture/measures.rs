//! What a picture is worth, and how it is to be corrected.

use serde::{Deserialize, Serialize};

/// What a picture is worth, whatever it shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Condition {
    /// Variance of the Laplacian of the grey picture; near 0 for a picture without any edge.
    pub sharpness: f64,
    /// Mean grey value, 0..255.
    pub brightness: f64,
    /// Share of pixels at the upper end, 0..1.
    pub overexposed: f64,
}

/// How a picture is corrected before anybody sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Correction {
    /// Calibration of the lens.
    pub lens: Option<Lens>,
    /// Gains of red, green and blue; `Some` of an empty list balances each picture to grey.
    pub white_balance: Option<Vec<f64>>,
}

/// A calibration as OpenCV's tools print it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lens {
    /// fx, fy, cx, cy in pixels.
    pub camera: [f64; 4],
    /// k1, k2, p1, p2 and k3 where it is known.
    pub distortion: Vec<f64>,
}
