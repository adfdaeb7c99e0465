//! Being written.

pub mod answer;
pub mod expect;
pub mod grade;
pub mod merge;
