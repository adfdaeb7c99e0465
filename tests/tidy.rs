//! The house rules that a machine can check: who may import whom, how long a file may be, which words
//! stay out, what lies at the top, who names the engine of the store.
//!
//! Imports go to the right only, and siblings never import each other; they meet in `daemon`:
//!
//! ```text
//! main > cli, daemon > config, learn > evaluate > recipe > inspect > engine > vlm
//!                    > camera, publish, web, control > store > domain
//! ```
//!
//! `queue`, `clock`, `health`, `pixels`, `threads` and `ipc` are leaves: every room that runs threads may use them; `guide` is one
//! of texts, and `causes` one for who ends with an error; `command` is one on `domain`, for the rooms that take commands.
//! Test code, what stands under `#[cfg(test)]`, is free to reach further.

#[path = "tidy/sparkplug.rs"]
mod sparkplug;

use proc_macro2::{TokenStream, TokenTree};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use syn::visit::{self, Visit};
use syn::{Attribute, Item, ItemUse, Macro, UseName, UsePath, UseRename, UseTree};

/// Longest file, in lines. Aim at 500.
const LINES_MAX: usize = 600;

/// Each room and the rooms that it may import beside itself. Rooms that are not here may import all.
const IMPORTS: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("evaluate", &["domain", "recipe"]),
    ("learn", &["domain", "evaluate", "health", "inspect", "pixels", "recipe", "simulator", "vlm"]),
    ("simulator", &[]),
    ("queue", &[]),
    ("clock", &["threads"]),
    ("guide", &[]),
    ("health", &[]),
    ("threads", &[]),
    ("causes", &[]),
    ("ipc", &["threads"]),
    ("command", &["domain"]),
    ("store", &["domain", "clock", "health", "threads"]),
    ("camera", &["address", "document", "domain", "simulator", "queue", "clock", "health", "ipc", "threads"]),
    ("pixels", &[]),
    ("publish", &["store", "domain", "command", "queue", "clock", "health", "pixels", "threads"]),
    ("web", &["store", "domain", "command", "guide", "queue", "clock", "health", "pixels", "threads"]),
    ("control", &["store", "domain", "clock", "ipc", "threads"]),
    ("engine", &["vlm", "queue", "ipc", "threads"]),
    ("inspect", &["domain", "engine", "vlm", "queue", "clock", "health", "pixels", "threads"]),
    ("recipe", &["document", "domain", "engine", "inspect"]),
    ("document", &["address", "domain"]),
    ("address", &[]),
    (
        "config",
        &[
            "address",
            "document",
            "domain",
            "recipe",
            "store",
            "inspect",
            "engine",
            "vlm",
            "queue",
            "simulator",
            "camera",
        ],
    ),
];
/// What a fenced block in a doc comment may be. Rust is not here: no documentation is run as a test.
const FENCES: &[&str] = &["text", "json", "toml"];

/// The engine room is a crate of its own: it cannot import a room of the other.
const FREE: &[&str] = &["main", "lib", "cli", "daemon", "vlm"];

/// What may lie at the top besides files and folders whose names start with a dot.
const TOP: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "src",
    "pipelines",
    "config",
    "systemd",
    "package",
    "fixtures",
    "tests",
    "README.md",
    "Makefile",
];

