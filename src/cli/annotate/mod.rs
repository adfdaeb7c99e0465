//! Annotated copies of frames: what an operator sees.
//!
//! ```text
//! frame --enlarged when small--> picture
//!                                  + strip above: verdict, reason, facts          (header)
//!                                  + heat where places are unlike those of good parts
//!                                  + boxes of defects in the colour of their grade
//!                                  + corners around regions of text
//!                                  + captions and readings beside them     (plate, place)
//!                                  + strip below: readings of no region           (footer)
//! ```
//!
//! Boxes and lines go first, words last, so that no line runs through a word. The strips stand outside
//! of the picture and hide nothing of it.

mod canvas;
mod footer;
mod header;
mod look;
mod place;
mod plate;

use crate::domain::finding::Finding;
use crate::domain::inspection::{HeatMap, Inspection};
use crate::domain::rect::{BoxPx, Rect};
use crate::domain::text::TextLine;
use canvas::{Canvas, Letters};
use footer::Footer;
use header::Header;
use image::RgbImage;
use image::imageops::FilterType;
use look::Scale;
use place::Space;
use plate::Plate;
use std::borrow::Cow;

/// Findings that get a caption, the worst first: more would cover the part.
const CAPTIONS_MAX: usize = 48;

/// An annotated copy of `frame`, below a strip with the verdict. Small frames are enlarged by a whole
/// factor. `text_rois` tells where the text prompts of the pipeline read, in pixels of the frame.
///
/// A frame without pixels, or too large to draw on, comes back as it is.
pub(super) fn annotate(frame: &RgbImage, inspection: &Inspection, text_rois: &[(String, Rect)]) -> RgbImage {
    let (width, height) = frame.dimensions();
    let scale = Scale::of(width, height);
    let picture = if scale.factor > 1 && width > 0 && height > 0 {
        let (w, h) = (width * scale.factor, height * scale.factor);
        Cow::Owned(image::imageops::resize(frame, w, h, FilterType::CatmullRom))
    } else {
        Cow::Borrowed(frame)
    };
    let letters = Letters::new();
    let (wide, high) = (px(picture.width()), px(picture.height()));
    let header = Header::new(inspection, wide, &scale, &letters);
    let (placed, unplaced) = readings(inspection, text_rois);
    let signs = unplaced.iter().map(|r| Plate::reading(r.prompt, &r.lines, &scale));
    let footer = Footer::new(signs.collect(), wide, &scale, &letters);
    let strips = (header.height_px, footer.height_px);
    let Some(mut canvas) = Canvas::new(&picture, strips, look::DARK, letters) else {
        return frame.clone();
    };
    header.draw(&mut canvas, inspection, wide, &scale);
    let top = px(header.height_px);
    let sheet = Sheet { scale, bounds: BoxPx::new(0.0, top, wide, top + high) };
    sheet.draw(&mut canvas, inspection, &placed);
    footer.draw(&mut canvas, top + high, &scale);
    canvas.into_picture()
}

/// What one prompt read, and where.
struct Reading<'i> {
    prompt: &'i str,
    lines: Vec<&'i TextLine>,
    region: Option<Rect>,
}

/// Texts by prompt: those whose region is known, and the others.
fn readings<'i>(
    inspection: &'i Inspection,
    text_rois: &[(String, Rect)],
) -> (Vec<Reading<'i>>, Vec<Reading<'i>>) {
    let mut readings: Vec<Reading<'i>> = Vec::new();
    for line in &inspection.texts {
        match readings.iter_mut().find(|r| r.prompt == line.prompt) {
            Some(reading) => reading.lines.push(line),
            None => {
                let region = text_rois.iter().find(|(id, _)| *id == line.prompt).map(|(_, r)| *r);
                readings.push(Reading { prompt: &line.prompt, lines: vec![line], region });
            }
        }
    }
    readings.into_iter().partition(|r| r.region.is_some())
}

#[expect(clippy::cast_precision_loss, reason = "sides of pictures are exact in f32")]
const fn px(side: u32) -> f32 {
    side as f32
}

/// The picture's place on the canvas.
struct Sheet {
    scale: Scale,
    bounds: BoxPx,
}

