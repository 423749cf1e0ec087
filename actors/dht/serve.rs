//! Answering the queries of others.

use mischief_reactor::Instant;

use super::address::{Contact, Family, is_local, write_node};
use super::bencode::Writer;
use super::config::Role;
use super::limits::HEADER_BYTES;
use super::machine::{Dht, DhtEvent};
use super::message::{self, Query, Response, Signed, Want, code};
use super::node_id::{ID_BYTES, NodeId};
use super::routing::BUCKET_SIZE;

use std::net::SocketAddr;
use std::time::Duration;

/// No answer is longer (BEP 32), but for one with an item that is longer by itself: the item then goes without nodes.
pub const ANSWER_BYTES_MAX: usize = 1024;

/// Peers in one answer.
pub const VALUES_MAX: usize = 100;

/// Info hashes in one answer (BEP 51).
pub const SAMPLES_PER_ANSWER_MAX: usize = 20;

/// How long the same sample is given when there are more info hashes than fit (BEP 51).
pub const SAMPLE_INTERVAL: Duration = Duration::from_secs(21_600);

/// The longest words of an error.
const NO_ROOM: (i64, &str) = (code::PROTOCOL, "invalid token");

/// Compact nodes of both families.
#[derive(Default)]
struct Nodes {
    v4: Option<Vec<u8>>,
    v6: Option<Vec<u8>>,
}

impl Dht {
    pub(crate) fn on_query(
        &mut self,
        now: Instant,
        from: Contact,
        read_only: bool,
        transaction: &[u8],
        query: &Query<'_>,
    ) {
        let family = Family::of(from.addr);
        if self.is_own_ping(transaction) {
            return self.set_server(now, family, true);
        }
        let Some(net) = self.net(family) else { return };
        if from.id == net.table.own() {
            // Somebody else with our id, or an echo of ours.
            self.stats.dropped_invalid += 1;
            return;
        }
        if net.is_stranger(from.addr) {
            self.set_server(now, family, true);
        }
        // BEP 43: whoever is not reached does not answer either.
        if !self.net(family).is_some_and(|net| net.is_server) {
            return;
        }
        self.answer_query(now, from, transaction, query);
        // A node that asks is worth a look: it has a place if it answers.
        if !read_only {
            self.consider_node(now, from);
        }
    }

    /// What is known about whether others reach us has changed.
    pub(crate) fn set_server(&mut self, now: Instant, family: Family, is_server: bool) {
        if self.config.role != Role::Auto {
            return;
        }
        let Some(net) = &mut self.nets[family.index()] else {
            return;
        };
        if is_server {
            net.confirmed = now;
        }
        if std::mem::replace(&mut net.is_server, is_server) != is_server {
            self.tell(DhtEvent::Server { family, is_server });
        }
    }

