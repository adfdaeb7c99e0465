//! Embedded outline fonts; licences are listed in assets/README.md.

use crate::simulator::geom::P;
use ab_glyph::{Font, FontRef, OutlineCurve};
use std::sync::OnceLock;
use tiny_skia::{Path, PathBuilder};

/// A font with its capital height in font units.
pub(crate) struct Face {
    font: FontRef<'static>,
    cap: f32,
}

/// All embedded fonts.
pub(crate) fn faces() -> &'static [Face] {
    static F: OnceLock<Vec<Face>> = OnceLock::new();
    F.get_or_init(|| {
        let files: [&'static [u8]; 6] = [
            include_bytes!("../assets/LiberationSans-Bold.ttf"),
            include_bytes!("../assets/LiberationMono-Bold.ttf"),
            include_bytes!("../assets/DejaVuSansMono.ttf"),
            include_bytes!("../assets/B612Mono-Regular.otf"),
            include_bytes!("../assets/BebasNeue-Bold.otf"),
            include_bytes!("../assets/OCRA.ttf"),
        ];
        files
            .into_iter()
            .filter_map(|b| FontRef::try_from_slice(b).ok())
            .filter_map(|font| {
                let b = font.outline(font.glyph_id('H'))?.bounds;
                Some(Face { cap: (b.max.y - b.min.y).abs(), font })
            })
            .collect()
    })
}

impl Face {
    /// Advance of a character at a capital height.
    pub(crate) fn advance(&self, c: char, cap: f32) -> f32 {
        self.font.h_advance_unscaled(self.font.glyph_id(c)) * cap / self.cap
    }

    /// Outline of a character with its baseline start at `at`, through `map`.
    pub(crate) fn path(&self, c: char, cap: f32, at: P, map: impl Fn(P) -> P) -> Option<Path> {
        let o = self.font.outline(self.font.glyph_id(c))?;
        let k = cap / self.cap;
        let m = |p: ab_glyph::Point| map([at[0] + p.x * k, at[1] - p.y * k]);
        let mut b = PathBuilder::new();
        let mut pen: Option<ab_glyph::Point> = None;
        for curve in &o.curves {
            let start = match curve {
                OutlineCurve::Line(a, _) | OutlineCurve::Quad(a, _, _) | OutlineCurve::Cubic(a, _, _, _) => {
                    *a
                }
            };
            if pen != Some(start) {
                if pen.is_some() {
                    b.close();
                }
                let p = m(start);
                b.move_to(p[0], p[1]);
            }
            match curve {
                OutlineCurve::Line(_, e) => {
                    let e1 = m(*e);
                    b.line_to(e1[0], e1[1]);
                    pen = Some(*e);
                }
                OutlineCurve::Quad(_, c1, e) => {
                    let (q, e1) = (m(*c1), m(*e));
                    b.quad_to(q[0], q[1], e1[0], e1[1]);
                    pen = Some(*e);
                }
                OutlineCurve::Cubic(_, c1, c2, e) => {
                    let (q1, q2, e1) = (m(*c1), m(*c2), m(*e));
                    b.cubic_to(q1[0], q1[1], q2[0], q2[1], e1[0], e1[1]);
                    pen = Some(*e);
                }
            }
        }
        b.close();
        b.finish()
    }
}
