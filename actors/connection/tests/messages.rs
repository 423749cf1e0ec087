//! Messages from one side to the other.

use super::super::state::Tally;
use super::*;

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index * 31) as u8).collect()
}

#[test]
fn messages_of_all_kinds_and_sizes_arrive_in_order() {
    for portion in [1, 7, 1000, usize::MAX] {
        let mut pair = Pair::open();
        pair.portion = portion;
        let mut want = Vec::new();
        let lengths = [0, 1, 64, 1000, 16_370, 16_384, 100_000, 5, 400_000, 1 << 20];
        for (index, length) in lengths.into_iter().enumerate() {
            let (kind, name, body) = match index % 3 {
                0 => (Kind::Bytes, "", bytes(length)),
                1 => (Kind::Json, "a type", vec![b'1'; length]),
                _ => (Kind::Text, "note", "ü".repeat(length / 2).into_bytes()),
            };
            pair.dialler.connection.send(kind, name, &body).unwrap();
            want.push(Received::Message(kind, name.into(), body));
            pair.run();
        }
        assert!(pair.responder.inbox.received == want);
        assert_eq!(pair.dialler.connection.queued_bytes(), 0);
    }
}

#[test]
fn small_messages_are_packed_and_handed_over_in_runs() {
    let mut pair = Pair::open();
    let before = pair.dialler.sent.len();
    for _ in 0..1000 {
        pair.dialler
            .connection
            .send(Kind::Json, "chat", &[b' '; 64])
            .unwrap();
    }
    pair.run();
    assert_eq!(pair.responder.messages(), 1000);
    assert_eq!(pair.responder.inbox.runs, 5);
    let sent = pair.dialler.sent.len() - before;
    assert_eq!(sent, 1000 * 72 + 5 * 18);
}

#[test]
fn what_was_encoded_elsewhere_keeps_its_place() {
    let mut pair = Pair::open();
    let connection = &mut pair.dialler.connection;
    connection.send(Kind::Text, "", b"0").unwrap();
    let mut encoded = Encoded::new();
    for index in 1..2000 {
        encoded
            .push(Kind::Text, "", index.to_string().as_bytes())
            .unwrap();
    }
    encoded.push(Kind::Bytes, "", &bytes(100_000)).unwrap();
    let length = encoded.len();
    connection.queue_encoded(encoded).unwrap();
    connection.send(Kind::Text, "", b"last").unwrap();
    assert!(connection.application_bytes() > length);
    pair.run();
    assert_eq!(pair.dialler.connection.application_bytes(), 0);
    let received = &pair.responder.inbox.received;
    assert_eq!(received.len(), 2002);
    for (index, message) in received[..2000].iter().enumerate() {
        let want = Received::Message(Kind::Text, "".into(), index.to_string().into());
        assert_eq!(message, &want);
    }
    assert_eq!(
        received[2001],
        Received::Message(Kind::Text, "".into(), b"last".to_vec())
    );
    let again = pair.dialler.connection.reclaim();
    assert!(again.is_some_and(|encoded| encoded.is_empty()));
}

#[test]
fn subsystems_talk_on_channels_of_three_classes() {
    let mut pair = Pair::open();
    let connection = &mut pair.dialler.connection;
    connection
        .send_channel(Class::Gossip, 3, &bytes(250_000))
        .unwrap();
    connection
        .send_channel(Class::Gossip, 3, b"rumour")
        .unwrap();
    connection.send(Kind::Text, "", b"before").unwrap();
    connection
        .send_channel(Class::Application, 2, &bytes(20_000))
        .unwrap();
    connection
        .send_channel(Class::Application, 2, b"between")
        .unwrap();
    connection.send(Kind::Text, "", b"after").unwrap();
    connection
        .send_channel(Class::Control, 1, b"urgent")
        .unwrap();
    assert_eq!(
        connection.send_channel(Class::Bulk, 1, b""),
        Err(QueueError::Stream)
    );
    assert!(matches!(
        connection.send_channel(Class::Control, 1, &[0; 1025]),
        Err(QueueError::TooLarge { max: 1024, .. })
    ));
    pair.run();
    let text = |text: &str| Received::Message(Kind::Text, "".into(), text.into());
    let want = [
        Received::Channel(Class::Control, 1, b"urgent".to_vec()),
        text("before"),
        Received::Channel(Class::Application, 2, bytes(20_000)),
        Received::Channel(Class::Application, 2, b"between".to_vec()),
        text("after"),
        Received::Channel(Class::Gossip, 3, bytes(250_000)),
        Received::Channel(Class::Gossip, 3, b"rumour".to_vec()),
    ];
    assert!(pair.responder.inbox.received == want);
}

