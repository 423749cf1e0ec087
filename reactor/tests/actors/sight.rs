//! What can be seen of a runtime from outside.

use std::time::Duration;

use mischief_reactor::{Actor, Child, Context, Failure, Limits, Message};

use crate::fixture::Fixture;
use crate::puppet::{Frozen, Log, Order, Puppet, SECOND, Seen, order, puppet, tell};

/// Owns a thousand bytes, and says so.
struct Heavy(Log);

impl Actor for Heavy {
    type Message = ();

    fn handle(&mut self, (): (), cx: &mut Context<'_, Self>) -> Result<(), Failure> {
        let log = Log::new();
        cx.spawn(Child::once(Puppet::new(&log)))?;
        self.0.add(Seen::Poke);
        Ok(())
    }

    fn heap_bytes(&self) -> usize {
        1000
    }
}

pub fn a_snapshot_tells_of_every_actor<F: Fixture>() {
    let f = F::start(2);
    let handle = f.handle();
    let log = Log::new();
    let seen = log.clone();
    let parent = handle
        .spawn(1, move || Child::once(Heavy(seen)).name("heavy"))
        .expect("spawned");
    let (other, _) = puppet(&f, 0);
    for _ in 0..3 {
        handle.try_send(&parent, ()).expect("room");
    }
    f.until(|| log.len() == 3);
    let snapshot = handle.snapshot().expect("answers");
    assert_eq!(snapshot.cores.len(), 2);
    assert_eq!((snapshot.cores[0].core, snapshot.cores[1].core), (0, 1));
    assert_eq!(
        (
            snapshot.cores[0].actors.len(),
            snapshot.cores[1].actors.len()
        ),
        (1, 4)
    );
    assert_eq!(snapshot.actors().count(), 5);
    let heavy = snapshot
        .actors()
        .find(|actor| actor.id == parent.id())
        .expect("lives");
    assert!(heavy.type_name.ends_with("Heavy"), "{heavy:?}");
    assert_eq!(
        (heavy.name, heavy.parent, heavy.messages),
        (Some("heavy"), None, 3)
    );
    assert_eq!(heavy.memory, size_of::<Heavy>() + 1000);
    let children = snapshot.cores[1]
        .actors
        .iter()
        .filter(|actor| actor.parent == Some(parent.id()));
    assert_eq!(children.count(), 3);
    let idle = snapshot
        .actors()
        .find(|actor| actor.id == other.id())
        .expect("lives");
    assert_eq!(
        (idle.messages, idle.queued, idle.sockets, idle.restarts),
        (0, 0, 0, 0)
    );
    assert!(snapshot.cores[1].messages >= 3 && snapshot.cores[1].turns >= 1);
    assert_eq!(snapshot.memory, 0);
    assert!(f.shutdown(SECOND));
}

pub fn waiting_messages_are_seen_with_their_bytes<F: Fixture>() {
    let f = F::start(2);
    let handle = f.handle();
    let (receiver, log) = puppet(&f, 0);
    let (sender, _) = puppet(&f, 0);
    let frozen = Frozen::core(&f, 0);
    for _ in 0..5 {
        handle
            .try_send(&receiver, Order::Bytes(vec![0; 100]))
            .expect("room");
    }
    assert_eq!(handle.memory().used(), 500);
    frozen.thaw();
    f.until(|| log.len() == 6 && handle.memory().used() == 0);
    // The most that ever waited of its own core.
    order(&handle, &sender, move |_, cx| {
        for number in 0..20 {
            cx.send(&receiver, Order::Number(number)).expect("room");
        }
    });
    f.until(|| log.len() == 26);
    let snapshot = handle.snapshot().expect("answers");
    let stats = snapshot
        .actors()
        .find(|actor| actor.id == receiver.id())
        .expect("lives");
    assert_eq!((stats.high_water, stats.messages), (20, 25));
    assert!(f.shutdown(SECOND));
}

/// Takes its time.
struct Slow(Log);

enum Work {
    Quick,
    Long(Duration),
}

impl Message for Work {}

impl Actor for Slow {
    type Message = Work;

    fn handle(&mut self, work: Work, _: &mut Context<'_, Self>) -> Result<(), Failure> {
        if let Work::Long(time) = work {
            std::thread::sleep(time);
        }
        self.0.add(Seen::Poke);
        Ok(())
    }
}

