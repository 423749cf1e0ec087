//! The world: nodes, a network between them, one virtual clock, and the loop that lets one thing happen after another.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::disk::SimDisk;
use super::driver::SimDriver;
use super::link::LinkOptions;
use super::node::{CoreId, MachineId};
use super::queue::Event;
use super::state::{Action, SimStats, State};
use super::trace::{Stamp, TraceSink};
use crate::actor::{Core, Turn};
use crate::time::Instant;

/// Names a world within the process. It may be sent to other threads, but the world can only be stepped on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorldId(u32);

/// Code that the world runs: one core, usually a [`Core`] of actors.
///
/// In each turn it should call [`crate::io::driver::Driver::wait`] of its driver once to learn what is ready, do what
/// is to do, and say when it wants to be called again. Whatever becomes ready on its driver, and a call of the driver's
/// waker, brings the next turn sooner.
pub trait Steppable {
    /// Runs for a while, without blocking.
    fn turn(&mut self) -> Turn;
}

impl Steppable for Core {
    fn turn(&mut self) -> Turn {
        Core::turn(self)
    }
}

/// Why the world was not stepped until what was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StepError {
    /// The virtual time allowed is over.
    TimedOut {
        /// The seed of the world.
        seed: u64,
        /// Virtual time since its start.
        elapsed: Duration,
    },
    /// Nothing will ever happen again, so waiting is in vain: no event, no deadline, no core with work.
    Stalled {
        /// The seed of the world.
        seed: u64,
        /// Virtual time since its start.
        elapsed: Duration,
    },
    /// Called from within a core's turn or an offloaded job, which must not wait.
    InsideStep,
    /// This thread has no such world, or no longer.
    NoSuchWorld,
}

impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StepError::TimedOut { seed, elapsed } => {
                write!(f, "timed out at virtual time {elapsed:?} (seed {seed})")
            }
            StepError::Stalled { seed, elapsed } => {
                write!(
                    f,
                    "nothing more happens at virtual time {elapsed:?} (seed {seed})"
                )
            }
            StepError::InsideStep => f.write_str("a core of a simulated world must not wait"),
            StepError::NoSuchWorld => f.write_str("this thread has no such simulated world"),
        }
    }
}

impl std::error::Error for StepError {}

/// A simulated world. Clones are the same world, which lives as long as any of them.
///
/// If it ends because a test panics, it prints its seed.
#[derive(Clone)]
pub struct SimWorld {
    world: Rc<World>,
}

/// A machine in a world.
#[derive(Clone)]
pub struct SimNode {
    world: SimWorld,
    pub(super) id: MachineId,
}

pub(super) struct World {
    id: WorldId,
    state: Rc<RefCell<State>>,
    /// The code of each core, by core id; taken out while it runs.
    bodies: RefCell<Vec<Option<Box<dyn Steppable>>>>,
    is_stepping: Cell<bool>,
    /// Looks at the world after every step; taken out while it does.
    observer: RefCell<Option<Observer>>,
    me: Weak<World>,
}

/// What [`SimWorld::observe`] takes.
pub type Observer = Box<dyn FnMut(&SimWorld)>;

impl SimWorld {
    /// A world without nodes. Everything that will happen in it follows from `seed` and what is put into it.
    pub fn new(seed: u64) -> SimWorld {
        static WORLDS: AtomicU32 = AtomicU32::new(0);
        let id = WorldId(WORLDS.fetch_add(1, Ordering::Relaxed));
        let world = Rc::new_cyclic(|me| World {
            id,
            state: Rc::new(RefCell::new(State::new(seed))),
            bodies: RefCell::default(),
            is_stepping: Cell::new(false),
            observer: RefCell::new(None),
            me: me.clone(),
        });
        REGISTRY.with_borrow_mut(|worlds| worlds.insert(id, Rc::downgrade(&world)));
        SimWorld { world }
    }

    /// Names this world, for [`step_until`].
    pub fn id(&self) -> WorldId {
        self.world.id
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.state().seed
    }

    /// The virtual time.
    pub fn now(&self) -> Instant {
        self.state().now
    }

    /// The virtual time since the start of the world.
    pub fn elapsed(&self) -> Duration {
        self.state().elapsed()
    }

