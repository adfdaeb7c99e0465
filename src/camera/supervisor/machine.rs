//! The life of one capture child, as a state machine without clock, process or socket.
//!
//! ```text
//!          .------------- spawned -------------.
//!          v                                   |
//! +----> Starting --opened--> Running          |
//! |         |                    |             |
//! |   refused, closed,      no picture, the same picture again and again,
//! |   not open in time      a bad message, closed, fault
//! |         '--------+-----------'             |
//! |                  v                         |
//! '--- due, or the device came back --- Waiting
//!                                          (the child is dead)
//! ```
//!
//! Waits double from [`BACKOFF_MIN`] to [`BACKOFF_MAX`], each by chance between half and all of it, so that
//! cameras that fell together do not rise together; [`CALM`] without a fault makes the next one short
//! again. A device that was seen to be away is not tried until it is seen again, and then at once, or
//! after [`AWAY_TRY`] in case that looking deceives.
//!
//! A dead camera is reported within 5 s: a silent child is ended, and one that still opens its device is
//! reported, after [`Limits::picture`]. It is back within 10 s of its return: at worst a child has just begun
//! to hang in opening the device ([`Limits::open`], long enough for a child on a busy machine). What
//! opening took counts as waiting, so that the next one then follows after [`BACKOFF_MIN`].
//!
//! At most `restarts_per_hour` restarts begin in any hour: half of them when they are needed, the
//! others spread evenly, so that a device that fails for a day is still tried every minute.

use crate::camera::wire::Alive;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The first wait after a fault.
pub(crate) const BACKOFF_MIN: Duration = Duration::from_millis(250);
/// The longest wait after a fault.
pub(crate) const BACKOFF_MAX: Duration = Duration::from_secs(3);
/// A device that is away is tried all the same after so long.
pub(crate) const AWAY_TRY: Duration = Duration::from_mins(1);
/// A look at a device that is away puts off its next try for so long.
const AWAY_WAIT: Duration = Duration::from_secs(2);
/// A child that ran for so long without a fault has forgotten the ones before.
pub(crate) const CALM: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);

/// How patient the supervisor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From the start of the child to its open device.
    pub open: Duration,
    /// Without a picture that was due.
    pub picture: Duration,
    /// With the same picture again and again; zero: never mind, as for a camera that films a still.
    pub frozen: Duration,
    /// The most new starts within an hour; the second half of them is spread over it.
    pub restarts_per_hour: usize,
}

impl Default for Limits {
    fn default() -> Self {
        // A child says every half second how it is, so that a fault is seen half a second later than these.
        let (open, picture, frozen) = (8_000, 3_500, 3_500);
        let ms = Duration::from_millis;
        Self { open: ms(open), picture: ms(picture), frozen: ms(frozen), restarts_per_hour: 120 }
    }
}

/// Where the child is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It was started and has not yet reported that its device is open.
    Starting {
        since: Instant,
        /// That it takes long was reported.
        reported: bool,
    },
    /// Pictures come, or could.
    Running {
        since: Instant,
        /// The last picture, or the last moment at which none was due.
        fresh: Instant,
        /// The last picture that differed from the one before it.
        changed: Instant,
    },
    /// There is no child.
    Waiting { since: Instant, until: Instant, reason: String },
}

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Nothing,
    Spawn,
    /// Say that there are no pictures for this reason; the child goes on.
    Report(String),
    /// End the child for this reason; the machine waits already.
    Kill(String),
}

/// The machine of one camera.
pub(crate) struct Machine {
    pub state: State,
    limits: Limits,
    /// Faults without [`CALM`] between them.
    faults: u32,
    /// When the restarts of the last hour began.
    restarts: VecDeque<Instant>,
    last: Alive,
    /// The device was looked for and not found since the last fault.
    was_away: bool,
    /// A number in 0..1 for each wait.
    chance: fn() -> f64,
}

