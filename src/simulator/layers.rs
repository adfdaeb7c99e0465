//! The scene before lighting: colour, relief and gloss per pixel, and coverage masks.

use crate::simulator::geom::{P, Rect};
use tiny_skia::{FillRule, Path, PathBuilder, Transform};

/// Per-pixel material of the scene.
pub(super) struct Layers {
    pub w: usize,
    pub h: usize,
    pub albedo: Vec<[f32; 3]>,
    pub height: Vec<f32>,
    pub gloss: Vec<f32>,
}

/// A saved rectangle of the layers.
pub(super) struct Patch {
    rect: Rect,
    albedo: Vec<[f32; 3]>,
    height: Vec<f32>,
    gloss: Vec<f32>,
}

impl Layers {
    /// Flat grey layers.
    pub(super) fn new(w: usize, h: usize) -> Layers {
        Layers { w, h, albedo: vec![[0.5; 3]; w * h], height: vec![0.0; w * h], gloss: vec![1.0; w * h] }
    }

    /// The whole image rectangle.
    pub(super) fn rect(&self) -> Rect {
        Rect::image(self.w, self.h)
    }

    /// Saves a rectangle (clipped to the image).
    pub(super) fn save(&self, rect: Rect) -> Patch {
        let rect = rect.clip(self.rect());
        let mut p = Patch { rect, albedo: vec![], height: vec![], gloss: vec![] };
        for y in rect.y0..rect.y1 {
            let (a, b) =
                (y as usize * self.w + rect.x0 as usize, y as usize * self.w + rect.x1.max(rect.x0) as usize);
            p.albedo.extend_from_slice(&self.albedo[a..b]);
            p.height.extend_from_slice(&self.height[a..b]);
            p.gloss.extend_from_slice(&self.gloss[a..b]);
        }
        p
    }

    /// Puts a saved rectangle back.
    pub(super) fn restore(&mut self, p: &Patch) {
        let n = p.rect.w() as usize;
        for (k, y) in (p.rect.y0..p.rect.y1).enumerate() {
            let a = y as usize * self.w + p.rect.x0 as usize;
            self.albedo[a..a + n].copy_from_slice(&p.albedo[k * n..(k + 1) * n]);
            self.height[a..a + n].copy_from_slice(&p.height[k * n..(k + 1) * n]);
            self.gloss[a..a + n].copy_from_slice(&p.gloss[k * n..(k + 1) * n]);
        }
    }

    /// Calls `f(index, x, y)` for every pixel of a rectangle inside the image.
    pub(super) fn each(&mut self, rect: Rect, mut f: impl FnMut(&mut Layers, usize, f32, f32)) {
        let r = rect.clip(self.rect());
        for y in r.y0..r.y1 {
            for x in r.x0..r.x1 {
                f(self, y as usize * self.w + x as usize, x as f32 + 0.5, y as f32 + 0.5);
            }
        }
    }

    /// Mixes the colour of a pixel towards `c`.
    pub(super) fn tint(&mut self, i: usize, c: [f32; 3], a: f32) {
        for (v, c) in self.albedo[i].iter_mut().zip(c) {
            *v += (c - *v) * a;
        }
    }

    /// Multiplies the colour of a pixel.
    pub(super) fn scale(&mut self, i: usize, s: f32) {
        for v in &mut self.albedo[i] {
            *v *= s;
        }
    }
}

/// Coverage 0..1 over a rectangle.
#[derive(Clone)]
pub(super) struct Mask {
    pub rect: Rect,
    pub a: Vec<f32>,
}

impl Mask {
    /// Empty coverage.
    pub(super) fn new(rect: Rect) -> Mask {
        Mask { rect, a: vec![0.0; rect.area().max(0) as usize] }
    }

    /// Anti-aliased fill of a path, kept within `clip`.
    pub(super) fn fill(path: &Path, pad: i32, clip: Rect) -> Mask {
        let b = path.bounds();
        let rect = Rect::around(&[[b.left(), b.top()], [b.right(), b.bottom()]], 1.0).pad(pad).clip(clip);
        let mut out = Mask::new(if rect.is_empty() { Rect { x0: 0, y0: 0, x1: 0, y1: 0 } } else { rect });
        if let Some(mut m) = tiny_skia::Mask::new(out.rect.w() as u32, out.rect.h() as u32) {
            let t = Transform::from_translate(-out.rect.x0 as f32, -out.rect.y0 as f32);
            m.fill_path(path, FillRule::Winding, true, t);
            for (o, v) in out.a.iter_mut().zip(m.data()) {
                *o = f32::from(*v) / 255.0;
            }
        }
        out
    }

