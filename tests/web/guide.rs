//! The guide on the page: without a login, to its last link.

use super::http::ask;
use super::server::Server;
use std::collections::{BTreeMap, BTreeSet};

/// What follows each `start` up to the next quotation mark.
fn quoted(html: &str, start: &str) -> Vec<String> {
    html.split(start).skip(1).filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())).collect()
}

/// The address of a link on the page `from`.
fn resolved(from: &str, link: &str) -> String {
    let folder = from.rsplit_once('/').expect("an address begins with /").0;
    match link {
        link if link.starts_with('/') => link.to_owned(),
        link if link.starts_with('#') => format!("{from}{link}"),
        link => match link.strip_prefix("../") {
            Some(link) => format!("{}/{link}", folder.rsplit_once('/').expect("a folder above").0),
            None => format!("{folder}/{link}"),
        },
    }
}

#[test]
fn every_link_of_the_guide_leads_somewhere_without_a_login() {
    let server = Server::start(0);
    let mut pages: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut links = vec!["/guide/".to_owned()];
    let mut places = Vec::new();
    while let Some(link) = links.pop() {
        let page = link.split('#').next().expect("a first part").to_owned();
        places.extend(link.split_once('#').map(|(page, place)| (page.to_owned(), place.to_owned())));
        if pages.contains_key(&page) {
            continue;
        }
        let answer = ask(server.web.address, "GET", &page, &[], "");
        assert_eq!(answer.status, 200, "{page}");
        let html = String::from_utf8(answer.body).expect("text");
        if page.starts_with("/guide/") {
            links.extend(quoted(&html, "<a href=\"").iter().map(|to| resolved(&page, to)));
        }
        pages.insert(page, quoted(&html, " id=\"").into_iter().collect());
    }
    assert!(pages.len() > 15, "{:?}", pages.keys());
    for topic in ["/guide/install", "/guide/zh/review", "/guide/zh/troubleshooting", "/guide/glossary"] {
        assert!(pages.contains_key(topic), "{topic}");
    }
    for (page, place) in places {
        assert!(pages[&page].contains(&place), "{page} has no heading {place}: {:?}", pages[&page]);
    }
}

#[test]
fn the_guide_is_asked_for_once_and_names_no_other_host() {
    let server = Server::start(0);
    let first = ask(server.web.address, "GET", "/guide/troubleshooting", &[], "");
    let html = String::from_utf8_lossy(&first.body);
    for bad in ["src=", "<script", "href=\"http"] {
        assert!(!html.contains(bad), "{bad}");
    }
    let seen = format!("If-None-Match: {}", first.header("etag").expect("a tag"));
    let again = ask(server.web.address, "GET", "/guide/troubleshooting", &[&seen], "");
    assert_eq!((again.status, again.body.len()), (304, 0));
    for missing in ["/guide/nothing", "/guide/zh/install", "/guide/../main.rs"] {
        assert_eq!(ask(server.web.address, "GET", missing, &[], "").status, 404, "{missing}");
    }
}
