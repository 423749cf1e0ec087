//! KRPC: the messages of the DHT as bytes and as types (BEP 5, 32, 33, 43, 44, 51). No state, no clock.

use std::net::SocketAddr;

use super::address::{Contact, Family, read_compact, read_nodes, write_compact};
use super::bencode::{self, BencodeError, Value, Writer};
use super::node_id::NodeId;

/// The longest transaction id that is echoed. Ours have 4 bytes, those of others 2 to 8.
pub const TRANSACTION_BYTES_MAX: usize = 32;

/// The longest write token that is kept and sent back.
pub const TOKEN_BYTES_MAX: usize = 64;

/// Bytes of a bloom filter (BEP 33).
pub const BLOOM_BYTES: usize = 256;

/// Shorter datagrams are no messages: `d1:y1:qe` and what must stand beside it has more.
pub const DATAGRAM_BYTES_MIN: usize = 20;

/// Who speaks: two letters of the program and a version (BEP 20 lists them for torrent clients).
const VERSION: &[u8] = b"mf\x00\x01";

/// Codes of errors (BEP 5 and 44).
pub mod code {
    /// Something else.
    pub const GENERIC: i64 = 201;
    /// The node cannot do it now.
    pub const SERVER: i64 = 202;
    /// Malformed, invalid arguments, or a bad token.
    pub const PROTOCOL: i64 = 203;
    /// The method is unknown.
    pub const METHOD_UNKNOWN: i64 = 204;
    /// The value is longer than 1000 bytes.
    pub const VALUE_TOO_BIG: i64 = 205;
    /// The signature does not hold.
    pub const SIGNATURE: i64 = 206;
    /// The salt is longer than 64 bytes.
    pub const SALT_TOO_BIG: i64 = 207;
    /// The stored sequence number is not the one expected.
    pub const CAS_MISMATCH: i64 = 301;
    /// The sequence number is less than the stored one, or the same with another value.
    pub const SEQUENCE: i64 = 302;
}

/// Of which families nodes are asked for (BEP 32, `want`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Want {
    /// `nodes`.
    pub v4: bool,
    /// `nodes6`.
    pub v6: bool,
}

impl Want {
    /// Both families.
    pub const BOTH: Want = Want { v4: true, v6: true };

    fn read(value: Option<Value<'_>>) -> Option<Want> {
        let mut want = Want::default();
        for item in value?.items() {
            want.v4 |= item.bytes() == Some(b"n4");
            want.v6 |= item.bytes() == Some(b"n6");
        }
        (want != Want::default()).then_some(want)
    }

    fn write(want: Option<Want>, writer: &mut Writer) {
        let Some(want) = want else { return };
        writer.bytes(b"want").list();
        if want.v4 {
            writer.bytes(b"n4");
        }
        if want.v6 {
            writer.bytes(b"n6");
        }
        writer.end();
    }
}

/// What makes a put a mutable one (BEP 44).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signed<'a> {
    /// The public key.
    pub key: &'a [u8; 32],
    /// Part of the target; empty if there is none.
    pub salt: &'a [u8],
    /// The sequence number.
    pub seq: i64,
    /// Over salt, sequence number and value.
    pub signature: &'a [u8; 64],
    /// The sequence number that the value to be replaced must have.
    pub cas: Option<i64>,
}

