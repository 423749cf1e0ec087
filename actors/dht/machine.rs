//! The whole machine: what goes in and what comes out. How queries of others are answered is in `serve.rs`, how the table is
//! kept in `upkeep.rs`, how orders go on in `progress.rs`.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mischief_reactor::{Instant, Random};

use super::address::{Contact, Family, is_usable};
use super::config::{DhtConfig, Role};
use super::dice::Dice;
use super::error::OrderError;
use super::limits::{Callers, HEADER_BYTES, Quota};
use super::message::{self, Body, DATAGRAM_BYTES_MIN, Message, MessageError, Query};
use super::net::Net;
use super::node_id::NodeId;
use super::operation::{
    Announcement, OPERATION_DEADLINE, OPERATIONS_MAX, Operation, OperationId, Order, Outcome,
    Stage, Wish,
};
use super::routing::Standing;
use super::saved::Saved;
use super::storage::Storage;
use super::token::Tokens;

/// Queries that wait for an answer. More are not sent.
pub const PENDING_MAX: usize = 256;

/// After this a lookup no longer waits for an answer, but still takes it.
pub const SLOW_AFTER: Duration = Duration::from_secs(1);

/// After this an answer is not taken any more, and its node has failed.
pub const REPLY_DEADLINE: Duration = Duration::from_secs(10);

/// How often the table, the store and the role are looked after.
pub const UPKEEP_INTERVAL: Duration = Duration::from_secs(20);

/// Announcements that are repeated.
pub const KEPT_MAX: usize = 64;

/// How often they are repeated.
pub const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(15 * 60);

/// Finds and other facts that nobody has taken yet; further finds are dropped and counted.
pub const EVENTS_MAX: usize = 1024;

/// A datagram to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Where to; the socket is the one of its family.
    pub to: SocketAddr,
    /// What.
    pub data: Vec<u8>,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum DhtEvent {
    /// The first lookup of our own id has ended, and there are nodes.
    Ready {
        /// How many.
        nodes: usize,
    },
    /// An order has found peers that it had not found before.
    Found {
        /// The order.
        operation: OperationId,
        /// The peers.
        peers: Vec<SocketAddr>,
    },
    /// An order has ended.
    Ended {
        /// The order.
        operation: OperationId,
        /// What has come of it.
        outcome: Outcome,
    },
    /// Discovery has found addresses that may be of our own kind.
    Discovered(Vec<SocketAddr>),
    /// Nobody is known any more who could help to begin: the names of the public routers are wanted.
    NeedRouters,
    /// Others see us at this address.
    ExternalAddress(IpAddr),
    /// Whether we answer others in this family has changed.
    Server {
        /// The family.
        family: Family,
        /// Whether we do.
        is_server: bool,
    },
}

/// Counters and sizes.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Stats {
    /// Nodes in the tables that are good, by family.
    pub good: [usize; 2],
    /// Nodes in the tables that are questionable.
    pub questionable: [usize; 2],
    /// Nodes that wait for a place.
    pub replacements: [usize; 2],
    /// Our ids.
    pub ids: [Option<NodeId>; 2],
    /// Our addresses, as others see them.
    pub external: [Option<IpAddr>; 2],
    /// Whether we answer others.
    pub is_server: [bool; 2],
    /// About how many nodes there are in the whole network.
    pub network_size: [Option<u64>; 2],
    /// Whether the first lookup of our own id has ended with nodes.
    pub is_ready: bool,
    /// Bytes received, with headers.
    pub bytes_in: u64,
    /// Bytes sent, with headers.
    pub bytes_out: u64,
    /// Datagrams received.
    pub packets_in: u64,
    /// Datagrams sent.
    pub packets_out: u64,
    /// Queries of others that were answered.
    pub answered: u64,
    /// Datagrams dropped: no message, from impossible addresses, replies that nobody waits for.
    pub dropped_invalid: u64,
    /// Datagrams dropped because their senders send too much.
    pub dropped_flood: u64,
    /// Queries not answered because the quota was used up.
    pub dropped_quota: u64,
    /// Finds that nobody took in time.
    pub finds_dropped: u64,
    /// Queries of ours that were steps of lookups.
    pub lookup_queries: u64,
    /// Queries of ours that were not answered.
    pub unanswered: u64,
    /// Info hashes stored for others.
    pub stored_hashes: usize,
    /// Peers stored for others.
    pub stored_peers: usize,
    /// Items stored for others.
    pub stored_items: usize,
    /// Orders being carried out.
    pub operations: usize,
}

