//! Everything in a world but the code that runs in it: the clock, the queue of events, nodes, sockets, and which core
//! may run.
//!
//! The drivers and the world share one `State`. It is never borrowed while a core's turn or an offloaded job runs.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::arena::{Arena, Key};
use super::capture::Capture;
use super::datagram::UdpSocket;
use super::disk::SimDisk;
use super::network::Network;
use super::node::{CoreId, JOBS_RUNNING_MAX, JOBS_WAITING_MAX, MachineId, Node};
use super::packet::{Body, Packet};
use super::prng::Prng;
use super::queue::{Call, Event, EventQueue};
use super::resolver::SimResolver;
use super::stream::Listener;
use super::tcp::{ERROR, Endpoint, READ_CLOSED, READABLE, WRITABLE};
use super::trace::{Kind, Trace};
use crate::io::driver::{Job, Ready, SocketId, Wake, Woken};
use crate::random::Random;
use crate::time::Instant;

/// Where the virtual clock starts. Not at zero, so that code which subtracts from an early instant is seen to work as
/// it would on a machine that has been up for a while.
pub(super) const START: Instant = Instant::from_nanos(1_000_000_000_000);
/// The most sockets that one wait reports, as a real selector has a fixed room for events.
const READY_BATCH_MAX: usize = 256;
/// With a machine's number: the purpose of what chance does to its disk.
const DISK: u64 = 0xd1;
/// Probability that a report also tells what was ready before, as real selectors do when they look at a socket.
const REPORT_ALL: f64 = 1.0 / 8.0;

/// Counters of a world.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SimStats {
    /// Steps taken: events that happened and turns of cores.
    pub steps: u64,
    /// Turns of cores among them.
    pub turns: u64,
    /// Packets sent.
    pub packets_sent: u64,
    /// Packets that reached a socket.
    pub packets_delivered: u64,
    /// Packets lost for whatever reason.
    pub packets_lost: u64,
    /// Events that are waiting for their time.
    pub events_waiting: usize,
    /// TCP endpoints, those among them that only see their connection to its end included.
    pub tcp_endpoints: usize,
}

/// What a socket of a driver stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Handle {
    Listener(Key),
    Tcp(Key),
    Udp(Key),
}

struct Socket {
    handle: Handle,
    /// Edges not yet reported.
    edges: u8,
    is_queued: bool,
}

/// One core: the sockets of its driver and its place in the schedule.
pub(super) struct Core {
    pub(super) node: MachineId,
    sockets: Arena<Socket>,
    /// Sockets with edges to report, oldest first.
    ready: Vec<SocketId>,
    wake: Arc<WakeFlag>,
    pub(super) random: Prng,
    /// What the driver says of short reads. Both answers are true here, so the seed gives one to each core.
    pub(super) short_read_drains: bool,
    pub(super) watches_interfaces: bool,
    interfaces_changed: bool,
    /// Whether the world runs it; else its owner waits on the driver directly.
    pub(super) has_body: bool,
    is_running: bool,
    pub(super) is_runnable: bool,
    /// Its entry in `State::sleepers`.
    deadline: Option<Instant>,
    /// Until when its last turn takes.
    busy_until: Instant,
    /// Its machine was asleep since it last looked.
    pub(super) is_resumed: bool,
    /// It has crashed: nothing that its program still does has any effect.
    pub(super) is_dead: bool,
    /// Which of the machine's programs, one after another, it belongs to.
    pub(super) process: u32,
}

/// How a step goes on once the state is no longer borrowed.
pub(super) enum Action {
    /// It is done.
    Done,
    /// This core has its turn.
    Turn(CoreId),
    /// This job of a node's pool runs.
    Job(MachineId, Job),
    /// This job was lost in a crash.
    Discard(Job),
    /// This was arranged from outside.
    Call(Call),
}

