//! What fine-tuning learns from: a cut of a picture, what is asked of it, and the answer that is right.
//!
//! ```text
//! Task::Defects  [{"bbox_2d":[120,40,180,75],"label":"pit","severity":"minor"}]   or []
//! Task::Lines    ["SN4821-B7","LOT 24-0917"]
//! ```
//!
//! Answers have the form that the line's grammar holds the model to. Of a severity that nobody has stated the words
//! are in the answer, and are not learned.

use image::RgbImage;
use std::ops::Range;
use std::sync::Arc;

/// Coordinates are thousandths of the picture, in steps of this: the last digit would be noise.
const STEP: f32 = 5.0;
/// What stands in an answer where the severity is not known.
const SEVERITY: &str = "major";

/// One defect.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Mark {
    pub label: String,
    /// minor, major or critical, where it is known.
    pub severity: Option<&'static str>,
    /// x1, y1, x2, y2 in pixels of the picture.
    pub bbox: [f32; 4],
}

/// What is asked, and what is right.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Task {
    /// None: the answer is `[]`.
    Defects { question: Arc<str>, marks: Vec<Mark> },
    /// In reading order.
    Lines { question: Arc<str>, lines: Vec<String> },
}

/// One example.
#[derive(Clone, Debug)]
pub(crate) struct Tile {
    pub picture: Arc<RgbImage>,
    /// The prompt's budget after the resize.
    pub min_pixels: u32,
    pub max_pixels: u32,
    pub task: Task,
}

/// An answer, and the bytes of it that are not learned.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Answer {
    pub text: String,
    pub unknown: Vec<Range<usize>>,
}

impl Tile {
    /// Bytes of its picture.
    pub(crate) fn bytes(&self) -> usize {
        self.picture.as_raw().len()
    }

    /// What is asked of it.
    pub(super) fn question(&self) -> &str {
        match &self.task {
            Task::Defects { question, .. } | Task::Lines { question, .. } => question,
        }
    }

    /// Its defects; none of a tile whose text is read.
    pub(crate) fn marks(&self) -> &[Mark] {
        match &self.task {
            Task::Defects { marks, .. } => marks,
            Task::Lines { .. } => &[],
        }
    }

    /// True for a tile whose defects are asked for.
    pub(crate) const fn is_of_defects(&self) -> bool {
        matches!(self.task, Task::Defects { .. })
    }

    /// The right answer.
    pub(super) fn answer(&self) -> Answer {
        let (width, height) = self.picture.dimensions();
        match &self.task {
            Task::Lines { lines, .. } => Answer { text: json(lines), unknown: vec![] },
            Task::Defects { marks, .. } => of_marks(marks, width as f32, height as f32),
        }
    }
}

fn of_marks(marks: &[Mark], width: f32, height: f32) -> Answer {
    let mut marks: Vec<&Mark> = marks.iter().collect();
    marks.sort_by(|a, b| {
        (a.bbox[1], a.bbox[0]).partial_cmp(&(b.bbox[1], b.bbox[0])).unwrap_or(std::cmp::Ordering::Equal)
    });
    let (mut text, mut unknown) = ("[".to_owned(), vec![]);
    for (i, mark) in marks.into_iter().enumerate() {
        let [x1, y1, x2, y2] = mark.bbox;
        let at = |v: f32, side: f32| ((v / side * 1000.0 / STEP).round() * STEP).clamp(0.0, 1000.0) as u32;
        let (left, top, right, bottom) = (at(x1, width), at(y1, height), at(x2, width), at(y2, height));
        let comma = if i == 0 { "" } else { "," };
        text.push_str(&format!(
            "{comma}{{\"bbox_2d\":[{left},{top},{right},{bottom}],\"label\":{},\"severity\":\"",
            json(&mark.label)
        ));
        let start = text.len();
        text.push_str(mark.severity.unwrap_or(SEVERITY));
        if mark.severity.is_none() {
            unknown.push(start..text.len());
        }
        text.push_str("\"}");
    }
    text.push(']');
    Answer { text, unknown }
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("texts are JSON")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::learn::finetune) fn tile(task: Task) -> Tile {
        let picture = RgbImage::from_fn(64, 96, |x, y| image::Rgb([(x * 4) as u8, (y * 2) as u8, 90]));
        Tile { picture: Arc::new(picture), min_pixels: 4096, max_pixels: 65_536, task }
    }

    pub(in crate::learn::finetune) fn mark(label: &str, bbox: [f32; 4]) -> Mark {
        Mark { label: label.into(), severity: None, bbox }
    }

    #[test]
    fn answers_have_the_contracts_form() {
        let question: Arc<str> = "?".into();
        let known = Mark { severity: Some("minor"), ..mark("pit", [32.0, 50.0, 64.0, 97.0]) };
        let marks = vec![known, mark("dent", [1.0, 2.0, 8.0, 24.0])];
        let answer = tile(Task::Defects { question: question.clone(), marks }).answer();
        assert_eq!(
            answer.text,
            "[{\"bbox_2d\":[15,20,125,250],\"label\":\"dent\",\"severity\":\"major\"},\
             {\"bbox_2d\":[500,520,1000,1000],\"label\":\"pit\",\"severity\":\"minor\"}]"
        );
        assert_eq!(answer.unknown.iter().map(|r| &answer.text[r.clone()]).collect::<Vec<_>>(), ["major"]);
        let of = |task| tile(task).answer().text;
        assert_eq!(of(Task::Defects { question: question.clone(), marks: vec![] }), "[]");
        assert_eq!(
            of(Task::Lines { question, lines: vec!["A \"1\"".into(), "é".into()] }),
            "[\"A \\\"1\\\"\",\"é\"]"
        );
    }
}
