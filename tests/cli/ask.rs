//! `inspectd ask`: pictures, clips, films, the standard input, and what it prints.

use crate::film;
use crate::{CROP, has, json_lines, run};
use serde_json::Value;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// The words of a prompt of the shipped model.
fn prompt_words(answer: &Value) -> (String, Vec<u32>) {
    let gguf = vlm::gguf::Gguf::open(Path::new("fixtures/model/inspectd-small.gguf")).unwrap();
    let tokenizer = vlm::tokenizer::Tokenizer::from_gguf(&gguf).unwrap();
    let ids = answer["prompt_ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32);
    let ids: Vec<u32> = ids.collect();
    let video = tokenizer.special("<|video_pad|>").unwrap();
    let rows = ids.iter().copied().filter(|id| *id == video).collect();
    (tokenizer.decode(&ids, true).replace("<|video_pad|>", ""), rows)
}

#[test]
fn ask_gives_text_ids_and_log_probabilities() {
    let prompt = "Read the marked text. Reply with a JSON list of its lines, or [] if there is none.";
    let out = run(&[
        "ask",
        "--json",
        "--ids",
        "--special",
        "--image",
        CROP,
        "--temperature",
        "0",
        "--max-tokens",
        "64",
        prompt,
    ]);
    let answer = json_lines(&out).remove(0);
    has(
        &answer,
        &["text", "prompt_tokens", "completion_tokens", "finish_reason", "prompt_ids", "ids", "logprobs"],
    );
    assert!(answer["text"].as_str().unwrap().starts_with("[\""));
    assert_eq!(answer["finish_reason"], "stop");
    let count = |key: &str| answer[key].as_array().unwrap().len() as u64;
    assert_eq!(
        (count("prompt_ids"), count("ids")),
        (answer["prompt_tokens"].as_u64().unwrap(), answer["completion_tokens"].as_u64().unwrap())
    );
    assert_eq!(count("ids"), count("logprobs"));
    let short = json_lines(&run(&["ask", "--json", "--image", CROP, "--max-tokens", "3", prompt])).remove(0);
    assert_eq!(
        (short["finish_reason"].as_str(), short["completion_tokens"].as_u64()),
        (Some("length"), Some(3))
    );
    let words = json_lines(&run(&[
        "ask",
        "--json",
        "--max-tokens",
        "4",
        "--temperature",
        "1",
        "--top-k",
        "20",
        "--seed",
        "3",
        "hello",
    ]));
    assert_eq!(words[0]["completion_tokens"], 4);
}

/// Three tiles of one size as a clip: two pairs, each behind its time, and one question.
#[test]
fn ask_shows_a_clip() {
    let tile = |i: u32| format!("fixtures/model/examples/images/defect-256x256-0{i}.png");
    let (a, b, c) = (tile(0), tile(1), tile(2));
    let clip = ["--image", &a, "--image", &b, "--image", &c, "--interval-ms", "250"];
    let asked = [&["ask", "--json", "--ids", "--max-tokens", "8"], &clip[..], &["What moves?"]].concat();
    let answer = json_lines(&run(&asked)).remove(0);
    assert!(answer["completion_tokens"].as_u64().unwrap() > 0);
    let (words, rows) = prompt_words(&answer);
    assert_eq!(rows.len(), 2 * 64, "256x256 px are 8x8 rows");
    let pair = |time| format!("<{time} seconds><|vision_start|><|vision_end|>");
    let start = format!("<|im_start|>user\n{}{}What moves?<|im_end|>", pair("0.1"), pair("0.5"));
    assert!(words.starts_with(&start), "{words}");
    let alone = run(&["ask", "--interval-ms", "250", "What moves?"]);
    assert_eq!(alone.status.code(), Some(2), "a clip has pictures");
}

/// A film of 6 s at 10 pictures a second: 2 a second are asked for, and no more than 4.
#[test]
fn ask_shows_a_film() {
    let dir = tempfile::tempdir().unwrap();
    let film = film::film(dir.path(), "testsrc", 6).display().to_string();
    let ask =
        |args: &[&str]| run(&[&["ask", "--json", "--max-tokens", "4", "--video", &film], args].concat());
    let times = |out: &Output| -> Vec<f64> {
        let answer = json_lines(out).remove(0);
        answer["frames"].as_array().unwrap().iter().map(|frame| frame["at_s"].as_f64().unwrap()).collect()
    };
    let all = times(&ask(&["--each", "What moves?"]));
    assert_eq!(all, [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 5.5]);
    let few = ask(&["--each", "--max-frames", "4", "What moves?"]);
    assert_eq!(times(&few), [0.0, 2.0, 4.0]);
    assert!(json_lines(&few)[0]["completion_tokens"].as_u64().unwrap() > 0, "the answer about the answers");
    let whole = json_lines(&ask(&["--ids", "--max-frames", "4", "What moves?"])).remove(0);
    let (words, _) = prompt_words(&whole);
    assert!(
        words.contains("<1.0 seconds>") && words.contains("<4.0 seconds>"),
        "the pairs (0 2) (4 4): {words}"
    );
    for (args, words) in [
        (["--video", "fixtures/model/CARD.md"], "finds no video there"),
        (["--video", "/nowhere.mp4"], "/nowhere.mp4"),
    ] {
        let out = run(&[&["ask", "?"][..], &args].concat());
        assert!(!out.status.success() && String::from_utf8_lossy(&out.stderr).contains(words), "{out:?}");
    }
}

#[test]
fn ask_reads_the_standard_input_and_streams() {
    let with = |input: &[u8], args: &[&str]| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_inspectd"))
            .args([&["ask", "--max-tokens", "8"], args].concat())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Who refuses its arguments reads nothing.
        let _ = child.stdin.take().unwrap().write_all(input);
        child.wait_with_output().unwrap()
    };
    let question = "Read the marked text. Reply with a JSON list of its lines, or [] if there is none.";
    let plain = with(b"", &["--image", CROP, question]);
    assert!(plain.status.success() && !plain.stdout.is_empty(), "{plain:?}");
    let picture = std::fs::read(CROP).unwrap();
    let asked = format!("{question}\n");
    for (input, args) in [
        (asked.as_bytes(), &["--image", CROP, "-"][..]),
        (&picture, &["--image", "-", question]),
        (b"", &["--image", CROP, "--stream", question]),
    ] {
        assert_eq!(with(input, args).stdout, plain.stdout, "{args:?}");
    }
    for (input, args, words) in [
        (&b"x"[..], &["--image", "-", "-"][..], "either the question or a picture"),
        (b"x", &["--image", "-", "--image", "-", "?"], "--image - stands 2 times"),
        (b"x", &["--image", "-", "?"], "the standard input"),
        (&[0xff, 0xfe], &["-"], "the question on the standard input"),
    ] {
        let out = with(input, args);
        assert!(!out.status.success() && String::from_utf8_lossy(&out.stderr).contains(words), "{out:?}");
    }
}
