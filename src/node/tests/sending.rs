use serde_json::json;

use super::*;
use mischief_actors::connection::{EncodeError, LINK_QUEUE_HIGH};

/// The messages in what a link had waiting.
fn messages(link: &Link) -> Vec<(Kind, String, Vec<u8>)> {
    let records = take(link);
    let found: Vec<_> = Records::new(records.as_bytes())
        .map(|message| (message.kind, message.name.to_owned(), message.body.to_vec()))
        .collect();
    assert_eq!(found.len(), records.count());
    found
}

fn fill(outgoing: &Outgoing) {
    while outgoing.send_bytes(&[0; 10_000]).is_ok() {}
    assert!(outgoing.queued() >= LINK_QUEUE_HIGH);
    assert_eq!(outgoing.send_bytes(b"one more"), Err(SendError::Full));
}

#[test]
fn each_form_arrives_in_the_link_in_order() {
    let fixture = Fixture::new(Callbacks::Thread);
    let link = fixture.connect(1);
    let peer = *link.peer();
    let node = &fixture.node;
    drop(node.send(&peer, "chat", &json!({"a": [1, null]})));
    drop(node.send_text(&peer, "grüß"));
    drop(node.send_bytes(&peer, &[0, 255]));
    let outgoing = node.outgoing(&peer).unwrap();
    outgoing.send("chat", "a text is a value as well").unwrap();
    outgoing.send_text("").unwrap();
    outgoing.send_bytes(&[7; 300]).unwrap();
    let want = [
        (Kind::Json, "chat", br#"{"a":[1,null]}"#.to_vec()),
        (Kind::Text, "", "grüß".into()),
        (Kind::Bytes, "", vec![0, 255]),
        (
            Kind::Json,
            "chat",
            b"\"a text is a value as well\"".to_vec(),
        ),
        (Kind::Text, "", vec![]),
        (Kind::Bytes, "", vec![7; 300]),
    ];
    let want: Vec<_> = want
        .into_iter()
        .map(|(kind, name, body)| (kind, name.to_owned(), body))
        .collect();
    assert_eq!(messages(&link), want);
}

#[test]
fn a_message_is_sent_when_the_socket_has_taken_it() {
    let fixture = Fixture::new(Callbacks::Thread);
    let link = fixture.connect(1);
    let first = fixture.node.send_text(link.peer(), "one");
    let second = fixture.node.send_text(link.peer(), "two");
    assert_eq!(first.try_result(), None);
    let size = take(&link).len();
    link.mark_sent(size - 1);
    assert_eq!(first.try_result(), None);
    link.mark_sent(size / 2);
    assert_eq!(first.try_result(), Some(Ok(())));
    assert_eq!(second.try_result(), None);
    assert_eq!(first.wait(), Ok(()));
    assert_eq!(
        fixture.node.send_text(link.peer(), "x").wait_for(NOT_YET),
        Err(SendError::TimedOut)
    );
    let waiting = std::thread::spawn(move || second.wait());
    link.mark_sent(0);
    assert_eq!(waiting.join().unwrap(), Ok(()));
    let outgoing = fixture.node.outgoing(link.peer()).unwrap();
    outgoing.send_text("three").unwrap();
    let flushed = outgoing.flush();
    take(&link);
    link.mark_sent(0);
    assert_eq!(flushed.wait(), Ok(()));
}

#[test]
fn a_message_that_cannot_be_sent_says_why() {
    let fixture = Fixture::new(Callbacks::Thread);
    let link = fixture.connect(1);
    let (peer, node) = (*link.peer(), &fixture.node);
    let stranger = super::peer(9);
    assert!(matches!(
        node.send_text(&stranger, "a").wait(),
        Err(SendError::Gone(_))
    ));
    assert!(matches!(node.outgoing(&stranger), Err(SendError::Gone(_))));
    let too_large = SendError::TooLarge {
        size: (1 << 20) + 1,
        max: 1 << 20,
    };
    assert_eq!(
        node.send_bytes(&peer, &[0; (1 << 20) + 1]).wait(),
        Err(too_large)
    );
    for (kind, length) in [("", 0), ("x".repeat(129).as_str(), 129)] {
        let refused = node.send(&peer, kind, &json!(1)).wait();
        assert_eq!(refused, Err(SendError::Encode(EncodeError::Name(length))));
        let refused = node.broadcast(kind, &json!(1)).wait();
        assert_eq!(refused, Err(SendError::Encode(EncodeError::Name(length))));
    }
    assert!(
        node.send(&peer, &"x".repeat(128), &json!(1))
            .try_result()
            .is_none()
    );
    let no_json: std::collections::BTreeMap<(u8, u8), u8> = [((1, 1), 1)].into();
    assert!(matches!(
        node.send(&peer, "t", &no_json).wait(),
        Err(SendError::BadValue(_))
    ));
    assert!(matches!(
        node.broadcast("t", &no_json).wait(),
        Err(SendError::BadValue(_))
    ));

    let waiting = node.send_text(&peer, "never written");
    let outgoing = node.outgoing(&peer).unwrap();
    assert!(outgoing.is_open());
    fixture.disconnect(&link);
    let gone = Err(SendError::Gone(Arc::from("it is over")));
    assert_eq!(waiting.wait(), gone);
    assert_eq!(outgoing.send_text("a"), gone);
    assert_eq!(outgoing.flush().wait(), gone);
    assert_eq!(outgoing.wait_for_room(SOON), gone);
    assert!(!outgoing.is_open());
}

#[test]
fn a_full_queue_refuses_and_tells_when_there_is_room() {
    let fixture = Fixture::new(Callbacks::Thread);
    let link = fixture.connect(1);
    let outgoing = fixture.node.outgoing(link.peer()).unwrap();
    assert_eq!(outgoing.wait_for_room(Duration::ZERO), Ok(()));
    fill(&outgoing);
    assert_eq!(
        fixture.node.send_text(link.peer(), "a").wait(),
        Err(SendError::Full)
    );
    assert_eq!(outgoing.wait_for_room(NOT_YET), Err(SendError::TimedOut));
    let waiting = {
        let outgoing = outgoing.clone();
        std::thread::spawn(move || outgoing.room().wait())
    };
    take(&link);
    assert_eq!(waiting.join().unwrap(), Ok(()));
    assert_eq!(outgoing.send_text("a"), Ok(()));
    fill(&outgoing);
    let room = outgoing.room();
    fixture.disconnect(&link);
    assert!(matches!(room.wait(), Err(SendError::Gone(_))));
}

#[test]
fn what_waits_for_a_peer_counts_as_memory_until_it_is_gone() {
    let fixture = Fixture::new(Callbacks::Thread);
    let link = fixture.connect(1);
    let outgoing = fixture.node.outgoing(link.peer()).unwrap();
    let memory = fixture.hub.handle.memory();
    let used = || memory.used_for(MemoryKind::Sending);
    assert_eq!(used(), 0);
    outgoing.send_bytes(&[0; 100_000]).unwrap();
    assert!((100_000..110_000).contains(&used()), "{}", used());
    take(&link);
    assert_eq!(used(), 0);
    // A body that is shared with the sender is the sender's.
    let shared = Arc::from([0; 100_000]);
    outgoing.send_shared(&shared).unwrap();
    assert!(used() < 2_000, "{}", used());
    outgoing.send_bytes(&[0; 1000]).unwrap();
    assert!((1000..4_000).contains(&used()), "{}", used());
    fixture.disconnect(&link);
    assert_eq!(used(), 0);
}

#[test]
fn while_memory_is_tight_nothing_is_queued_and_who_waits_is_told_after() {
    let fixture = Fixture::new(Callbacks::Thread);
    let link = fixture.connect(1);
    let outgoing = fixture.node.outgoing(link.peer()).unwrap();
    let memory = fixture.hub.handle.memory();
    let held = memory.tight_from();
    memory.adjust(MemoryKind::Payloads, 0, held);
    assert_eq!(outgoing.send_text("a"), Err(SendError::Full));
    assert_eq!(outgoing.wait_for_room(NOT_YET), Err(SendError::TimedOut));
    let room = outgoing.room();
    memory.give(MemoryKind::Payloads, 1);
    // The core looks at the end of its next turn.
    fixture.on_core(|| ());
    assert_eq!(room.wait_for(SOON), Ok(()));
    assert_eq!(outgoing.send_text("a"), Ok(()));
    memory.give(MemoryKind::Payloads, held - 1);
}

#[test]
fn a_broadcast_counts_whom_it_reached() {
    let fixture = Fixture::new(Callbacks::Thread);
    let node = &fixture.node;
    assert_eq!(
        node.broadcast_text("nobody").wait(),
        Ok(Delivered::default())
    );
    let links: Vec<_> = (1..=5).map(|number| fixture.connect(number)).collect();
    fill(&node.outgoing(links[0].peer()).unwrap());
    links[1].set_message_max(3);
    let sent = node.broadcast("t", &json!("four"));
    for link in &links[2..] {
        assert_eq!(
            messages(link),
            [(Kind::Json, "t".into(), b"\"four\"".to_vec())]
        );
    }
    links[2].mark_sent(0);
    links[3].mark_sent(0);
    links[4].close(Arc::from("gone"));
    assert_eq!(sent.wait(), Ok(Delivered { sent: 2, failed: 3 }));
    let sent = node.broadcast_bytes(b"x");
    links[1].mark_sent(0);
    take(&links[2]);
    links[2].mark_sent(0);
    // One has said no by now, one waits, one is full, one is gone.
    assert_eq!(sent.wait_for(NOT_YET), Ok(Delivered { sent: 1, failed: 4 }));
}

#[test]
fn a_large_broadcast_is_copied_once_for_all() {
    let fixture = Fixture::new(Callbacks::Thread);
    let links: Vec<_> = (1..=3).map(|number| fixture.connect(number)).collect();
    let sent = fixture.node.broadcast_bytes(&[7; 100_000]);
    for link in &links {
        let records = take(link);
        assert_eq!(records.count(), 1);
        assert!(records.len() > 100_000 && records.as_bytes().is_empty());
        link.mark_sent(0);
    }
    assert_eq!(sent.wait(), Ok(Delivered { sent: 3, failed: 0 }));
}

#[test]
fn serializing_may_send_as_well() {
    struct SendsMeanwhile<'a>(&'a Node, PeerId);
    impl serde::Serialize for SendsMeanwhile<'_> {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            drop(self.0.send(&self.1, "inner", "first"));
            serializer.serialize_str("second")
        }
    }
    let fixture = Fixture::new(Callbacks::Thread);
    let link = fixture.connect(1);
    drop(fixture.node.send(
        link.peer(),
        "outer",
        &SendsMeanwhile(&fixture.node, *link.peer()),
    ));
    let names: Vec<_> = messages(&link)
        .into_iter()
        .map(|message| message.1)
        .collect();
    assert_eq!(names, ["inner", "outer"]);
}

