//! The machine: who is connected, who may be, and which of two connections to one peer stays.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Debug;

use mischief_reactor::Instant;

use super::PeerId;
use super::contest::{Candidate, Contest, Wait};
use super::dials::{Asked, Dials, Joined};
use super::error::{ConnectError, NotConnected};
use super::gather::Gather;
use super::limits::PeersLimits;
use super::message::{
    Answer, DialId, Direction, Introduction, Order, PeerRecord, PeerRef, PeersEvent, ProbeToken,
    RequestId, Traffic,
};
use super::roster::{Entries, Roster};
use crate::connection::{DialError, DisconnectReason, Endpoint, RefusedReason};

/// Longest name of a peer in bytes; a longer one is left out.
pub const NAME_BYTES_MAX: usize = 64;

/// Who is connected. See the folder's `mod.rs`. `C` names a connection actor, with the core that it lives on.
#[derive(Clone, Debug)]
pub struct Peers<C> {
    pub(super) own: PeerId,
    pub(super) limits: PeersLimits,
    pub(super) is_stopping: bool,
    pub(super) table: Entries<C>,
    pub(super) contests: BTreeMap<PeerId, Contest<C>>,
    /// The peers of all connections in contests.
    pub(super) undecided: BTreeMap<C, PeerId>,
    pub(super) dials: Dials,
    pub(super) gather: Gather,
    /// Peers that never have to make room for others.
    pub(super) protected: BTreeSet<PeerId>,
    /// Number of the last probe.
    pub(super) probes: u32,
    pub(super) orders: VecDeque<Order<C>>,
    pub(super) events: VecDeque<PeersEvent>,
    pub(super) answers: VecDeque<Answer>,
}

impl<C: Copy + Ord + Debug> Peers<C> {
    /// A node without peers, known to others as `own`.
    pub fn new(own: PeerId, limits: PeersLimits) -> Peers<C> {
        Peers::with_roster(own, limits, Roster::default())
    }

    /// A node whose peers stand in a roster that others look at. It has to be empty.
    pub fn with_roster(own: PeerId, limits: PeersLimits, roster: Roster<C>) -> Peers<C> {
        Peers {
            own,
            limits,
            is_stopping: false,
            table: Entries::new(roster),
            contests: BTreeMap::new(),
            undecided: BTreeMap::new(),
            dials: Dials::default(),
            gather: Gather::default(),
            protected: BTreeSet::new(),
            probes: 0,
            orders: VecDeque::new(),
            events: VecDeque::new(),
            answers: VecDeque::new(),
        }
    }

    // ---- requests

    /// Asks for a connection to an endpoint, to whoever is there or only to `expected`. Joins a dial to the same endpoint or
    /// peer; a peer that is connected is answered at once.
    pub fn handle_connect(
        &mut self,
        now: Instant,
        request: RequestId,
        endpoint: Endpoint,
        expected: Option<PeerId>,
    ) {
        if let Err(error) = self.connect(now, request, endpoint, expected) {
            self.answer_connect(request, Err(error));
        }
    }

    fn connect(
        &mut self,
        now: Instant,
        request: RequestId,
        endpoint: Endpoint,
        expected: Option<PeerId>,
    ) -> Result<(), ConnectError> {
        if self.is_stopping {
            return Err(ConnectError::Stopping);
        }
        if expected == Some(self.own) {
            return Err(ConnectError::SelfDial);
        }
        let connected = match (&expected, &endpoint) {
            (Some(expected), _) => self.table.find(expected),
            (None, Endpoint::Address(addr)) => self.table.find_dialled(*addr),
            (None, _) => None,
        };
        if let Some(peer) = connected {
            self.answer_connected(request, peer);
            return Ok(());
        }
        let is_full = self.places_taken() >= self.limits.peers_max
            || self.table.outbound() >= self.limits.outbound_max;
        if is_full && !expected.is_some_and(|peer| self.protected.contains(&peer)) {
            return Err(ConnectError::Full {
                max: self.limits.peers_max,
            });
        }
        if self.dials.asked() >= self.limits.requests_max as usize {
            return Err(ConnectError::Busy {
                max: self.limits.requests_max,
            });
        }
        let asked = Asked { request, expected };
        let dials_max = self.limits.dials_max as usize;
        let deadline = now + self.limits.dial_deadline;
        match self.dials.join(asked, &endpoint, dials_max, deadline) {
            Some(Joined::Began(dial)) => self.orders.push_back(Order::Dial { dial, endpoint }),
            Some(Joined::Added(dial)) => self.orders.push_back(Order::DialAlso { dial, endpoint }),
            Some(Joined::Waits) => {}
            None => {
                return Err(ConnectError::Busy {
                    max: self.limits.dials_max,
                });
            }
        }
        Ok(())
    }

