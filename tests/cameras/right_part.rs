//! P13, right part: no part is judged on another part's picture, or on one that was not exposed in its window.
//!
//! ```text
//! line: part k comes, trigger k, part k leaves --> the picture of the moment shows k
//! source: folder, simulator, scripted device (free-running, by order), fake GigE camera
//! faults: pictures lost, late on their way, early, doubled, broken; capture processes that crash
//! window.take --> a picture: it must show k; or none: the part is a review
//! ```
//!
//! `SOAK=full` triggers 10,000 parts in all.

use super::*;
use inspectd::camera::device::{Device, DeviceError, Picture, Reading};
use inspectd::camera::kind::folder::{FileTime, Folder, Untracked};
use inspectd::camera::kind::simulator::{self, Simulator};
use inspectd::camera::window::{Rule, Stamps, Taken, Window};
use inspectd::simulator::Product;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

/// Triggers of each of the five sources: 10,000 in all at the full count.
const TRIGGERS: usize = 60;
const TRIGGERS_FULL: usize = 2_000;

/// What became of the parts of one source.
#[derive(Debug, Default)]
struct Figures {
    parts: usize,
    own: usize,
    without: usize,
    wrong: usize,
}

/// Part number as grey values that survive any decoder of pixels: 16 bits in columns.
fn coded(part: u32) -> RgbImage {
    RgbImage::from_fn(64, 48, |x, y| match (part >> (x / 4)) & 1 {
        1 => Rgb([230, 230, 200 + (y % 8) as u8]),
        _ => Rgb([20, 20, 10 + (y % 8) as u8]),
    })
}

fn part_of(pixels: &RgbImage) -> u32 {
    (0..16).map(|bit| u32::from(pixels.get_pixel(bit * 4 + 2, 24).0[0] > 128) << bit).sum()
}

