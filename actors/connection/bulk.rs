//! Bulk streams: raw bytes one way, each stream in order and with a window of its own.
//!
//! A stream takes one of the places that the receiver's hello allows from OPEN until the receiver's STOP. The receiver
//! sends exactly one STOP for each stream: early if it wants no more, else when it has consumed everything after END or
//! RESET. So neither side can make the other remember more streams than were announced.

use std::collections::{BTreeMap, VecDeque};

use super::error::Fault;
use super::record::{
    BULK_DATA, BULK_END, BULK_OPEN, BULK_RESET, BULK_STOP, RECORD_BYTES_MAX, RECORD_HEADER_BYTES,
    WINDOW, put_header, put_record,
};
use super::stream::{ReceiveWindow, SendWindow, StreamId};

/// Bytes of a data record before its data.
const DATA_HEAD: usize = RECORD_HEADER_BYTES + 4;
/// Data is not cut into pieces smaller than this to fill up a frame or a window.
const PIECE_MIN: usize = 512;
/// Small writes are collected up to this size, so that what a queue holds is bounded by its bytes.
const COLLECTED_MAX: usize = 16 * 1024;
/// Emptied buffers that are kept, and the largest of them.
const SPARES_MAX: usize = 4;
const SPARE_BYTES_MAX: usize = 256 * 1024;
/// The longest record of a stream's own besides data and OPEN.
const SMALL_RECORD_MAX: usize = RECORD_HEADER_BYTES + 8;

/// What happens on a bulk stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BulkEvent<'a> {
    /// The peer has opened a stream to us.
    Opened {
        /// The subsystem's number.
        channel: u8,
        /// What the opener says about the stream; up to 1 KiB.
        header: &'a [u8],
    },
    /// The next bytes of the peer's stream. To be given back with `consumed`, with `credit` bytes.
    Data {
        /// The bytes.
        bytes: &'a [u8],
        /// What they count against the window.
        credit: u32,
    },
    /// The peer's stream is complete.
    Ended,
    /// The peer has given its stream up.
    Reset {
        /// The subsystem's code.
        code: u16,
    },
    /// The peer is done with our stream. Code 0 after END: it has taken everything.
    Stopped {
        /// The subsystem's code.
        code: u16,
    },
}

/// How our own stream goes on when its data is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// More data may come.
    Open,
    /// END is to be sent.
    End,
    /// RESET is to be sent.
    Reset(u16),
    /// Nothing is to be sent; STOP is awaited.
    Sent,
}

struct Outgoing {
    /// The OPEN record until it is sent.
    open: Option<Box<[u8]>>,
    data: VecDeque<Vec<u8>>,
    /// Bytes of the first chunk that are packed already.
    head: usize,
    bytes: usize,
    window: SendWindow,
    ending: Ending,
    was_full: bool,
}

impl Outgoing {
    /// Whether a record could be packed.
    fn is_ready(&self) -> bool {
        let wanted = (DATA_HEAD + self.bytes).min(DATA_HEAD + PIECE_MIN);
        self.open.is_some()
            || self.bytes > 0 && self.window.credit() >= wanted
            || self.bytes == 0 && !matches!(self.ending, Ending::Open | Ending::Sent)
    }

    /// Packs the next record if it fits.
    fn pack(&mut self, id: u32, out: &mut Vec<u8>, room: usize, spares: &mut Spares) -> bool {
        let stream = id.to_be_bytes();
        if let Some(open) = &self.open {
            if open.len() > room {
                return false;
            }
            out.extend_from_slice(open);
            self.open = None;
            return true;
        }
        if self.bytes > 0 {
            return self.pack_data(stream, out, room, spares);
        }
        if room < SMALL_RECORD_MAX {
            return false;
        }
        match self.ending {
            Ending::Open | Ending::Sent => return false,
            Ending::End => put_record(out, BULK_END, &[&stream]),
            Ending::Reset(code) => put_record(out, BULK_RESET, &[&stream, &code.to_be_bytes()]),
        }
        self.ending = Ending::Sent;
        true
    }

    fn pack_data(
        &mut self,
        stream: [u8; 4],
        out: &mut Vec<u8>,
        room: usize,
        spares: &mut Spares,
    ) -> bool {
        let limit = room.min(RECORD_BYTES_MAX).min(self.window.credit());
        let piece = limit.saturating_sub(DATA_HEAD).min(self.bytes);
        if piece == 0 || piece < self.bytes.min(PIECE_MIN) {
            return false;
        }
        put_header(out, BULK_DATA, 4 + piece);
        out.extend_from_slice(&stream);
        let mut missing = piece;
        while missing > 0 {
            let chunk = self.data.front().expect("as many bytes are there");
            let taken = missing.min(chunk.len() - self.head);
            out.extend_from_slice(&chunk[self.head..self.head + taken]);
            self.head += taken;
            missing -= taken;
            if self.head == chunk.len() {
                self.head = 0;
                spares.keep(self.data.pop_front());
            }
        }
        self.bytes -= piece;
        self.window.spend(DATA_HEAD + piece);
        true
    }

