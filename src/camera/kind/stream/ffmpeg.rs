//! FFmpeg's libraries: RTSP and other streams, and video files.
//!
//! ```text
//! demuxer --packet--> whole? --> decoder, which stops at errors --frame--> whole? --> RGB picture
//!                       '-- broken ---------------------------'-- broken: until the next key frame
//! ```
//!
//! A decoder conceals what is missing: it fills the rest of a cut picture, and every picture that is predicted
//! from a broken one is broken, too. So damaged packets, errors of the decoder and frames that it concealed are
//! broken pictures, and so is all that follows up to a key frame; many in a row are a fault, after which the stream
//! is opened anew. A picture of another size than the first is a fault at once, never a stretched picture.
//!
//! H.264 and H.265 have no checksum: damage that is another valid stream is not seen. RTSP goes over TCP. A file is a recording: its pictures carry the times of the film, counted from when it was
//! opened. Rotation that a film asks for is ignored: regions of a pipeline are about the sensor's pixels.

use crate::address::{scrubbed, shown};
use crate::camera::decode::check_camera_jpeg;
use crate::camera::device::{BROKEN_MAX, Device, DeviceError, Picture, Reading, Stamp, monotonic_ns};
use ffmpeg_next as ffmpeg;
use ffmpeg_next::ffi;
use ffmpeg_next::format::context::Input;
use ffmpeg_next::software::scaling;
use ffmpeg_next::util::format::Pixel;
use ffmpeg_next::util::frame::Video;
use image::RgbImage;
use std::ffi::{CString, c_int, c_void};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The moment, on the monotonic clock in nanoseconds, at which a call into the library gives up; 0: never.
type GiveUp = Box<AtomicU64>;

/// Opens a stream or a file; `live`: its pictures come by themselves.
///
/// # Errors
/// Nothing answers within the timeout, or it is no video.
pub(super) fn open(
    url: &str,
    live: bool,
    open_timeout: Duration,
    read_timeout: Duration,
) -> Result<Box<dyn Device>, DeviceError> {
    // What the library says may repeat the URL.
    let refused = |reason: String| DeviceError::Open { what: shown(url), reason: scrubbed(&reason, url) };
    let mut film = Film::open(url, open_timeout).map_err(refused)?;
    film.read_timeout = read_timeout;
    let opened = Stamp::now();
    Ok(Box::new(Stream { film, url: url.to_owned(), live, opened, number: 0, broken: 0 }))
}

struct Stream {
    film: Film,
    url: String,
    live: bool,
    opened: Stamp,
    number: u64,
    /// Broken pictures in a row.
    broken: u32,
}

impl Device for Stream {
    /// The library has no limit for this wait: the read timeout of the settings holds.
    fn next(&mut self, _wait: Duration) -> Result<Reading, DeviceError> {
        let (what, url) = (shown(&self.url), &self.url);
        let failed =
            |reason: String| DeviceError::Read { what: what.clone(), reason: scrubbed(&reason, url) };
        let (pixels, film_ns) = match self.film.next().map_err(failed)? {
            Step::Picture { pixels, at_ns } => (pixels, at_ns),
            Step::Ended if !self.live => return Ok(Reading::Ended),
            Step::Ended => return Err(failed("the stream has ended".into())),
            Step::Broken(reason) => {
                self.broken += 1;
                tracing::warn!(stream = %what, reason = %scrubbed(&reason, url), "a broken picture");
                if self.broken > BROKEN_MAX && self.live {
                    return Err(failed(format!("{} pictures in a row were broken: {reason}", self.broken)));
                }
                return Ok(Reading::Late);
            }
        };
        self.broken = 0;
        let stamp = if self.live {
            Stamp::now()
        } else {
            Stamp { monotonic_ns: self.opened.monotonic_ns + film_ns, unix_ns: self.opened.unix_ns + film_ns }
        };
        let number = self.number;
        self.number += 1;
        Ok(Reading::Picture(Picture { pixels, stamp, number }))
    }

    fn is_recording(&self) -> bool {
        !self.live
    }
}

/// What one look at a film gives.
enum Step {
    Picture {
        pixels: RgbImage,
        /// Since the film's beginning.
        at_ns: u64,
    },
    /// A picture that is not what the camera saw.
    Broken(String),
    Ended,
}

