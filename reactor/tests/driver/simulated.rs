//! A machine of a simulated world.

use std::io;
use std::time::Duration;

use mischief_reactor::Instant;
use mischief_reactor::io::driver::{Driver, Ready, Woken};
use mischief_reactor::sim::{LinkOptions, SimNode, SimWorld};

use crate::fixture::Fixture;

pub(crate) struct Simulated {
    node: SimNode,
}

impl Simulated {
    pub(crate) fn new(seed: u64) -> Simulated {
        let world = SimWorld::new(seed);
        // The suite counts on a loopback interface that delivers at once what was sent at once.
        let loopback = LinkOptions {
            jitter: Duration::ZERO,
            ..LinkOptions::loopback()
        };
        world.set_loopback_link(loopback);
        let addrs = ["10.0.0.1", "fd00::1"].map(|addr| addr.parse().expect("an address"));
        let node = world.node(&addrs);
        // The suite counts on reads that are not cut short, as a kernel's are not.
        node.set_short_io(0.0);
        Simulated { node }
    }
}

impl Fixture for Simulated {
    fn driver(&mut self) -> Box<dyn Driver> {
        Box::new(self.node.driver())
    }

    fn wait(
        &mut self,
        driver: &mut dyn Driver,
        deadline: Option<Instant>,
        ready: &mut Vec<Ready>,
    ) -> io::Result<Woken> {
        // Outside of a turn, waiting steps the world.
        driver.wait(deadline, ready)
    }

    fn directory(&mut self) -> String {
        let disk = self.driver().disk();
        disk.create_dir_all("/test").expect("a fresh disk has room");
        "/test".to_owned()
    }

    fn is_real(&self) -> bool {
        false
    }

    fn has_packet_info(&self) -> bool {
        true
    }
}
