//! A run of fine-tuning: from where it stands to the end of its time.
//!
//! ```text
//! checkpoint, or the source
//!   '-> draw -> batch -> loss -> gradients -> step --each minute, and when it is told to stop--> checkpoint
//!                '---------- until the time is spent ----------'                       '-> pair or adapter
//! ```
//!
//! Time counts while steps are made, over all runs of the same folder. The running line is not touched: what comes of
//! it are files.

use super::batch::{Batch, Maker};
use super::checkpoint::{self, FILE, Stand};
use super::draw::Set;
use super::loss::loss;
use super::optim::{Moments, rate};
use super::tower::Tower;
use super::weights::{How, Pair, Weights};
use super::write::{self, Named};
use crate::learn::LearnError;
use candle_core::Device;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A checkpoint comes so often, and at the end.
pub(crate) const CHECKPOINT_EVERY: Duration = Duration::from_mins(1);
/// The highest rate of each way: those that worked on photographs.
const RATE_WHOLE: f64 = 3e-4;
const RATE_LOW: f64 = 2e-3;
/// Steps in a row whose gradients are not finite, until the run is given up.
const NOT_FINITE_MAX: u64 = 20;
/// Share of the newest step in the mean loss that is told.
const LOSS_SHARE: f32 = 0.05;
const SEED: u64 = 2026;

/// What is wanted of a run.
#[derive(Clone, Debug)]
pub(crate) struct Wanted<'a> {
    pub pair: &'a Pair,
    pub how: How,
    /// Name of the pipeline, by which the files are called.
    pub pipeline: &'a str,
    /// The labels that the model will state; empty: none.
    pub labels: &'a [String],
    /// All labels that are asked.
    pub asked: &'a [String],
    /// Where everything is written.
    pub dir: &'a Path,
    /// Time on steps, over all runs of this folder.
    pub time: Duration,
    /// Most steps; `None`: as many as there is time for.
    pub steps_max: Option<u64>,
    /// Does not go on from a checkpoint.
    pub anew: bool,
    pub device: &'a Device,
}

/// How far a run is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told {
    pub steps: u64,
    /// Mean loss of the answers over the last steps.
    pub loss: f32,
    pub spent: Duration,
    pub left: Duration,
}

/// What came of a run.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub steps: u64,
    pub spent: Duration,
    /// Mean loss of the answers at the first step of this run, and over the last ones.
    pub first_loss: f32,
    pub last_loss: f32,
    /// Went on from a checkpoint of so many steps.
    pub resumed_at: u64,
    /// The pair, the adapter, or nothing when it was stopped before its time.
    pub files: Vec<PathBuf>,
}

impl Outcome {
    /// The time was spent.
    pub(crate) fn is_complete(&self) -> bool {
        !self.files.is_empty()
    }
}

/// Trains until the time is spent or `keep_going` says no, which is asked between steps.
///
/// # Errors
/// There is a checkpoint of another run, a file cannot be written, or the gradients are not finite.
pub(crate) fn train(
    set: &Set,
    wanted: &Wanted<'_>,
    keep_going: &dyn Fn() -> bool,
    tell: &mut dyn FnMut(Told),
) -> Result<Outcome, LearnError> {
    let base = [wanted.pair.text.sha256()?, wanted.pair.mmproj.sha256()?];
    let mut run = Run::open(set, wanted, &base)?;
    let (resumed_at, mut first_loss, mut kept) = (run.stand.steps, None, Instant::now());
    while !run.is_done() {
        if !keep_going() {
            run.keep()?;
            return Ok(run.outcome(resumed_at, first_loss, vec![]));
        }
        let started = Instant::now();
        let answers = run.step()?;
        run.stand.spent_s += started.elapsed().as_secs_f64();
        first_loss.get_or_insert(answers);
        tell(run.told());
        // The first step's says at once that the folder takes one.
        if run.stand.steps == 1 || kept.elapsed() >= CHECKPOINT_EVERY {
            run.keep()?;
            kept = Instant::now();
        }
    }
    run.keep()?;
    let files = run.write([&base[0], &base[1]])?;
    Ok(run.outcome(resumed_at, first_loss, files))
}

/// A run under way.
struct Run<'a> {
    set: &'a Set,
    wanted: &'a Wanted<'a>,
    weights: Weights,
    moments: Moments,
    maker: Maker,
    tower: Tower,
    rng: ChaCha8Rng,
    stand: Stand,
    not_finite: u64,
}

