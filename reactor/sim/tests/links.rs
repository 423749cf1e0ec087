//! What links do to what crosses them, and what partitions and moves do to who is connected.

use std::io::ErrorKind;
use std::time::Duration;

use super::streams::pump;
use super::udp::{bound, received};
use super::*;
use crate::io::driver::Transmit;
use crate::sim::{Bandwidth, BurstLoss, Distribution, Flaps, LinkOptions};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn link(delay: Duration) -> LinkOptions {
    LinkOptions {
        delay,
        jitter: Duration::ZERO,
        ..LinkOptions::default()
    }
}

/// Sends datagrams of so many bytes each, one after another with a pause between; which of them arrive.
fn send_numbered(pair: &mut Pair, count: u32, size: usize, pause: Duration) -> Vec<u32> {
    let from = bound(&mut pair.a, "0.0.0.0:5000");
    let to = bound(&mut pair.b, "0.0.0.0:6000");
    let mut got = Vec::new();
    for number in 0..count {
        let mut data = vec![0; size];
        data[..4].copy_from_slice(&number.to_le_bytes());
        let transmit = Transmit::new(pair.right.addr(6000), &data);
        pair.a.udp_send(from, &[transmit]).unwrap();
        pair.world.run_for(pause);
        got.extend(received(&mut pair.b, to));
    }
    pair.world.run_for(60 * SECOND);
    got.extend(received(&mut pair.b, to));
    let number = |data: &Vec<u8>| u32::from_le_bytes(data[..4].try_into().unwrap());
    got.iter().map(number).collect()
}

/// The time that a new connection takes to carry so many bytes, and they are the right ones.
fn transfer(pair: &mut Pair, bytes: usize) -> Duration {
    let (dialled, accepted) = pair.connected();
    let start = pair.world.now();
    let bytes = pattern(bytes);
    let (got, _) = pump((&mut pair.a, dialled), (&mut pair.b, accepted), &bytes);
    assert!(got == bytes);
    pair.world.now().saturating_duration_since(start)
}

#[test]
fn a_bottleneck_passes_its_rate_and_its_queue_drops_at_the_tail() {
    let mut pair = Pair::new(1);
    let bandwidth = Bandwidth {
        queue_bytes: 10_300,
        ..Bandwidth::new(100_000)
    };
    let options = LinkOptions {
        bandwidth: Some(bandwidth),
        ..link(MS)
    };
    pair.world.set_link(&pair.left, &pair.right, options);
    // 1,028 bytes a datagram with its headers: one passes, ten wait, the rest is lost.
    let got = send_numbered(&mut pair, 30, 1000, Duration::ZERO);
    assert!(got.iter().copied().eq(0..10), "{got:?}");
    // At the rate of the link nothing is lost.
    let mut pair = Pair::new(1);
    pair.world.set_link(&pair.left, &pair.right, options);
    let got = send_numbered(&mut pair, 30, 1000, Duration::from_micros(10_280));
    assert_eq!(got.len(), 30);

    // The count of packets is a limit too.
    let mut pair = Pair::new(1);
    let bandwidth = Bandwidth {
        queue_packets: 3,
        ..Bandwidth::new(100_000)
    };
    let options = LinkOptions {
        bandwidth: Some(bandwidth),
        ..link(MS)
    };
    pair.world.set_link(&pair.left, &pair.right, options);
    assert_eq!(
        send_numbered(&mut pair, 30, 100, Duration::ZERO),
        [0, 1, 2, 3]
    );
}

#[test]
fn tcp_fills_a_bottleneck_without_flooding_it() {
    let mut pair = Pair::new(2);
    let bandwidth = Bandwidth {
        queue_bytes: 40_000,
        ..Bandwidth::new(1_000_000)
    };
    let options = LinkOptions {
        bandwidth: Some(bandwidth),
        ..link(20 * MS)
    };
    pair.world.set_link(&pair.left, &pair.right, options);
    let time = transfer(&mut pair, 10_000_000);
    // 10.3 MB with headers at 1 MB/s.
    assert!((10.0..14.0).contains(&time.as_secs_f64()), "{time:?}");
    let stats = pair.world.stats();
    assert!(stats.packets_lost > 0, "it looks for the limit");
    assert!(
        stats.packets_lost * 50 < stats.packets_sent,
        "and backs off: {stats:?}"
    );
}

