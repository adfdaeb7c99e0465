//! What a coder leaves of a picture.
//!
//! ```text
//! good part --camera--> kept as JPEG --tile--> level --> features --> bank
//! part -------camera--> as it is ------tile--> level --> features --> distances from it
//!
//! level: blocks of 8 x 8, eight at once --> Y Cb Cr --> DCT --> steps of the table --> inverse DCT --> R G B
//! ```
//!
//! Banks and heads are learned from kept pictures, out of which the store's coder took the finest noise, and judge the
//! camera's own. With that noise good parts are up to 1.35 times as far from their bank as kept ones are, which is beyond
//! its limit. A coarser coder takes what is left of it out of both; a step that a person sees stays.
//!
//! What a JPEG loses, it loses before its entropy code. So no file is made: each block goes through the whole numbers of
//! the coder (`jpeg-encoder` 0.7, 4:4:4) and of the decoder (`zune-jpeg` 0.5).
//!
//! The transforms are those of jpeg-encoder's and zune-jpeg's sources: this is based in part on the work of the Independent
//! JPEG Group.
//!
//! Invariant: not a bit differs from what these two leave on x86-64 with AVX2. Banks that exist were learned behind them.

use multiversion::multiversion;
use std::num::Wrapping;

/// Coarser than any picture that the store keeps, and fine enough for what the features tell apart: at 40 they tell less.
const QUALITY: i32 = 60;
/// Pixels of a block's side.
const SIDE: usize = 8;
/// Blocks that go through side by side.
const LANES: usize = 8;
/// The tables of brightness and of colour (ITU-T T.81, annex K), at [`QUALITY`].
const BRIGHTNESS: Steps = Steps::at(&[
    [16, 11, 10, 16, 24, 40, 51, 61],
    [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77],
    [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101],
    [72, 92, 95, 98, 112, 100, 103, 99],
]);
const COLOUR: Steps = Steps::at(&[
    [17, 18, 24, 47, 99, 99, 99, 99],
    [18, 21, 26, 66, 99, 99, 99, 99],
    [24, 26, 56, 99, 99, 99, 99, 99],
    [47, 66, 99, 99, 99, 99, 99, 99],
    [99, 99, 99, 99, 99, 99, 99, 99],
    [99, 99, 99, 99, 99, 99, 99, 99],
    [99, 99, 99, 99, 99, 99, 99, 99],
    [99, 99, 99, 99, 99, 99, 99, 99],
]);

/// No value comes near the ends of its range: the largest have 28 bits. Sums that are checked are not made side by side.
type Number = Wrapping<i32>;
/// By row and column.
type Table = [[Number; SIDE]; SIDE];
/// One number of each of the blocks.
type Lanes = [Number; LANES];
/// A row or a column of each of the blocks.
type Line = [Lanes; SIDE];
/// The blocks: `[row, column, block]`.
type Group = [Line; SIDE];

const ZERO: Group = [[[Wrapping(0); LANES]; SIDE]; SIDE];

/// A picture of `[height, width, 3]`, RGB, 0..=255, as the coder leaves it; both sides are multiples of 8.
///
/// # Panics
/// When the sizes do not fit.
pub fn level(values: &[f32], height: usize, width: usize) -> Vec<f32> {
    assert_eq!(values.len(), height * width * 3, "{height} x {width} pixels of three values");
    assert!(height.is_multiple_of(SIDE) && width.is_multiple_of(SIDE), "whole blocks");
    let mut left = vec![0.0; values.len()];
    let row = SIDE * width * 3;
    for (from, to) in values.chunks_exact(row).zip(left.chunks_exact_mut(row)) {
        row_of_blocks(from, width * 3, to);
    }
    left
}

