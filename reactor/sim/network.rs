//! What lies between the machines: who has which address in which realm, and the links.
//!
//! A realm is a set of machines that reach each other by their addresses: the public network, or what is behind a
//! router. Every packet goes through [`Network::plan`] once per link that it takes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Range;

use super::link::{self, Bandwidth, Bottleneck, DownTimes, Flow, LinkLoss, LinkOptions, Plan};
use super::map::FastMap;
use super::node::MachineId;
use super::packet::{Loss, Packet};
use super::prng::{Prng, mix};
use super::router::Router;
use crate::time::Instant;

/// Below this many links in memory of recent packets, old ones are not looked for.
const FLOWS_KEPT: usize = 4096;

/// A set of machines that reach each other by their addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Realm(pub(super) u32);

/// The realm that is behind no router.
pub(super) const PUBLIC: Realm = Realm(0);

#[derive(Default)]
struct RealmTable {
    /// Who has which address. Loopback addresses are not here: every machine has them. Addresses behind a router that
    /// does not translate them belong to the router here.
    addresses: FastMap<IpAddr, MachineId>,
    /// The router that leads out.
    gateway: Option<MachineId>,
    /// How many sockets of which machine have joined which multicast group.
    groups: BTreeMap<IpAddr, BTreeMap<MachineId, u32>>,
}

/// Where a machine stands.
struct Site {
    name: Option<Box<str>>,
    realm: Realm,
    /// Which router it is, if it is one.
    router: Option<u32>,
    /// Machines on different sides of a split reach each other no more; 0 is no side.
    side: u32,
    /// Its own bottleneck towards the network, and from there.
    up: Option<(Bandwidth, Bottleneck)>,
    down: Option<(Bandwidth, Bottleneck)>,
}

/// Both machines of a link's direction, as one key.
fn direction(from: MachineId, to: MachineId) -> u64 {
    u64::from(from.0) << 32 | u64::from(to.0)
}

/// The key of a link whatever the direction.
fn both_ways(a: MachineId, b: MachineId) -> u64 {
    direction(a.min(b), a.max(b))
}

pub(super) struct Network {
    seed: u64,
    realms: Vec<RealmTable>,
    sites: Vec<Site>,
    pub(super) routers: Vec<Router>,
    link_default: LinkOptions,
    loopback_default: LinkOptions,
    /// Links that differ from the default, by direction.
    links: FastMap<u64, Box<LinkOptions>>,
    /// Directions that let nothing through.
    cut: BTreeSet<u64>,
    /// How many sides there are.
    sides: u32,
    /// Links that have a schedule of down times or have flapped.
    down_times: FastMap<u64, DownTimes>,
    /// Whether a link may be down at all, so that most worlds need not look.
    may_be_down: bool,
    flows: FastMap<u64, Flow>,
    flows_kept: usize,
}

impl Network {
    pub(super) fn new(seed: u64) -> Network {
        Network {
            seed,
            realms: vec![RealmTable::default()],
            sites: Vec::new(),
            routers: Vec::new(),
            link_default: LinkOptions::default(),
            loopback_default: LinkOptions::loopback(),
            links: FastMap::default(),
            cut: BTreeSet::new(),
            sides: 0,
            down_times: FastMap::default(),
            may_be_down: false,
            flows: FastMap::default(),
            flows_kept: FLOWS_KEPT,
        }
    }

    // Places.

    /// Takes note of a new machine: the next one, in the public realm.
    pub(super) fn add_site(&mut self) {
        self.sites.push(Site {
            name: None,
            realm: PUBLIC,
            router: None,
            side: 0,
            up: None,
            down: None,
        });
    }

    fn site(&self, node: MachineId) -> &Site {
        &self.sites[node.0 as usize]
    }

    fn site_mut(&mut self, node: MachineId) -> &mut Site {
        &mut self.sites[node.0 as usize]
    }

    pub(super) fn realm_of(&self, node: MachineId) -> Realm {
        self.site(node).realm
    }

