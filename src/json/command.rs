//! A line of input, read into a command.

use std::ops::RangeInclusive;
use std::str::FromStr;

use data_encoding::BASE64;
use mischief_actors::identity::{ParsePeerIdError, PeerId, PeerIdPrefix};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::json::dht;
use crate::json::error::{ErrorKind, RequestError};
use crate::json::mdns;
use crate::json::peers::{self, NetworkCommand};
use crate::json::requests;

/// The longest message type, in bytes.
const TYPE_LEN_MAX: usize = 128;

/// The longest address: a host name of 253 bytes, brackets, colon and port.
const ADDR_LEN_MAX: usize = 264;

/// The longest text id of a request, in bytes. It is repeated in the answer.
const ID_LEN_MAX: usize = 256;

/// What the program is asked to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Tell the node's own id.
    Id,
    /// List the connected peers.
    Peers,
    /// Connect to an address.
    Connect {
        /// `host:port`, not yet checked further.
        addr: String,
        /// The whole id that the node there must have.
        peer_id: Option<PeerId>,
    },
    /// Disconnect a peer.
    Disconnect {
        /// Which.
        peer: PeerIdPrefix,
    },
    /// Send a typed JSON value.
    Send {
        /// To whom.
        to: Receivers,
        /// The type, 1 to 128 bytes.
        kind: String,
        /// The value.
        data: Value,
    },
    /// Send a text.
    SendText {
        /// To whom.
        to: Receivers,
        /// The text.
        text: String,
    },
    /// Send bytes.
    SendBytes {
        /// To whom.
        to: Receivers,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// About lost, banned, protected and known peers.
    Network(NetworkCommand),
    /// Tell the node's statistics.
    Stats,
    /// Something on the local network.
    Mdns(mdns::MdnsCommand),
    /// Shut down.
    Shutdown,
    /// Something about requests.
    Requests(requests::Command),
    /// Something about the DHT.
    Dht(dht::Command),
}

/// For whom a message is.
#[derive(Clone, Debug, PartialEq)]
pub enum Receivers {
    /// Every connected peer.
    All,
    /// One peer.
    One(PeerIdPrefix),
    /// Each of these peers.
    Each(Vec<PeerIdPrefix>),
}

/// The members of a command, as `docs/json.md` lists them.
#[derive(Clone, Copy, Debug)]
pub struct CommandShape {
    /// The value of `cmd`.
    pub name: &'static str,
    /// Members that must be there.
    pub required: &'static [&'static str],
    /// Members that may be there.
    pub optional: &'static [&'static str],
    /// Members of a good answer, besides `id` and `ok`. Alternatives are separate entries.
    pub answers: &'static [&'static [&'static str]],
}

/// The lists that [`COMMANDS`] is made of, one for each file.
const LISTS: &[&[CommandShape]] = &[BASE, requests::COMMANDS, mdns::COMMANDS, dht::COMMANDS];

/// Every command.
pub const COMMANDS: &[CommandShape] = &joined::<_, { total(LISTS) }>(LISTS);

pub(super) const fn total<T>(lists: &[&[T]]) -> usize {
    let (mut total, mut list) = (0, 0);
    while list < lists.len() {
        total += lists[list].len();
        list += 1;
    }
    total
}

/// All of the lists in one, of which the first is not empty.
pub(super) const fn joined<T: Copy, const N: usize>(lists: &[&[T]]) -> [T; N] {
    let mut all = [lists[0][0]; N];
    let (mut list, mut next) = (0, 0);
    while list < lists.len() {
        let mut place = 0;
        while place < lists[list].len() {
            all[next] = lists[list][place];
            (next, place) = (next + 1, place + 1);
        }
        list += 1;
    }
    all
}

