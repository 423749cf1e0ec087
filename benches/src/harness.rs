//! Runs a measurement several times and prints its figures: the median, the spread, and what the budget allows.
//!
//! Every program under `benches/` takes the same arguments: `--json` prints one JSON object a line, `--runs N` repeats
//! each measurement so often. `MISCHIEF_BENCH_TINY=1` makes all sizes so small that a run only shows that it works.
//!
//! What is measured beside rivals goes through [`Bench::compare`]. With `--record` or `--json` the contenders take turns,
//! in an order that is turned round from one run to the next. Otherwise criterion drives the same work, and its own
//! arguments apply (a filter, `--save-baseline`, `--measurement-time` and so on).

use std::cell::{Cell, RefCell};
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion};
use serde_json::{Value, json};

use crate::system::process_cpu;

/// Repetitions without `--runs`.
pub const RUNS_DEFAULT: usize = 5;

/// What a figure has to keep.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Budget {
    /// No budget: the figure is a limit or a comparison.
    None,
    /// At most this.
    AtMost(f64),
    /// At least this.
    AtLeast(f64),
}

impl Budget {
    fn is_met(self, value: f64) -> Option<bool> {
        match self {
            Budget::None => None,
            Budget::AtMost(max) => Some(value <= max),
            Budget::AtLeast(min) => Some(value >= min),
        }
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Budget::None => Ok(()),
            Budget::AtMost(max) => write!(f, "<= {}", Number(*max)),
            Budget::AtLeast(min) => write!(f, ">= {}", Number(*min)),
        }
    }
}

/// The arguments of a program, and where its figures go.
pub struct Bench {
    name: &'static str,
    args: Vec<String>,
    is_json: bool,
    is_tiny: bool,
    /// How many comparisons there were.
    compared: Cell<usize>,
    criterion: Option<RefCell<Criterion>>,
}

impl Bench {
    /// Reads the arguments of this process.
    pub fn new(name: &'static str) -> Bench {
        let args: Vec<String> = std::env::args().skip(1).collect();
        Bench {
            name,
            is_json: args.iter().any(|arg| arg == "--json"),
            is_tiny: std::env::var_os("MISCHIEF_BENCH_TINY").is_some_and(|value| value != "0"),
            compared: Cell::new(0),
            criterion: None,
            args,
        }
    }

    /// The same for a program that compares: criterion drives it, with criterion's arguments, unless there is one of
    /// `--record` and `--json`, or everything is tiny.
    pub fn comparing(name: &'static str) -> Bench {
        let mut bench = Bench::new(name);
        let is_record =
            bench.is_json || bench.is_tiny || bench.has("--record") || bench.has("--child");
        bench.criterion = (!is_record).then(|| RefCell::new(criterion()));
        bench
    }

    /// Whether only to show that it works.
    pub fn is_tiny(&self) -> bool {
        self.is_tiny
    }

    /// Whether one JSON object a line is printed.
    pub fn is_json(&self) -> bool {
        self.is_json
    }

    /// `full`, or `tiny` if only to show that it works.
    pub fn size<T>(&self, full: T, tiny: T) -> T {
        if self.is_tiny { tiny } else { full }
    }

    /// The value behind `--name`, if it is there and can be read.
    pub fn option<T: FromStr>(&self, name: &str) -> Option<T> {
        let place = self.args.iter().position(|arg| arg == name)?;
        self.args.get(place + 1)?.parse().ok()
    }

    /// Whether `--name` is there.
    pub fn has(&self, name: &str) -> bool {
        self.args.iter().any(|arg| arg == name)
    }

    /// How often to repeat.
    pub fn runs(&self) -> usize {
        let runs = self.option("--runs").unwrap_or(RUNS_DEFAULT).max(1);
        self.size(runs, 1)
    }

    /// The values of a measurement that is repeated [`Bench::runs`] times.
    pub fn repeat(&self, mut measure: impl FnMut() -> f64) -> Vec<f64> {
        (0..self.runs()).map(|_| measure()).collect()
    }

    /// Whether the name of a part was given with `--part`, or no part was named.
    pub fn wants(&self, part: &str) -> bool {
        let wanted: Option<String> = self.option("--part");
        wanted.is_none_or(|wanted| wanted.split(',').any(|one| one == part))
    }

