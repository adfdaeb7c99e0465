//! Whose word an export is, and what a replay takes of it; the proof of the store over HTTP.

use super::decisions::{inspectd, reviews};
use super::inspections::id;
use super::server::{Server, part};
use inspectd::web::auth::Role;
use serde_json::{Value, json};

/// The words of a list under a key.
fn words<'v>(of: &'v Value, key: &str) -> Vec<&'v str> {
    of.as_array().unwrap().iter().map(|one| one[key].as_str().unwrap()).collect()
}

#[test]
fn an_export_says_whose_each_box_is_and_a_replay_takes_only_peoples_word() {
    let server = Server::start(5);
    let decide = |n: u64, body: &Value| {
        let made = server.post(&reviews(n), Role::Operator, body);
        assert_eq!(made.status, 201, "{}", made.head);
    };
    // Part 1 is confirmed as it is; in part 4 the model's box stays, and a person draws another.
    decide(1, &json!({"verdict": "fail"}));
    decide(
        4,
        &json!({"verdict": "fail", "findings": [
            {"label": "scratch", "severity": "major", "bbox_px": [60.4, 40, 130, 90]},
            {"label": "dent", "severity": "major", "bbox_px": [10, 100, 60, 160]}]}),
    );
    let coco = server.get("/api/v1/export?format=coco", Role::Operator).json();
    let annotations = coco["annotations"].as_array().unwrap();
    assert!(annotations.iter().all(|a| a["segmentation"] == json!([])), "{coco}");
    let drawn: Vec<&Value> = annotations.iter().filter(|a| a["box_source"] == "operator").collect();
    assert_eq!((drawn.len(), &drawn[0]["bbox"]), (1, &json!([10.0, 100.0, 50.0, 60.0])), "{coco}");

    let tar = server.get("/api/v1/export?format=jsonl&all=true", Role::Operator);
    let unpacked = tempfile::tempdir().unwrap();
    tar::Archive::new(tar.body.as_slice()).unpack(unpacked.path()).unwrap();
    let file = unpacked.path().join("truth.jsonl");
    let lines: Vec<Value> = std::fs::read_to_string(&file)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let line = |seq: u64| lines.iter().find(|line| line["seq"] == seq).unwrap();
    assert_eq!(words(&line(1)["defects"], "box_source"), ["model"]);
    assert_eq!(words(&line(4)["defects"], "box_source"), ["model", "operator"]);
    let sources = [1, 4, 5].map(|seq| line(seq)["source"].as_str().unwrap());
    assert_eq!(sources, ["operator", "operator", "model"]);
    assert_eq!(line(5)["text_source"], "model", "nobody has read it again");

    let replay = || {
        let dir = unpacked.path().display().to_string();
        let out = inspectd(&["replay", &dir, "--pipeline", "examples-defects", "--json"]);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        (out, said)
    };
    let (out, said) = replay();
    assert!(out.status.success(), "{said}");
    assert!(said.contains("3 images that nobody has decided about are left out"), "{said}");
    assert!(said.contains("2 boxes are as a model drew them"), "{said}");
    let figures: Value = serde_json::from_slice(&out.stdout).unwrap();
    let count = |truth: &str| -> u64 {
        let of = &figures["image"]["by_truth"][truth];
        ["pass", "fail", "review"].iter().map(|verdict| of[verdict].as_u64().unwrap()).sum()
    };
    assert_eq!((count("defective"), count("clean"), &figures["images"]), (2, 0, &json!(2)), "{figures}");
    assert!(said.contains("is \\ verdict  pass  fail  review"), "{said}");

    std::fs::write(&file, format!("{}\n", line(5))).unwrap();
    let (out, said) = replay();
    assert!(!out.status.success() && said.contains("nobody has decided about any part of it"), "{said}");
}

#[test]
fn an_engineer_proves_the_store_over_http() {
    let server = Server::start(3);
    let newest = server.store.commit(&part(4), None).unwrap().hash;
    assert_eq!(server.post(&reviews(2), Role::Operator, &json!({"verdict": "fail"})).status, 201);
    let prove = |query: &str| -> (Vec<Value>, Value) {
        let answer = server.get(&format!("/api/v1/verify{query}"), Role::Engineer);
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (200, Some("application/x-ndjson")),
            "{}",
            answer.head
        );
        let text = String::from_utf8(answer.body).unwrap();
        let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let summary = lines.pop().expect("a summary")["summary"].clone();
        (lines.into_iter().filter(|line| line["flaw"].is_object()).collect(), summary)
    };
    let (flaws, found) = prove("");
    assert_eq!(
        (flaws.len(), &found["whole"], &found["head_hash"]),
        (0, &json!(true), &json!(newest)),
        "{found}"
    );
    assert_eq!((&found["inspections"], &found["reviews"]["entries"]), (&json!(4), &json!(1)), "{found}");
    assert_eq!((&found["pictures"]["files"], &found["pictures"]["bad"]), (&json!(3), &json!(0)), "{found}");

    // The one picture that all three have.
    let detail = server.get(&format!("/api/v1/inspections/{}", id(1)), Role::Viewer).json();
    let path = server.store.image_path(detail["image"].as_str().unwrap()).unwrap();
    let mut other = std::fs::read(&path).unwrap();
    *other.last_mut().unwrap() ^= 1;
    std::fs::write(&path, other).unwrap();
    let (flaws, found) = prove("");
    assert_eq!((flaws.len(), &found["whole"], &found["pictures"]["bad"]), (3, &json!(false), &json!(3)));
    assert_eq!((&flaws[0]["flaw"]["seq"], &flaws[0]["flaw"]["state"]), (&json!(1), &json!("wrong")));
    let (flaws, ledgers) = prove("?pictures=false");
    assert_eq!((flaws.len(), &ledgers["whole"], &ledgers["pictures"]), (0, &json!(true), &json!(null)));
    assert_eq!(server.get("/api/v1/verify?pictures=maybe", Role::Engineer).status, 400);

    // The command at the box says the same.
    let (store, dir) = server.into_parts();
    drop(store);
    let store = dir.path().join("store").display().to_string();
    let out = inspectd(&["verify", "--store", &store, "--no-pictures"]);
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(
        out.status.success() && said.contains(&format!("the head hash of inspections is {newest}")),
        "{said}"
    );
}
