//! Sending: order, bounds, and being told of room.

use std::time::Duration;

use mischief_reactor::{Child, Context, Event, MailboxLimits, SendError, TrySendError};

use crate::fixture::Fixture;
use crate::puppet::{
    Fact, Frozen, Log, Order, Puppet, SECOND, Seen, begin_flood, flood, mailboxes_of, order,
    puppet, tell,
};

pub fn a_core_keeps_the_order_of_its_own_messages<F: Fixture>() {
    let f = F::start(1);
    let (receiver, log) = puppet(&f, 0);
    let (sender, _) = puppet(&f, 0);
    order(&f.handle(), &sender, move |_, cx| {
        for number in 0..1000 {
            cx.send(&receiver, Order::Number(number)).expect("room");
        }
    });
    f.until(|| log.numbers().len() == 1000);
    assert!(log.numbers().into_iter().eq(0..1000));
    assert!(f.shutdown(SECOND));
}

pub fn cores_flooding_each_other_keep_the_order<F: Fixture>() {
    let count = if F::IS_SIMULATED { 20_000 } else { 200_000 };
    let f = F::start(2);
    let (left, right) = (puppet(&f, 0), puppet(&f, 1));
    begin_flood(&f.handle(), &left.0, right.0, count);
    begin_flood(&f.handle(), &right.0, left.0, count);
    for (_, log) in [&left, &right] {
        f.until(|| log.len() == count as usize + 1);
        assert!(log.numbers().into_iter().eq(0..count));
    }
    assert!(f.shutdown(SECOND));
}

/// The smallest mailbox: each message has to be handled before the next is taken, and each time the sender has to be
/// told, also when that message was the last of its core's turn.
pub fn a_mailbox_of_one_between_cores_never_loses_sight_of_an_asker<F: Fixture>() {
    let f = F::with_limits(2, mailboxes_of(1, 1));
    let (left, right) = (puppet(&f, 0), puppet(&f, 1));
    // Two on one core compete for the room of the one on the other.
    let (third, _) = puppet(&f, 0);
    begin_flood(&f.handle(), &left.0, right.0, 500);
    begin_flood(&f.handle(), &third, right.0, 500);
    begin_flood(&f.handle(), &right.0, left.0, 500);
    f.until(|| left.1.numbers().len() == 500 && right.1.numbers().len() == 1000);
    assert!(f.shutdown(SECOND));
}

pub fn a_full_mailbox_hands_the_message_back_by_count<F: Fixture>() {
    let f = F::with_limits(2, mailboxes_of(3, 1000));
    let (receiver, log) = puppet(&f, 0);
    let try_ten = |core| {
        let (sender, _) = puppet(&f, core);
        let frozen = (core == 1).then(|| Frozen::core(&f, 0));
        let taken = order(&f.handle(), &sender, move |_, cx| {
            (0..10)
                .filter(|number| match cx.send(&receiver, Order::Number(*number)) {
                    Err(TrySendError::Full(Order::Number(back))) => {
                        assert_eq!(back, *number);
                        false
                    }
                    result => result.map(|()| true).expect("full or not"),
                })
                .collect::<Vec<u32>>()
        });
        drop(frozen);
        assert_eq!(taken, [0, 1, 2]);
        f.until(|| log.numbers() == taken);
        log.take();
    };
    try_ten(0);
    try_ten(1);
    // From outside.
    let frozen = Frozen::core(&f, 0);
    for number in 0..10 {
        let refused = f.handle().try_send(&receiver, Order::Number(number)).err();
        match refused {
            None => assert!(number < 3),
            Some(error) => {
                assert!(error.is_full() && number >= 3);
                assert!(matches!(error.into_message(), Order::Number(back) if back == number));
            }
        }
    }
    frozen.thaw();
    f.until(|| log.numbers() == [0, 1, 2]);
    assert!(f.shutdown(SECOND));
}

