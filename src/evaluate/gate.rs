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
//! - Figures of boxes count the boxes that a person drew or corrected. Where a person left the model's own box, the part
//!   counts for the image alone: a model that is scored by its own boxes is always right.
//! - What skipped tiles may have lost counts every confirmed box: that the defect is there is a person's word.

use super::own_word::forget_models_boxes;
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
pub(crate) struct Part {
    /// Id of its inspection.
    pub id: String,
    pub decided: Decided,
    /// The verdict of its record.
    pub was: Verdict,
    pub truth: Truth,
}

impl Part {
    /// What is known of a part after a person's decision; `size` is that of its picture, in pixels.
    pub(crate) fn new(inspection: &Inspection, review: &Review, size: (u32, u32)) -> Self {
        let good = review.verdict == Some(Decided::Pass);
        let drawn = review.findings.as_ref().map(|findings| {
            let of = |b: &crate::domain::review::OperatorBox| TrueDefect {
                label: b.label.clone(),
                bbox_px: Some(b.bbox_px),
                severity: Some(b.severity),
                box_is_models: b.is_left(&inspection.findings),
            };
            findings.iter().map(of).collect()
        });
        let found = || {
            let of = |f: &crate::domain::finding::Finding| TrueDefect {
                label: f.label.clone(),
                bbox_px: Some(f.bbox_px),
                severity: Some(f.severity),
                box_is_models: true,
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
                part_id: inspection.trigger.part_id.clone(),
                lot: inspection.trigger.lot.clone(),
                is_models: false,
                texts_are_models: false,
            },
        }
    }

    /// A part that a person has called good; `size` is that of its picture, in pixels.
    pub(crate) fn good(inspection: &Inspection, size: (u32, u32)) -> Self {
        let truth = Truth {
            file: inspection.id.clone(),
            width: size.0,
            height: size.1,
            defects: vec![],
            texts: vec![],
            good: Some(true),
            rois: BTreeMap::new(),
            part_id: None,
            lot: None,
            is_models: false,
            texts_are_models: false,
        };
        Self { id: inspection.id.clone(), decided: Decided::Pass, was: inspection.verdict.clone(), truth }
    }

    /// What kind of part it is: good, or defective with its first label.
    pub(crate) fn kind(&self) -> String {
        match (self.decided, self.truth.defects.first()) {
            (Decided::Pass, _) => "good".to_owned(),
            (Decided::Fail, Some(defect)) => format!("defective: {}", defect.label),
            (Decided::Fail, None) => "defective".to_owned(),
        }
    }
}

