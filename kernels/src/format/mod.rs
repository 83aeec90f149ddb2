//! Storage formats of packed matrices: what the bytes mean, how to pack and to unpack them.
//!
//! All formats are cut into panels of [`crate::PANEL_ROWS`] rows and each panel is one sequential
//! stream of memory, because that is how a matrix-vector product reads it. Missing rows of the last
//! panel and columns up to a multiple of 16 are stored as zero weights.

pub mod float_panels;
pub mod fp32_rows;
pub mod i2_s;
