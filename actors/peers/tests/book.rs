//! The book's tables: what can be put in, and who can fill them.

use std::collections::BTreeSet;

use super::*;
use crate::identity::Identity;

fn at(seconds: u64) -> Instant {
    Instant::ZERO + Duration::from_secs(10_000_000 + seconds)
}

fn peer(n: u32) -> PeerId {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&n.to_be_bytes());
    PeerId::from_bytes(bytes)
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn group(text: &str) -> Group {
    Group::of(text.parse().unwrap())
}

fn book() -> Book {
    Book::new([7; 32])
}

fn anybody(_: &PeerId, _: &Known) -> bool {
    true
}

#[test]
fn one_group_of_tellers_fills_64_places() {
    let mut book = book();
    let mut taken = 0;
    for n in 0..60_000u32 {
        let [a, b, c, d] = (0x0b00_0000 + n * 4099).to_be_bytes();
        let told = addr(&format!("{a}.{b}.{c}.{d}:9000"));
        taken += usize::from(book.hear(at(0), peer(n), told, group("5.5.0.1"), None));
    }
    assert_eq!(book.len(), taken);
    assert!(taken <= 64, "{taken}");
    assert!(taken >= 50, "{taken}");
}

#[test]
fn one_address_and_one_machine_are_not_many_peers() {
    let mut book = book();
    let mut taken = 0;
    for n in 0..10_000u32 {
        let source = Group::of(IpAddr::from((0x0b00_0000 + (n << 16)).to_be_bytes()));
        taken += usize::from(book.hear(at(0), peer(n), addr("198.51.100.7:443"), source, None));
    }
    assert_eq!(taken, 1);
    for n in 0..10_000u32 {
        let source = Group::of(IpAddr::from((0x0b00_0000 + (n << 16)).to_be_bytes()));
        let port = 1024 + n as u16;
        book.hear(
            at(0),
            peer(20_000 + n),
            SocketAddr::from(([198, 51, 100, 8], port)),
            source,
            None,
        );
    }
    assert_eq!(book.len(), 1 + TOLD_PER_IP_MAX);
    // Many nodes on one machine of a private network are usual.
    for n in 0..20u32 {
        let told = SocketAddr::from(([127, 0, 0, 1], 9000 + n as u16));
        assert!(book.hear(at(0), peer(50_000 + n), told, Group::of(told.ip()), None));
    }
}

#[test]
fn the_book_is_bounded() {
    let mut book = book();
    for n in 0..30_000u32 {
        let ip = IpAddr::from(
            (0x0b00_0000u32.wrapping_add(n.wrapping_mul(2_654_435_761) >> 4)).to_be_bytes(),
        );
        let addr = SocketAddr::new(ip, 9000);
        match n % 2 {
            0 => drop(book.hear(at(0), peer(n), addr, Group::of(ip), None)),
            _ => book.reach(at(0), peer(n), addr.into()),
        }
    }
    assert!(book.len() <= BOOK_MAX, "{}", book.len());
    assert!(book.len() > BOOK_MAX * 9 / 10, "{}", book.len());
    assert_eq!(book.places.len(), book.known.len());
}

#[test]
fn who_tells_most_is_not_picked_most() {
    let mut book = book();
    for n in 0..64u32 {
        book.hear(
            at(0),
            peer(n),
            SocketAddr::from(([20, n as u8, 0, 1], 9000)),
            group("5.5.0.1"),
            None,
        );
    }
    book.hear(
        at(0),
        peer(100),
        addr("30.0.0.1:9000"),
        group("6.6.0.1"),
        None,
    );
    let mut chance = Chance::new(1);
    let picks = (0..1000).filter_map(|_| book.pick(at(0), &mut chance, anybody));
    let honest = picks.filter(|(picked, _)| *picked == peer(100)).count();
    assert!((400..600).contains(&honest), "{honest}");
}

