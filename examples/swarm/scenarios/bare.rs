//! The actors of a node without the node around them, so that a scenario sees their tables and decides when received
//! messages count as consumed.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use mischief::Identity;
use mischief_actors::connection::actor::{Common, Dialler, Listener, ListenerMessage};
use mischief_actors::connection::admission::Admission;
use mischief_actors::connection::dial::DialConfig;
use mischief_actors::connection::{
    ChannelMessage, Config, ConnectionTiming, Deliver, LargeMessage, Link, ProtocolHash, Records,
    StaticKey,
};
use mischief_actors::peers::actor::{Observer, PeersActor, PeersMessage};
use mischief_actors::peers::{Peers, PeersEvent, PeersLimits, Roster};
use mischief_reactor::io::driver::ReusePort;
use mischief_reactor::sim::swarm::Program;
use mischief_reactor::sim::{SimNode, SimRuntime};
use mischief_reactor::{ActorId, ByteBudget, Child, Handle, Limits};

use super::party::{PORT, SECOND};

/// Who it is.
pub(crate) fn identity() -> Identity {
    Identity::from_seed(&[0xba; 32])
}

/// What a scenario sees of it.
pub(crate) struct Bare {
    pub(crate) handle: Handle,
    pub(crate) common: Arc<Common>,
    pub(crate) reassembly: ByteBudget,
    pub(crate) hoard: Arc<Hoard>,
    roster: Roster<ActorId>,
}

/// How it is set up.
pub(crate) struct Setup {
    pub(crate) runtime: Limits,
    pub(crate) timing: ConnectionTiming,
    pub(crate) reassembly_bytes_max: usize,
}

struct Running(SimRuntime);

impl Program for Running {
    fn runtime(&self) -> Option<&SimRuntime> {
        Some(&self.0)
    }
}

impl Bare {
    /// Starts it on a machine.
    pub(crate) fn start(
        machine: &SimNode,
        setup: &Setup,
    ) -> Result<(Bare, Box<dyn Program>), String> {
        let runtime = machine
            .start(1, setup.runtime)
            .map_err(|error| error.to_string())?;
        let handle = runtime.handle();
        let identity = Arc::new(identity());
        let hoard = Arc::new(Hoard::default());
        let roster = Roster::default();
        let limits = PeersLimits::default();
        let peers = Peers::with_roster(identity.peer_id(), limits, roster.clone());
        let observer = hoard.clone();
        let peers = spawn(&handle, PeersActor::bare(peers, identity.clone(), observer))?;
        let protocol = ProtocolHash::new("swarm", "1.0").ok_or("the protocol's name is short")?;
        let reassembly = ByteBudget::new(setup.reassembly_bytes_max);
        let mut config = Config::new(identity, StaticKey::from_secret(&[3; 32]), protocol);
        config.timing = setup.timing;
        config.reassembly = reassembly.clone();
        let common = Arc::new(Common {
            config: parking_lot::Mutex::new(Arc::new(config)),
            deliver: hoard.clone(),
            links: Arc::new(roster.clone()),
            judge: peers.recipient(),
            admission: Admission::new(Default::default()),
            handle: handle.clone(),
            fallen: Default::default(),
        });
        let judge = peers.recipient();
        let dialler = Dialler::new(common.clone(), judge, DialConfig::default());
        let start = PeersMessage::Start {
            common: common.clone(),
            diallers: vec![spawn(&handle, dialler)?],
        };
        handle
            .try_send(&peers, start)
            .map_err(|_| "it was just started")?;
        let listener = spawn(&handle, Listener::new(common.clone()))?;
        let listen = |reply| ListenerMessage::Listen {
            addr: ([0, 0, 0, 0], PORT).into(),
            reuse_port: ReusePort::No,
            reply,
        };
        let listened = handle.ask(&listener, listen, SECOND).wait();
        listened
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())?;
        *lock(&hoard.handle) = Some(handle.clone());
        let bare = Bare {
            handle,
            common,
            reassembly,
            hoard,
            roster,
        };
        Ok((bare, Box::new(Running(runtime))))
    }
}

impl Bare {
    /// How many peers are connected.
    pub(crate) fn peers(&self) -> usize {
        self.roster.len()
    }

    /// The ways to all peers.
    pub(crate) fn links(&self) -> Vec<Arc<Link>> {
        self.roster.links()
    }

