//! Tests of proofs by confirmed parts, on a real store with real pictures.

use super::*;
use crate::daemon::model::{Accepted, Side};
use crate::domain::frame::{Frame, Trigger};
use crate::domain::grade::{Grade, Reason, Severity, Verdict};
use crate::domain::grid::Tile;
use crate::domain::inspection::{RawAnswer, TileCount};
use crate::domain::pipeline::{PromptKind, Tiling};
use crate::domain::review::{Decision, OperatorBox};
use crate::inspect::plan::Plan;
use crate::inspect::proof::{Acceptance as _, judge};
use crate::recipe::load_pipeline;
use crate::recipe::registry::{Recipe, Registry};
use crate::store::StoreOptions;
use crate::store::tests::sample;
use image::{ImageFormat, Rgb};
use std::io::Cursor;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};
use vlm::Shown;

/// Two tiles side by side.
const SIDE: u32 = 64;

struct Bench {
    dir: tempfile::TempDir,
    store: Arc<Store>,
    pipelines: BTreeMap<String, Pipeline>,
}

fn model() -> ModelInfo {
    ModelInfo { text_sha256: "t1".into(), mmproj_sha256: "m1".into(), ..ModelInfo::default() }
}

/// Every part has other pixels, and so has each of its tiles.
fn pixels(n: u64) -> RgbImage {
    RgbImage::from_fn(2 * SIDE, SIDE, |x, y| Rgb([n as u8, if x < SIDE { 10 } else { 200 }, (x ^ y) as u8]))
}

fn decision(verdict: Decided, findings: Option<Vec<OperatorBox>>) -> Decision {
    Decision { verdict, reason: "seen on the part".into(), note: String::new(), findings, texts: None }
}

fn scratch(bbox_px: BoxPx, confidence: f32) -> Finding {
    Finding {
        label: "scratch".into(),
        severity: Severity::Major,
        bbox_px,
        longest_mm: 1.0,
        area_mm2: 1.0,
        confidence,
        grade: Grade::Reject,
    }
}

impl Bench {
    fn new() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut pipeline = load_pipeline(&root.join("pipelines/examples-defects.toml")).unwrap();
        pipeline.tiling = Tiling { tile_px: SIDE, overlap_px: 0, max_tiles: 4, ..pipeline.tiling };
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path(), StoreOptions::default()).unwrap());
        Self { dir, store, pipelines: [(pipeline.name.clone(), pipeline)].into() }
    }

    fn reopened(self) -> Self {
        let Self { dir, store, pipelines } = self;
        drop(store);
        let store = Arc::new(Store::open(dir.path(), StoreOptions::default()).unwrap());
        Self { dir, store, pipelines }
    }

    /// Stores part `n` with a sure scratch in its right tile, changed by `edit`; returns its id.
    fn part(&self, n: u64, edit: impl FnOnce(&mut Inspection)) -> String {
        let pipeline = self.pipelines.values().next().unwrap();
        let mut inspection = sample(n);
        inspection.pipeline = pipeline.name.clone();
        inspection.pipeline_version = pipeline.version.clone();
        inspection.verdict = Verdict::Fail(Reason::Finding { label: "scratch".into() });
        inspection.findings = vec![scratch(BoxPx::new(80.0, 10.0, 100.0, 30.0), 0.9)];
        inspection.tiles = TileCount { planned: 2, inspected: 2 };
        inspection.score = 0.95;
        inspection.clip = vec![];
        inspection.answers = vec![RawAnswer { prompt: "surface".into(), tile: 1, text: "[{…}]".into() }];
        edit(&mut inspection);
        let mut png = Cursor::new(vec![]);
        pixels(n).write_to(&mut png, ImageFormat::Png).unwrap();
        let image = self.store.put_image(png.get_ref(), "png").unwrap();
        self.store.commit(&inspection, Some(image)).unwrap();
        inspection.id
    }

    /// As `part`, of which the model says that nothing is there.
    fn clean(&self, n: u64, edit: impl FnOnce(&mut Inspection)) -> String {
        self.part(n, |i| {
            (i.verdict, i.grade, i.findings, i.answers) = (Verdict::Pass, Grade::Ok, vec![], vec![]);
            i.score = 0.05;
            edit(i);
        })
    }

    fn decide(&self, id: &str, verdict: Decided) {
        self.store.review(id, "anna", decision(verdict, None), None).unwrap();
    }

    fn known(&self) -> Vec<Known> {
        proof(&self.store, &self.pipelines, &model()).unwrap().known
    }

    fn names(&self) -> Vec<String> {
        self.known().into_iter().map(|k| k.name).collect()
    }

    fn accepted(&self) -> Accepted {
        Accepted {
            side: Side::Whole,
            store: Arc::clone(&self.store),
            text_sha256: None,
            mmproj_sha256: None,
            recipes: Arc::new(Registry::new(self.pipelines.values().map(Recipe::of))),
        }
    }

    fn picture_file(&self, seq: u64) -> std::path::PathBuf {
        let image = self.store.get(seq).unwrap().unwrap().image.unwrap().image;
        self.store.image_path(&image.sha256).unwrap()
    }
}

