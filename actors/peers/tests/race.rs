//! Two nodes, their connections and everything that can happen between them, in every order.
//!
//! A [`World`] holds two real [`Peers`] machines and a model of what stands between them: for each connection two ends, the
//! bytes on the way in either direction, and the messages between each end's actor and its node's `peers` actor, which are
//! delivered one at a time as well. [`explore`] walks through every reachable state; [`random_walks`] draws from larger ones.

use std::collections::hash_map::DefaultHasher;
use std::collections::{HashSet, VecDeque};
use std::fmt::Write;
use std::hash::{Hash, Hasher};
use std::io;
use std::time::Duration;

use mischief_reactor::Instant;

use super::super::Peers;
use crate::connection::{
    AttemptFailure, DialError, DisconnectReason, FailedAttempt, RefusedReason, parse_addr,
};
use crate::peers::{
    Answer, DialId, Introduction, Order, PeerId, PeersEvent, PeersLimits, ProbeToken, RequestId,
    Suite,
};

/// When worlds begin.
const START: Instant = Instant::from_nanos(1_000_000_000_000);

/// What travels between the two ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Net {
    Message3,
    Accept,
    Ping(ProbeToken),
    Pong(ProbeToken),
    Close(RefusedReason),
    Fin,
}

/// What an end's actor tells its `peers` actor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Note {
    Identified,
    Inbound,
    Accepted,
    Alive(ProbeToken),
    Closed(DisconnectReason),
    DialFailed(AttemptReason),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum AttemptReason {
    Refused(RefusedReason),
    Closed,
}

/// What a `peers` actor tells the actor of an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Command {
    Proceed,
    Keep,
    Probe(ProbeToken),
    Refuse(RefusedReason),
    Close,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    /// A responder that has not seen message 3, or a dialler that has not seen message 2.
    Young,
    /// A dialler that waits with message 3 for its `peers`.
    Identified,
    /// A dialler that waits for the peer's `Accept`.
    Proposed,
    /// Waits for its `peers` to keep it: a responder after message 3, a dialler after `Accept`.
    Undecided,
    Live,
    Dead,
}

#[derive(Clone, Debug, Hash)]
struct End {
    stage: Stage,
    /// A ping that is answered when the connection is kept.
    ping: Option<ProbeToken>,
    notes: VecDeque<Note>,
    commands: VecDeque<Command>,
    /// What is on the way to this end.
    net: VecDeque<Net>,
}

#[derive(Clone, Debug, Hash)]
struct Link {
    dialler: usize,
    dial: Option<DialId>,
    ends: [End; 2],
    /// Swallows everything without a word.
    is_silent: bool,
    /// The dialler's `peers` has seen the peer's `Accept`, or the peer has seen a sign of that.
    is_accepted: bool,
    /// A fault has hit it, or one of its nodes has restarted.
    is_hit: bool,
    /// It was over, or was ended on purpose, before the last fault: it is no way to a connection any more.
    is_spent: bool,
}

impl Link {
    fn new(dialler: usize) -> Link {
        let end = End {
            stage: Stage::Young,
            ping: None,
            notes: VecDeque::new(),
            commands: VecDeque::new(),
            net: VecDeque::new(),
        };
        Link {
            dialler,
            dial: None,
            ends: [end.clone(), end],
            is_silent: false,
            is_accepted: false,
            is_hit: false,
            is_spent: false,
        }
    }
}

/// One thing that can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    /// A dialler learns from message 2 who it has reached.
    Identify {
        link: usize,
    },
    Net {
        link: usize,
        node: usize,
    },
    Note {
        link: usize,
        node: usize,
    },
    Command {
        link: usize,
        node: usize,
    },
    /// A fault: the connection is reset, what was on the way is lost, both ends notice.
    Reset {
        link: usize,
    },
    /// A fault: the connection swallows everything from now on.
    Silence {
        link: usize,
    },
    /// A fault: one end gives the connection up; the other learns it behind what was on the way.
    GiveUp {
        link: usize,
        node: usize,
    },
    /// A fault: a node's timer fires as if everything else were that slow.
    Timer {
        node: usize,
    },
    /// A node's user asks to connect to an address of the other that was not asked for before.
    Dial {
        node: usize,
    },
    /// A node's user disconnects the other.
    Disconnect {
        node: usize,
    },
    /// A node dies and starts again with nothing; its old connections are silent, or reset when they are written to.
    Restart {
        node: usize,
        is_silent: bool,
    },
}

