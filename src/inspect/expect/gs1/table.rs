//! All application identifiers: what stands after each (GS1 General Specifications, section 3).
//!
//! The facts are those of the GS1 Barcode Syntax Dictionary as of July 2026, in its order. A value is a
//! row of parts; only the last may have a variable length, and no part that must be there follows one
//! that need not.

use super::rules::Rule;
use std::ops::RangeInclusive;

/// The characters of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Set {
    Digits,
    /// General Specifications, figure 7.11-1.
    Of82,
    /// General Specifications, figure 7.11-2.
    Of39,
    /// Base 64 for URLs, with its padding (figure 7.11-3).
    Of64,
}

impl Set {
    pub(super) const fn holds(self, c: char) -> bool {
        match self {
            Self::Digits => c.is_ascii_digit(),
            Self::Of82 => {
                matches!(c, '!' | '"' | '%'..='/' | '0'..='9' | ':'..='?' | 'A'..='Z' | '_' | 'a'..='z')
            }
            Self::Of39 => matches!(c, '#' | '-' | '/' | '0'..='9' | 'A'..='Z'),
            Self::Of64 => matches!(c, '0'..='9' | 'A'..='Z' | 'a'..='z' | '-' | '_' | '='),
        }
    }

    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::Digits => "a digit",
            Self::Of82 => "a character of GS1's set 82",
            Self::Of39 => "a character of GS1's set 39",
            Self::Of64 => "a character of GS1's set 64",
        }
    }
}

/// A part of a value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub set: Set,
    pub min: usize,
    pub max: usize,
    /// The value may end before it.
    pub optional: bool,
    pub rules: &'static [Rule],
}

const fn part(set: Set, min: usize, max: usize, rules: &'static [Rule]) -> Part {
    Part { set, min, max, optional: false, rules }
}

/// So many digits.
const fn n(length: usize, rules: &'static [Rule]) -> Part {
    part(Set::Digits, length, length, rules)
}

/// 1 to so many digits.
const fn n_to(max: usize, rules: &'static [Rule]) -> Part {
    part(Set::Digits, 1, max, rules)
}

/// So many characters of set 82.
const fn x(length: usize, rules: &'static [Rule]) -> Part {
    part(Set::Of82, length, length, rules)
}

/// 1 to so many characters of set 82.
const fn x_to(max: usize, rules: &'static [Rule]) -> Part {
    part(Set::Of82, 1, max, rules)
}

const fn opt(mut part: Part) -> Part {
    part.optional = true;
    part
}

const CHECKED: &[Rule] = &[Rule::CheckDigit];
const PREFIXED: &[Rule] = &[Rule::CompanyPrefix];
const ENCODED: &[Rule] = &[Rule::PercentEncoded];
const COUNTRY: &[Rule] = &[Rule::Country];
const DATE: &[Rule] = &[Rule::Date];
const DATE_OR_MONTH: &[Rule] = &[Rule::DateOrMonth];
const TIME: &[Rule] = &[Rule::HourMinute];
const YES_NO: &[Rule] = &[Rule::OneOf("01")];
const NONZERO: &[Rule] = &[Rule::NonZero];
const PIECE: &[Rule] = &[Rule::PieceOfTotal];
const INDEX: &[Rule] = &[Rule::OneOf("-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz")];
const COUPON: &[Rule] = &[Rule::NotKeptHere("a coupon code; its structure is not checked")];

