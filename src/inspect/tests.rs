//! Tests of the line: what is put together from answers, and what happens when that fails.

use super::*;
use crate::domain::frame::Trigger;
use crate::domain::rect::Rect;
use crate::recipe::pipeline_from_str;
use proptest::prelude::*;
use std::sync::Arc;
use vlm::{AnswerToken, Answers, Finish, Ground};

/// The recipe of all scripted models, for another label, with a mask and a grade.
fn pipeline() -> Pipeline {
    let base = include_str!("../../tests/common/scripted.toml");
    let text = base.replace(r#"["scratch", "pit"]"#, r#"["pit", "stain"]"#);
    assert_ne!(text, base);
    let text = format!("{text}[[grade]]\nlabel = \"stain\"\ngrade = \"cosmetic\"\n");
    let mut pipeline = pipeline_from_str("scripted.toml", &text).expect("the recipe is sound");
    pipeline.frame.mask = vec![Rect::new(0, 0, 30, 30)];
    pipeline
}

/// Two tiles.
fn frame() -> Frame {
    Frame {
        camera: "cam1".into(),
        pixels: Arc::new(image::RgbImage::new(200, 100)),
        captured_at: SystemTime::now(),
        captured: Instant::now(),
        exposed: None,
        clip: vec![],
        trigger: Trigger::default(),
        origin: "test".into(),
        replayed: false,
    }
}

/// An item of an answer: its label and box, and the probabilities of its being opened and of its label.
#[derive(Clone, Debug)]
struct Item {
    label: &'static str,
    bbox: [u16; 4],
    opened: f32,
    named: f32,
}

/// The answer of these items that ended with the probability `end`.
fn answer(items: &[Item], end: f32) -> Completion {
    let (mut text, mut tokens) = (String::new(), vec![]);
    let mut push = |piece: &str, prob: f32| {
        let start = text.len();
        text.push_str(piece);
        tokens.push(AnswerToken { id: 0, start, end: text.len(), prob });
    };
    push("[", 1.0);
    for (i, item) in items.iter().enumerate() {
        push(if i == 0 { "{" } else { ",{" }, item.opened);
        push(&format!("\"bbox_2d\":{:?},\"label\":\"", item.bbox), 1.0);
        push(item.label, item.named);
        push("\",\"severity\":\"minor\"}", 1.0);
    }
    push("]", end);
    Completion {
        text,
        tokens,
        prompt_ids: vec![1],
        finish: Finish::Stop,
        ground: Ground::Constrained,
        cells: None,
    }
}

struct Script {
    info: ModelInfo,
    answers: Vec<Completion>,
    asked: Vec<String>,
}

impl Vlm for Script {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn answer(&mut self, jobs: &[Job], _: &(dyn Fn() -> bool + Sync)) -> Answers {
        self.asked = jobs.iter().map(|job| job.asks[0].text.to_string()).collect();
        Answers {
            jobs: self.answers.iter().map(|a| vec![Ok(a.clone())]).collect(),
            timing: Timing::default(),
        }
    }
}

/// What a model that states these labels says about the two tiles.
fn scripted(stated: &[&str], answers: [Completion; 2]) -> Script {
    let info = ModelInfo { labels: stated.iter().map(|l| (*l).to_owned()).collect(), ..ModelInfo::default() };
    Script { info, answers: answers.into(), asked: vec![] }
}

fn judged(stated: &[&str], first: Completion) -> Inspection {
    inspect(&mut scripted(stated, [first, answer(&[], 1.0)]), &frame(), &pipeline())
}

const IN_VIEW: [u16; 4] = [500, 500, 600, 600];
const MASKED: [u16; 4] = [100, 100, 200, 200];

fn item(label: &'static str, bbox: [u16; 4], opened: f32, named: f32) -> Item {
    Item { label, bbox, opened, named }
}

/// The reason's confidence of a review that is for doubt alone.
fn doubt(inspection: &Inspection) -> Option<f32> {
    match &inspection.verdict {
        Verdict::Review(Reason::LowConfidence { what, confidence })
            if what == "nothing else in the tiles" =>
        {
            Some(*confidence)
        }
        _ => None,
    }
}

#[test]
fn a_cosmetic_finding_does_not_hide_the_doubt_about_the_rest_of_its_tile() {
    let stain = [item("stain", IN_VIEW, 0.95, 0.95)];
    assert_eq!(judged(&[], answer(&stain, 0.97)).verdict, Verdict::Pass);
    let doubtful = judged(&[], answer(&stain, 0.45));
    assert_eq!((doubt(&doubtful), doubtful.findings.len()), (Some(0.45), 1));
}

#[test]
fn a_masked_finding_does_not_hide_the_doubt_about_the_rest_of_its_tile() {
    let masked = [item("pit", MASKED, 0.95, 0.95)];
    assert_eq!(judged(&[], answer(&masked, 0.97)).verdict, Verdict::Pass);
    let doubtful = judged(&[], answer(&masked, 0.45));
    assert_eq!((doubt(&doubtful), doubtful.findings.len()), (Some(0.45), 0));
}

#[test]
fn noise_beside_a_kept_finding_leaves_its_doubt() {
    let items = [item("stain", IN_VIEW, 0.95, 0.95), item("pit", IN_VIEW, 0.8, 0.5)];
    let doubtful = judged(&[], answer(&items, 1.0));
    assert!(doubt(&doubtful).is_some_and(|p| (p - 0.2).abs() < 1e-6), "{:?}", doubtful.verdict);
}

#[test]
fn a_model_is_asked_all_labels_that_it_states_and_the_rest_is_dropped_after() {
    let stated = ["scratch", "stain", "pit"];
    let mut model = scripted(&stated, [answer(&[], 1.0), answer(&[], 1.0)]);
    let inspection = inspect(&mut model, &frame(), &pipeline());
    assert_eq!(model.asked, ["Find scratch, stain, pit."; 2]);
    assert_eq!(inspection.prompt_hash, prompt_hash(&pipeline(), &model.info));
    assert_ne!(inspection.prompt_hash, prompt_hash(&pipeline(), &ModelInfo::default()));
    let mut model = scripted(&[], [answer(&[], 1.0), answer(&[], 1.0)]);
    inspect(&mut model, &frame(), &pipeline());
    assert_eq!(model.asked, ["Find pit, stain."; 2], "where none are stated the list is asked as it is");

    let scratch = |named, end| judged(&stated, answer(&[item("scratch", IN_VIEW, 0.9, named)], end));
    let sure = scratch(1.0, 1.0);
    assert_eq!((&sure.verdict, sure.findings.len(), sure.answers.len()), (&Verdict::Pass, 0, 1));
    assert!(sure.score > 0.8, "something is there, and the score says so");
    let unsure = scratch(0.5, 1.0);
    assert!(doubt(&unsure).is_some_and(|p| (p - 0.55).abs() < 1e-6), "it may be a pit: {:?}", unsure.verdict);
    assert_eq!(doubt(&scratch(1.0, 0.45)), Some(0.45), "it explains itself alone");
    let both = [item("scratch", MASKED, 0.9, 0.9), item("pit", IN_VIEW, 0.9, 0.9)];
    assert_eq!(
        judged(&stated, answer(&both, 1.0)).verdict,
        Verdict::Fail(Reason::Finding { label: "pit".into() })
    );
}

#[test]
fn a_label_that_the_model_does_not_know_is_a_review() {
    let inspection = judged(&["scratch", "pit"], answer(&[], 1.0));
    let Verdict::Review(reason) = &inspection.verdict else { panic!("{:?}", inspection.verdict) };
    assert!(
        reason.to_string().contains("not trained with the label \"stain\" of prompt surface"),
        "{reason}"
    );
}

#[test]
fn a_panic_while_an_inspection_is_put_together_is_a_review_of_that_frame() {
    let (frame, pipeline) = (frame(), pipeline());
    let work = Work { frame: &frame, pipeline: &pipeline };
    let inspection = guarded(work, &ModelInfo::default(), || panic!("a fault became Pass"));
    let Verdict::Review(Reason::Engine { message }) = &inspection.verdict else {
        panic!("{:?}", inspection.verdict)
    };
    assert!(message.contains("a fault became Pass"), "{message}");
}

fn any_answer() -> impl Strategy<Value = (Vec<Item>, f32)> {
    let label = proptest::sample::select(vec!["scratch", "pit", "stain"]);
    let bbox = proptest::sample::select(vec![IN_VIEW, MASKED]);
    let item = (label, bbox, 0.5f32..=1.0, 0.3f32..=1.0)
        .prop_map(|(label, bbox, opened, named)| item(label, bbox, opened, named));
    (proptest::collection::vec(item, 0..3), 0.3f32..=1.0)
}

proptest! {
    #[test]
    fn nothing_passes_that_an_answer_leaves_unexplained((items, end) in any_answer()) {
        let inspection = judged(&["scratch", "pit", "stain"], answer(&items, end));
        if inspection.verdict == Verdict::Pass {
            prop_assert!(end >= 0.6);
            for one in &items {
                let (sure, masked) = (one.opened * one.named, one.bbox == MASKED);
                match one.label {
                    "scratch" => prop_assert!(one.opened - sure <= 0.4 + 1e-6),
                    _ if sure < 0.5 => prop_assert!(one.opened <= 0.4 + 1e-6),
                    label => prop_assert!(masked || label == "stain"),
                }
            }
        }
    }
}
