//! Files of llama.cpp's own converter and quantiser, as users bring them: `make test-files`, which gets llama.cpp first.
//!
//! ```text
//! random Qwen3-VL, Qwen's tokenizer --convert_hf_to_gguf--> f32 --llama-quantize--> each type --+--> this engine
//!                                                                                              +--> llama.cpp
//!                                                       each type --llama-quantize--> f32: the reference
//! ```
//!
//! The reference is the engine in f32, which tests/golden.rs holds to transformers, on weights that llama.cpp itself has
//! expanded. A type that the engine does not take must be refused by its name.

#[path = "common/judge.rs"]
mod judge;

use candle_core::Device;
use judge::{Distance, Question, answer, forced, forced_by_llama, llama, open, words_of};
use std::path::{Path, PathBuf};
use std::process::Command;
use vlm::gguf::Value;
use vlm::load::{Loaded, load};
use vlm::precision::Precision;
use vlm::state::with_keys;
use vlm::synth::{Quant, Shape, Vocabulary, write_pair};

/// `llama-quantize`'s names of the types that users find on the shelves.
const TYPES: [&str; 31] = [
    "F32",
    "F16",
    "BF16",
    "Q8_0",
    "Q6_K",
    "Q5_K_M",
    "Q5_K_S",
    "Q4_K_M",
    "Q4_K_S",
    "Q3_K_L",
    "Q3_K_M",
    "Q3_K_S",
    "Q2_K",
    "Q2_K_S",
    "Q5_1",
    "Q5_0",
    "Q4_1",
    "Q4_0",
    "IQ4_XS",
    "IQ4_NL",
    "IQ3_M",
    "IQ3_S",
    "IQ3_XS",
    "IQ3_XXS",
    "IQ2_M",
    "IQ2_XXS",
    "IQ1_S",
    "TQ1_0",
    "TQ2_0",
    "MXFP4_MOE",
    DYNAMIC,
];
/// A file that holds several types, as those called dynamic do.
const DYNAMIC: &str = "several types";
const DYNAMIC_OPTIONS: [&str; 8] = [
    "--tensor-type",
    "attn_v=q8_0",
    "--tensor-type",
    "ffn_down=iq4_xs",
    "--tensor-type",
    "ffn_gate=q3_k",
    "--tensor-type",
    "attn_output=q5_0",
];
const QUESTIONS: usize = 8;
const ANSWER_TOKENS: usize = 8;
/// Sides of the small model's pictures: 12 rows, more than the 8 below which llama.cpp enlarges a picture.
const SMALL_PX: (u32, u32) = (128, 96);
/// Largest difference of a log probability between a file and the f32 that llama.cpp makes of it, both summed in f32.
const EXPANDED_MAX: f64 = 1e-3;
/// 8-bit activations may be so much farther from the reference than llama.cpp's: the two round differently, and which of
/// them is nearer is chance in one file.
const CHANCE: f64 = 1.3;

/// A converted model in a folder of its own.
struct Converted {
    dir: tempfile::TempDir,
}

impl Converted {
    fn new(options: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let tokenizer = root.join("fixtures/reference/tokenizer/qwen3.json.gz");
        let maker = root.join(".ci/llama/random-model");
        words_of(python().arg(maker).arg(dir.path().join("hf")).arg(tokenizer).args(options));
        let converted = Self { dir };
        converted.convert(&[], "f32", "text-f32.gguf");
        converted
    }