pub(super) struct State {
    pub(super) seed: u64,
    pub(super) now: Instant,
    pub(super) queue: EventQueue,
    pub(super) trace: Trace,
    pub(super) stats: SimStats,
    pub(super) nodes: Vec<Node>,
    pub(super) network: Network,
    pub(super) resolver: Arc<SimResolver>,
    pub(super) listeners: Arena<Listener>,
    pub(super) tcp: Arena<Endpoint>,
    pub(super) udp: Arena<UdpSocket>,
    pub(super) packets_made: u32,
    pub(super) captures: Vec<Capture>,
    /// Whether machines tell senders of what cannot be delivered.
    pub(super) sends_icmp: bool,
    /// Decides about packets.
    pub(super) network_prng: Prng,
    /// Decides about ports, short reads and writes.
    pub(super) socket_prng: Prng,
    /// Decides who runs when.
    schedule_prng: Prng,
    cores: Vec<Core>,
    pub(super) runnable: Vec<CoreId>,
    sleepers: BTreeSet<(Instant, CoreId)>,
    /// The most virtual time that a turn of a core takes.
    pub(super) turn_time_max: Duration,
    /// The least and the most virtual time that an offloaded job takes.
    pub(super) job_time: (Duration, Duration),
    /// Probability that a UDP socket refuses a datagram for a moment.
    pub(super) udp_refusal: f64,
    pub(super) board: Arc<Board>,
    /// Whose program ran in the last step.
    pub(super) last_run: Option<MachineId>,
}

impl State {
    pub(super) fn new(seed: u64) -> State {
        State {
            seed,
            now: START,
            queue: EventQueue::default(),
            trace: Trace::new(seed),
            stats: SimStats::default(),
            nodes: Vec::new(),
            network: Network::new(seed),
            resolver: Arc::default(),
            listeners: Arena::new(),
            tcp: Arena::new(),
            udp: Arena::new(),
            packets_made: 0,
            captures: Vec::new(),
            sends_icmp: false,
            network_prng: Prng::for_purpose(seed, 1),
            socket_prng: Prng::for_purpose(seed, 2),
            schedule_prng: Prng::for_purpose(seed, 3),
            cores: Vec::new(),
            runnable: Vec::new(),
            sleepers: BTreeSet::new(),
            turn_time_max: Duration::from_micros(10),
            job_time: (Duration::from_micros(20), Duration::from_millis(2)),
            udp_refusal: 0.0,
            board: Arc::default(),
            last_run: None,
        }
    }

    pub(super) fn node(&mut self, node: MachineId) -> &mut Node {
        &mut self.nodes[node.0 as usize]
    }

    pub(super) fn core(&mut self, core: CoreId) -> &mut Core {
        &mut self.cores[core.0 as usize]
    }

    pub(super) fn add_node(&mut self) -> MachineId {
        let id = MachineId(u32::try_from(self.nodes.len()).expect("fewer than 2^32 nodes"));
        let disk = SimDisk::new(Prng::for_purpose(self.seed, u64::from(id.0) << 8 | DISK));
        self.nodes.push(Node::new(disk));
        self.network.add_site();
        id
    }

    pub(super) fn add_core(&mut self, node: MachineId) -> CoreId {
        let id = CoreId(u32::try_from(self.cores.len()).expect("fewer than 2^32 cores"));
        let place = self.node(node).cores.len() as u64;
        self.node(node).cores.push(id);
        // From the core's place and not from a shared stream, so that a node's keys do not depend on who else there is.
        let purpose = (u64::from(node.0) << 32 | place) + 0x1_0000_0000;
        let process = self.node(node).crashes;
        self.cores.push(Core {
            node,
            sockets: Arena::new(),
            ready: Vec::new(),
            wake: Arc::new(WakeFlag {
                is_woken: AtomicBool::new(false),
            }),
            random: Prng::for_purpose(self.seed, purpose),
            short_read_drains: Prng::for_purpose(self.seed, !purpose).chance(0.5),
            watches_interfaces: false,
            interfaces_changed: false,
            has_body: false,
            is_running: false,
            is_runnable: false,
            deadline: None,
            busy_until: self.now,
            is_resumed: false,
            is_dead: false,
            process,
        });
        id
    }

    pub(super) fn waker(&mut self, core: CoreId) -> Arc<dyn Wake> {
        let flag = self.core(core).wake.clone();
        Arc::new(SimWaker {
            board: self.board.clone(),
            flag,
            core,
        })
    }

    /// Virtual time since the start of the world.
    pub(super) fn elapsed(&self) -> Duration {
        self.now.saturating_duration_since(START)
    }

    pub(super) fn stats(&self) -> SimStats {
        SimStats {
            events_waiting: self.queue.len(),
            tcp_endpoints: self.tcp.len(),
            ..self.stats
        }
    }

    pub(super) fn trace_line(&mut self, text: impl FnOnce() -> String) {
        let since_start = Instant::ZERO + self.elapsed();
        self.trace.line(since_start, text);
    }

    // Stepping.

