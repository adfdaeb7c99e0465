//! PLC: no result is taken for another part's, whatever program, network and station do.
//!
//! ```text
//! program --Modbus TCP--> the real binary --> simulator, a small model --> store
//!   '-- jitter, held acknowledgements, stuck bits, reconnects; kill -9 of the station
//! at the end: what each result said of its part = what the store says of the inspection that it named
//! ```
//!
//! The program knows a part by what the station echoes. The rig knows it by its own count of triggers, and by the store.

use crate::modbus::{Image, Map, Plc, free_port};
use crate::soak;
use inspectd::store::{Store, StoreOptions};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Parts of the short form.
const PARTS: usize = 60;
/// Parts between two kills of the station.
const PARTS_PER_KILL: usize = 200;
const KILLS_MIN: usize = 2;
/// Parts that a program leaves in the buffer before it fetches them, at most: more than there are places.
const HELD_MAX: usize = 13;

#[derive(Debug, Default)]
struct Figures {
    triggered: usize,
    results: usize,
    reviews: usize,
    /// Results that were not fetched: in a buffer at a kill or reset.
    unfetched: usize,
    dropped: usize,
    kills: usize,
    reconnects: usize,
    /// Results whose echo, trigger or stored inspection is another part's.
    wrong: usize,
    /// Counts that went back within one epoch, results that were shown twice.
    stale: usize,
}

