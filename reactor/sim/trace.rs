//! What a run did, as one number and, if wanted, as readable lines.
//!
//! Every delivery, readiness, scheduling decision and jump of the clock is mixed into a 64-bit hash, payload bytes
//! included. Two runs with the same hash did the same things in the same order; a difference means that something
//! other than the seed had a say.

use std::fmt;

use crate::time::Instant;

/// Receives the lines of a readable trace.
pub type TraceSink = Box<dyn FnMut(&str)>;

/// What kind of step a word of the hash stands for.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Jump = 1,
    Turn,
    Job,
    Wake,
    Ready,
    Sent,
    Delivered,
    Lost,
    Timer,
    /// The power of a machine, or something arranged from outside.
    Outside,
}

pub(super) struct Trace {
    hash: u64,
    sink: Option<TraceSink>,
}

impl Trace {
    pub(super) fn new(seed: u64) -> Trace {
        Trace {
            hash: seed ^ 0x243f_6a88_85a3_08d3,
            sink: None,
        }
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    pub(super) fn set_sink(&mut self, sink: Option<TraceSink>) {
        self.sink = sink;
    }

    /// Whether somebody reads the lines.
    pub(super) fn is_read(&self) -> bool {
        self.sink.is_some()
    }

    pub(super) fn note(&mut self, kind: Kind, words: &[u64]) {
        self.mix(kind as u64);
        for word in words {
            self.mix(*word);
        }
    }

    /// Mixes in a payload: its length, then its bytes.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.mix(bytes.len() as u64);
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            self.mix(u64::from_le_bytes(
                chunk.try_into().expect("chunks_exact gives 8 bytes"),
            ));
        }
        let mut rest = [0; 8];
        rest[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
        self.mix(u64::from_le_bytes(rest));
    }

    /// Writes a line if somebody reads them. The text is only made then.
    pub(super) fn line(&mut self, since_start: Instant, text: impl FnOnce() -> String) {
        if let Some(sink) = &mut self.sink {
            sink(&format!("{} {}", Stamp(since_start), text()));
        }
    }

    fn mix(&mut self, word: u64) {
        self.hash = (self.hash.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
        // A multiplication alone never carries upper bits down.
        self.hash ^= self.hash >> 32;
    }
}

/// Virtual time in a trace: seconds with nanoseconds, of fixed width so that columns line up.
pub(super) struct Stamp(pub(super) Instant);

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos();
        write!(
            f,
            "{:6}.{:09}",
            nanos / 1_000_000_000,
            nanos % 1_000_000_000
        )
    }
}