impl Machine {
    /// A machine that starts its first child at once.
    pub(crate) fn new(now: Instant, limits: Limits, chance: fn() -> f64) -> Self {
        Self {
            state: State::Waiting { since: now, until: now, reason: String::new() },
            limits,
            faults: 0,
            restarts: VecDeque::new(),
            last: Alive::default(),
            was_away: false,
            chance,
        }
    }

    /// Waiting -> Starting, when the wait is over; Starting and Running -> Waiting, when the child was
    /// silent for too long. Starting -> Starting, reported, when opening takes longer than a picture may.
    pub(crate) fn tick(&mut self, now: Instant) -> Step {
        let over = |since: Instant, limit: Duration| now.saturating_duration_since(since) > limit;
        let ms = |limit: Duration| limit.as_millis();
        let silent = match &mut self.state {
            State::Waiting { until, .. } if now >= *until => return self.spawn(now),
            State::Waiting { .. } => None,
            State::Starting { since, reported } => {
                if !*reported && over(*since, self.limits.picture) {
                    *reported = true;
                    return Step::Report(format!(
                        "the device is not open after {} ms",
                        ms(self.limits.picture)
                    ));
                }
                over(*since, self.limits.open)
                    .then(|| format!("the device was not open after {} ms", ms(self.limits.open)))
            }
            State::Running { fresh, changed, .. } => {
                let frozen = !self.limits.frozen.is_zero() && over(*changed, self.limits.frozen);
                if over(*fresh, self.limits.picture) {
                    Some(format!("no picture for {} ms", ms(self.limits.picture)))
                } else {
                    frozen.then(|| format!("the same picture for {} ms", ms(self.limits.frozen)))
                }
            }
        };
        silent.map_or(Step::Nothing, |reason| self.fault(now, reason))
    }

    fn spawn(&mut self, now: Instant) -> Step {
        self.restarts.push_back(now);
        self.last = Alive::default();
        self.state = State::Starting { since: now, reported: false };
        Step::Spawn
    }

    /// Starting -> Running.
    pub(crate) fn opened(&mut self, now: Instant) {
        self.was_away = false;
        self.state = State::Running { since: now, fresh: now, changed: now };
    }

    /// Running -> Running: the child lives; whether its device does is in its words.
    pub(crate) fn alive(&mut self, now: Instant, alive: Alive) {
        if let State::Running { fresh, changed, .. } = &mut self.state {
            let came = alive.pictures > self.last.pictures;
            if came || alive.idle {
                *fresh = now;
            }
            // A stuck picture needs pictures: when none is due, nothing is stuck.
            if alive.checksum != self.last.checksum || !came {
                *changed = now;
            }
            self.last = alive;
        }
    }

    /// Starting, Running -> Waiting.
    pub(crate) fn fault(&mut self, now: Instant, reason: String) -> Step {
        if let State::Running { since, .. } = self.state
            && now.saturating_duration_since(since) >= CALM
        {
            self.faults = 0;
        }
        let doubled = BACKOFF_MIN.saturating_mul(1 << self.faults.min(16)).min(BACKOFF_MAX);
        self.faults += 1;
        let opening = match self.state {
            State::Starting { since, .. } => now.saturating_duration_since(since),
            _ => Duration::ZERO,
        };
        let wait = doubled.saturating_sub(opening).max(BACKOFF_MIN).mul_f64(0.5 + 0.5 * (self.chance)());
        let until = (now + wait).max(self.allowed(now));
        self.was_away = false;
        self.state = State::Waiting { since: now, until, reason: reason.clone() };
        Step::Kill(reason)
    }