    /// What has happened so far, as one number: the same for the same seed.
    pub fn trace_hash(&self) -> u64 {
        self.state().trace.hash()
    }

    /// Has a line given to `sink` for each packet sent, received or lost and each offloaded job; `None` ends that.
    /// `sink` must not call the world.
    pub fn trace_to(&self, sink: Option<TraceSink>) {
        self.state().trace.set_sink(sink);
    }

    /// Counters.
    pub fn stats(&self) -> SimStats {
        self.state().stats()
    }

    /// The machine whose program ran in the last step: a turn of a core or an offloaded job. `None` if it was a packet
    /// or a timer. For an [observer](SimWorld::observe) that looks only where something may have changed.
    pub fn last_run(&self) -> Option<MachineId> {
        self.state().last_run
    }

    /// How many sockets the drivers of a machine hold.
    pub fn open_sockets(&self, machine: MachineId) -> u32 {
        self.state().node(machine).sockets
    }

    // Nodes and names.

    /// A new machine with these addresses on its network interface. It has the loopback addresses besides.
    ///
    /// # Panics
    /// If another machine has one of the addresses, or one is not a unicast address that a machine can have.
    pub fn node(&self, addrs: &[IpAddr]) -> SimNode {
        let id = self.state().add_node();
        let node = SimNode {
            world: self.clone(),
            id,
        };
        for addr in addrs {
            node.add_addr(*addr);
        }
        node
    }

    /// What a name resolves to, on all nodes, in order of preference. None at all removes the name.
    pub fn set_name(&self, name: &str, addrs: &[IpAddr]) {
        self.state().resolver.set(name, addrs);
    }

    // Links.

    /// What links between nodes do to packets, where nothing else is set.
    pub fn set_default_link(&self, options: LinkOptions) {
        self.state().network.set_default(options);
    }

    /// What the loopback interfaces do to packets, where nothing else is set.
    pub fn set_loopback_link(&self, options: LinkOptions) {
        self.state().network.set_loopback(options);
    }

    /// What the link between two nodes does to packets, in both directions.
    pub fn set_link(&self, a: &SimNode, b: &SimNode, options: LinkOptions) {
        self.set_link_one_way(a, b, options);
        self.set_link_one_way(b, a, options);
    }

    /// What the link from one node to another does to packets.
    pub fn set_link_one_way(&self, from: &SimNode, to: &SimNode, options: LinkOptions) {
        self.state().network.set_link(from.id, to.id, options);
    }

    /// Cuts two nodes off from each other; packets on their way are lost.
    pub fn partition(&self, a: &SimNode, b: &SimNode) {
        self.set_cut(a, b, true);
    }

    /// Ends a partition.
    pub fn heal(&self, a: &SimNode, b: &SimNode) {
        self.set_cut(a, b, false);
    }

    /// Ends all partitions.
    pub fn heal_all(&self) {
        self.state().network.heal_all();
    }

    fn set_cut(&self, a: &SimNode, b: &SimNode, is_cut: bool) {
        let mut state = self.state();
        state.network.set_cut(a.id, b.id, is_cut);
        state.network.set_cut(b.id, a.id, is_cut);
    }

    /// Probability that a UDP socket refuses a datagram with `WouldBlock` and takes it a moment later. 0 at first.
    pub fn set_udp_refusal(&self, probability: f64) {
        self.state().udp_refusal = probability;
    }

    /// The most virtual time that a turn of a core takes; how much it is each time comes from the seed. 10 µs at first,
    /// and at least 1 ns: so cores that always have work do not stop the clock.
    pub fn set_turn_time(&self, most: Duration) {
        self.state().turn_time_max = most;
    }

    /// The least and the most virtual time that an offloaded job takes. 20 µs and 2 ms at first.
    pub fn set_job_time(&self, least: Duration, most: Duration) {
        self.state().job_time = (least, most);
    }

    // Running.

    /// Lets the world run a core: the one whose driver has this id. It has its first turn soon.
    ///
    /// # Panics
    /// If the core has code already.
    pub fn add_core(&self, core: CoreId, body: Box<dyn Steppable>) {
        let mut bodies = self.world.bodies.borrow_mut();
        let index = core.0 as usize;
        if bodies.len() <= index {
            bodies.resize_with(index + 1, || None);
        }
        assert!(bodies[index].is_none(), "a core is added once");
        bodies[index] = Some(body);
        self.state().attach_body(core);
    }

