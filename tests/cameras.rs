//! Cameras in processes of their own: scripted faults (P4), and real peers: Aravis's fake GigE Vision
//! camera, an RTSP server of GStreamer, films made by ffmpeg.
//!
//! ```text
//! test --Supervised--> this binary as a child: a scripted device, or the product's own sources
//! ```
//!
//! `SOAK=full` runs P4 at its full count.

#![cfg(all(feature = "v4l2", feature = "genicam", feature = "ffmpeg", feature = "opencv"))]

#[path = "common/awake.rs"]
mod awake;
#[path = "common/film.rs"]
mod film;
#[path = "cameras/lies.rs"]
mod lies;
#[path = "cameras/right_part.rs"]
mod right_part;
#[path = "common/rtsp.rs"]
mod rtsp;
#[path = "common/soak.rs"]
mod soak;

use awake::Awake;
use film::film;

use image::{Rgb, RgbImage};
use inspectd::camera::child;
use inspectd::camera::device::{Device, DeviceError, Stamp};
use inspectd::camera::keyframe::Policy;
use inspectd::camera::kind::genicam::{self, Exposure};
use inspectd::camera::kind::stream::{self, Backend};
use inspectd::camera::kind::{Kind, Settings, v4l2};
use inspectd::camera::picture::Correction;
use inspectd::camera::supervisor::machine::Limits;
use inspectd::camera::supervisor::{Report, Supervised};
use inspectd::camera::wire::{Alive, FromCapture, ToCapture};
use inspectd::camera::{Source, Stop, Want};
use inspectd::domain::frame::Frame;
use inspectd::ipc::{Channel, Child, Program};
use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const ROLE: &str = "INSPECTD_TEST_CAMERA_ROLE";
const SCRIPT: &str = "INSPECTD_TEST_CAMERA_SCRIPT";
/// The promises of P4.
const REPORTED_WITHIN: Duration = Duration::from_secs(5);
const BACK_WITHIN: Duration = Duration::from_secs(10);
/// Ends a test that waits for nothing; an emulated machine needs much of it.
const PATIENCE: Duration = Duration::from_mins(2);
/// The faults of P4; `unplug` takes the device's node away.
const FAULTS: [&str; 8] = ["hang", "eio", "frozen", "wrong_size", "shrinks", "stop", "crash", "unplug"];
/// Cameras that fail at the same time: as many as one box has, because what is measured is the supervisor
/// and not how many processes a busy machine can start at once.
const SIDE_BY_SIDE: usize = 9;
/// Faults that one supervisor sees, at least and at most: enough for the longest waits between restarts,
/// and so few that half of an hour's restarts are not used up.
const PER_CAMERA: (usize, usize) = (7, 28);
/// How long an unplugged device stays away.
const AWAY: Duration = Duration::from_secs(2);

/// Not a test: what the other tests start as a child of theirs.
#[test]
fn a_child() {
    match std::env::var(ROLE).as_deref() {
        Ok("scripted") => scripted(Path::new(&std::env::var(SCRIPT).unwrap())),
        Ok("real") => {
            child::serve(Channel::of_this_process().unwrap(), |settings| settings.kind.open()).unwrap();
        }
        Ok(role @ ("line" | "line by order")) => {
            let open = |_: &Settings| -> Result<Box<dyn Device>, DeviceError> {
                let place = std::env::var(SCRIPT).unwrap();
                Ok(Box::new(right_part::LineDevice::new(Path::new(&place), role == "line by order")))
            };
            let _ = child::serve(Channel::of_this_process().unwrap(), open);
        }
        Ok(role @ ("gige" | "lossy gige")) => {
            let camera = aravis::GvFakeCamera::new(Some("127.0.0.1"), Some("GV01"));
            if role == "lossy gige" {
                camera.set_gvsp_lost_ratio(0.002);
            }
            let mut channel = Channel::of_this_process().unwrap();
            channel.send(&"up", &[], PATIENCE).unwrap();
            // Until the test lets go of its end.
            while channel.recv::<String>(PATIENCE, PATIENCE).is_ok() {}
        }
        _ => {}
    }
}

