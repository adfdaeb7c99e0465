//! P14, the model: a damaged file gives no proof, or still fails the parts that the sound one fails.
//!
//! ```text
//! copy of the shipped pair --1,000 flipped bits or a tenth zeroed in the tensors' data--> engine's process
//! engine --its proof--> refused: the part is a review
//!          '----------> let in: the known defective parts are inspected
//! ```
//!
//! The engine's process is this test binary again: `engine`.

use crate::{room, soak};
use inspectd::domain::frame::{Frame, Trigger};
use inspectd::domain::grade::Verdict;
use inspectd::domain::pipeline::Pipeline;
use inspectd::engine::Engine;
use inspectd::engine::child::Child;
use inspectd::engine::child::serve::serve;
use inspectd::ipc::Channel;
use inspectd::recipe::load_pipeline;
use inspectd::simulator::{Mix, tile};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use vlm::engine::EngineOptions;
use vlm::{Qwen3Vl, Steps};

/// Damaged pairs of the short form.
const PAIRS: usize = 6;
/// Defective parts for each pair that is let in.
const PARTS: usize = 3;
/// Tiles among which those parts are found.
const TILES_MAX: u64 = 40;
const FLIPPED_BITS: usize = 1_000;
const NAMES: [&str; 2] = ["inspectd-small.gguf", "mmproj-inspectd-small.gguf"];
/// Set in the child: the folder of its pair.
const CHILD: &str = "INSPECTD_TEST_DAMAGED_PAIR";

/// Not a test of its own: what the child does.
#[test]
fn engine() {
    let Some(folder) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
    let channel = Channel::of_this_process().expect("standard input is the socket");
    serve(channel, move || {
        let options = EngineOptions { threads: 2, ..EngineOptions::default() };
        let [text, mmproj] = NAMES.map(|name| folder.join(name));
        let engine = Qwen3Vl::load(&text, &mmproj, options, &candle_core::Device::Cpu)?;
        Ok(Box::new(engine) as Box<dyn Steps>)
    })
    .expect("the rig is there");
}

fn backend(folder: &Path) -> Child {
    Child::new(room::options("damaged::engine", (CHILD.into(), folder.into())))
}

fn verdict(engine: &Engine, picture: &Arc<image::RgbImage>, recipe: &Pipeline) -> Verdict {
    let frame = Frame {
        camera: "cam1".into(),
        pixels: Arc::clone(picture),
        captured_at: SystemTime::now(),
        captured: Instant::now(),
        exposed: None,
        clip: vec![],
        trigger: Trigger { deadline: Some(Duration::from_mins(2)), ..Trigger::default() },
        origin: "test".into(),
        replayed: false,
    };
    room::inspect(engine, &frame, recipe).verdict
}

/// Where the data of the tensors begins.
fn data_of(path: &Path) -> usize {
    let mut file = std::fs::File::open(path).expect("it opens");
    let content = candle_core::quantized::gguf_file::Content::read(&mut file).expect("it is GGUF");
    usize::try_from(content.tensor_data_offset).expect("it fits")
}

/// Bits flipped anywhere, or a tenth zeroed in one piece.
fn damage(data: &mut [u8], by_bits: bool, rng: &mut ChaCha8Rng) {
    if by_bits {
        for _ in 0..FLIPPED_BITS {
            let at = rng.gen_range(0..data.len());
            data[at] ^= 1 << rng.gen_range(0..8);
        }
    } else {
        let length = data.len() / 10;
        let at = rng.gen_range(0..data.len() - length);
        data[at..at + length].fill(0);
    }
}

/// Rendered tiles with defects that the sound pair surely fails.
fn defective(sound: &Path, recipe: &Pipeline) -> Vec<Arc<image::RgbImage>> {
    let mut backend = backend(sound);
    backend.load(&|| {}, &|| true).expect("the shipped pair gives its proof");
    let engine = room::start(backend);
    let mut parts = vec![];
    for seed in 1..=TILES_MAX {
        let (rgb, truth) = tile(970_000, seed, 256, 256, Mix::Defect);
        if truth.defects.is_empty() {
            continue;
        }
        let picture = Arc::new(image::RgbImage::from_raw(256, 256, rgb).expect("its size fits"));
        if matches!(verdict(&engine, &picture, recipe), Verdict::Fail(_)) {
            parts.push(picture);
        }
        if parts.len() == PARTS {
            return parts;
        }
    }
    panic!("the sound pair fails only {} of {TILES_MAX} defective tiles", parts.len());
}

#[test]
fn p14_damaged_models_pass_no_defective_part() {
    let began = Instant::now();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sound = root.join("fixtures/model");
    let mut recipe = load_pipeline(&root.join("pipelines/examples-defects.toml")).expect("it is sound");
    // The recipe of the examples scores raw answers; these are the limits of a line.
    (recipe.verdict.review_below_confidence, recipe.verdict.ignore_below_confidence) = (0.6, 0.5);
    let parts = defective(&sound, &recipe);
    let dir = tempfile::tempdir().expect("a folder");
    let files = NAMES.map(|name| (dir.path().join(name), std::fs::read(sound.join(name)).expect("it ships")));
    let begins = NAMES.map(|name| data_of(&sound.join(name)));
    let (pairs, mut refused, mut by_verdict) = (soak::count(PAIRS, 200), 0, [0; 3]);
    for n in 0..pairs {
        let mut rng = ChaCha8Rng::seed_from_u64(n as u64);
        for (which, (path, bytes)) in files.iter().enumerate() {
            let mut bytes = bytes.clone();
            if which == n % 2 {
                damage(&mut bytes[begins[which]..], n % 4 < 2, &mut rng);
            }
            std::fs::write(path, bytes).expect("it is written");
        }
        let mut backend = backend(dir.path());
        let is_refused = backend.load(&|| {}, &|| true).is_err();
        let engine = room::start(backend);
        refused += usize::from(is_refused);
        // A refused pair answers nothing: one part shows that.
        for part in parts.iter().take(if is_refused { 1 } else { PARTS }) {
            let verdict = verdict(&engine, part, &recipe);
            let at = ["pass", "fail", "review"].iter().position(|v| *v == verdict.as_str());
            by_verdict[at.expect("a verdict has a word")] += 1;
            assert!(!is_refused || matches!(verdict, Verdict::Review(_)), "pair {n}: {verdict:?}");
        }
    }
    let [pass, fail, review] = by_verdict;
    soak::report(&format!(
        "P14 models: {pairs} damaged pairs, {refused} refused, {} defective parts: {pass} passes, {fail} fails, \
         {review} reviews, {:.0} s",
        pass + fail + review,
        began.elapsed().as_secs_f64()
    ));
    assert_eq!(pass, 0, "a damaged model passed a defective part");
    assert!(refused > 0, "no damage was noticed");
}
