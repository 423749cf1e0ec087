//! Records that wait to be sent.

use std::collections::VecDeque;

use super::record::{
    Encoded, Label, RECORD_BYTES_MAX, Segment, SharedMessage, put_message, split_record,
};
use super::stream::SendWindow;

/// Messages are collected in chunks of up to this size, which allocators serve without new pages from the system.
const CHUNK_BYTES: usize = 64 * 1024;
/// Emptied chunks that are kept for the next use, and the bytes of all of them: two large messages, one of which is
/// being written by the threads outside while the other is being sent. New memory for each would cost more than to seal
/// it, most of all where the allocator has every large piece from the system.
const SPARES_MAX: usize = 20;
const SPARE_BYTES_MAX: usize = 5 << 19;

enum Chunk {
    Records(Vec<u8>),
    Shared(Box<SharedMessage>),
}

/// Encoded records in order, in chunks. A chunk that was encoded elsewhere is taken over as it is, so that its bytes
/// are copied once, into the frame.
#[derive(Default)]
pub(crate) struct RecordQueue {
    chunks: VecDeque<Chunk>,
    /// Bytes of the first chunk that are packed already, if it is of records.
    head: usize,
    /// Bytes that wait.
    bytes: usize,
    /// Whether the last chunk is ours to append to.
    is_open: bool,
    /// Whether something was refused since [`RecordQueue::take_drained`] last said so.
    was_full: bool,
    /// Empty chunks for the next use, so that a steady flow allocates nothing.
    spares: Vec<Vec<u8>>,
}

impl RecordQueue {
    /// Bytes that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of memory held, without the bodies that are shared with the sender.
    pub(crate) fn heap_bytes(&self) -> usize {
        let bytes_of = |chunk: &Chunk| match chunk {
            Chunk::Records(chunk) => chunk.capacity(),
            Chunk::Shared(_) => size_of::<SharedMessage>(),
        };
        let chunks: usize = self.chunks.iter().map(bytes_of).sum();
        let spares: usize = self.spares.iter().map(Vec::capacity).sum();
        let tables = self.chunks.capacity() * size_of::<Chunk>()
            + self.spares.capacity() * size_of::<Vec<u8>>();
        chunks + spares + tables
    }

    /// Whether something more may be queued below a mark; if not, [`RecordQueue::take_drained`] will tell.
    #[inline]
    pub(crate) fn has_room(&mut self, high: usize) -> bool {
        let has_room = self.bytes < high;
        self.was_full |= !has_room;
        has_room
    }

    /// Appends a message, cut into as many records as it takes. Returns how many bytes that was.
    #[inline]
    pub(crate) fn append_message(&mut self, base: u8, label: Label<'_>, body: &[u8]) -> usize {
        let before = self.bytes;
        put_message(base, label, body, |put| self.append(put));
        self.bytes - before
    }

    /// Appends the record that `put` writes.
    #[inline]
    pub(crate) fn append(&mut self, put: impl FnOnce(&mut Vec<u8>)) {
        if self.is_open
            && let Some(Chunk::Records(chunk)) = self.chunks.back_mut()
            && chunk.len() + RECORD_BYTES_MAX <= CHUNK_BYTES
        {
            let before = chunk.len();
            put(chunk);
            self.bytes += chunk.len() - before;
            return;
        }
        let mut chunk = self.spares.pop().unwrap_or_default();
        put(&mut chunk);
        self.bytes += chunk.len();
        self.chunks.push_back(Chunk::Records(chunk));
        self.is_open = true;
    }

    /// Appends chunks of records as they are.
    pub(crate) fn append_encoded(&mut self, encoded: Encoded) {
        self.bytes += encoded.len();
        self.is_open = false;
        let (before, last) = encoded.into_segments();
        for segment in before {
            self.chunks.push_back(match segment {
                Segment::Records(bytes) => Chunk::Records(bytes),
                Segment::Shared(message) => Chunk::Shared(Box::new(message)),
            });
        }
        if !last.is_empty() {
            self.chunks.push_back(Chunk::Records(last));
        } else {
            self.keep(last);
        }
    }

