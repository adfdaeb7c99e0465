//! GS1 element strings: `(01)09501101530003(17)261231(10)ABC` and the same without brackets.
//!
//! ```text
//! line --symbology identifier off--> split at the application identifiers --> (AI, value)
//!      --`table`: parts of the AI--> one part at a time, `rules` --> Element
//! ```
//!
//! With brackets, a value ends where the next bracketed identifier begins. Without, a value of fixed
//! length ends by itself, and any other ends at a group separator (FNC1, character 29) or with the
//! line; a printed line has no separators, so there a variable value can only come last. Spaces that
//! group the digits of a number belong to its print and are passed over; in a text they are no
//! character of GS1's.
//!
//! What the table does not know is not held against the part: a new identifier, a code of a list that
//! others keep, a Digital Link. Then the check cannot tell ([`Objection::Unknown`]), after the rest of
//! the line was looked at for what is surely broken. Not checked: which identifiers must or must not
//! come together, because the others may be marked elsewhere on the part; and company prefixes beyond
//! their first digits.

mod codes;
mod rules;
mod table;

use super::{Objection, mismatch};
use crate::domain::text::Mismatch;
use rules::{Breach, Facts};
use std::ops::Range;
use table::{Part, Set};

/// FNC1 as scanners transmit it.
const GROUP_SEPARATOR: char = '\u{1d}';

/// What scanners send before element strings of GS1-128, GS1 DataBar, GS1 DataMatrix, GS1 QR Code and
/// GS1 DotCode (General Specifications, figure 5.1.2-2).
const SYMBOLOGIES: [&str; 5] = ["]C1", "]e0", "]d2", "]Q3", "]J1"];

/// One element of an element string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Element {
    /// Application identifier, 2 to 4 digits.
    pub ai: String,
    /// Without the spaces that group digits.
    pub value: String,
    /// For identifiers of dates: the day, with its century.
    pub date: Option<Date>,
}

/// A day of the Gregorian calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Date {
    pub year: i32,
    /// 1..=12
    pub month: u32,
    /// 1..=31
    pub day: u32,
}

/// Splits and checks an element string. `year` is the current one, for the century of dates.
///
/// # Errors
/// The first place that breaks a rule, else the first that cannot be judged, as a mismatch of the line.
pub(crate) fn elements(line: &str, year: i32) -> Result<Vec<Element>, Objection> {
    let chars: Vec<char> = line.chars().collect();
    let start = after_symbology(line);
    let Split { fields, mut unknown } =
        if chars.get(start) == Some(&'(') { bracketed(&chars, start)? } else { plain(&chars, start)? };
    let mut out: Vec<Element> = Vec::new();
    for field in fields {
        let element = match field.check(year) {
            Ok(element) => element,
            Err(Objection::Unknown(what)) => {
                unknown.get_or_insert(what);
                continue;
            }
            Err(broken) => return Err(broken),
        };
        if out.iter().any(|other| other.ai == element.ai && other.value != element.value) {
            return Err(field.broken(field.span.clone(), "stands twice with different values").into());
        }
        out.push(element);
    }
    unknown.map_or(Ok(out), |what| Err(Objection::Unknown(what)))
}

fn after_symbology(line: &str) -> usize {
    SYMBOLOGIES.iter().find(|name| line.starts_with(**name)).map_or(0, |name| name.len())
}

/// A line at its identifiers.
#[derive(Default)]
struct Split<'a> {
    fields: Vec<Field<'a>>,
    /// The first identifier that the table does not know.
    unknown: Option<Mismatch>,
}

fn bracketed(chars: &[char], start: usize) -> Result<Split<'_>, Mismatch> {
    let mut split = Split::default();
    let mut at = start;
    while at < chars.len() {
        let Some(ai) = bracketed_ai(&chars[at..]) else {
            let rest = String::from_iter(&chars[at..]);
            return Err(mismatch(at, rest, "gs1: an identifier of 2 to 4 digits in brackets"));
        };
        let (identifier, value) = (at + 1, at + ai.len() + 2);
        let next = (value..chars.len()).find(|&i| bracketed_ai(&chars[i..]).is_some());
        at = next.unwrap_or(chars.len());
        match table::parts(&ai) {
            Some(parts) => {
                split.fields.push(Field { chars, ai, parts, span: trimmed(chars, value..at) });
            }
            None => {
                split.unknown.get_or_insert(unknown_identifier(identifier, &ai));
            }
        }
    }
    Ok(split)
}

/// The identifier when `chars` begin with one in brackets.
fn bracketed_ai(chars: &[char]) -> Option<String> {
    let inner = chars.strip_prefix(&['('])?;
    let end = inner.iter().take(5).position(|&c| c == ')')?;
    let digits = &inner[..end];
    ((2..=4).contains(&end) && digits.iter().all(char::is_ascii_digit)).then(|| String::from_iter(digits))
}

/// Without the spaces that people set around brackets; GS1's character set has none.
fn trimmed(chars: &[char], mut span: Range<usize>) -> Range<usize> {
    while !span.is_empty() && chars[span.start] == ' ' {
        span.start += 1;
    }
    while !span.is_empty() && chars[span.end - 1] == ' ' {
        span.end -= 1;
    }
    span
}