impl Sheet {
    fn draw(&self, canvas: &mut Canvas, inspection: &Inspection, readings: &[Reading<'_>]) {
        // The worst are drawn last, so that nothing lies over them, and captioned first.
        let mut worst_first: Vec<&Finding> = inspection.findings.iter().collect();
        worst_first.sort_by(|a, b| b.grade.cmp(&a.grade).then_with(|| b.confidence.total_cmp(&a.confidence)));
        let boxes: Vec<BoxPx> = worst_first.iter().map(|f| self.around(&f.bbox_px)).collect();
        let regions: Vec<(&Reading<'_>, BoxPx)> =
            readings.iter().filter_map(|r| Some((r, self.on_canvas(&r.region?)))).collect();

        if let Some(map) = &inspection.heat {
            self.heat(canvas, map);
        }
        for (reading, region) in &regions {
            self.corners(canvas, region, look::reading(&reading.lines));
        }
        for (finding, bbox) in worst_first.iter().zip(&boxes).rev() {
            self.frame_box(canvas, bbox, look::grade(finding.grade).0);
        }

        let readings = regions.iter().map(|(r, a)| (Plate::reading(r.prompt, &r.lines, &self.scale), *a));
        let captions = worst_first.iter().zip(&boxes).map(|(f, b)| (Plate::caption(f, &self.scale), *b));
        let signs: Vec<(Plate, BoxPx)> = readings.chain(captions.take(CAPTIONS_MAX)).collect();
        let anchors = boxes.iter().copied().chain(regions.iter().map(|(_, a)| *a)).collect();
        self.signs(canvas, signs, Space::new(self.inset(), anchors));
    }

    /// Covers the places of a heat map, the more the less they are like those of good parts.
    fn heat(&self, canvas: &mut Canvas, map: &HeatMap) {
        for (i, value) in map.values.iter().enumerate().filter(|(_, value)| **value >= look::HEAT_MIN) {
            let (col, row) = (i as u32 % map.cols, i as u32 / map.cols);
            let at = |n: u32| n * map.place_px;
            let place = Rect::new(at(col), at(row), at(col + 1), at(row + 1));
            canvas.fill(&self.on_canvas(&place), 0.0, look::heat(*value));
        }
    }

    /// Finds a place for every sign beside its anchor, and draws them.
    fn signs(&self, canvas: &mut Canvas, signs: Vec<(Plate, BoxPx)>, mut space: Space) {
        let gap = self.scale.line_px * 1.2;
        let room = self.inset().width().max(1.0);
        let mut placed = Vec::with_capacity(signs.len());
        for (plate, anchor) in signs {
            let plate = plate.shrink_to(room, &canvas.letters);
            let area = space.place(plate.size(&canvas.letters), &anchor, gap);
            self.leader(canvas, &area, &anchor);
            placed.push((plate, area));
        }
        for (plate, area) in &placed {
            plate.draw(canvas, area, &self.scale);
        }
    }

    fn on_canvas(&self, r: &Rect) -> BoxPx {
        self.map(&BoxPx::new(px(r.x0), px(r.y0), px(r.x1), px(r.y1)))
    }

    /// A box of the frame on the canvas, clipped to the picture.
    fn map(&self, b: &BoxPx) -> BoxPx {
        let f = px(self.scale.factor);
        let x = |v: f32| (self.bounds.x0 + v * f).clamp(self.bounds.x0, self.bounds.x1);
        let y = |v: f32| (self.bounds.y0 + v * f).clamp(self.bounds.y0, self.bounds.y1);
        BoxPx::new(x(b.x0), y(b.y0), x(b.x1), y(b.y1))
    }

    /// A little outside of a defect, so that the line does not hide its edge.
    fn around(&self, b: &BoxPx) -> BoxPx {
        let out = self.scale.line_px * 1.6;
        let b = self.map(b);
        let keep = self.scale.line_px;
        BoxPx::new(
            (b.x0 - out).max(self.bounds.x0 + keep),
            (b.y0 - out).max(self.bounds.y0 + keep),
            (b.x1 + out).min(self.bounds.x1 - keep),
            (b.y1 + out).min(self.bounds.y1 - keep),
        )
    }

    /// The picture without a thin rim: plates do not touch its edge.
    fn inset(&self) -> BoxPx {
        let rim = self.scale.line_px;
        BoxPx::new(self.bounds.x0 + rim, self.bounds.y0 + rim, self.bounds.x1 - rim, self.bounds.y1 - rim)
    }

    fn frame_box(&self, canvas: &mut Canvas, area: &BoxPx, ink: canvas::Ink) {
        let line = self.scale.line_px;
        canvas.edge(area, line * 1.5, line * 2.0, look::HALO);
        canvas.edge(area, line * 1.5, line, ink);
    }

    /// The four corners of a region: text is framed more lightly than defects.
    fn corners(&self, canvas: &mut Canvas, a: &BoxPx, ink: canvas::Ink) {
        let line = self.scale.line_px;
        let arm = (self.scale.font_px * 1.1).min(a.width() / 3.0).min(a.height() / 3.0);
        for (x, y, dx, dy) in [
            (a.x0, a.y0, arm, arm),
            (a.x1, a.y0, -arm, arm),
            (a.x0, a.y1, arm, -arm),
            (a.x1, a.y1, -arm, -arm),
        ] {
            let path = [(x + dx, y), (x, y), (x, y + dy)];
            canvas.lines(&path, line * 2.0, look::HALO);
            canvas.lines(&path, line, ink);
        }
    }

    /// A thin line from a plate to what it speaks of, where the two stand apart.
    fn leader(&self, canvas: &mut Canvas, plate: &BoxPx, anchor: &BoxPx) {
        let apart_x = (plate.x0 - anchor.x1).max(anchor.x0 - plate.x1).max(0.0);
        let apart_y = (plate.y0 - anchor.y1).max(anchor.y0 - plate.y1).max(0.0);
        if apart_x.hypot(apart_y) < self.scale.font_px * 0.8 {
            return;
        }
        let nearest = |low: f32, high: f32, to: f32| to.max(low).min(high);
        let (cx, cy) = (f32::midpoint(plate.x0, plate.x1), f32::midpoint(plate.y0, plate.y1));
        let to = (nearest(anchor.x0, anchor.x1, cx), nearest(anchor.y0, anchor.y1, cy));
        let from = (nearest(plate.x0, plate.x1, to.0), nearest(plate.y0, plate.y1, to.1));
        canvas.lines(&[from, to], self.scale.line_px * 1.1, look::HALO);
        canvas.lines(&[from, to], self.scale.line_px * 0.5, look::WHITE);
    }
}

#[cfg(test)]
mod tests;
