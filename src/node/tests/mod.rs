//! A node without a network: its actors are played by the tests.

mod calls;
mod dispatching;
mod events;
mod handlers;
mod lifecycle;
mod pumping;
mod requests;
mod sending;

use std::net::SocketAddr;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mischief_actors::connection::reason::DisconnectReason;
use mischief_actors::connection::{Deliver, Encoded, Kind, Link, Links, Records};
use mischief_actors::identity::PeerId;
use mischief_actors::messages::RequestLimits;
use mischief_actors::peers::actor::PeersActor;
use mischief_actors::peers::{Introduction, Peers, PeersLimits, Suite};
use mischief_reactor::io::memory::MemoryKind;
use mischief_reactor::{
    Actor, ActorId, Address, Answer, Child, Context, Event, Failure, Handle, Instant, OneShot,
    Reply, Runtime,
};

use super::dispatch::Hub;
use super::wiring::{Announced, Backend};
use super::*;

/// Long enough for anything that comes at all, on any machine.
pub(super) const SOON: Duration = Duration::from_secs(30);

/// For what must not come.
pub(super) const NOT_YET: Duration = Duration::from_millis(50);

/// A node on a real core, with a connection actor that passes on every poke.
pub(super) struct Fixture {
    pub(super) node: Node,
    pub(super) hub: Arc<Hub>,
    pub(super) asked: Receiver<Asked>,
    peers: Mutex<Peers<ActorId>>,
    poked: Sender<()>,
    pokes: Receiver<()>,
    pub(super) check: Check,
}

impl Fixture {
    pub(super) fn new(callbacks: Callbacks) -> Fixture {
        let runtime = Runtime::builder().start().unwrap();
        let handle = runtime.handle();
        let hub = Hub::new(handle.clone(), callbacks, RequestLimits::default());
        let limits = PeersLimits::with_peers_max(1000);
        let peers = Peers::with_roster(peer(255), limits, hub.roster.clone());
        let (poked, pokes) = mpsc::channel();
        let (asks, asked) = mpsc::channel();
        let backend = Arc::new(Played {
            handle,
            asks: Mutex::new(asks),
        });
        let settings = builder::default_settings();
        let finder = Arc::new(discovery::Finder::new(peer(0), 1000, hub.clone()));
        let mdns = mdns::Subsystem::new(&settings, peer(0), &hub, finder.clone()).unwrap();
        let node = Node::assemble(Parts {
            finder,
            mdns: Arc::new(mdns),
            id: peer(0),
            hub: hub.clone(),
            backend,
            runtime: Some(runtime),
            kept: None,
        });
        let check = Check {
            node: node.downgrade(),
            hub: hub.clone(),
        };
        Fixture {
            check,
            node,
            hub,
            asked,
            peers: Mutex::new(peers),
            poked,
            pokes,
        }
    }

    fn connection(&self) -> ActorId {
        let poked = self.poked.clone();
        let connection = self.hub.handle.spawn(0, move || Child::once(Poked(poked)));
        connection.unwrap().id()
    }

    /// A connected peer.
    pub(super) fn connect(&self, number: u8) -> Arc<Link> {
        let introduction = Introduction {
            peer: peer(number),
            message_max: 1 << 20,
            addr: addr(),
            suite: Suite::ChaChaPoly,
            name: None,
        };
        let connection = self.connection();
        let mut peers = self.peers.lock().unwrap();
        peers.handle_inbound(Instant::ZERO, connection, introduction);
        self.hub.connected(peer(number), announced());
        self.hub.roster.link_to(&peer(number)).unwrap()
    }

    /// Takes a peer out of the roster as if this node had disconnected it.
    pub(super) fn forget(&self, peer: &PeerId) {
        let mut peers = self.peers.lock().unwrap();
        peers.handle_disconnect(Instant::ZERO, peer).unwrap();
    }

    pub(super) fn disconnect(&self, link: &Arc<Link>) {
        let (connection, reason) = (link.connection(), DisconnectReason::ByPeer);
        self.hub.roster.close(connection);
        link.close(Arc::from("it is over"));
        let mut peers = self.peers.lock().unwrap();
        peers.handle_closed(Instant::ZERO, connection, reason);
        self.hub.disconnected(*link.peer(), reason);
    }

    /// Has messages come in on a link.
    pub(super) fn receive(&self, link: &Arc<Link>, messages: &[(Kind, &str, &[u8])]) -> usize {
        receive(&self.hub, link, messages)
    }

    /// Waits until so much credit has been given back on a link, and no more.
    #[track_caller]
    pub(super) fn expect_credit(&self, link: &Link, want: usize) {
        let mut credit = 0;
        while credit < want {
            credit += link.take(false, &mut Encoded::new()).consumed as usize;
            if credit < want {
                self.pokes
                    .recv_timeout(SOON)
                    .expect("the rest of the credit");
            }
        }
        assert_eq!(credit, want);
    }

