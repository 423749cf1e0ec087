//! The public handle of a node: [`Node`], made by a [`NodeBuilder`].
//!
//! A node's actors live on the cores of a runtime. Outside of them are the threads of the program, which hold handles:
//! they encode what they send into memory shared with a connection, and are called back with what was received.
//!
//! What this deliberately leaves out: who may connect and why (`actors/peers`), the wire (`actors/connection`), and
//! every decision of a subsystem. It keeps no state about peers beyond the way to each.
//!
//! | file | what |
//! |---|---|
//! | `builder.rs` | [`NodeBuilder`], [`Limits`], the start |
//! | `wiring.rs` | what the node asks of its actors, and what they tell it |
//! | `dispatch.rs` | received messages and events on their way to the callbacks; [`Callbacks`] |
//! | `run.rs` | calling them |
//! | `handlers.rs` | who is called with what; [`Registration`], [`Guard`] |
//! | `outgoing.rs` | sending; [`Outgoing`] |
//! | `json.rs` | how much JSON is taken |
//! | `requests.rs` | asking and answering; [`Requested`], [`Responder`] |
//! | `network.rs` | lost peers, bans, the address book; what outlives the node |
//! | `dht.rs` | [`Dht`]: [`Node::dht`] |
//! | `launch.rs` | the actors: spawned, told to listen, asked and stopped |
//! | `warden.rs` | what becomes of a node a part of which has failed |
//! | `reachable.rs` | where other machines may reach a node |
//! | `events.rs` | [`NodeEvent`], [`Events`] |
//! | `pending.rs` | answers that come later: [`Pending`], [`Sent`], [`Broadcast`] |
//! | `mdns.rs` | the local network; [`Mdns`] |
//! | `discovery.rs` | what was found, on its way to who decides whom to dial |
//! | `info.rs`, `error.rs` | what is told, and what can go wrong |

mod builder;
mod dht;
mod discovery;
mod dispatch;
mod error;
mod events;
mod handlers;
mod info;
mod json;
mod launch;
mod mdns;
mod network;
mod outgoing;
mod pending;
mod reachable;
mod requests;
mod run;
#[cfg(test)]
mod tests;
mod warden;
mod wiring;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use mischief_actors::connection::endpoint::parse_addr;
use mischief_actors::connection::{Kind, SendError};
use mischief_actors::dht::actor::DhtActor;
use mischief_actors::identity::{PeerId, PeerIdPrefix};
use mischief_reactor::io::doorbell::Descriptor;
use mischief_reactor::{Address, Handle, Runtime, Signal};
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

pub use builder::{Limits, NAME_BYTES_MAX, NodeBuilder};
pub use dht::{
    DHT_DEADLINE, Dht, DhtError, DhtMutable, DhtOptions, DhtPut, DhtSample, DhtScrape, Finding,
    discovery_hash,
};
pub use dispatch::Callbacks;
pub use error::{ConnectError, FindError, NodeError, StartError};
pub use events::{EVENTS_QUEUE_DEFAULT, Events, NodeEvent};
pub use handlers::{Guard, Registration};
pub use info::{NodeStats, PeerInfo};
pub use json::JSON_DEPTH_MAX;
pub use mdns::{MDNS_TYPE_DEFAULT, Mdns};
pub use mischief_actors::discovery::{Candidate, Source};
pub use mischief_actors::mdns::{
    Found as MdnsFound, InterestId, MdnsError, MdnsEvent, MdnsFailure, MdnsStats, Service,
    ServiceId, ServiceType, Txt, actor::MdnsReport,
};
pub use mischief_actors::messages::{RequestError, RequestLimits};
pub use mischief_actors::peers::actor::UpkeepError;
pub use mischief_actors::peers::{
    BookEntry, Direction, Found, GaveUp, Group, Notice, ParseSubnetError, ReconnectPolicy, Subnet,
    Target, Waiting, Waits,
};
pub use outgoing::Outgoing;
pub use pending::{Broadcast, Connecting, Delivered, Each, EachResult, Pending, Sent};
pub use requests::{BadBody, Body, Refusal, Request, Requested, Responder};

