//! Who a server is, and whether it counts as we do: asked before it is asked anything else.
//!
//! ```text
//! GET /version, /props --> vLLM, llama-server, or neither --GET …/models--> the model and what is said of it
//!     --a known prompt with known pictures--> usage.prompt_tokens is what our planner counts | refused, with both numbers
//! ```
//!
//! A server that resizes a picture, leaves it out, or puts words of its own before the question counts other tokens than
//! we do: then the model sees something else than the recipe says, and its answers are somebody else's. The known prompt
//! is the ten digits, each of which is one token to every tokenizer of Qwen; what the turns' own words are in tokens the
//! server says where it can ([`words`]), and otherwise they are what Qwen3-VL's vocabulary makes of them. One picture has
//! the fewest pixels that are ever sent, the other one is wide.

use super::http::{Response, To, Way};
use super::wire::{data_url, readable, tokens_of, words_of_error};
use super::{Fault, Kind};
use hyper::StatusCode;
use image::{Rgb, RgbImage};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use vlm::image::ROW_PX;

/// The known prompt, and its tokens.
const DIGITS: (&str, usize) = ("0123456789", 10);
/// `<|im_start|>`, `<|im_end|>`, `<|im_start|>`: one token each by what they are.
const CONTROL_TOKENS: usize = 3;
/// What stands between them, and how many tokens Qwen3-VL's vocabulary makes of each.
const TURN_WORDS: [(&str, usize); 3] = [("user\n", 2), ("\n", 1), ("assistant\n", 2)];
/// The wide picture.
const WIDE_PX: (u32, u32) = (640, 448);
/// Longest name of a model or a version: they end up in every record.
const NAME_CHARS_MAX: usize = 96;

/// What a server says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stated {
    pub kind: Kind,
    pub version: String,
    /// As requests name it.
    pub model: String,
    /// sha256 (hex) of all that is said of the model.
    pub facts_sha256: String,
    /// Requests that it works on side by side; `None`: it does not say.
    pub slots: Option<usize>,
}

/// Asks a server who it is and proves that it counts as we do.
///
/// # Errors
/// Why it cannot be asked anything.
pub(super) async fn probe(
    way: &Way,
    kind: Option<Kind>,
    model: Option<&str>,
    min_pixels: u32,
) -> Result<Stated, Fault> {
    let (found, version, props) = who(way, kind).await?;
    let (model, mut facts) = named(way, model).await?;
    // The file behind llama-server's name, without its folder.
    let file = props["model_path"].as_str().and_then(|path| path.rsplit('/').next());
    facts["file"] = json!(file);
    let facts_sha256 = sha256(&format!("remote: {facts}"));
    let slots = props["total_slots"].as_u64().map(|slots| slots as usize).filter(|slots| *slots > 0);
    let stated = Stated { kind: found, version, model, facts_sha256, slots };
    let side = smallest_side(min_pixels);
    for (width, height) in [(side, side), WIDE_PX] {
        if width * height >= min_pixels {
            count(way, &stated, width, height).await?;
        }
    }
    Ok(stated)
}

/// sha256 of a text, in hex.
pub(super) fn sha256(text: &str) -> String {
    Sha256::digest(text).iter().map(|b| format!("{b:02x}")).collect()
}

/// The side of the smallest square of whole rows that has so many pixels.
fn smallest_side(min_pixels: u32) -> u32 {
    let side = f64::from(min_pixels).sqrt() / f64::from(ROW_PX);
    (side.ceil() as u32).max(1) * ROW_PX
}

/// The kind of the server, its version, and llama-server's properties.
async fn who(way: &Way, kind: Option<Kind>) -> Result<(Kind, String, Value), Fault> {
    if kind.is_none_or(|kind| kind == Kind::Vllm)
        && let Some(said) = json_of(way.ask(To::Beside("/version"), None).await.map_err(Fault::Lost)?)
        && let Some(version) = said["version"].as_str()
    {
        return Ok((Kind::Vllm, name_of(version), Value::Null));
    }
    if kind.is_none_or(|kind| kind == Kind::Llama)
        && let Some(props) = json_of(way.ask(To::Beside("/props"), None).await.map_err(Fault::Lost)?)
        && props["total_slots"].is_u64()
    {
        if props["modalities"]["vision"] == false {
            return Err(Fault::Denied("its model takes no pictures: llama-server needs --mmproj".into()));
        }
        return Ok((Kind::Llama, name_of(props["build_info"].as_str().unwrap_or_default()), props));
    }
    Ok((kind.unwrap_or(Kind::OpenAi), String::new(), Value::Null))
}