/// What may still be done to a world besides letting it run.
#[derive(Clone, Copy, Debug, Default, Hash)]
struct Budget {
    faults: u32,
    dials: [u32; 2],
    disconnects: u32,
    restarts: u32,
}

impl Action {
    /// Whether it only happens if somebody wants it to.
    fn is_extra(self) -> bool {
        !matches!(
            self,
            Action::Identify { .. }
                | Action::Net { .. }
                | Action::Note { .. }
                | Action::Command { .. }
        )
    }
}

/// What each node's owner has seen.
#[derive(Clone, Debug, Default, Hash, PartialEq, Eq)]
struct Seen {
    connected: u32,
    disconnected: u32,
    answered_well: u32,
    answered_ill: u32,
}

#[derive(Clone)]
struct World {
    now: Instant,
    nodes: [Peers<u32>; 2],
    links: Vec<Link>,
    seen: [Seen; 2],
    requests: [u32; 2],
    /// Whether messages between actors of one node take their time.
    is_async: bool,
    /// Whether a dialler answers pings between the peer's `Accept` and its own `peers`' word.
    answers_early: bool,
    /// Timers that fired too early.
    early_timers: u32,
    budget: Budget,
    was_disconnected: bool,
    /// Faults, disconnects and restarts so far.
    disturbances: u32,
    /// Those since the last dial began.
    since_dial: u32,
    /// One of these hit a connection that was in use, so ending without one is no mistake.
    was_late: bool,
}

fn id(node: usize) -> PeerId {
    PeerId::from_bytes([node as u8 + 1; 32])
}

fn endpoint(link: usize) -> crate::connection::Endpoint {
    parse_addr(&format!("10.0.0.1:{}", 9000 + link)).unwrap()
}

impl World {
    fn new(is_async: bool, budget: Budget) -> World {
        let node = |node| Peers::new(id(node), PeersLimits::default());
        World {
            now: START,
            nodes: [node(0), node(1)],
            links: Vec::new(),
            seen: Default::default(),
            requests: [0; 2],
            is_async,
            answers_early: false,
            early_timers: 0,
            budget,
            was_disconnected: false,
            disturbances: 0,
            since_dial: 0,
            was_late: false,
        }
    }

    /// `node` begins to dial the other.
    fn dial(&mut self, node: usize) {
        let link = self.links.len();
        self.links.push(Link::new(node));
        let request = RequestId(u64::from(self.requests[node]));
        self.requests[node] += 1;
        self.nodes[node].handle_connect(self.now, request, endpoint(link), None);
        let order = self.nodes[node].poll_order();
        match order {
            Some(Order::Dial { dial, .. }) => {
                self.links[link].dial = Some(dial);
                self.since_dial = 0;
                self.was_late = false;
            }
            // It was answered at once: there is nothing to dial.
            None => {
                self.links.pop();
            }
            other => panic!("{other:?}"),
        }
        self.drain(node);
    }

