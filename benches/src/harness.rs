//! Runs a measurement several times and prints its figures: the median, the spread, and what the budget allows.
//!
//! Every program under `benches/` takes the same arguments: `--json` prints one JSON object a line, `--runs N` repeats
//! each measurement so often. `MISCHIEF_BENCH_TINY=1` makes all sizes so small that a run only shows that it works.

use std::fmt;
use std::str::FromStr;

use serde_json::json;

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
#[derive(Debug)]
pub struct Bench {
    name: &'static str,
    args: Vec<String>,
    is_json: bool,
    is_tiny: bool,
}

impl Bench {
    /// Reads the arguments of this process.
    pub fn new(name: &'static str) -> Bench {
        let args: Vec<String> = std::env::args().skip(1).collect();
        Bench {
            name,
            is_json: args.iter().any(|arg| arg == "--json"),
            is_tiny: std::env::var_os("MISCHIEF_BENCH_TINY").is_some_and(|value| value != "0"),
            args,
        }
    }

    /// Whether only to show that it works.
    pub fn is_tiny(&self) -> bool {
        self.is_tiny
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

    /// Prints a figure from the values of its repetitions, and gives back the median.
    pub fn figure(&self, what: &str, unit: &str, budget: Budget, values: &[f64]) -> f64 {
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

    /// Prints a remark where people read.
    pub fn note(&self, text: impl fmt::Display) {
        if !self.is_json {
            println!("{:<11} # {text}", self.name);
        }
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
