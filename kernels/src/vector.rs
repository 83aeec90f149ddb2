//! The vector operations between the matrix products of a transformer: normalisation,
//! quantization, gated activations, attention over a KV cache.
//!
//! Each is written once, in plain Rust with a fixed number of lanes, and compiled for each
//! instruction set. Rust never reorders floating-point operations nor fuses a multiplication with
//! an addition, so all instruction sets give the same bits: with exact integer products between
//! them, a ternary model computes the same logits on every instruction set and thread count.

use half::f16;

use crate::Isa;
use crate::isa::Level;

/// Lanes of the reductions, and the multiple to which [`attend`] wants its vectors padded.
pub const LANES: usize = 16;

/// Compiles a body for each instruction set, behind a façade that picks by [`Isa`].
macro_rules! for_each_isa {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)? = $body:path) => {
        $(#[$doc])*
        $vis fn $name(isa: Isa, $($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn avx2($($arg: $ty),*) $(-> $ret)? {
                $body($($arg),*)
            }
            #[cfg(avx512)]
            #[allow(clippy::incompatible_msrv, reason = "AVX-512 needs Rust 1.89; see build.rs")]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
            unsafe fn avx512($($arg: $ty),*) $(-> $ret)? {
                $body($($arg),*)
            }
            #[cfg(target_arch = "aarch64")]
            #[target_feature(enable = "neon")]
            unsafe fn neon($($arg: $ty),*) $(-> $ret)? {
                $body($($arg),*)
            }
            match isa.level() {
                Level::Scalar => $body($($arg),*),
                // SAFETY: an `Isa` of that level exists only if the CPU has its features.
                #[cfg(target_arch = "x86_64")]
                Level::Avx2 => unsafe { avx2($($arg),*) },
                // SAFETY: an `Isa` of that level exists only if the CPU has its features.
                #[cfg(avx512)]
                Level::Avx512Vnni | Level::Avx512Vbmi => unsafe { avx512($($arg),*) },
                // SAFETY: an `Isa` of either level exists only if the CPU has NEON.
                #[cfg(target_arch = "aarch64")]
                Level::Neon | Level::NeonDotprod => unsafe { neon($($arg),*) },
            }
        }
    };
}
pub(crate) use for_each_isa;

for_each_isa! {
    /// RMSNorm: `out[i] = x[i] / sqrt(mean(x^2) + eps) * weight[i]`. The mean is summed in f64.
    ///
    /// # Panics
    /// If the three lengths differ.
    pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) = rms_norm_body
}

#[inline(always)]
fn rms_norm_body(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    assert!(x.len() == weight.len() && x.len() == out.len());
    let mut sums = [0f64; LANES];
    let chunks = x.chunks_exact(LANES);
    for (i, x) in chunks.remainder().iter().enumerate() {
        sums[i] = f64::from(*x) * f64::from(*x);
    }
    for chunk in chunks {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *sum += f64::from(*x) * f64::from(*x);
        }
    }
    let mean = sums.iter().sum::<f64>() / x.len() as f64;
    let scale = (1.0 / (mean + f64::from(eps)).sqrt()) as f32;
    for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
        *out = x * scale * w;
    }
}

for_each_isa! {
    /// Quantizes `x` to int8 with one step for the vector: `q = round(x / step)`, halves to even,
    /// `step = max(max|x|, 1e-5) / 127`. Returns the step and the sum of `q`. (BitNet b1.58's
    /// activation quantization.) A NaN quantizes to some int8 and makes the step NaN, so that it
    /// shows in every output.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn quantize(x: &[f32], q: &mut [i8]) -> (f32, i32) = quantize_body
}

#[inline(always)]
fn quantize_body(x: &[f32], q: &mut [i8]) -> (f32, i32) {
    assert_eq!(x.len(), q.len());
    // Bits of |x| order like |x|, with NaN above everything: an integer maximum vectorises and keeps a
    // NaN, which a float maximum would drop. A plain fold, because its order does not matter: with
    // lanes of its own the compiler made it a loop of gathers.
    let max = x.iter().fold(1e-5f32.to_bits(), |max, x| max.max(x.abs().to_bits()));
    let max = f32::from_bits(max);
    let scale = 127.0 / max;
    let mut sum = 0i32;
    for (q, x) in q.iter_mut().zip(x) {
        let v = round_to_i32(x * scale).clamp(-128, 127);
        *q = v as i8;
        sum += v;
    }
    (max / 127.0, sum)
}

