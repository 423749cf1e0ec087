//! Who is let in: peers and ranges of addresses that are banned, for a while or for good, and those that alone are allowed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use mischief_reactor::Instant;

use super::PeerId;
use super::subnet::Subnet;

/// Peers and ranges that may be banned at a time, each counted by itself. Of more, the one that ends first is let go; bans
/// for good are never let go for others.
pub const BANS_MAX: usize = 4096;

/// Who is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// One peer, wherever it is.
    Peer(PeerId),
    /// Whoever is at these addresses.
    Subnet(Subnet),
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::Peer(peer) => peer.short().fmt(f),
            Target::Subnet(subnet) => subnet.fmt(f),
        }
    }
}

/// Peers and ranges that alone may connect. Empty ones allow everybody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowList {
    /// Peers.
    pub peers: BTreeSet<PeerId>,
    /// Ranges.
    pub subnets: BTreeSet<Subnet>,
}

impl AllowList {
    fn allows(&self, peer: &PeerId, ip: IpAddr) -> bool {
        let has_peer = self.peers.is_empty() || self.peers.contains(peer);
        let in_range = |subnet: &Subnet| subnet.contains(ip);
        has_peer && (self.subnets.is_empty() || self.subnets.iter().any(in_range))
    }
}

/// There are as many bans as this node keeps, all of them for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this node already keeps {BANS_MAX} bans that do not end: unban somebody first")]
pub struct BansFull;

/// All bans of a node. `None` stands for one that does not end.
#[derive(Clone, Debug, Default)]
pub(super) struct Bans {
    bans: BTreeMap<Target, Option<Instant>>,
    allowed: AllowList,
}

impl Bans {
    /// No bans, and perhaps nobody allowed but some.
    pub(super) fn with_allowed(allowed: AllowList) -> Bans {
        let bans = BTreeMap::new();
        Bans { bans, allowed }
    }

    /// Bans somebody until an instant, or for good. A ban that is there already is replaced.
    pub(super) fn ban(&mut self, target: Target, until: Option<Instant>) -> Result<(), BansFull> {
        let is_peer = matches!(target, Target::Peer(_));
        let of_kind = |other: &Target| matches!(other, Target::Peer(_)) == is_peer;
        let count = self.bans.keys().filter(|other| of_kind(other)).count();
        if count >= BANS_MAX && !self.bans.contains_key(&target) {
            let ending = self.bans.iter().filter(|(other, _)| of_kind(other));
            let first = ending.filter_map(|(other, until)| until.map(|until| (until, *other)));
            let (_, first) = first.min().ok_or(BansFull)?;
            self.bans.remove(&first);
        }
        self.bans.insert(target, until);
        Ok(())
    }

    /// Ends a ban. `false` if there is none.
    pub(super) fn unban(&mut self, target: &Target) -> bool {
        self.bans.remove(target).is_some()
    }

    /// Whether a peer at an address may be connected.
    pub(super) fn admits(&self, peer: &PeerId, ip: IpAddr) -> bool {
        !self.bans.contains_key(&Target::Peer(*peer))
            && !self.bans_ip(ip)
            && self.allowed.allows(peer, ip)
    }

    /// Whether a peer is banned itself, wherever it is.
    pub(super) fn bans_peer(&self, peer: &PeerId) -> bool {
        self.bans.contains_key(&Target::Peer(*peer))
    }

    /// Whether an address is banned.
    pub(super) fn bans_ip(&self, ip: IpAddr) -> bool {
        let first = Target::Subnet(
            Subnet::new(std::net::Ipv6Addr::UNSPECIFIED.into(), 0).expect("it has no bits"),
        );
        self.bans.range(first..).any(|(target, _)| match target {
            Target::Subnet(subnet) => subnet.contains(ip),
            Target::Peer(_) => false,
        })
    }

    /// Takes out the bans that end by now.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Target> {
        let is_over = |until: &Option<Instant>| until.is_some_and(|until| until <= now);
        let over = self.bans.iter().filter(|(_, until)| is_over(until));
        let over: Vec<Target> = over.map(|(target, _)| *target).collect();
        for target in &over {
            self.bans.remove(target);
        }
        over
    }

    /// When the next ban ends.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.bans.values().flatten().min().copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Target, Option<Instant>)> + '_ {
        self.bans.iter().map(|(target, until)| (*target, *until))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    fn peer(n: u32) -> PeerId {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        PeerId::from_bytes(bytes)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn bans_hold_until_they_end() {
        let mut bans = Bans::default();
        let range = Target::Subnet("192.0.2.0/24".parse().unwrap());
        bans.ban(Target::Peer(peer(1)), Some(at(10))).unwrap();
        bans.ban(range, None).unwrap();
        assert!(!bans.admits(&peer(1), ip("198.51.100.1")));
        assert!(!bans.admits(&peer(2), ip("192.0.2.9")));
        assert!(!bans.admits(&peer(2), ip("::ffff:192.0.2.9")));
        assert!(bans.admits(&peer(2), ip("192.0.3.9")));
        assert_eq!(bans.deadline(), Some(at(10)));
        assert_eq!(bans.expire(at(9)), []);
        assert_eq!(bans.expire(at(10)), [Target::Peer(peer(1))]);
        assert!(bans.admits(&peer(1), ip("198.51.100.1")));
        assert!(bans.unban(&range) && !bans.unban(&range));
        assert!(bans.admits(&peer(2), ip("192.0.2.9")));
    }

    #[test]
    fn an_everything_range_of_either_family_is_found() {
        for (range, other) in [("0.0.0.0/0", "2001:db8::1"), ("::/0", "192.0.2.1")] {
            let mut bans = Bans::default();
            bans.ban(Target::Subnet(range.parse().unwrap()), None)
                .unwrap();
            assert!(bans.bans_ip(range.split('/').next().unwrap().parse().unwrap()));
            assert!(!bans.bans_ip(ip(other)));
        }
    }

    #[test]
    fn an_allow_list_lets_nobody_else_in() {
        let mut bans = Bans::default();
        bans.allowed.peers.insert(peer(1));
        assert!(bans.admits(&peer(1), ip("192.0.2.1")) && !bans.admits(&peer(2), ip("192.0.2.1")));
        bans.allowed.subnets.insert("192.0.2.0/24".parse().unwrap());
        assert!(
            !bans.admits(&peer(1), ip("192.0.3.1")),
            "both have to allow it"
        );
        bans.ban(Target::Peer(peer(1)), None).unwrap();
        assert!(!bans.admits(&peer(1), ip("192.0.2.1")), "a ban goes first");
    }

    #[test]
    fn at_the_limit_the_ban_that_ends_first_goes() {
        let mut bans = Bans::default();
        bans.ban(Target::Peer(peer(0)), Some(at(5))).unwrap();
        for n in 1..BANS_MAX as u32 {
            bans.ban(Target::Peer(peer(n)), None).unwrap();
        }
        bans.ban(Target::Subnet("192.0.2.0/24".parse().unwrap()), None)
            .unwrap();
        assert!(bans.bans_peer(&peer(0)));
        bans.ban(Target::Peer(peer(9999)), None).unwrap();
        assert!(!bans.bans_peer(&peer(0)) && bans.bans_peer(&peer(9999)));
        assert_eq!(bans.ban(Target::Peer(peer(10_000)), None), Err(BansFull));
        assert_eq!(
            bans.ban(Target::Peer(peer(9999)), Some(at(1))),
            Ok(()),
            "replaced"
        );
    }
}
