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
//! # A worked example
//!
//! A test of a small actor under loss and a partition. The actor sends numbers by UDP, each again until the other side
//! has it; the test says which network it meets, what must be reached in which virtual time, and what must hold then.
//!
//! ```
//! use std::net::{Ipv4Addr, SocketAddr};
//! use std::sync::{Arc, Mutex};
//! use std::time::Duration;
//!
//! use mischief_reactor::io::driver::UdpOptions;
//! use mischief_reactor::sim::{LinkOptions, SimWorld};
//! use mischief_reactor::{Actor, Child, Context, Event, Failure, Limits, SocketId, Transmit};
//!
//! /// Sends the numbers below 100, each again after 50 ms until its echo comes back.
//! struct Counter { to: SocketAddr, next: u8, socket: Option<SocketId> }
//!
//! impl Counter {
//!     fn send(&mut self, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
//!         match self.socket {
//!             Some(socket) if self.next < 100 => cx.udp_send(socket, &[Transmit::new(self.to, &[self.next])])?,
//!             _ => return Ok(cx.stop()),
//!         };
//!         Ok(cx.wake_at(Some(cx.now() + Duration::from_millis(50)), Duration::ZERO))
//!     }
//! }
//!
//! impl Actor for Counter {
//!     type Message = ();
//!
//!     fn started(&mut self, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
//!         let any = (Ipv4Addr::UNSPECIFIED, 0).into();
//!         self.socket = Some(cx.udp_bind(any, UdpOptions::default())?);
//!         self.send(cx)
//!     }
//!
//!     fn handle(&mut self, (): (), _: &mut Context<'_, Self>) -> Result<(), Failure> { Ok(()) }
//!
//!     fn on_event(&mut self, event: Event<'_>, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
//!         match event {
//!             Event::Datagram { datagram, .. } if *datagram.data == [self.next] => self.next += 1,
//!             Event::Wake => {}
//!             _ => return Ok(()),
//!         }
//!         self.send(cx)
//!     }
//! }
//!
//! /// Sends back every datagram, and keeps each number that it has not seen.
//! struct Echo { at: SocketAddr, seen: Arc<Mutex<Vec<u8>>> }
//!
//! impl Actor for Echo {
//!     type Message = ();
//!
//!     fn started(&mut self, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
//!         cx.udp_bind(self.at, UdpOptions::default())?;
//!         Ok(())
//!     }
//!
//!     fn handle(&mut self, (): (), _: &mut Context<'_, Self>) -> Result<(), Failure> { Ok(()) }
//!
//!     fn on_event(&mut self, event: Event<'_>, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
//!         if let Event::Datagram { socket, datagram } = event {
//!             let mut seen = self.seen.lock().unwrap();
//!             if !seen.contains(&datagram.data[0]) {
//!                 seen.push(datagram.data[0]);
//!             }
//!             cx.udp_send(socket, &[Transmit::new(datagram.from, datagram.data)])?;
//!         }
//!         Ok(())
//!     }
//! }
//!
//! for seed in 0..20 {
//!     // The world, and a network that is not kind.
//!     let world = SimWorld::new(seed);
//!     let lossy = LinkOptions { loss: 0.2, duplicate: 0.1, reorder: 0.1, ..LinkOptions::default() };
//!     world.set_default_link(lossy);
//!
//!     // Two machines with a core each, and an actor on each of them.
//!     let (left, right) = (world.node(&["10.0.0.1".parse()?]), world.node(&["10.0.0.2".parse()?]));
//!     let (sender, receiver) = (left.start(1, Limits::default())?, right.start(1, Limits::default())?);
//!     let (to, seen) = (right.addr(7), Arc::new(Mutex::new(Vec::new())));
//!     let echo = Echo { at: to, seen: seen.clone() };
//!     receiver.handle().spawn(0, move || Child::once(echo)).unwrap();
//!     sender.handle().spawn(0, move || Child::once(Counter { to, next: 0, socket: None })).unwrap();
//!
//!     // In the middle of it the two are cut off from each other for a minute: a moment of real time.
//!     let count = || seen.lock().unwrap().len();
//!     world.run_until(|| count() >= 30, Duration::from_secs(10))?;
//!     world.partition(&left, &right);
//!     world.run_for(Duration::from_secs(60));
//!     assert!(count() <= 31, "seed {seed}: what was sent before may be counted, and no more");
//!     world.heal(&left, &right);
//!
//!     // What must be reached, and what must hold. The error tells the seed and the virtual time.
//!     world.run_until(|| count() == 100, Duration::from_secs(60))?;
//!     assert!(seen.lock().unwrap().is_sorted(), "seed {seed}: one after another");
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! To see what happened in a run that fails, run its seed alone and let the world tell:
//!
//! - [`SimWorld::trace_to`] gives a line for each packet sent, received or lost, with the virtual time, the machines
//!   (by [`SimNode::set_name`]), and why it was lost:
//!   `0.001153067 recv left > right #1 10.0.0.1:56387 > 10.0.0.2:7 UDP 1 bytes`;
//! - [`SimWorld::capture_to`] and [`SimNode::capture_to`] write pcapng files for Wireshark and tshark;
//! - [`SimWorld::stats`] counts.
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
//! # What the network can do
//!
//! All machines of [`SimWorld::node`] are in one public network, where any two of them have a link. A link
//! ([`LinkOptions`]) delays, with a [`Distribution`] of the jitter; loses, by chance or in bursts ([`BurstLoss`]);
//! doubles and reorders; has an MTU and a [`Bandwidth`] with a bounded queue; and goes down, at random ([`Flaps`]) or on
//! a plan ([`SimWorld::set_down_times`]). A machine has a bandwidth of its own for all its links
//! ([`SimNode::set_bandwidth`]). Pairs and groups of machines are parted by [`SimWorld::partition`] and
//! [`SimWorld::split`].
//!
//! Behind a [`SimRouter`] is another network. It is a NAT box ([`SimWorld::nat`], [`NatOptions`] in the terms of RFC 4787
//! and RFC 5382) or a stateful firewall ([`SimWorld::firewall`]), and may itself stand behind another. Private addresses
//! may be used behind many boxes. Machines move from one network to another while they run ([`SimNode::move_behind`]).
//!
//! ```
//! use mischief_reactor::sim::{NatOptions, SimWorld};
//!
//! let world = SimWorld::new(1);
//! let carrier = world.nat(NatOptions::symmetric(), "203.0.113.1".parse()?);
//! let home = world.nat_behind(&carrier, NatOptions::default(), "100.64.0.2".parse()?);
//! let phone = world.node_behind(&home, &["192.168.1.2".parse()?]);
//! phone.move_behind(&carrier, &["100.64.0.3".parse()?]); // out of the wireless network, into the carrier's
//! carrier.reboot(); // all mappings are lost
//! # Ok::<(), std::net::AddrParseError>(())
//! ```
//!
//! TCP is an implementation of its own ([`ErrorKind`](std::io::ErrorKind)s as on Linux): it refuses, times out, resets,
//! closes by halves, opens simultaneously, pushes back through finite buffers, cuts its segments by what the links on
//! their way carry, keeps what comes out of order, and shares a bottleneck by NewReno. What it sends has real sequence
//! numbers, so captures can be followed.
//!
//! # What is left out
//!
//! No IP fragments: what is too large is lost. Routers do not choose among ways, and multicast ends at them. Bottlenecks
//! drop at the tail and mark nothing. TCP has no selective acknowledgements, delayed acknowledgements, time stamps,
//! keep-alives or urgent data, and segments of at most 16 KiB where a link would carry more. Links tell TCP their MTU when
//! a connection is made; if it shrinks later, only ICMP errors ([`SimWorld::set_icmp`]) tell. NAT boxes do not heed port
//! parity, and speak no UPnP, NAT-PMP or PCP. Monotonic clocks of all machines run at the same rate. A machine that
//! crashes loses its programs, its sockets and what its disk had not made durable ([`SimNode::crash`]); its addresses and
//! settings stay.
//!
//! # Map
//!
//! | file | what |
//! |---|---|
//! | `world.rs` | [`SimWorld`], [`SimNode`], the stepping loop, [`step_until`] |
//! | `runtime.rs` | [`SimRuntime`]: actors on the cores of a machine |
//! | `state.rs` | clock, events, cores and their schedule, readiness |
//! | `driver.rs` | [`SimDriver`] |
//! | `node.rs` | a machine: addresses, ports, clock |
//! | `power.rs` | crashes, pauses, slow machines |
//! | `swarm/` | scenarios with planned faults, run over many seeds: see [`swarm`] |
//! | `network.rs` | who has which address where, links, partitions |
//! | `link.rs` | what a link does to a packet, down times |
//! | `control.rs`, `mobility.rs` | what a test does to the network; machines that move |
//! | `transit.rs`, `packet.rs` | the way of a packet, and why it may not get there |
//! | `router.rs`, `nat.rs` | boxes between networks; the table of a NAT box or firewall, a sans-IO machine |
//! | `tcp/`, `segment.rs` | one end of a TCP connection, a sans-IO machine; what it sends |
//! | `stream.rs` | TCP sockets: listeners, ports, whose segment it is |
//! | `datagram.rs` | UDP sockets and multicast |
//! | `capture.rs`, `wire.rs` | pcapng files; packets as bytes |
//! | `disk.rs`, `resolver.rs` | files in memory, names |
//! | `queue.rs`, `arena.rs`, `map.rs`, `prng.rs`, `trace.rs` | events by time, slots with generations, maps that are the same in every run, randomness, the trace |
//!
//! The state is never borrowed while code of a core or an offloaded job runs, and no packet passes from machine to
//! machine but through `transit.rs`.

mod arena;
mod capture;
mod control;
mod datagram;
mod disk;
mod driver;
mod link;
mod map;
mod mobility;
mod nat;
mod network;
mod node;
mod packet;
mod power;
mod prng;
mod queue;
mod resolver;
mod router;
mod runtime;
mod segment;
mod state;
mod stream;
pub mod swarm;
mod tcp;
#[cfg(test)]
mod tests;
mod trace;
mod transit;
mod wire;
mod world;

pub use disk::{DiskFaults, SimDisk};
pub use driver::SimDriver;
pub use link::{Bandwidth, BurstLoss, Distribution, Flaps, LinkOptions};
pub use nat::{Dependence, FirewallOptions, NatOptions, Ports, Unsolicited};
pub use node::{CoreId, LOOPBACK_INTERFACE, MachineId, NETWORK_INTERFACE};
pub use power::{Crash, Pause, Unsynced};
pub use prng::Prng;
pub use router::SimRouter;
pub use runtime::{MemoryHold, SimRuntime, WorldWaiter};
pub use state::SimStats;
pub use trace::TraceSink;
pub use world::{Observer, SimNode, SimWorld, StepError, Steppable, WorldId, step_until};
