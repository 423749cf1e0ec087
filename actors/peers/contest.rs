//! The connections to one peer between which nothing is decided yet. The rules are in the folder's `mod.rs`.

use mischief_reactor::Instant;

use super::message::{DialId, Direction, Introduction, ProbeToken};

/// A connection that is authenticated, but not kept yet.
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(Hash))]
pub(super) struct Candidate<C> {
    pub(super) connection: C,
    /// The dial it came from; `None` for an inbound connection.
    pub(super) dial: Option<DialId>,
    pub(super) introduction: Introduction,
}

impl<C> Candidate<C> {
    pub(super) fn direction(&self) -> Direction {
        match self.dial {
            Some(_) => Direction::Outbound,
            None => Direction::Inbound,
        }
    }
}

/// What a contest waits for, at the latest until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(Hash))]
pub(super) enum Wait {
    Nothing,
    /// The kept connection's answer to a ping: a challenger takes the place of a connection that is silent.
    Probe {
        deadline: Instant,
        token: ProbeToken,
        /// A challenger came after the ping. The answer may be older than the challenger, from before the peer restarted, so it
        /// says nothing: another ping is needed.
        is_stale: bool,
    },
    /// The peer's verdict on `proposed`, for which the others have to wait.
    Hold {
        deadline: Instant,
    },
}

impl Wait {
    pub(super) fn deadline(self) -> Option<Instant> {
        match self {
            Wait::Nothing => None,
            Wait::Probe { deadline, .. } | Wait::Hold { deadline } => Some(deadline),
        }
    }

    /// A new challenger has come.
    pub(super) fn handle_challenger(&mut self) {
        if let Wait::Probe { is_stale, .. } = self {
            *is_stale = true;
        }
    }
}

/// Inbound connections from one peer that wait at a time; of more, the oldest is refused.
const HELD_MAX: usize = 4;

/// The undecided connections to one peer. Exists only while there is one.
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(Hash))]
pub(super) struct Contest<C> {
    /// We dialled, and message 3 is on its way or there: the peer decides.
    pub(super) proposed: Option<Candidate<C>>,
    /// We dialled and the peer has accepted, while another connection is kept here.
    pub(super) accepted: Option<Candidate<C>>,
    /// The peer dialled and we have to decide; the newest last. Several only if the peer has restarted or gives up quickly.
    pub(super) held: Vec<Candidate<C>>,
    /// We dialled and the peer is known, but message 3 has not been sent: the peer does not know us.
    pub(super) parked: Vec<Candidate<C>>,
    /// Connections that the peer may believe in and that were told to close. Nothing is decided before they have: their
    /// ends could still answer the peer's pings and so make it refuse what we begin next.
    pub(super) closing: Vec<C>,
    pub(super) wait: Wait,
}

impl<C: Copy + Eq> Contest<C> {
    pub(super) fn new() -> Contest<C> {
        Contest {
            proposed: None,
            accepted: None,
            held: Vec::new(),
            parked: Vec::new(),
            closing: Vec::new(),
            wait: Wait::Nothing,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.closing.is_empty() && !self.has_candidate()
    }

    /// Whether there is a connection that may come to be kept.
    pub(super) fn has_candidate(&self) -> bool {
        self.proposed.is_some() || self.has_challenger()
    }

    /// Whether something waits that could take the place of a kept connection.
    pub(super) fn has_challenger(&self) -> bool {
        self.accepted.is_some() || !self.held.is_empty() || !self.parked.is_empty()
    }

    /// Whether a connection waits that can be kept at once.
    pub(super) fn has_successor(&self) -> bool {
        self.accepted.is_some() || !self.held.is_empty()
    }

    /// Adds an inbound connection. Returns the one that is too many.
    pub(super) fn hold(&mut self, candidate: Candidate<C>) -> Option<Candidate<C>> {
        self.held.push(candidate);
        self.wait.handle_challenger();
        (self.held.len() > HELD_MAX).then(|| self.held.remove(0))
    }

    /// Takes out the challengers.
    pub(super) fn take_challengers(&mut self) -> Vec<Candidate<C>> {
        let accepted = self.accepted.take().into_iter();
        accepted
            .chain(self.held.drain(..))
            .chain(self.parked.drain(..))
            .collect()
    }

    /// Takes out one connection, wherever it is.
    pub(super) fn take(&mut self, connection: C) -> Option<Candidate<C>> {
        self.closing.retain(|&closing| closing != connection);
        let is_it = |candidate: &mut Candidate<C>| candidate.connection == connection;
        self.proposed
            .take_if(is_it)
            .or_else(|| self.accepted.take_if(is_it))
            .or_else(|| self.held.extract_if(.., is_it).next())
            .or_else(|| self.parked.extract_if(.., is_it).next())
    }
}
