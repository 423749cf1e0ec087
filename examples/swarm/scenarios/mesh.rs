//! Nodes in a random graph, while everything that may happen to networks and machines happens.

use std::collections::BTreeSet;
use std::time::Duration;

use mischief::NodeBuilder;
use mischief_reactor::sim::swarm::{Fault, Plan, Scenario, Stage};
use mischief_reactor::sim::{Bandwidth, Distribution, Flaps, LinkOptions, Prng};
use mischief_reactor::{Limits, Random};

use super::party::{Desk, Footprint, SECOND, SharedDesk, join, join_with, lock, until_idle, watch};

/// How often every node looks whom to dial, and sends.
const BEAT: Duration = Duration::from_millis(250);
/// Bytes that may wait for one peer: the mark of docs/wire.md's sender, and one message more.
const QUEUED_MAX: usize = (1 << 20) + MESSAGE_MAX + 64;
const MESSAGE_MAX: usize = 400_000;
/// The memory of a machine that has little.
const MEMORY_TIGHT: usize = 2 << 20;

/// A random graph of nodes.
pub(crate) struct Mesh {
    name: &'static str,
    machines: usize,
    /// Edges for each machine, those that others draw to it not counted.
    degree: usize,
    /// Faults of each kind in each of two rounds.
    faults: usize,
}

impl Mesh {
    pub(crate) const SMALL: Mesh = Mesh {
        name: "mesh",
        machines: 8,
        degree: 2,
        faults: 3,
    };
    pub(crate) const LARGE: Mesh = Mesh {
        name: "mesh-500",
        machines: 500,
        degree: 3,
        faults: 60,
    };
    const ROUND: Duration = Duration::from_secs(30);
}

/// Notices a dead peer within ten seconds, and replaces keys now and then.
fn impatient(builder: NodeBuilder) -> NodeBuilder {
    let mut limits = mischief::Limits::default();
    limits.timing.keep_alive = 5 * SECOND;
    limits.timing.ping_timeout = 2 * SECOND;
    limits.timing.rekey_frames = 50;
    builder.limits(limits)
}

impl Scenario for Mesh {
    fn name(&self) -> &str {
        self.name
    }

    fn about(&self) -> &str {
        "a random graph under loss, flaps, partitions and crashes: no message lost, doubled or out of order, no leak"
    }

    fn plan(&self, seed: u64) -> Plan {
        let mut plan = Plan::new(seed);
        let (machines, within) = (self.machines, Mesh::ROUND);
        plan.crashes(machines, self.faults, within);
        plan.cuts(machines, self.faults, within);
        plan.flaps(machines, self.faults.div_ceil(2), within);
        plan.isolations(machines, self.faults, within);
        plan.pauses(machines, self.faults, within);
        plan.moves(machines, self.faults, within);
        plan.troubles(machines, self.faults, within);
        plan
    }

    fn run(&self, stage: &Stage) {
        let mut prng = stage.prng(1);
        stage.set_default_link(weather(&mut prng));
        let desks: Vec<SharedDesk> = (0..self.machines).map(Desk::new).collect();
        for (number, desk) in desks.iter().enumerate() {
            // Some are short of memory from the beginning, and have kernels that take and give little at a time.
            let is_tight = prng.below(3) == 0;
            let mut limits = Limits::default();
            if is_tight {
                limits.memory_max = MEMORY_TIGHT;
            }
            let machine = join_with(stage, desk, 1 + number % 2, limits, impatient);
            if is_tight {
                let node = stage.node(machine);
                node.set_tcp_buffers(8_000, 5_000);
                node.set_short_io(0.5);
            }
            let node = lock(desk).node().expect("it has just started");
            lock(desk).idle = Footprint::of_node(&node);
        }
        watch(
            stage,
            "messages come once and in order, on one connection",
            &desks,
        );
        watch_queues(stage, &desks);
        let edges = self.edges(&mut prng);
        let mut party = Party {
            stage,
            desks: &desks,
            edges,
            prng,
        };
        party.until_connected(60 * SECOND);
        stage.begin_faults();
        let over = stage.world().elapsed() + Mesh::ROUND.max(stage.faults_last());
        while stage.world().elapsed() < over {
            party.beat(true);
        }
        // A dead connection is noticed, and the last dial of the bad time given up.
        party.until_connected(180 * SECOND);
        for _ in 0..20 {
            party.beat(true);
        }
        party.until_arrived(120 * SECOND);
        party.check_connected();
        party.part();
    }
}

/// Links that lose 5 % and differ from seed to seed in all else.
fn weather(prng: &mut Prng) -> LinkOptions {
    let distributions = [
        Distribution::Uniform,
        Distribution::Normal,
        Distribution::LongTail,
    ];
    LinkOptions {
        delay: Duration::from_micros(200 + prng.below(20_000)),
        jitter: Duration::from_micros(prng.below(20_000)),
        distribution: distributions[prng.below(3) as usize],
        loss: 0.05,
        duplicate: [0.0, 0.02][prng.below(2) as usize],
        reorder: [0.0, 0.05][prng.below(2) as usize],
        bandwidth: (prng.below(2) == 0).then(|| Bandwidth::new(500_000 + prng.below(5_000_000))),
        flaps: (prng.below(4) == 0).then_some(Flaps {
            up: 20 * SECOND,
            down: SECOND,
        }),
        ..LinkOptions::default()
    }
}

