//! P11: the watchdog never loops. What is slow is not killed; what is stalled is, once, and the line goes on.
//!
//! ```text
//! fake systemd --NOTIFY_SOCKET--- the real binary --- its engine
//!   |   READY, WATCHDOG, EXTEND_TIMEOUT_USEC -->         ^
//!   '-- silent for too long: killed, started again       '-- throttled, stopped: SIGSTOP, SIGCONT
//!
//! slow load         the engine gets a sliver of the processor; a hung one none
//! slow compaction   the daily one, after a jump of the clock by a day; the daemon gets a sliver
//! stalls            one thread is stopped as a debugger stops it; the store's disk is frozen
//! ```
//!
//! The fake systemd is less patient than the real one: its times are `START`, `WATCHDOG` and `EXTENSION`.

mod systemd;

use crate::loopdisk::{self, LoopDisk};
use crate::soak;
use inspectd::store::{Store, StoreOptions};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use systemd::{Unit, WATCHDOG};

/// Ends a rig that waits for nothing.
const PATIENCE: Duration = Duration::from_mins(5);
/// A throttled process runs for the first and stands still for the second.
const RUNS: Duration = Duration::from_millis(10);
const STANDS: Duration = Duration::from_millis(300);
/// Throttled no longer than this.
const SLOW: Duration = Duration::from_secs(4 * WATCHDOG.as_secs());
/// What takes longer than this was slow: without a sign of life the fake systemd would have killed it.
const TOO_LONG: Duration = Duration::from_secs(WATCHDOG.as_secs() + 1);
/// What lives in the database that is compacted, and the length of a file that is due for it, by far.
const ROWS: u32 = 25_000;
const ROW_BYTES: usize = 4000;
const DUE_BYTES: u64 = 600 << 20;

/// A station without a broker whose store is `store`.
fn config(dir: &Path, store: &Path) -> PathBuf {
    let camera = "[[camera]]\nid = \"cam1\"\npipeline = \"examples-defects\"\nsource = \"simulator\"\nwidth_px = 320\n\
                  height_px = 240\ntrigger = { interval_ms = 200 }";
    let path = dir.join("inspectd.toml");
    std::fs::write(&path, crate::config::config(store, 9, camera)).expect("the config is written");
    path
}

fn station() -> (tempfile::TempDir, Unit) {
    let dir = tempfile::tempdir().expect("a folder");
    let unit = Unit::new(dir.path(), &config(dir.path(), &dir.path().join("store")));
    (dir, unit)
}

/// Sends a signal to a process that the rig has started, or to the child of one.
fn signal(pid: u32, signal: i32) -> bool {
    // SAFETY: a signal to a process; who is gone is nobody.
    unsafe { libc::kill(pid as i32, signal) == 0 }
}

/// Gives a process a sliver of the processor until `over`, then all of it.
fn throttle(pid: u32, over: impl Fn() -> bool) {
    while !over() && signal(pid, libc::SIGSTOP) {
        std::thread::sleep(STANDS);
        signal(pid, libc::SIGCONT);
        std::thread::sleep(RUNS);
    }
    signal(pid, libc::SIGCONT);
}

/// The engine of a daemon, as soon as there is one.
fn engine(daemon: u32) -> Option<u32> {
    let processes = std::fs::read_dir("/proc").expect("/proc is there").map_while(Result::ok);
    processes.filter_map(|p| p.file_name().to_str()?.parse::<u32>().ok()).find(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1).map(str::to_owned));
        let args = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        parent.is_some_and(|parent| parent == daemon.to_string()) && args.contains("infer")
    })
}

