//! Dials that lead nowhere, or somewhere else than was meant: each says what was wrong.

use std::time::Duration;

use mischief::network_key::NetworkKey;
use mischief::{NodeBuilder, PeerId};
use mischief_reactor::Limits;
use mischief_reactor::sim::SimWorld;

use crate::net::{Machine, Raw, SECOND, each_seed, identity, ip, new_world, steady};

const SEEDS: std::ops::Range<u64> = 1..6;

fn pair(
    world: &SimWorld,
    build_a: impl FnOnce(NodeBuilder) -> NodeBuilder,
    build_b: impl FnOnce(NodeBuilder) -> NodeBuilder,
) -> [Machine; 2] {
    [
        Machine::with(world, "10.0.0.1", 1, Limits::default(), build_a),
        Machine::with(world, "10.0.0.2", 1, Limits::default(), build_b),
    ]
}

/// What a dial from the first to the second is told; afterwards neither holds on to anything.
#[track_caller]
fn check_refused(world: &SimWorld, [a, b]: &[Machine; 2], expected: Option<PeerId>, kind: &str) {
    let idle = [a.footprint(), b.footprint()];
    let addr = b.addr().to_string();
    let call = match expected {
        Some(peer) => a.node.connect_expecting(&addr, peer),
        None => a.node.connect(&addr),
    };
    let asked = world.elapsed();
    let error = call.wait().expect_err("nobody may be connected");
    assert_eq!(error.kind(), kind, "{error}");
    assert!(
        world.elapsed() - asked < 2 * SECOND,
        "a refusal is told at once"
    );
    world.run_for(10 * SECOND);
    for (machine, idle) in [a, b].into_iter().zip(idle) {
        assert_eq!(
            machine.comings_and_goings(),
            (0, 0),
            "{:?}",
            machine.events()
        );
        assert_eq!(machine.footprint(), idle);
    }
}

#[test]
fn another_peer_than_expected_is_no_peer() {
    each_seed(
        "dialling::another_peer_than_expected_is_no_peer",
        SEEDS,
        |seed| {
            let world = new_world(seed);
            let pair = pair(&world, |a| a, |b| b);
            let stranger = identity(99).peer_id();
            check_refused(&world, &pair, Some(stranger), "wrong_peer");
            let [a, b] = &pair;
            let peer = a
                .node
                .connect_expecting(&b.addr().to_string(), b.id())
                .wait();
            assert_eq!(peer.expect("that is who is there"), b.id());
        },
    );
}

#[test]
fn another_protocol_is_told_from_another_network() {
    let test = "dialling::another_protocol_is_told_from_another_network";
    each_seed(test, SEEDS, |seed| {
        let key = |byte| NetworkKey::new([byte; 32]);
        let world = new_world(seed);
        let other = pair(&world, |a| a, |b| b.protocol("sim", "2.0"));
        check_refused(&world, &other, None, "wrong_protocol");
        let world = new_world(seed);
        let other = pair(&world, |a| a.network_key(key(1)), |b| b.network_key(key(2)));
        check_refused(&world, &other, None, "wrong_network_key");
        let world = new_world(seed);
        let other = pair(&world, |a| a, |b| b.network_key(key(2)));
        check_refused(&world, &other, None, "wrong_network_key");
        let world = new_world(seed);
        let other = pair(&world, |a| a.network_key(key(1)), |b| b);
        check_refused(&world, &other, None, "wrong_network_key");
        let world = new_world(seed);
        let [a, b] = pair(&world, |a| a.network_key(key(1)), |b| b.network_key(key(1)));
        a.connect(&b);
    });
}

#[test]
fn a_full_node_refuses_and_has_room_again() {
    each_seed(
        "dialling::a_full_node_refuses_and_has_room_again",
        SEEDS,
        |seed| {
            let world = new_world(seed);
            let build = |b: NodeBuilder| b.max_peers(3).max_inbound(2);
            let full = Machine::with(&world, "10.0.0.1", 2, Limits::default(), build);
            let others: Vec<_> = (2..6)
                .map(|number| Machine::new(&world, &format!("10.0.0.{number}")))
                .collect();
            others[0].connect(&full);
            others[1].connect(&full);
            // The inbound places are taken.
            let error = others[2].dial(&full).wait().expect_err("there is no room");
            assert_eq!(error.kind(), "full", "{error}");
            // One place is left for a peer of its own choice.
            full.connect(&others[2]);
            let error = full.dial(&others[3]).wait().expect_err("there is no room");
            assert_eq!(error.kind(), "full", "{error}");
            assert_eq!(full.comings_and_goings(), (3, 0), "{:?}", full.events());
            assert_eq!(others[3].comings_and_goings(), (0, 0));
            others[0]
                .node
                .disconnect(&full.id())
                .wait()
                .expect("it is connected");
            world.run_for(SECOND);
            others[3].connect(&full);
            assert_eq!(full.comings_and_goings(), (4, 1), "{:?}", full.events());
        },
    );
}

