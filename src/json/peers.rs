//! The commands about lost, banned, protected and known peers, and how the answers to them look.

use std::str::FromStr;
use std::time::Duration;

use mischief_actors::identity::{PeerId, PeerIdPrefix};
use mischief_actors::peers::{BookEntry, Notice, Subnet, Target, Waiting};
use serde_json::{Value, json};

use super::command::{CommandShape, Members};
use super::error::RequestError;
use super::output::Event;
use crate::PeerInfo;

/// The longest ban in seconds: a hundred years.
const BAN_SECONDS_MAX: u64 = 100 * 365 * 24 * 60 * 60;

/// A peer, by its whole id or by the beginning of one that is connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerName {
    /// It need not be connected.
    Whole(PeerId),
    /// The beginning.
    Beginning(PeerIdPrefix),
}

impl FromStr for PeerName {
    type Err = mischief_actors::identity::ParsePeerIdError;

    fn from_str(text: &str) -> Result<PeerName, Self::Err> {
        match text.parse() {
            Ok(peer) => Ok(PeerName::Whole(peer)),
            Err(_) => text.parse().map(PeerName::Beginning),
        }
    }
}

/// Whom a ban concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BanTarget {
    /// A peer.
    Peer(PeerName),
    /// A range of addresses.
    Subnet(Subnet),
}

/// What is asked.
#[derive(Clone, Debug, PartialEq)]
pub enum NetworkCommand {
    /// Tell everything about one connected peer.
    Peer(PeerIdPrefix),
    /// Protect a peer, or no longer.
    Protect {
        /// Which.
        peer: PeerName,
        /// Whether it is protected from now on.
        is_on: bool,
    },
    /// Ban a peer or a range.
    Ban {
        /// Whom.
        target: BanTarget,
        /// For how long; until it is lifted if `None`.
        lasts: Option<Duration>,
    },
    /// Lift a ban.
    Unban(BanTarget),
    /// List the bans.
    Bans,
    /// List the lost peers that will be dialled again.
    ReconnectQueue,
    /// Dial none of them any more.
    ClearReconnectQueue,
    /// List all known peers.
    AddressBook,
    /// Forget a peer.
    Forget(PeerName),
}

const fn shape(
    name: &'static str,
    required: &'static [&'static str],
    optional: &'static [&'static str],
    answers: &'static [&'static [&'static str]],
) -> CommandShape {
    CommandShape {
        name,
        required,
        optional,
        answers,
    }
}

pub(super) const PEER: CommandShape = shape("peer", &["peer"], &[], &[&["info"]]);
pub(super) const PROTECT: CommandShape = shape("protect", &["peer"], &["on"], &[&[]]);
pub(super) const BAN: CommandShape = shape("ban", &[], &["peer", "subnet", "seconds"], &[&[]]);
pub(super) const UNBAN: CommandShape = shape("unban", &[], &["peer", "subnet"], &[&[]]);
pub(super) const BANS: CommandShape = shape("bans", &[], &[], &[&["bans"]]);
pub(super) const RECONNECT_QUEUE: CommandShape = shape("reconnect_queue", &[], &[], &[&["queue"]]);
pub(super) const CLEAR_RECONNECT_QUEUE: CommandShape =
    shape("clear_reconnect_queue", &[], &[], &[&["cleared"]]);
pub(super) const ADDRESS_BOOK: CommandShape = shape("address_book", &[], &[], &[&["entries"]]);
pub(super) const FORGET: CommandShape = shape("forget", &["peer"], &[], &[&[]]);

/// Reads a command of this file; `None` if it is another's.
pub(super) fn read(
    name: &str,
    members: &mut Members,
) -> Option<Result<NetworkCommand, RequestError>> {
    Some(match name {
        "peer" => members.peer("peer").map(NetworkCommand::Peer),
        "protect" => read_protect(members),
        "ban" => read_ban(members),
        "unban" => read_target("unban", members).map(NetworkCommand::Unban),
        "bans" => Ok(NetworkCommand::Bans),
        "reconnect_queue" => Ok(NetworkCommand::ReconnectQueue),
        "clear_reconnect_queue" => Ok(NetworkCommand::ClearReconnectQueue),
        "address_book" => Ok(NetworkCommand::AddressBook),
        "forget" => members.peer("peer").map(NetworkCommand::Forget),
        _ => return None,
    })
}

fn read_protect(members: &mut Members) -> Result<NetworkCommand, RequestError> {
    let peer = members.peer("peer")?;
    let is_on = match members.value_if_present("on") {
        None => true,
        Some(Value::Bool(is_on)) => is_on,
        Some(_) => return Err(RequestError::bad_request("`on` must be a boolean")),
    };
    Ok(NetworkCommand::Protect { peer, is_on })
}

