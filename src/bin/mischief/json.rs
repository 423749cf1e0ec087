//! The front for programs: JSON lines on stdin and stdout, as `docs/json.md` describes them.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::BASE64;
use mischief::json::{
    Answer, Command, Event, Line, LineReader, PeerEntry, Reply, Request, RequestError, RequestId,
    parse, to_line,
};
use mischief::{
    Broadcast, Message, Node, NodeError, NodeEvent, PeerId, PeerIdPrefix, PeerInfo, Sent,
};

use crate::args::NodeArgs;
use crate::dht;
use crate::failure::Failure;
use crate::logger;
use crate::mdns;
use crate::node::{self, Cause, Front, Session};
use crate::output::Output;
use crate::pending::Pending;

pub(crate) const FRONT: Front = Front {
    lost_line: |count| to_line(&Event::Lost { count }),
    prepare,
    introduce,
    start,
    last_line: |reason| to_line(&Event::Stopped { reason }),
};

fn introduce(node: &Node, args: &NodeArgs) -> Vec<u8> {
    to_line(&Event::Ready {
        peer_id: &node.id().to_string(),
        listen: node.listen_addrs(),
        protocol: &format!("{}/{}", args.protocol.name, args.protocol.version),
        version: env!("CARGO_PKG_VERSION"),
    })
}

/// Hands messages and events to the output, from the thread that calls back, so that their order stays. While the output
/// is full, messages hold that thread up and with it the credit of their senders; events are dropped and counted.
fn prepare(node: &Node, output: &Output) {
    let to_output = output.clone();
    node.on_any(move |peer, message| pass_message_on(&to_output, peer, message));
    let to_output = output.clone();
    node.on_event(move |event| pass_event_on(&to_output, event));
}

fn pass_message_on(output: &Output, peer: &PeerId, message: &Message<'_>) {
    let peer = &peer.to_string();
    let line = match message {
        Message::Json { name, value } => to_line(&Event::Message {
            peer,
            kind: name,
            data: value,
        }),
        Message::Text(text) => to_line(&Event::Text { peer, text }),
        Message::Bytes(bytes) => to_line(&Event::Bytes {
            peer,
            base64: &BASE64.encode(bytes),
        }),
        _ => return,
    };
    // A closed output ends the program by itself, here and below.
    let _ = output.put(&line);
}

fn pass_event_on(output: &Output, event: &NodeEvent) {
    let line = match event {
        NodeEvent::PeerConnected {
            peer,
            addr,
            direction,
            suite,
            name,
        } => to_line(&Event::PeerConnected {
            peer: &peer.to_string(),
            name: name.as_deref(),
            addr: *addr,
            direction: direction.name(),
            suite,
        }),
        NodeEvent::PeerDisconnected { peer, reason } => to_line(&Event::PeerDisconnected {
            peer: &peer.to_string(),
            reason: reason.kind(),
            message: &reason.to_string(),
        }),
        NodeEvent::DhtReady { nodes } => to_line(&Event::DhtReady { nodes: *nodes }),
        NodeEvent::DhtPeer { addr } => to_line(&Event::DhtPeer { addr: *addr }),
        NodeEvent::Error { message } => to_line(&Event::Error {
            kind: "internal",
            message,
        }),
        NodeEvent::Lost { count } => to_line(&Event::Lost {
            count: *count as u64,
        }),
        // `stopped` is told when everything else has been written.
        other => match mdns::event_line(other) {
            Some(line) => line,
            None => return,
        },
    };
    let _ = output.offer(&line);
}

fn start(session: &Session, args: &NodeArgs) -> Result<(), Failure> {
    let targets = args.connect.clone();
    let connecting = session.clone();
    let connect = move || {
        node::connect_all(&connecting, &targets, |failure| {
            let event = Event::Error {
                kind: failure.kind,
                message: &failure.message,
            };
            let _ = connecting.output.put(&to_line(&event));
        });
    };
    let input = Input {
        session: session.clone(),
        pending: Arc::new(Pending::default()),
    };
    if args.exit_on_eof {
        // The commands wait for the connections of the command line: the end may come right after them.
        return node::start_thread("stdin", move || {
            connect();
            input.read();
            input.pending.wait_until_idle();
            input.session.end(Cause::InputEnded);
        });
    }
    if !args.connect.is_empty() {
        node::start_thread("connect", connect)?;
    }
    node::start_thread("stdin", move || input.read())
}

struct Input {
    session: Session,
    pending: Arc<Pending>,
}

impl Input {
    fn read(&self) {
        let mut lines = LineReader::new(io::stdin().lock());
        loop {
            let (size, request) = match lines.next_line() {
                Ok(Some(Line::Whole(line))) => (line.len(), parse(line)),
                Ok(Some(Line::TooLong)) => (0, Some(Request::too_long())),
                Ok(None) => return,
                Err(error) => {
                    return logger::say("error", &format!("stdin cannot be read: {error}"));
                }
            };
            if let Some(request) = request {
                self.carry_out(size, request);
            }
        }
    }

