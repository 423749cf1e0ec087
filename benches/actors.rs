//! What does the actor framework cost by itself: a message, a question, a birth, a timer, an actor that is idle?
//!
//! Messages on one core are compared with the least there can be: one queue of one enum, and a `match`; and the same work
//! is done with other actors (`rivals/`): tasks with channels on tokio, actix, ractor, kameo. What happens on one core is
//! measured in processor time, which other work on the machine touches less.
//!
//! Parts, for `--part`: `rivals`, which is all that criterion drives, `messages`, `between`, `questions`, `lives`, `timers`.

use std::collections::VecDeque;
use std::hint::black_box;
use std::time::{Duration, Instant};

use counting_allocator::{Counting, held};
use mischief_benches::harness::{Bench, Budget, Contender, Cost, Measure, Question as Compare};
use mischief_benches::system::process_cpu;
use serde_json::{Value, json};

use mischief_reactor::{
    Actor, Address, Child, Context, Event, Failure, Handle, Limits, MailboxLimits, Message,
    OneShot, Reply, Runtime, TimerId, TrySendError,
};

mod rivals;

use rivals::{FAN_NUMBERS, RIVALS, Rival};

#[path = "counting_allocator.rs"]
#[expect(dead_code, reason = "other programs ask it for more")]
mod counting_allocator;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const PATIENCE: Duration = Duration::from_secs(60);

