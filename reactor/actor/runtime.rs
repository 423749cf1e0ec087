//! Threads and handles.

use std::any::TypeId;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::cell::NONE;
use super::core::{Core, on_core_thread};
use super::lifecycle::SpawnError;
use super::reply::{Question, Signal, pair};
use super::shared::{PostError, Shared, System};
use super::slot::{Lane, Slot};
use super::stats::{ActorStats, CoreStats};
use super::{
    Actor, ActorId, Address, Answer, AskError, Child, Limits, Message, NodeId, Reply, SendError,
    Snapshot, StopReason, TrySendError, WaitError, Waiter,
};
use crate::io::driver::{Disk, Driver, Interface};
use crate::io::memory::{MemoryBudget, MemoryKind};

/// How long a runtime that is dropped without [`Runtime::shutdown`] lets its actors drain.
const DROP_DEADLINE: Duration = Duration::from_secs(5);

/// How long questions of the handle itself (spawning, snapshots) may take.
const HANDLE_DEADLINE: Duration = Duration::from_secs(10);

/// A reach into a runtime from any thread. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
    node: NodeId,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Handle({} cores, {:?})",
            self.shared.cores.len(),
            self.node
        )
    }
}

impl Handle {
    pub(crate) fn new(shared: Arc<Shared>, node: NodeId) -> Handle {
        Handle { shared, node }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Number of cores.
    pub fn cores(&self) -> usize {
        self.shared.cores.len()
    }

    /// A handle of a further node on the same runtime: its registered names are its own.
    pub fn new_node(&self) -> Handle {
        let node = NodeId(self.shared.nodes.fetch_add(1, Ordering::Relaxed));
        Handle {
            shared: self.shared.clone(),
            node,
        }
    }

    /// The bounds the runtime was started with.
    pub fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    /// The runtime's memory accounting.
    pub fn memory(&self) -> &Arc<MemoryBudget> {
        &self.shared.memory
    }

    /// Makes a root actor on a core and waits until it has its place (not for its `started`). `child` runs there, so
    /// that the actor itself need not be `Send`.
    pub fn spawn<A: Actor>(
        &self,
        core: usize,
        child: impl FnOnce() -> Child<A> + Send + 'static,
    ) -> Result<Address<A>, SpawnError> {
        if on_core_thread() {
            return Err(SpawnError::OnCoreThread);
        }
        let node = self.node;
        let spawned = self
            .run_on(core, move |core| core.spawn(child(), NONE, node))
            .wait_for(HANDLE_DEADLINE);
        match spawned {
            Ok(spawned) => spawned,
            Err(AskError::TimedOut { .. }) => Err(SpawnError::NoAnswer),
            Err(_) => Err(SpawnError::ShuttingDown),
        }
    }

    /// Runs `run` on a core's thread.
    fn run_on<R: Send + 'static>(
        &self,
        core: usize,
        run: impl FnOnce(&mut Core) -> R + Send + 'static,
    ) -> Answer<R> {
        let (reply, answer) = pair(self.shared.clone(), None);
        if let Ok(core) = u8::try_from(core) {
            let run = Box::new(move |core: &mut Core| reply.send(run(core)));
            // Coming back from a core that has ended it is dropped, which answers.
            let _ = self.shared.push_system(core, System::Run(run));
        }
        answer
    }

