//! What people read of the results: `RESULTS.md`, the plots, the table in the project's README. All of it follows from
//! `results.json` alone, so that a check can tell whether it is up to date.

use std::collections::BTreeSet;
use std::fmt::Write;

use serde_json::{Value, json};

use crate::orders::SHARES;
use crate::plot::{Axis, Line, draw};
use crate::results::{COMPARED, CROWDS, Results, Row, SIZES};

/// Where the README's table begins.
pub const BEGIN: &str = "<!-- figures: begin (made by benches/run) -->";
/// Where it ends.
pub const END: &str = "<!-- figures: end -->";

/// The order in which implementations are told.
const ORDER: [&str; 14] = [
    "mischief",
    "libp2p-default",
    "libp2p-tuned",
    "libp2p-full",
    "raw-tcp",
    "bound",
    "cipher-only",
    "memcpy",
    "bare-queue",
    "tokio-mpsc",
    "actix",
    "ractor",
    "kameo",
    "ring",
];

/// A table: its heading, what to know about it, its metrics and their units.
struct Section {
    heading: &'static str,
    about: &'static str,
    metrics: &'static [(&'static str, &'static str)],
}

const SECTIONS: [Section; 9] = [
    Section {
        heading: "Memory of idle encrypted peers",
        about: "A listener in one process, as many nodes with identities of their own in another, all connected and silent. \
                Bytes a peer are a slope of anonymous memory: to 100 peers from none, to 1,000 from 100, to 5,000 and 10,000 \
                from 1,000. `libp2p-default` has identify, as nearly every program on libp2p; `libp2p-tuned` has streams \
                alone, a runtime of one thread and the smallest buffers between tasks; `libp2p-full` has identify, ping and \
                gossipsub. Rows with `left` were taken after all peers had left. What the kernel holds for a \
                connection is that of both ends. Rows with `program=daemon` are of the program as users start it, with \
                every subsystem on or off.",
        metrics: &[
            ("bytes_per_idle_peer", "bytes"),
            ("rss_start_kb", "KiB"),
            ("anonymous_start_kb", "KiB"),
            ("pss_start_kb", "KiB"),
            ("rss_kb", "KiB"),
            ("anonymous_kb", "KiB"),
            ("pss_kb", "KiB"),
            ("rss_left_kb", "KiB"),
            ("anonymous_left_kb", "KiB"),
            ("pss_left_kb", "KiB"),
            ("kernel_bytes_per_connection", "bytes"),
            ("threads", "threads"),
        ],
    },
    Section {
        heading: "Quiet",
        about: "The listener with 1,000 idle peers.",
        metrics: &[
            ("wakeups_per_s", "a second"),
            ("idle_cpu_percent", "% of a core"),
        ],
    },
    Section {
        heading: "Throughput",
        about: "One connection between two processes, from the first call to the last byte received. `libp2p-default` writes \
                each message to its stream, `libp2p-tuned` through a write buffer of 64 KiB; mischief has one call, which packs \
                by itself. `raw-tcp` writes each message to a plain blocking socket, with `packed=true` through a buffer of \
                64 KiB. `bound` is what raw TCP (the faster way) and the cipher would give one after the other. Rows with \
                `each=true` write each message before the next is begun: mischief waits until the kernel has taken it, which \
                takes two changes of threads; libp2p until its connection's task has, which does not say as much. Processor \
                time is that of both ends.",
        metrics: &[
            ("throughput_mb_s", "MB/s"),
            ("messages_s", "messages/s"),
            ("cpu_s_per_gb", "core-s/GB"),
            ("cpu_ns_per_message", "ns"),
        ],
    },
    Section {
        heading: "Round trips",
        about: "64 bytes there and back, one at a time. Pinned: both processes on one processor; with `processes=1` both \
                ends are in one process, which for mischief is one thread. `libp2p-tuned` has a runtime of one thread where it \
                is pinned.",
        metrics: &[("rtt_p50_us", "us"), ("rtt_p99_us", "us")],
    },
    Section {
        heading: "Handshakes",
        about: "Connections dialled, authenticated on both sides and dropped, 16 in flight, two processes. `raw-tcp` only \
                connects and closes. Processor time is that of both ends.",
        metrics: &[
            ("handshakes_per_s", "a second"),
            ("cpu_us_per_handshake", "us"),
            ("handshake_sides_per_core_s", "a second"),
        ],
    },
    Section {
        heading: "Broadcast",
        about: "Messages of 1 KiB from one node to 50 in another process, until all have them.",
        metrics: &[
            ("broadcast_deliveries_s", "a second"),
            ("cpu_ns_per_delivery", "ns"),
        ],
    },
    Section {
        heading: "Actors",
        about: "Patterns on one thread are measured in processor time. Fan-in: 10,000 actors are told by one to send it \
                numbers. `bare-queue` is one queue of one enum and a `match`: no bounds, no supervision, nothing else. ractor's \
                mailboxes have no bound, and actix's have none for `do_send`.",
        metrics: &[
            ("actor_messages_s", "messages/s"),
            ("actor_cpu_ns_per_message", "ns"),
            ("actor_hop_ns", "ns"),
            ("actor_hop_cpu_ns", "ns"),
            ("actor_ask_ns", "ns"),
            ("actor_spawn_ns", "ns"),
            ("actor_bytes", "bytes"),
            ("timer_arm_cancel_ns", "ns"),
        ],
    },
    Section {
        heading: "Codec and cryptography",
        about: "What a connection does to bytes, beside ring alone on the same bytes.",
        metrics: &[
            ("codec_mb_s", "MB/s"),
            ("codec_ns_per_message", "ns"),
            ("crypto_mb_s", "MB/s"),
            ("crypto_ns", "ns"),
        ],
    },
    Section {
        heading: "Size and allocations",
        about: "Stripped programs; `node` is the program of these measurements. Calls of the allocator for a message, both \
                ends together, when everything is warm.",
        metrics: &[
            ("binary_kb", "KiB"),
            ("allocations_per_message", "calls"),
            ("sender_cpu_s_per_gb", "core-s/GB"),
        ],
    },
];

