use super::*;
use crate::learn::finetune::tests::tiny;
use crate::learn::finetune::tile::Task;
use crate::learn::finetune::tile::tests::{mark, tile};
use std::cell::Cell;

fn set() -> Set {
    let task = |marks| Task::Defects { question: "Find pit.".into(), marks };
    let bad = task(vec![mark("pit", [8.0, 8.0, 40.0, 40.0])]);
    Set::new(vec![tile(bad), tile(task(vec![]))], &["pit".to_owned()])
}

fn wanted<'a>(pair: &'a Pair, how: How, dir: &'a Path, labels: &'a [String]) -> Wanted<'a> {
    Wanted {
        pair,
        how,
        pipeline: "part",
        labels: &[],
        asked: labels,
        dir,
        time: Duration::from_hours(1),
        steps_max: Some(30),
        anew: false,
        device: &Device::Cpu,
    }
}

fn bytes(outcome: &Outcome) -> Vec<Vec<u8>> {
    outcome.files.iter().map(|file| std::fs::read(file).expect("reads")).collect()
}

/// Trains; says no after so many steps.
fn run(wanted: &Wanted<'_>, steps: u64) -> Result<Outcome, LearnError> {
    let asked = Cell::new(0);
    let keep_going = || {
        asked.set(asked.get() + 1);
        asked.get() <= steps
    };
    train(&set(), wanted, &keep_going, &mut |_| {})
}

#[test]
fn a_run_that_was_stopped_goes_on_as_it_would_have() {
    let (pair, labels) = (tiny(), ["pit".to_owned()]);
    for how in [How::Whole, How::Low { rank: 4 }] {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let whole = run(&wanted(&pair, how, one.path(), &labels), 1000).expect("trains");
        assert!(whole.last_loss < 0.95 * whole.first_loss, "{how:?}: {whole:?}");
        let wanted = wanted(&pair, how, two.path(), &labels);
        let stopped = run(&wanted, 7).expect("stops");
        assert_eq!((stopped.steps, stopped.is_complete()), (7, false));
        let resumed = run(&wanted, 1000).expect("goes on");
        assert_eq!((resumed.resumed_at, resumed.steps), (7, 30));
        assert_eq!((resumed.last_loss, bytes(&resumed) == bytes(&whole)), (whole.last_loss, true), "{how:?}");
        // What is complete is written again, and no step is made.
        let again = run(&wanted, 1000).expect("is complete");
        assert_eq!((again.resumed_at, bytes(&again) == bytes(&whole)), (30, true));
    }
}

#[test]
fn a_checkpoint_of_another_run_is_refused_and_one_that_is_damaged_too() {
    let (pair, labels, dir) = (tiny(), ["pit".to_owned()], tempfile::tempdir().unwrap());
    let first = wanted(&pair, How::Low { rank: 4 }, dir.path(), &labels);
    run(&first, 2).expect("stops");
    let other = Wanted { how: How::Low { rank: 8 }, ..first.clone() };
    let refused = run(&other, 2).expect_err("of another rank").to_string();
    assert!(refused.contains("--anew starts over") && refused.contains(FILE), "{refused}");
    assert_eq!(run(&Wanted { anew: true, ..other }, 2).expect("starts over").resumed_at, 0);
    let path = dir.path().join(FILE);
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    assert!(run(&first, 2).expect_err("half a checkpoint").to_string().contains("--anew"));
}