    /// Sends a message without waiting. An actor that has ended is noticed only when its whole core has: otherwise the
    /// message is counted as undeliverable there.
    pub fn try_send<A: Actor>(
        &self,
        to: &Address<A>,
        message: A::Message,
    ) -> Result<(), TrySendError<A::Message>> {
        let Some(remote) = self.shared.core_of(to.id()) else {
            return Err(TrySendError::Stopped(message));
        };
        if remote.is_gone() {
            return Err(TrySendError::Stopped(message));
        }
        let bytes = Slot::bytes_of::<A::Message>(message.heap_bytes());
        if !remote.take_gauge(to.id(), bytes, &self.shared.limits) {
            return Err(TrySendError::Full(message));
        }
        let slot = Slot::counted(to.id(), message, bytes, Lane::Remote);
        // Before it can be handled, since the core then discounts it.
        self.count_queued(0, bytes);
        let refused = match remote.push_post(slot, &self.shared.limits) {
            Ok(()) => return Ok(()),
            Err(refused) => refused,
        };
        self.count_queued(bytes, 0);
        remote.gauges.get(to.id().index()).give(1, bytes);
        let (slot, is_full) = match refused {
            PostError::Full(slot) => (slot, true),
            PostError::Stopped(slot) => (slot, false),
        };
        match slot.downcast::<A::Message>() {
            Ok(message) if is_full => Err(TrySendError::Full(message)),
            Ok(message) => Err(TrySendError::Stopped(message)),
            Err(_) => unreachable!("the slot was made from this message type above"),
        }
    }

    fn count_queued(&self, from: u32, to: u32) {
        if from != to {
            let memory = &self.shared.memory;
            memory.adjust(MemoryKind::Queues, from as usize, to as usize);
        }
    }

