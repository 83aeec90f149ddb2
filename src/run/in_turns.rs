//! A model of tied layers and the full one, decoding in turns within one process.
//!
//! What differs between them is a few percent at most, less than a shared machine changes from one minute to the
//! next. Steps that lie a tenth of a second apart meet the same machine.

use std::time::Instant;

use bitjoule_kernels::{Isa, Kernel};

use super::plan;
use crate::backend::native;
use crate::engine::{Engine, EngineOptions, KvType};
use crate::error::{Error, Result};
use crate::gguf::{Gguf, I2sLayout};
use crate::model::Geometry;

/// Decode steps that are timed together; one more before them wakes the engine's threads.
const STEPS: u32 = 4;

/// What is compared.
#[derive(Debug, Clone, Copy)]
pub struct TiedSteps<'a> {
    /// Size of the synthetic model.
    pub size: &'a str,
    /// Layers stored by one of both.
    pub unique_layers: u32,
    /// Kernel of both.
    pub kernel: Kernel,
    /// Its instruction set.
    pub isa: Isa,
    /// Threads of both.
    pub threads: usize,
}

/// Decodes with both in turns, `pairs` times, and returns how many times as fast each turn of the tied model was
/// as that of the full one beside it.
///
/// # Errors
/// If there is no such model, both do not fit into memory, or as many layers are stored as computed.
pub fn tied_in_turns(of: TiedSteps, pairs: u32, mut progress: impl FnMut(&str)) -> Result<Vec<f64>> {
    let geometry = Geometry::by_name(of.size)?;
    if !(1..geometry.layers).contains(&of.unique_layers) {
        return Err(Error::input(format!(
            "{} has {} layers; fewer have to be stored, and at least one",
            of.size, geometry.layers
        )));
    }
    let mut engine = |unique_layers| -> Result<Engine> {
        let path = plan::cached(of.size, None, unique_layers, &plan::cache_dir(), &mut progress)?;
        let options = EngineOptions {
            threads: of.threads,
            kv: KvType::F16,
            context: STEPS as usize + 1,
            batch: 1,
            profile: false,
        };
        native::engine(&Gguf::open(&path)?, I2sLayout::default(), of.kernel, of.isa, options)
    };
    let mut engines = [engine(None)?, engine(Some(of.unique_layers))?];
    let mut ratios = Vec::new();
    for pair in 0..pairs {
        let mut seconds = [0.0; 2];
        // Each goes first as often as second.
        for i in [pair as usize % 2, (pair as usize + 1) % 2] {
            seconds[i] = turn(&mut engines[i])?;
        }
        let [full, tied] = seconds;
        ratios.push(full / tied);
    }
    Ok(ratios)
}

/// Time of [`STEPS`] decode steps, seconds.
fn turn(engine: &mut Engine) -> Result<f64> {
    engine.clear();
    engine.decode(1)?;
    let start = Instant::now();
    for token in 0..STEPS {
        engine.decode(token)?;
    }
    Ok(start.elapsed().as_secs_f64())
}
