//! What keeps a node connected: lost peers that come back, what is on the disk, machines that sleep, wrong clocks, and one
//! identity on two machines.

use std::time::Duration;

use mischief::{NodeBuilder, NodeEvent, Notice, ReconnectPolicy, Target};
use mischief_reactor::Limits;
use mischief_reactor::sim::{Crash, Pause, SimNode, SimWorld, Unsynced};

use crate::net::{Machine, SECOND, below, each_seed, identity, ip, new_world, steady};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A node that dials lost peers again, and keeps what it knows.
fn keeping(builder: NodeBuilder) -> NodeBuilder {
    builder
        .reconnect(ReconnectPolicy::default())
        .data_dir("/data")
}

fn machine(world: &SimWorld, addr: &str) -> Machine {
    Machine::with(world, addr, 1, Limits::default(), keeping)
}

fn restarted(sim: &SimNode) -> Machine {
    Machine::on(sim, 1, Limits::default(), keeping)
}

#[track_caller]
fn until_connected(world: &SimWorld, [a, b]: [&Machine; 2], within: Duration) {
    let both = || a.node.is_connected(&b.id()) && b.node.is_connected(&a.id());
    world.run_until(both, within).expect("they are connected");
}

fn notices(machine: &Machine) -> Vec<Notice> {
    let notice = |event: NodeEvent| match event {
        NodeEvent::Network(notice) => Some(notice),
        _ => None,
    };
    machine.events().into_iter().filter_map(notice).collect()
}

/// A ban is answered when it is on the disk: whatever a power cut does then, and whenever it comes.
#[test]
fn what_was_acknowledged_survives_power_cuts() {
    let test = "keeping::what_was_acknowledged_survives_power_cuts";
    each_seed(test, 1..21, |seed| {
        let world = new_world(seed);
        let mut prng = mischief_reactor::sim::Prng::for_purpose(seed, 77);
        let sim = world.node(&[ip("10.0.0.1")]);
        let mut acknowledged: Vec<Target> = Vec::new();
        let mut number = 0u32;
        for round in 0..24 {
            let node = restarted(&sim);
            let bans = node.node.bans().wait().expect("it runs");
            for target in &acknowledged {
                let is_there = bans.iter().any(|(banned, _)| banned == target);
                assert!(is_there, "round {round}: {target} is lost");
            }
            let mut asked = Vec::new();
            for _ in 0..1 + below(&mut prng, 4) {
                number += 1;
                let subnet = format!("10.{}.{}.0/24", number / 200, number % 200);
                let target = Target::Subnet(subnet.parse().expect("it is one"));
                asked.push((target, node.node.ban(target, None)));
                world.run_for(Duration::from_micros(below(&mut prng, 1500)));
            }
            world.run_for(Duration::from_micros(below(&mut prng, 3000)));
            for (target, mut answer) in asked {
                if let Some(result) = answer.try_take() {
                    result.expect("the disk works");
                    acknowledged.push(target);
                }
            }
            let unsynced = match below(&mut prng, 4) {
                0 => None,
                1 => Some(Unsynced::Kept),
                2 => Some(Unsynced::Lost),
                _ => Some(Unsynced::Torn),
            };
            sim.crash(unsynced.map_or(Crash::Kill, Crash::PowerCut));
            drop(node);
        }
        assert!(acknowledged.len() > 10, "{}", acknowledged.len());
    });
}

#[test]
fn a_restarted_node_dials_whom_it_had_dialled() {
    let test = "keeping::a_restarted_node_dials_whom_it_had_dialled";
    each_seed(test, 1..6, |seed| {
        let world = new_world(seed);
        let hub = machine(&world, "10.0.0.1");
        let leaf = machine(&world, "10.0.0.2");
        leaf.connect(&hub);
        // What is not acknowledged is written within half a minute.
        world.run_for(40 * SECOND);
        leaf.sim.crash(Crash::PowerCut(Unsynced::Lost));
        let sim = leaf.sim.clone();
        drop(leaf);
        world.run_for(5 * SECOND);
        // Its clock may show anything then.
        let year = 365 * DAY.as_nanos() as i64;
        sim.jump_wall_clock([year, -year, 0][seed as usize % 3]);
        let leaf = restarted(&sim);
        until_connected(&world, [&leaf, &hub], 30 * SECOND);
        // And while it runs.
        sim.jump_wall_clock([-2 * year, 2 * year, year][seed as usize % 3]);
        world.run_for(120 * SECOND);
        assert!(leaf.node.is_connected(&hub.id()));
        assert_eq!(
            leaf.comings_and_goings(),
            (1, 0),
            "no clock ends a connection"
        );
        let book = leaf.node.address_book().wait().expect("it runs");
        assert_eq!(book.len(), 1);
    });
}

