//! Prompts and forced answers for this engine and for llama.cpp (`.ci/llama/llama-judge.cpp`), and how far the two are
//! from a reference.
//!
//! ```text
//! reference: prompt --> its most likely tokens, the answer
//! each program: prompt, then token by token the reference's answer --> logits where each token is to be chosen
//! ```
//!
//! The answer is forced, so that one token that was chosen otherwise does not make all that follow it incomparable.

use candle_core::Device;
use image::{Rgb, RgbImage};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use vlm::attention::Span;
use vlm::batch::{Batch, Picture};
use vlm::image::preprocess;
use vlm::kv::{Arena, KvPrecision};
use vlm::load::{Loaded, load};
use vlm::precision::Precision;
use vlm::rope::image_advance;
use vlm::template::Opening;
use vlm::text::Work;

/// A text and a vision file.
pub(crate) type Files<'a> = (&'a Path, &'a Path);

/// A question, with or without a picture.
pub(crate) struct Question {
    pub picture: Option<RgbImage>,
    pub text: String,
}

impl Question {
    /// The `i`th of many: every second one about a picture, whose sides need no resize.
    pub(crate) fn numbered(i: usize, (width, height): (u32, u32)) -> Self {
        const ASKED: [&str; 5] = ["scratches", "dents", "cracks", "missing screws", "labels"];
        let text = format!("Part {i}: list all {} that you see, as JSON.", ASKED[i % ASKED.len()]);
        let k = i as u32 + 1;
        let pixel = |x, y| Rgb([(x * k / 2) as u8, (y * 3 + k * 40) as u8, (x * y % (200 + k)) as u8]);
        let picture = i.is_multiple_of(2).then(|| RgbImage::from_fn(width, height, pixel));
        Self { picture, text }
    }

    /// Tokens before and behind the picture's rows; without a picture all are behind.
    fn tokens(&self, m: &Loaded) -> (Vec<u32>, Vec<u32>) {
        let before = if self.picture.is_some() { m.template.prefix() } else { vec![] };
        let behind =
            m.template.question(&m.tokenizer, &self.text, self.picture.is_some(), Opening::Free).unwrap();
        (before, behind)
    }
}

/// What a program says to one question: logits of the whole vocabulary, a row for each token of the answer.
pub(crate) type Rows = Vec<Vec<f32>>;

pub(crate) fn open(files: Files, precision: Precision) -> Loaded {
    load(files.0, files.1, Some(precision), &Device::Cpu).unwrap()
}

/// The model's own answer of so many tokens, without an end.
pub(crate) fn answer(m: &Loaded, question: &Question, tokens: usize) -> (Rows, Vec<u32>) {
    let mut said = vec![];
    let rows = run(m, question, tokens, |_, row| {
        said.push(best(row));
        said[said.len() - 1]
    });
    (rows, said)
}

/// What it says while the answer is another's.
pub(crate) fn forced(m: &Loaded, question: &Question, answer: &[u32]) -> Rows {
    run(m, question, answer.len(), |i, _| answer[i])
}

fn run(m: &Loaded, question: &Question, tokens: usize, mut next: impl FnMut(usize, &[f32]) -> u32) -> Rows {
    let (before, behind) = question.tokens(m);
    let (mut batch, mut position) = (Batch::default(), before.len() as u32);
    batch.tokens(&before, 0);
    if let Some(image) = &question.picture {
        let c = &m.vision.config;
        let patches = preprocess(image, c.patch, c.merge, 1, 1 << 20).unwrap();
        let seen = m.vision.forward(&[&patches]).unwrap();
        let (rows, cols) = (patches.grid.rows / c.merge, patches.grid.cols / c.merge);
        let picture = Picture { rows, cols, embeds: seen.embeds, deepstack: seen.deepstack };
        batch.picture(&Arc::new(picture), position);
        position += image_advance(rows, cols);
    }
    batch.tokens(&behind, position);
    position += behind.len() as u32;
    batch.part([], 0);
    batch.want_next();
    let c = &m.text.config;
    let room = batch.rows() + tokens;
    let mut arena =
        Arena::new(c.blocks, room, (c.kv_heads, c.head_dim), KvPrecision::default(), &Device::Cpu).unwrap();
    let (mut work, mut rows, mut filled) = (Work::default(), Rows::new(), 0);
    for i in 0..tokens {
        m.text.forward(&batch, &mut arena, &mut work).unwrap();
        filled += batch.rows();
        let logits = m.text.next_logits(&mut work, |_| None).unwrap();
        rows.push(logits.row(0).all().unwrap().to_vec());
        let id = next(i, &rows[i]);
        batch.clear();
        batch.tokens(&[id], position + i as u32);
        batch.part([Span { start: 0, rows: filled }], filled);
        batch.want_next();
    }
    rows
}

