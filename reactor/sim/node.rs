//! A simulated machine: its addresses, ports, files, clock and offload pool.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::Arc;

use super::arena::Key;
use super::disk::SimDisk;
use super::power::Power;
use super::prng::Prng;
use super::queue::Event;
use super::tcp::Shape;
use crate::io::driver::{Interface, Job};
use crate::random::Random;
use crate::time::Instant;

/// A simulated machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MachineId(pub(super) u32);

/// One core of a simulated machine: what one driver belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CoreId(pub(super) u32);

/// Index of every node's loopback interface.
pub const LOOPBACK_INTERFACE: u32 = 1;
/// Index of every node's network interface.
pub const NETWORK_INTERFACE: u32 = 2;

/// Ports given to sockets that ask for none (RFC 6335 §6).
const EPHEMERAL_PORTS: std::ops::RangeInclusive<u16> = 49_152..=65_535;
/// Jobs of a node that run at the same time: the most threads a real offload pool has, so that jobs overtake each
/// other here as they can there.
pub(super) const JOBS_RUNNING_MAX: usize = 2;
/// Jobs that wait for a thread; one more is given back to its core.
pub(super) const JOBS_WAITING_MAX: usize = 256;
/// Bytes of each TCP buffer of a connection.
const TCP_BUFFER: usize = 128 * 1024;
/// Probability that a TCP call takes fewer bytes than it could.
const SHORT_IO: f64 = 1.0 / 16.0;

pub(super) struct Node {
    /// Addresses on the network interface.
    pub(super) addrs: Vec<IpAddr>,
    pub(super) has_ipv6: bool,
    /// Cores, in the order in which their drivers were made.
    pub(super) cores: Vec<CoreId>,
    pub(super) listeners: BTreeMap<u16, Vec<Key>>,
    /// Connections by local and remote address.
    pub(super) streams: BTreeMap<(SocketAddr, SocketAddr), Key>,
    pub(super) udp: BTreeMap<u16, Vec<Key>>,
    /// Sockets that drivers hold.
    pub(super) sockets: u32,
    pub(super) sockets_max: u32,
    pub(super) tcp_shape: Shape,
    pub(super) disk: Arc<SimDisk>,
    /// What the wall clock shows beyond the world's, in nanoseconds.
    pub(super) skew: i64,
    pub(super) jobs_running: usize,
    pub(super) jobs_waiting: VecDeque<Job>,
    pub(super) power: Power,
    /// How often its programs have been ended by force.
    pub(super) crashes: u32,
    /// How many times as long as usual a turn and a job take.
    pub(super) slowdown: u32,
    /// What was due while the machine stood still, in order.
    pub(super) deferred: Vec<Event>,
}

impl Node {
    pub(super) fn new(disk: SimDisk) -> Node {
        Node {
            addrs: Vec::new(),
            has_ipv6: true,
            cores: Vec::new(),
            listeners: BTreeMap::new(),
            streams: BTreeMap::new(),
            udp: BTreeMap::new(),
            sockets: 0,
            sockets_max: u32::MAX,
            tcp_shape: Shape {
                send_max: TCP_BUFFER,
                receive_max: TCP_BUFFER,
                short: SHORT_IO,
            },
            disk: Arc::new(disk),
            skew: 0,
            jobs_running: 0,
            jobs_waiting: VecDeque::new(),
            power: Power::On,
            crashes: 0,
            slowdown: 1,
            deferred: Vec::new(),
        }
    }

    /// Whether a packet to `ip` is for this node.
    pub(super) fn owns(&self, ip: IpAddr) -> bool {
        ip.is_loopback() || self.addrs.contains(&ip)
    }

    /// Whether a socket may be bound to `addr`.
    pub(super) fn check_local(&self, addr: SocketAddr) -> io::Result<()> {
        let ip = addr.ip();
        if ip.is_ipv6() && !self.has_ipv6 {
            return Err(no_ipv6());
        }
        if ip.is_unspecified() || ip.is_multicast() || self.owns(ip) {
            return Ok(());
        }
        let kind = io::ErrorKind::AddrNotAvailable;
        Err(bind_error(
            kind,
            addr,
            "no interface of this machine has that address",
        ))
    }

