//! Services on the local network: commands, answers and events.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;
use serde_json::Value;

use super::command::{CommandShape, Members};
use super::error::RequestError;
use super::output::EventShape;

/// The longest text of a command here, in bytes: an instance name with room for an error message about it.
const TEXT_LEN_MAX: usize = 256;

/// What the program is asked to do on the local network.
#[derive(Clone, Debug, PartialEq)]
pub enum MdnsCommand {
    /// Look for instances of a type.
    Browse {
        /// The type: `_rats._tcp`.
        service_type: String,
    },
    /// Register a service.
    Register {
        /// The type.
        service_type: String,
        /// Its name.
        instance: String,
        /// Where it listens.
        port: u16,
        /// What it says about itself, in order; `None` for a key alone.
        txt: Vec<(String, Option<String>)>,
    },
    /// Tell what is registered and found.
    Services,
    /// End a browse, take a service back, or both for everything.
    Stop {
        /// Of which type; everything if `None`.
        service_type: Option<String>,
        /// The service to take back.
        instance: Option<String>,
    },
}

const BROWSE: CommandShape = CommandShape {
    name: "mdns_browse",
    required: &["type"],
    optional: &[],
    answers: &[&[]],
};
const REGISTER: CommandShape = CommandShape {
    name: "mdns_register",
    required: &["type", "instance", "port"],
    optional: &["txt"],
    answers: &[&[]],
};
const SERVICES: CommandShape = CommandShape {
    name: "mdns_services",
    required: &[],
    optional: &[],
    answers: &[&["host", "registered", "services"]],
};
const STOP: CommandShape = CommandShape {
    name: "mdns_stop",
    required: &[],
    optional: &["type", "instance"],
    answers: &[&[]],
};

/// The commands of this part.
pub(super) const COMMANDS: &[CommandShape] = &[BROWSE, REGISTER, SERVICES, STOP];

/// Reads the command whose shape is one of those above.
pub(super) fn read(members: &mut Members) -> Result<MdnsCommand, RequestError> {
    match members.name() {
        "mdns_browse" => Ok(MdnsCommand::Browse {
            service_type: text(members, "type")?,
        }),
        "mdns_register" => Ok(MdnsCommand::Register {
            service_type: text(members, "type")?,
            instance: text(members, "instance")?,
            port: port(&members.value("port")?)?,
            txt: match members.has("txt") {
                true => txt(members.value("txt")?)?,
                false => Vec::new(),
            },
        }),
        "mdns_stop" => {
            let mut text_if_present = |name| match members.has(name) {
                true => text(members, name).map(Some),
                false => Ok(None),
            };
            let (service_type, instance) = (text_if_present("type")?, text_if_present("instance")?);
            if service_type.is_none() && instance.is_some() {
                return Err(RequestError::bad_request(
                    "`instance` needs a `type` beside it",
                ));
            }
            Ok(MdnsCommand::Stop {
                service_type,
                instance,
            })
        }
        _ => Ok(MdnsCommand::Services),
    }
}

fn text(members: &mut Members, name: &str) -> Result<String, RequestError> {
    let text = members.text(name)?;
    if text.len() > TEXT_LEN_MAX {
        let message = format!(
            "`{name}` has {} bytes, {TEXT_LEN_MAX} at most are allowed",
            text.len()
        );
        return Err(RequestError::bad_request(message));
    }
    Ok(text)
}

fn port(value: &Value) -> Result<u16, RequestError> {
    let port = value.as_u64().and_then(|port| u16::try_from(port).ok());
    port.filter(|port| *port > 0)
        .ok_or_else(|| RequestError::bad_request("`port` must be a number from 1 to 65535"))
}

fn txt(value: Value) -> Result<Vec<(String, Option<String>)>, RequestError> {
    let wrong = || {
        RequestError::bad_request("`txt` must be an object of texts, or of null for a key alone")
    };
    let Value::Object(entries) = value else {
        return Err(wrong());
    };
    let entry = |(key, value): (String, Value)| match value {
        Value::String(value) => Ok((key, Some(value))),
        Value::Null => Ok((key, None)),
        _ => Err(wrong()),
    };
    entries.into_iter().map(entry).collect()
}

