//! Getting to know others: dialling peers from the book, asking connected ones whom they know, telling them, and learning under
//! which address this node is seen.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mischief_reactor::{Instant, WallTime};

use super::PeerId;
use super::book::Known;
use super::error::ConnectError;
use super::exchange::{EXCHANGE_INTERVAL, ExchangeMessage, RECORDS_PER_ANSWER_MAX};
use super::message::Direction;
use super::network::{Network, Purpose, SAVE_DELAY};
use super::notice::{Claims, Found, Notice};
use super::record::SignedRecord;
use super::subnet::{Group, Subnet, is_dialable, is_private, site_of};
use crate::connection::{Endpoint, RefusedReason};

/// Outbound peers of one group of addresses that are chosen from the book. Groups are cheap for nobody.
const PER_GROUP_MAX: usize = 2;
/// Of the peers that were chosen from the book, one part in so many at most is known from one group of tellers: who lies
/// is not to choose for us.
const PART_PER_SOURCE: u32 = 4;
/// Dials to addresses of one /24 or /48 that others have told of, within [`SITE_WINDOW`]. Who tells of a victim's addresses does
/// not make this node a weapon.
const PER_SITE_MAX: u32 = 2;
const SITE_WINDOW: Duration = Duration::from_secs(60);
/// Sites that are counted at a time. No more are dialled in a minute.
const SITES_MAX: usize = 256;
/// An address that was told of and where the peer was not is left alone for so long, whoever else is said to be there.
const AVOIDED_FOR: Duration = Duration::from_secs(3600);
/// Addresses that are left alone. Of more, the oldest is forgotten.
const AVOIDED_MAX: usize = 1024;
/// Ports below are other services', unless a node that is there says so itself.
const PORT_MIN: u16 = 1024;
/// Between two looks for a peer in the book while there are too few.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// The same when the book had nobody.
const LOOK_INTERVAL_IN_VAIN: Duration = Duration::from_secs(15);
/// Between two dials that only see whether somebody new is there.
const FEELER_INTERVAL: Duration = Duration::from_secs(120);
/// Between two questions while there are enough peers.
const CALM_ASK_INTERVAL: Duration = Duration::from_secs(1800);
/// How long a new peer is let alone before anybody is asked.
const FIRST_ASK_WITHIN: Duration = Duration::from_secs(2);

/// What is remembered of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Outreach {
    look_at: Option<Instant>,
    feel_at: Option<Instant>,
    ask_at: Option<Instant>,
    sites: BTreeMap<Subnet, (u32, Instant)>,
    avoided: BTreeMap<SocketAddr, Instant>,
    /// Where this node listens, with the addresses of its interfaces.
    listen: Vec<SocketAddr>,
    pub(super) own_record: Option<SignedRecord>,
    /// The number of the last own record, also of earlier runs.
    pub(super) sequence: u64,
}

impl Outreach {
    fn is_avoided(&self, now: Instant, addr: SocketAddr) -> bool {
        let avoided = self.avoided.get(&addr);
        avoided.is_some_and(|since| now.saturating_duration_since(*since) < AVOIDED_FOR)
    }

    fn avoid(&mut self, now: Instant, addr: SocketAddr) {
        self.avoided
            .retain(|_, since| now.saturating_duration_since(*since) < AVOIDED_FOR);
        if self.avoided.len() >= AVOIDED_MAX && !self.avoided.contains_key(&addr) {
            let oldest = self.avoided.iter().min_by_key(|(_, since)| **since);
            if let Some(oldest) = oldest.map(|(addr, _)| *addr) {
                self.avoided.remove(&oldest);
            }
        }
        self.avoided.insert(addr, now);
    }

    fn has_room_at_site(&self, now: Instant, ip: IpAddr) -> bool {
        if ip.is_loopback() {
            return true;
        }
        let is_running = |since: Instant| now.saturating_duration_since(since) < SITE_WINDOW;
        match self.sites.get(&site_of(ip)) {
            Some((count, since)) if is_running(*since) => *count < PER_SITE_MAX,
            Some(_) => true,
            None => {
                self.sites.len() < SITES_MAX || self.sites.values().any(|(_, at)| !is_running(*at))
            }
        }
    }

