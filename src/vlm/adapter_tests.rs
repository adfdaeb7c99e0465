use super::*;
use crate::ggml::GgmlType;
use crate::load::{Loaded, load, load_with};
use crate::precision::Precision;
use crate::synth::values;
use crate::synth::write::{NewFile, NewTensor};
use std::path::PathBuf;

const MATRICES: [(&str, usize, usize); 3] =
    [("blk.0.attn_q.weight", 128, 64), ("v.blk.1.ffn_down.weight", 64, 160), (EMBEDDING, 640, 64)];

fn tiny(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/reference/tiny").join(name)
}

fn pair(quant: &str) -> [PathBuf; 2] {
    [tiny(&format!("tiny-{quant}.gguf")), tiny(&format!("mmproj-tiny-{quant}.gguf"))]
}

/// An adapter of rank 4 for the tiny pair, with further keys and whatever `change` does to its tensors.
fn write(path: &Path, alpha: f64, more: &[(&str, Value)], change: impl Fn(&mut Vec<NewTensor>)) {
    let text = |s: &str| Value::Text(s.to_owned());
    let mut metadata = vec![
        ("general.type".to_owned(), text("adapter")),
        ("general.architecture".to_owned(), text("qwen3vl")),
        (KIND_KEY.to_owned(), text("lora")),
        (ALPHA_KEY.to_owned(), Value::Float(alpha)),
    ];
    metadata.retain(|(key, _)| !more.iter().any(|(k, _)| k == key));
    metadata.extend(more.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
    let mut tensors = vec![];
    for (name, out, inp) in MATRICES {
        let shapes = if name == EMBEDDING { [[out, 4], [inp, 4]] } else { [[4, inp], [out, 4]] };
        for (half, shape) in HALVES.iter().zip(shapes) {
            tensors.push(NewTensor {
                name: format!("{name}{half}"),
                shape: shape.to_vec(),
                dtype: GgmlType::F32,
            });
        }
    }
    change(&mut tensors);
    let file = NewFile { metadata, tensors };
    file.write(path, |i, out| out.write_all(bytemuck::cast_slice(&values(file.tensors[i].elements(), i))))
        .unwrap();
}

fn open(path: &Path) -> Result<Adapter, VlmError> {
    let [text, mmproj] = pair("f32").map(|p| Gguf::open(&p).unwrap());
    Adapter::open(path, &text, &mmproj, ["t", "m"])
}

fn loaded(adapter: &Path, quant: &str) -> Loaded {
    let [text, mmproj] = pair(quant);
    load_with(&text, &mmproj, Some(adapter), Some(Precision::Expanded), &Device::Cpu).expect("loads")
}

#[test]
fn what_is_added_is_the_product_by_alpha_over_the_rank() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("part.adapter.gguf");
    for (alpha, scale) in [(8.0, 2.0), (0.0, 1.0)] {
        write(&path, alpha, &[], |_| {});
        let adapter = open(&path).expect("fits");
        for (i, (name, out, inp)) in MATRICES.into_iter().enumerate() {
            let base = values(out * inp, 9);
            let base = Tensor::from_vec(base, (out, inp), &Device::Cpu).unwrap();
            let base = QTensor::quantize(&base, GgmlDType::F32).unwrap();
            let (dtype, bytes) = adapter.applied(name, &base).unwrap().expect("is changed");
            assert_eq!(
                (dtype, adapter.applied("blk.0.attn_k.weight", &base).unwrap()),
                (GgmlDType::F32, None)
            );
            let sum: Vec<f32> = bytemuck::pod_collect_to_vec(&bytes);
            let (a, b) = (values(4 * inp.max(out), 2 * i), values(4 * inp.max(out), 2 * i + 1));
            for (row, col) in [(0, 0), (3, 7), (out - 1, inp - 1), (out / 2, 5)] {
                let at = |k: usize| match name {
                    EMBEDDING => a[row * 4 + k] * b[col * 4 + k],
                    _ => b[row * 4 + k] * a[k * inp + col],
                };
                let expected = values(out * inp, 9)[row * inp + col] + scale * (0..4).map(at).sum::<f32>();
                assert!((sum[row * inp + col] - expected).abs() < 1e-4, "{name} at {row}, {col}");
            }
        }
    }
}

