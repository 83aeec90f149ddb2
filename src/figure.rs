//! A figure and how it was obtained, as one type: no number travels without its provenance.

use serde::{Deserialize, Serialize};

/// A value with its provenance, or the reason why there is none. A missing figure is never 0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "provenance", rename_all = "snake_case")]
pub enum Figure<T> {
    /// Read from an instrument.
    Measured {
        /// The figure.
        value: T,
        /// The instrument, such as `powercap` or `monotonic clock`.
        by: String,
    },
    /// Read from a simulated instrument; never to be mistaken for a measurement.
    Simulated {
        /// The figure.
        value: T,
        /// What simulated it.
        by: String,
    },
    /// Computed by a model from what was done, not read from an instrument.
    Modelled {
        /// The figure.
        value: T,
        /// The model, such as `arithmetic at 7 nm`.
        by: String,
    },
    /// Derived from what somebody stated.
    Assumed {
        /// The figure.
        value: T,
        /// Who stated what.
        by: String,
    },
    /// Not to be had.
    Unavailable {
        /// Why, in words for a person.
        why: String,
    },
}

impl<T> Figure<T> {
    /// A measured value.
    pub fn measured(value: T, by: impl Into<String>) -> Self {
        Figure::Measured { value, by: by.into() }
    }

    /// A missing value and the reason.
    pub fn unavailable(why: impl Into<String>) -> Self {
        Figure::Unavailable { why: why.into() }
    }

    /// The value, if there is one.
    pub fn value(&self) -> Option<&T> {
        self.found().ok().map(|(value, _)| value)
    }

    /// The value and where it is from, or why there is none.
    ///
    /// # Errors
    /// The reason.
    pub fn found(&self) -> Result<(&T, &str), &str> {
        match self {
            Figure::Measured { value, by }
            | Figure::Simulated { value, by }
            | Figure::Modelled { value, by }
            | Figure::Assumed { value, by } => Ok((value, by)),
            Figure::Unavailable { why } => Err(why),
        }
    }

    /// The same figure by reference.
    pub fn as_ref(&self) -> Figure<&T> {
        match self {
            Figure::Measured { value, by } => Figure::Measured { value, by: by.clone() },
            Figure::Simulated { value, by } => Figure::Simulated { value, by: by.clone() },
            Figure::Modelled { value, by } => Figure::Modelled { value, by: by.clone() },
            Figure::Assumed { value, by } => Figure::Assumed { value, by: by.clone() },
            Figure::Unavailable { why } => Figure::Unavailable { why: why.clone() },
        }
    }

    /// `value`, computed from `figures`, with the weakest provenance among those that have a value (assumed,
    /// modelled, simulated, measured); without a value, the first reason why one of them has none, or
    /// `absent`.
    pub fn derived<'a, U: 'a>(
        value: Option<T>,
        figures: impl IntoIterator<Item = &'a Figure<U>>,
        absent: &str,
    ) -> Self {
        // How far a figure is from a measurement.
        let weakness = |figure: &Figure<U>| match figure {
            Figure::Unavailable { .. } => 0,
            Figure::Measured { .. } => 1,
            Figure::Simulated { .. } => 2,
            Figure::Modelled { .. } => 3,
            Figure::Assumed { .. } => 4,
        };
        let figures: Vec<&Figure<U>> = figures.into_iter().collect();
        let Some(value) = value else {
            let why = figures.iter().find_map(|f| f.found().err());
            return Figure::unavailable(why.unwrap_or(absent));
        };
        // The first of the weakest: it names the instrument.
        match figures.into_iter().rev().max_by_key(|f| weakness(f)) {
            None | Some(Figure::Unavailable { .. }) => Figure::unavailable(absent),
            Some(Figure::Measured { by, .. }) => Figure::Measured { value, by: by.clone() },
            Some(Figure::Simulated { by, .. }) => Figure::Simulated { value, by: by.clone() },
            Some(Figure::Modelled { by, .. }) => Figure::Modelled { value, by: by.clone() },
            Some(Figure::Assumed { by, .. }) => Figure::Assumed { value, by: by.clone() },
        }
    }

    /// The same figure with its instrument described by `describe`.
    pub fn described(self, describe: impl FnOnce(&str) -> String) -> Self {
        match self {
            Figure::Measured { value, by } => Figure::Measured { value, by: describe(&by) },
            Figure::Simulated { value, by } => Figure::Simulated { value, by: describe(&by) },
            Figure::Modelled { value, by } => Figure::Modelled { value, by: describe(&by) },
            Figure::Assumed { value, by } => Figure::Assumed { value, by: describe(&by) },
            unavailable @ Figure::Unavailable { .. } => unavailable,
        }
    }

    /// The same provenance with the value transformed.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Figure<U> {
        match self {
            Figure::Measured { value, by } => Figure::Measured { value: f(value), by },
            Figure::Simulated { value, by } => Figure::Simulated { value: f(value), by },
            Figure::Modelled { value, by } => Figure::Modelled { value: f(value), by },
            Figure::Assumed { value, by } => Figure::Assumed { value: f(value), by },
            Figure::Unavailable { why } => Figure::Unavailable { why },
        }
    }

    /// What kind of figure it is, in a word: `measured`, `unavailable`.
    pub fn kind(&self) -> &'static str {
        match self {
            Figure::Measured { .. } => "measured",
            Figure::Simulated { .. } => "simulated",
            Figure::Modelled { .. } => "modelled",
            Figure::Assumed { .. } => "assumed",
            Figure::Unavailable { .. } => "unavailable",
        }
    }

    /// Its kind, if there is a value and nobody measured it.
    pub fn not_measured(&self) -> Option<&'static str> {
        match self {
            Figure::Measured { .. } | Figure::Unavailable { .. } => None,
            _ => Some(self.kind()),
        }
    }

    /// One cell of a table: `measured: powercap`, `unavailable: no powercap tree`.
    pub fn provenance(&self) -> String {
        let (Ok((_, by)) | Err(by)) = self.found();
        format!("{}: {by}", self.kind())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_derived_figure_is_as_weak_as_its_weakest_source() {
        let measured = Figure::measured(1, "meter");
        let simulated = Figure::Simulated { value: 1, by: "tree".to_owned() };
        let modelled = Figure::Modelled { value: 1, by: "arithmetic".to_owned() };
        let none = Figure::<i32>::unavailable("broken");
        let derived =
            |of: &[&Figure<i32>]| Figure::derived(Some(2), of.iter().copied(), "no round").provenance();
        assert_eq!(derived(&[&measured, &none]), "measured: meter");
        assert_eq!(derived(&[&measured, &simulated, &none]), "simulated: tree");
        assert_eq!(derived(&[&modelled, &simulated, &measured]), "modelled: arithmetic");
        assert_eq!(derived(&[&none]), "unavailable: no round");
        let why = Figure::derived(None::<i32>, [&measured, &none], "no round").provenance();
        assert_eq!(why, "unavailable: broken");
        assert_eq!(
            Figure::derived(None::<i32>, [&measured], "no round").provenance(),
            "unavailable: no round"
        );
    }
}