    /// Puts a machine without addresses into a realm.
    pub(super) fn set_realm(&mut self, node: MachineId, realm: Realm) {
        self.site_mut(node).realm = realm;
    }

    /// Gives a machine a name for traces.
    pub(super) fn set_name(&mut self, node: MachineId, name: &str) {
        self.site_mut(node).name = Some(name.into());
    }

    /// What a machine is called in traces.
    pub(super) fn name_of(&self, node: MachineId) -> String {
        match &self.site(node).name {
            Some(name) => name.to_string(),
            None => format!("node {}", node.0),
        }
    }

    pub(super) fn router_of(&self, node: MachineId) -> Option<u32> {
        self.site(node).router
    }

    /// Makes a machine the router between its realm and a new one.
    pub(super) fn add_router(&mut self, node: MachineId, make: impl FnOnce(Realm) -> Router) {
        let inner = Realm(u32::try_from(self.realms.len()).expect("fewer than 2^32 realms"));
        self.realms.push(RealmTable {
            gateway: Some(node),
            ..RealmTable::default()
        });
        let index = u32::try_from(self.routers.len()).expect("fewer than 2^32 routers");
        self.routers.push(make(inner));
        self.site_mut(node).router = Some(index);
    }

    /// Gives a machine an address in its realm, and in those further out if the routers on the way do not translate it.
    /// `false` if another machine has it.
    pub(super) fn claim(&mut self, addr: IpAddr, node: MachineId) -> bool {
        let way = self.way_out(addr, node);
        let is_free = way.iter().all(|(realm, owner)| {
            let table = &self.realms[realm.0 as usize];
            table
                .addresses
                .get(&addr)
                .is_none_or(|other| other == owner)
        });
        if is_free {
            for (realm, owner) in way {
                let table = &mut self.realms[realm.0 as usize];
                table.addresses.insert(addr, owner);
            }
        }
        is_free
    }

    pub(super) fn release(&mut self, addr: IpAddr, node: MachineId) {
        for (realm, owner) in self.way_out(addr, node) {
            let addresses = &mut self.realms[realm.0 as usize].addresses;
            if addresses.get(&addr) == Some(&owner) {
                addresses.remove(&addr);
            }
        }
    }

    /// The realms in which an address of a machine is known, with who receives packets to it there.
    fn way_out(&self, addr: IpAddr, node: MachineId) -> Vec<(Realm, MachineId)> {
        let mut owner = node;
        let mut way = Vec::new();
        loop {
            let realm = self.realm_of(owner);
            way.push((realm, owner));
            let Some(gateway) = self.realms[realm.0 as usize].gateway else {
                return way;
            };
            let index = self.router_of(gateway).expect("a gateway is a router");
            // Link-local addresses mean something on their link only.
            if self.routers[index as usize].translates(addr) || super::node::is_link_local(addr) {
                return way;
            }
            owner = gateway;
        }
    }

    /// The machine that a unicast packet from `from` goes to next, within a realm.
    pub(super) fn locate(
        &self,
        from: MachineId,
        realm: Realm,
        target: IpAddr,
    ) -> Option<MachineId> {
        if target.is_loopback() {
            return Some(from);
        }
        let table = &self.realms[realm.0 as usize];
        let owner = table.addresses.get(&target).copied();
        owner.or(table
            .gateway
            .filter(|gateway| *gateway != from && !super::node::is_link_local(target)))
    }

    // Groups.

    pub(super) fn join(&mut self, group: IpAddr, node: MachineId) {
        let realm = self.realm_of(node);
        let groups = &mut self.realms[realm.0 as usize].groups;
        *groups.entry(group).or_default().entry(node).or_default() += 1;
    }

