//! The handshake of one camera with its PLC: a pure state machine, which knows no network and no clock of its own.
//!
//! ```text
//! writes of control words, results, outcomes of commands, ticks --> Handshake --> Image, Actions
//!
//! trigger      idle --trigger rises, ready--> asked (trigger_count + 1) --taken--> trigger_ack --trigger falls--> idle
//!                '--not ready--> error, error_code              '--refused--> error, error_code; idle
//! part         asked --taken, its result by its correlation id--> buffer of 10 --full--> overrun, dropped + 1
//!                '--no result in its deadline--> review(deadline), without an inspection id
//! result       nothing --buffer not empty, result_ack low--> result_valid, all words --result_ack rises--> nothing
//! recipe       idle --recipe_change rises, enabled--> asked --changed--> command_ack    --recipe_change falls--> idle
//!                                                       '--refused--> command_failed '
//! control      the first client that sets enable commands; it leaves --watchdog--> control is taken as 0
//! ```
//!
//! Invariants:
//! - While `result_valid` is off, all words of the result but its counts are 0: an old result is never shown as new.
//! - While it is on, they are those of one result, and do not change.
//! - A result is shown with the user data of the trigger whose correlation id it carries. One that belongs to no trigger
//!   of this client is not shown, unless nobody triggers this camera.
//! - Every result takes a number, also one that finds no room: the gap is seen. Counts never go back.
//! - A write and a read are one step each.

use super::codes::{self, Error};
use super::map::{
    self, CONTROL, EXPECTED, EXPECTED_WORDS, IN_WORDS, Image, LOT, Out, PART_ID, PART_WORDS, RECIPE_WANTED,
    control, status, text_of, words_of,
};
use crate::domain::grade::Grade;
use crate::domain::part::Outcome;
use crate::domain::plc::PartResult;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// Results that wait for their acknowledgement, the shown one included.
pub(crate) const BUFFERS: usize = 10;
/// Parts under way at once: as many triggers as wait for a camera.
pub(crate) const UNDER_WAY_MAX: usize = 8;
/// How long after its deadline a part without a result becomes a review here.
pub(crate) const GRACE: Duration = Duration::from_secs(3);
/// A count of one register goes from here to 0.
const COUNTS: u32 = 32_768;

/// Which connection.
pub(crate) type Client = u64;

/// What does not change while the server runs.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// Unit id of the camera.
    pub unit: u8,
    /// Tells this start from those before it.
    pub epoch: u16,
    /// Of the config in force.
    pub config_checksum: u32,
    /// Names of recipes by their numbers, from 1.
    pub recipes: BTreeMap<u16, String>,
    /// How long control stands after its client has left.
    pub watchdog: Duration,
    /// Results stay buffered when their client has left.
    pub keep_results: bool,
}

impl Setup {
    /// The number of a recipe; 0 without one.
    fn number_of(&self, pipeline: &str) -> u16 {
        self.recipes.iter().find(|(_, name)| *name == pipeline).map_or(0, |(number, _)| *number)
    }
}

/// How the camera is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Line {
    /// It gives pictures, and there is a recipe to judge by.
    pub online: bool,
    /// It is paused.
    pub paused: bool,
    /// Commands trigger it.
    pub is_triggered: bool,
    /// A trigger waits for its picture.
    pub acquiring: bool,
    /// Name of the active recipe.
    pub pipeline: String,
    /// How long a verdict may take.
    pub deadline: Duration,
}

/// Something that the station is to do; its outcome comes back under its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Take a picture.
    Trigger {
        /// For `taken`.
        number: u32,
        /// By which its result is found.
        correlation_id: String,
        /// Empty: none.
        part_id: String,
        /// Empty: none.
        lot: String,
        /// Empty: none.
        expected: String,
    },
    /// Change the recipe.
    Recipe {
        /// For `changed`.
        number: u32,
        /// Its name.
        pipeline: String,
    },
}

/// Another client commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Busy;

/// What a PLC wrote about a part.
type UserData = [u16; 2 * PART_WORDS + EXPECTED_WORDS];

