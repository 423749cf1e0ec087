//! The driver: the only way from the actors to the outside world.
//!
//! A [`Driver`] belongs to one core and is never shared. It owns that core's operating system sockets and its selector.
//! What has to be reached from other threads hangs off it as `Arc`s: the [`Wake`] handle, the [`Disk`] and the
//! [`Resolver`], of which only the offload pool's threads make use.
//!
//! Readiness is edge-triggered. Who gets a [`Ready`] reads or writes until `WouldBlock`, or comes back by itself.

use std::any::Any;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::time::{Instant, WallTime};

/// A socket of one core: its place in the driver's slab and a generation, so that an id of a closed socket never means
/// its successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId {
    /// Place in the driver's slab. Small and dense: side tables are indexed by it.
    pub index: u32,
    /// Counts the sockets that have used this place.
    pub generation: u32,
}

/// What happened to a socket, as [`Driver::wait`] reports it. Several bits may be set at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// The socket.
    pub socket: SocketId,
    /// Bytes, a datagram or a connection to accept may be there.
    pub readable: bool,
    /// There may be room to write; for a connecting socket: the attempt has ended, see [`Driver::take_error`].
    pub writable: bool,
    /// The peer has shut down its writing half, or the connection is gone.
    pub read_closed: bool,
    /// The connection reports an error.
    pub error: bool,
}

/// What ended a [`Driver::wait`] besides sockets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Woken {
    /// Somebody called [`Wake::wake`].
    pub by_waker: bool,
    /// Interfaces or their addresses changed (only after [`Driver::watch_interfaces`]).
    pub interfaces_changed: bool,
    /// The machine slept or the process was stopped: the clock jumped by more than the wait allowed for.
    pub resumed: bool,
}

/// How a listener is opened.
#[derive(Clone, Copy, Debug)]
pub struct ListenOptions {
    /// Length of the kernel's accept queue.
    pub backlog: u32,
    /// Share the port with other sockets that set this (one listener per core on Linux). The first listener of a port
    /// binds without it, so that a port in use by another program is noticed, and the option is set afterwards.
    pub reuse_port: ReusePort,
}

impl Default for ListenOptions {
    fn default() -> Self {
        ListenOptions {
            backlog: 1024,
            reuse_port: ReusePort::No,
        }
    }
}

/// Whether and how a listening socket shares its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReusePort {
    /// The port is ours alone.
    No,
    /// Bind alone, then allow others to join.
    First,
    /// Join the port of a [`ReusePort::First`] socket.
    Join,
}

/// How a UDP socket is opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct UdpOptions {
    /// Share the port with other programs (`SO_REUSEADDR`, and `SO_REUSEPORT` where it exists): mDNS.
    pub share_port: bool,
    /// Wanted kernel receive buffer in bytes.
    pub receive_buffer: Option<u32>,
    /// Wanted kernel send buffer in bytes.
    pub send_buffer: Option<u32>,
    /// Allow sending to broadcast addresses.
    pub broadcast: bool,
}

/// Explicit congestion notification bits of an IP packet (RFC 3168).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ecn {
    /// Not capable.
    #[default]
    NotEct,
    /// Capable, code point ECT(1).
    Ect1,
    /// Capable, code point ECT(0).
    Ect0,
    /// Congestion experienced.
    Ce,
}

/// A received datagram. The bytes are borrowed from the core's read buffer.
#[derive(Debug)]
pub struct Datagram<'a> {
    /// Who sent it.
    pub from: SocketAddr,
    /// The local address it was sent to, where the system tells; a multicast group for multicast.
    pub to: Option<IpAddr>,
    /// Index of the interface it came in on, where the system tells.
    pub interface: Option<u32>,
    /// IP time to live or hop limit, where the system tells.
    pub ttl: Option<u8>,
    /// Congestion bits.
    pub ecn: Ecn,
    /// The payload. Mutable so that it can be decrypted in place.
    pub data: &'a mut [u8],
}

/// A datagram, or a run of equal-sized ones, to send.
#[derive(Clone, Copy, Debug)]
pub struct Transmit<'a> {
    /// Where to.
    pub to: SocketAddr,
    /// Source address to send from, on a socket bound to a wildcard.
    pub source: Option<IpAddr>,
    /// Index of the interface to send through.
    pub interface: Option<u32>,
    /// Congestion bits to set.
    pub ecn: Ecn,
    /// If given, `data` is several datagrams of this size each (the last may be shorter).
    pub segment_size: Option<u16>,
    /// The payload.
    pub data: &'a [u8],
}

