//! Tests of the forms: which answers their grammars accept, byte by byte.

use super::*;
use llguidance::Matcher;
use proptest::prelude::*;

/// A matcher over single bytes.
fn matcher(form: &Form) -> Matcher {
    let factory = factory_of_bytes().expect("a tokenizer of single bytes");
    form.matcher(&factory).expect("it compiles").expect("it has a grammar")
}

/// True when the form accepts exactly this answer, and it may end there.
fn accepts(form: &Form, answer: &str) -> bool {
    let mut matcher = matcher(form);
    let tokens: Vec<u32> = answer.bytes().map(u32::from).collect();
    let taken = matcher.try_consume_tokens(&tokens).expect("no parser error");
    taken == tokens.len() && matcher.is_accepting().expect("no parser error")
}

fn of_labels(labels: &[&str]) -> Form {
    Form::Defects { labels: labels.iter().map(|&label| label.to_owned()).collect() }
}

const STAIN: &str = r#"{"bbox_2d":[0,700,275,1000],"label":"stain","severity":"major"}"#;

/// What models were trained with and proofs were made with: a letter more is another grammar.
#[test]
fn the_grammars_are_the_very_same_as_ever() {
    let labels = ["pit", "a\"b\u{7f}"].map(str::to_owned);
    assert_eq!(
        defects(&labels),
        r#"start: "[" (item ("," item){0,23})? "]"
item: "{\"bbox_2d\":[" NUMBER "," NUMBER "," NUMBER "," NUMBER "],\"label\":" label ",\"severity\":" severity "}"
NUMBER: /0|[1-9][0-9]{0,2}|1000/
label: "\"pit\"" | "\"a\\\"b\u007f\""
severity: "\"minor\"" | "\"major\"" | "\"critical\""
"#
    );
    assert_eq!(defects(&[]), "start: \"[]\"\n");
    assert_eq!(
        lines(),
        r#"start: "[" (LINE ("," LINE){0,11})? "]"
LINE: /"([^"\\\x00-\x1f\x7f-\x9f]|\\["\\]){1,64}"/
"#
    );
}

#[test]
fn the_grammar_of_defects_accepts_what_the_model_writes() {
    let form = of_labels(&["stain", "pit", "pitting"]);
    let list = |n: usize| format!("[{}]", vec![STAIN; n].join(","));
    for good in ["[]", &list(1), &list(2), &list(DEFECTS_MAX), &stain_as("pit"), &stain_as("pitting")] {
        assert!(accepts(&form, good), "{good}");
    }
    for number in ["0", "5", "10", "99", "100", "999", "1000"] {
        assert!(accepts(&form, &list(1).replace("275", number)), "{number}");
    }
}

fn stain_as(label: &str) -> String {
    format!("[{}]", STAIN.replace("stain", label))
}

#[test]
fn the_grammar_of_defects_refuses_everything_else() {
    let form = of_labels(&["stain", "pit"]);
    let good = format!("[{STAIN}]");
    for (from, to) in [
        ("stain", "crack"),
        ("stain", "stai"),
        ("stain", ""),
        ("1000", "1001"),
        ("1000", "10000"),
        ("275", "0275"),
        ("275", "00"),
        ("275", "-5"),
        ("275", "2.5"),
        ("275,", ""),
        ("275", "275,276"),
        (",\"label\"", ", \"label\""),
        ("[{", "[ {"),
        ("major", "huge"),
        ("}]", "},]"),
        ("}]", "}"),
        ("}]", "}]]"),
        ("\"label\":\"stain\",", ""),
    ] {
        let bad = good.replacen(from, to, 1);
        assert_ne!(good, bad);
        assert!(!accepts(&form, &bad), "{bad}");
    }
    assert!(!accepts(&form, &format!("[{}]", vec![STAIN; DEFECTS_MAX + 1].join(","))));
    assert!(!accepts(&form, ""));
}

