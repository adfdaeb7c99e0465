//! Bad model files: every one is refused in words that name the file and the key or tensor, without a
//! panic and without taking memory that the file cannot need.

#[path = "common/memory.rs"]
mod memory;
#[path = "common/pairs.rs"]
mod pairs;

use candle_core::Device;
use inspectd::vlm::engine::EngineOptions;
use inspectd::vlm::gguf::Value;
use inspectd::vlm::load::load;
use inspectd::vlm::synth::Shape;
use inspectd::vlm::synth::write::NewFile;
use inspectd::vlm::{Qwen3Vl, VlmError};
use memory::{Counting, peak_bytes_of};
use pairs::{Pair, outside_the_vocabulary};
use proptest::prelude::*;
use std::path::Path;
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The sound pair takes some 20 MB.
const BYTES_MAX: usize = 200 << 20;

/// Loads a pair that must be refused; the words of the refusal.
fn refused(pair: &Pair) -> String {
    let started = Instant::now();
    let (result, peak) = peak_bytes_of(|| load(&pair.text, &pair.mmproj, None, &Device::Cpu).map(|_| ()));
    let words = result.expect_err("a bad file is refused").to_string();
    assert!(peak < BYTES_MAX, "{peak} bytes: {words}");
    assert!(started.elapsed() < Duration::from_mins(1), "{words}");
    words
}

/// The refusal of a pair whose text file was changed names the file and `what`.
fn refused_text(change: impl FnOnce(&mut NewFile), what: &str) {
    let pair = Pair::sound();
    pair.rewrite_text(change);
    let words = refused(&pair);
    assert!(words.contains(pair.text.to_str().unwrap()) && words.contains(what), "{what}: {words}");
}

fn refused_vision(change: impl FnOnce(&mut NewFile), what: &str) {
    let pair = Pair::sound();
    pair.rewrite_vision(change);
    let words = refused(&pair);
    assert!(words.contains(pair.mmproj.to_str().unwrap()) && words.contains(what), "{what}: {words}");
}

fn set(file: &mut NewFile, key: &str, value: Value) {
    let entry = file.metadata.iter_mut().find(|(k, _)| k == key).expect("the key is there");
    entry.1 = value;
}

/// Overwrites bytes of a header; `at` finds their place in it.
fn patch(path: &Path, at: impl FnOnce(&[u8]) -> usize, bytes: &[u8]) {
    let mut file = std::fs::read(path).unwrap();
    let at = at(&file);
    file[at..at + bytes.len()].copy_from_slice(bytes);
    std::fs::write(path, file).unwrap();
}

/// The place just behind a text of the header.
fn behind(text: &'static str) -> impl FnOnce(&[u8]) -> usize {
    move |file| {
        let found = file.windows(text.len()).position(|w| w == text.as_bytes());
        found.expect("the text stands in the header") + text.len()
    }
}

/// A pair patched in its text file; the refusal names the file and `what`.
fn refused_patch(at: impl FnOnce(&[u8]) -> usize, bytes: &[u8], what: &str) {
    let pair = Pair::sound();
    patch(&pair.text, at, bytes);
    let words = refused(&pair);
    assert!(words.contains(pair.text.to_str().unwrap()) && words.contains(what), "{what}: {words}");
}

#[test]
fn the_sound_pair_loads() {
    let pair = Pair::sound();
    let (loaded, peak) = peak_bytes_of(|| load(&pair.text, &pair.mmproj, None, &Device::Cpu).map(|_| ()));
    loaded.expect("it is sound");
    println!("a sound pair takes {peak} bytes at its peak");
    assert!(peak > 1 << 20, "the allocator counts: {peak}");
}

