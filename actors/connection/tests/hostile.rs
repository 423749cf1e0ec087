//! Peers that break the protocol after the handshake.

use super::*;

/// Sends a frame with these records and expects the connection to end like this.
#[track_caller]
fn check_fault(records: &[u8], want: Fault) {
    let mut pair = Pair::open();
    let frame = pair.dialler.seal(records);
    pair.responder.receive(pair.now, &frame);
    assert_eq!(pair.responder.closed(), Some(&Error::from(want)));
    let told = pair.responder.transmit(pair.now);
    assert!(!told.is_empty(), "the peer is told");
    pair.dialler.receive(pair.now, &told);
    assert!(matches!(
        pair.dialler.closed(),
        Some(Error::ClosedByPeer { .. })
    ));
}

/// Sends a frame with these records and expects the connection to live.
#[track_caller]
fn check_fine(records: &[u8]) -> Vec<Received> {
    let mut pair = Pair::open();
    let frame = pair.dialler.seal(records);
    pair.responder.receive(pair.now, &frame);
    assert_eq!(pair.responder.closed(), None);
    pair.responder.inbox.received
}

fn record(record_type: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    super::super::record::put_record(&mut out, record_type, &[body]);
    out
}

#[test]
fn every_flipped_bit_of_a_frame_is_found_and_nothing_is_delivered() {
    for aes in [false, true] {
        let mut original = Pair::open_with(|config| config.aes_hardware = aes);
        original
            .dialler
            .connection
            .send(Kind::Json, "chat", &[b'1'; 40])
            .unwrap();
        let frame = original.dialler.transmit(original.now);
        for bit in 0..frame.len() * 8 {
            let mut flipped = frame.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let mut pair = Pair::open_with(|config| config.aes_hardware = aes);
            pair.responder.receive(pair.now, &flipped);
            let is_cut_off = pair.responder.closed() == Some(&Error::from(Fault::Frame));
            let is_longer = bit < 16 && pair.responder.closed().is_none();
            let is_short =
                bit < 16 && matches!(pair.responder.closed(), Some(Error::PeerMisbehaved(_)));
            assert!(is_cut_off || is_longer || is_short, "bit {bit}");
            assert!(pair.responder.inbox.received.is_empty());
            if is_longer {
                pair.responder.receive(pair.now, &[0; 65537]);
                assert_eq!(pair.responder.closed(), Some(&Error::from(Fault::Frame)));
            }
        }
    }
}

#[test]
fn every_truncation_of_a_frame_delivers_nothing() {
    let mut original = Pair::open();
    original
        .dialler
        .connection
        .send(Kind::Json, "chat", &[b'1'; 40])
        .unwrap();
    let frame = original.dialler.transmit(original.now);
    for length in 0..frame.len() {
        let mut pair = Pair::open();
        pair.responder.receive(pair.now, &frame[..length]);
        assert!(pair.responder.closed().is_none());
        pair.responder.connection.handle_eof();
        pair.responder.drain(pair.now);
        assert_eq!(pair.responder.closed(), Some(&Error::Lost));
        assert!(pair.responder.inbox.received.is_empty());
    }
}

#[test]
fn frames_cannot_be_replayed_or_reflected() {
    let mut pair = Pair::open();
    pair.dialler
        .connection
        .send(Kind::Text, "", b"pay 100")
        .unwrap();
    let frame = pair.dialler.transmit(pair.now);
    pair.responder.receive(pair.now, &frame);
    pair.responder.receive(pair.now, &frame);
    assert_eq!(pair.responder.messages(), 1);
    assert_eq!(pair.responder.closed(), Some(&Error::from(Fault::Frame)));
    let mut pair = Pair::open();
    pair.dialler
        .connection
        .send(Kind::Text, "", b"pay 100")
        .unwrap();
    let frame = pair.dialler.transmit(pair.now);
    pair.dialler.receive(pair.now, &frame);
    assert_eq!(pair.dialler.closed(), Some(&Error::from(Fault::Frame)));
    assert_eq!(pair.dialler.messages(), 0);
}

