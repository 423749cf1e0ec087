//! What a TCP endpoint does with segments, errors of the network and time-outs.

use std::io;
use std::time::Duration;

use super::congestion::Reaction;
use super::{
    Endpoint, LINGER, ORPHAN_RETRIES_MAX, Owner, READ_CLOSED, READABLE, RETRIES_MAX,
    SYN_ACK_RETRIES_MAX, SYN_RETRIES_MAX, State, WRITABLE, release_if_drained,
};
use crate::sim::packet::{IPV4_HEADER, IPV6_HEADER, IcmpError, TCP_HEADER, Unreachable};
use crate::sim::prng::Prng;
use crate::sim::segment::Segment;
use crate::time::Instant;

impl Endpoint {
    /// Whether a segment belongs to this very connection, and not to an earlier or a later one between the same
    /// addresses.
    pub(in crate::sim) fn is_addressed_by(&self, segment: &Segment) -> bool {
        let knows_us = segment.ack && segment.peer_isn == self.isn;
        // A reset by a host that has no connection starts nowhere.
        if segment.rst && knows_us {
            return matches!(self.state, State::SynSent | State::SynReceived)
                || self.peer_isn == Some(segment.isn);
        }
        let is_known = self.peer_isn.is_none_or(|isn| isn == segment.isn);
        is_known && (knows_us || !segment.ack)
    }

    /// Answers a first segment of another connection between the same addresses: if the peer has forgotten this one, it
    /// replies with a reset (RFC 5961 §4).
    pub(in crate::sim) fn challenge(&mut self) {
        if self.state == State::Open {
            self.emit_ack();
        }
    }

    /// Takes in a segment of this connection.
    pub(in crate::sim) fn handle_segment(
        &mut self,
        segment: Segment,
        now: Instant,
        prng: &mut Prng,
    ) {
        if segment.rst {
            return self.handle_reset(&segment);
        }
        self.retries = 0;
        match self.state {
            State::SynSent if segment.syn && segment.ack => {
                self.open(&segment, now);
                self.emit_ack();
            }
            State::SynSent if segment.syn => {
                // Both sides have begun at once (RFC 9293 §3.5, figure 7).
                self.meet(&segment);
                self.state = State::SynReceived;
                self.send_syn(now);
            }
            State::SynSent => {}
            State::SynReceived if segment.syn && segment.ack => {
                self.open(&segment, now);
                self.emit_ack();
            }
            State::SynReceived if segment.syn => self.send_syn(now),
            State::SynReceived if segment.ack => {
                self.open(&segment, now);
                self.handle_data(segment, now, prng);
            }
            State::SynReceived => {}
            State::Open if segment.syn => self.emit_ack(),
            State::Open => self.handle_data(segment, now, prng),
            State::TimeWait => {
                if segment.fin || segment.probe {
                    self.emit_ack();
                }
            }
            State::Dead => {}
        }
    }

    /// Takes in an error of the network about a segment of this connection.
    pub(in crate::sim) fn handle_error(
        &mut self,
        error: &IcmpError,
        now: Instant,
        prng: &mut Prng,
    ) {
        // Anybody may send one; only who has seen the segment knows the number.
        if error.isn != self.isn {
            return;
        }
        let is_opening = matches!(self.state, State::SynSent | State::SynReceived);
        match error.kind {
            Unreachable::TooBig(mtu) => self.handle_mtu(mtu, now, prng),
            // Once open, a connection outlives them (RFC 1122 §4.2.3.9).
            _ if !is_opening || matches!(self.owner, Owner::Listener(_)) => {}
            Unreachable::Host | Unreachable::Prohibited => {
                self.fail(io::ErrorKind::HostUnreachable);
            }
            Unreachable::Port => self.fail(io::ErrorKind::ConnectionRefused),
        }
    }

    /// Acts if the time it asked for has come.
    pub(in crate::sim) fn handle_timeout(&mut self, now: Instant, prng: &mut Prng) {
        if self.timer.is_none_or(|at| at > now) {
            return;
        }
        self.timer = None;
        self.retries += 1;
        self.round_trip.abandon();
        match self.state {
            State::SynSent if self.retries > SYN_RETRIES_MAX => self.fail(io::ErrorKind::TimedOut),
            State::SynReceived if self.retries > SYN_ACK_RETRIES_MAX => {
                self.give_up_opening(io::ErrorKind::TimedOut);
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
                self.congestion.timed_out(self.acknowledged, self.next_max);
                self.next = self.acknowledged;
                self.emit_data(now, prng);
                self.timer = Some(now + self.backed_off());
            }
            State::Dead => {}
        }
    }

    /// Learns the peer's initial sequence number, window and segment size.
    pub(super) fn meet(&mut self, segment: &Segment) {
        self.peer_isn = Some(segment.isn);
        self.edge = self.edge.max(segment.edge);
        if segment.syn {
            let mss = self.congestion.mss().min(u64::from(segment.mss));
            self.congestion.set_mss(mss.max(1));
        }
    }

    fn open(&mut self, segment: &Segment, now: Instant) {
        self.meet(segment);
        self.state = State::Open;
        self.timer = None;
        self.round_trip.acknowledged(0, now);
        if matches!(self.owner, Owner::Listener(_)) {
            self.is_newly_open = true;
        } else {
            self.edges |= WRITABLE;
        }
    }

