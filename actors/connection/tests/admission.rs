//! The door: caps, eviction, fairness, rates, and that every place is given back exactly once.

use super::*;

const MS: Duration = Duration::from_millis(1);

fn at(ms: u64) -> Instant {
    Instant::ZERO + Duration::from_secs(1000) + Duration::from_millis(ms)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::from([a, b, c, d])
}

fn new(limits: AdmissionLimits) -> Admission<u32> {
    Admission::new(limits)
}

fn limits() -> AdmissionLimits {
    AdmissionLimits::default()
}

#[track_caller]
fn admit(door: &Admission<u32>, now: Instant, from: IpAddr, owner: u32) -> Ticket<u32> {
    let admitted = door.admit(now, from).unwrap();
    assert_eq!(admitted.evicted, None);
    assert!(admitted.ticket.set_owner(owner));
    admitted.ticket
}

#[track_caller]
fn goes(ticket: &Ticket<u32>, now: Instant) {
    assert_eq!(ticket.start(now), Start::Go { evicted: None });
}

/// Recounts everything from the entries and compares with the running counts.
fn check(door: &Admission<u32>) {
    let table = door.table.lock();
    let mut all = Count::default();
    let mut addresses = BTreeMap::<AddressKey, Count>::new();
    let mut prefixes = BTreeMap::<PrefixKey, Count>::new();
    let mut waiting = 0;
    for (_, entry) in table.entries() {
        let running = u32::from(entry.stage == Stage::Running);
        waiting += u32::from(entry.stage == Stage::Waiting);
        for count in [
            &mut all,
            addresses.entry(entry.address).or_default(),
            prefixes.entry(entry.prefix).or_default(),
        ] {
            count.sockets += 1;
            count.running += running;
        }
    }
    let pairs = |map: &BTreeMap<AddressKey, Count>| -> Vec<_> {
        map.iter()
            .map(|(key, count)| (key.0, count.sockets, count.running))
            .collect()
    };
    assert_eq!(pairs(&addresses), pairs(&table.addresses));
    assert_eq!(prefixes.len(), table.prefixes.len());
    for (key, count) in &prefixes {
        assert_eq!(
            (count.sockets, count.running),
            (table.prefixes[key].sockets, table.prefixes[key].running)
        );
        assert!(count.running <= table.limits.handshakes_per_prefix_max);
    }
    assert!(
        addresses
            .values()
            .all(|count| count.running <= table.limits.handshakes_per_address_max)
    );
    assert_eq!(
        (all.sockets, all.running, waiting),
        (table.all.sockets, table.all.running, table.waiting)
    );
    assert!(all.sockets <= table.limits.sockets_max && all.running <= table.limits.handshakes_max);
    assert_eq!(table.slots.len(), all.sockets as usize + table.free.len());
    assert!(table.slots.len() <= table.limits.sockets_max as usize);
    assert_eq!(table.buckets.buckets.len(), table.buckets.by_use.len());
    assert!(table.buckets.buckets.len() <= table.limits.prefixes_max as usize);
}

#[test]
fn handshakes_of_one_address_and_prefix_wait_for_each_other() {
    let door = new(limits());
    let mut running: Vec<_> = (0..4)
        .map(|n| admit(&door, at(0), v4(192, 0, 2, 1), n))
        .collect();
    running.iter().for_each(|ticket| goes(ticket, at(0)));
    let fifth = admit(&door, at(0), v4(192, 0, 2, 1), 4);
    assert_eq!(fifth.start(at(0)), Start::Wait);
    let neighbours: Vec<_> = (0..4)
        .map(|n| admit(&door, at(0), v4(192, 0, 2, 2), 5 + n))
        .collect();
    neighbours.iter().for_each(|ticket| goes(ticket, at(1)));
    let ninth = admit(&door, at(0), v4(192, 0, 2, 3), 9);
    assert_eq!(ninth.start(at(2)), Start::Wait);
    let elsewhere = admit(&door, at(0), v4(192, 0, 3, 1), 10);
    goes(&elsewhere, at(2));
    assert_eq!(door.counts().running, 9);
    // A place of the prefix is free, but not one of the fifth's address: only the ninth can use it.
    drop(neighbours.into_iter().next());
    check(&door);
    assert_eq!(fifth.start(at(3)), Start::Wait);
    goes(&ninth, at(3));
    running.pop();
    goes(&fifth, at(4));
    check(&door);
}