/// First and last identifier of a row, and the parts of its values.
type Row = (&'static str, &'static str, &'static [Part]);

const TABLE: &[Row] = &[
    ("00", "00", &[n(18, CHECKED)]),
    ("01", "03", &[n(14, CHECKED)]),
    ("10", "10", &[x_to(20, &[])]),
    ("11", "13", &[n(6, DATE_OR_MONTH)]),
    ("15", "17", &[n(6, DATE_OR_MONTH)]),
    ("20", "20", &[n(2, &[])]),
    ("21", "22", &[x_to(20, &[])]),
    ("235", "235", &[x_to(28, &[])]),
    ("240", "241", &[x_to(30, &[])]),
    ("242", "242", &[n_to(6, &[])]),
    ("243", "243", &[x_to(20, &[])]),
    ("250", "251", &[x_to(30, &[])]),
    ("253", "253", &[n(13, CHECKED), opt(x_to(17, &[]))]),
    ("254", "254", &[x_to(20, &[])]),
    ("255", "255", &[n(13, CHECKED), opt(n_to(12, &[]))]),
    ("30", "30", &[n_to(8, &[])]),
    ("37", "37", &[n_to(8, &[])]),
    ("3900", "3909", &[n_to(15, &[])]),
    ("3910", "3919", &[n(3, &[Rule::Currency]), n_to(15, &[])]),
    ("3920", "3929", &[n_to(15, &[])]),
    ("3930", "3939", &[n(3, &[Rule::Currency]), n_to(15, &[])]),
    ("3940", "3943", &[n(4, &[])]),
    ("3950", "3955", &[n(6, &[])]),
    ("400", "400", &[x_to(30, &[])]),
    ("401", "401", &[x_to(30, PREFIXED)]),
    ("402", "402", &[n(17, CHECKED)]),
    ("403", "403", &[x_to(30, &[])]),
    ("410", "417", &[n(13, CHECKED)]),
    ("420", "420", &[x_to(20, &[])]),
    ("421", "421", &[n(3, COUNTRY), x_to(9, &[])]),
    ("422", "422", &[n(3, COUNTRY)]),
    ("423", "423", COUNTRIES_TO_5),
    ("424", "424", &[n(3, COUNTRY)]),
    ("425", "425", COUNTRIES_TO_5),
    ("426", "426", &[n(3, COUNTRY)]),
    ("427", "427", &[x_to(3, &[])]),
    ("4300", "4301", &[x_to(35, ENCODED)]),
    ("4302", "4306", &[x_to(70, ENCODED)]),
    ("4307", "4307", &[x(2, &[Rule::CountryLetters])]),
    ("4308", "4308", &[x_to(30, &[])]),
    ("4309", "4309", &[n(10, &[Rule::AtMost(1_800_000_000)]), n(10, &[Rule::AtMost(3_600_000_000)])]),
    ("4310", "4311", &[x_to(35, ENCODED)]),
    ("4312", "4316", &[x_to(70, ENCODED)]),
    ("4317", "4317", &[x(2, &[Rule::CountryLetters])]),
    ("4318", "4318", &[x_to(20, &[])]),
    ("4319", "4319", &[x_to(30, &[])]),
    ("4320", "4320", &[x_to(35, ENCODED)]),
    ("4321", "4323", &[n(1, YES_NO)]),
    ("4324", "4325", &[n(6, DATE_OR_MONTH), n(4, TIME)]),
    ("4326", "4326", &[n(6, DATE)]),
    ("4330", "4333", &[n(6, &[]), opt(x(1, &[Rule::OneOf("-")]))]),
    ("7001", "7001", &[n(13, &[])]),
    ("7002", "7002", &[x_to(30, &[])]),
    ("7003", "7003", &[n(6, DATE), n(4, TIME)]),
    ("7004", "7004", &[n_to(4, &[])]),
    ("7005", "7005", &[x_to(12, &[])]),
    ("7006", "7006", &[n(6, DATE)]),
    ("7007", "7007", &[n(6, DATE), opt(n(6, DATE))]),
    ("7008", "7008", &[x_to(3, &[])]),
    ("7009", "7009", &[x_to(10, &[])]),
    ("7010", "7010", &[x_to(2, &[])]),
    ("7011", "7011", &[n(6, DATE), opt(n(4, TIME))]),
    ("7020", "7022", &[x_to(20, &[])]),
    ("7023", "7023", &[x_to(30, PREFIXED)]),
    ("7030", "7039", &[n(3, &[Rule::CountryOr999]), x_to(27, &[])]),
    ("7040", "7040", &[n(1, &[]), x(1, &[]), x(1, &[]), x(1, INDEX)]),
    ("7041", "7041", &[x_to(4, &[Rule::NotKeptHere("a package type; their list is not kept here")])]),
    ("710", "717", &[x_to(20, &[])]),
    ("7230", "7239", &[x(2, &[]), x_to(28, &[])]),
    ("7240", "7240", &[x_to(20, &[])]),
    ("7241", "7241", &[n(2, &[Rule::NotKeptHere("a media type; their list is not kept here")])]),
    ("7242", "7242", &[x_to(25, &[])]),
    ("7250", "7250", &[n(8, &[Rule::FullDate])]),
    ("7251", "7251", &[n(8, &[Rule::FullDate]), n(4, TIME)]),
    ("7252", "7252", &[n(1, &[Rule::OneOf("0129")])]),
    ("7253", "7254", &[x_to(40, ENCODED)]),
    ("7255", "7255", &[x_to(10, &[])]),
    ("7256", "7256", &[x_to(90, ENCODED)]),
    ("7257", "7257", &[x_to(70, ENCODED)]),
    ("7258", "7258", &[x(3, &[Rule::Sequence])]),
    ("7259", "7259", &[x_to(40, ENCODED)]),
    ("8001", "8001", &[n(4, NONZERO), n(5, NONZERO), n(3, NONZERO), n(1, &[Rule::OneOf("019")]), n(1, &[])]),
    ("8002", "8002", &[x_to(20, &[])]),
    ("8003", "8003", &[n(1, &[Rule::OneOf("0")]), n(13, CHECKED), opt(x_to(16, &[]))]),
    ("8004", "8004", &[x_to(30, PREFIXED)]),
    ("8005", "8005", &[n(6, &[])]),
    ("8006", "8006", &[n(14, CHECKED), n(4, PIECE)]),
    ("8007", "8007", &[x_to(34, &[Rule::Iban])]),
    (
        "8008",
        "8008",
        &[
            n(6, DATE),
            n(2, &[Rule::AtMost(23)]),
            opt(n(2, &[Rule::AtMost(59)])),
            opt(n(2, &[Rule::AtMost(59)])),
        ],
    ),
    ("8009", "8009", &[x_to(50, &[])]),
    ("8010", "8010", &[part(Set::Of39, 1, 30, PREFIXED)]),
    ("8011", "8011", &[n_to(12, &[Rule::NoLeadingZero])]),
    ("8012", "8012", &[x_to(20, &[])]),
    ("8013", "8013", &[x_to(25, &[Rule::CheckPair, Rule::CompanyPrefix])]),
    ("8014", "8014", &[x_to(25, &[Rule::CheckPair, Rule::CompanyPrefix, Rule::NotOnlyDigits])]),
    ("8017", "8018", &[n(18, CHECKED)]),
    ("8019", "8019", &[n_to(10, &[])]),
    ("8020", "8020", &[x_to(25, &[])]),
    ("8026", "8026", &[n(14, CHECKED), n(4, PIECE)]),
    ("8030", "8030", &[part(Set::Of64, 1, 90, &[])]),
    ("8040", "8041", &[n(15, &[])]),
    ("8042", "8042", &[n(32, &[])]),
    ("8043", "8043", &[n(18, &[]), opt(n_to(2, &[]))]),
    ("8110", "8110", &[x_to(70, COUPON)]),
    ("8111", "8111", &[n(4, &[])]),
    ("8112", "8112", &[x_to(70, COUPON)]),
    ("8200", "8200", &[x_to(70, &[])]),
    ("90", "90", &[x_to(30, &[])]),
    ("91", "99", &[x_to(90, &[])]),
];

const COUNTRIES_TO_5: &[Part] =
    &[n(3, COUNTRY), opt(n(3, COUNTRY)), opt(n(3, COUNTRY)), opt(n(3, COUNTRY)), opt(n(3, COUNTRY))];

/// Weights, lengths, areas, volumes, 310n to 369n: six digits.
const MEASURE: &[Part] = &[n(6, &[])];

/// The parts of an identifier's values, if it is known here.
pub(super) fn parts(ai: &str) -> Option<&'static [Part]> {
    if is_measure(ai) {
        return Some(MEASURE);
    }
    let holds = |(first, last, _): &&Row| first.len() == ai.len() && (*first..=*last).contains(&ai);
    TABLE.iter().find(holds).map(|(_, _, parts)| *parts)
}

