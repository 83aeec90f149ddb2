//! The façade over all formats and instruction sets: a packed matrix and its product.

use std::ops::Range;
use std::sync::Arc;

use half::f16;
use rayon::prelude::*;

use crate::format::tables::{self, Kind};
use crate::format::{Format, MAX_TERNARY_COLS, blocks, float_panels, fp32_rows};
use crate::input::{COLUMN_STEP, SLACK};
use crate::isa::Level;
use crate::{Arena, ArenaWriter, Isa, PANEL_ROWS, TokenInput, arch};

/// A packed matrix: `rows` outputs, `cols` inputs, `weight = stored value * scale`.
#[derive(Debug, Clone)]
pub struct Matrix {
    packed: PackedMatrix,
    arena: Arc<Arena>,
}

/// A matrix whose arena is still being filled.
#[derive(Debug, Clone)]
pub struct PackedMatrix {
    format: Format,
    isa: Isa,
    rows: usize,
    cols: usize,
    scale: f32,
    range: Range<usize>,
}

impl PackedMatrix {
    /// Packs a float matrix. `fill` writes the given rows, row-major; it runs on rayon's threads.
    ///
    /// # Errors
    /// The first error of `fill`.
    ///
    /// # Panics
    /// If the arena is too small, or the format is a ternary one.
    pub fn pack_floats<E: Send>(
        arena: &mut ArenaWriter,
        format: Format,
        isa: Isa,
        (rows, cols): (usize, usize),
        scale: f32,
        fill: impl Fn(Range<usize>, &mut [f32]) -> Result<(), E> + Sync,
    ) -> Result<Self, E> {
        let (range, out) = arena.block(format.packed_len(rows, cols)).expect("arena holds every matrix");
        match format {
            Format::Fp32Rows => fp32_rows::pack(out, rows, cols, fill)?,
            Format::F16Panels => float_panels::pack::<f16, E>(out, rows, cols, fill)?,
            Format::F32Panels => float_panels::pack::<f32, E>(out, rows, cols, fill)?,
            _ => panic!("{format:?} matrices are not packed from floats"),
        }
        Ok(PackedMatrix { format, isa, rows, cols, scale, range })
    }

    /// Packs a matrix of a block format ([`Format::Q8_0`], [`Format::Q6K`]). `fill` writes the given rows as
    /// ggml's blocks, one behind the other; it runs on rayon's threads.
    ///
    /// # Errors
    /// The first error of `fill`.
    ///
    /// # Panics
    /// If the arena is too small, the format has no blocks, or `cols` is no whole number of them (32, 256).
    pub fn pack_blocks<E: Send>(
        arena: &mut ArenaWriter,
        format: Format,
        isa: Isa,
        (rows, cols): (usize, usize),
        fill: impl Fn(Range<usize>, &mut [u8]) -> Result<(), E> + Sync,
    ) -> Result<Self, E> {
        let (range, out) = arena.block(format.packed_len(rows, cols)).expect("arena holds every matrix");
        blocks::pack(format, out, rows, cols, fill)?;
        Ok(PackedMatrix { format, isa, rows, cols, scale: 1.0, range })
    }

