//! The export button: a CSV, a COCO document, or a tar of pictures with their truth.
//!
//!     thread that reads the store --bounded channel--> body of the answer
//!
//! One export at a time; a reader that stops reading stops the thread.

use super::auth::Operator;
use super::error::{ApiError, Problem};
use super::queue::Search;
use super::{images, App};
use crate::store::error::StoreError;
use crate::store::export::{csv_head, Coco, Exported};
use crate::store::query::Filter;
use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::{header, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;
use utoipa::{IntoParams, ToSchema};

/// Pieces of the body that wait for the reader.
const PIECES_MAX: usize = 8;
const PIECE_BYTES: usize = 64 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    Csv,
    Coco,
    Jsonl,
}

#[derive(Clone, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Ask {
    // Parameters do not bring their schemas into the document, so that a reference would lead nowhere.
    #[param(inline)]
    pub format: Format,
    /// Also what nobody decided about; jsonl alone leaves it out otherwise.
    pub all: Option<bool>,
}

/// `Ask` and `Search` in one query text.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AskAndSearch {
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
pub async fn export(
    State(app): State<Arc<App>>,
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
    let busy = |_| ApiError::new(StatusCode::TOO_MANY_REQUESTS, "busy", "another export is running");
    let turn = Arc::clone(&app.exporting).try_acquire_owned().map_err(busy)?;
    let (pieces, body) = mpsc::channel(PIECES_MAX);
    tokio::task::spawn_blocking(move || {
        let mut out = Pieces { pieces, buffer: Vec::new() };
        if let Err(error) = write(&app, &filter, format, &mut out).and_then(|()| out.flush()) {
            tracing::warn!(%error, "an export ended early");
            // The reader must see that something is missing.
            let _ = out.pieces.blocking_send(Err(io::Error::other("the export failed")));
        }
        // Before the channel ends: whoever has read this export to its end may ask for the next.
        drop(turn);
    });
    let stream =
        futures_util::stream::unfold(body, |mut body| async move { Some((body.recv().await?, body)) });
    let (kind, name) = match format {
        Format::Csv => ("text/csv; charset=utf-8", "inspections.csv"),
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

fn write(app: &App, filter: &Filter, format: Format, out: &mut Pieces) -> io::Result<()> {
    let failed = |e: StoreError| io::Error::other(e.to_string());
    let all = app.store.export(filter).map_err(failed)?;
    match format {
        Format::Csv => {
            out.write_all(csv_head().as_bytes())?;
            for one in all {
                out.write_all(one.map_err(failed)?.csv().as_bytes())?;
            }
            Ok(())
        }
        Format::Coco => {
            let mut coco = Coco::default();
            for one in all {
                let one = one.map_err(failed)?;
                if let Some((file, (w, h))) = picture(app, &one) {
                    coco.add(&one, &file, w, h);
                }
            }
            serde_json::to_writer(out, &coco.finish()).map_err(io::Error::other)
        }
        Format::Jsonl => {
            let mut tar = tar::Builder::new(out);
            let mut truth = Vec::new();
            for one in all {
                let one = one.map_err(failed)?;
                let Some((file, (w, h))) = picture(app, &one) else { continue };
                let Some(image) = &one.stored.image else { continue };
                let Some(path) = app.store.image_path(&image.image.sha256) else { continue };
                append(&mut tar, &file, &std::fs::read(path)?)?;
                truth.extend_from_slice(one.truth(&file, w, h).to_string().as_bytes());
                truth.push(b'\n');
            }
            append(&mut tar, "truth.jsonl", &truth)?;
            tar.finish()
        }
    }
}

/// Name and size of the picture, where it is still here.
fn picture(app: &App, one: &Exported) -> Option<(String, (u32, u32))> {
    let sha256 = &one.stored.image.as_ref()?.image.sha256;
    let path = app.store.image_path(sha256)?;
    let file = one.file(&path.extension()?.to_string_lossy());
    Some((file, images::size(app, sha256)?))
}

fn append(tar: &mut tar::Builder<&mut Pieces>, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut head = tar::Header::new_ustar();
    head.set_size(bytes.len() as u64);
    head.set_mode(0o644);
    head.set_mtime(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs());
    tar.append_data(&mut head, name, bytes)
}

/// A writer into the channel.
struct Pieces {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    buffer: Vec<u8>,
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
        let piece = Bytes::from(std::mem::take(&mut self.buffer));
        self.pieces.blocking_send(Ok(piece)).map_err(|_| io::Error::other("the reader has gone"))
    }
}
