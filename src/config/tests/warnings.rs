//! Recipes that are valid and let defective parts pass: each kind is warned of, and what ships is not.

use super::*;
use crate::recipe::load_pipeline_with_warnings;

const RECIPE: &str = include_str!("../../../pipelines/machined-plate.toml");
const QUESTION: &str = r#"text = 'Find surface defects: {labels}. Reply with a JSON list of {"bbox_2d", "label", "severity"}, or [] if there are none.'"#;

fn warnings_of(text: &str) -> Vec<Problem> {
    let files = crate::recipe::beside::Files::new();
    let read = crate::recipe::file::from_str("p.toml", text, crate::recipe::file::Beside::ToLearn(&files));
    read.unwrap_or_else(|problems| panic!("{problems:#?}")).1
}

/// The text with every edit made, each of which finds its place.
fn edited(text: &str, edits: &[(&str, &str)]) -> String {
    edits.iter().fold(text.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "{from} is not in the text");
        text.replace(from, to)
    })
}

#[test]
fn every_kind_of_recipe_that_can_not_fail_is_warned_of() {
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a str, &'a str);
    let cases: [Case<'_>; 19] = [
        (
            &[("[verdict]", "[verdict]\nreview_above_score = 1.0")],
            "verdict.review_above_score",
            "it decides nothing",
        ),
        (
            &[("[verdict]", "[verdict]\nfail_above_score = 1")],
            "verdict.fail_above_score",
            "no score is higher",
        ),
        (
            &[("roi = [0, 0, 2448, 2048]", "roi = [0, 0, 700, 700]")],
            "frame.roi",
            "only 9.8 % of the 2448x2048",
        ),
        (&[("roi = [0, 0, 2448, 2048]", "roi = [9, 9, 41, 41]")], "frame.roi", "only 32x32 pixels"),
        (
            &[("mask = []", "mask = [[0, 0, 2448, 1000], [0, 900, 2448, 2000]]")],
            "frame.mask",
            "leaves only 2.3 % of 2448x2048",
        ),
        (&[("tile_px = 512 ", "tile_px = 8192 ")], "tiling.tile_px", "a defect below 280 px (13.99 mm)"),
        (
            &[("min_pixels = 4096 ", "min_pixels = 1024 "), ("max_pixels = 65536 ", "max_pixels = 1024 ")],
            "tiling.tile_px",
            "512x512 pixels are shown to the model as 32x32",
        ),
        (
            &[(QUESTION, &format!("{QUESTION}\nroi = [0, 0, 2448, 2048]"))],
            "prompt[0].roi",
            "a defect below 280 px",
        ),
        (&[(QUESTION, &format!("{QUESTION}\nroi = [0, 0, 20, 20]"))], "prompt[0].roi", "only 20x20 pixels"),
        (
            &[
                ("review_below_confidence = 0.6", "review_below_confidence = 0.0"),
                ("ignore_below_confidence = 0.5", "ignore_below_confidence = 1.0"),
            ],
            "verdict.ignore_below_confidence",
            "up to 100 % sure",
        ),
        (
            &[("review_below_confidence = 0.6", "review_below_confidence = 1.0")],
            "verdict.review_below_confidence",
            "no part ever fails",
        ),
        (&[(QUESTION, "text = 'x'")], "prompt[0].text", "asks for nothing: it has 1 characters"),
        (&[("[verdict]", "[[grade]]\ngrade = \"ok\"\n[verdict]")], "grade[9].grade", "fail_at is rework"),
        (
            &[
                ("\ngrade = \"reject\"", "\ngrade = \"cosmetic\""),
                ("\ngrade = \"rework\"", "\ngrade = \"cosmetic\""),
            ],
            "verdict.fail_at",
            "none fails",
        ),
        (&[("longest_mm_over = 5.0", "longest_mm_over = 500.0")], "grade[3].longest_mm_over", "122.4 mm"),
        (&[("area_mm2_over = 100.0", "area_mm2_over = 20000.0")], "grade[5].area_mm2_over", "12533.76 mm²"),
        (&[("mm_per_px = 0.05", "mm_per_px = 0.000001")], "mm_per_px", "2448 pixels are 2.4e-3 mm"),
        (&[("mm_per_px = 0.05", "mm_per_px = 100.0")], "mm_per_px", "2448 pixels are 244800 mm"),
        (
            &[
                ("mm_per_px = 0.05", "mm_per_px = 0.000001"),
                ("size = [2448, 2048]", "size = \"any\""),
                ("roi = [0, 0, 2448, 2048] ", ""),
            ],
            "mm_per_px",
            "16384 pixels",
        ),
    ];
    for (edits, key, words) in cases {
        let text = edited(RECIPE, edits);
        let warnings = warnings_of(&text);
        let warning = warnings.iter().find(|w| w.key == key && w.to_string().contains(words));
        let warning = warning.unwrap_or_else(|| panic!("{key}, {words}: {warnings:#?}"));
        let line = text.lines().nth(warning.line - 1).expect("a line of the text");
        let last = key.rsplit('.').next().expect("a key");
        assert!(line.starts_with(last), "{warning}: {line}");
    }
}