    /// Nobody wants the answer to this request any more. It gets one all the same; the dial ends if nobody else waits for it
    /// and no peer has been found yet.
    pub fn handle_cancel(&mut self, request: RequestId) {
        let Some((dial, is_idle)) = self.dials.take_request(request) else {
            return;
        };
        self.answer_connect(request, Err(ConnectError::Cancelled));
        let has_peer = self
            .dials
            .get_mut(dial)
            .is_some_and(|dialling| dialling.peer.is_some());
        if is_idle && !has_peer {
            self.cancel_dial(dial);
        }
    }

    /// Disconnects a peer and calls off whatever would connect it.
    pub fn handle_disconnect(&mut self, now: Instant, peer: &PeerId) -> Result<(), NotConnected> {
        self.handle_expel(
            now,
            peer,
            RefusedReason::CalledOff,
            DisconnectReason::Requested,
        )
    }

    /// The same for other reasons: what whoever is about to connect is told, and why a connection ends.
    pub fn handle_expel(
        &mut self,
        now: Instant,
        peer: &PeerId,
        refused: RefusedReason,
        disconnected: DisconnectReason,
    ) -> Result<(), NotConnected> {
        let kept = self.table.find(peer);
        let contest = self.contests.get(peer);
        let has_contest = contest.is_some_and(Contest::has_candidate);
        self.end_contest(peer, refused);
        if let Some(kept) = kept {
            self.drop_kept(now, kept, disconnected);
        }
        let requests = self.dials.take_requests_for(peer);
        let is_known = kept.is_some() || has_contest || !requests.is_empty();
        for request in requests {
            self.answer_connect(request, Err(ConnectError::Cancelled));
        }
        for dial in self.dials.idle_for(peer) {
            self.cancel_dial(dial);
        }
        if is_known { Ok(()) } else { Err(NotConnected) }
    }

    /// Asks for a list of the peers with what their connections have carried.
    pub fn handle_list(&mut self, now: Instant, request: RequestId) {
        if self.gather.asked() >= self.limits.requests_max as usize {
            // One that asks so often gets what is at hand.
            let peers = self
                .peers()
                .filter_map(|(peer, ..)| self.table.record(peer, None))
                .collect();
            return self.answers.push_back(Answer::List { request, peers });
        }
        self.gather.ask(request);
        self.gather_reports(now);
    }

    /// Closes everything and takes nothing new.
    pub fn handle_stop(&mut self, now: Instant) {
        self.is_stopping = true;
        for peer in self.contests.keys().copied().collect::<Vec<_>>() {
            self.end_contest(&peer, RefusedReason::Stopping);
        }
        for peer in self.peers().map(|(peer, ..)| peer).collect::<Vec<_>>() {
            self.drop_kept(now, peer, DisconnectReason::Stopping);
        }
        for dial in self.dials.ids() {
            for asked in self.cancel_dial(dial) {
                self.answer_connect(asked.request, Err(ConnectError::Stopping));
            }
        }
    }

    // ---- what diallers and connections report

    /// A dial is over without a connection that is kept.
    pub fn handle_dial_failed(&mut self, dial: DialId, error: DialError) {
        let Some(dialling) = self.dials.remove(dial) else {
            return;
        };
        let endpoint = dialling.endpoints[0].clone();
        for asked in dialling.asked {
            // The peer may have refused for the very reason that it is connected in another way.
            let connected = dialling.peer.filter(|peer| asked.wants(peer));
            match connected.and_then(|peer| self.table.find(&peer)) {
                Some(peer) => self.answer_connected(asked.request, peer),
                None => {
                    let error = ConnectError::Dial {
                        endpoint: endpoint.clone(),
                        error: error.clone(),
                    };
                    self.answer_connect(asked.request, Err(error));
                }
            }
        }
    }

