//! Figures and documents for people over HTTP: agreement, reports, findings as CSV, crops.

use super::inspections::id;
use super::server::{Server, commit, part};
use image::ImageReader;
use inspectd::domain::review::{Decided, Decision};
use inspectd::web::auth::Role;
use serde_json::{Value, json};
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
