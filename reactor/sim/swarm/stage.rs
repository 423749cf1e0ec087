//! Where a scenario plays: a world, its machines and their programs, what must hold, and the faults as they come.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use super::plan::{Fault, TimedFault};
use crate::sim::{Crash, DiskFaults, LinkOptions, MemoryHold, Prng, SimNode, SimRuntime, SimWorld};

/// How long a program that could not start waits before it tries again, as a service manager has it.
const START_AGAIN: Duration = Duration::from_secs(1);

/// What runs on a machine of a stage. Dropped after the machine has crashed, and made anew when it is back.
pub trait Program {
    /// Its runtime, for faults that befall one.
    fn runtime(&self) -> Option<&SimRuntime> {
        None
    }
}

impl Program for SimRuntime {
    fn runtime(&self) -> Option<&SimRuntime> {
        Some(self)
    }
}

/// Where a scenario plays.
pub struct Stage {
    inner: Rc<Inner>,
}

struct Inner {
    world: SimWorld,
    faults: Vec<TimedFault>,
    machines: RefCell<Vec<Rc<Machine>>>,
    checks: RefCell<Vec<Check>>,
    is_checking: Cell<bool>,
    /// How many faults keep a direction cut.
    cuts: RefCell<BTreeMap<(usize, usize), u32>>,
    default_link: Cell<LinkOptions>,
    violation: RefCell<Option<String>>,
}

struct Check {
    what: String,
    holds: Holds,
}

type Holds = Box<dyn FnMut(&SimWorld) -> Result<(), String>>;

type Starter = Box<dyn FnMut(&SimNode) -> Result<Box<dyn Program>, String>>;

struct Machine {
    node: SimNode,
    starter: RefCell<Starter>,
    program: RefCell<Option<Box<dyn Program>>>,
    /// How many faults keep it down, and how many still.
    downs: Cell<u32>,
    pauses: Cell<u32>,
    /// How many keep it away from its own addresses.
    moves: Cell<u32>,
    addrs: Vec<IpAddr>,
    is_starting: Cell<bool>,
    starts: Cell<u32>,
    memory: RefCell<Vec<MemoryHold>>,
}

impl Stage {
    pub(super) fn new(world: SimWorld, faults: Vec<TimedFault>) -> Stage {
        let inner = Rc::new(Inner {
            world: world.clone(),
            faults,
            machines: RefCell::default(),
            checks: RefCell::default(),
            is_checking: Cell::new(false),
            cuts: RefCell::default(),
            default_link: Cell::new(LinkOptions::default()),
            violation: RefCell::new(None),
        });
        let weak = Rc::downgrade(&inner);
        world.observe(Some(Box::new(move |_| {
            if let Some(inner) = weak.upgrade() {
                inner.check();
            }
        })));
        Stage { inner }
    }

    /// The world.
    pub fn world(&self) -> &SimWorld {
        &self.inner.world
    }

    /// The seed of the run.
    pub fn seed(&self) -> u64 {
        self.world().seed()
    }

    /// A source of chance for what the scenario itself decides; another for each `purpose`.
    pub fn prng(&self, purpose: u64) -> Prng {
        Prng::for_purpose(self.seed(), purpose << 16 | 0x57a6)
    }

    /// What links do where nothing else is set. Use it in place of [`SimWorld::set_default_link`]: when a fault of
    /// links is over, they do this again.
    pub fn set_default_link(&self, options: LinkOptions) {
        self.inner.default_link.set(options);
        self.world().set_default_link(options);
    }

