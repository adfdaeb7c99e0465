//! The real binary with a real mosquitto: parts come in, results arrive, and ends of every kind lose
//! nothing.

#[path = "daemon/backup.rs"]
mod backup;
#[path = "common/broker.rs"]
mod broker;
#[path = "common/clips.rs"]
mod clips;
#[path = "common/config.rs"]
mod config;
#[path = "daemon/control.rs"]
mod control;
#[path = "common/film.rs"]
mod film;
#[path = "common/inspections.rs"]
mod inspections;
#[path = "rigs/loopdisk.rs"]
mod loopdisk;
#[path = "daemon/metrics.rs"]
mod metrics;
#[path = "common/soak.rs"]
mod soak;
#[path = "common/station.rs"]
mod station;

use broker::{Broker, Subscriber, until};
use clips::ask_about_clips;
use inspectd::publish::mqtt::dialect::json::message::RESULT_JSON_SCHEMA;
use inspectd::store::{Store, StoreOptions};
use station::{PREFIX, Station, engine, results, signal, wait};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A station with one camera; `camera` are its lines behind id and pipeline. The pipeline takes pictures of
/// any size: a frame that never reaches the model would prove nothing.
fn one_camera(port: u16, camera: &str) -> Station {
    Station::new(port, &format!("[[camera]]\nid = \"cam1\"\npipeline = \"examples-defects\"\n{camera}"))
}

const SIMULATOR: &str = "source = \"simulator\"\nwidth_px = 1224\nheight_px = 1024\n";

#[tokio::test(flavor = "multi_thread")]
async fn every_part_of_a_run_is_published_and_stored() {
    let broker = Broker::start("", "").await;
    let subscriber = Subscriber::new(broker.port, PREFIX).await;
    let station = one_camera(broker.port, &format!("{SIMULATOR}count = 4"));
    let status = wait(&mut station.start(), "the daemon has inspected its four parts").await;
    assert!(status.success(), "{}", station.log());
    until("all results and the stopped status have arrived", || {
        let stopped = subscriber.newest("st10/status").is_some_and(|s| s["state"] == "stopped");
        stopped && results(&subscriber.heard()).len() >= 4
    })
    .await;
    let messages = subscriber.heard();
    let found = results(&messages);
    let schema: serde_json::Value = serde_json::from_str(RESULT_JSON_SCHEMA).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    for (i, result) in found.iter().enumerate() {
        let errors: Vec<String> = validator.iter_errors(result).map(|e| e.to_string()).collect();
        assert!(errors.is_empty(), "{errors:?}");
        assert_eq!(result["seq"], i as u64 + 1);
        assert_eq!(result["tiles"]["planned"], result["tiles"]["inspected"]);
        assert_ne!(result["tiles"]["planned"], 0, "{result}");
        assert!(result["part_id"].as_str().unwrap().starts_with("SN"));
    }
    let states: Vec<_> = messages
        .iter()
        .filter(|m| m.topic == format!("{PREFIX}/status"))
        .map(|m| m.json()["state"].clone())
        .collect();
    assert_eq!(states, ["online", "stopped"]);
    assert!(messages.iter().any(|m| m.topic == format!("{PREFIX}/camera/cam1/status")));
    let store = station.store();
    let verified = store.verify().unwrap();
    assert_eq!((verified.inspections, verified.broken_at, store.outbox_len()), (4, None, 0));
    for result in &found {
        let sha256 = result["image"]["sha256"].as_str().unwrap();
        let image = std::fs::read(store.image_path(sha256).unwrap()).unwrap();
        assert_eq!(image.len() as u64, result["image"]["bytes"].as_u64().unwrap());
    }
}

