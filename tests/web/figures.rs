//! Figures and documents for people over HTTP: agreement, reports, findings as CSV, crops.

use super::inspections::id;
use super::server::{Server, commit, part};
use image::ImageReader;
use inspectd::domain::review::{Decided, Decision};
use inspectd::web::auth::Role;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::Cursor;

fn decide(server: &Server, n: u64, who: &str, verdict: Decided) {
    let last = server.store.review_state(n).unwrap().map(|s| s.last);
    let decision =
        Decision { verdict, reason: "looked".into(), note: String::new(), findings: None, texts: None };
    server.store.review(&id(n), who, decision, last).unwrap();
}

#[test]
fn two_people_and_the_model_are_compared_by_what_each_said_last() {
    let server = Server::start(6);
    // The model: 1 and 4 fail, 3 and 6 pass, 2 and 5 are open.
    for (n, anna, ben) in [
        (1, Decided::Fail, Decided::Fail),
        (3, Decided::Pass, Decided::Fail),
        (4, Decided::Fail, Decided::Fail),
        (5, Decided::Pass, Decided::Pass),
        (6, Decided::Pass, Decided::Pass),
    ] {
        decide(&server, n, "anna", anna);
        decide(&server, n, "ben", ben);
    }
    // What was taken back does not count: of part 6 ben says nothing.
    let last = server.store.review_state(6).unwrap().map(|s| s.last);
    server.store.undo_review(&id(6), "ben", "", last).unwrap();
    let study = server.get("/api/v1/agreement", Role::Viewer).json();
    let pair = |a: &str, b: &str| -> Value {
        let is = |p: &&Value| (p["a"] == a && p["b"] == b) || (p["a"] == b && p["b"] == a);
        study["pairs"].as_array().unwrap().iter().find(is).cloned().expect("the pair")
    };
    assert_eq!((&pair("anna", "ben")["parts"], &pair("anna", "ben")["agreed"]), (&json!(4), &json!(3)));
    assert_eq!((&pair("anna", "")["parts"], &pair("anna", "")["agreed"]), (&json!(4), &json!(4)));
    assert_eq!((&pair("ben", "")["parts"], &pair("ben", "")["agreed"]), (&json!(3), &json!(2)));
    // 1, 3 and 4 were rated by all three.
    assert_eq!((&study["together"]["parts"], &study["together"]["agreed"]), (&json!(3), &json!(2)));
    assert_eq!(study["parts_enough"], 50);
}

#[test]
fn a_report_counts_what_holds_and_lists_what_to_read_about() {
    let server = Server::start(6);
    let mut other = part(7);
    other.trigger.lot = Some("L9".into());
    commit(&server.store, &other);
    decide(&server, 3, "anna", Decided::Fail);
    decide(&server, 2, "anna", Decided::Pass);
    let report = server.get("/api/v1/report", Role::Viewer).json();
    // The model: 1, 4 and 7 fail, 3 and 6 pass, 2 and 5 are open; 3 was changed, 2 decided.
    let all = json!({"inspected": 7, "passed": 2, "rejected": 4, "open": 1, "decided": 2, "overridden": 1, "unseen": 0});
    assert_eq!(report["all"], all);
    let listed: Vec<&str> =
        report["listed"].as_array().unwrap().iter().filter_map(|l| l["part_id"].as_str()).collect();
    assert_eq!(listed, ["P7", "P5", "P4", "P3", "P1"], "newest first, without what simply passed");
    assert_eq!(report["lines"][0]["inspected"], 7);
    let lot = server.get("/api/v1/report?lot=L9", Role::Viewer).json();
    assert_eq!(
        (&lot["all"]["inspected"], &lot["lots"]),
        (&json!(1), &json!([{"lot": "L9", "inspected": 1}]))
    );
    assert_eq!(server.get("/api/v1/report?from=yesterday", Role::Viewer).status, 400);
}

#[test]
fn findings_are_lines_that_a_spreadsheet_reads_and_none_is_a_formula() {
    let server = Server::start(3);
    let decision = json!({"verdict": "fail", "findings": [
        {"label": "x;=1+1", "severity": "minor", "bbox_px": [1, 2, 30, 40]},
        {"label": "pit", "severity": "major", "bbox_px": [60, 40, 130, 90]}]});
    let made = server.post(&format!("/api/v1/inspections/{}/reviews", id(2)), Role::Operator, &decision);
    assert_eq!(made.status, 201, "{}", String::from_utf8_lossy(&made.body));
    let answer = server.get("/api/v1/export?format=findings", Role::Operator);
    assert!(answer.body.starts_with("\u{feff}seq,inspection_id,".as_bytes()), "{}", answer.head);
    let text = String::from_utf8(answer.body).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    // Part 3 has none, part 2 the person's two, part 1 the model's one.
    assert_eq!(lines.len(), 4, "{text}");
    assert!(lines[1].contains(",operator,\"x;'=1+1\",minor,,1.000,2.000,30.000,40.000,,,"), "{text}");
    assert!(lines[2].contains(",model,pit,major,reject,60.000,"), "the box that was left as it was: {text}");
    assert!(lines[3].contains(",model,scratch,") && lines[3].ends_with(",14.500,2.500,0.875"), "{text}");
    let inspections = server.get("/api/v1/export?format=csv", Role::Operator);
    assert!(inspections.body.starts_with(b"\xef\xbb\xbfseq,"), "{}", inspections.head);
}

/// Width and height of a picture.
fn size(jpeg: &[u8]) -> (u32, u32) {
    ImageReader::new(Cursor::new(jpeg)).with_guessed_format().unwrap().into_dimensions().unwrap()
}

