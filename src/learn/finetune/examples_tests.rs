use super::*;
use crate::domain::frame::Trigger;
use crate::evaluate::truth::read;
use crate::recipe::pipeline_from_str;
use std::path::Path;
use std::time::{Instant, SystemTime};

/// Two tiles of 100 pixels, each asked for pits and for its text.
fn pipeline() -> Pipeline {
    let base = include_str!("../../../tests/common/scripted.toml");
    let text = format!("{base}[[prompt]]\nid = \"plate\"\nkind = \"text\"\ntext = \"Read it.\"\n");
    pipeline_from_str("scripted.toml", &text).expect("the recipe is sound")
}

fn collected(truth: &str) -> Collected {
    let line = format!("{{\"file\":\"a.png\",\"width\":200,\"height\":100,{truth}}}");
    let truths = read(Path::new("set/truth.jsonl"), line.as_bytes()).expect("reads");
    let frame = Frame {
        camera: "cam1".into(),
        pixels: Arc::new(image::RgbImage::new(200, 100)),
        captured_at: SystemTime::now(),
        captured: Instant::now(),
        exposed: None,
        clip: vec![],
        trigger: Trigger::default(),
        origin: "a.png".into(),
        replayed: false,
    };
    let model = ModelInfo { labels: vec!["dent".into(), "pit".into()], ..ModelInfo::default() };
    let mut collected = Collected::default();
    collected.add(&frame, &pipeline(), &model, &truths[0]).expect("is a proper picture");
    collected
}

/// The boxes of each tile that is an example of defects.
fn boxes(collected: &Collected) -> Vec<Vec<[f32; 4]>> {
    let tiles = collected.tiles.iter().filter(|tile| tile.is_of_defects());
    tiles.map(|tile| tile.marks().iter().map(|mark| mark.bbox).collect()).collect()
}

#[test]
fn boxes_are_those_of_the_tile_and_the_model_is_asked_all_of_its_labels() {
    let found =
        collected("\"defects\":[{\"label\":\"pit\",\"bbox\":[120,10,150,30],\"severity\":\"minor\"}]");
    assert_eq!(boxes(&found), [vec![], vec![[20.0, 10.0, 50.0, 30.0]]]);
    assert_eq!(found.tiles[1].marks()[0].severity, Some("minor"));
    assert!(found.tiles.iter().all(|tile| tile.question() == "Find dent, pit."));
    assert_eq!(found.left_out, LeftOut::default());
}

#[test]
fn a_tile_whose_answer_is_not_known_is_no_example() {
    let one = |defect: &str| collected(&format!("\"defects\":[{defect}]"));
    // Cut off by the border between the tiles: two thirds in the first, one in the second.
    let cut = one("{\"label\":\"pit\",\"bbox\":[60,10,120,60]}");
    assert_eq!((boxes(&cut), cut.left_out.cut_off), (vec![vec![[60.0, 10.0, 100.0, 60.0]]], 1));
    // Of a label that is not asked for, the other tile is known.
    let other = one("{\"label\":\"burr\",\"bbox\":[10,10,50,50]}");
    assert_eq!((boxes(&other), other.left_out.not_asked), (vec![vec![]], 1));
    // Without a box nothing is known of any tile.
    for truth in ["\"defects\":[{\"label\":\"pit\",\"bbox\":null}]", "\"good\":false"] {
        let none = collected(truth);
        assert_eq!((none.tiles.len(), none.left_out.without_boxes), (0, 1), "{truth}");
    }
    let accepted = collected("\"good\":true,\"defects\":[{\"label\":\"pit\",\"bbox\":[10,10,50,50]}]");
    assert_eq!((boxes(&accepted), accepted.left_out.not_asked), (vec![vec![]], 1));
}

#[test]
fn lines_belong_to_the_tile_that_shows_them_whole() {
    let found = collected("\"texts\":[{\"text\":\"A1\",\"bbox\":[110,10,190,30]}]");
    // A set of texts says nothing of defects.
    let lines: Vec<_> = found.tiles.iter().map(|tile| tile.task.clone()).collect();
    assert_eq!(lines, [Task::Lines { question: "Read it.".into(), lines: vec!["A1".into()] }]);
    assert!(
        collected("\"texts\":[{\"text\":\"A1\",\"bbox\":[60,10,140,30]}]").tiles.is_empty(),
        "in two halves"
    );
    assert!(collected("\"texts\":[\"A1\"]").tiles.is_empty(), "somewhere in two tiles");
}

#[test]
fn labels_of_the_recipe_come_behind_those_of_the_model() {
    let words = |of: &[&str]| of.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
    assert_eq!(labels(&pipeline(), &words(&["dent", "pit"])), words(&["dent", "pit", "scratch"]));
    assert_eq!(labels(&pipeline(), &[]), words(&[]), "a model that states none is asked the recipe's");
}

#[test]
fn too_little_is_said_in_words() {
    let left_out = LeftOut { without_boxes: 30, ..LeftOut::default() };
    let refused = enough(Set::new(vec![], &[]), left_out).expect_err("is refused").to_string();
    assert!(refused.contains("boxes are needed, without them fine-tuning is chance"), "{refused}");
    let line = || {
        crate::learn::finetune::tile::tests::tile(Task::Lines {
            question: "?".into(),
            lines: vec!["A".into()],
        })
    };
    let few = Set::new((1..TILES_MIN).map(|_| line()).collect(), &[]);
    let refused = enough(few, LeftOut::default()).expect_err("is refused").to_string();
    assert!(refused.contains("7 tiles with lines of text: at least 8 are needed"), "{refused}");
    // Enough lines are learned from, whatever the defects lack.
    let (set, notes) =
        enough(Set::new((0..TILES_MIN).map(|_| line()).collect(), &[]), left_out).expect("is enough");
    assert_eq!((set.counts(), notes.len()), ([0, 0, TILES_MIN], 2));
}