/// The text of `RESULTS.md`.
pub fn results_md(results: &Results) -> String {
    let mut text = String::from(
        "# Results\n\nMade by `benches/run` from `results.json`; do not edit. Each cell is a median, with the least and the \
         greatest of its runs. Contenders took turns, in an order that was turned round from run to run. How things are \
         measured, and what differs between the contenders, stands in [README.md](README.md).\n\n",
    );
    for (name, part) in [
        ("Machine", &results.machine),
        ("Versions", &results.versions),
    ] {
        let members: Vec<String> = part
            .iter()
            .map(|(name, value)| format!("{name}: {}", plain(value)))
            .collect();
        let _ = writeln!(text, "{name}: {}.\n", members.join("; "));
    }
    text.push_str("![memory over peers](plots/memory.svg)\n![throughput over message size](plots/throughput.svg)\n");
    text.push_str("![latency distribution](plots/latency.svg)\n\n## Figures to reach\n\n");
    text.push_str("| what | to reach | reached | |\n|---|---|---|---|\n");
    for goal in goals(results) {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} |",
            goal.what,
            goal.to_reach,
            goal.reached,
            goal.verdict()
        );
    }
    for section in &SECTIONS {
        write_section(&mut text, results, section);
    }
    text
}

fn write_section(text: &mut String, results: &Results, section: &Section) {
    let of_section = |row: &&Row| {
        section
            .metrics
            .iter()
            .any(|(metric, _)| *metric == row.metric)
    };
    let rows: Vec<&Row> = results.rows.iter().filter(of_section).collect();
    if rows.is_empty() {
        return;
    }
    let names: BTreeSet<&str> = rows.iter().map(|row| row.implementation.as_str()).collect();
    let columns: Vec<&str> = ORDER
        .into_iter()
        .filter(|name| names.contains(name))
        .collect();
    let _ = writeln!(text, "\n## {}\n\n{}\n", section.heading, section.about);
    let _ = writeln!(text, "| what | unit | {} | runs |", columns.join(" | "));
    let _ = writeln!(text, "|---|---|{}---|", "---|".repeat(columns.len()));
    for (metric, unit) in section.metrics {
        let mut cases: Vec<&Value> = Vec::new();
        for row in rows.iter().filter(|row| row.metric == *metric) {
            if !cases.contains(&&row.case) {
                cases.push(&row.case);
            }
        }
        for case in cases {
            let found: Vec<Option<&Row>> = columns
                .iter()
                .map(|name| results.find(metric, name, case))
                .collect();
            let cells: Vec<String> = found
                .iter()
                .map(|row| row.map_or_else(String::new, cell))
                .collect();
            let runs = found
                .iter()
                .flatten()
                .map(|row| row.runs)
                .max()
                .unwrap_or(0);
            let _ = writeln!(
                text,
                "| {metric} {} | {unit} | {} | {runs} |",
                of_case(case),
                cells.join(" | ")
            );
        }
    }
}