/// Who looks from outside, with `top -H` or a debugger, sees what each thread is for.
#[tokio::test(flavor = "multi_thread")]
async fn every_thread_has_a_name() {
    let folder = tempfile::tempdir().unwrap();
    let sections = format!(
        "{SIMULATOR}[[camera]]\nid = \"cam2\"\npipeline = \"examples-defects\"\nsource = \"v4l2\"\n\
         device = \"/dev/none\"\ntrigger = {{ on = \"command\" }}\n[trigger]\ndir = \"{}\"\n[web]\nlisten = \"127.0.0.1:0\"\n",
        folder.path().display()
    );
    let station = one_camera(9, &sections);
    let child = station.start();
    let names = || -> Vec<String> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", child.id())).unwrap().map_while(Result::ok);
        let name = |t: std::fs::DirEntry| std::fs::read_to_string(t.path().join("comm")).unwrap_or_default();
        tasks.map(name).map(|name| name.trim_end().to_owned()).collect()
    };
    let expected = [
        "inspectd",
        "take:cam1",
        "take:cam2",
        "watch:cam2",
        "inspector",
        "engine",
        "store-sync",
        "thumbs",
        "triggers",
        "control",
        "mqtt",
        "web",
        "spawner",
        "signals",
    ];
    until("all threads run", || {
        let names = names();
        expected.iter().all(|e| names.iter().any(|n| n == e))
    })
    .await;
    // A thread has its parent's name until it gives itself its own.
    let nameless = || names().iter().filter(|name| *name == "inspectd").count();
    until("the main thread alone has the process's name", || nameless() == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_drains_and_kill_loses_nothing() {
    let broker = Broker::start("", "").await;
    let subscriber = Subscriber::new(broker.port, PREFIX).await;
    let station = one_camera(broker.port, SIMULATOR);
    let mut killed = 0;
    for round in 1..=3 {
        let mut child = station.start();
        let seen = results(&subscriber.heard()).len();
        until("two more parts are published", || results(&subscriber.heard()).len() >= seen + 2).await;
        if round < 3 {
            child.kill().unwrap();
            child.wait().unwrap();
            killed += 1;
        } else {
            signal(child.id(), libc::SIGTERM);
            assert!(wait(&mut child, "SIGTERM is obeyed").await.success(), "{}", station.log());
        }
    }
    assert_eq!(killed, 2);
    let store = station.store();
    let verified = store.verify().unwrap();
    assert_eq!((verified.broken_at, store.outbox_len()), (None, 0));
    // At least once: a message may come twice, then with the same bytes; none is missing.
    let mut by_seq: BTreeMap<u64, serde_json::Value> = BTreeMap::new();
    until("every stored inspection has arrived", || {
        results(&subscriber.heard()).iter().filter_map(|r| r["seq"].as_u64()).max() >= verified.last_seq
    })
    .await;
    for result in results(&subscriber.heard()) {
        let seq = result["seq"].as_u64().unwrap();
        let first = by_seq.entry(seq).or_insert_with(|| result.clone());
        assert_eq!(*first, result, "seq {seq} came with other bytes");
    }
    assert_eq!(by_seq.len() as u64, verified.inspections);
    for (seq, result) in by_seq {
        assert_eq!(store.get(seq).unwrap().unwrap().inspection.id, result["inspection_id"].as_str().unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_pictures_with_a_bad_one_among_them() {
    let broker = Broker::start("", "").await;
    let subscriber = Subscriber::new(broker.port, PREFIX).await;
    let pictures = tempfile::tempdir().unwrap();
    let made = run(&[
        "simulate",
        "--count",
        "3",
        "--width",
        "700",
        "--height",
        "600",
        "--out",
        &pictures.path().display().to_string(),
    ]);
    assert!(made.status.success(), "{made:?}");
    let dir = pictures.path().join("images");
    std::fs::write(dir.join("000001a.png"), b"\x89PNG\r\n\x1a\n and no more").unwrap();
    let station =
        one_camera(broker.port, &format!("source = \"folder\"\nwatch = false\npath = \"{}\"", dir.display()));
    let status = wait(&mut station.start(), "the folder is done").await;
    assert!(status.success(), "{}", station.log());
    assert!(station.log().contains("000001a.png"), "the bad picture is named: {}", station.log());
    until("four results", || results(&subscriber.heard()).len() == 4).await;
    assert_eq!(station.store().verify().unwrap().inspections, 4);
    let all = results(&subscriber.heard());
    let bad = all.iter().find(|r| r["reason"].as_str().is_some_and(|r| r.contains("000001a.png")));
    let bad = bad.expect("the part of the bad picture has a record that names it");
    assert_eq!((&bad["verdict"], &bad["image"]), (&"review".into(), &serde_json::Value::Null));
}

/// A film goes through the capture child, the capture loop, the engine's process and the store as clips: two with
/// their three pictures, and a rest that is too short and therefore reviewed.
#[tokio::test(flavor = "multi_thread")]
async fn a_film_is_inspected_clip_by_clip() {
    let broker = Broker::start("", "").await;
    let subscriber = Subscriber::new(broker.port, PREFIX).await;
    let dir = tempfile::tempdir().unwrap();
    let film = film::film(dir.path(), "testsrc", 2);
    let camera = format!("source = \"opencv\"\nurl = \"{}\"", film.display());
    let station = one_camera(broker.port, &camera);
    ask_about_clips(&station, 3, 250);
    let status = wait(&mut station.start(), "the film is over").await;
    assert!(status.success(), "{}", station.log());
    until("three results", || results(&subscriber.heard()).len() == 3).await;
    let store = station.store();
    let found: Vec<_> = (1..=3).map(|seq| store.get(seq).unwrap().unwrap().inspection).collect();
    let before = |i: usize| found[i].clip.iter().map(Duration::as_millis).collect::<Vec<_>>();
    assert_eq!([before(0), before(1), before(2)], [vec![600, 300], vec![600, 300], vec![300]]);
    let origins: Vec<_> = found.iter().map(|i| i.origin.as_str()).collect();
    assert_eq!(origins, ["cam1:6", "cam1:13", "cam1:17"], "the last picture of each");
    for inspection in &found[..2] {
        let tiles = inspection.tiles;
        assert!(tiles.planned > 0 && tiles.planned == tiles.inspected, "{inspection:?}");
    }
    let short = results(&subscriber.heard()).pop().unwrap();
    let reason = "frame: the pipeline asks about a clip of 3 pictures, and this frame has 2";
    assert_eq!((short["verdict"].as_str(), short["reason"].as_str()), (Some("review"), Some(reason)));
}

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_inspectd")).args(args).stdin(Stdio::null()).output().unwrap()
}

#[test]
fn what_cannot_start_says_why() {
    let station = one_camera(1, SIMULATOR);
    station.edit("[store]", "[store]\nmax_byte = 7");
    let out = station.command().output().unwrap();
    let words = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(78), "{words}");
    assert!(words.contains("inspectd.toml:") && words.contains("max_byte"), "{words}");
    station.edit("max_byte = 7", "");
    station.edit("mmproj-inspectd-small.gguf", "nowhere.gguf");
    let out = station.command().output().unwrap();
    let words = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(78), "{words}");
    assert!(words.contains("nowhere.gguf"), "{words}");
    station.edit("nowhere.gguf", "inspectd-small.gguf");
    let out = station.command().output().unwrap();
    let words = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && words.contains("general.architecture"), "{words}");
}

