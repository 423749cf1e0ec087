//! The actors of a node without the node around them, so that a test decides what becomes of received messages.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mischief_actors::connection::actor::{Common, Dialler, Listener, ListenerMessage};
use mischief_actors::connection::admission::Admission;
use mischief_actors::connection::dial::DialConfig;
use mischief_actors::connection::{
    ChannelMessage, Config, Deliver, LargeMessage, Link, ProtocolHash, Records, StaticKey,
};
use mischief_actors::peers::actor::{Observer, PeersActor, PeersMessage};
use mischief_actors::peers::{Peers, PeersEvent, PeersLimits, Roster};
use mischief_reactor::io::driver::ReusePort;
use mischief_reactor::sim::{SimRuntime, SimWorld};
use mischief_reactor::{ActorId, Child, Handle, Limits};

use crate::net::{Footprint, PORT, SECOND, identity, ip};

/// The actors, one core each machine.
pub(crate) struct Bare {
    pub(crate) runtime: SimRuntime,
    pub(crate) common: Arc<Common>,
    pub(crate) addr: SocketAddr,
    pub(crate) seen: Arc<Watcher>,
}

#[derive(Default)]
pub(crate) struct Watcher {
    pub(crate) events: Mutex<Vec<PeersEvent>>,
}

impl Watcher {
    /// Why peers went.
    pub(crate) fn reasons(&self) -> Vec<&'static str> {
        let events = self.events.lock().unwrap();
        let reason = |event: &PeersEvent| match event {
            PeersEvent::Disconnected { reason, .. } => Some(reason.kind()),
            PeersEvent::Connected { .. } | PeersEvent::SeenTwice { .. } => None,
        };
        events.iter().filter_map(reason).collect()
    }
}

impl Observer for Watcher {
    fn connected(&self, event: &PeersEvent, _: ActorId) {
        self.events.lock().unwrap().push(event.clone());
    }

    fn disconnected(&self, event: &PeersEvent) {
        self.events.lock().unwrap().push(event.clone());
    }
}

impl Bare {
    pub(crate) fn new(world: &SimWorld, addr: &str, deliver: Arc<dyn Deliver>) -> Bare {
        let sim = world.node(&[ip(addr)]);
        let runtime = sim.start(1, Limits::default()).expect("a machine starts");
        let handle = runtime.handle();
        let identity = Arc::new(identity(7_000_000));
        let roster = Roster::default();
        let machine =
            Peers::with_roster(identity.peer_id(), PeersLimits::default(), roster.clone());
        let seen = Arc::new(Watcher::default());
        let observer = seen.clone();
        let own = identity.clone();
        let peers = handle.spawn(0, move || {
            Child::once(PeersActor::bare(machine, own, observer))
        });
        let peers = peers.expect("there is room for an actor");
        let protocol = ProtocolHash::new("sim", "1.0").expect("it is short");
        let config = Config::new(identity, StaticKey::from_secret(&[3; 32]), protocol);
        let common = Arc::new(Common {
            config: parking_lot::Mutex::new(Arc::new(config)),
            deliver,
            links: Arc::new(roster),
            judge: peers.recipient(),
            admission: Admission::new(Default::default()),
            handle: handle.clone(),
            fallen: Default::default(),
        });
        let shared = common.clone();
        let judge = peers.recipient();
        let dialler = handle.spawn(0, move || {
            Child::once(Dialler::new(shared, judge, DialConfig::default()))
        });
        let start = PeersMessage::Start {
            common: common.clone(),
            diallers: vec![dialler.expect("there is room for an actor")],
        };
        handle.try_send(&peers, start).expect("it was just started");
        let shared = common.clone();
        let listener = handle.spawn(0, move || Child::once(Listener::new(shared)));
        let listener = listener.expect("there is room for an actor");
        let listened = handle.ask(
            &listener,
            |reply| ListenerMessage::Listen {
                addr: ([0, 0, 0, 0], PORT).into(),
                reuse_port: ReusePort::No,
                reply,
            },
            SECOND,
        );
        listened.wait().expect("it runs").expect("the port is free");
        Bare {
            runtime,
            common,
            addr: sim.addr(PORT),
            seen,
        }
    }

    pub(crate) fn handle(&self) -> Handle {
        self.runtime.handle()
    }

    /// Why peers went.
    pub(crate) fn reasons(&self) -> Vec<&'static str> {
        self.seen.reasons()
    }

    pub(crate) fn footprint(&self) -> Footprint {
        Footprint::of(&self.handle().snapshot().expect("it runs"))
    }
}

/// Keeps what it is given and gives no credit back until it is told to.
#[derive(Default)]
pub(crate) struct Hoarder {
    state: Mutex<Hoard>,
}

#[derive(Default)]
struct Hoard {
    is_open: bool,
    messages: usize,
    owed: Vec<(Arc<Link>, usize)>,
}

impl Hoarder {
    pub(crate) fn messages(&self) -> usize {
        self.state.lock().unwrap().messages
    }

    pub(crate) fn owed(&self) -> usize {
        let state = self.state.lock().unwrap();
        state.owed.iter().map(|(_, credit)| credit).sum()
    }

    /// Gives all credit back, and from now on at once.
    pub(crate) fn open(&self, handle: &Handle) {
        let owed = {
            let mut state = self.state.lock().unwrap();
            state.is_open = true;
            std::mem::take(&mut state.owed)
        };
        for (link, credit) in owed {
            link.consumed(handle, credit);
        }
    }

    fn put(&self, link: &Arc<Link>, messages: usize, credit: usize) {
        let mut state = self.state.lock().unwrap();
        state.messages += messages;
        state.owed.push((link.clone(), credit));
    }
}

/// A [`Hoarder`] with the handle that credit goes back through.
pub(crate) struct Hoarding {
    pub(crate) hoarder: Hoarder,
    pub(crate) handle: Mutex<Option<Handle>>,
}

impl Hoarding {
    pub(crate) fn new() -> Arc<Hoarding> {
        Arc::new(Hoarding {
            hoarder: Hoarder::default(),
            handle: Mutex::new(None),
        })
    }

    fn put(&self, link: &Arc<Link>, messages: usize, credit: usize) {
        self.hoarder.put(link, messages, credit);
        let is_open = self.hoarder.state.lock().unwrap().is_open;
        if let (true, Some(handle)) = (is_open, &*self.handle.lock().unwrap()) {
            self.hoarder.open(handle);
        }
    }
}

impl Deliver for Hoarding {
    fn records(&self, link: &Arc<Link>, records: Records<'_>) {
        self.put(link, records.count_messages(), records.len());
    }

    fn large(&self, link: &Arc<Link>, message: LargeMessage) {
        self.put(link, 1, message.message().credit as usize);
    }

    fn channel(&self, link: &Arc<Link>, message: ChannelMessage<'_>) {
        self.put(link, 1, message.credit as usize);
    }

    fn failed(&self, _: &str) {}
}

/// Panics at a message that says "poison".
pub(crate) struct Poisoned;

impl Deliver for Poisoned {
    fn records(&self, _: &Arc<Link>, records: Records<'_>) {
        for message in records {
            assert!(message.body != b"poison", "poisoned");
        }
    }

    fn large(&self, _: &Arc<Link>, _: LargeMessage) {}

    fn channel(&self, _: &Arc<Link>, _: ChannelMessage<'_>) {}

    fn failed(&self, _: &str) {}
}

/// Long enough for everything that ends by itself to have ended.
pub(crate) const SETTLED: Duration = Duration::from_secs(15);
