//! Check digits: GTIN (GS1 mod 10), Luhn, ISO 7064 mod 37,36, VIN.
//!
//! Each check names the first place that breaks it. Letters are never taken for the digits that they
//! resemble: a marked `O` where a `0` belongs is exactly what has to be found.
//!
//! ```text
//! check       characters                       length         grouped by spaces, hyphens   proves
//! gtin        digits                           8, 12, 13, 14  yes                          mod 10, 3 1 3 1
//! luhn        digits                           2 or more      yes                          mod 10, 2 1 2 1
//! mod37_36    digits, capital letters          2 or more      yes                          ISO 7064
//! vin         digits, capitals without I O Q   17             no                           see `vin`
//! ```

use super::{Objection, mismatch};
use crate::domain::text::Mismatch;

/// GTIN-8, -12, -13 or -14 with its check digit; spaces and hyphens may group the digits, as they do under
/// a bar code and in an ISBN. Eight digits that begin with 0 may be a GTIN-12 without its zeros (UPC-E),
/// whose check digit is that of the whole.
pub(super) fn gtin(line: &str) -> Result<(), Objection> {
    let digits = all_digits(ungrouped(line), "gtin")?;
    if ![8, 12, 13, 14].contains(&digits.len()) {
        return Err(mismatch(0, line, "gtin: 8, 12, 13 or 14 digits").into());
    }
    if digits.iter().all(|&(_, digit)| digit == 0) {
        // It keeps the check digit, but nobody is ever given this number: printers without data print it.
        return Err(Objection::Unknown(mismatch(0, line, "gtin: a number that is not all zeros")));
    }
    if zero_suppressed(&digits).is_some_and(|whole| last_digit(&whole, gs1_check_digit, "gtin").is_ok()) {
        return Ok(());
    }
    Ok(last_digit(&digits, gs1_check_digit, "gtin")?)
}

/// The twelve digits that eight digits with a leading 0 stand for (General Specifications, section
/// 5.2.2.4.2): the last of the six in the middle says where the zeros were.
fn zero_suppressed(digits: &[(usize, u32)]) -> Option<Vec<(usize, u32)>> {
    let &[first @ (_, 0), a, b, c, d, e, last, check] = digits else { return None };
    let zeros = |count| std::iter::repeat_n((last.0, 0), count);
    let (before, count, after) = match last.1 {
        0..=2 => (vec![first, a, b, last], 4, vec![c, d, e]),
        3 => (vec![first, a, b, c], 5, vec![d, e]),
        4 => (vec![first, a, b, c, d], 5, vec![e]),
        _ => (vec![first, a, b, c, d, e], 4, vec![last]),
    };
    Some(before.into_iter().chain(zeros(count)).chain(after).chain([check]).collect())
}

/// Luhn (ISO/IEC 7812-1) over the digits of the line; spaces and hyphens may group them.
pub(super) fn luhn(line: &str) -> Result<(), Mismatch> {
    let digits = all_digits(ungrouped(line), "luhn")?;
    if digits.len() < 2 {
        return Err(mismatch(0, line, "luhn: at least 2 digits"));
    }
    last_digit(&digits, luhn_check_digit, "luhn")
}

/// ISO 7064 mod 37,36 over digits and capital letters; spaces and hyphens may group them.
pub(super) fn mod_37_36(line: &str) -> Result<(), Mismatch> {
    let mut values = Vec::new();
    for (at, c) in ungrouped(line) {
        match c.to_digit(36) {
            Some(value) if !c.is_ascii_lowercase() => values.push((at, value)),
            _ => return Err(mismatch(at, c, "mod37,36: 0..9 or A..Z")),
        }
    }
    let Some((&(at, check), payload)) = values.split_last().filter(|(_, payload)| !payload.is_empty()) else {
        return Err(mismatch(0, line, "mod37,36: at least 2 characters"));
    };
    // Hybrid system of ISO 7064: every character is added mod 36, the sum doubled mod 37.
    let mut product = 36;
    for (_, value) in payload {
        let sum = (product + value) % 36;
        product = if sum == 0 { 36 } else { sum } * 2 % 37;
    }
    let wanted = (37 - product) % 36;
    if check == wanted {
        return Ok(());
    }
    Err(mismatch(at, symbol(check), format!("mod37,36: check character {}", symbol(wanted))))
}

