//! Being born, watched, named, stopped and drained.

use std::time::Duration;

use mischief_reactor::{
    Actor, Address, AskError, Child, Context, Drain, Failure, Limits, Message, SendError,
    SpawnError, StopReason, TrySendError,
};

use crate::fixture::Fixture;
use crate::puppet::{
    Frozen, Log, Order, Puppet, SECOND, Seen, mailboxes_of, order, puppet, puppet_with, tell,
};

fn child(log: &Log) -> Child<Puppet> {
    Child::once(Puppet::new(log))
}

fn hour() -> Duration {
    3600 * SECOND
}

pub fn a_spawn_does_not_recurse<F: Fixture>() {
    let f = F::start(1);
    let (parent, _) = puppet(&f, 0);
    let log = Log::new();
    let made = log.clone();
    order(&f.handle(), &parent, move |_, cx| {
        let address = cx.spawn(child(&made)).expect("spawned");
        assert_eq!(made.len(), 0, "it starts after this handler");
        // But before it handles anything.
        cx.send(&address, Order::Number(1)).expect("room");
    });
    f.until(|| log.len() == 2);
    assert_eq!(log.all(), [Seen::Started, Seen::Number(1)]);
    assert!(f.shutdown(SECOND));
}

pub fn spawns_are_bounded<F: Fixture>() {
    let mut limits = Limits::default();
    limits.actors_max = 2;
    let f = F::with_limits(1, limits);
    let (parent, _) = puppet(&f, 0);
    let (other, _) = puppet(&f, 0);
    let refused = order(&f.handle(), &parent, |_, cx| cx.spawn(child(&Log::new())));
    assert_eq!(refused, Err(SpawnError::TooMany));
    f.handle().stop(other.id());
    assert_eq!(
        f.handle().stopped(other.id()).wait(),
        Ok(StopReason::Unknown)
    );
    order(&f.handle(), &parent, |_, cx| cx.spawn(child(&Log::new()))).expect("room again");
    let refused = f.handle().spawn(0, || child(&Log::new()));
    assert_eq!(refused, Err(SpawnError::TooMany));
    assert_eq!(
        f.handle().spawn(7, || child(&Log::new())),
        Err(SpawnError::ShuttingDown)
    );
    assert!(f.shutdown(SECOND));
}

/// A way to end.
type End = fn(&mut Context<'_, Puppet>) -> Result<(), Failure>;

pub fn deaths_are_told_to_watchers<F: Fixture>() {
    let f = F::start(2);
    let handle = f.handle();
    for core in 0..2 {
        let (watcher, log) = puppet(&f, core);
        let ends: [(End, StopReason); 4] = [
            (
                |cx| {
                    cx.stop();
                    Ok(())
                },
                StopReason::Finished,
            ),
            (
                |cx| {
                    let id = cx.id();
                    cx.stop_actor(id);
                    Ok(())
                },
                StopReason::Requested,
            ),
            (
                |_| Err(Failure::new("on purpose")),
                StopReason::Failed("on purpose".into()),
            ),
            (
                |_| panic!("on purpose"),
                StopReason::Panicked("on purpose".into()),
            ),
        ];
        for (end, reason) in ends {
            let (watched, _) = puppet(&f, 0);
            order(&handle, &watcher, move |_, cx| {
                // Once is told once, however often it was asked for.
                cx.watch(watched.id());
                cx.watch(watched.id());
            });
            // By way of the watcher, so that the watch is there before the end.
            order(&handle, &watcher, move |_, cx| {
                let end = Order::Do(Box::new(move |_: &mut Puppet, cx: &mut Context<'_, _>| {
                    end(cx)
                }));
                cx.send(&watched, end).expect("room");
            });
            f.until(|| log.has(&Seen::Stopped(watched.id(), reason.clone())));
            // There is nobody any more.
            order(&handle, &watcher, move |_, cx| cx.watch(watched.id()));
            f.until(|| log.has(&Seen::Stopped(watched.id(), StopReason::Unknown)));
        }
        assert_eq!(log.len(), 9, "{:?}", log.all());
    }
    assert!(f.shutdown(SECOND));
}