const BASE: &[CommandShape] = &[
    CommandShape {
        name: "id",
        required: &[],
        optional: &[],
        answers: &[&["peer_id"]],
    },
    CommandShape {
        name: "peers",
        required: &[],
        optional: &[],
        answers: &[&["peers"]],
    },
    CommandShape {
        name: "connect",
        required: &["addr"],
        optional: &["peer_id"],
        answers: &[&["peer"]],
    },
    CommandShape {
        name: "disconnect",
        required: &["peer"],
        optional: &[],
        answers: &[&[]],
    },
    CommandShape {
        name: "send",
        required: &["type", "data"],
        optional: &["peer", "peers"],
        answers: &[&[], &["sent", "failed"], &["sent", "failed", "errors"]],
    },
    CommandShape {
        name: "send_text",
        required: &["text"],
        optional: &["peer", "peers"],
        answers: &[&[], &["sent", "failed"], &["sent", "failed", "errors"]],
    },
    CommandShape {
        name: "send_bytes",
        required: &["base64"],
        optional: &["peer", "peers"],
        answers: &[&[], &["sent", "failed"], &["sent", "failed", "errors"]],
    },
    peers::PEER,
    peers::PROTECT,
    peers::BAN,
    peers::UNBAN,
    peers::BANS,
    peers::RECONNECT_QUEUE,
    peers::CLEAR_RECONNECT_QUEUE,
    peers::ADDRESS_BOOK,
    peers::FORGET,
    CommandShape {
        name: "stats",
        required: &[],
        optional: &[],
        answers: &[&["stats"]],
    },
    CommandShape {
        name: "shutdown",
        required: &[],
        optional: &[],
        answers: &[&[]],
    },
];

/// What a request calls itself, to be repeated in its answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(untagged)]
pub enum RequestId {
    /// It has none, or none that could be read.
    #[default]
    None,
    /// A number.
    Number(serde_json::Number),
    /// A text of at most 256 bytes.
    Text(String),
}

/// A line, read.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// What to call it in the answer.
    pub id: RequestId,
    /// What it asks for, or why that cannot be told.
    pub command: Result<Command, RequestError>,
}

impl Request {
    /// The request that a line of more than [`crate::json::LINE_SIZE_MAX`] bytes stands for.
    pub fn too_long() -> Request {
        let message = format!(
            "the line has more than {} bytes and was passed over",
            crate::json::LINE_SIZE_MAX
        );
        Request {
            id: RequestId::None,
            command: Err(RequestError::new(ErrorKind::TooLarge, message)),
        }
    }
}

/// Reads a line. A line that is empty or blank is no request: `None`.
///
/// The depth of nesting is limited to 127 arrays and objects, the outermost included.
pub fn parse(line: &[u8]) -> Option<Request> {
    if line.trim_ascii().is_empty() {
        return None;
    }
    let refused = |id, message: String| {
        Some(Request {
            id,
            command: Err(RequestError::bad_request(message)),
        })
    };
    let Ok(text) = std::str::from_utf8(line) else {
        return refused(RequestId::None, "the line is not UTF-8".into());
    };
    let mut members = match serde_json::from_str::<Value>(text) {
        Ok(Value::Object(members)) => members,
        Ok(_) => return refused(RequestId::None, "the line is no JSON object".into()),
        Err(error) => return refused(rescued_id(text), syntax_message(&error)),
    };
    let id = match RequestId::read(members.remove("id")) {
        Ok(id) => id,
        Err(error) => {
            return Some(Request {
                id: RequestId::None,
                command: Err(error),
            });
        }
    };
    Some(Request {
        id,
        command: read_command(members),
    })
}

/// Says what is wrong without the line number, which is always 1 here.
fn syntax_message(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let what = text
        .rsplit_once(" at line ")
        .map_or(text.as_str(), |(what, _)| what);
    let column = error.column();
    match what {
        "recursion limit exceeded" => {
            format!(
                "the line is nested too deeply at column {column}: 127 arrays and objects at most"
            )
        }
        _ => format!("the line is no JSON: {what} at column {column}"),
    }
}

/// The id of a line that is JSON but nested too deeply for its value to be built: what is passed over is not built.
fn rescued_id(text: &str) -> RequestId {
    #[derive(Deserialize)]
    struct Envelope {
        id: Option<Value>,
    }
    let envelope = serde_json::from_str::<Envelope>(text).ok();
    envelope
        .and_then(|envelope| RequestId::read(envelope.id).ok())
        .unwrap_or_default()
}

impl RequestId {
    fn read(value: Option<Value>) -> Result<RequestId, RequestError> {
        match value {
            None | Some(Value::Null) => Ok(RequestId::None),
            Some(Value::Number(number)) => Ok(RequestId::Number(number)),
            Some(Value::String(text)) if text.len() <= ID_LEN_MAX => Ok(RequestId::Text(text)),
            Some(_) => Err(RequestError::bad_request(format!(
                "`id` must be a number or a text of at most {ID_LEN_MAX} bytes"
            ))),
        }
    }
}

