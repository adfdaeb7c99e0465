//! P6: the disk full at any moment: no store is corrupt, the stop is told within 5 s, and the line
//! goes on within 30 s of space returning, without a hand.
//!
//! ```text
//! child commits on a small ext4, retention on <-- a neighbour fills it at some pace, sometimes
//! the child is killed while it is full; then the neighbour's file goes
//! ```

use crate::loopdisk::LoopDisk;
use crate::soak;
use crate::station::{Order, Station};
use inspectd::store::{Store, StoreOptions};
use rand::Rng as _;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

const RUNS: usize = 8;
const DISK_MB: u64 = 64;
const FLOOR_BYTES: u64 = 8 << 20;

const ALARM_MAX: Duration = Duration::from_secs(5);
const RECOVERY_MAX: Duration = Duration::from_secs(30);

#[derive(Default)]
struct Figures {
    runs: usize,
    killed: usize,
    ended: usize,
    refused: usize,
    alarm: Duration,
    recovery: Duration,
    acknowledged: u64,
}

#[test]
fn p6_a_full_disk_stops_the_line_and_space_starts_it_again() {
    let began = Instant::now();
    let runs = soak::count(RUNS, 200);
    let Some(disk) = LoopDisk::new("P6", DISK_MB) else { return };
    let store = disk.mount.join("store");
    let order = Order {
        dir: store.display().to_string(),
        free_bytes_min: FLOOR_BYTES,
        max_bytes: 12 << 20,
        picture_every: 1,
        picture_bytes: 40_000,
        pause_us: 1000,
        ..Order::default()
    };
    let mut f = Figures::default();
    let mut station = Station::start(&order);
    station.until("opened", Duration::from_mins(1));
    for run in 0..runs {
        station = one_run(&disk, &order, station, run, &mut f);
        f.runs += 1;
    }
    station.kill();
    let store = Store::open(&store, StoreOptions::default()).expect("it opens");
    let found = store.verify().expect("it reads");
    soak::report(&format!(
        "P6: disk full {} times, {} kills while full, {} ends by an error, {} corrupt stores, slowest stop told after {:.1} s, \
         slowest recovery {:.1} s, {} stored, {} refused opens with space, {:.0} s",
        f.runs,
        f.killed,
        f.ended,
        u32::from(found.gaps != 0 || found.broken_at.is_some()),
        f.alarm.as_secs_f64(),
        f.recovery.as_secs_f64(),
        found.last_seq.unwrap_or(0),
        f.refused,
        began.elapsed().as_secs_f64()
    ));
    assert_eq!((found.gaps, found.broken_at, f.refused), (0, None, 0), "{:?}", found.reason);
    assert!(f.alarm < ALARM_MAX && f.recovery < RECOVERY_MAX);
    assert!(found.last_seq.unwrap_or(0) > runs as u64, "it went on each time");
    assert!(f.acknowledged > 0);
}

fn one_run(disk: &LoopDisk, order: &Order, mut station: Station, run: usize, f: &mut Figures) -> Station {
    let mut rng = rand::thread_rng();
    station.until("acked", Duration::from_mins(1));
    std::thread::sleep(Duration::from_millis(rng.gen_range(0..60)));
    // A flush that failed on the full disk may end the process after its next result, as systemd would see it.
    let ended = |line: &String| line.starts_with("failed") || line.starts_with("refused");
    if station.said().iter().any(ended) {
        f.ended += 1;
        return restart(order, station);
    }
    let neighbour = disk.mount.join("neighbour");
    let chunk = 1usize << rng.gen_range(16..22);
    let pause = Duration::from_micros(rng.gen_range(0..3000));
    let filled = fill(&neighbour, chunk, pause);
    let said = Instant::now();
    // It may have been told while the neighbour was still filling.
    station = match wait_for_stop(&station) {
        Stop::Told => station,
        Stop::Ended => {
            f.ended += 1;
            restart(order, station)
        }
    };
    f.alarm = f.alarm.max(said.elapsed() + filled);
    if run % 4 == 3 {
        station.kill();
        f.killed += 1;
        station = Station::start(order);
    }
    std::thread::sleep(Duration::from_millis(rng.gen_range(0..50)));
    std::fs::remove_file(&neighbour).expect("the neighbour's file goes");
    let space = Instant::now();
    loop {
        match station.line(RECOVERY_MAX) {
            Some(line) if line.starts_with("acked") => break,
            Some(line) if line.starts_with("refused") || line.starts_with("failed") => {
                // As systemd would: two seconds, and again.
                f.refused += usize::from(space.elapsed() > Duration::from_secs(10));
                station = restart(order, station);
            }
            Some(_) => {}
            None => panic!(
                "run {run}: no commit {RECOVERY_MAX:?} after space came back; {:?}",
                station.process.try_wait()
            ),
        }
        assert!(space.elapsed() < RECOVERY_MAX, "run {run}");
    }
    f.recovery = f.recovery.max(space.elapsed());
    f.acknowledged += 1;
    station
}

enum Stop {
    Told,
    Ended,
}

fn wait_for_stop(station: &Station) -> Stop {
    let began = Instant::now();
    while began.elapsed() < ALARM_MAX * 2 {
        match station.line(ALARM_MAX) {
            Some(line) if line.starts_with("full") => return Stop::Told,
            Some(line) if line.starts_with("failed") || line.starts_with("refused") => return Stop::Ended,
            Some(_) => {}
            None => panic!("the stop was not told"),
        }
    }
    panic!("it goes on committing on a full disk");
}

fn restart(order: &Order, station: Station) -> Station {
    station.kill();
    std::thread::sleep(Duration::from_millis(200));
    Station::start(order)
}

/// Writes until the disk takes no more; how long the last part of it took, from the floor on.
fn fill(path: &Path, chunk: usize, pause: Duration) -> Duration {
    let mut file = File::create(path).expect("the neighbour begins");
    let bytes = vec![0x55; chunk];
    let mut below = None;
    while file.write_all(&bytes).and_then(|()| file.sync_data()).is_ok() {
        if free(path) < FLOOR_BYTES && below.is_none() {
            below = Some(Instant::now());
        }
        std::thread::sleep(pause);
    }
    below.map_or(Duration::ZERO, |at| at.elapsed())
}

fn free(path: &Path) -> u64 {
    let path = std::ffi::CString::new(path.to_str().expect("text")).expect("no zero byte");
    // SAFETY: all zeros is a value of this plain struct, and the path ends with a zero byte.
    unsafe {
        let mut stat: libc::statvfs = std::mem::zeroed();
        assert_eq!(libc::statvfs(path.as_ptr(), &raw mut stat), 0);
        stat.f_bavail * stat.f_frsize
    }
}
