//! UDP as the drivers and the network see it: sockets, ports, multicast groups.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::arena::Key;
use super::node::{
    CoreId, LOOPBACK_INTERFACE, MachineId, NETWORK_INTERFACE, Node, accepts, canonical, loopback,
    overlaps, port_in_use, scoped,
};
use super::packet::{Body, HOPS, Loss, Packet, UdpBody, Unreachable};
use super::queue::Event;
use super::state::{Handle, State};
use super::stream::choose;
use super::tcp::{READABLE, WRITABLE};
use crate::io::driver::{Ecn, SocketId, Transmit, UdpOptions};

/// Linux's default of `net.core.rmem_default`, in bytes.
const RECEIVE_BUFFER: usize = 212_992;
/// What a datagram takes of a receive buffer beside its bytes, roughly as on Linux.
const DATAGRAM_OVERHEAD: usize = 256;
/// The largest payload of a UDP datagram over IPv4: 65,535 bytes less both headers.
const PAYLOAD_MAX_V4: usize = 65_507;
/// And over IPv6, where the length does not count the IP header.
const PAYLOAD_MAX_V6: usize = 65_527;
/// Groups that a socket may join (Linux's default of `net.ipv4.igmp_max_memberships`).
const MEMBERSHIPS_MAX: usize = 20;
/// Datagrams that one receive hands over.
const RECEIVE_BATCH: usize = 32;
/// How long a socket that refused a datagram takes none.
const ROOM_AFTER: Duration = Duration::from_micros(100);

/// A UDP socket.
pub(super) struct UdpSocket {
    pub(super) node: MachineId,
    core: CoreId,
    socket: SocketId,
    pub(super) local: SocketAddr,
    shares_port: bool,
    may_broadcast: bool,
    received: VecDeque<Received>,
    received_bytes: usize,
    received_bytes_max: usize,
    /// Groups and the interfaces they were joined on.
    memberships: BTreeSet<(IpAddr, u32)>,
    multicast_ttl: u8,
    multicast_loopback: bool,
    multicast_interface: Option<u32>,
    /// Until when it takes no datagrams to send.
    is_blocked: bool,
}

/// How the datagrams of one send go out.
#[derive(Clone, Copy)]
struct Outgoing {
    from: MachineId,
    source: SocketAddr,
    target: SocketAddr,
    interface: u32,
    ttl: u8,
    ecn: Ecn,
    /// Whether the machine's own members of a group get it too.
    loops: bool,
}

/// A datagram in a receive buffer.
pub(super) struct Received {
    pub(super) from: SocketAddr,
    pub(super) to: IpAddr,
    pub(super) interface: u32,
    pub(super) ttl: u8,
    pub(super) ecn: Ecn,
    pub(super) data: Vec<u8>,
}

impl UdpSocket {
    pub(super) fn level(&self) -> u8 {
        let readable = if self.received.is_empty() {
            0
        } else {
            READABLE
        };
        let writable = if self.is_blocked { 0 } else { WRITABLE };
        readable | writable
    }
}

impl State {
    // What a driver asks for.

    pub(super) fn udp_bind(
        &mut self,
        core: CoreId,
        addr: SocketAddr,
        options: UdpOptions,
    ) -> io::Result<SocketId> {
        self.check_socket_limit(core)?;
        let node = self.core(core).node;
        let mut local = canonical(addr);
        self.node(node).check_local(local)?;
        if local.port() == 0 {
            let is_free = |node: &Node, port| !node.udp.contains_key(&port);
            let port = self.nodes[node.0 as usize].ephemeral_port(&mut self.socket_prng, is_free);
            local.set_port(port.ok_or(io::ErrorKind::AddrInUse)?);
        } else {
            let keys = self.nodes[node.0 as usize].udp.get(&local.port());
            let mut others = keys
                .into_iter()
                .flatten()
                .filter_map(|key| self.udp.get(*key));
            if others.any(|other| {
                overlaps(other.local, local) && !(other.shares_port && options.share_port)
            }) {
                return Err(port_in_use(local));
            }
        }
        let key = self.udp.insert(UdpSocket {
            node,
            core,
            socket: SocketId {
                index: 0,
                generation: 0,
            },
            local,
            shares_port: options.share_port,
            may_broadcast: options.broadcast,
            received: VecDeque::new(),
            received_bytes: 0,
            received_bytes_max: options
                .receive_buffer
                .map_or(RECEIVE_BUFFER, |max| max as usize),
            memberships: BTreeSet::new(),
            multicast_ttl: 1,
            multicast_loopback: true,
            multicast_interface: None,
            is_blocked: false,
        });
        let socket = self.add_socket(core, Handle::Udp(key), 0);
        self.udp.get_mut(key).expect("inserted above").socket = socket;
        self.node(node)
            .udp
            .entry(local.port())
            .or_default()
            .push(key);
        Ok(socket)
    }

