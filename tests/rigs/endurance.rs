//! P8: memory, descriptors and the store stay bounded over a million inserts with retention and MQTT.

use crate::broker::{Broker, Subscriber};
use crate::soak;
use crate::station::{Order, Station, acked};
use inspectd::clock::Clock;
use inspectd::store::{Store, StoreOptions};
use std::time::{Duration, Instant};

const INSERTS: usize = 8000;

const CAP_BYTES: u64 = 64_000_000;

/// Growth of memory over 10,000 inserts, after the caches are full.
const SLOPE_MAX_BYTES: f64 = (1 << 20) as f64;

struct Sample {
    inserts: f64,
    rss: f64,
    descriptors: usize,
}

fn sample(pid: u32, inserts: u64) -> Sample {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the child is there");
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).expect("it has memory");
    let kb: f64 = line.split_whitespace().nth(1).and_then(|kb| kb.parse().ok()).expect("a number");
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("the child is there").count();
    Sample { inserts: inserts as f64, rss: kb * 1024.0, descriptors }
}

/// Least squares: bytes for each 10,000 inserts.
fn slope(samples: &[Sample]) -> f64 {
    let n = samples.len() as f64;
    let (mx, my) =
        (samples.iter().map(|s| s.inserts).sum::<f64>() / n, samples.iter().map(|s| s.rss).sum::<f64>() / n);
    let xy: f64 = samples.iter().map(|s| (s.inserts - mx) * (s.rss - my)).sum();
    let xx: f64 = samples.iter().map(|s| (s.inserts - mx).powi(2)).sum();
    xy / xx * 10_000.0
}

fn bytes_of(dir: &std::path::Path) -> u64 {
    let mut bytes = 0;
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().map_while(Result::ok) {
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => folders.push(entry.path()),
                Ok(meta) => bytes += meta.len(),
                Err(_) => {}
            }
        }
    }
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p8_inserts_leave_memory_descriptors_and_disk_bounded() {
    let began = Instant::now();
    let inserts = soak::count(INSERTS, 1_000_000) as u64;
    let broker = Broker::start("", "").await;
    // Somebody listens to the states, so that the broker has work; the results go to nobody.
    let subscriber = Subscriber::new(broker.port, "rig/p8/station/status").await;
    let dir = tempfile::tempdir().expect("a folder");
    let every = inserts / 100;
    let order = Order {
        dir: dir.path().display().to_string(),
        port: broker.port,
        prefix: "rig/p8/station".into(),
        max_bytes: CAP_BYTES.min(inserts * 2000),
        records: inserts,
        committers: 8,
        picture_every: 5,
        picture_bytes: 4000,
        say_every: every,
        ..Order::default()
    };
    let station = Station::start(&order);
    let pid = station.process.id();
    let (mut samples, mut disk_max) = (vec![], 0);
    loop {
        let Some(line) = tokio::task::block_in_place(|| station.line(Duration::from_mins(2))) else {
            panic!("it stands still after {} samples", samples.len());
        };
        assert!(!line.starts_with("failed"), "{line}");
        if acked(&line).is_some() {
            samples.push(sample(pid, samples.len() as u64 * every));
            disk_max = disk_max.max(bytes_of(dir.path()));
        }
        if line == "drained" {
            break;
        }
    }
    let second_half = &samples[samples.len() / 2..];
    let slope = slope(second_half);
    let (fewest, most) = second_half
        .iter()
        .fold((usize::MAX, 0), |(low, high), s| (low.min(s.descriptors), high.max(s.descriptors)));
    let rss_end = samples.last().expect("there are samples").rss;
    station.kill();
    let options = StoreOptions { max_bytes: order.max_bytes, ..StoreOptions::default() };
    let store = Store::open(dir.path(), options).expect("it opens");
    let usage = store.keep_within_limits(&Clock::system()).expect("it prunes").pruned.usage_bytes;
    let found = store.verify().expect("it reads");
    let mb = |bytes: f64| bytes / f64::from(1 << 20);
    soak::report(&format!(
        "P8: {inserts} inserts, memory {:.1} MiB at the end, slope {:+.2} MiB per 10,000 in the second half, {fewest} to {most} \
         descriptors, {:.1} MiB of records and pictures (cap {:.1}), at most {:.1} MiB on the disk, {} broken, {:.0} s",
        mb(rss_end),
        mb(slope),
        mb(usage as f64),
        mb(order.max_bytes as f64),
        mb(disk_max as f64),
        u32::from(found.broken_at.is_some()),
        began.elapsed().as_secs_f64()
    ));
    assert!(
        subscriber
            .newest("station/status")
            .is_some_and(|s| s["state"] == "online" || s["state"] == "offline")
    );
    assert_eq!((found.gaps, found.broken_at), (0, None));
    assert!(usage <= order.max_bytes, "{usage} bytes");
    assert!(most - fewest <= 8, "{fewest} to {most} descriptors");
    // Over few inserts the caches still fill.
    if inserts >= 100_000 {
        assert!(slope < SLOPE_MAX_BYTES, "{slope} bytes per 10,000 inserts");
    }
}
