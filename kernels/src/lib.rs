//! Ternary and floating-point matrix kernels: formats, packing, and products, by instruction set.
