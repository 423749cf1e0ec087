//! Two nodes dial each other at about the same time: one connection comes of it, one event on each side, and every call
//! is answered.

use std::time::Duration;

use mischief::{ConnectError, Connecting};
use mischief_reactor::Limits;
use mischief_reactor::sim::{LinkOptions, Prng, SimWorld};

use crate::net::{Footprint, Machine, SECOND, below, each_seed, identity, new_world};

/// More than any deadline of a dial.
const ANSWERED: Duration = Duration::from_secs(60);

struct Meeting {
    world: SimWorld,
    machines: [Machine; 2],
    idle: [Footprint; 2],
    calls: Vec<(usize, Connecting)>,
    prng: Prng,
}

impl Meeting {
    fn new(seed: u64, cores: usize) -> Meeting {
        let world = new_world(seed);
        let mut prng = Prng::new(seed ^ 0xd1a1);
        world.set_default_link(LinkOptions {
            delay: Duration::from_micros(100 + below(&mut prng, 5_000)),
            jitter: Duration::from_micros(below(&mut prng, 10_000)),
            ..LinkOptions::default()
        });
        let mut number = 2 * seed;
        let machines = ["10.0.0.1", "10.0.0.2"].map(|addr| {
            number += 1;
            Machine::with(&world, addr, cores, Limits::default(), |builder| {
                builder.identity(identity(number))
            })
        });
        let idle = [machines[0].footprint(), machines[1].footprint()];
        Meeting {
            world,
            machines,
            idle,
            calls: Vec::new(),
            prng,
        }
    }

    /// One to three dials from each side within a few milliseconds.
    fn dial(&mut self) {
        let mut dials: Vec<(u64, usize)> = Vec::new();
        for side in [0, 1] {
            for _ in 0..1 + below(&mut self.prng, 3) {
                dials.push((below(&mut self.prng, 12_000), side));
            }
        }
        dials.sort_unstable();
        let mut at = 0;
        for (later, side) in dials {
            self.world.run_for(Duration::from_micros(later - at));
            at = later;
            let call = self.machines[side].dial(&self.machines[1 - side]);
            self.calls.push((side, call));
        }
    }

    /// Waits until nothing is under way and checks what each call was told.
    fn settle(&mut self, may_fail: bool) {
        for (side, call) in self.calls.drain(..) {
            let other = self.machines[1 - side].id();
            match call.wait_for(ANSWERED) {
                Ok(peer) => assert_eq!(peer, other),
                // Whatever it is, somebody has decided it: no call is left to its own deadline.
                Err(error) if may_fail && !matches!(error, ConnectError::Node(_)) => {}
                Err(error) => panic!("a call from {side} failed: {error} ({})", error.kind()),
            }
        }
        self.world.run_for(15 * SECOND);
    }

    fn check_connected(&self) {
        for side in [0, 1] {
            let (machine, other) = (&self.machines[side], &self.machines[1 - side]);
            let (came, went) = machine.comings_and_goings();
            let events = machine.events();
            assert_eq!(
                came - went,
                1,
                "side {side} is not connected once: {events:?}"
            );
            assert!(machine.node.is_connected(&other.id()));
            let footprint = machine.footprint();
            assert_eq!(
                footprint.sockets,
                self.idle[side].sockets + 1,
                "side {side} has not one connection: {footprint:?}"
            );
        }
    }
}

#[test]
fn end_in_one_connection() {
    each_seed("simultaneous::end_in_one_connection", 1..1001, |seed| {
        let cores = if seed % 4 == 0 { 2 } else { 1 };
        let mut meeting = Meeting::new(seed, cores);
        meeting.dial();
        meeting.settle(false);
        meeting.check_connected();
        for machine in &meeting.machines {
            assert_eq!(
                machine.comings_and_goings(),
                (1, 0),
                "{:?}",
                machine.events()
            );
        }
    });
}

#[test]
fn end_in_one_connection_although_the_network_fails_meanwhile() {
    let test = "simultaneous::end_in_one_connection_although_the_network_fails_meanwhile";
    each_seed(test, 1..201, |seed| {
        let cores = if seed % 4 == 0 { 2 } else { 1 };
        let mut meeting = Meeting::new(seed, cores);
        meeting.dial();
        let (world, [a, b]) = (meeting.world.clone(), &meeting.machines);
        world.run_for(Duration::from_micros(below(&mut meeting.prng, 30_000)));
        // Long enough, in half of the runs, for what has begun to be given up.
        world.partition(&a.sim, &b.sim);
        world.run_for(Duration::from_millis(
            below(&mut meeting.prng, 2) * 70_000 + 10,
        ));
        world.heal(&a.sim, &b.sim);
        meeting.settle(true);
        for side in [0, 1] {
            let machine = &meeting.machines[side];
            let (came, went) = machine.comings_and_goings();
            assert!(came <= went + 1, "side {side}: {:?}", machine.events());
        }
        // Whatever came of it, a dial in peace connects them, or finds them connected.
        let call = meeting.machines[0].dial(&meeting.machines[1]);
        meeting.calls.push((0, call));
        meeting.settle(false);
        meeting.check_connected();
    });
}

#[test]
fn end_in_one_connection_although_one_side_hangs_up() {
    let test = "simultaneous::end_in_one_connection_although_one_side_hangs_up";
    each_seed(test, 1..201, |seed| {
        let cores = if seed % 4 == 0 { 2 } else { 1 };
        let mut meeting = Meeting::new(seed, cores);
        meeting.dial();
        let wait = Duration::from_micros(below(&mut meeting.prng, 30_000));
        meeting.world.run_for(wait);
        let side = below(&mut meeting.prng, 2) as usize;
        let other = meeting.machines[1 - side].id();
        let hung_up = meeting.machines[side].node.disconnect(&other);
        meeting.settle(true);
        if let Err(error) = hung_up.wait() {
            assert_eq!(error.kind(), "gone");
        }
        let call = meeting.machines[0].dial(&meeting.machines[1]);
        meeting.calls.push((0, call));
        meeting.settle(false);
        meeting.check_connected();
    });
}