fn plain(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

fn of_case(case: &Value) -> String {
    let members = case.as_object().into_iter().flatten();
    let members: Vec<String> = members
        .map(|(name, value)| format!("{name}={}", plain(value)))
        .collect();
    if members.is_empty() {
        String::new()
    } else {
        format!("`{}`", members.join(" "))
    }
}

fn cell(row: &Row) -> String {
    if row.runs == 1 || row.min == row.max {
        return number(row.value);
    }
    format!(
        "{} ({}–{})",
        number(row.value),
        number(row.min),
        number(row.max)
    )
}

/// Three digits that mean something, and thousands apart.
pub fn number(value: f64) -> String {
    if value.abs() >= 1e6 {
        return format!("{} M", number(value / 1e6));
    }
    if value.abs() < 1000.0 {
        let digits = match value.abs() {
            size if size >= 100.0 => 0,
            size if size >= 10.0 => 1,
            size if size >= 1.0 || size == 0.0 => 2,
            _ => 3,
        };
        return format!("{value:.digits$}");
    }
    let whole = format!("{value:.0}");
    let (thousands, rest) = whole.split_at(whole.len() - 3);
    format!("{thousands},{rest}")
}

// ---- figures to reach

/// A figure to reach.
pub struct Goal {
    /// What.
    pub what: String,
    /// What was promised.
    pub to_reach: String,
    /// What is.
    pub reached: String,
    /// `None` if it was not measured.
    pub is_met: Option<bool>,
}

impl Goal {
    fn verdict(&self) -> &'static str {
        match self.is_met {
            Some(true) => "met",
            Some(false) => "**missed**",
            None => "not measured",
        }
    }

    fn at_most(what: impl Into<String>, unit: &str, max: f64, value: Option<f64>) -> Goal {
        Goal::new(
            what,
            format!("<= {} {unit}", number(max)),
            unit,
            value,
            |value| value <= max,
        )
    }

    fn at_least(what: impl Into<String>, unit: &str, min: f64, value: Option<f64>) -> Goal {
        Goal::new(
            what,
            format!(">= {} {unit}", number(min)),
            unit,
            value,
            |value| value >= min,
        )
    }

    fn new(
        what: impl Into<String>,
        to_reach: String,
        unit: &str,
        value: Option<f64>,
        is_met: impl Fn(f64) -> bool,
    ) -> Goal {
        let reached = value.map_or_else(String::new, |value| format!("{} {unit}", number(value)));
        Goal {
            what: what.into(),
            to_reach,
            reached,
            is_met: value.map(is_met),
        }
    }
}

/// All of them, with what was reached.
pub fn goals(results: &Results) -> Vec<Goal> {
    let mut goals = memory_goals(results);
    goals.extend(transport_goals(results));
    goals.extend(actor_goals(results));
    goals
}

fn ratio(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    Some(one? / other?)
}

fn best(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    values.flatten().reduce(f64::max)
}

