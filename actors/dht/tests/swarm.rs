//! Whole networks: what is announced is found, in time, whatever comes and goes.

use std::net::SocketAddr;
use std::time::Duration;

use mischief_reactor::Random;

use super::network::Network;
use crate::dht::address::Family;
use crate::dht::{Announcement, DhtConfig, NodeId, Order, Outcome, Standing};

/// A network of `count` nodes, every second of them with both families, that has run for a while.
pub(super) fn grow(seed: u8, count: usize, config: DhtConfig) -> (Network, Vec<usize>) {
    let mut network = Network::new(seed);
    let mut nodes: Vec<usize> = Vec::new();
    for number in 0..count {
        nodes.push(join(&mut network, number, config));
        // Nodes come one after another, faster and faster.
        let pause = if number < 20 { 500 } else { 20 };
        network.run_for(Duration::from_millis(pause));
    }
    network.run_for(Duration::from_secs(60));
    (network, nodes)
}

/// Lets a node join that begins at two of the first eight.
pub(super) fn join(network: &mut Network, number: usize, config: DhtConfig) -> usize {
    let mut addrs = vec![Network::public(number, Family::V4)];
    if number.is_multiple_of(2) {
        addrs.push(Network::public(number, Family::V6));
    }
    let mut begin: Vec<SocketAddr> = Vec::new();
    for _ in 0..if number == 0 { 0 } else { 2 } {
        let other = network.dice.below(number.min(8) as u64) as usize;
        begin.push(Network::public(other, Family::V4));
        if other.is_multiple_of(2) {
            begin.push(Network::public(other, Family::V6));
        }
    }
    network.node(&addrs, config, &begin)
}

pub(super) fn announce(info_hash: NodeId, port: u16) -> Order {
    Order::Announce(Announcement {
        info_hash,
        port: Some(port),
        seed: false,
    })
}

struct Measured {
    found: usize,
    looked: usize,
    times: Vec<Duration>,
    queries: Vec<u64>,
}

fn measure(count: usize, hashes: usize, hours_of_churn: f64) -> Measured {
    let (mut network, mut nodes) = grow(1, count, DhtConfig::default());
    network.loss = 0.05;
    let mut announced = Vec::new();
    for _ in 0..hashes {
        let info_hash = NodeId::random(&mut network.dice);
        // The first eight are where others begin; they stay.
        let who = nodes[8 + network.dice.below(nodes.len() as u64 - 8) as usize];
        let id = network.order(who, announce(info_hash, 4000));
        announced.push((info_hash, who, id));
        network.run_for(Duration::from_millis(200));
    }
    network.run_for(Duration::from_secs(20));
    for (_, who, id) in &announced {
        let (_, outcome) = network.wait(*who, *id);
        assert!(
            matches!(&outcome, Outcome::Announced(stored) if stored.stored >= 4),
            "{outcome:?}"
        );
    }
    // A fifth of all nodes goes in an hour, and as many come.
    let changes = (count as f64 * 0.2 * hours_of_churn) as usize;
    for change in 0..changes {
        let at = 8 + network.dice.below(nodes.len() as u64 - 8) as usize;
        let gone = std::mem::replace(
            &mut nodes[at],
            join(&mut network, count + change, DhtConfig::default()),
        );
        network.remove(gone);
        network.run_for(Duration::from_secs(3600) / 5 * 5 / count as u32 * 5);
    }
    let mut measured = Measured {
        found: 0,
        looked: 0,
        times: Vec::new(),
        queries: Vec::new(),
    };
    for (info_hash, _, _) in &announced {
        let seeker = nodes[network.dice.below(nodes.len() as u64) as usize];
        let before = network.dht(seeker).stats.lookup_queries;
        let (found, time) = network.find(seeker, *info_hash);
        let after = network.dht(seeker).stats.lookup_queries;
        if found.is_empty() {
            let holders = nodes
                .iter()
                .filter(|node| network.dht(**node).storage.scrape(info_hash).is_some())
                .count();
            let now = network.now;
            let stats = network.dht(seeker).stats(now);
            println!(
                "{info_hash}: not found after {time:?} with {} queries; {holders} nodes have it; the seeker knows {:?}",
                after - before,
                stats.good,
            );
        }
        measured.looked += 1;
        measured.found += usize::from(!found.is_empty());
        measured.times.push(time);
        measured.queries.push(after - before);
    }
    measured.times.sort();
    measured.queries.sort();
    measured
}

