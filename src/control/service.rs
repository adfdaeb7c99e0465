//! What each request does: the same beside a running daemon and without one.

use super::{Failure, Letter, ModelGate, Refusal, Request, Talk, Which};
use crate::store::Store;
use crate::store::backup::Since;
use crate::store::backup::take::{BackupReceiver, TakeError};
use crate::store::error::StoreError;
use crate::store::export::write::{ExportError, Form, Sink};
use crate::store::outbox::{Kind, MQTT, Owed, SinkState};
use crate::store::pins::ModelPin;
use crate::store::proof::{FileStep, FilesVerified};
use crate::store::query::Filter;
use crate::store::record::rfc3339;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

/// How often it is noted how far the proof of files is.
const NOTE_EVERY: Duration = Duration::from_secs(5);
/// Under which name; one that is whole leaves none.
const NOTE: &str = "verify/files";
/// Flaws that a note holds; with more of them a proof begins anew.
const NOTED_MAX: usize = 100;
/// The role that manages accounts.
const ENGINEER: &str = "engineer";
/// Bytes of a document that go in one message.
const PIECE_BYTES: usize = 64 * 1024;

/// Does what is asked; the summary of it.
///
/// # Errors
/// [`Failure`].
pub(super) fn answer(
    store: &Store,
    request: Request,
    judge: Option<&dyn ModelGate>,
    talk: &mut Talk,
) -> Result<Value, Failure> {
    match request {
        Request::Verify { pictures, resume } => verify(store, pictures, resume, talk),
        Request::Export { form, which, labels } => {
            // The active recipes know more than the files from which the command has read its labels.
            let active = judge.map(|judge| judge.labels(which.pipeline.as_deref()));
            export(store, form, which, &active.unwrap_or(labels), talk)
        }
        Request::AcceptModel { name, text_sha256, mmproj_sha256, servers, by, reason } => {
            let at = rfc3339(SystemTime::now());
            let pin = ModelPin { name, text_sha256, mmproj_sha256, servers, at, by };
            if let Some(judge) = judge {
                let mut progress =
                    |pipeline: &str, done, total| talk.progress("replay", done, total, pipeline).is_ok();
                let judged = match &reason {
                    Some(reason) => judge.accepted_without(&pin, reason),
                    None => judge.replay(&pin, &mut progress),
                };
                judged.map_err(|why| Refusal::new("gate", format!("the model is not accepted: {why}")))?;
            }
            accept_model(store, &pin)
        }
        Request::Outbox => outbox(store, talk),
        Request::Retry { letters, sink } => retry(store, letters, sink.as_deref()),
        Request::ResetPassword { name, password_hash, engineer, by } => {
            reset_password(store, &name, password_hash, engineer, &by)
        }
        Request::MadeHere => made_here(store),
        Request::Backup { since } => backup(store, &since, talk),
    }
}

/// The pair that was accepted before, if there was one, is the summary.
fn accept_model(store: &Store, pin: &ModelPin) -> Result<Value, Failure> {
    // One that does not read is replaced: this is the way out of it.
    let former = store.model_pin().unwrap_or_default();
    store.pin_model(pin)?;
    let (name, text, mmproj, by) = (&pin.name, &pin.text_sha256, &pin.mmproj_sha256, &pin.by);
    tracing::warn!(%name, %text, %mmproj, %by, "another model is accepted");
    Ok(json!({ "former": former }))
}

/// The role of the account is the summary. Who did it stands in the log, of the daemon where one runs.
fn reset_password(
    store: &Store,
    name: &str,
    password_hash: String,
    engineer: bool,
    by: &str,
) -> Result<Value, Failure> {
    if !store.has_accounts()? {
        let reason = "there is no account yet: the start of the daemon prints a code that makes the first";
        return Err(Refusal::new("setup", reason).into());
    }
    let (role, now) = (engineer.then_some(ENGINEER), rfc3339(SystemTime::now()));
    match store.reset_password(name, password_hash, role, &now)? {
        Some(account) => {
            tracing::warn!(name, role = account.role, by, "a password was reset at the terminal");
            Ok(json!({ "role": account.role }))
        }
        None => {
            let mut names: Vec<String> = store.accounts()?.into_iter().map(|a| a.name).collect();
            names.extend(store.damaged_accounts()?.into_iter().map(|name| format!("{name} (damaged)")));
            let known = names.join(", ");
            let reason = format!("there is no account {name}; there are {known}; --engineer makes a new one");
            Err(Refusal::new("unknown", reason).into())
        }
    }
}

