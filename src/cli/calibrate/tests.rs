//! A small archive from its pictures to the JSON, without a model.

use super::*;
use crate::cli::picture;
use crate::domain::grade::Verdict;
use crate::evaluate::score::tests::inspection;
use clap::Parser;
use serde_json::Value;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: Args,
}

fn args(line: &str) -> Args {
    Cli::try_parse_from(line.split(' ')).expect("fits").args
}

const RECIPE: &str = "pipelines/examples-defects.toml";

/// A directory of `bad` defective pictures and twenty good ones.
fn archive(bad: usize) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let mut lines = String::new();
    for n in 0..bad + 20 {
        let (file, good) = (format!("images/{n}.png"), n >= bad);
        picture::save(&dir.path().join(&file), &RgbImage::new(32, 32)).expect("writes");
        lines +=
            &format!("{{\"file\":\"{file}\",\"width\":32,\"height\":32,\"defects\":[],\"good\":{good}}}\n");
    }
    std::fs::write(dir.path().join(truth::TRUTH_FILE), lines).expect("writes");
    dir
}

/// Nothing is found; good parts score 0.1 and defective ones 0.8, and the second picture is not judged.
fn scripted(truth: &Truth, _: Arc<RgbImage>) -> Inspection {
    let mut i = inspection();
    i.verdict = if truth.file == "images/1.png" {
        Verdict::Review(crate::domain::grade::Reason::Deadline { late_ms: 1 })
    } else {
        Verdict::Pass
    };
    i.score = if truth.is_defective() { 0.8 } else { 0.1 };
    i
}

/// The report on an archive, as a script reads it.
fn calibrated(args: &Args) -> (Calibration, Value) {
    let known = Known::open(args).expect("opens");
    let rule = &known.recipe.pipeline.verdict;
    let (cases, unjudged) =
        cases(&known.truths, &known.dir, Depth(None), rule, scripted).expect("reads the pictures");
    let calibration = calibrate(&cases, unjudged, wanted(args));
    let written = known.write(args.write.as_deref(), &calibration).expect("writes");
    let report = Report::new(&known.recipe.pipeline, known.source(args), &calibration, written);
    let mut out = Vec::new();
    report.say(true, &mut out).expect("writes");
    let text = String::from_utf8(out).expect("text");
    assert_eq!(text.lines().count(), 1);
    (calibration, serde_json::from_str(&text).expect("JSON"))
}

#[test]
fn sixty_defective_parts_prove_five_percent_and_the_recipe_holds_it() {
    let dir = archive(60);
    let new = dir.path().join("examples-defects.toml");
    let line = format!(
        "calibrate --pipeline {RECIPE} --truth {} --escape 0.05 --write {} --json",
        dir.path().display(),
        new.display()
    );
    let (_, json) = calibrated(&args(&line));
    assert_eq!((json["proven"].as_bool(), json["parts"]["defective"].as_u64()), (Some(true), Some(59)));
    assert_eq!((json["parts"]["good"].as_u64(), json["parts"]["unjudged"].as_u64()), (Some(20), Some(1)));
    assert_eq!(json["promise"]["about"].as_str(), Some("P(pass | defective)"));
    assert_eq!(
        (json["promise"]["escape"].as_f64(), json["promise"]["confidence"].as_f64()),
        (Some(0.05), Some(0.95))
    );
    assert_eq!(json["thresholds"]["review_above_score"].as_f64(), Some(0.79));
    // Twenty good parts prove no share of fails.
    assert_eq!(json["thresholds"]["fail_above_score"], Value::Null);
    assert_eq!(json["escapes"]["passed"].as_u64(), Some(0));
    let bound = json["escapes"]["best_bound"].as_f64().expect("a number");
    assert!((bound - (1.0 - 0.05_f64.powf(1.0 / 59.0))).abs() < 1e-12);
    assert_eq!(json["review"]["share"].as_f64(), Some(60.0 / 80.0));
    assert_eq!(json["review"]["of_good"].as_f64(), Some(0.0));
    assert_eq!(json["needed"][0]["defective"].as_u64(), Some(59));
    assert_eq!(
        (json["needed"][1]["defective"].as_u64(), json["needed"][1]["more"].as_u64()),
        (Some(119), Some(60))
    );
    assert!(json["assumes"].as_str().is_some_and(|words| words.contains("exchangeable")));
    assert_eq!(json["source"]["kind"].as_str(), Some("truth"));
    let toml = json["toml"].as_str().expect("lines");
    assert!(toml.contains("[verdict]\nreview_above_score = 0.79\n"), "{toml}");

    let before = crate::recipe::load_pipeline(Path::new(RECIPE)).expect("it ships");
    let after = crate::recipe::load_pipeline(&new).expect("it was written");
    assert_eq!(after.verdict.review_above_score, Some(0.79));
    assert_eq!(after.promise, Some(PromiseRule { escape: 0.05, confidence: 0.95 }));
    assert!(after.judges_like(&before));
    // Another run does not write over it.
    let error = Known::open(&args(&line)).err().expect("refused").to_string();
    assert!(error.contains("there is such a file already"), "{error}");
}

#[test]
fn too_few_parts_prove_nothing_and_the_report_says_what_it_takes() {
    let dir = archive(30);
    let new = dir.path().join("new.toml");
    let line =
        format!("calibrate --pipeline {RECIPE} --truth {} --write {}", dir.path().display(), new.display());
    let (calibration, json) = calibrated(&args(&line));
    assert_eq!((calibration.thresholds, json["proven"].as_bool()), (None, Some(false)));
    assert_eq!(
        (&json["thresholds"], &json["written"], json["toml"].as_str()),
        (&Value::Null, &Value::Null, Some(""))
    );
    assert_eq!(
        (json["needed"][0]["defective"].as_u64(), json["needed"][0]["more"].as_u64()),
        (Some(299), Some(270))
    );
    assert_eq!(json["promise"]["escape_of_all"], Value::Null);
    assert!(!new.exists());
}

#[test]
fn arguments_are_checked() {
    let args = args("calibrate --pipeline nuts --escape 0.02 --confidence 0.9 --false-fail 0.05");
    assert_eq!((args.escape, args.confidence, args.false_fail), (0.02, 0.9, 0.05));
    for bad in [
        "calibrate",
        "calibrate --pipeline nuts --escape 0",
        "calibrate --pipeline nuts --escape 0.6",
        "calibrate --pipeline nuts --confidence 1",
        "calibrate --pipeline nuts --confidence 95",
        "calibrate --pipeline nuts --false-fail x",
    ] {
        assert!(Cli::try_parse_from(bad.split(' ')).is_err(), "{bad}");
    }
}