/// A name for `--part`, and what it does.
type Part = (&'static str, fn(&Bench));

fn main() {
    let bench = Bench::comparing("actors");
    let parts: [Part; 6] = [
        ("rivals", beside_rivals),
        ("messages", messages),
        ("between", across_cores),
        ("questions", questions),
        ("lives", lives),
        ("timers", timers),
    ];
    for (name, part) in parts {
        if bench.wants(name) && (name == "rivals" || !bench.is_criterion()) {
            part(&bench);
        }
    }
}

/// How long `run` takes.
fn time(run: impl FnOnce()) -> Duration {
    let start = Instant::now();
    run();
    start.elapsed()
}

/// How much of the processors `run` takes.
fn cpu(run: impl FnOnce()) -> Duration {
    let start = process_cpu();
    run();
    process_cpu() - start
}

/// Millions a second.
fn millions(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64() / 1e6
}

/// Nanoseconds each.
fn nanos(count: u64, time: Duration) -> f64 {
    time.as_nanos() as f64 / count as f64
}

/// A measurement that is repeated, after a first time that does not count.
fn repeat(bench: &Bench, mut run: impl FnMut() -> f64) -> Vec<f64> {
    run();
    bench.repeat(run)
}

/// Each value by the one measured next to it.
fn ratios(of: &[f64], to: &[f64]) -> Vec<f64> {
    of.iter().zip(to).map(|(of, to)| of / to).collect()
}

fn runtime(cores: usize) -> Runtime {
    let mut limits = Limits::default();
    limits.mailbox = MailboxLimits {
        messages: 1 << 16,
        bytes: 64 << 20,
    };
    Runtime::builder()
        .cores(cores)
        .limits(limits)
        .start()
        .expect("starts")
}

// ---- local messages

/// The same program without a framework: one queue of one enum, with the same messages, for a vector of one enum, with
/// the same actors. No bounds, no supervision, no types that it does not know, no other cores.
enum Bare {
    Play(usize, BarePlay),
    Count(usize, Count),
}

enum BarePlay {
    Peer(usize),
    Ball { left: u64 },
    Done(Reply<()>),
    Number(u64),
    Burst { to: usize, left: u64 },
}

enum BareActor {
    Player(BarePlayer),
    Counter(Counter),
}

struct BarePlayer {
    peer: Option<usize>,
    sum: u64,
    done: Option<Reply<()>>,
}

impl BarePlayer {
    fn handle(&mut self, me: usize, play: BarePlay, queue: &mut VecDeque<Bare>) {
        match play {
            BarePlay::Ball { left: 0 } => {
                if let Some(done) = self.done.take() {
                    done.send(());
                }
            }
            BarePlay::Ball { left } => {
                self.sum += left;
                if let Some(peer) = self.peer {
                    queue.push_back(Bare::Play(peer, BarePlay::Ball { left: left - 1 }));
                }
            }
            BarePlay::Number(number) => self.sum += number,
            BarePlay::Peer(peer) => self.peer = Some(peer),
            BarePlay::Done(done) => self.done = Some(done),
            BarePlay::Burst { to, left } => {
                for number in 0..left.min(BURST) {
                    queue.push_back(Bare::Play(to, BarePlay::Number(number)));
                }
                let left = left - left.min(BURST);
                if left > 0 {
                    queue.push_back(Bare::Play(me, BarePlay::Burst { to, left }));
                } else if let Some(done) = self.done.take() {
                    done.send(());
                }
            }
        }
    }
}

/// Runs the program until its queue is empty.
fn bare(handle: &Handle, players: usize, begin: impl FnOnce(&mut VecDeque<Bare>)) -> Duration {
    let player = |index| BarePlayer {
        peer: Some(index ^ 1),
        sum: 0,
        done: None,
    };
    let mut actors: Vec<BareActor> = (0..players)
        .map(|index| BareActor::Player(player(index)))
        .collect();
    actors.push(BareActor::Counter(Counter {
        left: 1,
        done: None,
    }));
    let mut queue = VecDeque::new();
    let (reply, answer) = OneShot::pair(handle);
    queue.push_back(Bare::Play(players.max(2) - 2, BarePlay::Done(reply)));
    queue.push_back(Bare::Play(0, BarePlay::Peer(1)));
    queue.push_back(Bare::Count(players, Count::Number(1)));
    begin(&mut queue);
    let took = cpu(|| {
        while let Some(message) = queue.pop_front() {
            match message {
                Bare::Play(to, play) => {
                    if let BareActor::Player(player) = &mut actors[to] {
                        player.handle(to, play, &mut queue);
                    }
                }
                Bare::Count(to, count) => {
                    if let BareActor::Counter(counter) = &mut actors[to] {
                        counter.count(count);
                    }
                }
            }
        }
    });
    answer.wait().expect("done");
    black_box(&actors);
    took
}

/// Numbers sent in one go before they are handled.
const BURST: u64 = 1024;

struct Player {
    peer: Option<Address<Player>>,
    sum: u64,
    done: Option<Reply<()>>,
}

enum Play {
    Peer(Address<Player>),
    Ball {
        left: u64,
    },
    Done(Reply<()>),
    Number(u64),
    /// Send so many numbers, in bursts.
    Burst {
        to: Address<Player>,
        left: u64,
    },
}

impl Message for Play {}

impl Player {
    fn new() -> Player {
        Player {
            peer: None,
            sum: 0,
            done: None,
        }
    }
}

impl Actor for Player {
    type Message = Play;

    fn handle(&mut self, play: Play, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        match play {
            Play::Ball { left: 0 } => {
                if let Some(done) = self.done.take() {
                    done.send(());
                }
            }
            Play::Ball { left } => {
                self.sum += left;
                if let Some(peer) = &self.peer {
                    cx.send(peer, Play::Ball { left: left - 1 })?;
                }
            }
            Play::Number(number) => self.sum += number,
            Play::Peer(peer) => self.peer = Some(peer),
            Play::Done(done) => self.done = Some(done),
            Play::Burst { to, left } => {
                for number in 0..left.min(BURST) {
                    cx.send(&to, Play::Number(number))?;
                }
                let left = left - left.min(BURST);
                if left > 0 {
                    let me = cx.address();
                    cx.send(&me, Play::Burst { to, left })?;
                } else if let Some(done) = self.done.take() {
                    done.send(());
                }
            }
        }
        Ok(())
    }
}

fn player(handle: &Handle, core: usize) -> Address<Player> {
    handle
        .spawn(core, || Child::once(Player::new()))
        .expect("spawned")
}

/// Has `first` answer when it is done, and waits for that.
fn until_done(handle: &Handle, first: &Address<Player>, begin: impl FnOnce()) {
    let answer = handle.ask(first, Play::Done, PATIENCE);
    begin();
    answer.wait().expect("done");
}

fn ping_pong(handle: &Handle, players: &[Address<Player>], hits: u64) {
    let pairs = players.len() as u64 / 2;
    // An even number: each ball ends where it began, and all of them end together.
    let left = (hits / pairs) & !1;
    let last = &players[players.len() - 2];
    until_done(handle, last, || {
        for first in players.iter().step_by(2) {
            handle.try_send(first, Play::Ball { left }).expect("room");
        }
    });
}

fn compare(bench: &Bench, name: &str, count: u64, bare: impl Fn() -> Duration, ours: impl Fn()) {
    let mut bare_rates = Vec::new();
    let rates = repeat(bench, || {
        bare_rates.push(millions(count, bare()));
        millions(count, cpu(&ours))
    });
    let bare_rates = &bare_rates[1..];
    let unit = "M messages/s";
    bench.figure(
        &format!("{name}, bare queue"),
        unit,
        Budget::None,
        bare_rates,
    );
    bench.figure(&format!("{name}, actors"), unit, Budget::None, &rates);
    let budget = Budget::AtLeast(0.7);
    bench.figure(
        &format!("{name}, actors to bare queue"),
        "",
        budget,
        &ratios(&rates, bare_rates),
    );
}

fn messages(bench: &Bench) {
    let count = bench.size(20_000_000, 20_000);
    let runtime = runtime(1);
    let handle = runtime.handle();
    for pairs in [1, 64] {
        let players: Vec<_> = (0..2 * pairs).map(|_| player(&handle, 0)).collect();
        for (index, address) in players.iter().enumerate() {
            let peer = players[index ^ 1];
            handle.try_send(address, Play::Peer(peer)).expect("room");
        }
        compare(
            bench,
            &format!("to and fro, {pairs} at once"),
            count,
            || {
                let left = (count / pairs as u64) & !1;
                bare(&handle, 2 * pairs, |queue| {
                    for pair in 0..pairs {
                        queue.push_back(Bare::Play(2 * pair, BarePlay::Ball { left }));
                    }
                })
            },
            || ping_pong(&handle, &players, count),
        );
    }
    let (sender, receiver) = (player(&handle, 0), player(&handle, 0));
    compare(
        bench,
        &format!("one way, {BURST} at once"),
        count,
        || {
            bare(&handle, 2, |queue| {
                let burst = BarePlay::Burst { to: 1, left: count };
                queue.push_back(Bare::Play(0, burst));
            })
        },
        || {
            until_done(&handle, &sender, || {
                let burst = Play::Burst {
                    to: receiver,
                    left: count,
                };
                handle.try_send(&sender, burst).expect("room");
            });
        },
    );
    runtime.shutdown(PATIENCE);
}

// ---- between cores

/// Sends numbers to another core as fast as there is room.
struct Flooder {
    to: Address<Counter>,
    left: u64,
}

struct Go(u64);

impl Message for Go {}

impl Flooder {
    fn flood(&mut self, cx: &mut Context<'_, Self>) {
        while self.left > 0 {
            match cx.send(&self.to, Count::Number(self.left)) {
                Ok(()) => self.left -= 1,
                Err(TrySendError::Full(_)) => return cx.notify_ready(self.to.id()),
                Err(TrySendError::Stopped(_)) => return,
            }
        }
    }
}

impl Actor for Flooder {
    type Message = Go;

    fn handle(&mut self, Go(count): Go, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        self.left = count;
        self.flood(cx);
        Ok(())
    }

    fn on_event(&mut self, event: Event<'_>, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        if let Event::Ready(_) = event {
            self.flood(cx);
        }
        Ok(())
    }
}

