//! The whole of this subsystem as one machine: the connected peers, and what keeps a node connected.
//!
//! [`Peers`] decides between connections and alone gives orders to dial; this machine asks it to, for lost peers and for
//! those it has heard of, and refuses at the door who is banned.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mischief_reactor::Instant;

use super::PeerId;
use super::backoff::ReconnectPolicy;
use super::bans::{AllowList, Bans, Target};
use super::book::{Book, BookEntry};
use super::chance::Chance;
use super::doors::Twice;
use super::error::{ConnectError, NotConnected};
use super::exchange::Exchange;
use super::machine::Peers;
use super::message::{
    Answer, DialId, Direction, Introduction, Order, PeerRef, PeersEvent, RequestId,
};
use super::notice::{Claims, Found, Notice, Program, Standing};
use super::observed::Observed;
use super::outreach::Outreach;
use super::pace::Pace;
use super::persist::Saving;
use super::reconnect::{GaveUp, ReconnectQueue, Waiting};
use super::record::SignedRecord;
use crate::connection::{DisconnectReason, Endpoint, RefusedReason};
use crate::identity::Identity;

/// Requests of this machine itself, told from those of its owner by this bit.
const OWN_REQUESTS: u64 = 1 << 63;
/// Peers whose host name is remembered, to look it up again when they are lost.
const NAMES_MAX: usize = 1024;
/// Peers that run something else, and of which that is remembered. Of more it is taken that they run what this node runs.
const PROGRAMS_MAX: usize = 1024;
/// Connections that are not decided about, and of which is known what their hello said.
const CLAIMS_MAX: usize = 1024;
/// How a node keeps itself connected.
#[derive(Clone, Debug, Default)]
pub struct NetworkSettings {
    /// What becomes of lost peers.
    pub reconnect: ReconnectPolicy,
    /// Who alone may connect.
    pub allowed: AllowList,
    /// Whether this node asks its peers for others, and tells them.
    pub exchanges: bool,
    /// Peers that this node dials by itself, from its book, if it has fewer.
    pub outbound_target: u32,
    /// Whether an address book is kept. It costs memory with each peer met, up to its limit.
    pub keeps_book: bool,
    /// Whether what is known outlives the node.
    pub is_kept: bool,
    /// What this node says that it runs. Nearly all peers run the same, so that only others are remembered.
    pub program: Program,
}

/// Why this machine asked for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A lost peer.
    Reconnect(PeerId),
    /// One more peer, from the book.
    Outbound(PeerId),
    /// To see whether somebody new is there.
    Feeler(PeerId),
}

impl Purpose {
    pub(super) fn peer(self) -> PeerId {
        match self {
            Purpose::Reconnect(peer) | Purpose::Outbound(peer) | Purpose::Feeler(peer) => peer,
        }
    }
}

/// See the module's text. `C` names a connection actor.
#[derive(Clone, Debug)]
pub struct Network<C> {
    pub(super) peers: Peers<C>,
    pub(super) settings: NetworkSettings,
    pub(super) identity: Arc<Identity>,
    pub(super) chance: Chance,
    pub(super) pace: Pace,
    pub(super) bans: Bans,
    pub(super) queue: ReconnectQueue,
    pub(super) book: Book,
    pub(super) exchange: Exchange,
    pub(super) observed: Observed,
    pub(super) outreach: Outreach,
    pub(super) saving: Saving,
    pub(super) is_stopping: bool,
    /// Peers that were dialled by name.
    pub(super) names: BTreeMap<PeerId, Endpoint>,
    /// Requests of users for names.
    asked_names: BTreeMap<RequestId, Endpoint>,
    pub(super) purposes: BTreeMap<RequestId, (Purpose, Endpoint)>,
    next_request: u64,
    /// Connected peers that came neither by themselves nor because a user asked.
    pub(super) found: BTreeMap<PeerId, Found>,
    /// Connected peers that run something else than this node.
    programs: BTreeMap<PeerId, Program>,
    claims: BTreeMap<C, Claims>,
    pub(super) twice: BTreeMap<PeerId, Twice>,
    events: VecDeque<PeersEvent>,
    answers: VecDeque<Answer>,
    pub(super) notices: VecDeque<Notice>,
    pub(super) transmits: VecDeque<(C, Vec<u8>)>,
}

