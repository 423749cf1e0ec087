//! The table of a NAT box or of a stateful firewall: a small sans-IO machine in the terms of RFC 4787 and RFC 5382.
//!
//! A firewall's table is that of a NAT box which translates to the very address and port that was there.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::arena::{Arena, Key};
use super::map::FastMap;
use super::packet::{Loss, Protocol};
use super::prng::Prng;
use super::segment::Segment;
use crate::random::Random;
use crate::time::Instant;

/// How long a UDP mapping outlives its last packet: the least that is allowed (RFC 4787 §4.3, REQ-5), and what a peer
/// must reckon with.
const UDP_TIMEOUT: Duration = Duration::from_secs(2 * 60);
/// How long an idle established TCP connection is kept: the least that is allowed (RFC 5382 §5, REQ-5).
const TCP_ESTABLISHED_TIMEOUT: Duration = Duration::from_secs(2 * 3600 + 4 * 60);
/// How long one is kept that is being opened or closed: the least that is allowed (RFC 5382 §5, REQ-5).
const TCP_TRANSITORY_TIMEOUT: Duration = Duration::from_secs(4 * 60);
/// The most flows of a box at first, as many as a Linux machine of 1 GiB tracks.
const FLOWS_MAX: usize = 65_536;
/// Ports from here on are for everybody; a port below is translated to another below (RFC 4787 §4.2.1, REQ-3a).
const REGISTERED_PORTS: u16 = 1024;

/// What a mapping or a filter depends on (RFC 4787 §4.1 and §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dependence {
    /// On nothing but the inner address and port.
    EndpointIndependent,
    /// On the address of the other side too.
    AddressDependent,
    /// On its address and port.
    AddressAndPortDependent,
}

/// How a NAT box chooses the outer port of a mapping (RFC 4787 §4.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    /// The same as the inner one; a random one if another mapping has it.
    Preserve,
    /// A random one.
    Random,
    /// One after another, so that the next one can be guessed.
    Sequential,
}

/// What a box does with a first TCP segment from outside that it does not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsolicited {
    /// Drops it in silence, as a box must for six seconds (RFC 5382 §4.3, REQ-4): the inner side may be about to send its
    /// own. The ICMP error that may follow then is not sent.
    Drop,
    /// Answers with a reset, which spoils attempts to connect from both sides at once.
    Refuse,
}

/// What a NAT box does. The default is a common home router: endpoint-independent mapping, address and port-dependent
/// filtering, ports preserved, no hairpinning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NatOptions {
    /// When two flows of the same inner address and port get the same outer one.
    pub mapping: Dependence,
    /// From whom packets are let in: everybody, or those to whom something was sent.
    pub filtering: Dependence,
    /// Which outer port a mapping gets.
    pub ports: Ports,
    /// Whether packets from inside to the box's outer address come back in (RFC 4787 §6). They then come from the
    /// sender's outer address.
    pub hairpin: bool,
    /// Whether UDP passes at all.
    pub udp: bool,
    /// How long a UDP mapping outlives its last packet. 2 minutes.
    pub udp_timeout: Duration,
    /// Whether packets from outside keep a UDP mapping alive too (RFC 4787 §4.3, REQ-6). Those from inside always do.
    pub refresh_inbound: bool,
    /// How long an idle TCP connection is kept. 2 hours 4 minutes.
    pub tcp_established_timeout: Duration,
    /// How long a TCP connection is kept while it is being opened, or since it was closed. 4 minutes.
    pub tcp_transitory_timeout: Duration,
    /// What happens to TCP connections from outside that are not let in.
    pub unsolicited: Unsolicited,
    /// The most pairs of an inner and a remote address and port at the same time. What would be one more is dropped.
    pub flows_max: usize,
}

impl Default for NatOptions {
    fn default() -> NatOptions {
        NatOptions {
            mapping: Dependence::EndpointIndependent,
            filtering: Dependence::AddressAndPortDependent,
            ports: Ports::Preserve,
            hairpin: false,
            udp: true,
            udp_timeout: UDP_TIMEOUT,
            refresh_inbound: false,
            tcp_established_timeout: TCP_ESTABLISHED_TIMEOUT,
            tcp_transitory_timeout: TCP_TRANSITORY_TIMEOUT,
            unsolicited: Unsolicited::Drop,
            flows_max: FLOWS_MAX,
        }
    }
}

impl NatOptions {
    /// What was called a full cone (RFC 3489 §5): who knows the outer address and port may use it.
    pub fn full_cone() -> NatOptions {
        NatOptions {
            filtering: Dependence::EndpointIndependent,
            ..NatOptions::default()
        }
    }

    /// What was called a restricted cone: lets in the addresses to which something was sent.
    pub fn restricted_cone() -> NatOptions {
        NatOptions {
            filtering: Dependence::AddressDependent,
            ..NatOptions::default()
        }
    }

