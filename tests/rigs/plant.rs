//! The plant: four clients of other makers watch one line at once, and are told the same of each part.
//!
//! ```text
//! pymodbus x 2 --trigger--> the real binary, two simulated cameras --Modbus----> pymodbus: verdicts of its parts
//!                              ^ kill -9 now and then              |--OPC UA----> asyncua: events, the newest, records
//!                                                                  |--MQTT------> mosquitto_sub
//!                                                                  '--Sparkplug-> aiospb
//! at the end: of each inspection and of each part, what any of the four and the store say; who lacks which
//! ```
//!
//! MQTT and Sparkplug are owed what is stored, and must have each accepted part. The client of OPC UA asks for what it has
//! missed, and must have each, too. A PLC may miss one part a kill; of none may anyone say what another does not.

use crate::broker::{Broker, until};
use crate::daemon::{PREFIX, Station};
use crate::modbus::{Map, free_port};
use crate::{peers, soak};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Parts of the short form, of both cameras together.
const PARTS: usize = 20;
const FULL: usize = 1000;
/// Kills of the short form: after a third of the parts, and after two.
const KILLS: usize = 2;
/// From a start to the next kill at the full count; a station that has accepted nothing yet is left alone.
const KILL_EVERY: Duration = Duration::from_secs(30);
const CAMERAS: [&str; 2] = ["cam1", "cam2"];
const GROUP: &str = "plant";
const HOST: &str = "rig-host";

/// What was said of one inspection: the camera, where the client knows it, the part, and the verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Said {
    camera: Option<String>,
    part: String,
    verdict: String,
}

impl Said {
    /// Whether both can be true.
    fn agrees(&self, other: &Self) -> bool {
        let cameras = self.camera.as_ref().zip(other.camera.as_ref());
        self.part == other.part && self.verdict == other.verdict && cameras.is_none_or(|(a, b)| a == b)
    }
}

/// What one client was told.
#[derive(Debug, Default)]
pub(crate) struct Told {
    by_inspection: BTreeMap<String, Said>,
    /// Verdicts without an inspection: a PLC's, of parts that were late.
    late: usize,
    /// The client says that it has subscribed.
    pub watching: bool,
    accepted: BTreeSet<String>,
    missed: BTreeSet<String>,
    /// Said twice, and not the same.
    changed: Vec<String>,
}

impl Told {
    /// Takes a line of a client in, by the names that its fields have there.
    fn take(&mut self, line: &Value, [id, part]: [&str; 2]) {
        let text = |key: &str| line[key].as_str().map(str::to_owned);
        self.watching |= line["watching"] == true;
        self.accepted.extend(text("accepted"));
        self.missed.extend(text("missed"));
        let Some(verdict) = text("verdict") else { return };
        let said = Said { camera: text("camera"), part: text(part).unwrap_or_default(), verdict };
        let Some(id) = text(id) else {
            self.late += 1;
            return;
        };
        let before = self.by_inspection.entry(id.clone()).or_insert_with(|| said.clone());
        if !before.agrees(&said) {
            self.changed.push(format!("{id}: {before:?}, then {said:?}"));
        }
    }

    fn parts(&self) -> BTreeSet<String> {
        self.by_inspection.values().map(|said| said.part.clone()).collect()
    }
}

/// A client's process, and what it was told so far.
pub(crate) struct Client {
    pub name: &'static str,
    child: Child,
    told: Arc<Mutex<Told>>,
}