fn memory_goals(results: &Results) -> Vec<Goal> {
    let crowd = json!({"peers": 10_000});
    let musl = json!({"libc": "musl", "peers": 10_000});
    let ours = |metric: &str, case: &Value| results.value(metric, "mischief", case);
    let bytes = ours("bytes_per_idle_peer", &crowd);
    let tuned = results.value("bytes_per_idle_peer", "libp2p-tuned", &crowd);
    let mib = |value: Option<f64>| value.map(|kib| kib / 1024.0);
    let quiet = json!({"peers": 1000});
    let grown = |case: &Value| {
        let at = |metric: &str, case: &Value| ours(metric, case);
        let mut start = case.clone();
        start.as_object_mut()?.remove("peers");
        let none = at("anonymous_start_kb", &start)?;
        Some(100.0 * (at("anonymous_left_kb", case)? - none) / (at("anonymous_kb", case)? - none))
    };
    vec![
        Goal::at_most("memory of an idle peer", "bytes", 512.0, bytes),
        Goal::at_most(
            "the same, static musl",
            "bytes",
            512.0,
            ours("bytes_per_idle_peer", &musl),
        ),
        Goal::at_least("libp2p-tuned's to ours", "times", 30.0, ratio(tuned, bytes)),
        Goal::at_most(
            "10,000 idle peers, resident, glibc",
            "MiB",
            8.0,
            mib(ours("rss_kb", &crowd)),
        ),
        Goal::at_most(
            "10,000 idle peers, resident, static musl",
            "MiB",
            8.0,
            mib(ours("rss_kb", &musl)),
        ),
        Goal::at_most(
            "resident at the start, glibc",
            "MiB",
            3.0,
            mib(ours("rss_start_kb", &json!({}))),
        ),
        Goal::at_most(
            "resident at the start, static musl",
            "MiB",
            1.2,
            mib(ours("rss_start_kb", &json!({"libc": "musl"}))),
        ),
        Goal::at_most(
            "processor with 1,000 idle peers",
            "%",
            0.1,
            ours("idle_cpu_percent", &quiet),
        ),
        Goal::at_most(
            "anonymous memory of 10,000 peers kept after they left, glibc",
            "%",
            50.0,
            grown(&crowd),
        ),
        Goal::at_most("the same, static musl", "%", 50.0, grown(&musl)),
    ]
}

fn transport_goals(results: &Results) -> Vec<Goal> {
    let mut goals = Vec::new();
    let rivals = &COMPARED[1..];
    for size in SIZES {
        let case = json!({"size": size});
        let at = |name: &str| results.value("throughput_mb_s", name, &case);
        let ours = at("mischief");
        let rival = best(rivals.iter().map(|name| at(name)));
        let least = if size == 64 << 10 { 1.5 } else { 1.0 };
        let what = format!("throughput to the better libp2p, {}", bytes_name(size));
        goals.push(Goal::at_least(what, "times", least, ratio(ours, rival)));
        let share = ratio(ours, at("bound")).map(|share| 100.0 * share);
        goals.push(Goal::at_least(
            format!("of the bound, {}", bytes_name(size)),
            "%",
            90.0,
            share,
        ));
    }
    let pinned = json!({"pinned": true});
    let alone = json!({"pinned": true, "processes": 1});
    for (what, case) in [
        ("two processes on one processor", pinned),
        ("both ends on one core", alone),
    ] {
        let at = |name: &str| results.value("rtt_p50_us", name, &case);
        let over = at("mischief")
            .zip(at("raw-tcp"))
            .map(|(ours, raw)| ours - raw);
        goals.push(Goal::at_most(
            format!("round trip beyond raw TCP, {what}"),
            "us",
            3.0,
            over,
        ));
        let rival = rivals.iter().filter_map(|name| at(name)).reduce(f64::min);
        let share = ratio(at("mischief"), rival);
        goals.push(Goal::at_most(
            format!("round trip to libp2p's, {what}"),
            "times",
            0.6,
            share,
        ));
    }
    let case = json!({"in_flight": 16});
    let at = |name: &str| results.value("handshakes_per_s", name, &case);
    let rival = best(rivals.iter().map(|name| at(name)));
    goals.push(Goal::at_least(
        "handshakes to the better libp2p",
        "times",
        1.0,
        ratio(at("mischief"), rival),
    ));
    goals
}