    fn count_site(&mut self, now: Instant, ip: IpAddr) {
        self.sites
            .retain(|_, (_, since)| now.saturating_duration_since(*since) < SITE_WINDOW);
        let (count, _) = self.sites.entry(site_of(ip)).or_insert((0, now));
        *count += 1;
    }
}

impl<C: Copy + Ord + Debug> Network<C> {
    /// This node listens there; the addresses of its interfaces stand for the unspecified ones. From now on it can tell others.
    pub fn handle_listening(&mut self, now: Instant, wall: WallTime, addrs: Vec<SocketAddr>) {
        self.outreach.listen = addrs;
        self.sign_own_record(wall);
        self.wake_outreach(now);
    }

    /// Something has changed that makes a look into the book worth while. A node that has what it needs, or knows nobody,
    /// looks no more until then.
    pub(super) fn wake_outreach(&mut self, now: Instant) {
        if self.settings.outbound_target == 0 || self.is_stopping || self.book.is_empty() {
            return;
        }
        if self.lacks_peers() {
            let at = now + self.chance.up_to(LOOK_INTERVAL);
            let earlier = self.outreach.look_at.filter(|other| *other < at);
            self.outreach.look_at = Some(earlier.unwrap_or(at));
        }
        if self.outreach.feel_at.is_none() {
            self.outreach.feel_at = Some(now + self.chance.up_to(FEELER_INTERVAL));
        }
    }

    /// Signs a new record if the addresses differ from those of the last.
    pub fn sign_own_record(&mut self, wall: WallTime) {
        if !self.settings.exchanges {
            return;
        }
        let listen = &self.outreach.listen;
        let public = |addr: &&SocketAddr| !is_private(addr.ip());
        let mut addrs: Vec<SocketAddr> = listen.iter().filter(public).copied().collect();
        for ip in self.observed.addrs() {
            let port = listen.iter().find(|addr| addr.is_ipv4() == ip.is_ipv4());
            addrs.extend(port.map(|addr| SocketAddr::new(ip, addr.port())));
        }
        addrs.extend(listen.iter().filter(|addr| !public(addr)));
        // Clocks may be wrong and go back; the number must not.
        let sequence = wall.as_unix_secs().max(self.outreach.sequence + 1);
        let Some(record) = SignedRecord::sign(&self.identity, sequence, addrs) else {
            return;
        };
        let is_same = |old: &SignedRecord| old.addrs() == record.addrs();
        if !self.outreach.own_record.as_ref().is_some_and(is_same) {
            self.outreach.sequence = sequence;
            self.outreach.own_record = Some(record);
        }
    }

    /// A peer says under which address it sees this node.
    pub(super) fn on_observed(&mut self, from: SocketAddr, seen: SocketAddr) {
        let Some(ip) = self.observed.vote(from.ip(), seen.ip()) else {
            return;
        };
        let port = self
            .outreach
            .listen
            .iter()
            .find(|addr| addr.is_ipv4() == ip.is_ipv4());
        if let Some(port) = port.map(SocketAddr::port) {
            let addr = SocketAddr::new(ip, port);
            self.notices.push_back(Notice::ExternalAddr { addr });
        }
    }

    /// A peer is connected: what that says about where it can be reached.
    pub(super) fn note_in_book(
        &mut self,
        now: Instant,
        id: PeerId,
        addr: SocketAddr,
        direction: Direction,
        claims: &Claims,
    ) {
        match direction {
            Direction::Outbound => {
                if let Some(endpoint) = self.dialable(&id, addr, direction) {
                    self.book.reach(now, id, endpoint);
                }
            }
            Direction::Inbound => {
                // The port of the socket is its own for this connection; the one that it listens on is in its hello.
                let same_family = |listen: &&SocketAddr| {
                    listen.ip().to_canonical().is_ipv4() == addr.ip().is_ipv4()
                };
                let listen = claims.listen.iter().find(same_family);
                let listen = listen.map(|listen| SocketAddr::new(addr.ip(), listen.port()));
                self.book
                    .meet(now, id, listen.filter(|listen| is_dialable(*listen)));
            }
        }
        self.wake_outreach(now);
        if self.settings.exchanges {
            self.ask_within(now, FIRST_ASK_WITHIN);
        }
    }