/// `[8, width, 3]`; a line of pixels has `line` values.
#[multiversion(targets("x86_64+avx2+fma", "aarch64+neon"))]
fn row_of_blocks(values: &[f32], line: usize, left: &mut [f32]) {
    const WIDE: usize = SIDE * 3;
    for first in (0..line).step_by(LANES * WIDE) {
        let count = (line - first).min(LANES * WIDE);
        let mut rgb = [[[[0.0; LANES]; SIDE]; SIDE]; 3];
        for row in 0..SIDE {
            let pixels = values[row * line + first..][..count].as_chunks::<WIDE>().0;
            for (block, pixels) in pixels.iter().enumerate() {
                for column in 0..SIDE {
                    for colour in 0..3 {
                        rgb[colour][row][column][block] = pixels[3 * column + colour];
                    }
                }
            }
        }
        through(&mut rgb);
        for row in 0..SIDE {
            let pixels = left[row * line + first..][..count].as_chunks_mut::<WIDE>().0;
            for (block, pixels) in pixels.iter_mut().enumerate() {
                for column in 0..SIDE {
                    for colour in 0..3 {
                        pixels[3 * column + colour] = rgb[colour][row][column][block];
                    }
                }
            }
        }
    }
}

/// Red, green and blue of the blocks through coder and decoder: `[3, row, column, block]`.
#[inline(always)]
fn through(rgb: &mut [[[[f32; LANES]; SIDE]; SIDE]; 3]) {
    let [mut y, mut cb, mut cr] = [ZERO; 3];
    for row in 0..SIDE {
        for column in 0..SIDE {
            let colours = [0, 1, 2].map(|colour: usize| rgb[colour][row][column]);
            [y[row][column], cb[row][column], cr[row][column]] = coded(colours);
        }
    }
    lossy(&mut y, &BRIGHTNESS);
    lossy(&mut cb, &COLOUR);
    lossy(&mut cr, &COLOUR);
    for row in 0..SIDE {
        for column in 0..SIDE {
            let colours = decoded([&y[row][column], &cb[row][column], &cr[row][column]]);
            [rgb[0][row][column], rgb[1][row][column], rgb[2][row][column]] = colours;
        }
    }
}

/// Red, green and blue as Y, Cb and Cr around 0, in the coder's fixed point of 16 bits.
#[inline(always)]
fn coded(rgb: [[f32; LANES]; 3]) -> [Lanes; 3] {
    let (k, half) = (Wrapping::<i32>, Wrapping(0x7FFF));
    let mut out = [[Wrapping(0); LANES]; 3];
    for i in 0..LANES {
        let [r, g, b] = [to_u8(rgb[0][i]), to_u8(rgb[1][i]), to_u8(rgb[2][i])];
        out[0][i] = ((k(19_595) * r + k(38_470) * g + k(7471) * b + half) >> 16) - k(128);
        out[1][i] = (k(-11_059) * r - k(21_709) * g + k(32_768) * b + half) >> 16;
        out[2][i] = (k(32_768) * r - k(27_439) * g - k(5329) * b + half) >> 16;
    }
    out
}

/// `value.round() as u8`: halves go up, what is beyond a byte to its ends. `round` itself is a call for each value.
#[inline(always)]
#[allow(clippy::manual_clamp, reason = "`clamp` leaves what is no number as it is")]
fn to_u8(value: f32) -> Number {
    // What is no number is 0 after this, as it is by `as`.
    let value = value.max(0.0).min(255.0);
    // SAFETY: it is from 0 to 255. By `as` each value would be converted alone.
    let whole: i32 = unsafe { value.to_int_unchecked() };
    Wrapping(whole) + Wrapping(i32::from(value - whole as f32 >= 0.5))
}