/// What one node asks another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Query<'a> {
    /// Are you there?
    Ping,
    /// Nodes near a place.
    FindNode {
        /// The place.
        target: NodeId,
        /// Of which families; `None`: of the datagram's own.
        want: Option<Want>,
    },
    /// Peers of an info hash, and nodes near it.
    GetPeers {
        /// The info hash.
        info_hash: NodeId,
        /// Families of the nodes.
        want: Option<Want>,
        /// Rather peers that are not seeds (BEP 33).
        noseed: bool,
        /// The bloom filters too (BEP 33).
        scrape: bool,
    },
    /// The sender is a peer of an info hash.
    AnnouncePeer {
        /// The info hash.
        info_hash: NodeId,
        /// The peer's port.
        port: u16,
        /// The peer's port is the datagram's.
        implied_port: bool,
        /// It is a seed (BEP 33).
        seed: bool,
        /// From an answer to [`Query::GetPeers`].
        token: &'a [u8],
    },
    /// An item (BEP 44).
    Get {
        /// Its target.
        target: NodeId,
        /// Only if its sequence number is greater.
        seq: Option<i64>,
        /// Families of the nodes.
        want: Option<Want>,
    },
    /// Store an item (BEP 44).
    Put {
        /// From an answer to [`Query::Get`].
        token: &'a [u8],
        /// The value, bencoded, verbatim.
        value: &'a [u8],
        /// `None`: immutable.
        signed: Option<Signed<'a>>,
    },
    /// Which info hashes do you have? (BEP 51)
    SampleInfohashes {
        /// Where the nodes in the answer are to be near to.
        target: NodeId,
        /// Families of the nodes.
        want: Option<Want>,
    },
}

impl Query<'_> {
    /// The method's name on the wire.
    pub fn method(&self) -> &'static str {
        match self {
            Query::Ping => "ping",
            Query::FindNode { .. } => "find_node",
            Query::GetPeers { .. } => "get_peers",
            Query::AnnouncePeer { .. } => "announce_peer",
            Query::Get { .. } => "get",
            Query::Put { .. } => "put",
            Query::SampleInfohashes { .. } => "sample_infohashes",
        }
    }
}

/// What a node answers. Which parts are there depends on the question.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Response<'a> {
    /// The answering node.
    pub id: NodeId,
    /// Compact IPv4 nodes.
    pub nodes: Option<&'a [u8]>,
    /// Compact IPv6 nodes.
    pub nodes6: Option<&'a [u8]>,
    /// A bencoded list of compact peers.
    pub values: Option<&'a [u8]>,
    /// Needed to store something.
    pub token: Option<&'a [u8]>,
    /// A stored value, bencoded, verbatim.
    pub value: Option<&'a [u8]>,
    /// The key of a mutable item.
    pub key: Option<&'a [u8; 32]>,
    /// Its signature.
    pub signature: Option<&'a [u8; 64]>,
    /// Its sequence number.
    pub seq: Option<i64>,
    /// Info hashes, one after another.
    pub samples: Option<&'a [u8]>,
    /// How many info hashes the node has.
    pub num: Option<i64>,
    /// Seconds until it has other samples.
    pub interval: Option<i64>,
    /// The bloom filter of seeds.
    pub bloom_seeds: Option<&'a [u8; BLOOM_BYTES]>,
    /// The bloom filter of other peers.
    pub bloom_peers: Option<&'a [u8; BLOOM_BYTES]>,
}

impl<'a> Response<'a> {
    /// The nodes of one family.
    pub fn contacts(&self, family: Family) -> impl Iterator<Item = Contact> + 'a {
        let bytes = match family {
            Family::V4 => self.nodes,
            Family::V6 => self.nodes6,
        };
        read_nodes(bytes.unwrap_or_default(), family)
    }

    /// The peers, of either family.
    pub fn peers(&self) -> impl Iterator<Item = SocketAddr> + 'a {
        let list = self.values.and_then(|values| bencode::decode(values).ok());
        let items = list.into_iter().flat_map(Value::items);
        items.filter_map(|item| read_compact(item.bytes()?))
    }

    fn read(body: Value<'a>) -> Option<Response<'a>> {
        let bytes = |key: &[u8]| body.get(key).and_then(Value::bytes);
        let int = |key: &[u8]| body.get(key).and_then(Value::int);
        Some(Response {
            id: NodeId(*body.get(b"id")?.array()?),
            nodes: bytes(b"nodes"),
            nodes6: bytes(b"nodes6"),
            values: body
                .get(b"values")
                .filter(|list| list.is_list())
                .map(Value::raw),
            token: bytes(b"token").filter(|token| token.len() <= TOKEN_BYTES_MAX),
            value: body.get(b"v").map(Value::raw),
            key: body.get(b"k").and_then(Value::array),
            signature: body.get(b"sig").and_then(Value::array),
            seq: int(b"seq"),
            samples: bytes(b"samples"),
            num: int(b"num"),
            interval: int(b"interval"),
            bloom_seeds: body.get(b"BFsd").and_then(Value::array),
            bloom_peers: body.get(b"BFpe").and_then(Value::array),
        })
    }
}

