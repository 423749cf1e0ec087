//! Nodes whose machines crash and whose disks fail: each is who it was, as long as its directory is there.

use std::time::Duration;

use mischief_reactor::Random;
use mischief_reactor::sim::swarm::{Fault, Plan, Scenario, Stage};
use mischief_reactor::sim::{Crash, Unsynced};

use super::party::{Desk, SECOND, SharedDesk, join, lock, watch};

/// Nodes that crash and start again.
pub(crate) struct Disks {
    name: &'static str,
    machines: usize,
    faults: usize,
}

impl Disks {
    pub(crate) const SMALL: Disks = Disks {
        name: "disk",
        machines: 4,
        faults: 24,
    };
}

impl Scenario for Disks {
    fn name(&self) -> &str {
        self.name
    }

    fn about(&self) -> &str {
        "machines crash, lose what was not synced, and have bad disks: a node stays who it was and starts again"
    }

    fn plan(&self, seed: u64) -> Plan {
        let mut plan = Plan::new(seed);
        // The first ones come while the nodes have just written their identities.
        for machine in 0..self.machines {
            let at = plan.prng().up_to(Duration::from_millis(2));
            let crash = Crash::PowerCut(match plan.prng().below(3) {
                0 => Unsynced::Kept,
                1 => Unsynced::Lost,
                _ => Unsynced::Torn,
            });
            let down = SECOND;
            plan.add(
                at,
                Fault::Crash {
                    machine,
                    crash,
                    down,
                },
            );
        }
        plan.crashes(self.machines, self.faults, 60 * SECOND);
        plan.troubles(self.machines, self.faults, 60 * SECOND);
        plan
    }

    fn run(&self, stage: &Stage) {
        let desks: Vec<SharedDesk> = (0..self.machines).map(Desk::new).collect();
        for desk in &desks {
            join(stage, desk, 1, |builder| builder);
        }
        watch(stage, "a node stays who it is", &desks);
        stage.begin_faults();
        stage.run_for(stage.faults_last());
        let all_run = || (0..self.machines).all(|machine| stage.incarnation(machine).is_some());
        stage.eventually("every node runs again", 20 * SECOND, all_run);
        // They are reached as who they were.
        let ids: Vec<_> = desks
            .iter()
            .map(|desk| lock(desk).id.expect("it runs"))
            .collect();
        let connected = || {
            for (machine, desk) in desks.iter().enumerate() {
                let next = (machine + 1) % self.machines;
                lock(desk).dial(ids[next], next);
            }
            stage.world().run_for(SECOND / 10);
            let ends = |desk: &SharedDesk| lock(desk).inbox.len() == 2;
            desks.iter().all(ends)
        };
        for _ in 0..300 {
            if connected() {
                return;
            }
        }
        stage.fail("not reached within 30 s: every node is reached as who it was");
    }
}
