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
//! Servers beside files are accepted as the files are, each side for itself, and have one entry of the store together.
//!
//! That holds for a load within a run, too: an engine that was lost is started again from files that somebody may
//! have exchanged meanwhile. Hashes in the config take precedence over what was accepted.

mod confirmed;

use crate::config::Config;
use crate::engine::Refused;
use crate::inspect::proof::{Acceptance, Outcome, Proof, named};
use crate::recipe::registry::Registry;
use crate::store::Store;
use crate::store::pins::{ModelPin, ServersPin};
use crate::store::record::rfc3339;
use std::sync::Arc;
use std::time::SystemTime;
use vlm::ModelInfo;

/// What an accepted model is the model of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// The whole station: files, or servers without any.
    Whole,
    /// Files whose servers are asked all questions: they answer for the features of pictures.
    Files,
    /// Those servers.
    Servers,
}

/// Lets only the accepted pair in.
pub(super) struct Accepted {
    side: Side,
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
    /// What a store has accepted of a side, with the hashes of the config, which are of files, and the active recipes.
    pub(super) fn new(side: Side, store: Arc<Store>, config: &Config, recipes: Arc<Registry>) -> Self {
        let of_files = |hash: &Option<String>| hash.clone().filter(|_| side != Side::Servers);
        let model = &config.model;
        let (text_sha256, mmproj_sha256) = (of_files(&model.text_sha256), of_files(&model.mmproj_sha256));
        Self { side, store, text_sha256, mmproj_sha256, recipes }
    }

    /// The marks of this side that an entry of the store has; `None`: none of it was accepted.
    fn marks<'a>(&self, pin: &'a ModelPin) -> Option<[&'a str; 2]> {
        match self.side {
            Side::Whole | Side::Files => Some([&pin.text_sha256, &pin.mmproj_sha256]),
            Side::Servers => pin.servers.as_ref().map(|s| [s.text_sha256.as_str(), s.mmproj_sha256.as_str()]),
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
            Ok(Some(pin)) => match self.marks(&pin) {
                Some(marks) if marks != of(model) => {
                    let [text, mmproj] = marks;
                    refused(format!(
                        "the model's files are not those that were accepted at {}: text {text} is now {}, vision \
                         {mmproj} is now {}; put them back, or accept these with inspectd model accept",
                        pin.at, model.text_sha256, model.mmproj_sha256
                    ))
                }
                _ => Ok(()),
            },
            Err(error) => refused(format!(
                "which model files were accepted cannot be read: {error}; accept them with inspectd model accept"
            )),
        }
    }

    /// The entry of the store with this model as its side; the other side's stays. `None`: servers have no entry before
    /// the files have one.
    fn with(&self, former: Option<ModelPin>, model: &ModelInfo) -> Option<ModelPin> {
        let ModelInfo { name, text_sha256, mmproj_sha256, .. } = model.clone();
        if self.side == Side::Servers {
            let servers = Some(ServersPin { name, text_sha256, mmproj_sha256 });
            return former.map(|former| ModelPin { servers, ..former });
        }
        let servers = former.and_then(|former| former.servers).filter(|_| self.side == Side::Files);
        let (at, by) = (rfc3339(SystemTime::now()), "the start of the daemon".to_owned());
        Some(ModelPin { name, text_sha256, mmproj_sha256, servers, at, by })
    }

    /// Accepts the first pair that has given its proof.
    fn pin(&self, model: &ModelInfo) {
        let former = match self.store.model_pin() {
            Ok(Some(pin)) if self.marks(&pin) == Some(of(model)) => return,
            Ok(former) => former,
            // What cannot be read is not overwritten by a start.
            Err(_) => return,
        };
        let Some(pin) = self.with(former, model) else { return };
        match self.store.pin_model(&pin) {
            Ok(()) => {
                tracing::info!(text = %model.text_sha256, vision = %model.mmproj_sha256, "this model is accepted");
            }
            // The next load tries again; until then another pair would be taken.
            Err(error) => tracing::error!(%error, "which model is accepted was not kept"),
        }
    }
}

fn of(model: &ModelInfo) -> [&str; 2] {
    [&model.text_sha256, &model.mmproj_sha256]
}

impl Acceptance for Accepted {
    fn admit(&self, model: &ModelInfo) -> Result<Proof, Refused> {
        self.accept(model)?;
        if let Some(proof) = named(model)? {
            return Ok(proof);
        }
        if self.side == Side::Files {
            // It answers no question about a part, so that confirmed parts say nothing of it.
            return Ok(Proof { known: vec![] });
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
            side: Side::Whole,
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
    fn files_and_the_servers_beside_them_are_accepted_each_for_itself() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path(), StoreOptions::default()).unwrap());
        let of = |side| Accepted { side, ..accepted_by(&store, None, None) };
        let (files, servers) = (of(Side::Files), of(Side::Servers));
        let (small, big, other) = (info("t1", "m1"), info("T1", "M1"), info("T2", "M1"));
        servers.proven(&big, &Proof::default(), &[]);
        assert_eq!(store.model_pin().unwrap(), None, "the files come first");
        files.proven(&small, &Proof::default(), &[]);
        servers.admit(&big).unwrap();
        servers.proven(&big, &Proof::default(), &[]);
        let pin = store.model_pin().unwrap().unwrap();
        assert_eq!((&*pin.text_sha256, &*pin.servers.unwrap().text_sha256), ("t1", "T1"));
        assert!(refused(&servers, &other).contains("text T1 is now T2"));
        assert!(refused(&files, &big).contains("text t1 is now T1"));
        assert!(
            refused(&of(Side::Whole), &big).contains("text t1 is now T1"),
            "no server takes the files' place"
        );
        files.admit(&small).unwrap();
        files.proven(&small, &Proof::default(), &[]);
        assert!(store.model_pin().unwrap().unwrap().servers.is_some(), "they stay accepted");
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