fn plain(chars: &[char], start: usize) -> Result<Split<'_>, Objection> {
    let mut split = Split::default();
    // Some scanners hand through the FNC1 that marks the symbol as one of GS1.
    let mut at = start + usize::from(chars.get(start) == Some(&GROUP_SEPARATOR));
    // At least one element: an empty line is no element string.
    while at < chars.len() || split.fields.is_empty() {
        let first_two: String = chars.iter().skip(at).take(2).collect();
        let ai: String = chars.iter().skip(at).take(table::ai_length(&first_two)).collect();
        if ai.is_empty() || !ai.bytes().all(|b| b.is_ascii_digit()) {
            return Err(no_identifier(chars, at, ai));
        }
        let Some(parts) = table::parts(&ai) else {
            // Its value may end anywhere, so that nothing after it can be found.
            split.unknown = Some(unknown_identifier(at, &ai));
            break;
        };
        let value = at + ai.len();
        let separator = (value..chars.len()).find(|&i| chars[i] == GROUP_SEPARATOR).unwrap_or(chars.len());
        let end = table::fixed_length(parts).map_or(separator, |length| separator.min(value + length));
        at = end + usize::from(end == separator && separator < chars.len());
        split.fields.push(Field { chars, ai, parts, span: value..end });
    }
    Ok(split)
}

/// What stands at `at` is no identifier: surely wrong, unless it is another way to write the same.
fn no_identifier(chars: &[char], at: usize, read: String) -> Objection {
    let line = String::from_iter(chars).to_ascii_lowercase();
    if line.starts_with("http://") || line.starts_with("https://") {
        let whole = String::from_iter(chars);
        return Objection::Unknown(mismatch(
            0,
            whole,
            "gs1: an element string; Digital Links are not checked",
        ));
    }
    if chars.get(at) == Some(&'（') {
        return Objection::Unknown(mismatch(at, '（', "gs1: the bracket ("));
    }
    mismatch(at, read, "gs1: an application identifier of 2 to 4 digits").into()
}

fn unknown_identifier(at: usize, ai: &str) -> Mismatch {
    mismatch(at, ai, format!("gs1: unknown application identifier ({ai})"))
}

/// One value in its line.
struct Field<'a> {
    chars: &'a [char],
    ai: String,
    parts: &'static [Part],
    span: Range<usize>,
}

impl Field<'_> {
    fn check(&self, year: i32) -> Result<Element, Objection> {
        let places = self.places();
        if let Some(set) = table::only_set(self.parts) {
            self.check_characters(&places, set)?;
        }
        if !table::lengths(self.parts).iter().any(|length| length.contains(&places.len())) {
            let wanted = table::lengths_in_words(self.parts);
            return Err(self.broken(self.span.clone(), &wanted).into());
        }
        let (mut date, mut unknown, mut rest) = (None, None, places.as_slice());
        for part in self.parts {
            if rest.is_empty() && part.optional {
                break;
            }
            let (here, after) = rest.split_at(rest.len().min(part.max));
            rest = after;
            self.check_characters(here, part.set)?;
            let text: Vec<char> = here.iter().map(|&i| self.chars[i]).collect();
            for rule in part.rules {
                match rule.check(&text, year) {
                    Ok(Facts { date: found }) => date = date.or(found),
                    Err(Breach { at, wanted, sure: true }) => {
                        return Err(self.broken(spread(here, at), &wanted).into());
                    }
                    Err(Breach { at, wanted, sure: false }) => {
                        unknown.get_or_insert(self.broken(spread(here, at), &wanted));
                    }
                }
            }
        }
        let value = places.iter().map(|&i| self.chars[i]).collect();
        unknown.map_or(Ok(Element { ai: self.ai.clone(), value, date }), |what| Err(Objection::Unknown(what)))
    }

    /// Where the characters of the value stand, without the spaces that group digits.
    fn places(&self) -> Vec<usize> {
        let digits = table::leading_digits(self.parts);
        let mut places = Vec::new();
        for at in self.span.clone() {
            if self.chars[at] != ' ' || places.len() >= digits {
                places.push(at);
            }
        }
        places
    }

    fn check_characters(&self, places: &[usize], set: Set) -> Result<(), Mismatch> {
        match places.iter().copied().find(|&at| !set.holds(self.chars[at])) {
            None => Ok(()),
            Some(at) => Err(self.broken(at..at + 1, set.words())),
        }
    }

    fn broken(&self, span: Range<usize>, rule: &str) -> Mismatch {
        let at = span.start;
        mismatch(at, String::from_iter(&self.chars[span]), format!("gs1: ({}) {rule}", self.ai))
    }
}

/// The span in the line of a span of a part's characters, which stand at `places`.
fn spread(places: &[usize], at: Range<usize>) -> Range<usize> {
    let last = at.end.saturating_sub(1).max(at.start);
    match (places.get(at.start), places.get(last)) {
        (Some(first), Some(last)) => *first..*last + 1,
        _ => 0..0,
    }
}

#[cfg(test)]
mod tests;
