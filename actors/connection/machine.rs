//! The whole machine, [`Connection`]: what comes in, what goes out, and when to look again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mischief_reactor::{Instant, Random};

use super::bulk::BulkEvent;
use super::cipher::{CipherState, KEY_BYTES, Suite};
use super::config::{Config, MESSAGE_MAX_TRUSTED};
use super::error::{CloseCode, Error, Fault, RejectCode, Stage, cut_reason};
use super::handshake::{Authenticated, Failure, Handshake, Keys, Outcome};
use super::liveness::{KeepAlive, Look, Rtt, RttEstimator};
use super::noise::Role;
use super::queue::RecordQueue;
use super::reassembly::{Reassembly, SPARE_BYTES_MAX};
use super::record::{ChannelMessage, Class, LargeMessage, Records};
use super::send::CONTROL_QUEUE_MAX;
use super::state::{
    APPLICATION, Active, Due, End, GOSSIP, Handshaking, LastWords, MessageStream, PeerLimits,
    Phase, STREAM_IDS, Standing, Tally, Unsent,
};
use super::stream::{SendWindow, StreamId};
use crate::identity::PeerId;

/// How often a message that waits for the node's budget asks again.
pub(crate) const STARVED_RETRY: Duration = Duration::from_millis(100);
/// Takes what a connection receives. Everything is borrowed from the bytes that were handed in, and is to be used or
/// copied before the call returns.
pub trait Sink {
    /// A run of whole application messages, in order. Give the length back with [`Connection::consumed`] on
    /// [`StreamId::APPLICATION`] as they are done with.
    fn records(&mut self, records: Records<'_>);
    /// An application message that came in several records, in order with the others.
    fn large(&mut self, message: LargeMessage);
    /// A subsystem's message.
    fn channel(&mut self, message: ChannelMessage<'_>);
    /// Something on a bulk stream. Ids of streams that the peer opened and of our own are counted apart.
    fn bulk(&mut self, stream: StreamId, event: BulkEvent<'_>);
}

/// What has become of a connection. To be asked for with [`Connection::poll_event`] after each call that changes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The peer has proved who it is. The owner answers with [`Connection::accept`] or [`Connection::close`]; until then
    /// nothing more happens. For a dialler this comes before it has shown who it is itself.
    Authenticated(Box<Authenticated>),
    /// Both sides want the connection. From now on messages are taken and delivered.
    Opened,
    /// The peer takes messages up to this many bytes from now on.
    MessageMax(u32),
    /// A queue that was full has room again.
    Drained(Class),
    /// A bulk stream that was full has room again.
    BulkWritable(StreamId),
    /// The connection is over, and why. Comes once, whatever the reason; nothing is delivered any longer.
    Closed(Error),
    /// Everything was handed out. When it is written, the writing half of the transport is to be shut down.
    ShutdownWrite,
    /// The transport is to be closed now; with `abort`, without waiting for what is unsent. The last event.
    Finished {
        /// Whether to reset the transport.
        abort: bool,
    },
}

/// One side of a connection.
///
/// The machine opens no socket and reads no clock. Its owner hands in bytes and the time, and after each call takes out
/// what there is: [`Connection::poll_transmit`] once a turn, [`Connection::poll_event`] until `None`, and then sleeps
/// until [`Connection::poll_timeout`].
pub struct Connection {
    pub(crate) config: Arc<Config>,
    pub(crate) phase: Standing,
    pub(crate) active: Option<Box<Active>>,
    pub(crate) send: CipherState,
    pub(crate) receive: CipherState,
    /// The deadline of the phase; when open, when to look at the clock again.
    pub(crate) check_at: Instant,
    pub(crate) alive: KeepAlive,
    pub(crate) tally: [u32; Tally::COUNT],
    pub(crate) rtt: RttEstimator,
    pub(crate) application: MessageStream,
    /// Seconds of the clock, to save four bytes.
    pub(crate) rekeyed_at: u32,
    pub(crate) role: Role,
    pub(crate) suite: Suite,
    pub(crate) due: Due,
}

impl Connection {
    /// Begins a connection that this node has dialled. `expected`: who has to answer. `remote`: the address dialled,
    /// which the peer is told. Draws 32 bytes from `random` for the ephemeral key.
    pub fn dialler(
        config: &Arc<Config>,
        now: Instant,
        random: &mut dyn Random,
        expected: Option<PeerId>,
        remote: Option<SocketAddr>,
    ) -> Connection {
        let handshake = Handshake::dialler(config, random, expected, remote);
        Connection::new(config, now, Role::Dialler, handshake)
    }

    /// Begins a connection that this node has accepted from `remote`.
    pub fn responder(
        config: &Arc<Config>,
        now: Instant,
        random: &mut dyn Random,
        remote: Option<SocketAddr>,
    ) -> Connection {
        let handshake = Handshake::responder(random, remote);
        Connection::new(config, now, Role::Responder, handshake)
    }

    fn new(config: &Arc<Config>, now: Instant, role: Role, handshake: Handshake) -> Connection {
        let handshaking = Handshaking {
            handshake,
            authenticated: None,
        };
        Connection {
            config: Arc::clone(config),
            phase: Standing::new(Phase::Handshake(Box::new(handshaking)), config),
            active: None,
            send: CipherState::new(&[0; KEY_BYTES]),
            receive: CipherState::new(&[0; KEY_BYTES]),
            rekeyed_at: 0,
            check_at: now + config.timing.handshake,
            alive: KeepAlive::new(now),
            tally: [0; Tally::COUNT],
            rtt: RttEstimator::default(),
            application: MessageStream::default(),
            role,
            suite: Suite::ChaChaPoly,
            due: Due::default(),
        }
    }

    /// Takes bytes from the transport, in any portions. They are decrypted in place; what `sink` gets is borrowed from
    /// them. All of them are taken.
    pub fn handle_bytes(&mut self, now: Instant, bytes: &mut [u8], sink: &mut dyn Sink) {
        self.count(Tally::BytesIn, bytes.len() as u64);
        let mut input = bytes;
        if let Phase::Handshake(_) = *self.phase {
            let mut view = &*input;
            self.handle_handshake(now, &mut view);
            let used = input.len() - view.len();
            input = &mut input[used..];
        }
        if let Err(error) = self.handle_frames(now, input, sink) {
            self.fail(now, error);
        }
    }

    /// The peer has shut down its writing half, or the transport is gone.
    pub fn handle_eof(&mut self) {
        match *self.phase {
            Phase::Over(_) => {}
            Phase::Closing(_) | Phase::Lingering(_) => self.finish(false),
            _ => self.end(Error::Lost),
        }
    }

    /// To be called when [`Connection::poll_timeout`] has come. Earlier calls do nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        if now < self.check_at {
            return;
        }
        match *self.phase {
            Phase::Handshake(_) | Phase::Verdict(_) | Phase::AwaitAccept(_) => {
                self.refuse(now, Error::TimedOut(Stage::Handshake), RejectCode::TimedOut);
            }
            Phase::Open => self.look_around(now),
            Phase::Closing(_) if self.queued_bytes() > 0 => self.give_up_queues(now),
            Phase::Closing(_) | Phase::Lingering(_) => self.finish(true),
            Phase::Over(_) => {}
        }
    }