/// The values of a TXT record by their keys; `None` for a key alone. Bytes that are no UTF-8 are replaced.
pub type TxtEntries = BTreeMap<String, Option<String>>;

/// A service of another machine.
#[derive(Clone, Debug, Serialize)]
pub struct FoundService {
    /// Its name.
    pub instance: String,
    /// Its type.
    #[serde(rename = "type")]
    pub service_type: String,
    /// The host that it runs on.
    pub host: String,
    /// Where it listens.
    pub port: u16,
    /// The addresses of its host.
    pub addrs: Vec<IpAddr>,
    /// What it says about itself.
    pub txt: TxtEntries,
    /// The index of the interface on which it was found.
    pub interface: u32,
    /// The id of the node that it says it is; not verified.
    pub peer_id: Option<String>,
}

/// A service of this node.
#[derive(Clone, Debug, Serialize)]
pub struct RegisteredService {
    /// Its name.
    pub instance: String,
    /// Its type.
    #[serde(rename = "type")]
    pub service_type: String,
    /// Where it listens.
    pub port: u16,
    /// What it says about itself.
    pub txt: TxtEntries,
}

/// What is answered to `mdns_services`.
#[derive(Debug, Serialize)]
pub struct MdnsServices {
    /// The name of this host on the local network.
    pub host: String,
    /// The services of this node.
    pub registered: Vec<RegisteredService>,
    /// The services that were found.
    pub services: Vec<FoundService>,
}

/// Something that happened on the local network.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum MdnsLine<'a> {
    /// A service is there.
    MdnsFound(FoundService),
    /// Something about it has changed.
    MdnsUpdated(FoundService),
    /// It is gone.
    MdnsLost {
        /// Its name.
        instance: &'a str,
        /// Its type.
        #[serde(rename = "type")]
        service_type: String,
        /// The index of the interface on which it was found.
        interface: u32,
    },
    /// A service of this node has been announced, perhaps under another name than it asked for.
    MdnsRegistered {
        /// Its name now.
        instance: &'a str,
    },
    /// A service of this node has another name, because its own was taken.
    MdnsRenamed {
        /// The name that is taken.
        old: &'a str,
        /// Its name now.
        instance: &'a str,
    },
    /// Somebody offers services of a type.
    MdnsTypeFound {
        /// The type.
        #[serde(rename = "type")]
        service_type: String,
        /// The index of the interface on which it was found.
        interface: u32,
    },
    /// Somebody was found who may be a peer.
    PeerFound {
        /// The id, if the source knows; not verified.
        peer: Option<String>,
        /// Where.
        addr: SocketAddr,
        /// By whom: `mdns` or `dht`.
        source: &'a str,
    },
}

const FOUND_MEMBERS: &[&str] = &[
    "instance",
    "type",
    "host",
    "port",
    "addrs",
    "txt",
    "interface",
    "peer_id",
];

const FOUND: EventShape = EventShape {
    name: "mdns_found",
    members: FOUND_MEMBERS,
};
const UPDATED: EventShape = EventShape {
    name: "mdns_updated",
    members: FOUND_MEMBERS,
};
const LOST: EventShape = EventShape {
    name: "mdns_lost",
    members: &["instance", "type", "interface"],
};
const REGISTERED: EventShape = EventShape {
    name: "mdns_registered",
    members: &["instance"],
};
const RENAMED: EventShape = EventShape {
    name: "mdns_renamed",
    members: &["old", "instance"],
};
const TYPE_FOUND: EventShape = EventShape {
    name: "mdns_type_found",
    members: &["type", "interface"],
};
const PEER_FOUND: EventShape = EventShape {
    name: "peer_found",
    members: &["peer", "addr", "source"],
};

/// The events of this part.
pub(super) const EVENTS: &[EventShape] = &[
    FOUND, UPDATED, LOST, REGISTERED, RENAMED, TYPE_FOUND, PEER_FOUND,
];

#[cfg(test)]
mod tests {
    use crate::json::{Command, parse, to_line};

    use super::*;

    #[track_caller]
    fn check(line: &str, want: Result<MdnsCommand, &str>) {
        let command = parse(line.as_bytes()).expect("it is no blank line").command;
        match (command, want) {
            (Ok(Command::Mdns(command)), Ok(want)) => assert_eq!(command, want),
            (Err(error), Err(want)) => assert!(error.message.contains(want), "{}", error.message),
            (other, want) => panic!("{other:?} instead of {want:?}"),
        }
    }

