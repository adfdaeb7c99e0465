//! The form of an answer in the words of a server.
//!
//! ```text
//! Form --constraint--> vLLM          structured_outputs: a regular expression, or a JSON schema
//!                      llama-server  grammar (GBNF), or response_format with a JSON schema
//!                      others        response_format with a JSON schema
//! ```
//!
//! Expression and grammar say letter by letter what the grammar of the engine says, so that the answer is compact JSON as
//! the model was trained on it. A schema leaves white space open, which the reading of probabilities passes over. Sources:
//! vLLM's documentation of structured outputs, llama.cpp's `grammars/README.md`.

use super::Kind;
use serde_json::{Value, json};
use vlm::Form;
use vlm::form::{COORDINATE_MAX, DEFECTS_MAX, LINE_CHARS_MAX, LINES_MAX, SEVERITIES, json_string};

/// What a request says so that the answer has this form: a key and its value; `None`: nothing, any text will do.
///
/// # Errors
/// The form cannot be said to a server of this kind, in words.
pub(super) fn constraint(kind: Kind, form: &Form) -> Result<Option<(&'static str, Value)>, String> {
    let schema = match form {
        Form::Free => return Ok(None),
        Form::Defects { labels } => schema_of_defects(labels),
        Form::Lines => schema_of_lines(),
        Form::Schema(text) => serde_json::from_str(text).map_err(|error| format!("the schema: {error}"))?,
        Form::Lark(_) => return Err("a server takes no grammar of this dialect".into()),
        Form::Cells(_) => return Err("a server gives no features of a picture".into()),
    };
    let is_schema = matches!(form, Form::Schema(_));
    Ok(Some(match kind {
        Kind::Vllm if is_schema => ("structured_outputs", json!({ "json": schema })),
        Kind::Vllm => ("structured_outputs", json!({ "regex": regex(form) })),
        Kind::Llama if !is_schema => ("grammar", json!(gbnf(form))),
        Kind::Llama | Kind::OpenAi => {
            let named = json!({ "name": "answer", "strict": true, "schema": schema });
            ("response_format", json!({ "type": "json_schema", "json_schema": named }))
        }
    }))
}

fn schema_of_defects(labels: &[String]) -> Value {
    if labels.is_empty() {
        return json!({ "type": "array", "maxItems": 0 });
    }
    let coordinate = json!({ "type": "integer", "minimum": 0, "maximum": COORDINATE_MAX });
    let item = json!({
        "type": "object",
        "properties": {
            "bbox_2d": { "type": "array", "items": coordinate, "minItems": 4, "maxItems": 4 },
            "label": { "type": "string", "enum": labels },
            "severity": { "type": "string", "enum": SEVERITIES },
        },
        "required": ["bbox_2d", "label", "severity"],
        "additionalProperties": false,
    });
    json!({ "type": "array", "items": item, "maxItems": DEFECTS_MAX })
}

fn schema_of_lines() -> Value {
    let line = json!({ "type": "string", "minLength": 1, "maxLength": LINE_CHARS_MAX });
    json!({ "type": "array", "items": line, "maxItems": LINES_MAX })
}