    /// Fill of a closed polygon.
    pub(super) fn polygon(pts: &[P], pad: i32, clip: Rect) -> Mask {
        match polygon_path(pts) {
            Some(p) => Mask::fill(&p, pad, clip),
            None => Mask::new(Rect { x0: 0, y0: 0, x1: 0, y1: 0 }),
        }
    }

    /// Coverage at a pixel, zero outside.
    pub(super) fn get(&self, x: i32, y: i32) -> f32 {
        let r = self.rect;
        if x < r.x0 || y < r.y0 || x >= r.x1 || y >= r.y1 {
            return 0.0;
        }
        self.a[((y - r.y0) * r.w() + x - r.x0) as usize]
    }

    /// Combines another mask into this one by maximum.
    pub(super) fn merge(&mut self, o: &Mask) {
        let r = o.rect.clip(self.rect);
        for y in r.y0..r.y1 {
            for x in r.x0..r.x1 {
                let i = ((y - self.rect.y0) * self.rect.w() + x - self.rect.x0) as usize;
                self.a[i] = self.a[i].max(o.get(x, y));
            }
        }
    }

    /// `n` passes of a 1-2-1 blur.
    pub(super) fn soften(&self, n: usize) -> Mask {
        let (w, h) = (self.rect.w() as usize, self.rect.h() as usize);
        let mut m = self.clone();
        if w < 3 || h < 3 {
            return m;
        }
        let mut t = m.a.clone();
        for _ in 0..n {
            for y in 0..h {
                let (s, d) = (&m.a[y * w..(y + 1) * w], &mut t[y * w..(y + 1) * w]);
                for x in 1..w - 1 {
                    d[x] = 0.25 * s[x - 1] + 0.5 * s[x] + 0.25 * s[x + 1];
                }
                d[0] = 0.75 * s[0] + 0.25 * s[1];
                d[w - 1] = 0.75 * s[w - 1] + 0.25 * s[w - 2];
            }
            for y in 0..h {
                let (u, v) = (y.saturating_sub(1) * w, (y + 1).min(h - 1) * w);
                for x in 0..w {
                    m.a[y * w + x] = 0.25 * t[u + x] + 0.5 * t[y * w + x] + 0.25 * t[v + x];
                }
            }
        }
        m
    }

    /// Tight bounds of the coverage above `min`.
    pub(super) fn bounds(&self, min: f32) -> Rect {
        let mut r = Rect::EMPTY;
        let w = self.rect.w().max(1);
        for (i, a) in self.a.iter().enumerate() {
            if *a > min {
                r.add(self.rect.x0 + i as i32 % w, self.rect.y0 + i as i32 / w);
            }
        }
        r
    }

    /// Calls `f(layers, index, x, y, coverage)` where there is coverage.
    pub(super) fn paint(&self, l: &mut Layers, mut f: impl FnMut(&mut Layers, usize, f32, f32, f32)) {
        let r = self.rect.clip(l.rect());
        for y in r.y0..r.y1 {
            for x in r.x0..r.x1 {
                let a = self.a[((y - self.rect.y0) * self.rect.w() + x - self.rect.x0) as usize];
                if a > 0.004 {
                    f(l, y as usize * l.w + x as usize, x as f32 + 0.5, y as f32 + 0.5, a);
                }
            }
        }
    }
}

/// Closed path through the points.
pub(super) fn polygon_path(pts: &[P]) -> Option<Path> {
    let mut b = PathBuilder::new();
    for (i, p) in pts.iter().enumerate() {
        if i == 0 {
            b.move_to(p[0], p[1]);
        } else {
            b.line_to(p[0], p[1]);
        }
    }
    b.close();
    b.finish()
}

/// Polygon of a line whose width at `t` in 0..1 is `width(t)`.
pub(super) fn ribbon(pts: &[P], width: impl Fn(f32) -> f32) -> Vec<P> {
    let n = pts.len();
    let mut left = Vec::with_capacity(2 * n);
    let mut right = Vec::with_capacity(n);
    for i in 0..n {
        let (a, b) = (pts[i.saturating_sub(1)], pts[(i + 1).min(n - 1)]);
        let (dx, dy) = (b[0] - a[0], b[1] - a[1]);
        let len = (dx * dx + dy * dy).sqrt().max(1e-3);
        let h = 0.5 * width(i as f32 / (n - 1).max(1) as f32);
        left.push([pts[i][0] - dy / len * h, pts[i][1] + dx / len * h]);
        right.push([pts[i][0] + dy / len * h, pts[i][1] - dx / len * h]);
    }
    right.reverse();
    left.extend(right);
    left
}
