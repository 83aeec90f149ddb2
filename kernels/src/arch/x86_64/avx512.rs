//! AVX-512 with VNNI: `vpdpbusd` sums four u8 x i8 products into each of 16 lanes.

#![allow(
    clippy::incompatible_msrv,
    reason = "AVX-512 intrinsics need 1.89; the rest of the crate keeps 1.85"
)]

pub(crate) mod blocks;
mod tables;
pub(crate) mod vbmi;

use std::arch::x86_64::*;

use crate::arch::FLOAT_BLOCK_COLS;
use crate::arch::scalar::finish_sums;
use crate::arch::x86_64::ahead::{Ahead, request_next};
use crate::format::float_panels::Element;
use crate::format::tables::Kind;
use crate::format::{Format, base3, i2_s, tq1_0, tq2_0};
use crate::input::COLUMN_STEP;
use crate::matrix::Share;
use crate::{PANEL_ROWS, TokenInput};

/// Inputs that a GEMM tile multiplies at a time: 12 x 2 accumulators and two weight vectors fill the
/// 32 registers.
const TILE_INPUTS: usize = 12;

/// Calls `$tile::<N>` for the number of inputs at hand, 1 to 12.
macro_rules! dispatch_tile {
    ($n:expr, $tile:ident $([$t:ty])?, $($arg:expr),*) => {
        match $n {
            1 => $tile::<1 $(, $t)?>($($arg),*),
            2 => $tile::<2 $(, $t)?>($($arg),*),
            3 => $tile::<3 $(, $t)?>($($arg),*),
            4 => $tile::<4 $(, $t)?>($($arg),*),
            5 => $tile::<5 $(, $t)?>($($arg),*),
            6 => $tile::<6 $(, $t)?>($($arg),*),
            7 => $tile::<7 $(, $t)?>($($arg),*),
            8 => $tile::<8 $(, $t)?>($($arg),*),
            9 => $tile::<9 $(, $t)?>($($arg),*),
            10 => $tile::<10 $(, $t)?>($($arg),*),
            11 => $tile::<11 $(, $t)?>($($arg),*),
            _ => $tile::<12 $(, $t)?>($($arg),*),
        }
    };
}

/// One input times the panels of `share`; the outputs of two panels are `stride` apart.
///
/// # Safety
/// The CPU has AVX-512 F, BW, VL and VNNI. The share's bytes are whole panels packed for this instruction
/// set, the input is quantized (and tabulated for a table format) for the share's columns, and `out` has 32
/// values for each panel.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(crate) unsafe fn gemv(share: &Share<'_>, input: &TokenInput, stride: usize, out: &mut [f32]) {
    // SAFETY: the caller's promises are those of the callees.
    unsafe {
        if let Some(kind) = Kind::of(share.format) {
            return tables::gemv(share, kind, input, stride, out);
        }
        let ahead = Ahead::new(share.bytes(), share.next);
        for (panel, out) in share.whole_panels().zip(out.chunks_mut(stride)) {
            let sums = match share.format {
                Format::Tq1_0 => blocks(panel, tq1_0::BLOCK_BYTES, input, &ahead, |mut at, planes| {
                    base3_steps(&mut at, tq1_0::BASE3_STEPS, planes);
                    i2_s_steps(&mut at, 1, planes);
                }),
                Format::Tq2_0 => blocks(panel, tq2_0::BLOCK_BYTES, input, &ahead, |mut at, planes| {
                    i2_s_steps(&mut at, tq2_0::BLOCK_COLS / COLUMN_STEP, planes);
                }),
                format => {
                    let (mut at, mut planes) = (Cursor::new(panel, input, &ahead), no_sums());
                    if format == Format::Base3 {
                        base3_steps(&mut at, panel.len() / base3::STEP_BYTES, &mut planes);
                    } else {
                        i2_s_steps(&mut at, panel.len() / i2_s::STEP_BYTES, &mut planes);
                    }
                    totals(&planes)
                }
            };
            store(sums, input.q_sum, share.scale, input, &mut out[..PANEL_ROWS]);
        }
    }
}

/// Where a product is in its weights and activations.
#[derive(Clone, Copy)]
struct Cursor<'a> {
    w: *const u8,
    q: *const i32,
    ahead: &'a Ahead,
}