pub fn a_watch_can_be_taken_back<F: Fixture>() {
    let f = F::start(2);
    let handle = f.handle();
    let (watched, _) = puppet(&f, 0);
    let logs: Vec<Log> = (0..2)
        .map(|core| {
            let (watcher, log) = puppet(&f, core);
            order(&handle, &watcher, move |_, cx| {
                cx.watch(watched.id());
                cx.unwatch(watched.id());
            });
            log
        })
        .collect();
    let (witness, seen) = puppet(&f, 1);
    order(&handle, &witness, move |_, cx| {
        cx.watch(watched.id());
        cx.stop_actor(watched.id());
    });
    f.until(|| seen.has(&Seen::Stopped(watched.id(), StopReason::Requested)));
    f.pass(SECOND / 100);
    for log in logs {
        assert_eq!(log.all(), [Seen::Started]);
    }
    assert!(f.shutdown(SECOND));
}

pub fn a_watcher_may_end_before_the_watched<F: Fixture>() {
    let f = F::start(2);
    let handle = f.handle();
    let (watched, _) = puppet(&f, 0);
    for core in 0..2 {
        let (watcher, _) = puppet(&f, core);
        order(&handle, &watcher, move |_, cx| cx.watch(watched.id()));
        handle.stop(watcher.id());
        assert!(handle.stopped(watcher.id()).wait().is_ok());
        // Its place is taken by somebody who watches nobody.
        let (_, log) = puppet(&f, core);
        f.until(|| log.len() == 1);
        if core == 1 {
            handle.stop(watched.id());
            assert!(handle.stopped(watched.id()).wait().is_ok());
            f.pass(SECOND / 100);
        }
        assert_eq!(log.all(), [Seen::Started]);
    }
    assert!(f.shutdown(SECOND));
}

pub fn ends_are_told_to_threads_outside<F: Fixture>() {
    let f = F::start(2);
    let handle = f.handle();
    let (actor, _) = puppet(&f, 1);
    let answers = [handle.stopped(actor.id()), handle.stopped(actor.id())];
    handle.stop(actor.id());
    for answer in answers {
        assert_eq!(answer.wait(), Ok(StopReason::Requested));
    }
    assert_eq!(handle.stopped(actor.id()).wait(), Ok(StopReason::Unknown));
    // Also of one that ends with its runtime.
    let (actor, _) = puppet(&f, 0);
    let answer = handle.stopped(actor.id());
    assert!(f.shutdown(SECOND));
    assert_eq!(answer.wait(), Ok(StopReason::Shutdown));
    assert_eq!(handle.stopped(actor.id()).wait(), Err(AskError::NoReply));
}

pub fn children_stop_before_their_parents<F: Fixture>() {
    let f = F::start(1);
    let log: Log<String> = Log::new();
    // Each actor of three generations notes its end.
    struct Noting {
        name: String,
        generations: u32,
        log: Log<String>,
    }
    impl Actor for Noting {
        type Message = ();
        fn started(&mut self, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
            for number in 0..self.generations {
                let name = format!("{}{number}", self.name);
                cx.spawn(Child::once(Noting {
                    name,
                    generations: self.generations - 1,
                    log: self.log.clone(),
                }))?;
            }
            self.log.add(format!("+{}", self.name));
            Ok(())
        }
        fn handle(&mut self, (): (), _: &mut Context<'_, Self>) -> Result<(), Failure> {
            Ok(())
        }
        fn stopping(&mut self, _: &StopReason, _: &mut Context<'_, Self>) -> Drain {
            self.log.add(format!("-{}", self.name));
            Drain::Done
        }
    }
    let seen = log.clone();
    let root = f
        .handle()
        .spawn(0, move || {
            Child::once(Noting {
                name: "a".to_owned(),
                generations: 3,
                log: seen,
            })
        })
        .expect("spawned");
    let born = 1 + 3 + 3 * 2 + 3 * 2;
    f.until(|| log.len() == born);
    f.handle().stop(root.id());
    assert!(f.handle().stopped(root.id()).wait().is_ok());
    let log = log.all();
    let place = |name: &str| log.iter().position(|other| other == name).expect("noted");
    for name in log
        .iter()
        .filter(|name| name.starts_with('-') && name.len() > 2)
    {
        let parent = &name[..name.len() - 1];
        assert!(
            place(name) < place(parent),
            "{name} before {parent} in {log:?}"
        );
    }
    assert_eq!(log.len(), 2 * born);
    assert!(f.shutdown(SECOND));
}

