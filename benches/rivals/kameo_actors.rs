//! kameo: a type for each message, `tell` and `ask`, bounded mailboxes.

use std::convert::Infallible;
use std::time::Duration;

use kameo::Actor;
use kameo::actor::{ActorRef, Spawn};
use kameo::mailbox;
use kameo::message::{Context, Message};
use mischief_benches::harness::{Cost, Stopwatch};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::{Beside, FAN_NUMBERS, MAILBOX, Rival, alone, deadline_ms};

pub(super) const RIVAL: Rival = Rival {
    name: "kameo",
    ping_pong,
    fan_in,
    flood,
    across,
    ask,
    spawn,
    timers,
};

async fn until(done: &mut UnboundedReceiver<()>, count: u64) {
    for _ in 0..count {
        done.recv().await.expect("they run");
    }
}

/// An actor that starts as it is.
macro_rules! actor {
    ($name:ident) => {
        impl Actor for $name {
            type Args = Self;
            type Error = Infallible;

            async fn on_start(it: Self, _: ActorRef<Self>) -> Result<Self, Infallible> {
                Ok(it)
            }
        }
    };
}

struct Player {
    peer: Option<ActorRef<Player>>,
    done: UnboundedSender<()>,
}

actor!(Player);

impl Player {
    fn start(done: &UnboundedSender<()>) -> ActorRef<Player> {
        Player::spawn(Player {
            peer: None,
            done: done.clone(),
        })
    }
}

struct Peer(ActorRef<Player>);

impl Message<Peer> for Player {
    type Reply = ();

    async fn handle(&mut self, Peer(peer): Peer, _: &mut Context<Self, ()>) {
        self.peer = Some(peer);
    }
}

struct Ball(u64);

impl Message<Ball> for Player {
    type Reply = ();

    async fn handle(&mut self, Ball(left): Ball, _: &mut Context<Self, ()>) {
        match &self.peer {
            Some(peer) if left > 0 => peer.tell(Ball(left - 1)).send().await.unwrap_or(()),
            _ => self.done.send(()).unwrap_or(()),
        }
    }
}

async fn acquaint(one: &ActorRef<Player>, other: &ActorRef<Player>) {
    one.tell(Peer(other.clone())).send().await.expect("it runs");
    other.tell(Peer(one.clone())).send().await.expect("it runs");
}

fn ping_pong(pairs: u64, hits: u64) -> Cost {
    alone(async {
        let (done, mut is_done) = unbounded_channel();
        let mut players = Vec::new();
        for _ in 0..pairs {
            let (one, other) = (Player::start(&done), Player::start(&done));
            acquaint(&one, &other).await;
            players.push((one, other));
        }
        let watch = Stopwatch::start();
        for (one, _) in &players {
            one.tell(Ball((hits / pairs) & !1))
                .send()
                .await
                .expect("it runs");
        }
        until(&mut is_done, pairs).await;
        watch.stop()
    })
}

struct Source(ActorRef<Sink>);

actor!(Source);

struct Go(u64);

impl Message<Go> for Source {
    type Reply = ();

    async fn handle(&mut self, Go(count): Go, _: &mut Context<Self, ()>) {
        for number in 0..count {
            self.0.tell(Number(number)).send().await.expect("it runs");
        }
    }
}

/// Starts rounds, and ends when there are no more.
struct Sink {
    sources: Vec<ActorRef<Source>>,
    left: u64,
    rounds: u64,
    done: UnboundedSender<()>,
}

actor!(Sink);

impl Sink {
    fn start(self) -> ActorRef<Sink> {
        Sink::spawn_with_mailbox(self, mailbox::bounded(MAILBOX))
    }

    async fn next_round(&mut self) {
        if self.rounds == 0 {
            return self.done.send(()).unwrap_or(());
        }
        self.rounds -= 1;
        self.left = self.sources.len() as u64 * FAN_NUMBERS;
        for source in &self.sources {
            source.tell(Go(FAN_NUMBERS)).send().await.expect("it runs");
        }
    }
}

struct Number(u64);

impl Message<Number> for Sink {
    type Reply = ();

    async fn handle(&mut self, Number(number): Number, _: &mut Context<Self, ()>) {
        std::hint::black_box(number);
        self.left -= 1;
        if self.left == 0 {
            self.next_round().await;
        }
    }
}

