//! Chooses the next token from logits: greedy, or sampled by candle-transformers' processor.

use super::error::VlmError;
use super::logits::Logits;
use candle_core::{Device, Tensor};
use candle_transformers::generation::{LogitsProcessor, Sampling as HfSampling};
use candle_transformers::utils::apply_repeat_penalty;
use toktrie::SimpleVob;

/// How answers are sampled.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// 0: greedy, and nothing else below counts.
    pub temperature: f64,
    /// Sample only from the smallest set of tokens that holds this probability.
    pub top_p: Option<f64>,
    /// Sample only from this many best tokens.
    pub top_k: Option<usize>,
    /// Divides the logits of tokens that the answer already holds; 1 leaves them.
    pub repeat_penalty: f32,
    /// Of the answer's own random numbers: the same seed gives the same answer.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.0, top_p: None, top_k: None, repeat_penalty: 1.0, seed: 0 }
    }
}

impl Sampling {
    fn processor(&self) -> LogitsProcessor {
        let temperature = self.temperature;
        let sampling = match (self.top_k, self.top_p) {
            _ if temperature <= 0.0 => HfSampling::ArgMax,
            (None, None) => HfSampling::All { temperature },
            (Some(k), None) => HfSampling::TopK { k, temperature },
            (None, Some(p)) => HfSampling::TopP { p, temperature },
            (Some(k), Some(p)) => HfSampling::TopKThenTopP { k, p, temperature },
        };
        LogitsProcessor::from_sampling(self.seed, sampling)
    }
}

/// The sampler of one answer.
pub struct Sampler {
    /// `None`: greedy.
    processor: Option<LogitsProcessor>,
    repeat_penalty: f32,
}

impl Sampler {
    /// A sampler at the start of an answer.
    pub fn new(sampling: &Sampling) -> Self {
        let processor = (sampling.temperature > 0.0).then(|| sampling.processor());
        Self { processor, repeat_penalty: sampling.repeat_penalty }
    }

    /// The next token and its probability among the allowed ones. `answer`: the tokens so far. A greedy choice
    /// allocates nothing.
    ///
    /// # Errors
    /// `NotFinite` when an allowed logit is NaN or infinite; `Grammar` when nothing is allowed.
    pub fn next(
        &mut self,
        logits: Logits<'_>,
        allowed: Option<&SimpleVob>,
        answer: impl Iterator<Item = u32>,
    ) -> Result<(u32, f32), VlmError> {
        let (mut best, mut finite): (Option<(usize, f32)>, bool) = (None, true);
        each_allowed(logits, allowed, |id, logit| {
            finite &= logit.is_finite();
            if best.is_none_or(|(_, max)| logit > max) {
                best = Some((id, logit));
            }
        });
        if !finite {
            return Err(VlmError::NotFinite);
        }
        let (best, max) = best.ok_or_else(|| VlmError::Grammar { why: "no token is allowed".into() })?;
        let mut sum = 0.0;
        each_allowed(logits, allowed, |_, logit| sum += (logit - max).exp());
        let Some(processor) = &mut self.processor else { return Ok((best as u32, 1.0 / sum)) };
        // What is sampled from reaches to the last candidate; candidates rise.
        let mut masked = vec![];
        each_allowed(logits, allowed, |id, logit| {
            masked.resize(id, f32::NEG_INFINITY);
            masked.push(logit);
        });
        let mut masked = Tensor::new(masked, &Device::Cpu)?;
        if self.repeat_penalty != 1.0 {
            masked = apply_repeat_penalty(&masked, self.repeat_penalty, &answer.collect::<Vec<_>>())?;
        }
        let id = processor.sample(&masked)?;
        let logit = logits.get(id as usize).ok_or(VlmError::NotFinite)?;
        Ok((id, (logit - max).exp() / sum))
    }
}

/// Gives the allowed tokens that have a logit to `f`, rising.
fn each_allowed(logits: Logits<'_>, allowed: Option<&SimpleVob>, mut f: impl FnMut(usize, f32)) {
    match allowed {
        Some(mask) => mask.iter_set_entries(|id| {
            if let Some(logit) = logits.get(id) {
                f(id, logit);
            }
        }),
        None => logits.all().unwrap_or(&[]).iter().enumerate().for_each(|(id, logit)| f(id, *logit)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greedy_takes_the_best_allowed() {
        let mut mask = SimpleVob::alloc(4);
        mask.allow_token(0);
        mask.allow_token(2);
        let mut sampler = Sampler::new(&Sampling::default());
        let (id, prob) =
            sampler.next(Logits::whole(&[0.0, 9.0, 1.0, 5.0]), Some(&mask), [].into_iter()).unwrap();
        assert_eq!(id, 2);
        assert!((prob - 1.0 / (1.0 + (-1f32).exp())).abs() < 1e-6);
    }

    #[test]
    fn a_nan_is_an_error_not_a_choice() {
        let mut sampler = Sampler::new(&Sampling::default());
        let logits = Logits::whole(&[0.0, f32::NAN]);
        assert!(matches!(sampler.next(logits, None, [].into_iter()), Err(VlmError::NotFinite)));
    }

    #[test]
    fn sampling_keeps_to_the_grammar_and_the_seed() {
        let mut mask = SimpleVob::alloc(64);
        (0..64).step_by(3).for_each(|i| mask.allow_token(i));
        let logits: Vec<f32> = (0..64).map(|i| (i % 5) as f32 * 0.1).collect();
        let logits = Logits::whole(&logits);
        let sampling =
            Sampling { temperature: 1.5, top_p: Some(0.95), top_k: Some(40), seed: 7, ..Sampling::default() };
        let draw = || {
            let mut s = Sampler::new(&sampling);
            (0..20).map(|_| s.next(logits, Some(&mask), [].into_iter()).unwrap().0).collect::<Vec<_>>()
        };
        assert_eq!(draw(), draw());
        assert!(draw().iter().all(|id| id % 3 == 0));
        assert!(draw().iter().any(|id| *id != draw()[0]), "nothing was sampled");
    }
}