/// A part that was triggered here and has no result yet.
#[derive(Clone, Debug)]
struct Part {
    number: u32,
    correlation_id: String,
    user_data: UserData,
    /// When the station had taken it.
    taken: Option<Instant>,
    /// Its picture may not be taken yet.
    acquiring: bool,
    due: Instant,
    /// It came before the outcome of its trigger.
    result: Option<PartResult>,
}

/// A result in the buffer, with all its words.
#[derive(Clone, Debug)]
struct Shown {
    number: u32,
    outcome: Outcome,
    image: Image,
}

/// Trigger or recipe change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Idle,
    /// The station decides about the one of this number.
    Asked(u32),
    /// It was done, and the PLC has not let go of its bit.
    Done,
    /// It was refused, and the PLC has not let go.
    Failed,
}

/// The handshake of one camera.
#[derive(Debug)]
pub(crate) struct Handshake {
    setup: Setup,
    began: Instant,
    inputs: [u16; IN_WORDS],
    owner: Option<Client>,
    /// Since when control stands without its client.
    left: Option<Instant>,
    line: Line,
    error: Error,
    trigger: Step,
    triggers: u32,
    change: Step,
    changes: u32,
    under_way: VecDeque<Part>,
    buffer: VecDeque<Shown>,
    /// The first of the buffer is shown.
    valid: bool,
    /// Number of the newest result, shown or not.
    results: u32,
    /// Number of the result that was shown last.
    shown: u32,
    overrun: bool,
    dropped: u16,
    discarded: u16,
    actions: Vec<Action>,
}

impl Handshake {
    /// A handshake at its beginning.
    pub(crate) fn new(setup: Setup, now: Instant) -> Self {
        Self {
            setup,
            began: now,
            inputs: [0; IN_WORDS],
            owner: None,
            left: None,
            line: Line::default(),
            error: Error::None,
            trigger: Step::Idle,
            triggers: 0,
            change: Step::Idle,
            changes: 0,
            under_way: VecDeque::new(),
            buffer: VecDeque::new(),
            valid: false,
            results: 0,
            shown: 0,
            overrun: false,
            dropped: 0,
            discarded: 0,
            actions: Vec::new(),
        }
    }

    /// A client writes `words` into the PLC's block, from `at`; they must fit.
    ///
    /// # Errors
    /// Another client commands; nothing has changed.
    pub(crate) fn write(
        &mut self,
        client: Client,
        at: usize,
        words: &[u16],
        now: Instant,
    ) -> Result<(), Busy> {
        if self.owner.is_some_and(|owner| owner != client) {
            return Err(Busy);
        }
        let before = self.inputs[CONTROL];
        self.inputs[at..at + words.len()].copy_from_slice(words);
        if at == CONTROL && !words.is_empty() {
            self.owner = (words[CONTROL] & control::ENABLE != 0).then_some(client);
            self.left = None;
            self.step(before, now);
        }
        Ok(())
    }

    /// What the PLC's block holds.
    pub(crate) const fn inputs(&self) -> &[u16; IN_WORDS] {
        &self.inputs
    }

    /// What is to be done since the last call.
    pub(crate) fn actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// A connection has ended.
    pub(crate) fn client_left(&mut self, client: Client, now: Instant) {
        if self.owner == Some(client) {
            self.owner = None;
            self.left = Some(now);
        }
    }

    /// The outcome of a trigger; one that a reset has discarded changes nothing.
    pub(crate) fn taken(&mut self, number: u32, outcome: Result<(), Error>, now: Instant) {
        let Some(at) = self.under_way.iter().position(|part| part.number == number) else { return };
        // The bit is of another trigger, or of one that was refused, where it has fallen and risen since.
        let is_its_own = self.trigger == Step::Asked(number);
        if is_its_own {
            let holds = self.has(control::TRIGGER);
            self.trigger = if holds && outcome.is_ok() { Step::Done } else { Step::Idle };
        }
        match outcome {
            Ok(()) => {
                if is_its_own {
                    self.error = Error::None;
                }
                let part = &mut self.under_way[at];
                part.taken = Some(now);
                if part.result.is_some() {
                    self.conclude_at(at);
                }
            }
            Err(error) => {
                self.under_way.remove(at);
                self.error = error;
            }
        }
    }