impl<'a> Cursor<'a> {
    fn new(panel: &[u8], input: &TokenInput, ahead: &'a Ahead) -> Self {
        Cursor { w: panel.as_ptr(), q: input.q.as_ptr().cast(), ahead }
    }
}

/// Sums of a panel's two halves of 16 rows, for each place that a code can have in a byte.
type Planes = [[__m512i; 5]; 2];

/// No sums.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline]
fn no_sums() -> Planes {
    [[_mm512_setzero_si512(); 5]; 2]
}

/// Adds `n` steps of `i2_s` (128 bytes, 16 columns).
///
/// The four bit planes of a byte are not shifted down: `tile & 0x0c` is four times the codes, and so
/// on, so each plane has sums of its own, which are shifted at the end. That is exact, because every
/// term of a plane has the same factor, and saves three shifts in eleven instructions.
///
/// # Safety
/// The CPU has AVX-512 with VNNI; at the cursor are as many steps and their activations.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
unsafe fn i2_s_steps(at: &mut Cursor<'_>, n: usize, planes: &mut Planes) {
    let masks = plane_masks();
    for _ in 0..n {
        // SAFETY: the caller's promise; a prefetch never faults.
        unsafe {
            at.ahead.request(at.w, i2_s::STEP_BYTES);
            let tiles = [_mm512_loadu_si512(at.w.cast()), _mm512_loadu_si512(at.w.add(64).cast())];
            for plane in 0..4 {
                let x = _mm512_set1_epi32(at.q.add(plane).read_unaligned());
                for half in 0..2 {
                    let codes = _mm512_and_si512(tiles[half], masks[plane]);
                    planes[half][plane] = _mm512_dpbusd_epi32(planes[half][plane], codes, x);
                }
            }
            at.w = at.w.add(i2_s::STEP_BYTES);
            at.q = at.q.add(4);
        }
    }
}

/// Where the four codes of a byte are.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline]
fn plane_masks() -> [__m512i; 4] {
    [0x03, 0x0c, 0x30, 0xc0u8].map(|m| _mm512_set1_epi8(m as i8))
}

/// The next digit of 64 fractions, from the most significant down: the carry of a multiplication by 3.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline]
fn next_digit(bytes: &mut __m512i) -> __m512i {
    let one = _mm512_set1_epi8(1);
    let reaches =
        |least: u8| _mm512_min_epu8(_mm512_subs_epu8(*bytes, _mm512_set1_epi8((least - 1) as i8)), one);
    // A third of 256 is 85.3.
    let digit = _mm512_add_epi8(reaches(86), reaches(171));
    *bytes = _mm512_add_epi8(*bytes, _mm512_add_epi8(*bytes, *bytes));
    digit
}

/// Adds `n` steps of `base3` (128 bytes, 20 columns) whose bytes are fractions. Digits are not in place:
/// all go into the sums of plane 0.
///
/// # Safety
/// As for [`i2_s_steps`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
unsafe fn base3_steps(at: &mut Cursor<'_>, n: usize, planes: &mut Planes) {
    for _ in 0..n {
        // SAFETY: the caller's promise.
        unsafe {
            at.ahead.request(at.w, base3::STEP_BYTES);
            let mut bytes = [_mm512_loadu_si512(at.w.cast()), _mm512_loadu_si512(at.w.add(64).cast())];
            for digit in (0..5).rev() {
                let x = _mm512_set1_epi32(at.q.add(digit).read_unaligned());
                for (bytes, sums) in bytes.iter_mut().zip(&mut *planes) {
                    sums[0] = _mm512_dpbusd_epi32(sums[0], next_digit(bytes), x);
                }
            }
            at.w = at.w.add(base3::STEP_BYTES);
            at.q = at.q.add(5);
        }
    }
}

