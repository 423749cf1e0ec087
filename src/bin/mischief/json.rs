//! The front for programs: JSON lines on stdin and stdout, as `docs/json.md` describes them.

mod network;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::BASE64;
use mischief::json::{
    Answer, Command, ErrorKind, Event, Line, LineReader, PeerEntry, Receivers, Reply, Request,
    RequestError, RequestId, SendFailure, parse, requests, to_line, with_notice_event,
};
use mischief::{
    Broadcast, Kind, Message, Node, NodeError, NodeEvent, PeerId, PeerIdPrefix, PeerInfo,
    SendError, Sent,
};
use serde_json::Value;

use crate::args::NodeArgs;
use crate::dht;
use crate::failure::Failure;
use crate::logger;
use crate::mdns;
use crate::node::{self, Cause, Front, Session};
use crate::output::Output;
use crate::pending::Pending;
use crate::requests::{Desk, Tell};

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
        NodeEvent::Network(notice) => {
            let Some(line) = with_notice_event(notice, |event| to_line(event)) else {
                return;
            };
            line
        }
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
        requests: Desk::new(Teller(session.output.clone())),
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
    requests: Desk<Teller>,
}

/// Writes what happens to requests of peers.
struct Teller(Output);

impl Tell for Teller {
    fn asked(&self, request: u64, asked: &mischief::Request<'_>, data: &Value) {
        let event = requests::Event::Request {
            request,
            peer: &asked.peer().to_string(),
            kind: asked.name(),
            data,
        };
        let _ = self.0.put(&to_line(&event));
    }