#[test]
fn a_pair_with_an_adapter_is_another_model() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("part.adapter.gguf");
    let labels = Value::List(vec![Value::Text("burr".into())]);
    write(&path, 4.0, &[("inspectd.labels", labels)], |_| {});
    let [text, mmproj] = pair("f32");
    let plain = load(&text, &mmproj, Some(Precision::Expanded), &Device::Cpu).unwrap().info;
    let info = loaded(&path, "f32").info;
    assert_eq!((info.name, info.labels), (format!("{}+part", plain.name), vec!["burr".to_owned()]));
    let identity = |file: &str| {
        let both = Sha256::digest(format!("{file}\n{}", Gguf::open(&path).unwrap().sha256().unwrap()));
        both.iter().map(|b| format!("{b:02x}")).collect::<String>()
    };
    assert_eq!(
        (info.text_sha256, info.mmproj_sha256),
        (identity(&plain.text_sha256), identity(&plain.mmproj_sha256))
    );
    // One that changes the text model alone leaves the vision file what it is.
    write(&path, 4.0, &[], |tensors| tensors.retain(|t| t.name.starts_with("blk.")));
    let info = loaded(&path, "f32").info;
    assert_ne!(info.text_sha256, plain.text_sha256);
    assert_eq!(info.mmproj_sha256, plain.mmproj_sha256);
}

/// Eight bits stay eight bits, and the sum is in them.
#[test]
fn quantised_pairs_take_adapters_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("part.adapter.gguf");
    write(&path, 4.0, &[], |_| {});
    let ids = [3u32, 77, 600];
    let rows = |m: &Loaded| -> Vec<f32> { m.text.embeddings(&ids).unwrap() };
    let (eight, exact) = (rows(&loaded(&path, "q8_0")), rows(&loaded(&path, "f32")));
    let [text, mmproj] = pair("f32");
    let before = rows(&load(&text, &mmproj, Some(Precision::Expanded), &Device::Cpu).unwrap());
    let gap = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0f32, f32::max);
    assert!(
        gap(&eight, &exact) < 0.05 && gap(&exact, &before) > 0.5,
        "{} {}",
        gap(&eight, &exact),
        gap(&exact, &before)
    );
    assert_eq!(
        [GgmlDType::Q4K, GgmlDType::Q6K, GgmlDType::Q8_0].map(|t| kept_as(t, 256)),
        [GgmlDType::Q8_0; 3]
    );
}

#[test]
fn what_would_not_be_applied_is_refused_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bad.gguf");
    let refused = |more: &[(&str, Value)], change: &dyn Fn(&mut Vec<NewTensor>)| {
        write(&path, 4.0, more, change);
        open(&path).expect_err("is refused").to_string()
    };
    let text = |s: &str| Value::Text(s.to_owned());
    let renamed = |to: &'static str| move |t: &mut Vec<NewTensor>| t[0].name = to.to_owned();
    for (said, words) in [
        (
            refused(&[("general.architecture", text("llama"))], &|_| {}),
            "\"qwen3vl\" expected, found \"llama\"",
        ),
        (refused(&[("general.type", text("model"))], &|_| {}), "\"adapter\" expected"),
        (refused(&[(KIND_KEY, text("dora"))], &|_| {}), "\"lora\" expected"),
        (refused(&[(BASE_KEYS[0], text("another"))], &|_| {}), "trained for another"),
        (refused(&[(ACTIVATED_KEY, Value::List(vec![Value::Uint(1)]))], &|_| {}), "aLoRA"),
        (
            refused(&[], &renamed("blk.0.attn_a.weight.lora_a")),
            "tensor blk.0.attn_a.weight.lora_a: the pair has no such",
        ),
        (refused(&[], &renamed("blk.0.attn_norm.weight")), "tensor blk.0.attn_norm.weight: is no half"),
        (refused(&[], &renamed("blk.0.attn_norm.weight.lora_a")), "only matrices"),
        (refused(&[], &|t| drop(t.remove(0))), "blk.0.attn_q.weight.lora_a is missing"),
        (refused(&[], &|t| t[0].shape = vec![64, 4]), "of another model"),
        (refused(&[], &Vec::clear), "there is none"),
    ] {
        assert!(said.contains(words) && said.contains("bad.gguf"), "{words} in {said}");
    }
    assert!(open(&tiny("tiny-f32.gguf")).is_err(), "a model is no adapter");
}