#[test]
fn what_the_peer_would_not_take_is_not_sent() {
    let mut small = config(2);
    small.limits.message_max = 1000;
    let mut pair = Pair::new(config(1), small);
    pair.run();
    let connection = &mut pair.dialler.connection;
    assert!(
        connection
            .send(Kind::Bytes, &"n".repeat(128), &[0; 1000])
            .is_ok()
    );
    let too_large = QueueError::TooLarge {
        size: 1001,
        max: 1000,
    };
    assert_eq!(connection.send(Kind::Bytes, "", &[0; 1001]), Err(too_large));
    let mut encoded = Encoded::new();
    encoded.push(Kind::Bytes, "", &[0; 1001]).unwrap();
    let refused = connection.queue_encoded(encoded).unwrap_err();
    assert_eq!((refused.0, refused.1.count()), (too_large, 1));
    assert_eq!(
        connection.send(Kind::Json, &"n".repeat(1_000_000), b"1"),
        Err(QueueError::Encode(EncodeError::Name(1_000_000)))
    );
    // Once trusted, the same message goes.
    pair.responder.connection.set_message_max(u32::MAX);
    pair.run();
    assert_eq!(
        pair.dialler.connection.peer_message_max(),
        MESSAGE_MAX_TRUSTED
    );
    let told = Event::MessageMax(MESSAGE_MAX_TRUSTED);
    assert_eq!(pair.dialler.events.last(), Some(&told));
    // Less would break off what is under way.
    pair.responder.connection.set_message_max(5);
    pair.dialler
        .connection
        .send(Kind::Bytes, "", &bytes(16 << 20))
        .unwrap();
    pair.run();
    assert_eq!(pair.responder.messages(), 2);
}

/// Bodies that are shared with the sender arrive as copied ones do, in order with them, also if a lower class gets a
/// record in between.
#[test]
fn shared_bodies_arrive_in_order_with_the_others() {
    let mut pair = Pair::open();
    let body: Arc<[u8]> = bytes(900_000).into();
    let mut want = Vec::new();
    let mut encoded = Encoded::new();
    for index in 0..3u8 {
        encoded.push(Kind::Bytes, "", &[index]).unwrap();
        encoded.push_shared(Kind::Bytes, "big", &body).unwrap();
        want.push(Received::Message(Kind::Bytes, "".into(), vec![index]));
        want.push(Received::Message(Kind::Bytes, "big".into(), body.to_vec()));
    }
    let length = encoded.len();
    assert!((2_700_000..2_701_000).contains(&length));
    let connection = &mut pair.dialler.connection;
    connection.queue_encoded(encoded).unwrap();
    assert_eq!(connection.queued_bytes(), length);
    for _ in 0..20 {
        connection
            .send_channel(Class::Gossip, 1, &[9; 5000])
            .unwrap();
    }
    pair.run();
    assert_eq!(pair.dialler.connection.queued_bytes(), 0);
    let is_message = |received: &&Received| matches!(received, Received::Message(..));
    let received = pair.responder.inbox.received.iter().filter(is_message);
    assert!(received.eq(&want));
    assert_eq!(Arc::strong_count(&body), 1);
}

#[test]
fn a_full_queue_refuses_whole_messages_and_tells_when_it_drains() {
    let mut pair = Pair::open();
    pair.responder.consumes = false;
    let connection = &mut pair.dialler.connection;
    // The last one begins below the mark and is taken whole.
    for _ in 0..10 {
        connection.send(Kind::Bytes, "", &[0; 100_000]).unwrap();
    }
    assert!(connection.queued_bytes() < 1 << 20);
    connection.send(Kind::Bytes, "", &[0; 100_000]).unwrap();
    assert!(connection.queued_bytes() > 1 << 20);
    assert_eq!(
        connection.send(Kind::Bytes, "", b"x"),
        Err(QueueError::Full)
    );
    let encoded = Encoded::new();
    assert!(matches!(
        connection.queue_encoded(encoded),
        Err((QueueError::Full, _))
    ));
    // Gossip has room of its own.
    connection.send_channel(Class::Gossip, 1, b"x").unwrap();
    assert_eq!(connection.poll_event(), None);
    pair.run();
    assert_eq!(
        pair.dialler.events.last(),
        Some(&Event::Opened),
        "the window is used up"
    );
    pair.responder.consumes = true;
    pair.responder.drain(pair.now);
    pair.run();
    let drained = Event::Drained(Class::Application);
    let count = pair
        .dialler
        .events
        .iter()
        .filter(|event| **event == drained);
    assert_eq!(count.count(), 1);
    assert_eq!(pair.responder.messages(), 11);
}

