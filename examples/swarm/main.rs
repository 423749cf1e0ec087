//! Runs scenarios on whole nodes in the simulator, over many seeds, and says how to run a failing one again.
//!
//! ```sh
//! cargo run --release --example swarm -- --seeds 40
//! cargo run --release --example swarm -- --list
//! cargo run --release --example swarm -- --scenario mesh --first-seed 7 --seeds 1 --trace trace.txt
//! ```
//!
//! Exit code 0: every run passed. 1: one failed. 2: the arguments are wrong.

mod scenarios;

use std::cell::RefCell;
use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use mischief_reactor::sabotage::Mutation;
use mischief_reactor::sim::swarm::{self, FailedRun, Options, Progress, Report, Scenario, Swarm};
use scenarios::Sabotaged;
use serde_json::json;

const COMMAND: &str = "cargo run --release --example swarm --";

const HELP: &str = "\
Runs scenarios on whole nodes in the simulator, each with many seeds.

Usage: swarm [OPTIONS]

  --seeds N          how many seeds (default 40)
  --first-seed S     the first of them (default 1)
  --scenario NAME    this scenario alone; without it all small ones run with each seed
  --faults LIST      of the planned faults only these, as 3,7,9, or none; needs --scenario and one seed
  --trace FILE       write all that happens there, a line each; needs --scenario and one seed
  --twice            make every run twice and compare their hashes
  --pcap FILE        write every packet there, for Wireshark and tshark; needs --scenario and one seed
  --sabotage NAME    have the product make a mistake: no-tie-break, grant-twice, acknowledge-before-sync,
                     forget-requeue or reuse-nonce
  --threads N        runs at the same time (default: processors of this machine)
  --no-shrink        do not look for the faults that a failure takes
  --stop             begin no more runs once one has failed
  --json             end with a line of JSON on stdout
  --list             name the scenarios
  --help             this text

Exit codes: 0 every run passed, 1 one failed, 2 wrong arguments.";

struct Args {
    seeds: u64,
    first_seed: u64,
    scenario: Option<String>,
    faults: Option<Vec<usize>>,
    trace: Option<String>,
    pcap: Option<String>,
    sabotage: Option<Mutation>,
    is_twice: bool,
    threads: usize,
    shrinks: bool,
    stops: bool,
    is_json: bool,
}

enum Order {
    Run(Args),
    List,
    Help,
}

fn main() -> ExitCode {
    match parse(std::env::args().skip(1)) {
        Ok(Order::Help) => {
            println!("{HELP}");
            ExitCode::SUCCESS
        }
        Ok(Order::List) => {
            list();
            ExitCode::SUCCESS
        }
        Ok(Order::Run(args)) => match run(&args) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::from(1),
            Err(error) => wrong(&error),
        },
        Err(error) => wrong(&error),
    }
}

fn wrong(error: &str) -> ExitCode {
    eprintln!("swarm: {error}\nTry --help.");
    ExitCode::from(2)
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Order, String> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let mut args = Args {
        seeds: 40,
        first_seed: 1,
        scenario: None,
        faults: None,
        trace: None,
        pcap: None,
        sabotage: None,
        is_twice: false,
        threads: processors,
        shrinks: true,
        stops: false,
        is_json: false,
    };
    while let Some(word) = words.next() {
        let (name, inline) = match word.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (word, None),
        };
        let mut has_value = false;
        let mut value = || {
            has_value = true;
            let value = inline.clone().or_else(|| words.next());
            value.ok_or_else(|| format!("{name} needs a value"))
        };
        match name.as_str() {
            "--seeds" => args.seeds = number(&name, &value()?)?,
            "--first-seed" => args.first_seed = number(&name, &value()?)?,
            "--scenario" => args.scenario = Some(value()?),
            "--faults" => args.faults = Some(numbers(&value()?)?),
            "--trace" => args.trace = Some(value()?),
            "--sabotage" => args.sabotage = Some(mutation(&value()?)?),
            "--pcap" => args.pcap = Some(value()?),
            "--threads" => args.threads = number(&name, &value()?)?,
            "--twice" => args.is_twice = true,
            "--no-shrink" => args.shrinks = false,
            "--stop" => args.stops = true,
            "--json" => args.is_json = true,
            "--list" => return Ok(Order::List),
            "--help" | "-h" => return Ok(Order::Help),
            _ => return Err(format!("there is no option {name}")),
        }
        if inline.is_some() && !has_value {
            return Err(format!("{name} takes no value"));
        }
    }
    check(&args)?;
    Ok(Order::Run(args))
}

