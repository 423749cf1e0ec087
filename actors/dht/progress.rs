//! How orders go on: lookups ask on, what is found is told, what is to be stored is stored.

use std::net::SocketAddr;

use mischief_reactor::Instant;

use super::address::{Contact, Family};
use super::lookup::Lookup;
use super::machine::{Dht, DhtEvent, Pending, Purpose};
use super::message::{Query, Response, Want};
use super::node_id::NodeId;
use super::operation::{Operation, OperationId, Order, STORE_DEADLINE, Stage, Wish};
use super::routing::BUCKET_SIZE;

/// A new estimate counts one part in so many.
const SIZE_MEMORY: f64 = 8.0;

impl Dht {
    /// A lookup that begins at what the table knows.
    pub(crate) fn lookup(&self, now: Instant, target: NodeId, family: Family) -> Lookup {
        let Some(net) = self.net(family) else {
            return Lookup::new(target, family, true, 0.0, []);
        };
        let near = net.table.closest(now, &target, 2 * BUCKET_SIZE, false);
        let known = near.iter().map(|node| (Some(node.id), node.addr));
        let is_poor = near.len() < BUCKET_SIZE;
        let begin = net.begin.iter().copied().filter(|_| is_poor);
        let radius = net.size.map_or(0.0, |size| BUCKET_SIZE as f64 / size);
        Lookup::new(
            target,
            family,
            self.config.checks_ids,
            radius,
            known.chain(begin),
        )
    }

    /// Takes every order as far as it goes now.
    pub(crate) fn advance(&mut self, now: Instant) {
        let ids: Vec<OperationId> = self.operations.keys().copied().collect();
        for id in ids {
            let Some(mut operation) = self.operations.remove(&id) else {
                continue;
            };
            if self.step(now, id, &mut operation) {
                self.operations.insert(id, operation);
            } else {
                self.end(now, id, operation);
            }
        }
    }

    /// `false` if the order has ended.
    fn step(&mut self, now: Instant, id: OperationId, operation: &mut Operation) -> bool {
        let is_late = now >= operation.deadline;
        if matches!(operation.order, Order::Ping { .. }) {
            return operation.pong.is_none() && !is_late;
        }
        if !operation.is_storing {
            for family in Family::ALL {
                self.step_lookup(now, id, operation, family);
            }
            self.give_up_waiting(operation);
            if !operation.has_looked() && !is_late {
                return true;
            }
            if !self.begin_store(now, operation) {
                return false;
            }
        } else if is_late {
            operation.stored.silent += operation.storing + operation.to_store.len();
            return false;
        }
        while let Some(node) = operation.to_store.pop() {
            let token = node.token.as_deref().unwrap_or_default();
            let Some(query) = operation.store_query(token, node.seq) else {
                return false;
            };
            if !self.query(now, node.contact.addr, &query, Purpose::Store(id)) {
                operation.to_store.push(node);
                break;
            }
            operation.storing += 1;
            operation.deadline = now + STORE_DEADLINE;
        }
        operation.storing > 0 || !operation.to_store.is_empty()
    }

    fn step_lookup(
        &mut self,
        now: Instant,
        id: OperationId,
        operation: &mut Operation,
        family: Family,
    ) {
        let mut query = operation.order.query(operation.target);
        if let (Wish::Table(_), Query::FindNode { want, .. }) = (operation.wish, &mut query) {
            // BEP 32, "Bootstrapping": until both tables are filled each helps the other.
            *want = self.nets.iter().all(Option::is_some).then_some(Want::BOTH);
            if self.nets.iter().flatten().all(|net| net.is_ready) {
                *want = None;
            }
        }
        let Stage::Running(lookup) = &mut operation.stages[family.index()] else {
            return;
        };
        while let Some(addr) = lookup.poll_query() {
            if !self.net(family).is_some_and(|net| net.reaches(addr)) {
                lookup.handle_failure(addr);
            } else if !self.query(now, addr, &query, Purpose::Lookup(id)) {
                lookup.take_back(addr);
                return;
            }
        }
        if !lookup.is_done() {
            return;
        }
        if let Some(size) = lookup.size_estimate()
            && let Some(net) = &mut self.nets[family.index()]
        {
            net.size = Some(
                net.size
                    .map_or(size, |old| old + (size - old) / SIZE_MEMORY),
            );
        }
        let stage = std::mem::replace(&mut operation.stages[family.index()], Stage::Absent);
        if let Stage::Running(lookup) = stage {
            operation.stages[family.index()] = Stage::Done(lookup);
        }
    }

    /// A family where nobody is found does not hold up the other.
    fn give_up_waiting(&self, operation: &mut Operation) {
        let has_other = operation
            .stages
            .iter()
            .any(|stage| matches!(stage, Stage::Done(_)));
        for family in Family::ALL {
            let stage = &mut operation.stages[family.index()];
            let is_idle = self.net(family).is_none_or(|net| net.filling.is_none());
            if has_other && is_idle && matches!(stage, Stage::Waiting) {
                *stage = Stage::Absent;
            }
        }
    }

    /// The lookups are over: `true` if there is something to store.
    fn begin_store(&mut self, now: Instant, operation: &mut Operation) -> bool {
        if !matches!(operation.order, Order::Announce(_) | Order::Put { .. }) {
            return false;
        }
        operation.is_storing = true;
        operation.deadline = now + STORE_DEADLINE;
        operation.sign();
        let nodes: Vec<_> = operation.lookups().flat_map(Lookup::store_set).collect();
        // Taken from the end: the nearest first.
        operation.to_store = nodes.into_iter().rev().collect();
        !operation.to_store.is_empty()
    }