    /// What was called a port-restricted cone: lets in the addresses and ports to which something was sent.
    pub fn port_restricted_cone() -> NatOptions {
        NatOptions::default()
    }

    /// What was called symmetric: another outer port for each remote address and port, at random.
    pub fn symmetric() -> NatOptions {
        NatOptions {
            mapping: Dependence::AddressAndPortDependent,
            ports: Ports::Random,
            ..NatOptions::default()
        }
    }
}

/// What a stateful firewall without translation does (RFC 6092). What comes from inside passes and opens the way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirewallOptions {
    /// From whom packets are let in once something was sent.
    pub filtering: Dependence,
    /// Whether UDP passes at all.
    pub udp: bool,
    /// How long the way back stays open after a datagram. 2 minutes (RFC 6092 §3.2.3, REC-14).
    pub udp_timeout: Duration,
    /// How long an idle TCP connection is kept. 2 hours 4 minutes (RFC 6092 §3.3.3, REC-35).
    pub tcp_established_timeout: Duration,
    /// How long a TCP connection is kept while it is being opened, or since it was closed. 4 minutes (the same).
    pub tcp_transitory_timeout: Duration,
    /// What happens to TCP connections from outside that are not let in.
    pub unsolicited: Unsolicited,
    /// The most pairs of an inner and a remote address and port at the same time. What would be one more is dropped.
    pub flows_max: usize,
}

impl Default for FirewallOptions {
    fn default() -> FirewallOptions {
        FirewallOptions {
            filtering: Dependence::AddressAndPortDependent,
            udp: true,
            udp_timeout: UDP_TIMEOUT,
            tcp_established_timeout: TCP_ESTABLISHED_TIMEOUT,
            tcp_transitory_timeout: TCP_TRANSITORY_TIMEOUT,
            unsolicited: Unsolicited::Drop,
            flows_max: FLOWS_MAX,
        }
    }
}

impl From<FirewallOptions> for NatOptions {
    fn from(options: FirewallOptions) -> NatOptions {
        NatOptions {
            mapping: Dependence::EndpointIndependent,
            filtering: options.filtering,
            ports: Ports::Preserve,
            hairpin: false,
            udp: options.udp,
            udp_timeout: options.udp_timeout,
            // RFC 6092 §3.2.3, REC-14: packets in either direction keep it.
            refresh_inbound: true,
            tcp_established_timeout: options.tcp_established_timeout,
            tcp_transitory_timeout: options.tcp_transitory_timeout,
            unsolicited: options.unsolicited,
            flows_max: options.flows_max,
        }
    }
}

/// The part of the other side's address that a mapping is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Scope {
    Everybody,
    Address(IpAddr),
    Endpoint(SocketAddr),
}

impl Scope {
    fn of(dependence: Dependence, remote: SocketAddr) -> Scope {
        match dependence {
            Dependence::EndpointIndependent => Scope::Everybody,
            Dependence::AddressDependent => Scope::Address(remote.ip()),
            Dependence::AddressAndPortDependent => Scope::Endpoint(remote),
        }
    }
}

/// What a box sees of a packet beside its addresses.
#[derive(Clone, Copy)]
pub(super) struct Signs {
    syn: bool,
    fin: bool,
    rst: bool,
}

impl Signs {
    pub(super) const NONE: Signs = Signs {
        syn: false,
        fin: false,
        rst: false,
    };

    pub(super) fn of(segment: &Segment) -> Signs {
        Signs {
            syn: segment.syn,
            fin: segment.fin,
            rst: segment.rst,
        }
    }
}

struct Mapping {
    protocol: Protocol,
    inner: SocketAddr,
    outer: SocketAddr,
    scope: Scope,
    /// The remote ends that it was used with. The mapping lasts as long as any of them.
    flows: BTreeMap<SocketAddr, Flow>,
}

/// What is known of the packets between an inner and a remote address and port.
#[derive(Clone, Copy)]
struct Flow {
    until: Instant,
    /// Whether it was the inner side that sent something, which is what filters ask for.
    has_sent: bool,
    /// Whether a TCP segment has been seen from inside and from outside.
    has_spoken: [bool; 2],
    /// Whether the FIN of the inner and of the outer side has been seen. A reset counts as both.
    has_closed: [bool; 2],
}

/// The mappings of a box for one version of IP.
pub(super) struct Table {
    options: NatOptions,
    /// The address that inner ones are translated to; none if they pass as they are.
    addr: Option<IpAddr>,
    mappings: Arena<Mapping>,
    by_inner: FastMap<(Protocol, SocketAddr, Scope), Key>,
    by_outer: FastMap<(Protocol, SocketAddr), Key>,
    flows: usize,
    port_next: u16,
}

