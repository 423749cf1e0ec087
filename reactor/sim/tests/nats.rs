//! NAT boxes and firewalls, told apart by what machines on both sides see (RFC 5780 §4), and compared with what was
//! asked for.

use std::io::ErrorKind;
use std::time::Duration;

use super::streams::pump;
use super::udp::{bound, received};
use super::*;
use crate::io::driver::Transmit;
use crate::sim::{
    Dependence, Distribution, FirewallOptions, LinkOptions, NatOptions, Ports, SimRouter,
    Unsolicited,
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DEPENDENCES: [Dependence; 3] = [
    Dependence::EndpointIndependent,
    Dependence::AddressDependent,
    Dependence::AddressAndPortDependent,
];

/// A machine with a UDP socket.
struct Peer {
    node: SimNode,
    driver: SimDriver,
    socket: SocketId,
}

impl Peer {
    fn on(node: SimNode, port: u16) -> Peer {
        let mut driver = node.driver();
        let any = if node.addrs()[0].is_ipv4() {
            "0.0.0.0"
        } else {
            "::"
        };
        let addr = SocketAddr::new(ip(any), port);
        let socket = bound(&mut driver, &addr.to_string());
        Peer {
            node,
            driver,
            socket,
        }
    }

    fn new(world: &SimWorld, addr: &str, port: u16) -> Peer {
        Peer::on(world.node(&[ip(addr)]), port)
    }

    fn addr(&self) -> SocketAddr {
        let port = self.driver.local_addr(self.socket).unwrap().port();
        self.node.addr(port)
    }

    fn send(&mut self, to: SocketAddr) {
        let transmit = Transmit::new(to, b"probe");
        self.driver.udp_send(self.socket, &[transmit]).unwrap();
    }

    /// Where the datagrams came from that have arrived since the last look.
    fn heard(&mut self) -> Vec<SocketAddr> {
        self.node.world().run_for(SECOND);
        let (mut from, mut buffer) = (Vec::new(), [0; 2000]);
        let mut each = |one: crate::io::driver::Datagram<'_>| from.push(one.from);
        while self
            .driver
            .udp_receive(self.socket, &mut buffer, &mut each)
            .is_ok()
        {}
        from
    }

    /// As whom `other` sees it.
    fn seen_by(&mut self, other: &mut Peer) -> Option<SocketAddr> {
        other.heard();
        self.send(other.addr());
        other.heard().first().copied()
    }
}

/// Two addresses in the public network with two ports each, as a discovery server has.
struct Servers {
    /// The first, the other port of its address, and the other address.
    first: Peer,
    other_port: Peer,
    other_addr: Peer,
}

impl Servers {
    fn new(world: &SimWorld) -> Servers {
        let first = Peer::new(world, "198.51.100.1", 3478);
        Servers {
            other_port: Peer::on(first.node.clone(), 3479),
            first,
            other_addr: Peer::new(world, "198.51.100.2", 3478),
        }
    }
}

/// What probing found out.
#[derive(Debug, PartialEq)]
struct Found {
    mapping: Dependence,
    filtering: Dependence,
    preserves_ports: bool,
    hairpins: bool,
}

/// Finds out what stands between a machine and the public network. `make` gives a fresh machine each time that no traces
/// of earlier probes may disturb.
fn discover(servers: &mut Servers, make: &mut dyn FnMut() -> SimNode) -> Found {
    let Servers {
        first,
        other_port,
        other_addr,
    } = servers;
    let mut inside = Peer::on(make(), 40_000);
    let seen = inside.seen_by(first).expect("it comes out");
    let preserves_ports = seen.port() == 40_000;
    let by_other_port = inside.seen_by(other_port).expect("it comes out");
    let by_other_addr = inside.seen_by(other_addr).expect("it comes out");
    assert_eq!(inside.seen_by(first), Some(seen), "it lasts");
    let mapping = if seen == by_other_addr {
        assert_eq!(seen, by_other_port);
        Dependence::EndpointIndependent
    } else if seen == by_other_port {
        Dependence::AddressDependent
    } else {
        assert_ne!(by_other_port, by_other_addr);
        Dependence::AddressAndPortDependent
    };

    let mut inside = Peer::on(make(), 40_001);
    let seen = inside.seen_by(first).expect("it comes out");
    inside.heard();
    for server in [&mut *first, &mut *other_port, &mut *other_addr] {
        server.send(seen);
    }
    let heard = inside.heard();
    assert!(heard.contains(&first.addr()), "who was asked may answer");
    let filtering = if heard.contains(&other_addr.addr()) {
        assert_eq!(heard.len(), 3);
        Dependence::EndpointIndependent
    } else if heard.contains(&other_port.addr()) {
        Dependence::AddressDependent
    } else {
        assert_eq!(heard.len(), 1);
        Dependence::AddressAndPortDependent
    };

    // Two machines behind the same box by their outer addresses. Both send first, so that no filter is in the way.
    let (mut one, mut two) = (Peer::on(make(), 40_002), Peer::on(make(), 40_003));
    let seen = [&mut one, &mut two].map(|peer| peer.seen_by(first).expect("it comes out"));
    let mut hairpins = false;
    for _ in 0..3 {
        one.send(seen[1]);
        two.send(seen[0]);
        let heard = two.heard();
        hairpins |= !heard.is_empty();
        let is_outer = |from: &SocketAddr| from.ip() == seen[0].ip();
        assert!(heard.iter().all(is_outer), "RFC 4787 REQ-9a");
    }
    Found {
        mapping,
        filtering,
        preserves_ports,
        hairpins,
    }
}

/// Machines behind a box, at addresses that count up.
fn behind(router: &SimRouter) -> impl FnMut() -> SimNode {
    let router = router.clone();
    let mut last = 1;
    move || {
        last += 1;
        let addr = IpAddr::from([192, 168, 1, last]);
        router.node().world().node_behind(&router, &[addr])
    }
}

/// Whether hairpinned datagrams can get through at all: where each destination gets another mapping, the one that is
/// known from elsewhere has never sent anything to the box itself, so that only an open filter lets them in.
fn can_hairpin(options: &NatOptions) -> bool {
    let open = Dependence::EndpointIndependent;
    options.hairpin && (options.mapping == open || options.filtering == open)
}

#[test]
fn each_kind_of_nat_is_recognised_by_probing_it() {
    let mut kinds = 0;
    for mapping in DEPENDENCES {
        for filtering in DEPENDENCES {
            for ports in [Ports::Preserve, Ports::Random, Ports::Sequential] {
                for hairpin in [false, true] {
                    let options = NatOptions {
                        mapping,
                        filtering,
                        ports,
                        hairpin,
                        ..NatOptions::default()
                    };
                    let world = SimWorld::new(kinds);
                    let mut servers = Servers::new(&world);
                    let nat = world.nat(options, ip("203.0.113.1"));
                    let found = discover(&mut servers, &mut behind(&nat));
                    let want = Found {
                        mapping,
                        filtering,
                        preserves_ports: ports == Ports::Preserve,
                        hairpins: can_hairpin(&options),
                    };
                    assert_eq!(found, want, "{options:?}");
                    kinds += 1;
                }
            }
        }
    }
    assert_eq!(kinds, 54);
}

#[test]
fn the_strictest_of_several_boxes_is_what_is_seen() {
    let kinds = [
        NatOptions::full_cone(),
        NatOptions::restricted_cone(),
        NatOptions::port_restricted_cone(),
        NatOptions::symmetric(),
    ];
    let rank = |one: Dependence| DEPENDENCES.iter().position(|two| *two == one).unwrap();
    for outer in kinds {
        for inner in kinds {
            let world = SimWorld::new(1);
            let mut servers = Servers::new(&world);
            let carrier = world.nat(outer, ip("203.0.113.1"));
            let home = world.nat_behind(&carrier, inner, ip("100.64.0.2"));
            let found = discover(&mut servers, &mut behind(&home));
            let strictest = |a: Dependence, b: Dependence| if rank(a) > rank(b) { a } else { b };
            let context = format!("{outer:?} before {inner:?}");
            assert_eq!(
                found.mapping,
                strictest(outer.mapping, inner.mapping),
                "{context}"
            );
            let filtering = strictest(outer.filtering, inner.filtering);
            assert_eq!(found.filtering, filtering, "{context}");
            let both = outer.ports == Ports::Preserve && inner.ports == Ports::Preserve;
            assert_eq!(found.preserves_ports, both, "{context}");
            assert!(!found.hairpins);
        }
    }
}

#[test]
fn homes_may_use_the_same_private_addresses() {
    let world = SimWorld::new(2);
    let mut servers = Servers::new(&world);
    let mut homes: Vec<Peer> = (1..=3)
        .map(|n| {
            let nat = world.nat(NatOptions::default(), IpAddr::from([203, 0, 113, n]));
            Peer::on(world.node_behind(&nat, &[ip("192.168.1.2")]), 5000)
        })
        .collect();
    for (n, home) in homes.iter_mut().enumerate() {
        let seen = home.seen_by(&mut servers.first).unwrap();
        assert_eq!(seen, SocketAddr::from(([203, 0, 113, n as u8 + 1], 5000)));
        servers.first.send(seen);
        assert_eq!(home.heard(), [servers.first.addr()]);
    }
    // A private address means another machine, or none, elsewhere.
    let to = "192.168.1.2:5000".parse().unwrap();
    servers.first.send(to);
    for home in &mut homes {
        assert!(home.heard().is_empty());
    }
    let error = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        world.nat(NatOptions::default(), ip("203.0.113.1"))
    }));
    assert!(error.is_err(), "public addresses are used once");
}

