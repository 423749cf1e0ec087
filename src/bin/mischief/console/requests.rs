//! Asking and answering on the console.

use std::time::Duration;

use mischief::json::requests::TIMEOUT_DEFAULT;
use mischief::json::{ErrorKind, RequestError};
use mischief::terminal::shown;
use mischief::{Kind, PeerId, PeerIdPrefix, Request};
use serde_json::Value;

use super::text::{Style, bytes, peer_label};
use super::{Console, VALUE_CHARS_MAX, style};
use crate::logger;
use crate::node::{self, Session};
use crate::output::Output;
use crate::requests::Tell;

/// How long to wait for the name of a peer, which the node tells at once unless it is very busy.
const LABEL_PATIENCE: Duration = Duration::from_secs(1);

/// Shows what happens to requests of peers.
pub(super) struct Teller {
    session: Session,
    style: Style,
}

impl Teller {
    pub(super) fn new(session: &Session) -> Teller {
        Teller {
            session: session.clone(),
            style: style(),
        }
    }

    fn output(&self) -> &Output {
        &self.session.output
    }
}

impl Tell for Teller {
    fn asked(&self, number: u64, request: &Request<'_>, data: &Value) {
        let (kind, data) = (shown(request.name(), 128), data.to_string());
        let data = shown(&data, VALUE_CHARS_MAX);
        let peer = label(&self.session, request.peer());
        let notice = format!("request {number} from {peer}: [{kind}] {data}");
        let _ = self.output().put(self.style.notice(notice).as_bytes());
    }

    fn cancelled(&self, number: u64) {
        let notice = self
            .style
            .notice(format_args!("request {number} is cancelled"));
        let _ = self.output().offer(notice.as_bytes());
    }
}

/// What a peer is called.
fn label(session: &Session, peer: &PeerId) -> String {
    let info = session.node.peer(peer).wait_for(LABEL_PATIENCE);
    let name = info.ok().and_then(|info| info.name);
    peer_label(&peer.short().to_string(), name.as_deref())
}

impl Console {
    pub(super) fn handle(&self, kind: &str) {
        self.requests.handle(&self.session.node, kind.to_owned());
        let kind = shown(kind, 128);
        self.notice(format_args!(
            "requests of type {kind} are shown here: /reply and /refuse answer them"
        ));
    }

    /// Typing goes on while the answer waits for room.
    pub(super) fn reply(&self, number: u64, data: &str) -> Result<(), RequestError> {
        let replying = self.requests.reply(number, &json_value(data)?)?;
        self.pending
            .add(data.len(), async move { say_error(replying.await) })
            .map_err(|error| RequestError::new(ErrorKind::Internal, error.to_string()))
    }

    /// Typing goes on while the peer thinks.
    pub(super) fn request(&self, peer: &str, kind: &str, data: &str) {
        let node = &self.session.node;
        let prefix = peer.parse().map_err(|error| {
            let message = format!("{}: {error}", shown(peer, 60));
            RequestError::new(ErrorKind::BadRequest, message)
        });
        let found = prefix.and_then(|prefix: PeerIdPrefix| node::find_peer(node, &prefix));
        let asked = found.and_then(|peer| {
            let data = json_value(data)?;
            Ok((peer, node.request(&peer, kind, &data, TIMEOUT_DEFAULT)))
        });
        let (peer, asked) = match asked {
            Ok(asked) => asked,
            Err(error) => return logger::say("error", &error.message),
        };
        let (console, kind) = (self.clone(), kind.to_owned());
        let started = node::start_thread("request", move || {
            let body = match asked.wait() {
                Ok(body) => body,
                Err(error) => return logger::say("error", &format!("[{kind}] {error}")),
            };
            let text = match (body.kind(), body.as_text()) {
                (Kind::Bytes, _) => format!("[{}]", bytes(body.as_bytes().len() as u64)),
                (_, Some(text)) => text.to_owned(),
                _ => String::from_utf8_lossy(body.as_bytes()).into_owned(),
            };
            let text = format!("[{kind}] {}", shown(&text, VALUE_CHARS_MAX));
            let peer = label(&console.session, &peer);
            console.print(&console.style.message(peer, &text));
        });
        if let Err(failure) = started {
            logger::say("error", &failure.message);
        }
    }
}

/// A typed value; nothing stands for `null`.
fn json_value(text: &str) -> Result<Value, RequestError> {
    if text.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_str(text).map_err(|error| {
        let message = format!("the value is no JSON: {error}");
        RequestError::new(ErrorKind::BadRequest, message)
    })
}

pub(super) fn say_error(result: Result<(), RequestError>) {
    if let Err(error) = result {
        logger::say("error", &error.message);
    }
}