#[test]
fn cut_off_files_are_named() {
    for vision in [false, true] {
        let pair = Pair::sound();
        let path = if vision { &pair.mmproj } else { &pair.text };
        let whole = std::fs::read(path).unwrap();
        let header = pair.header_bytes(vision);
        // Every byte of the first fields, many places of the header and of the tensors, the last byte.
        let steps = (0..64)
            .chain((64..header).step_by(header / 150))
            .chain((header..whole.len()).step_by(whole.len() / 20));
        for cut in steps.chain([whole.len() - 40]) {
            std::fs::write(path, &whole[..cut]).unwrap();
            let words = refused(&pair);
            assert!(words.contains(path.to_str().unwrap()), "cut at {cut}: {words}");
        }
    }
}

#[test]
fn files_that_are_no_gguf_are_named() {
    refused_patch(|_| 0, b"GGML", "magic");
    refused_patch(|_| 4, &1u32.to_le_bytes(), "version");
    refused_patch(|_| 4, &4u32.to_le_bytes(), "version");
    let pair = Pair::sound();
    std::fs::write(&pair.mmproj, b"").unwrap();
    assert!(refused(&pair).contains("magic"));
    std::fs::remove_file(&pair.mmproj).unwrap();
    assert!(matches!(load(&pair.text, &pair.mmproj, None, &Device::Cpu), Err(VlmError::Io { .. })));
    std::fs::create_dir(&pair.mmproj).unwrap();
    assert!(refused(&pair).contains("mmproj"));
}

#[test]
fn another_architecture_is_named() {
    let text = |s: &str| Value::Text(s.into());
    refused_text(|f| set(f, "general.architecture", text("qwen2vl")), "general.architecture");
    refused_vision(|f| set(f, "general.architecture", text("qwen3vl")), "general.architecture");
    refused_vision(|f| set(f, "clip.projector_type", text("mlp")), "clip.projector_type");
}

#[test]
fn swapped_files_are_told() {
    let pair = Pair::sound();
    let swapped = load(&pair.mmproj, &pair.text, None, &Device::Cpu).map(|_| ());
    let words = swapped.expect_err("they are swapped").to_string();
    assert!(words.contains(pair.mmproj.to_str().unwrap()), "{words}");
    let twice = load(&pair.text, &pair.text, None, &Device::Cpu).map(|_| ());
    let words = twice.expect_err("there is no tower").to_string();
    assert!(words.contains("general.architecture"), "{words}");
}

#[test]
fn files_of_different_models_do_not_pair() {
    let pair = Pair::sound();
    let tiny = Shape::named("tiny-k").unwrap();
    let other = Pair::of(&Shape { hidden: 512, ..tiny });
    let mixed = load(&pair.text, &other.mmproj, None, &Device::Cpu).map(|_| ()).expect_err("512 is not 256");
    assert!(matches!(mixed, VlmError::Pair { .. }), "{mixed}");
    let words = mixed.to_string();
    assert!(words.contains("512") && words.contains("256"), "{words}");
    let pair = Pair::sound();
    pair.rewrite_text(|f| set(f, "qwen3vl.n_deepstack_layers", Value::Uint(2)));
    assert!(refused(&pair).contains("DeepStack"));
}

#[test]
fn a_missing_tensor_is_named() {
    let names = |file: NewFile| file.tensors.into_iter().map(|t| t.name).collect::<Vec<_>>();
    let pair = Pair::sound();
    for name in names(pair.text_file()).into_iter().step_by(3) {
        refused_text(|f| f.tensors.retain(|t| t.name != name), &format!("tensor {name}"));
    }
    for name in names(pair.vision_file()).into_iter().step_by(5) {
        refused_vision(|f| f.tensors.retain(|t| t.name != name), &format!("tensor {name}"));
    }
}

#[test]
fn a_tensor_of_another_shape_is_named() {
    refused_text(|f| f.tensors[1].shape = vec![320], "tensor output_norm.weight");
    refused_vision(
        |f| f.tensors.iter_mut().find(|t| t.name == "mm.0.weight").unwrap().shape = vec![128, 256],
        "tensor mm.0.weight",
    );
}

