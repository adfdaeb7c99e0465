//! What confirmed parts have taught about how a product looks, as a recipe holds it.
//!
//! This module knows no file and no arithmetic: who reads a recipe brings what judges (`crate::inspect::reference`).

use std::fmt::Debug;
use std::sync::Arc;

/// Whose features of a cell are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeatureSource {
    /// Of the small network that is part of the program.
    Backbone,
    /// Of the loaded model's own vision tower.
    Tower,
}

impl FeatureSource {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Backbone, Self::Tower];

    /// The word of recipes and banks.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Backbone => "backbone",
            Self::Tower => "tower",
        }
    }

    /// The source of this word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|source| source.as_str() == word)
    }
}

/// Where on the part a cell may look as it does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Place {
    /// Anywhere: parts lie as they come.
    Free,
    /// Where the good parts had it, and as far from there: a fixture holds the part.
    Fixed {
        /// How far a place may be off, in millimetres.
        tolerance_mm: f64,
    },
}

/// What was learned, and how it is applied.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Lesson {
    /// How good parts look: a cell that is unlike all of theirs is a finding.
    Bank {
        /// Where a cell may look as it does.
        place: Place,
    },
    /// What tells defective parts from good ones: a tile over the limit is a finding.
    Head,
}

impl Lesson {
    /// What its file is, in records and messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bank { .. } => "bank",
            Self::Head => "head",
        }
    }

    /// The kind of the prompts that are answered by it.
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Bank { .. } => "reference",
            Self::Head => "head",
        }
    }
}

/// A question that what was learned from confirmed parts answers, by the features of each tile's cells.
#[derive(Clone, Debug, PartialEq)]
pub struct ReferenceRule {
    /// Whose features are compared.
    pub features: FeatureSource,
    /// What was learned.
    pub lesson: Lesson,
    /// The labels that its findings may have; the first is that of what has none of its own.
    pub labels: Vec<String>,
    /// File name of what was learned, beside the recipe's file.
    pub file: String,
    /// `None`: the recipe was read to learn it, and judges nothing.
    pub learned: Option<Learned>,
}

/// The features of one tile's cells.
#[derive(Clone, Copy, Debug)]
pub struct TileFeatures<'a> {
    /// Which of the question's tiles it is, from 0.
    pub tile: usize,
    /// Rows of cells.
    pub rows: usize,
    /// Cells in a row.
    pub cols: usize,
    /// Numbers a cell.
    pub dim: usize,
    /// `[rows, cols, dim]`.
    pub values: &'a [f32],
}

/// How sure it is of each cell that something is there.
#[derive(Clone, Debug, PartialEq)]
pub struct CellMap {
    /// `None`: the rule's own label.
    pub label: Option<String>,
    /// `[rows, cols]`: 0..=1, over 0.5 it is rather there than not.
    pub cells: Vec<f32>,
}

/// How unusual a tile is.
#[derive(Clone, Debug, PartialEq)]
pub struct Unusual {
    /// One a label.
    pub maps: Vec<CellMap>,
    /// How sure it is that something in the tile is, 0..=1.
    pub tile: f32,
    /// Where the tile as a whole decides: `[rows, cols]`, how much each cell adds to it, the most 1, none 0. `None`: each
    /// cell decides for itself.
    pub reasons: Option<Vec<f32>>,
}

/// What a bank was learned from, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BankOrigin {
    /// RFC 3339, UTC: when.
    pub at: String,
    /// Good parts.
    pub good: usize,
    /// Defective parts that helped to set the limits.
    pub bad: usize,
}

/// What judges tiles by what was learned.
pub trait Judge: Debug + Send + Sync {
    /// What it was learned from.
    fn origin(&self) -> BankOrigin;

    /// Whose features it judges.
    fn features(&self) -> FeatureSource;

    /// Whose features it was learned from: sha256 (hex) of the network's weights.
    fn features_sha256(&self) -> &str;

    /// The labels that it tells apart; of everything else the recipe says what it is called.
    fn labels(&self) -> Vec<&str> {
        vec![]
    }

    /// Judges a tile.
    ///
    /// # Errors
    /// The tile is not of the form that was learned.
    fn judge(&self, features: TileFeatures<'_>) -> Result<Unusual, String>;
}

/// What was learned, ready to judge; two are the same when their files are.
#[derive(Clone, Debug)]
pub struct Learned {
    /// sha256 (hex) of its file.
    pub sha256: String,
    /// What judges by it.
    pub judge: Arc<dyn Judge>,
}

impl PartialEq for Learned {
    fn eq(&self, other: &Self) -> bool {
        self.sha256 == other.sha256
    }
}
