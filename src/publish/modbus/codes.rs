//! Numbers for what the rest of the station has words for. They are part of the contract with PLC programs: a number is
//! never given another meaning, and a new one goes to the end.

use crate::domain::grade::Grade;
use crate::domain::part::Outcome;
use crate::domain::trigger::Refusal;

/// A number, its word and what it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Code {
    /// What stands in the register.
    pub number: u16,
    /// Stable word.
    pub word: &'static str,
    /// For people.
    pub meaning: &'static str,
}

const fn code(number: u16, word: &'static str, meaning: &'static str) -> Code {
    Code { number, word, meaning }
}

/// Why the bit `error` or `command_failed` stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Error {
    /// Nothing is wrong.
    None,
    /// A trigger or a recipe change without `enable`.
    NotEnabled,
    /// A trigger or a recipe change while another one is being decided.
    NotReady,
    /// The camera gives no pictures, or has no recipe to judge by.
    Fault,
    /// The camera is paused.
    Paused,
    /// As many parts are under way as may be.
    Full,
    /// The camera is not triggered by commands.
    NotTriggered,
    /// The number is not in `[modbus] recipes`.
    UnknownRecipe,
    /// The recipe is not there or does not fit the camera.
    RecipeRefused,
    /// The station could not note the command: its disk is full, or the store fails.
    NotStored,
    /// The station starts or stops.
    Stopping,
    /// User data hold other characters than printable ASCII.
    BadText,
    /// The station has refused for another reason, which is in its log.
    Refused,
}

impl Error {
    /// What stands in `error_code`.
    pub(crate) const fn number(self) -> u16 {
        self as u16
    }
}

impl From<&Refusal> for Error {
    fn from(refusal: &Refusal) -> Self {
        match refusal {
            Refusal::NotTriggered { .. } => Self::NotTriggered,
            Refusal::Paused { .. } => Self::Paused,
            Refusal::Full { .. } => Self::Full,
            Refusal::NoPipeline { .. } | Refusal::Unfit { .. } => Self::RecipeRefused,
            Refusal::Fault { .. } => Self::Fault,
            Refusal::NotStored { .. } => Self::NotStored,
            Refusal::Starting | Refusal::Stopping => Self::Stopping,
            Refusal::Malformed { .. } => Self::BadText,
            Refusal::NoCamera { .. }
            | Refusal::NoPart { .. }
            | Refusal::Repeated { .. }
            | Refusal::ResponseTopic { .. } => Self::Refused,
        }
    }
}

/// What `error_code` can be, by its number.
pub(crate) const ERRORS: &[Code] = &[
    code(0, "none", "nothing is wrong"),
    code(1, "not_enabled", "trigger or recipe_change rose without enable"),
    code(2, "not_ready", "trigger or recipe_change rose while another one was being decided"),
    code(3, "fault", "the camera gives no pictures, or has no recipe to judge by"),
    code(4, "paused", "the camera is paused by a person or a program"),
    code(5, "full", "as many parts are under way as may be"),
    code(6, "not_triggered", "the config does not have this camera triggered by commands"),
    code(7, "unknown_recipe", "the recipe number is not in [modbus] recipes"),
    code(8, "recipe_refused", "the recipe is not there, has errors or does not fit the camera"),
    code(9, "not_stored", "the station cannot note the command: its disk is full or fails"),
    code(10, "stopping", "the station starts or stops"),
    code(11, "bad_text", "user data hold other characters than printable ASCII"),
    code(12, "refused", "refused for another reason, which is in the station's log"),
];

/// What `verdict` can be while `result_valid` is set.
pub(crate) const VERDICTS: &[Code] = &[
    code(1, "pass", "the part is good"),
    code(2, "fail", "the part is bad"),
    code(3, "review", "a person decides; handle it as not good"),
];

/// What `grade` can be.
pub(crate) const GRADES: &[Code] = &[
    code(0, "ok", "nothing was found"),
    code(1, "cosmetic", "only seen"),
    code(2, "rework", "can be mended"),
    code(3, "reject", "scrap, or not all of it was inspected"),
];

/// What `reason` can be.
pub(crate) const REASONS: &[Code] = &[
    code(0, "none", "a pass"),
    code(1, "finding", "a defect reached the recipe's limit"),
    code(2, "text_mismatch", "the text read is another than expected"),
    code(3, "text_uncertain", "a text was not read surely enough to compare"),
    code(4, "low_confidence", "a finding or a reading was unsure"),
    code(5, "deadline", "no verdict in time"),
    code(6, "unparsable", "the model's answer was of no use"),
    code(7, "missing_tile", "not all of the part was inspected"),
    code(8, "engine", "the engine failed"),
    code(9, "frame", "no picture, or one that is no proper picture of the part"),
    code(10, "queue_full", "the picture found no room"),
    code(11, "interrupted", "the station stopped in between"),
];

/// Stands for a reason that has no number yet: a part with it is a review or a fail all the same.
pub(crate) const REASON_OTHER: u16 = 99;

/// The number of a reason's word.
pub(crate) fn reason(word: Option<&str>) -> u16 {
    let Some(word) = word else { return 0 };
    REASONS.iter().find(|code| code.word == word).map_or(REASON_OTHER, |code| code.number)
}

/// The number of an outcome.
pub(crate) const fn verdict(outcome: Outcome) -> u16 {
    match outcome {
        Outcome::Pass => 1,
        Outcome::Fail => 2,
        Outcome::Review => 3,
    }
}

/// The number of a grade.
pub(crate) const fn grade(grade: Grade) -> u16 {
    match grade {
        Grade::Ok => 0,
        Grade::Cosmetic => 1,
        Grade::Rework => 2,
        Grade::Reject => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_agree_with_their_words() {
        for outcome in Outcome::ALL {
            let word = VERDICTS.iter().find(|code| code.number == verdict(outcome)).unwrap().word;
            assert_eq!(word, outcome.as_str());
        }
        for value in Grade::ALL {
            assert_eq!(GRADES[grade(value) as usize].word, value.as_str());
        }
        for (at, code) in ERRORS.iter().enumerate() {
            assert_eq!(code.number as usize, at);
        }
        assert_eq!(ERRORS.len(), Error::Refused as usize + 1);
        let refused = Error::from(&Refusal::Paused { camera: "cam1".into() });
        assert_eq!((refused, ERRORS[refused.number() as usize].word), (Error::Paused, "paused"));
    }

    /// A reason without a number would be told to PLCs as `other`.
    #[test]
    fn every_reason_of_a_verdict_has_a_number() {
        let source = include_str!("../../domain/grade.rs");
        let codes = source.split_once("pub const fn code(&self)").unwrap().1;
        let codes = codes.split_once("\n    }\n").unwrap().0;
        let words: Vec<&str> = codes.split('"').skip(1).step_by(2).collect();
        assert!(words.len() > 8, "{words:?}");
        for word in words {
            assert_ne!(reason(Some(word)), REASON_OTHER, "{word}");
        }
        assert_eq!((reason(None), reason(Some("new"))), (0, REASON_OTHER));
    }
}
