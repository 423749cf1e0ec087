//! The swarm finds what is wrong, says when, replays it and drops the faults that it does not take.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::ip;
use crate::actor::{Actor, Child, Context, Event, Failure, Limits};
use crate::random::Random;
use crate::sim::swarm::{Fault, Options, Plan, Scenario, Stage, Swarm, run, shrink};
use crate::sim::{Crash, SimNode, Unsynced};

const SECOND: Duration = Duration::from_secs(1);

/// Ticks every second.
struct Ticks(Arc<Mutex<u32>>);

impl Actor for Ticks {
    type Message = ();

    fn started(&mut self, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        cx.wake_at(Some(cx.now() + SECOND), Duration::ZERO);
        Ok(())
    }

    fn handle(&mut self, (): (), _: &mut Context<'_, Self>) -> Result<(), Failure> {
        Ok(())
    }

    fn on_event(&mut self, _: Event<'_>, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        let mut ticks = self.0.lock().unwrap();
        *ticks += 1;
        assert!(*ticks < 200, "an unlucky actor");
        cx.wake_at(Some(cx.now() + SECOND), Duration::ZERO);
        Ok(())
    }
}

fn ticking(
    ticks: Arc<Mutex<u32>>,
) -> impl FnMut(&SimNode) -> Result<Box<dyn crate::sim::swarm::Program>, String> {
    move |machine| {
        *ticks.lock().unwrap() = 0;
        let runtime = machine
            .start(1, Limits::default())
            .map_err(|error| error.to_string())?;
        let ticks = ticks.clone();
        let spawned = runtime.handle().spawn(0, move || Child::once(Ticks(ticks)));
        spawned.map_err(|error| error.to_string())?;
        Ok(Box::new(runtime))
    }
}

/// Three machines that tick; what it fails by, if by anything.
struct Ticking {
    wrong: Option<&'static str>,
}

impl Scenario for Ticking {
    fn name(&self) -> &str {
        "ticking"
    }

    fn about(&self) -> &str {
        "machines tick"
    }

    fn plan(&self, seed: u64) -> Plan {
        let mut plan = Plan::new(seed);
        plan.cuts(3, 5, 5 * SECOND);
        plan.flaps(3, 2, 5 * SECOND);
        plan.moves(3, 3, 5 * SECOND);
        plan.isolations(3, 2, 5 * SECOND);
        plan.pauses(3, 3, 5 * SECOND);
        plan.troubles(3, 10, 5 * SECOND);
        for machine in 0..2 {
            let crash = Crash::PowerCut(Unsynced::Torn);
            let down = SECOND;
            let fault = Fault::Crash {
                machine,
                crash,
                down,
            };
            plan.add(3 * SECOND, fault);
        }
        plan.crashes(3, 3, 5 * SECOND);
        plan
    }

    fn run(&self, stage: &Stage) {
        let ticks: Vec<_> = (0..3u8)
            .map(|number| {
                let ticks = Arc::new(Mutex::new(0));
                let addr = ip(&format!("10.0.0.{}", 1 + number));
                stage.machine(&[addr], ticking(ticks.clone()));
                ticks
            })
            .collect();
        match self.wrong {
            Some("ticks too much") => {
                let ticks = ticks[0].clone();
                stage.always("no more than three ticks", move |_| {
                    let ticks = *ticks.lock().unwrap();
                    if ticks > 3 {
                        Err(format!("{ticks}"))
                    } else {
                        Ok(())
                    }
                });
                stage.run_for(10 * SECOND);
            }
            Some("unlucky") => stage.run_for(210 * SECOND),
            Some("a flaw after a crash") => {
                let node = stage.node(1);
                stage.begin_faults();
                stage.run_for(10 * SECOND);
                let is_first = stage.incarnation(1) == Some(1) && node.is_on();
                stage.expect(is_first, || "machine 1 has crashed".to_owned());
                return;
            }
            Some("chance") => {
                static CALLS: AtomicU32 = AtomicU32::new(0);
                let calls = CALLS.fetch_add(1, Ordering::Relaxed);
                stage.run_for(Duration::from_millis(u64::from(calls)));
            }
            _ => {}
        }
        stage.begin_faults();
        let last = stage.faults_last();
        stage.run_for(last.min(3 * SECOND));
        let most = if self.wrong == Some("never") { 190 } else { 1 };
        stage.eventually("a tick", 100 * SECOND, || {
            ticks.iter().all(|ticks| *ticks.lock().unwrap() >= most)
        });
    }
}

