//! Grades and the verdict: what happens to the part.
//!
//! ```text
//! Merged --first rule that matches--> Finding with its Grade --+
//! faults, elapsed time ----------------------------------------+--verdict--> (Grade, Verdict)
//! TextLines ---------------------------------------------------+
//! ```
//!
//! Precedence, from the top; the first that applies decides:
//!
//! ```text
//!  1  a fault (engine, unparsable, missing tile, frame, full queue)         Review(the fault)
//!  2  a number that is not finite, or a confidence outside 0..=1            Review(engine)
//!  3  later than the deadline                                               Review(deadline)
//!  4  a sure finding at `fail_at` or worse                                  Fail(finding)
//!  5  a sure line that differs from what was expected                       Fail(text_mismatch)
//!  6  an unsure one, in a part whose score is over `fail_above_score`        Fail(finding)
//!  7  an unsure finding at `fail_at` or worse                               Review(low_confidence)
//!  8  a line that differs but is unsure, or was expected and not read       Review(text_uncertain)
//!  9  a line that keeps its rules but is unsure, with nothing to equal      Review(low_confidence)
//! 10  a tile in which there may be something beside what was found          Review(low_confidence)
//! 11  a part whose score is over `review_above_score`                       Review(low_confidence)
//! 12  everything else                                                       Pass
//! ```
//!
//! Sure means: as confident as `review_below_confidence` or more. Faults come before failures: a
//! verdict of half an inspection would be a guess, and a person looks at reviews anyway. Findings
//! below `fail_at` (cosmetic ones) never stop a part, however unsure. A line that equals its one
//! expected string needs no confidence, because a misreading does not spell the right text; a line
//! that is only held to a rule (9) may be misread into another valid one. A line of confidence 0 could
//! not be judged (`expect`), and is never sure, whatever the limit. The score decides last: it only ever takes a part
//! out of those that would pass, and makes a fail only of a finding that fails.
//! There is no path from a fault, a late answer or a doubt to a pass.

use super::merge::Merged;
use crate::domain::finding::Finding;
use crate::domain::grade::{Grade, Reason, Verdict};
use crate::domain::pipeline::{GradeRule, VerdictRule};
use crate::domain::text::TextLine;
use std::time::Duration;

/// The grade of one defect: that of the first rule whose conditions all hold; `Reject` without one,
/// because a defect that nobody wrote a rule for must not pass unseen.
fn grade_of(found: &Merged, rules: &[&GradeRule]) -> Grade {
    rules.iter().find(|rule| holds(rule, found)).map_or(Grade::Reject, |rule| rule.grade)
}

/// Grades all defects of a part, in their order. A rule about their number grades all that it matches, or none.
pub(super) fn grade_all(found: Vec<Merged>, rules: &[GradeRule]) -> Vec<Finding> {
    let enough = |rule: &&GradeRule| {
        let count = || found.iter().filter(|one| holds(rule, one)).count();
        rule.count_over.is_none_or(|limit| count() > limit)
    };
    let rules: Vec<&GradeRule> = rules.iter().filter(enough).collect();
    found
        .into_iter()
        .map(|one| {
            let grade = grade_of(&one, &rules);
            one.graded(grade)
        })
        .collect()
}

/// True when every condition of the rule that is about one finding holds. A measure that is not a number holds no condition.
fn holds(rule: &GradeRule, found: &Merged) -> bool {
    rule.label.as_ref().is_none_or(|label| *label == found.label)
        && rule.severity.is_none_or(|severity| severity == found.severity)
        && rule.longest_mm_over.is_none_or(|limit| found.longest_mm > limit)
        && rule.area_mm2_over.is_none_or(|limit| found.area_mm2 > limit)
}

