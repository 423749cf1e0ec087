//! Failing and being made anew.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use mischief_reactor::io::driver::ListenOptions;
use mischief_reactor::{
    Actor, Address, Backoff, Child, Context, Drain, Failure, Instant, Message, Restart, SpawnError,
    StopReason,
};

use crate::fixture::Fixture;
use crate::puppet::{Frozen, Log, Order, Puppet, SECOND, Seen, order, puppet, puppet_with, tell};

fn on_purpose<T>() -> Result<T, Failure> {
    Err(Failure::new("on purpose"))
}

fn fails() -> Order {
    Order::Do(Box::new(|_, _| on_purpose()))
}

fn panics() -> Order {
    Order::Do(Box::new(|_, _| panic!("on purpose")))
}

fn failed() -> StopReason {
    StopReason::Failed("on purpose".into())
}

fn panicked() -> StopReason {
    StopReason::Panicked("on purpose".into())
}

fn within(max: u32, window: Duration) -> Restart {
    Restart::OnFailure {
        max,
        window,
        backoff: Backoff::NONE,
    }
}

/// A puppet that is made anew by `restart` and shaped by `shape` each time.
fn lasting<F: Fixture>(
    f: &F,
    restart: Restart,
    shape: impl Fn(Puppet) -> Puppet + Send + 'static,
) -> (Address<Puppet>, Log) {
    let log = Log::new();
    let made = log.clone();
    let child = move || Child::new(move || shape(Puppet::new(&made))).restart(restart);
    let address = f.handle().spawn(0, child).expect("spawned");
    (address, log)
}

fn stats<F: Fixture>(f: &F, address: &Address<Puppet>) -> Option<mischief_reactor::ActorStats> {
    let snapshot = f.handle().snapshot().expect("answers");
    let mut actors = snapshot.actors();
    actors.find(|actor| actor.id == address.id()).cloned()
}

pub fn a_restart_keeps_address_and_mailbox_and_drops_the_failing_message<F: Fixture>() {
    let f = F::start(2);
    for failing in [fails, panics] {
        let (receiver, log) = lasting(&f, within(3, SECOND), |puppet| puppet);
        f.until(|| log.len() == 1);
        for core in 0..2 {
            let (sender, _) = puppet(&f, core);
            let frozen = (core == 1).then(|| Frozen::core(&f, 0));
            order(&f.handle(), &sender, move |_, cx| {
                cx.send(&receiver, Order::Number(1)).expect("room");
                cx.send(&receiver, failing()).expect("room");
                cx.send(&receiver, Order::Number(2)).expect("room");
                cx.send(&receiver, Order::Number(3)).expect("room");
            });
            drop(frozen);
            f.until(|| log.len() == 1 + (core + 1) * 5);
            order(&f.handle(), &sender, move |_, cx| {
                cx.send(&receiver, Order::Number(4))
                    .expect("the same address");
            });
            f.until(|| log.numbers() == [1, 2, 3, 4]);
            let [
                Seen::Number(1),
                Seen::Dropped,
                Seen::Started,
                Seen::Number(2),
                ..,
            ] = log.all()[log.len() - 6..]
            else {
                panic!("{:?}", log.all());
            };
            log.take();
            for _ in 0..1 + (core + 1) * 5 {
                log.add(Seen::Poke);
            }
        }
        let stats = stats(&f, &receiver).expect("lives");
        assert_eq!((stats.restarts, stats.dropped), (2, 2));
    }
    assert_eq!(f.handle().undeliverable(), 0);
    assert!(f.shutdown(SECOND));
}

/// Numbers arrive in the order in which they were sent, whatever fails between them.
pub fn restarts_leave_the_order_alone<F: Fixture>() {
    let f = F::start(2);
    let (receiver, log) = lasting(&f, within(u32::MAX, SECOND), |puppet| puppet);
    for core in 0..2 {
        let (sender, _) = puppet(&f, core);
        order(&f.handle(), &sender, move |_, cx| {
            for number in 0..1000 {
                cx.send(&receiver, Order::Number(number)).expect("room");
                if number % 7 == 0 {
                    cx.send(&receiver, fails()).expect("room");
                }
            }
        });
        f.until(|| log.numbers().len() == 1000);
        assert!(log.numbers().into_iter().eq(0..1000));
        log.take();
    }
    f.until(|| stats(&f, &receiver).expect("lives").restarts == 286);
    assert!(f.shutdown(SECOND));
}

