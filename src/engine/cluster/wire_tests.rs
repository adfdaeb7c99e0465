//! Tests of requests and answers.

use super::*;
use proptest::prelude::*;
use std::sync::Arc;
use vlm::Form;

fn target(kind: Kind) -> Target {
    Target { kind, model: "qwen".into(), min_pixels: 65_536 }
}

fn ask() -> Ask {
    Ask::new("Find pit.", Form::Defects { labels: Arc::from(["pit".to_owned()]) }, 512)
}

fn job(width: u32, height: u32) -> Job {
    let image = Arc::new(RgbImage::from_fn(width, height, |x, y| image::Rgb([x as u8, y as u8, 7])));
    Job {
        shown: Shown::Images(vec![image]),
        min_pixels: 4096,
        max_pixels: 131_072,
        asks: vec![ask()],
        adapter: None,
    }
}

fn sent(kind: Kind, job: &Job) -> (Value, usize) {
    let body = body(&target(kind), job, &job.asks[0]).unwrap();
    (serde_json::from_slice(&body.bytes).unwrap(), body.picture_tokens)
}

/// The picture of a request.
fn picture(request: &Value) -> RgbImage {
    let url = request["messages"][0]["content"][0]["image_url"]["url"].as_str().unwrap();
    let png = BASE64_STANDARD.decode(url.strip_prefix("data:image/png;base64,").unwrap()).unwrap();
    let reader = image::ImageReader::with_format(std::io::Cursor::new(png), image::ImageFormat::Png);
    reader.decode().unwrap().to_rgb8()
}

#[test]
fn a_picture_is_sent_as_the_model_sees_it() {
    for (given, seen) in [((512, 512), (352, 352)), ((256, 256), (256, 256)), ((100, 90), (288, 256))] {
        let (request, tokens) = sent(Kind::Vllm, &job(given.0, given.1));
        let shown = picture(&request);
        assert_eq!(shown.dimensions(), seen);
        assert_eq!(tokens, tokens_of(seen.0, seen.1));
        let again = vlm::image::smart_resize(seen.0, seen.1, ROW_PX, 65_536, 16_777_216).unwrap();
        assert_eq!(again, seen, "a server's own resize leaves it");
    }
    let job = job(256, 256);
    let Shown::Images(images) = &job.shown else { panic!() };
    assert_eq!(picture(&sent(Kind::Vllm, &job).0), *images[0], "bit for bit");
}

#[test]
fn a_request_leaves_nothing_to_the_server() {
    let (vllm, _) = sent(Kind::Vllm, &job(256, 256));
    assert_eq!(vllm["messages"][0]["role"], "user");
    assert_eq!(vllm["messages"][0]["content"][1], json!({ "type": "text", "text": "Find pit." }));
    for (key, value) in [
        ("model", json!("qwen")),
        ("max_tokens", json!(512)),
        ("temperature", json!(0.0)),
        ("top_p", json!(1.0)),
        ("top_k", json!(0)),
        ("repetition_penalty", json!(1.0)),
        ("logprobs", json!(true)),
        ("top_logprobs", json!(20)),
        ("stream", json!(false)),
    ] {
        assert_eq!(vllm[key], value, "{key}");
    }
    assert!(vllm["structured_outputs"]["regex"].is_string());
    let (llama, _) = sent(Kind::Llama, &job(256, 256));
    assert!(llama["grammar"].is_string() && llama["repeat_penalty"] == 1.0);
    let (other, _) = sent(Kind::OpenAi, &job(256, 256));
    assert!(other["response_format"]["json_schema"]["schema"].is_object() && other["top_k"].is_null());
}

#[test]
fn a_conversation_keeps_its_turns() {
    let image = Arc::new(RgbImage::new(256, 256));
    let turns = vec![
        Turn::text(Role::System, "Be brief."),
        Turn { role: Role::User, content: vec![Content::Image(image), Content::Text("What?".into())] },
        Turn::text(Role::Assistant, "A nut."),
        Turn::text(Role::User, "Is it "),
    ];
    let asks = vec![Ask { stop: vec!["\n".into()], ..Ask::new("good?", Form::Free, 9) }];
    let job = Job { shown: Shown::Turns(turns), asks, ..job(256, 256) };
    let (request, tokens) = sent(Kind::Llama, &job);
    let roles: Vec<_> = request["messages"].as_array().unwrap().iter().map(|m| m["role"].clone()).collect();
    assert_eq!(roles, ["system", "user", "assistant", "user"]);
    assert_eq!(request["messages"][3]["content"][1]["text"], "good?");
    assert_eq!((request["stop"][0].as_str(), tokens), (Some("\n"), 66));
    assert!(request["grammar"].is_null());
}

#[test]
fn what_a_server_would_misread_is_not_sent() {
    let refused = |job: &Job| match body(&target(Kind::Vllm), job, &job.asks[0]) {
        Err(VlmError::Unable { why }) => why,
        other => panic!("{:?}", other.err()),
    };
    let small = Job { max_pixels: 61_440, ..job(256, 256) };
    assert!(refused(&small).contains("max_pixels = 61440 is under the 65536 pixels"));
    let ask = Ask { text: "Find <|im_end|>".into(), ..ask() };
    let control = Job { asks: vec![ask], ..job(256, 256) };
    assert!(refused(&control).contains("control token"));
}

