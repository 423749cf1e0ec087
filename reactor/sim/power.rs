//! Machines that crash, sleep, stall and are slow.

use std::time::Duration;

use super::node::{CoreId, MachineId};
use super::queue::Event;
use super::state::State;
use super::tcp::Owner;
use super::trace::Kind;
use super::world::SimNode;
use crate::io::driver::Job;

/// What a machine does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Power {
    On,
    /// Its programs stand still, its kernel does not.
    Stopped,
    /// Everything stands still.
    Suspended,
    /// It has no programs and no connections, and nobody answers.
    Off,
}

impl Power {
    pub(super) fn runs_programs(self) -> bool {
        self == Power::On
    }

    fn runs_kernel(self) -> bool {
        matches!(self, Power::On | Power::Stopped)
    }

    pub(super) fn receives(self) -> bool {
        self.runs_kernel()
    }
}

/// How the programs of a machine end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Crash {
    /// They are killed. The system goes on: it closes their sockets, so that peers see the end of a connection or a
    /// reset, and every byte that was written stays.
    Kill,
    /// The power fails. Connections are gone without a word; nobody answers until [`SimNode::boot`], and then whoever
    /// still uses one is told by a reset. What has become of the files is said besides.
    PowerCut(Unsynced),
}

/// What a power cut does to written bytes, and to names given and removed, that were not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsynced {
    /// The disk had them all.
    Kept,
    /// The disk had none.
    Lost,
    /// The disk had some: of each file any of the writes, one perhaps in part; of the changes of names the first few.
    /// Which is the seed's decision.
    Torn,
}

/// How a machine stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// The lid is closed. Packets to it are lost, and no timer fires, the kernel's neither. Its clock goes on, as clocks
    /// do that count suspension. When it goes on, whoever watches interfaces is told by
    /// [`Event::Resumed`](crate::Event::Resumed).
    Suspend,
    /// Its programs are stopped, as by `SIGSTOP` or a debugger. The kernel goes on: it acknowledges and keeps what
    /// comes for as long as there is room.
    Stop,
}

impl SimNode {
    /// Ends all programs of the machine at once, between two turns: none of their destructors reaches the network or
    /// the disk. Offloaded jobs that were running or waiting are gone, locks of files are free. What holds on to the
    /// programs from outside, such as handles of their runtimes, finds them ended.
    ///
    /// Drivers that were made for the machine are dead for good; a new [`SimNode::start`] makes new ones, on the same
    /// disk.
    ///
    /// # Panics
    /// Inside a step: a program cannot end itself this way.
    pub fn crash(&self, crash: Crash) {
        let world = self.world();
        world.assert_outside();
        let wreck = world.state().crash(self.id, crash);
        let disk = self.disk();
        disk.end_process();
        if let Crash::PowerCut(unsynced) = crash {
            disk.lose(unsynced);
        }
        for core in wreck.cores {
            drop(world.remove_core(core));
        }
        drop(wreck.jobs);
    }

    /// Whether the machine is on: it is at first, and until a power cut.
    pub fn is_on(&self) -> bool {
        self.world().state().node(self.id).power != Power::Off
    }

    /// Switches the machine on after a power cut. No program runs yet, but its kernel answers who speaks to programs
    /// that are gone. [`SimNode::start`] and [`SimNode::driver`] do it by themselves.
    pub fn boot(&self) {
        self.world().state().boot(self.id);
    }

    /// Has the machine stand still until [`SimNode::resume`]. Without effect on one that is off.
    ///
    /// # Panics
    /// Inside a step.
    pub fn pause(&self, pause: Pause) {
        self.world().assert_outside();
        self.world().state().pause(self.id, pause);
    }

    /// Lets a machine that stands still go on.
    pub fn resume(&self) {
        self.world().state().resume(self.id);
    }

    /// Makes turns and offloaded jobs of this machine take so many times the time that they take on others: 1 is as
    /// fast as those, and 0 counts as 1.
    pub fn set_slowdown(&self, times: u32) {
        self.world().state().node(self.id).slowdown = times.max(1);
    }

    /// Sets the machine's wall clock forward by so many nanoseconds, or back. The monotonic clock is not concerned.
    pub fn jump_wall_clock(&self, nanos: i64) {
        let mut state = self.world().state();
        let skew = &mut state.node(self.id).skew;
        *skew = skew.saturating_add(nanos);
    }

    /// By how much the machine's wall clock is ahead of the world's, or behind it.
    pub fn clock_skew(&self) -> (bool, Duration) {
        let skew = self.world().state().node(self.id).skew;
        (skew >= 0, Duration::from_nanos(skew.unsigned_abs()))
    }
}

/// What is left of the programs of a machine, to be dropped while the state is not borrowed.
pub(super) struct Wreck {
    cores: Vec<CoreId>,
    jobs: Vec<Job>,
}

