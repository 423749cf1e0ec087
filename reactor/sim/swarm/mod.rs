//! Scenarios with planned faults, run over many seeds.
//!
//! A [`Scenario`] puts programs on machines of a [`Stage`], says what must always hold and what must be reached, and
//! lets time pass. Its [plan](Scenario::plan) is a list of faults that is drawn from the seed *as data*: so a run that
//! fails can be run again with fewer of them, until only those are left that it takes ([`shrink`]). A [`Swarm`] runs
//! scenarios over seeds, on several threads, and reports.
//!
//! # A worked example
//!
//! A small actor that sends numbers over TCP until each was acknowledged, under loss and partitions:
//!
//! ```
//! use std::time::Duration;
//! use mischief_reactor::sim::swarm::{Fault, Plan, Scenario, Stage, Swarm};
//! use mischief_reactor::sim::LinkOptions;
//! # use std::cell::Cell;
//! # use std::rc::Rc;
//! # use std::sync::{Arc, Mutex};
//! # use mischief_reactor::io::driver::ListenOptions;
//! # use mischief_reactor::{Actor, Child, Context, Event, Failure, Limits};
//! # use std::net::SocketAddr;
//! # #[derive(Clone)]
//! # struct Counter { to: Option<SocketAddr>, total: Arc<Mutex<usize>> }
//! # impl Actor for Counter {
//! #     type Message = ();
//! #     fn started(&mut self, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
//! #         match self.to {
//! #             Some(to) => drop(cx.tcp_connect(to, None)?),
//! #             None => drop(cx.tcp_listen(([10, 0, 0, 1], 7).into(), ListenOptions::default())?),
//! #         }
//! #         Ok(())
//! #     }
//! #     fn handle(&mut self, (): (), _: &mut Context<'_, Self>) -> Result<(), Failure> { Ok(()) }
//! #     fn on_event(&mut self, event: Event<'_>, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
//! #         match event {
//! #             Event::Connected { socket } => drop(cx.write(socket, &[7; 50_000])?),
//! #             Event::Accepted { socket, .. } => cx.resume_reading(socket),
//! #             Event::Data { bytes, .. } => *self.total.lock().unwrap() += bytes.len(),
//! #             _ => {}
//! #         }
//! #         Ok(())
//! #     }
//! # }
//!
//! struct Counting;
//!
//! impl Scenario for Counting {
//!     fn name(&self) -> &str { "counting" }
//!
//!     fn about(&self) -> &str { "bytes arrive once, whatever the network does" }
//!
//!     fn plan(&self, seed: u64) -> Plan {
//!         let mut plan = Plan::new(seed);
//!         plan.cuts(2, 3, Duration::from_secs(20)); // two machines, three partitions within 20 seconds
//!         plan
//!     }
//!
//!     fn run(&self, stage: &Stage) {
//!         let (world, total) = (stage.world(), Arc::new(Mutex::new(0)));
//!         world.set_default_link(LinkOptions { loss: 0.05, ..LinkOptions::default() });
//!         for (addr, to) in [([10, 0, 0, 1], None), ([10, 0, 0, 2], Some(([10, 0, 0, 1], 7).into()))] {
//!             let total = total.clone();
//!             stage.machine(&[addr.into()], move |machine| {
//!                 let runtime = machine.start(1, Limits::default()).map_err(|error| error.to_string())?;
//!                 let counter = Counter { to, total: total.clone() };
//!                 runtime.handle().spawn(0, move || Child::once(counter)).map_err(|error| error.to_string())?;
//!                 Ok(Box::new(runtime))
//!             });
//!         }
//!         let seen = total.clone();
//!         stage.always("no byte comes twice", move |_| match *seen.lock().unwrap() {
//!             too_many @ 50_001.. => Err(format!("{too_many} bytes")),
//!             _ => Ok(()),
//!         });
//!         stage.begin_faults();
//!         stage.eventually("all bytes arrive", Duration::from_secs(120), || *total.lock().unwrap() == 50_000);
//!     }
//! }
//!
//! let report = Swarm::new(&[&Counting]).seeds(1..11).twice(true).run();
//! assert!(report.failed.is_empty(), "{}", report.failed[0].describe("cargo test counting"));
//! ```
//!
//! # Map
//!
//! | file | what |
//! |---|---|
//! | `plan.rs` | [`Fault`], [`TimedFault`], [`Plan`] |
//! | `stage.rs` | [`Stage`]: machines, what must hold, faults as they come |
//! | `run.rs` | one run of one seed: [`run`], [`Run`], [`Failed`] |
//! | `shrink.rs` | [`shrink`] |
//! | `many.rs` | [`Swarm`], [`Report`] |

mod many;
mod plan;
mod run;
mod shrink;
mod stage;

pub use many::{FailedRun, Progress, Report, Swarm};
pub use plan::{Fault, Plan, TimedFault};
pub use run::{Failed, Options, Run, run};
pub use shrink::shrink;
pub use stage::{Program, Stage};

pub(super) use run::is_quiet;

/// A run to be made with many seeds.
pub trait Scenario: Send + Sync {
    /// How it is called on a command line.
    fn name(&self) -> &str;

    /// What it shows, in a line.
    fn about(&self) -> &str;

    /// The faults of a seed's run. [`Scenario::run`] says when they begin.
    fn plan(&self, seed: u64) -> Plan {
        Plan::new(seed)
    }

    /// Makes the run. It fails by a panic, best one of the stage's: [`Stage::always`], [`Stage::eventually`],
    /// [`Stage::fail`]. A panic of an actor fails it too, though the actor's runtime catches it.
    fn run(&self, stage: &Stage);
}
