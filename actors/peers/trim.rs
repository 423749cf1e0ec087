//! Which peer makes room for another.
//!
//! Whoever wants to be alone with a node fills its places. So places are shared out over groups of addresses that are
//! likely to be one hand's: a newcomer of a group with few peers takes the place of one of the group with most. Of that
//! group the youngest goes, because a connection that has lasted is worth more, and cannot be had quickly.

use std::collections::BTreeMap;

use mischief_reactor::Instant;

use super::message::PeerRef;
use super::subnet::Group;

/// A connected peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placed {
    pub(super) peer: PeerRef,
    pub(super) group: Group,
    pub(super) since: Instant,
    pub(super) is_inbound: bool,
    pub(super) is_protected: bool,
}

/// A peer that would be connected.
#[derive(Clone, Copy, Debug)]
pub(super) struct Newcomer {
    pub(super) group: Group,
    pub(super) is_inbound: bool,
    pub(super) is_protected: bool,
}

/// Who goes, if anybody. With `only_inbound` an outbound peer's place would be of no use.
///
/// Nobody takes the place of a protected peer. For others than protected newcomers no peer goes that this node chose itself,
/// and none of a group that would then be smaller than the newcomer's.
pub(super) fn choose(
    placed: impl Iterator<Item = Placed>,
    newcomer: Newcomer,
    only_inbound: bool,
) -> Option<PeerRef> {
    if !newcomer.is_inbound && !newcomer.is_protected {
        return None;
    }
    let mut groups: BTreeMap<Group, (usize, Option<Placed>)> = BTreeMap::new();
    for peer in placed {
        let (size, youngest) = groups.entry(peer.group).or_default();
        *size += 1;
        let may_go =
            !peer.is_protected && (peer.is_inbound || newcomer.is_protected && !only_inbound);
        let is_younger = youngest.is_none_or(|other| other.since <= peer.since);
        if may_go && is_younger {
            *youngest = Some(peer);
        }
    }
    let own_size = groups.get(&newcomer.group).map_or(0, |(size, _)| *size);
    let with_victim = groups
        .into_values()
        .filter_map(|(size, youngest)| Some((size, youngest?)));
    let (size, victim) = with_victim.max_by_key(|(size, victim)| (*size, victim.since))?;
    (newcomer.is_protected || size > own_size + 1).then_some(victim.peer)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::time::Duration;

    use super::*;

    fn group(ip: &str) -> Group {
        Group::of(ip.parse::<IpAddr>().unwrap())
    }

    /// Peers, each as its group, `i` or `o`, and `p` if protected; number 0 is the oldest.
    fn peers(texts: &[&str]) -> Vec<Placed> {
        let placed = texts.iter().enumerate().map(|(n, text)| {
            let (ip, flags) = text.split_once(' ').unwrap();
            Placed {
                peer: PeerRef {
                    index: n as u32,
                    generation: 1,
                },
                group: group(ip),
                since: Instant::ZERO + Duration::from_secs(n as u64),
                is_inbound: flags.contains('i'),
                is_protected: flags.contains('p'),
            }
        });
        placed.collect()
    }

    #[track_caller]
    fn check(placed: &[&str], newcomer: &str, only_inbound: bool, want: Option<u32>) {
        let [newcomer] = peers(&[newcomer])[..] else {
            unreachable!()
        };
        let newcomer = Newcomer {
            group: newcomer.group,
            is_inbound: newcomer.is_inbound,
            is_protected: newcomer.is_protected,
        };
        let chosen = choose(peers(placed).into_iter(), newcomer, only_inbound);
        assert_eq!(chosen.map(|peer| peer.index), want);
    }

    #[test]
    fn the_youngest_of_the_largest_group_makes_room() {
        check(
            &["1.1.0.1 i", "1.1.0.2 i", "1.1.0.3 i", "2.2.0.1 i"],
            "3.3.0.1 i",
            true,
            Some(2),
        );
        check(&["1.1.0.1 i", "2.2.0.1 i"], "3.3.0.1 i", true, None);
        check(
            &["1.1.0.1 i", "1.1.0.2 i", "2.2.0.1 i"],
            "1.1.0.9 i",
            true,
            None,
        );
        check(
            &["1.1.0.1 i", "1.1.0.2 i", "2.2.0.1 i"],
            "2.2.0.9 i",
            true,
            None,
        );
    }

    #[test]
    fn what_this_node_chose_stays() {
        check(
            &["1.1.0.1 o", "1.1.0.2 o", "1.1.0.3 o"],
            "3.3.0.1 i",
            false,
            None,
        );
        check(
            &["1.1.0.1 i", "1.1.0.2 i", "1.1.0.3 o"],
            "3.3.0.1 i",
            false,
            Some(1),
        );
        check(
            &["1.1.0.1 i", "1.1.0.2 i", "1.1.0.3 i"],
            "3.3.0.1 o",
            false,
            None,
        );
    }

    #[test]
    fn a_protected_newcomer_gets_a_place_unless_all_are_protected() {
        check(&["1.1.0.1 i", "2.2.0.1 o"], "3.3.0.1 op", false, Some(1));
        check(&["1.1.0.1 i", "2.2.0.1 o"], "3.3.0.1 ip", true, Some(0));
        check(
            &["1.1.0.1 ip", "1.1.0.2 ip", "1.1.0.3 ip"],
            "3.3.0.1 ip",
            true,
            None,
        );
        check(
            &["1.1.0.1 ip", "1.1.0.2 i", "1.1.0.3 ip", "1.1.0.4 ip"],
            "3.3.0.1 i",
            true,
            Some(1),
        );
    }
}
