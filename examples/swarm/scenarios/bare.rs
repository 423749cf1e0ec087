//! The actors of a node without the node around them, so that a scenario sees their tables and decides when received
//! messages count as consumed.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use mischief::Identity;
use mischief_actors::connection::actor::{Common, Dialler, Listener, ListenerMessage};
use mischief_actors::connection::admission::Admission;
use mischief_actors::connection::dial::DialConfig;
use mischief_actors::connection::{
    Config, ConnectionTiming, Deliver, LargeMessage, Link, ProtocolHash, Records, StaticKey,
};
use mischief_actors::peers::actor::{Observer, PeersActor, PeersMessage};
use mischief_actors::peers::{Peers, PeersEvent, PeersLimits};
use mischief_reactor::io::driver::ReusePort;
use mischief_reactor::sim::swarm::Program;
use mischief_reactor::sim::{SimNode, SimRuntime};
use mischief_reactor::{ByteBudget, Child, Handle, Limits};

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
        let peers = Peers::new(identity.peer_id(), PeersLimits::default());
        let observer = hoard.clone();
        let peers = spawn(&handle, PeersActor::new(peers, observer))?;
        let protocol = ProtocolHash::new("swarm", "1.0").ok_or("the protocol's name is short")?;
        let reassembly = ByteBudget::new(setup.reassembly_bytes_max);
        let mut config = Config::new(identity, StaticKey::from_secret(&[3; 32]), protocol);
        config.timing = setup.timing;
        config.reassembly = reassembly.clone();
        let common = Arc::new(Common {
            config: parking_lot::Mutex::new(Arc::new(config)),
            deliver: hoard.clone(),
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
        };
        Ok((bare, Box::new(Running(runtime))))
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

#[derive(Default)]
struct State {
    owed: Vec<(Arc<Link>, usize)>,
    links: Vec<Arc<Link>>,
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
        for (link, credit) in owed {
            if let Some(handle) = &handle {
                link.consumed(handle, credit);
            }
        }
    }

    /// The bytes that are owed to one peer, the most of all.
    pub(crate) fn owed_max(&self) -> usize {
        let state = lock(&self.state);
        let mut sums = std::collections::BTreeMap::new();
        for (link, credit) in &state.owed {
            *sums.entry(*link.peer()).or_insert(0) += credit;
        }
        sums.into_values().max().unwrap_or(0)
    }

    /// The connections that stand.
    pub(crate) fn links(&self) -> Vec<Arc<Link>> {
        lock(&self.state).links.clone()
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

    fn put(&self, link: &Arc<Link>, body: &[u8], credit: usize) {
        let mut state = lock(&self.state);
        let head = body[..body.len().min(12)].to_vec();
        state.heads.push(head);
        state.owed.push((link.clone(), credit));
    }
}

impl Deliver for Hoard {
    fn records(&self, link: &Arc<Link>, records: Records<'_>) {
        for message in records {
            self.put(link, message.body, message.credit as usize);
        }
    }

    fn large(&self, link: &Arc<Link>, message: LargeMessage) {
        let message = message.message();
        self.put(link, message.body, message.credit as usize);
    }

    fn failed(&self, message: &str) {
        lock(&self.state).failed.get_or_insert(message.to_owned());
    }
}

impl Observer for Hoard {
    fn connected(&self, _: &PeersEvent, link: Arc<Link>) {
        lock(&self.state).links.push(link);
    }

    fn disconnected(&self, event: &PeersEvent) {
        if let PeersEvent::Disconnected { id, reason, .. } = event {
            let mut state = lock(&self.state);
            state.links.retain(|link| link.peer() != id);
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
