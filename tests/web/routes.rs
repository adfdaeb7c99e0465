//! Every route, tried by everybody; and who is not even asked.

use super::http::{ask, read};
use super::inspections::id;
use super::server::{PASSWORD, Server, options};
use inspectd::store::{Store, StoreOptions};
use inspectd::web::Web;
use inspectd::web::api;
use inspectd::web::auth::Role;
use inspectd::web::metrics::Health;
use std::collections::BTreeSet;
use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The least role of every route; `None`: nobody needs to be anybody. Those of the model API have a test of their own.
const ROUTES: &[(&str, &str, Option<Role>)] = &[
    ("get", "/api/v1/me", None),
    ("post", "/api/v1/setup", None),
    ("post", "/api/v1/login", None),
    ("get", "/healthz", None),
    ("get", "/readyz", None),
    ("post", "/api/v1/logout", Some(Role::Viewer)),
    ("post", "/api/v1/password", Some(Role::Viewer)),
    ("get", "/metrics", Some(Role::Viewer)),
    ("get", "/api/v1/inspections", Some(Role::Viewer)),
    ("get", "/api/v1/inspections/{id}", Some(Role::Viewer)),
    ("get", "/api/v1/facets", Some(Role::Viewer)),
    ("get", "/api/v1/charts", Some(Role::Viewer)),
    ("get", "/api/v1/agreement", Some(Role::Viewer)),
    ("get", "/api/v1/blind", Some(Role::Viewer)),
    ("post", "/api/v1/blind", Some(Role::Engineer)),
    ("delete", "/api/v1/blind/{id}", Some(Role::Engineer)),
    ("get", "/api/v1/blind/{id}/part", Some(Role::Operator)),
    ("post", "/api/v1/blind/{id}/answers", Some(Role::Operator)),
    ("get", "/api/v1/report", Some(Role::Viewer)),
    ("get", "/api/v1/cameras", Some(Role::Viewer)),
    ("get", "/api/v1/config/warnings", Some(Role::Engineer)),
    ("get", "/api/v1/line", Some(Role::Viewer)),
    ("get", "/api/v1/recipes", Some(Role::Viewer)),
    ("get", "/api/v1/recipes/{pipeline}/ledger", Some(Role::Viewer)),
    ("get", "/api/v1/recipes/{pipeline}/versions/{version}", Some(Role::Viewer)),
    ("get", "/api/v1/recipes/{pipeline}/versions/{version}/files/{file}", Some(Role::Viewer)),
    ("post", "/api/v1/recipes/{pipeline}/active", Some(Role::Engineer)),
    ("get", "/api/v1/learn", Some(Role::Viewer)),
    ("post", "/api/v1/learn/{pipeline}", Some(Role::Engineer)),
    ("delete", "/api/v1/learn/{pipeline}", Some(Role::Engineer)),
    ("get", "/api/v1/thresholds/{pipeline}", Some(Role::Engineer)),
    ("post", "/api/v1/products", Some(Role::Engineer)),
    ("get", "/api/v1/events", Some(Role::Viewer)),
    ("get", "/api/v1/images/{sha256}", Some(Role::Viewer)),
    ("get", "/api/v1/thumbs/{sha256}", Some(Role::Viewer)),
    ("get", "/api/v1/crops/{sha256}", Some(Role::Viewer)),
    ("get", "/images/{sha256}", Some(Role::Viewer)),
    ("post", "/api/v1/inspections/{id}/reviews", Some(Role::Operator)),
    ("post", "/api/v1/inspections/{id}/undo", Some(Role::Operator)),
    ("post", "/api/v1/reviews/bulk", Some(Role::Operator)),
    ("post", "/api/v1/commands/{command}", Some(Role::Operator)),
    ("get", "/api/v1/outbox", Some(Role::Viewer)),
    ("get", "/api/v1/export", Some(Role::Operator)),
    ("get", "/api/v1/verify", Some(Role::Engineer)),
    ("get", "/api/v1/accounts", Some(Role::Engineer)),
    ("post", "/api/v1/accounts", Some(Role::Engineer)),
    ("delete", "/api/v1/accounts/{name}", Some(Role::Engineer)),
    ("get", "/api/v1/tokens", Some(Role::Engineer)),
    ("post", "/api/v1/tokens", Some(Role::Engineer)),
    ("delete", "/api/v1/tokens/{name}", Some(Role::Engineer)),
];