/// Vehicle identification number of ISO 3779: 17 characters without I, O and Q, of which the last four are
/// digits. The check digit of 49 CFR 565.15 at the ninth place is law in North America and in China; other
/// makers put there what they like, so that it is checked where the number says that it was given there.
pub(super) fn vin(line: &str) -> Result<(), Mismatch> {
    const LENGTH: usize = 17;
    const CHECK_AT: usize = 8;
    const SERIAL_DIGITS: usize = 4;
    const WEIGHTS: [u32; LENGTH] = [8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2];
    let chars: Vec<char> = line.chars().collect();
    if chars.len() != LENGTH {
        return Err(mismatch(0, line, "vin: 17 characters"));
    }
    let mut sum = 0;
    for (at, (&c, weight)) in chars.iter().zip(WEIGHTS).enumerate() {
        let Some(value) = vin_value(c) else {
            return Err(mismatch(at, c, "vin: 0..9 or A..Z without I, O, Q"));
        };
        sum += value * weight;
    }
    let wanted = match sum % 11 {
        10 => 'X',
        digit => symbol(digit),
    };
    if let Some(at) = (LENGTH - SERIAL_DIGITS..LENGTH).find(|&at| !chars[at].is_ascii_digit()) {
        return Err(mismatch(at, chars[at], "vin: a digit; the last four are"));
    }
    if chars[CHECK_AT] == wanted || !has_check_digit(chars[0], chars[1]) {
        return Ok(());
    }
    Err(mismatch(CHECK_AT, chars[CHECK_AT], format!("vin: check digit {wanted}")))
}

/// Whether the region of ISO 3780 has a check digit: 1 to 5 and 7F to 70 are North America, L is China.
const fn has_check_digit(first: char, second: char) -> bool {
    matches!(first, '1'..='5' | 'L') || (first == '7' && matches!(second, 'F'..='Z' | '0'..='9'))
}

/// The transliteration of 49 CFR 565.15, table III: A..H are 1..8, J..R 1..9, S..Z 2..9.
fn vin_value(c: char) -> Option<u32> {
    let after = |first: char, value: u32| Some(c as u32 - first as u32 + value);
    match c {
        '0'..='9' => after('0', 0),
        'I' | 'O' | 'Q' => None,
        'A'..='H' => after('A', 1),
        'J'..='R' => after('J', 1),
        'S'..='Z' => after('S', 2),
        _ => None,
    }
}

/// GS1's check digit of the digits before it: weights 3, 1, 3, … from the right.
pub(super) fn gs1_check_digit(payload: &[u32]) -> u32 {
    let sum: u32 = payload.iter().rev().zip([3, 1].iter().cycle()).map(|(d, w)| d * w).sum();
    (10 - sum % 10) % 10
}

/// Luhn's check digit of the digits before it: every second one from the right doubled.
fn luhn_check_digit(payload: &[u32]) -> u32 {
    let doubled = |d: &u32| if *d > 4 { d * 2 - 9 } else { d * 2 };
    let sum: u32 =
        payload.iter().rev().enumerate().map(|(i, d)| if i % 2 == 0 { doubled(d) } else { *d }).sum();
    (10 - sum % 10) % 10
}

/// The digits with their places, or the first character that is none.
fn all_digits(chars: impl Iterator<Item = (usize, char)>, rule: &str) -> Result<Vec<(usize, u32)>, Mismatch> {
    chars
        .map(|(at, c)| match c.to_digit(10) {
            Some(digit) => Ok((at, digit)),
            None => Err(mismatch(at, c, format!("{rule}: a digit"))),
        })
        .collect()
}