/// Two prompts that are shown the same tiles, and one key: the warning is given once.
#[test]
fn a_warning_is_given_once() {
    let second = format!("[[prompt]]\nid = \"again\"\nkind = \"defects\"\nlabels = [\"dent\"]\n{QUESTION}\n");
    let edits = [("tile_px = 512 ", "tile_px = 8192 "), ("[verdict]", &format!("{second}[verdict]"))];
    let warnings = warnings_of(&edited(RECIPE, &edits));
    assert_eq!(warnings.len(), 1, "{warnings:#?}");
}

/// Careful recipes stay quiet: masks that overlap little, a doubt that goes to review, a label that is always cosmetic.
#[test]
fn a_sound_recipe_has_no_warning() {
    for edits in [
        &[("mask = []", "mask = [[0, 0, 1000, 1800], [500, 0, 2448, 1700]]")],
        &[("ignore_below_confidence = 0.5", "ignore_below_confidence = 1.0")],
        &[("review_below_confidence = 0.6", "review_below_confidence = 0.0")],
        &[(
            "label = \"crack\"                       # grows under load, however short\ngrade = \"reject\"",
            "label = \"crack\"\ngrade = \"ok\"",
        )],
        &[(QUESTION, "text = 'Find {labels}'")],
        &[("[verdict]", "[[grade]]\ngrade = \"rework\"\n[verdict]")],
    ] {
        let warnings = warnings_of(&edited(RECIPE, edits));
        assert!(warnings.is_empty(), "{edits:?}: {warnings:#?}");
    }
}

/// A recipe that only reads text has the score 0 of every part.
#[test]
fn a_limit_on_a_score_that_is_always_0_is_warned_of() {
    let text = include_str!("../../../fixtures/model/examples/text.toml");
    let text = text.replace(
        "[verdict]",
        "[promise]\nescape = 0.01\nconfidence = 0.95\n[verdict]\nreview_above_score = 0.2",
    );
    let warnings = warnings_of(&text);
    let keys: Vec<_> = warnings.iter().map(|warning| warning.key.as_str()).collect();
    assert!(
        keys.contains(&"verdict.review_above_score") && keys.contains(&"promise.escape"),
        "{warnings:#?}"
    );
}

#[test]
fn what_ships_has_no_warning() {
    for entry in std::fs::read_dir("pipelines").expect("the pipelines are there") {
        let path = entry.expect("an entry").path();
        let (_, warnings) = load_pipeline_with_warnings(&path).unwrap_or_else(|error| panic!("{error}"));
        assert!(warnings.is_empty(), "{warnings:#?}");
    }
    // It judges no part, and is told so: that is why it does not ship as a recipe of a line.
    let (_, warnings) = load_pipeline_with_warnings(Path::new("fixtures/model/examples/text.toml"))
        .unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(warnings.iter().map(|warning| warning.key.as_str()).collect::<Vec<_>>(), ["prompt"]);
}

#[test]
fn a_config_has_the_warnings_of_its_pipelines() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("machined-plate.toml");
    std::fs::write(&path, RECIPE.replace("tile_px = 512 ", "tile_px = 8192 ")).expect("a file");
    let text = format!("pipelines_dir = {:?}\n{SMALL}", folder.path());
    let config = config_of(&text).unwrap_or_else(|problems| panic!("{problems:#?}"));
    let [warning] = config.warnings.as_slice() else { panic!("{:#?}", config.warnings) };
    assert_eq!(
        (warning.file.as_str(), warning.key.as_str()),
        (path.to_str().expect("UTF-8"), "tiling.tile_px")
    );
    assert_eq!(config.own_warnings().count(), 0, "it is the recipe's");
}