    /// Packs a ternary matrix. `fill` writes the trits (-1, 0, 1) of the given rows, row-major; it runs on
    /// rayon's threads.
    ///
    /// # Errors
    /// The first error of `fill`.
    ///
    /// # Panics
    /// If the arena is too small, the format is none of ternary weights, `cols` exceeds
    /// [`MAX_TERNARY_COLS`], or `fill` wrote something that is no trit.
    pub fn pack_ternary<E: Send>(
        arena: &mut ArenaWriter,
        format: Format,
        isa: Isa,
        (rows, cols): (usize, usize),
        scale: f32,
        fill: impl Fn(Range<usize>, &mut [i8]) -> Result<(), E> + Sync,
    ) -> Result<Self, E> {
        assert!(cols <= MAX_TERNARY_COLS, "at most {MAX_TERNARY_COLS} columns, not {cols}");
        let (range, out) = arena.block(format.packed_len(rows, cols)).expect("arena holds every matrix");
        let (panels, len, stride) =
            (rows.div_ceil(PANEL_ROWS), format.panel_len(cols), format.padded_cols(cols));
        let pack = |panel: usize, out: &mut [u8]| -> Result<(), E> {
            let own = panel * PANEL_ROWS..((panel + 1) * PANEL_ROWS).min(rows);
            let mut values = vec![0i8; own.len() * cols];
            fill(own, &mut values)?;
            assert!(values.iter().all(|t| (-1..=1).contains(t)), "a trit is -1, 0 or 1");
            let mut trits = vec![0i8; PANEL_ROWS * stride];
            for (padded, row) in trits.chunks_exact_mut(stride).zip(values.chunks_exact(cols)) {
                padded[..cols].copy_from_slice(row);
            }
            format.pack_panel(isa, cols, &trits, out);
            Ok(())
        };
        match Kind::of(format) {
            None => out
                .par_chunks_exact_mut(len.max(1))
                .enumerate()
                .try_for_each(|(panel, out)| pack(panel, out))?,
            // A panel's chunks lie apart: see `format::tables`.
            Some(kind) => {
                let mut packed = vec![0u8; panels * len];
                packed.par_chunks_exact_mut(len).enumerate().try_for_each(|(panel, out)| pack(panel, out))?;
                for chunk in tables::chunks(kind, isa.word_tables(), cols) {
                    let out = &mut out[panels * chunk.start..][..panels * chunk.bytes];
                    for (out, panel) in out.chunks_exact_mut(chunk.bytes).zip(packed.chunks_exact(len)) {
                        out.copy_from_slice(&panel[chunk.start..][..chunk.bytes]);
                    }
                }
            }
        }
        Ok(PackedMatrix { format, isa, rows, cols, scale, range })
    }

    /// A matrix whose bytes are in the arena already, as an earlier packing left them there; it takes the
    /// arena's next block.
    ///
    /// # Panics
    /// If the arena is too small.
    pub fn adopt(
        arena: &mut ArenaWriter,
        format: Format,
        isa: Isa,
        (rows, cols): (usize, usize),
        scale: f32,
    ) -> Self {
        let (range, _) = arena.block(format.packed_len(rows, cols)).expect("arena holds every matrix");
        PackedMatrix { format, isa, rows, cols, scale, range }
    }

    /// The matrix, in the finished arena it was packed into.
    pub fn finish(self, arena: Arc<Arena>) -> Matrix {
        assert!(self.range.end <= arena.bytes().len(), "the matrix belongs to another arena");
        Matrix { packed: self, arena }
    }
}

/// Working memory of one thread for products with several tokens.
#[derive(Debug, Default)]
pub struct Scratch {
    lines: Vec<Line>,
    /// Address of what the thread reads after its next product; 0 if it is not known.
    next: usize,
}

/// One cache line: keeps the scratch aligned for whole-vector loads.
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

impl Scratch {
    /// Scratch for matrices of up to `max_cols` columns; using it for those never allocates.
    pub fn new(max_cols: usize) -> Self {
        Scratch { lines: vec![Line([0; 64]); Scratch::memory_bytes(max_cols) / size_of::<Line>()], next: 0 }
    }

    /// Says which panels this thread multiplies with one input after its next product, which then requests the
    /// first of their weights before it ends.
    ///
    /// # Panics
    /// If they are not panels of the matrix.
    pub fn expect(&mut self, matrix: &Matrix, panels: Range<usize>) {
        self.next = matrix.first_bytes(panels).as_ptr() as usize;
    }

