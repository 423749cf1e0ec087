//! The shell around one connection: its socket, its deadline, its link to the threads outside. The protocol is the
//! machine's, the question who is connected is the peers actor's.

mod dialler;
mod listener;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mischief_reactor::io::memory::{MemoryBudget, MemoryKind, MemoryShare};
use mischief_reactor::{
    Actor, ActorId, Address, Context, Drain, Event as Happening, Failure, Handle, Instant, Message,
    Recipient, StopReason,
};
use parking_lot::Mutex;

use super::admission::{Admission, RETRY_AFTER, Start, Ticket};
use super::dial_error::AttemptFailure;
use super::error::{CloseCode, Error};
use super::handshake::Authenticated;
use super::link::{Deliver, Link, Links};
use super::liveness::Rtt;
use super::machine::{Connection, Event, Sink};
use super::noise::{MESSAGE_1_BYTES, MESSAGE_1_PSK_BYTES};
use super::preface::PREFACE_BYTES;
use super::reason::{DisconnectReason, RefusedReason};
use super::record::{ChannelMessage, Class, Encoded, LargeMessage, Records};
use super::state::Tally;
use super::stream::StreamId;
use super::{BulkEvent, Config, QueueError};
use crate::peers::{EXCHANGE_CHANNEL, PeerRef, ProbeToken};

pub use dialler::{DialOutcome, Dialler, DiallerMessage};
pub use listener::{Listener, ListenerMessage, Placement};

/// Bytes sealed before the socket is asked to take them: little at first, so that what is more urgent does not wait
/// behind much that a slow network has not taken, and twice as much after each time that the socket took all of it.
/// Every write wakes the peer and begins on cold caches, so few large ones cost a fast network much less.
const FLUSH_BYTES: usize = 128 << 10;

/// How often [`FLUSH_BYTES`] are doubled.
const FLUSH_DOUBLINGS: u8 = 2;

/// Bytes written for one connection in one turn before others have theirs.
const TURN_BYTES_MAX: usize = 512 << 10;

/// Bytes kept of an inbound socket whose handshake has no place yet: more than the first flight of any dialler.
const GATE_BYTES_MAX: usize = 512;

/// How long a socket that was refused at the door may take to read why. It keeps its place there meanwhile, so that
/// refused sockets cannot pile up.
const REFUSED_LINGER: Duration = Duration::from_millis(500);

/// How late a keep-alive may look, so that thousands share their wake-ups.
const KEEP_ALIVE_SLACK: Duration = Duration::from_secs(1);

/// How late any other deadline may be.
const DEADLINE_SLACK: Duration = Duration::from_millis(20);

/// What connections of one node have in common besides [`Config`].
pub struct Common {
    /// The configuration for connections to come. Replaced when the static key is rotated.
    pub config: Mutex<Arc<Config>>,
    /// Where received messages go.
    pub deliver: Arc<dyn Deliver>,
    /// The links to the threads outside.
    pub links: Arc<dyn Links>,
    /// Who decides about connections.
    pub judge: Recipient<Report>,
    /// Who may run a handshake.
    pub admission: Admission<ActorId>,
    /// The runtime.
    pub handle: Handle,
    /// Connections that ended without a report, because their actor failed or the judge had no room. The judge is poked
    /// for each.
    pub fallen: Mutex<Vec<(ActorId, DisconnectReason)>>,
}

impl Common {
    /// Tells the judge of an end in the one way that always has room.
    fn fall(&self, connection: ActorId, reason: DisconnectReason) {
        self.fallen.lock().push((connection, reason));
        self.handle.poke(self.judge.id());
    }
}

/// Orders to a connection.
#[derive(Debug)]
pub enum ConnectionMessage {
    /// To a dialler that has reported [`Report::Identified`]: the peer is wanted, go on with the handshake.
    Proceed,
    /// The connection is announced: messages may flow.
    Keep,
    /// The peer is not wanted: say why and close.
    Refuse(RefusedReason),
    /// Close an announced connection.
    Close(CloseCode, &'static str),
    /// Ask the peer for a sign of life, and report it with this token.
    Probe(ProbeToken),
    /// Report the figures, with this reference.
    Report(PeerRef),
    /// Take bodies up to this size from the peer.
    MessageMax(u32),
    /// Send a control message on the channel of a subsystem. It is dropped if too many wait.
    Channel(u8, Box<[u8]>),
}

impl Message for ConnectionMessage {}

/// Facts from a connection, for who decides.
#[derive(Debug)]
pub enum Report {
    /// The peer has proved who it is. Wants [`ConnectionMessage::Proceed`], `Keep` or `Close`.
    Identified(Box<Identified>),
    /// A dialler's connection has been accepted by the other side.
    Opened(Address<ConnectionActor>),
    /// The connection is over. Nothing follows.
    Closed(Address<ConnectionActor>, DisconnectReason),
    /// The peer has given a sign of life after [`ConnectionMessage::Probe`].
    Alive(Address<ConnectionActor>, ProbeToken),
    /// The answer to [`ConnectionMessage::Report`].
    Figures(PeerRef, Box<Figures>),
    /// A control message on [`EXCHANGE_CHANNEL`], as it came.
    Channel(Address<ConnectionActor>, Box<[u8]>),
}

impl Message for Report {}

/// Who is at the other end of a new connection.
#[derive(Debug)]
pub struct Identified {
    /// The connection.
    pub connection: Address<ConnectionActor>,
    /// The dial that led to it; `None` for an inbound one.
    pub dial: Option<u32>,
    /// The address at the other end of the socket.
    pub addr: SocketAddr,
    /// What the handshake has proved, and what the peer says of itself.
    pub authenticated: Box<Authenticated>,
    /// The largest body of a message that the peer takes, in bytes.
    pub message_max: u32,
}

/// What a connection has carried.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// Round-trip times, once there is a sample.
    pub rtt: Option<Rtt>,
    /// Bytes received, frames included.
    pub bytes_in: u64,
    /// Bytes sent, frames included.
    pub bytes_out: u64,
    /// Application messages received.
    pub messages_in: u64,
    /// Application messages sent.
    pub messages_out: u64,
    /// Bytes that wait to be sent.
    pub queued: usize,
    /// Bytes of application messages that the peer takes at this moment.
    pub credit: usize,
    /// The largest body of a message that the peer takes, in bytes.
    pub message_max: u32,
}

