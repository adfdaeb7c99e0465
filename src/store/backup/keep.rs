//! The backup's side of a run: rows into one file, pictures beside it, and the manifest when all of it is on the disk.
//!
//! ```text
//! open: lock, `unfinished` --> rows, each batch with its files --> fsync --> proven --> backup.json --> `unfinished` gone
//! ```

use super::take::{Moment, RESULTS, REVIEWS};
use super::{
    BackupError, Copied, FLAWS_NAMED, FORMAT, Flawed, Manifest, Row, Rows, Run, Since, Span, copy_proven,
    file_below, sync_all,
};
use crate::store::images::{EXTENSIONS, hex, sha256, sync_dir, unhex};
use crate::store::record::rfc3339;
use crate::store::{record, review_record};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fs::{self, File, TryLockError};
use std::io::{self, BufReader, BufWriter, Read, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Marks a directory in which a run has begun and not ended.
pub(crate) const UNFINISHED: &str = "unfinished";
const MANIFEST: &str = "backup.json";

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Records and decisions that are new in the backup.
    pub inspections: u64,
    pub reviews: u64,
    /// The ends of both ledgers.
    pub through: u64,
    pub reviews_through: u64,
    /// Files and bytes that were copied.
    pub files: u64,
    pub bytes: u64,
    /// Records that retention removed before any run held them: first and last.
    pub missed: Option<(u64, u64)>,
    /// Pictures and parts of records that are missing or wrong in the store.
    pub flaws: u64,
    pub named: Vec<Flawed>,
}

/// One run into a backup.
pub(crate) struct Keeper {
    dir: PathBuf,
    store: PathBuf,
    manifest: Manifest,
    since: Since,
    name: String,
    fresh: PathBuf,
    file: BufWriter<File>,
    hasher: Sha256,
    bytes: u64,
    report: Report,
    _lock: File,
}

impl Manifest {
    /// Reads the manifest of a backup; `None` when no run was ever finished.
    ///
    /// # Errors
    /// [`BackupError`]: it cannot be read, or a newer version wrote it.
    pub(crate) fn load(dir: &Path) -> Result<Option<Self>, BackupError> {
        let path = dir.join(MANIFEST);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(BackupError::io("read", path)(error)),
        };
        let manifest: Self =
            serde_json::from_slice(&text).map_err(|e| BackupError::bad(&path, e.to_string()))?;
        if manifest.format > FORMAT {
            let reason = format!("it has format {}, this program knows up to {FORMAT}", manifest.format);
            return Err(BackupError::bad(&path, reason));
        }
        Ok(Some(manifest))
    }
}

impl Keeper {
    /// Begins a run into `dir` of the store in `store`.
    ///
    /// # Errors
    /// [`BackupError`]: it holds something else, another run is under way, or it cannot be written.
    pub(crate) fn open(dir: &Path, store: &Path) -> Result<Self, BackupError> {
        let is_new = !dir.exists();
        fs::create_dir_all(dir).map_err(BackupError::io("create", dir))?;
        let real = |path: &Path| fs::canonicalize(path).map_err(BackupError::io("look at", path));
        if real(dir)?.starts_with(real(store)?) {
            if is_new {
                fs::remove_dir(dir).map_err(BackupError::io("remove", dir))?;
            }
            return Err(BackupError::bad(dir, "a backup inside of the store would be lost with it"));
        }
        let manifest = Manifest::load(dir)?;
        let marker = dir.join(UNFINISHED);
        let is_empty = || fs::read_dir(dir).map(|mut d| d.next().is_none());
        if manifest.is_none() && !marker.exists() && !is_empty().map_err(BackupError::io("list", dir))? {
            return Err(BackupError::bad(dir, "it is not empty, and no backup"));
        }
        let lock = lock(dir)?;
        fs::write(&marker, rfc3339(SystemTime::now())).map_err(BackupError::io("write", &marker))?;
        let rows = dir.join("rows");
        fs::create_dir_all(&rows).map_err(BackupError::io("create", &rows))?;
        sync_dir(dir)?;
        let manifest = manifest.unwrap_or(Manifest { format: FORMAT, runs: Vec::new() });
        let name = format!("{:06}.rows", manifest.runs.len() + 1);
        // What a run that was cut off left under this name is written anew.
        let fresh = rows.join(format!("{name}.new"));
        let file = BufWriter::new(File::create(&fresh).map_err(BackupError::io("create", &fresh))?);
        let last = manifest.runs.last().cloned().unwrap_or_default();
        Ok(Self {
            dir: dir.to_owned(),
            store: store.to_owned(),
            since: Since {
                inspections: last.inspections,
                reviews: last.reviews,
                open_parts: last.open_parts,
            },
            manifest,
            name,
            fresh,
            file,
            hasher: Sha256::new(),
            bytes: 0,
            report: Report::default(),
            _lock: lock,
        })
    }

