//! The promise is kept on archives of which everything is known, and what proves nothing says so.

use super::*;
use crate::domain::grade::Grade;
use crate::domain::promise::PromiseRule;
use crate::evaluate::score::tests::{finding, inspection};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const WANTED: Wanted = Wanted { promise: PromiseRule { escape: 0.05, confidence: 0.95 }, false_fail: 0.05 };

const RULE: VerdictRule = VerdictRule {
    fail_at: Grade::Reject,
    review_below_confidence: 0.6,
    ignore_below_confidence: 0.0,
    review_above_score: None,
    fail_above_score: None,
    deadline: std::time::Duration::from_secs(8),
};

/// A part that nothing but its score speaks against.
fn case(defective: bool, score: f32) -> Case {
    Case { defective, score, passes: true, fails: Fails::Never }
}

/// A defective part: P(score <= t) is t³.
fn defective(rng: &mut ChaCha8Rng) -> Case {
    case(true, rng.gen_range(0.0_f64..1.0).cbrt() as f32)
}

/// A good part: P(score > t) is (1 - t)⁴. The score alone fails it.
fn good(rng: &mut ChaCha8Rng) -> Case {
    let score = (1.0 - rng.gen_range(0.0_f64..1.0).powf(0.25)) as f32;
    Case { passes: false, fails: Fails::ByScore, ..case(false, score) }
}

#[test]
fn thresholds_are_fixed_and_what_a_file_holds() {
    let grid = grid();
    assert!(grid.is_sorted() && grid.first() == Some(&0.0) && grid.last() == Some(&1.0), "{grid:?}");
    assert!(grid.len() > 500 && grid.len() < 1000, "{}", grid.len());
    for limit in &grid {
        let text = limit.to_string();
        assert!(text.len() <= 7, "{text}");
        let read = text.parse::<f64>().expect("a number") as f32;
        assert_eq!(read, *limit);
    }
}

/// One thousand archives are drawn, a threshold is chosen by each, and its true rate of escapes is known. At most one in
/// twenty may be over the bound; five standard deviations of that are 0.034.
#[test]
fn the_promise_is_kept_on_a_thousand_archives() {
    let mut rng = ChaCha8Rng::seed_from_u64(1934);
    let (mut broken, mut naive, mut sum) = (0, 0, 0.0);
    let splits = 1000;
    for _ in 0..splits {
        let cases: Vec<Case> = (0..400).map(|_| defective(&mut rng)).collect();
        let found = calibrate(&cases, 0, WANTED).thresholds.expect("400 parts prove 5 %");
        let escapes = f64::from(found.review_above).powi(3);
        sum += escapes;
        broken += usize::from(escapes > WANTED.promise.escape);
        // What the same archive gives without a bound: the largest threshold with at most 5 % of it below.
        let counted = |limit: f32| cases.iter().filter(|case| case.score <= limit).count();
        let last = grid().into_iter().take_while(|limit| counted(*limit) <= 20).last().expect("0 is one");
        naive += usize::from(f64::from(last).powi(3) > WANTED.promise.escape);
    }
    assert!(broken <= 84, "{broken} of {splits} are over the bound");
    assert!(naive > 250, "the share of the archive alone keeps nothing: {naive}");
    let mean = sum / f64::from(splits);
    assert!(mean > 0.02, "what is promised is used: {mean}");
}

#[test]
fn good_parts_fail_no_more_often_than_is_wanted() {
    let mut rng = ChaCha8Rng::seed_from_u64(21);
    let mut broken = 0;
    for _ in 0..300 {
        let mut cases: Vec<Case> = (0..300).map(|_| good(&mut rng)).collect();
        cases.extend((0..80).map(|_| case(true, 0.3)));
        let found = calibrate(&cases, 0, WANTED).thresholds.expect("80 parts prove 5 %");
        let limit = found.fail_above.expect("300 good parts prove 5 %");
        assert!(limit >= found.review_above);
        broken += usize::from((1.0 - f64::from(limit)).powi(4) > WANTED.false_fail);
    }
    // 15 are meant; five deviations are 19.
    assert!(broken <= 34, "{broken} of 300");
}

#[test]
fn what_cannot_be_proven_says_what_can_and_what_it_takes() {
    let fewer: Vec<Case> = (0..58).map(|_| case(true, 0.9)).collect();
    let found = calibrate(&fewer, 3, WANTED);
    assert_eq!((found.thresholds, found.defective, found.unjudged), (None, 58, 3));
    assert!((found.best_escape - (1.0 - 0.05_f64.powf(1.0 / 58.0))).abs() < 1e-12, "{found:?}");
    let needed: Vec<u64> = found.needed.iter().map(|needed| needed.defective).collect();
    assert_eq!(needed, [59, 119, 299, 598]);
    assert_eq!(found.escape_of_all(), None);

    let enough: Vec<Case> = (0..59).map(|_| case(true, 0.9)).collect();
    let found = calibrate(&enough, 0, WANTED);
    let thresholds = found.thresholds.expect("59 parts without an escape prove 5 %");
    // The next one, 0.9, would let all of them pass.
    assert_eq!(thresholds, Thresholds { review_above: 0.89, fail_above: None });
    assert_eq!(found.of_defective, Outcomes { pass: 0, review: 59, fail: 0 });

    // A defective part that passes with a score of 0 is let pass by every threshold.
    let mut escaped = enough;
    escaped[0].score = 0.0;
    let found = calibrate(&escaped, 0, WANTED);
    assert_eq!(found.thresholds, None);
    assert!(found.best_escape > 0.05 && found.best_escape < 0.09, "{}", found.best_escape);
    let nothing = calibrate(&[], 0, WANTED);
    assert_eq!((nothing.thresholds, nothing.best_escape, nothing.review_share()), (None, 1.0, None));
}

