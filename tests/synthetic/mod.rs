//! Journals made up in code, for the tests of what derives from a journal.

use bitjoule::engine::{MemoryParts, Span};
use bitjoule::figure::Figure;
use bitjoule::journal::{
    BandwidthSample, Case, Check, CounterReading, DomainEnergy, Failure, FailureKind, Faults, MacCount,
    MemoryLimit, MemoryReading, PeakSample, PrefillCost, Record, RunHeader, SCHEMA, Sample, Work,
};
use bitjoule::probe::state::HostState;
use bitjoule::units::{Bytes, BytesPerS, Joules, MacPerS};

/// A journal under construction.
pub(crate) struct Journal {
    pub(crate) records: Vec<Record>,
    visit: u32,
}

/// What a visit measured; change the fields that a test is about.
#[derive(Clone)]
pub(crate) struct Visit {
    pub(crate) load_ns: u64,
    pub(crate) prefill_ns: u64,
    /// One entry a decode step; the window is their sum.
    pub(crate) latencies_ns: Vec<u64>,
    pub(crate) cpu_ns: u64,
    pub(crate) bytes_per_token: u64,
    /// Rates of reading the weights, bytes per second.
    pub(crate) stream: Vec<f64>,
    /// Of the prefill.
    pub(crate) cost: Option<PrefillCost>,
    /// Multiply-accumulates of the decode.
    pub(crate) macs: Option<MacCount>,
    pub(crate) energy: Figure<Vec<DomainEnergy>>,
    pub(crate) memory: Figure<MemoryReading>,
    pub(crate) predicted: Option<MemoryParts>,
    pub(crate) predicted_full: Option<MemoryParts>,
    pub(crate) limit: Option<MemoryLimit>,
    pub(crate) pss: Option<Figure<Bytes>>,
    pub(crate) faults: Option<Figure<Faults>>,
    pub(crate) counters: Option<CounterReading>,
    pub(crate) state: Option<Box<HostState>>,
    /// Of prefill and of decode.
    pub(crate) profile: Option<Vec<Span>>,
}

impl Default for Visit {
    fn default() -> Self {
        Visit {
            load_ns: 50_000_000,
            prefill_ns: 200_000_000,
            latencies_ns: vec![10_000_000; 31],
            cpu_ns: 600_000_000,
            bytes_per_token: 250_000_000,
            stream: vec![34e9, 35e9],
            cost: Some(PrefillCost {
                int8_macs: 8_000_000_000,
                f32_macs: 1_000_000_000,
                read_bytes: Bytes(250_000_000),
            }),
            macs: None,
            energy: Figure::unavailable("no powercap tree"),
            memory: Figure::measured(
                MemoryReading {
                    peak_rss: Bytes(300_000_000),
                    anon: Bytes(270_000_000),
                    file: Bytes(12_000_000),
                    shmem: Bytes(0),
                    swapped: None,
                },
                "procfs",
            ),
            predicted: None,
            predicted_full: None,
            limit: None,
            pss: None,
            faults: None,
            counters: None,
            state: None,
            profile: None,
        }
    }
}

/// A measured energy of `joules` of package 0.
#[allow(dead_code)] // Not every test file needs energy.
pub(crate) fn joules(joules: f64) -> Figure<Vec<DomainEnergy>> {
    Figure::measured(
        vec![DomainEnergy {
            domain: "package-0".into(),
            energy_j: Joules(joules),
            uncertainty_j: None,
            in_total: None,
        }],
        "powercap",
    )
}

/// A case with prompt 32 and 32 generated tokens.
pub(crate) fn case(model: &str, kernel: &str, isa: &str, threads: u32) -> Case {
    Case {
        id: format!("native/{model}/{kernel}/{isa}/t{threads}/p32/g32"),
        backend: "native".into(),
        model: model.into(),
        kernel: kernel.into(),
        isa: isa.into(),
        threads,
        n_prompt: 32,
        n_gen: 32,
        kv: "f16".into(),
        embedding: None,
        tied: None,
    }
}

