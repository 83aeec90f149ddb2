//! From a GGUF file to a [`Model`] packed for a kernel.
//!
//! In two steps, so that nothing large is allocated before it is known to be right and to fit:
//! [`Plan::new`] checks every tensor and knows the memory that [`Plan::load`] will take.

use std::ops::Range;

use bitjoule_kernels::format::MAX_TERNARY_COLS;
use bitjoule_kernels::{ArenaWriter, Format, Isa, Kernel, Matrix, PackedMatrix};
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::gguf::{Gguf, I2sLayout, TensorInfo, TensorType, dequantize_rows, i2s_scale, i2s_trits, quantize};
use crate::units::Bytes;

use super::embedding::block_format;
use super::names::{self, Expected, Role};
use super::{Config, EmbeddingType, Kept, Layer, Model};

/// Rows that are converted at a time when a whole tensor is scanned.
const SCAN_ROWS: usize = 64;

/// A checked model file and what packing it for a kernel takes.
#[derive(Debug)]
pub struct Plan<'a> {
    gguf: &'a Gguf,
    config: Config,
    kernel: Kernel,
    layout: I2sLayout,
    tensors: Vec<Planned<'a>>,
}

/// Where the weights of a loaded model came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeping {
    /// They were packed from the model file.
    Packed,
    /// They were read as an earlier packing left them.
    Read,
}

#[derive(Debug)]
struct Planned<'a> {
    expected: Expected,
    source: Source<'a>,
    /// `None` for norms, which stay vectors.
    format: Option<Format>,
}

impl Planned<'_> {
    /// Bytes that a matrix takes in the arena; none for a norm, which stays a vector.
    fn packed_bytes(&self) -> u64 {
        self.format.map_or(0, |format| matrix_bytes(&self.expected, format))
    }
}

/// Bytes that a matrix takes in the arena.
fn matrix_bytes(expected: &Expected, format: Format) -> u64 {
    ArenaWriter::block_len(format.packed_len(expected.rows, expected.cols)) as u64
}

/// Memory of the stored linear layers of a model, packed for `kernel`, and of its norms.
pub fn linear_bytes(config: &Config, kernel: Kernel) -> Bytes {
    let bytes = names::expected(config).into_iter().map(|expected| match expected.role {
        Role::Head => 0,
        Role::Norm => (expected.cols * size_of::<f32>()) as u64,
        Role::Linear => matrix_bytes(&expected, kernel.format()),
    });
    Bytes(bytes.sum())
}

/// Memory of embedding and output projection of a synthetic model with `embedding` (f16 without), packed
/// for `kernel`.
pub fn synthetic_head_bytes(config: &Config, kernel: Kernel, embedding: Option<EmbeddingType>) -> Bytes {
    let format = match (kernel, embedding.and_then(|e| block_format(e.tensor_type()))) {
        (Kernel::Fp32Naive, _) => Format::Fp32Rows,
        (_, Some(blocks)) => blocks,
        (_, None) => Format::F16Panels,
    };
    let heads = names::expected(config).into_iter().filter(|e| e.role == Role::Head);
    Bytes(heads.map(|expected| matrix_bytes(&expected, format)).sum())
}

/// A tensor of the file and how its values are read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source<'a> {
    gguf: &'a Gguf,
    info: &'a TensorInfo,
    layout: I2sLayout,
    /// Type whose values it takes instead of its own.
    stored_as: Option<EmbeddingType>,
}

impl<'a> Plan<'a> {
    /// Checks that `gguf` is a whole model whose weights `kernel` can hold, and plans its packing.
    ///
    /// # Errors
    /// If a tensor is missing, superfluous or of the wrong shape, or its type cannot be held.
    pub fn new(gguf: &'a Gguf, kernel: Kernel, layout: I2sLayout) -> Result<Self> {
        Plan::with_embedding(gguf, kernel, layout, None)
    }

