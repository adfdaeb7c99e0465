//! What the package brings beside the program, and where the program finds its files.

use super::{json_lines, run};
use inspectd::publish::mqtt::dialect::json::schemas::SCHEMAS;
use serde_json::Value;
use std::process::{Command, Stdio};

/// The subcommands that the help shows.
fn shown_commands() -> Vec<String> {
    let help = String::from_utf8(run(&["--help"]).stdout).unwrap();
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let listed = listed.take_while(|line| !line.is_empty());
    // What goes on in a second line is further in.
    let first = listed.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    first
        .map(|line| line.split_whitespace().next().unwrap().to_owned())
        .filter(|word| word != "help")
        .collect()
}

#[test]
fn every_command_has_a_man_page() {
    let dir = tempfile::tempdir().unwrap();
    let pages = dir.path().join("man");
    let out = run(&["man", pages.to_str().unwrap()]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let commands = shown_commands();
    assert!(commands.len() > 15 && commands.contains(&"run".to_owned()), "{commands:?}");
    for command in commands {
        let page = std::fs::read_to_string(pages.join(format!("inspectd-{command}.1")));
        assert!(page.unwrap_or_else(|e| panic!("{command}: {e}")).contains(".SH NAME"), "{command}");
    }
    let page = std::fs::read_to_string(pages.join("inspectd.1")).unwrap();
    assert!(page.contains("/usr/share/inspectd"), "where files are looked for: {page}");
    assert!(!pages.join("inspectd-infer.1").exists(), "what only the daemon calls has none");
}

#[test]
fn every_shell_has_its_completions() {
    for shell in ["bash", "zsh", "fish"] {
        let out = run(&["completions", shell]);
        let script = String::from_utf8(out.stdout).unwrap();
        assert!(out.status.success() && out.stderr.is_empty(), "{shell}");
        for command in shown_commands() {
            assert!(script.contains(&command), "{shell} completes {command}");
        }
    }
}

#[test]
fn the_schemas_are_printed_and_the_shipped_files_are_valid_by_them() {
    for (document, file) in [("config", "config/demo.toml"), ("pipeline", "pipelines/machined-plate.toml")] {
        let out = run(&["schema", document]);
        assert!(out.status.success() && out.stderr.is_empty(), "{document}");
        let schema: Value = serde_json::from_slice(&out.stdout).unwrap();
        let text = std::fs::read_to_string(file).unwrap();
        let value: Value = toml::from_str(&text).unwrap();
        jsonschema::validator_for(&schema)
            .unwrap()
            .validate(&value)
            .unwrap_or_else(|e| panic!("{file}: {e}"));
    }
}

/// Each schema of a message is printed as it is, and the package has it.
#[test]
fn the_schemas_of_messages_are_printed_and_packed() {
    let packed = std::fs::read_to_string(".ci/package").unwrap();
    let list = packed.split_once("for document in ").unwrap().1.split_once("; do").unwrap().0;
    let list: Vec<_> = list.split_whitespace().filter(|word| *word != "\\").collect();
    assert_eq!(list[..2], ["config", "pipeline"]);
    let names: Vec<_> = SCHEMAS.iter().map(|schema| schema.name).collect();
    assert_eq!(list[2..], names);
    for schema in &SCHEMAS {
        let out = run(&["schema", schema.name]);
        assert!(out.status.success() && out.stderr.is_empty(), "{}", schema.name);
        assert_eq!(String::from_utf8(out.stdout).unwrap(), schema.text, "{}", schema.name);
    }
    assert!(!run(&["schema", "nothing"]).status.success());
}

/// What an operator edits is kept by an upgrade only if the package calls it a conffile.
#[test]
fn what_a_plant_edits_is_kept_by_an_upgrade() {
    let manifest: Value = toml::from_str(&std::fs::read_to_string("Cargo.toml").unwrap()).unwrap();
    let package = &manifest["package"]["metadata"]["deb"];
    let mut kept: Vec<_> =
        package["conf-files"].as_array().unwrap().iter().map(|f| f.as_str().unwrap()).collect();
    kept.sort_unstable();
    let recipes = std::fs::read_dir("pipelines").unwrap();
    let recipes = recipes.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut edited: Vec<_> = recipes.map(|name| format!("/etc/inspectd/pipelines/{name}")).collect();
    edited.push("/etc/inspectd/inspectd.toml".to_owned());
    edited.sort_unstable();
    assert_eq!(kept, edited);
    let unit = include_str!("../../systemd/inspectd.service");
    let installed: Vec<_> = package["assets"].as_array().unwrap().iter().map(|asset| &asset[1]).collect();
    assert!(
        unit.contains("\nExecStart=/usr/bin/inspectd run ") && installed.contains(&&Value::from("usr/bin/"))
    );
}

#[test]
fn the_help_says_where_files_are_looked_for() {
    let help = String::from_utf8(run(&["--help"]).stdout).unwrap();
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        help.contains("beside the config file, in the working directory and in /usr/share/inspectd"),
        "{help}"
    );
}

/// A folder where nothing of ours lies.
#[test]
fn a_pipeline_that_is_nowhere_is_answered_with_the_places() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_inspectd"));
    command.args(["inspect", "--pipeline", "no-such-recipe", "x.png"]).current_dir(dir.path());
    let out = command.stdin(Stdio::null()).output().unwrap();
    let error = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(78), "{error}");
    let here = dir.path().canonicalize().unwrap();
    let places = format!("looked in {}, /etc/inspectd, /usr/share/inspectd", here.display());
    assert!(error.contains("pipelines/no-such-recipe.toml") && error.contains(&places), "{error}");
}

/// The model is found by a config in the checkout's own folder of configs, from the top of the checkout.
#[test]
fn a_config_that_names_no_model_takes_the_shipped_one() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("c.toml");
    let text = "[station]\nsite = \"p\"\narea = \"a\"\nline = \"l\"\nstation = \"s\"\n\
                [[camera]]\nid = \"cam1\"\nsource = \"simulator\"\npipeline = \"photo\"\n\
                [store]\ndir = \"var\"\n[mqtt]\nurl = \"mqtt://broker\"\n";
    std::fs::write(&config, text).unwrap();
    let config = config.to_str().unwrap();
    let out = run(&["check", "--config", config]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
    let tile = super::TILE;
    let found = json_lines(&run(&["inspect", "--json", "--config", config, "--pipeline", "photo", tile]));
    assert_eq!(found[0]["file"], tile);
}

/// One folder that is missing is one problem, however many cameras ask for recipes in it.
#[test]
fn a_folder_of_pipelines_that_is_nowhere_is_one_problem_with_the_places() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("c.toml");
    let camera =
        |id: &str| format!("[[camera]]\nid = \"{id}\"\nsource = \"simulator\"\npipeline = \"photo\"\n");
    let text = "pipelines_dir = \"no-such-folder\"\n[station]\nsite = \"p\"\narea = \"a\"\nline = \"l\"\nstation = \"s\"\n\
                [store]\ndir = \"var\"\n[mqtt]\nurl = \"mqtt://broker\"\n";
    std::fs::write(&config, format!("{text}{}{}", camera("cam1"), camera("cam2"))).unwrap();
    let out = run(&["check", "--config", config.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert_eq!((out.status.code(), said.lines().count()), (Some(78), 1), "{said}");
    let words = format!("there is no folder no-such-folder: looked in {}, ", dir.path().display());
    assert!(said.contains(":1:1: pipelines_dir = \"no-such-folder\": ") && said.contains(&words), "{said}");
}
