//! Tests of recipes beside their cameras: clips, rules that are never reached, names and places.

use super::*;

/// `PLATE` with a clip of so many pictures, a second apart, that its first prompt asks about.
fn plate_with_clip(frames: usize) -> String {
    let clip = format!("[clip]\nframes = {frames}\ninterval_ms = 1000\n[[prompt]]\nclip = true");
    PLATE.replacen("[[prompt]]", &clip, 1)
}

#[test]
fn a_clip_must_fit_into_a_message_to_the_engine() {
    let plate = pipeline_from_str("p.toml", &plate_with_clip(4)).expect("it loads");
    let clip = plate.clip.expect("a clip");
    assert_eq!((clip.frames, clip.interval, clip.duration().as_secs()), (4, Duration::from_secs(1), 3));
    assert_eq!(plate.prompts.iter().map(|p| p.clip).collect::<Vec<_>>(), [true, false]);
    // A tile is never larger than the roi.
    let large = plate_with_clip(16).replace("tile_px = 512", "tile_px = 8192");
    assert_eq!(pipeline_problems(&large), [""; 0]);
    let problems = pipeline_problems(&large.replace("2448, 2048", "8000, 8000"));
    assert!(problems[0].contains("clip.frames = 16: so many pictures"), "{problems:?}");
    assert!(problems[0].ends_with("at most 1 do"), "{problems:?}");
}

#[test]
fn clips_need_a_camera_that_has_the_time_for_them() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("machined-plate.toml"), plate_with_clip(9)).expect("a file");
    let text = format!("pipelines_dir = {:?}\n{SMALL}", dir.path().to_str().expect("UTF-8"));
    config_of(&text).expect("a simulator takes clips");
    let device = "source = \"genicam\"\nname = \"x\"\nexpose = \"line\"";
    let problem = only_problem(config_of(&text.replace("source = \"simulator\"", device)));
    let words = "camera[0].pipeline = \"machined-plate\": asks about clips, and a hardware trigger";
    assert!(problem.contains(words), "{problem}");
    let on_command = |more: &str| {
        let source = format!("source = \"simulator\"\ntrigger = {{ on = \"command\"{more} }}");
        config_of(&text.replace("source = \"simulator\"", &source))
    };
    let problem = only_problem(on_command(""));
    assert!(problem.contains("its clip takes 8000 ms, and the deadline of a triggered part is 8000 ms"));
    on_command(", deadline_ms = 8001").expect("there is time");
}

#[test]
fn a_rule_that_is_never_reached_is_a_problem() {
    let rule = "[[grade]]\nseverity = \"minor\"\nlabel = \"dent\"\ngrade = \"ok\"\n\n[verdict]";
    let problems = pipeline_problems(&PLATE.replace("[verdict]", rule));
    assert!(problems[0].contains("grade[2]: is never reached: rule 2 matches all of it"), "{problems:?}");
    let rule = "[[grade]]\nlabel = \"scratch\"\nlongest_mm_over = 6.0\ngrade = \"ok\"\n\n[verdict]";
    let problems = pipeline_problems(&PLATE.replace("[verdict]", rule));
    assert!(problems[0].contains("rule 1 matches all of it"), "{problems:?}");
}

#[test]
fn a_rule_that_counts_hides_only_rules_about_the_same_findings_and_as_many_of_them() {
    let pit = |more: &str| format!("[[grade]]\nlabel = \"pit\"\n{more}\ngrade = \"cosmetic\"\n");
    let any = |more: &str| format!("[[grade]]\n{more}\ngrade = \"reject\"\n");
    let is_reached = |first: String, second: String| {
        let text = PLATE.split("[[grade]]").next().unwrap().to_owned() + &first + &second;
        let text = format!("{text}[verdict]{}", PLATE.split("[verdict]").nth(1).unwrap());
        match pipeline_from_str("p.toml", &text) {
            Ok(_) => true,
            Err(error) => {
                assert!(error.to_string().contains("is never reached"), "{error}");
                false
            }
        }
    };
    assert!(is_reached(pit("count_over = 2"), pit("")));
    assert!(is_reached(any("count_over = 2"), pit("")), "of any findings, not of pits");
    assert!(is_reached(any("count_over = 2"), pit("count_over = 2")));
    assert!(is_reached(pit("count_over = 5"), pit("count_over = 2")));
    assert!(!is_reached(pit("count_over = 2"), pit("count_over = 5")));
    assert!(!is_reached(pit(""), pit("count_over = 5")));
    assert!(!is_reached(any(""), pit("count_over = 5")));
}

/// The station may have made it, which only its store knows.
#[test]
fn a_recipe_without_a_file_is_kept_apart_with_its_place() {
    let config = config_of(&SMALL.replace("\"machined-plate\"", "\"other\"")).expect("it is no problem yet");
    let kept: Vec<_> = config.unfiled.values().map(ToString::to_string).collect();
    assert_eq!(kept.len(), 1, "{kept:?}");
    let words = "camera[0].pipeline = \"other\": pipelines/other.toml cannot be read: ";
    assert!(kept[0].starts_with("test.toml:") && kept[0].contains(words), "{kept:?}");
    assert!(!config.recipes.contains_key("other") && config.broken.is_empty());
}

#[test]
fn a_pipeline_must_be_named_as_its_file() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("other.toml"), PLATE).expect("a file");
    let text = SMALL.replace("\"machined-plate\"", "\"other\"");
    let text = format!("pipelines_dir = {:?}\n{text}", dir.path().to_str().expect("UTF-8"));
    let problem = only_problem(config_of(&text));
    assert!(problem.contains("calls itself \"machined-plate\": name it as its file"), "{problem}");
}

#[test]
fn problems_inside_a_pipeline_carry_its_own_file_and_line() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("machined-plate.toml");
    std::fs::write(&file, PLATE.replace("schema = 1", "schema = 9")).expect("a file");
    let text = format!("pipelines_dir = {:?}\n{SMALL}", dir.path().to_str().expect("UTF-8"));
    let problem = only_problem(config_of(&text));
    assert!(problem.starts_with(&format!("{}:", file.display())), "{problem}");
    assert!(problem.contains("schema = 9: must be 1"), "{problem}");
}