    pub(super) fn leave(&mut self, group: IpAddr, node: MachineId) {
        let realm = self.realm_of(node);
        let groups = &mut self.realms[realm.0 as usize].groups;
        let Some(members) = groups.get_mut(&group) else {
            return;
        };
        if let Some(count) = members.get_mut(&node) {
            *count -= 1;
            if *count == 0 {
                members.remove(&node);
            }
        }
        if members.is_empty() {
            groups.remove(&group);
        }
    }

    /// Forgets and returns the groups that a machine has joined, with how often: it leaves for another realm.
    pub(super) fn leave_all(&mut self, node: MachineId) -> Vec<(IpAddr, u32)> {
        let realm = self.realm_of(node);
        let groups = &mut self.realms[realm.0 as usize].groups;
        let mut left = Vec::new();
        for (group, members) in groups.iter_mut() {
            left.extend(members.remove(&node).map(|count| (*group, count)));
        }
        groups.retain(|_, members| !members.is_empty());
        left
    }

    pub(super) fn join_all(&mut self, node: MachineId, joined: Vec<(IpAddr, u32)>) {
        let realm = self.realm_of(node);
        let groups = &mut self.realms[realm.0 as usize].groups;
        for (group, count) in joined {
            *groups.entry(group).or_default().entry(node).or_default() += count;
        }
    }

    /// The machines of a realm that have joined a group, in order.
    pub(super) fn members(&self, realm: Realm, group: IpAddr) -> Vec<MachineId> {
        let groups = &self.realms[realm.0 as usize].groups;
        groups
            .get(&group)
            .map(|members| members.keys().copied().collect())
            .unwrap_or_default()
    }

    /// The machines of a realm that have an IPv4 address, in order: whom a broadcast reaches.
    pub(super) fn broadcast_domain(&self, realm: Realm) -> BTreeSet<MachineId> {
        let addresses = &self.realms[realm.0 as usize].addresses;
        let v4 = addresses.iter().filter(|(addr, _)| addr.is_ipv4());
        v4.map(|(_, node)| *node).collect()
    }

    // Links.

    pub(super) fn set_default(&mut self, options: LinkOptions) {
        self.may_be_down |= options.flaps.is_some();
        self.link_default = options;
    }

    pub(super) fn set_loopback(&mut self, options: LinkOptions) {
        self.may_be_down |= options.flaps.is_some();
        self.loopback_default = options;
    }

    pub(super) fn set_link(&mut self, from: MachineId, to: MachineId, options: LinkOptions) {
        self.may_be_down |= options.flaps.is_some();
        self.links.insert(direction(from, to), Box::new(options));
    }

    pub(super) fn set_bandwidth(
        &mut self,
        node: MachineId,
        up: Option<Bandwidth>,
        down: Option<Bandwidth>,
    ) {
        let site = self.site_mut(node);
        site.up = up.map(|bandwidth| (bandwidth, Bottleneck::default()));
        site.down = down.map(|bandwidth| (bandwidth, Bottleneck::default()));
    }

    pub(super) fn set_down_times(
        &mut self,
        a: MachineId,
        b: MachineId,
        schedule: Vec<Range<Instant>>,
    ) {
        self.may_be_down = true;
        let times = self.down_times.entry(both_ways(a, b));
        times.or_insert_with(DownTimes::new).set_schedule(schedule);
    }

    pub(super) fn set_cut(&mut self, from: MachineId, to: MachineId, is_cut: bool) {
        if is_cut {
            self.cut.insert(direction(from, to));
        } else {
            self.cut.remove(&direction(from, to));
        }
    }

    /// Splits machines into sides; those in none reach everybody.
    pub(super) fn split(&mut self, sides: &[Vec<MachineId>]) {
        self.unsplit();
        for side in sides {
            self.sides += 1;
            for node in side {
                self.site_mut(*node).side = self.sides;
            }
        }
    }

    pub(super) fn unsplit(&mut self) {
        if std::mem::take(&mut self.sides) > 0 {
            for site in &mut self.sites {
                site.side = 0;
            }
        }
    }

    pub(super) fn heal_all(&mut self) {
        self.cut.clear();
        self.unsplit();
    }

