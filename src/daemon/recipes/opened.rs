//! Which version of each recipe is active at a start.
//!
//! | the store knows | the file | then |
//! | --- | --- | --- |
//! | nothing | is sound | its version is active: the first |
//! | the active version | has it | it is active |
//! | the active version | has another one, and no gate asks for a proof | the file's is active |
//! | the active version | has another one that a gate must prove, or that was decided about, or that has errors | the known one stays, by its kept text |
//! | nothing, or a text that does not read any more | has errors | the config is refused |
//! | a version that was made on this station | is not there | the known one is active, by its kept text |
//! | none that was made on this station | is not there, and a camera names it | the config is refused |

use super::steps::entry;
use crate::config::{self, Camera, Config};
use crate::document::{Problem, ReadError};
use crate::evaluate::gate;
use crate::recipe::registry::{Recipe, Registry};
use crate::store::Store;
use crate::store::recipes::{Book, Step};
use std::sync::Arc;

const BY: &str = "start";

/// The active recipes of a station.
///
/// # Errors
/// [`ReadError::Invalid`]: a camera's recipe has errors, and no version of it was ever active; or it has no file, and was
/// not made here or does not go with the camera. `StoreError`.
pub(crate) fn open(config: &Config, store: &Store) -> anyhow::Result<Arc<Registry>> {
    let mut active = vec![];
    for recipe in config.recipes.values() {
        active.push(of_file(recipe, store)?);
    }
    let mut problems = vec![];
    for (name, found) in &config.broken {
        match kept(name, store)? {
            Some(recipe) => {
                let reason = shown(found);
                tracing::error!(
                    pipeline = name,
                    reason,
                    version = recipe.pipeline.version,
                    "the file has errors, and the version that was active before stays active"
                );
                active.push(recipe);
            }
            None => problems.extend(found.iter().cloned()),
        }
    }
    made_here(&mut active, store)?;
    problems.extend(unfiled(config, &active));
    if !problems.is_empty() {
        return Err(ReadError::Invalid { problems }.into());
    }
    Ok(Arc::new(Registry::new(active)))
}

/// What is wrong with cameras whose recipes have no file: a recipe that was made here stands for it, as far as it goes
/// with the camera.
fn unfiled(config: &Config, active: &[Recipe]) -> Vec<Problem> {
    let of = |camera: &Camera| {
        let problem = config.unfiled.get(&camera.id)?;
        let message = match active.iter().find(|recipe| recipe.pipeline.name == camera.pipeline) {
            Some(recipe) => config::unfit(camera, &recipe.pipeline)?,
            None => format!("{}; no recipe of this name was made on this station", problem.message),
        };
        Some(Problem { message, ..problem.clone() })
    };
    config.cameras.iter().filter_map(of).collect()
}

/// Adds the recipes that were made on this station and have no sound file: their kept texts are what there is of them.
fn made_here(active: &mut Vec<Recipe>, store: &Store) -> anyhow::Result<()> {
    for (name, book) in store.recipe_books()? {
        if !book.is_made_here || active.iter().any(|recipe| recipe.pipeline.name == name) {
            continue;
        }
        match kept(&name, store)? {
            Some(recipe) => active.push(recipe),
            None => tracing::error!(
                pipeline = name,
                version = book.active,
                "the recipe was made here, and its text is not kept any more: nothing is judged by it"
            ),
        }
    }
    Ok(())
}

fn shown(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// The version that was active, by its kept text.
fn kept(name: &str, store: &Store) -> anyhow::Result<Option<Recipe>> {
    let Some(book) = store.recipe_book(name)? else { return Ok(None) };
    let Some(text) = store.recipe_text(name, &book.active)? else { return Ok(None) };
    let files = store.recipe_files(name, &book.active)?;
    match Recipe::read(&format!("version {} of {name}", book.active), &text, files) {
        Ok(recipe) => Ok(Some(recipe)),
        Err(problems) => {
            let reason = shown(&problems);
            tracing::error!(
                pipeline = name,
                version = book.active,
                reason,
                "the active version does not read any more"
            );
            Ok(None)
        }
    }
}

/// The active version of a recipe whose file is sound.
fn of_file(recipe: &Recipe, store: &Store) -> anyhow::Result<Recipe> {
    let (name, version) = (&recipe.pipeline.name, &recipe.pipeline.version);
    let book = store.recipe_book(name)?;
    if book.as_ref().is_some_and(|book| book.active == *version) {
        return Ok(recipe.clone());
    }
    let (is_first, is_made_here) = (book.is_none(), book.as_ref().is_some_and(|book| book.is_made_here));
    let mut reason = String::new();
    if let Some(book) = book {
        match kept(name, store)? {
            Some(kept) => {
                let is_asked = kept.pipeline.gate.is_some() || recipe.pipeline.gate.is_some();
                if book.decided == *version || is_asked || gate::check(&recipe.pipeline).is_err() {
                    return Ok(kept);
                }
            }
            None => reason = format!("the active version {} cannot be read any more", book.active),
        }
    }
    let book = Book { active: version.clone(), decided: version.clone(), is_made_here };
    let step = entry(name, version, Step::Active, BY, reason, None);
    match store.append_recipe_step(step, Some((&recipe.text, &recipe.files)), Some(&book)) {
        Ok(_) => {}
        // Without room nothing is noted; the next start finds the same.
        Err(error) if error.passes() => {
            tracing::warn!(%error, pipeline = name, "its version is not noted yet");
        }
        Err(error) => return Err(error.into()),
    }
    if !is_first {
        tracing::info!(
            pipeline = name,
            version,
            "the recipe has changed since the last start, and the new version is active"
        );
    }
    Ok(recipe.clone())
}

#[cfg(test)]
#[path = "opened_tests.rs"]
mod tests;
