//! `cargo +nightly fuzz run parse`
#![no_main]

#[path = "../../tests/fuzzing/parse.rs"]
mod parse;

libfuzzer_sys::fuzz_target!(|data: &[u8]| parse::run(data));
