//! The coordinator: takes the rounds one task after the other, each in a worker, and journals what it
//! measures. It never measures itself.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bitjoule_kernels::{Isa, Kernel};
use indicatif::{ProgressBar, ProgressStyle};

use crate::backend::check;
use crate::backend::limit::MemoryCap;
use crate::backend::protocol::{EnergySetup, Event, Job, Reference};
use crate::engine::allowed_cpus;
use crate::error::{Error, Result};
use crate::journal::file::{self, Journal};
use crate::journal::{
    BandwidthSample, Case, Check, ENERGY_SCHEMA, Failure, FailureKind, IdleSample, ModelFileId,
    OverheadSample, PeakSample, Phase, Record, Reproduces, RunHeader, SCHEMA, Sample, Session, StatedEnergy,
};
use crate::probe::clock::unix_ms;
use crate::probe::energy::choice::SourceChoice;
use crate::probe::energy::{self, EnergyChoice};
use crate::probe::host::{Build, Host};
use crate::probe::{bandwidth, memory};
use crate::suite::{Model, ModelSource, Suite};

use super::estimate::Estimate;
use super::plan::{self, PlannedModel, Task};
use super::tied;
use super::worker::{self, Ended};

/// Passes over the buffer of a bandwidth reading.
const BANDWIDTH_PASSES: u32 = 8;

/// Passes of a reading of the compute peak, with each kind of arithmetic.
const PEAK_PASSES: u32 = 8;

/// Pairs of windows, with the instruments and without, a round.
const OVERHEAD_PAIRS: u32 = 2;

/// Directory of reference logits within the run directory, while the run is under way.
const REFERENCE_DIR: &str = ".reference";

/// How to run a suite.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// Model files measured besides the suite's.
    pub models: Vec<PathBuf>,
    /// Run directory; by default one under `results/`, named by time and suite.
    pub out: Option<PathBuf>,
    /// Whether to note where the time of prefill and decode goes.
    pub profile: bool,
    /// Whether to keep packed weights beside the model files, and read them in later visits.
    pub keep_packed: bool,
    /// Which energy sources to read.
    pub energy: EnergyChoice,
    /// Root of a simulated machine, whose energy sources are read in the place of this one's.
    pub energy_root: Option<PathBuf>,
    /// What the user states about energy.
    pub stated: StatedEnergy,
}

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    /// The run directory.
    pub dir: PathBuf,
    /// Everything in its journal.
    pub records: Vec<Record>,
    /// Whether it was interrupted, and can be resumed.
    pub interrupted: bool,
}

/// Measures `suite` into a new run directory.
///
/// # Errors
/// If a model is wrong, the directory exists or cannot be written. What was measured before an error
/// stays in the journal.
pub fn start(mut suite: Suite, options: &RunOptions) -> Result<Outcome> {
    for path in &options.models {
        let path = std::path::absolute(path).map_err(|e| Error::io("find", path, &e))?;
        suite.models.push(Model {
            source: ModelSource::File(path),
            name: None,
            kernels: None,
            isas: None,
            embedding: None,
            unique_layers: None,
        });
    }
    // Through the parser once more: it knows all rules, also those that an added model can break.
    let suite = Suite::parse(&suite.to_toml()?, "suite with the models added", Path::new(""))?;
    let host = Host::detect();
    let threads = allowed_cpus().len().max(1) as u32;
    let (suite, left_out) =
        tied::decide(suite, threads, &memory::available(), host.llc_bytes(), |what| eprintln!("{what}"))?;
    let suite_toml = suite.to_toml()?;
    let cases = plan::cases(&suite, threads)?;
    let models = plan::models(&suite, &plan::cache_dir(), |what| eprintln!("{what}"))?;

    let dir = new_run_dir(options.out.as_deref(), &suite.name)?;
    let build = Build::current();
    let header = RunHeader {
        schema: SCHEMA,
        run_id: run_id(),
        suite: suite.name.clone(),
        started_unix_ms: unix_ms(),
        version: build.version.clone(),
        commit: build.commit.clone(),
        seed: suite.seed,
        rounds: suite.rounds,
        llc_bytes: host.llc_bytes(),
        profile: options.profile,
        memory_limit: suite.memory_limit,
        keep_packed: options.keep_packed,
        models: models
            .iter()
            .map(|m| ModelFileId { model: m.label.clone(), blake3: m.blake3.clone() })
            .collect(),
        left_out,
        reproduces: suite.reproduces.clone().map(|target| Reproduces {
            target,
            against: suite.against.clone().unwrap_or_else(|| "f16".to_owned()),
        }),
        energy: options.energy.clone(),
        stated: StatedEnergy {
            cpus: options.stated.tdp_w.and_then(|_| host.logical_cores.value().copied()),
            ..options.stated.clone()
        },
        cases,
    };
    let journal = found(&dir, &suite_toml, &host, &header).inspect_err(|_| {
        // A directory without its plan is no run: it is left empty, and can be given to the next.
        for name in ["suite.toml", "host.json", file::FILE_NAME] {
            let _ = std::fs::remove_file(dir.join(name));
        }
    })?;
    let run = Run::new(dir, suite, header, models, options.energy_root.clone(), journal, Vec::new());
    run.session(false)
}