    /// What the backup holds already.
    pub(crate) const fn since(&self) -> &Since {
        &self.since
    }

    /// Takes a batch of rows and copies the files that they name.
    ///
    /// # Errors
    /// [`BackupError`]; the run is then unfinished.
    pub(crate) fn rows(&mut self, batch: &[u8]) -> Result<(), BackupError> {
        self.file.write_all(batch).map_err(BackupError::io("write", &self.fresh))?;
        self.hasher.update(batch);
        self.bytes += batch.len() as u64;
        let mut rows = Rows::new(batch);
        while let Some(row) = rows.next().map_err(BackupError::io("read a batch for", &self.fresh))? {
            for wanted in wanted(&row).map_err(|reason| BackupError::bad(&self.fresh, reason))? {
                self.copy(&wanted)?;
            }
            self.report.inspections += u64::from(row.tree == RESULTS);
            self.report.reviews += u64::from(row.tree == REVIEWS);
        }
        Ok(())
    }

    fn copy(&mut self, wanted: &Wanted) -> Result<(), BackupError> {
        let Some(digest) = unhex(&wanted.sha256) else { return Ok(()) };
        let mut state = Copied::Missing;
        for extension in wanted.extensions {
            let [from, to] =
                [&self.store, &self.dir].map(|top| file_below(top, wanted.folder, &digest, extension));
            state = copy_proven(&from, &to, &digest)?;
            if state != Copied::Missing {
                break;
            }
        }
        match state {
            Copied::Whole(0) => {}
            Copied::Whole(bytes) => {
                self.report.files += 1;
                self.report.bytes += bytes;
            }
            Copied::Missing | Copied::Wrong => {
                self.report.flaws += 1;
                if self.report.named.len() < FLAWS_NAMED {
                    let how = if state == Copied::Missing { "missing" } else { "wrong" };
                    let what = format!("its {} is {how} ({})", wanted.what, wanted.sha256);
                    self.report.named.push(Flawed { seq: wanted.seq, what });
                }
            }
        }
        Ok(())
    }

    /// Ends the run: everything on the disk, proven, and only then in the manifest.
    ///
    /// # Errors
    /// [`BackupError`]; the run is then unfinished.
    pub(crate) fn finish(mut self, moment: Moment) -> Result<Report, BackupError> {
        self.file.flush().map_err(BackupError::io("write", &self.fresh))?;
        let rows = self.dir.join("rows");
        let path = rows.join(&self.name);
        fs::rename(&self.fresh, &path).map_err(BackupError::io("rename to", &path))?;
        sync_all(&self.dir)?;
        let since = &self.since;
        let run = Run {
            file: self.name.clone(),
            sha256: hex(&self.hasher.clone().finalize().into()),
            bytes: self.bytes,
            at: moment.at,
            version: moment.version,
            inspections: moment.inspections,
            reviews: moment.reviews,
            open_parts: moment.open_parts,
            flaws: self.report.named.clone(),
        };
        prove_run(&self.dir, &run, since)?;
        let next = since.inspections.through + 1;
        let mut report = self.report;
        report.missed = (next < run.inspections.from && since.inspections.through > 0)
            .then(|| (next, run.inspections.from - 1));
        (report.through, report.reviews_through) = (run.inspections.through, run.reviews.through);
        self.manifest.runs.push(run);
        let json = serde_json::to_vec_pretty(&self.manifest).expect("numbers and strings always serialise");
        let (path, fresh) = (self.dir.join(MANIFEST), self.dir.join("backup.json.new"));
        let written = fs::write(&fresh, json).and_then(|()| File::open(&fresh)?.sync_all());
        written.and_then(|()| fs::rename(&fresh, &path)).map_err(BackupError::io("write", &path))?;
        sync_dir(&self.dir)?;
        let marker = self.dir.join(UNFINISHED);
        fs::remove_file(&marker).map_err(BackupError::io("remove", &marker))?;
        sync_dir(&self.dir)?;
        Ok(report)
    }
}

fn lock(dir: &Path) -> Result<File, BackupError> {
    let path = dir.join("lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(BackupError::io("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(BackupError::bad(dir, "another backup is writing to it")),
        Err(TryLockError::Error(source)) => Err(BackupError::io("lock", &path)(source)),
    }
}

/// A file that a row names.
pub(super) struct Wanted {
    pub seq: u64,
    pub what: &'static str,
    pub folder: &'static str,
    pub extensions: &'static [&'static str],
    pub sha256: String,
}

