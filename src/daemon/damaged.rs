//! A damaged store: no restart mends it, so the daemon says so to the plant and stays down, with an exit code of its own.
//!
//! ```text
//! error of the store --is damage?--> alarm/store_damaged and every camera's fault, retained --> exit code 65
//!                          '--no: an error like others; systemd starts the daemon again
//! ```

use crate::causes;
use crate::config::Config;
use crate::domain::camera::{CameraState, CameraStatus, LineState};
use crate::publish::StationEvent;
use crate::publish::mqtt::last_words::last_words;
use crate::store::error::StoreError;
use anyhow::Context as _;
use futures_util::future::join_all;
use std::path::PathBuf;
use std::time::Duration;

/// Exit code of a daemon whose store is damaged (`EX_DATAERR`): only a person can mend it. systemd must not restart it.
pub const EXIT_CODE: u8 = 65;
/// Raised while the daemon stays down; cleared by the next start with a whole store.
pub const ALARM: &str = "store_damaged";
/// How long the broker is waited for.
const SAY: Duration = Duration::from_secs(30);

/// Why the daemon stays down.
#[derive(Debug, thiserror::Error)]
#[error(
    "the store in {} is damaged: {reason}. The station stays down until that is mended: `inspectd salvage --from {} --to DIR` \
     takes what can be read into a new store, `inspectd restore` makes one from a backup", dir.display(), dir.display()
)]
pub struct Damaged {
    dir: PathBuf,
    reason: String,
}

/// True when an error comes from a store that is damaged.
pub fn is_damage(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.downcast_ref::<StoreError>().is_some_and(StoreError::is_damage))
}

/// True when a newer version of this program wrote the store: no restart of this one mends that.
pub fn is_of_a_newer_version(error: &anyhow::Error) -> bool {
    let newer = |cause: &StoreError| matches!(cause, StoreError::NewerFormat { .. });
    error.chain().any(|cause| cause.downcast_ref::<StoreError>().is_some_and(newer))
}

/// Says it to the plant; the error to end with.
pub fn report(config: &Config, error: &anyhow::Error) -> Damaged {
    let damaged = Damaged { dir: config.store.dir.clone(), reason: causes::told(error) };
    let words = damaged.to_string();
    tracing::error!("{words}");
    let alarm = StationEvent::Alarm { code: ALARM.to_owned(), raised: true, message: words };
    let fault = |id: &String| StationEvent::Camera {
        id: id.clone(),
        status: CameraStatus {
            state: CameraState::Fault,
            reason: "the store is damaged".to_owned(),
            line: LineState::default(),
        },
    };
    let cameras = config.cameras.iter().map(|c| fault(&c.id));
    let events: Vec<StationEvent> = std::iter::once(alarm).chain(cameras).collect();
    if let Err(error) = say(config, &events) {
        tracing::error!(error = causes::told(&error), "the plant was not told that the store is damaged");
    }
    damaged
}

fn say(config: &Config, events: &[StationEvent]) -> anyhow::Result<()> {
    let sinks = super::publishers::enabled(config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let words = sinks.iter().map(|sink| last_words(&sink.mqtt, events, SAY));
    let said: Result<Vec<()>, _> = runtime.block_on(join_all(words)).into_iter().collect();
    said.map(|_| ()).context("a broker")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publish::mqtt::MqttError;

    #[test]
    fn damage_is_told_from_what_passes_or_a_restart_mends() {
        let bad = StoreError::BadRecord { seq: 7, reason: "checksum".into() };
        assert!(is_damage(&anyhow::Error::from(MqttError::Store { source: bad }).context("somewhere")));
        let cut = StoreError::CutOff { ledger: "reviews", expected: 3, found: 2 };
        assert!(is_damage(&anyhow::Error::from(cut)));
        for fine in [
            StoreError::DiskFull { free_bytes: 0, free_bytes_min: 1 },
            StoreError::Locked { dir: "/x".into() },
            StoreError::Stopped { reason: "fdatasync".into() },
        ] {
            assert!(!is_damage(&anyhow::Error::from(fine)));
        }
        assert!(!is_damage(&anyhow::anyhow!("the inspector panicked")));
    }

    #[test]
    fn a_store_of_a_newer_version_is_not_damaged_and_not_for_a_restart() {
        let newer = StoreError::NewerFormat { found: 3, known: 2 };
        let error = anyhow::Error::from(newer).context("the store");
        assert!(is_of_a_newer_version(&error) && !is_damage(&error));
        assert!(!is_of_a_newer_version(&anyhow::Error::from(StoreError::Locked { dir: "/x".into() })));
    }
}
