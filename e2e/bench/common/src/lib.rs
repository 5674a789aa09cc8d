//! What the benchmarks share: a network namespace of their own, a CPU for the generator and one for the
//! server, what a process has used, and the middle of a few figures.

pub mod namespace;
pub mod pin;
pub mod process;
pub mod stats;
