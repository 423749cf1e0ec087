//! What a node tells about its peers and itself.

use std::net::SocketAddr;
use std::time::Duration;

use mischief_actors::connection::WIRE_VERSIONS;
use mischief_actors::identity::PeerId;
use mischief_actors::peers::{Direction, Found};
use mischief_reactor::WallTime;
use serde::Serialize;

/// A connected peer at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerInfo {
    /// Who.
    pub peer: PeerId,
    /// The name that the peer gives itself: at most 64 bytes, and no proof of anything.
    pub name: Option<String>,
    /// The other end of the connection.
    pub addr: SocketAddr,
    /// Who dialled.
    pub direction: Direction,
    /// When it was connected, by the wall clock as it stands now.
    pub since: WallTime,
    /// How the connection is encrypted.
    pub suite: &'static str,
    /// Smoothed round-trip time; `None` before the first measurement.
    pub rtt: Option<Duration>,
    /// Mean deviation of the round-trip time.
    pub rtt_jitter: Option<Duration>,
    /// Bytes received over the network.
    pub bytes_in: u64,
    /// Bytes sent over the network.
    pub bytes_out: u64,
    /// Messages received.
    pub messages_in: u64,
    /// Messages sent.
    pub messages_out: u64,
    /// Bytes that wait to be sent.
    pub queued: usize,
    /// Bytes of messages that the peer takes at this moment.
    pub window: usize,
    /// The largest body of a message that the peer takes, in bytes; 0 while that is not known.
    pub message_max: u32,
    /// The program that it says it runs: at most 64 bytes.
    pub agent: String,
    /// The feature bits that it says it has.
    pub features: u64,
    /// The version of the wire format that the two speak.
    pub wire_version: u8,
    /// How it came to be connected.
    pub found: Found,
    /// It is protected; see [`Node::protect`](super::Node::protect).
    pub is_protected: bool,
    /// Where it can be dialled, as far as is known: `host:port`.
    pub dialable: Option<String>,
}

impl PeerInfo {
    /// A peer of which nothing more is known than these.
    pub fn new(peer: PeerId, addr: SocketAddr, direction: Direction) -> PeerInfo {
        PeerInfo {
            peer,
            name: None,
            addr,
            direction,
            since: WallTime::default(),
            suite: "",
            rtt: None,
            rtt_jitter: None,
            bytes_in: 0,
            bytes_out: 0,
            messages_in: 0,
            messages_out: 0,
            queued: 0,
            window: 0,
            message_max: 0,
            agent: String::new(),
            features: 0,
            wire_version: *WIRE_VERSIONS.end(),
            found: Found::Asked,
            is_protected: false,
            dialable: None,
        }
    }
}

/// Figures about a node at one moment. Nothing has to be asked for them, so they are cheap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct NodeStats {
    /// Connected peers.
    pub peers: usize,
    /// Messages that a callback was called with.
    pub handled: u64,
    /// Messages for which there was no handler.
    pub unhandled: u64,
    /// Messages that were no JSON or no UTF-8 although they said so.
    pub malformed: u64,
    /// Panics of callbacks.
    pub panics: u64,
    /// State events that [`Node::on_event`](super::Node::on_event) did not get because too many waited.
    pub events_lost: u64,
    /// Requests to peers that have no outcome yet.
    pub requests_open: usize,
    /// Requests of peers that have no answer yet.
    pub requests_answering: usize,
    /// Bytes of messages that wait for a callback.
    pub queued_bytes: usize,
    /// Bytes that traffic makes the runtime hold; nodes that share a runtime share the figure.
    pub memory_used: usize,
    /// The most that it may hold.
    pub memory_max: usize,
}
