//! A packet on its way, and why it may not get there.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::network::Realm;
use super::node::MachineId;
use super::segment::Segment;
use crate::io::driver::Ecn;

/// Hop limit of packets that name none (RFC 1700, "IP time to live").
pub(super) const HOPS: u8 = 64;

/// Bytes of an IPv4 header without options.
pub(super) const IPV4_HEADER: usize = 20;
/// Bytes of an IPv6 header.
pub(super) const IPV6_HEADER: usize = 40;
/// Bytes of a TCP header without options.
pub(super) const TCP_HEADER: usize = 20;
/// Bytes of a UDP header.
pub(super) const UDP_HEADER: usize = 8;
/// Bytes of an ICMP header, which are as many in both versions.
pub(super) const ICMP_HEADER: usize = 8;

/// A packet on one hop of its way.
#[derive(Clone)]
pub(super) struct Packet {
    /// Who sends it on this hop.
    pub(super) from: MachineId,
    /// Who receives it on this hop.
    pub(super) to: MachineId,
    /// The machine that made it, however many hops ago.
    pub(super) origin: MachineId,
    /// The realm that this hop lies in.
    pub(super) realm: Realm,
    pub(super) source: SocketAddr,
    pub(super) target: SocketAddr,
    /// Hops that are left to it.
    pub(super) ttl: u8,
    pub(super) ecn: Ecn,
    /// Tells packets apart in a trace; the same on every hop.
    pub(super) number: u32,
    /// Whether it has passed the receiver's own bottleneck.
    pub(super) is_shaped: bool,
    pub(super) body: Body,
}

#[derive(Clone)]
pub(super) enum Body {
    Tcp(Segment),
    Udp(UdpBody),
    Icmp(IcmpError),
}

#[derive(Clone)]
pub(super) struct UdpBody {
    pub(super) data: Vec<u8>,
    /// The interface that it leaves by; the receiver has one of the same index.
    pub(super) interface: u32,
}

/// What distinguishes the two protocols that have ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Protocol {
    Tcp,
    Udp,
}

/// Tells the sender of a packet why it went no further (RFC 792, RFC 4443).
#[derive(Clone, Copy, Debug)]
pub(super) struct IcmpError {
    pub(super) kind: Unreachable,
    /// Head of the packet that it is about.
    pub(super) protocol: Protocol,
    pub(super) source: SocketAddr,
    pub(super) target: SocketAddr,
    /// The initial sequence number and position of a TCP segment: who knows neither has not seen it.
    pub(super) isn: u32,
    pub(super) seq: u64,
    /// Bytes of the whole packet.
    pub(super) size: usize,
}

/// Why a packet went no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unreachable {
    /// No machine has the address.
    Host,
    /// No socket has the port.
    Port,
    /// A firewall forbids it.
    Prohibited,
    /// The next link carries packets of at most so many bytes.
    TooBig(u32),
}

impl Packet {
    /// Bytes of the IP packet.
    pub(super) fn size(&self) -> usize {
        let ip = if self.target.is_ipv4() {
            IPV4_HEADER
        } else {
            IPV6_HEADER
        };
        ip + match &self.body {
            Body::Tcp(segment) => TCP_HEADER + segment.options_len() + segment.data.len(),
            Body::Udp(body) => UDP_HEADER + body.data.len(),
            // It quotes the headers of the packet that it is about.
            Body::Icmp(_) => ICMP_HEADER + ip + UDP_HEADER,
        }
    }

    /// Its protocol, if that has ports.
    pub(super) fn protocol(&self) -> Option<Protocol> {
        match &self.body {
            Body::Tcp(_) => Some(Protocol::Tcp),
            Body::Udp(_) => Some(Protocol::Udp),
            Body::Icmp(_) => None,
        }
    }