    /// When the next thing happens: now if something is due or may run.
    pub(super) fn next_at(&mut self) -> Option<Instant> {
        self.take_in_board();
        if !self.runnable.is_empty() {
            return Some(self.now);
        }
        let sleeper = self.sleepers.first().map(|(at, _)| *at);
        match (self.queue.next_at(), sleeper) {
            (Some(a), Some(b)) => Some(a.min(b).max(self.now)),
            (a, b) => a.or(b).map(|at| at.max(self.now)),
        }
    }

    /// Lets the next thing happen, which must be at `at`, as [`State::next_at`] told.
    pub(super) fn step(&mut self, at: Instant) -> Action {
        self.jump(at);
        self.stats.steps += 1;
        self.last_run = None;
        if let Some(event) = self.queue.pop_due(self.now) {
            return match self.defer(event) {
                Some(event) => self.handle_event(event),
                None => Action::Done,
            };
        }
        let choice = self.schedule_prng.below(self.runnable.len() as u64) as usize;
        let core = self.runnable.swap_remove(choice);
        let entry = self.core(core);
        entry.is_runnable = false;
        entry.is_running = true;
        self.stats.turns += 1;
        self.trace.note(Kind::Turn, &[u64::from(core.0)]);
        self.last_run = Some(self.core(core).node);
        Action::Turn(core)
    }

    /// Moves the clock and makes those runnable whose deadline has come.
    pub(super) fn jump(&mut self, at: Instant) {
        debug_assert!(at >= self.now);
        if at > self.now {
            self.now = at;
            self.trace.note(Kind::Jump, &[at.as_nanos()]);
        }
        while let Some((deadline, core)) = self.sleepers.first().copied() {
            if deadline > self.now {
                break;
            }
            self.make_runnable(core);
        }
    }

    fn handle_event(&mut self, event: Event) -> Action {
        match event {
            Event::Arrival(packet) => self.deliver(*packet),
            Event::TcpTimer(key) => self.handle_tcp_timer(key),
            Event::UdpRoom(key) => self.handle_udp_room(key),
            Event::Job(node, crashes, job) => {
                if self.node(node).crashes != crashes {
                    return Action::Discard(job);
                }
                self.trace.note(Kind::Job, &[u64::from(node.0)]);
                self.trace_line(|| format!("node {} job ends", node.0));
                self.last_run = Some(node);
                return Action::Job(node, job);
            }
            Event::Call(call) => {
                self.trace.note(Kind::Outside, &[]);
                return Action::Call(call);
            }
        }
        Action::Done
    }

    // Cores.

    /// Puts a core under the world's schedule; it has its first turn soon.
    pub(super) fn attach_body(&mut self, core: CoreId) {
        self.core(core).has_body = true;
        self.make_runnable(core);
    }

    pub(super) fn detach_body(&mut self, core: CoreId) {
        self.set_deadline(core, None);
        let entry = self.core(core);
        entry.has_body = false;
        entry.is_running = false;
        if std::mem::take(&mut entry.is_runnable) {
            self.runnable.retain(|id| *id != core);
        }
    }

    /// Takes note that a core's turn is over and when it wants the next one. `again` is as its turn said.
    pub(super) fn end_turn(&mut self, core: CoreId, again: Option<Instant>) {
        let node = self.core(core).node;
        let cost = self
            .schedule_prng
            .up_to(self.turn_time_max)
            .max(Duration::from_nanos(1));
        let cost = cost * self.node(node).slowdown;
        let now = self.now;
        self.take_in_board();
        let entry = self.core(core);
        entry.is_running = false;
        entry.busy_until = now + cost;
        let is_called = entry.is_called();
        let again = if is_called { Some(now) } else { again };
        let again = again.map(|at| at.max(entry.busy_until));
        self.set_deadline(core, again);
    }

    /// Gives a core a turn as soon as its last one is over.
    pub(super) fn make_runnable(&mut self, core: CoreId) {
        let now = self.now;
        let entry = &self.cores[core.0 as usize];
        if !entry.has_body || entry.is_running || entry.is_runnable {
            return;
        }
        if !self.nodes[entry.node.0 as usize].power.runs_programs() {
            // It gets a turn when the machine goes on, whatever it was that called it.
            return self.set_deadline(core, None);
        }
        let entry = self.core(core);
        if entry.busy_until > now {
            let at = entry.busy_until;
            return self.set_deadline(core, Some(at));
        }
        entry.is_runnable = true;
        self.set_deadline(core, None);
        self.runnable.push(core);
    }

    pub(super) fn set_deadline(&mut self, core: CoreId, at: Option<Instant>) {
        let old = std::mem::replace(&mut self.core(core).deadline, at);
        if old == at {
            return;
        }
        if let Some(old) = old {
            self.sleepers.remove(&(old, core));
        }
        if let Some(at) = at {
            self.sleepers.insert((at, core));
        }
    }

