//! `inspectd check` as a controls engineer meets it: exit codes, places and values.

use std::path::Path;
use std::process::{Command, Output};

fn check(arguments: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_inspectd"))
        .arg("check")
        .args(arguments)
        .env_remove("INSPECTD_CONFIG")
        .envs(variables.iter().copied())
        .output()
        .expect("the binary runs");
    assert!(stderr.is_empty(), "{}", String::from_utf8_lossy(&stderr));
    (status.code(), String::from_utf8_lossy(&stdout).into_owned())
}

/// A config whose files are all there, in a folder of its own.
fn config_in(folder: &Path) -> String {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/model");
    for (name, link) in [("inspectd-small.gguf", "text.gguf"), ("mmproj-inspectd-small.gguf", "vision.gguf")]
    {
        std::os::unix::fs::symlink(shipped.join(name), folder.join(link)).expect("a link");
    }
    let path = folder.join("c.toml");
    let text = "[station]\nsite = \"p\"\narea = \"a\"\nline = \"l\"\nstation = \"s\"\n\
                [model]\ntext = \"text.gguf\"\nmmproj = \"vision.gguf\"\n\
                [[camera]]\nid = \"cam1\"\nsource = \"simulator\"\npipeline = \"photo\"\n\
                [store]\ndir = \"var\"\n[mqtt]\nurl = \"mqtt://broker\"\n";
    std::fs::write(&path, text).expect("a file");
    path.to_str().expect("UTF-8").to_owned()
}

#[test]
fn a_fine_config_is_said_to_be_fine() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config_in(folder.path());
    let (code, out) = check(&["--config", &config], &[]);
    assert_eq!(code, Some(0), "{out}");
    assert!(out.contains("c.toml: 1 camera (cam1), broker mqtt://broker:1883"), "{out}");
    assert!(out.contains("pipelines/photo.toml: photo version "), "{out}");
    let (code, by_variable) = check(&[], &[("INSPECTD_CONFIG", config.as_str())]);
    assert_eq!((code, by_variable), (Some(0), out));
}

#[test]
fn a_bad_variable_ends_in_78() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config_in(folder.path());
    let (code, out) = check(&["--config", &config], &[("INSPECTD_MQTT__PORT", "1884")]);
    assert_eq!(code, Some(78), "{out}");
    assert!(out.starts_with("problem  INSPECTD_MQTT__PORT=1884: mqtt.port: unknown key"), "{out}");
}

#[test]
fn missing_model_files_are_problems() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config_in(folder.path());
    std::fs::remove_file(folder.path().join("vision.gguf")).expect("it was there");
    let (code, out) = check(&["--config", &config], &[]);
    assert_eq!(code, Some(78), "{out}");
    assert!(out.contains(":8:1: model.mmproj = \"vision.gguf\": there is no file vision.gguf"), "{out}");
}

#[test]
fn keys_that_let_any_picture_through_are_warnings() {
    let folder = tempfile::tempdir().expect("a folder");
    let photo = std::fs::read_to_string("pipelines/photo.toml").expect("it ships");
    let path = folder.path().join("photo.toml");
    for (keys, words) in [
        ("health = \"off\"", "frame.health = \"off\": black"),
        ("repeats = \"allow\"", "frame.repeats = \"allow\": "),
        ("roi = [0, 0, 640, 480]", "frame.roi = [0, 0, 640, 480]: without size"),
        ("size = \"any\"\nroi = [0, 0, 640, 480]", "frame.roi = [0, 0, 640, 480]: with size = \"any\""),
    ] {
        std::fs::write(&path, photo.replacen("size = \"any\"", keys, 1)).expect("a file");
        let (code, out) = check(&[path.to_str().expect("UTF-8")], &[]);
        assert_eq!(code, Some(0), "{out}");
        let warned = out
            .lines()
            .any(|line| line.starts_with(&format!("warning  {}:", path.display())) && line.contains(words));
        assert!(warned, "{keys}: {out}");
    }
    let (_, out) = check(&["pipelines/photo.toml", "pipelines/machined-plate.toml"], &[]);
    assert!(!out.contains("warning"), "{out}");
}

#[test]
fn every_pipeline_file_is_checked_on_its_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let bad = folder.path().join("bad.toml");
    std::fs::write(&bad, "schema = 1\nnam = \"bad\"\n").expect("a file");
    let bad = bad.to_str().expect("UTF-8");
    let (code, out) = check(&[bad, "pipelines/photo.toml", "pipelines/none.toml"], &[]);
    assert_eq!(code, Some(78), "{out}");
    assert!(out.contains(&format!("problem  {bad}:2:1: nam = \"bad\": unknown key; known here: schema,")));
    assert!(out.contains("ok       pipelines/photo.toml: photo version "), "{out}");
    assert!(out.contains("problem  pipelines/none.toml: cannot be read: No such file"), "{out}");
}