pub fn a_full_mailbox_hands_the_message_back_by_bytes<F: Fixture>() {
    let f = F::with_limits(2, mailboxes_of(100, 1000));
    let (receiver, log) = puppet(&f, 0);
    let handle = f.handle();
    for core in 0..2 {
        let (sender, _) = puppet(&f, core);
        let frozen = (core == 1).then(|| Frozen::core(&f, 0));
        order(&handle, &sender, move |_, cx| {
            let mut bytes = |count| cx.send(&receiver, Order::Bytes(vec![0; count]));
            bytes(600).expect("fits");
            let Err(TrySendError::Full(Order::Bytes(back))) = bytes(401) else {
                panic!("does not fit");
            };
            assert_eq!(back.len(), 401);
            bytes(400).expect("just fits");
            cx.send(&receiver, Order::Number(1)).expect("owns nothing");
        });
        drop(frozen);
        f.until(|| log.numbers().len() == core + 1);
    }
    let frozen = Frozen::core(&f, 0);
    // Larger than the bound, but alone: else it could never be sent.
    handle
        .try_send(&receiver, Order::Bytes(vec![0; 5000]))
        .expect("alone");
    let back = handle.try_send(&receiver, Order::Bytes(vec![0; 1]));
    assert!(back.is_err_and(|error| error.is_full()));
    frozen.thaw();
    f.until(|| log.has(&Seen::Bytes(5000)));
    f.until(|| handle.memory().used() == 0);
    assert!(f.shutdown(SECOND));
}

/// A message too large to travel inline is boxed, and its box counts.
pub fn a_large_message_counts_its_own_size<F: Fixture>() {
    use mischief_reactor::{Actor, Context, Failure, Message};
    struct Large([u8; 500]);
    impl Message for Large {}
    struct Sink(Log<u8>);
    impl Actor for Sink {
        type Message = Large;
        fn handle(&mut self, large: Large, _: &mut Context<'_, Self>) -> Result<(), Failure> {
            self.0.add(large.0[0]);
            Ok(())
        }
    }
    let f = F::with_limits(1, mailboxes_of(100, 1000));
    let log = Log::new();
    let seen = log.clone();
    let sink = f
        .handle()
        .spawn(0, move || Child::once(Sink(seen)))
        .expect("spawned");
    let (sender, _) = puppet(&f, 0);
    order(&f.handle(), &sender, move |_, cx| {
        cx.send(&sink, Large([1; 500])).expect("fits");
        cx.send(&sink, Large([2; 500])).expect("just fits");
        let Err(TrySendError::Full(back)) = cx.send(&sink, Large([3; 500])) else {
            panic!("does not fit");
        };
        assert_eq!(back.0, [3; 500]);
    });
    f.until(|| log.all() == [1, 2]);
    assert!(f.shutdown(SECOND));
}

pub fn an_actor_has_bounds_of_its_own<F: Fixture>() {
    let f = F::start(2);
    let limits = MailboxLimits {
        messages: 2,
        bytes: 100,
    };
    let log = Log::new();
    let made = log.clone();
    let tight = move || Child::once(Puppet::new(&made)).limits(limits);
    let receiver = f.handle().spawn(0, tight).expect("spawned");
    for core in 0..2 {
        let (sender, _) = puppet(&f, core);
        let frozen = (core == 1).then(|| Frozen::core(&f, 0));
        let taken = order(&f.handle(), &sender, move |_, cx| {
            (0..5)
                .filter(|n| cx.send(&receiver, Order::Number(*n)).is_ok())
                .count()
        });
        drop(frozen);
        assert_eq!(taken, 2);
        f.until(|| log.numbers().len() == 2 * (core + 1));
    }
    assert!(f.shutdown(SECOND));
}

pub fn the_way_between_cores_is_bounded_too<F: Fixture>() {
    let mut limits = mailboxes_of(1000, 1000);
    limits.outbox_max = 10;
    let f = F::with_limits(2, limits);
    let (receiver, log) = puppet(&f, 1);
    let (sender, _) = puppet(&f, 0);
    let taken = order(&f.handle(), &sender, move |_, cx| {
        (0..20)
            .filter(|n| cx.send(&receiver, Order::Number(*n)).is_ok())
            .count()
    });
    assert_eq!(taken, 10);
    f.until(|| log.numbers().len() == 10);
    log.take();
    // Being told of room works here, too.
    begin_flood(&f.handle(), &sender, receiver, 5000);
    f.until(|| log.numbers().len() == 5000);
    assert!(log.numbers().into_iter().eq(0..5000));
    // From outside.
    let frozen = Frozen::core(&f, 1);
    let handle = f.handle();
    let taken = (0..20)
        .filter(|n| handle.try_send(&receiver, Order::Number(*n)).is_ok())
        .count();
    assert_eq!(taken, 10);
    frozen.thaw();
    assert!(f.shutdown(SECOND));
}

