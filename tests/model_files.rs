//! Bad model files: every one is refused in words that name the file and the key or tensor, without a
//! panic and without taking memory that the file cannot need.

#[path = "common/memory.rs"]
mod memory;
#[path = "common/pairs.rs"]
mod pairs;

use candle_core::Device;
use memory::{Counting, peak_bytes_of};
use pairs::{Pair, outside_the_vocabulary};
use proptest::prelude::*;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use vlm::engine::EngineOptions;
use vlm::gguf::{Gguf, Value};
use vlm::load::load;
use vlm::scaling::Scaling;
use vlm::synth::Shape;
use vlm::synth::write::NewFile;
use vlm::{Qwen3Vl, Sampling, VlmError};

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
    refused_text(|f| set(f, "general.architecture", text("llama")), "found \"llama\"");
    refused_text(|f| set(f, "general.architecture", text("qwen3vlmoe")), "with experts");
    refused_text(|f| set(f, "general.type", text("adapter")), "this is an adapter");
    refused_vision(|f| set(f, "clip.projector_type", text("qwen2.5vl_merger")), "found \"qwen2.5vl_merger\"");
    refused_vision(|f| set(f, "general.architecture", text("qwen3vl")), "general.architecture");
    refused_vision(|f| set(f, "clip.projector_type", text("mlp")), "clip.projector_type");
}

#[test]
fn swapped_files_are_told() {
    let pair = Pair::sound();
    let swapped = load(&pair.mmproj, &pair.text, None, &Device::Cpu).map(|_| ());
    let words = swapped.expect_err("they are swapped").to_string();
    assert!(words.contains(pair.mmproj.to_str().unwrap()) && words.contains("are swapped"), "{words}");
    let twice = load(&pair.text, &pair.text, None, &Device::Cpu).map(|_| ());
    let words = twice.expect_err("there is no tower").to_string();
    assert!(words.contains("general.architecture") && words.contains("this is a text model"), "{words}");
    let twice = load(&pair.mmproj, &pair.mmproj, None, &Device::Cpu).map(|_| ());
    let words = twice.expect_err("there is no text model").to_string();
    assert!(words.contains("this is a vision file"), "{words}");
}

#[test]
fn positions_are_scaled_as_the_file_says_or_it_is_refused() {
    let with = |values: &[(&str, Value)]| {
        let values: Vec<_> =
            values.iter().map(|(key, v)| (format!("qwen3vl.rope.{key}"), v.clone())).collect();
        |f: &mut NewFile| f.metadata.extend(values)
    };
    let kind = |s: &str| ("scaling.type", Value::Text(s.into()));
    let factor = |x: f64| ("scaling.factor", Value::Float(x));
    let sound = Pair::sound();
    let trained =
        load(&sound.text, &sound.mmproj, None, &Device::Cpu).expect("it is sound").text.config.context;
    refused_text(with(&[kind("longrope")]), "key qwen3vl.rope.scaling.type: is \"longrope\"");
    refused_text(with(&[kind("dynamic"), factor(2.0)]), "is \"dynamic\"");
    refused_text(
        with(&[kind("yarn"), factor(-1.0)]),
        "key qwen3vl.rope.scaling.factor: a factor of 1 to 256",
    );
    refused_text(with(&[factor(0.5)]), "key qwen3vl.rope.scaling.factor: a factor of 1 to 256");
    refused_text(with(&[("scale_linear", Value::Float(1e9))]), "key qwen3vl.rope.scale_linear: a factor");
    let context = ("scaling.original_context_length", Value::Uint(1024));
    let yarn = |factor, original| Scaling::Yarn { factor, original, attention: 1.0 };
    let linear = |factor| Scaling::Linear { factor };
    for (values, expected, reach) in [
        (&[kind("none")][..], Scaling::None, 1),
        (&[kind("none"), factor(4.0)], Scaling::None, 1),
        (&[kind("yarn"), factor(1.0)], Scaling::None, 1),
        (&[kind("dynamic"), factor(1.0)], Scaling::None, 1),
        (&[kind("yarn"), factor(4.0)], yarn(4.0, trained), 4),
        (&[kind("yarn"), factor(4.0), context], yarn(4.0, 1024), 1),
        (&[kind("linear"), factor(2.0)], linear(2.0), 2),
        (&[factor(2.0)], linear(2.0), 2),
        (&[("scale_linear", Value::Float(2.0))], linear(2.0), 2),
    ] {
        let pair = Pair::sound();
        pair.rewrite_text(with(values));
        let config = load(&pair.text, &pair.mmproj, None, &Device::Cpu).expect("it is scaled").text.config;
        assert_eq!((config.scaling, config.context), (expected, trained * reach));
    }
}

#[test]
fn types_that_are_not_multiplied_are_named() {
    // Behind the name of a tensor: dimensions u32, two sizes u64, type u32.
    let kind = |f: &[u8]| behind("blk.1.attn_q.weight")(f) + 20;
    for (number, word) in
        [(19u32, "its type IQ1_S is not supported"), (33, "Q4_0_8_8 (33)"), (77, "number 77")]
    {
        refused_patch(kind, &number.to_le_bytes(), "tensor blk.1.attn_q.weight: ");
        refused_patch(kind, &number.to_le_bytes(), word);
    }
}

