//! What goes into a session, and what comes out of it.

use crate::store::outbox::Kind;

/// Whom a message is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::publish::mqtt::sparkplug) enum Who {
    Node,
    /// `id` of a camera.
    Device(String),
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::publish::mqtt::sparkplug) enum Event {
    /// The pause before the next attempt is over.
    Due,
    /// The broker has accepted the connection.
    Up,
    /// It has answered the subscriptions.
    Subscribed,
    /// The primary host says how it is, and of when that is.
    Host { online: bool, at: i64 },
    /// A host wants all births.
    Rebirth,
    /// There is something new to be said about the state of somebody.
    Changed(Who),
    /// A command was answered.
    Answered { who: Who, id: u64 },
    /// A device gives pictures.
    Alive(String),
    /// It does not.
    Dead(String),
    /// More of a kind is owed.
    Committed(Kind),
    /// What was given up is owed again.
    Retried,
    /// Entries were read: their places, and whom they are about.
    Fetched { kind: Kind, entries: Vec<(u64, Who)>, next: u64, end: bool },
    /// The fence that is out was answered.
    Fenced,
    /// The host was online for long enough after the answer to this fence.
    Settled(u64),
    /// The broker has NDEATH.
    DeathTaken,
    /// The connection is gone.
    Lost,
    /// Say goodbye.
    Stop,
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::publish::mqtt::sparkplug) enum Out {
    NodeBirth {
        bd_seq: u8,
    },
    DeviceBirth(String),
    DeviceDeath(String),
    /// What has changed of the state of somebody.
    State(Who),
    /// The answer of this id.
    Answer(u64),
    /// `again`: it may have been sent before.
    Entry {
        place: u64,
        who: Who,
        again: bool,
    },
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::publish::mqtt::sparkplug) enum Action {
    /// A connection whose will has this number.
    Connect {
        bd_seq: u8,
    },
    Subscribe,
    Publish {
        seq: u8,
        what: Out,
    },
    /// Send what the broker answers.
    Fence,
    /// `Settled` is due when the host has been online for its time.
    SettleAfter(u64),
    /// The sink has these.
    Ack(Vec<u64>),
    /// Up to `count` entries from a place on.
    Fetch {
        kind: Kind,
        from: u64,
        count: usize,
    },
    /// NDEATH, as the will of this connection has it.
    Die {
        bd_seq: u8,
    },
    /// End the connection in order.
    Leave,
    /// Drop the connection.
    Close,
    /// `Due` comes after a pause for so many failures in a row.
    RetryAfter {
        failures: u32,
    },
}