/// Sums of the planes, each in its place. Plane 4 holds sums of 84 times a code, which are multiples of 84:
/// a shift divides them by 4, multiplying with the inverse of 21 modulo 2^32 by 21, both exactly.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline]
fn totals(planes: &Planes) -> [__m512i; 2] {
    const INVERSE_OF_21: u32 = 0x3cf3_cf3d;
    const { assert!(INVERSE_OF_21.wrapping_mul(21) == 1 && base3::FIFTH == 4 * 21) };
    planes.map(|s| {
        let low = _mm512_add_epi32(s[0], _mm512_srai_epi32::<2>(s[1]));
        let high = _mm512_add_epi32(_mm512_srai_epi32::<4>(s[2]), _mm512_srai_epi32::<6>(s[3]));
        let fifth = _mm512_mullo_epi32(_mm512_srai_epi32::<2>(s[4]), _mm512_set1_epi32(INVERSE_OF_21 as i32));
        _mm512_add_epi32(_mm512_add_epi32(low, high), fifth)
    })
}

/// The sums of a panel of blocks of 256 columns, each block times its rows' scales. `steps` adds the sums
/// of a block's codes.
///
/// # Safety
/// The CPU has AVX-512 with VNNI; the panel is whole and the input has its columns.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
unsafe fn blocks(
    panel: &[u8],
    block_bytes: usize,
    input: &TokenInput,
    ahead: &Ahead,
    mut steps: impl FnMut(Cursor<'_>, &mut Planes),
) -> [__m512i; 2] {
    // The sum of the activations, which the caller subtracts from sums of codes, is in here already.
    let mut sums = [_mm512_set1_epi32(input.q_sum); 2];
    let mut at = Cursor::new(panel, input, ahead);
    for (block, q_sum) in panel.chunks_exact(block_bytes).zip(&input.block_sums) {
        at.w = block.as_ptr();
        let mut planes = no_sums();
        steps(at, &mut planes);
        let scales = block[block_bytes - tq2_0::SCALE_BYTES..].as_ptr();
        for (half, codes) in totals(&planes).into_iter().enumerate() {
            // SAFETY: the scales are 32 u16 at the end of the block; a block is 64 groups of four columns,
            // and the input has that many beyond its last column.
            unsafe {
                let scale = _mm512_cvtepu16_epi32(_mm256_loadu_si256(scales.add(32 * half).cast()));
                let trits = _mm512_sub_epi32(codes, _mm512_set1_epi32(*q_sum));
                sums[half] = _mm512_add_epi32(sums[half], _mm512_mullo_epi32(scale, trits));
            }
        }
        at.q = at.q.wrapping_add(tq2_0::BLOCK_COLS / 4);
    }
    sums
}

/// From sums to a panel's outputs.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline]
fn store(sums: [__m512i; 2], offset: i32, scale: f32, input: &TokenInput, out: &mut [f32]) {
    let mut lanes = [0i32; PANEL_ROWS];
    for (lanes, sums) in lanes.chunks_exact_mut(16).zip(sums) {
        // SAFETY: 16 lanes of 4 bytes are one vector.
        unsafe { _mm512_storeu_si512(lanes.as_mut_ptr().cast(), sums) };
    }
    finish_sums(&lanes, offset, scale, input, out);
}

/// Spreads the one panel of `share` to one code a byte: for each four columns the 32 rows' four codes.
///
/// # Safety
/// The CPU has AVX-512 F, BW, VL and VNNI; `codes` has 32 bytes for each padded column.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(crate) unsafe fn unpack(share: &Share<'_>, codes: &mut [u8]) {
    // SAFETY: the caller's promises.
    unsafe {
        unpack_with(share, codes, |step, codes| {
            let mut bytes = load_step(step);
            for digit in (0..5).rev() {
                for (half, bytes) in bytes.iter_mut().enumerate() {
                    store_codes(next_digit(bytes), digit, half, codes);
                }
            }
        });
    }
}

/// The two halves of a step.
///
/// # Safety
/// The CPU has AVX-512 F, BW and VL; the step is of 128 bytes.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline]
unsafe fn load_step(step: &[u8]) -> [__m512i; 2] {
    // SAFETY: the caller's promise.
    unsafe { [0, 64].map(|at| _mm512_loadu_si512(step[at..][..64].as_ptr().cast())) }
}

/// Stores a half's codes of the four columns `four`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline]
fn store_codes(values: __m512i, four: usize, half: usize, codes: &mut [u8]) {
    // SAFETY: the slice has 64 bytes.
    unsafe { _mm512_storeu_si512(codes[four * 128 + half * 64..][..64].as_mut_ptr().cast(), values) };
}

