//! Rectangles in pixels of a frame.

use std::fmt;

/// Half-open rectangle in whole pixels: `x0 <= x < x1`, `y0 <= y < y1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rect {
    /// Left, inside.
    pub x0: u32,
    /// Top, inside.
    pub y0: u32,
    /// Right, outside.
    pub x1: u32,
    /// Bottom, outside.
    pub y1: u32,
}

impl Rect {
    /// The rectangle with corners (x0, y0) and (x1, y1).
    pub const fn new(x0: u32, y0: u32, x1: u32, y1: u32) -> Self {
        Self { x0, y0, x1, y1 }
    }

    /// Width in pixels; 0 when the corners are swapped.
    pub const fn width(&self) -> u32 {
        self.x1.saturating_sub(self.x0)
    }

    /// Height in pixels; 0 when the corners are swapped.
    pub const fn height(&self) -> u32 {
        self.y1.saturating_sub(self.y0)
    }

    /// True when no pixel lies inside.
    pub const fn is_empty(&self) -> bool {
        self.width() == 0 || self.height() == 0
    }

    /// The part that both rectangles cover; empty when they do not touch.
    #[must_use]
    pub fn intersect(&self, other: &Self) -> Self {
        Self::new(self.x0.max(other.x0), self.y0.max(other.y0), self.x1.min(other.x1), self.y1.min(other.y1))
    }

    /// True when every pixel of `other` lies inside `self`.
    pub const fn contains(&self, other: &Self) -> bool {
        self.x0 <= other.x0 && self.y0 <= other.y0 && self.x1 >= other.x1 && self.y1 >= other.y1
    }
}

impl fmt::Display for Rect {
    /// As a recipe writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {}, {}, {}]", self.x0, self.y0, self.x1, self.y1)
    }
}

/// Box in fractional pixels of a frame, as a detection leaves it after scaling.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BoxPx {
    /// Left.
    pub x0: f32,
    /// Top.
    pub y0: f32,
    /// Right.
    pub x1: f32,
    /// Bottom.
    pub y1: f32,
}

impl BoxPx {
    /// The box with corners (x0, y0) and (x1, y1).
    pub const fn new(x0: f32, y0: f32, x1: f32, y1: f32) -> Self {
        Self { x0, y0, x1, y1 }
    }

    /// Width in pixels, never negative.
    pub fn width(&self) -> f32 {
        (self.x1 - self.x0).max(0.0)
    }

    /// Height in pixels, never negative.
    pub fn height(&self) -> f32 {
        (self.y1 - self.y0).max(0.0)
    }

    /// Area in square pixels.
    pub fn area(&self) -> f32 {
        self.width() * self.height()
    }

    /// The smallest box that holds both.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self::new(self.x0.min(other.x0), self.y0.min(other.y0), self.x1.max(other.x1), self.y1.max(other.y1))
    }

    /// Area of the overlap in square pixels; 0 when they do not touch.
    pub fn overlap(&self, other: &Self) -> f32 {
        let w = self.x1.min(other.x1) - self.x0.max(other.x0);
        let h = self.y1.min(other.y1) - self.y0.max(other.y0);
        w.max(0.0) * h.max(0.0)
    }

    /// Intersection over union, 0..=1; 0 for two empty boxes.
    pub fn iou(&self, other: &Self) -> f32 {
        let both = self.overlap(other);
        let all = self.area() + other.area() - both;
        if all > 0.0 { both / all } else { 0.0 }
    }
}
