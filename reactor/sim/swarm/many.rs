//! Scenarios over seeds, on several threads.

use std::fmt::Write;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard};

use super::Scenario;
use super::plan::TimedFault;
use super::run::{Failed, Options, Run, run};
use super::shrink::shrink;
use crate::sim::prng::mix;

/// The stack of a thread that makes runs: the waits of a start may nest in those of another.
const STACK: usize = 16 << 20;
/// Failed runs that are shrunk and kept; the others are counted.
const FAILED_KEPT: usize = 16;

/// Runs of scenarios with a range of seeds.
pub struct Swarm<'a> {
    scenarios: &'a [&'a dyn Scenario],
    seeds: Range<u64>,
    threads: usize,
    is_twice: bool,
    shrink_runs_max: usize,
    stop_at_failure: bool,
    on_progress: Option<&'a (dyn Fn(&Progress) + Sync)>,
}

/// How far a swarm has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Runs made.
    pub done: u64,
    /// Runs to be made.
    pub runs: u64,
    /// Runs that failed.
    pub failed: u64,
    /// Steps of all worlds.
    pub steps: u64,
}

/// What a swarm has found.
#[derive(Clone, Debug)]
pub struct Report {
    /// Seeds that were run, each with every scenario.
    pub seeds: u64,
    /// Runs that were made; one that was made twice is one.
    pub runs: u64,
    /// Seeds with a run that failed.
    pub seeds_failed: u64,
    /// The first runs that failed, by seed, at most 16.
    pub failed: Vec<FailedRun>,
    /// All that happened in all runs, as a number that does not depend on the number of threads.
    pub trace_hash: u64,
    /// Steps of all worlds.
    pub steps: u64,
}

/// A run that failed, and what it takes.
#[derive(Clone, Debug)]
pub struct FailedRun {
    /// The scenario's name.
    pub scenario: String,
    /// The seed.
    pub seed: u64,
    /// Why.
    pub failed: Failed,
    /// How many faults were planned.
    pub planned: usize,
    /// The faults that are enough to make it fail, by number. `None` if that was not looked for.
    pub shrunk: Option<Vec<(usize, TimedFault)>>,
}

impl FailedRun {
    /// All there is to say, several lines. `command` is what replays a run once it is followed by
    /// `--scenario`, `--first-seed`, `--seeds` and, if the plan was shrunk, `--faults`.
    pub fn describe(&self, command: &str) -> String {
        let mut text = format!(
            "FAILED: scenario {}, seed {}, virtual time {:?}\n  {}\n  again: {command} --scenario {} --first-seed {} --seeds 1",
            self.scenario, self.seed, self.failed.at, self.failed.what, self.scenario, self.seed
        );
        let Some(shrunk) = &self.shrunk else {
            return text;
        };
        let numbers: Vec<String> = shrunk
            .iter()
            .map(|(number, _)| number.to_string())
            .collect();
        let numbers = if numbers.is_empty() {
            "none".to_owned()
        } else {
            numbers.join(",")
        };
        let written = write!(
            text,
            "\n  {} of {} planned faults are enough: add --faults {numbers}",
            shrunk.len(),
            self.planned
        );
        written.expect("a text takes all that is written");
        for (number, fault) in shrunk {
            let written = write!(text, "\n    {number}: {fault}");
            written.expect("a text takes all that is written");
        }
        text
    }
}

/// What has come of the runs so far. Hashes by place: seeds first, then scenarios.
struct Tally {
    next: u64,
    hashes: Vec<u64>,
    progress: Progress,
    failed: Vec<(u64, usize, Run)>,
    seeds_failed: std::collections::BTreeSet<u64>,
}

