//! One iterative lookup in one family: asks nodes nearer and nearer to a target until the nearest have answered.
//!
//! What an attacker does to lookups is to name nodes of its own. Against that:
//!
//! - *Several paths.* A node belongs to the path on which it was first named, and every path goes on as long as it gets nearer,
//!   however near the nodes are that another path claims to know.
//! - *One node for each owner* ([`Prefix`]).
//! - *Ids that fit addresses.* A node whose id does not fit its address (BEP 42) is asked only when others are lacking, never
//!   ends a lookup and never stores anything.
//! - *A radius.* How many nodes there are is known about. All nodes within the distance in which eight should be belong to the
//!   closest set, so that eight of somebody's who stand closer do not push the others out.

use std::net::SocketAddr;

use super::address::{Contact, Family, Prefix, is_local};
use super::node_id::{Distance, NodeId};
use super::routing::BUCKET_SIZE;

/// Nodes that a lookup remembers; of more the farthest are forgotten.
pub const CANDIDATES_MAX: usize = 128;

/// Queries of one lookup.
pub const QUERIES_MAX: usize = 100;

/// Queries that wait for their answers at a time; those that wait for long are not counted.
pub const PARALLEL_MAX: usize = 4;

/// Paths.
pub const PATHS: usize = 3;

/// The most nodes that something is stored on.
pub const STORE_MAX: usize = 2 * BUCKET_SIZE;

/// Nodes that are taken from one answer: as many as an honest one has.
pub const NODES_PER_ANSWER_MAX: usize = BUCKET_SIZE;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    New,
    Asked,
    /// Asked, and slower than most; it may still answer, but nobody waits for it.
    Slow,
    Answered,
    Failed,
}

#[derive(Clone, Debug)]
struct Candidate {
    distance: Distance,
    id: Option<NodeId>,
    addr: SocketAddr,
    path: u8,
    state: State,
    /// Whether it may be in the closest set.
    is_valid: bool,
    token: Option<Box<[u8]>>,
    seq: Option<i64>,
}

/// A node of the closest set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closest {
    /// Who and where.
    pub contact: Contact,
    /// What it wants to see when something is stored.
    pub token: Option<Box<[u8]>>,
    /// The sequence number of the item that it has.
    pub seq: Option<i64>,
}

/// A lookup.
#[derive(Debug)]
pub struct Lookup {
    target: NodeId,
    family: Family,
    checks_ids: bool,
    /// The distance within which eight nodes should be, as a part of the whole.
    radius: f64,
    /// Nearest first.
    candidates: Vec<Candidate>,
    queries: usize,
}

impl Lookup {
    /// A lookup that begins at these nodes, of which some may be known by address alone. `radius` is 0 when the size of the
    /// network is not known.
    pub fn new(
        target: NodeId,
        family: Family,
        checks_ids: bool,
        radius: f64,
        begin: impl IntoIterator<Item = (Option<NodeId>, SocketAddr)>,
    ) -> Lookup {
        let mut lookup = Lookup {
            target,
            family,
            checks_ids,
            radius,
            candidates: Vec::new(),
            queries: 0,
        };
        for (index, (id, addr)) in begin.into_iter().enumerate() {
            lookup.add(id, addr, (index % PATHS) as u8);
        }
        lookup
    }

    /// Queries so far.
    pub fn queries(&self) -> usize {
        self.queries
    }

    fn add(&mut self, id: Option<NodeId>, addr: SocketAddr, path: u8) {
        let prefix = Prefix::of(addr);
        let rival = self
            .candidates
            .iter()
            .position(|other| Prefix::of(other.addr) == prefix);
        if let Some(rival) = rival {
            let other = &self.candidates[rival];
            if other.addr == addr || !matches!(other.state, State::Failed | State::Slow) {
                return;
            }
            self.candidates.remove(rival);
        }
        let distance = id.map_or(Distance::MAX, |id| id.distance(&self.target));
        let at = self
            .candidates
            .partition_point(|other| other.distance <= distance);
        if at >= CANDIDATES_MAX {
            return;
        }
        let candidate = Candidate {
            distance,
            id,
            addr,
            path,
            state: State::New,
            is_valid: !self.checks_ids || id.is_none_or(|id| id.is_valid_for(addr.ip())),
            token: None,
            seq: None,
        };
        self.candidates.insert(at, candidate);
        if self.candidates.len() > CANDIDATES_MAX {
            // A node that has been asked is not forgotten: its answer is on the way.
            let last = self
                .candidates
                .iter()
                .rposition(|other| matches!(other.state, State::New | State::Failed));
            if let Some(last) = last {
                self.candidates.remove(last);
            }
        }
    }

