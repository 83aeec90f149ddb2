//! Where the time of a forward pass goes, as the thread that leads the team sees it.
//!
//! The leader's time is cut into laps without gaps: each piece of it is either its own work on an
//! operation, or its wait for the other threads at the end of a stage. The laps of a pass therefore add up
//! to its wall time.

use std::time::Instant;

use serde::{Deserialize, Serialize};

/// A part of the forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// Looking up the tokens' rows of the embedding.
    Embedding,
    /// Norms, and quantization to int8: the inputs of all products.
    NormQuantize,
    /// Products of queries, keys and values.
    Qkv,
    /// Rotation, storing keys and values, attention.
    Attention,
    /// Product behind attention, added to the residual stream.
    AttnOutput,
    /// Products of gate and up, and the activation.
    GateUp,
    /// Product down, added to the residual stream.
    Down,
    /// Product of the logits.
    Head,
}

impl Operation {
    /// All, in the order of the pass.
    pub const ALL: [Operation; 8] = [
        Operation::Embedding,
        Operation::NormQuantize,
        Operation::Qkv,
        Operation::Attention,
        Operation::AttnOutput,
        Operation::GateUp,
        Operation::Down,
        Operation::Head,
    ];

    /// The name used in tables and in the journal.
    pub fn name(self) -> &'static str {
        match self {
            Operation::Embedding => "embedding",
            Operation::NormQuantize => "norm_quantize",
            Operation::Qkv => "qkv",
            Operation::Attention => "attention",
            Operation::AttnOutput => "attn_output",
            Operation::GateUp => "gate_up",
            Operation::Down => "down",
            Operation::Head => "head",
        }
    }
}

/// Time spent on one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// The operation.
    pub operation: Operation,
    /// Laps of work: how often the leader did a part of it.
    pub count: u64,
    /// The leader's own work, nanoseconds.
    pub work_ns: u64,
    /// The leader's wait for other threads, nanoseconds.
    pub wait_ns: u64,
}

/// A stopwatch that is usually off, and then costs a branch a lap.
#[derive(Debug)]
pub(super) struct Laps(Option<Running>);

#[derive(Debug)]
struct Running {
    last: Instant,
    spans: [Span; Operation::ALL.len()],
}

const NOTHING: [Span; Operation::ALL.len()] = {
    let mut spans = [Span { operation: Operation::Embedding, count: 0, work_ns: 0, wait_ns: 0 }; 8];
    let mut i = 0;
    while i < spans.len() {
        spans[i].operation = Operation::ALL[i];
        i += 1;
    }
    spans
};

impl Laps {
    pub(super) fn new(on: bool) -> Self {
        Laps(on.then(|| Running { last: Instant::now(), spans: NOTHING }))
    }

    /// The next lap begins now: what was before belongs to no operation.
    pub(super) fn start(&mut self) {
        if let Some(running) = &mut self.0 {
            running.last = Instant::now();
        }
    }

    /// What was since the last lap was work on `operation`.
    pub(super) fn work(&mut self, operation: Operation) {
        if let Some(running) = &mut self.0 {
            let ns = running.lap();
            let span = &mut running.spans[operation as usize];
            span.work_ns += ns;
            span.count += 1;
        }
    }

    /// What was since the last lap was waiting for others to finish `operation`.
    pub(super) fn wait(&mut self, operation: Operation) {
        if let Some(running) = &mut self.0 {
            running.spans[operation as usize].wait_ns += running.lap();
        }
    }

    /// Everything so far, in the order of the pass, if the watch is on; it begins again from zero.
    pub(super) fn take(&mut self) -> Option<Vec<Span>> {
        let running = self.0.as_mut()?;
        Some(std::mem::replace(&mut running.spans, NOTHING).to_vec())
    }
}

impl Running {
    fn lap(&mut self) -> u64 {
        let now = Instant::now();
        (now - std::mem::replace(&mut self.last, now)).as_nanos() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn laps_are_counted_where_they_belong() {
        let mut laps = Laps::new(true);
        laps.start();
        std::thread::sleep(std::time::Duration::from_millis(2));
        laps.work(Operation::Qkv);
        std::thread::sleep(std::time::Duration::from_millis(2));
        laps.wait(Operation::Qkv);
        laps.work(Operation::Head);
        let spans = laps.take().unwrap();
        assert!(spans.iter().zip(Operation::ALL).all(|(s, o)| s.operation == o));
        let qkv = spans[Operation::Qkv as usize];
        assert!(qkv.count == 1 && qkv.work_ns >= 2_000_000 && qkv.wait_ns >= 2_000_000, "{qkv:?}");
        assert_eq!((spans[Operation::Head as usize].count, spans[Operation::Down as usize].count), (1, 0));
        assert!(laps.take().unwrap().iter().all(|s| (s.count, s.work_ns, s.wait_ns) == (0, 0, 0)));
        let mut off = Laps::new(false);
        off.work(Operation::Head);
        assert!(off.take().is_none());
    }

    #[test]
    fn names_are_those_of_the_journal() {
        for operation in Operation::ALL {
            assert_eq!(serde_json::to_value(operation).unwrap(), operation.name());
        }
    }
}
