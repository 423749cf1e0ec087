//! The orders of a measurement followed with mischief, through its public interface.
//!
//! `--echo` sends messages back, `--aes` allows AES-256-GCM, `--cpu N` stays on one processor, `--lean` gives the memory of
//! code that has been run back to the system, as the daemon does.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use mischief::{Callbacks, Limits, Node, NodeBuilder, Outgoing, SendError};
use mischief_benches::orders::{Mode, Nodes, Tally, serve};
use mischief_benches::system::{pin, raise_open_files};
use mischief_reactor::Runtime;
use mischief_reactor::io::release_code;

static TALLY: Tally = Tally::new();

/// As long after its start the daemon gives back what only a start runs.
const START_SETTLES: Duration = Duration::from_millis(200);

/// As often as the daemon gives code back.
const CODE_RELEASE: Duration = Duration::from_secs(2);

const LONG: Duration = Duration::from_secs(120);

/// As many handshakes at a time as the listener allows.
const AT_ONCE: usize = 48;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let has = |name: &str| args.iter().any(|arg| arg == name);
    if let Some(place) = args.iter().position(|arg| arg == "--cpu") {
        let cpu = args[place + 1].parse().expect("it is a number");
        pin(cpu).expect("there is such a processor");
    }
    raise_open_files();
    let mut crowd = Crowd {
        is_echo: has("--echo"),
        is_aes: has("--aes"),
        is_lean: has("--lean"),
        runtime: None,
        nodes: Vec::new(),
        outgoing: None,
        asking: None,
    };
    serve(&mut crowd, &TALLY);
}

struct Crowd {
    is_echo: bool,
    is_aes: bool,
    is_lean: bool,
    /// Started with the first node, so that a process without nodes shows what it costs by itself.
    runtime: Option<Runtime>,
    nodes: Vec<Node>,
    outgoing: Option<Outgoing>,
    asking: Option<Asking>,
}

impl Crowd {
    fn builder(&mut self) -> NodeBuilder {
        let mut limits = mischief_reactor::Limits::default();
        limits.code_release = self.is_lean.then_some(CODE_RELEASE);
        let start = || {
            let builder = Runtime::builder().cores(1).limits(limits);
            builder.start().expect("a thread can be started")
        };
        let runtime = self.runtime.get_or_insert_with(start);
        let builder = Node::builder()
            .ephemeral()
            .protocol("bench", "1")
            .callbacks(Callbacks::Inline)
            .runtime(&runtime.handle());
        if self.is_aes {
            builder
        } else {
            builder.aes_hardware(false)
        }
    }

    fn receive(&self, node: &Node) {
        if !self.is_echo {
            // All callbacks run on the one core.
            node.on_bytes(|_, bytes| TALLY.add_alone(bytes.len()));
            return;
        }
        let (echoing, back) = (node.downgrade(), OnceLock::<Outgoing>::new());
        node.on_bytes(move |peer, bytes| {
            let find = || {
                let node = echoing.upgrade().expect("it runs");
                node.outgoing(peer).expect("it is connected")
            };
            back.get_or_init(find)
                .send_bytes(bytes)
                .expect("there is room");
        });
    }

    fn outgoing(&mut self) -> &Outgoing {
        // Where two nodes are in this process, the last is the one that dialled.
        let node = self.nodes.last().expect("it is connected");
        self.outgoing.get_or_insert_with(|| {
            let peer = node.peer_ids()[0];
            node.outgoing(&peer).expect("it is connected")
        })
    }
}

fn limits() -> Limits {
    let mut limits = Limits::default();
    let places = &mut limits.admission;
    (places.sockets_max, places.handshakes_max) = (128, 64);
    (
        places.handshakes_per_address_max,
        places.handshakes_per_prefix_max,
    ) = (64, 64);
    (places.rate_per_second, places.rate_burst) = (1_000_000, 1_000_000);
    limits
}

/// Queues a message, waiting for room.
fn queue(outgoing: &Outgoing, body: &[u8]) {
    while let Err(error) = outgoing.send_bytes(body) {
        assert_eq!(error, SendError::Full);
        outgoing
            .wait_for_room(LONG)
            .expect("the other process reads");
    }
}

impl Nodes for Crowd {
    fn listen(&mut self) -> String {
        let builder = self
            .builder()
            .listen("127.0.0.1:0")
            .max_peers(20_000)
            .limits(limits());
        let node = builder.start().expect("loopback can be listened on");
        self.receive(&node);
        let addr = node.listen_addrs()[0].to_string();
        self.nodes.push(node);
        if self.is_lean {
            // As the daemon does when a start has come to rest.
            std::thread::spawn(|| {
                std::thread::sleep(START_SETTLES);
                release_code();
            });
        }
        addr
    }