/// 310n to 369n; the fourth digit counts the decimals, 0 to 5.
fn is_measure(ai: &str) -> bool {
    let number = ai.parse::<u32>().unwrap_or(0);
    let family = matches!(number / 10, 310..=316 | 320..=337 | 340..=357 | 360..=369);
    ai.len() == 4 && family && number % 10 <= 5
}

/// Digits of an identifier by its first two (General Specifications, figure 3.2-1).
pub(super) fn ai_length(first_two: &str) -> usize {
    match first_two {
        "23" | "24" | "25" | "40" | "41" | "42" | "71" => 3,
        "31" | "32" | "33" | "34" | "35" | "36" | "39" | "43" | "70" | "72" | "80" | "81" | "82" => 4,
        _ => 2,
    }
}

/// The lengths that values of these parts may have.
pub(super) fn lengths(parts: &[Part]) -> Vec<RangeInclusive<usize>> {
    let (mut min, mut max, mut out) = (0, 0, Vec::new());
    for part in parts {
        if part.optional {
            out.push(min..=max);
        }
        (min, max) = (max + part.min, max + part.max);
    }
    out.push(min..=max);
    out
}

pub(super) fn lengths_in_words(parts: &[Part]) -> String {
    let one = |r: RangeInclusive<usize>| match (*r.start(), *r.end()) {
        (min, max) if min == max => max.to_string(),
        (min, max) => format!("{min} to {max}"),
    };
    let all: Vec<String> = lengths(parts).into_iter().map(one).collect();
    format!("{} characters", all.join(" or "))
}

