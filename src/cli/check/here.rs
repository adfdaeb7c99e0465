//! What stands against a start on this machine, beside what the config says wrongly: found before the start finds it.
//!
//! ```text
//! model     the pair is swapped, no GGUF, does not fit together, was not trained with a recipe's labels; a recipe's
//!           adapter is another pair's; of servers what `remote` looks at
//! cameras   a recipe's roi leaves pictures whose size the config states
//! store     its directory cannot be made or written; it is of a newer version, or damaged
//! recipes   one has no file, and was not made on the station's page
//! web       its port is taken, its certificate cannot be used
//! opcua     its port is taken, others may read its users file, its certificate cannot be used
//! modbus    its port is taken
//! brokers   files of TLS and of the password cannot be used
//! ```
//!
//! Reads the headers of the model's files, listens on the ports of page and PLCs for a moment, and asks the store, where
//! there is one ([`Kept`]); opens nothing else.

use super::kept::Kept;
use super::remote;
use crate::config::{self, BrokerTls, Config, Found, Mqtt};
use crate::control::client;
use crate::inspect::adapter;
use crate::inspect::plan::unknown_label;
use crate::publish::mqtt::{MqttError, Tls};
use crate::web;
use std::ffi::CString;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use vlm::VlmError;
use vlm::adapter::{Adapter, Base};
use vlm::gguf::Gguf;
use vlm::kinds;
use vlm::load::stated_labels;
use vlm::processor::Processor;

/// What the shipped unit makes for its user (`StateDirectory=`), who need not be there yet.
const STATE_DIR: &str = "/var/lib/inspectd";
const SIZE_MAX: usize = 1 << 20;

/// What a look has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Look {
    Fine,
    /// It cannot be told from here, and why.
    Untold(String),
    Bad(String),
}

/// Keys of the config, and what is wrong with each on this machine, or risky.
pub(in crate::cli) fn found(config: &Config) -> Found {
    let Found { mut problems, mut warnings } = recipes(config, &Kept::ask(&config.store.dir));
    problems.extend(self::problems(config));
    if let Some(remote) = &config.model.remote {
        let of_servers = remote::found(config, remote);
        problems.extend(of_servers.problems);
        warnings.extend(of_servers.warnings);
    }
    Found { problems, warnings }
}

/// What the store itself says against a start, and about recipes that have no file.
fn recipes(config: &Config, kept: &Kept) -> Found {
    let mut found = Found::default();
    if let Kept::Refused(why) = kept {
        found.problems.push(("store.dir".to_owned(), why.clone()));
    }
    for (at, camera) in config.cameras.iter().enumerate() {
        let Some(problem) = config.unfiled.get(&camera.id) else { continue };
        let (key, message) = (format!("camera[{at}].pipeline"), &problem.message);
        match kept {
            Kept::Recipes(names) if names.contains(&camera.pipeline) => {}
            Kept::NoStore | Kept::Recipes(_) => found.problems.push((key, message.clone())),
            Kept::Refused(why) | Kept::Untold(why) => {
                let unless = "the station starts only if a recipe of this name was made on its page";
                found
                    .warnings
                    .push((key, format!("{message}; {unless}, and its store was not asked: {why}")));
            }
        }
    }
    found
}

fn problems(config: &Config) -> Vec<(String, String)> {
    let mut found = model(config);
    found.extend(cameras(config));
    let looks = [
        ("store.dir", ground(&config.store.dir)),
        ("web.listen", port(config)),
        ("opcua.listen", opcua_port(config)),
        ("modbus.listen", plc_port(config)),
    ];
    found.extend(looks.into_iter().filter_map(|(key, look)| match look {
        Look::Bad(why) => Some((key.to_owned(), why)),
        _ => None,
    }));
    if let Some((certificate, key)) = config.web.as_ref().and_then(|web| web.certificate.as_ref())
        && certificate.is_file()
        && key.is_file()
        && let Err(error) = web::check_certificate(certificate, key)
    {
        found.push(("web.certificate".to_owned(), error.to_string()));
    }
    #[cfg(feature = "opcua")]
    found.extend(opcua(config));
    found.extend(broker("mqtt", &config.mqtt));
    for sink in &config.sinks {
        found.extend(broker(&format!("sink.{}", sink.name), &sink.broker));
    }
    found
}

