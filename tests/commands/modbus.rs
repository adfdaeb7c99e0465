//! PLCs at the real binary: the handshake from the trigger to the result, by a client of our own, by pymodbus and by
//! mbpoll; what is refused, and by which exception.

use crate::broker::{Broker, until};
use crate::modbus::{Map, Plc, free_port};
use crate::peers;
use crate::station::{Station, signal, wait};
use crate::{SIMULATOR, camera};
use std::process::Command;

fn sections(port: u16, keys: &str) -> String {
    let modbus = format!(
        "[modbus]\nlisten = \"127.0.0.1:{port}\"\nrecipes = {{ 1 = \"examples-defects\", 2 = \"photo\" }}\n{keys}\n"
    );
    camera("cam1", SIMULATOR) + &camera("cam2", SIMULATOR) + &modbus
}

/// One part, as a PLC's program does it; its inspection's id.
fn inspect(plc: &mut Plc<'_>, part_id: &str) -> std::io::Result<String> {
    let map = plc.map;
    plc.until_bit("ready", true)?;
    plc.text("part_id", part_id)?;
    plc.control(&["enable", "trigger"])?;
    let acked = plc.until_bit("trigger_ack", true)?;
    plc.control(&["enable"])?;
    plc.until_bit("trigger_ack", false)?;
    let result = plc.until_bit("result_valid", true)?;
    assert_eq!(result.get(map, "result_trigger"), acked.get(map, "trigger_count"));
    assert_eq!(result.text(map, "part_id_echo"), part_id);
    assert!((1..=3).contains(&result.get(map, "verdict")));
    plc.control(&["enable", "result_ack"])?;
    let after = plc.until_bit("result_valid", false)?;
    assert_eq!((after.get(map, "verdict"), after.text(map, "part_id_echo")), (0, String::new()));
    plc.control(&["enable"])?;
    Ok(result.text(map, "inspection_id"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plc_triggers_parts_and_fetches_their_results() {
    let broker = Broker::start("", "").await;
    let port = free_port();
    let station = Station::new(broker.port, &sections(port, ""));
    let mut daemon = station.start();
    let map = Map::load();
    let ids = tokio::task::block_in_place(|| {
        let mut plc = Plc::connect_soon(&map, port, 1);
        let first = plc.until_bit("online", true).unwrap();
        assert!(!first.has(&map, "ready") && !first.has(&map, "result_valid"));
        assert_eq!((first.get(&map, "protocol"), first.get(&map, "recipe")), (1, 1));
        plc.control(&["enable"]).unwrap();
        let mut ids = vec![inspect(&mut plc, "P1").unwrap(), inspect(&mut plc, "P2").unwrap()];
        // The other camera is another unit, with a handshake of its own, which another client may have.
        let mut second = Plc::connect(&map, port, 2).unwrap();
        second.control(&["enable"]).unwrap();
        ids.push(inspect(&mut second, "P3").unwrap());
        // A recipe by its number; one that has none is refused.
        let wanted = map.at("recipe_wanted").0;
        plc.write(wanted, &[2]).unwrap().unwrap();
        plc.control(&["enable", "recipe_change"]).unwrap();
        let changed = plc.until_bit("command_ack", true).unwrap();
        assert_eq!(changed.get(&map, "recipe"), 2);
        plc.control(&["enable"]).unwrap();
        plc.write(wanted, &[9]).unwrap().unwrap();
        plc.control(&["enable", "recipe_change"]).unwrap();
        let refused = plc.until_bit("command_failed", true).unwrap();
        let code = refused.get(&map, "error_code") as usize;
        assert_eq!(map.json["error_codes"][code]["word"], "unknown_recipe");
        plc.control(&["enable"]).unwrap();
        ids
    });
    signal(daemon.id(), libc::SIGTERM);
    assert!(wait(&mut daemon, "SIGTERM is obeyed").await.success(), "{}", station.log());
    let log = station.log();
    assert!(log.contains("modbus:127.0.0.1"), "the command log names the door and its client: {log}");
    let store = station.store();
    for (id, part) in ids.iter().zip(["P1", "P2", "P3"]) {
        let stored = store.newest_first().map(Result::unwrap).find(|stored| stored.inspection.id == *id);
        assert_eq!(stored.expect(id).inspection.trigger.part_id.as_deref(), Some(part));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_plc_may_not_do_is_refused_with_the_exception_of_the_standard() {
    let broker = Broker::start("", "").await;
    let port = free_port();
    let keys = "connections = 2\nwatchdog_ms = 0\nunits = { cam2 = 1 }";
    let station = Station::new(broker.port, &sections(port, keys));
    let _daemon = station.start();
    let map = Map::load();
    tokio::task::block_in_place(|| {
        let mut plc = Plc::connect_soon(&map, port, 1);
        assert_eq!(plc.ask(&[1, 0, 0, 0, 1]).unwrap(), Err(1), "coils");
        assert_eq!(plc.ask(&[0x2b, 14, 1, 0]).unwrap(), Err(1), "the device's identification");
        assert_eq!(plc.read(3, 1000, 1).unwrap(), Err(2));
        assert_eq!(plc.write(0, &[1]).unwrap(), Err(2), "the station's words");
        assert_eq!(plc.read(3, 0, 126).unwrap(), Err(3));
        let control = map.at("control").0;
        assert_eq!(plc.write(control, &[0x8000]).unwrap(), Err(3), "no such bit");
        let mut nobody = Plc::connect(&map, port, 9).unwrap();
        assert_eq!(nobody.read(3, 0, 1).unwrap(), Err(11));
        // A third finds no place, until one of the two has left.
        let mut third = Plc::connect(&map, port, 1).unwrap();
        assert!(third.image().is_err(), "it is turned away");
        drop(nobody);
        plc.control(&["enable"]).unwrap();
        let mut third = loop {
            let mut third = Plc::connect(&map, port, 1).unwrap();
            if third.image().is_ok() {
                break third;
            }
            plc.image().unwrap();
        };
        assert!(third.control(&["enable"]).is_err(), "another client commands");
        assert_eq!(third.write(control, &[1]).unwrap(), Err(6));
        drop(plc);
        // The client has left, and its control word with it.
        third.until_bit("enabled", false).unwrap();
        third.control(&["enable"]).unwrap();
    });
}

/// What somebody else's client does: the same handshake, by its own registers and its own reading of the map.
#[tokio::test(flavor = "multi_thread")]
async fn pymodbus_and_mbpoll_read_the_same_registers() {
    let broker = Broker::start("", "").await;
    let port = free_port();
    let station = Station::new(broker.port, &sections(port, ""));
    let _daemon = station.start();
    let map = Map::load();
    let map_file = station.dir.path().join("map.json");
    std::fs::write(&map_file, map.json.to_string()).unwrap();
    let said = tokio::task::block_in_place(|| {
        Plc::connect_soon(&map, port, 1).until_bit("online", true).unwrap();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/commands/plc.py");
        let mut command = Command::new(peers::python());
        let out = command.arg(script).arg(&map_file).arg(port.to_string()).output().unwrap();
        assert!(out.status.success(), "{}\n{}", String::from_utf8_lossy(&out.stderr), station.log());
        String::from_utf8(out.stdout).unwrap()
    });
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["parts"], serde_json::json!(["PY1", "PY2", "PY3"]), "{said}");
    assert_eq!(said["exceptions"], serde_json::json!([1, 2, 3]), "{said}");
    let mut polled = Command::new("mbpoll");
    let port = port.to_string();
    polled
        .args(["-m", "tcp", "-0", "-1", "-o", "10", "-t", "3", "-a", "2", "-r", "0", "-c", "2", "-p", &port]);
    let out = polled.arg("127.0.0.1").output().expect("mbpoll is installed (.ci/install-deps)");
    let text = String::from_utf8_lossy(&out.stdout);
    let words =
        text.lines().filter_map(|line| line.strip_prefix('[')?.split_once("]:")?.1.split_whitespace().next());
    let words: Vec<&str> = words.collect();
    assert_eq!(words, ["1".to_owned(), said["epoch"].to_string()], "{text}");
    let results = parts_in_log(&station).await;
    for part in ["PY1", "PY2", "PY3"] {
        assert!(results.iter().any(|known| known == part), "{part} of {results:?}");
    }
}

/// The parts that a station says it has inspected, at least three.
async fn parts_in_log(station: &Station) -> Vec<String> {
    let path = station.dir.path().join("log");
    let mut parts = vec![];
    until("the log names the parts", || {
        let log = std::fs::read_to_string(&path).unwrap_or_default();
        let named = log.split("part=").skip(1).filter_map(|rest| rest.split_whitespace().next());
        parts = named.map(|part| part.trim_matches('"').to_owned()).collect();
        parts.len() >= 3
    })
    .await;
    parts
}