fn program(role: &str, script: &Path) -> Program {
    let mut program = Program::new(["a_child", "--exact", "--nocapture", "--test-threads=1"]);
    program.env = vec![(ROLE.into(), role.into()), (SCRIPT.into(), script.into())];
    program
}

/// A device that does what its script file says, word by word; no file: it is unplugged.
fn scripted(script: &Path) {
    let mut channel = Channel::of_this_process().unwrap();
    let within = Duration::from_secs(5);
    let Ok(Some((ToCapture::Open(_), _))) = channel.recv(within, within) else { return };
    if !script.exists() {
        channel.send(&FromCapture::Fault { reason: "no such device".into() }, &[], within).unwrap();
        return;
    }
    channel.send(&FromCapture::Opened, &[], within).unwrap();
    let (mut pictures, mut told) = (0_u64, Instant::now());
    loop {
        let order = match channel.recv(Duration::from_millis(20), within) {
            Ok(message) => message.map(|(order, _)| order),
            Err(_) => return,
        };
        let word = std::fs::read_to_string(script).unwrap_or_else(|_| "eio".into());
        match word.as_str() {
            "hang" => std::thread::sleep(Duration::from_hours(1)),
            "eio" => {
                let _ = channel.send(&FromCapture::Fault { reason: "EIO".into() }, &[], within);
                return;
            }
            "crash" => panic!("a driver crashed"),
            // SAFETY: stops this process, which is what is tested.
            "stop" => unsafe { _ = libc::kill(libc::getpid(), libc::SIGSTOP) },
            "wrong_size" => {
                let _ = channel.send(&frame(None, pictures), &[&[0; 11]], within);
            }
            // Both have the bytes of their sizes, and answer an order that nobody waits for any more.
            "shrinks" => {
                let small = FromCapture::Frame {
                    order: Some(0),
                    older: 0,
                    width_px: 2,
                    height_px: 2,
                    stamp: Stamp::now(),
                    number: 9,
                };
                let _ = channel.send(&frame(Some(0), pictures), &[&[0; 4 * 4 * 3]], within);
                let _ = channel.send(&small, &[&[0; 2 * 2 * 3]], within);
            }
            // What no honest child sends.
            "lost" => {
                let lies = [FromCapture::Lost { count: 3 }, FromCapture::Lost { count: u64::MAX }];
                let _ = lies.map(|lie| channel.send(&lie, &[], within));
            }
            "huge" => {
                let (width_px, height_px) = (u32::MAX, u32::MAX);
                let lie = FromCapture::Frame {
                    order: Some(1),
                    older: 0,
                    width_px,
                    height_px,
                    stamp: Stamp::now(),
                    number: 1,
                };
                let _ = channel.send(&lie, &[], within);
            }
            "opened" => _ = channel.send(&FromCapture::Opened, &[], within),
            "unordered" => _ = channel.send(&frame(None, pictures), &[&[0; 4 * 4 * 3]], within),
            // More parts than anybody takes, and then a fault, which tells that they were all sent.
            "line" => {
                for number in 1..=12 {
                    channel.send(&frame(None, number), &[&[0; 4 * 4 * 3]], within).unwrap();
                }
                channel.send(&FromCapture::Lost { count: 3 }, &[], within).unwrap();
                std::fs::write(script, "good").unwrap();
                let _ = channel.send(&FromCapture::Fault { reason: "sent".into() }, &[], within);
                return;
            }
            _ => {}
        }
        pictures += 1;
        if let Some(ToCapture::Take { order, .. }) = order {
            let bytes = [pictures as u8; 4 * 4 * 3];
            channel.send(&frame(Some(order), pictures), &[&bytes], within).unwrap();
        }
        if told.elapsed() > Duration::from_millis(500) {
            told = Instant::now();
            let checksum = if word == "frozen" { 7 } else { pictures as u32 };
            let alive = Alive { pictures, checksum, idle: false, condition: None };
            if channel.send(&FromCapture::Alive(alive), &[], within).is_err() {
                return;
            }
        }
    }
}

fn scripted_kind(script: &Path) -> Kind {
    let device = script.to_owned();
    Kind::V4l2(v4l2::Settings {
        device,
        width_px: None,
        height_px: None,
        fps: None,
        controls: BTreeMap::default(),
    })
}

