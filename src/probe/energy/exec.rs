//! Energy or power from a program that prints it, line by line: an external meter, a smart plug, IPMI.
//!
//! docs/ENERGY_METERS.md is the protocol. The program's own time stamps say how far apart its readings
//! are; where they lie on our clock is learned from their arrival, and followed slowly, so that neither a
//! late line nor a clock that runs differently bends a joule.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus, kill_process_group, waitid};

use super::source::{Domain, DomainKind, LONGEST_PERIOD, Quantity, Raw, Reading, Refusal, Source, shown};
use crate::units::{Joules, Watts};

/// How long a meter has for its first two readings, besides twice the period that it states.
const PATIENCE: Duration = Duration::from_secs(10);

/// Lines that wait to be looked at: then the meter has to.
const BACKLOG: usize = 1 << 16;

/// A longer line is nonsense.
const LONGEST_LINE: u64 = 4096;

/// Readings by which the domains must have come round.
const LONGEST_OPENING: usize = 1000;

/// How much of its interval a reading is moved at most to follow the meter's clock: 0.1 %.
const FOLLOW: f64 = 1e-3;

/// How far a reading may come from where the meter's clock puts it: two periods, and at least this.
const OFF_LEAST: Duration = Duration::from_millis(500);

/// How long a meter has to end when asked.
const FAREWELL: Duration = Duration::from_millis(200);

/// Joules are counted in nanojoules.
const UNIT: Joules = Joules(1e-9);

/// A line that says something.
#[derive(Debug, Clone, PartialEq)]
enum Line {
    Value { at_s: f64, domain: String, value: Value },
    Period(Duration),
    Part(String),
    Simulated(String),
    Nothing,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Value {
    /// Counts of [`UNIT`], and the step of what was printed.
    Energy(u64, Joules),
    Power(Watts, Watts),
}

/// What the lines of a meter amount to; pure, so that a test can be the clock.
#[derive(Debug)]
pub struct Protocol {
    domains: Vec<Domain>,
    simulated: Option<String>,
    stated_period: Option<Duration>,
    parts: Vec<String>,
    /// Arrival, own time, domain and value of the readings before the domains were known.
    opening: Vec<(Duration, f64, String, Value)>,
    clock: Clock,
}

/// The meter's clock on ours.
#[derive(Debug, Default)]
struct Clock {
    /// Our time at the meter's zero, seconds.
    offset_s: f64,
    last_s: f64,
}

impl Protocol {
    /// Nothing known yet.
    pub fn new() -> Protocol {
        Protocol {
            domains: Vec::new(),
            simulated: None,
            stated_period: None,
            parts: Vec::new(),
            opening: Vec::new(),
            clock: Clock::default(),
        }
    }

    /// The domains, once a first one has been read twice; until then none.
    pub fn domains(&self) -> &[Domain] {
        &self.domains
    }

    /// What the meter says that simulates it.
    pub fn simulated(&self) -> Option<&str> {
        self.simulated.as_deref()
    }

    /// Takes up a line that came at `arrival`. A line that is none of the protocol spoils what is being
    /// measured: nobody knows what it should have said.
    ///
    /// # Errors
    /// Only while the domains are not known: that it is nonsense.
    pub fn take(&mut self, arrival: Duration, line: &str, readings: &mut Vec<Reading>) -> Result<(), String> {
        match parse(line) {
            Ok(Line::Nothing) => {}
            Ok(Line::Value { at_s, domain, value }) if self.domains.is_empty() => {
                if self.opening.len() == LONGEST_OPENING {
                    return Err(format!(
                        "of the meter's first {LONGEST_OPENING} readings no two are of one domain at two times"
                    ));
                }
                self.opening.push((arrival, at_s, domain, value));
                self.begin(readings)?;
            }
            Ok(Line::Value { at_s, domain, value }) => self.value(arrival, at_s, &domain, value, readings),
            Ok(Line::Period(period)) if self.domains.is_empty() => self.stated_period = Some(period),
            Ok(Line::Part(part)) if self.domains.is_empty() => self.parts.push(part),
            Ok(Line::Simulated(by)) if self.domains.is_empty() => self.simulated = Some(by),
            Ok(_) => self.spoil(arrival, "the meter made a statement after its first readings", readings),
            Err(why) if self.domains.is_empty() => return Err(why),
            Err(why) => self.spoil(arrival, &why, readings),
        }
        Ok(())
    }