/// Counts down, and answers at the end.
struct Counter {
    left: u64,
    done: Option<Reply<()>>,
}

enum Count {
    Number(u64),
    Until(u64, Reply<()>),
}

impl Message for Count {}

impl Actor for Counter {
    type Message = Count;

    fn handle(&mut self, count: Count, _: &mut Context<'_, Self>) -> Result<(), Failure> {
        self.count(count);
        Ok(())
    }
}

impl Counter {
    fn count(&mut self, count: Count) {
        match count {
            Count::Number(number) => {
                black_box(number);
                self.left -= 1;
                if self.left == 0
                    && let Some(done) = self.done.take()
                {
                    done.send(());
                }
            }
            Count::Until(left, done) => (self.left, self.done) = (left, Some(done)),
        }
    }
}

fn across_cores(bench: &Bench) {
    let count = bench.size(10_000_000, 20_000);
    let runtime = runtime(2);
    let handle = runtime.handle();
    let pairs: Vec<_> = (0..2)
        .map(|core| {
            let counter = || {
                Child::once(Counter {
                    left: 0,
                    done: None,
                })
            };
            let to = handle.spawn(1 - core, counter).expect("spawned");
            let from = handle.spawn(core, move || Child::once(Flooder { to, left: 0 }));
            (from.expect("spawned"), to)
        })
        .collect();
    for (name, pairs, budget) in [
        ("one way", &pairs[..1], Budget::AtLeast(20.0)),
        ("both ways", &pairs[..], Budget::None),
    ] {
        let mut cpu_ns = Vec::new();
        let sum = count * pairs.len() as u64;
        let rates = repeat(bench, || {
            let begin = process_cpu();
            let took = time(|| flood(&handle, pairs, count));
            cpu_ns.push(nanos(sum, process_cpu() - begin));
            millions(sum, took)
        });
        bench.figure(
            &format!("between cores, {name}"),
            "M messages/s",
            budget,
            &rates,
        );
        let name = format!("between cores, {name}, both cores");
        bench.figure(&name, "ns CPU/message", Budget::None, &cpu_ns[1..]);
    }
    let (left, right) = (player(&handle, 0), player(&handle, 1));
    handle.try_send(&left, Play::Peer(right)).expect("room");
    handle.try_send(&right, Play::Peer(left)).expect("room");
    let hits = bench.option("--hits").unwrap_or(bench.size(100_000, 1_000));
    let values = repeat(bench, || {
        nanos(hits, time(|| ping_pong(&handle, &[left, right], hits)))
    });
    bench.figure("between cores, one at a time", "ns", Budget::None, &values);
    runtime.shutdown(PATIENCE);
}

