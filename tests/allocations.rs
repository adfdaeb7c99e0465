//! A step of decoding allocates nothing: the engine's buffers are used again.
//!
//! The only test of its process, because the count is of all threads.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use vlm::engine::EngineOptions;
use vlm::kv::KvPrecision;
use vlm::synth::{Quant, Shape, Vocabulary, write_pair};
use vlm::{Ask, Finish, Form, Job, Qwen3Vl, Shown, Vlm};

/// Blocks that were taken so far; one that was made larger counts again.
static TAKEN: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, with a count.
struct Counting;

// SAFETY: every call goes to the system's allocator unchanged; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        TAKEN.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const TOKENS: usize = 96;
/// Passes after which every buffer has its size.
const WARM: usize = 32;

/// How many blocks were taken before each pass.
static BEFORE_PASS: [AtomicUsize; TOKENS] = [const { AtomicUsize::new(0) }; TOKENS];

#[test]
fn a_step_of_decoding_allocates_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (text, mmproj) = (dir.path().join("text.gguf"), dir.path().join("mmproj.gguf"));
    let shape = Shape::named("tiny-k").unwrap();
    write_pair(&shape, Quant::Q4KM, &Vocabulary::bytes(), 3, &text, &mmproj).unwrap();
    let picture = Arc::new(image::RgbImage::from_fn(64, 64, |x, y| image::Rgb([(x * y) as u8, x as u8, 9])));
    let ask = |text: &str| Ask::new(text, Form::Free, TOKENS);
    let job = Job {
        shown: Shown::Images(vec![picture]),
        min_pixels: 4096,
        max_pixels: 4096,
        asks: ["Find defects.", "Read the text.", "What is it?"].map(ask).into(),
        adapter: None,
    };
    // Each step is handed to the pool, whose queue takes a block for every 63 of them. A second thread makes its
    // scratch when it first attends, which may be late.
    for (threads, kv, late) in
        [(1, KvPrecision::Single, 2), (1, KvPrecision::Eight, 2), (2, KvPrecision::Half, 6)]
    {
        let options = EngineOptions { threads, kv, ..EngineOptions::default() };
        let mut engine = Qwen3Vl::load(&text, &mmproj, options, &candle_core::Device::Cpu).unwrap();
        let passes = AtomicUsize::new(0);
        let answers = engine.answer(std::slice::from_ref(&job), &|| {
            let pass = passes.fetch_add(1, Ordering::Relaxed);
            if let Some(before) = BEFORE_PASS.get(pass) {
                before.store(TAKEN.load(Ordering::Relaxed), Ordering::Relaxed);
            }
            true
        });
        for answer in &answers.jobs[0] {
            let answer = answer.as_ref().unwrap();
            assert_eq!((answer.finish, answer.tokens.len()), (Finish::Length, TOKENS), "{}", answer.text);
        }
        let before: Vec<usize> = BEFORE_PASS.iter().map(|n| n.load(Ordering::Relaxed)).collect();
        let taken: Vec<usize> = before.windows(2).map(|w| w[1] - w[0]).collect();
        assert!(taken[0] > 0, "the counter counts nothing");
        let steady: usize = taken[WARM..].iter().sum();
        assert!(steady <= late, "{threads} threads, {kv:?}: blocks taken by each pass: {taken:?}");
    }
}
