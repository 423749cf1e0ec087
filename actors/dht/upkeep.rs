//! Keeping the table, our id and our role as they should be; repeating what is to be repeated.

use std::net::SocketAddr;
use std::time::Duration;

use mischief_reactor::{Instant, Random};

use super::address::{Family, is_local};
use super::config::Role;
use super::machine::{ANNOUNCE_INTERVAL, Dht, DhtEvent, Purpose, UPKEEP_INTERVAL};
use super::message::{Query, Response};
use super::node_id::NodeId;
use super::operation::{Announcement, OPERATION_DEADLINE, Operation, Order, Wish};

/// A node that has not answered for this long is asked again, before it becomes questionable at 15 minutes.
pub const CHECK_AFTER: Duration = Duration::from_secs(13 * 60);

/// Nodes that are asked again in one round of upkeep.
pub const CHECKS_PER_ROUND_MAX: usize = 16;

/// Nodes that have asked us, or were named by the way, and that are asked in return in one round of upkeep.
pub const NEWCOMERS_PER_ROUND_MAX: u32 = 16;

/// The same for nodes of our neighbourhood: who stores something near us has to hear of them from us.
pub const NEIGHBOURS_PER_ROUND_MAX: u32 = 32;

/// Our neighbourhood is looked up again so often (BEP 5: a bucket unchanged for 15 minutes).
pub const REFRESH_INTERVAL: Duration = Duration::from_secs(15 * 60);

/// The first time it is looked up again already after this.
pub const SETTLE_AFTER: Duration = Duration::from_secs(60);

/// Distant places that are looked up once at the beginning.
pub const FILLS: usize = 4;

/// The longest pause between two attempts to find anybody at all.
pub const RETRY_MAX: Duration = Duration::from_secs(5 * 60);

/// The names of routers are asked for at most so often.
pub const ROUTERS_INTERVAL: Duration = Duration::from_secs(60);

/// The longest pause of discovery while nobody of our kind has been found.
pub const SEEK_MAX: Duration = Duration::from_secs(5 * 60);

/// After being found unreachable, being a server is tried again after this.
pub const SERVER_AGAIN_AFTER: Duration = Duration::from_secs(60 * 60);

/// The store is searched for what is too old once in so many rounds of upkeep.
const EXPIRE_EVERY: u64 = 15;

/// The standing order to find others of our own kind.
#[derive(Clone, Debug)]
pub(crate) struct Discovery {
    info_hash: NodeId,
    port: Option<u16>,
    pub(crate) due: Option<Instant>,
    tries: u32,
}

impl Dht {
    /// From now on announces that a peer of `info_hash` is at `port` and looks for others, often at first and then every 5 to
    /// 15 minutes. Without a port it only looks. What is found comes as [`DhtEvent::Discovered`].
    pub fn discover(&mut self, now: Instant, info_hash: NodeId, port: Option<u16>) {
        self.discovery = Some(Discovery {
            info_hash,
            port,
            due: self.was_ready.then_some(now),
            tries: 0,
        });
        self.upkeep(now);
        self.advance(now);
    }

    /// Ends it.
    pub fn stop_discovery(&mut self) {
        self.discovery = None;
    }

    pub(crate) fn on_discovered(&mut self, now: Instant, operation: &Operation) {
        let quarter = self.dice.below(256) as u32;
        let Some(discovery) = &mut self.discovery else {
            return;
        };
        discovery.tries = discovery.tries.saturating_add(1);
        let longest = if operation.found.is_empty() {
            SEEK_MAX
        } else {
            ANNOUNCE_INTERVAL
        };
        // Those that were started together are to meet within seconds; later it costs more than it brings.
        let seconds = match discovery.tries {
            tries @ ..=5 => tries,
            tries => 1 << (tries - 3).min(10),
        };
        let pause = Duration::from_secs(u64::from(seconds)).min(longest);
        // Nodes that were started together do not go on together.
        discovery.due = Some(now + pause - pause / 4 * quarter / 256);
    }

    /// Fills the table of a family: with our neighbourhood, or with what is around a distant place.
    pub(crate) fn fill(&mut self, now: Instant, family: Family) {
        let Some(net) = &mut self.nets[family.index()] else {
            return;
        };
        if net.filling.is_some() {
            return;
        }
        net.fill_at = None;
        let own = net.table.own();
        let target = match net.fills_left {
            left if left > 0 && net.is_ready => {
                net.fills_left -= 1;
                own.neighbour(left - 1, &mut self.dice)
            }
            _ => own,
        };
        let order = Order::FindNodes { target };
        let id = self.start(now, order, Wish::Table(family), now + OPERATION_DEADLINE);
        if let Some(net) = &mut self.nets[family.index()] {
            net.filling = Some(id);
        }
    }

