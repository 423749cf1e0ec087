//! Two nodes dial each other at about the same time: exactly one connection comes of it, and one event on each side.

use std::time::Duration;

use mischief_reactor::Random;
use mischief_reactor::sim::LinkOptions;
use mischief_reactor::sim::swarm::{Scenario, Stage};

use super::party::{
    Desk, Footprint, PORT, SECOND, SharedDesk, addr, join, lock, until_idle, watch,
};

/// Pairs of nodes that meet again and again.
pub(crate) struct Dials {
    name: &'static str,
    pairs: usize,
    rounds: usize,
}

impl Dials {
    pub(crate) const SMALL: Dials = Dials {
        name: "dials",
        pairs: 6,
        rounds: 3,
    };
    pub(crate) const LARGE: Dials = Dials {
        name: "dials-10000",
        pairs: 100,
        rounds: 100,
    };
}

impl Scenario for Dials {
    fn name(&self) -> &str {
        self.name
    }

    fn about(&self) -> &str {
        "nodes dial each other at once: one connection and one event on each side, never none, never two"
    }

    fn run(&self, stage: &Stage) {
        let mut prng = stage.prng(1);
        // Some pairs have two cores each, so that the two connections may land on different ones.
        let desks: Vec<SharedDesk> = (0..2 * self.pairs).map(Desk::new).collect();
        for (number, desk) in desks.iter().enumerate() {
            join(stage, desk, 1 + number / 2 % 2, |builder| builder);
            let node = lock(desk).node().expect("it has just started");
            lock(desk).idle = Footprint::of_node(&node);
        }
        watch(stage, "nothing comes twice or out of turn", &desks);
        for round in 0..self.rounds {
            stage.set_default_link(LinkOptions {
                delay: Duration::from_micros(100 + prng.below(5_000)),
                jitter: Duration::from_micros(prng.below(10_000)),
                ..LinkOptions::default()
            });
            // One to three dials from each side within a few milliseconds.
            let mut dials: Vec<(u64, usize)> = Vec::new();
            for side in 0..desks.len() {
                for _ in 0..1 + prng.below(3) {
                    dials.push((prng.below(12_000), side));
                }
            }
            dials.sort_unstable();
            let mut calls = Vec::new();
            let mut at = 0;
            for (later, side) in dials {
                stage.run_for(Duration::from_micros(later - at));
                at = later;
                let node = lock(&desks[side]).node().expect("nobody stops it");
                calls.push((side, node.connect(&format!("{}:{PORT}", addr(side ^ 1)))));
            }
            for (side, call) in calls {
                match call.wait_for(60 * SECOND) {
                    Ok(found) if Some(found) == lock(&desks[side ^ 1]).id => {}
                    other => stage.fail(&format!("round {round}: a call from {side}: {other:?}")),
                }
            }
            stage.run_for(10 * SECOND);
            self.check_and_part(stage, &desks, round);
        }
    }
}

impl Dials {
    fn check_and_part(&self, stage: &Stage, desks: &[SharedDesk], round: usize) {
        for (side, desk) in desks.iter().enumerate() {
            let node = lock(desk).node().expect("nobody stops it");
            let footprint = Footprint::of_node(&node).expect("it runs");
            let desk = lock(desk);
            let idle = desk.idle.as_ref().expect("it was measured");
            let seen = (desk.came, desk.went.len(), footprint.sockets - idle.sockets);
            stage.expect(seen == (round + 1, round, 1), || {
                format!(
                    "round {round}, machine {side}: {} came, {} went, {} sockets",
                    seen.0, seen.1, seen.2
                )
            });
        }
        // It carries messages both ways.
        let received = |side: usize| lock(&desks[side]).received;
        let before: Vec<u64> = (0..desks.len()).map(received).collect();
        for (side, desk) in desks.iter().enumerate() {
            let other = lock(&desks[side ^ 1]).id.expect("it runs");
            let sent = lock(desk).send(&other, 100);
            stage.expect(sent.is_ok(), || format!("machine {side}: {sent:?}"));
        }
        let arrived = || (0..desks.len()).all(|side| received(side) == before[side] + 1);
        stage.eventually("the messages arrive", SECOND, arrived);
        for side in (0..desks.len()).step_by(2) {
            let other = lock(&desks[side + 1]).id.expect("it runs");
            let node = lock(&desks[side]).node().expect("nobody stops it");
            drop(node.disconnect(&other));
        }
        let parted = || desks.iter().all(|desk| lock(desk).went.len() == round + 1);
        stage.eventually("both learn of the end", 20 * SECOND, parted);
        until_idle(stage, desks);
    }
}
