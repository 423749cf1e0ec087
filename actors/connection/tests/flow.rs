//! Windows, classes, budgets and bulk streams.

use super::super::state::{MessageStream, Tally};
use super::*;
use mischief_reactor::ByteBudget;

const WINDOW: u32 = 256 * 1024;

#[test]
fn a_reader_that_never_reads_stops_its_stream_alone() {
    let mut pair = Pair::open();
    pair.responder.consumes = false;
    let mut refused = false;
    for _ in 0..100 {
        refused |= pair
            .dialler
            .connection
            .send(Kind::Bytes, "", &[0; 50_000])
            .is_err();
        pair.run();
    }
    assert!(refused, "the back-pressure reaches the sender");
    let credit: u32 = pair
        .responder
        .inbox
        .credit
        .iter()
        .map(|(_, credit)| credit)
        .sum();
    assert!(credit <= WINDOW && pair.responder.messages() == 5);
    // All else goes on: control, gossip, bulk, pings, and the other direction.
    pair.responder.inbox.received.clear();
    let connection = &mut pair.dialler.connection;
    connection.send_channel(Class::Control, 1, b"c").unwrap();
    connection.send_channel(Class::Gossip, 1, b"g").unwrap();
    let stream = connection.open_bulk(7, b"").unwrap();
    connection.write_bulk(stream, &mut b"b".to_vec()).unwrap();
    pair.responder
        .connection
        .send(Kind::Text, "", b"back")
        .unwrap();
    pair.run_for(Duration::from_secs(600));
    assert!(pair.dialler.connection.is_open() && pair.responder.connection.is_open());
    assert_eq!(pair.dialler.messages(), 1);
    let received = &pair.responder.inbox.received;
    assert_eq!(received.len(), 4, "{received:?}");
    // And when it reads at last, everything arrives.
    pair.responder.consumes = true;
    pair.responder.drain(pair.now);
    pair.run();
    assert_eq!(pair.dialler.connection.queued_bytes(), 0);
}

#[test]
fn a_sender_that_ignores_the_window_is_closed() {
    let mut pair = Pair::open();
    pair.responder.consumes = false;
    // A dialler that believes the window to be larger.
    pair.dialler
        .connection
        .application
        .send
        .grant(100_000)
        .unwrap();
    for _ in 0..7 {
        pair.dialler
            .connection
            .send(Kind::Bytes, "", &[0; 50_000])
            .unwrap();
    }
    pair.run();
    assert_eq!(
        pair.responder.closed(),
        Some(&Error::from(Fault::Window(1)))
    );
    assert!(matches!(
        pair.dialler.closed(),
        Some(Error::ClosedByPeer {
            code: CloseCode::Protocol,
            ..
        })
    ));
}

#[test]
fn messages_larger_than_the_window_draw_on_the_budget() {
    let budget = ByteBudget::new(4 << 20);
    let mut pair = Pair::open_with(|config| config.reassembly = budget.clone());
    pair.responder.consumes = false;
    pair.dialler
        .connection
        .send(Kind::Bytes, "", &[5; 1 << 20])
        .unwrap();
    pair.run();
    assert_eq!(
        pair.responder.messages(),
        1,
        "whole, though nothing was consumed"
    );
    let used = budget.used();
    assert!(
        used > (1 << 20) - WINDOW as usize && used < 1 << 20,
        "{used}"
    );
    pair.responder.consume_all();
    assert_eq!(budget.used(), 0);
    // The window is as it was: the same again.
    for _ in 0..3 {
        pair.dialler
            .connection
            .send(Kind::Bytes, "", &[5; 1 << 20])
            .unwrap();
        pair.run();
        pair.responder.consume_all();
        pair.run();
    }
    assert_eq!((pair.responder.messages(), budget.used()), (4, 0));
}