    fn drop_data(&mut self) {
        self.data = VecDeque::new();
        self.head = 0;
        self.bytes = 0;
    }
}

/// Emptied buffers, to be handed back to those who write.
#[derive(Default)]
struct Spares(Vec<Vec<u8>>);

impl Spares {
    fn keep(&mut self, buffer: Option<Vec<u8>>) {
        if let Some(mut buffer) = buffer
            && self.0.len() < SPARES_MAX
            && buffer.capacity() <= SPARE_BYTES_MAX
        {
            buffer.clear();
            self.0.push(buffer);
        }
    }
}

struct Incoming {
    window: ReceiveWindow,
    /// END or RESET has come.
    is_over: bool,
    /// A STOP to be sent; then the stream is forgotten.
    stop: Option<u16>,
}

/// The bulk streams of one connection.
#[derive(Default)]
pub(crate) struct BulkStreams {
    outgoing: BTreeMap<u32, Outgoing>,
    incoming: BTreeMap<u32, Incoming>,
    /// The outgoing stream that was served last.
    turn: u32,
    spares: Spares,
}

impl BulkStreams {
    pub(crate) fn is_empty(&self) -> bool {
        self.outgoing.is_empty() && self.incoming.is_empty()
    }

    /// Bytes that wait to be sent.
    pub(crate) fn bytes(&self) -> usize {
        self.outgoing.values().map(|stream| stream.bytes).sum()
    }

    /// Frees the memory that is kept for the next use.
    pub(crate) fn shed(&mut self) {
        self.spares = Spares::default();
    }

    /// Bytes of memory held, roughly.
    pub(crate) fn heap_bytes(&self) -> usize {
        let chunks = |stream: &Outgoing| stream.data.iter().map(Vec::capacity).sum::<usize>();
        let data: usize = self.outgoing.values().map(chunks).sum();
        let spares: usize = self.spares.0.iter().map(Vec::capacity).sum();
        data + spares
            + self.outgoing.len() * (size_of::<Outgoing>() + 32)
            + self.incoming.len() * (size_of::<Incoming>() + 16)
    }

    pub(crate) fn outgoing_count(&self) -> usize {
        self.outgoing.len()
    }

    pub(crate) fn open(&mut self, id: u32, channel: u8, header: &[u8], window: u32) {
        let mut open = Vec::new();
        put_record(
            &mut open,
            BULK_OPEN,
            &[&id.to_be_bytes(), &[channel], header],
        );
        let stream = Outgoing {
            open: Some(open.into_boxed_slice()),
            data: VecDeque::new(),
            head: 0,
            bytes: 0,
            window: SendWindow::new(window),
            ending: Ending::Open,
            was_full: false,
        };
        self.outgoing.insert(id, stream);
    }

    /// Queues data and puts an empty buffer in its place. `None` if there is no such stream or it was ended; `Some(false)` if it has no room.
    pub(crate) fn write(&mut self, id: u32, data: &mut Vec<u8>, high: usize) -> Option<bool> {
        let stream = self.outgoing.get_mut(&id)?;
        if stream.ending != Ending::Open {
            return None;
        }
        if stream.bytes >= high {
            stream.was_full = true;
            return Some(false);
        }
        stream.bytes += data.len();
        if let Some(last) = stream.data.back_mut()
            && last.len() + data.len() <= COLLECTED_MAX
        {
            last.append(data);
        } else if !data.is_empty() {
            let empty = self.spares.0.pop().unwrap_or_default();
            stream.data.push_back(std::mem::replace(data, empty));
        }
        Some(true)
    }

    /// Ends our stream after what is queued. `false` if there is no such stream.
    pub(crate) fn end(&mut self, id: u32) -> bool {
        let open = |stream: &&mut Outgoing| stream.ending == Ending::Open;
        let Some(stream) = self.outgoing.get_mut(&id).filter(open) else {
            return false;
        };
        stream.ending = Ending::End;
        true
    }

    /// Gives our stream up. `false` if there is no such stream.
    pub(crate) fn reset(&mut self, id: u32, code: u16) -> bool {
        let unsent = |stream: &&mut Outgoing| stream.ending != Ending::Sent;
        let Some(stream) = self.outgoing.get_mut(&id).filter(unsent) else {
            return false;
        };
        stream.drop_data();
        stream.ending = Ending::Reset(code);
        true
    }

    /// Tells the peer that no more of its stream is wanted. `false` if there is no such stream.
    pub(crate) fn stop(&mut self, id: u32, code: u16) -> bool {
        let Some(stream) = self.incoming.get_mut(&id) else {
            return false;
        };
        stream.stop = stream.stop.or(Some(code));
        true
    }

