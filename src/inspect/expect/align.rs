//! Alignment: which characters of a line differ from the expected ones.
//!
//! Levenshtein's distance by dynamic programming, then the way back through the table. Of the ways
//! that cost the same, a changed character is preferred to a missing and an extra one, because that
//! is how print is misread.

use super::mismatch;
use crate::domain::text::Mismatch;

/// Longer strings are compared as wholes: the table grows with the product of both lengths. Marked
/// lines have at most `vlm::form::LINE_CHARS_MAX` characters; what a trigger expects may be anything.
const ALIGN_CHARS_MAX: usize = 512;

/// The places where `read` differs from `expected`, from left to right; none when they are equal.
/// Each is one character changed, missing (`read` empty) or extra (`expected` empty).
pub(crate) fn mismatches(read: &str, expected: &str) -> Vec<Mismatch> {
    if read == expected {
        return Vec::new();
    }
    let (r, e): (Vec<char>, Vec<char>) = (read.chars().collect(), expected.chars().collect());
    if r.len() > ALIGN_CHARS_MAX || e.len() > ALIGN_CHARS_MAX {
        return vec![mismatch(0, read, expected)];
    }
    let cost = distances(&r, &e);
    let mut out = Vec::new();
    let (mut i, mut j) = (r.len(), e.len());
    while i > 0 || j > 0 {
        let here = cost[i][j];
        if i > 0 && j > 0 && here == cost[i - 1][j - 1] + u32::from(r[i - 1] != e[j - 1]) {
            (i, j) = (i - 1, j - 1);
            if r[i] != e[j] {
                out.push(mismatch(i, r[i], e[j]));
            }
        } else if i > 0 && here == cost[i - 1][j] + 1 {
            i -= 1;
            out.push(mismatch(i, r[i], ""));
        } else {
            // The table is complete, so the last neighbour is the one that this cell came from.
            j -= 1;
            out.push(mismatch(i, "", e[j]));
        }
    }
    out.reverse();
    out
}

/// `[i][j]`: edits that turn the first `i` characters of `r` into the first `j` of `e`.
fn distances(r: &[char], e: &[char]) -> Vec<Vec<u32>> {
    let mut cost: Vec<Vec<u32>> = vec![(0u32..).take(e.len() + 1).collect()];
    for (i, a) in r.iter().enumerate() {
        let mut row = vec![cost[i][0] + 1];
        for (j, b) in e.iter().enumerate() {
            let change = cost[i][j] + u32::from(a != b);
            row.push(change.min(cost[i][j + 1] + 1).min(row[j] + 1));
        }
        cost.push(row);
    }
    cost
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Applies the mismatches to what was read.
    fn replay(read: &str, edits: &[Mismatch]) -> String {
        let chars: Vec<char> = read.chars().collect();
        let mut out = String::new();
        let mut at = 0;
        for edit in edits {
            out.extend(&chars[at..edit.at]);
            let taken: Vec<char> = edit.read.chars().collect();
            assert_eq!(chars[edit.at..edit.at + taken.len()], taken);
            out.push_str(&edit.expected);
            at = edit.at + taken.len();
        }
        out.extend(&chars[at..]);
        out
    }

    #[test]
    fn changed_missing_and_extra_characters() {
        assert_eq!(mismatches("SN0012", "SN0012"), []);
        assert_eq!(mismatches("SNO012", "SN0012"), [mismatch(2, "O", "0")]);
        assert_eq!(mismatches("SN012", "SN0A12"), [mismatch(3, "", "A")]);
        assert_eq!(mismatches("SN0A12", "SN012"), [mismatch(3, "A", "")]);
        assert_eq!(mismatches("", "AB"), [mismatch(0, "", "A"), mismatch(0, "", "B")]);
        assert_eq!(mismatches("AB", ""), [mismatch(0, "A", ""), mismatch(1, "B", "")]);
    }

    #[test]
    fn positions_count_characters_not_bytes() {
        assert_eq!(mismatches("Ø5±0,1", "Ø5±0.1"), [mismatch(4, ",", ".")]);
        assert_eq!(mismatches("批号1", "批号7"), [mismatch(2, "1", "7")]);
    }

    #[test]
    fn very_long_strings_are_compared_as_wholes() {
        let long = "A".repeat(ALIGN_CHARS_MAX + 1);
        assert_eq!(mismatches("A", &long), [mismatch(0, "A", long.as_str())]);
    }

    proptest! {
        #[test]
        fn replaying_the_mismatches_gives_what_was_expected(read in "[A-D0é±]{0,12}", expected in "[A-D0é±]{0,12}") {
            let edits = mismatches(&read, &expected);
            prop_assert_eq!(replay(&read, &edits), expected.clone());
            let (r, e) = (read.chars().count(), expected.chars().count());
            prop_assert!(edits.len() >= r.abs_diff(e) && edits.len() <= r.max(e));
            // The fewest edits: no more than changing character by character.
            let changed = read.chars().zip(expected.chars()).filter(|(a, b)| a != b).count();
            prop_assert!(edits.len() <= changed + r.abs_diff(e));
        }

        #[test]
        fn one_changed_character_is_one_mismatch(text in "[A-Z0-9]{1,20}", at in 0usize..20) {
            let at = at % text.len();
            let read = format!("{}_{}", &text[..at], &text[at + 1..]);
            prop_assert_eq!(mismatches(&read, &text), [mismatch(at, "_", &text[at..=at])]);
        }
    }
}
