//! The contracts of the command line with users' scripts: JSON on stdout and nothing else there,
//! exit codes, errors that name what is wrong.

#[path = "cli/ask.rs"]
mod ask;
#[path = "common/config.rs"]
mod config;
#[path = "common/film.rs"]
mod film;
#[path = "cli/package.rs"]
mod package;
#[path = "common/shipped.rs"]
mod shipped;

use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn run(args: &[&str]) -> Output {
    let root = env!("CARGO_MANIFEST_DIR");
    let mut command = Command::new(env!("CARGO_BIN_EXE_inspectd"));
    command.args(args).current_dir(root).stdin(Stdio::null()).output().unwrap()
}

fn json_lines(out: &Output) -> Vec<Value> {
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8(out.stdout.clone()).unwrap();
    text.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect()
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

fn has(value: &Value, wanted: &[&str]) {
    let found = keys(value);
    assert!(wanted.iter().all(|k| found.contains(k)), "{wanted:?} in {found:?}");
}

const TILE: &str = "fixtures/model/examples/images/defect-256x256-00.png";
const CROP: &str = "fixtures/model/examples/images/text-384x96-00.png";

#[test]
fn inspect_prints_one_result_a_picture() {
    let dir = tempfile::tempdir().unwrap();
    let copies = dir.path().display().to_string();
    let out = run(&["inspect", "--json", "--min-confidence", "0", "--annotate", &copies, TILE, CROP]);
    let lines = json_lines(&out);
    assert_eq!(lines.iter().map(|l| l["file"].as_str().unwrap()).collect::<Vec<_>>(), [TILE, CROP]);
    for line in &lines {
        has(
            line,
            &[
                "schema",
                "inspection_id",
                "verdict",
                "grade",
                "reason",
                "findings",
                "texts",
                "tiles",
                "latency_ms",
                "model",
                "prompt_hash",
                "ts_capture",
                "ts_result",
            ],
        );
    }
    assert_eq!(lines[0]["findings"][0]["label"], "stain");
    assert!(!lines[1]["texts"][0]["read"].as_str().unwrap().is_empty());
    for name in ["defect-256x256-00.png", "text-384x96-00.png"] {
        let copy = inspectd::cli::picture::load(&dir.path().join(name)).unwrap();
        assert!(copy.width() >= 256);
    }
}

#[test]
fn a_picture_that_cannot_be_read_is_named_and_the_others_are_inspected() {
    let out = run(&["inspect", "--json", "nowhere.png", TILE]);
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&out.stderr).contains("nowhere.png"));
    assert_eq!(String::from_utf8(out.stdout).unwrap().lines().count(), 1);
}

#[test]
fn replay_scores_the_examples() {
    let out = run(&[
        "replay",
        "fixtures/model/examples",
        "--json",
        "--min-confidence",
        "0",
        "--assert",
        "image.recall>=0.7",
        "--assert",
        "text.cer<=0.1",
    ]);
    let found = json_lines(&out).remove(0);
    has(&found, &["images", "labels", "micro", "image", "text", "latency_ms"]);
    has(&found["labels"]["scratch"], &["tp", "fp", "fn", "precision", "recall", "f1"]);
    has(&found["micro"], &["precision", "recall", "f1"]);
    has(&found["image"], &["defective", "clean", "recall", "false_alarm_rate", "auroc"]);
    has(&found["text"], &["lines", "exact", "line_accuracy", "cer"]);
    has(&found["latency_ms"], &["p50", "p95", "max"]);
    assert_eq!(found["images"], 12);
    let out =
        run(&["replay", "fixtures/model/examples", "--json", "--limit", "2", "--assert", "micro.f1>=2"]);
    assert_eq!(out.status.code(), Some(1));
}