fn frame(order: Option<u64>, number: u64) -> FromCapture {
    FromCapture::Frame { order, older: 0, width_px: 4, height_px: 4, stamp: Stamp::now(), number }
}

/// A camera under supervision, and all that its supervisor said.
struct Rig {
    camera: Supervised,
    reports: Arc<Mutex<Vec<(Instant, Report)>>>,
}

impl Rig {
    fn new(kind: Kind, role: &str, script: &Path, policy: Policy, limits: Limits) -> Self {
        let settings = Settings {
            camera: "cam1".into(),
            kind,
            key_frames: policy,
            correction: Correction::default(),
            latency_ms: 0,
        };
        let reports = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&reports);
        let report = Box::new(move |report| heard.lock().unwrap().push((Instant::now(), report)));
        let pushed = settings.kind.is_line_triggered();
        let camera =
            Supervised::new(settings, program(role, script), limits, pushed, Stop::default(), report)
                .unwrap();
        Self { camera, reports }
    }

    fn real(kind: Kind) -> Self {
        Self::new(kind, "real", Path::new(""), Policy::All, Limits::default())
    }

    /// Waits for a report from `since` on; how long after it came.
    fn heard(&self, since: Instant, what: &str, is: impl Fn(&Report) -> bool) -> Duration {
        let began = Instant::now();
        loop {
            let reports = self.reports.lock().unwrap();
            if let Some((at, _)) = reports.iter().find(|(at, report)| *at >= since && is(report)) {
                return at.saturating_duration_since(since);
            }
            assert!(began.elapsed() < PATIENCE, "waited in vain for {what}: {reports:?}");
            drop(reports);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn ready(&self, since: Instant) -> Duration {
        self.heard(since, "ready", |r| *r == Report::Ready)
    }

    fn fault(&self, since: Instant) -> Duration {
        self.heard(since, "a fault", |r| matches!(r, Report::Fault { .. }))
    }

    fn take(&mut self) -> Frame {
        self.camera.take(Want::by(Instant::now() + PATIENCE)).unwrap().expect("the camera goes on")
    }
}

fn children() -> usize {
    let pid = std::process::id();
    let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let mut count = list.split_whitespace().count();
    // Children belong to the thread that started them.
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten() {
        let list = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        count += list.split_whitespace().count() * usize::from(task.file_name() != *pid.to_string());
    }
    count
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// What became of the faults of one kind; times in which the machine slept are not in them.
#[derive(Debug, Default)]
struct Outcome {
    count: usize,
    slowest_report: Duration,
    slowest_return: Duration,
    late: usize,
}

type Outcomes = Mutex<std::collections::BTreeMap<&'static str, Outcome>>;

/// One camera fails and comes back, again and again, under one supervisor.
fn failing_camera(faults: impl Iterator<Item = &'static str>, awake: &Awake, outcomes: &Outcomes) {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("device");
    let write = |word: &str| {
        let new = dir.path().join("new");
        std::fs::write(&new, word).unwrap();
        std::fs::rename(&new, &script).unwrap();
    };
    write("good");
    let began = Instant::now();
    let mut rig = Rig::new(scripted_kind(&script), "scripted", &script, Policy::All, Limits::default());
    rig.ready(began);
    for fault in faults {
        assert_eq!(rig.take().pixels.dimensions(), (4, 4), "{fault}");
        let failed = Instant::now();
        match fault {
            "unplug" => std::fs::remove_file(&script).unwrap(),
            word => write(word),
        }
        let reported = awake.within(failed, rig.fault(failed));
        if fault == "unplug" {
            std::thread::sleep(AWAY);
        }
        let returned = Instant::now();
        write("good");
        let back = awake.within(returned, rig.ready(returned));
        let mut outcomes = outcomes.lock().unwrap();
        let outcome = outcomes.entry(fault).or_default();
        outcome.count += 1;
        outcome.slowest_report = outcome.slowest_report.max(reported);
        outcome.slowest_return = outcome.slowest_return.max(back);
        outcome.late += usize::from(reported > REPORTED_WITHIN || back > BACK_WITHIN);
    }
    assert_eq!(rig.take().pixels.dimensions(), (4, 4));
}

/// P4: a dead camera is reported within 5 s and back within 10 s of its return, and nothing leaks.
#[test]
fn p4_every_fault_is_told_in_time_and_mended_in_time() {
    let total = soak::count(28, 1_000);
    let each = total.div_ceil(SIDE_BY_SIDE).clamp(PER_CAMERA.0, PER_CAMERA.1);
    let (awake, outcomes, began) = (Awake::new(), Outcomes::default(), Instant::now());
    // The thread that starts processes lives on; what it needs is open after the first.
    failing_camera(std::iter::once("eio"), &awake, &Outcomes::default());
    let before = (children(), descriptors());
    let next = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..SIDE_BY_SIDE {
            scope.spawn(|| {
                loop {
                    let camera = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let mine = camera * each..total.min((camera + 1) * each);
                    if mine.is_empty() {
                        return;
                    }
                    // Each camera begins with another fault, so that they do not hang in step.
                    failing_camera(mine.map(|i| FAULTS[(camera + i) % FAULTS.len()]), &awake, &outcomes);
                }
            });
        }
    });
    let leaked = Instant::now();
    while (children(), descriptors()) != before && leaked.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(Duration::from_millis(50));
    }
    let (outcomes, after) = (outcomes.into_inner().unwrap(), (children(), descriptors()));
    soak::report(&format!(
        "P4: {total} faults, {each} a camera, {SIDE_BY_SIDE} cameras side by side, {:?}; processes and \
         descriptors {before:?} -> {after:?}; the machine slept {:?}; {outcomes:#?}",
        began.elapsed(),
        awake.slept(),
    ));
    assert_eq!(outcomes.values().map(|o| o.count).sum::<usize>(), total);
    assert!(outcomes.values().all(|o| o.late == 0), "told after 5 s or mended after 10 s: {outcomes:?}");
    assert_eq!(after, before, "leaked processes, descriptors");
}