fn flood(handle: &Handle, pairs: &[(Address<Flooder>, Address<Counter>)], count: u64) {
    let ask = |(_, to): &(_, Address<Counter>)| {
        handle.ask(to, |reply| Count::Until(count, reply), PATIENCE)
    };
    let answers: Vec<_> = pairs.iter().map(ask).collect();
    for (from, _) in pairs {
        handle.try_send(from, Go(count)).expect("room");
    }
    for answer in answers {
        answer.wait().expect("done");
    }
}

// ---- questions

/// Asks another actor so often, so many at a time.
struct Asker {
    to: Address<Oracle>,
    left: u64,
    open: u64,
    done: Option<Reply<()>>,
}

enum Asking {
    Begin {
        count: u64,
        at_once: u64,
        done: Reply<()>,
    },
    Answer(u64),
}

impl Message for Asking {}

struct Oracle;

struct Question(Reply<u64>);

impl Message for Question {}

impl Actor for Oracle {
    type Message = Question;

    fn handle(&mut self, question: Question, _: &mut Context<'_, Self>) -> Result<(), Failure> {
        question.0.send(42);
        Ok(())
    }
}

impl Asker {
    fn ask(&mut self, cx: &mut Context<'_, Self>) {
        self.left -= 1;
        self.open += 1;
        cx.ask(&self.to, Question, PATIENCE, |answer| {
            Asking::Answer(answer.unwrap_or(0))
        });
    }
}

impl Actor for Asker {
    type Message = Asking;