#[test]
fn a_bandwidth_of_a_machine_is_shared_by_all_its_links() {
    let world = SimWorld::new(3);
    world.set_default_link(link(MS));
    let server = world.node(&[ip("10.0.0.1")]);
    server.set_bandwidth(Some(Bandwidth::new(100_000)), Some(Bandwidth::new(50_000)));
    let clients: Vec<_> = (2..6)
        .map(|n| world.node(&[IpAddr::from([10, 0, 0, n])]))
        .collect();
    let mut driver = server.driver();
    let socket = bound(&mut driver, "0.0.0.0:1");
    let mut drivers: Vec<_> = clients.iter().map(SimNode::driver).collect();
    let sockets: Vec<_> = drivers
        .iter_mut()
        .map(|one| bound(one, "0.0.0.0:1"))
        .collect();
    for client in &clients {
        for _ in 0..10 {
            driver
                .udp_send(socket, &[Transmit::new(client.addr(1), &[0; 972])])
                .unwrap();
        }
    }
    // 40 datagrams of 1,000 bytes with headers at 100 kB/s.
    world.run_for(399 * MS);
    let count = |drivers: &mut Vec<SimDriver>| {
        let pairs = drivers.iter_mut().zip(&sockets);
        pairs
            .map(|(one, socket)| received(one, *socket).len())
            .sum::<usize>()
    };
    assert_eq!(count(&mut drivers), 39);
    world.run_for(3 * MS);
    assert_eq!(count(&mut drivers), 1);
    for (one, from) in drivers.iter_mut().zip(&sockets) {
        for _ in 0..5 {
            one.udp_send(*from, &[Transmit::new(server.addr(1), &[0; 972])])
                .unwrap();
        }
    }
    world.run_for(202 * MS);
    assert_eq!(
        received(&mut driver, socket).len(),
        10,
        "half the rate on the way in"
    );
}

#[test]
fn burst_losses_come_in_bursts() {
    let mut pair = Pair::new(4);
    let burst = BurstLoss {
        enter: 0.02,
        leave: 0.2,
        loss: 1.0,
    };
    let options = LinkOptions {
        burst: Some(burst),
        ..link(MS)
    };
    pair.world.set_default_link(options);
    let got = send_numbered(&mut pair, 20_000, 10, MS / 10);
    let lost = 20_000 - got.len();
    // A share of enter / (enter + leave) = 1/11 of the time is bad.
    assert!((1400..2300).contains(&lost), "{lost}");
    let bursts = got.windows(2).filter(|pair| pair[1] > pair[0] + 1).count();
    let length = lost as f64 / bursts as f64;
    assert!((4.0..6.0).contains(&length), "{length}");
}

#[test]
fn a_link_that_flaps_is_down_for_both_and_comes_back() {
    let mut pair = Pair::new(5);
    let flaps = Flaps {
        up: 9 * SECOND,
        down: SECOND,
    };
    let options = LinkOptions {
        flaps: Some(flaps),
        ..link(MS)
    };
    pair.world.set_default_link(options);
    let got = send_numbered(&mut pair, 20_000, 10, 100 * MS);
    assert!((17_000..19_000).contains(&got.len()), "{}", got.len());
    let gaps = got.windows(2).filter(|pair| pair[1] > pair[0] + 1).count();
    assert!((130..260).contains(&gaps), "{gaps}");
    // TCP carries on where it stood.
    transfer(&mut pair, 3_000_000);
}

#[test]
fn down_times_can_be_planned() {
    let mut pair = Pair::new(6);
    pair.world.set_default_link(link(10 * MS));
    let times = [100 * MS..200 * MS, 500 * MS..501 * MS];
    pair.world.set_down_times(&pair.left, &pair.right, &times);
    let got = send_numbered(&mut pair, 100, 10, 10 * MS);
    // Nothing starts while it is down, and nothing arrives.
    let lost: Vec<u32> = (0..100).filter(|n| !got.contains(n)).collect();
    let want: Vec<u32> = (9..20).chain(49..51).collect();
    assert_eq!(lost, want);
}

