//! `inspectd replay DIR`: labelled images in, figures out.
//!
//! ```text
//! DIR/truth.jsonl -> Truth -> load image -> inspect -> Inspection -> score -> table or JSON
//!                                               '-> annotated copy       '-> assertions -> exit code
//! ```
//!
//! - stdout carries the figures and nothing else; with `--json` one JSON object, and the table goes to
//!   stderr with all other words for people.
//! - What a model has said is no truth about a model: of an export only people's word is scored.
//! - An image that cannot be read, or is not of the size that its truth says, ends the replay: figures
//!   over fewer images than were asked would look better than they are.
//! - The exit code is 1 when an assertion fails. An assertion on a figure that does not exist is
//!   refused before the first image, not after a night's work.

use crate::camera::decode::Depth;
use crate::cli::annotate::annotate;
use crate::cli::figures;
use crate::cli::output;
use crate::cli::picture;
use crate::cli::progress::Progress;
use crate::cli::setup::{SetupArgs, frame, with_rois, without_trigger};
use crate::domain::frame::Trigger;
use crate::domain::inspection::Inspection;
use crate::domain::pipeline::{Pipeline, Prompt, PromptKind};
use crate::evaluate::own_word;
use crate::evaluate::score::{self, Asked, Metrics};
use crate::evaluate::truth::{self, Truth};
use crate::inspect::inspect;
use crate::recipe::assertion::Assertion;
use anyhow::{Context, ensure};
use image::RgbImage;
use std::io::Write;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use vlm::Vlm;

/// Inspect labelled images and score the answers.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Directory with truth.jsonl and the images that it names.
    dir: PathBuf,
    /// Print the figures as one JSON object on stdout, and nothing else there.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    setup: SetupArgs,
    /// Only the first N images.
    #[arg(long, value_name = "N")]
    limit: Option<NonZeroUsize>,
    /// Fail unless a figure of the JSON holds, for example micro.f1>=0.42; may be repeated.
    #[arg(long = "assert", value_name = "EXPR")]
    asserts: Vec<Assertion>,
    /// Write an annotated copy of every image below this directory.
    #[arg(long, value_name = "DIR")]
    annotate: Option<PathBuf>,
}

/// What a replay is to do besides inspecting.
#[derive(Clone, Debug, Default)]
pub(super) struct Plan {
    /// Directory of the truth, and of the images.
    pub dir: PathBuf,
    pub json: bool,
    pub limit: Option<NonZeroUsize>,
    pub asserts: Vec<Assertion>,
    pub annotate: Option<PathBuf>,
    /// What the pipeline asks of the model.
    pub asked: Asked,
    /// Of samples of 16 bits, as the pipeline states it.
    pub depth: Depth,
}

/// Runs the command.
///
/// # Errors
/// The truth does not fit its form, the pipeline (which must ask about no clips) or the model is bad, an image
/// cannot be read.
pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let (truths, own_word) = own_word::without(truth::read_dir(&args.dir)?);
    own_word.words().iter().for_each(|words| eprintln!("replay: {words}"));
    ensure!(
        !truths.is_empty(),
        "{}: nobody has decided about any part of it, so that nothing is known but what a model said",
        args.dir.display()
    );
    let (pipeline, model) = args.setup.resolve()?;
    anyhow::ensure!(
        pipeline.clip.is_none(),
        "the pipeline {} asks about clips, and the images of a replay are single pictures",
        pipeline.name
    );
    let pipeline = only_labelled(pipeline, &truths);
    let plan = Plan {
        dir: args.dir,
        json: args.json,
        limit: args.limit,
        asserts: args.asserts,
        annotate: args.annotate,
        asked: Asked::of(&pipeline),
        depth: Depth(pipeline.frame.depth_bits),
    };
    check(&plan)?;
    let mut engine = model.open()?;
    let inspect = |truth: &Truth, picture: Arc<RgbImage>| inspected(&mut *engine, &pipeline, truth, picture);
    replay(&truths, &plan, inspect, &mut std::io::stdout().lock())
}