    /// When the next restart may begin, so that no hour sees too many.
    fn allowed(&mut self, now: Instant) -> Instant {
        while self.restarts.front().is_some_and(|first| now.saturating_duration_since(*first) >= HOUR) {
            self.restarts.pop_front();
        }
        let limit = self.limits.restarts_per_hour.max(1);
        let at_once = limit.div_ceil(2);
        let spread = HOUR / (limit - at_once).max(1) as u32;
        match (self.restarts.front(), self.restarts.back()) {
            (Some(first), _) if self.restarts.len() >= limit => *first + HOUR,
            (_, Some(last)) if self.restarts.len() >= at_once => *last + spread,
            _ => now,
        }
    }

    /// Waiting -> Waiting: put off while the device is away, cut short when it is back.
    pub(crate) fn seen(&mut self, now: Instant, there: bool) {
        let back = there && self.was_away;
        let allowed = self.allowed(now);
        if let State::Waiting { since, until, .. } = &mut self.state {
            self.was_away = !there;
            if back {
                *until = allowed;
                self.faults = 0;
            } else if !there {
                *until = (*until).max((now + AWAY_WAIT).min(*since + AWAY_TRY));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn machine(now: Instant) -> Machine {
        Machine::new(now, Limits::default(), || 1.0)
    }

    fn running(now: Instant) -> Machine {
        let mut machine = machine(now);
        assert_eq!(machine.tick(now), Step::Spawn);
        machine.opened(now);
        machine
    }

    fn alive(pictures: u64, checksum: u32) -> Alive {
        Alive { pictures, checksum, ..Alive::default() }
    }

    fn until(machine: &Machine) -> Instant {
        match machine.state {
            State::Waiting { until, .. } => until,
            ref other => panic!("{other:?}"),
        }
    }

    #[test]
    fn waiting_starting_running() {
        let t = Instant::now();
        let mut m = machine(t);
        assert_eq!(m.tick(t), Step::Spawn);
        assert_eq!(m.state, State::Starting { since: t, reported: false });
        assert_eq!(m.tick(t + ms(3_000)), Step::Nothing);
        m.opened(t + ms(3_000));
        assert!(matches!(m.state, State::Running { .. }));
    }

    #[test]
    fn starting_to_waiting_when_the_device_does_not_open() {
        let t = Instant::now();
        let mut m = machine(t);
        assert_eq!(m.tick(t), Step::Spawn);
        assert!(matches!(m.tick(t + ms(3_501)), Step::Report(r) if r.contains("is not open")));
        assert_eq!(m.tick(t + ms(7_999)), Step::Nothing, "it is reported once");
        assert!(matches!(m.tick(t + ms(8_001)), Step::Kill(r) if r.contains("was not open")));
        assert_eq!(until(&m), t + ms(8_251));
    }

    #[test]
    fn what_opening_took_counts_as_waiting() {
        let mut t = Instant::now();
        let mut m = machine(t);
        for _ in 0..6 {
            assert_eq!(m.tick(t), Step::Spawn);
            m.tick(t + ms(8_001));
            assert!(matches!(m.tick(t + ms(8_002)), Step::Kill(_)));
            assert_eq!(until(&m), t + ms(8_252), "however many hung before");
            t = until(&m);
        }
        assert_eq!(m.tick(t), Step::Spawn);
        m.fault(t + ms(1_000), "EIO".into());
        assert_eq!(until(&m), t + ms(3_000), "an opening of a second leaves two of three to wait");
    }

    #[test]
    fn running_to_waiting_without_a_picture() {
        let t = Instant::now();
        let mut m = running(t);
        m.alive(t + ms(500), alive(5, 1));
        // The child lives on and on, but its device does not.
        for i in 1..=7 {
            m.alive(t + ms(500 + 500 * i), alive(5, 1));
            assert_eq!(m.tick(t + ms(500 + 500 * i)), Step::Nothing, "{i}");
        }
        assert!(matches!(m.tick(t + ms(4_001)), Step::Kill(r) if r.contains("no picture")));
    }

    #[test]
    fn running_to_waiting_when_the_child_is_silent() {
        let t = Instant::now();
        let mut m = running(t);
        assert_eq!(m.tick(t + ms(3_500)), Step::Nothing);
        assert!(matches!(m.tick(t + ms(3_501)), Step::Kill(_)));
    }

    #[test]
    fn running_to_waiting_with_a_frozen_picture() {
        let t = Instant::now();
        let mut m = running(t);
        m.alive(t, alive(1, 7));
        for i in 1..=7 {
            m.alive(t + ms(500 * i), alive(1 + 5 * i, 7));
            assert_eq!(m.tick(t + ms(500 * i)), Step::Nothing, "{i}");
        }
        assert!(matches!(m.tick(t + ms(3_501)), Step::Kill(r) if r.contains("same picture")));
    }

    #[test]
    fn running_stays_while_no_picture_is_due() {
        let t = Instant::now();
        let mut m = running(t);
        for i in 0..100 {
            m.alive(t + ms(500 * i), Alive { idle: true, ..alive(1, 7) });
            assert_eq!(m.tick(t + ms(500 * i)), Step::Nothing, "{i}");
        }
    }

    #[test]
    fn waits_double_until_a_calm_minute() {
        let mut t = Instant::now();
        let mut m = machine(t);
        for wait in [250, 500, 1_000, 2_000, 3_000, 3_000] {
            assert_eq!(m.tick(t), Step::Spawn);
            assert_eq!(m.fault(t, "EIO".into()), Step::Kill("EIO".into()));
            assert_eq!(until(&m), t + ms(wait));
            assert_eq!(m.tick(t + ms(wait - 1)), Step::Nothing);
            t = until(&m);
        }
        assert_eq!(m.tick(t), Step::Spawn);
        m.opened(t);
        let later = t + CALM;
        m.fault(later, "EIO".into());
        assert_eq!(until(&m), later + ms(250));
    }

    #[test]
    fn a_wait_is_cut_short_when_the_device_comes_back() {
        let mut t = Instant::now();
        let mut m = machine(t);
        for _ in 0..6 {
            assert_eq!(m.tick(t), Step::Spawn);
            m.fault(t, "no device".into());
            t = until(&m);
        }
        assert_eq!(m.tick(t), Step::Spawn);
        m.fault(t, "no device".into());
        m.seen(t + ms(10), true);
        assert_eq!(m.tick(t + ms(10)), Step::Nothing, "it was never away: this says nothing");
        m.seen(t + ms(20), false);
        m.seen(t + ms(700), true);
        assert_eq!(m.tick(t + ms(700)), Step::Spawn);
    }

    #[test]
    fn a_device_that_is_away_is_not_tried_but_for_a_look_a_minute() {
        let t = Instant::now();
        let mut m = machine(t);
        assert_eq!(m.tick(t), Step::Spawn);
        m.fault(t, "no device".into());
        let mut tried = None;
        for half in 1..200 {
            let now = t + ms(500 * half);
            m.seen(now, false);
            if m.tick(now) == Step::Spawn {
                tried = Some(now - t);
                break;
            }
        }
        assert_eq!(tried, Some(AWAY_TRY));
    }

    /// A device that comes and goes as fast as it can is started 120 times in each hour, not more, and is
    /// never left alone for longer than a minute.
    #[test]
    fn no_hour_sees_more_than_120_restarts_and_no_minute_passes_without_one() {
        let start = Instant::now();
        let mut m = machine(start);
        let mut spawns = Vec::new();
        for second in 0..3 * 3600 {
            let now = start + Duration::from_secs(second);
            m.seen(now, second.is_multiple_of(2));
            if m.tick(now) == Step::Spawn {
                spawns.push(now);
                m.fault(now, "gone".into());
            }
        }
        for (i, first) in spawns.iter().enumerate() {
            let within = spawns[i..].iter().take_while(|at| **at < *first + HOUR).count();
            assert!(within <= 120, "{within} from restart {i}");
        }
        let longest = spawns.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
        assert!(longest <= Duration::from_secs(64), "{longest:?} without a try");
    }
}
