//! P2 of what is learned: a power loss at any step of a learned version leaves the former one active, or the new one,
//! with the files that it judges by, whole; and beside a recipe the former bank or the new one.
//!
//! ```text
//! child, into the store:   version N found, with its text and its bank -> checked -> replayed -> active
//!        beside a recipe:  bank N
//!   '-- kept N, once it is done --> parent: the power goes, and what the disk holds then is looked at
//! ```
//!
//! The steps are the daemon's, by the same call of the store; the bank is written as `inspectd learn` writes it. The rig
//! proves itself: with the syncing taken out it must find losses.

use crate::loopdisk::LoopDisk;
use crate::power::{NO_SYNC, cut, mounted, without};
use crate::soak;
use crate::station::{Learns, Order, Station, end, say};
use inspectd::recipe::beside;
use inspectd::store::recipes::{Book, Entry, Files, Step};
use inspectd::store::{Store, StoreOptions};
use rand::Rng as _;
use std::error::Error;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const CUTS: usize = 20;

/// Cuts of one file system; then a fresh one.
const ROUND: usize = 20;

const DISK_MB: u64 = 128;

/// The name of the recipe, and of the bank beside it.
const NAME: &str = "plate";
const BANK: &str = "plate.bank";

/// What happens to each version, in this order: an entry of the ledger each.
const STEPS: [Step; 4] = [Step::Found, Step::Checked, Step::Replayed, Step::Active];

/// `fsync` does nothing, either.
const NO_FSYNC: &str = "\nint fsync(int fd) { (void)fd; return 0; }\n";

fn version(n: u64) -> String {
    format!("{n:012x}")
}

/// Too long for one row of the store.
fn text(n: u64) -> String {
    format!("# version {n}\n").repeat(200)
}

/// It begins with its number. Most are short, so that all steps are cut; some are as long as a real one.
fn bank(n: u64) -> Vec<u8> {
    let length = if n.is_multiple_of(16) { 650_000 } else { 6_000 };
    let mut state = n;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    });
    n.to_le_bytes().into_iter().chain(noise.take(length)).collect()
}

fn files(n: u64) -> Files {
    Files::from([(BANK.to_owned(), Arc::from(bank(n)))])
}

/// The child: one version after the other.
pub(crate) fn learn(order: &Order, store: &Store) {
    for n in 1u64.. {
        let (text, files) = (text(n), files(n));
        for step in STEPS {
            let entry = Entry {
                seq: 0,
                at: "2026-11-29T00:00:00Z".into(),
                pipeline: NAME.into(),
                version: version(n),
                step,
                by: "rig, learned".into(),
                reason: String::new(),
                is_override: false,
                replay: None,
                made_of: vec![],
            };
            let kept = (step == Step::Found).then_some((text.as_str(), &files));
            let book = (step == Step::Active).then(|| Book {
                active: version(n),
                decided: version(1),
                ..Book::default()
            });
            match store.append_recipe_step(entry, kept, book.as_ref()) {
                Ok(entry) => say(&format!("kept {} .", entry.seq)),
                Err(error) => stop(&error),
            }
            std::thread::sleep(Duration::from_micros(order.pause_us));
        }
    }
}

/// The child: one bank after the other.
pub(crate) fn write_banks(order: &Order) {
    let path = Path::new(&order.dir).join(BANK);
    for n in 1u64.. {
        match beside::write(&path, &bank(n)) {
            Ok(()) => say(&format!("kept {n} .")),
            Err(error) => stop(&error),
        }
        std::thread::sleep(Duration::from_micros(order.pause_us));
    }
}

fn stop(error: &dyn Error) {
    say(&format!("failed {error}"));
    end();
}

/// The number of a line `kept N .`, when the whole line arrived.
fn kept(line: &str) -> Option<u64> {
    line.strip_prefix("kept ")?.strip_suffix(" .")?.parse().ok()
}

#[derive(Default, Debug)]
struct Figures {
    cuts: usize,
    kept: u64,
    /// Cuts after which something was not there that was said to be kept.
    lost: usize,
    /// Cuts after which what is there is not whole.
    broken: usize,
    refused: usize,
}

#[test]
fn p2_a_power_loss_while_learning_leaves_one_version_active_with_its_files_whole() {
    let began = Instant::now();
    let Some(f) = cut_power(Learns::Versions, soak::count(CUTS, 500), None) else { return };
    soak::report(&format!(
        "P2 learned: {} power losses, {} steps of versions kept, {} lost, {} without their files, {} refused opens, {:.0} s",
        f.cuts,
        f.kept,
        f.lost,
        f.broken,
        f.refused,
        began.elapsed().as_secs_f64()
    ));
    assert_eq!((f.lost, f.broken, f.refused), (0, 0, 0));
    assert!(f.kept > f.cuts as u64, "there was something to lose: {f:?}");
}