/// Writes what a run begins with; its plan, in the journal, last.
fn found(dir: &Path, suite_toml: &str, host: &Host, header: &RunHeader) -> Result<Journal> {
    write(&dir.join("suite.toml"), suite_toml)?;
    let host_json = serde_json::to_string_pretty(host).map_err(Error::environment)?;
    write(&dir.join("host.json"), &(host_json + "\n"))?;
    let mut journal = Journal::create(dir)?;
    journal.append(&Record::Run(header.clone()))?;
    Ok(journal)
}

/// Says how to go on after the machine failed a run that has begun.
pub fn resumable(error: Error, dir: &Path) -> Error {
    match error {
        Error::Environment(m) => Error::Environment(format!(
            "{m}; what was measured is kept, go on with: bitjoule run --resume {}",
            dir.display()
        )),
        error => error,
    }
}

/// Goes on with the run in `dir`, where it stopped. A complete run is left as it is.
///
/// # Errors
/// If it is no run directory, or its models are gone; otherwise as [`start`].
pub fn resume(dir: &Path, energy_root: Option<PathBuf>) -> Result<Outcome> {
    let (journal, contents) = Journal::resume(dir)?;
    if contents.torn_bytes > 0 {
        eprintln!(
            "the last {} bytes of the journal were not a whole record and are cut off",
            contents.torn_bytes
        );
    }
    let Some(Record::Run(header)) = contents.records.first().cloned() else {
        let path = dir.join(file::FILE_NAME);
        return Err(Error::input(format!("{}: holds no plan; start a new run", path.display())));
    };
    let suite = Suite::load(&dir.join("suite.toml"))?;
    let build = Build::current();
    if (&build.version, &build.commit) != (&header.version, &header.commit) {
        eprintln!(
            "warning: this is bitjoule {} ({}), but the run was started with {} ({}); its figures may not compare",
            build.version, build.commit, header.version, header.commit
        );
    }
    let models = plan::models(&suite, &plan::cache_dir(), |what| eprintln!("{what}"))?;
    for model in &models {
        let was = header.models.iter().find(|m| m.model == model.label);
        if was.is_some_and(|was| was.blake3 != model.blake3) {
            return Err(Error::input(format!(
                "the file of model '{}' is not the one that this run began with (BLAKE3 {} now); put that file \
                 back, or start a new run",
                model.label, model.blake3
            )));
        }
    }
    Run::new(dir.to_owned(), suite, header, models, energy_root, journal, contents.records[1..].to_vec())
        .session(true)
}

