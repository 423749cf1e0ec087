//! The scenario of the README: two nodes that crash meet again.

use std::time::Duration;

use mischief_reactor::sim::swarm::{Plan, Scenario, Stage};

use super::party::{Desk, join, lock, watch};

pub(crate) struct Reunion;

impl Scenario for Reunion {
    fn name(&self) -> &str {
        "reunion"
    }

    fn about(&self) -> &str {
        "two nodes that crash meet again"
    }

    fn plan(&self, seed: u64) -> Plan {
        let mut plan = Plan::new(seed);
        plan.crashes(2, 5, Duration::from_secs(30)); // two machines, five crashes within 30 seconds
        plan
    }

    fn run(&self, stage: &Stage) {
        let desks = [0, 1].map(Desk::new);
        for desk in &desks {
            join(stage, desk, 1, |builder| builder); // a machine with a node that starts again after a crash
        }
        watch(stage, "a node stays who it is", &desks);
        let peer = lock(&desks[1]).id.expect("it runs");
        stage.begin_faults();
        stage.run_for(stage.faults_last() + Duration::from_secs(5));
        lock(&desks[0]).dial(peer, 1);
        let met = || lock(&desks[0]).out.contains_key(&peer);
        stage.eventually("they meet", Duration::from_secs(30), met);
    }
}
