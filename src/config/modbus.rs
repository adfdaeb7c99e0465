//! The `[modbus]` keys.

use super::{Camera, Modbus};
use crate::document::Section;
use crate::domain::network::Network;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

/// Connections where the config says nothing: a PLC, its spare, a panel, an engineer, and as many again.
const CONNECTIONS: usize = 8;
const CONNECTIONS_MAX: usize = 64;
/// Units that the protocol has for single devices.
const UNITS: std::ops::RangeInclusive<i64> = 1..=247;
const RECIPES_MAX: usize = 256;
const EXPECTED_CHARS_MAX: usize = 64;

/// Reads the section; `None` where there is none, and so no server. `is_recipe` knows the recipes that can be commanded.
pub(super) fn read(
    section: Section<'_>,
    cameras: &[Camera],
    is_recipe: impl Fn(&str) -> bool,
) -> Option<Modbus> {
    if !section.is_present() {
        return None;
    }
    let default: SocketAddr = ([127, 0, 0, 1], 1502).into();
    let listen = section.get::<String>("listen").map_or(default, |text| {
        text.parse().unwrap_or_else(|_| {
            section.problem("listen", "must be an IP address and a port, as in 127.0.0.1:1502");
            default
        })
    });
    let modbus = Modbus {
        listen,
        allow: allow(&section, listen),
        connections: section.ranged("connections", 1..=CONNECTIONS_MAX).unwrap_or(CONNECTIONS),
        idle: Duration::from_secs(section.ranged("idle_timeout_s", 1..=3600).unwrap_or(30)),
        watchdog: Duration::from_millis(section.ranged("watchdog_ms", 0..=60_000).unwrap_or(1000)),
        keep_results: section.get("keep_results").unwrap_or(true),
        expected: section.text("expected", EXPECTED_CHARS_MAX).unwrap_or_else(|| "serial".to_owned()),
        recipes: recipes(&section, is_recipe),
        units: units(&section, cameras),
    };
    section.finish();
    Some(modbus)
}

/// Who may connect; the protocol knows no password.
fn allow(section: &Section<'_>, listen: SocketAddr) -> Vec<Network> {
    let texts = section.strings("allow").unwrap_or_default();
    let mut networks = Vec::new();
    for text in &texts {
        match Network::parse(text) {
            Some(network) => networks.push(network),
            None => section.problem(
                "allow",
                format!("{text:?} is no address and no network, as 192.168.10.5 or 192.168.10.0/24"),
            ),
        }
    }
    if texts.is_empty() && !listen.ip().is_loopback() {
        section.problem(
            "allow",
            "is missing: beyond this machine it must name who may connect, as in [\"192.168.10.0/24\"]",
        );
    }
    networks
}

/// Names of recipes by their numbers.
fn recipes(section: &Section<'_>, is_recipe: impl Fn(&str) -> bool) -> BTreeMap<u16, String> {
    let mut recipes = BTreeMap::new();
    let texts = section.texts("recipes");
    if texts.len() > RECIPES_MAX {
        section.problem("recipes", format!("there are {}; at most {RECIPES_MAX} are possible", texts.len()));
    }
    for (key, name) in texts {
        let at = format!("recipes.{key}");
        let Some(number) = key.parse::<u16>().ok().filter(|number| *number > 0) else {
            section.problem(&at, "the number of a recipe must be from 1 to 65535");
            continue;
        };
        if !is_recipe(&name) {
            section.problem(&at, format!("there is no recipe {name:?} in pipelines_dir, or it has errors"));
        } else if recipes.values().any(|known| *known == name) {
            section.problem(&at, format!("the recipe {name:?} has another number already"));
        } else if recipes.insert(number, name).is_some() {
            section.problem(&at, "this number stands for two recipes");
        }
    }
    recipes
}

/// Ids of cameras by their units: those that are named, and the others in their order with what is free.
fn units(section: &Section<'_>, cameras: &[Camera]) -> BTreeMap<u8, String> {
    let mut units = BTreeMap::new();
    for (camera, unit) in section.integers("units") {
        let at = format!("units.{camera}");
        if !cameras.iter().any(|known| known.id == camera) {
            section.problem(&at, "there is no camera of this id");
        } else if !UNITS.contains(&unit) {
            section.problem(&at, "a unit must be from 1 to 247");
        } else if let Some(other) = units.insert(unit as u8, camera) {
            section.problem(&at, format!("the camera {other:?} has this unit, too"));
        }
    }
    let named: BTreeSet<String> = units.values().cloned().collect();
    for camera in cameras.iter().filter(|camera| !named.contains(&camera.id)) {
        // There are fewer cameras than units.
        if let Some(free) = (1..=247).find(|unit| !units.contains_key(unit)) {
            units.insert(free, camera.id.clone());
        }
    }
    units
}