#[test]
fn at_the_end_of_the_budget_messages_wait_for_their_turn() {
    let budget = ByteBudget::new(1 << 20);
    let mut pairs: Vec<Pair> = (0..4)
        .map(|_| Pair::open_with(|config| config.reassembly = budget.clone()))
        .collect();
    for pair in &mut pairs {
        pair.responder.consumes = false;
        pair.dialler
            .connection
            .send(Kind::Bytes, "", &[5; 1 << 20])
            .unwrap();
        pair.run();
        assert!(budget.used() <= budget.max());
    }
    let done = |pairs: &[Pair]| pairs.iter().map(|p| p.responder.messages()).sum::<usize>();
    assert_eq!(done(&pairs), 1, "the others have to wait");
    // Small messages on other connections are not held up, and neither are pings.
    let mut other = Pair::open_with(|config| config.reassembly = budget.clone());
    other
        .dialler
        .connection
        .send(Kind::Bytes, "", &[5; 200_000])
        .unwrap();
    other.run();
    assert_eq!(other.responder.messages(), 1);
    for round in 1..=4 {
        for pair in &mut pairs {
            pair.responder.consume_all();
            pair.run_for(Duration::from_millis(250));
            assert!(pair.dialler.connection.is_open());
        }
        assert!(done(&pairs) > round.min(3), "{round}");
    }
    for pair in &mut pairs {
        pair.responder.consume_all();
    }
    assert_eq!((done(&pairs), budget.used()), (4, 0));
}

#[test]
fn a_budget_is_given_back_when_a_connection_goes() {
    let budget = ByteBudget::new(4 << 20);
    let mut pair = Pair::open_with(|config| config.reassembly = budget.clone());
    pair.responder.consumes = false;
    pair.dialler
        .connection
        .send(Kind::Bytes, "", &[5; 1 << 20])
        .unwrap();
    pair.step();
    pair.step();
    assert!(budget.used() > 0);
    drop(pair);
    assert_eq!(budget.used(), 0);
}

#[test]
fn a_large_message_that_does_not_go_on_is_cut_off() {
    let budget = ByteBudget::new(4 << 20);
    let mut pair = Pair::open_with(|config| config.reassembly = budget.clone());
    pair.dialler
        .connection
        .send(Kind::Bytes, "", &[5; 1 << 20])
        .unwrap();
    pair.step();
    assert!(budget.used() > 0, "memory is held for the rest");
    // From now on the dialler only answers pings.
    let start = pair.now;
    while pair.responder.closed().is_none() {
        pair.now = pair.responder.connection.poll_timeout().unwrap();
        pair.responder.connection.handle_timeout(pair.now);
        pair.responder.transmit(pair.now);
    }
    assert_eq!(
        pair.responder.closed(),
        Some(&Error::TimedOut(Stage::Progress))
    );
    assert!(pair.now <= start + Duration::from_secs(20));
    drop(pair);
    assert_eq!(budget.used(), 0);
}

#[test]
fn urgent_classes_come_first() {
    let mut pair = Pair::open();
    let connection = &mut pair.dialler.connection;
    let stream = connection.open_bulk(1, b"h").unwrap();
    connection.write_bulk(stream, &mut vec![0; 10_000]).unwrap();
    connection.send_channel(Class::Gossip, 1, b"g").unwrap();
    connection.send(Kind::Text, "", b"a").unwrap();
    connection.send_channel(Class::Control, 1, b"c").unwrap();
    pair.run();
    let class = |received: &Received| match received {
        Received::Channel(class, ..) => *class,
        Received::Message(..) => Class::Application,
        _ => Class::Bulk,
    };
    let order: Vec<_> = pair.responder.inbox.received.iter().map(class).collect();
    let mut sorted = order.clone();
    sorted.sort();
    assert_eq!(order, sorted);
}