    pub(crate) fn on_filled(&mut self, now: Instant, family: Family) {
        let needs_routers = self
            .routers_asked
            .is_none_or(|last| now.saturating_duration_since(last) >= ROUTERS_INTERVAL);
        let Some(net) = &mut self.nets[family.index()] else {
            return;
        };
        net.filling = None;
        if net.table.is_empty() {
            let pause = Duration::from_secs(1 << net.failures.min(9)).min(RETRY_MAX);
            net.failures += 1;
            net.fill_at = Some(now + pause);
            if needs_routers && !self.was_ready {
                self.routers_asked = Some(now);
                self.tell(DhtEvent::NeedRouters);
            }
            return;
        }
        net.failures = 0;
        let is_first = !std::mem::replace(&mut net.is_ready, true);
        if is_first {
            net.fills_left = FILLS;
        }
        let next = match net.fills_left {
            // Those that joined when we did know of us by then, and we of them.
            0 if !std::mem::replace(&mut net.is_settled, true) => now + SETTLE_AFTER,
            0 => now + REFRESH_INTERVAL,
            _ => now,
        };
        // It may have been wanted again while it ran.
        net.fill_at = Some(net.fill_at.map_or(next, |wanted| wanted.min(next)));
        // In a network of two there is one voter.
        let votes_min = if net.table.len() < 3 {
            1
        } else {
            super::votes::VOTES_MIN
        };
        if net.votes.decided().is_none() && net.votes.decide(now, votes_min) {
            self.on_address(now, family);
        }
        if is_first {
            self.start_waiting(now, family);
            if !std::mem::replace(&mut self.was_ready, true) {
                let nodes = self.nets.iter().flatten().map(|net| net.table.len()).sum();
                self.tell(DhtEvent::Ready { nodes });
            }
            if let Some(discovery) = &mut self.discovery {
                discovery.due.get_or_insert(now);
            }
        }
    }

    /// A node has told us at which address it sees us.
    pub(crate) fn on_vote(&mut self, now: Instant, from: SocketAddr, seen: SocketAddr) {
        let family = Family::of(from);
        let Some(net) = &mut self.nets[family.index()] else {
            return;
        };
        if net.votes.cast(now, from, seen) {
            self.on_address(now, family);
        }
        self.ping_myself(now, family);
    }

    fn on_address(&mut self, now: Instant, family: Family) {
        let Some(net) = &mut self.nets[family.index()] else {
            return;
        };
        let Some(ip) = net.votes.decided() else {
            return;
        };
        if self.config.checks_ids && !net.has_valid_id() {
            net.renew_id(ip, &mut self.dice);
            // Around the new id nobody is known yet.
            net.fill_at = Some(now);
        }
        self.tell(DhtEvent::ExternalAddress(ip));
    }

    /// A ping that comes back to us through the address that others see proves that it leads here.
    fn ping_myself(&mut self, now: Instant, family: Family) {
        if self.config.role != Role::Auto {
            return;
        }
        let net = self.nets[family.index()]
            .as_mut()
            .filter(|net| !net.is_server);
        if let Some(to) = net.and_then(|net| net.self_ping(now)) {
            self.query(now, to, &Query::Ping, Purpose::Myself);
        }
    }

    /// Somebody has stored a peer with us. If it is of our own kind, it is found.
    pub(crate) fn on_stored(&mut self, info_hash: &NodeId, peer: SocketAddr) {
        let is_wanted = |discovery: &Discovery| discovery.info_hash == *info_hash;
        if self.discovery.as_ref().is_some_and(is_wanted) {
            self.tell(DhtEvent::Discovered(vec![peer]));
        }
    }

    /// A node that we were asked by has answered. With the first one there is somewhere to begin.
    pub(crate) fn on_check(&mut self, now: Instant, family: Family) {
        let is_hungry = |net: &super::net::Net| !net.is_ready && net.filling.is_none();
        if self.net(family).is_some_and(is_hungry) {
            self.fill(now, family);
        }
    }

    /// Nodes that an answer names by the way: some are worth a look.
    pub(crate) fn consider(&mut self, now: Instant, family: Family, response: &Response<'_>) {
        for node in response.contacts(family).take(super::routing::BUCKET_SIZE) {
            let is_ours =
                |net: &super::net::Net| net.local.ip().is_loopback() || !is_local(node.addr.ip());
            if self.net(family).is_some_and(is_ours) {
                self.consider_node(now, node);
            }
        }
    }

