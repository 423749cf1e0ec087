//! What an actor may do.

use std::any::Any;
use std::io;
use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::cell::NONE;
use super::core::{Core, TimerKind};
use super::lifecycle::{SpawnError, panic_text};
use super::shared::{NodeId, System, TrySendError};
use super::slot::Slot;
use super::{
    Actor, ActorId, Address, AskError, Child, Handle, Message, Recipient, Reply, StopReason,
};
use crate::io::BufferPool;
use crate::io::driver::{Disk, Interface, ListenOptions, Resolver, SocketId, Transmit, UdpOptions};
use crate::io::memory::MemoryBudget;
use crate::io::wheel::TimerId;
use crate::random::Random;
use crate::time::{Instant, WallTime};

/// The hands of an actor while it handles a message or an event.
pub struct Context<'a, A: Actor> {
    core: &'a mut Core,
    id: ActorId,
    actor: PhantomData<fn(A)>,
}

/// Why an offloaded job brought no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OffloadError {
    /// The pool's queue is full.
    #[error("too many jobs are waiting")]
    Full,
    /// The job panicked.
    #[error("the job panicked: {0}")]
    Panicked(Arc<str>),
}

/// Files and names, for offloaded jobs.
#[derive(Clone)]
pub struct Outside {
    /// The node's files.
    pub disk: Arc<dyn Disk>,
    /// Name resolution.
    pub resolver: Arc<dyn Resolver>,
}

impl<'a, A: Actor> Context<'a, A> {
    pub(crate) fn new(core: &'a mut Core, id: ActorId) -> Context<'a, A> {
        Context {
            core,
            id,
            actor: PhantomData,
        }
    }

    /// This actor's address.
    pub fn address(&self) -> Address<A> {
        Address::new(self.id)
    }

    /// This actor's id.
    pub fn id(&self) -> ActorId {
        self.id
    }

    /// A handle to the runtime, for threads outside.
    pub fn handle(&self) -> Handle {
        Handle::new(self.core.shared.clone(), self.node())
    }

    /// The node this actor belongs to.
    pub fn node(&self) -> NodeId {
        self.core.cells[self.id.index()].node
    }

    /// The turn's time: read when the turn began and after each event.
    pub fn now(&self) -> Instant {
        self.core.now
    }

    /// The wall clock.
    pub fn wall(&mut self) -> WallTime {
        self.core.driver.wall()
    }

    /// Random bytes, from the driver.
    pub fn random(&mut self) -> impl Random + '_ {
        DriverRandom(self.core)
    }

    // ---- messages

    /// Sends a message to an actor of any core. It comes back when there is no room or nobody: keep it in a bounded
    /// outbox and ask for [`Context::notify_ready`], or drop it and count.
    #[inline(always)]
    pub fn send<B: Actor>(
        &mut self,
        to: &Address<B>,
        message: B::Message,
    ) -> Result<(), TrySendError<B::Message>> {
        self.core.send(to.id(), message)
    }

    /// Sends a message to whoever understands it.
    #[inline]
    pub fn send_to<M: Message>(
        &mut self,
        to: &Recipient<M>,
        message: M,
    ) -> Result<(), TrySendError<M>> {
        to.send(self.core, message)
    }

    /// Asks for one [`Event::Ready`](super::Event::Ready) when `to` has room again, or is gone. At once if it has.
    pub fn notify_ready(&mut self, to: ActorId) {
        let id = self.id;
        self.core.notify_ready(id, to);
    }

