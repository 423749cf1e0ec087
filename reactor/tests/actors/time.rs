//! Deadlines, timers, the end of a turn, and sleep.

use std::time::Duration;

use mischief_reactor::{Actor, Child, Context, Event, Failure, Instant, Limits, TimerId};

use crate::fixture::Fixture;
use crate::puppet::{Log, Order, Puppet, SECOND, Seen, order, puppet, puppet_with, tell};

const NOW: Duration = Duration::ZERO;

fn wakes(log: &Log) -> Vec<Instant> {
    let seen = log.all().into_iter();
    seen.filter_map(|seen| match seen {
        Seen::Wake(at) => Some(at),
        _ => None,
    })
    .collect()
}

fn timers(log: &Log) -> Vec<(u32, Instant)> {
    let seen = log.all().into_iter();
    seen.filter_map(|seen| match seen {
        Seen::Timer(tag, at) => Some((tag, at)),
        _ => None,
    })
    .collect()
}

pub fn a_deadline_comes_once_and_never_early<F: Fixture>() {
    let f = F::start(1);
    let (actor, log) = puppet(&f, 0);
    for (after, slack) in [(0, 0), (1, 0), (3, 0), (20, 0), (20, 30), (7, 1)] {
        let ms = Duration::from_millis;
        let at = order(&f.handle(), &actor, move |_, cx| {
            let at = cx.now() + ms(after);
            cx.wake_at(Some(at), ms(slack));
            at
        });
        f.until(|| wakes(&log).len() == 1);
        let came = wakes(&log)[0];
        assert!(came >= at, "{came:?} for {at:?}");
        let late = came.saturating_duration_since(at);
        assert!(!F::IS_SIMULATED || late <= ms(slack) + ms(2), "{late:?}");
        f.pass(ms(5));
        assert_eq!(wakes(&log).len(), 1);
        log.take();
    }
    assert!(f.shutdown(SECOND));
}

/// A deadline that is put off again and again costs no timer each time, and still comes at the last one set.
pub fn a_later_deadline_is_only_stored<F: Fixture>() {
    let f = F::start(1);
    let (actor, log) = puppet(&f, 0);
    let at = order(&f.handle(), &actor, |_, cx| {
        let start = cx.now();
        for step in 1..=100 {
            cx.wake_at(Some(start + step * SECOND / 2000), NOW);
        }
        start + SECOND / 20
    });
    let armed = f.handle().snapshot().expect("answers").cores[0].timers;
    assert_eq!(armed, 1);
    f.until(|| wakes(&log).len() == 1);
    assert!(wakes(&log)[0] >= at);
    // An earlier one takes its place.
    let (early, late) = order(&f.handle(), &actor, |_, cx| {
        let (early, late) = (cx.now() + SECOND / 100, cx.now() + 3600 * SECOND);
        cx.wake_at(Some(late), NOW);
        cx.wake_at(Some(early), NOW);
        (early, late)
    });
    f.until(|| wakes(&log).len() == 2);
    assert!(wakes(&log)[1] >= early && wakes(&log)[1] < late);
    assert_eq!(f.handle().snapshot().expect("answers").cores[0].timers, 0);
    assert!(f.shutdown(SECOND));
}

pub fn a_deadline_can_be_cleared<F: Fixture>() {
    let f = F::start(1);
    let (actor, log) = puppet(&f, 0);
    order(&f.handle(), &actor, |_, cx| {
        cx.wake_at(Some(cx.now() + SECOND / 100), NOW);
        cx.wake_at(None, NOW);
    });
    f.pass(SECOND / 30);
    order(&f.handle(), &actor, |_, _| ());
    assert_eq!(log.all(), [Seen::Started]);
    assert!(f.shutdown(SECOND));
}

/// A deadline that has come may be set again at once, for the same time: it comes in the next turn, and others have
/// theirs meanwhile.
pub fn a_deadline_set_again_at_once_holds_nobody_up<F: Fixture>() {
    let f = F::start(1);
    let (eager, _) = puppet_with(&f, 0, |puppet| {
        puppet.reacting(|event, cx| {
            let is_wake = matches!(event, Event::Wake);
            if is_wake {
                cx.wake_at(Some(Instant::ZERO), NOW);
            }
            is_wake
        })
    });
    order(&f.handle(), &eager, |_, cx| cx.wake_at(Some(cx.now()), NOW));
    let (other, log) = puppet(&f, 0);
    order(&f.handle(), &other, |_, cx| {
        cx.wake_at(Some(cx.now() + SECOND / 100), NOW)
    });
    f.until(|| wakes(&log).len() == 1);
    assert!(f.shutdown(SECOND));
}

