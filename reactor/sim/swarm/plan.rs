//! Faults as data.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use crate::random::Random;
use crate::sim::{Crash, DiskFaults, LinkOptions, Pause, Prng, Unsynced};

/// The purpose of what a plan draws from a seed.
const PLANNING: u64 = 0x9a1a;

/// What befalls machines and links. Each ends by itself, so that a plan is still one without any of its faults.
///
/// Machines are named by their place among those of the stage.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Fault {
    /// A machine's programs end. They start again later.
    Crash {
        /// Which.
        machine: usize,
        /// How.
        crash: Crash,
        /// For how long nothing runs.
        down: Duration,
    },
    /// A machine stands still for a while.
    Pause {
        /// Which.
        machine: usize,
        /// How.
        pause: Pause,
        /// For how long.
        lasts: Duration,
    },
    /// A machine is slow for a while.
    Slow {
        /// Which.
        machine: usize,
        /// How many times as long everything takes.
        times: u32,
        /// For how long.
        lasts: Duration,
    },
    /// A machine's wall clock is set.
    ClockJump {
        /// Which.
        machine: usize,
        /// Forward by so much; negative is back.
        millis: i64,
    },
    /// A machine's runtime is at its limit of memory for a while.
    MemoryFull {
        /// Which.
        machine: usize,
        /// For how long.
        lasts: Duration,
    },
    /// A machine's disk fails now and then for a while.
    DiskFails {
        /// Which.
        machine: usize,
        /// How often.
        faults: DiskFaults,
        /// For how long.
        lasts: Duration,
    },
    /// A machine's disk has no room for a while.
    DiskFull {
        /// Which.
        machine: usize,
        /// For how long.
        lasts: Duration,
    },
    /// Two machines are cut off from each other for a while.
    Cut {
        /// One.
        a: usize,
        /// The other.
        b: usize,
        /// For how long.
        lasts: Duration,
    },
    /// A machine is cut off from all others for a while.
    Isolate {
        /// Which.
        machine: usize,
        /// For how long.
        lasts: Duration,
    },
    /// A machine is in another network for a while: its addresses are gone, and it has another one.
    Moves {
        /// Which.
        machine: usize,
        /// The address that it has there. No two faults of a plan may have the same.
        to: IpAddr,
        /// For how long.
        lasts: Duration,
    },
    /// All links that are set no other way are so for a while.
    Links {
        /// What they do then.
        options: LinkOptions,
        /// For how long.
        lasts: Duration,
    },
}

/// A fault and when it comes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TimedFault {
    /// Since [`Stage::begin_faults`](super::Stage::begin_faults).
    pub at: Duration,
    /// What comes.
    pub fault: Fault,
}

impl fmt::Display for TimedFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "after {:?}: ", self.at)?;
        match &self.fault {
            Fault::Crash {
                machine,
                crash,
                down,
            } => write!(f, "machine {machine} ends by {crash:?}, down for {down:?}"),
            Fault::Pause {
                machine,
                pause,
                lasts,
            } => write!(
                f,
                "machine {machine} stands still ({pause:?}) for {lasts:?}"
            ),
            Fault::Slow {
                machine,
                times,
                lasts,
            } => write!(
                f,
                "machine {machine} is {times} times as slow for {lasts:?}"
            ),
            Fault::ClockJump { machine, millis } => {
                write!(f, "the clock of machine {machine} jumps by {millis} ms")
            }
            Fault::MemoryFull { machine, lasts } => {
                write!(f, "machine {machine} has no memory for {lasts:?}")
            }
            Fault::DiskFails {
                machine,
                faults,
                lasts,
            } => write!(
                f,
                "the disk of machine {machine} fails for {lasts:?}: {faults:?}"
            ),
            Fault::DiskFull { machine, lasts } => {
                write!(f, "the disk of machine {machine} is full for {lasts:?}")
            }
            Fault::Cut { a, b, lasts } => write!(f, "{a} and {b} are cut off for {lasts:?}"),
            Fault::Isolate { machine, lasts } => {
                write!(f, "machine {machine} is cut off for {lasts:?}")
            }
            Fault::Moves { machine, to, lasts } => {
                write!(f, "machine {machine} is at {to} for {lasts:?}")
            }
            Fault::Links { options, lasts } => {
                write!(
                    f,
                    "links lose {} % for {lasts:?}: {options:?}",
                    options.loss * 100.0
                )
            }
        }
    }
}

/// The faults of a run, and the seed's source of chance for drawing them.
#[derive(Clone, Debug)]
pub struct Plan {
    faults: Vec<TimedFault>,
    prng: Prng,
}

impl Plan {
    /// No faults yet.
    pub fn new(seed: u64) -> Plan {
        Plan {
            faults: Vec::new(),
            prng: Prng::for_purpose(seed, PLANNING),
        }
    }

    /// The faults, in the order in which they were added: their numbers, by which a run can be told to keep some.
    pub fn faults(&self) -> &[TimedFault] {
        &self.faults
    }

