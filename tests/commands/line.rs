//! The line view of a running station: what an operator presses is done, and a frozen daemon is seen to be frozen.

use super::browser::Browser;
use super::{SIMULATOR, camera};
use crate::broker::until;
use crate::station::{Station, signal};
use inspectd::store::accounts::Account;
use inspectd::web::auth;
use std::net::{TcpListener, TcpStream};
use std::time::{SystemTime, UNIX_EPOCH};

const PASSWORD: &str = "correct horse";
const CARD: &str = "document.querySelector('.cam[data-id=cam1]')";
/// A frozen daemon is shown as frozen so soon.
const SHOWN_MS: f64 = 3000.0;
/// A machine that is busy with other tests may be late; each time that it is frozen counts.
const TIMES: usize = 3;

/// A station with one triggered camera whose page is at `page`, and an operator.
fn station() -> (Station, String) {
    let page = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let sections = format!("{}[web]\nlisten = \"{page}\"\n", camera("cam1", SIMULATOR));
    let station = Station::new(9, &sections);
    let operator = Account {
        name: "operator".into(),
        role: "operator".into(),
        password_hash: auth::hash(PASSWORD).unwrap(),
        created_at: "2026-01-01T00:00:00.000Z".into(),
    };
    station.store().put_account(&operator).unwrap();
    (station, page.to_string())
}

/// The operator's browser, with the line before him.
async fn operator(page: &str) -> Browser {
    let browser = Browser::start(1024, 768).await;
    browser.page.goto(&format!("http://{page}/?view=line")).await;
    browser.fill("input[name=name]", "operator").await;
    browser.fill("input[name=password]", PASSWORD).await;
    browser.click("button[type=submit]").await;
    browser.until(&format!("{CARD}.dataset.state === 'ready'")).await;
    browser
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_is_triggered_paused_resumed_and_given_a_recipe_from_the_page() {
    let (station, page) = station();
    let _daemon = station.start();
    until("the page is there", || TcpStream::connect(&page).is_ok()).await;
    let browser = operator(&page).await;
    browser.until("document.querySelector('[data-tile=engine] strong').innerText === 'ready'").await;
    assert_eq!(browser.value("document.querySelector('[data-tile=broker] strong').innerText").await, "away");

    let press = |verb: &str| format!(".cam[data-id=cam1] [data-command={verb}]");
    browser.click(&press("trigger")).await;
    browser.until(&format!("{CARD}.querySelector('img').naturalWidth > 0")).await;
    browser.until(&format!("{CARD}.querySelector('.judged .badge')")).await;
    browser.until(&format!("{CARD}.innerText.includes('deadline')")).await;

    browser.click(&press("pause")).await;
    browser.until(&format!("{CARD}.dataset.state === 'paused' && {CARD}.querySelector('.why').innerText.includes('http:operator')")).await;
    browser.click(&press("trigger")).await;
    browser.until(&format!("{CARD}.querySelector('.error').innerText === 'The camera is paused.'")).await;
    browser.click(&press("resume")).await;
    browser.until(&format!("{CARD}.dataset.state === 'ready'")).await;

    browser.click(&press("recipe")).await;
    browser.until("document.querySelector('dialog select').value === 'examples-defects'").await;
    browser.value("(document.querySelector('dialog select').value = 'photo')").await;
    browser.click("#recipe-go").await;
    browser.until(&format!("{CARD}.innerText.includes('photo @') && {CARD}.innerText.includes('by http:operator') && !document.querySelector('dialog')")).await;
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_daemon_is_shown_as_frozen_within_three_seconds_and_is_sent_nothing() {
    let (station, page) = station();
    let daemon = station.start();
    until("the page is there", || TcpStream::connect(&page).is_ok()).await;
    let browser = operator(&page).await;
    // By the page's own clock, which is this machine's.
    browser
        .value("new MutationObserver(() => { if (document.documentElement.classList.contains('frozen')) window.frozenAt ??= Date.now(); }).observe(document.documentElement, { attributes: true })")
        .await;
    let mut took = vec![];
    for _ in 0..TIMES {
        browser.until("document.querySelector('#live.on')").await;
        browser.value("(window.frozenAt = null)").await;
        let stopped = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64() * 1000.0;
        signal(daemon.id(), libc::SIGSTOP);
        browser.until("window.frozenAt").await;
        took.push(browser.value("window.frozenAt").await.as_f64().unwrap() - stopped);
        browser.until("document.querySelector('#frozen').innerText.includes('no sign of life since')").await;
        browser.click(".cam[data-id=cam1] [data-command=trigger]").await;
        browser
            .until(&format!("{CARD}.querySelector('.error').innerText.includes('nothing was sent')"))
            .await;
        signal(daemon.id(), libc::SIGCONT);
        browser.until("document.querySelector('#frozen').hidden").await;
    }
    assert!(took.iter().any(|ms| (0.0..=SHOWN_MS).contains(ms)), "{took:?} ms after it was frozen");
    assert_eq!(
        browser.value(&format!("{CARD}.querySelector('.judged .badge')")).await,
        serde_json::Value::Null
    );
    browser.end().await;
    drop(daemon);
}