/// Every picture that a hardware trigger made is a frame or counted as lost: none vanishes.
#[test]
fn pictures_of_a_hardware_trigger_that_find_no_room_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("device");
    std::fs::write(&script, "line").unwrap();
    let began = Instant::now();
    let kind = genicam("Mono8", Exposure::Line("Line1".into()));
    let mut rig = Rig::new(kind, "scripted", &script, Policy::All, Limits::default());
    rig.heard(began, "the end", |r| matches!(r, Report::Fault { reason } if reason.contains("sent")));
    let lost = rig.camera.take(Want::by(Instant::now())).unwrap_err();
    assert!(
        matches!(lost, inspectd::camera::CameraError::Lost { count: 7 }),
        "{lost}: 12 came, 8 fit, 3 were broken"
    );
    let taken = std::iter::from_fn(|| rig.camera.take(Want::by(Instant::now())).ok().flatten());
    let origins: Vec<String> = taken.map(|f| f.origin).collect();
    assert_eq!(origins, (1..=8).map(|n| format!("cam1:{n}")).collect::<Vec<_>>());
}

fn opencv(url: String, backend: Backend, live: bool) -> Kind {
    Kind::Stream(stream::Settings { url, backend, live, open_timeout_ms: 5_000, read_timeout_ms: 2_000 })
}

#[test]
fn a_film_is_taken_picture_by_picture_and_ends() {
    let dir = tempfile::tempdir().unwrap();
    let path = film(dir.path(), "testsrc", 2);
    let mut rig = Rig::real(opencv(path.display().to_string(), Backend::Ffmpeg, false));
    let frames: Vec<Frame> =
        std::iter::from_fn(|| rig.camera.take(Want::by(Instant::now() + PATIENCE)).unwrap()).collect();
    assert_eq!(frames.len(), 20);
    assert!(frames.iter().all(|f| f.pixels.dimensions() == (320, 240) && f.replayed));
    let times: Vec<_> = frames.iter().map(|f| f.captured_at).collect();
    for pair in times.windows(2) {
        assert_eq!(pair[1].duration_since(pair[0]).unwrap().as_millis(), 100);
    }
    assert_ne!(frames[0].pixels, frames[10].pixels);
}

