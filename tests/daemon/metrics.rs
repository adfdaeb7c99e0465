//! `/metrics` of a running station against its contract, and the dashboard against both.

use super::broker::until;
use super::{SIMULATOR, one_camera};
use inspectd::web::metrics::contract::{Kind, SERIES, Series};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

/// The text of `/metrics`; `None` while nobody listens.
fn scrape(at: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect(at).ok()?;
    stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.starts_with("HTTP/1.1 200").then(|| body.to_owned())
}

/// One line of the text.
#[derive(Debug)]
struct Sample {
    /// As it stands there, with the suffix of a histogram.
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Sample {
    fn parse(line: &str) -> Self {
        let (series, value) = line.rsplit_once(' ').expect("a name and a value");
        let (name, labels) = series.split_once('{').map_or((series, ""), |(name, rest)| {
            (name, rest.strip_suffix('}').expect("labels end with a brace"))
        });
        // No label of a station's metrics holds a comma or a quote.
        let label = |pair: &str| {
            let (name, value) = pair.split_once('=').expect("a label has a value");
            (name.to_owned(), value.trim_matches('"').to_owned())
        };
        let labels = labels.split(',').filter(|pair| !pair.is_empty()).map(label).collect();
        Self { name: name.to_owned(), labels, value: value.parse().expect("a number") }
    }

    fn label(&self, name: &str) -> &str {
        self.labels.iter().find(|(label, _)| label == name).map_or("", |(_, value)| value)
    }
}

/// The row of a name, with or without the suffix of a histogram, and whether it is of its buckets.
fn row_of(name: &str) -> Option<(&'static Series, bool)> {
    let plain = SERIES.iter().find(|row| row.name == name && row.kind != Kind::Histogram);
    plain.map(|row| (row, false)).or_else(|| {
        let suffix = ["_bucket", "_sum", "_count"].into_iter().find(|suffix| name.ends_with(suffix))?;
        let family = name.strip_suffix(suffix)?;
        let row = SERIES.iter().find(|row| row.name == family && row.kind == Kind::Histogram)?;
        Some((row, suffix == "_bucket"))
    })
}

fn samples(text: &str) -> Vec<Sample> {
    text.lines().filter(|line| !line.starts_with('#')).map(Sample::parse).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_station_shows_every_series_of_the_contract_and_no_other() {
    let listen = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    // Nothing listens where its broker should be: what is inspected is owed.
    let sections = format!("{SIMULATOR}[web]\nlisten = \"{listen}\"\nopen_metrics = true\n");
    let station = one_camera(1, &sections);
    let _daemon = station.start();
    let inspected = |text: &str| {
        let of = |s: &Sample| if s.name == "inspectd_verdicts_total" { s.value } else { 0.0 };
        samples(text).iter().map(of).sum::<f64>()
    };
    until("a part is inspected", || scrape(listen).is_some_and(|text| inspected(&text) > 0.0)).await;
    let text = scrape(listen).unwrap_or_else(|| panic!("{}", station.log()));
    let found = samples(&text);

    let mut shown = BTreeSet::new();
    for sample in &found {
        let (row, is_bucket) =
            row_of(&sample.name).unwrap_or_else(|| panic!("{}: give it a row in the contract", sample.name));
        let labels: Vec<&str> = sample.labels.iter().map(|(name, _)| name.as_str()).collect();
        let expected = row.labels.iter().copied().chain(is_bucket.then_some("le"));
        assert_eq!(labels, expected.collect::<Vec<_>>(), "{}", sample.name);
        shown.insert(row.name);
    }
    for row in SERIES {
        let help = format!("# HELP {} {}", row.name, row.meaning);
        let kind = format!("# TYPE {} {}", row.name, row.kind.as_str());
        for line in [help, kind] {
            assert_eq!(text.lines().filter(|l| *l == line).count(), 1, "{line}");
        }
        assert!(shown.contains(row.name), "{}: the contract names it, and nothing shows it", row.name);
    }
    assert_eq!(text.matches("# TYPE ").count(), SERIES.len(), "a family is written once");
    values_agree(&found);
}

/// What has to hold between the values of one scrape.
fn values_agree(found: &[Sample]) {
    let of = |name: &str| found.iter().filter(|s| s.name == name).collect::<Vec<_>>();
    let one = |name: &str| of(name).first().map_or(f64::NAN, |s| s.value);
    for sample in found {
        assert!(["", "cam1"].contains(&sample.label("camera")), "labels come from the config: {sample:?}");
    }
    let verdicts: f64 = of("inspectd_verdicts_total").iter().map(|s| s.value).sum();
    let timed = "inspectd_inspection_duration_seconds";
    let count: f64 = of(&format!("{timed}_count")).iter().map(|s| s.value).sum();
    let dropped: f64 = of("inspectd_dropped_frames_total").iter().map(|s| s.value).sum();
    assert_eq!(count + dropped, verdicts, "each inspection was timed, or no room was left for its frame");
    let buckets = of(&format!("{timed}_bucket"));
    assert!(buckets.is_sorted_by(|a, b| a.value <= b.value), "{buckets:?}");
    assert_eq!(buckets.last().map(|s| (s.label("le"), s.value)), Some(("+Inf", count)));
    assert_eq!(of("inspectd_camera_state").iter().map(|s| s.value).sum::<f64>(), 1.0, "one state at a time");
    assert_eq!((one("inspectd_engine_ready"), one("inspectd_store_ok")), (1.0, 1.0));
    assert_eq!((one("inspectd_broker_connected"), one("inspectd_sink_connected")), (0.0, 0.0));
    assert!(one("inspectd_outbox_entries") >= 1.0 && one("inspectd_outbox_age_seconds") >= 0.0);
    assert!(one("inspectd_last_inspection_timestamp_seconds") > 1.7e9);
    let deadlines = of("inspectd_deadline_seconds");
    let deadline = deadlines.iter().find(|s| s.label("recipe") == "examples-defects");
    assert!(deadline.is_some_and(|s| s.value > 0.0), "{deadlines:?}");
}

/// All texts of a document under a key.
fn texts_of<'d>(document: &'d Value, key: &str, found: &mut Vec<&'d str>) {
    match document {
        Value::Object(of) => {
            found.extend(of.get(key).and_then(Value::as_str));
            of.values().for_each(|value| texts_of(value, key, found));
        }
        Value::Array(of) => of.iter().for_each(|value| texts_of(value, key, found)),
        _ => {}
    }
}

/// The words of an expression, with what stands right before each.
fn words(expression: &str) -> Vec<(&str, &str)> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = vec![];
    let mut at = 0;
    while let Some(begin) = expression[at..].find(is_word).map(|n| at + n) {
        let end = expression[begin..].find(|c: char| !is_word(c)).map_or(expression.len(), |n| begin + n);
        found.push((&expression[..begin], &expression[begin..end]));
        at = end;
    }
    found
}