/// A handler that holds its core is named, with its message. In a simulation no time passes in handlers.
pub fn a_stall_names_actor_and_message<F: Fixture>() {
    let mut limits = Limits::default();
    limits.stall = SECOND / 20;
    let f = F::with_limits(1, limits);
    let handle = f.handle();
    let log = Log::new();
    let seen = log.clone();
    let slow = handle
        .spawn(0, move || Child::once(Slow(seen)))
        .expect("spawned");
    let long = || Work::Long(SECOND / 15);
    handle.try_send(&slow, long()).expect("room");
    f.until(|| log.len() == 1);
    let stalls = |count: u32| {
        let mut stalls = Vec::new();
        f.until(|| {
            let mut snapshot = handle.snapshot().expect("answers");
            stalls = std::mem::take(&mut snapshot.cores[0].stalls);
            snapshot.cores[0].stalls_total >= count || F::IS_SIMULATED
        });
        stalls
    };
    if F::IS_SIMULATED {
        assert!(stalls(0).is_empty());
        return;
    }
    let first = stalls(1);
    assert_eq!(first.len(), 1);
    assert!(
        first[0].what.contains("Slow") && first[0].what.contains("Work"),
        "{first:?}"
    );
    assert!(!first[0].what.contains('|'), "{first:?}");
    assert!(first[0].duration >= SECOND / 15);
    // Among others it may be one of several suspects. Then the clock is read more often, until it is the only one.
    let (other, others) = puppet(&f, 0);
    for round in 1.. {
        let before = stalls(0).len() as u32;
        let frozen = Frozen::core(&f, 0);
        for _ in 0..3 {
            handle.try_send(&other, Order::Number(1)).expect("room");
            handle.try_send(&slow, Work::Quick).expect("room");
        }
        handle.try_send(&slow, long()).expect("room");
        handle.try_send(&other, Order::Number(2)).expect("room");
        frozen.thaw();
        f.until(|| others.len() == 1 + round * 4);
        let stalls = stalls(before + 1);
        let last = stalls.last().expect("one more");
        assert!(last.what.contains("Slow"), "{stalls:?}");
        if !last.what.contains('|') {
            break;
        }
        assert!(round < 3, "{stalls:?}");
    }
    // An event is named as well.
    tell(&handle, &other, |me, cx| {
        me.react = Some(Box::new(|_, _| {
            std::thread::sleep(SECOND / 15);
            true
        }));
        cx.flush_later();
        Ok(())
    });
    f.until(|| {
        let snapshot = handle.snapshot().expect("answers");
        let stalls = &snapshot.cores[0].stalls;
        stalls
            .last()
            .is_some_and(|stall| stall.what.contains("Puppet on Flush"))
    });
    assert!(f.shutdown(SECOND));
}

/// Busy time is measured by samples: over many messages it comes close to what they took.
pub fn busy_time_is_told<F: Fixture>() {
    let f = F::start(1);
    let handle = f.handle();
    let log = Log::new();
    let seen = log.clone();
    let slow = handle
        .spawn(0, move || Child::once(Slow(seen)))
        .expect("spawned");
    if F::IS_SIMULATED {
        return;
    }
    let (count, each) = (1000, SECOND / 20_000);
    for _ in 0..count {
        handle.try_send(&slow, Work::Long(each)).expect("room");
    }
    let mut busy = Duration::ZERO;
    f.until(|| {
        let snapshot = handle.snapshot().expect("answers");
        let stats = snapshot.actors().find(|actor| actor.id == slow.id());
        let stats = stats.expect("lives");
        busy = stats.busy;
        stats.messages == count
    });
    assert!(busy >= count * each / 4, "{busy:?}");
    assert!(f.shutdown(SECOND));
}

pub fn bounds_and_cores_are_told<F: Fixture>() {
    let mut limits = Limits::default();
    limits.asks_max = 77;
    let f = F::with_limits(2, limits);
    assert_eq!((f.handle().cores(), f.handle().limits().asks_max), (2, 77));
    assert_eq!(f.handle().is_simulated(), F::IS_SIMULATED);
    let text = format!("{:?}", f.handle());
    assert!(text.contains("2 cores"), "{text}");
    assert!(f.shutdown(SECOND));
}