    fn handle(&mut self, message: Asking, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        match message {
            Asking::Begin {
                count,
                at_once,
                done,
            } => {
                (self.left, self.done) = (count, Some(done));
                for _ in 0..at_once.min(count) {
                    self.ask(cx);
                }
            }
            Asking::Answer(answer) => {
                black_box(answer);
                self.open -= 1;
                if self.left > 0 {
                    self.ask(cx);
                } else if self.open == 0
                    && let Some(done) = self.done.take()
                {
                    done.send(());
                }
            }
        }
        Ok(())
    }
}

fn questions(bench: &Bench) {
    let runtime = runtime(2);
    let handle = runtime.handle();
    let oracle = handle.spawn(0, || Child::once(Oracle)).expect("spawned");
    for (core, place) in [(0, "same core"), (1, "other core")] {
        let asker = move || {
            Child::once(Asker {
                to: oracle,
                left: 0,
                open: 0,
                done: None,
            })
        };
        let asker = handle.spawn(core, asker).expect("spawned");
        for at_once in [1, 64] {
            let count = bench.size(200_000, 1_000);
            let ask = || {
                let begin = |done| Asking::Begin {
                    count,
                    at_once,
                    done,
                };
                handle.ask(&asker, begin, PATIENCE).wait().expect("done");
            };
            let (unit, values) = if core == 0 {
                ("ns CPU", repeat(bench, || nanos(count, cpu(ask))))
            } else {
                ("ns", repeat(bench, || nanos(count, time(ask))))
            };
            let name = format!("ask on the {place}, {at_once} at once");
            bench.figure(&name, unit, Budget::None, &values);
        }
    }
    let count = bench.size(20_000, 200);
    let values = repeat(bench, || {
        let took = time(|| {
            for _ in 0..count {
                let answer = handle.ask(&oracle, Question, PATIENCE).wait();
                answer.expect("answers");
            }
        });
        nanos(count, took)
    });
    bench.figure("ask from a thread", "ns", Budget::None, &values);
    runtime.shutdown(PATIENCE);
}

// ---- lives

