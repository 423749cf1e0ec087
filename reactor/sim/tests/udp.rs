use std::io::ErrorKind;
use std::time::Duration;

use super::*;
use crate::io::driver::{Ecn, Transmit, UdpOptions};
use crate::sim::{LOOPBACK_INTERFACE, LinkOptions, NETWORK_INTERFACE};

/// Everything that a socket has received, drained to the end.
pub(super) fn received(driver: &mut SimDriver, socket: SocketId) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let mut buffer = [0; 70_000];
    loop {
        match driver.udp_receive(socket, &mut buffer, &mut |one| all.push(one.data.to_vec())) {
            Ok(count) => assert!(count > 0),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                return all;
            }
        }
    }
}

pub(super) fn bound(driver: &mut SimDriver, addr: &str) -> SocketId {
    driver
        .udp_bind(addr.parse().unwrap(), UdpOptions::default())
        .unwrap()
}

/// What arrives of a thousand numbered datagrams sent a millisecond apart.
fn send_thousand(seed: u64, link: LinkOptions) -> Vec<u32> {
    let mut pair = Pair::new(seed);
    pair.world.set_default_link(link);
    let from = bound(&mut pair.a, "0.0.0.0:5000");
    let to = bound(&mut pair.b, "0.0.0.0:6000");
    let mut numbers = Vec::new();
    for number in 0..1000u32 {
        let data = number.to_le_bytes();
        let transmit = Transmit::new(pair.right.addr(6000), &data);
        assert_eq!(pair.a.udp_send(from, &[transmit]).unwrap(), 1);
        pair.world.run_for(Duration::from_millis(1));
        numbers.extend(received(&mut pair.b, to));
    }
    pair.world.run_for(Duration::from_secs(1));
    numbers.extend(received(&mut pair.b, to));
    numbers
        .iter()
        .map(|data| u32::from_le_bytes(data[..].try_into().unwrap()))
        .collect()
}

#[test]
fn a_quiet_link_delivers_everything_in_order() {
    let link = LinkOptions {
        jitter: Duration::from_millis(20),
        ..LinkOptions::default()
    };
    assert!(send_thousand(1, link).into_iter().eq(0..1000));
}

#[test]
fn links_lose_double_and_reorder_at_their_rates() {
    let lossy = send_thousand(
        2,
        LinkOptions {
            loss: 0.1,
            ..LinkOptions::default()
        },
    );
    assert!((860..940).contains(&lossy.len()), "{}", lossy.len());
    assert!(lossy.is_sorted());

    let doubled = send_thousand(
        3,
        LinkOptions {
            duplicate: 0.2,
            ..LinkOptions::default()
        },
    );
    assert!((1150..1250).contains(&doubled.len()), "{}", doubled.len());

    let mut mixed = send_thousand(
        4,
        LinkOptions {
            reorder: 0.2,
            ..LinkOptions::default()
        },
    );
    let late = mixed.windows(2).filter(|pair| pair[0] > pair[1]).count();
    assert!((80..220).contains(&late), "{late}");
    mixed.sort_unstable();
    assert!(mixed.into_iter().eq(0..1000));
}

