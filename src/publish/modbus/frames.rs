//! What one client asks for, frame by frame: registers of a unit's map, or an exception that says what is wrong.
//!
//! ```text
//! unit      0 and 255 are the first camera's; one that is not there     exception 0x0B
//! function  3, 4, 6, 16, 23; another one                                exception 0x01
//! address   a range that leaves its block, or a write to the station's  exception 0x02
//! value     0 or too many registers, a control bit that is none         exception 0x03
//! client    another one commands, or more frames than a second has      exception 0x06
//! ```

use super::handshake::{Busy, Client};
use super::map::{CONTROL, IN_AT, IN_WORDS, OUT_AT, OUT_WORDS, control};
use super::{Unit, Units};
use std::future::{Ready, ready};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio_modbus::server::Service;
use tokio_modbus::{ExceptionCode, Request, Response, SlaveRequest};

/// Frames of one client in a second. A PLC asks once a cycle, of a millisecond or more.
pub(super) const FRAMES_PER_S_MAX: u32 = 2000;
const SECOND: Duration = Duration::from_secs(1);
/// Registers that one frame reads (functions 3, 4 and 23).
const READ_MAX: u16 = 125;
/// Registers that one frame writes, by function 16 and by function 23.
const WRITE_MAX: usize = 123;
const READ_WRITE_MAX: usize = 121;

/// One client of the server.
pub(super) struct Frames {
    units: Units,
    client: Client,
    /// Its address.
    peer: String,
    second: Mutex<(Instant, u32)>,
}

impl Frames {
    pub(super) fn new(units: Units, client: Client, peer: String) -> Self {
        Self { units, client, peer, second: Mutex::new((Instant::now(), 0)) }
    }

    /// False when there were too many in this second.
    fn has_room(&self, now: Instant) -> bool {
        let mut second = self.second.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(second.0) >= SECOND {
            *second = (now, 0);
        }
        second.1 += 1;
        second.1 <= FRAMES_PER_S_MAX
    }

    fn answer(&self, asked: &SlaveRequest<'_>) -> Result<Response, ExceptionCode> {
        if !self.has_room(Instant::now()) {
            return Err(ExceptionCode::ServerDeviceBusy);
        }
        let unit = match asked.slave {
            0 | 255 => self.units.0.values().next(),
            unit => self.units.0.get(&unit),
        };
        let unit = unit.ok_or(ExceptionCode::GatewayTargetDevice)?;
        match &asked.request {
            Request::ReadHoldingRegisters(at, count) => {
                Ok(Response::ReadHoldingRegisters(read(unit, *at, *count)?))
            }
            Request::ReadInputRegisters(at, count) => {
                Ok(Response::ReadInputRegisters(read(unit, *at, *count)?))
            }
            Request::WriteSingleRegister(at, word) => {
                self.write(unit, *at, &[*word], 1)?;
                Ok(Response::WriteSingleRegister(*at, *word))
            }
            Request::WriteMultipleRegisters(at, words) => {
                self.write(unit, *at, words, WRITE_MAX)?;
                Ok(Response::WriteMultipleRegisters(*at, words.len() as u16))
            }
            Request::ReadWriteMultipleRegisters(from, count, at, words) => {
                // Nothing is written where the answer cannot be given; then the write comes first, as it is specified.
                read(unit, *from, *count)?;
                self.write(unit, *at, words, READ_WRITE_MAX)?;
                Ok(Response::ReadWriteMultipleRegisters(read(unit, *from, *count)?))
            }
            _ => Err(ExceptionCode::IllegalFunction),
        }
    }

    fn write(&self, unit: &Unit, at: u16, words: &[u16], count_max: usize) -> Result<(), ExceptionCode> {
        if words.is_empty() || words.len() > count_max {
            return Err(ExceptionCode::IllegalDataValue);
        }
        let place = place(at, words.len(), IN_AT, IN_WORDS).ok_or(ExceptionCode::IllegalDataAddress)?;
        if place == CONTROL && words[0] & !control::ALL != 0 {
            return Err(ExceptionCode::IllegalDataValue);
        }
        let mut handshake = unit.lock();
        let written = handshake.write(self.client, place, words, Instant::now());
        written.map_err(|Busy| ExceptionCode::ServerDeviceBusy)?;
        unit.pass_on(&mut handshake, &self.peer);
        Ok(())
    }
}

impl Service for Frames {
    type Request = SlaveRequest<'static>;
    type Response = Response;
    type Exception = ExceptionCode;
    type Future = Ready<Result<Response, ExceptionCode>>;

    fn call(&self, request: Self::Request) -> Self::Future {
        ready(self.answer(&request))
    }
}

/// Where a range begins in a block that holds all of it.
fn place(at: u16, count: usize, block: u16, words: usize) -> Option<usize> {
    let place = usize::from(at.checked_sub(block)?);
    (place + count <= words).then_some(place)
}