pub fn timers_bring_their_tags_in_order<F: Fixture>() {
    let f = F::start(1);
    let (actor, log) = puppet(&f, 0);
    let start = order(&f.handle(), &actor, |_, cx| {
        let now = cx.now();
        for tag in [5, 3, 1, 4, 2, 0] {
            cx.arm(now + tag * SECOND / 200, NOW, tag);
        }
        now
    });
    f.until(|| timers(&log).len() == 6);
    for (index, (tag, at)) in timers(&log).into_iter().enumerate() {
        assert_eq!(tag, index as u32);
        assert!(at >= start + tag * SECOND / 200);
    }
    assert!(f.shutdown(SECOND));
}

pub fn a_cancelled_timer_does_not_come<F: Fixture>() {
    let f = F::start(1);
    let handle = f.handle();
    let (actor, log) = puppet(&f, 0);
    let (thief, _) = puppet(&f, 0);
    let (first, second) = order(&handle, &actor, |_, cx| {
        let at = cx.now() + SECOND / 50;
        (cx.arm(at, NOW, 1), cx.arm(at, NOW, 2))
    });
    // Another actor's timer cannot be cancelled.
    assert!(!order(&handle, &thief, move |_, cx| cx.cancel(second)));
    assert!(order(&handle, &actor, move |_, cx| cx.cancel(first)));
    assert!(
        !order(&handle, &actor, move |_, cx| cx.cancel(first)),
        "it is gone already"
    );
    f.until(|| timers(&log).len() == 1);
    assert!(
        !order(&handle, &actor, move |_, cx| cx.cancel(second)),
        "it has come"
    );
    f.pass(SECOND / 30);
    let timers = timers(&log);
    assert_eq!((timers.len(), timers[0].0), (1, 2));
    assert!(f.shutdown(SECOND));
}

/// The first of several timers that are due in the same turn cancels the others, and they do not come.
pub fn a_timer_can_be_cancelled_until_it_comes<F: Fixture>() {
    let f = F::start(1);
    let ids: Log<TimerId> = Log::new();
    let known = ids.clone();
    let (actor, log) = puppet_with(&f, 0, move |puppet| {
        puppet.reacting(move |event, cx| {
            if let Event::Timer { timer, .. } = event {
                for id in known.all() {
                    assert_eq!(cx.cancel(id), id != *timer, "all others were due, too");
                }
            }
            false
        })
    });
    order(&f.handle(), &actor, move |_, cx| {
        let at = cx.now() + SECOND / 100;
        for tag in 0..5 {
            ids.add(cx.arm(at, NOW, tag));
        }
    });
    f.until(|| timers(&log).len() == 1);
    f.pass(SECOND / 30);
    assert_eq!(timers(&log).len(), 1);
    assert!(f.shutdown(SECOND));
}

/// Arms timers and ends, over and over, in the same place.
pub fn timers_never_reach_the_next_tenant_of_a_place<F: Fixture>() {
    let f = F::start(1);
    let handle = f.handle();
    let (witness, seen) = puppet(&f, 0);
    for round in 0..20 {
        let (actor, log) = puppet(&f, 0);
        order(&handle, &actor, move |_, cx| {
            for tag in 0..5 {
                cx.arm(cx.now() + SECOND / 100, NOW, tag);
            }
            cx.wake_at(Some(cx.now() + SECOND / 100), NOW);
            cx.stop();
        });
        handle.stopped(actor.id()).wait().expect("ended");
        assert!(timers(&log).is_empty());
        let (next, next_log) = puppet(&f, 0);
        order(&handle, &witness, |_, cx| {
            cx.wake_at(Some(cx.now() + SECOND / 50), NOW)
        });
        f.until(|| wakes(&seen).len() == round + 1);
        assert_eq!(next_log.all(), [Seen::Started]);
        // The next tenant's own timers come.
        order(&handle, &next, |_, cx| cx.arm(cx.now(), NOW, 9));
        f.until(|| timers(&next_log).len() == 1);
        handle.stop(next.id());
    }
    let core = handle.snapshot().expect("answers").cores.remove(0);
    assert_eq!(core.timers, 0);
    assert!(f.shutdown(SECOND));
}