#[test]
fn many_peers_are_found_by_id_and_by_the_beginning_of_it() {
    let fixture = Fixture::new(Callbacks::Thread);
    let links: Vec<_> = (0..200).map(|number| fixture.connect(number)).collect();
    let node = &fixture.node;
    assert_eq!(node.stats().peers, 200);
    let mut ids = node.peer_ids();
    ids.sort();
    assert_eq!(ids, (0..200).map(super::peer).collect::<Vec<_>>());
    for link in &links {
        let whole: PeerIdPrefix = link.peer().to_string().parse().unwrap();
        assert_eq!(node.find(&whole), Ok(*link.peer()));
    }
    let first = links[0].peer().to_string();
    let prefix = |length: usize| first[..length].parse::<PeerIdPrefix>().unwrap();
    assert_eq!(node.find(&prefix(8)), Ok(*links[0].peer()));
    // The first five bits of 0 to 7 are the same.
    assert_eq!(node.find(&prefix(1)), Err(FindError::Several(8)));
    fixture.disconnect(&links[0]);
    assert_eq!(node.find(&prefix(8)), Err(FindError::None));
    for link in &links[1..] {
        fixture.disconnect(link);
    }
    assert_eq!((node.stats().peers, node.peer_ids().len()), (0, 0));
}