#[test]
fn imports_go_to_the_right_only() {
    let mut rooms = BTreeSet::new();
    let mut wrong = Vec::new();
    for (path, text) in sources("src") {
        let room = room_of(&path);
        wrong.extend(bad_imports(&room, &text).into_iter().map(|bad| format!("{}: {bad}", path.display())));
        rooms.insert(room);
    }
    assert!(rooms.contains("domain") && rooms.contains("main"), "the sources were found: {rooms:?}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_room_is_in_the_table() {
    for (path, _) in sources("src") {
        let room = room_of(&path);
        let known = FREE.contains(&room.as_str()) || IMPORTS.iter().any(|(name, _)| *name == room);
        assert!(known, "{}: give the room {room} a line in IMPORTS", path.display());
    }
}

#[test]
fn no_file_is_too_long() {
    for (path, text) in sources("src").into_iter().chain(sources("tests")) {
        let lines = text.lines().count();
        assert!(lines <= LINES_MAX, "{}: {lines} lines; split it by what its parts do", path.display());
    }
}

#[test]
fn no_unfinished_work_is_checked_in() {
    for (path, text) in sources("src").into_iter().chain(sources("tests")) {
        // This file has to name the words.
        if !path.ends_with("tidy.rs") {
            let found = unfinished(&text);
            assert!(found.is_empty(), "{}: {found:?}", path.display());
        }
    }
}

/// The test runner does not run documentation, so a test there would hold nothing and none may be there.
#[test]
fn no_documentation_is_taken_for_a_test() {
    for (path, text) in sources("src").into_iter().chain(sources("tests")) {
        let found = taken_for_tests(&text);
        let path = path.display();
        assert!(found.is_empty(), "{path}: put it between ```text and ```, lines {found:?}");
    }
}

/// A thread without a name cannot be told from the others, and one that nobody looks at ends in silence.
#[test]
fn threads_start_in_one_place() {
    for (path, text) in sources("src") {
        let may = is_test_file(&text) || path.ends_with("threads.rs");
        assert!(may || !Paths::of(&text).starts_threads, "{}: use threads::spawn", path.display());
    }
}

/// What the store asks of its engine is one page to read, and to write anew for another one.
#[test]
fn one_file_names_the_engine_of_the_store() {
    for (path, text) in sources("src") {
        let may = path.ends_with("store/kv.rs");
        assert_eq!(
            Paths::of(&text).names_sled,
            may,
            "{}: only store/kv.rs names sled, and it does",
            path.display()
        );
    }
}

/// The log is read by people and by machines: Rust's own form of a value is for neither.
#[test]
fn no_log_line_prints_rusts_form_of_a_value() {
    for (path, text) in sources("src") {
        let found = rusts_forms(&text);
        assert!(found.is_empty(), "{}: write the value in words: {found:?}", path.display());
    }
    assert_eq!(rusts_forms("fn f() { tracing::info!(?a, b = ?c, d = e()?, \"x\"); g!(?a); }"), ["a", "c"]);
}

/// The names behind a `?` in the log macros of a file.
fn rusts_forms(text: &str) -> Vec<String> {
    struct Logs(Vec<String>);
    impl<'ast> Visit<'ast> for Logs {
        fn visit_macro(&mut self, log: &'ast Macro) {
            if log.path.segments.first().is_none_or(|room| room.ident != "tracing") {
                return;
            }
            let tokens: Vec<String> = log.tokens.clone().into_iter().map(|token| token.to_string()).collect();
            let begins = |at: usize| at == 0 || matches!(tokens[at - 1].as_str(), "," | "=");
            let forms = (0..tokens.len()).filter(|at| tokens[*at] == "?" && begins(*at));
            self.0.extend(forms.filter_map(|at| tokens.get(at + 1).cloned()));
        }
    }
    let mut logs = Logs(vec![]);
    logs.visit_file(&syn::parse_file(text).unwrap_or_else(|error| panic!("{error}: {text}")));
    logs.0
}

/// A glossary that nobody checks is wrong after the next renaming.
#[test]
fn the_glossary_names_what_is_there() {
    let glossary = fs::read_to_string("src/guide/glossary.md").expect("the glossary can be read");
    let topics =
        fs::read_to_string("src/publish/mqtt/dialect/json/topics.rs").expect("the topics can be read");
    let rows: Vec<Vec<&str>> = glossary
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| ---"))
        .skip(1)
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    assert!(rows.len() >= 40 && rows.iter().all(|row| row.len() == 3), "a table of three columns");
    assert!(rows.is_sorted_by(|a, b| a[0] < b[0]), "each word once, in the order of the alphabet");
    for row in rows {
        let (word, sentence) = (row[0], row[1].strip_suffix('.'));
        assert!(
            sentence.is_some_and(|words| !words.contains(". ")),
            "{word}: one sentence, with its full stop"
        );
        let carriers: Vec<_> = row[2].split('`').skip(1).step_by(2).collect();
        assert!(!carriers.is_empty(), "{word}: nothing carries it");
        for carrier in carriers {
            let is_there = match carrier.rsplit_once("::") {
                Some((module, name)) => has_type(module, name),
                None => topics.contains(&format!("\"{}", carrier.split('{').next().unwrap_or_default())),
            };
            assert!(is_there, "{word}: there is no {carrier}");
        }
    }
}

/// Whether a module, as `domain::part`, declares a type of this name.
fn has_type(module: &str, name: &str) -> bool {
    let path = Path::new("src").join(module.replace("::", "/"));
    let files = [path.with_extension("rs"), path.join("mod.rs"), path.join("lib.rs")];
    let Some(text) = files.iter().find_map(|file| fs::read_to_string(file).ok()) else { return false };
    syn::parse_file(&text).expect("a source file parses").items.iter().any(|item| match item {
        Item::Struct(item) => item.ident == name,
        Item::Enum(item) => item.ident == name,
        Item::Trait(item) => item.ident == name,
        _ => false,
    })
}

#[test]
fn the_top_holds_what_it_should() {
    // What git ignores is not the project: build outputs and the demo's store.
    let ignored = fs::read_to_string(".gitignore").expect("the ignore file is there");
    let ignored: Vec<_> = ignored.lines().map(|line| line.trim_matches('/')).collect();
    for entry in fs::read_dir(".").expect("the top can be read") {
        let name = entry.expect("an entry").file_name().to_string_lossy().into_owned();
        let fits = name.starts_with('.') || TOP.contains(&name.as_str()) || ignored.contains(&name.as_str());
        assert!(fits, "{name} does not belong at the top");
    }
}

/// All Rust files under a folder, with their texts.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a source folder can be read") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a source file can be read");
                found.push((path, text));
            }
        }
    }
    found.sort();
    found
}