/// What a verdict is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Evidence<'a> {
    pub findings: &'a [Finding],
    pub texts: &'a [TextLine],
    /// How sure the model is that nothing is there beside what it found: the lowest probability among the tiles,
    /// those with findings too (a cosmetic or masked one explains itself and nothing else); 1 when there are none.
    pub clean: f32,
    /// How likely the part is defective, 0..=1.
    pub score: f32,
    /// Everything that went wrong, the gravest first.
    pub faults: &'a [Reason],
    /// Every planned tile was inspected. A late inspection that was stopped has no fault for the tiles that it left out.
    pub whole: bool,
    /// From the exposure.
    pub elapsed: Duration,
}

/// The grade of the part (the worst of its findings, `Ok` without any) and what happens to it.
///
/// What was not inspected is graded `Reject`, as a defect is that nobody wrote a rule for: `Ok` says that somebody
/// looked.
///
/// The module's header gives the precedence. A trigger's own deadline is put into `rule` by the caller.
pub(super) fn verdict(evidence: &Evidence<'_>, rule: &VerdictRule) -> (Grade, Verdict) {
    let Evidence { findings, texts, clean, score, faults, whole, elapsed } = *evidence;
    let broken = broken_number(evidence, rule);
    let is_inspected = whole && faults.is_empty() && broken.is_none();
    let worst_found = findings.iter().map(|finding| finding.grade).max().unwrap_or(Grade::Ok);
    let grade = if is_inspected { worst_found } else { Grade::Reject };
    let review = [faults.first().cloned(), broken, lateness(rule, elapsed)];
    if let Some(reason) = review.into_iter().flatten().next() {
        return (grade, Verdict::Review(reason));
    }
    let sure = |confidence: f32| confidence >= rule.review_below_confidence;
    let failing: Vec<&Finding> = findings.iter().filter(|finding| finding.grade >= rule.fail_at).collect();
    let sure_finding = worst(failing.iter().copied().filter(|finding| sure(finding.confidence)));
    if let Some(finding) = sure_finding {
        return (grade, Verdict::Fail(Reason::Finding { label: finding.label.clone() }));
    }
    let wrong = |line: &&TextLine| line.matches == Some(false);
    let read_surely =
        |line: &&TextLine| line.read.is_some() && line.confidence > 0.0 && sure(line.confidence);
    if let Some(line) = texts.iter().filter(wrong).find(read_surely) {
        let reason = Reason::TextMismatch { prompt: line.prompt.clone(), line: line.line };
        return (grade, Verdict::Fail(reason));
    }
    if let Some(finding) = worst(failing.into_iter()) {
        if rule.fail_above_score.is_some_and(|limit| score > limit) {
            return (grade, Verdict::Fail(Reason::Finding { label: finding.label.clone() }));
        }
        let reason = Reason::LowConfidence { what: finding.label.clone(), confidence: finding.confidence };
        return (grade, Verdict::Review(reason));
    }
    if let Some(line) = texts.iter().find(wrong) {
        let reason = Reason::TextUncertain { prompt: line.prompt.clone(), line: line.line };
        return (grade, Verdict::Review(reason));
    }
    let unproven = |line: &&TextLine| line.matches == Some(true) && line.expected.is_none();
    if let Some(line) = texts.iter().filter(unproven).find(|line| !sure(line.confidence)) {
        let what = format!("{} line {}", line.prompt, line.line);
        return (grade, Verdict::Review(Reason::LowConfidence { what, confidence: line.confidence }));
    }
    (grade, cleared(clean, score, rule))
}

/// The verdict on a part of which nothing that was found or read is against it.
fn cleared(clean: f32, score: f32, rule: &VerdictRule) -> Verdict {
    let unsure = |what: &str, confidence| Reason::LowConfidence { what: what.to_owned(), confidence };
    if clean < rule.review_below_confidence {
        Verdict::Review(unsure("nothing else in the tiles", clean))
    } else if rule.review_above_score.is_some_and(|limit| score > limit) {
        Verdict::Review(unsure(Reason::SCORE, 1.0 - score))
    } else {
        Verdict::Pass
    }
}

