//! Messages on their way out: encoded by the caller's thread, straight into the memory shared with the connection.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use mischief_actors::connection::{self, Kind, Link, RECORD_BYTES_MAX, SendError};
use mischief_actors::identity::PeerId;
use serde::Serialize;

use super::dispatch::Hub;
use super::json::check_depth;
use super::pending::{Broadcast, Pending, Sent};

/// Memory for encoding that a thread keeps from one JSON message to the next.
const SCRATCH_KEPT: usize = 64 << 10;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The way to one connected peer, for sending much: looking the peer up and following each message's fate is left out.
///
/// It stands for one connection. When that has ended every call says [`SendError::Gone`], also if the peer is connected
/// anew. It does not keep the node running.
#[derive(Clone)]
pub struct Outgoing {
    link: Arc<Link>,
    hub: Arc<Hub>,
}

impl Outgoing {
    pub(crate) fn new(link: Arc<Link>, hub: Arc<Hub>) -> Outgoing {
        Outgoing { link, hub }
    }

    /// The peer.
    pub fn peer(&self) -> &PeerId {
        self.link.peer()
    }

    /// Whether the connection still stands.
    pub fn is_open(&self) -> bool {
        self.link.closed().is_none()
    }

    /// Queues a JSON value under a type of 1 to 128 bytes. [`SendError::Full`] above 1 MiB of waiting messages:
    /// [`Outgoing::wait_for_room`] then waits.
    pub fn send<T: Serialize + ?Sized>(&self, kind: &str, value: &T) -> Result<(), SendError> {
        with_json(value, |body| self.queue(Kind::Json, kind, body))
    }

    /// Queues a text.
    pub fn send_text(&self, text: &str) -> Result<(), SendError> {
        self.queue(Kind::Text, "", text.as_bytes())
    }

    /// Queues bytes.
    #[inline]
    pub fn send_bytes(&self, bytes: &[u8]) -> Result<(), SendError> {
        self.queue(Kind::Bytes, "", bytes)
    }

    /// Queues bytes that are shared instead of copied: a large body stays where it is until it is sealed into frames, so
    /// it costs neither memory nor time for a copy, also if several peers get it. When [`Outgoing::flush`] is done, or
    /// [`Arc::get_mut`] gives the bytes out again, they may be written anew for the next message.
    pub fn send_shared(&self, bytes: &Arc<[u8]>) -> Result<(), SendError> {
        let handle = &self.hub.handle;
        let queued = self.link.queue_shared(handle, Kind::Bytes, "", bytes);
        queued.map(drop)
    }

    /// The fate of everything queued so far: done when the socket has taken it.
    pub fn flush(&self) -> Sent {
        let fate = match self.link.end() {
            Ok(end) => connection::Sent::queued(self.link.clone(), self.hub.handle.clone(), end),
            Err(error) => connection::Sent::over(Err(error)),
        };
        Sent::new(&self.hub, fate)
    }

    /// Waits until there is room in the queue, at most for `timeout`. It does not promise that no other thread takes it.
    pub fn wait_for_room(&self, timeout: Duration) -> Result<(), SendError> {
        self.room().wait_for(timeout)
    }

    /// Done when there is room in the queue.
    pub fn room(&self) -> Pending<(), SendError> {
        room_on(&self.hub, &self.link)
    }

    /// Bytes of messages that the connection has not taken yet.
    pub fn queued(&self) -> usize {
        self.link.waiting()
    }

    #[inline]
    fn queue(&self, kind: Kind, name: &str, body: &[u8]) -> Result<(), SendError> {
        queue(&self.hub, &self.link, kind, name, body).map(drop)
    }
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Outgoing({:?})", self.link)
    }
}

/// Done when there is room in the queue of a link.
pub(crate) fn room_on(hub: &Arc<Hub>, link: &Link) -> Pending<(), SendError> {
    match link.when_room(&hub.handle) {
        Ok(None) => Pending::known(hub, Ok(())),
        Ok(Some(answer)) => Pending::asked(hub, answer),
        Err(error) => Pending::known(hub, Err(error)),
    }
}

/// Queues a message for one peer and gives the place after it.
#[inline]
fn queue(hub: &Hub, link: &Link, kind: Kind, name: &str, body: &[u8]) -> Result<u64, SendError> {
    link.queue(&hub.handle, kind, name, body)
}

impl Hub {
    /// The way to a peer.
    pub(crate) fn link_to(&self, peer: &PeerId) -> Result<Arc<Link>, SendError> {
        self.roster.link_to(peer).ok_or_else(not_connected)
    }

    /// Sends a JSON value to one peer.
    pub(crate) fn send_json<T: Serialize + ?Sized>(
        self: &Arc<Hub>,
        peer: &PeerId,
        kind: &str,
        value: &T,
    ) -> Sent {
        let sent = with_json(value, |body| Ok(self.send(peer, Kind::Json, kind, body)));
        sent.unwrap_or_else(|error| Sent::new(self, connection::Sent::over(Err(error))))
    }

    /// Sends a message to one peer.
    pub(crate) fn send(
        self: &Arc<Hub>,
        peer: &PeerId,
        kind: Kind,
        name: &str,
        body: &[u8],
    ) -> Sent {
        let fate = match self.link_to(peer) {
            Ok(link) => self.send_over(link, kind, name, body),
            Err(error) => connection::Sent::over(Err(error)),
        };
        Sent::new(self, fate)
    }