    pub(super) fn is_cut(&self, from: MachineId, to: MachineId) -> bool {
        if !self.cut.is_empty() && self.cut.contains(&direction(from, to)) {
            return true;
        }
        if self.sides == 0 {
            return false;
        }
        let sides = [self.site(from).side, self.site(to).side];
        sides[0] != sides[1] && !sides.contains(&0)
    }

    pub(super) fn is_down(&mut self, from: MachineId, to: MachineId, now: Instant) -> bool {
        if !self.may_be_down {
            return false;
        }
        let flaps = self.options(from, to).flaps;
        let key = both_ways(from, to);
        if flaps.is_none() && !self.down_times.contains_key(&key) {
            return false;
        }
        let seed = self.seed;
        let times = self.down_times.entry(key).or_insert_with(DownTimes::new);
        times.is_down(flaps, now, || Prng::for_purpose(mix(&[seed, key]), 0))
    }

    /// The largest packet that the link takes.
    pub(super) fn mtu(&self, from: MachineId, to: MachineId) -> u32 {
        self.options(from, to).mtu
    }

    /// Decides what the link from `packet.from` to `packet.to` does to a packet.
    pub(super) fn plan(
        &mut self,
        packet: &Packet,
        size: usize,
        now: Instant,
        prng: &mut Prng,
    ) -> Result<Plan, Loss> {
        let (from, to) = (packet.from, packet.to);
        if self.is_cut(from, to) {
            return Err(Loss::Partition);
        }
        if self.is_down(from, to, now) {
            return Err(Loss::LinkDown);
        }
        if size > self.options(from, to).mtu as usize {
            return Err(Loss::TooLarge);
        }
        let start = self.pass_up(from, to, size, now).ok_or(Loss::QueueFull)?;
        let key = direction(from, to);
        let own = if self.links.is_empty() {
            None
        } else {
            self.links.get(&key)
        };
        let options = match own {
            Some(options) => options,
            None if from == to => &self.loopback_default,
            None => &self.link_default,
        };
        let flows = &mut self.flows;
        let planned = link::plan(options, || flows.entry(key).or_default(), size, start, prng);
        if self.flows.len() > self.flows_kept {
            // A packet that has arrived holds up nobody, so most pairs that ever spoke can be forgotten.
            self.flows.retain(|_, flow| !flow.is_idle(now));
            self.flows_kept = FLOWS_KEPT.max(self.flows.len() * 2);
        }
        planned.map_err(|loss| match loss {
            LinkLoss::Chance => Loss::Chance,
            LinkLoss::Burst => Loss::Burst,
            LinkLoss::QueueFull => Loss::QueueFull,
        })
    }

    /// When a packet has passed its sender's own bottleneck.
    fn pass_up(
        &mut self,
        from: MachineId,
        to: MachineId,
        size: usize,
        now: Instant,
    ) -> Option<Instant> {
        match &mut self.site_mut(from).up {
            Some((bandwidth, bottleneck)) if from != to => bottleneck.admit(*bandwidth, size, now),
            _ => Some(now),
        }
    }

    /// When a packet has passed its receiver's own bottleneck; nothing if there is none on its way.
    pub(super) fn pass_down(
        &mut self,
        packet: &Packet,
        now: Instant,
    ) -> Option<Result<Instant, Loss>> {
        if packet.from == packet.to || packet.is_shaped {
            return None;
        }
        let (bandwidth, bottleneck) = self.site_mut(packet.to).down.as_mut()?;
        let passed = bottleneck.admit(*bandwidth, packet.size(), now);
        Some(passed.ok_or(Loss::QueueFull))
    }

    fn options(&self, from: MachineId, to: MachineId) -> &LinkOptions {
        if !self.links.is_empty()
            && let Some(options) = self.links.get(&direction(from, to))
        {
            options
        } else if from == to {
            &self.loopback_default
        } else {
            &self.link_default
        }
    }
}