/// The finding that a person should hear of: the worst grade, then the surest.
fn worst<'a>(findings: impl Iterator<Item = &'a Finding>) -> Option<&'a Finding> {
    // `max_by` gives the last of equals; reversed, the first in reading order.
    findings
        .collect::<Vec<_>>()
        .into_iter()
        .rev()
        .max_by(|a, b| a.grade.cmp(&b.grade).then(a.confidence.total_cmp(&b.confidence)))
}

/// A number that no comparison can be trusted with.
fn broken_number(evidence: &Evidence<'_>, rule: &VerdictRule) -> Option<Reason> {
    let Evidence { findings, texts, clean, score, .. } = *evidence;
    let limits = [rule.review_above_score, rule.fail_above_score];
    let confidence_ok = |confidence: f32| (0.0..=1.0).contains(&confidence);
    let message = if let Some(bad) = findings.iter().find(|f| !confidence_ok(f.confidence)) {
        format!("confidence {} of {}", bad.confidence, bad.label)
    } else if let Some(bad) = findings.iter().find(|f| !(f.longest_mm.is_finite() && f.area_mm2.is_finite()))
    {
        format!("size {} mm, {} mm2 of {}", bad.longest_mm, bad.area_mm2, bad.label)
    } else if let Some(bad) = texts.iter().find(|t| !confidence_ok(t.confidence)) {
        format!("confidence {} of {} line {}", bad.confidence, bad.prompt, bad.line)
    } else if !confidence_ok(clean) {
        format!("probability {clean} of a clean tile")
    } else if limits.iter().any(Option::is_some) && !confidence_ok(score) {
        format!("score {score} of the part")
    } else if rule.review_below_confidence.is_nan() {
        "review_below_confidence is not a number".to_owned()
    } else if limits.into_iter().flatten().any(f32::is_nan) {
        "a limit on the score is not a number".to_owned()
    } else {
        return None;
    };
    Some(Reason::Engine { message })
}