/// [`unpack`] for any way of unpacking a step of `base3`.
///
/// # Safety
/// As for [`unpack`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
unsafe fn unpack_with(share: &Share<'_>, codes: &mut [u8], base3_step: impl Fn(&[u8], &mut [u8])) {
    let fives = |steps: &[u8], codes: &mut [u8]| {
        let codes = codes.chunks_exact_mut(base3::STEP_COLS * PANEL_ROWS);
        steps.chunks_exact(base3::STEP_BYTES).zip(codes).for_each(|(step, codes)| base3_step(step, codes));
    };
    // SAFETY: the caller's promises are those of the callees.
    unsafe {
        if let Some(kind) = Kind::of(share.format) {
            return tables::unpack(share, kind, codes);
        }
        let Some(panel) = share.whole_panels().next() else { return };
        let blocks = codes.chunks_exact_mut(tq2_0::BLOCK_COLS * PANEL_ROWS);
        match share.format {
            Format::Base3 => fives(panel, codes),
            Format::Tq1_0 => {
                for (block, codes) in panel.chunks_exact(tq1_0::BLOCK_BYTES).zip(blocks) {
                    let (first, last) = codes.split_at_mut(tq1_0::BASE3_COLS * PANEL_ROWS);
                    fives(&block[..tq1_0::BASE3_BYTES], first);
                    unpack_fours(&block[tq1_0::BASE3_BYTES..tq1_0::CODE_BYTES], last);
                }
            }
            Format::Tq2_0 => {
                for (block, codes) in panel.chunks_exact(tq2_0::BLOCK_BYTES).zip(blocks) {
                    unpack_fours(&block[..tq2_0::CODE_BYTES], codes);
                }
            }
            _ => unpack_fours(panel, codes),
        }
    }
}

/// The codes of `i2_s` steps.
///
/// # Safety
/// The CPU has AVX-512 F, BW and VL.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn unpack_fours(steps: &[u8], codes: &mut [u8]) {
    let mask = _mm512_set1_epi8(3);
    let codes = codes.chunks_exact_mut(COLUMN_STEP * PANEL_ROWS);
    for (step, codes) in steps.chunks_exact(i2_s::STEP_BYTES).zip(codes) {
        // SAFETY: the chunks are whole steps.
        for (half, tile) in unsafe { load_step(step) }.into_iter().enumerate() {
            let planes = [
                tile,
                _mm512_srli_epi16::<2>(tile),
                _mm512_srli_epi16::<4>(tile),
                _mm512_srli_epi16::<6>(tile),
            ];
            for (plane, values) in planes.into_iter().enumerate() {
                store_codes(_mm512_and_si512(values, mask), plane, half, codes);
            }
        }
    }
}

/// One panel, as codes, times several inputs.
///
/// # Safety
/// The CPU has AVX-512 F, BW, VL and VNNI. `codes` has 128 bytes for each four columns, each input's `q` as
/// many values, and `out` 32 values for each input.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(crate) unsafe fn gemm(codes: &[u8], scale: f32, inputs: &[TokenInput], out: &mut [f32]) {
    debug_assert!(inputs.iter().all(|i| i.q.len() >= codes.len() / PANEL_ROWS));
    debug_assert_eq!(out.len(), inputs.len() * PANEL_ROWS);
    for (inputs, out) in inputs.chunks(TILE_INPUTS).zip(out.chunks_mut(TILE_INPUTS * PANEL_ROWS)) {
        // SAFETY: the caller's promises are those of the callee.
        unsafe { dispatch_tile!(inputs.len(), code_tile, codes, scale, inputs, out) };
    }
}

/// 32 rows x N inputs, from unpacked codes; all sums stay in registers.
///
/// # Safety
/// As for [`gemm`]; `inputs` has N elements.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn code_tile<const N: usize>(codes: &[u8], scale: f32, inputs: &[TokenInput], out: &mut [f32]) {
    let inputs: &[TokenInput; N] = inputs.try_into().expect("as many inputs as the tile is wide");
    // SAFETY: each four columns are 128 bytes of codes and 4 of each input's q.
    unsafe {
        let q: [*const i8; N] = std::array::from_fn(|n| inputs[n].q.as_ptr());
        let mut sums = [[_mm512_setzero_si512(); 2]; N];
        let mut w = codes.as_ptr();
        for c in 0..codes.len() / 128 {
            let tiles = [_mm512_loadu_si512(w.cast()), _mm512_loadu_si512(w.add(64).cast())];
            for n in 0..N {
                let x = _mm512_set1_epi32(q[n].add(4 * c).cast::<i32>().read_unaligned());
                sums[n][0] = _mm512_dpbusd_epi32(sums[n][0], tiles[0], x);
                sums[n][1] = _mm512_dpbusd_epi32(sums[n][1], tiles[1], x);
            }
            w = w.add(128);
        }
        for (n, out) in out.chunks_exact_mut(PANEL_ROWS).enumerate() {
            store(sums[n], inputs[n].q_sum, scale, &inputs[n], out);
        }
    }
}