    /// `node` stops and starts again with nothing. Its old connections are silent, or reset when written to.
    fn restart(&mut self, node: usize, is_silent: bool) {
        self.nodes[node] = Peers::new(id(node), PeersLimits::default());
        self.seen[node] = Seen::default();
        self.requests[node] = 0;
        for link in &mut self.links {
            let end = &mut link.ends[node];
            end.stage = Stage::Dead;
            end.notes.clear();
            end.commands.clear();
            end.net.clear();
            link.is_silent |= is_silent;
        }
    }

    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.now.hash(&mut hasher);
        for node in &self.nodes {
            (
                &*node.table.read(),
                &node.contests,
                &node.undecided,
                &node.dials,
            )
                .hash(&mut hasher);
        }
        (
            &self.links,
            &self.seen,
            self.requests,
            &self.budget,
            self.disturbances,
            self.since_dial,
            self.was_late,
        )
            .hash(&mut hasher);
        hasher.finish()
    }

    /// Everything that can happen now; extras last.
    fn actions(&self) -> Vec<Action> {
        let mut actions = Vec::new();
        for (link, state) in self.links.iter().enumerate() {
            let dialler = &state.ends[state.dialler];
            if dialler.stage == Stage::Young && !state.is_silent {
                actions.push(Action::Identify { link });
            }
            for node in 0..2 {
                let end = &state.ends[node];
                if !end.net.is_empty() && end.stage != Stage::Dead {
                    actions.push(Action::Net { link, node });
                }
                if !end.notes.is_empty() {
                    actions.push(Action::Note { link, node });
                }
                if !end.commands.is_empty() {
                    actions.push(Action::Command { link, node });
                }
            }
        }
        if self.budget.faults > 0 {
            for (link, state) in self.links.iter().enumerate() {
                let is_open = state.ends.iter().any(|end| end.stage != Stage::Dead);
                if is_open && !state.is_silent {
                    actions.push(Action::Reset { link });
                    actions.push(Action::Silence { link });
                }
                let gives_up =
                    (0..2).filter(|&node| !matches!(state.ends[node].stage, Stage::Dead));
                actions.extend(gives_up.map(|node| Action::GiveUp { link, node }));
            }
            let timers = (0..2).filter(|&node| {
                self.nodes[node]
                    .poll_timeout()
                    .is_some_and(|at| at < self.soon())
            });
            actions.extend(timers.map(|node| Action::Timer { node }));
        }
        for node in 0..2 {
            if self.budget.dials[node] > 0 {
                actions.push(Action::Dial { node });
            }
            if self.budget.disconnects > 0
                && (!self.nodes[node].is_empty() || !self.nodes[node].contests.is_empty())
            {
                actions.push(Action::Disconnect { node });
            }
            if self.budget.restarts > 0 && !self.links.is_empty() {
                actions.push(Action::Restart {
                    node,
                    is_silent: false,
                });
                actions.push(Action::Restart {
                    node,
                    is_silent: true,
                });
            }
        }
        actions
    }

    /// Beyond the deadlines of probing and holding, but before that of a dial.
    fn soon(&self) -> Instant {
        self.now + Duration::from_secs(10)
    }

    fn act(&mut self, action: Action) {
        let is_late = |world: &World, link: usize| world.links[link].is_accepted;
        match action {
            Action::Reset { link } | Action::Silence { link } | Action::GiveUp { link, .. } => {
                self.budget.faults -= 1;
                self.disturb(is_late(self, link));
                self.links[link].is_hit = true;
            }
            Action::Timer { .. } => {
                self.budget.faults -= 1;
                self.early_timers += 1;
                self.disturb(false);
            }
            Action::Disconnect { .. } => {
                self.budget.disconnects -= 1;
                self.disturb(true);
                self.was_disconnected = true;
                self.links.iter_mut().for_each(|link| link.is_spent = true);
            }
            Action::Restart { .. } => {
                self.budget.restarts -= 1;
                self.disturb(true);
                self.links.iter_mut().for_each(|link| link.is_hit = true);
            }
            Action::Dial { node } => self.budget.dials[node] -= 1,
            _ => {}
        }
        match action {
            Action::Identify { link } => {
                let node = self.links[link].dialler;
                self.end(link, node).stage = Stage::Identified;
                self.note(link, node, Note::Identified);
            }
            Action::Net { link, node } => self.handle_net(link, node),
            Action::Note { link, node } => {
                let note = self.end(link, node).notes.pop_front().unwrap();
                self.handle_note(link, node, note);
            }
            Action::Command { link, node } => {
                let command = self.end(link, node).commands.pop_front().unwrap();
                self.handle_command(link, node, command);
            }
            Action::Reset { link } => {
                for end in &mut self.links[link].ends {
                    end.net.clear();
                    end.net.push_back(Net::Fin);
                }
            }
            Action::Silence { link } => {
                self.links[link].is_silent = true;
                self.links[link]
                    .ends
                    .iter_mut()
                    .for_each(|end| end.net.clear());
            }
            Action::GiveUp { link, node } => {
                self.give_up(link, node);
            }
            Action::Dial { node } => self.dial(node),
            Action::Disconnect { node } => {
                let _ = self.nodes[node].handle_disconnect(self.now, &id(1 - node));
                self.drain(node);
            }
            Action::Restart { node, is_silent } => self.restart(node, is_silent),
            Action::Timer { node } => {
                let at = self.nodes[node].poll_timeout().unwrap();
                self.now = self.now.max(at);
                self.nodes[node].handle_timeout(self.now);
                self.drain(node);
            }
        }
    }

    fn disturb(&mut self, is_late: bool) {
        self.disturbances += 1;
        self.since_dial += 1;
        self.was_late |= is_late;
        for link in &mut self.links {
            link.is_spent |= link.ends[link.dialler].stage == Stage::Dead;
        }
    }

    fn end(&mut self, link: usize, node: usize) -> &mut End {
        &mut self.links[link].ends[node]
    }

    fn send(&mut self, link: usize, from: usize, what: Net) {
        if !self.links[link].is_silent {
            // A reset overtakes nothing, but nothing follows it either.
            let net = &mut self.end(link, 1 - from).net;
            if net.back() != Some(&Net::Fin) {
                net.push_back(what);
            }
        }
    }

    fn note(&mut self, link: usize, node: usize, note: Note) {
        if self.is_async {
            self.end(link, node).notes.push_back(note);
        } else {
            self.handle_note(link, node, note);
        }
    }

    fn give_up(&mut self, link: usize, node: usize) {
        self.send(link, node, Net::Fin);
        self.die(
            link,
            node,
            DisconnectReason::TimedOut,
            AttemptReason::Closed,
        );
    }

    /// The end is gone, and its actor says so.
    fn die(&mut self, link: usize, node: usize, reason: DisconnectReason, attempt: AttemptReason) {
        let was = std::mem::replace(&mut self.end(link, node).stage, Stage::Dead);
        let is_dialler = self.links[link].dialler == node;
        if is_dialler || was != Stage::Young {
            self.note(link, node, Note::Closed(reason));
        }
        if is_dialler && was != Stage::Live {
            self.note(link, node, Note::DialFailed(attempt));
        }
    }

    fn handle_net(&mut self, link: usize, node: usize) {
        let what = self.end(link, node).net.pop_front().unwrap();
        let stage = self.end(link, node).stage;
        match (what, stage) {
            (Net::Message3, Stage::Young) => {
                self.end(link, node).stage = Stage::Undecided;
                self.note(link, node, Note::Inbound);
            }
            (Net::Accept, Stage::Proposed) => {
                self.end(link, node).stage = Stage::Undecided;
                self.note(link, node, Note::Accepted);
            }
            (Net::Ping(token), Stage::Live) => self.send(link, node, Net::Pong(token)),
            (Net::Ping(token), Stage::Undecided) if self.answers_early => {
                // The peer is told that the connection is in use.
                self.links[link].is_accepted = true;
                self.send(link, node, Net::Pong(token));
            }
            (Net::Ping(token), Stage::Undecided) => self.end(link, node).ping = Some(token),
            (Net::Pong(token), Stage::Live) => self.note(link, node, Note::Alive(token)),
            (Net::Close(reason), _) => {
                let attempt = AttemptReason::Refused(reason);
                self.die(link, node, DisconnectReason::Refused(reason), attempt);
            }
            (Net::Fin, _) => {
                let reason = DisconnectReason::Lost(io::ErrorKind::ConnectionReset);
                self.die(link, node, reason, AttemptReason::Closed);
            }
            (what, stage) => panic!("{what:?} at {stage:?}"),
        }
    }

    fn handle_note(&mut self, link: usize, node: usize, note: Note) {
        let (now, connection) = (self.now, link as u32);
        let introduction = Introduction {
            peer: id(1 - node),
            message_max: 1 << 20,
            addr: "10.0.0.1:9000".parse().unwrap(),
            suite: Suite::ChaChaPoly,
            name: None,
        };
        let dial = self.links[link].dial;
        let peers = &mut self.nodes[node];
        match note {
            Note::Identified => {
                peers.handle_identified(now, dial.unwrap(), connection, introduction)
            }
            Note::Inbound => peers.handle_inbound(now, connection, introduction),
            Note::Accepted => {
                peers.handle_accepted(now, connection);
                self.links[link].is_accepted = true;
            }
            Note::Alive(token) => peers.handle_alive(now, connection, token),
            Note::Closed(reason) => peers.handle_closed(now, connection, reason),
            Note::DialFailed(attempt) => {
                let failure = match attempt {
                    AttemptReason::Refused(reason) => AttemptFailure::Refused(reason),
                    AttemptReason::Closed => AttemptFailure::ClosedEarly,
                };
                let addr = "10.0.0.1:9000".parse().unwrap();
                let attempts = [FailedAttempt { addr, failure }].into();
                peers.handle_dial_failed(
                    dial.unwrap(),
                    DialError::AllFailed {
                        attempts,
                        is_cut: false,
                    },
                );
            }
        }
        self.drain(node);
    }

    fn handle_command(&mut self, link: usize, node: usize, command: Command) {
        let is_dialler = self.links[link].dialler == node;
        match (command, self.end(link, node).stage) {
            (_, Stage::Dead) => {}
            (Command::Proceed, Stage::Identified) => {
                self.end(link, node).stage = Stage::Proposed;
                self.send(link, node, Net::Message3);
            }
            (Command::Keep, Stage::Undecided) => {
                self.end(link, node).stage = Stage::Live;
                if !is_dialler {
                    self.send(link, node, Net::Accept);
                }
                if let Some(token) = self.end(link, node).ping.take() {
                    self.send(link, node, Net::Pong(token));
                }
            }
            (Command::Probe(token), Stage::Live) => {
                // A peer that has restarted resets what it does not know.
                if self.end(link, 1 - node).stage == Stage::Dead && !self.links[link].is_silent {
                    let net = &mut self.end(link, node).net;
                    if net.is_empty() {
                        net.push_back(Net::Fin);
                    }
                } else {
                    self.send(link, node, Net::Ping(token));
                }
            }
            (Command::Refuse(reason), stage) => {
                self.send(link, node, Net::Close(reason));
                self.end(link, node).stage = Stage::Dead;
                self.note(link, node, Note::Closed(DisconnectReason::Refused(reason)));
                if is_dialler && stage != Stage::Live {
                    self.note(link, node, Note::DialFailed(AttemptReason::Refused(reason)));
                }
            }
            (Command::Close, _) => {
                self.send(link, node, Net::Close(RefusedReason::CalledOff));
                self.end(link, node).stage = Stage::Dead;
                self.note(link, node, Note::Closed(DisconnectReason::Requested));
            }
            (command, stage) => panic!("{command:?} at {stage:?}"),
        }
    }

    /// Takes everything out of a machine.
    fn drain(&mut self, node: usize) {
        while let Some(event) = self.nodes[node].poll_event() {
            let seen = &mut self.seen[node];
            match event {
                PeersEvent::Connected { .. } => seen.connected += 1,
                PeersEvent::Disconnected { .. } => seen.disconnected += 1,
                PeersEvent::SeenTwice { .. } => {}
            }
            let open = seen.connected - seen.disconnected;
            assert!(
                open <= 1,
                "two connections to one peer are announced at once"
            );
        }
        while let Some(answer) = self.nodes[node].poll_answer() {
            let Answer::Connect { result, .. } = answer else {
                panic!("{answer:?}")
            };
            match result {
                Ok(_) => self.seen[node].answered_well += 1,
                Err(_) => self.seen[node].answered_ill += 1,
            }
        }
        let mut orders = Vec::new();
        while let Some(order) = self.nodes[node].poll_order() {
            orders.push(order);
        }
        for order in orders {
            let (connection, command) = match order {
                Order::Proceed { connection } => (connection, Command::Proceed),
                Order::Keep { connection, .. } => (connection, Command::Keep),
                Order::Refuse { connection, reason } => (connection, Command::Refuse(reason)),
                Order::Probe { connection, token } => (connection, Command::Probe(token)),
                Order::Close { connection, .. } => (connection, Command::Close),
                Order::CancelDial { dial } => {
                    let link = self
                        .links
                        .iter()
                        .position(|link| link.dialler == node && link.dial == Some(dial));
                    if let Some(link) =
                        link.filter(|&link| self.links[link].ends[node].stage == Stage::Young)
                    {
                        self.end(link, node).stage = Stage::Dead;
                        self.send(link, node, Net::Fin);
                    }
                    continue;
                }
                Order::Dial { .. } | Order::DialAlso { .. } | Order::Report { .. } => {
                    panic!("{order:?}")
                }
            };
            let link = connection as usize;
            if self.is_async {
                self.end(link, node).commands.push_back(command);
            } else {
                self.handle_command(link, node, command);
            }
        }
    }

    /// Nothing is on the way any more: lets time pass until nothing changes. Short deadlines come first.
    fn settle(&mut self) {
        for _ in 0..1000 {
            if let Some(&action) = self.actions().iter().find(|action| !action.is_extra()) {
                self.act(action);
                continue;
            }
            let timer = |world: &World, limit: Instant| {
                let timers =
                    (0..2).filter_map(|node| Some((world.nodes[node].poll_timeout()?, node)));
                timers.filter(|(at, _)| *at <= limit).min()
            };
            if let Some((at, node)) = timer(self, self.soon()) {
                self.now = self.now.max(at);
                self.nodes[node].handle_timeout(self.now);
                self.drain(node);
                continue;
            }
            // Handshakes that lead nowhere end by their own deadline, and dead connections by the keep-alive.
            let is_stuck = |link: &Link, node: usize| {
                let (end, other) = (&link.ends[node], &link.ends[1 - node]);
                let is_in_handshake = matches!(
                    end.stage,
                    Stage::Young | Stage::Identified | Stage::Proposed | Stage::Undecided
                );
                is_in_handshake && (link.dialler == node || end.stage != Stage::Young)
                    || end.stage == Stage::Live && (link.is_silent || other.stage == Stage::Dead)
            };
            let stuck = (0..self.links.len())
                .flat_map(|link| [(link, 0), (link, 1)])
                .find(|&(link, node)| is_stuck(&self.links[link], node));
            if let Some((link, node)) = stuck {
                self.now += Duration::from_secs(1);
                self.give_up(link, node);
                continue;
            }
            let Some((at, node)) = timer(self, self.now + Duration::from_secs(1000)) else {
                return;
            };
            self.now = self.now.max(at);
            self.nodes[node].handle_timeout(self.now);
            self.drain(node);
        }
        panic!("the world never comes to rest");
    }

    /// What must hold when nothing moves any more.
    fn check(&self) -> Result<(), String> {
        let kept = |node: usize| {
            self.nodes[node]
                .peers()
                .map(|(_, _, connection)| connection)
                .collect::<Vec<_>>()
        };
        let (left, right) = (kept(0), kept(1));
        if left != right || left.len() > 1 {
            return Err(format!("the nodes keep {left:?} and {right:?}"));
        }
        let is_live = |&connection: &u32| {
            let link = &self.links[connection as usize];
            !link.is_silent && link.ends.iter().all(|end| end.stage == Stage::Live)
        };
        if !left.iter().all(is_live) {
            return Err("what is kept is not live".into());
        }
        let others = self
            .links
            .iter()
            .enumerate()
            .filter(|(link, _)| !left.contains(&(*link as u32)));
        for (link, state) in others {
            if state.ends.iter().any(|end| end.stage == Stage::Live) {
                return Err(format!("connection {link} is live and nobody's"));
            }
        }
        for node in 0..2 {
            let seen = &self.seen[node];
            if seen.connected - seen.disconnected != left.len() as u32 {
                return Err(format!(
                    "node {node}: {seen:?} with {} connections",
                    left.len()
                ));
            }
            if seen.answered_well + seen.answered_ill != self.requests[node] {
                return Err(format!(
                    "node {node}: {seen:?} for {} requests",
                    self.requests[node]
                ));
            }
            if !self.nodes[node].contests.is_empty() || !self.nodes[node].undecided.is_empty() {
                return Err(format!("node {node}: a contest is left over"));
            }
            if self.nodes[node].dials() != 0 {
                return Err(format!("node {node}: a dial is left over"));
            }
            if self.disturbances == 0 && seen.answered_ill > 0 {
                return Err(format!("node {node}: a request failed without a fault"));
            }
        }
        // One fault is never enough to end with nothing, unless it hits the connection that is already in use.
        // A timer that fires too early is a fault of a connection as well, but who knows of which.
        let is_any_hit = self.links.iter().any(|link| link.is_hit);
        let has_chance = match self.early_timers {
            0 => self.links.iter().any(|link| !link.is_hit && !link.is_spent),
            1 => !is_any_hit && self.links.iter().any(|link| !link.is_spent),
            _ => false,
        };
        // While a disconnect is on its way to the connection, that still answers a peer which asks because it dials again.
        let has_chance = has_chance && !(self.is_async && self.was_disconnected);
        if left.is_empty() && has_chance && self.since_dial <= 1 && !self.was_late {
            return Err("no connection is left".into());
        }
        Ok(())
    }

    /// Without a fault each side sees one connection come and none go, and nobody waits for a deadline.
    fn check_events(&self) -> Result<(), String> {
        if self.disturbances == 0 && self.now != START {
            return Err("a deadline was needed without a fault".into());
        }
        let once = Seen {
            connected: 1,
            disconnected: 0,
            ..Seen::default()
        };
        for node in 0..2 {
            let seen = &self.seen[node];
            if self.disturbances == 0
                && !self.links.is_empty()
                && (seen.connected, seen.disconnected) != (once.connected, once.disconnected)
            {
                return Err(format!("node {node}: {seen:?} without a fault"));
            }
        }
        Ok(())
    }
}

