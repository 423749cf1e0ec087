//! Prefaces, handshakes, refusals, and what becomes of tampering with them.

use super::super::state::Tally;
use super::*;
use crate::connection::preface::Preface;
use crate::identity::PeerId;

fn refusal(side: &Side) -> &Error {
    side.closed().expect("it is closed")
}

#[test]
fn two_nodes_meet_in_portions_of_any_size() {
    for portion in [1, 2, 3, 43, 44, 45, 97, usize::MAX] {
        let mut pair = Pair::new(config(1), config(2));
        pair.portion = portion;
        pair.run();
        let (a, b) = (&pair.dialler, &pair.responder);
        assert!(a.connection.is_open() && b.connection.is_open());
        assert_eq!(
            a.authenticated().peer,
            Identity::from_seed(&[2; 32]).peer_id()
        );
        assert_eq!(
            b.authenticated().peer,
            Identity::from_seed(&[1; 32]).peer_id()
        );
        assert_eq!(a.events.last(), Some(&Event::Opened));
        assert_eq!(b.events.last(), Some(&Event::Opened));
        assert_eq!(a.authenticated().suite, Suite::ChaChaPoly);
        assert_eq!(
            (a.authenticated().version, a.connection.role()),
            (1, Role::Dialler)
        );
        assert!(a.connection.rtt().is_some() && b.connection.rtt().is_some());
        let tally = |side: &Side, what| side.connection.tally(what);
        assert_eq!(tally(a, Tally::BytesIn), tally(b, Tally::BytesOut));
        assert_eq!(tally(a, Tally::BytesOut), tally(b, Tally::BytesIn));
    }
}

#[test]
fn what_nodes_say_of_themselves_arrives() {
    let mut a = config(1);
    a.name = Some("Ratatöskr".into());
    a.features = 5;
    a.listen = vec!["[::1]:9000".parse().unwrap()];
    a.limits.window = 128 * 1024;
    a.limits.message_max = 77;
    let mut pair = Pair::new(a, config(2));
    pair.run();
    let about = &pair.responder.authenticated().about;
    assert_eq!(about.name.as_deref(), Some("Ratatöskr"));
    assert_eq!(
        (about.features, about.window, about.message_max),
        (5, 128 * 1024, 77)
    );
    assert_eq!(about.listen, ["[::1]:9000".parse().unwrap()]);
    assert!(about.agent.starts_with("mischief/"));
    assert_eq!(pair.responder.connection.peer_message_max(), 77);
    assert_eq!(pair.dialler.authenticated().about.name, None);
}

#[test]
fn nothing_is_announced_before_both_sides_have_accepted() {
    let mut pair = Pair::new(config(1), config(2));
    pair.dialler.accepts = false;
    pair.responder.accepts = false;
    pair.run();
    assert_eq!(pair.dialler.events.len(), 1);
    assert!(
        pair.responder.events.is_empty(),
        "the dialler has not shown itself yet"
    );
    assert_eq!(
        pair.dialler.connection.send(Kind::Text, "", b"early"),
        Err(QueueError::NotOpen)
    );
    pair.dialler.connection.accept(pair.now);
    pair.run();
    assert_eq!(pair.responder.events.len(), 1);
    assert!(!pair.dialler.connection.is_open());
    pair.responder.connection.accept(pair.now);
    // Data may follow the acceptance in one portion.
    pair.responder
        .connection
        .send(Kind::Text, "", b"at once")
        .unwrap();
    pair.run();
    assert!(pair.dialler.connection.is_open());
    assert_eq!(pair.dialler.messages(), 1);
}

#[test]
fn a_responder_that_does_not_want_the_peer_says_so_first() {
    let mut pair = Pair::new(config(1), config(2));
    pair.responder.accepts = false;
    pair.run();
    pair.responder
        .connection
        .close(pair.now, CloseCode::Duplicate, "have one");
    pair.run();
    let want = Error::ClosedByPeer {
        code: CloseCode::Duplicate,
        reason: "have one".into(),
    };
    assert_eq!(refusal(&pair.dialler), &want);
    assert!(!pair.dialler.events.contains(&Event::Opened));
    pair.responder.connection.handle_eof();
    pair.responder.drain(pair.now);
    assert_eq!(
        pair.responder.events.last(),
        Some(&Event::Finished { abort: false })
    );
}

