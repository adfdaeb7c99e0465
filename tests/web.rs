//! The review page: its API by role, its doors, its ledger, its exports, and the page itself in a real
//! Chromium.
//!
//! ```text
//! web/server.rs    a server on a free port with a filled store      web/http.rs   a plain client
//! web/routes.rs    every route by every role; hosts, origins, slow sockets, TLS
//! web/door.rs      sockets that only wait, guesses, access that ends
//! web/decisions.rs decisions over HTTP, MQTT and export          web/commands.rs commands to the line
//! web/page.rs      Chromium                                          web/measure.rs  figures
//! web/guide.rs     the guide, to its last link
//! ```

#[path = "common/broker.rs"]
mod broker;
#[path = "common/inspections.rs"]
mod inspections;

#[path = "web/browser.rs"]
mod browser;
#[path = "web/commands.rs"]
mod commands;
#[path = "web/decisions.rs"]
mod decisions;
#[path = "web/door.rs"]
mod door;
#[path = "web/guide.rs"]
mod guide;
#[path = "web/http.rs"]
mod http;
#[path = "web/measure.rs"]
mod measure;
#[path = "web/page.rs"]
mod page;
#[path = "web/routes.rs"]
mod routes;
#[path = "web/server.rs"]
mod server;
