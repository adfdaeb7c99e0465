//! Labelled images: `truth.jsonl`, one line an image, as `replay` reads and `simulate` writes it.
//!
//! ```text
//! {"file": "images/a.jpg", "width": 640, "height": 480,
//!  "defects": [{"label": "scratch", "bbox": [x1, y1, x2, y2] | null, "severity"?: "major", "box_source"?: "model"}],
//!  "texts": ["line", ...] or [{"text": "line", "bbox"?: [x1, y1, x2, y2]}],
//!  "good"?: true, "rois"?: {"nameplate": [x1, y1, x2, y2]}, "part_id"?: "P-1", "lot"?: "L-1",
//!  "source"?: "model", "text_source"?: "model"}
//! ```
//!
//! - `defects` and `texts` may be left out: nothing is known to be there.
//! - `bbox: null` says that the place of a defect is not known.
//! - `good` overrides `defects` at image level: a good part may carry a blemish that is accepted.
//! - A source of `model` says that a model has said it (`source`: everything), as exports do ([`super::own_word`]).
//! - Other keys are tolerated, so that data sets keep their own notes in the same file.
//!
//! Whatever does not fit is an error that names file, line, key and value: a figure computed from
//! half-understood labels would be worse than none.

use crate::domain::grade::Severity;
use crate::domain::rect::{BoxPx, Rect};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::{Component, Path, PathBuf};
use thiserror::Error;

/// Name of the labels' file inside a directory of images.
pub(crate) const TRUTH_FILE: &str = "truth.jsonl";
/// A box may reach this far outside of its image, in pixels: labelling tools round.
const OUTSIDE_MAX_PX: f64 = 1.0;
/// Characters of a value that an error message repeats.
const SHOWN_CHARS_MAX: usize = 80;

/// What is known about one image.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Truth {
    /// Path below the directory of `truth.jsonl`; relative and without `..`.
    pub file: String,
    /// Size of the image in pixels.
    pub width: u32,
    pub height: u32,
    pub defects: Vec<TrueDefect>,
    /// Lines of text in reading order.
    pub texts: Vec<TrueText>,
    /// Whether the part is good, where the file says so.
    pub good: Option<bool>,
    /// Where the region of a text prompt (by its id) lies in this very image.
    pub rois: BTreeMap<String, Rect>,
    pub part_id: Option<String>,
    pub lot: Option<String>,
    /// Nobody has decided about the part: all of this is what a model said.
    pub is_models: bool,
    /// The texts are what a model has read.
    pub texts_are_models: bool,
}

/// One labelled defect.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TrueDefect {
    pub label: String,
    /// In pixels of the image; `None`: somewhere in it.
    pub bbox_px: Option<BoxPx>,
    pub severity: Option<Severity>,
    /// The box is as a model has drawn it.
    pub box_is_models: bool,
}

/// One line of marked text.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TrueText {
    pub text: String,
    pub bbox_px: Option<BoxPx>,
}

impl Truth {
    /// Whether the part is defective: what `good` says, else whether a defect is labelled.
    pub(crate) fn is_defective(&self) -> bool {
        self.good.map_or(!self.defects.is_empty(), |good| !good)
    }

    /// Path of the image.
    pub(crate) fn path(&self, dir: &Path) -> PathBuf {
        dir.join(&self.file)
    }
}

/// Why a file of labels cannot be used.
#[derive(Debug, Error)]
pub(crate) enum TruthError {
    #[error("cannot open {path}")]
    Open { path: PathBuf, source: std::io::Error },
    #[error("{path}:{line}: cannot be read")]
    Read { path: PathBuf, line: usize, source: std::io::Error },
    #[error("{path}:{line}: not JSON")]
    Json { path: PathBuf, line: usize, source: serde_json::Error },
    #[error("{path}:{line}: {key} is {value}, expected {expected}")]
    Key { path: PathBuf, line: usize, key: String, value: String, expected: String },
    #[error("{path}: no image in it")]
    Empty { path: PathBuf },
}

