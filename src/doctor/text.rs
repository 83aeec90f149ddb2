//! The report for a person: 80 columns, verdicts first, commands on lines of their own.

use std::fmt::Write as _;

use super::{Answer, Dispersion, Finding, Group, Level, Report};

/// Columns of a page.
const WIDTH: usize = 80;

/// Columns before the text of a finding.
const INDENT: usize = 26;

/// Columns before a command.
const COMMAND_INDENT: usize = 4;

const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const RED: &str = "\x1b[31m";

/// The report as text, with colours if the reader is a terminal.
pub fn render(report: &Report, colour: bool) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write!(out, "{}", paragraph(&machine(report), 0));
    if let Some(root) = &report.simulated_root {
        let _ = write!(out, "{}", paragraph(&format!("Simulated: the tree at {}.", root.display()), 0));
    }
    let _ = writeln!(out, "\nThis machine serves");
    for verdict in &report.verdicts {
        let (answer, paint) = match verdict.answer {
            Answer::Yes => ("yes", GREEN),
            Answer::WithCare => ("with care", YELLOW),
            Answer::No => ("no", RED),
        };
        let purpose = verdict.purpose.to_string();
        let head = format!("  {purpose:<11}{}", painted(&format!("{answer:<13}"), paint, colour));
        let mut reasons = report.reasons(verdict);
        if reasons.is_empty() {
            reasons.push("nothing found that speaks against it".to_owned());
        }
        for (i, reason) in reasons.iter().enumerate() {
            let text = paragraph(reason, INDENT);
            let _ = write!(out, "{}", if i == 0 { format!("{head}{}", text.trim_start()) } else { text });
        }
    }
    let _ = write!(out, "\n{}", noise(report));
    for (group, title) in
        [(Group::Instrument, "What it can measure"), (Group::Condition, "What figures depend on")]
    {
        let _ = writeln!(out, "\n{title}");
        for finding in report.findings.iter().filter(|f| f.group == group) {
            out += &entry(finding, colour);
        }
    }
    out
}

fn machine(report: &Report) -> String {
    let host = &report.host;
    let unknown = || "unknown".to_owned();
    format!(
        "{}, {} of {} CPUs usable, {} of memory, {} {}",
        host.cpu_model.value().map_or("A CPU without a name", String::as_str),
        host.usable_cores.value().map_or_else(unknown, u32::to_string),
        host.logical_cores.value().map_or_else(unknown, u32::to_string),
        host.memory_total.value().map_or_else(unknown, ToString::to_string),
        host.os,
        host.kernel.value().map_or("of unknown version", String::as_str),
    )
}

fn noise(report: &Report) -> String {
    let noise = match report.noise.found() {
        Ok((noise, _)) => noise,
        Err(why) => return paragraph(&format!("Noise: unavailable: {why}"), 0),
    };
    let threads =
        if noise.threads == 1 { "1 thread".to_owned() } else { format!("{} threads", noise.threads) };
    let mut out = format!("Noise, from {:.0} s on {threads}\n", noise.seconds);
    let mut line = |name: &str, d: &Dispersion| {
        let _ = writeln!(
            out,
            "  {name:<11}{} x {:.1} ms; MAD {:.1} %, of half seconds {:.1} %; worst/best {:.2}",
            d.slices, d.median_ms, d.mad_percent, d.window_mad_percent, d.worst_over_best
        );
    };
    line("arithmetic", &noise.compute);
    line("memory", &noise.memory);
    out + &paragraph(
        &format!(
            "A run of {} rounds can tell two kernels apart that differ by {:.1} % or more.",
            noise.rounds, noise.visible_difference_percent
        ),
        2,
    )
}

fn entry(finding: &Finding, colour: bool) -> String {
    let (level, paint) = match finding.level {
        Level::Ok => ("ok", GREEN),
        Level::Care => ("care", YELLOW),
        Level::No => ("no", RED),
        Level::Unknown => ("?", YELLOW),
    };
    let head = format!("  {}{:<18}", painted(&format!("{level:<6}"), paint, colour), finding.title());
    let mut out = format!("{head}{}", paragraph(&finding.found, INDENT).trim_start());
    if let Some(why) = &finding.why {
        out += &paragraph(why, INDENT);
    }
    if let Some(remedy) = &finding.remedy {
        let colon = if finding.commands.is_empty() { "" } else { ":" };
        out += &paragraph(&format!("Remedy: {remedy}{colon}"), INDENT);
    }
    for command in &finding.commands {
        out += &shell_lines(command);
    }
    out
}

fn painted(text: &str, colour: &str, on: bool) -> String {
    if on { format!("{colour}{text}\x1b[0m") } else { text.to_owned() }
}

/// `text` in lines of at most [`WIDTH`] columns, each indented; a word longer than a line keeps its own.
/// Control characters, which could move the cursor, become spaces.
fn paragraph(text: &str, indent: usize) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if indent + line.chars().count() + 1 + word.chars().count() <= WIDTH => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines.into_iter().map(|line| format!("{:indent$}{line}\n", "")).collect()
}

/// A command that can be copied: where it is too long for a line, the shell's own continuation.
fn shell_lines(command: &str) -> String {
    let mut out = format!("{:COMMAND_INDENT$}", "");
    let mut column = COMMAND_INDENT;
    for (i, word) in command.split(' ').enumerate() {
        let length = word.chars().count();
        if i > 0 && column + 1 + length + 2 > WIDTH {
            let _ = write!(out, " \\\n{:width$}", "", width = COMMAND_INDENT + 2);
            column = COMMAND_INDENT + 2;
        } else if i > 0 {
            out.push(' ');
            column += 1;
        }
        out += word;
        column += length;
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_keep_the_width_and_the_words() {
        let text = "word ".repeat(60);
        let wrapped = paragraph(&text, INDENT);
        assert!(wrapped.lines().all(|l| l.chars().count() <= WIDTH && l.starts_with(&" ".repeat(INDENT))));
        assert_eq!(wrapped.split_whitespace().count(), 60);
        assert_eq!(paragraph("a\x1b[2Jb", 0), "a [2Jb\n");
        assert_eq!(paragraph("", 3), "");
    }

    #[test]
    fn a_long_command_is_continued_as_the_shell_does() {
        let command = "echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor";
        let lines = shell_lines(command);
        assert!(lines.lines().all(|l| l.chars().count() <= WIDTH), "{lines}");
        let joined = lines.replace("\\\n", "").split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(joined, command);
        assert_eq!(shell_lines("ls -l"), "    ls -l\n");
    }
}
