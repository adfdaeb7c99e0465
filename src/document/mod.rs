//! One TOML text, merged with the environment, that still knows where every value came from.
//!
//! ```text
//! text --toml, with spans--> Place of every key path
//!   '----crate `config`----> merged tree <---- INSPECTD_ variables
//! ```
//!
//! Everything that reads the tree reports what is wrong here, key path by key path; the document adds
//! file, line, column and value, or the variable that overrode the file. Reading goes on after a
//! problem, so that one `inspectd check` shows all of them.

pub(crate) mod asked;
mod bracket;
mod origin;
pub(crate) mod search;
mod section;
mod text;

pub(crate) use origin::{Origin, PATH_CHARS_MAX, is_below};
pub(crate) use section::Section;
pub(crate) use text::{Text, path, quoted};

use crate::address;
use config::{Map, Source, Value, ValueKind};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use toml::de::{DeTable, DeValue};

/// Variables with the prefix that are no keys: those of the log, and the config's own path.
const NOT_KEYS: [&str; 3] = ["INSPECTD_LOG", "INSPECTD_LOG_FORMAT", "INSPECTD_CONFIG"];
pub(crate) const PREFIX: &str = "INSPECTD_";
/// Longest value that a message repeats, in characters.
const SHOWN_CHARS_MAX: usize = 60;
pub(crate) use crate::address::MASK;

/// A file beyond this many bytes is none of ours.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file as it was named to us.
    pub file: String,
    /// Line and column, from 1; 0 when the place in the file is not known.
    pub line: usize,
    /// As `line`.
    pub column: usize,
    /// The environment variable that set the value, when it was not the file.
    pub variable: Option<String>,
    /// Path of the key, for example `camera[0].trigger.interval_ms`; empty for the whole file.
    pub key: String,
    /// The value as written, secrets masked; `None` when the key is missing or is a section.
    pub value: Option<String>,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(variable) = &self.variable {
            let value = self.value.as_deref().unwrap_or(MASK);
            return write!(f, "{variable}={value}: {}: {}", self.key, self.message);
        }
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        f.write_str(": ")?;
        match (&self.value, self.key.is_empty()) {
            (Some(value), _) => write!(f, "{} = {value}: ", self.key)?,
            (None, false) => write!(f, "{}: ", self.key)?,
            (None, true) => {}
        }
        f.write_str(&self.message)
    }
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the message of each variant says what it is and names its fields")]
pub enum ReadError {
    #[error("{file}: cannot be read")]
    Unreadable { file: String, source: std::io::Error },
    #[error("{}", AllOf(.problems))]
    Invalid { problems: Vec<Problem> },
}

/// Problems as one message: one on the same line, several on a line each.
struct AllOf<'a>(&'a [Problem]);

impl fmt::Display for AllOf<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [only] => write!(f, "{only}"),
            problems => {
                write!(f, "{} problems in the config", problems.len())?;
                problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
            }
        }
    }
}

/// The text of a file, not more than [`FILE_BYTES_MAX`] of it.
///
/// # Errors
/// `Unreadable`.
pub(crate) fn read_text(path: &Path) -> Result<String, ReadError> {
    let unreadable = |source| ReadError::Unreadable { file: path.display().to_string(), source };
    let bytes = std::fs::metadata(path).map_err(unreadable)?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(unreadable(std::io::Error::other(format!("{bytes} bytes are no config"))));
    }
    std::fs::read_to_string(path).map_err(unreadable)
}

/// Where a key stands in the text. Keys are ASCII in everything that we accept, so that byte columns
/// are the columns of an editor.
#[derive(Clone, Debug)]
struct Place {
    line: usize,
    column: usize,
    value: Option<String>,
}

/// A merged document and the problems found in it so far.
#[derive(Debug)]
pub(crate) struct Document {
    file: String,
    tree: Map<String, Value>,
    places: BTreeMap<String, Place>,
    /// Key path -> variable that overrides it.
    overrides: BTreeMap<String, String>,
    problems: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<Problem>>,
}

impl Document {
    /// Parses `text` and lays the variables of `environment` over it. `file` only names the text in
    /// messages. What does not parse is reported; what does is kept.
    pub(crate) fn parse(file: &str, text: &str, environment: &[(String, String)]) -> Self {
        let (table, errors) = DeTable::parse_recoverable(text);
        let mut document = Self {
            file: file.to_owned(),
            tree: Map::new(),
            places: BTreeMap::new(),
            overrides: BTreeMap::new(),
            problems: RefCell::default(),
            warnings: RefCell::default(),
        };
        document.note_table(text, "", table.get_ref());
        // The reader goes on after an error and then trips over what is fine: only the first says what is wrong.
        if let Some(error) = errors.iter().min_by_key(|error| error.span().map_or(0, |span| span.start)) {
            let span = error.span().unwrap_or(0..0);
            let at = span.start;
            let (line, column) = line_column(text, span);
            document.push(Problem {
                file: file.to_owned(),
                line,
                column,
                variable: None,
                key: String::new(),
                value: None,
                message: not_toml(error.message(), text, at),
            });
        }
        if errors.is_empty() {
            document.merge(text, environment);
        }
        document
    }