#[test]
fn reached_ones_are_picked_as_often_as_all_new_ones() {
    let mut book = book();
    for n in 0..50u32 {
        let source = IpAddr::from([20, n as u8, 0, 1]);
        book.hear(
            at(0),
            peer(n),
            SocketAddr::new(source, 9000),
            Group::of(source),
            None,
        );
    }
    book.reach(at(0), peer(1000), addr("40.0.0.1:9000").into());
    let mut chance = Chance::new(1);
    let picks = (0..1000).filter_map(|_| book.pick(at(0), &mut chance, anybody));
    let tried = picks.filter(|(picked, _)| *picked == peer(1000)).count();
    assert!((400..600).contains(&tried), "{tried}");
}

#[test]
fn failures_rest_a_peer_and_then_remove_it() {
    let mut book = book();
    book.hear(
        at(0),
        peer(1),
        addr("20.0.0.1:9000"),
        group("5.5.0.1"),
        None,
    );
    let mut chance = Chance::new(1);
    book.fail(at(0), &peer(1));
    assert_eq!(book.pick(at(60), &mut chance, anybody), None);
    assert!(book.pick(at(120), &mut chance, anybody).is_some());
    for _ in 1..FAILURES_MAX {
        assert_eq!(book.len(), 1);
        book.fail(at(200), &peer(1));
    }
    assert_eq!(book.len(), 0);
    // One that was reached this week stays.
    book.reach(at(0), peer(2), addr("20.0.0.2:9000").into());
    for _ in 0..100 {
        book.fail(at(200), &peer(2));
    }
    assert_eq!(book.len(), 1);
    book.fail(at(8 * DAY as u64), &peer(2));
    assert_eq!(book.len(), 0);
}

#[test]
fn a_newer_record_moves_a_peer_and_an_older_one_does_not() {
    let identity = Identity::from_seed(&[3; 32]);
    let signed = |sequence, text| SignedRecord::sign(&identity, sequence, [addr(text)]).unwrap();
    let who = identity.peer_id();
    let mut book = book();
    let source = group("5.5.0.1");
    assert!(book.hear(
        at(0),
        who,
        addr("20.0.0.1:9000"),
        source,
        Some(signed(5, "20.0.0.1:9000"))
    ));
    assert!(
        !book.hear(at(0), who, addr("20.0.0.9:9000"), source, None),
        "hearsay changes nothing"
    );
    assert!(!book.hear(
        at(0),
        who,
        addr("20.0.0.9:9000"),
        source,
        Some(signed(4, "20.0.0.9:9000"))
    ));
    assert!(book.hear(
        at(0),
        who,
        addr("20.0.0.2:9000"),
        source,
        Some(signed(6, "20.0.0.2:9000"))
    ));
    assert_eq!(
        book.get(&who).unwrap().endpoint,
        addr("20.0.0.2:9000").into()
    );
    // Where it is reached goes before what it says.
    book.reach(at(1), who, addr("20.0.0.3:9000").into());
    assert!(book.hear(
        at(2),
        who,
        addr("20.0.0.4:9000"),
        source,
        Some(signed(7, "20.0.0.4:9000"))
    ));
    assert_eq!(
        book.get(&who).unwrap().endpoint,
        addr("20.0.0.3:9000").into()
    );
}

#[test]
fn records_of_met_peers_are_passed_on_and_no_others() {
    let mut book = book();
    let mut met = BTreeSet::new();
    for n in 0..40u8 {
        let identity = Identity::from_seed(&[n; 32]);
        let told = SocketAddr::from(([20 + n, n, 0, 1], 9000));
        let record = SignedRecord::sign(&identity, 1, [told]).unwrap();
        assert!(book.hear(
            at(0),
            identity.peer_id(),
            told,
            Group::of(told.ip()),
            Some(record)
        ));
        if n % 2 == 0 {
            book.meet(at(0), identity.peer_id(), None);
            met.insert(identity.peer_id());
        }
    }
    let mut chance = Chance::new(3);
    let mut seen = BTreeSet::new();
    for _ in 0..100 {
        let records = book.records(at(1), 5, &mut chance, |_, _| true);
        assert_eq!(records.len(), 5);
        seen.extend(records.iter().map(SignedRecord::peer));
    }
    assert_eq!(seen, met);
    assert_eq!(
        book.records(at(DAY as u64 + 1), 5, &mut chance, |_, _| true)
            .len(),
        0,
        "too old"
    );
}