/// A line of descendants as long as this needs no stack of that depth.
struct Link {
    below: u32,
    log: Log<u32>,
}

impl Actor for Link {
    type Message = ();

    fn started(&mut self, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        let Some(below) = self.below.checked_sub(1) else {
            self.log.add(0);
            return Ok(());
        };
        let log = self.log.clone();
        cx.spawn(Child::once(Link { below, log }))?;
        Ok(())
    }

    fn handle(&mut self, (): (), _: &mut Context<'_, Self>) -> Result<(), Failure> {
        Err(Failure::new("on purpose"))
    }
}

pub fn a_long_line_of_descendants_ends_without_a_deep_stack<F: Fixture>() {
    let below = if F::IS_SIMULATED { 5_000 } else { 20_000 };
    let f = F::start(1);
    let handle = f.handle();
    for ends_by_failure in [false, true] {
        let log = Log::new();
        let seen = log.clone();
        let root = move || Child::once(Link { below, log: seen });
        let root = handle.spawn(0, root).expect("spawned");
        f.until(|| log.len() == 1);
        let stopped = handle.stopped(root.id());
        if ends_by_failure {
            handle.try_send(&root, ()).expect("room");
        } else {
            handle.stop(root.id());
        }
        stopped.wait_for(60 * SECOND).expect("ended");
        assert_eq!(handle.snapshot().expect("answers").actors().count(), 0);
    }
    // And killed.
    let log = Log::new();
    let seen = log.clone();
    handle
        .spawn(0, move || {
            let log = seen.clone();
            Child::once(
                Puppet::new(&Log::new())
                    .draining(|_, cx| Drain::Until(cx.now() + hour()))
                    .starting(move |cx| {
                        let log = log.clone();
                        cx.spawn(Child::once(Link { below, log }))?;
                        Ok(())
                    }),
            )
        })
        .expect("spawned");
    f.until(|| log.len() == 1);
    assert!(!f.shutdown(Duration::ZERO));
}

pub fn a_drain_goes_on_until_its_deadline<F: Fixture>() {
    let f = F::start(1);
    let (actor, log) = puppet_with(&f, 0, |puppet| {
        puppet.draining(|_, cx| Drain::Until(cx.now() + SECOND / 20))
    });
    let handle = f.handle();
    let before = order(&handle, &actor, |_, cx| cx.now());
    let (witness, seen) = puppet_with(&f, 0, |puppet| {
        puppet.reacting(|event, cx| {
            let _ = (event, cx);
            false
        })
    });
    order(&handle, &witness, move |_, cx| {
        cx.watch(actor.id());
        cx.stop_actor(actor.id());
    });
    f.until(|| log.has(&Seen::Stopping(StopReason::Requested)));
    // It goes on to receive messages and events.
    handle.try_send(&actor, Order::Number(1)).expect("room");
    order(&handle, &actor, |_, cx| {
        cx.wake_at(Some(cx.now()), Duration::ZERO)
    });
    // Being asked once more changes nothing.
    handle.stop(actor.id());
    f.until(|| seen.has(&Seen::Stopped(actor.id(), StopReason::Requested)));
    let after = order(&handle, &witness, |_, cx| cx.now());
    assert!(after.saturating_duration_since(before) >= SECOND / 20);
    let log = log.all();
    assert_eq!(
        log[..3],
        [
            Seen::Started,
            Seen::Stopping(StopReason::Requested),
            Seen::Number(1)
        ]
    );
    assert!(
        matches!(log[3..], [Seen::Wake(_), Seen::Dropped]),
        "{log:?}"
    );
    assert!(f.shutdown(SECOND));
}