use dispatch::Hub;
use wiring::{Backend, Kept};

/// How long a node that is dropped lets its connections end in good order.
const DROP_DEADLINE: Duration = Duration::from_secs(5);

/// A received message, as [`Node::on_any`] gets it.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Message<'a> {
    /// A JSON value.
    Json {
        /// Its type.
        name: &'a str,
        /// The value.
        value: &'a Value,
    },
    /// A text.
    Text(&'a str),
    /// Bytes.
    Bytes(&'a [u8]),
}

/// A handle to a running node. Clones are the same node; when the last is dropped the node ends in good order.
///
/// A callback that holds a clone keeps the node running until [`Node::stop`]; one that should not holds a
/// [`WeakNode`].
#[derive(Clone)]
pub struct Node(Arc<Core>);

/// A handle that does not keep its node running.
#[derive(Clone)]
pub struct WeakNode(Weak<Core>);

impl WeakNode {
    /// The node, if a handle to it is left.
    pub fn upgrade(&self) -> Option<Node> {
        self.0.upgrade().map(Node)
    }
}

impl fmt::Debug for WeakNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WeakNode")
    }
}

/// What a node is put together from.
pub(crate) struct Parts {
    pub(crate) id: PeerId,
    pub(crate) hub: Arc<Hub>,
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) finder: Arc<discovery::Finder>,
    pub(crate) mdns: Arc<mdns::Subsystem>,
    pub(crate) runtime: Option<Runtime>,
    pub(crate) kept: Kept,
}

struct Core {
    id: PeerId,
    /// Set once, at the end of the start.
    listen_addrs: OnceLock<Vec<SocketAddr>>,
    hub: Arc<Hub>,
    backend: Arc<dyn Backend>,
    finder: Arc<discovery::Finder>,
    mdns: Arc<mdns::Subsystem>,
    /// Set once, at the end of the start.
    dht: OnceLock<Address<DhtActor>>,
    runtime: Mutex<Option<Runtime>>,
    kept: Mutex<Kept>,
    is_stopping: AtomicBool,
    has_stopped: AtomicBool,
    stopped: Signal,
}

impl Node {
    /// A node with nothing said about it yet: it would listen nowhere and keep nothing.
    pub fn builder() -> NodeBuilder {
        NodeBuilder::new()
    }

    pub(crate) fn assemble(parts: Parts) -> Node {
        Node(Arc::new(Core {
            id: parts.id,
            listen_addrs: OnceLock::new(),
            hub: parts.hub,
            backend: parts.backend,
            dht: OnceLock::new(),
            finder: parts.finder,
            mdns: parts.mdns,
            runtime: Mutex::new(parts.runtime),
            kept: Mutex::new(parts.kept),
            is_stopping: AtomicBool::new(false),
            has_stopped: AtomicBool::new(false),
            stopped: Signal::default(),
        }))
    }

    /// A handle that does not keep the node running.
    pub fn downgrade(&self) -> WeakNode {
        WeakNode(Arc::downgrade(&self.0))
    }

    /// Who this node is.
    pub fn id(&self) -> PeerId {
        self.0.id
    }

    /// Where it accepts peers, with the ports that the system chose. Empty within [`NodeBuilder::on_start`].
    pub fn listen_addrs(&self) -> &[SocketAddr] {
        self.0.listen_addrs.get().map_or(&[], Vec::as_slice)
    }

    pub(crate) fn set_listen_addrs(&self, addrs: Vec<SocketAddr>) {
        self.0.mdns.set_listen_addrs(&addrs);
        let is_new = self.0.listen_addrs.set(addrs).is_ok();
        assert!(is_new, "a node starts to listen once");
    }

    pub(crate) fn start_dht(
        &self,
        options: &DhtOptions,
        protocol: &(String, String),
        directory: Option<String>,
    ) -> Result<(), StartError> {
        let (hub, finder) = (self.hub(), self.0.finder.clone());
        if options.discovery
            && let Err(error) = finder.start()
        {
            log::warn!("nobody who is found in the DHT will be dialled: {error}");
        }
        let listen = self.listen_addrs();
        let address = dht::launch(options, protocol, directory, listen, hub, finder)?;
        self.0.backend.adopt(address.id());
        let is_new = self.0.dht.set(address).is_ok();
        assert!(is_new, "a node starts its DHT once");
        Ok(())
    }