/// Chooses at most `max` items: of every kind in turn, of each kind the first ones first. Returned in the order of
/// `items`.
pub(crate) fn stratified<T>(items: Vec<T>, max: usize, kind: impl Fn(&T) -> String) -> Vec<T> {
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
pub(crate) struct Outcome {
    pub figures: Metrics,
    /// Indexes of the parts that are lost, and of those that are new alarms.
    pub lost: Vec<usize>,
    pub alarms: Vec<usize>,
    /// What does not hold; empty: the gate holds.
    pub failed: Vec<String>,
}

/// Judges the replay of all parts of a sample by their new inspections.
pub(crate) fn judge(rules: &[GateRule], pipeline: &Pipeline, replayed: &[(Part, Inspection)]) -> Outcome {
    let of_people = |part: &Part| {
        let mut truth = part.truth.clone();
        forget_models_boxes(&mut truth);
        truth
    };
    let truths: Vec<Truth> = replayed.iter().map(|(part, _)| of_people(part)).collect();
    let pairs: Vec<_> = truths.iter().zip(replayed.iter().map(|(_, inspection)| inspection)).collect();
    let mut figures = score::score(&pairs, &Asked::of(pipeline));
    if let Some(skipped) = &mut figures.skipped {
        *skipped = score::skipped::score(replayed.iter().map(|(part, now)| (&part.truth, now)));
    }
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

/// What a gate is not shown: the parts of a kind that people have confirmed are all of another size than the recipe's
/// frames. `other`: those of another size, `replayed`: those that were judged.
pub(crate) fn unshown(other: &[Decided], replayed: &[Decided]) -> Vec<String> {
    let count = |all: &[Decided], kind| all.iter().filter(|decided| **decided == kind).count();
    let of_kind = |(kind, word)| {
        let left_out = count(other, kind);
        (left_out > 0 && count(replayed, kind) == 0).then(|| {
            format!("no confirmed {word} part has the size of the recipe's frames: {left_out} of another size were left out")
        })
    };
    [(Decided::Pass, "good"), (Decided::Fail, "defective")].into_iter().filter_map(of_kind).collect()
}

/// The figures that a gate requires are figures of this recipe.
///
/// # Errors
/// The entry that names none, and why.
pub(crate) fn check(pipeline: &Pipeline) -> Result<(), String> {
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

/// A fault of the station, or a picture that the recipe does not fit: no judgement of the part.
pub(crate) fn is_unjudged(inspection: &Inspection) -> bool {
    let fault = |reason: &Reason| match reason {
        Reason::Engine { .. }
        | Reason::MissingTile { .. }
        | Reason::Deadline { .. }
        | Reason::Frame { .. }
        | Reason::QueueFull
        | Reason::Interrupted => true,
        Reason::Finding { .. }
        | Reason::TextMismatch { .. }
        | Reason::TextUncertain { .. }
        | Reason::LowConfidence { .. }
        | Reason::Unparsable { .. } => false,
    };
    inspection.verdict.reason().is_some_and(fault)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::grade::Severity;
    use crate::domain::inspection::SkippedTile;
    use crate::domain::rect::{BoxPx, Rect};
    use crate::domain::review::{OperatorBox, ReviewKind};
    use crate::evaluate::score::tests::{finding, inspection};
    use crate::recipe::beside::Files;
    use crate::recipe::learned::pipeline_to_learn;
    use crate::recipe::pipeline_from_str;
    use std::time::SystemTime;

    const RULE: GateRule = GateRule { parts_max: 200, lost_max: 0, alarms_max: None, require: vec![] };

    fn recipe(gate: &str) -> Pipeline {
        let text = include_str!("../../tests/common/scripted.toml");
        pipeline_from_str("scripted.toml", &format!("{text}\n{gate}")).unwrap()
    }

    fn verdict(word: &str) -> Verdict {
        match word {
            "pass" => Verdict::Pass,
            "fail" => Verdict::Fail(Reason::Finding { label: "pit".into() }),
            "unsure" => Verdict::Review(Reason::LowConfidence { what: "pit".into(), confidence: 0.3 }),
            "lost engine" => Verdict::Review(Reason::Engine { message: "it was lost".into() }),
            "wrong size" => Verdict::Review(Reason::Frame { message: "it does not fit".into() }),
            "not whole" => Verdict::Review(Reason::MissingTile { inspected: 1, planned: 2 }),
            "late" => Verdict::Review(Reason::Deadline { late_ms: 5 }),
            other => panic!("{other}"),
        }
    }

    /// A part that people decided about so, whose record said `was`, and that a new version judges as `now`.
    fn part(decided: Decided, was: &str, now: &str) -> (Part, Inspection) {
        let good = decided == Decided::Pass;
        let pit = TrueDefect { label: "pit".into(), bbox_px: None, severity: None, box_is_models: false };
        let truth = Truth {
            file: format!("{was} {now}"),
            width: 64,
            height: 48,
            defects: if good { vec![] } else { vec![pit] },
            texts: vec![],
            good: Some(good),
            rois: BTreeMap::new(),
            part_id: None,
            lot: None,
            is_models: false,
            texts_are_models: false,
        };
        let part = Part { id: format!("{decided:?} {was} {now}"), decided, was: verdict(was), truth };
        let mut inspection = inspection();
        inspection.verdict = verdict(now);
        if now == "fail" {
            inspection.findings = vec![finding("pit", [10.0, 10.0, 20.0, 20.0], 0.8)];
            inspection.score = 0.9;
        }
        (part, inspection)
    }

    #[test]
    fn lost_and_alarms_are_what_has_changed_for_the_worse() {
        use Decided::{Fail, Pass};
        let replayed = [
            part(Fail, "fail", "fail"),
            part(Fail, "fail", "pass"),
            part(Fail, "unsure", "pass"),
            part(Fail, "fail", "unsure"),
            // Nobody found it before, either.
            part(Fail, "pass", "pass"),
            part(Pass, "pass", "pass"),
            part(Pass, "pass", "fail"),
            part(Pass, "pass", "unsure"),
            part(Pass, "fail", "fail"),
        ];
        let outcome = judge(&[RULE], &recipe(""), &replayed);
        assert_eq!((outcome.lost, outcome.alarms), (vec![1, 2], vec![6, 7]));
        assert_eq!(outcome.failed, ["confirmed defective parts that pass now: 2, at most 0 may"]);

        let lenient = GateRule { lost_max: 2, alarms_max: Some(2), ..RULE };
        assert_eq!(judge(std::slice::from_ref(&lenient), &recipe(""), &replayed).failed, [""; 0]);
        let both = [lenient, GateRule { lost_max: 2, alarms_max: Some(1), ..RULE }];
        let failed = judge(&both, &recipe(""), &replayed).failed;
        assert_eq!(
            failed,
            ["confirmed good parts that do not pass any more: 2, at most 1 may"],
            "both must hold"
        );
    }

    #[test]
    fn a_part_that_was_not_judged_never_holds_a_gate() {
        for now in ["lost engine", "wrong size", "not whole", "late"] {
            for decided in Decided::ALL {
                let replayed = [part(decided, "fail", "fail"), part(decided, "fail", now)];
                let failed = judge(&[GateRule { lost_max: 9, ..RULE }], &recipe(""), &replayed).failed;
                assert!(
                    failed.len() == 1 && failed[0].starts_with("1 of 2 parts were not judged"),
                    "{failed:?}"
                );
            }
        }
    }

    #[test]
    fn a_gate_is_not_shown_a_kind_of_parts_that_are_all_of_another_size() {
        use Decided::{Fail, Pass};
        assert_eq!(unshown(&[], &[]), [""; 0], "where nothing was confirmed there is nothing to show");
        assert_eq!(unshown(&[Pass, Fail, Fail], &[Pass, Fail]), [""; 0]);
        let words = |word: &str, count: usize| {
            format!(
                "no confirmed {word} part has the size of the recipe's frames: {count} of another size were left out"
            )
        };
        assert_eq!(unshown(&[Fail, Pass, Fail], &[Pass]), [words("defective", 2)]);
        assert_eq!(unshown(&[Fail, Pass], &[]), [words("good", 1), words("defective", 1)]);
    }

    #[test]
    fn figures_are_required_and_one_without_cases_does_not_hold() {
        let rule = |text: &str| GateRule { require: vec![text.to_owned()], lost_max: 9, ..RULE };
        let half = [part(Decided::Fail, "fail", "fail"), part(Decided::Fail, "fail", "pass")];
        for (text, holds) in
            [("image.recall >= 0.5", true), ("image.recall >= 0.51", false), ("images == 2", true)]
        {
            assert_eq!(judge(&[rule(text)], &recipe(""), &half).failed.is_empty(), holds, "{text}");
        }
        let none = judge(&[rule("image.recall >= 0.5")], &recipe(""), &[]).failed;
        assert!(none[0].contains("there was no case"), "{none:?}");
    }

    /// The decision of a person who has these boxes; `None`: says nothing of boxes.
    fn review(findings: Option<Vec<OperatorBox>>) -> Review {
        Review {
            seq: 1,
            at: SystemTime::UNIX_EPOCH,
            actor: "anna".into(),
            inspection_id: inspection().id,
            inspection_seq: 1,
            record_sha256: String::new(),
            kind: ReviewKind::Confirm,
            model_verdict: "fail".into(),
            verdict: Some(Decided::Fail),
            reason: String::new(),
            note: String::new(),
            findings,
            texts: None,
            supersedes: None,
            restores: None,
            picture: None,
            hash: String::new(),
        }
    }

    /// Three parts with the same pit of the model, which finds each again: one confirmed without a word about boxes, one
    /// saved with the model's box as it was, one whose box a person has moved by some pixels.
    #[test]
    fn the_boxes_that_the_model_drew_itself_are_not_scored() {
        let at = [10.0, 10.0, 20.0, 20.0];
        let mut found = inspection();
        (found.verdict, found.score) = (verdict("fail"), 0.9);
        found.findings = vec![finding("pit", at, 0.8)];
        let drawn = |dx: f32| OperatorBox {
            label: "pit".into(),
            severity: Severity::Minor,
            bbox_px: BoxPx::new(at[0] + dx, at[1], at[2] + dx, at[3]),
        };
        let of = |findings| (Part::new(&found, &review(findings), (64, 48)), found.clone());
        let own = [of(None), of(Some(vec![drawn(0.3)]))];
        let scored = |replayed: &[(Part, Inspection)]| judge(&[RULE], &recipe(""), replayed).figures;
        let figures = scored(&own);
        let pit = &figures.labels["pit"];
        assert_eq!((pit.tp, pit.fp, pit.missed, figures.micro.recall), (0, 0, 0, None), "{figures:?}");
        assert_eq!((figures.image.defective, figures.image.recall), (2, Some(1.0)), "a person's word");
        let [first, second] = own;
        let figures = scored(&[first, second, of(Some(vec![drawn(2.0)]))]);
        let pit = &figures.labels["pit"];
        assert_eq!((pit.tp, pit.fp, pit.missed), (1, 0, 0), "the corrected one alone");
        assert_eq!(figures.image.defective, 3);
    }

    /// A recipe whose question is skipped where a bank is sure, with this gate.
    fn skipping(gate: &str) -> Pipeline {
        let text = include_str!("../../tests/common/scripted.toml");
        let text = format!(
            "{text}skip = {{ by = \"good\", below = 0.2 }}\n[[prompt]]\nid = \"good\"\nkind = \"reference\"\nfeatures = \"backbone\"\nbank = \"s.bank\"\n{gate}"
        );
        pipeline_to_learn("scripted.toml", &text, &Files::new()).unwrap()
    }

    #[test]
    fn a_gate_bounds_what_skipped_tiles_may_have_lost() {
        let at = [10.0, 10.0, 20.0, 20.0];
        let mut found = inspection();
        (found.verdict, found.score) = (verdict("fail"), 0.9);
        found.findings = vec![finding("pit", at, 0.8)];
        let part = Part::new(&found, &review(None), (64, 48));
        assert!(part.truth.defects[0].box_is_models, "a person has confirmed the model's own box");
        let skipped = SkippedTile {
            prompt: "surface".into(),
            tile: 0,
            rect: Rect::new(0, 0, 32, 48),
            by: "good".into(),
            doubt: 0.1,
            below: 0.2,
        };
        let lost = Inspection { findings: vec![], skipped: vec![skipped], ..found.clone() };
        let pipeline = skipping("");
        let rule = GateRule { require: vec!["skipped.lost <= 0".into()], lost_max: 9, ..RULE };
        let judged =
            |now: &Inspection| judge(std::slice::from_ref(&rule), &pipeline, &[(part.clone(), now.clone())]);
        let outcome = judged(&lost);
        assert_eq!(outcome.failed.len(), 1, "{:?}", outcome.failed);
        assert!(outcome.failed[0].contains("skipped.lost"), "{:?}", outcome.failed);
        let figures = outcome.figures.skipped.unwrap();
        assert_eq!((figures.tiles, figures.lost), (1, 1));
        assert_eq!((&figures.lost_defects[0].file, figures.lost_defects[0].bbox), (&found.id, Some(at)));
        // Found all the same, by whatever was asked.
        let again = Inspection { findings: found.findings.clone(), ..lost };
        assert_eq!(judged(&again).failed, [""; 0]);

        assert_eq!(check(&skipping("[gate]\nrequire = [\"skipped.lost <= 0\"]\n")), Ok(()));
        let without = check(&recipe("[gate]\nrequire = [\"skipped.lost <= 0\"]\n")).unwrap_err();
        assert!(without.contains("skipped.lost"), "{without}");
    }

    #[test]
    fn a_gate_is_checked_before_a_replay() {
        assert_eq!(check(&recipe("")), Ok(()));
        assert_eq!(check(&recipe("[gate]\nrequire = [\"labels.pit.recall >= 0.9\"]")), Ok(()));
        let unknown = check(&recipe("[gate]\nrequire = [\"labels.dent.recall >= 0.9\"]")).unwrap_err();
        assert!(
            unknown.contains("labels.dent.recall") && unknown.contains("`dent` is not among"),
            "{unknown}"
        );
        let text = include_str!("../../tests/common/scripted.toml");
        let wrong =
            pipeline_from_str("p.toml", &format!("{text}\n[gate]\nrequire = [\"recall\"]\nparts_max = 0\n"));
        let wrong = wrong.unwrap_err().to_string();
        assert!(wrong.contains("no operator in `recall`") && wrong.contains("gate.parts_max = 0"), "{wrong}");
    }

    #[test]
    fn a_sample_takes_every_kind_in_turn_the_first_ones_first() {
        let items = ["good", "good", "good", "good", "pit", "dent", "pit"];
        let items: Vec<(usize, &str)> = items.into_iter().enumerate().collect();
        let chosen = |max| -> Vec<usize> {
            stratified(items.clone(), max, |(_, kind)| (*kind).to_owned())
                .into_iter()
                .map(|(i, _)| i)
                .collect()
        };
        assert_eq!(chosen(0), [0; 0]);
        assert_eq!(chosen(3), [0, 4, 5]);
        assert_eq!(chosen(5), [0, 1, 4, 5, 6]);
        assert_eq!(chosen(99), [0, 1, 2, 3, 4, 5, 6]);
    }
}
