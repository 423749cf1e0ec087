//! What a TCP endpoint sends, and when.

use super::{Endpoint, State, WRITABLE};
use crate::random::Random;
use crate::sim::prng::Prng;
use crate::sim::segment::Segment;
use crate::time::Instant;

impl Endpoint {
    pub(super) fn send_syn(&mut self, now: Instant) {
        if self.retries == 0 {
            self.round_trip.sent(0, now);
        }
        self.out.push(Segment {
            syn: true,
            ack: self.peer_isn.is_some(),
            peer_isn: self.peer_isn.unwrap_or(0),
            edge: self.edge_told,
            mss: u32::try_from(self.mss_own).unwrap_or(u32::MAX),
            ..Segment::empty(self.isn)
        });
        self.timer = Some(now + self.backed_off());
    }

    /// Sends what the peer and the congestion window have room for, then the FIN, and keeps the timer running while
    /// something is unacknowledged or the window is closed.
    pub(super) fn emit_data(&mut self, now: Instant, prng: &mut Prng) {
        if self.state != State::Open {
            return;
        }
        let allowed = self.acknowledged + self.congestion.allowance();
        let limit = self.edge.min(allowed);
        while self.next < self.end && self.next < limit {
            let wanted = (self.end - self.next).min(self.congestion.mss());
            let most = wanted.min(limit - self.next);
            if most < wanted && self.next > self.acknowledged {
                // RFC 9293 §3.8.6.2.1: a window that opens byte by byte must not be filled byte by byte.
                break;
            }
            let cut = most > 1 && prng.chance(self.shape.short);
            let count = if cut { 1 + prng.below(most - 1) } else { most };
            let data = self.bytes_at(self.next, count);
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

    /// Sends the first unacknowledged segment again. The time-out stays as it is.
    pub(super) fn emit_first_again(&mut self) {
        let unacknowledged = self.next_max.min(self.end) - self.acknowledged.min(self.end);
        let count = unacknowledged.min(self.congestion.mss());
        let data = self.bytes_at(self.acknowledged, count);
        let is_last = self.acknowledged + count == self.end;
        let fin = is_last && self.is_write_shut && self.next_max > self.end;
        self.emit(self.acknowledged, data, fin, false);
    }

    fn bytes_at(&self, position: u64, count: u64) -> Vec<u8> {
        let start = (position - self.acknowledged) as usize;
        let end = start + count as usize;
        let (front, back) = self.send.as_slices();
        let mut data = Vec::with_capacity(count as usize);
        data.extend_from_slice(&front[start.min(front.len())..end.min(front.len())]);
        let skipped = front.len();
        data.extend_from_slice(&back[start.saturating_sub(skipped)..end.saturating_sub(skipped)]);
        data
    }

    fn advance(&mut self, count: u64, now: Instant) {
        self.next += count;
        if self.next > self.next_max {
            self.next_max = self.next;
            self.round_trip.sent(self.next, now);
        }
    }

    /// Gives the edge that a blocked writer waits for, if there is room worth it.
    pub(super) fn tell_room(&mut self) {
        if self.is_write_blocked && self.has_room() {
            self.is_write_blocked = false;
            self.edges |= WRITABLE;
        }
    }

    /// Tells the peer that there is room again, once it is worth a segment.
    pub(super) fn announce_room(&mut self) {
        if self.state != State::Open || self.is_read_shut {
            return;
        }
        let edge = self.received + (self.shape.receive_max - self.receive.len()) as u64;
        let worth = (self.shape.receive_max as u64 / 2).min(2 * self.congestion.mss());
        if edge - self.edge_told >= worth {
            self.emit_ack();
        }
    }

    pub(super) fn emit_ack(&mut self) {
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

    pub(super) fn emit(&mut self, seq: u64, data: Vec<u8>, fin: bool, probe: bool) {
        if !self.is_read_shut {
            let room = self.shape.receive_max - self.receive.len();
            self.edge_told = self.edge_told.max(self.received + room as u64);
        }
        self.out.push(Segment {
            isn: self.isn,
            peer_isn: self.peer_isn.unwrap_or(0),
            syn: false,
            ack: true,
            fin,
            rst: false,
            probe,
            seq,
            acknowledged: self.received,
            edge: self.edge_told,
            mss: u32::MAX,
            data,
        });
    }

    /// Tells the peer that the connection is no more.
    pub(super) fn emit_reset(&mut self) {
        self.out.push(Segment {
            rst: true,
            ack: self.peer_isn.is_some(),
            peer_isn: self.peer_isn.unwrap_or(0),
            seq: self.next,
            acknowledged: self.received,
            edge: self.edge_told,
            ..Segment::empty(self.isn)
        });
    }
}
