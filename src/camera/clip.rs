//! Clips: a source whose frames bring the pictures before them along, as the pipeline in force says.
//!
//! ```text
//! Source --next--> first --interval has passed--> … --> last: the frame, with the others in `clip`
//!                    |                                   ^
//!                    '-- fault, end, stop, too late -----'   with fewer pictures: never inspected
//! ```
//!
//! What kind of source it is does not matter here, only which clock its pictures have: one that runs with
//! ours is waited for, a recording's pictures are dropped until the film has come so far, and files,
//! which have none, count as one interval apart. A hardware-triggered camera takes no clips, because each
//! of its pictures is a part: it is not wrapped.
//!
//! Invariants:
//! - Two pictures of a clip are at least the interval apart by the source's clock.
//! - A picture that was taken is handed on, even where its clip stays too short: the line sees that it is
//!   and reviews it, so that no triggered part is lost.

use super::{CameraError, Source, Stop, Want};
use crate::domain::frame::{ClipPicture, Frame};
use crate::domain::pipeline::ClipRule;
use std::time::{Duration, Instant};

/// Asked before every picture, because a command may change the pipeline at any moment.
pub(crate) type Rule = Box<dyn Fn() -> Option<ClipRule> + Send>;

/// A source of clips, and of stills while the rule says so.
pub(crate) struct Clips {
    source: Box<dyn Source>,
    rule: Rule,
    stop: Stop,
    /// A fault that cut a clip short and was not reported yet.
    fault: Option<CameraError>,
}

impl Clips {
    /// Makes clips of a source's pictures.
    pub(crate) const fn new(source: Box<dyn Source>, rule: Rule, stop: Stop) -> Self {
        Self { source, rule, stop, fault: None }
    }

    /// The picture of the clip that follows `last`; `None` when none will.
    fn following(
        &mut self,
        last: &Frame,
        interval: Duration,
        want: Want,
    ) -> Result<Option<Frame>, CameraError> {
        if last.exposed.is_some() && !last.replayed {
            let due = last.captured + interval;
            if self.stop.wait_until(want.by.map_or(due, |by| by.min(due))) || Instant::now() < due {
                return Ok(None);
            }
        }
        loop {
            let Some(next) = self.source.take(want)? else { return Ok(None) };
            let is_near = match (last.exposed, next.exposed) {
                // Backwards: the source's process was restarted, and its film with it.
                (Some(last), Some(next)) => next.checked_sub(last).is_some_and(|gap| gap < interval),
                _ => false,
            };
            if !is_near {
                return Ok(Some(next));
            }
        }
    }
}

impl Source for Clips {
    fn take(&mut self, want: Want) -> Result<Option<Frame>, CameraError> {
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        let Some(mut last) = self.source.take(want)? else { return Ok(None) };
        // Each with the time from its exposure to that of the picture after it.
        let mut earlier: Vec<(Frame, Duration)> = vec![];
        while let Some(rule) = (self.rule)().filter(|rule| earlier.len() + 1 < rule.frames) {
            match self.following(&last, rule.interval, want) {
                Ok(Some(next)) => match (last.exposed, next.exposed) {
                    (Some(before), Some(after)) if after < before => {
                        // On another clock nothing is known about the time between: the clip begins anew.
                        earlier.clear();
                        last = next;
                    }
                    (before, after) => {
                        let gap = before
                            .zip(after)
                            .map_or(rule.interval, |(before, after)| after.saturating_sub(before));
                        earlier.push((std::mem::replace(&mut last, next), gap));
                    }
                },
                Ok(None) => break,
                Err(error) => {
                    tracing::error!(camera = %last.camera, %error, "a clip is cut short");
                    // Who waits for a triggered part has its frame; a fault of before would meet the next part.
                    self.fault = want.by.is_none().then_some(error);
                    break;
                }
            }
        }
        // The rule may have become a still's meanwhile.
        if (self.rule)().is_some() {
            let mut before = Duration::ZERO;
            for (frame, gap) in earlier.into_iter().rev() {
                before += gap;
                last.clip.insert(0, ClipPicture { pixels: frame.pixels, before });
            }
        }
        Ok(Some(last))
    }

    fn forget(&mut self) {
        self.source.forget();
    }

