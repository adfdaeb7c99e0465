//! Expectations: is the text on the part what it should be?
//!
//! ```text
//! lines read --+
//! Expect ------+--one line at a time--> literal, regex, trigger, check digits--> TextLine
//! Trigger -----+                        `align` compares, `digits` and `gs1` know the standards
//! ```
//!
//! A line that is compared with one string gets a mismatch for each character that differs; a broken
//! rule (`regex …`, `gs1: check digit 7`) gets one that says which. Every rule of a line must hold.
//!
//! A line that cannot be judged, because it was not read, because the trigger does not carry the value
//! that it must equal (an empty one is none), or because a standard may allow what the tables here do
//! not know, does not match, with confidence 0: the verdict then is a review, since nothing is known
//! against the part, and never a pass.

mod align;
mod digits;
mod gs1;

pub(crate) use align::mismatches;
pub(crate) use gs1::elements;

use crate::domain::frame::Trigger;
use crate::domain::pattern::Pattern;
use crate::domain::pipeline::{CheckKind, Expect};
use crate::domain::text::{Mismatch, TextLine};
use regex::Regex;
use std::collections::BTreeSet;

/// What stands against a line.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Objection {
    /// The line breaks the standard.
    Broken(Mismatch),
    /// The standard may allow it, but what is known here does not say so.
    Unknown(Mismatch),
}

impl From<Mismatch> for Objection {
    fn from(broken: Mismatch) -> Self {
        Self::Broken(broken)
    }
}

/// Checks the lines that the prompt `prompt_id` read, each with its confidence, against all rules.
///
/// Gives one [`TextLine`] for every line that was read or expected, in their order. `year` is the
/// current one: GS1 dates have two digits and are taken from the hundred years around it.
pub(crate) fn check_lines(
    prompt_id: &str,
    read: &[(String, f32)],
    expect: &[Expect],
    trigger: &Trigger,
    year: i32,
) -> Vec<TextLine> {
    let lines: BTreeSet<usize> = (1..=read.len()).chain(expect.iter().map(|rule| rule.line)).collect();
    lines
        .into_iter()
        .map(|line| {
            let rules: Vec<&Expect> = expect.iter().filter(|rule| rule.line == line).collect();
            let expected = rules.iter().find_map(|rule| single_string(rule, trigger)).map(str::to_owned);
            let text = |read, matches, mismatches, confidence| TextLine {
                prompt: prompt_id.to_owned(),
                line,
                read,
                expected: expected.clone(),
                matches,
                mismatches,
                confidence,
            };
            match line.checked_sub(1).and_then(|index| read.get(index)) {
                None => {
                    let wanted = expected.clone().unwrap_or_else(|| "a line".to_owned());
                    text(None, Some(false), vec![mismatch(0, "", wanted)], 0.0)
                }
                Some((line, confidence)) if rules.is_empty() => {
                    text(Some(line.clone()), None, vec![], *confidence)
                }
                Some((line, confidence)) => {
                    let mut judged = Judged::default();
                    rules.iter().for_each(|rule| judged.apply(line, rule, trigger, year));
                    let confidence = if judged.unknown { 0.0 } else { *confidence };
                    text(Some(line.clone()), Some(judged.broken.is_empty()), judged.broken, confidence)
                }
            }
        })
        .collect()
}

/// The one string that a rule asks for, if it asks for one.
fn single_string<'a>(rule: &'a Expect, trigger: &'a Trigger) -> Option<&'a str> {
    let from_trigger = || rule.from_trigger.as_ref().and_then(|key| of_trigger(trigger, key));
    rule.literal.as_deref().or_else(from_trigger)
}

/// The value that the trigger carries under `key`. An empty one is none: a PLC sends an empty string for
/// what it does not know.
fn of_trigger<'a>(trigger: &'a Trigger, key: &str) -> Option<&'a str> {
    trigger.expected.get(key).map(String::as_str).filter(|value| !value.trim().is_empty())
}

/// What came out of the rules of one line.
#[derive(Default)]
struct Judged {
    broken: Vec<Mismatch>,
    /// A rule could not be applied, so that nothing is known for sure.
    unknown: bool,
}

impl Judged {
    fn apply(&mut self, line: &str, rule: &Expect, trigger: &Trigger, year: i32) {
        if let Some(literal) = &rule.literal {
            self.broken.extend(mismatches(line, literal));
        }
        if let Some(key) = &rule.from_trigger {
            match of_trigger(trigger, key) {
                // The same string twice would double every mismatch.
                Some(value) if rule.literal.as_deref() == Some(value) => {}
                Some(value) => self.broken.extend(mismatches(line, value)),
                None => self.cannot_tell(line, format!("trigger: no value for `{key}`")),
            }
        }
        if let Some(pattern) = rule.regex.as_ref().filter(|pattern| !pattern.matches(line)) {
            self.broken.push(mismatch(0, line, format!("regex {pattern}")));
        }
        if let Some(kind) = rule.check {
            match check(line, kind, year) {
                Ok(()) => {}
                Err(Objection::Broken(mismatch)) => self.broken.push(mismatch),
                Err(Objection::Unknown(mismatch)) => {
                    self.unknown = true;
                    self.broken.push(mismatch);
                }
            }
        }
    }

