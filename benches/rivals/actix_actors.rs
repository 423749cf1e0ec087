//! actix: one enum-less message type for each kind of message, `do_send` between actors, an arbiter for each thread.

use std::time::Duration;

use actix::{
    Actor, Addr, Arbiter, AsyncContext, Context, Handler, Message, MessageResult, Recipient,
    System, SystemRunner,
};
use mischief_benches::harness::{Cost, Stopwatch};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::{FAN_NUMBERS, MAILBOX, Rival, deadline_ms};

pub(super) const RIVAL: Rival = Rival {
    name: "actix",
    ping_pong,
    fan_in,
    flood,
    across,
    ask,
    spawn,
    timers,
};

/// Runs in a system of this thread.
fn alone<T>(work: impl Future<Output = T>) -> T {
    let system: SystemRunner = System::new();
    let result = system.block_on(work);
    System::current().stop();
    result
}

struct Ball(u64);

impl Message for Ball {
    type Result = ();
}

struct Peer(Recipient<Ball>);

impl Message for Peer {
    type Result = ();
}

struct Player {
    peer: Option<Recipient<Ball>>,
    done: UnboundedSender<()>,
}

impl Player {
    fn new(done: &UnboundedSender<()>) -> Player {
        Player {
            peer: None,
            done: done.clone(),
        }
    }
}

impl Actor for Player {
    type Context = Context<Self>;
}

impl Handler<Peer> for Player {
    type Result = ();

    fn handle(&mut self, Peer(peer): Peer, _: &mut Context<Self>) {
        self.peer = Some(peer);
    }
}

impl Handler<Ball> for Player {
    type Result = ();

    fn handle(&mut self, Ball(left): Ball, _: &mut Context<Self>) {
        match &self.peer {
            Some(peer) if left > 0 => peer.do_send(Ball(left - 1)),
            _ => self.done.send(()).unwrap_or(()),
        }
    }
}

/// Lets two players know each other.
async fn acquaint(one: &Addr<Player>, other: &Addr<Player>) {
    one.send(Peer(other.clone().recipient()))
        .await
        .expect("it runs");
    other
        .send(Peer(one.clone().recipient()))
        .await
        .expect("it runs");
}

async fn until(done: &mut UnboundedReceiver<()>, count: u64) {
    for _ in 0..count {
        done.recv().await.expect("they run");
    }
}

fn ping_pong(pairs: u64, hits: u64) -> Cost {
    alone(async {
        let (done, mut is_done) = unbounded_channel();
        let mut players = Vec::new();
        for _ in 0..pairs {
            let (one, other) = (Player::new(&done).start(), Player::new(&done).start());
            acquaint(&one, &other).await;
            players.push((one, other));
        }
        let watch = Stopwatch::start();
        for (one, _) in &players {
            one.do_send(Ball((hits / pairs) & !1));
        }
        until(&mut is_done, pairs).await;
        watch.stop()
    })
}

struct Go(u64);

impl Message for Go {
    type Result = ();
}

struct Number(u64);

impl Message for Number {
    type Result = ();
}

struct Source(Addr<Sink>);

impl Actor for Source {
    type Context = Context<Self>;
}

impl Handler<Go> for Source {
    type Result = ();

    fn handle(&mut self, Go(count): Go, _: &mut Context<Self>) {
        for number in 0..count {
            self.0.do_send(Number(number));
        }
    }
}

/// Starts rounds, and ends when there are no more.
struct Sink {
    sources: Vec<Addr<Source>>,
    left: u64,
    rounds: u64,
    done: UnboundedSender<()>,
}

impl Sink {
    fn next_round(&mut self) {
        if self.rounds == 0 {
            return self.done.send(()).unwrap_or(());
        }
        self.rounds -= 1;
        self.left = self.sources.len() as u64 * FAN_NUMBERS;
        for source in &self.sources {
            source.do_send(Go(FAN_NUMBERS));
        }
    }
}

impl Actor for Sink {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        context.set_mailbox_capacity(MAILBOX);
    }
}

struct Begin(Vec<Addr<Source>>);