    /// As [`Plan::new`], with embedding and output projection stored as `embedding` instead of as in the
    /// file. Every kernel then computes with the same values, those of that type.
    ///
    /// # Errors
    /// As [`Plan::new`], or if their rows are no whole number of blocks of the type.
    pub fn with_embedding(
        gguf: &'a Gguf,
        kernel: Kernel,
        layout: I2sLayout,
        embedding: Option<EmbeddingType>,
    ) -> Result<Self> {
        let config = Config::from_gguf(gguf)?;
        let expected = names::expected(&config);
        let file = gguf.path_label();
        if let Some(extra) = gguf.tensors().iter().find(|t| !expected.iter().any(|e| e.name == t.name)) {
            return Err(Error::input(format!(
                "{file}: tensor '{}' is not part of a {} model; bitjoule would leave it out and compute \
                 something else, so it does not run this file",
                extra.name,
                gguf.req_str("general.architecture")?
            )));
        }
        let mut tensors = Vec::with_capacity(expected.len());
        for expected in expected {
            let name = &expected.name;
            let mut source = Source::new(gguf, name, layout)?;
            if expected.role == Role::Head {
                source = source.stored_as(embedding);
            }
            let info = source.info;
            if (info.cols(), info.rows()) != (expected.cols as u64, expected.rows as u64) {
                return Err(Error::input(format!(
                    "{file}: tensor '{name}' is {} x {}, but the metadata make it {} x {} (columns x rows)",
                    info.cols(),
                    info.rows(),
                    expected.cols,
                    expected.rows
                )));
            }
            let format = match expected.role {
                Role::Norm => None,
                Role::Head => {
                    if let Some(embedding) = embedding {
                        embedding.check_cols(expected.cols).map_err(|e| source.error(e))?;
                    }
                    Some(source.head_format(kernel)?)
                }
                Role::Linear => Some(kernel.format()),
            };
            if format.is_some_and(Format::is_ternary) && expected.cols > MAX_TERNARY_COLS {
                return Err(Error::input(format!(
                    "{file}: tensor '{name}' has {} columns; ternary kernels hold at most {MAX_TERNARY_COLS}",
                    expected.cols
                )));
            }
            tensors.push(Planned { expected, source, format });
        }
        Ok(Plan { gguf, config, kernel, layout, tensors })
    }

    /// Architecture and shape of the model.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// How I2_S tensors are read.
    pub fn layout(&self) -> I2sLayout {
        self.layout
    }