fn read_command(mut members: Map<String, Value>) -> Result<Command, RequestError> {
    let name = match members.remove("cmd") {
        Some(Value::String(name)) => name,
        Some(_) => return Err(RequestError::bad_request("`cmd` must be a text")),
        None => return Err(RequestError::bad_request("`cmd` is missing")),
    };
    let Some(shape) = COMMANDS.iter().find(|shape| shape.name == name) else {
        let known: Vec<&str> = COMMANDS.iter().map(|shape| shape.name).collect();
        let message = format!(
            "`cmd` {} is unknown; known are {}",
            quoted(&name),
            known.join(", ")
        );
        return Err(RequestError::bad_request(message));
    };
    let mut members = Members { shape, members };
    members.refuse_unknown()?;
    match shape.name {
        "id" => Ok(Command::Id),
        "peers" => Ok(Command::Peers),
        "connect" => {
            let addr = members.text("addr")?;
            if addr.len() > ADDR_LEN_MAX {
                let message = format!(
                    "`addr` has {} bytes, {ADDR_LEN_MAX} at most are allowed",
                    addr.len()
                );
                return Err(RequestError::bad_request(message));
            }
            Ok(Command::Connect {
                addr,
                peer_id: members.peer_if_present("peer_id")?,
            })
        }
        "disconnect" => Ok(Command::Disconnect {
            peer: members.peer("peer")?,
        }),
        "send" => Ok(Command::Send {
            to: members.receivers()?,
            kind: members.message_type("type")?,
            data: members.value("data")?,
        }),
        "send_text" => Ok(Command::SendText {
            to: members.receivers()?,
            text: members.text("text")?,
        }),
        "send_bytes" => Ok(Command::SendBytes {
            to: members.receivers()?,
            bytes: members.base64("base64")?,
        }),
        "stats" => Ok(Command::Stats),
        "shutdown" => Ok(Command::Shutdown),
        name if name.starts_with("mdns_") => mdns::read(&mut members).map(Command::Mdns),
        name => {
            let read = peers::read(name, &mut members).map(|read| read.map(Command::Network));
            let read = read.or_else(|| {
                requests::read(name, &mut members).map(|read| read.map(Command::Requests))
            });
            let read =
                read.or_else(|| dht::read(name, &mut members).map(|read| read.map(Command::Dht)));
            read.expect("every name of COMMANDS is handled")
        }
    }
}

/// The members of a command, taken out one by one.
pub(super) struct Members {
    shape: &'static CommandShape,
    members: Map<String, Value>,
}

