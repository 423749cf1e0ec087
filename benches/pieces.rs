//! Of which pieces is the memory of an idle encrypted peer made?
//!
//! One process listens, another is the crowd: 10,000 nodes on one runtime, each with an identity of its own, that connect
//! and then say nothing. The listener tells its resident and anonymous memory as the system sees it, and what it holds of
//! the allocator, piece by piece. The slope between two crowds is what one peer costs; what the kernel holds for its socket
//! is not counted. `memory` tells the same of programs with the system's own allocator, beside libp2p.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mischief::{Limits, Node};
use mischief_benches::harness::{Bench, Budget};
use mischief_benches::other::Other;
use mischief_benches::system::{memory_of, raise_open_files};
use mischief_reactor::Runtime;
use serde_json::{Value, json};

#[expect(dead_code, reason = "other programs ask it for more")]
mod counting_allocator;

#[global_allocator]
static ALLOCATOR: counting_allocator::Counting = counting_allocator::Counting;

const LONG: Duration = Duration::from_secs(60);

/// Longer than connections keep buffers that they do not use, with the slack of their timers.
const SETTLED: Duration = Duration::from_secs(4);

/// As many handshakes at a time as the listener allows.
const AT_ONCE: usize = 48;

const MIB: f64 = (1 << 20) as f64;

fn main() {
    let bench = Bench::new("pieces");
    raise_open_files();
    match bench.option::<String>("--child").as_deref() {
        Some("listener") => return listen(),
        Some("crowd") => return crowd(&bench.option::<String>("--addr").expect("it was given")),
        _ => {}
    }
    let crowds: &[usize] = bench.size(&[1000, 5000, 10_000], &[20, 50]);
    let runs: Vec<Run> = (0..bench.runs().min(3)).map(|_| Run::new(crowds)).collect();
    report(&bench, crowds, &runs);
}

fn report(bench: &Bench, crowds: &[usize], runs: &[Run]) {
    let figure = |what: &str, unit: &str, budget: Budget, value: &dyn Fn(&Run) -> f64| {
        let values: Vec<f64> = runs.iter().map(value).collect();
        bench.figure(what, unit, budget, &values);
    };
    figure(
        "listener in this program, no peers, resident",
        "MiB",
        Budget::None,
        &|run| run.at[0]["resident"] / MIB,
    );
    figure(
        "listener in this program, no peers, anonymous",
        "MiB",
        Budget::None,
        &|run| run.at[0]["anonymous"] / MIB,
    );
    for (place, peers) in crowds.iter().enumerate() {
        let budget = if *peers == 10_000 {
            Budget::AtMost(8.0)
        } else {
            Budget::None
        };
        let of = |key: &'static str| move |run: &Run| run.at[place + 1][key] / MIB;
        figure(
            &format!("{peers} peers, resident"),
            "MiB",
            budget,
            &of("resident"),
        );
        figure(
            &format!("{peers} peers, anonymous"),
            "MiB",
            Budget::None,
            &of("anonymous"),
        );
        figure(
            &format!("{peers} peers, held of the allocator"),
            "MiB",
            Budget::None,
            &of("held"),
        );
    }
    figure(
        "after all have left, resident",
        "MiB",
        Budget::None,
        &|run| run.left["resident"] / MIB,
    );
    figure(
        "after all have left, held of the allocator",
        "MiB",
        Budget::None,
        &|run| run.left["held"] / MIB,
    );
    let last = crowds.len();
    let per_peer = |key: &'static str, from: usize| {
        let before = if from == 0 { 0 } else { crowds[from - 1] };
        let peers = (crowds[last - 1] - before) as f64;
        move |run: &Run| (run.at[last][key] - run.at[from][key]) / peers
    };
    figure(
        "a peer, resident, by slope",
        "bytes",
        Budget::None,
        &per_peer("resident", 1),
    );
    figure(
        "a peer, anonymous, by slope",
        "bytes",
        Budget::AtMost(512.0),
        &per_peer("anonymous", 1),
    );
    figure(
        "a peer, anonymous, beyond no peers",
        "bytes",
        Budget::None,
        &per_peer("anonymous", 0),
    );
    figure(
        "a peer, held of the allocator, beyond no peers",
        "bytes",
        Budget::None,
        &per_peer("held", 0),
    );
    figure(
        "a peer, of that in pieces above 4 KiB (tables)",
        "bytes",
        Budget::None,
        &per_peer("large", 0),
    );
    for (size, count) in &runs[0].pieces {
        let per_peer = *count as f64 / crowds[last - 1] as f64;
        bench.figure(
            &format!("a peer, pieces of up to {size} bytes"),
            "pieces",
            Budget::None,
            &[per_peer],
        );
    }
}