    /// Sends a JSON value to every connected peer.
    pub(crate) fn broadcast_json<T: Serialize + ?Sized>(
        self: &Arc<Hub>,
        kind: &str,
        value: &T,
    ) -> Broadcast {
        let sent = with_json(value, |body| Ok(self.broadcast(Kind::Json, kind, body)));
        sent.unwrap_or_else(|error| Broadcast::refused(self, error))
    }

    /// Sends bytes that are not copied if they are many.
    pub(crate) fn send_shared(self: &Arc<Hub>, peer: &PeerId, bytes: &Arc<[u8]>) -> Sent {
        let fate = match self.link_to(peer) {
            Ok(link) => {
                let queued = link.queue_shared(&self.handle, Kind::Bytes, "", bytes);
                self.fate(link, queued)
            }
            Err(error) => connection::Sent::over(Err(error)),
        };
        Sent::new(self, fate)
    }

    /// Sends a message to every connected peer.
    pub(crate) fn broadcast(self: &Arc<Hub>, kind: Kind, name: &str, body: &[u8]) -> Broadcast {
        let links = self.roster.links();
        let ways = links.into_iter().map(|link| (*link.peer(), Ok(link)));
        self.send_to_all(ways.collect(), kind, name, body)
    }

    /// Sends a message to each of these peers.
    pub(crate) fn send_to(
        self: &Arc<Hub>,
        peers: &[PeerId],
        kind: Kind,
        name: &str,
        body: &[u8],
    ) -> Broadcast {
        let ways = peers.iter().map(|peer| (*peer, self.link_to(peer)));
        self.send_to_all(ways.collect(), kind, name, body)
    }

    /// Sends a JSON value to each of these peers.
    pub(crate) fn send_json_to<T: Serialize + ?Sized>(
        self: &Arc<Hub>,
        peers: &[PeerId],
        kind: &str,
        value: &T,
    ) -> Broadcast {
        let sent = with_json(value, |body| {
            Ok(self.send_to(peers, Kind::Json, kind, body))
        });
        sent.unwrap_or_else(|error| Broadcast::refused(self, error))
    }

    /// A large body is copied once for all of them.
    fn send_to_all(
        self: &Arc<Hub>,
        ways: Vec<(PeerId, Result<Arc<Link>, SendError>)>,
        kind: Kind,
        name: &str,
        body: &[u8],
    ) -> Broadcast {
        let mut fates = Vec::with_capacity(ways.len());
        let is_shared = ways.len() > 1 && body.len() > RECORD_BYTES_MAX;
        let shared: Option<Arc<[u8]>> = is_shared.then(|| Arc::from(body));
        for (peer, link) in ways {
            let link = match link {
                Ok(link) => link,
                Err(error) => {
                    fates.push((peer, connection::Sent::over(Err(error))));
                    continue;
                }
            };
            let queued = match &shared {
                Some(shared) => link.queue_shared(&self.handle, kind, name, shared),
                None => queue(self, &link, kind, name, body),
            };
            if let Err(error @ SendError::Encode(_)) = queued {
                // The others would say the same.
                return Broadcast::refused(self, error);
            }
            fates.push((peer, self.fate(link, queued)));
        }
        Broadcast::new(self, fates)
    }

    fn send_over(&self, link: Arc<Link>, kind: Kind, name: &str, body: &[u8]) -> connection::Sent {
        let queued = queue(self, &link, kind, name, body);
        self.fate(link, queued)
    }

    fn fate(&self, link: Arc<Link>, queued: Result<u64, SendError>) -> connection::Sent {
        match queued {
            Ok(end) => connection::Sent::queued(link, self.handle.clone(), end),
            Err(error) => connection::Sent::over(Err(error)),
        }
    }
}

fn not_connected() -> SendError {
    SendError::Gone(Arc::from("not connected"))
}

/// Hands the value as JSON to `run`. The header of a record holds the length of its body, so the body is written apart
/// and copied once; the thread keeps the memory for it.
fn with_json<T: Serialize + ?Sized, R>(
    value: &T,
    run: impl FnOnce(&[u8]) -> Result<R, SendError>,
) -> Result<R, SendError> {
    with_scratch(|scratch| {
        write_json(scratch, value)?;
        run(scratch)
    })
}

/// Hands an empty buffer to `run`, whose memory the thread keeps.
pub(crate) fn with_scratch<R>(run: impl FnOnce(&mut Vec<u8>) -> R) -> R {
    // Taken out for the while: serializing is foreign code, which may itself send something.
    let mut scratch = SCRATCH.take();
    scratch.clear();
    let result = run(&mut scratch);
    scratch.clear();
    scratch.shrink_to(SCRATCH_KEPT);
    SCRATCH.set(scratch);
    result
}

/// Appends a value as JSON, if its receiver will take it.
pub(crate) fn write_json<T: Serialize + ?Sized>(
    out: &mut Vec<u8>,
    value: &T,
) -> Result<(), SendError> {
    let start = out.len();
    let bad = |why: String| SendError::BadValue(Arc::from(why));
    serde_json::to_writer(&mut *out, value)
        .map_err(|error| bad(io::Error::from(error).to_string()))?;
    check_depth(&out[start..]).map_err(|error| bad(error.to_string()))
}
