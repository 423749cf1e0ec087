//! The DHT: bencode, messages, and sequences of datagrams, times and orders that a node meets.

use std::net::SocketAddr;
use std::time::Duration;

use mischief_actors::dht::address::Family;
use mischief_actors::dht::bencode::{self, Value};
use mischief_actors::dht::message::{self, Body};
use mischief_actors::dht::{Announcement, Dht, DhtConfig, DhtEvent, NodeId, Order, Role, Saved};
use mischief_reactor::Instant;

/// What is accepted can be walked through and is the whole input.
pub(crate) fn dht_bencode(data: &[u8]) {
    let Ok(value) = bencode::decode(data) else {
        return;
    };
    assert_eq!(value.raw(), data);
    walk(value);
    let _ = Saved::decode(data);
}

fn walk(value: Value<'_>) {
    let kinds = [
        value.int().is_some(),
        value.bytes().is_some(),
        value.is_list(),
        value.is_dict(),
    ];
    assert_eq!(kinds.iter().filter(|is_it| **is_it).count(), 1);
    for item in value.items() {
        assert!(bencode::decode(item.raw()).is_ok());
        walk(item);
    }
}

/// What is accepted is the same when it has been written and read again.
pub(crate) fn dht_message(data: &[u8]) {
    let Ok(first) = message::decode(data) else {
        return;
    };
    let ip = SocketAddr::from(([192, 0, 2, 1], 6881));
    let written = match &first.body {
        Body::Query {
            id,
            read_only,
            query,
        } => message::encode_query(first.transaction, id, *read_only, query),
        Body::Response(response) => {
            assert!(
                Family::ALL
                    .map(|family| response.contacts(family).count())
                    .iter()
                    .sum::<usize>()
                    <= data.len()
            );
            assert!(response.peers().count() <= data.len());
            message::encode_response(first.transaction, ip, response)
        }
        Body::Error { code, text } => {
            let text = String::from_utf8_lossy(text);
            message::encode_error(first.transaction, ip, *code, &text)
        }
    };
    let second = message::decode(&written).expect("what we write we read");
    assert_eq!(second.transaction, first.transaction);
    match (first.body, second.body) {
        (Body::Error { code, .. }, Body::Error { code: again, .. }) => assert_eq!(code, again),
        (first, second) => assert_eq!(first, second),
    }
}

/// A node meets datagrams from anywhere, in pieces of the input: it never panics, sends no more than its quota, and stays small.
pub(crate) fn dht_sequence(data: &[u8]) {
    let mut now = Instant::ZERO + Duration::from_secs(1_000_000);
    let begin = now;
    let mut config = DhtConfig::default();
    config.role = if data.len().is_multiple_of(2) {
        Role::Server
    } else {
        Role::Auto
    };
    let mut dht = Dht::new(now, config, &[data.len() as u8; 32]);
    dht.open(now, ([203, 0, 113, 1], 6881).into());
    dht.open(
        now,
        SocketAddr::new("2001:db8::1".parse().expect("an address"), 6881),
    );
    dht.handle_contacts(
        now,
        (1..9).map(|last| SocketAddr::from(([198, 51, last, 1], 6881))),
    );
    dht.begin(now);
    let mut sent = 0;
    // Transactions that are awaited, so that some replies fit.
    let mut awaited: Vec<(SocketAddr, Vec<u8>)> = Vec::new();
    for (index, piece) in data.split(|byte| *byte == 0).enumerate() {
        let (head, body) = piece.split_at(piece.len().min(2));
        let choice = head.first().copied().unwrap_or_default();
        let from = SocketAddr::from((
            [11, choice, head.get(1).copied().unwrap_or(1), 9],
            1 + u16::from(choice),
        ));
        match (choice % 8, awaited.pop()) {
            (0, _) => now += Duration::from_secs(u64::from(choice)),
            (1, _) => {
                let order = Order::Announce(Announcement {
                    info_hash: NodeId::sha1(&[body]),
                    port: Some(1),
                    seed: false,
                });
                let _ = dht.handle_order(now, order, None);
            }
            (2, _) => dht.handle_network_change(now),
            (3 | 4, Some((to, transaction))) => {
                let mut reply = b"d1:r".to_vec();
                reply.extend_from_slice(body);
                reply.extend_from_slice(b"1:t4:");
                reply.extend_from_slice(&transaction);
                reply.extend_from_slice(b"1:y1:re");
                dht.handle_datagram(now, to, &reply);
            }
            _ => dht.handle_datagram(now, from, body),
        }
        dht.handle_timeout(now);
        while let Some(packet) = dht.poll_transmit() {
            sent += packet.data.len() as u64;
            let message = message::decode(&packet.data).expect("what we send is well formed");
            if let Body::Query { .. } = message.body
                && awaited.len() < 64
            {
                awaited.push((packet.to, message.transaction.to_vec()));
            }
        }
        while let Some(event) = dht.poll_event() {
            let _: DhtEvent = event;
        }
        if let Some(next) = dht.poll_timeout() {
            now = now.max(next.min(now + Duration::from_millis(index as u64 % 50)));
        }
    }
    let seconds = now.saturating_duration_since(begin).as_secs() + 4;
    assert!(sent <= 8000 * seconds, "{sent} bytes in {seconds} s");
    assert!(dht.heap_bytes() < 1 << 20);
}
