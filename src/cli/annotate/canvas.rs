//! The surface that annotations are drawn on: shapes by tiny-skia, letters by `ab_glyph`.
//!
//! Invariant: every pixel is opaque, so premultiplied and plain colours are the same bytes.

use crate::domain::rect::BoxPx;
use ab_glyph::{Font, FontRef, Glyph, PxScale, ScaleFont};
use image::RgbImage;
use tiny_skia::{Color, FillRule, LineCap, LineJoin, Paint, Path, PathBuilder, Pixmap, Stroke, Transform};

/// Liberation Sans Bold, SIL Open Font License 1.1.
const FONT: &[u8] = include_bytes!("../../simulator/assets/LiberationSans-Bold.ttf");
/// Control point of the cubic that stands for a quarter circle, as a share of its radius.
const QUARTER_CIRCLE: f32 = 0.552_284_8;

/// A colour: red, green, blue, opacity, each 0..=255.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ink(pub u8, pub u8, pub u8, pub u8);

impl Ink {
    /// The same colour, less opaque.
    pub(super) const fn alpha(self, alpha: u8) -> Self {
        Self(self.0, self.1, self.2, alpha)
    }

    fn paint(self) -> Paint<'static> {
        let mut paint = Paint { anti_alias: true, ..Paint::default() };
        paint.set_color(Color::from_rgba8(self.0, self.1, self.2, self.3));
        paint
    }
}

/// Measures words in the annotations' font.
#[derive(Clone)]
pub(super) struct Letters {
    font: FontRef<'static>,
}

impl Letters {
    /// The embedded font.
    pub(super) fn new() -> Self {
        let font = FontRef::try_from_slice(FONT);
        Self { font: font.expect("the embedded font is whole: it is part of the program") }
    }

    /// Width of a line of text in pixels; `size_px` is the height from the deepest to the highest letter.
    pub(super) fn width(&self, text: &str, size_px: f32) -> f32 {
        self.glyphs(text, size_px, 0.0, 0.0).1
    }

    /// The text, cut with an ellipsis where it would be wider than `width_px`.
    pub(super) fn fit(&self, text: &str, size_px: f32, width_px: f32) -> String {
        if self.width(text, size_px) <= width_px {
            return text.to_owned();
        }
        let mut kept: Vec<char> = text.chars().collect();
        while !kept.is_empty() {
            kept.pop();
            let cut: String = kept.iter().collect::<String>().trim_end().to_owned() + "…";
            if self.width(&cut, size_px) <= width_px {
                return cut;
            }
        }
        String::new()
    }

    /// Glyphs of a line whose top left is (x, top), and the line's width.
    fn glyphs(&self, text: &str, size_px: f32, x: f32, top: f32) -> (Vec<Glyph>, f32) {
        let font = self.font.as_scaled(PxScale::from(size_px));
        let baseline = top + font.ascent();
        let mut glyphs: Vec<Glyph> = Vec::new();
        let mut pen = x;
        for c in text.chars() {
            let id = font.glyph_id(c);
            if let Some(last) = glyphs.last() {
                pen += font.kern(last.id, id);
            }
            glyphs.push(id.with_scale_and_position(PxScale::from(size_px), ab_glyph::point(pen, baseline)));
            pen += font.h_advance(id);
        }
        (glyphs, pen - x)
    }
}

/// A picture that is being annotated.
pub(super) struct Canvas {
    pixels: Pixmap,
    pub letters: Letters,
}

impl Canvas {
    /// A canvas with `picture` between strips of `above_px` and `below_px` rows of one colour.
    /// `None` when the picture is empty or too large to be drawn on.
    pub(super) fn new(
        picture: &RgbImage,
        (above_px, below_px): (u32, u32),
        strip: Ink,
        letters: Letters,
    ) -> Option<Self> {
        let (width, height) = picture.dimensions();
        let mut pixels = Pixmap::new(width, height.checked_add(above_px)?.checked_add(below_px)?)?;
        pixels.fill(Color::from_rgba8(strip.0, strip.1, strip.2, 255));
        let start = above_px as usize * width as usize * 4;
        for (to, from) in pixels.data_mut()[start..].chunks_exact_mut(4).zip(picture.as_raw().chunks_exact(3))
        {
            to[..3].copy_from_slice(from);
            to[3] = 255;
        }
        Some(Self { pixels, letters })
    }

    /// The finished picture.
    pub(super) fn into_picture(self) -> RgbImage {
        let (width, height) = (self.pixels.width(), self.pixels.height());
        let pixels = self.pixels.data();
        RgbImage::from_fn(width, height, |x, y| {
            let at = (y as usize * width as usize + x as usize) * 4;
            image::Rgb([pixels[at], pixels[at + 1], pixels[at + 2]])
        })
    }

    /// Fills a box with rounded corners.
    pub(super) fn fill(&mut self, area: &BoxPx, radius_px: f32, ink: Ink) {
        if let Some(path) = rounded(area, radius_px) {
            self.pixels.fill_path(&path, &ink.paint(), FillRule::Winding, Transform::identity(), None);
        }
    }

    /// Draws the edge of a box with rounded corners; the line's middle runs along the box.
    pub(super) fn edge(&mut self, area: &BoxPx, radius_px: f32, width_px: f32, ink: Ink) {
        if let Some(path) = rounded(area, radius_px) {
            self.stroke(&path, width_px, ink);
        }
    }

    /// Draws connected lines.
    pub(super) fn lines(&mut self, points: &[(f32, f32)], width_px: f32, ink: Ink) {
        let mut path = PathBuilder::new();
        for (k, (x, y)) in points.iter().enumerate() {
            if k == 0 {
                path.move_to(*x, *y);
            } else {
                path.line_to(*x, *y);
            }
        }
        if let Some(path) = path.finish() {
            self.stroke(&path, width_px, ink);
        }
    }

