use super::*;
use crate::domain::camera::{CameraState, CameraStatus, LineState};
use crate::domain::grade::{Grade, Reason, Verdict};
use crate::domain::inspection::{ImageRef, SkippedTile};
use crate::domain::recipe::RecipeStatus;
use crate::domain::rect::Rect;
use crate::publish::mqtt::command::Presence;
use crate::publish::mqtt::dialect::json::Topics;
use crate::publish::mqtt::dialect::json::schemas::of_topic;
use crate::publish::{StationState, Stats};
use crate::store::outbox::PART_SCHEMA;
use crate::store::record::StoredImage;
use crate::store::tests::sample;
use serde_json::Value;
use std::time::{Duration, SystemTime};

/// A trigger's id, as the dispatcher gives it.
const TRIGGER: &str = "01HF7YAT010000000000000T01";

fn stored(mut inspection: Inspection) -> Stored {
    inspection.trigger.id = inspection.trigger.correlation_id.as_ref().map(|_| TRIGGER.into());
    let image = ImageRef { sha256: "12".repeat(32), bytes: 1234 };
    Stored { seq: 41, inspection, image: Some(StoredImage { image, url: "/images/12".into() }) }
}

/// Parts as different as they come.
fn parts() -> Vec<Stored> {
    let mut good = sample(2);
    good.verdict = Verdict::Pass;
    good.grade = Grade::Ok;
    good.findings.clear();
    good.texts.clear();
    good.trigger = crate::domain::frame::Trigger::default();
    let mut odd = sample(3);
    odd.score = f32::NAN;
    odd.findings[0].longest_mm = f64::INFINITY;
    odd.findings[0].confidence = 1e-9;
    odd.texts[0].read = None;
    odd.texts[0].matches = None;
    odd.latency.total_ms = f64::NAN;
    odd.verdict = Verdict::Review(Reason::Engine { message: "NaN \"in\" the\nanswer & % = .".into() });
    let nameless = Stored { image: None, ..stored(good.clone()) };
    let skipped = SkippedTile {
        prompt: "surface".into(),
        tile: 7,
        rect: Rect::new(512, 0, 1024, 512),
        by: "like-good-parts".into(),
        doubt: 0.0625,
        below: 0.2,
    };
    let skipping = Inspection { skipped: vec![skipped], ..good.clone() };
    vec![stored(sample(1)), stored(good), stored(odd), nameless, stored(skipping)]
}

#[test]
fn real_results_satisfy_the_shipped_schema_and_broken_ones_do_not() {
    let schema: Value = serde_json::from_str(RESULT_JSON_SCHEMA).unwrap();
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    for (part, number) in parts().iter().flat_map(|part| [(part, 1), (part, RESULT_SCHEMA)]) {
        let message: Value = serde_json::from_slice(&result(part, number).unwrap()).unwrap();
        let errors: Vec<String> =
            validator.iter_errors(&message).map(|e| format!("{}: {e}", e.instance_path())).collect();
        assert!(errors.is_empty(), "{errors:?} in {message}");
        for key in message.as_object().unwrap().keys() {
            let mut broken = message.clone();
            broken.as_object_mut().unwrap().remove(key);
            assert!(!validator.is_valid(&broken), "without {key}");
            broken[key] = serde_json::json!([[]]);
            assert!(!validator.is_valid(&broken), "{key} of another type");
        }
        let mut broken = message;
        broken["extra"] = Value::Null;
        assert!(!validator.is_valid(&broken));
    }
}

#[test]
fn skipped_tiles_are_counted_and_a_result_without_them_is_as_it_was() {
    let tiles = |part: &Stored| {
        let message: Value = serde_json::from_slice(&result(part, RESULT_SCHEMA).unwrap()).unwrap();
        let flat: Value = serde_json::from_slice(&last(part)).unwrap();
        (message["tiles"].clone(), flat["tiles_skipped"].clone())
    };
    let all = parts();
    assert_eq!(tiles(&all[1]), (serde_json::json!({"planned": 31, "inspected": 31}), 0.into()));
    let with = all.iter().find(|part| !part.inspection.skipped.is_empty()).unwrap();
    assert_eq!(tiles(with), (serde_json::json!({"planned": 31, "inspected": 31, "skipped": 1}), 1.into()));
}

