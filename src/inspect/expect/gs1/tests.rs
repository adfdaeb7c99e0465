use super::*;
use proptest::prelude::*;

const YEAR: i32 = 2026;

fn pairs(line: &str) -> Vec<(String, String)> {
    let all = elements(line, YEAR).unwrap_or_else(|e| panic!("{line}: {e:?}"));
    all.into_iter().map(|e| (e.ai, e.value)).collect()
}

fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|&(a, v)| (a.to_owned(), v.to_owned())).collect()
}

fn broken(line: &str) -> (usize, String, String) {
    let m = elements(line, YEAR).expect_err(line);
    (m.at, m.read, m.expected)
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

#[test]
fn unknown_identifiers_are_named() {
    assert_eq!(broken("(05)123"), at(1, "05", "gs1: unknown application identifier (05)"));
    assert_eq!(broken("(3106)001750"), at(1, "3106", "gs1: unknown application identifier (3106)"));
    assert_eq!(
        broken("(01)09501101530003(8100)1"),
        at(19, "8100", "gs1: unknown application identifier (8100)")
    );
    assert_eq!(broken("0109501101530003051"), at(16, "05", "gs1: unknown application identifier (05)"));
    assert_eq!(broken("").2, "gs1: unknown application identifier ()");
    assert_eq!(broken("ABC").0, 0);
    assert_eq!(broken("()123").2, "gs1: an identifier of 2 to 4 digits in brackets");
    assert_eq!(broken("(0l)09501101530003").2, "gs1: an identifier of 2 to 4 digits in brackets");
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
fn set_82_has_82_characters() {
    assert_eq!((0..=255u8).filter(|&b| in_set_82(char::from(b))).count(), 82);
    assert!("#$@[\\]^`{|}~ ".chars().all(|c| !in_set_82(c)));
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
    assert_eq!(
        broken("(8008)261231235"),
        at(6, "261231235", "gs1: (8008) YYMMDDHH, YYMMDDHHMM or YYMMDDHHMMSS")
    );
}

#[test]
fn every_known_identifier_has_the_length_that_its_first_digits_say() {
    let mut known = 0;
    for ai in (0..10_000u32).flat_map(|n| [format!("{n:02}"), format!("{n:03}"), format!("{n:04}")]) {
        if ai.len() <= 4 && format_of(&ai).is_some() {
            assert_eq!(ai_length(&ai[..2]), ai.len(), "{ai}");
            known += 1;
        }
    }
    assert!(known > 200, "{known}");
}

proptest! {
    /// No text, however misread, stops the line.
    #[test]
    fn any_line_is_judged(line in "[()0-9A-Z \u{1d}é]{0,40}", year in 1990i32..2200) {
        if let Err(m) = elements(&line, year) {
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