/// Their names are the summary.
fn made_here(store: &Store) -> Result<Value, Failure> {
    let books = store.recipe_books()?;
    let names: Vec<String> =
        books.into_iter().filter(|(_, book)| book.is_made_here).map(|(name, _)| name).collect();
    Ok(json!({ "recipes": names }))
}

fn outbox(store: &Store, talk: &mut Talk) -> Result<Value, Failure> {
    for letter in store.dead_letters()? {
        let item = json!({
            "sink": letter.sink, "kind": letter.owed.kind.as_str(), "seq": letter.owed.seq, "cause": letter.cause.as_str(),
            "reason": letter.reason, "at": letter.at,
        });
        talk.item(item, &[])?;
    }
    let mut owed = json!({});
    let mut sinks = json!({});
    for SinkState { name, enabled, cursor, owed: [result, part, review], .. } in store.sinks()? {
        let waiting = json!({ "result": result, "part": part, "review": review });
        if name == MQTT {
            owed = waiting.clone();
        }
        sinks[name] = json!({ "enabled": enabled, "cursor": cursor, "owed": waiting });
    }
    Ok(json!({ "owed": owed, "sinks": sinks }))
}

fn retry(store: &Store, letters: Option<Vec<Letter>>, sink: Option<&str>) -> Result<Value, Failure> {
    let sinks: Vec<String> = store.sinks()?.into_iter().map(|s| s.name).collect();
    if let Some(unknown) = sink.filter(|sink| !sinks.iter().any(|name| name == sink)) {
        let known = sinks.join(", ");
        return Err(Refusal::new("unknown", format!("{unknown:?} is no sink; there are {known}")).into());
    }
    let letters = match letters {
        None => None,
        Some(letters) => {
            let owed = |Letter { kind, seq }: Letter| match Kind::parse(&kind) {
                Some(kind) => Ok(Owed { kind, seq }),
                None => Err(Refusal::new("unknown", format!("{kind:?} is no kind of message"))),
            };
            Some(letters.into_iter().map(owed).collect::<Result<Vec<_>, _>>()?)
        }
    };
    let mut count = 0;
    for name in sinks.iter().filter(|name| sink.is_none_or(|sink| sink == *name)) {
        count += store.outbox(name).retry(letters.as_deref())?;
    }
    Ok(json!({ "retried": count }))
}

fn verify(store: &Store, pictures: bool, resume: bool, talk: &mut Talk) -> Result<Value, Failure> {
    let mut summary = store.audit(&mut |what, done, total| talk.progress(what, done, total, "").is_ok())?;
    if pictures {
        summary["pictures"] = verify_files(store, resume, talk)?;
    }
    Ok(summary)
}

/// How far a proof of files came that was ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    /// All records up to here are proven.
    through: u64,
    files: u64,
    bytes: u64,
    /// Those with flaws, to be looked at again.
    flawed: Vec<u64>,
}

/// Proves every file, noting now and then how far it is; each flaw is an item.
fn verify_files(store: &Store, resume: bool, talk: &mut Talk) -> Result<Value, Failure> {
    let former: Option<Note> = store.remembered(NOTE)?;
    let mut note = former.clone().filter(|_| resume).unwrap_or_default();
    let resumed_after = (note.through > 0).then_some(note.through);
    let mut flaws = 0;
    // All others before it were proven in the former run.
    for seq in note.flawed.clone() {
        flaws += proof_of(store, seq, Some(seq), &mut note, talk)?.flaws;
    }
    let rest = proof_of(store, note.through + 1, None, &mut note, talk)?;
    if former.is_some() || note.through > 0 {
        store.forget(NOTE)?;
    }
    Ok(json!({
        "files": note.files + rest.files,
        "bytes": note.bytes + rest.bytes,
        "bad": flaws + rest.flaws,
        "resumed_after": resumed_after,
        "resumable_after": former.filter(|_| !resume).map(|n| n.through),
    }))
}