    fn cancelled(&self, request: u64) {
        let event = requests::Event::RequestCancelled { request };
        let _ = self.0.offer(&to_line(&event));
    }
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
            Ok(Command::Send { to, kind, data }) => match to {
                Receivers::One(peer) => {
                    self.send(size, id, &peer, |peer| node.send(peer, &kind, &data))
                }
                Receivers::Each(peers) => {
                    self.send_each(size, id, &peers, |peers| node.send_to(peers, &kind, &data))
                }
                Receivers::All => self.broadcast(size, id, node.broadcast(&kind, &data)),
            },
            Ok(Command::SendText { to, text }) => match to {
                Receivers::One(peer) => {
                    self.send(size, id, &peer, |peer| node.send_text(peer, &text))
                }
                Receivers::Each(peers) => {
                    self.send_each(size, id, &peers, |peers| node.send_text_to(peers, &text))
                }
                Receivers::All => self.broadcast(size, id, node.broadcast_text(&text)),
            },
            Ok(Command::SendBytes { to, bytes }) => match to {
                Receivers::One(peer) => {
                    self.send(size, id, &peer, |peer| node.send_bytes(peer, &bytes))
                }
                Receivers::Each(peers) => {
                    self.send_each(size, id, &peers, |peers| node.send_bytes_to(peers, &bytes))
                }
                Receivers::All => self.broadcast(size, id, node.broadcast_bytes(&bytes)),
            },
            Ok(Command::Network(command)) => self.carry_out_network(size, id, command),
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
            Ok(Command::Requests(command)) => self.about_requests(size, id, command),
        }
    }

    fn about_requests(&self, size: usize, id: RequestId, command: requests::Command) {
        let result = match command {
            requests::Command::Request {
                peer,
                kind,
                data,
                timeout,
            } => return self.request(size, id, &peer, &kind, &data, timeout),
            requests::Command::Handle { kind } => {
                self.requests.handle(&self.session.node, kind);
                Ok(())
            }
            requests::Command::Unhandle { kind } => self.requests.unhandle(&kind),
            requests::Command::Reply { request, data } => {
                return self.reply(size, id, request, data);
            }
            requests::Command::Refuse { request, reason } => self.requests.refuse(request, &reason),
        };
        self.answer(&id, result.map(|()| Answer::Done {}));
    }

    fn reply(&self, size: usize, id: RequestId, request: u64, data: Value) {
        let replying = match self.requests.reply(request, &data) {
            Ok(replying) => replying,
            Err(error) => return self.answer(&id, Err(error)),
        };
        let output = self.session.output.clone();
        self.wait(size, async move {
            let result = replying.await.map(|()| Answer::Done {});
            answer(&output, &id, result);
        });
    }

    fn request(
        &self,
        size: usize,
        id: RequestId,
        peer: &PeerIdPrefix,
        kind: &str,
        data: &Value,
        timeout: Duration,
    ) {
        let node = &self.session.node;
        let asked = match node::find_peer(node, peer) {
            Ok(peer) => node.request(&peer, kind, data, timeout),
            Err(error) => return self.answer(&id, Err(error)),
        };
        let output = self.session.output.clone();
        self.wait(size, async move {
            let body = match asked.await {
                Ok(body) => body,
                Err(error) => {
                    let error = RequestError::of_kind(error.kind(), error);
                    return answer(&output, &id, Err(error));
                }
            };
            let data = match (body.kind(), body.as_text()) {
                (Kind::Json, _) => body.to_json().map_err(|error| {
                    let message = format!("the answer is no JSON: {error}");
                    RequestError::new(ErrorKind::HandlerFailed, message)
                }),
                (_, Some(text)) => Ok(Value::from(text)),
                _ => {
                    let base64 = &BASE64.encode(body.as_bytes());
                    let bytes = Answer::Request(requests::Answer::Bytes { base64 });
                    return answer(&output, &id, Ok(bytes));
                }
            };
            let data = data.as_ref().map_err(RequestError::clone);
            let data = data.map(|data| Answer::Request(requests::Answer::Data { data }));
            answer(&output, &id, data);
        });
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
        peer: &PeerIdPrefix,
        send: impl FnOnce(&PeerId) -> Sent,
    ) {
        let sending = match node::find_peer(&self.session.node, peer) {
            Ok(peer) => send(&peer),
            Err(error) => return self.answer(&id, Err(error)),
        };
        let output = self.session.output.clone();
        self.wait(size, async move {
            let result = sending.await.map(|()| Answer::Done {});
            answer(&output, &id, result.map_err(send_error));
        });
    }

    fn broadcast(&self, size: usize, id: RequestId, sending: Broadcast) {
        let output = self.session.output.clone();
        self.wait(size, async move {
            let result = sending.await.map(|delivered| Answer::Sent {
                sent: delivered.sent,
                failed: delivered.failed,
            });
            answer(&output, &id, result.map_err(send_error));
        });
    }

    fn send_each(
        &self,
        size: usize,
        id: RequestId,
        peers: &[PeerIdPrefix],
        send: impl FnOnce(&[PeerId]) -> Broadcast,
    ) {
        let (mut found, mut names, mut errors) = (Vec::new(), Vec::new(), Vec::new());
        for prefix in peers {
            let peer = prefix.to_string();
            match node::find_peer(&self.session.node, prefix) {
                Ok(id) => {
                    found.push(id);
                    names.push(peer);
                }
                Err(error) => errors.push(SendFailure { peer, error }),
            }
        }
        let sending = send(&found).each();
        let output = self.session.output.clone();
        self.wait(size, async move {
            let each = match sending.await {
                Ok(each) => each,
                Err(error) => return answer(&output, &id, Err(send_error(error))),
            };
            let count = each.len() + errors.len();
            for (peer, (_, result)) in names.into_iter().zip(each) {
                if let Err(error) = result.map_err(send_error) {
                    errors.push(SendFailure { peer, error });
                }
            }
            let failed = errors.len();
            let sent = Answer::SentEach {
                sent: count - failed,
                failed,
                errors,
            };
            answer(&output, &id, Ok(sent));
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

fn send_error(error: SendError) -> RequestError {
    RequestError::of_kind(error.kind(), error)
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
