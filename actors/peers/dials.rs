//! Dials under way and the requests that wait for them.

use std::collections::BTreeMap;

use mischief_reactor::Instant;
use smallvec::SmallVec;

use super::PeerId;
use super::message::{DialId, RequestId};
use crate::connection::{ADDRESSES_MAX, Endpoint};

/// A request that waits for a dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(Hash))]
pub(super) struct Asked {
    pub(super) request: RequestId,
    /// Whom it wants to be connected to, if not just anybody at the endpoint.
    pub(super) expected: Option<PeerId>,
}

impl Asked {
    pub(super) fn wants(&self, peer: &PeerId) -> bool {
        self.expected.is_none_or(|expected| expected == *peer)
    }
}

/// One dial. Several requests may wait for it.
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(Hash))]
pub(super) struct Dialling {
    /// Where to; the first is named in errors. At most [`ADDRESSES_MAX`].
    pub(super) endpoints: SmallVec<[Endpoint; 1]>,
    pub(super) asked: Vec<Asked>,
    /// Whom the dial is for. Stays when the requests have been answered in another way.
    expected: Option<PeerId>,
    /// Whether a request took whoever answers.
    takes_anybody: bool,
    /// Who has answered.
    pub(super) peer: Option<PeerId>,
    pub(super) deadline: Instant,
}

impl Dialling {
    /// Whether there is, or was, a request that this peer satisfies.
    pub(super) fn wants(&self, peer: &PeerId) -> bool {
        self.takes_anybody
            || self.expected == Some(*peer)
            || self.asked.iter().any(|asked| asked.wants(peer))
    }

    /// Whom the dial is for, where `found` is not wanted.
    pub(super) fn expected_instead_of(&self, found: PeerId) -> PeerId {
        let other = self.asked.iter().find_map(|asked| asked.expected);
        self.expected.or(other).unwrap_or(found)
    }

    /// Whether a request for this endpoint and peer can wait here.
    fn serves(&self, endpoint: &Endpoint, expected: Option<PeerId>) -> bool {
        let is_for_another = self.peer.is_some() && expected.is_some() && self.peer != expected;
        let is_for_same_peer = expected.is_some() && self.expected == expected;
        !is_for_another && (self.endpoints.contains(endpoint) || is_for_same_peer)
    }
}

/// What a new request is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Joined {
    /// A new dial has begun.
    Began(DialId),
    /// It waits for a dial under way, which now has one endpoint more.
    Added(DialId),
    /// It waits for a dial under way.
    Waits,
}

/// All dials under way.
#[derive(Clone, Debug, Default)]
#[cfg_attr(test, derive(Hash))]
pub(super) struct Dials {
    dials: BTreeMap<DialId, Dialling>,
    next: u32,
}

impl Dials {
    pub(super) fn len(&self) -> usize {
        self.dials.len()
    }

    /// Requests that wait.
    pub(super) fn asked(&self) -> usize {
        self.dials
            .values()
            .map(|dialling| dialling.asked.len())
            .sum()
    }

    /// Lets a request wait for the dial to the same endpoint or the same peer, else for a new dial. `None` if that would be
    /// one more than `max`.
    pub(super) fn join(
        &mut self,
        asked: Asked,
        endpoint: &Endpoint,
        max: usize,
        deadline: Instant,
    ) -> Option<Joined> {
        let found = self
            .dials
            .iter_mut()
            .find(|(_, dialling)| dialling.serves(endpoint, asked.expected));
        if let Some((&dial, dialling)) = found {
            dialling.asked.push(asked);
            dialling.takes_anybody |= asked.expected.is_none();
            let is_new =
                !dialling.endpoints.contains(endpoint) && dialling.endpoints.len() < ADDRESSES_MAX;
            if !is_new {
                return Some(Joined::Waits);
            }
            dialling.endpoints.push(endpoint.clone());
            return Some(Joined::Added(dial));
        }
        if self.dials.len() >= max {
            return None;
        }
        while self.dials.contains_key(&DialId(self.next)) {
            self.next = self.next.wrapping_add(1);
        }
        let dial = DialId(self.next);
        self.next = self.next.wrapping_add(1);
        let dialling = Dialling {
            endpoints: SmallVec::from_iter([endpoint.clone()]),
            asked: vec![asked],
            expected: asked.expected,
            takes_anybody: asked.expected.is_none(),
            peer: None,
            deadline,
        };
        self.dials.insert(dial, dialling);
        Some(Joined::Began(dial))
    }

    pub(super) fn get_mut(&mut self, dial: DialId) -> Option<&mut Dialling> {
        self.dials.get_mut(&dial)
    }

    pub(super) fn remove(&mut self, dial: DialId) -> Option<Dialling> {
        self.dials.remove(&dial)
    }

    /// Takes out one request. Returns its dial, and whether nobody waits for that any more.
    pub(super) fn take_request(&mut self, request: RequestId) -> Option<(DialId, bool)> {
        self.dials.iter_mut().find_map(|(&dial, dialling)| {
            let at = dialling
                .asked
                .iter()
                .position(|asked| asked.request == request)?;
            dialling.asked.remove(at);
            Some((dial, dialling.asked.is_empty()))
        })
    }

    /// Takes out the requests that a connection to `peer` answers.
    pub(super) fn take_requests_for(&mut self, peer: &PeerId) -> Vec<RequestId> {
        let mut taken = Vec::new();
        for dialling in self.dials.values_mut() {
            let has_answered = dialling.peer == Some(*peer);
            dialling.asked.retain(|asked| {
                let is_answered =
                    asked.expected == Some(*peer) || has_answered && asked.wants(peer);
                if is_answered {
                    taken.push(asked.request);
                }
                !is_answered
            });
        }
        taken
    }

    /// Dials that nobody waits for and that are, as far as is known, only for `peer`.
    pub(super) fn idle_for(&self, peer: &PeerId) -> Vec<DialId> {
        let is_for_it = |dialling: &Dialling| {
            dialling.peer == Some(*peer)
                || dialling.expected == Some(*peer) && !dialling.takes_anybody
        };
        let idle = self
            .dials
            .iter()
            .filter(|(_, dialling)| dialling.asked.is_empty() && is_for_it(dialling));
        idle.map(|(&dial, _)| dial).collect()
    }

    /// The dials, oldest first as long as their numbers have not wrapped.
    pub(super) fn ids(&self) -> Vec<DialId> {
        self.dials.keys().copied().collect()
    }

    /// A dial whose deadline has come.
    pub(super) fn expired(&self, now: Instant) -> Option<DialId> {
        self.dials
            .iter()
            .find(|(_, dialling)| dialling.deadline <= now)
            .map(|(&dial, _)| dial)
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.dials.values().map(|dialling| dialling.deadline).min()
    }
}
