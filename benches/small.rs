//! How many messages of 64 bytes does one connection carry in a second, through the public interface?
//!
//! One thread queues with `Outgoing::send_bytes`; the receiving node counts in `Node::on_bytes`. Both nodes are in this
//! process, each with one core. The sending thread and its node are kept on one processor and the receiving node on
//! another, unless `--unpinned` is given: the system's scheduler moves three busy threads about on two processors.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mischief::{Callbacks, Node, NodeBuilder, SendError};
use mischief_benches::harness::{Bench, Budget};
use mischief_benches::system::{pin, process_cpu};

const SIZE: usize = 64;
const LONG: Duration = Duration::from_secs(60);

fn main() {
    let bench = Bench::new("small");
    let count = bench.size(20_000_000, 20_000);
    for (mode, callbacks, budget) in [
        (
            "callbacks on the core",
            Callbacks::Inline,
            Budget::AtLeast(13.0),
        ),
        ("callbacks on a thread", Callbacks::Thread, Budget::None),
    ] {
        for (suite, aes) in [("AES-256-GCM", true), ("ChaChaPoly", false)] {
            let budget = if aes { budget } else { Budget::None };
            let runs: Vec<Cost> = (0..bench.runs())
                .map(|_| run(callbacks, aes, count))
                .collect();
            let rates: Vec<f64> = runs.iter().map(|cost| cost.rate).collect();
            let cpu: Vec<f64> = runs.iter().map(|cost| cost.cpu_ns).collect();
            bench.figure(&format!("{suite}, {mode}"), "M messages/s", budget, &rates);
            bench.figure(
                &format!("{suite}, {mode}, both ends"),
                "ns CPU/message",
                Budget::None,
                &cpu,
            );
        }
    }
}

struct Cost {
    rate: f64,
    cpu_ns: f64,
}

fn node(aes: bool) -> NodeBuilder {
    let builder = Node::builder().ephemeral().protocol("bench", "1");
    if aes {
        builder
    } else {
        builder.aes_hardware(false)
    }
}

/// Keeps this thread and those that it starts on one processor, if there is such a one.
fn keep_on(cpu: usize) {
    if !std::env::args().any(|arg| arg == "--unpinned") {
        let _ = pin(cpu);
    }
}

fn run(callbacks: Callbacks, aes: bool, count: usize) -> Cost {
    keep_on(1);
    let receiver = node(aes)
        .listen("127.0.0.1:0")
        .callbacks(callbacks)
        .start()
        .expect("loopback can be listened on");
    let (done, is_done) = std::sync::mpsc::channel();
    let warm_up = count / 10;
    let seen = Arc::new(AtomicUsize::new(0));
    receiver.on_bytes(move |_, bytes| {
        assert_eq!(bytes.len(), SIZE);
        // Callbacks of one core never run at the same time, so this needs no atomic addition.
        let now = seen.load(Ordering::Relaxed) + 1;
        seen.store(now, Ordering::Relaxed);
        if now == warm_up || now == warm_up + count {
            done.send(()).expect("the main thread waits");
        }
    });
    keep_on(0);
    let sender = node(aes).start().expect("it needs nothing");
    let peer = sender
        .connect(&receiver.listen_addrs()[0].to_string())
        .wait()
        .expect("it listens");
    let outgoing = sender.outgoing(&peer).expect("it is connected");
    let body = [7; SIZE];
    let send = |count: usize| {
        for _ in 0..count {
            while let Err(error) = outgoing.send_bytes(&body) {
                assert_eq!(error, SendError::Full);
                outgoing.wait_for_room(LONG).expect("the receiver reads");
            }
        }
        is_done.recv_timeout(LONG).expect("the receiver reads");
    };
    send(warm_up);
    let (cpu, start) = (process_cpu(), Instant::now());
    send(count);
    let (wall, cpu) = (start.elapsed(), process_cpu() - cpu);
    sender.stop(Duration::from_secs(5));
    receiver.stop(Duration::from_secs(5));
    Cost {
        rate: count as f64 / wall.as_secs_f64() / 1e6,
        cpu_ns: cpu.as_nanos() as f64 / count as f64,
    }
}
