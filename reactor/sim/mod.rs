//! The simulated driver: a network of machines in one thread, on a virtual clock, from one seed.
//!
//! A [`SimWorld`] holds machines ([`SimNode`]) that are joined by links. Each machine has one or more cores, and each
//! core a [`SimDriver`], which is a [`Driver`](crate::io::driver::Driver) like any other: whatever runs on a real
//! driver runs here unchanged. Time does not pass while code runs; when nobody has anything to do, the clock jumps to
//! the next event. Which core goes first, how long packets take, which are lost, where reads are cut: all that is drawn
//! from the seed. So a run is repeated exactly by its seed, and [`SimWorld::trace_hash`] proves that it was.
//!
//! ```
//! use std::time::Duration;
//! use mischief_reactor::io::driver::{Driver, ListenOptions};
//! use mischief_reactor::sim::SimWorld;
//!
//! let world = SimWorld::new(42);
//! let server = world.node(&["10.0.0.1".parse().unwrap()]);
//! let client = world.node(&["10.0.0.2".parse().unwrap()]);
//! let (mut listening, mut dialling) = (server.driver(), client.driver());
//! let listener = listening.tcp_listen(server.addr(80), ListenOptions::default())?;
//! let socket = dialling.tcp_connect(server.addr(80), None)?;
//! // Outside of a core's turn, waiting steps the world.
//! let mut ready = Vec::new();
//! listening.wait(None, &mut ready)?;
//! let (accepted, from) = listening.tcp_accept(listener)?;
//! assert_eq!(from, dialling.local_addr(socket)?);
//! assert!(world.elapsed() >= Duration::from_millis(3), "three packets, a millisecond each");
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! # Faults
//!
//! Links lose, double and delay what crosses them, and are cut ([`SimWorld::set_link`], [`SimWorld::partition`]). Machines
//! crash and start again on their disks, sleep, stall, are slow, have clocks that are wrong ([`SimNode::crash`],
//! [`SimNode::pause`], [`SimNode::set_slowdown`], [`SimNode::jump_wall_clock`]). Disks are full or fail
//! ([`SimDisk::set_capacity`], [`SimDisk::set_faults`]), memory is short ([`SimRuntime::hold_memory`]).
//!
//! What comes when may be said by hand with [`SimWorld::call_at`], and what must always hold with
//! [`SimWorld::observe`]. The module [`swarm`] does both for a whole scenario, runs it with many seeds, and finds the few
//! faults that a failure takes; its documentation has a worked example.
//!
//! # What must hold for a run to repeat
//!
//! - Code in the world takes time, randomness and input/output from its driver alone.
//! - No order of a map with random hashes has a say in what it does.
//! - Everything runs on the world's thread. Wakers, disks and resolvers may be called from another, but when that
//!   happens is then no longer the seed's decision.
//!
//! # What is left out
//!
//! There is one network that all machines are on: no routers, no NAT boxes, no limits of bandwidth. TCP has no
//! congestion control to speak of and no simultaneous open; UDP datagrams are never fragmented. Monotonic clocks of all
//! machines run at the same rate. A machine that crashes loses its programs, its sockets and what its disk had not made
//! durable ([`SimNode::crash`]); its addresses and settings stay.
//!
//! # Map
//!
//! | file | what |
//! |---|---|
//! | `world.rs` | [`SimWorld`], [`SimNode`], the stepping loop, [`step_until`] |
//! | `runtime.rs` | [`SimRuntime`]: actors on the cores of a machine |
//! | `state.rs` | clock, events, cores and their schedule, readiness |
//! | `driver.rs` | [`SimDriver`] |
//! | `network.rs` | addresses, links, partitions |
//! | `node.rs` | a machine: addresses, ports, clock |
//! | `power.rs` | crashes, pauses, slow machines |
//! | `swarm/` | scenarios with planned faults, run over many seeds: see [`swarm`] |
//! | `tcp.rs`, `round_trip.rs`, `segment.rs` | one end of a TCP connection, a sans-IO machine; its clockwork; what it sends |
//! | `stream.rs` | TCP sockets: listeners, ports, whose segment it is |
//! | `datagram.rs` | UDP sockets and multicast |
//! | `disk.rs`, `resolver.rs` | files in memory, names |
//! | `queue.rs`, `arena.rs`, `prng.rs`, `trace.rs` | events by time, slots with generations, randomness, the trace |
//!
//! The state is never borrowed while code of a core or an offloaded job runs, and no packet passes from machine to
//! machine but through `network.rs`.

mod arena;
mod datagram;
mod disk;
mod driver;
mod network;
mod node;
mod power;
mod prng;
mod queue;
mod resolver;
mod round_trip;
mod runtime;
mod segment;
mod state;
mod stream;
pub mod swarm;
mod tcp;
#[cfg(test)]
mod tests;
mod trace;
mod world;

pub use disk::{DiskFaults, SimDisk};
pub use driver::SimDriver;
pub use network::LinkOptions;
pub use node::{CoreId, LOOPBACK_INTERFACE, MachineId, NETWORK_INTERFACE};
pub use power::{Crash, Pause, Unsynced};
pub use prng::Prng;
pub use runtime::{MemoryHold, SimRuntime, WorldWaiter};
pub use state::SimStats;
pub use trace::TraceSink;
pub use world::{Observer, SimNode, SimWorld, StepError, Steppable, WorldId, step_until};