    /// A connection that we dial has authenticated the peer by its message 2 and waits with message 3 for
    /// [`Order::Proceed`] or [`Order::Refuse`].
    pub fn handle_identified(
        &mut self,
        now: Instant,
        dial: DialId,
        connection: C,
        introduction: Introduction,
    ) {
        let peer = introduction.peer;
        if let Err(reason) = self.may_dial(dial, peer) {
            return self.orders.push_back(Order::Refuse { connection, reason });
        }
        self.answer_wrong_peers(dial, peer);
        let candidate = Candidate {
            connection,
            dial: Some(dial),
            introduction: checked(introduction),
        };
        self.undecided.insert(connection, peer);
        let contest = self.contest(peer);
        contest.parked.push(candidate);
        contest.wait.handle_challenger();
        self.settle(now, peer);
    }

    fn may_dial(&mut self, dial: DialId, peer: PeerId) -> Result<(), RefusedReason> {
        let Some(dialling) = self.dials.get_mut(dial) else {
            return Err(RefusedReason::CalledOff);
        };
        if peer == self.own {
            return Err(RefusedReason::SelfDial);
        }
        if !dialling.wants(&peer) {
            return Err(RefusedReason::WrongPeer {
                expected: dialling.expected_instead_of(peer),
                found: peer,
            });
        }
        dialling.peer = Some(peer);
        Ok(())
    }

    /// Some of a dial's requests may want `found`, and others not.
    fn answer_wrong_peers(&mut self, dial: DialId, found: PeerId) {
        let Some(dialling) = self.dials.get_mut(dial) else {
            return;
        };
        let (right, wrong): (Vec<_>, Vec<_>) =
            dialling.asked.iter().partition(|asked| asked.wants(&found));
        dialling.asked = right;
        for asked in wrong {
            let expected = asked
                .expected
                .expect("a request that wants anybody wants this peer");
            self.answer_connect(
                asked.request,
                Err(ConnectError::WrongPeer { expected, found }),
            );
        }
    }

    /// The peer has accepted a connection that we dialled.
    pub fn handle_accepted(&mut self, now: Instant, connection: C) {
        let Some(&peer) = self.undecided.get(&connection) else {
            return;
        };
        let contest = self
            .contests
            .get_mut(&peer)
            .expect("an undecided connection is in a contest");
        let Some(candidate) = contest
            .proposed
            .take_if(|candidate| candidate.connection == connection)
        else {
            return;
        };
        let older = contest.accepted.replace(candidate);
        contest.wait.handle_challenger();
        if let Some(older) = older {
            self.give_up(older, RefusedReason::Duplicate);
        }
        self.settle(now, peer);
    }

    /// A peer has dialled us and is authenticated by its message 3. It waits for [`Order::Keep`] or [`Order::Refuse`].
    pub fn handle_inbound(&mut self, now: Instant, connection: C, introduction: Introduction) {
        let peer = introduction.peer;
        if let Err(reason) = self.may_come_in(peer) {
            return self.orders.push_back(Order::Refuse { connection, reason });
        }
        let candidate = Candidate {
            connection,
            dial: None,
            introduction: checked(introduction),
        };
        self.undecided.insert(connection, peer);
        if let Some(oldest) = self.contest(peer).hold(candidate) {
            self.refuse(oldest, RefusedReason::Duplicate);
        }
        self.settle(now, peer);
    }

    fn may_come_in(&self, peer: PeerId) -> Result<(), RefusedReason> {
        if self.is_stopping {
            return Err(RefusedReason::Stopping);
        }
        if peer == self.own {
            return Err(RefusedReason::SelfDial);
        }
        if self.undecided.len() >= self.limits.undecided_max as usize {
            return Err(RefusedReason::Full);
        }
        Ok(())
    }

    /// A kept connection has answered the ping of [`Order::Probe`].
    pub fn handle_alive(&mut self, now: Instant, connection: C, token: ProbeToken) {
        let Some(peer) = self
            .table
            .find_connection(connection)
            .and_then(|peer| self.table.id(peer))
        else {
            return;
        };
        let Some(contest) = self.contests.get_mut(&peer) else {
            return;
        };
        let is_stale = match contest.wait {
            Wait::Probe {
                token: asked,
                is_stale,
                ..
            } if asked == token => is_stale,
            _ => return,
        };
        contest.wait = Wait::Nothing;
        if !is_stale {
            let challengers = contest.take_challengers();
            self.tell_of_doubles(peer, &challengers);
            for candidate in challengers {
                self.refuse(candidate, RefusedReason::Duplicate);
            }
        }
        self.settle(now, peer);
    }

