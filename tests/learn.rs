//! Learning as a quality engineer does it at a desk: pictures of good parts in, a bank beside the recipe out, and
//! defective parts found that no model was ever asked about.

#[path = "common/config.rs"]
mod config;
#[path = "common/desk.rs"]
mod desk;
#[path = "learn/finetune.rs"]
mod finetune;

use desk::{Desk, command, is_good, json, rewrite, run, words};
use serde_json::Value;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

const RECIPE: &str = include_str!("common/plate.toml");

fn desk(recipe: &str) -> Desk {
    Desk::new("plate", "references", recipe)
}

/// Renders parts of one product with their truth.
fn parts(desk: &Desk, name: &str, count: usize, seed: u64) -> String {
    let size = ["--width", "816", "--height", "684", "--product", "machined-plate"];
    desk.simulate(name, count, seed, &size)
}

/// Keeps the parts of a directory that are good, or those that are not.
fn keep(dir: &str, good: bool) {
    rewrite(dir, |truth| (is_good(&truth) == good).then_some(truth));
}

#[test]
fn a_bank_of_good_parts_finds_defects_that_it_never_saw() {
    for features in ["backbone", "tower"] {
        let desk = desk(&RECIPE.replace("\"backbone\"", &format!("\"{features}\"")));
        let good = parts(&desk, "good", 32, 61);
        keep(&good, true);
        let learned = json(&desk.learn(&good, &[]));
        assert_eq!((&learned["bad"], &learned["features"]), (&Value::from(0), &Value::from(features)));
        assert!(learned["good"].as_u64() >= Some(10) && learned["alarmed"].as_u64() <= Some(2), "{learned}");
        let others = parts(&desk, "others", 30, 62);
        // Measured: 0.94 with the backbone, and with the tower what the assertion leaves room for.
        let bar = if features == "backbone" { "image.auroc>=0.85" } else { "image.auroc>=0.6" };
        let figures = json(&desk.replay(&others, &["--assert", bar]));
        assert!(figures["image"]["false_alarm_rate"].as_f64() <= Some(0.2), "{figures}");
    }
}

#[test]
fn the_same_parts_give_the_same_bank_and_records_name_it() {
    let desk = desk(RECIPE);
    let good = parts(&desk, "good", 16, 61);
    json(&desk.learn(&good, &[]));
    let first = std::fs::read(desk.at("plate.bank")).expect("there is a bank");
    let (recipe, picture) = (desk.path("plate.toml"), format!("{good}/images/000001.png"));
    let inspected = json(&run(&["inspect", "--json", "--pipeline", &recipe, &picture]));
    json(&desk.learn(&good, &[]));
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
    let desk = desk(RECIPE);
    let parts = parts(&desk, "parts", 20, 61);
    let refused = desk.replay(&parts, &[]);
    assert_eq!(refused.status.code(), Some(78), "{}", words(&refused));
    let said = words(&refused);
    for word in ["plate.toml", "prompt[0].bank", "plate.bank", "inspectd learn references"] {
        assert!(said.contains(word), "{word} in {said}");
    }
    json(&desk.learn(&parts, &[]));
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
    let desk = desk(RECIPE);
    let parts = parts(&desk, "parts", 12, 61);
    keep(&parts, false);
    let refused = desk.learn(&parts, &[]);
    assert!(!refused.status.success() && words(&refused).contains("0 good parts, at least 5 are needed"));
    assert!(!desk.at("plate.bank").exists());
    let dry = json(&desk.learn(&parts, &["--dry-run"]));
    assert_eq!((&dry["good"], &dry["enough"]), (&Value::from(0), &Value::from(false)));
    let text = RECIPE.replace(
        "kind = \"reference\"\nfeatures = \"backbone\"\nbank = \"plate.bank\"",
        "kind = \"defects\"\nlabels = [\"pit\"]\ntext = \"{labels}\"",
    );
    std::fs::write(desk.at("plate.toml"), text).expect("writes");
    assert!(words(&desk.learn(&parts, &[])).contains("has no prompt of kind reference"));
}