#[test]
fn a_dialler_that_does_not_want_the_peer_never_shows_who_it_is() {
    let mut pair = Pair::new(config(1), config(2));
    pair.dialler.accepts = false;
    pair.run();
    pair.dialler.connection.close(pair.now, CloseCode::Full, "");
    pair.run();
    assert_eq!(refusal(&pair.responder), &Error::Refused(RejectCode::Full));
    assert!(
        pair.responder
            .events
            .iter()
            .all(|e| !matches!(e, Event::Authenticated(_)))
    );
}

#[test]
fn another_wire_version_is_refused_with_both_versions() {
    let mut newer = config(2);
    newer.preface = Preface::new(2..=4, ProtocolHash::new("test", "1").unwrap());
    let mut pair = Pair::new(config(1), newer);
    pair.run();
    for (side, ours, theirs) in [
        (&pair.dialler, 1..=1, 2..=4),
        (&pair.responder, 2..=4, 1..=1),
    ] {
        let want = Error::from(Incompatible::WireVersion { ours, theirs });
        assert_eq!(refusal(side), &want);
        assert_eq!(want.kind(), "wrong_version");
    }
}

#[test]
fn another_protocol_is_refused() {
    let mut other = config(2);
    other.preface = Preface::new(1..=1, ProtocolHash::new("test", "2").unwrap());
    let mut pair = Pair::new(config(1), other);
    pair.run();
    for side in [&pair.dialler, &pair.responder] {
        assert_eq!(refusal(side), &Error::from(Incompatible::Protocol));
    }
}

#[test]
fn network_keys_have_to_match() {
    let keys = [None, Some([1; 32]), Some([2; 32])];
    for ours in &keys {
        for theirs in &keys {
            let [mut a, mut b] = [1, 2].map(config);
            a.network_key = ours.as_ref().map(NetworkKey::from_bytes);
            b.network_key = theirs.as_ref().map(NetworkKey::from_bytes);
            let mut pair = Pair::new(a, b);
            pair.run();
            if ours == theirs {
                assert!(pair.dialler.connection.is_open());
                continue;
            }
            assert_eq!(
                refusal(&pair.dialler),
                &Error::Refused(RejectCode::NetworkKey)
            );
            assert_eq!(refusal(&pair.dialler).kind(), "wrong_network_key");
            assert_eq!(
                refusal(&pair.responder),
                &Error::from(Incompatible::NetworkKey)
            );
        }
    }
}

#[test]
fn another_peer_than_expected_is_refused_before_it_learns_who_asked() {
    let now = Instant::ZERO;
    let mut pair = Pair::new(config(1), config(2));
    let expected = Identity::from_seed(&[9; 32]).peer_id();
    let dialler = Connection::dialler(
        &Arc::new(config(1)),
        now,
        &mut Seeded(1),
        Some(expected),
        None,
    );
    pair.dialler = Side::new(dialler);
    pair.run();
    let found = Identity::from_seed(&[2; 32]).peer_id();
    assert_eq!(
        refusal(&pair.dialler),
        &Error::WrongPeer { expected, found }
    );
    assert_eq!(
        refusal(&pair.responder),
        &Error::Refused(RejectCode::Unwanted)
    );
    assert!(
        pair.dialler
            .events
            .iter()
            .all(|e| !matches!(e, Event::Authenticated(_)))
    );
}

#[test]
fn a_node_that_dials_itself_finds_out() {
    let now = Instant::ZERO;
    let shared = Arc::new(config(1));
    let mut pair = Pair::new(config(1), config(1));
    pair.dialler = Side::new(Connection::dialler(
        &shared,
        now,
        &mut Seeded(1),
        None,
        None,
    ));
    pair.run();
    assert_eq!(refusal(&pair.dialler), &Error::SelfDial);
}

#[test]
fn our_own_static_key_under_another_identity_is_refused() {
    let mut thief = config(2);
    thief.static_key = StaticKey::from_secret(&[1 ^ 0x80; 32]);
    let mut pair = Pair::new(config(1), thief);
    pair.run();
    assert_eq!(refusal(&pair.dialler), &Error::from(Fault::OwnStaticKey));
}