fn check(args: &Args) -> Result<(), String> {
    if args.seeds == 0 || args.threads == 0 {
        return Err("--seeds and --threads want a number above 0".to_owned());
    }
    if args.first_seed.checked_add(args.seeds).is_none() {
        return Err("--first-seed is too large for so many seeds".to_owned());
    }
    let is_one = args.seeds == 1 && args.scenario.is_some();
    let is_looked_at = args.faults.is_some() || args.trace.is_some() || args.pcap.is_some();
    if is_looked_at && !is_one {
        return Err("--faults, --trace and --pcap need --scenario and --seeds 1".to_owned());
    }
    if args.is_twice && is_looked_at {
        return Err("--twice does not go with --faults, --trace and --pcap".to_owned());
    }
    Ok(())
}

fn mutation(name: &str) -> Result<Mutation, String> {
    let named = Mutation::ALL
        .into_iter()
        .find(|mutation| mutation.name() == name);
    named.ok_or_else(|| format!("--sabotage knows no {name:?}"))
}

fn number<T: std::str::FromStr>(name: &str, text: &str) -> Result<T, String> {
    text.parse()
        .map_err(|_| format!("{name} wants a number, not {text:?}"))
}

fn numbers(text: &str) -> Result<Vec<usize>, String> {
    if text == "none" {
        return Ok(Vec::new());
    }
    text.split(',')
        .map(|part| number("--faults", part))
        .collect()
}

fn list() {
    for (size, scenarios) in [("small", scenarios::small()), ("large", scenarios::large())] {
        for scenario in scenarios {
            println!("{:14} {size}  {}", scenario.name(), scenario.about());
        }
    }
}

fn run(args: &Args) -> Result<bool, String> {
    let chosen = match &args.scenario {
        None => scenarios::small(),
        Some(name) => {
            let all = scenarios::small().into_iter().chain(scenarios::large());
            let named: Vec<_> = all.filter(|scenario| scenario.name() == name).collect();
            if named.is_empty() {
                return Err(format!("there is no scenario {name:?}; --list names them"));
            }
            named
        }
    };
    let chosen: Vec<Box<dyn Scenario>> = match args.sabotage {
        None => chosen,
        Some(mutation) => chosen
            .into_iter()
            .map(|scenario| Box::new(Sabotaged { scenario, mutation }) as Box<dyn Scenario>)
            .collect(),
    };
    let chosen: Vec<&dyn Scenario> = chosen.iter().map(|scenario| &**scenario).collect();
    let began = Instant::now();
    let report = match (&args.faults, &args.trace, &args.pcap) {
        (None, None, None) => run_swarm(args, &chosen),
        _ => replay(args, chosen[0])?,
    };
    let took = began.elapsed().as_secs_f64();
    let again = match args.sabotage {
        None => COMMAND.to_owned(),
        Some(mutation) => format!("{COMMAND} --sabotage {}", mutation.name()),
    };
    for failed in &report.failed {
        eprintln!("{}", failed.describe(&again));
    }
    let events_per_s = report.steps as f64 / took.max(1e-9);
    let summary = format!(
        "{} runs of {} seeds in {took:.1} s: {} seeds failed; {} events, {:.0} a second; trace hash {:016x}",
        report.runs,
        report.seeds,
        report.seeds_failed,
        report.steps,
        events_per_s,
        report.trace_hash
    );
    eprintln!("{summary}");
    if args.is_json {
        let failures: Vec<_> = report.failed.iter().map(failure).collect();
        let line = json!({
            "seeds": report.seeds,
            "failed": report.seeds_failed,
            "trace_hash": format!("{:016x}", report.trace_hash),
            "events_per_s": events_per_s.round(),
            "events": report.steps,
            "runs": report.runs,
            "seconds": took,
            "failures": failures,
        });
        println!("{line}");
    }
    Ok(report.seeds_failed == 0)
}

