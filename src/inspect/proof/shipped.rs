//! The proofs inside this program: pictures and answers of the model that ships with it.
//!
//! The pictures are tiles of the simulator that the model's training never saw; the answers are those of the
//! reference that trained it, word for word (fixtures/model/proof/answers.jsonl).

use super::{Expected, Known, Proof};
use crate::domain::pipeline::PixelBudget;
use image::DynamicImage;
use image::codecs::png::PngDecoder;
use serde::Deserialize;
use std::io::Cursor;
use std::sync::Arc;

/// The name that the shipped pair states.
pub(super) const SMALL: &str = "inspectd-small";

/// As the pipelines of the shipped model see a tile.
const BUDGET: PixelBudget = PixelBudget { min_pixels: 4096, max_pixels: 65_536 };

const ANSWERS: &str = include_str!("../../../fixtures/model/proof/answers.jsonl");

macro_rules! pictures {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_bytes!(concat!("../../../fixtures/model/proof/", $name)))),*]
    };
}

/// Defects of five labels of which the model is sure, clean surfaces and texts.
const PICTURES: &[(&str, &[u8])] = pictures![
    "defect-256x256-12.png",
    "defect-256x256-25.png",
    "defect-256x256-29.png",
    "both-256x256-19.png",
    "both-256x256-28.png",
    "defect-256x256-14.png",
    "both-256x256-00.png",
    "both-256x256-16.png",
    "both-256x256-24.png",
    "text-384x96-00.png",
    "text-384x96-03.png",
    "text-384x96-12.png",
];

/// A line of the file of answers.
#[derive(Deserialize)]
struct Answer {
    file: String,
    prompt: String,
    answer: String,
}

#[derive(Deserialize)]
struct Item {
    bbox_2d: [u16; 4],
    label: String,
}

/// The proof of a name; `None`: there is none. `Err` says what in it does not read.
pub(super) fn proof(name: &str) -> Option<Result<Proof, String>> {
    (name == SMALL).then(|| {
        let known = ANSWERS.lines().map(|line| known(line).map_err(|why| format!("proof {name}: {why}")));
        Ok(Proof { known: known.collect::<Result<_, _>>()? })
    })
}

fn known(line: &str) -> Result<Known, String> {
    let Answer { file, prompt, answer } = serde_json::from_str(line).map_err(|e| e.to_string())?;
    let bytes = PICTURES.iter().find(|(name, _)| *name == file).map(|(_, bytes)| *bytes);
    let bytes = bytes.ok_or_else(|| format!("there is no picture {file}"))?;
    let decoded = PngDecoder::new(Cursor::new(bytes)).and_then(DynamicImage::from_decoder);
    let picture = decoded.map_err(|e| format!("{file}: {e}"))?.into_rgb8();
    let expected = expected(&prompt, &answer).map_err(|e| format!("{file}: {e}"))?;
    Ok(Known {
        name: file,
        picture: Arc::new(picture),
        budget: BUDGET,
        question: prompt.into(),
        expected,
        firm: true,
    })
}

/// What an answer of the reference says. The labels are those of its question: `Find surface defects: a, b. …`.
fn expected(prompt: &str, answer: &str) -> Result<Expected, String> {
    let Some((labels, _)) = prompt.split_once(": ").and_then(|(_, rest)| rest.split_once(". ")) else {
        return serde_json::from_str(answer).map(Expected::Lines).map_err(|e| e.to_string());
    };
    let labels: Vec<String> = labels.split(", ").map(str::to_owned).collect();
    let items: Vec<Item> = serde_json::from_str(answer).map_err(|e| e.to_string())?;
    if items.is_empty() {
        return Ok(Expected::Clean { labels });
    }
    Ok(Expected::Boxes { labels, boxes: items.into_iter().map(|i| (i.label, i.bbox_2d)).collect() })
}
