//! The commands and answers about the DHT.

use std::net::SocketAddr;

use data_encoding::HEXLOWER_PERMISSIVE;
use mischief_actors::dht::NodeId;
use serde::Serialize;
use serde_json::Value;

use super::command::{CommandShape, Members};
use super::error::RequestError;

/// The longest time that `dht_find` looks, in seconds.
const SECONDS_MAX: u64 = 600;

/// What is asked of the DHT.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Look for peers.
    Find {
        /// Of what.
        info_hash: NodeId,
        /// For how long; `None` is until all have been asked.
        seconds: Option<u64>,
    },
    /// Announce a peer on this machine.
    Announce {
        /// Of what.
        info_hash: NodeId,
        /// At which port; `None` is the node's own.
        port: Option<u16>,
    },
    /// Store something.
    Put {
        /// The bytes.
        value: Vec<u8>,
        /// Makes it mutable.
        secret_key: Option<[u8; 32]>,
        /// Tells items of one key apart.
        salt: Vec<u8>,
        /// The sequence number.
        seq: Option<i64>,
        /// The sequence number of what is replaced.
        cas: Option<i64>,
    },
    /// Get what is stored at a target.
    Get {
        /// Where.
        target: NodeId,
    },
    /// Get what the owner of a key has stored.
    GetMutable {
        /// The key.
        public_key: [u8; 32],
        /// Tells items of one key apart.
        salt: Vec<u8>,
    },
    /// Count peers.
    Scrape {
        /// Of what.
        info_hash: NodeId,
    },
    /// Collect info hashes.
    Sample {
        /// Near what; `None` is anywhere.
        target: Option<NodeId>,
    },
    /// Tell figures.
    Stats,
    /// List the nodes of the routing tables.
    Nodes,
}

pub(super) const COMMANDS: &[CommandShape] = &[
    CommandShape {
        name: "dht_find",
        required: &[],
        optional: &["hash", "name", "seconds"],
        answers: &[&["peers"]],
    },
    CommandShape {
        name: "dht_announce",
        required: &[],
        optional: &["hash", "name", "port"],
        answers: &[&["stored"]],
    },
    CommandShape {
        name: "dht_put",
        required: &[],
        optional: &["value", "base64", "secret_key", "salt", "seq", "cas"],
        answers: &[
            &["target", "stored", "rejected"],
            &["target", "stored", "rejected", "public_key", "seq"],
        ],
    },
    CommandShape {
        name: "dht_get",
        required: &[],
        optional: &["target", "public_key", "salt"],
        answers: &[
            &["value"],
            &["base64"],
            &["bencoded"],
            &["value", "seq"],
            &["base64", "seq"],
            &["bencoded", "seq"],
        ],
    },
    CommandShape {
        name: "dht_scrape",
        required: &[],
        optional: &["hash", "name"],
        answers: &[&["seeds", "peers", "nodes"]],
    },
    CommandShape {
        name: "dht_sample",
        required: &[],
        optional: &["target"],
        answers: &[&["samples", "nodes", "total"]],
    },
    CommandShape {
        name: "dht_stats",
        required: &[],
        optional: &[],
        answers: &[&["nodes", "stats"]],
    },
    CommandShape {
        name: "dht_nodes",
        required: &[],
        optional: &[],
        answers: &[&["nodes"]],
    },
];

/// Reads a command of this file; `None` if it is not one.
pub(super) fn read(name: &str, members: &mut Members) -> Option<Result<Command, RequestError>> {
    Some(match name {
        "dht_find" => read_find(members),
        "dht_announce" => read_announce(members),
        "dht_put" => read_put(members),
        "dht_get" => read_get(members),
        "dht_scrape" => hash(members).map(|info_hash| Command::Scrape { info_hash }),
        "dht_sample" => optional(members, "target", id).map(|target| Command::Sample { target }),
        "dht_stats" => Ok(Command::Stats),
        "dht_nodes" => Ok(Command::Nodes),
        _ => return None,
    })
}

fn read_find(members: &mut Members) -> Result<Command, RequestError> {
    Ok(Command::Find {
        info_hash: hash(members)?,
        seconds: optional(members, "seconds", |members, name| {
            members.number(name, 1..=SECONDS_MAX)
        })?,
    })
}

fn read_announce(members: &mut Members) -> Result<Command, RequestError> {
    let port = |members: &mut Members, name: &str| members.number(name, 1..=u64::from(u16::MAX));
    Ok(Command::Announce {
        info_hash: hash(members)?,
        port: optional(members, "port", port)?.map(|port| port as u16),
    })
}

