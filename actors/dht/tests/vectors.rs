//! Published vectors: BEP 5, 33, 42 and 44.

use std::net::IpAddr;

use crate::dht::address::Family;
use crate::dht::dice::Dice;
use crate::dht::item::{self, Signature};
use crate::dht::message::{self, Body, Query, Response, code};
use crate::dht::{Bloom, NodeId};

fn bytes<const N: usize>(hex: &str) -> [u8; N] {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let pairs = digits.chunks_exact(2).map(|pair| {
        let text = std::str::from_utf8(pair).expect("digits");
        u8::from_str_radix(text, 16).expect("digits")
    });
    pairs
        .collect::<Vec<_>>()
        .try_into()
        .expect("as many as said")
}

#[test]
fn dht_vectors_of_bep_42() {
    let vectors = [
        (
            "124.31.75.21",
            1,
            "5fbfbff10c5d6a4ec8a88e4c6ab4c28b95eee401",
        ),
        (
            "21.75.31.124",
            86,
            "5a3ce9c14e7a08645677bbd1cfe7d8f956d53256",
        ),
        (
            "65.23.51.170",
            22,
            "a5d43220bc8f112a3d426c84764f8c2a1150e616",
        ),
        (
            "84.124.73.14",
            65,
            "1b0321dd1bb1fe518101ceef99462b947a01ff41",
        ),
        (
            "43.213.53.83",
            90,
            "e56f6cbf5b7c4be0237986d5243b87aa6d51305a",
        ),
    ];
    for (ip, random, id) in vectors {
        let ip: IpAddr = ip.parse().expect("an address");
        let id: NodeId = id.parse().expect("an id");
        assert_eq!(id.0[19], random);
        assert!(id.is_valid_for(ip), "{ip}");
        for byte in [0, 1, 2, 19] {
            let mut wrong = id;
            wrong.0[byte] ^= if byte == 19 { 0x01 } else { 0x08 };
            assert!(!wrong.is_valid_for(ip), "{ip}, byte {byte}");
        }
        let mut free = id;
        free.0[2] ^= 0x07;
        free.0[3] ^= 0xff;
        free.0[19] ^= 0xf8;
        assert!(free.is_valid_for(ip), "only 21 bits and 3 are bound");
    }
    let mut random = Dice::new(&[7; 32]);
    for ip in ["1.2.3.4", "203.0.113.200", "2001:db8::1", "10.0.0.1", "::1"] {
        let ip: IpAddr = ip.parse().expect("an address");
        for _ in 0..100 {
            assert!(NodeId::for_ip(ip, &mut random).is_valid_for(ip));
        }
    }
    let anybody = NodeId::random(&mut random);
    assert!(!anybody.is_valid_for("1.2.3.4".parse().expect("an address")));
    assert!(!anybody.is_valid_for("2001:db8::1".parse().expect("an address")));
    assert!(anybody.is_valid_for("192.168.1.1".parse().expect("an address")));
}

const KEY: &str = "77ff84905a91936367c01360803104f92432fcd904a43511876df5cdf3e7e548";

#[track_caller]
fn check_mutable(salt: &[u8], target: &str, signature: &str) {
    let (key, signature) = (bytes(KEY), bytes(signature));
    let value = b"12:Hello World!";
    assert_eq!(item::mutable_target(&key, salt).to_string(), target);
    assert!(item::is_signed(&key, salt, 1, value, &signature));
    assert!(!item::is_signed(&key, salt, 2, value, &signature));
    assert!(!item::is_signed(&key, b"other", 1, value, &signature));
    assert!(!item::is_signed(
        &key,
        salt,
        1,
        b"12:Hello world!",
        &signature
    ));
}

#[test]
fn dht_vectors_of_bep_44() {
    check_mutable(
        b"",
        "4a533d47ec9c7d95b1ad75f576cffc641853b750",
        "305ac8aeb6c9c151fa120f120ea2cfb923564e11552d06a5d856091e5e853cff
         1260d3f39e4999684aa92eb73ffd136e6f4f3ecbfda0ce53a1608ecd7ae21f01",
    );
    check_mutable(
        b"foobar",
        "411eba73b6f087ca51a3795d9c8c938d365e32c1",
        "6834284b6b24c3204eb2fea824d82f88883a3d95e8b4a21b8c0ded553d17d17d
         df9a8a7104b1258f30bed3787e6cb896fca78c58f8e03b5f18f14951a87d9a08",
    );
    let target = item::immutable_target(b"12:Hello World!");
    assert_eq!(
        target.to_string(),
        "e5f96f6f38320f0f33959cb4d3d656452117aadb"
    );
}

#[test]
fn what_we_sign_holds() {
    let key = item::ItemKey::from_seed(&[9; 32]);
    let Signature {
        key,
        seq,
        signature,
    } = key.sign(b"salt", 3, b"i7e");
    assert!(item::is_signed(&key, b"salt", seq, b"i7e", &signature));
    assert!(!item::is_signed(&key, b"", seq, b"i7e", &signature));
}