    fn reports_itself(&self) -> bool {
        self.source.reports_itself()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::frame::Trigger;
    use image::RgbImage;
    use std::collections::VecDeque;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::SystemTime;

    /// Frames with these times in milliseconds, or without; an error in between is a word.
    struct Script(VecDeque<Result<Option<u64>, &'static str>>);

    impl Source for Script {
        fn take(&mut self, _: Want) -> Result<Option<Frame>, CameraError> {
            let Some(next) = self.0.pop_front() else { return Ok(None) };
            let ms = next.map_err(|reason| CameraError::Device { reason: reason.into() })?;
            Ok(Some(Frame {
                camera: "cam1".into(),
                pixels: Arc::new(RgbImage::from_pixel(1, 1, image::Rgb([ms.unwrap_or(0) as u8; 3]))),
                captured_at: SystemTime::now(),
                captured: Instant::now(),
                exposed: ms.map(Duration::from_millis),
                clip: vec![],
                trigger: Trigger::default(),
                origin: format!("{ms:?}"),
                replayed: true,
            }))
        }
    }

    fn rule(frames: usize, ms: u64) -> Option<ClipRule> {
        Some(ClipRule { frames, interval: Duration::from_millis(ms) })
    }

    fn clips(
        frames: impl IntoIterator<Item = Result<Option<u64>, &'static str>>,
        rule: Option<ClipRule>,
    ) -> Clips {
        let script = Script(frames.into_iter().collect());
        Clips::new(Box::new(script), Box::new(move || rule), Stop::default())
    }

    /// The frame's origin, and how long before it each of its other pictures was taken.
    fn times(frame: &Frame) -> (String, Vec<u128>) {
        (frame.origin.clone(), frame.clip.iter().map(|p| p.before.as_millis()).collect())
    }

    fn film(every_ms: u64) -> impl Iterator<Item = Result<Option<u64>, &'static str>> {
        (0..20).map(move |i| Ok(Some(every_ms * i)))
    }

    #[test]
    fn a_film_gives_pictures_that_are_the_interval_apart() {
        let mut source = clips(film(40), rule(3, 100));
        let frame = source.next().unwrap().unwrap();
        assert_eq!(times(&frame), ("Some(240)".into(), vec![240, 120]));
        assert_eq!(frame.clip[0].pixels.get_pixel(0, 0).0[0], 0, "oldest first");
        assert_eq!(frame.clip[1].pixels.get_pixel(0, 0).0[0], 120);
        assert_eq!(times(&source.next().unwrap().unwrap()), ("Some(520)".into(), vec![240, 120]));
        assert_eq!(times(&source.next().unwrap().unwrap()).1, [120], "the film ends inside this clip");
        assert!(source.next().unwrap().is_none());
    }

    #[test]
    fn files_without_a_clock_count_as_the_interval_apart() {
        let mut source = clips([Ok(None), Ok(None), Ok(None), Ok(None)], rule(2, 250));
        assert_eq!(times(&source.next().unwrap().unwrap()).1, [250]);
        assert_eq!(times(&source.next().unwrap().unwrap()).1, [250]);
        assert!(source.next().unwrap().is_none());
    }

    #[test]
    fn without_a_rule_every_picture_is_a_still() {
        let mut source = clips(film(40), None);
        assert_eq!(times(&source.next().unwrap().unwrap()), ("Some(0)".into(), vec![]));
        assert_eq!(times(&source.next().unwrap().unwrap()), ("Some(40)".into(), vec![]));
    }

    #[test]
    fn a_fault_inside_a_clip_loses_neither_its_pictures_nor_itself() {
        let script = || [Ok(Some(0)), Ok(Some(100)), Err("EIO"), Ok(Some(300)), Ok(Some(400)), Ok(Some(500))];
        let mut source = clips(script(), rule(3, 100));
        assert_eq!(times(&source.next().unwrap().unwrap()), ("Some(100)".into(), vec![100]));
        assert_eq!(source.next().unwrap_err().to_string(), "EIO");
        assert_eq!(times(&source.next().unwrap().unwrap()), ("Some(500)".into(), vec![200, 100]));
        let mut triggered = clips(script(), rule(3, 100));
        let want = Want::by(Instant::now() + Duration::from_mins(1));
        assert_eq!(times(&triggered.take(want).unwrap().unwrap()).1, [100]);
        let next = triggered.take(want).unwrap().unwrap();
        assert_eq!(times(&next).1, [200, 100], "the next part has nothing to do with the fault");
    }

    #[test]
    fn a_clock_that_jumps_back_begins_the_clip_anew() {
        let mut source = clips([900, 1000, 50, 150, 250].map(|ms| Ok(Some(ms))), rule(3, 100));
        assert_eq!(times(&source.next().unwrap().unwrap()), ("Some(250)".into(), vec![200, 100]));
    }

    /// A source that runs by our clock.
    struct Live;

    impl Source for Live {
        fn take(&mut self, _: Want) -> Result<Option<Frame>, CameraError> {
            let frame = Script([Ok(None)].into()).next()?;
            let exposed = Some(Duration::from_nanos(crate::camera::device::monotonic_ns()));
            Ok(frame.map(|frame| Frame { exposed, replayed: false, ..frame }))
        }
    }

    #[test]
    fn a_live_source_is_waited_for_but_not_beyond_the_deadline() {
        let of = |ms| Clips::new(Box::new(Live), Box::new(move || rule(2, ms)), Stop::default());
        let frame = of(30).next().unwrap().unwrap();
        assert!(frame.clip[0].before >= Duration::from_millis(30), "{:?}", frame.clip[0].before);
        let want = Want::by(Instant::now() + Duration::from_millis(20));
        assert!(of(3_600_000).take(want).unwrap().unwrap().clip.is_empty(), "an hour is not waited for");
    }

    #[test]
    fn a_stop_ends_the_wait_of_a_live_source() {
        let stop = Stop::default();
        stop.set();
        let mut source = Clips::new(Box::new(Live), Box::new(|| rule(2, 3_600_000)), stop);
        assert!(source.next().unwrap().unwrap().clip.is_empty());
    }

    #[test]
    fn a_pipeline_that_changes_inside_a_clip_ends_it() {
        let asked = AtomicUsize::new(0);
        let rule = move || if asked.fetch_add(1, Ordering::Relaxed) == 0 { rule(4, 40) } else { None };
        let script = Script(film(40).collect());
        let mut source = Clips::new(Box::new(script), Box::new(rule), Stop::default());
        assert_eq!(times(&source.next().unwrap().unwrap()), ("Some(40)".into(), vec![]));
    }
}
