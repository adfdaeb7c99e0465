use super::*;
use candle_core::{Device, Var};
use rand::{Rng, SeedableRng};

/// Values between -2 and 2.
pub(in crate::learn::finetune) fn random(shape: (usize, usize), seed: u64) -> Tensor {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let values: Vec<f32> = (0..shape.0 * shape.1).map(|_| rng.gen_range(-2.0..2.0)).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).expect("a tensor")
}

/// What comes out, and the gradients of all that went in, under a loss that weighs every value differently.
fn with_gradients(inputs: &[&Tensor], f: impl Fn(&[Tensor]) -> Result<Tensor>) -> (Vec<f32>, Vec<Vec<f32>>) {
    let vars: Vec<Var> = inputs.iter().map(|x| Var::from_tensor(x).expect("a variable")).collect();
    let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let out = f(&tensors).expect("computes");
    let flat = out.flatten_all().expect("flat");
    let weights: Vec<f32> = (0..flat.elem_count()).map(|i| (i * 37 % 17) as f32 / 8.0 - 1.0).collect();
    let weights = Tensor::from_vec(weights, flat.elem_count(), &Device::Cpu).expect("a tensor");
    let loss = (&flat * weights).expect("a product").sum_all().expect("a sum");
    let grads = loss.backward().expect("gradients");
    let list = |t: &Tensor| t.flatten_all().expect("flat").to_vec1::<f32>().expect("values");
    (list(&flat), vars.iter().map(|v| list(grads.get(v).expect("a gradient"))).collect())
}

/// Both ways give the same, forward and back, within `tolerance` of the largest value.
pub(in crate::learn::finetune) fn alike(
    inputs: &[&Tensor],
    fast: impl Fn(&[Tensor]) -> Result<Tensor>,
    plain: impl Fn(&[Tensor]) -> Result<Tensor>,
    tolerance: f32,
) {
    let ((y, gs), (y2, gs2)) = (with_gradients(inputs, fast), with_gradients(inputs, plain));
    for (a, b) in std::iter::once((&y, &y2)).chain(gs.iter().zip(&gs2)) {
        let largest = b.iter().fold(1.0f32, |m, x| m.max(x.abs()));
        let gap = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0f32, f32::max);
        assert!(a.len() == b.len() && gap <= tolerance * largest, "off by {gap} of {largest}");
    }
}

#[test]
fn products_agree() {
    // More rows than a task sums.
    let (x, w, b) = (random((150, 24), 1), random((10, 24), 2), random((1, 10), 3));
    let plain = |v: &[Tensor]| v[0].matmul(&v[1].t()?)?.broadcast_add(&v[2].flatten_all()?);
    alike(&[&x, &w, &b], |v| linear(&v[0], &v[1], Some(&v[2].flatten_all()?)), plain, 1e-5);
    alike(&[&x, &w], |v| linear(&v[0], &v[1], None), |v| v[0].matmul(&v[1].t()?), 1e-5);
}

#[test]
fn activations_agree() {
    let (x, up) = (random((9, 40), 4), random((9, 40), 5));
    alike(&[&x], |v| gelu_tanh(&v[0]), |v| v[0].gelu(), 1e-5);
    alike(&[&x], |v| gelu_erf(&v[0]), |v| v[0].gelu_erf(), 1e-5);
    alike(&[&x, &up], |v| swiglu(&v[0], &v[1]), |v| v[0].silu()? * &v[1], 1e-5);
}

#[test]
fn norms_agree() {
    let (x, w, b) = (random((140, 16), 6), random((1, 16), 7), random((1, 16), 8));
    let layer = |v: &[Tensor]| {
        let centred = v[0].broadcast_sub(&v[0].mean_keepdim(D::Minus1)?)?;
        let deviation = (centred.sqr()?.mean_keepdim(D::Minus1)? + 1e-6)?.sqrt()?;
        centred.broadcast_div(&deviation)?.broadcast_mul(&v[1])?.broadcast_add(&v[2])
    };
    let flat = |t: &Tensor| t.flatten_all();
    alike(&[&x, &w, &b], |v| layer_norm(&v[0], &flat(&v[1])?, &flat(&v[2])?, 1e-6), layer, 2e-5);
    let rms = |v: &[Tensor]| {
        let root = (v[0].sqr()?.mean_keepdim(D::Minus1)? + 1e-6)?.sqrt()?;
        v[0].broadcast_div(&root)?.broadcast_mul(&v[1])
    };
    alike(&[&x, &w], |v| rms_norm(&v[0], &flat(&v[1])?, 1e-6), rms, 2e-5);
}

#[test]
fn a_turn_agrees_and_leaves_the_other_heads() {
    let angles: Vec<f32> = (0..6 * 4).map(|i| i as f32 / 3.0).collect();
    let turns = Turns::new(angles.iter().map(|a| (a.cos(), a.sin())), 4);
    let x = random((6, 24), 9);
    let plain = |v: &[Tensor]| {
        let table = |f: fn(f32) -> f32| {
            Tensor::from_vec(angles.iter().map(|a| f(*a)).collect::<Vec<f32>>(), (6, 4), &Device::Cpu)
        };
        let (cos, sin) = (table(f32::cos)?, table(f32::sin)?);
        let mut out = vec![];
        for head in 0..2 {
            let (a, b) = (v[0].narrow(1, head * 8, 4)?, v[0].narrow(1, head * 8 + 4, 4)?);
            out.push(((&a * &cos)? - (&b * &sin)?)?);
            out.push(((&b * &cos)? + (&a * &sin)?)?);
        }
        out.push(v[0].narrow(1, 16, 8)?);
        Tensor::cat(&out, 1)
    };
    alike(&[&x], |v| turns.turn(&v[0], 2), plain, 1e-5);
}

#[test]
fn cross_entropy_agrees() {
    let x = random((5, 12), 10);
    let (targets, weights) = ([3u32, 0, 11, 7, 7], [1.0f32, 8.0, 0.5, 0.0, 2.0]);
    let plain = |v: &[Tensor]| {
        let all = v[0].exp()?.sum_keepdim(D::Minus1)?.log()?;
        let at = Tensor::from_slice(&targets, (5, 1), &Device::Cpu)?;
        let missed = (all - v[0].gather(&at, 1)?)?.flatten_all()?;
        (missed * Tensor::from_slice(&weights, 5, &Device::Cpu)?)?.sum_all()
    };
    alike(&[&x], |v| cross_entropy(&v[0], &targets, &weights), plain, 1e-5);
    assert!(cross_entropy(&x, &[12; 5], &weights).is_err(), "a target outside the vocabulary");
}
