//! The façade over all formats and instruction sets: a packed matrix and its product.

use std::ops::Range;
use std::sync::Arc;

use half::f16;

use crate::format::{float_panels, fp32_rows, i2_s};
use crate::input::COLUMN_STEP;
use crate::isa::Level;
use crate::{Arena, ArenaWriter, Isa, PANEL_ROWS, TokenInput, arch};

/// How the weights of a [`Matrix`] are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// [`fp32_rows`]
    Fp32Rows,
    /// [`float_panels`] of f16
    F16Panels,
    /// [`float_panels`] of f32
    F32Panels,
    /// [`i2_s`]
    I2S,
}

impl Format {
    /// Bytes that a packed matrix takes, padding included.
    pub fn packed_len(self, rows: usize, cols: usize) -> usize {
        match self {
            Format::Fp32Rows => fp32_rows::packed_len(rows, cols),
            Format::F16Panels => float_panels::packed_len::<f16>(rows, cols),
            Format::F32Panels => float_panels::packed_len::<f32>(rows, cols),
            Format::I2S => i2_s::packed_len(rows, cols),
        }
    }

    /// Bits that one weight takes.
    pub fn bits_per_weight(self) -> u64 {
        match self {
            Format::Fp32Rows | Format::F32Panels => 32,
            Format::F16Panels => 16,
            Format::I2S => 2,
        }
    }
}

/// A packed matrix: `rows` outputs, `cols` inputs, `weight = stored value * scale`.
#[derive(Debug, Clone)]
pub struct Matrix {
    format: Format,
    rows: usize,
    cols: usize,
    scale: f32,
    range: Range<usize>,
    arena: Arc<Arena>,
}

/// A matrix whose arena is still being filled.
#[derive(Debug)]
pub struct PackedMatrix {
    format: Format,
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
    /// If the arena is too small, or the format is [`Format::I2S`].
    pub fn pack_floats<E: Send>(
        arena: &mut ArenaWriter,
        format: Format,
        (rows, cols): (usize, usize),
        scale: f32,
        fill: impl Fn(Range<usize>, &mut [f32]) -> Result<(), E> + Sync,
    ) -> Result<Self, E> {
        let (range, out) = arena.block(format.packed_len(rows, cols)).expect("arena holds every matrix");
        match format {
            Format::Fp32Rows => fp32_rows::pack(out, rows, cols, fill)?,
            Format::F16Panels => float_panels::pack::<f16, E>(out, rows, cols, fill)?,
            Format::F32Panels => float_panels::pack::<f32, E>(out, rows, cols, fill)?,
            Format::I2S => panic!("i2_s matrices are packed from trits"),
        }
        Ok(PackedMatrix { format, rows, cols, scale, range })
    }

    /// Packs a ternary matrix as `i2_s`. `fill` writes the trits of the given rows, row-major.
    ///
    /// # Errors
    /// The first error of `fill`.
    ///
    /// # Panics
    /// If the arena is too small or `cols` exceeds [`i2_s::MAX_COLS`].
    pub fn pack_i2_s<E: Send>(
        arena: &mut ArenaWriter,
        (rows, cols): (usize, usize),
        scale: f32,
        fill: impl Fn(Range<usize>, &mut [i8]) -> Result<(), E> + Sync,
    ) -> Result<Self, E> {
        let format = Format::I2S;
        let (range, out) = arena.block(format.packed_len(rows, cols)).expect("arena holds every matrix");
        i2_s::pack(out, rows, cols, fill)?;
        Ok(PackedMatrix { format, rows, cols, scale, range })
    }

    /// The matrix, in the finished arena it was packed into.
    pub fn finish(self, arena: Arc<Arena>) -> Matrix {
        assert!(self.range.end <= arena.bytes().len(), "the matrix belongs to another arena");
        let PackedMatrix { format, rows, cols, scale, range } = self;
        Matrix { format, rows, cols, scale, range, arena }
    }
}

/// Working memory of one thread for products with several tokens.
#[derive(Debug, Default)]
pub struct Scratch {
    lines: Vec<Line>,
}

/// One cache line: keeps the scratch aligned for whole-vector loads.
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

impl Scratch {
    /// Scratch for matrices of up to `max_cols` columns; using it for those never allocates.
    pub fn new(max_cols: usize) -> Self {
        let bytes = (PANEL_ROWS * max_cols.next_multiple_of(COLUMN_STEP))
            .max(PANEL_ROWS * arch::FLOAT_BLOCK_COLS * size_of::<f32>());
        Scratch { lines: vec![Line([0; 64]); bytes.div_ceil(64)] }
    }

    fn bytes(&mut self, len: usize) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..len]
    }
}

impl Matrix {
    /// Number of rows (outputs).
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns (inputs).
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// How the weights are stored.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Number of panels: the unit in which work is split.
    pub fn panels(&self) -> usize {
        self.rows.div_ceil(PANEL_ROWS)
    }

    /// Bytes that a product must read: all weights at the format's bits, without padding.
    pub fn payload_bytes(&self) -> u64 {
        self.rows as u64 * self.cols as u64 * self.format.bits_per_weight() / 8
    }

    /// Bytes that the packed matrix occupies.
    pub fn packed_bytes(&self) -> usize {
        self.range.len()
    }

