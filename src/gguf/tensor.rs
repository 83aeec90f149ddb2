//! Tensor types and shapes: what a tensor is called, how large it is, and how many bytes that takes.

use crate::error::{Error, Result};

/// The tensor types that are read here: everything that ternary models are published in, portably.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TensorType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of a single-precision number.
    Bf16,
    /// Blocks of 32 int8 with one f16 scale.
    Q8_0,
    /// Blocks of 256 6-bit integers with 16 int8 scales and one f16 scale.
    Q6K,
    /// Blocks of 256 trits, five to a byte, with one f16 scale.
    Tq1_0,
    /// Blocks of 256 trits, four to a byte, with one f16 scale.
    Tq2_0,
    /// Trits, four to a byte, with one f32 scale for the whole tensor (bitnet.cpp).
    I2S,
}

/// Bytes that follow the codes of an I2_S tensor: its f32 scale and 28 bytes of padding.
pub(super) const I2S_TAIL_BYTES: u64 = 32;

impl TensorType {
    /// Every type that is read here.
    pub const ALL: [TensorType; 8] = [
        TensorType::F32,
        TensorType::F16,
        TensorType::Bf16,
        TensorType::Q8_0,
        TensorType::Q6K,
        TensorType::Tq1_0,
        TensorType::Tq2_0,
        TensorType::I2S,
    ];

    /// The type with ggml's number `id`, if it is one that is read here.
    pub fn from_id(id: u32) -> Option<TensorType> {
        TensorType::ALL.into_iter().find(|ty| ty.id() == id)
    }

    /// ggml's number for this type; 36 is bitnet.cpp's.
    pub fn id(self) -> u32 {
        match self {
            TensorType::F32 => 0,
            TensorType::F16 => 1,
            TensorType::Q8_0 => 8,
            TensorType::Q6K => 14,
            TensorType::Bf16 => 30,
            TensorType::Tq1_0 => 34,
            TensorType::Tq2_0 => 35,
            TensorType::I2S => 36,
        }
    }

    /// ggml's name of this type.
    pub fn name(self) -> &'static str {
        match self {
            TensorType::F32 => "F32",
            TensorType::F16 => "F16",
            TensorType::Bf16 => "BF16",
            TensorType::Q8_0 => "Q8_0",
            TensorType::Q6K => "Q6_K",
            TensorType::Tq1_0 => "TQ1_0",
            TensorType::Tq2_0 => "TQ2_0",
            TensorType::I2S => "I2_S",
        }
    }

    /// Elements and bytes of one block; rows are whole numbers of blocks. I2_S is given by the smaller
    /// of its two layouts, because a file does not say which one it has.
    pub(super) fn block(self) -> (u64, u64) {
        match self {
            TensorType::F32 => (1, 4),
            TensorType::F16 | TensorType::Bf16 => (1, 2),
            TensorType::Q8_0 => (32, 34),
            TensorType::Q6K => (256, 210),
            TensorType::Tq1_0 => (256, 54),
            TensorType::Tq2_0 => (256, 66),
            TensorType::I2S => (64, 16),
        }
    }

    /// Bytes of a tensor of `n_rows_total` rows of `n_cols` elements each; for I2_S this counts the
    /// 32 bytes of scale and padding.
    ///
    /// # Errors
    /// If a row is not a whole number of blocks, or the size overflows u64.
    pub fn byte_len(self, n_cols: u64, n_rows_total: u64) -> Result<u64> {
        let (elements, bytes) = self.block();
        if !n_cols.is_multiple_of(elements) {
            let name = self.name();
            return Err(Error::input(format!(
                "rows of {n_cols} elements do not fit {name}, which needs a multiple of {elements}; \
                 convert the model to F16 instead"
            )));
        }
        let tail = if self == TensorType::I2S { I2S_TAIL_BYTES } else { 0 };
        (n_cols / elements)
            .checked_mul(bytes)
            .and_then(|row| row.checked_mul(n_rows_total))
            .and_then(|codes| codes.checked_add(tail))
            .ok_or_else(|| {
                Error::input(format!(
                    "{n_rows_total} rows of {n_cols} elements are more than a file can hold; \
                     the file is damaged, get it again"
                ))
            })
    }
}

