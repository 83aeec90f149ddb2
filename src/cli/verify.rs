//! `bitjoule verify`

use std::fmt::Write;
use std::path::PathBuf;

use crate::engine::KvType;
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::verify::{Golden, Options, verify};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Model file (GGUF)
    model: PathBuf,
    /// Logits that another implementation computed (JSON: source, tokens, logits)
    #[arg(long, value_name = "FILE")]
    golden: Option<PathBuf>,
    /// Element type of the KV cache
    #[arg(long, default_value = "f32")]
    kv: KvType,
    /// Only this kernel
    #[arg(long)]
    kernel: Option<String>,
    /// Only this instruction set
    #[arg(long)]
    isa: Option<String>,
    /// Only this thread count
    #[arg(short, long)]
    threads: Option<usize>,
    /// Order of the weights in I2_S tensors
    #[arg(long, default_value = "x86")]
    i2s_layout: super::Layout,
}

impl Args {
    pub(super) fn run(self) -> Result<u8> {
        let threads = self.threads.map(|n| super::generate::threads(Some(n))).transpose()?;
        let options = Options {
            layout: self.i2s_layout.into(),
            kv: self.kv,
            kernel: self.kernel.as_deref().map(super::generate::kernel).transpose()?,
            isa: self.isa.as_deref().map(super::generate::isa).transpose()?,
            threads,
        };
        let golden = self.golden.as_deref().map(Golden::load).transpose()?;
        let gguf = Gguf::open(&self.model)?;
        let verdict = verify(&gguf, golden.as_ref(), &options, |_| {})?;

        let mut out = format!(
            "reference: {}\nKV cache {}; a ternary kernel passes with: {}\n\n",
            verdict.reference,
            self.kv.name(),
            verdict.rule
        );
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "{:<11} {:<12} {:>7}  {:<6} {:>10} {:>10} {:>9} {:>14}  verdict",
            "kernel", "isa", "threads", "mode", "relative", "maximal", "argmax", "first differs"
        );
        for line in &verdict.lines {
            let d = line.difference;
            let _ = writeln!(
                out,
                "{:<11} {:<12} {:>7}  {:<6} {:>10.2e} {:>10.2e} {:>9} {:>14}  {}",
                line.kernel,
                line.isa,
                line.threads,
                line.mode,
                d.relative,
                d.absolute,
                format!("{}/{}", d.argmax_agreeing, d.positions),
                d.first_differing.map_or("never".to_owned(), |p| format!("token {p}")),
                match line.passed {
                    Some(true) => "pass",
                    Some(false) => "FAIL",
                    None if line.kernel.is_ternary() => "not judged (lossy by design)",
                    None => "not judged (no activation quantization)",
                }
            );
        }
        for (kernel, why) in &verdict.left_out {
            let _ = writeln!(out, "{kernel} left out: {why}");
        }
        super::print(&out);
        let failed = verdict.lines.iter().filter(|l| l.passed == Some(false)).count();
        if failed > 0 {
            return Err(Error::Check(format!("{failed} of {} comparisons failed", verdict.lines.len())));
        }
        Ok(0)
    }
}