    /// Makes the domains of the first readings, if they have come round.
    fn begin(&mut self, readings: &mut Vec<Reading>) -> Result<(), String> {
        let Some((_, last_s, last, _)) = self.opening.last() else { return Ok(()) };
        let first = self.opening.iter().find(|(_, _, domain, _)| domain == last);
        let Some((_, first_s, ..)) = first.filter(|(_, at_s, ..)| at_s != last_s) else { return Ok(()) };
        let measured = Duration::try_from_secs_f64(last_s - first_s).map_err(|_| {
            format!("the time of the meter's readings went back from {first_s} to {last_s} s")
        })?;
        let update_period = self.stated_period.unwrap_or(measured).max(Duration::from_millis(1));
        if update_period > LONGEST_PERIOD {
            return Err(format!("the meter's readings are {:.0} s apart", update_period.as_secs_f64()));
        }
        for (_, _, name, value) in &self.opening {
            if self.domains.iter().any(|domain| domain.name == *name) {
                continue;
            }
            let quantity = match *value {
                Value::Energy(_, step) => Quantity::Counter { unit: UNIT, turn: None, step },
                Value::Power(_, step) => Quantity::Power { step },
            };
            let in_total = !self.parts.contains(name);
            let kind = DomainKind::Meter;
            self.domains.push(Domain { name: name.clone(), kind, in_total, quantity, update_period });
        }
        // The line that was least delayed says best where the meter's clock stands.
        let opening = std::mem::take(&mut self.opening);
        let offsets = opening.iter().map(|(arrival, at_s, ..)| arrival.as_secs_f64() - at_s);
        self.clock = Clock { offset_s: offsets.fold(f64::INFINITY, f64::min), last_s: opening[0].1 };
        for (arrival, at_s, domain, value) in opening {
            self.value(arrival, at_s, &domain, value, readings);
        }
        Ok(())
    }

    fn value(
        &mut self,
        arrival: Duration,
        at_s: f64,
        domain: &str,
        value: Value,
        readings: &mut Vec<Reading>,
    ) {
        let Some(domain) = self.domains.iter().position(|known| known.name == domain) else {
            let why =
                format!("the meter named a domain that its first readings had not: '{}'", shown(domain));
            return self.spoil(arrival, &why, readings);
        };
        let tolerance = (self.domains[domain].update_period * 2).max(OFF_LEAST).as_secs_f64();
        let off_s = arrival.as_secs_f64() - (self.clock.offset_s + at_s);
        if off_s.abs() > tolerance {
            let why = format!(
                "the meter's time and ours parted by {off_s:.1} s: its clock stepped, or its lines came late"
            );
            self.spoil(arrival, &why, readings);
            self.clock.offset_s += off_s;
        } else {
            let most = (at_s - self.clock.last_s).abs() * FOLLOW;
            self.clock.offset_s += off_s.clamp(-most, most);
        }
        self.clock.last_s = at_s;
        let at = Duration::try_from_secs_f64(self.clock.offset_s + at_s).unwrap_or(Duration::ZERO);
        let raw = Ok(match value {
            Value::Energy(counts, _) => Raw::Counts(counts),
            Value::Power(power, _) => Raw::Power(power),
        });
        readings.push(Reading { domain, at: Some(at), raw });
    }