/// Walks through every state that `start` can reach and checks each end. Returns the numbers of states and of ends.
fn explore(start: &World, check: impl Fn(&World) -> Result<(), String>) -> (usize, usize) {
    let mut visited = HashSet::new();
    let mut ends = 0;
    let mut stack = vec![(start.clone(), Vec::<Action>::new())];
    while let Some((world, path)) = stack.pop() {
        if !visited.insert(world.fingerprint()) {
            continue;
        }
        let actions = world.actions();
        if actions.iter().all(|action| action.is_extra()) {
            ends += 1;
            let mut end = world.clone();
            end.budget = Budget::default();
            end.settle();
            if let Err(error) = end.check().and_then(|()| check(&end)) {
                panic!("{error}\n{}", story(start, &path));
            }
        }
        for action in actions {
            let mut next = world.clone();
            next.act(action);
            let mut path = path.clone();
            path.push(action);
            stack.push((next, path));
        }
    }
    (visited.len(), ends)
}

/// What happened, for a person.
fn story(start: &World, path: &[Action]) -> String {
    let mut world = start.clone();
    let mut story = String::new();
    for &action in path {
        let head = match action {
            Action::Net { link, node } => format!("{:?}", world.links[link].ends[node].net.front()),
            Action::Note { link, node } => {
                format!("{:?}", world.links[link].ends[node].notes.front())
            }
            Action::Command { link, node } => {
                format!("{:?}", world.links[link].ends[node].commands.front())
            }
            _ => String::new(),
        };
        writeln!(story, "{action:?} {head}").unwrap();
        world.act(action);
    }
    world.budget = Budget::default();
    world.settle();
    writeln!(story, "then time passes: {:?}", world.seen).unwrap();
    story
}

