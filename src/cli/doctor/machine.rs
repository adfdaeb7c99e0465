//! The machine: processor, memory, disk, clock.

use super::Line;
use crate::cli::check::here::{Look, above, ground};
use crate::clock::Clock;
use crate::config::Config;
use crate::store::ageing::Trust;
use crate::store::free_bytes;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};
use vlm::gguf::Gguf;
use vlm::kernel;

/// What the engine takes beside the weights where the config says nothing, and a pass on top of it.
const ARENA_BYTES: u64 = 1 << 30;
const PASS_BYTES: u64 = 512 << 20;
/// The limit that systemd sets for the service.
const SERVICE_LIMIT: &str = "/sys/fs/cgroup/system.slice/inspectd.service/memory.max";
/// Writes of the size of a record that are measured, and the bytes that are written in one go.
const RECORDS: usize = 32;
const RECORD_BYTES: usize = 4096;
const STREAM_BYTES: usize = 32 << 20;
/// Slower than this the disk is what a line waits for.
const RECORD_SLOW: Duration = Duration::from_millis(20);
const STREAM_SLOW_MB_S: f64 = 20.0;
/// A clock before it was never set: 2025-01-01.
const WALL_MIN: Duration = Duration::from_hours(482_136);

/// What computes, and by which instructions.
pub(super) fn processor() -> Line {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let paths = kernel::paths();
    let best = paths.first().copied().unwrap_or("none");
    let found = format!("{threads} threads, {best} ({} built)", paths.join(", "));
    if paths.len() > 1 {
        return Line::ok("cpu", found);
    }
    Line::warn(
        "cpu",
        found,
        "without AVX2, or on Arm the dot product, an inspection takes many times as long: take a newer processor, or in a virtual machine pass the host's through",
    )
}

/// Memory, disk and clock for a station.
pub(super) fn of_station(config: &Config) -> Vec<Line> {
    let (records, stream) = disk(config);
    vec![memory(config), room(config), records, stream, clock(Some(config.store.clock))]
        .into_iter()
        .filter(|line| !line.found.is_empty())
        .collect()
}

fn gb(bytes: u64) -> String {
    format!("{:.1} GB", bytes as f64 / 1e9)
}

fn memory(config: &Config) -> Line {
    // Of a split model all parts; what is wrong with a file is said elsewhere.
    let alone = |path: &Path| path.metadata().map_or(0, |meta| meta.len());
    let size = |path: &Path| Gguf::open(path).map_or_else(|_| alone(path), |file| file.memory_bytes());
    if !config.model.has_files() {
        // The servers have it.
        return Line::ok("memory", "");
    }
    let weights = size(&config.model.text) + size(&config.model.mmproj);
    let need = match config.model.memory_mb {
        0 => weights + ARENA_BYTES + PASS_BYTES,
        mb => mb << 20,
    };
    let Some((total, free)) = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| meminfo(&text))
    else {
        return Line::warn("memory", "/proc/meminfo says nothing of use", "look by free -h");
    };
    let limit = std::fs::read_to_string(SERVICE_LIMIT).ok().and_then(|text| text.trim().parse::<u64>().ok());
    let most = limit.map_or(total, |limit| limit.min(total));
    let found = format!("{} in all, {} free, the engine needs {}", gb(most), gb(free), gb(need));
    let smaller = "take a smaller model, [model] kv = \"q8\", or a box with more memory";
    if need > most {
        Line::fail("memory", found, smaller)
    } else if need > free && need > most / 2 {
        Line::warn(
            "memory",
            found,
            format!("what runs beside the station takes the rest, unless it is the station: {smaller}"),
        )
    } else {
        Line::ok("memory", found)
    }
}

/// All and what is available, in bytes.
fn meminfo(text: &str) -> Option<(u64, u64)> {
    let of = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kb| kb << 10)
    };
    Some((of("MemTotal")?, of("MemAvailable")?))
}

/// Where the store is, or will be.
fn place(config: &Config) -> PathBuf {
    let dir = &config.store.dir;
    if dir.is_dir() { dir.clone() } else { above(dir) }
}