    /// Sends a message and waits for room, at most for `deadline`. Not for core threads.
    pub fn send<A: Actor>(
        &self,
        to: &Address<A>,
        message: A::Message,
        deadline: Duration,
    ) -> Result<(), SendError> {
        let mut message = match self.try_send(to, message) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Stopped(_)) => return Err(SendError::Stopped),
            Err(TrySendError::Full(message)) => Some(message),
        };
        let Some(remote) = self.shared.core_of(to.id()) else {
            return Err(SendError::Stopped);
        };
        let mut result = Err(SendError::TimedOut);
        let mut ready = || {
            let Some(unsent) = message.take() else {
                return true;
            };
            match self.try_send(to, unsent) {
                Ok(()) => result = Ok(()),
                Err(TrySendError::Stopped(_)) => result = Err(SendError::Stopped),
                Err(TrySendError::Full(back)) => {
                    message = Some(back);
                    return false;
                }
            }
            true
        };
        remote.begin_blocking();
        let waited = self
            .shared
            .waiter
            .wait(&remote.room, &mut ready, Some(deadline));
        remote.end_blocking();
        match waited {
            Err(WaitError::OnCoreThread) => Err(SendError::OnCoreThread),
            Ok(()) | Err(WaitError::TimedOut) => result,
        }
    }

    /// Asks an actor. The result is a future of any executor, that can also be waited for or looked at.
    pub fn ask<A: Actor, R: Send + 'static>(
        &self,
        to: &Address<A>,
        question: impl FnOnce(Reply<R>) -> A::Message,
        deadline: Duration,
    ) -> Answer<R> {
        let asked = Question {
            target: to.id(),
            actor: std::any::type_name::<A>(),
            message: std::any::type_name::<A::Message>(),
            deadline,
        };
        let (reply, answer) = pair(self.shared.clone(), Some(asked));
        match self.try_send(to, question(reply)) {
            // Dropping a message that has not been taken answers `NoReply` by itself.
            Ok(()) | Err(TrySendError::Stopped(_)) => answer,
            Err(TrySendError::Full(_)) => answer.refused(AskError::Full),
        }
    }

    /// Gives an actor [`Event::Poke`](super::Event::Poke) on the system lane: look into the memory we share. Whoever pokes keeps a mark
    /// there so that one poke is under way at a time; nothing else bounds them.
    pub fn poke(&self, actor: ActorId) {
        let _ = self.shared.push_system(actor.core(), System::Poke(actor));
    }

    /// Waits in the way of this runtime until `ready` says so: a thread is parked, a simulator steps its world, and on
    /// a core thread it is an error unless `ready` is true at once. Whoever changes what `ready` looks at notifies
    /// `signal`.
    pub fn wait(
        &self,
        signal: &Signal,
        ready: &mut dyn FnMut() -> bool,
        timeout: Option<Duration>,
    ) -> Result<(), WaitError> {
        self.shared.waiter.wait(signal, ready, timeout)
    }

    /// A clock for measuring waits; see [`Waiter::clock`].
    pub fn clock(&self) -> Duration {
        self.shared.waiter.clock()
    }

    /// Whether the runtime is simulated, so that all of it runs in one thread.
    pub fn is_simulated(&self) -> bool {
        self.shared.waiter.is_simulated()
    }

    /// Fills `bytes` from the random source of the first core's driver: from the operating system, or from the seed
    /// of a simulation.
    pub fn random(&self, bytes: &mut [u8]) -> Result<(), AskError> {
        let count = bytes.len();
        let filled = self.run_on(0, move |core| {
            let mut filled = vec![0; count];
            core.driver.random(&mut filled);
            filled
        });
        bytes.copy_from_slice(&filled.wait_for(HANDLE_DEADLINE)?);
        Ok(())
    }

    /// The files behind this runtime's drivers, for threads that may block.
    pub fn disk(&self) -> Result<Arc<dyn Disk>, AskError> {
        self.run_on(0, |core| core.driver.disk())
            .wait_for(HANDLE_DEADLINE)
    }

    /// The interfaces of this machine with their addresses.
    pub fn interfaces(&self) -> Result<io::Result<Vec<Interface>>, AskError> {
        self.run_on(0, |core| core.driver.interfaces())
            .wait_for(HANDLE_DEADLINE)
    }

    /// Asks an actor to stop.
    pub fn stop(&self, actor: ActorId) {
        let reason = StopReason::Requested;
        let _ = self
            .shared
            .push_system(actor.core(), System::Stop { actor, reason });
    }

    /// Why an actor ended, once it has. [`AskError::NoReply`] if its whole core has ended before.
    pub fn stopped(&self, actor: ActorId) -> Answer<StopReason> {
        let (reply, answer) = pair(self.shared.clone(), None);
        let run = move |core: &mut Core| core.mourn(actor, reply);
        // Coming back from a core that has ended it is dropped, which answers.
        let _ = self
            .shared
            .push_system(actor.core(), System::Run(Box::new(run)));
        answer
    }

    /// The actor of this node that is registered as `name`, if it is an `A`.
    pub fn lookup<A: Actor>(&self, name: &str) -> Option<Address<A>> {
        self.shared
            .lookup(self.node, name, TypeId::of::<A>())
            .map(Address::new)
    }

    /// Messages that found no actor any more, over all cores, modulo the word size.
    pub fn undeliverable(&self) -> usize {
        self.shared.undeliverable.load(Ordering::Relaxed)
    }

    /// Everything about every core and actor.
    pub fn snapshot(&self) -> Result<Snapshot, AskError> {
        let asked: Vec<_> = (0..self.cores())
            .map(|core| self.run_on(core, |core| core.snapshot()))
            .collect();
        let mut cores = Vec::with_capacity(asked.len());
        for answer in asked {
            cores.push(answer.wait_for(HANDLE_DEADLINE)?);
        }
        Ok(Snapshot {
            cores,
            memory: self.shared.memory.used(),
        })
    }

    /// Stops every actor on every core; see [`Runtime::shutdown`].
    pub fn shut_down(&self) {
        for remote in &self.shared.cores {
            let _ = remote.push_system(System::Run(Box::new(Core::shut_down)));
        }
    }

    fn kill(&self) {
        for remote in &self.shared.cores {
            let _ = remote.push_system(System::Run(Box::new(Core::kill_all)));
        }
    }
}