/// Files that are missing are problems of their own.
fn model(config: &Config) -> Vec<(String, String)> {
    let model = &config.model;
    let mut found = Vec::new();
    if model.device != Processor::Cpu
        && let Err(error) = model.device.open()
    {
        found.push(("model.device".to_owned(), error.to_string()));
    }
    if !model.text.is_file() || !model.mmproj.is_file() {
        return found;
    }
    match pair(&model.text, &model.mmproj) {
        Ok(labels) => match adapted(model, labels) {
            // Servers beside the files are asked with labels of their own.
            Ok(_) if model.remote.is_some() => {}
            Ok(labels) => {
                found.extend(labels_of(config, &labels));
                found.extend(adapters(config));
            }
            Err(why) => found.push(("model.adapter".to_owned(), why)),
        },
        Err((key, why)) => found.push((key.to_owned(), why)),
    }
    found
}

/// The labels that a sound pair states together with its adapter; or what is wrong with the adapter.
fn adapted(model: &config::Model, labels: Vec<String>) -> Result<Vec<String>, String> {
    let Some(adapter) = &model.adapter else { return Ok(labels) };
    let open = || {
        let (text, mmproj) = (Gguf::open(&model.text)?, Gguf::open(&model.mmproj)?);
        let hashes = [text.sha256()?, mmproj.sha256()?];
        Adapter::open(adapter, &text, &mmproj, [&hashes[0], &hashes[1]])
    };
    let adapter = open().map_err(|error: VlmError| error.to_string())?;
    Ok(if adapter.labels.is_empty() { labels } else { adapter.labels })
}

/// What is wrong with the adapters that the cameras' recipes name.
fn adapters(config: &Config) -> Vec<(String, String)> {
    let model = &config.model;
    let base = || {
        let (text, mmproj) = (Gguf::open(&model.text)?, Gguf::open(&model.mmproj)?);
        Ok(Base::of(&text, &mmproj, [&text.sha256()?, &mmproj.sha256()?]))
    };
    let mut known: Option<Result<Base, VlmError>> = None;
    let mut of = |at: usize, camera: &config::Camera| {
        let rule = config.recipes.get(&camera.pipeline)?.pipeline.adapter.as_ref()?;
        let why = if model.adapter.is_some() {
            format!(
                "{}: [model] adapter is merged into the model, and a recipe's adapter needs the pair alone",
                rule.file
            )
        } else {
            let base = known.get_or_insert_with(base).as_ref().ok()?;
            Adapter::read(&adapter::file(rule)).and_then(|read| read.fit_beside(base)).err()?.to_string()
        };
        Some((format!("camera[{at}].pipeline"), format!("{}: adapter: {why}", camera.pipeline)))
    };
    config.cameras.iter().enumerate().filter_map(|(at, camera)| of(at, camera)).collect()
}

/// The labels that a pair of files states; or the key of the file that is wrong, and what is.
pub(in crate::cli) fn pair(text: &Path, mmproj: &Path) -> Result<Vec<String>, (&'static str, String)> {
    let of_text = |error: VlmError| ("model.text", error.to_string());
    let of_vision = |error: VlmError| ("model.mmproj", error.to_string());
    let (text_file, vision_file) =
        (Gguf::open(text).map_err(of_text)?, Gguf::open(mmproj).map_err(of_vision)?);
    kinds::check(&text_file, &vision_file).map_err(|error| {
        let is_vision = matches!(&error, VlmError::Model { path, .. } if path == mmproj && mmproj != text);
        // The line of the config names the file.
        let why = if let VlmError::Model { why, .. } = &error { why.clone() } else { error.to_string() };
        (if is_vision { "model.mmproj" } else { "model.text" }, why)
    })?;
    let gives = vision_file.size("clip.vision.projection_dim", SIZE_MAX).map_err(of_vision)?;
    let takes = text_file.size("qwen3vl.embedding_length", SIZE_MAX).map_err(of_text)?;
    if gives != takes {
        let why =
            format!("it is of another pair: it gives rows of {gives}, and the text model takes {takes}");
        return Err(("model.mmproj", why));
    }
    stated_labels(&text_file).map_err(of_text)
}

/// Labels of the cameras' recipes that the model was not trained with.
fn labels_of(config: &Config, stated: &[String]) -> Vec<(String, String)> {
    let of = |(at, camera): (usize, &config::Camera)| {
        let recipe = config.recipes.get(&camera.pipeline)?;
        let own = recipe.pipeline.adapter.as_ref().map(|adapter| adapter.labels.as_slice());
        let stated = own.filter(|own| !own.is_empty()).unwrap_or(stated);
        let unknown = recipe.pipeline.prompts.iter().find_map(|prompt| unknown_label(prompt, stated))?;
        Some((format!("camera[{at}].pipeline"), unknown))
    };
    config.cameras.iter().enumerate().filter_map(of).collect()
}

