//! What `inspectd calibrate` says: one JSON object, or the same in words.
//!
//! The keys of the JSON are a contract with scripts: keys may be added, none changed.

use crate::domain::pipeline::Pipeline;
use crate::domain::promise::{Calibration, Decisions, Ground, Outcomes, Thresholds};
use crate::evaluate::binomial::upper;
use crate::recipe::edited::Limits;
use serde::Serialize;
use std::fmt::Write as _;
use std::io::Write;
use std::path::PathBuf;

/// What the promise rests on, in the words of the report.
const ASSUMES: &str = "the parts to come are exchangeable with these: the same product, camera, light and model, and \
                       parts that were confirmed whether or not they had passed";
const METHOD: &str = "exact binomial bound (Clopper and Pearson 1934) at each threshold, thresholds tested in a fixed \
                      sequence from the strictest (Angelopoulos et al. 2021, Learn then Test)";

/// Whose decisions they are.
pub(super) enum Source {
    Truth(PathBuf),
    Store(Ground),
}

#[derive(Serialize)]
pub(super) struct Report {
    pipeline: String,
    version: String,
    /// The promise is proven; without it the thresholds are null.
    proven: bool,
    promise: Promise,
    thresholds: Option<ThresholdsOut>,
    parts: Parts,
    escapes: Escapes,
    review: Review,
    outcomes: ByTruth,
    /// Least defective parts, none of which passes, for the promise and for tighter ones.
    needed: Vec<NeededOut>,
    /// The lines for the pipeline file; empty when nothing is proven.
    toml: String,
    written: Option<PathBuf>,
    source: SourceOut,
    assumes: &'static str,
    method: &'static str,
}

#[derive(Serialize)]
struct Promise {
    /// Always `P(pass | defective)`.
    about: &'static str,
    escape: f64,
    confidence: f64,
    /// Share of all parts that are defective and pass, at most, with the defect rate of these parts.
    escape_of_all: Option<f64>,
}

#[derive(Serialize)]
struct ThresholdsOut {
    review_above_score: f64,
    /// Null: no limit keeps the share of good parts that fail.
    fail_above_score: Option<f64>,
    false_fail: f64,
}

#[derive(Serialize)]
struct Parts {
    good: usize,
    defective: usize,
    unjudged: usize,
    defect_rate: Option<f64>,
}

/// Of the defective parts, those that pass by the thresholds, or by the strictest ones where nothing is proven.
#[derive(Serialize)]
struct Escapes {
    passed: usize,
    rate: Option<f64>,
    /// The upper bound of this threshold, had it been the only one.
    upper: f64,
    /// The least bound that these parts prove, by the strictest threshold.
    best_bound: f64,
}

#[derive(Serialize)]
struct Review {
    share: Option<f64>,
    of_good: Option<f64>,
    of_defective: Option<f64>,
}

#[derive(Serialize)]
struct ByTruth {
    good: OutcomesOut,
    defective: OutcomesOut,
}

#[derive(Serialize)]
struct OutcomesOut {
    pass: usize,
    review: usize,
    fail: usize,
}

#[derive(Serialize)]
struct NeededOut {
    escape: f64,
    defective: u64,
    /// So many more than there are.
    more: u64,
}

#[derive(Serialize)]
struct SourceOut {
    /// truth, store.
    kind: &'static str,
    /// Directory of the truth.
    dir: Option<PathBuf>,
    /// Of the store: inspected and decided parts that had passed, and the others.
    passed: Option<DecisionsOut>,
    others: Option<DecisionsOut>,
    /// Left out so that both kinds count as they come.
    thinned: usize,
}

#[derive(Serialize)]
struct DecisionsOut {
    inspected: u64,
    decided: u64,
}

impl From<Outcomes> for OutcomesOut {
    fn from(Outcomes { pass, review, fail }: Outcomes) -> Self {
        Self { pass, review, fail }
    }
}

impl From<Decisions> for DecisionsOut {
    fn from(Decisions { inspected, decided }: Decisions) -> Self {
        Self { inspected, decided }
    }
}

impl Source {
    fn out(self) -> SourceOut {
        match self {
            Self::Truth(dir) => {
                SourceOut { kind: "truth", dir: Some(dir), passed: None, others: None, thinned: 0 }
            }
            Self::Store(Ground { passed, others, thinned, .. }) => SourceOut {
                kind: "store",
                dir: None,
                passed: Some(passed.into()),
                others: Some(others.into()),
                thinned,
            },
        }
    }
}

