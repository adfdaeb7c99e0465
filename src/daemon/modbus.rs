//! The server for PLCs that speak Modbus TCP, joined with the line.
//!
//! ```text
//! [modbus] --> options --.
//! store: modbus/epoch ---+--> publish::modbus --Verb, fields--> Plc (`plc`) --> dispatcher
//! Plc: results, cameras -'
//! ```
//!
//! Invariant: no two starts have one epoch, so that a PLC never takes a count of before for one of now.

use super::cameras::Cameras;
use super::plc::Plc;
use super::station::Station;
use crate::command::Handler;
use crate::config::Config;
use crate::publish::modbus::handshake::Setup;
use crate::publish::modbus::{self, ModbusOptions, Serving, Wiring};
use crate::store::Store;
use crate::store::error::StoreError;
use anyhow::Context as _;
use std::sync::Arc;

/// The word of the protocol in logs, senders and alarms.
const SERVER: &str = "modbus";
/// Where the epoch of the last start is kept.
const EPOCH: &str = "modbus/epoch";

/// Starts the server where the config has one. Call it inside a tokio runtime.
///
/// # Errors
/// Its port cannot be had; the store fails.
pub(super) fn start(
    config: &Config,
    store: &Store,
    station: &Arc<Station>,
    handler: &Handler,
    cameras: &Cameras,
) -> anyhow::Result<Option<Serving>> {
    let Some(keys) = &config.modbus else { return Ok(None) };
    let setup = Setup {
        unit: 0,
        epoch: next_epoch(store)?,
        config_checksum: crc32fast::hash(config.effective().as_bytes()),
        recipes: keys.recipes.clone(),
        watchdog: keys.watchdog,
        keep_results: keys.keep_results,
    };
    let options = ModbusOptions {
        listen: keys.listen,
        allow: keys.allow.clone(),
        connections_max: keys.connections,
        idle: keys.idle,
        cameras: keys.units.clone(),
        expected: keys.expected.clone(),
        setup,
    };
    let (plc, results) = Plc::new(SERVER, Arc::clone(handler), station, cameras);
    let plc = Arc::new(plc);
    let looked_at = Arc::clone(&plc);
    let wiring = Wiring {
        door: Arc::new(move |verb, body, peer| plc.command(verb, body, peer).map(|_| ())),
        look: Box::new(move || {
            looked_at.cameras().into_iter().map(|view| (view.id, view.status, view.load)).collect()
        }),
        results,
    };
    let serving =
        modbus::serve(options, wiring).with_context(|| format!("[modbus] listen {}", keys.listen))?;
    tracing::info!(listen = %serving.listen, units = keys.units.len(), "Modbus TCP");
    Ok(Some(serving))
}

/// The epoch after that of the last start, 1..=65535, kept before it is used. Where it cannot be kept, by chance.
fn next_epoch(store: &Store) -> Result<u16, StoreError> {
    let last = store.remembered::<u16>(EPOCH)?;
    let next = last.map_or_else(by_chance, |last| last.checked_add(1).unwrap_or(1));
    match store.remember(EPOCH, &next) {
        Err(error) if error.passes() => {
            tracing::warn!(%error, "the Modbus epoch cannot be kept, and is one by chance");
            Ok(by_chance())
        }
        kept => kept.map(|()| next),
    }
}

fn by_chance() -> u16 {
    rand::random::<u16>().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreOptions;

    #[test]
    fn every_start_has_another_epoch() {
        let dir = tempfile::tempdir().unwrap();
        let start = || next_epoch(&Store::open(dir.path(), StoreOptions::default()).unwrap()).unwrap();
        let first = start();
        assert!(first > 0);
        assert_eq!(start(), first.checked_add(1).unwrap_or(1));
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        store.remember(EPOCH, &u16::MAX).unwrap();
        assert_eq!(next_epoch(&store).unwrap(), 1);
    }
}
