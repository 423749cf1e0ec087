//! Sending: order, bounds, room.

use mischief_reactor::{Child, Context, Event, Limits, MailboxLimits, TrySendError};

use crate::fixture::Fixture;
use crate::puppet::{Log, Order, Puppet, Seen, order, puppet, tell};

pub fn a_core_keeps_the_order_of_its_own_messages<F: Fixture>() {
    let f = F::start(1);
    let (receiver, log) = puppet(&f, 0);
    let (sender, _) = puppet(&f, 0);
    order(&f.handle(), &sender, move |_, cx| {
        for number in 0..1000 {
            cx.send(&receiver, Order::Number(number)).expect("room");
        }
    });
    f.until(|| log.len() == 1001);
    assert_eq!(log.numbers(), (0..1000).collect::<Vec<_>>());
    assert!(f.shutdown(crate::puppet::SECOND));
}

/// Sends numbers up to `count` to its peer as fast as there is room.
fn flood(me: &mut Puppet, cx: &mut Context<'_, Puppet>, next: &mut u32, count: u32) {
    let peer = me.peer.expect("set before the flood");
    flood_to(peer, cx, next, count);
}

fn flood_to(
    peer: mischief_reactor::Address<Puppet>,
    cx: &mut Context<'_, Puppet>,
    next: &mut u32,
    count: u32,
) {
    while *next < count {
        match cx.send(&peer, Order::Number(*next)) {
            Ok(()) => *next += 1,
            Err(TrySendError::Full(Order::Number(back))) => {
                assert_eq!(back, *next);
                return cx.notify_ready(peer.id());
            }
            Err(error) => panic!("{error}"),
        }
    }
}

pub fn cores_flooding_each_other_keep_the_order<F: Fixture>() {
    let count = if F::IS_SIMULATED { 20_000 } else { 100_000 };
    let f = F::start(2);
    let handle = f.handle();
    let mut ends = Vec::new();
    for core in 0..2 {
        let log = Log::new();
        let made = log.clone();
        let mut next = 0;
        let address = handle
            .spawn(core, move || {
                Child::once(Puppet::new(&made).reacting(move |event, cx| {
                    let Event::Ready(peer) = event else {
                        // A timer's tag carries nothing here: it starts the flood.
                        return false;
                    };
                    let _ = (peer, &mut next, cx);
                    false
                }))
            })
            .expect("spawned");
        ends.push((address, log));
    }
    // The flood is a deed that orders itself again whenever there is room.
    for (from, to) in [(0, 1), (1, 0)] {
        let peer = ends[to].0;
        tell(&handle, &ends[from].0, move |me, cx| {
            let mut next = 0;
            me.peer = Some(peer);
            flood(me, cx, &mut next, count);
            me.react = Some(Box::new(move |event, cx| {
                if let Event::Ready(id) = event {
                    assert_eq!(*id, peer.id());
                    flood_to(peer, cx, &mut next, count);
                    return true;
                }
                false
            }));
            Ok(())
        });
    }
    f.until(|| ends.iter().all(|(_, log)| log.len() == count as usize + 1));
    for (_, log) in &ends {
        assert!(log.numbers().into_iter().eq(0..count));
    }
    assert!(f.shutdown(crate::puppet::SECOND));
}

pub fn a_full_mailbox_hands_the_message_back_by_count<F: Fixture>() {
    let mut limits = Limits::default();
    limits.mailbox = MailboxLimits {
        messages: 3,
        bytes: 1000,
    };
    let f = F::with_limits(2, limits);
    let (receiver, log) = puppet(&f, 0);
    for core in 0..2 {
        let (sender, _) = puppet(&f, core);
        // The receiver's core is held up until the mailbox is full, by being this core or by a remote sender that is
        // quicker; so a remote sender sees at least one refusal in many.
        let refused = order(&f.handle(), &sender, move |_, cx| {
            let mut refused = Vec::new();
            for number in 0..10_000 {
                if let Err(TrySendError::Full(Order::Number(back))) =
                    cx.send(&receiver, Order::Number(number))
                {
                    refused.push(back);
                }
            }
            refused
        });
        let taken: Vec<u32> = (0..10_000)
            .filter(|n| refused.binary_search(n).is_err())
            .collect();
        if core == 0 {
            assert_eq!(taken, [0, 1, 2]);
        }
        assert!(taken.len() < 10_000);
        f.until(|| log.numbers().len() == taken.len());
        assert_eq!(log.numbers(), taken);
        log.take();
    }
    let _ = Seen::Started;
    assert!(f.shutdown(crate::puppet::SECOND));
}

pub fn a_full_mailbox_hands_the_message_back_by_bytes<F: Fixture>() {
    let mut limits = Limits::default();
    limits.mailbox = MailboxLimits {
        messages: 100,
        bytes: 1000,
    };
    let f = F::with_limits(2, limits);
    let (receiver, log) = puppet(&f, 0);
    let (sender, _) = puppet(&f, 0);
    order(&f.handle(), &sender, move |_, cx| {
        // Larger than the bound, but alone.
        cx.send(&receiver, Order::Bytes(vec![0; 5000]))
            .expect("passes alone");
        let back = cx.send(&receiver, Order::Bytes(vec![0; 1]));
        assert!(matches!(back, Err(TrySendError::Full(Order::Bytes(bytes))) if bytes.len() == 1));
        cx.send(&receiver, Order::Number(1)).expect("owns no bytes");
    });
    f.until(|| log.len() == 3);
    assert!(f.shutdown(crate::puppet::SECOND));
}