    /// The error message about it. None is sent about another error message (RFC 1122 §3.2.2) or a reset.
    pub(super) fn error(&self, kind: Unreachable) -> Option<IcmpError> {
        let (isn, seq) = match &self.body {
            Body::Tcp(segment) if segment.rst => return None,
            Body::Tcp(segment) => (segment.isn, segment.seq),
            Body::Udp(_) => (0, 0),
            Body::Icmp(_) => return None,
        };
        Some(IcmpError {
            kind,
            protocol: self.protocol()?,
            source: self.source,
            target: self.target,
            isn,
            seq,
            size: self.size(),
        })
    }

    /// Whether it is for one machine, and not for a group or for all.
    pub(super) fn is_unicast(&self) -> bool {
        let ip = self.target.ip();
        !ip.is_multicast() && ip != IpAddr::V4(std::net::Ipv4Addr::BROADCAST)
    }
}

/// What a readable trace says of it: its number, from where to where, and what it is.
impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.body {
            Body::Icmp(error) => {
                let (source, target) = (self.source.ip(), self.target.ip());
                write!(f, "#{} {source} > {target} {error}", self.number)
            }
            Body::Tcp(segment) => {
                let (source, target) = (self.source, self.target);
                write!(f, "#{} {source} > {target} TCP {segment}", self.number)
            }
            Body::Udp(body) => {
                let (source, target, len) = (self.source, self.target, body.data.len());
                write!(f, "#{} {source} > {target} UDP {len} bytes", self.number)
            }
        }
    }
}

impl fmt::Display for IcmpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.protocol {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
        };
        let (source, target) = (self.source, self.target);
        match self.kind {
            Unreachable::Host => write!(f, "ICMP host unreachable")?,
            Unreachable::Port => write!(f, "ICMP port unreachable")?,
            Unreachable::Prohibited => write!(f, "ICMP administratively prohibited")?,
            Unreachable::TooBig(mtu) => write!(f, "ICMP packet too big (MTU {mtu})")?,
        }
        write!(f, " about {protocol} {source} > {target}")
    }
}

/// Why a packet was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// No machine has the address, or the sender no longer has the source address.
    NoRoute,
    /// The two machines are cut off from each other.
    Partition,
    /// Larger than the link's MTU.
    TooLarge,
    /// By the link's probability.
    Chance,
    /// The receiving socket's buffer is full.
    ReceiverFull,
    /// The receiving machine has no socket for a datagram, or no such address any more.
    NoSocket,
    /// The listener's queue is full.
    BacklogFull,
    /// The receiving machine is off or asleep.
    Asleep,
    /// In a burst of losses.
    Burst,
    /// The link is down.
    LinkDown,
    /// The queue before a bottleneck is full.
    QueueFull,
    /// It has crossed too many routers.
    TtlExpired,
    /// The NAT box has no mapping for the port.
    NoMapping,
    /// The NAT box has a mapping, but lets nothing in from there.
    Filtered,
    /// The firewall lets nothing in that was not asked for.
    Firewalled,
    /// The box's table is full.
    TableFull,
    /// The box lets no UDP through.
    UdpBlocked,
    /// The NAT box sends nothing back in that comes from inside.
    NoHairpin,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Loss::NoRoute => "no route",
            Loss::Partition => "partition",
            Loss::TooLarge => "larger than the link's MTU",
            Loss::Chance => "chance",
            Loss::ReceiverFull => "receive buffer full",
            Loss::NoSocket => "no socket",
            Loss::BacklogFull => "backlog full",
            Loss::Asleep => "machine off or asleep",
            Loss::Burst => "burst of losses",
            Loss::LinkDown => "link down",
            Loss::QueueFull => "queue full",
            Loss::TtlExpired => "time to live expired",
            Loss::NoMapping => "no mapping",
            Loss::Filtered => "filtered by NAT",
            Loss::Firewalled => "firewalled",
            Loss::TableFull => "table of the box full",
            Loss::UdpBlocked => "UDP blocked",
            Loss::NoHairpin => "no hairpinning",
        })
    }
}