    /// Whether criterion drives what is compared; figures that are not compared are left out then.
    pub fn is_criterion(&self) -> bool {
        self.criterion.is_some()
    }

    /// How long a run of what is compared is to take: `--seconds`, or half a second.
    fn run_seconds(&self) -> f64 {
        self.option("--seconds").unwrap_or(0.5)
    }

    /// Has the contenders do the same work in turns, each [`Bench::runs`] times after a first time that does not count,
    /// and prints a figure for each.
    pub fn compare(
        &self,
        question: &Question<'_>,
        contenders: &mut [Contender<'_>],
    ) -> Vec<Compared> {
        if let Some(criterion) = &self.criterion {
            compare_by_criterion(&mut criterion.borrow_mut(), question, contenders);
            return contenders.iter().map(|_| Compared::default()).collect();
        }
        let units: Vec<u64> = contenders
            .iter_mut()
            .map(|one| self.warm_up(question, one))
            .collect();
        self.take_turns(question, contenders, &units)
    }

    /// The same with exactly the question's units in each run, because their number is a part of the question.
    pub fn compare_exactly(
        &self,
        question: &Question<'_>,
        contenders: &mut [Contender<'_>],
    ) -> Vec<Compared> {
        if self.is_criterion() {
            return self.compare(question, contenders);
        }
        for contender in contenders.iter_mut() {
            (contender.work)(question.units);
        }
        let units = vec![question.units; contenders.len()];
        self.take_turns(question, contenders, &units)
    }

    fn take_turns(
        &self,
        question: &Question<'_>,
        contenders: &mut [Contender<'_>],
        units: &[u64],
    ) -> Vec<Compared> {
        let mut compared: Vec<Compared> = contenders.iter().map(|_| Compared::default()).collect();
        // Not always the same contender begins.
        let first = self.compared.replace(self.compared.get() + 1);
        for run in 0..self.runs() {
            for turn in 0..contenders.len() {
                let is_forward = (run + first).is_multiple_of(2);
                let place = if is_forward {
                    turn
                } else {
                    contenders.len() - 1 - turn
                };
                let (units, cost) = (units[place], (contenders[place].work)(units[place]));
                compared[place]
                    .values
                    .push(question.measure.of(units, cost));
                compared[place]
                    .cpu_ns
                    .push(cost.cpu.as_nanos() as f64 / units as f64);
            }
        }
        for (compared, contender) in compared.iter().zip(contenders) {
            let case = joined(&question.case, &contender.case);
            self.row(question.metric, contender.name, &case, &compared.values);
            if let Some((metric, scale)) = question.cpu {
                let scaled: Vec<f64> = compared.cpu_ns.iter().map(|value| value * scale).collect();
                self.row(metric, contender.name, &case, &scaled);
            }
        }
        compared
    }

    /// Has a contender work until it is warm. How many units make a run of the wanted time.
    fn warm_up(&self, question: &Question<'_>, contender: &mut Contender<'_>) -> u64 {
        let mut units = question.units;
        if self.is_tiny {
            return units;
        }
        loop {
            let took = (contender.work)(units).wall.as_secs_f64();
            if took >= self.run_seconds() / 5.0 {
                return ((units as f64 * self.run_seconds() / took) as u64).max(question.units);
            }
            units = (units as f64 * (self.run_seconds() / 3.0 / took.max(1e-4)).clamp(2.0, 50.0))
                as u64;
        }
    }

    /// Prints a row of the results: a metric of an implementation in a case, from the values of its repetitions.
    pub fn row(&self, metric: &str, implementation: &str, case: &Value, values: &[f64]) {
        let values: Vec<f64> = values
            .iter()
            .copied()
            .filter(|value| value.is_finite())
            .collect();
        if values.is_empty() {
            return;
        }
        let figure = Figure::of(&values);
        if self.is_json {
            let line = json!({
                "metric": metric,
                "impl": implementation,
                "case": case,
                "value": figure.median,
                "min": figure.min,
                "max": figure.max,
                "runs": values.len(),
                "tiny": self.is_tiny,
            });
            println!("{line}");
        } else {
            let what = format!("{metric} {}", Case(case));
            let spread = format!("{} to {}", Number(figure.min), Number(figure.max));
            let median = Number(figure.median).to_string();
            println!(
                "{:<11} {what:<58} {implementation:<15} {median:>10}   {spread}",
                self.name
            );
        }
    }

    /// Prints a figure from the values of its repetitions, and gives back the median.
    pub fn figure(&self, what: &str, unit: &str, budget: Budget, values: &[f64]) -> f64 {
        if self.is_criterion() {
            return f64::NAN;
        }
        let figure = Figure::of(values);
        let verdict = match budget.is_met(figure.median) {
            _ if self.is_tiny => "",
            None => "",
            Some(true) => "  met",
            Some(false) => "  MISSED",
        };
        if self.is_json {
            let line = json!({
                "bench": self.name,
                "what": what,
                "unit": unit,
                "median": figure.median,
                "min": figure.min,
                "max": figure.max,
                "runs": values.len(),
                "budget": budget.to_string(),
                "met": budget.is_met(figure.median),
                "tiny": self.is_tiny,
            });
            println!("{line}");
        } else {
            let spread = format!("{} to {}", Number(figure.min), Number(figure.max));
            println!(
                "{:<11} {what:<58} {:>10} {unit:<14} {spread:<22} {budget}{verdict}",
                self.name,
                Number(figure.median).to_string(),
            );
        }
        figure.median
    }

    /// A row of the results for what [`Bench::figure`] has printed for people.
    pub fn result(&self, metric: &str, case: &Value, values: &[f64]) {
        if self.is_json {
            self.row(metric, "mischief", case, values);
        }
    }

    /// Prints a remark where people read.
    pub fn note(&self, text: impl fmt::Display) {
        if !self.is_json {
            println!("{:<11} # {text}", self.name);
        }
    }
}

/// What is asked of several contenders.
#[derive(Clone, Debug)]
pub struct Question<'a> {
    /// The metric of the row in the results.
    pub metric: &'a str,
    /// The case of the row, an object.
    pub case: Value,
    /// The fewest units of work that a run does.
    pub units: u64,
    /// What is told of a run.
    pub measure: Measure,
    /// The metric of a further row for processor time, and its value for a nanosecond a unit.
    pub cpu: Option<(&'a str, f64)>,
}

/// The values of a contender.
#[derive(Clone, Debug, Default)]
pub struct Compared {
    /// Of the question's measure, one a run.
    pub values: Vec<f64>,
    /// Processor time of a unit in nanoseconds, one a run.
    pub cpu_ns: Vec<f64>,
}

/// What is told of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Measure {
    /// Units a second.
    PerSecond,
    /// Units for each second of processor time, which other work on the machine touches less.
    PerCpuSecond,
    /// Megabytes a second, with units of so many bytes.
    MegabytesPerSecond(usize),
    /// Nanoseconds on the clock for a unit.
    NanosEach,
    /// Nanoseconds of processor time for a unit.
    CpuNanosEach,
}

impl Measure {
    fn of(self, units: u64, cost: Cost) -> f64 {
        let seconds = cost.wall.as_secs_f64();
        match self {
            Measure::PerSecond => units as f64 / seconds,
            Measure::PerCpuSecond => units as f64 / cost.cpu.as_secs_f64(),
            Measure::MegabytesPerSecond(size) => units as f64 * size as f64 / seconds / 1e6,
            Measure::NanosEach => seconds * 1e9 / units as f64,
            Measure::CpuNanosEach => cost.cpu.as_secs_f64() * 1e9 / units as f64,
        }
    }
}

/// What a run took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// On the clock.
    pub wall: Duration,
    /// Of all processors, in all processes that take part.
    pub cpu: Duration,
}

impl Cost {
    /// What `work` takes in this process.
    pub fn of(work: impl FnOnce()) -> Cost {
        let watch = Stopwatch::start();
        work();
        watch.stop()
    }
}

/// Runs while something is done in this process.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch {
    cpu: Duration,
    start: Instant,
}