    fn ask_within(&mut self, now: Instant, within: Duration) {
        let at = now + self.chance.up_to(within);
        let earlier = self.outreach.ask_at.filter(|other| *other < at);
        self.outreach.ask_at = Some(earlier.unwrap_or(at));
    }

    /// The machine may be somewhere else now.
    pub(super) fn hurry_outreach(&mut self, now: Instant) {
        let timers = [&mut self.outreach.look_at, &mut self.outreach.ask_at];
        for at in timers.into_iter().flatten() {
            *at = (*at).min(now + LOOK_INTERVAL);
        }
    }

    /// When [`Network::reach_out`] has something to do.
    pub(super) fn outreach_deadline(&self) -> Option<Instant> {
        let Outreach {
            look_at,
            feel_at,
            ask_at,
            ..
        } = self.outreach;
        [look_at, feel_at, ask_at].into_iter().flatten().min()
    }

    /// Does one thing that is due. `false` if nothing is.
    pub(super) fn reach_out(&mut self, now: Instant) -> bool {
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if is_due(self.outreach.ask_at) {
            self.ask_somebody(now);
            return true;
        }
        if is_due(self.outreach.look_at) {
            self.look_for_peer(now);
            return true;
        }
        if is_due(self.outreach.feel_at) {
            let has_new = self.book.iter().any(|(_, known)| !known.is_tried());
            let wait = FEELER_INTERVAL / 2 + self.chance.up_to(FEELER_INTERVAL);
            self.outreach.feel_at = has_new.then(|| now + wait);
            if let Some((peer, endpoint)) = self.choose(now, true) {
                self.dial_known(now, Purpose::Feeler(peer), endpoint);
            }
            return true;
        }
        false
    }

    fn lacks_peers(&self) -> bool {
        let under_way = self
            .purposes
            .values()
            .filter(|(purpose, _)| !matches!(purpose, Purpose::Feeler(_)));
        let expected = self.peers.table.outbound() as usize + under_way.count();
        expected < self.settings.outbound_target as usize
    }

    fn look_for_peer(&mut self, now: Instant) {
        self.outreach.look_at = None;
        if self.book.is_empty() || !self.lacks_peers() {
            return;
        }
        let chosen = self.choose(now, false);
        let interval = match &chosen {
            Some(_) => LOOK_INTERVAL,
            None => LOOK_INTERVAL_IN_VAIN,
        };
        self.outreach.look_at = Some(now + interval / 2 + self.chance.up_to(interval));
        if let Some((peer, endpoint)) = chosen {
            self.dial_known(now, Purpose::Outbound(peer), endpoint);
        }
    }

    /// Somebody of the book who may be dialled now.
    fn choose(&mut self, now: Instant, is_feeler: bool) -> Option<(PeerId, Endpoint)> {
        let mut groups: BTreeMap<Group, usize> = BTreeMap::new();
        let mut sources: BTreeMap<Group, u32> = BTreeMap::new();
        for place in self.peers.table.read().places() {
            if place.direction == Direction::Outbound {
                *groups.entry(Group::of(place.addr.ip())).or_default() += 1;
            }
            let known = self.book.get(&place.id);
            if let Some(known) = known.filter(|_| self.found.get(&place.id) == Some(&Found::Book)) {
                *sources.entry(known.source).or_default() += 1;
            }
        }
        let per_source = (self.settings.outbound_target / PART_PER_SOURCE).max(1);
        for (_, endpoint) in self.purposes.values() {
            if let Endpoint::Address(addr) = endpoint {
                *groups.entry(Group::of(addr.ip())).or_default() += 1;
            }
        }
        let is_wanted = |peer: &PeerId, known: &Known| {
            let is_taken = *peer == self.peers.own_id()
                || self.peers.find(peer).is_some()
                || self.queue.waits_for(peer)
                || self
                    .purposes
                    .values()
                    .any(|(purpose, _)| purpose.peer() == *peer)
                || self.bans.bans_peer(peer);
            let Endpoint::Address(addr) = known.endpoint else {
                return !is_taken && known.is_tried();
            };
            let in_group = groups.get(&Group::of(addr.ip())).copied().unwrap_or(0);
            // Many nodes on one machine, or on one network without an outside, are usual.
            let is_diverse = in_group < PER_GROUP_MAX || is_private(addr.ip());
            let is_told_only = known.reached_at.is_none();
            let of_source = sources.get(&known.source).copied().unwrap_or(0);
            let is_independent = of_source < per_source || known.source.is_private();
            !is_taken
                && is_independent
                && self.bans.admits(peer, addr.ip())
                && is_diverse
                && !self.is_own(addr)
                && !(is_told_only
                    && (self.outreach.is_avoided(now, addr)
                        || !self.outreach.has_room_at_site(now, addr.ip())))
        };
        let mut chance = self.chance.clone();
        let chosen = match is_feeler {
            true => self.book.pick_new(now, &mut chance, &is_wanted),
            false => self.book.pick(now, &mut chance, is_wanted),
        };
        self.chance = chance;
        chosen
    }