impl Core {
    fn snapshot(&self) -> CoreStats {
        let mut stats = self.stats.clone();
        stats.queued = self.queue.len();
        stats.timers = self.wheel.len();
        stats.sockets = self.sockets_open;
        stats.asks = self.asks.len();
        for (index, cell) in self
            .cells
            .iter()
            .enumerate()
            .filter(|(_, cell)| cell.is_alive())
        {
            let id = ActorId::new(self.index, index as u32, cell.generation);
            let extras = cell.extras.as_deref();
            // SAFETY: the actor lives in its cell, and the snapshot is taken between calls, from the system lane.
            let heap = cell.actor.map_or(0, |actor| unsafe { actor.heap_bytes() });
            let size = cell.actor.map_or(0, |actor| actor.vtable().size);
            stats.actors.push(ActorStats {
                id,
                type_name: cell
                    .actor
                    .map_or("(restarting)", |actor| (actor.vtable().type_name)()),
                name: extras.and_then(|extras| extras.name),
                parent: (cell.parent != NONE)
                    .then(|| self.id_at(cell.parent))
                    .flatten(),
                messages: cell.messages,
                busy: Duration::from_micros(u64::from(cell.busy_us)),
                queued: self.queue_depth(id),
                high_water: cell.high_water(self.shared.limits.mailbox),
                memory: size + heap + cell.queued_bytes as usize,
                sockets: self.count_sockets(cell.first_socket),
                restarts: extras.map_or(0, |extras| extras.restarts_total),
                dropped: extras.map_or(0, |extras| extras.dropped),
            });
        }
        stats
    }
}

/// Why a runtime did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// More cores than an [`ActorId`] can name, or none.
    #[error("a runtime has 1 to 255 cores, not {0}")]
    Cores(usize),
    /// The selector or the waker could not be made.
    #[error("the driver did not start: {0}")]
    Driver(#[source] io::Error),
    /// A thread could not be made.
    #[error("a core thread did not start: {0}")]
    Thread(#[source] io::Error),
}

/// Puts cores on drivers without giving them threads: what [`RuntimeBuilder::start`] and the simulator stand on.
pub fn assemble(
    drivers: Vec<Box<dyn Driver>>,
    limits: Limits,
    waiter: Arc<dyn Waiter>,
) -> Result<(Handle, Vec<Core>), StartError> {
    let wakes = drivers.iter().map(|driver| driver.waker()).collect();
    let shared = share(drivers.len(), limits, wakes, waiter)?;
    let cores = drivers
        .into_iter()
        .enumerate()
        .map(|(index, driver)| Core::new(index as u8, driver, shared.clone()))
        .collect();
    Ok((Handle::new(shared, NodeId(0)), cores))
}

fn share(
    cores: usize,
    limits: Limits,
    wakes: Vec<Arc<dyn crate::io::driver::Wake>>,
    waiter: Arc<dyn Waiter>,
) -> Result<Arc<Shared>, StartError> {
    if cores == 0 || cores > 255 {
        return Err(StartError::Cores(cores));
    }
    let memory = Arc::new(MemoryBudget::new(limits.memory_max));
    Ok(Shared::new(limits, memory, wakes, waiter))
}

/// Parks threads that wait.
struct ThreadWaiter;

impl Waiter for ThreadWaiter {
    fn wait(
        &self,
        signal: &Signal,
        ready: &mut dyn FnMut() -> bool,
        timeout: Option<Duration>,
    ) -> Result<(), WaitError> {
        if on_core_thread() {
            // What is there already costs no waiting.
            return if ready() {
                Ok(())
            } else {
                Err(WaitError::OnCoreThread)
            };
        }
        signal.park(ready, timeout)
    }
}

/// Which selector stands below a runtime.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum DriverKind {
    /// The best that was compiled in: mio, else polling.
    #[default]
    Default,
    /// The `mio` crate: epoll, kqueue, IOCP.
    #[cfg(feature = "driver-mio")]
    Mio,
    /// The `polling` crate, which also knows event ports and plain `poll`.
    #[cfg(feature = "driver-polling")]
    Polling,
}