#[test]
fn a_recipe_that_lets_defects_pass_is_warned_of_and_strictly_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let recipe = std::fs::read_to_string("pipelines/photo.toml").expect("it ships");
    let blind = recipe.replacen("tile_px = 512 ", "tile_px = 8192", 1);
    assert_ne!(blind, recipe);
    let line = 1 + blind.lines().position(|line| line.starts_with("tile_px")).expect("the key");
    let path = folder.path().join("blind.toml");
    std::fs::write(&path, blind).expect("a file");
    let path = path.to_str().expect("UTF-8");
    let (code, out) = check(&[path], &[]);
    assert_eq!(code, Some(0), "{out}");
    let place = format!("warning  {path}:{line}:1: tiling.tile_px = 8192: ");
    assert!(out.contains(&place) && out.contains("a defect below 1024 px (102.4 mm)"), "{out}");
    assert_eq!(check(&["--strict", path], &[]), (Some(78), out));
    let (code, out) = check(&["--strict", "pipelines/photo.toml", "pipelines/machined-plate.toml"], &[]);
    assert_eq!(code, Some(0), "{out}");
}

/// With the model that only an installed box has somewhere else, and a port that is free. The folder that the plant's
/// config names is not there before the first start, which makes it.
#[test]
fn every_config_that_ships_is_strictly_fine() {
    let installed = [
        ("INSPECTD_MODEL__TEXT", "fixtures/model/inspectd-small.gguf"),
        ("INSPECTD_MODEL__MMPROJ", "fixtures/model/mmproj-inspectd-small.gguf"),
        ("INSPECTD_WEB__LISTEN", "127.0.0.1:0"),
    ];
    let mut checked = vec![];
    for entry in std::fs::read_dir("config").expect("the configs are there") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let name = path.file_name().and_then(|name| name.to_str()).expect("UTF-8").to_owned();
        let variables: &[_] = if name == "inspectd.toml" { &installed } else { &installed[2..] };
        let (code, out) = check(&["--strict", "--config", path.to_str().expect("UTF-8")], variables);
        checked.push(name);
        if out.contains("it was built without the feature ") {
            assert_eq!(code, Some(78), "{out}");
            continue;
        }
        assert_eq!(code, Some(0), "{out}");
        let recipes = out.lines().filter(|line| line.starts_with("ok       pipelines/")).count();
        let ship = std::fs::read_dir("pipelines").expect("the pipelines are there").count();
        assert_eq!(recipes, ship, "all that a command may name are checked, too: {out}");
    }
    checked.sort_unstable();
    assert_eq!(checked, ["cameras-demo.toml", "demo.toml", "inspectd.toml"]);
}

/// A command could not name it, and nothing else needs it.
#[test]
fn a_broken_pipeline_that_no_camera_names_is_a_note() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config_in(folder.path());
    let recipes = folder.path().join("recipes");
    std::fs::create_dir(&recipes).expect("a folder");
    let photo = std::fs::read_to_string("pipelines/photo.toml").expect("it ships");
    std::fs::write(recipes.join("photo.toml"), &photo).expect("a file");
    std::fs::write(recipes.join("other.toml"), photo.replace("\"photo\"", "\"other\"")).expect("a file");
    std::fs::write(recipes.join("broken.toml"), "name = 1\n").expect("a file");
    let variable = ("INSPECTD_PIPELINES_DIR", recipes.to_str().expect("UTF-8"));
    let (code, out) = check(&["--config", &config], &[variable]);
    assert_eq!(code, Some(0), "{out}");
    assert!(out.contains("other.toml: other version "), "all of the folder are checked: {out}");
    let noted =
        |line: &str| line.starts_with("note ") && line.contains("broken.toml") && line.contains("no camera");
    assert!(out.lines().any(noted), "{out}");
}

