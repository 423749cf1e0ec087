//! How much memory does a node cost, alone and with each idle encrypted peer, beside rust-libp2p? And how quiet is it?
//!
//! One process listens, another is the crowd: up to 10,000 nodes, each with an identity of its own, that connect and then
//! say nothing. What is told is what the system sees of the listener, which has the system's allocator. What the kernel holds
//! for the sockets is told apart, for both ends together.
//!
//! - `bytes_per_idle_peer` is a slope of anonymous memory: to 100 peers from none, to 1,000 from 100, to 5,000 and 10,000
//!   from 1,000.
//! - `rss_left_kb` and the like: when all peers have left.
//! - `wakeups_per_s` and `idle_cpu_percent`: over 30 seconds in which nothing is sent.
//! - Rows with a `program` are of the daemon as users start it.
//!
//! Parts, for `--part`: `crowd`, `idle`, `daemon`.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use mischief_benches::harness::Bench;
use mischief_benches::other::Other;
use mischief_benches::product;
use mischief_benches::session::{Kind, Session, Setup};
use mischief_benches::system::{Memory, activity_of, kernel_sockets, memory_of, raise_open_files};
use serde_json::{Value, json};

/// Longer than connections keep buffers that they do not use, with the slack of their timers.
const SETTLED: Duration = Duration::from_secs(4);

/// The crowd whose quiet is measured.
const IDLE_PEERS: usize = 1000;

const KINDS: [Kind; 5] = [
    Kind::Mischief,
    Kind::Libp2pDefault,
    Kind::Libp2pTuned,
    Kind::MischiefMusl,
    Kind::Libp2pFull,
];

fn main() {
    let bench = Bench::new("memory");
    raise_open_files();
    let kinds: Vec<Kind> = KINDS.into_iter().filter(|kind| kind.is_built()).collect();
    for kind in KINDS.iter().filter(|kind| !kind.is_built()) {
        let program = kind.program();
        bench.note(format!(
            "{} is missing: cargo build --release --workspace",
            program.display()
        ));
    }
    if bench.wants("crowd") {
        crowds(&bench, &kinds);
    }
    if bench.wants("idle") {
        quiet(&bench, &kinds);
    }
    if bench.wants("daemon") {
        for path in product::binaries() {
            daemon(&bench, &path);
        }
    }
}

/// Tuned for memory is a runtime of one thread for libp2p, and for mischief what its daemon sets.
fn setup_of(kind: Kind) -> Setup {
    Setup {
        threads: usize::from(kind == Kind::Libp2pTuned),
        is_lean: true,
        ..Setup::default()
    }
}

/// What sets a kind apart from the others of its name.
fn case_of(kind: Kind) -> Value {
    if kind == Kind::MischiefMusl {
        json!({"libc": "musl"})
    } else {
        json!({})
    }
}

fn with(case: &Value, name: &str, value: usize) -> Value {
    let mut case = case.clone();
    case[name] = value.into();
    case
}

// ---- crowds

/// What was seen at one moment.
#[derive(Clone, Copy)]
struct Sight {
    memory: Memory,
    kernel: u64,
    threads: u64,
}

impl Sight {
    fn of(pid: u32) -> Sight {
        let pid = pid.to_string();
        Sight {
            memory: memory_of(&pid).expect("it lives, and this is Linux"),
            kernel: kernel_sockets(),
            threads: activity_of(&pid)
                .expect("it lives, and this is Linux")
                .threads,
        }
    }
}

/// What was seen once: with no peers, with each crowd, and after they had left.
struct Run {
    start: Sight,
    at: Vec<Sight>,
    left: Sight,
}

fn crowds(bench: &Bench, kinds: &[Kind]) {
    let crowds: &[usize] = bench.size(&[100, 1000, 5000, 10_000], &[5, 10]);
    let settled = bench.size(SETTLED, Duration::from_millis(100));
    let mut runs: Vec<Vec<Run>> = kinds.iter().map(|_| Vec::new()).collect();
    for run in 0..bench.runs().min(3) {
        for turn in 0..kinds.len() {
            let place = if run.is_multiple_of(2) {
                turn
            } else {
                kinds.len() - 1 - turn
            };
            // Variants tell enough with two runs.
            let is_variant = matches!(kinds[place], Kind::MischiefMusl | Kind::Libp2pFull);
            if !(is_variant && run >= 2) {
                runs[place].push(Run::new(kinds[place], crowds, settled));
            }
        }
    }
    for (kind, runs) in kinds.iter().zip(&runs) {
        report(bench, *kind, crowds, runs);
    }
}

