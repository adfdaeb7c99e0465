//! Which picture is of which triggered part: one rule for all sources.
//!
//! ```text
//! trigger ------------ next trigger
//!    |<-- window -->|       |
//! ---+--------------+-------+-------> exposures
//!  A | B            | C     | D
//!
//! A  older than the trigger: another part's; discarded and counted, the source is asked again
//! B  the part's own
//! C  later than the window: nobody's; the part is a review
//! D  after the next trigger: kept for that one; this part is a review
//! ```
//!
//! A picture is matched by the time of its exposure and never by counting, so that a lost picture costs one
//! part its verdict and not every later part its own picture.
//!
//! Some sources know the time of the exposure (cameras), some make the picture when it is ordered (the
//! simulator, recordings), and files only have the time of their arrival. There a picture that is late beyond its
//! window would lie in the window of a later part, and nothing tells it from that part's own. So, after a
//! part whose picture did not come, the parts that follow are in doubt until the missing picture cannot come any
//! more: until a trigger comes [`QUIET_WINDOWS`] windows after the one before it.
//!
//! Invariants:
//! - A frame is only ever `Mine` when it was exposed after its part's trigger, within the window, and before the
//!   next trigger.
//! - A clip counts with its first exposure from its trigger on, and with its last one before the next trigger.

use super::{CameraError, Source, Want};
use crate::domain::frame::Frame;
use std::time::{Duration, Instant, SystemTime};

/// So many windows without a trigger, and a picture that is missing never comes.
const QUIET_WINDOWS: u32 = 3;

/// What the time of a source's picture is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stamps {
    /// Of its exposure.
    Exposure,
    /// Of its arrival, some time after the exposure.
    Arrival,
    /// Of the order that made it.
    Order,
}

/// How pictures are matched with triggers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// From a trigger to the exposure of its part, at most. `None`: whatever the order makes is of its part.
    pub within: Option<Duration>,
    /// From an exposure to the moment at which the picture is here, at most.
    pub on_its_way: Duration,
    /// What the time of a picture is.
    pub stamps: Stamps,
}

/// What a picture is to the part that is waited for.
#[derive(Debug)]
enum Match {
    Mine(Box<Frame>),
    /// Of an earlier part, or of none: ask for the next.
    Older,
    /// The part has no picture of its own, for this reason.
    Missing(String),
}

/// What came of a trigger.
#[derive(Debug)]
pub enum Taken {
    /// The part's own picture.
    Frame(Box<Frame>),
    /// The part has no picture of its own, for this reason.
    Nothing(String),
    /// It has none, and its deadline has passed.
    Late,
    /// The source has ended.
    Over,
}

/// Matches the pictures of one camera.
#[derive(Debug)]
pub struct Window {
    rule: Rule,
    /// When the part that is waited for was triggered, and the one before it.
    received: Option<Instant>,
    /// A picture that was exposed after the trigger of the part after the one that it was taken for.
    held: Option<Box<Frame>>,
    /// Pictures that were older than the trigger of this part.
    older: u64,
    /// Pictures did not come, or cannot be told from those that did not.
    in_doubt: bool,
}

impl Window {
    /// Nothing is waited for yet.
    pub const fn new(rule: Rule) -> Self {
        Self { rule, received: None, held: None, older: 0, in_doubt: false }
    }

    /// The own picture of a part that was triggered at `received` and whose verdict is late at `late`; `next` tells
    /// when the part after it was triggered, as soon as it was.
    pub fn take(
        &mut self,
        source: &mut dyn Source,
        received: Instant,
        late: Option<Instant>,
        next: &dyn Fn() -> Option<Instant>,
    ) -> Taken {
        let want = self.begin(received, late);
        let is_late = || late.is_some_and(|late| Instant::now() >= late);
        let outcome = loop {
            if is_late() {
                break self.nothing_came();
            }
            let taken = match self.held() {
                Some(held) => Ok(Some(held)),
                None => source.take(want),
            };
            match taken {
                Ok(Some(frame)) => match self.judge(frame, next()) {
                    Match::Older => {}
                    outcome => break outcome,
                },
                Ok(None) => return Taken::Over,
                Err(CameraError::Late) => break self.nothing_came(),
                Err(error) => break self.missing(&error.to_string()),
            }
        };
        match outcome {
            Match::Mine(frame) => Taken::Frame(frame),
            Match::Missing(reason) if !is_late() => Taken::Nothing(reason),
            Match::Missing(_) | Match::Older => Taken::Late,
        }
    }

