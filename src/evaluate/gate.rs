//! The replay gate: what a new version of a recipe, or of a model, must show on parts that people have confirmed
//! before it judges others.
//!
//! ```text
//! confirmed parts, newest first --sample: bounded, every kind of part in turn--> the parts
//!     each, by the new version --Inspection--> figures --[gate] require--.
//!                                         '--> lost, alarms --------------+--> holds | refused, with the parts
//! ```
//!
//! Rules:
//! - A part that was not judged (the engine failed, its picture is wrong) says nothing: the gate does not hold.
//! - Lost is a part that people have confirmed as defective, that its record did not pass, and that passes now.
//! - An alarm is a part that people have confirmed as good, that its record passed, and that does not pass now.

use super::score::{self, Asked, Metrics};
use super::truth::{TrueDefect, TrueText, Truth};
use crate::domain::grade::{Reason, Verdict};
use crate::domain::inspection::Inspection;
use crate::domain::pipeline::{GateRule, Pipeline};
use crate::domain::review::{Decided, Review};
use crate::recipe::assertion::Assertion;
use std::collections::{BTreeMap, VecDeque};

/// A confirmed part.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// Id of its inspection.
    pub id: String,
    pub decided: Decided,
    /// The verdict of its record.
    pub was: Verdict,
    pub truth: Truth,
}

impl Part {
    /// What is known of a part after a person's decision; `size` is that of its picture, in pixels.
    pub fn new(inspection: &Inspection, review: &Review, size: (u32, u32)) -> Self {
        let good = review.verdict == Some(Decided::Pass);
        let drawn = review.findings.as_ref().map(|findings| {
            let of = |b: &crate::domain::review::OperatorBox| TrueDefect {
                label: b.label.clone(),
                bbox_px: Some(b.bbox_px),
                severity: Some(b.severity),
            };
            findings.iter().map(of).collect()
        });
        let found = || {
            let of = |f: &crate::domain::finding::Finding| TrueDefect {
                label: f.label.clone(),
                bbox_px: Some(f.bbox_px),
                severity: Some(f.severity),
            };
            inspection.findings.iter().map(of).collect()
        };
        // Whoever passes a part without a word about its findings has not said that they are there.
        let defects = drawn.unwrap_or_else(|| if good { vec![] } else { found() });
        let read = review.texts.iter().flatten();
        let texts = read.map(|line| TrueText { text: line.text.clone(), bbox_px: None }).collect();
        Self {
            id: inspection.id.clone(),
            decided: if good { Decided::Pass } else { Decided::Fail },
            was: inspection.verdict.clone(),
            truth: Truth {
                file: inspection.id.clone(),
                width: size.0,
                height: size.1,
                defects,
                texts,
                good: Some(good),
                rois: BTreeMap::new(),
                part_id: None,
                lot: None,
            },
        }
    }

    /// What kind of part it is: good, or defective with its first label.
    pub fn kind(&self) -> String {
        match (self.decided, self.truth.defects.first()) {
            (Decided::Pass, _) => "good".to_owned(),
            (Decided::Fail, Some(defect)) => format!("defective: {}", defect.label),
            (Decided::Fail, None) => "defective".to_owned(),
        }
    }
}

/// Chooses at most `max` items: of every kind in turn, of each kind the first ones first. Returned in the order of
/// `items`.
pub fn stratified<T>(items: Vec<T>, max: usize, kind: impl Fn(&T) -> String) -> Vec<T> {
    let mut kinds: BTreeMap<String, VecDeque<usize>> = BTreeMap::new();
    for (i, item) in items.iter().enumerate() {
        kinds.entry(kind(item)).or_default().push_back(i);
    }
    let mut chosen = std::collections::BTreeSet::new();
    while chosen.len() < max && !kinds.is_empty() {
        for waiting in kinds.values_mut() {
            if chosen.len() < max {
                chosen.extend(waiting.pop_front());
            }
        }
        kinds.retain(|_, waiting| !waiting.is_empty());
    }
    items.into_iter().enumerate().filter(|(i, _)| chosen.contains(i)).map(|(_, item)| item).collect()
}