fn read_ban(members: &mut Members) -> Result<NetworkCommand, RequestError> {
    let lasts = match members.value_if_present("seconds") {
        None => None,
        Some(value) => {
            let seconds = value
                .as_u64()
                .filter(|seconds| (1..=BAN_SECONDS_MAX).contains(seconds));
            let seconds = seconds.ok_or_else(|| {
                RequestError::bad_request(format!(
                    "`seconds` must be a whole number from 1 to {BAN_SECONDS_MAX}"
                ))
            })?;
            Some(Duration::from_secs(seconds))
        }
    };
    let target = read_target("ban", members)?;
    Ok(NetworkCommand::Ban { target, lasts })
}

/// Exactly one of `peer` and `subnet`.
fn read_target(name: &str, members: &mut Members) -> Result<BanTarget, RequestError> {
    let peer: Option<PeerName> = members.peer_if_present("peer")?;
    let subnet = members.value_if_present("subnet");
    match (peer, subnet) {
        (Some(peer), None) => Ok(BanTarget::Peer(peer)),
        (None, Some(Value::String(text))) => text
            .parse()
            .map(BanTarget::Subnet)
            .map_err(|error| RequestError::bad_request(format!("`subnet`: {error}"))),
        (None, Some(_)) => Err(RequestError::bad_request("`subnet` must be a text")),
        _ => Err(RequestError::bad_request(format!(
            "`{name}` needs either `peer` or `subnet`"
        ))),
    }
}

/// The answer to `peer`.
pub fn peer_answer(info: &PeerInfo) -> Value {
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    json!({"info": {
        "peer": info.peer.to_string(),
        "name": info.name,
        "addr": info.addr,
        "direction": info.direction.name(),
        "since": info.since.as_unix_secs(),
        "suite": info.suite,
        "rtt_us": info.rtt.map(micros),
        "rtt_jitter_us": info.rtt_jitter.map(micros),
        "bytes_in": info.bytes_in,
        "bytes_out": info.bytes_out,
        "messages_in": info.messages_in,
        "messages_out": info.messages_out,
        "queued": info.queued,
        "window": info.window,
        "message_max": info.message_max,
        "agent": info.agent,
        "features": info.features,
        "wire_version": info.wire_version,
        "found": info.found.name(),
        "protected": info.is_protected,
        "dialable": info.dialable,
    }})
}

/// The answer to `bans`.
pub fn bans_answer(bans: &[(Target, Option<Duration>)]) -> Value {
    let ban = |(target, lasts): &(Target, Option<Duration>)| {
        let (peer, subnet) = target_texts(target);
        json!({"peer": peer, "subnet": subnet, "seconds": lasts.map(rounded_up)})
    };
    json!({"bans": bans.iter().map(ban).collect::<Vec<Value>>()})
}

/// The answer to `reconnect_queue`.
pub fn queue_answer(queue: &[Waiting]) -> Value {
    let lost = |waiting: &Waiting| {
        json!({
            "peer": waiting.peer.to_string(),
            "addr": waiting.endpoint.to_string(),
            "attempts": waiting.attempts,
            "next_in_ms": waiting.next_in.map(millis),
            "away_ms": millis(waiting.away),
        })
    };
    json!({"queue": queue.iter().map(lost).collect::<Vec<Value>>()})
}

/// The answer to `clear_reconnect_queue`.
pub fn cleared_answer(cleared: usize) -> Value {
    json!({ "cleared": cleared })
}