impl<C: Copy + Ord + Debug> Network<C> {
    /// A node that knows nobody. `seed` is random: it fixes whatever chance decides here.
    pub fn new(
        peers: Peers<C>,
        settings: NetworkSettings,
        identity: Arc<Identity>,
        seed: [u8; 32],
    ) -> Network<C> {
        let (first, _) = seed.split_first_chunk::<8>().expect("it has 32 bytes");
        Network {
            peers,
            bans: Bans::with_allowed(settings.allowed.clone()),
            saving: Saving::new(settings.is_kept),
            settings,
            identity,
            chance: Chance::new(u64::from_le_bytes(*first)),
            pace: Pace::default(),
            queue: ReconnectQueue::default(),
            book: Book::new(seed),
            exchange: Exchange::default(),
            observed: Observed::default(),
            outreach: Outreach::default(),
            is_stopping: false,
            names: BTreeMap::new(),
            asked_names: BTreeMap::new(),
            purposes: BTreeMap::new(),
            next_request: OWN_REQUESTS,
            found: BTreeMap::new(),
            programs: BTreeMap::new(),
            claims: BTreeMap::new(),
            twice: BTreeMap::new(),
            events: VecDeque::new(),
            answers: VecDeque::new(),
            notices: VecDeque::new(),
            transmits: VecDeque::new(),
        }
    }

    /// The connected peers.
    pub fn peers(&self) -> &Peers<C> {
        &self.peers
    }

    /// The connected peers, for reports that concern nobody else.
    pub fn peers_mut(&mut self) -> &mut Peers<C> {
        &mut self.peers
    }

    /// Whether it has use for [`Network::handle_network_change`].
    pub fn watches_network(&self) -> bool {
        self.settings.reconnect.is_on || self.settings.outbound_target > 0
    }

    // ---- requests

    /// As [`Peers::handle_connect`].
    pub fn handle_connect(
        &mut self,
        now: Instant,
        request: RequestId,
        endpoint: Endpoint,
        expected: Option<PeerId>,
    ) {
        let ip = match &endpoint {
            Endpoint::Address(addr) => Some(addr.ip()),
            _ => None,
        };
        let is_banned = expected.is_some_and(|peer| self.bans.bans_peer(&peer))
            || ip.is_some_and(|ip| self.bans.bans_ip(ip));
        if is_banned {
            let result = Err(ConnectError::Banned);
            return self.answers.push_back(Answer::Connect { request, result });
        }
        if ip.is_none() {
            self.asked_names.insert(request, endpoint.clone());
        }
        self.peers.handle_connect(now, request, endpoint, expected);
    }

    /// Disconnects a peer and does not dial it again.
    pub fn handle_disconnect(&mut self, now: Instant, peer: &PeerId) -> Result<(), NotConnected> {
        let was_waited_for = self.give_up(peer, GaveUp::CalledOff);
        self.names.remove(peer);
        match self.peers.handle_disconnect(now, peer) {
            Err(NotConnected) if was_waited_for => Ok(()),
            result => result,
        }
    }

    /// Closes everything and takes nothing new.
    pub fn handle_stop(&mut self, now: Instant) {
        // Who is connected now is dialled again at the next start, so it has to be noted before they go.
        self.saving.mark(now, Duration::ZERO);
        self.freeze_current();
        self.is_stopping = true;
        self.peers.handle_stop(now);
    }

