//! How often does a message ask the allocator for memory, once everything is warm?
//!
//! Both ends are in this process, so what is counted is a message's whole way: queued, sealed, written, read, opened,
//! called back.

use std::sync::mpsc;
use std::time::Duration;

use mischief::{Callbacks, Node, SendError};
use mischief_benches::harness::{Bench, Budget};
use serde_json::json;

#[expect(dead_code, reason = "other programs ask it for more")]
mod counting_allocator;

#[global_allocator]
static ALLOCATOR: counting_allocator::Counting = counting_allocator::Counting;

const LONG: Duration = Duration::from_secs(60);

fn main() {
    let bench = Bench::new("allocations");
    let cases = [
        (
            "64 bytes, many at once",
            64,
            bench.size(2_000_000, 20_000),
            usize::MAX,
        ),
        ("64 bytes, one at a time", 64, bench.size(50_000, 500), 1),
        ("64 KiB", 64 << 10, bench.size(10_000, 100), usize::MAX),
        ("1 MiB", 1 << 20, bench.size(1000, 10), usize::MAX),
    ];
    for (mode, callbacks) in [
        ("on the core", Callbacks::Inline),
        ("on a thread", Callbacks::Thread),
    ] {
        for (what, size, count, at_once) in cases {
            let values = bench.repeat(|| run(callbacks, size, count, at_once));
            let budget = if size == 64 {
                Budget::AtMost(0.01)
            } else {
                Budget::None
            };
            bench.figure(
                &format!("{what}, callbacks {mode}"),
                "calls/message",
                budget,
                &values,
            );
            let case = json!({"size": size, "one_at_a_time": at_once == 1, "callbacks": mode});
            bench.result("allocations_per_message", &case, &values);
        }
    }
}

/// Sends `count` messages, waiting for the receiver after each `at_once`.
fn run(callbacks: Callbacks, size: usize, count: usize, at_once: usize) -> f64 {
    let node = || Node::builder().ephemeral().protocol("bench", "1");
    let receiver = node()
        .listen("127.0.0.1:0")
        .callbacks(callbacks)
        .start()
        .expect("loopback can be listened on");
    let (done, is_done) = mpsc::sync_channel(1);
    let seen = std::sync::atomic::AtomicUsize::new(0);
    let warm_up = count / 2;
    receiver.on_bytes(move |_, _| {
        let now = seen.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
        if at_once == 1 || now == warm_up || now == warm_up + count {
            done.send(()).expect("the main thread waits");
        }
    });
    let sender = node().start().expect("it needs nothing");
    let peer = sender
        .connect(&receiver.listen_addrs()[0].to_string())
        .wait()
        .expect("it listens");
    let outgoing = sender.outgoing(&peer).expect("it is connected");
    let body = vec![7; size];
    let send = |count: usize| {
        for sent in 0..count {
            while let Err(error) = outgoing.send_bytes(&body) {
                assert_eq!(error, SendError::Full);
                outgoing.wait_for_room(LONG).expect("the receiver reads");
            }
            if at_once == 1 || sent + 1 == count {
                is_done.recv_timeout(LONG).expect("the receiver reads");
            }
        }
    };
    send(warm_up);
    let before = counting_allocator::calls();
    send(count);
    let calls = counting_allocator::calls() - before;
    sender.stop(Duration::from_secs(5));
    receiver.stop(Duration::from_secs(5));
    calls as f64 / count as f64
}