/// The answer to `address_book`.
pub fn book_answer(book: &[BookEntry]) -> Value {
    let known = |entry: &BookEntry| {
        json!({
            "peer": entry.peer.to_string(),
            "addr": entry.endpoint.to_string(),
            "tried": entry.is_tried,
            "heard_seconds_ago": entry.heard.as_secs(),
            "reached_seconds_ago": entry.reached.map(|ago| ago.as_secs()),
            "failures": entry.failures,
        })
    };
    json!({"entries": book.iter().map(known).collect::<Vec<Value>>()})
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn rounded_up(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

fn target_texts(target: &Target) -> (Option<String>, Option<String>) {
    match target {
        Target::Peer(peer) => (Some(peer.to_string()), None),
        Target::Subnet(subnet) => (None, Some(subnet.to_string())),
    }
}

/// Hands the event of a notice to `run`; nothing is told of kinds that this version does not know.
pub fn with_notice_event<R>(notice: &Notice, run: impl FnOnce(&Event<'_>) -> R) -> Option<R> {
    let message = &notice.to_string();
    let told = match notice {
        Notice::Reconnecting {
            peer,
            endpoint,
            within,
        } => run(&Event::PeerReconnecting {
            peer: &peer.to_string(),
            addr: &endpoint.to_string(),
            within_ms: millis(*within),
        }),
        Notice::GaveUp { peer, why } => run(&Event::PeerGivenUp {
            peer: &peer.to_string(),
            reason: why.kind(),
            message,
        }),
        Notice::Banned { target, lasts } => {
            let (peer, subnet) = target_texts(target);
            run(&Event::Banned {
                peer: peer.as_deref(),
                subnet: subnet.as_deref(),
                seconds: lasts.map(rounded_up),
            })
        }
        Notice::Unbanned { target, is_expired } => {
            let (peer, subnet) = target_texts(target);
            run(&Event::Unbanned {
                peer: peer.as_deref(),
                subnet: subnet.as_deref(),
                expired: *is_expired,
            })
        }
        Notice::SeenTwice { peer, addr, other } => run(&Event::IdentityConflict {
            peer: &peer.to_string(),
            addr: *addr,
            other: *other,
            message,
        }),
        Notice::ExternalAddr { addr } => run(&Event::ExternalAddress { addr: *addr }),
        _ => return None,
    };
    Some(told)
}

/// One of each event of this file, for tests of their shapes.
#[cfg(test)]
pub(super) fn examples() -> Vec<Event<'static>> {
    let addr: std::net::SocketAddr = "192.0.2.7:9000".parse().expect("it is an address");
    let peer = "abc";
    vec![
        Event::PeerReconnecting {
            peer,
            addr: "host.example:9000",
            within_ms: 1000,
        },
        Event::PeerGivenUp {
            peer,
            reason: "not_reached",
            message: "why",
        },
        Event::Banned {
            peer: Some(peer),
            subnet: None,
            seconds: Some(60),
        },
        Event::Unbanned {
            peer: None,
            subnet: Some("192.0.2.0/24"),
            expired: true,
        },
        Event::IdentityConflict {
            peer,
            addr,
            other: None,
            message: "why",
        },
        Event::ExternalAddress { addr },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::{Command, ErrorKind, parse};

    const PEER_ID: &str = "mfrggzdfmztwq2lknnwg23tpobyxe43uov3ho6dzpiydcmrtgq2a";

    #[track_caller]
    fn command(line: &str) -> NetworkCommand {
        match parse(line.as_bytes()).expect("it is a request").command {
            Ok(Command::Network(command)) => command,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn check_refused(line: &str, why: &str) {
        let error = parse(line.as_bytes())
            .expect("it is a request")
            .command
            .unwrap_err();
        assert_eq!(error.kind, ErrorKind::BadRequest);
        assert!(error.message.contains(why), "{}", error.message);
    }

    #[test]
    fn whole_ids_beginnings_and_ranges_are_told_apart() {
        let whole = command(&format!(
            r#"{{"cmd":"ban","peer":"{PEER_ID}","seconds":60}}"#
        ));
        let target = BanTarget::Peer(PeerName::Whole(PEER_ID.parse().unwrap()));
        assert_eq!(
            whole,
            NetworkCommand::Ban {
                target,
                lasts: Some(Duration::from_secs(60))
            }
        );
        let beginning = command(r#"{"cmd":"forget","peer":"mfrg"}"#);
        assert_eq!(
            beginning,
            NetworkCommand::Forget(PeerName::Beginning("mfrg".parse().unwrap()))
        );
        let range = command(r#"{"cmd":"unban","subnet":"192.0.2.9/24"}"#);
        assert_eq!(
            range,
            NetworkCommand::Unban(BanTarget::Subnet("192.0.2.0/24".parse().unwrap()))
        );
        let off = command(r#"{"cmd":"protect","peer":"mfrg","on":false}"#);
        assert!(matches!(off, NetworkCommand::Protect { is_on: false, .. }));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        check_refused(r#"{"cmd":"ban"}"#, "either `peer` or `subnet`");
        check_refused(
            r#"{"cmd":"ban","peer":"mfrg","subnet":"1.2.3.4"}"#,
            "either",
        );
        check_refused(r#"{"cmd":"ban","subnet":"1.2.3.4/40"}"#, "subnet");
        check_refused(r#"{"cmd":"ban","subnet":7}"#, "`subnet` must be a text");
        for seconds in ["0", "-1", "1.5", "\"9\"", "1e30", "null"] {
            let line = format!(r#"{{"cmd":"ban","subnet":"1.2.3.4","seconds":{seconds}}}"#);
            check_refused(&line, "`seconds`");
        }
        check_refused(
            r#"{"cmd":"protect","peer":"mfrg","on":1}"#,
            "`on` must be a boolean",
        );
        check_refused(r#"{"cmd":"peer"}"#, "`peer` is missing");
        check_refused(r#"{"cmd":"bans","peer":"mfrg"}"#, "does not know");
    }
}
