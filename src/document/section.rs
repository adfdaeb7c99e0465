//! A typed, checked view of one table of a document.
//!
//! A section hands out its keys one by one and remembers which ones were asked for: `finish` reports
//! all others as unknown. A value that is missing or wrong is reported, and a harmless stand-in is
//! returned, so that reading goes on; whoever builds something from a document throws it away when
//! the document is not fine.

use super::asked::{self, Shape};
use super::{Document, Problem, join};
use crate::domain::rect::Rect;
use config::{Map, Value, ValueKind};
use serde_json::json;
use std::cell::RefCell;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;

/// One table (or the whole file), possibly absent: then it has no keys, and required ones are missing.
pub(crate) struct Section<'a> {
    document: &'a Document,
    path: String,
    table: Option<&'a Map<String, Value>>,
    asked: RefCell<Vec<&'static str>>,
}

impl<'a> Section<'a> {
    /// The whole document.
    pub(crate) fn root(document: &'a Document) -> Self {
        Self { document, path: String::new(), table: Some(document.tree()), asked: RefCell::default() }
    }

    /// True when the table stands in the document.
    pub(crate) const fn is_present(&self) -> bool {
        self.table.is_some()
    }

    /// Reports a problem with one key.
    pub(crate) fn problem(&self, key: &str, message: impl Into<String>) {
        self.document.problem(&join(&self.path, key), message);
    }

    /// A problem with one key, for who does not know yet whether it is one.
    pub(crate) fn problem_of(&self, key: &str, message: String) -> Problem {
        self.document.at(&join(&self.path, key), message)
    }

    /// Reports a problem with the section itself.
    pub(crate) fn problem_here(&self, message: impl Into<String>) {
        self.document.problem(&self.path, message);
    }

    /// True when nothing is wrong with these keys by themselves, so that they can be compared.
    pub(crate) fn are_fine(&self, keys: &[&str]) -> bool {
        !keys.iter().any(|key| self.document.has_problem(&join(&self.path, key)))
    }

    /// Reports every key that nobody asked for. Call it last.
    pub(crate) fn finish(self) {
        let asked = self.asked.into_inner();
        for key in self.table.iter().flat_map(|table| table.keys()) {
            if !asked.contains(&key.as_str()) {
                let known = asked.join(", ");
                self.document.problem(&join(&self.path, key), format!("unknown key; known here: {known}"));
            }
        }
    }

    /// The value of an optional key.
    pub(crate) fn get<T: Scalar>(&self, key: &'static str) -> Option<T> {
        self.note(key, T::schema);
        let value = self.value(key)?;
        let path = join(&self.path, key);
        let scalar = self.scalar(&path, value);
        if scalar.is_none() {
            self.document.problem(&path, format!("must be {}", T::WORDS));
        }
        scalar
    }

    /// The value of a key that must be there.
    pub(crate) fn required<T: Scalar + Default>(&self, key: &'static str) -> T {
        self.note_required(key, T::schema);
        if self.value(key).is_none() {
            self.problem(key, format!("is missing; it must be {}", T::WORDS));
            return T::default();
        }
        self.get(key).unwrap_or_default()
    }