    /// Makes those runnable whose waker was called, and closes what was dropped, since the last look.
    pub(super) fn take_in_board(&mut self) {
        if !self.board.has_news.swap(false, Ordering::AcqRel) {
            return;
        }
        let woken = std::mem::take(&mut *self.board.woken());
        for core in woken {
            self.trace.note(Kind::Wake, &[u64::from(core.0)]);
            self.make_runnable(core);
        }
        let dropped = std::mem::take(&mut *self.board.dropped());
        for key in dropped {
            self.close_stream(key, false);
        }
    }

    /// Whether a core has something to report and no more is to come at this very instant.
    pub(super) fn is_called(&mut self, core: CoreId) -> bool {
        self.core(core).is_called() && self.queue.next_at().is_none_or(|at| at > self.now)
    }

    /// Reports what is ready on a core.
    pub(super) fn collect(&mut self, core: CoreId, ready: &mut Vec<Ready>) -> Woken {
        let entry = &mut self.cores[core.0 as usize];
        let woken = Woken {
            by_waker: entry.wake.is_woken.swap(false, Ordering::AcqRel),
            interfaces_changed: std::mem::take(&mut entry.interfaces_changed),
            resumed: std::mem::take(&mut entry.is_resumed),
        };
        let mut batch: Vec<SocketId> = Vec::new();
        std::mem::swap(&mut batch, &mut entry.ready);
        if batch.len() > READY_BATCH_MAX {
            entry.ready = batch.split_off(READY_BATCH_MAX);
        }
        // Systems promise no order among sockets.
        for i in (1..batch.len()).rev() {
            let other = self.schedule_prng.below(i as u64 + 1) as usize;
            batch.swap(i, other);
        }
        for socket in &batch {
            if let Some(report) = self.report(core, *socket) {
                ready.push(report);
            }
        }
        // The list keeps its room for the next time.
        batch.clear();
        let entry = &mut self.cores[core.0 as usize];
        if entry.ready.is_empty() {
            entry.ready = batch;
        }
        woken
    }

    fn report(&mut self, core: CoreId, socket: SocketId) -> Option<Ready> {
        let entry = self.cores[core.0 as usize]
            .sockets
            .get_mut(key_of(socket))?;
        entry.is_queued = false;
        let edges = std::mem::take(&mut entry.edges);
        let handle = entry.handle;
        let level = match handle {
            Handle::Tcp(key) => self.tcp.get(key)?.level(),
            Handle::Udp(key) => self.udp.get(key)?.level(),
            Handle::Listener(key) => self.listeners.get(key)?.level(),
        };
        // As epoll has it: an edge whose cause is gone by now is not reported.
        let mut bits = edges & level;
        if bits == 0 {
            return None;
        }
        // Real drivers watch a UDP socket for room only after it had none.
        let is_udp = matches!(handle, Handle::Udp(_));
        if !is_udp && self.schedule_prng.chance(REPORT_ALL) {
            bits = level;
        }
        let place = u64::from(socket.generation) << 32 | u64::from(socket.index);
        self.trace
            .note(Kind::Ready, &[u64::from(core.0), place, u64::from(bits)]);
        Some(Ready {
            socket,
            readable: bits & READABLE != 0,
            writable: bits & WRITABLE != 0,
            read_closed: bits & READ_CLOSED != 0,
            error: bits & ERROR != 0,
        })
    }

    pub(super) fn tell_interfaces_changed(&mut self, node: MachineId) {
        for core in self.node(node).cores.clone() {
            let entry = self.core(core);
            if entry.watches_interfaces {
                entry.interfaces_changed = true;
                self.make_runnable(core);
            }
        }
    }

    // Sockets of drivers.

    pub(super) fn check_socket_limit(&mut self, core: CoreId) -> io::Result<()> {
        let node = self.core(core).node;
        let node = self.node(node);
        if node.sockets >= node.sockets_max {
            return Err(super::node::too_many_sockets());
        }
        Ok(())
    }

    /// Makes a socket of a core. `edges` are due at once if they hold.
    pub(super) fn add_socket(&mut self, core: CoreId, handle: Handle, edges: u8) -> SocketId {
        let node = self.core(core).node;
        self.node(node).sockets += 1;
        let entry = Socket {
            handle,
            edges: 0,
            is_queued: false,
        };
        let key = self.core(core).sockets.insert(entry);
        let socket = SocketId {
            index: key.index,
            generation: key.generation,
        };
        self.mark_ready(core, socket, edges);
        socket
    }