/// What a replay has shown.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    pub figures: Metrics,
    /// Indexes of the parts that are lost, and of those that are new alarms.
    pub lost: Vec<usize>,
    pub alarms: Vec<usize>,
    /// What does not hold; empty: the gate holds.
    pub failed: Vec<String>,
}

/// Judges the replay of all parts of a sample by their new inspections.
pub fn judge(rules: &[GateRule], pipeline: &Pipeline, replayed: &[(Part, Inspection)]) -> Outcome {
    let pairs: Vec<_> = replayed.iter().map(|(part, inspection)| (&part.truth, inspection)).collect();
    let figures = score::score(&pairs, &Asked::of(pipeline));
    let passes = |verdict: &Verdict| matches!(verdict, Verdict::Pass);
    let those = |is: &dyn Fn(&Part, bool) -> bool| {
        let all = replayed.iter().enumerate();
        all.filter(|(_, (part, now))| is(part, passes(&now.verdict))).map(|(i, _)| i).collect::<Vec<_>>()
    };
    let lost = those(&|part, now| part.decided == Decided::Fail && !passes(&part.was) && now);
    let alarms = those(&|part, now| part.decided == Decided::Pass && passes(&part.was) && !now);
    let mut failed = vec![];
    let unjudged = replayed.iter().filter(|(_, inspection)| is_unjudged(inspection));
    if let Some((part, inspection)) = unjudged.clone().next() {
        let reason = inspection.verdict.reason().map_or_else(String::new, ToString::to_string);
        failed.push(format!(
            "{} of {} parts were not judged; the first is {}: {reason}",
            unjudged.count(),
            replayed.len(),
            part.id
        ));
    }
    let json = serde_json::to_value(&figures).unwrap_or_default();
    for rule in rules {
        if lost.len() > rule.lost_max {
            failed.push(format!(
                "confirmed defective parts that pass now: {}, at most {} may",
                lost.len(),
                rule.lost_max
            ));
        }
        if let Some(most) = rule.alarms_max.filter(|most| alarms.len() > *most) {
            failed.push(format!(
                "confirmed good parts that do not pass any more: {}, at most {most} may",
                alarms.len()
            ));
        }
        for text in &rule.require {
            match text.parse::<Assertion>() {
                Ok(assertion) => {
                    let outcome = assertion.check(&json);
                    if !outcome.holds {
                        failed.push(outcome.text);
                    }
                }
                Err(error) => failed.push(format!("require {text:?}: {error}")),
            }
        }
    }
    failed.dedup();
    Outcome { figures, lost, alarms, failed }
}

/// The figures that a gate requires are figures of this recipe.
///
/// # Errors
/// The entry that names none, and why.
pub fn check(pipeline: &Pipeline) -> Result<(), String> {
    let Some(rule) = &pipeline.gate else { return Ok(()) };
    if pipeline.clip.is_some() {
        return Err(
            "[gate]: this recipe asks about clips, and of confirmed parts single pictures are kept".into()
        );
    }
    let empty = serde_json::to_value(score::score(&[], &Asked::of(pipeline))).unwrap_or_default();
    for text in &rule.require {
        let assertion: Assertion = text.parse().map_err(|e| format!("gate.require = {text:?}: {e}"))?;
        assertion.find(&empty).map_err(|e| format!("gate.require = {text:?}: {e}"))?;
    }
    Ok(())
}

/// A fault of the station, not a judgement of the part.
fn is_unjudged(inspection: &Inspection) -> bool {
    let fault = |reason: &Reason| {
        matches!(reason, Reason::Engine { .. } | Reason::MissingTile { .. } | Reason::Deadline { .. })
    };
    inspection.verdict.reason().is_some_and(fault)
}