/// What the line itself would ask about part `n`.
fn plan(n: u64, pipeline: &Pipeline) -> Plan {
    let frame = Frame {
        camera: "cam1".into(),
        pixels: Arc::new(pixels(n)),
        captured_at: SystemTime::now(),
        captured: Instant::now(),
        exposed: None,
        clip: vec![],
        trigger: Trigger::default(),
        origin: "test".into(),
        replayed: false,
    };
    Plan::new(&frame, pipeline, &model()).unwrap()
}

#[test]
fn the_tiles_are_those_of_the_line_with_its_question() {
    let bench = Bench::new();
    let (bad, good) = (bench.part(1, |_| {}), bench.clean(2, |_| {}));
    let half = bench.part(3, |i| i.score = 0.1);
    let two = bench.part(4, |i| {
        i.findings.push(scratch(BoxPx::new(10.0, 10.0, 30.0, 30.0), 0.95));
        i.answers.push(RawAnswer { tile: 0, ..i.answers[0].clone() });
    });
    bench.decide(&two, Decided::Fail);
    bench.decide(&bad, Decided::Fail);
    bench.decide(&good, Decided::Pass);
    // The person says that the scratch of the right tile is none: the left tile is clean.
    bench.decide(&half, Decided::Pass);
    let known = bench.known();
    let names: Vec<&str> = known.iter().map(|k| k.name.as_str()).collect();
    let expected = [
        // Of two findings the surer one.
        format!("inspection {two}, tile 0"),
        format!("inspection {half}, tile 0"),
        format!("inspection {good}, tile 0"),
        format!("inspection {bad}, tile 1"),
    ];
    assert_eq!(names, expected);
    let pipeline = bench.pipelines.values().next().unwrap();
    let PromptKind::Defects { labels } = pipeline.prompts[0].kind.clone() else { panic!("it asks defects") };
    for (known, (n, tile, is_bad)) in
        known.iter().zip([(4, 0, true), (3, 0, false), (2, 0, false), (1, 1, true)])
    {
        let job = plan(n, pipeline).jobs().nth(tile).unwrap();
        let Shown::Images(shown) = job.shown else { panic!("a still") };
        assert_eq!(known.picture, shown[0], "{}", known.name);
        assert_eq!(known.question, job.asks[0].text);
        assert_eq!((known.budget.min_pixels, known.budget.max_pixels), (job.min_pixels, job.max_pixels));
        let expected = if is_bad {
            Expected::Found { labels: labels.clone() }
        } else {
            Expected::Clean { labels: labels.clone() }
        };
        assert_eq!((&known.expected, known.firm), (&expected, false));
    }
}