#[test]
fn frames_of_all_critical_sizes() {
    for length in [0u16, 1, 15] {
        let mut pair = Pair::open();
        let mut frame = length.to_be_bytes().to_vec();
        frame.resize(2 + usize::from(length), 0);
        pair.responder.receive(pair.now, &frame);
        let want = Error::from(Fault::FrameLength(usize::from(length)));
        assert_eq!(pair.responder.closed(), Some(&want));
    }
    // A frame with nothing in it, and the largest there can be.
    let mut pair = Pair::open();
    let empty = pair.dialler.seal(&[]);
    assert_eq!(empty.len(), 18);
    pair.responder.receive(pair.now, &empty);
    let mut inside = record(0x12, &[&[0][..], &[7; 65_515]].concat());
    assert_eq!(inside.len(), 65_519);
    let largest = pair.dialler.seal(&inside);
    assert_eq!(largest.len(), 65_537);
    pair.responder.receive(pair.now, &largest);
    assert_eq!(pair.responder.messages(), 1);
    assert_eq!(pair.responder.closed(), None);
    // The same with forged insides.
    for length in [16usize, 65_535] {
        let mut pair = Pair::open();
        let mut frame = (length as u16).to_be_bytes().to_vec();
        frame.resize(2 + length, 0);
        pair.responder.receive(pair.now, &frame);
        assert_eq!(pair.responder.closed(), Some(&Error::from(Fault::Frame)));
    }
    inside.push(0);
    assert!(
        u16::try_from(inside.len() + 16).is_err(),
        "more cannot be said"
    );
}

#[test]
fn a_frame_of_a_byte_a_second_is_cut_off() {
    let mut pair = Pair::open();
    let frame = pair.dialler.seal(&record(0x12, &[0; 16_000]));
    let start = pair.now;
    for byte in &frame {
        pair.now += Duration::from_secs(1);
        pair.responder.connection.handle_timeout(pair.now);
        pair.responder.drain(pair.now);
        if pair.responder.closed().is_some() {
            break;
        }
        pair.responder.receive(pair.now, &[*byte]);
    }
    assert_eq!(
        pair.responder.closed(),
        Some(&Error::TimedOut(Stage::Progress))
    );
    assert!(pair.now <= start + Duration::from_secs(20));
    // One that is slow, but not that slow, gets through.
    let mut pair = Pair::open();
    let frame = pair.dialler.seal(&record(0x12, &[0; 16_000]));
    for portion in frame.chunks(200) {
        pair.now += Duration::from_secs(1);
        pair.responder.connection.handle_timeout(pair.now);
        pair.responder.transmit(pair.now);
        pair.responder.receive(pair.now, portion);
    }
    assert_eq!(pair.responder.messages(), 1);
}

#[test]
fn a_claimed_length_costs_no_memory() {
    let mut pair = Pair::open();
    pair.responder.receive(pair.now, &[0xff, 0xff, 1, 2, 3]);
    assert!(pair.responder.connection.heap_bytes() < 2048);
    // A large message that claims the limit and sends nothing.
    let mut pair = Pair::open();
    let first = record(
        0x14,
        &[&[2], &(1u32 << 20).to_be_bytes()[..], &[0], &[1; 10]].concat(),
    );
    let frame = pair.dialler.seal(&first);
    pair.responder.receive(pair.now, &frame);
    assert_eq!(pair.responder.closed(), None);
    assert!(pair.responder.connection.heap_bytes() < 70_000);
    assert_eq!(pair.responder.connection.config.reassembly.used(), 0);
}