    /// Whether the world runs this core: its code was added and has not ended.
    pub fn is_running(&self, core: CoreId) -> bool {
        self.state().core(core).has_body
    }

    /// Takes a core's code out of the world; it has no more turns. `None` if there is none, or if this is its turn.
    pub fn remove_core(&self, core: CoreId) -> Option<Box<dyn Steppable>> {
        let body = self
            .world
            .bodies
            .borrow_mut()
            .get_mut(core.0 as usize)?
            .take()?;
        self.state().detach_body(core);
        Some(body)
    }

    /// Lets the next thing happen, whenever that is. `false` if nothing will ever happen.
    ///
    /// # Panics
    /// Inside a step.
    pub fn step(&self) -> bool {
        assert!(!self.world.is_stepping(), "{}", StepError::InsideStep);
        self.world.step(None) == Progress::Stepped
    }

    /// Steps until `is_done`, which is asked before each step, at most for `timeout` of virtual time. When that ends
    /// it, the clock stands at the end of it.
    pub fn run_until(
        &self,
        mut is_done: impl FnMut() -> bool,
        timeout: Duration,
    ) -> Result<(), StepError> {
        let deadline = self.now() + timeout;
        self.world.run_until(&mut is_done, Some(deadline))
    }

    /// Has `call` called at a point in virtual time, or next if that is over. It is called outside of any core's turn,
    /// so it may do all that a test may: break machines, start them again, wait.
    ///
    /// The world keeps it until then. What it captures should not keep the world: a clone of a [`SimWorld`] or a
    /// [`SimNode`] in it would, for as long as the time has not come.
    pub fn call_at(&self, at: Instant, call: impl FnOnce(&SimWorld) + 'static) {
        let mut state = self.state();
        let at = at.max(state.now);
        state.queue.push(at, Event::Call(Box::new(call)));
    }

    /// Has `observer` called after every step of the world, outside of any core's turn; `None` ends that. Meant for
    /// what must always hold, so it should be quick: there are as many steps as there are packets and turns. It may
    /// not change what happens, else runs with it and without it differ. A step that it takes itself is not observed.
    ///
    /// What it captures should not keep the world, as with [`SimWorld::call_at`].
    pub fn observe(&self, observer: Option<Observer>) {
        *self.world.observer.borrow_mut() = observer;
    }

    /// Steps for a length of virtual time.
    ///
    /// # Panics
    /// Inside a step.
    pub fn run_for(&self, duration: Duration) {
        let error = self.run_until(|| false, duration);
        assert!(
            error != Err(StepError::InsideStep),
            "{}",
            StepError::InsideStep
        );
    }

    pub(super) fn state(&self) -> std::cell::RefMut<'_, State> {
        self.world.state.borrow_mut()
    }

    /// # Panics
    /// Inside a step.
    pub(super) fn assert_outside(&self) {
        assert!(!self.world.is_stepping(), "{}", StepError::InsideStep);
    }
}

impl fmt::Debug for SimWorld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimWorld(seed {}, {:?})", self.seed(), self.elapsed())
    }
}

impl SimNode {
    /// Names the machine.
    pub fn id(&self) -> MachineId {
        self.id
    }

    /// The world it is in.
    pub fn world(&self) -> &SimWorld {
        &self.world
    }

    /// A driver for one more core of this machine, which is switched on if it is off.
    pub fn driver(&self) -> SimDriver {
        self.boot();
        let world = &self.world.world;
        SimDriver::new(world.state.clone(), Rc::downgrade(world), world.id, self.id)
    }

    /// Its addresses on the network interface.
    pub fn addrs(&self) -> Vec<IpAddr> {
        self.world.state().node(self.id).addrs.clone()
    }

    /// Its first address, with a port.
    ///
    /// # Panics
    /// If it has none.
    pub fn addr(&self, port: u16) -> SocketAddr {
        let addrs = self.addrs();
        SocketAddr::new(*addrs.first().expect("the node has an address"), port)
    }

