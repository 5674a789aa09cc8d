//! What the benchmarks share: a network namespace of their own, a CPU for the generator and one for the
//! server, what a process has used, the middle of a few figures, rounds that alternate, and what is told of them.

pub mod namespace;
pub mod pin;
pub mod process;
pub mod report;
pub mod rounds;
pub mod stats;
