//! One node and somebody who talks to it: what it answers, what it refuses, and where it stops.

use std::net::SocketAddr;
use std::time::Duration;

use mischief_reactor::Instant;

use crate::dht::address::Family;
use crate::dht::item::ItemKey;
use crate::dht::limits::MESSAGES_MAX;
use crate::dht::machine::{KEPT_MAX, PENDING_MAX};
use crate::dht::message::{self, Body, Query, Response, Signed, Want, code};
use crate::dht::operation::OPERATIONS_MAX;
use crate::dht::serve::{ANSWER_BYTES_MAX, SAMPLES_PER_ANSWER_MAX, VALUES_MAX};
use crate::dht::storage::{PEER_LIFE, PORTS_PER_ADDRESS_MAX};
use crate::dht::{
    Announcement, Contact, Dht, DhtConfig, NodeId, Order, OrderError, Outcome, Role, StorageLimits,
};

struct Talk {
    dht: Dht,
    now: Instant,
}

impl Talk {
    fn new() -> Talk {
        Talk::with(DhtConfig {
            role: Role::Server,
            upload_rate: 10_000_000,
            ..DhtConfig::default()
        })
    }

    fn with(config: DhtConfig) -> Talk {
        let now = Instant::ZERO + Duration::from_secs(100_000);
        let mut dht = Dht::new(now, config, &[3; 32]);
        dht.open(now, addr("203.0.113.1:6881"));
        dht.open(now, addr("[2001:db8::1]:6881"));
        Talk { dht, now }
    }

    /// Sends a query and returns the datagrams that come back to who asked.
    fn raw(&mut self, from: SocketAddr, data: &[u8]) -> Vec<Vec<u8>> {
        self.dht.handle_datagram(self.now, from, data);
        let mut back = Vec::new();
        while let Some(packet) = self.dht.poll_transmit() {
            if packet.to == from && packet.data.ends_with(b"1:y1:re")
                || packet.data.ends_with(b"1:y1:ee")
            {
                back.push(packet.data);
            }
        }
        back
    }

    fn ask(&mut self, from: SocketAddr, query: &Query<'_>) -> Option<Vec<u8>> {
        let data = message::encode_query(b"xy", &NodeId([0x55; 20]), true, query);
        let mut back = self.raw(from, &data);
        assert!(back.len() <= 1);
        back.pop()
    }

    #[track_caller]
    fn token(&mut self, from: SocketAddr, target: NodeId) -> Vec<u8> {
        let query = Query::Get {
            target,
            seq: None,
            want: None,
        };
        let data = self.ask(from, &query).expect("an answer");
        response(&data).token.expect("a token").to_vec()
    }

    /// The code of the error that a query is refused with; 0 if it is not.
    #[track_caller]
    fn refusal(&mut self, from: SocketAddr, query: &Query<'_>) -> i64 {
        let data = self.ask(from, query).expect("an answer");
        match message::decode(&data).expect("a message").body {
            Body::Error { code, .. } => code,
            _ => 0,
        }
    }

    fn announce(&mut self, from: SocketAddr, info_hash: NodeId, port: u16) -> i64 {
        let token = self.token(from, info_hash);
        let query = Query::AnnouncePeer {
            info_hash,
            port,
            implied_port: false,
            seed: port.is_multiple_of(2),
            token: &token,
        };
        self.refusal(from, &query)
    }

    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }
}

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// Many callers, each in a /24 of its own.
fn caller(number: u32) -> SocketAddr {
    let [_, a, b, c] = number.to_be_bytes();
    ([20 + a, b, c, 1], 5000).into()
}

#[track_caller]
fn response(data: &[u8]) -> Response<'_> {
    match message::decode(data).expect("a message").body {
        Body::Response(response) => response,
        other => panic!("{other:?}"),
    }
}

fn get_peers(info_hash: NodeId) -> Query<'static> {
    Query::GetPeers {
        info_hash,
        want: None,
        noseed: false,
        scrape: false,
    }
}

#[test]
fn answers_carry_the_address_of_who_asked() {
    let mut talk = Talk::new();
    for from in ["198.51.100.7:1234", "[2001:db8:9::1]:4321"] {
        let data = talk.ask(addr(from), &Query::Ping).expect("an answer");
        let message = message::decode(&data).expect("a message");
        assert_eq!(message.ip, Some(addr(from)));
        assert_eq!(message.transaction, b"xy");
    }
}

