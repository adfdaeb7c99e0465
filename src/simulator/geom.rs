//! Rectangles, perspective placement and random-number helpers.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Angles in radians with the digits that the generator has always drawn with.
///
/// The pictures of a seed depend on every digit: tiles and frames of known seeds are what models
/// were trained on and what scores are quoted for, so these are not rounded any better.
pub(super) mod angle {
    // Rounded circles are the point here, see above; clippy would put the exact constants in.
    #![allow(clippy::approx_constant)]

    pub(crate) const FULL_3: f32 = 6.283;
    pub(crate) const HALF_2: f32 = 3.14;
    pub(crate) const HALF_4: f32 = 3.1416;
    pub(crate) const RIGHT_2: f32 = 1.57;
    pub(crate) const RIGHT_3: f32 = 1.571;
    pub(crate) const RIGHT_4: f32 = 1.5708;
}

/// A point or vector in pixels.
pub(super) type P = [f32; 2];
/// The generator used everywhere.
pub(super) type Rand = ChaCha8Rng;

/// Generator for one image: same seed and index give the same stream.
pub(super) fn rand_for(seed: u64, index: u64) -> Rand {
    let mut r = ChaCha8Rng::seed_from_u64(seed);
    r.set_stream(index);
    r
}

/// Uniform draw from `a..b` (returns `a` when the range is empty).
pub(super) fn uni(r: &mut Rand, a: f32, b: f32) -> f32 {
    a + (b - a) * r.r#gen::<f32>()
}

/// True with probability `p`.
pub(super) fn chance(r: &mut Rand, p: f32) -> bool {
    r.r#gen::<f32>() < p
}

/// One element of a slice.
pub(super) fn pick<T: Copy>(r: &mut Rand, xs: &[T]) -> T {
    xs[r.gen_range(0..xs.len())]
}

/// Integer pixel rectangle, `x1`/`y1` exclusive.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rect {
    pub x0: i32,
    pub y0: i32,
    pub x1: i32,
    pub y1: i32,
}

impl Rect {
    /// A rectangle that contains nothing; grow it with `add`.
    pub(super) const EMPTY: Rect = Rect { x0: i32::MAX, y0: i32::MAX, x1: i32::MIN, y1: i32::MIN };

    /// The full image.
    pub(super) fn image(w: usize, h: usize) -> Rect {
        Rect { x0: 0, y0: 0, x1: w as i32, y1: h as i32 }
    }

    /// Smallest rectangle around the points, grown by `pad`.
    pub(super) fn around(points: &[P], pad: f32) -> Rect {
        let (mut a, mut b) = ([f32::MAX; 2], [f32::MIN; 2]);
        for p in points {
            for k in 0..2 {
                a[k] = a[k].min(p[k]);
                b[k] = b[k].max(p[k]);
            }
        }
        Rect {
            x0: (a[0] - pad).floor() as i32,
            y0: (a[1] - pad).floor() as i32,
            x1: (b[0] + pad).ceil() as i32,
            y1: (b[1] + pad).ceil() as i32,
        }
    }

    /// Grows to hold one pixel.
    pub(super) fn add(&mut self, x: i32, y: i32) {
        self.x0 = self.x0.min(x);
        self.y0 = self.y0.min(y);
        self.x1 = self.x1.max(x + 1);
        self.y1 = self.y1.max(y + 1);
    }

    /// Union of two rectangles (either may be empty).
    pub(super) fn union(self, o: Rect) -> Rect {
        Rect { x0: self.x0.min(o.x0), y0: self.y0.min(o.y0), x1: self.x1.max(o.x1), y1: self.y1.max(o.y1) }
    }

    /// Common part of two rectangles (may be empty).
    pub(super) fn clip(self, o: Rect) -> Rect {
        Rect { x0: self.x0.max(o.x0), y0: self.y0.max(o.y0), x1: self.x1.min(o.x1), y1: self.y1.min(o.y1) }
    }

    /// The rectangle grown on every side.
    pub(super) fn pad(self, n: i32) -> Rect {
        Rect { x0: self.x0 - n, y0: self.y0 - n, x1: self.x1 + n, y1: self.y1 + n }
    }

    /// True when it holds no pixel.
    pub(super) fn is_empty(&self) -> bool {
        self.x1 <= self.x0 || self.y1 <= self.y0
    }

    /// Width in pixels, zero when empty.
    pub(super) fn w(&self) -> i32 {
        self.x1.saturating_sub(self.x0).max(0)
    }

    /// Height in pixels, zero when empty.
    pub(super) fn h(&self) -> i32 {
        self.y1.saturating_sub(self.y0).max(0)
    }

    /// Number of pixels.
    pub(super) fn area(&self) -> i64 {
        i64::from(self.w()) * i64::from(self.h())
    }

    /// As `[x1, y1, x2, y2]` for the labels.
    pub(super) fn array(&self) -> [i32; 4] {
        [self.x0, self.y0, self.x1, self.y1]
    }
}

/// Places local coordinates in the image: rotation, mild perspective, shift.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub at: P,
    pub cos: f32,
    pub sin: f32,
    pub persp: P,
}

impl Place {
    /// Placement at `at` turned by `angle` radians.
    pub(super) fn new(at: P, angle: f32, persp: P) -> Place {
        Place { at, cos: angle.cos(), sin: angle.sin(), persp }
    }

    /// Local point to image point.
    pub(super) fn map(&self, p: P) -> P {
        let w = (1.0 + self.persp[0] * p[0] + self.persp[1] * p[1]).max(0.2);
        let (x, y) = (p[0] / w, p[1] / w);
        [self.at[0] + self.cos * x - self.sin * y, self.at[1] + self.sin * x + self.cos * y]
    }
}

/// A straight border of the part: the part lies where `side` is negative.
#[derive(Clone, Copy, Debug)]
pub(super) struct Edge {
    pub p: P,
    pub n: P,
}

impl Edge {
    /// Signed distance, positive outside the part.
    pub(super) fn side(&self, q: P) -> f32 {
        (q[0] - self.p[0]) * self.n[0] + (q[1] - self.p[1]) * self.n[1]
    }
}

/// Hermite step from 0 at `a` to 1 at `b`.
pub(super) fn smooth(a: f32, b: f32, x: f32) -> f32 {
    let t = ((x - a) / (b - a)).clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}
