//! Questions and answers, between actors and from threads outside.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context as TaskContext, Poll, Wake, Waker};
use std::time::Duration;

use mischief_reactor::{
    Address, AskError, Context, Failure, Handle, Limits, OneShot, Reply, WaitError,
};

use crate::fixture::{Fixture, PATIENCE, changed};
use crate::messages::{queued, stuck};
use crate::puppet::{Frozen, Log, Order, Puppet, SECOND, Seen, mailboxes_of, order, puppet, tell};

/// A question that keeps its reply.
fn keep(reply: Reply<u32>) -> Order {
    Order::Do(Box::new(move |me, _| {
        me.kept.push(reply);
        Ok(())
    }))
}

fn is_time_out<T: std::fmt::Debug>(result: &Result<T, AskError>) -> bool {
    matches!(result, Err(AskError::TimedOut { .. }))
}

/// Notes the answer with whoever asked.
fn note(result: Result<u32, AskError>) -> Order {
    Order::Do(Box::new(move |me, _| {
        me.log.add(Seen::Note(format!("{result:?}")));
        Ok(())
    }))
}

fn ask(cx: &mut Context<'_, Puppet>, to: &Address<Puppet>, deadline: Duration) {
    cx.ask(to, Order::Ask, deadline, note);
}

fn noted(text: &str) -> Seen {
    Seen::Note(text.to_owned())
}

pub fn an_actor_asks_actors_of_both_cores<F: Fixture>() {
    let f = F::start(2);
    let (asker, log) = puppet(&f, 0);
    for core in 0..2 {
        let (target, _) = puppet(&f, core);
        order(&f.handle(), &asker, move |_, cx| ask(cx, &target, SECOND));
        f.until(|| log.count(&noted("Ok(7)")) == core + 1);
    }
    assert_eq!(asks(&f.handle()), 0);
    assert!(f.shutdown(SECOND));
}

/// Questions in flight.
fn asks(handle: &Handle) -> usize {
    let snapshot = handle.snapshot().expect("answers");
    snapshot.cores.iter().map(|core| core.asks).sum()
}

pub fn an_answer_that_does_not_come_in_time_is_an_error_that_names_all<F: Fixture>() {
    let f = F::start(2);
    let (asker, log) = puppet(&f, 0);
    for core in 0..2 {
        let (target, kept) = puppet(&f, core);
        let before = order(&f.handle(), &asker, move |_, cx| {
            let before = cx.now();
            cx.ask(&target, keep, SECOND / 20, move |result| {
                Order::Do(Box::new(
                    move |me: &mut Puppet, cx: &mut Context<'_, Puppet>| {
                        let waited = cx.now().saturating_duration_since(before);
                        assert!(waited >= SECOND / 20, "{waited:?}");
                        let error = result.expect_err("it is kept");
                        me.log.add(Seen::Note(error.to_string()));
                        Ok(())
                    },
                ))
            });
            before
        });
        let _ = before;
        f.until(|| log.len() == 2 * core + 2);
        let Seen::Note(text) = &log.all()[2 * core + 1] else {
            panic!("no time-out in {:?}", log.all());
        };
        assert!(text.contains("Puppet") && text.contains("Order"), "{text}");
        assert!(text.contains(&target.id().to_string()), "{text}");
        assert!(
            text.contains("50ms") && text.contains("(0 messages were waiting)"),
            "{text}"
        );
        // The late answer finds nobody, and harms nobody.
        order(&f.handle(), &target, |me, _| {
            me.kept.pop().expect("kept").send(1)
        });
        order(&f.handle(), &asker, |me, _| me.log.add(Seen::Poke));
        assert_eq!((log.len(), kept.len()), (2 * core + 3, 1));
    }
    assert!(f.shutdown(SECOND));
}

