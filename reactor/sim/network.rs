//! What lies between the nodes: who has which address, and what a link does to a packet.
//!
//! Every packet goes through [`Network::plan`] once per link it takes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::node::MachineId;
use super::prng::Prng;
use super::segment::Segment;
use crate::io::driver::Ecn;
use crate::time::Instant;

/// Bytes of an IPv4 and a UDP header.
const HEADERS_V4: usize = 28;
/// Bytes of an IPv6 and a UDP header.
const HEADERS_V6: usize = 48;
/// Below this many links in memory of recent packets, old ones are not looked for.
const FLOWS_KEPT: usize = 4096;

/// What a link does to the packets that cross it, in each direction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinkOptions {
    /// The least time from one end to the other.
    pub delay: Duration,
    /// The most that is added to `delay`, drawn evenly for each packet. Packets keep their order all the same.
    pub jitter: Duration,
    /// Probability that a packet is lost. A TCP segment is then sent again after a time-out.
    pub loss: f64,
    /// Probability that a datagram arrives a second time.
    pub duplicate: f64,
    /// Probability that a datagram is held up, so that later ones overtake it.
    pub reorder: f64,
    /// The most by which a datagram is held up when it is.
    pub reorder_delay: Duration,
    /// The largest IP packet in bytes. A larger datagram vanishes without a word, as behind a router that fragments
    /// nothing. TCP is not concerned: it knows how to cut.
    pub mtu: u32,
}

impl Default for LinkOptions {
    /// A quiet local network: 1 to 1.5 ms, nothing lost, 1,500 bytes.
    fn default() -> LinkOptions {
        LinkOptions {
            delay: Duration::from_millis(1),
            jitter: Duration::from_micros(500),
            loss: 0.0,
            duplicate: 0.0,
            reorder: 0.0,
            reorder_delay: Duration::from_millis(10),
            mtu: 1500,
        }
    }
}

impl LinkOptions {
    /// The link of a node with itself: 10 to 20 µs, nothing lost, whatever size.
    pub fn loopback() -> LinkOptions {
        LinkOptions {
            delay: Duration::from_micros(10),
            jitter: Duration::from_micros(10),
            mtu: u32::MAX,
            ..LinkOptions::default()
        }
    }
}

/// A packet on its way between two nodes.
pub(super) struct Packet {
    pub(super) from: MachineId,
    pub(super) to: MachineId,
    pub(super) source: SocketAddr,
    pub(super) target: SocketAddr,
    pub(super) body: Body,
}

pub(super) enum Body {
    Tcp(Segment),
    Udp(UdpBody),
}

#[derive(Clone)]
pub(super) struct UdpBody {
    pub(super) data: Vec<u8>,
    /// The interface that it leaves by; the receiver has one of the same index.
    pub(super) interface: u32,
    pub(super) ttl: u8,
    pub(super) ecn: Ecn,
}

impl Packet {
    /// Bytes of the IP packet that a datagram makes; 0 for TCP, which fits by itself.
    fn size_on_link(&self) -> usize {
        match &self.body {
            Body::Tcp(_) => 0,
            Body::Udp(body) => {
                let headers = if self.target.is_ipv4() {
                    HEADERS_V4
                } else {
                    HEADERS_V6
                };
                body.data.len() + headers
            }
        }
    }

    /// A short text for a readable trace.
    pub(super) fn describe(&self) -> String {
        let text = match &self.body {
            Body::Tcp(segment) => segment.describe(),
            Body::Udp(body) => format!("UDP {} bytes", body.data.len()),
        };
        format!("{} > {} {text}", self.source, self.target)
    }

    fn is_udp(&self) -> bool {
        matches!(self.body, Body::Udp(_))
    }
}

/// Why a packet was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// No node has the address.
    NoRoute,
    /// The two nodes are cut off from each other.
    Partition,
    /// Larger than the link's MTU.
    TooLarge,
    /// By the link's probability.
    Chance,
    /// The receiving socket's buffer is full.
    ReceiverFull,
    /// The receiving node has no socket for a datagram, or no such address any more.
    NoSocket,
    /// The listener's queue is full.
    BacklogFull,
    /// The receiving machine is off or asleep.
    Asleep,
}

/// When a packet arrives: once, or twice if it is duplicated.
pub(super) struct Plan {
    pub(super) at: Instant,
    pub(super) again_at: Option<Instant>,
}

pub(super) struct Network {
    /// Who has which address. Loopback addresses are not here: every node has them.
    addresses: BTreeMap<IpAddr, MachineId>,
    /// How many sockets of which node have joined which multicast group.
    groups: BTreeMap<IpAddr, BTreeMap<MachineId, u32>>,
    link_default: LinkOptions,
    loopback_default: LinkOptions,
    /// Links that differ from the default, by direction.
    links: BTreeMap<(MachineId, MachineId), LinkOptions>,
    /// Directions that let nothing through.
    cut: BTreeSet<(MachineId, MachineId)>,
    /// When the last packet of a direction arrives: the next one does not overtake it.
    flows: BTreeMap<(MachineId, MachineId), Instant>,
    flows_kept: usize,
}

