//! The page in a real Chromium, as an operator uses it.

use super::browser::Browser;
use super::inspections::id;
use super::server::{PASSWORD, Server, commit, part};
use inspectd::domain::inspection::Inspection;
use inspectd::domain::part::PartRef;
use inspectd::domain::review::{Decided, Decision, ReviewKind};

pub(crate) async fn log_in(browser: &Browser, server: &Server, name: &str) {
    browser.page.goto(&server.web.url).await;
    browser.fill("input[name=name]", name).await;
    browser.fill("input[name=password]", PASSWORD).await;
    browser.click("button[type=submit]").await;
    browser.until("document.querySelectorAll('.row img').length > 0").await;
}

/// The picture of the open part is on the screen: only then a decision about it is taken.
pub(crate) const SEEN: &str = "document.querySelector('.decide.seen')";

/// The id of the chosen row.
pub(crate) const CHOSEN: &str = "document.querySelector('.row[aria-selected=true]')?.dataset.id";

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_reviews_with_mouse_and_keyboard() {
    let server = Server::start(9);
    let browser = Browser::start(1440, 900).await;
    browser.page.goto(&server.web.url).await;
    browser.fill("input[name=name]", "operator").await;
    browser.fill("input[name=password]", "wrong").await;
    browser.click("button[type=submit]").await;
    browser.until("document.querySelector('.error').textContent.includes('wrong')").await;
    log_in(&browser, &server, "operator").await;

    // The queue, newest first, and the newest is open: part 9, a pass.
    assert_eq!(browser.value("document.querySelector('.row').dataset.id").await, id(9));
    browser.until(&format!("{SEEN} && document.querySelector('.head h1').textContent === 'P9'")).await;
    // Keyboard alone: confirm it, which goes on to the next; then down and up.
    browser.keys("y").await;
    browser.until(&format!("{CHOSEN} === '{}'", id(8))).await;
    let confirmed = server.store.effective_review(9).unwrap().expect("part 9 is decided");
    assert_eq!((confirmed.kind, confirmed.actor.as_str()), (ReviewKind::Confirm, "operator"));
    browser.keys("jjk").await;
    browser.until(&format!("{CHOSEN} === '{}'", id(7))).await;
    browser.until(&format!("{SEEN} && document.querySelector('.head h1').textContent === 'P7'")).await;

    // An override with a drawn box: the model's box goes, another is drawn and relabelled.
    browser.click(".finding .pick").await;
    browser.click("#box-remove").await;
    browser.until("document.querySelectorAll('.finding').length === 0").await;
    browser.keys("d").await;
    browser.until("document.querySelector('.stage.drawing')").await;
    let stage = browser.value("(r => [r.x + r.width / 2, r.y + r.height / 2])(document.querySelector('.stage img').getBoundingClientRect())").await;
    let (x, y) = (stage[0].as_f64().unwrap() as i64, stage[1].as_f64().unwrap() as i64);
    browser.drag((x - 80, y - 60), (x + 40, y + 50)).await;
    browser.until("document.querySelectorAll('.finding').length === 1").await;
    browser.keys("y").await;
    browser.fill("#reason", "scratch was a reflection").await;
    browser.click("#reason-go").await;
    browser.until(&format!("{CHOSEN} === '{}'", id(6))).await;
    let over = server.store.effective_review(7).unwrap().expect("part 7 is decided");
    assert_eq!((over.kind, over.verdict), (ReviewKind::Override, Some(Decided::Pass)));
    assert_eq!(over.reason, "scratch was a reflection");
    let boxes = over.findings.expect("the drawn box is kept");
    assert_eq!(boxes.len(), 1);
    let b = boxes[0].bbox_px;
    assert!(b.x0 < 128.0 && b.x1 > 128.0 && b.y0 < 128.0 && b.y1 > 128.0 && b.width() < 200.0, "{b:?}");

    // Taken back, by a key: a new entry, and the model's verdict stands again.
    browser.keys("k").await;
    browser.until("document.querySelector('.head h1').textContent === 'P7' && !document.querySelector('#undo').disabled").await;
    browser.keys("z").await;
    browser.until("document.querySelectorAll('.history li').length === 2").await;
    assert_eq!(server.store.effective_review(7).unwrap(), None);
    assert_eq!(server.store.reviews_of(7).unwrap().len(), 2);

    // Filters are in the address and can be shared.
    browser.page.goto(&format!("{}?verdict=review", server.web.url)).await;
    browser
        .until("document.querySelectorAll('.row').length === 3 && document.querySelector('.row.review')")
        .await;
    browser.fill("input[type=search]", "P8").await;
    browser
        .until("document.querySelectorAll('.row').length === 1 && location.search.includes('part=P8')")
        .await;
    // Text that differs has its differing characters marked.
    browser.until("document.querySelector('.text mark')?.textContent === '8'").await;
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_do_is_seen_at_once_and_viewers_only_look() {
    let server = Server::start(4);
    let browser = Browser::start(1280, 800).await;
    log_in(&browser, &server, "viewer").await;
    browser.until("document.querySelector('#live.on')").await;
    assert_eq!(browser.value("document.querySelector('#yes')").await, serde_json::Value::Null);
    commit(&server.store, &part(5));
    browser.until(&format!("document.querySelector('.row').dataset.id === '{}'", id(5))).await;
    browser.click(&format!(".row[data-id='{}']", id(4))).await;
    browser.until("document.querySelector('.head h1').textContent === 'P4'").await;
    let decision = Decision {
        verdict: Decided::Fail,
        reason: String::new(),
        note: String::new(),
        findings: None,
        texts: None,
    };
    server.store.review(&id(4), "ben", decision, None).unwrap();
    browser.until("document.querySelector('.banner')?.textContent.includes('ben')").await;
    browser.until(&format!("document.querySelector(\".row[data-id='{}'] .person\")", id(4))).await;
    browser.end().await;
}

/// The view from this camera of the part that the views 5 and 6 are of.
fn view(n: u64, camera: &str) -> Inspection {
    let mut view = part(n);
    view.camera = camera.into();
    let (name, cameras) = ("housing".to_owned(), vec!["top".to_owned(), "side".to_owned()]);
    view.trigger.part = Some(Box::new(PartRef { id: id(99), name, cameras }));
    view
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_shows_its_part_and_the_others() {
    let server = Server::start(2);
    let browser = Browser::start(1280, 800).await;
    commit(&server.store, &view(6, "side"));
    log_in(&browser, &server, "viewer").await;
    let shown = "[...document.querySelectorAll('.views h2, .views button')].map(e => e.innerText.replace(/\\s+/g, ' '))";
    browser.until("document.querySelector('.views')").await;
    let open = browser.value(shown).await;
    assert_eq!(open, serde_json::json!(["Part: housing awaited", "top awaited", "side Pass"]));
    // The other view comes: the part is decided, by the worse of the two, on the page that is open.
    commit(&server.store, &view(5, "top"));
    browser.until("document.querySelector('.views h2 .badge.review')").await;
    let decided = browser.value(shown).await;
    assert_eq!(decided, serde_json::json!(["Part: housing Review", "top Review", "side Pass"]));
    // It is one row, which the newest view stands for, whichever view is open.
    let row = format!("document.querySelectorAll('.row').length === 3 && {CHOSEN} === '{}'", id(5));
    browser
        .until(&format!(
            "document.querySelector('.views [aria-current=true]').innerText.includes('side') && {row}"
        ))
        .await;
    browser.click(".views li:first-child button").await;
    browser
        .until(&format!(
            "document.querySelector('.views [aria-current=true]').innerText.includes('top') && {row}"
        ))
        .await;
    browser.end().await;
}

/// An engineer reads them at once; others see that they are there.
#[tokio::test(flavor = "multi_thread")]
async fn the_warnings_about_a_recipe_are_shown_until_another_one_runs() {
    let server = Server::start(3);
    let runs = server.run_recipes(&[("side", "sound"), ("top", "blind")]);
    let browser = Browser::start(1280, 800).await;
    log_in(&browser, &server, "engineer").await;
    browser.until("document.querySelector('#risks details[open] li')").await;
    let lines = "[...document.querySelectorAll('#risks summary, #risks li')].map(e => e.innerText.replace(/\\s+/g, ' '))";
    let shown = serde_json::json!([
        "Defective parts may pass this recipe: blind (top) · 2",
        "pipelines/blind.toml:12 tiling.tile_px = 8192 it cannot be relied on to see a defect below 1024 px",
        "pipelines/blind.toml:1 prompt <img src=x onerror=alert(1)>",
    ]);
    assert_eq!(browser.value(lines).await, shown, "text stays text");
    assert_eq!(browser.value("document.querySelector('#risks img')").await, serde_json::Value::Null);
    // Both run it: it is said once. What was closed stays closed.
    browser.click("#risks summary").await;
    browser.until("!document.querySelector('#risks details').open").await;
    runs.change("side", "blind");
    browser.until("document.querySelector('#risks summary').innerText.includes('(side, top)')").await;
    let open = "[...document.querySelectorAll('#risks details')].map(e => e.open)";
    assert_eq!(browser.value(open).await, serde_json::json!([false]));
    runs.change("side", "sound");
    runs.change("top", "sound");
    browser.until("document.querySelector('[data-camera=top]').textContent.includes('sound') && !document.querySelector('#risks').offsetParent && !document.querySelector('#risks details')").await;
    browser.end().await;

    runs.change("top", "blind");
    let browser = Browser::start(500, 840).await;
    log_in(&browser, &server, "operator").await;
    browser.until("document.querySelector('#risks details')").await;
    assert_eq!(browser.value(open).await, serde_json::json!([false]));
    assert_eq!(browser.value("document.querySelector('#risks summary').offsetHeight >= 44").await, true);
    browser.click("#risks summary").await;
    browser.until("document.querySelector('#risks li').offsetParent").await;
    let wide = browser.value("document.documentElement.scrollWidth <= innerWidth").await;
    assert_eq!(wide, true, "nothing leaves the screen");
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_phone_everything_can_be_tapped_with_gloves() {
    let server = Server::start(6);
    let browser = Browser::start(500, 840).await;
    log_in(&browser, &server, "engineer").await;
    assert_eq!(browser.value(CHOSEN).await, serde_json::Value::Null, "the list first");
    let small = "[...document.querySelectorAll('button, a.button, input, select')].filter(e => e.offsetParent && \
        (e.getBoundingClientRect().height < 44 || e.getBoundingClientRect().width < 44)).map(e => e.outerHTML.slice(0, 120))";
    assert_eq!(browser.value(small).await, serde_json::json!([]));
    browser.click(&format!(".row[data-id='{}']", id(5))).await;
    browser.until(&format!("{SEEN} && document.querySelector('#yes').offsetParent")).await;
    assert_eq!(browser.value(small).await, serde_json::json!([]));
    let wide = browser.value("document.documentElement.scrollWidth <= innerWidth").await;
    assert_eq!(wide, true, "nothing leaves the screen");
    browser.click("#yes").await;
    browser.until("document.querySelector('.toast')").await;
    browser.page.goto(&format!("{}?view=charts", server.web.url)).await;
    browser.until("document.querySelectorAll('svg.chart').length >= 3").await;
    browser.page.goto(&format!("{}?view=people", server.web.url)).await;
    browser.until("document.querySelectorAll('table tr').length === 7").await;
    browser.end().await;
}