#[test]
fn a_link_among_the_folders_of_triggers_is_a_problem() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config_in(folder.path());
    let (inbox, elsewhere) = (folder.path().join("inbox"), folder.path().join("elsewhere"));
    std::fs::create_dir(&inbox).and_then(|()| std::fs::create_dir(&elsewhere)).expect("folders");
    std::os::unix::fs::symlink(&elsewhere, inbox.join("done")).expect("a link");
    let text = std::fs::read_to_string(&config).expect("the config");
    let text = text.replace("pipeline = \"photo\"", "pipeline = \"photo\"\ntrigger = { on = \"command\" }");
    std::fs::write(&config, format!("{text}[trigger]\ndir = {inbox:?}\n")).expect("a file");
    let (code, out) = check(&["--config", &config], &[]);
    assert_eq!(code, Some(78), "{out}");
    assert!(out.contains("done in it is a link"), "{out}");
}

/// With every feature built, none may be missed.
#[test]
fn a_config_that_needs_a_feature_is_told_which_one() {
    let built = |feature: &str| match feature {
        "v4l2" => cfg!(feature = "v4l2"),
        "genicam" => cfg!(feature = "genicam"),
        "ffmpeg" => cfg!(feature = "ffmpeg"),
        "opencv" => cfg!(feature = "opencv"),
        other => panic!("{other}"),
    };
    let stream = "source = \"opencv\"\nurl = ";
    let needs = [
        ("source = \"v4l2\"\ndevice = \"/dev/video0\"\n".to_owned(), "v4l2", "cameras of the kind v4l2"),
        ("source = \"genicam\"\nname = \"cam\"\n".to_owned(), "genicam", "cameras of the kind genicam"),
        (format!("{stream}\"rtsp://10.0.0.7/live\"\n"), "ffmpeg", "ffmpeg"),
        (format!("{stream}\"videotestsrc ! appsink\"\n"), "opencv", "gstreamer"),
        (
            format!("{stream}\"rtsp://10.0.0.7/live\"\nhealth = {{ sharpness_min = 20.0 }}\n"),
            "opencv",
            "OpenCV, which this key needs",
        ),
    ];
    for (source, feature, what) in needs {
        let folder = tempfile::tempdir().expect("a folder");
        let config = config_in(folder.path());
        let text = std::fs::read_to_string(&config).expect("it was written");
        std::fs::write(&config, text.replace("source = \"simulator\"\n", &source)).expect("a file");
        let (code, out) = check(&["--config", &config], &[]);
        let missing = format!("this build has no {what}: it was built without the feature {feature}");
        assert_eq!(out.contains(&missing), !built(feature), "{source}{out}");
        assert!(built(feature) || code == Some(78), "{source}{out}");
    }
}

/// What a newcomer breaks: each is answered by one line, with the place of what is wrong.
#[test]
fn each_breakage_is_one_line_with_its_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config_in(folder.path());
    let whole = std::fs::read_to_string(&config).expect("it was written");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().expect("an address");
    let file = folder.path().join("c.toml").display().to_string();
    let web = |keys: &str| format!("[web]\n{keys}\n[mqtt]");
    let sized = "source = \"simulator\"\nwidth_px = 640\nheight_px = 480\npipeline = \"machined-plate\"";
    let breakages = [
        ("[mqtt]", "[mqtt".to_owned(), ":15:6: this is not TOML: unclosed table"),
        (
            "\"photo\"",
            "\"photo\"\ntrigger = { on = \"command\"".to_owned(),
            "; the { of line 13 is not closed",
        ),
        (
            "site = \"p\"",
            "sight = \"p\"\nsite = \"p\"".to_owned(),
            ":2:1: station.sight = \"p\": unknown key",
        ),
        ("mqtt://", "tcp://".to_owned(), ":16:1: mqtt.url = \"tcp://broker\": must start with mqtt://"),
        (
            "\"text.gguf\"\nmmproj = \"vision.gguf\"",
            "\"vision.gguf\"\nmmproj = \"text.gguf\"".to_owned(),
            ":7:1: model.text = \"vision.gguf\": this is the vision file of the pair: text and mmproj are swapped",
        ),
        ("mmproj = \"vision.gguf\"", "mmproj = \"c.toml\"".to_owned(), ":8:1: model.mmproj = \"c.toml\": "),
        ("\"var\"", format!("\"{file}/store\""), ":14:1: store.dir = "),
        ("[mqtt]", web(&format!("listen = \"{taken}\"")), "is taken by another program"),
        ("[mqtt]", format!("[modbus]\nlisten = \"{taken}\"\n[mqtt]"), "is taken by another program"),
        (
            "[mqtt]",
            web("listen = \"127.0.0.1:0\"\ncertificate = \"c.toml\"\nkey = \"c.toml\""),
            ":17:1: web.certificate = \"c.toml\": ",
        ),
        (
            "source = \"simulator\"\npipeline = \"photo\"",
            sized.to_owned(),
            ":14:1: camera[0].pipeline = \"machined-plate\": its frame.size is 2448x2048, and the camera's pictures are 640x480",
        ),
        (
            "\"simulator\"",
            "\"folder\"\npath = \"/nowhere/inbox\"".to_owned(),
            "there is no folder /nowhere/inbox",
        ),
        (
            "\"photo\"",
            "\"foto\"".to_owned(),
            ":12:1: camera[0].pipeline = \"foto\": pipelines/foto.toml cannot be read: ",
        ),
    ];
    for (from, to, words) in breakages {
        assert!(whole.contains(from), "{from}");
        std::fs::write(&config, whole.replacen(from, &to, 1)).expect("a file");
        let (code, out) = check(&["--config", &config], &[]);
        let problems: Vec<_> = out.lines().filter(|line| line.starts_with("problem")).collect();
        assert_eq!((code, problems.len()), (Some(78), 1), "{to}: {out}");
        assert!(
            problems[0].starts_with(&format!("problem  {file}:")) && problems[0].contains(words),
            "{words}: {out}"
        );
        assert!(out.matches("(os error").count() <= 1, "{out}");
    }
}