/// Explores what follows when the nodes dial so often, at any time, with messages between actors of one node prompt or not.
#[track_caller]
fn explored(name: &str, is_async: bool, budget: Budget) {
    for answers_early in [false, true] {
        let start = World {
            answers_early,
            ..World::new(is_async, budget)
        };
        let clock = std::time::Instant::now();
        let (states, ends) = explore(&start, World::check_events);
        println!(
            "{name}: {states} states, {ends} ends, {:?}",
            clock.elapsed()
        );
    }
}

#[test]
fn simultaneous_dials_end_in_one_connection_and_one_event_on_each_side() {
    explored(
        "one dial each",
        true,
        Budget {
            dials: [1, 1],
            ..Budget::default()
        },
    );
    explored(
        "two and one dials",
        true,
        Budget {
            dials: [2, 1],
            ..Budget::default()
        },
    );
    explored(
        "one and two dials",
        true,
        Budget {
            dials: [1, 2],
            ..Budget::default()
        },
    );
    explored(
        "two dials each",
        false,
        Budget {
            dials: [2, 2],
            ..Budget::default()
        },
    );
}

#[test]
fn no_single_fault_ends_with_nothing() {
    explored(
        "one dial each, one fault",
        true,
        Budget {
            dials: [1, 1],
            faults: 1,
            ..Budget::default()
        },
    );
    explored(
        "two and one dials, one fault",
        false,
        Budget {
            dials: [2, 1],
            faults: 1,
            ..Budget::default()
        },
    );
    explored(
        "one and two dials, one fault",
        false,
        Budget {
            dials: [1, 2],
            faults: 1,
            ..Budget::default()
        },
    );
}