/// Compares the last digit with the one that the digits before it ask for.
fn last_digit(digits: &[(usize, u32)], check: fn(&[u32]) -> u32, rule: &str) -> Result<(), Mismatch> {
    let Some((&(at, last), payload)) = digits.split_last() else {
        return Err(mismatch(0, "", format!("{rule}: a digit")));
    };
    let payload: Vec<u32> = payload.iter().map(|&(_, digit)| digit).collect();
    let wanted = check(&payload);
    if last == wanted {
        return Ok(());
    }
    Err(mismatch(at, symbol(last), format!("{rule}: check digit {wanted}")))
}

/// Characters with their places, without the spaces and hyphens that group them.
fn ungrouped(line: &str) -> impl Iterator<Item = (usize, char)> + '_ {
    line.chars().enumerate().filter(|(_, c)| !matches!(c, ' ' | '-'))
}

/// The character of a value below 36.
fn symbol(value: u32) -> char {
    let digit = char::from_digit(value, 36).expect("check values are remainders below 37 and never 36");
    digit.to_ascii_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// From the GS1 check digit calculator, GS1's Tag Data Standard and well-known articles.
    #[test]
    fn published_gtins() {
        for good in ["6291041500213", "4006381333931", "036000291452", "73513537", "80614141123458"] {
            assert_eq!(gtin(good), Ok(()), "{good}");
        }
        let broken = |at, read, wanted| Err(Objection::Broken(mismatch(at, read, wanted)));
        assert_eq!(gtin("6291041500214"), broken(12, "4", "gtin: check digit 3"));
        assert_eq!(gtin("629104150O213"), broken(9, "O", "gtin: a digit"));
        assert_eq!(gtin("6291041500"), broken(0, "6291041500", "gtin: 8, 12, 13 or 14 digits"));
        assert!(gtin("").is_err() && gtin("６２９１０４１５００２１３").is_err());
    }

    /// As they stand under bar codes and in books (more lines are in `expect/cases.rs`).
    #[test]
    fn gtins_may_be_printed_in_groups() {
        for good in ["4 006381 333931", "0 36000 29145 2", "978-3-16-148410-0", "7351 3537"] {
            assert_eq!(gtin(good), Ok(()), "{good}");
        }
        let wrong = Objection::Broken(mismatch(14, "2", "gtin: check digit 1"));
        assert_eq!(gtin("4 006381 333932"), Err(wrong), "the place counts the spaces");
        assert!(matches!(gtin("00000000"), Err(Objection::Unknown(_))));
        assert!(matches!(gtin("0000000000000"), Err(Objection::Unknown(_))));
    }

    /// The example of the General Specifications and others of their table.
    #[test]
    fn a_gtin_12_may_leave_its_zeros_out() {
        for (short, whole) in [
            ("04252614", "042100005264"),
            ("01234505", "012000003455"),
            ("01234523", "012200003453"),
            ("01234531", "012300000451"),
            ("01234543", "012340000053"),
            ("01234565", "012345000065"),
        ] {
            assert_eq!((gtin(short), gtin(whole)), (Ok(()), Ok(())), "{short}");
            let digits = all_digits(ungrouped(short), "").unwrap();
            let digits = zero_suppressed(&digits).unwrap().into_iter().map(|(_, d)| symbol(d));
            assert_eq!(digits.collect::<String>(), whole);
        }
        assert!(gtin("04252615").is_err(), "the check digit of neither");
    }

    /// The numbers that descriptions of the algorithm and of IMEIs use as their examples.
    #[test]
    fn published_luhn_numbers() {
        for good in ["49927398716", "4992 7398-716", "490154203237518", "17893729974", "00"] {
            assert_eq!(luhn(good), Ok(()), "{good}");
        }
        assert_eq!(luhn("49927398717"), Err(mismatch(10, "7", "luhn: check digit 6")));
        assert_eq!(luhn("4992 7398-71O"), Err(mismatch(12, "O", "luhn: a digit")));
        assert!(luhn("").is_err() && luhn("0").is_err() && luhn("- -").is_err());
    }

    /// The identifier of the GRid standard (Global Release Identifier), which uses mod 37,36.
    #[test]
    fn published_mod_37_36() {
        assert_eq!(mod_37_36("A12425GABC1234002M"), Ok(()));
        assert_eq!(mod_37_36("A1-2425G-ABC1234002-M"), Ok(()));
        assert_eq!(mod_37_36("A12425GABC1234002N"), Err(mismatch(17, "N", "mod37,36: check character M")));
        assert_eq!(mod_37_36("a1"), Err(mismatch(0, "a", "mod37,36: 0..9 or A..Z")));
        assert!(mod_37_36("").is_err() && mod_37_36("A").is_err());
    }

    /// The numbers that descriptions of the check digit use as their examples.
    #[test]
    fn published_vins() {
        for good in ["1M8GDM9AXKP042788", "11111111111111111", "5GZCZ43D13S812715"] {
            assert_eq!(vin(good), Ok(()), "{good}");
        }
        assert_eq!(vin("1M8GDM9A1KP042788"), Err(mismatch(8, "1", "vin: check digit X")));
        assert_eq!(vin("1M8GDM9AXKPO42788").map_err(|m| m.at), Err(11));
        assert_eq!(vin("1M8GDM9AXKP04278").map_err(|m| m.expected), Err("vin: 17 characters".to_owned()));
        assert!(vin("1m8gdm9axkp042788").is_err() && vin("").is_err());
    }

    #[test]
    fn the_check_digit_of_a_vin_is_asked_for_where_it_is_law() {
        // Europe, Japan, Korea: whatever stands at the ninth place.
        for good in ["WVWZZZ1JZXW000001", "WVGZZZ5NZEW069297", "JTDBR32E720012345", "KMHCT41DAEU012345"] {
            assert_eq!(vin(good), Ok(()), "{good}");
        }
        for wrong in ["1M8GDM9A1KP042788", "5YJSA1E14HF000337", "7SAYGDEE9NF000001", "LFV2A21K9A3000001"] {
            let found = vin(wrong).expect_err(wrong);
            assert_eq!(found.at, 8, "{wrong}");
            let right = found.expected.chars().last().expect("the digit");
            assert_eq!(vin(&format!("{}{right}{}", &wrong[..8], &wrong[9..])), Ok(()));
        }
        // 7A to 7E is New Zealand.
        assert_eq!(vin("7A8GDM9A1KP042788"), Ok(()));
        assert_eq!(vin("WVWZZZ1JZXW00000A"), Err(mismatch(16, "A", "vin: a digit; the last four are")));
    }

    proptest! {
        /// All these systems find every single changed character.
        #[test]
        fn one_changed_character_is_found(payload in "[0-9]{12}", at in 0usize..13, by in 1u32..10) {
            let digits: Vec<u32> = payload.chars().filter_map(|c| c.to_digit(10)).collect();
            let change = |line: &str| -> String {
                let bump = |(i, c): (usize, char)| match c.to_digit(10) {
                    Some(d) if i == at => symbol((d + by) % 10),
                    _ => c,
                };
                line.chars().enumerate().map(bump).collect()
            };
            let code = format!("{payload}{}", gs1_check_digit(&digits));
            prop_assert_eq!(gtin(&code), Ok(()));
            prop_assert!(gtin(&change(&code)).is_err());
            let code = format!("{payload}{}", luhn_check_digit(&digits));
            prop_assert_eq!(luhn(&code), Ok(()));
            prop_assert!(luhn(&change(&code)).is_err());
        }

        #[test]
        fn mod_37_36_has_one_check_character_and_finds_any_change(
            payload in "[0-9A-Z]{1,20}", at in 0usize..20, by in 1u32..36,
        ) {
            let good: Vec<String> =
                (0..36).map(|v| format!("{payload}{}", symbol(v))).filter(|s| mod_37_36(s).is_ok()).collect();
            prop_assert_eq!(good.len(), 1);
            let mut changed: Vec<char> = good[0].chars().collect();
            let at = at % changed.len();
            let value = changed[at].to_digit(36).expect("of the alphabet");
            changed[at] = symbol((value + by) % 36);
            prop_assert!(mod_37_36(&String::from_iter(changed)).is_err());
        }
    }
}