    /// The Mainline DHT, if [`NodeBuilder::dht`] asked for it; otherwise every call of it says so.
    pub fn dht(&self) -> Dht {
        Dht::new(self.hub(), self.0.dht.get().copied())
    }

    /// Where other machines may reach it: the addresses that it listens on, with `0.0.0.0` and `[::]` replaced by the
    /// addresses of the interfaces that are up. Loopback and link-local addresses are left out, for they lead nowhere
    /// from elsewhere. Whether a firewall or a NAT stands in the way is not known here.
    pub fn reachable_addrs(&self) -> Vec<SocketAddr> {
        let handle = &self.hub().handle;
        let interfaces = match handle.interfaces() {
            Ok(Ok(interfaces)) => interfaces,
            Ok(Err(error)) => {
                log::info!("the interfaces of this machine cannot be listed: {error}");
                Vec::new()
            }
            Err(error) => {
                log::info!("the interfaces of this machine cannot be listed: {error}");
                Vec::new()
            }
        };
        reachable::expand(self.listen_addrs(), &interfaces)
    }

    /// The runtime that it is on.
    pub fn runtime(&self) -> &Handle {
        &self.hub().handle
    }

    // ---- peers

    /// Connects to `host:port`; the host is a name, an IPv4 address or an IPv6 address in brackets. The answer is who is
    /// there, authenticated. A peer that is connected already is a success.
    pub fn connect(&self, addr: &str) -> Connecting {
        self.dial(addr, None)
    }

    /// Connects only if `peer` is who answers there.
    pub fn connect_expecting(&self, addr: &str, peer: PeerId) -> Connecting {
        self.dial(addr, Some(peer))
    }

    fn dial(&self, addr: &str, expected: Option<PeerId>) -> Connecting {
        match parse_addr(addr) {
            Ok(endpoint) => Pending::asked(self.hub(), self.0.backend.connect(endpoint, expected)),
            Err(error) => Pending::known(self.hub(), Err(ConnectError::from(error))),
        }
    }

    /// Disconnects a peer after what was sent to it has been written.
    pub fn disconnect(&self, peer: &PeerId) -> Pending<(), NodeError> {
        Pending::asked(self.hub(), self.0.backend.disconnect(*peer))
    }

    /// The connected peers with everything about them.
    pub fn peers(&self) -> Pending<Vec<PeerInfo>, NodeError> {
        Pending::asked(self.hub(), self.0.backend.list())
    }

    /// Everything about one connected peer.
    pub fn peer(&self, peer: &PeerId) -> Pending<PeerInfo, NodeError> {
        Pending::asked(self.hub(), self.0.backend.peer(*peer))
    }

    /// The ids of the connected peers, at once.
    pub fn peer_ids(&self) -> Vec<PeerId> {
        self.hub().roster.ids()
    }

    /// Whether a peer is connected, at once.
    pub fn is_connected(&self, peer: &PeerId) -> bool {
        self.hub().roster.contains(peer)
    }

    /// The only connected peer whose id begins so, at once.
    pub fn find(&self, prefix: &PeerIdPrefix) -> Result<PeerId, FindError> {
        match self.hub().roster.matching(prefix) {
            (None, _) => Err(FindError::None),
            (Some(peer), 1) => Ok(peer),
            (Some(_), count) => Err(FindError::Several(count)),
        }
    }

    /// Accepts messages of up to 16 MiB from a peer, where others may send 1 MiB.
    pub fn trust(&self, peer: &PeerId) -> Pending<(), NodeError> {
        Pending::asked(self.hub(), self.0.backend.trust(*peer))
    }

    // ---- finding

    /// Services on the local network, and this node among them.
    pub fn mdns(&self) -> Mdns {
        Mdns(self.0.mdns.clone())
    }

    /// Everybody who was found by any source, connected or not, with where and by whom.
    pub fn found_peers(&self) -> Pending<Vec<Candidate>, NodeError> {
        self.0.finder.candidates()
    }