    fn dial_known(&mut self, now: Instant, purpose: Purpose, endpoint: Endpoint) {
        let is_told_only = self
            .book
            .get(&purpose.peer())
            .is_some_and(|known| known.reached_at.is_none());
        if let Endpoint::Address(addr) = &endpoint
            && is_told_only
        {
            self.outreach.count_site(now, addr.ip());
        }
        self.dial(now, purpose, endpoint);
    }

    /// A dial to a peer of the book has ended.
    pub(super) fn on_outreach_answer(
        &mut self,
        now: Instant,
        purpose: Purpose,
        endpoint: &Endpoint,
        result: Result<(), ConnectError>,
    ) {
        let peer = purpose.peer();
        match result {
            Ok(()) => {
                let has_enough = self.peers.table.outbound() > self.settings.outbound_target;
                if matches!(purpose, Purpose::Feeler(_)) && has_enough {
                    // It is there, which is all that was asked.
                    let _ = self.peers.handle_disconnect(now, &peer);
                }
            }
            Err(
                ConnectError::Busy { .. }
                | ConnectError::Full { .. }
                | ConnectError::Stopping
                | ConnectError::Cancelled,
            ) => {}
            Err(error) => {
                let is_told_only = self
                    .book
                    .get(&peer)
                    .is_none_or(|known| known.reached_at.is_none());
                if let Endpoint::Address(addr) = endpoint
                    && is_told_only
                {
                    self.outreach.avoid(now, *addr);
                }
                let is_itself = error.refused() == Some(RefusedReason::SelfDial);
                match is_itself || matches!(error, ConnectError::SelfDial) {
                    true => drop(self.book.forget(&peer)),
                    false => self.book.fail(now, &peer),
                }
                self.saving.mark(now, SAVE_DELAY);
            }
        }
        self.wake_outreach(now);
    }

    // ---- exchange

    /// Asks one of the connected peers, any of them, unless all were asked lately.
    fn ask_somebody(&mut self, now: Instant) {
        let mut connected: Vec<(PeerId, C)> = self
            .peers
            .peers()
            .map(|(_, id, connection)| (id, connection))
            .collect();
        connected.retain(|(id, _)| self.exchange.may_ask(now, id));
        let interval = match self.lacks_peers() {
            true => EXCHANGE_INTERVAL,
            false => CALM_ASK_INTERVAL,
        };
        self.outreach.ask_at = match self.peers.is_empty() {
            true => None,
            false => Some(now + interval / 2 + self.chance.up_to(interval)),
        };
        let at = self.chance.below(connected.len());
        if let Some((id, connection)) = connected.get(at) {
            let token = self.exchange.ask(now, *id);
            let bytes = ExchangeMessage::ask(token, self.outreach.own_record.as_ref());
            self.transmits.push_back((*connection, bytes));
        }
    }