/// Sends a dialler's bytes back to it, or a responder's.
#[test]
fn reflected_messages_are_found() {
    let now = Instant::ZERO;
    let mut dialler = Side::new(Connection::dialler(
        &Arc::new(config(1)),
        now,
        &mut Seeded(1),
        None,
        None,
    ));
    let own = dialler.transmit(now);
    dialler.receive(now, &own);
    assert_eq!(refusal(&dialler), &Error::from(Fault::Reflected));

    let mut pair = Pair::new(config(1), config(2));
    pair.dialler.accepts = false;
    pair.run();
    let answer = pair.responder.sent.clone();
    pair.responder.receive(now, &answer[PREFACE_BYTES..]);
    assert_eq!(refusal(&pair.responder), &Error::from(Fault::Reflected));
}

/// Message 1 has no secrets, so anybody can send it again; what comes of it is a fresh message 2 and nothing else.
#[test]
fn a_replayed_first_message_leads_nowhere() {
    let mut pair = Pair::new(config(1), config(2));
    pair.run();
    let recorded = pair.dialler.sent.clone();
    let mut again = Side::new(Connection::responder(
        &Arc::new(config(2)),
        pair.now,
        &mut Seeded(99),
        None,
    ));
    let (first, third) = recorded.split_at(PREFACE_BYTES + 2 + MESSAGE_1_BYTES);
    again.receive(pair.now, first);
    assert_eq!(
        again.transmit(pair.now)[..PREFACE_BYTES],
        pair.responder.sent[..PREFACE_BYTES]
    );
    again.receive(pair.now, third);
    assert_eq!(refusal(&again), &Error::from(Fault::Handshake));
    assert!(again.inbox.received.is_empty());
    assert!(
        again
            .events
            .iter()
            .all(|e| !matches!(e, Event::Authenticated(_)))
    );
}

/// What each side sends in a handshake, cut where the other has to answer.
fn transcript() -> [Vec<u8>; 4] {
    let mut pair = Pair::new(config(1), config(2));
    let first = pair.dialler.transmit(pair.now);
    pair.responder.receive(pair.now, &first);
    let second = pair.responder.transmit(pair.now);
    pair.dialler.receive(pair.now, &second);
    let third = pair.dialler.transmit(pair.now);
    pair.responder.receive(pair.now, &third);
    let accept = pair.responder.transmit(pair.now);
    [first, second, third, accept]
}

/// Plays a handshake of the same seeds, with one of its portions replaced.
fn play(changed: usize, portion: &[u8]) -> Pair {
    let mut pair = Pair::new(config(1), config(2));
    for index in 0..4 {
        let (from, to) = match index % 2 {
            0 => (&mut pair.dialler, &mut pair.responder),
            _ => (&mut pair.responder, &mut pair.dialler),
        };
        let sent = from.transmit(pair.now);
        let sent = if index == changed { portion } else { &sent };
        to.receive(pair.now, sent);
        if to.closed().is_some() {
            break;
        }
    }
    pair
}

#[test]
fn every_flipped_bit_of_a_handshake_is_found() {
    for (index, portion) in transcript().iter().enumerate() {
        for bit in 0..portion.len() * 8 {
            let mut flipped = portion.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let mut pair = play(index, &flipped);
            let (dialler, responder) = (&pair.dialler, &pair.responder);
            let is_open = dialler.connection.is_open() && responder.connection.is_open();
            assert!(!is_open, "portion {index}, bit {bit}");
            // A flip that makes a message longer leaves its reader waiting, until the deadline.
            pair.run_for(Duration::from_secs(60));
            for side in [&pair.dialler, &pair.responder] {
                assert!(side.inbox.received.is_empty());
                assert!(!side.connection.is_open(), "portion {index}, bit {bit}");
            }
        }
    }
}

