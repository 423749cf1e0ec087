//! What the swarm runs: whole nodes, or their actors, on simulated machines. `cargo test --test swarm` runs the small
//! ones too.

mod asking;
mod bare;
mod dht;
mod dials;
mod disk;
mod flow;
mod hostile;
mod mesh;
mod party;
mod poison;
mod reading;
mod reconnection;
mod reunion;
mod sabotage;
mod scale;

use mischief_reactor::sim::swarm::Scenario;

pub(crate) use sabotage::Sabotaged;

/// Those that a seed runs when none is named: each takes a fraction of a second.
pub(crate) fn small() -> Vec<Box<dyn Scenario>> {
    vec![
        Box::new(dials::Dials::SMALL),
        Box::new(mesh::Mesh::SMALL),
        Box::new(mesh::Crashes),
        Box::new(hostile::Hostile::SMALL),
        Box::new(flow::Flow::SMALL),
        Box::new(disk::Disks::SMALL),
        Box::new(reading::Reading::SMALL),
        Box::new(reunion::Reunion),
        Box::new(asking::Asking::SMALL),
        Box::new(reconnection::Reconnection::SMALL),
        Box::new(poison::Poison::SMALL),
        Box::new(dht::Dht::SMALL),
    ]
}

/// The same at full size, and those that only make sense so. They run when they are named.
pub(crate) fn large() -> Vec<Box<dyn Scenario>> {
    vec![
        Box::new(dials::Dials::LARGE),
        Box::new(mesh::Mesh::LARGE),
        Box::new(hostile::Hostile::LARGE),
        Box::new(scale::Scale::LARGE),
        Box::new(asking::Asking::LARGE),
        Box::new(reconnection::Reconnection::LARGE),
        Box::new(poison::Poison::LARGE),
        Box::new(dht::Dht::LARGE),
        Box::new(dht::Eclipse),
    ]
}
