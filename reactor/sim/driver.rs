//! The simulated driver: a core's way to the outside, where the outside is the world.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use super::arena::Key;
use super::node::{CoreId, MachineId, wall_nanos};
use super::state::{Board, State};
use super::world::{World, WorldId};
use crate::io::driver::{
    Datagram, DetachedSocket, Disk, Driver, Interface, Job, ListenOptions, Ready, Resolver,
    SocketId, Transmit, UdpOptions, Wake, Woken,
};
use crate::random::Random;
use crate::time::{Instant, WallTime};

/// The driver of one core of a simulated node.
///
/// [`Driver::wait`] never blocks the thread. Called in a core's turn it reports what is ready and returns; the turn's
/// result tells the world when to come back. Called from outside of any turn, as a test does that drives a driver by
/// hand, it steps the world until something is ready or the deadline has come, so that it looks like a real one.
///
/// Dropping it closes its sockets, as the end of a process does.
pub struct SimDriver {
    state: Rc<RefCell<State>>,
    world: Weak<World>,
    world_id: WorldId,
    node: MachineId,
    core: CoreId,
}

impl SimDriver {
    pub(super) fn new(
        state: Rc<RefCell<State>>,
        world: Weak<World>,
        world_id: WorldId,
        node: MachineId,
    ) -> SimDriver {
        let core = state.borrow_mut().add_core(node);
        SimDriver {
            state,
            world,
            world_id,
            node,
            core,
        }
    }

    /// The core that this driver is the driver of.
    pub fn core_id(&self) -> CoreId {
        self.core
    }

    /// The node that the core belongs to.
    pub fn node_id(&self) -> MachineId {
        self.node
    }

    /// The world that it is a part of.
    pub fn world_id(&self) -> WorldId {
        self.world_id
    }

    /// A program that has crashed cannot do anything any more, though what is left of it may try while it is dropped.
    fn check_alive(&self) -> io::Result<()> {
        if self.state.borrow_mut().core(self.core).is_dead {
            let kind = io::ErrorKind::NotConnected;
            return Err(io::Error::new(kind, "the machine has crashed"));
        }
        Ok(())
    }
}

impl Drop for SimDriver {
    fn drop(&mut self) {
        // A panic in the middle of a call leaves the state borrowed; then nothing matters any more.
        let Ok(mut state) = self.state.try_borrow_mut() else {
            return;
        };
        for socket in state.sockets(self.core) {
            state.close(self.core, socket, false);
        }
    }
}

impl fmt::Debug for SimDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimDriver(node {}, core {})", self.node.0, self.core.0)
    }
}

impl Driver for SimDriver {
    fn now(&mut self) -> Instant {
        self.state.borrow().now
    }

    fn wall(&mut self) -> WallTime {
        let mut state = self.state.borrow_mut();
        let since_start = Instant::ZERO + state.elapsed();
        let skew = state.node(self.node).skew;
        WallTime::from_unix_nanos(wall_nanos(since_start, skew))
    }

    fn random(&mut self, bytes: &mut [u8]) {
        self.state.borrow_mut().core(self.core).random.fill(bytes);
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.state.borrow_mut().waker(self.core)
    }

    fn disk(&self) -> Arc<dyn Disk> {
        let mut state = self.state.borrow_mut();
        let process = state.core(self.core).process;
        Arc::new(state.node(self.node).disk.opened_by(process))
    }

    fn resolver(&self) -> Arc<dyn Resolver> {
        self.state.borrow().resolver.clone()
    }

    fn offload(&mut self, job: Job) -> Result<(), Job> {
        let mut state = self.state.borrow_mut();
        if state.core(self.core).is_dead {
            return Err(job);
        }
        state.offload(self.node, job)
    }

    fn tcp_listen(&mut self, addr: SocketAddr, options: ListenOptions) -> io::Result<SocketId> {
        self.check_alive()?;
        self.state.borrow_mut().tcp_listen(self.core, addr, options)
    }

    fn tcp_accept(&mut self, listener: SocketId) -> io::Result<(SocketId, SocketAddr)> {
        self.state.borrow_mut().tcp_accept(self.core, listener)
    }

    fn tcp_connect(
        &mut self,
        remote: SocketAddr,
        local: Option<SocketAddr>,
    ) -> io::Result<SocketId> {
        self.check_alive()?;
        self.state
            .borrow_mut()
            .tcp_connect(self.core, remote, local)
    }

    fn read(&mut self, socket: SocketId, bytes: &mut [u8]) -> io::Result<usize> {
        self.state.borrow_mut().read(self.core, socket, bytes)
    }

    fn short_read_drains(&self) -> bool {
        // A read that the world cuts short is followed by a new edge.
        self.state.borrow_mut().core(self.core).short_read_drains
    }

    fn write(&mut self, socket: SocketId, bytes: &[u8]) -> io::Result<usize> {
        self.state.borrow_mut().write(self.core, socket, bytes)
    }

    fn shutdown_write(&mut self, socket: SocketId) -> io::Result<()> {
        self.state.borrow_mut().shutdown_write(self.core, socket)
    }