/// An answer as servers write it.
fn reply(text: &str, tokens: &[&str]) -> Value {
    let entry = |token: &&str| {
        let own = json!({ "token": token, "logprob": -0.1, "bytes": token.as_bytes() });
        let mut entry = own.clone();
        entry["top_logprobs"] = json!([own, { "token": "x", "logprob": null, "bytes": null }]);
        entry
    };
    let content: Vec<_> = tokens.iter().map(entry).collect();
    json!({
        "id": "chatcmpl-1", "object": "chat.completion",
        "choices": [{
            "index": 0, "finish_reason": "stop", "message": { "role": "assistant", "content": text },
            "logprobs": { "content": content },
        }],
        "usage": { "prompt_tokens": 80, "completion_tokens": 3, "total_tokens": 83 },
    })
}

fn read_value(value: &Value) -> Result<Completion, String> {
    read_bytes(value.to_string().as_bytes())
}

fn read_bytes(bytes: &[u8]) -> Result<Completion, String> {
    let grammars = Grammars::new().unwrap();
    match super::read(&grammars, &ask(), 66, bytes) {
        Ok(Came { answer: Ok(completion), .. }) => Ok(completion),
        Ok(Came { answer: Err(error), .. }) => Err(error.to_string()),
        Err(fault) => Err(format!("{fault:?}")),
    }
}

#[test]
fn an_answer_is_read_with_its_probabilities() {
    let answer = read_value(&reply("[]", &["[", "]"])).unwrap();
    assert_eq!((answer.text.as_str(), answer.tokens.len(), answer.ground), ("[]", 2, Ground::Bounded));
    assert_eq!(answer.tokens[0].prob, 1.0);
}

#[test]
fn whatever_is_no_answer_is_said_in_words() {
    type Change = fn(&mut Value);
    let changes: [(Change, &str); 9] = [
        (|v| v["usage"]["prompt_tokens"] = json!(20), "does not see the picture"),
        (|v| v["usage"] = Value::Null, "what is no answer"),
        (|v| v["choices"] = json!([]), "0 answers"),
        (|v| v["choices"] = Value::Null, "what is no answer"),
        (|v| v["choices"][0]["finish_reason"] = json!("content_filter"), "by content_filter"),
        (|v| v["choices"][0]["finish_reason"] = Value::Null, "by no reason"),
        (|v| v["choices"][0]["message"]["refusal"] = json!("No.\n"), "refuses to answer: No."),
        (|v| v["choices"][0]["message"]["content"] = json!("[{}]"), "leaves its form"),
        (|v| v["choices"][0]["message"]["content"] = Value::Null, "ends before its form"),
    ];
    for (change, words) in changes {
        let mut value = reply("[]", &["[", "]"]);
        change(&mut value);
        let why = read_value(&value).unwrap_err();
        assert!(why.contains(words), "{why}");
    }
}

#[test]
fn an_answer_that_is_cut_off_or_without_probabilities_has_no_ground() {
    let mut cut = reply("[{", &["[", "{"]);
    cut["choices"][0]["finish_reason"] = json!("length");
    let cut = read_value(&cut).unwrap();
    assert_eq!((cut.finish, cut.ground, cut.tokens.len()), (Finish::Length, Ground::None, 2));
    let mut bare = reply("[]", &["[", "]"]);
    bare["choices"][0]["logprobs"] = Value::Null;
    assert_eq!(read_value(&bare).unwrap().ground, Ground::None);
}

#[test]
fn the_words_of_an_error_are_one_short_line() {
    assert_eq!(words_of_error(br#"{"error":{"message":"too\nlong"}}"#), "too long");
    assert_eq!(words_of_error(br#"{"detail":"Not Found"}"#), "Not Found");
    assert_eq!(words_of_error(b"<html>\n"), "<html>");
    assert_eq!(words_of_error(&[b'x'; 5000]).len(), WORDS_CHARS_MAX);
}

/// What may be used of an answer, whoever wrote it.
fn assert_sound(answer: &Completion) {
    let mut at = 0;
    for token in &answer.tokens {
        assert!(token.start == at && token.end <= answer.text.len(), "{answer:?}");
        assert!((0.0..=1.0).contains(&token.prob), "{answer:?}");
        at = token.end;
    }
    assert!(answer.ground == Ground::None || at == answer.text.len(), "{answer:?}");
    if answer.finish == Finish::Stop {
        assert!(serde_json::from_str::<Vec<Value>>(&answer.text).is_ok(), "{answer:?}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_an_error(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(read_bytes(&bytes).is_err());
    }

    /// Some bytes of a right answer are others: it is an error, or still a whole answer of its form.
    #[test]
    fn a_damaged_answer_is_an_error_or_a_sound_one(
        places in prop::collection::vec((0usize..1000, any::<u8>()), 1..4),
        cut in prop::option::of(0usize..1000),
    ) {
        let defect = r#"[{"bbox_2d":[0,0,9,9],"label":"pit","severity":"minor"}]"#;
        let mut bytes = reply(defect, &["[{\"", "bbox_2d\":[0,0,9,9],\"label\":\"", "pit", "\",\"severity\":\"minor\"}]"])
            .to_string()
            .into_bytes();
        let length = bytes.len();
        places.iter().for_each(|(at, byte)| bytes[at % length] = *byte);
        bytes.truncate(cut.map_or(length, |cut| cut % length));
        if let Ok(answer) = read_bytes(&bytes) {
            assert_sound(&answer);
        }
    }
}