/// Y, Cb and Cr, 0..=255, as red, green and blue, in the decoder's fixed point of 14 bits.
#[inline(always)]
fn decoded([y, cb, cr]: [&Lanes; 3]) -> [[f32; LANES]; 3] {
    let (k, half) = (Wrapping::<i32>, Wrapping((1 << 13) - 1));
    let to_byte = |v: Number| (v >> 14).0.clamp(0, 255) as f32;
    let mut rgb = [[0.0; LANES]; 3];
    for i in 0..LANES {
        let (y, cb, cr) = ((y[i] << 14) + half, cb[i] - k(128), cr[i] - k(128));
        rgb[0][i] = to_byte(y + k(22_970) * cr);
        rgb[1][i] = to_byte(y - k(11_700) * cr - k(5638) * cb);
        rgb[2][i] = to_byte(y + k(29_032) * cb);
    }
    rgb
}

/// The steps that the values of a transformed block are rounded to.
struct Steps {
    step: Table,
    /// A division by eight steps, as the coder has it: `(value + correction) * reciprocal >> 15`.
    reciprocal: Table,
    correction: Table,
}

impl Steps {
    const fn at(table: &[[i32; SIDE]; SIDE]) -> Self {
        let zero = [[Wrapping(0); SIDE]; SIDE];
        let mut steps = Self { step: zero, reciprocal: zero, correction: zero };
        let mut i = 0;
        while i < SIDE * SIDE {
            let (row, column) = (i / SIDE, i % SIDE);
            let step = (table[row][column] * (200 - 2 * QUALITY) + 50) / 100;
            let divisor = step * 8;
            let (mut reciprocal, mut correction) = ((1 << 15) / divisor, divisor / 2);
            let rest = (1 << 15) % divisor;
            if rest > correction {
                reciprocal += 1;
            } else if rest != 0 {
                correction += 1;
            }
            steps.step[row][column] = Wrapping(step);
            steps.reciprocal[row][column] = Wrapping(reciprocal);
            steps.correction[row][column] = Wrapping(correction);
            i += 1;
        }
        steps
    }
}

/// Blocks around 0 through the coder and the decoder: 0..=255.
#[inline(always)]
fn lossy(group: &mut Group, steps: &Steps) {
    for row in &mut *group {
        *row = forward::<false>(*row, 0);
    }
    // Columns are read and written across the rows.
    #[expect(clippy::needless_range_loop, reason = "a column is no slice")]
    for column in 0..SIDE {
        let mut line: Line = std::array::from_fn(|row| group[row][column]);
        // What the coder's AVX2 form does: it rounds the sums of every other column alone.
        line = forward::<true>(line, if column.is_multiple_of(2) { 2 } else { 0 });
        for (row, lanes) in line.iter_mut().enumerate() {
            let (step, reciprocal) = (steps.step[row][column], steps.reciprocal[row][column]);
            let correction = steps.correction[row][column];
            for value in lanes {
                let level = ((Wrapping(value.0.wrapping_abs()) + correction) * reciprocal) >> 15;
                *value = (if value.0 < 0 { -level } else { level }) * step;
            }
        }
        line = inverse::<10>(line, 512);
        for row in 0..SIDE {
            group[row][column] = line[row];
        }
    }
    for row in group {
        *row = inverse::<17>(*row, 512 + 65_536 + (128 << 17))
            .map(|lanes| lanes.map(|v| Wrapping(v.0.clamp(0, 255))));
    }
}