#[test]
fn a_port_that_is_taken_is_replaced_by_another() {
    let world = SimWorld::new(3);
    let mut servers = Servers::new(&world);
    let nat = world.nat(NatOptions::default(), ip("203.0.113.1"));
    let mut make = behind(&nat);
    let seen: Vec<u16> = (0..3)
        .map(|_| {
            Peer::on(make(), 5000)
                .seen_by(&mut servers.first)
                .unwrap()
                .port()
        })
        .collect();
    assert_eq!(seen[0], 5000);
    assert!(
        seen[1] != 5000 && seen[2] != 5000 && seen[1] != seen[2],
        "{seen:?}"
    );
    // RFC 4787 REQ-3a: well-known ports stay among themselves.
    let low: Vec<u16> = (0..3)
        .map(|_| {
            Peer::on(make(), 500)
                .seen_by(&mut servers.first)
                .unwrap()
                .port()
        })
        .collect();
    assert!(low.iter().all(|port| *port < 1024), "{low:?}");
    let sequential = NatOptions {
        ports: Ports::Sequential,
        ..NatOptions::symmetric()
    };
    let nat = world.nat(sequential, ip("203.0.113.2"));
    let mut inside = Peer::on(behind(&nat)(), 5000);
    let first = inside.seen_by(&mut servers.first).unwrap().port();
    let second = inside.seen_by(&mut servers.other_port).unwrap().port();
    assert_eq!(second, first + 1, "the next port can be guessed");
}