pub fn a_drain_ends_early_when_the_actor_says_so<F: Fixture>() {
    let f = F::start(1);
    let handle = f.handle();
    let (actor, _) = puppet_with(&f, 0, |puppet| {
        puppet.draining(|_, cx| Drain::Until(cx.now() + hour()))
    });
    let stopped = handle.stopped(actor.id());
    handle.stop(actor.id());
    order(&handle, &actor, |_, cx| cx.stop());
    // For the reason for which it was stopped.
    assert_eq!(stopped.wait(), Ok(StopReason::Requested));
    assert!(f.shutdown(SECOND));
}

pub fn a_stopping_parent_has_no_more_children<F: Fixture>() {
    let f = F::start(1);
    let handle = f.handle();
    // The child drains for an hour, and its parent waits for it.
    let (parent, log) = puppet(&f, 0);
    let grown = order(&handle, &parent, |_, cx| {
        let child = Puppet::new(&Log::new()).draining(|_, cx| Drain::Until(cx.now() + hour()));
        cx.spawn(Child::once(child)).expect("spawned")
    });
    let stopped = handle.stopped(parent.id());
    handle.stop(parent.id());
    let refused = order(&handle, &parent, |_, cx| cx.spawn(child(&Log::new())));
    assert_eq!(refused, Err(SpawnError::ShuttingDown));
    // Somebody who does not depend on it may still be born.
    order(&handle, &parent, |_, cx| cx.spawn_root(child(&Log::new()))).expect("spawned");
    order(&handle, &grown, |_, cx| cx.stop());
    assert_eq!(stopped.wait(), Ok(StopReason::Requested));
    assert_eq!(
        log.all(),
        [
            Seen::Started,
            Seen::Stopping(StopReason::Requested),
            Seen::Dropped
        ]
    );
    assert!(f.shutdown(SECOND));
}

pub fn who_is_stopped_right_after_its_birth_has_a_whole_life<F: Fixture>() {
    let f = F::start(1);
    let (parent, _) = puppet(&f, 0);
    let log = Log::new();
    let made = log.clone();
    tell(&f.handle(), &parent, move |_, cx| {
        cx.spawn(child(&made)).expect("spawned");
        Err(Failure::new("on purpose"))
    });
    f.until(|| log.has(&Seen::Dropped));
    let stopping = Seen::Stopping(StopReason::ParentStopped);
    assert_eq!(log.all(), [Seen::Started, stopping, Seen::Dropped]);
    assert!(f.shutdown(SECOND));
}

pub fn names_belong_to_a_node_and_are_freed_at_death<F: Fixture>() {
    let f = F::start(2);
    let handle = f.handle();
    let other = handle.new_node();
    let named = |name: &'static str| move || child(&Log::new()).name(name);
    let first = handle.spawn(0, named("one")).expect("spawned");
    assert_eq!(handle.lookup::<Puppet>("one"), Some(first));
    assert_eq!(other.lookup::<Puppet>("one"), None, "another node");
    assert_eq!(handle.lookup::<Link>("one"), None, "another type");
    assert_eq!(handle.lookup::<Puppet>("on"), None);
    assert_eq!(
        handle.spawn(1, named("one")),
        Err(SpawnError::NameTaken("one"))
    );
    let second = other
        .spawn(1, named("one"))
        .expect("a name of its own node");
    // Inside, an actor sees its own node.
    let seen = order(&handle, &second, |_, cx| cx.lookup::<Puppet>("one"));
    assert_eq!(seen, Some(second));
    // A child belongs to its parent's node.
    let third = order(&handle, &second, |_, cx| {
        let child = cx.spawn(child(&Log::new()).name("two")).expect("spawned");
        assert_eq!(cx.register("one"), Ok(()), "it is its own");
        assert_eq!(cx.register("two"), Err(SpawnError::NameTaken("two")));
        assert_eq!(cx.register("three"), Ok(()), "a second name");
        child
    });
    assert_eq!(other.lookup("two"), Some(third));
    assert_eq!(other.lookup("three"), Some(second));
    handle.stop(second.id());
    assert!(handle.stopped(second.id()).wait().is_ok());
    for name in ["one", "two", "three"] {
        assert_eq!(other.lookup::<Puppet>(name), None, "{name}");
    }
    let again = other.spawn(0, named("one")).expect("the name is free");
    assert_eq!(other.lookup("one"), Some(again));
    assert_eq!(handle.lookup("one"), Some(first));
    // A restart keeps the name.
    let lasting = || Child::new(|| Puppet::new(&Log::new())).name("four");
    let fourth = handle.spawn(0, lasting).expect("spawned");
    tell(&handle, &fourth, |_, _| Err(Failure::new("on purpose")));
    order(&handle, &fourth, |_, _| ());
    assert_eq!(handle.lookup("four"), Some(fourth));
    assert!(f.shutdown(SECOND));
}