impl Stopwatch {
    /// Begins now.
    pub fn start() -> Stopwatch {
        Stopwatch {
            cpu: process_cpu(),
            start: Instant::now(),
        }
    }

    /// What it took until now.
    pub fn stop(self) -> Cost {
        Cost {
            wall: self.start.elapsed(),
            cpu: process_cpu() - self.cpu,
        }
    }
}

impl Cost {
    /// So many times as much.
    pub fn scaled(self, by: f64) -> Cost {
        Cost {
            wall: self.wall.mul_f64(by),
            cpu: self.cpu.mul_f64(by),
        }
    }
}

/// Who does the work of a [`Question`].
pub struct Contender<'a> {
    /// The implementation, as the results call it.
    pub name: &'a str,
    /// What sets this row apart from the others of the question, an object.
    pub case: Value,
    /// Does so many units.
    pub work: Box<dyn FnMut(u64) -> Cost + 'a>,
}

impl<'a> Contender<'a> {
    /// Does so many units of the question's case.
    pub fn new(name: &'a str, work: impl FnMut(u64) -> Cost + 'a) -> Contender<'a> {
        Contender {
            name,
            case: json!({}),
            work: Box::new(work),
        }
    }

    /// The same with more members in the case.
    pub fn with(mut self, case: Value) -> Contender<'a> {
        self.case = case;
        self
    }
}