#[test]
fn every_truncation_of_a_handshake_ends_at_the_deadline() {
    for (index, portion) in transcript().iter().enumerate() {
        for length in 0..portion.len() {
            let mut pair = play(index, &portion[..length]);
            pair.to_dialler.clear();
            pair.to_responder.clear();
            let waiting = match index % 2 {
                0 => &mut pair.responder,
                _ => &mut pair.dialler,
            };
            assert!(waiting.closed().is_none() && !waiting.connection.is_open());
            let deadline = waiting.connection.poll_timeout().unwrap();
            assert!(deadline <= Instant::from_nanos(11_000_000_000));
            waiting.connection.handle_timeout(deadline);
            waiting.drain(deadline);
            assert_eq!(refusal(waiting), &Error::TimedOut(Stage::Handshake));
            let mut cut = play(index, &portion[..length]);
            let waiting = match index % 2 {
                0 => &mut cut.responder,
                _ => &mut cut.dialler,
            };
            waiting.connection.handle_eof();
            waiting.drain(deadline);
            assert_eq!(refusal(waiting), &Error::Lost);
        }
    }
}

#[test]
fn a_byte_a_second_does_not_hold_a_handshake_open() {
    let [first, ..] = transcript();
    let mut now = Instant::ZERO;
    let config = Arc::new(config(2));
    let mut responder = Side::new(Connection::responder(&config, now, &mut Seeded(3), None));
    for byte in &first {
        now += Duration::from_secs(1);
        responder.connection.handle_timeout(now);
        responder.drain(now);
        if responder.closed().is_some() {
            break;
        }
        responder.receive(now, &[*byte]);
    }
    assert_eq!(now, Instant::ZERO + Duration::from_secs(10));
    assert_eq!(refusal(&responder), &Error::TimedOut(Stage::Handshake));
}

#[test]
fn a_stranger_is_found_out_at_its_first_byte() {
    for greeting in [
        &b"G"[..],
        b"\x16\x03\x01",
        b"\x13BitTorrent protocol",
        b"mischieF",
    ] {
        let config = Arc::new(config(2));
        let connection = Connection::responder(&config, Instant::ZERO, &mut Seeded(3), None);
        let mut responder = Side::new(connection);
        responder.receive(Instant::ZERO, greeting);
        assert_eq!(refusal(&responder), &Error::from(Incompatible::NotMischief));
        assert!(
            responder.transmit(Instant::ZERO).is_empty(),
            "nothing to say to it"
        );
    }
}

#[test]
fn lengths_that_lie_are_refused_at_the_header() {
    let [first, second, ..] = transcript();
    for (length, want) in [
        (31, Error::from(Fault::HandshakeLength(31))),
        (33, Error::from(Incompatible::NetworkKey)),
        (48, Error::from(Incompatible::NetworkKey)),
        (65535, Error::from(Incompatible::NetworkKey)),
    ] {
        let mut lying = first[..PREFACE_BYTES].to_vec();
        lying.extend_from_slice(&u16::to_be_bytes(length));
        assert_eq!(refusal(&play(0, &lying).responder), &want);
    }
    for length in [1, 31, 95, 96 + 4097, 65535] {
        let mut lying = second[..PREFACE_BYTES].to_vec();
        lying.extend_from_slice(&u16::to_be_bytes(length));
        let want = Error::from(Fault::HandshakeLength(usize::from(length)));
        assert_eq!(refusal(&play(1, &lying).dialler), &want);
    }
    for length in [1, 63, 64 + 4097, 65535] {
        let want = Error::from(Fault::HandshakeLength(usize::from(length)));
        let lying = u16::to_be_bytes(length);
        assert_eq!(refusal(&play(2, &lying).responder), &want);
    }
}

/// A dialler must wait for message 2, and again for `Accept`.
#[test]
fn bytes_before_their_turn_end_a_handshake() {
    let [first, _, third, _] = transcript();
    let early = [first, third].concat();
    assert_eq!(
        refusal(&play(0, &early).responder),
        &Error::from(Fault::OutOfTurn)
    );
    let mut pair = Pair::new(config(1), config(2));
    pair.dialler.accepts = false;
    pair.run();
    pair.dialler.receive(pair.now, &[0, 64]);
    assert_eq!(refusal(&pair.dialler), &Error::from(Fault::OutOfTurn));
}

