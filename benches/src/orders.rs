//! A process of nodes that a measurement gives orders, the same for every implementation.
//!
//! An order is a line of the process's input, its answer a line of its output, but for `received`, which comes when as many
//! bytes have come in as the last `expect` said. The process ends with its input.
//!
//! | order | answer |
//! |---|---|
//! | `listen` | the address, in the implementation's own form |
//! | `connect ADDR COUNT` | `connected`, when there are `COUNT` nodes in all that have connected to it |
//! | `peers` | how many peers the first node has |
//! | `expect BYTES` | `expecting` at once, and `received` once |
//! | `send SIZE COUNT MODE` | `sent`, when the messages have left the process |
//! | `ask SIZE COUNT` | the sorted times of round trips in microseconds, as quantiles |
//! | `dial ADDR COUNT IN_FLIGHT` | `dialled`, after so many connections were made, authenticated and dropped |
//! | `broadcast SIZE COUNT` | `sent`, when all peers have been sent all messages |
//! | `cpu` | processor time of the process so far, in nanoseconds |

use std::io::{self, BufRead, Write};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use crate::harness::quantile;
use crate::system::process_cpu;

/// How messages leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The interface's own call for each message, and nothing else.
    Plain,
    /// The way that packs most messages together.
    Packed,
    /// Each message is written before the next is begun.
    Each,
}

impl Mode {
    /// As it stands in an order.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Plain => "plain",
            Mode::Packed => "packed",
            Mode::Each => "each",
        }
    }

    fn read(name: &str) -> Mode {
        match name {
            "plain" => Mode::Plain,
            "packed" => Mode::Packed,
            "each" => Mode::Each,
            other => panic!("there is no mode {other}"),
        }
    }
}

/// What an implementation does at orders.
pub trait Nodes {
    /// Starts to listen on loopback and tells where.
    fn listen(&mut self) -> String;
    /// Connects further nodes, each with an identity of its own, until there are `count`.
    fn connect(&mut self, addr: &str, count: usize);
    /// The peers of the first node.
    fn peers(&mut self) -> usize;
    /// Sends to the only peer.
    fn send(&mut self, size: usize, count: usize, mode: Mode);
    /// The times of `count` round trips with the only peer, in microseconds.
    fn ask(&mut self, size: usize, count: usize) -> Vec<f64>;
    /// Makes connections and drops them, `in_flight` at a time.
    fn dial(&mut self, addr: &str, count: usize, in_flight: usize);
    /// Sends each message to all peers.
    fn broadcast(&mut self, size: usize, count: usize);
}

/// Counts the bytes that come in.
#[derive(Debug, Default)]
pub struct Tally {
    received: AtomicUsize,
    goal: AtomicUsize,
}

impl Tally {
    /// One that has seen nothing.
    pub const fn new() -> Tally {
        Tally {
            received: AtomicUsize::new(0),
            goal: AtomicUsize::new(usize::MAX),
        }
    }

    /// Counts, where several threads receive.
    pub fn add(&self, bytes: usize) {
        let before = self.received.fetch_add(bytes, Ordering::Relaxed);
        self.look(before, bytes);
    }

    /// Counts, where only one thread receives.
    pub fn add_alone(&self, bytes: usize) {
        let before = self.received.load(Ordering::Relaxed);
        self.received.store(before + bytes, Ordering::Relaxed);
        self.look(before, bytes);
    }

    fn look(&self, before: usize, bytes: usize) {
        let goal = self.goal.load(Ordering::Relaxed);
        if before < goal && before + bytes >= goal {
            println!("received");
        }
    }

    /// Nothing is on its way when this is called.
    fn expect(&self, bytes: usize) {
        let goal = self.received.load(Ordering::Relaxed) + bytes;
        self.goal.store(goal, Ordering::Relaxed);
    }
}

/// Follows orders until the input ends.
pub fn serve(nodes: &mut impl Nodes, tally: &Tally) {
    for line in io::stdin().lock().lines() {
        let line = line.expect("orders are text");
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |place: usize| -> usize { words[place].parse().expect("it is a number") };
        let answer = match words[0] {
            "listen" => nodes.listen(),
            "connect" => {
                nodes.connect(words[1], number(2));
                "connected".to_owned()
            }
            "peers" => nodes.peers().to_string(),
            "expect" => {
                tally.expect(number(1));
                "expecting".to_owned()
            }
            "send" => {
                nodes.send(number(1), number(2), Mode::read(words[3]));
                "sent".to_owned()
            }
            "ask" => {
                let mut times = nodes.ask(number(1), number(2));
                times.sort_by(f64::total_cmp);
                let quantiles = |share: &f64| quantile(&times, *share);
                json!(SHARES.iter().map(quantiles).collect::<Vec<_>>()).to_string()
            }
            "dial" => {
                nodes.dial(words[1], number(2), number(3));
                "dialled".to_owned()
            }
            "broadcast" => {
                nodes.broadcast(number(1), number(2));
                "sent".to_owned()
            }
            "cpu" => process_cpu().as_nanos().to_string(),
            other => panic!("there is no order {other}"),
        };
        println!("{answer}");
        io::stdout().flush().expect("somebody listens");
    }
    std::process::exit(0);
}

/// The quantiles that `ask` answers with.
pub const SHARES: [f64; 14] = [
    0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9999,
];

/// Where among [`SHARES`] the median is.
pub const MEDIAN: usize = 5;

/// Where among [`SHARES`] the slowest hundredth begins.
pub const P99: usize = 10;