impl Message for Begin {
    type Result = ();
}

impl Handler<Begin> for Sink {
    type Result = ();

    fn handle(&mut self, Begin(sources): Begin, _: &mut Context<Self>) {
        self.sources = sources;
        self.next_round();
    }
}

impl Handler<Number> for Sink {
    type Result = ();

    fn handle(&mut self, Number(number): Number, _: &mut Context<Self>) {
        std::hint::black_box(number);
        self.left -= 1;
        if self.left == 0 {
            self.next_round();
        }
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
        let sources: Vec<_> = (0..actors).map(|_| Source(sink.clone()).start()).collect();
        tokio::task::yield_now().await;
        let watch = Stopwatch::start();
        sink.do_send(Begin(sources));
        until(&mut is_done, 1).await;
        watch.stop()
    })
}

fn flood(count: u64) -> Cost {
    alone(async {
        let (done, mut is_done) = unbounded_channel();
        let (left, right) = (Arbiter::new(), Arbiter::new());
        let start = move |_: &mut Context<Sink>| Sink {
            sources: Vec::new(),
            left: count,
            rounds: 0,
            done,
        };
        let sink = Sink::start_in_arbiter(&left.handle(), start);
        let source = Source::start_in_arbiter(&right.handle(), move |_| Source(sink));
        let watch = Stopwatch::start();
        source.do_send(Go(count));
        until(&mut is_done, 1).await;
        let cost = watch.stop();
        left.stop();
        right.stop();
        cost
    })
}

fn across(hits: u64) -> Cost {
    alone(async {
        let (done, mut is_done) = unbounded_channel();
        let (left, right) = (Arbiter::new(), Arbiter::new());
        let (one, other) = (Player::new(&done), Player::new(&done));
        let one = Player::start_in_arbiter(&left.handle(), move |_| one);
        let other = Player::start_in_arbiter(&right.handle(), move |_| other);
        acquaint(&one, &other).await;
        let watch = Stopwatch::start();
        one.do_send(Ball(hits & !1));
        until(&mut is_done, 1).await;
        let cost = watch.stop();
        left.stop();
        right.stop();
        cost
    })
}

struct Question;

impl Message for Question {
    type Result = u64;
}

struct Oracle;

impl Actor for Oracle {
    type Context = Context<Self>;
}

impl Handler<Question> for Oracle {
    type Result = MessageResult<Question>;

    fn handle(&mut self, _: Question, _: &mut Context<Self>) -> MessageResult<Question> {
        MessageResult(42)
    }
}

fn ask(count: u64) -> Cost {
    alone(async {
        let oracle = Oracle.start();
        let work = actix::spawn(async move {
            for _ in 0..count {
                std::hint::black_box(oracle.send(Question).await.expect("it answers"));
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
    type Context = Context<Self>;

    fn started(&mut self, _: &mut Context<Self>) {
        self.0.send(()).unwrap_or(());
    }
}

fn spawn(count: u64) -> Cost {
    alone(async {
        let (started, mut has_started) = unbounded_channel();
        let mut kept = Vec::with_capacity(count as usize);
        let watch = Stopwatch::start();
        for _ in 0..count {
            kept.push(Idle(started.clone()).start());
        }
        until(&mut has_started, count).await;
        watch.stop()
    })
}

/// Arms timers as soon as it starts, and cancels them.
struct Clock {
    count: u64,
    done: UnboundedSender<()>,
}

impl Actor for Clock {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        let later = |number| Duration::from_millis(deadline_ms(number));
        let armed: Vec<_> = (0..self.count)
            .map(|number| context.run_later(later(number), |_, _| {}))
            .collect();
        for timer in armed {
            context.cancel_future(timer);
        }
        self.done.send(()).unwrap_or(());
    }
}

fn timers(count: u64) -> Cost {
    alone(async {
        let (done, mut is_done) = unbounded_channel();
        let watch = Stopwatch::start();
        let clock = Clock { count, done }.start();
        until(&mut is_done, 1).await;
        let cost = watch.stop();
        drop(clock);
        cost
    })
}
