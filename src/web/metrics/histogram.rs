//! How often a value was at most so much.

/// Counts by upper bounds; a value beyond the last bound is only in the count.
#[derive(Clone, Debug)]
pub(crate) struct Histogram {
    pub(super) bounds: &'static [f64],
    /// Of each bound: how many values did not exceed it.
    pub(super) buckets: Vec<u64>,
    pub(super) count: u64,
    pub(super) sum: f64,
}

impl Histogram {
    /// Nothing counted yet; the bounds rise.
    pub(crate) fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, buckets: vec![0; bounds.len()], count: 0, sum: 0.0 }
    }

    /// Counts a value; one that is not finite measures nothing and is left out.
    pub(crate) fn observe(&mut self, value: f64) {
        if !value.is_finite() {
            return;
        }
        self.count += 1;
        self.sum += value;
        for (bucket, bound) in self.buckets.iter_mut().zip(self.bounds) {
            *bucket += u64::from(value <= *bound);
        }
    }

    /// How many values were counted.
    #[cfg(test)]
    pub(crate) const fn count(&self) -> u64 {
        self.count
    }
}