/// How many minutes after a packet in between, itself a minute after the last one from inside, a mapping still lets an
/// answer in.
fn lifetime(options: NatOptions, refresh: impl Fn(&mut Peer, &mut Peer, SocketAddr)) -> u64 {
    for minutes in 1..60 {
        let world = SimWorld::new(minutes);
        let mut server = Peer::new(&world, "198.51.100.1", 1);
        let nat = world.nat(options, ip("203.0.113.1"));
        let mut inside = Peer::on(behind(&nat)(), 5000);
        let seen = inside.seen_by(&mut server).unwrap();
        world.run_for(MINUTE);
        refresh(&mut inside, &mut server, seen);
        inside.heard();
        world.run_for(MINUTE * minutes as u32 - 3 * SECOND);
        server.send(seen);
        if inside.heard().is_empty() {
            return minutes - 1;
        }
    }
    60
}

#[test]
fn udp_mappings_last_as_long_as_they_should() {
    let short = NatOptions::default();
    let long = NatOptions {
        udp_timeout: 5 * MINUTE,
        ..short
    };
    let by_inbound = NatOptions {
        refresh_inbound: true,
        ..short
    };
    let outbound = |inside: &mut Peer, server: &mut Peer, _| inside.send(server.addr());
    let inbound = |_: &mut Peer, server: &mut Peer, seen| server.send(seen);
    assert_eq!(lifetime(short, |_, _, _| {}), 1, "2 minutes in all");
    assert_eq!(lifetime(short, outbound), 2);
    assert_eq!(lifetime(long, outbound), 5);
    assert_eq!(
        lifetime(short, inbound),
        1,
        "RFC 4787 REQ-6: inbound need not refresh"
    );
    assert_eq!(lifetime(by_inbound, inbound), 2);
}