/// A labelled image, inspected with what its truth says of the part and of its regions.
pub(super) fn inspected(
    engine: &mut dyn Vlm,
    pipeline: &Pipeline,
    truth: &Truth,
    picture: Arc<RgbImage>,
) -> Inspection {
    let expected = truth.part_id.iter().map(|id| ("serial".to_owned(), id.clone())).collect();
    let pipeline = without_trigger(&with_rois(pipeline, &truth.rois), &expected);
    let (part_id, lot) = (truth.part_id.clone(), truth.lot.clone());
    let trigger = Trigger { part_id, lot, expected, ..Trigger::default() };
    inspect(engine, &frame(picture, &truth.file, trigger), &pipeline)
}

/// The pipeline without the kind of prompt that no image of the set has truth for: its answers would
/// take time and be scored against nothing.
pub(super) fn only_labelled(mut pipeline: Pipeline, truths: &[Truth]) -> Pipeline {
    let texts = truths.iter().any(|t| !t.texts.is_empty());
    let defects = truths.iter().any(|t| t.good.is_some() || !t.defects.is_empty());
    let asked = pipeline.prompts.len();
    let labelled = |prompt: &Prompt| match prompt.kind {
        PromptKind::Defects { .. } | PromptKind::Reference(_) => defects,
        PromptKind::Text { .. } => texts,
    };
    if pipeline.prompts.iter().any(labelled) {
        pipeline.prompts.retain(labelled);
    }
    if pipeline.prompts.len() < asked {
        let left: Vec<_> = pipeline.prompts.iter().map(|p| p.id.as_str()).collect();
        eprintln!("note: only {} is asked, the truth has nothing else", left.join(", "));
    }
    pipeline
}

/// Inspects every image with `inspect`, prints the figures to `stdout` and the rest to stderr.
///
/// # Errors
/// An assertion names no figure, an image does not fit its truth, or a file cannot be written.
pub(super) fn replay(
    truths: &[Truth],
    plan: &Plan,
    mut inspect: impl FnMut(&Truth, Arc<RgbImage>) -> Inspection,
    stdout: &mut dyn Write,
) -> anyhow::Result<ExitCode> {
    check(plan)?;
    let truths = &truths[..plan.limit.map_or(truths.len(), |n| n.get().min(truths.len()))];
    let mut progress = Progress::new("replay", truths.len() as u64);
    let mut inspections = Vec::with_capacity(truths.len());
    for truth in truths {
        let picture = Arc::new(load(truth, &plan.dir, plan.depth)?);
        let inspection = inspect(truth, Arc::clone(&picture));
        if let Some(dir) = &plan.annotate {
            let rois = plan.asked.text_rois(truth);
            picture::save(
                &picture::annotated_path(dir, &truth.file),
                &annotate(&picture, &inspection, &rois),
            )?;
        }
        let verdict = output::badge(&inspection.verdict);
        let is = if truth.is_defective() { "defective" } else { "clean" };
        progress.step(&format!("{} {verdict}, is {is}: {}", truth.file, output::summary(&inspection)));
        inspections.push(inspection);
    }
    drop(progress);
    let pairs: Vec<(&Truth, &Inspection)> = truths.iter().zip(&inspections).collect();
    report(&score::score(&pairs, &plan.asked), plan, stdout)
}

/// What can be known to be wrong before the first image.
fn check(plan: &Plan) -> anyhow::Result<()> {
    let empty = serde_json::to_value(score::score(&[], &plan.asked))?;
    for assertion in &plan.asserts {
        assertion.find(&empty).with_context(|| format!("--assert {assertion}"))?;
    }
    if let Some(dir) = &plan.annotate {
        std::fs::create_dir_all(dir).with_context(|| format!("--annotate {}", dir.display()))?;
        let same = dir.canonicalize().ok() == plan.dir.canonicalize().ok();
        ensure!(!same, "--annotate {}: would write over the images themselves", dir.display());
    }
    Ok(())
}