    /// Adds a machine whose program `start` makes: now, and whenever the machine is back after a crash. One that
    /// cannot start then, since its disk fails perhaps, tries again every second. The number of the machine.
    ///
    /// # Panics
    /// If the program does not start now.
    pub fn machine(
        &self,
        addrs: &[IpAddr],
        start: impl FnMut(&SimNode) -> Result<Box<dyn Program>, String> + 'static,
    ) -> usize {
        let machine = Rc::new(Machine {
            node: self.world().node(addrs),
            starter: RefCell::new(Box::new(start)),
            program: RefCell::new(None),
            downs: Cell::new(0),
            pauses: Cell::new(0),
            moves: Cell::new(0),
            addrs: addrs.to_vec(),
            is_starting: Cell::new(false),
            starts: Cell::new(0),
            memory: RefCell::default(),
        });
        let number = self.inner.machines.borrow().len();
        machine.node.set_name(&format!("machine {number}"));
        self.inner.machines.borrow_mut().push(machine.clone());
        if let Err(error) = machine.start() {
            self.fail(&format!("machine {number} does not start: {error}"));
        }
        number
    }

    /// A machine.
    ///
    /// # Panics
    /// If there is none of that number.
    pub fn node(&self, machine: usize) -> SimNode {
        self.inner.machines.borrow()[machine].node.clone()
    }

    /// How many machines there are.
    pub fn machines(&self) -> usize {
        self.inner.machines.borrow().len()
    }

    /// How often the program of a machine has started, or `None` while it does not run.
    pub fn incarnation(&self, machine: usize) -> Option<u32> {
        self.inner.machines.borrow()[machine].incarnation()
    }

    /// Names what must always hold, after every step of the world from now on: so `holds` should be quick, and change
    /// nothing. What it captures must not keep the stage.
    pub fn always(&self, what: &str, holds: impl FnMut(&SimWorld) -> Result<(), String> + 'static) {
        self.inner.checks.borrow_mut().push(Check {
            what: what.to_owned(),
            holds: Box::new(holds),
        });
    }

    /// Lets the planned faults come from now on. Returns at once.
    pub fn begin_faults(&self) {
        let begin = self.world().now();
        for timed in self.inner.faults.clone() {
            let weak = Rc::downgrade(&self.inner);
            self.world().call_at(begin + timed.at, move |_| {
                if let Some(inner) = weak.upgrade() {
                    inner.apply(timed.fault);
                }
            });
        }
    }

    /// When the last of the planned faults is over, if they begin now.
    pub fn faults_last(&self) -> Duration {
        let end = |timed: &TimedFault| timed.at + timed.fault.lasts();
        self.inner.faults.iter().map(end).max().unwrap_or_default()
    }

    /// Lets time pass until `is_reached`, or fails after `within` of virtual time.
    pub fn eventually(&self, what: &str, within: Duration, is_reached: impl FnMut() -> bool) {
        if let Err(error) = self.world().run_until(is_reached, within) {
            self.fail(&format!("not reached within {within:?}: {what} ({error})"));
        }
    }

    /// Lets time pass.
    pub fn run_for(&self, duration: Duration) {
        self.world().run_for(duration);
    }

    /// Fails the run.
    pub fn fail(&self, what: &str) -> ! {
        self.inner
            .violation
            .borrow_mut()
            .get_or_insert(what.to_owned());
        panic!("{what}");
    }

    /// Fails the run unless `holds`.
    pub fn expect(&self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.fail(&what());
        }
    }

    /// What the run failed by, if it was one of the stage's.
    pub(super) fn violation(&self) -> Option<String> {
        self.inner.violation.borrow().clone()
    }

    /// Ends all programs at once: a run that is over need not say goodbye.
    pub(super) fn clear(&self) {
        self.world().observe(None);
        self.inner.checks.borrow_mut().clear();
        let calls = self.world().state().queue.take_calls();
        drop(calls);
        let machines = std::mem::take(&mut *self.inner.machines.borrow_mut());
        for machine in &machines {
            machine.node.crash(Crash::Kill);
        }
    }
}