/// A regular expression for the whole answer: literals, classes, groups and counts alone, which every engine of vLLM
/// takes.
fn regex(form: &Form) -> String {
    match form {
        Form::Defects { labels } if labels.is_empty() => r"\[\]".to_owned(),
        Form::Defects { labels } => {
            let number = format!("(0|[1-9][0-9]{{0,2}}|{COORDINATE_MAX})");
            let any = |words: Vec<String>| {
                let words: Vec<_> = words.iter().map(|word| escaped(&json_string(word))).collect();
                format!("({})", words.join("|"))
            };
            let (labels, severities) = (any(labels.to_vec()), any(SEVERITIES.map(str::to_owned).to_vec()));
            let item = format!(
                "{head}{number},{number},{number},{number}{label}{labels}{severity}{severities}{end}",
                head = escaped("{\"bbox_2d\":["),
                label = escaped("],\"label\":"),
                severity = escaped(",\"severity\":"),
                end = escaped("}"),
            );
            format!(r"\[({item}(,{item}){{0,{more}}})?\]", more = DEFECTS_MAX - 1)
        }
        _ => {
            let line = format!(r#""([^"\\\x00-\x1f\x7f-\x9f]|\\["\\]){{1,{LINE_CHARS_MAX}}}""#);
            format!(r"\[({line}(,{line}){{0,{more}}})?\]", more = LINES_MAX - 1)
        }
    }
}

/// A text as a regular expression that matches nothing else.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    for c in text.chars() {
        if r"\.+*?()|[]{}^$".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// A grammar in llama.cpp's dialect.
fn gbnf(form: &Form) -> String {
    let literal = json_string;
    match form {
        Form::Defects { labels } if labels.is_empty() => "root ::= \"[]\"\n".to_owned(),
        Form::Defects { labels } => {
            let any = |words: Vec<String>| {
                let words: Vec<_> = words.iter().map(|word| literal(&json_string(word))).collect();
                words.join(" | ")
            };
            format!(
                "root ::= \"[\" (item (\",\" item){{0,{more}}})? \"]\"\n\
                 item ::= {head} number \",\" number \",\" number \",\" number {label_key} label {severity_key} severity \
                 \"}}\"\n\
                 number ::= \"0\" | [1-9] [0-9]{{0,2}} | \"{COORDINATE_MAX}\"\n\
                 label ::= {labels}\n\
                 severity ::= {severities}\n",
                more = DEFECTS_MAX - 1,
                head = literal("{\"bbox_2d\":["),
                label_key = literal("],\"label\":"),
                severity_key = literal(",\"severity\":"),
                labels = any(labels.to_vec()),
                severities = any(SEVERITIES.map(str::to_owned).to_vec()),
            )
        }
        _ => format!(
            "root ::= \"[\" (line (\",\" line){{0,{more}}})? \"]\"\n\
             line ::= \"\\\"\" ([^\"\\\\\\x00-\\x1F\\x7F-\\x9F] | \"\\\\\" [\"\\\\]){{1,{LINE_CHARS_MAX}}} \"\\\"\"\n",
            more = LINES_MAX - 1,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::LazyLock;

    const STAIN: &str = r#"{"bbox_2d":[0,700,275,1000],"label":"stain","severity":"major"}"#;

    fn of_labels(labels: &[&str]) -> Form {
        Form::Defects { labels: labels.iter().map(|&label| label.to_owned()).collect() }
    }

    fn whole(form: &Form) -> regex::Regex {
        let built = regex::RegexBuilder::new(&format!("^(?:{})$", regex(form))).size_limit(1 << 26).build();
        built.expect("a regular expression")
    }

    fn validator(form: &Form) -> jsonschema::Validator {
        let (_, value) = constraint(Kind::OpenAi, form).unwrap().unwrap();
        jsonschema::validator_for(&value["json_schema"]["schema"]).expect("a schema")
    }

    #[test]
    fn each_kind_is_told_in_its_own_words() {
        let defects = of_labels(&["stain"]);
        let key = |kind, form: &Form| constraint(kind, form).unwrap().map(|(key, _)| key);
        assert_eq!(key(Kind::Vllm, &defects), Some("structured_outputs"));
        assert_eq!(key(Kind::Llama, &Form::Lines), Some("grammar"));
        assert_eq!(key(Kind::OpenAi, &defects), Some("response_format"));
        let schema = Form::Schema("{\"type\":\"object\"}".into());
        assert_eq!(key(Kind::Llama, &schema), Some("response_format"));
        let (_, value) = constraint(Kind::Vllm, &schema).unwrap().unwrap();
        assert_eq!(value["json"]["type"], "object");
        assert_eq!(key(Kind::Vllm, &Form::Free), None);
        assert!(constraint(Kind::Vllm, &Form::Lark("start: \"a\"".into())).is_err());
        assert!(constraint(Kind::Vllm, &Form::Schema("{".into())).is_err());
    }

    #[test]
    fn expression_and_schema_take_what_the_model_writes_and_nothing_else() {
        let form = of_labels(&["stain", "pit", "a\"b|c.d"]);
        let (regex, schema) = (whole(&form), validator(&form));
        let odd = STAIN.replace("stain", r#"a\"b|c.d"#);
        let list = |n: usize| format!("[{}]", vec![STAIN; n].join(","));
        for good in ["[]".to_owned(), list(1), list(DEFECTS_MAX), format!("[{odd}]")] {
            assert!(regex.is_match(&good), "{good}");
            assert!(schema.is_valid(&serde_json::from_str(&good).unwrap()), "{good}");
        }
        for (from, to) in [("stain", "crack"), ("1000", "1001"), ("275,", ""), ("major", "huge")] {
            let bad = list(1).replacen(from, to, 1);
            assert!(!regex.is_match(&bad), "{bad}");
            assert!(!schema.is_valid(&serde_json::from_str(&bad).unwrap()), "{bad}");
        }
        for bad in [list(DEFECTS_MAX + 1), list(1).replace("[{", "[ {"), list(1).replace("c.d", "cxd")] {
            assert_eq!(regex.is_match(&bad), bad == list(1), "{bad}");
        }
        assert!(!schema.is_valid(&serde_json::from_str(&list(DEFECTS_MAX + 1)).unwrap()));
        let none = of_labels(&[]);
        assert!(whole(&none).is_match("[]") && !whole(&none).is_match(&list(1)));
    }

    #[test]
    fn the_grammar_of_llama_is_written_as_its_dialect_wants_it() {
        assert_eq!(
            gbnf(&of_labels(&["pit", "a\"b"])),
            r#"root ::= "[" (item ("," item){0,23})? "]"
item ::= "{\"bbox_2d\":[" number "," number "," number "," number "],\"label\":" label ",\"severity\":" severity "}"
number ::= "0" | [1-9] [0-9]{0,2} | "1000"
label ::= "\"pit\"" | "\"a\\\"b\""
severity ::= "\"minor\"" | "\"major\"" | "\"critical\""
"#
        );
        assert_eq!(
            gbnf(&Form::Lines),
            r#"root ::= "[" (line ("," line){0,11})? "]"
line ::= "\"" ([^"\\\x00-\x1F\x7F-\x9F] | "\\" ["\\]){1,64} "\""
"#
        );
    }

    /// Built once: 12 lines of 64 characters are a large automaton.
    static OF_LINES: LazyLock<(regex::Regex, jsonschema::Validator)> =
        LazyLock::new(|| (whole(&Form::Lines), validator(&Form::Lines)));

    proptest! {
        #[test]
        fn any_line_without_control_characters_is_taken(
            lines in prop::collection::vec("[^\\x00-\\x1f\\x7f-\\x9f]{1,64}", 0..=12),
        ) {
            let text = serde_json::to_string(&lines).unwrap();
            prop_assert!(OF_LINES.0.is_match(&text), "{}", text);
            prop_assert!(OF_LINES.1.is_valid(&serde_json::from_str(&text).unwrap()));
        }
    }
}