    /// A connection has brought a message of exchange.
    pub fn handle_exchange(&mut self, now: Instant, connection: C, bytes: &[u8]) {
        if !self.settings.exchanges || self.is_stopping {
            return;
        }
        let peer = self.peers.table.find_connection(connection);
        let Some(record) = peer.and_then(|peer| self.peers.record(peer)) else {
            return;
        };
        match ExchangeMessage::decode(bytes) {
            Some(ExchangeMessage::Ask { token, record: own }) => {
                if self.exchange.handle_ask(now, record.id) {
                    if let Some(own) = own {
                        self.hear_of_itself(now, record.id, record.addr, own);
                    }
                    self.tell(now, connection, record.id, record.addr, token);
                }
            }
            Some(ExchangeMessage::Tell {
                token,
                is_last,
                records,
            }) => {
                let looked_at =
                    self.exchange
                        .handle_tell(now, &record.id, token, is_last, records.len());
                for told in &records[..looked_at] {
                    self.hear(now, record.id, record.addr, told);
                }
            }
            None => log::debug!("{} sent a malformed message of exchange", record.id.short()),
        }
    }

    fn tell(&mut self, now: Instant, connection: C, to: PeerId, addr: SocketAddr, token: u32) {
        let own = self.outreach.own_record.clone();
        let is_use = |peer: &PeerId, record: &SignedRecord| {
            *peer != to
                && record
                    .addrs()
                    .iter()
                    .any(|other| is_plausible(addr.ip(), *other))
        };
        let max = RECORDS_PER_ANSWER_MAX - usize::from(own.is_some());
        let mut chance = self.chance.clone();
        let mut records = self.book.records(now, max, &mut chance, is_use);
        self.chance = chance;
        records.extend(own);
        let parts = ExchangeMessage::tell(token, &records);
        self.transmits
            .extend(parts.into_iter().map(|part| (connection, part)));
    }

    /// A peer's record of itself. It is believed only if the peer is seen at one of the addresses.
    fn hear_of_itself(&mut self, now: Instant, id: PeerId, addr: SocketAddr, bytes: &[u8]) {
        if SignedRecord::peer_of(bytes) != Some(id) {
            return;
        }
        let Ok(record) = SignedRecord::decode(bytes) else {
            return;
        };
        let own = record
            .addrs()
            .iter()
            .find(|own| own.ip() == addr.ip())
            .copied();
        if let Some(own) = own {
            self.book
                .hear(now, id, own, Group::of(addr.ip()), Some(record));
            self.book.meet(now, id, None);
            self.saving.mark(now, SAVE_DELAY);
        }
    }

    /// What a peer tells of another.
    fn hear(&mut self, now: Instant, teller: PeerId, from: SocketAddr, bytes: &[u8]) {
        let Some(peer) = SignedRecord::peer_of(bytes) else {
            return;
        };
        if peer == teller {
            return self.hear_of_itself(now, teller, from, bytes);
        }
        if peer == self.peers.own_id() || self.bans.bans_peer(&peer) {
            return;
        }
        let Ok(record) = SignedRecord::decode(bytes) else {
            return;
        };
        let is_usable = |addr: &&SocketAddr| {
            is_plausible(from.ip(), **addr)
                && addr.port() >= PORT_MIN
                && !self.bans.bans_ip(addr.ip())
                && !self.is_own(**addr)
                && !self.outreach.is_avoided(now, **addr)
        };
        let addr = record.addrs().iter().find(is_usable).copied();
        if let Some(addr) = addr {
            let is_new = self
                .book
                .hear(now, peer, addr, Group::of(from.ip()), Some(record));
            if is_new {
                self.saving.mark(now, SAVE_DELAY);
                self.wake_outreach(now);
            }
        }
    }

    /// Whether an address is this node's, as far as it knows.
    fn is_own(&self, addr: SocketAddr) -> bool {
        let listen = &self.outreach.listen;
        let is_seen = self.observed.addrs().any(|ip| ip == addr.ip());
        listen.contains(&addr) || is_seen && listen.iter().any(|own| own.port() == addr.port())
    }
}

/// Whether somebody at `from` can mean the same by an address as this node. Private addresses mean something else in
/// another network, and loopback ones on another machine; link-local ones lack their link.
fn is_plausible(from: IpAddr, addr: SocketAddr) -> bool {
    let is_link_local = match addr.ip() {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    match addr.ip() {
        ip if ip.is_loopback() => from.is_loopback(),
        ip if is_private(ip) => is_private(from) && !is_link_local,
        _ => true,
    }
}