pub fn what_reaches_nobody_is_counted<F: Fixture>() {
    let f = F::start(2);
    let handle = f.handle();
    let (actor, _) = puppet(&f, 0);
    // One that waits in the mailbox of an actor that ends, from each side.
    for core in 0..2 {
        let (sender, _) = puppet(&f, core);
        let (doomed, _) = puppet(&f, 0);
        let frozen = (core == 1).then(|| Frozen::core(&f, 0));
        order(&handle, &sender, move |_, cx| {
            let end = Order::Do(Box::new(|_: &mut Puppet, _: &mut Context<'_, Puppet>| {
                Err(Failure::new("on purpose"))
            }));
            cx.send(&doomed, end).expect("room");
            cx.send(&doomed, Order::Bytes(vec![0; 100])).expect("room");
            cx.send(&actor, Order::Number(1)).expect("room");
        });
        drop(frozen);
        f.until(|| handle.undeliverable() == core + 1);
        // Known to be gone on its own core, and found out elsewhere.
        let result = order(&handle, &sender, move |_, cx| {
            cx.send(&doomed, Order::Number(1))
        });
        assert_eq!(result.is_err(), core == 0);
    }
    f.until(|| handle.undeliverable() == 3);
    let snapshot = handle.snapshot().expect("answers");
    let counted: u32 = snapshot.cores.iter().map(|core| core.undeliverable).sum();
    assert_eq!(counted, 3);
    f.until(|| handle.memory().used() == 0);
    assert!(f.shutdown(SECOND));
}

/// Understands something else than a puppet.
struct Stranger(Log<u64>);

struct Word(u64);

impl Message for Word {}

impl Actor for Stranger {
    type Message = Word;

    fn handle(&mut self, word: Word, _: &mut Context<'_, Self>) -> Result<(), Failure> {
        self.0.add(word.0);
        Ok(())
    }
}