/// Sixteen elements as f32.
///
/// # Safety
/// The CPU has AVX-512 F, BW and VL; `T` is f16 or f32 and 16 elements are readable at `p`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline]
unsafe fn load16<T>(p: *const T) -> __m512 {
    // SAFETY: 16 elements of two or four bytes are 32 or 64 bytes.
    unsafe {
        if size_of::<T>() == 2 {
            _mm512_cvtph_ps(_mm256_loadu_si256(p.cast()))
        } else {
            _mm512_loadu_ps(p.cast())
        }
    }
}

/// One float panel (elements f16 or f32) times all inputs.
///
/// # Safety
/// The CPU has AVX-512 F, BW and VL. `panel` has 32 elements for each value of an input's `x`, `out` 32 values
/// for each input, and `scratch` room for 32 x [`FLOAT_BLOCK_COLS`] floats, aligned as such.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(crate) unsafe fn float_panel<T: Element>(
    panel: &[T],
    scale: f32,
    inputs: &[TokenInput],
    ahead: &Ahead,
    scratch: &mut [u8],
    out: &mut [f32],
) {
    debug_assert!(inputs.iter().all(|i| i.x.len() * PANEL_ROWS == panel.len()));
    debug_assert_eq!(out.len(), inputs.len() * PANEL_ROWS);
    // SAFETY: the caller's promises are those of the callees.
    unsafe {
        if let [input] = inputs {
            float_gemv(panel, scale, input, ahead, out);
            return;
        }
        let scratch: &mut [f32] = bytemuck::cast_slice_mut(scratch);
        out.fill(0.0);
        for (b, block) in panel.chunks(FLOAT_BLOCK_COLS * PANEL_ROWS).enumerate() {
            let weights = &mut scratch[..block.len()];
            for (w, out) in block.chunks_exact(16).zip(weights.chunks_exact_mut(16)) {
                _mm512_storeu_ps(out.as_mut_ptr(), load16(w.as_ptr()));
            }
            float_tiles(weights, b * FLOAT_BLOCK_COLS, inputs, out);
        }
        for out in out {
            *out *= scale;
        }
    }
}

/// Adds a block of columns, from `col` on, times all inputs to their outputs.
///
/// # Safety
/// As for [`float_tile`], for any number of inputs.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn float_tiles(weights: &[f32], col: usize, inputs: &[TokenInput], out: &mut [f32]) {
    for (inputs, out) in inputs.chunks(TILE_INPUTS).zip(out.chunks_mut(TILE_INPUTS * PANEL_ROWS)) {
        // SAFETY: the caller's promise.
        unsafe { dispatch_tile!(inputs.len(), float_tile, weights, col, inputs, out) };
    }
}

/// One panel times one input: four columns in flight, so that additions do not wait for each other.
///
/// # Safety
/// As for [`float_panel`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn float_gemv<T: Element>(
    panel: &[T],
    scale: f32,
    input: &TokenInput,
    ahead: &Ahead,
    out: &mut [f32],
) {
    let mut sums = [[_mm512_setzero_ps(); 4]; 2];
    for (columns, x) in panel.chunks_exact(4 * PANEL_ROWS).zip(input.x.chunks_exact(4)) {
        // SAFETY: 4 columns of 32 elements; a prefetch never faults.
        unsafe {
            let w = columns.as_ptr();
            ahead.request(w.cast(), size_of_val(columns));
            for c in 0..4 {
                let x = _mm512_set1_ps(x[c]);
                sums[0][c] = _mm512_fmadd_ps(load16(w.add(c * PANEL_ROWS)), x, sums[0][c]);
                sums[1][c] = _mm512_fmadd_ps(load16(w.add(c * PANEL_ROWS + 16)), x, sums[1][c]);
            }
        }
    }
    for (s, out) in sums.iter().zip(out.chunks_exact_mut(16)) {
        let sum = _mm512_add_ps(_mm512_add_ps(s[0], s[1]), _mm512_add_ps(s[2], s[3]));
        // SAFETY: `out` has 16 values.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), _mm512_mul_ps(sum, _mm512_set1_ps(scale))) };
    }
}