/// How a dial's winner is doing, for its dialler.
#[derive(Debug)]
pub struct HandshakeOutcome {
    /// The dial.
    pub dial: u32,
    /// Its attempt.
    pub attempt: u8,
    /// `Ok` when the connection is announced.
    pub result: Result<(), AttemptFailure>,
}

impl Message for HandshakeOutcome {}

/// Where a connection comes from.
pub enum Origin {
    /// Accepted, with its place at the door.
    Inbound(Ticket<ActorId>),
    /// Dialled.
    Outbound {
        /// The dial.
        dial: u32,
        /// Its attempt.
        attempt: u8,
        /// Who wants to know how the handshake goes.
        dialler: Address<Dialler>,
    },
}

/// One connection.
pub struct ConnectionActor {
    machine: Connection,
    common: Arc<Common>,
    /// Its own id, once the peer is identified; before that nobody knows of it.
    id: ActorId,
    extra: Option<Box<Extra>>,
    /// Not all that was taken from the link has been handed to the socket.
    is_sending: bool,
    is_over: bool,
    /// How often [`FLUSH_BYTES`] are doubled just now.
    flush_doublings: u8,
    /// How the transport broke, if it did.
    lost: Option<ErrorKind>,
}

/// A connection that holds less than so many bytes of messages does not tell the node's accounting of it.
const COUNTED_MIN: usize = 1024;

/// Reports that a connection may keep while the judge is busy: each of them is made once in a connection's life, but
/// `Alive` and `Figures`, which are dropped instead.
const OUTBOX_MAX: usize = 4;

/// Pieces that are held between the peer's `Accept` and the judge's word. The window bounds their bytes; this bounds what
/// many small ones of subsystems cost besides.
const HELD_MAX: usize = 1024;

/// Control messages that the judge is handed between two looks at a connection, which come every half a minute at least. An
/// answer of the exchange has about ten parts; who sends more has them dropped.
const CONTROL_MESSAGES_MAX: u8 = 24;

/// What a connection needs only at times. An idle one has none of it, because thousands are idle.
#[derive(Default)]
struct Extra {
    /// Gone once the connection is announced.
    early: Option<Early>,
    /// For what the threads outside have to say and to hear, given up when it has been quiet for a while.
    link: Option<Arc<Link>>,
    /// Messages that the machine's queue had no room for.
    unqueued: Option<Encoded>,
    /// A report that the judge had no room for, and those after it.
    outbox: Vec<Report>,
    probe: Option<ProbeToken>,
    /// Control messages for the judge that have just come.
    controls: Vec<Box<[u8]>>,
    /// How many have come since the connection was last looked at.
    controls_counted: u8,
    /// What the node's accounting knows of; nothing while it is little.
    held: Option<HeldMemory>,
}

/// The memory of a connection in the node's accounting.
struct HeldMemory {
    sending: MemoryShare,
    partial: MemoryShare,
}

impl HeldMemory {
    fn new(memory: &Arc<MemoryBudget>) -> HeldMemory {
        HeldMemory {
            sending: MemoryShare::new(memory, MemoryKind::Sending),
            partial: MemoryShare::new(memory, MemoryKind::Reassembly),
        }
    }
}

impl Extra {
    fn is_empty(&self) -> bool {
        self.early.is_none()
            && self.link.is_none()
            && self.unqueued.is_none()
            && self.outbox.is_empty()
            && self.probe.is_none()
            && self.controls_counted == 0
            && self.held.is_none()
    }
}