/// `publish` for `src/publish/mqtt/state.rs`, `config` for `src/config.rs`.
fn room_of(path: &Path) -> String {
    let inside = path.strip_prefix("src").expect("a path under src");
    let first = inside.iter().next().expect("a file has a name").to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

/// Imports that the table does not allow.
fn bad_imports(room: &str, text: &str) -> Vec<String> {
    let Some((_, allowed)) = IMPORTS.iter().find(|(name, _)| *name == room) else {
        return Vec::new();
    };
    if is_test_file(text) {
        return Vec::new();
    }
    let paths = Paths::of(text);
    let mut bad: Vec<_> = paths
        .rooms
        .into_iter()
        .filter(|other| other != room && !allowed.contains(&other.as_str()))
        .map(|other| format!("{room} must not import {other}"))
        .collect();
    // `super::super` out of a nested file could leave the room unseen.
    bad.extend(paths.climbs.then(|| "write crate::… instead of super::super".to_owned()));
    bad
}

/// A file that `#[cfg(test)] mod tests;` pulls in holds tests only.
fn is_test_file(text: &str) -> bool {
    text.starts_with("//! Tests of ")
}

/// The paths in the code of a file, without its tests.
#[derive(Default)]
struct Paths {
    /// What `crate::` paths begin with: `a` and `c` in `use crate::{a::{b, x}, c};`; and `vlm`, a crate of its own.
    rooms: BTreeSet<String>,
    /// Some path begins with `super::super`.
    climbs: bool,
    /// Some path holds `thread::spawn` or `thread::Builder`.
    starts_threads: bool,
    /// Some path begins with `sled`.
    names_sled: bool,
}

impl Paths {
    fn of(text: &str) -> Self {
        let mut paths = Self::default();
        paths.visit_file(&syn::parse_file(text).unwrap_or_else(|error| panic!("{error}: {text}")));
        paths
    }

    /// One path from its beginning.
    fn path(&mut self, names: &[String]) {
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        match names.as_slice() {
            ["crate" | "inspectd", room, ..] | [room @ "vlm", _, ..] => {
                _ = self.rooms.insert((*room).to_owned());
            }
            ["super", "super", ..] => self.climbs = true,
            ["sled", ..] => self.names_sled = true,
            _ => {}
        }
        self.starts_threads |= names.windows(2).any(|pair| matches!(pair, ["thread", "spawn" | "Builder"]));
    }

    /// The paths of a tree of imports, which begins with `names`.
    fn tree(&mut self, names: &mut Vec<String>, tree: &UseTree) {
        match tree {
            UseTree::Path(UsePath { ident, tree, .. }) => {
                names.push(ident.to_string());
                self.tree(names, tree);
                names.pop();
            }
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.tree(names, tree)),
            UseTree::Name(UseName { ident }) | UseTree::Rename(UseRename { ident, .. }) => {
                names.push(ident.to_string());
                self.path(names);
                names.pop();
            }
            UseTree::Glob(_) => self.path(names),
        }
    }

    /// The paths in the tokens of a macro, which are no syntax yet.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut names = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.path(&std::mem::take(&mut names));
                    }
                    names.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Group(group) => self.tokens(group.stream()),
                _ => colons = 0,
            }
        }
        self.path(&names);
    }
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item(&mut self, item: &'ast Item) {
        if !attributes(item).iter().any(is_for_tests) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.tree(&mut Vec::new(), &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.path(&path.segments.iter().map(|segment| segment.ident.to_string()).collect::<Vec<_>>());
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast Macro) {
        self.tokens(call.tokens.clone());
        visit::visit_macro(self, call);
    }
}