/// A good request for a route.
fn body(path: &str) -> &'static str {
    match path {
        "/api/v1/setup" => r#"{"code":"x","name":"x","password":"long enough"}"#,
        "/api/v1/login" => r#"{"name":"nobody","password":"x"}"#,
        "/api/v1/password" => r#"{"old":"x","new":"long enough"}"#,
        "/api/v1/inspections/{id}/reviews" => r#"{"verdict":"pass","reason":"because"}"#,
        "/api/v1/inspections/{id}/undo" => r#"{"based_on":1}"#,
        "/api/v1/reviews/bulk" => r#"{"search":{},"action":"confirm","count":99999}"#,
        "/api/v1/commands/{command}" => r#"{"camera":"cam1","part_id":"P1"}"#,
        "/api/v1/recipes/{pipeline}/active" => r#"{"version":"0a1b2c3d4e5f","reason":"because"}"#,
        "/api/v1/learn/{pipeline}" => r#"{"what":"references"}"#,
        "/api/v1/blind" => r#"{"parts":10}"#,
        "/api/v1/blind/{id}/answers" => r#"{"round":1,"part":0,"verdict":"pass"}"#,
        "/api/v1/products" => r#"{"name":"nut","camera":"cam1","inspections":[],"mm_per_px":0.1}"#,
        "/api/v1/accounts" => r#"{"name":"new","password":"long enough","role":"viewer"}"#,
        "/api/v1/tokens" => r#"{"name":"new","role":"viewer"}"#,
        _ => "",
    }
}

#[test]
fn every_route_lets_in_whom_it_should_and_nobody_else() {
    let server = Server::start(3);
    let document = serde_json::to_value(api::document()).unwrap();
    let mut described = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        if path.starts_with("/v1/") {
            continue;
        }
        for method in methods.as_object().unwrap().keys() {
            described.insert((method.clone(), path.clone()));
        }
    }
    for (method, path) in &described {
        let listed = ROUTES.iter().any(|r| (r.0, r.1) == (method.as_str(), path.as_str()));
        assert!(listed, "{method} {path}: give it a line in ROUTES");
    }
    assert_eq!(described.len(), ROUTES.len(), "ROUTES names what is not there");
    let everything = || {
        let s = &server.store;
        let reviews = *s.subscribe_reviews().borrow();
        let commanded = server.commanded.lock().unwrap().len();
        (reviews, s.accounts().unwrap(), s.tokens().unwrap(), s.outbox_len(), commanded)
    };
    for (method, path, least) in ROUTES {
        let real = path
            .replace("{id}", &id(1))
            .replace("{sha256}", &"0".repeat(64))
            .replace("{name}", "ghost")
            .replace("{command}", "trigger")
            .replace("{pipeline}", "photo")
            .replace("{version}", "0a1b2c3d4e5f")
            .replace("{file}", "photo.bank");
        let real = match *path {
            "/api/v1/export" => format!("{real}?format=csv"),
            "/api/v1/crops/{sha256}" => format!("{real}?x0=1&y0=1&x1=9&y1=9"),
            _ => real,
        };
        for role in std::iter::once(None).chain(Role::ALL.map(Some)) {
            let before = everything();
            let answer = server.ask(&method.to_uppercase(), &real, role, body(path));
            let refused = matches!((answer.status, answer.code().as_str()), (401, "login") | (403, "role"));
            assert_eq!(refused, role < *least, "{method} {path} as {role:?}: {}", answer.head);
            assert!(answer.status < 500, "{method} {path} as {role:?}: {}", answer.head);
            assert!(
                role >= *least || everything() == before,
                "{method} {path} as {role:?} changed something"
            );
            for header in
                ["content-security-policy", "x-content-type-options", "x-frame-options", "referrer-policy"]
            {
                assert!(answer.header(header).is_some(), "{method} {path}: {header}");
            }
        }
    }
}