/// The length of a value that can have one only.
pub(super) fn fixed_length(parts: &[Part]) -> Option<usize> {
    match lengths(parts).as_slice() {
        [only] if only.start() == only.end() => Some(*only.end()),
        _ => None,
    }
}

/// The set of all characters of a value, where it is one.
pub(super) fn only_set(parts: &[Part]) -> Option<Set> {
    let set = parts.first()?.set;
    parts.iter().all(|part| part.set == set).then_some(set)
}

/// So many digits come before the first other character.
pub(super) fn leading_digits(parts: &[Part]) -> usize {
    parts.iter().take_while(|part| part.set == Set::Digits).map(|part| part.max).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_identifiers() -> impl Iterator<Item = String> {
        (0..10_000u32)
            .flat_map(|n| [format!("{n:02}"), format!("{n:03}"), format!("{n:04}")])
            .filter(|ai| ai.len() <= 4)
    }

    #[test]
    fn every_known_identifier_has_the_length_that_its_first_digits_say() {
        let known: std::collections::BTreeSet<String> =
            all_identifiers().filter(|ai| parts(ai).is_some()).collect();
        for ai in &known {
            assert_eq!(ai_length(&ai[..2]), ai.len(), "{ai}");
        }
        // As many as the dictionary of July 2026 has; counted there by expanding its ranges.
        assert_eq!(known.len(), 541);
    }

    #[test]
    fn rows_are_in_order_and_do_not_overlap() {
        for ((_, last, _), (first, ..)) in TABLE.iter().zip(&TABLE[1..]) {
            assert!(last < first, "{last} {first}");
        }
        for (_, _, parts) in TABLE {
            let (last, before) = parts.split_last().expect("a part");
            assert!(before.iter().all(|p| p.min == p.max), "only the last part has a variable length");
            assert!(before.iter().all(|p| !p.optional) || last.optional, "{parts:?}");
        }
    }

    #[test]
    fn sets_have_the_characters_of_their_names() {
        let count = |set: Set| (0..=255u8).filter(|&b| set.holds(char::from(b))).count();
        // Set 64 has its padding besides.
        assert_eq!([Set::Of82, Set::Of39, Set::Of64].map(count), [82, 39, 65]);
        assert!("#$@[\\]^`{|}~ ".chars().all(|c| !Set::Of82.holds(c)));
    }

    #[test]
    fn lengths_are_those_of_the_parts() {
        let words = |ai: &str| lengths_in_words(parts(ai).expect(ai));
        assert_eq!(words("01"), "14 characters");
        assert_eq!(words("10"), "1 to 20 characters");
        assert_eq!(words("8008"), "8 or 10 or 12 characters");
        assert_eq!(words("253"), "13 or 14 to 30 characters");
        assert_eq!(words("423"), "3 or 6 or 9 or 12 or 15 characters");
        assert_eq!(fixed_length(parts("8006").expect("known")), Some(18));
        assert_eq!(fixed_length(parts("7011").expect("known")), None);
    }
}
