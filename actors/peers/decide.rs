//! Which of several connections to one peer stays, and who gets one of the places: the rules of the folder's `mod.rs`.

use std::fmt::Debug;

use mischief_reactor::Instant;
use mischief_reactor::sabotage::{self, Mutation};

use super::PeerId;
use super::contest::{Candidate, Contest, Wait};
use super::error::ConnectError;
use super::machine::Peers;
use super::message::{Direction, Order, PeerRef, PeersEvent, ProbeToken};
use super::subnet::Group;
use super::trim::{self, Newcomer, Placed};
use crate::connection::{DisconnectReason, RefusedReason};

impl<C: Copy + Ord + Debug> Peers<C> {
    /// Brings one peer's contest as far as it goes: the rules of the folder's `mod.rs`, and the only place that has them.
    pub(super) fn settle(&mut self, now: Instant, peer: PeerId) {
        while let Some(contest) = self.contests.get_mut(&peer) {
            if !contest.closing.is_empty() {
                contest.wait = Wait::Nothing;
                break;
            }
            let kept = self
                .table
                .find(&peer)
                .and_then(|kept| self.table.connection(kept));
            if let Some(connection) = kept {
                if !contest.has_challenger() {
                    contest.wait = Wait::Nothing;
                } else if !matches!(contest.wait, Wait::Probe { .. }) {
                    self.probes = self.probes.wrapping_add(1);
                    let token = ProbeToken(self.probes);
                    contest.wait = Wait::Probe {
                        deadline: now + self.limits.probe_deadline,
                        token,
                        is_stale: false,
                    };
                    self.orders.push_back(Order::Probe { connection, token });
                }
                break;
            }
            if matches!(contest.wait, Wait::Probe { .. }) {
                contest.wait = Wait::Nothing;
            }
            let is_ours_first = !contest.held.is_empty()
                && self.own < peer
                && !sabotage::is_on(Mutation::NoTieBreak);
            let is_next_parked = contest.held.is_empty() && !contest.parked.is_empty();
            if let Some(candidate) = contest.accepted.take() {
                self.keep(now, candidate);
            } else if contest.proposed.is_some() && (is_ours_first || is_next_parked) {
                if !matches!(contest.wait, Wait::Hold { .. }) {
                    let deadline = now + self.limits.hold_deadline;
                    contest.wait = Wait::Hold { deadline };
                }
                break;
            } else if let Some(candidate) = contest.held.pop() {
                self.keep(now, candidate);
            } else if contest.proposed.is_some() || contest.parked.is_empty() {
                contest.wait = Wait::Nothing;
                break;
            } else {
                let candidate = contest.parked.remove(0);
                self.propose(candidate);
            }
        }
        if self.contests.get(&peer).is_some_and(Contest::is_empty) {
            self.contests.remove(&peer);
        }
    }

    /// Keeps a connection to a peer that has none, if there is room.
    fn keep(&mut self, now: Instant, candidate: Candidate<C>) {
        let Candidate {
            connection, dial, ..
        } = candidate;
        let peer = candidate.introduction.peer;
        let direction = candidate.direction();
        if !self.has_room(now, &candidate) {
            return self.refuse(candidate, RefusedReason::Full);
        }
        self.undecided.remove(&connection);
        let introduction = candidate.introduction;
        let (addr, suite, name) = (
            introduction.addr,
            introduction.suite,
            introduction.name.clone(),
        );
        let kept = self.table.insert(now, connection, direction, introduction);
        self.orders.push_back(Order::Keep {
            connection,
            peer: kept,
        });
        self.events.push_back(PeersEvent::Connected {
            peer: kept,
            id: peer,
            addr,
            direction,
            suite,
            name,
        });
        for request in self.dials.take_requests_for(&peer) {
            self.answer_connected(request, kept);
        }
        if let Some(dialling) = dial.and_then(|dial| self.dials.remove(dial)) {
            // The dial is over, so whoever is left gets an answer now.
            for asked in dialling.asked {
                match asked.expected.filter(|expected| *expected != peer) {
                    None => self.answer_connected(asked.request, kept),
                    Some(expected) => {
                        let error = ConnectError::WrongPeer {
                            expected,
                            found: peer,
                        };
                        self.answer_connect(asked.request, Err(error));
                    }
                }
            }
        }
    }