/// The attributes of what can be left out of a build.
fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Mod(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        _ => &[],
    }
}

/// `#[cfg(test)]`.
fn is_for_tests(attribute: &Attribute) -> bool {
    attribute.path().is_ident("cfg") && attribute.parse_args::<syn::Ident>().is_ok_and(|name| name == "test")
}

/// Words of unfinished work.
fn unfinished(text: &str) -> Vec<&'static str> {
    let words = ["TODO", "FIXME", "XXX", "todo!", "unimplemented!", "dbg!", "Being written"];
    let is_word = |at: usize, word: &str| {
        let joined = |c: char| c.is_alphanumeric() || c == '_';
        !text[..at].chars().next_back().is_some_and(joined)
            && !text[at + word.len()..].chars().next().is_some_and(joined)
    };
    words.into_iter().filter(|word| text.match_indices(word).any(|(at, _)| is_word(at, word))).collect()
}

/// The lines of doc comments that rustdoc would take for the beginning of a test: a fence that names no
/// language of `FENCES`, and text that is indented by four or more.
fn taken_for_tests(text: &str) -> Vec<usize> {
    let mut inside = false;
    let mut found = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim_start();
        let Some(line) = line.strip_prefix("//!").or_else(|| line.strip_prefix("///")) else {
            inside = false;
            continue;
        };
        let fence = line.trim_start().strip_prefix("```");
        if let (false, Some(language)) = (inside, fence)
            && !FENCES.contains(&language)
        {
            found.push(number);
        }
        if !inside && line.starts_with("    ") {
            found.push(number);
        }
        inside ^= fence.is_some();
    }
    found
}

#[test]
fn the_check_sees_broken_imports() {
    let sees = |room: &str, text: &str| !bad_imports(room, text).is_empty();
    assert!(sees("domain", "use crate::store::Store;"));
    assert!(sees("domain", "use crate::{domain::Frame, store::{Store, Outbox}};"));
    assert!(sees("domain", "use {std::fmt, crate::store as kept};"));
    assert!(sees("domain", "use crate::store::*;"));
    assert!(sees("engine", "use crate::{\n    ipc::{\n        Channel, Frame,\n    },\n    domain,\n};"));
    assert!(sees("domain", "use vlm::{Ask, Form};"));
    assert!(sees("publish", "fn f() { let x = crate::web::api(); }"));
    assert!(sees("publish", "fn f(x: &crate::web::Web<u8>) -> Option<crate::domain::Frame> { None }"));
    assert!(sees("publish", "fn f() { println!(\"{}\", crate::web::api()); }"));
    assert!(sees("publish", "macro_rules! m { () => { $crate::web::api() }; }"));
    assert!(sees("inspect", "pub use crate::store;"));
    assert!(sees("camera", "use inspectd::publish::mqtt::Client;"));
    assert!(sees("store", "fn f() { use super::super::publish; }"));
    assert!(sees("store", "fn f() { super::super::publish::f(); }"));
    assert!(sees("queue", "const QUOTE: char = '\"'; use crate::domain::Frame;"));
    assert!(sees("store", "const A: &str = \"a\"; use crate::publish;"));
    assert!(sees("store", "#[cfg(test)]\nmod tests {}\nuse crate::publish;"));

    assert!(!sees("domain", "use crate::domain::rect::Rect;\nuse std::fmt;"));
    assert!(!sees("inspect", "use crate::domain::{Frame, Grid};\nuse vlm::Ask;"));
    assert!(!sees("domain", "fn f(vlm: &str) { println!(\"{}\", vlm.len()); }"));
    assert!(!sees("domain", "//! `crate::store` keeps these.\n/* */ const X: &str = \"crate::store\";"));
    assert!(!sees("domain", "use my_crate::store;"));
    assert!(!sees("store", "fn f() {}\n#[cfg(test)]\nmod tests {\n    use crate::publish;\n}"));
    assert!(!sees("cli", "use crate::{publish, web};"));
}