impl Members {
    /// The name of the command.
    pub(super) fn name(&self) -> &'static str {
        self.shape.name
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.members.contains_key(name)
    }

    fn refuse_unknown(&self) -> Result<(), RequestError> {
        let known = || self.shape.required.iter().chain(self.shape.optional);
        let Some(unknown) = self
            .members
            .keys()
            .find(|name| !known().any(|known| known == name))
        else {
            return Ok(());
        };
        let names: Vec<String> = known().map(|name| format!("`{name}`")).collect();
        let allowed = if names.is_empty() {
            "nothing else".into()
        } else {
            names.join(", ")
        };
        let message = format!(
            "`{}` does not know {}, but {allowed}",
            self.shape.name,
            quoted(unknown)
        );
        Err(RequestError::bad_request(message))
    }

    pub(super) fn value(&mut self, name: &str) -> Result<Value, RequestError> {
        self.members
            .remove(name)
            .ok_or_else(|| RequestError::bad_request(format!("`{name}` is missing")))
    }

    /// `null` is a value, too.
    pub(super) fn value_if_present(&mut self, name: &str) -> Option<Value> {
        self.members.remove(name)
    }

    pub(super) fn text(&mut self, name: &str) -> Result<String, RequestError> {
        match self.value(name)? {
            Value::String(text) => Ok(text),
            other => Err(wrong_type(name, "a text", &other)),
        }
    }

    pub(super) fn message_type(&mut self, name: &str) -> Result<String, RequestError> {
        let text = self.text(name)?;
        if (1..=TYPE_LEN_MAX).contains(&text.len()) {
            return Ok(text);
        }
        let message = format!(
            "`{name}` has {} bytes instead of 1 to {TYPE_LEN_MAX}",
            text.len()
        );
        Err(RequestError::bad_request(message))
    }

    pub(super) fn base64(&mut self, name: &str) -> Result<Vec<u8>, RequestError> {
        BASE64.decode(self.text(name)?.as_bytes()).map_err(|error| {
            let message = format!("`{name}` is not base64 with padding: {error}");
            RequestError::bad_request(message)
        })
    }

    pub(super) fn number(
        &mut self,
        name: &str,
        range: RangeInclusive<u64>,
    ) -> Result<u64, RequestError> {
        let number = match self.value(name)? {
            Value::Number(number) => number,
            other => return Err(wrong_type(name, "a number", &other)),
        };
        let number = number.as_u64().filter(|number| range.contains(number));
        number.ok_or_else(|| {
            let (least, most) = (range.start(), range.end());
            let message = format!("`{name}` must be a whole number from {least} to {most}");
            RequestError::bad_request(message)
        })
    }

    pub(super) fn peer<P>(&mut self, name: &str) -> Result<P, RequestError>
    where
        P: FromStr<Err = ParsePeerIdError>,
    {
        let text = self.text(name)?;
        read_peer(name, &text)
    }

    /// One peer, or a list of them, or all.
    fn receivers(&mut self) -> Result<Receivers, RequestError> {
        let one = self.peer_if_present("peer")?;
        let list = match self.members.remove("peers") {
            None => return Ok(one.map_or(Receivers::All, Receivers::One)),
            Some(Value::Array(list)) => list,
            Some(other) => return Err(wrong_type("peers", "an array", &other)),
        };
        if one.is_some() {
            let message = "`peer` and `peers` do not go together";
            return Err(RequestError::bad_request(message));
        }
        let read = |peer: Value| match peer {
            Value::String(text) => read_peer("peers", &text),
            other => Err(wrong_type("peers", "an array of texts", &other)),
        };
        let peers: Result<_, _> = list.into_iter().map(read).collect();
        peers.map(Receivers::Each)
    }

    /// A member that is `null` is not taken for an absent one: a program that has no peer in hand must not reach all.
    pub(super) fn peer_if_present<P>(&mut self, name: &str) -> Result<Option<P>, RequestError>
    where
        P: FromStr<Err = ParsePeerIdError>,
    {
        match self.has(name) {
            true => self.peer(name).map(Some),
            false => Ok(None),
        }
    }
}

fn read_peer<P>(name: &str, text: &str) -> Result<P, RequestError>
where
    P: FromStr<Err = ParsePeerIdError>,
{
    text.parse().map_err(|error| {
        RequestError::bad_request(format!("`{name}` {} is no peer: {error}", quoted(text)))
    })
}

fn wrong_type(name: &str, wanted: &str, found: &Value) -> RequestError {
    let found = match found {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    };
    RequestError::bad_request(format!("`{name}` must be {wanted}, not {found}"))
}

