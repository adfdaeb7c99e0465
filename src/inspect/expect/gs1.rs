//! GS1 element strings: `(01)09501101530003(17)261231(10)ABC` and the same without brackets.
//!
//!     line --split at the application identifiers--> (AI, value) --format of the AI--> Element
//!
//! With brackets, a value ends where the next bracketed identifier begins. Without, a value of fixed
//! length ends by itself, and any other ends at a group separator (FNC1, character 29) or with the
//! line; a printed line has no separators, so there a variable value can only come last.
//!
//! Formats are those of the GS1 General Specifications, section 3 (the machine-readable form is the
//! GS1 Barcode Syntax Dictionary). Not checked: which identifiers must or must not come together,
//! because the others may be marked elsewhere on the part; and company prefixes.

use super::digits::gs1_check_digit;
use super::mismatch;
use crate::domain::text::Mismatch;
use std::ops::Range;

/// FNC1 as scanners transmit it.
const GROUP_SEPARATOR: char = '\u{1d}';

/// One element of an element string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    /// Application identifier, 2 to 4 digits.
    pub ai: String,
    pub value: String,
    /// For identifiers of dates: the day, with its century.
    pub date: Option<Date>,
}

/// A day of the Gregorian calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Date {
    pub year: i32,
    /// 1..=12
    pub month: u32,
    /// 1..=31
    pub day: u32,
}

/// What the value of an identifier looks like.
#[derive(Clone, Copy, Debug)]
enum Format {
    /// So many digits.
    Digits(usize, usize),
    /// Exactly so many digits, the last of which is a check digit.
    Checked(usize),
    /// At most so many characters of GS1's set 82.
    Text(usize),
    /// YYMMDD, in which DD = 00 is the last day of the month.
    Date,
    /// YYMMDDHH, then perhaps MM, then perhaps SS.
    DateTime,
}

impl Format {
    /// Least and most characters.
    const fn length(self) -> (usize, usize) {
        match self {
            Self::Digits(min, max) => (min, max),
            Self::Checked(n) => (n, n),
            Self::Text(max) => (1, max),
            Self::Date => (6, 6),
            Self::DateTime => (8, 12),
        }
    }
}

/// The format of an identifier, if it is known here.
fn format_of(ai: &str) -> Option<Format> {
    Some(match ai {
        "00" => Format::Checked(18),
        "01" | "02" => Format::Checked(14),
        "10" | "21" | "22" | "243" | "254" | "420" => Format::Text(20),
        "11" | "12" | "13" | "15" | "16" | "17" => Format::Date,
        "20" => Format::Digits(2, 2),
        "235" => Format::Text(28),
        "240" | "241" | "250" | "251" | "400" | "401" | "403" | "90" => Format::Text(30),
        "242" => Format::Digits(1, 6),
        "30" | "37" => Format::Digits(1, 8),
        "402" => Format::Checked(17),
        "410" | "411" | "412" | "413" | "414" | "415" | "416" | "417" => Format::Checked(13),
        "8005" => Format::Digits(6, 6),
        "8008" => Format::DateTime,
        "91" | "92" | "93" | "94" | "95" | "96" | "97" | "98" | "99" => Format::Text(90),
        _ if is_measure(ai) => Format::Digits(6, 6),
        _ => return None,
    })
}

/// 310n to 369n: weights, lengths, areas, volumes; the fourth digit counts the decimals, 0 to 5.
fn is_measure(ai: &str) -> bool {
    let number = ai.parse::<u32>().unwrap_or(0);
    let family = matches!(number / 10, 310..=316 | 320..=337 | 340..=357 | 360..=369);
    ai.len() == 4 && family && number % 10 <= 5
}

/// Digits of an identifier by its first two (General Specifications, figure 3.2-1).
fn ai_length(first_two: &str) -> usize {
    match first_two {
        "23" | "24" | "25" | "40" | "41" | "42" | "71" => 3,
        "31" | "32" | "33" | "34" | "35" | "36" | "39" | "43" | "70" | "72" | "80" | "81" | "82" => 4,
        _ => 2,
    }
}

/// Splits and checks an element string. `year` is the current one, for the century of dates.
///
/// # Errors
/// The first place that breaks a rule, in words, as a mismatch of the line.
pub fn elements(line: &str, year: i32) -> Result<Vec<Element>, Mismatch> {
    let chars: Vec<char> = line.chars().collect();
    let spans = if chars.first() == Some(&'(') { bracketed(&chars)? } else { plain(&chars)? };
    let mut out: Vec<Element> = Vec::new();
    for (ai, span) in spans {
        let field = Field { chars: &chars, ai: &ai, span };
        let (value, date) = field.check(year)?;
        if out.iter().any(|other| other.ai == ai && other.value != value) {
            return Err(field.broken(field.span.clone(), "stands twice with different values"));
        }
        out.push(Element { ai, value, date });
    }
    Ok(out)
}

/// Identifiers and the places of their values.
type Spans = Vec<(String, Range<usize>)>;

fn bracketed(chars: &[char]) -> Result<Spans, Mismatch> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        let Some(ai) = bracketed_ai(&chars[at..]) else {
            let rest = String::from_iter(&chars[at..]);
            return Err(mismatch(at, rest, "gs1: an identifier of 2 to 4 digits in brackets"));
        };
        known(at + 1, &ai)?;
        let start = at + ai.len() + 2;
        let next = (start..chars.len()).find(|&i| bracketed_ai(&chars[i..]).is_some());
        at = next.unwrap_or(chars.len());
        out.push((ai, trimmed(chars, start..at)));
    }
    Ok(out)
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

