//! What may be decided, and when: only a part whose picture is on the screen, once for each press of a key.

use super::browser::Browser;
use super::inspections::id;
use super::page::{CHOSEN, SEEN, log_in};
use super::server::{Server, part};
use image::{ImageFormat, Rgb, RgbImage};
use inspectd::domain::review::ReviewKind;
use serde_json::json;
use std::io::Cursor;

/// Parts 1 to `parts`, each with a picture of its own, so that no part's picture is there before it was asked for.
fn with_own_pictures(parts: u8) -> Server {
    let server = Server::start(0);
    for n in 1..=parts {
        let mut png = Cursor::new(Vec::new());
        RgbImage::from_pixel(256, 256, Rgb([n, 90, 120])).write_to(&mut png, ImageFormat::Png).unwrap();
        let image = server.store.put_image(png.get_ref(), "png").unwrap();
        server.store.commit(&part(u64::from(n)), Some(image)).unwrap();
    }
    server
}

fn decisions(server: &Server) -> u64 {
    *server.store.subscribe_reviews().borrow()
}

/// Part `n` is open, and its picture on the screen.
async fn open_and_seen(browser: &Browser, n: u64) {
    browser
        .until(&format!(
            "{SEEN} && {CHOSEN} === '{}' && document.querySelector('.head h1').textContent === 'P{n}'",
            id(n)
        ))
        .await;
}

const TOO_EARLY: &str =
    "[...document.querySelectorAll('.toast.bad')].some(t => t.textContent.includes('not on the screen'))";
const NO_TOASTS: &str = "document.querySelectorAll('.toast').forEach(t => t.remove())";

#[tokio::test(flavor = "multi_thread")]
async fn a_held_key_decides_one_part() {
    let server = Server::start(12);
    let browser = Browser::start(1280, 800).await;
    log_in(&browser, &server, "operator").await;
    open_and_seen(&browser, 12).await;
    browser.key_down("y", false).await;
    open_and_seen(&browser, 11).await;
    for _ in 0..25 {
        // Each time a decision could be taken.
        browser.until(SEEN).await;
        browser.key_down("y", true).await;
    }
    browser.key_up("y").await;
    open_and_seen(&browser, 11).await;
    // Pressed once more, it decides once more. Whatever the held key had done would have been done before.
    browser.key_down("y", false).await;
    browser.key_up("y").await;
    open_and_seen(&browser, 10).await;
    assert_eq!(decisions(&server), 2);
    browser.end().await;
}

