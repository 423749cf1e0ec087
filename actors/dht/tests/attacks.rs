//! What attackers do: stand around a key, flood.

use std::net::SocketAddr;
use std::time::Duration;

use mischief_reactor::Random;

use super::network::{Network, Program};
use super::swarm::{announce, grow};
use crate::dht::address::{Contact, Family, write_compact, write_node};
use crate::dht::dice::Dice;
use crate::dht::message::{self, Body, Query, Response};
use crate::dht::{DhtConfig, NodeId, Outcome};

/// Nodes of one attacker. They answer everybody at once, name only each other, take every announcement and keep none.
fn sybil(id: NodeId, others: Vec<Contact>) -> Program {
    Program::Liar(Box::new(move |_, from, _, data| {
        let Ok(message) = message::decode(data) else {
            return Vec::new();
        };
        let Body::Query { query, .. } = message.body else {
            return Vec::new();
        };
        let target = match query {
            Query::FindNode { target, .. } | Query::Get { target, .. } => target,
            Query::GetPeers { info_hash, .. } => info_hash,
            _ => id,
        };
        let mut near = others.clone();
        near.sort_by_key(|node| node.id.distance(&target));
        let mut nodes = Vec::new();
        for node in near.iter().take(8) {
            write_node(node, &mut nodes);
        }
        let response = Response {
            id,
            nodes: Some(&nodes),
            token: Some(b"anything"),
            ..Response::default()
        };
        vec![(
            from,
            message::encode_response(message.transaction, from, &response),
        )]
    }))
}

/// How many of the announcements of a key are found, in a network of which 30 % belong to somebody who also stands with 16
/// chosen ids around the key.
fn eclipse(checks_ids: bool, tries: usize) -> usize {
    let config = DhtConfig {
        checks_ids,
        ..DhtConfig::default()
    };
    let honest = 70;
    let (mut network, nodes) = grow(9, honest, config);
    let mut dice = Dice::new(&[77; 32]);
    let key = NodeId::random(&mut dice);
    let mut sybils = Vec::new();
    for number in 0..30 {
        let addr = Network::public(5000 + number, Family::V4);
        let id = NodeId::for_ip(addr.ip(), &mut dice);
        sybils.push(Contact { id, addr });
    }
    for number in 0..16 {
        let addr = Network::public(6000 + number, Family::V4);
        sybils.push(Contact {
            id: key.neighbour(100 + number, &mut dice),
            addr,
        });
    }
    for node in &sybils {
        network.add(&[node.addr], sybil(node.id, sybils.clone()));
    }
    // They make themselves known to everybody.
    for node in &sybils {
        for honest in 0..honest {
            let to = Network::public(honest, Family::V4);
            let query = Query::FindNode {
                target: node.id,
                want: None,
            };
            let data = message::encode_query(&[0; 4], &node.id, false, &query);
            network.send(node.addr, to, data);
            network.run_for(Duration::from_millis(20));
        }
    }
    network.run_for(Duration::from_secs(120));
    let mut found = 0;
    for attempt in 0..tries {
        let who = nodes[8 + (attempt * 7) % 60];
        let port = 4000 + attempt as u16;
        let id = network.order(who, announce(key, port));
        let (_, outcome) = network.wait(who, id);
        assert!(matches!(outcome, Outcome::Announced(_)));
        // Nobody who has stored it itself.
        let seeker = (0..nodes.len())
            .map(|shift| nodes[(attempt * 11 + shift) % nodes.len()])
            .find(|node| *node != who && network.dht(*node).storage.scrape(&key).is_none());
        let seeker = seeker.expect("most have not stored it");
        let (peers, _) = network.find(seeker, key);
        found += usize::from(peers.iter().any(|peer| peer.port() == port));
        network.run_for(Duration::from_secs(5));
    }
    found
}

#[test]
fn a_key_is_not_eclipsed() {
    let found = eclipse(true, 20);
    assert!(found >= 19, "{found} of 20");
}

#[test]
fn without_ids_that_fit_addresses_it_is() {
    let found = eclipse(false, 20);
    assert!(found < 19, "{found} of 20");
}

