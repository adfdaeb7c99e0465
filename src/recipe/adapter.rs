//! The key of a recipe that names its adapter.
//!
//! ```toml
//! adapter = "nuts.adapter.gguf"   # beside this file, made by: inspectd learn finetune --pipeline nuts.toml --lora …
//! ```

use super::beside::{ADAPTER_KEY, Files, is_plain};
use crate::document::Section;
use crate::domain::pipeline::AdapterRule;
use crate::inspect::adapter;
use crate::inspect::reference::file::BANK_BYTES_MAX;

const MIB: usize = 1 << 20;

/// The adapter that the recipe names; `files` are those beside it. Where it is read to learn something, one that is not
/// there yet is no problem.
pub(super) fn adapter(root: &Section<'_>, files: &Files, is_to_learn: bool) -> Option<AdapterRule> {
    let file = root.text(ADAPTER_KEY, 128)?;
    let problem = |message: String| {
        root.problem(ADAPTER_KEY, message);
        None
    };
    if !is_plain(&file) {
        return problem("must be the name of a file beside this one: letters, digits, . _ -".into());
    }
    match files.get(&file) {
        None if is_to_learn => None,
        None => problem(format!(
            "there is no file {file} beside the recipe: inspectd learn finetune --lora makes one"
        )),
        Some(bytes) if bytes.len() > BANK_BYTES_MAX => problem(format!(
            "{file} has more than {} MiB: name it as [model] adapter, or train it with a lower rank",
            BANK_BYTES_MAX / MIB
        )),
        Some(bytes) => adapter::read(&file, bytes).map_or_else(problem, Some),
    }
}