    /// Row `row` as f32, into `out` (of `cols` elements): an embedding lookup.
    ///
    /// # Panics
    /// If `row` is no row of the matrix, or `out` has another length.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows && out.len() == self.cols);
        let data = self.data();
        match self.format {
            Format::Fp32Rows => {
                let stride = self.cols.next_multiple_of(COLUMN_STEP);
                let data: &[f32] = bytemuck::cast_slice(data);
                out.copy_from_slice(&data[row * stride..][..self.cols]);
            }
            Format::F16Panels => float_panels::unpack_row::<f16>(data, self.cols, row, out),
            Format::F32Panels => float_panels::unpack_row::<f32>(data, self.cols, row, out),
            Format::I2S => {
                for (c, out) in out.iter_mut().enumerate() {
                    *out = f32::from(i2_s::code(data, self.cols, row, c)) - 1.0;
                }
            }
        }
        for out in out {
            *out *= self.scale;
        }
    }

    /// Multiplies the rows of `panels` with each of `inputs`: GEMV for one input, GEMM for more.
    ///
    /// `out` is panel-major, `[panel][input][32 rows]`, so that threads which share the panels write
    /// to contiguous, disjoint parts of one buffer. Rows beyond the matrix in the last panel get 0.
    ///
    /// For `i2_s` the inputs must have been quantized; the result is
    /// `(sum of q * trit) * (q_step * scale)` with an exact integer sum, the same bit for bit on
    /// every instruction set and in every batch. Float results depend on the order of summation.
    ///
    /// # Panics
    /// If an input's length does not fit the matrix or `out` does not fit the panels and inputs.
    pub fn mul(
        &self,
        isa: Isa,
        panels: Range<usize>,
        inputs: &[TokenInput],
        scratch: &mut Scratch,
        out: &mut [f32],
    ) {
        let stride = self.cols.next_multiple_of(COLUMN_STEP);
        assert!(panels.start <= panels.end && panels.end <= self.panels(), "panels of the matrix");
        assert_eq!(out.len(), panels.len() * inputs.len() * PANEL_ROWS, "one output for each row and input");
        for input in inputs {
            assert_eq!(input.x.len(), stride, "the input has the matrix's columns");
            assert!(self.format != Format::I2S || input.q.len() == stride, "the input is quantized");
        }
        if inputs.is_empty() {
            return;
        }
        let panel_bytes = self.format.packed_len(PANEL_ROWS, self.cols);
        let data = &self.data()[panels.start * panel_bytes..panels.end * panel_bytes];
        let scratch = match self.format {
            Format::I2S => scratch.bytes(PANEL_ROWS * stride),
            _ => scratch.bytes(PANEL_ROWS * arch::FLOAT_BLOCK_COLS * size_of::<f32>()),
        };
        let outs = out.chunks_exact_mut(inputs.len() * PANEL_ROWS);
        for (panel, out) in data.chunks_exact(panel_bytes).zip(outs) {
            self.mul_panel(isa, panel, inputs, scratch, out);
        }
    }

    /// Reads the weights of `panels`, as [`mul`](Self::mul) does but without arithmetic, and returns a
    /// checksum: the time that takes is the least that a product can take.
    ///
    /// # Panics
    /// If they are not panels of the matrix.
    pub fn read(&self, isa: Isa, panels: Range<usize>) -> u64 {
        let panel_bytes = self.format.packed_len(PANEL_ROWS, self.cols);
        let panels = &self.data()[panels.start * panel_bytes..panels.end * panel_bytes];
        crate::vector::read(isa, bytemuck::cast_slice(panels))
    }

    fn mul_panel(&self, isa: Isa, panel: &[u8], inputs: &[TokenInput], scratch: &mut [u8], out: &mut [f32]) {
        use bytemuck::cast_slice;
        let scale = self.scale;
        match isa.level() {
            _ if self.format == Format::Fp32Rows => {
                arch::scalar::naive_rows(cast_slice(panel), scale, inputs, out);
            }
            Level::Scalar => match self.format {
                Format::I2S => arch::scalar::i2_s(panel, scale, inputs, out),
                Format::F16Panels => arch::scalar::float_panel::<f16>(cast_slice(panel), scale, inputs, out),
                _ => arch::scalar::float_panel::<f32>(cast_slice(panel), scale, inputs, out),
            },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: an `Isa` of this level exists only if the CPU has its features; `mul` checked
            // the inputs against the columns and cut the panel, the outputs and the scratch to size.
            Level::Avx2 => unsafe {
                use arch::avx2::{float_panel, i2_s};
                match self.format {
                    Format::I2S => i2_s(panel, scale, inputs, scratch, out),
                    Format::F16Panels => float_panel::<f16>(cast_slice(panel), scale, inputs, scratch, out),
                    _ => float_panel::<f32>(cast_slice(panel), scale, inputs, scratch, out),
                }
            },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Level::Avx512Vnni => unsafe {
                use arch::avx512::{float_panel, i2_s};
                match self.format {
                    Format::I2S => i2_s(panel, scale, inputs, scratch, out),
                    Format::F16Panels => float_panel::<f16>(cast_slice(panel), scale, inputs, scratch, out),
                    _ => float_panel::<f32>(cast_slice(panel), scale, inputs, scratch, out),
                }
            },
        }
    }

    fn data(&self) -> &[u8] {
        &self.arena.bytes()[self.range.clone()]
    }
}
