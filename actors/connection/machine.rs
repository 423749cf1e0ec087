//! The whole machine, [`Connection`]: what comes in, what goes out, and when to look again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mischief_reactor::{Instant, Random};

use super::bulk::{BulkEvent, BulkStreams};
use super::cipher::{CipherState, KEY_BYTES, Suite};
use super::config::{Config, MESSAGE_MAX_TRUSTED};
use super::error::{CloseCode, Error, Fault, RejectCode, Stage, cut_reason};
use super::frame::Partial;
use super::handshake::{Authenticated, Failure, Handshake, Keys, Outcome};
use super::liveness::{KeepAlive, Look, Rtt, RttEstimator};
use super::noise::Role;
use super::queue::RecordQueue;
use super::reassembly::{Reassembly, SPARE_BYTES_MAX};
use super::record::{
    BULK_HEADER_MAX, CONTROL, CONTROL_BODY_MAX, ChannelMessage, Class, EncodeError, Encoded, Kind,
    Label, LargeMessage, MESSAGE_JSON, Records, check_outgoing, put_record,
};
use super::stream::{ReceiveWindow, SendWindow, StreamId};
use crate::identity::PeerId;

/// Bytes of control messages that may wait.
pub const CONTROL_QUEUE_MAX: usize = 16 * 1024;
/// How often a message that waits for the node's budget asks again.
pub(crate) const STARVED_RETRY: Duration = Duration::from_millis(100);
/// Types on the gossip stream begin here.
const GOSSIP_BASE: u8 = MESSAGE_JSON + 0x10;

/// Takes what a connection receives. Everything is borrowed from the bytes that were handed in, and is to be used or
/// copied before the call returns.
pub trait Sink {
    /// A run of whole application messages, in order. Give the length back with [`Connection::consumed`] on
    /// [`StreamId::APPLICATION`] as they are done with.
    fn records(&mut self, records: Records<'_>);
    /// An application message that came in several records, in order with the others.
    fn large(&mut self, message: LargeMessage);
    /// A subsystem's message.
    fn channel(&mut self, message: ChannelMessage<'_>);
    /// Something on a bulk stream. Ids of streams that the peer opened and of our own are counted apart.
    fn bulk(&mut self, stream: StreamId, event: BulkEvent<'_>);
}

/// What has become of a connection. To be asked for with [`Connection::poll_event`] after each call that changes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The peer has proved who it is. The owner answers with [`Connection::accept`] or [`Connection::close`]; until then
    /// nothing more happens. For a dialler this comes before it has shown who it is itself.
    Authenticated(Box<Authenticated>),
    /// Both sides want the connection. From now on messages are taken and delivered.
    Opened,
    /// A queue that was full has room again.
    Drained(Class),
    /// A bulk stream that was full has room again.
    BulkWritable(StreamId),
    /// The connection is over, and why. Comes once, whatever the reason; nothing is delivered any longer.
    Closed(Error),
    /// Everything was handed out. When it is written, the writing half of the transport is to be shut down.
    ShutdownWrite,
    /// The transport is to be closed now; with `abort`, without waiting for what is unsent. The last event.
    Finished {
        /// Whether to reset the transport.
        abort: bool,
    },
}

/// A message that was queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The message is on its way when [`Connection::handed_over`] has reached this.
    pub end: u64,
}

/// Why something was not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QueueError {
    /// The connection is not open yet, or no longer.
    #[error("the connection is not open")]
    NotOpen,
    /// The queue is at its high mark; [`Event::Drained`] or [`Event::BulkWritable`] will tell when to try again.
    #[error("the queue for this peer is full")]
    Full,
    /// The peer does not take messages of this size.
    #[error("a message of {size} bytes, the peer takes {max}")]
    TooLarge {
        /// Bytes of the body.
        size: usize,
        /// What the peer allows.
        max: u32,
    },
    /// Nobody would take it.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The peer allows no more bulk streams at once, or there is no such stream.
    #[error("no such bulk stream, or too many at once")]
    Stream,
}