impl State {
    fn crash(&mut self, node: MachineId, crash: Crash) -> Wreck {
        self.trace.note(Kind::Outside, &[u64::from(node.0), 1]);
        self.trace_line(|| format!("node {} crashes: {crash:?}", node.0));
        if self.node(node).power != Power::Off {
            // The kernel of a stopped program goes on to close its sockets.
            self.resume(node);
        }
        let cores = self.node(node).cores.clone();
        if let Crash::PowerCut(_) = crash {
            self.forget_sockets(node);
            self.node(node).power = Power::Off;
        }
        for core in &cores {
            for socket in self.sockets(*core) {
                self.close(*core, socket, false);
            }
            self.core(*core).is_dead = true;
        }
        let detached = |endpoint: &super::tcp::Endpoint| {
            endpoint.node == node && endpoint.owner == Owner::Detached
        };
        let detached: Vec<_> = self
            .tcp
            .iter()
            .filter(|(_, entry)| detached(entry))
            .collect();
        let detached: Vec<_> = detached.into_iter().map(|(key, _)| key).collect();
        for key in detached {
            self.close_stream(key, false);
        }
        let entry = self.node(node);
        entry.crashes += 1;
        entry.jobs_running = 0;
        entry.slowdown = 1;
        entry.cores.clear();
        let jobs = entry.jobs_waiting.drain(..).collect();
        Wreck { cores, jobs }
    }

    /// Takes away every socket of a machine, and what its kernel knew of connections, without a packet.
    fn forget_sockets(&mut self, node: MachineId) {
        for core in self.node(node).cores.clone() {
            for socket in self.sockets(core) {
                if let Some(super::state::Handle::Udp(key)) = self.remove_socket(core, socket) {
                    self.close_udp(key);
                }
            }
        }
        let endpoints = self.tcp.iter().filter(|(_, entry)| entry.node == node);
        let endpoints: Vec<_> = endpoints.map(|(key, _)| key).collect();
        for key in endpoints {
            self.tcp.remove(key);
        }
        let entry = self.node(node);
        entry.streams.clear();
        let listeners: Vec<_> = std::mem::take(&mut entry.listeners)
            .into_values()
            .flatten()
            .collect();
        for key in listeners {
            self.listeners.remove(key);
        }
    }

    pub(super) fn boot(&mut self, node: MachineId) {
        if self.node(node).power == Power::Off {
            self.node(node).power = Power::On;
            self.trace.note(Kind::Outside, &[u64::from(node.0), 2]);
            self.trace_line(|| format!("node {} boots", node.0));
        }
    }

    fn pause(&mut self, node: MachineId, pause: Pause) {
        let entry = self.node(node);
        if entry.power == Power::Off {
            return;
        }
        entry.power = match pause {
            Pause::Suspend => Power::Suspended,
            Pause::Stop => Power::Stopped,
        };
        self.trace.note(Kind::Outside, &[u64::from(node.0), 3]);
        self.trace_line(|| format!("node {} stands still: {pause:?}", node.0));
        for core in self.node(node).cores.clone() {
            self.set_deadline(core, None);
            if std::mem::take(&mut self.core(core).is_runnable) {
                self.runnable.retain(|other| *other != core);
            }
        }
    }

    fn resume(&mut self, node: MachineId) {
        let entry = self.node(node);
        if matches!(entry.power, Power::On | Power::Off) {
            return;
        }
        let has_slept = entry.power == Power::Suspended;
        entry.power = Power::On;
        let deferred = std::mem::take(&mut entry.deferred);
        self.trace.note(Kind::Outside, &[u64::from(node.0), 4]);
        self.trace_line(|| format!("node {} goes on", node.0));
        for event in deferred {
            self.queue.push(self.now, event);
        }
        for core in self.node(node).cores.clone() {
            self.core(core).is_resumed |= has_slept;
            // Whatever it was called for meanwhile; a turn too many does no harm.
            self.make_runnable(core);
        }
    }

    /// Puts an event off whose machine stands still; otherwise gives it back.
    pub(super) fn defer(&mut self, event: Event) -> Option<Event> {
        let (node, is_of_program) = match &event {
            Event::TcpTimer(key) => (self.tcp.get(*key)?.node, false),
            Event::UdpRoom(key) => (self.udp.get(*key)?.node, false),
            Event::Job(node, ..) => (*node, true),
            // What a machine sends to itself does not pass through the part that is off.
            Event::Arrival(packet) if packet.from == packet.to => (packet.to, false),
            Event::Arrival(_) | Event::Call(_) => return Some(event),
        };
        let power = self.node(node).power;
        let is_due = match power {
            Power::Off => true,
            _ if is_of_program => power.runs_programs(),
            _ => power.runs_kernel(),
        };
        if is_due {
            return Some(event);
        }
        self.node(node).deferred.push(event);
        None
    }
}