pub fn a_restart_makes_the_state_anew<F: Fixture>() {
    let f = F::start(1);
    let (receiver, _) = lasting(&f, within(1, SECOND), |puppet| puppet);
    let handle = f.handle();
    order(&handle, &receiver, |me, _| {
        me.react = Some(Box::new(|_, _| true))
    });
    handle.try_send(&receiver, fails()).expect("room");
    assert!(order(&handle, &receiver, |me, _| me.react.is_none()));
    assert!(f.shutdown(SECOND));
}

pub fn a_restart_closes_sockets_and_timers_of_the_old_incarnation<F: Fixture>() {
    let f = F::start(1);
    let (receiver, log) = lasting(&f, within(1, SECOND), |puppet| puppet);
    let (other, _) = puppet(&f, 0);
    let (watched, handle) = (puppet(&f, 0).0, f.handle());
    let addr = f.addr();
    let timer = order(&handle, &receiver, move |_, cx| {
        cx.tcp_listen(addr, ListenOptions::default())
            .expect("listens");
        cx.udp_bind(addr, Default::default()).expect("binds");
        cx.wake_at(Some(cx.now() + SECOND / 50), Duration::ZERO);
        cx.watch(watched.id());
        cx.flush_later();
        cx.arm(cx.now() + SECOND / 50, Duration::ZERO, 1)
    });
    assert_eq!(handle.snapshot().expect("answers").cores[0].sockets, 2);
    f.until(|| log.has(&Seen::Flush));
    tell(&handle, &receiver, |_, cx| {
        cx.flush_later();
        on_purpose()
    });
    f.until(|| log.count(&Seen::Started) == 2);
    let core = handle.snapshot().expect("answers").cores.remove(0);
    assert_eq!((core.sockets, core.timers), (0, 0));
    handle.stop(watched.id());
    // The new one's flush is its own, and a timer of the old one is gone.
    let was_armed = order(&handle, &receiver, move |_, cx| {
        cx.flush_later();
        cx.cancel(timer)
    });
    assert!(!was_armed);
    f.pass(SECOND / 20);
    order(&handle, &other, |_, _| ());
    use Seen::{Dropped, Flush, Started};
    assert_eq!(log.all(), [Started, Flush, Dropped, Started, Flush]);
    assert!(f.shutdown(SECOND));
}

pub fn restarts_are_limited_within_a_window<F: Fixture>() {
    let f = F::start(1);
    let window = SECOND / 10;
    let (receiver, log) = lasting(&f, within(2, window), |puppet| puppet);
    let stopped = f.handle().stopped(receiver.id());
    let handle = f.handle();
    for _ in 0..2 {
        handle.try_send(&receiver, fails()).expect("room");
    }
    f.until(|| log.count(&Seen::Started) == 3);
    // A new window allows as many again.
    f.pass(window * 2);
    for _ in 0..2 {
        handle.try_send(&receiver, fails()).expect("room");
    }
    f.until(|| log.count(&Seen::Started) == 5);
    handle.try_send(&receiver, fails()).expect("room");
    assert_eq!(stopped.wait(), Ok(failed()));
    assert_eq!(log.count(&Seen::Started), 5);
    assert!(
        log.all()
            .iter()
            .all(|seen| !matches!(seen, Seen::Stopping(_)))
    );
    assert!(f.shutdown(SECOND));
}

pub fn the_pause_before_a_restart_doubles_up_to_its_bound<F: Fixture>() {
    let f = F::start(1);
    let unit = SECOND / 50;
    let restart = Restart::OnFailure {
        max: 4,
        window: 100 * SECOND,
        backoff: Backoff {
            first: unit,
            max: 3 * unit,
        },
    };
    let times: Log<Instant> = Log::new();
    let noted = times.clone();
    let (receiver, log) = lasting(&f, restart, move |puppet| {
        let noted = noted.clone();
        puppet.starting(move |cx| {
            noted.add(cx.now());
            Ok(())
        })
    });
    for round in 0..4 {
        let noted = times.clone();
        tell(&f.handle(), &receiver, move |_, cx| {
            noted.add(cx.now());
            on_purpose()
        });
        f.until(|| times.len() == 2 * round + 3);
    }
    assert_eq!(log.count(&Seen::Started), 5);
    let times = times.all();
    let pauses: Vec<Duration> = times[1..]
        .chunks(2)
        .map(|pair| pair[1].saturating_duration_since(pair[0]))
        .collect();
    for (pause, want) in pauses.iter().zip([unit, 2 * unit, 3 * unit, 3 * unit]) {
        assert!(*pause >= want, "never early: {pauses:?}");
        assert!(
            !F::IS_SIMULATED || *pause < want + SECOND / 200,
            "{pauses:?}"
        );
    }
    assert_eq!(pauses.len(), 4);
    assert!(f.shutdown(SECOND));
}

