//! Tests of the cheap gate: what is asked of a tile and what is not, counted at a scripted model whose bank says what it
//! was told to say.

use super::*;
use crate::domain::frame::{Frame, Trigger};
use crate::domain::grade::{Reason, Verdict};
use crate::domain::inspection::Inspection;
use crate::domain::reference::{BankOrigin, CellMap, FeatureSource, Judge, Learned, TileFeatures, Unusual};
use crate::engine::{Abilities, Backend, Class, Engine, Health, Readiness, child};
use crate::inspect::{inspect, under_way};
use crate::recipe::beside::Files;
use crate::recipe::file::{Beside, from_str};
use proptest::prelude::*;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};
use vlm::{
    AnswerToken, Answered, Answers, Cells, Features, Finish, Form, Ground, ModelInfo, Rank, Timing, Vlm,
    backbone,
};

/// Cells of a tile: `[2, 2]`.
const CELLS: usize = 4;
const BELOW: f32 = 0.2;

/// Answers of the bank that the features are taken for: the first four are the cells, the last the tile.
#[derive(Debug)]
struct Mirror;

impl Judge for Mirror {
    fn origin(&self) -> BankOrigin {
        BankOrigin::default()
    }

    fn features(&self) -> FeatureSource {
        FeatureSource::Backbone
    }

    fn features_sha256(&self) -> &str {
        backbone::sha256()
    }

    fn judge(&self, features: TileFeatures<'_>) -> Result<Unusual, String> {
        let cell = |row: &[f32]| row[0];
        let cells: Vec<f32> = features.values.chunks_exact(features.dim).map(cell).collect();
        assert!(cells[0] >= 0.0, "a bank that panics");
        // A score below 0 stands for none: NaN does not pass the features.
        let tile = features.values[1];
        let tile = if tile < 0.0 { f32::NAN } else { tile };
        Ok(Unusual { maps: vec![CellMap { label: None, cells }], tile, reasons: None })
    }
}

/// What the model says of a tile's features.
#[derive(Clone, Debug)]
enum Said {
    Bank { cells: [f32; CELLS], tile: f32 },
    Failed,
    Nothing,
    NotANumber,
}

/// A model that answers questions about defects with `[]` and counts them.
struct Counting {
    info: ModelInfo,
    said: Vec<Said>,
    /// Forms of the questions of each call, job by job.
    calls: Vec<Vec<Vec<&'static str>>>,
    looked: usize,
}

impl Vlm for Counting {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn answer(&mut self, jobs: &[Job], _: &(dyn Fn() -> bool + Sync)) -> Answers {
        let mut call = vec![];
        let mut answers = vec![];
        for job in jobs {
            let mut of_job = vec![];
            let mut kinds = vec![];
            for ask in &job.asks {
                kinds.push(match &ask.form {
                    Form::Cells(Features::Backbone) => "bank",
                    Form::Defects { .. } => "defects",
                    Form::Lines => "text",
                    other => panic!("{other:?}"),
                });
                if let Form::Cells(_) = ask.form {
                    let said = self.said[self.looked % self.said.len()].clone();
                    self.looked += 1;
                    match said {
                        Said::Bank { cells, tile } => of_job.push(Ok(features(cells, tile))),
                        Said::Failed => of_job.push(Err(VlmError::Stopped)),
                        Said::NotANumber => of_job.push(Ok(features([f32::NAN; CELLS], 0.0))),
                        Said::Nothing => {
                            of_job.push(Ok(Completion { cells: None, ..features([0.0; CELLS], 0.0) }));
                        }
                    }
                } else {
                    of_job.push(Ok(empty()));
                }
            }
            call.push(kinds);
            answers.push(of_job);
        }
        self.calls.push(call);
        Answers { jobs: answers, timing: Timing::default() }
    }
}

fn features(cells: [f32; CELLS], tile: f32) -> Completion {
    let values = cells.iter().flat_map(|cell| [*cell, tile]).collect();
    Completion { cells: Some(Cells { rows: 2, cols: 2, dim: 2, values }), ..empty() }
}

fn empty() -> Completion {
    let token = |start: usize| AnswerToken { id: 0, start, end: start + 1, prob: 1.0 };
    Completion {
        text: "[]".into(),
        tokens: vec![token(0), token(1)],
        prompt_ids: vec![1],
        finish: Finish::Stop,
        ground: Ground::Constrained,
        cells: None,
    }
}