#[test]
fn tokens_are_for_one_address_one_target_and_ten_minutes() {
    let from = addr("198.51.100.7:1234");
    let info_hash = NodeId([1; 20]);
    let announce = |token: &[u8], info_hash: NodeId| {
        let query = Query::AnnouncePeer {
            info_hash,
            port: 80,
            implied_port: false,
            seed: false,
            token,
        };
        message::encode_query(b"xy", &NodeId([0x55; 20]), true, &query)
    };
    let code_of = |talk: &mut Talk, from: SocketAddr, data: &[u8]| {
        let back = talk.raw(from, data).pop().expect("an answer");
        match message::decode(&back).expect("a message").body {
            Body::Error { code, .. } => code,
            _ => 0,
        }
    };
    let mut talk = Talk::new();
    let token = talk.token(from, info_hash);
    assert_eq!(
        code_of(
            &mut talk,
            addr("198.51.100.8:1234"),
            &announce(&token, info_hash)
        ),
        code::PROTOCOL
    );
    assert_eq!(
        code_of(&mut talk, from, &announce(&token, NodeId([2; 20]))),
        code::PROTOCOL
    );
    assert_eq!(
        code_of(&mut talk, from, &announce(b"", info_hash)),
        code::PROTOCOL
    );
    talk.pass(299);
    assert_eq!(code_of(&mut talk, from, &announce(&token, info_hash)), 0);
    talk.pass(302);
    assert_eq!(
        code_of(&mut talk, from, &announce(&token, info_hash)),
        code::PROTOCOL
    );
    assert_eq!(talk.dht.stats(talk.now).stored_peers, 1);
}

#[test]
fn a_reply_from_another_port_or_address_is_ignored() {
    let mut talk = Talk::new();
    let node = addr("198.51.100.7:1234");
    let id = talk
        .dht
        .handle_order(talk.now, Order::Ping { addr: node }, None)
        .expect("not busy");
    let sent = talk.dht.poll_transmit().expect("a ping");
    assert_eq!(sent.to, node);
    let transaction = message::decode(&sent.data)
        .expect("a message")
        .transaction
        .to_vec();
    let pong = |from: SocketAddr| {
        let response = Response {
            id: NodeId([9; 20]),
            ..Response::default()
        };
        message::encode_response(&transaction, from, &response)
    };
    for wrong in ["198.51.100.7:1235", "198.51.100.8:1234"] {
        talk.dht
            .handle_datagram(talk.now, addr(wrong), &pong(addr(wrong)));
        assert_eq!(talk.dht.poll_event(), None);
    }
    let mut guess = transaction.clone();
    guess[3] ^= 1;
    let wrong = message::encode_response(&guess, node, &Response::default());
    talk.dht.handle_datagram(talk.now, node, &wrong);
    assert_eq!(talk.dht.poll_event(), None);
    talk.dht.handle_datagram(talk.now, node, &pong(node));
    let event = talk.dht.poll_event();
    let expected = Outcome::Pong(Some((NodeId([9; 20]), Duration::ZERO)));
    assert!(
        matches!(&event, Some(crate::dht::DhtEvent::Ended { operation, outcome }) if *operation == id && *outcome == expected),
        "{event:?}"
    );
}

#[test]
fn unknown_and_malformed_queries_get_their_errors() {
    let mut talk = Talk::new();
    let from = addr("198.51.100.7:1234");
    let mut code_of = |data: &[u8]| {
        let back = talk.raw(from, data).pop()?;
        match message::decode(&back).expect("a message").body {
            Body::Error { code, .. } => Some(code),
            _ => Some(0),
        }
    };
    assert_eq!(
        code_of(b"d1:ad2:id20:abcdefghij0123456789e1:q4:nope1:t2:aa1:y1:qe"),
        Some(code::METHOD_UNKNOWN)
    );
    let future =
        b"d1:ad2:id20:abcdefghij01234567896:target20:mnopqrstuvwxyz123456e1:q4:nope1:t2:aa1:y1:qe";
    assert_eq!(code_of(future), Some(0), "a place is named, so nodes are");
    assert_eq!(
        code_of(b"d1:ad2:id3:abce1:q4:ping1:t2:aa1:y1:qe"),
        Some(code::PROTOCOL)
    );
    assert_eq!(code_of(b"d1:q4:ping1:t2:aa1:y1:qe"), Some(code::PROTOCOL));
    assert_eq!(
        code_of(b"d1:ad2:id20:abcdefghij0123456789e1:q9:find_node1:t2:aa1:y1:qe"),
        Some(code::PROTOCOL)
    );
    for silent in [
        &b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:y1:qe"[..],
        b"d1:q4:ping1:ad2:id20:abcdefghij0123456789e1:t2:aa1:y1:qe",
        b"i12345678901234567890123456789e",
        b"00000000000000000000000000000000000",
        b"",
    ] {
        assert_eq!(code_of(silent), None);
    }
    let long = [
        &b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t33:"[..],
        &[b'x'; 33],
        b"1:y1:qe",
    ]
    .concat();
    assert_eq!(code_of(&long), None, "nobody needs so long a transaction");
}

