//! The results of a run as `results.json` holds them: rows, and what has to be among them.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

/// The members of a row, and no others.
const MEMBERS: [&str; 7] = ["metric", "impl", "case", "value", "min", "max", "runs"];

/// The implementations that are compared in every row that can have them.
pub const COMPARED: [&str; 3] = ["mischief", "libp2p-default", "libp2p-tuned"];

/// The crowds whose memory is told.
pub const CROWDS: [u64; 4] = [100, 1000, 5000, 10_000];

/// The sizes of messages whose throughput is told.
pub const SIZES: [u64; 4] = [64, 1 << 10, 64 << 10, 1 << 20];

/// One figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// What is told.
    pub metric: String,
    /// Of whom.
    pub implementation: String,
    /// Under which circumstances, an object.
    pub case: Value,
    /// The median.
    pub value: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
    /// Of how many runs.
    pub runs: u64,
}

impl Row {
    /// Reads a row as a program prints it or as `results.json` holds it; `None` for anything else.
    pub fn read(value: &Value) -> Option<Row> {
        Some(Row {
            metric: value["metric"].as_str()?.to_owned(),
            implementation: value["impl"].as_str()?.to_owned(),
            case: value["case"]
                .as_object()
                .map(|case| Value::Object(case.clone()))?,
            value: value["value"].as_f64()?,
            min: value["min"].as_f64()?,
            max: value["max"].as_f64()?,
            runs: value["runs"].as_u64()?,
        })
    }

    fn to_json(&self) -> Value {
        // Five digits are more than any of these figures is worth.
        let short =
            |value: f64| -> f64 { format!("{value:.4e}").parse().expect("it was a number") };
        json!({
            "metric": self.metric,
            "impl": self.implementation,
            "case": self.case,
            "value": short(self.value),
            "min": short(self.min),
            "max": short(self.max),
            "runs": self.runs,
        })
    }
}

/// All of a run.
#[derive(Clone, Debug, Default)]
pub struct Results {
    /// Where it ran.
    pub machine: Map<String, Value>,
    /// What was measured.
    pub versions: Map<String, Value>,
    /// The figures.
    pub rows: Vec<Row>,
}

impl Results {
    /// Reads `results.json`, or says what is wrong with its shape.
    pub fn read(text: &str) -> Result<Results, String> {
        let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let object = value.as_object().ok_or("it is no object")?;
        let names: BTreeSet<&str> = object.keys().map(String::as_str).collect();
        if names != BTreeSet::from(["machine", "versions", "results"]) {
            return Err(format!("its members are {names:?}"));
        }
        let part = |name: &str| {
            value[name]
                .as_object()
                .cloned()
                .ok_or(format!("{name} is no object"))
        };
        let rows = value["results"].as_array().ok_or("results is no list")?;
        let rows = rows.iter().map(read_exactly).collect::<Result<_, _>>()?;
        Ok(Results {
            machine: part("machine")?,
            versions: part("versions")?,
            rows,
        })
    }

    /// As text for `results.json`: a line for each row, so that two runs can be compared line by line.
    pub fn to_text(&self) -> String {
        let rows: Vec<String> = self
            .rows
            .iter()
            .map(|row| row.to_json().to_string())
            .collect();
        let machine = Value::Object(self.machine.clone());
        let versions = Value::Object(self.versions.clone());
        let rows = rows.join(",\n");
        format!("{{\"machine\":{machine},\n\"versions\":{versions},\n\"results\":[\n{rows}\n]}}\n")
    }

    /// The row with exactly this case.
    pub fn find(&self, metric: &str, implementation: &str, case: &Value) -> Option<&Row> {
        let is_it = |row: &&Row| {
            row.metric == metric && row.implementation == implementation && row.case == *case
        };
        self.rows.iter().find(is_it)
    }

    /// The median of the row with exactly this case.
    pub fn value(&self, metric: &str, implementation: &str, case: &Value) -> Option<f64> {
        self.find(metric, implementation, case).map(|row| row.value)
    }

    /// What is missing or wrong, a line each.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut seen = BTreeSet::new();
        for row in &self.rows {
            let name = format!("{} {} {}", row.metric, row.implementation, row.case);
            if !(row.min <= row.value && row.value <= row.max && row.runs > 0) {
                faults.push(format!(
                    "{name}: {} is not between {} and {}",
                    row.value, row.min, row.max
                ));
            }
            if !seen.insert(name.clone()) {
                faults.push(format!("{name}: is there twice"));
            }
        }
        for (metric, implementation, case) in demanded() {
            if self.find(metric, implementation, &case).is_none() {
                faults.push(format!("{metric} {implementation} {case}: is missing"));
            }
        }
        faults
    }
}

fn read_exactly(value: &Value) -> Result<Row, String> {
    let names: BTreeSet<&str> = value
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, _)| name.as_str())
        .collect();
    if names != BTreeSet::from(MEMBERS) {
        return Err(format!("the members of {value} are not those of a row"));
    }
    Row::read(value).ok_or(format!("{value} has a member of another kind"))
}

/// Every row that has to be there: metric, implementation, case.
fn demanded() -> Vec<(&'static str, &'static str, Value)> {
    let mut rows = Vec::new();
    for name in COMPARED {
        rows.push(("rss_start_kb", name, json!({})));
        rows.push(("handshakes_per_s", name, json!({"in_flight": 16})));
        for peers in CROWDS {
            rows.push(("bytes_per_idle_peer", name, json!({"peers": peers})));
        }
    }
    for name in COMPARED.into_iter().chain(["raw-tcp"]) {
        for size in SIZES {
            rows.push(("throughput_mb_s", name, json!({"size": size})));
            rows.push(("messages_s", name, json!({"size": size})));
        }
        for is_pinned in [true, false] {
            rows.push(("rtt_p50_us", name, json!({"pinned": is_pinned})));
            rows.push(("rtt_p99_us", name, json!({"pinned": is_pinned})));
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete() -> Results {
        let row = |(metric, implementation, case): (&str, &str, Value)| Row {
            metric: metric.to_owned(),
            implementation: implementation.to_owned(),
            case,
            value: 2.0,
            min: 1.0,
            max: 3.0,
            runs: 5,
        };
        Results {
            rows: demanded().into_iter().map(row).collect(),
            ..Results::default()
        }
    }

    #[test]
    fn what_is_written_is_read_again_without_faults() {
        let results = complete();
        let again = Results::read(&results.to_text()).expect("it has the right shape");
        assert_eq!(again.rows, results.rows);
        assert_eq!(again.faults(), Vec::<String>::new());
    }

    #[test]
    fn a_row_that_is_missing_or_has_another_case_is_a_fault() {
        let mut results = complete();
        results.rows[0].case = json!({"libc": "musl"});
        let faults = results.faults();
        assert_eq!(faults, ["rss_start_kb mischief {}: is missing"]);
    }

    #[test]
    fn a_row_that_is_there_twice_or_beyond_its_bounds_is_a_fault() {
        let mut results = complete();
        results.rows.push(results.rows[0].clone());
        results.rows[1].value = 4.0;
        assert_eq!(results.faults().len(), 2);
    }

    #[test]
    fn other_members_are_refused() {
        let text = complete()
            .to_text()
            .replacen("\"runs\":5", "\"runs\":5,\"unit\":\"s\"", 1);
        assert!(Results::read(&text).is_err());
        assert!(Results::read("{\"results\":[]}").is_err());
    }
}
