//! A task with a bounded channel for each actor: no framework, only what most programs on tokio are made of.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use mischief_benches::harness::{Cost, Stopwatch};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::oneshot;

use super::{Beside, FAN_NUMBERS, MAILBOX, Rival, alone, deadline_ms};

pub(super) const RIVAL: Rival = Rival {
    name: "tokio-mpsc",
    ping_pong,
    fan_in,
    flood,
    across,
    ask,
    spawn,
    timers,
};

async fn player(mut balls: Receiver<u64>, peer: Sender<u64>, done: Sender<()>) {
    while let Some(left) = balls.recv().await {
        let sent = if left == 0 {
            done.send(()).await.is_ok()
        } else {
            peer.send(left - 1).await.is_ok()
        };
        if !sent {
            return;
        }
    }
}

fn ping_pong(pairs: u64, hits: u64) -> Cost {
    alone(async {
        let (done, mut is_done) = channel(pairs as usize);
        let mut first = Vec::new();
        for _ in 0..pairs {
            let ((one, ones), (other, others)) = (channel(64), channel(64));
            tokio::spawn(player(ones, other, done.clone()));
            tokio::spawn(player(others, one.clone(), done.clone()));
            first.push(one);
        }
        let watch = Stopwatch::start();
        for one in &first {
            one.send((hits / pairs) & !1).await.expect("it runs");
        }
        for _ in 0..pairs {
            is_done.recv().await.expect("they run");
        }
        watch.stop()
    })
}

fn fan_in(actors: u64, rounds: u64) -> Cost {
    alone(async {
        let (sink, mut numbers) = channel(MAILBOX);
        let mut orders = Vec::new();
        for _ in 0..actors {
            let (order, mut ordered) = channel::<u64>(8);
            let sink = sink.clone();
            tokio::spawn(async move {
                while let Some(count) = ordered.recv().await {
                    for number in 0..count {
                        sink.send(number).await.expect("it runs");
                    }
                }
            });
            orders.push(order);
        }
        let work = tokio::spawn(async move {
            for _ in 0..rounds {
                for order in &orders {
                    order.send(FAN_NUMBERS).await.expect("it runs");
                }
                for _ in 0..actors * FAN_NUMBERS {
                    std::hint::black_box(numbers.recv().await);
                }
            }
        });
        let watch = Stopwatch::start();
        work.await.expect("no task panics");
        watch.stop()
    })
}

fn flood(count: u64) -> Cost {
    let (left, right) = (Beside::start(), Beside::start());
    let (sender, mut receiver) = channel(MAILBOX);
    let watch = Stopwatch::start();
    let received = left.handle.spawn(async move {
        for _ in 0..count {
            std::hint::black_box(receiver.recv().await);
        }
    });
    right.run(async move {
        for number in 0..count {
            sender.send(number).await.expect("it runs");
        }
        received.await.expect("no task panics");
    });
    watch.stop()
}

fn across(hits: u64) -> Cost {
    let (left, right) = (Beside::start(), Beside::start());
    let (done, mut is_done) = channel(1);
    let ((one, ones), (other, others)) = (channel(64), channel(64));
    left.handle.spawn(player(ones, other, done.clone()));
    right.handle.spawn(player(others, one.clone(), done));
    let watch = Stopwatch::start();
    left.run(async move {
        one.send(hits & !1).await.expect("it runs");
        is_done.recv().await.expect("they run");
    });
    watch.stop()
}

fn ask(count: u64) -> Cost {
    alone(async {
        let (oracle, mut questions) = channel::<oneshot::Sender<u64>>(64);
        tokio::spawn(async move {
            while let Some(reply) = questions.recv().await {
                reply.send(42).unwrap_or(());
            }
        });
        let work = tokio::spawn(async move {
            for _ in 0..count {
                let (reply, answer) = oneshot::channel();
                oracle.send(reply).await.expect("it runs");
                std::hint::black_box(answer.await.expect("it answers"));
            }
        });
        let watch = Stopwatch::start();
        work.await.expect("no task panics");
        watch.stop()
    })
}

fn spawn(count: u64) -> Cost {
    let work = async {
        let started = Rc::new(Cell::new(0));
        let mut kept = Vec::with_capacity(count as usize);
        let watch = Stopwatch::start();
        for _ in 0..count {
            let (sender, mut receiver) = channel::<u64>(64);
            let started = started.clone();
            tokio::task::spawn_local(async move {
                started.set(started.get() + 1);
                while receiver.recv().await.is_some() {}
            });
            kept.push(sender);
        }
        while started.get() < count {
            tokio::task::yield_now().await;
        }
        watch.stop()
    };
    alone(tokio::task::LocalSet::new().run_until(work))
}

fn timers(count: u64) -> Cost {
    alone(async {
        let watch = Stopwatch::start();
        let mut sleeps: Vec<_> = (0..count)
            .map(|number| {
                Box::pin(tokio::time::sleep(Duration::from_millis(deadline_ms(
                    number,
                ))))
            })
            .collect();
        // It is armed when it is polled for the first time.
        poll_fn(|cx| {
            for sleep in &mut sleeps {
                assert!(sleep.as_mut().poll(cx).is_pending());
            }
            Poll::Ready(())
        })
        .await;
        drop(sleeps);
        watch.stop()
    })
}
