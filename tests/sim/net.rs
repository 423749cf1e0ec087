//! Machines with a node each, and machines with nothing but raw sockets.

use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mischief::{Connecting, Identity, Node, NodeBuilder, NodeEvent, PeerId, ReconnectPolicy};
use mischief_reactor::io::driver::ListenOptions;
use mischief_reactor::sim::{LinkOptions, Prng, SimNode, SimRuntime, SimWorld};
use mischief_reactor::{
    Actor, Child, Context, Event, Failure, Instant, Limits, Snapshot, SocketId,
};

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// The port that every node here listens on.
pub(crate) const PORT: u16 = 9000;

/// Runs `run` with each seed, or with the one of `MISCHIEF_SEED` alone, and says how to run a failing one again.
pub(crate) fn each_seed(test: &str, seeds: std::ops::Range<u64>, mut run: impl FnMut(u64)) {
    let chosen = std::env::var("MISCHIEF_SEED")
        .ok()
        .map(|seed| seed.parse::<u64>().expect("a seed is a number"));
    let seeds = chosen.map_or(seeds, |seed| seed..seed + 1);
    println!("{test}: seeds {} to {}", seeds.start, seeds.end - 1);
    for seed in seeds {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(seed))) {
            println!("again with: MISCHIEF_SEED={seed} cargo test --test sim {test} -- --exact");
            resume_unwind(panic);
        }
    }
}

/// A world of this seed. With `MISCHIEF_TRACE` set it prints every packet.
pub(crate) fn new_world(seed: u64) -> SimWorld {
    let world = SimWorld::new(seed);
    if std::env::var_os("MISCHIEF_TRACE").is_some() {
        world.trace_to(Some(Box::new(|line| println!("{line}"))));
    }
    world
}

/// A machine with a node on it. The node goes first when it is dropped.
pub(crate) struct Machine {
    pub(crate) node: Node,
    pub(crate) runtime: SimRuntime,
    pub(crate) sim: SimNode,
    events: Arc<Mutex<Vec<NodeEvent>>>,
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("it is an address")
}

/// An identity that depends on `number` alone.
pub(crate) fn identity(number: u64) -> Identity {
    let mut seed = [0x5a; 32];
    seed[..8].copy_from_slice(&number.to_le_bytes());
    Identity::from_seed(&seed)
}

/// What nodes of these tests have in common.
pub(crate) fn builder(runtime: &SimRuntime) -> NodeBuilder {
    Node::builder()
        .runtime(&runtime.handle())
        .listen(format!("0.0.0.0:{PORT}"))
        .protocol("sim", "1.0")
        // What a connection does is to be seen without a second one that comes by itself.
        .reconnect(ReconnectPolicy::off())
}

impl Machine {
    /// A machine with one core and a node as usual.
    pub(crate) fn new(world: &SimWorld, addr: &str) -> Machine {
        Machine::with(world, addr, 1, Limits::default(), |builder| builder)
    }

    pub(crate) fn with(
        world: &SimWorld,
        addr: &str,
        cores: usize,
        limits: Limits,
        build: impl FnOnce(NodeBuilder) -> NodeBuilder,
    ) -> Machine {
        let sim = world.node(&[ip(addr)]);
        Machine::on(&sim, cores, limits, build)
    }

    pub(crate) fn on(
        sim: &SimNode,
        cores: usize,
        limits: Limits,
        build: impl FnOnce(NodeBuilder) -> NodeBuilder,
    ) -> Machine {
        let runtime = sim
            .start(cores, limits)
            .expect("a simulated machine starts");
        let node = build(builder(&runtime)).start().expect("the node starts");
        let events = Arc::new(Mutex::new(Vec::new()));
        let log = events.clone();
        let _stays = node.on_event(move |event| log.lock().unwrap().push(event.clone()));
        Machine {
            node,
            runtime,
            sim: sim.clone(),
            events,
        }
    }

    pub(crate) fn id(&self) -> PeerId {
        self.node.id()
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.sim.addr(PORT)
    }

    pub(crate) fn dial(&self, other: &Machine) -> Connecting {
        self.node.connect(&other.addr().to_string())
    }

    /// Connects, or the test fails.
    pub(crate) fn connect(&self, other: &Machine) -> PeerId {
        let peer = self.dial(other).wait().expect("the other node listens");
        assert_eq!(peer, other.id());
        peer
    }

    /// The events so far.
    pub(crate) fn events(&self) -> Vec<NodeEvent> {
        self.events.lock().unwrap().clone()
    }

    /// Of the events so far, how many peers came and how many went.
    pub(crate) fn comings_and_goings(&self) -> (usize, usize) {
        let events = self.events.lock().unwrap();
        let came = |event: &&NodeEvent| matches!(event, NodeEvent::PeerConnected { .. });
        let went = |event: &&NodeEvent| matches!(event, NodeEvent::PeerDisconnected { .. });
        (
            events.iter().filter(came).count(),
            events.iter().filter(went).count(),
        )
    }

    /// Why peers went, in order.
    pub(crate) fn reasons(&self) -> Vec<&'static str> {
        let events = self.events.lock().unwrap();
        let reason = |event: &NodeEvent| match event {
            NodeEvent::PeerDisconnected { reason, .. } => Some(reason.kind()),
            _ => None,
        };
        events.iter().filter_map(reason).collect()
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        self.runtime.handle().snapshot().expect("it runs")
    }

    pub(crate) fn footprint(&self) -> Footprint {
        Footprint::of(&self.snapshot())
    }
}

/// What a machine holds. The same before and after, or something leaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Footprint {
    pub(crate) sockets: u32,
    pub(crate) actors: Vec<&'static str>,
    pub(crate) asks: usize,
    pub(crate) memory: usize,
}