/// What stands between the brackets after each `before`, at its commas: `a`, `b` of `by (a, b)`.
fn lists<'e>(expression: &'e str, before: &str, close: char) -> Vec<&'e str> {
    let rests = expression.match_indices(before).map(|(at, _)| &expression[at + before.len()..]);
    let inside = rests.map(|rest| rest.split(close).next().unwrap_or_default());
    inside.flat_map(|list| list.split(',')).map(str::trim).filter(|item| !item.is_empty()).collect()
}

/// What is wrong with an expression, by the contract.
fn wrong_with(expression: &str) -> Option<String> {
    // Prometheus adds these to every series.
    let mut labels = BTreeSet::from(["instance", "job"]);
    let mut names = 0;
    for (before, name) in words(expression).into_iter().filter(|(_, word)| word.starts_with("inspectd_")) {
        let Some((row, is_bucket)) = row_of(name) else { return Some(format!("{name} is in no row")) };
        let is_rate = before.ends_with("rate(") || before.ends_with("increase(");
        if is_rate != (row.kind != Kind::Gauge) {
            return Some(format!("{name} is a {}", row.kind.as_str()));
        }
        labels.extend(row.labels);
        labels.extend(is_bucket.then_some("le"));
        names += 1;
    }
    if names == 0 {
        return Some("it asks for nothing of ours".to_owned());
    }
    let matched = lists(expression, "{", '}').into_iter().filter_map(|m| m.split(['=', '!']).next());
    let grouped = lists(expression, "by (", ')');
    let unknown = matched.chain(grouped).map(str::trim).find(|label| !labels.contains(label));
    unknown.map(|label| format!("{label} is no label of it"))
}

#[test]
fn the_dashboard_asks_for_what_the_contract_has() {
    let dashboard: Value = serde_json::from_str(include_str!("../../config/grafana-dashboard.json")).unwrap();
    let mut expressions = vec![];
    texts_of(&dashboard, "expr", &mut expressions);
    assert!(expressions.len() >= 15, "{}", expressions.len());
    for expression in expressions {
        assert_eq!(wrong_with(expression), None, "{expression}");
    }
    let mut variables = vec![];
    texts_of(&dashboard["templating"], "query", &mut variables);
    let values: Vec<_> = variables.iter().filter_map(|query| query.strip_prefix("label_values(")).collect();
    assert!(!values.is_empty());
    for query in values {
        let (name, label) = query.trim_end_matches(')').split_once(", ").expect("a series and its label");
        let (row, _) = row_of(name).unwrap_or_else(|| panic!("{name} is in no row"));
        assert!(label == "instance" || row.labels.contains(&label), "{query}");
    }
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeMap<u64, &Value> =
        panels.iter().map(|p| (p["id"].as_u64().unwrap(), &p["title"])).collect();
    assert_eq!(ids.len(), panels.len(), "each panel has an id of its own");
}

#[test]
fn the_check_sees_wrong_expressions() {
    for bad in [
        "up",
        "inspectd_outbox_entry",
        "rate(inspectd_outbox_entries[5m])",
        "inspectd_verdicts_total",
        "sum by (part) (rate(inspectd_verdicts_total[5m]))",
        "inspectd_alarm{camera=\"cam1\"}",
        "rate(inspectd_inspection_duration_seconds[5m])",
        "sum by (le) (rate(inspectd_inspection_duration_seconds_sum[5m]))",
    ] {
        assert!(wrong_with(bad).is_some(), "{bad}");
    }
    for good in [
        "inspectd_outbox_entries{instance=~\"$instance\"}",
        "sum by (verdict) (increase(inspectd_verdicts_total{camera=~\"$camera\", recipe!=\"\"}[1h]))",
        "histogram_quantile(0.95, sum by (le, camera) (rate(inspectd_inspection_duration_seconds_bucket[5m])))",
    ] {
        assert_eq!(wrong_with(good), None, "{good}");
    }
}