fn actor_goals(results: &Results) -> Vec<Goal> {
    let mut goals = Vec::new();
    for (what, case) in [
        ("to and fro", json!({"pattern": "to-and-fro", "pairs": 1})),
        ("64 pairs", json!({"pattern": "to-and-fro", "pairs": 64})),
        ("fan-in", json!({"pattern": "fan-in", "actors": 10_000})),
    ] {
        let at = |name: &str| results.value("actor_messages_s", name, &case);
        let to_tokio = ratio(at("mischief"), at("tokio-mpsc"));
        goals.push(Goal::at_least(
            format!("local messages to tokio's channels, {what}"),
            "times",
            5.0,
            to_tokio,
        ));
        if at("bare-queue").is_some() {
            let to_bare = ratio(at("mischief"), at("bare-queue"));
            goals.push(Goal::at_least(
                format!("local messages to a bare queue, {what}"),
                "times",
                0.7,
                to_bare,
            ));
        }
    }
    let at = |name: &str| results.value("actor_spawn_ns", name, &json!({}));
    let rivals = ["tokio-mpsc", "actix", "ractor", "kameo"];
    let rival = rivals.iter().filter_map(|name| at(name)).reduce(f64::min);
    goals.push(Goal::at_least(
        "spawn of the best of the four to ours",
        "times",
        8.0,
        ratio(rival, at("mischief")),
    ));
    goals
}

fn bytes_name(size: u64) -> String {
    match size {
        size if size >= 1 << 20 => format!("{} MiB", size >> 20),
        size if size >= 1 << 10 => format!("{} KiB", size >> 10),
        size => format!("{size} B"),
    }
}

// ---- plots

/// The plots: the name of the file, and its text.
pub fn plots(results: &Results) -> Vec<(&'static str, String)> {
    vec![
        ("memory.svg", memory_plot(results)),
        ("throughput.svg", throughput_plot(results)),
        ("latency.svg", latency_plot(results)),
    ]
}

fn marks(values: &[(f64, &str)]) -> Vec<(f64, String)> {
    values
        .iter()
        .map(|(value, name)| (*value, (*name).to_owned()))
        .collect()
}

fn memory_plot(results: &Results) -> String {
    let musl = |case: &mut Value| case["libc"] = "musl".into();
    let line = |label: &str, name: &str, change: &dyn Fn(&mut Value)| {
        let mut points = Vec::new();
        for peers in CROWDS {
            let mut case = json!({"peers": peers});
            change(&mut case);
            points.extend(
                results
                    .value("rss_kb", name, &case)
                    .map(|kib| (peers as f64, kib / 1024.0)),
            );
        }
        Line {
            name: label.to_owned(),
            points,
            is_dashed: false,
        }
    };
    let lines = [
        line("mischief", "mischief", &|_| ()),
        line("libp2p default", "libp2p-default", &|_| ()),
        line("libp2p tuned", "libp2p-tuned", &|_| ()),
        line("libp2p, all on", "libp2p-full", &|_| ()),
        line("mischief, static", "mischief", &musl),
    ];
    let x = Axis {
        title: "idle encrypted peers",
        marks: marks(&[
            (100.0, "100"),
            (1000.0, "1,000"),
            (5000.0, "5,000"),
            (10_000.0, "10,000"),
        ]),
        is_logarithmic: true,
    };
    let y = Axis {
        title: "resident memory, MiB",
        marks: marks(&[
            (1.0, "1"),
            (3.0, "3"),
            (10.0, "10"),
            (30.0, "30"),
            (100.0, "100"),
            (300.0, "300"),
            (1000.0, "1,000"),
        ]),
        is_logarithmic: true,
    };
    draw(
        "Resident memory of a node over its idle encrypted peers",
        &x,
        &y,
        &lines,
    )
}