/// The three kinds of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body<'a> {
    /// A question.
    Query {
        /// Who asks.
        id: NodeId,
        /// It may not be asked itself (BEP 43).
        read_only: bool,
        /// What.
        query: Query<'a>,
    },
    /// An answer.
    Response(Response<'a>),
    /// A refusal.
    Error {
        /// Which, see [`code`].
        code: i64,
        /// In words.
        text: &'a [u8],
    },
}

/// A message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Chosen by who asks, repeated by who answers.
    pub transaction: &'a [u8],
    /// Our address as the answering node sees it (BEP 42).
    pub ip: Option<SocketAddr>,
    /// The kind.
    pub body: Body<'a>,
}

/// Why a datagram is no message that can be handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError<'a> {
    /// No bencode.
    #[error("{0}")]
    Bencode(#[from] BencodeError),
    /// Bencode, but no message: nobody can be answered.
    #[error("no message of the DHT")]
    NoMessage,
    /// A query that has to be answered with an error.
    #[error("a query that is refused with {code}: {text}")]
    BadQuery {
        /// Its transaction.
        transaction: &'a [u8],
        /// The code for the answer.
        code: i64,
        /// The words for the answer.
        text: &'static str,
    },
}

/// Reads a datagram.
pub fn decode(bytes: &[u8]) -> Result<Message<'_>, MessageError<'_>> {
    let root = bencode::decode(bytes)?;
    let transaction = root.get(b"t").and_then(Value::bytes);
    let transaction = transaction
        .filter(|transaction| transaction.len() <= TRANSACTION_BYTES_MAX)
        .ok_or(MessageError::NoMessage)?;
    let ip = root
        .get(b"ip")
        .and_then(Value::bytes)
        .and_then(read_compact);
    let body = match root.get(b"y").and_then(Value::bytes) {
        Some(b"q") => {
            let refuse = |(code, text)| MessageError::BadQuery {
                transaction,
                code,
                text,
            };
            let (id, query) = read_query(root).map_err(refuse)?;
            let read_only = root.get(b"ro").and_then(Value::int) == Some(1);
            Body::Query {
                id,
                read_only,
                query,
            }
        }
        Some(b"r") => {
            let body = root.get(b"r").and_then(Response::read);
            Body::Response(body.ok_or(MessageError::NoMessage)?)
        }
        Some(b"e") => {
            let mut items = root.get(b"e").ok_or(MessageError::NoMessage)?.items();
            Body::Error {
                code: items.next().and_then(Value::int).unwrap_or(code::GENERIC),
                text: items.next().and_then(Value::bytes).unwrap_or_default(),
            }
        }
        _ => return Err(MessageError::NoMessage),
    };
    Ok(Message {
        transaction,
        ip,
        body,
    })
}