    /// Forgets all that is known of a peer besides its connection and bans. `None` if that is nothing.
    pub fn handle_forget(&mut self, now: Instant, peer: &PeerId) -> Option<u64> {
        let is_known = self.book.forget(peer)
            | self.give_up(peer, GaveUp::CalledOff)
            | self.names.remove(peer).is_some()
            | self.peers.protected.remove(peer);
        is_known.then(|| self.saving.mark(now, Duration::ZERO))
    }

    /// Dials no lost peer any more. How many there were.
    pub fn handle_clear_queue(&mut self) -> usize {
        let cleared = self.queue.clear();
        for peer in &cleared {
            self.call_off(peer);
            let (peer, why) = (*peer, GaveUp::CalledOff);
            self.notices.push_back(Notice::GaveUp { peer, why });
        }
        cleared.len()
    }

    /// All bans and how long they last.
    pub fn bans(&self, now: Instant) -> Vec<(Target, Option<Duration>)> {
        let left = |until: Instant| until.saturating_duration_since(now);
        let bans = self.bans.iter();
        bans.map(|(target, until)| (target, until.map(left)))
            .collect()
    }

    /// The lost peers, soonest first.
    pub fn reconnect_queue(&self, now: Instant) -> Vec<Waiting> {
        self.queue.list(now)
    }

    /// The address book.
    pub fn address_book(&self, now: Instant) -> Vec<BookEntry> {
        self.book.list(now)
    }

    /// What is known of a connected peer.
    pub fn standing(&self, peer: PeerRef) -> Option<Standing> {
        let record = self.peers.record(peer)?;
        let by_direction = match record.direction {
            Direction::Inbound => Found::Inbound,
            Direction::Outbound => Found::Asked,
        };
        Some(Standing {
            found: self.found.get(&record.id).copied().unwrap_or(by_direction),
            is_protected: self.peers.protected.contains(&record.id),
            dialable: self.dialable(&record.id, record.addr, record.direction),
            program: self
                .programs
                .get(&record.id)
                .unwrap_or(&self.settings.program)
                .clone(),
        })
    }

    // ---- what happens outside

    /// A connection that we dial knows its peer; see [`Peers::handle_identified`].
    pub fn handle_identified(
        &mut self,
        now: Instant,
        dial: DialId,
        connection: C,
        introduction: Introduction,
        claims: Claims,
    ) {
        if !self.bans.admits(&introduction.peer, introduction.addr.ip()) {
            return self.refuse_banned(connection);
        }
        self.note_claims(connection, claims);
        self.peers
            .handle_identified(now, dial, connection, introduction);
    }

    /// A peer has dialled us; see [`Peers::handle_inbound`].
    pub fn handle_inbound(
        &mut self,
        now: Instant,
        connection: C,
        introduction: Introduction,
        claims: Claims,
    ) {
        if !self.bans.admits(&introduction.peer, introduction.addr.ip()) {
            return self.refuse_banned(connection);
        }
        self.note_claims(connection, claims);
        self.peers.handle_inbound(now, connection, introduction);
    }

    fn note_claims(&mut self, connection: C, claims: Claims) {
        if self.claims.len() < CLAIMS_MAX {
            self.claims.insert(connection, claims);
        }
    }

    /// See [`Peers::handle_closed`].
    pub fn handle_closed(&mut self, now: Instant, connection: C, reason: DisconnectReason) {
        self.claims.remove(&connection);
        self.peers.handle_closed(now, connection, reason);
    }

    /// The network has changed, or the machine has slept: lost peers are tried at once, once.
    pub fn handle_network_change(&mut self, now: Instant) {
        self.queue.hurry(now, &mut self.chance);
        self.hurry_outreach(now);
    }