/// The image of a truth, of the size that the truth says: boxes of another size would be other boxes.
pub(super) fn load(truth: &Truth, dir: &Path, depth: Depth) -> anyhow::Result<RgbImage> {
    let path = truth.path(dir);
    let picture = picture::load_as(&path, depth)?;
    let (width, height) = picture.dimensions();
    ensure!(
        (width, height) == (truth.width, truth.height),
        "{}: is {width}x{height}, its truth says {}x{}",
        path.display(),
        truth.width,
        truth.height
    );
    Ok(picture)
}

/// Prints figures and assertions; the exit code is 1 when one fails.
fn report(metrics: &Metrics, plan: &Plan, stdout: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let table = figures::report(metrics);
    if plan.json {
        eprint!("{table}");
        writeln!(stdout, "{}", serde_json::to_string(metrics)?)?;
    } else {
        stdout.write_all(table.as_bytes())?;
    }
    stdout.flush()?;
    let figures = serde_json::to_value(metrics)?;
    let mut code = ExitCode::SUCCESS;
    for assertion in &plan.asserts {
        let outcome = assertion.check(&figures);
        eprintln!("{}", outcome.text);
        if !outcome.holds {
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::grade::{Reason, Verdict};
    use crate::evaluate::score::AskedText;
    use crate::evaluate::score::tests::{finding, inspection};
    use clap::Parser;

    /// A directory of two images: one with a pit, one clean.
    fn set() -> (tempfile::TempDir, Vec<Truth>) {
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["a.png", "b.jpg"] {
            let path = dir.path().join("images").join(name);
            picture::save(&path, &RgbImage::new(64, 48)).expect("writes");
        }
        let lines = concat!(
            "{\"file\":\"images/a.png\",\"width\":64,\"height\":48,\"defects\":[{\"label\":\"pit\",\"bbox\":[10,10,20,20]}]}\n",
            "{\"file\":\"images/b.jpg\",\"width\":64,\"height\":48,\"defects\":[],\"texts\":[\"SN1\"]}\n",
        );
        std::fs::write(dir.path().join(truth::TRUTH_FILE), lines).expect("writes");
        let truths = truth::read_dir(dir.path()).expect("reads");
        (dir, truths)
    }

    fn plan(dir: &Path, asserts: &[&str]) -> Plan {
        Plan {
            dir: dir.to_owned(),
            json: true,
            asserts: asserts.iter().map(|a| a.parse().expect("parses")).collect(),
            asked: Asked {
                labels: ["pit".to_owned()].into(),
                texts: vec![AskedText { id: "plate".into(), roi: None }],
                skips: false,
            },
            ..Plan::default()
        }
    }

    /// Finds every pit.
    fn scripted(truth: &Truth, picture: Arc<RgbImage>) -> Inspection {
        assert_eq!(picture.dimensions(), (64, 48));
        let mut i = inspection();
        if truth.is_defective() {
            i.findings = vec![finding("pit", [10.0, 10.0, 20.0, 21.0], 0.8)];
            i.score = 0.9;
            i.verdict = Verdict::Fail(Reason::Finding { label: "pit".into() });
        }
        i
    }

    fn is_success(code: ExitCode) -> bool {
        // ExitCode has no equality; its debug form does tell.
        format!("{code:?}") == format!("{:?}", ExitCode::SUCCESS)
    }

    #[test]
    fn stdout_is_one_json_object() {
        let (dir, truths) = set();
        let mut out = Vec::new();
        let plan = plan(dir.path(), &["micro.f1==1", "image.auroc>=1", "text.cer<=1"]);
        let code = replay(&truths, &plan, scripted, &mut out).expect("replays");
        assert!(is_success(code));
        let text = String::from_utf8(out).expect("text");
        assert_eq!(text.lines().count(), 1);
        let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!((json["images"].as_u64(), json["labels"]["pit"]["tp"].as_u64()), (Some(2), Some(1)));
        assert_eq!(json["text"]["line_accuracy"].as_f64(), Some(0.0));
    }

    #[test]
    fn without_json_stdout_is_the_table() {
        let (dir, truths) = set();
        let mut out = Vec::new();
        let plan = Plan { json: false, ..plan(dir.path(), &[]) };
        replay(&truths, &plan, scripted, &mut out).expect("replays");
        let text = String::from_utf8(out).expect("text");
        assert!(text.starts_with("defects") && text.contains("images   2: 1 defective, 1 clean"), "{text}");
    }

    #[test]
    fn a_failed_assertion_is_exit_code_1() {
        let (dir, truths) = set();
        for (expr, holds) in [("micro.f1>=0.5", true), ("text.line_accuracy>0.5", false), ("images<2", false)]
        {
            let plan = plan(dir.path(), &["images==2", expr]);
            let code = replay(&truths, &plan, scripted, &mut Vec::new()).expect("replays");
            assert_eq!(is_success(code), holds, "{expr}");
        }
    }

    #[test]
    fn a_figure_that_does_not_exist_stops_before_the_first_image() {
        let (dir, truths) = set();
        let plan = plan(dir.path(), &["labels.scratch.f1>=0.5"]);
        let never = |_: &Truth, _: Arc<RgbImage>| -> Inspection { panic!("inspected") };
        let error = replay(&truths, &plan, never, &mut Vec::new()).expect_err("refused");
        assert!(format!("{error:#}").contains("`scratch` is not among pit"), "{error:#}");
    }

    #[test]
    fn the_limit_takes_the_first_images() {
        let (dir, truths) = set();
        for (limit, images) in [(1, 1), (2, 2), (9, 2)] {
            let plan = Plan { limit: NonZeroUsize::new(limit), ..plan(dir.path(), &[]) };
            let mut seen = Vec::new();
            let inspect = |t: &Truth, p: Arc<RgbImage>| {
                seen.push(t.file.clone());
                scripted(t, p)
            };
            replay(&truths, &plan, inspect, &mut Vec::new()).expect("replays");
            assert_eq!((seen.len(), seen[0].as_str()), (images, "images/a.png"));
        }
    }

    #[test]
    fn an_image_that_does_not_fit_its_truth_ends_the_replay() {
        let (dir, mut truths) = set();
        truths[1].width = 65;
        let error = replay(&truths, &plan(dir.path(), &[]), scripted, &mut Vec::new()).expect_err("refused");
        assert!(error.to_string().ends_with("b.jpg: is 64x48, its truth says 65x48"), "{error}");
        std::fs::remove_file(dir.path().join("images/b.jpg")).expect("removes");
        let error = replay(&truths, &plan(dir.path(), &[]), scripted, &mut Vec::new()).expect_err("refused");
        assert!(error.to_string().ends_with("b.jpg"), "{error}");
    }

    #[test]
    fn annotated_copies_stand_under_their_own_names_and_never_over_the_images() {
        let (dir, truths) = set();
        let copies = dir.path().join("copies");
        let good = Plan { annotate: Some(copies.clone()), ..plan(dir.path(), &[]) };
        replay(&truths, &good, scripted, &mut Vec::new()).expect("replays");
        for name in ["images/a.png", "images/b.jpg"] {
            assert!(picture::load(&copies.join(name)).expect("reads").height() > 48, "{name}");
        }
        let bad = Plan { annotate: Some(dir.path().join("copies/..")), ..plan(dir.path(), &[]) };
        let error = replay(&truths, &bad, scripted, &mut Vec::new()).expect_err("refused");
        assert!(error.to_string().contains("would write over"), "{error}");
    }

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn arguments_are_checked() {
        let ok =
            "replay set --json --limit 3 --assert micro.f1>=0.4 --assert text.cer<=0.1 --model a --mmproj b";
        let cli = Cli::try_parse_from(ok.split(' ')).expect("fits");
        assert_eq!((cli.args.asserts.len(), cli.args.setup.model.threads), (2, 0));
        for bad in [
            "replay",
            "replay set --assert f1",
            "replay set --limit 0",
            "replay set --min-confidence 2",
            "replay set --model a",
        ] {
            assert!(Cli::try_parse_from(bad.split(' ')).is_err(), "{bad}");
        }
    }
}