fn wait_for<T>(what: &str, mut find: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = find() {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn p11_a_slow_load_is_not_killed_and_a_hung_one_is_once() {
    let (_dir, mut unit) = station();
    let began = Instant::now();
    let daemon = unit.start();
    let loading = AtomicBool::new(true);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let pid = wait_for("the engine", || engine(daemon));
            throttle(pid, || !loading.load(Ordering::Relaxed) || began.elapsed() > SLOW);
        });
        unit.until(PATIENCE, |unit| unit.ready > 0 || unit.kills > 0);
        loading.store(false, Ordering::Relaxed);
    });
    let (took, extensions) = (began.elapsed(), unit.extensions);
    assert_eq!((unit.kills, unit.ready), (0, 1), "{}", unit.log());
    assert!(took > TOO_LONG && extensions > 3, "the load was not slow: {took:?}, {extensions} extensions");
    unit.stop();

    let (_dir, mut unit) = station();
    let daemon = unit.start();
    let pid = wait_for("the engine", || engine(daemon));
    assert!(signal(pid, libc::SIGSTOP));
    let hung = Instant::now();
    unit.until(PATIENCE, |unit| unit.kills > 0);
    let killed = hung.elapsed();
    let parts = unit.goes_on();
    soak::report(&format!(
        "P11 load: {:.0} s long, {extensions} times extended, 0 kills; hung: killed after {:.1} s, once, then {parts} parts",
        took.as_secs_f64(),
        killed.as_secs_f64()
    ));
}

#[test]
fn p11_a_stalled_inspector_is_killed_once() {
    let (_dir, mut unit) = station();
    unit.start();
    unit.until(PATIENCE, |unit| unit.parts() > 3);
    let stalled = Instant::now();
    // The rest of the process goes on, and goes on looking at its inspector.
    let mut stopped = Some(Stopped::thread(unit.pid(), "inspector"));
    unit.until_killed(PATIENCE, || drop(stopped.take()));
    let killed = stalled.elapsed();
    assert!(unit.log().contains("the inspector shows no life"), "{}", unit.log());
    let parts = unit.goes_on();
    soak::report(&format!(
        "P11 stalled inspector: killed after {:.1} s, once, then {parts} parts",
        killed.as_secs_f64()
    ));
}

#[test]
fn p11_a_disk_that_hangs_is_a_stall_and_the_line_goes_on_after_it() {
    let Some(disk) = LoopDisk::new("P11", 256) else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let mut unit = Unit::new(dir.path(), &config(dir.path(), &disk.mount.join("store")));
    unit.start();
    unit.until(PATIENCE, |unit| unit.parts() > 3);
    let mount = disk.mount.to_str().expect("text").to_owned();
    loopdisk::run("fsfreeze", &["-f", &mount]).expect("it freezes");
    let frozen = Instant::now();
    unit.until_killed(PATIENCE, || loopdisk::run("fsfreeze", &["-u", &mount]).expect("it thaws"));
    let killed = frozen.elapsed();
    let parts = unit.goes_on();
    unit.stop();
    soak::report(&format!(
        "P11 frozen disk: killed after {:.1} s, once, then {parts} parts",
        killed.as_secs_f64()
    ));
}

#[test]
fn p11_a_stalled_compaction_is_killed_once_and_a_slow_one_is_fed() {
    let (dir, mut unit) = station();
    let ledger = dir.path().join("store/ledger");
    let copying = || dir.path().join("store/ledger.new").exists().then_some(());
    let (jump, library) = clock_that_jumps(dir.path());
    unit.environment = vec![("LD_PRELOAD".into(), library), ("TEST_JUMP".into(), jump.clone())];
    fill(&ledger);
    make_due(&ledger);
    // Found at the start it is compacted there, while systemd waits for READY.
    let daemon = unit.start();
    wait_for("a compaction at the start", copying);
    let (began, stopped) = (Instant::now(), Stopped::thread(daemon, "inspectd"));
    unit.until(PATIENCE, |unit| unit.kills > 0);
    let killed = began.elapsed();
    drop(stopped);
    unit.goes_on();
    // The daily one: a day passes, and the line stops for it.
    make_due(&ledger);
    std::fs::write(&jump, "").expect("the clock jumps");
    wait_for("the daily compaction", || {
        unit.listen();
        copying()
    });
    let (daemon, began, before, ready) = (unit.pid(), Instant::now(), unit.feeds, unit.ready);
    std::thread::scope(|scope| {
        scope.spawn(|| throttle(daemon, || began.elapsed() > SLOW));
        unit.until(PATIENCE, |unit| unit.kills > 1 || unit.ready > ready);
    });
    let (took, feeds) = (began.elapsed(), unit.feeds - before);
    assert!(
        took > TOO_LONG && feeds > 3,
        "the compaction was not slow: {took:?}, {feeds} feeds: {}",
        unit.log()
    );
    let parts = unit.goes_on();
    soak::report(&format!(
        "P11 compaction: stalled, killed after {:.1} s, once; {:.0} s long, {feeds} times fed, 0 kills, then {parts} parts",
        killed.as_secs_f64(),
        took.as_secs_f64()
    ));
}