struct Begin(Vec<ActorRef<Source>>);

impl Message<Begin> for Sink {
    type Reply = ();

    async fn handle(&mut self, Begin(sources): Begin, _: &mut Context<Self, ()>) {
        self.sources = sources;
        self.next_round().await;
    }
}

fn fan_in(actors: u64, rounds: u64) -> Cost {
    alone(async {
        let (done, mut is_done) = unbounded_channel();
        let sink = Sink {
            sources: Vec::new(),
            left: 0,
            rounds,
            done,
        }
        .start();
        let source = |_| Source::spawn(Source(sink.clone()));
        let sources: Vec<_> = (0..actors).map(source).collect();
        tokio::task::yield_now().await;
        let watch = Stopwatch::start();
        sink.tell(Begin(sources)).send().await.expect("it runs");
        until(&mut is_done, 1).await;
        watch.stop()
    })
}

fn flood(count: u64) -> Cost {
    let (left, right) = (Beside::start(), Beside::start());
    let (done, mut is_done) = unbounded_channel();
    let sink = Sink {
        sources: Vec::new(),
        left: count,
        rounds: 0,
        done,
    };
    let sink = left.run(async move { sink.start() });
    let source = right.run(async move { Source::spawn(Source(sink)) });
    let watch = Stopwatch::start();
    right.run(async move { source.tell(Go(count)).send().await.expect("it runs") });
    left.run(async move { until(&mut is_done, 1).await });
    watch.stop()
}

fn across(hits: u64) -> Cost {
    let (left, right) = (Beside::start(), Beside::start());
    let (done, mut is_done) = unbounded_channel();
    let other = done.clone();
    let one = left.run(async move { Player::start(&done) });
    let other = right.run(async move { Player::start(&other) });
    let first = one.clone();
    left.run(async move { acquaint(&one, &other).await });
    let watch = Stopwatch::start();
    left.run(async move {
        first.tell(Ball(hits & !1)).send().await.expect("it runs");
        until(&mut is_done, 1).await;
    });
    watch.stop()
}

struct Oracle;

actor!(Oracle);

struct Question;

impl Message<Question> for Oracle {
    type Reply = u64;

    async fn handle(&mut self, _: Question, _: &mut Context<Self, u64>) -> u64 {
        42
    }
}

fn ask(count: u64) -> Cost {
    alone(async {
        let oracle = Oracle::spawn(Oracle);
        let work = tokio::spawn(async move {
            for _ in 0..count {
                std::hint::black_box(oracle.ask(Question).send().await.expect("it answers"));
            }
        });
        let watch = Stopwatch::start();
        work.await.expect("no task panics");
        watch.stop()
    })
}

/// Tells when it has started.
struct Idle(UnboundedSender<()>);

impl Actor for Idle {
    type Args = Self;
    type Error = Infallible;

    async fn on_start(it: Self, _: ActorRef<Self>) -> Result<Self, Infallible> {
        it.0.send(()).unwrap_or(());
        Ok(it)
    }
}

struct Tick;

impl Message<Tick> for Idle {
    type Reply = ();

    async fn handle(&mut self, _: Tick, _: &mut Context<Self, ()>) {}
}

fn spawn(count: u64) -> Cost {
    alone(async {
        let (started, mut has_started) = unbounded_channel();
        let mut kept = Vec::with_capacity(count as usize);
        let watch = Stopwatch::start();
        for _ in 0..count {
            kept.push(Idle::spawn(Idle(started.clone())));
        }
        until(&mut has_started, count).await;
        watch.stop()
    })
}

fn timers(count: u64) -> Cost {
    alone(async {
        let (started, _has_started) = unbounded_channel();
        let idle = Idle::spawn(Idle(started));
        let watch = Stopwatch::start();
        let armed: Vec<_> = (0..count)
            .map(|number| {
                idle.tell(Tick)
                    .send_after(Duration::from_millis(deadline_ms(number)))
            })
            .collect();
        // Each is a task, which arms its timer when it runs for the first time.
        tokio::task::yield_now().await;
        for timer in &armed {
            timer.abort();
        }
        for timer in armed {
            assert!(timer.await.is_err(), "it was cancelled");
        }
        watch.stop()
    })
}