#[test]
fn control_messages_have_a_limit_of_their_own() {
    let mut pair = Pair::open();
    let connection = &mut pair.dialler.connection;
    let mut count = 0;
    while connection
        .send_channel(Class::Control, 9, &[1; 1000])
        .is_ok()
    {
        count += 1;
    }
    assert_eq!(count, CONTROL_QUEUE_MAX / 1004 + 1);
    pair.run();
    assert_eq!(pair.responder.inbox.received.len(), count);
    assert!(
        pair.dialler
            .events
            .contains(&Event::Drained(Class::Control))
    );
}

#[test]
fn a_closing_connection_sends_what_it_has() {
    let mut pair = Pair::open();
    for _ in 0..100 {
        pair.dialler
            .connection
            .send(Kind::Bytes, "", &[0; 10_000])
            .unwrap();
    }
    pair.dialler
        .connection
        .close(pair.now, CloseCode::ShuttingDown, "good night");
    assert_eq!(
        pair.dialler.connection.send(Kind::Bytes, "", b"late"),
        Err(QueueError::NotOpen)
    );
    pair.run();
    assert_eq!(pair.responder.messages(), 100);
    let by_peer = Error::ClosedByPeer {
        code: CloseCode::ShuttingDown,
        reason: "good night".into(),
    };
    assert_eq!(pair.responder.closed(), Some(&by_peer));
    assert_eq!(by_peer.kind(), "stopping");
    assert_eq!(
        pair.responder.events.last(),
        Some(&Event::Finished { abort: false })
    );
    assert_eq!(pair.dialler.events.last(), Some(&Event::ShutdownWrite));
    pair.dialler.connection.handle_eof();
    pair.dialler.drain(pair.now);
    assert_eq!(
        pair.dialler.events.last(),
        Some(&Event::Finished { abort: false })
    );
    assert_eq!(pair.dialler.connection.poll_timeout(), None);
}

#[test]
fn a_close_does_not_wait_for_a_peer_that_does_not_read() {
    let mut pair = Pair::open();
    pair.responder.consumes = false;
    for _ in 0..11 {
        pair.dialler
            .connection
            .send(Kind::Bytes, "", &[0; 100_000])
            .unwrap();
    }
    pair.run();
    let start = pair.now;
    pair.dialler.connection.close(start, CloseCode::Normal, "");
    pair.run_until(start + Duration::from_secs(20));
    let before = pair.responder.messages();
    let end = pair.responder.closed().expect("the goodbye overtakes");
    assert_eq!(before, 2);
    assert!(matches!(end, Error::ClosedByPeer { .. }), "{end}");
    assert_eq!(
        pair.dialler.events.last(),
        Some(&Event::Finished { abort: true })
    );
    // And not for one that keeps its end of the transport open.
    let mut pair = Pair::open();
    let start = pair.now;
    pair.dialler.connection.close(start, CloseCode::Normal, "");
    pair.run();
    assert_eq!(
        pair.dialler.connection.poll_timeout(),
        Some(start + Duration::from_secs(3))
    );
    pair.run_until(start + Duration::from_secs(3));
    assert_eq!(
        pair.dialler.events.last(),
        Some(&Event::Finished { abort: true })
    );
}

#[test]
fn both_sides_may_close_at_once() {
    let mut pair = Pair::open();
    pair.dialler
        .connection
        .close(pair.now, CloseCode::Normal, "");
    pair.responder
        .connection
        .close(pair.now, CloseCode::Normal, "");
    pair.run_for(Duration::from_secs(5));
    for side in [&pair.dialler, &pair.responder] {
        let end = side.events.last().unwrap();
        assert!(matches!(end, Event::Finished { .. }), "{end:?}");
        assert!(side.closed().is_some());
    }
}

#[test]
fn a_transport_that_ends_is_a_lost_connection() {
    let mut pair = Pair::open();
    pair.dialler.connection.handle_eof();
    pair.dialler.drain(pair.now);
    assert_eq!(pair.dialler.closed(), Some(&Error::Lost));
    assert!(matches!(
        pair.dialler.events.last(),
        Some(Event::Finished { .. })
    ));
    pair.dialler.connection.handle_eof();
    assert_eq!(pair.dialler.connection.poll_event(), None);
}

