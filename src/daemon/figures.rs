//! What the line has counted since its start, for `/metrics`.
//!
//! ```text
//! recorder --stored inspections--> Figures <--alarms-- station
//!                                     '--probe, with queues, cameras, recipes, engine--> /metrics
//! ```
//!
//! Invariant: at most [`PAIRS_MAX`] pairs of camera and recipe, one more for each camera, and [`ALARMS_MAX`] alarms are
//! kept, whatever comes in.

use super::cameras::Waits;
use super::station::Station;
use crate::domain::grade::{Reason, Verdict};
use crate::domain::inspection::Inspection;
use crate::engine::{Engine, Readiness};
use crate::recipe::registry::{Recipe, Registry};
use crate::web::metrics::line::{self, Alarm, EngineFigures, Inspected, LineFigures};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::SystemTime;

/// Pairs of camera and recipe that are counted apart: more than a station has.
const PAIRS_MAX: usize = 512;
/// Stands for the recipes beyond that.
const OTHER: &str = "other";
/// Alarms that are kept by their codes.
const ALARMS_MAX: usize = 512;

/// What was counted.
#[derive(Default)]
pub(super) struct Figures {
    /// By camera and recipe.
    inspected: Mutex<BTreeMap<(String, String), Inspected>>,
    alarms: Mutex<BTreeMap<String, Alarm>>,
    /// Where the deadlines stand, once they are known.
    recipes: OnceLock<Arc<Registry>>,
}

impl Figures {
    /// The first call counts.
    fn know(&self, recipes: Arc<Registry>) {
        let _ = self.recipes.set(recipes);
    }

    /// Counts a stored inspection; `dropped` says that no room was left for its frame.
    pub(super) fn count(&self, inspection: &Inspection, dropped: bool) {
        let late = self.is_late(inspection);
        let mut all = lock(&self.inspected);
        let counted = entry(&mut all, &inspection.camera, &inspection.pipeline);
        let verdict = match inspection.verdict {
            Verdict::Pass => 0,
            Verdict::Fail(_) => 1,
            Verdict::Review(_) => 2,
        };
        counted.verdicts[verdict] += 1;
        counted.tiles_skipped += inspection.tiles_skipped() as u64;
        counted.last_s = since_1970_s(inspection.finished_at);
        if dropped {
            counted.dropped += 1;
        } else if !matches!(inspection.verdict.reason(), Some(Reason::Interrupted)) {
            // Nobody has timed what a former process left.
            counted.late += u64::from(late);
            counted.seconds.observe(inspection.latency.total_ms / 1e3);
        }
    }

    /// Its reason says so, or it was late and has another reason.
    fn is_late(&self, inspection: &Inspection) -> bool {
        let of_recipe = || {
            let recipe = self.recipes.get()?.get(&inspection.pipeline)?;
            Some(recipe.pipeline.verdict.deadline)
        };
        let deadline = inspection.trigger.deadline.or_else(of_recipe);
        let after = deadline.is_some_and(|d| inspection.latency.total_ms > d.as_secs_f64() * 1e3);
        after || matches!(inspection.verdict.reason(), Some(Reason::Deadline { .. }))
    }

    /// An alarm was published.
    pub(super) fn alarm(&self, code: &str, raised: bool) {
        let mut alarms = lock(&self.alarms);
        if !alarms.contains_key(code) && alarms.len() >= ALARMS_MAX {
            return;
        }
        let alarm = alarms.entry(code.to_owned()).or_default();
        // Said again after a reconnection, it is the same alarm.
        alarm.times += u64::from(raised && !alarm.raised);
        alarm.raised = raised;
    }

    /// How often those with these codes were raised since the start.
    pub(super) fn alarms_raised(&self, is_meant: impl Fn(&str) -> bool) -> u64 {
        lock(&self.alarms).iter().filter(|(code, _)| is_meant(code)).map(|(_, alarm)| alarm.times).sum()
    }

    fn read(&self, station: &Station) -> LineFigures {
        let cameras = station.cameras();
        let mut all = lock(&self.inspected);
        // Counters begin at 0, so that the first part is seen as one more.
        for (id, status) in cameras.iter().filter(|(_, status)| !status.line.pipeline.is_empty()) {
            entry(&mut all, id, &status.line.pipeline);
        }
        let inspected = all.values().cloned().collect();
        drop(all);
        let named = |(code, alarm): (&String, &Alarm)| Alarm { code: code.clone(), ..alarm.clone() };
        let alarms = lock(&self.alarms).iter().map(named).collect();
        LineFigures { inspected, cameras, alarms, ..LineFigures::default() }
    }
}

/// What is asked at every scrape; from now on what is late is told by these recipes. It holds nothing that has to end
/// with the line.
pub(super) fn probe(
    station: &Arc<Station>,
    recipes: &Arc<Registry>,
    waits: Vec<Waits>,
    engine: &Arc<Engine>,
) -> line::Figures {
    station.figures.know(Arc::clone(recipes));
    let (station, recipes, engine) = (Arc::clone(station), Arc::clone(recipes), Arc::downgrade(engine));
    Box::new(move || {
        let engine = engine.upgrade().map_or_else(EngineFigures::default, |engine| EngineFigures {
            ready: engine.readiness() == Readiness::Ready,
            failures: engine.failures(),
        });
        let deadline = |recipe: Arc<Recipe>| {
            let pipeline = &recipe.pipeline;
            (pipeline.name.clone(), pipeline.verdict.deadline.as_secs_f64())
        };
        LineFigures {
            waiting: waits.iter().map(Waits::read).collect(),
            deadlines: recipes.all().into_iter().map(deadline).collect(),
            engine,
            ..station.figures.read(&station)
        }
    })
}