/// Reads `dir/truth.jsonl`. Blank lines are skipped; an image may stand in it only once.
///
/// # Errors
/// The file is missing, has no image, or has a line that does not fit the form.
pub(crate) fn read_dir(dir: &Path) -> Result<Vec<Truth>, TruthError> {
    let path = dir.join(TRUTH_FILE);
    let file =
        std::fs::File::open(&path).map_err(|source| TruthError::Open { path: path.clone(), source })?;
    read(&path, BufReader::new(file))
}

/// Reads labels from any source; `path` is only for the messages.
///
/// # Errors
/// As [`read_dir`].
pub(crate) fn read(path: &Path, source: impl BufRead) -> Result<Vec<Truth>, TruthError> {
    let mut truths = Vec::new();
    let mut files = BTreeSet::new();
    for (k, text) in source.lines().enumerate() {
        let line = k + 1;
        let text = text.map_err(|source| TruthError::Read { path: path.to_owned(), line, source })?;
        // Editors on Windows put a byte order mark before the first line.
        let text = text.trim_start_matches('\u{feff}').trim();
        if text.is_empty() {
            continue;
        }
        let value: Value = serde_json::from_str(text).map_err(|source| TruthError::Json {
            path: path.to_owned(),
            line,
            source,
        })?;
        let named = |bad: Bad| TruthError::Key {
            path: path.to_owned(),
            line,
            key: bad.key,
            value: bad.value,
            expected: bad.expected,
        };
        let truth = parse(&value).map_err(named)?;
        if !files.insert(truth.file.clone()) {
            let value = Value::from(truth.file);
            return Err(named(Bad::new("file", &value, "an image that no earlier line names")));
        }
        truths.push(truth);
    }
    if truths.is_empty() {
        return Err(TruthError::Empty { path: path.to_owned() });
    }
    Ok(truths)
}

/// A key whose value does not fit; the caller adds file and line.
struct Bad {
    key: String,
    value: String,
    expected: String,
}

impl Bad {
    fn new(key: impl Into<String>, value: &Value, expected: impl Into<String>) -> Self {
        let text = value.to_string();
        let value = match text.char_indices().nth(SHOWN_CHARS_MAX) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text,
        };
        Self { key: key.into(), value, expected: expected.into() }
    }
}

fn parse(line: &Value) -> Result<Truth, Bad> {
    let object = line.as_object().ok_or_else(|| Bad::new("the line", line, "an object"))?;
    let width = side(object, "width")?;
    let height = side(object, "height")?;
    let size = (width, height);
    Ok(Truth {
        file: file(object)?,
        width,
        height,
        defects: list(object, "defects", |key, v| defect(key, v, size))?,
        texts: list(object, "texts", |key, v| text(key, v, size))?,
        good: optional(object, "good", |v| v.as_bool(), "true or false")?,
        rois: rois(object, size)?,
        part_id: optional(object, "part_id", string, "a string")?,
        lot: optional(object, "lot", string, "a string")?,
        is_models: is_models(object, "source"),
        texts_are_models: is_models(object, "text_source"),
    })
}

fn string(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

/// A key that may be missing or null.
fn optional<T>(
    object: &Map<String, Value>,
    key: &str,
    take: impl Fn(&Value) -> Option<T>,
    expected: &str,
) -> Result<Option<T>, Bad> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => take(value).map(Some).ok_or_else(|| Bad::new(key, value, expected)),
    }
}

/// A key that may be missing or null, and is a list otherwise; `each` gets the key of its element.
fn list<T>(
    object: &Map<String, Value>,
    key: &str,
    each: impl Fn(&str, &Value) -> Result<T, Bad>,
) -> Result<Vec<T>, Bad> {
    let items = optional(object, key, |v| v.as_array().cloned(), "a list")?.unwrap_or_default();
    items.iter().enumerate().map(|(k, v)| each(&format!("{key}[{k}]"), v)).collect()
}

fn side(object: &Map<String, Value>, key: &str) -> Result<u32, Bad> {
    let value = object.get(key).unwrap_or(&Value::Null);
    let px = value.as_u64().and_then(|px| u32::try_from(px).ok()).filter(|px| *px > 0);
    px.ok_or_else(|| Bad::new(key, value, "a whole number of pixels above 0"))
}

