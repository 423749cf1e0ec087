//! Scenarios in which the product makes a mistake on purpose, which they have to find.

use mischief_reactor::sabotage::{self, Mutation};
use mischief_reactor::sim::swarm::{Plan, Scenario, Stage};

/// A scenario with a mistake.
pub(crate) struct Sabotaged {
    pub(crate) scenario: Box<dyn Scenario>,
    pub(crate) mutation: Mutation,
}

/// The mistake of this thread; none from the end of the run on, however it ends.
struct Chosen;

impl Chosen {
    fn new(mutation: Mutation) -> Chosen {
        sabotage::set(Some(mutation));
        Chosen
    }
}

impl Drop for Chosen {
    fn drop(&mut self) {
        sabotage::set(None);
    }
}

impl Scenario for Sabotaged {
    fn name(&self) -> &str {
        self.scenario.name()
    }

    fn about(&self) -> &str {
        self.scenario.about()
    }

    fn plan(&self, seed: u64) -> Plan {
        self.scenario.plan(seed)
    }

    fn run(&self, stage: &Stage) {
        let _chosen = Chosen::new(self.mutation);
        self.scenario.run(stage);
    }
}
