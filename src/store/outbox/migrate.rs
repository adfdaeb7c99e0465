//! From format 1, which kept what is owed in six trees, to the log.
//!
//! ```text
//!     1  new trees emptied        what a former attempt left
//!     2  log, letters, sink mqtt  results and parts by number, then reviews: each kind in its order
//!     3  on the disk
//!     4  format 2, on the disk    from here on only the log counts
//!     5  old trees dropped        again at the next open, if it was cut off
//! ```
//!
//! Killed before 4 it begins again from the old trees, which nobody has touched. Programs that know only format 1
//! refuse the store from 4 on: they would publish from trees that are gone.

use super::log::OutboxTrees;
use super::runs::Runs;
use super::wire::{self, LetterV1, SinkV1};
use super::{Cause, Kind, MQTT, Owed};
use crate::store::error::StoreError;
use crate::store::kv::{self, Batch, Db, Tree};
use crate::store::{key_of, seq_of, value};
use serde::Deserialize;
use std::collections::BTreeMap;

/// Trees of format 1: of each kind what is owed and what was given up.
const OLD: [(Kind, &str, &str); 3] = [
    (Kind::Result, "outbox", "dead"),
    (Kind::Part, "parts_owed", "parts_dead"),
    (Kind::Review, "reviews_owed", "reviews_dead"),
];

/// A key and its value.
type Row = (Vec<u8>, Vec<u8>);

/// Rows of one batch.
const BATCH_ROWS: usize = 1024;

/// What format 1 wrote of a result that was longer than the broker took.
const SIZE_WORDS: &str = " bytes, the limit is ";

#[derive(Deserialize)]
struct OwedV1 {
    schema: u16,
}

#[derive(Deserialize)]
struct DeadV1 {
    schema: u16,
    /// The first versions wrote none.
    #[serde(default)]
    cause: Option<Cause>,
    reason: String,
    at: String,
}

impl DeadV1 {
    fn cause(&self) -> Cause {
        self.cause.unwrap_or_else(|| match self.reason.as_str() {
            reason if reason.contains(SIZE_WORDS) => Cause::Size,
            reason if reason.starts_with("every connection") => Cause::Dropped,
            reason if reason.starts_with("the broker") => Cause::Invalid,
            _ => Cause::Unreadable,
        })
    }
}

/// What stands under a number of an old tree.
enum Old {
    Owed { schema: u16 },
    Dead(DeadV1),
}

/// True for the name of a tree of format 1.
pub(in crate::store) fn is_old(name: &str) -> bool {
    OLD.iter().any(|(_, owed, dead)| [*owed, *dead].contains(&name))
}

/// The kind that an old tree of owed messages or of dead letters is about.
pub(in crate::store) fn kind_of(name: &str) -> Option<Kind> {
    OLD.iter().find(|(_, owed, dead)| [*owed, *dead].contains(&name)).map(|(kind, ..)| *kind)
}

/// Writes the log from the old trees, steps 1 to 3. `step` is told of each write; its error ends the work.
pub(in crate::store) fn run(
    db: &Db,
    trees: &OutboxTrees,
    step: &mut dyn FnMut() -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let failed = |e| StoreError::kv("move what is owed into the log", e);
    let names = db.tree_names();
    if !names.iter().any(|name| std::str::from_utf8(name).is_ok_and(is_old)) {
        return Ok(());
    }
    for tree in [&trees.log, &trees.sinks, &trees.acked, &trees.letters] {
        tree.clear().map_err(failed)?;
        step()?;
    }
    let mut acked = Runs::through(0);
    let mut waiting: [(&Tree, Vec<Row>); 2] = [(&trees.log, vec![]), (&trees.letters, vec![])];
    let old = read(db)?;
    let count = old.len();
    for (place, ((_, seq, kind), old)) in (1..).zip(old) {
        let owed = Owed { kind, seq };
        match old {
            Old::Owed { schema } => {
                waiting[0].1.push((key_of(place).to_vec(), wire::seal_entry(owed, schema)));
            }
            Old::Dead(dead) => {
                let (cause, kind) = (dead.cause(), kind.as_str().to_owned());
                let DeadV1 { schema, reason, at, .. } = dead;
                let letter = LetterV1 { kind, seq, schema, cause, reason, at };
                waiting[1].1.push((wire::sink_key(0, place).to_vec(), wire::seal(&letter)));
                acked.insert(place);
            }
        }
        if place.is_multiple_of(BATCH_ROWS as u64) || place == count as u64 {
            for (tree, rows) in &mut waiting {
                write(tree, rows.drain(..)).map_err(failed)?;
                step()?;
            }
        }
    }
    let runs =
        acked.rows().map(|(first, last)| (wire::sink_key(0, first).to_vec(), value::seal(1, &key_of(last))));
    write(&trees.acked, runs).map_err(failed)?;
    step()?;
    trees.sinks.insert(MQTT, wire::seal(&SinkV1 { number: 0, missed: 0 })).map_err(failed)?;
    step()?;
    if count > 0 {
        tracing::info!(entries = count, "what is owed was moved into one log");
    }
    Ok(())
}

fn write(tree: &Tree, rows: impl IntoIterator<Item = Row>) -> kv::Result<()> {
    let mut batch = Batch::default();
    rows.into_iter().for_each(|(key, value)| batch.insert(key, value));
    tree.apply(batch)
}