#[test]
fn foreign_hosts_and_origins_are_refused() {
    let server = Server::start(1);
    let to = server.web.address;
    for (host, status) in
        [("evil.example", 421), ("box.example", 200), ("localhost:1", 200), ("127.0.0.1", 200)]
    {
        assert_eq!(ask(to, "GET", "/healthz", &[&format!("Host: {host}")], "").status, status, "{host}");
    }
    let login = format!("{{\"name\":\"operator\",\"password\":\"{PASSWORD}\"}}");
    let foreign = ask(to, "POST", "/api/v1/login", &["Origin: http://evil.example"], &login);
    assert_eq!((foreign.status, foreign.code().as_str()), (403, "origin"));
    let own = ask(to, "POST", "/api/v1/login", &[&format!("Origin: http://{to}")], &login);
    assert_eq!(own.status, 200, "{}", own.head);
    let cookie = own.header("set-cookie").unwrap().to_owned();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    let session = format!("Cookie: {}", cookie.split(';').next().unwrap());
    assert_eq!(ask(to, "GET", "/api/v1/me", &[&session], "").json()["role"], "operator");
    assert_eq!(ask(to, "POST", "/api/v1/logout", &[&session], "{}").status, 204);
    assert!(ask(to, "GET", "/api/v1/me", &[&session], "").json()["name"].is_null());
}

/// A proxy on this machine ends TLS and asks with a Host of its own or the browser's.
#[test]
fn behind_a_proxy_the_page_is_where_the_outer_url_says() {
    let (store, dir) = Server::start(0).into_parts();
    let mut options = options(dir.path());
    options.public_url = Some("https://line.example".into());
    let server = Server::with(store, dir, options);
    assert_eq!(server.web.url, "https://line.example/");
    let to = server.web.address;
    let login = format!("{{\"name\":\"operator\",\"password\":\"{PASSWORD}\"}}");
    let from = |host: &str, origin: &str| {
        let headers = [format!("Host: {host}"), format!("Origin: {origin}")];
        ask(to, "POST", "/api/v1/login", &headers.each_ref().map(String::as_str), &login)
    };
    for host in ["line.example", &to.to_string()] {
        let answer = from(host, "https://line.example");
        assert_eq!(answer.status, 200, "{host}: {}", answer.head);
        assert!(answer.header("set-cookie").unwrap().contains("; Secure"), "{}", answer.head);
    }
    assert_eq!(from(&to.to_string(), "http://line.example").code(), "origin", "the scheme counts");
    assert_eq!(from("line.example", "https://evil.example").code(), "origin");
}

#[test]
fn the_first_account_needs_the_code_and_guesses_are_slowed() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(&dir.path().join("store"), StoreOptions::default()).unwrap());
    let server = Server::over(store, dir);
    let to = server.web.address;
    let code = server.web.setup_code().expect("nobody has an account");
    let setup = |code: &str| {
        let body = format!("{{\"code\":\"{code}\",\"name\":\"anna\",\"password\":\"{PASSWORD}\"}}");
        ask(to, "POST", "/api/v1/setup", &[], &body)
    };
    assert_eq!(setup("AAAA-BBBB-CCCC").code(), "code");
    assert_eq!(setup(&code).json()["role"], "engineer");
    assert_eq!(setup(&code).code(), "code", "it works once");
    let login = |password: &str| {
        ask(to, "POST", "/api/v1/login", &[], &format!("{{\"name\":\"anna\",\"password\":\"{password}\"}}"))
    };
    assert_eq!(login(PASSWORD).status, 200);
    let statuses: Vec<u16> = (0..10).map(|_| login("guess").status).collect();
    assert_eq!(statuses[0], 401);
    assert_eq!(statuses[9], 429, "{statuses:?}");
    assert_eq!(login(PASSWORD).status, 429, "the right password waits, too");
}