/// What the engine never asks for may be missing.
const UNUSED: [&str; 11] = [
    "general.type",
    "general.name",
    "general.file_type",
    "general.quantization_version",
    "qwen3vl.attention.value_length",
    "tokenizer.ggml.eos_token_id",
    "tokenizer.ggml.padding_token_id",
    "tokenizer.ggml.add_bos_token",
    "clip.has_vision_encoder",
    "clip.use_gelu",
    "clip.vision.image_size",
];

#[test]
fn a_missing_key_is_named() {
    let keys =
        |file: NewFile| file.metadata.into_iter().map(|(k, _)| k).filter(|k| !UNUSED.contains(&k.as_str()));
    let pair = Pair::sound();
    for key in keys(pair.text_file()) {
        refused_text(|f| f.metadata.retain(|(k, _)| *k != key), &format!("key {key}"));
    }
    for key in keys(pair.vision_file()) {
        refused_vision(|f| f.metadata.retain(|(k, _)| *k != key), &format!("key {key}"));
    }
}

#[test]
fn a_value_of_another_kind_is_named() {
    let pair = Pair::sound();
    for (key, _) in pair.text_file().metadata.into_iter().filter(|(k, _)| !UNUSED.contains(&k.as_str())) {
        refused_text(|f| set(f, &key, Value::Bool(true)), &key);
    }
    for (key, _) in pair.vision_file().metadata.into_iter().filter(|(k, _)| !UNUSED.contains(&k.as_str())) {
        refused_vision(|f| set(f, &key, Value::Bool(true)), &key);
    }
}

#[test]
fn absurd_counts_take_no_memory() {
    refused_patch(|_| 8, &(1u64 << 60).to_le_bytes(), "tensor count");
    refused_patch(|_| 16, &(1u64 << 60).to_le_bytes(), "metadata count");
    // Behind the key: type 9 (list), type of its items, number of its items.
    let items = |file: &[u8]| behind("tokenizer.ggml.tokens")(file) + 8;
    refused_patch(items, &(1u64 << 50).to_le_bytes(), "key tokenizer.ggml.tokens");
    refused_patch(items, &u64::MAX.to_le_bytes(), "key tokenizer.ggml.tokens");
    // Lists of lists would nest without end.
    refused_patch(|f| behind("tokenizer.ggml.tokens")(f) + 4, &9u32.to_le_bytes(), "tokenizer.ggml.tokens");
    // A text of 2^60 bytes.
    refused_patch(|f| behind("general.name")(f) + 4, &(1u64 << 60).to_le_bytes(), "general.name");
    for (key, value) in [
        ("qwen3vl.block_count", 1u64 << 40),
        ("qwen3vl.embedding_length", u64::MAX),
        ("qwen3vl.attention.head_count", 0),
        ("qwen3vl.attention.head_count_kv", 3),
        ("qwen3vl.attention.key_length", 1 << 33),
        ("qwen3vl.n_deepstack_layers", 1 << 20),
    ] {
        refused_text(|f| set(f, key, Value::Uint(value)), &format!("key {key}"));
    }
    refused_vision(
        |f| set(f, "clip.vision.block_count", Value::Uint(1 << 31)),
        "key clip.vision.block_count",
    );
}

#[test]
fn alignments_that_cannot_be_are_refused() {
    for alignment in [0, 3, 48, 1 << 30] {
        refused_text(
            |f| f.metadata.push(("general.alignment".into(), Value::Uint(alignment))),
            "key general.alignment",
        );
    }
}

