//! Two nodes meet and talk.

use std::time::Duration;

use mischief_reactor::Limits;
use mischief_reactor::sim::LinkOptions;

use crate::net::{Machine, SECOND, each_seed, inbox, new_world};

/// A run with odd delays, losses and cut reads: everything that was sent arrives once and in order. The trace's hash.
fn conversation(seed: u64) -> u64 {
    let world = new_world(seed);
    world.set_default_link(LinkOptions {
        jitter: Duration::from_millis(20),
        loss: 0.01,
        ..LinkOptions::default()
    });
    let cores = 1 + (seed % 2) as usize;
    let machines = ["10.0.0.1", "10.0.0.2"].map(|addr| {
        let machine = Machine::with(&world, addr, cores, Limits::default(), |builder| builder);
        machine.sim.set_short_io(0.5);
        machine.sim.set_tcp_buffers(3000, 2000);
        machine
    });
    let [a, b] = &machines;
    let inboxes = [inbox(a), inbox(b)];
    a.connect(b);
    world
        .run_until(|| b.node.is_connected(&a.id()), 10 * SECOND)
        .expect("the other side learns of it");
    let message = |number: usize| {
        let mut message = vec![number as u8; 1 + number * number * 37 % 5000];
        message.extend_from_slice(&number.to_le_bytes());
        message
    };
    let count = 40;
    for number in 0..count {
        drop(a.node.send_bytes(&b.id(), &message(number)));
        drop(b.node.send_bytes(&a.id(), &message(number)));
        if number % 7 == 0 {
            world.run_for(Duration::from_millis(15));
        }
    }
    let is_done = || {
        inboxes
            .iter()
            .all(|inbox| inbox.lock().unwrap().len() >= count)
    };
    world.run_until(is_done, 120 * SECOND).expect("all arrives");
    let sent: Vec<_> = (0..count).map(message).collect();
    for inbox in &inboxes {
        assert_eq!(*inbox.lock().unwrap(), sent);
    }
    for machine in &machines {
        assert_eq!(machine.comings_and_goings(), (1, 0));
    }
    drop(machines);
    world.trace_hash()
}

#[test]
fn messages_arrive_in_order_and_a_seed_repeats_its_run() {
    let mut hashes = Vec::new();
    each_seed(
        "meeting::messages_arrive_in_order_and_a_seed_repeats_its_run",
        1..9,
        |seed| {
            let hash = conversation(seed);
            assert_eq!(
                hash,
                conversation(seed),
                "the run of seed {seed} is not repeated"
            );
            hashes.push(hash);
        },
    );
    let count = hashes.len();
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), count, "two seeds gave the same run");
}

#[test]
fn nodes_on_one_machine_and_on_ipv6_meet_too() {
    each_seed(
        "meeting::nodes_on_one_machine_and_on_ipv6_meet_too",
        1..4,
        |seed| {
            let world = new_world(seed);
            let [a, b] = ["fd00::1", "fd00::2"].map(|addr| {
                Machine::with(&world, addr, 2, Limits::default(), |builder| {
                    builder.listen("[::]:9001")
                })
            });
            let peer = a.node.connect("[fd00::2]:9001").wait().expect("b listens");
            assert_eq!(peer, b.id());
            let own = a
                .node
                .connect("[fd00::1]:9001")
                .wait()
                .expect_err("that is a itself");
            assert_eq!(own.kind(), "self_dial");
            let inbox = inbox(&b);
            a.node
                .send_bytes(&peer, b"over six")
                .wait()
                .expect("it is connected");
            let is_done = || !inbox.lock().unwrap().is_empty();
            world.run_until(is_done, SECOND).expect("it arrives");
            let info = a.node.peer(&peer).wait().expect("it is connected");
            assert!(info.addr.is_ipv6());
            assert_eq!(info.messages_out, 1);
            assert!(
                info.rtt.is_some_and(|rtt| rtt >= Duration::from_millis(2)),
                "{info:?}"
            );
        },
    );
}

/// Bytes of all connections of a machine, with what they own.
fn connection_bytes(machine: &Machine) -> Vec<usize> {
    let snapshot = machine.snapshot();
    let connections = snapshot
        .actors()
        .filter(|actor| actor.type_name.ends_with("::ConnectionActor"));
    connections.map(|actor| actor.memory).collect()
}

#[test]
fn a_connection_that_has_become_quiet_holds_nothing_beside_its_state() {
    let name = "meeting::a_connection_that_has_become_quiet_holds_nothing_beside_its_state";
    each_seed(name, 0..3, |seed| {
        let world = new_world(seed);
        let [a, b] = ["10.0.0.1", "10.0.0.2"].map(|addr| Machine::new(&world, addr));
        let inboxes = [inbox(&a), inbox(&b)];
        a.connect(&b);
        world.run_for(10 * SECOND);
        assert_eq!(connection_bytes(&a), [200]);
        assert_eq!(connection_bytes(&b), [200]);
        for round in 1..=3 {
            drop(a.node.send_bytes(&b.id(), &[1; 3000]));
            drop(b.node.send_bytes(&a.id(), &[2; 100_000]));
            world
                .run_until(
                    || {
                        inboxes
                            .iter()
                            .all(|inbox| inbox.lock().unwrap().len() == round)
                    },
                    10 * SECOND,
                )
                .expect("both arrive");
            assert!(connection_bytes(&a)[0] > 200 && connection_bytes(&b)[0] > 200);
            // A keep-alive restores what is left of the windows.
            world.run_for(100 * SECOND);
            assert_eq!(connection_bytes(&a), [200]);
            assert_eq!(connection_bytes(&b), [200]);
        }
        // What is said last is still written, though the connection had no link when it was said.
        drop(a.node.send_bytes(&b.id(), b"goodbye"));
        a.node.disconnect(&b.id()).wait().expect("it is connected");
        let heard = || {
            inboxes[1]
                .lock()
                .unwrap()
                .last()
                .is_some_and(|last| last == b"goodbye")
        };
        world.run_until(heard, 10 * SECOND).expect("it arrives");
    });
}