fn plain(chars: &[char]) -> Result<Spans, Mismatch> {
    let mut out = Vec::new();
    let mut at = 0;
    // At least one element: an empty line is no element string.
    while at < chars.len() || out.is_empty() {
        let first_two = String::from_iter(chars.iter().skip(at).take(2));
        let ai = String::from_iter(chars.iter().skip(at).take(ai_length(&first_two)));
        let (min, max) = known(at, &ai)?.length();
        let start = at + ai.len();
        let separator = (start..chars.len()).find(|&i| chars[i] == GROUP_SEPARATOR).unwrap_or(chars.len());
        let end = if min == max { separator.min(start + max) } else { separator };
        at = end + usize::from(end == separator && separator < chars.len());
        out.push((ai, start..end));
    }
    Ok(out)
}

/// The format of an identifier that stands at `at`.
fn known(at: usize, ai: &str) -> Result<Format, Mismatch> {
    format_of(ai).ok_or_else(|| mismatch(at, ai, format!("gs1: unknown application identifier ({ai})")))
}

/// One value in its line.
struct Field<'a> {
    chars: &'a [char],
    ai: &'a str,
    span: Range<usize>,
}

impl Field<'_> {
    fn check(&self, year: i32) -> Result<(String, Option<Date>), Mismatch> {
        let format = known(self.span.start, self.ai)?;
        self.check_characters(matches!(format, Format::Text(_)))?;
        self.check_length(format.length())?;
        let date = match format {
            Format::Digits(..) | Format::Text(_) => None,
            Format::Checked(_) => self.check_digit().map(|()| None)?,
            Format::Date => Some(self.date(year, true)?),
            Format::DateTime => {
                self.time()?;
                // The dictionary lets DD = 00 stand for the whole month only where no hour follows.
                Some(self.date(year, false)?)
            }
        };
        Ok((String::from_iter(&self.chars[self.span.clone()]), date))
    }

    fn check_length(&self, (min, max): (usize, usize)) -> Result<(), Mismatch> {
        if (min..=max).contains(&self.span.len()) {
            return Ok(());
        }
        let want =
            if min == max { format!("{max} characters") } else { format!("{min} to {max} characters") };
        Err(self.broken(self.span.clone(), &want))
    }

    fn check_characters(&self, text: bool) -> Result<(), Mismatch> {
        let allowed = |c: char| if text { in_set_82(c) } else { c.is_ascii_digit() };
        match self.span.clone().find(|&at| !allowed(self.chars[at])) {
            None => Ok(()),
            Some(at) if text => Err(self.broken(at..at + 1, "a character of GS1's set 82")),
            Some(at) => Err(self.broken(at..at + 1, "a digit")),
        }
    }

    fn check_digit(&self) -> Result<(), Mismatch> {
        let at = self.span.end - 1;
        let payload: Vec<u32> = (self.span.start..at).map(|i| self.digit(i)).collect();
        let wanted = gs1_check_digit(&payload);
        if self.digit(at) == wanted {
            return Ok(());
        }
        Err(self.broken(at..at + 1, &format!("check digit {wanted}")))
    }

    /// The date at the beginning of the value.
    fn date(&self, current_year: i32, whole_month_allowed: bool) -> Result<Date, Mismatch> {
        let year = full_year(self.two_digits(0), current_year);
        let month = self.two_digits(2);
        if !(1..=12).contains(&month) {
            return Err(self.broken(self.pair(2), "month 01 to 12"));
        }
        let last = days_of_month(year, month);
        let day = match self.two_digits(4) {
            0 if whole_month_allowed => last,
            day => day,
        };
        if !(1..=last).contains(&day) {
            return Err(self.broken(self.pair(4), &format!("day 01 to {last} of {year}-{month:02}")));
        }
        Ok(Date { year, month, day })
    }

    /// Hour, minute and second after the date, in whole pairs of digits.
    fn time(&self) -> Result<(), Mismatch> {
        if !self.span.len().is_multiple_of(2) {
            return Err(self.broken(self.span.clone(), "YYMMDDHH, YYMMDDHHMM or YYMMDDHHMMSS"));
        }
        for (offset, max) in [(6, 23), (8, 59), (10, 59)] {
            if offset < self.span.len() && self.two_digits(offset) > max {
                return Err(self.broken(self.pair(offset), &format!("00 to {max}")));
            }
        }
        Ok(())
    }

    /// Place of the two digits at an offset into the value.
    fn pair(&self, offset: usize) -> Range<usize> {
        self.span.start + offset..self.span.start + offset + 2
    }

    fn two_digits(&self, offset: usize) -> u32 {
        self.pair(offset).map(|i| self.digit(i)).fold(0, |number, digit| number * 10 + digit)
    }

    fn digit(&self, at: usize) -> u32 {
        self.chars[at].to_digit(10).expect("check_characters has seen only digits")
    }

    fn broken(&self, span: Range<usize>, rule: &str) -> Mismatch {
        let at = span.start;
        mismatch(at, String::from_iter(&self.chars[span]), format!("gs1: ({}) {rule}", self.ai))
    }
}

/// GS1's character set 82 (General Specifications, figure 7.11-1).
const fn in_set_82(c: char) -> bool {
    matches!(c, '!' | '"' | '%'..='/' | '0'..='9' | ':'..='?' | 'A'..='Z' | '_' | 'a'..='z')
}

/// The year with its century: of all years that end so, the one from 49 years ago to 50 years ahead
/// (General Specifications, section 7.12).
const fn full_year(yy: u32, current_year: i32) -> i32 {
    let century = current_year - current_year.rem_euclid(100);
    match yy as i32 - current_year.rem_euclid(100) {
        51..=99 => century - 100 + yy as i32,
        -99..=-50 => century + 100 + yy as i32,
        _ => century + yy as i32,
    }
}

const fn days_of_month(year: i32, month: u32) -> u32 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests;