/// Few samples, because each of them is a long run.
fn criterion() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args()
}

fn compare_by_criterion(
    criterion: &mut Criterion,
    question: &Question<'_>,
    contenders: &mut [Contender<'_>],
) {
    let mut group = criterion.benchmark_group(question.metric);
    let throughput = match question.measure {
        Measure::MegabytesPerSecond(size) => criterion::Throughput::Bytes(size as u64),
        _ => criterion::Throughput::Elements(1),
    };
    group
        .throughput(throughput)
        .sampling_mode(criterion::SamplingMode::Flat);
    for contender in contenders {
        let case = format!("{} {}", Case(&question.case), Case(&contender.case));
        let id = BenchmarkId::new(contender.name, case.trim());
        group.bench_function(id, |bencher| {
            bencher.iter_custom(|units| (contender.work)(units).wall)
        });
    }
    group.finish();
}

/// The members of two objects.
fn joined(one: &Value, other: &Value) -> Value {
    let members = |value: &Value| value.as_object().cloned().unwrap_or_default();
    Value::Object(members(one).into_iter().chain(members(other)).collect())
}

/// The members of a case, for people.
struct Case<'a>(&'a Value);

impl fmt::Display for Case<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let members = self.0.as_object().into_iter().flatten();
        let text: Vec<String> = members
            .map(|(name, value)| match value {
                Value::String(text) => format!("{name}={text}"),
                value => format!("{name}={value}"),
            })
            .collect();
        f.write_str(&text.join(" "))
    }
}

/// What several values come down to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figure {
    /// The middle value; of an even number the mean of the two in the middle.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Figure {
    /// Of at least one value.
    pub fn of(values: &[f64]) -> Figure {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = match (sorted.first(), sorted.last()) {
            (Some(min), Some(max)) => (*min, *max),
            _ => (f64::NAN, f64::NAN),
        };
        let middle = sorted.len() / 2;
        let median = match sorted.len() {
            0 => f64::NAN,
            count if count % 2 == 1 => sorted[middle],
            _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
        };
        Figure { median, min, max }
    }
}

/// The value below which `share` of the sorted values lie.
pub fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = ((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(place).copied().unwrap_or(f64::NAN)
}

/// A number with three digits that mean something.
struct Number(f64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = self.0.abs();
        let text = if size >= 100.0 {
            format!("{:.0}", self.0)
        } else if size >= 10.0 {
            format!("{:.1}", self.0)
        } else if size >= 1.0 {
            format!("{:.2}", self.0)
        } else {
            format!("{:.3}", self.0)
        };
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_value_counts() {
        let figure = Figure::of(&[5.0, 1.0, 3.0]);
        assert_eq!((figure.min, figure.median, figure.max), (1.0, 3.0, 5.0));
        assert_eq!(Figure::of(&[4.0, 1.0]).median, 2.5);
        assert_eq!(quantile(&[1.0, 2.0, 3.0, 4.0], 0.5), 3.0);
        assert_eq!(Budget::AtMost(2.0).is_met(2.0), Some(true));
        assert_eq!(Budget::AtLeast(2.0).is_met(1.9), Some(false));
    }
}