#[test]
fn a_film_gives_its_key_frames() {
    let dir = tempfile::tempdir().unwrap();
    let path = film(dir.path(), "testsrc", 3);
    let kind = opencv(path.display().to_string(), Backend::Ffmpeg, false);
    let policy = Policy::EveryMs(1_000);
    let mut rig = Rig::new(kind, "real", Path::new(""), policy, Limits::default());
    let mut numbers = Vec::new();
    while let Some(frame) = rig.camera.take(Want::by(Instant::now() + PATIENCE)).unwrap() {
        numbers.push(frame.origin);
    }
    assert_eq!(numbers, ["cam1:0", "cam1:10", "cam1:20"]);
}

#[test]
fn what_is_no_film_is_a_fault_with_its_reason() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"no film").unwrap();
    let mut rig = Rig::real(opencv(file.path().display().to_string(), Backend::Ffmpeg, false));
    let error = rig.camera.next().unwrap_err().to_string();
    assert!(error.contains("cannot open") && error.contains("ffmpeg"), "{error}");
}

#[test]
fn a_gstreamer_pipeline_gives_its_colours() {
    let pipeline = "videotestsrc is-live=true pattern=red ! video/x-raw,width=320,height=240,framerate=10/1 \
                    ! videoconvert ! video/x-raw,format=BGR ! appsink drop=true max-buffers=2";
    // A test picture never changes, which is what a frozen camera looks like.
    let limits = Limits { frozen: Duration::ZERO, ..Limits::default() };
    let kind = opencv(pipeline.into(), Backend::Gstreamer, true);
    let mut rig = Rig::new(kind, "real", Path::new(""), Policy::All, limits);
    let before = Instant::now();
    let frame = rig.take();
    assert!(frame.captured >= before, "what is ordered is exposed after the order");
    let Rgb([r, g, b]) = *frame.pixels.get_pixel(160, 120);
    assert!(r > 240 && g < 16 && b < 16, "{r} {g} {b}");
}

#[test]
fn an_rtsp_camera_goes_and_comes_back() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut server = rtsp::serve(port, None);
    let began = Instant::now();
    let mut rig = Rig::real(opencv(format!("rtsp://127.0.0.1:{port}/ball"), Backend::Ffmpeg, true));
    rig.ready(began);
    let (first, second) = (rig.take(), rig.take());
    assert_eq!(first.pixels.dimensions(), (640, 480));
    assert!(second.captured > first.captured && second.pixels != first.pixels);
    let lost = Instant::now();
    server.kill().unwrap();
    server.wait().unwrap();
    let reported = rig.fault(lost);
    assert!(reported <= REPORTED_WITHIN, "{reported:?}");
    let returned = Instant::now();
    let mut server = rtsp::serve(port, None);
    let back = rig.ready(returned);
    assert!(back <= BACK_WITHIN, "{back:?}");
    assert_eq!(rig.take().pixels.dimensions(), (640, 480));
    println!("RTSP server killed: told after {reported:?}, back after {back:?}");
    server.kill().unwrap();
    server.wait().unwrap();
}

/// Aravis's fake GigE Vision camera in a process of its own. GigE Vision has one port.
fn gige() -> Child {
    fake_camera("gige")
}

/// The same, some of whose packets get lost.
fn lossy_gige() -> Child {
    fake_camera("lossy gige")
}

/// Held by whoever has the port, in this process or another.
fn one_gige_at_a_time() -> std::fs::File {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("gige.lock");
    let lock = std::fs::File::create(path).unwrap();
    lock.lock().unwrap();
    lock
}

fn fake_camera(role: &str) -> Child {
    let mut child = Child::spawn(&program(role, Path::new(""))).unwrap();
    assert_eq!(child.channel.recv::<String>(PATIENCE, PATIENCE).unwrap().unwrap().0, "up");
    child
}

fn genicam(format: &str, trigger: Exposure) -> Kind {
    Kind::Genicam(genicam::Settings {
        name: "127.0.0.1".into(),
        exposure_us: Some(5_000.0),
        gain: Some(2.0),
        fps: Some(20.0),
        width_px: Some(320),
        height_px: Some(240),
        pixel_format: Some(format.into()),
        trigger,
    })
}