    // ---- sending

    /// Sends a JSON value under a type of 1 to 128 bytes. Messages to one peer arrive in the order in which they were
    /// sent.
    pub fn send<T: Serialize + ?Sized>(&self, peer: &PeerId, kind: &str, value: &T) -> Sent {
        self.hub().send_json(peer, kind, value)
    }

    /// Sends a text.
    pub fn send_text(&self, peer: &PeerId, text: &str) -> Sent {
        self.hub().send(peer, Kind::Text, "", text.as_bytes())
    }

    /// Sends bytes.
    pub fn send_bytes(&self, peer: &PeerId, bytes: &[u8]) -> Sent {
        self.hub().send(peer, Kind::Bytes, "", bytes)
    }

    /// Sends a text under a type of up to 128 bytes.
    pub fn send_text_as(&self, peer: &PeerId, kind: &str, text: &str) -> Sent {
        self.hub().send(peer, Kind::Text, kind, text.as_bytes())
    }

    /// Sends bytes under a type of up to 128 bytes.
    pub fn send_bytes_as(&self, peer: &PeerId, kind: &str, bytes: &[u8]) -> Sent {
        self.hub().send(peer, Kind::Bytes, kind, bytes)
    }

    /// Sends bytes that are shared instead of copied; see [`Outgoing::send_shared`].
    pub fn send_shared(&self, peer: &PeerId, bytes: &Arc<[u8]>) -> Sent {
        self.hub().send_shared(peer, bytes)
    }

    /// Sends a JSON value to every connected peer.
    pub fn broadcast<T: Serialize + ?Sized>(&self, kind: &str, value: &T) -> Broadcast {
        self.hub().broadcast_json(kind, value)
    }

    /// Sends a text to every connected peer.
    pub fn broadcast_text(&self, text: &str) -> Broadcast {
        self.hub().broadcast(Kind::Text, "", text.as_bytes())
    }

    /// Sends bytes to every connected peer.
    pub fn broadcast_bytes(&self, bytes: &[u8]) -> Broadcast {
        self.hub().broadcast(Kind::Bytes, "", bytes)
    }

    /// Sends a JSON value to each of these peers; to those that are not connected it fails. [`Broadcast::each`] tells the
    /// fate for each of them.
    pub fn send_to<T: Serialize + ?Sized>(
        &self,
        peers: &[PeerId],
        kind: &str,
        value: &T,
    ) -> Broadcast {
        self.hub().send_json_to(peers, kind, value)
    }

    /// Sends a text to each of these peers, as [`Node::send_to`] does.
    pub fn send_text_to(&self, peers: &[PeerId], text: &str) -> Broadcast {
        self.hub().send_to(peers, Kind::Text, "", text.as_bytes())
    }

    /// Sends bytes to each of these peers, as [`Node::send_to`] does.
    pub fn send_bytes_to(&self, peers: &[PeerId], bytes: &[u8]) -> Broadcast {
        self.hub().send_to(peers, Kind::Bytes, "", bytes)
    }

    /// The way to one connected peer, for sending much.
    pub fn outgoing(&self, peer: &PeerId) -> Result<Outgoing, SendError> {
        let link = self.hub().link_to(peer)?;
        Ok(Outgoing::new(link, self.hub().clone()))
    }

    // ---- receiving

    /// Calls `handler` with every JSON message of a type. A message whose value would take more than a quarter of the node's
    /// memory, or that is nested more than [`JSON_DEPTH_MAX`] deep, counts as malformed. Several handlers of one type are called in the order in which
    /// they were added. It stays until it is removed through what this returns.
    pub fn on(
        &self,
        kind: &str,
        handler: impl Fn(&PeerId, &Value) + Send + Sync + 'static,
    ) -> Registration {
        let id = self.hub().handlers.add_json(kind, false, handler);
        self.registration(id)
    }

    /// Calls `handler` with the next JSON message of a type, and then no more.
    pub fn once(
        &self,
        kind: &str,
        handler: impl Fn(&PeerId, &Value) + Send + Sync + 'static,
    ) -> Registration {
        let id = self.hub().handlers.add_json(kind, true, handler);
        self.registration(id)
    }

