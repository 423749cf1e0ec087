//! What does a request cost beside a pair of messages, asked by a thread that waits?
//!
//! A thread sends 64 bytes and waits until 64 bytes have come back: as two messages with a callback at both ends, and as a
//! request with a handler. Both nodes are on one core, with callbacks on it; everything is pinned to one processor, and round
//! trips of both kinds are taken in turns. Then the same with 64 on the way at once.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use mischief::{Body, Callbacks, Node, PeerId, Requested};
use mischief_benches::harness::{Bench, Budget, quantile};
use mischief_benches::system::pin;
use mischief_reactor::Runtime;

const SIZE: usize = 64;
const AT_ONCE: usize = 64;
const LONG: Duration = Duration::from_secs(60);

fn main() {
    let bench = Bench::new("requests");
    pin(bench.option("--cpu").unwrap_or(0)).expect("there is such a processor");
    let count = bench.size(20_000, 100);
    let pair = Pair::start();
    let mut times: [Vec<(f64, f64)>; 2] = Default::default();
    let mut rates: [Vec<f64>; 2] = Default::default();
    for run in 0..=bench.runs() {
        let count = if run == 0 { count / 10 } else { count };
        let taken = [
            round_trips(count, || pair.message()),
            round_trips(count, || pair.request()),
        ];
        let many = [
            rate(count, || pair.messages()),
            rate(count, || pair.requests()),
        ];
        // The first time does not count.
        if run == 0 {
            continue;
        }
        for kind in 0..2 {
            times[kind].push((quantile(&taken[kind], 0.5), quantile(&taken[kind], 0.99)));
            rates[kind].push(many[kind]);
        }
    }
    for (name, times) in ["two messages", "a request"].iter().zip(&times) {
        let (medians, tails): (Vec<f64>, Vec<f64>) = times.iter().copied().unzip();
        bench.figure(&format!("{name}, p50"), "us", Budget::None, &medians);
        bench.figure(&format!("{name}, p99"), "us", Budget::None, &tails);
    }
    let over: Vec<f64> = times[0]
        .iter()
        .zip(&times[1])
        .map(|(messages, request)| request.0 - messages.0)
        .collect();
    bench.figure(
        "a request beyond two messages, p50",
        "us",
        Budget::None,
        &over,
    );
    for (name, rates) in ["pairs of messages", "requests"].iter().zip(&rates) {
        let name = format!("{name}, {AT_ONCE} at once");
        bench.figure(&name, "k/s", Budget::None, rates);
    }
}

fn round_trips(count: usize, mut one: impl FnMut()) -> Vec<f64> {
    let mut timed = || {
        let start = Instant::now();
        one();
        start.elapsed().as_nanos() as f64 / 1e3
    };
    let mut times: Vec<f64> = (0..count).map(|_| timed()).collect();
    times.sort_by(f64::total_cmp);
    times
}

/// Thousands in a second.
fn rate(count: usize, mut batch: impl FnMut()) -> f64 {
    let batches = count.div_ceil(AT_ONCE).max(1);
    let start = Instant::now();
    (0..batches).for_each(|_| batch());
    (batches * AT_ONCE) as f64 / start.elapsed().as_secs_f64() / 1e3
}

struct Pair {
    asking: Node,
    _answering: Node,
    peer: PeerId,
    came: mpsc::Receiver<()>,
    body: Body,
    /// The core of both; it goes last.
    _runtime: Runtime,
}

impl Pair {
    fn start() -> Pair {
        let runtime = Runtime::builder().start().expect("a thread can be started");
        let node = || {
            Node::builder()
                .ephemeral()
                .protocol("bench", "1")
                .callbacks(Callbacks::Inline)
                .runtime(&runtime.handle())
        };
        let answering = node()
            .listen("127.0.0.1:0")
            .start()
            .expect("loopback can be listened on");
        let asking = node().start().expect("it needs nothing");
        let addr = answering.listen_addrs()[0].to_string();
        let peer = asking.connect(&addr).wait().expect("it listens");
        let weak = answering.downgrade();
        answering.on_bytes(move |peer, bytes| {
            let node = weak.upgrade().expect("it runs");
            drop(node.send_bytes(peer, bytes));
        });
        answering.on_request("echo", |request| Ok(Body::bytes(request.as_bytes())));
        let (sender, came) = mpsc::channel();
        let sender = std::sync::Mutex::new(sender);
        asking.on_bytes(move |_, _| {
            let sender = sender.lock().expect("no callback panics");
            sender.send(()).expect("the main thread waits");
        });
        Pair {
            asking,
            _answering: answering,
            peer,
            came,
            body: Body::bytes([7; SIZE]),
            _runtime: runtime,
        }
    }

    fn send(&self) {
        drop(self.asking.send_bytes(&self.peer, self.body.as_bytes()));
    }

    fn ask(&self) -> Requested {
        self.asking
            .request_with(&self.peer, "echo", &self.body, LONG)
    }

    fn message(&self) {
        self.send();
        self.came.recv_timeout(LONG).expect("it comes back");
    }

    fn request(&self) {
        self.ask().wait().expect("it is answered");
    }

    fn messages(&self) {
        (0..AT_ONCE).for_each(|_| self.send());
        (0..AT_ONCE).for_each(|_| self.came.recv_timeout(LONG).expect("it comes back"));
    }

    fn requests(&self) {
        let asked: Vec<Requested> = (0..AT_ONCE).map(|_| self.ask()).collect();
        for request in asked {
            request.wait().expect("it is answered");
        }
    }
}
