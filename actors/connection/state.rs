//! What a connection consists of, besides its ciphers and windows.

use std::ops::Deref;

use mischief_reactor::Instant;

use super::bulk::BulkStreams;
use super::config::{Config, MESSAGE_MAX_TRUSTED};
use super::error::{CloseCode, Error};
use super::frame::Partial;
use super::handshake::{Authenticated, Handshake};
use super::machine::Connection;
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

/// What is counted over the life of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tally {
    /// Bytes received from the transport.
    BytesIn = 0,
    /// Bytes handed out for the transport.
    BytesOut,
    /// Application messages received.
    MessagesIn,
    /// Application messages sent.
    MessagesOut,
}

impl Tally {
    pub(crate) const COUNT: usize = 4;
}

/// What the peer allows us.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct PeerLimits {
    pub(crate) message_max: u32,
    pub(crate) window: u32,
    pub(crate) bulk_streams_max: u16,
}

impl PeerLimits {
    /// What a peer with the same configuration allows.
    pub(crate) fn like(config: &Config) -> PeerLimits {
        PeerLimits {
            message_max: config.limits.message_max.min(MESSAGE_MAX_TRUSTED),
            window: config.limits.window,
            bulk_streams_max: config.limits.bulk_streams_max,
        }
    }
}

/// Both windows of a stream of messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MessageStream {
    pub(crate) send: SendWindow,
    pub(crate) receive: ReceiveWindow,
}

impl MessageStream {
    /// A stream on which nothing has been sent, whose windows are those of the peer and ours.
    pub(crate) fn new(peer: u32, own: u32) -> MessageStream {
        MessageStream {
            send: SendWindow::new(peer),
            receive: ReceiveWindow::new(own),
        }
    }
}

/// What most connections have as nearly all others have it: none of this is allocated as long as it is as
/// [`Seldom::new`] makes it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Seldom {
    pub(crate) gossip: MessageStream,
    /// Bytes granted beyond the window for the sake of a large message, for each stream of messages.
    pub(crate) overdrafts: [u32; 2],
    pub(crate) peer: PeerLimits,
    /// The largest body that is taken from the peer.
    pub(crate) message_max: u32,
    pub(crate) bulk_opened: u32,
    pub(crate) bulk_seen: u32,
    /// The token of the PONG that is due; afterwards 0.
    pub(crate) pong: u32,
    /// The upper halves of `Connection::tally`.
    pub(crate) tally_high: [u32; Tally::COUNT],
}

impl Seldom {
    pub(crate) fn new(config: &Config) -> Seldom {
        let peer = PeerLimits::like(config);
        Seldom {
            gossip: MessageStream::new(peer.window, config.limits.window),
            overdrafts: [0; 2],
            peer,
            message_max: peer.message_max,
            bulk_opened: 0,
            bulk_seen: 0,
            pong: 0,
            tally_high: [0; Tally::COUNT],
        }
    }
}

impl Connection {
    pub(crate) fn seldom(&mut self) -> &mut Seldom {
        self.phase.make_seldom(&self.config)
    }

    /// Frees what is as everywhere else again.
    pub(crate) fn forget_seldom(&mut self) {
        self.phase.shrink(&self.config);
    }

    pub(crate) fn set_phase(&mut self, phase: Phase) {
        self.phase.set(phase, &self.config);
    }

    #[inline]
    pub(crate) fn stream(&mut self, index: usize) -> &mut MessageStream {
        if index == APPLICATION {
            &mut self.application
        } else {
            &mut self.seldom().gossip
        }
    }

    pub(crate) fn overdraft(&self, index: usize) -> u32 {
        let seldom = self.phase.seldom();
        seldom.map_or(0, |seldom| seldom.overdrafts[index])
    }

    /// The largest body that is taken from the peer.
    pub(crate) fn message_max(&self) -> u32 {
        let usual = self.config.limits.message_max.min(MESSAGE_MAX_TRUSTED);
        let seldom = self.phase.seldom();
        seldom.map_or(usual, |seldom| seldom.message_max)
    }

