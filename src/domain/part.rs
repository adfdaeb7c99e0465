//! A part that several cameras look at: each view is an inspection of its own, the part has one verdict.
//!
//! ```text
//! trigger --PartRef--> view, view, … --judge--> PartVerdict: fail > review > pass
//! ```
//!
//! A view without an inspection counts as a review, so a part whose views are not all there never passes.

use super::grade::{Grade, Verdict};
use std::time::SystemTime;

/// Why a view has no inspection: the station ended before it was stored.
pub const INTERRUPTED: &str = "interrupted";

/// The part that a trigger means, and all who look at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartRef {
    /// ULID: one for each trigger of the part.
    pub id: String,
    /// `name` of the part in the config.
    pub name: String,
    /// Ids of the cameras, in the order of the config.
    pub cameras: Vec<String>,
}

/// What became of a view or a part. Ordered from good to bad: the worst decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Every view passed.
    Pass,
    /// A view is for a person to decide, or is missing.
    Review,
    /// A view failed.
    Fail,
}

impl Outcome {
    /// From good to bad.
    pub const ALL: [Self; 3] = [Self::Pass, Self::Review, Self::Fail];

    /// The word in messages: that of the verdict.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Review => "review",
            Self::Fail => "fail",
        }
    }

    /// The outcome of a word, if it is one.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|o| o.as_str() == word)
    }
}

impl From<&Verdict> for Outcome {
    fn from(verdict: &Verdict) -> Self {
        match verdict {
            Verdict::Pass => Self::Pass,
            Verdict::Fail(_) => Self::Fail,
            Verdict::Review(_) => Self::Review,
        }
    }
}

/// One camera's look at a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// `id` of the camera in the config.
    pub camera: String,
    /// `None`: it was never inspected.
    pub inspection_id: Option<String>,
    /// That of the inspection's verdict; `Review` without an inspection.
    pub outcome: Outcome,
    /// That of the inspection; `Reject` without one, of which nothing better is known.
    pub grade: Grade,
    /// `None` for a pass.
    pub reason: Option<String>,
}

/// The verdict about a part: that of its worst view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartVerdict {
    /// Id of the trigger that its views answer; `None` of a part that an earlier version has triggered.
    pub trigger_id: Option<String>,
    /// The part and all who look at it.
    pub part: PartRef,
    /// As `Trigger::part_id`.
    pub part_id: Option<String>,
    /// As `Trigger::lot`.
    pub lot: Option<String>,
    /// As `Trigger::correlation_id`.
    pub correlation_id: Option<String>,
    /// Wall-clock time at which the last view came or was given up.
    pub decided_at: SystemTime,
    /// One for each camera, in the order of the config.
    pub views: Vec<View>,
    /// That of the worst view.
    pub outcome: Outcome,
    /// The worst grade of all views.
    pub grade: Grade,
    /// That of the first of the worst views; `None` for a pass.
    pub reason: Option<String>,
}

/// One view for each camera of the part, in the order of the config; those that are not there were
/// interrupted.
pub fn complete(part: &PartRef, found: &[View]) -> Vec<View> {
    let missing = |camera: &String| View {
        camera: camera.clone(),
        inspection_id: None,
        outcome: Outcome::Review,
        grade: Grade::Reject,
        reason: Some(INTERRUPTED.to_owned()),
    };
    let view = |camera: &String| found.iter().find(|v| v.camera == *camera).cloned();
    part.cameras.iter().map(|camera| view(camera).unwrap_or_else(|| missing(camera))).collect()
}

/// Outcome, grade and reason of a part with these views; without any it is a review.
pub fn judge(views: &[View]) -> (Outcome, Grade, Option<String>) {
    let outcome = views.iter().map(|v| v.outcome).max().unwrap_or(Outcome::Review);
    let grade = views.iter().map(|v| v.grade).max().unwrap_or(Grade::Reject);
    let reason = views.iter().find(|v| v.outcome == outcome).and_then(|v| v.reason.clone());
    (outcome, grade, reason.filter(|_| outcome != Outcome::Pass))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(camera: &str, outcome: Outcome, grade: Grade) -> View {
        let reason = (outcome != Outcome::Pass).then(|| format!("why {camera}"));
        View { camera: camera.into(), inspection_id: Some(format!("I-{camera}")), outcome, grade, reason }
    }

    fn part() -> PartRef {
        PartRef { id: "P".into(), name: "housing".into(), cameras: vec!["top".into(), "side".into()] }
    }

    #[test]
    fn the_worst_view_decides_and_gives_its_reason() {
        use Outcome::{Fail, Pass, Review};
        for (top, side, outcome, reason) in [
            (Pass, Pass, Pass, None),
            (Pass, Review, Review, Some("why side")),
            (Review, Fail, Fail, Some("why side")),
            (Fail, Fail, Fail, Some("why top")),
        ] {
            let views = [view("top", top, Grade::Cosmetic), view("side", side, Grade::Ok)];
            assert_eq!(judge(&views), (outcome, Grade::Cosmetic, reason.map(str::to_owned)));
        }
        assert_eq!(judge(&[]).0, Review, "nothing seen is no pass");
    }

    #[test]
    fn a_view_that_is_missing_makes_the_part_a_review() {
        let views = complete(&part(), &[view("side", Outcome::Pass, Grade::Ok)]);
        assert_eq!(views[0].camera, "top");
        assert_eq!(
            (views[0].inspection_id.as_deref(), views[1].inspection_id.as_deref()),
            (None, Some("I-side"))
        );
        assert_eq!(judge(&views), (Outcome::Review, Grade::Reject, Some(INTERRUPTED.to_owned())));
    }
}