/// Nearest integer, halves to even, for |x| up to 2^22: adding 1.5 * 2^23 leaves the integer in the
/// low mantissa bits. Vectorises on every instruction set, unlike a call of `rint`.
#[inline(always)]
fn round_to_i32(x: f32) -> i32 {
    const MAGIC: f32 = 12_582_912.0;
    (x + MAGIC).to_bits().wrapping_sub(MAGIC.to_bits()) as i32
}

/// e^x to about 1 ulp for x above -87, e^-87 below and infinity from 89 on: range reduction by ln 2
/// in two parts and a polynomial of degree 6 (after Cephes' `expf`), all in operations that
/// vectorise.
#[inline(always)]
fn exp(x: f32) -> f32 {
    const LN2_HI: f32 = 0.693_359_4;
    const LN2_LO: f32 = -2.121_944_4e-4;
    // A comparison that a NaN passes through, unlike `clamp` by `min` and `max`.
    let x = if x > 100.0 { 100.0 } else { x };
    let x = if x < -87.0 { -87.0 } else { x };
    let n = round_to_i32(x * std::f32::consts::LOG2_E);
    let nf = n as f32;
    let r = x - nf * LN2_HI - nf * LN2_LO;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_2e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 0.166_666_66;
    let p = p * r + 0.500_000_06;
    let y = p * r * r + r + 1.0;
    // In two factors, because 2^n itself may exceed the largest float.
    let half = n >> 1;
    let power = |n: i32| f32::from_bits((n.wrapping_add(127) as u32) << 23);
    y * power(half) * power(n - half)
}

for_each_isa! {
    /// `up[i] *= silu(gate[i])`, with `silu(x) = x / (1 + e^-x)`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn silu_mul(gate: &[f32], up: &mut [f32]) = silu_mul_body
}

#[inline(always)]
fn silu_mul_body(gate: &[f32], up: &mut [f32]) {
    assert_eq!(gate.len(), up.len());
    for (up, g) in up.iter_mut().zip(gate) {
        *up *= g / (1.0 + exp(-g));
    }
}

for_each_isa! {
    /// `up[i] *= relu(gate[i])^2`. A NaN in the gate stays one.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn relu2_mul(gate: &[f32], up: &mut [f32]) = relu2_mul_body
}

#[inline(always)]
fn relu2_mul_body(gate: &[f32], up: &mut [f32]) {
    assert_eq!(gate.len(), up.len());
    for (up, g) in up.iter_mut().zip(gate) {
        let r = if *g < 0.0 { 0.0 } else { *g };
        *up *= r * r;
    }
}

for_each_isa! {
    /// Rotates pairs of elements, of which `a` holds the first ones and `b` the second ones, by angles
    /// given as cosines and sines: the rotary embedding of a head whose pairs are its halves.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn rotate(a: &mut [f32], b: &mut [f32], cos: &[f32], sin: &[f32]) = rotate_body
}

#[inline(always)]
fn rotate_body(a: &mut [f32], b: &mut [f32], cos: &[f32], sin: &[f32]) {
    let n = a.len();
    assert!(b.len() == n && cos.len() == n && sin.len() == n);
    for i in 0..n {
        let (x, y) = (a[i], b[i]);
        a[i] = x * cos[i] - y * sin[i];
        b[i] = x * sin[i] + y * cos[i];
    }
}

/// Reads all words and returns their sum, so that no read can be left out: what memory gives when
/// nothing is computed.
pub fn read(isa: Isa, words: &[u64]) -> u64 {
    read_before(isa, words, std::ptr::null())
}