/// For what a query was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A step of a lookup.
    Lookup(OperationId),
    /// Storing something at the end of one.
    Store(OperationId),
    /// An order to ping.
    Ping(OperationId),
    /// To see whether a node is there.
    Check,
    /// To see whether we are reached.
    Myself,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Pending {
    pub(crate) to: SocketAddr,
    pub(crate) purpose: Purpose,
    pub(crate) sent: Instant,
    is_slow: bool,
}

/// An announcement that is repeated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kept {
    pub(crate) announcement: Announcement,
    pub(crate) due: Instant,
}

/// A node of the Mainline DHT. See the [module](super).
pub struct Dht {
    pub(crate) config: DhtConfig,
    pub(crate) dice: Dice,
    pub(crate) nets: [Option<Net>; 2],
    pub(crate) tokens: Tokens,
    pub(crate) storage: Storage,
    pub(crate) quota: Quota,
    callers: Callers,
    pending: BTreeMap<u32, Pending>,
    /// Of each address that an answer is awaited from, how many.
    awaited: BTreeMap<SocketAddr, u16>,
    slow_at: VecDeque<(Instant, u32)>,
    fails_at: VecDeque<(Instant, u32)>,
    pub(crate) operations: BTreeMap<OperationId, Operation>,
    next_operation: u32,
    pub(crate) blocked_until: Option<Instant>,
    transmits: VecDeque<Packet>,
    events: VecDeque<DhtEvent>,
    pub(crate) upkeep_at: Option<Instant>,
    pub(crate) kept: Vec<Kept>,
    pub(crate) discovery: Option<super::upkeep::Discovery>,
    pub(crate) samples: (Instant, Vec<NodeId>),
    pub(crate) stats: Stats,
    pub(crate) was_ready: bool,
    pub(crate) routers_asked: Option<Instant>,
    pub(crate) checks_left: u32,
    pub(crate) near_checks_left: u32,
    pub(crate) rounds: u64,
}

impl Dht {
    /// A node without sockets, whose randomness follows from `seed`.
    pub fn new(now: Instant, config: DhtConfig, seed: &[u8; 32]) -> Dht {
        let mut dice = Dice::new(seed);
        let mut secret = [0; 32];
        dice.fill(&mut secret);
        Dht {
            config,
            tokens: Tokens::new(now, &mut dice),
            storage: Storage::new(config.storage),
            quota: Quota::new(now, config.upload_rate),
            callers: Callers::new(&secret),
            dice,
            nets: [None, None],
            pending: BTreeMap::new(),
            awaited: BTreeMap::new(),
            slow_at: VecDeque::new(),
            fails_at: VecDeque::new(),
            operations: BTreeMap::new(),
            next_operation: 0,
            blocked_until: None,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            upkeep_at: None,
            kept: Vec::new(),
            discovery: None,
            samples: (Instant::ZERO, Vec::new()),
            stats: Stats::default(),
            was_ready: false,
            routers_asked: None,
            checks_left: super::upkeep::NEWCOMERS_PER_ROUND_MAX,
            near_checks_left: super::upkeep::NEIGHBOURS_PER_ROUND_MAX,
            rounds: 0,
        }
    }

    /// A socket of a family is open, at this address of ours (which may be the unspecified one).
    pub fn open(&mut self, now: Instant, local: SocketAddr) {
        let net = Net::new(
            now,
            local,
            self.config.role,
            self.config.checks_ids,
            &mut self.dice,
        );
        self.nets[Family::of(local).index()] = Some(net);
        self.upkeep_at.get_or_insert(now + UPKEEP_INTERVAL);
    }

    /// What an earlier run has saved. To be given after [`Dht::open`] and before [`Dht::begin`].
    pub fn restore(&mut self, saved: &Saved) {
        for family in Family::ALL {
            let Some(net) = &mut self.nets[family.index()] else {
                continue;
            };
            if let Some(id) = saved.ids[family.index()] {
                net.table.set_own(id);
            }
            for node in &saved.nodes[family.index()] {
                net.add_begin(Some(node.id), node.addr);
            }
        }
    }

    /// Addresses of nodes to begin at: given ones, or those of routers.
    pub fn handle_contacts(&mut self, now: Instant, addrs: impl IntoIterator<Item = SocketAddr>) {
        for addr in addrs {
            if let Some(net) = &mut self.nets[Family::of(addr).index()] {
                net.add_begin(None, addr);
            }
        }
        for family in Family::ALL {
            let is_hungry =
                |net: &Net| !net.is_ready && net.filling.is_none() && !net.begin.is_empty();
            if self.nets[family.index()].as_ref().is_some_and(is_hungry) {
                self.fill(now, family);
            }
        }
        self.advance(now);
    }

