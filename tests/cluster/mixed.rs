//! A bank in the box as the gate before servers: what it calls normal nobody asks, and no server is needed for it.

use super::PIT;
use crate::broker::{Broker, Subscriber, until};
use crate::desk::{Desk, json, run};
use crate::scripted::{Script, Server};
use crate::station::{PREFIX, Station, results, wait};
use serde_json::Value;

/// Where the bank is sure, the servers are not asked.
const RECIPE: &str = concat!(
    include_str!("../common/plate.toml"),
    r#"[[prompt]]
id = "surface"
kind = "defects"
labels = ["pit"]
text = "Find {labels}."
skip = { by = "like-good-parts", below = 0.5 }
"#
);
const SIZE: [&str; 6] = ["--width", "816", "--height", "684", "--product", "machined-plate"];
/// Tiles of a part.
const TILES: u64 = 4;

/// A recipe that has learned from good parts, and parts that it does not know.
fn desk() -> (Desk, String) {
    let desk = Desk::new("plate", "references", RECIPE);
    let good = desk.simulate("good", 32, 61, &SIZE);
    json(&desk.learn(&good, &[]));
    let parts = desk.simulate("parts", 10, 62, &SIZE);
    (desk, format!("{parts}/images"))
}

/// A station whose camera is the folder with the parts, and whose questions are the server's.
fn station(port: u16, desk: &Desk, pictures: &str, server: &Server) -> Station {
    let camera = format!(
        "[[camera]]\nid = \"cam1\"\nsource = \"folder\"\nwatch = false\npath = {pictures:?}\npipeline = \"plate\"\n"
    );
    let station = Station::new(port, &camera);
    station
        .edit("[model]\n", &format!("[model]\nremote = [{:?}]\nremote_for = \"questions\"\n", server.url()));
    let text = std::fs::read_to_string(station.config()).expect("the config reads");
    let line = text.lines().find(|line| line.starts_with("pipelines_dir")).expect("it names the recipes");
    station.edit(line, &format!("pipelines_dir = {:?}", desk.path("")));
    station
}

/// A part's tiles that no server was asked about.
fn skipped(result: &Value) -> u64 {
    result["tiles"]["skipped"].as_u64().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_are_asked_what_the_bank_doubts_and_without_them_the_rest_is_a_review() {
    let (desk, pictures) = desk();
    let mut server = Server::start(Script::says(PIT, 0.99));
    let broker = Broker::start("", "").await;
    let subscriber = Subscriber::new(broker.port, PREFIX).await;
    let both = station(broker.port, &desk, &pictures, &server);
    assert!(wait(&mut both.start(), "the folder is done").await.success(), "{}", both.log());
    until("ten results", || results(&subscriber.heard()).len() == 10).await;
    let first = results(&subscriber.heard());
    let all_skipped = first.iter().filter(|r| skipped(r) == TILES).count();
    assert!((1..10).contains(&all_skipped), "some parts pass the gate, and some do not: {first:#?}");
    let asked = 10 * TILES - first.iter().map(skipped).sum::<u64>();
    assert_eq!(
        server.asked() as u64,
        asked,
        "a tile that is not skipped is one question, and no other is asked"
    );
    for result in &first {
        let name = result["model"]["name"].as_str().unwrap();
        assert!(
            name.contains("qwen (remote, vllm") && name.ends_with("with features of inspectd-small"),
            "{name}"
        );
        // The server sees a pit in whatever it is shown. What the bank itself finds is not its business here.
        let has_pit = result["findings"].as_array().unwrap().iter().any(|f| f["label"] == "pit");
        assert_eq!(has_pit, skipped(result) < TILES, "{result}");
    }

    server.kill();
    let alone = station(broker.port, &desk, &pictures, &server);
    assert!(wait(&mut alone.start(), "the folder is done again").await.success(), "{}", alone.log());
    until("twenty results", || results(&subscriber.heard()).len() == 20).await;
    for (before, result) in first.iter().zip(&results(&subscriber.heard())[10..]) {
        // A part that needs a server is a review at once: the gate may not have looked at all of its tiles.
        if skipped(before) == TILES {
            assert_eq!(skipped(result), TILES, "the gate needs no server");
            assert_eq!((&result["verdict"], &result["reason"]), (&before["verdict"], &before["reason"]));
        } else {
            assert_eq!(result["verdict"], "review", "{result}");
            let reason = result["reason"].as_str().unwrap();
            assert!(reason.contains(&server.port.to_string()), "{reason}");
        }
    }
    assert!(alone.log().contains("the line begins without a model"), "{}", alone.log());
}

#[test]
fn commands_ask_both_and_say_so() {
    let (desk, pictures) = desk();
    let server = Server::start(Script::says("[]", 0.99));
    let station = station(9, &desk, &pictures, &server);
    let (config, recipe) = (station.config().display().to_string(), desk.recipe());
    let picture = format!("{pictures}/000001.png");
    let result = json(&run(&["inspect", "--json", "--config", &config, "--pipeline", &recipe, &picture]));
    assert!(result["model"]["name"].as_str().unwrap().contains("with features of"), "{result}");
    assert_eq!(server.asked() as u64, TILES - skipped(&result));
    let checked = run(&["check", "--config", &config]);
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(
        checked.status.success() && said.contains("the features of pictures are those of the files"),
        "{said}"
    );
    // Without its own files the station could not compare features at all.
    station.edit("remote_for = \"questions\"\n", "");
    let text = std::fs::read_to_string(station.config()).expect("the config reads");
    let lines: Vec<&str> =
        text.lines().filter(|l| !l.starts_with("text = ") && !l.starts_with("mmproj = ")).collect();
    std::fs::write(station.config(), lines.join("\n")).expect("writes");
    let checked = run(&["check", "--config", &config]);
    let said =
        [checked.stdout, checked.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(!checked.status.success() && said.contains("remote_for = \"questions\""), "{said}");
}
