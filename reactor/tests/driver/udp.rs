use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use mischief_reactor::io::driver::{Ecn, Interface, SocketId, Transmit, UdpOptions};

use crate::fixture::{Core, FAMILIES, Family, Fixture};

const A_WHILE: Duration = Duration::from_millis(30);

/// A received datagram, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Received {
    from: SocketAddr,
    to: Option<IpAddr>,
    interface: Option<u32>,
    ttl: Option<u8>,
    ecn: Ecn,
    data: Vec<u8>,
}

fn bind(core: &mut Core, ip: IpAddr, port: u16) -> (SocketId, SocketAddr) {
    let socket = core
        .driver
        .udp_bind(SocketAddr::new(ip, port), UdpOptions::default())
        .expect("binds");
    let addr = core.driver.local_addr(socket).expect("bound");
    (socket, addr)
}

fn any(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// Sends all, waiting for room where it is needed.
#[track_caller]
fn send(core: &mut Core, fixture: &mut dyn Fixture, socket: SocketId, transmits: &[Transmit<'_>]) {
    let mut left = transmits;
    while !left.is_empty() {
        let taken = core
            .until(fixture, socket, |driver| driver.udp_send(socket, left))
            .expect("sends");
        left = &left[taken..];
    }
}

/// Receives what is there, up to a call's worth.
fn receive_some(
    core: &mut Core,
    socket: SocketId,
    buffer: &mut [u8],
) -> std::io::Result<Vec<Received>> {
    let mut all = Vec::new();
    let bounds = buffer.as_ptr_range();
    let count = core.driver.udp_receive(socket, buffer, &mut |datagram| {
        let data = datagram.data.as_ptr_range();
        assert!(
            bounds.start <= data.start && data.end <= bounds.end,
            "in the buffer that was given"
        );
        all.push(Received {
            from: datagram.from,
            to: datagram.to,
            interface: datagram.interface,
            ttl: datagram.ttl,
            ecn: datagram.ecn,
            data: datagram.data.to_vec(),
        });
    })?;
    assert_eq!(count, all.len());
    Ok(all)
}

#[track_caller]
fn receive(
    core: &mut Core,
    fixture: &mut dyn Fixture,
    socket: SocketId,
    want: usize,
) -> Vec<Received> {
    let mut all = Vec::new();
    let mut buffer = vec![0; 65536];
    while all.len() < want {
        match receive_some(core, socket, &mut buffer) {
            Ok(some) => all.extend(some),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                core.ready(fixture, socket);
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(all.len(), want);
    let error = receive_some(core, socket, &mut buffer).expect_err("nothing more");
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    all
}

#[track_caller]
fn nothing_comes(core: &mut Core, fixture: &mut dyn Fixture, socket: SocketId) {
    core.pause(fixture, A_WHILE);
    let error = receive_some(core, socket, &mut vec![0; 65536]).expect_err("nothing is there");
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
}

/// The interface that has the fixture's address.
fn loopback(core: &mut Core, ip: IpAddr) -> u32 {
    let interfaces = core.driver.interfaces().expect("listed");
    let has = |addrs: &[(IpAddr, u8)]| addrs.iter().any(|(addr, _)| *addr == ip);
    interfaces
        .iter()
        .find(|interface| has(&interface.addrs))
        .expect("there is one")
        .index
}

pub(crate) fn both_families_with_all_details(fixture: &mut dyn Fixture) {
    for family in FAMILIES {
        let mut core = Core::new(fixture);
        let ip = fixture.ip(family);
        let interface = loopback(&mut core, ip);
        let (receiver, bound) = bind(&mut core, any(family), 0);
        let (sender, from) = bind(&mut core, ip, 0);
        let to = SocketAddr::new(ip, bound.port());
        for ecn in [Ecn::NotEct, Ecn::Ect0, Ecn::Ect1, Ecn::Ce] {
            let transmit = Transmit {
                ecn,
                ..Transmit::new(to, b"hello")
            };
            send(&mut core, fixture, sender, &[transmit]);
            let received = receive(&mut core, fixture, receiver, 1).remove(0);
            assert_eq!((received.from, &received.data[..]), (from, &b"hello"[..]));
            if fixture.has_packet_info() {
                assert_eq!(received.to, Some(ip));
                assert_eq!(received.interface, Some(interface));
                assert_eq!(received.ttl, Some(64));
                assert_eq!(received.ecn, ecn);
            }
        }
        send(&mut core, fixture, sender, &[Transmit::new(to, b"")]);
        assert_eq!(
            receive(&mut core, fixture, receiver, 1)[0].data,
            b"",
            "an empty datagram is one, too"
        );
        // The two families are kept apart, so the other one's wildcard is free.
        let other = if family == Family::V4 {
            Family::V6
        } else {
            Family::V4
        };
        let (_, twin) = bind(
            &mut core,
            any(other),
            if fixture.is_real() { 0 } else { bound.port() },
        );
        assert_ne!(twin.is_ipv4(), bound.is_ipv4());
    }
}

pub(crate) fn the_source_can_be_chosen(fixture: &mut dyn Fixture) {
    if !fixture.has_packet_info() {
        return;
    }
    for family in FAMILIES {
        let mut core = Core::new(fixture);
        let ip = fixture.ip(family);
        let interface = loopback(&mut core, ip);
        let (receiver, to) = bind(&mut core, ip, 0);
        let (sender, bound) = bind(&mut core, any(family), 0);
        // All of 127.0.0.0/8 is ours on Linux.
        let source = match family {
            Family::V4 if fixture.is_real() => Ipv4Addr::new(127, 0, 0, 5).into(),
            _ => ip,
        };
        let plain = Transmit::new(to, b"from there");
        for transmit in [
            Transmit {
                source: Some(source),
                ..plain
            },
            Transmit {
                source: Some(source),
                interface: Some(interface),
                ecn: Ecn::Ect0,
                ..plain
            },
        ] {
            send(&mut core, fixture, sender, &[transmit]);
            let received = receive(&mut core, fixture, receiver, 1).remove(0);
            assert_eq!(received.from, SocketAddr::new(source, bound.port()));
            assert_eq!(received.ecn, transmit.ecn);
        }
        send(
            &mut core,
            fixture,
            sender,
            &[Transmit {
                interface: Some(interface),
                ..plain
            }],
        );
        assert_eq!(receive(&mut core, fixture, receiver, 1)[0].from.ip(), ip);
    }
}

pub(crate) fn an_address_of_the_other_family_is_an_error(fixture: &mut dyn Fixture) {
    let mut core = Core::new(fixture);
    let (v4, v6) = (fixture.ip(Family::V4), fixture.ip(Family::V6));
    let (receiver, to) = bind(&mut core, v4, 0);
    let (sender, _) = bind(&mut core, v4, 0);
    let good = Transmit::new(to, b"good");
    let bad = Transmit::new(SocketAddr::new(v6, to.port()), b"bad");
    assert!(
        core.driver.udp_send(sender, &[bad, good]).is_err(),
        "the error is the first transmit's"
    );
    assert_eq!(
        core.driver
            .udp_send(sender, &[good, bad, good])
            .expect("the first goes"),
        1
    );
    assert_eq!(receive(&mut core, fixture, receiver, 1)[0].data, b"good");
    if fixture.has_packet_info() {
        let bad = Transmit {
            source: Some(v6),
            ..good
        };
        assert_eq!(
            core.driver
                .udp_send(sender, &[bad])
                .expect_err("no such source")
                .kind(),
            ErrorKind::InvalidInput
        );
        assert_eq!(
            core.driver
                .udp_send(sender, &[good, bad])
                .expect("the first goes"),
            1
        );
    }
    // A mapped address means the plain one.
    let Ok(mapped) = format!("[::ffff:{}]:{}", v4, to.port()).parse() else {
        panic!("an address")
    };
    core.pause(fixture, A_WHILE);
    nothing_or_drain(&mut core, receiver);
    send(
        &mut core,
        fixture,
        sender,
        &[Transmit::new(mapped, b"mapped")],
    );
    assert_eq!(receive(&mut core, fixture, receiver, 1)[0].data, b"mapped");
}

fn nothing_or_drain(core: &mut Core, socket: SocketId) {
    while receive_some(core, socket, &mut vec![0; 65536]).is_ok() {}
}

pub(crate) fn many_at_once_stay_in_order(fixture: &mut dyn Fixture) {
    for family in FAMILIES {
        let mut core = Core::new(fixture);
        let ip = fixture.ip(family);
        let (receiver, to) = bind(&mut core, ip, 0);
        let (sender, from) = bind(&mut core, ip, 0);
        let texts: Vec<String> = (0..100).map(|n| format!("number {n}")).collect();
        let transmits: Vec<_> = texts
            .iter()
            .map(|text| Transmit::new(to, text.as_bytes()))
            .collect();
        send(&mut core, fixture, sender, &transmits);
        let received = receive(&mut core, fixture, receiver, 100);
        for (received, text) in received.iter().zip(&texts) {
            assert_eq!(received.data, text.as_bytes());
            assert_eq!(received.from, from);
        }
    }
}

pub(crate) fn runs_of_equal_datagrams(fixture: &mut dyn Fixture) {
    for family in FAMILIES {
        let mut core = Core::new(fixture);
        let ip = fixture.ip(family);
        let options = UdpOptions {
            receive_buffer: Some(4 << 20),
            ..UdpOptions::default()
        };
        let receiver = core
            .driver
            .udp_bind(SocketAddr::new(ip, 0), options)
            .expect("binds");
        let to = core.driver.local_addr(receiver).expect("bound");
        let (sender, _) = bind(&mut core, any(family), 0);
        let data: Vec<u8> = (0..100_000u32).map(|n| (n / 7) as u8).collect();
        // One short run, one of exactly a multiple, one beyond what a kernel takes at once, one of a single datagram.
        for (len, size) in [
            (5_500, 1000),
            (4_800, 1200),
            (100_000, 1200),
            (700, 1200),
            (1200, 1200),
        ] {
            let run = Transmit {
                segment_size: Some(size),
                source: fixture.has_packet_info().then_some(ip),
                ecn: Ecn::Ect0,
                ..Transmit::new(to, &data[..len])
            };
            send(
                &mut core,
                fixture,
                sender,
                &[run, Transmit::new(to, b"end")],
            );
            let want: Vec<&[u8]> = data[..len]
                .chunks(size.into())
                .chain([&b"end"[..]])
                .collect();
            let got = receive(&mut core, fixture, receiver, want.len());
            assert!(
                got.iter().zip(&want).all(|(got, want)| got.data == *want),
                "{len} in pieces of {size}"
            );
            assert!(!fixture.has_packet_info() || got[0].ecn == Ecn::Ect0);
        }
    }
}

pub(crate) fn datagrams_of_every_size_arrive_whole(fixture: &mut dyn Fixture) {
    let mut core = Core::new(fixture);
    let ip = fixture.ip(Family::V4);
    let (receiver, to) = bind(&mut core, ip, 0);
    let (sender, _) = bind(&mut core, ip, 0);
    let data: Vec<u8> = (0..65_507u32).map(|n| (n % 251) as u8).collect();
    for len in [
        1, 1472, 2047, 2048, 2049, 4095, 4096, 4097, 9000, 32_768, 65_507,
    ] {
        send(
            &mut core,
            fixture,
            sender,
            &[Transmit::new(to, &data[..len])],
        );
        let received = receive(&mut core, fixture, receiver, 1).remove(0);
        assert_eq!(received.data.len(), len);
        assert_eq!(received.data, data[..len]);
    }
    // One byte too many for IPv4.
    let too_long = vec![0; 65_508];
    assert!(
        core.driver
            .udp_send(sender, &[Transmit::new(to, &too_long)])
            .is_err()
    );
    // A short buffer cuts, as it does everywhere; the next datagram is whole.
    send(
        &mut core,
        fixture,
        sender,
        &[Transmit::new(to, &data[..500]), Transmit::new(to, b"next")],
    );
    core.ready(fixture, receiver);
    let mut all = Vec::new();
    let mut buffer = vec![0; 100];
    while let Ok(some) = receive_some(&mut core, receiver, &mut buffer) {
        all.extend(some);
    }
    assert_eq!(all.len(), 2);
    assert_eq!(
        (&all[0].data[..], &all[1].data[..]),
        (&data[..100], &b"next"[..])
    );
}

pub(crate) fn large_ones_among_small_ones_stay_in_order(fixture: &mut dyn Fixture) {
    let mut core = Core::new(fixture);
    let ip = fixture.ip(Family::V4);
    let options = UdpOptions {
        receive_buffer: Some(4 << 20),
        ..UdpOptions::default()
    };
    let receiver = core
        .driver
        .udp_bind(SocketAddr::new(ip, 0), options)
        .expect("binds");
    let to = core.driver.local_addr(receiver).expect("bound");
    let (sender, _) = bind(&mut core, ip, 0);
    let (other, other_addr) = bind(&mut core, ip, 0);
    let lens = [
        10, 60_000, 20, 5000, 30, 40, 60_001, 60_002, 1, 8000, 8001, 50_000, 2,
    ];
    // The kernel of a small machine may not have room for more at once.
    for round in 0..3u8 {
        let blocks: Vec<Vec<u8>> = lens
            .iter()
            .map(|&len| vec![(len % 100) as u8 + round; len])
            .collect();
        for block in blocks.chunks(3) {
            let transmits: Vec<_> = block.iter().map(|block| Transmit::new(to, block)).collect();
            send(&mut core, fixture, sender, &transmits);
            send(
                &mut core,
                fixture,
                sender,
                &[Transmit::new(other_addr, &block[0])],
            );
            // What is held of one socket does not get into the other's way.
            let mut buffer = vec![0; 65536];
            core.ready(fixture, receiver);
            let mut got = receive_some(&mut core, receiver, &mut buffer).expect("there");
            assert_eq!(receive(&mut core, fixture, other, 1)[0].data, block[0]);
            while let Ok(some) = receive_some(&mut core, receiver, &mut buffer) {
                got.extend(some);
            }
            assert_eq!(got.len(), block.len());
            assert!(got.iter().zip(block).all(|(got, want)| got.data == *want));
        }
    }
    nothing_comes(&mut core, fixture, receiver);
}

pub(crate) fn what_waits_for_a_closed_socket_is_gone(fixture: &mut dyn Fixture) {
    let mut core = Core::new(fixture);
    let ip = fixture.ip(Family::V4);
    let (receiver, to) = bind(&mut core, ip, 0);
    let (sender, _) = bind(&mut core, ip, 0);
    let large = vec![1; 50_000];
    send(
        &mut core,
        fixture,
        sender,
        &[
            Transmit::new(to, b"small"),
            Transmit::new(to, &large),
            Transmit::new(to, b"x"),
        ],
    );
    core.ready(fixture, receiver);
    let mut buffer = vec![0; 65536];
    let first = receive_some(&mut core, receiver, &mut buffer).expect("there");
    assert_eq!(first[0].data, b"small");
    core.driver.close(receiver, false);
    let (again, _) = bind(&mut core, ip, 0);
    assert_eq!(again.index, receiver.index);
    nothing_comes(&mut core, fixture, again);
    let error = receive_some(&mut core, receiver, &mut buffer).expect_err("closed");
    assert_eq!(error.kind(), ErrorKind::NotConnected);
}

pub(crate) fn nobody_there_is_no_error(fixture: &mut dyn Fixture) {
    for family in FAMILIES {
        let mut core = Core::new(fixture);
        let ip = fixture.ip(family);
        let (gone, nowhere) = bind(&mut core, ip, 0);
        core.driver.close(gone, false);
        let (socket, addr) = bind(&mut core, ip, 0);
        for _ in 0..3 {
            send(
                &mut core,
                fixture,
                socket,
                &[Transmit::new(nowhere, b"is there anybody?")],
            );
            nothing_comes(&mut core, fixture, socket);
        }
        send(
            &mut core,
            fixture,
            socket,
            &[Transmit::new(addr, b"only me")],
        );
        assert_eq!(receive(&mut core, fixture, socket, 1)[0].from, addr);
    }
}

pub(crate) fn sending_makes_no_edges(fixture: &mut dyn Fixture) {
    let mut core = Core::new(fixture);
    let ip = fixture.ip(Family::V4);
    let (_receiver, to) = bind(&mut core, ip, 0);
    let (sender, _) = bind(&mut core, ip, 0);
    core.pause(fixture, A_WHILE);
    for _ in 0..20 {
        send(&mut core, fixture, sender, &[Transmit::new(to, b"away")]);
    }
    let ready = core.pause(fixture, A_WHILE);
    assert!(
        ready.iter().all(|ready| ready.socket != sender),
        "{ready:?}"
    );
}

pub(crate) fn ports_in_use_and_shared_ports(fixture: &mut dyn Fixture) {
    let mut core = Core::new(fixture);
    let ip = fixture.ip(Family::V4);
    let (_, addr) = bind(&mut core, ip, 0);
    let error = core
        .driver
        .udp_bind(addr, UdpOptions::default())
        .expect_err("in use");
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    let share = UdpOptions {
        share_port: true,
        ..UdpOptions::default()
    };
    assert!(
        core.driver.udp_bind(addr, share).is_err(),
        "both have to agree"
    );
    let first = core
        .driver
        .udp_bind(SocketAddr::new(ip, 0), share)
        .expect("binds");
    let addr = core.driver.local_addr(first).expect("bound");
    core.driver.udp_bind(addr, share).expect("shares the port");
    assert!(core.driver.udp_bind(addr, UdpOptions::default()).is_err());
}

/// An interface by which multicast of a family comes back to this machine. Linux's loopback has a way for the groups of
/// IPv4 only.
fn multicast_interface(core: &mut Core, fixture: &mut dyn Fixture, family: Family) -> Option<u32> {
    if family == Family::V4 {
        return Some(loopback(core, fixture.ip(family)));
    }
    let interfaces = core.driver.interfaces().expect("listed");
    let fits = |interface: &&Interface| {
        let has_v6 = interface.addrs.iter().any(|(addr, _)| addr.is_ipv6());
        interface.is_up && interface.is_multicast && has_v6
    };
    interfaces
        .iter()
        .find(fits)
        .map(|interface| interface.index)
}

pub(crate) fn multicast_reaches_members_only(fixture: &mut dyn Fixture) {
    // Groups that no router passes on; what goes to the IPv6 one does not even leave the machine.
    let groups: [IpAddr; 2] = [
        Ipv4Addr::new(224, 0, 0, 199).into(),
        Ipv6Addr::new(0xff01, 0, 0, 0, 0, 0, 0, 0x4d49).into(),
    ];
    for (family, group) in FAMILIES.into_iter().zip(groups) {
        let mut core = Core::new(fixture);
        let ip = fixture.ip(family);
        let Some(interface) = multicast_interface(&mut core, fixture, family) else {
            eprintln!("skipped {family:?}: no interface for its multicast");
            continue;
        };
        let share = UdpOptions {
            share_port: true,
            ..UdpOptions::default()
        };
        let member = core
            .driver
            .udp_bind(SocketAddr::new(any(family), 0), share)
            .expect("binds");
        let port = core.driver.local_addr(member).expect("bound").port();
        let outsider = core
            .driver
            .udp_bind(SocketAddr::new(any(family), port), share)
            .expect("shares");
        let (sender, _) = bind(&mut core, any(family), 0);
        core.driver
            .udp_membership(member, group, interface, true)
            .expect("joins");
        core.driver
            .udp_membership(member, group, interface, true)
            .expect("joining again is no error");
        core.driver
            .udp_multicast(sender, 1, true, Some(interface))
            .expect("set");
        let transmit = Transmit::new(SocketAddr::new(group, port), b"to all");
        send(&mut core, fixture, sender, &[transmit]);
        let received = receive(&mut core, fixture, member, 1).remove(0);
        assert_eq!(received.data, b"to all");
        if fixture.has_packet_info() {
            assert_eq!(received.to, Some(group));
            assert_eq!(received.interface, Some(interface));
            assert_eq!(received.ttl, Some(1));
        }
        nothing_comes(&mut core, fixture, outsider);
        core.driver
            .udp_multicast(sender, 3, true, None)
            .expect("set");
        send(
            &mut core,
            fixture,
            sender,
            &[Transmit {
                interface: Some(interface),
                ..transmit
            }],
        );
        let received = receive(&mut core, fixture, member, 1).remove(0);
        assert!(!fixture.has_packet_info() || received.ttl == Some(3));
        core.driver
            .udp_membership(member, group, interface, false)
            .expect("leaves");
        core.driver
            .udp_membership(member, group, interface, false)
            .expect("leaving again is no error");
        send(&mut core, fixture, sender, &[transmit]);
        nothing_comes(&mut core, fixture, member);
        assert!(
            core.driver
                .udp_membership(member, ip, interface, true)
                .is_err(),
            "not a group"
        );
    }
}

pub(crate) fn socket_kinds_are_not_mixed_up(fixture: &mut dyn Fixture) {
    let mut core = Core::new(fixture);
    let (client, _server) = core.pair(fixture, Family::V4);
    let ip = fixture.ip(Family::V4);
    let transmit = Transmit::new(SocketAddr::new(ip, 9), b"x");
    assert!(core.driver.udp_send(client, &[transmit]).is_err());
    assert!(receive_some(&mut core, client, &mut [0; 100]).is_err());
    let group = Ipv4Addr::new(224, 0, 0, 199).into();
    assert!(core.driver.udp_membership(client, group, 1, true).is_err());
    assert!(core.driver.udp_multicast(client, 1, true, None).is_err());
}
