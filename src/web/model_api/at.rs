//! A value of a request, and where it stands: what is wrong is named as OpenAI names it, by the path of its key.

use super::error::Refused;
use serde_json::{Map, Value};

/// An object of a request.
pub(super) struct At<'a> {
    object: &'a mut Map<String, Value>,
    /// Empty at the top.
    path: String,
}

impl<'a> At<'a> {
    /// The whole request.
    ///
    /// # Errors
    /// It is no object.
    pub(super) fn top(value: &'a mut Value) -> Result<Self, Refused> {
        let wrong =
            || Refused::new(axum::http::StatusCode::BAD_REQUEST, "invalid_json", "an object is expected");
        let object = value.as_object_mut().ok_or_else(wrong)?;
        Ok(Self { object, path: String::new() })
    }

    /// An object that stands somewhere in the request.
    ///
    /// # Errors
    /// It is no object.
    pub(super) fn of(value: &'a mut Value, path: String) -> Result<Self, Refused> {
        match value.as_object_mut() {
            Some(object) => Ok(Self { object, path }),
            None => Err(Refused::param(path, "an object is expected")),
        }
    }

    /// The path of a key.
    pub(super) fn path(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// What is wrong with a key.
    pub(super) fn wrong(&self, key: &str, message: impl Into<String>) -> Refused {
        Refused::param(self.path(key), message)
    }

    /// A key's value, where it is there and not null. It is taken out.
    pub(super) fn take(&mut self, key: &str) -> Option<Value> {
        self.object.remove(key).filter(|value| !value.is_null())
    }

    /// Whether it is there and not null.
    pub(super) fn has(&self, key: &str) -> bool {
        self.object.get(key).is_some_and(|value| !value.is_null())
    }

    /// A text.
    pub(super) fn text(&mut self, key: &str) -> Result<Option<String>, Refused> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(key, "a text is expected")),
        }
    }

    /// A text that must be there.
    pub(super) fn required_text(&mut self, key: &str) -> Result<String, Refused> {
        self.text(key)?.ok_or_else(|| self.wrong(key, "is missing: a text is expected"))
    }

    /// True or false; false where nothing is said.
    pub(super) fn flag(&mut self, key: &str) -> Result<bool, Refused> {
        match self.take(key) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(_) => Err(self.wrong(key, "true or false is expected")),
        }
    }

    /// A number from `least` to `most`.
    pub(super) fn number(&mut self, key: &str, least: f64, most: f64) -> Result<Option<f64>, Refused> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let number = value.as_f64().filter(|number| (least..=most).contains(number));
        let wrong = || self.wrong(key, format!("a number from {least} to {most} is expected"));
        number.map(Some).ok_or_else(wrong)
    }

    /// A whole number from `least` to `most`; `2.0` is one.
    pub(super) fn whole(&mut self, key: &str, least: i64, most: i64) -> Result<Option<i64>, Refused> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let exact = |number: f64| (number.fract() == 0.0 && number.abs() < 9e15).then_some(number as i64);
        let number = value.as_i64().or_else(|| value.as_f64().and_then(exact));
        let number = number.filter(|number| (least..=most).contains(number));
        let wrong = || self.wrong(key, format!("a whole number from {least} to {most} is expected"));
        number.map(Some).ok_or_else(wrong)
    }

    /// An object below a key, with its path.
    pub(super) fn object(&mut self, key: &str) -> Option<(Value, String)> {
        let path = self.path(key);
        self.take(key).map(|value| (value, path))
    }
}
