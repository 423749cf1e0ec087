//! A machine with a whole node on it, which dials, counts what it sends and checks what it receives.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use mischief::{
    Connecting, Node, NodeBuilder, NodeEvent, Outgoing, PeerId, ReconnectPolicy, SendError,
    WeakNode,
};
use mischief_reactor::sim::swarm::{Program, Stage};
use mischief_reactor::sim::{SimNode, SimRuntime};
use mischief_reactor::{Limits, Snapshot};

/// The port that every node listens on.
pub(crate) const PORT: u16 = 9000;
pub(crate) const SECOND: Duration = Duration::from_secs(1);
/// A message begins with the number of its connection and its own.
const HEAD: usize = 12;

/// The address of a machine, by its number.
pub(crate) fn addr(machine: usize) -> IpAddr {
    let number = machine as u32 + 1;
    IpAddr::from([10, (number >> 16) as u8, (number >> 8) as u8, number as u8])
}

/// What one machine of a scenario knows, from one start of its node to the next.
#[derive(Default)]
pub(crate) struct Desk {
    /// Who the node is, the same at every start.
    pub(crate) id: Option<PeerId>,
    /// The running node.
    node: Option<WeakNode>,
    /// What the first start took; the others take as much.
    pub(crate) idle: Option<Footprint>,
    pub(crate) out: BTreeMap<PeerId, Out>,
    pub(crate) inbox: BTreeMap<PeerId, In>,
    pub(crate) calls: BTreeMap<PeerId, Connecting>,
    /// Connections of which messages have come, ever.
    seen: BTreeSet<u64>,
    connections: u32,
    pub(crate) came: usize,
    pub(crate) went: Vec<&'static str>,
    pub(crate) received: u64,
    /// What comes is not what other desks send.
    pub(crate) takes_anything: bool,
    /// What must not have happened.
    pub(crate) wrong: Option<String>,
    number: usize,
}

/// The way to a connected peer.
pub(crate) struct Out {
    pub(crate) way: Outgoing,
    tag: u64,
    pub(crate) sent: u32,
}

/// What has come from a connected peer.
#[derive(Default)]
pub(crate) struct In {
    tag: Option<u64>,
    pub(crate) received: u32,
}

pub(crate) type SharedDesk = Arc<Mutex<Desk>>;

