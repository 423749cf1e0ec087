//! What goes in and out of [`Peers`](super::Peers): names, orders, events, answers.

use std::net::SocketAddr;
use std::time::Duration;

use mischief_reactor::{Instant, WallTime};

use super::PeerId;
use super::error::ConnectError;
use crate::connection::{DisconnectReason, Endpoint, RefusedReason, Suite};

/// A connected peer: its place in the table and a generation, in 8 bytes. How subsystems name a peer.
///
/// It stands for one connection: when the connection is replaced the peer gets another, so that nobody takes the order of
/// messages on two connections for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerRef {
    pub(super) index: u32,
    pub(super) generation: u32,
}

/// An order to dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DialId(pub u32);

/// A question that is answered by exactly one [`Answer`]. Chosen by the owner, unique among the open ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// One question whether a connection is alive. An answer to an older one proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProbeToken(pub u32);

/// Who began a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// The peer dialled us.
    Inbound,
    /// We dialled the peer.
    Outbound,
}

impl Direction {
    /// The stable name for programs: part of the JSON interface.
    pub const fn name(self) -> &'static str {
        match self {
            Direction::Inbound => "in",
            Direction::Outbound => "out",
        }
    }
}

/// What the handshake has proved about the other side, and what the other side says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Introduction {
    /// The largest body of a message that it takes, in bytes.
    pub message_max: u32,
    /// Who it is, by its signature.
    pub peer: PeerId,
    /// The address on the other end of the socket.
    pub addr: SocketAddr,
    /// How frames are protected.
    pub suite: Suite,
    /// The name it gives itself, of at most [`NAME_BYTES_MAX`](super::NAME_BYTES_MAX) bytes. Proves nothing.
    pub name: Option<Box<str>>,
}

/// What the owner has to do. `C` names a connection actor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order<C> {
    /// Look up and connect to an endpoint. The outcome is [`handle_identified`](super::Peers::handle_identified) or
    /// [`handle_dial_failed`](super::Peers::handle_dial_failed).
    Dial {
        /// The dial.
        dial: DialId,
        /// Where to.
        endpoint: Endpoint,
    },
    /// Try this endpoint as well, within a dial that is under way.
    DialAlso {
        /// The dial.
        dial: DialId,
        /// Where to.
        endpoint: Endpoint,
    },
    /// Give a dial up. Nothing is to be reported of it any more.
    CancelDial {
        /// The dial.
        dial: DialId,
    },
    /// To a dialling connection that was reported as identified: send message 3.
    Proceed {
        /// The connection.
        connection: C,
    },
    /// The connection is in use. An inbound one sends its `Accept` now; messages may flow either way.
    Keep {
        /// The connection.
        connection: C,
        /// The peer's name from now on.
        peer: PeerRef,
    },
    /// The connection is not wanted: say why (`Reject` before message 3, `Close` after it) and close. It was never kept.
    Refuse {
        /// The connection.
        connection: C,
        /// Why.
        reason: RefusedReason,
    },
    /// Send a new ping on a kept connection now, and report the answer to it, and to no older one, with
    /// [`handle_alive`](super::Peers::handle_alive).
    Probe {
        /// The connection.
        connection: C,
        /// For the report.
        token: ProbeToken,
    },
    /// Report a kept connection's figures with [`handle_report`](super::Peers::handle_report).
    Report {
        /// The connection.
        connection: C,
        /// Its peer, for the report.
        peer: PeerRef,
    },
    /// Close a kept connection, and report it with [`handle_closed`](super::Peers::handle_closed) once it answers no pings any
    /// more; it may go on to send what is queued.
    Close {
        /// The connection.
        connection: C,
        /// Why.
        reason: DisconnectReason,
    },
}

/// A fact for everybody who cares about peers. Each connected peer gives one `Connected` and one `Disconnected`, in this
/// order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeersEvent {
    /// A peer is connected.
    Connected {
        /// The peer.
        peer: PeerRef,
        /// Who it is.
        id: PeerId,
        /// The address on the other end of the socket.
        addr: SocketAddr,
        /// Who began the connection.
        direction: Direction,
        /// How frames are protected.
        suite: Suite,
        /// The name it gives itself.
        name: Option<Box<str>>,
    },
    /// A peer is no longer connected.
    Disconnected {
        /// The peer.
        peer: PeerRef,
        /// Who it was.
        id: PeerId,
        /// The address on the other end of the socket.
        addr: SocketAddr,
        /// Who had begun the connection.
        direction: Direction,
        /// Since when it had been connected.
        since: Instant,
        /// Why.
        reason: DisconnectReason,
    },
    /// A peer dialled us from another address than that of its connection, which is alive: two machines may have the same
    /// identity. The newcomer was refused.
    SeenTwice {
        /// Who both claim, and have proved, to be.
        id: PeerId,
        /// Where the connected one is.
        addr: SocketAddr,
        /// Where the other one is.
        other: SocketAddr,
    },
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To [`handle_connect`](super::Peers::handle_connect).
    Connect {
        /// The request.
        request: RequestId,
        /// The connected peer, or why there is none.
        result: Result<(PeerRef, PeerId), ConnectError>,
    },
    /// To [`handle_list`](super::Peers::handle_list): the connected peers in a stable order.
    List {
        /// The request.
        request: RequestId,
        /// One record for each peer.
        peers: Vec<PeerRecord>,
    },
}

/// What a connection has carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Traffic {
    /// Smoothed round-trip time; `None` before the first measurement.
    pub rtt: Option<Duration>,
    /// Mean deviation from the round-trip time.
    pub rtt_jitter: Option<Duration>,
    /// Bytes received, frames included.
    pub bytes_in: u64,
    /// Bytes sent, frames included.
    pub bytes_out: u64,
    /// Application messages received.
    pub messages_in: u64,
    /// Application messages sent.
    pub messages_out: u64,
    /// Bytes that wait to be sent.
    pub queued: usize,
    /// Bytes of application messages that the peer takes at this moment.
    pub credit: usize,
    /// The largest body of a message that the peer takes, in bytes.
    pub message_max: u32,
}

/// Everything about one connected peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerRecord {
    /// The peer.
    pub peer: PeerRef,
    /// Who it is.
    pub id: PeerId,
    /// The name it gives itself.
    pub name: Option<Box<str>>,
    /// The address on the other end of the socket.
    pub addr: SocketAddr,
    /// Who began the connection.
    pub direction: Direction,
    /// How frames are protected.
    pub suite: Suite,
    /// When it was connected. Kept on the monotonic clock; see [`PeerRecord::since_wall`].
    pub since: Instant,
    /// What the connection has carried; `None` if it did not report in time.
    pub traffic: Option<Traffic>,
}

impl PeerRecord {
    /// When it was connected by the wall clock as it stands now. On a machine whose clock is set late the answer becomes
    /// right when the clock does.
    pub fn since_wall(&self, now: Instant, wall: WallTime) -> WallTime {
        let elapsed = now.saturating_duration_since(self.since).as_nanos();
        let elapsed = u64::try_from(elapsed).unwrap_or(u64::MAX);
        WallTime::from_unix_nanos(wall.as_unix_nanos().saturating_sub(elapsed))
    }
}
