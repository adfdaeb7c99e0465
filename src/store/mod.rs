//! Store: every inspection, kept; every message about it, kept until the broker has it.
//!
//! ```text
//! accept -------> accepted: a trigger that is owed an inspection         (`accepted`)
//!      '--------> answered: what it is known by when it comes again      (`answered`)
//! put_image ----> images/ab/cdef….jpg                      (file, fsynced before its name appears)
//! commit -------> parts/ab/cdef….json                      (only what does not fit in a value)
//!      '--------> results + log of the outbox + meta, one transaction (sled); its trigger is no longer owed
//!                 flush_async, fdatasync of `ledger/db`    (one for all who wait: `sync`)
//!      <-- Ok --- only now may anybody be told
//! outbox -------> each sink publishes --> ack              (moves its cursor on, never removes the record)
//! commit of a part's last view: its verdict, in the same transaction  (`multiview`)
//! review -------> reviews, a chain of its own, in the same way        (`review`, `query` finds)
//! retention ----> removes the oldest, never past what an enabled sink waits for; what is old says `ageing`
//! remember -----> state: small values by name, for the next start      (`state`)
//! ```
//!
//! The directory:
//!
//! ```text
//! lock          flock: one process, one `Store`
//! ballast       blocks that are held back for a full disk: `disk`
//! ledger/       sled 0.34.7; `ledger.new/` while it is compacted: `compact`
//! ends          how far the ledgers reached, so that a cut-off end is noticed: `high_water`
//! images/ parts/ tmp/
//! thumbs/       small copies of pictures; made again when they are missing
//! quarantine/   half-written snapshots of sled, moved aside and never deleted; damaged values that were due: `unreadable`
//! ```
//!
//! Invariants:
//! - `commit` returns Ok only when record and outbox entry are on the disk.
//! - Sequence numbers have no gap and are never given twice: nothing is handed out before it is durable.
//! - After a failed write or sync nothing more is accepted. Nothing is ever wiped.

pub(crate) mod accepted;
pub mod accounts;
pub(crate) mod ageing;
pub(crate) mod answered;
pub(crate) mod audit;
pub(crate) mod backup;
pub(crate) mod blind;
mod compact;
mod disk;
pub(crate) mod error;
pub(crate) mod export;
mod frame_size;
mod high_water;
pub mod images;
mod kv;
pub(crate) mod ledger;
pub(crate) mod multiview;
pub mod outbox;
pub(crate) mod pins;
pub(crate) mod proof;
pub(crate) mod query;
pub mod recipes;
pub(crate) mod record;
mod retention;
pub(crate) mod review;
mod review_record;
mod salvaged;
mod state;
mod sync;
mod thumbs;
mod unreadable;
mod value;

pub(crate) use disk::free_bytes;
pub use sync::Flush;

use crate::domain::inspection::{ImageRef, Inspection};
use crate::threads;
use error::StoreError;
use high_water::{HighWaterFile, HighWaterMark};
use images::{Digest, Files, hex, sha256, sync_dir, unhex};
use kv::{Db, Transaction, Tree};
use ledger::Chain;
use outbox::log::{Log, OutboxTrees};
use outbox::{Kind, Owed};
use record::{Draft, ImageV1};
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

/// How long `open` waits for a former handle of this same process to let go of sled's own lock.
const OPEN_RETRIES: u32 = 250;
const OPEN_RETRY_MS: u64 = 20;

/// Format of the directory as a whole: 2 since all that is owed is one log; 1 is moved into it ([`outbox::migrate`]).
const FORMAT: u8 = 2;
const FORMAT_BEFORE_LOG: u8 = 1;
const FORMAT_KEY: &[u8] = b"format";

/// Unacknowledged inspections that are kept at most where the config says nothing: two days at one a
/// second.
const OUTBOX_ENTRIES_MAX: u64 = 200_000;

/// sled's file is compacted at an `open` when it is larger than this and than four times what lives in it.
const COMPACT_ABOVE_BYTES: u64 = 256 * 1024 * 1024;