/// Makes a directory for what is measured: `out`, or one under `results/`, named by time and `suite`.
///
/// # Errors
/// If it exists and is not empty, or cannot be made.
pub fn new_run_dir(out: Option<&Path>, suite: &str) -> Result<PathBuf> {
    if let Some(dir) = out {
        if let Some(parent) = dir.parent().filter(|p| !p.as_os_str().is_empty()) {
            std::fs::create_dir_all(parent).map_err(|e| Error::io("create", parent, &e))?;
        }
        return match std::fs::create_dir(dir) {
            Ok(()) => Ok(dir.to_owned()),
            // An empty directory may have been made for the run; a run in it is never overwritten.
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists && is_empty_dir(dir) => {
                Ok(dir.to_owned())
            }
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Err(Error::input(format!(
                "{} exists and is not empty; choose another directory, or go on with a run by --resume {}",
                dir.display(),
                dir.display()
            ))),
            Err(e) => Err(Error::io("create", dir, &e)),
        };
    }
    let results = Path::new("results");
    std::fs::create_dir_all(results).map_err(|e| Error::io("create", results, &e))?;
    let stamp = utc_stamp(unix_ms() / 1000);
    for n in 1.. {
        let suffix = if n == 1 { String::new() } else { format!("-{n}") };
        let dir = results.join(format!("{stamp}-{suite}{suffix}"));
        match std::fs::create_dir(&dir) {
            Ok(()) => return Ok(dir),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists && n < 1000 => {}
            Err(e) => return Err(Error::io("create", &dir, &e)),
        }
    }
    unreachable!("the loop returns")
}

fn is_empty_dir(dir: &Path) -> bool {
    std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none())
}

/// `20260131-235959`, UTC: sorts by time.
fn utc_stamp(unix_s: u64) -> String {
    let (days, second) = (unix_s / 86_400, unix_s % 86_400);
    // Civil date from days since 1970, after Howard Hinnant's `civil_from_days`.
    let z = days + 719_468;
    let era = z / 146_097;
    let doe = z % 146_097;
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let year = yoe + era * 400 + u64::from(month <= 2);
    format!("{year:04}{month:02}{day:02}-{:02}{:02}{:02}", second / 3600, second / 60 % 60, second % 60)
}

/// Identity of a run: time, process and a random number that the standard library seeds its maps with.
fn run_id() -> String {
    use std::hash::{BuildHasher, Hasher};
    let mut hasher = std::collections::hash_map::RandomState::new().build_hasher();
    hasher.write_u64(unix_ms());
    hasher.write_u32(std::process::id());
    format!("{:016x}", hasher.finish())
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(|e| Error::io("write", path, &e))
}

/// A run under way.
struct Run {
    dir: PathBuf,
    suite: Suite,
    header: RunHeader,
    models: Vec<PlannedModel>,
    energy_root: Option<PathBuf>,
    /// The energy source that the first worker found, which all that follow read too: figures of two sources
    /// do not compare.
    found_energy: Option<&'static str>,
    journal: Journal,
    /// All records after the plan.
    records: Vec<Record>,
    /// Samples that the journal has, by case, round and phase.
    sampled: HashSet<(String, u32, Phase)>,
    /// Bandwidth readings that it has, by round and threads.
    bandwidths: HashSet<(u32, u32)>,
    /// Rounds before which it has the idle machine.
    idles: HashSet<u32>,
    /// Rounds of which it has the instruments' cost.
    overheads: HashSet<u32>,
    /// Compute peaks that it has, by round, instruction set and threads.
    peaks: HashSet<(u32, String, u32)>,
    /// Cases and probes that failed in a round, by name; `None` for good.
    failed: HashSet<(String, Option<u32>)>,
    checked: HashSet<String>,
    next_visit: u32,
}

impl Run {
    fn new(
        dir: PathBuf,
        suite: Suite,
        header: RunHeader,
        models: Vec<PlannedModel>,
        energy_root: Option<PathBuf>,
        journal: Journal,
        records: Vec<Record>,
    ) -> Self {
        let mut run = Run {
            dir,
            suite,
            header,
            models,
            energy_root,
            found_energy: None,
            journal,
            records: Vec::new(),
            sampled: HashSet::new(),
            bandwidths: HashSet::new(),
            idles: HashSet::new(),
            overheads: HashSet::new(),
            peaks: HashSet::new(),
            failed: HashSet::new(),
            checked: HashSet::new(),
            next_visit: 1,
        };
        records.into_iter().for_each(|record| run.note(record));
        run
    }

