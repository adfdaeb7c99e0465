//! The training graph against two references: Hugging Face's values of the tiny model, and a step by `PyTorch`.

use super::batch::Batch;
use super::loss::loss;
use super::optim::Moments;
use super::text::{Rows, forward};
use super::tower::Tower;
use super::weights::{HELPERS, How, Pair, Weights};
use candle_core::{DType, Device, Tensor};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use vlm::attention::Span;
use vlm::batch::{Batch as EngineBatch, Picture};
use vlm::image::{Patches, preprocess};
use vlm::kv::{Arena, KvPrecision};
use vlm::load::load;
use vlm::precision::Precision;
use vlm::rope::{image_advance, image_positions, text_positions};
use vlm::text::Work;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// The random tiny model of the reference values.
pub(super) fn tiny() -> Pair {
    let file = |name: &str| fixture(&format!("reference/tiny/{name}"));
    Pair::open(&file("tiny-f32.gguf"), &file("mmproj-tiny-f32.gguf")).expect("the tiny pair is sound")
}

/// The small model that comes with the program.
pub(super) fn shipped() -> Pair {
    let file = |name: &str| fixture(&format!("model/{name}"));
    Pair::open(&file("inspectd-small.gguf"), &file("mmproj-inspectd-small.gguf"))
        .expect("the shipped pair is sound")
}

fn picture() -> Patches {
    let file = fixture("reference/tiny/images/one_exact_0.png");
    let reader = image::ImageReader::open(file).expect("it is there");
    let picture = reader.decode().expect("it is a picture").into_rgb8();
    preprocess(&picture, 16, 2, 4096, 102_400).expect("is cut")
}

/// One sequence with a picture that starts at `start`; the rows from `first` on are learned.
fn rows(ids: &[u32], start: usize, patches: &Patches, first: usize, learned: &[(u32, f32)]) -> Rows {
    let (rows, cols) = (patches.grid.rows / 2, patches.grid.cols / 2);
    let cells = rows * cols;
    let tokens: Vec<u32> = ids[..start].iter().chain(&ids[start + cells..]).copied().collect();
    let place = |row: usize| match row {
        row if row < start => row,
        row if row < start + cells => tokens.len() + row - start,
        row => row - cells,
    };
    let behind = start as u32 + image_advance(rows, cols);
    let mut positions: Vec<_> = text_positions(0, start).collect();
    positions.extend(image_positions(start as u32, rows, cols));
    positions.extend(text_positions(behind, ids.len() - start - cells));
    Rows {
        order: (0..ids.len()).map(|row| place(row) as u32).collect(),
        cells: (start as u32..(start + cells) as u32).collect(),
        positions,
        parts: std::iter::once(0..ids.len()).collect(),
        learned: learned.iter().enumerate().map(|(i, (id, w))| ((first + i) as u32, *id, *w)).collect(),
        ids: tokens,
    }
}

fn close(found: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    let gap = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0f32, f32::max);
    assert!(found.len() == expected.len() && gap <= tolerance, "{what} is off by {gap}");
}

/// Logits of all rows by the training graph at its first step, by Hugging Face, and by the engine in f32.
#[test]
fn the_training_graph_is_the_engines_function() {
    let (pair, device) = (tiny(), Device::Cpu);
    let case = candle_core::safetensors::load(fixture("reference/tiny/one_exact.safetensors"), &device)
        .expect("reads");
    let ids: Vec<u32> =
        case["input_ids"].to_dtype(DType::U32).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    let expected: Vec<f32> =
        case["logits"].to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    let patches = picture();
    let start = ids.windows(2).position(|pair| pair[0] == pair[1]).expect("a picture's rows");
    let learned: Vec<(u32, f32)> = ids.iter().map(|_| (0, 1.0)).collect();
    let rows = rows(&ids, start, &patches, 0, &learned);
    let mut logits = vec![];
    for how in [How::Whole, How::Low { rank: 4 }] {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let step = Weights::load(&pair, how, 8, &mut rng, &device).expect("loads").step().expect("a step");
        let seen = Tower::new(&pair.vision_config, &device).forward(&step, &[&patches]).expect("sees");
        let found = forward(&step, &pair.text_config, &rows, &seen, &device).expect("computes");
        logits = found.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        close(&logits, &expected, 1e-3, "Hugging Face's logits");
    }
    close(&logits, &by_the_engine(&ids, start, &patches), 1e-3, "the engine's logits");
}

