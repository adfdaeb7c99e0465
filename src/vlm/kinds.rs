//! What the two files of a pair must be, in words for whoever has brought others.
//!
//! ```text
//! text    general.architecture = qwen3vl, and no rope.scaling that would have to be computed
//! vision  general.architecture = clip, with the projector qwen3vl_merger
//! ```

use super::error::VlmError;
use super::gguf::{Gguf, Value, brief};

/// Architectures that the two files of a pair name.
pub const TEXT: &str = "qwen3vl";
/// Of the vision file.
pub const VISION: &str = "clip";
/// The projector of Qwen3-VL's vision files.
const PROJECTOR: &str = "qwen3vl_merger";
/// Newer converters write the projector's kind per modality.
const PROJECTOR_KEYS: [&str; 2] = ["clip.projector_type", "clip.vision.projector_type"];
const ARCHITECTURE_KEY: &str = "general.architecture";
/// What the text model would have to compute beside plain M-RoPE: `llama-arch.cpp`'s keys.
const SCALING_TYPE_KEY: &str = "qwen3vl.rope.scaling.type";
const SCALING_FACTOR_KEYS: [&str; 2] = ["qwen3vl.rope.scaling.factor", "qwen3vl.rope.scale_linear"];

/// That both files are what their places ask for.
///
/// # Errors
/// `Model` with the path of the file that is another one.
pub fn check(text: &Gguf, mmproj: &Gguf) -> Result<(), VlmError> {
    let is = |file: &Gguf, word: &str| file.text(ARCHITECTURE_KEY).is_ok_and(|found| found == word);
    if is(text, VISION) && is(mmproj, TEXT) {
        let why = "this is the vision file of the pair: text and mmproj are swapped";
        return Err(text.error(format!("key {ARCHITECTURE_KEY}"), why));
    }
    check_text(text)?;
    check_vision(mmproj)
}

/// That a file is the text model of a Qwen3-VL.
///
/// # Errors
/// `Model` naming the key.
pub fn check_text(g: &Gguf) -> Result<(), VlmError> {
    let found = g.text(ARCHITECTURE_KEY)?;
    let why = match found {
        TEXT => match g.text("general.type") {
            Ok("adapter") => Some("this is an adapter, which is added to a text model and is none itself".to_owned()),
            _ => None,
        },
        VISION => Some("this is a vision file (mmproj), and the text file of the pair is expected".to_owned()),
        "qwen3vlmoe" => Some(
            "\"qwen3vl\" expected, found \"qwen3vlmoe\": Qwen3-VL with experts (30B-A3B, 235B-A22B) is not supported, those without (2B, 4B, 8B, 32B) are"
                .to_owned(),
        ),
        found => Some(format!("\"qwen3vl\" expected, the text model of a Qwen3-VL (2B, 4B, 8B, 32B), found {found:?}")),
    };
    why.map_or_else(|| check_scaling(g), |why| Err(g.error(format!("key {ARCHITECTURE_KEY}"), why)))
}

/// That positions need no scaling, which is not built: a file that asks for it would be answered otherwise than meant.
fn check_scaling(g: &Gguf) -> Result<(), VlmError> {
    let unscaled = "none expected: the scaling of positions (YaRN, linear, dynamic) is not supported; load a file without it, for contexts up to that of the training";
    match g.metadata.get(SCALING_TYPE_KEY) {
        None => {}
        Some(Value::Text(kind)) if kind == "none" => return Ok(()),
        // Whatever its type, a factor of 1 scales nothing.
        Some(_) if is_one(g.metadata.get(SCALING_FACTOR_KEYS[0])) => return Ok(()),
        Some(found) => {
            let factor = g.metadata.get(SCALING_FACTOR_KEYS[0]);
            let factor = factor.map_or_else(String::new, |x| format!(" with a factor of {}", brief(x)));
            return Err(g.error(
                format!("key {SCALING_TYPE_KEY}"),
                format!("is {}{factor}; {unscaled}", brief(found)),
            ));
        }
    }
    // Without a type llama.cpp takes a factor as that of linear scaling.
    for key in SCALING_FACTOR_KEYS {
        if let Some(found) = g.metadata.get(key).filter(|found| !is_one(Some(found))) {
            return Err(g.error(format!("key {key}"), format!("is {}; {unscaled}", brief(found))));
        }
    }
    Ok(())
}

/// True for a factor that scales nothing; llama.cpp takes 0 as 1.
fn is_one(value: Option<&Value>) -> bool {
    match value {
        Some(Value::Float(x)) => *x == 1.0 || *x == 0.0,
        Some(Value::Uint(n)) => *n <= 1,
        Some(Value::Int(n)) => (0..=1).contains(n),
        _ => false,
    }
}

/// That a file is the vision model of a Qwen3-VL.
///
/// # Errors
/// `Model` naming the key.
pub fn check_vision(g: &Gguf) -> Result<(), VlmError> {
    let found = g.text(ARCHITECTURE_KEY)?;
    if found != VISION {
        let what = if found == TEXT { "this is a text model" } else { "this is no vision model" };
        let why = format!(
            "\"clip\" expected, found {found:?}: {what}, and the vision file of the pair (mmproj-….gguf) is expected"
        );
        return Err(g.error(format!("key {ARCHITECTURE_KEY}"), why));
    }
    let key =
        PROJECTOR_KEYS.into_iter().find(|key| g.metadata.contains_key(*key)).unwrap_or(PROJECTOR_KEYS[0]);
    let found = g.text(key)?;
    if found != PROJECTOR {
        let why = format!(
            "{PROJECTOR:?} expected, that of a Qwen3-VL, found {found:?}: it is the vision file of another model"
        );
        return Err(g.error(format!("key {key}"), why));
    }
    Ok(())
}