    /// Takes a record of the journal into account.
    fn note(&mut self, record: Record) {
        let sources = match &record {
            Record::Idle(idle) => Some(&idle.sources),
            Record::Sample(sample) => sample.energy_window.as_ref().map(|window| &window.sources),
            _ => None,
        };
        if let (None, Some(first)) = (self.found_energy, sources.and_then(|sources| sources.first())) {
            self.found_energy = energy::names().find(|name| *name == first.source);
        }
        match &record {
            Record::Run(_) | Record::Session(_) => {}
            Record::Idle(i) => {
                self.idles.insert(i.before_round);
            }
            Record::Overhead(o) => {
                self.overheads.insert(o.round);
            }
            Record::Sample(s) => {
                self.next_visit = self.next_visit.max(s.visit + 1);
                self.sampled.insert((s.case.clone(), s.round, s.phase()));
            }
            Record::Bandwidth(b) => {
                self.bandwidths.insert((b.round, b.threads));
            }
            Record::Peak(p) => {
                self.peaks.insert((p.round, p.isa.clone(), p.threads));
            }
            Record::Check(c) => {
                self.checked.insert(c.case.clone());
            }
            Record::Failure(f) => {
                self.next_visit = self.next_visit.max(f.visit + 1);
                // A crash may have been the neighbours' fault and is tried again in the next round;
                // what this machine or this model cannot do will not change.
                let round = (f.kind == FailureKind::Crashed).then_some(f.round);
                self.failed.insert((f.case.clone(), round));
            }
        }
        self.records.push(record);
    }

    /// Makes a record durable, then takes it into account.
    fn append(&mut self, record: Record) -> Result<()> {
        self.journal.append(&record)?;
        self.note(record);
        Ok(())
    }

    fn session(self, resumed: bool) -> Result<Outcome> {
        let dir = self.dir.clone();
        self.measure(resumed).map_err(|e| resumable(e, &dir))
    }

    fn measure(mut self, resumed: bool) -> Result<Outcome> {
        let interrupted = interrupt_flag();
        let load_average_1m = sysinfo::System::load_average().ok().map(|load| load.one);
        if self.rounds().iter().any(|(_, tasks)| !tasks.is_empty()) {
            self.append(Record::Session(Session { started_unix_ms: unix_ms(), resumed, load_average_1m }))?;
        }
        let mut estimate = Estimate::new(&self.header.cases, &self.models);
        let rounds = self.rounds();
        let mut left: Vec<(u32, Task)> = rounds
            .into_iter()
            .flat_map(|(round, tasks)| tasks.into_iter().map(move |t| (round, t)))
            .collect();
        left.reverse();
        let bar = progress_bar(left.len() as u64);
        let hidden = bar.is_hidden();
        while let Some((round, task)) = left.pop() {
            if self.settled(round, &task) {
                bar.inc(1);
                continue;
            }
            let name = self.name(&task);
            let rest = estimate.of(left.iter().map(|(_, t)| t).chain([&task]));
            let of = self.header.rounds;
            let when =
                if round > of { "after the last round".to_owned() } else { format!("round {round}/{of}") };
            let message = format!("{when} {name}, about {} left", minutes(rest));
            if hidden {
                eprintln!("{message}");
            }
            bar.set_message(message);
            let start = Instant::now();
            let visit = self.next_visit;
            self.next_visit += 1;
            let ended = self.task(round, visit, &task, interrupted)?;
            if ended == Ended::Interrupted {
                break;
            }
            if let Ended::Failed(kind, reason) = ended {
                let line = format!("{name}: {reason}");
                bar.suspend(|| eprintln!("{line}"));
                self.append(Record::Failure(Failure { case: name, round, visit, kind, reason }))?;
            }
            estimate.saw(&task, start.elapsed());
            bar.inc(1);
        }
        bar.finish_and_clear();
        let interrupted = interrupted.load(Ordering::SeqCst);
        if !interrupted {
            // Only workers read the reference logits; a complete run has no use for them.
            let _ = std::fs::remove_dir_all(self.dir.join(REFERENCE_DIR));
        }
        let mut records = vec![Record::Run(self.header)];
        records.append(&mut self.records);
        Ok(Outcome { dir: self.dir, records, interrupted })
    }

