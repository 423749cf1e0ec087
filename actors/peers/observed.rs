//! Under which address others see this node. Each says so in its hello; one of them may lie, so several that are likely to be
//! independent have to agree.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::subnet::{Group, is_dialable, is_private};

/// Groups of addresses that have to agree.
pub const OBSERVERS_MIN: usize = 3;

/// Groups whose word is remembered. Of more, the lowest one makes room.
const VOTES_MAX: usize = 64;

/// What others say, one word for each group of addresses and family.
#[derive(Clone, Debug, Default)]
pub(super) struct Observed {
    votes: BTreeMap<(bool, Group), IpAddr>,
    known: [Option<IpAddr>; 2],
}

impl Observed {
    /// A peer at `from` sees this node at `seen`. Returns the address if that makes it the one that is believed.
    ///
    /// A peer on the same network sees a private address, which is of no use elsewhere, and so is not counted.
    pub(super) fn vote(&mut self, from: IpAddr, seen: IpAddr) -> Option<IpAddr> {
        let seen = seen.to_canonical();
        let is_v4 = seen.is_ipv4();
        if is_private(from) || is_private(seen) || !is_dialable((seen, 1).into()) {
            return None;
        }
        let key = (is_v4, Group::of(from));
        if self.votes.len() >= VOTES_MAX && !self.votes.contains_key(&key) {
            self.votes.pop_first();
        }
        self.votes.insert(key, seen);
        let known = &mut self.known[usize::from(is_v4)];
        let votes = self.votes.values().filter(|vote| **vote == seen).count();
        let for_known = self
            .votes
            .values()
            .filter(|vote| Some(**vote) == *known)
            .count();
        let is_new = *known != Some(seen) && votes >= OBSERVERS_MIN && votes > for_known;
        is_new.then(|| *known.insert(seen))
    }

    /// The addresses that are believed, IPv4 first.
    pub(super) fn addrs(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.known.iter().rev().flatten().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn three_groups_have_to_agree() {
        let mut observed = Observed::default();
        let own = ip("198.51.100.7");
        for from in [
            "1.1.0.1",
            "1.1.0.2",
            "1.1.200.3",
            "2.2.0.1",
            "10.0.0.1",
            "10.0.0.2",
        ] {
            assert_eq!(observed.vote(ip(from), own), None, "{from}");
        }
        assert_eq!(observed.vote(ip("3.3.0.1"), own), Some(own));
        assert_eq!(observed.vote(ip("4.4.0.1"), own), None, "it is known");
        assert_eq!(observed.addrs().collect::<Vec<_>>(), [own]);
    }

    #[test]
    fn a_new_address_needs_more_than_the_old_one_has() {
        let mut observed = Observed::default();
        let (old, new) = (ip("198.51.100.7"), ip("203.0.113.9"));
        let from = |n: u8| IpAddr::from([n, n, 0, 1]);
        for n in 1..=4 {
            observed.vote(from(n), old);
        }
        for n in 5..=7 {
            assert_eq!(observed.vote(from(n), new), None);
        }
        assert_eq!(observed.vote(from(4), new), Some(new), "four against three");
    }

    #[test]
    fn private_and_impossible_addresses_do_not_count_and_votes_are_bounded() {
        let mut observed = Observed::default();
        for n in 1..=9u8 {
            let from = IpAddr::from([n + 20, n, 0, 1]);
            for seen in ["192.168.1.2", "0.0.0.0", "224.0.0.1", "127.0.0.1"] {
                assert_eq!(observed.vote(from, ip(seen)), None);
            }
        }
        for n in 0..10_000u32 {
            let from = IpAddr::from((0x0b00_0000 + (n << 12)).to_be_bytes());
            observed.vote(from, IpAddr::from((0xc633_0000 + n).to_be_bytes()));
        }
        assert!(observed.votes.len() <= VOTES_MAX);
    }
}
