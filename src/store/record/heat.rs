//! The disk form of a heat map, since version 2 of a record: a hex digit a place.

use crate::domain::inspection::HeatMap;
use serde::{Deserialize, Serialize};

/// Values of a place of a heat map: one hex digit.
const HEAT_STEPS: u8 = 15;

/// A heat map.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct HeatV2 {
    place_px: u32,
    cols: u32,
    /// A hex digit a place, row by row: 0 to f for a confidence of 0 to 1.
    places: String,
}

impl HeatV2 {
    pub(super) fn from_domain(map: &HeatMap) -> Self {
        let digit = |v: &u8| {
            let step = (u32::from(*v) * u32::from(HEAT_STEPS) + 127) / 255;
            char::from_digit(step, 16).unwrap_or('0')
        };
        Self { place_px: map.place_px, cols: map.cols, places: map.values.iter().map(digit).collect() }
    }

    pub(super) fn into_domain(self) -> Result<HeatMap, String> {
        let Self { place_px, cols, places } = self;
        let value = |c: char| Some(c.to_digit(16)? as u8 * (255 / HEAT_STEPS));
        let values: Vec<u8> =
            places.chars().map(value).collect::<Option<_>>().ok_or("a heat map has no digits")?;
        if cols == 0 || place_px == 0 || !values.len().is_multiple_of(cols as usize) {
            return Err(format!("a heat map of {} places in rows of {cols}", values.len()));
        }
        Ok(HeatMap { place_px, cols, rows: values.len() as u32 / cols, values })
    }
}