    fn end(&mut self, now: Instant, id: OperationId, operation: Operation) {
        match operation.wish {
            Wish::User => {
                let outcome = operation.outcome();
                self.tell(DhtEvent::Ended {
                    operation: id,
                    outcome,
                });
            }
            Wish::Table(family) => self.on_filled(now, family),
            Wish::Kept => {}
            Wish::Discovery => self.on_discovered(now, &operation),
        }
    }

    /// Starts the orders that have waited for a table.
    pub(crate) fn start_waiting(&mut self, now: Instant, family: Family) {
        let ids: Vec<OperationId> = self.operations.keys().copied().collect();
        for id in ids {
            let Some(target) = self.operations.get(&id).map(|operation| operation.target) else {
                continue;
            };
            let lookup = self.lookup(now, target, family);
            if let Some(operation) = self.operations.get_mut(&id)
                && matches!(operation.stages[family.index()], Stage::Waiting)
            {
                operation.stages[family.index()] = Stage::Running(lookup);
            }
        }
    }

    pub(crate) fn on_answer(
        &mut self,
        now: Instant,
        from: Contact,
        pending: Pending,
        response: &Response<'_>,
    ) {
        let family = Family::of(from.addr);
        match pending.purpose {
            Purpose::Lookup(id) => {
                self.learn_begin(now, family, response);
                let Some(mut operation) = self.operations.remove(&id) else {
                    return;
                };
                let asked = match &mut operation.stages[family.index()] {
                    Stage::Running(lookup) | Stage::Done(lookup) => {
                        let nodes = response.contacts(family);
                        lookup.handle_answer(from, nodes, response.token, response.seq)
                    }
                    Stage::Waiting | Stage::Absent => false,
                };
                let found = if asked {
                    operation.learn(response)
                } else {
                    Vec::new()
                };
                self.tell_found(id, operation.wish, found);
                self.operations.insert(id, operation);
            }
            Purpose::Store(id) => {
                if let Some(operation) = self.operations.get_mut(&id) {
                    operation.storing -= 1;
                    operation.stored.stored += 1;
                }
            }
            Purpose::Ping(id) => {
                if let Some(operation) = self.operations.get_mut(&id) {
                    operation.pong = Some((from.id, now.saturating_duration_since(pending.sent)));
                }
            }
            Purpose::Check => {
                self.consider(now, family, response);
                self.on_check(now, family);
            }
            Purpose::Myself => {}
        }
    }

    pub(crate) fn on_refusal(&mut self, _: Instant, pending: Pending, code: i64) {
        match pending.purpose {
            Purpose::Lookup(id) => self.with_lookup(id, pending.to, Lookup::handle_failure),
            Purpose::Store(id) => {
                if let Some(operation) = self.operations.get_mut(&id) {
                    operation.storing -= 1;
                    *operation.stored.rejected.entry(code).or_default() += 1;
                }
            }
            Purpose::Ping(_) | Purpose::Check | Purpose::Myself => {}
        }
    }

    pub(crate) fn on_slow(&mut self, pending: Pending) {
        if let Purpose::Lookup(id) = pending.purpose {
            self.with_lookup(id, pending.to, Lookup::handle_slow);
        }
    }

    pub(crate) fn on_silence(&mut self, _: Instant, pending: Pending) {
        if let Purpose::Lookup(id) = pending.purpose {
            self.with_lookup(id, pending.to, Lookup::handle_failure);
        }
    }

    fn with_lookup(
        &mut self,
        id: OperationId,
        addr: SocketAddr,
        act: impl FnOnce(&mut Lookup, SocketAddr),
    ) {
        let stages = self
            .operations
            .get_mut(&id)
            .map(|operation| &mut operation.stages);
        if let Some(stages) = stages
            && let Stage::Running(lookup) | Stage::Done(lookup) =
                &mut stages[Family::of(addr).index()]
        {
            act(lookup, addr);
        }
    }

    /// What others have stored with us counts as well.
    pub(crate) fn ask_myself(&mut self, now: Instant, id: OperationId, operation: &mut Operation) {
        match &operation.order {
            Order::FindPeers { info_hash }
            | Order::Announce(super::operation::Announcement { info_hash, .. }) => {
                let mut peers = Vec::new();
                for family in Family::ALL {
                    let found = self.storage.peers(
                        now,
                        info_hash,
                        family,
                        false,
                        super::operation::FOUND_MAX,
                        &mut self.dice,
                    );
                    peers.extend(
                        found
                            .iter()
                            .filter_map(|peer| super::address::read_compact(peer)),
                    );
                }
                let found = operation.found_new(peers.into_iter());
                self.tell_found(id, operation.wish, found);
            }
            Order::Get { target, .. } => operation.item = self.storage.whole_item(now, target),
            _ => {}
        }
    }

    fn tell_found(&mut self, operation: OperationId, wish: Wish, peers: Vec<SocketAddr>) {
        if peers.is_empty() {
            return;
        }
        match wish {
            Wish::User => self.tell(DhtEvent::Found { operation, peers }),
            Wish::Discovery => self.tell(DhtEvent::Discovered(peers)),
            Wish::Table(_) | Wish::Kept => {}
        }
    }
}
