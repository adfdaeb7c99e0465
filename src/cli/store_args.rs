//! Which store a command works on.

use crate::config::{self, DEFAULT_FILE};
use crate::control::client::Client;
use crate::domain::pipeline::labels_of;
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

    /// Labels of one recipe or of all, as the config's files have them; none where only the store was named and no
    /// config can be read.
    pub(super) fn labels(&self, pipeline: Option<&str>) -> Vec<String> {
        let Ok(config) = config::load(&self.config) else { return vec![] };
        let named = config.recipes.values().map(|recipe| &*recipe.pipeline);
        labels_of(named.filter(|recipe| pipeline.is_none_or(|name| recipe.name == name)))
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
