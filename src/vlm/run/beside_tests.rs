//! Jobs with adapters beside others: each is answered as if it were alone.

use super::tests::{job, model, said, user};
use crate::clip::Shown;
use crate::engine::EngineOptions;
use crate::synth::adapter;
use crate::turn::{Role, Turn};
use crate::{AdapterFile, Ask, Completion, Features, Form, Job, Qwen3Vl, Rank, Steps, Vlm, VlmError};
use ::image::RgbImage;
use candle_core::Device;
use std::path::Path;
use std::sync::Arc;

type Answer = Result<Completion, VlmError>;

const TEXT: [(&str, usize, usize); 3] =
    [("blk.0.attn_q.weight", 128, 64), ("blk.1.attn_v.weight", 64, 64), ("blk.3.ffn_down.weight", 64, 160)];
const TOWER: [(&str, usize, usize); 2] = [("v.blk.1.ffn_down.weight", 64, 160), ("mm.0.weight", 256, 256)];

fn adapters() -> [AdapterFile; 2] {
    [adapter(1, &[TEXT.as_slice(), &TOWER].concat()), adapter(50, &TEXT)]
}

/// A picture with two questions.
fn part(shade: u8, adapter: Option<&AdapterFile>) -> Job {
    let picture = RgbImage::from_fn(96, 64, |x, y| ::image::Rgb([shade, (x * 2) as u8, (y * 3) as u8]));
    let asks = ["What is there?", "Find scratch, dent."].map(|text| Ask::new(text, Form::Free, 10)).to_vec();
    let shown = Shown::Images(vec![Arc::new(picture)]);
    Job { asks, adapter: adapter.cloned(), ..job(shown, Ask::new("", Form::Free, 1)) }
}

/// Answers of jobs that come together, one list a job.
fn together(model: &mut Qwen3Vl, jobs: &[Job]) -> Vec<Vec<Answer>> {
    model.answer(jobs, &|| true).jobs
}

fn whole(answers: &[Answer]) -> Vec<&Completion> {
    answers.iter().map(|answer| answer.as_ref().expect("it is answered")).collect()
}

/// Texts, tokens and every bit of their probabilities: `Completion` compares all of them. What stands beside a job of its
/// own kind is left as it is, since a group of the tower rounds by its size, with or without adapters.
#[test]
fn jobs_of_two_adapters_and_of_none_are_answered_together_as_without_the_others() {
    let [one, other] = adapters();
    let kinds = [None, Some(&one), Some(&other)];
    let jobs: Vec<Job> = (0..9).map(|i| part(20 * i as u8, kinds[i % 3])).collect();
    let mixed = together(&mut model(2000), &jobs);
    for kind in 0..kinds.len() {
        // In an engine that has never seen another adapter.
        let own: Vec<Job> = jobs.iter().skip(kind).step_by(kinds.len()).cloned().collect();
        let alone = together(&mut model(2000), &own);
        for (mixed, alone) in mixed.iter().skip(kind).step_by(kinds.len()).zip(&alone) {
            assert_eq!(whole(mixed), whole(alone), "kind {kind}");
        }
    }
    // What the adapters add is there.
    let of = |adapter| together(&mut model(2000), &[part(20, adapter)]).remove(0);
    let [none, one, other] = kinds.map(of);
    assert!(whole(&none) != whole(&one) && whole(&none) != whole(&other) && whole(&one) != whole(&other));
}

#[test]
fn jobs_that_come_while_others_are_answered_change_nothing() {
    let [one, other] = adapters();
    let jobs = [part(1, Some(&one)), part(2, None), part(3, Some(&other)), part(4, Some(&one))];
    let mut model = model(2000);
    let (mut out, mut next) = (vec![], 0);
    while out.len() < jobs.len() {
        // One more before every second step.
        if next < 2 * jobs.len() && next.is_multiple_of(2) {
            model.submit(next as u64 / 2, Rank::default(), jobs[next / 2].clone());
        }
        next += 1;
        model.step(&mut out);
    }
    for answered in out {
        let alone = together(&mut super::tests::model(2000), &[jobs[answered.id as usize].clone()]);
        assert_eq!(whole(&answered.answers), whole(&alone[0]), "job {}", answered.id);
    }
}

#[test]
fn what_is_kept_of_a_conversation_is_of_its_adapter_alone() {
    let [one, _] = adapters();
    let long: String = (0..400).map(|i| format!("{i} ")).collect();
    let turns =
        vec![user([said(&long)]), Turn::text(Role::Assistant, "Yes."), Turn::text(Role::User, "Why?")];
    let asked = |adapter: Option<&AdapterFile>| {
        let asked = job(Shown::Turns(turns.clone()), Ask::new("", Form::Free, 8));
        Job { adapter: adapter.cloned(), ..asked }
    };
    let mut model = model(4000);
    let [plain, adapted] = [None, Some(&one)].map(|a| together(&mut model, &[asked(a)]).remove(0));
    assert!(whole(&plain) != whole(&adapted));
    let kept = model.parts().0.prefixes.len();
    // Both are kept, and found again.
    for (adapter, first) in [(None, &plain), (Some(&one), &adapted)] {
        let again = together(&mut model, &[asked(adapter)]).remove(0);
        assert_eq!(whole(first), whole(&again));
    }
    assert_eq!(model.parts().0.prefixes.len(), kept);
    let alone = together(&mut super::tests::model(4000), &[asked(Some(&one))]).remove(0);
    assert_eq!(whole(&alone), whole(&adapted));
}

