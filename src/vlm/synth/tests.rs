//! Tests of the random models: sizes, statistics, and that the engine's own reader accepts them.

use super::*;
use crate::tokenizer::Tokenizer;
use candle_core::Device;
use candle_core::quantized::{QStorage, QTensor};
use std::borrow::Cow;

fn values(dtype: GgmlType, rows: usize, cols: usize) -> Vec<f32> {
    let t = matrix("w", rows, cols, dtype);
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut bytes = vec![];
    Blocks::of(&t, &mut rng).write(&mut bytes).unwrap();
    assert_eq!(bytes.len(), t.bytes());
    let storage = QStorage::from_data(Cow::Owned(bytes), &Device::Cpu, dtype.candle().unwrap()).unwrap();
    let tensor = QTensor::new(storage, (rows, cols)).unwrap();
    tensor.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn weights_have_mean_0_and_variance_1_over_in() {
    use GgmlType::{Bf16, F16, F32, Q4_0, Q4K, Q5K, Q6K, Q8_0};
    for dtype in [Q4_0, Q8_0, Q4K, Q5K, Q6K, F16, Bf16, F32] {
        let v = values(dtype, 256, 1024);
        let mean = v.iter().sum::<f32>() / v.len() as f32;
        let std = (v.iter().map(|x| x * x).sum::<f32>() / v.len() as f32).sqrt();
        let expected = 1.0 / 32.0;
        assert!((std / expected - 1.0).abs() < 0.02, "{dtype:?}: {std}");
        assert!(mean.abs() < expected / 50.0, "{dtype:?}: {mean}");
    }
}

#[test]
fn the_mix_is_llama_cpps() {
    let file = text_file(&Shape::named("4b").unwrap(), Quant::Q4KM, &Vocabulary::bytes());
    let count =
        |end: &str, dtype| file.tensors.iter().filter(|t| t.name.ends_with(end) && t.dtype == dtype).count();
    assert_eq!((count("attn_v.weight", GgmlType::Q6K), count("attn_v.weight", GgmlType::Q4K)), (18, 18));
    assert_eq!(count("ffn_down.weight", GgmlType::Q6K), 18);
    assert_eq!(count("token_embd.weight", GgmlType::Q6K), 1);
    // The published Qwen3-VL-4B Q4_K_M has 2.50 GB.
    let bytes: usize = file.tensors.iter().map(NewTensor::bytes).sum();
    assert!((2.45e9..2.55e9).contains(&(bytes as f64)), "{bytes}");
}

#[test]
fn the_8b_tower_keeps_its_odd_rows_in_f16() {
    let file = vision_file(&Shape::named("8b").unwrap(), Quant::Q4KM);
    let down = file.tensors.iter().find(|t| t.name == "v.blk.0.ffn_down.weight").unwrap();
    assert_eq!((down.dtype, &down.shape[..]), (GgmlType::F16, &[1152, 4304][..]));
}

#[test]
fn a_written_pair_reads_back_and_repeats() {
    let dir = tempfile::tempdir().unwrap();
    let shape = Shape::named("tiny-k").unwrap();
    let write = |name: &str| {
        let (t, m) = (dir.path().join(name), dir.path().join(format!("mmproj-{name}")));
        write_pair(&shape, Quant::Q4KM, &Vocabulary::bytes(), 5, &t, &m).unwrap();
        (t, m)
    };
    let (a, b) = (write("a"), write("b"));
    assert_eq!(std::fs::read(&a.0).unwrap(), std::fs::read(&b.0).unwrap());
    assert_eq!(std::fs::read(&a.1).unwrap(), std::fs::read(&b.1).unwrap());
    let file = Gguf::open(&a.0).unwrap();
    let expected = text_file(&shape, Quant::Q4KM, &Vocabulary::bytes());
    assert_eq!(file.tensors.len(), expected.tensors.len());
    for t in &expected.tensors {
        assert_eq!((&file.tensors[&t.name].shape, file.tensors[&t.name].dtype), (&t.shape, t.dtype));
    }
    let tokenizer = Tokenizer::from_gguf(&file).unwrap();
    assert_eq!(tokenizer.decode(&tokenizer.encode("scratch ü").unwrap(), false), "scratch ü");
    assert!(tokenizer.special("<|image_pad|>").is_some());
}