    /// A part that was triggered at `received` ends without having been waited for: its picture may still come.
    pub fn gave_up(&mut self, received: Instant) {
        self.received = Some(received);
        self.in_doubt |= self.rule.stamps == Stamps::Arrival;
    }

    /// A part was triggered; the one before it has had its outcome. Returns what to ask the source for, by
    /// `late` at most.
    fn begin(&mut self, received: Instant, late: Option<Instant>) -> Want {
        let quiet = self.rule.within.map(|within| within.saturating_mul(QUIET_WINDOWS));
        let since = self.received.map(|before| received.saturating_duration_since(before));
        if since.zip(quiet).is_none_or(|(since, quiet)| since >= quiet) {
            self.in_doubt = false;
        }
        self.received = Some(received);
        self.older = 0;
        let here = self.rule.within.and_then(|w| received.checked_add(w)?.checked_add(self.rule.on_its_way));
        Want { after: Some(received), by: [here, late].into_iter().flatten().min() }
    }

    /// A picture that was taken before and may be of this part.
    fn held(&mut self) -> Option<Frame> {
        self.held.take().map(|frame| *frame)
    }

    /// What a picture is to the part that is waited for; `next` is the trigger of the next part, if it came.
    fn judge(&mut self, frame: Frame, next: Option<Instant>) -> Match {
        let Some(received) = self.received else { return Match::Older };
        let last = frame.captured;
        let length = frame.clip.first().map_or(Duration::ZERO, |first| first.before);
        let first = last.checked_sub(length).unwrap_or(last);
        if first < received {
            self.older += 1;
            return Match::Older;
        }
        let Some(within) = self.rule.within else { return Match::Mine(Box::new(frame)) };
        let exposed = |at: Instant| {
            let after = at.saturating_duration_since(received).as_millis();
            format!(
                "a picture was exposed at {}, {after} ms after the trigger at {}",
                clock(at),
                clock(received)
            )
        };
        if let Some(next) = next.filter(|next| *next > received && *next <= last) {
            self.held = Some(Box::new(frame));
            return self.missing(&format!(
                "{}, and after the next trigger at {}",
                exposed(last),
                clock(next)
            ));
        }
        if first.saturating_duration_since(received) > within {
            self.held = Some(Box::new(frame));
            return self.missing(&format!("{}; allowed are {} ms", exposed(first), within.as_millis()));
        }
        if self.in_doubt {
            let doubt = "it may be another part's, because a picture before it did not come";
            return self.missing(&format!("{}: {doubt}", exposed(first)));
        }
        Match::Mine(Box::new(frame))
    }

    /// The part ends without a picture of its own; returns the reason with what else is known.
    fn missing(&mut self, reason: &str) -> Match {
        self.in_doubt = self.rule.stamps == Stamps::Arrival;
        Match::Missing(match self.older {
            0 => reason.to_owned(),
            1 => format!("{reason} (1 older picture was discarded)"),
            older => format!("{reason} ({older} older pictures were discarded)"),
        })
    }

    /// The reason when nothing came in time.
    fn nothing_came(&mut self) -> Match {
        let received = self.received.map_or_else(String::new, |at| format!(" at {}", clock(at)));
        let limit = self.rule.within.map_or(0, |within| within.as_millis());
        self.missing(&format!("no picture was exposed within {limit} ms after the trigger{received}"))
    }
}

