//! An export as a stream: one document in pieces, and the pictures that it names.
//!
//! ```text
//! inspections, newest first --> picture proven --> sink.picture(name, file)
//!                                          '-----> sink.text(line of the CSV, of truth.jsonl, or of the COCO)
//! ```
//!
//! What of a COCO document comes after its images waits in a spool, in memory while it is small and in a file without
//! a name otherwise, so that no export is ever cut for want of memory.

use super::coco::Coco;
use super::{Exported, csv_findings_head, csv_head, csv_unreadable};
use crate::store::Store;
use crate::store::error::StoreError;
use crate::store::proof::{FileKind, FileState, Flaw};
use crate::store::query::Filter;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;

/// Bytes of a spool that stay in memory.
pub(crate) const SPOOL_BYTES: usize = 1024 * 1024;
/// Flaws that a summary names.
const FLAWS_NAMED: usize = 100;

/// In which form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// One line an inspection.
    Csv,
    /// One line a finding.
    Findings,
    /// One COCO document and the pictures.
    Coco,
    /// `truth.jsonl` and the pictures, as `replay` reads them.
    Jsonl,
}

impl Form {
    /// Name of the document.
    pub const fn document(self) -> &'static str {
        match self {
            Self::Csv => "inspections.csv",
            Self::Findings => "findings.csv",
            Self::Coco => "coco.json",
            Self::Jsonl => "truth.jsonl",
        }
    }
}

/// Where an export goes.
pub trait Sink {
    /// More of the document.
    ///
    /// # Errors
    /// It cannot be taken: the export ends.
    fn text(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// A picture, proven, that the document calls `name`.
    ///
    /// # Errors
    /// As `text`.
    fn picture(&mut self, name: &str, sha256: &str, file: &Path) -> io::Result<()>;

    /// One more inspection is done, of `total`.
    ///
    /// # Errors
    /// As `text`.
    fn step(&mut self, _done: u64, _total: u64, _id: &str) -> io::Result<()> {
        Ok(())
    }
}

/// What an export holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Inspections that fit.
    pub total: u64,
    /// Inspections in the document.
    pub written: u64,
    /// Left out because they never had a picture that can be read.
    pub without_picture: u64,
    /// Left out because they cannot be read, or their pictures are missing or are others; a CSV has a line that says
    /// so of each that cannot be read.
    pub damaged: u64,
    /// The first of those: sequence number, id (empty where it cannot be read), what is wrong.
    pub named: Vec<(u64, String, String)>,
}

impl Summary {
    fn leave_out(&mut self, seq: u64, id: &str, what: String) {
        self.damaged += 1;
        if self.named.len() < FLAWS_NAMED {
            self.named.push((seq, id.to_owned(), what));
        }
    }
}

/// What a picture is called in an export, and its width and height.
type Named = (String, (u32, u32));

/// Why an export ended early.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error(transparent)]
    Store {
        #[from]
        source: StoreError,
    },
    /// The sink took no more.
    #[error("{source}")]
    Sink {
        #[from]
        source: io::Error,
    },
}

impl Store {
    /// A spool: in memory while it is small, in a file without a name in the store's own folder beyond.
    pub fn spool(&self) -> tempfile::SpooledTempFile {
        tempfile::spooled_tempfile_in(SPOOL_BYTES, self.dir.join("tmp"))
    }

    /// Writes all inspections that fit, newest first. `labels` are those of the recipes, in their order: the categories
    /// of a COCO document, for which alone they are asked.
    ///
    /// # Errors
    /// [`ExportError`]; what was written before is not a whole export.
    pub fn write_export(
        &self,
        filter: &Filter,
        form: Form,
        labels: &[String],
        sink: &mut dyn Sink,
    ) -> Result<Summary, ExportError> {
        let seqs = self.export_seqs(filter)?;
        let mut summary = Summary { total: seqs.len() as u64, ..Summary::default() };
        let mut coco = (form == Form::Coco).then(|| Coco::new(labels, self.spool()));
        match form {
            Form::Csv => sink.text(csv_head().as_bytes())?,
            Form::Findings => sink.text(csv_findings_head().as_bytes())?,
            Form::Coco | Form::Jsonl => {}
        }
        for (seq, done) in seqs.into_iter().zip(1..) {
            let one = match self.exported(seq) {
                Ok(Some(one)) => one,
                // Retention may have removed it since.
                Ok(None) => continue,
                Err(error @ StoreError::BadRecord { .. }) => {
                    let what = format!("cannot be read: {error}");
                    if form == Form::Csv {
                        sink.text(csv_unreadable(seq, &what).as_bytes())?;
                    }
                    summary.leave_out(seq, "", what);
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            sink.step(done, summary.total, &one.stored.inspection.id)?;
            if matches!(form, Form::Csv | Form::Findings) {
                let lines = if form == Form::Csv { one.csv() } else { one.csv_findings() };
                sink.text(lines.as_bytes())?;
                summary.written += 1;
                continue;
            }
            let Some((name, (width, height))) = self.export_picture(&one, sink, &mut summary)? else {
                continue;
            };
            match &mut coco {
                Some(coco) => coco.add(&one, &name, width, height, sink)?,
                None => sink.text(format!("{}\n", one.truth(&name, width, height)).as_bytes())?,
            }
            summary.written += 1;
        }
        if let Some(coco) = coco {
            coco.finish(summary.damaged, sink)?;
        }
        Ok(summary)
    }

    /// Gives the picture to the sink; its name in the export and its size. `None`: there is none to be given.
    fn export_picture(
        &self,
        one: &Exported,
        sink: &mut dyn Sink,
        summary: &mut Summary,
    ) -> Result<Option<Named>, ExportError> {
        let Some(image) = one.stored.image.as_ref().map(|s| &s.image) else {
            summary.without_picture += 1;
            return Ok(None);
        };
        let path = match self.picture(image) {
            FileState::Whole(path) => path,
            state => {
                let (seq, id) = (one.stored.seq, one.stored.inspection.id.clone());
                let (kind, sha256) = (FileKind::Picture, image.sha256.clone());
                let flaw = Flaw { seq, id: id.clone(), kind, sha256, state };
                summary.leave_out(seq, &id, flaw.words());
                return Ok(None);
            }
        };
        let Some(size) = self.picture_size(&image.sha256) else {
            summary.without_picture += 1;
            return Ok(None);
        };
        let name = one.file(&path.extension().unwrap_or_default().to_string_lossy());
        sink.picture(&name, &image.sha256, &path)?;
        Ok(Some((name, size)))
    }
}