/// [`read`] of words behind which is read what `next` points to, if it is not null.
#[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables, reason = "nothing is requested ahead there"))]
pub(crate) fn read_before(isa: Isa, words: &[u64], next: *const u8) -> u64 {
    match isa.level() {
        Level::Scalar => words.iter().fold(0, |a, b| a.wrapping_add(*b)),
        // SAFETY: an `Isa` of that level exists only if the CPU has its features.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { crate::arch::avx2::read(words, next) },
        // SAFETY: an `Isa` of that level exists only if the CPU has its features.
        #[cfg(avx512)]
        Level::Avx512Vnni | Level::Avx512Vbmi => unsafe { crate::arch::avx512::read(words, next) },
        // SAFETY: an `Isa` of either level exists only if the CPU has NEON.
        #[cfg(target_arch = "aarch64")]
        Level::Neon | Level::NeonDotprod => unsafe { crate::arch::neon::read(words) },
    }
}

/// Element of a KV cache.
pub trait KvElement: bytemuck::Pod + Send + Sync + sealed::Sealed {
    /// Nearest element, halves to even.
    fn from_f32(x: f32) -> Self;
    /// Exact value.
    fn to_f32(self) -> f32;
}

mod sealed {
    /// The kernels tell elements apart by their size.
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for half::f16 {}
}

/// Most tokens that [`attend`] takes at a time: so many queries share each key and value that is loaded.
pub const ATTEND_TOKENS: usize = 4;

/// One head of attention for one token, or a few in a row; see [`attend`].
#[derive(Debug)]
pub struct Attend<'a, T> {
    /// The queries, rotated, `[token][dim]`.
    pub query: &'a [f32],
    /// Keys of the tokens before each but the last, `[n + tokens - 1][dim]`, from the cache.
    pub keys: &'a [T],
    /// Values of the same tokens, `[n + tokens - 1][dim]`, from the cache.
    pub values: &'a [T],
    /// What is read next, the keys of another head: brought into the cache meanwhile. May be empty.
    pub next: &'a [T],
    /// The tokens' own keys, rotated, `[token][dim]`.
    pub own_key: &'a [f32],
    /// The tokens' own values, `[token][dim]`.
    pub own_value: &'a [f32],
    /// Factor of the scores: 1 / sqrt(head dimension).
    pub scale: f32,
    /// Working memory, `[token][n + tokens]`; holds the attention weights of a token afterwards, its own
    /// last.
    pub scores: &'a mut [f32],
    /// The result, `[token][dim]`.
    pub out: &'a mut [f32],
}

/// `out = softmax(query . keys * scale) . values` for one head of one token over the n tokens before it
/// and itself. The token's own key and value are taken as computed, not as a cache of half precision
/// would round them: that costs nothing and is exact for the first token. `dim` is a multiple of
/// [`LANES`]; heads of other dimensions are padded with zeros.
///
/// # Panics
/// If the lengths do not fit each other.
pub fn attend<T: KvElement>(isa: Isa, args: Attend<'_, T>) {
    attend_tokens(isa, 1, args);
}

/// [`attend`] for up to [`ATTEND_TOKENS`] tokens in a row, the first with n tokens before it, the next
/// with n + 1, and so on. Bit for bit the same as one by one: every sum has its own lanes and keeps its
/// order.
///
/// # Panics
/// If the lengths do not fit each other.
pub fn attend_tokens<T: KvElement>(isa: Isa, tokens: usize, args: Attend<'_, T>) {
    let Attend { query, keys, values, next, own_key, own_value, scale, scores, out } = args;
    assert!((1..=ATTEND_TOKENS).contains(&tokens), "a few tokens");
    let dim = query.len() / tokens;
    let stride = scores.len() / tokens;
    assert!(dim > 0 && dim % LANES == 0 && query.len() == dim * tokens, "padded heads");
    assert!(out.len() == query.len(), "a result for each query");
    assert!(
        own_key.len() == query.len() && own_value.len() == query.len(),
        "the tokens' own keys and values"
    );
    assert!(stride >= tokens && scores.len() == stride * tokens, "scores of each token");
    let n = stride - tokens;
    let cached = (stride - 1) * dim;
    assert!(keys.len() == cached && values.len() == cached, "a key and a value for each score");
    // The tokens have the first n in common.
    let (keys, later_keys) = keys.split_at(n * dim);
    let (values, later_values) = values.split_at(n * dim);
    attention::common_scores(isa, tokens, query, keys, values, scale, scores);
    for (t, (query, scores)) in query.chunks_exact(dim).zip(scores.chunks_exact_mut(stride)).enumerate() {
        let own_key = &own_key[t * dim..][..dim];
        attention::scores(isa, query, &later_keys[..t * dim], &[], scale, &mut scores[n..n + t]);
        attention::scores(isa, query, own_key, &[], scale, &mut scores[n + t..n + t + 1]);
        softmax(isa, &mut scores[..n + t + 1]);
    }
    out.fill(0.0);
    attention::add_common_values(isa, tokens, scores, values, next, out);
    for (t, (scores, out)) in scores.chunks_exact(stride).zip(out.chunks_exact_mut(dim)).enumerate() {
        attention::add_values(isa, &scores[n..n + t], &later_values[..t * dim], out);
        attention::add_values(isa, &scores[n + t..n + t + 1], &own_value[t * dim..][..dim], out);
    }
}