fn cameras(config: &Config) -> Vec<(String, String)> {
    let of = |(at, camera): (usize, &config::Camera)| {
        let recipe = config.recipes.get(&camera.pipeline)?;
        Some((format!("camera[{at}].pipeline"), config::off_frame(&camera.source, &recipe.pipeline)?))
    };
    config.cameras.iter().enumerate().filter_map(of).collect()
}

/// Whether records can be kept in a directory that need not be there yet.
pub(in crate::cli) fn ground(dir: &Path) -> Look {
    if dir.as_os_str().is_empty() {
        return Look::Fine;
    }
    match dir.metadata() {
        Ok(meta) if !meta.is_dir() => Look::Bad(format!("{} is no folder", dir.display())),
        Ok(meta) => {
            let (owner, us) = (meta.uid(), user());
            match may_write(dir) {
                Ok(()) => Look::Fine,
                Err(_) if owner != us && us != 0 => Look::Untold(format!(
                    "{} belongs to user {owner}, and we are {us}: ask as that user or as root",
                    dir.display()
                )),
                Err(error) => Look::Bad(format!("{} cannot be written: {error}", dir.display())),
            }
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Look::Untold(format!("{} is not ours to look at: ask as its user or as root", dir.display()))
        }
        Err(_) => {
            let above = above(dir);
            match may_write(&above) {
                _ if !above.is_dir() => Look::Bad(format!("{} is no folder", above.display())),
                _ if dir.starts_with(STATE_DIR) => Look::Fine,
                Ok(()) => Look::Fine,
                Err(error) => Look::Bad(format!(
                    "{} is not there, and cannot be made in {}: {error}",
                    dir.display(),
                    above.display()
                )),
            }
        }
    }
}