    /// What is still to be done, round by round.
    fn rounds(&self) -> Vec<(u32, Vec<Task>)> {
        let tasks = |round| {
            let mut tasks = plan::order(self.header.schema, &self.header.cases, self.header.seed, round);
            tasks.retain(|task| !self.settled(round, task));
            (round, tasks)
        };
        let mut rounds: Vec<_> = (1..=self.header.rounds).map(tasks).collect();
        // The idle machine is also looked at after the last round, if there is anything left of the run.
        if rounds.iter().any(|(_, tasks)| !tasks.is_empty()) {
            let last = self.header.rounds + 1;
            rounds.push((last, vec![Task::Idle]));
            rounds.last_mut().expect("pushed").1.retain(|task| !self.settled(last, task));
        }
        rounds
    }

    /// Whether a task needs no (more) doing.
    fn settled(&self, round: u32, task: &Task) -> bool {
        let name = self.name(task);
        let failed = |round| self.failed.contains(&(name.clone(), round));
        if failed(None) || failed(Some(round)) {
            return true;
        }
        match task {
            Task::Bandwidth(threads) => self.bandwidths.contains(&(round, *threads)),
            Task::Idle => self.idles.contains(&round) || self.header.schema < ENERGY_SCHEMA,
            Task::Overhead => self.overheads.contains(&round),
            Task::Peak { isa, threads } => self.peaks.contains(&(round, isa.clone(), *threads)),
            Task::Case(i) => {
                let case = &self.header.cases[*i];
                self.missing(case, round).is_empty()
                    && (self.checked.contains(&case.id) || round > 1 || self.unchecked(case, round))
            }
        }
    }

    /// Phases of a case whose samples the round still lacks.
    fn missing(&self, case: &Case, round: u32) -> Vec<Phase> {
        let phases = [Phase::Load, Phase::Prefill, Phase::Decode];
        phases.into_iter().filter(|p| !self.sampled.contains(&(case.id.clone(), round, *p))).collect()
    }

    /// Whether there can be no reference for a case in this round, because making it failed.
    fn unchecked(&self, case: &Case, round: u32) -> bool {
        let name = reference_name(case);
        self.failed.contains(&(name.clone(), None)) || self.failed.contains(&(name, Some(round)))
    }

    fn name(&self, task: &Task) -> String {
        match task {
            Task::Case(i) => self.header.cases[*i].id.clone(),
            Task::Idle => "idle".to_owned(),
            Task::Overhead => "overhead".to_owned(),
            Task::Bandwidth(threads) => format!("bandwidth/t{threads}"),
            Task::Peak { isa, threads } => format!("peak/{isa}/t{threads}"),
        }
    }