type Refusal = (i64, &'static str);

fn read_query(root: Value<'_>) -> Result<(NodeId, Query<'_>), Refusal> {
    let missing = |text| (code::PROTOCOL, text);
    let args = root.get(b"a").filter(|args| args.is_dict());
    let args = args.ok_or(missing("missing 'a'"))?;
    let id = |key: &[u8]| args.get(key).and_then(Value::array).map(|id| NodeId(*id));
    let int = |key: &[u8]| args.get(key).and_then(Value::int);
    let flag = |key: &[u8]| int(key).is_some_and(|number| number != 0);
    let token = || {
        let token = args.get(b"token").and_then(Value::bytes);
        token.ok_or(missing("missing 'token'"))
    };
    let own = id(b"id").ok_or(missing("missing 'id'"))?;
    let want = Want::read(args.get(b"want"));
    let target = || id(b"target").ok_or(missing("missing 'target'"));
    let info_hash = || id(b"info_hash").ok_or(missing("missing 'info_hash'"));
    let method = root.get(b"q").and_then(Value::bytes);
    let query = match method.ok_or(missing("missing 'q'"))? {
        b"ping" => Query::Ping,
        b"find_node" => Query::FindNode {
            target: target()?,
            want,
        },
        b"get_peers" => Query::GetPeers {
            info_hash: info_hash()?,
            want,
            noseed: flag(b"noseed"),
            scrape: flag(b"scrape"),
        },
        b"announce_peer" => {
            let implied_port = flag(b"implied_port");
            let port = int(b"port").and_then(|port| u16::try_from(port).ok());
            let port = match (port, implied_port) {
                (Some(port), true) => port,
                (None, true) => 0,
                (Some(port), false) if port != 0 => port,
                _ => return Err(missing("invalid 'port'")),
            };
            Query::AnnouncePeer {
                info_hash: info_hash()?,
                port,
                implied_port,
                seed: flag(b"seed"),
                token: token()?,
            }
        }
        b"get" => Query::Get {
            target: target()?,
            seq: int(b"seq"),
            want,
        },
        b"put" => Query::Put {
            token: token()?,
            value: args.get(b"v").ok_or(missing("missing 'v'"))?.raw(),
            signed: read_signed(args)?,
        },
        b"sample_infohashes" => Query::SampleInfohashes {
            target: target()?,
            want,
        },
        // A method of the future that names a place is answered with the nodes near it, as libtorrent does.
        _ => match id(b"target").or_else(|| id(b"info_hash")) {
            Some(target) => Query::FindNode { target, want },
            None => return Err((code::METHOD_UNKNOWN, "method unknown")),
        },
    };
    Ok((own, query))
}

/// A put is mutable as soon as it has a key.
fn read_signed(args: Value<'_>) -> Result<Option<Signed<'_>>, Refusal> {
    let Some(key) = args.get(b"k") else {
        return Ok(None);
    };
    let invalid = |text| (code::PROTOCOL, text);
    let int = |key: &[u8]| {
        args.get(key)
            .map(|value| value.int().ok_or(invalid("not a number")))
    };
    Ok(Some(Signed {
        key: key.array().ok_or(invalid("invalid 'k'"))?,
        salt: match args.get(b"salt") {
            Some(salt) => salt.bytes().ok_or(invalid("invalid 'salt'"))?,
            None => &[],
        },
        seq: int(b"seq").ok_or(invalid("missing 'seq'"))??,
        signature: args
            .get(b"sig")
            .and_then(Value::array)
            .ok_or(invalid("invalid 'sig'"))?,
        cas: int(b"cas").transpose()?,
    }))
}

/// Writes a query.
pub fn encode_query(
    transaction: &[u8],
    id: &NodeId,
    read_only: bool,
    query: &Query<'_>,
) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.dict().bytes(b"a").dict();
    if let Query::Put {
        signed: Some(Signed { cas: Some(cas), .. }),
        ..
    } = query
    {
        writer.bytes(b"cas").int(*cas);
    }
    writer.bytes(b"id").bytes(&id.0);
    write_args(query, &mut writer);
    writer.end().bytes(b"q").bytes(query.method().as_bytes());
    if read_only {
        writer.bytes(b"ro").int(1);
    }
    writer.bytes(b"t").bytes(transaction);
    writer.bytes(b"v").bytes(VERSION);
    writer.bytes(b"y").bytes(b"q").end();
    writer.finish()
}

/// The arguments after `id`, in the order of their names.
fn write_args(query: &Query<'_>, writer: &mut Writer) {
    match query {
        Query::Ping => {}
        Query::FindNode { target, want } | Query::SampleInfohashes { target, want } => {
            writer.bytes(b"target").bytes(&target.0);
            Want::write(*want, writer);
        }
        Query::GetPeers {
            info_hash,
            want,
            noseed,
            scrape,
        } => {
            writer.bytes(b"info_hash").bytes(&info_hash.0);
            if *noseed {
                writer.bytes(b"noseed").int(1);
            }
            if *scrape {
                writer.bytes(b"scrape").int(1);
            }
            Want::write(*want, writer);
        }
        Query::AnnouncePeer {
            info_hash,
            port,
            implied_port,
            seed,
            token,
        } => {
            if *implied_port {
                writer.bytes(b"implied_port").int(1);
            }
            writer.bytes(b"info_hash").bytes(&info_hash.0);
            writer.bytes(b"port").int(i64::from(*port));
            if *seed {
                writer.bytes(b"seed").int(1);
            }
            writer.bytes(b"token").bytes(token);
        }
        Query::Get { target, seq, want } => {
            if let Some(seq) = seq {
                writer.bytes(b"seq").int(*seq);
            }
            writer.bytes(b"target").bytes(&target.0);
            Want::write(*want, writer);
        }
        Query::Put {
            token,
            value,
            signed,
        } => {
            if let Some(signed) = signed {
                writer.bytes(b"k").bytes(signed.key);
                if !signed.salt.is_empty() {
                    writer.bytes(b"salt").bytes(signed.salt);
                }
                writer.bytes(b"seq").int(signed.seq);
                writer.bytes(b"sig").bytes(signed.signature);
            }
            writer.bytes(b"token").bytes(token);
            writer.bytes(b"v").raw(value);
        }
    }
}

/// Writes an answer. `ip` is the address of who asked (BEP 42).
pub fn encode_response(transaction: &[u8], ip: SocketAddr, response: &Response<'_>) -> Vec<u8> {
    let mut writer = Writer::new();
    begin_answer(&mut writer, ip);
    writer.bytes(b"r").dict();
    let bytes = |writer: &mut Writer, key: &[u8], value: Option<&[u8]>| {
        if let Some(value) = value {
            writer.bytes(key).bytes(value);
        }
    };
    let int = |writer: &mut Writer, key: &[u8], value: Option<i64>| {
        if let Some(value) = value {
            writer.bytes(key).int(value);
        }
    };
    let raw = |writer: &mut Writer, key: &[u8], value: Option<&[u8]>| {
        if let Some(value) = value {
            writer.bytes(key).raw(value);
        }
    };
    let w = &mut writer;
    bytes(w, b"BFpe", response.bloom_peers.map(|filter| &filter[..]));
    bytes(w, b"BFsd", response.bloom_seeds.map(|filter| &filter[..]));
    bytes(w, b"id", Some(&response.id.0));
    int(w, b"interval", response.interval);
    bytes(w, b"k", response.key.map(|key| &key[..]));
    bytes(w, b"nodes", response.nodes);
    bytes(w, b"nodes6", response.nodes6);
    int(w, b"num", response.num);
    bytes(w, b"samples", response.samples);
    int(w, b"seq", response.seq);
    bytes(
        w,
        b"sig",
        response.signature.map(|signature| &signature[..]),
    );
    bytes(w, b"token", response.token);
    raw(w, b"v", response.value);
    raw(w, b"values", response.values);
    writer.end();
    end_answer(writer, transaction, b"r")
}

/// Writes a refusal.
pub fn encode_error(transaction: &[u8], ip: SocketAddr, code: i64, text: &str) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.dict();
    writer
        .bytes(b"e")
        .list()
        .int(code)
        .bytes(text.as_bytes())
        .end();
    write_ip(&mut writer, ip);
    end_answer(writer, transaction, b"e")
}

fn begin_answer(writer: &mut Writer, ip: SocketAddr) {
    writer.dict();
    write_ip(writer, ip);
}

fn write_ip(writer: &mut Writer, ip: SocketAddr) {
    let mut compact = Vec::with_capacity(18);
    write_compact(ip, &mut compact);
    writer.bytes(b"ip").bytes(&compact);
}

fn end_answer(mut writer: Writer, transaction: &[u8], kind: &[u8]) -> Vec<u8> {
    writer.bytes(b"t").bytes(transaction);
    writer.bytes(b"v").bytes(VERSION);
    writer.bytes(b"y").bytes(kind).end();
    writer.finish()
}
