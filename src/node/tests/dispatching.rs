use std::sync::mpsc;

use mischief_actors::connection::{Encoded, LargeMessage};

use super::*;

#[track_caller]
fn next<T>(log: &mpsc::Receiver<T>) -> T {
    log.recv_timeout(SOON).expect("something comes")
}

fn number(value: u32) -> [u8; 4] {
    value.to_be_bytes()
}

/// Messages of several peers, large ones and events, all in the order in which they came.
#[test]
fn everything_comes_in_order() {
    for callbacks in [Callbacks::Thread, Callbacks::Pump, Callbacks::Inline] {
        let fixture = Fixture::new(callbacks);
        let (seen, log) = mpsc::channel();
        let to_seen = seen.clone();
        fixture
            .node
            .on_event(move |event| to_seen.send(format!("{event:?}")).unwrap());
        fixture.node.on_bytes(move |peer, bytes| {
            let length = bytes.len();
            let head = &bytes[..4];
            seen.send(format!("{} {head:?} {length}", peer.short()))
                .unwrap();
        });
        let mut want = Vec::new();
        let mut links = Vec::new();
        for name in 1..=3 {
            links.push(fixture.connect(name));
            want.push(format!(
                "{:?}",
                NodeEvent::PeerConnected {
                    peer: peer(name),
                    addr: addr(),
                    direction: Direction::Inbound,
                    suite: "ChaChaPoly",
                    name: None,
                }
            ));
        }
        for round in 0..200u32 {
            let link = &links[(round as usize * 7) % 3];
            let short = link.peer().short();
            if round % 10 == 9 {
                let body = [&number(round)[..], &[0; 50_000]].concat();
                let large = LargeMessage::new(Kind::Bytes, "", &body, 50_100);
                fixture.hub.large(link, large);
                want.push(format!("{short} {:?} 50004", number(round)));
            } else {
                let bodies = [number(round), number(round + 1)];
                let messages = bodies.each_ref().map(|body| (Kind::Bytes, "", &body[..]));
                fixture.receive(link, &messages);
                want.extend(bodies.iter().map(|body| format!("{short} {body:?} 4")));
            }
        }
        let reason = DisconnectReason::ByPeer;
        for (link, name) in links.iter().zip(1..) {
            fixture.disconnect(link);
            let peer = peer(name);
            want.push(format!(
                "{:?}",
                NodeEvent::PeerDisconnected { peer, reason }
            ));
        }
        want.push(format!("{:?}", NodeEvent::Stopped));
        fixture.node.stop(SOON);
        fixture.node.pump(SOON);
        assert_eq!(log.try_iter().collect::<Vec<_>>(), want, "{callbacks:?}");
    }
}

#[test]
fn a_slow_handler_in_a_long_run_gives_credit_back_in_steps() {
    let fixture = Fixture::new(Callbacks::Thread);
    let link = fixture.connect(1);
    let (entered, enters) = mpsc::channel();
    let (leave, leaves) = mpsc::channel::<()>();
    let leaves = Mutex::new(leaves);
    fixture.node.on_bytes(move |_, _| {
        entered.send(()).unwrap();
        leaves.lock().unwrap().recv().unwrap();
    });
    let body = [0; 1020];
    let messages: Vec<_> = (0..200).map(|_| (Kind::Bytes, "", &body[..])).collect();
    let size = fixture.receive(&link, &messages);
    assert_eq!(size, 200 * 1024);
    for _ in 0..40 {
        next(&enters);
        leave.send(()).unwrap();
    }
    next(&enters);
    // 40 messages are over, the 41st is being handled: one step of 32 KiB has been given back.
    fixture.expect_credit(&link, 32 << 10);
    for _ in 40..200 {
        leave.send(()).unwrap();
    }
    fixture.expect_credit(&link, size - (32 << 10));
}

#[test]
fn credit_of_large_messages_is_given_back_one_by_one() {
    let fixture = Fixture::new(Callbacks::Thread);
    let link = fixture.connect(1);
    let (entered, enters) = mpsc::channel();
    let (leave, leaves) = mpsc::channel::<()>();
    let leaves = Mutex::new(leaves);
    fixture.node.on_bytes(move |_, bytes| {
        entered.send(bytes.len()).unwrap();
        leaves.lock().unwrap().recv().unwrap();
    });
    for _ in 0..3 {
        let large = LargeMessage::new(Kind::Bytes, "", &[1; 100_000], 100_050);
        fixture.hub.large(&link, large);
    }
    for _ in 0..3 {
        assert_eq!(next(&enters), 100_000);
        leave.send(()).unwrap();
        fixture.expect_credit(&link, 100_050);
    }
}