/// One tensor of a file: its name, shape, type and place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name: `blk.0.attn_q.weight`.
    pub name: String,
    /// Elements along each dimension in ggml's order: columns (the contiguous dimension) first.
    pub shape: Vec<u64>,
    /// Type of the elements.
    pub ty: TensorType,
    /// Bytes from the start of the file's tensor data.
    pub offset: u64,
}

impl TensorInfo {
    /// A tensor to be written; the writer computes its offset.
    pub fn new(name: impl Into<String>, shape: Vec<u64>, ty: TensorType) -> TensorInfo {
        TensorInfo { name: name.into(), shape, ty, offset: 0 }
    }

    /// Elements of one row: the first dimension.
    pub fn cols(&self) -> u64 {
        self.shape.first().copied().unwrap_or(1)
    }

    /// Number of rows: the product of all other dimensions. Saturates for a shape that no file can hold
    /// (never for a tensor that came from one).
    pub fn rows(&self) -> u64 {
        self.shape.iter().skip(1).fold(1, |product, &dim| product.saturating_mul(dim))
    }

    /// Number of elements; saturates as [`rows`](Self::rows) does.
    pub fn elements(&self) -> u64 {
        self.cols().saturating_mul(self.rows())
    }

    /// Bytes of the data, padding after it not counted.
    ///
    /// # Errors
    /// Those of [`TensorType::byte_len`].
    pub fn byte_len(&self) -> Result<u64> {
        self.ty.byte_len(self.cols(), self.rows())
    }
}

/// Tensor types by number: llama.cpp's, with those of its forks bitnet.cpp and ik_llama.cpp that ternary
/// models use. Numbers 4, 5, 31-33 and 36-38 are retired in llama.cpp; bitnet.cpp reuses some of them.
const TYPE_NAMES: &[(u32, &str)] = &[
    (0, "F32"),
    (1, "F16"),
    (2, "Q4_0"),
    (3, "Q4_1"),
    (4, "Q4_2"),
    (5, "Q4_3"),
    (6, "Q5_0"),
    (7, "Q5_1"),
    (8, "Q8_0"),
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (12, "Q4_K"),
    (13, "Q5_K"),
    (14, "Q6_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (30, "BF16"),
    (31, "Q4_0_4_4"),
    (32, "Q4_0_4_8"),
    (33, "Q4_0_8_8"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (36, "I2_S"),
    (38, "TL1 of bitnet.cpp"),
    (39, "TL2 of bitnet.cpp or MXFP4 of llama.cpp"),
    (40, "NVFP4"),
    (41, "Q1_0"),
    (134, "IQ1_BN of ik_llama.cpp"),
    (135, "IQ2_BN of ik_llama.cpp"),
    (335, "IQ2_BN_R4 of ik_llama.cpp"),
];

/// The name of the tensor type with number `id`, whether it is read here or not.
pub fn type_name(id: u32) -> Option<&'static str> {
    TYPE_NAMES.iter().find(|(known, _)| *known == id).map(|(_, name)| *name)
}

/// What is wrong with a tensor of type `id`, which is not one of [`TensorType`], and what to do.
pub(super) fn unsupported(id: u32) -> String {
    let advice = match id {
        38 | 39 => {
            "TL1 and TL2 are packed for kernels generated for one machine; use the model's I2_S or F16 file"
        }
        134 | 135 | 335 => "use the model's I2_S, TQ2_0 or F16 file",
        _ => "convert the model to one of the types below",
    };
    let read = TensorType::ALL.map(TensorType::name).join(", ");
    match type_name(id) {
        Some(name) => {
            format!("its type {id} ({name}) cannot be read; {advice} (types read: {read})")
        }
        None => format!(
            "its type {id} is not known; the file is damaged or newer than this program, {advice} (types \
             read: {read})"
        ),
    }
}