pub fn an_address_of_another_runtime_is_harmless<F: Fixture>() {
    let f = F::with_limits(1, mailboxes_of(8, 1000));
    let foreign = F::start(3);
    // It means the first place of its core, where another type of actor lives here.
    let log = Log::new();
    let seen = log.clone();
    let stranger = f
        .handle()
        .spawn(0, move || Child::once(Stranger(seen)))
        .expect("spawned");
    let (address, _) = puppet(&foreign, 0);
    assert_eq!(address.id(), stranger.id(), "the same place");
    let (sender, _) = puppet(&f, 0);
    for round in 0..20 {
        let result = order(&f.handle(), &sender, move |_, cx| {
            cx.send(&address, Order::Bytes(vec![0; 100])).is_ok()
        });
        assert!(
            result,
            "round {round}: it does not fill the mailbox for ever"
        );
        let result = f.handle().try_send(&address, Order::Bytes(vec![0; 100]));
        assert!(
            result.is_ok(),
            "round {round}: it does not fill the mailbox for ever"
        );
        f.until(|| f.handle().undeliverable() == 2 * round + 2);
    }
    assert_eq!(
        f.handle().ask(&address, Order::Ask, SECOND).wait(),
        Err(AskError::NoReply)
    );
    order(&f.handle(), &sender, move |_, cx| {
        cx.send(&stranger, Word(5))
    })
    .expect("room");
    f.until(|| log.all() == [5]);
    // A core that is not there, and a place that is not there.
    for core in 1..3 {
        let (address, _) = puppet(&foreign, core);
        let result = order(&f.handle(), &sender, move |_, cx| {
            cx.send(&address, Order::Number(1))
        });
        assert!(matches!(result, Err(TrySendError::Stopped(_))));
        let result = f.handle().try_send(&address, Order::Number(1));
        assert!(matches!(result, Err(TrySendError::Stopped(_))));
        assert_eq!(
            f.handle().ask(&address, Order::Ask, SECOND).wait(),
            Err(AskError::NoReply)
        );
        assert_eq!(
            f.handle().stopped(address.id()).wait(),
            Err(AskError::NoReply)
        );
        f.handle().stop(address.id());
        f.handle().poke(address.id());
    }
    let many: Vec<Address<Puppet>> = (0..10).map(|_| puppet(&foreign, 0).0).collect();
    let last = many[9];
    let result = order(&f.handle(), &sender, move |_, cx| {
        cx.send(&last, Order::Number(1))
    });
    assert!(matches!(result, Err(TrySendError::Stopped(_))));
    assert!(f.shutdown(SECOND));
    assert!(foreign.shutdown(SECOND));
}

pub fn an_address_never_means_the_next_tenant_of_a_place<F: Fixture>() {
    let f = F::start(2);
    let handle = f.handle();
    let (sender, _) = puppet(&f, 1);
    let (first, _) = puppet(&f, 0);
    handle.stop(first.id());
    assert!(handle.stopped(first.id()).wait().is_ok());
    let (second, log) = puppet(&f, 0);
    assert_ne!(first, second);
    handle
        .try_send(&first, Order::Number(1))
        .expect("nobody knows yet");
    order(&handle, &sender, move |_, cx| {
        cx.send(&first, Order::Number(2)).expect("nobody knows yet");
        cx.watch(first.id());
        cx.stop_actor(first.id());
    });
    handle.stop(first.id());
    handle.poke(first.id());
    f.until(|| handle.undeliverable() == 2);
    order(&handle, &second, |_, _| ());
    assert_eq!(log.all(), [Seen::Started]);
    assert!(f.shutdown(SECOND));
}

pub fn a_poke_is_an_event<F: Fixture>() {
    let f = F::start(2);
    let (actor, log) = puppet(&f, 1);
    f.handle().poke(actor.id());
    f.until(|| log.all() == [Seen::Started, Seen::Poke]);
    assert!(f.shutdown(SECOND));
}

pub fn a_shutdown_stops_everybody_and_answers_in_time<F: Fixture>() {
    let f = F::start(2);
    let handle = f.handle();
    let logs: Vec<Log> = (0..4)
        .map(|number| {
            let (_, log) = puppet_with(&f, number % 2, move |puppet| {
                puppet.draining(move |_, cx| Drain::Until(cx.now() + SECOND / 50))
            });
            f.until(|| log.len() == 1);
            log
        })
        .collect();
    let (actor, _) = puppet(&f, 0);
    assert!(f.shutdown(10 * SECOND));
    for log in logs {
        let stopping = Seen::Stopping(StopReason::Shutdown);
        assert_eq!(log.all(), [Seen::Started, stopping, Seen::Dropped]);
    }
    // Whoever still has a handle learns that nobody is here, at once.
    assert!(handle.try_send(&actor, Order::Number(1)).is_err());
    assert_eq!(
        handle.send(&actor, Order::Number(1), SECOND),
        Err(SendError::Stopped)
    );
    assert_eq!(
        handle.spawn(0, || child(&Log::new())),
        Err(SpawnError::ShuttingDown)
    );
    assert_eq!(handle.snapshot().map(|_| ()), Err(AskError::NoReply));
    assert_eq!(handle.lookup::<Puppet>("one"), None);
}

