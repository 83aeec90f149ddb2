//! A worker process: spawned for one job, spoken to by JSON lines, killed if it takes too long.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::backend::limit::{Enforcement, MemoryCap};
use crate::backend::native;
use crate::backend::protocol::{Event, Job};
use crate::error::{Error, Result};
use crate::journal::FailureKind;
use crate::probe::energy::exec;

/// The hidden subcommand that makes a process a worker.
pub const SUBCOMMAND: &str = "__worker";

/// How often a waiting coordinator looks whether it was interrupted.
const POLL: Duration = Duration::from_millis(100);

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// As it should.
    Done,
    /// It did not.
    Failed(FailureKind, String),
    /// The coordinator was told to stop; the worker was killed.
    Interrupted,
}

/// How long a worker has to end of itself, and its meters with it, when it is spoken to no more.
const FAREWELL: Duration = Duration::from_millis(500);

/// A worker that is ended when it is dropped.
struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let start = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && start.elapsed() < FAREWELL {
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `job` in a worker process. `record` gets each event but the last and makes it durable.
///
/// # Errors
/// Those of `record`, or if no worker can be started.
pub fn run(
    job: &Job,
    timeout: Duration,
    interrupted: impl Fn() -> bool,
    mut record: impl FnMut(Event) -> Result<()>,
) -> Result<Ended> {
    let exe = std::env::current_exe()
        .map_err(|e| Error::environment(format!("cannot find bitjoule's own executable: {e}")))?;
    let mut command = Command::new(&exe);
    command.arg(SUBCOMMAND).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // The C library reserves 64 MiB of address space for the heap of each thread; a limit of address space
    // would be one of those reserves.
    if let Job::Visit { cap: Some(MemoryCap { enforcement: Enforcement::AddressSpace(_), .. }), .. } = job {
        command.env("MALLOC_ARENA_MAX", "1");
    }
    // Ctrl-C on a terminal is for the coordinator, which ends its worker: a worker that died of it first
    // would be a failure on record.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut child = command
        .spawn()
        .map_err(|e| Error::environment(format!("cannot start a worker ({}): {e}", exe.display())))?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let mut process = Process { child, stdin };
    let (Some(stdout), Some(stderr)) = (stdout, stderr) else {
        return Err(Error::environment("a worker without pipes"));
    };
    let events = lines(stdout);
    let complaint = std::thread::spawn(move || tail(stderr));
    // A worker that is gone already is noticed below, by the end of its events.
    let _ = process.send(&serde_json::to_string(job).map_err(Error::environment)?);
    let deadline = Instant::now() + timeout;
    let ended = loop {
        if interrupted() {
            return Ok(Ended::Interrupted);
        }
        match events.recv_timeout(POLL) {
            Ok(line) => match serde_json::from_str(&line) {
                Ok(Event::Done) => break Ended::Done,
                Ok(Event::Failed { kind, reason }) => break Ended::Failed(kind, reason),
                Ok(event) => {
                    record(event)?;
                    let _ = process.send("");
                }
                Err(e) => {
                    break Ended::Failed(FailureKind::Crashed, format!("the worker said '{line}': {e}"));
                }
            },
            Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
            Err(RecvTimeoutError::Timeout) => {
                let reason = format!("killed after {} s, the suite's timeout_s", timeout.as_secs());
                break Ended::Failed(FailureKind::TimedOut, reason);
            }
            Err(RecvTimeoutError::Disconnected) => {
                if interrupted() {
                    return Ok(Ended::Interrupted);
                }
                break Ended::Failed(FailureKind::Crashed, how_it_died(&mut process.child, complaint));
            }
        }
    };
    Ok(ended)
}

impl Process {
    fn send(&mut self, line: &str) -> std::io::Result<()> {
        let Some(stdin) = &mut self.stdin else { return Ok(()) };
        stdin.write_all(line.as_bytes())?;
        stdin.write_all(b"\n")?;
        stdin.flush()
    }
}

/// The lines of a stream, read by a thread of their own so that waiting for one can time out.
fn lines(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (to, from) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(std::io::Result::ok) {
            if to.send(line).is_err() {
                break;
            }
        }
    });
    from
}

/// The end of what a stream says.
fn tail(stream: impl Read) -> String {
    let mut last = String::new();
    for line in BufReader::new(stream).lines().map_while(std::io::Result::ok) {
        // The first line of a panic says more than the backtrace behind it.
        if last.is_empty() || line.contains("panicked") || last.ends_with(':') {
            last = format!("{} {}", if last.ends_with(':') { last.as_str() } else { "" }, line.trim());
        }
    }
    last.trim().chars().take(500).collect()
}

fn how_it_died(child: &mut Child, complaint: JoinHandle<String>) -> String {
    let status = child.wait();
    let complaint = complaint.join().unwrap_or_default();
    let mut text = match status {
        Ok(status) => {
            #[cfg(unix)]
            let signal = std::os::unix::process::ExitStatusExt::signal(&status);
            #[cfg(not(unix))]
            let signal: Option<i32> = None;
            match signal {
                Some(9) => "the worker was killed by signal 9; the system's out-of-memory killer does that"
                    .to_owned(),
                Some(signal) => format!("the worker was killed by signal {signal}"),
                None => format!("the worker ended with {status} and without a result"),
            }
        }
        Err(e) => format!("the worker was lost: {e}"),
    };
    if !complaint.is_empty() {
        text = format!("{text}: {complaint}");
    }
    text
}

/// A worker's whole life: reads a job from standard input, does it, reports on standard output.
///
/// # Errors
/// If the coordinator speaks another language, or is gone.
pub fn main() -> Result<()> {
    let from_coordinator = lines(std::io::stdin());
    let gone = || Error::environment("the coordinator is gone");
    let line = from_coordinator.recv().map_err(|_| gone())?;
    let job: Job = serde_json::from_str(&line)
        .map_err(|e| Error::input(format!("'{SUBCOMMAND}' is for bitjoule's own use; it got no job: {e}")))?;
    // A thread of its own ends this process with the coordinator, also in the middle of a phase.
    let (acknowledge, acknowledged) = channel();
    std::thread::spawn(move || {
        while let Ok(line) = from_coordinator.recv() {
            let _ = acknowledge.send(line);
        }
        exec::end_with_meters(3);
    });
    native::work(&job, |event| {
        let last = matches!(event, Event::Done | Event::Failed { .. });
        let line = serde_json::to_string(&event).map_err(Error::environment)?;
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "{line}").and_then(|()| stdout.flush()).map_err(|_| gone())?;
        if last { Ok(()) } else { acknowledged.recv().map(drop).map_err(|_| gone()) }
    })
}