#[test]
fn a_box_that_restarts_or_moves_forgets_its_mappings() {
    let world = SimWorld::new(4);
    let mut server = Peer::new(&world, "198.51.100.1", 1);
    let random = NatOptions {
        ports: Ports::Random,
        ..NatOptions::full_cone()
    };
    let nat = world.nat(random, ip("203.0.113.1"));
    let mut inside = Peer::on(behind(&nat)(), 5000);
    let seen = inside.seen_by(&mut server).unwrap();
    server.send(seen);
    assert_eq!(inside.heard().len(), 1);
    assert_eq!(nat.flows(), 1);
    nat.reboot();
    assert_eq!(nat.flows(), 0);
    server.send(seen);
    assert!(inside.heard().is_empty());
    let again = inside.seen_by(&mut server).unwrap();
    assert_ne!(again, seen);

    nat.set_outer_addr(ip("203.0.113.77"));
    server.send(again);
    assert!(inside.heard().is_empty());
    let moved = inside.seen_by(&mut server).unwrap();
    assert_eq!(moved.ip(), ip("203.0.113.77"));
    server.send(moved);
    assert_eq!(inside.heard().len(), 1);
    // The old address is free for somebody else.
    world.node(&[ip("203.0.113.1")]);
}

#[test]
fn a_full_table_takes_no_more_until_something_ends() {
    let world = SimWorld::new(5);
    let mut server = Peer::new(&world, "198.51.100.1", 1);
    let options = NatOptions {
        flows_max: 10,
        ..NatOptions::default()
    };
    let nat = world.nat(options, ip("203.0.113.1"));
    let node = behind(&nat)();
    let mut peers: Vec<_> = (0..11).map(|n| Peer::on(node.clone(), 5000 + n)).collect();
    for peer in &mut peers {
        peer.send(server.addr());
    }
    assert_eq!(server.heard().len(), 10);
    assert_eq!(nat.flows(), 10);
    world.run_for(2 * MINUTE);
    peers[10].send(server.addr());
    assert_eq!(server.heard().len(), 1);
    assert_eq!(nat.flows(), 1);
}

#[test]
fn a_box_may_block_udp_and_still_pass_tcp() {
    let world = SimWorld::new(6);
    let mut server = Peer::new(&world, "198.51.100.1", 1);
    let options = NatOptions {
        udp: false,
        ..NatOptions::default()
    };
    let nat = world.nat(options, ip("203.0.113.1"));
    let mut inside = Peer::on(behind(&nat)(), 5000);
    assert_eq!(inside.seen_by(&mut server), None);
    let (_, _, from) = connect(&mut inside, &mut server).unwrap();
    assert_eq!(from.ip(), ip("203.0.113.1"));
}

/// Connects by TCP: the sockets at both ends and whom the accepting side sees.
fn connect(
    from: &mut Peer,
    to: &mut Peer,
) -> Result<(SocketId, SocketId, SocketAddr), std::io::Error> {
    let addr = to.node.addr(80);
    let listener = to.driver.tcp_listen(addr, ListenOptions::default())?;
    let dialled = from.driver.tcp_connect(addr, None)?;
    from.node.world().run_for(SECOND);
    let accepted = to.driver.tcp_accept(listener);
    if accepted.is_ok() {
        assert!(wait_for(&mut from.driver, dialled).writable);
    } else {
        from.driver.close(dialled, true);
    }
    to.driver.close(listener, false);
    accepted.map(|(socket, seen)| (dialled, socket, seen))
}

#[test]
fn tcp_passes_from_inside_to_outside_and_not_the_other_way() {
    for unsolicited in [Unsolicited::Drop, Unsolicited::Refuse] {
        let world = SimWorld::new(7);
        let mut server = Peer::new(&world, "198.51.100.1", 1);
        let options = NatOptions {
            unsolicited,
            ..NatOptions::default()
        };
        let nat = world.nat(options, ip("203.0.113.1"));
        let mut inside = Peer::on(behind(&nat)(), 5000);
        let (dialled, accepted, seen) = connect(&mut inside, &mut server).unwrap();
        assert_eq!(seen.ip(), ip("203.0.113.1"));
        let bytes = pattern(200_000);
        let (got, _) = pump(
            (&mut inside.driver, dialled),
            (&mut server.driver, accepted),
            &bytes,
        );
        assert!(got == bytes);
        let (back, _) = pump(
            (&mut server.driver, accepted),
            (&mut inside.driver, dialled),
            &bytes,
        );
        assert!(back == bytes);

        inside
            .driver
            .tcp_listen("0.0.0.0:80".parse().unwrap(), ListenOptions::default())
            .unwrap();
        let to = SocketAddr::new(ip("203.0.113.1"), 80);
        let stray = server.driver.tcp_connect(to, None).unwrap();
        world.run_for(10 * SECOND);
        let error = server.driver.take_error(stray).map(|error| error.kind());
        let want = match unsolicited {
            Unsolicited::Drop => None,
            Unsolicited::Refuse => Some(ErrorKind::ConnectionRefused),
        };
        assert_eq!(error, want);
    }
}

