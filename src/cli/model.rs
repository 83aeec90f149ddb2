//! `bitjoule model synth | tied | inspect | convert`

use std::fmt::Write;
use std::path::PathBuf;

use bitjoule_kernels::{Isa, Kernel};

use crate::error::Result;
use crate::gguf::{Gguf, I2sLayout, Value};
use crate::model::{self, EmbeddingType, Geometry, Plan, SYNTH_SEED, WeightType};
use crate::run::{TiedSteps, tied_in_turns};
use crate::stats::{Spread, TIED_TOLERANCE, median_interval};
use crate::units::Bytes;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Write a synthetic model: a published geometry with random ternary weights
    Synth {
        /// Size: 125M, 350M, 700M, 1B, 1.5B, 2.7B, 3B, 3.8B, 7B, 13B, 30B, 70B, 100B, 2B4T, 8B
        size: String,
        /// File to write
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
        /// Type of the linear layers
        #[arg(long = "type", default_value = "i2_s", value_name = "TYPE")]
        ty: WeightType,
        /// Type of embedding and output projection; by default f16 (F32 with --type f32)
        #[arg(long, value_name = "TYPE")]
        embedding: Option<EmbeddingType>,
        /// Seed of the weights
        #[arg(long, default_value_t = SYNTH_SEED)]
        seed: u64,
        /// Replace the file if it exists
        #[arg(long)]
        force: bool,
    },
    /// Compare the decode speed of a synthetic model that stores fewer layers than it computes with the full one's
    Tied {
        /// Size, as of `synth`; both models have to fit into memory
        size: String,
        /// Layers that are stored; at least twelve times the last-level cache
        #[arg(long, value_name = "N")]
        unique_layers: u32,
        /// Kernel of both
        #[arg(long, default_value = "i2_s")]
        kernel: String,
        /// Threads; by default as many as there are CPUs
        #[arg(long, value_name = "N")]
        threads: Option<usize>,
        /// Turns of four decode steps of each
        #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u32).range(6..=100_000))]
        pairs: u32,
    },
    /// Show what a model file holds, and which kernels can run it
    Inspect {
        /// Model file (GGUF)
        model: PathBuf,
        /// Order of the weights in I2_S tensors
        #[arg(long, default_value = "x86")]
        i2s_layout: super::Layout,
    },
    /// Convert a model between F32, F16 and I2_S
    Convert {
        /// Model file (GGUF)
        model: PathBuf,
        /// File to write
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
        /// Type of the linear layers
        #[arg(long = "type", value_name = "TYPE")]
        ty: WeightType,
        /// Type of embedding and output projection; by default as in the model
        #[arg(long, value_name = "TYPE")]
        embedding: Option<EmbeddingType>,
        /// Order of the weights in I2_S tensors of the model; it is written in the x86-64 order
        #[arg(long, default_value = "x86")]
        i2s_layout: super::Layout,
        /// Replace the file if it exists
        #[arg(long)]
        force: bool,
    },
}

impl Command {
    pub(super) fn run(self) -> Result<u8> {
        match self {
            Command::Synth { size, output, ty, embedding, seed, force } => {
                model::synth(Geometry::by_name(&size)?, None, ty, embedding, seed, &output, force)?;
                report_file(&output);
            }
            Command::Tied { size, unique_layers, kernel, threads, pairs } => {
                let (kernel, threads) =
                    (super::generate::kernel(&kernel)?, super::generate::threads(threads)?);
                let isa = kernel.isas().last().copied().unwrap_or(Isa::SCALAR);
                let of = TiedSteps { size: &size, unique_layers, kernel, isa, threads };
                let ratios = tied_in_turns(of, pairs, |what| eprintln!("{what}"))?;
                let (text, differs) = compared(&of, ratios);
                super::print(&text);
                return Ok(u8::from(differs));
            }
            Command::Inspect { model, i2s_layout } => inspect(&Gguf::open(&model)?, i2s_layout.into()),
            Command::Convert { model, output, ty, embedding, i2s_layout, force } => {
                model::convert(&Gguf::open(&model)?, i2s_layout.into(), ty, embedding, &output, force)?;
                report_file(&output);
            }
        }
        Ok(0)
    }
}

/// What the ratios of turns say, and whether tied layers do not stand for the full model.
fn compared(of: &TiedSteps, mut ratios: Vec<f64>) -> (String, bool) {
    ratios.sort_by(f64::total_cmp);
    let median = Spread::of(ratios.iter().copied()).map_or(f64::NAN, |ratios| ratios.median);
    let (low, high) = median_interval(&ratios).unwrap_or((f64::NEG_INFINITY, f64::INFINITY));
    let tolerated = (1.0 - TIED_TOLERANCE)..=(1.0 + TIED_TOLERANCE);
    let differs = high < *tolerated.start() || *tolerated.end() < low;
    let verdict = match (tolerated.contains(&low) && tolerated.contains(&high), differs) {
        (true, _) => "within it",
        (false, true) => "beyond it",
        (false, false) => "unclear; more pairs, or a quieter machine, would tell",
    };
    let text = format!(
        "{} with {} layers stored, {} {}, {} threads: {median:.4} times as fast a decode step as the full model (median \
         of {} pairs; {low:.4} to {high:.4} with 95 % confidence). Tolerated are {:.0} %: {verdict}.\n",
        of.size,
        of.unique_layers,
        of.kernel,
        of.isa,
        of.threads,
        ratios.len(),
        TIED_TOLERANCE * 100.0
    );
    (text, differs)
}

fn report_file(path: &std::path::Path) {
    let bytes = std::fs::metadata(path).map_or(0, |m| m.len());
    eprintln!("{}: {}", path.display(), Bytes(bytes));
}

fn inspect(gguf: &Gguf, layout: I2sLayout) {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        "{}: GGUF version {}, {}, alignment {}\n\nmetadata",
        gguf.path_label(),
        gguf.version(),
        Bytes(gguf.file_bytes()),
        gguf.alignment()
    );
    for (key, value) in gguf.metadata() {
        let _ = writeln!(out, "  {key} = {}", shown(value));
    }
    let _ = writeln!(out, "\ntensors (columns x rows)");
    for tensor in gguf.tensors() {
        let shape: Vec<_> = tensor.shape.iter().map(u64::to_string).collect();
        let _ = writeln!(
            out,
            "  {:<32} {:<6} {}",
            tensor.name.escape_debug(),
            tensor.ty.name(),
            shape.join(" x ")
        );
    }
    let _ = writeln!(out, "\nkernels (memory for the packed weights)");
    for kernel in Kernel::ALL {
        let _ = match Plan::new(gguf, kernel, layout) {
            Ok(plan) => writeln!(
                out,
                "  {:<12} {:>9}, output projection in {}",
                kernel.name(),
                plan.weight_bytes().to_string(),
                plan.head_name()
            ),
            Err(e) => writeln!(out, "  {:<12} no: {e}", kernel.name()),
        };
    }
    super::print(&out);
}

/// A metadata value on one line; long ones are cut and say how long they are.
fn shown(value: &Value) -> String {
    const MAX: usize = 72;
    let text = match value {
        Value::String(s) => format!("{s:?}"),
        Value::Array(a) => format!("array of {}", a.len()),
        other => {
            let debug = format!("{other:?}");
            debug.split_once('(').map_or(debug.clone(), |(_, v)| v.trim_end_matches(')').to_owned())
        }
    };
    if text.chars().count() <= MAX {
        text
    } else {
        format!("{}... ({} characters)", text.chars().take(MAX).collect::<String>(), text.chars().count())
    }
}
