//! What goes out beside the results: the newest of each camera, and small pictures.

use super::{PREFIX, Protocol, Station, Subscriber, options, until};
use crate::broker::Broker;
use crate::inspections::{id, inspection};
use image::codecs::jpeg::JpegEncoder;
use inspectd::publish::mqtt::MqttOptions;
use inspectd::store::Store;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_camera_has_its_newest_result_retained() {
    let broker = Broker::start("", "").await;
    let subscriber = Subscriber::new(broker.port, PREFIX).await;
    let of = |n: u64, camera: &str| {
        let mut part = inspection(n);
        part.camera = camera.into();
        part.trigger.correlation_id = Some(format!("c{n}"));
        part.trigger.id = Some(id(1000 + n));
        part
    };
    let commit = |store: &Store, n, camera| store.commit(&of(n, camera), None).map(|_| ()).unwrap();
    let station = Station::start_with(broker.port, Protocol::V5, 0, |store| {
        [(1, "top"), (2, "side"), (3, "top")].into_iter().for_each(|(n, camera)| commit(store, n, camera));
    });
    let newest = |topic: &str, seq: u64| subscriber.newest(topic).is_some_and(|last| last["seq"] == seq);
    until("both are said", || newest("camera/top/last", 3) && newest("camera/side/last", 2)).await;
    tokio::task::block_in_place(|| commit(&station.store, 4, "side"));
    until("the newer one is said", || newest("camera/side/last", 4) && newest("st10/last", 4)).await;
    let side = subscriber.newest("camera/side/last").unwrap();
    assert_eq!(side, subscriber.newest("st10/last").unwrap(), "the same message");
    assert_eq!((&side["correlation_id"], &side["trigger_id"]), (&"c4".into(), &id(1004).as_str().into()));
    let late = Subscriber::new(broker.port, PREFIX).await;
    until("they are retained", || {
        let has = |camera: &str, seq| {
            late.newest(&format!("camera/{camera}/last")).is_some_and(|last| last["seq"] == seq)
        };
        has("top", 3) && has("side", 4)
    })
    .await;
    assert!(late.on("/last").iter().all(|m| (m.qos, m.retained) == (1, true)));
    station.handle.stop().await.unwrap();
}

/// A picture of the store, and its inspection.
fn commit_with_picture(store: &Store, n: u64) {
    let picture = image::RgbImage::from_fn(400, 200, |x, y| image::Rgb([x as u8, y as u8, n as u8]));
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, 90).encode_image(&picture).unwrap();
    let image = store.put_image(&jpeg, "jpg").unwrap();
    store.commit(&inspection(n), Some(image)).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_that_wants_pictures_has_a_small_one_behind_its_result() {
    let broker = Broker::start("", "").await;
    let subscriber = Subscriber::new(broker.port, PREFIX).await;
    let wants = MqttOptions { images_px: Some(64), ..options(broker.port, Protocol::V5) };
    // The second has no picture.
    let mut station = Station::over(wants, 0, |store| commit_with_picture(store, 1));
    let picture = |n: u64| subscriber.on(&format!("/image/{}", id(n)));
    until("the first arrives", || picture(1).len() == 1).await;
    station.next = 2;
    station.commit(1);
    tokio::task::block_in_place(|| commit_with_picture(&station.store, 3));
    until("the third arrives", || picture(3).len() == 1).await;
    assert!(picture(2).is_empty());
    let place =
        |is: &dyn Fn(&crate::broker::Message) -> bool| subscriber.heard().iter().position(is).unwrap();
    for n in [1, 3] {
        let message = &picture(n)[0];
        assert_eq!((message.qos, message.retained), (1, false));
        let small = image::load_from_memory_with_format(&message.payload, image::ImageFormat::Jpeg).unwrap();
        assert_eq!((small.width(), small.height()), (64, 32));
        let result = place(&|m| m.topic.ends_with("/result") && m.json()["inspection_id"] == id(n).as_str());
        assert!(result < place(&|m| m.topic.ends_with(&id(n))), "behind its result");
    }
    station.handle.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_picture_is_kept_for_later_or_for_a_sink_that_wants_none() {
    let broker = Broker::start("", "").await;
    let subscriber = Subscriber::new(broker.port, PREFIX).await;
    let wants = MqttOptions { images_px: Some(64), ..options(broker.port, Protocol::V5) };
    // More than wait: the oldest are left out, their results are not.
    let station = Station::over(wants, 0, |store| (1..=40).for_each(|n| commit_with_picture(store, n)));
    until("the newest picture arrives", || !subscriber.on(&format!("/image/{}", id(40))).is_empty()).await;
    assert_eq!(subscriber.on("/result").len(), 40);
    let pictures = subscriber.heard().iter().filter(|m| m.topic.contains("/image/")).count();
    assert!(pictures < 40, "{pictures} pictures");
    let late = Subscriber::new(broker.port, PREFIX).await;
    until("what is retained arrives", || late.newest("st10/last").is_some()).await;
    assert!(late.heard().iter().all(|m| !m.topic.contains("/image/")), "no picture is retained");
    station.handle.stop().await.unwrap();

    let quiet = Broker::start("", "").await;
    let subscriber = Subscriber::new(quiet.port, PREFIX).await;
    let station = Station::start_with(quiet.port, Protocol::V5, 0, |store| commit_with_picture(store, 1));
    until("`last` is said", || subscriber.newest("st10/last").is_some()).await;
    station.handle.stop().await.unwrap();
    assert!(subscriber.heard().iter().all(|m| !m.topic.contains("/image/")));
}