fn read_put(members: &mut Members) -> Result<Command, RequestError> {
    let value = match one_of(members, "value", "base64")? {
        "value" => members.text("value")?.into_bytes(),
        _ => members.base64("base64")?,
    };
    let number = |members: &mut Members, name: &str| members.number(name, 0..=i64::MAX as u64);
    let command = Command::Put {
        value,
        secret_key: optional(members, "secret_key", key)?,
        salt: salt(members)?,
        seq: optional(members, "seq", number)?.map(|seq| seq as i64),
        cas: optional(members, "cas", number)?.map(|cas| cas as i64),
    };
    match &command {
        Command::Put {
            secret_key: None,
            salt,
            seq,
            cas,
            ..
        } if !salt.is_empty() || seq.is_some() || cas.is_some() => {
            let message = "`salt`, `seq` and `cas` need a `secret_key`";
            Err(RequestError::bad_request(message))
        }
        _ => Ok(command),
    }
}

fn read_get(members: &mut Members) -> Result<Command, RequestError> {
    match one_of(members, "target", "public_key")? {
        "target" if members.has("salt") => {
            Err(RequestError::bad_request("`salt` needs a `public_key`"))
        }
        "target" => id(members, "target").map(|target| Command::Get { target }),
        _ => Ok(Command::GetMutable {
            public_key: key(members, "public_key")?,
            salt: salt(members)?,
        }),
    }
}

/// Which of the two is there; exactly one has to be.
fn one_of<'a>(members: &Members, first: &'a str, second: &'a str) -> Result<&'a str, RequestError> {
    match (members.has(first), members.has(second)) {
        (true, false) => Ok(first),
        (false, true) => Ok(second),
        _ => {
            let message = format!("either `{first}` or `{second}` must be there");
            Err(RequestError::bad_request(message))
        }
    }
}

fn optional<T>(
    members: &mut Members,
    name: &str,
    read: impl FnOnce(&mut Members, &str) -> Result<T, RequestError>,
) -> Result<Option<T>, RequestError> {
    match members.has(name) {
        true => read(members, name).map(Some),
        false => Ok(None),
    }
}

/// An info hash, or the name whose SHA-1 it is.
fn hash(members: &mut Members) -> Result<NodeId, RequestError> {
    match one_of(members, "hash", "name")? {
        "hash" => id(members, "hash"),
        _ => Ok(NodeId::sha1(&[members.text("name")?.as_bytes()])),
    }
}

fn id(members: &mut Members, name: &str) -> Result<NodeId, RequestError> {
    members
        .text(name)?
        .parse()
        .map_err(|error| RequestError::bad_request(format!("`{name}` is no id: {error}")))
}

fn key(members: &mut Members, name: &str) -> Result<[u8; 32], RequestError> {
    let text = members.text(name)?;
    let bytes = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok();
    let key = bytes.and_then(|bytes| bytes.try_into().ok());
    key.ok_or_else(|| RequestError::bad_request(format!("`{name}` must be 64 hexadecimal digits")))
}

fn salt(members: &mut Members) -> Result<Vec<u8>, RequestError> {
    let salt = optional(members, "salt", |members, name| members.text(name))?;
    Ok(salt.unwrap_or_default().into_bytes())
}

/// What a good answer about the DHT carries.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Answer {
    /// To `dht_find`.
    Peers {
        /// Their addresses.
        peers: Vec<SocketAddr>,
    },
    /// To `dht_announce`.
    Announced {
        /// On how many nodes.
        stored: usize,
    },
    /// To `dht_put`.
    Put {
        /// Where it can be got, in hexadecimal.
        target: String,
        /// Nodes that have stored it.
        stored: usize,
        /// Nodes that have refused it.
        rejected: usize,
        /// Whose it is, in hexadecimal, if it is mutable.
        #[serde(skip_serializing_if = "Option::is_none")]
        public_key: Option<String>,
        /// Its sequence number, if it is mutable.
        #[serde(skip_serializing_if = "Option::is_none")]
        seq: Option<i64>,
    },
    /// To `dht_get`.
    Item {
        /// A string that is UTF-8.
        #[serde(skip_serializing_if = "Option::is_none")]
        value: Option<String>,
        /// Another string, in base64.
        #[serde(skip_serializing_if = "Option::is_none")]
        base64: Option<String>,
        /// What is no string, as it is stored, in base64.
        #[serde(skip_serializing_if = "Option::is_none")]
        bencoded: Option<String>,
        /// Its sequence number, if it is mutable.
        #[serde(skip_serializing_if = "Option::is_none")]
        seq: Option<i64>,
    },
    /// To `dht_scrape`.
    Scrape {
        /// Peers that have everything, about.
        seeds: u64,
        /// Other peers, about.
        peers: u64,
        /// Nodes that count.
        nodes: usize,
    },
    /// To `dht_sample`.
    Sample {
        /// Info hashes, in hexadecimal.
        samples: Vec<String>,
        /// Nodes that answered.
        nodes: usize,
        /// How many they have in all.
        total: u64,
    },
    /// To `dht_stats`.
    Stats {
        /// Good nodes in the routing tables.
        nodes: usize,
        /// The other figures.
        stats: Value,
    },
    /// To `dht_nodes`.
    Nodes {
        /// The nodes of the routing tables.
        nodes: Vec<Node>,
    },
}