/// What a connection needs until it is announced.
struct Early {
    addr: SocketAddr,
    origin: Option<Origin>,
    /// First bytes of an inbound connection whose handshake has no place yet; `None` once it has.
    gate: Option<Vec<u8>>,
    retry_at: Option<Instant>,
    /// When a refused socket goes, whether its peer has read the refusal or not.
    leave_at: Option<Instant>,
    is_kept: bool,
    refused: Option<RefusedReason>,
    /// Messages that came between the peer's `Accept` and the judge's word. The peer's window bounds them.
    held: Vec<Held>,
}

enum Held {
    Records(Vec<u8>),
    Large(LargeMessage),
    Channel {
        channel: u8,
        body: Vec<u8>,
        credit: u32,
    },
}

impl ConnectionActor {
    /// A connection with the node at `addr`, whose socket is to be given to it.
    pub fn new(
        common: Arc<Common>,
        machine: Connection,
        addr: SocketAddr,
        origin: Origin,
    ) -> ConnectionActor {
        let gate = matches!(origin, Origin::Inbound(_)).then(Vec::new);
        ConnectionActor {
            machine,
            common,
            id: ActorId::NOBODY,
            extra: Some(Box::new(Extra {
                early: Some(Early {
                    addr,
                    origin: Some(origin),
                    gate,
                    retry_at: None,
                    leave_at: None,
                    is_kept: false,
                    refused: None,
                    held: Vec::new(),
                }),
                ..Extra::default()
            })),
            is_sending: false,
            is_over: false,
            flush_doublings: 0,
            lost: None,
        }
    }

    fn early(&self) -> Option<&Early> {
        self.extra.as_ref()?.early.as_ref()
    }

    /// The link, if it is in use.
    fn link(&self) -> Option<&Arc<Link>> {
        self.extra.as_ref()?.link.as_ref()
    }

    /// The link, if a thread has made one.
    fn find_link(&mut self) -> Option<Arc<Link>> {
        if self.link().is_none() {
            let link = self.common.links.find(self.id)?;
            self.extra().link = Some(link);
        }
        self.link().cloned()
    }

    /// Gives the link up if it has become quiet. A new one counts from the beginning, so all that came by this one has to be
    /// gone.
    fn release_link(&mut self) {
        if self.is_sending {
            return;
        }
        let Some(link) = self.take_extra(|extra| extra.link.take()) else {
            return;
        };
        link.release();
        if let Some(link) = self.common.links.release(link) {
            self.extra().link = Some(link);
        }
    }

    fn is_identified(&self) -> bool {
        self.id != ActorId::NOBODY
    }

    fn unqueued(&self) -> Option<&Encoded> {
        self.extra.as_ref()?.unqueued.as_ref()
    }

    fn extra(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }

    fn take_early(&mut self) -> Option<Early> {
        self.take_extra(|extra| extra.early.take())
    }

    fn take_unqueued(&mut self) -> Option<Encoded> {
        self.take_extra(|extra| extra.unqueued.take())
    }

    fn take_probe(&mut self) -> Option<ProbeToken> {
        self.take_extra(|extra| extra.probe.take())
    }

    fn take_outbox(&mut self) -> Vec<Report> {
        self.take_extra(|extra| Some(std::mem::take(&mut extra.outbox)))
            .unwrap_or_default()
    }

    /// Takes something out, and frees what holds nothing any more.
    fn take_extra<T>(&mut self, take: impl FnOnce(&mut Extra) -> Option<T>) -> Option<T> {
        let extra = self.extra.as_mut()?;
        let taken = take(extra);
        if extra.is_empty() {
            self.extra = None;
        }
        taken
    }

    fn on_data(&mut self, bytes: &mut [u8], cx: &mut Context<'_, Self>) {
        if self.early().is_some_and(|early| early.gate.is_some()) {
            return self.on_gated(bytes, cx);
        }
        self.feed(bytes, cx);
    }

    fn feed(&mut self, bytes: &mut [u8], cx: &mut Context<'_, Self>) {
        let now = cx.now();
        if self.ticket().is_some_and(|ticket| !ticket.heard(now)) {
            return self.abort(cx);
        }
        let mut inlet = Inlet {
            common: &self.common,
            id: self.id,
            extra: &mut self.extra,
            messages: 0,
        };
        self.machine.handle_bytes(cx.now(), bytes, &mut inlet);
        let messages = inlet.messages;
        self.machine.count(Tally::MessagesIn, messages);
    }

    /// The first bytes of an inbound connection: its handshake costs a place, for which it has to ask.
    fn on_gated(&mut self, bytes: &[u8], cx: &mut Context<'_, Self>) {
        let now = cx.now();
        let is_private = self.machine.config().network_key.is_some();
        let flight = PREFACE_BYTES
            + 2
            + if is_private {
                MESSAGE_1_PSK_BYTES
            } else {
                MESSAGE_1_BYTES
            };
        let Some(early) = early_in(&mut self.extra) else {
            return;
        };
        let (Some(gate), Some(Origin::Inbound(ticket))) = (&mut early.gate, &early.origin) else {
            return;
        };
        if gate.len() + bytes.len() > GATE_BYTES_MAX {
            // No dialler says so much before it is answered.
            return self.abort(cx);
        }
        gate.extend_from_slice(bytes);
        if !ticket.heard(now) {
            return self.abort(cx);
        }
        // To refuse a preface takes no work, and so no place.
        if self.machine.config().preface.refuses(gate) {
            let mut first = early.gate.take().unwrap_or_default();
            return self.feed(&mut first, cx);
        }
        // A private network's first message is longer: who sends the shorter one is to be told so.
        if gate.len() >= flight.min(PREFACE_BYTES + 2 + MESSAGE_1_BYTES) {
            self.ask_for_place(cx);
        }
    }