    /// The places of the nodes that count: the nearest that may answer or have answered.
    fn nearest(&self) -> impl Iterator<Item = usize> + '_ {
        let alive = self.candidates.iter().enumerate().filter(|(_, candidate)| {
            candidate.is_valid && !matches!(candidate.state, State::Failed | State::Slow)
        });
        let ranked = alive.enumerate().take_while(|(rank, (_, candidate))| {
            *rank < BUCKET_SIZE
                || *rank < STORE_MAX && candidate.distance.as_fraction() <= self.radius
        });
        ranked.map(|(_, (at, _))| at)
    }

    /// Whether the nearest have answered.
    pub fn is_done(&self) -> bool {
        let is_waiting = self
            .candidates
            .iter()
            .any(|candidate| candidate.state == State::Asked);
        if self.queries >= QUERIES_MAX {
            return !is_waiting;
        }
        let mut count = 0;
        for at in self.nearest() {
            if self.candidates[at].state != State::Answered {
                return false;
            }
            count += 1;
        }
        count >= BUCKET_SIZE || !is_waiting && self.last_resort().is_none()
    }

    /// With too few others, a node is asked whose id does not fit its address.
    fn last_resort(&self) -> Option<usize> {
        self.candidates
            .iter()
            .position(|candidate| candidate.state == State::New)
    }

    /// Whom to ask next, if somebody is to be asked now.
    pub fn poll_query(&mut self) -> Option<SocketAddr> {
        let waiting = |path: Option<u8>| {
            let asked = self.candidates.iter().filter(|candidate| {
                candidate.state == State::Asked && path.is_none_or(|path| candidate.path == path)
            });
            asked.count()
        };
        if waiting(None) >= PARALLEL_MAX || self.queries >= QUERIES_MAX || self.is_done() {
            return None;
        }
        let fresh = |at: &usize| self.candidates[*at].state == State::New;
        let nearest: Vec<usize> = self.nearest().collect();
        let chosen = (0..PATHS as u8)
            .filter(|path| waiting(Some(*path)) == 0)
            .filter_map(|path| self.progress(path))
            .min()
            .or_else(|| {
                let open = nearest.iter().copied().filter(fresh);
                open.min_by_key(|at| (waiting(Some(self.candidates[*at].path)), *at))
            })
            .or_else(|| {
                let is_short = nearest.len() < BUCKET_SIZE;
                is_short.then(|| self.last_resort()).flatten()
            })?;
        let candidate = &mut self.candidates[chosen];
        candidate.state = State::Asked;
        self.queries += 1;
        Some(candidate.addr)
    }

    /// The nearest node of a path that has not been asked, if it is nearer than all of that path that have answered, and not
    /// so far that the answer cannot help.
    fn progress(&self, path: u8) -> Option<usize> {
        let mut of_path = self.candidates.iter().enumerate().filter(|(_, candidate)| {
            candidate.path == path
                && candidate.is_valid
                && !matches!(candidate.state, State::Failed | State::Slow)
        });
        let (at, candidate) = of_path.next()?;
        (candidate.state == State::New).then_some(at)
    }

    /// A node has answered. Returns whether it was asked in this lookup.
    pub fn handle_answer(
        &mut self,
        from: Contact,
        nodes: impl Iterator<Item = Contact>,
        token: Option<&[u8]>,
        seq: Option<i64>,
    ) -> bool {
        let asked = self.candidates.iter().position(|candidate| {
            candidate.addr == from.addr && matches!(candidate.state, State::Asked | State::Slow)
        });
        let Some(at) = asked else { return false };
        let mut candidate = self.candidates.remove(at);
        // Whoever named it may have been wrong about its id, or it was known by its address alone.
        candidate.id = Some(from.id);
        candidate.distance = from.id.distance(&self.target);
        candidate.is_valid = !self.checks_ids || from.id.is_valid_for(from.addr.ip());
        candidate.state = State::Answered;
        candidate.token = token.map(Box::from);
        candidate.seq = seq;
        let path = candidate.path;
        let at = self
            .candidates
            .partition_point(|other| other.distance <= candidate.distance);
        self.candidates.insert(at, candidate);
        for node in nodes.take(NODES_PER_ANSWER_MAX) {
            // A stranger must not make us knock at the doors of our own network.
            if Family::of(node.addr) == self.family
                && (is_local(from.addr.ip()) || !is_local(node.addr.ip()))
            {
                self.add(Some(node.id), node.addr, path);
            }
        }
        true
    }

    /// A node has not answered as fast as most do.
    pub fn handle_slow(&mut self, addr: SocketAddr) {
        self.mark(addr, State::Asked, State::Slow);
    }

    /// A node has not answered at all, or with an error.
    pub fn handle_failure(&mut self, addr: SocketAddr) {
        self.mark(addr, State::Asked, State::Failed);
        self.mark(addr, State::Slow, State::Failed);
    }

    fn mark(&mut self, addr: SocketAddr, from: State, to: State) {
        let candidate = self
            .candidates
            .iter_mut()
            .find(|candidate| candidate.addr == addr && candidate.state == from);
        if let Some(candidate) = candidate {
            candidate.state = to;
        }
    }

    /// The query that [`Lookup::poll_query`] asked for could not be sent.
    pub fn take_back(&mut self, addr: SocketAddr) {
        self.mark(addr, State::Asked, State::New);
        self.queries -= 1;
    }

    /// The nodes that answered and are to store something, nearest first: the nearest eight that have given a token and whose
    /// ids fit, and whoever else is within the radius.
    pub fn store_set(&self) -> Vec<Closest> {
        self.closest(|candidate| candidate.token.is_some())
    }

    /// The nearest nodes that answered.
    pub fn closest_set(&self) -> Vec<Closest> {
        self.closest(|_| true)
    }

    fn closest(&self, wanted: impl Fn(&Candidate) -> bool) -> Vec<Closest> {
        let answered = |is_valid: bool| {
            self.candidates.iter().filter(move |candidate| {
                candidate.is_valid == is_valid && candidate.state == State::Answered
            })
        };
        let ranked = answered(true)
            .filter(|candidate| wanted(candidate))
            .enumerate();
        let ranked = ranked.take_while(|(rank, candidate)| {
            *rank < BUCKET_SIZE
                || *rank < STORE_MAX && candidate.distance.as_fraction() <= self.radius
        });
        let ranked: Vec<_> = ranked.map(|(_, candidate)| candidate).collect();
        // BEP 42 allows the others beside all that fit; they are needed where hardly anybody knows its address yet.
        let missing = BUCKET_SIZE.saturating_sub(ranked.len());
        let others = answered(false)
            .filter(|candidate| wanted(candidate))
            .take(missing);
        let ranked = ranked.iter().copied().chain(others);
        let closest = ranked.filter_map(|candidate| {
            Some(Closest {
                contact: Contact {
                    id: candidate.id?,
                    addr: candidate.addr,
                },
                token: candidate.token.clone(),
                seq: candidate.seq,
            })
        });
        closest.collect()
    }

    /// How many nodes the network seems to have, by how near the nearest eight are. `None` if there are fewer.
    pub fn size_estimate(&self) -> Option<f64> {
        let answered = self
            .candidates
            .iter()
            .filter(|candidate| candidate.is_valid && candidate.state == State::Answered);
        let distances: Vec<f64> = answered
            .take(BUCKET_SIZE)
            .map(|candidate| candidate.distance.as_fraction())
            .collect();
        if distances.len() < BUCKET_SIZE {
            return None;
        }
        // The i-th nearest of n is expected at i/(n+1): the slope through the origin that fits all eight best.
        let squares: usize = (1..=BUCKET_SIZE).map(|i| i * i).sum();
        let sum: f64 = distances
            .iter()
            .enumerate()
            .map(|(index, distance)| (index + 1) as f64 * distance)
            .sum();
        (sum > 0.0).then(|| squares as f64 / sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node in a network of its own, whose id fits.
    fn node(number: u32) -> Contact {
        let [_, a, b, c] = number.to_be_bytes();
        let addr: SocketAddr = ([20 + a, b, c, 1], 6881).into();
        let mut random = crate::dht::dice::Dice::new(&[number as u8; 32]);
        Contact {
            id: NodeId::for_ip(addr.ip(), &mut random),
            addr,
        }
    }

    fn lookup(begin: std::ops::Range<u32>) -> Lookup {
        let begin = begin.map(|number| (Some(node(number).id), node(number).addr));
        Lookup::new(NodeId([7; 20]), Family::V4, true, 0.0, begin)
    }

    #[test]
    fn few_are_asked_at_a_time_and_the_slow_do_not_count() {
        let mut lookup = lookup(0..50);
        let asked: Vec<_> = std::iter::from_fn(|| lookup.poll_query()).collect();
        assert_eq!(asked.len(), PARALLEL_MAX);
        lookup.handle_slow(asked[0]);
        assert!(lookup.poll_query().is_some());
        assert!(lookup.poll_query().is_none());
    }

    #[test]
    fn candidates_and_what_one_answer_adds_are_bounded() {
        let mut lookup = lookup(0..CANDIDATES_MAX as u32 + 50);
        assert_eq!(lookup.candidates.len(), CANDIDATES_MAX);
        let addr = lookup.poll_query().expect("somebody is asked");
        let from = Contact {
            id: NodeId([7; 20]),
            addr,
        };
        let before = lookup
            .candidates
            .iter()
            .filter(|other| other.state == State::New)
            .count();
        assert!(lookup.handle_answer(from, (1000..2000).map(node), None, None));
        let known: Vec<_> = lookup.candidates.iter().map(|other| other.addr).collect();
        let added = (1000..2000)
            .filter(|number| known.contains(&node(*number).addr))
            .count();
        assert!(added <= NODES_PER_ANSWER_MAX && lookup.candidates.len() <= CANDIDATES_MAX);
        assert!(before >= CANDIDATES_MAX - PARALLEL_MAX);
        assert!(
            !lookup.handle_answer(from, std::iter::empty(), None, None),
            "it has answered"
        );
    }

    #[test]
    fn a_lookup_that_is_led_on_for_ever_ends() {
        let mut lookup = lookup(0..8);
        let mut number = 100;
        while !lookup.is_done() {
            let addr = lookup.poll_query().expect("it goes on or is done");
            let known = lookup.candidates.iter().find(|other| other.addr == addr);
            let id = known
                .and_then(|known| known.id)
                .expect("all are known by id");
            // Each names others, and then fails.
            let named = (number..number + 8).map(node);
            number += 8;
            lookup.handle_answer(Contact { id, addr }, named, None, None);
            if let Some(other) = lookup
                .candidates
                .iter_mut()
                .find(|other| other.addr == addr)
            {
                other.state = State::Failed;
            }
        }
        assert!(lookup.queries() <= QUERIES_MAX);
    }

    #[test]
    fn the_closest_set_is_bounded() {
        let mut lookup = lookup(0..60);
        // A network that seems to have eight nodes in all: everybody is within the radius.
        lookup.radius = 1.0;
        while let Some(addr) = lookup.poll_query() {
            let known = lookup.candidates.iter().find(|other| other.addr == addr);
            let id = known
                .and_then(|known| known.id)
                .expect("all are known by id");
            lookup.handle_answer(
                Contact { id, addr },
                std::iter::empty(),
                Some(b"token"),
                None,
            );
        }
        assert!(lookup.is_done());
        assert_eq!(lookup.store_set().len(), STORE_MAX);
        lookup.radius = 0.0;
        assert_eq!(lookup.store_set().len(), BUCKET_SIZE);
    }

    #[test]
    fn a_lookup_without_anybody_is_done() {
        let mut lookup = lookup(0..0);
        assert!(lookup.is_done() && lookup.poll_query().is_none());
        assert!(lookup.store_set().is_empty() && lookup.size_estimate().is_none());
    }

    #[test]
    fn strangers_do_not_lead_into_a_local_network() {
        let mut lookup = lookup(0..1);
        let addr = lookup.poll_query().expect("somebody is asked");
        let local = Contact {
            id: NodeId([7; 20]),
            addr: "192.168.1.1:1".parse().expect("an address"),
        };
        let from = Contact {
            id: node(0).id,
            addr,
        };
        lookup.handle_answer(from, std::iter::once(local), None, None);
        assert!(lookup.is_done());
    }
}