/// How a [`Runtime`] is to be.
#[derive(Clone, Debug)]
pub struct RuntimeBuilder {
    cores: usize,
    limits: Limits,
    kind: DriverKind,
    thread_name: String,
}

impl RuntimeBuilder {
    /// Number of cores, each a thread; 1 unless said otherwise.
    pub fn cores(mut self, cores: usize) -> RuntimeBuilder {
        self.cores = cores;
        self
    }

    /// Bounds.
    pub fn limits(mut self, limits: Limits) -> RuntimeBuilder {
        self.limits = limits;
        self
    }

    /// The selector to use.
    pub fn driver(mut self, kind: DriverKind) -> RuntimeBuilder {
        self.kind = kind;
        self
    }

    /// What the threads are called: this and the core's number.
    pub fn thread_name(mut self, name: impl Into<String>) -> RuntimeBuilder {
        self.thread_name = name.into();
        self
    }

    /// Starts the core threads.
    pub fn start(self) -> Result<Runtime, StartError> {
        let drivers =
            crate::io::start_drivers(self.kind, self.cores).map_err(StartError::Driver)?;
        let wakes = drivers.iter().map(|driver| driver.waker()).collect();
        let shared = share(self.cores, self.limits, wakes, Arc::new(ThreadWaiter))?;
        let running = Arc::new((AtomicUsize::new(self.cores), Signal::default()));
        let mut runtime = Runtime {
            handle: Handle::new(shared.clone(), NodeId(0)),
            threads: Vec::new(),
            running: running.clone(),
        };
        for (index, driver) in drivers.into_iter().enumerate() {
            let (shared, running) = (shared.clone(), running.clone());
            let body = move || {
                let driver: Box<dyn Driver> = driver;
                Core::new(index as u8, driver, shared).run();
                running.0.fetch_sub(1, Ordering::AcqRel);
                running.1.notify();
            };
            let name = format!("{}{index}", self.thread_name);
            match std::thread::Builder::new().name(name).spawn(body) {
                Ok(thread) => runtime.threads.push(thread),
                Err(error) => {
                    runtime
                        .running
                        .0
                        .fetch_sub(self.cores - index, Ordering::AcqRel);
                    return Err(StartError::Thread(error));
                }
            }
        }
        Ok(runtime)
    }
}

/// Core threads and the actors on them. Dropping it shuts down.
pub struct Runtime {
    handle: Handle,
    threads: Vec<JoinHandle<()>>,
    running: Arc<(AtomicUsize, Signal)>,
}

impl Runtime {
    /// One core, default bounds, the default driver.
    pub fn builder() -> RuntimeBuilder {
        RuntimeBuilder {
            cores: 1,
            limits: Limits::default(),
            kind: DriverKind::default(),
            thread_name: "mischief-core".to_owned(),
        }
    }

    /// A handle to it.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Stops every actor, children before parents, and lets them drain for `deadline`. What is left then is dropped.
    /// `false` if something was. On a core thread it only asks for the shutdown, and answers `false`.
    pub fn shutdown(mut self, deadline: Duration) -> bool {
        self.shut_down(deadline)
    }

    fn shut_down(&mut self, deadline: Duration) -> bool {
        self.handle.shut_down();
        if on_core_thread() {
            return false;
        }
        let running = self.running.clone();
        let mut ended = || running.0.load(Ordering::Acquire) == 0;
        let in_time = running.1.park(&mut ended, Some(deadline)).is_ok();
        if !in_time {
            self.handle.kill();
            // A handler that never returns cannot be ended from outside; its thread is left behind.
            if running.1.park(&mut ended, Some(deadline)).is_err() {
                self.threads.clear();
                return false;
            }
        }
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                log::error!("a core thread panicked");
            }
        }
        in_time
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            self.shut_down(DROP_DEADLINE);
        }
    }
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Runtime({:?})", self.handle)
    }
}