    /// Ends because the machine has lost its address.
    pub(in crate::sim) fn strand(&mut self) {
        match self.state {
            State::SynReceived => self.give_up_opening(io::ErrorKind::ConnectionAborted),
            State::SynSent | State::Open => self.fail(io::ErrorKind::ConnectionAborted),
            State::TimeWait => self.die(),
            State::Dead => {}
        }
    }

    fn handle_reset(&mut self, segment: &Segment) {
        match self.state {
            // RFC 9293 §3.10.7.3: one that acknowledges nothing was not sent because of ours.
            State::SynSent if !segment.ack => {}
            State::SynSent => self.fail(io::ErrorKind::ConnectionRefused),
            State::SynReceived => self.give_up_opening(io::ErrorKind::ConnectionRefused),
            // What Linux reports once the peer's FIN had come.
            State::Open if self.is_read_shut => self.fail(io::ErrorKind::BrokenPipe),
            State::Open => self.fail(io::ErrorKind::ConnectionReset),
            State::TimeWait => self.die(),
            State::Dead => {}
        }
    }

    /// Ends it with an error. A listener never hears of it; a socket does.
    fn give_up_opening(&mut self, kind: io::ErrorKind) {
        if matches!(self.owner, Owner::Listener(_)) {
            self.is_abandoned = true;
            self.die();
        } else {
            self.fail(kind);
        }
    }

    fn handle_mtu(&mut self, mtu: u32, now: Instant, prng: &mut Prng) {
        let ip = if self.remote.is_ipv4() {
            IPV4_HEADER
        } else {
            IPV6_HEADER
        };
        let mss = u64::from(mtu)
            .saturating_sub((ip + TCP_HEADER) as u64)
            .max(1);
        if mss < self.congestion.mss() {
            self.congestion.set_mss(mss);
            self.next = self.acknowledged;
            self.emit_data(now, prng);
        }
    }

    fn handle_data(&mut self, mut segment: Segment, now: Instant, prng: &mut Prng) {
        self.handle_acknowledgement(&segment, now);
        let data_end = segment.seq + segment.data.len() as u64;
        let wants_answer = !segment.data.is_empty() || segment.fin || segment.probe;
        if self.owner == Owner::Closed && data_end > self.received && !self.is_read_shut {
            // Nobody will ever read this: tell the peer (RFC 9293 §3.6.1).
            self.emit_reset();
            return self.die();
        }
        if !self.is_read_shut {
            if segment.fin {
                self.ahead.end_at(data_end);
            }
            let data = std::mem::take(&mut segment.data);
            if segment.seq > self.received {
                self.ahead.keep(segment.seq, data, self.edge_told);
            } else if data_end > self.received {
                self.take_in(&data[(self.received - segment.seq) as usize..]);
                while let Some((data, skip)) = self.ahead.next_at(self.received) {
                    self.take_in(&data[skip..]);
                }
            }
            if self.ahead.ends_at(self.received) {
                self.received += 1;
                self.is_read_shut = true;
                self.ahead.clear();
                self.edges |= READABLE | READ_CLOSED;
            }
        }
        let queued = self.out.len();
        self.emit_data(now, prng);
        if wants_answer && self.out.len() == queued {
            self.emit_ack();
        }
        self.settle(now);
    }

    /// Takes in what comes next in the stream, as far as there is room.
    fn take_in(&mut self, fresh: &[u8]) {
        let room = self.shape.receive_max - self.receive.len();
        let fresh = &fresh[..fresh.len().min(room)];
        if !fresh.is_empty() {
            self.receive.extend(fresh);
            self.received += fresh.len() as u64;
            self.edges |= READABLE;
        }
    }

    fn handle_acknowledgement(&mut self, segment: &Segment, now: Instant) {
        let has_room = segment.edge > self.edge;
        if has_room {
            self.edge = segment.edge;
            self.probes = 0;
        }
        let upto = segment.acknowledged;
        if !segment.ack || upto < self.acknowledged || upto > self.next_max {
            return;
        }
        let reaction = if upto > self.acknowledged {
            let bytes = upto.min(self.end) - self.acknowledged.min(self.end);
            self.send.drain(..bytes as usize);
            release_if_drained(&mut self.send);
            let fresh = upto - self.acknowledged;
            self.acknowledged = upto;
            self.next = self.next.max(upto);
            self.timer = None;
            self.round_trip.acknowledged(upto, now);
            self.tell_room();
            self.congestion.acknowledged(fresh, upto)
        } else if self.next_max > upto
            && segment.data.is_empty()
            && !(segment.fin || segment.probe || has_room)
        {
            self.congestion.duplicate(upto, self.next_max)
        } else {
            Reaction::Nothing
        };
        if reaction == Reaction::SendFirstAgain {
            self.round_trip.abandon();
            self.emit_first_again();
        }
    }

    /// Moves a connection whose halves are both shut, or whose socket is closed, to its end.
    pub(super) fn settle(&mut self, now: Instant) {
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

    pub(super) fn backed_off(&self) -> Duration {
        self.round_trip.timeout(self.retries.max(self.probes))
    }

    fn has_given_up(&self) -> bool {
        if self.owner == Owner::Closed {
            return self.retries.max(self.probes) > ORPHAN_RETRIES_MAX;
        }
        // A peer that answers may keep its window shut for as long as it likes (RFC 9293 §3.8.6.1).
        self.retries > RETRIES_MAX
    }
}