/// An open demuxer with the decoder of its first video stream.
struct Film {
    // Dropped before `give_up`, which its calls look at.
    input: Input,
    decoder: ffmpeg::decoder::Video,
    give_up: GiveUp,
    read_timeout: Duration,
    stream: usize,
    is_jpeg: bool,
    /// Length of a tick of its times, in nanoseconds, and the first time.
    tick_ns: f64,
    start: i64,
    /// Of its first picture.
    size: Option<(u32, u32)>,
    /// Something was broken: what is predicted from it is, too.
    wants_key: bool,
    scaler: Option<(Pixel, scaling::Context)>,
}

impl Film {
    fn open(url: &str, timeout: Duration) -> Result<Self, String> {
        ffmpeg::init().map_err(|e| e.to_string())?;
        ffmpeg::util::log::set_level(ffmpeg::util::log::Level::Quiet);
        let give_up = GiveUp::new(AtomicU64::new(0));
        let words = |e: ffmpeg::Error| format!("ffmpeg finds no video there: {e}");
        within(&give_up, timeout);
        let input = input(url, &give_up).map_err(words)?;
        let stream = input.streams().best(ffmpeg::media::Type::Video);
        let stream = stream.ok_or("ffmpeg finds no video there: it has no video stream")?;
        let base = stream.time_base();
        let tick_ns = 1e9 * f64::from(base.numerator()) / f64::from(base.denominator().max(1));
        let (index, start) = (stream.index(), stream.start_time());
        let mut context =
            ffmpeg::codec::context::Context::from_parameters(stream.parameters()).map_err(words)?;
        let is_jpeg = context.id() == ffmpeg::codec::Id::MJPEG;
        // SAFETY: the context is ours, and not open yet. Threads for slices only: those for frames would make
        // every picture some pictures old.
        unsafe {
            let raw = context.as_mut_ptr();
            (*raw).err_recognition |=
                (ffi::AV_EF_CRCCHECK | ffi::AV_EF_BITSTREAM | ffi::AV_EF_BUFFER | ffi::AV_EF_EXPLODE)
                    as c_int;
            (*raw).thread_type = ffi::FF_THREAD_SLICE as c_int;
            (*raw).thread_count = 0;
        }
        let decoder = context.decoder().video().map_err(words)?;
        Ok(Self {
            input,
            decoder,
            give_up,
            read_timeout: timeout,
            stream: index,
            is_jpeg,
            tick_ns,
            start: if start == ffi::AV_NOPTS_VALUE { 0 } else { start },
            size: None,
            wants_key: false,
            scaler: None,
        })
    }