/// One side of a connection.
///
/// The machine opens no socket and reads no clock. Its owner hands in bytes and the time, and after each call takes out
/// what there is: [`Connection::poll_transmit`] once a turn, [`Connection::poll_event`] until `None`, and then sleeps
/// until [`Connection::poll_timeout`].
pub struct Connection {
    pub(crate) config: Arc<Config>,
    pub(crate) phase: Phase,
    pub(crate) active: Option<Box<Active>>,
    pub(crate) send: CipherState,
    pub(crate) receive: CipherState,
    /// The deadline of the phase; when open, when to look at the clock again.
    pub(crate) check_at: Instant,
    pub(crate) alive: KeepAlive,
    /// Bytes of application records queued so far.
    pub(crate) queued: u64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) rtt: RttEstimator,
    pub(crate) streams: [MessageStream; 2],
    /// Seconds of the clock, to save four bytes.
    pub(crate) rekeyed_at: u32,
    pub(crate) frames_since_rekey: u32,
    /// The token of the PONG that is due.
    pub(crate) pong: u32,
    pub(crate) message_max: u32,
    pub(crate) peer: PeerLimits,
    pub(crate) bulk_opened: u32,
    pub(crate) bulk_seen: u32,
    pub(crate) role: Role,
    pub(crate) suite: Suite,
    pub(crate) due: Due,
}

/// Things to be said or told, once each, in a byte.
#[derive(Clone, Copy, Default)]
pub(crate) struct Due(u8);

impl Due {
    pub(crate) const ACCEPT: u8 = 1;
    pub(crate) const LIMITS: u8 = 1 << 1;
    pub(crate) const PONG: u8 = 1 << 2;
    const OPENED: u8 = 1 << 3;
    const CLOSED: u8 = 1 << 4;
    const SHUTDOWN: u8 = 1 << 5;
    const FINISHED: u8 = 1 << 6;
    const ABORT: u8 = 1 << 7;
    /// Records that wait to be written.
    pub(crate) const RECORDS: u8 = Due::ACCEPT | Due::LIMITS | Due::PONG;

    pub(crate) fn set(&mut self, flag: u8) {
        self.0 |= flag;
    }

    #[inline]
    pub(crate) fn has_any(self, flags: u8) -> bool {
        self.0 & flags != 0
    }

    #[inline]
    pub(crate) fn take(&mut self, flag: u8) -> bool {
        let had = self.has_any(flag);
        self.0 &= !flag;
        had
    }
}

/// What the peer allows us.
#[derive(Clone, Copy, Default)]
pub(crate) struct PeerLimits {
    pub(crate) message_max: u32,
    window: u32,
    bulk_streams_max: u16,
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
    handshake: Handshake,
    authenticated: Option<Box<Authenticated>>,
}

pub(crate) struct Unsent {
    pub(crate) bytes: Vec<u8>,
}

pub(crate) struct End {
    error: Error,
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
    fn is_idle(&self) -> bool {
        self.partial.is_empty()
            && self.control.bytes() == 0
            && self.queues.iter().all(|queue| queue.bytes() == 0)
            && self.reassembly.iter().all(Option::is_none)
            && self.bulk.is_empty()
    }

    fn clear_queues(&mut self) {
        self.control.clear();
        self.queues.iter_mut().for_each(RecordQueue::clear);
        self.bulk.clear();
    }