    /// An optional number in a range.
    pub(crate) fn ranged<T>(&self, key: &'static str, range: RangeInclusive<T>) -> Option<T>
    where
        T: Scalar + PartialOrd + Display + Copy,
    {
        self.note(key, || with(T::schema(), json!({ "minimum": range.start(), "maximum": range.end() })));
        let value: T = self.get(key)?;
        if range.contains(&value) {
            return Some(value);
        }
        self.problem(key, format!("must be from {} to {}", range.start(), range.end()));
        None
    }

    /// A number in a range that must be there.
    pub(crate) fn required_ranged<T>(&self, key: &'static str, range: RangeInclusive<T>) -> T
    where
        T: Scalar + PartialOrd + Display + Copy,
    {
        self.note_required(key, T::schema);
        let lowest = *range.start();
        if self.value(key).is_none() {
            self.problem(key, format!("is missing; it must be from {lowest} to {}", range.end()));
        }
        self.ranged(key, range).unwrap_or(lowest)
    }

    /// The files of `certificate` and `key`, both or none; `file` reads one of them.
    pub(crate) fn certificate_and_key(
        &self,
        file: impl Fn(&'static str) -> Option<PathBuf>,
    ) -> Option<(PathBuf, PathBuf)> {
        match (file("certificate"), file("key")) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            (Some(_), None) => {
                self.problem("key", "is missing; a certificate needs its key");
                None
            }
            (None, Some(_)) => {
                self.problem("certificate", "is missing; a key needs its certificate");
                None
            }
        }
    }

    /// An optional string that is not empty and has no control characters.
    pub(crate) fn text(&self, key: &'static str, chars_max: usize) -> Option<String> {
        self.note(key, || with(String::schema(), json!({ "minLength": 1, "maxLength": chars_max })));
        let text: String = self.get(key)?;
        let length = text.chars().count();
        if text.trim().is_empty() {
            self.problem(key, "must not be empty");
            None
        } else if length > chars_max {
            self.problem(key, format!("must have at most {chars_max} characters, not {length}"));
            None
        } else if text.chars().any(|c| c.is_control() && c != '\n') {
            self.problem(key, "must not hold control characters");
            None
        } else {
            Some(text)
        }
    }

    /// Like `text`, for a key that must be there.
    pub(crate) fn required_text(&self, key: &'static str, chars_max: usize) -> String {
        self.note_required(key, String::schema);
        if self.value(key).is_none() {
            self.problem(key, format!("is missing; it must be {}", String::WORDS));
        }
        self.text(key, chars_max).unwrap_or_default()
    }

    /// A name that stands in topics, file names and messages: `[A-Za-z0-9_-]{1,64}`.
    pub(crate) fn required_id(&self, key: &'static str) -> String {
        self.note(key, || with(String::schema(), json!({ "pattern": "^[A-Za-z0-9_-]{1,64}$" })));
        let id: String = self.required(key);
        let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        if self.value(key).is_some() && !((1..=64).contains(&id.len()) && id.bytes().all(fits)) {
            self.problem(key, "must be 1 to 64 of the characters A-Z a-z 0-9 _ -");
        }
        id
    }

    /// An optional word of a fixed list.
    pub(crate) fn word<T>(
        &self,
        key: &'static str,
        parse: impl Fn(&str) -> Option<T>,
        words: &[&str],
    ) -> Option<T> {
        self.note(key, || with(String::schema(), json!({ "enum": words })));
        let word: String = self.get(key)?;
        let parsed = parse(&word);
        if parsed.is_none() {
            self.problem(key, format!("must be one of {}", words.join(", ")));
        }
        parsed
    }

    /// A word of a fixed list that must be there.
    pub(crate) fn required_word<T>(
        &self,
        key: &'static str,
        parse: impl Fn(&str) -> Option<T>,
        words: &[&str],
    ) -> Option<T> {
        self.note_required(key, String::schema);
        if self.value(key).is_none() {
            self.problem(key, format!("is missing; it must be one of {}", words.join(", ")));
        }
        self.word(key, parse, words)
    }

    /// A list of strings; `None` when the key is absent.
    pub(crate) fn strings(&self, key: &'static str) -> Option<Vec<String>> {
        self.note(key, || list(json!({ "type": "string" })));
        let path = join(&self.path, key);
        let items = self.array(key, "a list of strings")?;
        let mut strings = Vec::new();
        for (index, item) in items.iter().enumerate() {
            match &item.kind {
                ValueKind::String(text) => strings.push(text.clone()),
                _ => self.document.problem(&format!("{path}[{index}]"), "must be a string"),
            }
        }
        Some(strings)
    }

    /// A list of numbers; `None` when the key is absent or wrong.
    pub(crate) fn numbers(&self, key: &'static str) -> Option<Vec<f64>> {
        self.note(key, || list(f64::schema()));
        let items = self.array(key, "a list of numbers")?;
        let numbers: Option<Vec<f64>> = items.iter().map(|item| f64::from_kind(&item.kind)).collect();
        if numbers.is_none() {
            self.problem(key, "must be a list of numbers");
        }
        numbers
    }

    /// A word (`Ok`) or a list of numbers (`Err`).
    pub(crate) fn get_text_or_numbers(&self, key: &'static str) -> Option<Result<String, Vec<f64>>> {
        self.note(key, || {
            let (text, numbers) = (String::schema(), list(f64::schema()));
            json!({ "anyOf": [text, numbers], "description": "a word, or a list of numbers", "type": ["string", "array"] })
        });
        match &self.value(key)?.kind {
            ValueKind::String(word) => Some(Ok(word.clone())),
            _ => self.numbers(key).map(Err),
        }
    }

    /// Reports a key that has no place here, where it stands, and why; it is no key of the schema.
    pub(crate) fn refuse(&self, key: &'static str, why: &str) {
        if self.table.is_some_and(|table| table.contains_key(key)) {
            self.asked.borrow_mut().push(key);
            self.problem(key, why);
        }
    }

    /// True when the key holds a text.
    pub(crate) fn is_text(&self, key: &'static str) -> bool {
        self.value(key).is_some_and(|value| matches!(value.kind, ValueKind::String(_)))
    }

    /// A table of whole numbers whose keys are free; empty when the key is absent.
    pub(crate) fn integers(&self, key: &'static str) -> std::collections::BTreeMap<String, i64> {
        let number_or_bool = json!({ "type": ["integer", "boolean"] });
        self.note(key, || json!({ "type": "object", "additionalProperties": number_or_bool }));
        let path = join(&self.path, key);
        let table = self.value(key).and_then(|value| self.table_of(&path, value));
        let number = |(name, value): (&String, &Value)| match &value.kind {
            ValueKind::I64(number) => Some((name.clone(), *number)),
            ValueKind::Boolean(on) => Some((name.clone(), i64::from(*on))),
            _ => {
                self.document.problem(&join(&path, name), "must be a whole number, or true or false");
                None
            }
        };
        table.into_iter().flatten().filter_map(number).collect()
    }

    /// A table of texts whose keys are free, in the order of keys; empty when the key is absent.
    pub(crate) fn texts(&self, key: &'static str) -> Vec<(String, String)> {
        self.note(key, || json!({ "type": "object", "additionalProperties": { "type": "string" } }));
        let path = join(&self.path, key);
        let table = self.value(key).and_then(|value| self.table_of(&path, value));
        let text = |(name, value): (&String, &Value)| match &value.kind {
            ValueKind::String(text) => Some((name.clone(), text.clone())),
            _ => {
                self.document.problem(&join(&path, name), "must be a string");
                None
            }
        };
        let mut found: Vec<_> = table.into_iter().flatten().filter_map(text).collect();
        found.sort();
        found
    }

    /// A rectangle `[x1, y1, x2, y2]` in pixels that holds at least one pixel.
    pub(crate) fn rect(&self, key: &'static str) -> Option<Rect> {
        self.note(key, rect_schema);
        self.rect_of(&join(&self.path, key), self.value(key)?)
    }

    /// A list of rectangles; empty when the key is absent.
    pub(crate) fn rects(&self, key: &'static str) -> Vec<Rect> {
        self.note(key, || list(rect_schema()));
        let path = join(&self.path, key);
        let items = self.array(key, "a list of rectangles [x1, y1, x2, y2]").unwrap_or_default();
        let rect = |(index, item)| self.rect_of(&format!("{path}[{index}]"), item);
        items.iter().enumerate().filter_map(rect).collect()
    }

    /// The section under a key; absent when the key is.
    #[must_use]
    pub(crate) fn child(&self, key: &'static str) -> Self {
        self.note_shape(key, false, || Shape::Section);
        let path = join(&self.path, key);
        let table = self.value(key).and_then(|value| self.table_of(&path, value));
        Self { document: self.document, path, table, asked: RefCell::default() }
    }

    /// The tables of a list, `[[key]]`; empty when the key is absent.
    pub(crate) fn children(&self, key: &'static str) -> Vec<Self> {
        self.note_shape(key, false, || Shape::Sections);
        let path = join(&self.path, key);
        let items = self.array(key, "a list of sections").unwrap_or_default();
        let child = |(index, item): (usize, &'a Value)| {
            let path = format!("{path}[{index}]");
            let table = Some(self.table_of(&path, item)?);
            Some(Self { document: self.document, path, table, asked: RefCell::default() })
        };
        items.iter().enumerate().filter_map(child).collect()
    }

    /// The tables under a key whose names are free, `[key.NAME]`, in the order of names; empty when the key is absent.
    pub(crate) fn named(&self, key: &'static str) -> Vec<(String, Self)> {
        self.note_shape(key, false, || Shape::Named);
        let path = join(&self.path, key);
        let table = self.value(key).and_then(|value| self.table_of(&path, value));
        let child = |(name, value): (&String, &'a Value)| {
            let path = join(&path, name);
            let table = Some(self.table_of(&path, value)?);
            Some((name.clone(), Self { document: self.document, path, table, asked: RefCell::default() }))
        };
        let mut found: Vec<_> = table.into_iter().flatten().filter_map(child).collect();
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        found
    }

    fn note(&self, key: &'static str, schema: impl FnOnce() -> serde_json::Value) {
        self.note_shape(key, false, || Shape::Value(schema()));
    }

    fn note_required(&self, key: &'static str, schema: impl FnOnce() -> serde_json::Value) {
        self.note_shape(key, true, || Shape::Value(schema()));
    }

    /// What the schema says of a key.
    fn note_shape(&self, key: &'static str, is_required: bool, shape: impl FnOnce() -> Shape) {
        let word = match self.table.and_then(|table| table.get(key)).map(|value| &value.kind) {
            Some(ValueKind::String(word)) => Some(word.as_str()),
            _ => None,
        };
        asked::note(&self.path, key, is_required, word, shape);
    }

    fn value(&self, key: &'static str) -> Option<&'a Value> {
        let mut asked = self.asked.borrow_mut();
        if !asked.contains(&key) {
            asked.push(key);
        }
        self.table?.get(key)
    }

    fn array(&self, key: &'static str, words: &str) -> Option<&'a [Value]> {
        match &self.value(key)?.kind {
            ValueKind::Array(items) => Some(items),
            _ => {
                self.problem(key, format!("must be {words}"));
                None
            }
        }
    }

    fn table_of(&self, path: &str, value: &'a Value) -> Option<&'a Map<String, Value>> {
        match &value.kind {
            ValueKind::Table(table) => Some(table),
            _ => {
                self.document.problem(path, "must be a section of keys");
                None
            }
        }
    }

    fn scalar<T: Scalar>(&self, path: &str, value: &Value) -> Option<T> {
        match &value.kind {
            ValueKind::String(text) if self.document.is_override(path) => T::from_text(text),
            kind => T::from_kind(kind),
        }
    }

    fn rect_of(&self, path: &str, value: &Value) -> Option<Rect> {
        let sides: Option<Vec<u32>> = match &value.kind {
            ValueKind::Array(items) => items.iter().map(|item| u32::from_kind(&item.kind)).collect(),
            _ => None,
        };
        let Some(&[x0, y0, x1, y1]) = sides.as_deref() else {
            self.document.problem(path, "must be four whole numbers [x1, y1, x2, y2], in pixels");
            return None;
        };
        let rect = Rect::new(x0, y0, x1, y1);
        if rect.is_empty() {
            self.document.problem(path, "holds no pixel: x1 must be less than x2, and y1 less than y2");
            return None;
        }
        Some(rect)
    }
}

/// A schema with more members.
fn with(mut schema: serde_json::Value, more: serde_json::Value) -> serde_json::Value {
    if let (Some(schema), serde_json::Value::Object(more)) = (schema.as_object_mut(), more) {
        schema.extend(more);
    }
    schema
}

/// The schema of a list.
fn list(items: serde_json::Value) -> serde_json::Value {
    json!({ "type": "array", "items": items })
}

fn rect_schema() -> serde_json::Value {
    with(list(u32::schema()), json!({ "minItems": 4, "maxItems": 4 }))
}

/// A type that one value can have.
pub(crate) trait Scalar: Sized + serde::Serialize {
    /// What the value must be, for messages.
    const WORDS: &'static str;
    /// What the value must be, as a JSON Schema.
    fn schema() -> serde_json::Value;
    /// From the file, where types are strict.
    fn from_kind(kind: &ValueKind) -> Option<Self>;
    /// From the environment, where everything is text.
    fn from_text(text: &str) -> Option<Self>;
}

impl Scalar for String {
    const WORDS: &'static str = "a string";
    fn schema() -> serde_json::Value {
        json!({ "type": "string" })
    }
    fn from_kind(kind: &ValueKind) -> Option<Self> {
        match kind {
            ValueKind::String(text) => Some(text.clone()),
            _ => None,
        }
    }
    fn from_text(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }
}

impl Scalar for bool {
    const WORDS: &'static str = "true or false";
    fn schema() -> serde_json::Value {
        json!({ "type": "boolean" })
    }
    fn from_kind(kind: &ValueKind) -> Option<Self> {
        match kind {
            ValueKind::Boolean(value) => Some(*value),
            _ => None,
        }
    }
    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Scalar for f64 {
    const WORDS: &'static str = "a number";
    fn schema() -> serde_json::Value {
        json!({ "type": "number" })
    }
    fn from_kind(kind: &ValueKind) -> Option<Self> {
        match kind {
            ValueKind::Float(value) => Some(*value),
            // Whole numbers of a config are far below 2^53, where every integer is a double.
            ValueKind::I64(value) => Some(*value as Self),
            _ => None,
        }
    }
    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

macro_rules! whole_number {
    ($($number:ty),*) => {$(
        impl Scalar for $number {
            const WORDS: &'static str = "a whole number, 0 or more";
            fn schema() -> serde_json::Value {
                json!({ "type": "integer", "minimum": 0 })
            }
            fn from_kind(kind: &ValueKind) -> Option<Self> {
                match kind {
                    ValueKind::I64(value) => (*value).try_into().ok(),
                    _ => None,
                }
            }
            fn from_text(text: &str) -> Option<Self> {
                text.parse().ok()
            }
        }
    )*};
}
whole_number!(u8, u16, u32, u64, usize);
