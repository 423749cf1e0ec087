//! How connections and nodes end, and that nothing of them is left.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use mischief::{NodeBuilder, NodeEvent, SendError};
use mischief_reactor::Limits;
use mischief_reactor::sim::SimWorld;

use crate::bare::{Bare, Poisoned, SETTLED};
use crate::net::{Machine, SECOND, builder, each_seed, inbox, ip, new_world, steady};

const SEEDS: std::ops::Range<u64> = 1..6;

/// A ping after five quiet seconds, and two missed answers of two seconds each.
fn impatient(builder: NodeBuilder) -> NodeBuilder {
    let mut limits = mischief::Limits::default();
    limits.timing.keep_alive = 5 * SECOND;
    limits.timing.ping_timeout = 2 * SECOND;
    builder.limits(limits)
}

fn pair(world: &SimWorld, build: impl Fn(NodeBuilder) -> NodeBuilder) -> [Machine; 2] {
    ["10.0.0.1", "10.0.0.2"].map(|addr| Machine::with(world, addr, 1, Limits::default(), &build))
}

#[test]
fn a_partition_is_noticed_in_time_on_both_sides() {
    let test = "lifetime::a_partition_is_noticed_in_time_on_both_sides";
    each_seed(test, SEEDS, |seed| {
        let world = new_world(seed);
        world.set_default_link(steady());
        let pair = pair(&world, impatient);
        let [a, b] = &pair;
        let idle = [a.footprint(), b.footprint()];
        let peer = a.connect(b);
        world.run_for(100 * SECOND);
        assert_eq!(
            [a, b].map(Machine::comings_and_goings),
            [(1, 0); 2],
            "quiet is not dead"
        );
        // A short one is survived.
        world.partition(&a.sim, &b.sim);
        world.run_for(3 * SECOND);
        world.heal(&a.sim, &b.sim);
        world.run_for(60 * SECOND);
        assert_eq!([a, b].map(Machine::comings_and_goings), [(1, 0); 2]);

        world.partition(&a.sim, &b.sim);
        let cut = world.elapsed();
        let mut gone = [None; 2];
        while gone.contains(&None) && world.elapsed() - cut < 60 * SECOND {
            world.run_for(Duration::from_millis(50));
            for (gone, machine) in gone.iter_mut().zip(&pair) {
                if gone.is_none() && machine.comings_and_goings().1 == 1 {
                    *gone = Some(world.elapsed() - cut);
                }
            }
        }
        for (gone, machine) in gone.into_iter().zip(&pair) {
            let gone = gone.expect("it is noticed");
            // What came last may be five seconds old, so a ping may be due at once; looking may be a second late.
            assert!(gone >= 4 * SECOND && gone <= 12 * SECOND, "{gone:?}");
            assert_eq!(machine.reasons(), ["timeout"]);
        }
        let error = a
            .node
            .send_bytes(&peer, b"x")
            .wait()
            .expect_err("it is gone");
        assert_eq!(error.kind(), "gone");
        world.run_for(SETTLED);
        assert_eq!([a.footprint(), b.footprint()], idle);
        world.heal(&a.sim, &b.sim);
        world.run_for(SECOND);
        let inbox = inbox(b);
        let peer = a.connect(b);
        a.node
            .send_bytes(&peer, b"again")
            .wait()
            .expect("it is connected");
        world
            .run_until(|| !inbox.lock().unwrap().is_empty(), SECOND)
            .expect("it arrives");
        assert_eq!([a, b].map(Machine::comings_and_goings), [(2, 1); 2]);
    });
}