pub fn a_time_out_tells_how_many_messages_waited<F: Fixture>() {
    let f = F::start(2);
    let handle = f.handle();
    for core in 0..2 {
        let (asker, log) = puppet(&f, core);
        let (stuck, _) = stuck(&f);
        order(&handle, &asker, move |_, cx| {
            cx.send(&stuck, Order::Number(1)).expect("room");
            ask(cx, &stuck, SECOND / 50);
        });
        f.until(|| log.len() == 2);
        let text = format!("{:?}", log.all()[1]);
        assert!(text.contains("queued: 2"), "{text}");
    }
    // From outside.
    let (stuck, _) = stuck(&f);
    let error = handle
        .ask(&stuck, Order::Ask, SECOND / 50)
        .wait()
        .expect_err("stuck");
    assert!(
        error.to_string().contains("(1 messages were waiting)"),
        "{error}"
    );
    assert!(f.shutdown(SECOND));
}

pub fn a_question_dropped_unanswered_is_told_at_once<F: Fixture>() {
    let f = F::start(2);
    let (asker, log) = puppet(&f, 0);
    for core in 0..2 {
        // Dropped by the handler, in a failure, with the actor, and in the mailbox of an actor that stops.
        let (target, _) = puppet(&f, core);
        order(&f.handle(), &asker, move |_, cx| {
            let hour = 3600 * SECOND;
            let drops = |reply: Reply<u32>| {
                Order::Do(Box::new(move |_, _| {
                    drop(reply);
                    Ok(())
                }))
            };
            cx.ask(&target, drops, hour, note);
            cx.ask(&target, keep, hour, note);
            let fails = |reply: Reply<u32>| {
                Order::Do(Box::new(move |_, _| {
                    let _reply = reply;
                    Err(Failure::new("on purpose"))
                }))
            };
            cx.ask(&target, fails, hour, note);
            ask(cx, &target, hour);
        });
        f.until(|| log.count(&noted("Err(NoReply)")) == 4);
        // There is nobody any more.
        order(&f.handle(), &asker, move |_, cx| ask(cx, &target, SECOND));
        f.until(|| log.count(&noted("Err(NoReply)")) == 5);
        log.take();
    }
    assert_eq!(asks(&f.handle()), 0);
    assert!(f.shutdown(SECOND));
}

pub fn a_question_to_a_full_mailbox_is_refused<F: Fixture>() {
    let f = F::with_limits(2, mailboxes_of(1, 1000));
    for core in 0..2 {
        let (asker, log) = puppet(&f, core);
        let (stuck, _) = stuck(&f);
        order(&f.handle(), &asker, move |_, cx| {
            ask(cx, &stuck, SECOND / 50);
            ask(cx, &stuck, SECOND / 50);
        });
        f.until(|| log.len() == 3);
        assert_eq!(log.all()[1], noted("Err(Full)"));
        let text = format!("{:?}", log.all()[2]);
        assert!(text.contains("TimedOut"), "{text}");
    }
    let (stuck, _) = stuck(&f);
    let first = f.handle().ask(&stuck, Order::Ask, SECOND / 50);
    let second = f.handle().ask(&stuck, Order::Ask, SECOND / 50);
    assert_eq!(second.wait(), Err(AskError::Full));
    assert!(is_time_out(&first.wait()));
    assert!(f.shutdown(SECOND));
}

pub fn questions_in_flight_are_bounded<F: Fixture>() {
    let mut limits = Limits::default();
    limits.asks_max = 3;
    let f = F::with_limits(2, limits);
    let (asker, log) = puppet(&f, 0);
    let (target, _) = puppet(&f, 1);
    order(&f.handle(), &asker, move |_, cx| {
        for _ in 0..5 {
            ask(cx, &target, SECOND);
        }
    });
    f.until(|| log.count(&noted("Ok(7)")) == 3);
    assert_eq!(log.count(&noted("Err(TooMany)")), 2);
    // All is as before when they have been answered.
    order(&f.handle(), &asker, move |_, cx| ask(cx, &target, SECOND));
    f.until(|| log.count(&noted("Ok(7)")) == 4);
    assert!(f.shutdown(SECOND));
}

