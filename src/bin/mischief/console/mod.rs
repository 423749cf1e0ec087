//! The front for people: typed lines go out, what peers say and what happens comes in.

mod network;
mod requests;
mod text;

use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mischief::json::{Line, LineReader};
use mischief::terminal::shown;
use mischief::{Message, Node, NodeEvent, PeerId, PeerIdPrefix, PeerInfo};

use crate::args::{NodeArgs, Target};
use crate::failure::Failure;
use crate::logger;
use crate::node::{self, Cause, Front, Session};
use crate::output::Output;
use crate::pending::Pending;
use crate::requests::Desk;
use requests::{Teller, say_error};
use text::{HELP, Style, Typed, bytes, peer_label, quoted, table, understand};

/// The longest value of a peer that is shown whole, in characters.
const VALUE_CHARS_MAX: usize = 1000;

/// How long a peer that takes nothing may keep the next typed line waiting.
const SAY_PATIENCE: Duration = Duration::from_secs(5);

pub(crate) const FRONT: Front = Front {
    lost_line: |count| style().notice(missing(count)).into_bytes(),
    prepare,
    introduce,
    start,
    last_line: |_| Vec::new(),
};

fn style() -> Style {
    Style::choose(io::stdout().is_terminal(), |name| std::env::var_os(name))
}

fn missing(count: u64) -> String {
    format!("{count} notices are missing here: the output was not read in time")
}

fn introduce(node: &Node, args: &NodeArgs) -> Vec<u8> {
    let style = style();
    let mut lines = style.notice(format_args!("this node is {}", node.id()));
    for addr in node.listen_addrs() {
        lines += &style.notice(format_args!("listening on {addr}"));
    }
    let reachable = node.reachable_addrs();
    let (heading, addrs) = match reachable.is_empty() {
        false => (
            "to connect to it from another machine, type there:",
            reachable.as_slice(),
        ),
        true => (
            "to connect to it from this machine, type:",
            node.listen_addrs(),
        ),
    };
    lines += &style.notice(heading);
    for addr in addrs {
        lines += &format!("    {}\n", command_for(&addr.to_string(), args));
    }
    lines += &style.notice("what you type goes to all connected peers; /help lists the commands");
    lines.into_bytes()
}

/// What to type elsewhere to connect to this node at `addr`.
fn command_for(addr: &str, args: &NodeArgs) -> String {
    let mut command = format!("mischief node --connect {}", quoted(addr));
    let protocol = &args.protocol;
    if (protocol.name.as_str(), protocol.version.as_str()) != ("mischief", "1.0") {
        let protocol = format!("{}/{}", protocol.name, protocol.version);
        command += &format!(" --protocol {}", quoted(&protocol));
    }
    if let Some(path) = &args.network_key_file {
        let path = path.display().to_string();
        command += &format!(" --network-key-file {}", quoted(&path));
    }
    command
}

/// What the connected peers are called.
#[derive(Default)]
struct Labels(Mutex<BTreeMap<PeerId, String>>);

impl Labels {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<PeerId, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(&self, peer: &PeerId) -> String {
        let label = self.lock().get(peer).cloned();
        label.unwrap_or_else(|| peer.short().to_string())
    }
}

/// Has everything shown that peers send and that happens.
fn prepare(node: &Node, output: &Output) {
    let style = style();
    let labels = Arc::new(Labels::default());
    let (to_output, named) = (output.clone(), labels.clone());
    node.on_any(move |peer, message| {
        let text = match message {
            Message::Text(text) => (*text).to_owned(),
            Message::Json { name, value } => {
                format!("[{name}] {}", shown(&value.to_string(), VALUE_CHARS_MAX))
            }
            Message::Bytes(body) => format!("[{}]", bytes(body.len() as u64)),
            _ => return,
        };
        let _ = to_output.put(style.message(named.of(peer), &text).as_bytes());
    });
    let to_output = output.clone();
    node.on_event(move |event| {
        if let Some(notice) = notice_of(event, &labels) {
            let notice = style.notice(shown(&notice, VALUE_CHARS_MAX));
            let _ = to_output.offer(notice.as_bytes());
        }
    });
}

fn notice_of(event: &NodeEvent, labels: &Labels) -> Option<String> {
    Some(match event {
        NodeEvent::PeerConnected {
            peer,
            addr,
            direction,
            suite,
            name,
        } => {
            let label = peer_label(&peer.short().to_string(), name.as_deref());
            labels.lock().insert(*peer, label.clone());
            let way = match direction {
                mischief::Direction::Inbound => "from",
                mischief::Direction::Outbound => "to",
            };
            format!("connected {way} {label} at {addr}, encrypted with {suite}")
        }
        NodeEvent::PeerDisconnected { peer, reason } => {
            let label = labels.of(peer);
            labels.lock().remove(peer);
            format!("{label} is gone: {reason}")
        }
        NodeEvent::Network(notice) => notice.to_string(),
        NodeEvent::Error { message } => {
            logger::say("warning", message);
            return None;
        }
        NodeEvent::Lost { count } => missing(*count as u64),
        _ => return None,
    })
}

fn start(session: &Session, args: &NodeArgs) -> Result<(), Failure> {
    let console = Console {
        session: session.clone(),
        style: style(),
        requests: Desk::new(Teller::new(session)),
        pending: Arc::new(Pending::default()),
    };
    let is_typed = io::stdin().is_terminal();
    let ends_at_eof = args.exit_on_eof || is_typed;
    let targets = args.connect.clone();
    if is_typed {
        let connecting = console.clone();
        node::start_thread("connect", move || connecting.connect_all(&targets))?;
        return node::start_thread("stdin", move || console.read_input(ends_at_eof));
    }
    // What is piped in is meant for the peers that the command line names.
    node::start_thread("stdin", move || {
        console.connect_all(&targets);
        console.read_input(ends_at_eof);
    })
}