#[test]
fn a_thousand_slow_sockets_leave_health_quick() {
    // Their descriptors are all of this process.
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: plain calls with a valid struct.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        limit.rlim_cur = limit.rlim_max.min(8192);
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
    }
    let server = Server::start(0);
    let to = server.web.address;
    let mut slow = Vec::new();
    for _ in 0..1000 {
        let mut socket = TcpStream::connect(to).unwrap();
        let _ = socket.write_all(b"GET /healthz HTTP/1.1\r\nHo");
        slow.push(socket);
    }
    let mut times: Vec<Duration> = (0..200)
        .map(|_| {
            let start = Instant::now();
            assert_eq!(ask(to, "GET", "/healthz", &[], "").status, 200);
            start.elapsed()
        })
        .collect();
    times.sort();
    println!("1000 slow sockets: /healthz p50 {:?}, p99 {:?}", times[100], times[198]);
    // Without room for the new they would wait for the 5 s of the old.
    assert!(times[198] < Duration::from_secs(2), "{:?}", times[198]);
}

#[test]
fn beyond_loopback_there_is_tls_with_a_certificate_of_its_own() {
    use tokio_rustls::rustls::pki_types::pem::PemObject as _;
    use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
    use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(&dir.path().join("store"), StoreOptions::default()).unwrap());
    let mut options = options(dir.path());
    options.listen = ([0, 0, 0, 0], 0).into();
    let probe = Box::new(|| Health { alive: true, sinks: vec![], commands: true });
    let web = Web::start(options, store, Box::new(Vec::new), probe).unwrap();
    assert!(web.url.starts_with("https://"));
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(dir.path().join("web-cert.pem")).unwrap()).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from("box.example").unwrap();
    let client = ClientConnection::new(Arc::new(config), name).unwrap();
    let socket = TcpStream::connect(("127.0.0.1", web.address.port())).unwrap();
    let mut stream = StreamOwned::new(client, socket);
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: box.example\r\nConnection: close\r\n\r\n").unwrap();
    assert_eq!(read(&mut stream, false).status, 200);
    // Plain HTTP is not answered.
    let mut plain = TcpStream::connect(("127.0.0.1", web.address.port())).unwrap();
    plain.write_all(b"GET /healthz HTTP/1.1\r\nHost: box.example\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = std::io::Read::read_to_end(&mut plain, &mut answer);
    assert!(!answer.starts_with(b"HTTP"));
}

#[test]
fn every_reference_of_the_document_leads_somewhere() {
    fn walk(value: &serde_json::Value, document: &serde_json::Value, count: &mut usize) {
        if let Some(reference) = value.get("$ref").and_then(serde_json::Value::as_str) {
            let pointer = reference.strip_prefix('#').expect("the document is whole");
            assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
            *count += 1;
        }
        match value {
            serde_json::Value::Array(items) => items.iter().for_each(|v| walk(v, document, count)),
            serde_json::Value::Object(items) => items.values().for_each(|v| walk(v, document, count)),
            _ => {}
        }
    }
    let document = serde_json::to_value(api::document()).unwrap();
    let mut count = 0;
    walk(&document, &document, &mut count);
    assert!(count > 0);
}

#[test]
fn bad_requests_are_refused_with_words() {
    let server = Server::start(2);
    // Refused by its announced length, before a byte of it is read.
    let long = ["Content-Type: application/json", "Content-Length: 300000"];
    assert_eq!(ask(server.web.address, "POST", "/api/v1/login", &long, "").status, 413);
    for query in ["verdict=maybe", "grade=A", "from=yesterday", "limit=0", "limit=501", "bogus=1", "before=x"]
    {
        let answer = server.get(&format!("/api/v1/inspections?{query}"), Role::Viewer);
        assert_eq!(answer.status, 400, "{query}");
        let name = query.split('=').next().unwrap();
        assert!(String::from_utf8_lossy(&answer.body).contains(name), "{query}");
    }
    assert_eq!(server.get("/api/v1/inspections/none", Role::Viewer).status, 404);
    assert_eq!(server.get("/api/v1/images/..%2f..%2fetc%2fpasswd", Role::Viewer).status, 404);
    let metrics = server.get("/metrics", Role::Viewer);
    let text = String::from_utf8(metrics.body).unwrap();
    assert!(text.contains("inspectd_inspections_total 2\n"), "{text}");
    assert!(
        text.contains("inspectd_http_requests_total{route=\"/api/v1/inspections\",status=\"400\"} 7\n"),
        "{text}"
    );
}