#[test]
fn a_result_has_these_bytes() {
    // A change of these bytes is a new schema number.
    let text = |schema| String::from_utf8(result(&stored(sample(1)), schema).unwrap()).unwrap();
    let (ab, cd, ef) = ("ab".repeat(32), "cd".repeat(32), "ef".repeat(32));
    let expected = |schema: u16, names: &str| {
        format!(
            concat!(
                r#"{{"schema":{schema},"inspection_id":"01HF7YAT010000000000000001","seq":41,"part_id":"P1","lot":"L7","#,
                r#"{names}"camera":"cam1","pipeline":"machined-plate@0123456789ab","#,
                r#""model":{{"name":"tiny","sha256":"{ab}","mmproj_sha256":"{cd}"}},"prompt_hash":"{ef}","#,
                r#""ts_capture":"2023-11-14T22:13:21.000Z","ts_result":"2023-11-14T22:13:21.987Z","#,
                r#""verdict":"fail","grade":"reject","reason":"finding: scratch","score":0.9375,"#,
                r#""findings":[{{"label":"scratch","severity":"major","grade":"reject","bbox_px":[10.0,20.5,300.3,24.0],"#,
                r#""longest_mm":14.513,"area_mm2":2.5,"confidence":0.875}}],"#,
                r#""texts":[{{"prompt":"nameplate","line":1,"read":"SN0001-B1","expected":"SN0001-A1","match":false,"#,
                r#""mismatches":[{{"at":7,"read":"B","expected":"A"}}],"confidence":0.5}}],"#,
                r#""tiles":{{"planned":31,"inspected":31}},"latency_ms":{{"queue":1.5,"preprocess":20.0,"#,
                r#""vision":1000.25,"prefill":200.0,"decode":300.0,"total":1521.75}},"replayed":false,"#,
                r#""image":{{"url":"/images/12","sha256":"{image}","bytes":1234}}}}"#
            ),
            ab = ab,
            cd = cd,
            ef = ef,
            image = "12".repeat(32),
            schema = schema,
            names = names
        )
    };
    // What a former version has committed and still owes.
    assert_eq!(text(1), expected(1, ""));
    let names = format!(r#""correlation_id":"c1","trigger_id":"{TRIGGER}","#);
    assert_eq!((RESULT_SCHEMA, text(2)), (2, expected(2, &names)));
    for unknown in [0, 3] {
        assert_eq!(result(&stored(sample(1)), unknown), None);
    }
}

#[test]
fn last_is_flat_and_of_one_type_whatever_the_part() {
    let kinds = |part: &Stored| -> Vec<(String, &'static str)> {
        let text = String::from_utf8(last(part)).unwrap();
        let message: Value = serde_json::from_str(&text).unwrap();
        let kind = |v: &Value| match v {
            Value::String(_) => "string",
            Value::Bool(_) => "bool",
            Value::Number(n) if n.is_f64() => {
                assert!(n.to_string().contains('.') && !n.to_string().contains('e'), "{n} in {text}");
                "float"
            }
            Value::Number(_) => "integer",
            other => panic!("{other} in {text}"),
        };
        message.as_object().unwrap().iter().map(|(k, v)| (k.clone(), kind(v))).collect()
    };
    let parts = parts();
    let first = kinds(&parts[0]);
    for part in &parts {
        assert_eq!(kinds(part), first);
    }
    for (key, _) in &first {
        assert!(!key.contains(['.', '&', '%', '=', ' ']), "{key}");
    }
    let empty: Value = serde_json::from_slice(&last(&parts[3])).unwrap();
    assert_eq!((&empty["worst_label"], &empty["worst_confidence"]), (&Value::from(""), &Value::from(-1.0)));
    assert_eq!((&empty["part_id"], &empty["image_sha256"]), (&Value::from(""), &Value::from("")));
    assert_eq!((&empty["text_check"], &empty["correlation_id"]), (&Value::from(""), &Value::from("")));
    let bad: Value = serde_json::from_slice(&last(&parts[0])).unwrap();
    assert_eq!(
        (&bad["text_check"], &bad["worst_label"]),
        (&Value::from("mismatch"), &Value::from("scratch"))
    );
}

#[test]
fn small_messages_and_topics() {
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_120);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    assert!(
        text(status(StationState::Offline, at))
            .starts_with(r#"{"schema":1,"state":"offline","since":"2023-11-14T22:13:20.120Z","version":""#)
    );
    let online = status(StationState::Online, at);
    let said = |instance: &str, online| Some(Presence { instance: instance.to_owned(), online });
    assert_eq!(presence(&online), said(crate::publish::instance(), true));
    assert_eq!(presence(&status(StationState::Offline, at)), said(crate::publish::instance(), false));
    let old = br#"{"schema":1,"state":"online","since":"2023-11-14T22:13:20.120Z","version":"0.1.0"}"#;
    assert_eq!(presence(old), said("", true), "of a version before the field");
    assert_eq!(presence(b"online"), None);
    let mut camera = CameraStatus::default();
    (camera.state, camera.reason) = (CameraState::Fault, "no frame for 5 s".into());
    camera.line =
        LineState { pipeline: "plate".into(), pipeline_version: "0a1b".into(), ..LineState::default() };
    assert_eq!(
        text(camera_status(&camera, at)),
        concat!(
            r#"{"schema":1,"state":"fault","reason":"no frame for 5 s","ts":"2023-11-14T22:13:20.120Z","#,
            r#""pipeline":"plate","pipeline_version":"0a1b","pipeline_by":"","#,
            r#""paused":false,"paused_by":"","since":""}"#
        )
    );
    assert_eq!(
        text(alarm("disk", false, "", at)),
        r#"{"schema":1,"code":"disk","state":"cleared","message":"","ts":"2023-11-14T22:13:20.120Z"}"#
    );
    let counts = Stats {
        window_s: 60.0,
        pass: 9,
        fail: 1,
        review: 0,
        latency_p50_ms: 800.0,
        latency_p95_ms: 900.0,
        latency_max_ms: f64::NAN,
        dropped: 0,
        outbox: 3,
    };
    let sent: Value = serde_json::from_slice(&stats(&counts, at)).unwrap();
    assert_eq!((&sent["yield"], &sent["per_minute"]), (&Value::from(0.9), &Value::from(10.0)));
    assert_eq!(sent["latency_max_ms"], -1.0);
    let none = Stats { pass: 0, fail: 0, ..counts };
    assert!(text(stats(&none, at)).contains(r#""yield":-1.0"#));

    let topics = Topics::new("inspectd/plant1/body/line1/st10");
    assert_eq!(topics.result(), "inspectd/plant1/body/line1/st10/result");
    assert_eq!(topics.camera_status("cam/+1"), "inspectd/plant1/body/line1/st10/camera/cam__1/status");
    assert_eq!(topics.camera_last("cam1"), "inspectd/plant1/body/line1/st10/camera/cam1/last");
    assert_eq!(topics.image(TRIGGER), format!("inspectd/plant1/body/line1/st10/image/{TRIGGER}"));
    assert_eq!(topics.alarm("disk"), "inspectd/plant1/body/line1/st10/alarm/disk");
}

#[test]
fn verdicts_of_parts_satisfy_the_shipped_schema_and_broken_ones_do_not() {
    use crate::domain::part::{Outcome, PartRef, PartVerdict, View, complete, judge};
    let schema: Value = serde_json::from_str(PART_JSON_SCHEMA).unwrap();
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    let id = sample(1).id;
    let part = PartRef { id: id.clone(), name: "housing".into(), cameras: vec!["top".into(), "side".into()] };
    let view = |outcome, reason: Option<&str>| View {
        camera: "top".into(),
        inspection_id: Some(sample(2).id),
        outcome,
        grade: Grade::Rework,
        reason: reason.map(str::to_owned),
    };
    for (found, verdict, reason) in [
        (vec![view(Outcome::Fail, Some("finding: dent"))], "fail", "finding: dent"),
        (vec![view(Outcome::Pass, None)], "review", "interrupted"),
        (vec![], "review", "interrupted"),
    ] {
        let views = complete(&part, &found);
        let (outcome, grade, why) = judge(&views);
        let decided_at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        let (lot, correlation_id, part) = (None, Some("c1".into()), part.clone());
        let stored = PartVerdict {
            part,
            part_id: Some("P7".into()),
            lot,
            correlation_id,
            decided_at,
            trigger_id: Some(TRIGGER.into()),
            views,
            outcome,
            grade,
            reason: why,
        };
        let old: Value = serde_json::from_slice(&part::part(&stored, 1)).unwrap();
        assert!(validator.is_valid(&old) && old.get("trigger_id").is_none(), "{old}");
        let mut message: Value = serde_json::from_slice(&part::part(&stored, PART_SCHEMA)).unwrap();
        assert_eq!(message["trigger_id"], TRIGGER);
        let errors: Vec<String> = validator.iter_errors(&message).map(|e| e.to_string()).collect();
        assert!(errors.is_empty(), "{errors:?} {message}");
        assert_eq!((&message["verdict"], &message["reason"]), (&verdict.into(), &reason.into()));
        assert_eq!(
            (&message["id"], &message["ts"]),
            (&id.as_str().into(), &"2023-11-14T22:13:20.123Z".into())
        );
        assert_eq!(message["views"].as_array().unwrap().len(), 2);
        message["views"][0]["verdict"] = "maybe".into();
        assert!(!validator.is_valid(&message));
    }
}

/// Of each kind one that is all it can be, and one that is nothing.
#[test]
fn all_other_messages_satisfy_their_schemas_and_broken_ones_do_not() {
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
    let line = LineState {
        pipeline: "plate".into(),
        pipeline_version: "0a1b".into(),
        pipeline_by: "mqtt".into(),
        paused: true,
        paused_by: "http:anna".into(),
        since: "2023-11-14T22:13:20.120Z".into(),
    };
    let fault = CameraStatus { state: CameraState::Fault, reason: "no frame".into(), line };
    let full = RecipeStatus {
        pipeline: "plate".into(),
        step: "found",
        done: 3,
        total: 9,
        ..RecipeStatus::default()
    };
    let counts = |pass, known| Stats {
        window_s: 60.0,
        pass,
        fail: 0,
        review: 0,
        latency_p50_ms: known,
        latency_p95_ms: known,
        latency_max_ms: known,
        dropped: 0,
        outbox: 3,
    };
    let mut messages = vec![
        ("camera/cam1/status", camera_status(&CameraStatus::default(), at)),
        ("camera/cam1/status", camera_status(&fault, at)),
        ("recipe/plate", recipe(&RecipeStatus::default(), at)),
        ("recipe/plate", recipe(&full, at)),
        ("alarm/disk", alarm("disk", true, "1 GB left", at)),
        ("alarm/disk", alarm("disk", false, "", at)),
        ("stats", stats(&counts(9, 800.0), at)),
        ("stats", stats(&counts(0, f64::NAN), at)),
    ];
    for state in [StationState::Online, StationState::Stopped, StationState::Offline] {
        messages.push(("status", status(state, at)));
    }
    for part in &parts() {
        messages.extend([("last", last(part)), ("camera/cam1/last", last(part))]);
    }
    for (topic, payload) in messages {
        let schema: Value = serde_json::from_str(of_topic(topic).unwrap().text).unwrap();
        let validator = jsonschema::draft202012::new(&schema).unwrap();
        let message: Value = serde_json::from_slice(&payload).unwrap();
        let errors: Vec<String> =
            validator.iter_errors(&message).map(|e| format!("{}: {e}", e.instance_path())).collect();
        assert!(errors.is_empty(), "{topic}: {errors:?} in {message}");
        for key in message.as_object().unwrap().keys() {
            let mut broken = message.clone();
            broken.as_object_mut().unwrap().remove(key);
            assert!(!validator.is_valid(&broken), "{topic} without {key}");
            broken[key] = Value::Null;
            assert!(!validator.is_valid(&broken), "{topic}: {key} of another type");
        }
        let mut broken = message;
        broken["extra"] = Value::Null;
        assert!(!validator.is_valid(&broken), "{topic}");
    }
}

#[test]
fn a_view_names_its_part() {
    let mut view = stored(sample(1));
    let part = crate::domain::part::PartRef { id: sample(9).id, name: "housing".into(), cameras: vec![] };
    view.inspection.trigger.part = Some(Box::new(part));
    let message: Value = serde_json::from_slice(&result(&view, RESULT_SCHEMA).unwrap()).unwrap();
    assert_eq!(message["part"], serde_json::json!({"id": sample(9).id, "name": "housing"}));
    let schema: Value = serde_json::from_str(RESULT_JSON_SCHEMA).unwrap();
    assert!(jsonschema::draft202012::new(&schema).unwrap().is_valid(&message));
}
