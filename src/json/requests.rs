//! The commands and events of requests.

use std::time::Duration;

use mischief_actors::identity::PeerIdPrefix;
use serde::Serialize;
use serde_json::Value;

use super::command::{CommandShape, Members};
use super::error::RequestError;
use super::output::EventShape;

/// How long a request waits for its answer if it does not say.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

/// The longest time that a request may say, in milliseconds.
const TIMEOUT_MS_MAX: u64 = 3_600_000;

/// A command about requests.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Ask a peer.
    Request {
        /// Whom.
        peer: PeerIdPrefix,
        /// For what, 1 to 128 bytes.
        kind: String,
        /// With which value.
        data: Value,
        /// For how long to wait.
        timeout: Duration,
    },
    /// Take requests of a type.
    Handle {
        /// Which.
        kind: String,
    },
    /// Take requests of a type no more.
    Unhandle {
        /// Which.
        kind: String,
    },
    /// Answer a request.
    Reply {
        /// Its number, from the event.
        request: u64,
        /// The answer.
        data: Value,
    },
    /// Refuse a request.
    Refuse {
        /// Its number, from the event.
        request: u64,
        /// Why, for the people on the other side.
        reason: String,
    },
}

/// The commands of this part.
pub(super) const COMMANDS: &[CommandShape] = &[
    CommandShape {
        name: "request",
        required: &["peer", "type", "data"],
        optional: &["timeout_ms"],
        answers: &[&["data"], &["base64"]],
    },
    CommandShape {
        name: "handle",
        required: &["type"],
        optional: &[],
        answers: &[&[]],
    },
    CommandShape {
        name: "unhandle",
        required: &["type"],
        optional: &[],
        answers: &[&[]],
    },
    CommandShape {
        name: "reply",
        required: &["request", "data"],
        optional: &[],
        answers: &[&[]],
    },
    CommandShape {
        name: "refuse",
        required: &["request"],
        optional: &["reason"],
        answers: &[&[]],
    },
];

/// Reads a command of this part; `None` if it is none.
pub(super) fn read(name: &str, members: &mut Members) -> Option<Result<Command, RequestError>> {
    Some(match name {
        "request" => read_request(members),
        "handle" => members
            .message_type("type")
            .map(|kind| Command::Handle { kind }),
        "unhandle" => members
            .message_type("type")
            .map(|kind| Command::Unhandle { kind }),
        "reply" => read_reply(members),
        "refuse" => read_refuse(members),
        _ => return None,
    })
}

fn read_request(members: &mut Members) -> Result<Command, RequestError> {
    Ok(Command::Request {
        peer: members.peer("peer")?,
        kind: members.message_type("type")?,
        data: members.value("data")?,
        timeout: match members.has("timeout_ms") {
            true => Duration::from_millis(members.number("timeout_ms", 1..=TIMEOUT_MS_MAX)?),
            false => TIMEOUT_DEFAULT,
        },
    })
}

fn read_reply(members: &mut Members) -> Result<Command, RequestError> {
    Ok(Command::Reply {
        request: members.number("request", 0..=u64::MAX)?,
        data: members.value("data")?,
    })
}

fn read_refuse(members: &mut Members) -> Result<Command, RequestError> {
    Ok(Command::Refuse {
        request: members.number("request", 0..=u64::MAX)?,
        reason: match members.has("reason") {
            true => members.text("reason")?,
            false => String::new(),
        },
    })
}

/// What a good answer to a request carries.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Answer<'a> {
    /// A value; a text is one too.
    Data {
        /// The value.
        data: &'a Value,
    },
    /// Bytes, which only programs that use the library answer with.
    Bytes {
        /// In base64 with padding.
        base64: &'a str,
    },
}

/// What happens to requests of peers.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event<'a> {
    /// A peer asks for something that this program handles.
    Request {
        /// The number by which to answer.
        request: u64,
        /// Who asks.
        peer: &'a str,
        /// For what.
        #[serde(rename = "type")]
        kind: &'a str,
        /// With which value.
        data: &'a Value,
    },
    /// A request that is not answered yet wants no answer any more.
    RequestCancelled {
        /// Its number.
        request: u64,
    },
}

