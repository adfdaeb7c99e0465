//! The model that was accepted is the model that answers.
//!
//! ```text
//! first start     its pair of files gives its proof --> pinned in the store, with the time
//! any later load  the same hashes --> its proof --> it answers
//!                 others --> refused: reviews, alarm `model_changed`, until the files are back or
//!                            `inspectd model accept` accepts them
//! ```
//!
//! The proof is the one that the model names; of one that names none it is what it makes of parts that people have
//! confirmed ([`confirmed`]). Files that were accepted while they were damaged are not let in either.
//!
//! That holds for a load within a run, too: an engine that was lost is started again from files that somebody may
//! have exchanged meanwhile. Hashes in the config take precedence over what was accepted.

mod confirmed;

use crate::config::Config;
use crate::engine::child::Child;
use crate::engine::cluster::Cluster;
use crate::engine::{Backend, EngineError, Refused};
use crate::inspect::proof::{Acceptance, Outcome, Proof, named};
use crate::recipe::registry::Registry;
use crate::store::Store;
use crate::store::pins::ModelPin;
use crate::store::record::rfc3339;
use std::sync::Arc;
use std::time::{Instant, SystemTime};
use vlm::ModelInfo;

/// Lets only the accepted pair in.
pub(super) struct Accepted {
    store: Arc<Store>,
    /// Hashes that the config names.
    text_sha256: Option<String>,
    mmproj_sha256: Option<String>,
    /// The recipes by which confirmed parts are asked again.
    recipes: Arc<Registry>,
}

impl std::fmt::Debug for Accepted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Accepted")
            .field("text", &self.text_sha256)
            .field("mmproj", &self.mmproj_sha256)
            .finish_non_exhaustive()
    }
}

impl Accepted {
    /// The pair that a store has accepted, with the hashes of the config and the active recipes.
    pub(super) fn new(store: Arc<Store>, config: &Config, recipes: Arc<Registry>) -> Self {
        Self {
            store,
            text_sha256: config.model.text_sha256.clone(),
            mmproj_sha256: config.model.mmproj_sha256.clone(),
            recipes,
        }
    }

    fn accept(&self, model: &ModelInfo) -> Result<(), Refused> {
        let refused = |why: String| Err(Refused::NotAccepted { why });
        let by_config = [
            ("text_sha256", &self.text_sha256, &model.text_sha256),
            ("mmproj_sha256", &self.mmproj_sha256, &model.mmproj_sha256),
        ];
        for (key, wanted, found) in by_config {
            if let Some(wanted) = wanted.as_ref().filter(|wanted| *wanted != found) {
                return refused(format!(
                    "the model's files are not those of the config: {key} = {wanted}, and the file has {found}"
                ));
            }
        }
        if self.text_sha256.is_some() && self.mmproj_sha256.is_some() {
            return Ok(());
        }
        match self.store.model_pin() {
            Ok(None) => Ok(()),
            Ok(Some(pin)) if is_of(&pin, model) => Ok(()),
            Ok(Some(ModelPin { text_sha256, mmproj_sha256, at, .. })) => refused(format!(
                "the model's files are not those that were accepted at {at}: text {text_sha256} is now {}, vision \
                 {mmproj_sha256} is now {}; put them back, or accept these with inspectd model accept",
                model.text_sha256, model.mmproj_sha256
            )),
            Err(error) => refused(format!(
                "which model files were accepted cannot be read: {error}; accept them with inspectd model accept"
            )),
        }
    }

    /// Accepts the first pair that has given its proof.
    fn pin(&self, model: &ModelInfo) {
        match self.store.model_pin() {
            Ok(Some(pin)) if is_of(&pin, model) => return,
            Ok(_) => {}
            // What cannot be read is not overwritten by a start.
            Err(_) => return,
        }
        let pin = ModelPin {
            name: model.name.clone(),
            text_sha256: model.text_sha256.clone(),
            mmproj_sha256: model.mmproj_sha256.clone(),
            at: rfc3339(SystemTime::now()),
            by: "the start of the daemon".to_owned(),
        };
        match self.store.pin_model(&pin) {
            Ok(()) => {
                tracing::info!(text = %pin.text_sha256, vision = %pin.mmproj_sha256, "this model is accepted");
            }
            // The next load tries again; until then another pair would be taken.
            Err(error) => tracing::error!(%error, "which model is accepted was not kept"),
        }
    }
}

fn is_of(pin: &ModelPin, model: &ModelInfo) -> bool {
    pin.text_sha256 == model.text_sha256 && pin.mmproj_sha256 == model.mmproj_sha256
}

impl Acceptance for Accepted {
    fn admit(&self, model: &ModelInfo) -> Result<Proof, Refused> {
        self.accept(model)?;
        if let Some(proof) = named(model)? {
            return Ok(proof);
        }
        let all = self.recipes.all();
        let pipelines = all.iter().map(|r| (r.pipeline.name.clone(), (*r.pipeline).clone())).collect();
        let proof = confirmed::proof(&self.store, &pipelines, model).map_err(|error| Refused::NoProof {
            why: format!("which parts people have confirmed cannot be read: {error}"),
        })?;
        if proof.known.is_empty() {
            tracing::warn!(model = %model.name,
                "the model names no proof, and no confirmed part can be asked: only its hashes say that it is whole");
        }
        Ok(proof)
    }