/// The nearest directory above that is there.
pub(in crate::cli) fn above(dir: &Path) -> PathBuf {
    let found = dir.ancestors().skip(1).find(|above| above.as_os_str().is_empty() || above.exists());
    match found {
        Some(above) if !above.as_os_str().is_empty() => above.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// The user of this process.
fn user() -> u32 {
    // SAFETY: it cannot fail.
    unsafe { libc::geteuid() }
}

fn may_write(dir: &Path) -> io::Result<()> {
    let path = CString::new(dir.as_os_str().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: a path that ends with a zero byte.
    let outcome = unsafe { libc::access(path.as_ptr(), libc::W_OK | libc::X_OK) };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether the page's address can be had. The station's own daemon may have it.
pub(in crate::cli) fn port(config: &Config) -> Look {
    config.web.as_ref().map_or(Look::Fine, |web| listens(config, web.listen))
}

/// The same of the OPC UA server.
fn opcua_port(config: &Config) -> Look {
    config.opcua.as_ref().map_or(Look::Fine, |opcua| listens(config, opcua.listen))
}

/// The same of the server for PLCs.
fn plc_port(config: &Config) -> Look {
    config.modbus.as_ref().map_or(Look::Fine, |modbus| listens(config, modbus.listen))
}

fn listens(config: &Config, listen: SocketAddr) -> Look {
    let Err(error) = TcpListener::bind(listen) else { return Look::Fine };
    match error.kind() {
        io::ErrorKind::AddrInUse => match client::is_running(&config.store.dir) {
            Ok(true) => Look::Fine,
            Ok(false) => Look::Bad(format!(
                "{listen} is taken by another program: take another port, or see which it is by ss -ltnp"
            )),
            Err(_) => Look::Untold(format!("{listen} is taken, perhaps by the running station: ask as root")),
        },
        io::ErrorKind::AddrNotAvailable => {
            Look::Bad(format!("no interface of this machine has the address {}", listen.ip()))
        }
        io::ErrorKind::PermissionDenied => {
            Look::Bad(format!("port {} is for root alone: take one from 1024 on", listen.port()))
        }
        _ => Look::Bad(format!("nobody can listen on {listen}: {error}")),
    }
}

/// The files of the OPC UA server that are there and of no use.
#[cfg(feature = "opcua")]
fn opcua(config: &Config) -> Vec<(String, String)> {
    use crate::daemon::opcua::pki;
    use crate::publish::opcua::{Users, read_certificate};
    let Some(opcua) = &config.opcua else { return vec![] };
    let users = opcua.users_file.as_deref().filter(|file| file.is_file());
    let users =
        users.and_then(|file| Users::read(file).err()).map(|why| ("opcua.users_file".to_owned(), why));
    let dir = pki(&config.store.dir);
    let is_made = dir.join("own/cert.der").exists();
    let certificate = is_made.then(|| read_certificate(&dir).err()).flatten();
    users.into_iter().chain(certificate.map(|why| ("opcua".to_owned(), why))).collect()
}

/// The files of a broker's section that are there and of no use.
fn broker(section: &str, broker: &Mqtt) -> Vec<(String, String)> {
    let mut found = Vec::new();
    if let Some(tls) = broker.tls.as_ref().filter(|tls| files(tls).iter().all(|(_, file)| file.is_file()))
        && let Err(error) = open_tls(tls)
    {
        let of = |path: &Path| files(tls).into_iter().find(|(_, file)| *file == path).map(|(key, _)| key);
        let key = match &error {
            MqttError::Tls { path, .. } => of(path).unwrap_or("ca"),
            _ => "ca",
        };
        found.push((format!("{section}.{key}"), error.to_string()));
    }
    if broker.password_file.as_ref().is_some_and(|file| file.is_file())
        && let Err(error) = broker.read_password()
    {
        found.push((format!("{section}.password_file"), format!("cannot be read: {error}")));
    }
    found
}

/// The keys and files of a connection by TLS.
pub(in crate::cli) fn files(tls: &BrokerTls) -> Vec<(&'static str, &Path)> {
    let own = tls.certificate.iter();
    let own =
        own.flat_map(|(certificate, key)| [("certificate", certificate.as_path()), ("key", key.as_path())]);
    std::iter::once(("ca", tls.ca.as_path())).chain(own).collect()
}

/// What a connection by TLS is made with.
///
/// # Errors
/// [`MqttError::Tls`], with the file.
pub(in crate::cli) fn open_tls(tls: &BrokerTls) -> Result<Tls, MqttError> {
    let identity = tls.certificate.as_ref().map(|(certificate, key)| (certificate.as_path(), key.as_path()));
    Tls::new(&tls.ca, identity)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A config whose only camera names a recipe that no file holds.
    fn unfiled() -> Config {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("recipes")).unwrap();
        let text = "pipelines_dir = \"recipes\"\n[station]\nsite = \"p\"\narea = \"a\"\nline = \"l\"\nstation = \"s\"\n[store]\ndir = \
                    \"store\"\n[mqtt]\nurl = \"mqtt://broker\"\n[[camera]]\nid = \"cam1\"\nsource = \"simulator\"\npipeline = \"nut\"\n";
        let file = dir.path().join("inspectd.toml");
        std::fs::write(&file, text).unwrap();
        config::load(&file).unwrap()
    }

    #[test]
    fn a_recipe_without_a_file_is_fine_risky_or_wrong_by_what_the_store_says() {
        let config = unfiled();
        let of = |kept: Kept| {
            let Found { problems, warnings } = recipes(&config, &kept);
            let keys =
                |found: Vec<(String, String)>| found.into_iter().map(|(key, _)| key).collect::<Vec<_>>();
            (keys(problems), keys(warnings))
        };
        let (key, none) = (vec!["camera[0].pipeline".to_owned()], Vec::<String>::new);
        let names = |name: &str| Kept::Recipes([name.to_owned()].into());
        assert_eq!(of(names("nut")), (none(), none()));
        assert_eq!(of(names("bolt")), (key.clone(), none()));
        assert_eq!(of(Kept::NoStore), (key.clone(), none()));
        assert_eq!(of(Kept::Untold("it is root's".into())), (none(), key.clone()));
        assert_eq!(of(Kept::Refused("it is newer".into())), (vec!["store.dir".to_owned()], key));
    }

    #[test]
    fn ground_is_what_can_be_written_or_made() {
        let dir = tempfile::tempdir().expect("a folder");
        assert_eq!(ground(dir.path()), Look::Fine);
        assert_eq!(ground(&dir.path().join("a/b")), Look::Fine, "it can be made");
        assert_eq!(above(&dir.path().join("a/b")), dir.path());
        assert_eq!(above(Path::new("nowhere/at/all")), Path::new("."));
        let file = dir.path().join("file");
        std::fs::write(&file, "").expect("a file");
        assert!(matches!(ground(&file), Look::Bad(why) if why.contains("is no folder")));
        assert!(matches!(ground(&file.join("store")), Look::Bad(why) if why.contains("file is no folder")));
    }
}