fn by_the_engine(ids: &[u32], start: usize, patches: &Patches) -> Vec<f32> {
    let file = |name: &str| fixture(&format!("reference/tiny/{name}"));
    let (text, mmproj) = (file("tiny-f32.gguf"), file("mmproj-tiny-f32.gguf"));
    let model = load(&text, &mmproj, Some(Precision::Expanded), &Device::Cpu).expect("loads");
    let seen = model.vision.forward(&[patches]).expect("sees");
    let (rows, cols) = (patches.grid.rows / 2, patches.grid.cols / 2);
    let picture = Picture { rows, cols, embeds: seen.embeds, deepstack: seen.deepstack };
    let c = &model.text.config;
    let mut arena =
        Arena::new(c.blocks, 256, (c.kv_heads, c.head_dim), KvPrecision::Single, &Device::Cpu).unwrap();
    let own: Span = arena.lend(ids.len()).expect("there is room");
    let mut batch = EngineBatch::default();
    batch.tokens(&ids[..start], 0);
    batch.picture(&Arc::new(picture), start as u32);
    batch.tokens(&ids[start + rows * cols..], start as u32 + image_advance(rows, cols));
    batch.part([], own.start);
    let mut hidden = vec![];
    let mut see = |i: usize, x: &[f32]| {
        // What comes behind the last block is normed.
        if i == c.blocks + 1 {
            hidden = x.to_vec();
        }
    };
    model.text.forward_with(&batch, &mut arena, &mut Work::default(), Some(&mut see)).expect("computes");
    // The tiny model's head is its table of embeddings.
    let table: Vec<u32> = (0..c.vocabulary as u32).collect();
    let table =
        Tensor::from_vec(model.text.embeddings(&table).unwrap(), (c.vocabulary, c.hidden), &Device::Cpu);
    let hidden = Tensor::from_vec(hidden, (ids.len(), c.hidden), &Device::Cpu).unwrap();
    hidden.matmul(&table.unwrap().t().unwrap()).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().expect("a list").iter().map(|v| v.as_f64().expect("a number") as f32).collect()
}

/// `fixtures/reference/make_finetune.py` says what `PyTorch` computed.
#[test]
fn a_step_is_pytorchs() {
    let text = std::fs::read_to_string(fixture("reference/tiny/finetune.json")).expect("reads");
    let golden: Value = serde_json::from_str(&text).expect("JSON");
    let number = |key: &str| golden[key].as_f64().expect("a number") as f32;
    let list = |key: &str| numbers(&golden[key]);
    let ids: Vec<u32> = list("ids").into_iter().map(|id| id as u32).collect();
    let learned: Vec<(u32, f32)> =
        list("answer").into_iter().map(|id| id as u32).zip(list("weights")).collect();
    let (pair, device, patches) = (tiny(), Device::Cpu, picture());
    let rows = rows(&ids, number("image_start") as usize, &patches, number("first_row") as usize, &learned);
    let batch = Batch { pictures: vec![patches], rows, ..Batch::default() };
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let weights = Weights::load(&pair, How::Whole, 8, &mut rng, &device).expect("loads");
    let mut tower = Tower::new(&pair.vision_config, &device);
    let mut of = |weights: &Weights| {
        let step = weights.step().expect("a step");
        loss(&step, &pair, &mut tower, &batch, &device).expect("a loss").0
    };
    let before = of(&weights);
    close(&[before.to_scalar().unwrap()], &[number("loss")], 1e-3, "the loss");
    let grads = before.backward().expect("gradients");
    let expected = golden["grads"].as_object().expect("gradients by name");
    let trained = weights.trained.iter().filter(|(name, _)| !name.starts_with(HELPERS));
    let mut compared = 0;
    for (name, trained) in trained {
        let found = grads.get(&trained.var).unwrap_or_else(|| panic!("{name} has a gradient"));
        let values: Vec<f32> = found.flatten_all().unwrap().to_vec1().unwrap();
        let norm = values.iter().map(|v| v * v).sum::<f32>().sqrt();
        let expected = numbers(&expected[name]);
        let found = [&[norm], &values[..4]].concat();
        // Relative to the gradient's own size: those of the first blocks are tens.
        close(&found, &expected, 1e-3 * expected[0].max(1.0), name);
        compared += 1;
    }
    assert_eq!(compared, expected.len(), "all gradients are compared");
    let mut moments = Moments::default();
    assert!(moments.step(&weights, &grads, f64::from(number("rate"))).expect("a step"));
    close(&[of(&weights).to_scalar().unwrap()], &[number("loss_after")], 2e-3, "the loss after a step");
}