    /// Calls `handler` with every JSON message of a type that has the shape of a `T`. Others of the type are counted as
    /// malformed, unless another handler reads them.
    pub fn on_typed<T: DeserializeOwned>(
        &self,
        kind: &str,
        handler: impl Fn(&PeerId, T) + Send + Sync + 'static,
    ) -> Registration {
        let id = self.hub().handlers.add_typed(kind, false, handler);
        self.registration(id)
    }

    /// Calls `handler` with the next JSON message of a type that has the shape of a `T`, and then no more.
    pub fn once_typed<T: DeserializeOwned>(
        &self,
        kind: &str,
        handler: impl Fn(&PeerId, T) + Send + Sync + 'static,
    ) -> Registration {
        let id = self.hub().handlers.add_typed(kind, true, handler);
        self.registration(id)
    }

    /// Calls `handler` with every text that was sent under a type.
    pub fn on_text_as(
        &self,
        kind: &str,
        handler: impl Fn(&PeerId, &str) + Send + Sync + 'static,
    ) -> Registration {
        let id = self.hub().handlers.add_text_as(kind, false, handler);
        self.registration(id)
    }

    /// Calls `handler` with the next text that was sent under a type, and then no more.
    pub fn once_text_as(
        &self,
        kind: &str,
        handler: impl Fn(&PeerId, &str) + Send + Sync + 'static,
    ) -> Registration {
        let id = self.hub().handlers.add_text_as(kind, true, handler);
        self.registration(id)
    }

    /// Calls `handler` with all bytes that were sent under a type.
    pub fn on_bytes_as(
        &self,
        kind: &str,
        handler: impl Fn(&PeerId, &[u8]) + Send + Sync + 'static,
    ) -> Registration {
        let id = self.hub().handlers.add_bytes_as(kind, false, handler);
        self.registration(id)
    }

    /// Calls `handler` with the next bytes that were sent under a type, and then no more.
    pub fn once_bytes_as(
        &self,
        kind: &str,
        handler: impl Fn(&PeerId, &[u8]) + Send + Sync + 'static,
    ) -> Registration {
        let id = self.hub().handlers.add_bytes_as(kind, true, handler);
        self.registration(id)
    }

    /// Removes all handlers of a type of messages and tells how many there were. Those that take every text, all bytes, or
    /// everything stay, and so do those of requests.
    pub fn off(&self, kind: &str) -> usize {
        self.hub().handlers.remove_named(kind)
    }

    /// Calls `handler` with every text, under whatever type it was sent, after the handlers of the type.
    pub fn on_text(&self, handler: impl Fn(&PeerId, &str) + Send + Sync + 'static) -> Registration {
        let id = self.hub().handlers.add_text(false, handler);
        self.registration(id)
    }

    /// Calls `handler` with the next text, and then no more.
    pub fn once_text(
        &self,
        handler: impl Fn(&PeerId, &str) + Send + Sync + 'static,
    ) -> Registration {
        let id = self.hub().handlers.add_text(true, handler);
        self.registration(id)
    }

    /// Calls `handler` with every message of bytes, under whatever type it was sent, after the handlers of the type.
    pub fn on_bytes(
        &self,
        handler: impl Fn(&PeerId, &[u8]) + Send + Sync + 'static,
    ) -> Registration {
        let id = self.hub().handlers.add_bytes(false, handler);
        self.registration(id)
    }

    /// Calls `handler` with the next message of bytes, and then no more.
    pub fn once_bytes(
        &self,
        handler: impl Fn(&PeerId, &[u8]) + Send + Sync + 'static,
    ) -> Registration {
        let id = self.hub().handlers.add_bytes(true, handler);
        self.registration(id)
    }

