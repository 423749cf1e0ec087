//! One end of a simulated TCP connection: a small sans-IO machine in the terms of RFC 9293.
//!
//! It is modelled as segments with cumulative acknowledgements, a receive window and a retransmission timer (RFC 6298),
//! not as a pipe between two structs. So loss, a partition that heals, a mapping that a NAT box forgets and a peer that
//! vanishes have on it the effects that they have on the real thing, without a special case for any of them.
//!
//! Congestion control is NewReno; a receiver keeps what comes out of order, and acknowledges every segment at once.
//!
//! Left out: urgent data, selective acknowledgement, time stamps, delayed acknowledgements, keep-alives.

mod congestion;
mod input;
mod output;
mod reassembly;
mod round_trip;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use self::congestion::Congestion;
use self::reassembly::Reassembly;
use self::round_trip::RoundTrip;
use super::arena::Key;
use super::node::{CoreId, MachineId};
use super::prng::Prng;
use super::segment::Segment;
use crate::io::driver::SocketId;
use crate::random::Random;
use crate::time::Instant;

/// A socket is ready to read.
pub(super) const READABLE: u8 = 1;
/// A socket is ready to write, or its attempt to connect has ended.
pub(super) const WRITABLE: u8 = 2;
/// No more will come from the peer.
pub(super) const READ_CLOSED: u8 = 4;
/// The connection has failed.
pub(super) const ERROR: u8 = 8;

/// The most bytes of payload in one segment where the link would carry more, as the loopback interface does.
const SEGMENT_MAX: u64 = 16 * 1024;
/// How often an unanswered first segment is repeated: with the doubled pauses, 127 s in all, as on Linux.
const SYN_RETRIES_MAX: u32 = 6;
/// How often an unanswered answer to a first segment is repeated, as on Linux.
const SYN_ACK_RETRIES_MAX: u32 = 5;
/// How often unacknowledged data is repeated before the connection fails, as on Linux: some 15 minutes.
const RETRIES_MAX: u32 = 15;
/// The same for a connection whose socket is closed: also for how long it asks a peer that reads nothing for room.
const ORPHAN_RETRIES_MAX: u32 = 8;

/// How long a closed connection waits for the peer to close, and how long it answers repeated last segments: Linux's
/// value for both.
const LINGER: Duration = Duration::from_secs(60);
/// A drained buffer above this size goes back to the allocator: thousands of nodes share this process.
const BUFFER_KEPT: usize = 4 * 1024;

/// Sizes of an endpoint's buffers in bytes, and how often its calls take less than they could.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) send_max: usize,
    pub(super) receive_max: usize,
    /// Probability that a read or a write takes fewer bytes than it could, and that a segment is cut short.
    pub(super) short: f64,
}

/// Who is told about an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// It waits in the queue of a listener.
    Listener(Key),
    /// A socket of a driver.
    Socket(CoreId, SocketId),
    /// Taken out of a driver, not yet given to another.
    Detached,
    /// Its socket was closed; the endpoint only sees to it that the peer gets the rest.
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The first segment is sent.
    SynSent,
    /// The first segment is answered.
    SynReceived,
    /// Bytes may flow; also while one or both halves are shut.
    Open,
    /// Both halves are shut and acknowledged; repeated last segments are answered for a while.
    TimeWait,
    /// Failed or over.
    Dead,
}

pub(super) struct Endpoint {
    pub(super) node: MachineId,
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    pub(super) owner: Owner,
    /// Its initial sequence number, and the peer's once it is known.
    isn: u32,
    peer_isn: Option<u32>,
    state: State,
    shape: Shape,
    /// The error that the user has not been told yet.
    error: Option<io::ErrorKind>,
    /// Whether it ended before the listener's queue had it, so that nobody will ever ask for it.
    is_abandoned: bool,

    /// Bytes from position `acknowledged` on that the peer has not acknowledged.
    send: VecDeque<u8>,
    /// Position up to which the peer has acknowledged; the FIN counts as one byte.
    acknowledged: u64,
    /// Position of the next byte to send. Goes back to `acknowledged` at a time-out.
    next: u64,
    /// The furthest that `next` has been.
    next_max: u64,
    /// Position after the last byte written.
    end: u64,
    /// Whether a FIN follows after `end`.
    is_write_shut: bool,
    /// Position up to which the peer has room.
    edge: u64,
    congestion: Congestion,
    /// The most bytes of payload that it takes in one segment.
    mss_own: u64,
    /// Whether a write found no room, so that an edge is due when there is some.
    is_write_blocked: bool,

