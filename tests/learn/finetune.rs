//! Fine-tuning as a quality engineer does it at a desk: a tiny random model, few steps, and what ends them.

use crate::desk::{Desk, command, json, rewrite, run, words};
use serde_json::Value;
use std::path::Path;
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

/// One tile a part. Of labels that the simulator has more of, so that no step renders tiles of its own.
const RECIPE: &str = r#"schema = 1
name = "surface"
mm_per_px = 0.1
[frame]
size = "any"
[tiling]
tile_px = 128
overlap_px = 0
max_tiles = 1
min_pixels = 4096
max_pixels = 16384
[[prompt]]
id = "surface"
kind = "defects"
labels = ["scratch", "dent", "crack", "pit", "stain", "chip", "misprint"]
text = "Find surface defects: {labels}."
[verdict]
fail_at = "rework"
review_below_confidence = 0.6
deadline_ms = 60000
"#;
const TEXT: &str = "fixtures/reference/tiny/tiny-q8_0.gguf";
const MMPROJ: &str = "fixtures/reference/tiny/mmproj-tiny-q8_0.gguf";
/// What the end of a run before its time exits with.
const STOPPED: i32 = 75;
/// A checkpoint comes with the first step; nothing is decided by how long that takes.
const WAIT: Duration = Duration::from_mins(2);

fn desk() -> Desk {
    Desk::new("surface", "finetune", RECIPE)
}

fn surfaces(desk: &Desk) -> String {
    let dir = desk.simulate("surfaces", 40, 41, &["--tiles", "defect", "--width", "128", "--height", "128"]);
    // The recipe knows nothing of screws.
    rewrite(&dir, |truth| {
        let screw = truth["defects"].as_array().into_iter().flatten().any(|d| d["label"] == "missing_screw");
        (!screw).then_some(truth)
    });
    dir
}

fn arguments(desk: &Desk, truth: &str, more: &[&str]) -> Vec<String> {
    let (recipe, out) = (desk.recipe(), desk.path("out"));
    let all = ["learn", "finetune", "--pipeline", &recipe, "--truth", truth, "--out", &out, "--json"];
    let all = [&all[..], &["--model", TEXT, "--mmproj", MMPROJ], more].concat();
    all.into_iter().map(str::to_owned).collect()
}