/// An actor with as little state as there is.
struct Idle(#[expect(dead_code, reason = "state of a known size")] u64);

impl Actor for Idle {
    type Message = ();

    fn handle(&mut self, (): (), _: &mut Context<'_, Self>) -> Result<(), Failure> {
        Ok(())
    }
}

/// Spawns many, and answers when all have started.
struct Mother;

struct Spawn {
    count: u64,
    reply: Reply<()>,
}

impl Message for Spawn {}

impl Actor for Mother {
    type Message = Spawn;

    fn handle(&mut self, spawn: Spawn, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        for number in 0..spawn.count {
            cx.spawn(Child::once(Idle(number)))?;
        }
        // The last of them is asked once all have started.
        let last = cx.spawn(Child::once(Last))?;
        cx.send(&last, spawn)?;
        Ok(())
    }
}

struct Last;

impl Actor for Last {
    type Message = Spawn;

    fn handle(&mut self, spawn: Spawn, _: &mut Context<'_, Self>) -> Result<(), Failure> {
        spawn.reply.send(());
        Ok(())
    }
}

/// What actors cost, each.
struct Lives {
    spawn_ns: f64,
    stop_ns: f64,
    bytes: f64,
}

fn live(count: u64) -> Lives {
    let runtime = runtime(1);
    let handle = runtime.handle();
    let mother = handle.spawn(0, || Child::once(Mother)).expect("spawned");
    let spawn = || {
        let answer = handle.ask(&mother, |reply| Spawn { count, reply }, PATIENCE);
        answer.wait().expect("spawned");
    };
    let before = held().bytes;
    let spawned = cpu(spawn);
    let bytes = settled() - before;
    let stopped = cpu(|| {
        handle.stop(mother.id());
        handle.stopped(mother.id()).wait().expect("stopped");
    });
    runtime.shutdown(PATIENCE);
    Lives {
        spawn_ns: nanos(count, spawned),
        stop_ns: nanos(count, stopped),
        bytes: bytes as f64 / count as f64 - size_of::<Idle>() as f64,
    }
}

/// What is held once the core has gone to sleep and given back what it no longer needs.
fn settled() -> usize {
    let mut last = held().bytes;
    loop {
        std::thread::sleep(Duration::from_millis(20));
        let now = held().bytes;
        if now == last {
            return now;
        }
        last = now;
    }
}

fn lives(bench: &Bench) {
    let count = bench.size(100_000, 1_000);
    let mut lives = Vec::new();
    repeat(bench, || {
        lives.push(live(count));
        0.0
    });
    let values = |of: fn(&Lives) -> f64| lives[1..].iter().map(of).collect::<Vec<_>>();
    let budget = Budget::AtMost(150.0);
    bench.figure(
        "spawn and start",
        "ns CPU",
        budget,
        &values(|lives| lives.spawn_ns),
    );
    bench.figure(
        "stop",
        "ns CPU",
        Budget::None,
        &values(|lives| lives.stop_ns),
    );
    let budget = Budget::AtMost(128.0);
    let bytes = values(|lives| lives.bytes);
    bench.figure("an idle actor beside its state", "bytes", budget, &bytes);
    bench.result("actor_bytes", &json!({}), &bytes);
}

// ---- timers

struct Clock;

struct Wind {
    count: u64,
    reply: Reply<(Duration, Duration)>,
}

impl Message for Wind {}

impl Actor for Clock {
    type Message = Wind;

    fn handle(&mut self, wind: Wind, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        let now = cx.now();
        // Deadlines in no order, up to a minute from now.
        let deadlines: Vec<_> = (0..wind.count)
            .map(|n| {
                now + Duration::from_millis(n.wrapping_mul(0x9E37_79B9_7F4A_7C15) % 60_000 + 1)
            })
            .collect();
        let mut ids: Vec<TimerId> = Vec::with_capacity(deadlines.len());
        let arm = cpu(|| {
            ids.extend(deadlines.iter().map(|at| cx.arm(*at, Duration::ZERO, 0)));
        });
        let cancel = cpu(|| {
            for id in &ids {
                assert!(cx.cancel(*id));
            }
        });
        wind.reply.send((arm, cancel));
        Ok(())
    }
}

fn timers(bench: &Bench) {
    let count = bench.size(100_000, 1_000);
    let runtime = runtime(1);
    let handle = runtime.handle();
    let clock = handle.spawn(0, || Child::once(Clock)).expect("spawned");
    let mut cancels = Vec::new();
    let arms = repeat(bench, || {
        let answer = handle.ask(&clock, |reply| Wind { count, reply }, PATIENCE);
        let (arm, cancel) = answer.wait().expect("answers");
        cancels.push(nanos(count, cancel));
        nanos(count, arm)
    });
    let budget = Budget::AtMost(40.0);
    bench.figure(&format!("arm one of {count} timers"), "ns", budget, &arms);
    bench.figure(
        &format!("cancel one of {count} timers"),
        "ns",
        budget,
        &cancels[1..],
    );
    runtime.shutdown(PATIENCE);
}

// ---- beside rivals

/// Actors that send numbers to one.
const FAN_ACTORS: u64 = 10_000;

/// Tells so many actors to send it numbers, and waits for all of them.
struct Fan {
    sources: Vec<Address<Source>>,
    left: u64,
    rounds: u64,
    done: Option<Reply<()>>,
}

enum Fanned {
    Number(u64),
    Begin {
        sources: Vec<Address<Source>>,
        rounds: u64,
        done: Reply<()>,
    },
}

impl Message for Fanned {}

impl Actor for Fan {
    type Message = Fanned;

    fn handle(&mut self, message: Fanned, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        match message {
            Fanned::Number(number) => {
                black_box(number);
                self.left -= 1;
                if self.left > 0 {
                    return Ok(());
                }
            }
            Fanned::Begin {
                sources,
                rounds,
                done,
            } => {
                (self.sources, self.rounds, self.done) = (sources, rounds, Some(done));
            }
        }
        if self.rounds == 0 {
            if let Some(done) = self.done.take() {
                done.send(());
            }
            return Ok(());
        }
        self.rounds -= 1;
        self.left = self.sources.len() as u64 * FAN_NUMBERS;
        for source in &self.sources {
            cx.send(source, Go(FAN_NUMBERS))?;
        }
        Ok(())
    }
}

/// Sends numbers to one that it knows.
struct Source(Address<Fan>);

impl Actor for Source {
    type Message = Go;

    fn handle(&mut self, Go(count): Go, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        for number in 0..count {
            cx.send(&self.0, Fanned::Number(number))?;
        }
        Ok(())
    }
}

/// The rivals' way to do one kind of work.
fn rivals_at(
    work: impl Fn(&'static Rival, u64) -> Cost + Copy + 'static,
) -> Vec<Contender<'static>> {
    RIVALS
        .iter()
        .map(|rival| Contender::new(rival.name, move |units| work(rival, units)))
        .collect()
}

fn beside_rivals(bench: &Bench) {
    rival_messages(bench);
    rival_fan_in(bench);
    rival_threads(bench);
    rival_lives(bench);
}

fn question_of(metric: &str, case: Value, units: u64, measure: Measure) -> Compare<'_> {
    Compare {
        metric,
        case,
        units,
        measure,
        cpu: None,
    }
}