    /// Memory in bytes that scratch for matrices of up to `max_cols` columns takes.
    pub fn memory_bytes(max_cols: usize) -> usize {
        (PANEL_ROWS * (max_cols.next_multiple_of(COLUMN_STEP) + SLACK))
            .max(PANEL_ROWS * arch::FLOAT_BLOCK_COLS * size_of::<f32>())
            .next_multiple_of(size_of::<Line>())
    }

    fn bytes(&mut self, len: usize) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..len]
    }
}

/// Panels of a ternary matrix, as the kernels see them.
#[derive(Debug, Clone)]
pub(crate) struct Share<'a> {
    pub(crate) format: Format,
    pub(crate) cols: usize,
    pub(crate) scale: f32,
    pub(crate) panels: Range<usize>,
    /// What is read behind them.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "nothing is requested ahead there"))]
    pub(crate) next: *const u8,
    words: bool,
    all_panels: usize,
    data: &'a [u8],
}

impl<'a> Share<'a> {
    /// The bytes of all the panels, of a format that keeps each in one piece.
    pub(crate) fn bytes(&self) -> &'a [u8] {
        let len = self.format.panel_len(self.cols);
        &self.data[self.panels.start * len..self.panels.end * len]
    }

    /// The panels, of such a format.
    pub(crate) fn whole_panels(&self) -> std::slice::ChunksExact<'a, u8> {
        self.bytes().chunks_exact(self.format.panel_len(self.cols))
    }

    /// The chunks of a table format, each with its bytes of all panels of the share.
    pub(crate) fn chunks(&self, kind: Kind) -> impl Iterator<Item = (tables::Chunk, &'a [u8])> + Clone {
        let (data, all, panels) = (self.data, self.all_panels, self.panels.clone());
        tables::chunks(kind, self.words, self.cols).map(move |chunk| {
            let of_all = &data[all * chunk.start..];
            (chunk, &of_all[panels.start * chunk.bytes..panels.end * chunk.bytes])
        })
    }
}

impl Matrix {
    /// Number of rows (outputs).
    pub fn rows(&self) -> usize {
        self.packed.rows
    }

    /// Number of columns (inputs).
    pub fn cols(&self) -> usize {
        self.packed.cols
    }

    /// How the weights are stored.
    pub fn format(&self) -> Format {
        self.packed.format
    }

    /// What the sums over the stored values are multiplied with.
    pub fn scale(&self) -> f32 {
        self.packed.scale
    }

    /// The arena that holds this matrix and those packed with it.
    pub fn arena(&self) -> &Arena {
        &self.arena
    }

    /// The instruction set that the matrix is packed for and multiplied with.
    pub fn isa(&self) -> Isa {
        self.packed.isa
    }

    /// Number of panels: the unit in which work is split.
    pub fn panels(&self) -> usize {
        self.rows().div_ceil(PANEL_ROWS)
    }

    /// Bytes that a product must read: all weights at the format's bits, without padding.
    pub fn payload_bytes(&self) -> u64 {
        self.format().payload_bytes(self.rows(), self.cols())
    }

    /// Bytes that the packed matrix occupies.
    pub fn packed_bytes(&self) -> usize {
        self.packed.range.len()
    }