/// A database with enough in it that its compaction takes a while.
fn fill(ledger: &Path) {
    drop(Store::open(ledger.parent().expect("a store"), StoreOptions::default()).expect("it opens"));
    let database = sled::Config::new().path(ledger).open().expect("it opens");
    let tree = database.open_tree("of_the_rig").expect("a tree");
    for n in 0..ROWS {
        tree.insert(n.to_be_bytes(), vec![n as u8; ROW_BYTES]).expect("it is written");
    }
    database.flush().expect("it is flushed");
}

/// The database's file becomes as long as one that was never compacted, with nothing in the rest.
fn make_due(ledger: &Path) {
    let file = std::fs::File::options().write(true).open(ledger.join("db")).expect("the database is there");
    file.set_len(DUE_BYTES).expect("it grows");
}

/// Once the file is there the clocks that only go on are a day and an hour ahead, and so are the moments that are waited for.
const JUMP: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <linux/futex.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
static long ahead(void) {
    static volatile int jumped;
    const char *file = getenv("TEST_JUMP");
    if (!jumped && file && access(file, F_OK) == 0) jumped = 1;
    return jumped ? 25 * 3600 : 0;
}
int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int outcome = real(clock, now);
    if (outcome == 0 && (clock == CLOCK_MONOTONIC || clock == CLOCK_BOOTTIME)) now->tv_sec += ahead();
    return outcome;
}
long syscall(long number, ...) {
    static long (*real)(long, ...);
    if (!real) real = dlsym(RTLD_NEXT, "syscall");
    long v[6];
    va_list list;
    va_start(list, number);
    for (int i = 0; i < 6; i++) v[i] = va_arg(list, long);
    va_end(list);
    struct timespec until;
    int waits = number == SYS_futex && (v[1] & 0x7f) == FUTEX_WAIT_BITSET && v[3];
    if (waits && !(v[1] & FUTEX_CLOCK_REALTIME)) {
        until = *(struct timespec *)v[3];
        until.tv_sec = until.tv_sec > ahead() ? until.tv_sec - ahead() : 0;
        v[3] = (long)&until;
    }
    return real(number, v[0], v[1], v[2], v[3], v[4], v[5]);
}
"#;

/// The file that makes the clock jump, and the library that does it.
fn clock_that_jumps(dir: &Path) -> (PathBuf, PathBuf) {
    let (source, library) = (dir.join("jump.c"), dir.join("jump.so"));
    std::fs::write(&source, JUMP).expect("it is written");
    let status = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status();
    assert!(status.expect("a C compiler is here").success());
    (dir.join("jump"), library)
}

/// One thread of a process, stopped as a debugger does it: the others go on. It stays so while this lives, on the
/// thread that made it.
struct Stopped(i32);

impl Stopped {
    fn thread(pid: u32, name: &str) -> Self {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the process is there");
        let named = |task: &std::fs::DirEntry| {
            std::fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim_end() == name)
        };
        let task = tasks.map_while(Result::ok).find(named).unwrap_or_else(|| panic!("no thread {name}"));
        let tid: i32 = task.file_name().to_str().expect("text").parse().expect("a number");
        let none = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: the thread belongs to a child of this process; no memory is read or written.
        unsafe {
            assert_eq!(libc::ptrace(libc::PTRACE_SEIZE, tid, none, none), 0);
            assert_eq!(libc::ptrace(libc::PTRACE_INTERRUPT, tid, none, none), 0);
            // Taken here, so that nobody who waits for the process takes it for its end.
            assert_eq!(libc::waitpid(tid, std::ptr::null_mut(), libc::__WALL), tid);
        }
        Self(tid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let none = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: as above. Who was killed cannot be let go, and is taken here: its process does not end before.
        unsafe {
            if libc::ptrace(libc::PTRACE_DETACH, self.0, none, none) != 0 {
                libc::waitpid(self.0, std::ptr::null_mut(), libc::__WALL);
            }
        }
    }
}