#[test]
fn a_client_does_not_answer_and_says_so() {
    let mut talk = Talk::with(DhtConfig {
        role: Role::Client,
        ..DhtConfig::default()
    });
    assert_eq!(talk.ask(addr("198.51.100.7:1234"), &Query::Ping), None);
    let order = Order::Ping {
        addr: addr("198.51.100.9:1"),
    };
    talk.dht
        .handle_order(talk.now, order, None)
        .expect("not busy");
    let sent = talk.dht.poll_transmit().expect("a ping");
    assert!(sent.data.windows(8).any(|part| part == b"2:roi1e1"));
}

#[test]
fn a_strangers_query_makes_a_server() {
    let mut talk = Talk::with(DhtConfig::default());
    let known = addr("198.51.100.9:1");
    talk.dht
        .handle_order(talk.now, Order::Ping { addr: known }, None)
        .expect("not busy");
    talk.dht.poll_transmit().expect("a ping");
    assert_eq!(
        talk.ask(known, &Query::Ping),
        None,
        "it came through the hole that we made"
    );
    assert_eq!(
        talk.ask(addr("198.51.100.9:2"), &Query::Ping),
        None,
        "and so may this"
    );
    assert!(talk.ask(addr("192.0.2.77:1"), &Query::Ping).is_some());
    assert!(talk.ask(known, &Query::Ping).is_some());
}

#[test]
fn peers_come_back_by_family_until_they_expire() {
    let mut talk = Talk::new();
    let info_hash = NodeId([1; 20]);
    assert_eq!(talk.announce(addr("198.51.100.7:1234"), info_hash, 80), 0);
    assert_eq!(talk.announce(addr("[2001:db8:9::1]:1"), info_hash, 81), 0);
    for (from, peer) in [
        ("198.51.100.9:1", "198.51.100.7:80"),
        ("[2001:db8:8::1]:1", "[2001:db8:9::1]:81"),
    ] {
        let data = talk
            .ask(addr(from), &get_peers(info_hash))
            .expect("an answer");
        assert_eq!(response(&data).peers().collect::<Vec<_>>(), [addr(peer)]);
    }
    talk.pass(PEER_LIFE.as_secs());
    let data = talk
        .ask(addr("198.51.100.9:1"), &get_peers(info_hash))
        .expect("an answer");
    assert_eq!(response(&data).peers().count(), 0);
    assert!(response(&data).token.is_some());
    assert!(response(&data).nodes.is_some());
}

#[test]
fn an_implied_port_is_the_datagrams() {
    let mut talk = Talk::new();
    let (from, info_hash) = (addr("198.51.100.7:1234"), NodeId([1; 20]));
    let token = talk.token(from, info_hash);
    let query = Query::AnnouncePeer {
        info_hash,
        port: 9,
        implied_port: true,
        seed: false,
        token: &token,
    };
    assert_eq!(talk.refusal(from, &query), 0);
    let data = talk.ask(from, &get_peers(info_hash)).expect("an answer");
    assert_eq!(response(&data).peers().collect::<Vec<_>>(), [from]);
}

