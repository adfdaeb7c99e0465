//! The capture child: opens one device, reads it all the time, and hands over what is ordered.
//!
//! ```text
//! Open --> device --next--> picture --count, check--> ordered, and exposed after the order?
//!                                                        |--no--> forgotten
//!                                                        '--yes-> key-frame policy --> Frame
//! ```
//!
//! It reads whether pictures are wanted or not, so that what is ordered is new and not what lay in a
//! driver's buffers. A recording is read only when ordered. It ends when its socket closes.
//!
//! Invariants:
//! - At most one order waits. A new one takes its place, and one that is over is dropped, so that no
//!   picture answers an order that nobody waits for.
//! - A picture from before an order's `after_ns` never answers it.

use super::device::{Device, DeviceError, Picture, Reading, monotonic_ns};
use super::keyframe::KeyFrames;
use super::kind::Settings;
use super::picture::{Corrector, condition};
use super::wire::{Alive, FromCapture, ToCapture};
use crate::ipc::{Channel, IpcError};
use std::time::{Duration, Instant};

/// How often the child says that it lives.
pub const ALIVE_EVERY: Duration = Duration::from_millis(500);
/// The longest wait for a picture before orders are looked at again.
const LOOK: Duration = Duration::from_millis(100);
/// A message to the supervisor is through in this time, or there is no supervisor.
const SEND_WITHIN: Duration = Duration::from_secs(5);
/// How long the child waits for what it is to open.
const OPEN_WITHIN: Duration = Duration::from_secs(10);

/// Serves until the other side closes the connection or the device fails.
///
/// # Errors
/// The connection failed; a failed device is reported to the other side and is no error here.
pub fn serve(
    mut channel: Channel,
    open: impl FnOnce(&Settings) -> Result<Box<dyn Device>, DeviceError>,
) -> Result<(), IpcError> {
    let Some((ToCapture::Open(settings), _)) = channel.recv(OPEN_WITHIN, SEND_WITHIN)? else { return Ok(()) };
    let ready = Corrector::new(&settings.correction).and_then(|corrector| Ok((open(&settings)?, corrector)));
    let outcome = match ready {
        Ok((device, corrector)) => {
            channel.send(&FromCapture::Opened, &[], SEND_WITHIN)?;
            let mut session = Session {
                channel,
                device,
                corrector,
                key_frames: KeyFrames::new(settings.key_frames),
                order: None,
                latency: Duration::from_millis(settings.latency_ms.into()),
                older: 0,
                alive: Alive::default(),
                reported: Instant::now(),
            };
            let outcome = session.run();
            channel = session.channel;
            outcome
        }
        Err(error) => Err(Stop::Device(error)),
    };
    match outcome {
        Ok(()) | Err(Stop::Ipc(IpcError::Closed)) => Ok(()),
        Err(Stop::Ipc(error)) => Err(error),
        Err(Stop::Device(error)) => {
            channel.send(&FromCapture::Fault { reason: error.to_string() }, &[], SEND_WITHIN)
        }
    }
}

enum Stop {
    Ipc(IpcError),
    Device(DeviceError),
}

impl From<IpcError> for Stop {
    fn from(error: IpcError) -> Self {
        Self::Ipc(error)
    }
}

impl From<DeviceError> for Stop {
    fn from(error: DeviceError) -> Self {
        Self::Device(error)
    }
}

/// An order without its picture.
#[derive(Clone, Copy)]
struct Ordered {
    number: u64,
    after_ns: Option<u64>,
    by_ns: Option<u64>,
}

struct Session {
    channel: Channel,
    device: Box<dyn Device>,
    corrector: Corrector,
    key_frames: KeyFrames,
    order: Option<Ordered>,
    /// From an exposure to its stamp.
    latency: Duration,
    /// Pictures that came for the order and were exposed before it.
    older: u64,
    alive: Alive,
    /// When the last sign of life was sent.
    reported: Instant,
}