impl Client {
    fn start(name: &'static str, mut command: Command, fields: [&'static str; 2]) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("a client starts");
        let lines = BufReader::new(child.stdout.take().expect("its output is a pipe")).lines();
        let told = Arc::new(Mutex::new(Told::default()));
        let taken = Arc::clone(&told);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let line = serde_json::from_str(&line).expect("a line of a client is JSON");
                taken.lock().expect("no panic").take(&line, fields);
            }
        });
        Self { name, child, told }
    }

    fn of_python(name: &'static str, arguments: &[&str]) -> Self {
        let mut command = Command::new(peers::python());
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rigs/plant.py")).args(arguments);
        Self::start(name, command, ["id", "part"])
    }

    pub(crate) fn look<T>(&self, look: impl FnOnce(&Told) -> T) -> T {
        look(&self.told.lock().expect("its lines are JSON"))
    }

    pub(crate) fn is_over(&mut self) -> bool {
        let ended = self.child.try_wait().expect("it can be asked");
        assert!(ended.is_none_or(|status| status.success()), "{} has failed", self.name);
        ended.is_some()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The sections of both cameras, which take triggers.
pub(crate) fn cameras() -> String {
    let camera = |(seed, id): (usize, &&str)| {
        format!(
            "[[camera]]\nid = \"{id}\"\npipeline = \"examples-defects\"\nsource = \"simulator\"\nwidth_px = 256\n\
             height_px = 256\nseed = {}\ntrigger = {{ on = \"command\" }}\n",
            seed + 1
        )
    };
    CAMERAS.iter().enumerate().map(camera).collect()
}

/// A station with both cameras and all servers.
pub(crate) struct Plant {
    pub station: Station,
    opcua: u16,
    pub modbus: u16,
}

impl Plant {
    pub(crate) fn new(broker: u16) -> Self {
        let (opcua, modbus) = (free_port(), free_port());
        let servers = format!(
            "[opcua]\nlisten = \"127.0.0.1:{opcua}\"\nanonymous = \"viewer\"\n\
             [modbus]\nlisten = \"127.0.0.1:{modbus}\"\nwatchdog_ms = 200\n\
             [sink.scada]\nkind = \"mqtt\"\ndialect = \"sparkplug\"\nurl = \"mqtt://127.0.0.1:{broker}\"\n\
             group_id = \"{GROUP}\"\nedge_node_id = \"st10\"\nprimary_host = \"{HOST}\"\nhost_lost_s = 1\n"
        );
        Self { station: Station::new(broker, &(cameras() + &servers)), opcua, modbus }
    }

    /// Those who watch.
    pub(crate) fn watchers(&self, broker: u16) -> [Client; 3] {
        let mut mqtt = Command::new("mosquitto_sub");
        mqtt.args(["-h", "127.0.0.1", "-p", &broker.to_string(), "-q", "1", "-F", "%p"]);
        mqtt.args(["-t", &format!("{PREFIX}/result")]);
        let url = format!("opc.tcp://127.0.0.1:{}/", self.opcua);
        [
            Client::start("mosquitto_sub", mqtt, ["inspection_id", "part_id"]),
            Client::of_python("aiospb", &["sparkplug", &broker.to_string(), GROUP, HOST]),
            Client::of_python("asyncua", &["opcua", &url, CAMERAS[0], CAMERAS[1]]),
        ]
    }

    /// Those who trigger, one a camera.
    fn plcs(&self, map: &Path, parts: usize, pace: Duration) -> Vec<Client> {
        let (map, port) = (map.display().to_string(), self.modbus.to_string());
        let (count, pace) = (parts.div_ceil(CAMERAS.len()).to_string(), pace.as_secs_f64().to_string());
        let plc = |(unit, name): (&str, &str)| {
            Client::of_python("pymodbus", &["modbus", &map, &port, unit, name, &count, &pace])
        };
        [("1", "A"), ("2", "B")].into_iter().map(plc).collect()
    }
}

/// What contradicts what, in words: an inspection of which two say different things, and a part with two inspections.
fn contradictions(witnesses: &[(&str, &Told)]) -> Vec<String> {
    let mut found: Vec<String> = vec![];
    let mut ids: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (at, (name, told)) in witnesses.iter().enumerate() {
        found.extend(told.changed.iter().map(|words| format!("{name}: {words}")));
        for (id, said) in &told.by_inspection {
            ids.entry(&said.part).or_default().insert(id);
            for (other, theirs) in &witnesses[..at] {
                let differs = theirs.by_inspection.get(id).filter(|known| !known.agrees(said));
                found.extend(differs.map(|known| format!("{id}: {name} {said:?}, {other} {known:?}")));
            }
        }
    }
    let twice = ids.into_iter().filter(|(_, ids)| ids.len() > 1);
    found.extend(twice.map(|(part, ids)| format!("{part} has {} inspections", ids.len())));
    found
}

/// What the store says at the end.
fn stored(station: &Station) -> Told {
    let mut told = Told::default();
    for stored in station.store().newest_first() {
        let inspection = stored.expect("it reads").inspection;
        let said = Said {
            camera: Some(inspection.camera),
            part: inspection.trigger.part_id.unwrap_or_default(),
            verdict: inspection.verdict.as_str().to_owned(),
        };
        told.by_inspection.insert(inspection.id, said);
    }
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plant_four_clients_are_told_the_same_of_each_part_whenever_the_station_is_killed() {
    let began = Instant::now();
    let parts = soak::count(PARTS, FULL);
    let is_short = parts <= PARTS;
    let pace = if is_short { Duration::from_millis(20) } else { Duration::from_secs(1) };
    let broker = Broker::start("", "").await;
    let plant = Plant::new(broker.port);
    let map = plant.station.dir.path().join("map.json");
    std::fs::write(&map, Map::load().json.to_string()).expect("a file");
    let mut daemon = plant.station.start();
    let mut watchers = plant.watchers(broker.port);
    until("asyncua has subscribed", || watchers[2].look(|told| told.watching)).await;
    let mut plcs = plant.plcs(&map, parts, pace);

    let (mut kills, mut started, mut known) = (0, Instant::now(), 0);
    while !plcs.iter_mut().all(Client::is_over) {
        assert!(!watchers.iter_mut().any(Client::is_over), "who watches goes on");
        let accepted: usize = plcs.iter().map(|plc| plc.look(|told| told.accepted.len())).sum();
        let due = if is_short {
            kills < KILLS && accepted > parts * (kills + 1) / (KILLS + 1)
        } else {
            started.elapsed() >= KILL_EVERY && accepted > known
        };
        if due {
            // Dropping it is kill -9.
            drop(daemon);
            (kills, started, known) = (kills + 1, Instant::now(), accepted);
            daemon = plant.station.start();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let accepted: BTreeSet<String> =
        plcs.iter().flat_map(|plc| plc.look(|told| told.accepted.clone())).collect();
    for watcher in &watchers {
        until(&format!("{} has every accepted part", watcher.name), || {
            watcher.look(|told| accepted.is_subset(&told.parts()))
        })
        .await;
    }
    drop(daemon);
    let stored = stored(&plant.station);
    report(&watchers, &plcs, &accepted, &stored, (kills, began));
}

fn report(
    watchers: &[Client; 3],
    plcs: &[Client],
    accepted: &BTreeSet<String>,
    stored: &Told,
    (kills, began): (usize, Instant),
) {
    let locked: Vec<_> = watchers
        .iter()
        .chain(plcs)
        .map(|client| (client.name, client.told.lock().expect("its lines are JSON")))
        .collect();
    let mut witnesses: Vec<(&str, &Told)> = locked.iter().map(|(name, told)| (*name, &**told)).collect();
    witnesses.push(("the store", stored));
    let contradictions = contradictions(&witnesses);
    let lost = accepted.difference(&stored.parts()).count();
    let count = |name: &str| -> usize {
        witnesses
            .iter()
            .filter(|(of, _)| *of == name)
            .map(|(_, told)| told.parts().intersection(accepted).count())
            .sum()
    };
    let (late, missed): (usize, usize) = (
        witnesses.iter().map(|(_, told)| told.late).sum(),
        witnesses.iter().map(|(_, told)| told.missed.len()).sum(),
    );
    let mut verdicts: BTreeMap<&str, usize> = BTreeMap::new();
    stored.by_inspection.values().for_each(|said| *verdicts.entry(&said.verdict).or_default() += 1);
    soak::report(&format!(
        "PLANT: {} parts accepted, {kills} kills: mosquitto_sub has {}, aiospb {}, asyncua {}, pymodbus {} ({missed} \
         missed with a kill, {late} late); stored as {verdicts:?}: {} contradictions, {lost} lost, {:.0} s",
        accepted.len(),
        count("mosquitto_sub"),
        count("aiospb"),
        count("asyncua"),
        count("pymodbus"),
        contradictions.len(),
        began.elapsed().as_secs_f64()
    ));
    assert_eq!((contradictions, lost), (vec![], 0));
    assert!(kills >= KILLS && verdicts.len() > 1, "{kills} kills, {verdicts:?}");
    assert!(missed <= kills * plcs.len(), "{missed} parts missed with {kills} kills");
    assert!(count("pymodbus") + missed + late >= accepted.len(), "a PLC has lost a part without a word");
}

#[test]
fn a_verdict_that_differs_and_a_part_with_two_inspections_are_contradictions() {
    let told = |lines: &[Value]| {
        let mut told = Told::default();
        lines.iter().for_each(|line| told.take(line, ["id", "part"]));
        told
    };
    let line =
        |id: &str, part: &str, verdict: &str| serde_json::json!({"id": id, "part": part, "verdict": verdict});
    let one = told(&[line("i1", "A1", "pass"), line("i1", "A1", "pass"), line("i2", "A2", "fail")]);
    let same =
        told(&[line("i2", "A2", "fail"), serde_json::json!({"id": null, "part": "A9", "verdict": "review"})]);
    assert_eq!((contradictions(&[("a", &one), ("b", &same)]), same.late), (vec![], 1));
    for (bad, words) in [
        (line("i1", "A1", "fail"), "i1: b"),
        (line("i1", "A2", "pass"), "i1: b"),
        (line("i3", "A1", "pass"), "A1 has 2"),
    ] {
        let found = contradictions(&[("a", &one), ("b", &told(&[bad]))]);
        assert!(found.iter().any(|found| found.contains(words)), "{found:?}");
    }
    assert_eq!(told(&[line("i1", "A1", "pass"), line("i1", "A1", "fail")]).changed.len(), 1);
}