#[test]
fn answers_stay_below_their_size() {
    let mut talk = Talk::new();
    let info_hash = NodeId([1; 20]);
    for number in 0..300 {
        assert_eq!(
            talk.announce(caller(number), info_hash, 1000 + number as u16),
            0
        );
        let node = Contact {
            id: NodeId::for_ip(caller(number).ip(), &mut talk.dht.dice),
            addr: caller(number),
        };
        let now = talk.now;
        let net = talk.dht.nets[Family::V4.index()]
            .as_mut()
            .expect("it is open");
        net.table.handle_answer(now, node);
    }
    for scrape in [false, true] {
        let query = Query::GetPeers {
            info_hash,
            want: Some(Want::BOTH),
            noseed: false,
            scrape,
        };
        let data = talk.ask(addr("198.51.100.9:1"), &query).expect("an answer");
        assert!(data.len() <= ANSWER_BYTES_MAX, "{}", data.len());
        let response = response(&data);
        assert_eq!(response.nodes.map(<[u8]>::len), Some(8 * 26));
        let count = response.peers().count();
        assert!((10..=VALUES_MAX).contains(&count), "{count}");
        assert_eq!(response.bloom_peers.is_some(), scrape);
    }
}

#[test]
fn a_scrape_counts_seeds_and_peers() {
    let mut talk = Talk::new();
    let info_hash = NodeId([1; 20]);
    for number in 0..60 {
        talk.announce(caller(number), info_hash, 1000 + u16::from(number % 3 == 0));
    }
    let query = Query::GetPeers {
        info_hash,
        want: None,
        noseed: true,
        scrape: true,
    };
    let data = talk.ask(addr("198.51.100.9:1"), &query).expect("an answer");
    let response = response(&data);
    let size =
        |filter: Option<&[u8; 256]>| crate::dht::Bloom(*filter.expect("a filter")).estimate();
    assert!((size(response.bloom_seeds) - 40.0).abs() < 2.0);
    assert!((size(response.bloom_peers) - 20.0).abs() < 2.0);
    let data = talk.ask(
        addr("198.51.100.9:1"),
        &Query::GetPeers {
            info_hash: NodeId([2; 20]),
            want: None,
            noseed: false,
            scrape: true,
        },
    );
    let data = data.expect("an answer");
    assert!(
        self::response(&data).bloom_seeds.is_none(),
        "there is no such swarm"
    );
}

#[test]
fn samples_are_always_there_and_at_most_twenty() {
    let mut talk = Talk::new();
    let sample = Query::SampleInfohashes {
        target: NodeId([0; 20]),
        want: None,
    };
    let data = talk
        .ask(addr("198.51.100.9:1"), &sample)
        .expect("an answer");
    assert_eq!(response(&data).samples, Some(&b""[..]));
    for number in 0..50 {
        talk.announce(caller(number), NodeId([number as u8; 20]), 1000);
    }
    let data = talk
        .ask(addr("198.51.100.9:1"), &sample)
        .expect("an answer");
    let first = response(&data);
    assert_eq!(
        first.samples.map(<[u8]>::len),
        Some(SAMPLES_PER_ANSWER_MAX * 20)
    );
    assert_eq!((first.num, first.interval), (Some(50), Some(21_600)));
    let again = talk
        .ask(addr("198.51.100.9:1"), &sample)
        .expect("an answer");
    assert_eq!(
        response(&again).samples,
        first.samples,
        "asking twice does not pay"
    );
}

fn put<'a>(token: &'a [u8], value: &'a [u8]) -> Query<'a> {
    Query::Put {
        token,
        value,
        signed: None,
    }
}