    fn answer_query(&mut self, now: Instant, from: Contact, transaction: &[u8], query: &Query<'_>) {
        let addr = from.addr;
        match query {
            Query::Ping => self.respond(now, addr, transaction, Response::default()),
            Query::FindNode { target, want } => {
                let nodes = self.nodes_near(now, addr, target, *want);
                self.respond_with_nodes(now, addr, transaction, &nodes, Response::default());
            }
            Query::GetPeers {
                info_hash,
                want,
                noseed,
                scrape,
            } => {
                self.answer_get_peers(now, addr, transaction, info_hash, *want, *noseed, *scrape);
            }
            Query::AnnouncePeer {
                info_hash,
                port,
                implied_port,
                seed,
                token,
            } => {
                let peer = match implied_port {
                    true => addr,
                    false => SocketAddr::new(addr.ip(), *port),
                };
                if !self
                    .tokens
                    .is_valid(now, addr, info_hash, token, &mut self.dice)
                {
                    return self.refuse(now, addr, transaction, NO_ROOM.0, NO_ROOM.1);
                }
                let own = self.own(Family::of(addr));
                match self.storage.announce(now, &own, *info_hash, peer, *seed) {
                    Ok(()) => {
                        self.on_stored(info_hash, peer);
                        self.respond(now, addr, transaction, Response::default());
                    }
                    Err((code, text)) => self.refuse(now, addr, transaction, code, text),
                }
            }
            Query::Get { target, seq, want } => {
                self.answer_get(now, addr, transaction, target, *seq, *want)
            }
            Query::Put {
                token,
                value,
                signed,
            } => {
                self.answer_put(now, addr, transaction, token, value, signed.as_ref());
            }
            Query::SampleInfohashes { target, want } => {
                let nodes = self.nodes_near(now, addr, target, *want);
                let samples = self.sample(now);
                let response = Response {
                    samples: Some(&samples),
                    num: Some(self.storage.counts().0 as i64),
                    interval: Some(SAMPLE_INTERVAL.as_secs() as i64),
                    ..Response::default()
                };
                self.respond_with_nodes(now, addr, transaction, &nodes, response);
            }
        }
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of one query")]
    fn answer_get_peers(
        &mut self,
        now: Instant,
        to: SocketAddr,
        transaction: &[u8],
        info_hash: &NodeId,
        want: Option<Want>,
        noseed: bool,
        scrape: bool,
    ) {
        let family = Family::of(to);
        let mut nodes = self.nodes_near(now, to, info_hash, want);
        let token = self
            .storage
            .has_room(info_hash)
            .then(|| self.tokens.make(now, to, info_hash, &mut self.dice));
        let filters = scrape.then(|| self.storage.scrape(info_hash)).flatten();
        if filters.is_some() {
            // BEP 33: with the filters there is room for the mandatory nodes only.
            match family {
                Family::V4 => nodes.v6 = None,
                Family::V6 => nodes.v4 = None,
            }
        }
        let own = self.own(family);
        let mut response = Response {
            id: own,
            nodes: nodes.v4.as_deref(),
            nodes6: nodes.v6.as_deref(),
            token: token.as_ref().map(|token| &token[..]),
            bloom_seeds: filters.as_ref().map(|(seeds, _)| &seeds.0),
            bloom_peers: filters.as_ref().map(|(_, peers)| &peers.0),
            ..Response::default()
        };
        let base = message::encode_response(transaction, to, &response);
        // "6:valuesl" and "e", and for each the bytes with their length before them.
        let each = family.compact_bytes() + if family == Family::V4 { 2 } else { 3 };
        let room = ANSWER_BYTES_MAX.saturating_sub(base.len() + 10) / each;
        let values = self.storage.peers(
            now,
            info_hash,
            family,
            noseed,
            room.min(VALUES_MAX),
            &mut self.dice,
        );
        if values.is_empty() {
            return self.answer(now, to, base);
        }
        let mut list = Writer::new();
        list.list();
        for value in &values {
            list.bytes(value);
        }
        list.end();
        let list = list.finish();
        response.values = Some(&list);
        let data = message::encode_response(transaction, to, &response);
        self.answer(now, to, data);
    }

    fn answer_get(
        &mut self,
        now: Instant,
        to: SocketAddr,
        transaction: &[u8],
        target: &NodeId,
        seq: Option<i64>,
        want: Option<Want>,
    ) {
        let mut nodes = self.nodes_near(now, to, target, want);
        let token = self.tokens.make(now, to, target, &mut self.dice);
        let item = self.storage.whole_item(now, target);
        let mut response = Response {
            id: self.own(Family::of(to)),
            token: Some(&token),
            ..Response::default()
        };
        if let Some(item) = &item {
            response.seq = item.signature.as_ref().map(|signed| signed.seq);
            // BEP 44: who has as new a value is only told so.
            let is_known = response
                .seq
                .zip(seq)
                .is_some_and(|(stored, known)| stored <= known);
            if !is_known {
                response.value = Some(&item.value);
                response.key = item.signature.as_ref().map(|signed| &signed.key);
                response.signature = item.signature.as_ref().map(|signed| &signed.signature);
            }
        }
        let base = message::encode_response(transaction, to, &response);
        let mut room = ANSWER_BYTES_MAX.saturating_sub(base.len());
        let own_first = [(Family::of(to), true), (other(Family::of(to)), false)];
        for (family, _) in own_first {
            let list = match family {
                Family::V4 => &mut nodes.v4,
                Family::V6 => &mut nodes.v6,
            };
            if let Some(bytes) = list {
                // "6:nodes6" and the length before the bytes.
                let count = room.saturating_sub(12) / family.node_bytes();
                bytes.truncate(count * family.node_bytes());
                room = room.saturating_sub(12 + bytes.len());
                if bytes.is_empty() {
                    *list = None;
                }
            }
        }
        response.nodes = nodes.v4.as_deref();
        response.nodes6 = nodes.v6.as_deref();
        let data = message::encode_response(transaction, to, &response);
        self.answer(now, to, data);
    }

    fn answer_put(
        &mut self,
        now: Instant,
        from: SocketAddr,
        transaction: &[u8],
        token: &[u8],
        value: &[u8],
        signed: Option<&Signed<'_>>,
    ) {
        let target = match signed {
            Some(signed) => super::item::mutable_target(signed.key, signed.salt),
            None => super::item::immutable_target(value),
        };
        let salt = signed.map_or(&[][..], |signed| signed.salt);
        // Sizes come first, so that who sends too much learns of it, and the token before a signature is computed.
        let is_small = super::item::check(value, salt).is_ok();
        if is_small
            && !self
                .tokens
                .is_valid(now, from, &target, token, &mut self.dice)
        {
            return self.refuse(now, from, transaction, NO_ROOM.0, NO_ROOM.1);
        }
        let own = self.own(Family::of(from));
        match self.storage.put(now, &own, value, signed) {
            Ok(()) => self.respond(now, from, transaction, Response::default()),
            Err((code, text)) => self.refuse(now, from, transaction, code, text),
        }
    }

    /// The nodes that we name to somebody: good ones, none of our local network to a stranger.
    fn nodes_near(
        &self,
        now: Instant,
        to: SocketAddr,
        target: &NodeId,
        want: Option<Want>,
    ) -> Nodes {
        let want = want.unwrap_or(match Family::of(to) {
            Family::V4 => Want {
                v4: true,
                v6: false,
            },
            Family::V6 => Want {
                v4: false,
                v6: true,
            },
        });
        let compact = |family: Family| {
            let mut bytes = Vec::with_capacity(BUCKET_SIZE * family.node_bytes());
            if let Some(net) = self.net(family) {
                let near = net.table.closest(now, target, BUCKET_SIZE + 1, true);
                let told = near.iter().filter(|node| {
                    node.addr != to && (is_local(to.ip()) || !is_local(node.addr.ip()))
                });
                for node in told.take(BUCKET_SIZE) {
                    write_node(node, &mut bytes);
                }
            }
            bytes
        };
        Nodes {
            v4: want.v4.then(|| compact(Family::V4)),
            v6: want.v6.then(|| compact(Family::V6)),
        }
    }

    fn sample(&mut self, now: Instant) -> Vec<u8> {
        let count = self.storage.counts().0;
        let is_old = now >= self.samples.0;
        if count <= SAMPLES_PER_ANSWER_MAX || is_old || self.samples.1.is_empty() {
            let fresh = self.storage.sample(SAMPLES_PER_ANSWER_MAX, &mut self.dice);
            self.samples = (now + SAMPLE_INTERVAL, fresh);
        }
        let mut bytes = Vec::with_capacity(self.samples.1.len() * ID_BYTES);
        for sample in &self.samples.1 {
            bytes.extend_from_slice(&sample.0);
        }
        bytes
    }

    fn own(&self, family: Family) -> NodeId {
        self.net(family)
            .map(|net| net.table.own())
            .unwrap_or_default()
    }

    fn respond(
        &mut self,
        now: Instant,
        to: SocketAddr,
        transaction: &[u8],
        response: Response<'_>,
    ) {
        self.respond_with_nodes(now, to, transaction, &Nodes::default(), response);
    }

    fn respond_with_nodes(
        &mut self,
        now: Instant,
        to: SocketAddr,
        transaction: &[u8],
        nodes: &Nodes,
        response: Response<'_>,
    ) {
        let mut response = Response {
            id: self.own(Family::of(to)),
            nodes: nodes.v4.as_deref(),
            nodes6: nodes.v6.as_deref(),
            ..response
        };
        let mut data = message::encode_response(transaction, to, &response);
        if data.len() > ANSWER_BYTES_MAX {
            match Family::of(to) {
                Family::V4 => response.nodes6 = None,
                Family::V6 => response.nodes = None,
            }
            data = message::encode_response(transaction, to, &response);
        }
        self.answer(now, to, data);
    }

    /// Refuses a query.
    pub(crate) fn refuse(
        &mut self,
        now: Instant,
        to: SocketAddr,
        transaction: &[u8],
        code: i64,
        text: &str,
    ) {
        if self.net(Family::of(to)).is_some_and(|net| net.is_server) {
            let data = message::encode_error(transaction, to, code, text);
            self.answer(now, to, data);
        }
    }

    /// Answers leave a third of the quota to our own queries, so that a flood does not end our lookups.
    fn answer(&mut self, now: Instant, to: SocketAddr, data: Vec<u8>) {
        if !self.quota.has(now, data.len() + HEADER_BYTES, 1) {
            self.stats.dropped_quota += 1;
            return;
        }
        self.stats.answered += 1;
        self.send(now, to, data);
    }
}

fn other(family: Family) -> Family {
    match family {
        Family::V4 => Family::V6,
        Family::V6 => Family::V4,
    }
}