    /// Copies whole records into a frame while there is room and credit. With `one`, a single record.
    pub(crate) fn pack(
        &mut self,
        out: &mut Vec<u8>,
        room: usize,
        window: Option<&mut SendWindow>,
        one: bool,
    ) {
        if self.bytes == 0 {
            return;
        }
        let start = out.len();
        let credit = window.as_ref().map_or(usize::MAX, |window| window.credit());
        let limit = room.min(credit);
        while let Some(chunk) = self.chunks.front_mut() {
            let left = limit - (out.len() - start);
            let is_done = match chunk {
                Chunk::Records(chunk) => {
                    let waiting = &chunk[self.head..];
                    let cut = if waiting.len() <= left && !one {
                        waiting.len()
                    } else {
                        whole_records(waiting, left, one)
                    };
                    out.extend_from_slice(&waiting[..cut]);
                    self.head += cut;
                    self.bytes -= cut;
                    self.head == chunk.len()
                }
                Chunk::Shared(message) => {
                    let before = message.waiting();
                    let has_packed = message.pack(out, left);
                    let waiting = message.waiting();
                    self.bytes -= before - waiting;
                    if has_packed && waiting > 0 && !one {
                        continue;
                    }
                    waiting == 0
                }
            };
            if !is_done {
                break;
            }
            self.finish_chunk();
            if one {
                break;
            }
        }
        let packed = out.len() - start;
        if let Some(window) = window {
            window.spend(packed);
        }
    }

    /// Whether the queue has fallen to `low` after it was full. Says so once.
    #[inline]
    pub(crate) fn take_drained(&mut self, low: usize) -> bool {
        let drained = self.was_full && self.bytes <= low;
        self.was_full &= !drained;
        drained
    }

    /// An emptied chunk, for its maker to use again.
    pub(crate) fn reclaim(&mut self) -> Option<Encoded> {
        self.spares.pop().map(Encoded::reusing)
    }

    /// Frees the chunks that are kept for the next use.
    pub(crate) fn shed(&mut self) {
        self.spares = Vec::new();
    }

    pub(crate) fn clear(&mut self) {
        *self = RecordQueue::default();
    }

    fn finish_chunk(&mut self) {
        self.head = 0;
        let chunk = self.chunks.pop_front();
        self.is_open &= !self.chunks.is_empty();
        if let Some(Chunk::Records(chunk)) = chunk {
            self.keep(chunk);
        }
    }

    /// Keeps the memory of a chunk for the next use.
    fn keep(&mut self, mut chunk: Vec<u8>) {
        let spare: usize = self.spares.iter().map(Vec::capacity).sum();
        let is_kept = self.spares.len() < SPARES_MAX
            && chunk.capacity() > 0
            && spare + chunk.capacity() <= SPARE_BYTES_MAX;
        if is_kept {
            chunk.clear();
            self.spares.push(chunk);
        }
    }
}