/// Rounds floats to elements of a KV cache.
///
/// # Panics
/// If the lengths differ.
pub fn to_cache<T: KvElement>(isa: Isa, from: &[f32], to: &mut [T]) {
    assert_eq!(from.len(), to.len());
    match isa.level() {
        // SAFETY: an `Isa` of these levels exists only if the CPU has F16C; the lengths are equal.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { crate::arch::avx2::to_cache(from, to) },
        // SAFETY: as above.
        #[cfg(avx512)]
        Level::Avx512Vnni | Level::Avx512Vbmi => unsafe { crate::arch::avx2::to_cache(from, to) },
        _ => {
            for (to, x) in to.iter_mut().zip(from) {
                *to = T::from_f32(*x);
            }
        }
    }
}

impl KvElement for f32 {
    fn from_f32(x: f32) -> Self {
        x
    }

    fn to_f32(self) -> f32 {
        self
    }
}

impl KvElement for f16 {
    fn from_f32(x: f32) -> Self {
        f16::from_f32(x)
    }

    fn to_f32(self) -> f32 {
        f16::to_f32(self)
    }
}

/// The two loops of attention. What `Level::Scalar` does is their specification; those of the vector
/// instruction sets are in `arch` and sum each lane in the same order.
mod attention {
    #[cfg(avx512)]
    use super::ATTEND_TOKENS;
    use super::{KvElement, LANES, sum_lanes};
    use crate::Isa;
    #[cfg(target_arch = "x86_64")]
    use crate::arch::avx2;
    #[cfg(avx512)]
    use crate::arch::avx512;
    #[cfg(target_arch = "aarch64")]
    use crate::arch::neon;
    use crate::isa::Level;

    /// `scores[i] = query . keys[i] * scale`, lane by lane. `next` is what will be read after the keys.
    pub(super) fn scores<T: KvElement>(
        isa: Isa,
        query: &[f32],
        keys: &[T],
        next: &[T],
        scale: f32,
        scores: &mut [f32],
    ) {
        assert_eq!(keys.len(), query.len() * scores.len());
        #[cfg(not(target_arch = "x86_64"))]
        let _ = next;
        match isa.level() {
            Level::Scalar => {
                for (score, key) in scores.iter_mut().zip(keys.chunks_exact(query.len())) {
                    let mut sums = [0f32; LANES];
                    for (q, k) in query.chunks_exact(LANES).zip(key.chunks_exact(LANES)) {
                        for lane in 0..LANES {
                            sums[lane] += q[lane] * k[lane].to_f32();
                        }
                    }
                    *score = sum_lanes(sums) * scale;
                }
            }
            // SAFETY: an `Isa` of that level exists only if the CPU has its features; `attend_tokens`
            // asserts that heads are padded, the line above that there is a key for each score.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { avx2::attention_scores(query, keys, next, scale, scores) },
            // SAFETY: as above.
            #[cfg(avx512)]
            Level::Avx512Vnni | Level::Avx512Vbmi => unsafe {
                avx512::attention_scores(query, keys, next, scale, scores)
            },
            // SAFETY: an `Isa` of either level exists only if the CPU has NEON; the lengths as above.
            #[cfg(target_arch = "aarch64")]
            Level::Neon | Level::NeonDotprod => unsafe { neon::attention_scores(query, keys, scale, scores) },
        }
    }