    /// What the peer allows us.
    #[inline]
    pub(crate) fn peer_limits(&self) -> PeerLimits {
        match self.phase.seldom() {
            Some(seldom) => seldom.peer,
            None => PeerLimits::like(&self.config),
        }
    }

    /// Bulk streams opened by us and by the peer.
    pub(crate) fn bulk_counts(&self) -> (u32, u32) {
        let seldom = self.phase.seldom();
        seldom.map_or((0, 0), |seldom| (seldom.bulk_opened, seldom.bulk_seen))
    }
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

/// The phase, and what is seldom needed. An open connection with nothing special about it, as nearly all are, has no
/// memory for either.
pub(crate) struct Standing(Option<Box<Apart>>);

struct Apart {
    phase: Phase,
    seldom: Seldom,
}

impl Standing {
    pub(crate) fn new(phase: Phase, config: &Config) -> Standing {
        let mut standing = Standing(None);
        standing.set(phase, config);
        standing
    }

    #[inline]
    pub(crate) fn is_open(&self) -> bool {
        matches!(**self, Phase::Open)
    }

    /// The phase, to be changed from within, unless it is [`Phase::Open`].
    pub(crate) fn as_mut(&mut self) -> Option<&mut Phase> {
        let phase = self.0.as_mut().map(|apart| &mut apart.phase);
        phase.filter(|phase| !matches!(phase, Phase::Open))
    }

    pub(crate) fn set(&mut self, phase: Phase, config: &Config) {
        self.apart(config).phase = phase;
        self.shrink(config);
    }

    /// Takes the phase out, for another to be put in.
    pub(crate) fn take(&mut self) -> Phase {
        let apart = self.0.as_mut();
        apart.map_or(Phase::Open, |apart| {
            std::mem::replace(&mut apart.phase, Phase::Open)
        })
    }

    pub(crate) fn seldom(&self) -> Option<&Seldom> {
        self.0.as_ref().map(|apart| &apart.seldom)
    }

    pub(crate) fn seldom_mut(&mut self) -> Option<&mut Seldom> {
        self.0.as_mut().map(|apart| &mut apart.seldom)
    }

    pub(crate) fn make_seldom(&mut self, config: &Config) -> &mut Seldom {
        &mut self.apart(config).seldom
    }

    /// Frees the memory if nothing is special.
    pub(crate) fn shrink(&mut self, config: &Config) {
        let is_usual = |apart: &mut Box<Apart>| {
            matches!(apart.phase, Phase::Open) && apart.seldom == Seldom::new(config)
        };
        self.0.take_if(is_usual);
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |_| size_of::<Apart>())
    }

    fn apart(&mut self, config: &Config) -> &mut Apart {
        self.0.get_or_insert_with(|| {
            Box::new(Apart {
                phase: Phase::Open,
                seldom: Seldom::new(config),
            })
        })
    }
}

impl Deref for Standing {
    type Target = Phase;

    #[inline]
    fn deref(&self) -> &Phase {
        self.0.as_ref().map_or(&Phase::Open, |apart| &apart.phase)
    }
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

    pub(crate) fn shed(&mut self) {
        self.control.shed();
        self.queues.iter_mut().for_each(RecordQueue::shed);
        self.bulk.shed();
        self.spare_body = Vec::new();
    }

    /// What waits to be sent, in bytes of memory.
    pub(crate) fn sending_bytes(&self) -> usize {
        let queues: usize = self.queues.iter().map(RecordQueue::heap_bytes).sum();
        self.control.heap_bytes() + queues + self.bulk.heap_bytes()
    }

    /// What has come and is not whole, in bytes of memory.
    pub(crate) fn partial_bytes(&self) -> usize {
        let reassembly = self.reassembly.iter().flatten();
        let reassembly: usize = reassembly.map(Reassembly::heap_bytes).sum();
        self.partial.heap_bytes() + reassembly + self.spare_body.capacity()
    }
}
