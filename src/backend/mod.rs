//! What runs a case: the native engine, in a worker process of its own.

pub mod check;
pub mod cost;
pub mod limit;
pub mod native;
pub mod protocol;
mod window;
