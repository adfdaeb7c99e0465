//! All routes, and the OpenAPI document that is made from them.

use super::shared::Shared;
use super::{
    accounts, agreement, blind, cameras, charts, commands, decide, download, events, guard, guide, images,
    learn, line, metrics, model_api, outbox, pages, products, queue, recipes, report, thresholds, verify,
};
use axum::routing::get;
use axum::{Json, Router};
use std::sync::Arc;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

#[derive(OpenApi)]
#[openapi(
    info(title = "inspectd", description = "Graded inspections, what people decide about them, and commands to the line."),
    security(("session" = []), ("token" = [])),
    modifiers(&Schemes)
)]
struct Document;

struct Schemes;

impl Modify for Schemes {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_with(Default::default);
        let cookie = SecurityScheme::ApiKey(ApiKey::Cookie(ApiKeyValue::new(super::auth::COOKIE)));
        let bearer = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
        components.add_security_scheme("session", cookie);
        components.add_security_scheme("token", bearer);
    }
}

fn described() -> OpenApiRouter<Shared> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(accounts::me))
        .routes(routes!(accounts::setup))
        .routes(routes!(accounts::login))
        .routes(routes!(accounts::logout))
        .routes(routes!(accounts::password))
        .routes(routes!(accounts::accounts, accounts::put_account))
        .routes(routes!(accounts::remove_account))
        .routes(routes!(accounts::tokens, accounts::put_token))
        .routes(routes!(accounts::remove_token))
        .routes(routes!(queue::list))
        .routes(routes!(queue::facets))
        .routes(routes!(queue::one))
        .routes(routes!(decide::decide))
        .routes(routes!(decide::undo))
        .routes(routes!(decide::bulk))
        .routes(routes!(commands::command))
        .routes(routes!(outbox::outbox))
        .routes(routes!(cameras::cameras))
        .routes(routes!(cameras::config_warnings))
        .routes(routes!(line::line))
        .routes(routes!(recipes::recipes))
        .routes(routes!(recipes::ledger))
        .routes(routes!(recipes::version))
        .routes(routes!(recipes::file))
        .routes(routes!(recipes::activate))
        .routes(routes!(learn::learn))
        .routes(routes!(learn::start, learn::cancel))
        .routes(routes!(thresholds::thresholds))
        .routes(routes!(products::make))
        .routes(routes!(charts::charts))
        .routes(routes!(agreement::agreement))
        .routes(routes!(blind::studies, blind::start))
        .routes(routes!(blind::remove))
        .routes(routes!(blind::part))
        .routes(routes!(blind::say))
        .routes(routes!(report::report))
        .routes(routes!(events::stream))
        .routes(routes!(images::full))
        .routes(routes!(images::by_message))
        .routes(routes!(images::thumb))
        .routes(routes!(images::crop))
        .routes(routes!(download::export))
        .routes(routes!(verify::verify))
        .routes(routes!(metrics::metrics))
        .routes(routes!(metrics::healthz))
        .routes(routes!(metrics::readyz))
}

/// The routes of the model API, which have limits of their own.
fn of_model() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(model_api::chat))
        .routes(routes!(model_api::models))
        .routes(routes!(model_api::model))
}

/// The OpenAPI document.
pub fn document() -> utoipa::openapi::OpenApi {
    described().merge(of_model()).into_openapi()
}

/// All routes, after the guard.
pub(crate) fn router(shared: Shared) -> Router {
    let (options, metrics) = (Arc::clone(&shared.options), Arc::clone(&shared.metrics));
    let (router, _) = described().split_for_parts();
    let (of_model, _) = of_model().split_for_parts();
    let document = document();
    let routes = router
        .route("/api/v1/openapi.json", get(move || async move { Json(document) }))
        .route("/", get(pages::index))
        .route("/assets/{name}", get(pages::asset))
        .route("/guide", get(guide::moved))
        .route("/guide/", get(guide::list))
        .route("/guide/{topic}", get(guide::english))
        .route("/guide/zh/{topic}", get(guide::chinese))
        .fallback(pages::nothing)
        .with_state(shared.clone());
    guard::before(routes, of_model.with_state(shared), options, metrics)
}
