//! Targets for what others tell of peers, and for the files in which a node keeps it.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use mischief_actors::connection::Suite;
use mischief_actors::identity::Identity;
use mischief_actors::peers::{
    Claims, ExchangeMessage, FileKind, Introduction, Network, NetworkSettings, Order, Peers,
    PeersLimits, SignedRecord, Stored,
};
use mischief_reactor::{Instant, WallTime};
use ring::digest::{SHA256, digest};

/// `SignedRecord::decode`. What can be read holds, and is written as it was read.
pub(crate) fn peer_record(input: &[u8]) {
    if let Ok(record) = SignedRecord::decode(input) {
        assert_eq!(record.as_bytes(), input);
        assert!((1..=4).contains(&record.addrs().len()));
        assert!(record.addrs().iter().all(|addr| addr.port() > 0));
    }
}

/// `ExchangeMessage::decode`, and the same message to a node that has asked its peer, from that peer.
pub(crate) fn exchange(input: &[u8]) {
    if let Some(ExchangeMessage::Tell { records, .. }) = ExchangeMessage::decode(input) {
        assert!(records.iter().map(|record| record.len() + 2).sum::<usize>() < input.len());
    }
    let (mut network, now) = node();
    network.handle_exchange(now, 1, input);
    network.advance(now);
    let mut answered = 0;
    while let Some((to, bytes)) = network.poll_transmit() {
        assert_eq!(to, 1, "nobody else is told");
        assert!(bytes.len() < 1024);
        answered += 1;
    }
    assert!(answered <= 10);
    assert!(network.address_book(now).len() <= 1 + 50);
    for entry in network.address_book(now) {
        assert_ne!(entry.peer, network.peers().own_id());
    }
}

/// `Stored::decode` of both files, as the bytes are and with a digest that holds. What can be read can be taken up.
pub(crate) fn peers_file(input: &[u8]) {
    let mut summed = input[..input.len().saturating_sub(32)].to_vec();
    let entries = u32::try_from(summed.len().saturating_sub(12)).expect("it is short");
    if let Some(length) = summed.get_mut(8..12) {
        length.copy_from_slice(&entries.to_be_bytes());
    }
    summed.extend_from_slice(digest(&SHA256, &summed.clone()).as_ref());
    for bytes in [input, &summed] {
        for kind in [FileKind::Current, FileKind::Ever] {
            let Ok(stored) = Stored::decode(bytes, kind) else {
                continue;
            };
            let again = stored.encode(kind);
            assert_eq!(Stored::decode(&again, kind), Ok(stored.clone()));
            let (mut network, now) = node();
            network.restore(now, WallTime::from_unix_nanos(1), stored);
            network.advance(now);
            while network.poll_order().is_some() {}
            drop(network.address_book(now));
        }
    }
}

/// A node with one peer, which it asks with token 1.
fn node() -> (Network<u32>, Instant) {
    static NODE: OnceLock<(Network<u32>, Instant)> = OnceLock::new();
    NODE.get_or_init(make_node).clone()
}

fn make_node() -> (Network<u32>, Instant) {
    let own = Arc::new(Identity::from_seed(&[1; 32]));
    let settings = NetworkSettings {
        exchanges: true,
        outbound_target: 8,
        keeps_book: true,
        ..NetworkSettings::default()
    };
    let peers = Peers::new(own.peer_id(), PeersLimits::default());
    let mut network = Network::new(peers, settings, own, [7; 32]);
    let mut now = Instant::ZERO + Duration::from_secs(1000);
    let introduction = Introduction {
        message_max: 1 << 20,
        peer: Identity::from_seed(&[2; 32]).peer_id(),
        addr: SocketAddr::from(([192, 0, 2, 2], 40_000)),
        suite: Suite::ChaChaPoly,
        name: None,
    };
    network.handle_inbound(now, 1, introduction, Claims::default());
    loop {
        network.advance(now);
        while let Some(order) = network.poll_order() {
            assert!(!matches!(order, Order::Refuse { .. }));
        }
        while network.poll_event().is_some() {}
        if network.poll_transmit().is_some() {
            break;
        }
        now = network.poll_timeout(now).expect("it is going to ask");
        network.handle_timeout(now);
    }
    (network, now)
}
