//! Boxes between two realms: NAT boxes and stateful firewalls, and what they do to packets that cross them.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::nat::{FirewallOptions, NatOptions, Signs, Table, Unsolicited};
use super::network::Realm;
use super::node::MachineId;
use super::packet::{Body, IcmpError, Loss, Packet, Protocol, Unreachable};
use super::segment::Segment;
use super::state::State;
use super::world::{SimNode, SimWorld};

/// A box between the machines behind it and the network before it. Clones are the same box.
///
/// It is a machine of its own: links to it, partitions and bandwidths are set as for any other, by
/// [`SimRouter::node`]. No code runs on it.
#[derive(Clone)]
pub struct SimRouter {
    node: SimNode,
}

/// The inside of a box.
pub(super) struct Router {
    inner: Realm,
    /// For the version of IP that it translates.
    nat: Option<Table>,
    /// For all else.
    firewall: Table,
}

impl Router {
    /// Whether packets from this address get another one.
    pub(super) fn translates(&self, addr: IpAddr) -> bool {
        let outer = self.nat.as_ref().and_then(Table::addr);
        outer.is_some_and(|outer| outer.is_ipv4() == addr.is_ipv4())
    }

    fn table(&mut self, addr: IpAddr) -> &mut Table {
        if self.translates(addr) {
            self.nat.as_mut().expect("it translates")
        } else {
            &mut self.firewall
        }
    }

    fn restart(&mut self) {
        self.nat = self
            .nat
            .as_ref()
            .map(|table| Table::new(*table.options(), table.addr()));
        self.firewall = Table::new(*self.firewall.options(), None);
    }
}

impl SimWorld {
    /// A NAT box between the public network, where it has this address, and a private one. It translates addresses of
    /// that version of IP; for the other it is a firewall without translation, with [`FirewallOptions::default`].
    ///
    /// # Panics
    /// As [`SimWorld::node`].
    pub fn nat(&self, options: NatOptions, addr: IpAddr) -> SimRouter {
        self.add_router(None, Some((options, addr)), FirewallOptions::default())
    }

    /// A NAT box behind another box, as with carrier-grade NAT.
    ///
    /// # Panics
    /// As [`SimWorld::node`].
    pub fn nat_behind(&self, outer: &SimRouter, options: NatOptions, addr: IpAddr) -> SimRouter {
        self.add_router(
            Some(outer),
            Some((options, addr)),
            FirewallOptions::default(),
        )
    }

    /// A firewall before machines that have public addresses.
    pub fn firewall(&self, options: FirewallOptions) -> SimRouter {
        self.add_router(None, None, options)
    }

    /// A firewall behind another box.
    pub fn firewall_behind(&self, outer: &SimRouter, options: FirewallOptions) -> SimRouter {
        self.add_router(Some(outer), None, options)
    }

    /// A new machine behind a box. Other boxes may have machines of the same addresses behind them, as far as they
    /// translate them.
    ///
    /// # Panics
    /// As [`SimWorld::node`].
    pub fn node_behind(&self, router: &SimRouter, addrs: &[IpAddr]) -> SimNode {
        let node = self.node(&[]);
        node.move_behind(router, addrs);
        node
    }

    fn add_router(
        &self,
        outer: Option<&SimRouter>,
        nat: Option<(NatOptions, IpAddr)>,
        firewall: FirewallOptions,
    ) -> SimRouter {
        let node = self.node(&[]);
        if let Some((_, addr)) = nat {
            node.move_to(outer, &[addr]);
        } else {
            node.move_to(outer, &[]);
        }
        self.state().network.add_router(node.id(), |inner| Router {
            inner,
            nat: nat.map(|(options, addr)| Table::new(options, Some(addr))),
            firewall: Table::new(firewall.into(), None),
        });
        SimRouter { node }
    }
}

impl SimRouter {
    /// The box as a machine: for links, partitions, bandwidths.
    pub fn node(&self) -> &SimNode {
        &self.node
    }

    /// Loses all mappings, as in a restart.
    pub fn reboot(&self) {
        self.with(Router::restart);
    }

    /// Gives a NAT box another outer address, as a provider does overnight. All mappings are lost.
    ///
    /// # Panics
    /// As [`SimWorld::node`], and if the box translates nothing or the address is of the other version of IP.
    pub fn set_outer_addr(&self, addr: IpAddr) {
        let old = self.with(|router| router.nat.as_ref().and_then(Table::addr));
        let old = old.expect("a NAT box has an outer address");
        assert_eq!(
            old.is_ipv4(),
            addr.is_ipv4(),
            "it is the same version of IP"
        );
        if old != addr {
            self.node.add_addr(addr);
            self.node.remove_addr(old);
        }
        self.with(|router| {
            let table = router.nat.as_ref().expect("it has an address");
            router.nat = Some(Table::new(*table.options(), Some(addr)));
            router.restart();
        });
    }

    /// How many pairs of an inner and a remote address and port it holds, those included that are over and were not
    /// looked at since.
    pub fn flows(&self) -> usize {
        self.with(|router| {
            let nat = router.nat.as_ref().map_or(0, Table::flows);
            nat + router.firewall.flows()
        })
    }

    pub(super) fn inner(&self) -> Realm {
        self.with(|router| router.inner)
    }

    fn with<R>(&self, act: impl FnOnce(&mut Router) -> R) -> R {
        let mut state = self.node.world().state();
        let index = state.network.router_of(self.node.id());
        let index = index.expect("the box was made as a router");
        act(&mut state.network.routers[index as usize])
    }
}

impl fmt::Debug for SimRouter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimRouter({})", self.node.id().0)
    }
}

