//! Assertions on figures, for CI: `--assert micro.f1>=0.42`.
//!
//! ```text
//! PATH OP NUMBER    PATH: keys of the JSON joined by dots; OP: >= <= > < == !=
//! ```
//!
//! A path that does not exist, or whose value is null (no cases), fails: an assertion that measures
//! nothing must not look like one that holds.

use serde_json::Value;
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// One expectation of a figure.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Assertion {
    path: String,
    op: Op,
    bound: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    AtLeast,
    AtMost,
    Equal,
    NotEqual,
    Above,
    Below,
}

impl Op {
    /// Two-character operators first: `>` is the beginning of `>=`.
    const ALL: [Self; 6] =
        [Self::AtLeast, Self::AtMost, Self::Equal, Self::NotEqual, Self::Above, Self::Below];

    const fn as_str(self) -> &'static str {
        match self {
            Self::AtLeast => ">=",
            Self::AtMost => "<=",
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Above => ">",
            Self::Below => "<",
        }
    }

    #[expect(clippy::float_cmp, reason = "== and != are for counts and mean what they say")]
    fn holds(self, value: f64, bound: f64) -> bool {
        match self {
            Self::AtLeast => value >= bound,
            Self::AtMost => value <= bound,
            Self::Equal => value == bound,
            Self::NotEqual => value != bound,
            Self::Above => value > bound,
            Self::Below => value < bound,
        }
    }
}

/// Why a text is no assertion.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum ParseError {
    #[error("no operator in `{text}`, expected PATH>=NUMBER (or <=, >, <, ==, !=)")]
    Operator { text: String },
    #[error("`{path}` is no path, expected keys joined by dots as in micro.f1")]
    Path { path: String },
    #[error("`{bound}` is no number")]
    Bound { bound: String },
}

/// A path that leads to no figure.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("no figure `{path}`: `{key}` is not among {known}")]
pub(crate) struct UnknownPath {
    path: String,
    key: String,
    known: String,
}

impl FromStr for Assertion {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let split = Op::ALL
            .into_iter()
            .filter_map(|op| Some((text.find(op.as_str())?, op)))
            .min_by_key(|(at, op)| (*at, std::cmp::Reverse(op.as_str().len())));
        let (at, op) = split.ok_or_else(|| ParseError::Operator { text: text.to_owned() })?;
        let path = text[..at].trim();
        if path.is_empty() || path.split('.').any(str::is_empty) {
            return Err(ParseError::Path { path: path.to_owned() });
        }
        let bound = text[at + op.as_str().len()..].trim();
        let number = bound.parse::<f64>().ok().filter(|n| n.is_finite());
        let number = number.ok_or_else(|| ParseError::Bound { bound: bound.to_owned() })?;
        Ok(Self { path: path.to_owned(), op, bound: number })
    }
}

impl fmt::Display for Assertion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.path, self.op.as_str(), self.bound)
    }
}

/// What became of one assertion; its text is for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub holds: bool,
    pub text: String,
}

impl Assertion {
    /// Checks the assertion against the figures.
    pub(crate) fn check(&self, figures: &Value) -> Outcome {
        let (holds, found) = match self.find(figures) {
            Err(unknown) => (false, unknown.to_string()),
            Ok(Value::Null) => (false, format!("`{}` is null: there was no case to measure", self.path)),
            Ok(value) => match value.as_f64() {
                Some(number) => (self.op.holds(number, self.bound), format!("it is {value}")),
                None => (false, format!("`{}` is no number", self.path)),
            },
        };
        Outcome { holds, text: format!("assert {self}: {}, {found}", if holds { "holds" } else { "FAILS" }) }
    }

    /// The value at the path.
    ///
    /// # Errors
    /// A key on the way does not exist.
    pub(crate) fn find<'v>(&self, figures: &'v Value) -> Result<&'v Value, UnknownPath> {
        let mut at = figures;
        for key in self.path.split('.') {
            at = at.get(key).ok_or_else(|| {
                let known = at.as_object().map(|o| o.keys().cloned().collect::<Vec<_>>().join(", "));
                UnknownPath {
                    path: self.path.clone(),
                    key: key.to_owned(),
                    known: known.filter(|k| !k.is_empty()).unwrap_or_else(|| "nothing".to_owned()),
                }
            })?;
        }
        Ok(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn figures() -> Value {
        json!({"images": 4, "micro": {"f1": 0.5, "recall": null}, "labels": {"missing_screw": {"tp": 2}}})
    }

    fn outcome(text: &str) -> Outcome {
        text.parse::<Assertion>().expect("parses").check(&figures())
    }

    #[test]
    fn operators_at_the_bound_and_beside_it() {
        for (text, holds) in [
            ("micro.f1>=0.5", true),
            ("micro.f1 >= 0.51", false),
            ("micro.f1<=0.5", true),
            ("micro.f1<=.49", false),
            ("micro.f1>0.5", false),
            ("micro.f1 > 4.9e-1", true),
            ("micro.f1<0.5", false),
            ("micro.f1<0.6", true),
            ("images==4", true),
            ("images==5", false),
            ("images!=4", false),
            ("labels.missing_screw.tp!=1", true),
        ] {
            assert_eq!(outcome(text).holds, holds, "{text}");
        }
    }

    #[test]
    fn what_measures_nothing_fails_and_says_why() {
        for (text, words) in [
            ("micro.recall<=1", "`micro.recall` is null: there was no case to measure"),
            ("micro.f2>=0", "no figure `micro.f2`: `f2` is not among f1, recall"),
            ("images.count>=0", "no figure `images.count`: `count` is not among nothing"),
            ("micro>=0", "`micro` is no number"),
        ] {
            let outcome = outcome(text);
            assert!(!outcome.holds && outcome.text.contains(words), "{}", outcome.text);
        }
        assert_eq!(outcome("micro.f1>=0.6").text, "assert micro.f1 >= 0.6: FAILS, it is 0.5");
    }

    #[test]
    fn what_is_no_assertion_is_refused() {
        for text in [
            "micro.f1",
            "",
            "micro.f1=0.4",
            ">=1",
            "a..b>1",
            ".a>1",
            "a>",
            "a>x",
            "a>=NaN",
            "a>inf",
            "a>=1>2",
        ] {
            assert!(text.parse::<Assertion>().is_err(), "{text}");
        }
    }
}