    fn task(&mut self, round: u32, visit: u32, task: &Task, interrupted: &AtomicBool) -> Result<Ended> {
        let timeout = Duration::from_secs(self.suite.timeout_s.into());
        let stop = || interrupted.load(Ordering::SeqCst);
        match task {
            Task::Bandwidth(threads) => {
                let buffer =
                    bandwidth::default_buffer(self.header.llc_bytes, memory::available().value().copied());
                let job = Job::Bandwidth { threads: *threads, buffer, passes: BANDWIDTH_PASSES };
                worker::run(&job, timeout, stop, |event| match event {
                    Event::Bandwidth { buffer, passes } => self.append(Record::Bandwidth(BandwidthSample {
                        round,
                        threads: *threads,
                        buffer,
                        passes,
                    })),
                    other => Err(unexpected(&other)),
                })
            }
            Task::Idle => {
                worker::run(&Job::Idle { energy: self.energy() }, timeout, stop, |event| match event {
                    Event::Idle { ended_unix_ms, wall_ns, sources } => {
                        self.append(Record::Idle(IdleSample {
                            before_round: round,
                            ended_unix_ms,
                            wall_ns,
                            sources,
                        }))
                    }
                    other => Err(unexpected(&other)),
                })
            }
            Task::Overhead => {
                // Where it would disturb most: on all CPUs that the cases use.
                let threads = self.header.cases.iter().map(|c| c.threads).max().unwrap_or(1);
                let job = Job::Overhead { energy: self.energy(), threads, pairs: OVERHEAD_PAIRS };
                worker::run(&job, timeout, stop, |event| match event {
                    Event::Overhead { pairs } => {
                        self.append(Record::Overhead(OverheadSample { round, threads, pairs }))
                    }
                    other => Err(unexpected(&other)),
                })
            }
            Task::Peak { isa, threads } => {
                let job = Job::Peak { isa: isa.clone(), threads: *threads, passes: PEAK_PASSES };
                worker::run(&job, timeout, stop, |event| match event {
                    Event::Peak { int8, f32 } => {
                        let (isa, threads) = (isa.clone(), *threads);
                        self.append(Record::Peak(PeakSample { round, isa, threads, int8, f32 }))
                    }
                    other => Err(unexpected(&other)),
                })
            }
            Task::Case(i) => {
                let case = self.header.cases[*i].clone();
                let model = self.model(&case)?;
                let check = match self.reference(&case, round, visit, interrupted)? {
                    Some(Ended::Interrupted) => return Ok(Ended::Interrupted),
                    _ if self.checked.contains(&case.id) || self.unchecked(&case, round) => None,
                    _ => Some(reference(&self.dir, &case)),
                };
                let (cap, group) = match self.header.memory_limit {
                    None => (None, None),
                    Some(limit) => {
                        let name = format!("bitjoule-{}-{visit}", std::process::id());
                        let (cap, group) = MemoryCap::prepare(Path::new("/"), &name, limit);
                        (Some(cap), group)
                    }
                };
                let job = Job::Visit {
                    phases: self.missing(&case, round),
                    case: case.clone(),
                    model: model.file.clone(),
                    seed: self.header.seed,
                    check,
                    kept: self.header.keep_packed.then(|| model.blake3.clone()),
                    profile: self.header.profile,
                    energy: self.energy(),
                    cap: cap.clone(),
                };
                let ended = worker::run(&job, timeout, stop, |event| {
                    self.append(record(&case, round, visit, event)?)
                })?;
                Ok(match (ended, cap) {
                    (Ended::Failed(kind, reason), Some(cap)) => {
                        let (kind, reason) = cap.judge(group.as_ref(), kind, reason);
                        Ended::Failed(kind, reason)
                    }
                    (ended, _) => ended,
                })
            }
        }
    }

    fn energy(&self) -> EnergySetup {
        let choice = match (&self.header.energy, self.found_energy) {
            (EnergyChoice::Auto, Some(name)) => EnergyChoice::Sources(vec![SourceChoice::Named(name)]),
            (choice, _) => choice.clone(),
        };
        EnergySetup { choice, root: self.energy_root.clone() }
    }

    fn model(&self, case: &Case) -> Result<PlannedModel> {
        let model = self.models.iter().find(|m| m.label == case.model);
        model.cloned().ok_or_else(|| Error::input(format!("suite.toml: there is no model '{}'", case.model)))
    }