#[test]
fn silent_sockets_take_no_place_of_a_handshake() {
    let door = new(limits());
    let silent: Vec<_> = (0..200)
        .map(|n| admit(&door, at(0), v4(127, 0, 0, 2), n))
        .collect();
    let good = admit(&door, at(1), v4(127, 0, 0, 2), 1000);
    assert!(good.heard(at(1)));
    goes(&good, at(1));
    assert_eq!(door.counts().running, 1);
    drop(silent);
    assert_eq!(door.counts().sockets, 1);
    drop(good);
    assert_eq!(door.counts().sockets, 0);
    check(&door);
}

#[test]
fn at_the_cap_the_one_silent_longest_of_the_fullest_prefix_goes() {
    let door = new(AdmissionLimits {
        sockets_max: 6,
        ..limits()
    });
    let lone = admit(&door, at(0), v4(10, 0, 0, 1), 0);
    let _a = admit(&door, at(1), v4(192, 0, 2, 1), 1);
    let b = admit(&door, at(2), v4(192, 0, 2, 1), 2);
    let c = admit(&door, at(3), v4(192, 0, 2, 2), 3);
    let _d = admit(&door, at(4), v4(198, 51, 100, 1), 4);
    let _e = admit(&door, at(5), v4(198, 51, 100, 1), 5);
    assert!(_a.heard(at(6)));
    // The lone socket is silent for longer, but 192.0.2.0/24 is the fullest, and in it 192.0.2.1; `_a` has spoken.
    let admitted = door.admit(at(300), v4(203, 0, 113, 1)).unwrap();
    assert_eq!(admitted.evicted, Some(2));
    assert!(!b.heard(at(301)), "the evicted one learns it");
    assert_eq!(b.start(at(301)), Start::Evicted);
    drop(b);
    assert_eq!(
        door.counts().sockets,
        6,
        "an evicted ticket gives back nothing"
    );
    check(&door);
    drop(lone);
    drop(c);
    check(&door);
    assert_eq!(
        door.counts(),
        AdmissionCounts {
            sockets: 4,
            admitted: 7,
            evicted: 1,
            ..Default::default()
        }
    );
}

#[test]
fn an_evicted_socket_learns_it_whatever_it_does_next() {
    let door = new(AdmissionLimits {
        sockets_max: 1,
        ..limits()
    });
    let first = door.admit(at(0), v4(10, 0, 0, 1)).unwrap().ticket;
    // It has no owner yet, so nobody can be told.
    let second = door.admit(at(1), v4(10, 0, 0, 1)).unwrap();
    assert_eq!(second.evicted, None);
    assert!(!first.set_owner(1) && !first.heard(at(2)));
    assert_eq!(first.start(at(2)), Start::Evicted);
    assert!(!first.finish(), "its handshake counts for nothing");
    assert!(second.ticket.set_owner(2));
    goes(&second.ticket, at(3));
    assert!(second.ticket.finish());
    assert_eq!(door.counts().sockets, 0);
    check(&door);
}

#[test]
fn a_newcomer_never_evicts_from_an_emptier_prefix() {
    let door = new(AdmissionLimits {
        sockets_max: 10,
        ..limits()
    });
    // The flood says enough to wait for a place, so it cannot be evicted by itself.
    let flood: Vec<_> = (0..9)
        .map(|n| admit(&door, at(0), v4(192, 0, 2, 1), n))
        .collect();
    flood
        .iter()
        .for_each(|ticket| assert_ne!(ticket.start(at(0)), Start::Evicted));
    let good = admit(&door, at(1), v4(203, 0, 113, 1), 100);
    assert_eq!(door.admit(at(2), v4(192, 0, 2, 1)).unwrap_err(), Denied);
    assert!(good.heard(at(3)));
    // A second honest node gets the place of a waiting flooder.
    let admitted = door.admit(at(4), v4(198, 51, 100, 1)).unwrap();
    assert!(admitted.evicted.is_some_and(|owner| owner < 9));
    // And a neighbour of the flood as well: the flood's address is fuller than the neighbour's.
    let neighbour = door.admit(at(5), v4(192, 0, 2, 77)).unwrap();
    assert!(neighbour.evicted.is_some_and(|owner| owner < 9));
    check(&door);
    assert_eq!(door.counts().denied, 1);
}

