//! What is written: answers and events, one JSON object a line.

use std::io;
use std::net::SocketAddr;

use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{CompactFormatter, Formatter};

use crate::json::command::{RequestId, joined, total};
use crate::json::dht;
use crate::json::error::RequestError;
use crate::json::mdns::{self, MdnsServices};
use crate::json::requests;
use crate::terminal::is_harmful;

/// The answer to a request.
#[derive(Debug, Serialize)]
pub struct Reply<'a> {
    id: &'a RequestId,
    ok: bool,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    answer: Option<Answer<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<RequestError>,
}

impl<'a> Reply<'a> {
    /// The answer to the request `id`.
    pub fn new(id: &'a RequestId, result: Result<Answer<'a>, RequestError>) -> Reply<'a> {
        match result {
            Ok(answer) => Reply {
                id,
                ok: true,
                answer: Some(answer),
                error: None,
            },
            Err(error) => Reply {
                id,
                ok: false,
                answer: None,
                error: Some(error),
            },
        }
    }
}

/// What a good answer carries.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Answer<'a> {
    /// Nothing more.
    Done {},
    /// To `id`.
    Id {
        /// The node's own id.
        peer_id: &'a str,
    },
    /// To `connect`.
    Connected {
        /// The id of the node at the address.
        peer: &'a str,
    },
    /// To `peers`.
    Peers {
        /// The connected peers.
        peers: Vec<PeerEntry<'a>>,
    },
    /// To a message for all peers.
    Sent {
        /// To how many it was handed.
        sent: usize,
        /// For how many it was not.
        failed: usize,
    },
    /// To a message for a list of peers.
    SentEach {
        /// To how many it was handed.
        sent: usize,
        /// For how many it was not.
        failed: usize,
        /// Why not, for each of those.
        errors: Vec<SendFailure>,
    },
    /// To the commands about lost, banned, protected and known peers: an object.
    Network(Value),
    /// To `mdns_services`.
    Mdns(MdnsServices),
    /// To `stats`.
    Stats {
        /// The figures.
        stats: Value,
    },
    /// To `request`.
    Request(requests::Answer<'a>),
    /// About the DHT.
    Dht(dht::Answer),
}

/// Why a message was not handed to one peer of a list.
#[derive(Debug, Serialize)]
pub struct SendFailure {
    /// The peer, as the command names it.
    pub peer: String,
    /// Why.
    pub error: RequestError,
}

/// A connected peer.
#[derive(Debug, Serialize)]
pub struct PeerEntry<'a> {
    /// Its whole id.
    pub peer: &'a str,
    /// The name that it gives itself; not verified, at most 64 bytes.
    pub name: Option<&'a str>,
    /// The other end of the connection.
    pub addr: SocketAddr,
    /// `"in"` or `"out"`: who dialled.
    pub direction: &'a str,
    /// When it was connected, in seconds since the Unix epoch.
    pub since: u64,
    /// How the connection is encrypted.
    pub suite: &'a str,
    /// The round-trip time in microseconds; `None` before the first measurement.
    pub rtt_us: Option<u64>,
    /// Bytes received over the network.
    pub bytes_in: u64,
    /// Bytes sent over the network.
    pub bytes_out: u64,
    /// Messages received.
    pub messages_in: u64,
    /// Messages sent.
    pub messages_out: u64,
}