#[track_caller]
fn check(count: usize, hashes: usize, hours: f64) {
    let measured = measure(count, hashes, hours);
    let median = measured.times[measured.times.len() / 2];
    let queries = measured.queries[measured.queries.len() / 2];
    println!(
        "{count} nodes: {} of {} found, median {median:?} with {queries} queries, most {:?}, {:?}",
        measured.found,
        measured.looked,
        measured.times.last(),
        measured.queries.last(),
    );
    assert!(
        measured.found * 100 >= measured.looked * 99,
        "{} of {}",
        measured.found,
        measured.looked
    );
    assert!(median <= Duration::from_secs(2), "{median:?}");
    assert!(queries <= 40, "{queries}");
}

#[test]
fn what_is_announced_is_found_under_loss_and_churn() {
    check(150, 40, 0.5);
}

/// The full size, for a release build: `cargo test --release -p mischief-actors -- --ignored two_thousand`.
#[test]
#[ignore = "takes half a minute in a release build"]
fn two_thousand_nodes_under_loss_and_churn() {
    check(2000, 200, 0.3);
}

#[test]
fn two_nodes_alone_find_each_other() {
    let mut network = Network::new(3);
    let addrs = [
        Network::public(0, Family::V4),
        Network::public(1, Family::V4),
    ];
    let first = network.node(&addrs[..1], DhtConfig::default(), &[]);
    let second = network.node(&addrs[1..], DhtConfig::default(), &addrs[..1]);
    let info_hash = NodeId([4; 20]);
    for node in [first, second] {
        network.with(node, |dht, now| dht.discover(now, info_hash, Some(4000)));
    }
    let found = |network: &Network, node: usize, other: SocketAddr| {
        let peer = SocketAddr::new(other.ip(), 4000);
        network.events(node).iter().any(|event| {
            matches!(event, crate::dht::DhtEvent::Discovered(peers) if peers.contains(&peer))
        })
    };
    let both = network.run_until(Duration::from_secs(10), |network| {
        found(network, first, addrs[1]) && found(network, second, addrs[0])
    });
    assert!(both);
}

#[test]
fn nodes_that_went_leave_the_tables() {
    let (mut network, nodes) = grow(5, 60, DhtConfig::default());
    for node in &nodes[30..] {
        network.remove(*node);
    }
    network.run_for(Duration::from_secs(40 * 60));
    let now = network.now;
    let table = network.dht(nodes[0]).nodes(now);
    let gone = |addr: SocketAddr| {
        (30..60).any(|number| Network::public(number, addr_family(addr)) == addr)
    };
    let good = table
        .iter()
        .filter(|(_, standing)| *standing == Standing::Good);
    assert_eq!(good.clone().filter(|(node, _)| gone(node.addr)).count(), 0);
    assert!(good.count() >= 25);
}

fn addr_family(addr: SocketAddr) -> Family {
    Family::of(addr)
}

#[test]
fn an_idle_node_says_little() {
    let (mut network, nodes) = grow(6, 120, DhtConfig::default());
    network.run_for(Duration::from_secs(1800));
    let now = network.now;
    let node = nodes[40];
    let before = network.dht(node).stats(now);
    network.run_for(Duration::from_secs(3600));
    let now = network.now;
    let after = network.dht(node).stats(now);
    let rate = |before: u64, after: u64| (after - before) as f64 / 3600.0;
    let (out, inward) = (
        rate(before.bytes_out, after.bytes_out),
        rate(before.bytes_in, after.bytes_in),
    );
    println!(
        "idle: {out:.0} bytes a second out, {inward:.0} in, {:?} good nodes",
        after.good
    );
    assert!(out + inward <= 450.0, "{out} + {inward}");
    let bytes = network.dht(node).heap_bytes();
    assert!(bytes < 512 << 10, "{bytes}");
}
