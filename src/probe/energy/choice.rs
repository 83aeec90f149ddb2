//! Which energy sources are read: the argument of `--energy`.
//!
//! `auto` takes the first that this machine offers, in the order powercap, perf, msr, hwmon, iio, battery:
//! from the counters of the processor, which need nothing, over rails of the board to the battery, which
//! is slow and feeds the screen too. nvml and exec are only read when they are named: the processor does
//! not compute on a GPU, and a program is the user's to start.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// The energy sources to read; the first is the one that figures come from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum EnergyChoice {
    /// The first that there is.
    #[default]
    Auto,
    /// None.
    None,
    /// These, at once.
    Sources(Vec<SourceChoice>),
}

/// One source to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceChoice {
    /// One of [`super::names`].
    Named(&'static str),
    /// A program that prints energy or power; see docs/ENERGY_METERS.md.
    Exec(String),
}

impl FromStr for EnergyChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<EnergyChoice, Error> {
        match text {
            "auto" => return Ok(EnergyChoice::Auto),
            "none" => return Ok(EnergyChoice::None),
            _ => {}
        }
        let mut sources = Vec::new();
        let mut rest = Some(text);
        while let Some(part) = rest {
            // A command may contain commas: it is the rest of the argument.
            if let Some(command) = part.trim_start().strip_prefix("exec:") {
                if command.trim().is_empty() {
                    return Err(Error::input("--energy exec: names no command; write exec:COMMAND"));
                }
                sources.push(SourceChoice::Exec(command.trim().to_owned()));
                break;
            }
            let (name, more) = part.split_once(',').map_or((part, None), |(name, more)| (name, Some(more)));
            let name = name.trim();
            let Some(known) = super::names().find(|known| *known == name) else {
                let known: Vec<&str> = super::names().collect();
                return Err(Error::input(format!(
                    "--energy: there is no source '{name}'; it is auto, none, exec:COMMAND or some of {}, \
                     separated by commas",
                    known.join(", ")
                )));
            };
            if sources.contains(&SourceChoice::Named(known)) {
                return Err(Error::input(format!("--energy names {known} twice")));
            }
            sources.push(SourceChoice::Named(known));
            rest = more;
        }
        Ok(EnergyChoice::Sources(sources))
    }
}

impl fmt::Display for EnergyChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sources = match self {
            EnergyChoice::Auto => return f.write_str("auto"),
            EnergyChoice::None => return f.write_str("none"),
            EnergyChoice::Sources(sources) => sources,
        };
        for (i, source) in sources.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            match source {
                SourceChoice::Named(name) => write!(f, "{comma}{name}")?,
                SourceChoice::Exec(command) => write!(f, "{comma}exec:{command}")?,
            }
        }
        Ok(())
    }
}

impl TryFrom<String> for EnergyChoice {
    type Error = Error;

    fn try_from(text: String) -> Result<EnergyChoice, Error> {
        text.parse()
    }
}

impl From<EnergyChoice> for String {
    fn from(choice: EnergyChoice) -> String {
        choice.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_read_and_written_alike() {
        for text in ["auto", "none", "powercap", "powercap,exec:./meter --rate 5,6", "exec:a"] {
            let choice: EnergyChoice = text.parse().unwrap();
            assert_eq!(choice.to_string(), text);
            let json = serde_json::to_string(&choice).unwrap();
            assert_eq!(serde_json::from_str::<EnergyChoice>(&json).unwrap(), choice);
        }
        let choice: EnergyChoice = " powercap , exec: sleep 5 ".parse().unwrap();
        let exec = SourceChoice::Exec("sleep 5".to_owned());
        assert_eq!(choice, EnergyChoice::Sources(vec![SourceChoice::Named("powercap"), exec]));
    }

    #[test]
    fn wrong_choices_say_what_is_right() {
        let why = |text: &str| text.parse::<EnergyChoice>().unwrap_err().to_string();
        assert!(why("rapl").contains("'rapl'") && why("rapl").contains("powercap"), "{}", why("rapl"));
        assert!(why("").contains("''"));
        assert!(why("powercap,").contains("''"));
        assert!(why("powercap,powercap").contains("twice"));
        assert!(why("exec: ").contains("exec:COMMAND"));
        assert!(why("powercap,auto").contains("'auto'"));
    }
}