#[test]
fn a_split_parts_groups_and_one_way_cuts_part_one_way() {
    let world = SimWorld::new(7);
    world.set_default_link(link(MS));
    let nodes: Vec<_> = (1..=5)
        .map(|n| world.node(&[IpAddr::from([10, 0, 0, n])]))
        .collect();
    let mut drivers: Vec<_> = nodes.iter().map(SimNode::driver).collect();
    let sockets: Vec<_> = drivers
        .iter_mut()
        .map(|one| bound(one, "0.0.0.0:1"))
        .collect();
    // For each machine, whom it hears.
    let mut hear = || {
        for (driver, socket) in drivers.iter_mut().zip(&sockets) {
            for node in &nodes {
                driver
                    .udp_send(*socket, &[Transmit::new(node.addr(1), b"x")])
                    .unwrap();
            }
        }
        world.run_for(10 * MS);
        let pairs = drivers.iter_mut().zip(&sockets);
        pairs
            .map(|(one, socket)| received(one, *socket).len())
            .collect::<Vec<_>>()
    };
    assert_eq!(hear(), [5, 5, 5, 5, 5]);
    world.split(&[&[&nodes[0], &nodes[1]], &[&nodes[2], &nodes[3]]]);
    assert_eq!(hear(), [3, 3, 3, 3, 5]);
    world.partition_one_way(&nodes[0], &nodes[1]);
    assert_eq!(hear(), [3, 2, 3, 3, 5]);
    world.unsplit();
    assert_eq!(hear(), [5, 4, 5, 5, 5]);
    world.split(&[&[&nodes[0]], &[&nodes[1]], &[&nodes[2]]]);
    world.heal_all();
    assert_eq!(hear(), [5, 5, 5, 5, 5]);
}

#[test]
fn streams_stay_whole_whatever_the_link_does() {
    // With seed 245 each pause before sending again once ended in the same burst of losses.
    for seed in (0..20).chain([245]) {
        let mut pair = Pair::new(seed);
        let burst = BurstLoss {
            enter: 0.002,
            leave: 0.2,
            loss: 0.9,
        };
        pair.world.set_default_link(LinkOptions {
            delay: 5 * MS,
            jitter: 10 * MS,
            distribution: Distribution::LongTail,
            loss: 0.02,
            burst: Some(burst),
            duplicate: 0.05,
            reorder: 0.05,
            mtu: 300 + 200 * (seed as u32 % 7),
            bandwidth: Some(Bandwidth::new(2_000_000)),
            ..LinkOptions::default()
        });
        transfer(&mut pair, 300_000);
    }
}

#[test]
fn segments_fit_the_links_that_they_cross() {
    let mut pair = Pair::new(8);
    pair.left.set_short_io(0.0);
    pair.world.set_icmp(true);
    let narrow = |mtu| LinkOptions { mtu, ..link(MS) };
    pair.world.set_default_link(narrow(1500));
    let (dialled, accepted) = pair.connected();
    let send = |pair: &mut Pair, bytes: usize| {
        let before = pair.world.stats();
        let bytes = pattern(bytes);
        let (got, _) = pump((&mut pair.a, dialled), (&mut pair.b, accepted), &bytes);
        assert!(got == bytes);
        pair.world.run_for(SECOND);
        let after = pair.world.stats();
        (
            after.packets_sent - before.packets_sent,
            after.packets_lost - before.packets_lost,
        )
    };
    // 1,460 bytes of payload each, and as many acknowledgements.
    let (sent, lost) = send(&mut pair, 1_460_000);
    assert!((2_000..2_600).contains(&sent), "{sent}");
    assert_eq!(lost, 0);
    // A link that becomes narrower says so.
    pair.world.set_default_link(narrow(540));
    let (sent, lost) = send(&mut pair, 500_000);
    assert!((2_000..2_600).contains(&sent), "{sent}");
    assert!((1..100).contains(&lost), "{lost}");
    let (_, lost) = send(&mut pair, 500_000);
    assert_eq!(lost, 0);

    // Without such messages they vanish.
    pair.world.set_icmp(false);
    pair.world.set_default_link(narrow(300));
    pair.a.write(dialled, &[0; 1000]).unwrap();
    pair.world.run_for(5 * SECOND);
    assert!(pair.b.read(accepted, &mut [0; 1000]).is_err());
}