/// Adds a block of columns, from `col` on, times N inputs to their 32 outputs.
///
/// # Safety
/// As for [`float_panel`]; `inputs` has N elements with `weights.len() / 32` values from `col` on.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn float_tile<const N: usize>(weights: &[f32], col: usize, inputs: &[TokenInput], out: &mut [f32]) {
    let inputs: &[TokenInput; N] = inputs.try_into().expect("as many inputs as the tile is wide");
    // SAFETY: each column is 32 floats of `weights` and one of each input's x; `out` has 32 N.
    unsafe {
        let x: [*const f32; N] = std::array::from_fn(|n| inputs[n].x[col..].as_ptr());
        let mut sums = [[_mm512_setzero_ps(); 2]; N];
        let mut w = weights.as_ptr();
        for c in 0..weights.len() / PANEL_ROWS {
            let columns = [_mm512_loadu_ps(w), _mm512_loadu_ps(w.add(16))];
            for n in 0..N {
                let x = _mm512_set1_ps(*x[n].add(c));
                sums[n][0] = _mm512_fmadd_ps(columns[0], x, sums[n][0]);
                sums[n][1] = _mm512_fmadd_ps(columns[1], x, sums[n][1]);
            }
            w = w.add(PANEL_ROWS);
        }
        for (n, out) in out.chunks_exact_mut(PANEL_ROWS).enumerate() {
            for half in 0..2 {
                let to = out[half * 16..].as_mut_ptr();
                _mm512_storeu_ps(to, _mm512_add_ps(_mm512_loadu_ps(to), sums[n][half]));
            }
        }
    }
}

/// `scores[i] = query . keys[i] * scale`. Products and sums are rounded one by one, in the order of the
/// scalar form; four keys at a time hide the latency of the additions. `next` is read after the keys.
///
/// # Safety
/// The CPU has AVX-512 F, BW and VL, and AVX2. `T` is f16 or f32, the query's length is a multiple of 16,
/// and `keys` holds one of that length for each score.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,f16c")]
pub(crate) unsafe fn attention_scores<T>(
    query: &[f32],
    keys: &[T],
    next: &[T],
    scale: f32,
    scores: &mut [f32],
) {
    let dim = query.len();
    debug_assert_eq!(keys.len(), dim * scores.len());
    for (block, (part, scores)) in keys.chunks(4 * dim).zip(scores.chunks_mut(4)).enumerate() {
        request_next(next, block * 4 * dim * size_of::<T>(), size_of_val(part));
        // SAFETY: the keys of these (at most four) scores; missing ones read the last again.
        unsafe {
            let key: [*const T; 4] = std::array::from_fn(|i| part[i.min(scores.len() - 1) * dim..].as_ptr());
            let mut sums = [_mm512_setzero_ps(); 4];
            for at in (0..dim).step_by(16) {
                let q = _mm512_loadu_ps(query.as_ptr().add(at));
                for i in 0..4 {
                    sums[i] = _mm512_add_ps(sums[i], _mm512_mul_ps(q, load16(key[i].add(at))));
                }
            }
            let mut four = [0f32; 4];
            _mm_storeu_ps(four.as_mut_ptr(), _mm_mul_ps(sum_lanes_of_4(sums), _mm_set1_ps(scale)));
            scores.copy_from_slice(&four[..scores.len()]);
        }
    }
}

