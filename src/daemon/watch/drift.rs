//! Drift of a camera: its newest parts beside the first ones of the recipe that judges them.
//!
//! ```text
//! parts of the camera since its recipe judges so:  [ reference: the oldest ] …  [ now: the newest ]
//!   score, verdict                 of all in both windows      --.
//!   brightness, sharpness          of some pictures of them    --+--evaluate::drift--> the words of the alarm
//! hours since the start:           [ the last week ] [ now ]     |
//!   alarms about the camera        raised in each              --'
//! ```
//!
//! All of it but the alarms is in the store: a restart forgets what was measured on pictures, and that is measured again.
//! While retention takes old parts away, the reference moves on with them.

use crate::daemon::promise::judges_since;
use crate::daemon::recipes::picture;
use crate::domain::inspection::Inspection;
use crate::domain::pipeline::Pipeline;
use crate::domain::rect::Rect;
use crate::evaluate::drift::{Compared, compare, compare_rates, has_changed};
use crate::evaluate::gate::is_unjudged;
use crate::health::{Region, measure};
use crate::recipe::registry::Registry;
use crate::store::Store;
use crate::store::error::StoreError;
use crate::store::query::{Filter, unix_ms};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// How much is compared.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// Parts of the reference, and of now.
    pub reference: usize,
    pub now: usize,
    /// Of so many parts, the picture of one is measured: decoding it takes tens of milliseconds.
    pub a_picture_in: usize,
}

/// Of the line: at the limit of the test, score and verdict have to be 0.23 apart, of 0 to 1, and pictures 0.46.
const OF_THE_LINE: Sizes = Sizes { reference: 400, now: 200, a_picture_in: 4 };

/// Hours of alarms that are remembered, and those without which a further one is not compared.
const HOURS_MAX: usize = 168;
const HOURS_MIN: usize = 24;

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Value {
    Score,
    Verdict,
    Brightness,
    Sharpness,
}

impl Value {
    const ALL: [Self; 4] = [Self::Score, Self::Verdict, Self::Brightness, Self::Sharpness];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Score => "score",
            Self::Verdict => "verdict",
            Self::Brightness => "brightness",
            Self::Sharpness => "sharpness",
        }
    }
}

/// Brightness and sharpness of a kept picture.
type Measured = (f64, f64);

/// What is remembered of all cameras from look to look.
pub(super) struct Drift {
    sizes: Sizes,
    /// What has changed, by camera.
    changed: BTreeMap<String, Vec<Value>>,
    /// What was measured on pictures, by camera and place in the store; `None`: the picture is not kept.
    measured: BTreeMap<String, BTreeMap<u64, Option<Measured>>>,
    alarms: BTreeMap<String, AlarmHours>,
}

/// How often alarms about a camera were raised.
#[derive(Default)]
struct AlarmHours {
    /// Since the start, at the last look.
    total: Option<u64>,
    /// Between two looks, the oldest first.
    hours: VecDeque<usize>,
    are_more: bool,
}

impl AlarmHours {
    /// What has changed, in words, now that so many were raised since the start.
    fn look(&mut self, total: u64) -> Option<String> {
        let before = self.total.replace(total)?;
        let now = usize::try_from(total.saturating_sub(before)).unwrap_or(usize::MAX);
        let (earlier, hours) = (self.hours.iter().sum::<usize>(), self.hours.len());
        self.are_more = hours >= HOURS_MIN && has_changed(self.are_more, compare_rates(now, earlier, hours));
        self.hours.push_back(now);
        if self.hours.len() > HOURS_MAX {
            self.hours.pop_front();
        }
        let rate = earlier as f64 / hours.max(1) as f64;
        self.are_more.then(|| format!("alarms ({now} in the last hour, {rate:.1} an hour before)"))
    }
}

/// The places of two windows' parts in the store, and the recipe that judges the newest.
struct Windows {
    pipeline: Arc<Pipeline>,
    reference: Vec<u64>,
    now: Vec<u64>,
}