fn read(unit: &Unit, at: u16, count: u16) -> Result<Vec<u16>, ExceptionCode> {
    if !(1..=READ_MAX).contains(&count) {
        return Err(ExceptionCode::IllegalDataValue);
    }
    let count = usize::from(count);
    if let Some(place) = place(at, count, OUT_AT, OUT_WORDS) {
        return Ok(unit.lock().image(Instant::now()).0[place..place + count].to_vec());
    }
    match place(at, count, IN_AT, IN_WORDS) {
        Some(place) => Ok(unit.lock().inputs()[place..place + count].to_vec()),
        None => Err(ExceptionCode::IllegalDataAddress),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publish::modbus::handshake::{Action, Handshake, Line, Setup};
    use crate::publish::modbus::map::{PROTOCOL, words_of};
    use std::borrow::Cow;
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use tokio::sync::mpsc::{Receiver, channel};

    fn units() -> (Units, Receiver<(Action, String)>) {
        let (commands, queue) = channel(2);
        let setup = Setup {
            unit: 3,
            epoch: 9,
            config_checksum: 0,
            recipes: BTreeMap::new(),
            watchdog: SECOND,
            keep_results: true,
        };
        let now = Instant::now();
        let mut handshake = Handshake::new(setup, now);
        let line = Line { online: true, is_triggered: true, ..Line::default() };
        handshake.line(line, now);
        let unit = Unit { camera: "cam1".into(), handshake: Mutex::new(handshake), commands };
        (Units(Arc::new(BTreeMap::from([(3, unit)]))), queue)
    }

    fn ask(frames: &Frames, slave: u8, request: Request<'static>) -> Result<Response, ExceptionCode> {
        frames.answer(&SlaveRequest { slave, request })
    }

    #[test]
    fn a_frame_reads_and_writes_what_the_map_has_or_says_why_not() {
        use ExceptionCode::{
            GatewayTargetDevice, IllegalDataAddress, IllegalDataValue, IllegalFunction, ServerDeviceBusy,
        };
        let (units, mut queue) = units();
        let plc = Frames::new(units.clone(), 1, "10.0.0.7".into());
        let words = |count: usize| Cow::Owned(vec![0; count]);
        let holding = ask(&plc, 3, Request::ReadHoldingRegisters(0, 2)).unwrap();
        assert_eq!(holding, Response::ReadHoldingRegisters(vec![PROTOCOL, 9]));
        for slave in [0, 255, 3] {
            let input = ask(&plc, slave, Request::ReadInputRegisters(0, 69)).unwrap();
            assert!(matches!(input, Response::ReadInputRegisters(words) if words.len() == 69));
        }
        for (slave, request, expected) in [
            (4, Request::ReadHoldingRegisters(0, 1), GatewayTargetDevice),
            (3, Request::ReadCoils(0, 1), IllegalFunction),
            (3, Request::MaskWriteRegister(200, 0, 0), IllegalFunction),
            (3, Request::Custom(0x64, Cow::Owned(vec![])), IllegalFunction),
            (3, Request::ReadHoldingRegisters(0, 70), IllegalDataAddress),
            (3, Request::ReadHoldingRegisters(199, 2), IllegalDataAddress),
            (3, Request::ReadHoldingRegisters(233, 2), IllegalDataAddress),
            (3, Request::ReadHoldingRegisters(u16::MAX, 1), IllegalDataAddress),
            (3, Request::ReadHoldingRegisters(0, 0), IllegalDataValue),
            (3, Request::ReadHoldingRegisters(0, 126), IllegalDataValue),
            (3, Request::WriteSingleRegister(0, 1), IllegalDataAddress),
            (3, Request::WriteMultipleRegisters(200, words(35)), IllegalDataAddress),
            (3, Request::WriteMultipleRegisters(200, words(0)), IllegalDataValue),
            (3, Request::WriteSingleRegister(200, 0x20), IllegalDataValue),
            (3, Request::ReadWriteMultipleRegisters(0, 70, 200, words(1)), IllegalDataAddress),
        ] {
            assert_eq!(ask(&plc, slave, request.clone()), Err(expected), "{request:?}");
        }
        // One frame names the part and triggers it, and reads what came of it.
        let mut block = vec![3, 0];
        block.extend(words_of("P1", 8));
        let write = Request::ReadWriteMultipleRegisters(6, 1, 200, Cow::Owned(block));
        assert_eq!(ask(&plc, 3, write).unwrap(), Response::ReadWriteMultipleRegisters(vec![1]));
        let (action, peer) = queue.try_recv().unwrap();
        assert!(matches!(action, Action::Trigger { part_id, .. } if part_id == "P1"));
        assert_eq!(peer, "10.0.0.7");
        let written = ask(&plc, 3, Request::ReadHoldingRegisters(200, 1)).unwrap();
        assert_eq!(written, Response::ReadHoldingRegisters(vec![3]));
        let other = Frames::new(units, 2, "10.0.0.8".into());
        assert_eq!(ask(&other, 3, Request::WriteSingleRegister(201, 1)), Err(ServerDeviceBusy));
        assert!(ask(&other, 3, Request::ReadHoldingRegisters(200, 34)).is_ok(), "anybody may read");
    }

    #[test]
    fn a_client_that_asks_too_often_is_told_so_until_the_next_second() {
        let (units, _queue) = units();
        let frames = Frames::new(units, 1, "10.0.0.7".into());
        let now = Instant::now();
        assert!((0..FRAMES_PER_S_MAX).all(|_| frames.has_room(now)));
        assert!(!frames.has_room(now) && frames.has_room(now + SECOND));
    }
}
