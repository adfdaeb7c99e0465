//! Promises on a real store, by records and decisions as the line makes them.

use super::*;
use crate::domain::grade::{Reason, Verdict};
use crate::domain::review::Decision;
use crate::store::StoreOptions;
use crate::store::recipes::{Entry, Files};
use crate::store::tests::sample;
use std::sync::Arc;

const TEXT: &str = include_str!("../../pipelines/examples-defects.toml");
/// What the recipe promises and how it keeps it, in the tests that have it.
const PROMISED: Limits = Limits {
    thresholds: Thresholds { review_above: 0.5, fail_above: None },
    promise: PromiseRule { escape: 0.05, confidence: 0.95 },
};
const WANTED: Wanted = Wanted { promise: PROMISED.promise, false_fail: 0.05 };
/// Before every part of `sample`.
const BEFORE: &str = "2023-11-14T22:13:20.000Z";

/// A store with the ledger of one recipe, whose newest version is active.
pub(in crate::daemon) struct Bench {
    pub store: Arc<Store>,
    pub recipe: Recipe,
    _dir: tempfile::TempDir,
}

impl Bench {
    /// The recipe's versions one after the other.
    pub(in crate::daemon) fn new(texts: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path(), StoreOptions::default()).unwrap());
        let mut recipe = None;
        for text in texts {
            let read = Recipe::read("examples-defects.toml", text, Files::new()).unwrap();
            let entry = Entry {
                seq: 0,
                at: BEFORE.into(),
                pipeline: read.pipeline.name.clone(),
                version: read.pipeline.version.clone(),
                step: Step::Active,
                by: "test".into(),
                reason: String::new(),
                is_override: false,
                replay: None,
                made_of: vec![],
            };
            store.append_recipe_step(entry, Some((*text, &Files::new())), None).unwrap();
            recipe = Some(read);
        }
        Self { store, recipe: recipe.unwrap(), _dir: dir }
    }

    /// A part that this version judged; returns its id.
    fn part(&self, n: u64, version: &str, verdict: Verdict, score: f32) -> String {
        let (pipeline, pipeline_version) = (self.recipe.pipeline.name.clone(), version.to_owned());
        let part = crate::domain::inspection::Inspection {
            pipeline,
            pipeline_version,
            verdict,
            score,
            findings: vec![],
            texts: vec![],
            ..sample(n)
        };
        self.store.commit(&part, None).unwrap();
        part.id
    }

    fn decide(&self, id: &str, verdict: Decided) {
        let reason = "seen on the part".to_owned();
        let decision = Decision { verdict, reason, note: String::new(), findings: None, texts: None };
        self.store.review_without_picture(id, "anna", decision, None).unwrap();
    }

    /// Parts from `first` on that people decide about, each judged by the active version.
    pub(in crate::daemon) fn decided(
        &self,
        first: u64,
        count: u64,
        good: bool,
        verdict: &Verdict,
        score: f32,
    ) {
        for n in first..first + count {
            let id = self.part(n, &self.recipe.pipeline.version, verdict.clone(), score);
            self.decide(&id, if good { Decided::Pass } else { Decided::Fail });
        }
    }

    fn confirmed(&self) -> Confirmed {
        Confirmed::of(&self.store, &self.recipe.pipeline).unwrap()
    }
}

/// A review that the score asked for, as a version with a limit records it.
fn by_score(score: f32) -> Verdict {
    Verdict::Review(Reason::LowConfidence { what: Reason::SCORE.to_owned(), confidence: 1.0 - score })
}

#[test]
fn decisions_about_both_kinds_prove_a_threshold() {
    let bench = Bench::new(&[TEXT]);
    bench.decided(1, 60, false, &Verdict::Pass, 0.9);
    bench.decided(61, 20, true, &Verdict::Pass, 0.1);
    let proven = bench.confirmed().prove(&bench.recipe.pipeline, WANTED);
    let Proven { calibration, ground, toml, stated } = proven;
    assert_eq!((calibration.defective, calibration.good, ground.thinned), (60, 20, 0));
    assert_eq!(calibration.thresholds.map(|limits| limits.review_above), Some(0.89));
    assert!(toml.contains("review_above_score = 0.89"), "{toml}");
    assert_eq!(ground.passed, Decisions { inspected: 80, decided: 80 });
    assert_eq!((ground.others, stated), (Decisions::default(), None));
    assert!(ground.since.is_some());
}

