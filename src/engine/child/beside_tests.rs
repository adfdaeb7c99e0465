//! Jobs with adapters through a process: each adapter is sent once, and answered as in this process.

use super::serve::serve;
use super::{Admission, Backend, Child, ChildOptions, Refused, Trial};
use crate::ipc::{Channel, Program};
use image::RgbImage;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vlm::engine::EngineOptions;
use vlm::synth::adapter;
use vlm::{AdapterFile, Answered, Ask, Completion, Form, Job, ModelInfo, Qwen3Vl, Rank, Shown, Steps, Vlm};
use vlm::{VlmError, engine};

/// Set in the child.
const CHILD: &str = "INSPECTD_TEST_BESIDE";
const MATRICES: [(&str, usize, usize); 2] =
    [("blk.0.attn_q.weight", 128, 64), ("v.blk.1.ffn_down.weight", 64, 160)];
/// Nothing is decided by how long it takes.
const WAIT: Duration = Duration::from_mins(5);

#[derive(Debug)]
struct Anybody;

impl Admission for Anybody {
    fn admit(&self, _: &ModelInfo) -> Result<Box<dyn Trial>, Refused> {
        Ok(Box::new(Self))
    }
}

impl Trial for Anybody {
    fn jobs(&self) -> Vec<Job> {
        vec![]
    }

    fn judge(&mut self, _: Vec<Vec<Result<Completion, VlmError>>>) -> Result<(), String> {
        Ok(())
    }
}

fn tiny() -> Result<Qwen3Vl, VlmError> {
    let file = |name: &str| Path::new("fixtures/reference/tiny").join(name);
    let options = EngineOptions { threads: 1, ..engine::EngineOptions::default() };
    let (text, vision) = (file("tiny-q8_0.gguf"), file("mmproj-tiny-q8_0.gguf"));
    Qwen3Vl::load(&text, &vision, options, &candle_core::Device::Cpu)
}

/// Not a test of its own: what the child does.
#[test]
fn engine_of_the_test() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let channel = Channel::of_this_process().expect("standard input is the socket");
    serve(channel, || Ok(Box::new(tiny()?) as Box<dyn Steps>)).expect("the test is there");
}

fn job(adapter: Option<&AdapterFile>) -> Job {
    let picture = RgbImage::from_fn(96, 64, |x, y| image::Rgb([40, (x * 2) as u8, (y * 3) as u8]));
    Job {
        shown: Shown::Images(vec![Arc::new(picture)]),
        min_pixels: 1024,
        max_pixels: 6144,
        asks: vec![Ask::new("What is there?", Form::Free, 8)],
        adapter: adapter.cloned(),
    }
}

fn answered(backend: &mut Child, jobs: &[Job]) -> Vec<Completion> {
    jobs.iter().enumerate().for_each(|(id, job)| backend.submit(id as u64, Rank::default(), job.clone()));
    let (mut out, started) = (Vec::<Answered>::new(), Instant::now());
    while out.len() < jobs.len() {
        backend.next(Duration::from_millis(20), true, &mut out);
        assert!(started.elapsed() < WAIT, "it answers");
    }
    out.sort_by_key(|answered| answered.id);
    out.into_iter().map(|mut answered| answered.answers.remove(0).expect("it is answered")).collect()
}

#[test]
fn adapters_reach_the_process_and_more_of_them_than_it_keeps() {
    let mut program = Program::new([
        "--exact",
        "engine::child::beside_tests::engine_of_the_test",
        "--nocapture",
        "--test-threads=1",
        "--quiet",
    ]);
    program.env.push((CHILD.into(), "1".into()));
    let mut backend = Child::new(ChildOptions::new(program, None, Arc::new(Anybody)));
    backend.load(&|| {}, &|| true).expect("the pair is sound");
    let adapters: Vec<AdapterFile> = (0..10).map(|seed| adapter(7 * seed, &MATRICES)).collect();
    let mut here = tiny().expect("the pair is sound");
    let mut alone = |adapter: Option<&AdapterFile>| {
        here.answer(&[job(adapter)], &|| true).jobs.remove(0).remove(0).expect("it is answered")
    };
    // Side by side, then one after the other, and the first again, which it has forgotten meanwhile.
    let together = answered(&mut backend, &[job(Some(&adapters[0])), job(None), job(Some(&adapters[1]))]);
    assert_eq!(together, [alone(Some(&adapters[0])), alone(None), alone(Some(&adapters[1]))]);
    assert!(together[0] != together[1] && together[2] != together[1]);
    for adapter in adapters.iter().chain([&adapters[0]]) {
        assert_eq!(answered(&mut backend, &[job(Some(adapter))]), [alone(Some(adapter))], "{adapter:?}");
    }
}
