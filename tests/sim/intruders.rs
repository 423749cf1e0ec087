//! Sockets that are no peers: a node stays up, forgets them in time and lets good peers in meanwhile.

use std::time::Duration;

use mischief_actors::connection::{Preface, ProtocolHash, WIRE_VERSIONS};
use mischief_reactor::Limits;

use crate::net::{Machine, Raw, SECOND, each_seed, new_world};

const SEEDS: std::ops::Range<u64> = 1..4;

/// Ten seconds, within one.
#[track_caller]
fn check_handshake_deadline(took: Duration) {
    assert!(took >= 9 * SECOND && took <= 11 * SECOND, "{took:?}");
}

/// The first flight of a dialler whose handshake does not go on: the preface and an ephemeral key.
fn first_flight() -> Vec<u8> {
    let protocol = ProtocolHash::new("sim", "1.0").expect("it is short");
    let mut flight = Preface::new(WIRE_VERSIONS, protocol).as_bytes().to_vec();
    flight.extend_from_slice(&[0, 32]);
    // Any 32 bytes are a point of the curve or of its twist.
    flight.extend_from_slice(&[9; 32]);
    flight
}

#[test]
fn slow_peers_are_gone_after_the_handshake_deadline() {
    let test = "intruders::slow_peers_are_gone_after_the_handshake_deadline";
    each_seed(test, SEEDS, |seed| {
        let world = new_world(seed);
        let node = Machine::new(&world, "10.0.0.1");
        let idle = node.footprint();
        let cases = [
            (Vec::new(), None),
            // What it says so slowly may still become a preface.
            (first_flight()[..12].to_vec(), Some(SECOND)),
            (first_flight()[..43].to_vec(), None),
            (first_flight(), None),
            (first_flight(), Some(SECOND)),
        ];
        for (number, (first, every)) in cases.into_iter().enumerate() {
            let mut raw = Raw::new(node.addr(), 1);
            (raw.first, raw.every) = (first, every);
            let began = world.now();
            let (_machine, seen) = raw.start(&world, &format!("10.0.{}.1", 1 + number));
            world.run_for(9 * SECOND);
            // The last one says something that cannot be a handshake, so it need not be waited for.
            let is_early = !seen.lock().unwrap().ended.is_empty();
            assert_eq!(is_early, number == 4, "case {number}");
            let is_gone = || !seen.lock().unwrap().ended.is_empty();
            world
                .run_until(is_gone, 2 * SECOND)
                .expect("the node gives up");
            let ended = seen.lock().unwrap().ended[0];
            if !is_early {
                check_handshake_deadline(ended.saturating_duration_since(began));
            }
            let gone = || node.sim.open_sockets() == idle.sockets;
            world
                .run_until(gone, SECOND)
                .expect("the node holds on to it no longer");
            assert_eq!(node.footprint(), idle, "case {number}");
        }
        assert_eq!(node.comings_and_goings(), (0, 0));
    });
}

#[test]
fn silent_sockets_do_not_keep_a_good_peer_out() {
    let test = "intruders::silent_sockets_do_not_keep_a_good_peer_out";
    each_seed(test, 1..3, |seed| {
        let world = new_world(seed);
        let node = Machine::with(&world, "10.0.0.1", 2, Limits::default(), |b| b);
        let idle = node.footprint();
        let floods: Vec<_> = (0..5)
            .map(|number| Raw::new(node.addr(), 1000).start(&world, &format!("10.1.{number}.1")))
            .collect();
        let good = Machine::new(&world, "10.2.0.1");
        world.run_for(Duration::from_millis(100));
        let began = world.elapsed();
        good.connect(&node);
        let took = world.elapsed() - began;
        assert!(took < SECOND, "{took:?}");
        let held = node.footprint();
        assert!(held.sockets <= idle.sockets + 257, "{}", held.sockets);
        assert!(held.memory < idle.memory + (4 << 20), "{}", held.memory);
        let actors: usize = node.snapshot().actors().map(|actor| actor.memory).sum();
        assert!(actors < 2 << 20, "{actors}");
        world.run_for(15 * SECOND);
        // Nothing is left but the good peer.
        let rest = node.footprint();
        assert_eq!(rest.sockets, idle.sockets + 1);
        assert_eq!(rest.actors.len(), idle.actors.len() + 1);
        drop(good);
        world.run_for(10 * SECOND);
        assert_eq!(node.footprint(), idle);
        assert_eq!(node.comings_and_goings(), (1, 1));
        drop(floods);
    });
}

/// Sockets that are refused before they have shown who they are may not pile up while their last words are read.
#[test]
fn refused_sockets_do_not_pile_up() {
    each_seed("intruders::refused_sockets_do_not_pile_up", SEEDS, |seed| {
        let world = new_world(seed);
        let node = Machine::new(&world, "10.0.0.1");
        let idle = node.footprint();
        let mut most = 0;
        let mut floods = Vec::new();
        for wave in 0..20 {
            for prefix in 0..4 {
                let mut raw = Raw::new(node.addr(), 100);
                raw.first = vec![0x55; 200];
                floods.push(raw.start(&world, &format!("10.{}.{prefix}.1", 1 + wave)));
            }
            world.run_for(Duration::from_millis(100));
            most = most.max(node.footprint().sockets);
        }
        assert!(most <= idle.sockets + 257, "{most} sockets at once");
        let good = Machine::new(&world, "10.200.0.1");
        let began = world.elapsed();
        good.connect(&node);
        let took = world.elapsed() - began;
        assert!(took < SECOND, "{took:?}");
        drop(good);
        world.run_for(20 * SECOND);
        assert_eq!(node.footprint(), idle);
    });
}

/// Many take a place for a handshake and stall.
#[test]
fn stalled_handshakes_give_way() {
    each_seed("intruders::stalled_handshakes_give_way", SEEDS, |seed| {
        let world = new_world(seed);
        let node = Machine::new(&world, "10.0.0.1");
        let idle = node.footprint();
        let floods: Vec<_> = (0..40)
            .map(|prefix| {
                let mut raw = Raw::new(node.addr(), 10);
                raw.first = first_flight();
                raw.start(&world, &format!("10.1.{prefix}.1"))
            })
            .collect();
        world.run_for(Duration::from_millis(50));
        let good = Machine::new(&world, "10.2.0.1");
        let began = world.elapsed();
        good.connect(&node);
        let took = world.elapsed() - began;
        assert!(took < 2 * SECOND, "{took:?}");
        drop(good);
        world.run_for(30 * SECOND);
        assert_eq!(node.footprint(), idle);
        drop(floods);
    });
}