    /// The owner is done with bytes of the peer's stream.
    pub(crate) fn consumed(&mut self, id: u32, window: u32, bytes: u32) {
        if let Some(stream) = self.incoming.get_mut(&id) {
            stream.window.consume(window, &mut 0, bytes);
            stream.finish(window);
        }
    }

    pub(crate) fn handle_open(&mut self, id: u32, window: u32, max: u16) -> Result<(), Fault> {
        if self.incoming.len() >= usize::from(max) {
            return Err(Fault::Stream(id));
        }
        let stream = Incoming {
            window: ReceiveWindow::new(window),
            is_over: false,
            stop: None,
        };
        self.incoming.insert(id, stream);
        Ok(())
    }

    /// Counts data that came in. `Ok(false)` means that the stream was stopped and the data is for nobody.
    pub(crate) fn handle_data(&mut self, id: u32, bytes: usize) -> Result<bool, Fault> {
        let Some(stream) = self.incoming.get_mut(&id) else {
            return Ok(false);
        };
        if stream.is_over {
            return Err(Fault::Stream(id));
        }
        stream.window.receive(StreamId(id), bytes)?;
        Ok(stream.stop.is_none())
    }

    /// The peer's stream is over. `Ok(false)` means that it was stopped before.
    pub(crate) fn handle_over(&mut self, id: u32, window: u32) -> Result<bool, Fault> {
        let Some(stream) = self.incoming.get_mut(&id) else {
            return Ok(false);
        };
        if std::mem::replace(&mut stream.is_over, true) {
            return Err(Fault::Stream(id));
        }
        let is_wanted = stream.stop.is_none();
        stream.finish(window);
        Ok(is_wanted)
    }

    /// The peer is done with our stream. `Err` if there is none.
    pub(crate) fn handle_stop(&mut self, id: u32) -> Result<(), Fault> {
        match self.outgoing.remove(&id) {
            Some(stream) if stream.open.is_none() => Ok(()),
            _ => Err(Fault::Stream(id)),
        }
    }

    /// Lets us send more. Grants for streams that are gone are passed over.
    pub(crate) fn handle_grant(&mut self, id: u32, bytes: u32) -> Result<(), Fault> {
        match self.outgoing.get_mut(&id) {
            Some(stream) => stream.window.grant(bytes),
            None => Ok(()),
        }
    }

    /// Packs what the streams have to tell: grants and stops.
    pub(crate) fn pack_control(&mut self, out: &mut Vec<u8>, end: usize, window: u32) {
        self.incoming.retain(|id, stream| {
            if out.len() + SMALL_RECORD_MAX > end {
                return true;
            }
            if let Some(code) = stream.stop {
                put_record(out, BULK_STOP, &[&id.to_be_bytes(), &code.to_be_bytes()]);
                return false;
            }
            if !stream.is_over && stream.window.is_grant_due(window, 0) {
                let grant = stream.window.take_grant();
                put_record(out, WINDOW, &[&id.to_be_bytes(), &grant.to_be_bytes()]);
            }
            true
        });
    }

    /// Packs data, a record of each stream in turn, until `out` would grow beyond `end`. With `one`, a single record.
    pub(crate) fn pack(&mut self, out: &mut Vec<u8>, end: usize, one: bool) {
        loop {
            let after = self.outgoing.range_mut(self.turn + 1..);
            let mut ready = after.filter(|(_, stream)| stream.is_ready());
            let Some((&id, stream)) = ready.next() else {
                drop(ready);
                // From the first stream on again, unless none at all is ready.
                if self.turn == 0 || !self.is_ready() {
                    return;
                }
                self.turn = 0;
                continue;
            };
            if !stream.pack(id, out, end - out.len(), &mut self.spares) {
                return;
            }
            self.turn = id;
            if one || out.len() + SMALL_RECORD_MAX > end {
                return;
            }
        }
    }

    /// Whether there is data that could be sent now.
    pub(crate) fn is_ready(&self) -> bool {
        self.outgoing.values().any(Outgoing::is_ready)
    }

    /// A stream that was full and has room again. Says so once for each.
    pub(crate) fn take_writable(&mut self, low: usize) -> Option<StreamId> {
        let is_writable = |stream: &Outgoing| stream.was_full && stream.bytes <= low;
        let (&id, stream) = self
            .outgoing
            .iter_mut()
            .find(|(_, stream)| is_writable(stream))?;
        stream.was_full = false;
        Some(StreamId(id))
    }

    /// Drops all data that waits.
    pub(crate) fn clear(&mut self) {
        *self = BulkStreams::default();
    }
}

impl Incoming {
    fn finish(&mut self, window: u32) {
        if self.is_over && self.window.held(window) == 0 {
            self.stop = self.stop.or(Some(0));
        }
    }
}