impl Run {
    fn new(kind: Kind, crowds: &[usize], settled: Duration) -> Run {
        let mut session = Session::start(kind, setup_of(kind));
        std::thread::sleep(settled);
        let start = Sight::of(session.listener_id());
        let mut at = Vec::new();
        for peers in crowds {
            session.connect(*peers);
            std::thread::sleep(settled);
            assert_eq!(session.peers(), *peers, "somebody left");
            at.push(Sight::of(session.listener_id()));
        }
        let mut listener = session.leave();
        let deadline = Instant::now() + Duration::from_secs(60);
        while listener.ask("peers") != "0" {
            assert!(
                Instant::now() < deadline,
                "the listener keeps peers that have left"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(settled);
        Run {
            start,
            at,
            left: Sight::of(listener.id()),
        }
    }

    /// Anonymous bytes that each peer of a crowd took.
    fn slope(&self, crowds: &[usize], place: usize) -> f64 {
        let anonymous = |sight: &Sight| sight.memory.anonymous as f64;
        // From a tenth of the crowd or less; the least crowd from nobody.
        let before = (0..place)
            .rev()
            .find(|before| crowds[*before] * 5 <= crowds[place]);
        let (peers, from) = match before {
            Some(before) => (crowds[before], anonymous(&self.at[before])),
            None => (0, anonymous(&self.start)),
        };
        (anonymous(&self.at[place]) - from) / (crowds[place] - peers) as f64
    }
}

fn report(bench: &Bench, kind: Kind, crowds: &[usize], runs: &[Run]) {
    let case = case_of(kind);
    let row = |metric: &str, case: &Value, value: &dyn Fn(&Run) -> f64| {
        let values: Vec<f64> = runs.iter().map(value).collect();
        bench.row(metric, kind.name(), case, &values);
    };
    let kib = |bytes: u64| bytes as f64 / 1024.0;
    row("rss_start_kb", &case, &|run| kib(run.start.memory.resident));
    row("anonymous_start_kb", &case, &|run| {
        kib(run.start.memory.anonymous)
    });
    row("pss_start_kb", &case, &|run| {
        kib(run.start.memory.proportional)
    });
    row("threads", &case, &|run| run.at[0].threads as f64);
    for (place, peers) in crowds.iter().enumerate() {
        let case = with(&case, "peers", *peers);
        row("rss_kb", &case, &|run| kib(run.at[place].memory.resident));
        row("anonymous_kb", &case, &|run| {
            kib(run.at[place].memory.anonymous)
        });
        row("pss_kb", &case, &|run| {
            kib(run.at[place].memory.proportional)
        });
        row("bytes_per_idle_peer", &case, &|run| {
            run.slope(crowds, place)
        });
    }
    let last = crowds.len() - 1;
    let case = with(&case, "peers", crowds[last]);
    row("rss_left_kb", &case, &|run| kib(run.left.memory.resident));
    row("anonymous_left_kb", &case, &|run| {
        kib(run.left.memory.anonymous)
    });
    row("pss_left_kb", &case, &|run| {
        kib(run.left.memory.proportional)
    });
    row("kernel_bytes_per_connection", &case, &|run| {
        run.at[last].kernel.saturating_sub(run.start.kernel) as f64 / crowds[last] as f64
    });
}

// ---- quiet

/// All of them at the same time: what each does is counted by itself, and they do next to nothing.
fn quiet(bench: &Bench, kinds: &[Kind]) {
    let peers = bench.size(IDLE_PEERS, 5);
    let seconds = bench.option("--idle-seconds").unwrap_or(30);
    let time = Duration::from_millis(bench.size(1000 * seconds, 100));
    let start = |kind: &Kind| Session::connected(*kind, setup_of(*kind), peers);
    let sessions: Vec<Session> = kinds.iter().map(start).collect();
    std::thread::sleep(bench.size(SETTLED, Duration::from_millis(100)));
    let look = |session: &Session| {
        let activity = activity_of(&session.listener_id().to_string());
        activity.expect("it lives, and this is Linux")
    };
    let (before, begin): (Vec<_>, _) = (sessions.iter().map(look).collect(), Instant::now());
    std::thread::sleep(time);
    let (after, took): (Vec<_>, _) = (sessions.iter().map(look).collect(), begin.elapsed());
    for ((kind, before), after) in kinds.iter().zip(before).zip(after) {
        let case = with(&case_of(*kind), "peers", peers);
        // A thread that has ended meanwhile takes its counts with it.
        let wakeups = after.wakeups.saturating_sub(before.wakeups) as f64 / took.as_secs_f64();
        let cpu = after.cpu.saturating_sub(before.cpu).as_secs_f64() / took.as_secs_f64();
        bench.row("wakeups_per_s", kind.name(), &case, &[wakeups]);
        bench.row("idle_cpu_percent", kind.name(), &case, &[100.0 * cpu]);
    }
}

// ---- the daemon

/// Starts the program as users do, with everything that it has and with as little as possible, and looks at it when it
/// is ready and has been quiet for a while.
fn daemon(bench: &Bench, path: &Path) {
    for (subsystems, flags) in [("none", &["--no-mdns", "--no-dht"][..]), ("all", &[][..])] {
        let mut memory = Vec::new();
        for _ in 0..bench.runs() {
            let mut command = Command::new(path);
            command
                .args([
                    "node",
                    "--ephemeral",
                    "--listen",
                    "127.0.0.1:0",
                    "--json",
                    "--exit-on-eof",
                ])
                .args(flags);
            let mut node = Other::spawn(&mut command);
            if !node.line().contains("ready") {
                return bench.note(format!("{} does not start a node", path.display()));
            }
            std::thread::sleep(Duration::from_millis(bench.size(1000, 50)));
            memory.push(memory_of(&node.id().to_string()).expect("this is Linux"));
        }
        let mut case = json!({"program": "daemon", "subsystems": subsystems});
        if product::is_static(path) {
            case["libc"] = "musl".into();
        }
        let row = |metric: &str, of: fn(&Memory) -> u64| {
            let values: Vec<f64> = memory
                .iter()
                .map(|memory| of(memory) as f64 / 1024.0)
                .collect();
            bench.row(metric, "mischief", &case, &values);
        };
        row("rss_start_kb", |memory| memory.resident);
        row("anonymous_start_kb", |memory| memory.anonymous);
        row("pss_start_kb", |memory| memory.proportional);
    }
}
