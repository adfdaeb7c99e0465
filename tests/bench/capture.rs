//! What the capture path costs: `cargo bench --bench capture -- SECONDS`.
//!
//! ```text
//! peer (RTSP server, fake GigE camera) --> capture child --> supervisor --> Source::take, here
//! ```
//!
//! Each source gives 1920x1200 pixels at 10 frames a second where it has a rate of its own, and every frame
//! is taken. Processor time is that of the capture child and of this process, not of the peer that makes the
//! pictures. A folder and the simulator have no rate and no child: they are read as fast as they give.

#[path = "../common/rtsp.rs"]
mod rtsp;

use inspectd::camera::child;
use inspectd::camera::keyframe::Policy;
use inspectd::camera::kind::folder::Folder;
use inspectd::camera::kind::genicam::{self, Exposure};
use inspectd::camera::kind::simulator::{self, Simulator};
use inspectd::camera::kind::stream::{self, Backend};
use inspectd::camera::kind::{Kind, Settings};
use inspectd::camera::picture::Correction;
use inspectd::camera::supervisor::machine::Limits;
use inspectd::camera::supervisor::{Report, Supervised};
use inspectd::camera::{Source, Stop, Want};
use inspectd::ipc::{Channel, Child, Program};
use inspectd::simulator::Product;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const ROLE: &str = "INSPECTD_BENCH_ROLE";
const WIDTH: u32 = 1920;
const HEIGHT: u32 = 1200;
const FPS: u32 = 10;
const PATIENCE: Duration = Duration::from_secs(30);
/// Until a source runs evenly; a stream begins with what its server has stored.
const WARM_UP: Duration = Duration::from_secs(4);

fn main() {
    match std::env::var(ROLE).as_deref() {
        Ok("capture") => return child::serve(channel(), |settings| settings.kind.open()).unwrap(),
        Ok("gige") => return gige_camera(),
        _ => {}
    }
    let seconds = std::env::args().skip(1).find_map(|a| a.parse().ok()).unwrap_or(15);
    let span = Duration::from_secs(seconds);
    println!("{WIDTH}x{HEIGHT}, {seconds} s a source");
    println!(
        "{:<34} {:>8} {:>14} {:>14} {:>9}",
        "source", "frames/s", "child ms/frame", "here ms/frame", "at 10/s"
    );
    let dir = tempfile::tempdir().unwrap();
    genicam(span);
    opencv(dir.path(), span);
    in_process(dir.path(), span);
}

fn channel() -> Channel {
    Channel::of_this_process().unwrap()
}

fn program(role: &str) -> Program {
    let mut program = Program::new(["capture"]);
    program.env = vec![(ROLE.into(), role.into())];
    program
}

/// Aravis's fake GigE Vision camera, until the other end is let go of.
fn gige_camera() {
    let _camera = aravis::GvFakeCamera::new(Some("127.0.0.1"), Some("GV01"));
    let mut channel = channel();
    channel.send(&"up", &[], PATIENCE).unwrap();
    while channel.recv::<String>(PATIENCE, PATIENCE).is_ok() {}
}

fn genicam(span: Duration) {
    let mut camera = Child::spawn(&program("gige")).unwrap();
    camera.channel.recv::<String>(PATIENCE, PATIENCE).unwrap().unwrap();
    for format in ["Mono8", "BayerRG8", "RGB8"] {
        let kind = Kind::Genicam(genicam::Settings {
            name: "127.0.0.1".into(),
            exposure_us: Some(5_000.0),
            gain: None,
            fps: Some(FPS.into()),
            width_px: Some(WIDTH),
            height_px: Some(HEIGHT),
            pixel_format: Some(format.into()),
            trigger: Exposure::Free,
        });
        supervised(&format!("genicam, GigE Vision, {format}"), kind, span);
    }
}

/// Streams of films that ffmpeg has made, so that their server has nothing to encode.
fn opencv(dir: &Path, span: Duration) {
    // Long enough for the film that is read as fast as it gives.
    let seconds = (span + WARM_UP).as_secs() * 8;
    let film = |name: &str, codec: &[&str]| {
        let path = dir.join(name);
        let made = Command::new("ffmpeg")
            .args(["-loglevel", "error", "-y", "-f", "lavfi", "-i"])
            .arg(format!("testsrc2=size={WIDTH}x{HEIGHT}:rate={FPS}:duration={seconds}"))
            .args(["-pix_fmt", "yuv420p"])
            .args(codec)
            .arg(&path)
            .stdin(Stdio::null())
            .status();
        assert!(made.expect("ffmpeg is needed: apt-get install ffmpeg").success());
        path.display().to_string()
    };
    let h264 = film("film.mp4", &["-c:v", "libx264", "-preset", "veryfast", "-g", "10", "-bf", "0"]);
    // JPEG over RTP carries no Huffman tables, so that only the standard ones can be used.
    let jpeg =
        film("film.avi", &["-c:v", "mjpeg", "-q:v", "4", "-pix_fmt", "yuvj420p", "-huffman", "default"]);
    for (name, launch) in [
        ("opencv, ffmpeg, RTSP H.264", format!("filesrc location={h264} ! qtdemux ! rtph264pay name=pay0")),
        ("opencv, ffmpeg, RTSP JPEG", format!("filesrc location={jpeg} ! avidemux ! rtpjpegpay name=pay0")),
    ] {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut server = rtsp::serve(port, Some(&launch));
        supervised(name, stream(format!("rtsp://127.0.0.1:{port}/ball"), Backend::Ffmpeg, true), span);
        server.kill().unwrap();
        server.wait().unwrap();
    }
    let pipeline = format!(
        "videotestsrc is-live=true pattern=ball ! video/x-raw,format=BGR,width={WIDTH},height={HEIGHT},\
         framerate={FPS}/1 ! appsink drop=true max-buffers=2"
    );
    supervised("opencv, gstreamer, its test picture", stream(pipeline, Backend::Gstreamer, true), span);
    supervised("opencv, ffmpeg, film H.264", stream(h264, Backend::Ffmpeg, false), span);
}

