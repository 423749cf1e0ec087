//! How many peers, and how long things may take.

use std::time::Duration;

/// The limits of [`Peers`](super::Peers). Each has a stated behaviour when it is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeersLimits {
    /// Connected peers.
    pub peers_max: u32,
    /// Connected peers that dialled us.
    pub inbound_max: u32,
    /// Connected peers that we dialled.
    pub outbound_max: u32,
    /// Dials under way.
    pub dials_max: u32,
    /// Requests that wait for an answer.
    pub requests_max: u32,
    /// Connections that are authenticated but not decided about.
    pub undecided_max: u32,
    /// How long a dial may take with everything, up to the peer's `Accept`.
    pub dial_deadline: Duration,
    /// How long a kept connection has to answer a ping when another connection to the same peer wants its place.
    pub probe_deadline: Duration,
    /// How long other connections to a peer wait for its verdict on ours. Longer than `probe_deadline`, because the peer may be
    /// probing meanwhile; well below the deadline of a handshake, because theirs runs.
    pub hold_deadline: Duration,
    /// How long connections have to report their figures.
    pub report_deadline: Duration,
}

impl Default for PeersLimits {
    /// 128 peers, half of them inbound at most: so a node that is dialled by many still has room for those it chose itself.
    fn default() -> Self {
        PeersLimits {
            peers_max: 128,
            inbound_max: 64,
            outbound_max: 128,
            dials_max: 64,
            requests_max: 1024,
            undecided_max: 256,
            dial_deadline: Duration::from_secs(35),
            probe_deadline: Duration::from_secs(2),
            hold_deadline: Duration::from_secs(4),
            report_deadline: Duration::from_millis(500),
        }
    }
}

impl PeersLimits {
    /// So many peers as a user asked for, in either direction.
    pub fn with_peers_max(peers_max: u32) -> PeersLimits {
        PeersLimits {
            peers_max,
            inbound_max: peers_max,
            outbound_max: peers_max,
            ..PeersLimits::default()
        }
    }
}