    fn ask_for_place(&mut self, cx: &mut Context<'_, Self>) {
        let now = cx.now();
        let Some(early) = early_in(&mut self.extra) else {
            return;
        };
        let Some(Origin::Inbound(ticket)) = &early.origin else {
            return;
        };
        match ticket.start(now) {
            Start::Go { evicted } => {
                early.retry_at = None;
                let mut first = early.gate.take().unwrap_or_default();
                if let Some(evicted) = evicted {
                    cx.stop_actor(evicted);
                }
                if let Some(socket) = cx.socket() {
                    cx.resume_reading(socket);
                }
                self.feed(&mut first, cx);
            }
            Start::Wait => {
                early.retry_at = Some(now + RETRY_AFTER);
                if let Some(socket) = cx.socket() {
                    cx.pause_reading(socket);
                }
            }
            Start::Evicted => self.abort(cx),
        }
    }

    /// The place of an inbound connection whose handshake is not done.
    fn ticket(&self) -> Option<&Ticket<ActorId>> {
        match self.early()?.origin.as_ref()? {
            Origin::Inbound(ticket) => Some(ticket),
            Origin::Outbound { .. } => None,
        }
    }

    /// Ends at once, without a word to the peer.
    fn abort(&mut self, cx: &mut Context<'_, Self>) {
        if let Some(socket) = cx.socket() {
            cx.close(socket, true);
        }
        self.machine.handle_eof();
    }

    /// Takes what outside threads have left in the link.
    fn take_link(&mut self, cx: &mut Context<'_, Self>) {
        let Some(link) = self.find_link() else {
            return cx.flush_later();
        };
        let takes = self.machine.is_open() && self.unqueued().is_none();
        let mut encoded = if takes {
            self.machine.reclaim().unwrap_or_default()
        } else {
            Encoded::new()
        };
        let taken = link.take(takes, &mut encoded);
        if taken.consumed > 0 {
            self.machine.consumed(StreamId::APPLICATION, taken.consumed);
        }
        self.machine.recycle(taken.memory);
        if !encoded.is_empty() {
            self.machine
                .count(Tally::MessagesOut, encoded.count() as u64);
            self.is_sending = true;
            self.queue(encoded);
        }
        cx.flush_later();
    }

    /// Takes over all that was accepted so far, because the connection is about to be closed and goes on to write only
    /// what it has.
    fn take_last(&mut self) {
        if let Some(encoded) = self.take_unqueued() {
            self.machine.queue_last(encoded);
        }
        let Some(link) = self.find_link() else {
            return;
        };
        let mut encoded = Encoded::new();
        link.take(self.machine.is_open(), &mut encoded);
        if !encoded.is_empty() {
            self.machine
                .count(Tally::MessagesOut, encoded.count() as u64);
            self.is_sending = true;
            self.machine.queue_last(encoded);
        }
    }

    fn queue(&mut self, encoded: Encoded) {
        if let Err((error, encoded)) = self.machine.queue_encoded(encoded) {
            match error {
                QueueError::Full => self.extra().unqueued = Some(encoded),
                // The link checks sizes and names, so the connection must have ended; its end is told by itself.
                error => log::debug!("{} messages were not sent: {error}", encoded.count()),
            }
        }
    }

    /// Seals and writes what waits, as far as the socket takes it.
    fn flush(&mut self, cx: &mut Context<'_, Self>) {
        let Some(socket) = cx.socket() else {
            return;
        };
        let now = cx.now();
        let mut scratch = cx.take_scratch();
        let mut written = 0;
        while cx.unsent(socket) == 0 {
            scratch.clear();
            let bytes_max = self.flush_bytes();
            if self.machine.poll_transmit(now, &mut scratch, bytes_max) == 0 {
                break;
            }
            written += scratch.len();
            match cx.write(socket, &scratch) {
                Ok(0) if scratch.len() >= bytes_max => {
                    self.flush_doublings = FLUSH_DOUBLINGS.min(self.flush_doublings + 1);
                }
                Ok(0) => {}
                Ok(_) => self.flush_doublings = 0,
                Err(error) => {
                    self.on_lost(error.kind());
                    break;
                }
            }
            if written >= TURN_BYTES_MAX {
                cx.flush_later();
                break;
            }
        }
        cx.give_scratch(scratch);
        self.mark_sent(cx);
    }

