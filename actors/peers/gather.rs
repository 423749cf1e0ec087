//! Collecting what every connection has carried, for a list of the peers.
//!
//! Connections count for themselves and report only when asked, so that traffic costs no message between actors. Requests
//! that come while reports are awaited wait for the next round: they get figures from after they asked.

use std::collections::BTreeMap;

use mischief_reactor::Instant;

use super::message::{PeerRef, RequestId, Traffic};

#[derive(Clone, Debug, Default)]
#[cfg_attr(test, derive(Hash))]
pub(super) struct Gather {
    round: Option<Round>,
    /// Requests for the next round.
    next: Vec<RequestId>,
}

/// One question to every connection.
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(Hash))]
pub(super) struct Round {
    pub(super) requests: Vec<RequestId>,
    reports: BTreeMap<PeerRef, Option<Traffic>>,
    missing: usize,
    deadline: Instant,
}

impl Gather {
    /// Requests that wait for a list.
    pub(super) fn asked(&self) -> usize {
        self.next.len() + self.round.as_ref().map_or(0, |round| round.requests.len())
    }

    pub(super) fn ask(&mut self, request: RequestId) {
        self.next.push(request);
    }

    /// Begins a round if one is wanted and none runs. The peers are to be asked for their reports.
    pub(super) fn begin(
        &mut self,
        peers: impl Iterator<Item = PeerRef>,
        deadline: Instant,
    ) -> Vec<PeerRef> {
        if self.round.is_some() || self.next.is_empty() {
            return Vec::new();
        }
        let peers: Vec<PeerRef> = peers.collect();
        self.round = Some(Round {
            requests: std::mem::take(&mut self.next),
            reports: peers.iter().map(|&peer| (peer, None)).collect(),
            missing: peers.len(),
            deadline,
        });
        peers
    }

    pub(super) fn handle_report(&mut self, peer: PeerRef, traffic: Traffic) {
        let Some(round) = &mut self.round else { return };
        if let Some(report) = round.reports.get_mut(&peer)
            && report.replace(traffic).is_none()
        {
            round.missing -= 1;
        }
    }

    /// A peer is gone: nothing is awaited from it.
    pub(super) fn forget(&mut self, peer: PeerRef) {
        if let Some(round) = &mut self.round
            && round.reports.remove(&peer) == Some(None)
        {
            round.missing -= 1;
        }
    }

    /// The round, if it is complete or its deadline has come.
    pub(super) fn finish(&mut self, now: Instant) -> Option<Round> {
        self.round
            .take_if(|round| round.missing == 0 || round.deadline <= now)
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.round.as_ref().map(|round| round.deadline)
    }
}

impl Round {
    /// What a peer has reported.
    pub(super) fn traffic(&self, peer: PeerRef) -> Option<Traffic> {
        self.reports.get(&peer).copied().flatten()
    }
}