    /// Makes the reference logits that `case` will be checked against, if that is still to be done.
    fn reference(
        &mut self,
        case: &Case,
        round: u32,
        visit: u32,
        interrupted: &AtomicBool,
    ) -> Result<Option<Ended>> {
        let reference = reference(&self.dir, case);
        if self.checked.contains(&case.id) || self.unchecked(case, round) || reference.path.exists() {
            return Ok(None);
        }
        let dir = self.dir.join(REFERENCE_DIR);
        std::fs::create_dir_all(&dir).map_err(|e| Error::io("create", &dir, &e))?;
        let job = Job::Reference {
            model: self.model(case)?.file,
            embedding: case.embedding.clone(),
            seed: self.header.seed,
            reference,
            kv: case.kv.clone(),
            threads: allowed_cpus().len().max(1) as u32,
        };
        let timeout = Duration::from_secs(self.suite.timeout_s.into());
        let ended =
            worker::run(&job, timeout, || interrupted.load(Ordering::SeqCst), |e| Err(unexpected(&e)))?;
        if let Ended::Failed(kind, reason) = &ended {
            let (kind, reason) = (*kind, reason.clone());
            if kind == FailureKind::Error {
                return Err(Error::environment(reason));
            }
            self.append(Record::Failure(Failure { case: reference_name(case), round, visit, kind, reason }))?;
        }
        Ok(Some(ended))
    }
}

/// Name under which a failure to make reference logits is recorded.
fn reference_name(case: &Case) -> String {
    format!("reference/{}/{}/{}", case.model, reference_kernel(case), Isa::SCALAR)
}

/// The kernel that `case` is held against.
fn reference_kernel(case: &Case) -> Kernel {
    check::reference_of(Kernel::by_name(&case.kernel).unwrap_or(Kernel::Fp32Naive)).0
}

fn reference(dir: &Path, case: &Case) -> Reference {
    let kernel = reference_kernel(case);
    let name = format!("{}.{kernel}.f32", case.model);
    Reference { kernel: kernel.name().to_owned(), path: dir.join(REFERENCE_DIR).join(name) }
}

/// The record that an event of a visit becomes.
fn record(case: &Case, round: u32, visit: u32, event: Event) -> Result<Record> {
    let case = case.id.clone();
    Ok(match event {
        Event::Sample {
            ended_unix_ms,
            wall_ns,
            cpu_ns,
            energy,
            memory,
            pss,
            state,
            faults,
            counters,
            profile,
            work,
        } => Record::Sample(Sample {
            case,
            round,
            visit,
            ended_unix_ms,
            wall_ns,
            cpu_ns,
            memory,
            energy: None,
            energy_window: Some(energy),
            pss: Some(pss),
            faults: Some(faults),
            counters: Some(counters),
            state,
            profile,
            work,
        }),
        Event::Checked { reference, relative_difference, tolerance, positions, argmax_agreeing } => {
            Record::Check(Check {
                case,
                reference,
                relative_difference,
                tolerance,
                positions,
                argmax_agreeing,
                passed: relative_difference <= tolerance,
            })
        }
        other => return Err(unexpected(&other)),
    })
}

fn unexpected(event: &Event) -> Error {
    Error::environment(format!("a worker reported what its job does not have: {event:?}"))
}

/// Set by Ctrl-C or a termination signal.
fn interrupt_flag() -> &'static AtomicBool {
    static FLAG: AtomicBool = AtomicBool::new(false);
    static HANDLER: std::sync::Once = std::sync::Once::new();
    HANDLER.call_once(|| {
        // Without a handler the signal simply ends the process, and the journal is as safe.
        let _ = ctrlc::set_handler(|| FLAG.store(true, Ordering::SeqCst));
    });
    &FLAG
}

fn progress_bar(len: u64) -> ProgressBar {
    let bar = ProgressBar::new(len);
    let style = ProgressStyle::with_template("{bar:24} {pos}/{len} {wide_msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}

fn minutes(d: Duration) -> String {
    let s = d.as_secs_f64().ceil() as u64;
    if s < 60 { format!("{s} s") } else { format!("{} min {:02} s", s / 60, s % 60) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_civil_dates() {
        assert_eq!(utc_stamp(0), "19700101-000000");
        assert_eq!(utc_stamp(951_782_399), "20000228-235959");
        assert_eq!(utc_stamp(951_782_400), "20000229-000000");
        assert_eq!(utc_stamp(1_798_761_599), "20261231-235959");
    }

    #[test]
    fn durations_are_for_people() {
        assert_eq!(minutes(Duration::from_millis(1)), "1 s");
        assert_eq!(minutes(Duration::from_secs(125)), "2 min 05 s");
    }
}
