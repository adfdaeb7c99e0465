//! Tests of reading probabilities.

use super::*;
use proptest::prelude::*;

fn of_labels(labels: &[&str]) -> Form {
    Form::Defects { labels: labels.iter().map(|&label| label.to_owned()).collect() }
}

/// A token with its probability, and its rivals with theirs; it is its own first rival.
fn entry(token: &str, prob: f64, rivals: &[(&str, f64)]) -> Entry {
    let of = |&(token, prob): &(&str, f64)| Entry {
        token: token.to_owned(),
        logprob: prob.ln(),
        ..Entry::default()
    };
    let top_logprobs = std::iter::once(&(token, prob)).chain(rivals).map(of).collect();
    Entry { top_logprobs, ..of(&(token, prob)) }
}

fn read(form: &Form, entries: &[Entry]) -> (Vec<f32>, Ground) {
    let text: String = entries.iter().map(|e| e.token.as_str()).collect();
    let (tokens, ground) = Grammars::new().unwrap().read(form, &text, Some(entries)).unwrap();
    (tokens.iter().map(|token| token.prob).collect(), ground)
}

fn near(a: f32, b: f64) -> bool {
    (f64::from(a) - b).abs() < 1e-6
}

#[test]
fn what_the_form_forbids_takes_no_part_and_what_is_not_shown_counts_against() {
    let form = of_labels(&["stain"]);
    // `Nothing` is no beginning of the form; 0.1 is not shown.
    let entries = [entry("[", 0.5, &[("Nothing", 0.5)]), entry("]", 0.6, &[("{", 0.2), ("x", 0.1)])];
    let (probs, ground) = read(&form, &entries);
    assert_eq!(ground, Ground::Bounded);
    assert_eq!(probs[0], 1.0, "the form begins with it, whatever the model would have said");
    assert!(near(probs[1], 0.6 / (0.6 + 0.2 + 0.1)), "{probs:?}");
}

#[test]
fn an_allowed_label_beyond_the_shown_tokens_is_doubt() {
    let form = of_labels(&["stain", "pit"]);
    let head = "[{\"bbox_2d\":[0,0,9,9],\"label\":\"";
    let tail = "\",\"severity\":\"minor\"}]";
    let at = |label: Entry| {
        let (probs, _) = read(&form, &[entry(head, 1.0, &[]), label, entry(tail, 1.0, &[])]);
        probs[1]
    };
    assert!(near(at(entry("stain", 0.7, &[("pit", 0.3)])), 0.7));
    assert!(near(at(entry("stain", 0.7, &[])), 0.7), "the other label has the rest");
    assert!(near(at(entry("stain", 0.3, &[("rust", 0.7)])), 1.0), "no recipe's label has any");
    assert!(near(at(entry("stain", 0.3, &[("rust", 0.4)])), 0.5), "it may have the rest");
}

#[test]
fn a_token_that_has_no_choice_is_certain_and_one_that_runs_on_has_one() {
    let form = of_labels(&["stain", "pit"]);
    let said = [
        entry("[{\"bbox", 0.9, &[("[]", 0.1)]),
        entry("_2d\":[", 0.01, &[("(", 0.99)]),
        entry("1,1,2,2", 0.5, &[]),
        entry("],\"label\":\"s", 0.4, &[("],\"label\":\"p", 0.4), ("]", 0.1)]),
        entry("tain", 0.2, &[("alt", 0.8)]),
        entry("\",\"severity\":\"major\"}]", 0.5, &[("\",\"severity\":\"minor\"}]", 0.5)]),
    ];
    let (probs, _) = read(&form, &said);
    assert!(near(probs[0], 0.9));
    assert_eq!((probs[1], probs[4]), (1.0, 1.0));
    // Its beginning alone is allowed, too, and 0.1 is not shown.
    assert!(near(probs[3], 0.4), "{probs:?}");
}