    receive: VecDeque<u8>,
    /// What came with a gap before it.
    ahead: Reassembly,
    /// Position in the peer's stream up to which everything has arrived, its FIN included.
    received: u64,
    /// Whether the peer's FIN has arrived.
    is_read_shut: bool,
    /// Whether this side shut its half after the peer's FIN had come.
    is_passive_closer: bool,
    /// The edge last told to the peer.
    edge_told: u64,

    /// When the endpoint wants to be looked at.
    timer: Option<Instant>,
    /// For which time an event is in the world's queue.
    pub(super) timer_queued: Option<Instant>,
    retries: u32,
    /// Questions for room since the peer last gave some.
    probes: u32,
    round_trip: RoundTrip,

    /// Segments to send.
    pub(super) out: Vec<Segment>,
    /// What became ready and was not yet passed on to the owner.
    pub(super) edges: u8,
    /// Whether the connection has just become open on the accepting side.
    pub(super) is_newly_open: bool,
}

/// Where an endpoint stands and what it is like, from its beginning on.
#[derive(Clone, Copy)]
pub(super) struct Origin {
    pub(super) node: MachineId,
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    pub(super) owner: Owner,
    /// Its initial sequence number.
    pub(super) isn: u32,
    pub(super) shape: Shape,
    /// The most bytes of payload that its link takes in one segment.
    pub(super) mss: u32,
}

impl Endpoint {
    /// The connecting end; its first segment is in `out`.
    pub(super) fn connect(origin: Origin, now: Instant) -> Endpoint {
        let mut endpoint = Endpoint::new(origin, State::SynSent);
        endpoint.send_syn(now);
        endpoint
    }

    /// The end that answers the first segment `syn`; its answer is in `out`.
    pub(super) fn answer(origin: Origin, syn: &Segment, now: Instant) -> Endpoint {
        let mut endpoint = Endpoint::new(origin, State::SynReceived);
        endpoint.meet(syn);
        endpoint.send_syn(now);
        endpoint
    }

    fn new(origin: Origin, state: State) -> Endpoint {
        let Origin {
            node,
            local,
            remote,
            owner,
            isn,
            shape,
            mss,
        } = origin;
        let mss = u64::from(mss).clamp(1, SEGMENT_MAX);
        Endpoint {
            node,
            local,
            remote,
            owner,
            isn,
            peer_isn: None,
            state,
            shape,
            error: None,
            is_abandoned: false,
            send: VecDeque::new(),
            acknowledged: 0,
            next: 0,
            next_max: 0,
            end: 0,
            is_write_shut: false,
            edge: 0,
            congestion: Congestion::new(mss, 2 * shape.send_max as u64),
            mss_own: mss,
            is_write_blocked: false,
            receive: VecDeque::new(),
            ahead: Reassembly::default(),
            received: 0,
            is_read_shut: false,
            is_passive_closer: false,
            edge_told: shape.receive_max as u64,
            timer: None,
            timer_queued: None,
            retries: 0,
            probes: 0,
            round_trip: RoundTrip::new(),
            out: Vec::new(),
            edges: 0,
            is_newly_open: false,
        }
    }

    // What the user asks for.