fn lateness(rule: &VerdictRule, elapsed: Duration) -> Option<Reason> {
    let late = elapsed.checked_sub(rule.deadline).filter(|late| !late.is_zero())?;
    let late_ms = u64::try_from(late.as_millis()).unwrap_or(u64::MAX);
    Some(Reason::Deadline { late_ms })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A verdict on surely clean tiles.
    fn decide(
        findings: &[Finding],
        texts: &[TextLine],
        rule: &VerdictRule,
        faults: &[Reason],
        elapsed: Duration,
    ) -> (Grade, Verdict) {
        super::verdict(
            &Evidence { findings, texts, clean: 1.0, score: 0.0, faults, whole: true, elapsed },
            rule,
        )
    }
    use crate::domain::grade::Severity;
    use crate::domain::rect::BoxPx;
    use proptest::prelude::*;

    const RULE: VerdictRule = VerdictRule {
        fail_at: Grade::Reject,
        review_below_confidence: 0.6,
        ignore_below_confidence: 0.0,
        review_above_score: None,
        fail_above_score: None,
        deadline: Duration::from_secs(8),
    };
    const NO_CONDITION: GradeRule = GradeRule {
        count_over: None,
        label: None,
        severity: None,
        longest_mm_over: None,
        area_mm2_over: None,
        grade: Grade::Ok,
    };

    fn found(label: &str, severity: Severity, longest_mm: f64) -> Merged {
        let bbox_px = BoxPx::new(0.0, 0.0, 10.0, 10.0);
        let area_mm2 = longest_mm * 2.0;
        Merged { label: label.to_owned(), severity, bbox_px, longest_mm, area_mm2, confidence: 0.9 }
    }

    fn finding(label: &str, grade: Grade, confidence: f32) -> Finding {
        Merged { confidence, ..found(label, Severity::Major, 1.0) }.graded(grade)
    }

    fn line(matches: Option<bool>, read: Option<&str>, expected: Option<&str>, confidence: f32) -> TextLine {
        TextLine {
            prompt: "nameplate".to_owned(),
            line: 2,
            read: read.map(str::to_owned),
            expected: expected.map(str::to_owned),
            matches,
            mismatches: vec![],
            confidence,
        }
    }

    fn judge(findings: &[Finding], texts: &[TextLine]) -> Verdict {
        decide(findings, texts, &RULE, &[], Duration::from_millis(100)).1
    }

    #[test]
    fn the_first_rule_that_matches_grades() {
        let rules = [
            GradeRule {
                label: Some("scratch".to_owned()),
                longest_mm_over: Some(5.0),
                grade: Grade::Reject,
                ..NO_CONDITION
            },
            GradeRule { severity: Some(Severity::Minor), grade: Grade::Cosmetic, ..NO_CONDITION },
            GradeRule { area_mm2_over: Some(50.0), grade: Grade::Rework, ..NO_CONDITION },
        ];
        let grade = |one: Merged| grade_all(vec![one], &rules)[0].grade;
        assert_eq!(grade(found("scratch", Severity::Minor, 5.1)), Grade::Reject);
        assert_eq!(grade(found("scratch", Severity::Minor, 5.0)), Grade::Cosmetic);
        assert_eq!(grade(found("pit", Severity::Minor, 90.0)), Grade::Cosmetic);
        assert_eq!(grade(found("pit", Severity::Major, 26.0)), Grade::Rework);
        assert_eq!(grade(found("pit", Severity::Major, 25.0)), Grade::Reject, "no rule");
        assert_eq!(grade(found("scratch", Severity::Major, f64::NAN)), Grade::Reject);
        let graded = grade_all(vec![found("pit", Severity::Minor, 1.0)], &rules);
        assert_eq!((graded[0].label.as_str(), graded[0].grade), ("pit", Grade::Cosmetic));
    }

    #[test]
    fn three_small_pits_are_a_reject_and_two_are_not() {
        let pits =
            GradeRule { label: Some("pit".to_owned()), severity: Some(Severity::Minor), ..NO_CONDITION };
        let rules = [
            GradeRule { count_over: Some(2), grade: Grade::Reject, ..pits.clone() },
            GradeRule { grade: Grade::Cosmetic, ..pits },
        ];
        let part = |small: usize| -> Vec<Grade> {
            let others = [found("pit", Severity::Major, 1.0), found("dent", Severity::Minor, 1.0)];
            let pits = (0..small).map(|_| found("pit", Severity::Minor, 1.0));
            grade_all(pits.chain(others).collect(), &rules).iter().map(|f| f.grade).collect()
        };
        // The large pit and the dent are no small pits; nobody wrote a rule for them.
        assert_eq!(part(2), [Grade::Cosmetic, Grade::Cosmetic, Grade::Reject, Grade::Reject]);
        assert_eq!(part(3), [Grade::Reject; 5]);
    }

    #[test]
    fn nothing_found_and_nothing_wrong_passes() {
        assert_eq!(decide(&[], &[], &RULE, &[], RULE.deadline), (Grade::Ok, Verdict::Pass));
        let texts = [line(None, Some("x"), None, 0.1), line(Some(true), Some("x"), Some("x"), 0.1)];
        assert_eq!(judge(&[], &texts), Verdict::Pass);
    }

    #[test]
    fn a_sure_finding_fails_with_the_worst_and_surest_label() {
        let findings = [
            finding("stain", Grade::Cosmetic, 0.99),
            finding("dent", Grade::Reject, 0.7),
            finding("crack", Grade::Reject, 0.8),
            finding("chip", Grade::Reject, 0.8),
        ];
        let (grade, verdict) = decide(&findings, &[], &RULE, &[], Duration::ZERO);
        assert_eq!(grade, Grade::Reject);
        assert_eq!(verdict, Verdict::Fail(Reason::Finding { label: "crack".to_owned() }));
    }

    #[test]
    fn a_finding_exactly_at_the_threshold_is_sure() {
        assert!(matches!(judge(&[finding("dent", Grade::Reject, 0.6)], &[]), Verdict::Fail(_)));
        assert_eq!(
            judge(&[finding("dent", Grade::Reject, 0.59)], &[]),
            Verdict::Review(Reason::LowConfidence { what: "dent".to_owned(), confidence: 0.59 })
        );
    }

    #[test]
    fn cosmetic_findings_pass_however_unsure() {
        let findings = [finding("stain", Grade::Cosmetic, 0.1), finding("pit", Grade::Rework, 0.9)];
        assert_eq!(decide(&findings, &[], &RULE, &[], Duration::ZERO), (Grade::Rework, Verdict::Pass));
    }

    #[test]
    fn a_line_that_could_not_be_judged_is_reviewed_whatever_the_limit() {
        let texts = [line(Some(false), Some("A"), None, 0.0)];
        let rule = VerdictRule { review_below_confidence: 0.0, ..RULE };
        let verdict = decide(&[], &texts, &rule, &[], Duration::from_millis(100)).1;
        assert!(matches!(verdict, Verdict::Review(Reason::TextUncertain { .. })), "{verdict:?}");
    }

    #[test]
    fn text_fails_when_sure_and_is_reviewed_when_not() {
        let place = |mismatch: bool| {
            let (prompt, line) = ("nameplate".to_owned(), 2);
            if mismatch {
                Verdict::Fail(Reason::TextMismatch { prompt, line })
            } else {
                Verdict::Review(Reason::TextUncertain { prompt, line })
            }
        };
        assert_eq!(judge(&[], &[line(Some(false), Some("A"), Some("B"), 0.9)]), place(true));
        assert_eq!(judge(&[], &[line(Some(false), Some("A"), Some("B"), 0.5)]), place(false));
        assert_eq!(judge(&[], &[line(Some(false), None, Some("B"), 1.0)]), place(false), "not read");
    }

    #[test]
    fn a_line_held_only_to_a_rule_must_be_sure() {
        let what = "nameplate line 2".to_owned();
        assert_eq!(
            judge(&[], &[line(Some(true), Some("A1"), None, 0.5)]),
            Verdict::Review(Reason::LowConfidence { what, confidence: 0.5 })
        );
        assert_eq!(judge(&[], &[line(Some(true), Some("A1"), None, 0.6)]), Verdict::Pass);
    }

    #[test]
    fn a_sure_mismatch_comes_before_an_unsure_finding() {
        let findings = [finding("dent", Grade::Reject, 0.2)];
        let texts = [line(Some(false), Some("A"), Some("B"), 0.9)];
        assert!(matches!(judge(&findings, &texts), Verdict::Fail(Reason::TextMismatch { .. })));
    }

    #[test]
    fn faults_then_broken_numbers_then_lateness_come_first() {
        let sure = [finding("crack", Grade::Reject, 1.0)];
        let nan = [finding("crack", Grade::Reject, f32::NAN)];
        let late = RULE.deadline + Duration::from_millis(250);
        let faults =
            [Reason::MissingTile { inspected: 29, planned: 30 }, Reason::Engine { message: "x".to_owned() }];
        let (_, first) = decide(&nan, &[], &RULE, &faults, late);
        assert_eq!(first, Verdict::Review(faults[0].clone()));
        let (_, second) = decide(&nan, &[], &RULE, &[], late);
        assert!(matches!(second, Verdict::Review(Reason::Engine { .. })), "{second:?}");
        let (grade, third) = decide(&sure, &[], &RULE, &[], late);
        assert_eq!((grade, third), (Grade::Reject, Verdict::Review(Reason::Deadline { late_ms: 250 })));
    }

    #[test]
    fn what_was_not_inspected_is_never_graded_ok() {
        let stain = [finding("stain", Grade::Cosmetic, 0.9)];
        let late = RULE.deadline + Duration::from_millis(1);
        for fault in [
            Reason::QueueFull,
            Reason::Interrupted,
            Reason::Engine { message: "x".to_owned() },
            Reason::MissingTile { inspected: 0, planned: 2 },
        ] {
            for findings in [&[][..], &stain] {
                let (grade, _) = decide(findings, &[], &RULE, std::slice::from_ref(&fault), Duration::ZERO);
                assert_eq!(grade, Grade::Reject, "{fault:?}");
            }
        }
        // Late: what was stopped on the way is not known; what was inspected to its end is.
        let stopped = Evidence {
            findings: &stain,
            texts: &[],
            clean: 1.0,
            score: 0.0,
            faults: &[],
            whole: false,
            elapsed: late,
        };
        assert_eq!(super::verdict(&stopped, &RULE).0, Grade::Reject);
        assert_eq!(super::verdict(&Evidence { whole: true, ..stopped }, &RULE).0, Grade::Cosmetic);
    }

    #[test]
    fn numbers_that_are_none_are_reviewed() {
        let engine = |v: &Verdict| matches!(v, Verdict::Review(Reason::Engine { .. }));
        for bad in [f32::NAN, f32::INFINITY, -0.1, 1.5] {
            assert!(engine(&judge(&[finding("stain", Grade::Ok, bad)], &[])), "{bad}");
            assert!(engine(&judge(&[], &[line(None, Some("x"), None, bad)])), "{bad}");
        }
        let long = Finding { longest_mm: f64::NAN, ..finding("stain", Grade::Ok, 0.9) };
        assert!(engine(&judge(&[long], &[])));
        let rule = VerdictRule { review_below_confidence: f32::NAN, ..RULE };
        assert!(engine(&decide(&[], &[], &rule, &[], Duration::ZERO).1));
    }

    fn any_confidence() -> impl Strategy<Value = f32> {
        prop_oneof![8 => 0.0f32..=1.0, 1 => Just(f32::NAN), 1 => Just(1.5f32)]
    }

    fn any_finding() -> impl Strategy<Value = Finding> {
        (0usize..4, any_confidence()).prop_map(|(g, confidence)| finding("pit", Grade::ALL[g], confidence))
    }

    fn any_line() -> impl Strategy<Value = TextLine> {
        (any::<Option<bool>>(), any::<bool>(), any::<bool>(), any_confidence())
            .prop_map(|(matches, read, one, c)| line(matches, read.then_some("A"), one.then_some("B"), c))
    }

    fn any_fault() -> impl Strategy<Value = Reason> {
        prop_oneof![
            Just(Reason::Engine { message: "panic".to_owned() }),
            Just(Reason::Unparsable { prompt: "surface".to_owned(), tile: 3 }),
            Just(Reason::MissingTile { inspected: 1, planned: 2 }),
            Just(Reason::Frame { message: "roi".to_owned() }),
            Just(Reason::Deadline { late_ms: 1 }),
            Just(Reason::QueueFull),
            Just(Reason::Interrupted),
        ]
    }

    proptest! {
        #[test]
        fn nothing_doubtful_passes(
            findings in proptest::collection::vec(any_finding(), 0..4),
            texts in proptest::collection::vec(any_line(), 0..4),
            faults in proptest::collection::vec(any_fault(), 0..3),
            elapsed_ms in 0u64..10_000,
            fail_at in 0usize..4,
        ) {
            let rule = VerdictRule { fail_at: Grade::ALL[fail_at], ..RULE };
            let elapsed = Duration::from_millis(elapsed_ms);
            let (grade, verdict) = decide(&findings, &texts, &rule, &faults, elapsed);
            prop_assert!(findings.iter().all(|f| f.grade <= grade));
            if !faults.is_empty() || elapsed > rule.deadline {
                prop_assert!(matches!(verdict, Verdict::Review(_)), "{:?}", verdict);
            }
            let defective = findings.iter().any(|f| f.grade >= rule.fail_at);
            let wrong = texts.iter().any(|t| t.matches == Some(false));
            if verdict == Verdict::Pass {
                prop_assert!(!defective && !wrong);
            }
            if let Verdict::Fail(_) = verdict {
                prop_assert!(defective || wrong);
            }
        }
    }

    #[test]
    fn a_tile_that_is_not_surely_clean_is_reviewed() {
        let judge = |clean| {
            let elapsed = Duration::ZERO;
            let evidence =
                Evidence { findings: &[], texts: &[], clean, score: 0.0, faults: &[], whole: true, elapsed };
            super::verdict(&evidence, &RULE).1
        };
        assert_eq!(judge(RULE.review_below_confidence), Verdict::Pass);
        let unsure = judge(RULE.review_below_confidence - 0.01);
        assert!(matches!(unsure, Verdict::Review(Reason::LowConfidence { .. })), "{unsure:?}");
        assert!(matches!(judge(f32::NAN), Verdict::Review(Reason::Engine { .. })));
    }

    /// A verdict on surely clean tiles of a part with this score.
    fn scored(findings: &[Finding], score: f32, limits: [Option<f32>; 2]) -> Verdict {
        let [review_above_score, fail_above_score] = limits;
        let rule = VerdictRule { review_above_score, fail_above_score, ..RULE };
        let elapsed = Duration::ZERO;
        let evidence =
            Evidence { findings, texts: &[], clean: 1.0, score, faults: &[], whole: true, elapsed };
        super::verdict(&evidence, &rule).1
    }

    #[test]
    fn a_score_over_its_limit_takes_a_part_out_of_those_that_pass() {
        let limits = [Some(0.25), Some(0.75)];
        assert_eq!(scored(&[], 0.25, limits), Verdict::Pass);
        let Verdict::Review(reason) = scored(&[], 0.5, limits) else { panic!("it passes") };
        assert!(reason.is_score());
        assert_eq!(reason, Reason::LowConfidence { what: Reason::SCORE.to_owned(), confidence: 0.5 });
        // Nothing fails for its score alone, and nothing passes for it.
        assert!(matches!(scored(&[], 1.0, limits), Verdict::Review(_)));
        let sure = [finding("dent", Grade::Reject, 0.9)];
        assert!(matches!(scored(&sure, 0.0, limits), Verdict::Fail(_)));
        assert_eq!(scored(&[], 1.0, [None, None]), Verdict::Pass);
    }

    #[test]
    fn an_unsure_finding_fails_a_part_whose_score_is_over_the_limit() {
        let limits = [Some(0.25), Some(0.75)];
        let unsure = [finding("dent", Grade::Reject, 0.3)];
        let failed = Verdict::Fail(Reason::Finding { label: "dent".to_owned() });
        assert_eq!(scored(&unsure, 0.8, limits), failed);
        for (score, limits) in [(0.75, limits), (0.8, [Some(0.25), None])] {
            let Verdict::Review(reason) = scored(&unsure, score, limits) else { panic!("{score}") };
            assert!(!reason.is_score(), "{reason}");
        }
        let cosmetic = [finding("stain", Grade::Cosmetic, 0.3)];
        assert!(matches!(scored(&cosmetic, 0.8, limits), Verdict::Review(_)));
    }

    #[test]
    fn a_score_that_is_no_probability_is_reviewed_where_it_decides() {
        for score in [f32::NAN, -0.1, 1.5] {
            let engine = scored(&[], score, [Some(0.5), None]);
            assert!(matches!(engine, Verdict::Review(Reason::Engine { .. })), "{engine:?}");
            let engine = scored(&[], score, [None, Some(0.5)]);
            assert!(matches!(engine, Verdict::Review(Reason::Engine { .. })), "{engine:?}");
        }
        let engine = scored(&[], 0.1, [Some(f32::NAN), None]);
        assert!(matches!(engine, Verdict::Review(Reason::Engine { .. })), "{engine:?}");
    }
}