    /// The local address that packets to `target` carry if the user named none.
    pub(super) fn source_for(&self, target: IpAddr) -> io::Result<IpAddr> {
        if target.is_ipv6() && !self.has_ipv6 {
            return Err(no_ipv6());
        }
        if target.is_loopback() {
            return Ok(loopback(target));
        }
        if self.addrs.contains(&target) {
            return Ok(target);
        }
        let is_near = is_link_local(target) || target.is_multicast();
        let fitting = self
            .addrs
            .iter()
            .filter(|addr| addr.is_ipv4() == target.is_ipv4());
        let best = fitting.min_by_key(|addr| is_link_local(**addr) != is_near);
        best.copied()
            .ok_or_else(|| io::ErrorKind::NetworkUnreachable.into())
    }

    pub(super) fn interfaces(&self) -> Vec<Interface> {
        let mut loopback = vec![(IpAddr::from(Ipv4Addr::LOCALHOST), 8)];
        if self.has_ipv6 {
            loopback.push((Ipv6Addr::LOCALHOST.into(), 128));
        }
        let addrs = self
            .addrs
            .iter()
            .map(|addr| (*addr, if addr.is_ipv4() { 24 } else { 64 }));
        vec![
            Interface {
                name: "lo".into(),
                index: LOOPBACK_INTERFACE,
                is_up: true,
                is_loopback: true,
                is_multicast: false,
                addrs: loopback,
            },
            Interface {
                name: "eth0".into(),
                index: NETWORK_INTERFACE,
                is_up: true,
                is_loopback: false,
                is_multicast: true,
                addrs: addrs.collect(),
            },
        ]
    }

    /// A port that `is_free`, from a random place on; `None` if there is none.
    pub(super) fn ephemeral_port(
        &self,
        prng: &mut Prng,
        is_free: impl Fn(&Node, u16) -> bool,
    ) -> Option<u16> {
        let first = *EPHEMERAL_PORTS.start();
        let count = EPHEMERAL_PORTS.len() as u64;
        let offset = prng.below(count);
        (0..count)
            .map(|step| first + ((offset + step) % count) as u16)
            .find(|port| is_free(self, *port))
    }
}

/// How the world names an address: no v4-mapped form, no scope, no flow label. There is one link, so a scope tells
/// nothing new.
pub(super) fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// How a user sees an address: a link-local one with the index of the interface.
pub(super) fn scoped(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() => {
            SocketAddrV6::new(*v6.ip(), v6.port(), 0, NETWORK_INTERFACE).into()
        }
        _ => addr,
    }
}

/// Whether two local addresses of the same port get in each other's way.
pub(super) fn overlaps(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() == b.port()
        && a.is_ipv4() == b.is_ipv4()
        && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}

/// Whether a socket bound to `bound` is meant by packets to `target`.
pub(super) fn accepts(bound: SocketAddr, target: SocketAddr) -> bool {
    bound.is_ipv4() == target.is_ipv4()
        && (bound.ip() == target.ip() || bound.ip().is_unspecified())
}

/// The loopback address of the family of `ip`.
pub(super) fn loopback(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    }
}

/// Virtual time since the start of the world, as wall time since the Unix epoch: the world begins with the year 2026.
pub(super) fn wall_nanos(since_start: Instant, skew: i64) -> u64 {
    const EPOCH: u64 = 1_767_225_600 * 1_000_000_000;
    (EPOCH + since_start.as_nanos()).saturating_add_signed(skew)
}

pub(super) fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// The error of a port that another socket has.
pub(super) fn port_in_use(addr: SocketAddr) -> io::Error {
    bind_error(io::ErrorKind::AddrInUse, addr, "the port is in use")
}

fn bind_error(kind: io::ErrorKind, addr: SocketAddr, why: &str) -> io::Error {
    io::Error::new(kind, format!("cannot bind to {addr}: {why}"))
}

fn no_ipv6() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "this machine has no IPv6")
}

/// The error of a process that may open no more files, with the number that the system gives it.
pub(super) fn too_many_sockets() -> io::Error {
    io::Error::from_raw_os_error(if cfg!(windows) { 10_024 } else { 24 })
}