    fn carry_out(&self, size: usize, Request { id, command }: Request) {
        let node = &self.session.node;
        match command {
            Err(error) => self.answer(&id, Err(error)),
            Ok(Command::Id) => {
                let peer_id = &node.id().to_string();
                self.answer(&id, Ok(Answer::Id { peer_id }));
            }
            Ok(Command::Peers) => self.list_peers(size, id),
            Ok(Command::Connect { addr, peer_id }) => self.connect(size, id, addr, peer_id),
            Ok(Command::Disconnect { peer }) => self.disconnect(size, id, &peer),
            Ok(Command::Send { peer, kind, data }) => self.send(
                size,
                id,
                peer,
                |peer| node.send(peer, &kind, &data),
                || node.broadcast(&kind, &data),
            ),
            Ok(Command::SendText { peer, text }) => self.send(
                size,
                id,
                peer,
                |peer| node.send_text(peer, &text),
                || node.broadcast_text(&text),
            ),
            Ok(Command::SendBytes { peer, bytes }) => self.send(
                size,
                id,
                peer,
                |peer| node.send_bytes(peer, &bytes),
                || node.broadcast_bytes(&bytes),
            ),
            Ok(Command::Stats) => {
                let stats = serde_json::to_value(node.stats())
                    .expect("figures have text keys and go to memory");
                self.answer(&id, Ok(Answer::Stats { stats }));
            }
            Ok(Command::Dht(command)) => self.ask_dht(size, id, command),
            Ok(Command::Mdns(command)) => {
                let (mdns, output) = (node.mdns(), self.session.output.clone());
                self.wait(size, async move {
                    let result = mdns::carry_out(mdns, command).await;
                    answer(&output, &id, result);
                });
            }
            Ok(Command::Shutdown) => {
                self.answer(&id, Ok(Answer::Done {}));
                self.session.end(Cause::Asked);
            }
        }
    }

    fn answer(&self, id: &RequestId, result: Result<Answer<'_>, RequestError>) {
        answer(&self.session.output, id, result);
    }

    fn ask_dht(&self, size: usize, id: RequestId, command: mischief::json::dht::Command) {
        let output = self.session.output.clone();
        let asked = dht::carry_out(&self.session.node, command);
        self.wait(size, async move {
            answer(&output, &id, asked.await.map(Answer::Dht));
        });
    }

    fn list_peers(&self, size: usize, id: RequestId) {
        let asked = self.session.node.peers();
        let output = self.session.output.clone();
        self.wait(size, async move {
            let peers = asked.await.map_err(node_error);
            let peers = match &peers {
                Ok(peers) => peers,
                Err(error) => return answer(&output, &id, Err(error.clone())),
            };
            let ids: Vec<String> = peers.iter().map(|info| info.peer.to_string()).collect();
            let entries = peers.iter().zip(&ids).map(|(info, id)| entry(info, id));
            let peers = entries.collect();
            answer(&output, &id, Ok(Answer::Peers { peers }));
        });
    }

    fn connect(&self, size: usize, id: RequestId, addr: String, peer: Option<PeerId>) {
        let connecting = node::connect(&self.session.node, &addr, peer);
        let session = self.session.clone();
        self.wait(size, async move {
            let result = connecting.await.map(|peer| peer.to_string());
            let result = match &result {
                Ok(peer) => Ok(Answer::Connected { peer }),
                Err(error) => {
                    session.note(&Failure::to_connect(&addr, error.kind(), error));
                    Err(RequestError::of_kind(error.kind(), error))
                }
            };
            answer(&session.output, &id, result);
        });
    }

    fn disconnect(&self, size: usize, id: RequestId, peer: &PeerIdPrefix) {
        let asked = match node::find_peer(&self.session.node, peer) {
            Ok(peer) => self.session.node.disconnect(&peer),
            Err(error) => return self.answer(&id, Err(error)),
        };
        let output = self.session.output.clone();
        self.wait(size, async move {
            let result = asked.await.map(|()| Answer::Done {});
            answer(&output, &id, result.map_err(node_error));
        });
    }

    fn send(
        &self,
        size: usize,
        id: RequestId,
        peer: Option<PeerIdPrefix>,
        to_one: impl FnOnce(&PeerId) -> Sent,
        to_all: impl FnOnce() -> Broadcast,
    ) {
        let output = self.session.output.clone();
        let Some(peer) = peer else {
            let sending = to_all();
            return self.wait(size, async move {
                let result = sending.await.map(|delivered| Answer::Sent {
                    sent: delivered.sent,
                    failed: delivered.failed,
                });
                let result = result.map_err(|error| RequestError::of_kind(error.kind(), error));
                answer(&output, &id, result);
            });
        };
        let sending = match node::find_peer(&self.session.node, &peer) {
            Ok(peer) => to_one(&peer),
            Err(error) => return self.answer(&id, Err(error)),
        };
        self.wait(size, async move {
            let result = sending.await.map(|()| Answer::Done {});
            let result = result.map_err(|error| RequestError::of_kind(error.kind(), error));
            answer(&output, &id, result);
        });
    }

    fn wait(&self, size: usize, work: impl Future<Output = ()> + Send + 'static) {
        if let Err(error) = self.pending.add(size, work) {
            let message = format!("no thread for commands that wait: {error}");
            logger::say("error", &message);
            self.session.end(Cause::Asked);
        }
    }
}

fn answer(output: &Output, id: &RequestId, result: Result<Answer<'_>, RequestError>) {
    let _ = output.put(&to_line(&Reply::new(id, result)));
}

fn node_error(error: NodeError) -> RequestError {
    RequestError::of_kind(error.kind(), error)
}

fn entry<'a>(info: &'a PeerInfo, peer: &'a str) -> PeerEntry<'a> {
    let micros = |rtt: Duration| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX);
    PeerEntry {
        peer,
        name: info.name.as_deref(),
        addr: info.addr,
        direction: info.direction.name(),
        since: info.since.as_unix_secs(),
        suite: info.suite,
        rtt_us: info.rtt.map(micros),
        bytes_in: info.bytes_in,
        bytes_out: info.bytes_out,
        messages_in: info.messages_in,
        messages_out: info.messages_out,
    }
}