impl Mesh {
    /// Each machine and some others; the smaller number first.
    fn edges(&self, prng: &mut Prng) -> Vec<(usize, usize)> {
        let mut edges = BTreeSet::new();
        for machine in 0..self.machines {
            for _ in 0..self.degree {
                let others = self.machines as u64 - 1;
                let other = (machine + 1 + prng.below(others) as usize) % self.machines;
                edges.insert((machine.min(other), machine.max(other)));
            }
        }
        edges.into_iter().collect()
    }
}

fn watch_queues(stage: &Stage, desks: &[SharedDesk]) {
    let places: std::collections::BTreeMap<_, _> = desks
        .iter()
        .enumerate()
        .map(|(place, desk)| (stage.node(place).id(), desk.clone()))
        .collect();
    stage.always("send queues stay below their mark", move |world| {
        let ran = world.last_run().and_then(|machine| places.get(&machine));
        match ran.map_or(0, |desk| lock(desk).queued_max()) {
            too_many if too_many > QUEUED_MAX => Err(format!("{too_many} bytes")),
            _ => Ok(()),
        }
    });
}

struct Party<'a> {
    stage: &'a Stage,
    desks: &'a [SharedDesk],
    edges: Vec<(usize, usize)>,
    prng: Prng,
}

impl Party<'_> {
    /// Whoever misses a neighbour dials it; everybody sends to some.
    fn beat(&mut self, sends: bool) {
        for (a, b) in self.edges.clone() {
            for (from, to) in [(a, b), (b, a)] {
                let Some(peer) = lock(&self.desks[to]).id else {
                    continue;
                };
                let mut desk = lock(&self.desks[from]);
                // Both ends may dial, so that they do it at once now and then.
                if from < to || self.prng.below(8) == 0 {
                    desk.dial(peer, to);
                }
                if sends && self.prng.below(2) == 0 {
                    let most = match self.prng.below(40) {
                        0 => MESSAGE_MAX,
                        1..5 => 20_000,
                        _ => 300,
                    };
                    let size = self.prng.below(most as u64) as usize;
                    // A queue that is full stays so until the peer takes something.
                    let _ = desk.send(&peer, size);
                }
            }
        }
        self.stage.run_for(BEAT);
    }

    fn id(&self, machine: usize) -> mischief::PeerId {
        lock(&self.desks[machine]).id.expect("it has run")
    }

    /// Neighbours that are not connected on both sides.
    fn missing(&self) -> impl Iterator<Item = (usize, usize)> {
        let has = |one: usize, other: usize| {
            let peer = self.id(other);
            lock(&self.desks[one]).out.contains_key(&peer)
        };
        let is_missing = move |(a, b): &(usize, usize)| !(has(*a, *b) && has(*b, *a));
        self.edges.iter().copied().filter(is_missing)
    }

    fn until_connected(&mut self, within: Duration) {
        let deadline = self.stage.world().elapsed() + within;
        while self.missing().next().is_some() {
            if self.stage.world().elapsed() >= deadline {
                let missing: Vec<_> = self.missing().take(5).collect();
                let what = format!(
                    "not reached within {within:?}: all neighbours are connected; missing {missing:?}"
                );
                self.stage.fail(&what);
            }
            self.beat(false);
        }
    }

    /// Waits until all that was sent on a connection that stands has come out at its other end.
    fn until_arrived(&mut self, within: Duration) {
        let counts = |a: usize, b: usize| {
            let sent = lock(&self.desks[a])
                .out
                .get(&self.id(b))
                .map(|out| out.sent);
            let come = lock(&self.desks[b])
                .inbox
                .get(&self.id(a))
                .map(|inbox| inbox.received);
            (sent, come)
        };
        let arrived = || {
            let has_arrived = |&(a, b): &(usize, usize)| {
                [(a, b), (b, a)].into_iter().all(|(a, b)| {
                    let (sent, come) = counts(a, b);
                    sent == come
                })
            };
            self.edges.iter().all(has_arrived)
        };
        let deadline = self.stage.world().elapsed() + within;
        while !arrived() {
            if self.stage.world().elapsed() >= deadline {
                let late = self.edges.iter().flat_map(|&(a, b)| [(a, b), (b, a)]);
                let late = late.map(|(a, b)| (a, b, counts(a, b)));
                let late: Vec<_> = late.filter(|(_, _, (sent, come))| sent != come).collect();
                let what =
                    format!("not reached within {within:?}: what was sent arrives; {late:?}");
                self.stage.fail(&what);
            }
            self.stage.run_for(BEAT);
        }
    }

    fn footprint(&self, machine: usize) -> (Footprint, Footprint, usize) {
        let node = lock(&self.desks[machine]).node();
        let node = node.unwrap_or_else(|| self.stage.fail(&format!("machine {machine} is down")));
        let footprint = Footprint::of_node(&node).expect("it runs");
        let desk = lock(&self.desks[machine]);
        let idle = desk.idle.clone().expect("it was measured");
        (footprint, idle, desk.inbox.len())
    }

    fn check_connected(&self) {
        self.stage.run_for(15 * SECOND);
        for machine in 0..self.desks.len() {
            self.check_footprint(machine);
        }
    }

    /// A socket and an actor for each peer, and nothing else.
    fn check_footprint(&self, machine: usize) {
        let (footprint, idle, peers) = self.footprint(machine);
        let count = |footprint: &Footprint| footprint.actors.values().sum::<usize>();
        let more = (
            (footprint.sockets - idle.sockets) as usize,
            count(&footprint) - count(&idle),
            footprint.memory,
        );
        self.stage.expect(more == (peers, peers, idle.memory), || {
            format!("machine {machine} has {peers} peers and {footprint:?}; idle {idle:?}")
        });
    }

    /// All say goodbye. Nothing is left then, no socket, actor, timer or buffer.
    fn part(&mut self) {
        for desk in self.desks {
            let node = lock(desk).node().expect("it was looked at");
            for peer in node.peer_ids() {
                drop(node.disconnect(&peer));
            }
        }
        let parted = || self.desks.iter().all(|desk| lock(desk).inbox.is_empty());
        self.stage
            .eventually("all have parted", 60 * SECOND, parted);
        until_idle(self.stage, self.desks);
    }
}