    fn stroke(&mut self, path: &Path, width_px: f32, ink: Ink) {
        let stroke = Stroke {
            width: width_px,
            line_cap: LineCap::Round,
            line_join: LineJoin::Round,
            ..Stroke::default()
        };
        self.pixels.stroke_path(path, &ink.paint(), &stroke, Transform::identity(), None);
    }

    /// Writes a line of text with its top left at (x, top) and returns its width in pixels.
    pub(super) fn text(&mut self, text: &str, size_px: f32, x: f32, top: f32, ink: Ink) -> f32 {
        let (glyphs, text_width) = self.letters.glyphs(text, size_px, x, top);
        let (width, height) = (self.pixels.width(), self.pixels.height());
        let pixels = self.pixels.data_mut();
        for glyph in glyphs {
            let Some(outline) = self.letters.font.outline_glyph(glyph) else { continue };
            let corner = outline.px_bounds().min;
            outline.draw(|gx, gy, cover| {
                #[expect(clippy::cast_possible_truncation, reason = "pixel places of a picture are small")]
                let (px, py) = (corner.x as i64 + i64::from(gx), corner.y as i64 + i64::from(gy));
                let (Ok(px), Ok(py)) = (u32::try_from(px), u32::try_from(py)) else { return };
                if px < width && py < height {
                    let at = (py as usize * width as usize + px as usize) * 4;
                    blend(&mut pixels[at..at + 3], ink, cover);
                }
            });
        }
        text_width
    }
}

/// Lays `ink` over an opaque pixel; `cover` is the share of the pixel that the shape covers.
fn blend(pixel: &mut [u8], ink: Ink, cover: f32) {
    let opacity = cover.clamp(0.0, 1.0) * f32::from(ink.3) / 255.0;
    for (to, from) in pixel.iter_mut().zip([ink.0, ink.1, ink.2]) {
        let mixed = f32::from(*to) + (f32::from(from) - f32::from(*to)) * opacity;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between two bytes")]
        let mixed = mixed.round() as u8;
        *to = mixed;
    }
}

/// The outline of a box with rounded corners; `None` for a box without area or with odd numbers.
fn rounded(area: &BoxPx, radius_px: f32) -> Option<Path> {
    let BoxPx { x0, y0, x1, y1 } = *area;
    if area.width() <= 0.0 || area.height() <= 0.0 {
        return None;
    }
    let r = radius_px.min(area.width() / 2.0).min(area.height() / 2.0).max(0.0);
    let c = r * (1.0 - QUARTER_CIRCLE);
    let mut path = PathBuilder::new();
    path.move_to(x0 + r, y0);
    path.line_to(x1 - r, y0);
    path.cubic_to(x1 - c, y0, x1, y0 + c, x1, y0 + r);
    path.line_to(x1, y1 - r);
    path.cubic_to(x1, y1 - c, x1 - c, y1, x1 - r, y1);
    path.line_to(x0 + r, y1);
    path.cubic_to(x0 + c, y1, x0, y1 - c, x0, y1 - r);
    path.line_to(x0, y0 + r);
    path.cubic_to(x0, y0 + c, x0 + c, y0, x0 + r, y0);
    path.close();
    path.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;

    #[test]
    fn an_untouched_canvas_gives_the_picture_back_between_its_strips() {
        let picture = RgbImage::from_fn(5, 4, |x, y| Rgb([x as u8, y as u8, 77]));
        let canvas = Canvas::new(&picture, (3, 2), Ink(1, 2, 3, 255), Letters::new()).expect("drawable");
        let out = canvas.into_picture();
        assert_eq!(out.dimensions(), (5, 9));
        assert_eq!((out.get_pixel(4, 2), out.get_pixel(0, 7)), (&Rgb([1, 2, 3]), &Rgb([1, 2, 3])));
        assert!(picture.enumerate_pixels().all(|(x, y, p)| out.get_pixel(x, y + 3) == p));
    }

    #[test]
    fn an_empty_picture_has_no_canvas() {
        assert!(Canvas::new(&RgbImage::new(0, 4), (3, 0), Ink(0, 0, 0, 255), Letters::new()).is_none());
    }

    #[test]
    fn text_is_cut_to_its_width() {
        let letters = Letters::new();
        let all = letters.width("a long reason", 20.0);
        assert_eq!(letters.fit("a long reason", 20.0, all), "a long reason");
        let cut = letters.fit("a long reason", 20.0, all / 2.0);
        assert!(cut.ends_with('…') && letters.width(&cut, 20.0) <= all / 2.0, "{cut}");
        assert_eq!(letters.fit("a", 20.0, 1.0), "");
    }

    #[test]
    fn text_beyond_the_edge_is_clipped_not_a_panic() {
        let mut canvas =
            Canvas::new(&RgbImage::new(8, 8), (0, 0), Ink(0, 0, 0, 255), Letters::new()).expect("drawable");
        canvas.text("WWW", 30.0, -20.0, -9.0, Ink(255, 255, 255, 255));
        canvas.fill(&BoxPx::new(-50.0, f32::NAN, 90.0, 4.0), 3.0, Ink(255, 0, 0, 255));
        canvas.edge(&BoxPx::new(-50.0, -50.0, 900.0, 400.0), 3.0, 2.0, Ink(255, 0, 0, 255));
        assert!(canvas.into_picture().pixels().any(|p| p.0 != [0, 0, 0]));
    }
}