    /// Bytes to be sealed for the next write. While one half of what the peer takes is on its way there, the other is
    /// sealed: all of it at once would have each side wait for the other.
    fn flush_bytes(&self) -> usize {
        let half = self.machine.credit() / 2;
        half.clamp(FLUSH_BYTES, FLUSH_BYTES << self.flush_doublings)
    }

    /// Tells outside threads which of their messages have been handed to the socket.
    fn mark_sent(&mut self, cx: &mut Context<'_, Self>) {
        if !self.is_sending || cx.socket().is_none_or(|socket| cx.unsent(socket) > 0) {
            return;
        }
        let waiting = self.unqueued().map_or(0, |encoded| encoded.len());
        let unsent = self.machine.application_bytes() + waiting;
        self.is_sending = unsent > 0;
        if let Some(link) = self.link() {
            link.mark_sent(unsent);
        }
    }

    fn on_lost(&mut self, kind: ErrorKind) {
        self.lost = Some(kind);
        self.machine.handle_eof();
    }

    /// What the machine has to tell, and its next deadline.
    fn drain(&mut self, cx: &mut Context<'_, Self>) {
        while let Some(event) = self.machine.poll_event() {
            match event {
                Event::Authenticated(authenticated) => self.on_authenticated(authenticated, cx),
                Event::Opened => self.on_opened(cx),
                Event::MessageMax(max) => self.common.links.set_message_max(self.id, max),
                Event::Drained(Class::Application) => {
                    if let Some(encoded) = self.take_unqueued() {
                        self.queue(encoded);
                    }
                    self.take_link(cx);
                }
                Event::Drained(_) | Event::BulkWritable(_) => {}
                Event::Closed(error) => self.on_closed(error, cx),
                Event::ShutdownWrite => {
                    if let Some(socket) = cx.socket() {
                        // A socket that is gone already says so itself.
                        let _ = cx.shutdown_write(socket);
                    }
                    if let Some(early) = early_in(&mut self.extra) {
                        early.leave_at = Some(cx.now() + REFUSED_LINGER);
                    }
                }
                Event::Finished { abort } => {
                    if let Some(link) = self.link() {
                        link.close(Arc::from("the connection has ended"));
                    }
                    if let Some(socket) = cx.socket() {
                        cx.close(socket, abort);
                    }
                    cx.stop();
                }
            }
        }
        if self.machine.is_open()
            && !self.machine.is_probing()
            && let Some(token) = self.take_probe()
        {
            self.report(Report::Alive(cx.address(), token), cx);
        }
        self.pass_controls_on(cx);
        let early = self.early();
        let early = early.map_or([None; 2], |early| [early.retry_at, early.leave_at]);
        let deadline = [self.machine.poll_timeout()]
            .into_iter()
            .chain(early)
            .flatten()
            .min();
        let slack = if self.machine.is_open() {
            KEEP_ALIVE_SLACK
        } else {
            DEADLINE_SLACK
        };
        cx.wake_at(deadline, slack);
        self.count_memory(cx);
    }

    /// Has the node's accounting know of what the connection holds, if it is much. What is only kept for later is freed
    /// while memory is tight.
    fn count_memory(&mut self, cx: &Context<'_, Self>) {
        let is_known = self
            .extra
            .as_ref()
            .is_some_and(|extra| extra.held.is_some());
        let holds = |machine: &Connection| [machine.sending_bytes(), machine.partial_bytes()];
        let [mut sending, mut partial] = holds(&self.machine);
        sending += self.unqueued().map_or(0, Encoded::heap_bytes);
        if sending + partial < COUNTED_MIN {
            if is_known {
                self.take_extra(|extra| extra.held.take());
            }
            return;
        }
        let memory = cx.memory();
        if memory.is_tight() {
            self.machine.shed();
            [sending, partial] = holds(&self.machine);
            sending += self.unqueued().map_or(0, Encoded::heap_bytes);
        }
        let held = self
            .extra()
            .held
            .get_or_insert_with(|| HeldMemory::new(memory));
        held.sending.set(sending);
        held.partial.set(partial);
    }

    fn pass_controls_on(&mut self, cx: &mut Context<'_, Self>) {
        let Some(extra) = self
            .extra
            .as_mut()
            .filter(|extra| !extra.controls.is_empty())
        else {
            return;
        };
        for body in std::mem::take(&mut extra.controls) {
            self.report(Report::Channel(cx.address(), body), cx);
        }
    }

    fn on_authenticated(&mut self, authenticated: Box<Authenticated>, cx: &mut Context<'_, Self>) {
        let Some(early) = early_in(&mut self.extra) else {
            return;
        };
        let dial = match &early.origin {
            Some(Origin::Outbound { dial, .. }) => Some(*dial),
            Some(Origin::Inbound(_)) => {
                if let Some(Origin::Inbound(ticket)) = early.origin.take()
                    && !ticket.finish()
                {
                    return self.abort(cx);
                }
                None
            }
            None => None,
        };
        let addr = early.addr;
        self.id = cx.id();
        let identified = Identified {
            connection: cx.address(),
            dial,
            addr,
            authenticated,
            message_max: self.machine.peer_message_max(),
        };
        self.report(Report::Identified(Box::new(identified)), cx);
    }