    /// The most bytes that wait for one peer. Looks without making a way that is not there.
    pub(crate) fn waiting_max(&self) -> impl Fn() -> usize + use<> {
        let (hoard, links) = (self.hoard.clone(), self.common.links.clone());
        move || {
            let state = lock(&hoard.state);
            let links = state.connections.iter().filter_map(|at| links.find(*at));
            links.map(|link| link.waiting()).max().unwrap_or(0)
        }
    }
}

fn spawn<A: mischief_reactor::Actor + Send>(
    handle: &Handle,
    actor: A,
) -> Result<mischief_reactor::Address<A>, String> {
    let spawned = handle.spawn(0, move || Child::once(actor));
    spawned.map_err(|error| error.to_string())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Keeps the credit of what it is given until the scenario lets some go.
#[derive(Default)]
pub(crate) struct Hoard {
    handle: Mutex<Option<Handle>>,
    state: Mutex<State>,
}

/// What holds credit.
enum Owed {
    Records(usize),
    Large(LargeMessage),
}

impl Owed {
    fn bytes(&self) -> usize {
        match self {
            Owed::Records(bytes) => *bytes,
            Owed::Large(message) => message.message().credit as usize,
        }
    }
}

#[derive(Default)]
struct State {
    owed: Vec<(Arc<Link>, Owed)>,
    connections: Vec<ActorId>,
    /// First bytes of the messages, which say which they are.
    heads: Vec<Vec<u8>>,
    went: Vec<&'static str>,
    failed: Option<String>,
}

impl Hoard {
    /// Gives back credit of so many deliveries, oldest first.
    pub(crate) fn consume(&self, deliveries: usize) {
        let owed: Vec<_> = {
            let mut state = lock(&self.state);
            let count = deliveries.min(state.owed.len());
            state.owed.drain(..count).collect()
        };
        let handle = lock(&self.handle).clone();
        let Some(handle) = handle else { return };
        for (link, owed) in owed {
            match owed {
                Owed::Records(bytes) => link.consumed(&handle, bytes),
                Owed::Large(message) => link.consumed_large(&handle, message),
            }
        }
    }

    /// The bytes that are owed to one peer, the most of all.
    pub(crate) fn owed_max(&self) -> usize {
        let state = lock(&self.state);
        let mut sums = std::collections::BTreeMap::new();
        for (link, owed) in &state.owed {
            *sums.entry(*link.peer()).or_insert(0) += owed.bytes();
        }
        sums.into_values().max().unwrap_or(0)
    }

    /// Takes the first bytes of what has come.
    pub(crate) fn take_heads(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut lock(&self.state).heads)
    }

    /// Why peers went, so far.
    pub(crate) fn went(&self) -> Vec<&'static str> {
        lock(&self.state).went.clone()
    }

    /// What went wrong that must not.
    pub(crate) fn failed(&self) -> Option<String> {
        lock(&self.state).failed.clone()
    }

    fn put(&self, link: &Arc<Link>, body: &[u8], owed: Owed) {
        let mut state = lock(&self.state);
        let head = body[..body.len().min(12)].to_vec();
        state.heads.push(head);
        state.owed.push((link.clone(), owed));
    }
}

impl Deliver for Hoard {
    fn records(&self, link: &Arc<Link>, records: Records<'_>) {
        for message in records {
            let owed = Owed::Records(message.credit as usize);
            self.put(link, message.body, owed);
        }
    }

    fn large(&self, link: &Arc<Link>, message: LargeMessage) {
        let head = message.message().body;
        let head = head[..head.len().min(12)].to_vec();
        self.put(link, &head, Owed::Large(message));
    }

    fn channel(&self, link: &Arc<Link>, message: ChannelMessage<'_>) {
        let owed = Owed::Records(message.credit as usize);
        self.put(link, message.body, owed);
    }

    fn failed(&self, message: &str) {
        lock(&self.state).failed.get_or_insert(message.to_owned());
    }
}

impl Observer for Hoard {
    fn connected(&self, _: &PeersEvent, connection: ActorId) {
        lock(&self.state).connections.push(connection);
    }

    fn disconnected(&self, event: &PeersEvent) {
        if let PeersEvent::Disconnected { id, reason, .. } = event {
            let mut state = lock(&self.state);
            state.owed.retain(|(link, _)| link.peer() != id);
            state.went.push(reason.kind());
        }
    }
}

/// Keep-alives as usual, and new keys every few frames.
pub(crate) fn timing() -> ConnectionTiming {
    ConnectionTiming {
        rekey_frames: 20,
        rekey: Duration::from_secs(60),
        ..ConnectionTiming::default()
    }
}