impl Inner {
    fn check(&self) {
        // A check that steps the world is not checked itself; and a run that has failed has failed once.
        let is_over = std::thread::panicking() || self.violation.borrow().is_some();
        if is_over || self.is_checking.replace(true) {
            return;
        }
        let mut checks = std::mem::take(&mut *self.checks.borrow_mut());
        let mut failed = None;
        for check in &mut checks {
            if let Err(error) = (check.holds)(&self.world) {
                failed = Some(format!("does not hold: {} ({error})", check.what));
                break;
            }
        }
        let added = std::mem::replace(&mut *self.checks.borrow_mut(), checks);
        self.checks.borrow_mut().extend(added);
        self.is_checking.set(false);
        if let Some(failed) = failed {
            *self.violation.borrow_mut() = Some(failed.clone());
            panic!("{failed}");
        }
    }

    fn apply(self: &Rc<Inner>, fault: Fault) {
        let machine = |number: usize| self.machines.borrow().get(number).cloned();
        match fault {
            Fault::Crash {
                machine: number,
                crash,
                down,
            } => {
                let Some(machine) = machine(number) else {
                    return;
                };
                machine.crash(crash);
                self.after(down, move |inner| inner.bring_up(&machine));
            }
            Fault::Pause {
                machine: number,
                pause,
                lasts,
            } => {
                let Some(machine) = machine(number) else {
                    return;
                };
                machine.pauses.set(machine.pauses.get() + 1);
                machine.node.pause(pause);
                self.after(lasts, move |_| {
                    machine.pauses.set(machine.pauses.get() - 1);
                    if machine.pauses.get() == 0 {
                        machine.node.resume();
                    }
                });
            }
            Fault::Slow {
                machine: number,
                times,
                lasts,
            } => {
                let Some(machine) = machine(number) else {
                    return;
                };
                machine.node.set_slowdown(times);
                self.after(lasts, move |_| machine.node.set_slowdown(1));
            }
            Fault::ClockJump {
                machine: number,
                millis,
            } => {
                if let Some(machine) = machine(number) {
                    machine
                        .node
                        .jump_wall_clock(millis.saturating_mul(1_000_000));
                }
            }
            Fault::MemoryFull {
                machine: number,
                lasts,
            } => {
                let Some(machine) = machine(number) else {
                    return;
                };
                machine.fill_memory();
                self.after(lasts, move |_| drop(machine.memory.borrow_mut().pop()));
            }
            Fault::DiskFails {
                machine: number,
                faults,
                lasts,
            } => {
                let Some(machine) = machine(number) else {
                    return;
                };
                machine.node.disk().set_faults(faults);
                self.after(lasts, move |_| {
                    machine.node.disk().set_faults(DiskFaults::default());
                });
            }
            Fault::DiskFull {
                machine: number,
                lasts,
            } => {
                let Some(machine) = machine(number) else {
                    return;
                };
                let disk = machine.node.disk();
                disk.set_capacity(disk.used());
                self.after(lasts, move |_| machine.node.disk().set_capacity(u64::MAX));
            }
            Fault::Cut { a, b, lasts } => self.cut(vec![(a, b)], lasts),
            Fault::Isolate {
                machine: number,
                lasts,
            } => {
                let others = 0..self.machines.borrow().len();
                let others = others.filter(|other| *other != number);
                self.cut(others.map(|other| (number, other)).collect(), lasts);
            }
            Fault::Moves {
                machine: number,
                to,
                lasts,
            } => {
                let Some(machine) = machine(number) else {
                    return;
                };
                machine.node.add_addr(to);
                for addr in &machine.addrs {
                    machine.node.remove_addr(*addr);
                }
                machine.moves.set(machine.moves.get() + 1);
                self.after(lasts, move |_| {
                    machine.moves.set(machine.moves.get() - 1);
                    if machine.moves.get() == 0 {
                        for addr in &machine.addrs {
                            machine.node.add_addr(*addr);
                        }
                    }
                    machine.node.remove_addr(to);
                });
            }
            Fault::Links { options, lasts } => {
                self.world.set_default_link(options);
                self.after(lasts, |inner| {
                    inner.world.set_default_link(inner.default_link.get());
                });
            }
        }
    }