#[test]
fn stalled_handshakes_give_way_to_those_that_wait() {
    let door = new(limits());
    let mut held = Vec::new();
    for prefix in 0..8 {
        for n in 0..8 {
            let ticket = admit(
                &door,
                at(0),
                v4(10, 0, prefix, n),
                u32::from(prefix) * 8 + u32::from(n),
            );
            goes(&ticket, at(0));
            held.push(ticket);
        }
    }
    assert_eq!(door.counts().running, 64);
    let good = admit(&door, at(100), v4(203, 0, 113, 1), 1000);
    assert_eq!(good.start(at(100)), Start::Wait);
    held.iter()
        .skip(3)
        .for_each(|ticket| assert!(ticket.heard(at(500))));
    assert_eq!(good.start(at(999)), Start::Wait);
    assert_eq!(good.start(at(1000)), Start::Go { evicted: Some(0) });
    check(&door);
    // The same within one address: its fifth handshake takes the place of one that stalled.
    let door = new(limits());
    let four: Vec<_> = (0..4)
        .map(|n| admit(&door, at(0), v4(10, 0, 0, 1), n))
        .collect();
    four.iter().for_each(|ticket| goes(ticket, at(0)));
    let fifth = admit(&door, at(10), v4(10, 0, 0, 1), 4);
    assert_eq!(fifth.start(at(10)), Start::Wait);
    assert_eq!(fifth.start(at(1010)), Start::Go { evicted: Some(0) });
    check(&door);
}

#[test]
fn the_rate_of_a_prefix_is_a_burst_and_then_so_many_a_second() {
    let door = new(limits());
    let mut started = 0;
    for n in 0..1000 {
        let ticket = admit(&door, at(0), v4(192, 0, 2, (n % 250) as u8), n);
        started += u32::from(ticket.start(at(0)) != Start::Wait);
    }
    assert_eq!(started, 200);
    for ms in 1..=2000 {
        let ticket = admit(&door, at(ms), v4(192, 0, 2, (ms % 250) as u8), 0);
        started += u32::from(ticket.start(at(ms)) != Start::Wait);
    }
    assert_eq!(started, 300);
    let other = admit(&door, at(2000), v4(192, 0, 3, 1), 0);
    goes(&other, at(2000));
}

#[test]
fn ipv6_counts_by_64_and_48() {
    let door = new(limits());
    let same_64: Vec<_> = (0..4)
        .map(|n| admit(&door, at(0), ip(&format!("2001:db8:1:2::{n}")), n))
        .collect();
    same_64.iter().for_each(|ticket| goes(ticket, at(0)));
    let fifth = admit(&door, at(0), ip("2001:db8:1:2:ffff::9"), 9);
    assert_eq!(fifth.start(at(0)), Start::Wait);
    let other_64 = admit(&door, at(0), ip("2001:db8:1:3::1"), 10);
    goes(&other_64, at(0));
    assert_eq!(keys(ip("::ffff:192.0.2.1")), keys(ip("192.0.2.1")));
    assert_ne!(keys(ip("2001:db8:1::1")).1, keys(ip("2001:db8:2::1")).1);
    assert_eq!(
        keys(ip("2001:db8:1::1")).1,
        keys(ip("2001:db8:1:ffff::1")).1
    );
}