/// A moment of the wall clock, as people and records write it.
fn clock(at: Instant) -> String {
    let (now, wall) = (Instant::now(), SystemTime::now());
    let then = match at.checked_duration_since(now) {
        Some(ahead) => wall.checked_add(ahead),
        None => wall.checked_sub(now.saturating_duration_since(at)),
    };
    let stamp = then.and_then(|then| jiff::Timestamp::try_from(then).ok());
    stamp.map_or_else(|| "an unknown time".into(), |t| t.strftime("%H:%M:%S%.3fZ").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::frame::{ClipPicture, Trigger};
    use image::RgbImage;
    use proptest::prelude::*;
    use std::sync::Arc;

    const MS: Duration = Duration::from_millis(1);

    fn rule(stamps: Stamps) -> Rule {
        Rule { within: Some(1_000 * MS), on_its_way: 500 * MS, stamps }
    }

    fn picture(captured: Instant) -> Frame {
        Frame { captured, ..Frame::without_picture("cam1", Trigger::default(), SystemTime::now()) }
    }

    fn reason(outcome: Match) -> String {
        match outcome {
            Match::Missing(reason) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_picture_from_before_the_trigger_is_discarded_and_counted() {
        let t = Instant::now() + 10_000 * MS;
        let mut window = Window::new(rule(Stamps::Exposure));
        let want = window.begin(t, Some(t + 8_000 * MS));
        assert_eq!(want, Want { after: Some(t), by: Some(t + 1_500 * MS) });
        assert!(matches!(window.judge(picture(t.checked_sub(MS).unwrap()), None), Match::Older));
        assert!(matches!(window.judge(picture(t.checked_sub(900 * MS).unwrap()), None), Match::Older));
        assert!(matches!(window.judge(picture(t), None), Match::Mine(_)));
        assert!(reason(window.nothing_came()).ends_with("(2 older pictures were discarded)"));
    }

    #[test]
    fn after_a_part_that_was_given_up_the_next_is_in_doubt() {
        let t = Instant::now();
        for (stamps, in_doubt) in [(Stamps::Arrival, true), (Stamps::Exposure, false)] {
            let mut window = Window::new(rule(stamps));
            window.gave_up(t);
            window.begin(t + 1_200 * MS, None);
            let outcome = window.judge(picture(t + 1_300 * MS), None);
            assert_eq!(matches!(outcome, Match::Missing(_)), in_doubt, "{outcome:?}");
            window.begin(t + 5_000 * MS, None);
            assert!(matches!(window.judge(picture(t + 5_100 * MS), None), Match::Mine(_)));
        }
    }

    #[test]
    fn a_picture_beyond_the_window_names_both_times_and_is_nobodys() {
        let t = Instant::now();
        let mut window = Window::new(rule(Stamps::Exposure));
        window.begin(t, None);
        assert!(matches!(window.judge(picture(t + 1_000 * MS), None), Match::Mine(_)));
        let words = reason(window.judge(picture(t + 1_001 * MS), None));
        assert!(
            words.contains("1001 ms after the trigger at ") && words.contains("allowed are 1000 ms"),
            "{words}"
        );
        assert_eq!(words.matches('Z').count(), 2, "{words}");
        // It is older than the next trigger.
        window.begin(t + 2_000 * MS, None);
        let held = window.held().unwrap();
        assert!(matches!(window.judge(held, None), Match::Older));
    }

    #[test]
    fn a_picture_after_the_next_trigger_is_the_next_parts() {
        let t = Instant::now();
        let mut window = Window::new(rule(Stamps::Exposure));
        window.begin(t, None);
        let next = t + 300 * MS;
        assert!(matches!(window.judge(picture(t + 299 * MS), Some(next)), Match::Mine(_)));
        assert!(reason(window.judge(picture(next), Some(next))).contains("next trigger"));
        window.begin(next, None);
        let held = window.held().unwrap();
        assert!(matches!(window.judge(held, None), Match::Mine(_)));
        assert!(window.held().is_none());
    }

    #[test]
    fn a_clip_begins_after_its_trigger_and_ends_before_the_next() {
        let t = Instant::now() + 10_000 * MS;
        let clip = |last: Instant| {
            let earlier = ClipPicture { pixels: Arc::new(RgbImage::new(1, 1)), before: 500 * MS };
            Frame { clip: vec![earlier], ..picture(last) }
        };
        let mut window = Window::new(rule(Stamps::Exposure));
        window.begin(t, None);
        assert!(matches!(window.judge(clip(t + 499 * MS), None), Match::Older));
        assert!(matches!(window.judge(clip(t + 1_500 * MS), None), Match::Mine(_)));
        assert!(matches!(window.judge(clip(t + 800 * MS), Some(t + 700 * MS)), Match::Missing(_)));
    }

    #[test]
    fn without_a_window_what_an_order_made_is_its_parts() {
        let t = Instant::now();
        let mut window = Window::new(Rule { within: None, on_its_way: 500 * MS, stamps: Stamps::Order });
        assert_eq!(window.begin(t, Some(t + 60_000 * MS)).by, Some(t + 60_000 * MS));
        assert!(matches!(window.judge(picture(t + 50_000 * MS), Some(t + MS)), Match::Mine(_)));
    }

    /// Arrivals cannot tell a late picture from the next part's own.
    #[test]
    fn after_a_missing_file_parts_are_in_doubt_until_it_cannot_come_any_more() {
        let t = Instant::now();
        let mut window = Window::new(rule(Stamps::Arrival));
        window.begin(t, None);
        let _ = window.nothing_came();
        for second in [1, 2, 4] {
            let trigger = t + second * 1_000 * MS;
            window.begin(trigger, None);
            assert!(
                reason(window.judge(picture(trigger + 100 * MS), None)).contains("may be another part's")
            );
        }
        let trigger = t + 7_000 * MS;
        window.begin(trigger, None);
        assert!(matches!(window.judge(picture(trigger + 100 * MS), None), Match::Mine(_)));
        let mut exact = Window::new(rule(Stamps::Exposure));
        exact.begin(t, None);
        let _ = exact.nothing_came();
        exact.begin(t + 1_000 * MS, None);
        assert!(
            matches!(exact.judge(picture(t + 1_100 * MS), None), Match::Mine(_)),
            "a lost picture costs one part"
        );
    }

    /// What happens to the picture of one part, by the time at which it is exposed or arrives.
    #[derive(Clone, Copy, Debug)]
    enum Fate {
        InTime(u64),
        Lost,
        /// Before its trigger, and after the window of the part before.
        Early(u64),
        /// Beyond its window.
        Late(u64),
        Doubled(u64, u64),
    }

    fn any_fate() -> impl Strategy<Value = Fate> {
        prop_oneof![
            6 => (1u64..900).prop_map(Fate::InTime),
            1 => Just(Fate::Lost),
            1 => (1u64..100).prop_map(Fate::Early),
            1 => (1_001u64..2_900).prop_map(Fate::Late),
            1 => (1u64..500, 1u64..400).prop_map(|(a, b)| Fate::Doubled(a, b)),
        ]
    }

    proptest! {
        /// Whatever is lost, early, late or doubled: no part gets another part's picture. With exposures as stamps
        /// a late picture is late on its way, and its exposure is in time.
        #[test]
        fn no_part_is_matched_with_another_parts_picture(
            parts in proptest::collection::vec((any_fate(), 1_100u64..6_000), 1..40),
            arrivals: bool,
        ) {
            let stamps = if arrivals { Stamps::Arrival } else { Stamps::Exposure };
            let start = Instant::now() + 10_000 * MS;
            let mut triggers = vec![];
            // Stamp, arrival and part of each picture, in milliseconds from the start.
            let mut pictures: Vec<(u64, u64, usize)> = vec![];
            let mut at = 2_000;
            for (part, (fate, gap)) in parts.iter().enumerate() {
                triggers.push(at);
                match *fate {
                    Fate::InTime(d) => pictures.push((at + d, at + d, part)),
                    Fate::Lost => {}
                    Fate::Early(d) => pictures.push((at - d, at - d, part)),
                    Fate::Late(d) if arrivals => pictures.push((at + d, at + d, part)),
                    Fate::Late(d) => pictures.push((at + 500, at + d, part)),
                    Fate::Doubled(a, b) => pictures.extend([(at + a, at + a, part), (at + a + b, at + a + b, part)]),
                }
                at += gap;
            }
            pictures.sort_by_key(|p| p.1);
            let mut here = pictures.into_iter().peekable();
            let mut window = Window::new(rule(stamps));
            let mut held_part = None;
            for (part, trigger) in triggers.iter().enumerate() {
                let next = triggers.get(part + 1).copied();
                let moment = |ms: u64| start + Duration::from_millis(ms);
                let want = window.begin(moment(*trigger), None);
                loop {
                    let (frame, of) = if let Some(frame) = window.held() {
                        (frame, held_part.take().unwrap())
                    } else {
                        let Some((stamp, _, of)) = here.next_if(|p| moment(p.1) <= want.by.unwrap()) else {
                            let _ = window.nothing_came();
                            break;
                        };
                        (picture(moment(stamp)), of)
                    };
                    // The next trigger is known only once it has come.
                    let known = next.filter(|next| moment(*next) <= frame.captured.max(want.by.unwrap()));
                    match window.judge(frame, known.map(moment)) {
                        Match::Mine(_) => {
                            prop_assert_eq!(of, part);
                            break;
                        }
                        Match::Older => {}
                        Match::Missing(_) => {
                            held_part = Some(of);
                            break;
                        }
                    }
                }
            }
        }
    }
}