    fn on_opened(&mut self, cx: &mut Context<'_, Self>) {
        let is_kept = self.early().is_none_or(|early| early.is_kept);
        if is_kept {
            return self.announce(cx);
        }
        self.report(Report::Opened(cx.address()), cx);
    }

    /// Both the judge and the machine are ready: messages flow.
    fn announce(&mut self, cx: &mut Context<'_, Self>) {
        let Some(early) = self.take_early() else {
            return;
        };
        if let Some(Origin::Outbound {
            dial,
            attempt,
            dialler,
        }) = early.origin
        {
            let result = Ok(());
            tell(
                cx,
                &dialler,
                HandshakeOutcome {
                    dial,
                    attempt,
                    result,
                },
            );
        }
        // The peer may have changed its mind since it was introduced.
        let message_max = self.machine.peer_message_max();
        self.common.links.set_message_max(self.id, message_max);
        let mut inlet = Inlet {
            common: &self.common,
            id: self.id,
            extra: &mut self.extra,
            messages: 0,
        };
        for held in early.held {
            match held {
                Held::Records(bytes) => inlet.deliver_records(Records::new(&bytes)),
                Held::Large(message) => inlet.deliver_large(message),
                Held::Channel {
                    channel,
                    body,
                    credit,
                } => inlet.deliver_channel(ChannelMessage {
                    class: Class::Application,
                    channel,
                    body: &body,
                    credit,
                }),
            }
        }
        self.take_link(cx);
    }

    fn on_closed(&mut self, error: Error, cx: &mut Context<'_, Self>) {
        log::debug!("connection {}: {error}", cx.id());
        self.is_over = true;
        let is_written_out = matches!(error, Error::ClosedHere { .. });
        match self.close_link() {
            Some(link) if is_written_out => link.shut(Arc::from(error.to_string())),
            Some(link) => link.close(Arc::from(error.to_string())),
            None => {}
        }
        self.end_early(&error, cx);
        // Before it was identified nobody knew of it.
        if self.is_identified() {
            self.report_end(DisconnectReason::from_end(&error, self.lost), cx);
        }
    }

    /// Nothing more is taken from the threads outside. The link, if there is one.
    fn close_link(&mut self) -> Option<Arc<Link>> {
        if !self.is_identified() {
            return None;
        }
        let link = self.common.links.close(self.id);
        if link.is_some() {
            self.extra().link.clone_from(&link);
        }
        self.link().cloned()
    }

    /// The end of a connection that was not announced. Whoever was let in at the door and is refused keeps the place there
    /// until the socket is gone.
    fn end_early(&mut self, error: &Error, cx: &mut Context<'_, Self>) {
        let Some(early) = early_in(&mut self.extra) else {
            return;
        };
        early.held.clear();
        match early.origin.take() {
            Some(Origin::Outbound {
                dial,
                attempt,
                dialler,
            }) => {
                let failure = match early.refused {
                    Some(reason) => AttemptFailure::Refused(reason),
                    None => AttemptFailure::from_end(error, self.lost),
                };
                let result = Err(failure);
                tell(
                    cx,
                    &dialler,
                    HandshakeOutcome {
                        dial,
                        attempt,
                        result,
                    },
                );
                self.take_early();
            }
            Some(Origin::Inbound(ticket)) => {
                early.origin = Some(Origin::Inbound(ticket));
                let has_asked = early.retry_at.take().is_some();
                if early.gate.take().is_some() && !has_asked {
                    // It has said too little to be told anything.
                    self.abort(cx);
                }
            }
            None => drop(self.take_early()),
        }
    }

    /// Tells the judge that it is over, unless the judge has never heard of it.
    fn report_end(&mut self, reason: DisconnectReason, cx: &mut Context<'_, Self>) {
        if is_unknown(&self.take_outbox()) {
            return;
        }
        let closed = Report::Closed(cx.address(), reason);
        if let Err(refused) = cx.send_to(&self.common.judge, closed)
            && refused.is_full()
        {
            self.common.fall(cx.id(), reason);
        }
    }

    /// Tells the judge. While it has no room reports wait here in their order.
    fn report(&mut self, report: Report, cx: &mut Context<'_, Self>) {
        if self
            .extra
            .as_ref()
            .is_none_or(|extra| extra.outbox.is_empty())
        {
            let Err(refused) = cx.send_to(&self.common.judge, report) else {
                return;
            };
            if !refused.is_full() {
                return;
            }
            cx.notify_ready(self.common.judge.id());
            self.extra().outbox.push(refused.into_message());
        } else if self.extra().outbox.len() < OUTBOX_MAX
            && !matches!(
                report,
                Report::Alive(..) | Report::Figures(..) | Report::Channel(..)
            )
        {
            self.extra().outbox.push(report);
        }
    }

