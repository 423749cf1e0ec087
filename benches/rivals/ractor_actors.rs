//! ractor: an enum for the messages of each actor, `cast` and `call`. Its mailboxes have no bound.

use std::time::Duration;

use mischief_benches::harness::{Cost, Stopwatch};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::{Beside, FAN_NUMBERS, Rival, alone, deadline_ms};

pub(super) const RIVAL: Rival = Rival {
    name: "ractor",
    ping_pong,
    fan_in,
    flood,
    across,
    ask,
    spawn,
    timers,
};

type Handled = Result<(), ActorProcessingErr>;

async fn until(done: &mut UnboundedReceiver<()>, count: u64) {
    for _ in 0..count {
        done.recv().await.expect("they run");
    }
}

async fn start<A: Actor>(actor: A, arguments: A::Arguments) -> ActorRef<A::Msg> {
    let (actor, _) = Actor::spawn(None, actor, arguments)
        .await
        .expect("it starts");
    actor
}

enum Play {
    Peer(ActorRef<Play>),
    Ball(u64),
}

struct Player(UnboundedSender<()>);

impl Actor for Player {
    type Msg = Play;
    type State = Option<ActorRef<Play>>;
    type Arguments = ();

    async fn pre_start(
        &self,
        _: ActorRef<Play>,
        (): (),
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok(None)
    }

    async fn handle(&self, _: ActorRef<Play>, play: Play, peer: &mut Self::State) -> Handled {
        match (play, &peer) {
            (Play::Peer(it), _) => *peer = Some(it),
            (Play::Ball(left @ 1..), Some(peer)) => peer.cast(Play::Ball(left - 1))?,
            (Play::Ball(_), _) => self.0.send(())?,
        }
        Ok(())
    }
}

fn acquaint(one: &ActorRef<Play>, other: &ActorRef<Play>) {
    one.cast(Play::Peer(other.clone())).expect("it runs");
    other.cast(Play::Peer(one.clone())).expect("it runs");
}

fn ping_pong(pairs: u64, hits: u64) -> Cost {
    alone(async {
        let (done, mut is_done) = unbounded_channel();
        let mut players = Vec::new();
        for _ in 0..pairs {
            let (one, other) = (
                start(Player(done.clone()), ()).await,
                start(Player(done.clone()), ()).await,
            );
            acquaint(&one, &other);
            players.push((one, other));
        }
        let watch = Stopwatch::start();
        for (one, _) in &players {
            one.cast(Play::Ball((hits / pairs) & !1)).expect("it runs");
        }
        until(&mut is_done, pairs).await;
        watch.stop()
    })
}

struct Go(u64);

struct Source;

impl Actor for Source {
    type Msg = Go;
    type State = ActorRef<Count>;
    type Arguments = ActorRef<Count>;

    async fn pre_start(
        &self,
        _: ActorRef<Go>,
        sink: ActorRef<Count>,
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok(sink)
    }

    async fn handle(&self, _: ActorRef<Go>, Go(count): Go, sink: &mut Self::State) -> Handled {
        for number in 0..count {
            sink.cast(Count::Number(number))?;
        }
        Ok(())
    }
}

enum Count {
    Begin(Vec<ActorRef<Go>>),
    Number(u64),
}

/// Starts rounds, and ends when there are no more.
struct Sink(UnboundedSender<()>);

struct Counting {
    sources: Vec<ActorRef<Go>>,
    left: u64,
    rounds: u64,
}

impl Sink {
    fn next_round(&self, counting: &mut Counting) -> Handled {
        if counting.rounds == 0 {
            self.0.send(())?;
            return Ok(());
        }
        counting.rounds -= 1;
        counting.left = counting.sources.len() as u64 * FAN_NUMBERS;
        for source in &counting.sources {
            source.cast(Go(FAN_NUMBERS))?;
        }
        Ok(())
    }
}

impl Actor for Sink {
    type Msg = Count;
    type State = Counting;
    type Arguments = (u64, u64);

    async fn pre_start(
        &self,
        _: ActorRef<Count>,
        (left, rounds): (u64, u64),
    ) -> Result<Counting, ActorProcessingErr> {
        Ok(Counting {
            sources: Vec::new(),
            left,
            rounds,
        })
    }

    async fn handle(&self, _: ActorRef<Count>, count: Count, counting: &mut Counting) -> Handled {
        match count {
            Count::Begin(sources) => {
                counting.sources = sources;
                self.next_round(counting)
            }
            Count::Number(number) => {
                std::hint::black_box(number);
                counting.left -= 1;
                if counting.left == 0 {
                    self.next_round(counting)
                } else {
                    Ok(())
                }
            }
        }
    }
}

fn fan_in(actors: u64, rounds: u64) -> Cost {
    alone(async {
        let (done, mut is_done) = unbounded_channel();
        let sink = start(Sink(done), (0, rounds)).await;
        let mut sources = Vec::new();
        for _ in 0..actors {
            sources.push(start(Source, sink.clone()).await);
        }
        let watch = Stopwatch::start();
        sink.cast(Count::Begin(sources)).expect("it runs");
        until(&mut is_done, 1).await;
        watch.stop()
    })
}

fn flood(count: u64) -> Cost {
    let (left, right) = (Beside::start(), Beside::start());
    let (done, mut is_done) = unbounded_channel();
    let sink = left.run(start(Sink(done), (count, 0)));
    let source = right.run(start(Source, sink));
    let watch = Stopwatch::start();
    source.cast(Go(count)).expect("it runs");
    left.run(async move { until(&mut is_done, 1).await });
    watch.stop()
}

fn across(hits: u64) -> Cost {
    let (left, right) = (Beside::start(), Beside::start());
    let (done, mut is_done) = unbounded_channel();
    let one = left.run(start(Player(done.clone()), ()));
    let other = right.run(start(Player(done), ()));
    acquaint(&one, &other);
    let watch = Stopwatch::start();
    one.cast(Play::Ball(hits & !1)).expect("it runs");
    left.run(async move { until(&mut is_done, 1).await });
    watch.stop()
}

struct Oracle;

struct Question(RpcReplyPort<u64>);

impl Actor for Oracle {
    type Msg = Question;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Question>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(&self, _: ActorRef<Question>, question: Question, (): &mut ()) -> Handled {
        question.0.send(42)?;
        Ok(())
    }
}

fn ask(count: u64) -> Cost {
    alone(async {
        let oracle = start(Oracle, ()).await;
        let work = tokio::spawn(async move {
            for _ in 0..count {
                let answer = oracle.call(Question, None).await.expect("it runs");
                std::hint::black_box(answer.expect("it answers"));
            }
        });
        let watch = Stopwatch::start();
        work.await.expect("no task panics");
        watch.stop()
    })
}

struct Idle;

impl Actor for Idle {
    type Msg = ();
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}

fn spawn(count: u64) -> Cost {
    alone(async {
        let mut kept = Vec::with_capacity(count as usize);
        let watch = Stopwatch::start();
        for _ in 0..count {
            kept.push(start(Idle, ()).await);
        }
        watch.stop()
    })
}

fn timers(count: u64) -> Cost {
    alone(async {
        let idle = start(Idle, ()).await;
        let watch = Stopwatch::start();
        let armed: Vec<_> = (0..count)
            .map(|number| idle.send_after(Duration::from_millis(deadline_ms(number)), || ()))
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