/// A question about defects that is skipped where the bank says so, one of text, and the bank, in this order.
fn pipeline() -> Pipeline {
    let text = format!(
        "{}skip = {{ by = \"good\", below = {BELOW} }}\n\
         [[prompt]]\nid = \"plate\"\nkind = \"text\"\ntext = \"Read.\"\n\
         [[prompt]]\nid = \"good\"\nkind = \"reference\"\nfeatures = \"backbone\"\nbank = \"s.bank\"\n",
        include_str!("../../tests/common/scripted.toml")
    );
    let (mut pipeline, _) = from_str("s.toml", &text, Beside::ToLearn(&Files::new())).unwrap();
    let PromptKind::Reference(rule) = &mut pipeline.prompts[2].kind else { panic!("the bank is last") };
    rule.learned = Some(Learned { sha256: "file".into(), judge: Arc::new(Mirror) });
    pipeline
}

/// The inspection of a picture of so many tiles, and what was asked.
fn inspected(pipeline: &Pipeline, said: Vec<Said>) -> (Inspection, Counting) {
    let frame = Frame {
        pixels: Arc::new(image::RgbImage::new(100 * said.len() as u32, 100)),
        captured: Instant::now(),
        ..Frame::without_picture("cam1", Trigger::default(), SystemTime::now())
    };
    let mut model = Counting { info: ModelInfo::default(), said, calls: vec![], looked: 0 };
    (inspect(&mut model, &frame, pipeline), model)
}

fn bank(cells: [f32; CELLS], tile: f32) -> Said {
    Said::Bank { cells, tile }
}

fn asked(model: &Counting, kind: &str) -> usize {
    model.calls.iter().flatten().flatten().filter(|asked| **asked == kind).count()
}

const NORMAL: [f32; CELLS] = [0.1, 0.0, 0.15, 0.05];

#[test]
fn a_tile_that_the_bank_calls_normal_is_not_asked_and_the_record_says_why() {
    let said = vec![bank(NORMAL, 0.03), bank(NORMAL, 0.3), bank(NORMAL, 0.19)];
    let (inspection, model) = inspected(&pipeline(), said);
    let first = vec![vec!["text", "bank"]; 3];
    assert_eq!(
        model.calls,
        [first, vec![vec!["defects"]]],
        "text is always read, and the bank is asked first"
    );
    assert_eq!(inspection.verdict, Verdict::Pass);
    assert_eq!((inspection.tiles.planned, inspection.tiles.inspected, inspection.tiles_skipped()), (3, 3, 2));
    let of = |tile: usize, doubt: f32| SkippedTile {
        prompt: "surface".into(),
        tile,
        rect: crate::domain::rect::Rect::new(100 * tile as u32, 0, 100 * tile as u32 + 100, 100),
        by: "good".into(),
        doubt,
        below: BELOW,
    };
    assert_eq!(inspection.skipped, [of(0, 0.15), of(2, 0.19)]);
    assert!((inspection.score - 0.3).abs() < 1e-6, "what the bank says counts as ever");
}

#[test]
fn without_the_rule_everything_is_asked_at_once() {
    let mut all = pipeline();
    all.prompts[0].skip = None;
    let (inspection, model) = inspected(&all, vec![bank(NORMAL, 0.03)]);
    assert_eq!(model.calls, [vec![vec!["defects", "text", "bank"]]]);
    assert_eq!((inspection.verdict, inspection.skipped), (Verdict::Pass, vec![]));
}

#[test]
fn what_the_bank_finds_is_a_finding_and_its_tile_is_asked() {
    let (inspection, model) = inspected(&pipeline(), vec![bank([0.0, 0.9, 0.0, 0.0], 0.1)]);
    assert_eq!((asked(&model, "defects"), inspection.skipped.len()), (1, 0));
    assert_eq!(inspection.findings.len(), 1);
    assert!(matches!(inspection.verdict, Verdict::Fail(Reason::Finding { .. })), "{:?}", inspection.verdict);
}

#[test]
fn noise_that_is_dropped_is_not_normal() {
    let mut strict = pipeline();
    strict.verdict.ignore_below_confidence = 0.8;
    let (inspection, model) = inspected(&strict, vec![bank([0.6, 0.0, 0.0, 0.0], 0.1)]);
    assert_eq!((asked(&model, "defects"), inspection.findings.len()), (1, 0));
    assert!(matches!(inspection.verdict, Verdict::Review(_)), "{:?}", inspection.verdict);
}

#[test]
fn a_bank_that_fails_skips_nothing_and_its_part_never_passes() {
    let panics = bank([-0.5, 0.0, 0.0, 0.0], 0.1);
    let no_score = bank([0.0; CELLS], -1.0);
    for broken in [Said::Failed, Said::Nothing, Said::NotANumber, panics, no_score] {
        let (inspection, model) = inspected(&pipeline(), vec![broken.clone(), bank(NORMAL, 0.03)]);
        assert_eq!(asked(&model, "defects"), 1, "{broken:?}");
        assert_eq!(inspection.skipped.iter().map(|s| s.tile).collect::<Vec<_>>(), [1], "{broken:?}");
        assert!(matches!(inspection.verdict, Verdict::Review(_)), "{broken:?}: {:?}", inspection.verdict);
    }
}