    /// The next picture, broken one, or the end.
    ///
    /// # Errors
    /// The stream is of no use any more.
    fn next(&mut self) -> Result<Step, String> {
        within(&self.give_up, self.read_timeout);
        let mut frame = Video::empty();
        loop {
            match self.decoder.receive_frame(&mut frame) {
                Ok(()) => return self.picture(&frame),
                Err(ffmpeg::Error::Eof) => return Ok(Step::Ended),
                Err(ffmpeg::Error::Other { errno: ffmpeg::error::EAGAIN }) => {}
                Err(error) => return Ok(self.broken(format!("the decoder says: {error}"))),
            }
            let mut packet = ffmpeg::Packet::empty();
            match packet.read(&mut self.input) {
                Ok(()) if packet.stream() != self.stream => {}
                Ok(()) => {
                    if let Err(reason) = self.send(&packet) {
                        return Ok(self.broken(reason));
                    }
                }
                Err(ffmpeg::Error::Eof) => {
                    // What it holds back comes out; a decoder that has nothing says so at the next look.
                    let _ = self.decoder.send_eof();
                }
                Err(ffmpeg::Error::Exit) => return Err("its timeout has passed".into()),
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    /// Hands a packet to the decoder, or says what is wrong with it.
    fn send(&mut self, packet: &ffmpeg::Packet) -> Result<(), String> {
        if packet.is_corrupt() {
            return Err("a packet is incomplete".into());
        }
        if self.is_jpeg {
            check_camera_jpeg(packet.data().unwrap_or_default())?;
        }
        self.decoder.send_packet(packet).map_err(|e| format!("the decoder says: {e}"))
    }

    /// A key frame that comes after this one ends what follows from it.
    fn broken(&mut self, reason: String) -> Step {
        self.wants_key = true;
        // What it still holds back was not judged, and its key frame must not end the wait.
        self.decoder.flush();
        Step::Broken(reason)
    }

    fn picture(&mut self, frame: &Video) -> Result<Step, String> {
        // SAFETY: a field of a frame that lives.
        let flags = unsafe { (*frame.as_ptr()).decode_error_flags };
        if frame.is_corrupt() || flags != 0 {
            return Ok(self.broken("the decoder filled in what was missing".into()));
        }
        if self.wants_key && !frame.is_key() {
            return Ok(Step::Broken("it is predicted from a broken picture".into()));
        }
        self.wants_key = false;
        let (width, height) = (frame.width(), frame.height());
        let (w, h) = *self.size.get_or_insert((width, height));
        if (w, h) != (width, height) {
            return Err(format!("its pictures changed from {w}x{h} to {width}x{height} pixels"));
        }
        let pixels = self.rgb(frame).map_err(|e| format!("a picture cannot be converted: {e}"))?;
        let ticks = frame.timestamp().unwrap_or(self.start).saturating_sub(self.start).max(0);
        Ok(Step::Picture { pixels, at_ns: (ticks as f64 * self.tick_ns) as u64 })
    }

    fn rgb(&mut self, frame: &Video) -> Result<RgbImage, ffmpeg::Error> {
        let (width, height, format) = (frame.width(), frame.height(), frame.format());
        if self.scaler.as_ref().is_none_or(|(of, _)| *of != format) {
            let flags = scaling::Flags::BICUBIC;
            let scaler = scaling::Context::get(format, width, height, Pixel::RGB24, width, height, flags)?;
            self.scaler = Some((format, scaler));
        }
        let mut rgb = Video::empty();
        if let Some((_, scaler)) = &mut self.scaler {
            scaler.run(frame, &mut rgb)?;
        }
        let row = 3 * width as usize;
        let rows = rgb.data(0).chunks(rgb.stride(0).max(1)).take(height as usize);
        let bytes: Vec<u8> = rows.flat_map(|line| line.get(..row).unwrap_or_default()).copied().collect();
        RgbImage::from_raw(width, height, bytes).ok_or(ffmpeg::Error::InvalidData)
    }
}

/// Lets the calls that follow wait so long.
fn within(give_up: &GiveUp, timeout: Duration) {
    let at = monotonic_ns().saturating_add(timeout.as_nanos() as u64);
    give_up.store(at, Ordering::Relaxed);
}

/// Asked by the library while it waits.
extern "C" fn is_over(give_up: *mut c_void) -> c_int {
    // SAFETY: `input` hands over the number that `Film` keeps for longer than the demuxer.
    let at = unsafe { &*give_up.cast::<AtomicU64>() }.load(Ordering::Relaxed);
    c_int::from(at != 0 && monotonic_ns() > at)
}

/// Opens the demuxer and looks at its streams.
fn input(url: &str, give_up: &GiveUp) -> Result<Input, ffmpeg::Error> {
    let url = CString::new(url).map_err(|_| ffmpeg::Error::InvalidData)?;
    let mut options = ffmpeg::Dictionary::new();
    options.set("rtsp_transport", "tcp");
    // SAFETY: the context is allocated here and either freed by a failing open, or owned by `Input` from then on;
    // the options are taken back, with what the demuxer left of them, before they are freed.
    unsafe {
        let mut context = ffi::avformat_alloc_context();
        if context.is_null() {
            return Err(ffmpeg::Error::Other { errno: ffmpeg::error::ENOMEM });
        }
        (*context).interrupt_callback.callback = Some(is_over);
        (*context).interrupt_callback.opaque = std::ptr::from_ref::<AtomicU64>(give_up).cast_mut().cast();
        let mut raw = options.disown();
        let opened = ffi::avformat_open_input(&raw mut context, url.as_ptr(), std::ptr::null(), &raw mut raw);
        drop(ffmpeg::Dictionary::own(raw));
        if opened < 0 {
            return Err(ffmpeg::Error::from(opened));
        }
        let input = Input::wrap(context);
        let found = ffi::avformat_find_stream_info(context, std::ptr::null_mut());
        if found < 0 {
            return Err(ffmpeg::Error::from(found));
        }
        Ok(input)
    }
}