#[test]
fn a_flood_of_messages_does_not_starve_the_classes_below() {
    let mut pair = Pair::open();
    let stream = pair.dialler.connection.open_bulk(1, b"").unwrap();
    let mut out = Vec::new();
    for round in 0..40 {
        let connection = &mut pair.dialler.connection;
        if round == 0 {
            connection
                .write_bulk(stream, &mut vec![0; 100_000])
                .unwrap();
            connection.send_channel(Class::Gossip, 1, b"g").unwrap();
        }
        for _ in 0..4 {
            let _maybe_full = connection.send(Kind::Bytes, "", &[0; 16_000]);
        }
        out.clear();
        connection.poll_transmit(pair.now, &mut out, 1);
        pair.responder.receive(pair.now, &out);
        let back = pair.responder.transmit(pair.now);
        pair.dialler.receive(pair.now, &back);
    }
    let received = &pair.responder.inbox.received;
    assert!(received.iter().any(|r| matches!(r, Received::Data(..))));
    assert!(
        received
            .iter()
            .any(|r| matches!(r, Received::Channel(Class::Gossip, ..)))
    );
}

#[test]
fn a_ping_overtakes_bulk_data() {
    let mut pair = Pair::open();
    let connection = &mut pair.dialler.connection;
    let stream = connection.open_bulk(1, b"").unwrap();
    connection
        .write_bulk(stream, &mut vec![0; 250_000])
        .unwrap();
    let mut out = Vec::new();
    connection.poll_transmit(pair.now, &mut out, 1);
    connection.ping(pair.now);
    let before = out.len();
    connection.poll_transmit(pair.now, &mut out, 1);
    assert!(out.len() - before <= FRAME_BYTES_MAX);
    pair.responder.receive(pair.now, &out);
    let answer = pair.responder.transmit(pair.now);
    let rtt = pair.dialler.connection.rtt();
    pair.now += Duration::from_millis(5);
    pair.dialler.receive(pair.now, &answer);
    assert_ne!(
        pair.dialler.connection.rtt(),
        rtt,
        "the ping was in the second frame"
    );
}

fn data(side: &Side, stream: StreamId) -> Vec<u8> {
    let data = side
        .inbox
        .received
        .iter()
        .filter_map(|received| match received {
            Received::Data(id, bytes) if *id == stream => Some(&bytes[..]),
            _ => None,
        });
    data.collect::<Vec<_>>().concat()
}

#[test]
fn bulk_streams_carry_bytes_in_order_side_by_side() {
    let mut pair = Pair::open();
    pair.portion = 10_000;
    let contents: Vec<Vec<u8>> = (0..5u8)
        .map(|seed| {
            (0..700_000u32)
                .map(|i| (i.wrapping_mul(2654435761) >> 13) as u8 ^ seed)
                .collect()
        })
        .collect();
    let connection = &mut pair.dialler.connection;
    let streams: Vec<StreamId> = contents
        .iter()
        .map(|content| connection.open_bulk(9, &content[..10]).unwrap())
        .collect();
    let mut sent = vec![0; contents.len()];
    while sent.iter().any(|&sent| sent < 700_000) {
        for (index, content) in contents.iter().enumerate() {
            while sent[index] < content.len() {
                let mut piece = content[sent[index]..].to_vec();
                piece.truncate(33_333);
                let length = piece.len();
                match pair
                    .dialler
                    .connection
                    .write_bulk(streams[index], &mut piece)
                {
                    Ok(()) => sent[index] += length,
                    Err(error) => {
                        assert_eq!((error, piece.len()), (QueueError::Full, length));
                        break;
                    }
                }
            }
        }
        pair.step();
    }
    for &stream in &streams {
        pair.dialler.connection.end_bulk(stream).unwrap();
    }
    pair.run();
    for (&stream, content) in streams.iter().zip(&contents) {
        assert!(data(&pair.responder, stream) == *content);
        let received = &pair.responder.inbox.received;
        assert!(received.contains(&Received::Opened(stream, 9, content[..10].to_vec())));
        assert!(received.contains(&Received::Ended(stream)));
        // Everything was taken, which the sender learns.
        let stopped = Received::Stopped(stream, 0);
        assert!(pair.dialler.inbox.received.contains(&stopped));
    }
    assert!(
        pair.dialler
            .events
            .iter()
            .any(|e| matches!(e, Event::BulkWritable(_)))
    );
    // What stays is how many streams there have been.
    pair.run_for(Duration::from_secs(10));
    for connection in [&pair.dialler.connection, &pair.responder.connection] {
        assert_eq!(connection.heap_bytes(), connection.phase.heap_bytes());
    }
}