    /// Row `row` as f32, into `out` (of `cols` elements): an embedding lookup.
    ///
    /// # Panics
    /// If `row` is no row of the matrix, or `out` has another length.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        let (cols, data) = (self.cols(), self.data());
        assert!(row < self.rows() && out.len() == cols);
        match self.format() {
            Format::Fp32Rows => {
                let stride = cols.next_multiple_of(COLUMN_STEP);
                let data: &[f32] = bytemuck::cast_slice(data);
                out.copy_from_slice(&data[row * stride..][..cols]);
            }
            Format::F16Panels => float_panels::unpack_row::<f16>(data, cols, row, out),
            Format::F32Panels => float_panels::unpack_row::<f32>(data, cols, row, out),
            format @ (Format::Q8_0 | Format::Q6K) => blocks::unpack_row(format, data, cols, row, out),
            ternary => {
                let mut codes = vec![0; PANEL_ROWS * ternary.padded_cols(cols)];
                let panel = row / PANEL_ROWS;
                arch::scalar::unpack(self.isa(), &self.share(panel..panel + 1), &mut codes);
                for (c, out) in out.iter_mut().enumerate() {
                    let code = codes[4 * (c / 4 * PANEL_ROWS + row % PANEL_ROWS) + c % 4];
                    *out = f32::from(code) - 1.0;
                }
            }
        }
        for out in out {
            *out *= self.packed.scale;
        }
    }

    /// Multiplies the rows of `panels` with each of `inputs`: GEMV for one input, GEMM for more.
    ///
    /// `out` is panel-major, `[panel][input][32 rows]`, so that threads which share the panels write
    /// to contiguous, disjoint parts of one buffer. Rows beyond the matrix in the last panel get 0.
    ///
    /// For ternary formats the inputs must have been quantized, and tabulated for a table format if there is
    /// one input or the format is [`Format::Tl2Lossy`]. The result is
    /// `(sum of q * trit) * (q_step * scale)` with an exact integer sum, the same bit for bit in every exact
    /// format, on every instruction set and in every batch. Float results depend on the order of summation.
    ///
    /// # Panics
    /// If an input's length does not fit the matrix, it lacks what the format needs, or `out` does not fit
    /// the panels and inputs.
    pub fn mul(&self, panels: Range<usize>, inputs: &[TokenInput], scratch: &mut Scratch, out: &mut [f32]) {
        let (format, cols) = (self.format(), self.cols());
        let stride = cols.next_multiple_of(COLUMN_STEP);
        let ternary = format.is_ternary();
        let next = std::mem::take(&mut scratch.next) as *const u8;
        assert!(panels.start <= panels.end && panels.end <= self.panels(), "panels of the matrix");
        assert_eq!(out.len(), panels.len() * inputs.len() * PANEL_ROWS, "one output for each row and input");
        for input in inputs {
            assert_eq!(input.x.len(), stride, "the input has the matrix's columns");
            assert!(!ternary || input.q.len() == stride + SLACK, "the input is quantized");
        }
        if out.is_empty() {
            return;
        }
        if !ternary {
            return self.mul_floats(panels, inputs, next, scratch, out);
        }
        if let ([_], _) | (_, Format::Tl2Lossy) = (inputs, format) {
            let share = Share { next, ..self.share(panels) };
            for (t, input) in inputs.iter().enumerate() {
                assert!(!format.needs_tables() || input.tables_of == Some(format), "the input is tabulated");
                self.gemv(&share, input, scratch, inputs.len() * PANEL_ROWS, &mut out[t * PANEL_ROWS..]);
            }
            return;
        }
        let codes = scratch.bytes(PANEL_ROWS * format.padded_cols(cols));
        for (panel, out) in panels.zip(out.chunks_exact_mut(inputs.len() * PANEL_ROWS)) {
            self.gemm(&self.share(panel..panel + 1), inputs, codes, out);
        }
    }

    /// Reads the weights of `panels`, as [`mul`](Self::mul) does but without arithmetic, and returns a
    /// checksum: the time that takes is the least that a product can take.
    ///
    /// # Panics
    /// If they are not panels of the matrix.
    pub fn read(&self, panels: Range<usize>, scratch: &mut Scratch) -> u64 {
        let panel_bytes = self.format().panel_len(self.cols());
        let panels = &self.data()[panels.start * panel_bytes..panels.end * panel_bytes];
        let next = std::mem::take(&mut scratch.next) as *const u8;
        crate::vector::read_before(self.isa(), bytemuck::cast_slice(panels), next)
    }

    /// The weights of `panels` that a product reads first.
    fn first_bytes(&self, panels: Range<usize>) -> &[u8] {
        assert!(panels.start <= panels.end && panels.end <= self.panels(), "panels of the matrix");
        let share = self.share(panels);
        match Kind::of(share.format) {
            Some(kind) => share.chunks(kind).next().map_or(&[], |(_, bytes)| bytes),
            None => share.bytes(),
        }
    }

    fn share(&self, panels: Range<usize>) -> Share<'_> {
        Share {
            format: self.format(),
            cols: self.cols(),
            scale: self.packed.scale,
            panels,
            next: std::ptr::null(),
            words: self.isa().word_tables(),
            all_panels: self.panels(),
            data: self.data(),
        }
    }

    fn mul_floats(
        &self,
        panels: Range<usize>,
        inputs: &[TokenInput],
        next: *const u8,
        scratch: &mut Scratch,
        out: &mut [f32],
    ) {
        use bytemuck::cast_slice;
        let (format, scale) = (self.format(), self.packed.scale);
        let panel_bytes = format.panel_len(self.cols());
        let data = &self.data()[panels.start * panel_bytes..panels.end * panel_bytes];
        let scratch = scratch.bytes(PANEL_ROWS * arch::FLOAT_BLOCK_COLS * size_of::<f32>());
        let outs = out.chunks_exact_mut(inputs.len() * PANEL_ROWS);
        #[cfg(target_arch = "x86_64")]
        let ahead = arch::x86_64::ahead::Ahead::new(data, next);
        #[cfg(not(target_arch = "x86_64"))]
        let _ = next;
        for (panel, out) in data.chunks_exact(panel_bytes).zip(outs) {
            match self.isa().level() {
                _ if format == Format::Fp32Rows => {
                    arch::scalar::naive_rows(cast_slice(panel), scale, inputs, out);
                }
                Level::Scalar => match format {
                    Format::Q8_0 | Format::Q6K => arch::scalar::blocks::panel(format, panel, inputs, out),
                    Format::F16Panels => {
                        arch::scalar::float_panel::<f16>(cast_slice(panel), scale, inputs, out);
                    }
                    _ => arch::scalar::float_panel::<f32>(cast_slice(panel), scale, inputs, out),
                },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: an `Isa` of this level exists only if the CPU has its features; `mul` checked the
                // inputs against the columns and the outputs, the panel and the scratch are cut to size.
                Level::Avx2 => unsafe {
                    use arch::avx2::{blocks, float_panel};
                    match format {
                        Format::Q8_0 | Format::Q6K => {
                            blocks::panel(format, panel, inputs, &ahead, scratch, out)
                        }
                        Format::F16Panels => {
                            float_panel::<f16>(cast_slice(panel), scale, inputs, &ahead, scratch, out);
                        }
                        _ => float_panel::<f32>(cast_slice(panel), scale, inputs, &ahead, scratch, out),
                    }
                },
                #[cfg(avx512)]
                // SAFETY: as above.
                Level::Avx512Vnni | Level::Avx512Vbmi => unsafe {
                    use arch::avx512::{blocks, float_panel};
                    match format {
                        Format::Q8_0 | Format::Q6K => {
                            blocks::panel(format, panel, inputs, &ahead, scratch, out)
                        }
                        Format::F16Panels => {
                            float_panel::<f16>(cast_slice(panel), scale, inputs, &ahead, scratch, out);
                        }
                        _ => float_panel::<f32>(cast_slice(panel), scale, inputs, &ahead, scratch, out),
                    }
                },
                #[cfg(target_arch = "aarch64")]
                // SAFETY: an `Isa` of either level exists only if the CPU has NEON; `mul` checked the inputs
                // against the columns and the outputs, the panel and the scratch are cut to size.
                Level::Neon | Level::NeonDotprod => unsafe {
                    use arch::neon::{block_panel, float_panel};
                    match format {
                        Format::Q8_0 | Format::Q6K => block_panel(format, panel, inputs, scratch, out),
                        Format::F16Panels => {
                            float_panel::<f16>(cast_slice(panel), scale, inputs, scratch, out);
                        }
                        _ => float_panel::<f32>(cast_slice(panel), scale, inputs, scratch, out),
                    }
                },
            }
        }
    }

    /// One input times the panels of `share`; the outputs of two panels are `stride` apart.
    fn gemv(
        &self,
        share: &Share<'_>,
        input: &TokenInput,
        scratch: &mut Scratch,
        stride: usize,
        out: &mut [f32],
    ) {
        match self.isa().level() {
            Level::Scalar => {
                let codes = scratch.bytes(PANEL_ROWS * share.format.padded_cols(share.cols));
                for (i, panel) in share.panels.clone().enumerate() {
                    arch::scalar::unpack(self.isa(), &self.share(panel..panel + 1), codes);
                    let out = &mut out[i * stride..][..PANEL_ROWS];
                    arch::scalar::gemv(share, codes, input, out);
                }
            }
            #[cfg(target_arch = "x86_64")]
            // SAFETY: an `Isa` of this level exists only if the CPU has its features; `mul` checked that the
            // input has what the format needs, and the share's bytes are whole panels.
            Level::Avx2 => unsafe { arch::avx2::gemv(share, input, stride, out) },
            #[cfg(avx512)]
            // SAFETY: as above.
            Level::Avx512Vnni => unsafe { arch::avx512::gemv(share, input, stride, out) },
            #[cfg(avx512)]
            // SAFETY: as above.
            Level::Avx512Vbmi => unsafe { arch::avx512::vbmi::gemv(share, input, stride, out) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: an `Isa` of this level exists only if the CPU has its features; `mul` checked that the
            // input has what the format needs, and the share's bytes are whole panels.
            Level::Neon => unsafe { arch::neon::gemv(share, input, stride, out) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: as above.
            Level::NeonDotprod => unsafe { arch::dotprod::gemv(share, input, stride, out) },
        }
    }

    /// Several inputs times the one panel of `share`; `codes` has room for its codes, a byte each.
    fn gemm(&self, share: &Share<'_>, inputs: &[TokenInput], codes: &mut [u8], out: &mut [f32]) {
        match self.isa().level() {
            Level::Scalar => {
                arch::scalar::unpack(self.isa(), share, codes);
                for (input, out) in inputs.iter().zip(out.chunks_exact_mut(PANEL_ROWS)) {
                    arch::scalar::gemv(share, codes, input, out);
                }
            }
            #[cfg(target_arch = "x86_64")]
            // SAFETY: an `Isa` of this level exists only if the CPU has its features; `mul` checked the
            // inputs against the columns and cut the outputs and the codes to size.
            Level::Avx2 => unsafe {
                arch::avx2::unpack(self.isa(), share, codes);
                arch::avx2::gemm(codes, share.scale, inputs, out);
            },
            #[cfg(avx512)]
            // SAFETY: as above.
            Level::Avx512Vnni => unsafe {
                arch::avx512::unpack(share, codes);
                arch::avx512::gemm(codes, share.scale, inputs, out);
            },
            #[cfg(avx512)]
            // SAFETY: as above.
            Level::Avx512Vbmi => unsafe {
                arch::avx512::vbmi::unpack(share, codes);
                arch::avx512::gemm(codes, share.scale, inputs, out);
            },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: an `Isa` of this level exists only if the CPU has its features; `mul` checked the
            // inputs against the columns and cut the outputs and the codes to size.
            Level::Neon => unsafe {
                arch::neon::unpack(self.isa(), share, codes);
                arch::neon::gemm(codes, share.scale, inputs, out);
            },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: as above; the quantized values have more zeros behind their padded columns than `gemm`
            // reads.
            Level::NeonDotprod => unsafe {
                arch::neon::unpack(self.isa(), share, codes);
                arch::dotprod::gemm(codes, share.scale, inputs, out);
            },
        }
    }

    fn data(&self) -> &[u8] {
        &self.arena.bytes()[self.packed.range.clone()]
    }
}