/// What was queued before the end is written before the end.
#[test]
fn what_was_sent_before_a_stop_or_a_disconnect_arrives() {
    let test = "lifetime::what_was_sent_before_a_stop_or_a_disconnect_arrives";
    each_seed(test, 1..21, |seed| {
        let world = new_world(seed);
        let [a, b] = pair(&world, |builder| builder);
        b.sim.set_tcp_buffers(20_000, 20_000);
        a.sim.set_tcp_buffers(20_000, 20_000);
        let idle = [a.footprint(), b.footprint()];
        let inbox = inbox(&b);
        let peer = a.connect(&b);
        let size = [10, 900, 40_000][seed as usize % 3];
        let sent: Vec<_> = (0..50u8)
            .map(|number| a.node.send_bytes(&peer, &vec![number; size]))
            .collect();
        let is_stopped = seed % 2 == 0;
        if is_stopped {
            assert!(a.node.stop(20 * SECOND), "it ends in good order");
        } else {
            a.node.disconnect(&peer).wait().expect("it is connected");
        }
        world.run_for(SETTLED);
        let fates: Vec<_> = sent.into_iter().map(|sent| sent.try_result()).collect();
        let received = inbox.lock().unwrap().clone();
        // The queue takes whole messages while it is below a MiB.
        let accepted = if size == 40_000 { 27 } else { 50 };
        let expected: Vec<_> = (0..accepted).map(|number| vec![number; size]).collect();
        assert!(
            received == expected,
            "{} arrived: {fates:?}",
            received.len()
        );
        for (number, fate) in fates.into_iter().enumerate() {
            let is_accepted = number < usize::from(accepted);
            let expected = is_accepted.then_some(()).ok_or(SendError::Full);
            assert_eq!(fate, Some(expected), "message {number}");
        }
        let kinds = if is_stopped {
            ["stopping"; 2]
        } else {
            ["requested", "by_peer"]
        };
        assert_eq!([a.reasons(), b.reasons()], kinds.map(|kind| vec![kind]));
        assert_eq!(b.footprint(), idle[1]);
        if is_stopped {
            let left = a.footprint();
            assert!(left.actors.is_empty() && left.sockets == 0, "{left:?}");
            assert_eq!(left.memory, 0);
            assert_eq!(a.events().last(), Some(&NodeEvent::Stopped));
        } else {
            assert_eq!(a.footprint(), idle[0]);
        }
    });
}

/// The other side has ended: what cannot be written any more is not said to be sent, and nobody waits for ever.
#[test]
fn every_message_has_a_fate_when_the_peer_goes() {
    let test = "lifetime::every_message_has_a_fate_when_the_peer_goes";
    each_seed(test, 1..21, |seed| {
        let world = new_world(seed);
        let [a, b] = pair(&world, impatient);
        let idle = a.footprint();
        let inbox = inbox(&b);
        let peer = a.connect(&b);
        let sent: Vec<_> = (0..100u8)
            .map(|number| a.node.send_bytes(&peer, &vec![number; 15_000]))
            .collect();
        world.run_for(Duration::from_micros(seed * 700));
        match seed % 4 {
            0 => world.partition(&a.sim, &b.sim),
            1 => drop(b.node.disconnect(&a.id())),
            2 => assert!(b.node.stop(20 * SECOND)),
            _ => drop(b.runtime.shutdown(Duration::ZERO)),
        }
        for sent in sent {
            match sent.wait_for(60 * SECOND) {
                Ok(()) | Err(SendError::Gone(_) | SendError::Full) => {}
                Err(error) => panic!("{error}"),
            }
        }
        world.run_for(SETTLED);
        let received = inbox.lock().unwrap().len();
        let in_order = inbox
            .lock()
            .unwrap()
            .iter()
            .map(|message| message[0])
            .eq(0..received as u8);
        assert!(in_order, "what arrives arrives in order and without gaps");
        assert_eq!(a.comings_and_goings(), (1, 1));
        assert_eq!(a.footprint(), idle);
    });
}

#[test]
fn a_connection_that_fails_is_reported_and_leaves_nothing() {
    let test = "lifetime::a_connection_that_fails_is_reported_and_leaves_nothing";
    each_seed(test, SEEDS, |seed| {
        let world = new_world(seed);
        let bare = Bare::new(&world, "10.0.0.1", Arc::new(Poisoned));
        let idle = bare.footprint();
        let a = Machine::new(&world, "10.0.0.2");
        let own = a.footprint();
        let peer = a
            .node
            .connect(&bare.addr.to_string())
            .wait()
            .expect("it listens");
        let quiet = Machine::new(&world, "10.0.0.3");
        quiet
            .node
            .connect(&bare.addr.to_string())
            .wait()
            .expect("it listens");
        a.node
            .send_bytes(&peer, b"poison")
            .wait()
            .expect("it is connected");
        let is_gone = || a.comings_and_goings().1 == 1;
        world
            .run_until(is_gone, 5 * SECOND)
            .expect("the peer learns of it");
        world.run_for(SETTLED);
        assert_eq!(bare.reasons(), ["internal"]);
        assert_eq!(
            quiet.comings_and_goings(),
            (1, 0),
            "others are not concerned"
        );
        assert_eq!(a.footprint(), own);
        // It may come back at once.
        a.node
            .connect(&bare.addr.to_string())
            .wait()
            .expect("it still listens");
        drop((a, quiet));
        world.run_for(SETTLED);
        assert_eq!(bare.footprint(), idle);
        assert_eq!(bare.common.admission.counts().sockets, 0);
    });
}