    /// [`scores`] of several queries with the keys that they have in common, the first ones of each row
    /// of scores.
    pub(super) fn common_scores<T: KvElement>(
        isa: Isa,
        tokens: usize,
        queries: &[f32],
        keys: &[T],
        next: &[T],
        scale: f32,
        all_scores: &mut [f32],
    ) {
        let (dim, stride) = (queries.len() / tokens, all_scores.len() / tokens);
        let n = keys.len() / dim;
        assert!(n <= stride, "a score for each key");
        #[cfg(avx512)]
        if matches!(isa.level(), Level::Avx512Vnni | Level::Avx512Vbmi) && tokens == ATTEND_TOKENS {
            // SAFETY: an `Isa` of that level exists only if the CPU has its features; `attend_tokens`
            // asserts the lengths of queries and scores.
            return unsafe { avx512::attention_scores_of_4(queries, keys, scale, all_scores) };
        }
        for (query, row) in queries.chunks_exact(dim).zip(all_scores.chunks_exact_mut(stride)) {
            scores(isa, query, keys, next, scale, &mut row[..n]);
        }
    }

    /// Adds weights[i] * values[i] to `out`, one i after the other.
    pub(super) fn add_values<T: KvElement>(isa: Isa, weights: &[f32], values: &[T], out: &mut [f32]) {
        add_common_values(isa, 1, weights, values, &[], out);
    }

    /// [`add_values`] for several tokens with the values that they have in common, the first ones of each
    /// row of weights. `next` is what will be read after the values.
    pub(super) fn add_common_values<T: KvElement>(
        isa: Isa,
        tokens: usize,
        weights: &[f32],
        values: &[T],
        next: &[T],
        out: &mut [f32],
    ) {
        let (dim, stride) = (out.len() / tokens, weights.len() / tokens);
        assert!(values.len() / dim <= stride, "a weight for each value");
        match isa.level() {
            Level::Scalar => {
                for (t, out) in out.chunks_exact_mut(dim).enumerate() {
                    let weights = &weights[t * stride..];
                    for (weight, value) in weights.iter().zip(values.chunks_exact(dim)) {
                        for (out, v) in out.iter_mut().zip(value) {
                            *out += weight * v.to_f32();
                        }
                    }
                }
            }
            // SAFETY: an `Isa` of that level exists only if the CPU has its features; `attend_tokens`
            // asserts that heads are padded, the line above that there is a weight for each value.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { avx2::add_values(tokens, weights, values, next, out) },
            // SAFETY: as above.
            #[cfg(avx512)]
            Level::Avx512Vnni | Level::Avx512Vbmi => unsafe {
                avx512::add_values(tokens, weights, values, next, out)
            },
            // SAFETY: an `Isa` of either level exists only if the CPU has NEON; the lengths as above.
            #[cfg(target_arch = "aarch64")]
            Level::Neon | Level::NeonDotprod => unsafe { neon::add_values(tokens, weights, values, out) },
        }
    }
}

for_each_isa! {
    /// Softmax of the scores, in place.
    fn softmax(scores: &mut [f32]) = softmax_body
}

/// Pairwise sum of the lanes, in an order that vector registers can follow.
#[inline(always)]
fn sum_lanes(mut s: [f32; LANES]) -> f32 {
    let mut n = LANES / 2;
    while n > 0 {
        for i in 0..n {
            s[i] += s[i + n];
        }
        n /= 2;
    }
    s[0]
}

#[inline(always)]
fn softmax_body(scores: &mut [f32]) {
    let mut max = f32::NEG_INFINITY;
    for s in scores.iter() {
        max = if *s > max { *s } else { max };
    }
    let mut sums = [0f32; LANES];
    for chunk in scores.chunks_mut(LANES) {
        for (s, sum) in chunk.iter_mut().zip(&mut sums) {
            *s = exp(*s - max);
            *sum += *s;
        }
    }
    let factor = 1.0 / sum_lanes(sums);
    for s in scores {
        *s *= factor;
    }
}
