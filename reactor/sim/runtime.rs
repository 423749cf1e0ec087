//! Actors on the cores of a simulated machine.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::node::CoreId;
use super::world::{SimNode, SimWorld, StepError, WorldId, now_in, step_until};
use crate::actor::{Handle, Limits, Signal, StartError, WaitError, Waiter, assemble};
use crate::io::driver::Driver;
use crate::io::memory::MemoryKind;
use crate::time::Instant;

/// Virtual time that dropping a runtime allows for draining.
const DROP_DEADLINE: Duration = Duration::from_secs(5);

/// Actors on the cores of a simulated machine: what [`Runtime`](crate::Runtime) is on a real one. Dropping it shuts
/// down.
///
/// Calls of its [`Handle`] that wait, such as for the answer of an actor, step the world.
pub struct SimRuntime {
    handle: Handle,
    world: SimWorld,
    cores: Vec<CoreId>,
}

impl SimNode {
    /// Starts a runtime of so many cores on this machine. A machine can have several.
    pub fn start(&self, cores: usize, limits: Limits) -> Result<SimRuntime, StartError> {
        let mut ids = Vec::new();
        let mut drivers: Vec<Box<dyn Driver>> = Vec::new();
        for _ in 0..cores {
            let driver = self.driver();
            ids.push(driver.core_id());
            drivers.push(Box::new(driver));
        }
        let world = self.world().clone();
        let waiter = Arc::new(WorldWaiter::new(world.id()));
        let (handle, bodies) = assemble(drivers, limits, waiter)?;
        for (id, body) in ids.iter().zip(bodies) {
            world.add_core(*id, Box::new(body));
        }
        Ok(SimRuntime {
            handle,
            world,
            cores: ids,
        })
    }
}

impl SimRuntime {
    /// A handle to it.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Its cores.
    pub fn cores(&self) -> &[CoreId] {
        &self.cores
    }

    /// Has so many bytes of the runtime's memory count as used until what this returns is dropped, whether they fit or
    /// not: so a node is seen at [`Limits::memory_max`].
    pub fn hold_memory(&self, bytes: usize) -> MemoryHold {
        let handle = self.handle.clone();
        handle.memory().adjust(MemoryKind::Payloads, 0, bytes);
        MemoryHold { handle, bytes }
    }

    /// Whether a core of it still has actors to run.
    pub fn is_running(&self) -> bool {
        self.cores.iter().any(|core| self.world.is_running(*core))
    }

    /// Stops every actor, children before parents, and lets them drain for `deadline` of virtual time. What is left then
    /// is dropped. `false` if something was. In a core's turn it only asks for the shutdown, and answers `false`.
    pub fn shutdown(mut self, deadline: Duration) -> bool {
        self.shut_down(deadline)
    }

    fn shut_down(&mut self, deadline: Duration) -> bool {
        self.handle.shut_down();
        let cores = std::mem::take(&mut self.cores);
        let world = self.world.clone();
        let is_running = || cores.iter().any(|core| world.is_running(*core));
        match world.run_until(|| !is_running(), deadline) {
            Ok(()) => true,
            Err(StepError::InsideStep) => false,
            Err(_) => {
                for core in &cores {
                    drop(world.remove_core(*core));
                }
                false
            }
        }
    }
}

/// Memory of a runtime that counts as used: see [`SimRuntime::hold_memory`].
pub struct MemoryHold {
    handle: Handle,
    bytes: usize,
}

impl Drop for MemoryHold {
    fn drop(&mut self) {
        let memory = self.handle.memory();
        memory.adjust(MemoryKind::Payloads, self.bytes, 0);
    }
}

impl Drop for SimRuntime {
    fn drop(&mut self) {
        // A test that has failed must not fail once more in here.
        if !self.cores.is_empty() && !std::thread::panicking() {
            self.shut_down(DROP_DEADLINE);
        }
    }
}

impl fmt::Debug for SimRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimRuntime({:?})", self.handle)
    }
}

/// Waits by stepping a world.
///
/// A thread that is not the world's parks instead, in real time, until the world's thread has come that far. A core's
/// turn and an offloaded job may not wait.
#[derive(Clone, Copy, Debug)]
pub struct WorldWaiter {
    world: WorldId,
}

impl WorldWaiter {
    /// For handles of a runtime in this world.
    pub fn new(world: WorldId) -> WorldWaiter {
        WorldWaiter { world }
    }
}

impl Waiter for WorldWaiter {
    fn wait(
        &self,
        signal: &Signal,
        ready: &mut dyn FnMut() -> bool,
        timeout: Option<Duration>,
    ) -> Result<(), WaitError> {
        match step_until(self.world, ready, timeout) {
            Ok(()) => Ok(()),
            // What can never come is over as well.
            Err(StepError::TimedOut { .. } | StepError::Stalled { .. }) => Err(WaitError::TimedOut),
            // What is there already costs no waiting.
            Err(StepError::InsideStep) if ready() => Ok(()),
            Err(StepError::InsideStep) => Err(WaitError::OnCoreThread),
            Err(StepError::NoSuchWorld) => signal.park(ready, timeout),
        }
    }

    fn clock(&self) -> Duration {
        // A thread that is not the world's waits in real time, and has nothing to measure with its virtual time.
        now_in(self.world).map_or(Duration::ZERO, |now| {
            now.saturating_duration_since(Instant::ZERO)
        })
    }

    fn is_simulated(&self) -> bool {
        true
    }
}