/// Somebody on the way changes the reserved bytes, which nobody reads. The handshake notices all the same.
#[test]
fn a_preface_changed_on_the_way_is_noticed() {
    let [first, second, ..] = transcript();
    let mut changed = first;
    changed[10] ^= 1;
    assert_eq!(
        refusal(&play(0, &changed).dialler),
        &Error::from(Fault::Handshake)
    );
    let mut changed = second;
    changed[10] ^= 1;
    assert_eq!(
        refusal(&play(1, &changed).dialler),
        &Error::from(Fault::PrefaceChanged)
    );
}

#[test]
fn a_public_key_of_small_order_is_refused() {
    let [first, second, ..] = transcript();
    let mut forged = first;
    forged[PREFACE_BYTES + 2..].fill(0);
    let pair = play(0, &forged);
    assert_eq!(
        refusal(&pair.responder),
        &Error::from(Fault::SmallOrderPoint)
    );
    let mut forged = second;
    forged[PREFACE_BYTES + 2..PREFACE_BYTES + 34].fill(0);
    assert_eq!(
        refusal(&play(1, &forged).dialler),
        &Error::from(Fault::SmallOrderPoint)
    );
}

#[test]
fn a_slow_owner_is_cut_off_as_well() {
    let mut pair = Pair::new(config(1), config(2));
    pair.responder.accepts = false;
    pair.run_for(Duration::from_secs(20));
    assert_eq!(refusal(&pair.responder), &Error::TimedOut(Stage::Handshake));
    assert!(pair.dialler.closed().is_some());
    // The verdict comes too late, and does no harm.
    pair.responder.connection.accept(pair.now);
    assert!(!pair.responder.connection.is_open());
}

#[test]
fn aes_is_taken_when_both_have_it() {
    for (ours, theirs, want) in [
        (false, false, Suite::ChaChaPoly),
        (true, false, Suite::ChaChaPoly),
        (false, true, Suite::ChaChaPoly),
        (true, true, Suite::Aes256Gcm),
    ] {
        let [mut a, mut b] = [1, 2].map(config);
        a.aes_hardware = ours;
        b.aes_hardware = theirs;
        let mut pair = Pair::new(a, b);
        pair.run();
        pair.dialler
            .connection
            .send(Kind::Bytes, "", &[7; 100_000])
            .unwrap();
        pair.responder
            .connection
            .send(Kind::Text, "", b"back")
            .unwrap();
        pair.run();
        for side in [&pair.dialler, &pair.responder] {
            assert_eq!(side.connection.suite(), want);
            assert_eq!(side.messages(), 1);
        }
    }
}

#[cfg(feature = "lab-plaintext")]
#[test]
fn plaintext_needs_both_sides_and_keeps_the_handshake() {
    for (ours, theirs, want) in [
        (true, false, Suite::ChaChaPoly),
        (false, true, Suite::ChaChaPoly),
        (true, true, Suite::Plaintext),
    ] {
        let [mut a, mut b] = [1, 2].map(config);
        a.lab_plaintext = ours;
        b.lab_plaintext = theirs;
        let mut pair = Pair::new(a, b);
        pair.run();
        assert_eq!(pair.responder.authenticated().suite, want);
        pair.dialler
            .connection
            .send(Kind::Text, "", b"in the open")
            .unwrap();
        pair.run();
        assert_eq!(pair.responder.messages(), 1);
        let is_visible = pair
            .dialler
            .sent
            .windows(11)
            .any(|bytes| bytes == b"in the open");
        assert_eq!(is_visible, want == Suite::Plaintext);
    }
}

#[test]
fn the_handshake_hash_binds_both_sides_to_one_handshake() {
    let hashes = |seed| {
        let mut pair = Pair::new(config(1), config(2));
        let config = Arc::new(config(1));
        let dialler = Connection::dialler(&config, pair.now, &mut Seeded(seed), None, None);
        pair.dialler = Side::new(dialler);
        pair.run();
        let peer: PeerId = pair.responder.authenticated().peer;
        assert_eq!(peer, Identity::from_seed(&[1; 32]).peer_id());
        pair.responder.authenticated().handshake_hash
    };
    assert_eq!(hashes(5), hashes(5), "the same seeds give the same bytes");
    assert_ne!(hashes(5), hashes(6));
}
