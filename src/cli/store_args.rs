//! Which store a command works on.

use crate::config::{self, DEFAULT_FILE};
use crate::control::client::Client;
use std::path::PathBuf;

/// Where a command finds the store.
#[derive(clap::Args, Debug)]
pub(super) struct StoreArgs {
    /// Config file that names the store.
    #[arg(long, value_name = "FILE", env = "INSPECTD_CONFIG", default_value = DEFAULT_FILE)]
    pub config: PathBuf,
    /// Directory of the store, instead of the config's.
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,
}

impl StoreArgs {
    /// The store's directory.
    ///
    /// # Errors
    /// A bad config.
    pub(super) fn dir(&self) -> anyhow::Result<PathBuf> {
        Ok(match &self.store {
            Some(dir) => dir.clone(),
            None => config::load(&self.config)?.store.dir,
        })
    }

    /// Reaches it: through the daemon where one runs.
    ///
    /// # Errors
    /// A bad config; no store; another user's.
    pub(super) fn reach(&self) -> anyhow::Result<(PathBuf, Client)> {
        let dir = self.dir()?;
        let client = Client::reach(&dir)?;
        Ok((dir, client))
    }
}