    /// The time that [`Network::poll_timeout`] gave has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.peers.handle_timeout(now);
        self.queue.expire(now);
        for target in self.bans.expire(now) {
            let is_expired = true;
            self.notices
                .push_back(Notice::Unbanned { target, is_expired });
        }
    }

    // ---- what comes out

    /// Takes up what has happened. To be called before the `poll_` functions, after any of the others.
    pub fn advance(&mut self, now: Instant) {
        loop {
            if let Some(event) = self.peers.poll_event() {
                self.on_event(now, event);
            } else if let Some(answer) = self.peers.poll_answer() {
                self.on_answer(now, answer);
            } else if !self.dial_next(now) {
                break;
            }
        }
    }

    /// What to do next.
    pub fn poll_order(&mut self) -> Option<Order<C>> {
        self.peers.poll_order()
    }

    /// Who has come and gone.
    pub fn poll_event(&mut self) -> Option<PeersEvent> {
        self.events.pop_front()
    }

    /// Answers to requests.
    pub fn poll_answer(&mut self) -> Option<Answer> {
        self.answers.pop_front()
    }

    /// What else has happened.
    pub fn poll_notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }

    /// Messages of [`EXCHANGE_CHANNEL`](super::EXCHANGE_CHANNEL) to be sent.
    pub fn poll_transmit(&mut self) -> Option<(C, Vec<u8>)> {
        self.transmits.pop_front()
    }

    /// When to call [`Network::handle_timeout`]; `None` when there is nothing to wait for.
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let [due, proving] = self.queue.deadlines();
        // A dial that ends brings us back.
        let dials = [due, self.outreach_deadline()].map(|at| at.filter(|_| self.may_dial_more()));
        let [due, outreach] = dials.map(|at| Some(self.pace.next(now).max(at?)));
        let own = match self.is_stopping {
            true => [None; 4],
            false => [due, proving, self.bans.deadline(), outreach],
        };
        let others = [self.peers.poll_timeout(), self.saving.deadline()];
        own.into_iter().chain(others).flatten().min()
    }

    // ---- inside

    fn on_event(&mut self, now: Instant, event: PeersEvent) {
        match &event {
            PeersEvent::Connected {
                peer,
                id,
                addr,
                direction,
                ..
            } => self.on_connected(now, *peer, *id, *addr, *direction),
            PeersEvent::Disconnected {
                id,
                addr,
                direction,
                since,
                reason,
                ..
            } => {
                let connected_for = now.saturating_duration_since(*since);
                let found = self.found.remove(id);
                self.programs.remove(id);
                self.exchange.disconnected(id);
                // Those of the book are as good as others of the book, which are looked for instead.
                let is_replaceable =
                    found == Some(Found::Book) && self.settings.outbound_target > 0;
                let reason = (*reason, is_replaceable);
                self.on_disconnected(now, *id, *addr, *direction, connected_for, reason);
            }
            PeersEvent::SeenTwice { id, addr, other } => {
                self.note_twice(now, *id, *addr, Some(*other));
                return;
            }
        }
        self.events.push_back(event);
    }

    fn on_connected(
        &mut self,
        now: Instant,
        peer: PeerRef,
        id: PeerId,
        addr: SocketAddr,
        direction: Direction,
    ) {
        self.queue.connected(now, &id, &self.settings.reconnect);
        let connection = self.peers.connection(peer);
        let claims = connection.and_then(|connection| self.claims.remove(&connection));
        let claims = claims.unwrap_or_default();
        if direction == Direction::Outbound {
            let purpose = self
                .purposes
                .values()
                .find(|(purpose, _)| purpose.peer() == id);
            let found = match purpose {
                Some((Purpose::Reconnect(_), _)) => Some(Found::Reconnected),
                Some(_) => Some(Found::Book),
                None => None,
            };
            if let Some(found) = found {
                self.found.insert(id, found);
            }
            self.saving.mark(now, SAVE_DELAY);
        }
        if claims.program != self.settings.program && self.programs.len() < PROGRAMS_MAX {
            self.programs.insert(id, claims.program.clone());
        }
        if let Some(seen) = claims.observed {
            self.on_observed(addr, seen);
        }
        if self.settings.keeps_book {
            self.note_in_book(now, id, addr, direction, &claims);
        }
    }

    fn on_disconnected(
        &mut self,
        now: Instant,
        id: PeerId,
        addr: SocketAddr,
        direction: Direction,
        connected_for: Duration,
        (reason, is_replaceable): (DisconnectReason, bool),
    ) {
        if self.is_stopping {
            return;
        }
        self.saving.mark(now, SAVE_DELAY);
        self.wake_outreach(now);
        let is_protected = self.peers.protected.contains(&id);
        let policy = self.settings.reconnect;
        let is_wanted = policy.is_on
            && is_worth_another_try(reason)
            && (direction == Direction::Outbound && !is_replaceable || is_protected)
            && self.bans.admits(&id, addr.ip());
        let endpoint = self.dialable(&id, addr, direction);
        let Some(endpoint) = endpoint.filter(|_| is_wanted) else {
            self.queue.forget(&id);
            return;
        };
        let one_too_many = self.queue.lose(
            now,
            id,
            endpoint.clone(),
            connected_for,
            &policy,
            &mut self.chance,
        );
        if let Some(peer) = one_too_many {
            let why = GaveUp::NoRoom;
            self.notices.push_back(Notice::GaveUp { peer, why });
        }
        let within = policy.bound(0, connected_for >= policy.stable_after);
        self.notices.push_back(Notice::Reconnecting {
            peer: id,
            endpoint,
            within,
        });
    }

    fn on_answer(&mut self, now: Instant, answer: Answer) {
        let Answer::Connect { request, result } = &answer else {
            return self.answers.push_back(answer);
        };
        if let Some((purpose, endpoint)) = self.purposes.remove(request) {
            let result = result.clone().map(|_| ());
            return self.on_own_answer(now, purpose, endpoint, result);
        }
        if let Some(name) = self.asked_names.remove(request)
            && let Ok((peer, id)) = result
            && let Some(record) = self.peers.record(*peer)
            && record.direction == Direction::Outbound
            && self.names.len() < NAMES_MAX
        {
            self.names.insert(*id, name);
        }
        self.answers.push_back(answer);
    }

    fn on_own_answer(
        &mut self,
        now: Instant,
        purpose: Purpose,
        endpoint: Endpoint,
        result: Result<(), ConnectError>,
    ) {
        if let Purpose::Reconnect(peer) = purpose {
            return self.on_reconnect_answer(now, peer, result);
        }
        self.on_outreach_answer(now, purpose, &endpoint, result);
    }

    fn on_reconnect_answer(
        &mut self,
        now: Instant,
        peer: PeerId,
        result: Result<(), ConnectError>,
    ) {
        let policy = self.settings.reconnect;
        let error = match result {
            Ok(()) => return,
            Err(error) => error,
        };
        match (&error, error.refused()) {
            (ConnectError::Busy { .. } | ConnectError::Full { .. }, _) => {
                self.queue.put_off(now, &peer, &policy, &mut self.chance);
            }
            (ConnectError::Stopping, _) => {}
            (ConnectError::SelfDial | ConnectError::Banned, _)
            | (_, Some(RefusedReason::Banned | RefusedReason::SelfDial)) => {
                self.give_up(&peer, GaveUp::Unwanted);
            }
            _ => {
                if error.refused() == Some(RefusedReason::Duplicate)
                    && self.peers.find(&peer).is_none()
                    && let Some(Endpoint::Address(addr)) = self.waiting_endpoint(&peer)
                {
                    let own = self.peers.own_id();
                    self.note_twice(now, own, addr, None);
                }
                let is_protected = self.peers.protected.contains(&peer);
                let given_up = self
                    .queue
                    .fail(now, &peer, is_protected, &policy, &mut self.chance);
                if self.settings.keeps_book {
                    self.book.fail(now, &peer);
                }
                if let Some(attempts) = given_up {
                    self.names.remove(&peer);
                    let why = GaveUp::NotReached { attempts };
                    self.notices.push_back(Notice::GaveUp { peer, why });
                }
            }
        }
    }

    fn waiting_endpoint(&self, peer: &PeerId) -> Option<Endpoint> {
        self.queue.endpoint(peer).cloned()
    }

    /// Begins the next dial of this machine's own, if there is one and it may begin now.
    fn dial_next(&mut self, now: Instant) -> bool {
        if self.is_stopping || self.pace.next(now) > now || !self.may_dial_more() {
            return false;
        }
        let Some((peer, endpoint)) = self.queue.take_due(now) else {
            return self.reach_out(now);
        };
        if self.peers.find(&peer).is_some() {
            self.queue.connected(now, &peer, &self.settings.reconnect);
        } else {
            self.dial(now, Purpose::Reconnect(peer), endpoint);
        }
        true
    }

    fn may_dial_more(&self) -> bool {
        self.peers.dials() < self.peers.limits.dials_max as usize
    }

    pub(super) fn dial(&mut self, now: Instant, purpose: Purpose, endpoint: Endpoint) {
        let is_in_time = self.pace.take(now);
        debug_assert!(is_in_time, "it was looked at before");
        self.next_request = self.next_request.wrapping_add(1) | OWN_REQUESTS;
        let request = RequestId(self.next_request);
        self.purposes.insert(request, (purpose, endpoint.clone()));
        let expected = Some(purpose.peer());
        self.peers.handle_connect(now, request, endpoint, expected);
    }

    /// Where a peer can be dialled that is, or was, connected.
    pub(super) fn dialable(
        &self,
        id: &PeerId,
        addr: SocketAddr,
        direction: Direction,
    ) -> Option<Endpoint> {
        match direction {
            Direction::Outbound => {
                let name = self.names.get(id).cloned();
                Some(name.unwrap_or(Endpoint::Address(addr)))
            }
            Direction::Inbound => Some(self.book.get(id)?.endpoint.clone()),
        }
    }

    /// A lost peer is not dialled any more. `false` if there was none.
    pub(super) fn give_up(&mut self, peer: &PeerId, why: GaveUp) -> bool {
        let was_waited_for = self.queue.forget(peer);
        if was_waited_for {
            self.call_off(peer);
            let peer = *peer;
            self.notices.push_back(Notice::GaveUp { peer, why });
        }
        was_waited_for
    }

    /// Ends the attempt to reach a lost peer that is under way.
    fn call_off(&mut self, peer: &PeerId) {
        let is_it = |(purpose, _): &(Purpose, Endpoint)| *purpose == Purpose::Reconnect(*peer);
        let request = self.purposes.iter().find(|(_, purpose)| is_it(purpose));
        if let Some(request) = request.map(|(request, _)| *request) {
            self.purposes.remove(&request);
            self.peers.handle_cancel(request);
            // Nobody waits for the answer any more.
            let is_other = |answer: &Answer| !matches!(answer, Answer::Connect { request: other, .. } if *other == request);
            self.peers.answers.retain(is_other);
        }
    }

    /// This node's own record, for others to pass on.
    pub fn own_record(&self) -> Option<&SignedRecord> {
        self.outreach.own_record.as_ref()
    }
}

/// How long changes that cost little when they are lost may wait to be written with others.
pub(super) const SAVE_DELAY: Duration = Duration::from_secs(30);

/// Whether a peer that went so is dialled again. Not if somebody wanted it to go, on either side.
fn is_worth_another_try(reason: DisconnectReason) -> bool {
    match reason {
        DisconnectReason::TimedOut
        | DisconnectReason::Lost(_)
        | DisconnectReason::OutOfMemory
        | DisconnectReason::Internal
        | DisconnectReason::PeerMisbehaved => true,
        DisconnectReason::Refused(reason) => {
            matches!(reason, RefusedReason::Stopping | RefusedReason::Full)
        }
        _ => false,
    }
}

#[cfg(test)]
#[path = "tests/network.rs"]
mod tests;