/// What the config decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreOptions {
    /// Retention removes the oldest inspections beyond this many bytes of records and files.
    pub max_bytes: u64,
    /// Retention removes inspections that are older than this many days, by the agreed time ([`ageing`]).
    pub retain_days: u32,
    /// Who vouches for the time of day.
    pub clock: ageing::Trust,
    /// What stands before `/images/<sha256>` in the URL of a picture, for example
    /// `http://10.0.0.5:8080`; empty: the URL is a path on whatever host serves the pages.
    pub image_url_base: String,
    /// Beyond so many inspections that one enabled sink has not acknowledged `commit` refuses, so that the line
    /// stops visibly instead of losing results silently.
    pub outbox_entries_max: u64,
    /// Names of the sinks that are enabled; one that is new begins at the end of the log.
    pub sinks: Vec<String>,
    /// With fewer free bytes on its file system the store refuses; 0: no floor.
    pub free_bytes_min: u64,
    /// Smaller database files are never compacted.
    pub compact_above_bytes: u64,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            max_bytes: 20_000_000_000,
            retain_days: 90,
            clock: ageing::Trust::default(),
            image_url_base: String::new(),
            outbox_entries_max: OUTBOX_ENTRIES_MAX,
            sinks: vec![outbox::MQTT.to_owned()],
            free_bytes_min: 0,
            compact_above_bytes: COMPACT_ABOVE_BYTES,
        }
    }
}

/// Proof that an inspection is on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Place of the record in the store: each commit gets the next, from 1 on.
    pub seq: u64,
    /// sha256 (hex) of the record's value: what the next record will name as its predecessor.
    pub hash: String,
}

struct Trees {
    /// seq -> record
    results: Tree,
    outbox: OutboxTrees,
    /// bookkeeping: `chain`, `format`
    meta: Tree,
    /// 16 bytes of the ULID -> seq
    ids: Tree,
    /// sha256 of a file -> the last seq that refers to it
    files: Tree,
    review: review::ReviewTrees,
    /// ticket, chunk -> accepted trigger
    accepted: Tree,
    /// what a trigger is known by -> what it said, and when
    answered: Tree,
    accounts: accounts::AccountTrees,
    parts: multiview::PartTrees,
    /// name -> what the station knows again after a restart
    state: Tree,
}

/// The store of one station. All methods may be called from any thread; `commit` and `put_image`
/// wait for the disk, so call them where waiting is allowed.
pub struct Store {
    // Dropped in this order: the sync thread ends before the database closes, the lock goes last.
    sync: sync::Sync,
    trees: Trees,
    files: Files,
    disk: disk::Disk,
    dir: PathBuf,
    chain: Mutex<Chain>,
    reviews: review::Reviews,
    index: std::sync::RwLock<query::Index>,
    /// Held by whoever reads what is new into it.
    indexing: Mutex<()>,
    /// Held by whoever appends to the ledger of recipes.
    recipes: Mutex<()>,
    /// What is owed, and who waits for it. Locked after `chain` and the reviews' chain.
    log: Mutex<Log>,
    /// Results and verdicts of parts that are owed to the enabled sink that is furthest behind.
    outbox_entries: AtomicU64,
    /// The next accepted trigger's.
    next_ticket: AtomicU64,
    /// The newest verdict of a part that is on the disk.
    parts_durable: tokio::sync::watch::Sender<u64>,
    usage_bytes: Mutex<Option<u64>>,
    options: StoreOptions,
    /// The first record that a running backup still needs: [`backup::take`].
    held: AtomicU64,
    _lock: File,
}

impl Store {
    /// Opens or creates the store in `dir`.
    ///
    /// # Errors
    /// [`StoreError`]; `Unfinished` where a restore or a salvage was begun and cut off.
    pub fn open(dir: &Path, options: StoreOptions) -> Result<Self, StoreError> {
        if dir.join(backup::keep::UNFINISHED).exists() {
            return Err(StoreError::Unfinished { dir: dir.to_owned() });
        }
        Self::open_unfinished(dir, options)
    }