/// The forward DCT of a line (Loeffler, Ligtenberg and Moschytz, 1989; `jfdctint.c` of the IJG), in fixed point of 13 bits.
/// The first of two leaves two bits more; the last one takes them away, with `round` added to the plain sums.
#[inline(always)]
fn forward<const LAST: bool>(line: Line, round: i32) -> Line {
    let (k, round) = (Wrapping::<i32>, Wrapping(round));
    let sum = |v: Number| if LAST { (v + round) >> 2 } else { v << 2 };
    let product = |v: Number| if LAST { (v + k(1 << 14)) >> 15 } else { (v + k(1 << 10)) >> 11 };
    let mut out = [[Wrapping(0); LANES]; SIDE];
    for i in 0..LANES {
        let at = |place: usize| line[place][i];
        let (s0, s1, s2, s3) = (at(0) + at(7), at(1) + at(6), at(2) + at(5), at(3) + at(4));
        let (d7, d6, d5, d4) = (at(0) - at(7), at(1) - at(6), at(2) - at(5), at(3) - at(4));

        let (t10, t13, t11, t12) = (s0 + s3, s0 - s3, s1 + s2, s1 - s2);
        out[0][i] = sum(t10 + t11);
        out[4][i] = sum(t10 - t11);
        let z1 = (t12 + t13) * k(4433);
        out[2][i] = product(z1 + t13 * k(6270));
        out[6][i] = product(z1 - t12 * k(15_137));

        let (z1, z2, z3, z4) = (d4 + d7, d5 + d6, d4 + d6, d5 + d7);
        let z5 = (z3 + z4) * k(9633);
        let (z1, z2) = (z1 * k(-7373), z2 * k(-20_995));
        let (z3, z4) = (z3 * k(-16_069) + z5, z4 * k(-3196) + z5);
        out[7][i] = product(d4 * k(2446) + z1 + z3);
        out[5][i] = product(d5 * k(16_819) + z2 + z4);
        out[3][i] = product(d6 * k(25_172) + z2 + z3);
        out[1][i] = product(d7 * k(12_299) + z1 + z4);
    }
    out
}