/// Something that happened, told without being asked.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event<'a> {
    /// The node runs. Always the first line.
    Ready {
        /// The node's own id.
        peer_id: &'a str,
        /// Where it listens.
        listen: &'a [SocketAddr],
        /// The application's protocol as `name/version`.
        protocol: &'a str,
        /// The version of the program.
        version: &'a str,
    },
    /// A peer is connected.
    PeerConnected {
        /// Its whole id.
        peer: &'a str,
        /// The name that it gives itself; not verified, at most 64 bytes.
        name: Option<&'a str>,
        /// The other end of the connection.
        addr: SocketAddr,
        /// `"in"` or `"out"`: who dialled.
        direction: &'a str,
        /// How the connection is encrypted.
        suite: &'a str,
    },
    /// A peer is not connected any more.
    PeerDisconnected {
        /// Its whole id.
        peer: &'a str,
        /// Why, for programs.
        reason: &'a str,
        /// Why, for people.
        message: &'a str,
    },
    /// A peer sent a typed value.
    Message {
        /// Its whole id.
        peer: &'a str,
        /// The type.
        #[serde(rename = "type")]
        kind: &'a str,
        /// The value.
        data: &'a Value,
    },
    /// A peer sent a text.
    Text {
        /// Its whole id.
        peer: &'a str,
        /// The text.
        text: &'a str,
    },
    /// A peer sent bytes.
    Bytes {
        /// Its whole id.
        peer: &'a str,
        /// The bytes, in base64 with padding.
        base64: &'a str,
    },
    /// A peer is lost and will be dialled again.
    PeerReconnecting {
        /// Its whole id.
        peer: &'a str,
        /// Where it is dialled.
        addr: &'a str,
        /// The first time within so many milliseconds.
        within_ms: u64,
    },
    /// A lost peer will not be dialled again.
    PeerGivenUp {
        /// Its whole id.
        peer: &'a str,
        /// Why, for programs.
        reason: &'a str,
        /// Why, for people.
        message: &'a str,
    },
    /// A peer or a range is banned.
    Banned {
        /// The peer's whole id, if it is one.
        peer: Option<&'a str>,
        /// The range, if it is one.
        subnet: Option<&'a str>,
        /// For how long; until it is lifted if `None`.
        seconds: Option<u64>,
    },
    /// A ban is over.
    Unbanned {
        /// The peer's whole id, if it is one.
        peer: Option<&'a str>,
        /// The range, if it is one.
        subnet: Option<&'a str>,
        /// Its time has come; otherwise it was lifted.
        expired: bool,
    },
    /// Two machines have the same identity.
    IdentityConflict {
        /// The identity, a whole id.
        peer: &'a str,
        /// Where the one that stays connected is.
        addr: SocketAddr,
        /// Where the other one is; `None` if that is this node.
        other: Option<SocketAddr>,
        /// The same for people.
        message: &'a str,
    },
    /// Others see this node at this address.
    ExternalAddress {
        /// The address.
        addr: SocketAddr,
    },
    /// The DHT can be used.
    DhtReady {
        /// How many nodes it has found.
        nodes: usize,
    },
    /// The DHT names a node with the same protocol.
    DhtPeer {
        /// Where it may be.
        addr: SocketAddr,
    },
    /// Something went wrong that no command asked for.
    Error {
        /// For programs: one of the kinds of errors.
        kind: &'a str,
        /// For people.
        message: &'a str,
    },
    /// Events were dropped because the output was not read in time. Messages are never dropped so.
    Lost {
        /// How many.
        count: u64,
    },
    /// The node has stopped. Always the last line.
    Stopped {
        /// Why.
        reason: &'a str,
    },
}

/// The members of an event, as `docs/json.md` lists them.
#[derive(Clone, Copy, Debug)]
pub struct EventShape {
    /// The value of `event`.
    pub name: &'static str,
    /// Its members, in order. All are always there; some may be `null`.
    pub members: &'static [&'static str],
}

/// The lists that [`EVENTS`] is made of, one for each file.
const LISTS: &[&[EventShape]] = &[BASE, requests::EVENTS, mdns::EVENTS];

/// Every event.
pub const EVENTS: &[EventShape] = &joined::<_, { total(LISTS) }>(LISTS);

const BASE: &[EventShape] = &[
    EventShape {
        name: "ready",
        members: &["peer_id", "listen", "protocol", "version"],
    },
    EventShape {
        name: "peer_connected",
        members: &["peer", "name", "addr", "direction", "suite"],
    },
    EventShape {
        name: "peer_disconnected",
        members: &["peer", "reason", "message"],
    },
    EventShape {
        name: "message",
        members: &["peer", "type", "data"],
    },
    EventShape {
        name: "text",
        members: &["peer", "text"],
    },
    EventShape {
        name: "bytes",
        members: &["peer", "base64"],
    },
    EventShape {
        name: "peer_reconnecting",
        members: &["peer", "addr", "within_ms"],
    },
    EventShape {
        name: "peer_given_up",
        members: &["peer", "reason", "message"],
    },
    EventShape {
        name: "banned",
        members: &["peer", "subnet", "seconds"],
    },
    EventShape {
        name: "unbanned",
        members: &["peer", "subnet", "expired"],
    },
    EventShape {
        name: "identity_conflict",
        members: &["peer", "addr", "other", "message"],
    },
    EventShape {
        name: "external_address",
        members: &["addr"],
    },
    EventShape {
        name: "dht_ready",
        members: &["nodes"],
    },
    EventShape {
        name: "dht_peer",
        members: &["addr"],
    },
    EventShape {
        name: "error",
        members: &["kind", "message"],
    },
    EventShape {
        name: "lost",
        members: &["count"],
    },
    EventShape {
        name: "stopped",
        members: &["reason"],
    },
];

/// The line for a [`Reply`] or an [`Event`], line feed included.
///
/// Beyond what JSON asks for, characters that could harm a terminal, and those that some languages take for a line end,
/// are written as `\u` escapes.
pub fn to_line(output: &impl Serialize) -> Vec<u8> {
    let mut line = Vec::with_capacity(128);
    let mut serializer =
        serde_json::Serializer::with_formatter(&mut line, HarmlessFormatter(CompactFormatter));
    output
        .serialize(&mut serializer)
        .expect("answers and events have text keys and go to memory");
    line.push(b'\n');
    line
}

