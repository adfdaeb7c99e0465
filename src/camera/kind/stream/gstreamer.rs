//! OpenCV's `VideoCapture`: GStreamer pipelines (streams and files are `ffmpeg`'s).
//!
//! A pipeline that reads a file is a recording: its pictures carry the times of the film, counted from when it was
//! opened. What the elements of a pipeline fill in where a picture is broken cannot be seen from here.

use crate::address::{scrubbed, shown};
use crate::camera::device::{Device, DeviceError, Picture, Reading, Stamp};
use image::RgbImage;
use opencv::core::Mat;
use opencv::prelude::*;
use opencv::{imgproc, videoio};
use std::time::Duration;

struct Stream {
    capture: videoio::VideoCapture,
    url: String,
    live: bool,
    opened: Stamp,
    number: u64,
    bgr: Mat,
}

/// Opens a pipeline; `live`: its pictures come by themselves.
///
/// # Errors
/// It is no pipeline, or gives no video.
pub(super) fn open(url: &str, live: bool) -> Result<Box<dyn Device>, DeviceError> {
    // What OpenCV and the libraries below it say may repeat the URL.
    let refused = |reason: String| DeviceError::Open { what: shown(url), reason: scrubbed(&reason, url) };
    // A pipeline has its timeouts in its elements; the supervisor has its own.
    let capture =
        videoio::VideoCapture::from_file(url, videoio::CAP_GSTREAMER).map_err(|e| refused(e.message))?;
    if !capture.is_opened().map_err(|e| refused(e.message))? {
        return Err(refused("gstreamer finds no video there".into()));
    }
    let opened = Stamp::now();
    Ok(Box::new(Stream { capture, url: url.to_owned(), live, opened, number: 0, bgr: Mat::default() }))
}

impl Stream {
    fn picture(&mut self) -> opencv::Result<Option<Picture>> {
        if !self.capture.read(&mut self.bgr)? || self.bgr.empty() {
            return Ok(None);
        }
        let stamp = if self.live { Stamp::now() } else { self.film_time()? };
        let code = if self.bgr.channels() == 1 { imgproc::COLOR_GRAY2RGB } else { imgproc::COLOR_BGR2RGB };
        let mut rgb = Mat::default();
        imgproc::cvt_color_def(&self.bgr, &mut rgb, code)?;
        let (width, height) = (rgb.cols() as u32, rgb.rows() as u32);
        let pixels = RgbImage::from_raw(width, height, rgb.data_bytes()?.to_vec());
        let number = self.number;
        self.number += 1;
        Ok(pixels.map(|pixels| Picture { pixels, stamp, number }))
    }

    /// When the current picture would have been taken, had the film begun when it was opened.
    fn film_time(&self) -> opencv::Result<Stamp> {
        let ms = self.capture.get(videoio::CAP_PROP_POS_MSEC)?.max(0.0);
        let ns = (ms * 1e6) as u64;
        Ok(Stamp { monotonic_ns: self.opened.monotonic_ns + ns, unix_ns: self.opened.unix_ns + ns })
    }
}

impl Device for Stream {
    /// OpenCV has no limit for this wait: the supervisor's limit holds.
    fn next(&mut self, _wait: Duration) -> Result<Reading, DeviceError> {
        let reason = match self.picture() {
            Ok(Some(picture)) => return Ok(Reading::Picture(picture)),
            Ok(None) if !self.live => return Ok(Reading::Ended),
            Ok(None) => "the stream has ended or its timeout has passed".to_owned(),
            Err(error) => error.message,
        };
        Err(DeviceError::Read { what: shown(&self.url), reason: scrubbed(&reason, &self.url) })
    }

    fn is_recording(&self) -> bool {
        !self.live
    }
}