#[test]
fn features_of_the_tower_are_those_of_the_adapters_tower() {
    let [one, other] = adapters();
    let features = |model: &mut Qwen3Vl, adapter: Option<&AdapterFile>| {
        let job = Job { asks: vec![Ask::cells(Features::Tower)], ..part(9, adapter) };
        together(model, &[job]).remove(0)
    };
    let mut model = model(1000);
    let [none, tower, text] = [None, Some(&one), Some(&other)].map(|adapter| features(&mut model, adapter));
    assert!(whole(&none) != whole(&tower), "it changes the tower");
    assert_eq!(whole(&none), whole(&text), "it does not");
}

#[test]
fn an_adapter_that_does_not_fit_fails_its_job_and_no_other() {
    let foreign = adapter(1, &[("blk.0.attn_q.weight", 96, 64)]);
    let head = adapter(1, &[("token_embd.weight", 640, 64)]);
    let mut model = model(1000);
    let answers = together(&mut model, &[part(1, Some(&foreign)), part(1, None), part(1, Some(&head))]);
    for (answers, words) in [(&answers[0], "of another model"), (&answers[2], "[model] adapter")] {
        for answer in answers {
            let error = answer.as_ref().expect_err("refused").to_string();
            assert!(error.contains(words) && error.contains("adapter-1.gguf"), "{error}");
        }
    }
    assert_eq!(whole(&answers[1]), whole(&together(&mut model, &[part(1, None)])[0]));
}

#[test]
fn the_oldest_unused_adapters_are_given_up_and_their_rows_are_free_again() {
    let mut model = model(1000);
    let first = adapter(0, &TEXT);
    let before = together(&mut model, &[part(1, Some(&first))]).remove(0);
    let free = model.parts().0.arena.free_rows();
    for seed in 1..20 {
        together(&mut model, &[part(1, Some(&adapter(seed, &TEXT)))]);
    }
    let (engine, _) = model.parts();
    assert_eq!(engine.shelf.len(), 8);
    let rows = engine.model.template.prefix().len();
    assert_eq!(engine.arena.free_rows(), free - 7 * rows);
    assert_eq!(whole(&together(&mut model, &[part(1, Some(&first))])[0]), whole(&before));
}

/// The budget: what the pair, a pass, keys and values leave; or what was set aside for adapters.
#[test]
fn adapters_have_no_more_memory_than_is_set_aside() {
    let file = |name: &str| Path::new("../../fixtures/reference/tiny").join(name);
    let (text, vision) = (file("tiny-q8_0.gguf"), file("mmproj-tiny-q8_0.gguf"));
    let load = |adapters_mb| {
        // The keys and values take all that is left.
        let options = EngineOptions { threads: 1, memory_mb: 520, adapters_mb, ..EngineOptions::default() };
        Qwen3Vl::load(&text, &vision, options, &Device::Cpu).expect("it is enough")
    };
    let large: Vec<(&str, usize, usize)> = TEXT.to_vec();
    let adapter = adapter(3, &large);
    let refused = together(&mut load(0), &[part(1, Some(&adapter))]).remove(0);
    let error = refused[0].as_ref().expect_err("no room").to_string();
    assert!(error.contains("memory_mb") && error.contains("adapter-3.gguf"), "{error}");
    assert!(together(&mut load(1), &[part(1, Some(&adapter))]).remove(0)[0].is_ok());
}

/// Beside weights in f32 the terms are what merging them gives, but for rounding.
#[test]
fn beside_the_weights_it_is_the_model_that_it_is_when_merged() {
    let file = |name: &str| Path::new("../../fixtures/reference/tiny").join(name);
    let (text, vision) = (file("tiny-f32.gguf"), file("mmproj-tiny-f32.gguf"));
    let [adapter, _] = adapters();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.gguf");
    std::fs::write(&path, &adapter.bytes).unwrap();
    let options = EngineOptions { threads: 1, ..EngineOptions::default() };
    let mut merged = Qwen3Vl::load_with(&text, &vision, Some(&path), options, &Device::Cpu).unwrap();
    let mut pair = Qwen3Vl::load(&text, &vision, options, &Device::Cpu).unwrap();
    let (merged_answers, beside) =
        (together(&mut merged, &[part(7, None)]), together(&mut pair, &[part(7, Some(&adapter))]));
    for (one, other) in whole(&merged_answers[0]).into_iter().zip(whole(&beside[0])) {
        assert_eq!(one.text, other.text);
        for (a, b) in one.tokens.iter().zip(&other.tokens) {
            assert!((a.prob - b.prob).abs() < 1e-4, "{} and {}", a.prob, b.prob);
        }
    }
    // Both at once are no model that anybody trained.
    let refused = together(&mut merged, &[part(7, Some(&adapter))]).remove(0);
    let error = refused[0].as_ref().expect_err("refused").to_string();
    assert!(error.contains("merged into the pair already"), "{error}");
}
