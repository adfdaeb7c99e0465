//! `inspectd learn head`: what tells defective parts from good ones, from both.

use super::{Common, Ground, Looked, print_json, write};
use crate::domain::learn::LearnKind;
use crate::domain::reference::ReferenceRule;
use crate::evaluate::truth::Truth;
use crate::inspect::reference::head_file;
use crate::learn::head::{self, Figures, KIND_MIN, LabelFigures, Wanted, enough};
use crate::store::record::rfc3339;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Instant, SystemTime};

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    common: Common,
}

/// Runs the command.
///
/// # Errors
/// As `learn`; also when those parts that were kept back could not be told apart.
pub(super) fn run(Args { common }: &Args) -> anyhow::Result<ExitCode> {
    let ground = Ground::open(common, LearnKind::Head)?;
    let bad = ground.truths.iter().filter(|t| t.is_defective()).count();
    let good = ground.truths.len() - bad;
    if common.dry_run {
        dry_run(&ground.truths, good, bad, common.json);
        return Ok(ExitCode::SUCCESS);
    }
    // What cannot be learned from needs no looking at.
    enough(good, bad)?;
    let rule = ground.rule()?;
    let Looked { examples, features_sha256, looked_s } = ground.look(common)?;
    let started = Instant::now();
    let at = rfc3339(SystemTime::now());
    let wanted = Wanted { pipeline: &ground.pipeline.name, rule, features_sha256, at };
    let (head, figures) = head::learn(&examples, &wanted, &|| true)?;
    let bytes = head_file::write(&head);
    let to = ground.beside(&rule.file);
    write(&to, &bytes)?;
    let done = Done { figures, bytes: bytes.len(), looked_s, learned_s: started.elapsed().as_secs_f64() };
    done.say(&to, rule, common.json)?;
    Ok(ExitCode::SUCCESS)
}

fn dry_run(truths: &[Truth], good: usize, bad: usize, json: bool) {
    let mut labels = BTreeMap::new();
    let mut with_boxes = 0;
    for truth in truths.iter().filter(|t| t.is_defective()) {
        let boxed = truth.defects.iter().filter(|d| d.bbox_px.is_some()).map(|d| d.label.as_str());
        let boxed: BTreeSet<&str> = boxed.collect();
        with_boxes += usize::from(!boxed.is_empty());
        boxed.into_iter().for_each(|label| *labels.entry(label).or_insert(0usize) += 1);
    }
    let refused = enough(good, bad).err().map(|e| e.to_string());
    if json {
        let object = serde_json::json!({
            "good": good, "bad": bad, "with_boxes": with_boxes, "labels": labels, "kind_min": KIND_MIN,
            "enough": refused.is_none(), "why": refused });
        println!("{object}");
        return;
    }
    println!("good parts       {good}, at least {KIND_MIN} are needed");
    println!("defective parts  {bad}, at least {KIND_MIN} are needed; {with_boxes} have boxes");
    labels.iter().for_each(|(label, parts)| println!("label            {label}: boxes on {parts} parts"));
    if let Some(why) = refused {
        println!("too little       {why}");
    }
}

/// What was learned.
struct Done {
    figures: Figures,
    bytes: usize,
    looked_s: f64,
    learned_s: f64,
}

impl Done {
    fn say(&self, to: &Path, rule: &ReferenceRule, json: bool) -> anyhow::Result<()> {
        let Self { figures, bytes, looked_s, learned_s } = self;
        if json {
            let more = serde_json::json!({
                "head": to, "bytes": bytes, "looked_s": looked_s, "learned_s": learned_s,
                "seconds": looked_s + learned_s });
            return print_json(figures, more);
        }
        let Figures { good, bad, with_boxes, labels, auroc, alarmed, found, notes, .. } = figures;
        println!("{}: {bytes} bytes, by features of the {}", to.display(), rule.features.as_str());
        println!("good parts       {good}, of which {alarmed} would be findings, each kept back once");
        println!("defective parts  {bad}, of which {found} would be found; {with_boxes} have boxes");
        println!("AUROC            {auroc:.3} on parts that were kept back, those of one lot together");
        for LabelFigures { label, parts, auroc, .. } in labels {
            println!("label            {label}: boxes on {parts} parts, AUROC {auroc:.3} beside good parts");
        }
        println!("time             {looked_s:.1} s to look, {learned_s:.1} s to learn");
        notes.iter().for_each(|note| println!("note             {note}"));
        Ok(())
    }
}
