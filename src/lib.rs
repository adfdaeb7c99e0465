//! inspectd: visual inspection at the line, on one box, with a local Qwen3-VL.
//!
//! The whole line, from camera to MQTT:
//!
//! ```text
//! camera/     a source takes a picture when it is triggered              -> Frame
//! queue       bounded, with a named drop policy                          -> Frame
//! inspect/    Frame -> does it show anything (health)? -> Tiles x Prompts -> jobs
//! engine/     who is asked next, and until when; the model runs in a child process, which can be killed (ipc), or on servers
//! vlm/        (a crate) Qwen3-VL: patches -> vision tower -> text model -> grammar -> answers
//! inspect/    answers -> Detections -> Findings -> Grade -> Verdict      -> Inspection
//! store/      image file, then record and outbox entry in one commit, flushed to the disk
//! web/        the review page: queue, pictures, decisions               -> Review, in the store
//! publish/    outbox -> each sink: PUBLISH -> PUBACK -> its cursor goes on; results -> registers for PLCs
//! ```
//!
//! [`recipe`] reads a pipeline file once and knows the active version of each. [`evaluate`] scores inspections against
//! what is known of their pictures, and holds a new version, or another model, to its gate. [`learn`] makes of confirmed
//! parts what a recipe judges by, beside its questions. [`control`] is the door for the commands of this machine that need
//! the store: verify, export and their like.
//!
//! And against the stream: what MQTT, HTTP, PLCs and files tell the line (trigger, pause, resume, pipeline) is
//! read by [`command`] and goes to the cameras over the dispatcher in [`daemon`].
//!
//! [`daemon`] builds these parts and joins them with queues of [`domain`] types. A file imports only
//! to the right, and siblings never import each other (tests/tidy.rs checks it):
//!
//! ```text
//! main > cli, daemon > config, learn > evaluate > recipe > inspect > engine > vlm
//!                     > camera, publish, web, control > store > domain
//! ```
//!
//! What is public is what `main` and the tests in tests/ name; everything else is the crate's own.
//! `src/guide/` is what users read, on the command line and on the page; its `glossary.md` has the words of the house,
//! each with the type or topic that carries it.
//!
//! An error never becomes a pass: whatever goes wrong between a frame and its verdict ends in
//! `Verdict::Review` with its reason.

// The library alone: in tests an unwrap is an assertion. What holds everywhere is in Cargo.toml.
#![cfg_attr(not(test), warn(clippy::unwrap_used))]

mod address;
pub mod camera;
pub mod causes;
pub mod cli;
pub mod clock;
mod command;
pub mod config;
mod control;
pub mod daemon;
pub mod document;
pub mod domain;
pub mod engine;
pub mod evaluate;
mod guide;
mod health;
pub mod inspect;
pub mod ipc;
mod learn;
mod pixels;
pub mod publish;
mod queue;
pub mod recipe;
pub mod simulator;
pub mod store;
mod threads;
pub mod web;
