//! The choice of the next token: greedy, or at random by temperature, top-k and top-p from a seed.

/// How tokens are chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// 0 is greedy; 1 samples from the model's own distribution.
    pub temperature: f32,
    /// Keep the k most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the most likely tokens that together reach this probability; 1 keeps all.
    pub top_p: f32,
    /// Seed of the random numbers.
    pub seed: u64,
}

impl Sampling {
    /// Always the most likely token.
    pub const GREEDY: Sampling = Sampling { temperature: 0.0, top_k: 0, top_p: 1.0, seed: 0 };
}

/// A sampler and its random state.
#[derive(Debug)]
pub struct Sampler {
    sampling: Sampling,
    state: u64,
    /// (probability, token), kept between calls so that sampling does not allocate.
    candidates: Vec<(f32, u32)>,
}

/// The token of the largest logit, the first of equals; NaN is never the largest.
pub fn argmax(logits: &[f32]) -> u32 {
    let mut best = (f32::NEG_INFINITY, 0);
    for (i, &x) in logits.iter().enumerate() {
        if x > best.0 {
            best = (x, i);
        }
    }
    best.1 as u32
}

impl Sampler {
    /// A sampler for vocabularies of up to `vocab` tokens.
    pub fn new(sampling: Sampling, vocab: usize) -> Self {
        let capacity = if sampling.temperature > 0.0 { vocab } else { 0 };
        Sampler { sampling, state: sampling.seed, candidates: Vec::with_capacity(capacity) }
    }

    /// The next token.
    pub fn sample(&mut self, logits: &[f32]) -> u32 {
        let Sampling { temperature, top_k, top_p, .. } = self.sampling;
        if temperature <= 0.0 {
            return argmax(logits);
        }
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        self.candidates.clear();
        self.candidates.extend(logits.iter().enumerate().map(|(i, &x)| {
            let p = ((x - max) / temperature).exp();
            (if p.is_finite() { p } else { 0.0 }, i as u32)
        }));
        // Ties by token, so that the order (and with it the outcome) is the same everywhere.
        self.candidates.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        if top_k > 0 {
            self.candidates.truncate(top_k);
        }
        let mut total: f32 = self.candidates.iter().map(|c| c.0).sum();
        if top_p < 1.0 {
            let mut sum = 0.0;
            let keep = self.candidates.iter().position(|c| {
                sum += c.0;
                sum >= top_p * total
            });
            self.candidates.truncate(keep.map_or(1, |k| k + 1));
            total = self.candidates.iter().map(|c| c.0).sum();
        }
        let mut point = self.uniform() * total;
        for &(p, token) in &self.candidates {
            point -= p;
            if point < 0.0 {
                return token;
            }
        }
        // Rounding left a hair of probability over, or every logit was NaN.
        self.candidates.first().map_or(0, |c| c.1)
    }

    /// Uniform in 0..1 (SplitMix64).
    fn uniform(&mut self) -> f32 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u32 << 24) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(sampling: Sampling, logits: &[f32]) -> Vec<f32> {
        let mut sampler = Sampler::new(sampling, logits.len());
        let mut counts = vec![0; logits.len()];
        for _ in 0..20_000 {
            counts[sampler.sample(logits) as usize] += 1;
        }
        counts.into_iter().map(|n| n as f32 / 20_000.0).collect()
    }

    #[test]
    fn greedy_takes_the_first_largest() {
        let mut sampler = Sampler::new(Sampling::GREEDY, 4);
        assert_eq!(sampler.sample(&[0.0, 2.0, f32::NAN, 2.0]), 1);
        assert_eq!(sampler.sample(&[f32::NAN; 4]), 0);
    }

    #[test]
    fn samples_follow_the_distribution() {
        let logits = [0.5f32, 0.25, 0.15, 0.1].map(f32::ln);
        let all = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, seed: 7 };
        let near = |got: Vec<f32>, want: [f32; 4]| {
            for (g, w) in got.iter().zip(want) {
                assert!((g - w).abs() < 0.02, "{got:?} for {want:?}");
            }
        };
        near(shares(all, &logits), [0.5, 0.25, 0.15, 0.1]);
        near(shares(Sampling { top_k: 2, ..all }, &logits), [0.667, 0.333, 0.0, 0.0]);
        near(shares(Sampling { top_p: 0.7, ..all }, &logits), [0.667, 0.333, 0.0, 0.0]);
        // Temperature 0.5 squares the probabilities.
        near(shares(Sampling { temperature: 0.5, ..all }, &logits), [0.725, 0.181, 0.065, 0.029]);
        assert_eq!(shares(all, &logits), shares(all, &logits), "the seed decides");
    }
}