pub fn a_hanging_drain_is_cut_short<F: Fixture>() {
    let f = F::start(2);
    let (_, log) = puppet_with(&f, 1, |puppet| {
        puppet.draining(|_, cx| Drain::Until(cx.now() + hour()))
    });
    f.until(|| log.len() == 1);
    assert!(!f.shutdown(SECOND / 20));
    assert!(log.has(&Seen::Dropped));
}

pub fn while_shutting_down_nobody_is_born<F: Fixture>() {
    let f = F::start(1);
    let handle = f.handle();
    let born = Log::new();
    let made = born.clone();
    let (_, log) = puppet_with(&f, 0, move |puppet| {
        puppet.draining(move |_, cx| {
            assert_eq!(cx.spawn(child(&made)), Err(SpawnError::ShuttingDown));
            assert_eq!(cx.spawn_root(child(&made)), Err(SpawnError::ShuttingDown));
            Drain::Until(cx.now() + SECOND / 50)
        })
    });
    f.until(|| log.len() == 1);
    handle.shut_down();
    assert_eq!(
        handle.spawn(0, || child(&Log::new())),
        Err(SpawnError::ShuttingDown)
    );
    assert!(f.shutdown(10 * SECOND));
    assert!(!born.has(&Seen::Started));
    assert_eq!(log.len(), 3);
}

/// One core has ended and the other has not: what goes there comes back or is counted, and nobody waits in vain.
pub fn a_core_that_has_ended_is_known_to_the_others<F: Fixture>() {
    let f = F::start(2);
    let handle = f.handle();
    let (gone, _) = puppet(&f, 1);
    // An hour's drain keeps core 0.
    let (actor, log) = puppet_with(&f, 0, |puppet| {
        puppet.draining(|_, cx| Drain::Until(cx.now() + hour()))
    });
    f.until(|| log.len() == 1);
    handle.shut_down();
    f.until(|| handle.try_send(&gone, Order::Number(1)).is_err());
    let result = order(&handle, &actor, move |_, cx| {
        cx.watch(gone.id());
        cx.notify_ready(gone.id());
        cx.ask(&gone, Order::Ask, hour(), |result| {
            assert_eq!(result, Err(AskError::NoReply));
            Order::Number(1)
        });
        cx.send(&gone, Order::Number(1))
    });
    assert!(matches!(result, Err(TrySendError::Stopped(_))));
    f.until(|| log.len() == 5);
    assert!(log.has(&Seen::Stopped(gone.id(), StopReason::Unknown)));
    assert!(log.has(&Seen::Ready(gone.id())) && log.has(&Seen::Number(1)));
    order(&handle, &actor, |_, cx| cx.stop());
    assert!(f.shutdown(10 * SECOND));
}

/// Watches that are on their way when the watched core ends.
pub fn watches_race_with_the_end_of_a_core<F: Fixture>() {
    for round in 0..if F::IS_SIMULATED { 5 } else { 30 } {
        let f = F::start(2);
        let handle = f.handle();
        let (actor, log) = puppet_with(&f, 0, |puppet| {
            puppet.draining(|_, cx| Drain::Until(cx.now() + hour()))
        });
        let targets: Vec<_> = (0..20).map(|_| puppet(&f, 1).0.id()).collect();
        let count = targets.len();
        tell(&handle, &actor, move |_, cx| {
            for target in targets {
                cx.watch(target);
                cx.notify_ready(target);
            }
            Ok(())
        });
        if round % 2 == 0 {
            handle.shut_down();
        } else {
            f.until(|| log.len() > round / 2);
            handle.shut_down();
        }
        let deaths = |log: &Log| {
            let seen = log.all().into_iter();
            seen.filter(|seen| matches!(seen, Seen::Stopped(..)))
                .count()
        };
        let news = |log: &Log| {
            let seen = log.all().into_iter();
            seen.filter(|seen| matches!(seen, Seen::Ready(..))).count()
        };
        f.until(|| deaths(&log) == count && news(&log) == count);
        order(&handle, &actor, |_, cx| cx.stop());
        assert!(f.shutdown(10 * SECOND));
    }
}