/// The image's path. It is also the name of the annotated copy, so it must not lead out of its directory.
fn file(object: &Map<String, Value>) -> Result<String, Bad> {
    let value = object.get("file").unwrap_or(&Value::Null);
    let name = value.as_str().filter(|n| !n.is_empty());
    let name = name.ok_or_else(|| Bad::new("file", value, "the path of an image"))?;
    let inside = Path::new(name).components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
    if inside { Ok(name.to_owned()) } else { Err(Bad::new("file", value, "a relative path without `..`")) }
}

fn defect(key: &str, value: &Value, size: (u32, u32)) -> Result<TrueDefect, Bad> {
    let object = value.as_object().ok_or_else(|| Bad::new(key, value, "an object"))?;
    let label = object.get("label").unwrap_or(&Value::Null);
    let label = label
        .as_str()
        .filter(|l| !l.is_empty())
        .ok_or_else(|| Bad::new(format!("{key}.label"), label, "a word"))?;
    // A forgotten box would silently weaken the figures, so an unknown place has to be said: null.
    let bbox = object.get("bbox").ok_or_else(|| {
        Bad::new(format!("{key}.bbox"), &Value::String("missing".into()), "[x1, y1, x2, y2] or null")
    })?;
    let severity = match object.get("severity") {
        None | Some(Value::Null) => None,
        Some(word) => Some(
            word.as_str()
                .and_then(Severity::parse)
                .ok_or_else(|| Bad::new(format!("{key}.severity"), word, "minor, major or critical"))?,
        ),
    };
    Ok(TrueDefect {
        label: label.to_owned(),
        bbox_px: box_or_null(&format!("{key}.bbox"), bbox, size)?,
        severity,
        box_is_models: is_models(object, "box_source"),
    })
}

/// Whether the key names a model. Sets of others have their own words here.
fn is_models(object: &Map<String, Value>, key: &str) -> bool {
    object.get(key).and_then(Value::as_str) == Some("model")
}

fn text(key: &str, value: &Value, size: (u32, u32)) -> Result<TrueText, Bad> {
    match value {
        Value::String(line) => Ok(TrueText { text: line.clone(), bbox_px: None }),
        Value::Object(object) => {
            let line = object.get("text").unwrap_or(&Value::Null);
            let line =
                line.as_str().ok_or_else(|| Bad::new(format!("{key}.text"), line, "a line of text"))?;
            let bbox = object.get("bbox").unwrap_or(&Value::Null);
            Ok(TrueText { text: line.to_owned(), bbox_px: box_or_null(&format!("{key}.bbox"), bbox, size)? })
        }
        other => Err(Bad::new(key, other, "a string or {\"text\", \"bbox\"}")),
    }
}

fn rois(object: &Map<String, Value>, size: (u32, u32)) -> Result<BTreeMap<String, Rect>, Bad> {
    let found = optional(object, "rois", |v| v.as_object().cloned(), "an object")?.unwrap_or_default();
    let roi = |(id, value): (&String, &Value)| {
        let key = format!("rois.{id}");
        let [x0, y0, x1, y1] = corners(&key, value, size)?;
        // Outward, so that a fractional region keeps the pixels that it touches.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the image")]
        let px = |v: f64, side: u32| v.clamp(0.0, f64::from(side)) as u32;
        let (w, h) = size;
        let rect = Rect::new(px(x0.floor(), w), px(y0.floor(), h), px(x1.ceil(), w), px(y1.ceil(), h));
        if rect.is_empty() {
            return Err(Bad::new(key, value, "a region with pixels of the image"));
        }
        Ok((id.clone(), rect))
    };
    found.iter().map(roi).collect()
}

fn box_or_null(key: &str, value: &Value, size: (u32, u32)) -> Result<Option<BoxPx>, Bad> {
    if value.is_null() {
        return Ok(None);
    }
    #[expect(clippy::cast_possible_truncation, reason = "pixels of an image fit f32 to a hundredth")]
    let [x0, y0, x1, y1] = corners(key, value, size)?.map(|v| v as f32);
    Ok(Some(BoxPx::new(x0, y0, x1, y1)))
}