    /// Gives it one more address. Drivers that watch interfaces are told.
    ///
    /// # Panics
    /// If another machine has the address, or it is not a unicast address that a machine can have.
    pub fn add_addr(&self, addr: IpAddr) {
        let is_usable = !(addr.is_unspecified() || addr.is_loopback() || addr.is_multicast());
        assert!(
            is_usable && addr == addr.to_canonical(),
            "{addr} cannot be a machine's address"
        );
        let mut state = self.world.state();
        assert!(
            state.network.claim(addr, self.id),
            "another machine has the address {addr}"
        );
        let addrs = &mut state.node(self.id).addrs;
        if !addrs.contains(&addr) {
            addrs.push(addr);
            state.tell_interfaces_changed(self.id);
        }
    }

    /// Takes an address away. Sockets bound to it stay open, but nothing comes or goes any more. Drivers that watch
    /// interfaces are told.
    pub fn remove_addr(&self, addr: IpAddr) {
        let mut state = self.world.state();
        let addrs = &mut state.node(self.id).addrs;
        let before = addrs.len();
        addrs.retain(|other| *other != addr);
        if addrs.len() < before {
            state.network.release(addr, self.id);
            state.tell_interfaces_changed(self.id);
        }
    }

    /// Whether the machine knows IPv6 at all; it does at first. Without it, IPv6 sockets cannot be opened.
    pub fn set_ipv6(&self, has_ipv6: bool) {
        self.world.state().node(self.id).has_ipv6 = has_ipv6;
    }

    /// The machine's files. They outlive its drivers.
    pub fn disk(&self) -> Arc<SimDisk> {
        self.world.state().node(self.id).disk.clone()
    }

    /// By how many nanoseconds the machine's wall clock is ahead of the world's. The monotonic clock is not concerned.
    pub fn set_clock_skew(&self, nanos: i64) {
        self.world.state().node(self.id).skew = nanos;
    }

    /// Sizes of the TCP buffers of connections made from now on, in bytes. 128 KiB each at first.
    ///
    /// # Panics
    /// If one is 0.
    pub fn set_tcp_buffers(&self, send: usize, receive: usize) {
        assert!(send > 0 && receive > 0, "a TCP buffer has room for a byte");
        let mut state = self.world.state();
        let shape = &mut state.node(self.id).tcp_shape;
        shape.send_max = send;
        shape.receive_max = receive;
    }

    /// Probability that a TCP call takes fewer bytes than it could, and that a segment is cut short, on connections made
    /// from now on. 1/16 at first.
    pub fn set_short_io(&self, probability: f64) {
        self.world.state().node(self.id).tcp_shape.short = probability;
    }

    /// How many sockets the machine's drivers may hold; no limit at first. Beyond it, opening one fails as it does
    /// where the system has run out of file descriptors.
    pub fn set_sockets_max(&self, max: u32) {
        self.world.state().node(self.id).sockets_max = max;
    }

    /// How many sockets the machine's drivers hold.
    pub fn open_sockets(&self) -> u32 {
        self.world.state().node(self.id).sockets
    }
}

impl fmt::Debug for SimNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimNode({})", self.id.0)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Something happened.
    Stepped,
    /// What comes next comes after the limit.
    Later,
    /// Nothing will ever happen.
    Never,
}

impl World {
    pub(super) fn is_stepping(&self) -> bool {
        self.is_stepping.get()
    }

    /// Lets the next thing happen unless it is after `limit`.
    fn step(&self, limit: Option<Instant>) -> Progress {
        let mut state = self.state.borrow_mut();
        let Some(at) = state.next_at() else {
            return Progress::Never;
        };
        if limit.is_some_and(|limit| at > limit) {
            return Progress::Later;
        }
        let action = state.step(at);
        drop(state);
        let stepping = Stepping::begin(&self.is_stepping);
        match action {
            Action::Done => {}
            Action::Turn(core) => self.run_turn(core),
            Action::Job(node, job) => {
                job();
                self.state.borrow_mut().end_job(node);
            }
            Action::Discard(job) => drop(job),
            Action::Call(call) => {
                // It is outside of the machines, and so may wait and step.
                drop(stepping);
                if let Some(world) = self.me.upgrade() {
                    call(&SimWorld { world });
                }
                self.observe();
                return Progress::Stepped;
            }
        }
        drop(stepping);
        self.observe();
        Progress::Stepped
    }

