//! `mischief demo`: three real nodes on this machine meet, talk and measure, and everything that is said to have
//! happened has been checked.

use std::fmt::Display;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use mischief::{Message, Node, NodeEvent, PeerId, SendError};
use mischief_reactor::Random;
use mischief_reactor::io::SystemRandom;
use serde_json::{Value, json};

use crate::args::DemoArgs;
use crate::failure::{Failure, TIMED_OUT};

/// Each step has to be over by then.
const STEP_DEADLINE: Duration = Duration::from_secs(30);

/// Texts that go back and forth to measure the round trip.
const ROUND_TRIPS: usize = 1000;

/// The bulk: so many messages of so many bytes, 64 MiB in all.
const BULK_MESSAGES: usize = 64;
const BULK_MESSAGE_SIZE: usize = 1024 * 1024;

/// The text that measures round trips; it is sent back as it is.
const PING: &str = "ping";

pub(crate) fn run(args: &DemoArgs) -> Result<(), Failure> {
    let mut transcript = Transcript {
        is_json: args.json,
        figures: serde_json::Map::new(),
    };
    let demo = Demo::start(&mut transcript)?;
    demo.connect(&mut transcript)?;
    demo.exchange_json(&mut transcript)?;
    demo.exchange_text(&mut transcript)?;
    demo.measure_round_trip(&mut transcript)?;
    demo.send_bulk(&mut transcript)?;
    demo.stop(&mut transcript)
}

/// What is printed: lines while it goes on, or one JSON object at the end.
struct Transcript {
    is_json: bool,
    figures: serde_json::Map<String, Value>,
}

impl Transcript {
    fn say(&self, text: impl Display) -> Result<(), Failure> {
        match self.is_json {
            true => Ok(()),
            false => crate::output::print(&format!("{text}\n")),
        }
    }

    fn figure(&mut self, name: &str, value: impl Into<Value>) {
        self.figures.insert(name.to_owned(), value.into());
    }
}

/// One of the three, with what it has received.
struct Member {
    name: &'static str,
    node: Node,
    received: mpsc::Receiver<Received>,
    /// Messages of the bulk that came in order with the content that was sent.
    bulk_right: Arc<AtomicUsize>,
}

enum Received {
    Connected(PeerId, &'static str),
    Disconnected(PeerId),
    Json(PeerId, String, Value),
    Text(PeerId, String),
    /// The last message of the bulk.
    BulkEnd,
}

struct Demo {
    members: [Member; 3],
    block: Arc<[u8]>,
}

impl Member {
    fn start(name: &'static str, block: Arc<[u8]>) -> Result<Member, Failure> {
        let (sender, received) = mpsc::channel();
        let bulk_right = Arc::new(AtomicUsize::new(0));
        let right = bulk_right.clone();
        let node = Node::builder()
            .ephemeral()
            .listen("127.0.0.1:0")
            .protocol("mischief-demo", "1.0")
            .name(name)
            .on_start(move |node| receive(node, sender, block, right))
            .start()
            .map_err(Failure::new)?;
        Ok(Member {
            name,
            node,
            received,
            bulk_right,
        })
    }

    /// The next thing received that `wanted` takes; what does not fit by then is passed over.
    fn wait_for<T>(
        &self,
        what: &str,
        mut wanted: impl FnMut(Received) -> Option<T>,
    ) -> Result<T, Failure> {
        let clock = || self.node.runtime().clock();
        let end = clock() + STEP_DEADLINE;
        loop {
            let rest = end.saturating_sub(clock());
            match self.received.recv_timeout(rest) {
                Ok(received) => {
                    if let Some(found) = wanted(received) {
                        return Ok(found);
                    }
                }
                Err(_) => {
                    return Err(Failure {
                        code: TIMED_OUT,
                        ..failed(format_args!("{} waited in vain for {what}", self.name))
                    });
                }
            }
        }
    }