#[test]
fn lengths_inside_of_a_frame_that_lie_are_refused() {
    check_fault(&[0x12], Fault::Record(0x12));
    check_fault(&[0x12, 0], Fault::Record(0x12));
    check_fault(&[0x12, 0, 1], Fault::Record(0x12));
    check_fault(&[0x12, 0xff, 0xff, 0, 1], Fault::Record(0x12));
    check_fault(&record(0x12, &[]), Fault::Record(0x12));
    check_fault(&record(0x12, &[5, 1, 2]), Fault::Record(0x12));
    check_fault(&record(0x10, &[0, b'1']), Fault::Record(0x10));
    let name = [&[129][..], &[b'n'; 129], b"1"].concat();
    check_fault(&record(0x10, &name), Fault::Record(0x10));
    check_fault(&record(0x11, b"\x00\xc3"), Fault::Record(0x11));
    check_fault(&record(0x13, b"\x02ab"), Fault::Record(0x13));
    check_fault(&record(0x13, b""), Fault::Record(0x13));
    check_fault(&record(0x02, &[0]), Fault::Record(0x02));
    check_fault(&record(0x03, &[0; 3]), Fault::Record(0x03));
    check_fault(&record(0x04, &[0; 3]), Fault::Record(0x04));
    check_fault(&record(0x05, &[0; 7]), Fault::Record(0x05));
    check_fault(&record(0x07, &[0; 3]), Fault::Record(0x07));
    check_fault(&record(0x08, &[]), Fault::Record(0x08));
    check_fault(&record(0x08, &[1; 1026]), Fault::Record(0x08));
    check_fault(&record(0x14, &[2, 0, 0]), Fault::Record(0x14));
    for bulk in 0x30..=0x34 {
        check_fault(&record(bulk, &[0; 3]), Fault::Record(bulk));
    }
    // What came before the lie in the same frame was authenticated and is delivered.
    let mut pair = Pair::open();
    let frame = pair
        .dialler
        .seal(&[&record(0x12, &[0, 1]), &[0x12, 9][..]].concat());
    pair.responder.receive(pair.now, &frame);
    assert_eq!(
        (pair.responder.messages(), pair.responder.closed().is_some()),
        (1, true)
    );
}

#[test]
fn unknown_records_are_skipped_from_0x80_on() {
    for record_type in 0..=0xffu8 {
        let is_known = matches!(record_type, 0..=8 | 0x10..=0x15 | 0x23..=0x25 | 0x30..=0x34);
        if is_known {
            continue;
        }
        let records = [record(record_type, b"later"), record(0x12, b"\x00x")].concat();
        if record_type >= 0x80 {
            assert_eq!(check_fine(&records).len(), 1);
        } else {
            check_fault(&records, Fault::RecordType(record_type));
        }
    }
    let padded = [record(0, &[0; 50]), record(0x12, b"\x00x"), record(0, &[])].concat();
    assert_eq!(check_fine(&padded).len(), 1);
}

#[test]
fn records_have_their_turn() {
    check_fault(&record(0x01, &[]), Fault::RecordOutOfTurn(0x01));
    let two = [record(0x06, &[]), record(0, &[])].concat();
    check_fault(&two, Fault::RecordOutOfTurn(0x06));
    // Parts of a large message have to stand together.
    let first = record(0x14, &[&[2, 0, 0, 0x40, 0, 0][..], &[1; 2000]].concat());
    let between = [first.clone(), record(0x12, b"\x00x")].concat();
    check_fault(&between, Fault::RecordOutOfTurn(0x12));
    let between = [first.clone(), record(0x13, b"\x01\x07x")].concat();
    check_fault(&between, Fault::RecordOutOfTurn(0x13));
    let twice = [first.clone(), first.clone()].concat();
    check_fault(&twice, Fault::RecordOutOfTurn(0x14));
    check_fault(&record(0x15, &[1; 2000]), Fault::RecordOutOfTurn(0x15));
    // Other streams may come between.
    let gossip = [
        first.clone(),
        record(0x23, b"\x01\x07x"),
        record(0x08, b"\x07y"),
    ]
    .concat();
    assert_eq!(check_fine(&gossip).len(), 2);
    // Parts that are too small would let headers outweigh bodies.
    let small = [first.clone(), record(0x15, &[1; PART_MIN - 1])].concat();
    check_fault(&small, Fault::Record(0x15));
    let long = [first, record(0x15, &[1; 14_000]), record(0x15, &[1; 1000])].concat();
    check_fault(&long, Fault::Record(0x15));
}

#[test]
fn a_dialler_says_nothing_before_it_is_accepted() {
    let mut pair = Pair::new(config(1), config(2));
    pair.responder.accepts = false;
    pair.run();
    assert!(pair.responder.connection.poll_timeout().is_some());
    for records in [
        record(0x12, b"\x00x"),
        record(0x03, &[0; 4]),
        record(0x01, &[]),
    ] {
        let mut pair = Pair::new(config(1), config(2));
        pair.responder.accepts = false;
        pair.run();
        let frame = pair.dialler.seal(&records);
        pair.responder.receive(pair.now, &frame);
        let want = Error::from(Fault::RecordOutOfTurn(records[0]));
        assert_eq!(pair.responder.closed(), Some(&want));
        assert!(pair.responder.inbox.received.is_empty());
    }
    // It may think better of it.
    pair.dialler
        .connection
        .close(pair.now, CloseCode::Duplicate, "");
    pair.run();
    assert!(matches!(
        pair.responder.closed(),
        Some(Error::ClosedByPeer {
            code: CloseCode::Duplicate,
            ..
        })
    ));
}

