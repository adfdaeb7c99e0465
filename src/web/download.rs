//! The export button: a CSV, a COCO document, or a tar of pictures with their truth.
//!
//! ```text
//! thread that reads the store --bounded channel--> body of the answer
//! ```
//!
//! At most [`EXPORTS_MAX`] at a time. A reader that has gone, or takes nothing for [`READ_WAIT`], ends its export:
//! nobody holds a place by not reading.

use super::auth::Operator;
use super::error::{ApiError, Problem};
use super::queue::Search;
use crate::store::Store;
use crate::store::export::write::{ExportError, Form, Sink, Summary};
use crate::store::query::Filter;
use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use std::io::{self, Seek as _, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{Semaphore, mpsc};
use utoipa::{IntoParams, ToSchema};

/// Exports that run at the same time.
const EXPORTS_MAX: usize = 3;
/// How long a reader has for a piece of the body.
const READ_WAIT: Duration = Duration::from_secs(30);
/// Pieces of the body that wait for the reader.
const PIECES_MAX: usize = 8;
const PIECE_BYTES: usize = 64 * 1024;

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
    let (pieces, body) = mpsc::channel(PIECES_MAX);
    let broken = Arc::new(AtomicBool::new(false));
    let cut = Arc::clone(&broken);
    tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Handle::current();
        let mut out = Pieces { pieces, buffer: Vec::new(), runtime, read_wait: READ_WAIT };
        if let Err(error) = write(&exports.store, &filter, format, &mut out).and_then(|()| out.flush()) {
            tracing::warn!(%error, "an export ended early");
            // The reader must see that something is missing.
            broken.store(true, Ordering::Relaxed);
        }
        // Before the channel ends: whoever has read this export to its end may ask for the next.
        drop(turn);
    });
    let stream = futures_util::stream::unfold(body, move |mut body| {
        let cut = Arc::clone(&cut);
        async move {
            match body.recv().await {
                Some(piece) => Some((piece, body)),
                None if cut.swap(false, Ordering::Relaxed) => {
                    Some((Err(io::Error::other("the export failed")), body))
                }
                None => None,
            }
        }
    });
    let (kind, name) = match format {
        Format::Csv => ("text/csv; charset=utf-8", "inspections.csv"),
        Format::Findings => ("text/csv; charset=utf-8", "findings.csv"),
        Format::Coco => ("application/json", "inspections.coco.json"),
        Format::Jsonl => ("application/x-tar", "inspections.tar"),
    };
    let attachment = format!("attachment; filename=\"{name}\"");
    Ok((
        [(header::CONTENT_TYPE, kind.to_owned()), (header::CONTENT_DISPOSITION, attachment)],
        Body::from_stream(stream),
    )
        .into_response())
}

fn write(store: &Store, filter: &Filter, format: Format, out: &mut Pieces) -> io::Result<()> {
    let form = match format {
        Format::Csv => Form::Csv,
        Format::Findings => Form::Findings,
        Format::Coco => Form::Coco,
        Format::Jsonl => Form::Jsonl,
    };
    let failed = |e: ExportError| io::Error::other(e.to_string());
    let summary = if format == Format::Jsonl {
        let mut tar = Tar { tar: tar::Builder::new(out), truth: store.spool() };
        let summary = store.write_export(filter, form, &mut tar).map_err(failed)?;
        tar.finish(&summary)?;
        summary
    } else {
        store.write_export(filter, form, out).map_err(failed)?
    };
    if summary.damaged > 0 {
        tracing::error!(left_out = summary.damaged, first = ?summary.named.first(), "an export without what is damaged");
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

/// A writer into the channel.
struct Pieces {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    buffer: Vec<u8>,
    runtime: tokio::runtime::Handle,
    read_wait: Duration,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = Ok(Bytes::from(std::mem::take(&mut self.buffer)));
        let sent = tokio::time::timeout(self.read_wait, self.pieces.send(piece));
        match self.runtime.block_on(sent) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(io::Error::other("the reader has gone")),
            Err(_) => Err(io::Error::other(format!("the reader took nothing for {:?}", self.read_wait))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_reader_that_takes_nothing_does_not_hold_its_place() {
        let (pieces, mut body) = mpsc::channel(PIECES_MAX);
        let runtime = tokio::runtime::Handle::current();
        let (buffer, read_wait) = (Vec::new(), Duration::from_millis(50));
        let mut out = Pieces { pieces, buffer, runtime, read_wait };
        let written = tokio::task::spawn_blocking(move || {
            let piece = vec![0; PIECE_BYTES];
            (0..PIECES_MAX + 9).try_for_each(|_| out.write_all(&piece))
        });
        let error = written.await.unwrap().unwrap_err();
        assert!(error.to_string().contains("took nothing"), "{error}");
        assert_eq!(body.recv().await.unwrap().unwrap().len(), PIECE_BYTES);
    }
}
