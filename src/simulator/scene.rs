//! A scene under construction: layers, light, camera and the truth so far.

use crate::simulator::geom::{Edge, P, Rand, Rect, uni};
use crate::simulator::label::{Defect, Text, severity};
use crate::simulator::layers::Layers;
use crate::simulator::light::Lighting;
use crate::simulator::sensor::Sensor;
use crate::simulator::surface::{Look, Surface};

/// Everything about one picture.
pub(super) struct Scene {
    pub layers: Layers,
    pub surface: Surface,
    pub light: Lighting,
    pub sensor: Sensor,
    /// Pixels per reference pixel (1 for a 256-pixel tile).
    pub unit: f32,
    /// Borders of the part.
    pub edges: Vec<Edge>,
    /// Colour beyond the borders.
    pub void: [f32; 3],
    pub defects: Vec<Defect>,
    pub texts: Vec<Text>,
    /// Places that new things should avoid.
    pub busy: Vec<Rect>,
}

/// How strongly a change must show to count.
#[derive(Clone, Copy)]
pub(super) struct Need {
    /// Smallest display difference.
    pub floor: f32,
    /// Weight of the texture and noise around it.
    pub texture: f32,
    /// Part of the peak difference that bounds the box.
    pub frac: f32,
}

impl Scene {
    /// A clean surface with random light and camera.
    pub(super) fn new(w: usize, h: usize, unit: f32, surface: Surface, r: &mut Rand) -> Scene {
        let (fw, fh) = (w as f32, h as f32);
        let mut layers = Layers::new(w, h);
        let look = Look::random(surface, r, fw, fh, unit);
        look.paint(&mut layers, r, unit);
        let light = look.light(r, fw, fh);
        let sensor = Sensor::random(r);
        Scene::of(layers, surface, light, sensor, unit)
    }

    /// A clean surface that is already painted, under a light and a camera.
    pub(super) fn of(layers: Layers, surface: Surface, light: Lighting, sensor: Sensor, unit: f32) -> Scene {
        Scene {
            layers,
            surface,
            light,
            sensor,
            unit,
            edges: vec![],
            void: [0.05; 3],
            defects: vec![],
            texts: vec![],
            busy: vec![],
        }
    }

    /// Automatic exposure: neither mostly white nor nearly black, with room for a few hot spots.
    pub(super) fn auto_expose(&mut self, r: &mut Rand) {
        let white = uni(r, 0.02, 0.22);
        let (w, h) = (self.layers.w as i32, self.layers.h as i32);
        for _ in 0..10 {
            let (mut over, mut sum, mut n) = (0.0, 0.0, 0.0);
            for gy in 0..12 {
                for gx in 0..12 {
                    let (x, y) = ((2 * gx + 1) * w / 24, (2 * gy + 1) * h / 24);
                    if self.edges.iter().any(|e| e.side([x as f32, y as f32]) > 0.0) {
                        continue;
                    }
                    let c = self.shade(Rect { x0: x, y0: y, x1: x + 1, y1: y + 1 })[0];
                    let v = 0.3 * c[0] + 0.59 * c[1] + 0.11 * c[2];
                    over += i32::from(v > 0.93) as f32;
                    sum += v;
                    n += 1.0;
                }
            }
            if n > 0.0 && (over / n > white || sum / n > 0.78) {
                self.light.gain *= 0.93;
                self.light.glare_gain *= 0.88;
            } else if n > 0.0 && sum / n < 0.22 {
                self.light.gain *= 1.15;
            } else {
                return;
            }
        }
    }

    /// True when a point is on the part, `margin` pixels from its border and the image border.
    pub(super) fn inside(&self, p: P, margin: f32) -> bool {
        let (w, h) = (self.layers.w as f32, self.layers.h as f32);
        let m = margin.min(0.3 * w.min(h));
        p[0] >= m
            && p[1] >= m
            && p[0] <= w - m
            && p[1] <= h - m
            && self.edges.iter().all(|e| e.side(p) < -margin)
    }

    /// True when a rectangle touches nothing in `busy`.
    pub(super) fn free(&self, r: Rect) -> bool {
        self.busy.iter().all(|b| r.clip(*b).is_empty())
    }

    /// Shaded values of a rectangle.
    pub(super) fn shade(&self, rect: Rect) -> Vec<[f32; 3]> {
        let mut v = Vec::with_capacity(rect.area().max(0) as usize);
        self.light.shade(&self.layers, rect, &mut v);
        v
    }

    /// Draws a change; keeps it and returns its tight box if it shows, else undoes it.
    pub(super) fn change(&mut self, roi: Rect, need: Need, draw: impl FnOnce(&mut Layers)) -> Option<Rect> {
        let roi = roi.clip(self.layers.rect());
        if roi.is_empty() {
            return None;
        }
        let saved = self.layers.save(roi);
        let before = self.shade(roi);
        draw(&mut self.layers);
        let after = self.shade(roi);
        match self.seen(roi, &before, &after, need) {
            Some(r) => Some(r),
            None => {
                self.layers.restore(&saved);
                None
            }
        }
    }

    /// Box of the visible difference of two shadings, if strong enough.
    fn seen(&self, roi: Rect, before: &[[f32; 3]], after: &[[f32; 3]], need: Need) -> Option<Rect> {
        let d: Vec<f32> = before.iter().zip(after).map(|(a, b)| differ(a, b)).collect();
        let mut changed: Vec<f32> = d.iter().copied().filter(|v| *v > 0.012).collect();
        if changed.len() < 4 {
            return None;
        }
        let k = changed.len() * 85 / 100;
        let peak = *changed.select_nth_unstable_by(k, f32::total_cmp).1;
        let w = roi.w() as usize;
        let (mut sum, mut n, mut mean) = (0.0f32, 1.0f32, 0.0f32);
        for (i, v) in before.iter().enumerate() {
            mean += v[1];
            if i % w > 0 && d[i] > 0.012 {
                sum += (v[1] - before[i - 1][1]).powi(2);
                n += 1.0;
            }
        }
        let noise = self.sensor.sigma(mean / before.len() as f32) + (0.5 * sum / n).sqrt();
        let soft = 1.0 + self.sensor.blur;
        if peak < soft * (need.floor.max(need.texture * noise) + 0.5 * need.floor) {
            return None;
        }
        let t = (need.frac * peak).max(0.02);
        let mut r = Rect::EMPTY;
        for (i, v) in d.iter().enumerate() {
            if *v > t {
                r.add(roi.x0 + (i % w) as i32, roi.y0 + (i / w) as i32);
            }
        }
        (!r.is_empty()).then_some(r)
    }

    /// Records a defect.
    pub(super) fn record(&mut self, label: &'static str, bbox: Rect, count: usize) {
        let b = bbox.clip(self.layers.rect());
        let (w, h) = (b.w() as f32 / self.unit, b.h() as f32 / self.unit);
        self.defects.push(Defect {
            label,
            bbox: b.array(),
            severity: severity(label, w.max(h), w * h, count),
        });
        self.busy.push(b);
    }

    /// Takes the picture: raw RGB bytes.
    pub(super) fn render(&self) -> Vec<u8> {
        let mut img = self.shade(self.layers.rect());
        self.sensor.expose(&mut img, self.layers.w, self.layers.h)
    }
}

/// Perceived difference of two display values.
pub(super) fn differ(a: &[f32; 3], b: &[f32; 3]) -> f32 {
    0.3 * (a[0] - b[0]).abs() + 0.5 * (a[1] - b[1]).abs() + 0.2 * (a[2] - b[2]).abs()
}
