//! The page's own files, inside the binary.

use super::error::ApiError;
use crate::store::images::{hex, sha256};
use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use std::borrow::Cow;

pub(super) const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// Name, kind and content of every file.
pub(super) const FILES: &[(&str, &str, &str)] = &[
    ("index.html", HTML, include_str!("assets/index.html")),
    ("style.css", CSS, include_str!("assets/style.css")),
    ("guide.css", CSS, include_str!("assets/guide.css")),
    ("icon.svg", SVG, include_str!("assets/icon.svg")),
    ("main.js", JS, include_str!("assets/main.js")),
    ("api.js", JS, include_str!("assets/api.js")),
    ("dom.js", JS, include_str!("assets/dom.js")),
    ("words.js", JS, include_str!("assets/words.js")),
    ("queue.js", JS, include_str!("assets/queue.js")),
    ("recipes.js", JS, include_str!("assets/recipes.js")),
    ("learn.js", JS, include_str!("assets/learn.js")),
    ("product.js", JS, include_str!("assets/product.js")),
    ("part.js", JS, include_str!("assets/part.js")),
    ("picture.js", JS, include_str!("assets/picture.js")),
    ("charts.js", JS, include_str!("assets/charts.js")),
    ("people.js", JS, include_str!("assets/people.js")),
    ("cameras.js", JS, include_str!("assets/cameras.js")),
];

/// The page.
pub(super) async fn index(headers: HeaderMap) -> Response {
    file("index.html", &headers)
}

/// One of its files.
pub(super) async fn asset(Path(name): Path<String>, headers: HeaderMap) -> Response {
    file(&name, &headers)
}

fn file(name: &str, headers: &HeaderMap) -> Response {
    match FILES.iter().find(|(n, _, _)| *n == name) {
        Some((_, kind, text)) => answer(kind, (*text).into(), headers),
        None => ApiError::not_found("there is no such file").into_response(),
    }
}

/// A text that is the same until the program is another one.
pub(super) fn answer(kind: &'static str, text: Cow<'static, str>, headers: &HeaderMap) -> Response {
    let tag = format!("\"{}\"", &hex(&sha256(text.as_bytes()))[..16]);
    // A new version of the program has a new page, so that the browser always asks, and mostly hears 304.
    let caching = [(header::ETAG, tag.clone()), (header::CACHE_CONTROL, "no-cache".to_owned())];
    if headers.get(header::IF_NONE_MATCH).is_some_and(|t| t.as_bytes() == tag.as_bytes()) {
        return (StatusCode::NOT_MODIFIED, caching).into_response();
    }
    (caching, [(header::CONTENT_TYPE, kind)], text).into_response()
}

/// No route.
pub(super) async fn nothing() -> ApiError {
    ApiError::not_found("there is nothing here; /api/v1/openapi.json lists what there is")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_small_and_needs_nobody_else() {
        let script: usize = FILES.iter().filter(|f| f.1 == JS).map(|f| f.2.len()).sum();
        assert!(script < 125_000, "{script} bytes of script");
        for (name, _, text) in FILES {
            let outside = text.replace("http://www.w3.org/2000/svg", "");
            assert!(
                !outside.contains("http://") && !outside.contains("https://"),
                "{name} names another host"
            );
        }
    }
}