#[test]
fn one_bracket_that_is_missing_in_a_recipe_is_one_problem() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("photo.toml");
    let photo = std::fs::read_to_string("pipelines/photo.toml").expect("it ships");
    let broken = photo.replacen("\"missing_screw\"]", "\"missing_screw\"", 1);
    assert_ne!(broken, photo);
    std::fs::write(&path, broken).expect("a file");
    let (code, out) = check(&[path.to_str().expect("UTF-8")], &[]);
    assert_eq!((code, out.lines().count()), (Some(78), 1), "{out}");
    assert!(out.contains("; the [ of line 21 is not closed"), "{out}");
}

#[test]
fn a_label_that_the_model_was_not_trained_with_is_a_problem_of_its_camera() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config_in(folder.path());
    let recipes = folder.path().join("recipes");
    std::fs::create_dir(&recipes).expect("a folder");
    let photo = std::fs::read_to_string("pipelines/photo.toml").expect("it ships");
    std::fs::write(recipes.join("photo.toml"), photo.replacen("[\"scratch\"", "[\"burr\", \"scratch\"", 1))
        .expect("a file");
    let variable = ("INSPECTD_PIPELINES_DIR", recipes.to_str().expect("UTF-8"));
    let (code, out) = check(&["--config", &config], &[variable]);
    assert_eq!(code, Some(78), "{out}");
    assert!(
        out.contains(
            ":12:1: camera[0].pipeline = \"photo\": the model was not trained with the label \"burr\""
        ),
        "{out}"
    );
}

/// With FFmpeg built, which reads streams; without it the kind of camera is the problem.
#[test]
fn a_scheme_that_nobody_reads_is_a_problem() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config_in(folder.path());
    let text = std::fs::read_to_string(&config).expect("it was written");
    let stream = "source = \"opencv\"\nurl = \"rstp://me:hunter2@10.0.0.7/live\"\n";
    std::fs::write(&config, text.replace("source = \"simulator\"\n", stream)).expect("a file");
    let (code, out) = check(&["--config", &config], &[]);
    assert_eq!(code, Some(78), "{out}");
    assert!(
        out.contains("there is no scheme rstp://; there are rtsp, ") && !out.contains("hunter2"),
        "{out}"
    );
}

/// A camera whose recipe names an adapter of the tiny pair, in a folder of its own; the model is this pair.
fn adapted(folder: &Path, [text, mmproj]: [&str; 2]) -> String {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let recipes = folder.join("recipes");
    std::fs::create_dir(&recipes).expect("a folder");
    let photo = std::fs::read_to_string("pipelines/photo.toml").expect("it ships");
    std::fs::write(recipes.join("photo.toml"), format!("adapter = \"peft.adapter.gguf\"\n{photo}"))
        .expect("a file");
    std::fs::copy(fixtures.join("reference/tiny/peft.adapter.gguf"), recipes.join("peft.adapter.gguf"))
        .expect("a copy");
    let path = folder.join("c.toml");
    let text = format!(
        "pipelines_dir = \"recipes\"\n[station]\nsite = \"p\"\narea = \"a\"\nline = \"l\"\nstation = \"s\"\n\
         [model]\ntext = \"{}\"\nmmproj = \"{}\"\n\
         [[camera]]\nid = \"cam1\"\nsource = \"simulator\"\npipeline = \"photo\"\n\
         [store]\ndir = \"var\"\n[mqtt]\nurl = \"mqtt://broker\"\n",
        fixtures.join(text).display(),
        fixtures.join(mmproj).display()
    );
    std::fs::write(&path, text).expect("a file");
    path.to_str().expect("UTF-8").to_owned()
}

