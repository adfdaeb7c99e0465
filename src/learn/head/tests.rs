//! Tests of learning a head.

use super::*;
use crate::domain::rect::{BoxPx, Rect};
use crate::domain::reference::{FeatureSource, Judge, Lesson, TileFeatures};
use crate::learn::example::{Confirmed, TileCells};

const DIM: usize = 8;
const SIDE: usize = 6;

/// Numbers between -1 and 1, the same for the same seed.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    }

    fn values(&mut self) -> Vec<f32> {
        (0..SIDE * SIDE * DIM).map(|_| self.next()).collect()
    }
}

fn example(values: &[f32], confirmed: Confirmed) -> Example {
    let side = 16 * SIDE as u32;
    let tile = TileCells::new(Rect::new(0, 0, side, side), (SIDE, SIDE), DIM, values);
    Example { name: "a.png".into(), confirmed, tiles: vec![tile] }
}

fn part(is_good: bool, lot: Option<&str>, defects: Vec<(String, Option<BoxPx>)>) -> Confirmed {
    Confirmed { is_good, lot: lot.map(str::to_owned), part_id: None, defects }
}

/// As many good parts as defective ones, whose second feature stands out in two by two cells with a box.
pub(crate) fn pitted(each: usize, seed: u64) -> Vec<Example> {
    let mut noise = Noise(seed);
    let mut examples = vec![];
    for i in 0..each {
        examples.push(example(&noise.values(), part(true, None, vec![])));
        let mut values = noise.values();
        let (row, col) = (i % (SIDE - 1), i / 2 % (SIDE - 1));
        for (y, x) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            values[((row + y) * SIDE + col + x) * DIM + 1] += 2.0;
        }
        let at = |cell: usize| 16.0 * cell as f32;
        let bbox = BoxPx::new(at(col), at(row), at(col + 2), at(row + 2));
        examples.push(example(&values, part(false, None, vec![("pit".into(), Some(bbox))])));
    }
    examples
}

fn rule() -> ReferenceRule {
    ReferenceRule {
        features: FeatureSource::Backbone,
        lesson: Lesson::Head,
        labels: vec!["anomaly".into()],
        file: "a.head".into(),
        learned: None,
    }
}

fn learned(examples: &[Example]) -> Result<(Head, Figures), LearnError> {
    let rule = rule();
    learn(
        examples,
        &Wanted { pipeline: "p", rule: &rule, features_sha256: "ab".into(), at: String::new() },
        &|| true,
    )
}

#[test]
fn a_head_tells_parts_apart_that_it_never_saw_and_points_at_the_cells() {
    let (head, figures) = learned(&pitted(24, 1)).unwrap();
    assert_eq!((figures.good, figures.bad, figures.with_boxes), (24, 24, 24));
    assert!(figures.auroc > 0.9 && figures.labels[0].is_known, "{figures:?}");
    let others = pitted(30, 2);
    let (mut right, mut there) = (0, 0);
    for other in &others {
        let values = other.tiles[0].values();
        let features = TileFeatures { tile: 0, rows: SIDE, cols: SIDE, dim: DIM, values: &values };
        let seen = head.judge(features).unwrap();
        right += usize::from((seen.tile > 0.5) != other.is_good());
        let map = &seen.maps[0].cells;
        let most = (0..map.len()).max_by(|a, b| map[*a].total_cmp(&map[*b])).unwrap();
        let (x, y) = (16.0 * (most % SIDE) as f32 + 8.0, 16.0 * (most / SIDE) as f32 + 8.0);
        let is_in = |b: &BoxPx| (b.x0..b.x1).contains(&x) && (b.y0..b.y1).contains(&y);
        there += other.confirmed.defects.iter().filter(|(_, b)| b.as_ref().is_some_and(is_in)).count();
    }
    assert!(right >= 54 && there >= 24, "{right} of 60 right, {there} of 30 found where they are");
    let again = learned(&pitted(24, 1)).unwrap();
    assert_eq!((again.0, again.1), (head, figures), "the same parts give the same head");
}

#[test]
fn without_boxes_no_label_has_a_name_of_its_own() {
    let mut examples = pitted(24, 1);
    examples.iter_mut().flat_map(|e| &mut e.confirmed.defects).for_each(|(_, bbox)| *bbox = None);
    let (head, figures) = learned(&examples).unwrap();
    assert!(head.labels.is_empty() && figures.labels.is_empty() && head.of_cells == 0.0);
    assert!(figures.auroc > 0.8, "{figures:?}");
    let few = &mut pitted(24, 1);
    few.iter_mut().skip(9).flat_map(|e| &mut e.confirmed.defects).for_each(|(_, bbox)| *bbox = None);
    let (_, figures) = learned(few).unwrap();
    assert!(figures.notes.iter().any(|n| n.contains("pit: boxes on 4 parts, 5 are needed")), "{figures:?}");
}