/// Spoofed queries from everywhere, as many as a fast line carries. The full rate is 50,000 a second; so many take long in a
/// build without optimisation, and it makes no difference to what is sent.
fn flood(per_second: u64, seconds: u64) {
    let (mut network, nodes) = grow(11, 40, DhtConfig::default());
    let info_hash = NodeId([8; 20]);
    let who = nodes[20];
    let id = network.order(who, announce(info_hash, 4000));
    network.wait(who, id);
    network.run_for(Duration::from_secs(30));
    let victim = nodes[10];
    let now = network.now;
    let before = network.dht(victim).stats(now);
    let memory = network.dht(victim).heap_bytes();
    let mut dice = Dice::new(&[1; 32]);
    let queries: [Vec<u8>; 3] = [
        message::encode_query(b"aa", &NodeId([3; 20]), false, &Query::Ping),
        message::encode_query(
            b"aa",
            &NodeId([3; 20]),
            false,
            &Query::FindNode {
                target: info_hash,
                want: None,
            },
        ),
        message::encode_query(
            b"aa",
            &NodeId([3; 20]),
            false,
            &Query::Get {
                target: info_hash,
                seq: None,
                want: None,
            },
        ),
    ];
    let begin = network.now;
    let (mut lookups, mut ended) = (Vec::new(), 0);
    for tick in 0..seconds * 100 {
        for number in 0..per_second / 100 {
            let from: SocketAddr = (
                (dice.u32() | 0x1000_0000).to_be_bytes(),
                1 + dice.below(60_000) as u16,
            )
                .into();
            let data = &queries[(number % 3) as usize];
            network.with(victim, |dht, now| dht.handle_datagram(now, from, data));
        }
        if tick % 200 == 0 {
            lookups.push(network.order(victim, crate::dht::Order::FindPeers { info_hash }));
        }
        network.run_for(Duration::from_millis(10));
    }
    for id in lookups {
        let (_, outcome) = network.wait(victim, id);
        ended += usize::from(matches!(outcome, Outcome::Peers { found } if found >= 1));
    }
    let now = network.now;
    let after = network.dht(victim).stats(now);
    let time = now.saturating_duration_since(begin).as_secs_f64();
    let sent = (after.bytes_out - before.bytes_out) as f64;
    println!("flood: {sent:.0} bytes in {time:.1} s, {ended} lookups found");
    assert!(sent <= 8000.0 * (time + 3.0), "{sent} bytes in {time} s");
    assert!(after.dropped_quota + after.dropped_flood > per_second * seconds / 2);
    assert!(network.dht(victim).heap_bytes() < memory + (1 << 20));
    assert_eq!(ended, (seconds / 2) as usize, "lookups still find");
}

#[test]
fn a_spoofed_flood_is_answered_within_the_quota() {
    flood(5_000, 4);
}

/// The full rate: `cargo test --release -p mischief-actors -- --ignored fifty_thousand`.
#[test]
#[ignore = "half a million datagrams"]
fn fifty_thousand_spoofed_queries_a_second() {
    flood(50_000, 10);
}

#[test]
fn a_full_table_is_small() {
    let mut dice = Dice::new(&[2; 32]);
    let mut table = crate::dht::RoutingTable::new(NodeId::random(&mut dice), true);
    let now = mischief_reactor::Instant::ZERO + Duration::from_secs(1000);
    for number in 0..10_000 {
        let addr = Network::public(number, Family::V4);
        let id = NodeId::for_ip(addr.ip(), &mut dice);
        table.handle_answer(now, Contact { id, addr });
    }
    println!(
        "10,000 nodes met: {} in the table, {} bytes",
        table.len(),
        table.heap_bytes()
    );
    assert!(table.len() >= 128 + 64 + 32 + 16 + 8);
    assert!(table.heap_bytes() < 256 << 10, "{}", table.heap_bytes());
}

#[test]
fn a_table_has_one_place_for_each_owner_and_none_for_who_changes_its_id() {
    let mut dice = Dice::new(&[2; 32]);
    let mut table = crate::dht::RoutingTable::new(NodeId::random(&mut dice), true);
    let now = mischief_reactor::Instant::ZERO + Duration::from_secs(1000);
    let contact = |id: u8, addr: &str| Contact {
        id: NodeId([id; 20]),
        addr: addr.parse().expect("an address"),
    };
    table.handle_answer(now, contact(1, "8.8.8.8:1"));
    for other in ["8.8.8.8:2", "8.8.8.9:1"] {
        table.handle_answer(now, contact(2, other));
    }
    table.handle_answer(now, contact(1, "9.9.9.9:1"));
    assert_eq!(table.len(), 1);
    table.handle_answer(now, contact(3, "[2001:db8::1]:1"));
    table.handle_answer(now, contact(4, "[2001:db8::2]:1"));
    assert_eq!(table.len(), 2);
    for port in 1..=5 {
        table.handle_answer(now, contact(10 + port, &format!("127.0.0.1:{port}")));
    }
    assert_eq!(table.len(), 7, "a local network is exempt");
    table.handle_answer(now, contact(5, "8.8.8.8:1"));
    assert_eq!(table.len(), 6, "whoever changes its id loses its place");
    let mut bytes = Vec::new();
    write_compact("127.0.0.1:1".parse().expect("an address"), &mut bytes);
    assert_eq!(bytes.len(), 6);
}
