//! What requests share: each route takes what it needs, and nothing else.
//!
//! ```text
//! Sessions       who asks, and what he may do     Accounts   who may come in, passwords
//! Store          records, reviews, the outbox     Pictures   pictures and small copies
//! ActiveRecipes  tile grids and labels            Keeper     makes versions of recipes active
//! Exports        how many run                     Events     who listens, and what is new
//! Line           commands to the line             Metrics    figures, health
//! StationView    how the cameras are              Learner    learns from confirmed parts
//! Maker          makes recipes of new products    Proofs     whether one runs
//! Overview       how the line stands              Blind      one answer of a study at a time
//! Prover         proves promises
//! ```
//!
//! A new state is a field here and a line in `states!`; its routes are added in `api`.

use super::accounts::Accounts;
use super::auth::Sessions;
use super::blind::Blind;
use super::cameras::StationView;
use super::commands::Line;
use super::download::Exports;
use super::error::WebError;
use super::events::Events;
use super::images::Pictures;
use super::learn::Learner;
use super::line::Overview;
use super::metrics::{Metrics, Probe};
use super::model_api::ModelApi;
use super::options::WebOptions;
use super::products::Maker;
use super::queue::{ActiveRecipes, Pipelines};
use super::recipes::Keeper;
use super::thresholds::Prover;
use super::verify::Proofs;
use crate::clock::Clock;
use crate::store::Store;
use axum::extract::FromRef;
use std::sync::Arc;

/// The state of all routes; made once, and cloned for each request as axum wants it.
#[derive(Clone)]
pub(crate) struct Shared {
    pub options: Arc<WebOptions>,
    pub store: Arc<Store>,
    pub sessions: Arc<Sessions>,
    pub accounts: Arc<Accounts>,
    pub recipes: Arc<ActiveRecipes>,
    pub keeper: Arc<Keeper>,
    pub learner: Arc<Learner>,
    pub maker: Arc<Maker>,
    pub prover: Arc<Prover>,
    pub pictures: Arc<Pictures>,
    pub exports: Arc<Exports>,
    pub blind: Arc<Blind>,
    pub proofs: Arc<Proofs>,
    pub events: Arc<Events>,
    pub line: Arc<Line>,
    pub view: Arc<StationView>,
    pub overview: Arc<Overview>,
    pub metrics: Arc<Metrics>,
    pub model_api: Arc<ModelApi>,
}

macro_rules! states {
    ($($field:ident: $state:ty),* $(,)?) => {$(
        impl FromRef<Shared> for Arc<$state> {
            fn from_ref(shared: &Shared) -> Self {
                Arc::clone(&shared.$field)
            }
        }
    )*};
}
states! {
    store: Store,
    sessions: Sessions,
    accounts: Accounts,
    recipes: ActiveRecipes,
    keeper: Keeper,
    learner: Learner,
    maker: Maker,
    prover: Prover,
    pictures: Pictures,
    exports: Exports,
    blind: Blind,
    proofs: Proofs,
    events: Events,
    line: Line,
    view: StationView,
    overview: Overview,
    metrics: Metrics,
    model_api: ModelApi,
}

impl Shared {
    /// The state over a store; makes the setup code when nobody has an account yet.
    ///
    /// # Errors
    /// The accounts cannot be read.
    pub(crate) fn new(
        options: WebOptions,
        store: Arc<Store>,
        pipelines: Pipelines,
        probe: Probe,
    ) -> Result<Self, WebError> {
        let sessions = Arc::new(Sessions::new(Arc::clone(&store), Clock::system())?);
        let accounts = Accounts::new(Arc::clone(&store), Arc::clone(&sessions), &options)?;
        let (recipes, view) = (Arc::new(ActiveRecipes::new(pipelines)), Arc::<StationView>::default());
        let model_api = Arc::new(ModelApi::new(options.model_api));
        let counts = model_api.counts();
        let metrics = Arc::new(Metrics::new(Arc::clone(&store), probe, counts, options.open_metrics));
        let overview =
            Overview::new(Arc::clone(&store), Arc::clone(&view), Arc::clone(&recipes), Arc::clone(&metrics));
        Ok(Self {
            accounts: Arc::new(accounts),
            sessions,
            recipes,
            pictures: Arc::new(Pictures::new(Arc::clone(&store))),
            exports: Arc::new(Exports::new(Arc::clone(&store))),
            proofs: Arc::new(Proofs::new(Arc::clone(&store))),
            events: Arc::new(Events::new(Arc::clone(&store))),
            blind: Arc::new(Blind::new(Arc::clone(&store))),
            keeper: Arc::default(),
            learner: Arc::default(),
            maker: Arc::default(),
            prover: Arc::default(),
            line: Arc::default(),
            view,
            overview: Arc::new(overview),
            metrics,
            model_api,
            options: Arc::new(options),
            store,
        })
    }
}