    /// The merged tree; empty when the text did not parse.
    pub(crate) const fn tree(&self) -> &Map<String, Value> {
        &self.tree
    }

    /// True when a value of the environment stands at this path: it is text, whatever its type.
    pub(crate) fn is_override(&self, path: &str) -> bool {
        self.overrides.contains_key(path)
    }

    /// Reports a problem with the key at `path`. A key that is not in the file is reported at the
    /// nearest section around it.
    pub(crate) fn problem(&self, path: &str, message: impl Into<String>) {
        self.push(self.at(path, message.into()));
    }

    /// Reports what is valid and risky about the key at `path`, once.
    pub(crate) fn warning(&self, path: &str, message: impl Into<String>) {
        let warning = self.at(path, message.into());
        let mut warnings = self.warnings.borrow_mut();
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }

    /// A problem with the key at `path`, which is not reported yet.
    pub(crate) fn at(&self, path: &str, message: String) -> Problem {
        let known = self.place_around(path);
        let variable = self.variable_of(path);
        let value = match &variable {
            Some(_) => self.override_text(path).map(|text| shown(path, &text)),
            None => self.places.get(path).and_then(|p| p.value.as_ref()).map(|text| shown(path, text)),
        };
        let (line, column) = known.map_or((1, 1), |place| (place.line, place.column));
        Problem { file: self.file.clone(), line, column, variable, key: path.to_owned(), value, message }
    }

    /// Everything reported, in the order of the file.
    pub(crate) fn into_problems(self) -> Vec<Problem> {
        self.into_problems_and_warnings().0
    }

    /// Everything reported and everything warned of, each in the order of the file.
    pub(crate) fn into_problems_and_warnings(self) -> (Vec<Problem>, Vec<Problem>) {
        let sorted = |list: RefCell<Vec<Problem>>| {
            let mut list = list.into_inner();
            list.sort_by_key(|p| (p.variable.is_some(), p.line, p.column));
            list
        };
        (sorted(self.problems), sorted(self.warnings))
    }

    /// True when something was reported about exactly this key.
    pub(crate) fn has_problem(&self, path: &str) -> bool {
        self.problems.borrow().iter().any(|problem| problem.key == path)
    }

    /// True while nothing was reported.
    pub(crate) fn is_fine(&self) -> bool {
        self.problems.borrow().is_empty()
    }