impl Table {
    pub(super) fn new(options: NatOptions, addr: Option<IpAddr>) -> Table {
        Table {
            options,
            addr,
            mappings: Arena::new(),
            by_inner: FastMap::default(),
            by_outer: FastMap::default(),
            flows: 0,
            port_next: REGISTERED_PORTS,
        }
    }

    pub(super) fn options(&self) -> &NatOptions {
        &self.options
    }

    pub(super) fn addr(&self) -> Option<IpAddr> {
        self.addr
    }

    /// How many flows it holds, those included that are over and were not looked at since.
    pub(super) fn flows(&self) -> usize {
        self.flows
    }

    /// Takes a packet from inside: the outer address and port that it goes on from.
    pub(super) fn outbound(
        &mut self,
        protocol: Protocol,
        inner: SocketAddr,
        remote: SocketAddr,
        signs: Signs,
        now: Instant,
        prng: &mut Prng,
    ) -> Result<SocketAddr, Loss> {
        self.check_protocol(protocol)?;
        let scope = Scope::of(self.options.mapping, remote);
        let found = self.by_inner.get(&(protocol, inner, scope)).copied();
        let key = match found.filter(|key| self.is_alive(*key, now)) {
            Some(key) => key,
            None => self.map(protocol, inner, scope, now, prng)?,
        };
        if !self.touch(key, remote, signs, 0, now) {
            self.forget_if_empty(key);
            return Err(Loss::TableFull);
        }
        Ok(self.mapping(key).outer)
    }

    /// Takes a packet from outside: the inner address and port that it goes to.
    pub(super) fn inbound(
        &mut self,
        protocol: Protocol,
        remote: SocketAddr,
        outer: SocketAddr,
        signs: Signs,
        now: Instant,
    ) -> Result<SocketAddr, Loss> {
        self.check_protocol(protocol)?;
        let found = self.by_outer.get(&(protocol, outer)).copied();
        let key = found
            .filter(|key| self.is_alive(*key, now))
            .ok_or(Loss::NoMapping)?;
        if !self.lets_in(key, remote, now) {
            return Err(Loss::Filtered);
        }
        let refreshes = protocol == Protocol::Tcp || self.options.refresh_inbound;
        if refreshes && !self.touch(key, remote, signs, 1, now) {
            return Err(Loss::TableFull);
        }
        Ok(self.mapping(key).inner)
    }

    /// The inner end that an outer address and port stand for, if they do; filters and timers are not concerned. For
    /// error messages, which quote them.
    pub(super) fn inner_of(&self, protocol: Protocol, outer: SocketAddr) -> Option<SocketAddr> {
        let key = self.by_outer.get(&(protocol, outer))?;
        Some(self.mappings.get(*key)?.inner)
    }

    /// The outer address and port by which a remote end knows an inner one.
    pub(super) fn outer_of(
        &self,
        protocol: Protocol,
        inner: SocketAddr,
        remote: SocketAddr,
    ) -> Option<SocketAddr> {
        let scope = Scope::of(self.options.mapping, remote);
        let key = self.by_inner.get(&(protocol, inner, scope))?;
        Some(self.mappings.get(*key)?.outer)
    }

    fn check_protocol(&self, protocol: Protocol) -> Result<(), Loss> {
        if protocol == Protocol::Udp && !self.options.udp {
            return Err(Loss::UdpBlocked);
        }
        Ok(())
    }

    fn mapping(&self, key: Key) -> &Mapping {
        self.mappings.get(key).expect("a key in use")
    }

    fn lets_in(&self, key: Key, remote: SocketAddr, now: Instant) -> bool {
        let flows = &self.mapping(key).flows;
        let is_open = |flow: &Flow| flow.has_sent && flow.until > now;
        match self.options.filtering {
            Dependence::EndpointIndependent => true,
            Dependence::AddressDependent => {
                let first = SocketAddr::new(remote.ip(), 0);
                let last = SocketAddr::new(remote.ip(), u16::MAX);
                flows.range(first..=last).any(|(_, flow)| is_open(flow))
            }
            Dependence::AddressAndPortDependent => flows.get(&remote).is_some_and(is_open),
        }
    }

    /// Whether a mapping still lasts; forgets it if not.
    fn is_alive(&mut self, key: Key, now: Instant) -> bool {
        let mapping = self.mappings.get_mut(key).expect("a key in use");
        if mapping.flows.values().any(|flow| flow.until > now) {
            return true;
        }
        self.flows -= mapping.flows.len();
        mapping.flows.clear();
        self.forget_if_empty(key);
        false
    }