#[test]
fn the_nodes_agree_after_any_two_faults() {
    explored(
        "one dial each, two faults",
        false,
        Budget {
            dials: [1, 1],
            faults: 2,
            ..Budget::default()
        },
    );
    explored(
        "one dial each, three faults",
        false,
        Budget {
            dials: [1, 1],
            faults: 3,
            ..Budget::default()
        },
    );
}

#[test]
fn restarts_leave_no_ghosts() {
    explored(
        "restart",
        false,
        Budget {
            dials: [2, 1],
            restarts: 1,
            ..Budget::default()
        },
    );
    explored(
        "restart",
        false,
        Budget {
            dials: [1, 2],
            restarts: 1,
            ..Budget::default()
        },
    );
    explored(
        "restart and fault",
        false,
        Budget {
            dials: [1, 1],
            restarts: 1,
            faults: 1,
            ..Budget::default()
        },
    );
}

#[test]
fn disconnects_leave_no_ghosts() {
    explored(
        "disconnect",
        false,
        Budget {
            dials: [2, 1],
            disconnects: 1,
            ..Budget::default()
        },
    );
    explored(
        "disconnect",
        true,
        Budget {
            dials: [1, 1],
            disconnects: 1,
            ..Budget::default()
        },
    );
}

/// A world drawn from `seed`: who dials when, in which order things arrive, and what goes wrong.
fn walk(seed: u64) -> Result<(), String> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut below = |bound: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % bound
    };
    let is_quiet = below(2) == 0;
    let budget = Budget {
        dials: [1 + below(3) as u32, 1 + below(3) as u32],
        faults: if is_quiet { 0 } else { below(3) as u32 },
        disconnects: if is_quiet { 0 } else { below(2) as u32 },
        restarts: if is_quiet { 0 } else { below(2) as u32 },
    };
    let mut world = World {
        answers_early: below(2) == 0,
        ..World::new(below(4) != 0, budget)
    };
    let start = world.clone();
    let mut path = Vec::new();
    while path.len() < 400 {
        let mut actions = world.actions();
        // Extras would otherwise all come at the beginning, where there is little else to do.
        if below(5) != 0 && actions.iter().any(|action| !action.is_extra()) {
            actions.retain(|action| !action.is_extra());
        }
        let Some(&action) = actions.get(below(actions.len().max(1) as u64) as usize) else {
            break;
        };
        path.push(action);
        world.act(action);
    }
    world.budget = Budget::default();
    world.settle();
    world
        .check()
        .and_then(|()| world.check_events())
        .map_err(|error| format!("{error}\n{}", story(&start, &path)))
}

/// Replay one run with `PEERS_RACE_SEED=<seed> cargo test -p mischief-actors races_drawn`.
#[test]
fn races_drawn_from_10_000_seeds() {
    let seeds = match std::env::var("PEERS_RACE_SEED") {
        Ok(seed) => seed
            .parse()
            .map(|seed: u64| seed..seed + 1)
            .expect("a seed is a number"),
        Err(_) => 0..10_000,
    };
    for seed in seeds {
        if let Err(error) = walk(seed) {
            panic!("seed {seed}: {error}");
        }
    }
}