/// The sums of the lanes of four vectors, each in the order of the scalar form: the halves, then the
/// quarters, and so on, of two vectors at a time.
///
/// # Safety
/// The CPU has AVX-512 F, BW and VL, and AVX2.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2")]
#[inline]
unsafe fn sum_lanes_of_4(sums: [__m512; 4]) -> __m128 {
    // SAFETY: register arithmetic only; before Rust 1.87 these intrinsics count as unsafe.
    #[allow(unused_unsafe, reason = "safe since Rust 1.87")]
    unsafe {
        // Eight sums of `a` in the low half, of `b` in the high one.
        let halves = |a, b| {
            _mm512_add_ps(
                _mm512_shuffle_f32x4::<0b01_00_01_00>(a, b),
                _mm512_shuffle_f32x4::<0b11_10_11_10>(a, b),
            )
        };
        let (a, b) = (halves(sums[0], sums[1]), halves(sums[2], sums[3]));
        // Four sums of each vector in a quarter of its own.
        let x = _mm512_add_ps(
            _mm512_shuffle_f32x4::<0b10_00_10_00>(a, b),
            _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b),
        );
        // Within each quarter: two sums, then one.
        let x = _mm512_add_ps(x, _mm512_permute_ps::<0b11_10_11_10>(x));
        let x = _mm512_add_ps(x, _mm512_permute_ps::<0b01_01_01_01>(x));
        let firsts = _mm512_setr_epi32(0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12);
        _mm512_castps512_ps128(_mm512_permutexvar_ps(firsts, x))
    }
}

/// [`attention_scores`] of four queries, four keys at a time: each is loaded and converted once for all.
/// Each row of `scores` gets those of the keys and keeps what is behind them.
///
/// # Safety
/// The CPU has AVX-512 F, BW and VL, AVX2 and F16C. `T` is f16 or f32, `queries` holds four vectors of a multiple of
/// 16 elements, `keys` such vectors, and `scores` four rows of no fewer elements than there are keys.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,f16c")]
pub(crate) unsafe fn attention_scores_of_4<T>(queries: &[f32], keys: &[T], scale: f32, scores: &mut [f32]) {
    let (dim, stride) = (queries.len() / 4, scores.len() / 4);
    let n = keys.len() / dim;
    debug_assert!(dim % 16 == 0 && keys.len() % dim == 0 && n <= stride);
    for first in (0..n).step_by(4) {
        let count = (n - first).min(4);
        // SAFETY: keys from `first` on; missing ones read the last again.
        unsafe {
            let key: [*const T; 4] =
                std::array::from_fn(|i| keys[(first + i.min(count - 1)) * dim..].as_ptr());
            let mut sums = [[_mm512_setzero_ps(); 4]; 4];
            for at in (0..dim).step_by(16) {
                let k: [__m512; 4] = std::array::from_fn(|i| load16(key[i].add(at)));
                for (t, sums) in sums.iter_mut().enumerate() {
                    let q = _mm512_loadu_ps(queries.as_ptr().add(t * dim + at));
                    for i in 0..4 {
                        sums[i] = _mm512_add_ps(sums[i], _mm512_mul_ps(q, k[i]));
                    }
                }
            }
            for (t, sums) in sums.into_iter().enumerate() {
                let mut four = [0f32; 4];
                _mm_storeu_ps(four.as_mut_ptr(), _mm_mul_ps(sum_lanes_of_4(sums), _mm_set1_ps(scale)));
                scores[t * stride + first..][..count].copy_from_slice(&four[..count]);
            }
        }
    }
}