/// Two machines behind boxes of their own dial each other at once, from ports that the other knows.
fn punch(kinds: [NatOptions; 2]) -> bool {
    let world = SimWorld::new(8);
    let mut sides: Vec<_> = kinds
        .iter()
        .zip(1..)
        .map(|(options, n)| {
            let nat = world.nat(*options, IpAddr::from([203, 0, 113, n]));
            Peer::on(world.node_behind(&nat, &[ip("192.168.1.2")]), 1)
        })
        .collect();
    let outer = |n| SocketAddr::from(([203, 0, 113, n], 700));
    let local = Some(sides[0].node.addr(700));
    let here = sides[0].driver.tcp_connect(outer(2), local).unwrap();
    // One is a little later, so its box sees a stray first.
    world.run_for(SECOND / 10);
    let there = sides[1].driver.tcp_connect(outer(1), local).unwrap();
    world.run_for(10 * SECOND);
    let is_open = |peer: &mut Peer, socket| {
        peer.driver.take_error(socket).is_none() && peer.driver.write(socket, b"hello").is_ok()
    };
    is_open(&mut sides[0], here) && is_open(&mut sides[1], there)
}

#[test]
fn tcp_holes_can_be_punched_where_ports_are_kept_and_strays_are_dropped() {
    let kept = NatOptions::default();
    let refusing = NatOptions {
        unsolicited: Unsolicited::Refuse,
        ..kept
    };
    assert!(punch([kept, kept]));
    assert!(!punch([kept, NatOptions::symmetric()]));
    assert!(!punch([refusing, refusing]), "RFC 5382 §4.3");
}

/// Whether an idle connection still carries something after so long.
fn outlives(seed: u64, idle: Duration) -> bool {
    let world = SimWorld::new(seed);
    let mut server = Peer::new(&world, "198.51.100.1", 1);
    let random = NatOptions {
        ports: Ports::Random,
        ..NatOptions::default()
    };
    let nat = world.nat(random, ip("203.0.113.1"));
    let mut inside = Peer::on(behind(&nat)(), 5000);
    let (dialled, accepted, _) = connect(&mut inside, &mut server).unwrap();
    world.run_for(idle);
    server.driver.write(accepted, b"still there?").unwrap();
    world.run_for(SECOND);
    inside.driver.read(dialled, &mut [0; 20]).is_ok()
}

#[test]
fn tcp_mappings_last_as_long_as_rfc_5382_asks() {
    let established = Duration::from_secs(2 * 3600 + 4 * 60);
    assert!(outlives(9, established - MINUTE));
    assert!(!outlives(9, established + MINUTE));
}

#[test]
fn closed_tcp_mappings_go_after_their_shorter_time() {
    let world = SimWorld::new(10);
    let mut server = Peer::new(&world, "198.51.100.1", 1);
    let options = NatOptions {
        flows_max: 1,
        ..NatOptions::default()
    };
    // The table has room for one connection, so the next one tells when the last is forgotten.
    for (abort, nat_addr) in [(false, "203.0.113.1"), (true, "203.0.113.2")] {
        let nat = world.nat(options, ip(nat_addr));
        let mut inside = Peer::on(behind(&nat)(), 5000);
        let (dialled, accepted, _) = connect(&mut inside, &mut server).unwrap();
        world.run_for(10 * MINUTE);
        assert!(connect(&mut inside, &mut server).is_err(), "it is open");
        inside.driver.close(dialled, abort);
        world.run_for(SECOND);
        server.driver.close(accepted, false);
        world.run_for(3 * MINUTE);
        assert!(connect(&mut inside, &mut server).is_err(), "not yet");
        world.run_for(2 * MINUTE);
        connect(&mut inside, &mut server).unwrap();
    }
}