    /// Takes a batch of datagrams out of a socket's buffer.
    /// The datagrams that come first and fit into `room` bytes, one at least.
    pub(super) fn udp_receive(
        &mut self,
        core: CoreId,
        socket: SocketId,
        room: usize,
    ) -> io::Result<Vec<Received>> {
        let key = self.udp_of(core, socket)?;
        let socket = self.udp.get_mut(key).expect("a socket's UDP part exists");
        if socket.received.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let ends = socket.received.iter().scan(0, |end, one| {
            *end += one.data.len();
            Some(*end)
        });
        let fitting = ends.take(RECEIVE_BATCH).take_while(|end| *end <= room);
        let count = fitting.count().max(1);
        let batch: Vec<Received> = socket.received.drain(..count).collect();
        let bytes: usize = batch
            .iter()
            .map(|one| one.data.len() + DATAGRAM_OVERHEAD)
            .sum();
        socket.received_bytes -= bytes;
        if socket.received.is_empty() {
            socket.received = VecDeque::new();
        }
        Ok(batch)
    }

    pub(super) fn udp_send(
        &mut self,
        core: CoreId,
        socket: SocketId,
        transmits: &[Transmit<'_>],
    ) -> io::Result<usize> {
        let key = self.udp_of(core, socket)?;
        for (sent, transmit) in transmits.iter().enumerate() {
            // As with `sendmmsg`: what comes after a success is told by the next call.
            if let Err(error) = self.send_one(key, transmit) {
                return if sent == 0 { Err(error) } else { Ok(sent) };
            }
        }
        Ok(transmits.len())
    }

    pub(super) fn udp_membership(
        &mut self,
        core: CoreId,
        socket: SocketId,
        group: IpAddr,
        interface: u32,
        join: bool,
    ) -> io::Result<()> {
        let key = self.udp_of(core, socket)?;
        let interface = check_interface(if interface == 0 {
            NETWORK_INTERFACE
        } else {
            interface
        })?;
        let socket = self.udp.get_mut(key).expect("a socket's UDP part exists");
        if !group.is_multicast() || group.is_ipv4() != socket.local.is_ipv4() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let node = socket.node;
        if !join {
            // Joining twice and leaving twice is no error.
            if socket.memberships.remove(&(group, interface)) {
                self.network.leave(group, node);
            }
            return Ok(());
        }
        if socket.memberships.contains(&(group, interface)) {
            return Ok(());
        }
        if socket.memberships.len() >= MEMBERSHIPS_MAX {
            return Err(io::Error::new(
                io::ErrorKind::OutOfMemory,
                "too many groups joined",
            ));
        }
        socket.memberships.insert((group, interface));
        self.network.join(group, node);
        Ok(())
    }

    pub(super) fn udp_multicast(
        &mut self,
        core: CoreId,
        socket: SocketId,
        ttl: u8,
        loopback: bool,
        interface: Option<u32>,
    ) -> io::Result<()> {
        let key = self.udp_of(core, socket)?;
        let interface = interface.map(check_interface).transpose()?;
        let socket = self.udp.get_mut(key).expect("a socket's UDP part exists");
        socket.multicast_ttl = ttl;
        socket.multicast_loopback = loopback;
        socket.multicast_interface = interface;
        Ok(())
    }

    pub(super) fn close_udp(&mut self, key: Key) {
        let Some(socket) = self.udp.remove(key) else {
            return;
        };
        for (group, _) in &socket.memberships {
            self.network.leave(*group, socket.node);
        }
        let ports = &mut self.node(socket.node).udp;
        if let Some(keys) = ports.get_mut(&socket.local.port()) {
            keys.retain(|other| *other != key);
            if keys.is_empty() {
                ports.remove(&socket.local.port());
            }
        }
    }

    fn udp_of(&self, core: CoreId, socket: SocketId) -> io::Result<Key> {
        match self.handle(core, socket)? {
            Handle::Udp(key) => Ok(key),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    // Sending.

    fn send_one(&mut self, key: Key, transmit: &Transmit<'_>) -> io::Result<()> {
        let target = canonical(transmit.to);
        // A segment size of 0 says nothing: the data is one datagram.
        let segment = transmit.segment_size.map_or(0, usize::from);
        let segment = if segment == 0 {
            transmit.data.len()
        } else {
            segment
        };
        let payload_max = if target.is_ipv4() {
            PAYLOAD_MAX_V4
        } else {
            PAYLOAD_MAX_V6
        };
        if segment.min(transmit.data.len()) > payload_max {
            return Err(message_too_large());
        }
        let socket = self.udp.get(key).expect("a socket's UDP part exists");
        if socket.local.is_ipv4() != target.is_ipv4() || target.port() == 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if is_broadcast(target.ip()) && !socket.may_broadcast {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let is_blocked = socket.is_blocked;
        let outgoing = self.outgoing(socket, target, transmit)?;
        if is_blocked {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if self.socket_prng.chance(self.udp_refusal) {
            let socket = self.udp.get_mut(key).expect("a socket's UDP part exists");
            socket.is_blocked = true;
            self.queue.push(self.now + ROOM_AFTER, Event::UdpRoom(key));
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if transmit.data.is_empty() {
            self.send_datagram(outgoing, &[]);
        }
        for data in transmit.data.chunks(segment.max(1)) {
            self.send_datagram(outgoing, data);
        }
        Ok(())
    }

    /// Finds out how datagrams of a socket are to be sent.
    fn outgoing(
        &self,
        socket: &UdpSocket,
        target: SocketAddr,
        transmit: &Transmit<'_>,
    ) -> io::Result<Outgoing> {
        let node = &self.nodes[socket.node.0 as usize];
        let is_multicast = target.ip().is_multicast();
        let interface = transmit.interface.map(check_interface).transpose()?;
        let default = socket.multicast_interface.unwrap_or(NETWORK_INTERFACE);
        let interface = interface.unwrap_or(if is_multicast {
            default
        } else {
            NETWORK_INTERFACE
        });
        let local = socket.local.ip();
        let source = if let Some(ip) = transmit.source.map(|ip| ip.to_canonical()) {
            if ip.is_ipv4() != target.is_ipv4() {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            if !node.owns(ip) {
                return Err(io::ErrorKind::AddrNotAvailable.into());
            }
            ip
        } else if !local.is_unspecified() && !local.is_multicast() {
            local
        } else if is_multicast && interface == LOOPBACK_INTERFACE {
            loopback(target.ip())
        } else {
            node.source_for(target.ip())?
        };
        Ok(Outgoing {
            from: socket.node,
            source: SocketAddr::new(source, socket.local.port()),
            target,
            interface,
            ttl: if is_multicast {
                socket.multicast_ttl
            } else {
                HOPS
            },
            ecn: transmit.ecn,
            loops: socket.multicast_loopback,
        })
    }

    fn send_datagram(&mut self, outgoing: Outgoing, data: &[u8]) {
        let Outgoing {
            from,
            source,
            target,
            interface,
            ttl,
            ecn,
            loops,
        } = outgoing;
        let is_multicast = target.ip().is_multicast();
        let body = UdpBody {
            data: data.to_vec(),
            interface,
        };
        if !is_multicast && !is_broadcast(target.ip()) {
            return self.route(from, source, target, ecn, Body::Udp(body));
        }
        let realm = self.network.realm_of(from);
        let receivers = if is_multicast {
            self.network.members(realm, target.ip())
        } else {
            self.network.broadcast_domain(realm).into_iter().collect()
        };
        let number = self.next_number();
        let stays = ttl == 0 || interface == LOOPBACK_INTERFACE || has_machine_scope(target.ip());
        for to in receivers {
            let is_wanted = if to == from {
                loops || !is_multicast
            } else {
                !stays
            };
            if is_wanted {
                let body = Body::Udp(body.clone());
                self.transmit(Packet {
                    from,
                    to,
                    origin: from,
                    realm,
                    source,
                    target,
                    ttl,
                    ecn,
                    number,
                    is_shaped: false,
                    body,
                });
            }
        }
    }

    // What comes from the network and the clock.

    pub(super) fn deliver_datagram(&mut self, packet: Packet) {
        let keys = self.receivers(&packet);
        if keys.is_empty() {
            self.lose(&packet, Loss::NoSocket);
            return self.send_error(packet.to, &packet, Unreachable::Port);
        }
        for key in keys {
            self.deliver_to(key, &packet);
        }
    }

    /// The sockets that a datagram is for: all members of a group, else one.
    fn receivers(&self, packet: &Packet) -> Vec<Key> {
        let node = &self.nodes[packet.to.0 as usize];
        let ip = packet.target.ip();
        let Some(keys) = node.udp.get(&packet.target.port()) else {
            return Vec::new();
        };
        let sockets = keys
            .iter()
            .filter_map(|key| Some((*key, self.udp.get(*key)?)));
        if ip.is_multicast() {
            let Body::Udp(body) = &packet.body else {
                return Vec::new();
            };
            let members = sockets.filter(|(_, socket)| {
                socket.memberships.contains(&(ip, body.interface))
                    && accepts(socket.local, packet.target)
            });
            return members.map(|(key, _)| key).collect();
        }
        if is_broadcast(ip) {
            let wide = sockets.filter(|(_, socket)| socket.local.ip() == Ipv4Addr::UNSPECIFIED);
            return wide.map(|(key, _)| key).collect();
        }
        if !node.owns(ip) {
            return Vec::new();
        }
        let fitting = sockets.filter(|(_, socket)| accepts(socket.local, packet.target));
        let (exact, wide): (Vec<_>, Vec<_>) =
            fitting.partition(|(_, socket)| socket.local.ip() == ip);
        let best = if exact.is_empty() { wide } else { exact };
        let best: Vec<Key> = best.into_iter().map(|(key, _)| key).collect();
        choose(&best, self.seed, packet.source, packet.target)
            .into_iter()
            .collect()
    }

    fn deliver_to(&mut self, key: Key, packet: &Packet) {
        let Body::Udp(body) = &packet.body else {
            return;
        };
        let socket = self.udp.get_mut(key).expect("a receiver exists");
        let size = body.data.len() + DATAGRAM_OVERHEAD;
        if socket.received_bytes + size > socket.received_bytes_max {
            return self.lose(packet, Loss::ReceiverFull);
        }
        let to = packet.target.ip();
        // What a machine sends to itself comes in by the loopback interface, whatever the address; a group's datagrams
        // come back by the interface that they were sent through.
        let is_home = packet.from == packet.to && !to.is_multicast();
        socket.received_bytes += size;
        socket.received.push_back(Received {
            from: scoped(packet.source),
            to,
            interface: if is_home {
                LOOPBACK_INTERFACE
            } else {
                body.interface
            },
            ttl: packet.ttl,
            ecn: packet.ecn,
            data: body.data.clone(),
        });
        let (core, id) = (socket.core, socket.socket);
        self.note_delivery(packet);
        self.mark_ready(core, id, READABLE);
    }

    pub(super) fn handle_udp_room(&mut self, key: Key) {
        let Some(socket) = self.udp.get_mut(key) else {
            return;
        };
        socket.is_blocked = false;
        let (core, id) = (socket.core, socket.socket);
        self.mark_ready(core, id, WRITABLE);
    }
}

fn check_interface(interface: u32) -> io::Result<u32> {
    if matches!(interface, LOOPBACK_INTERFACE | NETWORK_INTERFACE) {
        return Ok(interface);
    }
    Err(io::Error::new(io::ErrorKind::NotFound, "no such interface"))
}

/// Whether a group does not reach beyond the machine (RFC 4291 §2.7: interface-local scope).
fn has_machine_scope(group: IpAddr) -> bool {
    matches!(group, IpAddr::V6(v6) if v6.is_multicast() && v6.segments()[0] & 0xf == 1)
}

fn is_broadcast(ip: IpAddr) -> bool {
    ip == IpAddr::V4(Ipv4Addr::BROADCAST)
}

fn message_too_large() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        "the datagram is larger than UDP can carry",
    )
}
