//! A head from reviewed parts, as a quality engineer learns it at a desk: pictures of good and of defective parts in, a
//! file beside the recipe out, and other parts told apart by it.

#[path = "common/desk.rs"]
mod desk;

use desk::{Desk, is_good, json, rewrite, words};
use serde_json::Value;

/// One tile a part.
const RECIPE: &str = r#"schema = 1
name = "surface"
mm_per_px = 0.1
[frame]
size = "any"
[tiling]
tile_px = 256
overlap_px = 0
max_tiles = 1
min_pixels = 65536
max_pixels = 65536
[[prompt]]
id = "unlike-bad-parts"
kind = "head"
features = "backbone"
head = "surface.head"
[verdict]
fail_at = "rework"
review_below_confidence = 0.6
deadline_ms = 60000
"#;

fn desk() -> Desk {
    Desk::new("surface", "head", RECIPE)
}

/// Renders surfaces, good and defective, with their truth.
fn surfaces(desk: &Desk, name: &str, count: usize, seed: u64) -> String {
    desk.simulate(name, count, seed, &["--tiles", "defect"])
}

#[test]
fn a_head_of_reviewed_surfaces_finds_defects_of_others() {
    let desk = desk();
    let reviewed = surfaces(&desk, "reviewed", 120, 41);
    let learned = json(&desk.learn(&reviewed, &[]));
    assert!(learned["good"].as_u64() >= Some(20) && learned["bad"].as_u64() >= Some(20), "{learned}");
    assert_eq!(learned["with_boxes"], learned["bad"], "{learned}");
    assert!(learned["auroc"].as_f64() >= Some(0.65) && learned["seconds"].as_f64() > Some(0.0), "{learned}");
    let others = surfaces(&desk, "others", 60, 42);
    // Measured: 0.88 on the others and 0.78 on what was kept back; without boxes 0.77.
    json(&desk.replay(&others, &["--assert", "image.auroc>=0.7"]));

    // Without boxes the tile alone tells them apart, and no label is known.
    rewrite(&reviewed, |mut truth| {
        let defects = truth["defects"].as_array_mut().into_iter().flatten();
        defects.for_each(|defect| defect["bbox"] = Value::Null);
        Some(truth)
    });
    let learned = json(&desk.learn(&reviewed, &[]));
    assert_eq!(
        (&learned["with_boxes"], &learned["labels"]),
        (&Value::from(0), &Value::from(Vec::<u8>::new()))
    );
    json(&desk.replay(&others, &["--assert", "image.auroc>=0.65"]));
}

#[test]
fn too_little_is_refused_in_words_and_no_file_is_written() {
    let desk = desk();
    let few = surfaces(&desk, "few", 60, 41);
    let first = std::cell::Cell::new(0);
    rewrite(&few, |truth| {
        first.set(first.get() + u32::from(!is_good(&truth)));
        (is_good(&truth) || first.get() < 10).then_some(truth)
    });
    let dry = json(&desk.learn(&few, &["--dry-run"]));
    assert_eq!((&dry["bad"], &dry["enough"]), (&Value::from(9), &Value::from(false)));
    let refused = desk.learn(&few, &[]);
    let said = words(&refused);
    assert!(!refused.status.success() && said.contains("9 defective parts: at least 10 of each"), "{said}");
    assert!(said.contains("0.6") && !desk.at("surface.head").exists(), "{said}");
}

#[test]
fn a_recipe_without_its_head_or_with_a_damaged_one_judges_nothing() {
    let desk = desk();
    let surfaces = surfaces(&desk, "surfaces", 60, 41);
    let refused = desk.replay(&surfaces, &[]);
    assert_eq!(refused.status.code(), Some(78), "{}", words(&refused));
    for word in ["surface.toml", "prompt[0].head", "surface.head", "inspectd learn head"] {
        assert!(words(&refused).contains(word), "{word} in {}", words(&refused));
    }
    json(&desk.learn(&surfaces, &[]));
    let whole = std::fs::read(desk.at("surface.head")).expect("there is a head");
    for (at, _) in whole.iter().enumerate().step_by(whole.len() / 5) {
        std::fs::write(desk.at("surface.head"), &whole[..at]).expect("writes");
        assert_eq!(desk.replay(&surfaces, &[]).status.code(), Some(78), "cut at {at}");
    }
    // A head is no bank, and another prompt's bank that is not there yet is no matter of this one's.
    let with_bank = format!(
        "{RECIPE}[[prompt]]\nid = \"good\"\nkind = \"reference\"\nfeatures = \"backbone\"\nbank = \"other.bank\"\n"
    );
    std::fs::write(desk.at("surface.toml"), &with_bank).expect("writes");
    json(&desk.learn(&surfaces, &[]));
    std::fs::copy(desk.at("surface.head"), desk.at("other.bank")).expect("copies");
    let refused = desk.replay(&surfaces, &[]);
    assert!(words(&refused).contains("other.bank: is no bank of inspectd's"), "{}", words(&refused));
}