/// The model by which requests are answered, and what is said of it.
async fn named(way: &Way, wanted: Option<&str>) -> Result<(String, Value), Fault> {
    let response = way.ask(To::Api("/models"), None).await.map_err(Fault::Lost)?;
    if response.status != StatusCode::OK {
        return Err(status(&response));
    }
    let said: Value = serde_json::from_slice(&response.body)
        .map_err(|error| Fault::Lost(format!("its list of models: {}", readable(&error.to_string()))))?;
    let models = said["data"].as_array().map(Vec::as_slice).unwrap_or_default();
    let ids: Vec<&str> = models.iter().filter_map(|model| model["id"].as_str()).collect();
    let id = match (wanted, ids.as_slice()) {
        (Some(wanted), ids) if ids.contains(&wanted) => wanted,
        (Some(wanted), ids) => {
            let ids = readable(&ids.join(", "));
            return Err(Fault::Denied(format!("it has no model {wanted:?}; it has {ids}")));
        }
        (None, [only]) => *only,
        (None, []) => return Err(Fault::Denied("it has no model".into())),
        (None, ids) => {
            let ids = readable(&ids.join(", "));
            return Err(Fault::Denied(format!("it has several models: name one by remote_model; {ids}")));
        }
    };
    let mut facts = models.iter().find(|model| model["id"] == *id).cloned().unwrap_or_default();
    // What differs from start to start says nothing about the model.
    for passing in ["created", "permission"] {
        facts.as_object_mut().and_then(|facts| facts.remove(passing));
    }
    Ok((id.to_owned(), facts))
}

/// Has the server count the known prompt with a picture of this size.
async fn count(way: &Way, stated: &Stated, width: u32, height: u32) -> Result<(), Fault> {
    let expected = CONTROL_TOKENS + words(way, stated).await? + DIGITS.1 + tokens_of(width, height);
    let picture = data_url(&known(width, height)).map_err(Fault::Lost)?;
    let content = json!([
        { "type": "image_url", "image_url": { "url": picture } },
        { "type": "text", "text": DIGITS.0 },
    ]);
    let body = json!({
        "model": stated.model,
        "messages": [{ "role": "user", "content": content }],
        "max_tokens": 1,
        "temperature": 0.0,
        "stream": false,
    });
    let response = way
        .ask(To::Api("/chat/completions"), Some(body.to_string().into_bytes()))
        .await
        .map_err(Fault::Lost)?;
    if response.status != StatusCode::OK {
        return Err(match status(&response) {
            // A known prompt is never refused by a server that can be asked.
            Fault::Refused(why) => Fault::Denied(why),
            other => other,
        });
    }
    let said: Value = serde_json::from_slice(&response.body).unwrap_or_default();
    let counted = said["usage"]["prompt_tokens"].as_u64();
    let counted = counted.ok_or_else(|| Fault::Denied("it does not count the tokens of a prompt".into()))?;
    if counted != expected as u64 {
        return Err(Fault::Denied(format!(
            "it counts {counted} tokens of a known prompt with a picture of {width}x{height} px, and we count \
             {expected}: it resizes pictures, or its chat template is not that of Qwen3-VL"
        )));
    }
    Ok(())
}

/// Tokens of the turns' own words in the server's vocabulary; of Qwen3-VL where it does not say.
async fn words(way: &Way, stated: &Stated) -> Result<usize, Fault> {
    let mut sum = 0;
    for (words, usual) in TURN_WORDS {
        let body = match stated.kind {
            Kind::Vllm => json!({ "model": stated.model, "prompt": words, "add_special_tokens": false }),
            Kind::Llama => json!({ "content": words, "add_special": false }),
            Kind::OpenAi => {
                sum += usual;
                continue;
            }
        };
        let response = way.ask(To::Beside("/tokenize"), Some(body.to_string().into_bytes())).await;
        let said = json_of(response.map_err(Fault::Lost)?).unwrap_or_default();
        sum += said["tokens"].as_array().map_or(usual, Vec::len);
    }
    Ok(sum)
}

/// A picture in which every row and column is another one.
fn known(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        Rgb([(x % 256) as u8, (y % 256) as u8, ((x + y) / 4 % 256) as u8])
    })
}

fn json_of(response: Response) -> Option<Value> {
    (response.status == StatusCode::OK).then(|| serde_json::from_slice(&response.body).ok()).flatten()
}

fn name_of(words: &str) -> String {
    readable(words).chars().take(NAME_CHARS_MAX).collect()
}

/// What a status other than 200 says about the server.
pub(super) fn status(response: &Response) -> Fault {
    let code = response.status.as_u16();
    let why = || format!("status {code}: {}", words_of_error(&response.body));
    match code {
        429 | 503 => Fault::Busy(response.retry_after),
        401 | 403 => Fault::Denied(format!("it refuses the key of remote_key_file: {}", why())),
        404 | 405 => Fault::Denied(why()),
        400..500 => Fault::Refused(why()),
        _ => Fault::Lost(why()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::body::Bytes;

    #[test]
    fn the_smallest_picture_is_the_smallest_that_is_never_enlarged() {
        assert_eq!([1, 1024, 4096, 65_536, 65_537].map(smallest_side), [32, 32, 64, 256, 288]);
        assert_eq!(tokens_of(256, 256), 64 + 2);
    }

    #[test]
    fn a_status_says_whose_fault_it_is() {
        let of = |code: u16, body: &'static str| {
            let status = StatusCode::from_u16(code).unwrap();
            super::status(&Response { status, retry_after: None, body: Bytes::from(body) })
        };
        assert!(matches!(of(429, ""), Fault::Busy(None)));
        assert!(matches!(of(503, ""), Fault::Busy(None)));
        assert!(matches!(of(401, ""), Fault::Denied(_)));
        assert!(matches!(of(500, "oops"), Fault::Lost(why) if why == "status 500: oops"));
        let words = r#"{"error":{"message":"too\nlong"}}"#;
        assert!(matches!(of(400, words), Fault::Refused(why) if why == "status 400: too long"));
    }
}
