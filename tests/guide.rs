//! The guide is true: what it shows is what the program takes, says and counts.
//!
//! A fenced block says what it is behind its language, so that a test can complete it:
//!
//! - `toml config`, `toml pipeline`: a whole config, a whole recipe.
//! - `toml config fragment`, `toml pipeline fragment`: keys to go with a config of the tests, or with a shipped recipe.
//! - `json node-red`, `conf telegraf`, `sql influx`: examples for other programs, held to the schemas of messages;
//!   `make test-node` runs the first.
//! - `sh`: lines that begin with `inspectd` go through the parser of the command line.
//!
//! Tables of topics, alarms, reasons, refusals and figures are held to the code, both ways.

#[path = "common/config.rs"]
mod config;
#[path = "guide/mqtt.rs"]
mod mqtt;

use clap::{CommandFactory, Parser};
use inspectd::cli::Cli;
use inspectd::document::ReadError;
use inspectd::publish::mqtt::sparkplug::metrics::{DEVICE, NODE, Spec};
use regex::Regex;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use toml::{Table, Value};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The chapters, by their paths, in both languages.
fn chapters() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for folder in ["src/guide", "src/guide/zh"] {
        for entry in fs::read_dir(root().join(folder)).expect("the guide can be read") {
            let path = entry.expect("an entry").path();
            if path.extension().is_some_and(|extension| extension == "md") {
                found.push((path.clone(), read(path)));
            }
        }
    }
    found.sort();
    assert!(found.len() > 15, "the chapters were found: {found:?}");
    found
}

/// A fenced block: what it is said to be, and its text.
struct Block {
    kind: String,
    text: String,
}

/// The fenced blocks of a text, and what is outside of them.
fn blocks(text: &str) -> (Vec<Block>, String) {
    let (mut blocks, mut outside) = (Vec::new(), String::new());
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        match line.strip_prefix("```") {
            Some(kind) => {
                let inside: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
                blocks.push(Block { kind: kind.trim().to_owned(), text: inside.join("\n") + "\n" });
            }
            None => outside += &format!("{line}\n"),
        }
    }
    (blocks, outside)
}

/// The code in the first cells of the first table after a heading.
fn first_cells(text: &str, heading: &str) -> BTreeSet<String> {
    let after =
        text.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no heading {heading}")).1;
    let rows =
        after.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let cells = rows.skip(2).filter_map(|row| row.trim_start_matches('|').split('|').next());
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
}

fn found(pattern: &str, text: &str) -> BTreeSet<String> {
    let pattern = Regex::new(pattern).expect("a pattern");
    pattern.captures_iter(text).map(|found| found[1].to_owned()).collect()
}

/// All sources below a folder, one after the other.
fn sources(folder: &str) -> String {
    let mut text = String::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a source folder can be read") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                text += &read(path);
            }
        }
    }
    text
}

/// Names with what stands in braces left out: `camera/{id}/status` is `camera/{}/status`.
fn unnamed(names: BTreeSet<String>) -> BTreeSet<String> {
    let braces = Regex::new(r"\{[^}]*\}").expect("a pattern");
    names.into_iter().map(|name| braces.replace_all(&name, "{}").into_owned()).collect()
}

fn assert_same(guide: &BTreeSet<String>, code: &BTreeSet<String>, what: &str) {
    assert!(!code.is_empty(), "{what} of the code were found");
    let missing: Vec<_> = code.difference(guide).collect();
    let unknown: Vec<_> = guide.difference(code).collect();
    assert!(missing.is_empty(), "{what} that the guide does not have: {missing:?}");
    assert!(unknown.is_empty(), "{what} that only the guide has: {unknown:?}");
}

/// What is wrong with a config, in words; nothing when it is fine.
fn wrong_config(text: &str) -> Option<String> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("inspectd.toml");
    fs::write(&path, text).expect("a file");
    inspectd::config::load(&path).err().map(|error| error.to_string())
}