/// The files that a row of a ledger names.
pub(super) fn wanted(row: &Row) -> Result<Vec<Wanted>, String> {
    let seq =
        || row.key.as_slice().try_into().map(u64::from_be_bytes).map_err(|_| "a key is no number".to_owned());
    let overflow = |seq, sha256| Wanted { seq, what: "part", folder: "parts", extensions: &["json"], sha256 };
    let mut found = Vec::new();
    match row.tree.as_str() {
        RESULTS => {
            let seq = seq()?;
            // A record that cannot be read is copied as it is; `verify` names it.
            let Ok(head) = record::decode(seq, &row.value) else { return Ok(found) };
            let image =
                |sha256| Wanted { seq, what: "picture", folder: "images", extensions: &EXTENSIONS, sha256 };
            found.extend(head.image.map(|i| image(i.sha256)));
            found.extend(head.overflow.map(|p| overflow(seq, p.sha256)));
        }
        REVIEWS => {
            let seq = seq()?;
            let Ok(head) = review_record::decode(seq, &row.value) else { return Ok(found) };
            found.extend(head.overflow_digest().ok().flatten().map(|d| overflow(seq, hex(&d))));
        }
        _ => {}
    }
    Ok(found)
}

/// Reads the rows of a run and proves that they are those that were written.
pub(super) fn read_run(
    dir: &Path,
    run: &Run,
    mut each: impl FnMut(Row) -> Result<(), BackupError>,
) -> Result<(), BackupError> {
    let path = dir.join("rows").join(&run.file);
    let file = File::open(&path).map_err(BackupError::io("open", &path))?;
    let mut rows = Rows::new(Hashing { from: BufReader::new(file), hasher: Sha256::new(), bytes: 0 });
    while let Some(row) = rows.next().map_err(BackupError::io("read", &path))? {
        each(row)?;
    }
    let Hashing { hasher, bytes, .. } = rows.from;
    if bytes != run.bytes || hex(&hasher.finalize().into()) != run.sha256 {
        return Err(BackupError::bad(&path, "its bytes are not those that were written"));
    }
    Ok(())
}

struct Hashing<R> {
    from: R,
    hasher: Sha256,
    bytes: u64,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n = self.from.read(into)?;
        self.hasher.update(&into[..n]);
        self.bytes += n as u64;
        Ok(n)
    }
}

/// Proves the chains of a run: from the run before it to its own end.
pub(super) fn prove_run(dir: &Path, run: &Run, since: &Since) -> Result<(), BackupError> {
    let mut records = Walk::new(&run.inspections, &since.inspections);
    let mut reviews = Walk::new(&run.reviews, &since.reviews);
    let path = dir.join("rows").join(&run.file);
    read_run(dir, run, |row| {
        let outcome = match row.tree.as_str() {
            RESULTS => records.take(&row, |seq, value| record::decode(seq, value).map(|h| h.prev)),
            REVIEWS => reviews.take(&row, |seq, value| review_record::decode(seq, value).map(|h| h.prev)),
            _ => Ok(()),
        };
        outcome.map_err(|reason| BackupError::bad(&path, reason))
    })?;
    let ended = records.end("inspections").and_then(|()| reviews.end("reviews"));
    ended.map_err(|reason| BackupError::bad(&path, reason))
}

/// Walks one ledger of a run.
struct Walk<'a> {
    span: &'a Span,
    next: u64,
    /// Hash of the entry before; empty: not known.
    before: String,
}

impl<'a> Walk<'a> {
    fn new(span: &'a Span, since: &Span) -> Self {
        let before = if since.through + 1 == span.from { since.hash.clone() } else { String::new() };
        Self { span, next: span.from, before }
    }

    fn take(&mut self, row: &Row, prev: impl Fn(u64, &[u8]) -> Result<String, String>) -> Result<(), String> {
        let seq = row.key.as_slice().try_into().map(u64::from_be_bytes).map_err(|_| "a key is no number")?;
        // What the store has lost or cannot read is copied as it is: the store's `verify` names it.
        let follows = seq == self.next;
        if !follows {
            tracing::warn!(
                seq,
                expected = self.next,
                "the store's ledger has a gap here, and so has the backup's"
            );
        }
        if let Ok(prev) = prev(seq, &row.value)
            && follows
            && !self.before.is_empty()
            && prev != self.before
        {
            tracing::warn!(seq, "the store's chain is broken here, and so is the backup's");
        }
        self.before = hex(&sha256(&row.value));
        self.next = seq + 1;
        Ok(())
    }

    fn end(&self, ledger: &str) -> Result<(), String> {
        if self.span.from <= self.span.through && self.before != self.span.hash {
            return Err(format!("the chain of {ledger} does not end as the store's"));
        }
        Ok(())
    }
}