/// Forced characters cost no decoding step, so the grammar must not hide them.
#[test]
fn the_grammar_forces_what_can_only_be_one_thing() {
    let mut matcher = matcher(&of_labels(&["stain", "pit"]));
    let mut said = String::new();
    for choice in ["{", "0,", "700,", "275,", "1000", "s", "ma"] {
        said.push_str(&String::from_utf8(matcher.compute_ff_bytes()).expect("ascii"));
        let bytes: Vec<u32> = said.bytes().chain(choice.bytes()).map(u32::from).collect();
        matcher.reset().expect("resets");
        said.push_str(choice);
        matcher.consume_tokens(&bytes).expect("allowed");
    }
    said.push_str(&String::from_utf8(matcher.compute_ff_bytes()).expect("ascii"));
    assert_eq!(said, format!("[{STAIN}"));
}

#[test]
fn labels_are_escaped_for_the_grammar_and_for_json() {
    let odd = ["5\" disc", r"back\slash", "缺陷", "a|b", "new\nline", "del\u{7f}", "/re/", "<[1]>"];
    let form = of_labels(&odd);
    for label in odd {
        let label = serde_json::Value::from(label);
        let answer = format!(r#"[{{"bbox_2d":[1,2,3,4],"label":{label},"severity":"minor"}}]"#);
        assert!(accepts(&form, &answer), "{answer}");
    }
    assert!(!accepts(&form, r#"[{"bbox_2d":[1,2,3,4],"label":"a","severity":"minor"}]"#));
}

#[test]
fn without_labels_nothing_can_be_found() {
    assert!(accepts(&of_labels(&[]), "[]"));
    assert!(!accepts(&of_labels(&[]), "["));
}

#[test]
fn the_grammar_of_lines_holds_strings_and_counts() {
    let long = "é".repeat(LINE_CHARS_MAX);
    let many = |n: usize| format!("[{}]", vec!["\"A\""; n].join(","));
    for good in [
        "[]",
        r#"["VQQZAVKQ","AY6PBAXHBT3"]"#,
        r#"["(01)09501101530003 Ø5±0.1"]"#,
        r#"["a \"b\" \\"]"#,
        &format!("[\"{long}\"]"),
        &many(LINES_MAX),
    ] {
        assert!(accepts(&Form::Lines, good), "{good}");
    }
    for bad in [
        "[\"a\nb\"]",
        "[\"a\tb\"]",
        "[\"a\u{7f}b\"]",
        "[\"a\u{85}b\"]",
        r#"["a\nb"]"#,
        r#"["a\u0041"]"#,
        r#"["a""]"#,
        r#"["a\"]"#,
        r#"[""]"#,
        r#"["a", "b"]"#,
        r#"["a"] "#,
        "[1]",
        &format!("[\"{long}e\"]"),
        &many(LINES_MAX + 1),
    ] {
        assert!(!accepts(&Form::Lines, bad), "{bad:?}");
    }
}

#[test]
fn a_schema_is_kept_to() {
    let schema = r#"{"type":"object","properties":{"ok":{"type":"boolean"}},"required":["ok"],
        "additionalProperties":false}"#;
    let form = Form::Schema(schema.into());
    for good in [r#"{"ok":true}"#, r#"{"ok": false}"#] {
        assert!(accepts(&form, good), "{good}");
    }
    for bad in [r#"{"ok":1}"#, "{}", r#"{"ok":true,"why":""}"#, "[]"] {
        assert!(!accepts(&form, bad), "{bad}");
    }
    assert!(Form::Schema("{".into()).grammar().is_err(), "what is no JSON is no schema");
    assert!(Form::Free.grammar().expect("nothing to read").is_none());
}

proptest! {
    /// Whatever `serde_json` writes as a list of readable strings, the form accepts.
    #[test]
    fn lines_are_accepted_as_they_are_written(
        lines in proptest::collection::vec("[ -~é\u{4e00}-\u{4e10}]{1,20}", 0..LINES_MAX),
    ) {
        let text = serde_json::Value::from(lines).to_string();
        prop_assert!(accepts(&Form::Lines, &text), "{}", text);
    }
}