#[test]
fn a_responder_says_nothing_before_it_has_accepted() {
    let mut pair = Pair::new(config(1), config(2));
    pair.responder.accepts = false;
    pair.run();
    let frame = pair.responder.seal(&record(0x12, b"\x00x"));
    pair.dialler.receive(pair.now, &frame);
    let want = Error::from(Fault::RecordOutOfTurn(0x12));
    assert_eq!(pair.dialler.closed(), Some(&want));
    assert!(pair.dialler.inbox.received.is_empty());
}

#[test]
fn messages_above_the_limit_are_refused_at_their_first_record() {
    let first = |total: u32| {
        let body = [&[2], &total.to_be_bytes()[..], &[0], &[1; 2000]].concat();
        record(0x14, &body)
    };
    let max = 1 << 20;
    check_fine(&first(max));
    for size in [max + 1, u32::MAX] {
        let size_told = u64::from(size);
        check_fault(
            &first(size),
            Fault::MessageTooLarge {
                size: size_told,
                max,
            },
        );
    }
}

#[test]
fn grants_are_limited() {
    let grant = |stream: u32, bytes: u32| {
        record(0x05, &[stream.to_be_bytes(), bytes.to_be_bytes()].concat())
    };
    check_fine(&grant(1, 1 << 30));
    check_fault(&grant(1, u32::MAX), Fault::Grant);
    check_fault(
        &[grant(2, 1 << 30), grant(2, 1 << 30)].concat(),
        Fault::Grant,
    );
    for stream in [0, 3, 15, 16, u32::MAX] {
        check_fault(&grant(stream, 1), Fault::Stream(stream));
    }
}

#[test]
fn bulk_streams_are_used_by_the_rules() {
    let on = |record_type, id: u32, rest: &[u8]| {
        record(record_type, &[&id.to_be_bytes()[..], rest].concat())
    };
    let open = |id| on(0x30, id, &[7]);
    check_fine(&[open(16), open(17), on(0x31, 16, b"data"), on(0x32, 17, b"")].concat());
    check_fault(&open(17), Fault::Stream(17));
    check_fault(&open(1), Fault::Stream(1));
    check_fault(&[open(16), open(16)].concat(), Fault::Stream(16));
    check_fault(&on(0x31, 16, b"data"), Fault::Stream(16));
    check_fault(&on(0x32, 16, b""), Fault::Stream(16));
    check_fault(&on(0x33, 16, &[0, 0]), Fault::Stream(16));
    check_fault(&on(0x34, 16, &[0, 0]), Fault::Stream(16));
    let header = [&[7], &[0; BULK_HEADER_MAX + 1][..]].concat();
    check_fault(&on(0x30, 16, &header), Fault::Stream(16));
    let many: Vec<u8> = (16..16 + 65).flat_map(open).collect();
    check_fault(&many, Fault::Stream(80));
    // After its end.
    let mut pair = Pair::open();
    pair.responder.consumes = false;
    let after = [
        open(16),
        on(0x31, 16, b"x"),
        on(0x32, 16, b""),
        on(0x31, 16, b"y"),
    ]
    .concat();
    let frame = pair.dialler.seal(&after);
    pair.responder.receive(pair.now, &frame);
    assert_eq!(
        pair.responder.closed(),
        Some(&Error::from(Fault::Stream(16)))
    );
    // Beyond the window.
    let mut pair = Pair::open();
    pair.responder.consumes = false;
    let frame = pair.dialler.seal(&open(16));
    pair.responder.receive(pair.now, &frame);
    for _ in 0..4 {
        assert!(pair.responder.closed().is_none());
        let frame = pair.dialler.seal(&on(0x31, 16, &[0; 65_500]));
        pair.responder.receive(pair.now, &frame);
    }
    let frame = pair.dialler.seal(&on(0x31, 16, &[0; 200]));
    pair.responder.receive(pair.now, &frame);
    assert_eq!(
        pair.responder.closed(),
        Some(&Error::from(Fault::Window(16)))
    );
}

