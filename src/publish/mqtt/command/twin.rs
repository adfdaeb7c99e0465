//! A second station of the same path: both publish on the same topics, and no reader can tell whose results those are.
//!
//! ```text
//! another instance is online, heard live --> suspected --its last word, or silence for QUIET--> alone again
//!                                               '--each minute: we say that we are online, too, so that the other hears
//! ```
//!
//! A retained status tells nothing: it may be the last word of our own former process. What is heard while we listen
//! comes from somebody who is there now.
//!
//! Invariants:
//! - The words of our own process raise nothing.
//! - An answer is given at most once in [`ANSWER_PAUSE`], so that two stations do not talk without end.

use std::time::{Duration, Instant};

/// After so long without a word the other has gone; a twin that suspects us speaks three times as often.
const QUIET: Duration = Duration::from_mins(3);
/// Between two answers.
const ANSWER_PAUSE: Duration = Duration::from_secs(10);

/// What a station says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Presence {
    /// Names its process; empty: a version that says none.
    pub instance: String,
    /// False: it has stopped, or its connection is gone.
    pub online: bool,
}

/// What to do about what was heard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Step {
    /// The alarm's text; empty: it is over. `None`: nothing changes.
    pub alarm: Option<String>,
    /// Say that we are there, too.
    pub answer: bool,
}

/// Whether there is another station of our path.
#[derive(Debug, Default)]
pub(super) struct Twin {
    /// The other instance, and when it was heard last.
    other: Option<(String, Instant)>,
    answered: Option<Instant>,
}

impl Twin {
    /// Somebody has spoken on our status topic just now.
    pub(super) fn heard(&mut self, own: &str, said: Presence, now: Instant) -> Step {
        if said.instance == own {
            return Step::default();
        }
        let is_known = self.other.as_ref().is_some_and(|(known, _)| *known == said.instance);
        if !said.online {
            // The last word of a former process of ours looks the same, and changes nothing.
            return if is_known { self.alone() } else { Step::default() };
        }
        let alarm = (!is_known).then(|| text(&said.instance));
        self.other = Some((said.instance, now));
        Step { alarm, answer: self.may_answer(now) }
    }

    /// A minute has passed.
    pub(super) fn minute(&mut self, now: Instant) -> Step {
        match &self.other {
            Some((_, heard)) if now.duration_since(*heard) >= QUIET => self.alone(),
            Some(_) => Step { alarm: None, answer: self.may_answer(now) },
            None => Step::default(),
        }
    }

    fn alone(&mut self) -> Step {
        self.other = None;
        Step { alarm: Some(String::new()), answer: false }
    }

    fn may_answer(&mut self, now: Instant) -> bool {
        let may = self.answered.is_none_or(|at| now.duration_since(at) >= ANSWER_PAUSE);
        if may {
            self.answered = Some(now);
        }
        may
    }
}

fn text(instance: &str) -> String {
    let whose = if instance.is_empty() { "of an older version" } else { instance };
    format!(
        "another station publishes under the same path (instance {whose}): results of both are mixed; give each its own \
         [station]"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "A";

    fn says(instance: &str, online: bool) -> Presence {
        Presence { instance: instance.to_owned(), online }
    }

    #[test]
    fn another_instance_is_told_once_and_answered_and_its_last_word_ends_it() {
        let start = Instant::now();
        let mut twin = Twin::default();
        assert_eq!(twin.heard(OWN, says(OWN, true), start), Step::default(), "our own echo");
        assert_eq!(twin.heard(OWN, says("B", false), start), Step::default(), "the will of a former process");
        let first = twin.heard(OWN, says("B", true), start);
        assert!(first.answer && first.alarm.is_some_and(|text| text.contains("(instance B)")));
        let again = twin.heard(OWN, says("B", true), start + Duration::from_secs(1));
        assert_eq!(again, Step::default(), "neither told nor answered twice");
        assert_eq!(twin.heard(OWN, says("C", false), start), Step::default(), "somebody else's end");
        let over = Step { alarm: Some(String::new()), answer: false };
        assert_eq!(twin.heard(OWN, says("B", false), start), over);
        assert_eq!(twin.minute(start), Step::default());
    }

    #[test]
    fn a_twin_that_says_nothing_any_more_is_forgotten() {
        let start = Instant::now();
        let mut twin = Twin::default();
        twin.heard(OWN, says("", true), start);
        let minute = Duration::from_mins(1);
        assert_eq!(twin.minute(start + minute), Step { alarm: None, answer: true });
        twin.heard(OWN, says("", true), start + minute);
        assert_eq!(twin.minute(start + 2 * minute), Step { alarm: None, answer: true });
        assert_eq!(twin.minute(start + minute + QUIET), Step { alarm: Some(String::new()), answer: false });
    }

    /// Each hears what the other says, without delay.
    #[test]
    fn two_stations_find_each_other_and_do_not_talk_without_end() {
        let now = Instant::now();
        let (mut a, mut b) = (Twin::default(), Twin::default());
        let mut words = 0;
        // B has come: A hears it.
        let mut step = a.heard("A", says("B", true), now);
        let mut speaker = "A";
        while step.answer {
            words += 1;
            (speaker, step) = match speaker {
                "A" => ("B", b.heard("B", says("A", true), now)),
                _ => ("A", a.heard("A", says("B", true), now)),
            };
        }
        assert_eq!(words, 2);
        assert!(a.other.is_some() && b.other.is_some(), "both know");
    }
}
