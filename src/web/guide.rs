//! The guide as pages: its Markdown is rendered when somebody asks. It asks for no login, like the page's own files:
//! it is the same on every box, and whoever cannot log in needs it most.
//!
//! ```text
//! /guide/   /guide/{topic}   /guide/zh/{topic}
//! ```
//!
//! Chapters name each other by file (`mqtt.md#topics`), and here by address: the same without `.md`.

use super::error::ApiError;
use super::pages;
use crate::guide::{self, CHAPTERS, Chapter};
use axum::extract::Path;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Redirect, Response};
use pulldown_cmark::{CowStr, Event, Options, Parser, Tag, TagEnd, html};
use std::fmt::Write as _;

/// Links are relative, so that the list has an address of its own.
pub(super) async fn moved() -> Redirect {
    Redirect::permanent("/guide/")
}

/// The chapters that there are.
pub(super) async fn list(headers: HeaderMap) -> Response {
    let mut text = String::from("# Guide\n\n| chapter | about | |\n| --- | --- | --- |\n");
    for chapter in CHAPTERS {
        let Chapter { topic, about, .. } = chapter;
        let chinese = chapter.chinese.map(|_| format!("[中文](zh/{topic}.md)")).unwrap_or_default();
        let _ = writeln!(text, "| [{}]({topic}.md) | {about} | {chinese} |", guide::title(chapter.text));
    }
    pages::answer(pages::HTML, page("en", "", &text).into(), &headers)
}

/// A chapter.
pub(super) async fn english(Path(topic): Path<String>, headers: HeaderMap) -> Response {
    let text = guide::chapter(&topic).map(|chapter| chapter.text);
    one("en", &topic, text, &headers)
}

/// A chapter in Chinese.
pub(super) async fn chinese(Path(topic): Path<String>, headers: HeaderMap) -> Response {
    let text = guide::chapter(&topic).and_then(|chapter| chapter.chinese);
    one("zh", &topic, text, &headers)
}

fn one(language: &str, topic: &str, text: Option<&str>, headers: &HeaderMap) -> Response {
    match text {
        Some(text) => pages::answer(pages::HTML, page(language, topic, text).into(), headers),
        None => ApiError::not_found("there is no such chapter; /guide/ lists them").into_response(),
    }
}

/// A whole page around a Markdown text.
fn page(language: &str, topic: &str, text: &str) -> String {
    let title = guide::title(text);
    let (nav, main) = (navigation(language, topic), rendered(text));
    format!(
        "<!doctype html>\n<html lang=\"{language}\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title} · inspectd</title>\n\
         <link rel=\"icon\" href=\"/assets/icon.svg\" type=\"image/svg+xml\">\n\
         <link rel=\"stylesheet\" href=\"/assets/guide.css\">\n</head>\n<body>\n{nav}<main>\n{main}</main>\n\
         </body>\n</html>\n"
    )
}

/// The list beside a chapter, and its other language.
fn navigation(language: &str, topic: &str) -> String {
    let mut nav = String::from("<nav>\n<a href=\"/\">inspectd</a>\n<a href=\"/guide/\">Guide</a>\n");
    for chapter in CHAPTERS {
        let here = |shown: &str| {
            if chapter.topic == topic && shown == language { " aria-current=\"page\"" } else { "" }
        };
        let name = chapter.topic;
        let _ = writeln!(nav, "<a href=\"/guide/{name}\"{}>{}</a>", here("en"), guide::title(chapter.text));
        if let Some(text) = chapter.chinese {
            let (here, title) = (here("zh"), guide::title(text));
            let _ = writeln!(nav, "<a href=\"/guide/zh/{name}\" lang=\"zh\"{here}>{title}</a>");
        }
    }
    nav + "</nav>\n"
}

fn rendered(text: &str) -> String {
    let mut events: Vec<_> = Parser::new_ext(text, Options::ENABLE_TABLES).map(addressed).collect();
    name_headings(&mut events);
    let mut out = String::new();
    html::push_html(&mut out, events.into_iter());
    out
}

/// A link to another chapter, as an address.
fn addressed(event: Event<'_>) -> Event<'_> {
    match event {
        Event::Start(Tag::Link { link_type, dest_url, title, id }) => {
            let (file, place) = dest_url.split_once('#').unwrap_or((&dest_url, ""));
            let dest_url = match file.strip_suffix(".md") {
                Some(chapter) if place.is_empty() => CowStr::from(chapter.to_owned()),
                Some(chapter) => CowStr::from(format!("{chapter}#{place}")),
                None => dest_url,
            };
            Event::Start(Tag::Link { link_type, dest_url, title, id })
        }
        other => other,
    }
}

/// Gives each heading a name that a link can end in.
fn name_headings(events: &mut [Event<'_>]) {
    for at in 0..events.len() {
        let name = match events[at] {
            Event::Start(Tag::Heading { .. }) => anchor(&words(&events[at + 1..])),
            _ => continue,
        };
        if let Event::Start(Tag::Heading { id, .. }) = &mut events[at] {
            *id = Some(name.into());
        }
    }
}

/// The words of the heading that these events go on with.
fn words(events: &[Event<'_>]) -> String {
    let inside = events.iter().take_while(|event| !matches!(event, Event::End(TagEnd::Heading(_))));
    let text = inside.filter_map(|event| match event {
        Event::Text(text) | Event::Code(text) => Some(text.as_ref()),
        _ => None,
    });
    text.collect()
}

/// As the usual readers of Markdown name a heading: small letters, digits and hyphens.
fn anchor(words: &str) -> String {
    let kept = words.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_between_chapters_become_addresses() {
        let html = rendered("[a](mqtt.md#the-topics) [b](zh/review.md) [c](#here) [d](../mqtt.md)\n");
        for address in ["mqtt#the-topics", "zh/review", "#here", "../mqtt"] {
            assert!(html.contains(&format!("<a href=\"{address}\">")), "{address}: {html}");
        }
    }

    #[test]
    fn headings_can_be_linked_to() {
        let html = rendered("## Codes of `alarm`s, and more\n");
        assert!(html.contains("<h2 id=\"codes-of-alarms-and-more\">"), "{html}");
    }

    /// What is between pointed brackets outside of code would be markup.
    #[test]
    fn no_chapter_holds_markup() {
        for text in CHAPTERS.iter().flat_map(|c| [Some(c.text), c.chinese]).flatten() {
            for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
                assert!(!matches!(event, Event::Html(_) | Event::InlineHtml(_)), "{event:?}");
            }
        }
    }
}
