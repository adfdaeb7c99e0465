use super::rules::full_year;
use super::*;
use crate::inspect::expect::digits::gs1_check_digit;
use proptest::prelude::*;

const YEAR: i32 = 2026;

fn pairs(line: &str) -> Vec<(String, String)> {
    let all = elements(line, YEAR).unwrap_or_else(|e| panic!("{line}: {e:?}"));
    all.into_iter().map(|e| (e.ai, e.value)).collect()
}

fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|&(a, v)| (a.to_owned(), v.to_owned())).collect()
}

/// What is surely wrong with the line.
fn broken(line: &str) -> (usize, String, String) {
    match elements(line, YEAR).expect_err(line) {
        Objection::Broken(m) => (m.at, m.read, m.expected),
        Objection::Unknown(m) => panic!("{line}: cannot tell: {m:?}"),
    }
}

/// Why nothing can be said about the line.
fn unknown(line: &str) -> (usize, String, String) {
    match elements(line, YEAR).expect_err(line) {
        Objection::Unknown(m) => (m.at, m.read, m.expected),
        Objection::Broken(m) => panic!("{line}: broken: {m:?}"),
    }
}

fn at(at: usize, read: &str, expected: &str) -> (usize, String, String) {
    (at, read.to_owned(), expected.to_owned())
}

fn date(line: &str, year: i32) -> Date {
    elements(line, year).expect(line)[0].date.expect("a date")
}

/// From GS1's General Specifications, Tag Data Standard and DataMatrix guideline.
#[test]
fn published_element_strings() {
    assert_eq!(
        pairs("(01)09501101530003(17)261231(10)AB-123"),
        owned(&[("01", "09501101530003"), ("17", "261231"), ("10", "AB-123")])
    );
    assert_eq!(pairs("(01)80614141123458(21)6789"), owned(&[("01", "80614141123458"), ("21", "6789")]));
    assert_eq!(pairs("(00)106141412345678908"), owned(&[("00", "106141412345678908")]));
    assert_eq!(pairs("(414)0614141123452(254)5678"), owned(&[("414", "0614141123452"), ("254", "5678")]));
    assert_eq!(pairs("(01)03453120000011(17)191125(10)ABCD1234").len(), 3);
    assert_eq!(pairs("(3103)001750(37)24"), owned(&[("3103", "001750"), ("37", "24")]));
    assert_eq!(pairs("(8005)000365(8008)26123123"), owned(&[("8005", "000365"), ("8008", "26123123")]));
    assert_eq!(pairs("(01) 09501101530003 (10) A(B)C"), owned(&[("01", "09501101530003"), ("10", "A(B)C")]));
}

#[test]
fn without_brackets_fixed_values_end_by_themselves() {
    assert_eq!(
        pairs("010950110153000317261231310300175010AB-123"),
        owned(&[("01", "09501101530003"), ("17", "261231"), ("3103", "001750"), ("10", "AB-123")])
    );
    // Without a separator all that follows belongs to the variable value; with one it does not.
    assert_eq!(pairs("10AB17261231"), owned(&[("10", "AB17261231")]));
    assert_eq!(pairs("10AB\u{1d}17261231"), owned(&[("10", "AB"), ("17", "261231")]));
    assert_eq!(pairs("10AB\u{1d}"), owned(&[("10", "AB")]));
    assert_eq!(broken(&format!("10{}", "A".repeat(21))).2, "gs1: (10) 1 to 20 characters");
    assert_eq!(broken("0109501101530003172612").2, "gs1: (17) 6 characters");
}

/// A new identifier is nothing against the part; what is no identifier is.
#[test]
fn unknown_identifiers_are_named_and_not_held_against_the_part() {
    assert_eq!(unknown("(05)123"), at(1, "05", "gs1: unknown application identifier (05)"));
    assert_eq!(unknown("(3106)001750"), at(1, "3106", "gs1: unknown application identifier (3106)"));
    assert_eq!(
        unknown("(01)09501101530003(8100)1"),
        at(19, "8100", "gs1: unknown application identifier (8100)")
    );
    assert_eq!(unknown("0109501101530003051"), at(16, "05", "gs1: unknown application identifier (05)"));
    // What is surely wrong elsewhere in the line stays wrong.
    assert_eq!(broken("(05)123(01)09501101530004").2, "gs1: (01) check digit 3");
    assert_eq!(broken("01095011015300040512").2, "gs1: (01) check digit 3");
    assert_eq!(broken("").2, "gs1: an application identifier of 2 to 4 digits");
    assert_eq!(broken("ABC").0, 0);
    assert_eq!(broken("]C1").2, "gs1: an application identifier of 2 to 4 digits");
    assert_eq!(broken("]E04006381333931").0, 0);
    assert_eq!(broken("()123").2, "gs1: an identifier of 2 to 4 digits in brackets");
    assert_eq!(broken("(0l)09501101530003").2, "gs1: an identifier of 2 to 4 digits in brackets");
}