    fn cannot_tell(&mut self, line: &str, why: String) {
        self.unknown = true;
        self.broken.push(mismatch(0, line, why));
    }
}

/// Compiles a regular expression that holds for a line when it matches all of it. `recipe` does so once, when it reads
/// a recipe.
///
/// # Errors
/// The text by itself is no regular expression (`a)|(b` would balance inside a group), or is too large.
pub(crate) fn whole_line(text: &str) -> Result<Pattern, regex::Error> {
    Regex::new(text)?;
    // A comment of the verbose mode, `(?x)… # c`, reaches to the end of its line and would swallow what closes
    // the group. Only such a comment lets a sound pattern fail here, and in that mode a line break means nothing.
    let whole =
        Regex::new(&format!(r"\A(?:{text})\z")).or_else(|_| Regex::new(&format!("\\A(?:{text}\n)\\z")))?;
    Ok(Pattern::new(text, move |line| whole.is_match(line)))
}

/// The first place where the line breaks the standard.
fn check(line: &str, kind: CheckKind, year: i32) -> Result<(), Objection> {
    match kind {
        CheckKind::Gs1 => elements(line, year).map(|_| ()),
        CheckKind::Gtin => digits::gtin(line),
        CheckKind::Luhn => Ok(digits::luhn(line)?),
        CheckKind::Mod3736 => Ok(digits::mod_37_36(line)?),
        CheckKind::Vin => Ok(digits::vin(line)?),
    }
}

fn mismatch(at: usize, read: impl Into<String>, expected: impl Into<String>) -> Mismatch {
    Mismatch { at, read: read.into(), expected: expected.into() }
}

