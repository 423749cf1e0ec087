//! Our own address, as others see it: nobody knows it from within, and nobody alone is believed (BEP 42, "Bootstrapping").

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mischief_reactor::Instant;

use super::address::{Prefix, is_usable};

/// So many votes decide.
pub const VOTES_ENOUGH: usize = 25;

/// Fewer for the leader decide nothing, unless nobody else is there to ask.
pub const VOTES_MIN: u32 = 2;

/// After so many, or after [`ROUND_MAX`], counting begins anew.
pub const VOTES_MAX: usize = 50;

/// How long votes are counted.
pub const ROUND_MAX: Duration = Duration::from_secs(5 * 60);

/// Addresses that are counted at a time; votes for more are not.
pub const CANDIDATES_MAX: usize = 16;

/// Counts what others say our address is.
#[derive(Debug)]
pub struct Votes {
    voters: BTreeSet<Prefix>,
    candidates: Vec<(IpAddr, u32)>,
    begun: Instant,
    decided: Option<IpAddr>,
    /// The port that most see, by majority: a NAT that gives each of them another has none.
    port: u16,
    port_lead: u32,
}

impl Votes {
    /// Nothing said yet.
    pub fn new(now: Instant) -> Votes {
        Votes {
            voters: BTreeSet::new(),
            candidates: Vec::new(),
            begun: now,
            decided: None,
            port: 0,
            port_lead: 0,
        }
    }

    /// The address that was decided on.
    pub fn decided(&self) -> Option<IpAddr> {
        self.decided
    }

    /// The best guess at address and port together: what was decided or else leads.
    pub fn likely(&self) -> Option<SocketAddr> {
        let leader = self.candidates.iter().max_by_key(|(_, votes)| *votes);
        let ip = self.decided.or(leader.map(|(ip, _)| *ip))?;
        (self.port_lead > 0).then_some(SocketAddr::new(ip, self.port))
    }

    /// A node has said what our address is. Each owner has one vote. `true` if that decides for another address than before.
    pub fn cast(&mut self, now: Instant, from: SocketAddr, seen: SocketAddr) -> bool {
        if !is_usable(seen) || seen.is_ipv4() != from.is_ipv4() {
            return false;
        }
        if self.voters.len() >= VOTES_MAX || now.saturating_duration_since(self.begun) >= ROUND_MAX
        {
            let changed = self.decide(now, VOTES_MIN);
            self.cast(now, from, seen);
            return changed;
        }
        if !self.voters.insert(Prefix::of(from)) {
            return false;
        }
        if self.port_lead == 0 || self.port == seen.port() {
            self.port = seen.port();
            self.port_lead += 1;
        } else {
            self.port_lead -= 1;
        }
        match self.candidates.iter().position(|(ip, _)| *ip == seen.ip()) {
            Some(at) => self.candidates[at].1 += 1,
            None if self.candidates.len() < CANDIDATES_MAX => self.candidates.push((seen.ip(), 1)),
            None => return false,
        }
        self.decided.is_none() && self.voters.len() >= VOTES_ENOUGH && self.decide(now, VOTES_MIN)
    }

    /// Decides by the votes there are, if they are clear: at least `votes_min` for the leader, and less than two thirds of that
    /// for the next. Counting begins anew. `true` if the address is another than before.
    pub fn decide(&mut self, now: Instant, votes_min: u32) -> bool {
        let mut candidates = std::mem::take(&mut self.candidates);
        self.voters.clear();
        self.begun = now;
        candidates.sort_by_key(|(_, votes)| std::cmp::Reverse(*votes));
        let Some(&(leader, votes)) = candidates.first() else {
            return false;
        };
        let next = candidates.get(1).map_or(0, |(_, votes)| *votes);
        if votes < votes_min || next * 3 >= votes * 2 {
            return false;
        }
        self.decided.replace(leader) != Some(leader)
    }

    /// Forgets everything: we may be in another network.
    pub fn reset(&mut self, now: Instant) {
        *self = Votes::new(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn voter(number: u8) -> SocketAddr {
        ([8, 8, number, 1], 1).into()
    }

    fn seen(last: u8) -> SocketAddr {
        ([192, 0, 2, last], 6881).into()
    }

    #[test]
    fn many_votes_decide_and_few_do_not() {
        let mut votes = Votes::new(Instant::ZERO);
        for number in 1..VOTES_ENOUGH as u8 {
            assert!(!votes.cast(Instant::ZERO, voter(number), seen(1)));
        }
        assert_eq!(votes.decided(), None);
        assert_eq!(votes.likely(), Some(seen(1)));
        assert!(votes.cast(Instant::ZERO, voter(200), seen(1)));
        assert_eq!(votes.decided(), Some(seen(1).ip()));
    }

    #[test]
    fn one_owner_has_one_vote() {
        let mut votes = Votes::new(Instant::ZERO);
        for port in 1..1000 {
            votes.cast(Instant::ZERO, ([8, 8, 8, 8], port).into(), seen(1));
        }
        assert!(!votes.decide(Instant::ZERO, VOTES_MIN));
        assert_eq!(votes.decided(), None);
    }

    #[test]
    fn a_close_race_decides_nothing() {
        let mut votes = Votes::new(Instant::ZERO);
        for number in 0..10 {
            votes.cast(Instant::ZERO, voter(number), seen(1 + number % 2));
        }
        assert!(!votes.decide(Instant::ZERO, VOTES_MIN));
    }

    #[test]
    fn a_new_address_is_noticed_after_a_round() {
        let mut votes = Votes::new(Instant::ZERO);
        for number in 0..3 {
            votes.cast(Instant::ZERO, voter(number), seen(1));
        }
        assert!(votes.decide(Instant::ZERO, VOTES_MIN));
        let later = Instant::ZERO + ROUND_MAX;
        for number in 0..VOTES_MAX as u8 {
            assert!(!votes.cast(later, voter(number), seen(2)));
        }
        assert!(votes.cast(later, voter(100), seen(2)), "the round is full");
        assert_eq!(votes.decided(), Some(seen(2).ip()));
    }

    #[test]
    fn candidates_are_bounded() {
        let mut votes = Votes::new(Instant::ZERO);
        for number in 0..40 {
            votes.cast(Instant::ZERO, voter(number), seen(number + 1));
        }
        assert_eq!(votes.candidates.len(), CANDIDATES_MAX);
        assert!(!votes.cast(
            Instant::ZERO,
            voter(41),
            "[::1]:1".parse().expect("an address")
        ));
        assert!(!votes.cast(Instant::ZERO, voter(41), ([0, 0, 0, 0], 1).into()));
    }

    #[test]
    fn ports_that_differ_have_no_majority() {
        let mut votes = Votes::new(Instant::ZERO);
        for number in 0..4 {
            votes.cast(
                Instant::ZERO,
                voter(number),
                ([192, 0, 2, 1], 1000 + u16::from(number)).into(),
            );
        }
        assert_eq!(votes.likely(), None);
    }
}