#[test]
fn bulk_streams_are_reset_and_stopped() {
    let mut pair = Pair::open();
    let connection = &mut pair.dialler.connection;
    let given_up = connection.open_bulk(1, b"").unwrap();
    connection.write_bulk(given_up, &mut vec![1; 100]).unwrap();
    let unwanted = connection.open_bulk(1, b"").unwrap();
    connection.write_bulk(unwanted, &mut vec![1; 100]).unwrap();
    pair.run();
    pair.dialler.connection.reset_bulk(given_up, 5).unwrap();
    pair.responder.connection.stop_bulk(unwanted, 6).unwrap();
    pair.run();
    assert!(
        pair.responder
            .inbox
            .received
            .contains(&Received::Reset(given_up, 5))
    );
    let events = &pair.dialler.inbox.received;
    assert_eq!(
        events[..],
        [
            Received::Stopped(unwanted, 6),
            Received::Stopped(given_up, 0)
        ]
    );
    let connection = &mut pair.dialler.connection;
    for stream in [given_up, unwanted, StreamId(99)] {
        assert_eq!(
            connection.write_bulk(stream, &mut vec![1]),
            Err(QueueError::Stream)
        );
        assert_eq!(connection.end_bulk(stream), Err(QueueError::Stream));
        assert_eq!(connection.reset_bulk(stream, 1), Err(QueueError::Stream));
        assert_eq!(connection.stop_bulk(stream, 1), Err(QueueError::Stream));
    }
    // Both sides reset and stop the same stream while the other's word is under way.
    let crossing = connection.open_bulk(1, b"").unwrap();
    pair.run();
    pair.dialler.connection.reset_bulk(crossing, 1).unwrap();
    pair.responder.connection.stop_bulk(crossing, 2).unwrap();
    pair.run();
    assert!(pair.dialler.connection.is_open() && pair.responder.connection.is_open());
}

#[test]
fn bulk_streams_are_limited_until_their_bytes_are_consumed() {
    let mut pair = Pair::open_with(|config| config.limits.bulk_streams_max = 3);
    pair.responder.consumes = false;
    let connection = &mut pair.dialler.connection;
    for _ in 0..3 {
        let stream = connection.open_bulk(1, b"").unwrap();
        connection.write_bulk(stream, &mut vec![1; 100]).unwrap();
        connection.end_bulk(stream).unwrap();
    }
    assert_eq!(connection.open_bulk(1, b""), Err(QueueError::Stream));
    pair.run();
    assert_eq!(
        pair.dialler.connection.open_bulk(1, b""),
        Err(QueueError::Stream),
        "the receiver still holds the bytes"
    );
    pair.responder.consume_all();
    pair.run();
    let stream = pair.dialler.connection.open_bulk(1, b"").unwrap();
    assert_eq!(stream, StreamId(19));
    let header = [0; BULK_HEADER_MAX + 1];
    assert!(pair.dialler.connection.open_bulk(1, &header).is_err());
}