/// What was seen once with no peers and with each crowd, and after they had left.
struct Run {
    at: Vec<BTreeMap<String, f64>>,
    left: BTreeMap<String, f64>,
    pieces: Vec<(usize, usize)>,
}

impl Run {
    fn new(crowds: &[usize]) -> Run {
        let mut listener = Other::start(&["--child", "listener"]);
        let addr = listener.line();
        let mut at = vec![ask(&mut listener, "measure")];
        let mut crowd = Other::start(&["--child", "crowd", "--addr", &addr]);
        for peers in crowds {
            crowd.tell(&peers.to_string());
            assert_eq!(crowd.line(), "connected");
            std::thread::sleep(SETTLED);
            at.push(ask(&mut listener, "measure"));
            assert_eq!(at.last().expect("it was pushed")["peers"], *peers as f64);
        }
        let least = crowds[crowds.len() - 1] / 2;
        let pieces = ask(&mut listener, &format!("pieces {least}"));
        let pieces = pieces
            .iter()
            .map(|(size, count)| (size.parse().expect("it is a size"), *count as usize))
            .collect();
        drop(crowd);
        let deadline = Instant::now() + LONG;
        let mut left = ask(&mut listener, "measure");
        while left["peers"] > 0.0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(100));
            left = ask(&mut listener, "measure");
        }
        std::thread::sleep(SETTLED);
        Run {
            at,
            left: ask(&mut listener, "measure"),
            pieces,
        }
    }
}

fn listen() {
    let mut limits = Limits::default();
    let places = &mut limits.admission;
    (places.sockets_max, places.handshakes_max) = (64, AT_ONCE as u32);
    (
        places.handshakes_per_address_max,
        places.handshakes_per_prefix_max,
    ) = (AT_ONCE as u32, AT_ONCE as u32);
    (places.rate_per_second, places.rate_burst) = (1_000_000, 1_000_000);
    let node = Node::builder()
        .ephemeral()
        .protocol("bench", "1")
        .listen("127.0.0.1:0")
        .max_peers(20_000)
        .limits(limits)
        .start()
        .expect("loopback can be listened on");
    println!("{}", node.listen_addrs()[0]);
    let start = counting_allocator::held();
    for line in std::io::stdin().lines() {
        let line = line.expect("the input is text");
        let memory = memory_of("self").expect("this is Linux");
        let held = counting_allocator::held();
        let answer = match line.strip_prefix("pieces ") {
            Some(least) => {
                let grown = held.grown_since(&start, least.parse().expect("it is a number"));
                let pairs = grown
                    .iter()
                    .map(|(size, count)| (size.to_string(), json!(count)));
                Value::Object(pairs.collect())
            }
            None => json!({
                "resident": memory.resident,
                "anonymous": memory.anonymous,
                "held": held.bytes,
                "large": held.large,
                "peers": node.stats().peers,
            }),
        };
        println!("{answer}");
    }
    node.stop(Duration::from_secs(5));
}

/// Grows to as many peers as each line of the input says, and leaves at its end.
fn crowd(addr: &str) {
    let runtime = Runtime::builder()
        .cores(1)
        .start()
        .expect("a thread can be started");
    let handle = runtime.handle();
    let mut nodes: Vec<Node> = Vec::new();
    for line in std::io::stdin().lines() {
        let wanted: usize = line
            .expect("the input is text")
            .parse()
            .expect("it is a number");
        while nodes.len() < wanted {
            let first = nodes.len();
            for _ in first..wanted.min(first + AT_ONCE) {
                let node = Node::builder()
                    .ephemeral()
                    .protocol("bench", "1")
                    .runtime(&handle)
                    .start();
                nodes.push(node.expect("it needs nothing"));
            }
            let connecting: Vec<_> = nodes[first..]
                .iter()
                .map(|node| node.connect(addr))
                .collect();
            for answer in connecting {
                answer.wait_for(LONG).expect("it listens and has room");
            }
        }
        println!("connected");
    }
    // Without a goodbye to 10,000: the system closes what is open.
    std::process::exit(0);
}

fn ask(listener: &mut Other, question: &str) -> BTreeMap<String, f64> {
    listener.tell(question);
    serde_json::from_str(&listener.line()).expect("the listener answers with figures")
}
