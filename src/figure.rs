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
        match self {
            Figure::Measured { value, .. } | Figure::Simulated { value, .. } => Some(value),
            Figure::Unavailable { .. } => None,
        }
    }

    /// The same figure by reference.
    pub fn as_ref(&self) -> Figure<&T> {
        match self {
            Figure::Measured { value, by } => Figure::Measured { value, by: by.clone() },
            Figure::Simulated { value, by } => Figure::Simulated { value, by: by.clone() },
            Figure::Unavailable { why } => Figure::Unavailable { why: why.clone() },
        }
    }

    /// The same provenance with the value transformed.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Figure<U> {
        match self {
            Figure::Measured { value, by } => Figure::Measured { value: f(value), by },
            Figure::Simulated { value, by } => Figure::Simulated { value: f(value), by },
            Figure::Unavailable { why } => Figure::Unavailable { why },
        }
    }

    /// One cell of a table: `measured: powercap`, `unavailable: no powercap tree`.
    pub fn provenance(&self) -> String {
        match self {
            Figure::Measured { by, .. } => format!("measured: {by}"),
            Figure::Simulated { by, .. } => format!("simulated: {by}"),
            Figure::Unavailable { why } => format!("unavailable: {why}"),
        }
    }
}