impl<'a> Run<'a> {
    fn open(set: &'a Set, wanted: &'a Wanted<'a>, base: &[String; 2]) -> Result<Self, LearnError> {
        let io = |source| LearnError::Io { path: wanted.dir.into(), source };
        std::fs::create_dir_all(wanted.dir).map_err(io)?;
        let mut rng = ChaCha8Rng::seed_from_u64(SEED);
        let weights = Weights::load(wanted.pair, wanted.how, wanted.asked.len(), &mut rng, wanted.device)?;
        let run = identity(set, wanted, base);
        let path = wanted.dir.join(FILE);
        let found = if wanted.anew { None } else { checkpoint::read(&path, &weights, &run)? };
        let (stand, moments) = found.unwrap_or_else(|| {
            let place = rng.get_word_pos().to_string();
            (Stand { run, steps: 0, spent_s: 0.0, place, loss: 0.0 }, Moments::default())
        });
        checkpoint::place(&mut rng, &stand);
        Ok(Self {
            set,
            wanted,
            weights,
            moments,
            maker: Maker::new(wanted.pair, wanted.asked)?,
            tower: Tower::new(&wanted.pair.vision_config, wanted.device),
            rng,
            stand,
            not_finite: 0,
        })
    }

    /// Share of the run that is behind it, by time or by steps, whichever ends it first.
    fn share(&self) -> f64 {
        let of_time = self.stand.spent_s / self.wanted.time.as_secs_f64();
        let of_steps = self.wanted.steps_max.map_or(0.0, |max| self.stand.steps as f64 / max as f64);
        of_time.max(of_steps)
    }

    fn is_done(&self) -> bool {
        self.share() >= 1.0
    }

    /// One step; the loss of its answers comes back.
    fn step(&mut self) -> Result<f32, LearnError> {
        let batch: Batch = self.maker.batch(&self.set.draw(self.stand.steps, &mut self.rng))?;
        let weights = self.weights.step()?;
        let (loss, answers) = loss(&weights, self.wanted.pair, &mut self.tower, &batch, self.wanted.device)?;
        let grads = loss.backward()?;
        let highest = match self.wanted.how {
            How::Whole => RATE_WHOLE,
            How::Low { .. } => RATE_LOW,
        };
        let rate = rate(highest, self.stand.steps, self.share());
        if self.moments.step(&self.weights, &grads, rate)? {
            self.not_finite = 0;
        } else {
            self.not_finite += 1;
            if self.not_finite >= NOT_FINITE_MAX {
                let why = format!("{NOT_FINITE_MAX} steps in a row had gradients that are not finite");
                return Err(LearnError::Recipe { why });
            }
        }
        let share = if self.stand.steps == 0 { 1.0 } else { LOSS_SHARE };
        if answers.is_finite() {
            self.stand.loss += share * (answers - self.stand.loss);
        }
        self.stand.steps += 1;
        Ok(answers)
    }

    fn keep(&mut self) -> Result<(), LearnError> {
        self.stand.place = self.rng.get_word_pos().to_string();
        checkpoint::write(&self.wanted.dir.join(FILE), &self.weights, &self.moments, &self.stand)
    }

    fn write(&self, base: [&str; 2]) -> Result<Vec<PathBuf>, LearnError> {
        let Wanted { dir, pair, pipeline, labels, how, .. } = *self.wanted;
        let named = Named { pipeline, labels, base };
        match how {
            How::Whole => Ok(write::pair(dir, pair, &self.weights, named)?.to_vec()),
            How::Low { rank } => Ok(vec![write::adapter(dir, rank, &self.weights, named)?]),
        }
    }

    fn spent(&self) -> Duration {
        Duration::from_secs_f64(self.stand.spent_s.max(0.0))
    }

    fn told(&self) -> Told {
        let spent = self.spent();
        Told {
            steps: self.stand.steps,
            loss: self.stand.loss,
            spent,
            left: self.wanted.time.saturating_sub(spent),
        }
    }

    fn outcome(&self, resumed_at: u64, first_loss: Option<f32>, files: Vec<PathBuf>) -> Outcome {
        let Stand { steps, loss, .. } = self.stand;
        Outcome {
            steps,
            spent: self.spent(),
            first_loss: first_loss.unwrap_or(loss),
            last_loss: loss,
            resumed_at,
            files,
        }
    }
}

/// The sha256 of all that a run learns from, and of how.
fn identity(set: &Set, wanted: &Wanted<'_>, base: &[String; 2]) -> String {
    let mut hasher = Sha256::new();
    let mut add = |bytes: &[u8]| {
        hasher.update((bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    base.iter().for_each(|hash| add(hash.as_bytes()));
    add(match wanted.how {
        How::Whole => "whole".to_owned(),
        How::Low { rank } => format!("rank {rank}"),
    }
    .as_bytes());
    wanted.asked.iter().for_each(|label| add(label.as_bytes()));
    for tile in [&set.defective, &set.good, &set.lines].into_iter().flatten() {
        add(tile.question().as_bytes());
        add(tile.answer().text.as_bytes());
        add(tile.picture.as_raw());
    }
    hasher.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
#[path = "train_tests.rs"]
mod tests;
