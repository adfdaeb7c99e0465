//! Sparkplug B 3.0: the station as an edge node, its cameras as devices, beside the JSON of the other sinks.
//!
//! ```text
//! outbox --report--> values --board, metrics--> payload --driver, link--> broker --> hosts
//! station's events --report--> board                 ^
//!                                                  session (pure): births, seq, windows, the primary host
//! broker --NCMD, DCMD--> commands --> dispatcher --> Answer/… ; STATE --> session
//! ```
//!
//! [`session`] decides, without clock, network or disk; [`driver`] carries out; [`edge`] has names and topics,
//! [`metrics`] the tables, [`payload`] the bytes. Assertions of the specification are cited where they are kept, by their
//! ids; a test has the list of all of them, and finds those of an edge node that nobody cites.
//!
//! A node's id is one at its broker (tck-id-intro-edge-node-id-uniqueness,
//! tck-id-topic-structure-namespace-unique-edge-node-descriptor, tck-id-payloads-nbirth-edge-node-descriptor): the config
//! refuses two sinks of one, and another box is beyond it. Ids are UTF-8 texts (tck-id-intro-group-id-string,
//! tck-id-intro-edge-node-id-string, tck-id-intro-device-id-string).

mod board;
pub(crate) mod commands;
pub(crate) mod driver;
pub mod edge;
pub mod metrics;
pub mod payload;
mod report;
mod session;
