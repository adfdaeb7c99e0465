//! A coreset: the cells that stand for all others.
//!
//! Greedy k-centre: the cell that is farthest from all chosen ones is chosen next (Gonzalez 1985; `PatchCore` uses it so).
//! Its order is that of the cells, so that the same examples give the same bank, bit by bit.

use rayon::prelude::*;

/// The places of at most `count` of `[cells, dim]` values; `None` as soon as `go_on` says no.
pub(crate) fn choose(
    values: &[f32],
    dim: usize,
    count: usize,
    go_on: &dyn Fn() -> bool,
) -> Option<Vec<usize>> {
    let cells: Vec<&[f32]> = values.chunks_exact(dim.max(1)).collect();
    if cells.len() <= count {
        return Some((0..cells.len()).collect());
    }
    let mut gaps = vec![f32::INFINITY; cells.len()];
    let mut chosen = Vec::with_capacity(count);
    let mut next = 0;
    while chosen.len() < count {
        if !go_on() {
            return None;
        }
        chosen.push(next);
        let centre = cells[next];
        gaps.par_iter_mut().with_min_len(512).zip(&cells).for_each(|(gap, cell)| {
            *gap = gap.min(squared(cell, centre));
        });
        let farthest = gaps.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)));
        next = farthest.map_or(0, |(at, _)| at);
    }
    Some(chosen)
}

/// Squared distance, in sixteen lanes, so that the compiler may use vector registers.
#[multiversion::multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn squared(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 16];
    let (a, rest_a) = a.as_chunks::<16>();
    let (b, rest_b) = b.as_chunks::<16>();
    for (a, b) in a.iter().zip(b) {
        for i in 0..16 {
            let gap = a[i] - b[i];
            sums[i] += gap * gap;
        }
    }
    let rest = rest_a.iter().zip(rest_b).map(|(a, b)| (a - b) * (a - b)).sum::<f32>();
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_farthest_come_first_and_all_are_near_one() {
        let values: Vec<f32> = (0..100).flat_map(|i| [i as f32, 0.0]).collect();
        let chosen = choose(&values, 2, 3, &|| true).unwrap();
        assert_eq!(chosen, [0, 99, 49]);
        let chosen = choose(&values, 2, 25, &|| true).unwrap();
        let gap = |i: usize| chosen.iter().map(|c| c.abs_diff(i)).min().unwrap();
        assert!((0..100).all(|i| gap(i) <= 4));
        assert_eq!(choose(&values, 2, 1000, &|| true).unwrap().len(), 100);
        assert_eq!(choose(&values, 2, 25, &|| false), None, "nobody wants it any more");
    }
}