/// Machines that crash one after another, with time to count in between.
pub(crate) struct Crashes;

impl Crashes {
    const MACHINES: usize = 5;
    const COUNT: usize = 3;
    /// From one crash to the next.
    const PERIOD: Duration = Duration::from_secs(120);
    const DOWN: Duration = Duration::from_secs(60);
}

impl Scenario for Crashes {
    fn name(&self) -> &str {
        "crashes"
    }

    fn about(&self) -> &str {
        "after each crash nobody keeps a socket, timer, actor or buffer for who is gone"
    }

    fn plan(&self, seed: u64) -> Plan {
        // Which machines and how, all at once first and then spread out.
        let mut drawn = Plan::new(seed);
        drawn.crashes(Crashes::MACHINES, Crashes::COUNT, Duration::ZERO);
        let mut spread = Plan::new(seed);
        for (number, timed) in drawn.faults().iter().enumerate() {
            let Fault::Crash { machine, crash, .. } = timed.fault else {
                continue;
            };
            let at = Crashes::PERIOD * number as u32 + Crashes::PERIOD / 2;
            let at = at + spread.prng().up_to(SECOND);
            let down = Crashes::DOWN;
            spread.add(
                at,
                Fault::Crash {
                    machine,
                    crash,
                    down,
                },
            );
        }
        spread
    }

    fn run(&self, stage: &Stage) {
        let mut prng = stage.prng(1);
        stage.set_default_link(LinkOptions {
            loss: 0.02,
            ..LinkOptions::default()
        });
        let desks: Vec<SharedDesk> = (0..Crashes::MACHINES).map(Desk::new).collect();
        for (number, desk) in desks.iter().enumerate() {
            join(stage, desk, 1 + number % 2, impatient);
            let node = lock(desk).node().expect("it has just started");
            lock(desk).idle = Footprint::of_node(&node);
        }
        watch(
            stage,
            "messages come once and in order, on one connection",
            &desks,
        );
        let all = 0..Crashes::MACHINES;
        let edges = all.flat_map(|a| (a + 1..Crashes::MACHINES).map(move |b| (a, b)));
        let mut party = Party {
            stage,
            desks: &desks,
            edges: edges.collect(),
            prng: prng.clone(),
        };
        let begun = stage.world().elapsed();
        stage.begin_faults();
        for number in 0..Crashes::COUNT as u32 {
            let crash = begun + Crashes::PERIOD * number + Crashes::PERIOD / 2;
            party.until_connected(Crashes::PERIOD / 3);
            stage.run_for((crash - 2 * SECOND).saturating_sub(stage.world().elapsed()));
            while stage.world().elapsed() < crash + SECOND {
                party.beat(true);
            }
            // Nobody dials until it is counted what is left; the dead peer is noticed by then.
            stage.run_for(Duration::from_secs(25) + Duration::from_micros(prng.below(1000)));
            for machine in 0..Crashes::MACHINES {
                if stage.incarnation(machine).is_some() {
                    party.check_footprint(machine);
                }
            }
            let back = crash + SECOND + Crashes::DOWN;
            stage.run_for(back.saturating_sub(stage.world().elapsed()));
        }
        party.until_connected(Crashes::PERIOD);
        party.part();
    }
}