/// A second tap, or a key that bounces, is about the part before.
#[tokio::test(flavor = "multi_thread")]
async fn tapping_again_and_again_decides_one_part() {
    let server = Server::start(9);
    let browser = Browser::start(1280, 800).await;
    log_in(&browser, &server, "operator").await;
    open_and_seen(&browser, 9).await;
    // Once in every frame, until a decision about the next part could be taken.
    let tap = format!(
        "const first = {CHOSEN}; const tap = () => {{ if ({CHOSEN} !== first && {SEEN}) {{ window.tapped = true; return; }} document.querySelector('#yes').click(); requestAnimationFrame(tap); }}; tap();"
    );
    browser.page.execute(&tap).await.unwrap();
    browser.until("window.tapped").await;
    open_and_seen(&browser, 8).await;
    assert_eq!(decisions(&server), 1);
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_on_the_screen_cannot_be_decided() {
    let server = with_own_pictures(3);
    let browser = Browser::start(1280, 800).await;
    log_in(&browser, &server, "operator").await;
    open_and_seen(&browser, 3).await;

    // Everything about the next part is slow: what is still shown is the part before, which is not decided either.
    browser.hold_requests("*/api/v1/inspections/*").await;
    browser.keys("j").await;
    browser.until(&format!("{CHOSEN} === '{}'", id(2))).await;
    browser.keys("y").await;
    browser.until(TOO_EARLY).await;
    browser.value(NO_TOASTS).await;
    browser.let_go().await;
    open_and_seen(&browser, 2).await;

    // The picture alone is slow: neither keys nor buttons decide, and the page says why.
    browser.hold_requests("*/api/v1/images/*").await;
    browser.keys("j").await;
    browser.until("document.querySelector('.head h1').textContent === 'P1'").await;
    for css in ["#yes", "#no"] {
        browser.until(&format!("document.querySelector('{css}[aria-disabled=true]')")).await;
        browser.click(css).await;
        browser.until(TOO_EARLY).await;
        browser.value(NO_TOASTS).await;
    }
    browser.keys("n").await;
    browser.until(TOO_EARLY).await;
    assert_eq!(browser.value("document.querySelector('dialog')").await, json!(null));
    assert_eq!(decisions(&server), 0);

    // It comes, and the same key decides: part 1 fails by the model, and fails.
    browser.let_go().await;
    open_and_seen(&browser, 1).await;
    browser.keys("n").await;
    browser.until("document.querySelectorAll('.history li').length === 1").await;
    let made = server.store.effective_review(1).unwrap().expect("part 1 is decided");
    assert_eq!((made.kind, decisions(&server)), (ReviewKind::Confirm, 1));
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_that_does_not_come_can_be_asked_for_again() {
    let server = with_own_pictures(2);
    let browser = Browser::start(1280, 800).await;
    log_in(&browser, &server, "operator").await;
    open_and_seen(&browser, 2).await;
    browser.devtools("Network.enable", json!({})).await;
    browser.devtools("Network.setBlockedURLs", json!({"urls": ["*/api/v1/images/*"]})).await;
    browser.keys("j").await;
    browser.until("document.querySelector('.lost #picture-again')").await;
    browser.keys("n").await;
    browser.until(TOO_EARLY).await;
    browser.devtools("Network.setBlockedURLs", json!({"urls": []})).await;
    browser.click("#picture-again").await;
    open_and_seen(&browser, 1).await;
    assert_eq!(browser.value("document.querySelector('.lost')").await, json!(null));
    assert_eq!(decisions(&server), 0);
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_decision_is_taken_back_wherever_one_stands() {
    let server = Server::start(6);
    let browser = Browser::start(1280, 800).await;
    log_in(&browser, &server, "operator").await;
    open_and_seen(&browser, 6).await;
    browser.keys("y").await;
    open_and_seen(&browser, 5).await;
    browser.keys("n").await;
    open_and_seen(&browser, 4).await;
    browser.keys("j").await;
    open_and_seen(&browser, 3).await;
    // Two parts away: part 5 was the last one, and is shown again.
    browser.keys("z").await;
    browser.until("document.querySelector('.head h1').textContent === 'P5' && document.querySelectorAll('.history li').length === 2").await;
    assert_eq!(server.store.effective_review(5).unwrap(), None);
    assert!(server.store.effective_review(6).unwrap().is_some());
    // Part 6 came before it, and nothing is left then. Charts are no place to be stuck in.
    browser.click("[data-view=charts]").await;
    browser.until("document.querySelector('svg.chart')").await;
    browser.keys("z").await;
    // The toast of the decision may still be there, and names the part, too.
    let said = |words: &str| {
        format!("[...document.querySelectorAll('.toast')].some(t => t.textContent.includes('{words}'))")
    };
    browser.until(&said("P6: Taken back")).await;
    assert_eq!(server.store.effective_review(6).unwrap(), None);
    browser.keys("z").await;
    browser.until(&said("nothing to take back")).await;
    assert_eq!(decisions(&server), 4);
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pass_and_fail_keep_their_sides_and_their_keys() {
    let server = Server::start(3);
    let browser = Browser::start(1280, 800).await;
    log_in(&browser, &server, "operator").await;
    let sides = "[...document.querySelectorAll('.buttons .big')].sort((a, b) => a.offsetLeft - b.offsetLeft).map(b => [b.className.split(' ')[1], b.querySelector('kbd').textContent])";
    for (n, words) in [
        (3, ["Confirm pass", "Override: fail"]),
        (2, ["Good part: pass", "Bad part: fail"]),
        (1, ["Override: pass", "Confirm fail"]),
    ] {
        open_and_seen(&browser, n).await;
        assert_eq!(browser.value(sides).await, json!([["pass", "y"], ["fail", "n"]]), "part {n}");
        let said =
            browser.value("[...document.querySelectorAll('.buttons .big > span')].map(s => s.textContent)");
        assert_eq!(said.await, json!(words), "part {n}");
        browser.keys("j").await;
    }
    // The key of a pass against the model: the page asks why, and a held key is no answer.
    browser.key_down("y", false).await;
    browser.until("document.querySelector('dialog[open] [data-reason]')").await;
    browser.key_up("y").await;
    browser.key_down("1", true).await;
    browser.key_up("1").await;
    assert_eq!(decisions(&server), 0);
    browser.keys("1").await;
    browser.until("document.querySelectorAll('.history li').length === 1").await;
    let made = server.store.effective_review(1).unwrap().expect("part 1 is decided");
    assert_eq!((made.kind, decisions(&server)), (ReviewKind::Override, 1));
    browser.end().await;
}