    /// Asks an actor of any core. `question` is given the [`Reply`] to put into the message; `answer` turns what
    /// comes back into a message for this actor, which arrives on the system lane and is never refused. The answer,
    /// or an error, arrives exactly once, at the latest at the deadline.
    pub fn ask<B: Actor, R: Send + 'static>(
        &mut self,
        to: &Address<B>,
        question: impl FnOnce(Reply<R>) -> B::Message,
        deadline: Duration,
        answer: impl FnOnce(Result<R, AskError>) -> A::Message + 'static,
    ) {
        let complete = move |result: Result<Box<dyn Any + Send>, AskError>, asker: ActorId| {
            let result = result.and_then(|value| match value.downcast::<R>() {
                Ok(value) => Ok(*value),
                Err(_) => Err(AskError::NoReply),
            });
            Slot::new(asker, answer(result))
        };
        let names = (
            std::any::type_name::<B>(),
            std::any::type_name::<B::Message>(),
        );
        let (ask, reply) =
            match self
                .core
                .ask(self.id, to.id(), names, deadline, Box::new(complete))
            {
                Ok(asked) => asked,
                Err(complete) => {
                    let slot = complete(Err(AskError::TooMany), self.id);
                    return self.core.system.push_back(System::Deliver(slot));
                }
            };
        let refusal = match self.core.send(to.id(), question(reply)) {
            Ok(()) => return,
            Err(TrySendError::Full(message)) => {
                // Dropping the message drops its `Reply`, which must not answer before this does.
                let pending = self.core.take_ask(ask);
                drop(message);
                pending.map(|pending| (pending, AskError::Full))
            }
            Err(TrySendError::Stopped(message)) => {
                let pending = self.core.take_ask(ask);
                drop(message);
                pending.map(|pending| (pending, AskError::NoReply))
            }
        };
        if let Some((pending, error)) = refusal {
            let slot = (pending.complete)(Err(error), self.id);
            self.core.system.push_back(System::Deliver(slot));
        }
    }

    // ---- life

    /// Makes a child on this core. It is stopped before this actor is. Its `started` runs after this handler.
    pub fn spawn<B: Actor>(&mut self, child: Child<B>) -> Result<Address<B>, SpawnError> {
        let node = self.node();
        self.core.spawn(child, self.id.index() as u32, node)
    }

    /// Makes an actor on this core that does not depend on this one.
    pub fn spawn_root<B: Actor>(&mut self, child: Child<B>) -> Result<Address<B>, SpawnError> {
        let node = self.node();
        self.core.spawn(child, NONE, node)
    }

    /// Stops this actor after this handler: children first, then [`Actor::stopping`]. Called while draining it ends
    /// the drain.
    pub fn stop(&mut self) {
        let item = System::Stop {
            actor: self.id,
            reason: StopReason::Finished,
        };
        self.core.system.push_back(item);
    }

    /// Asks another actor to stop.
    pub fn stop_actor(&mut self, actor: ActorId) {
        let reason = StopReason::Requested;
        // An actor whose core has ended has stopped.
        let _ = self.core.push_system(actor, System::Stop { actor, reason });
    }

    /// Asks for one [`Event::Stopped`](super::Event::Stopped) when `actor` ends; at once if it has ended.
    pub fn watch(&mut self, actor: ActorId) {
        let watcher = self.id;
        self.core.watch(watcher, actor);
    }

    /// Takes [`Context::watch`] back.
    pub fn unwatch(&mut self, actor: ActorId) {
        let watcher = self.id;
        self.core.unwatch(watcher, actor);
    }

    /// Registers this actor under a name in its node for as long as it lives.
    pub fn register(&mut self, name: &'static str) -> Result<(), SpawnError> {
        self.core.register(self.id, name)
    }

    /// The actor of this node that is registered as `name`, if it is a `B`.
    pub fn lookup<B: Actor>(&self, name: &str) -> Option<Address<B>> {
        let of = std::any::TypeId::of::<B>();
        self.core
            .shared
            .lookup(self.node(), name, of)
            .map(Address::new)
    }

    // ---- time

    /// Sets the one deadline of this actor, or clears it: [`Event::Wake`](super::Event::Wake) comes not before `at`
    /// and at most about `slack` after. Cheap to call often; a later deadline than before is only stored.
    pub fn wake_at(&mut self, at: Option<Instant>, slack: Duration) {
        let id = self.id;
        self.core.wake_at(id, at, slack);
    }

    /// Arms a timer beside the deadline: [`Event::Timer`](super::Event::Timer) brings its tag.
    pub fn arm(&mut self, at: Instant, slack: Duration, tag: u32) -> TimerId {
        self.core.cells[self.id.index()].timers += 1;
        let owner = TimerKind::Tagged.owner(self.id.index() as u32);
        self.core.wheel.arm(at, slack, owner, tag)
    }

    /// Disarms a timer of this actor, whose event then does not come. `false` if it has come already.
    pub fn cancel(&mut self, timer: TimerId) -> bool {
        let owner = TimerKind::Tagged.owner(self.id.index() as u32);
        if self.core.wheel.owner(timer) != Some(owner) {
            return false;
        }
        self.core.cells[self.id.index()].timers -= 1;
        self.core.wheel.cancel(timer)
    }

    /// Asks for one [`Event::Flush`](super::Event::Flush) at the end of this turn.
    #[inline]
    pub fn flush_later(&mut self) {
        let cell = &mut self.core.cells[self.id.index()];
        if !std::mem::replace(&mut cell.flush_due, true) {
            self.core.flush_due.push(self.id);
        }
    }

    // ---- sockets

    /// Opens a listening TCP socket: connections come as [`Event::Accepted`](super::Event::Accepted).
    pub fn tcp_listen(&mut self, addr: SocketAddr, options: ListenOptions) -> io::Result<SocketId> {
        let id = self.id;
        self.core.tcp_listen(id, addr, options)
    }

    /// Starts a TCP connection: [`Event::Connected`](super::Event::Connected) or
    /// [`Event::ConnectFailed`](super::Event::ConnectFailed) follows. The system's own time-out is long; set one.
    pub fn tcp_connect(
        &mut self,
        remote: SocketAddr,
        local: Option<SocketAddr>,
    ) -> io::Result<SocketId> {
        let id = self.id;
        self.core.tcp_connect(id, remote, local)
    }

    /// Writes to a connection, which may still be connecting. The kernel takes what it can, the rest is kept: the
    /// result is how many bytes are kept, and when it is not 0 an [`Event::Writable`](super::Event::Writable) will
    /// come.
    ///
    /// `WouldBlock`: bytes are kept already, and with these they would be more than
    /// [`Limits::unsent_max`](super::Limits::unsent_max); nothing was taken. `NotConnected` and `InvalidInput`: the
    /// socket is not this actor's, no connection, its writing half has been shut down, or these are more than 1 GiB. On
    /// any other error the connection is gone.
    pub fn write(&mut self, socket: SocketId, bytes: &[u8]) -> io::Result<usize> {
        let id = self.id;
        self.core.write(id, socket, bytes)
    }

    /// The actor's socket; of several, the one that it came by last.
    pub fn socket(&self) -> Option<SocketId> {
        self.core.first_socket_of(self.id)
    }

    /// Bytes of a connection that the kernel has not taken yet.
    pub fn unsent(&self, socket: SocketId) -> usize {
        self.core.unsent(socket)
    }

    /// Shuts down the writing half of a connection once what is kept has been written.
    pub fn shutdown_write(&mut self, socket: SocketId) -> io::Result<()> {
        let id = self.id;
        self.core.shutdown_write(id, socket)
    }

    /// Closes a socket at once. `abort` resets a TCP connection.
    pub fn close(&mut self, socket: SocketId, abort: bool) {
        let id = self.id;
        self.core.close_socket(socket, id, abort);
    }

    /// Stops reading (accepting, receiving): the other side is pushed back.
    pub fn pause_reading(&mut self, socket: SocketId) {
        let id = self.id;
        self.core.pause_reading(id, socket);
    }

    /// Reads on; what has arrived meanwhile is not lost.
    pub fn resume_reading(&mut self, socket: SocketId) {
        let id = self.id;
        self.core.resume_reading(id, socket);
    }

    /// Gives a connection to another actor, on any core, where it arrives as [`Event::Given`](super::Event::Given).
    pub fn give_socket(&mut self, socket: SocketId, to: ActorId) -> io::Result<()> {
        let id = self.id;
        self.core.give_socket(id, socket, to)
    }

    /// The address at the other end of a connection.
    pub fn peer_addr(&self, socket: SocketId) -> io::Result<SocketAddr> {
        self.core.driver.peer_addr(socket)
    }

    /// The local address of a socket.
    pub fn local_addr(&self, socket: SocketId) -> io::Result<SocketAddr> {
        self.core.driver.local_addr(socket)
    }

    /// Opens a UDP socket: datagrams come as [`Event::Datagram`](super::Event::Datagram).
    pub fn udp_bind(&mut self, addr: SocketAddr, options: UdpOptions) -> io::Result<SocketId> {
        let id = self.id;
        self.core.udp_bind(id, addr, options)
    }

    /// Sends datagrams; returns how many were taken. When not all were, an
    /// [`Event::Writable`](super::Event::Writable) comes to the owner.
    pub fn udp_send(&mut self, socket: SocketId, transmits: &[Transmit<'_>]) -> io::Result<usize> {
        let id = self.id;
        self.core.udp_send(id, socket, transmits)
    }

    /// Has datagrams whose first byte lies in `first` go to another actor of this core (RFC 7983), which may then
    /// send through the socket too. Of routes that overlap the one made first counts; a second one with the same range
    /// takes the place of the first. Once `to` has ended they come to the owner again.
    pub fn route(
        &mut self,
        socket: SocketId,
        first: RangeInclusive<u8>,
        to: ActorId,
    ) -> io::Result<()> {
        let id = self.id;
        self.core.route(id, socket, first, to)
    }

    /// Joins or leaves a multicast group on an interface.
    pub fn udp_membership(
        &mut self,
        socket: SocketId,
        group: IpAddr,
        interface: u32,
        join: bool,
    ) -> io::Result<()> {
        let id = self.id;
        self.core
            .udp_driver(id, socket)?
            .udp_membership(socket, group, interface, join)
    }

    /// Sets hop limit, loopback and outgoing interface of the multicast that a socket sends.
    pub fn udp_multicast(
        &mut self,
        socket: SocketId,
        ttl: u8,
        loopback: bool,
        interface: Option<u32>,
    ) -> io::Result<()> {
        let id = self.id;
        self.core
            .udp_driver(id, socket)?
            .udp_multicast(socket, ttl, loopback, interface)
    }

    /// The network interfaces as they are now.
    pub fn interfaces(&mut self) -> io::Result<Vec<Interface>> {
        self.core.driver.interfaces()
    }

    /// From now on [`Event::InterfacesChanged`](super::Event::InterfacesChanged) and
    /// [`Event::Resumed`](super::Event::Resumed) come to this actor. The error tells that the system reports no
    /// changes of interfaces; `Resumed` comes all the same.
    pub fn watch_interfaces(&mut self) -> io::Result<()> {
        let cell = &mut self.core.cells[self.id.index()];
        if !std::mem::replace(&mut cell.watches_interfaces, true) {
            self.core.watching_interfaces.push(self.id);
        }
        self.core.driver.watch_interfaces()
    }

    // ---- memory and other threads

    /// The core's scratch buffer, empty. Give it back with [`Context::give_scratch`].
    pub fn take_scratch(&mut self) -> Vec<u8> {
        let mut scratch = std::mem::take(&mut self.core.scratch);
        scratch.clear();
        scratch
    }

    /// Gives the scratch buffer back; one that grew beyond 640 KiB is freed instead.
    pub fn give_scratch(&mut self, scratch: Vec<u8>) {
        const SCRATCH_KEPT: usize = 640 << 10;
        if scratch.capacity() <= SCRATCH_KEPT {
            self.core.scratch = scratch;
        }
    }

    /// Frees a scratch buffer that has grown beyond 64 KiB. To be called now and then, when nothing hurries: whoever
    /// needs it again pays for new memory.
    pub fn release_scratch(&mut self) {
        const SCRATCH_IDLE: usize = 64 << 10;
        if self.core.scratch.capacity() > SCRATCH_IDLE {
            self.core.scratch = Vec::new();
        }
    }

    /// Whether the runtime's memory bound is reached: take nobody new.
    pub fn is_memory_short(&self) -> bool {
        self.core.shared.memory.is_over()
    }

    /// The runtime's memory accounting, for what this actor keeps.
    pub fn memory(&self) -> &Arc<MemoryBudget> {
        &self.core.shared.memory
    }

    /// The core's pool of buffers: for bytes that outlive a turn or go to other actors, counted against
    /// [`Limits::memory_max`](super::Limits::memory_max) as long as they are held.
    pub fn buffers(&mut self) -> &mut BufferPool {
        &mut self.core.buffers
    }

    /// Runs `job` on the offload pool, where it may block, and has `done` turn its result into a message for this
    /// actor, which arrives on the system lane. A pool without room answers with [`OffloadError::Full`].
    pub fn offload<T: Send + 'static>(
        &mut self,
        job: impl FnOnce(&Outside) -> T + Send + 'static,
        done: impl FnOnce(Result<T, OffloadError>) -> A::Message + Send + 'static,
    ) {
        let outside = Outside {
            disk: self.core.driver.disk(),
            resolver: self.core.driver.resolver(),
        };
        let (shared, id) = (self.core.shared.clone(), self.id);
        let done = Arc::new(parking_lot::Mutex::new(Some(done)));
        let finish = done.clone();
        let boxed: crate::io::driver::Job = Box::new(move || {
            let result = catch_unwind(AssertUnwindSafe(|| job(&outside)))
                .map_err(|panic| OffloadError::Panicked(panic_text(&*panic)));
            let finish = finish.lock().take();
            if let Some(finish) = finish {
                let slot = Slot::new(id, finish(result));
                // The core may have ended meanwhile.
                let _ = shared.push_system(id.core(), System::Deliver(slot));
            }
        });
        if self.core.driver.offload(boxed).is_err()
            && let Some(done) = done.lock().take()
        {
            let slot = Slot::new(self.id, done(Err(OffloadError::Full)));
            self.core.system.push_back(System::Deliver(slot));
        }
    }

    /// Resolves a host name on the offload pool.
    pub fn resolve(
        &mut self,
        host: String,
        port: u16,
        done: impl FnOnce(io::Result<Vec<SocketAddr>>) -> A::Message + Send + 'static,
    ) {
        self.offload(
            move |outside| outside.resolver.resolve(&host, port),
            move |result| done(result.unwrap_or_else(|error| Err(io::Error::other(error)))),
        );
    }
}

struct DriverRandom<'a>(&'a mut Core);

impl Random for DriverRandom<'_> {
    fn fill(&mut self, bytes: &mut [u8]) {
        self.0.driver.random(bytes);
    }
}