#[test]
fn the_memory_of_a_large_message_goes_back_to_its_connection() {
    for callbacks in [Callbacks::Inline, Callbacks::Pump] {
        let fixture = Fixture::new(callbacks);
        let link = fixture.connect(1);
        for is_handled in [false, true] {
            let large = LargeMessage::new(Kind::Bytes, "", &[1; 100_000], 100_050);
            fixture.hub.large(&link, large);
            fixture.node.pump(Duration::ZERO);
            let taken = link.take(false, &mut Encoded::new());
            assert_eq!(taken.consumed, 100_050);
            assert!(taken.memory.capacity() >= 100_000, "handled: {is_handled}");
            assert_eq!(link.take(false, &mut Encoded::new()).memory.capacity(), 0);
            fixture.node.on_bytes(|_, _| {});
        }
    }
}

#[test]
fn inline_callbacks_run_on_the_thread_that_delivers() {
    let fixture = Fixture::new(Callbacks::Inline);
    let link = fixture.connect(1);
    let (seen, log) = mpsc::channel();
    fixture
        .node
        .on_bytes(move |_, _| seen.send(std::thread::current().id()).unwrap());
    let size = fixture.receive(&link, &[(Kind::Bytes, "", b"x")]);
    assert_eq!(log.try_recv(), Ok(std::thread::current().id()));
    fixture.expect_credit(&link, size);
}

#[test]
fn what_waits_is_counted_until_it_is_handled() {
    let fixture = Fixture::new(Callbacks::Pump);
    let link = fixture.connect(1);
    fixture.node.on_bytes(|_, _| {});
    let size = fixture.receive(&link, &[(Kind::Bytes, "", &[0; 500])]);
    let large = LargeMessage::new(Kind::Bytes, "", &[1; 100_000], 100_050);
    fixture.hub.large(&link, large);
    let stats = fixture.node.stats();
    assert_eq!(stats.queued_bytes, size + 100_000);
    assert!(stats.memory_used >= size + 100_000);
    assert_eq!(fixture.node.pump(SOON), 2);
    let stats = fixture.node.stats();
    assert_eq!((stats.queued_bytes, stats.handled), (0, 2));
}

#[test]
fn events_for_callbacks_are_bounded_and_messages_are_not_lost() {
    let fixture = Fixture::new(Callbacks::Pump);
    let (seen, log) = mpsc::channel();
    let to_seen = seen.clone();
    fixture
        .node
        .on_event(move |event| to_seen.send(Err(event.clone())).unwrap());
    fixture
        .node
        .on_bytes(move |_, bytes| seen.send(Ok(bytes[0])).unwrap());
    for _ in 0..1000 {
        let link = fixture.connect(1);
        fixture.receive(&link, &[(Kind::Bytes, "", b"m")]);
        fixture.disconnect(&link);
    }
    fixture.node.pump(SOON);
    let seen: Vec<_> = log.try_iter().collect();
    let messages = seen.iter().filter(|item| item.is_ok()).count();
    assert_eq!(messages, 1000);
    assert_eq!(seen.len(), 1000 + 1024 + 1);
    assert_eq!(seen.last(), Some(&Err(NodeEvent::Lost { count: 976 })));
    assert_eq!(fixture.node.stats().events_lost, 976);
}

#[test]
fn what_comes_after_the_end_of_a_connection_was_told_is_dropped() {
    for callbacks in [Callbacks::Thread, Callbacks::Pump, Callbacks::Inline] {
        let fixture = Fixture::new(callbacks);
        let link = fixture.connect(1);
        let (seen, log) = mpsc::channel();
        fixture
            .node
            .on_bytes(move |_, bytes| seen.send(bytes.len()).unwrap());
        fixture.receive(&link, &[(Kind::Bytes, "", b"1")]);
        fixture.disconnect(&link);
        fixture.receive(&link, &[(Kind::Bytes, "", b"22")]);
        let large = LargeMessage::new(Kind::Bytes, "", &[1; 100_000], 100_050);
        fixture.hub.large(&link, large);
        fixture.node.stop(SOON);
        fixture.node.pump(Duration::ZERO);
        assert_eq!(log.try_iter().collect::<Vec<_>>(), [1]);
    }
}