/// One window's values.
#[derive(Default)]
struct Window {
    values: BTreeMap<Value, Vec<f64>>,
}

impl Default for Drift {
    fn default() -> Self {
        Self::with(OF_THE_LINE)
    }
}

impl Drift {
    /// Nothing is known yet; `sizes` are compared.
    pub(super) const fn with(sizes: Sizes) -> Self {
        Self { sizes, changed: BTreeMap::new(), measured: BTreeMap::new(), alarms: BTreeMap::new() }
    }

    /// What has drifted, in words; empty while nothing has. `alarms` about the camera were raised since the start.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    pub(super) fn look(
        &mut self,
        store: &Store,
        registry: &Registry,
        camera: &str,
        alarms: u64,
    ) -> Result<String, StoreError> {
        let more = self.alarms.entry(camera.to_owned()).or_default().look(alarms);
        let parts = self.parts(store, registry, camera)?;
        Ok(parts.into_iter().chain(more).collect::<Vec<_>>().join("; "))
    }

    /// What of the parts has drifted, in words; `None` while nothing has, or there are too few.
    fn parts(
        &mut self,
        store: &Store,
        registry: &Registry,
        camera: &str,
    ) -> Result<Option<String>, StoreError> {
        let Some(Windows { pipeline, reference, now }) = windows(store, registry, camera, self.sizes)? else {
            self.changed.remove(camera);
            self.measured.remove(camera);
            return Ok(None);
        };
        let known = self.measured.remove(camera).unwrap_or_default();
        let mut measured = BTreeMap::new();
        let step = self.sizes.a_picture_in;
        let mut read = |seqs: &[u64]| window(store, &pipeline, seqs, step, &known, &mut measured);
        let (old, new) = (read(&reference)?, read(&now)?);
        self.measured.insert(camera.to_owned(), measured);
        let before = self.changed.remove(camera).unwrap_or_default();
        let (mut changed, mut words) = (vec![], vec![]);
        for value in Value::ALL {
            let (old, new) = (old.of(value), new.of(value));
            let Some(compared) = compare(old, new) else { continue };
            if has_changed(before.contains(&value), compared) {
                changed.push(value);
                words.push(in_words(value, compared, old, new));
            }
        }
        self.changed.insert(camera.to_owned(), changed);
        let Sizes { reference, now, .. } = self.sizes;
        let which = format!("the newest {now} parts differ from the first {reference} by this recipe");
        Ok((!words.is_empty()).then(|| format!("{which}: {}", words.join("; "))))
    }
}

impl Window {
    fn of(&self, value: Value) -> &[f64] {
        self.values.get(&value).map_or(&[], Vec::as_slice)
    }

    fn push(&mut self, value: Value, number: f64) {
        self.values.entry(value).or_default().push(number);
    }
}