/// The beginning of a text that came in, for an error message.
fn quoted(text: &str) -> String {
    const SHOWN_MAX: usize = 40;
    match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("`{}…`", &text[..end]),
        None => format!("`{text}`"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse_text(line: &str) -> Request {
        parse(line.as_bytes()).expect("the line is not blank")
    }

    #[track_caller]
    fn check(line: &str, want: Command) {
        let request = parse_text(line);
        assert_eq!(request.command, Ok(want));
    }

    #[track_caller]
    fn check_refused(line: &str, want_id: Value, want_message: &str) {
        let request = parse_text(line);
        let error = request.command.expect_err("the line is refused");
        assert_eq!(error.kind, ErrorKind::BadRequest);
        assert!(error.message.contains(want_message), "{:?}", error.message);
        assert_eq!(
            serde_json::to_value(request.id).expect("an id is JSON"),
            want_id
        );
    }

    const WHOLE_ID: &str = "mfrggzdfmztwq2lknnwg23tpobyxe43uov3ho6dzpiydcmrtgq2a";

    fn name(text: &str) -> PeerIdPrefix {
        text.parse().expect("it is the beginning of an id")
    }

    #[test]
    fn every_command_is_read() {
        check(r#"{"cmd":"id"}"#, Command::Id);
        check(r#" {"id":1,"cmd":"peers"} "#, Command::Peers);
        let addr = "[::1]:9000".to_owned();
        check(
            r#"{"cmd":"connect","addr":"[::1]:9000"}"#,
            Command::Connect {
                addr: addr.clone(),
                peer_id: None,
            },
        );
        check(
            &format!(
                r#"{{"cmd":"connect","addr":"[::1]:9000","peer_id":"{}"}}"#,
                WHOLE_ID.to_uppercase()
            ),
            Command::Connect {
                addr,
                peer_id: Some(WHOLE_ID.parse().expect("it is an id")),
            },
        );
        check(
            r#"{"cmd":"disconnect","peer":"abc"}"#,
            Command::Disconnect { peer: name("abc") },
        );
        check(
            r#"{"cmd":"send","type":"chat","data":{"text":[1,null]}}"#,
            Command::Send {
                to: Receivers::All,
                kind: "chat".into(),
                data: json!({"text": [1, null]}),
            },
        );
        check(
            r#"{"cmd":"send","peer":"abc","type":"chat","data":null}"#,
            Command::Send {
                to: Receivers::One(name("abc")),
                kind: "chat".into(),
                data: Value::Null,
            },
        );
        check(
            r#"{"cmd":"send_text","peer":"abc","text":""}"#,
            Command::SendText {
                to: Receivers::One(name("abc")),
                text: String::new(),
            },
        );
        check(
            r#"{"cmd":"send_bytes","base64":"AP8="}"#,
            Command::SendBytes {
                to: Receivers::All,
                bytes: vec![0, 255],
            },
        );
        check(
            r#"{"cmd":"send_text","peers":["abc","b"],"text":"x"}"#,
            Command::SendText {
                to: Receivers::Each(vec![name("abc"), name("b")]),
                text: "x".into(),
            },
        );
        check(r#"{"cmd":"stats"}"#, Command::Stats);
        check(r#"{"cmd":"shutdown"}"#, Command::Shutdown);
    }

    /// A value that a member takes.
    fn fitting(name: &str) -> String {
        match name {
            "port" | "request" | "timeout_ms" => "7".into(),
            "txt" => "{}".into(),
            _ => format!("\"{WHOLE_ID}\""),
        }
    }

    #[test]
    fn every_shape_is_complete() {
        // Members of the DHT's exclude each other; its own file tests them.
        let all = COMMANDS
            .iter()
            .filter(|shape| !shape.name.starts_with("dht_"));
        for shape in all {
            let member = |name: &&str| format!(r#""{name}":{}"#, fitting(name));
            let mut members: Vec<String> = vec![format!(r#""cmd":"{}""#, shape.name)];
            members.extend(shape.required.iter().map(member));
            // Of two that do not go together the first is enough here.
            let optional = shape.optional.iter().filter(|name| **name != "peers");
            members.extend(optional.map(member));
            let whole = format!("{{{}}}", members.join(","));
            // Optional members that are no texts, or that exclude each other, are tested in `peers.rs`.
            if !["protect", "ban", "unban"].contains(&shape.name) {
                assert!(parse_text(&whole).command.is_ok(), "{whole}");
            }
            for missing in 0..shape.required.len() {
                let mut fewer = members.clone();
                fewer.remove(1 + missing);
                let want = format!("`{}` is missing", shape.required[missing]);
                check_refused(&format!("{{{}}}", fewer.join(",")), Value::Null, &want);
            }
            let more = format!(r#"{{{},"x":1}}"#, members.join(","));
            check_refused(&more, Value::Null, "does not know `x`");
        }
    }

    #[test]
    fn ids_are_repeated() {
        for (id, want) in [
            ("1", json!(1)),
            ("-1.5", json!(-1.5)),
            ("18446744073709551615", json!(u64::MAX)),
            (r#""a""#, json!("a")),
            ("null", Value::Null),
        ] {
            check_refused(
                &format!(r#"{{"id":{id},"cmd":"x"}}"#),
                want,
                "`cmd` `x` is unknown",
            );
        }
        let long = "x".repeat(257);
        for id in ["[1]", "{}", "true", &format!("\"{long}\"")] {
            check_refused(
                &format!(r#"{{"id":{id},"cmd":"id"}}"#),
                Value::Null,
                "`id` must be a number",
            );
        }
    }

    #[test]
    fn wrong_members_are_named() {
        for (line, want) in [
            (r#"{"id":7}"#, "`cmd` is missing"),
            (r#"{"id":7,"cmd":1}"#, "`cmd` must be a text"),
            (
                r#"{"id":7,"cmd":"connect","addr":1}"#,
                "`addr` must be a text, not a number",
            ),
            (
                r#"{"id":7,"cmd":"connect","addr":"a:1","peer_id":null}"#,
                "`peer_id` must be a text, not null",
            ),
            (
                r#"{"id":7,"cmd":"connect","addr":"a:1","peer_id":"abc"}"#,
                "`peer_id` `abc` is no peer: a peer id has 52",
            ),
            (
                r#"{"id":7,"cmd":"connect","addr":"a:1","peerid":"a"}"#,
                "does not know `peerid`",
            ),
            (
                r#"{"id":7,"cmd":"send_text","peer":null,"text":"a"}"#,
                "`peer` must be a text, not null",
            ),
            (
                r#"{"id":7,"cmd":"send_text","peer":"a","peers":["a"],"text":"a"}"#,
                "`peer` and `peers` do not go together",
            ),
            (
                r#"{"id":7,"cmd":"send_text","peers":"abc","text":"a"}"#,
                "`peers` must be an array, not a text",
            ),
            (
                r#"{"id":7,"cmd":"send_text","peers":["abc",1],"text":"a"}"#,
                "`peers` must be an array of texts, not a number",
            ),
            (
                r#"{"id":7,"cmd":"send_text","peers":["a b"],"text":"a"}"#,
                "`peers` `a b` is no peer",
            ),
            (
                r#"{"id":7,"cmd":"disconnect","peer":"a b"}"#,
                "`peer` `a b` is no peer: ",
            ),
            (
                r#"{"id":7,"cmd":"send","type":"","data":1}"#,
                "`type` has 0 bytes instead of 1 to 128",
            ),
            (
                r#"{"id":7,"cmd":"send_bytes","base64":"AP8"}"#,
                "`base64` is not base64",
            ),
            (
                r#"{"id":7,"cmd":"send_bytes","base64":"A P8"}"#,
                "`base64` is not base64",
            ),
            (
                r#"{"id":7,"cmd":"send_text","text":["a"]}"#,
                "`text` must be a text, not an array",
            ),
        ] {
            check_refused(line, json!(7), want);
        }
        let type_at_limit = "t".repeat(TYPE_LEN_MAX);
        let line = format!(r#"{{"id":7,"cmd":"send","type":"{type_at_limit}","data":1}}"#);
        assert!(parse_text(&line).command.is_ok());
        for len in [129, 1_000_000] {
            let line = format!(
                r#"{{"id":7,"cmd":"send","type":"{}","data":1}}"#,
                "t".repeat(len)
            );
            check_refused(&line, json!(7), &format!("`type` has {len} bytes"));
            let line = format!(
                r#"{{"id":7,"cmd":"connect","addr":"{}"}}"#,
                "t".repeat(3 * len)
            );
            check_refused(&line, json!(7), "`addr` has");
            let line = format!(r#"{{"id":7,"cmd":"{}"}}"#, "t".repeat(len));
            check_refused(&line, json!(7), "`cmd` `tttt");
        }
    }

    #[test]
    fn what_is_no_json_object_gets_a_null_id() {
        for (line, want) in [
            ("hello", "no JSON: expected value at column 1"),
            (
                r#"{"id":1,"cmd":"id""#,
                "no JSON: EOF while parsing an object",
            ),
            (r#"{"id":1,"cmd":"id"} x"#, "no JSON: trailing characters"),
            ("[1]", "no JSON object"),
            ("1", "no JSON object"),
            ("\u{FEFF}{}", "no JSON"),
        ] {
            check_refused(line, Value::Null, want);
        }
        let request = parse(b"{\"id\":1,\"cmd\":\"\xFF\"}").expect("the line is not blank");
        assert!(
            request
                .command
                .expect_err("it is refused")
                .message
                .contains("not UTF-8")
        );
    }

    #[test]
    fn blank_lines_are_no_requests() {
        for line in ["", " ", "\t\r"] {
            assert_eq!(parse(line.as_bytes()), None);
        }
    }

    #[test]
    fn deep_nesting_is_refused_with_its_id() {
        let deep = |depth: usize| {
            let (open, close) = ("[".repeat(depth), "]".repeat(depth));
            format!(r#"{{"cmd":"send","type":"t","data":{open}{close},"id":5}}"#)
        };
        assert!(parse_text(&deep(126)).command.is_ok());
        for depth in [127, 1_000, 100_000] {
            check_refused(&deep(depth), json!(5), "nested too deeply");
        }
        check_refused(&"[".repeat(100_000), Value::Null, "nested too deeply");
        check_refused(
            &r#"{"id":"#.repeat(100_000),
            Value::Null,
            "nested too deeply",
        );
    }
}