/// An answer has its place from the time of the question, so a full mailbox does not keep it away.
pub fn answers_reach_an_actor_whose_mailbox_is_full<F: Fixture>() {
    let f = F::with_limits(1, mailboxes_of(4, 1000));
    let (asker, log) = puppet(&f, 0);
    let (target, _) = puppet(&f, 0);
    order(&f.handle(), &asker, move |_, cx| {
        ask(cx, &target, SECOND);
        let me = cx.address();
        // The mailbox stays full: each message is followed by another.
        fn again(me: &Address<Puppet>, cx: &mut Context<'_, Puppet>) {
            let me = *me;
            let deed = move |puppet: &mut Puppet, cx: &mut Context<'_, Puppet>| {
                if !puppet.log.has(&noted("Ok(7)")) {
                    again(&me, cx);
                }
                Ok(())
            };
            cx.send(&me, Order::Do(Box::new(deed)))
                .expect("one was just taken");
        }
        for _ in 0..4 {
            again(&me, cx);
        }
        assert!(cx.send(&me, Order::Number(0)).is_err());
    });
    f.until(|| log.has(&noted("Ok(7)")));
    assert!(f.shutdown(SECOND));
}

pub fn an_actor_made_anew_gets_no_answers_to_questions_of_the_old_one<F: Fixture>() {
    let f = F::start(1);
    let handle = f.handle();
    let log = Log::new();
    let made = log.clone();
    let (target, _) = puppet(&f, 0);
    let asker = handle
        .spawn(0, move || {
            mischief_reactor::Child::new(move || Puppet::new(&made))
        })
        .expect("spawned");
    tell(&handle, &asker, move |_, cx| {
        cx.ask(&target, keep, SECOND, note);
        Err(Failure::new("on purpose"))
    });
    f.until(|| log.count(&Seen::Started) == 2);
    assert_eq!(asks(&handle), 0);
    order(&handle, &target, |me, _| {
        me.kept.pop().expect("kept").send(1)
    });
    order(&handle, &asker, |_, _| ());
    assert_eq!(log.all(), [Seen::Started, Seen::Dropped, Seen::Started]);
    assert!(f.shutdown(SECOND));
}

pub fn a_thread_outside_waits_for_an_answer<F: Fixture>() {
    let f = F::start(2);
    let handle = f.handle();
    let (target, _) = puppet(&f, 1);
    assert_eq!(handle.ask(&target, Order::Ask, SECOND).wait(), Ok(7));
    let answer = handle.ask(&target, keep, SECOND);
    assert!(is_time_out(&answer.wait_for(SECOND / 50)));
    let answer = handle.ask(&target, |_: Reply<u32>| Order::Number(1), SECOND);
    assert_eq!(answer.wait(), Err(AskError::NoReply));
    // Looked at now and then.
    let mut answer = handle.ask(&target, Order::Ask, SECOND);
    let mut taken = None;
    f.until(|| {
        taken = taken.take().or_else(|| answer.try_take());
        taken.is_some()
    });
    assert_eq!((taken, answer.try_take()), (Some(Ok(7)), None));
    assert!(f.shutdown(SECOND));
    // Nobody is there any more.
    assert_eq!(
        handle.ask(&target, keep, SECOND).wait(),
        Err(AskError::NoReply)
    );
}

/// A question without a question: what a library's own handle gives out.
pub fn a_pair_without_a_question_is_waited_for_the_same_way<F: Fixture>() {
    let f = F::start(1);
    let (target, _) = puppet(&f, 0);
    let (reply, answer) = OneShot::pair::<u32>(&f.handle());
    assert!(reply.is_awaited());
    tell(&f.handle(), &target, move |_, _| {
        reply.send(5);
        Ok(())
    });
    assert_eq!(answer.wait(), Ok(5));
    let (reply, answer) = OneShot::pair::<u32>(&f.handle());
    drop(answer);
    assert!(!reply.is_awaited());
    assert!(f.shutdown(SECOND));
}

pub fn a_core_thread_must_not_wait_for_an_answer<F: Fixture>() {
    let f = F::start(2);
    let (target, _) = puppet(&f, 0);
    for core in 0..2 {
        let (asker, _) = puppet(&f, core);
        let results = order(&f.handle(), &asker, move |_, cx| {
            let handle = cx.handle();
            let signal = mischief_reactor::Signal::default();
            (
                handle.ask(&target, keep, SECOND).wait(),
                handle.snapshot().map(|_| ()),
                handle.spawn(0, || {
                    mischief_reactor::Child::once(Puppet::new(&Log::new()))
                }),
                handle.wait(&signal, &mut || false, None),
                handle.wait(&signal, &mut || true, None),
            )
        });
        assert_eq!(results.0, Err(AskError::OnCoreThread));
        assert_eq!(results.1, Err(AskError::OnCoreThread));
        assert_eq!(results.2, Err(mischief_reactor::SpawnError::OnCoreThread));
        assert_eq!(results.3, Err(WaitError::OnCoreThread));
        assert_eq!(results.4, Ok(()), "what is there costs no waiting");
    }
    assert!(f.shutdown(SECOND));
}