    /// Runs something on the core's thread and waits for what it gives.
    pub(super) fn on_core<R: Send + 'static>(&self, run: impl FnOnce() -> R + Send + 'static) -> R {
        let (done, result) = mpsc::channel();
        let run = Box::new(move || done.send(run()).unwrap());
        self.hub
            .handle
            .spawn(0, move || Child::once(Runs(Some(run))))
            .unwrap();
        result.recv_timeout(SOON).expect("it ran")
    }
}

/// No test leaves anything in the accounts.
pub(super) struct Check {
    node: WeakNode,
    hub: Arc<Hub>,
}

impl Drop for Check {
    fn drop(&mut self) {
        if let Some(node) = self.node.upgrade() {
            node.stop(SOON);
        }
        self.hub.pump(Duration::ZERO);
        self.hub.wait_for_end(SOON);
        if !std::thread::panicking() {
            let memory = self.hub.handle.memory();
            assert_eq!(memory.used_for(MemoryKind::Payloads), 0);
            assert_eq!(memory.used_for(MemoryKind::Queues), 0);
        }
    }
}

pub(super) fn peer(number: u8) -> PeerId {
    PeerId::from_bytes([number; 32])
}

pub(super) fn addr() -> SocketAddr {
    "127.0.0.1:9".parse().unwrap()
}

pub(super) fn announced() -> Announced {
    Announced {
        addr: addr(),
        direction: Direction::Inbound,
        suite: "ChaChaPoly",
        name: None,
    }
}

pub(super) fn encoded(messages: &[(Kind, &str, &[u8])]) -> Encoded {
    let mut encoded = Encoded::new();
    for (kind, name, body) in messages {
        encoded.push(*kind, name, body).unwrap();
    }
    encoded
}

/// Has messages come in on a link, on this thread.
pub(super) fn receive(hub: &Hub, link: &Arc<Link>, messages: &[(Kind, &str, &[u8])]) -> usize {
    let encoded = encoded(messages);
    hub.records(link, Records::new(encoded.as_bytes()));
    encoded.len()
}

/// The connection's side of a link: what waits there.
pub(super) fn take(link: &Link) -> Encoded {
    let mut records = Encoded::new();
    link.take(true, &mut records);
    records
}

/// An actor that tells when it is poked.
struct Poked(Sender<()>);

impl Actor for Poked {
    type Message = ();

    fn handle(&mut self, (): (), _: &mut Context<'_, Self>) -> Result<(), Failure> {
        Ok(())
    }

    fn on_event(&mut self, event: Event<'_>, _: &mut Context<'_, Self>) -> Result<(), Failure> {
        if let Event::Poke = event {
            // Tests that do not care about pokes have dropped the receiver.
            let _ = self.0.send(());
        }
        Ok(())
    }
}

struct Runs(Option<Box<dyn FnOnce() + Send>>);

impl Actor for Runs {
    type Message = ();

    fn started(&mut self, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        if let Some(run) = self.0.take() {
            run();
        }
        cx.stop();
        Ok(())
    }

    fn handle(&mut self, (): (), _: &mut Context<'_, Self>) -> Result<(), Failure> {
        Ok(())
    }
}

/// What a node has asked of its actors, for the test to answer.
pub(super) enum Asked {
    Connect(String, Option<PeerId>, Reply<Result<PeerId, ConnectError>>),
    Disconnect(PeerId, Reply<Result<(), NodeError>>),
    List(Reply<Result<Vec<PeerInfo>, NodeError>>),
    Peer(PeerId, Reply<Result<PeerInfo, NodeError>>),
    Trust(PeerId, Reply<Result<(), NodeError>>),
}

struct Played {
    handle: Handle,
    asks: Mutex<Sender<Asked>>,
}

impl Played {
    fn ask<R: Send + 'static>(&self, asked: impl FnOnce(Reply<R>) -> Asked) -> Answer<R> {
        let (reply, answer) = OneShot::pair(&self.handle);
        let _ = self.asks.lock().unwrap().send(asked(reply));
        answer
    }
}

impl Backend for Played {
    fn connect(
        &self,
        endpoint: mischief_actors::connection::endpoint::Endpoint,
        expected: Option<PeerId>,
    ) -> Answer<Result<PeerId, ConnectError>> {
        self.ask(|reply| Asked::Connect(endpoint.to_string(), expected, reply))
    }

    fn disconnect(&self, peer: PeerId) -> Answer<Result<(), NodeError>> {
        self.ask(|reply| Asked::Disconnect(peer, reply))
    }

    fn list(&self) -> Answer<Result<Vec<PeerInfo>, NodeError>> {
        self.ask(Asked::List)
    }

    fn peer(&self, peer: PeerId) -> Answer<Result<PeerInfo, NodeError>> {
        self.ask(|reply| Asked::Peer(peer, reply))
    }

    fn trust(&self, peer: PeerId) -> Answer<Result<(), NodeError>> {
        self.ask(|reply| Asked::Trust(peer, reply))
    }

    fn peers(&self) -> Option<Address<PeersActor>> {
        None
    }

    fn stop(&self, _: Duration) -> Answer<Result<(), NodeError>> {
        let (reply, answer) = OneShot::pair(&self.handle);
        reply.send(Ok(()));
        answer
    }
}