impl<'a> Transmit<'a> {
    /// One datagram with nothing special.
    pub fn new(to: SocketAddr, data: &'a [u8]) -> Transmit<'a> {
        Transmit {
            to,
            source: None,
            interface: None,
            ecn: Ecn::NotEct,
            segment_size: None,
            data,
        }
    }
}

/// A network interface with its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The system's name of it: `eth0`.
    pub name: String,
    /// The system's index of it; the scope id of its link-local addresses.
    pub index: u32,
    /// Whether it is up and running.
    pub is_up: bool,
    /// Whether it is the loopback interface.
    pub is_loopback: bool,
    /// Whether it can multicast.
    pub is_multicast: bool,
    /// Its addresses with prefix lengths.
    pub addrs: Vec<(IpAddr, u8)>,
}

/// A TCP connection taken out of one core's driver, to be given to another's.
pub struct DetachedSocket(pub Box<dyn Any + Send>);

impl std::fmt::Debug for DetachedSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DetachedSocket")
    }
}

/// Ends a driver's [`Driver::wait`] from any thread.
pub trait Wake: Send + Sync {
    /// Makes the current or the next wait return. Cheap to repeat; wakes that nobody has seen yet merge.
    fn wake(&self);
}

/// A job for the offload pool.
pub type Job = Box<dyn FnOnce() + Send>;

/// The way to the outside for one core.
///
/// Sockets are non-blocking; reads and writes return `WouldBlock`. An id whose socket is closed gives `NotConnected`.
pub trait Driver {
    /// The monotonic clock.
    fn now(&mut self) -> Instant;
    /// The wall clock.
    fn wall(&mut self) -> WallTime;
    /// Random bytes fit for keys.
    fn random(&mut self, bytes: &mut [u8]);
    /// A handle by which other threads end this core's wait.
    fn waker(&self) -> Arc<dyn Wake>;
    /// Gives back the memory of code that has been run, where there is a way: see
    /// [`Limits::code_release`](crate::Limits::code_release).
    fn release_code(&mut self) {}
    /// The files of this node, for use on offload threads.
    fn disk(&self) -> Arc<dyn Disk>;
    /// Name resolution, for use on offload threads.
    fn resolver(&self) -> Arc<dyn Resolver>;
    /// Runs a job away from the core threads. Gives the job back when the pool's queue is full. The simulator runs it
    /// inline after a delay drawn from its seed.
    fn offload(&mut self, job: Job) -> Result<(), Job>;

    /// Opens a listening TCP socket. IPv6 listeners are v6-only.
    fn tcp_listen(&mut self, addr: SocketAddr, options: ListenOptions) -> io::Result<SocketId>;
    /// Takes a waiting connection, with `TCP_NODELAY` set. The address is canonical (no v4-mapped form).
    fn tcp_accept(&mut self, listener: SocketId) -> io::Result<(SocketId, SocketAddr)>;
    /// Starts to connect. The outcome is a [`Ready`] with `writable`, after which [`Driver::take_error`] tells.
    fn tcp_connect(
        &mut self,
        remote: SocketAddr,
        local: Option<SocketAddr>,
    ) -> io::Result<SocketId>;
    /// Reads from a TCP socket. 0 means that the peer has shut down its writing half.
    fn read(&mut self, socket: SocketId, bytes: &mut [u8]) -> io::Result<usize>;
    /// Whether a read of fewer bytes than asked for means that all has been read, so that the next arrival makes a new
    /// edge (Linux TCP, unless the peer has closed or an error is pending).
    fn short_read_drains(&self) -> bool {
        false
    }
    /// Writes to a TCP socket; may take fewer bytes than given.
    fn write(&mut self, socket: SocketId, bytes: &[u8]) -> io::Result<usize>;
    /// Shuts down the writing half of a TCP socket.
    fn shutdown_write(&mut self, socket: SocketId) -> io::Result<()>;
    /// The pending error of a socket, taken from it; `None` means that it is well.
    fn take_error(&mut self, socket: SocketId) -> Option<io::Error>;
    /// Closes a socket. With `abort` a TCP connection is reset and loses what is unsent.
    fn close(&mut self, socket: SocketId, abort: bool);
    /// Takes a TCP connection out of this driver so that another core can [`Driver::attach`] it.
    fn detach(&mut self, socket: SocketId) -> Option<DetachedSocket>;
    /// Takes over a TCP connection detached from another core's driver of the same kind.
    fn attach(&mut self, socket: DetachedSocket) -> io::Result<SocketId>;
    /// The other end's address of a TCP connection, canonical.
    fn peer_addr(&self, socket: SocketId) -> io::Result<SocketAddr>;
    /// The local address of a socket.
    fn local_addr(&self, socket: SocketId) -> io::Result<SocketAddr>;

