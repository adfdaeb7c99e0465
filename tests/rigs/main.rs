//! The rigs that prove the promises (FIGURES.md), each printing its figures on one line.
//!
//! ```text
//! bytes           a byte of the ledger changed on the disk
//! kill       P1   kill -9 at any moment, real broker, real subscriber
//! power      P2   the disk's image at the moment when the power goes
//! learned    P2   the same while versions of a recipe are learned
//! outage     P3   the broker away, cut, stalled, half-open, refusing, restarted
//! sinks      P3   two brokers, of which one is away for a day
//! sparkplug  P3   a day in Sparkplug B, with the host away, the broker restarted and the station killed
//! full       P6   the disk full at any moment
//! hostile    P7   mutated models and pictures, bombs
//! endurance  P8   memory, descriptors and the store's size over many inserts
//! twins      P10  text in the picture that gives orders
//! damaged    P14  models with flipped bits or zeroed data
//! watchdog   P11  slow loads and compactions, real stalls, under a fake systemd
//! plant           four clients of other makers side by side, and kills
//! rest            what all servers take of a processor while nothing happens
//! plc             the PLC's handshake with jitter, stuck bits, reconnects and kills
//! dead_eye   P14  pictures that show nothing, are cut, damaged or of another size
//! splits          the promise about defective parts on 1,000 halves of an archive
//! ```
//!
//! (P5 is tests/faults.rs.) Short counts in `make test`; `make soak` runs the full ones, `make soak-p1`
//! one of them, and `SOAK=100 make soak-p1` that many. At the full count a rig also leaves its line in FIGURES.md.
//!
//! The process that is killed, stopped and starved is this test binary again: `station`; under P11 it is the
//! real one.

#[path = "../common/broker.rs"]
mod broker;
mod bytes;
#[path = "../common/config.rs"]
mod config;
#[path = "../common/station.rs"]
#[allow(dead_code, reason = "a rig kills, and asks clients and the store")]
mod daemon;
mod damaged;
mod dead_eye;
mod endurance;
mod full;
mod hostile;
#[path = "../common/inspections.rs"]
mod inspections;
mod kill;
mod learned;
mod loopdisk;
#[path = "../common/modbus.rs"]
#[allow(dead_code, reason = "the rig reads no exceptions")]
mod modbus;
mod outage;
#[path = "../common/peers.rs"]
mod peers;
mod plant;
mod plc;
mod power;
mod rest;
#[path = "../common/room.rs"]
mod room;
mod sinks;
#[path = "../common/soak.rs"]
mod soak;
mod sparkplug;
#[path = "../common/sparkplug.rs"]
#[allow(dead_code, reason = "nobody commands these stations")]
mod sparkplug_rules;
mod splits;
mod station;
mod twins;
mod watchdog;