/// With a full run-queue a mailbox may have room all the time, so that being told of it again and again must not hold
/// the core.
pub fn the_run_queue_is_bounded_too<F: Fixture>() {
    let mut limits = mailboxes_of(1000, 1000);
    limits.run_queue_max = 10;
    let f = F::with_limits(1, limits);
    let (receiver, log) = puppet(&f, 0);
    let (sender, _) = puppet(&f, 0);
    let taken = order(&f.handle(), &sender, move |_, cx| {
        (0..20)
            .filter(|n| cx.send(&receiver, Order::Number(*n)).is_ok())
            .count()
    });
    assert_eq!(taken, 10);
    f.until(|| log.numbers().len() == 10);
    log.take();
    begin_flood(&f.handle(), &sender, receiver, 5000);
    f.until(|| log.numbers().len() == 5000);
    assert!(log.numbers().into_iter().eq(0..5000));
    assert!(f.shutdown(SECOND));
}

/// An actor that asks for room in its own handler of the news of room holds nobody up.
pub fn asking_for_room_for_ever_holds_nobody_up<F: Fixture>() {
    let f = F::start(1);
    let (_, asker_log) = {
        let (asker, log) = puppet(&f, 0);
        tell(&f.handle(), &asker, move |me, cx| {
            me.react = Some(Box::new(|event, cx| {
                let Event::Ready(id) = event else {
                    return false;
                };
                cx.notify_ready(*id);
                true
            }));
            cx.notify_ready(cx.id());
            Ok(())
        });
        (asker, log)
    };
    let (other, log) = puppet(&f, 0);
    order(&f.handle(), &other, |_, cx| {
        cx.wake_at(Some(cx.now() + SECOND / 100), SECOND / 100)
    });
    f.until(|| matches!(log.all()[..], [Seen::Started, Seen::Wake(_)]));
    assert_eq!(asker_log.all(), [Seen::Started]);
    assert!(f.shutdown(SECOND));
}

pub fn news_of_room_comes_once<F: Fixture>() {
    let f = F::with_limits(2, mailboxes_of(4, 1000));
    let (receiver, log) = puppet(&f, 0);
    for core in 0..2 {
        let (asker, asked) = puppet(&f, core);
        // At once when there is room.
        order(&f.handle(), &asker, move |_, cx| {
            cx.notify_ready(receiver.id())
        });
        f.until(|| asked.count(&Seen::Ready(receiver.id())) == 1);
        asked.take();
        // Later when there is none, and once however often it was asked.
        let frozen = (core == 1).then(|| Frozen::core(&f, 0));
        order(&f.handle(), &asker, move |_, cx| {
            for number in 0..4 {
                cx.send(&receiver, Order::Number(number)).expect("room");
            }
            for _ in 0..3 {
                cx.notify_ready(receiver.id());
            }
        });
        if core == 1 && !F::IS_SIMULATED {
            assert_eq!(asked.len(), 0, "the receiver stands still");
        }
        drop(frozen);
        f.until(|| asked.len() > 0);
        f.pass(SECOND / 100);
        assert_eq!(asked.take(), [Seen::Ready(receiver.id())]);
        f.until(|| log.numbers() == [0, 1, 2, 3]);
        log.take();
    }
    assert!(f.shutdown(SECOND));
}