/// The inverse DCT of a line, in fixed point of 12 bits: `round` is added, then `DOWN` bits go.
#[inline(always)]
fn inverse<const DOWN: usize>(line: Line, round: i32) -> Line {
    let (k, round) = (Wrapping::<i32>, Wrapping(round));
    let mut out = [[Wrapping(0); LANES]; SIDE];
    for i in 0..LANES {
        let at = |place: usize| line[place][i];
        let p1 = (at(2) + at(6)) * k(2217);
        let (t2, t3) = (p1 - at(6) * k(7567), p1 + at(2) * k(3135));
        let (t0, t1) = ((at(0) + at(4)) << 12, (at(0) - at(4)) << 12);
        let (x0, x3, x1, x2) = (t0 + t3 + round, t0 - t3 + round, t1 + t2 + round, t1 - t2 + round);

        let (p3, p4, p1, p2) = (at(7) + at(3), at(5) + at(1), at(7) + at(1), at(5) + at(3));
        let p5 = (p3 + p4) * k(4816);
        let (p1, p2) = (p5 - p1 * k(3685), p5 - p2 * k(10_497));
        let (p3, p4) = (p3 * k(-8034), p4 * k(-1597));
        let t3 = at(1) * k(6149) + p1 + p4;
        let t2 = at(3) * k(12_586) + p2 + p3;
        let t1 = at(5) * k(8410) + p2 + p4;
        let t0 = at(7) * k(1223) + p1 + p3;
        out[0][i] = (x0 + t3) >> DOWN;
        out[1][i] = (x1 + t2) >> DOWN;
        out[2][i] = (x2 + t1) >> DOWN;
        out[3][i] = (x3 + t0) >> DOWN;
        out[4][i] = (x3 - t0) >> DOWN;
        out[5][i] = (x2 - t1) >> DOWN;
        out[6][i] = (x1 - t2) >> DOWN;
        out[7][i] = (x0 - t3) >> DOWN;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::ImageFormat;
    use jpeg_encoder::{ColorType, Encoder, SamplingFactor};
    use proptest::prelude::*;

    /// By the two crates, through a file.
    fn by_the_coder(values: &[f32], height: usize, width: usize) -> Vec<f32> {
        let pixels: Vec<u8> = values.iter().map(|value| value.round() as u8).collect();
        let mut coded = vec![];
        let mut encoder = Encoder::new(&mut coded, QUALITY as u8);
        encoder.set_sampling_factor(SamplingFactor::R_4_4_4);
        encoder.encode(&pixels, width as u16, height as u16, ColorType::Rgb).unwrap();
        let left = image::load_from_memory_with_format(&coded, ImageFormat::Jpeg).unwrap().into_rgb8();
        left.into_raw().into_iter().map(f32::from).collect()
    }

    /// Where the coder has no AVX2 form, it rounds some sums otherwise.
    fn has_avx2() -> bool {
        #[cfg(target_arch = "x86_64")]
        return std::is_x86_feature_detected!("avx2");
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// Pictures of several kinds, from what is nearly even to what has only extremes.
    fn picture(kind: u32, seed: u32, height: usize, width: usize) -> Vec<f32> {
        let mut state = seed;
        let mut random = |n: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((state >> 8) % n) as f32
        };
        let value = |i: usize| {
            let (x, y) = (i / 3 % width, i / 3 / width);
            match kind {
                0 => random(256),
                1 => 255.0 * random(2),
                2 => random(25_600) / 100.0,
                3 => x as f32 * 255.0 / width as f32 + random(8) - 4.0,
                4 => 120.0 + random(7),
                _ if (y / 5 + x / 7) % 2 == 0 => 255.0,
                _ => random(30),
            }
        };
        (0..height * width * 3).map(value).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn not_a_bit_differs_from_what_the_coder_leaves(
            kind in 0u32..6,
            seed in any::<u32>(),
            (rows, columns) in (1usize..5, 1usize..12),
        ) {
            let (height, width) = (16 * rows, 16 * columns);
            let values = picture(kind, seed, height, width);
            let (ours, theirs) = (level(&values, height, width), by_the_coder(&values, height, width));
            prop_assert!(!has_avx2() || ours == theirs);
        }
    }

    #[test]
    fn a_real_picture_is_left_as_the_coder_leaves_it() {
        let picture = image::ImageReader::open("../../fixtures/reference/backbone/golden-bad.png").unwrap();
        let picture = picture.decode().unwrap().into_rgb8();
        let (width, height) = (picture.width() as usize, picture.height() as usize);
        let values: Vec<f32> = picture.as_raw().iter().map(|v| f32::from(*v)).collect();
        let (ours, theirs) = (level(&values, height, width), by_the_coder(&values, height, width));
        assert!(!has_avx2() || ours == theirs);
    }

    #[test]
    fn a_byte_is_what_rounding_makes_of_it() {
        let values =
            [-3.0, -0.5, -0.2, 0.0, 0.499_999_97, 0.5, 1.5, 2.499_999_8, 254.5, 255.4, 300.0, f32::NAN];
        for value in values {
            assert_eq!(to_u8(value).0, i32::from(value.round() as u8), "{value}");
        }
    }

    /// A grey plate of 64 x 64 with noise of a few steps, and a scratch on it.
    fn plate(noise: u32, scratch: f32) -> Vec<f32> {
        let mut seed = 1u32;
        let mut values = vec![];
        for at in 0..64 * 64 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let noise = ((seed >> 16) % (noise + 1)) as f32 - noise as f32 / 2.0;
            let mark = if at % 64 == 30 { scratch } else { 0.0 };
            values.extend([120.0 + noise - mark; 3]);
        }
        values
    }

    fn deviation(values: &[f32]) -> f32 {
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        (values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / values.len() as f32).sqrt()
    }

    #[test]
    fn noise_goes_and_a_scratch_stays() {
        let noisy = plate(6, 0.0);
        let left = deviation(&level(&noisy, 64, 64));
        assert!(left < deviation(&noisy) / 2.0, "{left} of {}", deviation(&noisy));
        let scratched = level(&plate(6, 40.0), 64, 64);
        let row = &scratched[..64 * 3];
        let (mark, beside) = (row[30 * 3], row[10 * 3]);
        assert!(beside - mark > 25.0, "{mark} on it, {beside} beside it");
    }

    #[test]
    fn what_was_levelled_stays_nearly_as_it_is() {
        let once = level(&plate(6, 40.0), 64, 64);
        let twice = level(&once, 64, 64);
        let moved = once.iter().zip(&twice).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(moved <= 3.0, "{moved}");
    }
}