fn rss_mib(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap_or("VmRSS: 0");
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_engine_is_told_and_replaced_and_none_outlives_the_daemon() {
    let broker = Broker::start("", "").await;
    let subscriber = Subscriber::new(broker.port, PREFIX).await;
    let station = one_camera(broker.port, &format!("{SIMULATOR}trigger = {{ interval_ms = 300 }}"));
    let mut daemon = station.start();
    let count = || results(&subscriber.heard()).len();
    until("a part is published", || count() >= 1).await;
    let first = engine(daemon.id()).expect("the engine is a process of its own");
    signal(first, libc::SIGKILL);
    let alarms =
        || subscriber.on("alarm/engine").iter().map(|m| m.json()["state"].clone()).collect::<Vec<_>>();
    until("the loss is told", || alarms().contains(&"raised".into())).await;
    until("the line goes on", || alarms().last().is_some_and(|a| a == "cleared")).await;
    let so_far = count();
    until("parts are inspected again", || count() >= so_far + 2).await;
    let second = engine(daemon.id()).expect("there is a new one");
    assert_ne!(first, second);
    let newest = results(&subscriber.heard()).pop().unwrap();
    assert_eq!(newest["tiles"]["planned"], newest["tiles"]["inspected"]);
    for result in results(&subscriber.heard()) {
        let whole = result["tiles"]["planned"] == result["tiles"]["inspected"];
        assert!(whole || result["verdict"] == "review", "{result}");
    }
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    until("no engine outlives its daemon", || !Path::new(&format!("/proc/{second}/exe")).exists()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_model_gives_its_memory_back() {
    let broker = Broker::start("", "").await;
    let subscriber = Subscriber::new(broker.port, PREFIX).await;
    let inbox = tempfile::tempdir().unwrap();
    let camera = format!("source = \"folder\"\npath = \"{}\"", inbox.path().display());
    let station = one_camera(broker.port, &camera);
    station.edit("[[camera]]", "unload_after_idle_s = 1\n[[camera]]");
    let mut daemon = station.start();
    let picture =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/model/examples/images/defect-256x256-00.png");
    let put = |name: &str| {
        let temp = inbox.path().join(".part");
        std::fs::copy(&picture, &temp).unwrap();
        std::fs::rename(&temp, inbox.path().join(name)).unwrap();
    };
    for round in 1..=2 {
        until("the daemon is up", || station.log().contains("inspecting")).await;
        put(&format!("{round}.png"));
        until("the picture is inspected", || results(&subscriber.heard()).len() == round).await;
        let engine_pid = engine(daemon.id());
        let loaded = engine_pid.map_or(0.0, rss_mib);
        until("the engine's process ends", || engine(daemon.id()).is_none()).await;
        println!(
            "idle: {loaded:.0} MiB of the engine given back, the daemon keeps {:.0} MiB",
            rss_mib(daemon.id())
        );
    }
    signal(daemon.id(), libc::SIGTERM);
    assert!(wait(&mut daemon, "SIGTERM is obeyed").await.success(), "{}", station.log());
}

/// P6 from outside: the alarm, the cameras and the recovery as a SCADA system sees them.
#[tokio::test(flavor = "multi_thread")]
async fn p6_a_full_disk_is_told_and_the_line_goes_on_when_space_comes_back() {
    let Some(disk) = loopdisk::LoopDisk::new("P6 from outside", 64) else { return };
    let broker = Broker::start("", "").await;
    let subscriber = Subscriber::new(broker.port, PREFIX).await;
    let station = one_camera(
        broker.port,
        "source = \"simulator\"\nwidth_px = 320\nheight_px = 240\ntrigger = { interval_ms = 200 }",
    );
    let text = std::fs::read_to_string(station.config()).unwrap();
    let store = station.dir.path().join("store").display().to_string();
    let moved = text.replace(&store, &disk.mount.join("store").display().to_string());
    std::fs::write(station.config(), moved.replace("free_bytes_min", "max_bytes = 64000000\nfree_bytes_min"))
        .unwrap();
    let mut daemon = station.start();
    let count = || results(&subscriber.heard()).len();
    until("parts are published", || count() >= 3).await;
    let state = |topic: &str| subscriber.newest(topic).map(|a| a["state"].clone());
    let (mut told, mut recovered) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..2 {
        let neighbour = disk.mount.join("neighbour");
        let filled = Instant::now();
        let mut file = std::fs::File::create(&neighbour).unwrap();
        let block = vec![0x55; 1 << 18];
        while std::io::Write::write_all(&mut file, &block).is_ok() {}
        drop(file);
        until("the stop is told", || state("alarm/store_full").is_some_and(|s| s == "raised")).await;
        told = told.max(filled.elapsed());
        until("the camera stands", || state("camera/cam1/status").is_some_and(|s| s == "fault")).await;
        let standing = count();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert!(count() <= standing + 1, "the line goes on without room");
        std::fs::remove_file(&neighbour).unwrap();
        let space = Instant::now();
        until("the stop is over", || state("alarm/store_full").is_some_and(|s| s == "cleared")).await;
        let so_far = count();
        until("parts are published again", || count() > so_far).await;
        recovered = recovered.max(space.elapsed());
    }
    soak::report(&format!(
        "P6 from outside: alarm after {:.1} s, parts again after {:.1} s",
        told.as_secs_f64(),
        recovered.as_secs_f64()
    ));
    assert!(told < Duration::from_secs(5) && recovered < Duration::from_secs(30));
    assert!(daemon.try_wait().unwrap().is_none(), "the daemon has lived through it");
    signal(daemon.id(), libc::SIGTERM);
    assert!(wait(&mut daemon, "SIGTERM is obeyed").await.success(), "{}", station.log());
    let store = Store::open(&disk.mount.join("store"), StoreOptions::default()).unwrap();
    assert_eq!(store.verify().unwrap().broken_at, None);
}

/// Looks at the memory in P8, at equal distances.
const P8_SAMPLES: usize = 40;

/// Least squares over points at equal distances: growth from one to the next.
fn slope(points: &[f64]) -> f64 {
    let middle = (points.len() as f64 - 1.0) / 2.0;
    let at = |i: usize| i as f64 - middle;
    let xy: f64 = points.iter().enumerate().map(|(i, y)| at(i) * y).sum();
    xy / (0..points.len()).map(|i| at(i).powi(2)).sum::<f64>()
}

/// Files below a folder.
fn pictures(folder: &Path) -> usize {
    let count = |entry: std::fs::DirEntry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => pictures(&entry.path()),
        _ => 1,
    };
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(count).sum()
}

/// P8 of the whole line: what 10,000 frames leave behind in the daemon and in its engine.
#[tokio::test(flavor = "multi_thread")]
async fn p8_frames_leave_memory_and_descriptors_flat() {
    let frames = soak::count(60, 10_000);
    let began = Instant::now();
    let broker = Broker::start("", "").await;
    let station = one_camera(broker.port, "source = \"simulator\"\nwidth_px = 288\nheight_px = 288");
    // Of a large picture a small part is inspected: the smallest store that the config allows is full after a
    // quarter of a full count. What is kept costs memory, so it is flat from there on only.
    let recipes = station.dir.path().join("pipelines");
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines");
    let recipe = std::fs::read_to_string(all.join("examples-defects.toml")).unwrap();
    std::fs::create_dir(&recipes).unwrap();
    std::fs::write(
        recipes.join("corner.toml"),
        recipe
            .replace("name = \"examples-defects\"", "name = \"corner\"")
            .replace("[tiling]", "[frame]\nsize = [288, 288]\nroi = [0, 0, 128, 128]\n[tiling]"),
    )
    .unwrap();
    station.edit(&all.display().to_string(), &recipes.display().to_string());
    station.edit("examples-defects", "corner");
    station.edit("free_bytes_min", "max_bytes = 64000000\nfree_bytes_min");
    let mut daemon = station.start();
    let inspected = || station.log().matches("inspected").count();
    let descriptors = |pid: u32| std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    let mut samples = vec![];
    let (mut seen, mut grown) = (0, Instant::now());
    while samples.len() < P8_SAMPLES {
        let wanted = frames * (samples.len() + 1) / P8_SAMPLES;
        while seen < wanted {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let now = inspected();
            if now > seen {
                (seen, grown) = (now, Instant::now());
            }
            assert!(grown.elapsed() < Duration::from_mins(1), "it stands still at {seen}");
        }
        let of_engine = engine(daemon.id()).expect("the engine is there");
        samples.push([
            rss_mib(daemon.id()),
            rss_mib(of_engine),
            descriptors(daemon.id()) as f64,
            descriptors(of_engine) as f64,
        ]);
        // Whether the smallest store is full in time is measured, not believed.
        if frames >= 5000 && samples.len() == P8_SAMPLES / 2 {
            let kept = pictures(&station.dir.path().join("store/images"));
            assert!(kept < seen * 3 / 4, "{kept} pictures of {seen}: retention is not at work yet");
        }
    }
    // A frame that never reaches the model would prove nothing.
    assert!(!station.log().contains("reason=frame"), "{}", station.log());
    let half = &samples[P8_SAMPLES / 2..];
    let per_10_000 = |column: usize| {
        let points: Vec<f64> = half.iter().map(|sample| sample[column]).collect();
        slope(&points) * 10_000.0 / (frames as f64 / P8_SAMPLES as f64)
    };
    let (of_daemon, of_engine, end) = (per_10_000(0), per_10_000(1), samples[P8_SAMPLES - 1]);
    soak::report(&format!(
        "P8 frames: {frames} frames, daemon {:.1} MiB ({of_daemon:+.2} MiB per 10,000 in the second half), \
         engine {:.1} MiB ({of_engine:+.2} MiB per 10,000), descriptors {} -> {} and {} -> {}, {:.0} s",
        end[0],
        end[1],
        half[0][2],
        end[2],
        half[0][3],
        end[3],
        began.elapsed().as_secs_f64()
    ));
    assert!(end[2] <= half[0][2] + 4.0 && end[3] <= half[0][3] + 4.0, "descriptors grow");
    if frames >= 5000 {
        assert!(of_daemon < 1.0 && of_engine < 1.0, "memory grows: {samples:?}");
    }
    signal(daemon.id(), libc::SIGTERM);
    assert!(wait(&mut daemon, "SIGTERM is obeyed").await.success(), "{}", station.log());
}