    /// Adds a fault.
    pub fn add(&mut self, at: Duration, fault: Fault) {
        self.faults.push(TimedFault { at, fault });
    }

    /// The source of chance for faults that are not drawn by the methods below.
    pub fn prng(&mut self) -> &mut Prng {
        &mut self.prng
    }

    /// Crashes of all kinds at any time `within`, each of one of so many `machines`, which is down for up to ten
    /// seconds.
    pub fn crashes(&mut self, machines: usize, count: usize, within: Duration) {
        for _ in 0..count {
            let (at, machine) = self.draw(machines, within);
            let crash = match self.prng.below(4) {
                0 => Crash::Kill,
                1 => Crash::PowerCut(Unsynced::Kept),
                2 => Crash::PowerCut(Unsynced::Lost),
                _ => Crash::PowerCut(Unsynced::Torn),
            };
            let down = self.prng.up_to(Duration::from_secs(10));
            self.add(
                at,
                Fault::Crash {
                    machine,
                    crash,
                    down,
                },
            );
        }
    }

    /// Partitions of two machines each, short and long ones: from a millisecond to a minute.
    pub fn cuts(&mut self, machines: usize, count: usize, within: Duration) {
        for _ in 0..count {
            let (at, a) = self.draw(machines, within);
            let b = (a + 1 + self.below(machines.max(2) - 1)) % machines.max(1);
            let lasts = self.spell();
            self.add(at, Fault::Cut { a, b, lasts });
        }
    }

    /// Machines that are cut off from all others, from a millisecond to a minute.
    pub fn isolations(&mut self, machines: usize, count: usize, within: Duration) {
        for _ in 0..count {
            let (at, machine) = self.draw(machines, within);
            let lasts = self.spell();
            self.add(at, Fault::Isolate { machine, lasts });
        }
    }

    /// Flaps: a link that goes and comes several times within seconds.
    pub fn flaps(&mut self, machines: usize, count: usize, within: Duration) {
        for _ in 0..count {
            let (mut at, a) = self.draw(machines, within);
            let b = (a + 1 + self.below(machines.max(2) - 1)) % machines.max(1);
            for _ in 0..2 + self.below(6) {
                let lasts = self.prng.up_to(Duration::from_millis(800));
                self.add(at, Fault::Cut { a, b, lasts });
                at += lasts + self.prng.up_to(Duration::from_millis(800));
            }
        }
    }

    /// Suspensions and stops, from a millisecond to a minute.
    pub fn pauses(&mut self, machines: usize, count: usize, within: Duration) {
        for _ in 0..count {
            let (at, machine) = self.draw(machines, within);
            let pause = match self.prng.below(2) {
                0 => Pause::Suspend,
                _ => Pause::Stop,
            };
            let lasts = self.spell();
            self.add(
                at,
                Fault::Pause {
                    machine,
                    pause,
                    lasts,
                },
            );
        }
    }

    /// Machines that change their address, as a phone does that changes network, and come back after up to a minute.
    pub fn moves(&mut self, machines: usize, count: usize, within: Duration) {
        for _ in 0..count {
            let (at, machine) = self.draw(machines, within);
            // Of RFC 6598's range, which scenarios leave alone; the place in the plan makes it unique.
            let place = self.faults.len() as u16;
            let to = IpAddr::from([100, 64, (place >> 8) as u8 & 63, place as u8]);
            let lasts = self.spell();
            self.add(at, Fault::Moves { machine, to, lasts });
        }
    }

    /// What else may befall a machine: slowness, jumps of its clock, memory at its limit, a disk that is full or fails.
    pub fn troubles(&mut self, machines: usize, count: usize, within: Duration) {
        for _ in 0..count {
            let (at, machine) = self.draw(machines, within);
            let lasts = self.spell();
            let fault = match self.prng.below(5) {
                0 => Fault::Slow {
                    machine,
                    times: 1 << self.below(14),
                    lasts,
                },
                1 => Fault::ClockJump {
                    machine,
                    millis: self.prng.below(200_000_000) as i64 - 100_000_000,
                },
                2 => Fault::MemoryFull { machine, lasts },
                3 => Fault::DiskFull { machine, lasts },
                _ => Fault::DiskFails {
                    machine,
                    faults: DiskFaults {
                        read: 0.1,
                        write: 0.2,
                        sync: 0.2,
                    },
                    lasts,
                },
            };
            self.add(at, fault);
        }
    }

    fn draw(&mut self, machines: usize, within: Duration) -> (Duration, usize) {
        let at = self.prng.up_to(within);
        (at, self.below(machines))
    }

    fn below(&mut self, bound: usize) -> usize {
        self.prng.below(bound.max(1) as u64) as usize
    }

    /// A length of time of any order of magnitude from a millisecond to a minute.
    fn spell(&mut self) -> Duration {
        let most = Duration::from_millis(1 << (4 + self.below(13)));
        most / 16 + self.prng.up_to(most * 15 / 16)
    }
}