pub fn an_actor_made_once_is_not_made_again<F: Fixture>() {
    let f = F::start(1);
    for (failing, reason) in [(fails as fn() -> Order, failed()), (panics, panicked())] {
        let (receiver, log) = puppet(&f, 0);
        let stopped = f.handle().stopped(receiver.id());
        f.handle().try_send(&receiver, failing()).expect("room");
        assert_eq!(stopped.wait(), Ok(reason));
        assert_eq!(log.all(), [Seen::Started, Seen::Dropped]);
    }
    assert!(f.shutdown(SECOND));
}

/// A parent whose child is made once and escalates.
fn with_child<F: Fixture>(
    f: &F,
    restart: Restart,
    child_log: &Log,
    child_restart: Restart,
) -> (Address<Puppet>, Log, Log<Address<Puppet>>) {
    let children: Log<Address<Puppet>> = Log::new();
    let (born, child_log) = (children.clone(), child_log.clone());
    let (parent, log) = lasting(f, restart, move |puppet| {
        let (born, child_log) = (born.clone(), child_log.clone());
        puppet.starting(move |cx| {
            let made = child_log.clone();
            let child = Child::new(move || Puppet::new(&made)).restart(child_restart);
            born.add(cx.spawn(child)?);
            Ok(())
        })
    });
    f.until(|| children.len() == 1);
    (parent, log, children)
}

pub fn an_escalating_child_fails_its_parent<F: Fixture>() {
    let f = F::start(1);
    let handle = f.handle();
    let child_log = Log::new();
    let escalates = Restart::OrEscalate {
        max: 1,
        window: SECOND,
        backoff: Backoff::NONE,
    };
    let (parent, log, children) = with_child(&f, within(1, SECOND), &child_log, escalates);
    let stopped = handle.stopped(parent.id());
    for round in 1..=2 {
        let child = children.all()[round - 1];
        // The first failure makes the child anew, the second its parent.
        handle.try_send(&child, fails()).expect("room");
        f.until(|| child_log.count(&Seen::Started) == 2 * round);
        assert_eq!(log.count(&Seen::Started), round);
        handle.try_send(&child, fails()).expect("room");
        if round == 1 {
            f.until(|| children.len() == 2);
        }
    }
    let Ok(StopReason::Failed(why)) = stopped.wait() else {
        panic!("it failed");
    };
    assert!(
        why.contains("its child") && why.contains("on purpose"),
        "{why}"
    );
    assert_eq!(log.count(&Seen::Started), 2);
    assert_eq!(handle.snapshot().expect("answers").actors().count(), 0);
    assert!(f.shutdown(SECOND));
}

pub fn a_child_that_stops_for_good_leaves_its_parent_alone<F: Fixture>() {
    let f = F::start(1);
    let handle = f.handle();
    let child_log = Log::new();
    let (parent, log, children) = with_child(&f, within(1, SECOND), &child_log, Restart::Never);
    let child = children.all()[0];
    let stopped = handle.stopped(child.id());
    handle.try_send(&child, panics()).expect("room");
    assert_eq!(stopped.wait(), Ok(panicked()));
    assert_eq!(order(&handle, &parent, |_, _| 5), 5);
    assert_eq!(log.all(), [Seen::Started]);
    assert!(f.shutdown(SECOND));
}

/// The parent is made anew only when its children have gone, each after a drain of its own.
pub fn children_end_before_their_parent_is_made_anew<F: Fixture>() {
    let f = F::start(1);
    let log = Log::new();
    let made = log.clone();
    let spawned = f.handle().spawn(0, move || {
        Child::new(move || {
            let child_log = made.clone();
            Puppet::new(&made).starting(move |cx| {
                let deadline = cx.now() + SECOND / 50;
                let child = Puppet::new(&child_log).draining(move |reason, _| {
                    assert_eq!(*reason, StopReason::ParentStopped);
                    Drain::Until(deadline)
                });
                cx.spawn(Child::once(child))?;
                Ok(())
            })
        })
    });
    let parent = spawned.expect("spawned");
    f.until(|| log.len() == 2);
    f.handle().try_send(&parent, fails()).expect("room");
    f.until(|| log.len() == 7);
    use Seen::{Dropped, Started, Stopping};
    let stopping = Stopping(StopReason::ParentStopped);
    assert_eq!(
        log.all(),
        [
            Started, Started, Dropped, stopping, Dropped, Started, Started
        ]
    );
    assert!(f.shutdown(SECOND));
}