#[test]
fn a_quiet_link_is_given_up_and_made_again() {
    let fixture = Fixture::new(Callbacks::Thread);
    let roster = &fixture.hub.roster;
    let link = fixture.connect(1);
    let (peer, connection) = (*link.peer(), link.connection());
    // Not while there is something to take, or somebody looks at it.
    let sent = fixture.node.send_text(&peer, "a");
    let link = roster
        .release(link)
        .expect("a message waits in it, and its sender");
    take(&link);
    let link = roster.release(link).expect("its sender waits");
    link.mark_sent(0);
    assert_eq!(sent.wait_for(SOON), Ok(()));
    link.consumed(&fixture.hub.handle, 5);
    let link = roster.release(link).expect("credit waits in it");
    take(&link);
    let outgoing = fixture.node.outgoing(&peer).unwrap();
    let link = roster
        .release(link)
        .expect("somebody goes on to send by it");
    drop(outgoing);
    assert!(roster.release(link).is_none());
    assert!(roster.find(connection).is_none() && roster.contains(&peer));
    // The next message makes another.
    drop(fixture.node.send_text(&peer, "b"));
    let link = roster.find(connection).expect("it was made");
    assert_eq!(
        messages(&link),
        [(Kind::Text, String::new(), b"b".to_vec())]
    );
}

