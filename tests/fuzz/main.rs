//! Fuzz targets, each a plain `fn(&[u8])`, run here over their corpus and over seeded mutations of it.
//!
//! A coverage-guided fuzzer can drive the same functions. An input that it finds goes into `corpus/<target>/`, where it
//! is run for ever after. `MISCHIEF_FUZZ_SEED` and `MISCHIEF_FUZZ_RUNS` set another seed and another number of mutations
//! for each target; a failure prints the seed and the input.

mod connection;
mod dht;
mod json_line;
mod mdns;
mod peers;
mod requests;

use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;

/// Mutations of each target in a plain `cargo test`.
const RUNS: u64 = 20_000;

/// Mutations of targets that compute a handshake each time.
const RUNS_SLOW: u64 = 3_000;

/// Longer inputs are cut: what matters happens early, and mutations have to be many.
const INPUT_SIZE_MAX: usize = 4096;

#[test]
fn json_line() {
    run("json_line", json_line::json_line, RUNS);
}

#[test]
fn preface() {
    run("preface", connection::preface, RUNS);
}

#[test]
fn handshake() {
    run("handshake", connection::handshake, RUNS_SLOW);
}

#[test]
fn hello() {
    run("hello", connection::hello, RUNS);
}

#[test]
fn frames() {
    run("frames", connection::frames, RUNS_SLOW);
}

#[test]
fn records() {
    run("records", connection::records, RUNS_SLOW);
}

#[test]
fn requests() {
    run("requests", requests::requests, RUNS);
}

#[test]
fn peer_record() {
    run("peer_record", peers::peer_record, RUNS);
}

#[test]
fn exchange() {
    run("exchange", peers::exchange, RUNS_SLOW);
}

#[test]
fn peers_file() {
    run("peers_file", peers::peers_file, RUNS_SLOW);
}

#[test]
fn dht_bencode() {
    run("dht_bencode", dht::dht_bencode, RUNS);
}

#[test]
fn dht_message() {
    run("dht_message", dht::dht_message, RUNS);
}

#[test]
fn dht_sequence() {
    run("dht_sequence", dht::dht_sequence, RUNS_SLOW);
}

#[test]
fn mdns_packet() {
    run("mdns_packet", mdns::mdns_packet, RUNS_SLOW);
}

#[test]
fn mdns_packets() {
    run("mdns_packets", mdns::mdns_packets, RUNS_SLOW);
}

/// `runs` is for a plain `cargo test`; the variable goes first.
fn run(name: &str, target: fn(&[u8]), runs: u64) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fuzz/corpus")
        .join(name);
    let mut paths: Vec<_> = fs::read_dir(&folder)
        .expect("the corpus is there")
        .map(|entry| entry.expect("it can be listed").path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} is empty", folder.display());
    let corpus: Vec<Vec<u8>> = paths
        .iter()
        .map(|path| fs::read(path).expect("it can be read"))
        .collect();
    for (path, input) in paths.iter().zip(&corpus) {
        assert!(
            is_survived(target, input),
            "{name} fails on {}",
            path.display()
        );
    }
    let seed = variable("MISCHIEF_FUZZ_SEED", 1);
    let mut random = Random(seed);
    for run in 0..variable("MISCHIEF_FUZZ_RUNS", runs) {
        let input = mutated(&corpus, &mut random);
        assert!(
            is_survived(target, &input),
            "{name} fails on run {run} of MISCHIEF_FUZZ_SEED={seed}: {}",
            input.escape_ascii()
        );
    }
}

fn is_survived(target: fn(&[u8]), input: &[u8]) -> bool {
    panic::catch_unwind(AssertUnwindSafe(|| target(input))).is_ok()
}

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .map_or(default, |value| value.parse().expect("it is a number"))
}

/// One of the corpus, changed in a few places.
fn mutated(corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut input = random.pick(corpus).clone();
    input.truncate(INPUT_SIZE_MAX);
    for _ in 0..1 + random.below(4) {
        let at = random.below(input.len() + 1);
        let end = (at + 1 + random.below(16)).min(input.len());
        match random.below(7) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => input[at] = random.next() as u8,
            2 => input.truncate(at),
            3 => drop(input.drain(at..end)),
            4 => {
                let copy: Vec<u8> = input[at..end].to_vec();
                let times = 1 + random.below(64);
                input.splice(at..at, copy.repeat(times));
            }
            5 => {
                let other = random.pick(corpus);
                let from = random.below(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            _ => input.insert(at, random.next() as u8),
        }
        input.truncate(INPUT_SIZE_MAX);
    }
    input
}

/// SplitMix64 (Steele, Lea, Flood 2014): small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}
