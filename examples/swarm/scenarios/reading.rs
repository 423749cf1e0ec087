//! Streams whose readers pause and go on: below nodes, on actors with bare sockets.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use mischief_reactor::io::driver::ListenOptions;
use mischief_reactor::sim::LinkOptions;
use mischief_reactor::sim::swarm::{Plan, Program, Scenario, Stage};
use mischief_reactor::{Actor, Child, Context, Event, Failure, Limits, Random, SocketId};

use super::party::{PORT, SECOND, addr};

/// One listener and some who send to it.
pub(crate) struct Reading {
    name: &'static str,
    senders: usize,
    bytes: usize,
}

impl Reading {
    pub(crate) const SMALL: Reading = Reading {
        name: "reading",
        senders: 3,
        bytes: 300_000,
    };
}

/// What the reader has seen of all.
type Seen = Arc<Mutex<usize>>;

impl Scenario for Reading {
    fn name(&self) -> &str {
        self.name
    }

    fn about(&self) -> &str {
        "readers of sockets pause and go on, under loss and partitions: every byte comes, once and in its place"
    }

    fn plan(&self, seed: u64) -> Plan {
        let mut plan = Plan::new(seed);
        plan.flaps(1 + self.senders, 2, 5 * SECOND);
        plan.pauses(1 + self.senders, 2, 5 * SECOND);
        plan
    }

    fn run(&self, stage: &Stage) {
        let mut prng = stage.prng(1);
        stage.set_default_link(LinkOptions {
            delay: Duration::from_micros(100 + prng.below(5_000)),
            loss: 0.02,
            ..LinkOptions::default()
        });
        let seen = Seen::default();
        let total = seen.clone();
        stage.machine(&[addr(0)], move |machine| {
            let total = total.clone();
            let reader = Reader {
                seen: total,
                offsets: Vec::new(),
            };
            run_actor(machine, reader)
        });
        for sender in 1..=self.senders {
            let bytes = self.bytes;
            stage.machine(&[addr(sender)], move |machine| {
                run_actor(machine, Sender { bytes })
            });
        }
        stage.begin_faults();
        let all = self.senders * self.bytes;
        let within = stage.faults_last() + 300 * SECOND;
        stage.eventually("all bytes come", within, || {
            *seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) == all
        });
    }
}

fn run_actor<A: Actor + Send>(
    machine: &mischief_reactor::sim::SimNode,
    actor: A,
) -> Result<Box<dyn Program>, String> {
    let runtime = machine
        .start(1, Limits::default())
        .map_err(|error| error.to_string())?;
    let spawned = runtime.handle().spawn(0, move || Child::once(actor));
    spawned.map_err(|error| error.to_string())?;
    Ok(Box::new(runtime))
}

/// The byte that stands at a place of a stream.
fn byte_at(place: usize) -> u8 {
    (place / 251 + place) as u8
}

/// Pauses after every piece, now and then for a while.
struct Reader {
    seen: Seen,
    offsets: Vec<(SocketId, usize)>,
}

impl Actor for Reader {
    type Message = ();

    fn started(&mut self, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        cx.tcp_listen(([0, 0, 0, 0], PORT).into(), ListenOptions::default())?;
        Ok(())
    }

    fn handle(&mut self, (): (), _: &mut Context<'_, Self>) -> Result<(), Failure> {
        Ok(())
    }

    fn on_event(&mut self, event: Event<'_>, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        match event {
            Event::Accepted { socket, .. } => {
                self.offsets.push((socket, 0));
                cx.resume_reading(socket);
            }
            Event::Data { socket, bytes } => {
                let found = self.offsets.iter_mut().find(|(other, _)| *other == socket);
                let (_, offset) = found.expect("it was accepted");
                let is_right = |(at, byte): (usize, &u8)| *byte == byte_at(*offset + at);
                assert!(bytes.iter().enumerate().all(is_right), "a byte is wrong");
                *offset += bytes.len();
                *self
                    .seen
                    .lock()
                    .unwrap_or_else(|poisoned| poisoned.into_inner()) += bytes.len();
                cx.pause_reading(socket);
                let pause = Duration::from_millis(bytes.len() as u64 % 40);
                cx.wake_at(Some(cx.now() + pause), Duration::ZERO);
            }
            Event::Wake => {
                for (socket, _) in self.offsets.clone() {
                    cx.resume_reading(socket);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Sends all it has, as fast as its socket takes it.
struct Sender {
    bytes: usize,
}

impl Actor for Sender {
    type Message = ();

    fn started(&mut self, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        cx.tcp_connect((addr(0), PORT).into(), None)?;
        Ok(())
    }

    fn handle(&mut self, (): (), _: &mut Context<'_, Self>) -> Result<(), Failure> {
        Ok(())
    }

    fn on_event(&mut self, event: Event<'_>, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        if let Event::Connected { socket } = event {
            let bytes: Vec<u8> = (0..self.bytes).map(byte_at).collect();
            cx.write(socket, &bytes)?;
        }
        Ok(())
    }
}
