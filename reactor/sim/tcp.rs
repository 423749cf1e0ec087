//! One end of a simulated TCP connection: a small sans-IO machine in the terms of RFC 9293.
//!
//! It is modelled as segments with cumulative acknowledgements, a receive window and a retransmission timer (RFC 6298),
//! not as a pipe between two structs. So loss, a partition that heals, a mapping that a NAT box forgets and a peer that
//! vanishes have on it the effects that they have on the real thing, without a special case for any of them.
//!
//! Left out: urgent data, options, simultaneous open, selective acknowledgement, and congestion control beyond one
//! segment after a time-out. A receiver keeps only what comes in order.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::arena::Key;
use super::node::{CoreId, MachineId};
use super::prng::Prng;
use super::round_trip::RoundTrip;
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

/// Bytes of payload in one segment. Larger than on a wire: real systems hand such runs to the network card whole.
const SEGMENT_MAX: usize = 16 * 1024;
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
    id: u64,
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
    /// Bytes that may be in flight: all of the window, but one segment after a time-out.
    flight_max: u64,
    /// Whether a write found no room, so that an edge is due when there is some.
    is_write_blocked: bool,

    receive: VecDeque<u8>,
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

impl Endpoint {
    /// The connecting end; its first segment is in `out`.
    pub(super) fn connect(
        node: MachineId,
        local: SocketAddr,
        remote: SocketAddr,
        owner: Owner,
        id: u64,
        shape: Shape,
        now: Instant,
    ) -> Endpoint {
        let mut endpoint = Endpoint::new(node, local, remote, owner, id, State::SynSent, shape);
        endpoint.send_syn(now);
        endpoint
    }

    /// The end that answers the first segment `syn`; its answer is in `out`.
    pub(super) fn answer(
        node: MachineId,
        local: SocketAddr,
        remote: SocketAddr,
        listener: Key,
        syn: &Segment,
        shape: Shape,
        now: Instant,
    ) -> Endpoint {
        let owner = Owner::Listener(listener);
        let mut endpoint = Endpoint::new(
            node,
            local,
            remote,
            owner,
            syn.id,
            State::SynReceived,
            shape,
        );
        endpoint.edge = syn.edge;
        endpoint.send_syn(now);
        endpoint
    }