#[test]
fn a_bank_that_is_not_among_the_prompts_skips_nothing() {
    let mut alone = pipeline();
    alone.prompts.truncate(1);
    let (inspection, model) = inspected(&alone, vec![bank(NORMAL, 0.03)]);
    assert_eq!((asked(&model, "defects"), inspection.skipped.len()), (1, 0));
    assert_eq!(inspection.verdict, Verdict::Pass);
}

#[test]
fn a_bank_that_sees_its_tile_at_another_size_decides_all_the_same() {
    let mut other = pipeline();
    other.prompts[2].budget.max_pixels = 16_384;
    let (inspection, model) = inspected(&other, vec![bank(NORMAL, 0.03), bank(NORMAL, 0.4)]);
    assert_eq!((asked(&model, "defects"), asked(&model, "text"), asked(&model, "bank")), (1, 2, 2));
    assert_eq!(inspection.skipped.iter().map(|s| s.tile).collect::<Vec<_>>(), [0]);
    assert_eq!((inspection.tiles.planned, inspection.tiles.inspected), (4, 4));
}

/// Says less than it was asked.
struct Short(Counting);

impl Vlm for Short {
    fn info(&self) -> &ModelInfo {
        self.0.info()
    }

    fn answer(&mut self, jobs: &[Job], go_on: &(dyn Fn() -> bool + Sync)) -> Answers {
        let mut answers = self.0.answer(jobs, go_on);
        answers.jobs.iter_mut().for_each(|job| drop(job.pop()));
        answers
    }
}

#[test]
fn a_bank_without_an_answer_skips_nothing() {
    let frame = Frame {
        pixels: Arc::new(image::RgbImage::new(100, 100)),
        captured: Instant::now(),
        ..Frame::without_picture("cam1", Trigger::default(), SystemTime::now())
    };
    let said = vec![bank(NORMAL, 0.03)];
    let mut model = Short(Counting { info: ModelInfo::default(), said, calls: vec![], looked: 0 });
    let inspection = inspect(&mut model, &frame, &pipeline());
    assert_eq!((asked(&model.0, "defects"), inspection.skipped.len()), (1, 0));
    assert!(
        matches!(inspection.verdict, Verdict::Review(Reason::MissingTile { .. })),
        "{:?}",
        inspection.verdict
    );
}

fn any_said() -> impl Strategy<Value = Said> {
    let sure = prop_oneof![0.0f32..=0.25, 0.0f32..=1.0];
    let number = prop_oneof![8 => sure, 1 => Just(-0.5f32), 1 => Just(f32::NAN), 1 => Just(1.5f32)];
    let cells = proptest::array::uniform4(number.clone());
    prop_oneof![
        8 => (cells, number).prop_map(|(cells, tile)| Said::Bank { cells, tile }),
        1 => Just(Said::Failed),
        1 => Just(Said::Nothing),
    ]
}

proptest! {
    /// Whatever the banks say: what is not asked was called normal in every number, each tile has its answer or its
    /// reason, and where anything was wrong the part does not pass.
    #[test]
    fn only_a_whole_answer_below_the_limit_skips(said in proptest::collection::vec(any_said(), 1..6)) {
        let (inspection, model) = inspected(&pipeline(), said.clone());
        let skipped: Vec<usize> = inspection.skipped.iter().map(|s| s.tile).collect();
        let is_normal = |said: &Said| match said {
            Said::Bank { cells, tile } => cells.iter().chain([tile]).all(|v| (0.0..BELOW).contains(v)),
            Said::Failed | Said::Nothing | Said::NotANumber => false,
        };
        let normal: Vec<usize> = (0..said.len()).filter(|i| is_normal(&said[*i])).collect();
        prop_assert_eq!(&skipped, &normal);
        prop_assert_eq!(asked(&model, "defects") + skipped.len(), said.len());
        prop_assert_eq!((asked(&model, "text"), asked(&model, "bank")), (said.len(), said.len()));
        prop_assert!(inspection.skipped.iter().all(|s| s.doubt < s.below && s.prompt == "surface"));
        let is_sound = |said: &Said| matches!(said, Said::Bank { cells, tile } if cells.iter().chain([tile]).all(|v| (0.0..=1.0).contains(v)));
        if !said.iter().all(is_sound) {
            prop_assert!(matches!(inspection.verdict, Verdict::Review(_)));
        }
    }
}