pub(crate) fn lock(desk: &SharedDesk) -> MutexGuard<'_, Desk> {
    desk.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Desk {
    pub(crate) fn new(number: usize) -> SharedDesk {
        let desk = Desk {
            number,
            ..Desk::default()
        };
        Arc::new(Mutex::new(desk))
    }

    /// The node, if it runs.
    pub(crate) fn node(&self) -> Option<Node> {
        self.node.as_ref()?.upgrade()
    }

    pub(crate) fn blame(&mut self, what: String) {
        let number = self.number;
        self.wrong
            .get_or_insert_with(|| format!("machine {number}: {what}"));
    }

    /// What the last incarnation knew is gone with it.
    fn forget(&mut self) {
        self.node = None;
        self.out.clear();
        self.inbox.clear();
        self.calls.clear();
    }

    fn on_event(&mut self, event: &NodeEvent) {
        match event {
            NodeEvent::PeerConnected { peer, .. } => {
                self.came += 1;
                self.connections += 1;
                if self.inbox.insert(*peer, In::default()).is_some() {
                    self.blame(format!("{} came twice", peer.short()));
                }
                let Some(node) = self.node() else { return };
                // It may be gone again already, and its end is told next.
                if let Ok(way) = node.outgoing(peer) {
                    let tag = (self.number as u64) << 32 | u64::from(self.connections);
                    let sent = 0;
                    self.out.insert(*peer, Out { way, tag, sent });
                }
            }
            NodeEvent::PeerDisconnected { peer, reason } => {
                self.went.push(reason.kind());
                self.out.remove(peer);
                if self.inbox.remove(peer).is_none() {
                    self.blame(format!("{} went and was not there", peer.short()));
                }
                if matches!(reason.kind(), "misbehaved" | "internal") {
                    self.blame(format!("{} went: {reason}", peer.short()));
                }
            }
            NodeEvent::Error { message } => self.blame(message.to_string()),
            _ => {}
        }
    }

    fn on_message(&mut self, peer: &PeerId, bytes: &[u8]) {
        self.received += 1;
        if self.takes_anything {
            return;
        }
        let Some((head, rest)) = bytes.split_at_checked(HEAD) else {
            return self.blame("a message is cut short".to_owned());
        };
        let tag = u64::from_le_bytes(head[..8].try_into().expect("it has eight bytes"));
        let number = u32::from_le_bytes(head[8..].try_into().expect("it has four bytes"));
        let Some(inbox) = self.inbox.get_mut(peer) else {
            return self.blame(format!("a message of {} who is not there", peer.short()));
        };
        let is_first = inbox.tag.is_none();
        let expected = *inbox.tag.get_or_insert(tag);
        let next = inbox.received;
        inbox.received += 1;
        if (expected, next) != (tag, number) {
            return self.blame(format!(
                "message {number} of connection {tag:x} of {} in place of {next} of {expected:x}",
                peer.short()
            ));
        }
        if is_first && !self.seen.insert(tag) {
            return self.blame(format!("connection {tag:x} carried messages before"));
        }
        if rest.iter().any(|byte| *byte != number as u8) {
            self.blame(format!("message {number} of {tag:x} has other bytes"));
        }
    }

    /// Queues a message of about this size for a peer.
    pub(crate) fn send(&mut self, peer: &PeerId, size: usize) -> Result<(), SendError> {
        let Some(out) = self.out.get_mut(peer) else {
            return Ok(());
        };
        let mut message = Vec::with_capacity(HEAD + size);
        message.extend_from_slice(&out.tag.to_le_bytes());
        message.extend_from_slice(&out.sent.to_le_bytes());
        message.resize(HEAD + size, out.sent as u8);
        let sent = out.way.send_bytes(&message);
        out.sent += u32::from(sent.is_ok());
        sent
    }

    /// Dials a peer unless it is connected or being dialled.
    pub(crate) fn dial(&mut self, peer: PeerId, machine: usize) {
        if let Some(call) = self.calls.get_mut(&peer) {
            match call.try_take() {
                None => return,
                Some(Ok(found)) if found != peer => {
                    self.blame(format!("{} answered for {}", found.short(), peer.short()));
                }
                Some(_) => {}
            }
            self.calls.remove(&peer);
        }
        let Some(node) = self.node() else { return };
        if !node.is_connected(&peer) {
            let call = node.connect_expecting(&format!("{}:{PORT}", addr(machine)), peer);
            self.calls.insert(peer, call);
        }
    }

    /// The most bytes that wait for a peer.
    pub(crate) fn queued_max(&self) -> usize {
        let queued = self.out.values().map(|out| out.way.queued());
        queued.max().unwrap_or(0)
    }
}

/// What a runtime holds. The same before and after, or something leaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Footprint {
    pub(crate) sockets: u32,
    pub(crate) actors: BTreeMap<&'static str, usize>,
    pub(crate) asks: usize,
    pub(crate) timers: usize,
    pub(crate) memory: usize,
}

impl Footprint {
    pub(crate) fn of(snapshot: &Snapshot) -> Footprint {
        let mut actors = BTreeMap::new();
        for actor in snapshot.actors() {
            *actors.entry(actor.type_name).or_default() += 1;
        }
        Footprint {
            sockets: snapshot.cores.iter().map(|core| core.sockets).sum(),
            actors,
            asks: snapshot.cores.iter().map(|core| core.asks).sum(),
            timers: snapshot.cores.iter().map(|core| core.timers).sum(),
            memory: snapshot.memory,
        }
    }

    /// Of a running node's runtime.
    pub(crate) fn of_node(node: &Node) -> Option<Footprint> {
        Some(Footprint::of(&node.runtime().snapshot().ok()?))
    }
}