fn rival_messages(bench: &Bench) {
    let runtime = runtime(1);
    let handle = runtime.handle();
    for pairs in [1, 64] {
        let players: Vec<_> = (0..2 * pairs).map(|_| player(&handle, 0)).collect();
        for (index, address) in players.iter().enumerate() {
            handle
                .try_send(address, Play::Peer(players[index ^ 1]))
                .expect("room");
        }
        let mut contenders = vec![
            Contender::new("mischief", |hits| {
                Cost::of(|| ping_pong(&handle, &players, hits))
            }),
            Contender::new("bare-queue", |hits| {
                let left = (hits / pairs as u64) & !1;
                let took = bare(&handle, 2 * pairs, |queue| {
                    for pair in 0..pairs {
                        queue.push_back(Bare::Play(2 * pair, BarePlay::Ball { left }));
                    }
                });
                Cost {
                    wall: took,
                    cpu: took,
                }
            }),
        ];
        contenders.extend(rivals_at(move |rival, hits| {
            (rival.ping_pong)(pairs as u64, hits)
        }));
        let case = json!({"pattern": "to-and-fro", "pairs": pairs});
        let question = question_of("actor_messages_s", case, 2_000, Measure::PerCpuSecond);
        bench.compare(&question, &mut contenders);
    }
    runtime.shutdown(PATIENCE);
}

fn rival_fan_in(bench: &Bench) {
    let actors = bench.size(FAN_ACTORS, 100);
    let runtime = runtime(1);
    let handle = runtime.handle();
    let fan = || {
        Child::once(Fan {
            sources: Vec::new(),
            left: 0,
            rounds: 0,
            done: None,
        })
    };
    let fan = handle.spawn(0, fan).expect("spawned");
    let source = |_| {
        handle
            .spawn(0, move || Child::once(Source(fan)))
            .expect("spawned")
    };
    let sources: Vec<_> = (0..actors).map(source).collect();
    // Orders are messages too.
    let a_round = actors * (FAN_NUMBERS + 1);
    let as_asked = move |numbers: u64, work: &dyn Fn(u64) -> Cost| {
        let rounds = numbers.div_ceil(a_round);
        work(rounds).scaled(numbers as f64 / (rounds * a_round) as f64)
    };
    let mut contenders = vec![Contender::new("mischief", |numbers| {
        as_asked(numbers, &|rounds| {
            Cost::of(|| {
                let begin = |done| Fanned::Begin {
                    sources: sources.clone(),
                    rounds,
                    done,
                };
                handle.ask(&fan, begin, PATIENCE).wait().expect("done");
            })
        })
    })];
    let rival = move |rival: &'static Rival, numbers| {
        as_asked(numbers, &|rounds| (rival.fan_in)(actors, rounds))
    };
    contenders.extend(rivals_at(rival));
    let case = json!({"pattern": "fan-in", "actors": actors});
    let question = question_of("actor_messages_s", case, a_round, Measure::PerCpuSecond);
    bench.compare(&question, &mut contenders);
    drop(contenders);
    runtime.shutdown(PATIENCE);
}