/// Actors that end and leave long timers behind. Those must not pile up.
pub fn timers_of_the_dead_are_cleared_away<F: Fixture>() {
    let f = F::start(1);
    let handle = f.handle();
    let (_, _) = puppet(&f, 0);
    let mut most = 0;
    for _ in 0..400 {
        let (actor, _) = puppet(&f, 0);
        order(&handle, &actor, |_, cx| {
            for tag in 0..5 {
                cx.arm(cx.now() + 3600 * SECOND, NOW, tag);
            }
            cx.stop();
        });
        handle.stopped(actor.id()).wait().expect("ended");
        most = most.max(handle.snapshot().expect("answers").cores[0].timers);
    }
    assert!(most < 600, "{most} timers");
    assert!(f.shutdown(SECOND));
}

/// Arms many timers, cancels every second, and counts those that come.
struct Crowd {
    count: u32,
    left: u32,
    latest: Instant,
    log: Log<u32>,
}

impl Actor for Crowd {
    type Message = ();

    fn started(&mut self, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        let start = cx.now();
        let ids: Vec<TimerId> = (0..self.count)
            .map(|tag| {
                // In no order, over half a second.
                let after = tag.wrapping_mul(2_654_435_761) % 500_000;
                cx.arm(start + Duration::from_micros(after.into()), NOW, tag)
            })
            .collect();
        for id in ids.iter().skip(1).step_by(2) {
            assert!(cx.cancel(*id));
        }
        self.left = self.count.div_ceil(2);
        self.log.add(0);
        Ok(())
    }

    fn handle(&mut self, (): (), _: &mut Context<'_, Self>) -> Result<(), Failure> {
        Ok(())
    }

    fn on_event(&mut self, event: Event<'_>, cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        let Event::Timer { tag, .. } = event else {
            return Ok(());
        };
        assert_eq!(tag % 2, 0, "cancelled");
        assert!(cx.now() >= self.latest);
        self.latest = cx.now();
        self.left -= 1;
        if self.left == 0 {
            self.log.add(1);
        }
        Ok(())
    }
}

pub fn a_hundred_thousand_timers<F: Fixture>() {
    let f = F::start(1);
    let log = Log::new();
    let seen = log.clone();
    let crowd = f
        .handle()
        .spawn(0, move || {
            Child::once(Crowd {
                count: 100_000,
                left: 0,
                latest: Instant::ZERO,
                log: seen,
            })
        })
        .expect("spawned");
    f.until(|| log.len() == 1);
    let timers = f.handle().snapshot().expect("answers").cores[0].timers;
    assert!(timers <= 50_000);
    f.until(|| log.len() == 2);
    let stats = f.handle().snapshot().expect("answers");
    assert_eq!(stats.cores[0].timers, 0);
    assert!(stats.actors().any(|actor| actor.id == crowd.id()));
    assert!(f.shutdown(SECOND));
}

pub fn a_flush_comes_once_at_the_end_of_the_turn<F: Fixture>() {
    let f = F::start(1);
    let (actor, log) = puppet(&f, 0);
    let (sender, _) = puppet(&f, 0);
    order(&f.handle(), &sender, move |_, cx| {
        for number in 0..10 {
            let deed = move |me: &mut Puppet, cx: &mut Context<'_, Puppet>| {
                me.log.add(Seen::Number(number));
                cx.flush_later();
                cx.flush_later();
                Ok(())
            };
            cx.send(&actor, Order::Do(Box::new(deed))).expect("room");
        }
    });
    f.until(|| log.has(&Seen::Flush));
    let mut want = vec![Seen::Started];
    want.extend((0..10).map(Seen::Number));
    want.push(Seen::Flush);
    assert_eq!(log.all(), want);
    assert!(f.shutdown(SECOND));
}

