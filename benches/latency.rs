//! How long does a message of 64 bytes take there and back at the public interface?
//!
//! Two nodes on one core, that is one thread, with callbacks on it; two nodes with a core each; and beside them two threads
//! over plain blocking TCP, all in one process that is pinned to one processor. Round trips of all three are taken in turns,
//! so that what else the machine does meets them alike.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use mischief::{Callbacks, Node, Outgoing};
use mischief_benches::harness::{Bench, Budget, quantile};
use mischief_benches::system::pin;
use mischief_reactor::{Handle, Runtime};

const SIZE: usize = 64;
const LONG: Duration = Duration::from_secs(60);

fn main() {
    let bench = Bench::new("latency");
    pin(bench.option("--cpu").unwrap_or(0)).expect("there is such a processor");
    let count = bench.size(20_000, 100);
    let runtime = Runtime::builder().start().expect("a thread can be started");
    let mut together = Nodes::start(Some(&runtime.handle()));
    let mut apart = Nodes::start(None);
    let mut plain = Plain::start();
    let mut times: [Vec<(f64, f64)>; 3] = Default::default();
    for run in 0..=bench.runs() {
        let count = if run == 0 { count / 10 } else { count };
        let taken = [
            together.round_trips(count),
            apart.round_trips(count),
            plain.round_trips(count),
        ];
        // The first time does not count.
        for (times, taken) in times.iter_mut().zip(taken).filter(|_| run > 0) {
            times.push((quantile(&taken, 0.5), quantile(&taken, 0.99)));
        }
    }
    let names = [
        "both nodes on one core",
        "a core for each node",
        "limit: plain blocking TCP",
    ];
    for (name, times) in names.iter().zip(&times) {
        let (medians, tails): (Vec<f64>, Vec<f64>) = times.iter().copied().unzip();
        bench.figure(&format!("{name}, p50"), "us", Budget::None, &medians);
        bench.figure(&format!("{name}, p99"), "us", Budget::None, &tails);
    }
    let budgets = [Budget::AtMost(3.0), Budget::None];
    for ((name, times_of), budget) in names.iter().zip(&times).zip(budgets) {
        let over: Vec<f64> = times_of
            .iter()
            .zip(&times[2])
            .map(|(ours, plain)| ours.0 - plain.0)
            .collect();
        bench.figure(
            &format!("{name}, p50 beyond plain TCP"),
            "us",
            budget,
            &over,
        );
    }
}

/// A ping-pong between two nodes, counted at the callback of the one that dialled.
struct Nodes {
    _nodes: [Node; 2],
    outgoing: Outgoing,
    orders: mpsc::Sender<usize>,
    times: mpsc::Receiver<Vec<f64>>,
}

impl Nodes {
    /// Nodes on the runtime's one core, or with a core for each.
    fn start(on: Option<&Handle>) -> Nodes {
        let node = || {
            let builder = Node::builder()
                .ephemeral()
                .protocol("bench", "1")
                .callbacks(Callbacks::Inline);
            match on {
                Some(runtime) => builder.runtime(runtime),
                None => builder,
            }
        };
        let echo = node()
            .listen("127.0.0.1:0")
            .start()
            .expect("loopback can be listened on");
        let asking = node().start().expect("it needs nothing");
        let peer = asking
            .connect(&echo.listen_addrs()[0].to_string())
            .wait()
            .expect("it listens");
        let outgoing = asking.outgoing(&peer).expect("it is connected");
        let id = asking.id();
        let back = std::sync::OnceLock::new();
        let echoing = echo.downgrade();
        echo.on_bytes(move |_, bytes| {
            let node = || {
                echoing
                    .upgrade()
                    .expect("it runs")
                    .outgoing(&id)
                    .expect("it is connected")
            };
            back.get_or_init(node)
                .send_bytes(bytes)
                .expect("there is room");
        });
        let (orders, ordered) = mpsc::channel::<usize>();
        let (done, times) = mpsc::channel();
        let ordered = std::sync::Mutex::new(Asking {
            ordered,
            left: 0,
            sent: None,
            times: Vec::new(),
        });
        let again = outgoing.clone();
        asking.on_bytes(move |_, bytes| {
            let mut asking = ordered.lock().expect("no callback panics");
            if asking.answered() {
                again.send_bytes(bytes).expect("there is room");
            } else {
                done.send(std::mem::take(&mut asking.times))
                    .expect("the main thread waits");
            }
        });
        Nodes {
            _nodes: [echo, asking],
            outgoing,
            orders,
            times,
        }
    }

    fn round_trips(&mut self, count: usize) -> Vec<f64> {
        self.orders.send(count).expect("the callback lives");
        self.outgoing.send_bytes(&[7; SIZE]).expect("there is room");
        let mut times = self.times.recv_timeout(LONG).expect("answers come");
        times.sort_by(f64::total_cmp);
        times
    }
}

struct Asking {
    ordered: mpsc::Receiver<usize>,
    left: usize,
    sent: Option<Instant>,
    times: Vec<f64>,
}

impl Asking {
    /// Notes a round trip. Whether another is to be made.
    fn answered(&mut self) -> bool {
        let now = Instant::now();
        match self.sent {
            Some(sent) => self.times.push((now - sent).as_nanos() as f64 / 1e3),
            None => {
                self.left = self.ordered.try_recv().expect("it was ordered before");
                self.times.reserve(self.left);
            }
        }
        let goes_on = self.times.len() < self.left;
        self.sent = goes_on.then_some(now);
        goes_on
    }
}

/// The same over plain TCP.
struct Plain(TcpStream);

impl Plain {
    fn start() -> Plain {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback can be listened on");
        let stream =
            TcpStream::connect(listener.local_addr().expect("it is bound")).expect("it listens");
        let (mut other, _) = listener.accept().expect("it was connected");
        stream.set_nodelay(true).expect("it is a TCP socket");
        other.set_nodelay(true).expect("it is a TCP socket");
        std::thread::spawn(move || {
            let mut bytes = [0; SIZE];
            while other.read_exact(&mut bytes).is_ok() {
                other.write_all(&bytes).expect("the connection stands");
            }
        });
        Plain(stream)
    }

    fn round_trips(&mut self, count: usize) -> Vec<f64> {
        let mut bytes = [7; SIZE];
        let mut one = || {
            let start = Instant::now();
            self.0.write_all(&bytes).expect("the connection stands");
            self.0
                .read_exact(&mut bytes)
                .expect("the connection stands");
            start.elapsed().as_nanos() as f64 / 1e3
        };
        let mut times: Vec<f64> = (0..count).map(|_| one()).collect();
        times.sort_by(f64::total_cmp);
        times
    }
}