impl State {
    /// Takes a packet that has come to a box.
    pub(super) fn forward(&mut self, index: u32, mut packet: Packet) {
        let at = packet.to;
        packet.ttl = packet.ttl.saturating_sub(1);
        if packet.ttl == 0 {
            return self.lose(&packet, Loss::TtlExpired);
        }
        let inner = self.network.routers[index as usize].inner;
        let outcome = match &packet.body {
            Body::Icmp(error) => {
                let error = *error;
                self.forward_error(index, &mut packet, error)
            }
            _ if packet.realm == inner => self.forward_out(index, &mut packet),
            _ => self.forward_in(index, &mut packet),
        };
        match outcome {
            Ok(realm) => self.send_on(at, realm, packet),
            Err(loss) => {
                self.refuse(index, &packet, loss);
                self.lose(&packet, loss);
            }
        }
    }

    /// Translates a packet from inside. Tells the realm that it goes on in.
    fn forward_out(&mut self, index: u32, packet: &mut Packet) -> Result<Realm, Loss> {
        let (protocol, signs) = signs_of(packet);
        let now = self.now;
        let outer = self.network.realm_of(packet.to);
        let router = &mut self.network.routers[index as usize];
        let table = router.table(packet.source.ip());
        let is_home = table.addr() == Some(packet.target.ip());
        if is_home && !table.options().hairpin {
            return Err(Loss::NoHairpin);
        }
        let prng = &mut self.network_prng;
        let (inner, remote) = (packet.source, packet.target);
        packet.source = table.outbound(protocol, inner, remote, signs, now, prng)?;
        if is_home {
            return self.forward_in(index, packet);
        }
        Ok(outer)
    }

    /// Translates a packet from outside. Tells the realm that it goes on in.
    fn forward_in(&mut self, index: u32, packet: &mut Packet) -> Result<Realm, Loss> {
        let (protocol, signs) = signs_of(packet);
        let now = self.now;
        let router = &mut self.network.routers[index as usize];
        let inner = router.inner;
        let table = router.table(packet.target.ip());
        let is_nat = table.addr().is_some();
        if table.addr().is_some_and(|addr| addr != packet.target.ip()) {
            return Err(Loss::NoRoute);
        }
        match table.inbound(protocol, packet.source, packet.target, signs, now) {
            Ok(target) => packet.target = target,
            Err(Loss::NoMapping | Loss::Filtered) if !is_nat => return Err(Loss::Firewalled),
            Err(loss) => return Err(loss),
        }
        Ok(inner)
    }

    /// Translates an error message, which quotes the head of a packet that went the other way.
    fn forward_error(
        &mut self,
        index: u32,
        packet: &mut Packet,
        error: IcmpError,
    ) -> Result<Realm, Loss> {
        let outer = self.network.realm_of(packet.to);
        let router = &mut self.network.routers[index as usize];
        let inner = router.inner;
        let is_from_inside = packet.realm == inner;
        let table = router.table(packet.target.ip());
        let mut quoted = error;
        let realm = if is_from_inside {
            let known = table.outer_of(error.protocol, error.target, error.source);
            quoted.target = known.ok_or(Loss::NoMapping)?;
            if table.addr().is_some() {
                packet.source = SocketAddr::new(quoted.target.ip(), 0);
            }
            outer
        } else {
            let known = table.inner_of(error.protocol, error.source);
            quoted.source = known.ok_or(Loss::NoMapping)?;
            packet.target = SocketAddr::new(quoted.source.ip(), 0);
            inner
        };
        packet.body = Body::Icmp(quoted);
        Ok(realm)
    }

    /// Answers what a box does not let in, if it is one that answers.
    fn refuse(&mut self, index: u32, packet: &Packet, loss: Loss) {
        if !matches!(loss, Loss::NoMapping | Loss::Filtered | Loss::Firewalled) {
            return;
        }
        let router = &mut self.network.routers[index as usize];
        let is_refused =
            router.table(packet.target.ip()).options().unsolicited == Unsolicited::Refuse;
        if !is_refused {
            return;
        }
        match &packet.body {
            Body::Tcp(segment) => {
                let Some(reset) = Segment::reset_for(segment) else {
                    return;
                };
                let answer = Packet {
                    from: packet.to,
                    to: packet.from,
                    origin: packet.to,
                    source: packet.target,
                    target: packet.source,
                    ttl: super::packet::HOPS,
                    number: self.next_number(),
                    is_shaped: false,
                    body: Body::Tcp(reset),
                    ..packet.clone()
                };
                self.send_on(packet.to, packet.realm, answer);
            }
            Body::Udp(_) => self.send_error(packet.to, packet, Unreachable::Prohibited),
            Body::Icmp(_) => {}
        }
    }

    /// Sends a packet on from a machine, within a realm.
    pub(super) fn send_on(&mut self, from: MachineId, realm: Realm, mut packet: Packet) {
        packet.from = from;
        packet.realm = realm;
        packet.is_shaped = false;
        let Some(to) = self.network.locate(from, realm, packet.target.ip()) else {
            packet.to = from;
            self.send_error(from, &packet, Unreachable::Host);
            return self.lose(&packet, Loss::NoRoute);
        };
        packet.to = to;
        self.transmit(packet);
    }
}

/// The protocol of a packet that has ports, and what a box looks at beside.
fn signs_of(packet: &Packet) -> (Protocol, Signs) {
    match &packet.body {
        Body::Tcp(segment) => (Protocol::Tcp, Signs::of(segment)),
        Body::Udp(_) | Body::Icmp(_) => (Protocol::Udp, Signs::NONE),
    }
}