    /// One machine reaches us from one address, nearly always. Who comes from another while the connected one is alive may
    /// be a second machine with the same identity.
    fn tell_of_doubles(&mut self, id: PeerId, challengers: &[Candidate<C>]) {
        let kept = self.table.find(&id);
        let Some(kept) = kept.and_then(|kept| self.table.record(kept, None)) else {
            return;
        };
        let other = challengers
            .iter()
            .filter(|candidate| candidate.direction() == Direction::Inbound)
            .map(|candidate| candidate.introduction.addr)
            .find(|addr| addr.ip() != kept.addr.ip());
        if let Some(other) = other {
            let addr = kept.addr;
            self.events
                .push_back(PeersEvent::SeenTwice { id, addr, other });
        }
    }

    /// Has a peer never make room for others, or again like all others.
    pub fn handle_protect(&mut self, peer: PeerId, is_protected: bool) {
        match is_protected {
            true => drop(self.protected.insert(peer)),
            false => drop(self.protected.remove(&peer)),
        }
    }

    /// A connection is gone, or has begun to go and answers no pings any more. To be reported once for each connection,
    /// whatever became of it, also after [`Order::Refuse`] and [`Order::Close`].
    pub fn handle_closed(&mut self, now: Instant, connection: C, reason: DisconnectReason) {
        if let Some(kept) = self.table.find_connection(connection) {
            let peer = self.table.id(kept).expect("the table has just found it");
            let contest = self.contests.get(&peer);
            let is_succeeded = contest.is_some_and(Contest::has_successor);
            let reason = if is_succeeded {
                DisconnectReason::Replaced
            } else {
                reason
            };
            self.forget_kept(now, kept, reason);
            self.settle(now, peer);
        } else if let Some(peer) = self.undecided.remove(&connection) {
            let contest = self
                .contests
                .get_mut(&peer)
                .expect("an undecided connection is in a contest");
            contest.take(connection);
            self.settle(now, peer);
        }
    }

    /// The figures that [`Order::Report`] asked for.
    pub fn handle_report(&mut self, now: Instant, peer: PeerRef, traffic: Traffic) {
        self.gather.handle_report(peer, traffic);
        self.gather_reports(now);
    }

