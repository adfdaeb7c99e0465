//! Alarms: what is wrong with the station until somebody or something puts it right. What to do about each stands in
//! the page's words and in the guide, by the words of [`KINDS`].

use std::time::SystemTime;

/// An alarm that stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alarm {
    /// Stable word, which names the topic of the alarm too: [`KINDS`] has what it can be.
    pub code: String,
    /// What is wrong, for people.
    pub message: String,
    /// When it was raised; a newer message does not change it.
    pub since: SystemTime,
}

/// What the code of an alarm ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// Nothing: there is one of the kind.
    Station,
    /// `_` and the id of a camera.
    Camera,
    /// `_` and the name of a recipe.
    Recipe,
    /// `_` and the name of a sink, or the word of a server for PLCs; nothing for the sink `mqtt`.
    Sink,
}

/// A kind of alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// The code, or what it begins with.
    pub word: &'static str,
    /// What it ends with.
    pub about: About,
}

const fn kind(word: &'static str, about: About) -> Kind {
    Kind { word, about }
}

/// Every alarm that a station can raise, in the order in which a person should look at them.
pub const KINDS: &[Kind] = &[
    kind("store_damaged", About::Station),
    kind("store_full", About::Station),
    kind("model_changed", About::Station),
    kind("engine", About::Station),
    kind("trigger_folder", About::Station),
    kind("trigger", About::Camera),
    kind("image", About::Camera),
    kind("recipe", About::Recipe),
    kind("promise", About::Recipe),
    kind("drift", About::Camera),
    kind("commands_refused", About::Sink),
    kind("client_id_taken", About::Sink),
    kind("twin_station", About::Sink),
    kind("result_refused", About::Sink),
    kind("result_held", About::Sink),
    kind("result_undeliverable", About::Sink),
    kind("sink_missed", About::Sink),
    kind("plc_missed", About::Sink),
    kind("records_damaged", About::Station),
    kind("clock_step", About::Station),
    kind("retention_held", About::Station),
];

/// The kind of a code, and the camera, recipe or sink that it is about: `image_cam1` is `image` of `cam1`. Empty: that
/// of the station or of the sink `mqtt`. `None`: no station of this version raises it.
pub fn kind_of(code: &str) -> Option<(Kind, &str)> {
    let whole = |kind: &&Kind| kind.word == code && matches!(kind.about, About::Station | About::Sink);
    if let Some(kind) = KINDS.iter().find(whole) {
        return Some((*kind, ""));
    }
    let named = KINDS.iter().filter(|kind| kind.about != About::Station);
    let mut with_name = named.filter_map(|kind| {
        let name = code.strip_prefix(kind.word)?.strip_prefix('_')?;
        (!name.is_empty()).then_some((*kind, name))
    });
    with_name.next()
}