    fn spoil(&self, arrival: Duration, why: &str, readings: &mut Vec<Reading>) {
        for domain in 0..self.domains.len() {
            readings.push(Reading { domain, at: Some(arrival), raw: Err(why.to_owned()) });
        }
    }
}

impl Default for Protocol {
    fn default() -> Self {
        Protocol::new()
    }
}

fn parse(line: &str) -> Result<Line, String> {
    let line = line.trim();
    let nonsense = || format!("the meter printed '{}', which says nothing in the protocol", shown(line));
    if line.is_empty() || line.starts_with('#') {
        return Ok(Line::Nothing);
    }
    let (first, rest) = line.split_once(char::is_whitespace).ok_or_else(nonsense)?;
    let rest = rest.trim();
    match first {
        "simulated" => return Ok(Line::Simulated(shown(rest))),
        "part" if !rest.contains(char::is_whitespace) => return Ok(Line::Part(rest.to_owned())),
        "period" => {
            let period = rest.parse().ok().and_then(|s| Duration::try_from_secs_f64(s).ok());
            let possible = |period: &Duration| !period.is_zero() && *period <= LONGEST_PERIOD;
            return period.filter(possible).map(Line::Period).ok_or_else(nonsense);
        }
        _ => {}
    }
    let mut words = rest.split_whitespace();
    let (Some(unit), Some(domain), Some(number), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(nonsense());
    };
    let finite = |text: &str| text.parse().ok().filter(|value: &f64| value.is_finite());
    let (Some(at_s), Some(value)) = (finite(first), finite(number)) else { return Err(nonsense()) };
    // What is printed with two decimals steps by a hundredth.
    let decimals = number.split_once('.').map_or(0, |(_, decimals)| decimals.len());
    let step = 0.1_f64.powi(i32::try_from(decimals).unwrap_or(0));
    let value = match unit {
        // 18 GJ fit; nothing that a meter shows is below 0.
        "joules" if (0.0..1.8e10).contains(&value) => {
            Value::Energy((value / UNIT.0).round() as u64, Joules(step))
        }
        "watts" => Value::Power(Watts(value), Watts(step)),
        _ => return Err(nonsense()),
    };
    Ok(Line::Value { at_s, domain: domain.to_owned(), value })
}

/// What a meter's thread says.
enum Said {
    Line(Instant, String),
    End,
}

/// The last line of a meter's standard error, and the thread that reads it.
struct Complaint {
    line: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

/// The process groups of the meters that run.
static RUNNING: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// A running meter.
struct Exec {
    name: String,
    protocol: Protocol,
    child: Child,
    said: Receiver<Said>,
    complaint: Complaint,
    /// Why there will be no more readings.
    ended: Option<String>,
    /// Readings of the opening, that nobody has seen.
    early: Vec<Reading>,
    /// Zero of the protocol's time.
    began: Instant,
    /// Zero of the time of whoever reads, known from the first call on.
    zero: Option<Instant>,
}

/// Starts the command and waits for its first readings.
///
/// # Errors
/// If it does not start, ends, or prints no two readings of one domain in time.
pub(super) fn open(command: &str) -> Result<Box<dyn Source>, Refusal> {
    let mut child = {
        let mut running = running();
        let child = start(command).map_err(|e| Refusal::new(format!("cannot start '{command}': {e}")))?;
        running.extend(group(&child));
        child
    };
    let line = Arc::new(Mutex::new(String::new()));
    let reader = child.stderr.take().map(|stderr| {
        let line = Arc::clone(&line);
        std::thread::spawn(move || keep_last_line(stderr, &line))
    });
    let (say, said) = sync_channel(BACKLOG);
    if let Some(stdout) = child.stdout.take() {
        std::thread::spawn(move || say_lines(stdout, &say));
    }
    let began = Instant::now();
    let mut exec = Exec {
        name: format!("exec: {command}"),
        protocol: Protocol::new(),
        child,
        said,
        complaint: Complaint { line, reader },
        ended: None,
        early: Vec::new(),
        began,
        zero: None,
    };
    while exec.protocol.domains().is_empty() {
        let patience = PATIENCE + exec.protocol.stated_period.unwrap_or_default() * 2;
        let late = || {
            let why = format!("the meter printed no two readings in {} s", patience.as_secs());
            Refusal::with(why, "if it is slow, let it print 'period SECONDS' first")
        };
        let left = patience.checked_sub(began.elapsed()).ok_or_else(late)?;
        match exec.said.recv_timeout(left) {
            Ok(Said::Line(arrival, line)) => {
                let arrival = arrival.saturating_duration_since(began);
                exec.protocol.take(arrival, &line, &mut exec.early).map_err(Refusal::new)?;
            }
            Err(RecvTimeoutError::Timeout) => return Err(late()),
            Ok(Said::End) | Err(RecvTimeoutError::Disconnected) => return Err(Refusal::new(exec.obituary())),
        }
    }
    Ok(Box::new(exec))
}

/// Ends every meter of this process and then the process, in the middle of whatever its other threads do.
pub fn end_with_meters(code: i32) -> ! {
    // Held until the end: no meter starts any more, and the number of none is free for others.
    let groups = running();
    let end = |signal| {
        for group in groups.iter() {
            // One that has ended already is what is wanted.
            let _ = kill_process_group(*group, signal);
        }
    };
    if !groups.is_empty() {
        end(Signal::TERM);
        std::thread::sleep(FAREWELL / 2);
        end(Signal::KILL);
    }
    std::process::exit(code)
}

fn running() -> MutexGuard<'static, Vec<Pid>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The process group of a meter.
fn group(child: &Child) -> Option<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw)
}

fn start(command: &str) -> std::io::Result<Child> {
    use std::os::unix::process::CommandExt;
    // A group of its own, so that all of a pipeline can be ended.
    Command::new("sh")
        .args(["-c", command])
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
}