    fn forget_if_empty(&mut self, key: Key) {
        let mapping = self.mapping(key);
        if !mapping.flows.is_empty() {
            return;
        }
        let (protocol, inner, outer) = (mapping.protocol, mapping.inner, mapping.outer);
        let scope = mapping.scope;
        self.by_inner.remove(&(protocol, inner, scope));
        self.by_outer.remove(&(protocol, outer));
        self.mappings.remove(key);
    }

    fn map(
        &mut self,
        protocol: Protocol,
        inner: SocketAddr,
        scope: Scope,
        now: Instant,
        prng: &mut Prng,
    ) -> Result<Key, Loss> {
        let outer = match self.addr {
            None => inner,
            Some(addr) => {
                let port = self.choose_port(protocol, inner.port(), addr, now, prng);
                SocketAddr::new(addr, port.ok_or(Loss::TableFull)?)
            }
        };
        let key = self.mappings.insert(Mapping {
            protocol,
            inner,
            outer,
            scope,
            flows: BTreeMap::new(),
        });
        self.by_inner.insert((protocol, inner, scope), key);
        self.by_outer.insert((protocol, outer), key);
        Ok(key)
    }

    fn choose_port(
        &mut self,
        protocol: Protocol,
        wanted: u16,
        addr: IpAddr,
        now: Instant,
        prng: &mut Prng,
    ) -> Option<u16> {
        let is_preserved = self.options.ports == Ports::Preserve;
        if is_preserved && self.is_free(protocol, wanted, addr, now) {
            return Some(wanted);
        }
        let is_low = is_preserved && wanted < REGISTERED_PORTS;
        let (first, count) = if is_low {
            (1, REGISTERED_PORTS - 1)
        } else {
            (REGISTERED_PORTS, u16::MAX - REGISTERED_PORTS + 1)
        };
        let start = match self.options.ports {
            Ports::Sequential => self.port_next - first,
            Ports::Preserve | Ports::Random => prng.below(count.into()) as u16,
        };
        let place =
            |step: u16| first + ((u32::from(start) + u32::from(step)) % u32::from(count)) as u16;
        let port = (0..count)
            .map(place)
            .find(|port| self.is_free(protocol, *port, addr, now))?;
        self.port_next = port
            .checked_add(1)
            .unwrap_or(REGISTERED_PORTS)
            .max(REGISTERED_PORTS);
        Some(port)
    }

    fn is_free(&mut self, protocol: Protocol, port: u16, addr: IpAddr, now: Instant) -> bool {
        let outer = SocketAddr::new(addr, port);
        match self.by_outer.get(&(protocol, outer)).copied() {
            Some(key) => !self.is_alive(key, now),
            None => true,
        }
    }

    /// Takes note of a packet of a flow, from inside (0) or from outside (1). `false` if the table has no room for it.
    fn touch(
        &mut self,
        key: Key,
        remote: SocketAddr,
        signs: Signs,
        side: usize,
        now: Instant,
    ) -> bool {
        let is_known = self.mapping(key).flows.contains_key(&remote);
        if !is_known && self.flows >= self.options.flows_max {
            self.forget_ended(key, now);
            if self.flows >= self.options.flows_max {
                return false;
            }
        }
        self.flows += usize::from(!is_known);
        let options = self.options;
        let mapping = self.mappings.get_mut(key).expect("a key in use");
        let is_tcp = mapping.protocol == Protocol::Tcp;
        let flow = mapping.flows.entry(remote).or_insert(Flow::new());
        if flow.until <= now || (signs.syn && flow.is_closed()) {
            // What went before is over.
            *flow = Flow::new();
        }
        flow.has_sent |= side == 0;
        flow.has_spoken[side] = true;
        flow.has_closed[side] |= signs.fin;
        if signs.rst {
            flow.has_closed = [true; 2];
        }
        let timeout = if !is_tcp {
            options.udp_timeout
        } else if flow.is_closed() || flow.has_spoken != [true; 2] {
            options.tcp_transitory_timeout
        } else {
            options.tcp_established_timeout
        };
        flow.until = now + timeout;
        true
    }

    /// Forgets all flows whose time is over. The mapping `kept` stays even without any.
    fn forget_ended(&mut self, kept: Key, now: Instant) {
        let keys: Vec<Key> = self.mappings.iter().map(|(key, _)| key).collect();
        for key in keys {
            let mapping = self.mappings.get_mut(key).expect("listed above");
            let before = mapping.flows.len();
            mapping.flows.retain(|_, flow| flow.until > now);
            self.flows -= before - mapping.flows.len();
            if key != kept {
                self.forget_if_empty(key);
            }
        }
    }
}

impl Flow {
    fn new() -> Flow {
        Flow {
            until: Instant::ZERO,
            has_sent: false,
            has_spoken: [false; 2],
            has_closed: [false; 2],
        }
    }

    fn is_closed(&self) -> bool {
        self.has_closed == [true; 2]
    }
}