impl Report {
    pub(super) fn new(
        pipeline: &Pipeline,
        source: Source,
        calibration: &Calibration,
        written: Option<PathBuf>,
    ) -> Self {
        let Calibration { wanted, good, defective, unjudged, thresholds, of_defective, of_good, .. } =
            *calibration;
        let promise = wanted.promise;
        let share = |n: usize, of: usize| (of > 0).then(|| n as f64 / of as f64);
        let needed = calibration.needed.iter().map(|needed| NeededOut {
            escape: needed.escape,
            defective: needed.defective,
            more: needed.defective.saturating_sub(defective as u64),
        });
        Self {
            pipeline: pipeline.name.clone(),
            version: pipeline.version.clone(),
            proven: thresholds.is_some(),
            promise: Promise {
                about: "P(pass | defective)",
                escape: promise.escape,
                confidence: promise.confidence,
                escape_of_all: calibration.escape_of_all(),
            },
            thresholds: thresholds.map(|limits| ThresholdsOut {
                review_above_score: Thresholds::as_written(limits.review_above),
                fail_above_score: limits.fail_above.map(Thresholds::as_written),
                false_fail: wanted.false_fail,
            }),
            parts: Parts { good, defective, unjudged, defect_rate: calibration.defect_rate() },
            escapes: Escapes {
                passed: of_defective.pass,
                rate: share(of_defective.pass, defective),
                upper: upper(of_defective.pass, defective, promise.confidence),
                best_bound: calibration.best_escape,
            },
            review: Review {
                share: calibration.review_share(),
                of_good: share(of_good.review, good),
                of_defective: share(of_defective.review, defective),
            },
            outcomes: ByTruth { good: of_good.into(), defective: of_defective.into() },
            needed: needed.collect(),
            toml: thresholds.map_or_else(String::new, |thresholds| Limits { thresholds, promise }.lines()),
            written,
            source: source.out(),
            assumes: ASSUMES,
            method: METHOD,
        }
    }

    /// Prints it; with JSON the words go to stderr.
    ///
    /// # Errors
    /// `stdout` cannot be written.
    pub(super) fn say(&self, json: bool, stdout: &mut dyn Write) -> anyhow::Result<()> {
        let words = self.words();
        if json {
            eprint!("{words}");
            writeln!(stdout, "{}", serde_json::to_string(self)?)?;
        } else {
            stdout.write_all(words.as_bytes())?;
        }
        Ok(stdout.flush()?)
    }

    fn words(&self) -> String {
        let Self { promise, parts, escapes, review, .. } = self;
        let percent = |share: f64| format!("{} %", significant(100.0 * share));
        let maybe = |share: Option<f64>| share.map_or_else(|| "-".to_owned(), percent);
        let (bound, sure) = (percent(promise.escape), percent(promise.confidence));
        let mut out = String::new();
        let mut line = |name: &str, text: String| _ = writeln!(out, "{name:<13}{text}");
        line(
            "parts",
            format!("{} good, {} defective, {} not judged", parts.good, parts.defective, parts.unjudged),
        );
        if let Some((passed, others)) = self.source.passed.as_ref().zip(self.source.others.as_ref()) {
            line(
                "decided",
                format!(
                    "{} of {} that had passed, {} of {} others; {} left out so that both count as they come",
                    passed.decided, passed.inspected, others.decided, others.inspected, self.source.thinned
                ),
            );
        }
        match &self.thresholds {
            Some(limits) => {
                let fail = limits.fail_above_score.map_or_else(|| "no limit".to_owned(), |l| l.to_string());
                line(
                    "proven",
                    format!("of the defective parts at most {bound} pass, with {sure} confidence"),
                );
                line("", format!("of all parts at most {} are such escapes", maybe(promise.escape_of_all)));
                line("thresholds", format!("review above {}, fail above {fail}", limits.review_above_score));
            }
            None => {
                line(
                    "NOT PROVEN",
                    format!("that of the defective parts at most {bound} pass, with {sure} confidence"),
                );
                line("", format!("the best bound that these parts prove is {}", percent(escapes.best_bound)));
            }
        }
        line("escapes", format!("{} of {} defective parts pass", escapes.passed, parts.defective));
        line(
            "review",
            format!("{} of all parts, {} of the good ones", maybe(review.share), maybe(review.of_good)),
        );
        for needed in &self.needed {
            let text = format!(
                "{} defective parts without an escape prove {}",
                needed.defective,
                percent(needed.escape)
            );
            line("needed", text);
        }
        line("method", self.method.to_owned());
        line("assumes", self.assumes.to_owned());
        if let Some(path) = &self.written {
            line("written", format!("{}; the active recipe stays as it is", path.display()));
        }
        if !self.toml.is_empty() {
            out += &format!("\nfor the pipeline file:\n\n{}", self.toml);
        }
        out
    }
}

/// Three digits that say something.
fn significant(number: f64) -> String {
    if number == 0.0 {
        return "0".to_owned();
    }
    let digits = (2.0 - number.abs().log10().floor()).clamp(0.0, 8.0) as usize;
    let text = format!("{number:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}