    /// The outcome of a recipe change.
    pub(crate) fn changed(&mut self, number: u32, outcome: Result<(), Error>) {
        if self.change != Step::Asked(number) {
            return;
        }
        let done = match outcome {
            Ok(()) => Step::Done,
            Err(_) => Step::Failed,
        };
        self.change = if self.has(control::RECIPE_CHANGE) { done } else { Step::Idle };
        self.error = outcome.err().unwrap_or(Error::None);
    }

    /// An inspection of this camera is on the disk.
    pub(crate) fn result(&mut self, result: PartResult) {
        let id = result.correlation_id.as_deref();
        match self.under_way.iter().position(|part| Some(part.correlation_id.as_str()) == id) {
            Some(at) => {
                let part = &mut self.under_way[at];
                let is_taken = part.taken.is_some();
                part.result = Some(result);
                if is_taken {
                    self.conclude_at(at);
                }
            }
            None if !self.line.is_triggered && self.has(control::ENABLE) => {
                let mut user_data = [0; 2 * PART_WORDS + EXPECTED_WORDS];
                let texts = [&result.part_id, &result.lot].map(|text| text.as_deref().unwrap_or_default());
                user_data[..PART_WORDS].copy_from_slice(&words_of(texts[0], PART_WORDS));
                user_data[PART_WORDS..2 * PART_WORDS].copy_from_slice(&words_of(texts[1], PART_WORDS));
                self.conclude(0, &user_data, Some(&result));
            }
            // Another door's trigger, or one that was given up here.
            None => {}
        }
    }

    /// How the camera was when it was looked at, at `seen`.
    pub(crate) fn line(&mut self, line: Line, seen: Instant) {
        if !line.acquiring {
            let known = |part: &&mut Part| part.taken.is_some_and(|taken| taken < seen);
            self.under_way.iter_mut().filter(known).for_each(|part| part.acquiring = false);
        }
        self.line = line;
    }

    /// Time goes on: to be called several times a second.
    pub(crate) fn tick(&mut self, now: Instant) {
        let is_over = |part: &Part| part.taken.is_some() && now >= part.due;
        while let Some(at) = self.under_way.iter().position(is_over) {
            self.conclude_at(at);
        }
        if self.left.is_some_and(|left| now.saturating_duration_since(left) >= self.setup.watchdog) {
            self.left = None;
            let before = std::mem::replace(&mut self.inputs[CONTROL], 0);
            if !self.setup.keep_results {
                self.discard();
            }
            self.step(before, now);
        }
    }

    /// All of the station's words.
    pub(crate) fn image(&self, now: Instant) -> Image {
        let shown = self.buffer.front().filter(|_| self.valid);
        let mut image = shown.map_or_else(Image::new, |shown| shown.image.clone());
        let counts = |number: u32| number % COUNTS;
        let heartbeat = now.saturating_duration_since(self.began).as_secs() as u32;
        image.set(Out::Protocol, map::PROTOCOL.into());
        image.set(Out::Epoch, self.setup.epoch.into());
        image.set(Out::Heartbeat, heartbeat & 0xffff);
        image.set(Out::Status, self.status().into());
        image.set(Out::ErrorCode, self.error.number().into());
        image.set(Out::Recipe, self.setup.number_of(&self.line.pipeline).into());
        image.set(Out::TriggerCount, counts(self.triggers));
        image.set(Out::BuffersFree, (BUFFERS - self.buffer.len()) as u32);
        image.set(Out::Dropped, self.dropped.into());
        image.set(Out::Discarded, self.discarded.into());
        image.set(Out::ConfigChecksum, self.setup.config_checksum);
        image.set(Out::ResultCount, counts(self.shown));
        image.set(Out::ResultCountLong, self.shown);
        image
    }