#[test]
fn a_part_that_other_rules_hold_back_needs_no_threshold() {
    let held: Vec<Case> = (0..100)
        .map(|n| Case { passes: false, ..case(true, if n < 50 { 0.01 } else { 0.99 }) })
        .chain((0..100).map(|n| case(false, n as f32 / 1000.0)))
        .collect();
    let found = calibrate(&held, 100, WANTED);
    let thresholds = found.thresholds.expect("no defective part passes");
    assert_eq!(thresholds.review_above, 1.0);
    assert_eq!(found.of_good, Outcomes { pass: 100, review: 0, fail: 0 });
    assert_eq!(found.review_share(), Some(200.0 / 300.0), "those that were not judged are seen by a person");
    assert_eq!((found.defect_rate(), found.escape_of_all()), (Some(0.5), Some(0.025)));
}

#[test]
fn a_case_is_what_the_other_rules_make_of_a_part() {
    let low = |what: &str| Verdict::Review(Reason::LowConfidence { what: what.to_owned(), confidence: 0.4 });
    let found = |label: &str| Verdict::Fail(Reason::Finding { label: label.to_owned() });
    let text = Verdict::Fail(Reason::TextMismatch { prompt: "plate".to_owned(), line: 1 });
    let late = Verdict::Review(Reason::Deadline { late_ms: 3 });
    for (verdict, confidence, passes, fails) in [
        (Verdict::Pass, None, true, Fails::Never),
        (low(Reason::SCORE), None, true, Fails::Never),
        (low("nothing else in the tiles"), None, false, Fails::Never),
        (low("pit"), Some(0.4), false, Fails::ByScore),
        (found("pit"), Some(0.9), false, Fails::Always),
        (found("pit"), Some(0.4), false, Fails::ByScore),
        (text, None, false, Fails::Always),
    ] {
        let mut part = inspection();
        part.verdict = verdict;
        part.score = 0.25;
        part.findings = confidence.map(|c| finding("pit", [1.0, 1.0, 9.0, 9.0], c)).into_iter().collect();
        part.findings.iter_mut().for_each(|finding| finding.grade = Grade::Reject);
        let expected = Case { defective: true, score: 0.25, passes, fails };
        assert_eq!(Case::of(&part, &RULE, true), Some(expected), "{:?}", part.verdict);
    }
    let mut unjudged = inspection();
    unjudged.verdict = late;
    assert_eq!(Case::of(&unjudged, &RULE, true), None);
    let mut broken = inspection();
    (broken.verdict, broken.score) = (Verdict::Pass, f32::NAN);
    assert_eq!(Case::of(&broken, &RULE, true), None);
}

#[test]
fn both_kinds_of_parts_count_as_the_line_brings_them() {
    fn of(part: &(String, bool)) -> (&str, bool) {
        (&part.0, part.1)
    }
    let ids: Vec<(String, bool)> = (0..2000).map(|n| (format!("part {n}"), n % 2 == 0)).collect();
    let decisions = |inspected, decided| Decisions { inspected, decided };
    // Of 10,000 parts that passed a tenth was looked at, of the 1,000 others all.
    let left = even_out(ids.clone(), decisions(10_000, 1000), decisions(1000, 1000), of);
    let passed = left.iter().filter(|(_, has_passed)| *has_passed).count();
    assert_eq!(passed, 1000);
    // A tenth of 1,000; five standard deviations are 47.
    assert!((53..=147).contains(&(left.len() - passed)), "{}", left.len());
    assert_eq!(even_out(ids.clone(), decisions(10_000, 1000), decisions(1000, 1000), of), left);

    let even = even_out(ids.clone(), decisions(2000, 1000), decisions(2000, 1000), of);
    assert_eq!(even.len(), 2000, "nothing is left out where both were looked at alike");
    let only_others: Vec<_> = ids.iter().filter(|(_, has_passed)| !has_passed).cloned().collect();
    let blind = even_out(only_others.clone(), decisions(500, 0), decisions(1000, 1000), of);
    assert_eq!(blind, [], "nobody has looked at what passed");
    let none_passed = even_out(only_others.clone(), decisions(0, 0), decisions(1000, 1000), of);
    assert_eq!(none_passed, only_others, "there was none");
}
