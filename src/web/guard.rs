//! What every request goes through before a route sees it, and every answer before it leaves.
//!
//! ```text
//! headers of security --> panic caught --> 30 s --> body of 256 KiB, in time --> Host --> Origin --> routes
//!          below /v1 the words of OpenAI  '--> minutes --> body with pictures, in time --> Host --> Origin --> /v1
//! ```
//!
//! - Host must name this machine: else a page of somebody else could be resolved to this address and
//!   read what its visitors may read (DNS rebinding).
//! - Origin of a request that changes something must be the page itself (cross-site requests). Behind a
//!   proxy that ends TLS the page is where `public_url` says, whatever Host the proxy sends.

use super::body::Late;
use super::error::ApiError;
use super::metrics::{self, Metrics};
use super::model_api;
use super::options::WebOptions;
use super::places::HealthOnly;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use std::sync::Arc;
use std::time::Duration;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::set_header::SetResponseHeaderLayer;
use tower_http::timeout::TimeoutLayer;

/// The longest body of a request.
pub(super) const BODY_BYTES_MAX: usize = 256 * 1024;
/// What a reserved connection is for.
const HEALTH: [&str; 2] = ["/healthz", "/readyz"];
/// The longest time until an answer begins.
const ANSWER: Duration = Duration::from_secs(30);

/// Only our own files, no frames around us, no plugins; inline styles are what SVG charts set.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
    img-src 'self' data: blob:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// The routes, and those of the model API, after the guard.
pub(super) fn before(
    routes: Router,
    of_model: Router,
    options: Arc<WebOptions>,
    metrics: Arc<Metrics>,
) -> Router {
    let limited = |routes: Router, body_bytes: usize, answer: Duration| {
        routes
            .layer(from_fn_with_state(Arc::clone(&options), check))
            .layer(RequestBodyLimitLayer::new(body_bytes))
            .layer(TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, answer))
    };
    let header = |name: HeaderName, value: &'static str| {
        SetResponseHeaderLayer::if_not_present(name, HeaderValue::from_static(value))
    };
    limited(routes, BODY_BYTES_MAX, ANSWER)
        .merge(limited(of_model, model_api::BODY_BYTES_MAX, model_api::HEAD_MAX))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn(model_api::speak))
        .layer(from_fn(model_api::linger))
        .layer(from_fn_with_state(metrics, metrics::count))
        .layer(header(header::CONTENT_SECURITY_POLICY, POLICY))
        .layer(header(header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .layer(header(header::X_FRAME_OPTIONS, "DENY"))
        .layer(header(header::REFERRER_POLICY, "no-referrer"))
        .layer(header(HeaderName::from_static("cross-origin-resource-policy"), "same-origin"))
        .layer(header(header::CACHE_CONTROL, "no-store"))
}

fn panicked(panic: Box<dyn std::any::Any + Send>) -> Response {
    let words = panic.downcast_ref::<String>().map(String::as_str);
    let words = words.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
    ApiError::internal(format!("a route panicked: {words}")).into_response()
}

async fn check(State(options): State<Arc<WebOptions>>, request: Request, next: Next) -> Response {
    if request.extensions().get::<HealthOnly>().is_some() && !HEALTH.contains(&request.uri().path()) {
        let busy = "all connections are at work; try again";
        return ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "busy", busy).into_response();
    }
    let headers = request.headers();
    let text = |name: HeaderName| headers.get(name).and_then(|v| v.to_str().ok());
    let host = text(header::HOST).unwrap_or("");
    if !is_ours(&options, host_name(host)) {
        let no = "this host name is not served here; [web] hosts lists those that are";
        return ApiError::new(StatusCode::MISDIRECTED_REQUEST, "host", no).into_response();
    }
    let safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if !safe && let Some(origin) = headers.get(header::ORIGIN) {
        let scheme = if options.uses_tls() { "https" } else { "http" };
        let is = |page: &str| origin.as_bytes() == page.as_bytes();
        if !is(&format!("{scheme}://{host}")) && !options.public_url.as_deref().is_some_and(is) {
            let foreign = "only the page itself may ask for this";
            return ApiError::new(StatusCode::FORBIDDEN, "origin", foreign).into_response();
        }
    }
    let late = request.extensions().get::<Late>().cloned().unwrap_or_default();
    let answer = next.run(request).await;
    if late.is_late() {
        let slow = "the body of the request came too slowly";
        return ApiError::new(StatusCode::REQUEST_TIMEOUT, "slow", slow).into_response();
    }
    answer
}

/// The name in `name:port` or `[v6]:port`.
fn host_name(host: &str) -> &str {
    if host.starts_with('[') {
        return host.split_inclusive(']').next().unwrap_or(host);
    }
    host.split(':').next().unwrap_or(host)
}

fn is_ours(options: &WebOptions, name: &str) -> bool {
    let ip = options.listen.ip();
    let is = |one: &str| one.eq_ignore_ascii_case(name);
    is("localhost")
        || is("127.0.0.1")
        || is("[::1]")
        || is(&ip.to_string())
        || is(&format!("[{ip}]"))
        || options.hosts.iter().any(|h| is(h))
        || options.public_host().is_some_and(|host| is(host_name(host)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_taken_without_its_port() {
        for (host, name) in [
            ("a.local:80", "a.local"),
            ("a.local", "a.local"),
            ("[::1]:8080", "[::1]"),
            ("[::1]", "[::1]"),
            ("", ""),
        ] {
            assert_eq!(host_name(host), name);
        }
    }
}