#[test]
fn items_are_refused_by_the_book() {
    let mut talk = Talk::new();
    let from = addr("198.51.100.7:1234");
    let largest = [b"996:".to_vec(), vec![b'x'; 996]].concat();
    let token = talk.token(from, crate::dht::item::immutable_target(&largest));
    assert_eq!(talk.refusal(from, &put(&token, &largest)), 0);
    let larger = [b"997:".to_vec(), vec![b'x'; 997]].concat();
    assert_eq!(
        talk.refusal(from, &put(&token, &larger)),
        code::VALUE_TOO_BIG
    );
    assert_eq!(talk.refusal(from, &put(b"wrong", &largest)), code::PROTOCOL);

    let key = ItemKey::from_seed(&[4; 32]);
    let public = key.public();
    let mut change = |salt: &[u8], seq: i64, value: &[u8], cas: Option<i64>, is_forged: bool| {
        let target = crate::dht::item::mutable_target(&public, salt);
        let token = talk.token(from, target);
        let mut signed = key.sign(salt, seq, value);
        signed.signature[5] ^= u8::from(is_forged);
        let query = Query::Put {
            token: &token,
            value,
            signed: Some(Signed {
                key: &public,
                salt,
                seq,
                signature: &signed.signature,
                cas,
            }),
        };
        talk.pass(1);
        talk.refusal(from, &query)
    };
    assert_eq!(change(&[b's'; 64], 1, b"i1e", None, false), 0);
    assert_eq!(
        change(&[b's'; 65], 1, b"i1e", None, false),
        code::SALT_TOO_BIG
    );
    assert_eq!(change(b"", 1, b"i1e", None, true), code::SIGNATURE);
    assert_eq!(
        change(b"", 5, b"i1e", Some(9), false),
        0,
        "nothing is there to compare with"
    );
    assert_eq!(
        change(b"", 5, b"i1e", None, false),
        0,
        "the same again keeps it alive"
    );
    assert_eq!(change(b"", 5, b"i2e", None, false), code::SEQUENCE);
    assert_eq!(change(b"", 4, b"i2e", None, false), code::SEQUENCE);
    assert_eq!(change(b"", 6, b"i2e", Some(4), false), code::CAS_MISMATCH);
    assert_eq!(change(b"", 6, b"i2e", Some(5), false), 0);
    assert_eq!(change(b"", -1, b"i2e", None, false), code::PROTOCOL);
    assert_eq!(change(b"", i64::MAX, b"i3e", None, false), 0);
}

#[test]
fn an_item_is_not_sent_to_who_has_it() {
    let mut talk = Talk::new();
    let from = addr("198.51.100.7:1234");
    let key = ItemKey::from_seed(&[4; 32]);
    let signed = key.sign(b"", 7, b"i1e");
    let target = crate::dht::item::mutable_target(&key.public(), b"");
    let token = talk.token(from, target);
    let query = Query::Put {
        token: &token,
        value: b"i1e",
        signed: Some(Signed {
            key: &signed.key,
            salt: b"",
            seq: 7,
            signature: &signed.signature,
            cas: None,
        }),
    };
    assert_eq!(talk.refusal(from, &query), 0);
    for (known, has_value) in [
        (None, true),
        (Some(6), true),
        (Some(7), false),
        (Some(8), false),
    ] {
        let query = Query::Get {
            target,
            seq: known,
            want: None,
        };
        let data = talk.ask(from, &query).expect("an answer");
        assert_eq!(response(&data).seq, Some(7));
        assert_eq!(response(&data).value.is_some(), has_value, "{known:?}");
    }
    talk.pass(2 * 60 * 60);
    let query = Query::Get {
        target,
        seq: None,
        want: None,
    };
    let data = talk.ask(from, &query).expect("an answer");
    assert_eq!(response(&data).value, None, "two hours without a word");
}

#[test]
fn storage_stays_within_its_limits() {
    let limits = StorageLimits {
        hashes_max: 10,
        peers_per_hash_max: 5,
        peers_max: 30,
        items_max: 6,
        item_bytes_max: 40,
    };
    let mut talk = Talk::with(DhtConfig {
        role: Role::Server,
        upload_rate: 10_000_000,
        storage: limits,
        ..DhtConfig::default()
    });
    let mut full = 0;
    for number in 0..200u32 {
        let info_hash = NodeId::sha1(&[&(number % 40).to_be_bytes()]);
        full += u32::from(talk.announce(caller(number), info_hash, 1000) == code::SERVER);
        let value = format!("i{}e", number);
        let target = crate::dht::item::immutable_target(value.as_bytes());
        let token = talk.token(caller(number), target);
        full +=
            u32::from(talk.refusal(caller(number), &put(&token, value.as_bytes())) == code::SERVER);
        let stats = talk.dht.stats(talk.now);
        assert!(
            stats.stored_hashes <= 10 && stats.stored_peers <= 30 && stats.stored_items <= 6,
            "{stats:?}"
        );
        talk.pass(1);
    }
    assert!(full > 0, "what is far away is refused");
    assert!(talk.dht.storage.heap_bytes() < 4096);
}