#[test]
fn a_firewall_lets_answers_in_and_translates_nothing() {
    for addr in ["198.51.100.9", "2001:db8::9"] {
        for filtering in DEPENDENCES {
            let world = SimWorld::new(11);
            let is_v4 = ip(addr).is_ipv4();
            let places = if is_v4 {
                ["198.51.100.1", "198.51.100.2"]
            } else {
                ["2001:db8::1", "2001:db8::2"]
            };
            let mut asked = Peer::new(&world, places[0], 1);
            let mut same_addr = Peer::on(asked.node.clone(), 2);
            let mut stranger = Peer::new(&world, places[1], 1);
            let options = FirewallOptions {
                filtering,
                ..FirewallOptions::default()
            };
            let firewall = world.firewall(options);
            let mut inside = Peer::on(world.node_behind(&firewall, &[ip(addr)]), 5000);
            let at = inside.addr();
            asked.send(at);
            assert!(inside.heard().is_empty(), "nothing was asked for");
            assert_eq!(inside.seen_by(&mut asked), Some(at), "its own address");
            for peer in [&mut asked, &mut same_addr, &mut stranger] {
                peer.send(at);
            }
            let want = match filtering {
                Dependence::EndpointIndependent => 3,
                Dependence::AddressDependent => 2,
                Dependence::AddressAndPortDependent => 1,
            };
            assert_eq!(inside.heard().len(), want);
            // Answers keep it open.
            for _ in 0..3 {
                world.run_for(100 * SECOND);
                asked.send(at);
                assert_eq!(inside.heard().len(), 1);
            }
            world.run_for(2 * MINUTE);
            asked.send(at);
            assert!(inside.heard().is_empty(), "the way back has closed");

            let (_, _, seen) = connect(&mut inside, &mut asked).unwrap();
            assert_eq!(seen.ip(), ip(addr));
            assert!(connect(&mut asked, &mut inside).is_err());
        }
    }
}

#[test]
fn a_home_router_translates_one_version_of_ip_and_guards_the_other() {
    let world = SimWorld::new(12);
    let nat = world.nat(NatOptions::full_cone(), ip("203.0.113.1"));
    let home = world.node_behind(&nat, &[ip("192.168.1.2"), ip("2001:db8:1::2")]);
    let mut v4 = Peer::new(&world, "198.51.100.1", 1);
    let mut v6 = Peer::new(&world, "2001:db8:2::1", 1);
    let mut old = Peer::on(home.clone(), 5000);
    let mut new_driver = home.driver();
    let new_socket = bound(&mut new_driver, "[::]:5000");
    assert_eq!(old.seen_by(&mut v4).unwrap().ip(), ip("203.0.113.1"));
    let at: SocketAddr = "[2001:db8:1::2]:5000".parse().unwrap();
    v6.send(at);
    world.run_for(SECOND);
    assert!(received(&mut new_driver, new_socket).is_empty());
    new_driver
        .udp_send(new_socket, &[Transmit::new(v6.addr(), b"x")])
        .unwrap();
    assert_eq!(v6.heard(), [at]);
    v6.send(at);
    world.run_for(SECOND);
    assert_eq!(received(&mut new_driver, new_socket).len(), 1);
}

#[test]
fn neighbours_behind_a_box_talk_directly_and_groups_end_at_it() {
    let world = SimWorld::new(13);
    let nat = world.nat(NatOptions::default(), ip("203.0.113.1"));
    let mut make = behind(&nat);
    let (mut one, mut two) = (Peer::on(make(), 5353), Peer::on(make(), 5353));
    let mut public = Peer::new(&world, "198.51.100.1", 5353);
    assert_eq!(one.seen_by(&mut two), Some(one.addr()));
    assert_eq!(nat.flows(), 0);
    let group = ip("224.0.0.251");
    for peer in [&mut two, &mut public] {
        peer.driver
            .udp_membership(peer.socket, group, 0, true)
            .unwrap();
    }
    one.send((group, 5353).into());
    assert_eq!(two.heard(), [one.addr()]);
    assert!(public.heard().is_empty());
}