    fn observe(&self) {
        let observer = self.observer.borrow_mut().take();
        if let (Some(mut observer), Some(world)) = (observer, self.me.upgrade()) {
            observer(&SimWorld { world });
            // It may have been replaced meanwhile, by itself even.
            self.observer.borrow_mut().get_or_insert(observer);
        }
    }

    fn run_turn(&self, core: CoreId) {
        let body = self.bodies.borrow_mut()[core.0 as usize].take();
        let mut body = body.expect("a runnable core has code");
        let again = match body.turn() {
            Turn::Work => Some(Instant::ZERO),
            Turn::Asleep(deadline) => deadline,
            Turn::Ended => {
                self.state.borrow_mut().detach_body(core);
                // It closes its sockets when it drops, so the state must not be borrowed here.
                drop(body);
                return;
            }
        };
        self.bodies.borrow_mut()[core.0 as usize] = Some(body);
        self.state.borrow_mut().end_turn(core, again);
    }

    fn run_until(
        &self,
        is_done: &mut dyn FnMut() -> bool,
        deadline: Option<Instant>,
    ) -> Result<(), StepError> {
        if self.is_stepping() {
            return Err(StepError::InsideStep);
        }
        loop {
            if is_done() {
                return Ok(());
            }
            if self.step(deadline) == Progress::Stepped {
                continue;
            }
            let mut state = self.state.borrow_mut();
            let Some(deadline) = deadline else {
                return Err(StepError::Stalled {
                    seed: state.seed,
                    elapsed: state.elapsed(),
                });
            };
            if deadline > state.now {
                state.jump(deadline);
            }
            return Err(StepError::TimedOut {
                seed: state.seed,
                elapsed: state.elapsed(),
            });
        }
    }

    /// Steps until a driver that nobody runs has something to report, or its deadline has come.
    pub(super) fn run_for_driver(&self, core: CoreId, deadline: Option<Instant>) -> io::Result<()> {
        let mut is_called = || self.state.borrow_mut().is_called(core);
        match self.run_until(&mut is_called, deadline) {
            Ok(()) | Err(StepError::TimedOut { .. }) => Ok(()),
            Err(error) => Err(io::Error::other(error)),
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // The thread's registry is gone if the thread is ending.
        let _ = REGISTRY.try_with(|worlds| worlds.borrow_mut().remove(&self.id));
        if std::thread::panicking()
            && !super::swarm::is_quiet()
            && let Ok(state) = self.state.try_borrow()
        {
            eprintln!(
                "simulated world: seed {}, virtual time {}, trace hash {:016x}",
                state.seed,
                Stamp(Instant::ZERO + state.elapsed()),
                state.trace.hash()
            );
        }
    }
}

/// Holds for as long as code of the world runs, also if it panics.
struct Stepping<'a> {
    flag: &'a Cell<bool>,
}

impl Stepping<'_> {
    fn begin(flag: &Cell<bool>) -> Stepping<'_> {
        flag.set(true);
        Stepping { flag }
    }
}

impl Drop for Stepping<'_> {
    fn drop(&mut self) {
        self.flag.set(false);
    }
}

thread_local! {
    /// The worlds of this thread: how a handle that only knows an id finds the world to step.
    static REGISTRY: RefCell<BTreeMap<WorldId, Weak<World>>> = const { RefCell::new(BTreeMap::new()) };
}

/// Steps a world of this thread until `is_done`, which is asked before each step, at most for `timeout` of virtual time
/// (`None`: until nothing can happen any more, which is [`StepError::Stalled`]). This is how a blocking call from
/// outside, such as waiting for a reply, waits in a simulation.
pub fn step_until(
    world: WorldId,
    is_done: &mut dyn FnMut() -> bool,
    timeout: Option<Duration>,
) -> Result<(), StepError> {
    let world = REGISTRY.with_borrow(|worlds| worlds.get(&world).and_then(Weak::upgrade));
    let world = world.ok_or(StepError::NoSuchWorld)?;
    let deadline = timeout.map(|timeout| world.state.borrow().now + timeout);
    world.run_until(is_done, deadline)
}

/// The virtual time of a world of this thread.
pub(super) fn now_in(world: WorldId) -> Option<Instant> {
    let world = REGISTRY.with_borrow(|worlds| worlds.get(&world).and_then(Weak::upgrade))?;
    let now = world.state.borrow().now;
    Some(now)
}