#[test]
fn white_space_is_passed_over_in_the_answer_as_among_the_rivals() {
    let form = of_labels(&["stain"]);
    let said = [
        entry("[\n  ", 0.6, &[]),
        entry("{", 0.3, &[("]", 0.1), ("  ", 0.6)]),
        entry("\"bbox_2d\": [0, 0, 9, 9], \"label\": \"stain\", \"severity\": \"minor\"\n", 1.0, &[]),
        entry("}\n]", 1.0, &[]),
    ];
    let (probs, ground) = read(&form, &said);
    assert_eq!(ground, Ground::Bounded);
    assert!(near(probs[1], 0.3 / 0.4), "{probs:?}");
}

#[test]
fn an_answer_that_leaves_its_form_is_an_error() {
    let (grammars, form) = (Grammars::new().unwrap(), of_labels(&["stain"]));
    for bad in ["", "[", "[]]", "nothing", "[{\"label\":\"stain\"}]", "[{\"bbox_2d\":[0,0,9,1001]", "[\"a\"]"]
    {
        assert!(grammars.read(&form, bad, None).is_err(), "{bad}");
    }
    assert!(grammars.read(&Form::Lines, "[\"a\\n\"]", None).is_err());
    assert!(grammars.read(&Form::Lines, "[\"SN 1\"]", None).is_ok());
    let schema =
        Form::Schema(r#"{"type":"object","properties":{"n":{"type":"integer"}},"required":["n"]}"#.into());
    assert!(grammars.read(&schema, "{\"n\": 3}", None).is_ok());
    assert!(grammars.read(&schema, "{\"n\": \"3\"}", None).is_err());
}

#[test]
fn tokens_that_are_not_the_answer_give_no_probabilities() {
    let (grammars, form) = (Grammars::new().unwrap(), of_labels(&["stain"]));
    let ground = |entries: Option<&[Entry]>| grammars.read(&form, "[]", entries).unwrap().1;
    assert_eq!(ground(None), Ground::None);
    assert_eq!(ground(Some(&[])), Ground::None);
    assert_eq!(ground(Some(&[entry("[", 1.0, &[])])), Ground::None, "one is missing");
    assert_eq!(ground(Some(&[entry("[", 1.0, &[]), entry("}", 1.0, &[])])), Ground::None);
    let sure = Entry { logprob: 5.0, ..entry("]", 1.0, &[]) };
    assert_eq!(ground(Some(&[entry("[", 1.0, &[]), sure])), Ground::None, "no probability is over one");
    let ended = [entry("[", 1.0, &[]), entry("]", 1.0, &[]), entry("<|im_end|>", 1.0, &[])];
    assert_eq!(ground(Some(&ended)), Ground::Bounded);
    let free = grammars.read(&Form::Free, "[]", Some(&ended)).unwrap();
    assert_eq!((free.0.len(), free.1), (2, Ground::Unconstrained));
}

proptest! {
    /// With all tokens shown the reading is the engine's own rule; with fewer of them it is never surer.
    #[test]
    fn a_probability_is_never_more_than_the_engine_would_say(
        weights in prop::collection::vec(1u32..100, 6),
        shown in 0usize..6,
    ) {
        let tokens = ["]", "{", "{\"", "x", "Nothing", " {"];
        let sum = f64::from(weights.iter().sum::<u32>());
        let p: Vec<f64> = weights.iter().map(|w| f64::from(*w) / sum).collect();
        let form = of_labels(&["stain"]);
        let all: Vec<_> = tokens.iter().copied().zip(p.iter().copied()).skip(1).collect();
        let exact = p[0] / (p[0] + p[1] + p[2] + p[5]);
        let of = |rivals: &[(&str, f64)]| {
            f64::from(read(&form, &[entry("[", 1.0, &[]), entry("]", p[0], rivals)]).0[1])
        };
        prop_assert!((of(&all) - exact).abs() < 1e-6);
        prop_assert!(of(&all[..shown.min(all.len())]) <= exact + 1e-6);
    }
}
