//! The one owner of `camera/{id}/status`: what is known of each camera, combined, said when it changes.
//!
//! ```text
//! capture loop, supervisor --source: pictures, or why not--.
//! anew --the camera's thread has failed, or runs-----------+
//! housekeeping --the store is full, or no longer-----------+--> combined --changed?--> StationEvent::Camera
//! dispatcher --pause, recipe, no recipe--------------------'                  '--> the page
//! ```
//!
//! Invariants:
//! - Nobody else makes a `StationEvent::Camera`, so that the end of one trouble never hides another.
//! - A camera is not said to be ready before its source has said so.
//! - What found no room on its way out is said again with the next change or tick.

use crate::domain::camera::{CameraState, CameraStatus, LineState};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The cameras of a station.
#[derive(Default)]
pub(super) struct Board(Mutex<Cameras>);

#[derive(Default)]
struct Cameras {
    /// Why the store accepts nothing.
    full: Option<String>,
    by_id: BTreeMap<String, Camera>,
}

#[derive(Default)]
struct Camera {
    /// The source has said how it is.
    heard: bool,
    /// Why it gives no pictures.
    source: Option<String>,
    /// Why its thread takes none.
    thread: Option<String>,
    line: LineState,
    /// Why no recipe is in force.
    no_recipe: Option<String>,
    said: Option<CameraStatus>,
}

impl Camera {
    /// `None` while nothing is known that could be said.
    fn status(&self, full: Option<&String>) -> Option<CameraStatus> {
        let own = [&self.no_recipe, &self.source, &self.thread].map(Option::as_ref);
        let reasons: Vec<_> = own.into_iter().chain([full]).flatten().cloned().collect();
        if reasons.is_empty() && !self.heard {
            return None;
        }
        let state = if reasons.is_empty() { CameraState::Ready } else { CameraState::Fault };
        Some(CameraStatus { state, reason: reasons.join("; "), line: self.line.clone() })
    }
}

impl Board {
    /// The source of a camera gives pictures, or a reason why not.
    pub(super) fn source(&self, camera: &str, fault: Option<String>) {
        let mut cameras = self.lock();
        let camera = cameras.by_id.entry(camera.to_owned()).or_default();
        (camera.heard, camera.source) = (true, fault);
    }

    /// The thread of a camera runs, or why it has failed.
    pub(super) fn thread(&self, camera: &str, fault: Option<String>) {
        self.lock().by_id.entry(camera.to_owned()).or_default().thread = fault;
    }

    /// What the dispatcher has a camera do; `no_recipe` says why it may judge nothing.
    pub(super) fn line(&self, camera: &str, line: LineState, no_recipe: Option<String>) {
        let mut cameras = self.lock();
        let camera = cameras.by_id.entry(camera.to_owned()).or_default();
        (camera.line, camera.no_recipe) = (line, no_recipe);
    }

    /// Why the store accepts nothing; while it is full the first reason stays, since its figures change all the time.
    pub(super) fn store_full(&self, reason: Option<&str>) {
        let mut cameras = self.lock();
        match reason {
            Some(reason) => _ = cameras.full.get_or_insert_with(|| reason.to_owned()),
            None => cameras.full = None,
        }
    }

    /// Says what has changed; `say` is false when there was no room for it.
    pub(super) fn publish(&self, say: impl Fn(&str, CameraStatus) -> bool) {
        let mut cameras = self.lock();
        let Cameras { full, by_id } = &mut *cameras;
        for (id, camera) in by_id {
            let status = camera.status(full.as_ref());
            if let Some(now) = status.filter(|now| camera.said.as_ref() != Some(now))
                && say(id, now.clone())
            {
                camera.said = Some(now);
            }
        }
    }

    /// All cameras, by id; one whose source has not said anything yet is busy.
    pub(super) fn all(&self) -> Vec<(String, CameraStatus)> {
        let cameras = self.lock();
        let status = |camera: &Camera| {
            camera.status(cameras.full.as_ref()).unwrap_or_else(|| CameraStatus {
                state: CameraState::Busy,
                line: camera.line.clone(),
                ..CameraStatus::default()
            })
        };
        cameras.by_id.iter().map(|(id, camera)| (id.clone(), status(camera))).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Cameras> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    /// What a board says now.
    fn said(board: &Board) -> Vec<(String, CameraState, String)> {
        let said = RefCell::new(vec![]);
        board.publish(|id, status| {
            said.borrow_mut().push((id.to_owned(), status.state, status.reason));
            true
        });
        said.into_inner()
    }

    #[test]
    fn a_dead_camera_stays_in_fault_when_the_disk_has_room_again() {
        let board = Board::default();
        board.source("live", None);
        board.source("dead", Some("no picture for 5 s".into()));
        board.line("starting", LineState::default(), None);
        assert_eq!(said(&board).len(), 2, "a camera that has not answered is neither");
        board.store_full(Some("10 MB left"));
        board.store_full(Some("9 MB left"));
        let full = said(&board);
        assert!(
            full.iter()
                .all(|(_, state, reason)| *state == CameraState::Fault && reason.ends_with("10 MB left"))
        );
        assert_eq!(full.len(), 3);
        board.store_full(None);
        let dead = ("dead".into(), CameraState::Fault, "no picture for 5 s".into());
        assert_eq!(said(&board), [dead, ("live".into(), CameraState::Ready, String::new())]);
        assert!(said(&board).is_empty(), "only what has changed");
        assert_eq!(board.all()[2].1.state, CameraState::Busy);
    }

    #[test]
    fn a_thread_that_runs_again_does_not_hide_a_dead_source() {
        let board = Board::default();
        board.source("cam1", Some("no picture for 5 s".into()));
        board.thread("cam1", Some("its thread failed".into()));
        let both = ("cam1".into(), CameraState::Fault, "no picture for 5 s; its thread failed".into());
        assert_eq!(said(&board), [both]);
        board.thread("cam1", None);
        assert_eq!(said(&board), [("cam1".into(), CameraState::Fault, "no picture for 5 s".into())]);
    }

    #[test]
    fn what_found_no_room_is_said_again() {
        let board = Board::default();
        board.source("cam1", None);
        board.publish(|_, _| false);
        assert_eq!(said(&board).len(), 1);
        let line = LineState { pipeline: "plate".into(), paused: true, ..LineState::default() };
        board.line("cam1", line.clone(), Some("its recipe is gone".into()));
        assert_eq!(said(&board), [("cam1".into(), CameraState::Fault, "its recipe is gone".into())]);
        assert_eq!(board.all()[0].1.line, line);
    }
}