/// A station with its config, started again after each kill.
struct Rig {
    dir: tempfile::TempDir,
    port: u16,
    process: Option<Child>,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let pipelines = dir.path().join("pipelines");
        std::fs::create_dir(&pipelines).expect("a folder");
        std::fs::write(pipelines.join("scripted.toml"), include_str!("../common/scripted.toml"))
            .expect("a file");
        let port = free_port();
        let sections = format!(
            "[[camera]]\nid = \"cam1\"\npipeline = \"scripted\"\nsource = \"simulator\"\nwidth_px = 64\nheight_px = 64\n\
             trigger = {{ on = \"command\" }}\n[modbus]\nlisten = \"127.0.0.1:{port}\"\nwatchdog_ms = 200\n"
        );
        let text = crate::config::config(&dir.path().join("store"), 9, &sections);
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines");
        let text = text.replace(&shipped.display().to_string(), &pipelines.display().to_string());
        std::fs::write(dir.path().join("inspectd.toml"), text).expect("a file");
        Self { dir, port, process: None }
    }

    fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    fn start(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.dir.path().join("log"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_inspectd"));
        command.arg("run").arg("--config").arg(self.dir.path().join("inspectd.toml"));
        command.env("INSPECTD_LOG", "warn").stdin(Stdio::null()).stderr(log.expect("a log"));
        self.process = Some(command.spawn().expect("the binary runs"));
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("a process of ours");
            process.wait().expect("it ends");
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The program of a PLC, and what it knows.
struct Program<'a> {
    map: &'a Map,
    port: u16,
    random: ChaCha8Rng,
    figures: Figures,
    parts: usize,
    /// Of this epoch: part ids by `trigger_count`.
    asked: BTreeMap<u32, String>,
    /// Inspections that were shown, and the part that they were shown for.
    shown: BTreeMap<String, String>,
    numbers: BTreeSet<u32>,
    epoch: Option<u32>,
    last: Option<(u32, u32)>,
}

impl<'a> Program<'a> {
    fn new(map: &'a Map, port: u16) -> Self {
        Self {
            map,
            port,
            random: ChaCha8Rng::seed_from_u64(7),
            figures: Figures::default(),
            parts: 0,
            asked: BTreeMap::new(),
            shown: BTreeMap::new(),
            numbers: BTreeSet::new(),
            epoch: None,
            last: None,
        }
    }

    fn jitter(&mut self) {
        let us = self.random.gen_range(0..3000);
        std::thread::sleep(Duration::from_micros(us));
    }

    fn chance(&mut self, of_100: u32) -> bool {
        self.random.gen_range(0..100) < of_100
    }

    /// A connection that commands, with all that is known of this epoch.
    fn connect(&mut self) -> io::Result<Plc<'a>> {
        let mut plc = Plc::connect_soon(self.map, self.port, 1);
        let image = plc.until_bit("online", true)?;
        let epoch = image.get(self.map, "epoch");
        if self.epoch.replace(epoch) != Some(epoch) {
            // Another start: nothing of before is valid.
            self.figures.stale += usize::from(image.has(self.map, "result_valid"));
            self.asked.clear();
            self.numbers.clear();
            self.last = None;
        }
        // The connection before may still be known to the station.
        let until = Instant::now() + Duration::from_mins(1);
        while let Err(error) = plc.control(&["enable"]) {
            if error.kind() != io::ErrorKind::ResourceBusy || Instant::now() > until {
                return Err(error);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        plc.until_bit("enabled", true)?;
        Ok(plc)
    }

    /// Looks at a state: counts never go back.
    fn see(&mut self, image: &Image) {
        let counts = (image.get(self.map, "trigger_count"), image.get(self.map, "result_count_long"));
        if let Some(last) = self.last.replace(counts) {
            self.figures.stale += usize::from(counts.0 < last.0 || counts.1 < last.1);
        }
    }

    fn trigger(&mut self, plc: &mut Plc<'a>, bits: &[&str]) -> io::Result<()> {
        plc.until_bit("ready", true)?;
        self.parts += 1;
        let part = format!("P{}", self.parts);
        plc.text("part_id", &part)?;
        self.jitter();
        let before = plc.image()?.get(self.map, "trigger_count");
        // It counts as asked before the frame is sent, as the frame may arrive and its answer not.
        self.asked.insert(before + 1, part);
        plc.control(&[bits, &["trigger"]].concat())?;
        self.figures.triggered += 1;
        let acked = plc.until_bit("trigger_ack", true)?;
        self.see(&acked);
        self.figures.wrong += usize::from(acked.get(self.map, "trigger_count") != before + 1);
        if self.chance(5) {
            // The bit is stuck for a while: nothing is triggered twice.
            std::thread::sleep(Duration::from_millis(30));
            let stuck = plc.image()?.get(self.map, "trigger_count");
            self.figures.wrong += usize::from(stuck != before + 1);
        }
        plc.control(bits)?;
        plc.until_bit("trigger_ack", false)?;
        Ok(())
    }

    fn fetch(&mut self, plc: &mut Plc<'a>) -> io::Result<()> {
        let image = plc.until_bit("result_valid", true)?;
        self.see(&image);
        self.jitter();
        let again = plc.image()?;
        let words = self.map.at("result_count").0 as usize..;
        self.figures.stale += usize::from(again.0[words.clone()] != image.0[words]);
        let map = self.map;
        let part = image.text(map, "part_id_echo");
        let expected = self.asked.get(&image.get(map, "result_trigger"));
        self.figures.wrong += usize::from(expected != Some(&part));
        self.figures.stale += usize::from(!self.numbers.insert(image.get(map, "result_count_long")));
        self.figures.reviews += usize::from(image.has(map, "review"));
        self.figures.results += 1;
        let id = image.text(map, "inspection_id");
        if !id.is_empty() {
            self.figures.stale += usize::from(self.shown.insert(id, part).is_some());
        }
        plc.control(&["enable", "result_ack"])?;
        let gone = plc.until_bit("result_valid", false)?;
        self.figures.stale += usize::from(!gone.text(map, "part_id_echo").is_empty());
        if self.chance(5) {
            // The acknowledgement is stuck: the next result waits for it.
            std::thread::sleep(Duration::from_millis(30));
            self.figures.stale += usize::from(plc.image()?.has(map, "result_valid"));
        }
        plc.control(&["enable"])
    }

    /// Some parts, each fetched at once or, now and then, all of them late.
    fn batch(&mut self, plc: &mut Plc<'a>) -> io::Result<usize> {
        let held = if self.chance(10) { self.random.gen_range(2..=HELD_MAX) } else { 1 };
        for _ in 0..held {
            self.trigger(plc, &["enable"])?;
        }
        let done = plc.until("all are inspected", |map, image| !image.has(map, "busy"))?;
        let dropped = done.get(self.map, "dropped") as usize;
        let waiting = 10 - done.get(self.map, "buffers_free") as usize;
        // What was in the buffer before this batch is fetched with it.
        for _ in 0..waiting {
            self.fetch(plc)?;
        }
        self.figures.stale += usize::from(plc.image()?.has(self.map, "result_valid"));
        self.figures.stale += usize::from(done.has(self.map, "overrun") != (dropped > 0));
        if dropped > 0 {
            self.figures.dropped += dropped;
            plc.control(&["enable", "reset"])?;
            plc.until_bit("reset_ack", true)?;
            plc.control(&["enable"])?;
        }
        Ok(held)
    }

    /// So many parts, over connections that end now and then in the middle of a part.
    fn run(&mut self, parts: usize) {
        let until = self.parts + parts;
        while self.parts < until {
            let mut plc = self.connect().expect("the station is there");
            while self.parts < until {
                if self.chance(3) {
                    self.figures.reconnects += 1;
                    if self.chance(50) {
                        self.trigger(&mut plc, &["enable"]).expect("it is there");
                    }
                    break;
                }
                self.batch(&mut plc).expect("the station is there");
            }
        }
    }
}

#[test]
fn plc_no_result_is_taken_for_another_parts() {
    let began = Instant::now();
    let parts = soak::count(PARTS, 10_000);
    let map = Map::load();
    let mut station = Rig::new();
    let mut program = Program::new(&map, station.port);
    let kills = (parts / PARTS_PER_KILL).max(KILLS_MIN);
    for round in 0..=kills {
        station.start();
        program.run(parts / (kills + 1) + 1);
        if round < kills {
            // A part is under way, or its result is on its way.
            let mut plc = program.connect().expect("the station is there");
            program.trigger(&mut plc, &["enable"]).expect("it is there");
            program.jitter();
            station.kill();
            program.figures.kills += 1;
        }
    }
    station.kill();
    let store = Store::open(&station.store(), StoreOptions::default()).expect("it opens");
    let mut stored = BTreeMap::new();
    for inspection in store.newest_first() {
        let inspection = inspection.expect("it reads").inspection;
        stored.insert(inspection.id, inspection.trigger.part_id.unwrap_or_default());
    }
    let another = program.shown.iter().filter(|(id, part)| stored.get(*id) != Some(part)).count();
    let f = &mut program.figures;
    f.wrong += another;
    f.unfetched = f.triggered - f.results - f.dropped;
    soak::report(&format!(
        "PLC: {} parts triggered, {} results fetched ({} reviews), {} dropped with an overrun, {} not fetched, {} kills, \
         {} reconnects: {} taken for another part's, {} stale, {:.0} s",
        f.triggered,
        f.results,
        f.reviews,
        f.dropped,
        f.unfetched,
        f.kills,
        f.reconnects,
        f.wrong,
        f.stale,
        began.elapsed().as_secs_f64()
    ));
    assert_eq!((f.wrong, f.stale), (0, 0));
    assert!(f.results > parts / 2 && f.triggered >= parts, "{f:?}");
}