#[test]
fn two_who_dial_each_other_at_once_share_one_connection() {
    let mut pair = Pair::new(9);
    pair.world.set_default_link(link(5 * MS));
    let (left, right) = (pair.left.addr(700), pair.right.addr(700));
    let here = pair.a.tcp_connect(right, Some(left)).unwrap();
    let there = pair.b.tcp_connect(left, Some(right)).unwrap();
    assert!(!wait_for(&mut pair.a, here).error);
    assert!(!wait_for(&mut pair.b, there).error);
    pair.a.write(here, b"one").unwrap();
    pair.world.run_for(SECOND);
    let mut buffer = [0; 8];
    assert!(pair.b.read(there, &mut buffer).unwrap() > 0);
    assert_eq!(pair.world.stats().tcp_endpoints, 2);
}

#[test]
fn an_unreachable_machine_is_reported_where_the_network_does() {
    let mut pair = Pair::new(10);
    pair.world.set_icmp(true);
    let socket = pair
        .a
        .tcp_connect("10.0.0.99:1".parse().unwrap(), None)
        .unwrap();
    assert!(wait_for(&mut pair.a, socket).error);
    let error = pair.a.take_error(socket).unwrap();
    assert_eq!(error.kind(), ErrorKind::HostUnreachable);
    // A datagram to a port that nobody has is answered, and the socket hears nothing of it.
    let from = bound(&mut pair.a, "0.0.0.0:0");
    let before = pair.world.stats().packets_delivered;
    let nobody = Transmit::new(pair.right.addr(9), b"x");
    pair.a.udp_send(from, &[nobody]).unwrap();
    pair.world.run_for(SECOND);
    assert_eq!(
        pair.world.stats().packets_delivered,
        before + 1,
        "the error message"
    );
    assert_quiet(&mut pair.a);
    assert_eq!(pair.a.udp_send(from, &[nobody]).unwrap(), 1);
}

#[test]
fn a_phone_that_changes_network_strands_its_connections_and_makes_new_ones() {
    for aborts in [false, true] {
        let mut pair = Pair::new(11);
        let (to, _) = pair.listener();
        let (dialled, accepted) = pair.connected_to(to);
        pair.a.watch_interfaces().unwrap();
        pair.left.change_addrs(&[ip("10.9.9.9")]);
        assert!(wait_all(&mut pair.a).1.interfaces_changed);
        let addrs = &pair.a.interfaces().unwrap()[1].addrs;
        assert_eq!(*addrs, [(ip("10.9.9.9"), 24)]);
        if aborts {
            assert_eq!(pair.left.abort_stranded(), 1);
            assert!(wait_for(&mut pair.a, dialled).error);
            let error = pair.a.take_error(dialled).unwrap();
            assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
        } else {
            pair.a.write(dialled, b"lost").unwrap();
            assert_quiet(&mut pair.a);
        }
        pair.b.write(accepted, b"lost").unwrap();
        assert_quiet(&mut pair.b);
        pair.connected_to(to);
    }
}

/// A run with everything that chance has a hand in.
fn eventful(seed: u64) -> u64 {
    let mut pair = Pair::new(seed);
    let burst = BurstLoss {
        enter: 0.01,
        leave: 0.3,
        loss: 0.5,
    };
    let flaps = Flaps {
        up: 3 * SECOND,
        down: 100 * MS,
    };
    pair.world.set_default_link(LinkOptions {
        distribution: Distribution::Normal,
        loss: 0.01,
        burst: Some(burst),
        duplicate: 0.01,
        reorder: 0.01,
        bandwidth: Some(Bandwidth::new(500_000)),
        flaps: Some(flaps),
        ..LinkOptions::default()
    });
    transfer(&mut pair, 200_000);
    pair.world.trace_hash()
}

#[test]
fn everything_that_links_do_follows_from_the_seed() {
    for seed in 0..5 {
        assert_eq!(eventful(seed), eventful(seed));
        assert_ne!(eventful(seed), eventful(seed + 100));
    }
}