    /// Whether a connection can be kept, if need be in place of another one.
    fn has_room(&mut self, now: Instant, candidate: &Candidate<C>) -> bool {
        let peer = candidate.introduction.peer;
        let is_inbound = candidate.direction() == Direction::Inbound;
        let is_full = self.places_taken_by_others(&peer) >= self.limits.peers_max;
        let is_full_inbound = is_inbound && self.table.inbound() >= self.limits.inbound_max;
        if !is_full && !is_full_inbound {
            return true;
        }
        if self.limits.peers_max == 0 || is_inbound && self.limits.inbound_max == 0 {
            return false;
        }
        let newcomer = Newcomer {
            group: Group::of(candidate.introduction.addr.ip()),
            is_inbound,
            is_protected: self.protected.contains(&peer),
        };
        let table = self.table.read();
        let placed = table.places().map(|place| Placed {
            is_protected: self.protected.contains(&place.id),
            peer: place.peer,
            group: Group::of(place.addr.ip()),
            since: place.since,
            is_inbound: place.direction == Direction::Inbound,
        });
        let victim = trim::choose(placed, newcomer, is_full_inbound);
        drop(table);
        if let Some(victim) = victim {
            self.drop_kept(now, victim, DisconnectReason::Trimmed);
        }
        victim.is_some()
    }

    /// Lets a dialled connection show itself to the peer, if there is room for it.
    fn propose(&mut self, candidate: Candidate<C>) {
        let peer = candidate.introduction.peer;
        let is_full = self.places_taken_by_others(&peer) >= self.limits.peers_max
            || self.table.outbound() + self.proposals() >= self.limits.outbound_max;
        if is_full && !self.protected.contains(&peer) {
            for request in self.dials.take_requests_for(&peer) {
                self.answer_connect(
                    request,
                    Err(ConnectError::Full {
                        max: self.limits.peers_max,
                    }),
                );
            }
            return self.refuse(candidate, RefusedReason::Full);
        }
        self.orders.push_back(Order::Proceed {
            connection: candidate.connection,
        });
        self.contest(peer).proposed = Some(candidate);
    }

    pub(super) fn refuse(&mut self, candidate: Candidate<C>, reason: RefusedReason) {
        self.undecided.remove(&candidate.connection);
        self.orders.push_back(Order::Refuse {
            connection: candidate.connection,
            reason,
        });
    }

    /// Refuses every connection to a peer that is not kept.
    pub(super) fn end_contest(&mut self, peer: &PeerId, reason: RefusedReason) {
        let Some(contest) = self.contests.get_mut(peer) else {
            return;
        };
        let proposed = contest.proposed.take();
        let given_up = proposed.into_iter().chain(contest.accepted.take());
        let given_up: Vec<_> = given_up.collect();
        let challengers = contest.take_challengers();
        if contest.is_empty() {
            self.contests.remove(peer);
        }
        for candidate in given_up {
            self.give_up(candidate, reason);
        }
        for candidate in challengers {
            self.refuse(candidate, reason);
        }
    }

    /// Refuses a connection that the peer may already believe in.
    pub(super) fn give_up(&mut self, candidate: Candidate<C>, reason: RefusedReason) {
        let (connection, peer) = (candidate.connection, candidate.introduction.peer);
        self.refuse(candidate, reason);
        self.await_close(connection, peer);
    }

    /// [`Peers::settle`] decides nothing about the peer before this connection has closed.
    fn await_close(&mut self, connection: C, peer: PeerId) {
        self.undecided.insert(connection, peer);
        self.contest(peer).closing.push(connection);
    }

    pub(super) fn contest(&mut self, peer: PeerId) -> &mut Contest<C> {
        self.contests.entry(peer).or_insert_with(Contest::new)
    }

    /// Closes a kept connection.
    pub(super) fn drop_kept(&mut self, now: Instant, kept: PeerRef, reason: DisconnectReason) {
        let (Some(peer), Some(connection)) = (self.table.id(kept), self.table.connection(kept))
        else {
            return;
        };
        self.orders.push_back(Order::Close { connection, reason });
        self.await_close(connection, peer);
        self.forget_kept(now, kept, reason);
    }

    /// Takes a peer whose connection is gone out of the table.
    pub(super) fn forget_kept(&mut self, now: Instant, peer: PeerRef, reason: DisconnectReason) {
        let Some(record) = self.table.record(peer, None) else {
            return;
        };
        if self.table.remove(peer).is_some() {
            self.events.push_back(PeersEvent::Disconnected {
                peer,
                id: record.id,
                addr: record.addr,
                direction: record.direction,
                since: record.since,
                reason,
            });
            self.gather.forget(peer);
            self.gather_reports(now);
        }
    }

    /// Connected peers, and those for whom a place is set aside because they are deciding about us.
    pub(super) fn places_taken(&self) -> u32 {
        let is_reserved = |(peer, contest): &(&PeerId, &Contest<C>)| {
            contest.proposed.is_some() && self.table.find(peer).is_none()
        };
        self.table.len() + self.contests.iter().filter(is_reserved).count() as u32
    }

    fn places_taken_by_others(&self, peer: &PeerId) -> u32 {
        let has_place = self.table.find(peer).is_some()
            || self
                .contests
                .get(peer)
                .is_some_and(|contest| contest.proposed.is_some());
        self.places_taken() - u32::from(has_place)
    }

    fn proposals(&self) -> u32 {
        self.contests
            .values()
            .filter(|contest| contest.proposed.is_some())
            .count() as u32
    }
}
