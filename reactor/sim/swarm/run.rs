//! One run of one seed.

use std::cell::{Cell, RefCell};
use std::io::Write;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::Once;
use std::time::Duration;

use super::plan::TimedFault;
use super::stage::Stage;
use super::{Plan, Scenario};
use crate::sim::{SimWorld, TraceSink};

/// Panics of one run that are remembered. The first says most.
const PANICS_KEPT: usize = 16;

thread_local! {
    /// Panics of the run that this thread makes; none is printed.
    static PANICS: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
    static IS_QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread makes a run of a swarm, which says itself what is to be said about a failure.
pub(in crate::sim) fn is_quiet() -> bool {
    IS_QUIET.get()
}

/// How a run is made.
#[derive(Default)]
pub struct Options {
    /// The numbers of the planned faults that come; `None`: all of them.
    pub kept: Option<Vec<usize>>,
    /// Takes the lines of a readable trace.
    pub trace: Option<TraceSink>,
    /// Takes every packet, as a pcapng file.
    pub capture: Option<Box<dyn Write>>,
}

/// Why and when a run failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// What did not hold or was not reached, or what a panic said.
    pub what: String,
    /// Virtual time since the start of the world.
    pub at: Duration,
}

/// What became of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// All that happened, as a number.
    pub trace_hash: u64,
    /// Steps of the world.
    pub steps: u64,
    /// Virtual time.
    pub elapsed: Duration,
    /// The faults that were planned, those not kept included.
    pub planned: Vec<TimedFault>,
    /// Why it failed, if it did.
    pub failed: Option<Failed>,
}

/// Makes a scenario's run of one seed, on this thread. A panic in it is caught and makes the run a failed one; it is not
/// printed.
pub fn run(scenario: &dyn Scenario, seed: u64, options: Options) -> Run {
    listen_to_panics();
    let planned = scenario.plan(seed);
    let planned: Vec<TimedFault> = Plan::faults(&planned).to_vec();
    let faults = match &options.kept {
        None => planned.clone(),
        Some(kept) => kept
            .iter()
            .filter_map(|number| planned.get(*number).copied())
            .collect(),
    };
    let outer_panics = PANICS.replace(Some(Vec::new()));
    let outer_quiet = IS_QUIET.replace(true);

    let world = SimWorld::new(seed);
    world.trace_to(options.trace);
    if let Some(writer) = options.capture {
        world.capture_to(writer);
    }
    let stage = Stage::new(world.clone(), faults);
    let outcome = catch_unwind(AssertUnwindSafe(|| scenario.run(&stage)));
    let elapsed = world.elapsed();
    let (trace_hash, steps) = (world.trace_hash(), world.stats().steps);
    // Panics of what is only dropped count as well.
    let violation = stage.violation();
    let cleared = catch_unwind(AssertUnwindSafe(|| {
        stage.clear();
        drop(stage);
    }));
    world.trace_to(None);
    if let Err(error) = world.end_captures() {
        log::warn!("the packets of seed {seed} were not all written: {error}");
    }

    let panics = PANICS.replace(outer_panics).unwrap_or_default();
    IS_QUIET.set(outer_quiet);
    let is_well = outcome.is_ok() && cleared.is_ok() && panics.is_empty();
    let what = violation.or_else(|| panics.first().map(|panic| format!("panic: {panic}")));
    let failed = (!is_well).then(|| Failed {
        what: what.unwrap_or_else(|| "a panic without a word".to_owned()),
        at: elapsed,
    });
    Run {
        trace_hash,
        steps,
        elapsed,
        planned,
        failed,
    }
}

/// Has the panics of runs noted, those that a runtime catches included, and all others treated as before.
fn listen_to_panics() {
    static LISTENING: Once = Once::new();
    LISTENING.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let noted = PANICS.try_with(|panics| note(&mut panics.borrow_mut(), panic));
            if !noted.unwrap_or(false) {
                before(panic);
            }
        }));
    });
}

fn note(panics: &mut Option<Vec<String>>, panic: &PanicHookInfo<'_>) -> bool {
    let Some(panics) = panics else {
        return false;
    };
    if panics.len() < PANICS_KEPT {
        let text = panic.payload_as_str().unwrap_or("(no text)");
        let place = panic.location().map(ToString::to_string);
        panics.push(format!("{text}, at {}", place.unwrap_or_default()));
    }
    true
}
