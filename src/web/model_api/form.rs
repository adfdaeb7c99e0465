//! `response_format`: what an answer may be.
//!
//! ```text
//! absent, {"type": "text"}                                          any text
//! {"type": "json_object"}                                           a JSON object
//! {"type": "json_schema", "json_schema": {"name", "schema", …}}     JSON by this schema
//! {"type": "json_schema", "json_schema": {"type": "object", …}}     the same: a schema by itself, as Dify sends it
//! ```
//!
//! An answer is held to its schema token by token, whether `strict` is set or not: it needs no check, unless it was cut off.

use super::asked::Form;
use super::at::At;
use super::error::Refused;
use serde_json::{Value, json};

/// How answers are written: without blanks, which a small model would else repeat to the end of its tokens.
const COMPACT: &str = "x-guidance";

/// The form of an answer.
///
/// # Errors
/// It is another kind, or no schema.
pub(super) fn form(request: &mut At<'_>) -> Result<Form, Refused> {
    let Some((mut value, path)) = request.object("response_format") else { return Ok(Form::Text) };
    let mut format = At::of(&mut value, path)?;
    let kind = format.required_text("type")?;
    match kind.as_str() {
        "text" => Ok(Form::Text),
        // llama.cpp's server takes a schema here.
        "json_object" => match format.object("schema") {
            Some((schema, path)) => held_to(schema, path),
            None => held_to(json!({ "type": "object" }), String::new()),
        },
        "json_schema" => {
            let Some((value, path)) = format.object("json_schema") else {
                return Err(
                    format.wrong("json_schema", "is missing: an object with the key schema is expected")
                );
            };
            let mut value = parsed(value, &path)?;
            match value.get_mut("schema").map(Value::take).filter(|schema| !schema.is_null()) {
                Some(schema) => held_to(parsed(schema, &path)?, format!("{path}.schema")),
                None => held_to(value, path),
            }
        }
        other => {
            let words = format!("{other:?} is none of text, json_object, json_schema");
            Err(format.wrong("type", words))
        }
    }
}

/// A schema, or the text of one.
fn parsed(value: Value, path: &str) -> Result<Value, Refused> {
    match value {
        Value::String(text) => serde_json::from_str(&text)
            .map_err(|error| invalid(path, format!("the schema is not JSON: {error}"))),
        value => Ok(value),
    }
}

fn held_to(mut schema: Value, path: String) -> Result<Form, Refused> {
    let Some(object) = schema.as_object_mut() else {
        return Err(invalid(&path, "a JSON schema is expected, an object".to_owned()));
    };
    object.insert(COMPACT.to_owned(), json!({ "whitespace_flexible": false }));
    Ok(Form::Json(schema.to_string()))
}

fn invalid(path: &str, message: String) -> Refused {
    Refused::param(path, message).coded("invalid_json_schema")
}
