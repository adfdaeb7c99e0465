//! Pictures by file, from outside: each part has its own or none, and each file one inspection.

use super::*;
use image::{Rgb, RgbImage};
use std::path::Path;

/// A picture that says its number in grey columns, whatever JPEG makes of it.
fn coded(number: u32) -> Vec<u8> {
    let picture = RgbImage::from_fn(256, 192, |x, y| match (number >> (x / 16)) & 1 {
        1 => Rgb([230, 220, 200 + (y % 32) as u8]),
        _ => Rgb([20, 30, 10 + (y % 32) as u8]),
    });
    let mut bytes = std::io::Cursor::new(vec![]);
    picture.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// Written under another name, then renamed, as the guide says.
fn put(dir: &Path, name: &str, bytes: &[u8]) {
    std::fs::write(dir.join(".new"), bytes).unwrap();
    std::fs::rename(dir.join(".new"), dir.join(name)).unwrap();
}

/// The number in the stored picture of a result; `None`: it has no picture.
fn number(station: &Station, result: &Value) -> Option<u32> {
    let sha256 = result["image"]["sha256"].as_str()?;
    let images = station.dir.path().join("store/images");
    let file = images.join(&sha256[..2]).join(format!("{}.jpg", &sha256[2..]));
    let bytes = std::fs::read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let picture = image::ImageReader::with_format(std::io::Cursor::new(bytes), image::ImageFormat::Jpeg);
    let pixels = picture.decode().unwrap().into_rgb8();
    Some((0..16).map(|bit| u32::from(pixels.get_pixel(bit * 16 + 8, 96).0[0] > 128) << bit).sum())
}

fn folder(dir: &Path, trigger: &str) -> String {
    format!(
        "[[camera]]\nid = \"cam1\"\n{PIPELINE}source = \"folder\"\npath = \"{}\"\n{trigger}",
        dir.display()
    )
}

/// Lost, early, doubled, from before the start: a part is judged on its own picture or reviewed without one.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_picture_costs_its_part_and_never_moves_the_others() {
    let broker = Broker::start("", "").await;
    let plc = Plc::new(broker.port).await;
    let dir = tempfile::tempdir().unwrap();
    let put = |n: u32| put(dir.path(), &format!("{n}.png"), &coded(n));
    let trigger = "trigger = { on = \"command\", exposed_within_ms = 3000 }\n";
    let station = Station::new(broker.port, &folder(dir.path(), trigger));
    put(99);
    let mut daemon = station.start();
    plc.until_listening().await;
    let run = async |part: &str, picture: Option<u32>| {
        assert_eq!(plc.command("trigger", json!({ "part_id": part })).await["accepted"], true);
        picture.map(put);
        let result = plc.result(part).await;
        (number(&station, &result), result)
    };
    let alarm = || plc.heard.newest("/alarm/trigger_cam1").map(|a| a["state"].clone());

    assert_eq!(run("P1", Some(1)).await.0, Some(1), "and not what lay there before");
    let (nothing, lost) = run("P2", None).await;
    assert_eq!((nothing, &lost["verdict"]), (None, &json!("review")), "{lost}");
    assert!(
        lost["reason"].as_str().unwrap().starts_with("frame: no picture was exposed within 3000 ms"),
        "{lost}"
    );
    until("the alarm is raised", || alarm() == Some("raised".into())).await;
    let (nothing, doubt) = run("P3", Some(3)).await;
    assert_eq!((nothing, &doubt["verdict"]), (None, &json!("review")), "it may be P2's, late: {doubt}");
    assert!(doubt["reason"].as_str().unwrap().contains("another part's"), "{doubt}");
    // Three windows without a trigger: what was missing does not come any more.
    tokio::time::sleep(Duration::from_millis(9_500)).await;
    assert_eq!(run("P4", Some(4)).await.0, Some(4));
    until("the alarm is cleared", || alarm() == Some("cleared".into())).await;
    put(50);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(run("P5", Some(5)).await.0, Some(5), "and not what came before its trigger");

    daemon.kill().unwrap();
    daemon.wait().unwrap();
    put(60);
    let _daemon = station.start();
    plc.until_listening().await;
    assert_eq!(run("P6", Some(6)).await.0, Some(6), "and not what came while nobody looked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watched_file_has_one_inspection_whatever_restarts_and_a_broken_one_its_review() {
    let broker = Broker::start("", "").await;
    let heard = Subscriber::new(broker.port, PREFIX).await;
    let dir = tempfile::tempdir().unwrap();
    let station = Station::new(broker.port, &folder(dir.path(), ""));
    for n in 1..=3 {
        put(dir.path(), &format!("{n}.png"), &coded(n));
    }
    put(dir.path(), "cut.png", &coded(4)[..300]);
    let ids = || {
        let mut ids: Vec<_> =
            results(&heard.heard()).iter().map(|r| r["inspection_id"].to_string()).collect();
        ids.sort();
        ids.dedup();
        ids.len()
    };
    let mut daemon = station.start();
    until("all four files have their results", || ids() == 4).await;
    let all = results(&heard.heard());
    let broken = all.iter().find(|r| r["reason"].as_str().is_some_and(|reason| reason.contains("cut.png")));
    assert_eq!(broken.expect("the broken one is named")["verdict"], "review");
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    let mut daemon = station.start();
    put(dir.path(), "5.png", &coded(5));
    until("the new file has its result", || ids() >= 5).await;
    put(dir.path(), "6.png", &coded(6));
    until("and the next", || ids() >= 6).await;
    assert_eq!(ids(), 6, "none is inspected anew");
    signal(daemon.id(), libc::SIGTERM);
    assert!(wait(&mut daemon, "SIGTERM is obeyed").await.success(), "{}", station.log());
}
