//! Tests of the figures.

use super::*;
use crate::domain::inspection::Inspection;

/// Rows of parts a second apart, as a real store has them; `verdicts`: p, f or r.
fn rows(verdicts: &str) -> Vec<Row> {
    use crate::domain::grade::{Reason, Verdict};
    let dir = tempfile::tempdir().unwrap();
    let store = crate::store::Store::open(dir.path(), crate::store::StoreOptions::default()).unwrap();
    for (n, verdict) in verdicts.chars().enumerate() {
        let mut part: Inspection = crate::store::tests::sample(n as u64 + 1);
        part.finished_at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000 + n as u64);
        part.verdict = match verdict {
            'p' => Verdict::Pass,
            'f' => Verdict::Fail(Reason::Finding { label: "pit".into() }),
            _ => Verdict::Review(Reason::QueueFull),
        };
        part.latency.total_ms = n as f64 + 1.0;
        store.commit(&part, None).unwrap();
    }
    let mut rows = Vec::new();
    store.scan(&crate::store::query::Filter::default(), |_, row, _| rows.push(*row)).unwrap();
    rows.reverse();
    rows
}

#[test]
fn nothing_has_no_charts_and_one_part_has() {
    assert_eq!(compute(&[], &[], &[], 10).inspections, 0);
    let one = compute(&rows("p"), &[], &["plate".into()], 10);
    assert_eq!((one.buckets.len(), one.buckets[0].share_passed), (1, Some(1.0)));
    assert_eq!(one.p_charts[0].pipeline, "plate");
}

#[test]
fn limits_are_those_of_the_book() {
    // 40 parts, 10 rejected: mean 0.25. Buckets of 10 seconds: 10 parts each.
    let all = rows(&"pppfpppfpppf".repeat(4)[..40]);
    let charts = compute(&all, &[], &["plate".into()], 4);
    let chart = &charts.p_charts[0];
    assert!((chart.mean - 0.25).abs() < 1e-9, "{}", chart.mean);
    assert_eq!(chart.points.iter().map(|p| p.parts).sum::<u64>(), 40);
    let whole = chart.points.iter().find(|p| p.parts == 10).expect("a whole bucket");
    // Of ten at this rate 8 or more are rejected once in 2400 times, 7 or more once in 285.
    assert!((whole.upper - 0.7).abs() < 1e-9 && whole.lower == 0.0, "{whole:?}");
    assert!(chart.alarms.is_empty(), "{:?}", chart.alarms);
    // Of a thousand: three standard deviations.
    let spread = 3.0 * (0.25f64 * 0.75 / 1000.0).sqrt();
    let (lower, upper) = limits(1000, 0.25);
    assert!((lower - (0.25 - spread)).abs() < 1e-9 && (upper - (0.25 + spread)).abs() < 1e-9);
    // One reject among ten is no news of a process that rejects one of two hundred; two are.
    assert_eq!(limits(10, 0.005), (0.0, 0.1));
    // Both ways meet where one takes over from the other, within one part.
    let ((_, exact), (_, normal)) = (limits(99, 0.25), limits(100, 0.25));
    assert!((exact - normal).abs() < 0.015, "{exact} {normal}");
}

#[test]
fn few_parts_are_never_called_in_control() {
    let state = |verdicts: &str, buckets| {
        let charts = compute(&rows(verdicts), &[], &["x".into()], buckets);
        let chart = &charts.p_charts[0];
        (chart.state, chart.points_enough)
    };
    assert_eq!(state("ppf", 48), ("unknown", 0));
    // Nothing but good parts: no rate is known that could be kept.
    assert_eq!(state(&"p".repeat(200), 20).0, "unknown");
    // Buckets of five parts without a reject on the average say nothing, however many there are.
    assert_eq!(state(&("p".repeat(24) + "f").repeat(6), 30), ("unknown", 0));
    let steady = "ppppppppfp".repeat(24);
    let (state, enough) = state(&steady, 24);
    assert_eq!(state, "in_control");
    assert!(enough >= POINTS_MIN, "{enough}");
}

#[test]
fn a_run_of_rejects_and_a_shift_raise_alarms() {
    let run = compute(&rows(&format!("{}{}", "p".repeat(90), "f".repeat(8))), &[], &["x".into()], 10);
    let kinds: Vec<_> = run.p_charts[0].alarms.iter().map(|a| a.kind).collect();
    assert!(kinds.contains(&"run") && kinds.contains(&"outside"), "{kinds:?}");
    // The rate doubles half-way, without any bucket of itself outside its limits.
    let shifted =
        compute(&rows(&("pppppppppf".repeat(16) + &"ppppfppppf".repeat(16))), &[], &["x".into()], 32);
    assert!(shifted.p_charts[0].alarms.iter().any(|a| a.kind == "shift"), "{:?}", shifted.p_charts[0].alarms);
    assert!(!shifted.p_charts[0].alarms.iter().any(|a| a.kind == "run"));
}

#[test]
fn percentiles_are_nearest_ranks_and_reviews_are_open() {
    let all = rows(&"r".repeat(100));
    let charts = compute(&all, &[], &["x".into()], 5);
    assert_eq!(
        (charts.latency_ms.p50, charts.latency_ms.p95, charts.latency_ms.max),
        (Some(50.0), Some(95.0), Some(100.0))
    );
    assert!(charts.buckets.iter().all(|b| b.share_passed.is_none()));
    assert_eq!(charts.agreement.share, None);
}