    /// The official converter; `out` in the folder.
    fn convert(&self, options: &[&str], outtype: &str, out: &str) -> PathBuf {
        let converter = llama().join("source/convert_hf_to_gguf.py");
        let (out, hf) = (self.path(out), self.path("hf"));
        words_of(
            python()
                .arg(converter)
                .args(["--no-lazy", "--outtype", outtype, "--outfile"])
                .arg(&out)
                .arg(hf)
                .args(options),
        );
        out
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn mmproj(&self, outtype: &str) -> PathBuf {
        self.convert(&["--mmproj"], outtype, &format!("mmproj-{outtype}.gguf"))
    }

    /// The text file in a type of `llama-quantize`.
    fn quantised(&self, kind: &str) -> PathBuf {
        let (text, out) = (self.path("text-f32.gguf"), self.path("quantised.gguf"));
        let importance = self.path("importance.gguf");
        if !importance.exists() {
            let maker = Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/llama/even-importance");
            words_of(python().arg(maker).args([&text, &importance]));
        }
        let (options, kind): (&[&str], _) =
            if kind == DYNAMIC { (&DYNAMIC_OPTIONS, "Q4_K_M") } else { (&[], kind) };
        let options = [&["--imatrix", importance.to_str().unwrap()], options].concat();
        quantise(&options, &text, &out, kind);
        out
    }
}

/// The Python of llama.cpp's converter, which takes what it needs of `PyTorch` from `.ci/llama/torch`.
fn python() -> Command {
    let mut command = Command::new(llama().join("venv/bin/python"));
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/llama");
    let paths = std::env::join_paths([ours, llama().join("source/gguf-py")]).unwrap();
    command.env("PYTHONPATH", paths);
    command
}

fn quantise(options: &[&str], from: &Path, to: &Path, kind: &str) {
    let program = llama().join("bin/llama-quantize");
    words_of(Command::new(program).arg("--allow-requantize").args(options).args([from, to]).arg(kind));
}

fn questions(count: usize, sides: (u32, u32)) -> Vec<Question> {
    (0..count).map(|i| Question::numbered(i, sides)).collect()
}

/// What became of a file: a row of the table, or why it is wrong.
fn judge_text(model: &Converted, kind: &str, mmproj: &Path) -> Result<String, String> {
    let text = model.quantised(kind);
    let refusal = load(&text, mmproj, Some(Precision::Eight), &Device::Cpu).map(|_| ()).err();
    if let Some(refusal) = refusal {
        let words = refusal.to_string();
        let kinds = kinds_of(&text);
        let is_named = kinds.iter().any(|kind| words.contains(kind.as_str()));
        let row = format!("{kind} | refused: {}", words.rsplit('/').next().unwrap_or_default());
        return if is_named { Ok(row) } else { Err(format!("{row}: none of {kinds:?} is named")) };
    }
    let twin = model.path("twin.gguf");
    quantise(&[], &text, &twin, "F32");
    let asked = questions(QUESTIONS, SMALL_PX);
    let reference = open((&twin, mmproj), Precision::Expanded);
    let (expected, answers): (Vec<_>, Vec<_>) =
        asked.iter().map(|q| answer(&reference, q, ANSWER_TOKENS)).unzip();
    let by = |precision| -> Distance {
        let m = open((&text, mmproj), precision);
        let found: Vec<_> = asked.iter().zip(&answers).map(|(q, a)| forced(&m, q, a)).collect();
        Distance::of(&found, &expected)
    };
    let (expanded, eight) = (by(Precision::Expanded), by(Precision::Eight));
    let other = Distance::of(&forced_by_llama((&text, mmproj), &reference, &asked, &answers), &expected);
    let row = format!("{kind} | {:.0e} | {} | {}", expanded.largest, eight.words(), other.words());
    if expanded.largest > EXPANDED_MAX {
        return Err(format!("{row}: the weights are read otherwise than llama.cpp reads them"));
    }
    // Where nothing is rounded, what is left is the order of sums and llama.cpp's keys in f16.
    let is_near = eight.mean <= (other.mean * CHANCE).max(EXPANDED_MAX);
    if is_near { Ok(row) } else { Err(format!("{row}: farther from the reference than llama.cpp")) }
}

/// llama.cpp's names of the types in which a file holds its matrices.
fn kinds_of(text: &Path) -> Vec<String> {
    let reader = "import sys; from gguf import GGUFReader\n\
                  print(*{t.tensor_type.name for t in GGUFReader(sys.argv[1]).tensors} - {'F32', 'F16', 'BF16'})";
    let words = words_of(python().args(["-c", reader]).arg(text));
    words.split_whitespace().map(str::to_owned).collect()
}

fn judge_all(model: &Converted, kinds: &[&str], mmproj: &Path) {
    println!(
        "type | expanded, largest | inspectd: mean | largest | divergence | equal | llama.cpp: the same"
    );
    let mut wrong = vec![];
    for kind in kinds {
        match judge_text(model, kind, mmproj) {
            Ok(row) => println!("{row}"),
            Err(row) => {
                println!("WRONG {row}");
                wrong.push(row);
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
#[ignore = "needs llama.cpp: make test-files"]
fn converted_text_of_every_type() {
    let model = Converted::new(&[]);
    let mmproj = model.mmproj("f32");
    judge_all(&model, &TYPES, &mmproj);
}

#[test]
#[ignore = "needs llama.cpp: make test-files"]
fn converted_text_with_an_output_matrix_of_its_own() {
    let model = Converted::new(&["--untied"]);
    let mmproj = model.mmproj("f32");
    judge_all(&model, &["Q4_K_M", "Q8_0", "F16"], &mmproj);
}

#[test]
#[ignore = "needs llama.cpp: make test-files"]
fn converted_towers() {
    let model = Converted::new(&[]);
    let text = model.path("text-f32.gguf");
    let asked = questions(QUESTIONS, SMALL_PX);
    for outtype in ["f32", "f16", "bf16", "q8_0"] {
        let mmproj = model.mmproj(outtype);
        let files = (text.as_path(), mmproj.as_path());
        let reference = open(files, Precision::Expanded);
        let (expected, answers): (Vec<_>, Vec<_>) =
            asked.iter().map(|q| answer(&reference, q, ANSWER_TOKENS)).unzip();
        let m = open(files, Precision::Eight);
        let found: Vec<_> = asked.iter().zip(&answers).map(|(q, a)| forced(&m, q, a)).collect();
        let eight = Distance::of(&found, &expected);
        let other = Distance::of(&forced_by_llama(files, &reference, &asked, &answers), &expected);
        println!("{outtype} | {} | {}", eight.words(), other.words());
        assert!(
            eight.mean <= (other.mean * CHANCE).max(EXPANDED_MAX),
            "{outtype}: {eight:?}, llama.cpp {other:?}"
        );
    }
}

#[test]
#[ignore = "needs llama.cpp: make test-files"]
fn a_split_file_is_one_model() {
    let model = Converted::new(&[]);
    let (text, mmproj) = (model.quantised("Q4_K_M"), model.mmproj("f32"));
    let program = llama().join("bin/llama-gguf-split");
    words_of(
        Command::new(program)
            .args(["--split", "--split-max-tensors", "20"])
            .arg(&text)
            .arg(model.path("part")),
    );
    let first = model.path("part-00001-of-00003.gguf");
    let question = Question::numbered(0, SMALL_PX);
    let said = |text: &Path| answer(&open((text, &mmproj), Precision::Eight), &question, ANSWER_TOKENS);
    assert_eq!(said(&first), said(&text));
}

#[test]
#[ignore = "needs llama.cpp: make test-files"]
fn a_mixture_of_experts_is_refused_by_its_name() {
    let model = Converted::new(&["--moe"]);
    let mmproj = model.mmproj("f32");
    let refusal = load(&model.path("text-f32.gguf"), &mmproj, None, &Device::Cpu).map(|_| ());
    let words = refusal.expect_err("it is no dense model").to_string();
    assert!(words.contains("qwen3vlmoe"), "{words}");
}

#[test]
#[ignore = "needs llama.cpp: make test-files"]
fn a_converted_vocabulary_gives_the_tokenizer_s_ids() {
    let model = Converted::new(&[]);
    let m = open((&model.path("text-f32.gguf"), &model.mmproj("f32")), Precision::Eight);
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/reference/tokenizer/vectors.jsonl");
    for line in std::fs::read_to_string(vectors).unwrap().lines() {
        let v: serde_json::Value = serde_json::from_str(line).unwrap();
        let ids: Vec<u32> = v["ids"].as_array().unwrap().iter().map(|i| i.as_u64().unwrap() as u32).collect();
        assert_eq!(m.tokenizer.encode_trusted(v["text"].as_str().unwrap()).unwrap(), ids, "{}", v["text"]);
    }
}

/// The context that the scaled files say they were trained for, in tokens.
const TRAINED: u64 = 256;
/// Words before a question, which so reaches some seven times as far; llama.cpp takes 2048 tokens at once.
const WORDS: usize = 900;
/// A difference between the programs that comes of the order of sums and of keys in f16, in times of that without scaling.
const ALIKE: f64 = 3.0;
/// The model without the scaling is farther from the scaled one than llama.cpp is, so many times at least.
const UNLIKE: f64 = 5.0;

#[test]
#[ignore = "needs llama.cpp: make test-files"]
fn positions_are_scaled_as_llama_s() {
    let model = Converted::new(&[]);
    let (mmproj, plain) = (model.mmproj("f32"), model.path("text-f32.gguf"));
    let text = |s: &str| Value::Text(s.to_owned());
    let yarn = [("type", text("yarn")), ("original_context_length", Value::Uint(TRAINED))];
    let asked: Vec<_> = (0..4)
        .map(|i| {
            let question = Question::numbered(i, SMALL_PX);
            let words = (0..WORDS).map(|w| format!("{} ", (w * 7 + i) % 10)).collect::<String>();
            Question { text: words + &question.text, ..question }
        })
        .collect();
    let apart = |file: &Path, reference: &Loaded| {
        let (expected, answers): (Vec<_>, Vec<_>) =
            asked.iter().map(|q| answer(reference, q, ANSWER_TOKENS)).unzip();
        let by_llama = forced_by_llama((file, &mmproj), reference, &asked, &answers);
        let unscaled = open((&plain, &mmproj), Precision::Expanded);
        let unscaled: Vec<_> = asked.iter().zip(&answers).map(|(q, a)| forced(&unscaled, q, a)).collect();
        [by_llama, unscaled].map(|found| Distance::of(&found, &expected))
    };
    let [unavoidable, _] = apart(&plain, &open((&plain, &mmproj), Precision::Expanded));
    println!("scaling | llama.cpp: mean | largest | divergence | equal | without scaling: the same");
    println!("none | {}", unavoidable.words());
    for (name, keys) in [
        ("linear, 4", vec![("type", text("linear")), ("factor", Value::Float(4.0))]),
        ("yarn, 4", [&yarn[..], &[("factor", Value::Float(4.0))]].concat()),
        ("yarn, 16", [&yarn[..], &[("factor", Value::Float(16.0))]].concat()),
        (
            "yarn, 4, attention",
            [&yarn[..], &[("factor", Value::Float(4.0)), ("attn_factor", Value::Float(1.25))]].concat(),
        ),
    ] {
        let keys: Vec<_> =
            keys.into_iter().map(|(key, value)| (format!("qwen3vl.rope.scaling.{key}"), value)).collect();
        let scaled = model.path(&format!("{name}.gguf"));
        with_keys(&plain, &scaled, &keys).unwrap();
        let [other, unscaled] = apart(&scaled, &open((&scaled, &mmproj), Precision::Expanded));
        println!("{name} | {} | {}", other.words(), unscaled.words());
        assert!(other.mean <= ALIKE * unavoidable.mean, "{name}: {other:?}, without scaling {unavoidable:?}");
        assert!(unscaled.mean >= UNLIKE * other.mean, "{name}: the scaling shows nowhere: {unscaled:?}");
    }
}

/// Questions of the measurement that says how far activations of 8 bits are from the reference.
const MANY_QUESTIONS: usize = 100;
const FIRST_TOKENS: usize = 4;

/// The 8B model with 4 of its 36 blocks and the shipped model's vocabulary: its widths, its whole tower, its own output matrix.
#[test]
#[ignore = "needs llama.cpp: make test-files"]
fn eight_bits_are_as_near_as_llama_s() {
    let shape = Shape { blocks: 4, vocabulary: 32_768, ..Shape::named("8b").unwrap() };
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/model/inspectd-small.gguf");
    let vocabulary = Vocabulary::of(&vlm::gguf::Gguf::open(&shipped).unwrap()).unwrap();
    println!("quantisation | inspectd: mean | largest | divergence | equal | llama.cpp: the same");
    for quant in [Quant::Q4KM, Quant::Q8_0] {
        let dir = tempfile::tempdir().unwrap();
        let (text, mmproj) = (dir.path().join("text.gguf"), dir.path().join("mmproj.gguf"));
        write_pair(&shape, quant, &vocabulary, 1, &text, &mmproj).unwrap();
        let files = (text.as_path(), mmproj.as_path());
        let asked = questions(MANY_QUESTIONS, (256, 256));
        let reference = open(files, Precision::Expanded);
        let (expected, answers): (Vec<_>, Vec<_>) =
            asked.iter().map(|q| answer(&reference, q, FIRST_TOKENS)).unzip();
        let other = Distance::of(&forced_by_llama(files, &reference, &asked, &answers), &expected);
        drop(reference);
        let m = open(files, Precision::Eight);
        let found: Vec<_> = asked.iter().zip(&answers).map(|(q, a)| forced(&m, q, a)).collect();
        let eight = Distance::of(&found, &expected);
        println!("{} | {} | {}", quant.name(), eight.words(), other.words());
        assert!(eight.mean <= other.mean * CHANCE, "{}: {eight:?}, llama.cpp {other:?}", quant.name());
    }
}