fn throughput_plot(results: &Results) -> String {
    let line = |label: &str, name: &str, is_dashed: bool| {
        let at = |size: u64| {
            let value = results.value("throughput_mb_s", name, &json!({"size": size}))?;
            Some((size as f64, value))
        };
        Line {
            name: label.to_owned(),
            points: SIZES.into_iter().filter_map(at).collect(),
            is_dashed,
        }
    };
    let lines = [
        line("mischief", "mischief", false),
        line("libp2p default", "libp2p-default", false),
        line("libp2p tuned", "libp2p-tuned", false),
        line("raw TCP", "raw-tcp", true),
        line("TCP and cipher", "bound", true),
    ];
    let x = Axis {
        title: "size of a message",
        marks: SIZES
            .into_iter()
            .map(|size| (size as f64, bytes_name(size)))
            .collect(),
        is_logarithmic: true,
    };
    let y = Axis {
        title: "MB/s",
        marks: marks(&[
            (10.0, "10"),
            (30.0, "30"),
            (100.0, "100"),
            (300.0, "300"),
            (1000.0, "1,000"),
            (5000.0, "5,000"),
        ]),
        is_logarithmic: true,
    };
    draw(
        "Throughput of one encrypted connection over the size of messages",
        &x,
        &y,
        &lines,
    )
}

fn latency_plot(results: &Results) -> String {
    let line = |label: &str, name: &str, is_dashed: bool| {
        let at = |share: &f64| {
            let case = json!({"pinned": true, "share": share});
            let value = results.value("rtt_quantile_us", name, &case)?;
            Some((1.0 / (1.0 - share), value))
        };
        Line {
            name: label.to_owned(),
            points: SHARES.iter().filter_map(at).collect(),
            is_dashed,
        }
    };
    let lines = [
        line("mischief", "mischief", false),
        line("libp2p default", "libp2p-default", false),
        line("libp2p tuned", "libp2p-tuned", false),
        line("raw TCP", "raw-tcp", true),
    ];
    let x = Axis {
        title: "share of round trips that are faster",
        marks: marks(&[
            (1.0, "0"),
            (2.0, "50 %"),
            (10.0, "90 %"),
            (100.0, "99 %"),
            (1000.0, "99.9 %"),
            (10_000.0, "99.99 %"),
        ]),
        is_logarithmic: true,
    };
    let y = Axis {
        title: "us",
        marks: marks(&[
            (3.0, "3"),
            (10.0, "10"),
            (30.0, "30"),
            (100.0, "100"),
            (300.0, "300"),
            (1000.0, "1,000"),
            (10_000.0, "10,000"),
        ]),
        is_logarithmic: true,
    };
    draw(
        "Round trip of 64 bytes, two processes on one processor",
        &x,
        &y,
        &lines,
    )
}

// ---- the README's table

