//! What the two files of a pair must be, in words for whoever has brought others.
//!
//! ```text
//! text    general.architecture = qwen3vl
//! vision  general.architecture = clip, with the projector qwen3vl_merger
//! ```

use super::error::VlmError;
use super::gguf::Gguf;

/// Architectures that the two files of a pair name.
pub const TEXT: &str = "qwen3vl";
/// Of the vision file.
pub const VISION: &str = "clip";
/// The projector of Qwen3-VL's vision files.
const PROJECTOR: &str = "qwen3vl_merger";
/// Newer converters write the projector's kind per modality.
const PROJECTOR_KEYS: [&str; 2] = ["clip.projector_type", "clip.vision.projector_type"];
const ARCHITECTURE_KEY: &str = "general.architecture";

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
    why.map_or(Ok(()), |why| Err(g.error(format!("key {ARCHITECTURE_KEY}"), why)))
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