fn check(wrong: &'static str, seeds: std::ops::Range<u64>, want: &str) -> Duration {
    let scenario = Ticking { wrong: Some(wrong) };
    let report = Swarm::new(&[&scenario])
        .seeds(seeds)
        .twice(wrong == "chance")
        .run();
    let first = report
        .failed
        .first()
        .unwrap_or_else(|| panic!("{wrong} is not found"));
    assert!(first.failed.what.contains(want), "{}", first.describe("x"));
    first.failed.at
}

#[test]
fn what_is_well_passes_and_is_the_same_on_any_number_of_threads() {
    let scenario = Ticking { wrong: None };
    let other = Ticking { wrong: None };
    let report = |threads| {
        let scenarios: [&dyn Scenario; 2] = [&scenario, &other];
        let report = Swarm::new(&scenarios)
            .seeds(5..25)
            .threads(threads)
            .twice(true)
            .run();
        let described = report.failed.first().map(|failed| failed.describe("x"));
        assert_eq!((report.seeds, report.runs, described), (20, 40, None));
        (report.trace_hash, report.steps)
    };
    assert_eq!(report(1), report(3));
    let fewer = Swarm::new(&[&scenario]).seeds(5..25).run();
    assert_ne!(fewer.trace_hash, report(2).0);
}

#[test]
fn every_kind_of_failure_is_found_and_its_time_told() {
    let at = check("ticks too much", 1..2, "no more than three ticks (4)");
    assert!(at >= 4 * SECOND && at < 5 * SECOND, "at once: {at:?}");
    check("never", 1..2, "not reached within 100s: a tick");
    check("unlucky", 1..2, "an unlucky actor");
    check("chance", 1..2, "the run is not repeated");
    check("a flaw after a crash", 1..2, "machine 1 has crashed");
}

#[test]
fn a_failing_plan_shrinks_to_what_it_takes_and_is_replayed() {
    let scenario = Ticking {
        wrong: Some("a flaw after a crash"),
    };
    let mut prng = Plan::new(1);
    for _ in 0..5 {
        let seed = prng.prng().below(1000);
        let kept = shrink(&scenario, seed, scenario.plan(seed).faults().len(), 200);
        let [only] = kept[..] else {
            panic!("{kept:?} with seed {seed}")
        };
        let plan = scenario.plan(seed);
        assert!(matches!(
            plan.faults()[only].fault,
            Fault::Crash { machine: 1, .. }
        ));
        let options = || Options {
            kept: Some(vec![only]),
            ..Options::default()
        };
        let first = run(&scenario, seed, options());
        assert_eq!(first.failed.as_ref().unwrap().what, "machine 1 has crashed");
        assert_eq!(run(&scenario, seed, options()), first);
        let nothing = Options {
            kept: Some(Vec::new()),
            ..Options::default()
        };
        assert_eq!(run(&scenario, seed, nothing).failed, None);
    }
    let report = Swarm::new(&[&scenario]).seeds(7..8).run();
    let text = report.failed[0].describe("cargo run --example swarm --");
    for part in [
        "scenario ticking, seed 7, virtual time",
        "again: cargo run --example swarm -- --scenario ticking --first-seed 7 --seeds 1",
        "planned faults are enough: add --faults ",
        "machine 1 ends by",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

#[test]
fn a_run_can_be_traced() {
    let lines = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let taking = lines.clone();
    let options = Options {
        trace: Some(Box::new(move |line| {
            taking.borrow_mut().push(line.to_owned())
        })),
        ..Options::default()
    };
    let run = run(&Ticking { wrong: None }, 3, options);
    assert_eq!(run.failed, None);
    assert!(
        lines
            .borrow()
            .iter()
            .any(|line| line.contains("crashes: PowerCut"))
    );
    assert_eq!(std::rc::Rc::strong_count(&lines), 1, "the world is gone");
}