pub fn a_flush_asked_for_in_a_flush_comes_in_the_next_turn<F: Fixture>() {
    let f = F::start(1);
    let mut left = 3;
    let (actor, log) = puppet_with(&f, 0, move |puppet| {
        puppet.reacting(move |event, cx| {
            if matches!(event, Event::Flush) && left > 0 {
                left -= 1;
                cx.flush_later();
            }
            false
        })
    });
    order(&f.handle(), &actor, |_, cx| cx.flush_later());
    f.until(|| log.count(&Seen::Flush) == 4);
    let (other, _) = puppet(&f, 0);
    order(&f.handle(), &other, |_, _| ());
    assert_eq!(log.count(&Seen::Flush), 4);
    assert!(f.shutdown(SECOND));
}

/// Restarts between asking for a flush and its end.
pub fn a_flush_is_forgotten_by_a_restart<F: Fixture>() {
    let f = F::start(1);
    let log = Log::new();
    let made = log.clone();
    let lasting = move || Child::new(move || Puppet::new(&made));
    let actor = f.handle().spawn(0, lasting).expect("spawned");
    let (sender, _) = puppet(&f, 0);
    order(&f.handle(), &sender, move |_, cx| {
        for fails in [true, false] {
            let deed = move |_: &mut Puppet, cx: &mut Context<'_, Puppet>| {
                cx.flush_later();
                if fails {
                    Err(Failure::new("on purpose"))
                } else {
                    Ok(())
                }
            };
            cx.send(&actor, Order::Do(Box::new(deed))).expect("room");
        }
    });
    f.until(|| log.has(&Seen::Flush));
    order(&f.handle(), &actor, |_, _| ());
    use Seen::{Dropped, Flush, Started};
    assert_eq!(log.all(), [Started, Dropped, Started, Flush]);
    assert!(f.shutdown(SECOND));
}

/// Nothing to do: the cores sleep, but for the one timer that runs.
pub fn an_idle_core_does_not_wake<F: Fixture>() {
    let f = F::start(2);
    let handle = f.handle();
    for core in 0..2 {
        for _ in 0..10 {
            let (actor, log) = puppet(&f, core);
            f.until(|| log.len() == 1);
            // What others may have waiting costs nothing.
            order(&handle, &actor, |_, cx| {
                cx.wake_at(Some(cx.now() + 3600 * SECOND), SECOND)
            });
        }
    }
    let (ticking, log) = puppet_with(&f, 0, |puppet| {
        puppet.reacting(|event, cx| {
            if matches!(event, Event::Wake) {
                cx.wake_at(Some(cx.now() + SECOND / 20), NOW);
            }
            false
        })
    });
    tell(&handle, &ticking, |_, cx| {
        cx.wake_at(Some(cx.now() + SECOND / 20), NOW);
        Ok(())
    });
    // A busy machine may let this thread look late, so ticks are counted from wherever they stand.
    f.until(|| !wakes(&log).is_empty());
    let first = wakes(&log).len();
    let before = handle.snapshot().expect("answers");
    f.until(|| wakes(&log).len() >= first + 8);
    let after = handle.snapshot().expect("answers");
    let ticks = (wakes(&log).len() - first) as u32;
    let turns = |core: usize| after.cores[core].turns - before.cores[core].turns;
    let sleeps = |core: usize| after.cores[core].sleeps - before.cores[core].sleeps;
    // A turn for each tick, and one for each snapshot. After being woken a core may look once more before it sleeps.
    assert!(
        turns(0) <= 2 * (ticks + 2),
        "{} turns for {ticks} ticks",
        turns(0)
    );
    assert!(sleeps(0) >= 8 && sleeps(0) <= turns(0));
    assert!(turns(1) <= 4, "{} turns of an idle core", turns(1));
    assert!(f.shutdown(SECOND));
}

/// A core that may look for work for a while before it sleeps still falls asleep.
pub fn a_spinning_core_falls_asleep_in_the_end<F: Fixture>() {
    let mut limits = Limits::default();
    limits.spin = Duration::from_micros(50);
    let f = F::with_limits(2, limits);
    let (left, right) = (puppet(&f, 0), puppet(&f, 1));
    crate::puppet::begin_flood(&f.handle(), &left.0, right.0, 1000);
    f.until(|| right.1.numbers().len() == 1000);
    let mut seen = 0;
    f.until(|| {
        f.pass(SECOND / 100);
        let turns = f.handle().snapshot().expect("answers").cores[1].turns;
        // Besides the turns that the snapshot itself causes, each followed by turns that look for more.
        let is_asleep = turns - seen < 400;
        seen = turns;
        is_asleep
    });
    assert!(f.shutdown(SECOND));
}