impl<'a> Swarm<'a> {
    /// Each of these with seed 1, once, on one thread, until something else is said.
    pub fn new(scenarios: &'a [&'a dyn Scenario]) -> Swarm<'a> {
        Swarm {
            scenarios,
            seeds: 1..2,
            threads: 1,
            is_twice: false,
            shrink_runs_max: 200,
            stop_at_failure: false,
            on_progress: None,
        }
    }

    /// The seeds.
    pub fn seeds(mut self, seeds: Range<u64>) -> Self {
        self.seeds = seeds;
        self
    }

    /// How many threads make runs. Every run is made by one of them.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads.max(1);
        self
    }

    /// Whether every run is made twice and has failed if the second is another one.
    pub fn twice(mut self, is_twice: bool) -> Self {
        self.is_twice = is_twice;
        self
    }

    /// How many runs may be spent on each failing one to find fewer faults that make it fail; 0: none are.
    pub fn shrink_runs_max(mut self, runs: usize) -> Self {
        self.shrink_runs_max = runs;
        self
    }

    /// Whether no more runs begin once one has failed. The trace hash then depends on the threads.
    pub fn stop_at_failure(mut self, stops: bool) -> Self {
        self.stop_at_failure = stops;
        self
    }

    /// Is called after every run, by the thread that made it.
    pub fn on_progress(mut self, on_progress: &'a (dyn Fn(&Progress) + Sync)) -> Self {
        self.on_progress = Some(on_progress);
        self
    }

    /// Makes the runs.
    pub fn run(&self) -> Report {
        let per_seed = self.scenarios.len() as u64;
        let seeds = self.seeds.end.saturating_sub(self.seeds.start);
        let runs = seeds * per_seed;
        let tally = Mutex::new(Tally {
            next: 0,
            hashes: vec![0; runs as usize],
            progress: Progress {
                done: 0,
                runs,
                failed: 0,
                steps: 0,
            },
            failed: Vec::new(),
            seeds_failed: Default::default(),
        });
        std::thread::scope(|scope| {
            for number in 0..self.threads.min(runs as usize) {
                let thread = std::thread::Builder::new()
                    .name(format!("swarm {number}"))
                    .stack_size(STACK);
                let started = thread.spawn_scoped(scope, || self.work(&tally));
                started.expect("the system has room for a thread");
            }
        });
        let tally = tally.into_inner();
        self.report(tally.unwrap_or_else(|poisoned| poisoned.into_inner()))
    }

    fn work(&self, tally: &Mutex<Tally>) {
        while let Some(place) = next_place(tally, self.stop_at_failure) {
            let (seed, scenario) = self.at(place);
            let made = self.run_one(scenario, seed);
            let mut tally = lock(tally);
            tally.hashes[place as usize] = made.trace_hash;
            tally.progress.done += 1;
            tally.progress.steps += made.steps;
            if made.failed.is_some() {
                tally.progress.failed += 1;
                tally.seeds_failed.insert(seed);
                let number = (place % self.scenarios.len() as u64) as usize;
                tally.failed.push((seed, number, made));
                // The earliest are kept, so that which they are does not depend on the threads.
                tally
                    .failed
                    .sort_by_key(|(seed, number, _)| (*seed, *number));
                tally.failed.truncate(FAILED_KEPT);
            }
            let progress = tally.progress;
            drop(tally);
            if let Some(on_progress) = self.on_progress {
                on_progress(&progress);
            }
        }
    }

    fn at(&self, place: u64) -> (u64, &'a dyn Scenario) {
        let per_seed = self.scenarios.len() as u64;
        let scenario = self.scenarios[(place % per_seed) as usize];
        (self.seeds.start + place / per_seed, scenario)
    }

    fn run_one(&self, scenario: &dyn Scenario, seed: u64) -> Run {
        let mut first = run(scenario, seed, Options::default());
        if self.is_twice && first.failed.is_none() {
            let second = run(scenario, seed, Options::default());
            if second != first {
                let what = format!(
                    "the run is not repeated: trace hash {:016x} and {} steps, then {:016x} and {}",
                    first.trace_hash, first.steps, second.trace_hash, second.steps
                );
                let at = second.elapsed;
                first.failed = Some(Failed { what, at });
            }
        }
        first
    }

    fn report(&self, tally: Tally) -> Report {
        let failed = tally.failed.into_iter().filter_map(|(seed, number, made)| {
            let scenario = self.scenarios[number];
            let planned = made.planned;
            let shrunk = (self.shrink_runs_max > 0).then(|| {
                let kept = shrink(scenario, seed, planned.len(), self.shrink_runs_max);
                kept.into_iter().map(|at| (at, planned[at])).collect()
            });
            Some(FailedRun {
                scenario: scenario.name().to_owned(),
                seed,
                failed: made.failed?,
                planned: planned.len(),
                shrunk,
            })
        });
        Report {
            seeds: self.seeds.end.saturating_sub(self.seeds.start),
            runs: tally.progress.done,
            seeds_failed: tally.seeds_failed.len() as u64,
            failed: failed.collect(),
            trace_hash: mix(&tally.hashes),
            steps: tally.progress.steps,
        }
    }
}

fn next_place(tally: &Mutex<Tally>, stop_at_failure: bool) -> Option<u64> {
    let mut tally = lock(tally);
    let place = tally.next;
    let is_over = place >= tally.progress.runs || stop_at_failure && tally.progress.failed > 0;
    tally.next += u64::from(!is_over);
    (!is_over).then_some(place)
}

fn lock(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}