/// What stands between [`BEGIN`] and [`END`] in the project's README.
pub fn readme_table(results: &Results) -> String {
    let machine = |name: &str| results.machine.get(name).map(plain).unwrap_or_default();
    let mut text = format!(
        "Medians on {} ({} processors, {}), side by side in one run; `libp2p` is rust-libp2p {} with TCP, Noise and \
         Yamux. Spreads, processor time and everything else: [benches/RESULTS.md](benches/RESULTS.md).\n\n",
        machine("processor"),
        machine("processors"),
        machine("system"),
        results
            .versions
            .get("libp2p")
            .map(plain)
            .unwrap_or_default(),
    );
    text.push_str(
        "| what | mischief | libp2p, defaults | libp2p, tuned | raw TCP |\n|---|---|---|---|---|\n",
    );
    let names = ["mischief", "libp2p-default", "libp2p-tuned", "raw-tcp"];
    let mut line = |what: &str, metric: &str, case: Value, scale: f64, unit: &str| {
        let value = |name: &&str| {
            let value = results.value(metric, name, &case);
            value.map_or_else(String::new, |value| {
                format!("{} {unit}", number(value * scale))
            })
        };
        let cells: Vec<String> = names.iter().map(value).collect();
        let _ = writeln!(text, "| {what} | {} |", cells.join(" | "));
    };
    line(
        "memory of an idle encrypted peer",
        "bytes_per_idle_peer",
        json!({"peers": 10_000}),
        1.0,
        "B",
    );
    line(
        "10,000 idle encrypted peers, resident",
        "rss_kb",
        json!({"peers": 10_000}),
        1.0 / 1024.0,
        "MiB",
    );
    line(
        "a listening node, resident",
        "rss_start_kb",
        json!({}),
        1.0 / 1024.0,
        "MiB",
    );
    for size in SIZES {
        let what = format!("throughput, messages of {}", bytes_name(size));
        line(&what, "throughput_mb_s", json!({"size": size}), 1.0, "MB/s");
    }
    line(
        "messages of 64 B",
        "messages_s",
        json!({"size": 64}),
        1e-6,
        "M/s",
    );
    line(
        "processor time, messages of 64 KiB, both ends",
        "cpu_s_per_gb",
        json!({"size": 64 << 10}),
        1.0,
        "core-s/GB",
    );
    line(
        "round trip, one processor, p50",
        "rtt_p50_us",
        json!({"pinned": true}),
        1.0,
        "µs",
    );
    line(
        "round trip, one processor, p99",
        "rtt_p99_us",
        json!({"pinned": true}),
        1.0,
        "µs",
    );
    line(
        "handshakes, 16 in flight",
        "handshakes_per_s",
        json!({"in_flight": 16}),
        1.0,
        "/s",
    );
    line(
        "broadcast of 1 KiB to 50 peers",
        "broadcast_deliveries_s",
        json!({"peers": 50, "size": 1024}),
        1e-3,
        "k/s",
    );
    text.push_str("\n| actors | mischief | tokio mpsc | actix | ractor | kameo |\n|---|---|---|---|---|---|\n");
    let names = ["mischief", "tokio-mpsc", "actix", "ractor", "kameo"];
    let mut line = |what: &str, metric: &str, case: Value, scale: f64, unit: &str| {
        let value = |name: &&str| {
            let value = results.value(metric, name, &case);
            value.map_or_else(String::new, |value| {
                format!("{} {unit}", number(value * scale))
            })
        };
        let cells: Vec<String> = names.iter().map(value).collect();
        let _ = writeln!(text, "| {what} | {} |", cells.join(" | "));
    };
    let pattern = |name: &str, key: &str, count: u64| {
        let mut case = json!({"pattern": name});
        case[key] = count.into();
        case
    };
    line(
        "to and fro on one core",
        "actor_messages_s",
        pattern("to-and-fro", "pairs", 1),
        1e-6,
        "M/s",
    );
    line(
        "fan-in from 10,000",
        "actor_messages_s",
        pattern("fan-in", "actors", 10_000),
        1e-6,
        "M/s",
    );
    line(
        "from thread to thread",
        "actor_messages_s",
        pattern("one-way", "threads", 2),
        1e-6,
        "M/s",
    );
    line("spawn and start", "actor_spawn_ns", json!({}), 1.0, "ns");
    line(
        "timer armed and cancelled, 100,000 at once",
        "timer_arm_cancel_ns",
        json!({"timers": 100_000}),
        1.0,
        "ns",
    );
    text.push_str("\n![memory over peers](benches/plots/memory.svg)\n");
    text.push_str("![throughput over message size](benches/plots/throughput.svg)\n");
    text
}

/// The README with its table replaced, or `None` if it has no place for one.
pub fn with_table(readme: &str, table: &str) -> Option<String> {
    let (before, rest) = readme.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{table}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        assert_eq!(number(0.1234), "0.123");
        assert_eq!(number(12.34), "12.3");
        assert_eq!(number(34_537.0), "34,537");
        assert_eq!(number(6_422_448.0), "6.42 M");
    }

    #[test]
    fn the_table_stands_between_its_marks() {
        let readme = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let again = with_table(&readme, "new\n").expect("it has marks");
        assert_eq!(again, format!("before\n{BEGIN}\nnew\n{END}\nafter\n"));
        assert_eq!(with_table(&again, "new\n"), Some(again.clone()));
        assert_eq!(with_table("no marks", "new\n"), None);
    }

    #[test]
    fn a_goal_that_was_not_measured_is_neither_met_nor_missed() {
        let goals = goals(&Results::default());
        assert!(goals.iter().all(|goal| goal.is_met.is_none()));
    }
}