    /// The time that [`Peers::poll_timeout`] gave has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        let is_due = |contest: &Contest<C>| contest.wait.deadline().is_some_and(|at| at <= now);
        let due: Vec<PeerId> = self
            .contests
            .iter()
            .filter(|(_, contest)| is_due(contest))
            .map(|(id, _)| *id)
            .collect();
        for peer in due {
            self.handle_contest_timeout(now, peer);
        }
        while let Some(dial) = self.dials.expired(now) {
            self.handle_dial_timeout(now, dial);
        }
        self.gather_reports(now);
    }

    fn handle_contest_timeout(&mut self, now: Instant, peer: PeerId) {
        let Some(contest) = self.contests.get_mut(&peer) else {
            return;
        };
        match std::mem::replace(&mut contest.wait, Wait::Nothing) {
            Wait::Probe { .. } => {
                let kept = self
                    .table
                    .find(&peer)
                    .expect("only a kept connection is probed");
                self.drop_kept(now, kept, DisconnectReason::Replaced);
            }
            Wait::Hold { .. } => {
                if let Some(candidate) = contest.proposed.take() {
                    self.give_up(candidate, RefusedReason::Duplicate);
                }
            }
            Wait::Nothing => {}
        }
        self.settle(now, peer);
    }

    fn handle_dial_timeout(&mut self, now: Instant, dial: DialId) {
        let endpoint = self
            .dials
            .get_mut(dial)
            .map(|dialling| dialling.endpoints[0].clone());
        for asked in self.cancel_dial(dial) {
            let endpoint = endpoint.clone().expect("the dial was there");
            self.answer_connect(asked.request, Err(ConnectError::TimedOut { endpoint }));
        }
        // One that the peer has accepted is no longer the dial's.
        let is_of_dial = |candidate: &mut Candidate<C>| candidate.dial == Some(dial);
        let late = self.contests.iter_mut().find_map(|(peer, contest)| {
            let proposed = contest.proposed.take_if(is_of_dial);
            let parked = contest.parked.extract_if(.., is_of_dial).next();
            (proposed.is_some() || parked.is_some()).then_some((*peer, proposed, parked))
        });
        if let Some((peer, proposed, parked)) = late {
            if let Some(proposed) = proposed {
                self.give_up(proposed, RefusedReason::CalledOff);
            }
            if let Some(parked) = parked {
                self.refuse(parked, RefusedReason::CalledOff);
            }
            self.settle(now, peer);
        }
    }

    // ---- what comes out

    /// What to do next.
    pub fn poll_order(&mut self) -> Option<Order<C>> {
        self.orders.pop_front()
    }

    /// What has become true.
    pub fn poll_event(&mut self) -> Option<PeersEvent> {
        self.events.pop_front()
    }

    /// Answers to requests.
    pub fn poll_answer(&mut self) -> Option<Answer> {
        self.answers.pop_front()
    }

    /// When to call [`Peers::handle_timeout`]; `None` when there is nothing to wait for.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let contests = self
            .contests
            .values()
            .filter_map(|contest| contest.wait.deadline())
            .min();
        [contests, self.dials.deadline(), self.gather.deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    // ---- who is there

    /// This node's own id.
    pub fn own_id(&self) -> PeerId {
        self.own
    }

    /// How many peers are connected.
    pub fn len(&self) -> u32 {
        self.table.len()
    }

    /// Whether nobody is connected.
    pub fn is_empty(&self) -> bool {
        self.table.len() == 0
    }

    /// The peer with an id, if it is connected.
    pub fn find(&self, id: &PeerId) -> Option<PeerRef> {
        self.table.find(id)
    }

    /// Who a peer is; `None` once it is gone.
    pub fn id(&self, peer: PeerRef) -> Option<PeerId> {
        self.table.id(peer)
    }

    /// The connection actor of a peer; `None` once it is gone.
    pub fn connection(&self, peer: PeerRef) -> Option<C> {
        self.table.connection(peer)
    }

    /// Whether a connection is in use, or waits for a decision or for its end.
    pub fn knows(&self, connection: C) -> bool {
        self.table.find_connection(connection).is_some() || self.undecided.contains_key(&connection)
    }

    /// A peer's record without the figures of its connection.
    pub fn record(&self, peer: PeerRef) -> Option<PeerRecord> {
        self.table.record(peer, None)
    }

    /// All peers in the order of their ids, each with its connection.
    pub fn peers(&self) -> impl Iterator<Item = (PeerRef, PeerId, C)> + '_ {
        self.table.list().into_iter()
    }

    /// Dials under way.
    pub fn dials(&self) -> usize {
        self.dials.len()
    }

    /// Bytes that the table of peers has on the heap, names included.
    pub fn heap_bytes(&self) -> usize {
        self.table.heap_bytes()
    }

    // ---- inside

    /// Removes a dial and returns the requests that still wait for it.
    fn cancel_dial(&mut self, dial: DialId) -> Vec<Asked> {
        let Some(dialling) = self.dials.remove(dial) else {
            return Vec::new();
        };
        self.orders.push_back(Order::CancelDial { dial });
        dialling.asked
    }

    /// Begins the round of reports that is wanted and ends the one that is complete.
    pub(super) fn gather_reports(&mut self, now: Instant) {
        loop {
            let deadline = now + self.limits.report_deadline;
            let asked = self.gather.begin(
                self.table.list().into_iter().map(|(peer, ..)| peer),
                deadline,
            );
            for peer in asked {
                let connection = self
                    .table
                    .connection(peer)
                    .expect("the table has just listed it");
                self.orders.push_back(Order::Report { connection, peer });
            }
            let Some(round) = self.gather.finish(now) else {
                break;
            };
            let peers: Vec<PeerRecord> = self
                .table
                .list()
                .into_iter()
                .filter_map(|(peer, ..)| self.table.record(peer, round.traffic(peer)))
                .collect();
            for request in round.requests {
                self.answers.push_back(Answer::List {
                    request,
                    peers: peers.clone(),
                });
            }
        }
    }

    pub(super) fn answer_connected(&mut self, request: RequestId, peer: PeerRef) {
        let id = self
            .table
            .id(peer)
            .expect("answered with a peer of the table");
        self.answer_connect(request, Ok((peer, id)));
    }

    pub(super) fn answer_connect(
        &mut self,
        request: RequestId,
        result: Result<(PeerRef, PeerId), ConnectError>,
    ) {
        self.answers.push_back(Answer::Connect { request, result });
    }
}

/// Leaves out a name that is too long to be kept.
fn checked(introduction: Introduction) -> Introduction {
    let name = introduction
        .name
        .filter(|name| name.len() <= NAME_BYTES_MAX);
    Introduction {
        name,
        ..introduction
    }
}

#[cfg(test)]
#[path = "tests/mod.rs"]
mod tests;