/// Passes on each line with the moment of its arrival.
fn say_lines(stdout: impl Read, say: &SyncSender<Said>) {
    let mut stdout = BufReader::new(stdout);
    let mut line = Vec::new();
    loop {
        line.clear();
        // A line without end is cut, and its pieces are nonsense.
        let read = stdout.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line);
        let said = match read {
            Ok(1..) => Said::Line(Instant::now(), String::from_utf8_lossy(&line).into_owned()),
            Ok(0) | Err(_) => Said::End,
        };
        let end = matches!(said, Said::End);
        if say.send(said).is_err() || end {
            return;
        }
    }
}

fn keep_last_line(stderr: ChildStderr, last: &Mutex<String>) {
    for line in BufReader::new(stderr).lines().map_while(std::io::Result::ok) {
        if !line.trim().is_empty() {
            *last.lock().unwrap_or_else(PoisonError::into_inner) = shown(line.trim());
        }
    }
}

impl Exec {
    /// How the meter ended, if it does within [`FAREWELL`]. It is left to be waited for: until then nobody
    /// else gets its number, and its group can be ended safely.
    fn exit(&self) -> Option<WaitIdStatus> {
        let start = Instant::now();
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        loop {
            match waitid(WaitId::Pid(group(&self.child)?), options) {
                Ok(None) if start.elapsed() < FAREWELL => std::thread::sleep(Duration::from_millis(1)),
                Ok(status) => return status,
                Err(_) => return None,
            }
        }
    }

    /// Why the meter ended.
    fn obituary(&mut self) -> String {
        // Its output ends a moment before the process does.
        let how = match self.exit() {
            Some(status) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => format!("the meter ended with exit code {code}"),
                (None, Some(signal)) => format!("the meter was ended by signal {signal}"),
                (None, None) => "the meter ended".to_owned(),
            },
            None => "the meter closed its output".to_owned(),
        };
        match self.complaint.last().as_str() {
            "" => how,
            complaint => format!("{how}: {complaint}"),
        }
    }
}

impl Complaint {
    /// The last line, once the meter has ended: all that it said has been read, unless a child of it still
    /// holds its standard error.
    fn last(&self) -> String {
        let start = Instant::now();
        while self.reader.as_ref().is_some_and(|reader| !reader.is_finished()) && start.elapsed() < FAREWELL {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.line.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Source for Exec {
    fn name(&self) -> &str {
        &self.name
    }

    fn domains(&self) -> &[Domain] {
        self.protocol.domains()
    }

    fn pushes(&self) -> bool {
        true
    }

    fn simulated(&self) -> Option<&str> {
        self.protocol.simulated()
    }

    /// All domains, whichever was asked for: readings come as they come.
    fn read(&mut self, now: Duration, _: Option<usize>, readings: &mut Vec<Reading>) {
        let began = self.began;
        let zero = *self.zero.get_or_insert_with(|| Instant::now().checked_sub(now).unwrap_or(began));
        let mut new = std::mem::take(&mut self.early);
        let mut lines = 0;
        while self.ended.is_none() {
            if lines == BACKLOG {
                self.ended = Some("the meter prints faster than it can be read".to_owned());
                break;
            }
            lines += 1;
            match self.said.try_recv() {
                Ok(Said::Line(arrival, line)) => {
                    let arrival = arrival.saturating_duration_since(began);
                    // The domains are known, so nothing is an error any more.
                    let _ = self.protocol.take(arrival, &line, &mut new);
                }
                Ok(Said::End) | Err(TryRecvError::Disconnected) => self.ended = Some(self.obituary()),
                Err(TryRecvError::Empty) => break,
            }
        }
        for mut reading in new {
            // Readings of the opening may lie before the reader's zero.
            reading.at = reading.at.map(|at| (began + at).saturating_duration_since(zero));
            readings.push(reading);
        }
        if let Some(why) = &self.ended {
            let gone = |domain| Reading { domain, at: None, raw: Err(why.clone()) };
            readings.extend((0..self.protocol.domains().len()).map(gone));
        }
    }
}

impl Drop for Exec {
    fn drop(&mut self) {
        let Some(group) = group(&self.child) else { return };
        let _ = kill_process_group(group, Signal::TERM);
        self.exit();
        let _ = kill_process_group(group, Signal::KILL);
        let mut running = running();
        running.retain(|running| *running != group);
        // From here on its number may be somebody else's.
        let _ = self.child.wait();
    }
}