    /// As `open`, for who is just making the store.
    fn open_unfinished(dir: &Path, options: StoreOptions) -> Result<Self, StoreError> {
        if !dir.exists() {
            fs::create_dir_all(dir).map_err(StoreError::io("create", dir))?;
            if let Some(parent) = dir.parent().filter(|p| !p.as_os_str().is_empty()) {
                sync_dir(parent)?;
            }
        }
        let lock = lock_dir(dir)?;
        let disk = disk::Disk::open(dir, options.free_bytes_min)?;
        let files = Files::open(dir)?;
        compact::clean_up(dir)?;
        let ledger = dir.join("ledger");
        fs::create_dir_all(&ledger).map_err(StoreError::io("create", &ledger))?;
        quarantine_snapshots(dir, &ledger)?;
        compact::compact_if_due(dir, options.compact_above_bytes)?;
        let db = open_database(&ledger)?;
        refuse_newer(&db)?;
        // Our own descriptor, opened before any commit: it sees every later write error.
        let data = File::open(ledger.join("db")).map_err(StoreError::io("open", ledger.join("db")))?;
        let trees = Trees::open(&db)?;
        bring_up_to_format(&db, &data, &trees)?;
        let chain = Chain::load(&trees)?;
        let reviews = review::Reviews::load(&trees)?;
        let log = Log::load(&trees.outbox, &options.sinks)?;
        let mark = HighWaterFile::open(dir)?;
        let found = HighWaterMark { result: chain.last_seq, review: reviews.last_seq(), log: log.last() };
        whole(mark.last(), found)?;
        let sync = sync::Sync::start(db, data, mark)?;
        // What was recovered may only be in the page cache: it must be durable before it is published.
        sync.wait(sync.request(found))?;
        let conf = ledger.join("conf");
        File::open(&conf).and_then(|f| f.sync_all()).map_err(StoreError::io("fsync", &conf))?;
        sync_dir(&ledger)?;
        sync_dir(dir)?;
        let outbox_entries = AtomicU64::new(log.of_the_line());
        let next_ticket = AtomicU64::new(accepted::next_ticket(&trees.accepted)?);
        Ok(Self {
            sync,
            trees,
            files,
            disk,
            dir: dir.to_owned(),
            chain: Mutex::new(chain),
            reviews,
            index: std::sync::RwLock::default(),
            indexing: Mutex::default(),
            recipes: Mutex::default(),
            log: Mutex::new(log),
            outbox_entries,
            next_ticket,
            parts_durable: tokio::sync::watch::channel(0).0,
            usage_bytes: Mutex::new(None),
            options,
            held: AtomicU64::new(backup::take::NOT_HELD),
            _lock: lock,
        })
    }

    /// Stores a picture (`extension` one of [`images::EXTENSIONS`]) for an inspection that will be
    /// committed. Returns when it is on the disk.
    pub fn put_image(&self, bytes: &[u8], extension: &str) -> Result<ImageRef, StoreError> {
        self.accepts()?;
        let (image, added) = self.files.put_image(bytes, extension).map_err(|e| self.disk.explain(e))?;
        self.add_usage(added);
        Ok(image)
    }

    /// The file of a picture, if it is (still) here.
    pub fn image_path(&self, sha256: &str) -> Option<PathBuf> {
        self.files.image(sha256)
    }

    /// Stores an inspection and the message that it owes, in one transaction, and waits until both
    /// are on the disk. `image` must come from `put_image`.
    ///
    /// `DuplicateId`, `InvalidId`, `Unstorable`, `NoImage`, `OutboxFull` and `DiskFull` leave the store as it
    /// was; to try again, give the picture to `put_image` again. After any other error stop.
    pub fn commit(&self, inspection: &Inspection, image: Option<ImageRef>) -> Result<Committed, StoreError> {
        let image_digest = image.as_ref().and_then(|i| unhex(&i.sha256));
        let outcome = self.accepts().and_then(|()| self.write(inspection, image));
        if let Some(digest) = image_digest {
            self.files.unpin(&digest);
        }
        let (committed, flush, decides) = outcome?;
        self.sync.wait(flush)?;
        if decides {
            self.report_part(committed.seq);
        }
        Ok(committed)
    }