    fn new(
        node: MachineId,
        local: SocketAddr,
        remote: SocketAddr,
        owner: Owner,
        id: u64,
        state: State,
        shape: Shape,
    ) -> Endpoint {
        Endpoint {
            node,
            local,
            remote,
            owner,
            id,
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
            flight_max: shape.send_max as u64,
            is_write_blocked: false,
            receive: VecDeque::new(),
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
                self.out.push(Segment::reset(self.id));
                self.die();
            }
            State::SynReceived => {
                self.out.push(Segment::reset(self.id));
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

    /// Whether `id` names this very connection.
    pub(super) fn is_named(&self, id: u64) -> bool {
        self.id == id
    }

    pub(super) fn timer(&self) -> Option<Instant> {
        self.timer
    }

    // What comes from the network and the clock.

    /// Answers a first segment of another connection between the same addresses: if the peer has forgotten this one, it
    /// replies with a reset (RFC 5961 §4).
    pub(super) fn challenge(&mut self) {
        if self.state == State::Open {
            self.emit_ack();
        }
    }

    /// Takes in a segment that carries this connection's id.
    pub(super) fn handle_segment(&mut self, segment: Segment, now: Instant, prng: &mut Prng) {
        if segment.rst {
            return self.handle_reset();
        }
        self.retries = 0;
        match self.state {
            State::SynSent => {
                if segment.syn && segment.ack {
                    self.open(&segment, now);
                    self.edges |= WRITABLE;
                    self.emit_ack();
                }
            }
            State::SynReceived if segment.syn => self.send_syn(now),
            State::SynReceived => {
                self.open(&segment, now);
                self.is_newly_open = true;
                self.handle_in_order(segment, now, prng);
            }
            State::Open if segment.syn => self.emit_ack(),
            State::Open => self.handle_in_order(segment, now, prng),
            State::TimeWait => {
                if segment.fin || segment.probe {
                    self.emit_ack();
                }
            }
            State::Dead => {}
        }
    }

    /// Acts if the time it asked for has come.
    pub(super) fn handle_timeout(&mut self, now: Instant, prng: &mut Prng) {
        if self.timer.is_none_or(|at| at > now) {
            return;
        }
        self.timer = None;
        self.retries += 1;
        self.round_trip.abandon();
        match self.state {
            State::SynSent if self.retries > SYN_RETRIES_MAX => self.fail(io::ErrorKind::TimedOut),
            State::SynReceived if self.retries > SYN_ACK_RETRIES_MAX => {
                self.is_abandoned = true;
                self.die();
            }
            State::SynSent | State::SynReceived => self.send_syn(now),
            State::TimeWait => self.die(),
            State::Open if self.is_all_acknowledged() => {
                // Only a closed endpoint that waits for the peer's FIN has a timer now.
                debug_assert_eq!(self.owner, Owner::Closed);
                self.die();
            }
            // Without a reset, as on Linux: the peer learns of it when it says something.
            State::Open if self.has_given_up() => self.fail(io::ErrorKind::TimedOut),
            State::Open if self.next == self.acknowledged && self.edge <= self.next => {
                self.probes = self.probes.saturating_add(1);
                self.emit(self.next, Vec::new(), false, true);
                self.timer = Some(now + self.backed_off());
            }
            State::Open => {
                // RFC 6298 §5.4: send the earliest unacknowledged segment again, and nothing more until the peer
                // answers.
                self.next = self.acknowledged;
                self.flight_max = SEGMENT_MAX as u64;
                self.emit_data(now, prng);
                self.timer = Some(now + self.backed_off());
            }
            State::Dead => {}
        }
    }

    // Inner workings.

    fn open(&mut self, segment: &Segment, now: Instant) {
        self.state = State::Open;
        self.edge = self.edge.max(segment.edge);
        self.timer = None;
        self.round_trip.acknowledged(0, now);
    }

    fn handle_reset(&mut self) {
        match self.state {
            State::SynSent => self.fail(io::ErrorKind::ConnectionRefused),
            State::SynReceived => {
                self.is_abandoned = true;
                self.die();
            }
            // What Linux reports once the peer's FIN had come.
            State::Open if self.is_read_shut => self.fail(io::ErrorKind::BrokenPipe),
            State::Open => self.fail(io::ErrorKind::ConnectionReset),
            State::TimeWait => self.die(),
            State::Dead => {}
        }
    }

    fn handle_in_order(&mut self, segment: Segment, now: Instant, prng: &mut Prng) {
        self.handle_acknowledgement(&segment, now);
        let data_end = segment.seq + segment.data.len() as u64;
        let wants_answer = !segment.data.is_empty() || segment.fin || segment.probe;
        if self.owner == Owner::Closed && data_end > self.received && !self.is_read_shut {
            // Nobody will ever read this: tell the peer (RFC 9293 §3.6.1).
            self.out.push(Segment::reset(self.id));
            return self.die();
        }
        if !self.is_read_shut && segment.seq <= self.received && data_end > self.received {
            let skip = (self.received - segment.seq) as usize;
            let room = self.shape.receive_max - self.receive.len();
            let fresh = &segment.data[skip..];
            let fresh = &fresh[..fresh.len().min(room)];
            if !fresh.is_empty() {
                self.receive.extend(fresh);
                self.received += fresh.len() as u64;
                self.edges |= READABLE;
            }
        }
        if segment.fin && !self.is_read_shut && data_end == self.received {
            self.received += 1;
            self.is_read_shut = true;
            self.edges |= READABLE | READ_CLOSED;
        }
        let queued = self.out.len();
        self.emit_data(now, prng);
        if wants_answer && self.out.len() == queued {
            self.emit_ack();
        }
        self.settle(now);
    }

    fn handle_acknowledgement(&mut self, segment: &Segment, now: Instant) {
        if segment.edge > self.edge {
            self.edge = segment.edge;
            self.probes = 0;
        }
        let upto = segment.acknowledged;
        if !segment.ack || upto <= self.acknowledged || upto > self.next_max {
            return;
        }
        let bytes = upto.min(self.end) - self.acknowledged.min(self.end);
        self.send.drain(..bytes as usize);
        release_if_drained(&mut self.send);
        self.acknowledged = upto;
        self.next = self.next.max(upto);
        self.flight_max = (self.flight_max * 2).min(self.shape.send_max as u64);
        self.timer = None;
        self.round_trip.acknowledged(upto, now);
        self.tell_room();
    }

    /// Gives the edge that a blocked writer waits for, if there is room worth it.
    fn tell_room(&mut self) {
        if self.is_write_blocked && self.has_room() {
            self.is_write_blocked = false;
            self.edges |= WRITABLE;
        }
    }

    /// Moves a connection whose halves are both shut, or whose socket is closed, to its end.
    fn settle(&mut self, now: Instant) {
        if self.state != State::Open || !self.is_write_shut || !self.is_all_acknowledged() {
            return;
        }
        if self.owner != Owner::Closed {
            return;
        }
        if !self.is_read_shut {
            self.timer.get_or_insert(now + LINGER);
        } else if self.is_passive_closer {
            // The peer's FIN came first, so the peer is the one who must be able to answer a repeated segment.
            self.die();
        } else {
            self.state = State::TimeWait;
            self.timer = Some(now + LINGER);
        }
    }

    fn send_syn(&mut self, now: Instant) {
        let is_answer = self.state == State::SynReceived;
        if self.retries == 0 {
            self.round_trip.sent(0, now);
        }
        self.out.push(Segment {
            syn: true,
            ack: is_answer,
            edge: self.edge_told,
            ..Segment::empty(self.id)
        });
        self.timer = Some(now + self.backed_off());
    }

    /// Sends what the peer and the flight limit have room for, then the FIN, and keeps the timer running while something
    /// is unacknowledged or the window is closed.
    fn emit_data(&mut self, now: Instant, prng: &mut Prng) {
        if self.state != State::Open {
            return;
        }
        let limit = self.edge.min(self.acknowledged + self.flight_max);
        while self.next < self.end && self.next < limit {
            let most = (self.end - self.next)
                .min(limit - self.next)
                .min(SEGMENT_MAX as u64);
            let cut = most > 1 && prng.chance(self.shape.short);
            let count = if cut { 1 + prng.below(most - 1) } else { most };
            let start = (self.next - self.acknowledged) as usize;
            let data = self
                .send
                .range(start..start + count as usize)
                .copied()
                .collect();
            self.emit(self.next, data, false, false);
            self.advance(count, now);
        }
        if self.is_write_shut && self.next == self.end {
            self.emit(self.next, Vec::new(), true, false);
            self.advance(1, now);
        }
        let waits = self.next > self.acknowledged || self.next < self.end;
        if waits && self.timer.is_none() {
            self.timer = Some(now + self.backed_off());
        }
    }

    fn advance(&mut self, count: u64, now: Instant) {
        self.next += count;
        if self.next > self.next_max {
            self.next_max = self.next;
            self.round_trip.sent(self.next, now);
        }
    }

    /// Tells the peer that there is room again, once it is worth a segment.
    fn announce_room(&mut self) {
        if self.state != State::Open || self.is_read_shut {
            return;
        }
        let edge = self.received + (self.shape.receive_max - self.receive.len()) as u64;
        let worth = (self.shape.receive_max / 2).min(SEGMENT_MAX) as u64;
        if edge - self.edge_told >= worth {
            self.emit_ack();
        }
    }

    fn emit_ack(&mut self) {
        // Several acknowledgements in one go say no more than the last of them.
        if let Some(last) = self.out.last()
            && last.seq == self.next
            && last.data.is_empty()
            && !(last.syn || last.fin || last.rst || last.probe)
        {
            self.out.pop();
        }
        self.emit(self.next, Vec::new(), false, false);
    }

    fn emit(&mut self, seq: u64, data: Vec<u8>, fin: bool, probe: bool) {
        if !self.is_read_shut {
            let room = self.shape.receive_max - self.receive.len();
            self.edge_told = self.edge_told.max(self.received + room as u64);
        }
        self.out.push(Segment {
            id: self.id,
            syn: false,
            ack: true,
            fin,
            rst: false,
            probe,
            seq,
            acknowledged: self.received,
            edge: self.edge_told,
            data,
        });
    }

    fn backed_off(&self) -> Duration {
        self.round_trip.timeout(self.retries.max(self.probes))
    }

    fn has_given_up(&self) -> bool {
        if self.owner == Owner::Closed {
            return self.retries.max(self.probes) > ORPHAN_RETRIES_MAX;
        }
        // A peer that answers may keep its window shut for as long as it likes (RFC 9293 §3.8.6.1).
        self.retries > RETRIES_MAX
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

    fn fail(&mut self, kind: io::ErrorKind) {
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