fn rival_threads(bench: &Bench) {
    let runtime = runtime(2);
    let handle = runtime.handle();
    let counter = || {
        Child::once(Counter {
            left: 0,
            done: None,
        })
    };
    let to = handle.spawn(1, counter).expect("spawned");
    let from = handle
        .spawn(0, move || Child::once(Flooder { to, left: 0 }))
        .expect("spawned");
    let mut contenders = vec![Contender::new("mischief", |count| {
        Cost::of(|| flood(&handle, &[(from, to)], count))
    })];
    contenders.extend(rivals_at(|rival, count| (rival.flood)(count)));
    let case = json!({"pattern": "one-way", "threads": 2});
    let mut question = question_of("actor_messages_s", case, 2_000, Measure::PerSecond);
    question.cpu = Some(("actor_cpu_ns_per_message", 1.0));
    bench.compare(&question, &mut contenders);
    drop(contenders);

    let (left, right) = (player(&handle, 0), player(&handle, 1));
    handle.try_send(&left, Play::Peer(right)).expect("room");
    handle.try_send(&right, Play::Peer(left)).expect("room");
    let mut contenders = vec![Contender::new("mischief", |hits| {
        Cost::of(|| ping_pong(&handle, &[left, right], hits))
    })];
    contenders.extend(rivals_at(|rival, hits| (rival.across)(hits)));
    let mut question = question_of(
        "actor_hop_ns",
        json!({"threads": 2}),
        200,
        Measure::NanosEach,
    );
    question.cpu = Some(("actor_hop_cpu_ns", 1.0));
    bench.compare(&question, &mut contenders);
    runtime.shutdown(PATIENCE);
}

fn rival_lives(bench: &Bench) {
    let runtime = runtime(1);
    let handle = runtime.handle();
    let oracle = handle.spawn(0, || Child::once(Oracle)).expect("spawned");
    let asker = move || {
        Child::once(Asker {
            to: oracle,
            left: 0,
            open: 0,
            done: None,
        })
    };
    let asker = handle.spawn(0, asker).expect("spawned");
    let ask = |count| {
        Cost::of(|| {
            let begin = |done| Asking::Begin {
                count,
                at_once: 1,
                done,
            };
            handle.ask(&asker, begin, PATIENCE).wait().expect("done");
        })
    };
    let mut contenders = vec![Contender::new("mischief", ask)];
    contenders.extend(rivals_at(|rival, count| (rival.ask)(count)));
    let question = question_of(
        "actor_ask_ns",
        json!({"at_once": 1}),
        500,
        Measure::CpuNanosEach,
    );
    bench.compare(&question, &mut contenders);

    let spawn = |count: u64| {
        let nanos = live(count).spawn_ns * count as f64;
        let took = Duration::from_nanos(nanos as u64);
        Cost {
            wall: took,
            cpu: took,
        }
    };
    let mut contenders = vec![Contender::new("mischief", spawn)];
    contenders.extend(rivals_at(|rival, count| (rival.spawn)(count)));
    let question = question_of(
        "actor_spawn_ns",
        json!({}),
        bench.size(100_000, 500),
        Measure::CpuNanosEach,
    );
    bench.compare(&question, &mut contenders);

    let count = bench.size(100_000, 500);
    let clock = handle.spawn(0, || Child::once(Clock)).expect("spawned");
    let wind = |count| {
        let answer = handle.ask(&clock, |reply| Wind { count, reply }, PATIENCE);
        let (arm, cancel) = answer.wait().expect("answers");
        Cost {
            wall: arm + cancel,
            cpu: arm + cancel,
        }
    };
    let mut contenders = vec![Contender::new("mischief", wind)];
    contenders.extend(rivals_at(|rival, count| (rival.timers)(count)));
    let question = question_of(
        "timer_arm_cancel_ns",
        json!({"timers": count}),
        count,
        Measure::CpuNanosEach,
    );
    bench.compare_exactly(&question, &mut contenders);
    runtime.shutdown(PATIENCE);
}