/// A dozen pictures prove no share of 1 %; they do prove, not very surely, that fewer than half of the defective parts pass.
#[test]
fn calibrate_proves_what_the_examples_can_and_says_what_they_cannot() {
    let dir = tempfile::tempdir().unwrap();
    let new = dir.path().join("examples-defects.toml").display().to_string();
    let calibrate = |more: &[&str]| {
        let known = ["--pipeline", "pipelines/examples-defects.toml", "--truth", "fixtures/model/examples"];
        run(&[&["calibrate", "--json"], known.as_slice(), more].concat())
    };
    let refused = calibrate(&["--write", &new]);
    assert_eq!(refused.status.code(), Some(3), "{}", String::from_utf8_lossy(&refused.stderr));
    let found: Value = serde_json::from_slice(&refused.stdout).unwrap();
    has(
        &found,
        &[
            "pipeline",
            "version",
            "proven",
            "promise",
            "thresholds",
            "parts",
            "escapes",
            "review",
            "outcomes",
            "needed",
            "toml",
            "written",
            "source",
            "assumes",
            "method",
        ],
    );
    assert_eq!((&found["proven"], &found["thresholds"]), (&Value::Bool(false), &Value::Null));
    assert_eq!(found["needed"][0]["defective"], 299);
    assert!(found["escapes"]["best_bound"].as_f64().unwrap() > 0.01);
    assert!(!Path::new(&new).exists());
    let words = String::from_utf8_lossy(&refused.stderr);
    assert!(words.contains("NOT PROVEN") && words.contains("exchangeable"), "{words}");

    let proven = calibrate(&["--escape", "0.5", "--confidence", "0.6", "--write", &new]);
    let found = json_lines(&proven).remove(0);
    assert_eq!((&found["proven"], found["written"].as_str()), (&Value::Bool(true), Some(new.as_str())));
    has(&found["thresholds"], &["review_above_score", "fail_above_score", "false_fail"]);
    has(&found["review"], &["share", "of_good", "of_defective"]);
    assert!(found["toml"].as_str().unwrap().contains("[promise]\nescape = 0.5\nconfidence = 0.6\n"));
    let checked = inspectd::recipe::load_pipeline(Path::new(&new)).unwrap();
    assert_eq!(checked.name, "examples-defects");
}

#[test]
fn simulate_writes_pictures_and_their_truth() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().display().to_string();
    let out = run(&[
        "simulate",
        "--count",
        "2",
        "--seed",
        "5",
        "--width",
        "640",
        "--height",
        "512",
        "--product",
        "cast-housing",
        "--out",
        &to,
    ]);
    assert!(out.status.success() && out.stdout.is_empty(), "{out:?}");
    let truth = std::fs::read_to_string(dir.path().join("truth.jsonl")).unwrap();
    assert_eq!(truth.lines().count(), 2);
    for line in truth.lines() {
        let truth: Value = serde_json::from_str(line).unwrap();
        has(&truth, &["file", "width", "height", "defects", "texts", "good", "rois"]);
        let picture =
            inspectd::cli::picture::load(&dir.path().join(truth["file"].as_str().unwrap())).unwrap();
        assert_eq!((picture.width(), picture.height()), (640, 512));
    }
}

#[test]
fn inspect_takes_a_clip() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = std::fs::read_to_string("pipelines/examples-defects.toml").unwrap();
    let clip = "[clip]\nframes = 2\ninterval_ms = 250\n[[prompt]]\nclip = true";
    let path = dir.path().join("examples-defects.toml");
    std::fs::write(&path, recipe.replacen("[[prompt]]", clip, 1)).unwrap();
    let file = path.display().to_string();
    let inspect = |args: &[&str]| run(&[&["inspect", "--json", "--pipeline", &file], args].concat());
    let other = TILE.replace("-00.", "-01.");
    let result = json_lines(&inspect(&["--clip", &other, TILE])).remove(0);
    assert_eq!(result["file"], TILE, "the last picture is the inspected one");
    assert_eq!(result["tiles"]["planned"], result["tiles"]["inspected"]);
    let reason = |result: &Value| result["reason"].as_str().unwrap_or_default().to_owned();
    assert!(!reason(&result).starts_with("frame") && result["tiles"]["planned"] == 1, "{result}");
    let out = inspect(&[TILE]);
    assert!(String::from_utf8_lossy(&out.stderr).contains("give them with --clip"), "{out:?}");
    assert!(reason(&json_lines(&out)[0]).ends_with("a clip of 2 pictures, and this frame has 1"));
    for (pipeline, args, words) in [
        (file.as_str(), vec!["--clip", TILE], "takes 2 pictures, not 1"),
        ("photo", vec!["--clip", &other, TILE], "no prompt of the pipeline photo asks about a clip"),
    ] {
        let out = run(&[&["inspect", "--pipeline", pipeline], args.as_slice()].concat());
        assert!(!out.status.success() && String::from_utf8_lossy(&out.stderr).contains(words), "{out:?}");
    }
}

