//! What a capture child says is not believed, and a supervisor that panics is no silent one.

use super::*;
use inspectd::camera::CameraError;
use std::sync::atomic::{AtomicBool, Ordering};

/// No number of a child makes its supervisor count, allocate or overflow: it is a fault, and the child is
/// replaced.
#[test]
fn a_child_that_lies_is_a_fault_and_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let lies = [
        ("lost", true, "18446744073709551615 parts lost within"),
        ("lost", false, "3 parts lost that no hardware has triggered"),
        ("huge", false, "4294967295x4294967295 pixels"),
        ("opened", false, "opened twice"),
        ("unordered", false, "nobody has ordered"),
    ];
    for (i, (lie, pushed, words)) in lies.into_iter().enumerate() {
        let script = dir.path().join(format!("script{i}"));
        std::fs::write(&script, "good").unwrap();
        let line = || genicam("Mono8", Exposure::Line("Line1".into()));
        let kind = if pushed { line() } else { scripted_kind(&script) };
        let began = Instant::now();
        let mut rig = Rig::new(kind, "scripted", &script, Policy::All, Limits::default());
        rig.ready(began);
        std::fs::write(&script, lie).unwrap();
        rig.heard(began, words, |r| matches!(r, Report::Fault { reason } if reason.contains(words)));
        std::fs::write(&script, "good").unwrap();
        if pushed {
            // Each child may have told the truth once before it lied.
            let lost = rig.camera.take(Want::by(Instant::now() + PATIENCE)).unwrap_err();
            assert!(matches!(lost, CameraError::Lost { count: 3..100 }), "{lost}");
        } else {
            assert_eq!(rig.take().pixels.dimensions(), (4, 4));
        }
    }
}

#[test]
fn a_panic_of_the_supervisor_is_a_fault_and_it_starts_anew() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("script");
    std::fs::write(&script, "good").unwrap();
    let (began, reports) = (Instant::now(), Arc::new(Mutex::new(Vec::new())));
    let heard = Arc::clone(&reports);
    let first = AtomicBool::new(true);
    let report = Box::new(move |report| {
        heard.lock().unwrap().push((Instant::now(), report));
        assert!(!first.swap(false, Ordering::Relaxed), "scripted");
    });
    let settings = Settings {
        camera: "cam1".into(),
        kind: scripted_kind(&script),
        key_frames: Policy::All,
        correction: Correction::default(),
        latency_ms: 0,
    };
    let program = program("scripted", &script);
    let camera =
        Supervised::new(settings, program, Limits::default(), false, Stop::default(), report).unwrap();
    let mut rig = Rig { camera, reports };
    rig.heard(
        began,
        "its failure",
        |r| matches!(r, Report::Fault { reason } if reason.contains("supervisor failed: panic: scripted")),
    );
    assert_eq!(rig.take().pixels.dimensions(), (4, 4));
}