#[test]
fn too_little_is_refused_with_the_words_why() {
    let mut examples = pitted(12, 1);
    let mut bad = 0;
    examples.retain(|e| {
        bad += usize::from(!e.is_good());
        e.is_good() || bad <= 9
    });
    let why = learned(&examples).unwrap_err().to_string();
    assert!(
        why.contains("12 good and 9 defective parts: at least 10 of each") && why.contains("0.6"),
        "{why}"
    );
    assert!(matches!(learned(&[]), Err(LearnError::TooLittle { .. })));
    let (_, figures) = learned(&pitted(12, 1)).unwrap();
    assert!(figures.notes.iter().any(|n| n.contains("12 good parts are few")), "{figures:?}");
}

/// Every lot looks like itself, and is good or defective as a whole: who splits lots believes to know the difference.
#[test]
fn a_lot_that_was_learned_from_is_not_measured_on() {
    let mut noise = Noise(5);
    let mut examples = vec![];
    for lot in 0..8 {
        let own: Vec<f32> = (0..DIM).map(|_| 4.0 * noise.next()).collect();
        for _ in 0..8 {
            let mut values = noise.values();
            values.chunks_exact_mut(DIM).for_each(|c| c.iter_mut().zip(&own).for_each(|(v, o)| *v += o));
            let defects = if lot % 2 == 0 { vec![] } else { vec![("dull".to_owned(), None)] };
            examples.push(example(&values, part(lot % 2 == 0, Some(&format!("L{lot}")), defects)));
        }
    }
    let together = learned(&examples).map_or(0.5, |(_, figures)| figures.auroc);
    examples.iter_mut().for_each(|e| e.confirmed.lot = None);
    let singly = learned(&examples).unwrap().1.auroc;
    assert!(singly > 0.95 && together < 0.85, "{singly} singly, {together} together");
    examples.iter_mut().for_each(|e| e.confirmed.lot = Some("L1".into()));
    let (_, figures) = learned(&examples).unwrap();
    assert!(figures.notes.iter().any(|n| n.contains("of one lot")), "{figures:?}");
}

#[test]
fn the_views_of_one_part_are_in_one_fold_and_no_lot_is_said_to_be_none() {
    let mut examples = pitted(12, 1);
    assert!(learned(&examples).unwrap().1.notes.iter().any(|n| n.contains("no part names its lot")));
    // Four views of each part, one after the other.
    examples.iter_mut().enumerate().for_each(|(i, e)| e.confirmed.part_id = Some(format!("P{}", i / 4)));
    let folds = dealt(&examples);
    assert_eq!(folds.lots, Some(6));
    assert!(folds.of.chunks(4).all(|part| part.iter().all(|fold| *fold == part[0])), "{folds:?}");
    // A lot counts before its parts, and a part of the same name is no lot.
    examples.iter_mut().take(8).for_each(|e| e.confirmed.lot = Some("P5".into()));
    assert_eq!(dealt(&examples).lots, Some(5));
}

#[test]
fn who_is_told_to_stop_learns_nothing() {
    let rule = rule();
    let wanted = Wanted { pipeline: "p", rule: &rule, features_sha256: "ab".into(), at: String::new() };
    // Wherever it is asked, the last time, too.
    let asked = std::sync::atomic::AtomicUsize::new(0);
    let count = || asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let examples = pitted(12, 1);
    learn(&examples, &wanted, &|| count() < usize::MAX).unwrap();
    let all = asked.swap(0, std::sync::atomic::Ordering::Relaxed);
    assert!(all > 30, "{all} times in six strengths of five folds");
    for most in [0, 1, all / 2, all - 1] {
        asked.store(0, std::sync::atomic::Ordering::Relaxed);
        let stopped = learn(&examples, &wanted, &|| count() < most);
        assert!(matches!(stopped, Err(LearnError::Stopped)), "after {most} of {all}");
    }
}

#[test]
fn parts_that_do_not_differ_are_no_head() {
    let mut noise = Noise(9);
    let kind = |i: usize| part(i.is_multiple_of(2), None, vec![]);
    let examples: Vec<_> = (0..60).map(|i| example(&noise.values(), kind(i))).collect();
    match learned(&examples) {
        Err(error) => assert!(error.to_string().contains("which is chance"), "{error}"),
        Ok((_, figures)) => assert!(figures.auroc < 0.7, "{figures:?}"),
    }
}