#[test]
fn many_dial_a_node_with_few_places_at_once() {
    each_seed(
        "dialling::many_dial_a_node_with_few_places_at_once",
        SEEDS,
        |seed| {
            let world = new_world(seed);
            let build = |b: NodeBuilder| b.max_peers(5);
            let hub = Machine::with(&world, "10.1.0.1", 2, Limits::default(), build);
            let others: Vec<_> = (0..30)
                .map(|number| Machine::new(&world, &format!("10.0.{number}.1")))
                .collect();
            let calls: Vec<_> = others.iter().map(|other| other.dial(&hub)).collect();
            let mut connected = 0;
            for call in calls {
                match call.wait() {
                    Ok(_) => connected += 1,
                    Err(error) => assert_eq!(error.kind(), "full", "{error}"),
                }
            }
            assert_eq!(connected, 5);
            world.run_for(10 * SECOND);
            assert_eq!(hub.comings_and_goings(), (5, 0));
            let still: usize = others.iter().map(|other| other.node.stats().peers).sum();
            assert_eq!(still, 5);
        },
    );
}

#[test]
fn names_are_looked_up_and_a_dead_address_costs_a_quarter_of_a_second() {
    let test = "dialling::names_are_looked_up_and_a_dead_address_costs_a_quarter_of_a_second";
    each_seed(test, SEEDS, |seed| {
        let world = new_world(seed);
        world.set_default_link(steady());
        let [a, b] = pair(&world, |a| a, |b| b);
        a.sim.add_addr(ip("fd00::1"));
        // Nobody has the first address, so nothing comes back from there.
        world.set_name("b.example", &[ip("fd00::99"), ip("10.0.0.2")]);
        let began = world.elapsed();
        let peer = a
            .node
            .connect("b.example:9000")
            .wait()
            .expect("the second address");
        let took = world.elapsed() - began;
        assert_eq!(peer, b.id());
        let head_start = Duration::from_millis(250);
        assert!(
            took >= head_start && took < head_start + Duration::from_millis(60),
            "{took:?}"
        );

        let began = world.elapsed();
        let error = a
            .node
            .connect("nobody.example:9000")
            .wait()
            .expect_err("no such name");
        assert_eq!(error.kind(), "unreachable", "{error}");
        assert!(world.elapsed() - began < SECOND);
    });
}

#[test]
fn a_closed_port_and_a_silent_host_are_told_apart() {
    let test = "dialling::a_closed_port_and_a_silent_host_are_told_apart";
    each_seed(test, SEEDS, |seed| {
        let world = new_world(seed);
        let [a, b] = pair(&world, |a| a, |b| b);
        let idle = a.footprint();
        let began = world.elapsed();
        let closed = format!("{}:1", b.sim.addr(1).ip());
        let error = a.node.connect(&closed).wait().expect_err("nobody listens");
        assert_eq!(error.kind(), "unreachable", "{error}");
        assert!(world.elapsed() - began < SECOND);
        let began = world.elapsed();
        let error = a
            .node
            .connect("10.0.0.77:9000")
            .wait()
            .expect_err("nobody is there");
        assert_eq!(error.kind(), "timeout", "{error}");
        let took = world.elapsed() - began;
        assert!(took >= 9 * SECOND && took < 12 * SECOND, "{took:?}");
        for bad in ["", "nonsense", "host:", "1.2.3.4:99999", "[::1", "a b:1"] {
            let error = a.node.connect(bad).wait().expect_err("that is no address");
            assert_eq!(error.kind(), "bad_request", "{bad:?}: {error}");
        }
        world.run_for(SECOND);
        assert_eq!(a.footprint(), idle);
    });
}

/// The other side accepts the TCP connection and then says nothing, or nonsense.
#[test]
fn a_dial_to_what_is_no_node_ends() {
    each_seed("dialling::a_dial_to_what_is_no_node_ends", SEEDS, |seed| {
        let world = new_world(seed);
        let a = Machine::new(&world, "10.0.0.1");
        let idle = a.footprint();
        for (number, says) in [&b""[..], b"SSH-2.0-OpenSSH_9.6\r\n", b"mischief"]
            .iter()
            .enumerate()
        {
            let addr = format!("10.0.1.{number}");
            let server = Raw::listener(says).start_listener(&world, &addr);
            let began = world.elapsed();
            let error = a
                .node
                .connect(&format!("{addr}:9000"))
                .wait()
                .expect_err("no node");
            let took = world.elapsed() - began;
            match number {
                1 => assert_eq!(error.kind(), "handshake_failed", "{error}"),
                _ => {
                    assert_eq!(error.kind(), "timeout", "{error}");
                    assert!(took >= 9 * SECOND && took < 12 * SECOND, "{took:?}");
                }
            }
            drop(server);
        }
        world.run_for(10 * SECOND);
        assert_eq!(a.footprint(), idle);
    });
}
