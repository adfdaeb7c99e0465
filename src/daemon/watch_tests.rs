//! The watch on a real store: it raises, says what is wrong, and clears.

use super::drift::Sizes;
use super::*;
use crate::daemon::promise::tests::Bench;
use crate::domain::grade::Verdict;
use crate::domain::inspection::{ImageRef, Inspection};
use crate::domain::promise::{PromiseRule, Thresholds};
use crate::pixels;
use crate::recipe::edited::Limits;
use crate::store::tests::sample;
use image::{Rgb, RgbImage};

const TEXT: &str = include_str!("../../pipelines/examples-defects.toml");

fn promised() -> String {
    let limits = Limits {
        thresholds: Thresholds { review_above: 0.5, fail_above: None },
        promise: PromiseRule { escape: 0.05, confidence: 0.95 },
    };
    limits.apply(TEXT)
}

fn watch(bench: &Bench) -> Watch {
    let registry = Arc::new(Registry::new([bench.recipe.clone()]));
    let station = Arc::new(Station::new(tokio::sync::mpsc::channel(256).0));
    Watch {
        cameras: vec!["cam1".to_owned()],
        registry,
        store: Arc::clone(&bench.store),
        station,
        drift: Drift::with(Sizes { reference: 60, now: 40, a_picture_in: 2 }),
        stand: BTreeMap::new(),
    }
}

impl Watch {
    /// The alarms that stand after a look.
    fn stands(&mut self) -> Vec<(String, String)> {
        self.look(&Stop::default()).expect("the store is read");
        self.station.alarms().into_iter().map(|alarm| (alarm.code, alarm.message)).collect()
    }
}

#[test]
fn a_broken_promise_is_an_alarm_that_goes_with_its_reason() {
    let bench = Bench::new(&[&promised()]);
    bench.decided(1, 10, false, &Verdict::Pass, 0.2);
    let mut watch = watch(&bench);
    let stands = watch.stands();
    let [(code, message)] = stands.as_slice() else { panic!("{stands:?}") };
    assert_eq!(code, "promise_examples-defects");
    assert!(message.starts_with("10 of 10 defective parts") && message.contains("at most 5 %"), "{message}");
    // The recipe that promises nothing is active again.
    let unpromised = Bench::new(&[TEXT]);
    watch.registry.put(Arc::new(unpromised.recipe.clone()));
    assert_eq!(watch.stands(), []);
}

/// A picture of this brightness, with edges.
fn picture(bench: &Bench, grey: u8) -> ImageRef {
    let shown = RgbImage::from_fn(64, 64, |x, y| {
        let shade = if (x / 4 + y / 4) % 2 == 0 { grey } else { grey + 40 };
        Rgb([shade; 3])
    });
    let jpeg = pixels::jpeg(&shown, 90).expect("it has pixels");
    bench.store.put_image(&jpeg, "jpg").expect("it is kept")
}

/// Parts from `first` on that pass, with scores that differ a little.
fn parts(bench: &Bench, first: u64, count: u64, image: &ImageRef, score: f32) {
    for n in first..first + count {
        let part = Inspection {
            pipeline: bench.recipe.pipeline.name.clone(),
            pipeline_version: bench.recipe.pipeline.version.clone(),
            verdict: Verdict::Pass,
            score: score + (n * 7 % 100) as f32 / 1000.0,
            findings: vec![],
            texts: vec![],
            ..sample(n)
        };
        bench.store.commit(&part, Some(image.clone())).expect("it is kept");
    }
}

#[test]
fn what_drifts_is_named_and_over_when_it_is_as_it_was() {
    let bench = Bench::new(&[TEXT]);
    let (bright, dark) = (picture(&bench, 120), picture(&bench, 60));
    let mut watch = watch(&bench);
    parts(&bench, 1, 99, &bright, 0.1);
    assert_eq!(watch.stands(), [], "there are too few parts");
    parts(&bench, 100, 1, &bright, 0.1);
    assert_eq!(watch.stands(), [], "nothing has changed");
    // The lamp is dimmer, and the scores are as they were.
    parts(&bench, 101, 40, &dark, 0.1);
    let stands = watch.stands();
    let [(code, message)] = stands.as_slice() else { panic!("{stands:?}") };
    assert_eq!(code, "drift_cam1");
    assert!(message.contains("brightness") && !message.contains("score"), "{message}");
    // And back, with other scores.
    parts(&bench, 141, 40, &bright, 0.4);
    let stands = watch.stands();
    let [(_, message)] = stands.as_slice() else { panic!("{stands:?}") };
    assert!(message.contains("score (median") && !message.contains("brightness"), "{message}");
    parts(&bench, 181, 40, &bright, 0.1);
    assert_eq!(watch.stands(), []);
}