/// Lets time pass until each node takes what it took when it was new. A deadline that has become pointless may stay
/// armed until it comes; nothing else may.
pub(crate) fn until_idle(stage: &Stage, desks: &[SharedDesk]) {
    let excess = || {
        desks.iter().find_map(|desk| {
            let (node, idle, number) = {
                let desk = lock(desk);
                (desk.node(), desk.idle.clone(), desk.number)
            };
            let now = node.as_ref().and_then(Footprint::of_node);
            (now != idle).then(|| format!("machine {number} keeps {now:?}, more than {idle:?}"))
        })
    };
    stage.run_for(20 * SECOND);
    for _ in 0..30 {
        let Some(excess) = excess() else { return };
        let is_timer = excess.contains("timers");
        stage.expect(is_timer, || excess.clone());
        stage.run_for(10 * SECOND);
    }
    if let Some(excess) = excess() {
        stage.fail(&excess);
    }
}

/// A running node. It goes before its runtime.
struct Running {
    _node: Node,
    runtime: SimRuntime,
}

impl Program for Running {
    fn runtime(&self) -> Option<&SimRuntime> {
        Some(&self.runtime)
    }
}

/// Adds a machine with a node that keeps its identity in its data directory.
pub(crate) fn join(
    stage: &Stage,
    desk: &SharedDesk,
    cores: usize,
    build: impl Fn(NodeBuilder) -> NodeBuilder + 'static,
) -> usize {
    join_with(stage, desk, cores, Limits::default(), build)
}

/// The same with other limits of its runtime.
pub(crate) fn join_with(
    stage: &Stage,
    desk: &SharedDesk,
    cores: usize,
    limits: Limits,
    build: impl Fn(NodeBuilder) -> NodeBuilder + 'static,
) -> usize {
    let number = lock(desk).number;
    let desk = desk.clone();
    stage.machine(&[addr(number)], move |machine| {
        start(machine, &desk, cores, limits, &build)
    })
}

fn start(
    machine: &SimNode,
    desk: &SharedDesk,
    cores: usize,
    limits: Limits,
    build: &dyn Fn(NodeBuilder) -> NodeBuilder,
) -> Result<Box<dyn Program>, String> {
    lock(desk).forget();
    let runtime = machine
        .start(cores, limits)
        .map_err(|error| error.to_string())?;
    let (shared, events, messages) = (desk.clone(), desk.clone(), desk.clone());
    let builder = Node::builder()
        .runtime(&runtime.handle())
        .data_dir("/data")
        .listen(format!("0.0.0.0:{PORT}"))
        .protocol("swarm", "1.0")
        // These scenarios dial by themselves; `reconnection.rs` looks at what a node does.
        .reconnect(ReconnectPolicy::off())
        .on_start(move |node| {
            lock(&shared).node = Some(node.downgrade());
            node.on_event(move |event| lock(&events).on_event(event));
            node.on_bytes(move |peer, bytes| lock(&messages).on_message(peer, bytes));
        });
    let node = build(builder).start().map_err(|error| error.to_string())?;
    let mut known = lock(desk);
    let id = *known.id.get_or_insert(node.id());
    if id != node.id() {
        known.blame(format!(
            "it was {} and is {}",
            id.short(),
            node.id().short()
        ));
    }
    drop(known);
    Ok(Box::new(Running {
        _node: node,
        runtime,
    }))
}

/// Nothing that any desk has noted may be wrong. Looks at the machine whose program ran.
pub(crate) fn watch(stage: &Stage, what: &str, desks: &[SharedDesk]) {
    let places: BTreeMap<_, _> = desks
        .iter()
        .map(|desk| (stage.node(lock(desk).number).id(), desk.clone()))
        .collect();
    stage.always(what, move |world| {
        let ran = world.last_run().and_then(|machine| places.get(&machine));
        match ran.and_then(|desk| lock(desk).wrong.clone()) {
            Some(wrong) => Err(wrong),
            None => Ok(()),
        }
    });
}
