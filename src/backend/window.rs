//! The window of a phase: all instruments read at its edges, and repeated where energy needs it longer.

use std::time::Duration;

use bitjoule_kernels::{Isa, Kernel};

use crate::engine::{Engine, EngineOptions, KvType, Span};
use crate::error::Result;
use crate::figure::Figure;
use crate::gguf::I2sLayout;
use crate::journal::{DomainEnergy, EnergyWindow, Faults, OverheadPair, SourceEnergy, Work};
use crate::model::Plan;
use crate::probe::clock;
use crate::probe::counters::{self, Counters};
use crate::probe::energy::{self, Meter};
use crate::probe::memory;
use crate::probe::state::{Busy, Watch};
use crate::probe::usage::{self, Usage};

use super::protocol::{EnergySetup, Event, ModelFile};

/// No window of energy is stretched beyond this: a slow source keeps the error that its figure states.
const LONGEST_STRETCH: Duration = Duration::from_secs(60);

/// The least that the idle machine is observed, and more where the energy source is slow.
const IDLE_FOR: Duration = Duration::from_secs(2);

/// What is read at the edges of a window, besides the clocks.
pub(super) struct Instruments {
    energy: Meter,
    counters: Counters,
}

impl Instruments {
    pub(super) fn open(energy: &EnergySetup) -> Self {
        Instruments { energy: open_meter(energy), counters: Counters::open() }
    }

    /// Opens the window of a phase that `threads` threads work on.
    ///
    /// The host's state is read first and last, energy next to it, so that their windows contain the timed
    /// one. Energy waits for a counter that moves soon; the other instruments take microseconds.
    pub(super) fn open_window(&self, threads: usize) -> Window<'_> {
        Window {
            watch: Watch::start(None, &Busy::team(threads)),
            energy: self.energy.mark_aligned(),
            usage: usage::read(),
            counters: self.counters.read(),
            cpu_ns: clock::cpu_ns(),
            start_ns: clock::monotonic_ns(),
            instruments: self,
        }
    }
}

/// A window under way.
pub(super) struct Window<'a> {
    instruments: &'a Instruments,
    watch: Watch,
    energy: energy::Mark,
    usage: Figure<Usage>,
    counters: counters::Reading,
    cpu_ns: u64,
    start_ns: u64,
}

impl<'a> Window<'a> {
    /// The phase is over.
    pub(super) fn stop(self) -> Timed<'a> {
        let wall_ns = clock::monotonic_ns() - self.start_ns;
        let cpu_ns = clock::cpu_ns() - self.cpu_ns;
        let counters = self.instruments.counters.read();
        let usage = usage::read();
        Timed { wall_ns, cpu_ns, counters, usage, window: self }
    }
}

/// A phase that has been timed; its energy is still being measured.
pub(super) struct Timed<'a> {
    window: Window<'a>,
    wall_ns: u64,
    cpu_ns: u64,
    counters: counters::Reading,
    usage: Figure<Usage>,
}

impl Timed<'_> {
    /// Runs the phase `again` until the window is long for the energy source (50 of its update periods,
    /// 60 s at most), and closes it; without it the window ends with the phase. Time, counters and faults
    /// stay those of the first execution.
    ///
    /// # Errors
    /// Those of `again`.
    pub(super) fn close(
        self,
        again: Option<&mut dyn FnMut() -> Result<()>>,
    ) -> Result<impl FnOnce(Work, Option<Vec<Span>>) -> Event + use<>> {
        let Timed { window, wall_ns, cpu_ns, counters, usage } = self;
        let meter = &window.instruments.energy;
        let (mut repetitions, mut work_ns) = (1, wall_ns);
        if let Some(again) = again {
            let long_enough = meter.min_window().min(LONGEST_STRETCH).as_nanos() as u64;
            let start_ns = clock::monotonic_ns();
            while clock::monotonic_ns() - window.start_ns < long_enough {
                again()?;
                repetitions += 1;
            }
            work_ns += clock::monotonic_ns() - start_ns;
        }
        let (wall, sources) = energy_between(meter, &window.energy, &meter.mark_aligned());
        let energy = EnergyWindow { wall_ns: wall.as_nanos() as u64, work_ns, repetitions, sources };
        let (ended_unix_ms, memory) = (clock::unix_ms(), memory::read());
        let state = Some(Box::new(window.watch.stop()));
        let counters = window.instruments.counters.between(&window.counters, &counters);
        let faults = usage::between(&window.usage, &usage)
            .map(|usage| Faults { minor: usage.minor_faults, major: usage.major_faults });
        // The share of memory takes long to read; it is the same when the sample is reported.
        Ok(move |work, profile| Event::Sample {
            ended_unix_ms,
            wall_ns,
            cpu_ns,
            energy,
            memory,
            pss: memory::proportional(),
            faults,
            counters,
            state,
            profile,
            work,
        })
    }
}