/// An engine whose model is `Counting`; it is lost at the question of that number.
struct Room {
    model: Arc<Mutex<Counting>>,
    info: ModelInfo,
    health: Health,
    jobs: Vec<(u64, Job)>,
    lost_at: Option<usize>,
}

impl Backend for Room {
    fn identity(&self) -> &ModelInfo {
        &self.info
    }

    fn abilities(&self) -> &Abilities {
        &child::ABILITIES
    }

    fn readiness(&self) -> Readiness {
        Readiness::Ready
    }

    fn health(&self) -> &Health {
        &self.health
    }

    fn failures(&self) -> u64 {
        0
    }

    fn pid(&self) -> Option<u32> {
        None
    }

    fn submit(&mut self, id: u64, _: Rank, job: Job) {
        self.jobs.push((id, job));
    }

    fn cancel(&mut self, _: u64) {}

    fn next(&mut self, wait: Duration, _: bool, out: &mut Vec<Answered>) {
        std::thread::sleep(wait.min(Duration::from_millis(1)));
        let mut model = self.model.lock().unwrap();
        for (id, job) in std::mem::take(&mut self.jobs) {
            let is_lost = self.lost_at == Some(model.calls.len());
            let mut answers = model.answer(std::slice::from_ref(&job), &|| true).jobs.swap_remove(0);
            if is_lost {
                answers.iter_mut().for_each(|a| *a = Err(VlmError::Lost { why: "it was lost".into() }));
            }
            out.push(Answered { id, answers, timing: Timing::default() });
        }
    }
}

/// The line's inspection by the engine room of a picture of so many tiles, and what was asked.
fn on_the_line(said: Vec<Said>, lost_at: Option<usize>) -> (Inspection, Arc<Mutex<Counting>>) {
    let width = 100 * said.len() as u32;
    let counting = Counting { info: ModelInfo::default(), said, calls: vec![], looked: 0 };
    let model = Arc::new(Mutex::new(counting));
    let (info, health) = (ModelInfo::default(), Health::default());
    let room = Room { model: Arc::clone(&model), info, health, jobs: vec![], lost_at };
    let engine = Engine::start(Box::new(room), Box::new(|| {})).unwrap();
    let frame = Frame {
        pixels: Arc::new(image::RgbImage::new(width, 100)),
        captured: Instant::now(),
        ..Frame::without_picture("cam1", Trigger::default(), SystemTime::now())
    };
    let inspection = under_way::inspect(&engine, Class::Line, frame, Arc::new(pipeline()), &|| true).unwrap();
    (inspection, model)
}

#[test]
fn the_engine_room_is_not_asked_about_normal_tiles_either() {
    let said = vec![bank(NORMAL, 0.03), bank(NORMAL, 0.3), bank(NORMAL, 0.19), Said::Failed];
    let (inspection, model) = on_the_line(said.clone(), None);
    let asked = |kind| asked(&model.lock().unwrap(), kind);
    assert_eq!((asked("defects"), asked("text"), asked("bank")), (2, 4, 4));
    assert_eq!(inspection.skipped.iter().map(|s| s.tile).collect::<Vec<_>>(), [0, 2]);
    assert!(matches!(inspection.verdict, Verdict::Review(_)), "a bank has failed: {:?}", inspection.verdict);
    let (together, _) = inspected(&pipeline(), said);
    assert_eq!((together.skipped, together.tiles), (inspection.skipped, inspection.tiles));

    let (inspection, model) = on_the_line(vec![bank(NORMAL, 0.03); 3], None);
    assert_eq!(super::tests::asked(&model.lock().unwrap(), "defects"), 0, "not one question about defects");
    assert_eq!((inspection.verdict.clone(), inspection.tiles_skipped()), (Verdict::Pass, 3));
    assert_eq!((inspection.tiles.planned, inspection.tiles.inspected), (3, 3));
}

#[test]
fn an_engine_that_is_lost_over_a_bank_is_a_review_and_its_tile_is_not_skipped() {
    let (inspection, model) = on_the_line(vec![bank(NORMAL, 0.03); 2], Some(0));
    assert!(matches!(inspection.verdict, Verdict::Review(Reason::Engine { .. })), "{:?}", inspection.verdict);
    assert!(inspection.skipped.iter().all(|s| s.tile != 0), "{:?}", inspection.skipped);
    assert_eq!(
        asked(&model.lock().unwrap(), "defects"),
        0,
        "nothing more is asked of what may be lost again"
    );
    assert!(inspection.tiles.inspected < inspection.tiles.planned);
}