#[test]
fn a_machine_that_slept_for_a_day_is_back_soon() {
    let test = "keeping::a_machine_that_slept_for_a_day_is_back_soon";
    each_seed(test, 1..4, |seed| {
        let world = new_world(seed);
        world.set_default_link(steady());
        let [a, b] = ["10.0.0.1", "10.0.0.2"].map(|addr| machine(&world, addr));
        a.connect(&b);
        world.run_for(10 * SECOND);
        a.sim.pause(Pause::Suspend);
        world.run_for(DAY);
        assert!(b.node.peer_ids().is_empty(), "the other side has noticed");
        a.sim.resume();
        let back = || b.node.is_connected(&a.id());
        world.run_until(back, 60 * SECOND).expect("it comes back");
        world.run_for(5 * SECOND);
        assert!(a.node.is_connected(&b.id()));
        assert_eq!(b.comings_and_goings(), (2, 1));
        let gave_up = |notice: &Notice| matches!(notice, Notice::GaveUp { .. });
        assert!(!notices(&a).iter().any(gave_up));
    });
}

/// Also a peer that was away for a day is tried at once when the network of this machine changes or it wakes.
#[test]
fn waking_up_hurries_those_who_are_waited_for() {
    let test = "keeping::waking_up_hurries_those_who_are_waited_for";
    each_seed(test, 1..4, |seed| {
        let world = new_world(seed);
        world.set_default_link(steady());
        let [a, b] = ["10.0.0.1", "10.0.0.2"].map(|addr| machine(&world, addr));
        a.connect(&b);
        world.partition(&a.sim, &b.sim);
        world.run_for(3600 * SECOND);
        let queue = a.node.reconnect_queue().wait().expect("it runs");
        assert!(queue[0].attempts >= 8, "{queue:?}");
        a.sim.pause(Pause::Suspend);
        world.run_for(SECOND);
        world.heal(&a.sim, &b.sim);
        world.run_for(20 * SECOND);
        a.sim.resume();
        until_connected(&world, [&a, &b], 15 * SECOND);
    });
}

#[test]
fn one_identity_on_two_machines_is_reported_and_does_not_flap() {
    let test = "keeping::one_identity_on_two_machines_is_reported_and_does_not_flap";
    each_seed(test, 1..4, |seed| {
        let world = new_world(seed);
        let hub = Machine::new(&world, "10.0.0.1");
        let twin = |addr| {
            Machine::with(&world, addr, 1, Limits::default(), |builder| {
                builder
                    .identity(identity(5))
                    .reconnect(ReconnectPolicy::default())
            })
        };
        let [first, second] = ["10.0.0.2", "10.0.0.3"].map(twin);
        first.connect(&hub);
        for _ in 0..6 {
            let error = second
                .dial(&hub)
                .wait()
                .expect_err("the first one is there");
            assert_eq!(error.kind(), "duplicate");
            world.run_for(10 * SECOND);
        }
        assert_eq!(hub.comings_and_goings(), (1, 0), "they do not take turns");
        let told: Vec<Notice> = notices(&hub);
        let [
            Notice::SeenTwice {
                peer,
                other: Some(other),
                ..
            },
        ] = &told[..]
        else {
            panic!("{told:?}");
        };
        assert_eq!((*peer, other.ip()), (first.id(), ip("10.0.0.3")));
        // When the first one goes, the second gets its turn.
        assert!(first.node.stop(10 * SECOND));
        assert_eq!(second.connect(&hub), hub.id());
    });
}
