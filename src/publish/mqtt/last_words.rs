//! Last words: what a station publishes that has no store, and so delivers nothing.
//!
//! ```text
//! connect --Up--> alarms and states of cameras, retained --all acknowledged--> leave
//!    ^--Down, a pause--'                                    (until the time is over)
//! ```

use super::dialect::{self, Dialect, Message, Spoken};
use super::link::{Link, LinkEvent};
use super::{MqttError, MqttOptions, StationEvent};
use crate::publish::StationState;
use std::time::{Duration, SystemTime};
use tokio::time::{Instant, timeout_at};

/// Pause before the next attempt to connect.
const RETRY: Duration = Duration::from_millis(500);

/// Publishes alarms and states of cameras, retained, and waits until the broker has acknowledged them all.
///
/// # Errors
/// [`MqttError::Option`]; [`MqttError::Task`] when the broker did not take them in time.
pub(crate) async fn last_words(
    options: &MqttOptions,
    events: &[StationEvent],
    within: Duration,
) -> Result<(), MqttError> {
    options.check()?;
    // A session of Sparkplug has its number from the store; without one the host has the will.
    if options.dialect != Spoken::Json {
        return Ok(());
    }
    let dialect = dialect::json(&options.prefix);
    let now = SystemTime::now();
    let messages: Vec<Message> = events
        .iter()
        .filter_map(|event| match event {
            StationEvent::Camera { id, status } => Some(dialect.camera(id, status, now)),
            StationEvent::Alarm { code, raised, message } => Some(dialect.alarm(code, *raised, message, now)),
            StationEvent::Recipe(status) => Some(dialect.recipe(status, now)),
            StationEvent::Stats(_) => None,
        })
        .collect();
    let deadline = Instant::now() + within;
    let mut reason = "the broker did not answer".to_owned();
    loop {
        match timeout_at(deadline, publish(options, dialect.as_ref(), &messages)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(why)) => reason = why,
            Err(_) => return Err(MqttError::Task { reason }),
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// One connection.
async fn publish(options: &MqttOptions, dialect: &dyn Dialect, messages: &[Message]) -> Result<(), String> {
    let will = dialect.status(StationState::Offline, SystemTime::now());
    let mut link = Link::connect(options, will, true);
    let mut left = messages.len();
    while let Some(event) = link.events.recv().await {
        match event {
            LinkEvent::Up { .. } => {
                for Message { topic, payload } in messages {
                    let taken = link.try_publish(topic, true, true, payload.clone());
                    taken.map_err(|_| "the client takes no more".to_owned())?;
                }
            }
            LinkEvent::Sent(_)
            | LinkEvent::Subscribed { .. }
            | LinkEvent::Unsubscribed
            | LinkEvent::Heard(_) => {}
            LinkEvent::Acked(..) => {
                left = left.saturating_sub(1);
                if left == 0 {
                    link.leave().await;
                    return Ok(());
                }
            }
            LinkEvent::Down(reason) => return Err(reason),
        }
    }
    Err("the connection ended".into())
}