    /// The highest sequence number on the disk; a task that follows it learns of every commit.
    pub fn subscribe(&self) -> tokio::sync::watch::Receiver<u64> {
        self.sync.subscribe()
    }

    /// Whether a commit would be accepted now: `DiskFull` and `OutboxFull` pass by themselves, any
    /// other error is final.
    pub fn accepts(&self) -> Result<(), StoreError> {
        self.sync.check()?;
        self.disk.check()?;
        let entries = self.outbox_entries.load(Ordering::Acquire);
        if entries >= self.options.outbox_entries_max {
            return Err(StoreError::OutboxFull { entries });
        }
        Ok(())
    }

    /// True when an `open` would probably compact the database; reads all
    /// records when the file is large, so ask rarely.
    pub fn compaction_due(&self) -> Result<bool, StoreError> {
        compact::is_due(self.sync.db(), &self.dir, self.options.compact_above_bytes)
    }

    fn write(
        &self,
        inspection: &Inspection,
        image: Option<ImageRef>,
    ) -> Result<(Committed, Flush, bool), StoreError> {
        let key = id_key(&inspection.id)?;
        let image_digest = match &image {
            Some(image) => match unhex(&image.sha256).filter(|_| self.files.image(&image.sha256).is_some()) {
                Some(digest) => Some(digest),
                None => return Err(StoreError::NoImage { sha256: image.sha256.clone() }),
            },
            None => None,
        };
        let base = &self.options.image_url_base;
        let image = image.map(|i| ImageV1 {
            url: format!("{base}/images/{}", i.sha256),
            sha256: i.sha256,
            bytes: i.bytes,
        });
        let unstorable = |reason| StoreError::Unstorable { id: inspection.id.clone(), reason };
        let draft = Draft::new(inspection, image).map_err(unstorable)?;
        let mut overflow_digest = None;
        if let Some(overflow) = &draft.overflow {
            let (digest, added) = self.files.put_overflow(overflow).map_err(|e| self.disk.explain(e))?;
            self.add_usage(added);
            overflow_digest = Some(digest);
        }
        let outcome = self.append(inspection, key, draft, [image_digest, overflow_digest]);
        if let Some(digest) = overflow_digest {
            self.files.unpin(&digest);
        }
        outcome
    }

    /// Gives the record its place in the chain and writes it; the chain lock makes this one at a time.
    /// Returns the flush to wait for, and whether it was the last view of a part.
    fn append(
        &self,
        inspection: &Inspection,
        id_key: [u8; 16],
        draft: Draft,
        refers_to: [Option<Digest>; 2],
    ) -> Result<(Committed, Flush, bool), StoreError> {
        let id = inspection.id.as_str();
        let mut chain = self.lock_chain()?;
        if let Some(found) = self.trees.ids.get(id_key).map_err(|e| StoreError::kv("look up an id", e))? {
            return Err(StoreError::DuplicateId { id: id.to_owned(), seq: open_seq(&found)? });
        }
        let seq = chain.last_seq + 1;
        let unstorable = |reason| StoreError::Unstorable { id: id.to_owned(), reason };
        let value = draft.seal(seq, &chain.last_hash).map_err(unstorable)?;
        let hash = sha256(&value);
        let next = chain.with_appended(hash);
        let chain_value = next.seal();
        let part = self.part_step(inspection, seq)?;
        let decides = part.as_ref().is_some_and(|p| p.decides);
        let mut log = self.lock_log()?;
        let verdict = decides.then_some(Owed { kind: Kind::Part, seq });
        let entries = log.entries([Owed { kind: Kind::Result, seq }].into_iter().chain(verdict));
        let accepted_keys = inspection.trigger.ticket.map(|t| self.keys_of(t)).transpose()?;
        let usage = value.len() as u64;
        let trees = &self.trees;
        let mut writes = Transaction::default();
        writes.on(&trees.results).insert(key_of(seq), value);
        entries.write(&trees.outbox, &mut writes);
        writes.on(&trees.meta).insert(ledger::CHAIN_KEY, chain_value);
        writes.on(&trees.ids).insert(id_key, seal_seq(seq));
        for digest in refers_to.iter().flatten() {
            writes.on(&trees.files).insert(digest, seal_seq(seq));
        }
        for key in accepted_keys.into_iter().flatten() {
            writes.on(&trees.accepted).remove(key);
        }
        if let Some(part) = part {
            part.write(&trees.parts, &mut writes);
        }
        self.transaction("commit an inspection", writes)?;
        *chain = next;
        log.appended(&entries);
        self.note_owed(&log);
        // Before the lock goes: the log is durable up to a place only with everything below it.
        let flush =
            self.sync.request(HighWaterMark { result: seq, log: log.last(), ..HighWaterMark::default() });
        drop(log);
        drop(chain);
        self.add_usage(usage);
        Ok((Committed { seq, hash: hex(&hash) }, flush, decides))
    }

