//! A message that comes in several records.

use mischief_reactor::Instant;

use super::record::{First, rest_bytes_max};

/// A message that draws on the node's budget has to grow by this much in each
/// [`ConnectionTiming::progress`](super::ConnectionTiming::progress).
pub(crate) const PROGRESS_BYTES: usize = 16 * 1024;
/// Memory for a message grows at least in steps of this, and never beyond twice what has come.
const GROWTH_MIN: usize = 64 * 1024;
/// Buffers up to this size are kept for the next message.
pub(crate) const SPARE_BYTES_MAX: usize = 2 * 1024 * 1024;

pub(crate) struct Reassembly {
    /// A [`Kind`](super::Kind)'s number, or that of a channel.
    pub(crate) kind: u8,
    label_bytes: usize,
    total: usize,
    /// Label and body.
    bytes: Vec<u8>,
    /// Bytes of the records so far.
    encoded: u32,
    /// Whether it was given credit beyond the window.
    pub(crate) is_overdrawn: bool,
    checked_at: Instant,
    checked_bytes: usize,
}

impl Reassembly {
    /// Begins with the first record. `memory` is an empty buffer to be used again, if there is one.
    pub(crate) fn new(
        now: Instant,
        first: &First<'_>,
        encoded: usize,
        memory: Vec<u8>,
    ) -> Reassembly {
        let mut reassembly = Reassembly {
            kind: first.kind,
            label_bytes: first.label.len(),
            total: first.total as usize,
            bytes: memory,
            encoded: 0,
            is_overdrawn: false,
            checked_at: now,
            checked_bytes: 0,
        };
        reassembly.grow(first.label.len() + first.part.len());
        reassembly.bytes.extend_from_slice(first.label);
        reassembly.add(first.part, encoded);
        reassembly
    }

    /// Adds a part, of which there must not be more than [`Reassembly::rest`].
    pub(crate) fn add(&mut self, part: &[u8], encoded: usize) {
        assert!(part.len() <= self.rest(), "the caller has checked it");
        self.grow(part.len());
        self.bytes.extend_from_slice(part);
        self.encoded += encoded as u32;
    }

    /// Follows what has come, whatever length was claimed.
    fn grow(&mut self, more: usize) {
        let length = self.bytes.len() + more;
        if length > self.bytes.capacity() {
            let whole = self.label_bytes + self.total;
            let target = (2 * self.bytes.len())
                .max(GROWTH_MIN)
                .clamp(length, whole.max(length));
            self.bytes.reserve_exact(target - self.bytes.len());
        }
    }

    /// Bytes of the body that are missing.
    pub(crate) fn rest(&self) -> usize {
        self.label_bytes + self.total - self.bytes.len()
    }

    /// The most that the missing records can count against the window.
    pub(crate) fn rest_encoded_max(&self) -> usize {
        rest_bytes_max(self.rest())
    }

    /// What the records so far count against the window.
    pub(crate) fn encoded(&self) -> u32 {
        self.encoded
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        self.bytes.capacity()
    }

    /// From now on the message has to make progress.
    pub(crate) fn overdraw(&mut self, now: Instant) {
        self.is_overdrawn = true;
        self.checked_at = now;
        self.checked_bytes = self.bytes.len();
    }

    /// When progress was last checked.
    pub(crate) fn checked_at(&self) -> Instant {
        self.checked_at
    }

    /// Whether it has grown enough since it was last checked.
    pub(crate) fn check_progress(&mut self, now: Instant) -> bool {
        let grown = self.bytes.len() - self.checked_bytes;
        self.checked_at = now;
        self.checked_bytes = self.bytes.len();
        grown >= PROGRESS_BYTES
    }

    /// Label and body, and how long the label is.
    pub(crate) fn into_parts(self) -> (Vec<u8>, usize) {
        assert_eq!(self.rest(), 0);
        (self.bytes, self.label_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_follows_arrival() {
        let part = [7; 16_000];
        let first = First {
            kind: 2,
            total: 1_000_000,
            label: b"name",
            part: &part,
        };
        let mut reassembly = Reassembly::new(Instant::ZERO, &first, 16_014, Vec::new());
        let mut arrived = part.len();
        while reassembly.rest() > 0 {
            assert!(reassembly.heap_bytes() <= (2 * arrived).max(GROWTH_MIN));
            let more = reassembly.rest().min(part.len());
            reassembly.add(&part[..more], more + 3);
            arrived += more;
        }
        assert_eq!(reassembly.heap_bytes(), 1_000_004);
        assert_eq!(reassembly.encoded(), 1_000_000 + 14 + 62 * 3);
        let (bytes, label) = reassembly.into_parts();
        assert_eq!(bytes[..label], *b"name");
        assert!(bytes[label..].iter().all(|&byte| byte == 7));
    }

    #[test]
    fn progress_is_measured_from_check_to_check() {
        let first = First {
            kind: 2,
            total: 100_000,
            label: b"",
            part: &[],
        };
        let mut reassembly = Reassembly::new(Instant::ZERO, &first, 0, Vec::new());
        reassembly.add(&[0; PROGRESS_BYTES], 0);
        assert!(reassembly.check_progress(Instant::from_nanos(1)));
        reassembly.add(&[0; PROGRESS_BYTES - 1], 0);
        assert!(!reassembly.check_progress(Instant::from_nanos(2)));
    }
}