#[test]
fn a_crop_shows_the_box_and_what_is_around_it() {
    let server = Server::start(1);
    let detail = server.get(&format!("/api/v1/inspections/{}", id(1)), Role::Viewer).json();
    assert_eq!(
        (&detail["worst_box"], &detail["inspected"]),
        (&json!([60.0, 40.0, 130.0, 90.0]), &json!(true))
    );
    let image = detail["image"].as_str().unwrap().to_owned();
    let crop = |place: &str| server.get(&format!("/api/v1/crops/{image}?{place}"), Role::Viewer);
    let shown = crop("x0=60&y0=40&x1=130&y1=90");
    assert_eq!(shown.status, 200, "{}", shown.head);
    assert_eq!(size(&shown.body), (140, 140), "twice the longer side");
    // At the edge, and as large as the picture: it stays inside.
    assert_eq!(size(&crop("x0=250&y0=250&x1=256&y1=256").body), (96, 96));
    assert_eq!(size(&crop("x0=0&y0=0&x1=256&y1=256").body), (256, 256));
    for bad in ["x0=9&y0=1&x1=9&y1=4", "x0=1&y0=1&x1=900&y1=4", "x0=-1&y0=1&x1=9&y1=4", "x0=1"] {
        assert_eq!(crop(bad).status, 400, "{bad}");
    }
    // Another picture under this name is not shown.
    std::fs::write(server.store.image_path(&image).unwrap(), b"other").unwrap();
    let wrong = crop("x0=60&y0=40&x1=130&y1=90");
    assert_eq!((wrong.status, wrong.code().as_str()), (404, "picture_wrong"));
}

/// Decides about every part of a round, by their places in the study; returns these in the order in which they came.
fn round(server: &Server, study: &str, role: Role, round: u8, is_good: fn(u64) -> bool) -> Vec<u64> {
    let mut order = Vec::new();
    loop {
        let part = server.get(&format!("/api/v1/blind/{study}/part?round={round}"), role).json();
        let keys: BTreeSet<&str> = part.as_object().unwrap().keys().map(String::as_str).collect();
        let known = BTreeSet::from(["decided", "image", "part", "parts", "round"]);
        assert_eq!(keys, known, "nothing else is told of a part");
        assert_eq!(part["decided"], json!(order.len()));
        let Some(at) = part["part"].as_u64() else { return order };
        order.push(at);
        let verdict = if is_good(at) { "pass" } else { "fail" };
        let answer = json!({"round": round, "part": at, "verdict": verdict});
        assert_eq!(server.post(&format!("/api/v1/blind/{study}/answers"), role, &answer).status, 204);
    }
}

#[test]
fn a_blind_study_compares_people_by_the_picture_alone_and_reviews_nothing() {
    let server = Server::start(12);
    let owed = server.store.outbox_len();
    let few = server.post("/api/v1/blind", Role::Engineer, &json!({"parts": 50}));
    assert_eq!((few.status, few.code().as_str()), (409, "few"));
    assert_eq!(server.post("/api/v1/blind", Role::Engineer, &json!({"parts": 9})).status, 400);
    let made = server.post("/api/v1/blind", Role::Engineer, &json!({"parts": 12}));
    assert_eq!(made.status, 201, "{}", made.head);
    let made = made.json();
    // Every third part was sent to review.
    assert_eq!((&made["parts"], &made["model_parts"]), (&json!(12), &json!(8)));
    let study = made["id"].as_str().unwrap();

    let early = server.get(&format!("/api/v1/blind/{study}/part?round=2"), Role::Operator);
    assert_eq!((early.status, early.code().as_str()), (409, "round"));
    let one = round(&server, study, Role::Operator, 1, |at| at % 2 == 0);
    let other = round(&server, study, Role::Engineer, 1, |at| at % 2 == 0 || at == 1);
    assert_ne!(one, other, "each has an order of his own");
    assert_eq!(one.iter().copied().collect::<BTreeSet<_>>(), (0..12).collect());
    round(&server, study, Role::Operator, 2, |at| at % 2 == 0 && at > 0);
    let again = json!({"round": 1, "part": 3, "verdict": "pass"});
    let again = server.post(&format!("/api/v1/blind/{study}/answers"), Role::Operator, &again);
    assert_eq!((again.status, again.code().as_str()), (409, "answered"));

    let studies = server.get("/api/v1/blind", Role::Viewer).json();
    let pairs = studies[0]["pairs"].as_array().unwrap();
    let those = |is: &dyn Fn(&Value) -> bool| -> Vec<[u64; 2]> {
        let counts = |p: &Value| [&p["agreed"], &p["parts"]].map(|n| n.as_u64().unwrap());
        pairs.iter().filter(|pair| is(pair)).map(counts).collect()
    };
    assert_eq!(those(&|p| p["b"] != "" && p["a"] != p["b"]), [[11, 12]], "two people");
    assert_eq!(those(&|p| p["a"] == p["b"]), [[11, 12]], "one, twice");
    assert_eq!(those(&|p| p["b"] == "").iter().map(|pair| pair[1]).collect::<Vec<_>>(), [8, 8], "the model");
    let people = pairs.iter().find(|p| p["b"] != "" && p["a"] != p["b"]).unwrap();
    assert!(people["share"]["low"].as_f64().unwrap() < 11.0 / 12.0 && people["kappa_interval"].is_array());

    let reviewed = (1..=12).filter(|n| server.store.review_state(*n).unwrap().is_some()).count();
    assert_eq!((reviewed, server.store.outbox_len()), (0, owed), "no review, and nothing to publish");
    let gone = || server.ask("DELETE", &format!("/api/v1/blind/{study}"), Some(Role::Engineer), "").status;
    assert_eq!((gone(), gone()), (204, 404));
    assert_eq!(server.get("/api/v1/blind", Role::Viewer).json(), json!([]));
}
