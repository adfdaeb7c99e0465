//! Tests of requests to the model API: what is understood, and that nothing is misunderstood.

use super::super::asked::{Form, Said, Speaker};
use super::*;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::{DynamicImage, ImageFormat, RgbImage};
use proptest::prelude::*;
use serde_json::json;
use std::io::Cursor;

fn picture() -> String {
    let mut bytes = Cursor::new(vec![]);
    DynamicImage::from(RgbImage::new(8, 8)).write_to(&mut bytes, ImageFormat::Png).unwrap();
    format!("data:image/png;base64,{}", STANDARD.encode(bytes.into_inner()))
}

fn parsed(body: &Value) -> Result<Parsed, Refused> {
    parse(body.to_string().as_bytes(), Instant::now())
}

/// A request with these keys beside a model and a message.
fn with(more: Value) -> Value {
    let mut body = json!({ "model": "small", "messages": [{ "role": "user", "content": "ping" }] });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// The key that a refused request's answer names, and its code.
fn refused(body: &Value) -> (String, String) {
    let refused = parsed(body).expect_err("it is refused");
    assert_eq!(refused.status.as_u16(), 400, "{body}");
    assert!(!refused.words.message.is_empty());
    (refused.words.param.unwrap_or_default(), refused.words.code)
}

#[test]
fn what_a_request_says_is_what_is_asked() {
    let body = with(json!({
        "temperature": 0.7, "top_p": 0.9, "top_k": 40, "seed": -1, "stop": ["END", "###"], "max_completion_tokens": 5,
        "max_tokens": 9, "stream": true, "stream_options": { "include_usage": true }, "repetition_penalty": 1.1,
    }));
    let Parsed { model, question, with_usage, with_logprobs } = parsed(&body).unwrap();
    assert_eq!((model.as_str(), with_usage, with_logprobs, question.streams), ("small", true, false, true));
    let sampling = Sampling {
        temperature: 0.7,
        top_p: Some(0.9),
        top_k: Some(40),
        repetition_penalty: 1.1,
        seed: u64::MAX,
    };
    assert_eq!((question.sampling, question.tokens_max), (sampling, 5));
    assert_eq!((question.stop, question.form), (vec!["END".to_owned(), "###".to_owned()], Form::Text));
    let plain = parsed(&with(json!({}))).unwrap().question;
    assert_eq!((plain.tokens_max, plain.streams, plain.stop.len()), (ANSWER_TOKENS, false, 0));
    assert_eq!((plain.sampling.temperature, plain.sampling.top_p, plain.sampling.top_k), (0.0, None, None));
    let word = parsed(&with(json!({ "stop": "END", "top_p": 1, "top_k": -1 }))).unwrap().question;
    assert_eq!((word.stop, word.sampling.top_p, word.sampling.top_k), (vec!["END".to_owned()], None, None));
}

#[test]
fn what_would_change_the_answer_is_refused_by_its_key() {
    for (more, param, code) in [
        (json!({ "n": 2 }), "n", "unsupported_value"),
        (json!({ "presence_penalty": 0.5 }), "presence_penalty", "unsupported_parameter"),
        (json!({ "frequency_penalty": -1 }), "frequency_penalty", "unsupported_parameter"),
        (json!({ "tools": [{ "type": "function" }] }), "tools", "unsupported_parameter"),
        (json!({ "functions": [{}] }), "functions", "unsupported_parameter"),
        (json!({ "tool_choice": "required" }), "tool_choice", "unsupported_parameter"),
        (json!({ "logit_bias": { "50256": -100 } }), "logit_bias", "unsupported_parameter"),
        (json!({ "modalities": ["text", "audio"] }), "modalities", "unsupported_value"),
        (json!({ "top_logprobs": 3, "logprobs": true }), "top_logprobs", "unsupported_parameter"),
        (json!({ "logprobs": true, "stream": true }), "logprobs", "unsupported_parameter"),
        (json!({ "temperature": 2.1 }), "temperature", "invalid_value"),
        (json!({ "temperature": "hot" }), "temperature", "invalid_value"),
        (json!({ "top_p": 1.5 }), "top_p", "invalid_value"),
        (json!({ "max_tokens": 0 }), "max_tokens", "invalid_value"),
        (json!({ "max_tokens": 1.5 }), "max_tokens", "invalid_value"),
        (json!({ "max_completion_tokens": 9000 }), "max_completion_tokens", "invalid_value"),
        (json!({ "stop": ["a", "b", "c", "d", "e"] }), "stop", "invalid_value"),
        (json!({ "stop": 7 }), "stop", "invalid_value"),
        (json!({ "stream": "yes" }), "stream", "invalid_value"),
        (json!({ "model": null }), "model", "invalid_value"),
        (json!({ "messages": [] }), "messages", "invalid_value"),
        (json!({ "response_format": { "type": "xml" } }), "response_format.type", "invalid_value"),
        (
            json!({ "response_format": { "type": "json_schema" } }),
            "response_format.json_schema",
            "invalid_value",
        ),
        (
            json!({ "response_format": { "type": "json_schema", "json_schema": "{" } }),
            "response_format.json_schema",
            "invalid_json_schema",
        ),
    ] {
        assert_eq!(refused(&with(more.clone())), (param.to_owned(), code.to_owned()), "{more}");
    }
    assert_eq!(refused(&json!([1])), (String::new(), "invalid_json".to_owned()));
}

/// Dify sends `thinking`, others `user` and `metadata`; and keys that say nothing.
#[test]
fn what_is_nothing_to_the_answer_is_ignored() {
    let harmless = with(json!({
        "user": "u1", "metadata": { "a": "b" }, "thinking": { "type": "disabled" }, "store": true, "n": 1,
        "presence_penalty": 0, "frequency_penalty": 0.0, "tools": [], "tool_choice": "none", "logit_bias": {},
        "modalities": ["text"], "reasoning_effort": "low", "response_format": { "type": "text" }, "stop": null,
        "temperature": null, "seed": null, "parallel_tool_calls": true, "max_tokens": 12.0,
    }));
    let question = parsed(&harmless).unwrap().question;
    assert_eq!((question.tokens_max, question.form), (12, Form::Text));
}

#[test]
fn forms_are_taken_as_openai_and_as_dify_write_them() {
    let schema = json!({ "type": "object", "properties": { "schema": { "type": "string" } } });
    let forms = [
        json!({ "type": "json_schema", "json_schema": { "name": "part", "strict": true, "schema": schema } }),
        json!({ "type": "json_schema", "json_schema": schema }),
        json!({ "type": "json_schema", "json_schema": schema.to_string() }),
        json!({ "type": "json_object", "schema": schema }),
    ];
    for format in forms {
        let form = parsed(&with(json!({ "response_format": format }))).unwrap().question.form;
        let Form::Json(held) = form else { panic!("{format}: {form:?}") };
        let mut held: Value = serde_json::from_str(&held).unwrap();
        held.as_object_mut().unwrap().remove("x-guidance").expect("blanks are bound");
        assert_eq!(held, schema, "{format}");
    }
    let object =
        parsed(&with(json!({ "response_format": { "type": "json_object" } }))).unwrap().question.form;
    assert!(matches!(object, Form::Json(schema) if schema.contains("\"object\"")));
}

#[test]
fn conversations_keep_their_roles_and_the_order_of_what_is_said() {
    use Speaker::{Assistant, System, User};
    let body = json!({ "model": "small", "messages": [
        { "role": "system", "content": "Be brief." },
        { "role": "developer", "content": [{ "type": "text", "text": "In German." }] },
        { "role": "user", "content": [
            { "type": "text", "text": "Look:" },
            { "type": "image_url", "image_url": { "url": picture(), "detail": "low" } },
            { "type": "image_url", "image_url": picture() },
            "and?",
        ] },
        { "role": "assistant", "content": null },
        { "role": "user", "content": "Again." },
    ] });
    let turns = parsed(&body).unwrap().question.turns;
    assert_eq!(turns.iter().map(|turn| turn.speaker).collect::<Vec<_>>(), [System, User, Assistant, User]);
    let words: String = turns[0].said.iter().map(|said| format!("{said:?}")).collect();
    assert_eq!(words, r#"Text("Be brief.")Text("\n\n")Text("In German.")"#);
    let said: Vec<Option<bool>> = turns[1]
        .said
        .iter()
        .map(|said| match said {
            Said::Text(_) => None,
            Said::Picture(picture) => Some(picture.is_low),
        })
        .collect();
    assert_eq!(said, [None, Some(true), Some(false), None]);
}

#[test]
fn a_message_that_cannot_be_said_is_named_by_its_place() {
    let user = json!({ "role": "user", "content": "x" });
    let image = |url: &str| json!({ "type": "image_url", "image_url": { "url": url } });
    for (messages, param) in [
        (json!([{ "role": "assistant", "content": "x" }]), "messages"),
        (json!([user, { "role": "system", "content": "x" }, user]), "messages[1].role"),
        (json!([{ "role": "tool", "content": "x" }]), "messages[0].role"),
        (json!([{ "role": "pirate", "content": "x" }]), "messages[0].role"),
        (json!([{ "content": "x" }]), "messages[0].role"),
        (json!([user, { "role": "user" }]), "messages[1].content"),
        (json!([user, { "role": "user", "content": 7 }]), "messages[1].content"),
        (json!(["x"]), "messages[0]"),
        (json!([{ "role": "user", "content": [{ "type": "input_audio" }] }]), "messages[0].content[0].type"),
        (json!([{ "role": "user", "content": [7] }]), "messages[0].content[0]"),
        (json!([{ "role": "system", "content": [image(&picture())] }, user]), "messages[0].content[0].type"),
        (
            json!([{ "role": "user", "content": [image("https://a.example/x.png")] }]),
            "messages[0].content[0].image_url.url",
        ),
        (
            json!([{ "role": "user", "content": ["x", image("data:image/png;base64,AAAA")] }]),
            "messages[0].content[1].image_url.url",
        ),
        (
            json!([{ "role": "user", "content": [{ "type": "video", "video": "data:video/mp4;base64,AAAA" }] }]),
            "messages[0].content[0].video",
        ),
        (
            json!([user, { "role": "assistant", "content": "x", "tool_calls": [{}] }, user]),
            "messages[1].tool_calls",
        ),
    ] {
        assert_eq!(refused(&json!({ "model": "small", "messages": messages })).0, param, "{messages}");
    }
}

/// What the turn says, with `#` for a picture.
fn said(content: Value) -> String {
    let body = json!({ "model": "small", "messages": [{ "role": "user", "content": [content] }] });
    let turns = parsed(&body).unwrap_or_else(|refused| panic!("{refused:?}")).question.turns;
    let piece = |said: &Said| match said {
        Said::Text(text) => text.clone(),
        Said::Picture(_) => "#".to_owned(),
    };
    turns[0].said.iter().map(piece).collect()
}

#[test]
fn a_video_is_its_frames_after_their_times() {
    let (url, base64) = (picture(), picture().replace("data:image/png;base64,", ""));
    let two = "<0.0 seconds>#<0.5 seconds>#";
    assert_eq!(said(json!({ "type": "video", "video": [url, url] })), two);
    assert_eq!(
        said(json!({ "type": "video", "video": [url, url], "fps": 4 })),
        "<0.0 seconds>#<0.2 seconds>#"
    );
    let times = json!({ "type": "video", "video": [url, url], "timestamps": [1, 61.26] });
    assert_eq!(said(times), "<1.0 seconds>#<61.3 seconds>#");
    let frames = format!("data:video/jpeg;base64,{base64},{base64}");
    assert_eq!(said(json!({ "type": "video_url", "video_url": { "url": frames } })), two);
    for times in [json!([1]), json!([2, 1]), json!([0, -1]), json!("x")] {
        let content = json!([{ "type": "video", "video": [url, url], "timestamps": times }]);
        let body = json!({ "model": "small", "messages": [{ "role": "user", "content": content }] });
        assert_eq!(refused(&body).0, "messages[0].content[0].timestamps", "{times}");
    }
}

/// A request with everything in it.
fn whole() -> String {
    json!({ "model": "small", "temperature": 0.5, "stop": ["x"], "stream": false, "n": 1, "messages": [
        { "role": "system", "content": "Be brief." },
        { "role": "user", "content": [
            { "type": "text", "text": "Wie heißt das? 缺陷" },
            { "type": "image_url", "image_url": { "url": picture(), "detail": "high" } },
            { "type": "video", "video": [picture()], "fps": 1 },
        ] },
    ], "response_format": { "type": "json_schema", "json_schema": { "name": "a", "schema": { "type": "array" } } } })
    .to_string()
}

#[test]
fn a_body_that_is_cut_anywhere_is_refused() {
    let whole = whole();
    parse(whole.as_bytes(), Instant::now()).expect("the whole is fine");
    for end in 0..whole.len() {
        let refused = parse(&whole.as_bytes()[..end], Instant::now()).expect_err("it is cut");
        assert_eq!((refused.status.as_u16(), refused.words.code.as_str()), (400, "invalid_json"), "{end}");
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop_oneof![
            Just("user".to_owned()),
            Just("text".to_owned()),
            Just("image_url".to_owned()),
            Just("json_schema".to_owned()),
            Just("data:image/png;base64,iVBORw0KGgo=".to_owned()),
            ".{0,12}",
        ]
        .prop_map(Value::from),
    ];
    let key = prop_oneof![
        Just("role"),
        Just("content"),
        Just("type"),
        Just("text"),
        Just("image_url"),
        Just("url"),
        Just("detail"),
        Just("video"),
        Just("timestamps"),
        Just("json_schema"),
        Just("schema"),
    ];
    leaf.prop_recursive(5, 48, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(key.clone().prop_map(str::to_owned), inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    /// Whatever stands under whatever key: it is a question, or a refusal that names a key.
    #[test]
    fn any_json_is_a_question_or_is_refused_by_its_key(
        key in prop::sample::select(vec![
            "model", "messages", "n", "stop", "tools", "stream", "stream_options", "response_format", "max_tokens",
            "temperature", "top_p", "top_k", "seed", "logprobs", "top_logprobs", "logit_bias", "modalities",
        ]),
        value in any_json(),
    ) {
        let body = with(json!({ key: value }));
        if let Err(refused) = parsed(&body) {
            prop_assert_eq!(refused.status.as_u16(), 400);
            let param = refused.words.param.unwrap_or_default();
            prop_assert!(param.starts_with(key), "{}: {}", param, body);
        }
    }

    #[test]
    fn any_content_is_said_or_is_refused_by_its_place(content in any_json()) {
        let body = json!({ "model": "small", "messages": [{ "role": "user", "content": content }] });
        if let Err(refused) = parsed(&body) {
            let param = refused.words.param.unwrap_or_default();
            prop_assert!(param.starts_with("messages[0].content"), "{}: {}", param, body);
        }
    }
}
