//! A COCO document: images, then annotations, then categories.
//!
//! Ids of categories are those of the recipes' labels, in the order in which they are given: the same in every export
//! of the same recipes, whatever was found. A label that no recipe has, a person's own word, comes after them.

use super::Exported;
use super::write::Sink;
use crate::domain::review::Decided;
use crate::store::record::rfc3339;
use serde_json::{Value, json};
use std::io::{self, Seek as _, Write as _};

const CHUNK_BYTES: usize = 64 * 1024;

/// A COCO document of exported inspections with the sizes of their pictures: images at once, annotations from a spool.
pub(super) struct Coco {
    images: usize,
    annotations: usize,
    /// The first has the id 1.
    categories: Vec<String>,
    spool: tempfile::SpooledTempFile,
}

impl Coco {
    /// A document without images; `labels` are those of the recipes.
    pub(super) fn new(labels: &[String], spool: tempfile::SpooledTempFile) -> Self {
        Self { images: 0, annotations: 0, categories: labels.to_vec(), spool }
    }

    fn category(&mut self, label: &str) -> usize {
        let known = self.categories.iter().position(|known| known == label);
        let at = known.unwrap_or_else(|| {
            self.categories.push(label.to_owned());
            self.categories.len() - 1
        });
        at + 1
    }

    /// Adds one inspection whose picture is called `file`.
    pub(super) fn add(
        &mut self,
        one: &Exported,
        file: &str,
        width: u32,
        height: u32,
        sink: &mut dyn Sink,
    ) -> io::Result<()> {
        let i = &one.stored.inspection;
        let before = if self.images == 0 { "{\"images\":[\n" } else { ",\n" };
        self.images += 1;
        let image = json!({
            "id": self.images, "file_name": file, "width": width, "height": height,
            "date_captured": rfc3339(i.captured_at), "inspection_id": i.id, "seq": one.stored.seq,
            "source": one.source().as_str(),
            "verdict": one.decided().map_or_else(|| i.verdict.as_str(), Decided::as_str),
        });
        sink.text(format!("{before}{image}").as_bytes())?;
        for truth in one.boxes() {
            let category = self.category(&truth.label);
            let [x0, y0, x1, y1] = truth.bbox.map(f64::from);
            let before = if self.annotations == 0 { "" } else { ",\n" };
            self.annotations += 1;
            // Readers expect the key, and a box is no outline.
            let annotation = json!({
                "id": self.annotations, "image_id": self.images, "category_id": category, "iscrowd": 0,
                "bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "segmentation": [],
                "severity": truth.severity, "box_source": truth.source.as_str(),
            });
            self.spool.write_all(format!("{before}{annotation}").as_bytes())?;
        }
        Ok(())
    }

    /// The rest of the document; `left_out` inspections are not in it because they or their pictures are damaged.
    pub(super) fn finish(mut self, left_out: u64, sink: &mut dyn Sink) -> io::Result<()> {
        let before = if self.images == 0 { "{\"images\":[" } else { "" };
        sink.text(format!("{before}\n],\"annotations\":[\n").as_bytes())?;
        self.spool.rewind()?;
        copy_text(&mut self.spool, sink)?;
        let categories: Vec<Value> =
            self.categories.iter().zip(1..).map(|(name, id)| json!({ "id": id, "name": name })).collect();
        let mut info = json!({ "description": "inspectd export" });
        if left_out > 0 {
            info["left_out"] = json!(left_out);
        }
        sink.text(format!("\n],\"categories\":{},\"info\":{info}}}\n", json!(categories)).as_bytes())
    }
}

/// Gives a sink all that a spool holds.
fn copy_text(from: &mut impl io::Read, sink: &mut dyn Sink) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match from.read(&mut chunk)? {
            0 => return Ok(()),
            n => sink.text(&chunk[..n])?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::record::Stored;
    use crate::store::tests::sample;
    use std::path::Path;

    #[derive(Default)]
    struct Document(String);

    impl Sink for Document {
        fn text(&mut self, bytes: &[u8]) -> io::Result<()> {
            self.0.push_str(std::str::from_utf8(bytes).unwrap());
            Ok(())
        }

        fn picture(&mut self, _: &str, _: &str, _: &Path) -> io::Result<()> {
            Ok(())
        }
    }

    /// The document of inspections with one finding each, of these labels.
    fn document(labels: &[&str], found: &[&str]) -> Value {
        let labels: Vec<String> = labels.iter().map(|l| (*l).to_owned()).collect();
        let mut coco = Coco::new(&labels, tempfile::spooled_tempfile(1024));
        let mut out = Document::default();
        for (seq, label) in (1..).zip(found) {
            let mut inspection = sample(seq);
            inspection.findings[0].label = (*label).to_owned();
            let one = Exported { stored: Stored { seq, inspection, image: None }, review: None };
            coco.add(&one, "a.png", 400, 300, &mut out).unwrap();
        }
        coco.finish(0, &mut out).unwrap();
        serde_json::from_str(&out.0).unwrap()
    }

    #[test]
    fn a_label_has_the_id_of_its_recipe_whatever_was_found() {
        let recipes = ["scratch", "pit"];
        let ids = |document: &Value| -> Vec<u64> {
            let annotations = document["annotations"].as_array().unwrap();
            annotations.iter().map(|a| a["category_id"].as_u64().unwrap()).collect()
        };
        let categories = json!([{ "id": 1, "name": "scratch" }, { "id": 2, "name": "pit" }]);
        for (found, expected) in
            [(vec!["pit"], vec![2]), (vec!["scratch", "pit"], vec![1, 2]), (vec![], vec![])]
        {
            let document = document(&recipes, &found);
            assert_eq!((ids(&document), &document["categories"]), (expected, &categories), "{found:?}");
        }
        // A person's own word comes after them.
        let own = document(&recipes, &["dust", "scratch"]);
        assert_eq!((ids(&own), &own["categories"][2]), (vec![3, 1], &json!({ "id": 3, "name": "dust" })));
        for annotation in own["annotations"].as_array().unwrap() {
            assert_eq!(
                (&annotation["segmentation"], &annotation["box_source"]),
                (&json!([]), &json!("model"))
            );
        }
    }
}