    /// When to call [`Connection::handle_timeout`]. `None`: never again.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match *self.phase {
            Phase::Over(_) => None,
            _ => Some(self.check_at),
        }
    }

    /// What has happened. To be called until `None`.
    pub fn poll_event(&mut self) -> Option<Event> {
        let authenticated = match self.phase.as_mut() {
            Some(Phase::Handshake(handshaking)) => handshaking.authenticated.take(),
            Some(Phase::Verdict(authenticated)) => authenticated.take(),
            _ => None,
        };
        if let Some(authenticated) = authenticated {
            return Some(Event::Authenticated(authenticated));
        }
        if self.due.take(Due::OPENED) {
            return Some(Event::Opened);
        }
        if self.due.take(Due::MESSAGE_MAX) && self.is_open() {
            return Some(Event::MessageMax(self.peer_message_max()));
        }
        if self.is_open()
            && let Some(event) = self.poll_queues()
        {
            return Some(event);
        }
        if self.due.take(Due::CLOSED) {
            let error = self.error().expect("it is over");
            return Some(Event::Closed(error.clone()));
        }
        if self.due.take(Due::SHUTDOWN) {
            return Some(Event::ShutdownWrite);
        }
        if self.due.take(Due::FINISHED) {
            let abort = self.due.has_any(Due::ABORT);
            return Some(Event::Finished { abort });
        }
        None
    }

    fn poll_queues(&mut self) -> Option<Event> {
        let limits = &self.config.limits;
        let active = self.active.as_mut()?;
        let [application, gossip] = &mut active.queues;
        if application.take_drained(limits.send_queue_low) {
            return Some(Event::Drained(Class::Application));
        }
        if gossip.take_drained(limits.gossip_queue_high / 2) {
            return Some(Event::Drained(Class::Gossip));
        }
        if active.control.take_drained(CONTROL_QUEUE_MAX / 2) {
            return Some(Event::Drained(Class::Control));
        }
        let writable = active.bulk.take_writable(limits.bulk_queue_high / 2);
        writable.map(Event::BulkWritable)
    }

    /// The owner wants the peer that [`Event::Authenticated`] named. A responder's connection is open then; a dialler's
    /// when the responder has accepted as well.
    pub fn accept(&mut self, now: Instant) {
        match self.phase.as_mut() {
            Some(Phase::Handshake(handshaking)) if handshaking.handshake.is_answered() => {
                match handshaking.handshake.accept(&self.config) {
                    Ok(keys) => self.install(now, keys),
                    Err(failure) => self.handshake_failed(now, &failure),
                }
            }
            Some(Phase::Verdict(_)) => {
                self.due.set(Due::ACCEPT);
                self.open(now);
            }
            // It has ended while the owner was deciding.
            _ => {}
        }
    }

    /// Says goodbye: what is queued is sent first, within [`ConnectionTiming::close`](super::ConnectionTiming::close).
    /// Before the connection is open this refuses the peer. Reasons are cut to 256 bytes.
    pub fn close(&mut self, now: Instant, code: CloseCode, reason: &str) {
        let error = Error::ClosedHere {
            code,
            reason: cut_reason(reason).to_owned(),
        };
        match *self.phase {
            Phase::Closing(_) | Phase::Lingering(_) | Phase::Over(_) => {}
            Phase::Handshake(_) => self.refuse(now, error, code.as_reject()),
            // The responder does not have message 3 yet, so it could not read a frame.
            Phase::AwaitAccept(Some(_)) => {
                self.leave(now, error, vec![0, 0, code.as_reject().number()]);
            }
            _ => {
                let words = LastWords::Close(code, cut_reason(reason).into());
                self.start_closing(now, error, words);
            }
        }
    }

    /// Gives the peer credit for received bytes that are done with: the `credit` of a message, or the length of
    /// [`Records`]. Until then they count against the stream's window.
    pub fn consumed(&mut self, stream: StreamId, bytes: u32) {
        let window = self.config.limits.window;
        let Some(index) = STREAM_IDS.iter().position(|id| *id == stream) else {
            if let Some(active) = &mut self.active {
                active.bulk.consumed(stream.0, window, bytes);
            }
            return;
        };
        let mut overdraft = self.overdraft(index);
        let stream = self.stream(index);
        let paid = stream.receive.consume(window, &mut overdraft, bytes);
        if paid > 0 {
            self.seldom().overdrafts[index] = overdraft;
            self.config.reassembly.give(paid as usize);
        }
    }

    /// Takes memory for the next large message, that of one which is done with. New memory for each costs more than to
    /// decrypt it.
    pub fn recycle(&mut self, mut bytes: Vec<u8>) {
        if let Some(active) = &mut self.active
            && active.spare_body.capacity() < bytes.capacity()
            && bytes.capacity() <= SPARE_BYTES_MAX
        {
            bytes.clear();
            active.spare_body = bytes;
        }
    }

    /// Takes messages up to this size from the peer from now on, at most 16 MiB, and tells it so. A lower limit than
    /// before would break off what is under way, so it is for the next connection.
    pub fn set_message_max(&mut self, bytes: u32) {
        let raised = bytes.min(MESSAGE_MAX_TRUSTED);
        if raised > self.message_max() {
            self.seldom().message_max = raised;
            self.due.set(Due::LIMITS);
        }
    }

    /// Sends a ping, whose answer updates [`Connection::rtt`].
    pub fn ping(&mut self, now: Instant) {
        if self.is_open() {
            self.alive.ping(now);
        }
    }

    /// The machine may have slept: the peer has to answer within a few seconds or is given up.
    pub fn probe(&mut self, now: Instant) {
        if self.is_open() {
            self.alive.probe(now);
            self.look_by(now + self.config.timing.ping_timeout / 5);
        }
    }

    /// Whether messages are taken and delivered.
    #[inline]
    pub fn is_open(&self) -> bool {
        self.phase.is_open()
    }

    /// Why it is over, once it is.
    pub fn error(&self) -> Option<&Error> {
        match &*self.phase {
            Phase::Closing(end) | Phase::Lingering(end) | Phase::Over(end) => Some(&end.error),
            _ => None,
        }
    }

    /// Our side of it.
    pub fn role(&self) -> Role {
        self.role
    }

    /// How frames are protected. Settled when the peer is authenticated.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// Round-trip times, once there is a sample.
    pub fn rtt(&self) -> Option<Rtt> {
        self.rtt.value()
    }

    /// Bytes that wait to go into frames, of all classes.
    pub fn queued_bytes(&self) -> usize {
        self.active.as_ref().map_or(0, |active| {
            let queues: usize = active.queues.iter().map(RecordQueue::bytes).sum();
            queues + active.control.bytes() + active.bulk.bytes()
        })
    }

    /// Bytes of application records that the peer takes now.
    pub fn credit(&self) -> usize {
        self.application.send.credit()
    }

    /// The largest message body that the peer takes.
    pub fn peer_message_max(&self) -> u32 {
        self.peer_limits().message_max
    }

    /// Bytes of memory held beside the connection itself; roughly, while the handshake lasts.
    pub fn heap_bytes(&self) -> usize {
        let phase = match &*self.phase {
            Phase::Handshake(_) => size_of::<Handshaking>() + 1024,
            Phase::Verdict(Some(_)) => size_of::<Authenticated>(),
            Phase::Closing(_) | Phase::Lingering(_) | Phase::Over(_) => size_of::<End>(),
            _ => 0,
        };
        phase
            + self.phase.heap_bytes()
            + self.active.as_ref().map_or(0, |_| size_of::<Active>())
            + self.sending_bytes()
            + self.partial_bytes()
    }

    /// Bytes of memory in which messages wait to be sent.
    pub fn sending_bytes(&self) -> usize {
        self.active
            .as_ref()
            .map_or(0, |active| active.sending_bytes())
    }

    /// Bytes of memory that hold parts of frames and of messages.
    pub fn partial_bytes(&self) -> usize {
        self.active
            .as_ref()
            .map_or(0, |active| active.partial_bytes())
    }

    /// Frees the memory that is only kept for what comes next.
    pub fn shed(&mut self) {
        if let Some(active) = &mut self.active {
            active.shed();
        }
    }

    fn handle_handshake(&mut self, now: Instant, input: &mut &[u8]) {
        let Some(Phase::Handshake(handshaking)) = self.phase.as_mut() else {
            return;
        };
        match handshaking.handshake.handle(&self.config, now, input) {
            Ok(None) => {}
            Ok(Some(Outcome::Answered(authenticated))) => {
                self.take_limits(&authenticated);
                if let Some(Phase::Handshake(handshaking)) = self.phase.as_mut() {
                    handshaking.authenticated = Some(authenticated);
                }
                // More may be behind the answer, which nobody may send before our message 3.
                if !input.is_empty() {
                    self.handle_handshake(now, input);
                }
            }
            Ok(Some(Outcome::Finished(keys, result))) => {
                self.install(now, keys);
                match result {
                    Ok(authenticated) => {
                        self.take_limits(&authenticated);
                        self.set_phase(Phase::Verdict(Some(authenticated)));
                    }
                    Err(error) => self.fail(now, error),
                }
            }
            Err(failure) => self.handshake_failed(now, &failure),
        }
    }

    fn take_limits(&mut self, authenticated: &Authenticated) {
        let about = &authenticated.about;
        let limits = PeerLimits {
            message_max: about.message_max.min(MESSAGE_MAX_TRUSTED),
            window: about.window,
            bulk_streams_max: about.bulk_streams_max,
        };
        self.application = MessageStream::new(about.window, self.config.limits.window);
        if limits != PeerLimits::like(&self.config) {
            let seldom = self.seldom();
            seldom.peer = limits;
            seldom.gossip.send = SendWindow::new(limits.window);
        }
        if let Some(rtt) = authenticated.rtt {
            self.rtt.sample(rtt);
        }
        self.suite = authenticated.suite;
    }

    /// The handshake is over; its state goes. Message 3 of a dialler waits as clear bytes.
    fn install(&mut self, now: Instant, keys: Keys) {
        self.suite = keys.suite;
        self.send = keys.send;
        self.receive = keys.receive;
        self.rekeyed_at = seconds(now);
        self.alive.seen(now);
        let message_3 = self.handshake_output(now);
        let unsent = message_3.map(|bytes| Box::new(Unsent { bytes }));
        self.set_phase(Phase::AwaitAccept(unsent));
    }

    pub(crate) fn open(&mut self, now: Instant) {
        self.set_phase(Phase::Open);
        self.due.set(Due::OPENED);
        self.check_at = now + self.config.timing.keep_alive;
    }

    /// Looks at the clock no later than at `at`.
    #[inline]
    pub(crate) fn look_by(&mut self, at: Instant) {
        self.check_at = self.check_at.min(at);
    }

    fn look_around(&mut self, now: Instant) {
        let timing = self.config.timing;
        let mut next = match self.alive.look(now, timing.keep_alive, timing.ping_timeout) {
            Look::At(at) => at,
            Look::Dead => return self.end(Error::TimedOut(Stage::KeepAlive)),
        };
        if let Some(mut active) = self.active.take() {
            let looked = self.look_at_active(now, &mut active);
            let is_unused = active.is_idle() && now >= active.used_at + timing.linger;
            if !is_unused {
                self.active = Some(active);
            }
            match looked {
                Ok(at) => next = at.map_or(next, |at| at.min(next)),
                Err(error) => return self.fail(now, error),
            }
        }
        self.forget_seldom();
        self.check_at = next;
    }

    /// Progress of what has begun, and large messages that wait for memory. Returns when to look again.
    fn look_at_active(
        &mut self,
        now: Instant,
        active: &mut Active,
    ) -> Result<Option<Instant>, Error> {
        let timing = self.config.timing;
        let too_slow = Error::TimedOut(Stage::Progress);
        let linger = active.used_at + timing.linger;
        let mut next = (active.is_idle() && now < linger).then_some(linger);
        let mut look_at = |at: Instant| next = Some(next.map_or(at, |next| next.min(at)));
        if !active.partial.is_empty() {
            if now >= active.partial.checked_at() + timing.progress
                && !active.partial.check_progress(now)
            {
                return Err(too_slow);
            }
            look_at(active.partial.checked_at() + timing.progress);
        }
        for reassembly in active.reassembly.iter_mut().flatten() {
            if !reassembly.is_overdrawn {
                continue;
            }
            if now >= reassembly.checked_at() + timing.progress && !reassembly.check_progress(now) {
                return Err(too_slow);
            }
            look_at(reassembly.checked_at() + timing.progress);
        }
        if active.is_starved {
            active.is_starved = false;
            for index in [APPLICATION, GOSSIP] {
                if let Some(reassembly) = &mut active.reassembly[index] {
                    active.is_starved |= !self.cover(now, index, reassembly)?;
                }
            }
            if active.is_starved {
                look_at(now + STARVED_RETRY);
            }
        }
        Ok(next)
    }

    fn handshake_failed(&mut self, now: Instant, failure: &Failure) {
        let Some(Phase::Handshake(handshaking)) = self.phase.as_mut() else {
            return;
        };
        handshaking.handshake.fail(&self.config, failure);
        let words = handshaking.handshake.take_output(now);
        self.leave(now, failure.error.clone(), words);
    }

    /// Refuses before the handshake is complete, in clear; afterwards with a `Close`.
    fn refuse(&mut self, now: Instant, error: Error, code: RejectCode) {
        let Some(Phase::Handshake(handshaking)) = self.phase.as_mut() else {
            return self.fail(now, error);
        };
        handshaking.handshake.reject(&self.config, code);
        let words = handshaking.handshake.take_output(now);
        self.leave(now, error, words);
    }

    fn leave(&mut self, now: Instant, error: Error, words: Vec<u8>) {
        if words.is_empty() {
            return self.end(error);
        }
        self.start_closing(now, error, LastWords::Clear(words));
    }

    /// The peer or the time has ended it: what is queued is dropped, the peer is told.
    pub(crate) fn fail(&mut self, now: Instant, error: Error) {
        if matches!(*self.phase, Phase::Lingering(_) | Phase::Over(_)) {
            return;
        }
        if let Some(active) = &mut self.active {
            active.clear_queues();
        }
        // What else is wrong is nobody's business who cannot even authenticate its frames.
        let code = error.close_code();
        self.start_closing(now, error, LastWords::Close(code, "".into()));
    }

    fn start_closing(&mut self, now: Instant, error: Error, last_words: LastWords) {
        if let Phase::Closing(_) = *self.phase {
            return;
        }
        self.due.set(Due::CLOSED);
        self.check_at = now + self.config.timing.close;
        self.set_phase(Phase::Closing(Box::new(End { error, last_words })));
    }

    /// The peer does not take what is queued, but it may still take the last words.
    fn give_up_queues(&mut self, now: Instant) {
        if let Some(active) = &mut self.active {
            active.clear_queues();
        }
        self.check_at = now + self.config.timing.close;
    }

    /// The last words are handed out.
    pub(crate) fn start_lingering(&mut self, now: Instant) {
        let Phase::Closing(end) = self.phase.take() else {
            unreachable!("only a closing connection has last words");
        };
        self.set_phase(Phase::Lingering(end));
        self.active = None;
        self.check_at = now + self.config.timing.close;
        self.due.set(Due::SHUTDOWN);
    }

    /// It is over, and there is nothing to say.
    pub(crate) fn end(&mut self, error: Error) {
        if self.error().is_some() {
            return self.finish(false);
        }
        self.due.set(Due::CLOSED);
        let abort = !matches!(error, Error::ClosedByPeer { .. } | Error::Refused(_));
        let last_words = LastWords::Clear(Vec::new());
        self.set_phase(Phase::Over(Box::new(End { error, last_words })));
        self.finish(abort);
    }

    fn finish(&mut self, abort: bool) {
        let end = match self.phase.take() {
            Phase::Closing(end) | Phase::Lingering(end) | Phase::Over(end) => end,
            _ => unreachable!("only what is over is finished"),
        };
        self.set_phase(Phase::Over(end));
        self.active = None;
        self.due.take(Due::SHUTDOWN);
        self.due.set(Due::FINISHED);
        if abort {
            self.due.set(Due::ABORT);
        }
    }

    pub(crate) fn handshake_output(&mut self, now: Instant) -> Option<Vec<u8>> {
        match self.phase.as_mut() {
            Some(Phase::Handshake(handshaking)) if handshaking.handshake.has_output() => {
                Some(handshaking.handshake.take_output(now))
            }
            _ => None,
        }
    }

    /// Lets the peer finish a message larger than its window, from the node's budget. `false`: there is no budget now.
    pub(crate) fn cover(
        &mut self,
        now: Instant,
        index: usize,
        reassembly: &mut Reassembly,
    ) -> Result<bool, Fault> {
        let window = &mut self.stream(index).receive;
        let missing = reassembly
            .rest_encoded_max()
            .saturating_sub(window.promised());
        // Below half a window, the owner may still consume what came before; that costs nothing.
        if missing == 0 || reassembly.encoded() < self.config.limits.window / 2 {
            return Ok(true);
        }
        if missing > self.config.reassembly.max() {
            return Err(Fault::MessageTooLarge {
                size: missing as u64,
                max: self.config.reassembly.max() as u32,
            });
        }
        if !self.config.reassembly.take(missing) {
            return Ok(false);
        }
        self.stream(index).receive.overdraw(missing as u32);
        self.seldom().overdrafts[index] += missing as u32;
        reassembly.overdraw(now);
        self.look_by(now + self.config.timing.progress);
        Ok(true)
    }
}

/// Whole seconds of the clock; it takes 136 years to overflow.
pub(crate) fn seconds(now: Instant) -> u32 {
    u32::try_from(now.as_nanos() / 1_000_000_000).unwrap_or(u32::MAX)
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(seldom) = self.phase.seldom() {
            let overdraft: u32 = seldom.overdrafts.iter().sum();
            self.config.reassembly.give(overdraft as usize);
        }
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let phase = match *self.phase {
            Phase::Handshake(_) => "handshake",
            Phase::Verdict(_) => "verdict",
            Phase::AwaitAccept(_) => "await accept",
            Phase::Open => "open",
            Phase::Closing(_) => "closing",
            Phase::Lingering(_) => "lingering",
            Phase::Over(_) => "over",
        };
        write!(
            f,
            "Connection({:?}, {phase}, {})",
            self.role,
            self.suite.name()
        )
    }
}