#[test]
fn what_files_state_about_free_answers_is_their_default() {
    let pair = Pair::sound();
    let free =
        || load(&pair.text, &pair.mmproj, None, &Device::Cpu).map(|loaded| (loaded.free, loaded.notes));
    let (stated, notes) = free().expect("it is sound");
    assert_eq!((stated.min_pixels, stated.max_pixels), (65_536, 16_777_216), "Qwen's own");
    assert_eq!((stated.sampling, notes), (Sampling::default(), vec![]));
    let with = |key: &str, value: Value| (format!("general.sampling.{key}"), value);
    pair.rewrite_text(|f| {
        f.metadata.extend([
            with("temp", Value::Float(0.5)),
            with("top_p", Value::Float(0.75)),
            with("top_k", Value::Int(20)),
            with("penalty_repeat", Value::Float(1.25)),
            with("min_p", Value::Float(0.125)),
            ("inspectd.labels".to_owned(), Value::List(vec![Value::Text("dent".into())])),
        ]);
    });
    pair.rewrite_vision(|f| f.metadata.push(("clip.vision.image_max_pixels".into(), Value::Uint(9000))));
    let (stated, notes) = free().expect("it is sound");
    let expected = Sampling {
        temperature: 0.5,
        top_p: Some(0.75),
        top_k: Some(20),
        repeat_penalty: 1.25,
        ..Sampling::default()
    };
    assert_eq!(stated.sampling, expected);
    assert_eq!((stated.min_pixels, stated.max_pixels), (4096, 9000), "it was trained on tiles");
    assert!(notes[0].contains("general.sampling.min_p is not built"), "{notes:?}");
    refused_text(
        |f| f.metadata.push(with("top_p", Value::Float(1.5))),
        "key general.sampling.top_p: at most 1",
    );
    refused_text(|f| f.metadata.push(with("temp", Value::Text("hot".into()))), "key general.sampling.temp");
}

#[test]
fn all_parts_of_a_split_model_are_one_model() {
    let pair = Pair::sound();
    let whole = Gguf::open(&pair.text).unwrap();
    let parts = pair.split_text(3);
    let split = Gguf::open(&parts[0]).unwrap();
    assert_eq!(split.metadata, whole.metadata);
    assert_eq!(split.paths().collect::<Vec<_>>(), parts);
    for t in pair.text_file().tensors {
        let bytes =
            |g: &Gguf| g.tensor(&t.name, &t.shape, &Device::Cpu).unwrap().data().unwrap().into_owned();
        assert_eq!(bytes(&split), bytes(&whole), "{}", t.name);
    }
    let hash = |path| Gguf::open(path).map(|g| g.sha256().unwrap());
    let loaded = load(&parts[0], &pair.mmproj, None, &Device::Cpu).expect("it is the whole model");
    let hex = |bytes: &[u8]| Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect::<String>();
    let of_parts: Vec<String> = parts.iter().map(|part| hex(&std::fs::read(part).unwrap())).collect();
    assert_eq!(loaded.info.text_sha256, hex(of_parts.join("\n").as_bytes()));
    assert_eq!(hash(&pair.text).unwrap(), hex(&std::fs::read(&pair.text).unwrap()));
    // One byte of the last part is one of the model's.
    let mut last = std::fs::read(&parts[2]).unwrap();
    *last.last_mut().unwrap() ^= 1;
    std::fs::write(&parts[2], last).unwrap();
    assert_ne!(hash(&parts[0]).unwrap(), loaded.info.text_sha256);
}

#[test]
fn parts_that_are_not_all_of_one_model_are_named() {
    let refused = |change: &dyn Fn(&[PathBuf]) -> PathBuf, path: usize, what: &str| {
        let pair = Pair::sound();
        let parts = pair.split_text(3);
        let words = Gguf::open(&change(&parts)).map(|_| ()).expect_err(what).to_string();
        assert!(words.contains(parts[path].to_str().unwrap()) && words.contains(what), "{what}: {words}");
    };
    let other = Pair::of(&Shape { hidden: 512, ..Shape::named("tiny-k").unwrap() });
    let copy = |from: &Path, to: &Path| std::fs::copy(from, to).unwrap();
    refused(&|p| p[1].clone(), 1, "this is part 2 of 3: name part 1, ");
    refused(
        &|p| {
            std::fs::remove_file(&p[1]).unwrap();
            p[0].clone()
        },
        1,
        "part 2 of 3: is missing",
    );
    refused(
        &|p| {
            copy(&p[2], &p[1]);
            p[0].clone()
        },
        1,
        "key split.no: is 2: this is part 3 of 3, and its name would be model-00003-of-00003.gguf",
    );
    refused(
        &|p| {
            copy(&other.split_text(2)[1], &p[1]);
            p[0].clone()
        },
        1,
        "part 2 of 3: is of another model: it has 2 parts",
    );
    refused(
        &|p| {
            copy(&other.text, &p[1]);
            p[0].clone()
        },
        1,
        "part 2 of 3: has no key split.count",
    );
    let pair = Pair::sound();
    std::fs::rename(&pair.split_text(3)[0], &pair.text).unwrap();
    let words = Gguf::open(&pair.text).map(|_| ()).expect_err("it has another name").to_string();
    assert!(
        words.contains(
            "model.gguf: key split.count: this is part 1 of 3, and its name must end in -00001-of-00003.gguf"
        ),
        "{words}"
    );
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
