//! Streams and films whose pictures are cut, damaged or change: what is handed out is what was sent, bit by bit, and
//! everything else is a broken picture or a fault. Read in this process, without the capture child.

#![cfg(feature = "ffmpeg")]

#[path = "common/film.rs"]
mod film;

use inspectd::camera::device::{BROKEN_MAX, Device, Reading};
use inspectd::camera::kind::Kind;
use inspectd::camera::kind::stream::{self, Backend};
use inspectd::simulator::{Product, part};
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A test that waits longer has failed.
const PATIENCE: Duration = Duration::from_mins(1);

fn device(url: &str, live: bool) -> Box<dyn Device> {
    let kind = Kind::Stream(stream::Settings {
        url: url.to_owned(),
        backend: Backend::Ffmpeg,
        live,
        open_timeout_ms: 20_000,
        read_timeout_ms: 20_000,
    });
    kind.open().expect("it opens")
}

/// What came of a stream until its end: pictures with their times, broken ones, and the fault.
#[derive(Default)]
struct Seen {
    pictures: Vec<(u64, image::RgbImage)>,
    broken: u32,
    fault: Option<String>,
}

fn watch(mut device: Box<dyn Device>) -> Seen {
    let (mut seen, began, mut first) = (Seen::default(), Instant::now(), None);
    while began.elapsed() < PATIENCE {
        match device.next(Duration::from_millis(100)) {
            Ok(Reading::Picture(picture)) => {
                let start = *first.get_or_insert(picture.stamp.monotonic_ns);
                seen.pictures.push((picture.stamp.monotonic_ns - start, picture.pixels));
            }
            Ok(Reading::Late) => seen.broken += 1,
            Ok(Reading::Ended) => return seen,
            Ok(other) => panic!("{other:?}"),
            Err(error) => {
                seen.fault = Some(error.to_string());
                return seen;
            }
        }
    }
    panic!("the stream does not end");
}

/// A moving picture as this codec in a transport stream, 3 s at 10 pictures a second.
fn film_of(dir: &Path, codec: &[&str], side: u32) -> PathBuf {
    let path = dir.join(format!("{}-{side}.ts", codec[0]));
    let status = Command::new("ffmpeg")
        .args(["-loglevel", "error", "-y", "-f", "lavfi", "-i"])
        .arg(format!("testsrc2=size={side}x{side}:rate=10:duration=3"))
        .args(["-pix_fmt", "yuv420p", "-g", "10", "-c:v"])
        .args(codec)
        .arg(&path)
        .stdin(Stdio::null())
        .status()
        .expect("ffmpeg is needed for this test: apt-get install ffmpeg");
    assert!(status.success(), "{codec:?}");
    path
}

const CODECS: [&[&str]; 3] =
    [&["mpeg2video", "-q:v", "3"], &["mjpeg", "-q:v", "3"], &["libx264", "-preset", "fast"]];

/// Bytes of a film are lost in places; whatever is still handed out is a picture of the whole film.
#[test]
fn a_damaged_film_gives_whole_pictures_only() {
    let dir = tempfile::tempdir().unwrap();
    // Damage inside a picture of H.264 may be another valid stream; the codes of these two give it away.
    for codec in &CODECS[..2] {
        let path = if codec[0] == "mjpeg" {
            film::film(dir.path(), "testsrc2", 3)
        } else {
            film_of(dir.path(), codec, 320)
        };
        let whole = std::fs::read(&path).unwrap();
        let clean = watch(device(path.to_str().unwrap(), false));
        assert_eq!((clean.pictures.len(), clean.broken, clean.fault), (30, 0, None), "{codec:?}");
        let (mut broken, mut kept) = (0, 0);
        for place in 0..12 {
            let at = whole.len() / 8 + (whole.len() * 3 / 4) * place / 12;
            let mut damaged = whole.clone();
            damaged[at..at + 150].fill(if place % 2 == 0 { 0 } else { 0x5a });
            let path = dir.path().join("damaged.film");
            std::fs::write(&path, &damaged).unwrap();
            let seen = watch(device(path.to_str().unwrap(), false));
            assert!(seen.pictures.len() < 30, "{codec:?}: {place}");
            for (at, pixels) in &seen.pictures {
                assert!(
                    clean.pictures.iter().any(|(_, whole)| whole == pixels),
                    "{codec:?} at {at} ns: nobody sent this"
                );
            }
            broken += seen.broken;
            kept += seen.pictures.len();
        }
        println!("{}: {kept} pictures kept, {broken} broken", codec[0]);
        assert!(broken > 0 && kept > 30, "{codec:?}: {broken} broken, {kept} kept");
    }
}

