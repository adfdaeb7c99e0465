//! The proof of the ledgers and of the pictures, over HTTP: what `inspectd verify` does at the box.
//!
//! The answer is a stream of lines, because a proof reads everything that is kept:
//!
//! ```text
//! {"progress":{"what":"ledger","done":4000,"total":90000}}    now and then
//! {"flaw":{"seq":7,"id":"…","kind":"picture",…}}              each picture or part of a record that is not whole
//! {"summary":{"inspections":90000,"head_hash":"…",…,"whole":true}} the last; a body without it is no proof
//! ```
//!
//! One runs at a time; who does not read holds no place (`pieces`).

use super::auth::Engineer;
use super::error::{ApiError, Problem};
use super::pieces::{Pieces, streamed};
use crate::store::Store;
use crate::store::audit::is_whole;
use crate::store::error::StoreError;
use crate::store::proof::{FileStep, Flaw};
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use utoipa::IntoParams;

/// Proofs that run at the same time: each reads all that is kept, beside the line.
const PROOFS_MAX: usize = 1;
/// Signs of progress come about this often, so that no proxy takes the answer for dead.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// The proofs of a store.
pub(crate) struct Proofs {
    store: Arc<Store>,
    /// A permit for each that may run.
    permits: Arc<Semaphore>,
}

impl Proofs {
    /// None is running.
    pub(crate) fn new(store: Arc<Store>) -> Self {
        Self { store, permits: Arc::new(Semaphore::new(PROOFS_MAX)) }
    }
}

#[derive(Clone, Copy, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Ask {
    /// False: prove the ledgers only.
    pub pictures: Option<bool>,
}

/// Proves that the ledgers have no gap and no edit, and that every picture is the one that its record names.
#[utoipa::path(get, path = "/api/v1/verify", tag = "inspections", params(Ask), responses(
    (status = 200, description = "lines of JSON, the last with the summary", content_type = "application/x-ndjson", body = String),
    (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem),
    (status = 429, body = Problem)))]
pub(super) async fn verify(
    State(proofs): State<Arc<Proofs>>,
    Engineer(principal): Engineer,
    Query(ask): Query<Ask>,
) -> Result<Response, ApiError> {
    let busy = |_| ApiError::new(StatusCode::TOO_MANY_REQUESTS, "busy", "a proof is running already");
    let turn = Arc::clone(&proofs.permits).try_acquire_owned().map_err(busy)?;
    let pictures = ask.pictures.unwrap_or(true);
    tracing::info!(by = %principal.name, pictures, "the store is proven");
    let body = streamed("a proof", turn, move |out| prove(&proofs.store, pictures, out));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

fn prove(store: &Store, pictures: bool, out: &mut Pieces) -> io::Result<()> {
    let mut lines = Lines { out, told_at: Instant::now(), failed: None };
    let audited = store.audit(&mut |what, done, total| lines.progress(what, done, total));
    let mut summary = lines.done(audited)?;
    if pictures {
        let proven = store.verify_files(1, None, &mut |step, _| match step {
            FileStep::Record { done, total, .. } => lines.progress("pictures", done, total),
            FileStep::Flaw(flaw) => lines.flaw(flaw),
        });
        let proven = lines.done(proven)?;
        summary["pictures"] = json!({ "files": proven.files, "bytes": proven.bytes, "bad": proven.flaws });
    }
    summary["whole"] = json!(is_whole(&summary));
    lines.say(&json!({ "summary": summary }));
    lines.done(Ok::<_, StoreError>(()))
}

/// The answer, line by line.
struct Lines<'a> {
    out: &'a mut Pieces,
    told_at: Instant,
    /// The reader took no more.
    failed: Option<io::Error>,
}

impl Lines<'_> {
    /// False: nobody reads any more.
    fn progress(&mut self, what: &str, done: u64, total: u64) -> bool {
        if self.told_at.elapsed() < PROGRESS_EVERY {
            return true;
        }
        self.told_at = Instant::now();
        self.say(&json!({ "progress": { "what": what, "done": done, "total": total } }))
    }

    fn flaw(&mut self, flaw: &Flaw) -> bool {
        self.say(&json!({ "flaw": {
            "seq": flaw.seq, "id": flaw.id, "kind": flaw.kind.as_str(), "state": flaw.state.as_str(),
            "sha256": flaw.sha256, "reason": flaw.words(),
        } }))
    }

    fn say(&mut self, line: &Value) -> bool {
        let said = writeln!(self.out, "{line}").and_then(|()| self.out.flush());
        self.failed = said.err();
        self.failed.is_none()
    }

    /// What came of a step of the work, unless nobody has read it.
    fn done<T, E: std::error::Error + Send + Sync + 'static>(&mut self, step: Result<T, E>) -> io::Result<T> {
        match self.failed.take() {
            Some(error) => Err(error),
            None => step.map_err(io::Error::other),
        }
    }
}
