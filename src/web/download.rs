//! The export button: a CSV, a COCO document, or a tar of pictures with their truth.
//!
//! ```text
//! thread that reads the store --pieces--> body of the answer
//! ```
//!
//! At most [`EXPORTS_MAX`] at a time; who does not read holds no place (`pieces`).

use super::auth::Operator;
use super::error::{ApiError, Problem};
use super::pieces::{Pieces, streamed};
use super::queue::{ActiveRecipes, Search};
use crate::store::Store;
use crate::store::export::write::{ExportError, Form, Sink, Summary};
use crate::store::query::Filter;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use std::io::{self, Seek as _, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::Semaphore;
use utoipa::{IntoParams, ToSchema};

/// Exports that run at the same time.
const EXPORTS_MAX: usize = 3;

/// The exports of a store.
pub struct Exports {
    store: Arc<Store>,
    /// A permit for each that may run.
    permits: Arc<Semaphore>,
}

impl Exports {
    /// None is running.
    pub fn new(store: Arc<Store>) -> Self {
        Self { store, permits: Arc::new(Semaphore::new(EXPORTS_MAX)) }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Format {
    Csv,
    /// One line a finding.
    Findings,
    Coco,
    Jsonl,
}

#[derive(Clone, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "it describes the parameters; `AskAndSearch` reads them")]
pub(super) struct Ask {
    // Parameters do not bring their schemas into the document, so that a reference would lead nowhere.
    #[param(inline)]
    pub format: Format,
    /// Also what nobody decided about; jsonl alone leaves it out otherwise.
    pub all: Option<bool>,
}

/// `Ask` and `Search` in one query text.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AskAndSearch {
    format: Format,
    all: Option<bool>,
    verdict: Option<String>,
    grade: Option<String>,
    label: Option<String>,
    camera: Option<String>,
    pipeline: Option<String>,
    part: Option<String>,
    from: Option<String>,
    to: Option<String>,
    reviewed: Option<bool>,
    decided: Option<String>,
}

/// Inspections with what people decided, for spreadsheets, training and `inspectd replay`.
#[utoipa::path(get, path = "/api/v1/export", tag = "inspections", params(Ask, Search), responses(
    (status = 200, description = "CSV, JSON, or a tar of truth.jsonl and images/", content_type = "application/octet-stream", body = Vec<u8>),
    (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem),
    (status = 429, body = Problem)))]
pub(super) async fn export(
    State(exports): State<Arc<Exports>>,
    State(recipes): State<Arc<ActiveRecipes>>,
    _: Operator,
    Query(ask): Query<AskAndSearch>,
) -> Result<Response, ApiError> {
    let AskAndSearch {
        format,
        all,
        verdict,
        grade,
        label,
        camera,
        pipeline,
        part,
        from,
        to,
        reviewed,
        decided,
    } = ask;
    let search = Search { verdict, grade, label, camera, pipeline, part, from, to, reviewed, decided };
    let mut filter = search.filter()?;
    if format == Format::Jsonl && all != Some(true) {
        filter.reviewed = Some(true);
    }
    let busy = |_| {
        ApiError::new(StatusCode::TOO_MANY_REQUESTS, "busy", format!("{EXPORTS_MAX} exports are running"))
    };
    let turn = Arc::clone(&exports.permits).try_acquire_owned().map_err(busy)?;
    let body = streamed("an export", turn, move |out| {
        let labels = recipes.labels_as_written(filter.pipeline.as_deref());
        write(&exports.store, &filter, format, &labels, out)
    });
    let (kind, name) = match format {
        Format::Csv => ("text/csv; charset=utf-8", "inspections.csv"),
        Format::Findings => ("text/csv; charset=utf-8", "findings.csv"),
        Format::Coco => ("application/json", "inspections.coco.json"),
        Format::Jsonl => ("application/x-tar", "inspections.tar"),
    };
    let attachment = format!("attachment; filename=\"{name}\"");
    let headers = [(header::CONTENT_TYPE, kind.to_owned()), (header::CONTENT_DISPOSITION, attachment)];
    Ok((headers, body).into_response())
}

fn write(
    store: &Store,
    filter: &Filter,
    format: Format,
    labels: &[String],
    out: &mut Pieces,
) -> io::Result<()> {
    let form = match format {
        Format::Csv => Form::Csv,
        Format::Findings => Form::Findings,
        Format::Coco => Form::Coco,
        Format::Jsonl => Form::Jsonl,
    };
    let failed = |e: ExportError| io::Error::other(e.to_string());
    let summary = if format == Format::Jsonl {
        let mut tar = Tar { tar: tar::Builder::new(out), truth: store.spool() };
        let summary = store.write_export(filter, form, labels, &mut tar).map_err(failed)?;
        tar.finish(&summary)?;
        summary
    } else {
        store.write_export(filter, form, labels, out).map_err(failed)?
    };
    if summary.damaged > 0 {
        let first =
            summary.named.first().map_or_else(String::new, |(seq, id, what)| format!("{seq} ({id}): {what}"));
        tracing::error!(left_out = summary.damaged, first, "an export without what is damaged");
    }
    Ok(())
}

/// The document alone: its pictures are not asked for.
impl Sink for Pieces {
    fn text(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn picture(&mut self, _: &str, _: &str, _: &Path) -> io::Result<()> {
        Ok(())
    }
}

/// Pictures as they come; what is said of them waits in a spool, because a tar names sizes first.
struct Tar<'a> {
    tar: tar::Builder<&'a mut Pieces>,
    truth: tempfile::SpooledTempFile,
}

impl Sink for Tar<'_> {
    fn text(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.truth.write_all(bytes)
    }

    fn picture(&mut self, name: &str, _: &str, file: &Path) -> io::Result<()> {
        let bytes = std::fs::read(file)?;
        append(&mut self.tar, name, bytes.len() as u64, bytes.as_slice())
    }
}

impl Tar<'_> {
    fn finish(mut self, summary: &Summary) -> io::Result<()> {
        if summary.damaged > 0 {
            let left_out = serde_json::to_vec(summary)?;
            append(&mut self.tar, "left_out.json", left_out.len() as u64, left_out.as_slice())?;
        }
        let bytes = self.truth.stream_position()?;
        self.truth.rewind()?;
        append(&mut self.tar, "truth.jsonl", bytes, &mut self.truth)?;
        self.tar.finish()
    }
}

fn append(
    tar: &mut tar::Builder<&mut Pieces>,
    name: &str,
    size: u64,
    bytes: impl io::Read,
) -> io::Result<()> {
    let mut head = tar::Header::new_ustar();
    head.set_size(size);
    head.set_mode(0o644);
    head.set_mtime(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs());
    tar.append_data(&mut head, name, bytes)
}