#[allow(dead_code)] // Not every test file needs every step.
impl Journal {
    pub(crate) fn new(rounds: u32, cases: Vec<Case>) -> Journal {
        let header = RunHeader {
            schema: SCHEMA,
            run_id: "0123456789abcdef".into(),
            suite: "quick".into(),
            started_unix_ms: 1_750_000_000_000,
            version: "0.1.0".into(),
            commit: "unknown".into(),
            seed: 1,
            rounds,
            llc_bytes: Some(Bytes(32_000_000)),
            profile: false,
            memory_limit: None,
            keep_packed: false,
            models: Vec::new(),
            left_out: Vec::new(),
            reproduces: None,
            energy: Default::default(),
            stated: Default::default(),
            cases,
        };
        Journal { records: vec![Record::Run(header)], visit: 0 }
    }

    pub(crate) fn header(&mut self) -> &mut RunHeader {
        match &mut self.records[0] {
            Record::Run(header) => header,
            other => panic!("a journal begins with its plan, not {other:?}"),
        }
    }

    pub(crate) fn cases(&mut self) -> Vec<Case> {
        self.header().cases.clone()
    }

    pub(crate) fn visit(&mut self, case: &Case, round: u32, visit: &Visit) -> &mut Self {
        self.visit += 1;
        let window: u64 = visit.latencies_ns.iter().sum();
        let n = visit.latencies_ns.len() as u32 + 1;
        let works = [
            (
                visit.load_ns,
                Work::Load {
                    file_bytes: Bytes(100),
                    weight_bytes: Bytes(200),
                    predicted: visit.predicted,
                    predicted_full: visit.predicted_full,
                    limit: visit.limit.clone(),
                    kept: None,
                },
            ),
            (
                visit.prefill_ns,
                Work::Prefill { prompt: (0..case.n_prompt).collect(), cost: visit.cost, macs: None },
            ),
            (
                window,
                Work::Decode {
                    tokens: (0..n).collect(),
                    latencies_ns: visit.latencies_ns.clone(),
                    bytes_per_token: Bytes(visit.bytes_per_token),
                    stream: visit.stream.iter().map(|rate| BytesPerS(*rate)).collect(),
                    macs: visit.macs,
                },
            ),
        ];
        for (wall_ns, work) in works {
            self.records.push(Record::Sample(Sample {
                case: case.id.clone(),
                round,
                visit: self.visit,
                ended_unix_ms: 1_750_000_000_000 + u64::from(self.visit),
                wall_ns,
                cpu_ns: visit.cpu_ns,
                energy: Some(visit.energy.clone()),
                energy_window: None,
                memory: visit.memory.clone(),
                pss: visit.pss.clone(),
                faults: visit.faults.clone(),
                counters: visit.counters.clone(),
                state: visit.state.clone(),
                profile: visit.profile.clone().filter(|_| !matches!(work, Work::Load { .. })),
                work,
            }));
        }
        self
    }

    pub(crate) fn bandwidth(&mut self, round: u32, threads: u32, passes: &[f64]) -> &mut Self {
        self.records.push(Record::Bandwidth(BandwidthSample {
            round,
            threads,
            buffer: Bytes(1_000_000_000),
            passes: passes.iter().map(|p| BytesPerS(*p)).collect(),
        }));
        self
    }

    /// A reading of the compute peak: rates of each pass, int8 and f32.
    pub(crate) fn peak(&mut self, round: u32, isa: &str, threads: u32, rates: [&[f64]; 2]) -> &mut Self {
        let [int8, f32] = rates.map(|rates| rates.iter().map(|r| MacPerS(*r)).collect());
        self.records.push(Record::Peak(PeakSample { round, isa: isa.into(), threads, int8, f32 }));
        self
    }

    pub(crate) fn check(&mut self, case: &Case, relative_difference: f64) -> &mut Self {
        self.records.push(Record::Check(Check {
            case: case.id.clone(),
            reference: "i2_s scalar".into(),
            relative_difference,
            tolerance: 1e-5,
            positions: 32,
            argmax_agreeing: 32,
            passed: relative_difference <= 1e-5,
        }));
        self
    }

    pub(crate) fn failure(&mut self, case: &str, round: u32, kind: FailureKind, reason: &str) -> &mut Self {
        self.visit += 1;
        self.records.push(Record::Failure(Failure {
            case: case.into(),
            round,
            visit: self.visit,
            kind,
            reason: reason.into(),
        }));
        self
    }
}