    fn connect(&mut self, addr: &str, count: usize) {
        while self.nodes.len() < count {
            let first = self.nodes.len();
            for _ in first..count.min(first + AT_ONCE) {
                let node = self.builder().start().expect("it needs nothing");
                if !self.is_echo {
                    self.receive(&node);
                }
                self.nodes.push(node);
            }
            let connecting: Vec<_> = self.nodes[first..]
                .iter()
                .map(|node| node.connect(addr))
                .collect();
            for answer in connecting {
                answer.wait_for(LONG).expect("it listens and has room");
            }
        }
    }

    fn peers(&mut self) -> usize {
        self.nodes[0].stats().peers
    }

    fn send(&mut self, size: usize, count: usize, mode: Mode) {
        let outgoing = self.outgoing();
        let body = vec![7; size];
        for _ in 0..count {
            queue(outgoing, &body);
            if mode == Mode::Each {
                outgoing
                    .flush()
                    .wait_for(LONG)
                    .expect("the other process reads");
            }
        }
        outgoing
            .flush()
            .wait_for(LONG)
            .expect("the other process reads");
    }

    fn ask(&mut self, size: usize, count: usize) -> Vec<f64> {
        let outgoing = self.outgoing().clone();
        let node = self.nodes.last().expect("it is connected");
        let asking = self
            .asking
            .get_or_insert_with(|| Asking::new(node, &outgoing));
        asking.orders.send(count).expect("the callback lives");
        outgoing.send_bytes(&vec![7; size]).expect("there is room");
        asking.times.recv_timeout(LONG).expect("answers come")
    }

    fn dial(&mut self, addr: &str, count: usize, in_flight: usize) {
        // More nodes than dials: an identity that comes back at once could meet its own last connection.
        while self.nodes.len() < 4 * in_flight {
            let node = self.builder().start().expect("it needs nothing");
            self.nodes.push(node);
        }
        dial(&self.nodes, addr, count, in_flight);
    }

    fn broadcast(&mut self, size: usize, count: usize) {
        let node = &self.nodes[0];
        let outgoing = |peer| node.outgoing(peer).expect("it is connected");
        let all: Vec<Outgoing> = node.peer_ids().iter().map(outgoing).collect();
        let body = vec![7; size];
        for _ in 0..count {
            for outgoing in &all {
                queue(outgoing, &body);
            }
        }
        for outgoing in &all {
            outgoing
                .flush()
                .wait_for(LONG)
                .expect("the other process reads");
        }
    }
}

/// A node that asks again from within its callback.
struct Asking {
    orders: mpsc::Sender<usize>,
    times: mpsc::Receiver<Vec<f64>>,
}

struct Round {
    ordered: mpsc::Receiver<usize>,
    left: usize,
    sent: Option<Instant>,
    times: Vec<f64>,
}

impl Asking {
    fn new(node: &Node, outgoing: &Outgoing) -> Asking {
        let (orders, ordered) = mpsc::channel();
        let (done, times) = mpsc::channel();
        let round = Mutex::new(Round {
            ordered,
            left: 0,
            sent: None,
            times: Vec::new(),
        });
        let again = outgoing.clone();
        node.on_bytes(move |_, bytes| {
            let mut round = round.lock().expect("no callback panics");
            if round.answered() {
                again.send_bytes(bytes).expect("there is room");
            } else {
                done.send(std::mem::take(&mut round.times))
                    .expect("the main thread waits");
            }
        });
        Asking { orders, times }
    }
}

impl Round {
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

/// Wakes the thread that drives the dials.
struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

type Dial<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// Connects and disconnects the nodes one after another, `in_flight` of them at any time.
fn dial(nodes: &[Node], addr: &str, count: usize, in_flight: usize) {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let next = |number: usize| -> Dial<'_> {
        let node = &nodes[number % nodes.len()];
        Box::pin(async move {
            let peer = node.connect(addr).await.expect("it listens and has room");
            node.disconnect(&peer).await.expect("it is connected");
        })
    };
    let mut begun = in_flight.min(count);
    let mut open: Vec<Dial<'_>> = (0..begun).map(next).collect();
    while !open.is_empty() {
        let mut has_moved = false;
        let mut place = 0;
        while place < open.len() {
            if open[place].as_mut().poll(&mut context) == Poll::Pending {
                place += 1;
                continue;
            }
            has_moved = true;
            if begun < count {
                open[place] = next(begun);
                begun += 1;
            } else {
                drop(open.swap_remove(place));
            }
        }
        if !has_moved {
            std::thread::park_timeout(LONG);
        }
    }
}