/// Proves the files of the records from `from` on, or of that one alone.
fn proof_of(
    store: &Store,
    from: u64,
    only: Option<u64>,
    note: &mut Note,
    talk: &mut Talk,
) -> Result<FilesVerified, Failure> {
    let mut ended = None;
    let before = (note.files, note.bytes);
    let mut noted_at = Instant::now();
    let found = store.verify_files(from, only, &mut |step, so_far| {
        let outcome = match step {
            FileStep::Flaw(flaw) => {
                if !note.flawed.contains(&flaw.seq) && note.flawed.len() <= NOTED_MAX {
                    note.flawed.push(flaw.seq);
                }
                let item = json!({
                    "seq": flaw.seq, "id": flaw.id, "kind": flaw.kind.as_str(), "state": flaw.state.as_str(),
                    "sha256": flaw.sha256, "reason": flaw.words(),
                });
                talk.item(item, &[])
            }
            FileStep::Record { seq, done, total } => {
                if only.is_none() {
                    note.through = seq;
                    if noted_at.elapsed() >= NOTE_EVERY {
                        noted_at = Instant::now();
                        (note.files, note.bytes) = (before.0 + so_far.files, before.1 + so_far.bytes);
                        keep_note(store, note);
                    }
                }
                talk.progress("pictures", done, total, "")
            }
        };
        ended = outcome.err();
        ended.is_none()
    });
    if let Some(failure) = ended {
        keep_note(store, note);
        return Err(failure);
    }
    (note.files, note.bytes) = before;
    Ok(found?)
}

/// A note that cannot be kept costs time, nothing else.
fn keep_note(store: &Store, note: &Note) {
    if note.flawed.len() <= NOTED_MAX
        && let Err(error) = store.remember(NOTE, note)
    {
        tracing::debug!(%error, "how far the proof of files is was not noted");
    }
}

impl From<Which> for Filter {
    fn from(which: Which) -> Self {
        let Which { pipeline, camera, from_ms, to_ms, reviewed } = which;
        Self { camera, pipeline, from_ms, to_ms, reviewed, ..Self::default() }
    }
}

fn export(
    store: &Store,
    form: Form,
    which: Which,
    labels: &[String],
    talk: &mut Talk,
) -> Result<Value, Failure> {
    let mut sink = Pieces { talk, piece: Vec::new(), ended: false };
    let written = store.write_export(&which.into(), form, labels, &mut sink).and_then(|summary| {
        sink.send()?;
        Ok(summary)
    });
    match written {
        Ok(summary) => Ok(json!(summary)),
        Err(_) if sink.ended => Err(Failure::Ended),
        Err(ExportError::Store { source }) => Err(source.into()),
        Err(ExportError::Sink { source }) => Err(Refusal::new("failed", source.to_string()).into()),
    }
}

/// Batches of rows, each taken before the next.
struct Batches<'a> {
    talk: &'a mut Talk,
    ended: Option<Failure>,
}

impl BackupReceiver for Batches<'_> {
    fn rows(&mut self, rows: &[u8], done: u64, total: u64) -> Result<(), StoreError> {
        let told = self.talk.progress("backup", done, total, "");
        let given = told.and_then(|()| self.talk.item(json!({ "rows": rows.len() }), rows));
        let taken = given.and_then(|()| self.talk.taken());
        taken.map_err(|failure| {
            self.ended = Some(failure);
            StoreError::Cancelled
        })
    }
}

fn backup(store: &Store, since: &Since, talk: &mut Talk) -> Result<Value, Failure> {
    let mut batches = Batches { talk, ended: None };
    match store.take_backup(since, &mut batches) {
        Ok(moment) => Ok(json!(moment)),
        Err(_) if batches.ended.is_some() => Err(Failure::Ended),
        Err(TakeError::Store { source }) => Err(source.into()),
        Err(error @ TakeError::Busy) => Err(Refusal::new("busy", error.to_string()).into()),
        Err(error @ TakeError::Other { .. }) => Err(Refusal::new("other_store", error.to_string()).into()),
    }
}

/// A document in messages.
struct Pieces<'a> {
    talk: &'a mut Talk,
    piece: Vec<u8>,
    ended: bool,
}

impl Pieces<'_> {
    fn send(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::take(&mut self.piece);
        let sent = self.talk.item(json!({ "text": piece.len() }), &piece);
        self.judge(sent)
    }

    fn judge(&mut self, sent: Result<(), Failure>) -> io::Result<()> {
        sent.map_err(|failure| {
            self.ended = true;
            io::Error::other(failure.to_string())
        })
    }
}

impl Sink for Pieces<'_> {
    fn text(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE_BYTES {
            return self.send();
        }
        Ok(())
    }

    fn picture(&mut self, name: &str, sha256: &str, file: &Path) -> io::Result<()> {
        let extension = file.extension().unwrap_or_default().to_string_lossy();
        let item = json!({ "picture": { "name": name, "sha256": sha256, "extension": extension } });
        let sent = self.talk.item(item, &[]);
        self.judge(sent)
    }

    fn step(&mut self, done: u64, total: u64, id: &str) -> io::Result<()> {
        let sent = self.talk.progress("export", done, total, id);
        self.judge(sent)
    }
}