#[test]
fn a_datagram_tells_where_it_comes_from_and_what_it_was_sent_to() {
    let mut pair = Pair::new(5);
    let from = bound(&mut pair.a, "[::]:5000");
    let to = bound(&mut pair.b, "[::]:6000");
    let mut transmit = Transmit::new("[fd00::2]:6000".parse().unwrap(), b"hello");
    transmit.ecn = Ecn::Ect0;
    transmit.source = Some(ip("fd00::1"));
    transmit.interface = Some(NETWORK_INTERFACE);
    pair.a.udp_send(from, &[transmit]).unwrap();
    assert!(wait(&mut pair.b).readable);
    let mut buffer = [0; 3];
    let mut seen = 0;
    pair.b
        .udp_receive(to, &mut buffer, &mut |one| {
            seen += 1;
            assert_eq!(one.from, "[fd00::1]:5000".parse().unwrap());
            assert_eq!(one.to, Some(ip("fd00::2")));
            assert_eq!(one.interface, Some(NETWORK_INTERFACE));
            assert_eq!((one.ttl, one.ecn), (Some(64), Ecn::Ect0));
            assert_eq!(one.data, b"hel", "cut to the buffer");
        })
        .unwrap();
    assert_eq!(seen, 1);

    transmit.source = Some(ip("fd00::9"));
    let error = pair.a.udp_send(from, &[transmit]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
    let v4 = Transmit::new("10.0.0.2:6000".parse().unwrap(), b"x");
    assert!(
        pair.a.udp_send(from, &[v4]).is_err(),
        "an IPv6 socket sends no IPv4"
    );
    let nowhere = Transmit::new("[fd00::99]:6000".parse().unwrap(), b"x");
    assert_eq!(
        pair.a.udp_send(from, &[nowhere, nowhere]).unwrap(),
        2,
        "lost without a word"
    );
}

#[test]
fn a_run_of_segments_arrives_as_datagrams() {
    let mut pair = Pair::new(6);
    let from = bound(&mut pair.a, "0.0.0.0:5000");
    let to = bound(&mut pair.b, "10.0.0.2:6000");
    let data = pattern(2500);
    let mut transmit = Transmit::new(pair.right.addr(6000), &data);
    transmit.segment_size = Some(1000);
    pair.a.udp_send(from, &[transmit]).unwrap();
    pair.world.run_for(Duration::from_millis(10));
    assert_eq!(
        received(&mut pair.b, to),
        [&data[..1000], &data[1000..2000], &data[2000..]]
    );

    transmit.segment_size = Some(0);
    transmit.data = &data[..7];
    pair.a.udp_send(from, &[transmit]).unwrap();
    pair.world.run_for(Duration::from_millis(10));
    assert_eq!(
        received(&mut pair.b, to),
        [&data[..7]],
        "no size, one datagram"
    );
    pair.a
        .udp_send(from, &[Transmit::new(pair.right.addr(6000), b"")])
        .unwrap();
    pair.world.run_for(Duration::from_millis(10));
    assert_eq!(
        received(&mut pair.b, to),
        [b""],
        "an empty datagram is one too"
    );
}

#[test]
fn what_is_larger_than_the_link_vanishes() {
    let mut pair = Pair::new(7);
    let from = bound(&mut pair.a, "0.0.0.0:5000");
    let to = bound(&mut pair.b, "0.0.0.0:6000");
    let data = pattern(70_000);
    for size in [1472, 1473, 65_507] {
        let transmit = Transmit::new(pair.right.addr(6000), &data[..size]);
        pair.a.udp_send(from, &[transmit]).unwrap();
    }
    let transmit = Transmit::new(pair.right.addr(6000), &data[..65_508]);
    assert!(pair.a.udp_send(from, &[transmit]).is_err());
    pair.world.run_for(Duration::from_millis(10));
    let got = received(&mut pair.b, to);
    assert_eq!(got.len(), 1);
    assert_eq!(got[0].len(), 1472);
}

#[test]
fn a_full_receive_buffer_drops_what_comes() {
    let mut pair = Pair::new(8);
    let from = bound(&mut pair.a, "0.0.0.0:5000");
    let options = UdpOptions {
        receive_buffer: Some(10_000),
        ..UdpOptions::default()
    };
    let to = pair
        .b
        .udp_bind("0.0.0.0:6000".parse().unwrap(), options)
        .unwrap();
    for _ in 0..100 {
        pair.a
            .udp_send(from, &[Transmit::new(pair.right.addr(6000), &[0; 1000])])
            .unwrap();
    }
    pair.world.run_for(Duration::from_millis(10));
    assert_eq!(received(&mut pair.b, to).len(), 7);
}

#[test]
fn a_group_reaches_its_members() {
    let mut pair = Pair::new(9);
    let third = pair.world.node(&[ip("10.0.0.3")]);
    let mut c = third.driver();
    let group = ip("224.0.0.251");
    let shared = UdpOptions {
        share_port: true,
        ..UdpOptions::default()
    };
    let any: SocketAddr = "0.0.0.0:5353".parse().unwrap();
    let sender = pair.a.udp_bind(any, shared).unwrap();
    let members = [
        pair.b.udp_bind(any, shared).unwrap(),
        pair.b.udp_bind(any, shared).unwrap(),
    ];
    let stranger = c.udp_bind(any, shared).unwrap();
    for member in members {
        pair.b
            .udp_membership(member, group, NETWORK_INTERFACE, true)
            .unwrap();
    }
    pair.a
        .udp_membership(sender, group, NETWORK_INTERFACE, true)
        .unwrap();
    pair.a
        .udp_membership(sender, group, NETWORK_INTERFACE, true)
        .unwrap();
    assert!(
        pair.a
            .udp_membership(sender, ip("10.0.0.9"), 2, true)
            .is_err()
    );
    assert!(pair.a.udp_membership(sender, group, 9, true).is_err());

    let query = [Transmit::new((group, 5353).into(), b"query")];
    pair.a.udp_send(sender, &query).unwrap();
    pair.world.run_for(Duration::from_millis(10));
    for member in members {
        assert_eq!(received(&mut pair.b, member), [b"query"]);
    }
    assert_eq!(
        received(&mut pair.a, sender),
        [b"query"],
        "its own, looped back"
    );
    assert!(received(&mut c, stranger).is_empty());

    pair.a
        .udp_multicast(sender, 255, false, Some(NETWORK_INTERFACE))
        .unwrap();
    pair.b
        .udp_membership(members[0], group, NETWORK_INTERFACE, false)
        .unwrap();
    pair.a.udp_send(sender, &query).unwrap();
    while !wait_for(&mut pair.b, members[1]).readable {}
    let mut buffer = [0; 100];
    let mut check = |one: crate::io::driver::Datagram<'_>| {
        assert_eq!((one.to, one.ttl), (Some(group), Some(255)));
    };
    pair.b
        .udp_receive(members[1], &mut buffer, &mut check)
        .unwrap();
    assert!(received(&mut pair.b, members[0]).is_empty());
    assert!(received(&mut pair.a, sender).is_empty());

    pair.a
        .udp_multicast(sender, 1, true, Some(LOOPBACK_INTERFACE))
        .unwrap();
    pair.a.udp_send(sender, &query).unwrap();
    pair.world.run_for(Duration::from_millis(10));
    assert!(
        received(&mut pair.a, sender).is_empty(),
        "a member on another interface"
    );
    pair.a
        .udp_membership(sender, group, LOOPBACK_INTERFACE, true)
        .unwrap();
    pair.a.udp_send(sender, &query).unwrap();
    pair.world.run_for(Duration::from_millis(10));
    assert_eq!(received(&mut pair.a, sender).len(), 1);
    assert!(
        received(&mut pair.b, members[1]).is_empty(),
        "the loopback interface ends at home"
    );
}