#[test]
fn what_was_sent_before_a_peer_went_is_still_found_by_its_connection() {
    let fixture = Fixture::new(Callbacks::Thread);
    let link = fixture.connect(1);
    let (peer, connection) = (*link.peer(), link.connection());
    drop(fixture.node.send_text(&peer, "goodbye"));
    drop(link);
    fixture.forget(&peer);
    assert!(!fixture.node.is_connected(&peer));
    assert_eq!(
        fixture.node.send_text(&peer, "too late").wait(),
        Err(SendError::Gone(Arc::from("not connected")))
    );
    let roster = &fixture.hub.roster;
    let link = roster
        .find(connection)
        .expect("it is kept for the connection");
    assert!(link.is_muted());
    assert_eq!(messages(&link).len(), 1);
    assert!(roster.open(connection).is_none(), "nothing is delivered");
    assert!(roster.close(connection).is_some());
    assert!(roster.find(connection).is_none());
}

#[test]
fn no_link_is_made_for_a_connection_that_takes_nothing_more() {
    let fixture = Fixture::new(Callbacks::Thread);
    let link = fixture.connect(1);
    let peer = *link.peer();
    let roster = &fixture.hub.roster;
    let connection = link.connection();
    assert!(roster.release(link).is_none());
    roster.set_message_max(connection, 10);
    let too_large = SendError::TooLarge { size: 11, max: 10 };
    assert_eq!(
        fixture.node.send_bytes(&peer, &[0; 11]).wait(),
        Err(too_large)
    );
    let link = roster.find(connection).expect("it was made");
    assert!(roster.release(link).is_none());
    assert!(roster.close(connection).is_none());
    roster.set_message_max(connection, 1000);
    assert!(roster.open(connection).is_none());
    assert_eq!(
        fixture.node.send_text(&peer, "a").wait(),
        Err(SendError::Gone(Arc::from("not connected")))
    );
}