    /// Calls `handler` with every message, after the handlers of its kind and type.
    pub fn on_any(
        &self,
        handler: impl Fn(&PeerId, &Message<'_>) + Send + Sync + 'static,
    ) -> Registration {
        let id = self.hub().handlers.add_any(handler);
        self.registration(id)
    }

    /// Calls `handler` with every state event, in order with the messages: a peer is connected before its first message
    /// and disconnected after its last.
    pub fn on_event(&self, handler: impl Fn(&NodeEvent) + Send + Sync + 'static) -> Registration {
        let id = self.hub().handlers.add_event(handler);
        self.registration(id)
    }

    fn registration(&self, id: handlers::HandlerId) -> Registration {
        Registration::new(self.hub().weak(), id)
    }

    /// State events from now on, through a queue of 1,024.
    pub fn events(&self) -> Events {
        self.events_with_capacity(EVENTS_QUEUE_DEFAULT)
    }

    /// State events from now on, through a queue of `capacity`.
    pub fn events_with_capacity(&self, capacity: usize) -> Events {
        Events::subscribe(self.hub(), capacity)
    }

    /// With [`Callbacks::Pump`]: calls the callbacks of everything that waits, after waiting at most `timeout` for
    /// something. How many messages and events were handled. 0 from within a callback, while another thread pumps, and
    /// with any other mode.
    pub fn pump(&self, timeout: Duration) -> usize {
        self.hub().pump(timeout)
    }

    /// With [`Callbacks::Pump`]: a descriptor that is readable while something waits for [`Node::pump`]. Only wait for
    /// it; it belongs to the node and is valid as long as a handle to it is left.
    pub fn event_descriptor(&self) -> io::Result<Descriptor> {
        if self.hub().callbacks != Callbacks::Pump {
            return Err(io::ErrorKind::Unsupported.into());
        }
        Ok(self.hub().doorbell()?.descriptor())
    }

    /// Figures about the node.
    pub fn stats(&self) -> NodeStats {
        let hub = self.hub();
        let tally = hub.tally();
        let (requests_open, requests_answering) = hub.desk.open();
        NodeStats {
            requests_open,
            requests_answering,
            peers: hub.roster.len(),
            handled: tally.handled,
            unhandled: tally.unhandled,
            malformed: tally.malformed,
            panics: tally.panics,
            events_lost: tally.events_lost,
            queued_bytes: hub.queued_bytes(),
            memory_used: hub.handle.memory().used(),
            memory_max: hub.handle.memory().max(),
        }
    }

    /// Stops the node: it accepts nothing more, what was sent is written, connections are closed, and the callbacks of
    /// what was received are called. `false` if not all of that was done within `deadline`; what is left is dropped.
    ///
    /// From within a callback, and on a core thread, it does not wait for what cannot end before it returns. With
    /// [`Callbacks::Pump`] what is left of the messages and events waits for [`Node::pump`].
    pub fn stop(&self, deadline: Duration) -> bool {
        self.0.stop(deadline)
    }

    fn hub(&self) -> &Arc<Hub> {
        &self.0.hub
    }

    fn backend(&self) -> &dyn Backend {
        &*self.0.backend
    }
}

impl Core {
    fn stop(&self, deadline: Duration) -> bool {
        let handle = &self.hub.handle;
        let end = handle.clock().saturating_add(deadline);
        let rest = || end.saturating_sub(handle.clock());
        if self.is_stopping.swap(true, Ordering::AcqRel) {
            let mut has_stopped = || self.has_stopped.load(Ordering::Acquire);
            return handle
                .wait(&self.stopped, &mut has_stopped, Some(rest()))
                .is_ok();
        }
        self.mdns.end();
        self.finder.stop();
        let closed = self.backend.stop(deadline).wait_for(rest());
        let mut in_time = matches!(closed, Ok(Ok(())));
        self.hub.close();
        if let Some(runtime) = self.runtime.lock().take() {
            in_time &= runtime.shutdown(rest());
        }
        in_time &= self.hub.wait_for_end(rest());
        // The data directory is free for another node from here on.
        drop(self.kept.lock().take());
        self.has_stopped.store(true, Ordering::Release);
        self.stopped.notify();
        in_time
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        if !self.is_stopping.load(Ordering::Acquire) && !self.stop(DROP_DEADLINE) {
            log::warn!("the node {} did not end in good order", self.id.short());
        }
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Node({})", self.id().short())
    }
}