impl Session {
    fn run(&mut self) -> Result<(), Stop> {
        loop {
            let rests = self.device.is_recording() && self.order.is_none();
            self.take_orders(if rests { ALIVE_EVERY } else { Duration::ZERO })?;
            if self.order.is_some_and(|o| o.by_ns.is_some_and(|by| monotonic_ns() >= by)) {
                self.order = None;
            }
            if self.device.is_recording() && self.order.is_none() {
                self.alive.idle = true;
            } else {
                match self.device.next(LOOK)? {
                    Reading::Picture(picture) => self.picture(picture)?,
                    // A software trigger that got lost is a picture that is due.
                    Reading::Idle => self.alive.idle = self.order.is_none(),
                    Reading::Late => self.alive.idle = false,
                    Reading::Broken(reason) => self.broken(reason)?,
                    Reading::Lost(count) => {
                        self.alive.idle = false;
                        self.channel.send(&FromCapture::Lost { count }, &[], SEND_WITHIN)?;
                    }
                    Reading::Ended => {
                        self.last()?;
                        self.channel.send(&FromCapture::Ended, &[], SEND_WITHIN)?;
                        return Ok(());
                    }
                }
            }
            if self.reported.elapsed() >= ALIVE_EVERY {
                self.reported = Instant::now();
                self.channel.send(&FromCapture::Alive(self.alive), &[], SEND_WITHIN)?;
                self.alive.condition = None;
            }
        }
    }

    fn take_orders(&mut self, mut wait: Duration) -> Result<(), Stop> {
        while let Some((ToCapture::Take { order, after_ns, by_ns }, _)) =
            self.channel.recv(wait, SEND_WITHIN)?
        {
            self.order = Some(Ordered { number: order, after_ns, by_ns });
            self.older = 0;
            self.key_frames.begin();
            self.device.expose()?;
            wait = Duration::ZERO;
        }
        Ok(())
    }

    fn picture(&mut self, mut picture: Picture) -> Result<(), Stop> {
        if !self.device.is_recording() {
            picture.stamp = picture.stamp.back(self.latency);
        }
        self.alive.pictures += 1;
        self.alive.idle = false;
        self.alive.checksum = crc32fast::hash(picture.pixels.as_raw());
        if self.reported.elapsed() >= ALIVE_EVERY {
            self.alive.condition = condition(&picture.pixels)?;
        }
        if !self.device.pushes() {
            let Some(order) = self.order else { return Ok(()) };
            if order.after_ns.is_some_and(|after| picture.stamp.monotonic_ns < after) {
                self.older += 1;
                return Ok(());
            }
        }
        self.corrector.correct(&mut picture.pixels)?;
        match self.key_frames.offer(picture)? {
            Some(chosen) => self.send(&chosen),
            None => Ok(()),
        }
    }

    /// A broken picture of a device that runs freely is followed by the next. That of an order is its part's,
    /// and that of a hardware trigger is a part's, too.
    fn broken(&mut self, reason: String) -> Result<(), Stop> {
        self.alive.idle = false;
        if self.device.pushes() {
            self.channel.send(&FromCapture::Lost { count: 1 }, &[], SEND_WITHIN)?;
        } else if self.device.exposes_on_order()
            && let Some(order) = self.order.take()
        {
            self.channel.send(&FromCapture::Missed { order: order.number, reason }, &[], SEND_WITHIN)?;
        }
        Ok(())
    }

    /// A recording that ends inside a window still gives the best of it.
    fn last(&mut self) -> Result<(), Stop> {
        match self.key_frames.rest() {
            Some(chosen) if self.order.is_some() => self.send(&chosen),
            _ => Ok(()),
        }
    }

    fn send(&mut self, picture: &Picture) -> Result<(), Stop> {
        let message = FromCapture::Frame {
            order: self.order.take().map(|order| order.number),
            older: self.older,
            width_px: picture.pixels.width(),
            height_px: picture.pixels.height(),
            stamp: picture.stamp,
            number: picture.number,
        };
        Ok(self.channel.send(&message, &[picture.pixels.as_raw()], SEND_WITHIN)?)
    }
}