    /// Commits a transaction; when that fails, everything stops.
    fn transaction(&self, what: &'static str, writes: Transaction<'_>) -> Result<(), StoreError> {
        writes.commit().map_err(|error| self.stop_after(what, error))
    }

    /// A write that failed: nobody knows what is stored, so everything stops.
    fn stop_after(&self, what: &'static str, error: kv::Error) -> StoreError {
        self.sync.fail(&format!("{what}: {error}"));
        StoreError::kv(what, error)
    }

    fn lock_chain(&self) -> Result<MutexGuard<'_, Chain>, StoreError> {
        self.chain.lock().map_err(|_| StoreError::Stopped { reason: "a commit panicked".into() })
    }
}

impl Trees {
    fn open(db: &Db) -> Result<Self, StoreError> {
        let tree = |name: &str| db.tree(name).map_err(|e| StoreError::kv("open a tree", e));
        Ok(Self {
            results: tree("results")?,
            outbox: OutboxTrees::open(db)?,
            meta: tree("meta")?,
            ids: tree("ids")?,
            files: tree("files")?,
            review: review::ReviewTrees::open(db)?,
            accepted: tree("accepted")?,
            answered: tree("answered")?,
            accounts: accounts::AccountTrees::open(db)?,
            parts: multiview::PartTrees::open(db)?,
            state: tree("state")?,
        })
    }
}

/// Refuses a database that has lost the end of a ledger: going on would give its numbers a second time.
fn whole(expected: HighWaterMark, found: HighWaterMark) -> Result<(), StoreError> {
    let ledgers =
        [("inspections", expected.result, found.result), ("reviews", expected.review, found.review)];
    match ledgers.into_iter().find(|(_, expected, found)| found < expected) {
        Some((ledger, expected, found)) => Err(StoreError::CutOff { ledger, expected, found }),
        None => Ok(()),
    }
}

/// Big-endian, so that the order of keys is the order of numbers.
fn key_of(seq: u64) -> [u8; 8] {
    seq.to_be_bytes()
}

fn seq_of(key: &[u8]) -> Result<u64, StoreError> {
    let bytes =
        key.try_into().map_err(|_| StoreError::BadMeta { reason: format!("key {key:?} is not a number") })?;
    Ok(u64::from_be_bytes(bytes))
}

/// A value that is only a sequence number.
fn seal_seq(seq: u64) -> Vec<u8> {
    value::seal(1, &key_of(seq))
}

fn open_seq(value: &[u8]) -> Result<u64, StoreError> {
    let (_, body) = value::open(value).map_err(|r| StoreError::BadMeta { reason: r.to_owned() })?;
    seq_of(body)
}

/// The 16 bytes of a ULID: their order is the order of time.
fn id_key(id: &str) -> Result<[u8; 16], StoreError> {
    match ulid::Ulid::from_string(id) {
        Ok(ulid) => Ok(ulid.to_bytes()),
        Err(_) => Err(StoreError::InvalidId { id: id.to_owned() }),
    }
}