    /// Pings a node that would get a place, as far as there are pings left for this round.
    pub(crate) fn consider_node(&mut self, now: Instant, node: super::address::Contact) {
        let Some(net) = &mut self.nets[Family::of(node.addr).index()] else {
            return;
        };
        let is_near = net.table.own().common_bits(&node.id) + 1 >= net.table.depth();
        let left = match is_near {
            true => &mut self.near_checks_left,
            false => &mut self.checks_left,
        };
        if net.reaches(node.addr) && net.table.handle_query(now, node) && *left > 0 {
            *left -= 1;
            self.query(now, node.addr, &Query::Ping, Purpose::Check);
        }
    }

    /// Nodes of the other family, which help it to begin (BEP 32).
    pub(crate) fn learn_begin(&mut self, now: Instant, family: Family, response: &Response<'_>) {
        let other = match family {
            Family::V4 => Family::V6,
            Family::V6 => Family::V4,
        };
        let Some(net) = self.nets[other.index()]
            .as_mut()
            .filter(|net| !net.is_ready)
        else {
            return;
        };
        let is_strange = |ip| is_local(ip) && !net.local.ip().is_loopback();
        let nodes: Vec<_> = response
            .contacts(other)
            .take(8)
            .filter(|node| !is_strange(node.addr.ip()))
            .collect();
        for node in nodes {
            net.add_begin(Some(node.id), node.addr);
        }
        if !net.begin.is_empty() && net.filling.is_none() && net.failures == 0 {
            self.fill(now, other);
        }
    }

    /// Does what is due.
    pub(crate) fn upkeep(&mut self, now: Instant) {
        for family in Family::ALL {
            let due = self.net(family).and_then(|net| net.fill_at);
            if due.is_some_and(|due| due <= now) {
                self.fill(now, family);
            }
        }
        self.repeat(now);
        if self.upkeep_at.is_none_or(|at| at > now) {
            return;
        }
        self.upkeep_at = Some(now + UPKEEP_INTERVAL);
        self.checks_left = NEWCOMERS_PER_ROUND_MAX;
        self.near_checks_left = NEIGHBOURS_PER_ROUND_MAX;
        self.rounds += 1;
        if self.rounds.is_multiple_of(EXPIRE_EVERY) {
            self.storage.expire(now);
        }
        for family in Family::ALL {
            self.ping_myself(now, family);
            self.check_nodes(now, family);
            let Some(net) = &mut self.nets[family.index()] else {
                continue;
            };
            if net.is_unconfirmed(now) {
                net.self_pinged = Some(now + SERVER_AGAIN_AFTER);
                self.set_server(now, family, false);
            }
        }
    }

    /// Asks nodes that have not answered for long whether they are still there.
    fn check_nodes(&mut self, now: Instant, family: Family) {
        for _ in 0..CHECKS_PER_ROUND_MAX {
            let net = self.nets[family.index()].as_mut();
            let Some((net, (node, has_room))) = net.and_then(|net| {
                Some((net.table.stalest(now, CHECK_AFTER)?, net))
                    .map(|(stalest, net)| (net, stalest))
            }) else {
                return;
            };
            net.table.touch(now, node.addr);
            // Where the table has room, the question brings names as well.
            let own = net.table.own();
            let query = match has_room {
                true => Query::FindNode {
                    target: own.neighbour(own.common_bits(&node.id), &mut self.dice),
                    want: None,
                },
                false => Query::Ping,
            };
            if !self.query(now, node.addr, &query, Purpose::Check) {
                return;
            }
        }
    }

    /// Announcements and discovery.
    fn repeat(&mut self, now: Instant) {
        let mut due: Vec<Announcement> = Vec::new();
        for kept in self.kept.iter_mut().filter(|kept| kept.due <= now) {
            kept.due = now + ANNOUNCE_INTERVAL;
            due.push(kept.announcement);
        }
        for announcement in due {
            let order = Order::Announce(announcement);
            self.start(now, order, Wish::Kept, now + OPERATION_DEADLINE);
        }
        let Some(discovery) = self
            .discovery
            .as_mut()
            .filter(|discovery| discovery.due.is_some_and(|due| due <= now))
        else {
            return;
        };
        // The next one is due when this one has ended.
        discovery.due = None;
        let (info_hash, port) = (discovery.info_hash, discovery.port);
        let order = match port {
            None => Order::FindPeers { info_hash },
            port => Order::Announce(Announcement {
                info_hash,
                port,
                seed: false,
            }),
        };
        self.start(now, order, Wish::Discovery, now + OPERATION_DEADLINE);
    }
}