pub(super) fn open_meter(setup: &EnergySetup) -> Meter {
    Meter::open(&setup.choice, setup.root.as_deref())
}

/// Length and energies of the window between two marks.
fn energy_between(meter: &Meter, from: &energy::Mark, to: &energy::Mark) -> (Duration, Vec<SourceEnergy>) {
    let sources = meter.between(from, to).into_iter().map(|source| SourceEnergy {
        source: source.source,
        energy: source.energy.map(|domains| {
            let domain = |d: energy::DomainEnergy| DomainEnergy {
                domain: d.domain,
                energy_j: d.energy_j,
                uncertainty_j: Some(d.uncertainty_j),
                in_total: Some(d.in_total),
            };
            domains.into_iter().map(domain).collect()
        }),
        marks: source.marks,
    });
    (to.at().saturating_sub(from.at()), sources.collect())
}

/// The energy of doing nothing. A source that is not there is not waited for.
pub(super) fn idle(meter: &Meter) -> Event {
    let from = meter.mark_aligned();
    if meter.is_open() {
        std::thread::sleep(meter.min_window().clamp(IDLE_FOR, LONGEST_STRETCH));
    }
    let (wall, sources) = energy_between(meter, &from, &meter.mark_aligned());
    Event::Idle { ended_unix_ms: clock::unix_ms(), wall_ns: wall.as_nanos() as u64, sources }
}

/// Work of so long is done with the instruments and without: some readings of the samplers.
const OVERHEAD_BLOCK: Duration = Duration::from_millis(250);

/// The cost of the instruments: the built-in model decodes the same steps with them and without, in turns.
///
/// # Errors
/// If the engine cannot be made.
pub(super) fn overhead(instruments: &Instruments, threads: usize, pairs: usize) -> Result<Vec<OverheadPair>> {
    const STEPS: usize = 32;
    let gguf = ModelFile::Builtin.open()?;
    let options = EngineOptions { threads, kv: KvType::F16, context: STEPS, batch: 1, profile: false };
    let model = Plan::new(&gguf, Kernel::I2S, I2sLayout::X86_64)?.load(Isa::best())?;
    let mut engine = Engine::new(model, options)?;
    let mut run = |times: u64| -> Result<u64> {
        let start_ns = clock::monotonic_ns();
        for _ in 0..times {
            engine.clear();
            (0..STEPS as u32).try_for_each(|token| engine.decode(token).map(drop))?;
        }
        Ok(clock::monotonic_ns() - start_ns)
    };
    // How much work a block is; the first passes warm up.
    let mut times = 1;
    while Duration::from_nanos(run(times)?) < OVERHEAD_BLOCK / 2 {
        times *= 2;
    }
    (0..pairs)
        .map(|pair| {
            let first = if pair % 2 == 1 { Some(run(times)?) } else { None };
            let opening_ns = clock::monotonic_ns();
            let window = instruments.open_window(threads);
            let opened_ns = clock::monotonic_ns();
            run(times)?;
            let timed = window.stop();
            let (with_ns, closing_ns) = (timed.wall_ns, clock::monotonic_ns());
            drop(timed.close(None)?);
            let edges_ns = opened_ns - opening_ns + clock::monotonic_ns() - closing_ns;
            let without_ns = first.map_or_else(|| run(times), Ok)?;
            Ok(OverheadPair { with_ns, without_ns, edges_ns })
        })
        .collect()
}
