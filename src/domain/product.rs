//! Words about a new product that cross rooms.

use super::learn::LearnRefusal;
use super::rect::Rect;
use super::reference::FeatureSource;

/// A new product, as an engineer describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct NewProduct {
    /// Of its recipe.
    pub name: String,
    /// Id of the camera that has taken the pictures.
    pub camera: String,
    /// Ids of inspections whose pictures show good parts, by the engineer's word and whatever their verdicts are.
    pub inspections: Vec<String>,
    /// Size of a pixel on the part, in millimetres.
    pub mm_per_px: f64,
    /// What is inspected, in pixels; `None`: the whole picture.
    pub roi: Option<Rect>,
    /// Whose features are compared.
    pub features: FeatureSource,
}

/// Why no recipe is made of a new product.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the message of each variant says what it is and names its fields")]
pub enum ProductRefusal {
    #[error("{key} = {value}: {why}")]
    Field { key: String, value: String, why: String },
    #[error("name = {name:?}: there is a recipe of this name: take another one")]
    Exists { name: String },
    #[error(transparent)]
    Learn(#[from] LearnRefusal),
}

impl ProductRefusal {
    /// Stable word for machines.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Field { .. } => "field",
            Self::Exists { .. } => "exists",
            Self::Learn(refusal) => refusal.code(),
        }
    }
}