/// People looked at what went to review, and at nothing that passed: nobody knows of escapes.
#[test]
fn decisions_about_reviews_alone_prove_nothing() {
    let bench = Bench::new(&[TEXT]);
    let unsure = Verdict::Review(Reason::LowConfidence { what: "pit".into(), confidence: 0.4 });
    bench.decided(1, 70, false, &unsure, 0.9);
    for n in 71..75 {
        bench.part(n, &bench.recipe.pipeline.version, Verdict::Pass, 0.1);
    }
    let proven = bench.confirmed().prove(&bench.recipe.pipeline, WANTED);
    assert_eq!((proven.calibration.thresholds, proven.ground.thinned), (None, 70));
    assert_eq!(proven.ground.passed, Decisions { inspected: 4, decided: 0 });
    assert_eq!((proven.toml.as_str(), proven.calibration.best_escape), ("", 1.0));
}

#[test]
fn versions_that_judge_alike_count_and_others_do_not() {
    let (limited, other) = (PROMISED.apply(TEXT), TEXT.replace("Find surface defects", "Look for defects"));
    let bench = Bench::new(&[&other, TEXT, &limited]);
    let version = |text: &str| Recipe::read("", text, Files::new()).unwrap().pipeline.version.clone();
    for (n, text, verdict) in
        [(1, other.as_str(), Verdict::Pass), (2, TEXT, Verdict::Pass), (3, limited.as_str(), by_score(0.9))]
    {
        let id = bench.part(n, &version(text), verdict, 0.9);
        bench.decide(&id, Decided::Fail);
    }
    // A part that the ledger knows no version of, one of another model, and one that nobody decided about.
    let id = bench.part(4, "ffffffffffff", Verdict::Pass, 0.9);
    bench.decide(&id, Decided::Fail);
    bench.part(5, &version(&limited), Verdict::Pass, 0.9);
    let known = bench.confirmed();
    assert_eq!(known.known.len(), 2, "the second and the third");
    assert!(known.known.iter().all(|one| one.case.is_some_and(|case| case.passes && case.defective)));
    let checked = known.check(&bench.recipe.pipeline).unwrap();
    // By the limit of now, the part that had passed without it does not pass.
    assert_eq!((checked.defective, checked.escaped, checked.is_broken), (2, 0, false));
}

#[test]
fn another_model_makes_other_scores() {
    let bench = Bench::new(&[TEXT]);
    bench.decided(1, 3, false, &Verdict::Pass, 0.9);
    let mut newer = sample(9);
    newer.pipeline.clone_from(&bench.recipe.pipeline.name);
    newer.model.text_sha256 = "99".repeat(32);
    bench.store.commit(&newer, None).unwrap();
    assert_eq!(bench.confirmed().known.len(), 0);
}

#[test]
fn a_promise_is_broken_when_too_many_escape_and_not_before() {
    let limited = PROMISED.apply(TEXT);
    let bench = Bench::new(&[&limited]);
    assert_eq!(bench.confirmed().check(&bench.recipe.pipeline).map(|c| c.is_broken), Some(false));
    bench.decided(1, 40, false, &by_score(0.9), 0.9);
    bench.decided(41, 2, false, &Verdict::Pass, 0.2);
    // Two of 42 are what 5 % may bring.
    assert_eq!(bench.confirmed().check(&bench.recipe.pipeline).map(|c| c.is_broken), Some(false));
    bench.decided(43, 8, false, &Verdict::Pass, 0.2);
    let checked = bench.confirmed().check(&bench.recipe.pipeline).unwrap();
    assert_eq!((checked.defective, checked.escaped, checked.is_broken), (50, 10, true));
    let unpromised = Bench::new(&[TEXT]);
    assert_eq!(unpromised.confirmed().check(&unpromised.recipe.pipeline), None);
}