pub fn a_start_that_fails_is_a_failure<F: Fixture>() {
    let f = F::start(1);
    for panicking in [false, true] {
        let attempts = Arc::new(AtomicU32::new(0));
        let counted = attempts.clone();
        let start = move |puppet: Puppet| {
            let counted = counted.clone();
            puppet.starting(move |_| {
                let attempt = counted.fetch_add(1, Ordering::SeqCst);
                match attempt {
                    0 | 1 if panicking => panic!("on purpose"),
                    0 | 1 => on_purpose(),
                    _ => Ok(()),
                }
            })
        };
        let (receiver, log) = lasting(&f, within(2, SECOND), start);
        // What it is sent meanwhile waits until a start succeeds.
        for number in 0..5 {
            f.handle()
                .try_send(&receiver, Order::Number(number))
                .expect("room");
        }
        f.until(|| log.numbers().len() == 5);
        assert!(log.numbers().into_iter().eq(0..5));
        assert_eq!(attempts.load(Ordering::SeqCst), 3);
        assert_eq!(
            stats(&f, &receiver).expect("lives").dropped,
            0,
            "no message was lost"
        );
    }
    assert!(f.shutdown(SECOND));
}

pub fn a_factory_that_panics_is_a_failure<F: Fixture>() {
    let f = F::start(1);
    let handle = f.handle();
    // At the first time nobody is born.
    let log = Log::new();
    let result = handle.spawn(0, || -> Child<Puppet> {
        Child::new(|| panic!("on purpose"))
    });
    assert_eq!(result, Err(SpawnError::Panicked));
    // Later it counts as one more failure.
    for (bad, restarts) in [(1, 3), (5, 2)] {
        let made = log.clone();
        let mut calls = 0;
        let child = move || {
            Child::new(move || {
                calls += 1;
                assert!(calls == 1 || calls > 1 + bad, "on purpose");
                Puppet::new(&made)
            })
            .restart(within(restarts, SECOND))
        };
        let receiver = handle.spawn(0, child).expect("spawned");
        let stopped = handle.stopped(receiver.id());
        handle.try_send(&receiver, fails()).expect("room");
        handle
            .try_send(&receiver, Order::Number(bad))
            .expect("room");
        if bad < restarts {
            f.until(|| log.numbers() == [bad]);
            assert_eq!(stats(&f, &receiver).expect("lives").restarts, 2);
            drop(stopped);
        } else {
            assert!(matches!(stopped.wait(), Ok(StopReason::Panicked(_))));
            // The message behind the failing one may still be under way when the end is told.
            f.until(|| handle.undeliverable() == 1);
        }
    }
    assert!(f.shutdown(SECOND));
}

pub fn a_failing_event_is_a_failure<F: Fixture>() {
    let f = F::start(1);
    let (receiver, log) = lasting(&f, within(1, SECOND), |puppet| {
        puppet.reacting(|_, _| panic!("on purpose"))
    });
    order(&f.handle(), &receiver, |_, cx| {
        cx.wake_at(Some(cx.now()), Duration::ZERO)
    });
    f.until(|| log.len() == 3);
    assert_eq!(log.all(), [Seen::Started, Seen::Dropped, Seen::Started]);
    let stats = stats(&f, &receiver).expect("lives");
    assert_eq!((stats.restarts, stats.dropped), (1, 0));
    assert!(f.shutdown(SECOND));
}

/// An answer that fails its asker is a message like any other.
pub fn a_failing_answer_is_a_failure<F: Fixture>() {
    let f = F::start(1);
    let (receiver, log) = lasting(&f, within(2, SECOND), |puppet| puppet);
    let (target, _) = puppet(&f, 0);
    order(&f.handle(), &receiver, move |_, cx| {
        cx.ask(&target, Order::Ask, SECOND, |_| fails());
    });
    f.until(|| log.count(&Seen::Started) == 2);
    order(&f.handle(), &receiver, move |_, cx| {
        cx.ask(&target, Order::Ask, SECOND, |_| panic!("on purpose"));
    });
    f.until(|| log.count(&Seen::Started) == 3);
    assert!(f.shutdown(SECOND));
}

/// Panics when it is dropped, as a user's type may.
struct Grenade;

