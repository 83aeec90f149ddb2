//! The `bitjoule` command.

fn main() {}