    fn on_ready(&mut self, cx: &mut Context<'_, Self>) {
        for report in self.take_outbox() {
            self.report(report, cx);
        }
    }

    fn figures(&self) -> Figures {
        Figures {
            rtt: self.machine.rtt(),
            bytes_in: self.machine.tally(Tally::BytesIn),
            bytes_out: self.machine.tally(Tally::BytesOut),
            messages_in: self.machine.tally(Tally::MessagesIn),
            messages_out: self.machine.tally(Tally::MessagesOut),
            queued: self.machine.queued_bytes()
                + self.unqueued().map_or(0, |encoded| encoded.len()),
            credit: self.machine.credit(),
            message_max: self.machine.peer_message_max(),
        }
    }
}

/// What `extra` holds until the connection is announced, leaving the rest of the actor to be borrowed apart.
fn early_in(extra: &mut Option<Box<Extra>>) -> Option<&mut Early> {
    extra.as_mut()?.early.as_mut()
}

/// Whether the judge has never heard of the connection whose reports wait.
fn is_unknown(untold: &[Report]) -> bool {
    let introduces = |report: &Report| matches!(report, Report::Identified(_));
    untold.iter().any(introduces)
}

/// A dialler has few dials and answers at once; if it has no room all the same, its own deadline ends the dial.
fn tell(
    cx: &mut Context<'_, ConnectionActor>,
    dialler: &Address<Dialler>,
    outcome: HandshakeOutcome,
) {
    if let Err(refused) = cx.send(dialler, DiallerMessage::Handshake(outcome)) {
        log::debug!("a dialler could not be told of its connection: {refused}");
    }
}

impl Actor for ConnectionActor {
    type Message = ConnectionMessage;

    fn handle(
        &mut self,
        message: ConnectionMessage,
        cx: &mut Context<'_, Self>,
    ) -> Result<(), Failure> {
        let now = cx.now();
        match message {
            ConnectionMessage::Proceed => self.machine.accept(now),
            ConnectionMessage::Keep => {
                if let Some(early) = early_in(&mut self.extra) {
                    early.is_kept = true;
                }
                if self.machine.is_open() {
                    self.announce(cx);
                } else {
                    self.machine.accept(now);
                }
            }
            ConnectionMessage::Refuse(reason) => {
                if let Some(early) = early_in(&mut self.extra) {
                    early.refused = Some(reason);
                }
                self.machine.close(now, reason.close_code(), "");
            }
            ConnectionMessage::Close(code, reason) => {
                self.take_last();
                self.machine.close(now, code, reason);
            }
            ConnectionMessage::Probe(token) => {
                self.extra().probe = Some(token);
                self.machine.probe(now);
            }
            ConnectionMessage::Report(peer) => {
                let figures = Report::Figures(peer, Box::new(self.figures()));
                self.report(figures, cx);
            }
            ConnectionMessage::MessageMax(bytes) => self.machine.set_message_max(bytes),
            ConnectionMessage::Channel(channel, body) => {
                if let Err(error) = self.machine.send_channel(Class::Control, channel, &body) {
                    log::debug!(
                        "connection {}: not sent on channel {channel}: {error}",
                        self.id
                    );
                }
            }
        }
        self.drain(cx);
        cx.flush_later();
        Ok(())
    }

    fn on_event(
        &mut self,
        event: Happening<'_>,
        cx: &mut Context<'_, Self>,
    ) -> Result<(), Failure> {
        match event {
            Happening::Given { socket } => {
                let is_evicted = self
                    .ticket()
                    .is_some_and(|ticket| !ticket.set_owner(cx.id()));
                if is_evicted {
                    self.abort(cx);
                } else {
                    cx.resume_reading(socket);
                    cx.flush_later();
                }
            }
            Happening::Data { bytes, .. } => self.on_data(bytes, cx),
            Happening::Flush => {
                self.flush(cx);
                // A flush that asked for another would never let the core sleep.
                self.drain(cx);
                return Ok(());
            }
            Happening::Writable { .. } => {
                self.mark_sent(cx);
                cx.flush_later();
            }
            Happening::Poke => self.take_link(cx),
            Happening::Wake => {
                if self.early().is_some_and(|early| early.retry_at.is_some()) {
                    self.ask_for_place(cx);
                }
                self.machine.handle_timeout(cx.now());
                let leave_at = self.early().and_then(|early| early.leave_at);
                if leave_at.is_some_and(|at| at <= cx.now()) {
                    self.abort(cx);
                }
                self.release_link();
                self.take_extra(|extra| Some(std::mem::take(&mut extra.controls_counted)));
                cx.release_scratch();
            }
            Happening::ReadClosed { .. } => self.machine.handle_eof(),
            Happening::Closed { error, .. } => {
                self.on_lost(error.kind());
            }
            Happening::Ready(_) => self.on_ready(cx),
            _ => {}
        }
        self.drain(cx);
        cx.flush_later();
        Ok(())
    }