pub fn news_of_room_comes_when_the_target_ends_or_has_ended<F: Fixture>() {
    let f = F::with_limits(2, mailboxes_of(4, 1000));
    let handle = f.handle();
    for core in 0..2 {
        let (asker, asked) = puppet(&f, core);
        // A target that never has room, since it is to be made anew in an hour.
        let (receiver, log) = stuck(&f);
        order(&handle, &asker, move |_, cx| {
            for number in 0..4 {
                cx.send(&receiver, Order::Number(number)).expect("room");
            }
            cx.notify_ready(receiver.id());
        });
        f.pass(SECOND / 100);
        assert_eq!(asked.len(), 1, "there is no room");
        handle.stop(receiver.id());
        f.until(|| asked.count(&Seen::Ready(receiver.id())) == 1);
        order(&handle, &asker, move |_, cx| cx.notify_ready(receiver.id()));
        f.until(|| asked.count(&Seen::Ready(receiver.id())) == 2);
        f.pass(SECOND / 100);
        assert_eq!(asked.len(), 3);
        assert_eq!(log.numbers(), []);
    }
    assert_eq!(handle.undeliverable(), 8);
    assert!(f.shutdown(SECOND));
}

/// A puppet on core 0 that has failed and is made anew in an hour: its mailbox is kept and stays as it is.
pub fn stuck<F: Fixture>(f: &F) -> (mischief_reactor::Address<Puppet>, Log) {
    use mischief_reactor::{Backoff, Failure, Restart};
    let log = Log::new();
    let made = log.clone();
    let hour = Duration::from_secs(3600);
    let restart = Restart::OnFailure {
        max: 1,
        window: hour,
        backoff: Backoff {
            first: hour,
            max: hour,
        },
    };
    let child = move || Child::new(move || Puppet::new(&made)).restart(restart);
    let address = f.handle().spawn(0, child).expect("spawned");
    tell(&f.handle(), &address, |_, _| {
        Err(Failure::new("on purpose"))
    });
    f.until(|| log.has(&Seen::Dropped) && queued(f, &address) == 0);
    (address, log)
}

/// Messages that count as waiting for an actor.
pub fn queued<F: Fixture>(f: &F, address: &mischief_reactor::Address<Puppet>) -> u32 {
    let snapshot = f.handle().snapshot().expect("answers");
    let mut actors = snapshot.actors();
    let actor = actors.find(|actor| actor.id == address.id());
    actor.map_or(0, |actor| actor.queued)
}

/// What waits for an actor that is being made anew counts as waiting, from wherever it came.
pub fn a_mailbox_kept_over_a_restart_is_bounded<F: Fixture>() {
    let f = F::with_limits(2, mailboxes_of(4, 1000));
    let handle = f.handle();
    let (receiver, _) = stuck(&f);
    for (core, want) in [(1, 4), (0, 4)] {
        let (sender, _) = puppet(&f, core);
        let mut taken = 0;
        for _ in 0..3 {
            taken += order(&handle, &sender, move |_, cx| {
                let bytes = |n| Order::Bytes(vec![0; n]);
                (0..5)
                    .filter(|n| cx.send(&receiver, bytes(*n)).is_ok())
                    .count()
            });
            f.pass(SECOND / 100);
        }
        assert_eq!(taken, want, "from core {core}");
    }
    assert_eq!(handle.memory().used(), 2 * (1 + 2 + 3));
    handle.stop(receiver.id());
    f.until(|| handle.undeliverable() == 8 && handle.memory().used() == 0);
    assert!(f.shutdown(SECOND));
}

pub fn room_is_shared_out_fairly<F: Fixture>() {
    let f = F::with_limits(1, mailboxes_of(8, 1000));
    let (receiver, log) = puppet(&f, 0);
    let senders: Vec<_> = (0..3).map(|_| puppet(&f, 0).0).collect();
    let per_sender = 3000;
    // All begin in the same turn.
    order(&f.handle(), &senders[0].clone(), move |_, cx| {
        for (index, sender) in senders.iter().enumerate() {
            let first = index as u32 * 10_000;
            let begin = move |me: &mut Puppet, cx: &mut Context<'_, Puppet>| {
                let mut next = first;
                flood(cx, receiver, &mut next, first + per_sender);
                me.react = Some(Box::new(move |event, cx| {
                    let Event::Ready(_) = event else { return false };
                    flood(cx, receiver, &mut next, first + per_sender);
                    true
                }));
                Ok(())
            };
            cx.send(sender, Order::Do(Box::new(begin))).expect("room");
        }
    });
    f.until(|| log.numbers().len() == 3 * per_sender as usize);
    // When the first has all through, the others have a fair part of theirs.
    let numbers = log.numbers();
    let end = |sender: u32| {
        let last = sender * 10_000 + per_sender - 1;
        numbers
            .iter()
            .position(|number| *number == last)
            .expect("all arrived")
    };
    let first_end = (0..3).map(end).min().expect("three senders");
    for sender in 0..3 {
        let so_far = &numbers[..first_end];
        let count = so_far
            .iter()
            .filter(|number| **number / 10_000 == sender)
            .count();
        assert!(
            count > per_sender as usize / 3,
            "sender {sender} had {count}"
        );
    }
    assert!(f.shutdown(SECOND));
}