    fn id(&self) -> PeerId {
        self.node.id()
    }
}

/// Has everything that a node receives passed on, pings sent back and the bulk checked.
fn receive(
    node: &Node,
    sender: mpsc::Sender<Received>,
    block: Arc<[u8]>,
    bulk_right: Arc<AtomicUsize>,
) {
    // A member that is gone wants nothing any more.
    let events = sender.clone();
    node.on_event(move |event| {
        let _ = match event {
            NodeEvent::PeerConnected { peer, suite, .. } => {
                events.send(Received::Connected(*peer, suite))
            }
            NodeEvent::PeerDisconnected { peer, .. } => events.send(Received::Disconnected(*peer)),
            _ => Ok(()),
        };
    });
    let answering = node.downgrade();
    node.on_any(move |peer, message| {
        let _ = match message {
            Message::Json { name, value } => {
                sender.send(Received::Json(*peer, (*name).to_owned(), (*value).clone()))
            }
            Message::Text(text) if text.starts_with(PING) && text.len() > PING.len() => {
                if let Some(node) = answering.upgrade() {
                    drop(node.send_text(peer, &text[..PING.len()]));
                }
                Ok(())
            }
            Message::Text(text) => sender.send(Received::Text(*peer, (*text).to_owned())),
            Message::Bytes(bytes) => {
                let number = bulk_right.load(Ordering::Relaxed);
                if is_bulk_message(bytes, number, &block) {
                    bulk_right.store(number + 1, Ordering::Relaxed);
                }
                match bulk_number(bytes) {
                    Some(number) if number + 1 == BULK_MESSAGES => sender.send(Received::BulkEnd),
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        };
    });
}

/// A message of the bulk: its number, then random bytes that both sides know.
fn bulk_message(number: usize, block: &[u8]) -> Vec<u8> {
    let mut message = block.to_vec();
    message[..8].copy_from_slice(&(number as u64).to_be_bytes());
    message
}

fn bulk_number(message: &[u8]) -> Option<usize> {
    let head = message.first_chunk::<8>()?;
    usize::try_from(u64::from_be_bytes(*head)).ok()
}

fn is_bulk_message(message: &[u8], number: usize, block: &[u8]) -> bool {
    bulk_number(message) == Some(number) && message.get(8..) == block.get(8..)
}

fn failed(error: impl Display) -> Failure {
    Failure::new(error)
}

fn micros(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e7).round() / 10.0
}

impl Demo {
    fn start(transcript: &mut Transcript) -> Result<Demo, Failure> {
        let mut block = vec![0; BULK_MESSAGE_SIZE];
        SystemRandom.fill(&mut block);
        let block: Arc<[u8]> = block.into();
        let start = |name| Member::start(name, block.clone());
        let members = [start("anna")?, start("ben")?, start("carla")?];
        transcript.say("Three nodes, each with an identity of its own that is forgotten again:")?;
        for member in &members {
            let [addr] = member.node.listen_addrs() else {
                return Err(failed("a node listens on one address"));
            };
            let Member { name, node, .. } = member;
            transcript.say(format_args!(
                "  {name:5} is {}, on {addr}",
                node.id().short()
            ))?;
        }
        Ok(Demo { members, block })
    }

    /// Connects each two of them.
    fn connect(&self, transcript: &mut Transcript) -> Result<(), Failure> {
        transcript.say("\nThey connect, encrypted, and prove to each other who they are:")?;
        let [anna, ben, carla] = &self.members;
        let mut times = Vec::new();
        for (from, to) in [(ben, anna), (carla, anna), (carla, ben)] {
            let addr = to.node.listen_addrs()[0].to_string();
            let clock = || from.node.runtime().clock();
            let started = clock();
            let found = from.node.connect_expecting(&addr, to.id()).wait();
            let took = clock().saturating_sub(started);
            let found = found.map_err(|error| Failure::to_connect(&addr, error.kind(), &error))?;
            if found != to.id() {
                return Err(failed("somebody else answered"));
            }
            let connected = |who: PeerId| {
                move |received| match received {
                    Received::Connected(peer, suite) if peer == who => Some(suite),
                    _ => None,
                }
            };
            let suite = from.wait_for("its connection", connected(to.id()))?;
            if to.wait_for("its connection", connected(from.id()))? != suite {
                return Err(failed("the two sides name different suites"));
            }
            times.push(micros(took));
            transcript.say(format_args!(
                "  {:5} -> {:5} handshake {:.2} ms, {suite}",
                from.name,
                to.name,
                took.as_secs_f64() * 1e3
            ))?;
            transcript.figure("suite", suite);
        }
        transcript.figure("handshake_us", times);
        for member in &self.members {
            let peers = member.node.peers().wait().map_err(failed)?;
            if peers.len() != 2 {
                return Err(failed(format_args!(
                    "{} has {} peers instead of 2",
                    member.name,
                    peers.len()
                )));
            }
        }
        Ok(())
    }

    fn exchange_json(&self, transcript: &mut Transcript) -> Result<(), Failure> {
        transcript.say("\nanna asks ben in JSON, and he answers:")?;
        let [anna, ben, _] = &self.members;
        let question = json!({"text": "how many rats make a mischief?"});
        let answer = json!({"text": "three will do", "count": 3});
        for (from, to, kind, value) in [
            (anna, ben, "question", question),
            (ben, anna, "answer", answer),
        ] {
            from.node
                .send(&to.id(), kind, &value)
                .wait_for(STEP_DEADLINE)
                .map_err(failed)?;
            let is_it = |received| match received {
                Received::Json(peer, name, found) if peer == from.id() => Some((name, found)),
                _ => None,
            };
            let (name, found) = to.wait_for("a JSON message", is_it)?;
            if (name.as_str(), &found) != (kind, &value) {
                return Err(failed(format_args!("{} received another value", to.name)));
            }
            transcript.say(format_args!("  {:5} received [{name}] {found}", to.name))?;
        }
        Ok(())
    }

    fn exchange_text(&self, transcript: &mut Transcript) -> Result<(), Failure> {
        transcript.say("\ncarla says something to everybody:")?;
        let [anna, ben, carla] = &self.members;
        let text = "squeak! grüße an alle";
        let delivered = carla
            .node
            .broadcast_text(text)
            .wait_for(STEP_DEADLINE)
            .map_err(failed)?;
        if (delivered.sent, delivered.failed) != (2, 0) {
            return Err(failed("the text did not go to both"));
        }
        for member in [anna, ben] {
            let is_it = |received| match received {
                Received::Text(peer, text) if peer == carla.id() => Some(text),
                _ => None,
            };
            let found = member.wait_for("the text", is_it)?;
            if found != text {
                return Err(failed(format_args!(
                    "{} received another text",
                    member.name
                )));
            }
            transcript.say(format_args!("  {:5} received {found:?}", member.name))?;
        }
        Ok(())
    }

    fn measure_round_trip(&self, transcript: &mut Transcript) -> Result<(), Failure> {
        let [anna, ben, _] = &self.members;
        let clock = || anna.node.runtime().clock();
        let question = format!("{PING}!");
        let mut times = Vec::with_capacity(ROUND_TRIPS);
        for _ in 0..ROUND_TRIPS {
            let started = clock();
            // Whether it was sent the answer tells.
            drop(anna.node.send_text(&ben.id(), &question));
            anna.wait_for("an answer", |received| match received {
                Received::Text(peer, text) if peer == ben.id() && text == PING => Some(()),
                _ => None,
            })?;
            times.push(clock().saturating_sub(started));
        }
        times.sort_unstable();
        let (median, slow) = (times[ROUND_TRIPS / 2], times[ROUND_TRIPS * 99 / 100]);
        transcript.say(format_args!(
            "\n{ROUND_TRIPS} round trips between anna and ben, from thread to thread and back:\n  \
             median {:.1} µs, 99 % below {:.1} µs",
            micros(median),
            micros(slow)
        ))?;
        transcript.figure("round_trip_us", micros(median));
        transcript.figure("round_trip_p99_us", micros(slow));
        Ok(())
    }

    fn send_bulk(&self, transcript: &mut Transcript) -> Result<(), Failure> {
        let [anna, _, carla] = &self.members;
        let total = BULK_MESSAGES * BULK_MESSAGE_SIZE;
        transcript.say(format_args!(
            "\nanna sends carla {} MiB in messages of 1 MiB:",
            total >> 20
        ))?;
        let clock = || anna.node.runtime().clock();
        let way = anna.node.outgoing(&carla.id()).map_err(failed)?;
        let started = clock();
        for number in 0..BULK_MESSAGES {
            let message = bulk_message(number, &self.block);
            loop {
                match way.send_bytes(&message) {
                    Ok(()) => break,
                    Err(SendError::Full) => {
                        way.wait_for_room(STEP_DEADLINE).map_err(failed)?;
                    }
                    Err(error) => return Err(failed(error)),
                }
            }
        }
        carla.wait_for("the end of the bulk", |received| {
            matches!(received, Received::BulkEnd).then_some(())
        })?;
        let took = clock().saturating_sub(started);
        let right = carla.bulk_right.load(Ordering::Relaxed);
        if right != BULK_MESSAGES {
            return Err(failed(format_args!(
                "only {right} of {BULK_MESSAGES} messages came in order with the bytes that were sent"
            )));
        }
        let rate = total as f64 / took.as_secs_f64() / 1e6;
        transcript.say(format_args!(
            "  {:.0} MB/s; all {total} bytes were compared with what was sent",
            rate
        ))?;
        transcript.figure("bulk_bytes", total);
        transcript.figure("bulk_mb_per_s", rate.round());
        Ok(())
    }

    fn stop(self, transcript: &mut Transcript) -> Result<(), Failure> {
        match resident_kib() {
            Some(kib) => {
                transcript.say(format_args!(
                    "\nMemory of this process with all three nodes (resident): {:.1} MiB",
                    kib as f64 / 1024.0
                ))?;
                transcript.figure("resident_kib", kib);
            }
            None => transcript.say("\nThis system does not tell how much memory is resident.")?,
        }
        let [anna, ben, carla] = &self.members;
        if !carla.node.stop(STEP_DEADLINE) {
            return Err(failed("carla did not stop in good order"));
        }
        for member in [anna, ben] {
            member.wait_for("carla's goodbye", |received| match received {
                Received::Disconnected(peer) if peer == carla.id() => Some(()),
                _ => None,
            })?;
        }
        for member in [ben, anna] {
            if !member.node.stop(STEP_DEADLINE) {
                return Err(failed(format_args!(
                    "{} did not stop in good order",
                    member.name
                )));
            }
        }
        if transcript.is_json {
            let figures = Value::Object(std::mem::take(&mut transcript.figures));
            return crate::output::print(&format!("{figures}\n"));
        }
        transcript.say("\nAll of it happened as it says here. Now run your own: mischief node")
    }
}

/// What the process holds of the machine's memory, where the system has a file that says so.
fn resident_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}