#[test]
fn fifty_honest_nodes_behind_one_address_all_get_in() {
    let door = new(limits());
    let mut waiting: Vec<_> = (0..50)
        .map(|n| admit(&door, at(0), v4(127, 0, 0, 1), n))
        .collect();
    let mut running = Vec::new();
    let mut ms = 0;
    while !waiting.is_empty() {
        assert!(ms < 1000, "{} still wait", waiting.len());
        running.clear();
        let mut still = Vec::new();
        for ticket in waiting {
            match ticket.start(at(ms)) {
                Start::Go { evicted } => {
                    assert_eq!(evicted, None);
                    running.push(ticket);
                }
                Start::Wait => still.push(ticket),
                Start::Evicted => panic!("an honest node was evicted"),
            }
        }
        assert!(running.len() <= 4);
        check(&door);
        waiting = still;
        ms += 20;
    }
}

/// What a flooding socket does after it was accepted.
#[derive(Clone, Copy, Debug)]
enum Flood {
    Silent,
    OneByte,
    FirstMessage,
}

/// 20,000 sockets in four seconds, none of which ends its handshake, and an honest peer in the middle of them.
fn flood(kind: Flood, from: impl Fn(u32) -> IpAddr, honest: IpAddr) {
    let door = new(limits());
    let mut open: Vec<(u64, Ticket<u32>)> = Vec::new();
    let mut good: Option<Ticket<u32>> = None;
    let mut went_in = None;
    for n in 0..20_000u32 {
        let ms = u64::from(n) / 5;
        if let Ok(admitted) = door.admit(at(ms), from(n)) {
            assert!(admitted.ticket.set_owner(n));
            match kind {
                Flood::Silent => {}
                Flood::OneByte => assert!(admitted.ticket.heard(at(ms))),
                Flood::FirstMessage => assert_ne!(admitted.ticket.start(at(ms)), Start::Evicted),
            }
            open.push((ms, admitted.ticket));
        }
        if matches!(kind, Flood::FirstMessage) && n % 100 == 0 {
            open.retain(|(_, ticket)| ticket.start(at(ms)) != Start::Evicted);
        }
        // The flood's sockets have the deadline of every handshake, 10 s, which never comes here; and the flood closes none.
        if n == 10_000 {
            good = Some(door.admit(at(ms), honest).unwrap().ticket);
        }
        // The honest peer's bytes are read 50 accepts later, and it asks again every 20 ms.
        let asks = n >= 10_050 && (n - 10_050).is_multiple_of(100) && went_in.is_none();
        if let Some(ticket) = good.as_ref().filter(|_| asks) {
            assert!(
                ticket.heard(at(ms)),
                "{kind:?}: the honest peer was evicted"
            );
            if let Start::Go { .. } = ticket.start(at(ms)) {
                went_in = Some(ms);
            }
        }
        if n % 1000 == 0 {
            check(&door);
        }
    }
    let went_in = went_in.unwrap_or_else(|| panic!("{kind:?}: the honest peer never got in"));
    assert!(
        went_in <= 2000 + 1000,
        "{kind:?}: only after {} ms",
        went_in - 2000
    );
    assert!(door.counts().sockets <= 256);
}

#[test]
fn an_honest_peer_gets_in_within_a_second_of_a_flood() {
    for kind in [Flood::Silent, Flood::OneByte] {
        // From the honest peer's own address, from a neighbour, from 250 neighbours, from everywhere.
        flood(kind, |_| v4(127, 0, 0, 1), v4(127, 0, 0, 1));
        flood(kind, |_| v4(127, 0, 0, 2), v4(127, 0, 0, 3));
        flood(
            kind,
            |n| v4(127, 0, 0, 4 + (n % 250) as u8),
            v4(127, 0, 0, 3),
        );
        flood(
            kind,
            |n| v4(10, (n >> 8) as u8, n as u8, 1),
            v4(203, 0, 113, 1),
        );
    }
    // Whole first messages use up the rate of a prefix. The honest peer gets the next token all the same.
    flood(Flood::FirstMessage, |_| v4(127, 0, 0, 2), v4(127, 0, 0, 3));
    flood(
        Flood::FirstMessage,
        |n| v4(10, 0, (n % 8) as u8, (n / 8 % 2) as u8),
        v4(203, 0, 113, 1),
    );
}

