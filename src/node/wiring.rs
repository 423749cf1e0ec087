//! Where the node's handle meets its actors.

use std::any::Any;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mischief_actors::connection::dial::Endpoint;
use mischief_actors::connection::reason::DisconnectReason;
use mischief_actors::identity::PeerId;
use mischief_actors::peers::actor::PeersActor;
use mischief_actors::peers::{Direction, Notice};
use mischief_reactor::{ActorId, Address, Answer};

use super::dispatch::Hub;
use super::error::{ConnectError, NodeError};
use super::events::NodeEvent;
use super::info::PeerInfo;

/// What a node asks of the actors behind it. Every answer has a deadline of its own.
pub(crate) trait Backend: Send + Sync {
    /// Dials, and answers when the peer is announced. A peer that is connected already is a success.
    fn connect(
        &self,
        endpoint: Endpoint,
        expected: Option<PeerId>,
    ) -> Answer<Result<PeerId, ConnectError>>;

    /// Ends a connection after what was queued for it has been written.
    fn disconnect(&self, peer: PeerId) -> Answer<Result<(), NodeError>>;

    /// All connected peers.
    fn list(&self) -> Answer<Result<Vec<PeerInfo>, NodeError>>;

    /// One connected peer.
    fn peer(&self, peer: PeerId) -> Answer<Result<PeerInfo, NodeError>>;

    /// Accepts messages of up to 16 MiB from a peer, now and whenever it is connected.
    fn trust(&self, peer: PeerId) -> Answer<Result<(), NodeError>>;

    /// Who keeps the node connected, to be asked about bans, lost peers and the address book.
    fn peers(&self) -> Option<Address<PeersActor>>;

    /// From now on this actor is stopped with the node.
    fn adopt(&self, actor: ActorId) {
        let _ = actor;
    }

    /// Stops listening, closes every connection in good order, and answers when the last is gone; at the latest after
    /// `deadline`.
    fn stop(&self, deadline: Duration) -> Answer<Result<(), NodeError>>;
}

/// What is known of a connection when its peer is announced.
pub(crate) struct Announced {
    pub(crate) addr: SocketAddr,
    pub(crate) direction: Direction,
    pub(crate) suite: &'static str,
    pub(crate) name: Option<Arc<str>>,
}

/// What the actors tell the node. [`Hub::connected`] comes before the connection may deliver; what it delivers after
/// [`Hub::disconnected`] is dropped.
impl Hub {
    /// The peer is in the roster.
    pub(crate) fn connected(&self, peer: PeerId, about: Announced) {
        self.announce(NodeEvent::PeerConnected {
            peer,
            addr: about.addr,
            direction: about.direction,
            suite: about.suite,
            name: about.name,
        });
    }

    /// The peer is no longer in the roster, and its link is muted.
    pub(crate) fn disconnected(&self, peer: PeerId, reason: DisconnectReason) {
        self.desk.peer_gone(peer);
        self.announce(NodeEvent::PeerDisconnected { peer, reason });
    }

    /// Something else has happened to the network around the node.
    pub(crate) fn noticed(&self, notice: Notice) {
        self.announce(NodeEvent::Network(notice));
    }
}

/// What is kept for as long as the node runs: the lock on its data directory.
pub(crate) type Kept = Option<Box<dyn Any + Send + Sync>>;