    #[test]
    fn commands_are_read() {
        let service_type = "_rats._tcp".to_owned();
        check(
            r#"{"cmd":"mdns_browse","type":"_rats._tcp"}"#,
            Ok(MdnsCommand::Browse {
                service_type: service_type.clone(),
            }),
        );
        check(
            r#"{"cmd":"mdns_register","type":"_rats._tcp","instance":"a","port":9,"txt":{"k":"v","f":null}}"#,
            Ok(MdnsCommand::Register {
                service_type: service_type.clone(),
                instance: "a".into(),
                port: 9,
                txt: vec![("f".into(), None), ("k".into(), Some("v".into()))],
            }),
        );
        check(r#"{"cmd":"mdns_services"}"#, Ok(MdnsCommand::Services));
        check(
            r#"{"cmd":"mdns_stop","type":"_rats._tcp","instance":"a"}"#,
            Ok(MdnsCommand::Stop {
                service_type: Some(service_type),
                instance: Some("a".into()),
            }),
        );
        check(
            r#"{"cmd":"mdns_stop"}"#,
            Ok(MdnsCommand::Stop {
                service_type: None,
                instance: None,
            }),
        );
    }

    #[test]
    fn wrong_members_are_refused() {
        check(r#"{"cmd":"mdns_browse"}"#, Err("`type` is missing"));
        check(r#"{"cmd":"mdns_browse","type":1}"#, Err("must be a text"));
        let long = format!(r#"{{"cmd":"mdns_browse","type":"{}"}}"#, "x".repeat(257));
        check(&long, Err("257 bytes"));
        check(
            r#"{"cmd":"mdns_stop","instance":"a"}"#,
            Err("needs a `type`"),
        );
        check(r#"{"cmd":"mdns_services","x":1}"#, Err("does not know"));
        for (port, txt, want) in [
            ("0", "{}", "`port`"),
            ("65536", "{}", "`port`"),
            ("-1", "{}", "`port`"),
            ("\"9\"", "{}", "`port`"),
            ("9", "[]", "`txt`"),
            ("9", "{\"k\":1}", "`txt`"),
        ] {
            let line = format!(
                r#"{{"cmd":"mdns_register","type":"_a._tcp","instance":"a","port":{port},"txt":{txt}}}"#
            );
            check(&line, Err(want));
        }
    }

    #[test]
    fn events_have_their_names_and_members() {
        let found = FoundService {
            instance: "a".into(),
            service_type: "_rats._tcp".into(),
            host: "h.local".into(),
            port: 9,
            addrs: vec!["192.0.2.1".parse().expect("an address")],
            txt: BTreeMap::new(),
            interface: 2,
            peer_id: None,
        };
        for (line, shape) in [
            (to_line(&MdnsLine::MdnsFound(found.clone())), FOUND),
            (to_line(&MdnsLine::MdnsUpdated(found)), UPDATED),
            (
                to_line(&MdnsLine::MdnsLost {
                    instance: "a",
                    service_type: "_rats._tcp".into(),
                    interface: 2,
                }),
                LOST,
            ),
            (
                to_line(&MdnsLine::MdnsRegistered { instance: "a" }),
                REGISTERED,
            ),
            (
                to_line(&MdnsLine::MdnsRenamed {
                    old: "a",
                    instance: "b",
                }),
                RENAMED,
            ),
            (
                to_line(&MdnsLine::MdnsTypeFound {
                    service_type: "_rats._tcp".into(),
                    interface: 2,
                }),
                TYPE_FOUND,
            ),
            (
                to_line(&MdnsLine::PeerFound {
                    peer: None,
                    addr: "192.0.2.1:9".parse().expect("an address"),
                    source: "mdns",
                }),
                PEER_FOUND,
            ),
        ] {
            let value: Value = serde_json::from_slice(&line).expect("it is JSON");
            assert_eq!(value["event"], shape.name);
            let members = value.as_object().expect("it is an object").len();
            assert_eq!(members, shape.members.len() + 1, "{value}");
            assert!(
                shape.members.iter().all(|name| value.get(name).is_some()),
                "{value}"
            );
        }
    }
}