/// The code that an alarm of a camera with this id would share with an alarm about something else; `None`: it shares
/// none. No camera may have such an id: one alarm would clear the other, and say what to do about it.
pub fn code_shared_by_camera(id: &str) -> Option<String> {
    let of_cameras = KINDS.iter().filter(|kind| kind.about == About::Camera);
    let mut codes = of_cameras.map(|kind| (*kind, format!("{}_{id}", kind.word)));
    codes.find(|(kind, code)| kind_of(code) != Some((*kind, id))).map(|(_, code)| code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    #[test]
    fn a_code_is_a_kind_and_whom_it_is_about() {
        let read = |code| kind_of(code).map(|(kind, name)| (kind.word, kind.about, name));
        assert_eq!(read("store_full"), Some(("store_full", About::Station, "")));
        assert_eq!(read("image_cam_1"), Some(("image", About::Camera, "cam_1")));
        assert_eq!(read("trigger_folder"), Some(("trigger_folder", About::Station, "")));
        assert_eq!(read("trigger_cam1"), Some(("trigger", About::Camera, "cam1")));
        assert_eq!(read("recipe_photo"), Some(("recipe", About::Recipe, "photo")));
        assert_eq!(read("result_held"), Some(("result_held", About::Sink, "")));
        assert_eq!(read("result_held_plant"), Some(("result_held", About::Sink, "plant")));
        for none in ["image", "image_", "store_full_cam1", "", "imagecam1"] {
            assert_eq!(read(none), None, "{none}");
        }
    }

    #[test]
    fn a_camera_that_is_called_folder_would_raise_the_alarm_of_the_folder_of_triggers() {
        assert_eq!(code_shared_by_camera("folder").as_deref(), Some("trigger_folder"));
        for free in ["cam1", "folder1", "Folder", "camera_folder", "folder_cam1"] {
            assert_eq!(code_shared_by_camera(free), None, "{free}");
        }
    }

    /// Whatever a recipe or a sink is called: the code of its alarm is read as one about it. Cameras are looked at by
    /// `code_shared_by_camera`.
    #[test]
    fn no_name_makes_the_code_of_another_kind() {
        for kind in KINDS.iter().filter(|kind| matches!(kind.about, About::Recipe | About::Sink)) {
            for other in KINDS.iter().filter(|other| *other != kind) {
                let begins = other.word.starts_with(&format!("{}_", kind.word));
                assert!(!begins, "{} of a name would be {}", kind.word, other.word);
            }
        }
    }

    /// An alarm without a kind would be shown to people without a word on what to do.
    #[test]
    fn every_alarm_of_the_code_has_its_kind_and_every_kind_its_alarm() {
        let mut raised = BTreeSet::new();
        let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("a source folder can be read") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    folders.push(path);
                } else if is_of_the_product(&path) {
                    raised.extend(codes(&std::fs::read_to_string(&path).expect("a source file can be read")));
                }
            }
        }
        let known: BTreeSet<String> = KINDS.iter().map(|kind| kind.word.to_owned()).collect();
        assert_eq!(raised, known);
    }

    fn is_of_the_product(path: &Path) -> bool {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_test = name == "tests.rs" || name.ends_with("_tests.rs");
        path.extension().is_some_and(|e| e == "rs") && !is_test && !path.ends_with("domain/alarm.rs")
    }

    /// The codes that a file raises: its constants `ALARM…`, and what is put together for a camera or a recipe. A code
    /// that is written out where it is raised is found as well.
    fn codes(text: &str) -> Vec<String> {
        // What stands after it is only for tests.
        let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        let quoted = |rest: &str| rest.split('"').nth(1).unwrap_or_default().to_owned();
        let after = |what: &str| text.split(what).skip(1).map(str::to_owned).collect::<Vec<_>>();
        let constants = after("const ALARM").into_iter().filter(|rest| {
            let until = rest.split(';').next().unwrap_or_default();
            until.contains(": &str = \"")
        });
        let mut found: Vec<String> = constants.map(|rest| quoted(&rest)).collect();
        let raises = text.contains("StationEvent::Alarm");
        for rest in ["code = format!(", "code: format!("].into_iter().filter(|_| raises).flat_map(after) {
            found.push(quoted(&rest).split("_{").next().unwrap_or_default().to_owned());
        }
        found.extend(after("Alarm { code: \"").iter().map(|rest| quoted(&format!("\"{rest}"))));
        found
    }

    #[test]
    fn the_codes_in_a_file_are_found() {
        let text = "const ALARM_A: &str = \"a_b\";\nconst ALARMS_MAX: usize = 3;\npub const ALARM: &str = \"c\";\n\
                    let code = format!(\"image_{id}\");\nStationEvent::Alarm { code: format!(\"recipe_{name}\"), raised }\n\
                    StationEvent::Alarm { code: \"plain\".to_owned(), raised }\n#[cfg(test)]\nmod tests { const ALARM: &str = \"t\"; }";
        assert_eq!(codes(text), ["a_b", "c", "image", "recipe", "plain"]);
    }
}