#[test]
fn the_check_sees_threads() {
    for bad in ["fn f() { std::thread::spawn(g); }", "use std::thread::{Builder, sleep};"] {
        assert!(Paths::of(bad).starts_threads, "{bad}");
    }
    for good in ["fn f() { threads::spawn(g); }", "use std::thread::JoinHandle; // thread::spawn(g)"] {
        assert!(!Paths::of(good).starts_threads, "{good}");
    }
}

#[test]
fn the_check_sees_types() {
    for (module, name) in [("domain::part", "PartRef"), ("vlm", "Ask"), ("domain::grade", "Grade")] {
        assert!(has_type(module, name), "{module}::{name}");
    }
    for (module, name) in [("domain::part", "Part"), ("domain::parts", "PartRef"), ("domain", "PartRef")] {
        assert!(!has_type(module, name), "{module}::{name}");
    }
}

#[test]
fn the_check_sees_the_engine() {
    for bad in [
        "use sled::Tree;",
        "use sled as engine;",
        "fn f(tree: &sled::Tree) {}",
        "fn f() { let x = assert!(sled::open(p)); }",
        "#[cfg(test)]\nmod tests {}\nuse {std::fmt, sled::transaction::abort};",
    ] {
        assert!(Paths::of(bad).names_sled, "{bad}");
    }
    for good in ["//! sled::Tree\nuse super::kv::Tree;", "fn f() { g::sled::h(StoreError::sled); }"] {
        assert!(!Paths::of(good).names_sled, "{good}");
    }
}

#[test]
fn the_check_sees_unfinished_work() {
    for bad in
        ["// TODO: later", "/// FIXME", "todo!()", "unimplemented!(\"x\")", "dbg!(x)", "//! Being written."]
    {
        assert!(!unfinished(bad).is_empty(), "{bad}");
    }
    for good in ["let todos = 1;", "// METHODOLOGY", "fn mastodon() {}"] {
        assert!(unfinished(good).is_empty(), "{good}");
    }
}

#[test]
fn the_check_sees_tests_in_documentation() {
    for bad in [
        "//! ```\n//! f();\n//! ```",
        "/// ```rust\n/// ```",
        "/// ```no_run\n/// ```",
        "//! It does:\n//!\n//!     a --> b",
        "//! ```text\n//! a\n//! ```\n//!     b --> c",
        "/// ```text\nfn f() {}\n    /// ```\n    /// f();\n    /// ```",
    ] {
        assert!(!taken_for_tests(bad).is_empty(), "{bad}");
    }
    for good in [
        "//! ```text\n//!     a --> b\n//! ```\n//!\n//! - One.\n//!   Two.",
        "/// ```json\n/// {}\n/// ```",
        "fn f() {\n    // ```\n    //     g();\n}",
    ] {
        assert!(taken_for_tests(good).is_empty(), "{good}");
    }
}

/// rumqttc 0.25 still names rustls-webpki 0.102, which has four advisories (RUSTSEC-2026-0049, -0098, -0099
/// and -0104: lists of revoked certificates and name constraints). It names it for the type of one error
/// that it never makes; certificates are verified by rustls with a version that has none of them.
#[test]
fn what_verifies_certificates_has_no_known_hole() {
    let lock =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock")).expect("the lock file");
    let lock: toml::Table = lock.parse().expect("it is TOML");
    let packages = lock["package"].as_array().expect("packages");
    let text = |package: &toml::Value, key: &str| package[key].as_str().unwrap_or_default().to_owned();
    let users = |of: &str| -> Vec<String> {
        let needs = |p: &&toml::Value| {
            let all = p.get("dependencies").and_then(toml::Value::as_array);
            all.is_some_and(|all| all.iter().any(|d| d.as_str() == Some(of)))
        };
        packages.iter().filter(needs).map(|p| text(p, "name")).collect()
    };
    for package in packages.iter().filter(|p| text(p, "name") == "rustls-webpki") {
        let version = text(package, "version");
        let parts: Vec<u32> = version.split('.').filter_map(|part| part.parse().ok()).collect();
        if parts < vec![0, 103, 13] {
            assert_eq!(users(&format!("rustls-webpki {version}")), ["rumqttc"], "{version}");
        }
    }
}