    fn stopping(&mut self, reason: &StopReason, cx: &mut Context<'_, Self>) -> Drain {
        let Some(socket) = cx.socket() else {
            return Drain::Done;
        };
        if !self.is_identified() {
            // Evicted at the door, refused there, or its dial was given up.
            cx.close(socket, !self.is_over);
            return Drain::Done;
        }
        log::trace!("connection {}: {reason}", cx.id());
        let now = cx.now();
        // One that is closing already goes on with it: what was sent is still to be written.
        if !self.is_over {
            self.take_last();
            self.machine.close(now, CloseCode::ShuttingDown, "");
        }
        let deadline = now + self.machine.config().timing.close * 2;
        self.drain(cx);
        self.flush(cx);
        self.drain(cx);
        Drain::Until(deadline)
    }

    fn heap_bytes(&self) -> usize {
        let extra = self.extra.as_ref().map_or(0, |_| size_of::<Extra>());
        self.machine.heap_bytes() + extra
    }
}

impl Drop for ConnectionActor {
    /// Whoever counts on it has to learn of it, also if the actor failed or its runtime ends.
    fn drop(&mut self) {
        let origin = self.take_early().and_then(|early| early.origin);
        if let Some(Origin::Outbound {
            dial,
            attempt,
            dialler,
        }) = origin
        {
            let result = Err(AttemptFailure::from_io(&ErrorKind::Other.into()));
            let outcome = DiallerMessage::Handshake(HandshakeOutcome {
                dial,
                attempt,
                result,
            });
            if self.common.handle.try_send(&dialler, outcome).is_err() {
                log::debug!("a dialler has ended before its connection");
            }
        }
        if !self.is_identified() {
            return;
        }
        if let Some(link) = self.close_link() {
            link.close(Arc::from("the connection's actor ended"));
        }
        let untold = self.take_outbox();
        if !self.is_over && !is_unknown(&untold) {
            self.common.fall(self.id, DisconnectReason::Internal);
        }
    }
}

/// Where the machine puts what it receives.
struct Inlet<'a> {
    common: &'a Common,
    id: ActorId,
    extra: &'a mut Option<Box<Extra>>,
    messages: u64,
}

impl Inlet<'_> {
    /// The link, which is made if there is none. `None`: the peer has just been announced as gone.
    fn link(&mut self) -> Option<&Arc<Link>> {
        let extra = self.extra.get_or_insert_default();
        if extra.link.is_none() {
            extra.link = self.common.links.open(self.id);
        }
        extra.link.as_ref()
    }

    fn deliver_records(&mut self, records: Records<'_>) {
        let deliver = &self.common.deliver;
        if let Some(link) = self.link() {
            deliver.records(link, records);
        }
    }

    fn deliver_large(&mut self, message: LargeMessage) {
        let deliver = &self.common.deliver;
        if let Some(link) = self.link() {
            deliver.large(link, message);
        }
    }

    fn deliver_channel(&mut self, message: ChannelMessage<'_>) {
        let deliver = &self.common.deliver;
        if let Some(link) = self.link() {
            deliver.channel(link, message);
        }
    }
}

impl Sink for Inlet<'_> {
    fn records(&mut self, records: Records<'_>) {
        self.messages += records.count_messages() as u64;
        match early_in(self.extra) {
            Some(early) => match early.held.last_mut() {
                Some(Held::Records(bytes)) => bytes.extend_from_slice(records.as_bytes()),
                _ => early.held.push(Held::Records(records.as_bytes().to_vec())),
            },
            None => self.deliver_records(records),
        }
    }

    fn large(&mut self, message: LargeMessage) {
        self.messages += 1;
        match early_in(self.extra) {
            Some(early) => early.held.push(Held::Large(message)),
            None => self.deliver_large(message),
        }
    }

    fn channel(&mut self, message: ChannelMessage<'_>) {
        if message.class == Class::Control && message.channel == EXCHANGE_CHANNEL {
            let extra = self.extra.get_or_insert_default();
            if extra.controls_counted < CONTROL_MESSAGES_MAX {
                extra.controls_counted += 1;
                extra.controls.push(message.body.into());
            }
            return;
        }
        if message.class != Class::Application {
            // No other subsystem has a channel there; what a newer peer says on one is dropped.
            return log::trace!(
                "{} bytes on unknown channel {}",
                message.body.len(),
                message.channel
            );
        }
        self.messages += 1;
        match early_in(self.extra) {
            // Who says so much so early has lost the credit for it.
            Some(early) if early.held.len() >= HELD_MAX => {}
            Some(early) => early.held.push(Held::Channel {
                channel: message.channel,
                body: message.body.to_vec(),
                credit: message.credit,
            }),
            None => self.deliver_channel(message),
        }
    }

    fn bulk(&mut self, stream: StreamId, event: BulkEvent<'_>) {
        log::trace!("bulk stream {stream:?}: {event:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_is_small() {
        // Together with the word that an allocator adds this fills a piece of 208 bytes.
        assert_eq!(size_of::<ConnectionActor>(), 200);
        assert_eq!(size_of::<Connection>(), 168);
    }
}
