//! Stores inspections: the picture's file first, then the record with its outbox entry, flushed.
//!
//! A full disk or outbox stops the line here, visibly: whoever records waits until the store accepts
//! again, and with it its camera. Nothing is lost, and no hand is needed when space comes back.
//!
//! Small copies for the page are made on a thread of their own, from the pixels that are in memory
//! anyway; what it cannot keep up with is made when somebody looks.
//!
//! A failing store is final: the daemon stops acknowledging and ends, and systemd starts it again.

use super::station::Station;
use crate::camera::Stop;
use crate::clock::Clock;
use crate::domain::frame::Trigger;
use crate::domain::inspection::Inspection;
use crate::pixels;
use crate::store::Store;
use crate::store::error::StoreError;
use crate::threads;
use crate::web::images;
use anyhow::Context;
use image::RgbImage;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

/// Quality of stored pictures: their defects must still be seen by a person who reviews them.
pub(super) const JPEG_QUALITY: u8 = 90;

/// How often a store that is full is asked again.
const FULL_RETRY: Duration = Duration::from_millis(200);

/// Pictures that wait for their small copies.
const THUMBS_MAX: usize = 4;

/// A picture's sha256 and its pixels.
type Thumb = (String, Arc<RgbImage>);

/// The one way into the store.
pub(super) struct Recorder {
    store: Arc<Store>,
    station: Arc<Station>,
    failure: Mutex<Option<StoreError>>,
    stop: Stop,
    thumbs: Option<Thumbs>,
    clock: Clock,
}

impl Recorder {
    /// A recorder into `store`; once `stop` is set, it waits no longer for room. With a page it also
    /// makes small copies.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(super) fn new(
        store: Arc<Store>,
        station: Arc<Station>,
        stop: Stop,
        page: bool,
    ) -> std::io::Result<Self> {
        let thumbs = page.then(|| start_thumbs(Arc::clone(&store))).transpose()?;
        Ok(Self { store, station, failure: Mutex::new(None), stop, thumbs, clock: Clock::system() })
    }

    /// The same by another clock.
    #[cfg(test)]
    #[must_use]
    pub(super) fn with_clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// The time of day that records show.
    pub(super) fn now(&self) -> SystemTime {
        self.clock.read().wall
    }

    /// Stores an inspection, which is finished with it, and its picture; when it returns, both are on the disk or the
    /// recorder has failed. `dropped` says that the frame was never inspected.
    pub(super) fn record(&self, inspection: &Inspection, picture: &Arc<RgbImage>, dropped: bool) {
        let inspection = &Inspection { finished_at: self.now(), ..inspection.clone() };
        match self.store(inspection, picture) {
            Ok(seq) => {
                self.station.count(inspection, dropped);
                self.station.recorded(inspection, seq);
                let (verdict, reason) = (inspection.verdict.as_str(), inspection.verdict.reason());
                tracing::info!(
                    seq,
                    id = %inspection.id,
                    camera = %inspection.camera,
                    part = inspection.trigger.part_id.as_deref().unwrap_or("-"),
                    verdict,
                    reason = %reason.map_or_else(String::new, ToString::to_string),
                    findings = inspection.findings.len(),
                    ms = inspection.latency.total_ms.round(),
                    "inspected"
                );
            }
            Err(error) => {
                tracing::error!(%error, id = %inspection.id, "not stored");
                self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
        }
    }

    fn store(&self, inspection: &Inspection, picture: &Arc<RgbImage>) -> Result<u64, StoreError> {
        // The record says what was inspected all the same.
        let jpeg = pixels::jpeg(picture, JPEG_QUALITY)
            .inspect_err(|error| tracing::error!(%error, id = %inspection.id, "a picture is not kept"))
            .ok();
        loop {
            let stored = self.try_to_store(inspection, jpeg.as_deref(), picture);
            match stored {
                Err(error) if error.passes() && !self.failed() => {
                    // A line that waits for room is alive, as long as nobody wants it to end.
                    self.station.beat();
                    if self.stop.wait_until(Instant::now() + FULL_RETRY) {
                        return Err(error);
                    }
                }
                stored => return stored,
            }
        }
    }

    fn try_to_store(
        &self,
        inspection: &Inspection,
        jpeg: Option<&[u8]>,
        picture: &Arc<RgbImage>,
    ) -> Result<u64, StoreError> {
        let image = jpeg.map(|jpeg| self.store.put_image(jpeg, "jpg")).transpose()?;
        if let (Some(Thumbs { waiting, .. }), Some(image)) = (&self.thumbs, &image) {
            // Full, or its thread has ended: made later, when somebody looks.
            let _ = waiting.try_send((image.sha256.clone(), Arc::clone(picture)));
        }
        Ok(self.store.commit(inspection, image)?.seq)
    }

    /// Whether a trigger that was accepted still waits for its inspection; one that nobody noted always does.
    pub(super) fn owes(&self, trigger: &Trigger) -> bool {
        trigger.ticket.is_none_or(|ticket| self.store.owes(ticket).unwrap_or(true))
    }

    /// The source of a camera gives pictures, or a reason why not.
    pub(super) fn source(&self, camera: &str, fault: Option<String>) {
        self.station.source(camera, fault);
    }

    /// True once something could not be stored.
    pub(super) fn failed(&self) -> bool {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// The first failure, if there was one.
    ///
    /// # Errors
    /// That failure.
    pub(super) fn outcome(&self) -> anyhow::Result<()> {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        failure.map_or(Ok(()), |e| Err(e).context("the store failed"))
    }
}

/// The thread of small copies. It ends with the recorder, because it holds the store, which must be
/// closed before it is opened again.
struct Thumbs {
    waiting: SyncSender<Thumb>,
    thread: JoinHandle<()>,
}

fn start_thumbs(store: Arc<Store>) -> std::io::Result<Thumbs> {
    let (waiting, pictures) = sync_channel::<Thumb>(THUMBS_MAX);
    let thread = threads::spawn("thumbs", move || {
        while let Ok((sha256, picture)) = pictures.recv() {
            let make = || images::shrink(&picture).map(|jpeg| store.put_thumbnail(&sha256, &jpeg));
            match threads::caught(make) {
                Ok(Some(Err(error))) => tracing::warn!(%error, "no small copy"),
                // The next picture has its copy all the same.
                Err(words) => tracing::error!(sha256, words, "no small copy"),
                Ok(_) => {}
            }
        }
    })?;
    Ok(Thumbs { waiting, thread })
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if let Some(Thumbs { waiting, thread }) = self.thumbs.take() {
            drop(waiting);
            if thread.join().is_err() {
                tracing::error!("the thread of small copies had panicked");
            }
        }
    }
}