/// All that is owed or dead, in its order in the log: a part after its newest view, reviews at the end.
fn read(db: &Db) -> Result<BTreeMap<(bool, u64, Kind), Old>, StoreError> {
    let failed = |e| StoreError::kv("read what is owed", e);
    let mut all = BTreeMap::new();
    for (kind, owed, dead) in OLD {
        // What stands in both trees is owed: it is written last.
        for row in &db.tree(dead).map_err(failed)? {
            let (key, value) = row.map_err(failed)?;
            let letter = wire::open("a dead letter", &value)?;
            all.insert((kind == Kind::Review, seq_of(&key)?, kind), Old::Dead(letter));
        }
        for row in &db.tree(owed).map_err(failed)? {
            let (key, value) = row.map_err(failed)?;
            let seq = seq_of(&key)?;
            // Entries of parts and reviews are empty.
            let schema = match kind {
                Kind::Result => wire::open::<OwedV1>("an entry of the outbox", &value)?.schema,
                // All that format 1 knew.
                Kind::Part | Kind::Review => 1,
            };
            all.insert((kind == Kind::Review, seq, kind), Old::Owed { schema });
        }
    }
    Ok(all)
}

/// Step 5.
pub(in crate::store) fn drop_old(db: &Db) -> Result<(), StoreError> {
    for name in db.tree_names() {
        if std::str::from_utf8(&name).is_ok_and(is_old) {
            db.drop_tree(&name).map_err(|e| StoreError::kv("drop an old tree", e))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::open_database;
    use crate::store::outbox::wire::open_entry;
    use std::path::Path;

    /// What format 1 kept: entries of parts and reviews were empty, and the first letters named no cause.
    fn fill(dir: &Path) {
        let db = open_database(dir).unwrap();
        let put = |tree: &str, seq: u64, body: &str| {
            db.tree(tree).unwrap().insert(key_of(seq), value::seal(1, body.as_bytes())).unwrap();
        };
        for seq in [3, 5, 9] {
            put("outbox", seq, r#"{"owes":"result","schema":1}"#);
        }
        let letter = |owes: &str, reason: &str| {
            format!(r#"{{"owes":"{owes}","schema":1,"reason":"{reason}","at":"2026-01-01T00:00:00Z"}}"#)
        };
        let reasons = [
            (4, "2113 bytes, the limit is 334"),
            (6, "the broker calls it invalid"),
            (7, "every connection is dropped on it, and other results pass"),
            (8, "its record is missing"),
        ];
        for (seq, reason) in reasons {
            put("dead", seq, &letter("result", reason));
        }
        put("parts_owed", 5, "");
        put("parts_dead", 4, &letter("part", "the broker calls it invalid"));
        put("reviews_owed", 2, "");
        put("reviews_dead", 1, &letter("review", "the broker calls it invalid"));
        db.flush().unwrap();
    }

    fn rows(trees: &OutboxTrees) -> Vec<Vec<Row>> {
        let all = |tree: &Tree| tree.iter().map(|row| row.unwrap()).map(|(k, v)| (k.to_vec(), v.to_vec()));
        [&trees.log, &trees.letters, &trees.acked, &trees.sinks].map(|tree| all(tree).collect()).into()
    }

    #[test]
    fn each_kind_keeps_its_order_and_its_letters() {
        let dir = tempfile::tempdir().unwrap();
        fill(dir.path());
        let db = open_database(dir.path()).unwrap();
        let trees = OutboxTrees::open(&db).unwrap();
        run(&db, &trees, &mut || Ok(())).unwrap();
        let log: Vec<_> = trees.log.iter().map(|row| row.unwrap()).collect();
        let entries = log.iter().map(|(key, value)| open_entry(seq_of(key).unwrap(), value).unwrap());
        let owed: Vec<(u64, String)> = entries.map(|e| (e.place, e.owed.to_string())).collect();
        let expected = [(1, "result 3"), (4, "result 5"), (5, "part 5"), (9, "result 9"), (11, "review 2")];
        assert_eq!(owed, expected.map(|(place, what)| (place, what.to_owned())));
        let letters = trees.letters.iter().map(|row| wire::open::<LetterV1>("it", &row.unwrap().1).unwrap());
        let letters: Vec<_> = letters.map(|l| (l.owed().unwrap().to_string(), l.cause)).collect();
        let expected = [
            ("result 4", Cause::Size),
            ("part 4", Cause::Invalid),
            ("result 6", Cause::Invalid),
            ("result 7", Cause::Dropped),
            ("result 8", Cause::Unreadable),
            ("review 1", Cause::Invalid),
        ];
        assert_eq!(letters, expected.map(|(what, cause)| (what.to_owned(), cause)));
        drop_old(&db).unwrap();
        assert!(!db.tree_names().iter().any(|name| is_old(std::str::from_utf8(name).unwrap())));
    }

    #[test]
    fn cut_off_at_any_step_it_begins_again_and_ends_the_same() {
        let whole = tempfile::tempdir().unwrap();
        fill(whole.path());
        let db = open_database(whole.path()).unwrap();
        let trees = OutboxTrees::open(&db).unwrap();
        let mut steps = 0usize;
        run(&db, &trees, &mut || {
            steps += 1;
            Ok(())
        })
        .unwrap();
        let expected = rows(&trees);
        assert!(steps >= 8, "{steps}");
        for cut in 0..steps {
            let dir = tempfile::tempdir().unwrap();
            fill(dir.path());
            let mut left: usize = cut;
            let db = open_database(dir.path()).unwrap();
            let trees = OutboxTrees::open(&db).unwrap();
            let outcome = run(&db, &trees, &mut || {
                left = left.checked_sub(1).ok_or(StoreError::Cancelled)?;
                Ok(())
            });
            assert!(outcome.is_err(), "{cut}");
            drop((trees, db));
            let db = open_database(dir.path()).unwrap();
            let trees = OutboxTrees::open(&db).unwrap();
            run(&db, &trees, &mut || Ok(())).unwrap();
            assert_eq!(rows(&trees), expected, "cut off at step {cut}");
        }
    }
}