    fn heap_bytes(&self) -> usize {
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

impl Connection {
    /// Begins a connection that this node has dialled. `expected`: who has to answer. `remote`: the address dialled,
    /// which the peer is told. Draws 32 bytes from `random` for the ephemeral key.
    pub fn dialler(
        config: &Arc<Config>,
        now: Instant,
        random: &mut dyn Random,
        expected: Option<PeerId>,
        remote: Option<SocketAddr>,
    ) -> Connection {
        let handshake = Handshake::dialler(config, random, expected, remote);
        Connection::new(config, now, Role::Dialler, handshake)
    }

    /// Begins a connection that this node has accepted from `remote`.
    pub fn responder(
        config: &Arc<Config>,
        now: Instant,
        random: &mut dyn Random,
        remote: Option<SocketAddr>,
    ) -> Connection {
        let handshake = Handshake::responder(random, remote);
        Connection::new(config, now, Role::Responder, handshake)
    }

    fn new(config: &Arc<Config>, now: Instant, role: Role, handshake: Handshake) -> Connection {
        let handshaking = Handshaking {
            handshake,
            authenticated: None,
        };
        Connection {
            config: Arc::clone(config),
            phase: Phase::Handshake(Box::new(handshaking)),
            active: None,
            send: CipherState::new(&[0; KEY_BYTES]),
            receive: CipherState::new(&[0; KEY_BYTES]),
            rekeyed_at: 0,
            check_at: now + config.timing.handshake,
            alive: KeepAlive::new(now),
            queued: 0,
            bytes_in: 0,
            bytes_out: 0,
            rtt: RttEstimator::default(),
            streams: [MessageStream::default(); 2],
            frames_since_rekey: 0,
            pong: 0,
            message_max: config.limits.message_max.min(MESSAGE_MAX_TRUSTED),
            peer: PeerLimits::default(),
            bulk_opened: 0,
            bulk_seen: 0,
            role,
            suite: Suite::ChaChaPoly,
            due: Due::default(),
        }
    }

    /// Takes bytes from the transport, in any portions. They are decrypted in place; what `sink` gets is borrowed from
    /// them. All of them are taken.
    pub fn handle_bytes(&mut self, now: Instant, bytes: &mut [u8], sink: &mut dyn Sink) {
        self.bytes_in += bytes.len() as u64;
        let mut input = bytes;
        if let Phase::Handshake(_) = self.phase {
            let mut view = &*input;
            self.handle_handshake(now, &mut view);
            let used = input.len() - view.len();
            input = &mut input[used..];
        }
        if let Err(error) = self.handle_frames(now, input, sink) {
            self.fail(now, error);
        }
    }

    /// The peer has shut down its writing half, or the transport is gone.
    pub fn handle_eof(&mut self) {
        match self.phase {
            Phase::Over(_) => {}
            Phase::Closing(_) | Phase::Lingering(_) => self.finish(false),
            _ => self.end(Error::Lost),
        }
    }

    /// To be called when [`Connection::poll_timeout`] has come. Earlier calls do nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        if now < self.check_at {
            return;
        }
        match self.phase {
            Phase::Handshake(_) | Phase::Verdict(_) | Phase::AwaitAccept(_) => {
                self.refuse(now, Error::TimedOut(Stage::Handshake), RejectCode::TimedOut);
            }
            Phase::Open => self.look_around(now),
            Phase::Closing(_) | Phase::Lingering(_) => self.finish(true),
            Phase::Over(_) => {}
        }
    }