    /// Reads what has arrived; 0 at the end of the stream.
    pub(super) fn read(&mut self, bytes: &mut [u8], prng: &mut Prng) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        if self.receive.is_empty() {
            if self.is_read_shut {
                return Ok(0);
            }
            if self.error.is_some() {
                return Err(self.next_error());
            }
            // After a failure that the user knows of, systems report the end of the stream.
            let is_over = self.state == State::Dead;
            return if is_over {
                Ok(0)
            } else {
                Err(io::ErrorKind::WouldBlock.into())
            };
        }
        let mut count = bytes.len().min(self.receive.len());
        if count > 1 && prng.chance(self.shape.short) {
            // As if the rest had arrived just after this read: so there is also a new edge.
            count = 1 + prng.below(count as u64 - 1) as usize;
            self.edges |= READABLE;
        }
        let (front, back) = self.receive.as_slices();
        let from_front = count.min(front.len());
        bytes[..from_front].copy_from_slice(&front[..from_front]);
        bytes[from_front..count].copy_from_slice(&back[..count - from_front]);
        self.receive.drain(..count);
        release_if_drained(&mut self.receive);
        self.announce_room();
        Ok(count)
    }

    /// Takes what fits into the send buffer.
    pub(super) fn write(
        &mut self,
        bytes: &[u8],
        now: Instant,
        prng: &mut Prng,
    ) -> io::Result<usize> {
        if self.error.is_some() {
            return Err(self.next_error());
        }
        if self.is_write_shut || self.state == State::Dead {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if bytes.is_empty() {
            return Ok(0);
        }
        let room = self.shape.send_max - self.send.len();
        if self.state != State::Open || room == 0 {
            self.is_write_blocked = true;
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut count = bytes.len().min(room);
        if count < bytes.len() {
            self.is_write_blocked = true;
        } else if count > 1 && prng.chance(self.shape.short) {
            // As if the buffer had been full here and room had come just after: so an edge is due, now or once the
            // room is worth one.
            count = 1 + prng.below(count as u64 - 1) as usize;
            self.is_write_blocked = true;
        }
        self.send.extend(&bytes[..count]);
        self.end += count as u64;
        if count < bytes.len() {
            self.tell_room();
        }
        self.emit_data(now, prng);
        Ok(count)
    }

    pub(super) fn shutdown_write(&mut self, now: Instant, prng: &mut Prng) -> io::Result<()> {
        match self.state {
            State::Open if self.is_write_shut => Ok(()),
            State::Open => {
                self.is_passive_closer = self.is_read_shut;
                self.is_write_shut = true;
                self.emit_data(now, prng);
                Ok(())
            }
            _ => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Ends the user's part. The endpoint lives on until the peer has got what was written and its FIN, unless the user
    /// aborts or leaves bytes unread, in which case the peer gets a reset as from a real system (RFC 2525 §2.17).
    pub(super) fn close(&mut self, abort: bool, now: Instant, prng: &mut Prng) {
        self.owner = Owner::Closed;
        self.edges = 0;
        match self.state {
            State::Open if abort || !self.receive.is_empty() => {
                self.emit_reset();
                self.die();
            }
            State::SynReceived => {
                self.emit_reset();
                self.die();
            }
            State::Open => {
                if !self.is_write_shut {
                    self.is_passive_closer = self.is_read_shut;
                    self.is_write_shut = true;
                    self.emit_data(now, prng);
                }
                self.settle(now);
            }
            // Whoever answers the first segment later finds nobody here and gets a reset then.
            State::SynSent => self.die(),
            State::TimeWait | State::Dead => {}
        }
        self.receive = VecDeque::new();
        self.ahead.clear();
    }

    /// The error that the user has not seen yet.
    pub(super) fn take_error(&mut self) -> Option<io::Error> {
        self.error.take().map(io::Error::from)
    }

    /// What is ready now, whether or not an edge is due.
    pub(super) fn level(&self) -> u8 {
        let mut bits = 0;
        let is_over = self.state == State::Dead;
        if !self.receive.is_empty() || self.is_read_shut || is_over {
            bits |= READABLE;
        }
        if is_over || (self.has_opened() && self.has_room()) {
            bits |= WRITABLE;
        }
        if self.is_read_shut || is_over {
            bits |= READ_CLOSED;
        }
        if self.error.is_some() {
            bits |= ERROR;
        }
        bits
    }

    /// Whether it is over, so that its pair of addresses is free.
    pub(super) fn is_dead(&self) -> bool {
        self.state == State::Dead
    }

    /// Whether nothing is left to do for it and nobody asks for it any more.
    pub(super) fn is_removable(&self) -> bool {
        self.is_dead() && (self.owner == Owner::Closed || self.is_abandoned)
    }

    /// Whether it only answers late repetitions, so that a new connection may take its place.
    pub(super) fn is_in_time_wait(&self) -> bool {
        self.state == State::TimeWait
    }

    pub(super) fn timer(&self) -> Option<Instant> {
        self.timer
    }

    fn is_all_acknowledged(&self) -> bool {
        self.acknowledged == self.end + u64::from(self.is_write_shut)
    }

    fn has_opened(&self) -> bool {
        matches!(self.state, State::Open | State::TimeWait)
    }

    /// As Linux has it: a third of the buffer is free.
    fn has_room(&self) -> bool {
        self.shape.send_max - self.send.len() >= self.shape.send_max.div_ceil(3)
    }

    /// Ends it at once with an error.
    pub(super) fn fail(&mut self, kind: io::ErrorKind) {
        if self.owner != Owner::Closed {
            self.error = Some(kind);
        }
        self.edges |= READABLE | WRITABLE | READ_CLOSED | ERROR;
        self.die();
    }

    fn die(&mut self) {
        self.state = State::Dead;
        self.timer = None;
        self.send = VecDeque::new();
        self.ahead.clear();
    }

    fn next_error(&mut self) -> io::Error {
        self.error
            .take()
            .map_or_else(|| io::ErrorKind::NotConnected.into(), io::Error::from)
    }
}

fn release_if_drained(buffer: &mut VecDeque<u8>) {
    if buffer.is_empty() && buffer.capacity() > BUFFER_KEPT {
        *buffer = VecDeque::new();
    }
}