    fn status(&self) -> u16 {
        let shown = self.buffer.front().filter(|_| self.valid).map(|shown| shown.outcome);
        let asked = matches!(self.trigger, Step::Asked(_));
        let bits = [
            (status::READY, self.is_ready()),
            (status::TRIGGER_ACK, self.trigger == Step::Done),
            (status::ACQUIRING, asked || self.under_way.iter().any(|part| part.acquiring)),
            (status::BUSY, asked || !self.under_way.is_empty()),
            (status::RESULT_VALID, shown.is_some()),
            (status::PASS, shown == Some(Outcome::Pass)),
            (status::FAIL, shown == Some(Outcome::Fail)),
            (status::REVIEW, shown == Some(Outcome::Review)),
            (status::OVERRUN, self.overrun),
            (status::ERROR, self.error != Error::None),
            (status::PAUSED, self.line.paused),
            (status::COMMAND_ACK, self.change == Step::Done),
            (status::COMMAND_FAILED, self.change == Step::Failed),
            (status::ONLINE, self.line.online),
            (status::ENABLED, self.owner.is_some()),
            (status::RESET_ACK, self.has(control::RESET)),
        ];
        bits.into_iter().filter(|(_, is_set)| *is_set).fold(0, |word, (bit, _)| word | bit)
    }

    fn is_ready(&self) -> bool {
        self.owner.is_some() && !self.has(control::TRIGGER) && self.refusal().is_none()
    }

    /// Why a trigger would be refused.
    fn refusal(&self) -> Option<Error> {
        let Line { online, paused, is_triggered, .. } = self.line;
        let asked = [self.trigger, self.change].iter().any(|step| matches!(step, Step::Asked(_)));
        let reasons = [
            (!self.has(control::ENABLE), Error::NotEnabled),
            (!is_triggered, Error::NotTriggered),
            (paused, Error::Paused),
            (!online, Error::Fault),
            (asked, Error::NotReady),
            (self.under_way.len() >= UNDER_WAY_MAX, Error::Full),
        ];
        reasons.into_iter().find(|(holds, _)| *holds).map(|(_, error)| error)
    }

    fn has(&self, bit: u16) -> bool {
        self.inputs[CONTROL] & bit != 0
    }

    /// The control word was `before` and may be another now.
    fn step(&mut self, before: u16, now: Instant) {
        let after = self.inputs[CONTROL];
        let (rose, fell) = (after & !before, before & !after);
        if rose & control::RESET != 0 {
            self.discard();
            (self.overrun, self.dropped, self.error) = (false, 0, Error::None);
        }
        if fell & control::TRIGGER != 0 && matches!(self.trigger, Step::Done | Step::Failed) {
            self.trigger = Step::Idle;
        }
        if fell & control::RECIPE_CHANGE != 0 && matches!(self.change, Step::Done | Step::Failed) {
            self.change = Step::Idle;
        }
        self.present();
        if rose & control::RECIPE_CHANGE != 0 {
            self.ask_for_recipe();
        }
        if rose & control::TRIGGER != 0 {
            self.ask_for_picture(now);
        }
    }

    /// Shows the next result, or takes the shown one away, as `result_ack` stands.
    fn present(&mut self) {
        if self.has(control::RESULT_ACK) {
            if std::mem::take(&mut self.valid) {
                self.buffer.pop_front();
            }
        } else if !self.valid
            && let Some(next) = self.buffer.front()
        {
            (self.valid, self.shown) = (true, next.number);
        }
    }

    /// Nothing of before is shown any more, and no part of before gets a result here.
    fn discard(&mut self) {
        self.discarded = (self.buffer.len() + self.under_way.len()) as u16;
        self.buffer.clear();
        self.under_way.clear();
        self.valid = false;
        self.trigger = Step::Idle;
    }

