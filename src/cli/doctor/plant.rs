//! The station: its model, store and files, its cameras and their network, its page.

use super::Line;
use crate::camera::kind::{Kind, SourceConfig};
use crate::cli::check::here::{Look, ground, pair, port};
use crate::cli::check::kept::Kept;
use crate::cli::check::remote;
use crate::config::{Camera, Config, Remote};
use crate::control::client;
use crate::document;
use crate::engine::Backend as _;
use crate::engine::cluster::Cluster;
use crate::inspect::proof::{ByNamedProof, ByProof};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The smallest packets by which a GigE camera's pictures come without trouble.
const MTU_MIN: u32 = 8000;

/// Everything about the station.
pub(super) fn lines(config: &Config, file: &Path) -> Vec<Line> {
    let mut lines: Vec<Line> = config.model.remote.iter().map(servers).collect();
    lines.extend(config.model.has_files().then(|| model(config)));
    lines.extend([store(config), daemon(config)]);
    lines.extend(config.cameras.iter().map(|camera| of_camera(camera, &config.store.dir)));
    lines.extend(config.cameras.iter().filter_map(network));
    lines.push(page(config));
    lines.extend(secrets(config, file));
    lines
}

fn model(config: &Config) -> Line {
    let (text, mmproj) = (&config.model.text, &config.model.mmproj);
    if let Some(missing) = [text, mmproj].into_iter().find(|file| !file.is_file()) {
        let todo = "install it, or name where it is in [model]";
        return Line::fail("model", format!("there is no file {}", missing.display()), todo);
    }
    match pair(text, mmproj) {
        Ok(labels) if labels.is_empty() => {
            Line::ok("model", format!("{}, with {}", text.display(), mmproj.display()))
        }
        Ok(labels) => Line::ok("model", format!("{}, trained with {} labels", text.display(), labels.len())),
        Err((key, why)) => Line::fail("model", why, format!("change {key} in the config")),
    }
}

/// Asks each server who it is and has it prove that it counts as we do, as a start does.
fn servers(remote: &Remote) -> Line {
    let named = remote::named(remote);
    let asked = remote.options(Arc::new(ByProof(Arc::new(ByNamedProof)))).and_then(|options| {
        let mut cluster = Cluster::new(options).map_err(|error| error.to_string())?;
        let name = cluster.load(&|| {}, &|| true).map_err(|error| error.to_string())?.name.clone();
        Ok((name, cluster.health().fault.clone()))
    });
    match asked {
        Ok((name, None)) => Line::ok("model", name),
        Ok((_, Some(fault))) => Line::warn("model", fault, "see to this server: the others do its work"),
        Err(why) => {
            Line::fail("model", format!("{named}: {why}"), "start the servers, or change [model] remote")
        }
    }
}

fn store(config: &Config) -> Line {
    let dir = config.store.dir.display();
    match ground(&config.store.dir) {
        Look::Fine => match Kept::ask(&config.store.dir) {
            Kept::Refused(why) => Line::fail(
                "store",
                why,
                "inspectd check says it, too; a store that a newer version wrote needs that version, a damaged one \
                 inspectd salvage or restore",
            ),
            _ => Line::ok("store", format!("{dir} can be written")),
        },
        Look::Untold(why) => Line::warn("store", why, "sudo inspectd doctor"),
        Look::Bad(why) => {
            Line::fail("store", why, "give the station's user the directory: chown, chmod 0750")
        }
    }
}

fn daemon(config: &Config) -> Line {
    match client::is_running(&config.store.dir) {
        Ok(true) => Line::ok("daemon", "runs, and answers at its door"),
        Ok(false) => Line::warn(
            "daemon",
            "does not run",
            "systemctl start inspectd; why it ended says journalctl -u inspectd",
        ),
        Err(error) => Line::warn("daemon", format!("cannot be asked: {error}"), "sudo inspectd doctor"),
    }
}

fn of_camera(camera: &Camera, store: &Path) -> Line {
    let id = &camera.id;
    match &camera.source {
        SourceConfig::Simulator(_) => Line::ok("camera", format!("{id}: simulated")),
        SourceConfig::Folder(folder) => of_folder(id, &folder.path, store),
        SourceConfig::Device(device) => of_device(id, &device.kind),
    }
}

fn of_folder(id: &str, path: &Path, store: &Path) -> Line {
    let shown = path.display();
    match std::fs::read_dir(path) {
        Ok(_) => Line::ok("camera", format!("{id}: the folder {shown}")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && document::is_below(path, store) => {
            Line::ok("camera", format!("{id}: the start makes the folder {shown}"))
        }
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            Line::warn("camera", format!("{id}: {shown} is not ours to look at"), "sudo inspectd doctor")
        }
        Err(error) => {
            Line::fail("camera", format!("{id}: {shown}: {error}"), "make the folder, or name another")
        }
    }
}

fn of_device(id: &str, kind: &Kind) -> Line {
    let word = kind.word();
    match kind.is_there() {
        Some(true) => Line::ok("camera", format!("{id}: {word}, there")),
        Some(false) => Line::fail(
            "camera",
            format!("{id}: {word}, not there"),
            "look at power, cable and address; inspectd cameras lists what this machine sees",
        ),
        None => Line::ok("camera", format!("{id}: {word}, which only shows when it is opened")),
    }
}