/// A number in 0..1 that depends on the part alone.
fn chance(part: usize, salt: u64) -> f64 {
    let mut x =
        (part as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ salt.wrapping_mul(0xD1B5_4A32_D192_ED03);
    x = (x ^ (x >> 31)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    ((x ^ (x >> 29)) >> 11) as f64 / (1_u64 << 53) as f64
}

/// Serves triggers as a camera's thread does, one after the other, until the line has ended.
fn serve(
    source: &mut dyn Source,
    rule: Rule,
    triggers: &Mutex<VecDeque<(usize, Instant)>>,
    over: &AtomicBool,
    mut judge: impl FnMut(usize, Instant, &Frame) -> bool,
) -> Figures {
    let (mut window, mut figures) = (Window::new(rule), Figures::default());
    loop {
        let Some((part, received)) = triggers.lock().unwrap().pop_front() else {
            if over.load(Ordering::Acquire) && triggers.lock().unwrap().is_empty() {
                return figures;
            }
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        let next = || triggers.lock().unwrap().front().map(|(_, received)| *received);
        figures.parts += 1;
        match window.take(source, received, received.checked_add(PATIENCE), &next) {
            Taken::Frame(frame) if judge(part, received, &frame) => figures.own += 1,
            Taken::Frame(frame) => {
                figures.wrong += 1;
                println!("part {part} was given the picture of part {}", part_of(&frame.pixels));
            }
            Taken::Nothing(_) | Taken::Late => figures.without += 1,
            Taken::Over => panic!("the source goes on"),
        }
    }
}

/// The moving line: what stands before the camera, and who is told of it.
fn line(
    parts: usize,
    cycle: impl Fn(usize) -> Duration,
    stay: Duration,
    place: &Path,
    trigger: impl Fn(usize),
) {
    let put = |part: usize| {
        let new = place.with_extension("new");
        std::fs::write(&new, part.to_string()).unwrap();
        std::fs::rename(&new, place).unwrap();
    };
    for part in 1..=parts {
        put(part);
        trigger(part);
        std::thread::sleep(stay);
        put(0);
        std::thread::sleep(cycle(part).saturating_sub(stay));
    }
}

/// A device that shows what stands before it, and whose pictures get lost, late, doubled and broken.
pub(crate) struct LineDevice {
    place: PathBuf,
    by_order: bool,
    exposures: u64,
    /// Pictures on their way, with the moment of their arrival.
    coming: Vec<(Instant, Result<Picture, String>)>,
    next_free: Instant,
}

impl LineDevice {
    pub(crate) fn new(place: &Path, by_order: bool) -> Self {
        Self { place: place.into(), by_order, exposures: 0, coming: vec![], next_free: Instant::now() }
    }

    fn before_it(&self) -> u32 {
        std::fs::read_to_string(&self.place).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    fn make(&mut self) {
        // What stood there before and after the moment of the exposure.
        let (part, stamp) = loop {
            let (before, stamp) = (self.before_it(), Stamp::now());
            if before == self.before_it() {
                break (before, stamp);
            }
        };
        self.exposures += 1;
        let number = self.exposures;
        let picture = || Picture { pixels: coded(part), stamp, number };
        let ms = |ms: f64| Instant::now() + Duration::from_micros((ms * 1e3) as u64);
        let fate = chance(number as usize, u64::from(std::process::id()));
        match fate {
            f if f < 0.04 => {}
            f if f < 0.08 => self.coming.push((ms(120.0), Ok(picture()))),
            f if f < 0.12 => {
                self.coming.push((ms(1.0), Ok(picture())));
                self.coming.push((ms(60.0), Ok(picture())));
            }
            f if f < 0.16 => self.coming.push((ms(1.0), Err("packets are missing".into()))),
            f if f < 0.163 && number > 20 => panic!("a driver crashed"),
            _ => self.coming.push((ms(0.5 + 4.0 * chance(number as usize, 7)), Ok(picture()))),
        }
    }
}

impl Device for LineDevice {
    fn next(&mut self, wait: Duration) -> Result<Reading, DeviceError> {
        let until = Instant::now() + wait.min(Duration::from_millis(5));
        loop {
            let now = Instant::now();
            if !self.by_order && now >= self.next_free {
                self.next_free = now + Duration::from_millis(4);
                self.make();
            }
            if let Some(at) = self.coming.iter().position(|(arrival, _)| *arrival <= now) {
                return Ok(match self.coming.swap_remove(at).1 {
                    Ok(picture) => Reading::Picture(picture),
                    Err(reason) => Reading::Broken(reason),
                });
            }
            if now >= until {
                return Ok(if self.by_order { Reading::Idle } else { Reading::Late });
            }
            std::thread::sleep(Duration::from_micros(300));
        }
    }

    fn expose(&mut self) -> Result<(), DeviceError> {
        if self.by_order {
            self.make();
        }
        Ok(())
    }

    fn exposes_on_order(&self) -> bool {
        self.by_order
    }
}

fn scripted_line(parts: usize, by_order: bool) -> Figures {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("place");
    std::fs::write(&place, "0").unwrap();
    let kind = Kind::V4l2(v4l2::Settings {
        device: place.clone(),
        width_px: None,
        height_px: None,
        fps: None,
        controls: BTreeMap::default(),
    });
    // Pictures that arrive out of order have stamps that do not rise, for which a child is ended, and a part that
    // stays away is no frozen camera.
    let limits = Limits { frozen: Duration::ZERO, restarts_per_hour: 100_000, ..Limits::default() };
    let began = Instant::now();
    let role = if by_order { "line by order" } else { "line" };
    let mut rig = Rig::new(kind, role, &place, Policy::All, limits);
    rig.ready(began);
    let ms = Duration::from_millis;
    let rule = Rule { within: Some(ms(25)), on_its_way: ms(40), stamps: Stamps::Exposure };
    let (triggers, over) = (Mutex::<VecDeque<(usize, Instant)>>::default(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let trigger = |part| triggers.lock().unwrap().push_back((part, Instant::now()));
            line(parts, |_| ms(50), ms(30), &place, trigger);
            over.store(true, Ordering::Release);
        });
        serve(&mut rig.camera, rule, &triggers, &over, |part, _, frame| {
            part_of(&frame.pixels) as usize == part
        })
    })
}

/// Files that are lost, late, early, doubled, cut, and written slowly.
fn folder_line(parts: usize) -> Figures {
    let dir = tempfile::tempdir().unwrap();
    let ms = Duration::from_millis;
    let rule = Rule { within: Some(ms(150)), on_its_way: ms(900), stamps: Stamps::Arrival };
    let mut source =
        Folder::watch("cam1", dir.path(), FileTime::Arrival, Box::new(Untracked), Stop::default());
    // A look before the first trigger, as a station has had.
    let first = source.take(Want { after: Some(Instant::now()), by: Some(Instant::now() + ms(300)) });
    assert!(first.is_err());
    let write = |name: String, part: u32, cut: bool| {
        let mut bytes = std::io::Cursor::new(vec![]);
        coded(part).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
        let mut bytes = bytes.into_inner();
        if cut {
            bytes.truncate(bytes.len() / 2);
        }
        let new = dir.path().join(format!(".{name}"));
        std::fs::write(&new, bytes).unwrap();
        std::fs::rename(new, dir.path().join(name)).unwrap();
    };
    let (triggers, over) = (Mutex::<VecDeque<(usize, Instant)>>::default(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut late: Option<u32> = None;
            for part in 1..=parts {
                let (fate, code) = (chance(part, 1), part as u32);
                let after = |ms: u64| std::thread::sleep(Duration::from_millis(ms));
                let early = fate < 0.04;
                if early {
                    write(format!("{part}-early"), code, false);
                    after(20);
                }
                triggers.lock().unwrap().push_back((part, Instant::now()));
                after(10);
                // What is late comes before the own picture of the next part, in its window.
                if let Some(late) = late.take() {
                    write(format!("{late}-late"), late, false);
                    after(10);
                }
                match fate {
                    _ if early => {}
                    f if f < 0.08 => {}
                    f if f < 0.12 => late = Some(code),
                    f if f < 0.16 => {
                        write(format!("{part}-a"), code, false);
                        after(20);
                        write(format!("{part}-b"), code, false);
                    }
                    f if f < 0.20 => write(format!("{part}-cut"), code, true),
                    _ => write(format!("{part}-good"), code, false),
                }
                // The line has gaps, after which nothing of before is on its way.
                after(200);
                if part % 5 == 0 {
                    if let Some(late) = late.take() {
                        write(format!("{late}-late"), late, false);
                    }
                    after(280);
                }
            }
            over.store(true, Ordering::Release);
        });
        serve(&mut source, rule, &triggers, &over, |part, _, frame| part_of(&frame.pixels) as usize == part)
    })
}

