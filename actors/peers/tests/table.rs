//! The table of connected peers.

use std::collections::BTreeMap;

use super::*;

fn id(n: u64) -> PeerId {
    let mut bytes = [0; 32];
    // Spread, so that the order of ids is not that of arrival.
    bytes[..8].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    PeerId::from_bytes(bytes)
}

fn introduction(n: u64) -> Introduction {
    Introduction {
        peer: id(n),
        message_max: 1 << 20,
        addr: SocketAddr::from(([10, (n >> 16) as u8, (n >> 8) as u8, n as u8], 9000)),
        suite: Suite::ChaChaPoly,
        name: None,
    }
}

#[test]
fn a_peer_costs_what_is_promised() {
    let mut table = Table::<u64>::new();
    assert_eq!(size_of::<Slot<u64>>(), 96);
    for n in 0..10_000 {
        table.insert(Instant::ZERO, n, Direction::Inbound, introduction(n));
        if n >= 128 {
            let bytes = table.heap_bytes() / (n as usize + 1);
            assert!(bytes <= PEER_BYTES_MAX, "{bytes} B for each of {n}");
        }
    }
}

#[test]
fn addresses_come_back_as_they_went_in() {
    for text in ["192.0.2.1:9000", "[2001:db8::1]:1", "[fe80::1%7]:65535"] {
        let addr: SocketAddr = text.parse().unwrap();
        assert_eq!(SocketAddr::from(CompactAddr::from(addr)), addr);
    }
    let mapped: SocketAddr = "[::ffff:192.0.2.1]:9000".parse().unwrap();
    assert_eq!(
        SocketAddr::from(CompactAddr::from(mapped)).to_string(),
        "192.0.2.1:9000"
    );
}

#[test]
fn a_reference_never_means_a_successor() {
    let mut table = Table::<u64>::new();
    let first = table.insert(Instant::ZERO, 1, Direction::Outbound, introduction(1));
    assert_eq!(
        table.find_dialled("10.0.0.1:9000".parse().unwrap()),
        Some(first)
    );
    assert_eq!(table.remove(first), Some((id(1), 1)));
    let second = table.insert(Instant::ZERO, 1, Direction::Inbound, introduction(1));
    assert_eq!(first.index, second.index);
    assert_eq!(table.id(first), None);
    assert_eq!(table.remove(first), None);
    assert_eq!(table.record(first, None), None);
    assert_eq!(table.find(&id(1)), Some(second));
    assert_eq!(
        table.find_dialled("10.0.0.1:9000".parse().unwrap()),
        None,
        "inbound ports mean nothing"
    );
}

#[test]
fn random_histories_agree_with_a_plain_map() {
    for seed in 0..50u64 {
        let mut state = seed;
        let mut below = |bound: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % bound
        };
        let mut table = Table::<u64>::new();
        let mut model = BTreeMap::<PeerId, (PeerRef, u64, Direction)>::new();
        for connection in 0..500u64 {
            let n = below(40);
            match model.remove(&id(n)) {
                Some((peer, connection, _)) => {
                    assert_eq!(table.remove(peer), Some((id(n), connection)))
                }
                None => {
                    let direction = if below(2) == 0 {
                        Direction::Inbound
                    } else {
                        Direction::Outbound
                    };
                    let peer = table.insert(Instant::ZERO, connection, direction, introduction(n));
                    model.insert(id(n), (peer, connection, direction));
                }
            }
            let listed: Vec<_> = table.iter().collect();
            let wanted: Vec<_> = model
                .iter()
                .map(|(id, (peer, connection, _))| (*peer, *id, *connection))
                .collect();
            assert_eq!(listed, wanted, "seed {seed}");
            let inbound = model
                .values()
                .filter(|(.., direction)| *direction == Direction::Inbound)
                .count();
            assert_eq!(
                (table.inbound() as usize, table.len() as usize),
                (inbound, model.len()),
                "seed {seed}"
            );
            for (id, (peer, connection, _)) in &model {
                assert_eq!(table.find(id), Some(*peer), "seed {seed}");
                assert_eq!(
                    table.find_connection(*connection),
                    Some(*peer),
                    "seed {seed}"
                );
                assert_eq!(table.connection(*peer), Some(*connection), "seed {seed}");
            }
        }
    }
}