#[test]
fn what_nobody_confirmed_or_the_line_would_ask_otherwise_is_left_out() {
    let bench = Bench::new();
    let mut n = 0;
    let mut next = || {
        n += 1;
        n
    };
    let left_out: [fn(&mut Inspection); 10] = [
        |i| i.pipeline_version = "another".into(),
        |i| i.pipeline = "gone".into(),
        |i| i.clip = vec![Duration::from_millis(40)],
        |i| i.tiles.inspected = 1,
        |i| i.tiles = TileCount::default(),
        |i| i.score = 0.5,
        |i| i.score = f32::NAN,
        |i| i.findings[0].label = "unlisted".into(),
        // Between the tiles, and in a tile that the model said nothing about.
        |i| i.findings[0].bbox_px = BoxPx::new(54.0, 10.0, 74.0, 30.0),
        |i| i.findings[0].bbox_px = BoxPx::new(10.0, 10.0, 30.0, 30.0),
    ];
    for edit in left_out {
        bench.decide(&bench.part(next(), edit), Decided::Fail);
    }
    // The model found nothing, and a person did: what it has missed it misses again.
    let drawn = |x0: f32| OperatorBox {
        label: "scratch".into(),
        severity: Severity::Major,
        bbox_px: BoxPx::new(x0, 10.0, x0 + 20.0, 30.0),
    };
    for x0 in [10.0, 80.0] {
        let missed = bench.clean(next(), |_| {});
        bench.store.review(&missed, "anna", decision(Decided::Fail, Some(vec![drawn(x0)])), None).unwrap();
    }
    // The person put another defect in the place of the model's, or took it away.
    for boxes in [vec![drawn(10.0)], vec![]] {
        let moved = bench.part(next(), |_| {});
        bench.store.review(&moved, "anna", decision(Decided::Fail, Some(boxes)), None).unwrap();
    }
    for edit in [(|i| i.score = 0.5) as fn(&mut Inspection), |i| i.score = f32::NAN, |i| i.tiles.planned = 3]
    {
        bench.decide(&bench.clean(next(), edit), Decided::Pass);
    }
    let undecided = bench.part(next(), |_| {});
    assert_eq!(bench.names(), Vec::<String>::new());
    bench.decide(&undecided, Decided::Fail);
    assert_eq!(bench.names(), [format!("inspection {undecided}, tile 1")], "and this one is asked");
}

#[test]
fn a_later_decision_and_a_picture_that_is_gone_or_another_count() {
    let bench = Bench::new();
    let ids: Vec<String> = (1..=4).map(|n| bench.part(n, |_| {})).collect();
    ids.iter().for_each(|id| bench.decide(id, Decided::Fail));
    assert_eq!(bench.known().len(), 4);
    bench.store.undo_review(&ids[0], "anna", "a mistake", Some(1)).unwrap();
    bench.store.review(&ids[1], "bert", decision(Decided::Pass, None), Some(2)).unwrap();
    std::fs::remove_file(bench.picture_file(3)).unwrap();
    assert_eq!(bench.names(), [format!("inspection {}, tile 1", ids[3])]);
    let mut other = Cursor::new(vec![]);
    pixels(9).write_to(&mut other, ImageFormat::Png).unwrap();
    std::fs::write(bench.picture_file(4), other.into_inner()).unwrap();
    assert_eq!(bench.names(), Vec::<String>::new());
    // Decided without the picture, and the same bytes came back later.
    let unseen = bench.part(5, |_| {});
    let bytes = std::fs::read(bench.picture_file(5)).unwrap();
    std::fs::remove_file(bench.picture_file(5)).unwrap();
    bench.store.review_without_picture(&unseen, "anna", decision(Decided::Fail, None), None).unwrap();
    bench.store.put_image(&bytes, "png").unwrap();
    assert_eq!(bench.names(), Vec::<String>::new());
}