pub fn a_thread_outside_is_served_in_its_order<F: Fixture>() {
    let f = F::start(1);
    let handle = f.handle();
    let (target, log) = puppet(&f, 0);
    for round in 0..50 {
        handle
            .try_send(&target, Order::Number(round))
            .expect("room");
        let seen = log.clone();
        let answer = handle.ask(
            &target,
            move |reply| {
                Order::Do(Box::new(move |_, _| {
                    reply.send(seen.numbers().len() as u32);
                    Ok(())
                }))
            },
            PATIENCE,
        );
        assert_eq!(answer.wait(), Ok(round + 1));
    }
    assert!(f.shutdown(SECOND));
}

/// Counts its wakes.
struct Counter(AtomicU32);

impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
        changed();
    }
}

/// An executor of one task: it polls when woken, and only then.
fn block_on<F: Fixture, T>(f: &F, future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let counter = Arc::new(Counter(AtomicU32::new(0)));
    let waker = Waker::from(counter.clone());
    loop {
        let seen = counter.0.load(Ordering::SeqCst);
        if let Poll::Ready(value) = future.as_mut().poll(&mut TaskContext::from_waker(&waker)) {
            return value;
        }
        f.until(|| counter.0.load(Ordering::SeqCst) > seen);
    }
}

pub fn an_answer_is_a_future_of_any_executor<F: Fixture>() {
    let f = F::start(2);
    let handle = f.handle();
    let (target, _) = puppet(&f, 1);
    assert_eq!(block_on(&f, handle.ask(&target, Order::Ask, SECOND)), Ok(7));
    let dropped = handle.ask(&target, |_: Reply<u32>| Order::Number(1), SECOND);
    assert_eq!(block_on(&f, dropped), Err(AskError::NoReply));
    let several = async {
        let mut sum = 0;
        for _ in 0..20 {
            sum += handle.ask(&target, Order::Ask, SECOND).await?;
        }
        Ok::<u32, AskError>(sum)
    };
    assert_eq!(block_on(&f, several), Ok(140));
    // Its deadline holds without a thread that waits.
    let late = block_on(&f, handle.ask(&target, keep, SECOND / 50));
    assert!(is_time_out(&late), "{late:?}");
    let error = late.expect_err("late").to_string();
    assert!(
        error.contains("Puppet") && error.contains("20ms"),
        "{error}"
    );
    assert!(f.shutdown(SECOND));
}

pub fn an_answer_polled_by_hand_wakes_the_last_who_polled<F: Fixture>() {
    let f = F::start(1);
    let (target, log) = puppet(&f, 0);
    let mut answer = f.handle().ask(&target, keep, PATIENCE);
    let [first, last] = [(), ()].map(|()| Arc::new(Counter(AtomicU32::new(0))));
    for counter in [&first, &last] {
        let waker = Waker::from(Arc::clone(counter));
        let polled = Pin::new(&mut answer).poll(&mut TaskContext::from_waker(&waker));
        assert!(polled.is_pending());
    }
    order(&f.handle(), &target, |me, _| {
        me.kept.pop().expect("kept").send(3)
    });
    f.until(|| last.0.load(Ordering::SeqCst) == 1);
    assert_eq!(first.0.load(Ordering::SeqCst), 0);
    let polled = Pin::new(&mut answer).poll(&mut TaskContext::from_waker(Waker::noop()));
    assert_eq!(polled, Poll::Ready(Ok(3)));
    assert_eq!(log.len(), 1);
    assert!(f.shutdown(SECOND));
}