    /// Begins to fill the tables.
    pub fn begin(&mut self, now: Instant) {
        for family in Family::ALL {
            if self.nets[family.index()].is_some() {
                self.fill(now, family);
            }
        }
        self.advance(now);
    }

    /// Carries out an order within `deadline`. It ends with a [`DhtEvent::Ended`], always.
    pub fn handle_order(
        &mut self,
        now: Instant,
        order: Order,
        deadline: Option<Duration>,
    ) -> Result<OperationId, OrderError> {
        order.check()?;
        let users = self
            .operations
            .values()
            .filter(|operation| operation.wish == Wish::User);
        if users.count() >= OPERATIONS_MAX {
            return Err(OrderError::Busy);
        }
        let has_socket = match order {
            Order::Ping { addr } => self
                .net(Family::of(addr))
                .is_some_and(|net| net.reaches(addr)),
            _ => self.nets.iter().any(Option::is_some),
        };
        if !has_socket {
            return Err(OrderError::NoSocket);
        }
        let deadline = now + deadline.unwrap_or(OPERATION_DEADLINE);
        let id = self.start(now, order, Wish::User, deadline);
        self.advance(now);
        Ok(id)
    }

    /// Ends an order early.
    pub fn handle_cancel(&mut self, operation: OperationId) {
        if self.operations.remove(&operation).is_some() {
            self.tell(DhtEvent::Ended {
                operation,
                outcome: Outcome::Cancelled,
            });
        }
    }

    /// Repeats an announcement every 15 minutes, beginning with the next interval. The oldest gives way to more than
    /// [`KEPT_MAX`].
    pub fn keep_announcing(&mut self, now: Instant, announcement: Announcement) {
        self.stop_announcing(&announcement.info_hash);
        if self.kept.len() == KEPT_MAX {
            self.kept.remove(0);
        }
        self.kept.push(Kept {
            announcement,
            due: now + ANNOUNCE_INTERVAL,
        });
    }

    /// Repeats it no longer.
    pub fn stop_announcing(&mut self, info_hash: &NodeId) {
        self.kept
            .retain(|kept| kept.announcement.info_hash != *info_hash);
    }

