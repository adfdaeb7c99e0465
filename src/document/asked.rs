//! What a parser asks of a document: its keys with what they must be. This is what a JSON Schema is made of, so that
//! parser and schema cannot differ.
//!
//! ```text
//! record(parser over a document that has all sections) --> Asked of every key --schema--> JSON Schema
//! ```
//!
//! A [`Section`] notes each key that it is asked for while a recording runs on its thread; otherwise noting costs nothing.
//!
//! [`Section`]: super::Section

use super::Problem;
use serde_json::{Map, Value, json};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

/// The name of a table whose name is free, `[sink.NAME]`, in a document that is recorded.
const ANY_NAME: &str = "any";

thread_local! {
    static RECORDING: RefCell<Option<Vec<Asked>>> = const { RefCell::new(None) };
}

/// What a key must be.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Shape {
    /// A JSON Schema of the value.
    Value(Value),
    /// `[key]`.
    Section,
    /// `[[key]]`.
    Sections,
    /// `[key.NAME]`.
    Named,
}

/// One key of one table that was asked for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Asked {
    /// Path of the table, `camera[0].trigger`; empty at the top.
    section: String,
    key: &'static str,
    shape: Shape,
    is_required: bool,
    /// The text that the key has in the document.
    word: Option<String>,
}

/// Runs a parser; what it gives, and all keys that it asked for.
pub(crate) fn record<T>(parse: impl FnOnce() -> T) -> (T, Vec<Asked>) {
    RECORDING.set(Some(Vec::new()));
    let parsed = parse();
    (parsed, RECORDING.take().unwrap_or_default())
}

/// The keys at the top with which a parser was not content: those that a document must have, when it had none.
pub(crate) fn top_keys(problems: &[Problem]) -> BTreeSet<String> {
    let top = |problem: &Problem| problem.key.split(['.', '[']).next().map(str::to_owned);
    problems.iter().filter_map(top).filter(|key| !key.is_empty()).collect()
}

/// Notes a key while a recording runs.
pub(super) fn note(
    section: &str,
    key: &'static str,
    is_required: bool,
    word: Option<&str>,
    shape: impl FnOnce() -> Shape,
) {
    RECORDING.with_borrow_mut(|recording| {
        if let Some(asked) = recording {
            let (section, word) = (section.to_owned(), word.map(str::to_owned));
            asked.push(Asked { section, key, shape: shape(), is_required, word });
        }
    });
}

/// A kind of document, as its schema describes it.
pub(crate) struct Kind<'a> {
    pub title: &'a str,
    pub description: &'a str,
    /// Keys at the top without which the document is refused.
    pub required: BTreeSet<String>,
    /// Lists whose tables have different keys by the word of one of them: `camera[]` by `source`.
    pub variants: &'a [(&'a str, &'static str)],
}

/// The JSON Schema (draft 7) of the documents that were recorded, one recording each.
pub(crate) fn schema(kind: &Kind<'_>, recordings: &[Vec<Asked>]) -> Value {
    let mut tables: BTreeMap<String, Vec<Table>> = BTreeMap::new();
    for recording in recordings {
        for (path, table) in tables_of(recording) {
            tables.entry(any_index(path)).or_default().push(table);
        }
    }
    let mut schema = Tables { all: &tables, variants: kind.variants }.schema("");
    schema["$schema"] = json!("http://json-schema.org/draft-07/schema#");
    schema["title"] = json!(kind.title);
    schema["description"] = json!(kind.description);
    schema["required"] = json!(kind.required);
    schema
}

/// What was asked of one table.
#[derive(Default)]
struct Table {
    shapes: BTreeMap<&'static str, Shape>,
    required: BTreeSet<&'static str>,
    words: BTreeMap<&'static str, String>,
}

fn tables_of(recording: &[Asked]) -> BTreeMap<&str, Table> {
    let mut tables: BTreeMap<&str, Table> = BTreeMap::new();
    for asked in recording {
        let table = tables.entry(&asked.section).or_default();
        // The same key may be asked for as a string first and as one of three words then: what says more holds.
        let known = table.shapes.get(asked.key);
        if known.is_none_or(|known| weight(known) <= weight(&asked.shape)) {
            table.shapes.insert(asked.key, asked.shape.clone());
        }
        if asked.is_required {
            table.required.insert(asked.key);
        }
        if let Some(word) = &asked.word {
            table.words.insert(asked.key, word.clone());
        }
    }
    tables
}

/// How much a shape says.
fn weight(shape: &Shape) -> usize {
    match shape {
        Shape::Value(schema) => schema.as_object().map_or(0, Map::len),
        Shape::Section | Shape::Sections | Shape::Named => usize::MAX,
    }
}

/// `camera[].trigger` of `camera[3].trigger`.
fn any_index(path: &str) -> String {
    let mut any = String::new();
    let mut inside = false;
    for c in path.chars() {
        inside &= c != ']';
        if !inside {
            any.push(c);
        }
        inside |= c == '[';
    }
    any
}

/// All tables by their paths without indices; several of one path, as there may be.
struct Tables<'a> {
    all: &'a BTreeMap<String, Vec<Table>>,
    variants: &'a [(&'a str, &'static str)],
}