#[test]
fn one_address_has_few_places_in_a_swarm() {
    let mut talk = Talk::new();
    let info_hash = NodeId([1; 20]);
    for port in 1..=30 {
        assert_eq!(talk.announce(addr("198.51.100.7:1234"), info_hash, port), 0);
        talk.pass(1);
    }
    assert_eq!(talk.dht.stats(talk.now).stored_peers, PORTS_PER_ADDRESS_MAX);
    let data = talk
        .ask(addr("198.51.100.9:1"), &get_peers(info_hash))
        .expect("an answer");
    let ports: Vec<u16> = response(&data).peers().map(|peer| peer.port()).collect();
    assert!(ports.contains(&30), "the latest is there: {ports:?}");
}

#[test]
fn a_swarm_keeps_the_latest_of_many() {
    let mut talk = Talk::new();
    let info_hash = NodeId([1; 20]);
    let max = StorageLimits::default().peers_per_hash_max as u32;
    for number in 0..=max {
        assert_eq!(talk.announce(caller(number), info_hash, 1000), 0);
    }
    assert_eq!(talk.dht.stats(talk.now).stored_peers, max as usize);
}

#[test]
fn one_caller_is_answered_five_times_a_second_and_no_more() {
    let mut talk = Talk::new();
    let from = addr("198.51.100.7:1234");
    let answers = (0..200)
        .filter(|_| talk.ask(from, &Query::Ping).is_some())
        .count();
    assert_eq!(answers, usize::from(MESSAGES_MAX));
    assert!(talk.ask(addr("192.0.2.1:1"), &Query::Ping).is_some());
}

#[test]
fn orders_are_bounded() {
    let mut talk = Talk::new();
    let order = || Order::FindPeers {
        info_hash: NodeId([1; 20]),
    };
    for _ in 0..OPERATIONS_MAX {
        talk.dht
            .handle_order(talk.now, order(), None)
            .expect("not busy yet");
    }
    assert_eq!(
        talk.dht.handle_order(talk.now, order(), None),
        Err(OrderError::Busy)
    );
    talk.pass(31);
    talk.dht.handle_timeout(talk.now);
    let ended = std::iter::from_fn(|| talk.dht.poll_event())
        .filter(|event| matches!(event, crate::dht::DhtEvent::Ended { .. }));
    assert_eq!(
        ended.count(),
        OPERATIONS_MAX,
        "each ends by its deadline, with nobody there"
    );
    for number in 0..2 * KEPT_MAX as u32 {
        let announcement = Announcement {
            info_hash: NodeId::sha1(&[&number.to_be_bytes()]),
            port: Some(1),
            seed: false,
        };
        talk.dht.keep_announcing(talk.now, announcement);
    }
    assert_eq!(talk.dht.kept.len(), KEPT_MAX);
}

#[test]
fn queries_in_flight_are_bounded() {
    let mut talk = Talk::new();
    let mut sent = 0;
    for number in 0..2 * PENDING_MAX as u32 {
        // A ping that cannot be sent ends by its deadline, like one that is lost.
        let order = Order::Ping {
            addr: caller(number),
        };
        let id = talk
            .dht
            .handle_order(talk.now, order, None)
            .expect("not busy");
        while talk.dht.poll_transmit().is_some() {
            sent += 1;
        }
        talk.dht.handle_cancel(id);
    }
    assert_eq!(sent, PENDING_MAX);
}

#[test]
fn without_a_socket_nothing_is_ordered() {
    let now = Instant::ZERO;
    let mut dht = Dht::new(now, DhtConfig::default(), &[1; 32]);
    let info_hash = NodeId([1; 20]);
    assert_eq!(
        dht.handle_order(now, Order::FindPeers { info_hash }, None),
        Err(OrderError::NoSocket)
    );
    dht.open(now, addr("127.0.0.1:1"));
    let away = Order::Ping {
        addr: addr("8.8.8.8:1"),
    };
    assert_eq!(
        dht.handle_order(now, away, None),
        Err(OrderError::NoSocket),
        "loopback reaches loopback"
    );
    dht.handle_contacts(now, [addr("8.8.8.8:1")]);
    assert_eq!(dht.poll_transmit(), None);
    dht.handle_contacts(now, [addr("127.0.0.1:2")]);
    assert_eq!(
        dht.poll_transmit().map(|packet| packet.to),
        Some(addr("127.0.0.1:2"))
    );
}

