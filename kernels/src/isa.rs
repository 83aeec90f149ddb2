//! Instruction sets: what the CPU has, and values that prove it.

use std::fmt;

/// An instruction set that this CPU has: it can only be obtained by detection, which is what makes
/// the safe façades over `target_feature` functions sound.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Isa(Level);

#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) enum Level {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(avx512)]
    Avx512Vnni,
    /// The above with VBMI: lookups in tables of 64 and 128 bytes.
    #[cfg(avx512)]
    Avx512Vbmi,
    #[cfg(target_arch = "aarch64")]
    Neon,
    #[cfg(target_arch = "aarch64")]
    NeonDotprod,
}

/// Every name that some target knows, so that a suite written elsewhere gets the right message.
const KNOWN: [&str; 6] = ["scalar", "avx2", "avx512-vnni", "avx512-vbmi", "neon", "neon-dotprod"];

/// An instruction set that was asked for by name and cannot be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnsupportedIsa {
    /// No instruction set of that name exists here.
    Unknown(String),
    /// The name is known, the CPU lacks it.
    Missing(String),
}

impl fmt::Display for UnsupportedIsa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let have: Vec<_> = Isa::available().iter().map(|i| i.name()).collect();
        let have = have.join(", ");
        match self {
            Self::Unknown(name) => {
                write!(f, "unknown instruction set '{name}'; this CPU has auto, {have}")
            }
            Self::Missing(name) => write!(f, "this CPU does not have '{name}'; it has {have}"),
        }
    }
}

impl std::error::Error for UnsupportedIsa {}

impl Isa {
    /// Plain Rust without vector intrinsics: the specification that the others are tested against.
    pub const SCALAR: Isa = Isa(Level::Scalar);

    /// All instruction sets of this CPU, slowest first.
    pub fn available() -> Vec<Isa> {
        #[allow(unused_mut, reason = "nothing to add on other targets")]
        let mut isas = vec![Isa::SCALAR];
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            let avx2 = has!("avx2") && has!("fma") && has!("f16c");
            if avx2 {
                isas.push(Isa(Level::Avx2));
            }
            #[cfg(avx512)]
            if avx2 && has!("avx512f") && has!("avx512bw") && has!("avx512vl") && has!("avx512vnni") {
                isas.push(Isa(Level::Avx512Vnni));
                if has!("avx512vbmi") {
                    isas.push(Isa(Level::Avx512Vbmi));
                }
            }
        }
        #[cfg(target_arch = "aarch64")]
        {
            use std::arch::is_aarch64_feature_detected as has;
            if has!("neon") {
                isas.push(Isa(Level::Neon));
            }
            if has!("neon") && has!("dotprod") {
                isas.push(Isa(Level::NeonDotprod));
            }
        }
        isas
    }

    /// The fastest instruction set of this CPU.
    pub fn best() -> Isa {
        *Isa::available().last().unwrap_or(&Isa::SCALAR)
    }

    /// The instruction set called `name`; `auto` is [`Isa::best`].
    ///
    /// # Errors
    /// If no such instruction set is known, or this CPU lacks it.
    pub fn by_name(name: &str) -> Result<Isa, UnsupportedIsa> {
        if name == "auto" {
            return Ok(Isa::best());
        }
        if let Some(isa) = Isa::available().into_iter().find(|i| i.name() == name) {
            return Ok(isa);
        }
        Err(if KNOWN.contains(&name) {
            UnsupportedIsa::Missing(name.to_owned())
        } else {
            UnsupportedIsa::Unknown(name.to_owned())
        })
    }

    /// The name used in suites and tables.
    pub fn name(self) -> &'static str {
        match self.0 {
            Level::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "avx2",
            #[cfg(avx512)]
            Level::Avx512Vnni => "avx512-vnni",
            #[cfg(avx512)]
            Level::Avx512Vbmi => "avx512-vbmi",
            #[cfg(target_arch = "aarch64")]
            Level::Neon => "neon",
            #[cfg(target_arch = "aarch64")]
            Level::NeonDotprod => "neon-dotprod",
        }
    }

    pub(crate) fn level(self) -> Level {
        self.0
    }

    /// Whether table lookups are in 16-bit lanes; in bytes otherwise.
    pub(crate) fn word_tables(self) -> bool {
        match self.0 {
            #[cfg(avx512)]
            Level::Avx512Vnni | Level::Avx512Vbmi => true,
            _ => false,
        }
    }

    /// Whether five trits in a byte are decoded by tables; by arithmetic otherwise.
    pub(crate) fn base3_by_table(self) -> bool {
        match self.0 {
            #[cfg(avx512)]
            Level::Avx512Vbmi => true,
            _ => false,
        }
    }
}

impl fmt::Debug for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