    /// What the output projection will be stored and multiplied as: `f16`, `q6_k`.
    pub fn head_name(&self) -> &'static str {
        // Tied, it is the embedding; else it is the last tensor. Both are heads.
        let head = self.tensors.iter().rev().find(|t| t.expected.role == Role::Head);
        match head.and_then(|t| t.format) {
            Some(Format::Q8_0) => "q8_0",
            Some(Format::Q6K) => "q6_k",
            Some(Format::F16Panels) => "f16",
            _ => "f32",
        }
    }

    /// The kernel that the weights are packed for.
    pub fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// Memory that the packed matrices will occupy.
    pub fn weight_bytes(&self) -> Bytes {
        Bytes(self.tensors.iter().map(Planned::packed_bytes).sum())
    }

    /// Memory of the packed linear layers and of the norms.
    pub fn linear_bytes(&self) -> Bytes {
        linear_bytes(&self.config, self.kernel)
    }

    /// Memory of embedding and output projection.
    pub fn head_bytes(&self) -> Bytes {
        let heads = self.tensors.iter().filter(|t| t.expected.role == Role::Head);
        Bytes(heads.map(Planned::packed_bytes).sum())
    }

    /// Packs all weights for `isa`, on all cores (rayon).
    ///
    /// # Errors
    /// If memory is refused, a weight is not finite, or a ternary kernel meets a weight that is not
    /// ternary; the message names the tensor.
    pub fn load(self, isa: Isa) -> Result<Model> {
        self.load_from(isa, None).map(|(model, _)| model)
    }

    /// As [`Plan::load`], but reads the packed weights where `kept` holds them.
    ///
    /// # Errors
    /// As [`Plan::load`].
    pub fn load_kept(self, isa: Isa, kept: &Kept) -> Result<(Model, Keeping)> {
        self.load_from(isa, Some(kept))
    }

    fn load_from(self, isa: Isa, kept: Option<&Kept>) -> Result<(Model, Keeping)> {
        let file = self.gguf.path_label();
        let bytes = self.weight_bytes();
        let refused = |e: &dyn std::fmt::Display| {
            Error::Memory(format!("{file}: cannot allocate {bytes} for the packed weights: {e}"))
        };
        let len = usize::try_from(bytes.0).map_err(|e| refused(&e))?;
        let mut arena = ArenaWriter::new(len).map_err(|e| refused(&e))?;
        let matrices = self.tensors.iter().filter(|t| t.format.is_some()).count();
        let scales = kept.and_then(|kept| kept.read(matrices, &mut arena.bytes_mut()[..len]));
        let keeping = if scales.is_some() { Keeping::Read } else { Keeping::Packed };
        if kept.is_some() && scales.is_none() {
            // What was read in vain is not zero any more.
            arena = ArenaWriter::new(len).map_err(|e| refused(&e))?;
        }
        let mut scales = scales.map(Vec::into_iter);
        let mut packed = Vec::new();
        let mut norms = Vec::new();
        for tensor in &self.tensors {
            match (tensor.format, &mut scales) {
                (Some(format), None) => packed.push(tensor.source.pack(&mut arena, format, isa)?),
                (Some(format), Some(scales)) => {
                    let scale = scales.next().expect("a scale for each matrix");
                    packed.push(PackedMatrix::adopt(&mut arena, format, isa, tensor.source.shape(), scale));
                }
                (None, _) => norms.push(tensor.source.norm()?),
            }
        }
        let arena = arena.finish();
        // The tensors were planned in the order in which the model is put together here.
        let mut matrices = packed.into_iter().map(|m| m.finish(arena.clone()));
        let mut norms = norms.into_iter();
        let mut matrix = || matrices.next().expect("a planned matrix");
        let mut norm = || norms.next().expect("a planned norm");
        let sub_norms = self.config.architecture.has_sub_norms();
        let embedding = matrix();
        let layers = (0..self.config.unique_layers)
            .map(|_| Layer {
                attn_norm: norm(),
                q: matrix(),
                k: matrix(),
                v: matrix(),
                attn_sub_norm: sub_norms.then(&mut norm),
                o: matrix(),
                ffn_norm: norm(),
                gate: matrix(),
                up: matrix(),
                ffn_sub_norm: sub_norms.then(&mut norm),
                down: matrix(),
            })
            .collect();
        let output_norm = norm();
        let output: Option<Matrix> = (!self.config.tied).then(matrix);
        let model =
            Model { config: self.config, kernel: self.kernel, isa, embedding, output, output_norm, layers };
        Ok((model, keeping))
    }
}

impl<'a> Source<'a> {
    /// The tensor `name` of `gguf`.
    ///
    /// # Errors
    /// If there is none.
    pub(super) fn new(gguf: &'a Gguf, name: &str, layout: I2sLayout) -> Result<Self> {
        let info = gguf.tensor(name).ok_or_else(|| {
            let file = gguf.path_label();
            Error::input(format!("{file}: there is no tensor '{name}'; the model is incomplete"))
        })?;
        Ok(Source { gguf, info, layout, stored_as: None })
    }

    /// The tensor with the values that the type `embedding` gives it; its own if none is given.
    pub(super) fn stored_as(self, embedding: Option<EmbeddingType>) -> Self {
        Source { stored_as: embedding, ..self }
    }

    /// The type whose values the tensor has.
    fn ty(&self) -> TensorType {
        self.stored_as.map_or(self.info.ty, EmbeddingType::tensor_type)
    }

