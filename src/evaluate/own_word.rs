//! What a model has said is no truth about a model: a replay on an export would agree with itself.
//!
//! ```text
//! source = model        nobody has decided about the part      the image is left out
//! box_source = model    a person agreed to the part, and has   the defect counts for the image; where it is, is not
//!                       neither drawn nor moved the box        known, as with `bbox: null`
//! text_source = model   nobody has corrected what was read     the texts are not known
//! ```
//!
//! Sets that say nothing of sources are people's word.

use super::truth::Truth;

/// How much of a set was a model's own word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OwnWord {
    /// Images that nobody has decided about.
    pub images: usize,
    /// Boxes of the others.
    pub boxes: usize,
    /// Images of the others whose texts are a model's.
    pub texts: usize,
}

impl OwnWord {
    /// What people should know, a line each.
    pub(crate) fn words(&self) -> Vec<String> {
        let of = |n: usize, words: &str| (n > 0).then(|| format!("{n} {words}"));
        let lines = [
            of(
                self.images,
                "images that nobody has decided about are left out: all that is known is what a model said",
            ),
            of(
                self.boxes,
                "boxes are as a model drew them (box_source): they count for their images, not as boxes",
            ),
            of(self.texts, "images have texts as a model read them (text_source): they are not scored"),
        ];
        lines.into_iter().flatten().collect()
    }
}

/// The set without a model's own word.
pub(crate) fn without(truths: Vec<Truth>) -> (Vec<Truth>, OwnWord) {
    let mut own = OwnWord::default();
    let all = truths.len();
    let mut kept: Vec<Truth> = truths.into_iter().filter(|truth| !truth.is_models).collect();
    own.images = all - kept.len();
    for truth in &mut kept {
        own.boxes += forget_models_boxes(truth);
        if truth.texts_are_models && !truth.texts.is_empty() {
            truth.texts.clear();
            own.texts += 1;
        }
    }
    (kept, own)
}

/// Takes away where the defects are that a model has placed: they count for their image alone. Returns how many.
pub(crate) fn forget_models_boxes(truth: &mut Truth) -> usize {
    let mut forgotten = 0;
    for defect in truth.defects.iter_mut().filter(|d| d.box_is_models && d.bbox_px.is_some()) {
        defect.bbox_px = None;
        forgotten += 1;
    }
    forgotten
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::score::score;
    use crate::evaluate::score::tests::{asked, finding, inspection};
    use crate::evaluate::truth::read;
    use std::path::Path;

    /// Lines as an export writes them: a part with the model's box and one that a person has drawn, and one that
    /// nobody has decided about.
    fn export() -> Vec<Truth> {
        let lines = concat!(
            "{\"file\":\"a.png\",\"width\":64,\"height\":48,\"good\":false,\"source\":\"operator\",\"defects\":[",
            "{\"label\":\"pit\",\"bbox\":[10,10,20,20],\"box_source\":\"model\"},",
            "{\"label\":\"dent\",\"bbox\":[30,10,40,20],\"box_source\":\"operator\"}],",
            "\"texts\":[\"SN1\"],\"text_source\":\"model\"}\n",
            "{\"file\":\"b.png\",\"width\":64,\"height\":48,\"defects\":[],\"texts\":[\"SN2\"],",
            "\"source\":\"model\",\"text_source\":\"model\"}\n",
            "{\"file\":\"c.png\",\"width\":64,\"height\":48,\"source\":\"my camera\",",
            "\"defects\":[{\"label\":\"pit\",\"bbox\":[10,10,20,20]}],\"texts\":[\"SN3\"]}\n",
        );
        read(Path::new("set/truth.jsonl"), lines.as_bytes()).expect("reads")
    }

    #[test]
    fn what_a_model_said_is_left_out_and_counted() {
        let (kept, own) = without(export());
        assert_eq!(own, OwnWord { images: 1, boxes: 1, texts: 1 });
        assert_eq!(own.words().len(), 3);
        let files: Vec<&str> = kept.iter().map(|t| t.file.as_str()).collect();
        assert_eq!(files, ["a.png", "c.png"]);
        assert_eq!((kept[0].defects[0].bbox_px, kept[0].texts.len()), (None, 0));
        assert!(kept[0].defects[1].bbox_px.is_some() && kept[0].is_defective());
        // A set of somebody else is as it was.
        assert!(kept[1].defects[0].bbox_px.is_some() && kept[1].texts.len() == 1);
        assert_eq!(OwnWord::default().words(), [""; 0]);
    }

    #[test]
    fn a_model_is_not_right_because_it_finds_its_own_boxes_again() {
        let mut again = inspection();
        again.findings = vec![finding("pit", [10.0, 10.0, 20.0, 20.0], 0.9)];
        let asked = asked(&["dent", "pit"], &[]);
        let circular = export();
        let before = score(&[(&circular[0], &again)], &asked);
        assert_eq!((before.labels["pit"].tp, before.micro.missed), (1, 1));
        let (kept, _) = without(export());
        let after = score(&[(&kept[0], &again)], &asked);
        assert_eq!((after.labels["pit"].tp, after.labels["pit"].fp, after.micro.missed), (0, 0, 1));
        assert_eq!(after.image.recall, Some(1.0), "that the part is defective is a person's word");
    }
}