/// The events of this part.
pub(super) const EVENTS: &[EventShape] = &[
    EventShape {
        name: "request",
        members: &["request", "peer", "type", "data"],
    },
    EventShape {
        name: "request_cancelled",
        members: &["request"],
    },
];

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mischief_actors::connection::EncodeError;
    use serde_json::json;

    use super::super::{Command as Any, ErrorKind, parse, to_line};
    use super::*;

    #[track_caller]
    fn check(line: &str, want: Command) {
        let request = parse(line.as_bytes()).expect("the line is not blank");
        assert_eq!(request.command, Ok(Any::Requests(want)));
    }

    #[track_caller]
    fn check_refused(line: &str, want: &str) {
        let request = parse(line.as_bytes()).expect("the line is not blank");
        let error = request.command.expect_err("the line is refused");
        assert_eq!(error.kind, ErrorKind::BadRequest);
        assert!(error.message.contains(want), "{:?}", error.message);
    }

    #[test]
    fn every_command_is_read() {
        let peer: PeerIdPrefix = "abc".parse().expect("it is the beginning of an id");
        let request = |timeout| Command::Request {
            peer: peer.clone(),
            kind: "sum".into(),
            data: json!([1, 2]),
            timeout,
        };
        check(
            r#"{"cmd":"request","peer":"abc","type":"sum","data":[1,2]}"#,
            request(TIMEOUT_DEFAULT),
        );
        check(
            r#"{"cmd":"request","peer":"abc","type":"sum","data":[1,2],"timeout_ms":3600000}"#,
            request(Duration::from_secs(3600)),
        );
        let kind = || "sum".to_owned();
        check(
            r#"{"cmd":"handle","type":"sum"}"#,
            Command::Handle { kind: kind() },
        );
        check(
            r#"{"cmd":"unhandle","type":"sum"}"#,
            Command::Unhandle { kind: kind() },
        );
        let (request, data) = (u64::MAX, Value::Null);
        check(
            r#"{"cmd":"reply","request":18446744073709551615,"data":null}"#,
            Command::Reply { request, data },
        );
        for (line, reason) in [
            (r#"{"cmd":"refuse","request":7,"reason":"no"}"#, "no"),
            (r#"{"cmd":"refuse","request":7}"#, ""),
        ] {
            let (request, reason) = (7, reason.to_owned());
            check(line, Command::Refuse { request, reason });
        }
    }

    #[test]
    fn wrong_members_are_named() {
        for (line, want) in [
            (
                r#"{"cmd":"request","type":"sum","data":1}"#,
                "`peer` is missing",
            ),
            (
                r#"{"cmd":"request","peer":"abc","type":"","data":1}"#,
                "`type` has 0 bytes",
            ),
            (
                r#"{"cmd":"request","peer":"abc","type":"a","data":1,"timeout_ms":0}"#,
                "`timeout_ms` must be a whole number from 1 to 3600000",
            ),
            (
                r#"{"cmd":"request","peer":"abc","type":"a","data":1,"timeout_ms":3600001}"#,
                "`timeout_ms` must be",
            ),
            (
                r#"{"cmd":"request","peer":"abc","type":"a","data":1,"timeout_ms":null}"#,
                "`timeout_ms` must be a number, not null",
            ),
            (
                r#"{"cmd":"reply","request":1.5,"data":1}"#,
                "`request` must be a whole number",
            ),
            (
                r#"{"cmd":"refuse","request":"1"}"#,
                "`request` must be a number, not a text",
            ),
        ] {
            check_refused(line, want);
        }
    }

    /// The library gives its errors names and this interface documents them: nothing else makes the two agree.
    #[test]
    fn every_name_that_the_library_gives_an_error_is_a_kind() {
        let why = || Arc::from("why");
        let errors = [
            crate::RequestError::NoHandler,
            crate::RequestError::Refused(why()),
            crate::RequestError::HandlerFailed,
            crate::RequestError::TimedOut,
            crate::RequestError::Gone(why()),
            crate::RequestError::TooLarge { size: 2, max: 1 },
            crate::RequestError::ReplyTooLarge,
            crate::RequestError::Busy,
            crate::RequestError::Full,
            crate::RequestError::Encode(EncodeError::Name(0)),
            crate::RequestError::Encode(EncodeError::Body(0)),
            crate::RequestError::BadBody(why()),
            crate::RequestError::OnCoreThread,
        ];
        for error in errors {
            let name = error.kind();
            assert_eq!(RequestError::of_kind(name, "").kind.name(), name);
        }
    }

    #[test]
    fn events_have_their_shape() {
        let request = Event::Request {
            request: 7,
            peer: "abc",
            kind: "sum",
            data: &json!([1]),
        };
        assert_eq!(
            to_line(&request),
            b"{\"event\":\"request\",\"request\":7,\"peer\":\"abc\",\"type\":\"sum\",\"data\":[1]}\n"
        );
        assert_eq!(
            to_line(&Event::RequestCancelled { request: 7 }),
            b"{\"event\":\"request_cancelled\",\"request\":7}\n"
        );
    }
}