/// Adds weights[i] * values[i] to `out`, for each token: its weights, its part of `out`. Of each token's
/// row of weights the first are those of the values. Sums stay in registers over all values, so many at
/// a time that the additions hide each other's latency.
///
/// # Safety
/// The CPU has AVX-512 F, BW and VL. `T` is f16 or f32, a token's part of `out` is a multiple of 16 long, and
/// `values` holds vectors of that length, no more than each token has weights.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(crate) unsafe fn add_values<T>(
    tokens: usize,
    weights: &[f32],
    values: &[T],
    next: &[T],
    out: &mut [f32],
) {
    let (dim, stride) = (out.len() / tokens, weights.len() / tokens);
    debug_assert!(dim % 16 == 0 && values.len() % dim == 0 && values.len() / dim <= stride);
    let mut t = 0;
    while t < tokens {
        let group = if tokens - t >= 4 { 4 } else { 1 };
        let weights = &weights[t * stride..][..group * stride];
        let out = &mut out[t * dim..][..group * dim];
        let mut at = 0;
        while at < dim {
            // SAFETY: the vectors from `at` on that each row of `out` still has.
            unsafe {
                at += match (group, (dim - at) / 16) {
                    (4, 6) => add_values_of::<4, 6, T>(weights, stride, values, next, dim, at, out),
                    (4, 4..) => add_values_of::<4, 4, T>(weights, stride, values, next, dim, at, out),
                    (4, 2..4) => add_values_of::<4, 2, T>(weights, stride, values, next, dim, at, out),
                    (4, _) => add_values_of::<4, 1, T>(weights, stride, values, next, dim, at, out),
                    (_, 8..) => add_values_of::<1, 8, T>(weights, stride, values, next, dim, at, out),
                    (_, 6..8) => add_values_of::<1, 6, T>(weights, stride, values, next, dim, at, out),
                    (_, 4..6) => add_values_of::<1, 4, T>(weights, stride, values, next, dim, at, out),
                    (_, 2..4) => add_values_of::<1, 2, T>(weights, stride, values, next, dim, at, out),
                    _ => add_values_of::<1, 1, T>(weights, stride, values, next, dim, at, out),
                };
            }
        }
        t += group;
    }
}

/// N vectors, from element `at` on, of Q tokens of [`add_values`]; returns how many elements of each
/// those are.
///
/// # Safety
/// As for [`add_values`], with Q tokens; their parts of `out` have 16 N elements from `at` on.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn add_values_of<const Q: usize, const N: usize, T>(
    weights: &[f32],
    stride: usize,
    values: &[T],
    next: &[T],
    dim: usize,
    at: usize,
    out: &mut [f32],
) -> usize {
    // SAFETY: the caller's promise.
    unsafe {
        let rows: [*const f32; Q] = std::array::from_fn(|q| weights[q * stride..].as_ptr());
        let mut sums = [[_mm512_setzero_ps(); Q]; N];
        for (n, sums) in sums.iter_mut().enumerate() {
            for (q, sum) in sums.iter_mut().enumerate() {
                *sum = _mm512_loadu_ps(out[q * dim + at + 16 * n..].as_ptr());
            }
        }
        for i in 0..values.len() / dim {
            let value = values.as_ptr().add(i * dim + at);
            let bytes = N * 16 * size_of::<T>();
            request_next(next, (i * dim + at) * size_of::<T>(), bytes);
            let w: [__m512; Q] = std::array::from_fn(|q| _mm512_set1_ps(*rows[q].add(i)));
            for (n, sums) in sums.iter_mut().enumerate() {
                let v = load16(value.add(16 * n));
                for (sum, w) in sums.iter_mut().zip(w) {
                    *sum = _mm512_add_ps(*sum, _mm512_mul_ps(w, v));
                }
            }
        }
        for (n, sums) in sums.into_iter().enumerate() {
            for (q, sum) in sums.into_iter().enumerate() {
                _mm512_storeu_ps(out[q * dim + at + 16 * n..][..16].as_mut_ptr(), sum);
            }
        }
    }
    16 * N
}

/// Sum of all words: see [`crate::vector::read`].
///
/// # Safety
/// The CPU has AVX-512 F, BW and VL.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(crate) unsafe fn read(words: &[u64], next: *const u8) -> u64 {
    let ahead = Ahead::new(bytemuck::cast_slice(words), next);
    // Four cache lines a turn, each vector with a sum of its own.
    let blocks = words.chunks_exact(32);
    let rest = blocks.remainder();
    let mut lanes = [0u64; 8];
    // SAFETY: each block is 4 vectors of 8 words; a prefetch never faults.
    unsafe {
        let mut sums = [_mm512_setzero_si512(); 4];
        for block in blocks {
            for (i, sum) in sums.iter_mut().enumerate() {
                ahead.request(block.as_ptr().wrapping_add(8 * i).cast(), 64);
                *sum = _mm512_add_epi64(*sum, _mm512_loadu_si512(block.as_ptr().add(8 * i).cast()));
            }
        }
        let total = sums.into_iter().fold(_mm512_setzero_si512(), |a, b| _mm512_add_epi64(a, b));
        _mm512_storeu_si512(lanes.as_mut_ptr().cast(), total);
    }
    lanes.iter().chain(rest).fold(0, |a, b| a.wrapping_add(*b))
}
