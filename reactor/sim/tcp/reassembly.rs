//! What has arrived of a TCP stream ahead of a gap.

use std::collections::BTreeMap;

/// Pieces by their position. The receive window bounds how far ahead they are, so it bounds their bytes.
#[derive(Default)]
pub(super) struct Reassembly {
    pieces: BTreeMap<u64, Vec<u8>>,
    /// Where the stream ends, if its FIN has come.
    end: Option<u64>,
}

impl Reassembly {
    /// Keeps a piece whose beginning has a gap before it. What is at or behind `edge` is cut off.
    pub(super) fn keep(&mut self, seq: u64, mut data: Vec<u8>, edge: u64) {
        let room = edge.saturating_sub(seq);
        data.truncate(usize::try_from(room).unwrap_or(usize::MAX));
        if data.is_empty() {
            return;
        }
        let kept = self.pieces.entry(seq).or_default();
        if kept.len() < data.len() {
            *kept = data;
        }
    }

    /// Remembers that the stream ends at a position.
    pub(super) fn end_at(&mut self, end: u64) {
        self.end = Some(end);
    }

    /// Whether the stream ends at a position.
    pub(super) fn ends_at(&self, position: u64) -> bool {
        self.end == Some(position)
    }

    /// Takes out a piece that goes on at a position, with how many of its bytes are before that.
    pub(super) fn next_at(&mut self, position: u64) -> Option<(Vec<u8>, usize)> {
        loop {
            let (seq, _) = self.pieces.first_key_value()?;
            if *seq > position {
                return None;
            }
            let (seq, data) = self.pieces.pop_first().expect("there is a first one");
            let skip = usize::try_from(position - seq).unwrap_or(usize::MAX);
            if skip < data.len() {
                return Some((data, skip));
            }
        }
    }

    pub(super) fn clear(&mut self) {
        self.pieces.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_back_in_order_whatever_their_overlaps() {
        let mut ahead = Reassembly::default();
        ahead.keep(30, vec![3; 10], 100);
        ahead.keep(10, vec![1; 15], 100);
        ahead.keep(10, vec![1; 5], 100);
        ahead.keep(12, vec![1; 3], 100);
        ahead.keep(95, vec![9; 10], 100);
        ahead.keep(100, vec![9; 10], 100);
        assert!(ahead.next_at(9).is_none());
        assert_eq!(ahead.next_at(20), Some((vec![1; 15], 10)));
        assert!(
            ahead.next_at(25).is_none(),
            "what is inside of another is gone"
        );
        assert_eq!(ahead.next_at(30), Some((vec![3; 10], 0)));
        assert_eq!(ahead.next_at(95), Some((vec![9; 5], 0)));
        assert!(ahead.next_at(100).is_none());
    }
}