#[test]
fn unicast_to_a_shared_port_reaches_one_socket() {
    let mut pair = Pair::new(10);
    let shared = UdpOptions {
        share_port: true,
        ..UdpOptions::default()
    };
    let any: SocketAddr = "0.0.0.0:5353".parse().unwrap();
    let both = [
        pair.b.udp_bind(any, shared).unwrap(),
        pair.b.udp_bind(any, shared).unwrap(),
    ];
    let error = pair.b.udp_bind(any, UdpOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    let from = bound(&mut pair.a, "0.0.0.0:0");
    for _ in 0..10 {
        pair.a
            .udp_send(from, &[Transmit::new(pair.right.addr(5353), b"x")])
            .unwrap();
    }
    pair.world.run_for(Duration::from_millis(10));
    let counts = both.map(|socket| received(&mut pair.b, socket).len());
    assert!(
        counts == [10, 0] || counts == [0, 10],
        "the same one for the same sender: {counts:?}"
    );
}

#[test]
fn link_local_addresses_carry_their_interface() {
    let world = SimWorld::new(11);
    let (left, right) = (world.node(&[ip("fe80::1")]), world.node(&[ip("fe80::2")]));
    let (mut a, mut b) = (left.driver(), right.driver());
    let from = bound(&mut a, "[::]:5000");
    let to = bound(&mut b, "[::]:6000");
    a.udp_send(
        from,
        &[Transmit::new("[fe80::2%2]:6000".parse().unwrap(), b"x")],
    )
    .unwrap();
    wait_for(&mut b, to);
    let mut sender = None;
    b.udp_receive(to, &mut [0; 10], &mut |one| sender = Some(one.from))
        .unwrap();
    assert_eq!(sender, Some("[fe80::1%2]:5000".parse().unwrap()));
}

#[test]
fn broadcast_needs_leave_and_reaches_all() {
    let mut pair = Pair::new(12);
    let to = bound(&mut pair.b, "0.0.0.0:9999");
    let everyone = [Transmit::new(
        "255.255.255.255:9999".parse().unwrap(),
        b"all",
    )];
    let shy = bound(&mut pair.a, "0.0.0.0:0");
    let error = pair.a.udp_send(shy, &everyone).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    let options = UdpOptions {
        broadcast: true,
        ..UdpOptions::default()
    };
    let bold = pair
        .a
        .udp_bind("0.0.0.0:0".parse().unwrap(), options)
        .unwrap();
    pair.a.udp_send(bold, &everyone).unwrap();
    pair.world.run_for(Duration::from_millis(10));
    assert_eq!(received(&mut pair.b, to), [b"all"]);
}

#[test]
fn a_socket_that_refuses_tells_when_it_takes_again() {
    let mut pair = Pair::new(13);
    pair.world.set_udp_refusal(0.5);
    let from = bound(&mut pair.a, "0.0.0.0:0");
    let to = bound(&mut pair.b, "0.0.0.0:6000");
    let all = [Transmit::new(pair.right.addr(6000), b"x"); 20];
    let mut sent = 0;
    while sent < all.len() {
        match pair.a.udp_send(from, &all[sent..]) {
            Ok(count) => sent += count,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                assert!(wait(&mut pair.a).writable);
            }
        }
    }
    pair.world.run_for(Duration::from_millis(10));
    assert_eq!(received(&mut pair.b, to).len(), 20);
}