impl Drop for Grenade {
    fn drop(&mut self) {
        assert!(std::thread::panicking(), "on purpose");
    }
}

struct Bearer {
    _grenade: Grenade,
    log: Log,
}

struct Parcel(#[expect(dead_code, reason = "it is there to be dropped")] Option<Grenade>);

impl Message for Parcel {}

impl Actor for Bearer {
    type Message = Parcel;

    fn started(&mut self, _: &mut Context<'_, Self>) -> Result<(), Failure> {
        self.log.add(Seen::Started);
        Ok(())
    }

    fn handle(&mut self, _: Parcel, _: &mut Context<'_, Self>) -> Result<(), Failure> {
        on_purpose()
    }
}

pub fn a_panic_in_a_drop_harms_nobody_else<F: Fixture>() {
    let f = F::start(2);
    let handle = f.handle();
    let log = Log::new();
    let made = log.clone();
    let bearer = move || {
        Child::new(move || Bearer {
            _grenade: Grenade,
            log: made.clone(),
        })
        .restart(within(1, SECOND))
    };
    let bearer = handle.spawn(0, bearer).expect("spawned");
    let stopped = handle.stopped(bearer.id());
    // Dropped at its restart, and at its end.
    handle.try_send(&bearer, Parcel(None)).expect("room");
    f.until(|| log.count(&Seen::Started) == 2);
    handle.try_send(&bearer, Parcel(None)).expect("room");
    assert!(matches!(stopped.wait(), Ok(StopReason::Failed(_))));
    // A message that cannot be delivered, dropped in the run-queue.
    handle
        .try_send(&bearer, Parcel(Some(Grenade)))
        .expect("nobody knows yet");
    f.until(|| handle.undeliverable() == 1);
    let (other, _) = puppet(&f, 0);
    assert_eq!(order(&handle, &other, |_, _| 3), 3);
    assert!(f.shutdown(SECOND));
}

pub fn a_panic_while_stopping_ends_the_actor<F: Fixture>() {
    let f = F::start(1);
    let (receiver, _) = puppet_with(&f, 0, |puppet| puppet.draining(|_, _| panic!("on purpose")));
    let stopped = f.handle().stopped(receiver.id());
    f.handle().stop(receiver.id());
    assert_eq!(stopped.wait(), Ok(panicked()));
    // One that fails while it drains is not made anew.
    let (receiver, log) = lasting(&f, within(5, SECOND), |puppet| {
        puppet.draining(|_, cx| Drain::Until(cx.now() + 100 * SECOND))
    });
    let stopped = f.handle().stopped(receiver.id());
    f.handle().stop(receiver.id());
    f.until(|| log.has(&Seen::Stopping(StopReason::Requested)));
    f.handle()
        .try_send(&receiver, fails())
        .expect("it still listens");
    assert_eq!(stopped.wait(), Ok(failed()));
    assert_eq!(log.count(&Seen::Started), 1);
    assert!(f.shutdown(SECOND));
}

/// What an actor keeps failing on is dropped each time, and what others do goes on meanwhile.
pub fn a_failing_actor_costs_the_others_nothing<F: Fixture>() {
    let f = F::start(1);
    let (failing, _) = lasting(&f, within(u32::MAX, SECOND), |puppet| puppet);
    let (receiver, log) = puppet(&f, 0);
    let (sender, _) = puppet(&f, 0);
    order(&f.handle(), &sender, move |_, cx| {
        for number in 0..500 {
            cx.send(&failing, panics()).expect("room");
            cx.send(&receiver, Order::Number(number)).expect("room");
        }
    });
    f.until(|| log.numbers().len() == 500);
    f.until(|| stats(&f, &failing).expect("lives").dropped == 500);
    assert!(log.numbers().into_iter().eq(0..500));
    assert!(f.shutdown(SECOND));
}

/// A stop that comes while an actor waits to be made anew ends it, and what waited for it is counted.
pub fn an_actor_can_be_stopped_while_it_waits_to_be_made_anew<F: Fixture>() {
    let f = F::start(1);
    let (stuck, log) = crate::messages::stuck(&f);
    let stopped = f.handle().stopped(stuck.id());
    f.handle().try_send(&stuck, Order::Number(1)).expect("room");
    f.handle().stop(stuck.id());
    assert_eq!(stopped.wait(), Ok(StopReason::Requested));
    f.until(|| f.handle().undeliverable() == 1);
    assert_eq!(log.all(), [Seen::Started, Seen::Dropped]);
    assert!(f.shutdown(SECOND));
}