fn stream(url: String, backend: Backend, live: bool) -> Kind {
    Kind::Stream(stream::Settings { url, backend, live, open_timeout_ms: 5_000, read_timeout_ms: 2_000 })
}

fn in_process(dir: &Path, span: Duration) {
    let settings = simulator::Settings {
        camera: "cam1".into(),
        product: Product::by_name("machined-plate").unwrap(),
        seed: 1,
        width: WIDTH as usize,
        height: HEIGHT as usize,
        count: None,
        interval: None,
    };
    let mut parts = Simulator::new(settings, Stop::default()).unwrap();
    let pictures = dir.join("pictures");
    std::fs::create_dir(&pictures).unwrap();
    let part = parts.next().unwrap().unwrap();
    for i in 0..(span + WARM_UP).as_secs() * 200 {
        let path = pictures.join(format!("{i:06}.jpg"));
        if i == 0 {
            part.pixels.save(&path).unwrap();
        } else {
            std::fs::hard_link(pictures.join("000000.jpg"), path).unwrap();
        }
    }
    measure("folder, JPEG", Folder::once("cam1", &pictures, Stop::default()).unwrap(), span);
    measure("simulator", parts, span);
}

fn supervised(name: &str, kind: Kind, span: Duration) {
    let settings = Settings {
        camera: "cam1".into(),
        kind,
        key_frames: Policy::All,
        correction: Correction::default(),
        latency_ms: 0,
    };
    // A test picture may stand still, which is what a frozen camera looks like.
    let limits = Limits { frozen: Duration::ZERO, ..Limits::default() };
    let report = Box::new(|report| {
        if let Report::Fault { reason } = report {
            eprintln!("{reason}");
        }
    });
    let camera =
        Supervised::new(settings, program("capture"), limits, false, Stop::default(), report).unwrap();
    measure(name, camera, span);
}

/// Takes every frame for `span` and prints one line.
fn measure(name: &str, mut source: impl Source, span: Duration) {
    let mut take = |until: Instant| source.take(Want::by(until)).unwrap();
    take(Instant::now() + PATIENCE).expect("it begins");
    let warm = Instant::now() + WARM_UP;
    while Instant::now() < warm {
        take(Instant::now() + PATIENCE).expect("it goes on");
    }
    let (began, before) = (Instant::now(), Cpu::now());
    let mut frames = 0_u32;
    while began.elapsed() < span {
        let Some(frame) = take(Instant::now() + PATIENCE) else { break };
        assert_eq!(frame.pixels.dimensions(), (WIDTH, HEIGHT), "{name}");
        frames += 1;
    }
    let (elapsed, after) = (began.elapsed(), Cpu::now());
    let per_frame = |seconds: f64| seconds * 1e3 / f64::from(frames);
    let (child, here) = (per_frame(after.child - before.child), per_frame(after.here - before.here));
    println!(
        "{name:<34} {:>8.1} {child:>14.1} {here:>14.1} {:>7.0} %",
        f64::from(frames) / elapsed.as_secs_f64(),
        (child + here) * f64::from(FPS) / 10.0,
    );
}

/// Seconds of processor time so far, of this process and of its capture children that live.
struct Cpu {
    here: f64,
    child: f64,
}

impl Cpu {
    fn now() -> Self {
        let mut child = 0.0;
        for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
            let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            for pid in children.split_whitespace() {
                let role = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
                if role.split(|b| *b == 0).any(|entry| entry == format!("{ROLE}=capture").as_bytes()) {
                    child += processor_s(pid);
                }
            }
        }
        Self { here: processor_s("self"), child }
    }
}

/// User and system time of a process, the fourteenth and fifteenth word of its `stat`.
fn processor_s(pid: &str) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, rest) = stat.rsplit_once(')').unwrap();
    let words: Vec<&str> = rest.split_whitespace().collect();
    // SAFETY: asks for a constant.
    let ticks_a_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64;
    (words[11].parse::<f64>().unwrap() + words[12].parse::<f64>().unwrap()) / ticks_a_second
}
