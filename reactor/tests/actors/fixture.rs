//! What stands below the suite: runtimes of any driver, how time passes for them, and what waiting means.

use std::cell::{Cell, RefCell};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use mischief_reactor::sim::{SimRuntime, SimStats, SimWorld};
use mischief_reactor::{DriverKind, Handle, Limits, Runtime};

/// No test waits longer than this for anything.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A runtime of some kind.
pub trait Fixture: Sized {
    /// Whether the driver below is the simulator: then time costs nothing, and faults can be ordered.
    const IS_SIMULATED: bool;

    fn with_limits(cores: usize, limits: Limits) -> Self;

    fn start(cores: usize) -> Self {
        Self::with_limits(cores, Limits::default())
    }

    fn handle(&self) -> Handle;

    /// Waits until `done`. Fails the test when that takes too long.
    #[track_caller]
    fn until(&self, done: impl FnMut() -> bool);

    /// Lets time pass.
    fn pass(&self, duration: Duration);

    fn shutdown(self, deadline: Duration) -> bool;

    /// Forbids (`true`) the machine to open more sockets. `false` if this fixture cannot.
    fn forbid_sockets(&self, _: bool) -> bool {
        false
    }

    /// An address to bind to.
    fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, 0).into()
    }
}

static CHANGE: (Mutex<()>, Condvar) = (Mutex::new(()), Condvar::new());

/// Has waiting tests look again at once. They look by themselves now and then.
pub fn changed() {
    drop(CHANGE.0.lock());
    CHANGE.1.notify_all();
}

/// Threads and sockets of this machine.
pub struct Real<D> {
    runtime: Runtime,
    driver: std::marker::PhantomData<D>,
}

pub trait Kind {
    const KIND: DriverKind;
}

#[cfg(feature = "driver-mio")]
pub struct Mio;

#[cfg(feature = "driver-mio")]
impl Kind for Mio {
    const KIND: DriverKind = DriverKind::Mio;
}

#[cfg(feature = "driver-polling")]
pub struct Polling;

#[cfg(feature = "driver-polling")]
impl Kind for Polling {
    const KIND: DriverKind = DriverKind::Polling;
}

impl<D: Kind> Fixture for Real<D> {
    const IS_SIMULATED: bool = false;

    fn with_limits(cores: usize, limits: Limits) -> Self {
        let builder = Runtime::builder().cores(cores).limits(limits);
        let runtime = builder.driver(D::KIND).start().expect("starts");
        Real {
            runtime,
            driver: std::marker::PhantomData,
        }
    }

    fn handle(&self) -> Handle {
        self.runtime.handle()
    }

    #[track_caller]
    fn until(&self, mut done: impl FnMut() -> bool) {
        /// For conditions whose change nobody announces.
        const LOOK_AGAIN: Duration = Duration::from_millis(2);
        let start = std::time::Instant::now();
        while !done() {
            assert!(start.elapsed() < PATIENCE, "it did not come to pass");
            let guard = CHANGE.0.lock().expect("nobody panics with it");
            drop(CHANGE.1.wait_timeout(guard, LOOK_AGAIN));
        }
    }

    fn pass(&self, duration: Duration) {
        std::thread::sleep(duration);
    }

    fn shutdown(self, deadline: Duration) -> bool {
        self.runtime.shutdown(deadline)
    }
}

thread_local! {
    static SEED: Cell<u64> = const { Cell::new(0) };
    static TRACES: RefCell<Vec<Trace>> = const { RefCell::new(Vec::new()) };
}

/// How a run went: its hash, its virtual time, its counters.
type Trace = (u64, Duration, SimStats);

/// A simulated machine.
pub struct Sim {
    world: SimWorld,
    node: mischief_reactor::sim::SimNode,
    runtime: Option<SimRuntime>,
}

impl Fixture for Sim {
    const IS_SIMULATED: bool = true;

    fn with_limits(cores: usize, limits: Limits) -> Self {
        let world = SimWorld::new(SEED.get());
        let node = world.node(&["10.0.0.1".parse().expect("an address")]);
        world.set_name(
            "localhost",
            &[
                Ipv4Addr::LOCALHOST.into(),
                std::net::Ipv6Addr::LOCALHOST.into(),
            ],
        );
        let runtime = Some(node.start(cores, limits).expect("starts"));
        Sim {
            world,
            node,
            runtime,
        }
    }

    fn handle(&self) -> Handle {
        self.runtime.as_ref().expect("until it ends").handle()
    }

    #[track_caller]
    fn until(&self, done: impl FnMut() -> bool) {
        let result = self.world.run_until(done, Duration::from_secs(3600));
        assert_eq!(result, Ok(()), "it did not come to pass");
    }

    fn pass(&self, duration: Duration) {
        self.world.run_for(duration);
    }

    fn shutdown(mut self, deadline: Duration) -> bool {
        self.runtime
            .take()
            .expect("until it ends")
            .shutdown(deadline)
    }

    fn forbid_sockets(&self, forbidden: bool) -> bool {
        let open = self.node.open_sockets();
        self.node
            .set_sockets_max(if forbidden { open } else { u32::MAX });
        true
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        drop(self.runtime.take());
        let trace = (
            self.world.trace_hash(),
            self.world.elapsed(),
            self.world.stats(),
        );
        TRACES.with_borrow_mut(|traces| traces.push(trace));
    }
}

/// Runs a test in worlds of several seeds, each twice: the second run must go as the first.
///
/// `MISCHIEF_SEED` names one seed to use instead.
pub fn in_worlds(name: &str, test: fn()) {
    let given = std::env::var("MISCHIEF_SEED").ok();
    let seeds: Vec<u64> = match &given {
        Some(seed) => vec![seed.parse().expect("a seed is a number")],
        None => vec![1, 0xfeed_5eed],
    };
    for seed in seeds {
        println!(
            "seed {seed}; replay: MISCHIEF_SEED={seed} cargo test -p mischief-reactor --test actors {name}"
        );
        let run = || {
            SEED.set(seed);
            TRACES.take();
            test();
            TRACES.take()
        };
        let first = run();
        assert!(!first.is_empty(), "the test ran in a world");
        assert_eq!(first, run(), "the same seed {seed}, another run");
    }
}