#[test]
fn the_newest_of_each_kind_are_asked_each_picture_once() {
    let bench = Bench::new();
    let ids: Vec<(String, String)> =
        (0..9).map(|n| (bench.part(2 * n + 1, |_| {}), bench.clean(2 * n + 2, |_| {}))).collect();
    // In which order they were decided says nothing.
    for (bad, good) in ids.iter().rev() {
        bench.decide(bad, Decided::Fail);
        bench.decide(good, Decided::Pass);
    }
    let known = bench.known();
    let of = |is_found: bool| {
        let kind = known.iter().filter(move |k| k.expected.is_found() == is_found);
        kind.map(|k| k.name[11..37].to_owned()).collect::<Vec<_>>()
    };
    let newest = |id: fn(&(String, String)) -> &String| {
        ids.iter().rev().take(KNOWN_MAX).map(|pair| id(pair).clone()).collect::<Vec<_>>()
    };
    assert_eq!((of(true), of(false)), (newest(|p| &p.0), newest(|p| &p.1)));
    let bench = Bench::new();
    for n in 1..=3 {
        // The same picture under three records.
        let image = bench.part(n, |_| {});
        bench.decide(&image, Decided::Fail);
    }
    assert_eq!(bench.known().len(), 3);
    let same = std::fs::read(bench.picture_file(1)).unwrap();
    let mut again = bench.store.get(1).unwrap().unwrap().inspection;
    again.id = sample(4).id;
    let image = bench.store.put_image(&same, "png").unwrap();
    bench.store.commit(&again, Some(image)).unwrap();
    bench.decide(&again.id, Decided::Fail);
    assert_eq!(bench.known().len(), 3);
}

#[test]
fn what_a_pair_has_told_it_must_tell_again_and_another_pair_begins_anew() {
    let bench = Bench::new();
    for n in 1..=3 {
        bench.decide(&bench.part(n, |_| {}), Decided::Fail);
    }
    let wrong = || Err("a defect is there".to_owned());
    let proof = bench.accepted().admit(&model()).unwrap();
    assert_eq!(proof.known.len(), 3);
    let outcomes = [Ok(()), Ok(()), wrong()];
    judge(&proof, &outcomes).unwrap();
    bench.accepted().proven(&model(), &proof, &outcomes);

    let bench = bench.reopened();
    let firm = |model: &ModelInfo| -> Vec<bool> {
        bench.accepted().admit(model).unwrap().known.iter().map(|k| k.firm).collect()
    };
    assert_eq!(firm(&model()), [true, true, false]);
    let again = bench.accepted().admit(&model()).unwrap();
    let why = judge(&again, &[Ok(()), wrong(), Ok(())]).unwrap_err();
    assert!(why.contains("1 of 3 known pictures") && why.contains(&again.known[1].name), "{why}");
    // What held before still counts when it is no longer among the newest.
    let rest = Proof { known: again.known[2..].to_vec() };
    bench.accepted().proven(&model(), &rest, &[Ok(())]);
    assert_eq!(firm(&model()), [true, true, true]);

    let other = ModelInfo { mmproj_sha256: "m2".into(), ..model() };
    let accepted = bench.store.model_pin().unwrap().unwrap();
    bench.store.pin_model(&crate::store::pins::ModelPin { mmproj_sha256: "m2".into(), ..accepted }).unwrap();
    assert_eq!(firm(&other), [false, false, false]);
    let first = bench.accepted().admit(&other).unwrap();
    bench.accepted().proven(&other, &first, &[Ok(()), wrong(), wrong()]);
    assert_eq!(firm(&other), [true, false, false]);
    let former = proof_of(&bench, &model());
    assert!(former.iter().all(|k| !k.firm), "and so does the former pair when it comes back");
}

fn proof_of(bench: &Bench, model: &ModelInfo) -> Vec<Known> {
    proof(&bench.store, &bench.pipelines, model).unwrap().known
}

#[test]
fn a_picture_is_told_from_another_by_its_pixels_its_question_and_what_is_known() {
    let one = Known {
        name: "a".into(),
        picture: cut(&pixels(1), Tile { index: 0, rect: Rect::new(0, 0, SIDE, SIDE) }),
        budget: crate::domain::pipeline::PixelBudget { min_pixels: 1, max_pixels: 2 },
        question: "Find scratch.".into(),
        expected: Expected::Found { labels: vec!["scratch".into()] },
        firm: false,
    };
    let same = Known { name: "b".into(), firm: true, ..one.clone() };
    assert_eq!(digest(&one), digest(&same));
    let others = [
        Known { picture: Arc::new(pixels(2)), ..one.clone() },
        Known { question: "Find dent.".into(), ..one.clone() },
        Known { expected: Expected::Clean { labels: vec!["scratch".into()] }, ..one.clone() },
    ];
    assert!(others.iter().all(|other| digest(other) != digest(&one)));
}