/// The same of a recipe; a bank or a head that a plant would have beside it is not looked for.
fn wrong_pipeline(text: &str) -> Option<String> {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("recipe.toml").display().to_string();
    let problems = match inspectd::recipe::pipeline_from_str(&file, text) {
        Ok(_) => return None,
        Err(ReadError::Invalid { problems }) => problems,
        Err(error) => return Some(error.to_string()),
    };
    let is_beside = |key: &str| matches!(key.rsplit('.').next(), Some("bank" | "head" | "adapter"));
    let wrong = problems.iter().filter(|p| !(is_beside(&p.key) && p.message.starts_with("there is no file")));
    let wrong: Vec<_> = wrong.map(ToString::to_string).collect();
    (!wrong.is_empty()).then(|| wrong.join("\n"))
}

fn table(text: &str) -> Table {
    text.parse().unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// A config that says what `fragment` says, and for the rest what the tests' own says.
fn whole_config(fragment: &str) -> String {
    let camera = "[[camera]]\nid = \"cam1\"\nsource = \"simulator\"\npipeline = \"machined-plate\"\n";
    let mut whole = table(&config::config(Path::new("/var/lib/inspectd"), 1883, camera));
    whole.remove("pipelines_dir");
    whole.insert("pipelines_dir".to_owned(), root().join("pipelines").display().to_string().into());
    for (key, value) in table(fragment) {
        match (whole.get_mut(&key), value) {
            (Some(Value::Table(section)), Value::Table(more)) => section.extend(more),
            (_, value) => _ = whole.insert(key, value),
        }
    }
    whole.to_string()
}

/// A recipe that says what `fragment` says, and for the rest what a shipped one says; its prompts and rules come first.
fn whole_pipeline(fragment: &str) -> String {
    let mut whole = table(&read("pipelines/machined-plate.toml"));
    for (key, value) in table(fragment) {
        match (whole.get_mut(&key), value) {
            (Some(Value::Table(section)), Value::Table(more)) => section.extend(more),
            (Some(Value::Array(list)), Value::Array(more)) => _ = list.splice(0..0, more),
            (_, value) => _ = whole.insert(key, value),
        }
    }
    whole.to_string()
}

#[test]
fn every_config_and_recipe_of_the_guide_is_fine() {
    let mut seen = BTreeSet::new();
    for (path, text) in chapters() {
        for Block { kind, text } in blocks(&text).0.iter().filter(|block| block.kind.starts_with("toml")) {
            let wrong = match kind.as_str() {
                "toml config" => wrong_config(text),
                "toml config fragment" => wrong_config(&whole_config(text)),
                "toml pipeline" => wrong_pipeline(text),
                "toml pipeline fragment" => wrong_pipeline(&whole_pipeline(text)),
                other => Some(format!("say of what it is a fragment: {other}")),
            };
            assert_eq!(wrong, None, "{}: {text}", path.display());
            seen.insert(kind.clone());
        }
    }
    assert_eq!(seen.len(), 4, "{seen:?}");
}

#[test]
fn a_wrong_key_in_the_guide_would_be_seen() {
    assert_eq!(wrong_config(&whole_config("[store]\nretain_days = 30\n")), None);
    let wrong = wrong_config(&whole_config("[store]\nretain_weeks = 4\n")).expect("an unknown key");
    assert!(wrong.contains("store.retain_weeks"), "{wrong}");
    let bank =
        "[[prompt]]\nid = \"like\"\nkind = \"reference\"\nfeatures = \"backbone\"\nbank = \"a.bank\"\n";
    assert_eq!(wrong_pipeline(&whole_pipeline(bank)), None);
    let wrong = wrong_pipeline(&whole_pipeline(&bank.replace("backbone", "spine"))).expect("a wrong word");
    assert!(wrong.contains("features"), "{wrong}");
}

/// The words of one command line as a shell splits them, up to what is another command's or the shell's own.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match quote {
            Some(open) if c == open => quote = None,
            Some(_) => word.get_or_insert_default().push(c),
            None if c == '\'' || c == '"' => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            None if c == ' ' => words.extend(word.take()),
            None if matches!(c, '|' | '>' | '<' | '&' | ';' | '#') && word.is_none() => return words,
            None => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// The command lines of the program in a block of a shell.
fn command_lines(text: &str) -> Vec<Vec<String>> {
    let joined = text.replace("\\\n", " ");
    let lines = joined.lines().map(|line| line.trim().trim_start_matches("sudo "));
    lines.filter(|line| line.starts_with("inspectd ")).map(words).collect()
}

#[test]
fn every_command_line_of_the_guide_is_one() {
    let mut used = BTreeSet::new();
    for (path, text) in chapters().into_iter().chain([(PathBuf::from("README.md"), read("README.md"))]) {
        for block in blocks(&text).0.iter().filter(|block| block.kind == "sh") {
            for line in command_lines(&block.text) {
                if let Err(error) = Cli::try_parse_from(&line) {
                    panic!("{}: {line:?}: {error}", path.display());
                }
                used.extend(line.get(1).cloned());
            }
        }
    }
    assert!(used.len() > 10, "{used:?}");
}

/// In running text as in blocks: each name is that of a command, and each command is there.
#[test]
fn every_command_is_in_the_guide() {
    let program = Cli::command();
    let mut named = BTreeSet::new();
    for (path, text) in chapters() {
        let (blocks, outside) = blocks(&text);
        let lines =
            blocks.iter().filter(|block| block.kind == "sh").flat_map(|block| command_lines(&block.text));
        named.extend(lines.filter_map(|line| line.get(1).cloned()));
        for line in outside.split('`').skip(1).step_by(2).filter(|code| code.starts_with("inspectd ")) {
            let mut words =
                line.split(' ').skip(1).take_while(|word| word.starts_with(|c: char| c.is_lowercase()));
            let Some(name) = words.next() else { continue };
            let command = program.find_subcommand(name);
            let command = command.unwrap_or_else(|| panic!("{}: `{line}`: no command", path.display()));
            if let (true, Some(second)) = (command.has_subcommands(), words.next()) {
                assert!(command.find_subcommand(second).is_some(), "{}: `{line}`", path.display());
            }
            named.extend((!command.is_hide_set()).then(|| name.to_owned()));
        }
    }
    let shown = program.get_subcommands().filter(|command| !command.is_hide_set());
    assert_same(&named, &shown.map(|command| command.get_name().to_owned()).collect(), "commands");
}

/// The alarms of the code, without what stands behind them for a camera, a recipe or a sink.
fn alarms() -> BTreeSet<String> {
    let source = sources("src");
    let mut codes = found(r#"const ALARM\w*: &str = "([a-z_]+)""#, &source);
    codes.extend(found(r#"code(?::| =) format!\("([a-z_]+)_\{"#, &source));
    codes
}

#[test]
fn the_alarms_are_those_of_the_code() {
    let named = |text: &str, heading: &str| -> BTreeSet<String> {
        let codes = unnamed(first_cells(text, heading));
        codes.iter().map(|code| code.trim_end_matches("_{}").to_owned()).collect()
    };
    assert_same(&named(&read("src/guide/troubleshooting.md"), "## Alarms"), &alarms(), "alarms");
    assert_same(&named(&read("src/guide/zh/troubleshooting.md"), "## 报警"), &alarms(), "alarms");
}

#[test]
fn the_reasons_and_refusals_are_those_of_the_code() {
    let codes = |path: &str, from: &str| {
        let source = read(path);
        let code = source.split_once(from).unwrap_or_else(|| panic!("{path}: {from}")).1;
        let code = code.split_once("pub const fn code").expect("its codes").1;
        found(r#"Self::\w+(?: \{ \.\. \})? => "([a-z_]+)""#, code)
    };
    let reasons = codes("src/domain/grade.rs", "impl Reason {");
    let refusals = codes("src/domain/trigger.rs", "impl Refusal {");
    for (path, why, no) in [
        ("src/guide/troubleshooting.md", "## Reasons", "## Refusals"),
        ("src/guide/zh/troubleshooting.md", "## 原因", "## 拒绝"),
    ] {
        assert_same(&first_cells(&read(path), why), &reasons, "reasons");
        assert_same(&first_cells(&read(path), no), &refusals, "refusals");
    }
}

#[test]
fn the_topics_are_those_of_the_code() {
    let mut topics = unnamed(found(
        r#"under\((?:&format!\()?"([^"]+)""#,
        &read("src/publish/mqtt/dialect/json/topics.rs"),
    ));
    assert!(topics.remove("cmd/{}"), "{topics:?}");
    let verbs = read("src/command.rs");
    let verbs = verbs.split_once("pub(crate) const fn as_str").expect("the words of commands").1;
    topics.extend(found(r#"Self::\w+ => "([a-z]+)""#, verbs).iter().map(|verb| format!("cmd/{verb}")));
    topics.insert("cmd/ack".to_owned());
    assert_same(&unnamed(first_cells(&read("src/guide/mqtt.md"), "## Topics")), &topics, "topics");

    // And wherever a chapter names one.
    let alarms = alarms();
    for (path, text) in chapters() {
        let code: BTreeSet<_> = blocks(&text).1.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        for name in unnamed(code) {
            let known = match name.split_once('/') {
                Some(("cmd", "" | "{}")) => true,
                Some(("cmd", _)) => topics.contains(name.split(' ').next().unwrap_or_default()),
                Some(("camera", "{}/status" | "{}/last")) => true,
                Some(("alarm", code)) => code == "{}" || alarms.contains(code.trim_end_matches("_{}")),
                _ => continue,
            };
            assert!(known, "{}: there is no topic {name}", path.display());
        }
    }
}

/// Name, type and unit of each, in the order of the births.
#[test]
fn the_metrics_of_sparkplug_are_those_of_the_code() {
    let text = read("src/guide/sparkplug.md");
    for (heading, table) in [("## Metrics of the node", NODE), ("## Metrics of a device", DEVICE)] {
        let after = text.split_once(&format!("\n{heading}\n")).expect("its heading").1;
        let rows =
            after.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
        let named: Vec<Vec<&str>> =
            rows.skip(2).map(|row| row.split('|').map(str::trim).skip(1).take(3).collect()).collect();
        let range = |spec: &Spec| spec.range.map_or(String::new(), |(low, high)| format!("{low} to {high}"));
        let code = table.iter().map(|spec| {
            let unit = if spec.unit.is_empty() { range(spec) } else { spec.unit.to_owned() };
            vec![format!("`{}`", spec.name), spec.kind.as_str().to_owned(), unit]
        });
        assert_eq!(named, code.collect::<Vec<_>>(), "{heading}");
    }
}

#[test]
fn the_figures_for_machines_are_those_of_the_code() {
    // A histogram is one figure of three series.
    let figures = |text: &str| -> BTreeSet<String> {
        let series = found(r"\b(inspectd_[a-z0-9_]+)", text).into_iter();
        let whole = |name: String| {
            let part = ["_bucket", "_sum", "_count"].into_iter().find_map(|end| name.strip_suffix(end));
            part.map_or_else(|| name.clone(), str::to_owned)
        };
        series.map(whole).collect()
    };
    let mut code = figures(&sources("src/web"));
    // The name of the cookie.
    code.remove("inspectd_session");
    let named: BTreeSet<String> = chapters().iter().flat_map(|(_, text)| figures(text)).collect();
    assert_same(&named, &code, "figures");
}

#[test]
fn the_registers_are_those_of_the_server() {
    let out = Command::new(env!("CARGO_BIN_EXE_inspectd")).args(["modbus-map", "--json"]).output();
    let map: serde_json::Value = serde_json::from_slice(&out.expect("the binary runs").stdout).expect("JSON");
    let cell =
        |row: &serde_json::Value, key: &str| row[key].as_str().map_or(row[key].to_string(), str::to_owned);
    let rows = |list: &str, keys: &[&str]| -> BTreeSet<String> {
        let row = |row: &serde_json::Value| {
            let cells = keys.iter().map(|key| match *key {
                "name" | "word" => format!("`{}`", cell(row, key)),
                key => cell(row, key),
            });
            format!("| {} |", cells.collect::<Vec<_>>().join(" | ")).replace("|  |", "| |")
        };
        map[list].as_array().unwrap_or_else(|| panic!("no {list}")).iter().map(row).collect()
    };
    let mut code = rows("registers", &["address", "words", "name", "kind", "access", "unit", "meaning"]);
    for list in ["status_bits", "control_bits"] {
        code.extend(rows(list, &["bit", "name", "meaning"]));
    }
    for list in ["error_codes", "verdicts", "reasons", "grades"] {
        code.extend(rows(list, &["number", "word", "meaning"]));
    }
    let chapter = read("src/guide/modbus.md");
    let is_row = |line: &&str| line.starts_with("| ") && line[2..].starts_with(|c: char| c.is_ascii_digit());
    let guide = chapter.lines().filter(is_row).map(str::to_owned).collect();
    assert_same(&guide, &code, "registers");
    let keys: BTreeSet<String> = first_cells(&chapter, "## Example");
    for key in keys {
        let documented = read("config/inspectd.toml").contains(&format!("#   {key} = "));
        assert!(documented, "config/inspectd.toml does not have [modbus] {key}");
    }
}

/// As readers of Markdown name a heading.
fn anchors(text: &str) -> BTreeSet<String> {
    let outside = blocks(text).1;
    let headings =
        outside.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let kept = |c: &char| c.is_alphanumeric() || " -_".contains(*c);
    headings
        .map(|words| words.chars().filter(kept).collect::<String>().to_lowercase().replace(' ', "-"))
        .collect()
}

#[test]
fn every_link_leads_to_a_file_and_its_heading() {
    let others = ["README.md", "tests/rigs/FIGURES.md", "tests/bench/FIGURES.md"];
    let others = others.into_iter().map(|path| (root().join(path), read(path)));
    let links = Regex::new(r"\]\(([^)\s]+)\)").expect("a pattern");
    let mut count = 0;
    for (path, text) in chapters().into_iter().chain(others) {
        for link in links.captures_iter(&blocks(&text).1) {
            if link[1].contains("://") {
                continue;
            }
            let (file, place) = link[1].split_once('#').unwrap_or((&link[1], ""));
            let target = match file {
                "" => path.clone(),
                file => path.parent().expect("a folder").join(file),
            };
            assert!(target.exists(), "{}: {}", path.display(), &link[1]);
            let is_there = place.is_empty() || anchors(&read(&target)).contains(place);
            assert!(is_there, "{}: no heading {}", path.display(), &link[1]);
            // The page renders chapters, and nothing else of the project.
            if path.starts_with(root().join("src/guide")) && !path.ends_with("changes.md") {
                let is_chapter = target.extension().is_some_and(|e| e == "md")
                    && target.starts_with(root().join("src/guide"));
                assert!(is_chapter, "{}: {} is no chapter", path.display(), &link[1]);
            }
            count += 1;
        }
    }
    assert!(count > 40, "{count} links");
}

#[test]
fn every_chapter_shows_an_example() {
    for (path, text) in chapters() {
        let shows = text.contains("\n## Example") || text.contains("\n## 示例");
        let is_list = path.ends_with("glossary.md") || path.ends_with("changes.md");
        assert!(shows || is_list, "{}", path.display());
    }
}

/// A newcomer reads it to its end.
#[test]
fn the_readme_is_short() {
    let lines = read("README.md").lines().count();
    assert!(lines <= 130, "{lines} lines");
}

fn guide(args: &[&str]) -> (bool, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_inspectd"));
    let out = command.arg("guide").args(args).output().expect("the binary runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (out.status.success(), text(out.stdout), text(out.stderr))
}

#[test]
fn the_program_prints_the_guide() {
    let (fine, list, _) = guide(&[]);
    assert!(fine && list.contains("troubleshooting  each alarm"), "{list}");
    for line in list.lines().skip(1).take_while(|line| !line.is_empty()) {
        let topic = line.split(' ').next().expect("a topic");
        assert_eq!(guide(&[topic]).1, read(format!("src/guide/{topic}.md")), "{topic}");
    }
    assert_eq!(guide(&["review", "--language", "zh"]).1, read("src/guide/zh/review.md"));
    let (fine, out, error) = guide(&["install", "--language", "zh"]);
    assert!(!fine && out.is_empty() && error.contains("there is one of review, troubleshooting"), "{error}");
    let (fine, out, error) = guide(&["instal"]);
    assert!(!fine && out.is_empty() && error.contains("install"), "{error}");
}
