//! What a simulated TCP packet carries.

/// The payload of a TCP packet and what steers it.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    /// Names the connection attempt, in the role of the two initial sequence numbers: a segment of an earlier
    /// connection between the same addresses is not mistaken for one of this.
    pub(super) id: u64,
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
    pub(super) data: Vec<u8>,
}

impl Segment {
    /// The answer to a segment that belongs to no connection here; none to a reset.
    pub(super) fn reset_for(segment: &Segment) -> Option<Segment> {
        if segment.rst {
            return None;
        }
        Some(Segment::reset(segment.id))
    }

    pub(super) fn reset(id: u64) -> Segment {
        Segment {
            rst: true,
            ..Segment::empty(id)
        }
    }

    pub(super) fn empty(id: u64) -> Segment {
        Segment {
            id,
            syn: false,
            ack: false,
            fin: false,
            rst: false,
            probe: false,
            seq: 0,
            acknowledged: 0,
            edge: 0,
            data: Vec::new(),
        }
    }

    /// A word that tells its flags and length apart, for the trace hash.
    pub(super) fn shape(&self) -> u64 {
        let flags = [self.syn, self.ack, self.fin, self.rst, self.probe];
        let bits = flags
            .iter()
            .fold(0, |bits, flag| bits << 1 | u64::from(*flag));
        self.seq.rotate_left(20) ^ self.acknowledged.rotate_left(40) ^ self.edge ^ (bits << 59)
    }

    /// A short text for a readable trace.
    pub(super) fn describe(&self) -> String {
        let mut text = String::new();
        for (flag, name) in [
            (self.syn, "SYN "),
            (self.fin, "FIN "),
            (self.rst, "RST "),
            (self.probe, "PROBE "),
            (self.ack, "ACK "),
        ] {
            if flag {
                text.push_str(name);
            }
        }
        format!(
            "{text}{}..{} ack {} edge {}",
            self.seq,
            self.seq + self.data.len() as u64,
            self.acknowledged,
            self.edge
        )
    }
}
