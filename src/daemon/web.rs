//! The review page of the station: builds the server and tells people where it is.

use super::cameras::Cameras;
use super::housekeeping::STALL;
use super::publishers::Connections;
use super::station::Station;
use crate::config::Config;
use crate::document::Problem;
use crate::engine::{Engine, Readiness};
use crate::recipe::registry::Registry;
use crate::store::Store;
use crate::web::Web;
use crate::web::cameras::{Warning, Warnings};
use crate::web::line::{EngineNow, EngineState, LineNow, Now, Pulse};
use crate::web::metrics::{Health, Probe};
use crate::web::options::WebOptions;
use std::sync::Arc;
use std::time::Duration;

/// What stands before `/images/…` in messages; empty without a page.
pub(super) fn url_base(config: &Config) -> String {
    options(config).map_or_else(String::new, |o| {
        if let Some(url) = o.public_url {
            return url;
        }
        let scheme = if o.uses_tls() { "https" } else { "http" };
        let host = o.hosts.first().map(|name| format!("{name}:{}", o.listen.port()));
        format!("{scheme}://{}", host.unwrap_or_else(|| o.listen.to_string()))
    })
}

/// What is risky about an active recipe.
pub(super) fn warnings(recipes: &Arc<Registry>) -> Warnings {
    let recipes = Arc::clone(recipes);
    Box::new(move |name| recipes.get(name).iter().flat_map(|r| &r.warnings).map(warning).collect())
}

fn warning(problem: &Problem) -> Warning {
    Warning {
        file: problem.file.clone(),
        line: problem.line,
        key: problem.key.clone(),
        value: problem.value.clone().unwrap_or_default(),
        message: problem.message.clone(),
    }
}

/// How the line stands whenever the page asks. It keeps no engine, whose process ends with the line.
pub(super) fn line(config: &Config, cameras: &Cameras, engine: &Arc<Engine>) -> Now {
    let (loads, engine) = (cameras.loads(), Arc::downgrade(engine));
    let parts: Vec<_> = config.parts.iter().map(|part| (part.name.clone(), part.cameras.clone())).collect();
    Box::new(move || LineNow {
        loads: loads(),
        engine: engine.upgrade().map(|engine| engine_now(&engine)),
        parts: parts.clone(),
    })
}

fn engine_now(engine: &Engine) -> EngineNow {
    let health = engine.health();
    let (state, why) = match engine.readiness() {
        Readiness::Ready => (EngineState::Ready, None),
        Readiness::Coming { why } => (EngineState::Coming, Some(why)),
        Readiness::Resting { why, .. } => (EngineState::Resting, Some(why)),
    };
    EngineNow {
        state,
        why: health.refused.or(health.fault).or(why).unwrap_or_default(),
        losses: health.losses,
        model: engine.info().name,
    }
}

/// Starts the page, where the config has one.
///
/// # Errors
/// The address is taken; the certificate cannot be used.
pub(super) fn start(
    config: &Config,
    recipes: &Arc<Registry>,
    store: &Arc<Store>,
    station: &Arc<Station>,
    connections: Connections,
) -> anyhow::Result<Option<Web>> {
    let Some(options) = options(config) else { return Ok(None) };
    let (station, beating) = (Arc::clone(station), Arc::clone(station));
    let probe: Probe = Box::new(move || Health {
        alive: station.alive_within(STALL),
        commands: station.hears_commands(),
        sinks: connections.up(),
    });
    let recipes = Arc::clone(recipes);
    let pipelines = Box::new(move || recipes.all().iter().map(|r| Arc::clone(&r.pipeline)).collect());
    let web = Web::start(options, Arc::clone(store), pipelines, probe)?;
    web.show_pulse(Box::new(move || Pulse { alive: beating.alive_within(STALL), alarms: beating.alarms() }));
    web.show_config_warnings(config.own_warnings().map(warning).collect());
    tracing::info!(url = %web.url, "review page");
    if let Some(code) = web.setup_code() {
        // For people who start it in a terminal; the journal of a service keeps it, too.
        eprintln!(
            "\n    review page    {url}#setup={code}\n    setup code     {code}   (makes the first account, once)\n",
            url = web.url
        );
    }
    Ok(Some(web))
}

fn options(config: &Config) -> Option<WebOptions> {
    let web = config.web.as_ref()?;
    Some(WebOptions {
        listen: web.listen,
        hosts: web.hosts.clone(),
        public_url: web.public_url.clone(),
        certificate: web.certificate.clone(),
        state_dir: config.store.dir.clone(),
        session: Duration::from_secs(u64::from(web.session_hours) * 3600),
        open_metrics: web.open_metrics,
        model_api: web.model_api,
    })
}