struct HarmlessFormatter(CompactFormatter);

impl Formatter for HarmlessFormatter {
    fn write_string_fragment<W: io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(is_harmful) {
            writer.write_all(&rest.as_bytes()[..at])?;
            let harmful = rest[at..].chars().next().expect("`find` found a character");
            // All harmful characters are in the basic plane, where one escape is enough.
            write!(writer, "\\u{:04x}", u32::from(harmful))?;
            rest = &rest[at + harmful.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::json::ErrorKind;

    fn text(output: &impl Serialize) -> String {
        String::from_utf8(to_line(output)).expect("JSON is UTF-8")
    }

    #[test]
    fn answers_have_the_documented_form() {
        let id = RequestId::Number(1.into());
        let connected = Reply::new(&id, Ok(Answer::Connected { peer: "abc" }));
        assert_eq!(
            text(&connected),
            "{\"id\":1,\"ok\":true,\"peer\":\"abc\"}\n"
        );
        let done = Reply::new(&id, Ok(Answer::Done {}));
        assert_eq!(text(&done), "{\"id\":1,\"ok\":true}\n");
        let sent = Reply::new(&RequestId::None, Ok(Answer::Sent { sent: 2, failed: 1 }));
        assert_eq!(
            text(&sent),
            "{\"id\":null,\"ok\":true,\"sent\":2,\"failed\":1}\n"
        );
        let id = RequestId::Text("a".into());
        let error = RequestError::new(ErrorKind::Unreachable, "nobody there");
        assert_eq!(
            text(&Reply::new(&id, Err(error))),
            "{\"id\":\"a\",\"ok\":false,\"error\":{\"kind\":\"unreachable\",\"message\":\"nobody there\"}}\n"
        );
    }

    #[test]
    fn every_event_has_its_shape() {
        let addr: SocketAddr = "[::1]:9000".parse().expect("it is an address");
        let (peer, reason, suite) = ("abc", "closed", "ChaChaPoly");
        let (listen, data) = ([addr], json!({"a": 1}));
        let mut events = vec![
            Event::Ready {
                peer_id: peer,
                listen: &listen,
                protocol: "chat/1.0",
                version: "0.1.0",
            },
            Event::PeerConnected {
                peer,
                name: None,
                addr,
                direction: "in",
                suite,
            },
            Event::PeerDisconnected {
                peer,
                reason,
                message: "why",
            },
            Event::Message {
                peer,
                kind: "chat",
                data: &data,
            },
            Event::Text {
                peer,
                text: "hello",
            },
            Event::Bytes {
                peer,
                base64: "AP8=",
            },
        ];
        events.extend(crate::json::peers::examples());
        events.extend([
            Event::DhtReady { nodes: 8 },
            Event::DhtPeer { addr },
            Event::Error {
                kind: "internal",
                message: "something",
            },
            Event::Lost { count: 3 },
            Event::Stopped { reason },
        ]);
        assert_eq!(events.len(), BASE.len());
        for (event, shape) in events.iter().zip(BASE) {
            let line = text(event);
            let begin = format!("{{\"event\":\"{}\"", shape.name);
            assert!(line.starts_with(&begin), "{line}");
            let value: Value = serde_json::from_str(&line).expect("an event is JSON");
            let members = value.as_object().expect("an event is an object");
            assert_eq!(members.len(), shape.members.len() + 1, "{line}");
            assert!(
                shape.members.iter().all(|name| members.contains_key(*name)),
                "{line}"
            );
        }
        assert_eq!(
            text(&events[1]),
            "{\"event\":\"peer_connected\",\"peer\":\"abc\",\"name\":null,\"addr\":\"[::1]:9000\",\
             \"direction\":\"in\",\"suite\":\"ChaChaPoly\"}\n"
        );
    }

    #[test]
    fn hostile_text_is_escaped_and_comes_back_whole() {
        let hostile: String = (0..0x2070)
            .filter_map(char::from_u32)
            .chain(['🐀', '"', '\\'])
            .collect();
        let line = to_line(&Event::Text {
            peer: "abc",
            text: &hostile,
        });
        let line = std::str::from_utf8(&line).expect("JSON is UTF-8");
        let body = line.strip_suffix('\n').expect("a line ends");
        assert!(!body.chars().any(is_harmful));
        let value: Value = serde_json::from_str(line).expect("an event is JSON");
        assert_eq!(value["text"], hostile);
    }

    #[test]
    fn keys_inside_of_a_value_are_escaped_too() {
        let line = text(&Event::Message {
            peer: "abc",
            kind: "t\u{9b}",
            data: &json!({"\u{9b}": 1}),
        });
        assert!(
            line.contains(r#""type":"t\u009b","data":{"\u009b":1}"#),
            "{line}"
        );
    }
}