#[test]
fn a_flood_of_pings_is_answered_once_a_turn() {
    let mut pair = Pair::open();
    let pings: Vec<u8> = (0..9000u32)
        .flat_map(|token| record(0x03, &token.to_be_bytes()))
        .collect();
    let frame = pair.dialler.seal(&pings);
    pair.responder.receive(pair.now, &frame);
    assert!(pair.responder.connection.heap_bytes() < 100);
    let answer = pair.responder.transmit(pair.now);
    assert_eq!(answer.len(), 2 + 7 + 16);
    assert_eq!(pair.responder.connection.heap_bytes(), 0);
}

#[test]
fn a_peer_that_claims_a_tiny_window_or_a_wild_hello_is_refused() {
    for window in [0, WINDOW_MIN - 1, WINDOW_MAX + 1] {
        let mut odd = config(2);
        odd.limits.window = window;
        let mut pair = Pair::new(config(1), odd);
        pair.run();
        let want = Error::from(Fault::Hello(HelloFault::Limits));
        assert_eq!(pair.dialler.closed(), Some(&want));
        assert!(matches!(
            pair.responder.closed(),
            Some(Error::Refused(RejectCode::Handshake))
        ));
    }
}

#[test]
fn a_name_of_5_mb_is_not_announced() {
    let mut long = config(2);
    long.name = Some("n".repeat(5_000_000));
    long.agent = "\u{7}bell".into();
    long.listen = vec!["127.0.0.1:1".parse().unwrap(); 10_000];
    let mut pair = Pair::new(config(1), long);
    pair.run();
    let about = &pair.dialler.authenticated().about;
    assert_eq!((about.name.as_deref(), about.agent.as_str()), (None, ""));
    assert_eq!(about.listen.len(), LISTEN_MAX);
}

#[test]
fn the_end_of_the_counter_ends_the_connection() {
    let mut pair = Pair::open();
    pair.dialler.connection.send.set_count(u64::MAX - 1);
    pair.responder.connection.receive.set_count(u64::MAX - 1);
    pair.dialler
        .connection
        .send(Kind::Text, "", b"last")
        .unwrap();
    pair.run();
    assert_eq!(pair.responder.messages(), 1);
    pair.dialler
        .connection
        .send(Kind::Text, "", b"too late")
        .unwrap();
    let sent = pair.dialler.transmit(pair.now);
    assert!(sent.is_empty());
    assert_eq!(pair.dialler.closed(), Some(&Error::Exhausted));
    pair.responder
        .receive(pair.now, &[&[0, 16][..], &[0; 16]].concat());
    assert_eq!(pair.responder.closed(), Some(&Error::Exhausted));
}

/// Random records under good keys: never a panic, and memory within bounds.
#[test]
fn random_records_do_no_harm() {
    let mut random = Seeded(42);
    for _ in 0..300 {
        let mut pair = Pair::open();
        pair.responder.consumes = random.below(2) == 0;
        for _ in 0..random.below(8) + 1 {
            let mut records = Vec::new();
            for _ in 0..random.below(6) + 1 {
                let types = [
                    2, 3, 4, 5, 6, 7, 8, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x23, 0x24, 0x25,
                ];
                let record_type = match random.below(3) {
                    0 => random.next() as u8,
                    1 => 0x30 + random.below(5) as u8,
                    _ => types[random.below(16) as usize],
                };
                let mut body = vec![0; random.below(40) as usize];
                random.fill(&mut body);
                if random.below(2) == 0 && body.len() > 6 {
                    body[..6].copy_from_slice(&[0, 0, 0, 16 + random.below(3) as u8, 1, 7]);
                }
                records.extend(record(record_type, &body));
            }
            let frame = pair.dialler.seal(&records);
            pair.responder.receive(pair.now, &frame);
            pair.responder.transmit(pair.now);
        }
        assert!(pair.responder.connection.heap_bytes() < 200_000);
    }
}