    fn after(self: &Rc<Inner>, time: Duration, call: impl FnOnce(&Rc<Inner>) + 'static) {
        // It may hold machines, and those hold the world: `Stage::clear` takes what has not come by then.
        let weak = Rc::downgrade(self);
        self.world.call_at(self.world.now() + time, move |_| {
            if let Some(inner) = weak.upgrade() {
                call(&inner);
            }
        });
    }

    fn cut(self: &Rc<Inner>, pairs: Vec<(usize, usize)>, lasts: Duration) {
        for (a, b) in &pairs {
            self.count_cut(*a, *b, 1);
        }
        self.after(lasts, move |inner| {
            for (a, b) in &pairs {
                inner.count_cut(*a, *b, -1);
            }
        });
    }

    fn count_cut(&self, a: usize, b: usize, by: i32) {
        let pair = (a.min(b), a.max(b));
        let machines = self.machines.borrow();
        let (Some(first), Some(second)) = (machines.get(pair.0), machines.get(pair.1)) else {
            return;
        };
        if a == b {
            return;
        }
        let mut cuts = self.cuts.borrow_mut();
        let count = cuts.entry(pair).or_default();
        *count = count.saturating_add_signed(by);
        if *count == 0 {
            cuts.remove(&pair);
            self.world.heal(&first.node, &second.node);
        } else {
            self.world.partition(&first.node, &second.node);
        }
    }

    /// One of the faults that keep a machine down is over.
    fn bring_up(self: &Rc<Inner>, machine: &Rc<Machine>) {
        machine.downs.set(machine.downs.get() - 1);
        self.start(machine);
    }

    fn start(self: &Rc<Inner>, machine: &Rc<Machine>) {
        let is_up = machine.program.borrow().is_some();
        if machine.downs.get() > 0 || is_up || machine.is_starting.get() {
            return;
        }
        if machine.start().is_err() {
            let machine = machine.clone();
            self.after(START_AGAIN, move |inner| inner.start(&machine));
        }
    }
}

impl Machine {
    fn incarnation(&self) -> Option<u32> {
        self.program.borrow().is_some().then(|| self.starts.get())
    }

    fn crash(&self, crash: Crash) {
        self.downs.set(self.downs.get() + 1);
        self.memory.borrow_mut().clear();
        self.node.crash(crash);
        // Its handles must not wait for what is gone.
        let program = self.program.borrow_mut().take();
        drop(program);
    }

    /// Starting waits, so whatever else is due happens meanwhile: another crash, too.
    fn start(&self) -> Result<(), String> {
        self.is_starting.set(true);
        let started = (self.starter.borrow_mut())(&self.node);
        self.is_starting.set(false);
        let program = match started {
            Ok(program) if self.downs.get() == 0 => program,
            Ok(_) => return Err("it has crashed meanwhile".to_owned()),
            Err(error) => {
                // What had started of it ends with the process.
                if self.downs.get() == 0 {
                    self.node.crash(Crash::Kill);
                }
                return Err(error);
            }
        };
        *self.program.borrow_mut() = Some(program);
        self.starts.set(self.starts.get() + 1);
        Ok(())
    }

    fn fill_memory(&self) {
        if let Some(program) = &*self.program.borrow()
            && let Some(runtime) = program.runtime()
        {
            let max = runtime.handle().memory().max();
            self.memory.borrow_mut().push(runtime.hold_memory(max));
        }
    }
}

impl Fault {
    /// How long it takes until all is as before.
    pub fn lasts(&self) -> Duration {
        match *self {
            Fault::Crash { down, .. } => down,
            Fault::ClockJump { .. } => Duration::ZERO,
            Fault::Pause { lasts, .. }
            | Fault::Slow { lasts, .. }
            | Fault::MemoryFull { lasts, .. }
            | Fault::DiskFails { lasts, .. }
            | Fault::DiskFull { lasts, .. }
            | Fault::Cut { lasts, .. }
            | Fault::Isolate { lasts, .. }
            | Fault::Moves { lasts, .. }
            | Fault::Links { lasts, .. } => lasts,
        }
    }
}