#[test]
fn a_kill_while_learning_leaves_the_bank_as_it_was() {
    let desk = desk(RECIPE);
    let parts = parts(&desk, "parts", 20, 61);
    json(&desk.learn(&parts, &[]));
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
    let desk = desk(&fixed);
    let good = parts(&desk, "good", 24, 61);
    let learned = json(&desk.learn(&good, &[]));
    assert_eq!(learned["bank_cells"], 4 * 16 * 16, "{learned}");
    let others = parts(&desk, "others", 30, 62);
    json(&desk.replay(&others, &["--assert", "image.auroc>=0.7"]));
    // A picture of another size has other tiles: no place of it is known.
    let size = ["--width", "1224", "--height", "1024", "--product", "machined-plate"];
    let large = desk.simulate("large", 6, 3, &size);
    let figures = json(&desk.replay(&large, &[]));
    assert_eq!(figures["image"]["verdicts"]["review"], 6, "{figures}");
}

/// A folder with pictures of good parts, and of nothing else.
fn only_good(desk: &Desk) -> String {
    let good = parts(desk, "good", 32, 61);
    keep(&good, true);
    let text = std::fs::read_to_string(format!("{good}/truth.jsonl")).expect("reads");
    let only = desk.at("only-good");
    std::fs::create_dir(&only).expect("makes");
    for line in text.lines() {
        let truth: Value = serde_json::from_str(line).expect("JSON");
        let file = truth["file"].as_str().expect("a name");
        std::fs::copy(format!("{good}/{file}"), only.join(Path::new(file).file_name().expect("a name")))
            .expect("copies");
    }
    only.display().to_string()
}

#[test]
fn a_first_product_of_ones_own_comes_from_a_folder_of_good_parts() {
    let desk = desk(RECIPE);
    let (from, out) = (only_good(&desk), desk.path("recipes"));
    // It shows nothing, and is left out.
    image::RgbImage::new(816, 684).save(format!("{from}/black.png")).expect("writes");
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
    let others = parts(&desk, "others", 30, 62);
    json(&run(&["replay", &others, "--pipeline", &recipe, "--json", "--assert", "image.auroc>=0.8"]));
    assert!(words(&run(&args)).contains("there is a recipe of this name"));
    let outside =
        ["new-product", "b", "--from", &from, "--mm-per-px", "0.15", "--out", &out, "--roi", "0,0,9000,10"];
    assert!(words(&run(&outside)).contains("--roi"));
    assert!(!desk.at("recipes/b.toml").exists());
}

#[test]
fn a_first_product_of_ones_own_comes_from_a_configured_camera_and_its_pictures_stay() {
    let desk = desk(RECIPE);
    let (from, out) = (only_good(&desk), desk.path("recipes"));
    // The first that the camera takes.
    image::RgbImage::new(816, 684).save(format!("{from}/000000.png")).expect("writes");
    let camera = format!(
        "[[camera]]\nid = \"top\"\nsource = \"folder\"\nwatch = false\npath = \"{from}\"\npipeline = \"any-part\"\n"
    );
    std::fs::write(desk.at("inspectd.toml"), config::config(&desk.at("store"), 1, &camera)).expect("writes");
    let file = desk.path("inspectd.toml");
    let take = |name: &str, camera: &str, more: &[&str]| {
        let args = ["new-product", name, "--camera", camera, "--config", &file, "--mm-per-px", "0.15"];
        run(&[&args[..], &["--out", &out, "--roi", "0,0,600,600", "--json"], more].concat())
    };
    let done = take("bracket", "top", &["--count", "6"]);
    assert!(words(&done).contains("not used: it shows nothing: dark"), "{}", words(&done));
    assert_eq!(json(&done)["good"], 6);
    let kept = |dir: &str| {
        let files = std::fs::read_dir(desk.at(dir)).expect("is there");
        let mut names: Vec<_> = files.map(|file| file.expect("reads").file_name()).collect();
        names.sort();
        names
    };
    let six: Vec<_> = (1..=6).map(|n| std::ffi::OsString::from(format!("{n:04}.png"))).collect();
    assert_eq!(kept("recipes/bracket-good"), six);
    let checked = run(&["check", "--strict", &desk.path("recipes/bracket.toml")]);
    assert!(checked.status.success(), "{}{}", String::from_utf8_lossy(&checked.stdout), words(&checked));

    assert!(words(&take("b", "side", &[])).contains("no such camera; it has top"));
    let keep = desk.path("recipes/bracket-good");
    assert!(words(&take("b", "top", &["--keep", &keep])).contains("pictures already"));
    // The camera ends before it has as many: what it took is not lost.
    let short = words(&take("b", "top", &["--count", "100"]));
    assert!(short.contains("of 100 pictures, which are in") && short.contains("b-good"), "{short}");
    assert!(kept("recipes/b-good").len() >= 10 && !desk.at("recipes/b.toml").exists(), "{short}");
}