    fn take_error(&mut self, socket: SocketId) -> Option<io::Error> {
        self.state.borrow_mut().take_error(self.core, socket)
    }

    fn close(&mut self, socket: SocketId, abort: bool) {
        self.state.borrow_mut().close(self.core, socket, abort);
    }

    fn detach(&mut self, socket: SocketId) -> Option<DetachedSocket> {
        let mut state = self.state.borrow_mut();
        let key = state.detach(self.core, socket)?;
        let board = state.board.clone();
        let detached = Detached {
            world: self.world_id,
            key: Cell::new(Some(key)),
            board,
        };
        Some(DetachedSocket(Box::new(detached)))
    }

    fn attach(&mut self, socket: DetachedSocket) -> io::Result<SocketId> {
        self.check_alive()?;
        let Ok(detached) = socket.0.downcast::<Detached>() else {
            return Err(foreign_socket(
                "the socket belongs to a driver of another kind",
            ));
        };
        if detached.world != self.world_id {
            return Err(foreign_socket("the socket belongs to another world"));
        }
        let key = detached.key.get().expect("only attaching takes the key");
        let Some(socket) = self.state.borrow_mut().attach(self.core, key) else {
            return Err(foreign_socket("the socket belongs to another node"));
        };
        detached.key.set(None);
        Ok(socket)
    }

    fn peer_addr(&self, socket: SocketId) -> io::Result<SocketAddr> {
        self.state.borrow().peer_addr(self.core, socket)
    }

    fn local_addr(&self, socket: SocketId) -> io::Result<SocketAddr> {
        self.state.borrow().local_addr(self.core, socket)
    }

    fn udp_bind(&mut self, addr: SocketAddr, options: UdpOptions) -> io::Result<SocketId> {
        self.check_alive()?;
        self.state.borrow_mut().udp_bind(self.core, addr, options)
    }

    fn udp_receive(
        &mut self,
        socket: SocketId,
        buffer: &mut [u8],
        each: &mut dyn FnMut(Datagram<'_>),
    ) -> io::Result<usize> {
        if buffer.is_empty() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let room = buffer.len();
        let batch = self
            .state
            .borrow_mut()
            .udp_receive(self.core, socket, room)?;
        let mut buffer = buffer;
        // The world is not borrowed any more: `each` may do what it likes.
        for received in &batch {
            // Only the first may be longer than the buffer.
            let len = received.data.len().min(buffer.len());
            let data = buffer.split_off_mut(..len).expect("it is that long");
            data.copy_from_slice(&received.data[..len]);
            each(Datagram {
                from: received.from,
                to: Some(received.to),
                interface: Some(received.interface),
                ttl: Some(received.ttl),
                ecn: received.ecn,
                data,
            });
        }
        Ok(batch.len())
    }

    fn udp_send(&mut self, socket: SocketId, transmits: &[Transmit<'_>]) -> io::Result<usize> {
        self.state
            .borrow_mut()
            .udp_send(self.core, socket, transmits)
    }

    fn udp_membership(
        &mut self,
        socket: SocketId,
        group: IpAddr,
        interface: u32,
        join: bool,
    ) -> io::Result<()> {
        self.state
            .borrow_mut()
            .udp_membership(self.core, socket, group, interface, join)
    }

    fn udp_multicast(
        &mut self,
        socket: SocketId,
        ttl: u8,
        loopback: bool,
        interface: Option<u32>,
    ) -> io::Result<()> {
        self.state
            .borrow_mut()
            .udp_multicast(self.core, socket, ttl, loopback, interface)
    }

    fn interfaces(&mut self) -> io::Result<Vec<Interface>> {
        Ok(self.state.borrow_mut().node(self.node).interfaces())
    }

    fn watch_interfaces(&mut self) -> io::Result<()> {
        self.state.borrow_mut().core(self.core).watches_interfaces = true;
        Ok(())
    }

    fn wait(&mut self, deadline: Option<Instant>, ready: &mut Vec<Ready>) -> io::Result<Woken> {
        self.check_alive()?;
        let world = self.world.upgrade();
        let Some(world) = world else {
            return Err(io::Error::new(
                io::ErrorKind::NotConnected,
                "the world is gone",
            ));
        };
        if world.is_stepping() {
            return Ok(self.state.borrow_mut().collect(self.core, ready));
        }
        loop {
            let before = ready.len();
            world.run_for_driver(self.core, deadline)?;
            let mut state = self.state.borrow_mut();
            let woken = state.collect(self.core, ready);
            let is_due = deadline.is_some_and(|at| at <= state.now);
            // What was ready may be gone by now; a real wait sleeps on then.
            if ready.len() > before || woken != Woken::default() || is_due {
                return Ok(woken);
            }
        }
    }
}

/// A connection between two drivers. It is closed if nobody takes it.
struct Detached {
    world: WorldId,
    key: Cell<Option<Key>>,
    board: Arc<Board>,
}

impl Drop for Detached {
    fn drop(&mut self) {
        if let Some(key) = self.key.get() {
            self.board.drop_detached(key);
        }
    }
}

fn foreign_socket(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}