#[test]
fn dht_vectors_of_bep_33() {
    let mut filter = Bloom::default();
    for last in 0..=255u8 {
        filter.insert([192, 0, 2, last].into());
    }
    for last in 0..=0x3e7u16 {
        filter.insert([0x2001, 0xdb8, 0, 0, 0, 0, 0, last].into());
    }
    let expected: [u8; 256] = bytes(
        "F6C3F5EA A07FFD91 BDE89F77 7F26FB2B FF37BDB8 FB2BBAA2 FD3DDDE7 BACFFF75 EE7CCBAE
         FE5EEDB1 FBFAFF67 F6ABFF5E 43DDBCA3 FD9B9FFD F4FFD3E9 DFF12D1B DF59DB53 DBE9FA5B
         7FF3B8FD FCDE1AFB 8BEDD7BE 2F3EE71E BBBFE93B CDEEFE14 8246C2BC 5DBFF7E7 EFDCF24F
         D8DC7ADF FD8FFFDF DDFFF7A4 BBEEDF5C B95CE81F C7FCFF1F F4FFFFDF E5F7FDCB B7FD79B3
         FA1FC77B FE07FFF9 05B7B7FF C7FEFEFF E0B8370B B0CD3F5B 7F2BD93F EB4386CF DD6F7FD5
         BFAF2E9E BFFFFEEC D67ADBF7 C67F17EF D5D75EBA 6FFEBA7F FF47A91E B1BFBB53 E8ABFB57
         62ABE8FF 237279BF EFBFEEF5 FFC5FEBF DFE5ADFF ADFEE1FB 737FFFFB FD9F6AEF FEEE76B6
         FD8F72EF",
    );
    assert_eq!(filter.0, expected);
    assert!(
        (filter.estimate() - 1224.9308).abs() < 0.0001,
        "{}",
        filter.estimate()
    );
    assert_eq!(Bloom::default().estimate(), 0.0);
    let full = Bloom([0xff; 256]);
    assert!(full.estimate().is_finite());
}

fn id(text: &str) -> NodeId {
    NodeId::from_slice(text.as_bytes()).expect("20 bytes")
}

#[track_caller]
fn check_query(packet: &str, expected: Query<'_>) {
    let message = message::decode(packet.as_bytes()).expect("a message of the BEP");
    assert_eq!(message.transaction, b"aa");
    let Body::Query {
        id: from,
        read_only,
        query,
    } = message.body
    else {
        panic!("{message:?}");
    };
    assert_eq!(from, id("abcdefghij0123456789"));
    assert!(!read_only);
    assert_eq!(query, expected);
    // What we write is the same but for our version.
    let written = message::encode_query(b"aa", &from, false, &query);
    let written = String::from_utf8_lossy(&written).replace("1:v4:mf\0\u{1}", "");
    let packet = packet.replace("12:implied_porti0e", "");
    assert_eq!(written, packet);
}

#[test]
fn dht_vectors_of_bep_5_queries() {
    let target = id("mnopqrstuvwxyz123456");
    check_query(
        "d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe",
        Query::Ping,
    );
    check_query(
        "d1:ad2:id20:abcdefghij01234567896:target20:mnopqrstuvwxyz123456e1:q9:find_node1:t2:aa1:y1:qe",
        Query::FindNode { target, want: None },
    );
    check_query(
        "d1:ad2:id20:abcdefghij01234567899:info_hash20:mnopqrstuvwxyz123456e1:q9:get_peers1:t2:aa1:y1:qe",
        Query::GetPeers {
            info_hash: target,
            want: None,
            noseed: false,
            scrape: false,
        },
    );
    check_query(
        "d1:ad2:id20:abcdefghij01234567899:info_hash20:mnopqrstuvwxyz1234564:porti6881e5:token8:aoeusnthe\
         1:q13:announce_peer1:t2:aa1:y1:qe",
        Query::AnnouncePeer {
            info_hash: target,
            port: 6881,
            implied_port: false,
            seed: false,
            token: b"aoeusnth",
        },
    );
}

fn response(packet: &[u8]) -> Response<'_> {
    let message = message::decode(packet).expect("a message of the BEP");
    assert_eq!(message.transaction, b"aa");
    match message.body {
        Body::Response(response) => response,
        other => panic!("{other:?}"),
    }
}

#[test]
fn dht_vectors_of_bep_5_answers() {
    let pong = response(b"d1:rd2:id20:mnopqrstuvwxyz123456e1:t2:aa1:y1:re");
    assert_eq!(pong.id, id("mnopqrstuvwxyz123456"));
    let found = response(b"d1:rd2:id20:0123456789abcdefghij5:nodes9:def456...e1:t2:aa1:y1:re");
    assert_eq!(found.nodes, Some(&b"def456..."[..]));
    assert_eq!(
        found.contacts(Family::V4).count(),
        0,
        "the BEP leaves the rest out"
    );
    let values = response(
        b"d1:rd2:id20:abcdefghij01234567895:token8:aoeusnth6:valuesl6:axje.u6:idhtnmee1:t2:aa1:y1:re",
    );
    assert_eq!(values.token, Some(&b"aoeusnth"[..]));
    let peers: Vec<String> = values.peers().map(|peer| peer.to_string()).collect();
    assert_eq!(peers, ["97.120.106.101:11893", "105.100.104.116:28269"]);
    let near = response(
        b"d1:rd2:id20:abcdefghij01234567895:nodes9:def456...5:token8:aoeusnthe1:t2:aa1:y1:re",
    );
    assert_eq!(near.values, None);
}

#[test]
fn dht_vectors_of_bep_5_errors() {
    let message =
        message::decode(b"d1:eli201e23:A Generic Error Ocurrede1:t2:aa1:y1:ee").expect("an error");
    let expected = Body::Error {
        code: code::GENERIC,
        text: b"A Generic Error Ocurred",
    };
    assert_eq!(message.body, expected);
}