/// Windows of all sizes, messages of all sizes, readers of all speeds: nothing is lost, nothing gets stuck, nothing
/// exceeds its limits.
#[test]
fn any_mixture_of_messages_arrives() {
    for seed in 0..20 {
        let mut random = Seeded(seed);
        let budget = ByteBudget::new(2 << 20);
        let mut pair = Pair::open_with(|config| {
            config.limits.window = WINDOW_MIN << (seed % 3);
            config.reassembly = budget.clone();
        });
        pair.portion = 1 + random.below(40_000) as usize;
        pair.responder.consumes = false;
        let mut want = Vec::new();
        while want.len() < 100 || pair.responder.messages() < want.len() {
            if want.len() < 100 {
                let bits = 1 + random.below(20);
                let body = vec![want.len() as u8; random.below(1 << bits) as usize];
                if pair
                    .dialler
                    .connection
                    .send(Kind::Bytes, "n", &body)
                    .is_ok()
                {
                    want.push(Received::Message(Kind::Bytes, "n".into(), body));
                }
            }
            pair.step();
            let held: u32 = pair.responder.inbox.credit.iter().map(|(_, c)| c).sum();
            let window = pair.responder.connection.config.limits.window;
            assert!(held as usize <= window as usize + budget.used());
            if random.below(3) == 0 {
                let credit = &mut pair.responder.inbox.credit;
                let count = random.below(credit.len() as u64 + 1) as usize;
                for (stream, credit) in credit.drain(..count) {
                    pair.responder.connection.consumed(stream, credit);
                }
            }
            assert!(
                pair.now < Instant::from_nanos(1_000_000_000_000),
                "stuck: seed {seed}"
            );
            pair.now += Duration::from_millis(1);
            pair.dialler.connection.handle_timeout(pair.now);
            pair.responder.connection.handle_timeout(pair.now);
        }
        assert!(pair.responder.inbox.received == want, "seed {seed}");
        pair.responder.consume_all();
        assert_eq!(budget.used(), 0);
    }
}

#[test]
fn a_connection_that_has_become_quiet_holds_nothing_beside_itself() {
    let mut pair = Pair::open();
    let idle = |pair: &Pair| {
        let sides = [&pair.dialler.connection, &pair.responder.connection];
        sides.map(Connection::heap_bytes)
    };
    pair.run_for(Duration::from_secs(10));
    assert_eq!(idle(&pair), [0, 0]);
    // Both streams of messages, less than what is granted again by itself.
    let connection = &mut pair.dialler.connection;
    connection.send(Kind::Bytes, "", &[1; 1000]).unwrap();
    connection
        .send_channel(Class::Gossip, 1, &[2; 1000])
        .unwrap();
    pair.run();
    assert!(idle(&pair).iter().all(|bytes| *bytes > 0));
    // A ping takes the rest of the grants along; then both are as at the beginning.
    pair.run_for(Duration::from_secs(120));
    assert_eq!(idle(&pair), [0, 0]);
    let windows = |connection: &Connection| {
        let seldom = connection.phase.seldom();
        (connection.application, seldom.map(|seldom| seldom.gossip))
    };
    let limits = pair.responder.connection.config.limits;
    let untouched = (MessageStream::new(limits.window, limits.window), None);
    assert_eq!(windows(&pair.dialler.connection), untouched);
    assert_eq!(windows(&pair.responder.connection), untouched);
    // And they still work.
    let connection = &mut pair.dialler.connection;
    connection
        .send_channel(Class::Gossip, 1, &[2; 1000])
        .unwrap();
    pair.run();
    assert_eq!(pair.responder.inbox.received.len(), 3);
}

#[test]
fn counts_go_beyond_32_bits() {
    let mut pair = Pair::open();
    let connection = &mut pair.dialler.connection;
    connection.count(Tally::MessagesIn, u64::from(u32::MAX) - 1);
    assert!(connection.phase.seldom().is_none());
    connection.count(Tally::MessagesIn, 3);
    connection.count(Tally::MessagesOut, 5 << 32);
    assert_eq!(connection.tally(Tally::MessagesIn), (1 << 32) + 1);
    assert_eq!(connection.tally(Tally::MessagesOut), 5 << 32);
    pair.run_for(Duration::from_secs(120));
    let connection = &pair.dialler.connection;
    assert_eq!(connection.tally(Tally::MessagesIn), (1 << 32) + 1);
}