    fn push(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem);
    }

    /// Remembers the place of every key of a table, the deeper ones too.
    fn note_table(&mut self, text: &str, path: &str, table: &DeTable<'_>) {
        for (key, value) in table {
            let path = join(path, key.get_ref());
            self.note(text, &path, key.span(), value.span(), value.get_ref());
        }
    }

    fn note(&mut self, text: &str, path: &str, key: Range<usize>, span: Range<usize>, value: &DeValue<'_>) {
        let (line, column) = line_column(text, key);
        // A table is not shown: one of its own keys could be a secret.
        let is_table = |value: &DeValue<'_>| matches!(value, DeValue::Table(_));
        let shown = match value {
            DeValue::Array(items) if items.iter().any(|item| is_table(item.get_ref())) => None,
            value if is_table(value) => None,
            _ => text.get(span).map(str::to_owned),
        };
        self.places.insert(path.to_owned(), Place { line, column, value: shown });
        match value {
            DeValue::Table(table) => self.note_table(text, path, table),
            DeValue::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    let span = item.span();
                    self.note(text, &format!("{path}[{index}]"), span.clone(), span, item.get_ref());
                }
            }
            _ => {}
        }
    }

    /// Lets the crate [`config`] lay the variables over the file.
    fn merge(&mut self, text: &str, environment: &[(String, String)]) {
        for (variable, _) in environment {
            if variable.starts_with(PREFIX) && !NOT_KEYS.contains(&variable.as_str()) {
                self.overrides.insert(path_of(&variable[PREFIX.len()..]), variable.clone());
            }
        }
        let mut builder =
            config::Config::builder().add_source(config::File::from_str(text, config::FileFormat::Toml));
        for (path, variable) in self.overrides.clone() {
            if let Some(message) = self.refuse_override(&path) {
                self.problem(&path, message);
                continue;
            }
            let value =
                environment.iter().find(|(name, _)| *name == variable).map_or("", |(_, v)| v.as_str());
            builder = match builder.clone().set_override(&path, value) {
                Ok(builder) => builder,
                Err(_) => {
                    self.problem(
                        &path,
                        "this variable does not name a key: section and key are joined by __",
                    );
                    builder
                }
            };
        }
        match builder.build().and_then(|merged| merged.collect()) {
            Ok(tree) => self.tree = tree,
            Err(error) => self.problem("", error.to_string()),
        }
    }

    /// Why a variable cannot be laid over the file: it would replace a whole section, or stands in a
    /// list element that the file does not have.
    fn refuse_override(&self, path: &str) -> Option<String> {
        if self.places.keys().chain(self.overrides.keys()).any(|other| is_inside(other, path)) {
            return Some("this is a section: set its keys one by one, as SECTION__KEY".to_owned());
        }
        let element = path.rfind(']').map(|end| &path[..=end])?;
        (!self.places.contains_key(element)).then(|| format!("the file has no {element}"))
    }

    /// The variable that set this key, or one that made the section, which the file does not have.
    fn variable_of(&self, path: &str) -> Option<String> {
        let exact = self.overrides.get(path);
        let made = || self.overrides.iter().find(|(other, _)| is_inside(other, path)).map(|(_, v)| v);
        let variable = if self.places.contains_key(path) { exact } else { exact.or_else(made) };
        variable.cloned()
    }

    fn place_around(&self, path: &str) -> Option<&Place> {
        let mut path = path;
        loop {
            if let Some(place) = self.places.get(path) {
                return Some(place);
            }
            path = &path[..path.rfind(['.', '['])?];
        }
    }

    fn override_text(&self, path: &str) -> Option<String> {
        let mut value = Value::new(None, ValueKind::Table(self.tree.clone()));
        for step in path.split(['.', '[']) {
            let step = step.trim_end_matches(']');
            value = match value.kind {
                ValueKind::Table(mut table) => table.remove(step)?,
                ValueKind::Array(mut items) => {
                    let index = step.parse::<usize>().ok().filter(|i| *i < items.len())?;
                    items.swap_remove(index)
                }
                _ => return None,
            };
        }
        value.into_string().ok()
    }
}

/// What the reader of TOML says at a byte of the text, with the bracket of an earlier line that it waits for.
fn not_toml(message: &str, text: &str, at: usize) -> String {
    let message = message.replace('\n', ", ");
    let line = |at: usize| line_column(text, at..at).0;
    let open = bracket::open_at(text, at).filter(|(_, from)| line(*from) < line(at));
    let hint = open.map(|(bracket, from)| format!("; the {bracket} of line {} is not closed", line(from)));
    format!("this is not TOML: {message}{}", hint.unwrap_or_default())
}

/// `a.b` from `a` and `b`; `b` at the top.
pub(crate) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// True for `mqtt.url` inside `mqtt`, and for `camera[0]` inside `camera`.
fn is_inside(path: &str, section: &str) -> bool {
    path.strip_prefix(section).is_some_and(|rest| rest.starts_with('.') || rest.starts_with('['))
}

/// `camera[0].trigger.interval_ms` from `CAMERA__0__TRIGGER__INTERVAL_MS`.
fn path_of(name: &str) -> String {
    let mut path = String::new();
    for step in name.to_ascii_lowercase().split("__") {
        if !path.is_empty() && !step.is_empty() && step.bytes().all(|b| b.is_ascii_digit()) {
            path.push_str(&format!("[{step}]"));
        } else {
            path = join(&path, step);
        }
    }
    path
}

/// Line and column, from 1, of the start of a span.
fn line_column(text: &str, span: Range<usize>) -> (usize, usize) {
    let before = &text.as_bytes()[..span.start.min(text.len())];
    let line = before.iter().filter(|b| **b == b'\n').count() + 1;
    let column = before.iter().rev().take_while(|b| **b != b'\n').count() + 1;
    (line, column)
}

/// A value as a message may repeat it: secrets masked, one line, not endless.
fn shown(path: &str, value: &str) -> String {
    let key = path.rsplit('.').next().unwrap_or(path);
    let secret = ["pass", "user", "secret", "token"].iter().any(|word| key.contains(word));
    if secret && !key.ends_with("_file") {
        return MASK.to_owned();
    }
    let masked = address::shown(value);
    let line = masked.lines().next().unwrap_or_default();
    if line.chars().count() > SHOWN_CHARS_MAX || line.len() < masked.len() {
        format!("{}…", line.chars().take(SHOWN_CHARS_MAX).collect::<String>())
    } else {
        line.to_owned()
    }
}