impl Footprint {
    pub(crate) fn of(snapshot: &Snapshot) -> Footprint {
        let mut actors: Vec<_> = snapshot.actors().map(|actor| actor.type_name).collect();
        actors.sort_unstable();
        Footprint {
            sockets: snapshot.cores.iter().map(|core| core.sockets).sum(),
            actors,
            asks: snapshot.cores.iter().map(|core| core.asks).sum(),
            memory: snapshot.memory,
        }
    }
}

/// A quick network: 1 ms without jitter.
pub(crate) fn steady() -> LinkOptions {
    LinkOptions {
        delay: Duration::from_millis(1),
        jitter: Duration::ZERO,
        ..LinkOptions::default()
    }
}

/// Messages that a node has received, as bytes, in their order.
pub(crate) fn inbox(machine: &Machine) -> Arc<Mutex<Vec<Vec<u8>>>> {
    let inbox = Arc::new(Mutex::new(Vec::new()));
    let filling = inbox.clone();
    let _stays = machine
        .node
        .on_bytes(move |_, bytes| filling.lock().unwrap().push(bytes.to_vec()));
    inbox
}

/// What raw sockets have seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) connected: usize,
    pub(crate) failed: usize,
    pub(crate) received: Vec<u8>,
    /// When each socket was closed by the other side.
    pub(crate) ended: Vec<Instant>,
}

/// Raw TCP sockets to one address: each says `first` and then a byte every `every`.
pub(crate) struct Raw {
    pub(crate) to: SocketAddr,
    pub(crate) sockets: usize,
    pub(crate) first: Vec<u8>,
    pub(crate) every: Option<Duration>,
    pub(crate) seen: Arc<Mutex<Seen>>,
    pub(crate) open: Vec<SocketId>,
}

impl Raw {
    pub(crate) fn new(to: SocketAddr, sockets: usize) -> Raw {
        Raw {
            to,
            sockets,
            first: Vec::new(),
            every: None,
            seen: Arc::default(),
            open: Vec::new(),
        }
    }

    /// Starts them on a machine of their own.
    pub(crate) fn start(self, world: &SimWorld, addr: &str) -> (SimRuntime, Arc<Mutex<Seen>>) {
        let sim = world.node(&[ip(addr)]);
        let runtime = sim.start(1, Limits::default()).expect("a machine starts");
        let seen = self.seen.clone();
        let spawned = runtime.handle().spawn(0, move || Child::once(self));
        spawned.expect("there is room for an actor");
        (runtime, seen)
    }

    fn end(&mut self, socket: SocketId, now: Instant) {
        self.open.retain(|open| *open != socket);
        self.seen.lock().unwrap().ended.push(now);
    }
}

impl Actor for Raw {
    type Message = ();

    fn started(&mut self, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        for _ in 0..self.sockets {
            cx.tcp_connect(self.to, None)?;
        }
        let at = self.every.map(|every| cx.now() + every);
        cx.wake_at(at, Duration::ZERO);
        Ok(())
    }

    fn handle(&mut self, (): (), _: &mut Context<'_, Self>) -> Result<(), Failure> {
        Ok(())
    }

    fn on_event(&mut self, event: Event<'_>, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        match event {
            Event::Connected { socket } => {
                cx.resume_reading(socket);
                self.seen.lock().unwrap().connected += 1;
                self.open.push(socket);
                if !self.first.is_empty() {
                    // A socket that broke meanwhile says so by itself.
                    let _ = cx.write(socket, &self.first);
                }
            }
            Event::ConnectFailed { .. } => self.seen.lock().unwrap().failed += 1,
            Event::Data { bytes, .. } => {
                self.seen.lock().unwrap().received.extend_from_slice(bytes);
            }
            // It keeps its own half open: the node must not depend on anybody's manners.
            Event::ReadClosed { socket } | Event::Closed { socket, .. } => {
                self.end(socket, cx.now());
            }
            Event::Wake => {
                for socket in self.open.clone() {
                    let _ = cx.write(socket, b"m");
                }
                let at = self.every.map(|every| cx.now() + every);
                cx.wake_at(at, Duration::ZERO);
            }
            _ => {}
        }
        Ok(())
    }
}

/// A number below `bound`.
pub(crate) fn below(prng: &mut Prng, bound: u64) -> u64 {
    prng.next_u64() % bound
}

/// Listens, says the same to everybody and goes on listening.
pub(crate) struct Says(Vec<u8>);

impl Raw {
    pub(crate) fn listener(says: &[u8]) -> Says {
        Says(says.to_vec())
    }
}

impl Says {
    pub(crate) fn start_listener(self, world: &SimWorld, addr: &str) -> SimRuntime {
        let sim = world.node(&[ip(addr)]);
        let runtime = sim.start(1, Limits::default()).expect("a machine starts");
        let spawned = runtime.handle().spawn(0, move || Child::once(self));
        spawned.expect("there is room for an actor");
        world.run_for(Duration::from_millis(1));
        runtime
    }
}

impl Actor for Says {
    type Message = ();

    fn started(&mut self, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        cx.tcp_listen(([0, 0, 0, 0], PORT).into(), ListenOptions::default())?;
        Ok(())
    }

    fn handle(&mut self, (): (), _: &mut Context<'_, Self>) -> Result<(), Failure> {
        Ok(())
    }

    fn on_event(&mut self, event: Event<'_>, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        if let Event::Accepted { socket, .. } = event {
            cx.resume_reading(socket);
            cx.write(socket, &self.0)?;
        }
        Ok(())
    }
}