/// The counts of a pair; beyond the number that is kept, those of all other recipes of the camera.
fn entry<'a>(
    all: &'a mut BTreeMap<(String, String), Inspected>,
    camera: &str,
    recipe: &str,
) -> &'a mut Inspected {
    let pair = |recipe: &str| (camera.to_owned(), recipe.to_owned());
    let recipe = if all.len() < PAIRS_MAX || all.contains_key(&pair(recipe)) { recipe } else { OTHER };
    all.entry(pair(recipe)).or_insert_with(|| Inspected::new(camera, recipe))
}

fn since_1970_s(at: SystemTime) -> f64 {
    at.duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::inspection::SkippedTile;
    use crate::domain::rect::Rect;
    use crate::recipe::pipeline_from_str;
    use crate::store::tests::sample;
    use std::time::Duration;

    fn timed(total_ms: f64, verdict: Verdict) -> Inspection {
        let mut inspection = sample(1);
        (inspection.latency.total_ms, inspection.verdict) = (total_ms, verdict);
        inspection
    }

    /// Verdicts, late, dropped, timed.
    fn counts(figures: &Figures, recipe: &str) -> ([u64; 3], u64, u64, u64) {
        let all = lock(&figures.inspected);
        let of = &all[&("cam1".to_owned(), recipe.to_owned())];
        (of.verdicts, of.late, of.dropped, of.seconds.count())
    }

    #[test]
    fn what_is_late_dropped_or_interrupted_is_counted_as_such() {
        let figures = Figures::default();
        // The trigger's own deadline is 8 s.
        figures.count(&timed(7999.0, Verdict::Pass), false);
        assert_eq!(counts(&figures, "machined-plate"), ([1, 0, 0], 0, 0, 1));
        // The engine failed, and it was late as well.
        let engine = Reason::Engine { message: "lost".into() };
        figures.count(&timed(8001.0, Verdict::Review(engine)), false);
        assert_eq!(counts(&figures, "machined-plate"), ([1, 0, 1], 1, 0, 2));
        figures.count(&timed(9000.0, Verdict::Review(Reason::QueueFull)), true);
        assert_eq!(counts(&figures, "machined-plate"), ([1, 0, 2], 1, 1, 2));
        figures.count(&timed(9000.0, Verdict::Review(Reason::Interrupted)), false);
        assert_eq!(counts(&figures, "machined-plate"), ([1, 0, 3], 1, 1, 2));
        figures.count(&timed(f64::NAN, Verdict::Fail(Reason::Finding { label: "pit".into() })), false);
        assert_eq!(counts(&figures, "machined-plate"), ([1, 1, 3], 1, 1, 2), "no time is none");
    }

    #[test]
    fn without_a_deadline_of_its_own_a_part_has_its_recipes() {
        let text = include_str!("../../pipelines/photo.toml");
        let photo = pipeline_from_str("photo.toml", text).unwrap();
        let after_ms = (photo.verdict.deadline + Duration::from_millis(1)).as_secs_f64() * 1e3;
        let mut part = timed(after_ms, Verdict::Pass);
        (part.pipeline, part.trigger.deadline) = (photo.name.clone(), None);
        let figures = Figures::default();
        figures.count(&part, false);
        assert_eq!(counts(&figures, &photo.name).1, 0, "nobody knows its deadline");
        figures.know(Arc::new(Registry::new([Recipe::of(&photo)])));
        figures.count(&part, false);
        assert_eq!(counts(&figures, &photo.name).1, 1);
        part.verdict = Verdict::Review(Reason::Deadline { late_ms: 1 });
        part.latency.total_ms = 0.0;
        figures.count(&part, false);
        assert_eq!(counts(&figures, &photo.name).1, 2, "by its reason");
    }

    #[test]
    fn skipped_tiles_are_counted_each_once() {
        let figures = Figures::default();
        let skipped = |prompt: &str, tile| SkippedTile {
            prompt: prompt.into(),
            tile,
            rect: Rect::new(0, 0, 64, 64),
            by: "good".into(),
            doubt: 0.1,
            below: 0.2,
        };
        let skipped = vec![skipped("a", 3), skipped("b", 3), skipped("a", 5)];
        figures.count(&Inspection { skipped, ..timed(1.0, Verdict::Pass) }, false);
        figures.count(&timed(1.0, Verdict::Pass), false);
        let all = lock(&figures.inspected);
        assert_eq!(all[&("cam1".to_owned(), "machined-plate".to_owned())].tiles_skipped, 2);
    }

    #[test]
    fn an_alarm_that_is_said_again_is_the_same_alarm() {
        let figures = Figures::default();
        for raised in [false, true, true, false, true] {
            figures.alarm("engine", raised);
        }
        let alarm = lock(&figures.alarms)["engine"].clone();
        assert_eq!((alarm.raised, alarm.times), (true, 2));
    }

    #[test]
    fn names_without_end_take_no_memory_without_end() {
        let figures = Figures::default();
        for n in 0..2 * PAIRS_MAX {
            let part = Inspection { pipeline: format!("recipe{n}"), ..timed(1.0, Verdict::Pass) };
            figures.count(&part, false);
            figures.alarm(&format!("recipe_{n}"), true);
        }
        assert_eq!(lock(&figures.inspected).len(), PAIRS_MAX + 1);
        assert_eq!(counts(&figures, OTHER).0[0], PAIRS_MAX as u64, "and nothing is lost");
        assert_eq!(lock(&figures.alarms).len(), ALARMS_MAX);
    }
}