#[test]
fn the_tensor_table_is_not_trusted() {
    // Behind the name: dimensions u32, sizes u64 each, type u32, offset u64.
    let what = "tensor blk.1.attn_q.weight";
    let at = |n: usize| move |f: &[u8]| behind("blk.1.attn_q.weight")(f) + n;
    refused_patch(at(0), &0u32.to_le_bytes(), what);
    refused_patch(at(0), &5u32.to_le_bytes(), what);
    refused_patch(at(4), &0u64.to_le_bytes(), what);
    refused_patch(at(4), &(1u64 << 40).to_le_bytes(), what);
    refused_patch(at(4), &[(1u64 << 33).to_le_bytes(), (1u64 << 33).to_le_bytes()].concat(), what);
    refused_patch(at(20), &77u32.to_le_bytes(), what);
    refused_patch(at(24), &7u64.to_le_bytes(), what);
    refused_patch(at(24), &(u64::MAX - 31).to_le_bytes(), what);
    refused_patch(at(24), &0u64.to_le_bytes(), "overlaps");
    // Two tensors of one name.
    refused_text(|f| f.tensors[2].name = f.tensors[1].name.clone(), "stands twice");
    refused_text(|f| f.metadata[1].0 = f.metadata[0].0.clone(), "stands twice");
}

#[test]
fn texts_that_are_not_utf_8_are_refused() {
    refused_patch(|f| behind("general.name")(f) + 12, &[0xFF, 0xFE], "general.name");
    refused_patch(|f| behind("GGUF")(f) + 20 + 8, &[0xC0], "metadata key");
    refused_patch(|f| behind("blk.2.ffn_u")(f) - 3, &[0x80], "tensor name");
}

#[test]
fn broken_tokenizers_are_named() {
    let list = |items: &[&str]| Value::List(items.iter().map(|s| Value::Text((*s).into())).collect());
    let merges = "tokenizer.ggml.merges";
    for broken in [&["ab"][..], &["no such"], &[""], &[" "], &["a  b"], &["a b", "zzz q"]] {
        refused_text(|f| set(f, merges, list(broken)), "tokenizer.ggml");
    }
    refused_text(|f| set(f, "tokenizer.ggml.model", Value::Text("llama".into())), "tokenizer.ggml.model");
    refused_text(|f| set(f, "tokenizer.ggml.pre", Value::Text("gpt-2".into())), "tokenizer.ggml.pre");
    refused_text(
        |f| set(f, "tokenizer.ggml.token_type", Value::List(vec![Value::Int(1); 3])),
        "tokenizer.ggml",
    );
    refused_text(|f| set(f, "tokenizer.ggml.tokens", list(&["a"; 320])), "tokenizer.ggml");
    // Without its control tokens nothing can be asked.
    refused_text(
        |f| set(f, "tokenizer.ggml.token_type", Value::List(vec![Value::Int(1); 320])),
        "tokenizer.ggml",
    );
}

/// A pair loads or is refused, in time and in memory, and what loads can be fed.
fn survives(pair: &Pair) -> Result<(), TestCaseError> {
    let started = Instant::now();
    let options = EngineOptions { threads: 1, memory_mb: 530, ..EngineOptions::default() };
    let (result, peak) =
        peak_bytes_of(|| Qwen3Vl::load(&pair.text, &pair.mmproj, options, &Device::Cpu).map(|_| ()));
    prop_assert!(started.elapsed() < Duration::from_mins(1));
    prop_assert!(peak < BYTES_MAX, "{peak} bytes");
    if let Err(error) = result {
        prop_assert!(!error.to_string().is_empty());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn mutated_headers_never_panic(
        vision in any::<bool>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let pair = Pair::sound();
        let header = pair.header_bytes(vision);
        let path = if vision { &pair.mmproj } else { &pair.text };
        let mut bytes = std::fs::read(path).unwrap();
        // The vocabulary takes most of the text file's header; half of the changes go elsewhere.
        let places = outside_the_vocabulary(&bytes[..header]);
        for (i, (index, byte)) in changes.iter().enumerate() {
            let at = if i % 2 == 0 { places[index.index(places.len())] } else { index.index(header) };
            bytes[at] = *byte;
        }
        std::fs::write(path, bytes).unwrap();
        survives(&pair)?;
    }
}
