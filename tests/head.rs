//! A head from reviewed parts, as a quality engineer learns it at a desk: pictures of good and of defective parts in, a
//! file beside the recipe out, and other parts told apart by it.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// One tile a part.
const RECIPE: &str = r#"schema = 1
name = "surface"
mm_per_px = 0.1
[frame]
size = "any"
[tiling]
tile_px = 256
overlap_px = 0
max_tiles = 1
min_pixels = 65536
max_pixels = 65536
[[prompt]]
id = "unlike-bad-parts"
kind = "head"
features = "backbone"
head = "surface.head"
[verdict]
fail_at = "rework"
review_below_confidence = 0.6
deadline_ms = 60000
"#;

fn run(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_inspectd"));
    command.args(args).current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null());
    command.output().expect("the binary runs")
}

fn json(out: &Output) -> Value {
    assert!(out.status.success(), "{}", words(out));
    serde_json::from_slice(&out.stdout).expect("one JSON object")
}

fn words(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

/// A desk with a recipe and pictures of surfaces.
struct Desk {
    dir: tempfile::TempDir,
}

impl Desk {
    fn new(recipe: &str) -> Self {
        let desk = Self { dir: tempfile::tempdir().expect("a directory") };
        std::fs::write(desk.at("surface.toml"), recipe).expect("writes");
        desk
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn path(&self, name: &str) -> String {
        self.at(name).display().to_string()
    }

    /// Renders surfaces, good and defective, with their truth.
    fn surfaces(&self, name: &str, count: usize, seed: u64) -> String {
        let (count, seed, out) = (count.to_string(), seed.to_string(), self.path(name));
        let rendered =
            run(&["simulate", "--tiles", "defect", "--count", &count, "--seed", &seed, "--out", &out]);
        assert!(rendered.status.success(), "{}", words(&rendered));
        out
    }

    fn learn(&self, truth: &str, more: &[&str]) -> Output {
        let recipe = self.path("surface.toml");
        run(&[&["learn", "head", "--pipeline", &recipe, "--truth", truth, "--json"], more].concat())
    }

    fn replay(&self, truth: &str, more: &[&str]) -> Output {
        run(&[&["replay", truth, "--pipeline", &self.path("surface.toml"), "--json"], more].concat())
    }
}

/// Changes the lines of a directory's truth.
fn rewrite(dir: &str, change: impl Fn(Value) -> Option<Value>) {
    let file = Path::new(dir).join("truth.jsonl");
    let text = std::fs::read_to_string(&file).expect("reads");
    let lines = text.lines().filter_map(|line| change(serde_json::from_str(line).expect("JSON")));
    std::fs::write(&file, lines.map(|line| format!("{line}\n")).collect::<String>()).expect("writes");
}

fn is_good(truth: &Value) -> bool {
    truth["defects"].as_array().is_none_or(Vec::is_empty)
}

#[test]
fn a_head_of_reviewed_surfaces_finds_defects_of_others() {
    let desk = Desk::new(RECIPE);
    let reviewed = desk.surfaces("reviewed", 120, 41);
    let learned = json(&desk.learn(&reviewed, &[]));
    assert!(learned["good"].as_u64() >= Some(20) && learned["bad"].as_u64() >= Some(20), "{learned}");
    assert_eq!(learned["with_boxes"], learned["bad"], "{learned}");
    assert!(learned["auroc"].as_f64() >= Some(0.65) && learned["seconds"].as_f64() > Some(0.0), "{learned}");
    let others = desk.surfaces("others", 60, 42);
    // Measured: 0.88 on the others and 0.78 on what was kept back; without boxes 0.77.
    json(&desk.replay(&others, &["--assert", "image.auroc>=0.7"]));

    // Without boxes the tile alone tells them apart, and no label is known.
    rewrite(&reviewed, |mut truth| {
        let defects = truth["defects"].as_array_mut().into_iter().flatten();
        defects.for_each(|defect| defect["bbox"] = Value::Null);
        Some(truth)
    });
    let learned = json(&desk.learn(&reviewed, &[]));
    assert_eq!(
        (&learned["with_boxes"], &learned["labels"]),
        (&Value::from(0), &Value::from(Vec::<u8>::new()))
    );
    json(&desk.replay(&others, &["--assert", "image.auroc>=0.65"]));
}

#[test]
fn too_little_is_refused_in_words_and_no_file_is_written() {
    let desk = Desk::new(RECIPE);
    let few = desk.surfaces("few", 60, 41);
    let first = std::cell::Cell::new(0);
    rewrite(&few, |truth| {
        first.set(first.get() + u32::from(!is_good(&truth)));
        (is_good(&truth) || first.get() < 10).then_some(truth)
    });
    let dry = json(&desk.learn(&few, &["--dry-run"]));
    assert_eq!((&dry["bad"], &dry["enough"]), (&Value::from(9), &Value::from(false)));
    let refused = desk.learn(&few, &[]);
    let said = words(&refused);
    assert!(!refused.status.success() && said.contains("9 defective parts: at least 10 of each"), "{said}");
    assert!(said.contains("0.6") && !desk.at("surface.head").exists(), "{said}");
}

#[test]
fn a_recipe_without_its_head_or_with_a_damaged_one_judges_nothing() {
    let desk = Desk::new(RECIPE);
    let surfaces = desk.surfaces("surfaces", 60, 41);
    let refused = desk.replay(&surfaces, &[]);
    assert_eq!(refused.status.code(), Some(78), "{}", words(&refused));
    for word in ["surface.toml", "prompt[0].head", "surface.head", "inspectd learn head"] {
        assert!(words(&refused).contains(word), "{word} in {}", words(&refused));
    }
    json(&desk.learn(&surfaces, &[]));
    let whole = std::fs::read(desk.at("surface.head")).expect("there is a head");
    for (at, _) in whole.iter().enumerate().step_by(whole.len() / 5) {
        std::fs::write(desk.at("surface.head"), &whole[..at]).expect("writes");
        assert_eq!(desk.replay(&surfaces, &[]).status.code(), Some(78), "cut at {at}");
    }
    // A head is no bank, and another prompt's bank that is not there yet is no matter of this one's.
    let with_bank = format!(
        "{RECIPE}[[prompt]]\nid = \"good\"\nkind = \"reference\"\nfeatures = \"backbone\"\nbank = \"other.bank\"\n"
    );
    std::fs::write(desk.at("surface.toml"), &with_bank).expect("writes");
    json(&desk.learn(&surfaces, &[]));
    std::fs::copy(desk.at("surface.head"), desk.at("other.bank")).expect("copies");
    let refused = desk.replay(&surfaces, &[]);
    assert!(words(&refused).contains("other.bank: is no bank of inspectd's"), "{}", words(&refused));
}
