//! Senders that never stop and a receiver that takes what it likes: windows, keys and queues keep step.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use mischief_reactor::sim::LinkOptions;
use mischief_reactor::sim::swarm::{Scenario, Stage};
use mischief_reactor::{Limits, Random, sabotage};

use super::bare::{self, Bare, Setup};
use super::party::{Desk, SECOND, SharedDesk, addr, join, lock, watch};

/// The window of the application's stream.
const WINDOW: usize = 256 << 10;

/// Some senders and a hoarder.
pub(crate) struct Flow {
    name: &'static str,
    senders: usize,
    messages: u32,
}

impl Flow {
    pub(crate) const SMALL: Flow = Flow {
        name: "flow",
        senders: 2,
        messages: 200,
    };
}

impl Scenario for Flow {
    fn name(&self) -> &str {
        self.name
    }

    fn about(&self) -> &str {
        "fast senders and a slow receiver: windows are kept to, keys are replaced under way, everything arrives"
    }

    fn run(&self, stage: &Stage) {
        let mut prng = stage.prng(1);
        sabotage::watch_nonces(true);
        stage.always("no key and counter seal two frames", |_| {
            let is_reused = sabotage::is_nonce_reused();
            if is_reused {
                Err("one did".to_owned())
            } else {
                Ok(())
            }
        });
        stage.set_default_link(LinkOptions {
            delay: Duration::from_micros(100 + prng.below(3_000)),
            loss: [0.0, 0.02][prng.below(2) as usize],
            ..LinkOptions::default()
        });
        let desks: Vec<SharedDesk> = (0..self.senders).map(Desk::new).collect();
        for desk in &desks {
            let cores = 1 + prng.below(2) as usize;
            let machine = join(stage, desk, cores, |builder| {
                let mut limits = mischief::Limits::default();
                limits.timing = bare::timing();
                builder.limits(limits)
            });
            stage.node(machine).set_tcp_buffers(20_000, 20_000);
        }
        let started: Rc<RefCell<Option<Bare>>> = Rc::default();
        let starting = started.clone();
        stage.machine(&[addr(self.senders)], move |machine| {
            machine.set_short_io(0.3);
            let setup = Setup {
                runtime: Limits::default(),
                timing: bare::timing(),
                reassembly_bytes_max: 1 << 20,
            };
            let (bare, program) = Bare::start(machine, &setup)?;
            *starting.borrow_mut() = Some(bare);
            Ok(program)
        });
        watch(stage, "no sender is wrong", &desks);
        let bare = started.borrow_mut().take().expect("it has just started");
        let (hoard, reassembly) = (bare.hoard.clone(), bare.reassembly.clone());
        stage.always("no more comes than was granted", move |_| {
            let owed = hoard.owed_max();
            if owed > WINDOW + reassembly.max() {
                return Err(format!("{owed} bytes"));
            }
            hoard.failed().map_or(Ok(()), Err)
        });
        let hoarder = bare::identity().peer_id();
        for desk in &desks {
            lock(desk).dial(hoarder, self.senders);
        }
        let connected = || {
            desks
                .iter()
                .all(|desk| lock(desk).out.contains_key(&hoarder))
        };
        stage.eventually("the senders are connected", 20 * SECOND, connected);
        let mut received: BTreeMap<u64, u32> = BTreeMap::new();
        let total = self.senders as u32 * self.messages;
        let begun = stage.world().elapsed();
        while received.values().sum::<u32>() < total {
            let elapsed = stage.world().elapsed() - begun;
            stage.expect(elapsed < 600 * SECOND, || {
                format!("not reached within 600 s: all arrives; {received:?}")
            });
            for desk in &desks {
                let mut desk = lock(desk);
                for _ in 0..prng.below(20) {
                    let most = [50, 2_000, 50_000, 400_000][prng.below(4) as usize];
                    let size = prng.below(most) as usize;
                    let sent = desk.out.get(&hoarder).map_or(0, |out| out.sent);
                    if sent < self.messages && desk.send(&hoarder, size).is_err() {
                        break;
                    }
                }
            }
            stage.run_for(Duration::from_millis(prng.below(100)));
            // Nothing for a while, then some, then much.
            let deliveries = [0, 0, 1, 5, 1000][prng.below(5) as usize];
            bare.hoard.consume(deliveries);
            for head in bare.hoard.take_heads() {
                let tag = u64::from_le_bytes(head[..8].try_into().expect("it has eight bytes"));
                let number = u32::from_le_bytes(head[8..12].try_into().expect("it has four"));
                let next = received.entry(tag).or_default();
                stage.expect(*next == number, || {
                    format!("message {number} of {tag:x} in place of {next}")
                });
                *next += 1;
            }
            let went = bare.hoard.went();
            stage.expect(went.is_empty(), || format!("a sender went: {went:?}"));
        }
        let lost = desks.iter().flat_map(|desk| lock(desk).went.clone());
        let lost: Vec<_> = lost.collect();
        stage.expect(lost.is_empty(), || format!("the receiver went: {lost:?}"));
    }
}