    /// A datagram has come.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, data: &[u8]) {
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        self.stats.packets_in += 1;
        self.stats.bytes_in += (data.len() + HEADER_BYTES) as u64;
        if !is_usable(from)
            || data.len() < DATAGRAM_BYTES_MIN
            || self.net(Family::of(from)).is_none()
        {
            self.stats.dropped_invalid += 1;
            return;
        }
        if !self.awaited.contains_key(&from) {
            // A flood is turned away before it costs anything.
            if !self.quota.has(now, DATAGRAM_BYTES_MIN + HEADER_BYTES, 1) {
                self.stats.dropped_quota += 1;
                return;
            }
            if !self.callers.admit(now, from) {
                self.stats.dropped_flood += 1;
                return;
            }
        }
        match message::decode(data) {
            Ok(Message {
                transaction,
                body:
                    Body::Query {
                        id,
                        read_only,
                        query,
                    },
                ..
            }) => self.on_query(
                now,
                Contact { id, addr: from },
                read_only,
                transaction,
                &query,
            ),
            Ok(message) => self.on_reply(now, from, &message),
            Err(MessageError::BadQuery {
                transaction,
                code,
                text,
            }) => {
                self.refuse(now, from, transaction, code, text);
            }
            Err(_) => self.stats.dropped_invalid += 1,
        }
    }

    fn on_reply(&mut self, now: Instant, from: SocketAddr, message: &Message<'_>) {
        let transaction = <[u8; 4]>::try_from(message.transaction).map(u32::from_be_bytes);
        // Only from the address that was asked, port included: whoever guesses a number must sit there, too.
        let pending = transaction.ok().and_then(|number| {
            let pending = self
                .pending
                .get(&number)
                .filter(|pending| pending.to == from)?;
            Some((number, *pending))
        });
        let Some((number, pending)) = pending else {
            self.stats.dropped_invalid += 1;
            return;
        };
        self.forget(number);
        if let Some(seen) = message.ip {
            self.on_vote(now, from, seen);
        }
        match &message.body {
            Body::Response(response) => {
                let contact = Contact {
                    id: response.id,
                    addr: from,
                };
                if let Some(net) = &mut self.nets[Family::of(from).index()] {
                    net.table.handle_answer(now, contact);
                }
                self.on_answer(now, contact, pending, response);
            }
            Body::Error { code, .. } => self.on_refusal(now, pending, *code),
            Body::Query { .. } => {}
        }
        self.advance(now);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((at, number)) = self.slow_at.front().copied().filter(|(at, _)| *at <= now) {
            self.slow_at.pop_front();
            if let Some(pending) = self.pending.get_mut(&number)
                && !pending.is_slow
                && pending.sent + SLOW_AFTER == at
            {
                pending.is_slow = true;
                let pending = *pending;
                self.on_slow(pending);
            }
        }
        while let Some((at, number)) = self.fails_at.front().copied().filter(|(at, _)| *at <= now) {
            self.fails_at.pop_front();
            let is_it = |pending: &&Pending| pending.sent + REPLY_DEADLINE == at;
            if let Some(pending) = self.pending.get(&number).filter(is_it).copied() {
                self.forget(number);
                self.stats.unanswered += 1;
                if pending.purpose != Purpose::Myself
                    && let Some(net) = &mut self.nets[Family::of(pending.to).index()]
                {
                    net.table.handle_failure(pending.to);
                }
                self.on_silence(now, pending);
            }
        }
        if self.blocked_until.is_some_and(|until| until <= now) {
            self.blocked_until = None;
        }
        self.upkeep(now);
        self.advance(now);
    }

    /// The machine slept, or is in another network: our address may be another, and nobody known may be there.
    pub fn handle_network_change(&mut self, now: Instant) {
        for family in Family::ALL {
            if let Some(net) = &mut self.nets[family.index()] {
                net.votes.reset(now);
                net.table.doubt_all();
                net.self_pinged = None;
                if net.filling.is_none() {
                    self.fill(now, family);
                }
            }
        }
        self.advance(now);
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Packet> {
        self.transmits.pop_front()
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<DhtEvent> {
        self.events.pop_front()
    }

    /// When [`Dht::handle_timeout`] is to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let slow = self.slow_at.front().map(|(at, _)| *at);
        let fails = self.fails_at.front().map(|(at, _)| *at);
        let orders = self
            .operations
            .values()
            .map(|operation| operation.deadline)
            .min();
        let idle = self
            .nets
            .iter()
            .flatten()
            .filter(|net| net.filling.is_none());
        let fills = idle.filter_map(|net| net.fill_at).min();
        let kept = self.kept.iter().map(|kept| kept.due).min();
        let discovery = self.discovery.as_ref().and_then(|discovery| discovery.due);
        [
            slow,
            fails,
            orders,
            fills,
            kept,
            discovery,
            self.blocked_until,
            self.upkeep_at,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Counters and sizes.
    pub fn stats(&self, now: Instant) -> Stats {
        let mut stats = self.stats.clone();
        for net in self.nets.iter().flatten() {
            let at = net.family.index();
            stats.good[at] = net.table.count(now, Standing::Good);
            stats.questionable[at] = net.table.count(now, Standing::Questionable);
            stats.replacements[at] = net.table.replacements();
            stats.ids[at] = Some(net.table.own());
            stats.external[at] = net.votes.decided();
            stats.is_server[at] = net.is_server;
            stats.network_size[at] = net.size.map(|size| size as u64);
        }
        (stats.stored_hashes, stats.stored_peers, stats.stored_items) = self.storage.counts();
        stats.operations = self.operations.len();
        stats.is_ready = self.was_ready;
        stats
    }

    /// All nodes in the tables, with their standing.
    pub fn nodes(&self, now: Instant) -> Vec<(Contact, Standing)> {
        self.nets
            .iter()
            .flatten()
            .flat_map(|net| net.table.standings(now))
            .collect()
    }

    /// What the next start should know.
    pub fn save(&self, now: Instant) -> Saved {
        let mut saved = Saved::default();
        for net in self.nets.iter().flatten() {
            let at = net.family.index();
            saved.ids[at] = Some(net.table.own());
            // The nearest are the hardest to find again, and a spread over all buckets comes with them.
            let nodes =
                net.table
                    .closest(now, &net.table.own(), super::saved::SAVED_NODES_MAX, false);
            saved.nodes[at] = nodes;
        }
        saved
    }

    /// Bytes of memory beside the value itself, about.
    pub fn heap_bytes(&self) -> usize {
        let nets: usize = self.nets.iter().flatten().map(Net::heap_bytes).sum();
        nets + self.storage.heap_bytes()
            + self.callers.heap_bytes()
            + self.pending.len() * size_of::<(u32, Pending)>()
            + self.operations.len() * size_of::<Operation>()
            + self.events.capacity() * size_of::<DhtEvent>()
            + self
                .transmits
                .iter()
                .map(|packet| packet.data.capacity())
                .sum::<usize>()
    }

    // ---- within

    pub(crate) fn net(&self, family: Family) -> Option<&Net> {
        self.nets[family.index()].as_ref()
    }

    pub(crate) fn tell(&mut self, event: DhtEvent) {
        let is_find = matches!(event, DhtEvent::Found { .. } | DhtEvent::Discovered(_));
        if is_find && self.events.len() >= EVENTS_MAX {
            self.stats.finds_dropped += 1;
            return;
        }
        self.events.push_back(event);
    }

    /// Takes an order that has been checked.
    pub(crate) fn start(
        &mut self,
        now: Instant,
        order: Order,
        wish: Wish,
        deadline: Instant,
    ) -> OperationId {
        self.next_operation = self.next_operation.wrapping_add(1);
        let id = OperationId(self.next_operation);
        let target = order.target().unwrap_or_default();
        let needs_lookup = order.target().is_some();
        let mut operation = Operation::new(order, wish, target, deadline);
        if let Order::Ping { addr } = operation.order {
            self.query(now, addr, &Query::Ping, Purpose::Ping(id));
        }
        for family in Family::ALL {
            let is_wanted = match wish {
                Wish::Table(only) => only == family,
                _ => true,
            };
            let Some(net) = self.net(family).filter(|_| needs_lookup && is_wanted) else {
                continue;
            };
            operation.stages[family.index()] = if net.is_ready || matches!(wish, Wish::Table(_)) {
                Stage::Running(self.lookup(now, target, family))
            } else {
                Stage::Waiting
            };
        }
        self.ask_myself(now, id, &mut operation);
        self.operations.insert(id, operation);
        id
    }

    /// Sends a query. `false` if it cannot be sent now.
    pub(crate) fn query(
        &mut self,
        now: Instant,
        to: SocketAddr,
        query: &Query<'_>,
        purpose: Purpose,
    ) -> bool {
        let is_role_client = self.config.role == Role::Client;
        let Some(net) = self.nets[Family::of(to).index()]
            .as_ref()
            .filter(|net| net.reaches(to))
        else {
            return false;
        };
        if self.pending.len() >= PENDING_MAX {
            return false;
        }
        let mut number = self.dice.u32();
        while self.pending.contains_key(&number) {
            number = self.dice.u32();
        }
        let read_only = is_role_client || !net.is_server;
        let data = message::encode_query(&number.to_be_bytes(), &net.table.own(), read_only, query);
        let bytes = data.len() + HEADER_BYTES;
        if !self.quota.has(now, bytes, 0) {
            self.blocked_until = Some(self.quota.ready_at(now, bytes));
            return false;
        }
        let pending = Pending {
            to,
            purpose,
            sent: now,
            is_slow: false,
        };
        self.pending.insert(number, pending);
        self.stats.lookup_queries += u64::from(matches!(purpose, Purpose::Lookup(_)));
        *self.awaited.entry(to).or_default() += 1;
        self.slow_at.push_back((now + SLOW_AFTER, number));
        self.fails_at.push_back((now + REPLY_DEADLINE, number));
        self.send(now, to, data);
        true
    }

    /// Sends a datagram that the quota has room for.
    pub(crate) fn send(&mut self, now: Instant, to: SocketAddr, data: Vec<u8>) {
        let bytes = data.len() + HEADER_BYTES;
        self.quota.take(bytes);
        self.stats.packets_out += 1;
        self.stats.bytes_out += bytes as u64;
        if let Some(net) = &mut self.nets[Family::of(to).index()] {
            net.note_sent(now, to);
        }
        self.transmits.push_back(Packet { to, data });
    }

    /// Whether this transaction is a ping of ours to ourselves.
    pub(crate) fn is_own_ping(&self, transaction: &[u8]) -> bool {
        let number = <[u8; 4]>::try_from(transaction).map(u32::from_be_bytes);
        let pending = number.ok().and_then(|number| self.pending.get(&number));
        pending.is_some_and(|pending| pending.purpose == Purpose::Myself)
    }

    /// Forgets a query. The queues of deadlines keep its number until its time has come.
    fn forget(&mut self, number: u32) {
        let Some(pending) = self.pending.remove(&number) else {
            return;
        };
        if let Some(count) = self.awaited.get_mut(&pending.to) {
            *count -= 1;
            if *count == 0 {
                self.awaited.remove(&pending.to);
            }
        }
    }
}