    pub(super) fn remove_socket(&mut self, core: CoreId, socket: SocketId) -> Option<Handle> {
        let removed = self.core(core).sockets.remove(key_of(socket))?;
        let node = self.core(core).node;
        self.node(node).sockets -= 1;
        Some(removed.handle)
    }

    /// What a socket stands for; the error of a dead id if it is closed.
    pub(super) fn handle(&self, core: CoreId, socket: SocketId) -> io::Result<Handle> {
        let core = &self.cores[core.0 as usize];
        let entry = core.sockets.get(key_of(socket));
        entry
            .map(|entry| entry.handle)
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// All sockets of a core, in order.
    pub(super) fn sockets(&mut self, core: CoreId) -> Vec<SocketId> {
        let sockets = &self.core(core).sockets;
        sockets.iter().map(|(key, _)| id_of(key)).collect()
    }

    /// Remembers that a socket has become ready and lets its core run.
    pub(super) fn mark_ready(&mut self, core: CoreId, socket: SocketId, edges: u8) {
        if edges == 0 {
            return;
        }
        let entry = self.core(core);
        let Some(place) = entry.sockets.get_mut(key_of(socket)) else {
            return;
        };
        place.edges |= edges;
        if !place.is_queued {
            place.is_queued = true;
            entry.ready.push(socket);
        }
        self.make_runnable(core);
    }

    fn deliver(&mut self, packet: Packet) {
        let Some(packet) = self.arrive(packet) else {
            return;
        };
        match packet.body {
            Body::Tcp(_) => self.deliver_segment(packet),
            Body::Udp(_) => self.deliver_datagram(packet),
            Body::Icmp(_) => self.deliver_error(&packet),
        }
    }

    // Offloaded jobs.

    pub(super) fn offload(&mut self, node: MachineId, job: Job) -> Result<(), Job> {
        if self.node(node).jobs_running < JOBS_RUNNING_MAX {
            self.start_job(node, job);
            return Ok(());
        }
        let waiting = &mut self.node(node).jobs_waiting;
        if waiting.len() >= JOBS_WAITING_MAX {
            return Err(job);
        }
        waiting.push_back(job);
        Ok(())
    }

    /// Lets the next job of a node's pool begin.
    pub(super) fn end_job(&mut self, node: MachineId) {
        let entry = self.node(node);
        entry.jobs_running -= 1;
        if let Some(job) = entry.jobs_waiting.pop_front() {
            self.start_job(node, job);
        }
    }

    fn start_job(&mut self, node: MachineId, job: Job) {
        self.node(node).jobs_running += 1;
        let (least, most) = self.job_time;
        let time = least + self.schedule_prng.up_to(most.saturating_sub(least));
        let entry = self.node(node);
        let (time, crashes) = (time * entry.slowdown, entry.crashes);
        self.queue
            .push(self.now + time, Event::Job(node, crashes, job));
    }
}

impl Core {
    fn is_called(&self) -> bool {
        !self.ready.is_empty()
            || self.interfaces_changed
            || self.is_resumed
            || self.wake.is_woken.load(Ordering::Acquire)
    }
}

fn key_of(socket: SocketId) -> Key {
    Key {
        index: socket.index,
        generation: socket.generation,
    }
}

fn id_of(key: Key) -> SocketId {
    SocketId {
        index: key.index,
        generation: key.generation,
    }
}

/// What comes into the world from handles that may be anywhere.
#[derive(Default)]
pub(super) struct Board {
    has_news: AtomicBool,
    woken: Mutex<Vec<CoreId>>,
    /// Detached connections that nobody attached.
    dropped: Mutex<Vec<Key>>,
}

impl Board {
    pub(super) fn drop_detached(&self, key: Key) {
        self.dropped().push(key);
        self.has_news.store(true, Ordering::Release);
    }

    fn woken(&self) -> MutexGuard<'_, Vec<CoreId>> {
        self.woken
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn dropped(&self) -> MutexGuard<'_, Vec<Key>> {
        self.dropped
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

struct WakeFlag {
    is_woken: AtomicBool,
}

struct SimWaker {
    board: Arc<Board>,
    flag: Arc<WakeFlag>,
    core: CoreId,
}

impl Wake for SimWaker {
    fn wake(&self) {
        if !self.flag.is_woken.swap(true, Ordering::AcqRel) {
            self.board.woken().push(self.core);
            self.board.has_news.store(true, Ordering::Release);
        }
    }
}
