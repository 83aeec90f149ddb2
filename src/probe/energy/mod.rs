//! Energy: joules by package within a window, or the reason why there are none.

pub mod powercap;

pub use powercap::{EnergyMeter, Reading};