fn failure(failed: &FailedRun) -> serde_json::Value {
    let faults = failed.shrunk.as_ref().map(|shrunk| {
        let numbers = shrunk.iter().map(|(number, _)| *number);
        numbers.collect::<Vec<usize>>()
    });
    json!({
        "scenario": failed.scenario,
        "seed": failed.seed,
        "virtual_s": failed.failed.at.as_secs_f64(),
        "what": failed.failed.what,
        "faults": faults,
    })
}

fn run_swarm(args: &Args, scenarios: &[&dyn Scenario]) -> Report {
    let is_terminal = std::io::stderr().is_terminal();
    let tenths = AtomicU32::new(0);
    let on_progress = |progress: &Progress| {
        let tenth = (progress.done * 10 / progress.runs) as u32;
        let is_new = tenths.fetch_max(tenth, Ordering::Relaxed) < tenth;
        let text = format!(
            "{} of {} runs, {} failed",
            progress.done, progress.runs, progress.failed
        );
        if is_terminal {
            let end = if progress.done == progress.runs {
                "\n"
            } else {
                ""
            };
            eprint!("\r{text}{end}");
        } else if is_new {
            eprintln!("{text}");
        }
    };
    Swarm::new(scenarios)
        .seeds(args.first_seed..args.first_seed + args.seeds)
        .threads(args.threads)
        .twice(args.is_twice)
        .shrink_runs_max(if args.shrinks { 200 } else { 0 })
        .stop_at_failure(args.stops)
        .on_progress(&on_progress)
        .run()
}

fn create(path: &str) -> Result<BufWriter<File>, String> {
    let file = File::create(path).map_err(|error| format!("{path}: {error}"))?;
    Ok(BufWriter::new(file))
}

/// One run, perhaps with some of its faults alone, perhaps traced.
fn replay(args: &Args, scenario: &dyn Scenario) -> Result<Report, String> {
    let trace = args.trace.as_deref().map(create).transpose()?;
    let trace = trace.map(|file| Rc::new(RefCell::new(file)));
    let sink = trace
        .clone()
        .map(|file| -> mischief_reactor::sim::TraceSink {
            Box::new(move |line| {
                // A disk that is full is told at the end, by the flush.
                let _ = writeln!(file.borrow_mut(), "{line}");
            })
        });
    let pcap = args.pcap.as_deref().map(create).transpose()?;
    let options = Options {
        kept: args.faults.clone(),
        trace: sink,
        capture: pcap.map(|file| Box::new(file) as Box<dyn Write>),
    };
    let made = swarm::run(scenario, args.first_seed, options);
    if let (Some(file), Some(path)) = (trace, &args.trace) {
        let flushed = file.borrow_mut().flush();
        flushed.map_err(|error| format!("{path}: {error}"))?;
    }
    let failed = made.failed.map(|failed| FailedRun {
        scenario: scenario.name().to_owned(),
        seed: args.first_seed,
        failed,
        planned: made.planned.len(),
        shrunk: None,
    });
    Ok(Report {
        seeds: 1,
        runs: 1,
        seeds_failed: failed.is_some().into(),
        failed: failed.into_iter().collect(),
        trace_hash: made.trace_hash,
        steps: made.steps,
    })
}
