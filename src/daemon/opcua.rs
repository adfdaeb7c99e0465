//! The OPC UA server of the station: its options from the config, and its doors to the line.
//!
//! ```text
//! config [opcua] --> Options        station --states, alarms, a bell--.
//! recipes --names, versions---------------------------------------------+--> publish::opcua
//! store --records, the number of the newest-----------------------------|
//! dispatcher <--commands--------------------------------------------------'
//! ```

use super::station::Station;
use crate::command::Handler;
use crate::config::{Anonymous, Config, Opcua, TriggerOn};
use crate::domain::inspection::Inspection;
use crate::publish::opcua::{Limits, Line, Options, Records, Role, Server, Users};
use crate::recipe::registry::Registry;
use crate::store::Store;
use anyhow::Context as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The folder of certificates, below the store's.
const PKI: &str = "opcua";

/// Where the certificates of a store are.
pub(crate) fn pki(store: &Path) -> PathBuf {
    store.join(PKI)
}

/// Starts the server, where the config has one.
///
/// # Errors
/// The address is taken; the certificate or the users file cannot be used.
pub(super) fn start(
    config: &Config,
    recipes: &Arc<Registry>,
    store: &Arc<Store>,
    station: &Arc<Station>,
    handler: &Handler,
) -> anyhow::Result<Option<Server>> {
    let Some(opcua) = &config.opcua else { return Ok(None) };
    let users = opcua.users_file.as_deref().map(Users::read).transpose();
    let users = users.map_err(anyhow::Error::msg).context("[opcua] users_file")?.unwrap_or_default();
    let triggered = config.cameras.iter().map(|c| (c.id.clone(), c.trigger.on == TriggerOn::Command));
    let place = &config.station;
    let options = Options {
        listen: opcua.listen,
        host: opcua.host(),
        name: format!("inspectd {}", place.station),
        application_uri: format!(
            "urn:inspectd:{}:{}:{}:{}",
            place.site, place.area, place.line, place.station
        ),
        pki: pki(&config.store.dir),
        users,
        anonymous: opcua.anonymous.map(role),
        limits: limits(opcua),
        cameras: triggered.collect(),
    };
    let (shown, alarms, known) = (Arc::clone(station), Arc::clone(station), Arc::clone(recipes));
    let line = Line {
        cameras: Box::new(move || shown.cameras()),
        alarms: Box::new(move || alarms.alarms()),
        recipes: Box::new(move || {
            known.all().iter().map(|r| (r.pipeline.name.clone(), r.pipeline.version.clone())).collect()
        }),
        handler: Arc::clone(handler),
        records: Box::new(Ledger(Arc::clone(store))),
        changed: station.changes(),
        exposed: station.exposures(),
        recorded: store.subscribe(),
    };
    Ok(Some(Server::start(options, line)?))
}

const fn role(anonymous: Anonymous) -> Role {
    match anonymous {
        Anonymous::Viewer => Role::Viewer,
        Anonymous::Operator => Role::Operator,
    }
}

fn limits(opcua: &Opcua) -> Limits {
    Limits {
        connections: opcua.connections as usize,
        connections_per_address: opcua.connections_per_address as usize,
        sessions: opcua.sessions as usize,
        subscriptions: opcua.subscriptions as usize,
        monitored_items: opcua.monitored_items as usize,
        nodes_per_call: opcua.nodes_per_call as usize,
        message_bytes: opcua.message_kb as usize * 1024,
        queue: opcua.queue as usize,
        session_timeout: Duration::from_secs(opcua.session_timeout_s.into()),
    }
}

/// The records, as the server asks for them.
struct Ledger(Arc<Store>);

impl Records for Ledger {
    fn get(&self, seq: u64) -> Result<Option<Inspection>, String> {
        self.0.get(seq).map(|found| found.map(|stored| stored.inspection)).map_err(|error| error.to_string())
    }

    fn by_id(&self, id: &str) -> Result<Option<(u64, Inspection)>, String> {
        match self.0.get_by_id(id) {
            Ok(found) => Ok(found.map(|stored| (stored.seq, stored.inspection))),
            // What is no id is the id of nothing.
            Err(crate::store::error::StoreError::InvalidId { .. }) => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }

    fn newest_before(&self, seq: u64, most: usize) -> Result<Vec<(u64, Inspection)>, String> {
        let page = self.0.newest_before(seq).take(most);
        page.map(|stored| stored.map(|s| (s.seq, s.inspection)).map_err(|error| error.to_string())).collect()
    }
}