#[test]
fn pictures_that_shrink_are_a_fault() {
    let dir = tempfile::tempdir().unwrap();
    for codec in [CODECS[0], CODECS[2]] {
        let mut both = std::fs::read(film_of(dir.path(), codec, 512)).unwrap();
        both.extend(std::fs::read(film_of(dir.path(), codec, 64)).unwrap());
        let path = dir.path().join("both.ts");
        std::fs::write(&path, both).unwrap();
        let seen = watch(device(path.to_str().unwrap(), true));
        assert!(seen.pictures.iter().all(|(_, p)| p.dimensions() == (512, 512)), "{codec:?}");
        let fault = seen.fault.unwrap_or_default();
        assert!(fault.contains("changed from 512x512 to 64x64"), "{codec:?}: {fault}");
    }
}

/// Serves pictures as network cameras do, `multipart/x-mixed-replace`, to one viewer; returns the address.
fn serve(pictures: Vec<Vec<u8>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/stream.mjpg", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut viewer, _) = listener.accept().unwrap();
        let _ = viewer.read(&mut [0; 4096]);
        let head = "HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n";
        let mut sent = viewer.write_all(head.as_bytes());
        for picture in pictures {
            let part =
                format!("--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {}\r\n\r\n", picture.len());
            sent = sent.and_then(|()| viewer.write_all(&[part.as_bytes(), &picture, b"\r\n"].concat()));
        }
        // The viewer may have had enough.
        drop(sent);
    });
    address
}

fn jpeg_of_part(i: u64) -> Vec<u8> {
    let (rgb, _) = part(&Product::ALL[0], 1, i, 320, 256);
    let mut jpeg = vec![];
    let pixels = image::RgbImage::from_raw(320, 256, rgb).unwrap();
    image::codecs::jpeg::JpegEncoder::new_with_quality(&mut jpeg, 85).encode_image(&pixels).unwrap();
    jpeg
}

/// Cut at a share of its length, and closed with an end marker or not.
fn cut(jpeg: &[u8], percent: usize, is_closed: bool) -> Vec<u8> {
    let end: &[u8] = if is_closed { &[0xff, 0xd9] } else { &[] };
    [&jpeg[..jpeg.len() * percent / 100], end].concat()
}

#[test]
fn a_network_camera_whose_pictures_are_cut_gives_none_and_is_a_fault() {
    for is_closed in [true, false] {
        // The stream is only known as one by its first picture.
        let cut = (1..30).map(|i| cut(&jpeg_of_part(i), 10 + 3 * i as usize, is_closed));
        let seen = watch(device(&serve(std::iter::once(jpeg_of_part(0)).chain(cut).collect()), true));
        assert!(seen.pictures.len() <= 1, "{} pictures", seen.pictures.len());
        let fault = seen.fault.unwrap_or_default();
        assert!(
            fault.contains("in a row were broken") && seen.broken == BROKEN_MAX,
            "{}: {fault}",
            seen.broken
        );
    }
}

#[test]
fn a_cut_picture_between_whole_ones_is_left_out() {
    let pictures = (0..9).map(|i| if i % 3 == 1 { cut(&jpeg_of_part(i), 50, true) } else { jpeg_of_part(i) });
    let seen = watch(device(&serve(pictures.collect()), true));
    assert_eq!((seen.pictures.len(), seen.broken), (6, 3));
    assert!(seen.fault.is_some(), "a live stream that ends is a fault");
}
