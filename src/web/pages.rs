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
    ("words-en.js", JS, include_str!("assets/words/en.js")),
    ("words-zh.js", JS, include_str!("assets/words/zh.js")),
    ("words-de.js", JS, include_str!("assets/words/de.js")),
    ("words-es.js", JS, include_str!("assets/words/es.js")),
    ("words-ja.js", JS, include_str!("assets/words/ja.js")),
    ("help.js", JS, include_str!("assets/help.js")),
    ("queue.js", JS, include_str!("assets/queue.js")),
    ("recipes.js", JS, include_str!("assets/recipes.js")),
    ("learn.js", JS, include_str!("assets/learn.js")),
    ("thresholds.js", JS, include_str!("assets/thresholds.js")),
    ("product.js", JS, include_str!("assets/product.js")),
    ("part.js", JS, include_str!("assets/part.js")),
    ("picture.js", JS, include_str!("assets/picture.js")),
    ("blind.js", JS, include_str!("assets/blind.js")),
    ("charts.js", JS, include_str!("assets/charts.js")),
    ("report.js", JS, include_str!("assets/report.js")),
    ("people.js", JS, include_str!("assets/people.js")),
    ("cameras.js", JS, include_str!("assets/cameras.js")),
    ("line.js", JS, include_str!("assets/line.js")),
    ("poll.js", JS, include_str!("assets/poll.js")),
    ("pulse.js", JS, include_str!("assets/pulse.js")),
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
    use crate::domain::alarm::KINDS;

    #[test]
    fn every_language_says_what_to_do_about_every_alarm() {
        let said = |text: &str, word: &str| text.matches(&format!("al_{word}:")).count();
        let mut languages = 0;
        for (name, _, text) in FILES {
            let here = said(text, KINDS[0].word);
            for kind in KINDS {
                assert_eq!(said(text, kind.word), here, "{name}: al_{}", kind.word);
            }
            languages += here;
        }
        assert!(languages >= 2, "{languages}");
    }

    /// The keys of a file of words, in their order: what stands before `: "`.
    fn keys(text: &str) -> Vec<&str> {
        let mut keys = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find(": \"") {
            keys.push(rest[..at].rsplit([' ', '\n']).next().unwrap_or_default());
            // Behind the word, whose quotes are escaped.
            let word = &rest[at + 3..];
            let end = word.char_indices().scan(false, |escaped, (i, c)| {
                let ends = c == '"' && !*escaped;
                *escaped = c == '\\' && !*escaped;
                Some((i, ends))
            });
            let end = end.filter(|(_, ends)| *ends).map(|(i, _)| i).next().expect("a word ends");
            rest = &word[end + 1..];
        }
        keys
    }

    /// A word that one language lacks would be shown in English, in the middle of the others.
    #[test]
    fn all_languages_have_the_same_words() {
        let words = |code: &str| {
            let name = format!("words-{code}.js");
            let (_, _, text) = FILES.iter().find(|f| f.0 == name).expect("every language has its file");
            keys(text)
        };
        let chooser = FILES.iter().find(|f| f.0 == "words.js").expect("the chooser").2;
        let english = words("en");
        assert!(english.len() > 300 && english.contains(&"undecided"), "{english:?}");
        for code in ["zh", "de", "es", "ja"] {
            assert!(chooser.contains(&format!(" {code}: \"")), "{code} cannot be chosen");
            let other = words(code);
            let lacks: Vec<_> = english.iter().filter(|key| !other.contains(key)).collect();
            let more: Vec<_> = other.iter().filter(|key| !english.contains(key)).collect();
            assert!(lacks.is_empty() && more.is_empty(), "{code} lacks {lacks:?} and has {more:?}");
            let twice = (1..other.len()).find(|at| other[..*at].contains(&other[*at]));
            assert_eq!(twice.map(|at| other[at]), None, "{code} has a word twice");
        }
    }

    #[test]
    fn the_page_is_small_and_needs_nobody_else() {
        // Of the languages a browser takes English and one more.
        let script = |f: &&(&str, &str, &str)| f.1 == JS && !f.0.starts_with("words-");
        let code: usize = FILES.iter().filter(script).map(|f| f.2.len()).sum();
        assert!(code < 150_000, "{code} bytes of script");
        for (name, _, text) in FILES.iter().filter(|f| f.0.starts_with("words-")) {
            assert!(text.len() < 40_000, "{name}: {} bytes of words", text.len());
        }
        for (name, _, text) in FILES {
            let outside = text.replace("http://www.w3.org/2000/svg", "");
            assert!(
                !outside.contains("http://") && !outside.contains("https://"),
                "{name} names another host"
            );
        }
    }
}
