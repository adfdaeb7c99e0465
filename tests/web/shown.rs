//! What the page shows of parts: cameras, views, reasons and labels in the reader's language, tags, crops, help.

use super::browser::Browser;
use super::inspections::id;
use super::page::{CHOSEN, SEEN, log_in};
use super::server::{Server, commit, part};
use inspectd::domain::finding::Finding;
use inspectd::domain::grade::{Grade, Reason, Verdict};
use inspectd::domain::inspection::{Inspection, TileCount};
use inspectd::domain::part::PartRef;
use inspectd::domain::rect::BoxPx;
use inspectd::domain::review::Decided;
use inspectd::web::auth::Role;
use serde_json::json;

/// What a script gives, as text without the white space of the layout.
const TEXTS: &str = ".map(e => e.innerText.replace(/\\s+/g, ' ').trim())";

/// A view of the part that inspections 5 and 6 are of.
fn view(n: u64, camera: &str) -> Inspection {
    let mut view = part(n);
    view.camera = camera.into();
    view.trigger.part_id = Some("H7".into());
    let (name, cameras) = ("housing".to_owned(), vec!["top".to_owned(), "side".to_owned()]);
    view.trigger.part = Some(Box::new(PartRef { id: id(99), name, cameras }));
    view
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_name_their_cameras_and_the_views_of_a_part_are_one() {
    let server = Server::start(4);
    commit(&server.store, &view(5, "top"));
    commit(&server.store, &view(6, "side"));
    let browser = Browser::start(1280, 800).await;
    log_in(&browser, &server, "operator").await;
    browser.until("document.querySelectorAll('.row').length === 5").await;
    let row = |n: u64| format!("document.querySelector(\".row[data-id='{}']\")", id(n));
    // The newest view stands for the part: its name, the verdict of the worst of its views, and each of them.
    assert_eq!(
        browser.value(&format!("[{}.querySelector('.whole')]{TEXTS}", row(6))).await,
        json!(["housing Review"])
    );
    let cameras = format!("[...{}.querySelectorAll('.mini')]{TEXTS}", row(6));
    assert_eq!(browser.value(&cameras).await, json!(["top", "side"]));
    let own = format!("[...{}.querySelectorAll('.mini .badge')].map(b => b.className)", row(6));
    assert_eq!(browser.value(&own).await, json!(["badge review", "badge pass"]));
    assert_eq!(browser.value(&row(5)).await, json!(null), "it has no row of its own");
    for pictures in [
        format!("{}.querySelectorAll('.mini img')", row(6)),
        "document.querySelectorAll('.views img')".into(),
    ] {
        browser.until(&format!("[...{pictures}].filter(i => i.naturalWidth).length === 2")).await;
    }

    // What is decided is one view; then the part's other one is open, and then the next part.
    let open = |camera: &str| {
        let tab = "document.querySelector('.views [aria-current=true]').innerText";
        format!("{SEEN} && {tab}.includes('{camera}') && {CHOSEN} === '{}'", id(6))
    };
    browser.until(&open("side")).await;
    browser.keys("y").await;
    browser.until(&open("top")).await;
    browser.until(&format!("{}.querySelector('.mini[data-camera=side] .person.pass')", row(6))).await;
    assert_eq!(
        browser.value(&format!("{}.querySelector('.mini[data-camera=top] .person')", row(6))).await,
        json!(null)
    );
    browser.keys("n").await;
    browser
        .until(&format!(
            "document.querySelector('.head h1').textContent === 'P4' && {CHOSEN} === '{}'",
            id(4)
        ))
        .await;
    browser.until(&format!("{}.classList.contains('done')", row(6))).await;
    let decided = |n: u64| server.store.effective_review(n).unwrap().and_then(|review| review.verdict);
    assert_eq!((decided(6), decided(5)), (Some(Decided::Pass), Some(Decided::Fail)));
    let whole = format!("[{}.querySelector('.whole')]{TEXTS}", row(6));
    assert_eq!(browser.value(&whole).await, json!(["housing Review"]), "the line has acted on it");
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reasons_and_labels_are_in_the_words_of_who_reads_them() {
    let server = Server::start(0);
    commit(&server.store, &part(1));
    let mut cut = part(2);
    cut.verdict = Verdict::Review(Reason::MissingTile { inspected: 0, planned: 31 });
    (cut.grade, cut.tiles) = (Grade::Ok, TileCount { planned: 31, inspected: 0 });
    cut.findings.clear();
    cut.texts.clear();
    commit(&server.store, &cut);
    let browser = Browser::start(1280, 800).await;
    log_in(&browser, &server, "operator").await;
    // An older record with the grade ok of what nobody looked at.
    browser.until(&format!("{SEEN} && document.querySelector('.head h1').textContent === 'P2'")).await;
    let said = format!("[...document.querySelectorAll('.head .grade, .reason span, .row .line2')]{TEXTS}");
    let english = json!([
        "Not all of the picture was inspected: 0 / 31",
        "scratch",
        "not fully inspected",
        "Not all of the picture was inspected 0 / 31"
    ]);
    assert_eq!(browser.value(&said).await, english);
    for (code, of_the_cut, label) in [
        ("zh", "图片未全部检测 0 / 31", "划痕"),
        ("de", "Nicht das ganze Bild wurde inspiziert 0 / 31", "Kratzer"),
        ("es", "No se inspeccionó toda la imagen 0 / 31", "rayón"),
        ("ja", "画像の一部が未検査 0 / 31", "傷"),
    ] {
        browser.click("#language").await;
        browser.click(&format!("[data-lang={code}]")).await;
        browser.until(&format!("document.documentElement.lang.startsWith('{code}') && {SEEN}")).await;
        let said = browser.value(&format!("[...document.querySelectorAll('.reason span')]{TEXTS}")).await;
        assert_eq!(said, json!([of_the_cut]), "{code}");
        let row = format!("[document.querySelector(\".row[data-id='{}'] .line2\")]{TEXTS}", id(1));
        assert_eq!(browser.value(&row).await, json!([label]), "{code}");
    }
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tags_of_findings_that_lie_together_do_not_overlap() {
    let server = Server::start(0);
    let mut crowded = part(1);
    let one = crowded.findings[0].clone();
    let at = |n: u8| Finding {
        label: "missing_screw".into(),
        bbox_px: BoxPx::new(100.0 + f32::from(n), 2.0, 130.0 + f32::from(n), 20.0 + f32::from(n)),
        ..one.clone()
    };
    crowded.findings = (0..9).map(at).collect();
    commit(&server.store, &crowded);
    let browser = Browser::start(1280, 800).await;
    log_in(&browser, &server, "operator").await;
    browser.until(&format!("{SEEN} && document.querySelectorAll('.tag').length === 9")).await;
    let overlaps = "(all => all.filter((a, i) => all.slice(i + 1).some(b => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1)).length)\
        ([...document.querySelectorAll('.tag rect')].map(r => r.getBoundingClientRect()))";
    assert_eq!(browser.value(overlaps).await, json!(0));
    let outside = "(s => [...document.querySelectorAll('.tag rect')].map(r => r.getBoundingClientRect()).filter(r => r.left < s.left - 1 || r.top < s.top - 1 || r.right > s.right + 1 || r.bottom > s.bottom + 1).length)(document.querySelector('.stage').getBoundingClientRect())";
    assert_eq!(browser.value(outside).await, json!(0));
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn defects_are_shown_cut_out_and_in_a_grid() {
    let server = Server::start(12);
    let browser = Browser::start(1440, 900).await;
    log_in(&browser, &server, "operator").await;
    // Eight of the twelve have findings; their crops come from the server.
    browser
        .until("[...document.querySelectorAll('.row img.crop')].filter(i => i.naturalWidth > 90).length >= 3")
        .await;
    browser.click(&format!(".row[data-id='{}']", id(10))).await;
    browser.until(&format!("{SEEN} && document.querySelector('.finding .cut svg image')")).await;
    browser.click("#as-grid").await;
    browser.until("document.querySelectorAll('.row').length === 12").await;
    let tops = "new Set([...document.querySelectorAll('.row')].map(r => r.offsetTop)).size";
    assert_eq!(browser.value(&format!("{tops} < 7")).await, json!(true), "several stand beside each other");
    let wide = browser.value("document.documentElement.scrollWidth <= innerWidth").await;
    assert_eq!(wide, json!(true), "nothing leaves the screen");
    // It is kept for the next visit, and the list comes back.
    browser.page.refresh().await;
    browser.until("document.querySelector('.gridded .row')").await;
    browser.click("#as-grid").await;
    browser.until(&format!("{tops} >= 8 && !document.querySelector('.gridded')")).await;
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn help_stays_until_it_is_closed_and_lists_what_one_may_do() {
    let server = Server::start(2);
    let keys = "[...document.querySelectorAll('.help .keys kbd')].map(k => k.textContent)";
    for (name, may_decide) in [("operator", true), ("viewer", false)] {
        let browser = Browser::start(1280, 800).await;
        log_in(&browser, &server, name).await;
        browser.keys("?").await;
        browser.until("document.querySelector('dialog[open] .help')").await;
        let listed = browser.value(keys).await;
        let lists = |key: &str| listed.as_array().unwrap().iter().any(|k| k == key);
        assert_eq!((lists("y"), lists("z"), lists("j")), (may_decide, may_decide, true), "{name}: {listed}");
        browser.click("dialog[open] header button").await;
        browser.until("!document.querySelector('dialog')").await;
        browser.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn charts_say_when_there_is_too_little_and_a_report_is_printed_without_the_page_around_it() {
    let server = Server::start(6);
    let browser = Browser::start(1280, 800).await;
    log_in(&browser, &server, "operator").await;
    browser.page.goto(&format!("{}?view=charts", server.web.url)).await;
    browser.until("document.querySelector('.state.unknown')").await;
    assert_eq!(browser.value("document.querySelector('.state.in_control')").await, json!(null));
    browser.click("#to-report").await;
    browser.until("document.querySelector('.paper .tile strong')?.textContent === '6'").await;
    browser.devtools("Emulation.setEmulatedMedia", json!({"media": "print"})).await;
    let shown =
        "['.bar', '.report-tools', '.paper'].map(s => document.querySelector(s).offsetParent !== null)";
    browser.until(&format!("JSON.stringify({shown}) === '[false,false,true]'")).await;
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blind_study_shows_the_picture_and_nothing_that_was_said_of_it() {
    let server = Server::start(10);
    assert_eq!(server.post("/api/v1/blind", Role::Engineer, &json!({"parts": 10})).status, 201);
    let browser = Browser::start(1280, 800).await;
    log_in(&browser, &server, "operator").await;
    browser.page.goto(&format!("{}?view=charts", server.web.url)).await;
    browser.click(".blind a[data-round='1']").await;
    browser.until(SEEN).await;
    let said = browser.value("document.querySelector('#main').innerText").await;
    for word in ["scratch", "cam1", "machined", "reject", "P1"] {
        assert!(!said.as_str().unwrap().contains(word), "{word} in {said}");
    }
    let marks = "document.querySelectorAll('#main .tag, #main .layer rect, #main .badge').length";
    assert_eq!(browser.value(marks).await, json!(0));
    browser.keys("y").await;
    let count = "document.querySelector('#blind-count').textContent";
    browser.until(&format!("{count}.startsWith('1 / 10') && {SEEN}")).await;
    browser.click("[data-say=fail]").await;
    browser.until(&format!("{count}.startsWith('2 / 10') && {SEEN}")).await;
    let studies = server.get("/api/v1/blind", Role::Viewer).json();
    assert_eq!(studies[0]["raters"], json!([{"name": "operator", "round": 1, "parts": 2}]));
    assert_eq!(*server.store.subscribe_reviews().borrow(), 0, "it is no review");
    browser.end().await;
}
