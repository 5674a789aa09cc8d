//! Makes new inputs of old ones. It does not learn which of them reach new code, as a fuzzer does, but
//! needs nothing that the tests do not have.

use rand::{Rng, rngs::StdRng, seq::IndexedRandom};

/// The longest input.
const MAX: usize = 2000;
/// Bytes that lengths and numbers turn at.
const TURNS: [u8; 10] = [0, 1, 3, 4, 7, 0x10, 0x40, 0x7F, 0x80, 0xFF];

/// An input that resembles one of `corpus`, or two.
pub(crate) fn mutate(corpus: &[Vec<u8>], rng: &mut StdRng) -> Vec<u8> {
    let mut data = one_of(corpus, rng);
    for _ in 0..rng.random_range(1..8) {
        step(&mut data, corpus, rng);
    }
    data.truncate(MAX);
    data
}

fn one_of(corpus: &[Vec<u8>], rng: &mut StdRng) -> Vec<u8> {
    corpus.choose(rng).cloned().unwrap_or_default()
}

fn step(data: &mut Vec<u8>, corpus: &[Vec<u8>], rng: &mut StdRng) {
    let at = rng.random_range(0..=data.len());
    let to = rng.random_range(at..=data.len()).min(at + 64);
    match rng.random_range(0..8) {
        0 => drop(data.drain(at..to)),
        1 => drop(data.splice(at..at, data[at..to].to_vec())),
        2 => data.insert(at, rng.random()),
        3 => {
            let other = one_of(corpus, rng);
            let from = rng.random_range(0..=other.len());
            let end = rng.random_range(from..=other.len());
            drop(data.splice(at..to, other[from..end].iter().copied()));
        }
        4 => data.truncate(at),
        kind => {
            let Some(byte) = data.get_mut(at) else { return };
            *byte = match kind {
                5 => *byte ^ (1 << rng.random_range(0..8)),
                6 => *TURNS.choose(rng).unwrap_or(&0),
                _ => rng.random(),
            };
        }
    }
}
