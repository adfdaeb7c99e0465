//! Learning as a quality engineer does it at a desk: pictures of good parts in, a bank beside the recipe out, and
//! defective parts found that no model was ever asked about.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// Four tiles a part, each seen as 256 x 256 pixels.
const RECIPE: &str = r#"schema = 1
name = "plate"
mm_per_px = 0.15
[frame]
size = "any"
[tiling]
tile_px = 456
overlap_px = 96
max_tiles = 8
min_pixels = 65536
max_pixels = 65536
[[prompt]]
id = "like-good-parts"
kind = "reference"
features = "backbone"
bank = "plate.bank"
[verdict]
fail_at = "rework"
review_below_confidence = 0.6
deadline_ms = 60000
"#;

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_inspectd"));
    command.args(args).current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    command(args).output().expect("the binary runs")
}

fn json(out: &Output) -> Value {
    assert!(out.status.success(), "{}", words(out));
    serde_json::from_slice(&out.stdout).expect("one JSON object")
}

fn words(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

/// A desk with a recipe and pictures of one product.
struct Desk {
    dir: tempfile::TempDir,
}

impl Desk {
    fn new(recipe: &str) -> Self {
        let desk = Self { dir: tempfile::tempdir().expect("a directory") };
        std::fs::write(desk.at("plate.toml"), recipe).expect("writes");
        desk
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn path(&self, name: &str) -> String {
        self.at(name).display().to_string()
    }

    /// Renders parts of one product with their truth.
    fn parts(&self, name: &str, count: usize, seed: u64) -> String {
        let (count, seed, out) = (count.to_string(), seed.to_string(), self.path(name));
        let size = ["--width", "816", "--height", "684", "--product", "machined-plate"];
        let args = ["simulate", "--count", &count, "--seed", &seed, "--out", &out];
        assert!(run(&[&args[..], &size].concat()).status.success());
        out
    }

    fn learn(&self, truth: &str) -> Output {
        run(&["learn", "references", "--pipeline", &self.path("plate.toml"), "--truth", truth, "--json"])
    }

    fn replay(&self, truth: &str, more: &[&str]) -> Output {
        run(&[&["replay", truth, "--pipeline", &self.path("plate.toml"), "--json"], more].concat())
    }
}

/// The truth of a directory, cut to what `keep` says.
fn keep(dir: &str, keep: impl Fn(&Value) -> bool) {
    let file = Path::new(dir).join("truth.jsonl");
    let text = std::fs::read_to_string(&file).expect("reads");
    let kept = text.lines().filter(|line| keep(&serde_json::from_str(line).expect("JSON")));
    std::fs::write(&file, kept.map(|line| format!("{line}\n")).collect::<String>()).expect("writes");
}

fn is_good(truth: &Value) -> bool {
    truth["defects"].as_array().is_none_or(Vec::is_empty)
}

#[test]
fn a_bank_of_good_parts_finds_defects_that_it_never_saw() {
    for features in ["backbone", "tower"] {
        let desk = Desk::new(&RECIPE.replace("\"backbone\"", &format!("\"{features}\"")));
        let good = desk.parts("good", 32, 61);
        keep(&good, is_good);
        let learned = json(&desk.learn(&good));
        assert_eq!((&learned["bad"], &learned["features"]), (&Value::from(0), &Value::from(features)));
        assert!(learned["good"].as_u64() >= Some(10) && learned["alarmed"].as_u64() <= Some(2), "{learned}");
        let others = desk.parts("others", 30, 62);
        // Measured: 0.94 with the backbone, and with the tower what the assertion leaves room for.
        let bar = if features == "backbone" { "image.auroc>=0.85" } else { "image.auroc>=0.6" };
        let figures = json(&desk.replay(&others, &["--assert", bar]));
        assert!(figures["image"]["false_alarm_rate"].as_f64() <= Some(0.2), "{figures}");
    }
}

#[test]
fn the_same_parts_give_the_same_bank_and_records_name_it() {
    let desk = Desk::new(RECIPE);
    let good = desk.parts("good", 16, 61);
    json(&desk.learn(&good));
    let first = std::fs::read(desk.at("plate.bank")).expect("there is a bank");
    let (recipe, picture) = (desk.path("plate.toml"), format!("{good}/images/000001.png"));
    let inspected = json(&run(&["inspect", "--json", "--pipeline", &recipe, &picture]));
    json(&desk.learn(&good));
    let again = std::fs::read(desk.at("plate.bank")).expect("there is a bank");
    // The time when it was learned stands in it.
    assert_eq!(first.len(), again.len());
    let differing = first.iter().zip(&again).filter(|(a, b)| a != b).count();
    assert!(differing <= "2026-11-29T00:00:00.000Z".len(), "{differing} bytes differ");
    let newer = json(&run(&["inspect", "--json", "--pipeline", &recipe, &picture]));
    // What was asked names the bank, so that another bank is another question.
    assert_eq!(first == again, inspected["prompt_hash"] == newer["prompt_hash"]);
    assert_ne!(inspected["prompt_hash"], Value::Null);
}

#[test]
fn a_recipe_without_its_bank_judges_nothing_and_says_how_to_make_it() {
    let desk = Desk::new(RECIPE);
    let parts = desk.parts("parts", 20, 61);
    let refused = desk.replay(&parts, &[]);
    assert_eq!(refused.status.code(), Some(78), "{}", words(&refused));
    let said = words(&refused);
    for word in ["plate.toml", "prompt[0].bank", "plate.bank", "inspectd learn references"] {
        assert!(said.contains(word), "{word} in {said}");
    }
    json(&desk.learn(&parts));
    let whole = std::fs::read(desk.at("plate.bank")).expect("there is a bank");
    for (at, _) in whole.iter().enumerate().step_by(whole.len() / 7) {
        std::fs::write(desk.at("plate.bank"), &whole[..at]).expect("writes");
        let refused = desk.replay(&parts, &[]);
        assert_eq!(refused.status.code(), Some(78), "cut at {at}: {}", words(&refused));
    }
    std::fs::write(desk.at("plate.bank"), &whole).expect("writes");
    let text = RECIPE.replace("features = \"backbone\"", "features = \"tower\"");
    std::fs::write(desk.at("plate.toml"), text).expect("writes");
    let refused = desk.replay(&parts, &[]);
    assert!(words(&refused).contains("was learned from those of the backbone"), "{}", words(&refused));
}

#[test]
fn too_little_is_refused_in_words() {
    let desk = Desk::new(RECIPE);
    let parts = desk.parts("parts", 12, 61);
    keep(&parts, |truth| !is_good(truth));
    let refused = desk.learn(&parts);
    assert!(!refused.status.success() && words(&refused).contains("0 good parts, at least 5 are needed"));
    assert!(!desk.at("plate.bank").exists());
    let recipe = desk.path("plate.toml");
    let dry =
        json(&run(&["learn", "references", "--pipeline", &recipe, "--truth", &parts, "--dry-run", "--json"]));
    assert_eq!((&dry["good"], &dry["enough"]), (&Value::from(0), &Value::from(false)));
    let text = RECIPE.replace(
        "kind = \"reference\"\nfeatures = \"backbone\"\nbank = \"plate.bank\"",
        "kind = \"defects\"\nlabels = [\"pit\"]\ntext = \"{labels}\"",
    );
    std::fs::write(desk.at("plate.toml"), text).expect("writes");
    assert!(words(&desk.learn(&parts)).contains("has no prompt of kind reference"));
}

#[test]
fn a_kill_while_learning_leaves_the_bank_as_it_was() {
    let desk = Desk::new(RECIPE);
    let parts = desk.parts("parts", 20, 61);
    json(&desk.learn(&parts));
    let before = std::fs::read(desk.at("plate.bank")).expect("there is a bank");
    for ms in [50, 300, 900, 1500, 2200] {
        let recipe = desk.path("plate.toml");
        let args = ["learn", "references", "--pipeline", &recipe, "--truth", &parts];
        let mut child = command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
        std::thread::sleep(Duration::from_millis(ms));
        child.kill().expect("is killed");
        child.wait().expect("ends");
        let after = std::fs::read(desk.at("plate.bank")).expect("there is a bank");
        // Either the bank of before, or a whole new one.
        assert!(after == before || after.len() == before.len(), "after {ms} ms");
        assert!(desk.replay(&parts, &[]).status.success(), "after {ms} ms");
    }
}

#[test]
fn a_fixed_place_knows_what_belongs_where() {
    let fixed = RECIPE.replace("bank = ", "place = \"fixed\"\ntolerance_mm = 2.0\nbank = ");
    let desk = Desk::new(&fixed);
    let good = desk.parts("good", 24, 61);
    let learned = json(&desk.learn(&good));
    assert_eq!(learned["bank_cells"], 4 * 16 * 16, "{learned}");
    let others = desk.parts("others", 30, 62);
    json(&desk.replay(&others, &["--assert", "image.auroc>=0.7"]));
    // A picture of another size has other tiles: no place of it is known.
    let (count, out) = ("6", desk.path("large"));
    let size = ["--width", "1224", "--height", "1024", "--product", "machined-plate"];
    assert!(
        run(&[&["simulate", "--count", count, "--seed", "3", "--out", &out][..], &size].concat())
            .status
            .success()
    );
    let figures = json(&desk.replay(&out, &[]));
    assert_eq!(figures["image"]["verdicts"]["review"], 6, "{figures}");
}

#[test]
fn a_first_product_of_ones_own_comes_from_a_folder_of_good_parts() {
    let desk = Desk::new(RECIPE);
    let good = desk.parts("good", 32, 61);
    keep(&good, is_good);
    let text = std::fs::read_to_string(format!("{good}/truth.jsonl")).expect("reads");
    let only = desk.at("only-good");
    std::fs::create_dir(&only).expect("makes");
    for line in text.lines() {
        let truth: Value = serde_json::from_str(line).expect("JSON");
        let file = truth["file"].as_str().expect("a name");
        std::fs::copy(format!("{good}/{file}"), only.join(Path::new(file).file_name().expect("a name")))
            .expect("copies");
    }
    let (from, out) = (only.display().to_string(), desk.path("recipes"));
    let args = ["new-product", "bracket", "--from", &from, "--mm-per-px", "0.15", "--out", &out, "--json"];
    let made = json(&run(&args));
    assert!(
        made["good"].as_u64() >= Some(10)
            && made["bank"].as_str().is_some_and(|b| b.ends_with("bracket.bank")),
        "{made}"
    );
    let recipe = desk.path("recipes/bracket.toml");
    let checked = run(&["check", "--strict", &recipe]);
    assert!(checked.status.success(), "{}{}", String::from_utf8_lossy(&checked.stdout), words(&checked));
    let others = desk.parts("others", 30, 62);
    json(&run(&["replay", &others, "--pipeline", &recipe, "--json", "--assert", "image.auroc>=0.8"]));
    assert!(words(&run(&args)).contains("there is a recipe of this name"));
    let outside =
        ["new-product", "b", "--from", &from, "--mm-per-px", "0.15", "--out", &out, "--roi", "0,0,9000,10"];
    assert!(words(&run(&outside)).contains("--roi"));
    assert!(!desk.at("recipes/b.toml").exists());
}