/// Each question that a task waits for has a timer. Those of answered ones must not pile up until they are due.
pub fn deadlines_of_answered_questions_are_forgotten<F: Fixture>() {
    let f = F::start(1);
    let handle = f.handle();
    let (target, _) = puppet(&f, 0);
    let mut most = 0;
    for _ in 0..3000 {
        let answer = handle.ask(&target, keep, 3600 * SECOND);
        let mut answer = pin!(answer);
        let polled = answer
            .as_mut()
            .poll(&mut TaskContext::from_waker(Waker::noop()));
        assert!(polled.is_pending());
        order(&handle, &target, |me, _| {
            me.kept.pop().expect("kept").send(1)
        });
        let timers = handle.snapshot().expect("answers").cores[0].timers;
        most = most.max(timers);
    }
    assert!(most <= 600, "{most} timers");
    assert!(f.shutdown(SECOND));
}

/// A core that ends answers what it still has, so nobody waits in vain.
pub fn a_runtime_that_ends_leaves_no_question_open<F: Fixture>() {
    let f = F::start(2);
    let handle = f.handle();
    let (target, _) = puppet(&f, 1);
    let (stuck, _) = stuck(&f);
    let open = [
        handle.ask(&target, keep, 3600 * SECOND),
        handle.ask(&stuck, Order::Ask, 3600 * SECOND),
    ];
    // The reply has gone elsewhere, so that nothing but its deadline ends this one.
    let held: Log<Reply<u32>> = Log::new();
    let hold = held.clone();
    let elsewhere = move |reply| {
        Order::Do(Box::new(
            move |_: &mut Puppet, _: &mut Context<'_, Puppet>| {
                hold.add(reply);
                Ok(())
            },
        ))
    };
    let mut moved = pin!(handle.ask(&target, elsewhere, 3600 * SECOND));
    let polled = moved
        .as_mut()
        .poll(&mut TaskContext::from_waker(Waker::noop()));
    assert!(polled.is_pending());
    f.until(|| held.len() == 1 && queued(&f, &stuck) == 1);
    assert!(f.shutdown(SECOND));
    for answer in open {
        assert_eq!(answer.wait(), Err(AskError::NoReply));
    }
    let polled = moved
        .as_mut()
        .poll(&mut TaskContext::from_waker(Waker::noop()));
    assert_eq!(polled, Poll::Ready(Err(AskError::NoReply)));
    let mut later = pin!(handle.ask(&target, Order::Ask, SECOND));
    let polled = later
        .as_mut()
        .poll(&mut TaskContext::from_waker(Waker::noop()));
    assert_eq!(polled, Poll::Ready(Err(AskError::NoReply)));
}

/// Questions from many threads at once, some of which give up early.
pub fn threads_ask_at_the_same_time<F: Fixture>() {
    if F::IS_SIMULATED {
        // A world is stepped by its own thread alone.
        return an_actor_asks_actors_of_both_cores::<F>();
    }
    let f = F::with_limits(2, mailboxes_of(64, 1 << 20));
    let targets = [puppet(&f, 0).0, puppet(&f, 1).0];
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let handle = f.handle();
            scope.spawn(move || {
                for round in 0..2000 {
                    let target = &targets[(thread + round) % 2];
                    let answer = handle.ask(target, Order::Ask, PATIENCE);
                    if round % 3 == 0 {
                        drop(answer);
                        continue;
                    }
                    match answer.wait() {
                        Ok(7) | Err(AskError::Full) => {}
                        other => panic!("{other:?}"),
                    }
                }
            });
        }
    });
    assert!(f.shutdown(SECOND));
}

/// A core stands still while a thread waits for it: the wait ends at its deadline.
pub fn a_standing_core_keeps_nobody_longer_than_the_deadline<F: Fixture>() {
    let f = F::start(1);
    let (target, _) = puppet(&f, 0);
    if F::IS_SIMULATED {
        // Whoever waits steps the world, so nothing stands still.
        return;
    }
    let frozen = Frozen::core(&f, 0);
    let result = f.handle().ask(&target, Order::Ask, SECOND / 20).wait();
    assert!(is_time_out(&result), "{result:?}");
    frozen.thaw();
    assert!(f.shutdown(SECOND));
}