#[test]
fn p2_a_power_loss_while_a_bank_is_written_leaves_the_former_one_or_the_new_one_whole() {
    let began = Instant::now();
    let Some(f) = cut_power(Learns::Banks, soak::count(CUTS, 500), None) else { return };
    soak::report(&format!(
        "P2 banks: {} power losses, {} banks written, {} lost, {} cut, {:.0} s",
        f.cuts,
        f.kept,
        f.lost,
        f.broken,
        began.elapsed().as_secs_f64()
    ));
    assert_eq!((f.lost, f.broken), (0, 0));
    assert!(f.kept > f.cuts as u64, "there was something to lose: {f:?}");
}

#[test]
fn p2_the_rig_sees_learning_that_does_not_sync() {
    let dir = tempfile::tempdir().expect("a folder");
    let library = without(dir.path(), &[NO_SYNC, NO_FSYNC].concat());
    for learns in [Learns::Versions, Learns::Banks] {
        let Some(f) = cut_power(learns, 10, Some(&library)) else { return };
        soak::report(&format!(
            "P2 {learns:?} without syncing: {} power losses, {} kept, {} lost, {} refused opens",
            f.cuts, f.kept, f.lost, f.refused
        ));
        assert!(f.lost > 0, "the rig cannot see what it is for: {f:?}");
    }
}

/// `None` where nothing can be mounted.
fn cut_power(learns: Learns, cuts: usize, library: Option<&Path>) -> Option<Figures> {
    let mut figures = Figures::default();
    while figures.cuts < cuts {
        let disk = LoopDisk::new("P2", DISK_MB)?;
        one_round(&disk, learns, ROUND.min(cuts - figures.cuts), library, &mut figures);
    }
    Some(figures)
}

fn one_round(disk: &LoopDisk, learns: Learns, cuts: usize, library: Option<&Path>, figures: &mut Figures) {
    // Slow enough that versions of a round, and what the store has not cleaned up yet, fit on the disk.
    let (dir, pause_us) = match learns {
        Learns::Versions => (disk.mount.join("store"), 2_000),
        _ => (disk.mount.clone(), 500),
    };
    let order = Order { dir: dir.display().to_string(), learns, pause_us, ..Order::default() };
    let mut station = Station::start_with(&order, |command| {
        if let Some(library) = library {
            command.env("LD_PRELOAD", library);
        }
    });
    // From when on there is a former one: one version went all its steps.
    let first = STEPS.len();
    let said = station.until(&format!("kept {first} ."), Duration::from_mins(1));
    let mut promised = said.iter().filter_map(|line| kept(line)).max().unwrap_or(0);
    for _ in 0..cuts {
        std::thread::sleep(Duration::from_micros(rand::thread_rng().gen_range(2_000..60_000)));
        let (copy, said) = cut(disk, &station);
        promised = said.iter().filter_map(|line| kept(line)).fold(promised, u64::max);
        mounted(&copy, |at| {
            let found = match learns {
                Learns::Versions => newest_step(&at.join("store")),
                _ => Ok(newest_bank(at)),
            };
            match found {
                Ok((newest, is_whole)) => {
                    figures.lost += usize::from(newest < promised);
                    figures.broken += usize::from(!is_whole);
                }
                Err(error) => {
                    println!("\nP2 refused: {error}");
                    figures.refused += 1;
                }
            }
        });
        figures.cuts += 1;
    }
    figures.kept += promised;
    station.process.kill().expect("it can be killed");
    station.process.wait().expect("it is reaped");
}

/// The newest step in a store's ledger; and whether the version is active that it says, each version with its text and
/// its files: the former one, to go back to, the active one, and the one that has only begun.
fn newest_step(dir: &Path) -> Result<(u64, bool), Box<dyn Error>> {
    let store = Store::open(dir, StoreOptions::default())?;
    let newest = store.recipe_entries(Some(NAME), 1)?.first().map_or(0, |entry| entry.seq);
    let steps = STEPS.len() as u64;
    let (active, begun) = (newest / steps, newest.div_ceil(steps));
    let should = if active == 0 { String::new() } else { version(active) };
    let mut is_whole = store.recipe_book(NAME)?.unwrap_or_default().active == should;
    for n in active.saturating_sub(1).max(1)..=begun {
        let kept = store.recipe_text(NAME, &version(n))?;
        is_whole &= kept == Some(text(n)) && store.recipe_files(NAME, &version(n))? == files(n);
    }
    Ok((newest, is_whole))
}

/// The number of the bank beside the recipe, 0 where there is none; and whether it is whole, and for all to read.
fn newest_bank(dir: &Path) -> (u64, bool) {
    let path = dir.join(BANK);
    let Ok(bytes) = std::fs::read(&path) else { return (0, true) };
    let n = bytes.first_chunk().map_or(0, |number| u64::from_le_bytes(*number));
    let mode = std::fs::metadata(&path).expect("it is there").permissions().mode();
    (n, bytes == bank(n) && mode & 0o777 == 0o644)
}