#[cfg(test)]
mod cases;

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR: i32 = 2026;

    fn read(lines: &[&str]) -> Vec<(String, f32)> {
        lines.iter().map(|&l| (l.to_owned(), 0.9)).collect()
    }

    fn trigger(key: &str, value: &str) -> Trigger {
        Trigger { expected: [(key.to_owned(), value.to_owned())].into(), ..Trigger::default() }
    }

    fn one(line: &str, rule: Expect, trigger: &Trigger) -> TextLine {
        let mut all = check_lines("p", &read(&[line]), &[Expect { line: 1, ..rule }], trigger, YEAR);
        assert_eq!(all.len(), 1);
        all.remove(0)
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    fn pattern(text: &str) -> Option<Pattern> {
        Some(whole_line(text).unwrap())
    }

    #[test]
    fn lines_without_expectation_are_kept() {
        let all = check_lines("plate", &read(&["A", "B"]), &[], &Trigger::default(), YEAR);
        assert_eq!(all.len(), 2);
        assert_eq!((all[1].prompt.as_str(), all[1].line, all[1].matches), ("plate", 2, None));
        assert_eq!((all[1].read.as_deref(), all[1].confidence), (Some("B"), 0.9));
    }

    #[test]
    fn an_expected_line_that_was_not_read_does_not_match() {
        let rules = [Expect { line: 3, literal: some("X"), ..Expect::default() }];
        let all = check_lines("plate", &read(&["A"]), &rules, &Trigger::default(), YEAR);
        assert_eq!(all.iter().map(|t| t.line).collect::<Vec<_>>(), [1, 3]);
        assert_eq!((all[1].read.as_deref(), all[1].matches, all[1].confidence), (None, Some(false), 0.0));
        assert_eq!((all[1].expected.as_deref(), all[1].mismatches[0].expected.as_str()), (Some("X"), "X"));
        let rules = [Expect { line: 0, ..Expect::default() }];
        let all = check_lines("plate", &[], &rules, &Trigger::default(), YEAR);
        assert_eq!(all[0].matches, Some(false), "there is no line 0");
    }

    #[test]
    fn a_literal_must_equal() {
        let rule = Expect { literal: some("SN0012"), ..Expect::default() };
        assert_eq!(one("SN0012", rule.clone(), &Trigger::default()).matches, Some(true));
        let line = one("SNO012", rule, &Trigger::default());
        assert_eq!(
            (line.matches, line.expected.as_deref(), line.confidence),
            (Some(false), Some("SN0012"), 0.9)
        );
        assert_eq!(line.mismatches, [mismatch(2, "O", "0")]);
    }

    #[test]
    fn the_value_of_the_trigger_must_equal() {
        let rule = Expect { from_trigger: some("serial"), ..Expect::default() };
        let line = one("SN1", rule.clone(), &trigger("serial", "SN1"));
        assert_eq!((line.matches, line.expected.as_deref()), (Some(true), Some("SN1")));
        assert_eq!(one("SN2", rule, &trigger("serial", "SN1")).mismatches, [mismatch(2, "2", "1")]);
    }

    #[test]
    fn a_trigger_without_the_value_leaves_the_line_unsure() {
        let rule = Expect { from_trigger: some("serial"), ..Expect::default() };
        let line = one("SN1", rule, &trigger("lot", "SN1"));
        assert_eq!((line.matches, line.confidence, line.expected), (Some(false), 0.0, None));
        assert_eq!(line.mismatches, [mismatch(0, "SN1", "trigger: no value for `serial`")]);
    }

    /// What a PLC sends that has nothing to say is no value, and holds nothing against the part.
    #[test]
    fn an_empty_value_of_the_trigger_is_none() {
        let rule = Expect { from_trigger: some("serial"), ..Expect::default() };
        for empty in ["", "   ", "\u{3000}"] {
            let line = one("SN1", rule.clone(), &trigger("serial", empty));
            assert_eq!((line.matches, line.confidence, line.expected), (Some(false), 0.0, None), "{empty:?}");
            assert_eq!(line.mismatches, [mismatch(0, "SN1", "trigger: no value for `serial`")]);
        }
        // Nor does a line of blanks equal it.
        assert_eq!(one("", rule, &trigger("serial", "")).matches, Some(false));
    }

    #[test]
    fn a_regex_must_match_the_whole_line() {
        let rule = |text: &str| Expect { regex: pattern(text), ..Expect::default() };
        let matches = |line, pattern| one(line, rule(pattern), &Trigger::default()).matches;
        assert_eq!(matches("SN0012-A4", "^SN[0-9]{4}-[A-Z][0-9]$"), Some(true));
        assert_eq!(matches("SN0012-A4", "SN[0-9]{4}"), Some(false));
        assert_eq!(matches("ab", "a|ab"), Some(true));
        assert_eq!(matches("xab", "a|ab"), Some(false));
        let line = one("SN", rule("[A-Z]{3}"), &Trigger::default());
        assert_eq!(line.mismatches, [mismatch(0, "SN", "regex [A-Z]{3}")]);
        assert!(whole_line("(").is_err());
    }

    #[test]
    fn a_verbose_regex_may_end_in_a_comment_and_nothing_balances_by_accident() {
        let rule = |text: &str| Expect { regex: pattern(text), ..Expect::default() };
        let judge = |line, pattern: &str| one(line, rule(pattern), &Trigger::default());
        for pattern in
            ["(?x) SN [0-9]{2}  # a serial", "(?x) SN [0-9]{2}  # (a serial)", "(?x)\nSN # a\n[0-9]{2} # b\n"]
        {
            assert_eq!(judge("SN42", pattern).matches, Some(true), "{pattern}");
            for other in ["SN4", "SN421", "SN42\n", "xSN42"] {
                let line = judge(other, pattern);
                assert_eq!((line.matches, line.confidence), (Some(false), 0.9), "{pattern} on {other:?}");
            }
        }
        assert!(whole_line("a)|(b").is_err());
    }

    #[test]
    fn all_rules_of_a_line_must_hold() {
        let rules = [
            Expect { line: 1, regex: pattern("[0-9]+"), from_trigger: some("gtin"), ..Expect::default() },
            Expect { line: 1, check: Some(CheckKind::Gtin), ..Expect::default() },
        ];
        let judge = |line: &str, wanted: &str| {
            check_lines("p", &read(&[line]), &rules, &trigger("gtin", wanted), YEAR).remove(0)
        };
        assert_eq!(judge("4006381333931", "4006381333931").matches, Some(true));
        let line = judge("4006381333932", "4006381333932");
        assert_eq!(line.mismatches, [mismatch(12, "2", "gtin: check digit 1")]);
        assert_eq!(judge("4006381333931", "4006381333948").mismatches.len(), 2);
    }

    #[test]
    fn every_kind_of_check_is_wired() {
        let samples = [
            (CheckKind::Gs1, "(01)09501101530003", "(01)09501101530004"),
            (CheckKind::Gtin, "4006381333931", "4006381333930"),
            (CheckKind::Luhn, "49927398716", "49927398717"),
            (CheckKind::Mod3736, "A12425GABC1234002M", "A12425GABC1234002N"),
            (CheckKind::Vin, "1M8GDM9AXKP042788", "1M8GDM9A1KP042788"),
        ];
        for (kind, good, bad) in samples {
            let rule = Expect { check: Some(kind), ..Expect::default() };
            assert_eq!(one(good, rule.clone(), &Trigger::default()).matches, Some(true), "{good}");
            assert_eq!(one(bad, rule, &Trigger::default()).matches, Some(false), "{bad}");
        }
    }

    #[test]
    fn an_expectation_without_rules_only_wants_a_line() {
        assert_eq!(one("anything", Expect::default(), &Trigger::default()).matches, Some(true));
    }
}