fn finetune(desk: &Desk, truth: &str, more: &[&str]) -> Output {
    let all = arguments(desk, truth, more);
    run(&all.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Starts a run that would take an hour, and waits until it has made its first step.
fn under_way(desk: &Desk, truth: &str) -> Child {
    let all = arguments(desk, truth, &["--minutes", "60"]);
    let mut command = command(&all.iter().map(String::as_str).collect::<Vec<_>>());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
    let (checkpoint, started) = (desk.at("out/checkpoint.safetensors"), Instant::now());
    while !checkpoint.exists() {
        assert!(child.try_wait().expect("is asked").is_none() && started.elapsed() < WAIT, "no checkpoint");
        std::thread::sleep(Duration::from_millis(50));
    }
    child
}

/// Of `inspect` with the tiny pair and these arguments: the model that the record names.
fn model_of(desk: &Desk, truth: &str, pair: &[&str]) -> Value {
    let (recipe, picture) = (desk.recipe(), format!("{truth}/images/000000.png"));
    let args = [&["inspect", "--json", "--pipeline", &recipe], pair, &[picture.as_str()]].concat();
    json(&run(&args))["model"].clone()
}

#[test]
fn a_pair_learns_and_another_pair_comes_of_it() {
    let desk = desk();
    let truth = surfaces(&desk);
    let learned = json(&finetune(&desk, &truth, &["--steps", "40"]));
    assert!(learned["loss"].as_f64() < learned["first_loss"].as_f64().map(|loss| 0.9 * loss), "{learned}");
    assert_eq!((&learned["steps"], &learned["complete"]), (&Value::from(40), &Value::from(true)));
    assert!(
        learned["defective_tiles"].as_u64() >= Some(8) && learned["good_tiles"].as_u64() >= Some(8),
        "{learned}"
    );
    let [text, mmproj] = [0, 1].map(|i| learned["files"][i].as_str().expect("a path").to_owned());
    assert!(text.ends_with("out/surface.gguf") && mmproj.ends_with("out/mmproj-surface.gguf"), "{learned}");
    let (before, after) = (
        model_of(&desk, &truth, &["--model", TEXT, "--mmproj", MMPROJ]),
        model_of(&desk, &truth, &["--model", &text, "--mmproj", &mmproj]),
    );
    assert_eq!(after["name"], format!("{}-surface", before["name"].as_str().expect("a name")));
    assert!(after["sha256"] != before["sha256"] && after["mmproj_sha256"] != before["mmproj_sha256"]);
    // The types of the source, tensor by tensor.
    let types = |file: &str| json(&run(&["model", "info", "--json", file]))["tensors"].clone();
    assert_eq!((types(&text), types(&mmproj)), (types(TEXT), types(MMPROJ)));
}

#[test]
fn an_adapter_is_another_model_and_fits_its_pair_alone() {
    let desk = desk();
    let truth = surfaces(&desk);
    let learned = json(&finetune(&desk, &truth, &["--steps", "6", "--lora", "--rank", "4"]));
    let adapter = learned["files"][0].as_str().expect("a path").to_owned();
    assert!(
        adapter.ends_with("out/surface.adapter.gguf") && learned["files"].as_array().map(Vec::len) == Some(1)
    );
    let pair = ["--model", TEXT, "--mmproj", MMPROJ];
    let before = model_of(&desk, &truth, &pair);
    let after = model_of(&desk, &truth, &[&pair[..], &["--adapter", &adapter]].concat());
    assert_eq!(after["name"], format!("{}+surface", before["name"].as_str().expect("a name")));
    assert!(after["sha256"] != before["sha256"] && after["mmproj_sha256"] != before["mmproj_sha256"]);
    // Named by the recipe, beside it, it is the same model, and the record names the file.
    std::fs::copy(&adapter, desk.at("surface.adapter.gguf")).expect("a copy");
    std::fs::write(desk.at("surface.toml"), format!("adapter = \"surface.adapter.gguf\"\n{RECIPE}"))
        .expect("a recipe");
    assert_eq!(model_of(&desk, &truth, &pair), after);
    let other = [
        "--model",
        "fixtures/reference/tiny/tiny-f32.gguf",
        "--mmproj",
        "fixtures/reference/tiny/mmproj-tiny-f32.gguf",
    ];
    let args = [&["ask"], &other[..], &["--adapter", &adapter, "Hello"]].concat();
    let refused = run(&args);
    assert!(
        !refused.status.success() && words(&refused).contains("trained for another"),
        "{}",
        words(&refused)
    );
}

/// What a run makes that goes on from a checkpoint: the one step of it is made, so that nothing is left to do but to write.
fn goes_on(desk: &Desk, truth: &str) {
    let resumed = json(&finetune(desk, truth, &["--minutes", "60", "--steps", "1"]));
    assert!(resumed["resumed_at"].as_u64() >= Some(1) && resumed["complete"] == true, "{resumed}");
    assert_eq!(resumed["steps"], resumed["resumed_at"]);
}

#[test]
fn a_run_that_was_killed_goes_on() {
    let desk = desk();
    let truth = surfaces(&desk);
    let mut child = under_way(&desk, &truth);
    child.kill().expect("is killed");
    child.wait().expect("ends");
    assert!(!desk.at("out/surface.gguf").exists(), "it was not complete");
    goes_on(&desk, &truth);
    let anew = json(&finetune(&desk, &truth, &["--steps", "2", "--anew"]));
    assert_eq!((&anew["resumed_at"], &anew["steps"]), (&Value::from(0), &Value::from(2)));
}

#[test]
fn a_run_that_is_told_to_stop_keeps_what_it_has() {
    let desk = desk();
    let truth = surfaces(&desk);
    let mut child = under_way(&desk, &truth);
    // SAFETY: a signal to a child that was not waited for.
    assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGTERM) }, 0);
    assert_eq!(child.wait().expect("ends").code(), Some(STOPPED));
    assert!(!desk.at("out/surface.gguf").exists(), "it was not complete");
    goes_on(&desk, &truth);
}

#[test]
fn too_little_to_learn_from_is_refused() {
    let desk = desk();
    let truth = surfaces(&desk);
    rewrite(&truth, |mut truth| {
        let defects = truth["defects"].as_array_mut().into_iter().flatten();
        defects.for_each(|defect| defect["bbox"] = Value::Null);
        Some(truth)
    });
    let refused = finetune(&desk, &truth, &["--steps", "1"]);
    let said = words(&refused);
    assert!(!refused.status.success() && said.contains("boxes are needed"), "{said}");
    assert!(!Path::new(&desk.path("out")).exists(), "nothing is written");
}
