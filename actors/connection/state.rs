//! What a connection consists of, besides its ciphers and windows.

use mischief_reactor::Instant;

use super::bulk::BulkStreams;
use super::error::{CloseCode, Error};
use super::frame::Partial;
use super::handshake::{Authenticated, Handshake};
use super::queue::RecordQueue;
use super::reassembly::Reassembly;
use super::stream::{ReceiveWindow, SendWindow, StreamId};

/// Things to be said or told, once each, a bit for each.
#[derive(Clone, Copy, Default)]
pub(crate) struct Due(u16);

impl Due {
    pub(crate) const ACCEPT: u16 = 1;
    pub(crate) const LIMITS: u16 = 1 << 1;
    pub(crate) const PONG: u16 = 1 << 2;
    pub(crate) const OPENED: u16 = 1 << 3;
    pub(crate) const CLOSED: u16 = 1 << 4;
    pub(crate) const SHUTDOWN: u16 = 1 << 5;
    pub(crate) const FINISHED: u16 = 1 << 6;
    pub(crate) const ABORT: u16 = 1 << 7;
    pub(crate) const MESSAGE_MAX: u16 = 1 << 8;
    /// Records that wait to be written.
    pub(crate) const RECORDS: u16 = Due::ACCEPT | Due::LIMITS | Due::PONG;

    pub(crate) fn set(&mut self, flag: u16) {
        self.0 |= flag;
    }

    #[inline]
    pub(crate) fn has_any(self, flags: u16) -> bool {
        self.0 & flags != 0
    }

    #[inline]
    pub(crate) fn take(&mut self, flag: u16) -> bool {
        let had = self.has_any(flag);
        self.0 &= !flag;
        had
    }
}

/// What the peer allows us.
#[derive(Clone, Copy, Default)]
pub(crate) struct PeerLimits {
    pub(crate) message_max: u32,
    pub(crate) window: u32,
    pub(crate) bulk_streams_max: u16,
}

/// Both windows of a stream of messages.
#[derive(Clone, Copy, Default)]
pub(crate) struct MessageStream {
    pub(crate) send: SendWindow,
    pub(crate) receive: ReceiveWindow,
}

pub(crate) const APPLICATION: usize = 0;
pub(crate) const GOSSIP: usize = 1;
pub(crate) const STREAM_IDS: [StreamId; 2] = [StreamId::APPLICATION, StreamId::GOSSIP];

pub(crate) enum Phase {
    /// Up to the keys; for a dialler this includes the owner's verdict.
    Handshake(Box<Handshaking>),
    /// A responder's owner is deciding.
    Verdict(Option<Box<Authenticated>>),
    /// A dialler awaits the responder's first frame. Its own message 3 is here until it is handed out.
    AwaitAccept(Option<Box<Unsent>>),
    Open,
    /// What is queued is still sent, then the last words.
    Closing(Box<End>),
    /// The last words are handed out; the peer's end is awaited.
    Lingering(Box<End>),
    Over(Box<End>),
}

pub(crate) struct Handshaking {
    pub(crate) handshake: Handshake,
    pub(crate) authenticated: Option<Box<Authenticated>>,
}

pub(crate) struct Unsent {
    pub(crate) bytes: Vec<u8>,
}

pub(crate) struct End {
    pub(crate) error: Error,
    pub(crate) last_words: LastWords,
}

pub(crate) enum LastWords {
    /// Preface and `Reject`.
    Clear(Vec<u8>),
    Close(CloseCode, Box<str>),
}

/// What only a connection needs that is doing something. Allocated when needed and dropped some time after.
#[derive(Default)]
pub(crate) struct Active {
    pub(crate) used_at: Instant,
    pub(crate) partial: Partial,
    pub(crate) control: RecordQueue,
    pub(crate) queues: [RecordQueue; 2],
    pub(crate) reassembly: [Option<Reassembly>; 2],
    pub(crate) bulk: BulkStreams,
    /// An empty buffer for the next large message.
    pub(crate) spare_body: Vec<u8>,
    /// Frames in a row for which a lower class had to wait.
    pub(crate) passed_over: u8,
    /// A large message waits for the node's budget.
    pub(crate) is_starved: bool,
}

impl Active {
    pub(crate) fn is_idle(&self) -> bool {
        self.partial.is_empty()
            && self.control.bytes() == 0
            && self.queues.iter().all(|queue| queue.bytes() == 0)
            && self.reassembly.iter().all(Option::is_none)
            && self.bulk.is_empty()
    }

    pub(crate) fn clear_queues(&mut self) {
        self.control.clear();
        self.queues.iter_mut().for_each(RecordQueue::clear);
        self.bulk.clear();
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        let queues: usize = self.queues.iter().map(RecordQueue::heap_bytes).sum();
        let reassembly = self.reassembly.iter().flatten();
        let reassembly: usize = reassembly.map(Reassembly::heap_bytes).sum();
        size_of::<Active>()
            + self.partial.heap_bytes()
            + self.control.heap_bytes()
            + queues
            + reassembly
            + self.bulk.heap_bytes()
            + self.spare_body.capacity()
    }
}