    /// Opens a UDP socket. IPv6 sockets are v6-only.
    fn udp_bind(&mut self, addr: SocketAddr, options: UdpOptions) -> io::Result<SocketId>;
    /// Receives up to a batch of datagrams into `buffer` and calls `each` for every one, in order. Each lies in a part
    /// of `buffer` of its own and stays there when this has returned. Returns how many; `WouldBlock` when there was
    /// none. A receive error that an ICMP message caused is passed over.
    fn udp_receive(
        &mut self,
        socket: SocketId,
        buffer: &mut [u8],
        each: &mut dyn FnMut(Datagram<'_>),
    ) -> io::Result<usize>;
    /// Sends datagrams; returns how many of `transmits` were taken. `WouldBlock` when none.
    fn udp_send(&mut self, socket: SocketId, transmits: &[Transmit<'_>]) -> io::Result<usize>;
    /// Joins (`true`) or leaves a multicast group on an interface.
    fn udp_membership(
        &mut self,
        socket: SocketId,
        group: IpAddr,
        interface: u32,
        join: bool,
    ) -> io::Result<()>;
    /// Sets the hop limit, loopback and outgoing interface of multicast sent on a socket.
    fn udp_multicast(
        &mut self,
        socket: SocketId,
        ttl: u8,
        loopback: bool,
        interface: Option<u32>,
    ) -> io::Result<()>;

    /// The interfaces as they are now.
    fn interfaces(&mut self) -> io::Result<Vec<Interface>>;
    /// From now on [`Woken::interfaces_changed`] is reported.
    fn watch_interfaces(&mut self) -> io::Result<()>;

    /// Waits until a socket is ready, the waker is called or `deadline` has come (`None`: no deadline), and appends
    /// to `ready` what happened. A deadline that has passed makes it a poll.
    fn wait(&mut self, deadline: Option<Instant>, ready: &mut Vec<Ready>) -> io::Result<Woken>;
}

/// Blocking files below one data directory or anywhere, for the offload threads. The simulator keeps them in memory.
pub trait Disk: Send + Sync {
    /// Opens a file.
    fn open(&self, path: &str, options: OpenOptions) -> io::Result<Box<dyn DiskFile>>;
    /// Renames a file, atomically replacing `to`.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &str) -> io::Result<()>;
    /// Names in a directory, sorted; names only.
    fn list(&self, path: &str) -> io::Result<Vec<String>>;
    /// Creates a directory and its parents.
    fn create_dir_all(&self, path: &str) -> io::Result<()>;
    /// Makes renames and removals in a directory durable.
    fn sync_dir(&self, path: &str) -> io::Result<()>;
    /// Whether a file can be read by its owner alone. Systems without file modes answer `true`; a file system without
    /// owners gives every file an open mode and answers `false`.
    fn is_private(&self, path: &str) -> io::Result<bool> {
        let _ = path;
        Ok(true)
    }
    /// Takes an exclusive lock on a file that is held until the guard drops; `WouldBlock` if another holds it.
    fn lock(&self, path: &str) -> io::Result<Box<dyn Any + Send>>;
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenOptions {
    /// For writing as well as reading.
    pub write: bool,
    /// Created if absent.
    pub create: bool,
    /// Must not exist yet.
    pub create_new: bool,
    /// Emptied at opening.
    pub truncate: bool,
    /// Readable and writable by its owner alone (mode 0600 where that means something).
    pub private: bool,
}

/// An open file.
pub trait DiskFile: Send {
    /// Reads at an offset; 0 at the end of the file.
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<usize>;
    /// Writes at an offset, all of it.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file is empty.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Cuts or extends the file.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Makes what was written durable.
    fn sync(&self) -> io::Result<()>;
}

/// Blocking name resolution, for the offload threads.
pub trait Resolver: Send + Sync {
    /// The addresses of `host` (a name or a literal) with `port`, in the system's order of preference.
    fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>>;
}

/// How long the offload pool keeps an idle thread.
pub const OFFLOAD_IDLE: Duration = Duration::from_secs(5);