pub fn whoever_understands_a_message_can_be_sent_it<F: Fixture>() {
    let f = F::with_limits(2, mailboxes_of(2, 1000));
    let (receiver, log) = puppet(&f, 0);
    let recipient = receiver.recipient::<Fact>();
    for core in 0..2 {
        let (sender, _) = puppet(&f, core);
        let frozen = (core == 1).then(|| Frozen::core(&f, 0));
        order(&f.handle(), &sender, move |_, cx| {
            cx.send_to(&recipient, Fact(1)).expect("room");
            cx.send_to(&recipient, Fact(2)).expect("room");
            // It comes back before it was turned into something else.
            let refused = cx.send_to(&recipient, Fact(3));
            assert_eq!(refused, Err(TrySendError::Full(Fact(3))));
        });
        drop(frozen);
        f.until(|| log.numbers().len() == 2 * (core + 1));
    }
    assert_eq!(recipient.id(), receiver.id());
    assert_eq!(size_of_val(&recipient), 16);
    assert!(f.shutdown(SECOND));
}

pub fn a_thread_outside_may_wait_for_room<F: Fixture>() {
    let f = F::with_limits(1, mailboxes_of(1, 1000));
    let handle = f.handle();
    let (receiver, log) = puppet(&f, 0);
    let count = if F::IS_SIMULATED { 100 } else { 2000 };
    for number in 0..count {
        handle
            .send(&receiver, Order::Number(number), SECOND * 10)
            .expect("room in time");
    }
    f.until(|| log.numbers().len() == count as usize);
    assert!(log.numbers().into_iter().eq(0..count));

    let (stuck, _) = stuck(&f);
    handle.send(&stuck, Order::Number(0), SECOND).expect("room");
    let result = handle.send(&stuck, Order::Number(1), SECOND / 50);
    assert_eq!(result, Err(SendError::TimedOut));
    assert!(f.shutdown(SECOND));
    let result = handle.send(&receiver, Order::Number(1), SECOND);
    assert_eq!(result, Err(SendError::Stopped));
}

pub fn a_core_thread_must_not_wait_for_room<F: Fixture>() {
    let f = F::with_limits(2, mailboxes_of(1, 1000));
    let (stuck, _) = stuck(&f);
    f.handle()
        .send(&stuck, Order::Number(0), SECOND)
        .expect("room");
    let (sender, _) = puppet(&f, 1);
    let result = order(&f.handle(), &sender, move |_, cx| {
        cx.handle().send(&stuck, Order::Number(1), SECOND)
    });
    assert_eq!(result, Err(SendError::OnCoreThread));
    assert!(f.shutdown(SECOND));
}

/// Both mailboxes are full, both actors have more to send, and neither can wait: each keeps one message and is told.
pub fn two_mutually_full_actors_come_to_an_end<F: Fixture>() {
    for cores in [1, 2] {
        let f = F::with_limits(cores, mailboxes_of(8, 1000));
        let left = puppet(&f, 0);
        let right = puppet(&f, cores - 1);
        begin_flood(&f.handle(), &left.0, right.0, 3000);
        begin_flood(&f.handle(), &right.0, left.0, 3000);
        for (_, log) in [&left, &right] {
            f.until(|| log.numbers().len() == 3000);
            assert!(log.numbers().into_iter().eq(0..3000));
        }
        assert!(f.shutdown(SECOND));
    }
}