#[test]
fn a_machine_moves_between_networks_and_its_groups_move_with_it() {
    let world = SimWorld::new(14);
    let mut server = Peer::new(&world, "198.51.100.1", 1);
    let home = world.nat(NatOptions::default(), ip("203.0.113.1"));
    let carrier = world.nat(NatOptions::symmetric(), ip("203.0.113.2"));
    let phone = world.node_behind(&home, &[ip("192.168.1.2")]);
    let mut phone = Peer::on(phone, 5000);
    let neighbour = world.node_behind(&carrier, &[ip("10.64.0.3")]);
    let mut neighbour = Peer::on(neighbour, 5000);
    phone.driver.watch_interfaces().unwrap();
    let group = ip("224.0.0.251");
    phone
        .driver
        .udp_membership(phone.socket, group, 0, true)
        .unwrap();
    assert_eq!(phone.seen_by(&mut server).unwrap().ip(), ip("203.0.113.1"));
    neighbour.send((group, 5000).into());
    assert!(phone.heard().is_empty());

    phone.node.move_behind(&carrier, &[ip("10.64.0.2")]);
    assert!(wait_all(&mut phone.driver).1.interfaces_changed);
    assert_eq!(phone.seen_by(&mut server).unwrap().ip(), ip("203.0.113.2"));
    neighbour.send((group, 5000).into());
    assert_eq!(phone.heard(), [neighbour.addr()]);

    phone.node.move_out(&[ip("198.51.100.77")]);
    assert_eq!(
        phone.seen_by(&mut server),
        Some("198.51.100.77:5000".parse().unwrap())
    );
}

#[test]
fn partitions_and_links_apply_across_boxes() {
    let world = SimWorld::new(15);
    let mut server = Peer::new(&world, "198.51.100.1", 1);
    let nat = world.nat(NatOptions::default(), ip("203.0.113.1"));
    let mut make = behind(&nat);
    let (mut one, mut two) = (Peer::on(make(), 5000), Peer::on(make(), 5000));
    world.partition(&one.node, &server.node);
    assert_eq!(one.seen_by(&mut server), None);
    assert!(two.seen_by(&mut server).is_some());
    world.heal_all();
    world.partition(nat.node(), &server.node);
    assert_eq!(two.seen_by(&mut server), None);
    world.heal(nat.node(), &server.node);
    world.split(&[&[&one.node], &[&server.node]]);
    assert_eq!(one.seen_by(&mut server), None);
    assert!(two.seen_by(&mut server).is_some());
    world.heal_all();
    assert!(one.seen_by(&mut server).is_some());
}

#[test]
fn errors_of_the_network_find_their_way_back_through_boxes() {
    let world = SimWorld::new(16);
    world.set_icmp(true);
    let nat = world.nat(NatOptions::default(), ip("203.0.113.1"));
    let mut inside = Peer::on(behind(&nat)(), 5000);
    let nobody = "198.51.100.99:1".parse().unwrap();
    let socket = inside.driver.tcp_connect(nobody, None).unwrap();
    assert!(wait_for(&mut inside.driver, socket).error);
    let error = inside.driver.take_error(socket).unwrap();
    assert_eq!(error.kind(), ErrorKind::HostUnreachable);
}

/// A run with every kind of box, and a phone that wanders between them while it talks.
fn wandering(seed: u64) -> u64 {
    let world = SimWorld::new(seed);
    world.set_icmp(true);
    world.set_default_link(LinkOptions {
        loss: 0.02,
        distribution: Distribution::LongTail,
        ..LinkOptions::default()
    });
    let mut server = Peer::new(&world, "198.51.100.1", 1);
    let carrier = world.nat(NatOptions::symmetric(), ip("203.0.113.1"));
    let home = world.nat_behind(&carrier, NatOptions::full_cone(), ip("100.64.0.2"));
    let office = world.firewall(FirewallOptions::default());
    let mut phone = Peer::on(world.node_behind(&home, &[ip("192.168.1.2")]), 5000);
    let bytes = pattern(100_000);
    for place in 0..4 {
        match place {
            0 => {}
            1 => phone.node.move_behind(&carrier, &[ip("100.64.0.3")]),
            2 => phone.node.move_behind(&office, &[ip("192.0.2.7")]),
            _ => phone.node.move_out(&[ip("198.51.100.7")]),
        }
        phone.node.abort_stranded();
        phone.seen_by(&mut server);
        if let Ok((dialled, accepted, _)) = connect(&mut phone, &mut server) {
            let (here, there) = (&mut phone.driver, &mut server.driver);
            let (got, _) = pump((here, dialled), (there, accepted), &bytes);
            assert!(got == bytes);
        }
        carrier.reboot();
    }
    world.trace_hash()
}

#[test]
fn everything_that_boxes_do_follows_from_the_seed() {
    for seed in 0..5 {
        assert_eq!(wandering(seed), wandering(seed));
        assert_ne!(wandering(seed), wandering(seed + 100));
    }
}