fn in_words(value: Value, compared: Compared, old: &[f64], new: &[f64]) -> String {
    let (word, apart) = (value.as_str(), format!("{:.2} apart", compared.distance));
    if value == Value::Verdict {
        let share = |values: &[f64], verdict: f64| {
            let count = values.iter().filter(|value| **value == verdict).count();
            format!("{:.1} %", 100.0 * count as f64 / values.len().max(1) as f64)
        };
        let [fails, reviews] = [2.0, 1.0].map(|v| format!("{} -> {}", share(old, v), share(new, v)));
        return format!("{word} (fail {fails}, review {reviews}, {apart})");
    }
    let (before, after) = (median(old), median(new));
    match value {
        Value::Score => format!("{word} (median {before:.3} -> {after:.3}, {apart})"),
        _ => format!("{word} (median {before:.1} -> {after:.1}, {apart})"),
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// The windows of a camera; `None`: there are too few parts.
fn windows(
    store: &Store,
    registry: &Registry,
    camera: &str,
    sizes: Sizes,
) -> Result<Option<Windows>, StoreError> {
    let of_camera = Filter { camera: Some(camera.to_owned()), ..Filter::default() };
    let Some(newest) = store.find(&of_camera, None, 0, 1)?.seqs.first().copied() else { return Ok(None) };
    let name = match store.get(newest) {
        Ok(Some(stored)) => stored.inspection.pipeline,
        Ok(None) | Err(StoreError::BadRecord { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    let Some(pipeline) = registry.pipeline(&name) else { return Ok(None) };
    let from_ms = judges_since(store, &pipeline)?.map(unix_ms);
    let filter = Filter { pipeline: Some(name), from_ms, ..of_camera };
    let (mut now, mut reference) =
        (Vec::with_capacity(sizes.now), VecDeque::with_capacity(sizes.reference + 1));
    store.scan(&filter, |seq, _, _| {
        if now.len() < sizes.now {
            now.push(seq);
            return;
        }
        reference.push_back(seq);
        if reference.len() > sizes.reference {
            reference.pop_front();
        }
    })?;
    let is_enough = reference.len() == sizes.reference;
    Ok(is_enough.then(|| Windows { pipeline, reference: reference.into(), now }))
}

/// Reads a window. One in `step` of its pictures is measured; `known` are those of earlier looks.
fn window(
    store: &Store,
    pipeline: &Pipeline,
    seqs: &[u64],
    step: usize,
    known: &BTreeMap<u64, Option<Measured>>,
    measured: &mut BTreeMap<u64, Option<Measured>>,
) -> Result<Window, StoreError> {
    let mut window = Window::default();
    for (place, seq) in seqs.iter().enumerate() {
        let stored = match store.get(*seq) {
            Ok(Some(stored)) => stored,
            Ok(None) | Err(StoreError::BadRecord { .. }) => continue,
            Err(error) => return Err(error),
        };
        window.push(Value::Verdict, verdict(&stored.inspection));
        let score = f64::from(stored.inspection.score);
        if !is_unjudged(&stored.inspection) && score.is_finite() {
            window.push(Value::Score, score);
        }
        // The reference keeps its places from look to look, and with them what was measured.
        if place % step != 0 {
            continue;
        }
        let look = || {
            let image = stored.image.as_ref()?;
            measure_of(&picture(store, &image.image)?, pipeline)
        };
        let found = known.get(seq).copied().unwrap_or_else(look);
        measured.insert(*seq, found);
        if let Some((brightness, sharpness)) = found {
            window.push(Value::Brightness, brightness);
            window.push(Value::Sharpness, sharpness);
        }
    }
    Ok(window)
}

fn verdict(inspection: &Inspection) -> f64 {
    match inspection.verdict.as_str() {
        "pass" => 0.0,
        "review" => 1.0,
        _ => 2.0,
    }
}

/// Brightness and sharpness of what the recipe inspects.
fn measure_of(pixels: &image::RgbImage, pipeline: &Pipeline) -> Option<Measured> {
    let corners = |rect: Rect| -> Region { [rect.x0, rect.y0, rect.x1, rect.y1] };
    let region = pipeline.frame.roi.map_or([0, 0, pixels.width(), pixels.height()], corners);
    let masks: Vec<Region> = pipeline.frame.mask.iter().copied().map(corners).collect();
    let measured = measure(pixels, region, &masks)?;
    Some((measured.brightness, measured.sharpness))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_alarms_than_before_are_named_until_they_are_as_many_again() {
        let (mut hours, mut total) = (AlarmHours::default(), 0);
        let mut look = |more: u64| {
            total += more;
            hours.look(total)
        };
        assert_eq!(look(50), None, "what came before the first look is of no hour");
        assert!((0..HOURS_MIN).all(|hour| look(u64::from(hour % 4 == 0)).is_none()));
        assert_eq!(look(2), None);
        let words = look(12).expect("twelve are more than a quarter an hour");
        assert_eq!(words, "alarms (12 in the last hour, 0.3 an hour before)");
        assert_eq!(look(0), None);
    }
}