#[derive(Clone)]
struct Console {
    session: Session,
    style: Style,
    requests: Desk<Teller>,
    pending: Arc<Pending>,
}

impl Console {
    fn connect_all(&self, targets: &[Target]) {
        node::connect_all(&self.session, targets, |failure| {
            logger::say("error", &failure.message);
        });
    }

    fn read_input(&self, ends_at_eof: bool) {
        let mut lines = LineReader::new(io::stdin().lock());
        loop {
            match lines.next_line() {
                Ok(Some(Line::Whole(line))) => match std::str::from_utf8(line) {
                    Ok(line) => self.act(understand(line)),
                    Err(_) => logger::say("error", "the line is not UTF-8 and was not sent"),
                },
                Ok(Some(Line::TooLong)) => {
                    logger::say("error", "the line is too long and was not sent");
                }
                Ok(None) => break,
                Err(error) => {
                    logger::say("error", &format!("stdin cannot be read: {error}"));
                    break;
                }
            }
        }
        if ends_at_eof {
            self.session.end(Cause::InputEnded);
        }
    }

    fn act(&self, typed: Typed<'_>) {
        let node = &self.session.node;
        match typed {
            Typed::Nothing => {}
            Typed::Say(text) => self.say(text),
            Typed::Peers => self.list_peers(),
            Typed::Connect(addr) => self.connect(addr),
            Typed::Disconnect(peer) => self.disconnect(peer),
            Typed::Request { peer, kind, data } => self.request(peer, kind, data),
            Typed::Handle(kind) => self.handle(kind),
            Typed::Unhandle(kind) => say_error(self.requests.unhandle(kind)),
            Typed::Reply(number, data) => {
                say_error(self.reply(number, data));
            }
            Typed::Refuse(number, reason) => say_error(self.requests.refuse(number, reason)),
            Typed::Network(typed) => self.act_on_network(typed),
            Typed::Id => self.print(&format!("{}\n", node.id())),
            Typed::Help => self.print(&format!("{HELP}\n")),
            Typed::Quit => self.session.end(Cause::Asked),
            Typed::Wrong(message) => logger::say("error", &message),
        }
    }

    fn say(&self, text: &str) {
        match self
            .session
            .node
            .broadcast_text(text)
            .wait_for(SAY_PATIENCE)
        {
            Ok(result) if result.sent + result.failed == 0 => {
                self.notice("nobody is connected: /connect ADDR connects to another node");
            }
            Ok(result) if result.failed > 0 => self.notice(format_args!(
                "sent to {} peers, but not to {}",
                result.sent, result.failed
            )),
            Ok(_) => {}
            Err(error) => logger::say("error", &error.to_string()),
        }
    }

    fn list_peers(&self) {
        match self.session.node.peers().wait() {
            Ok(peers) if peers.is_empty() => self.notice("nobody is connected"),
            Ok(peers) => self.print(&peers_table(&peers)),
            Err(error) => logger::say("error", &error.to_string()),
        }
    }

    /// Typing goes on while the connection is made.
    fn connect(&self, addr: &str) {
        let target: Target = match addr.parse() {
            Ok(target) => target,
            Err(error) => return logger::say("error", &error),
        };
        let connecting = node::connect(&self.session.node, &target.addr, target.peer);
        let session = self.session.clone();
        let started = node::start_thread("connect", move || {
            if let Err(error) = connecting.wait() {
                let failure = Failure::to_connect(&target.addr, error.kind(), &error);
                logger::say("error", &failure.message);
                session.note(&failure);
            }
        });
        if let Err(failure) = started {
            logger::say("error", &failure.message);
        }
    }

    fn disconnect(&self, text: &str) {
        let prefix: PeerIdPrefix = match text.parse() {
            Ok(prefix) => prefix,
            Err(error) => {
                return logger::say("error", &format!("{}: {error}", shown(text, 60)));
            }
        };
        let node = &self.session.node;
        let result = node::find_peer(node, &prefix)
            .map_err(|error| error.message)
            .and_then(|peer| {
                let disconnected = node.disconnect(&peer).wait();
                disconnected.map_err(|error| error.to_string())
            });
        if let Err(message) = result {
            logger::say("error", &message);
        }
    }

    fn notice(&self, text: impl std::fmt::Display) {
        self.print(&self.style.notice(text));
    }

    /// Waits while the output is not read. Who does not read what a peer says holds that peer up.
    fn print(&self, text: &str) {
        // A closed output ends the program by itself.
        let _ = self.session.output.put(text.as_bytes());
    }
}

fn peers_table(peers: &[PeerInfo]) -> String {
    let head = ["PEER", "ADDRESS", "ROUND TRIP", "IN", "OUT", "SUITE"].map(String::from);
    let rows = peers.iter().map(|info| {
        let rtt = info
            .rtt
            .map(|rtt| format!("{:.2} ms", rtt.as_secs_f64() * 1e3));
        vec![
            peer_label(&info.peer.short().to_string(), info.name.as_deref()),
            info.addr.to_string(),
            rtt.unwrap_or_else(|| "-".into()),
            bytes(info.bytes_in),
            bytes(info.bytes_out),
            info.suite.to_owned(),
        ]
    });
    let rows: Vec<Vec<String>> = std::iter::once(head.to_vec()).chain(rows).collect();
    table(&rows)
}
