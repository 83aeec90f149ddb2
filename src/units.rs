//! Units as types, for the quantities that cross module boundaries.

use serde::{Deserialize, Serialize};

/// Energy in joules.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Joules(pub f64);

/// Power in watts.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Watts(pub f64);

/// A data rate in bytes per second.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BytesPerS(pub f64);

/// A rate of multiply-accumulates, one product and its addition each, per second.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MacPerS(pub f64);

/// An amount of memory in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bytes(pub u64);

impl Bytes {
    const UNITS: [(&'static str, u64); 8] = [
        ("TiB", 1 << 40),
        ("GiB", 1 << 30),
        ("GB", 1_000_000_000),
        ("MiB", 1 << 20),
        ("MB", 1_000_000),
        ("KiB", 1 << 10),
        ("kB", 1_000),
        ("B", 1),
    ];

    /// The amount without rounding, in the largest unit of which it is a whole number: `512 MiB`.
    pub fn exact(self) -> String {
        let (name, size) =
            Self::UNITS.into_iter().find(|(_, size)| self.0.is_multiple_of(*size)).unwrap_or(("B", 1));
        match self.0 {
            0 => "0 B".to_owned(),
            bytes => format!("{} {name}", bytes / size),
        }
    }

    /// Reads what [`exact`](Self::exact) writes: a whole number and a unit; none if it is anything else.
    pub fn parse(text: &str) -> Option<Bytes> {
        let text = text.trim();
        let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
        let (_, size) = Self::UNITS.into_iter().find(|(name, _)| *name == unit.trim_start())?;
        number.parse::<u64>().ok()?.checked_mul(size).map(Bytes)
    }
}

impl std::fmt::Display for Bytes {
    /// Decimal units, as memory and file sizes are quoted: `1.23 GB`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let b = self.0 as f64;
        match self.0 {
            0..1_000 => write!(f, "{} B", self.0),
            1_000..1_000_000 => write!(f, "{:.1} kB", b / 1e3),
            1_000_000..1_000_000_000 => write!(f, "{:.1} MB", b / 1e6),
            _ => write!(f, "{:.2} GB", b / 1e9),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_amounts_are_read_as_they_were_written() {
        for (text, bytes) in [
            ("512 MiB", 512 << 20),
            ("1 GiB", 1 << 30),
            ("3 GB", 3_000_000_000),
            ("1500 MB", 1_500_000_000),
            ("1025 B", 1025),
            ("0 B", 0),
        ] {
            assert_eq!((Bytes(bytes).exact().as_str(), Bytes::parse(text)), (text, Some(Bytes(bytes))));
        }
        assert_eq!(Bytes::parse(" 2GiB "), Some(Bytes(2 << 30)));
        for wrong in [
            "",
            "5",
            "MiB",
            "1.5 GiB",
            "-1 MiB",
            "1 mib",
            "1 MiB x",
            "99999999999 TiB",
            "9999999999999999999999 B",
        ] {
            assert_eq!(Bytes::parse(wrong), None, "{wrong}");
        }
    }
}