/// GigE Vision numbers pictures from 1 to this, and begins again.
const GIGE_NUMBERS: i64 = 65_535;

/// Each picture is the one that its own order made: it was exposed after it, and its number says so. Numbers rise by
/// one an order, whatever came broken; a camera that makes nothing of an order falls behind by one, with a part that
/// has no picture. A picture of a former order would fall behind, too, and the next of its own would not.
fn gige_line(parts: usize) -> Figures {
    let _alone = one_gige_at_a_time();
    let _camera = lossy_gige();
    let began = Instant::now();
    let mut rig = Rig::real(genicam("Mono8", Exposure::Software));
    rig.ready(began);
    let ms = Duration::from_millis;
    let rule = Rule { within: Some(ms(200)), on_its_way: ms(400), stamps: Stamps::Exposure };
    let (mut window, mut figures) = (Window::new(rule), Figures::default());
    let (mut offset, mut without_before) = (None, 0);
    for part in 1..=parts {
        let received = Instant::now();
        figures.parts += 1;
        match window.take(&mut rig.camera, received, received.checked_add(PATIENCE), &|| None) {
            Taken::Frame(frame) => {
                let number: i64 = frame.origin.rsplit(':').next().unwrap().parse().unwrap();
                let found = (number - part as i64).rem_euclid(GIGE_NUMBERS);
                let fallen = (offset.unwrap_or(found) - found).rem_euclid(GIGE_NUMBERS);
                let unmade = figures.without as i64 - without_before;
                let own = fallen <= unmade && frame.captured >= received;
                (offset, without_before) = (Some(found), figures.without as i64);
                figures.own += usize::from(own);
                figures.wrong += usize::from(!own);
            }
            Taken::Nothing(_) | Taken::Late => figures.without += 1,
            Taken::Over => panic!("the camera goes on"),
        }
    }
    figures
}

/// Every order renders a part of its own.
fn simulated_line(parts: usize) -> Figures {
    let settings = simulator::Settings {
        camera: "cam1".into(),
        product: Product::by_name("machined-plate").unwrap(),
        seed: 5,
        width: 64,
        height: 64,
        count: None,
        interval: None,
    };
    let mut source = Simulator::new(settings, Stop::default()).unwrap();
    let rule = Rule { within: None, on_its_way: Duration::from_secs(1), stamps: Stamps::Order };
    let (triggers, over) = (Mutex::<VecDeque<(usize, Instant)>>::default(), AtomicBool::new(true));
    triggers.lock().unwrap().extend((0..parts).map(|part| (part, Instant::now())));
    serve(&mut source, rule, &triggers, &over, |part, received, frame| {
        frame.origin.ends_with(&format!(":{part}")) && frame.captured >= received
    })
}

#[test]
fn p13_no_part_is_judged_on_another_parts_picture() {
    let parts = soak::count(TRIGGERS, TRIGGERS_FULL);
    let began = Instant::now();
    let figures = std::thread::scope(|scope| {
        type Line = Box<dyn FnOnce() -> Figures + Send>;
        let sources: [(&str, Line); 5] = [
            ("folder", Box::new(move || folder_line(parts))),
            ("free-running", Box::new(move || scripted_line(parts, false))),
            ("by order", Box::new(move || scripted_line(parts, true))),
            ("GigE", Box::new(move || gige_line(parts))),
            ("simulator", Box::new(move || simulated_line(parts))),
        ];
        let running = sources.map(|(name, run)| (name, scope.spawn(run)));
        running.map(|(name, thread)| (name, thread.join().unwrap()))
    });
    soak::report(&format!("P13: {figures:#?}, {:.0} s", began.elapsed().as_secs_f64()));
    for (name, f) in &figures {
        assert_eq!((f.parts, f.wrong), (parts, 0), "{name}");
        assert_eq!(f.own + f.without, parts, "{name}: each part has one outcome");
        assert!(3 * f.own > parts, "{name}: most faults cost one part, and not the line: {f:?}");
    }
}