impl Network {
    pub(super) fn new() -> Network {
        Network {
            addresses: BTreeMap::new(),
            groups: BTreeMap::new(),
            link_default: LinkOptions::default(),
            loopback_default: LinkOptions::loopback(),
            links: BTreeMap::new(),
            cut: BTreeSet::new(),
            flows: BTreeMap::new(),
            flows_kept: FLOWS_KEPT,
        }
    }

    /// Gives a node an address. `false` if another node has it.
    pub(super) fn claim(&mut self, addr: IpAddr, node: MachineId) -> bool {
        *self.addresses.entry(addr).or_insert(node) == node
    }

    pub(super) fn release(&mut self, addr: IpAddr) {
        self.addresses.remove(&addr);
    }

    /// The node that a unicast packet from `from` goes to.
    pub(super) fn locate(&self, from: MachineId, target: IpAddr) -> Option<MachineId> {
        if target.is_loopback() {
            return Some(from);
        }
        self.addresses.get(&target).copied()
    }

    pub(super) fn join(&mut self, group: IpAddr, node: MachineId) {
        *self
            .groups
            .entry(group)
            .or_default()
            .entry(node)
            .or_default() += 1;
    }

    pub(super) fn leave(&mut self, group: IpAddr, node: MachineId) {
        let Some(members) = self.groups.get_mut(&group) else {
            return;
        };
        if let Some(count) = members.get_mut(&node) {
            *count -= 1;
            if *count == 0 {
                members.remove(&node);
            }
        }
        if members.is_empty() {
            self.groups.remove(&group);
        }
    }

    /// The nodes that have joined a group, in order.
    pub(super) fn members(&self, group: IpAddr) -> Vec<MachineId> {
        self.groups
            .get(&group)
            .map(|members| members.keys().copied().collect())
            .unwrap_or_default()
    }

    /// The nodes that have an IPv4 address, in order: whom a broadcast reaches.
    pub(super) fn broadcast_domain(&self) -> BTreeSet<MachineId> {
        let v4 = self.addresses.iter().filter(|(addr, _)| addr.is_ipv4());
        v4.map(|(_, node)| *node).collect()
    }

    pub(super) fn set_default(&mut self, options: LinkOptions) {
        self.link_default = options;
    }

    pub(super) fn set_loopback(&mut self, options: LinkOptions) {
        self.loopback_default = options;
    }

    pub(super) fn set_link(&mut self, from: MachineId, to: MachineId, options: LinkOptions) {
        self.links.insert((from, to), options);
    }

    pub(super) fn set_cut(&mut self, from: MachineId, to: MachineId, is_cut: bool) {
        if is_cut {
            self.cut.insert((from, to));
        } else {
            self.cut.remove(&(from, to));
        }
    }

    pub(super) fn heal_all(&mut self) {
        self.cut.clear();
    }

    pub(super) fn is_cut(&self, from: MachineId, to: MachineId) -> bool {
        self.cut.contains(&(from, to))
    }

    /// Decides what the link from `packet.from` to `packet.to` does to a packet.
    pub(super) fn plan(
        &mut self,
        packet: &Packet,
        now: Instant,
        prng: &mut Prng,
    ) -> Result<Plan, Loss> {
        let direction = (packet.from, packet.to);
        if self.cut.contains(&direction) {
            return Err(Loss::Partition);
        }
        let options = self.options(direction);
        if packet.size_on_link() > options.mtu as usize {
            return Err(Loss::TooLarge);
        }
        if prng.chance(options.loss) {
            return Err(Loss::Chance);
        }
        let mut at = now + options.delay + prng.up_to(options.jitter);
        let mut again_at = None;
        if packet.is_udp() && prng.chance(options.duplicate) {
            again_at = Some(at + prng.up_to(options.reorder_delay));
        }
        if packet.is_udp() && prng.chance(options.reorder) {
            // Off the queue: what follows does not wait for it.
            at += prng.up_to(options.reorder_delay);
        } else {
            at = self.queue_behind(direction, at, now);
        }
        Ok(Plan { at, again_at })
    }

    fn options(&self, direction: (MachineId, MachineId)) -> LinkOptions {
        if let Some(options) = self.links.get(&direction) {
            return *options;
        }
        if direction.0 == direction.1 {
            self.loopback_default
        } else {
            self.link_default
        }
    }

    fn queue_behind(
        &mut self,
        direction: (MachineId, MachineId),
        at: Instant,
        now: Instant,
    ) -> Instant {
        let last = self.flows.entry(direction).or_insert(at);
        *last = at.max(*last);
        let at = *last;
        if self.flows.len() > self.flows_kept {
            // A packet that has arrived holds up nobody, so most pairs that ever spoke can be forgotten.
            self.flows.retain(|_, last| *last > now);
            self.flows_kept = FLOWS_KEPT.max(self.flows.len() * 2);
        }
        at
    }
}