fn lock_dir(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join("lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(StoreError::io("open", &path))?;
    // A process that was killed may leave a child that is just being started, which holds the lock
    // until it has become another program.
    for _ in 0..OPEN_RETRIES {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(OPEN_RETRY_MS)),
            Err(TryLockError::Error(source)) => return Err(StoreError::Io { what: "lock", path, source }),
        }
    }
    Err(StoreError::Locked { dir: dir.to_owned() })
}

/// A kill while sled writes a snapshot leaves `snap.*.generating`, which the next open would take
/// for the newest snapshot and fail on. Only the holder of the lock may move it.
fn quarantine_snapshots(dir: &Path, ledger: &Path) -> Result<(), StoreError> {
    let quarantine = dir.join("quarantine");
    for entry in fs::read_dir(ledger).map_err(StoreError::io("list", ledger))? {
        let path = entry.map_err(StoreError::io("list", ledger))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !(name.starts_with("snap.") && name.ends_with(".generating")) {
            continue;
        }
        fs::create_dir_all(&quarantine).map_err(StoreError::io("create", &quarantine))?;
        let target = (0u32..).map(|n| quarantine.join(format!("{name}.{n}"))).find(|p| !p.exists());
        let target = target.expect("one of four thousand million names is free");
        fs::rename(&path, &target).map_err(StoreError::io("move aside", &path))?;
        sync_dir(&quarantine)?;
        sync_dir(ledger)?;
        tracing::warn!(snapshot = name, to = %target.display(), "a half-written snapshot was moved aside");
    }
    Ok(())
}

fn open_database(ledger: &Path) -> Result<Db, StoreError> {
    for _ in 0..OPEN_RETRIES {
        // A damaged file may make sled panic: an error, too, and one that no restart mends.
        let opened =
            threads::caught(|| Db::open(ledger)).map_err(|reason| StoreError::Panicked { reason })?;
        match opened {
            Ok(db) => {
                disk::write_through(&ledger.join("db"));
                return Ok(db);
            }
            // We hold the directory's lock, so only a handle that is just closing can hold sled's.
            Err(error) if error.is_locked() => {
                std::thread::sleep(Duration::from_millis(OPEN_RETRY_MS));
            }
            Err(error) => return Err(StoreError::kv("open the database", error)),
        }
    }
    Err(StoreError::Locked { dir: ledger.to_owned() })
}

/// Refuses what a newer version wrote, before anything in it is changed.
fn refuse_newer(db: &Db) -> Result<(), StoreError> {
    let meta = db.tree("meta").map_err(|e| StoreError::kv("open a tree", e))?;
    match format_of(&meta)? {
        found if found > FORMAT => Err(StoreError::NewerFormat { found, known: FORMAT }),
        _ => Ok(()),
    }
}

/// The format that a store is in.
fn format_of(meta: &Tree) -> Result<u8, StoreError> {
    let Some(value) = meta.get(FORMAT_KEY).map_err(|e| StoreError::kv("read the store's format", e))? else {
        return Ok(FORMAT_BEFORE_LOG);
    };
    let format = value::open(&value).map(|(format, _)| format);
    format.map_err(|reason| StoreError::BadMeta { reason: format!("format: {reason}") })
}

/// Moves what an older version wrote into the form of this one.
fn bring_up_to_format(db: &Db, data: &File, trees: &Trees) -> Result<(), StoreError> {
    let failed = |e| StoreError::kv("note the store's format", e);
    let found = format_of(&trees.meta)?;
    if found <= FORMAT_BEFORE_LOG {
        outbox::migrate::run(db, &trees.outbox, &mut || Ok(()))?;
        flush(db, data)?;
        trees.meta.insert(FORMAT_KEY, value::seal(FORMAT, b"")).map_err(failed)?;
        flush(db, data)?;
    }
    outbox::migrate::drop_old(db)
}

/// Puts everything on the disk, before there is a thread for it.
fn flush(db: &Db, data: &File) -> Result<(), StoreError> {
    db.flush().map_err(|e| StoreError::kv("flush the database", e))?;
    data.sync_data().map_err(StoreError::io("fdatasync", "db"))
}

#[cfg(test)]
pub(crate) mod newer_tests;
#[cfg(test)]
pub(crate) mod tests;