    fn proven(&self, model: &ModelInfo, proof: &Proof, outcomes: &[Outcome]) {
        self.pin(model);
        if model.proof.is_none() && !proof.known.is_empty() {
            confirmed::keep_held(&self.store, model, proof, outcomes);
        }
    }
}

/// Loads the model before the first camera opens: a file that does not read stops the start, not the line. A model
/// that is not accepted or not proven leaves the station up, with reviews and an alarm, so that people can act.
///
/// `None`: it was given up, because `go_on` no longer holds.
///
/// # Errors
/// The model cannot be loaded.
pub(super) fn load(
    mut engine: Child,
    alive: &dyn Fn(),
    go_on: &dyn Fn() -> bool,
) -> anyhow::Result<Option<Box<dyn Backend>>> {
    let started = Instant::now();
    let loaded = engine.load(alive, go_on).cloned();
    Ok(is_loaded(loaded, started)?.then(|| Box::new(engine) as Box<dyn Backend>))
}

/// The same of servers. One that cannot be reached stops no start: it is asked again and again, and until one is there
/// every part is a review.
///
/// # Errors
/// As `load`.
pub(super) fn load_remote(
    mut cluster: Cluster,
    alive: &dyn Fn(),
    go_on: &dyn Fn() -> bool,
) -> anyhow::Result<Option<Box<dyn Backend>>> {
    let started = Instant::now();
    let loaded = cluster.load(alive, go_on).cloned();
    Ok(is_loaded(loaded, started)?.then(|| Box::new(cluster) as Box<dyn Backend>))
}

/// Whether the line begins, with or without the model.
fn is_loaded(loaded: Result<ModelInfo, EngineError>, started: Instant) -> anyhow::Result<bool> {
    match loaded {
        Ok(info) => {
            let ms = started.elapsed().as_millis() as u64;
            tracing::info!(model = %info.name, sha256 = %info.text_sha256, ms, "model loaded");
        }
        Err(error @ (EngineError::NotAccepted { .. } | EngineError::NotProven { .. })) => {
            tracing::error!(%error, "the line begins without a model: every part is a review");
        }
        Err(EngineError::GivenUp) => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreOptions;

    fn info(text: &str, mmproj: &str) -> ModelInfo {
        ModelInfo { text_sha256: text.into(), mmproj_sha256: mmproj.into(), ..ModelInfo::default() }
    }

    fn accepted_by(store: &Arc<Store>, text: Option<&str>, mmproj: Option<&str>) -> Accepted {
        let of = |hash: Option<&str>| hash.map(str::to_owned);
        Accepted {
            store: Arc::clone(store),
            text_sha256: of(text),
            mmproj_sha256: of(mmproj),
            recipes: Arc::default(),
        }
    }

    fn refused(accepted: &Accepted, model: &ModelInfo) -> String {
        match accepted.admit(model) {
            Err(Refused::NotAccepted { why }) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_first_proven_pair_is_pinned_and_every_other_is_refused_until_it_is_accepted() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Arc::new(Store::open(dir.path(), StoreOptions::default()).unwrap());
        let store = open();
        let (first, other) = (info("t1", "m1"), info("t1", "m2"));
        assert!(
            accepted_by(&store, None, None).admit(&other).is_ok(),
            "admitted, and its proof does not hold"
        );
        let accepted = accepted_by(&store, None, None);
        accepted.admit(&first).unwrap();
        accepted.proven(&first, &Proof::default(), &[]);
        assert_eq!(store.model_pin().unwrap().unwrap().mmproj_sha256, "m1");
        drop(accepted);
        drop(store);

        let store = open();
        let accepted = accepted_by(&store, None, None);
        accepted.admit(&first).unwrap();
        let why = refused(&accepted, &other);
        assert!(why.contains("vision m1 is now m2") && why.contains("text t1 is now t1"), "{why}");
        let at = store.model_pin().unwrap().unwrap().at;
        accepted.proven(&first, &Proof::default(), &[]);
        assert_eq!(store.model_pin().unwrap().unwrap().at, at, "a later start accepts nothing anew");

        let pin = ModelPin { mmproj_sha256: "m2".into(), ..store.model_pin().unwrap().unwrap() };
        store.pin_model(&pin).unwrap();
        accepted.admit(&other).unwrap();
        refused(&accepted, &first);
    }

    #[test]
    fn hashes_of_the_config_take_precedence() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path(), StoreOptions::default()).unwrap());
        accepted_by(&store, None, None).proven(&info("t1", "m1"), &Proof::default(), &[]);
        let both = accepted_by(&store, Some("t2"), Some("m2"));
        both.admit(&info("t2", "m2")).unwrap();
        let why = refused(&both, &info("t1", "m2"));
        assert!(why.contains("text_sha256 = t2, and the file has t1"), "{why}");
        both.proven(&info("t2", "m2"), &Proof::default(), &[]);
        accepted_by(&store, None, None).admit(&info("t2", "m2")).unwrap();
        let one = accepted_by(&store, Some("t2"), None);
        assert!(refused(&one, &info("t2", "m3")).contains("vision m2 is now m3"));
    }

    #[test]
    fn a_model_that_names_an_unknown_proof_cannot_be_proven() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path(), StoreOptions::default()).unwrap());
        let model = ModelInfo { proof: Some("of another build".into()), ..info("t", "m") };
        assert!(matches!(accepted_by(&store, None, None).admit(&model), Err(Refused::NoProof { .. })));
    }
}