#[test]
fn memory_is_bounded_by_the_limits() {
    let door = new(AdmissionLimits {
        prefixes_max: 100,
        ..limits()
    });
    for n in 0..10_000u32 {
        let ticket = admit(
            &door,
            at(u64::from(n)),
            v4(10, (n >> 8) as u8, n as u8, 1),
            n,
        );
        goes(&ticket, at(u64::from(n)));
    }
    check(&door);
    let table = door.table.lock();
    assert_eq!(table.buckets.buckets.len(), 100);
    assert!(table.prefixes.is_empty() && table.addresses.is_empty());
    // The largest the table gets with the default limits, in bytes of its entries.
    let entry = std::mem::size_of::<Slot<[u8; 16]>>();
    let bucket =
        std::mem::size_of::<(PrefixKey, Bucket)>() + std::mem::size_of::<(u64, PrefixKey)>();
    assert!(256 * (entry + 120) + 4096 * bucket * 2 < 512 * 1024);
}

#[test]
fn random_histories_keep_the_counts() {
    for seed in 0..300u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut below = |bound: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % bound
        };
        let door = new(AdmissionLimits {
            sockets_max: 24,
            handshakes_max: 10,
            prefixes_max: 5,
            ..limits()
        });
        let mut now = at(0);
        let mut tickets: Vec<(u32, Ticket<u32>)> = Vec::new();
        let mut gone = BTreeSet::new();
        for n in 0..400u32 {
            let pick = below(tickets.len().max(1) as u64) as usize;
            match below(5) {
                0 | 1 => {
                    let from = v4(10, 0, below(8) as u8, below(3) as u8);
                    if let Ok(admitted) = door.admit(now, from) {
                        assert!(admitted.ticket.set_owner(n));
                        assert!(
                            admitted.evicted.is_none_or(|owner| gone.insert(owner)),
                            "seed {seed}: evicted twice"
                        );
                        tickets.push((n, admitted.ticket));
                    }
                }
                2 if !tickets.is_empty() => {
                    let (owner, ticket) = &tickets[pick];
                    assert_eq!(ticket.heard(now), !gone.contains(owner), "seed {seed}");
                }
                3 if !tickets.is_empty() => {
                    let (owner, ticket) = &tickets[pick];
                    match ticket.start(now) {
                        Start::Go { evicted } => {
                            assert!(!gone.contains(owner), "seed {seed}");
                            assert!(
                                evicted
                                    .is_none_or(|victim| victim != *owner && gone.insert(victim)),
                                "seed {seed}"
                            );
                        }
                        Start::Wait => assert!(!gone.contains(owner), "seed {seed}"),
                        Start::Evicted => assert!(gone.contains(owner), "seed {seed}"),
                    }
                }
                4 if !tickets.is_empty() => drop(tickets.swap_remove(pick)),
                _ => now += MS * below(300) as u32,
            }
            check(&door);
            let live = tickets
                .iter()
                .filter(|(owner, _)| !gone.contains(owner))
                .count();
            assert_eq!(door.counts().sockets as usize, live, "seed {seed}");
        }
        drop(tickets);
        assert_eq!(door.counts().sockets, 0, "seed {seed}");
        check(&door);
    }
}

#[test]
fn four_cores_at_once_stay_within_the_caps() {
    let door = new(AdmissionLimits {
        sockets_max: 40,
        rate_burst: 1_000_000,
        ..limits()
    });
    std::thread::scope(|scope| {
        for core in 0..4u32 {
            let door = door.clone();
            scope.spawn(move || {
                let mut tickets = std::collections::VecDeque::new();
                for n in 0..5_000u32 {
                    let now = at(u64::from(n));
                    let from = v4(10, 0, (n * 7 % 11) as u8, (n % 3) as u8);
                    if let Ok(admitted) = door.admit(now, from) {
                        admitted.ticket.set_owner(core * 10_000 + n);
                        let _ = admitted.ticket.start(now);
                        tickets.push_back(admitted.ticket);
                    }
                    if tickets.len() > 15 || n % 5 == 0 {
                        tickets.pop_front();
                    }
                    if n % 16 == 0 {
                        check(&door);
                    }
                }
            });
        }
    });
    assert_eq!(door.counts().sockets, 0);
    assert_eq!(door.counts().running, 0);
    check(&door);
}