/// One test for all of it, because the fake camera has one address and one port.
#[test]
fn a_gige_vision_camera_streams_obeys_goes_and_comes_back() {
    let _alone = one_gige_at_a_time();
    let camera = gige();
    for format in ["Mono8", "BayerRG8", "RGB8"] {
        let began = Instant::now();
        let mut rig = Rig::real(genicam(format, Exposure::Free));
        rig.ready(began);
        let (first, second) = (rig.take(), rig.take());
        assert_eq!(first.pixels.dimensions(), (320, 240), "{format}");
        assert_ne!(first.pixels, second.pixels, "{format}: the fake camera's picture moves");
        assert!(second.captured > first.captured);
        let is_grey = |p: &RgbImage| p.pixels().all(|Rgb([r, g, b])| r == g && g == b);
        assert_eq!(is_grey(&first.pixels), format == "Mono8", "{format}");
    }
    let began = Instant::now();
    let mut rig = Rig::real(genicam("Mono8", Exposure::Software));
    rig.ready(began);
    for _ in 0..3 {
        let ordered = Instant::now();
        assert!(rig.take().captured >= ordered, "a software trigger exposes when it is told to");
    }
    drop(rig);
    let began = Instant::now();
    let refused = Rig::real(genicam("Mono3", Exposure::Free));
    refused.heard(began, "a refusal", |r| matches!(r, Report::Fault { reason } if reason.contains("Mono3")));
    drop(refused);

    let began = Instant::now();
    let mut rig = Rig::real(genicam("Mono8", Exposure::Free));
    rig.ready(began);
    let lost = Instant::now();
    drop(camera);
    let reported = rig.fault(lost);
    assert!(reported <= REPORTED_WITHIN, "{reported:?}");
    let returned = Instant::now();
    let _camera = gige();
    let back = rig.ready(returned);
    assert!(back <= BACK_WITHIN, "{back:?}");
    rig.take();
    println!("GigE camera killed: told after {reported:?}, back after {back:?}");
}

/// Against the kernel's virtual camera; `make test-v4l2` boots a kernel that has one.
#[test]
#[ignore = "needs a /dev/video0 of the kernel's driver vivid: make test-v4l2"]
fn v4l2_streams_obeys_controls_and_refuses_what_it_has_not() {
    let kind = |controls: &[(&str, i64)], width_px| {
        Kind::V4l2(v4l2::Settings {
            device: "/dev/video0".into(),
            width_px: Some(width_px),
            height_px: Some(480),
            fps: Some(30),
            controls: controls.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect(),
        })
    };
    for (node, name, details) in inspectd::camera::kind::v4l2::list() {
        println!("{} {name}\n  {}", node.display(), details.join("\n  "));
    }
    // An emulated processor takes longer over everything, and asking a driver for its formats takes thousands
    // of calls.
    let limits = Limits { open: PATIENCE, picture: PATIENCE, ..Limits::default() };
    let real = |kind| Rig::new(kind, "real", Path::new(""), Policy::All, limits);
    let began = Instant::now();
    let mut rig = real(kind(&[], 640));
    rig.ready(began);
    let (first, second) = (rig.take(), rig.take());
    assert_eq!(first.pixels.dimensions(), (640, 480));
    assert!(second.captured > first.captured);
    let bright = mean(&second.pixels);
    drop(rig);

    let began = Instant::now();
    let mut rig = real(kind(&[("Brightness", 20)], 640));
    rig.ready(began);
    let dark = mean(&rig.take().pixels);
    assert!(dark + 40.0 < bright, "brightness 20 of 255: {dark}, was {bright}");
    drop(rig);

    for (settings, words) in
        [(kind(&[("Warp", 1)], 640), "no such control"), (kind(&[], 641), "641x480 pixels: it has")]
    {
        let began = Instant::now();
        let rig = real(settings);
        rig.heard(began, words, |r| matches!(r, Report::Fault { reason } if reason.contains(words)));
    }
}

fn mean(pixels: &RgbImage) -> f64 {
    pixels.as_raw().iter().map(|v| f64::from(*v)).sum::<f64>() / pixels.as_raw().len() as f64
}