#[test]
fn codes_of_lists_are_good_or_unknown() {
    assert_eq!(pairs("(422)276(3911)978120").len(), 2);
    assert_eq!(unknown("(422)277"), at(5, "277", "gs1: (422) a country of ISO 3166"));
    assert_eq!(unknown("(423)276277040"), at(8, "277", "gs1: (423) a country of ISO 3166"));
    assert_eq!(unknown("(4307)XQ"), at(6, "XQ", "gs1: (4307) a country of ISO 3166"));
    assert_eq!(unknown("(3911)001120").2, "gs1: (3911) a currency of ISO 4217");
    assert_eq!(pairs("(7030)999ABC").len(), 1);
    assert_eq!(unknown("(8110)106141412345678908").1, "106141412345678908");
    assert_eq!(unknown("(7041)PX").2, "gs1: (7041) a package type; their list is not kept here");
}

/// One of each rule that no other test has; values from the General Specifications where they have one.
#[test]
fn every_rule_of_the_table_finds_what_breaks_it() {
    for (good, bad, wanted) in [
        ("(8013)1987654Ad4X4bL5ttr2310c2K", "(8013)1987654Ad4X4bL5ttr2310c2J", "check characters 2K"),
        ("(8004)4012345ABC", "(8004)401A345ABC", "a digit of the company prefix"),
        ("(8004)4012", "(8004)401", "a company prefix of 4 digits or more"),
        ("(8006)095011015300030102", "(8006)095011015300030302", "a piece from 1 to 2"),
        ("(8001)12345678901204", "(8001)12345678901234", "one of 019"),
        ("(8001)00010000100100", "(8001)00000000100100", "more than 0"),
        ("(8011)12", "(8011)012", "no leading 0"),
        ("(7258)1/2", "(7258)2/1", "a place and a count, as 1/2"),
        ("(4300)A%20B", "(4300)A%2", "two hexadecimal digits after %"),
        ("(8007)GB82WEST12345698765432", "(8007)GB82WEST12345698765431", "check digits of an IBAN"),
        ("(8007)GB82WEST12345698765432", "(8007)GB82west12345698765432", "0..9 or A..Z"),
        ("(7003)2612312359", "(7003)2612312459", "00 to 23"),
        ("(7003)2612310059", "(7003)2612310060", "00 to 59"),
        ("(7250)19800229", "(7250)19810229", "day 01 to 28 of 1981-02"),
        ("(4309)02790858483015297971", "(4309)18790858483015297971", "00 to 1800000000"),
        ("(4330)001200-", "(4330)001200+", "one of -"),
        ("(4321)1", "(4321)2", "one of 01"),
        ("(8003)04012345123456SER1", "(8003)14012345123456SER1", "one of 0"),
        ("(8010)4012345#1-A/B", "(8010)4012345a", "a character of GS1's set 39"),
        ("(8030)abc-_9=", "(8030)abc+", "a character of GS1's set 64"),
        ("(253)4012345000009AB", "(253)4012345000009AB C", "a character of GS1's set 82"),
        (
            "(7040)1A2b",
            "(7040)1A2%",
            "one of -0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz",
        ),
    ] {
        assert_eq!(pairs(good).len(), 1, "{good}");
        let ai = &bad[1..bad.find(')').expect("a bracket")];
        assert_eq!(broken(bad).2, format!("gs1: ({ai}) {wanted}"), "{bad}");
    }
}

#[test]
fn digits_may_be_printed_in_groups_and_texts_may_not() {
    assert_eq!(pairs("(01)0950110153 0003"), owned(&[("01", "09501101530003")]));
    assert_eq!(pairs("(00)1 0614141 234567890 8"), owned(&[("00", "106141412345678908")]));
    assert_eq!(broken("(01)0950110153 0004"), at(18, "4", "gs1: (01) check digit 3"));
    assert_eq!(broken("(01)0950110153 003").2, "gs1: (01) 14 characters");
    assert_eq!(pairs("(253)40123 45000009AB"), owned(&[("253", "4012345000009AB")]));
    assert_eq!(broken("(10)A B"), at(5, " ", "gs1: (10) a character of GS1's set 82"));
}

#[test]
fn what_scanners_send_before_the_data_is_passed_over() {
    for line in
        ["]C10109501101530003", "]d20109501101530003", "\u{1d}0109501101530003", "]d2(01)09501101530003"]
    {
        assert_eq!(pairs(line), owned(&[("01", "09501101530003")]), "{line}");
    }
    assert_eq!(broken("]C10109501101530004").0, 18, "places count from the beginning of the line");
}

