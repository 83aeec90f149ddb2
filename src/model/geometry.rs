//! The geometries of published models, by the names their papers use.

use std::sync::OnceLock;

use serde::Deserialize;

use crate::error::{Error, Result};

/// The table, with its sources in the comments at its head.
const TABLE: &str = include_str!("geometries.csv");

/// Shape of a model: what synthesis needs to know.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Geometry {
    /// Size, as the published tables call it: `700M`.
    pub model: String,
    /// GGUF architecture name.
    pub architecture: String,
    /// Width of the residual stream.
    pub hidden: u32,
    /// Width of the feed-forward layer.
    pub ffn: u32,
    /// Number of layers.
    pub layers: u32,
    /// Attention heads.
    pub heads: u32,
    /// Key and value heads.
    pub kv_heads: u32,
    /// Vocabulary.
    pub vocab: u32,
}

impl Geometry {
    /// All geometries, in the table's order.
    pub fn all() -> &'static [Geometry] {
        static ALL: OnceLock<Vec<Geometry>> = OnceLock::new();
        ALL.get_or_init(|| {
            csv::ReaderBuilder::new()
                .comment(Some(b'#'))
                .from_reader(TABLE.as_bytes())
                .deserialize()
                .collect::<Result<_, _>>()
                .expect("the built-in table is valid")
        })
    }

    /// The geometry called `name`.
    ///
    /// # Errors
    /// If there is none; the message lists them.
    pub fn by_name(name: &str) -> Result<&'static Geometry> {
        Self::all().iter().find(|g| g.model == name).ok_or_else(|| {
            let known: Vec<_> = Self::all().iter().map(|g| g.model.as_str()).collect();
            Error::input(format!("there is no geometry '{name}'; the sizes are {}", known.join(", ")))
        })
    }

    /// Weights in the ternary linear layers.
    pub fn linear_weights(&self) -> u64 {
        let (hidden, ffn) = (u64::from(self.hidden), u64::from(self.ffn));
        let kv = hidden / u64::from(self.heads) * u64::from(self.kv_heads);
        u64::from(self.layers) * (2 * hidden * hidden + 2 * hidden * kv + 3 * hidden * ffn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_the_published_sizes() {
        let g = Geometry::by_name("700M").unwrap();
        assert_eq!((g.hidden, g.ffn, g.layers), (1536, 4096, 24));
        // 24 layers of 4 x 1536^2 + 3 x 1536 x 4096.
        assert_eq!(g.linear_weights(), 679_477_248);
        assert_eq!(Geometry::all().len(), 15);
        let error = Geometry::by_name("7oB").unwrap_err().to_string();
        assert!(error.contains("7oB") && error.contains("70B"), "{error}");
    }
}