    /// When to call [`Connection::handle_timeout`]. `None`: never again.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.phase {
            Phase::Over(_) => None,
            _ => Some(self.check_at),
        }
    }

    /// What has happened. To be called until `None`.
    pub fn poll_event(&mut self) -> Option<Event> {
        let authenticated = match &mut self.phase {
            Phase::Handshake(handshaking) => handshaking.authenticated.take(),
            Phase::Verdict(authenticated) => authenticated.take(),
            _ => None,
        };
        if let Some(authenticated) = authenticated {
            return Some(Event::Authenticated(authenticated));
        }
        if self.due.take(Due::OPENED) {
            return Some(Event::Opened);
        }
        if let Phase::Open = self.phase
            && let Some(event) = self.poll_queues()
        {
            return Some(event);
        }
        if self.due.take(Due::CLOSED) {
            let error = self.error().expect("it is over");
            return Some(Event::Closed(error.clone()));
        }
        if self.due.take(Due::SHUTDOWN) {
            return Some(Event::ShutdownWrite);
        }
        if self.due.take(Due::FINISHED) {
            let abort = self.due.has_any(Due::ABORT);
            return Some(Event::Finished { abort });
        }
        None
    }

    fn poll_queues(&mut self) -> Option<Event> {
        let limits = &self.config.limits;
        let active = self.active.as_mut()?;
        let [application, gossip] = &mut active.queues;
        if application.take_drained(limits.send_queue_low) {
            return Some(Event::Drained(Class::Application));
        }
        if gossip.take_drained(limits.gossip_queue_high / 2) {
            return Some(Event::Drained(Class::Gossip));
        }
        if active.control.take_drained(CONTROL_QUEUE_MAX / 2) {
            return Some(Event::Drained(Class::Control));
        }
        let writable = active.bulk.take_writable(limits.bulk_queue_high / 2);
        writable.map(Event::BulkWritable)
    }

    /// The owner wants the peer that [`Event::Authenticated`] named. A responder's connection is open then; a dialler's
    /// when the responder has accepted as well.
    pub fn accept(&mut self, now: Instant) {
        match &mut self.phase {
            Phase::Handshake(handshaking) if handshaking.handshake.is_answered() => {
                match handshaking.handshake.accept(&self.config) {
                    Ok(keys) => self.install(now, keys),
                    Err(failure) => self.handshake_failed(now, &failure),
                }
            }
            Phase::Verdict(_) => {
                self.due.set(Due::ACCEPT);
                self.open(now);
            }
            // It has ended while the owner was deciding.
            _ => {}
        }
    }

    /// Says goodbye: what is queued is sent first, within [`ConnectionTiming::close`](super::ConnectionTiming::close).
    /// Before the connection is open this refuses the peer. Reasons are cut to 256 bytes.
    pub fn close(&mut self, now: Instant, code: CloseCode, reason: &str) {
        let error = Error::ClosedHere {
            code,
            reason: cut_reason(reason).to_owned(),
        };
        match self.phase {
            Phase::Closing(_) | Phase::Lingering(_) | Phase::Over(_) => {}
            Phase::Handshake(_) => self.refuse(now, error, code.as_reject()),
            // The responder does not have message 3 yet, so it could not read a frame.
            Phase::AwaitAccept(Some(_)) => {
                self.leave(now, error, vec![0, 0, code.as_reject().number()]);
            }
            _ => {
                let words = LastWords::Close(code, cut_reason(reason).into());
                self.start_closing(now, error, words);
            }
        }
    }

    /// Queues an application message, whole or not at all.
    #[inline]
    pub fn send(&mut self, kind: Kind, name: &str, body: &[u8]) -> Result<Accepted, QueueError> {
        check_outgoing(kind, name, body)?;
        self.check_size(body.len())?;
        let high = self.config.limits.send_queue_high;
        let queue = &mut self.open_active()?.queues[APPLICATION];
        if !queue.has_room(high) {
            return Err(QueueError::Full);
        }
        let added = queue.append_message(MESSAGE_JSON, Label::Name(kind, name), body);
        self.queued += added as u64;
        Ok(Accepted { end: self.queued })
    }

    /// Queues application messages that were encoded elsewhere, all or none. Gives them back if they are refused.
    pub fn queue_encoded(&mut self, encoded: Encoded) -> Result<Accepted, (QueueError, Encoded)> {
        if let Err(error) = self.check_size(encoded.body_max as usize) {
            return Err((error, encoded));
        }
        let high = self.config.limits.send_queue_high;
        let queue = match self.open_active() {
            Ok(active) => &mut active.queues[APPLICATION],
            Err(error) => return Err((error, encoded)),
        };
        if !queue.has_room(high) {
            return Err((QueueError::Full, encoded));
        }
        let length = encoded.len() as u64;
        if length > 0 {
            queue.append_encoded(encoded);
        }
        self.queued += length;
        Ok(Accepted { end: self.queued })
    }

    /// An emptied buffer of an earlier [`Connection::queue_encoded`], to be filled again.
    pub fn reclaim(&mut self) -> Option<Encoded> {
        self.active.as_mut()?.queues[APPLICATION].reclaim()
    }

    /// Queues a subsystem's message. Control messages have at most 1 KiB and are held back by no window;
    /// [`Class::Bulk`] has streams instead.
    pub fn send_channel(
        &mut self,
        class: Class,
        channel: u8,
        body: &[u8],
    ) -> Result<Accepted, QueueError> {
        let limits = self.config.limits;
        let too_large = |max: usize| QueueError::TooLarge {
            size: body.len(),
            max: max as u32,
        };
        let (index, base, high) = match class {
            Class::Control => {
                if body.len() > CONTROL_BODY_MAX {
                    return Err(too_large(CONTROL_BODY_MAX));
                }
                let queue = &mut self.open_active()?.control;
                if !queue.has_room(CONTROL_QUEUE_MAX) {
                    return Err(QueueError::Full);
                }
                queue.append(|out| put_record(out, CONTROL, &[&[channel], body]));
                return Ok(Accepted { end: self.queued });
            }
            Class::Application => (APPLICATION, MESSAGE_JSON, limits.send_queue_high),
            Class::Gossip => (GOSSIP, GOSSIP_BASE, limits.gossip_queue_high),
            Class::Bulk => return Err(QueueError::Stream),
        };
        self.check_size(body.len())?;
        let queue = &mut self.open_active()?.queues[index];
        if !queue.has_room(high) {
            return Err(QueueError::Full);
        }
        let added = queue.append_message(base, Label::Channel(channel), body);
        if index == APPLICATION {
            self.queued += added as u64;
        }
        Ok(Accepted { end: self.queued })
    }

    /// Opens a bulk stream to the peer. `header`: up to 1 KiB that the other subsystem reads first.
    pub fn open_bulk(&mut self, channel: u8, header: &[u8]) -> Result<StreamId, QueueError> {
        if header.len() > BULK_HEADER_MAX {
            return Err(QueueError::TooLarge {
                size: header.len(),
                max: BULK_HEADER_MAX as u32,
            });
        }
        let (limits, opened) = (self.peer, self.bulk_opened);
        let id = StreamId::BULK_FIRST.0.checked_add(opened);
        let id = id.ok_or(QueueError::Stream)?;
        let bulk = &mut self.open_active()?.bulk;
        if bulk.outgoing_count() >= usize::from(limits.bulk_streams_max) {
            return Err(QueueError::Stream);
        }
        bulk.open(id, channel, header, limits.window);
        self.bulk_opened += 1;
        Ok(StreamId(id))
    }

    /// Queues data on a bulk stream, all of it while the stream's queue is below its high mark. If it was taken, `data`
    /// is left as an empty buffer, often one with memory that was used before.
    pub fn write_bulk(&mut self, stream: StreamId, data: &mut Vec<u8>) -> Result<(), QueueError> {
        let high = self.config.limits.bulk_queue_high;
        match self.open_active()?.bulk.write(stream.0, data, high) {
            Some(true) => Ok(()),
            Some(false) => Err(QueueError::Full),
            None => Err(QueueError::Stream),
        }
    }

    /// Ends our bulk stream after what is queued on it.
    pub fn end_bulk(&mut self, stream: StreamId) -> Result<(), QueueError> {
        let is_done = self.open_active()?.bulk.end(stream.0);
        is_done.then_some(()).ok_or(QueueError::Stream)
    }

    /// Gives our bulk stream up; what is queued on it is dropped.
    pub fn reset_bulk(&mut self, stream: StreamId, code: u16) -> Result<(), QueueError> {
        let is_done = self.open_active()?.bulk.reset(stream.0, code);
        is_done.then_some(()).ok_or(QueueError::Stream)
    }

    /// Wants no more of the peer's bulk stream. `code` is for the other subsystem; 0 means that all was taken.
    pub fn stop_bulk(&mut self, stream: StreamId, code: u16) -> Result<(), QueueError> {
        let is_done = self.open_active()?.bulk.stop(stream.0, code);
        is_done.then_some(()).ok_or(QueueError::Stream)
    }

    /// Gives the peer credit for received bytes that are done with: the `credit` of a message, or the length of
    /// [`Records`]. Until then they count against the stream's window.
    pub fn consumed(&mut self, stream: StreamId, bytes: u32) {
        let window = self.config.limits.window;
        let Some(index) = STREAM_IDS.iter().position(|id| *id == stream) else {
            if let Some(active) = &mut self.active {
                active.bulk.consumed(stream.0, window, bytes);
            }
            return;
        };
        let paid = self.streams[index].receive.consume(window, bytes);
        self.config.reassembly.give(paid as usize);
    }

    /// Takes the memory of a large message back, for the next one. New memory for each costs more than to decrypt it.
    pub fn recycle(&mut self, message: LargeMessage) {
        let mut bytes = message.bytes;
        if let Some(active) = &mut self.active
            && active.spare_body.capacity() < bytes.capacity()
            && bytes.capacity() <= SPARE_BYTES_MAX
        {
            bytes.clear();
            active.spare_body = bytes;
        }
    }

    /// Takes messages up to this size from the peer from now on, at most 16 MiB, and tells it so.
    pub fn set_message_max(&mut self, bytes: u32) {
        self.message_max = bytes.min(MESSAGE_MAX_TRUSTED);
        self.due.set(Due::LIMITS);
    }

    /// Sends a ping, whose answer updates [`Connection::rtt`].
    pub fn ping(&mut self, now: Instant) {
        if self.is_open() {
            self.alive.ping(now);
        }
    }

    /// The machine may have slept: the peer has to answer within a few seconds or is given up.
    pub fn probe(&mut self, now: Instant) {
        if self.is_open() {
            self.alive.probe(now);
            self.look_by(now + self.config.timing.ping_timeout / 5);
        }
    }

    /// Whether messages are taken and delivered.
    pub fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }

    /// Why it is over, once it is.
    pub fn error(&self) -> Option<&Error> {
        match &self.phase {
            Phase::Closing(end) | Phase::Lingering(end) | Phase::Over(end) => Some(&end.error),
            _ => None,
        }
    }

    /// Our side of it.
    pub fn role(&self) -> Role {
        self.role
    }

    /// How frames are protected. Settled when the peer is authenticated.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// Round-trip times, once there is a sample.
    pub fn rtt(&self) -> Option<Rtt> {
        self.rtt.value()
    }

    /// Bytes of application records that have gone into frames; see [`Accepted`].
    pub fn handed_over(&self) -> u64 {
        let waiting = self.active.as_ref();
        self.queued - waiting.map_or(0, |active| active.queues[APPLICATION].bytes() as u64)
    }

    /// Bytes that wait to go into frames, of all classes.
    pub fn queued_bytes(&self) -> usize {
        self.active.as_ref().map_or(0, |active| {
            let queues: usize = active.queues.iter().map(RecordQueue::bytes).sum();
            queues + active.control.bytes() + active.bulk.bytes()
        })
    }

    /// Bytes received from the transport and handed out for it.
    pub fn bytes(&self) -> (u64, u64) {
        (self.bytes_in, self.bytes_out)
    }

    /// The largest message body that the peer takes.
    pub fn peer_message_max(&self) -> u32 {
        self.peer.message_max
    }

    /// When the peer last sent something.
    pub fn last_seen(&self) -> Instant {
        self.alive.seen_at()
    }

    /// Bytes of memory held beside the connection itself; roughly, while the handshake lasts.
    pub fn heap_bytes(&self) -> usize {
        let phase = match &self.phase {
            Phase::Handshake(_) => size_of::<Handshaking>() + 1024,
            Phase::Verdict(Some(_)) => size_of::<Authenticated>(),
            Phase::Closing(_) | Phase::Lingering(_) | Phase::Over(_) => size_of::<End>(),
            _ => 0,
        };
        phase + self.active.as_ref().map_or(0, |active| active.heap_bytes())
    }

    fn check_size(&self, size: usize) -> Result<(), QueueError> {
        let max = self.peer.message_max;
        if size > max as usize && self.is_open() {
            return Err(QueueError::TooLarge { size, max });
        }
        Ok(())
    }

    fn open_active(&mut self) -> Result<&mut Active, QueueError> {
        if !self.is_open() {
            return Err(QueueError::NotOpen);
        }
        Ok(self.active.get_or_insert_default())
    }

    fn handle_handshake(&mut self, now: Instant, input: &mut &[u8]) {
        let Phase::Handshake(handshaking) = &mut self.phase else {
            return;
        };
        match handshaking.handshake.handle(&self.config, now, input) {
            Ok(None) => {}
            Ok(Some(Outcome::Answered(authenticated))) => {
                self.take_limits(&authenticated);
                if let Phase::Handshake(handshaking) = &mut self.phase {
                    handshaking.authenticated = Some(authenticated);
                }
                // More may be behind the answer, which nobody may send before our message 3.
                if !input.is_empty() {
                    self.handle_handshake(now, input);
                }
            }
            Ok(Some(Outcome::Finished(keys, result))) => {
                self.install(now, keys);
                match result {
                    Ok(authenticated) => {
                        self.take_limits(&authenticated);
                        self.phase = Phase::Verdict(Some(authenticated));
                    }
                    Err(error) => self.fail(now, error),
                }
            }
            Err(failure) => self.handshake_failed(now, &failure),
        }
    }

    fn take_limits(&mut self, authenticated: &Authenticated) {
        let about = &authenticated.about;
        self.peer = PeerLimits {
            message_max: about.message_max.min(MESSAGE_MAX_TRUSTED),
            window: about.window,
            bulk_streams_max: about.bulk_streams_max,
        };
        for stream in &mut self.streams {
            stream.send = SendWindow::new(about.window);
            stream.receive = ReceiveWindow::new(self.config.limits.window);
        }
        if let Some(rtt) = authenticated.rtt {
            self.rtt.sample(rtt);
        }
        self.suite = authenticated.suite;
    }

    /// The handshake is over; its state goes. Message 3 of a dialler waits as clear bytes.
    fn install(&mut self, now: Instant, keys: Keys) {
        self.suite = keys.suite;
        self.send = keys.send;
        self.receive = keys.receive;
        self.rekeyed_at = seconds(now);
        self.alive.seen(now);
        let message_3 = self.handshake_output(now);
        let unsent = message_3.map(|bytes| Box::new(Unsent { bytes }));
        self.phase = Phase::AwaitAccept(unsent);
    }

    pub(crate) fn open(&mut self, now: Instant) {
        self.phase = Phase::Open;
        self.due.set(Due::OPENED);
        self.check_at = now + self.config.timing.keep_alive;
    }

    /// Looks at the clock no later than at `at`.
    #[inline]
    pub(crate) fn look_by(&mut self, at: Instant) {
        self.check_at = self.check_at.min(at);
    }

    fn look_around(&mut self, now: Instant) {
        let timing = self.config.timing;
        let mut next = match self.alive.look(now, timing.keep_alive, timing.ping_timeout) {
            Look::At(at) => at,
            Look::Dead => return self.end(Error::TimedOut(Stage::KeepAlive)),
        };
        if let Some(mut active) = self.active.take() {
            let looked = self.look_at_active(now, &mut active);
            let is_unused = active.is_idle() && now >= active.used_at + timing.linger;
            if !is_unused {
                self.active = Some(active);
            }
            match looked {
                Ok(at) => next = at.map_or(next, |at| at.min(next)),
                Err(error) => return self.fail(now, error),
            }
        }
        self.check_at = next;
    }

    /// Progress of what has begun, and large messages that wait for memory. Returns when to look again.
    fn look_at_active(
        &mut self,
        now: Instant,
        active: &mut Active,
    ) -> Result<Option<Instant>, Error> {
        let timing = self.config.timing;
        let too_slow = Error::TimedOut(Stage::Progress);
        let linger = active.used_at + timing.linger;
        let mut next = (active.is_idle() && now < linger).then_some(linger);
        let mut look_at = |at: Instant| next = Some(next.map_or(at, |next| next.min(at)));
        if !active.partial.is_empty() {
            if now >= active.partial.checked_at() + timing.progress
                && !active.partial.check_progress(now)
            {
                return Err(too_slow);
            }
            look_at(active.partial.checked_at() + timing.progress);
        }
        for reassembly in active.reassembly.iter_mut().flatten() {
            if !reassembly.is_overdrawn {
                continue;
            }
            if now >= reassembly.checked_at() + timing.progress && !reassembly.check_progress(now) {
                return Err(too_slow);
            }
            look_at(reassembly.checked_at() + timing.progress);
        }
        if active.is_starved {
            active.is_starved = false;
            for index in [APPLICATION, GOSSIP] {
                if let Some(reassembly) = &mut active.reassembly[index] {
                    active.is_starved |= !self.cover(now, index, reassembly)?;
                }
            }
            if active.is_starved {
                look_at(now + STARVED_RETRY);
            }
        }
        Ok(next)
    }

    fn handshake_failed(&mut self, now: Instant, failure: &Failure) {
        let Phase::Handshake(handshaking) = &mut self.phase else {
            return;
        };
        handshaking.handshake.fail(&self.config, failure);
        let words = handshaking.handshake.take_output(now);
        self.leave(now, failure.error.clone(), words);
    }

    /// Refuses before the handshake is complete, in clear; afterwards with a `Close`.
    fn refuse(&mut self, now: Instant, error: Error, code: RejectCode) {
        let Phase::Handshake(handshaking) = &mut self.phase else {
            return self.fail(now, error);
        };
        handshaking.handshake.reject(&self.config, code);
        let words = handshaking.handshake.take_output(now);
        self.leave(now, error, words);
    }

    fn leave(&mut self, now: Instant, error: Error, words: Vec<u8>) {
        if words.is_empty() {
            return self.end(error);
        }
        self.start_closing(now, error, LastWords::Clear(words));
    }

    /// The peer or the time has ended it: what is queued is dropped, the peer is told.
    pub(crate) fn fail(&mut self, now: Instant, error: Error) {
        if matches!(self.phase, Phase::Lingering(_) | Phase::Over(_)) {
            return;
        }
        if let Some(active) = &mut self.active {
            active.clear_queues();
        }
        // What else is wrong is nobody's business who cannot even authenticate its frames.
        let code = error.close_code();
        self.start_closing(now, error, LastWords::Close(code, "".into()));
    }

    fn start_closing(&mut self, now: Instant, error: Error, last_words: LastWords) {
        if let Phase::Closing(_) = self.phase {
            return;
        }
        self.due.set(Due::CLOSED);
        self.check_at = now + self.config.timing.close;
        self.phase = Phase::Closing(Box::new(End { error, last_words }));
    }

    /// The last words are handed out.
    pub(crate) fn start_lingering(&mut self, now: Instant) {
        let phase = std::mem::replace(&mut self.phase, Phase::AwaitAccept(None));
        let Phase::Closing(end) = phase else {
            unreachable!("only a closing connection has last words");
        };
        self.phase = Phase::Lingering(end);
        self.active = None;
        self.check_at = now + self.config.timing.close;
        self.due.set(Due::SHUTDOWN);
    }

    /// It is over, and there is nothing to say.
    pub(crate) fn end(&mut self, error: Error) {
        if self.error().is_some() {
            return self.finish(false);
        }
        self.due.set(Due::CLOSED);
        let abort = !matches!(error, Error::ClosedByPeer { .. } | Error::Refused(_));
        let last_words = LastWords::Clear(Vec::new());
        self.phase = Phase::Over(Box::new(End { error, last_words }));
        self.finish(abort);
    }

    fn finish(&mut self, abort: bool) {
        let phase = std::mem::replace(&mut self.phase, Phase::AwaitAccept(None));
        self.phase = match phase {
            Phase::Closing(end) | Phase::Lingering(end) | Phase::Over(end) => Phase::Over(end),
            _ => unreachable!("only what is over is finished"),
        };
        self.active = None;
        self.due.take(Due::SHUTDOWN);
        self.due.set(Due::FINISHED);
        if abort {
            self.due.set(Due::ABORT);
        }
    }

    pub(crate) fn handshake_output(&mut self, now: Instant) -> Option<Vec<u8>> {
        match &mut self.phase {
            Phase::Handshake(handshaking) if handshaking.handshake.has_output() => {
                Some(handshaking.handshake.take_output(now))
            }
            _ => None,
        }
    }

    /// Lets the peer finish a message larger than its window, from the node's budget. `false`: there is no budget now.
    pub(crate) fn cover(
        &mut self,
        now: Instant,
        index: usize,
        reassembly: &mut Reassembly,
    ) -> Result<bool, Fault> {
        let window = &mut self.streams[index].receive;
        let missing = reassembly
            .rest_encoded_max()
            .saturating_sub(window.promised());
        // Below half a window, the owner may still consume what came before; that costs nothing.
        if missing == 0 || reassembly.encoded() < self.config.limits.window / 2 {
            return Ok(true);
        }
        if missing > self.config.reassembly.max() {
            return Err(Fault::MessageTooLarge {
                size: missing as u64,
                max: self.config.reassembly.max() as u32,
            });
        }
        if !self.config.reassembly.take(missing) {
            return Ok(false);
        }
        window.overdraw(missing as u32);
        reassembly.overdraw(now);
        self.look_by(now + self.config.timing.progress);
        Ok(true)
    }
}

/// Whole seconds of the clock; it takes 136 years to overflow.
pub(crate) fn seconds(now: Instant) -> u32 {
    u32::try_from(now.as_nanos() / 1_000_000_000).unwrap_or(u32::MAX)
}

impl Drop for Connection {
    fn drop(&mut self) {
        let overdraft: u32 = self
            .streams
            .iter()
            .map(|stream| stream.receive.overdraft())
            .sum();
        self.config.reassembly.give(overdraft as usize);
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let phase = match &self.phase {
            Phase::Handshake(_) => "handshake",
            Phase::Verdict(_) => "verdict",
            Phase::AwaitAccept(_) => "await accept",
            Phase::Open => "open",
            Phase::Closing(_) => "closing",
            Phase::Lingering(_) => "lingering",
            Phase::Over(_) => "over",
        };
        write!(
            f,
            "Connection({:?}, {phase}, {})",
            self.role,
            self.suite.name()
        )
    }
}
