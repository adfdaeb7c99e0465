//! The config of a station of the tests, with the shipped recipes and the shipped model.

use std::path::Path;

/// `sections` are those beside station, model, store and broker; the broker is on this machine.
pub(crate) fn config(store: &Path, port: u16, sections: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    format!(
        r#"
pipelines_dir = "{pipelines}"
[station]
root = "inspectd"
site = "test"
area = "body"
line = "line1"
station = "st10"
[model]
text = "{model}/inspectd-small.gguf"
mmproj = "{model}/mmproj-inspectd-small.gguf"
{sections}
[store]
dir = "{store}"
free_bytes_min = 8388608
[mqtt]
url = "mqtt://127.0.0.1:{port}"
"#,
        pipelines = root.join("pipelines").display(),
        model = root.join("fixtures/model").display(),
        store = store.display(),
    )
}