fn room(config: &Config) -> Line {
    let place = place(config);
    let free = match free_bytes(&place) {
        Ok(free) => free,
        Err(error) => return Line::warn("disk", error.to_string(), "look by df -h"),
    };
    let floor = config.store.free_bytes_min;
    let found = format!("{} free at {}; the line stops below {}", gb(free), place.display(), gb(floor));
    if free < floor + floor / 4 {
        Line::fail(
            "disk",
            found,
            "remove what is not the station's, or lower [store] max_bytes: the oldest pictures go first",
        )
    } else if free < floor.saturating_mul(4) {
        Line::warn("disk", found, "it will be full soon: lower [store] max_bytes, or make room")
    } else {
        Line::ok("disk", found)
    }
}

/// How long a record takes until it is on the disk, and how fast pictures go there.
fn disk(config: &Config) -> (Line, Line) {
    let none = || Line::ok("disk speed", "");
    let place = place(config);
    if let Look::Untold(why) | Look::Bad(why) = ground(&place) {
        return (Line::warn("disk speed", format!("not measured: {why}"), "sudo inspectd doctor"), none());
    }
    // It has no name, so that nothing is left of it whatever happens.
    match tempfile::tempfile_in(&place).and_then(|file| measure(&file)) {
        Ok((record, mb_s)) => (record_line(record), stream_line(mb_s)),
        Err(error) => (
            Line::warn(
                "disk speed",
                format!("not measured in {}: {error}", place.display()),
                "look at the disk by dmesg and smartctl -a",
            ),
            none(),
        ),
    }
}

fn record_line(record: Duration) -> Line {
    let found = format!("a record is on the disk in {:.1} ms", record.as_secs_f64() * 1e3);
    if record < RECORD_SLOW {
        return Line::ok("disk speed", found);
    }
    Line::warn(
        "disk speed",
        found,
        "every part waits for it: take an SSD with power-loss protection; an SD card or a network disk is none",
    )
}

fn stream_line(mb_s: f64) -> Line {
    let found = format!("pictures go there at {mb_s:.0} MB/s");
    if mb_s > STREAM_SLOW_MB_S {
        return Line::ok("disk speed", found);
    }
    Line::warn("disk speed", found, "pictures queue up behind it: take an SSD")
}

fn measure(mut file: &File) -> io::Result<(Duration, f64)> {
    let mut took = Vec::with_capacity(RECORDS);
    for _ in 0..RECORDS {
        let start = Instant::now();
        file.write_all(&[7; RECORD_BYTES])?;
        file.sync_data()?;
        took.push(start.elapsed());
    }
    took.sort();
    let start = Instant::now();
    file.write_all(&vec![9; STREAM_BYTES])?;
    file.sync_data()?;
    let seconds = start.elapsed().as_secs_f64().max(1e-9);
    Ok((took[RECORDS / 2], STREAM_BYTES as f64 / 1e6 / seconds))
}

/// The time of day, and who stands behind it. `trust`: what the config says of it.
pub(super) fn clock(trust: Option<Trust>) -> Line {
    let reading = Clock::system().read();
    let since = reading.wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let ntp = "timedatectl set-ntp true, with the plant's server in /etc/systemd/timesyncd.conf (NTP=)";
    if since < WALL_MIN {
        return Line::fail("clock", "the time of day was never set", ntp);
    }
    if reading.synchronised {
        return Line::ok("clock", "set by a time server");
    }
    if trust == Some(Trust::Trusted) {
        return Line::ok("clock", "no time server has set it, and the config trusts it ([store] clock)");
    }
    let todo = format!(
        "by age nothing is removed until then: {ntp}; or [store] clock = \"trusted\" on a box that reaches none"
    );
    Line::warn("clock", "no time server has set it", todo)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::State;

    #[test]
    fn meminfo_gives_all_and_what_is_available() {
        let text = "MemTotal:       16315304 kB\nMemFree:  1 kB\nMemAvailable:    8000000 kB\n";
        assert_eq!(meminfo(text), Some((16_315_304 << 10, 8_000_000 << 10)));
        assert_eq!(meminfo("MemTotal: 5 kB\n"), None);
    }

    #[test]
    fn a_slow_disk_is_to_be_looked_at() {
        assert_eq!(record_line(Duration::from_millis(3)).state, State::Ok);
        assert_eq!(record_line(Duration::from_millis(80)).state, State::Warn);
        assert_eq!((stream_line(200.0).state, stream_line(5.0).state), (State::Ok, State::Warn));
        let (record, mb_s) = measure(&tempfile::tempfile().expect("a file")).expect("it is written");
        assert!(record > Duration::ZERO && mb_s > 0.0);
    }
}
