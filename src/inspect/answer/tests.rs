use super::*;
use proptest::prelude::*;
use vlm::AnswerToken;
use vlm::form::SEVERITIES;

fn words(labels: &[&str]) -> Vec<String> {
    labels.iter().map(|&l| l.to_owned()).collect()
}

/// An answer cut into the given pieces with their probabilities.
fn completion(pieces: &[(&str, f32)]) -> Completion {
    let mut text = String::new();
    let mut tokens = Vec::new();
    for (id, (piece, prob)) in (0u32..).zip(pieces) {
        let start = text.len();
        text.push_str(piece);
        tokens.push(AnswerToken { id, start, end: text.len(), prob: *prob });
    }
    Completion {
        text,
        tokens,
        prompt_ids: vec![1],
        finish: Finish::Stop,
        ground: Ground::Constrained,
        cells: None,
    }
}

const STAIN: &str = r#"{"bbox_2d":[0,700,275,1000],"label":"stain","severity":"major"}"#;

#[test]
fn labels_in_any_spelling_are_read() {
    let odd = ["5\" disc", r"back\slash", "缺陷", "a|b", "new\nline", "del\u{7f}", "/re/", "<[1]>"];
    for label in odd {
        let json = serde_json::Value::from(label);
        let answer = format!(r#"[{{"bbox_2d":[1,2,3,4],"label":{json},"severity":"minor"}}]"#);
        let found = parse_defects(&completion(&[(&answer, 0.5)]), 0, &words(&odd)).expect("reads").detections;
        assert_eq!(found[0].label, label);
    }
}

/// The form of an answer names the severities that its reader knows, in the order of the training answers.
#[test]
fn the_form_and_the_reader_know_the_same_severities() {
    assert_eq!(SEVERITIES, Severity::ALL.map(Severity::as_str));
}

#[test]
fn confidence_is_the_product_of_the_tokens_that_open_the_item_and_touch_its_label() {
    let answer = completion(&[
        ("[", 0.9),
        (r#"{"bbox_2d":["#, 1.0),
        ("0,700,275,1000", 0.3),
        (r#"],"label":""#, 1.0),
        ("st", 0.8),
        (r#"ain","#, 0.5),
        (r#""severity":""#, 1.0),
        ("major", 0.6),
        (r#""}"#, 1.0),
        (r#",{"bbox_2d":[10,20,30,40],"label":"pit","severity":"minor"}]"#, 0.25),
    ]);
    let found = parse_defects(&answer, 7, &words(&["pit", "stain"])).expect("reads").detections;
    assert_eq!(found.len(), 2);
    assert_eq!((found[0].tile, found[0].label.as_str(), found[0].severity), (7, "stain", Severity::Major));
    assert_eq!(found[0].bbox_2d, [0, 700, 275, 1000]);
    assert!((found[0].confidence - 0.9 * 0.8 * 0.5).abs() < 1e-6, "{}", found[0].confidence);
    assert!((found[1].confidence - 0.25).abs() < 1e-6, "{}", found[1].confidence);
}

#[test]
fn a_label_called_label_is_found() {
    let json = r#"[{"bbox_2d":[1,2,3,4],"label" : "label","severity":"minor"}]"#;
    let span = label_spans(json);
    assert_eq!(span.len(), 1);
    assert_eq!(span[0].start, json.rfind("label").expect("there"));
}

#[test]
fn odd_boxes_are_mended_never_dropped() {
    assert_eq!(proper_box([500, 600, 100, 200]).expect("in range"), [100, 200, 500, 600]);
    assert_eq!(proper_box([100, 200, 100, 900]).expect("in range"), [98, 200, 103, 900]);
    assert_eq!(proper_box([0, 1000, 0, 1000]).expect("in range"), [0, 995, 5, 1000]);
    assert!(matches!(proper_box([0, 0, 1001, 5]), Err(AnswerError::Coordinate { value: 1001 })));
}

#[test]
fn what_cannot_be_trusted_is_an_error() {
    let labels = words(&["stain"]);
    let good = format!("[{STAIN}]");
    let parse = |answer: &Completion| parse_defects(answer, 0, &labels).map(|read| read.detections);
    assert!(parse(&completion(&[(&good, 1.0)])).is_ok());

    let mut cut = completion(&[(&good, 1.0)]);
    cut.finish = Finish::Length;
    assert!(matches!(parse(&cut), Err(AnswerError::CutOff { tokens: 1 })));
    let mut cut = completion(&[("[]", 1.0)]);
    cut.finish = Finish::Length;
    assert!(matches!(parse_lines(&cut), Err(AnswerError::CutOff { .. })));

    for prob in [f32::NAN, f32::INFINITY, -0.5] {
        assert!(matches!(
            parse(&completion(&[(&good, prob)])),
            Err(AnswerError::Probability { index: 0, .. })
        ));
        assert!(matches!(parse_lines(&completion(&[("[]", prob)])), Err(AnswerError::Probability { .. })));
    }
    for bad in ["", "[", "no", "{}", "[1]", r#"[{"bbox_2d":[1,2,3],"label":"stain","severity":"minor"}]"#] {
        assert!(matches!(parse(&completion(&[(bad, 1.0)])), Err(AnswerError::Json { .. })), "{bad}");
    }
    let other = good.replace("stain", "crack");
    assert!(matches!(parse(&completion(&[(&other, 1.0)])), Err(AnswerError::Label { .. })));
    let other = good.replace("major", "huge");
    assert!(matches!(parse(&completion(&[(&other, 1.0)])), Err(AnswerError::Severity { .. })));
    let many = format!("[{}]", vec![STAIN; DEFECTS_MAX + 1].join(","));
    assert!(matches!(parse(&completion(&[(&many, 1.0)])), Err(AnswerError::TooMany { count: 25, max: 24 })));
    let spelled = completion(&[(&good.replace("label", r"\u006cabel"), 1.0)]);
    assert!(matches!(parse(&spelled), Err(AnswerError::Tokens { .. })));
    let mut bare = completion(&[(&good, 1.0)]);
    bare.tokens.clear();
    assert!(matches!(parse(&bare), Err(AnswerError::Tokens { .. })));
}

#[test]
fn lines_carry_their_own_confidence() {
    let answer =
        completion(&[("[\"", 1.0), ("AB", 0.9), ("\",\"", 0.5), ("C\\\"", 0.8), ("D", 0.5), ("\"]", 1.0)]);
    let lines = parse_lines(&answer).expect("reads");
    assert_eq!(lines[0].0, "AB");
    assert_eq!(lines[1].0, "C\"D");
    assert!((lines[0].1 - 0.9).abs() < 1e-6 && (lines[1].1 - 0.4).abs() < 1e-6, "{lines:?}");
    let empty = parse_lines(&completion(&[("[]", 0.7)])).expect("reads");
    assert!(empty.is_empty());
    let blank = parse_lines(&completion(&[("[", 1.0), ("\"\"", 0.3), ("]", 1.0)])).expect("reads");
    assert_eq!(blank, [(String::new(), 0.3)]);
}

#[test]
fn the_probability_of_nothing() {
    let p = |pieces: &[(&str, f32)]| empty_probability(&completion(pieces));
    let near = |a: f32, b: f32| assert!((a - b).abs() < 1e-6, "{a} is not {b}");
    near(p(&[("[]", 0.7)]), 0.7);
    near(p(&[("[", 0.9), ("]", 0.8)]), 0.72);
    near(p(&[("[]", 0.7), ("", 0.5)]), 0.35);
    near(p(&[("[{", 0.7), ("\"bbox", 0.1)]), 0.3);
    near(p(&[("[", 1.0), ("{\"", 0.7), ("bbox", 0.1)]), 0.3);
    near(p(&[("[", 0.5), ("{\"", 0.8)]), 0.6);
    near(p(&[]), 0.0);
    near(p(&[("[", 0.9)]), 0.0);
    near(p(&[("[]", f32::NAN)]), 0.0);
}

/// An answer of items that were opened with these probabilities, ended with `end`; all else is certain.
fn list(opened: &[f32], end: f32) -> Completion {
    let body = r#""bbox_2d":[1,2,30,40],"label":"stain","severity":"minor"}"#;
    let mut pieces = vec![("[", 1.0)];
    for (i, prob) in opened.iter().enumerate() {
        pieces.extend([(if i == 0 { "{" } else { ",{" }, *prob), (body, 1.0)]);
    }
    pieces.push(("]", end));
    completion(&pieces)
}

#[test]
fn a_list_without_room_for_one_more_says_nothing_about_the_rest() {
    let read = |n: usize| parse_defects(&list(&vec![1.0; n], 1.0), 0, &words(&["stain"])).expect("reads");
    assert_eq!((read(DEFECTS_MAX - 1).complete, read(DEFECTS_MAX).complete), (1.0, 0.0));
}

#[test]
fn the_end_of_a_list_is_found_in_any_token() {
    let item = r#"{"bbox_2d":[1,2,3,4],"label":"stain","severity":"minor""#;
    let complete = |pieces: &[(&str, f32)]| {
        parse_defects(&completion(pieces), 0, &words(&["stain"])).expect("reads").complete
    };
    let first = format!("[{item}");
    assert_eq!(complete(&[(&first, 1.0), ("}]", 0.3)]), 0.3);
    assert_eq!(complete(&[(&first, 0.1), ("}", 0.9), (" ]", 0.4)]), 0.4);
    assert_eq!(complete(&[(&first, 0.1), ("}", 0.2), ("]", 0.5), ("\n", 0.5)]), 0.25);
}

proptest! {
    /// A kept item explains itself; the doubt about the rest is what the list ended with, and a dropped item adds
    /// its own.
    #[test]
    fn no_doubt_of_a_list_is_forgotten(
        opened in proptest::collection::vec(0.0f32..=1.0, 0..6),
        end in 0.0f32..=1.0,
        dropped in proptest::collection::vec(proptest::bool::ANY, 6),
    ) {
        let read = parse_defects(&list(&opened, end), 0, &words(&["stain"])).expect("reads");
        prop_assert_eq!(&read.opened, &opened);
        prop_assert!((read.complete - end).abs() < 1e-6);
        prop_assert_eq!(read.clean(|_, _| 0.0), read.complete);
        let mut place = 0;
        let clean = read.clean(|_, opened| {
            place += 1;
            if dropped[place - 1] { opened } else { 0.0 }
        });
        prop_assert!((0.0..=1.0).contains(&clean) && clean <= read.complete);
        for (opened, dropped) in opened.iter().zip(&dropped) {
            prop_assert!(!dropped || clean <= 1.0 - opened + 1e-6);
        }
    }

    /// What the form allows, the reader reads, wherever the tokens happen to be cut.
    #[test]
    fn lines_come_back_as_they_were_written(
        lines in proptest::collection::vec("[ -~é\u{4e00}-\u{4e10}]{1,20}", 0..LINES_MAX),
        piece in 1usize..5,
    ) {
        let text = serde_json::Value::from(lines.clone()).to_string();
        let pieces: Vec<String> = text.chars().collect::<Vec<_>>().chunks(piece).map(String::from_iter).collect();
        let pieces: Vec<(&str, f32)> = pieces.iter().map(|p| (p.as_str(), 1.0)).collect();
        let read = parse_lines(&completion(&pieces)).expect("reads");
        prop_assert_eq!(read, lines.into_iter().map(|l| (l, 1.0)).collect::<Vec<_>>());
    }
}

#[test]
fn nothing_is_believed_that_nobody_is_sure_of() {
    let labels = words(&["stain"]);
    let item = format!("[{STAIN}]");
    for text in ["[]", &item] {
        let whole = completion(&[(&text[..1], 0.9), (&text[1..], 0.9)]);
        assert!(parse_defects(&whole, 0, &labels).is_ok());
        let free = Completion { ground: Ground::Unconstrained, ..whole.clone() };
        assert!(parse_defects(&free, 0, &labels).is_ok());
        for tokens in [vec![], whole.tokens.clone()] {
            let unsure = Completion { tokens, ground: Ground::None, ..whole.clone() };
            assert!(matches!(parse_defects(&unsure, 0, &labels), Err(AnswerError::Ground)), "{text}");
            assert!(matches!(parse_lines(&unsure), Err(AnswerError::Ground)));
        }
        for missing in 0..2 {
            let mut gap = whole.clone();
            gap.tokens.remove(missing);
            assert!(matches!(parse_defects(&gap, 0, &labels), Err(AnswerError::Tokens { .. })), "{text}");
            assert!(matches!(parse_lines(&gap), Err(AnswerError::Tokens { .. })));
        }
    }
}

/// A probability that is less than the exact one makes a dropped detection no smaller doubt.
#[test]
fn what_is_only_bounded_is_never_surer_that_nothing_is_there() {
    let labels = words(&["stain"]);
    let answer = completion(&[("[", 1.0), ("{", 0.6), (&STAIN[1..], 0.5), ("]", 0.9)]);
    let read =
        |ground| parse_defects(&Completion { ground, ..answer.clone() }, 0, &labels).expect("it reads");
    let (exact, bounded) = (read(Ground::Constrained), read(Ground::Bounded));
    assert_eq!((exact.opened[0], bounded.opened[0]), (0.6, 1.0));
    assert_eq!(exact.detections, bounded.detections);
    let clean = |defects: &Defects| defects.clean(|_, opened| opened);
    assert!(clean(&exact) > 0.3 && clean(&bounded) == 0.0);
}