#[test]
fn a_damaged_model_answers_no_command() {
    let pair = shipped::Pair::new();
    pair.exchange(shipped::VISION, &shipped::blinded(&pair.bytes(shipped::VISION)));
    let [text, vision] = [shipped::TEXT, shipped::VISION].map(|name| pair.path(name).display().to_string());
    for command in [
        vec!["inspect", TILE],
        vec!["replay", "fixtures/model/examples"],
        vec!["ask", "Is it?"],
        vec!["bench", "--quick"],
    ] {
        let out = run(&[command.as_slice(), &["--model", &text, "--mmproj", &vision]].concat());
        let why = String::from_utf8_lossy(&out.stderr);
        assert!(!out.status.success() && out.stdout.is_empty(), "{command:?}: {why}");
        assert!(why.contains("is not proven to be whole") && why.contains(&vision), "{command:?}: {why}");
        assert!(why.contains("known pictures as it must"), "{command:?}: {why}");
    }
}

#[test]
fn model_info_names_metadata_shapes_and_bytes() {
    let info = json_lines(&run(&["model", "info", "--json", "fixtures/model/inspectd-small.gguf"])).remove(0);
    has(&info, &["metadata", "tensors", "bytes_by_type", "sha256"]);
    assert_eq!(info["metadata"]["general.architecture"], "qwen3vl");
    assert_eq!(info["tensors"]["blk.0.attn_q.weight"]["type"], "Q8_0");
    assert_eq!(info["files"], serde_json::json!(["fixtures/model/inspectd-small.gguf"]));
    let out = run(&["model", "info", "README.md"]);
    assert!(!out.status.success() && String::from_utf8_lossy(&out.stderr).contains("README.md: magic"));
}

/// As `inspectd model info FILE | head` does once it has its lines.
#[test]
fn model_info_ends_quietly_when_nobody_reads_on() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_inspectd"));
    command.args(["model", "info", "fixtures/model/inspectd-small.gguf"]);
    let command = command.current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let out = child.wait_with_output().unwrap();
    let words = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && words.is_empty(), "{words}");
}

#[test]
fn verify_needs_a_store() {
    let dir = tempfile::tempdir().unwrap();
    drop(inspectd::store::Store::open(dir.path(), inspectd::store::StoreOptions::default()).unwrap());
    let found =
        json_lines(&run(&["verify", "--json", "--store", &dir.path().display().to_string()])).remove(0);
    assert_eq!(
        keys(&found),
        BTreeSet::from([
            "inspections",
            "first_seq",
            "last_seq",
            "head_hash",
            "gaps",
            "broken_at",
            "reviews",
            "pictures"
        ])
    );
    assert_eq!((found["inspections"].as_u64(), found["broken_at"].is_null()), (Some(0), true));
    let out = run(&["verify", "--store", "nowhere"]);
    assert!(!out.status.success() && String::from_utf8_lossy(&out.stderr).contains("nowhere"));
    assert!(!Path::new("nowhere").exists(), "looking must not create a store");
}

#[test]
fn a_log_filter_that_is_none_is_refused_and_the_help_says_what_one_is() {
    let with = |variable: &str, value: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_inspectd"));
        command.args(["check", "pipelines/photo.toml"]).current_dir(env!("CARGO_MANIFEST_DIR"));
        command.env(variable, value).stdin(Stdio::null()).output().unwrap()
    };
    for (variable, value, words) in [
        (
            "INSPECTD_LOG",
            "verbose",
            "INSPECTD_LOG=verbose: there is no level verbose; there are error, warn,",
        ),
        ("INSPECTD_LOG_FORMAT", "xml", "INSPECTD_LOG_FORMAT=xml: must be one of text, json"),
    ] {
        let refused = with(variable, value);
        let said = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(78), "{said}");
        assert!(said.contains(words), "{said}");
    }
    assert!(with("INSPECTD_LOG", "debug").status.success());
    let help = run(&["run", "--help"]).stdout;
    let help = String::from_utf8(help).unwrap();
    assert!(help.contains("INSPECTD_LOG ") && help.contains("INSPECTD_LOG_FORMAT"), "{help}");
}

/// Many errors name their cause in their own words; its number stands there once.
#[test]
fn an_error_of_the_operating_system_is_said_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    std::fs::write(&store, "").unwrap();
    let camera = "[[camera]]\nid = \"cam1\"\nsource = \"simulator\"\npipeline = \"photo\"\n";
    let path = dir.path().join("inspectd.toml");
    std::fs::write(&path, config::config(&store, 1, camera)).unwrap();
    let out = run(&["run", "--config", path.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success(), "{said}");
    assert_eq!(said.matches("(os error").count(), 1, "{said}");
}