#[test]
fn check_digits_lengths_and_characters() {
    assert_eq!(broken("(01)09501101530004"), at(17, "4", "gs1: (01) check digit 3"));
    assert_eq!(broken("(00)106141412345678909"), at(21, "9", "gs1: (00) check digit 8"));
    assert_eq!(broken("(410)0614141123453"), at(17, "3", "gs1: (410) check digit 2"));
    assert_eq!(broken("(01)9501101530003"), at(4, "9501101530003", "gs1: (01) 14 characters"));
    assert_eq!(broken("(01)0950110153OO03"), at(14, "O", "gs1: (01) a digit"));
    assert_eq!(broken("(10)A#B"), at(5, "#", "gs1: (10) a character of GS1's set 82"));
    assert_eq!(broken("(10)A B").1, " ");
    assert_eq!(broken("(10)Ä").0, 4);
    assert_eq!(broken("(10)(21)5"), at(4, "", "gs1: (10) 1 to 20 characters"));
    assert_eq!(broken("(17)261231(l0)AB").1, "(", "a misread bracket belongs to the value before");
    assert_eq!(broken("(10)A(10)B"), at(9, "B", "gs1: (10) stands twice with different values"));
    assert_eq!(pairs("(10)A(10)A").len(), 2);
}

#[test]
fn dates_are_real_days() {
    assert_eq!(date("(17)261231", YEAR), Date { year: 2026, month: 12, day: 31 });
    assert_eq!(broken("(17)261301"), at(6, "13", "gs1: (17) month 01 to 12"));
    assert_eq!(broken("(17)260001"), at(6, "00", "gs1: (17) month 01 to 12"));
    assert_eq!(broken("(17)260431"), at(8, "31", "gs1: (17) day 01 to 30 of 2026-04"));
    assert_eq!(broken("(17)260229"), at(8, "29", "gs1: (17) day 01 to 28 of 2026-02"));
    assert_eq!(date("(17)280229", YEAR).day, 29);
    // 2000 was a leap year, 2100 is none: the century decides.
    assert_eq!(date("(11)000229", YEAR), Date { year: 2000, month: 2, day: 29 });
    assert!(elements("(11)000229", 2090).is_err());
}

#[test]
fn day_00_is_the_last_of_the_month() {
    assert_eq!(date("(17)260200", YEAR), Date { year: 2026, month: 2, day: 28 });
    assert_eq!(date("(15)280200", YEAR), Date { year: 2028, month: 2, day: 29 });
    assert_eq!(date("(13)261100", YEAR).day, 30);
    assert_eq!(broken("(8008)26020012").2, "gs1: (8008) day 01 to 28 of 2026-02");
}

/// The table of the General Specifications: 51 to 99 more is the last century, 50 to 99 less the next.
#[test]
fn the_century_is_the_nearest() {
    for (yy, current, full) in [
        (26, 2026, 2026),
        (76, 2026, 2076),
        (77, 2026, 1977),
        (99, 2026, 1999),
        (0, 2026, 2000),
        (0, 2049, 2000),
        (0, 2050, 2100),
        (49, 2099, 2149),
        (50, 2099, 2050),
        (99, 2099, 2099),
    ] {
        assert_eq!(full_year(yy, current), full, "{yy} in {current}");
    }
}

#[test]
fn times_are_real_times() {
    for good in ["26123123", "2612312359", "261231235959"] {
        assert_eq!(pairs(&format!("(8008){good}")).len(), 1, "{good}");
    }
    assert_eq!(broken("(8008)26123124"), at(12, "24", "gs1: (8008) 00 to 23"));
    assert_eq!(broken("(8008)2612312360"), at(14, "60", "gs1: (8008) 00 to 59"));
    assert_eq!(broken("(8008)261231235"), at(6, "261231235", "gs1: (8008) 8 or 10 or 12 characters"));
}

proptest! {
    /// No text, however misread, stops the line.
    #[test]
    fn any_line_is_judged(line in "[()0-9A-Z \u{1d}é]{0,40}", year in 1990i32..2200) {
        if let Err(Objection::Broken(m) | Objection::Unknown(m)) = elements(&line, year) {
            let chars = line.chars().count();
            prop_assert!(m.at + m.read.chars().count() <= chars, "{:?}", m);
            prop_assert!(m.expected.starts_with("gs1: "));
        }
    }

    #[test]
    fn the_century_is_within_the_window(yy in 0u32..100, current in 1900i32..2200) {
        let ahead = full_year(yy, current) - current;
        prop_assert!((-49..=50).contains(&ahead));
    }

    #[test]
    fn brackets_or_not_is_the_same(
        payload in "[0-9]{13}", lot in "[A-Z0-9/-]{1,20}", month in 1u32..=12, day in 0u32..=28,
    ) {
        let digits: Vec<u32> = payload.chars().filter_map(|c| c.to_digit(10)).collect();
        let gtin = format!("{payload}{}", gs1_check_digit(&digits));
        let with = format!("(01){gtin}(17)26{month:02}{day:02}(10){lot}");
        let without = with.replace(['(', ')'], "");
        prop_assert_eq!(elements(&with, YEAR), elements(&without, YEAR));
        prop_assert_eq!(elements(&with, YEAR).expect("valid").len(), 3);
    }
}
