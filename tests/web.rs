//! The review page: its API by role, its doors, its ledger, its exports, and the page itself in a real
//! Chromium.
//!
//! ```text
//! web/server.rs    a server on a free port with a filled store      web/http.rs   a plain client
//! web/routes.rs    every route by every role; hosts, origins, slow sockets, TLS
//! web/door.rs      sockets that only wait, guesses, access that ends
//! web/decisions.rs decisions over HTTP, MQTT and export          web/commands.rs commands to the line
//! web/proof.rs     whose word an export is; the store, proven
//! web/line.rs      how the line stands, over HTTP and in Chromium
//! web/page.rs      Chromium, as an operator uses the page            web/measure.rs  figures
//! web/seen.rs      Chromium: what may be decided, and when           web/shown.rs  what it shows of parts
//! web/figures.rs   agreement, blind studies, reports, findings as CSV, crops
//! web/guide.rs     the guide, to its last link                web/model_api.rs  the model, for programs of others
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
#[path = "web/devtools.rs"]
mod devtools;
#[path = "web/door.rs"]
mod door;
#[path = "web/figures.rs"]
mod figures;
#[path = "web/guide.rs"]
mod guide;
#[path = "web/http.rs"]
mod http;
#[path = "web/line.rs"]
mod line;
#[path = "web/measure.rs"]
mod measure;
#[path = "web/model_api.rs"]
mod model_api;
#[path = "web/page.rs"]
mod page;
#[path = "web/proof.rs"]
mod proof;
#[path = "web/routes.rs"]
mod routes;
#[path = "web/seen.rs"]
mod seen;
#[path = "web/server.rs"]
mod server;
#[path = "web/shown.rs"]
mod shown;
#[path = "web/thresholds.rs"]
mod thresholds;
#[path = "common/tokens.rs"]
mod tokens;
#[path = "web/webdriver.rs"]
mod webdriver;
