//! What a simulated TCP packet carries.

use std::fmt;

/// Bytes of the options of a first segment: maximum segment size, and the window scale with a no-op before it.
pub(super) const SYN_OPTIONS: usize = 8;

/// The payload of a TCP packet and what steers it.
///
/// Positions count the bytes of a stream from 0 on and never wrap. On a wire a position is a sequence number: the
/// initial one, which the first segment itself takes, plus one, plus the position.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    /// The sender's initial sequence number, which tells this connection from an earlier one between the same
    /// addresses.
    pub(super) isn: u32,
    /// The peer's, as far as the sender knows; holds if `ack` does.
    pub(super) peer_isn: u32,
    pub(super) syn: bool,
    pub(super) ack: bool,
    pub(super) fin: bool,
    pub(super) rst: bool,
    /// Asks for an acknowledgement although nothing is carried: a closed window is probed with it.
    pub(super) probe: bool,
    /// Position in the stream of the first byte of `data`.
    pub(super) seq: u64,
    /// Position in the peer's stream up to which everything has arrived.
    pub(super) acknowledged: u64,
    /// Position in the peer's stream up to which it may send.
    pub(super) edge: u64,
    /// On a first segment: the most bytes of payload that the sender takes in one segment. Links on the way lower it to
    /// what they carry, as home routers do.
    pub(super) mss: u32,
    pub(super) data: Vec<u8>,
}

impl Segment {
    pub(super) fn empty(isn: u32) -> Segment {
        Segment {
            isn,
            peer_isn: 0,
            syn: false,
            ack: false,
            fin: false,
            rst: false,
            probe: false,
            seq: 0,
            acknowledged: 0,
            edge: 0,
            mss: u32::MAX,
            data: Vec::new(),
        }
    }

    /// The answer to a segment that belongs to no connection here; none to a reset (RFC 9293 §3.10.7.1).
    pub(super) fn reset_for(segment: &Segment) -> Option<Segment> {
        if segment.rst {
            return None;
        }
        if segment.ack {
            // It starts where the peer believes us to be.
            return Some(Segment {
                rst: true,
                seq: segment.acknowledged,
                ..Segment::empty(segment.peer_isn)
            });
        }
        // Sequence number 0, which is one more than this initial one.
        Some(Segment {
            rst: true,
            ack: true,
            peer_isn: segment.isn,
            acknowledged: segment.seq + segment.data.len() as u64,
            ..Segment::empty(u32::MAX)
        })
    }

    /// Bytes of options that its header has on a wire.
    pub(super) fn options_len(&self) -> usize {
        if self.syn { SYN_OPTIONS } else { 0 }
    }

    /// Whether it opens a connection.
    pub(super) fn is_first(&self) -> bool {
        self.syn && !self.ack
    }

    /// A word that tells its flags and positions apart, for the trace hash.
    pub(super) fn shape(&self) -> u64 {
        let flags = [self.syn, self.ack, self.fin, self.rst, self.probe];
        let bits = flags
            .iter()
            .fold(0, |bits, flag| bits << 1 | u64::from(*flag));
        self.seq.rotate_left(20) ^ self.acknowledged.rotate_left(40) ^ self.edge ^ (bits << 59)
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (flag, name) in [
            (self.syn, "SYN "),
            (self.fin, "FIN "),
            (self.rst, "RST "),
            (self.probe, "PROBE "),
        ] {
            if flag {
                f.write_str(name)?;
            }
        }
        if self.data.is_empty() {
            write!(f, "at {}", self.seq)?;
        } else {
            let end = self.seq + self.data.len() as u64;
            write!(f, "bytes {}..{end}", self.seq)?;
        }
        if self.ack {
            let room = self.edge.saturating_sub(self.acknowledged);
            write!(f, ", ACK {} window {room}", self.acknowledged)?;
        }
        Ok(())
    }
}