/// Four numbers, x1 < x2 and y1 < y2, inside the image.
fn corners(key: &str, value: &Value, (width, height): (u32, u32)) -> Result<[f64; 4], Bad> {
    let numbers: Option<Vec<f64>> =
        value.as_array().and_then(|a| a.iter().map(Value::as_f64).collect::<Option<Vec<f64>>>());
    let numbers: Option<[f64; 4]> = numbers.and_then(|n| n.try_into().ok());
    let [x0, y0, x1, y1] = numbers.ok_or_else(|| Bad::new(key, value, "[x1, y1, x2, y2]"))?;
    if x0 >= x1 || y0 >= y1 {
        return Err(Bad::new(key, value, "x1 < x2 and y1 < y2"));
    }
    let low = -OUTSIDE_MAX_PX;
    let inside = x0 >= low
        && y0 >= low
        && x1 <= f64::from(width) + OUTSIDE_MAX_PX
        && y1 <= f64::from(height) + OUTSIDE_MAX_PX;
    if !inside {
        return Err(Bad::new(key, value, format!("a box inside the image of {width}x{height}")));
    }
    Ok([x0, y0, x1, y1])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Vec<Truth>, TruthError> {
        read(Path::new("set/truth.jsonl"), text.as_bytes())
    }

    fn complaint(text: &str) -> String {
        load(text).expect_err("must be refused").to_string()
    }

    #[test]
    fn lines_of_every_public_set_load() {
        let truths = load(concat!(
            "\u{feff}{\"file\": \"images/24.jpg\", \"width\": 640, \"height\": 480, \"good\": false, \"defects\": [{\"label\": \"stain\", \"bbox\": [342, 197, 411, 260]}, {\"label\": \"pit\", \"bbox\": [312, 160, 321, 168]}]}\n",
            "{\"file\": \"images/bent_013.jpg\", \"width\": 700, \"height\": 700, \"good\": false, \"defects\": [{\"label\": \"bent\", \"bbox\": null}]}\n",
            "\n",
            "{\"file\": \"images/good_044.jpg\", \"width\": 700, \"height\": 700, \"good\": true, \"defects\": []}\n",
            "{\"file\": \"images/ma1506.jpg\", \"width\": 320, \"height\": 129, \"texts\": [\"86TJ68\"]}\n",
            "{\"file\": \"images/both.png\", \"width\": 256, \"height\": 256, \"defects\": [{\"label\": \"missing_screw\", \"bbox\": [103, 76, 163, 135], \"severity\": \"critical\"}], \"texts\": [{\"text\": \"EXP 2024/03\", \"bbox\": [30, 19, 241, 43]}]}\n",
            "{\"file\": \"images/part.png\", \"width\": 2448, \"height\": 2048, \"defects\": [], \"texts\": [], \"rois\": {\"nameplate\": [300.5, 1500, 812, 1628]}, \"part_id\": \"P-7\", \"lot\": \"L-2\", \"seed\": 4}\n",
        ))
        .expect("all lines load");
        assert_eq!(truths.len(), 6);
        assert_eq!(truths[0].defects[1].bbox_px, Some(BoxPx::new(312.0, 160.0, 321.0, 168.0)));
        assert_eq!((truths[1].defects[0].bbox_px, truths[1].is_defective()), (None, true));
        assert!(!truths[2].is_defective());
        assert_eq!(truths[3].texts[0], TrueText { text: "86TJ68".into(), bbox_px: None });
        assert_eq!(truths[4].defects[0].severity, Some(Severity::Critical));
        assert_eq!(truths[4].texts[0].bbox_px, Some(BoxPx::new(30.0, 19.0, 241.0, 43.0)));
        assert_eq!(truths[5].rois["nameplate"], Rect::new(300, 1500, 812, 1628));
        assert_eq!((truths[5].part_id.as_deref(), truths[5].lot.as_deref()), (Some("P-7"), Some("L-2")));
    }

    #[test]
    fn good_overrides_the_defects() {
        let line = |good| {
            format!(
                "{{\"file\":\"a\",\"width\":9,\"height\":9,\"good\":{good},\"defects\":[{{\"label\":\"pit\",\"bbox\":null}}]}}"
            )
        };
        assert!(!load(&line("true")).expect("loads")[0].is_defective());
        assert!(load(&line("null")).expect("loads")[0].is_defective());
        let bare = load("{\"file\":\"a\",\"width\":9,\"height\":9,\"good\":false}").expect("loads");
        assert!(bare[0].is_defective());
    }

    #[test]
    fn complaints_name_file_line_key_and_value() {
        let ok = "{\"file\":\"a.png\",\"width\":64,\"height\":48}";
        let with = |rest: &str| format!("{ok}\n{{\"file\":\"b.png\",\"width\":64,\"height\":48,{rest}}}");
        for (text, message) in [
            (
                with("\"defects\":[{\"label\":\"pit\",\"bbox\":[1,2,3]}]"),
                "set/truth.jsonl:2: defects[0].bbox is [1,2,3], expected [x1, y1, x2, y2]",
            ),
            (
                with("\"defects\":[{\"label\":\"pit\"}]"),
                "set/truth.jsonl:2: defects[0].bbox is \"missing\", expected [x1, y1, x2, y2] or null",
            ),
            (
                with("\"defects\":[{\"label\":\"pit\",\"bbox\":[5,2,5,9]}]"),
                "set/truth.jsonl:2: defects[0].bbox is [5,2,5,9], expected x1 < x2 and y1 < y2",
            ),
            (
                with("\"defects\":[{\"label\":\"pit\",\"bbox\":[5,2,66,9]}]"),
                "set/truth.jsonl:2: defects[0].bbox is [5,2,66,9], expected a box inside the image of 64x48",
            ),
            (
                with("\"defects\":[{\"label\":\"pit\",\"bbox\":null,\"severity\":\"bad\"}]"),
                "set/truth.jsonl:2: defects[0].severity is \"bad\", expected minor, major or critical",
            ),
            (
                with("\"defects\":[{\"bbox\":null}]"),
                "set/truth.jsonl:2: defects[0].label is null, expected a word",
            ),
            (with("\"defects\":{}"), "set/truth.jsonl:2: defects is {}, expected a list"),
            (
                with("\"texts\":[7]"),
                "set/truth.jsonl:2: texts[0] is 7, expected a string or {\"text\", \"bbox\"}",
            ),
            (with("\"good\":1"), "set/truth.jsonl:2: good is 1, expected true or false"),
            (
                with("\"rois\":{\"np\":[0,0,9,\"x\"]}"),
                "set/truth.jsonl:2: rois.np is [0,0,9,\"x\"], expected [x1, y1, x2, y2]",
            ),
            (with("\"lot\":3"), "set/truth.jsonl:2: lot is 3, expected a string"),
            (
                format!("{ok}\n{ok}"),
                "set/truth.jsonl:2: file is \"a.png\", expected an image that no earlier line names",
            ),
            (
                "{\"file\":\"../a.png\",\"width\":1,\"height\":1}".into(),
                "set/truth.jsonl:1: file is \"../a.png\", expected a relative path without `..`",
            ),
            (
                "{\"file\":\"/a.png\",\"width\":1,\"height\":1}".into(),
                "set/truth.jsonl:1: file is \"/a.png\", expected a relative path without `..`",
            ),
            (
                "{\"file\":\"a.png\",\"width\":0,\"height\":1}".into(),
                "set/truth.jsonl:1: width is 0, expected a whole number of pixels above 0",
            ),
            (
                "{\"file\":\"a.png\",\"width\":1}".into(),
                "set/truth.jsonl:1: height is null, expected a whole number of pixels above 0",
            ),
            ("[]".into(), "set/truth.jsonl:1: the line is [], expected an object"),
            (" \n".into(), "set/truth.jsonl: no image in it"),
        ] {
            assert_eq!(complaint(&text), message);
        }
        assert_eq!(complaint(&format!("{ok}\n{{")), "set/truth.jsonl:2: not JSON");
    }

    #[test]
    fn a_long_value_is_cut_in_the_message() {
        let text = format!("{{\"file\":\"a\",\"width\":\"{}\",\"height\":1}}", "ü".repeat(500));
        assert!(complaint(&text).chars().count() < 200);
    }

    #[test]
    fn a_missing_file_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let message = read_dir(dir.path()).expect_err("nothing there").to_string();
        assert!(message.contains(TRUTH_FILE), "{message}");
    }
}
