//! The bracket that was never closed: where the reader of TOML stumbles is mostly a line or more behind it.

/// The innermost bracket that is open at byte `to` of a text, and the byte where it stands; strings and comments count
/// for nothing.
pub(super) fn open_at(text: &str, to: usize) -> Option<(char, usize)> {
    let text = text.get(..to)?;
    let mut open = Vec::new();
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at..];
        at += match c {
            '#' => rest.find('\n').unwrap_or(rest.len()),
            '"' | '\'' => string(rest, c),
            '[' | '{' => {
                open.push((c, at));
                1
            }
            ']' | '}' => {
                open.pop();
                1
            }
            c => c.len_utf8(),
        };
    }
    open.pop()
}

/// Bytes of the string that begins with this quote, up to the end of its line where it is not closed.
fn string(text: &str, quote: char) -> usize {
    let three = quote.to_string().repeat(3);
    if let Some(inside) = text.strip_prefix(&three) {
        return inside.find(&three).map_or(text.len(), |end| end + 2 * three.len());
    }
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if c == '\n' {
            return at;
        }
        if c == quote && !escaped {
            return at + 1;
        }
        escaped = quote == '"' && c == '\\' && !escaped;
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_open_bracket_is_found_past_strings_and_comments() {
        let found = |text: &str| open_at(text, text.len());
        assert_eq!(found("a = [1, 2\nb = 3"), Some(('[', 4)));
        assert_eq!(found("a = { b = [1]\n"), Some(('{', 4)));
        assert_eq!(found("a = [ { b = 1 }, { c = 2\n"), Some(('{', 17)));
        for closed in [
            "[a]\nb = [1]",
            "a = \"[\"",
            "a = '{'",
            "# [\n",
            "a = \"\\\"[\"",
            "a = '''[\n'''\n",
            "a = \"ü[\"",
            "a = \"[\nb = 1",
        ] {
            assert_eq!(found(closed), None, "{closed}");
        }
        assert_eq!(open_at("a = [1]", 5), Some(('[', 4)), "as far as it is asked");
        assert_eq!(open_at("ü", 1), None, "between two characters");
    }
}