/// The length of the whole records at the front of `bytes` that fit into `limit`.
fn whole_records(bytes: &[u8], limit: usize, one: bool) -> usize {
    let mut rest = bytes;
    while let Some((_, _, after)) = split_record(rest) {
        if bytes.len() - after.len() > limit {
            break;
        }
        rest = after;
        if one {
            break;
        }
    }
    bytes.len() - rest.len()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::record::{First, Kind, MESSAGE_FIRST, PART_MIN, put_record};
    use super::*;

    fn push(queue: &mut RecordQueue, length: usize) {
        queue.append(|out| put_record(out, 0x12, &[&vec![9; length]]));
    }

    fn pack(queue: &mut RecordQueue, room: usize, credit: u32) -> usize {
        let mut out = Vec::new();
        let mut window = SendWindow::new(credit);
        queue.pack(&mut out, room, Some(&mut window), false);
        assert_eq!(window.credit() + out.len(), credit as usize);
        out.len()
    }

    #[test]
    fn whole_records_are_packed_within_room_and_credit() {
        let mut queue = RecordQueue::default();
        for _ in 0..10 {
            push(&mut queue, 97);
        }
        assert_eq!(queue.bytes(), 1000);
        assert_eq!(pack(&mut queue, 99, 1000), 0);
        assert_eq!(pack(&mut queue, 399, 1000), 300);
        assert_eq!(pack(&mut queue, 1000, 199), 100);
        assert_eq!(pack(&mut queue, 600, 600), 600);
        assert_eq!((queue.bytes(), pack(&mut queue, 600, 600)), (0, 0));
    }

    #[test]
    fn chunks_from_elsewhere_keep_their_place_and_come_back() {
        let mut queue = RecordQueue::default();
        push(&mut queue, 1);
        let mut encoded = Encoded::new();
        encoded.push(Kind::Bytes, "b", &[2; 1000]).unwrap();
        let length = encoded.len();
        queue.append_encoded(encoded);
        push(&mut queue, 3);
        let mut out = Vec::new();
        queue.pack(&mut out, 5000, None, true);
        assert_eq!(out.len(), 4);
        queue.pack(&mut out, 5000, None, true);
        assert_eq!(out.len(), 4 + length);
        assert_eq!(out[4..9], [0x12, 3, 234, 1, b'b']);
        queue.pack(&mut out, 5000, None, false);
        assert_eq!(out.len(), 4 + length + 6);
        assert!(queue.reclaim().is_some_and(|again| again.is_empty()));
        assert!(queue.reclaim().is_some() && queue.reclaim().is_some());
        assert!(queue.reclaim().is_none());
    }

    #[test]
    fn shared_messages_are_cut_to_room_and_credit_and_keep_their_place() {
        let body: Arc<[u8]> = (0..100_000u32).map(|index| index as u8).collect();
        let mut queue = RecordQueue::default();
        let mut encoded = Encoded::new();
        encoded.push(Kind::Bytes, "", &[1]).unwrap();
        encoded.push_shared(Kind::Bytes, "name", &body).unwrap();
        encoded
            .push_shared(Kind::Bytes, "", &Arc::from([2]))
            .unwrap();
        queue.append_encoded(encoded);
        assert_eq!(Arc::strong_count(&body), 2);
        let (mut records, mut rooms) = (Vec::new(), [20, 1000, 16_384, 9000].iter().cycle());
        while queue.bytes() > 0 {
            let (before, waiting) = (records.len(), queue.bytes());
            let mut window = SendWindow::new(9_500);
            let room = *rooms.next().unwrap();
            queue.pack(&mut records, room, Some(&mut window), false);
            let packed = records.len() - before;
            assert!(packed <= room && packed == 9_500 - window.credit());
            assert!(packed >= waiting - queue.bytes());
        }
        assert_eq!(Arc::strong_count(&body), 1);
        let (mut rest, mut received, mut label) = (&records[5..], Vec::new(), &b""[..]);
        while received.len() < body.len() {
            let (record_type, record, after) = split_record(rest).unwrap();
            let part = match record_type {
                MESSAGE_FIRST => {
                    let first = First::decode(record_type, record).unwrap();
                    assert_eq!(first.total as usize, body.len());
                    label = first.label;
                    first.part
                }
                _ => record,
            };
            received.extend_from_slice(part);
            assert!(part.len() >= PART_MIN || received.len() == body.len());
            rest = after;
        }
        assert_eq!((&received[..], label), (&body[..], &b"name"[..]));
        assert_eq!(rest, [0x12, 0, 2, 0, 2]);
    }

    #[test]
    fn a_queue_tells_once_that_it_has_drained() {
        let mut queue = RecordQueue::default();
        push(&mut queue, 97);
        assert!(queue.has_room(101) && !queue.take_drained(1000));
        assert!(!queue.has_room(100));
        assert!(!queue.take_drained(99));
        pack(&mut queue, 1000, 1000);
        assert!(queue.take_drained(99) && !queue.take_drained(99));
    }

    #[test]
    fn a_steady_flow_keeps_its_memory() {
        let mut queue = RecordQueue::default();
        let mut held = 0;
        for round in 0..100 {
            for _ in 0..50 {
                push(&mut queue, 97);
            }
            pack(&mut queue, 10_000, 10_000);
            if round == 2 {
                held = queue.heap_bytes();
            }
        }
        assert_eq!(queue.heap_bytes(), held);
    }
}
