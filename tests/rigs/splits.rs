//! The promise of `inspectd calibrate`, on 1,000 halves of one archive of which everything is known.
//!
//! ```text
//! simulated defective parts --the real model, the real line--> N scores: the archive, drawn once
//!     '--shuffled, 1,000 times--> half --calibrate--> threshold --> escapes of the archive, at most `escape`?
//! ```
//!
//! What is exchangeable here: the parts of the archive, whose order is drawn anew for every split. So a half is a sample
//! without replacement of the archive, and the archive is "the parts to come" that the promise is about. Splits are
//! independent of each other once the archive is drawn, and each breaks the promise with one probability, which is known
//! exactly: the threshold is too high if and only if the half proves the first limit by which too much of the archive
//! passes, and the parts that pass by it are hypergeometric in the half. The rig holds this probability to
//! 1 - confidence, and counts splits against it.
//!
//! The escapes of the other half are no such test: they are those of the archive less those of the first half, so that a
//! half with few of them proves more and leaves more to the other one. Nor is a second, larger archive: all splits would
//! err together with the first one. How often the other half is over the bound is reported, and nothing is asked of it.

use crate::soak;
use inspectd::domain::frame::{Frame, Trigger};
use inspectd::domain::promise::{PromiseRule, Wanted};
use inspectd::evaluate::calibrate::{Case, Fails, calibrate, grid};
use inspectd::inspect::inspect;
use inspectd::recipe::load_pipeline;
use inspectd::simulator::{Mix, tile};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use vlm::Qwen3Vl;
use vlm::engine::EngineOptions;

/// Parts of the archive: of the short form, and of the full one.
const PARTS: [usize; 2] = [20, 600];
const SPLITS: usize = 1_000;
const SIDE: u32 = 256;

/// Defective parts as the shipped model scores them. Nothing but its score holds a part back, so that every threshold
/// has something to lose.
fn archive(parts: usize) -> Vec<Case> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let model = root.join("fixtures/model");
    let files = (model.join("inspectd-small.gguf"), model.join("mmproj-inspectd-small.gguf"));
    let options = EngineOptions { threads: 2, ..EngineOptions::default() };
    let mut vlm = Qwen3Vl::load(&files.0, &files.1, options, &candle_core::Device::Cpu).expect("it loads");
    let pipeline = load_pipeline(&root.join("pipelines/examples-defects.toml")).expect("it is sound");
    let (mut cases, mut seed) = (vec![], 0);
    while cases.len() < parts {
        seed += 1;
        let (rgb, truth) = tile(980_000, seed, SIDE as usize, SIDE as usize, Mix::Defect);
        if truth.defects.is_empty() {
            continue;
        }
        let picture = image::RgbImage::from_raw(SIDE, SIDE, rgb).expect("its size fits");
        let trigger = Trigger { deadline: Some(Duration::from_mins(10)), ..Trigger::default() };
        let frame = Frame {
            pixels: Arc::new(picture),
            captured: Instant::now(),
            ..Frame::without_picture("cam1", trigger, SystemTime::now())
        };
        let inspection = inspect(&mut vlm, &frame, &pipeline);
        // Without a whole answer a part is a review, whatever the threshold: it has no score to be drawn.
        let Some(case) = Case::of(&inspection, &pipeline.verdict, true) else { continue };
        cases.push(Case { passes: true, fails: Fails::Never, ..case });
    }
    cases
}

/// Parts that pass by a limit.
fn escapes(cases: &[Case], limit: f32) -> usize {
    cases.iter().filter(|case| case.score <= limit).count()
}

/// ln of n over k.
fn ln_choose(n: usize, k: usize) -> f64 {
    (1..=k).map(|i| ((n - k + i) as f64 / i as f64).ln()).sum()
}

/// How likely at most `k` of `marked` parts of an archive are in a half of it.
fn at_most(k: usize, archive: usize, marked: usize, half: usize) -> f64 {
    let fits = |i: &usize| half >= *i && archive - marked >= half - i;
    let one =
        |i: usize| ln_choose(marked, i) + ln_choose(archive - marked, half - i) - ln_choose(archive, half);
    (0..=k.min(marked)).filter(fits).map(|i| one(i).exp()).sum()
}

/// The probability that a split is over the bound. Thresholds are tried in their order, so that it is over the bound when
/// the first limit by which too much of the archive passes is proven: when the half has no more of these parts than it
/// may have.
fn broken_by_chance(cases: &[Case], half: usize, wanted: Wanted) -> f64 {
    let proven = |passing: usize| {
        let parts: Vec<Case> =
            (0..half).map(|i| Case { score: if i < passing { 0.0 } else { 1.0 }, ..cases[0] }).collect();
        calibrate(&parts, 0, wanted).thresholds.is_some()
    };
    let most =
        (0..half).take_while(|passing| proven(*passing)).last().expect("a half without escapes proves it");
    let bound = wanted.promise.escape * cases.len() as f64;
    let over = grid().into_iter().map(|limit| escapes(cases, limit)).find(|passing| *passing as f64 > bound);
    over.map_or(0.0, |passing| at_most(most, cases.len(), passing, half))
}

#[test]
fn splits_of_an_archive_break_the_promise_no_more_often_than_is_said() {
    let began = Instant::now();
    let parts = soak::count(PARTS[0], PARTS[1]);
    let is_short = parts < 400;
    // A half of twenty parts proves no more than this.
    let (escape, confidence) = if is_short { (0.3, 0.7) } else { (0.05, 0.95) };
    let wanted = Wanted { promise: PromiseRule { escape, confidence }, false_fail: 0.05 };
    let mut cases = archive(parts);
    let half = parts / 2;
    let chance = broken_by_chance(&cases, half, wanted);
    let mut rng = ChaCha8Rng::seed_from_u64(1934);
    let (mut broken, mut others, mut sum) = (0, 0, 0.0);
    for _ in 0..SPLITS {
        cases.shuffle(&mut rng);
        let (known, other) = cases.split_at(half);
        let Some(found) = calibrate(known, 0, wanted).thresholds else { continue };
        let share = |cases: &[Case]| escapes(cases, found.review_above) as f64 / cases.len() as f64;
        broken += usize::from(share(&cases) > escape);
        others += usize::from(share(other) > escape);
        sum += share(&cases);
    }
    soak::report(&format!(
        "calibration: {parts} defective parts, {SPLITS} halves, at most {escape} may pass with {confidence}: over the \
         bound {broken} ({:.1} expected, {:.0} allowed), mean share {:.4}; of the other halves {others}; {:.0} s",
        chance * SPLITS as f64,
        (1.0 - confidence) * SPLITS as f64,
        sum / SPLITS as f64,
        began.elapsed().as_secs_f64()
    ));
    assert!(chance > 0.0 && chance <= 1.0 - confidence, "{chance}");
    let deviation = (chance * (1.0 - chance) * SPLITS as f64).sqrt();
    let gap = (broken as f64 - chance * SPLITS as f64).abs();
    assert!(
        gap <= 5.0 * deviation + 1.0,
        "{broken} of {SPLITS} splits are over the bound, by chance {chance}"
    );
}