    /// The tensor's entry in the file.
    pub(super) fn info(&self) -> &'a TensorInfo {
        self.info
    }

    /// Format of an embedding or output projection. They are not ternary: every kernel but the naive one
    /// multiplies them in blocks where they are stored in blocks, else as f16; the ternary ones as f32
    /// where f16 does not hold every value exactly.
    fn head_format(self, kernel: Kernel) -> Result<Format> {
        Ok(match (kernel, block_format(self.ty())) {
            (Kernel::Fp32Naive, _) => Format::Fp32Rows,
            (_, Some(blocks)) => blocks,
            (Kernel::F16, None) => Format::F16Panels,
            _ if self.ty() == TensorType::F16 || self.is_exact_in_f16()? => Format::F16Panels,
            _ => Format::F32Panels,
        })
    }

    /// Whether f16 holds every value of the tensor.
    pub(super) fn is_exact_in_f16(&self) -> Result<bool> {
        let exact = self.scan(|values| values.iter().all(|&w| half::f16::from_f32(w).to_f32() == w))?;
        Ok(exact.into_iter().all(|e| e))
    }

    /// An error about this tensor.
    pub(super) fn error(&self, what: impl std::fmt::Display) -> Error {
        Error::input(format!("{}: tensor '{}': {what}", self.gguf.path_label(), self.info.name))
    }

    /// Rows and columns.
    pub(super) fn shape(&self) -> (usize, usize) {
        (self.info.rows() as usize, self.info.cols() as usize)
    }

    /// Rows of the tensor as f32; an error if one is not finite.
    pub(super) fn rows(&self, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        if self.ty() == self.info.ty {
            return self.own_rows(rows, out);
        }
        if block_format(self.ty()).is_some() {
            let (n, mut blocks) = (rows.len(), Vec::new());
            self.block_rows(rows, &mut blocks)?;
            return dequantize_rows(self.ty(), &blocks, self.shape().1, 0..n, self.layout, out)
                .map_err(|e| self.error(e));
        }
        self.own_rows(rows, out)?;
        out.iter_mut().for_each(|w| *w = half::f16::from_f32(*w).to_f32());
        match out.iter().all(|w| w.is_finite()) {
            true => Ok(()),
            false => Err(self.error("a weight is beyond what f16 holds; leave the embedding as it is")),
        }
    }

    /// Rows as blocks of the type whose values the tensor has, appended to `out`: the file's own where it
    /// has that type.
    pub(super) fn block_rows(&self, rows: Range<usize>, out: &mut Vec<u8>) -> Result<()> {
        let cols = self.shape().1;
        if self.ty() != self.info.ty {
            let mut values = vec![0.0; rows.len() * cols];
            self.own_rows(rows, &mut values)?;
            return quantize(self.ty(), &values, out).map_err(|e| self.error(e));
        }
        let row = self.ty().byte_len(cols as u64, 1)? as usize;
        let bytes = self.gguf.data(self.info).get(row * rows.start..row * rows.end);
        let bytes = bytes.ok_or_else(|| self.error("the file is cut short; get it again"))?;
        // Where the scale is in a block.
        let (block, scale) = if self.ty() == TensorType::Q8_0 { (34, 0) } else { (210, 208) };
        let finite = |b: &[u8]| half::f16::from_le_bytes([b[scale], b[scale + 1]]).is_finite();
        if !bytes.chunks_exact(block).all(finite) {
            return Err(self.error("the scale of a block is not finite; the file is damaged, get it again"));
        }
        out.extend_from_slice(bytes);
        Ok(())
    }

    /// [`Self::rows`] with the values of the file.
    fn own_rows(&self, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        let first = rows.start;
        self.gguf.dequantize(self.info, rows, self.layout, out)?;
        match out.iter().position(|w| !w.is_finite()) {
            None => Ok(()),
            Some(i) => {
                let (row, col) = (first + i / self.shape().1, i % self.shape().1);
                Err(self.error(format_args!(
                    "the weight in row {row}, column {col} is {}; the file is damaged",
                    out[i]
                )))
            }
        }
    }

    /// Applies `f` to all values, some rows at a time, in parallel.
    fn scan<R: Send>(&self, f: impl Fn(&[f32]) -> R + Sync) -> Result<Vec<R>> {
        let (rows, cols) = self.shape();
        (0..rows.div_ceil(SCAN_ROWS))
            .into_par_iter()
            .map(|chunk| {
                let range = chunk * SCAN_ROWS..((chunk + 1) * SCAN_ROWS).min(rows);
                let mut values = vec![0.0; range.len() * cols];
                self.rows(range, &mut values)?;
                Ok(f(&values))
            })
            .collect()
    }

    fn norm(&self) -> Result<Vec<f32>> {
        let mut values = vec![0.0; self.shape().1];
        self.rows(0..1, &mut values)?;
        Ok(values)
    }

    fn pack(&self, arena: &mut ArenaWriter, format: Format, isa: Isa) -> Result<PackedMatrix> {
        match (format, self.info.ty) {
            (ternary, _) if ternary.is_ternary() => {
                let scale = self.ternary_scale()?;
                PackedMatrix::pack_ternary(arena, ternary, isa, self.shape(), scale, |rows, out| {
                    self.ternary_rows(rows, scale, out)
                })
            }
            (Format::Q8_0 | Format::Q6K, _) => {
                PackedMatrix::pack_blocks(arena, format, isa, self.shape(), |rows, out| {
                    let mut blocks = Vec::with_capacity(out.len());
                    self.block_rows(rows, &mut blocks)?;
                    out.copy_from_slice(&blocks);
                    Ok(())
                })
            }
            // The trits as floats, so that f16 holds them exactly; the f32 scale is applied to the sums.
            (_, TensorType::I2S) => {
                let scale = self.ternary_scale()?;
                PackedMatrix::pack_floats(arena, format, isa, self.shape(), scale, |rows, out| {
                    let mut trits = vec![0; out.len()];
                    self.ternary_rows(rows, 1.0, &mut trits)?;
                    out.iter_mut().zip(trits).for_each(|(out, t)| *out = f32::from(t));
                    Ok(())
                })
            }
            (Format::F16Panels, _) => {
                PackedMatrix::pack_floats(arena, format, isa, self.shape(), 1.0, |rows, out| {
                    self.rows(rows, out)?;
                    match out.iter().find(|w| !half::f16::from_f32(**w).is_finite()) {
                        None => Ok(()),
                        Some(w) => {
                            Err(self
                                .error(format_args!("{w} is beyond what f16 holds; use kernel fp32-naive")))
                        }
                    }
                })
            }
            _ => PackedMatrix::pack_floats(arena, format, isa, self.shape(), 1.0, |rows, out| {
                self.rows(rows, out)
            }),
        }
    }

    /// Scale of a ternary tensor: the stored one of an I2_S tensor, the largest magnitude of others
    /// (1 if all are 0).
    pub(super) fn ternary_scale(&self) -> Result<f32> {
        if self.info.ty == TensorType::I2S {
            let data = self.gguf.data(self.info);
            return i2s_scale(data, self.info.elements() as usize).map_err(|e| self.error(e));
        }
        let max = |values: &[f32]| values.iter().fold(0f32, |m, w| m.max(w.abs()));
        let largest = self.scan(max)?.into_iter().fold(0f32, f32::max);
        Ok(if largest == 0.0 { 1.0 } else { largest })
    }

    /// Rows as trits, of a tensor whose scale is `scale`.
    ///
    /// # Errors
    /// If a weight is neither 0 nor plus or minus the scale.
    pub(super) fn ternary_rows(&self, rows: Range<usize>, scale: f32, out: &mut [i8]) -> Result<()> {
        let cols = self.shape().1;
        if self.info.ty == TensorType::I2S {
            let data = self.gguf.data(self.info);
            return i2s_trits(data, cols, rows, self.layout, out).map_err(|e| self.error(e));
        }
        let first = rows.start;
        let mut values = vec![0.0; out.len()];
        self.rows(rows, &mut values)?;
        for (i, (out, &w)) in out.iter_mut().zip(&values).enumerate() {
            *out = match w {
                0.0 => 0,
                _ if w == scale => 1,
                _ if w == -scale => -1,
                _ => {
                    let (row, col) = (first + i / cols, i % cols);
                    return Err(self.error(format_args!(
                        "not ternary: the weight in row {row}, column {col} is {w}, neither 0 nor {scale} nor \
                         -{scale}; a ternary kernel or type cannot hold it, use f16 or fp32-naive"
                    )));
                }
            };
        }
        Ok(())
    }
}
