//! At rest: what all servers together take of a processor while nothing is inspected.
//!
//! ```text
//! the real binary without servers, no broker answers -----------------------------> CPU seconds of so many seconds
//! the real binary with MQTT, Sparkplug, OPC UA, Modbus, each with its client -----> the same; the difference is theirs
//!     mosquitto_sub, aiospb, asyncua with subscriptions, a PLC that reads all registers ten times a second
//! ```

use crate::broker::{Broker, until};
use crate::daemon::Station;
use crate::modbus::{Map, Plc, free_port};
use crate::plant::{Client, Plant, cameras};
use crate::soak;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// Seconds of each measurement in the short form.
const SECONDS: usize = 5;
const FULL: usize = 60;
/// What the servers may take, of one core.
const SHARE_MAX: f64 = 0.02;
/// The same of the short form, whose few seconds a busy machine makes noisy: one that spins takes all of a core.
const SHORT_SHARE_MAX: f64 = 0.25;
/// What begins with a start, as the proof of the model and the births, is over after this.
const SETTLE: Duration = Duration::from_secs(5);
/// Ten times a second.
const POLL: Duration = Duration::from_millis(100);

/// Seconds of a processor that a process has used so far.
fn cpu_s(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the daemon runs");
    // After the name, which may hold anything: state is the first, user and system time are the 12th and 13th.
    let (_, after) = stat.rsplit_once(") ").expect("a name in brackets");
    let ticks: Vec<f64> = after.split(' ').skip(11).take(2).map(|n| n.parse().expect("a number")).collect();
    // SAFETY: asks for a number.
    ticks.iter().sum::<f64>() / unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64
}

/// What a process uses of one core over so many seconds.
async fn share(pid: u32, seconds: usize) -> f64 {
    tokio::time::sleep(SETTLE).await;
    let before = cpu_s(pid);
    tokio::time::sleep(Duration::from_secs(seconds as u64)).await;
    (cpu_s(pid) - before) / seconds as f64
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rest_all_servers_together_take_next_to_nothing() {
    let seconds = soak::count(SECONDS, FULL);
    let map = Map::load();
    let alone = {
        let station = Station::new(free_port(), &cameras());
        let daemon = station.start();
        until("the model is loaded", || station.log().contains("model loaded")).await;
        share(daemon.id(), seconds).await
    };
    let broker = Broker::start("", "").await;
    let plant = Plant::new(broker.port);
    let daemon = plant.station.start();
    tokio::task::block_in_place(|| Plc::connect_soon(&map, plant.modbus, 1).until_bit("online", true))
        .expect("the station is there");
    let mut watchers = plant.watchers(broker.port);
    until("asyncua has subscribed", || watchers[2].look(|told| told.watching)).await;
    let (stop, polled) = (AtomicBool::new(false), AtomicUsize::new(0));
    let serving = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut plc = Plc::connect(&map, plant.modbus, 1).expect("a place");
            while !stop.load(Ordering::Relaxed) {
                plc.image().expect("an answer");
                polled.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(POLL);
            }
        });
        let serving = tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(share(daemon.id(), seconds))
        });
        stop.store(true, Ordering::Relaxed);
        serving
    });
    assert!(!watchers.iter_mut().any(Client::is_over), "who watches goes on");
    let (share, polled) = (serving - alone, polled.into_inner());
    soak::report(&format!(
        "REST: {:.2} % of a core without servers, {:.2} % with MQTT, Sparkplug, OPC UA and Modbus, each with a client \
         ({polled} Modbus reads): {:.2} % for the servers, over {seconds} s each",
        alone * 100.0,
        serving * 100.0,
        share * 100.0
    ));
    assert!(polled > seconds, "the PLC was served {polled} times");
    let most = if seconds < FULL { SHORT_SHARE_MAX } else { SHARE_MAX };
    assert!(share < most, "{share}");
}
