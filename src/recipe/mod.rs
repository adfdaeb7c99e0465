//! Recipes: a pipeline file, read and checked once.
//!
//! ```text
//! pipelines_dir/NAME.toml --file: every key, typed and ranged--> Pipeline
//!                         --warnings: what is valid and risky--> Problem
//!                                       registry: of each pipeline the active version
//! ```

pub(crate) mod adapter;
pub(crate) mod assertion;
pub mod beside;
pub(crate) mod edited;
pub mod file;
mod frame;
pub(crate) mod learned;
mod reference;
pub(crate) mod registry;
mod schema;
mod skip;
mod warnings;

pub(crate) use file::check_label;
pub use file::{load_pipeline, load_pipeline_to_learn, load_pipeline_with_warnings, pipeline_from_str};
pub(crate) use schema::schema;