/// The way to a camera with an address.
fn network(camera: &Camera) -> Option<Line> {
    let SourceConfig::Device(device) = &camera.source else { return None };
    let IpAddr::V4(address) = device.kind.address()? else { return None };
    let routes = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    let id = &camera.id;
    let Some(Route { interface, is_default }) = route(&routes, address) else {
        let todo = "give the interface of the cameras an address of their network";
        return Some(Line::fail("network", format!("{id}: no way leads to {address}"), todo));
    };
    if is_default {
        let todo = "give the interface of the cameras an address of their network";
        return Some(Line::warn(
            "network",
            format!("{id}: {address} is reached over a router, by {interface}"),
            todo,
        ));
    }
    let mtu = std::fs::read_to_string(format!("/sys/class/net/{interface}/mtu")).ok();
    Some(packets(id, &interface, mtu.and_then(|text| text.trim().parse().ok())))
}

fn packets(id: &str, interface: &str, mtu: Option<u32>) -> Line {
    match mtu {
        None => Line::warn(
            "network",
            format!("{id}: by {interface}, whose packets are of unknown size"),
            "ip link show",
        ),
        Some(mtu) if mtu >= MTU_MIN => Line::ok("network", format!("{id}: by {interface}, packets of {mtu}")),
        Some(mtu) => Line::warn(
            "network",
            format!("{id}: by {interface}, packets of {mtu}"),
            format!(
                "ip link set {interface} mtu 9000, and the same in the switch: small packets cost a core and lose pictures"
            ),
        ),
    }
}

/// Which way packets go.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Route {
    interface: String,
    /// It leads everywhere, and so out of the network of the cameras.
    is_default: bool,
}

/// The way to an address by the text of `/proc/net/route`, whose numbers are little-endian: the narrowest counts.
fn route(table: &str, to: Ipv4Addr) -> Option<Route> {
    let to = u32::from_le_bytes(to.octets());
    let hex = |text: &str| u32::from_str_radix(text, 16).ok();
    let row = |line: &str| {
        let cells: Vec<&str> = line.split_whitespace().collect();
        let (interface, network, mask) = (*cells.first()?, hex(cells.get(1)?)?, hex(cells.get(7)?)?);
        (to & mask == network).then(|| (mask.count_ones(), interface.to_owned()))
    };
    let (bits, interface) = table.lines().skip(1).filter_map(row).max_by_key(|(bits, _)| *bits)?;
    Some(Route { interface, is_default: bits == 0 })
}

fn page(config: &Config) -> Line {
    let Some(web) = &config.web else { return Line::ok("page", "none, as the config says") };
    match port(config) {
        Look::Fine => Line::ok("page", format!("{}: free, or the station's own", web.listen)),
        Look::Untold(why) => Line::warn("page", why, "sudo inspectd doctor"),
        Look::Bad(why) => Line::fail("page", why, "change [web] listen"),
    }
}

/// Files with secrets that anybody on the box may read.
fn secrets(config: &Config, file: &Path) -> Vec<Line> {
    let brokers = || std::iter::once(&config.mqtt).chain(config.sinks.iter().map(|sink| &sink.broker));
    let mut files: Vec<PathBuf> = Vec::new();
    files.extend(brokers().filter(|b| b.password.is_some()).map(|_| file.to_owned()).take(1));
    files.extend(brokers().filter_map(|b| b.password_file.clone()));
    files.extend(brokers().filter_map(|b| Some(b.tls.as_ref()?.certificate.as_ref()?.1.clone())));
    files.extend(config.web.iter().filter_map(|web| Some(web.certificate.as_ref()?.1.clone())));
    files.extend(config.model.remote.iter().filter_map(|remote| remote.key_file.clone()));
    files.extend(config.opcua.iter().filter_map(|opcua| opcua.users_file.clone()));
    let open: Vec<String> =
        files.iter().filter(|file| is_open(file)).map(|file| file.display().to_string()).collect();
    if open.is_empty() {
        return vec![Line::ok("secrets", format!("{} files, none open to all", files.len()))];
    }
    let all = open.join(" ");
    vec![Line::warn(
        "secrets",
        format!("anybody on the box may read {}", open.join(", ")),
        format!("chmod o-rwx {all}"),
    )]
}

fn is_open(file: &Path) -> bool {
    file.metadata().is_ok_and(|meta| meta.mode() & 0o004 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::State;

    const ROUTES: &str = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
        eth0\t00000000\t0100000A\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
        cam0\t000AA8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n";

    #[test]
    fn the_narrowest_way_leads_to_a_camera() {
        let to = |address: [u8; 4]| route(ROUTES, address.into());
        let found = |interface: &str, is_default| Some(Route { interface: interface.into(), is_default });
        assert_eq!(to([192, 168, 10, 21]), found("cam0", false));
        assert_eq!(to([10, 0, 0, 7]), found("eth0", true));
        assert_eq!(route("Iface\n", [10, 0, 0, 7].into()), None);
    }

    #[test]
    fn small_packets_and_open_secrets_are_to_be_looked_at() {
        assert_eq!(packets("top", "cam0", Some(9000)).state, State::Ok);
        let small = packets("top", "cam0", Some(1500));
        assert!(small.state == State::Warn && small.todo.contains("ip link set cam0 mtu 9000"), "{small:?}");
        let dir = tempfile::tempdir().expect("a folder");
        let key = dir.path().join("key.pem");
        std::fs::write(&key, "").expect("a file");
        for (mode, open) in [(0o644, true), (0o640, false)] {
            std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(mode)).expect("ours");
            assert_eq!(is_open(&key), open);
        }
    }
}