#[test]
fn keys_are_replaced_under_way() {
    each_seed("lifetime::keys_are_replaced_under_way", SEEDS, |seed| {
        let world = new_world(seed);
        let [a, b] = pair(&world, |builder| {
            let mut limits = mischief::Limits::default();
            limits.timing.rekey_frames = 3;
            limits.timing.rekey = 10 * SECOND;
            builder.limits(limits)
        });
        let inboxes = [inbox(&a), inbox(&b)];
        a.connect(&b);
        world
            .run_until(|| b.node.is_connected(&a.id()), SECOND)
            .expect("both know");
        for round in 0..60u8 {
            drop(a.node.send_bytes(&b.id(), &[round; 3000]));
            drop(b.node.send_bytes(&a.id(), &[round; 10]));
            let pause = if round % 20 == 0 {
                40 * SECOND
            } else {
                Duration::from_millis(3)
            };
            world.run_for(pause);
        }
        world.run_for(SECOND);
        for inbox in inboxes {
            assert!(
                inbox
                    .lock()
                    .unwrap()
                    .iter()
                    .map(|message| message[0])
                    .eq(0..60)
            );
        }
        assert_eq!([&a, &b].map(Machine::comings_and_goings), [(1, 0); 2]);
    });
}

#[test]
fn a_callback_may_not_wait_and_may_send() {
    each_seed(
        "lifetime::a_callback_may_not_wait_and_may_send",
        SEEDS,
        |seed| {
            let world = new_world(seed);
            let [a, b] = pair(&world, |builder| builder);
            let inbox = inbox(&a);
            let kinds = Arc::new(Mutex::new(Vec::new()));
            let (noting, node) = (kinds.clone(), b.node.downgrade());
            let _stays = b.node.on_bytes(move |peer, bytes| {
                let node = node.upgrade().expect("it is being called");
                drop(node.send_bytes(peer, bytes));
                let mut kinds = noting.lock().unwrap();
                let error = node.send_bytes(peer, b"waits").wait().expect_err("a core");
                assert_eq!(error, SendError::OnCoreThread);
                kinds.push(node.peers().wait().expect_err("a core").kind());
                kinds.push(
                    node.connect("10.0.0.9:1")
                        .wait()
                        .expect_err("a core")
                        .kind(),
                );
            });
            let peer = a.connect(&b);
            a.node
                .send_bytes(&peer, b"there and back")
                .wait()
                .expect("it is connected");
            let is_back = || inbox.lock().unwrap().len() == 2;
            world.run_until(is_back, SECOND).expect("it comes back");
            assert_eq!(inbox.lock().unwrap()[0], b"there and back");
            assert_eq!(*kinds.lock().unwrap(), ["internal", "internal"]);
        },
    );
}

/// A runtime that is shared goes on without the node, so nothing of the node may stay behind.
#[test]
fn a_node_leaves_nothing_on_a_shared_runtime() {
    let test = "lifetime::a_node_leaves_nothing_on_a_shared_runtime";
    each_seed(test, SEEDS, |seed| {
        let world = new_world(seed);
        let sim = world.node(&[ip("10.0.0.1")]);
        let runtime = sim.start(2, Limits::default()).expect("a machine starts");
        let nothing = || {
            let snapshot = runtime.handle().snapshot().expect("it runs");
            let actors: Vec<_> = snapshot.actors().map(|actor| actor.type_name).collect();
            assert!(actors.is_empty(), "{actors:?}");
            assert_eq!(sim.open_sockets(), 0);
        };
        let first = builder(&runtime).start().expect("the port is free");
        let error = builder(&runtime).start().expect_err("the port is taken");
        assert!(error.to_string().contains("in use"), "{error}");
        let other = Machine::new(&world, "10.0.0.2");
        let peer = first
            .connect(&other.addr().to_string())
            .wait()
            .expect("it listens");
        assert!(first.is_connected(&peer));
        let calls: Vec<_> = (0..5)
            .map(|number| first.connect(&format!("10.0.0.{}:9000", 50 + number)))
            .collect();
        match seed % 3 {
            0 => assert!(first.stop(10 * SECOND)),
            1 => drop(first.stop(Duration::ZERO)),
            _ => drop(first),
        }
        for call in calls {
            let error = call.wait_for(SECOND).expect_err("the node has stopped");
            assert_eq!(error.kind(), "stopping", "{error}");
        }
        world.run_for(SETTLED);
        nothing();
        assert_eq!(other.comings_and_goings(), (1, 1));
        assert_eq!(other.reasons(), ["stopping"]);
        let again = builder(&runtime).start().expect("the port is free again");
        drop(again);
        world.run_for(SETTLED);
        nothing();
    });
}