/// A node of the DHT.
#[derive(Debug, Serialize)]
pub struct Node {
    /// Its id, in hexadecimal.
    pub id: String,
    /// Where.
    pub addr: SocketAddr,
    /// `good`, `questionable` or `bad`.
    pub standing: &'static str,
}

#[cfg(test)]
mod tests {
    use super::super::command::{Command as Any, parse};
    use super::*;

    fn command(line: &str) -> Result<Command, RequestError> {
        let request = parse(line.as_bytes()).expect("it is not blank");
        request.command.map(|command| match command {
            Any::Dht(command) => command,
            other => panic!("{other:?}"),
        })
    }

    const HASH: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn commands_are_read() {
        let info_hash = HASH.parse().expect("an id");
        let find = command(&format!(
            r#"{{"cmd":"dht_find","hash":"{HASH}","seconds":5}}"#
        ));
        assert_eq!(
            find,
            Ok(Command::Find {
                info_hash,
                seconds: Some(5)
            })
        );
        let named = command(r#"{"cmd":"dht_announce","name":"abc","port":80}"#);
        let abc = "a9993e364706816aba3e25717850c26c9cd0d89d"
            .parse()
            .expect("an id");
        assert_eq!(
            named,
            Ok(Command::Announce {
                info_hash: abc,
                port: Some(80)
            })
        );
        let put = command(r#"{"cmd":"dht_put","value":"hello"}"#).expect("a put");
        assert!(
            matches!(put, Command::Put { ref value, secret_key: None, .. } if value == b"hello")
        );
        let key = "ab".repeat(32);
        let put = format!(
            r#"{{"cmd":"dht_put","base64":"AP8=","secret_key":"{key}","salt":"s","seq":4,"cas":3}}"#
        );
        let expected = Command::Put {
            value: vec![0, 255],
            secret_key: Some([0xab; 32]),
            salt: b"s".to_vec(),
            seq: Some(4),
            cas: Some(3),
        };
        assert_eq!(command(&put), Ok(expected));
        let get = command(&format!(r#"{{"cmd":"dht_get","public_key":"{key}"}}"#));
        assert_eq!(
            get,
            Ok(Command::GetMutable {
                public_key: [0xab; 32],
                salt: Vec::new()
            })
        );
    }

    #[test]
    fn nonsense_is_refused() {
        for line in [
            r#"{"cmd":"dht_find"}"#,
            r#"{"cmd":"dht_find","hash":"12"}"#,
            r#"{"cmd":"dht_find","hash":"0123456789abcdef0123456789abcdef01234567","name":"a"}"#,
            r#"{"cmd":"dht_find","name":"a","seconds":0}"#,
            r#"{"cmd":"dht_announce","name":"a","port":0}"#,
            r#"{"cmd":"dht_announce","name":"a","port":65536}"#,
            r#"{"cmd":"dht_put"}"#,
            r#"{"cmd":"dht_put","value":"a","base64":""}"#,
            r#"{"cmd":"dht_put","value":"a","salt":"b"}"#,
            r#"{"cmd":"dht_put","value":"a","secret_key":"b"}"#,
            r#"{"cmd":"dht_put","value":"a","seq":-1}"#,
            r#"{"cmd":"dht_get"}"#,
            r#"{"cmd":"dht_get","target":"0123456789abcdef0123456789abcdef01234567","salt":"a"}"#,
            r#"{"cmd":"dht_stats","x":1}"#,
        ] {
            assert!(command(line).is_err(), "{line}");
        }
    }
}
