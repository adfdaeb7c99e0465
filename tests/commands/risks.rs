//! What is risky about a recipe, as the daemon tells it: once at the start, and on the page for as long as it runs.

use super::{SIMULATOR, http};
use crate::broker::until;
use crate::station::Station;
use crate::tokens::{self, bearer};
use inspectd::web::auth::Role;
use serde_json::{Value, json};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

fn cameras(page: SocketAddr) -> Value {
    tokio::task::block_in_place(|| http::ask(page, "GET", "/api/v1/cameras", &[&bearer(Role::Engineer)], ""))
        .json()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_warnings_about_a_recipe_are_logged_once_and_shown_while_it_runs() {
    let page = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    // Two cameras and one risky recipe: it is told once.
    let camera = |id: &str| {
        format!(
            "[[camera]]\nid = \"{id}\"\npipeline = \"blind\"\n{SIMULATOR}trigger = {{ on = \"command\" }}\n"
        )
    };
    let sections = format!("{}{}[web]\nlisten = \"{page}\"\n", camera("cam1"), camera("cam2"));
    let station = Station::new(9, &sections);
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines");
    let own = station.dir.path().join("pipelines");
    std::fs::create_dir(&own).unwrap();
    let photo = std::fs::read_to_string(shipped.join("photo.toml")).unwrap();
    let blind = photo.replacen("tile_px = 512 ", "tile_px = 8192 ", 1).replace("\"photo\"", "\"blind\"");
    let line = 1 + blind.lines().position(|line| line.starts_with("tile_px = 8192")).unwrap();
    std::fs::write(own.join("photo.toml"), photo).unwrap();
    std::fs::write(own.join("blind.toml"), blind).unwrap();
    station.edit(&shipped.display().to_string(), &own.display().to_string());
    tokens::put(&station.store(), Role::Engineer);
    let _daemon = station.start();
    until("the page is there", || std::net::TcpStream::connect(page).is_ok()).await;
    until("the cameras are open", || cameras(page) != json!([])).await;
    let shown = cameras(page);
    for camera in [&shown[0], &shown[1]] {
        let [warning] = camera["warnings"].as_array().unwrap().as_slice() else { panic!("{shown}") };
        let file = own.join("blind.toml").display().to_string();
        assert_eq!(
            (&warning["file"], &warning["line"], &warning["key"], &warning["value"]),
            (&json!(file), &json!(line), &json!("tiling.tile_px"), &json!("8192"))
        );
        assert!(warning["message"].as_str().unwrap().contains("a defect below 1024 px"), "{warning}");
    }
    let words = json!({"camera": "cam1", "pipeline": "photo"}).to_string();
    let post = || http::ask(page, "POST", "/api/v1/commands/pipeline", &[&bearer(Role::Engineer)], &words);
    assert_eq!(tokio::task::block_in_place(post).status, 202);
    let shown = cameras(page);
    assert_eq!((&shown[0]["pipeline"], &shown[0]["warnings"]), (&json!("photo"), &json!([])));
    assert_eq!(shown[1]["warnings"].as_array().map(Vec::len), Some(1), "the other goes on: {shown}");
    let told = station.log().matches(": tiling.tile_px = 8192: ").count();
    assert_eq!(told, 1, "{}", station.log());
}
