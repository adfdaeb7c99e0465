//! What the parts of a GS1 value must be, beyond their length and characters.
//!
//! The rules are those of the GS1 Barcode Syntax Dictionary, one each. A code of a list that grows is
//! only surely good: one that is not in the list here may be new.

use super::Date;
use super::codes;
use crate::inspect::expect::digits::gs1_check_digit;
use std::ops::Range;

/// A rule of one part.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rule {
    /// The last digit is GS1's check digit.
    CheckDigit,
    /// The last two characters are GS1's check character pair.
    CheckPair,
    /// Begins with a company prefix: 4 digits or more.
    CompanyPrefix,
    /// YYMMDD, in which DD = 00 is the last day of the month.
    DateOrMonth,
    /// YYMMDD
    Date,
    /// YYYYMMDD
    FullDate,
    /// HHMM
    HourMinute,
    /// A number of at most so much.
    AtMost(u64),
    /// One of these characters.
    OneOf(&'static str),
    NonZero,
    NoLeadingZero,
    /// Half of the digits number a piece, the others say how many there are.
    PieceOfTotal,
    /// `2/3`
    Sequence,
    /// `%` only before two hexadecimal digits.
    PercentEncoded,
    /// A letter or a sign besides digits.
    NotOnlyDigits,
    /// ISO 13616.
    Iban,
    /// ISO 3166, three digits.
    Country,
    /// The same, or 999 for several.
    CountryOr999,
    /// ISO 3166, two letters.
    CountryLetters,
    /// ISO 4217, three digits.
    Currency,
    /// A list or a structure of others, which is not kept here.
    NotKeptHere(&'static str),
}

/// What a rule found out.
#[derive(Default)]
pub(super) struct Facts {
    pub date: Option<Date>,
}

/// Where a part does not keep a rule.
pub(super) struct Breach {
    /// In characters of the part.
    pub at: Range<usize>,
    pub wanted: String,
    /// False where the standard may allow it all the same.
    pub sure: bool,
}

fn breach(at: Range<usize>, wanted: impl Into<String>) -> Result<(), Breach> {
    Err(Breach { at, wanted: wanted.into(), sure: true })
}

fn unknown(at: Range<usize>, wanted: impl Into<String>) -> Result<(), Breach> {
    Err(Breach { at, wanted: wanted.into(), sure: false })
}

impl Rule {
    /// Checks a part, whose characters are those of its set.
    pub(super) fn check(self, text: &[char], year: i32) -> Result<Facts, Breach> {
        let all = 0..text.len();
        let date = |date| Ok(Facts { date: Some(date) });
        match self {
            Self::DateOrMonth => return short_date(text, year, true).and_then(date),
            Self::Date => return short_date(text, year, false).and_then(date),
            Self::FullDate => return full_date(text).and_then(date),
            Self::CheckDigit => check_digit(text),
            Self::CheckPair => check_pair(text),
            Self::CompanyPrefix => company_prefix(text),
            Self::HourMinute => below(text, 0, 23).and_then(|()| below(text, 2, 59)),
            Self::AtMost(max) if number(text) > max => breach(all, format!("00 to {max}")),
            Self::OneOf(allowed) => match text.iter().position(|c| !allowed.contains(*c)) {
                Some(at) => breach(at..at + 1, format!("one of {allowed}")),
                None => Ok(()),
            },
            Self::NonZero if number(text) == 0 => breach(all, "more than 0"),
            Self::NoLeadingZero if text.first() == Some(&'0') => breach(0..1, "no leading 0"),
            Self::PieceOfTotal => piece_of_total(text),
            Self::Sequence => sequence(text),
            Self::PercentEncoded => percent_encoded(text),
            Self::NotOnlyDigits if text.iter().all(char::is_ascii_digit) => {
                breach(all, "a character that is no digit")
            }
            Self::Iban => iban(text),
            Self::Country if !codes::COUNTRIES.contains(&number(text)) => {
                unknown(all, "a country of ISO 3166")
            }
            Self::CountryOr999 if number(text) != 999 => return Self::Country.check(text, year),
            Self::CountryLetters if !codes::is_country(text) => unknown(all, "a country of ISO 3166"),
            Self::Currency if !codes::CURRENCIES.contains(&number(text)) => {
                unknown(all, "a currency of ISO 4217")
            }
            Self::NotKeptHere(what) => unknown(all, what),
            _ => Ok(()),
        }
        .map(|()| Facts::default())
    }
}

/// The value of digits; their set has been checked, and a part of digits that is a number is short.
fn number(text: &[char]) -> u64 {
    text.iter()
        .filter_map(|c| c.to_digit(10))
        .fold(0, |n: u64, d| n.saturating_mul(10).saturating_add(d.into()))
}

fn check_digit(text: &[char]) -> Result<(), Breach> {
    let digits: Vec<u32> = text.iter().filter_map(|c| c.to_digit(10)).collect();
    let Some((last, payload)) = digits.split_last() else { return Ok(()) };
    let wanted = gs1_check_digit(payload);
    if *last == wanted {
        return Ok(());
    }
    breach(text.len() - 1..text.len(), format!("check digit {wanted}"))
}

/// The pair of the General Specifications, section 7.9.5: places in set 82, weighted by primes from the
/// right, modulo 1021.
fn check_pair(text: &[char]) -> Result<(), Breach> {
    const SET_82: &str =
        "!\"%&'()*+,-./0123456789:;<=>?ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz";
    const SET_32: &[u8; 32] = b"23456789ABCDEFGHJKLMNPQRSTUVWXYZ";
    /// As many as the longest value has characters before its pair.
    const PRIMES: [usize; 23] =
        [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83];
    let Some(payload) = text.len().checked_sub(2) else {
        return breach(0..text.len(), "a check character pair");
    };
    let weighted = text[..payload].iter().rev().zip(PRIMES);
    let sum = weighted.map(|(c, prime)| SET_82.find(*c).unwrap_or(0) * prime).sum::<usize>() % 1021;
    let wanted = [SET_32[sum >> 5], SET_32[sum & 31]].map(char::from);
    if text[payload..] == wanted {
        return Ok(());
    }
    breach(payload..text.len(), format!("check characters {}{}", wanted[0], wanted[1]))
}

fn company_prefix(text: &[char]) -> Result<(), Breach> {
    const LENGTH_MIN: usize = 4;
    match (0..LENGTH_MIN).find(|&i| text.get(i).is_none_or(|c| !c.is_ascii_digit())) {
        None => Ok(()),
        Some(at) if at < text.len() => breach(at..at + 1, "a digit of the company prefix"),
        Some(_) => breach(0..text.len(), "a company prefix of 4 digits or more"),
    }
}

fn below(text: &[char], at: usize, max: u64) -> Result<(), Breach> {
    if number(&text[at..at + 2]) <= max {
        return Ok(());
    }
    breach(at..at + 2, format!("00 to {max}"))
}

fn short_date(text: &[char], current_year: i32, whole_month_allowed: bool) -> Result<Date, Breach> {
    date(full_year(number(&text[..2]) as u32, current_year), text, 2, whole_month_allowed)
}

fn full_date(text: &[char]) -> Result<Date, Breach> {
    date(number(&text[..4]) as i32, text, 4, false)
}

/// Month and day that stand at `at` in the part.
fn date(year: i32, text: &[char], at: usize, whole_month_allowed: bool) -> Result<Date, Breach> {
    let wrong = |at: Range<usize>, wanted: String| Breach { at, wanted, sure: true };
    let month = number(&text[at..at + 2]) as u32;
    if !(1..=12).contains(&month) {
        return Err(wrong(at..at + 2, "month 01 to 12".into()));
    }
    let last = days_of_month(year, month);
    let day = match number(&text[at + 2..at + 4]) as u32 {
        0 if whole_month_allowed => last,
        day => day,
    };
    if !(1..=last).contains(&day) {
        return Err(wrong(at + 2..at + 4, format!("day 01 to {last} of {year}-{month:02}")));
    }
    Ok(Date { year, month, day })
}

/// The year with its century: of all years that end so, the one from 49 years ago to 50 years ahead
/// (General Specifications, section 7.12).
pub(super) const fn full_year(yy: u32, current_year: i32) -> i32 {
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

fn piece_of_total(text: &[char]) -> Result<(), Breach> {
    let half = text.len() / 2;
    let (piece, total) = (number(&text[..half]), number(&text[half..]));
    if piece == 0 || piece > total {
        return breach(0..half, format!("a piece from 1 to {total}"));
    }
    Ok(())
}

fn sequence(text: &[char]) -> Result<(), Breach> {
    let wanted = "a place and a count, as 1/2";
    let Some(slash) = text.iter().position(|c| *c == '/') else { return breach(0..text.len(), wanted) };
    let (place, count) = (&text[..slash], &text[slash + 1..]);
    let is_number = |t: &[char]| t.first().is_some_and(|c| *c != '0') && t.iter().all(char::is_ascii_digit);
    if is_number(place) && is_number(count) && number(place) <= number(count) {
        return Ok(());
    }
    breach(0..text.len(), wanted)
}

fn percent_encoded(text: &[char]) -> Result<(), Breach> {
    let hex = |i: usize| text.get(i).is_some_and(char::is_ascii_hexdigit);
    match (0..text.len()).find(|&i| text[i] == '%' && !(hex(i + 1) && hex(i + 2))) {
        Some(at) => breach(at..at + 1, "two hexadecimal digits after %"),
        None => Ok(()),
    }
}

/// ISO 13616: the country and the check digits move to the end, letters count from 10, and the rest of
/// the division by 97 is 1.
fn iban(text: &[char]) -> Result<(), Breach> {
    let value = |c: &char| c.to_digit(36).filter(|_| !c.is_ascii_lowercase());
    if let Some(at) = text.iter().position(|c| value(c).is_none()) {
        return breach(at..at + 1, "0..9 or A..Z");
    }
    if text.len() < 5 {
        return breach(0..text.len(), "an IBAN");
    }
    let turned = text[4..].iter().chain(&text[..4]).filter_map(value);
    let rest = turned.fold(0, |rest, v| (rest * if v < 10 { 10 } else { 100 } + v) % 97);
    if rest == 1 {
        return Ok(());
    }
    breach(2..4, "check digits of an IBAN")
}
