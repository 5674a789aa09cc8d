//! What the fuzzers of `fuzz/` check, for a bounded time: the corpus again, and inputs that resemble it.
//! `RTC_FUZZ=5000000 cargo test --release -p rtc-turn-proto --test fuzzing` runs as many of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/mod.rs"]
mod common;
mod mutate;
mod parse;
mod seeds;
mod server;

use rand::{SeedableRng, rngs::StdRng};
use std::{fs, panic::catch_unwind, path::PathBuf};

fn folder(target: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "fuzz", "corpus", target].iter().collect()
}

fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(folder(target))
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect();
    // directories have no order, and the seed is to mean the same everywhere
    files.sort();
    assert!(!files.is_empty());
    files
}

/// Runs one input, and says which when it fails.
fn run(run: fn(&[u8]), what: &str, data: &[u8]) {
    if catch_unwind(|| run(data)).is_err() {
        let hex: String = data.iter().map(|byte| format!("{byte:02x}")).collect();
        panic!("{what} failed; keep it in the corpus once it is mended: {hex}");
    }
}

fn fuzz(target: &str, function: fn(&[u8]), iterations: u64) {
    let asked = std::env::var("RTC_FUZZ").map(|n| n.parse().expect("RTC_FUZZ is a number"));
    let (seed, iterations) = (asked.clone().unwrap_or(1), asked.unwrap_or(iterations));
    let files = corpus(target);
    for (name, data) in &files {
        run(function, &format!("{target}/{name}"), data);
    }
    let corpus: Vec<_> = files.into_iter().map(|(_, data)| data).collect();
    let mut rng = StdRng::seed_from_u64(seed);
    for n in 0..iterations {
        let data = mutate::mutate(&corpus, &mut rng);
        run(function, &format!("{target}: input {n} of seed {seed}"), &data);
    }
}

#[test]
fn no_bytes_disturb_the_parsers() {
    fuzz("parse", parse::run, 20_000);
}

#[test]
fn no_story_breaks_what_the_server_promises() {
    fuzz("server", server::run, 1_500);
}

/// `RTC_FUZZ_SEEDS=write` writes them.
#[test]
fn each_seed_is_in_the_corpus() {
    for (target, seeds) in [("parse", seeds::packets()), ("server", seeds::stories())] {
        for (name, data) in seeds {
            let file = folder(target).join(name);
            if std::env::var("RTC_FUZZ_SEEDS").is_ok_and(|what| what == "write") {
                fs::write(&file, &data).unwrap();
            }
            assert!(
                fs::read(&file).is_ok_and(|held| held == data),
                "{file:?}: RTC_FUZZ_SEEDS=write writes it"
            );
        }
    }
}