#[test]
fn what_waits_to_be_taken_and_where_to_begin_are_bounded() {
    use crate::dht::machine::EVENTS_MAX;
    use crate::dht::net::BEGIN_MAX;
    let mut talk = Talk::new();
    for number in 0..2 * EVENTS_MAX as u32 {
        let peers = vec![caller(number)];
        talk.dht.tell(crate::dht::DhtEvent::Discovered(peers));
    }
    assert_eq!(talk.dht.stats(talk.now).finds_dropped, EVENTS_MAX as u64);
    assert_eq!(
        std::iter::from_fn(|| talk.dht.poll_event()).count(),
        EVENTS_MAX
    );
    let net = talk.dht.nets[Family::V4.index()]
        .as_mut()
        .expect("it is open");
    for number in 0..2 * BEGIN_MAX as u32 {
        net.add_begin(None, caller(number));
    }
    assert_eq!(net.begin.len(), BEGIN_MAX);
}

#[test]
fn what_an_order_finds_is_bounded() {
    use crate::dht::operation::{FOUND_MAX, Operation, SAMPLES_MAX, Wish};
    let operation = |order| Operation::new(order, Wish::User, NodeId::default(), Instant::ZERO);
    let mut find = operation(Order::FindPeers {
        info_hash: NodeId::default(),
    });
    let found = find.found_new((0..2 * FOUND_MAX as u32).map(caller));
    assert_eq!((found.len(), find.found.len()), (FOUND_MAX, FOUND_MAX));
    let mut sample = operation(Order::Sample {
        target: NodeId::default(),
    });
    for number in 0..2 * SAMPLES_MAX as u32 {
        let samples = NodeId::sha1(&[&number.to_be_bytes()]).0;
        sample.learn(&Response {
            samples: Some(&samples),
            ..Response::default()
        });
    }
    assert_eq!(sample.samples.len(), SAMPLES_MAX);
}

#[test]
fn a_table_and_its_replacements_are_bounded() {
    use crate::dht::routing::{FAILURES_BAD, FAILURES_MAX, REPLACEMENTS_MAX, capacity};
    let mut random = crate::dht::dice::Dice::new(&[6; 32]);
    let mut table = crate::dht::RoutingTable::new(NodeId::default(), true);
    let now = Instant::ZERO + Duration::from_secs(100_000);
    let contact = |number: u32, id: NodeId| Contact {
        id,
        addr: caller(number),
    };
    // All in the first bucket, so that nothing is split but once.
    for number in 0..1000 {
        let mut id = NodeId::for_ip(caller(number).ip(), &mut random);
        id.0[0] |= 0x80;
        table.handle_answer(now, contact(number, id));
    }
    assert_eq!(table.len(), capacity(0));
    assert_eq!(table.replacements(), REPLACEMENTS_MAX);
    let first = table.contacts().next().expect("it is full");
    for _ in 0..FAILURES_BAD {
        table.handle_failure(first.addr);
    }
    assert!(
        table.contacts().all(|node| node != first),
        "a replacement has its place"
    );
    assert_eq!(table.len(), capacity(0));
    let mut alone = crate::dht::RoutingTable::new(NodeId::default(), true);
    let id = NodeId::for_ip(caller(1).ip(), &mut random);
    alone.handle_answer(now, contact(1, id));
    for _ in 1..FAILURES_MAX {
        alone.handle_failure(caller(1));
        assert_eq!(alone.len(), 1, "our own network may be down");
    }
    alone.handle_failure(caller(1));
    assert!(alone.is_empty());
}

#[test]
fn newcomers_are_pinged_as_far_as_a_round_allows() {
    use crate::dht::upkeep::{NEIGHBOURS_PER_ROUND_MAX, NEWCOMERS_PER_ROUND_MAX};
    let mut talk = Talk::new();
    let mut pings = 0;
    for number in 0..400 {
        let mut random = crate::dht::dice::Dice::new(&[number as u8; 32]);
        let id = NodeId::for_ip(caller(number).ip(), &mut random);
        let data = message::encode_query(b"xy", &id, false, &Query::Ping);
        talk.dht.handle_datagram(talk.now, caller(number), &data);
        while let Some(packet) = talk.dht.poll_transmit() {
            pings += usize::from(packet.data.ends_with(b"1:y1:qe"));
        }
    }
    let most = NEIGHBOURS_PER_ROUND_MAX + NEWCOMERS_PER_ROUND_MAX;
    assert!(pings > 0 && pings <= most as usize, "{pings}");
}
