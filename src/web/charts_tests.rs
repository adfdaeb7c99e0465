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
    let spread = 3.0 * (0.25f64 * 0.75 / 10.0).sqrt();
    assert_eq!(chart.points.iter().map(|p| p.parts).sum::<u64>(), 40);
    let whole = chart.points.iter().find(|p| p.parts == 10).expect("a whole bucket");
    assert!((whole.upper - (0.25 + spread).min(1.0)).abs() < 1e-9 && whole.lower == 0.0);
    assert!(chart.alarms.is_empty(), "{:?}", chart.alarms);
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