impl Tables<'_> {
    fn schema(&self, path: &str) -> Value {
        let tables = self.all.get(path).map(Vec::as_slice).unwrap_or_default();
        let mut keys: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
        for (key, shape) in tables.iter().flat_map(|table| &table.shapes) {
            let schema = self.of_key(&super::join(path, key), shape);
            let known = keys.entry(key).or_default();
            if !known.contains(&schema) {
                known.push(schema);
            }
        }
        let either = |mut schemas: Vec<Value>| match schemas.len() {
            1 => schemas.remove(0),
            _ => json!({ "anyOf": schemas }),
        };
        let properties: Map<String, Value> =
            keys.into_iter().map(|(key, schemas)| (key.to_owned(), either(schemas))).collect();
        let mut schema = json!({ "type": "object", "additionalProperties": false, "properties": properties });
        let required = in_all(tables);
        if !required.is_empty() {
            schema["required"] = json!(required);
        }
        if let Some((_, word)) = self.variants.iter().find(|(list, _)| *list == path) {
            tell_apart(&mut schema, tables, word);
        }
        schema
    }

    fn of_key(&self, path: &str, shape: &Shape) -> Value {
        match shape {
            Shape::Value(schema) => schema.clone(),
            Shape::Section => self.schema(path),
            Shape::Sections => json!({ "type": "array", "items": self.schema(&format!("{path}[]")) }),
            Shape::Named => {
                let item = self.schema(&super::join(path, ANY_NAME));
                json!({ "type": "object", "additionalProperties": item })
            }
        }
    }
}

/// What each word of `key` allows and asks for.
fn tell_apart(schema: &mut Value, tables: &[Table], key: &'static str) {
    let mut by_word: BTreeMap<&str, Vec<&Table>> = BTreeMap::new();
    for table in tables {
        if let Some(word) = table.words.get(key) {
            by_word.entry(word).or_default().push(table);
        }
    }
    schema["properties"][key] = json!({ "type": "string", "enum": by_word.keys().collect::<Vec<_>>() });
    let rule = |(word, tables): (&&str, &Vec<&Table>)| {
        let known: BTreeSet<_> = tables.iter().flat_map(|table| table.shapes.keys()).collect();
        let required = in_all(tables.iter().copied());
        json!({
            "if": { "properties": { key: { "const": word } }, "required": [key] },
            "then": { "propertyNames": { "enum": known }, "required": required },
        })
    };
    schema["allOf"] = by_word.iter().map(rule).collect();
}

/// Keys that all of these tables must have.
fn in_all<'a>(tables: impl IntoIterator<Item = &'a Table>) -> BTreeSet<&'static str> {
    let all = tables.into_iter().map(|table| table.required.clone());
    all.reduce(|all, other| all.intersection(&other).copied().collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::{Document, Section};

    /// A parser of some keys of each form.
    fn parse(text: &str) {
        let document = Document::parse("x.toml", text, &[]);
        let root = Section::root(&document);
        root.required_ranged::<u32>("count", 1..=9);
        let word: String = root.child("place").required("word");
        assert!(word.is_empty() || word == "here");
        for item in root.children("item") {
            item.required_word("kind", |word| Some(word.len()), &["a", "bb"]);
            if item.required::<String>("kind") == "bb" {
                item.required_text("only", 5);
            }
        }
        for (_, sink) in root.named("sink") {
            sink.get::<bool>("on");
        }
    }

    fn schema_of(texts: &[&str]) -> Value {
        let recordings: Vec<_> = texts.iter().map(|text| record(|| parse(text)).1).collect();
        let kind = Kind {
            title: "t",
            description: "d",
            required: ["count".to_owned()].into(),
            variants: &[("item[]", "kind")],
        };
        schema(&kind, &recordings)
    }

    const ALL: &str = "count = 1\n[place]\nword = \"here\"\n[[item]]\nkind = \"a\"\n[[item]]\nkind = \"bb\"\n[sink.any]\non = true\n";

    #[test]
    fn the_schema_has_what_the_parser_asks_for() {
        let schema = schema_of(&[ALL]);
        assert_eq!(schema["properties"]["count"], json!({"type": "integer", "minimum": 1, "maximum": 9}));
        assert_eq!(schema["properties"]["place"]["required"], json!(["word"]));
        let sink = &schema["properties"]["sink"]["additionalProperties"];
        assert_eq!(sink["properties"]["on"], json!({"type": "boolean"}));
        let item = &schema["properties"]["item"]["items"];
        assert_eq!(item["properties"]["kind"]["enum"], json!(["a", "bb"]));
        assert_eq!(item["required"], json!(["kind"]));
        assert_eq!(item["allOf"][1]["then"]["required"], json!(["kind", "only"]));
    }

    #[test]
    fn a_document_is_valid_by_its_words() {
        let validator = jsonschema::validator_for(&schema_of(&["", ALL])).expect("it is a schema");
        let fits = |value: Value| validator.is_valid(&value);
        assert!(fits(json!({"count": 3, "item": [{"kind": "a"}, {"kind": "bb", "only": "x"}]})));
        assert!(fits(json!({"count": 3, "sink": {"plant": {"on": false}}})));
        for wrong in [
            json!({}),
            json!({"count": 0}),
            json!({"count": 1, "other": 1}),
            json!({"count": 1, "item": [{"kind": "c"}]}),
            json!({"count": 1, "item": [{"kind": "bb"}]}),
            json!({"count": 1, "item": [{"kind": "a", "only": "x"}]}),
            json!({"count": 1, "item": [{"kind": "bb", "only": "too long"}]}),
            json!({"count": 1, "sink": {"plant": {"off": false}}}),
        ] {
            assert!(!fits(wrong.clone()), "{wrong}");
        }
    }

    #[test]
    fn nothing_is_noted_without_a_recording() {
        parse(ALL);
        assert!(record(|| ()).1.is_empty());
    }
}