#[test]
fn the_adapter_of_a_recipe_is_there_and_fits_the_pair() {
    let tiny = ["reference/tiny/tiny-q8_0.gguf", "reference/tiny/mmproj-tiny-q8_0.gguf"];
    let folder = tempfile::tempdir().expect("a folder");
    let config = adapted(folder.path(), tiny);
    let (code, out) = check(&["--config", &config], &[]);
    assert_eq!(code, Some(0), "{out}");
    assert!(out.contains(", adapter peft.adapter.gguf sha256 "), "{out}");
    // Another adapter is another version of the recipe.
    let version = |out: &str| out.split("photo version ").nth(1).expect("a version")[..12].to_owned();
    let file = folder.path().join("recipes/peft.adapter.gguf");
    let mut bytes = std::fs::read(&file).expect("it is there");
    *bytes.last_mut().expect("a byte") ^= 1;
    std::fs::write(&file, bytes).expect("a file");
    let (code, other) = check(&["--config", &config], &[]);
    assert_eq!(code, Some(0), "{other}");
    assert_ne!(version(&out), version(&other));
    // One that is no adapter, and none at all.
    let recipe = folder.path().join("recipes/photo.toml").display().to_string();
    std::fs::write(&file, "no adapter").expect("a file");
    let (code, out) = check(&[&recipe], &[]);
    assert_eq!(code, Some(78), "{out}");
    assert!(
        out.contains("photo.toml:1:1: adapter = \"peft.adapter.gguf\": peft.adapter.gguf: magic"),
        "{out}"
    );
    std::fs::remove_file(&file).expect("it was there");
    let (code, out) = check(&[&recipe], &[]);
    assert_eq!(code, Some(78), "{out}");
    assert!(out.contains("there is no file peft.adapter.gguf beside the recipe"), "{out}");
}

#[test]
fn the_adapter_of_another_pair_is_a_problem() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = adapted(folder.path(), ["model/inspectd-small.gguf", "model/mmproj-inspectd-small.gguf"]);
    let (code, out) = check(&["--config", &config], &[]);
    assert_eq!(code, Some(78), "{out}");
    assert!(
        out.contains("camera[0].pipeline") && out.contains("photo: adapter: peft.adapter.gguf: tensor blk."),
        "{out}"
    );
}

/// A config whose model is on servers, with these keys.
fn with_servers(folder: &Path, keys: &str) -> String {
    let config = config_in(folder);
    let text = std::fs::read_to_string(&config).expect("a config");
    let files = "text = \"text.gguf\"\nmmproj = \"vision.gguf\"\n";
    assert!(text.contains(files));
    std::fs::write(&config, text.replace(files, keys)).expect("a file");
    config
}

#[test]
fn servers_in_the_place_of_files_are_checked_without_being_asked() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().expect("a folder");
    let key = folder.path().join("key");
    std::fs::write(&key, "hunter2\n").expect("a file");
    let mode =
        |mode| std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).expect("its mode");
    let keys =
        format!("remote = [\"http://127.0.0.1:9/v1\"]\nremote_key_file = {:?}\n", key.display().to_string());
    let config = with_servers(folder.path(), &keys);
    mode(0o600);
    let (code, out) = check(&["--config", &config], &[]);
    assert_eq!(code, Some(0), "{out}");
    assert!(out.contains("the model of http://127.0.0.1:9/v1") && !out.contains("hunter2"), "{out}");
    mode(0o604);
    let (code, out) = check(&["--config", &config], &[]);
    assert_eq!(code, Some(78), "{out}");
    assert!(out.contains(":8:1: model.remote_key_file = ") && out.contains("chmod 640"), "{out}");
    std::fs::remove_file(&key).expect("it was there");
    let (code, out) = check(&["--config", &config], &[]);
    assert_eq!(code, Some(78), "{out}");
    assert!(out.contains("there is no file"), "{out}");
    let folder = tempfile::tempdir().expect("a folder");
    let config = with_servers(folder.path(), "remote = [\"http://gpu1/v1\"]\n");
    let (code, out) = check(&["--config", &config], &[]);
    assert_eq!(code, Some(0), "{out}");
    assert!(out.contains("warning") && out.contains("pictures go to gpu1:80 in clear text"), "{out}");
}