fn best(logits: &[f32]) -> u32 {
    (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap() as u32
}

/// The folder of llama.cpp, which `.ci/peers-llama` prints.
pub(crate) fn llama() -> PathBuf {
    let folder =
        std::env::var("PEERS_LLAMA").expect("PEERS_LLAMA names the folder that .ci/peers-llama prints");
    PathBuf::from(folder)
}

/// Runs a program to its end and gives its words; a panic with them when it fails.
pub(crate) fn words_of(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let words = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {words}");
    words.into_owned()
}

/// What llama.cpp says while the answers are another's. `m` gives the tokens of the questions.
pub(crate) fn forced_by_llama(
    files: Files,
    m: &Loaded,
    questions: &[Question],
    answers: &[Vec<u32>],
) -> Vec<Rows> {
    let dir = tempfile::tempdir().unwrap();
    let (jobs, out) = (dir.path().join("jobs"), dir.path().join("logits"));
    let mut lines = String::new();
    let list = |ids: &[u32]| ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
    for (i, (question, answer)) in questions.iter().zip(answers).enumerate() {
        let (before, behind) = question.tokens(m);
        let (mut file, mut sides) = ("-".to_owned(), (0, 0));
        if let Some(picture) = &question.picture {
            let path = dir.path().join(format!("{i}.rgb"));
            std::fs::write(&path, picture.as_raw()).unwrap();
            (file, sides) = (path.display().to_string(), picture.dimensions());
        }
        let (width, height) = sides;
        let (before, behind, answer) = (list(&before), list(&behind), list(answer));
        writeln!(lines, "{before}\t{file}\t{width}\t{height}\t{behind}\t{answer}").unwrap();
    }
    std::fs::write(&jobs, lines).unwrap();
    let judge = llama().join("bin/llama-judge");
    // Threads that wait by turning take the processor from what else runs.
    let mut command = Command::new(judge);
    words_of(command.env("OMP_WAIT_POLICY", "passive").arg("logits").args([files.0, files.1, &jobs, &out]));
    let bytes = std::fs::read(&out).unwrap();
    let values: Vec<f32> = bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    let rows: usize = answers.iter().map(Vec::len).sum();
    let mut rows = values.chunks(values.len() / rows).map(<[f32]>::to_vec);
    answers.iter().map(|answer| rows.by_ref().take(answer.len()).collect()).collect()
}

/// How far a program is from the reference, over all rows of all answers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Distance {
    pub rows: usize,
    /// Of the log probability of the reference's most likely token: the mean difference and the largest.
    pub mean: f64,
    pub largest: f64,
    /// Mean Kullback-Leibler divergence from the reference, in nats.
    pub divergence: f64,
    /// Rows in which it would choose the reference's token.
    pub equal: usize,
}

impl Distance {
    pub(crate) fn of(found: &[Rows], expected: &[Rows]) -> Self {
        let pairs: Vec<_> = found.iter().flatten().zip(expected.iter().flatten()).collect();
        let mut d = Self { rows: pairs.len(), ..Self::default() };
        for (found, expected) in pairs {
            assert_eq!(found.len(), expected.len(), "a row is of the whole vocabulary");
            let token = best(expected);
            let (found_log, expected_log) = (log_probabilities(found), log_probabilities(expected));
            let gap = (found_log[token as usize] - expected_log[token as usize]).abs();
            let term = |(p, q): (&f64, &f64)| p.exp() * (p - q);
            d.mean += gap / d.rows as f64;
            d.largest = d.largest.max(gap);
            d.divergence += expected_log.iter().zip(&found_log).map(term).sum::<f64>() / d.rows as f64;
            d.equal += usize::from(best(found) == token);
        }
        d
    }

    /// For a table.
    pub(crate) fn words(&self) -> String {
        let Self { rows, mean, largest, divergence, equal } = self;
        format!("{mean:.4} | {largest:.3} | {divergence:.5} | {equal} of {rows}")
    }
}

fn log_probabilities(logits: &[f32]) -> Vec<f64> {
    let top = f64::from(logits.iter().copied().fold(f32::MIN, f32::max));
    let sum = logits.iter().map(|x| (f64::from(*x) - top).exp()).sum::<f64>().ln() + top;
    logits.iter().map(|x| f64::from(*x) - sum).collect()
}