    fn ask_for_recipe(&mut self) {
        let wanted = self.inputs[RECIPE_WANTED];
        let asked = [self.trigger, self.change].iter().any(|step| matches!(step, Step::Asked(_)));
        let refused = match self.setup.recipes.get(&wanted) {
            _ if !self.has(control::ENABLE) => Error::NotEnabled,
            _ if asked => Error::NotReady,
            None => Error::UnknownRecipe,
            Some(pipeline) => {
                self.changes += 1;
                self.change = Step::Asked(self.changes);
                let (number, pipeline) = (self.changes, pipeline.clone());
                self.actions.push(Action::Recipe { number, pipeline });
                return;
            }
        };
        // The outcome of one that is being decided must not stand for this one.
        (self.change, self.error) = (Step::Failed, refused);
    }

    fn ask_for_picture(&mut self, now: Instant) {
        if let Some(error) = self.refusal() {
            // The outcome of one that is being decided must not stand for this one.
            (self.trigger, self.error) = (Step::Failed, error);
            return;
        }
        let user_data: UserData =
            *self.inputs[PART_ID..].first_chunk().expect("the block ends with user data");
        let texts =
            [PART_ID..LOT, LOT..EXPECTED, EXPECTED..IN_WORDS].map(|words| text_of(&self.inputs[words]));
        let [Some(part_id), Some(lot), Some(expected)] = texts else {
            (self.trigger, self.error) = (Step::Failed, Error::BadText);
            return;
        };
        self.triggers += 1;
        let number = self.triggers;
        let Setup { unit, epoch, .. } = self.setup;
        let correlation_id = format!("modbus-{epoch}-{unit}-{number}");
        self.trigger = Step::Asked(number);
        self.under_way.push_back(Part {
            number,
            correlation_id: correlation_id.clone(),
            user_data,
            taken: None,
            acquiring: true,
            due: now + self.line.deadline + GRACE,
            result: None,
        });
        self.actions.push(Action::Trigger { number, correlation_id, part_id, lot, expected });
    }

    /// The part under way at this place gets the result that it has, or is given up.
    fn conclude_at(&mut self, at: usize) {
        if let Some(part) = self.under_way.remove(at) {
            self.conclude(part.number, &part.user_data, part.result.as_ref());
        }
    }

    /// A result takes its number, and its place where there is one.
    fn conclude(&mut self, trigger: u32, user_data: &UserData, result: Option<&PartResult>) {
        self.results += 1;
        if self.buffer.len() >= BUFFERS {
            self.overrun = true;
            self.dropped = self.dropped.saturating_add(1);
            return;
        }
        let mut image = Image::new();
        let outcome = result.map_or(Outcome::Review, |result| result.outcome);
        image.set(Out::ResultTrigger, trigger % COUNTS);
        image.set(Out::Verdict, codes::verdict(outcome).into());
        match result {
            Some(result) => self.words_of_result(&mut image, result),
            None => {
                image.set(Out::Reason, codes::reason(Some("deadline")).into());
                image.set(Out::Grade, codes::grade(Grade::Reject).into());
            }
        }
        image.set_words(Out::PartIdEcho, &user_data[..PART_WORDS]);
        image.set_words(Out::LotEcho, &user_data[PART_WORDS..2 * PART_WORDS]);
        image.set_words(Out::ExpectedEcho, &user_data[2 * PART_WORDS..]);
        self.buffer.push_back(Shown { number: self.results, outcome, image });
        self.present();
    }

    fn words_of_result(&self, image: &mut Image, result: &PartResult) {
        let id = Out::InspectionId.register().words.into();
        image.set(Out::ResultRecipe, self.setup.number_of(&result.pipeline).into());
        image.set(Out::Reason, codes::reason(result.reason).into());
        image.set(Out::Grade, codes::grade(result.grade).into());
        image.set(Out::Findings, result.findings.min(u16::MAX.into()) as u32);
        // A score that is no number is that of a part of which nothing good is known.
        let score = if result.score.is_nan() { 1.0 } else { result.score.clamp(0.0, 1.0) };
        image.set(Out::Score, (score * 1000.0).round() as u32);
        image.set(Out::Latency, result.latency_ms.clamp(0.0, f64::from(u32::MAX)) as u32);
        image.set_words(Out::InspectionId, &words_of(&result.inspection_id, id));
    }
}

#[cfg(test)]
#[path = "handshake_tests.rs"]
mod tests;