#[test]
fn keys_are_replaced_by_count_and_by_time() {
    let mut pair = Pair::open_with(|config| config.timing.rekey_frames = 4);
    // Each message is a frame of its own: three rekeys each way and more.
    for _ in 0..14 {
        pair.dialler
            .connection
            .send(Kind::Text, "", b"ping")
            .unwrap();
        pair.responder
            .connection
            .send(Kind::Text, "", b"pong")
            .unwrap();
        pair.run();
    }
    for side in [&mut pair.dialler, &mut pair.responder] {
        side.connection
            .send(Kind::Bytes, "", &bytes(1 << 20))
            .unwrap();
    }
    pair.run();
    assert_eq!(
        (pair.dialler.messages(), pair.responder.messages()),
        (15, 15)
    );

    for suite in [false, true] {
        let mut pair = Pair::open_with(|config| config.aes_hardware = suite);
        for round in 1..=4 {
            pair.run_for(Duration::from_secs(3601));
            pair.dialler
                .connection
                .send(Kind::Text, "", b"hour")
                .unwrap();
            pair.responder
                .connection
                .send(Kind::Text, "", b"hour")
                .unwrap();
            pair.run();
            assert_eq!(pair.responder.messages(), round);
        }
        assert!(pair.dialler.connection.is_open());
    }
}

#[test]
fn padding_hides_the_sizes_of_small_frames() {
    let mut pair = Pair::open_with(|config| config.padding = true);
    let mut sizes = std::collections::BTreeSet::new();
    for length in 0..200 {
        let before = pair.dialler.sent.len();
        pair.dialler
            .connection
            .send(Kind::Bytes, "", &vec![0; length])
            .unwrap();
        pair.run();
        sizes.insert(pair.dialler.sent.len() - before - 18);
    }
    assert_eq!(pair.responder.messages(), 200);
    assert!(sizes.iter().all(|size| size % 64 == 0), "{sizes:?}");
}

#[test]
fn silence_is_answered_with_pings_and_then_with_the_end() {
    let mut pair = Pair::open();
    let before = pair.dialler.connection.tally(Tally::BytesOut);
    pair.run_for(Duration::from_secs(3600));
    assert!(pair.dialler.connection.is_open() && pair.responder.connection.is_open());
    let frames = (pair.dialler.connection.tally(Tally::BytesOut) - before) / (2 + 7 + 16);
    assert!((60..300).contains(&frames), "{frames} frames in an hour");
    // The responder's machine is unplugged.
    let start = pair.now;
    while pair.dialler.closed().is_none() {
        pair.now = pair.dialler.connection.poll_timeout().unwrap();
        pair.dialler.connection.handle_timeout(pair.now);
        pair.dialler.transmit(pair.now);
    }
    assert_eq!(
        pair.dialler.closed(),
        Some(&Error::TimedOut(Stage::KeepAlive))
    );
    assert!(pair.now <= start + Duration::from_secs(50));
}

#[test]
fn after_sleep_a_dead_peer_is_found_within_five_seconds() {
    let mut pair = Pair::open();
    let start = pair.now + Duration::from_secs(100_000);
    pair.now = start;
    pair.dialler.connection.probe(start);
    while pair.dialler.closed().is_none() {
        pair.dialler.transmit(pair.now);
        pair.now = pair.dialler.connection.poll_timeout().unwrap();
        pair.dialler.connection.handle_timeout(pair.now);
        pair.dialler.drain(pair.now);
    }
    assert!(pair.now <= start + Duration::from_secs(5));
    let mut pair = Pair::open();
    pair.now += Duration::from_secs(100_000);
    pair.dialler.connection.probe(pair.now);
    pair.run_for(Duration::from_secs(10));
    assert!(pair.dialler.connection.is_open());
}

#[test]
fn round_trips_are_measured() {
    let mut pair = Pair::open();
    pair.delay = Duration::from_millis(40);
    pair.run();
    for _ in 0..20 {
        pair.dialler.connection.ping(pair.now);
        pair.run();
    }
    let rtt = pair.dialler.connection.rtt().unwrap();
    // The first sample, of the handshake, was without the delay.
    let smoothed = rtt.smoothed.as_millis();
    assert!((60..=80).contains(&smoothed), "{rtt:?}");
}

#[test]
fn a_thousand_idle_seconds_need_few_looks() {
    let mut pair = Pair::open();
    let mut looks = 0;
    let end = pair.now + Duration::from_secs(1000);
    while pair.now < end {
        pair.run();
        let sides = [&pair.dialler, &pair.responder];
        let next = sides.map(|side| side.connection.poll_timeout().unwrap());
        pair.now = next[0].min(next[1]);
        pair.dialler.connection.handle_timeout(pair.now);
        pair.responder.connection.handle_timeout(pair.now);
        looks += 1;
    }
    assert!(looks < 150, "{looks} looks");
}
