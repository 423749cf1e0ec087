//! The handshake of one side: prefaces, the three Noise messages, and the hellos inside of two of them.
//!
//! ```text
//! dialler                                   responder
//!   preface, message 1 (e)            ->
//!                                     <-    preface, message 2 (e, ee, s, es, hello)
//!   message 3 (s, se, hello)          ->
//!                                     <-    first frame: Accept or Close
//! ```
//!
//! Before it is complete, either side may answer with a `Reject` in clear instead of its next message.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mischief_reactor::{Instant, Random};
use zeroize::Zeroizing;

use super::cipher::{CipherState, Suite, transport_key};
use super::config::Config;
use super::error::{Error, Fault, Incompatible, RejectCode};
use super::hello::{About, HELLO_MAX, Hello};
use super::noise::{
    DH_BYTES, HASH_BYTES, MESSAGE_1_BYTES, MESSAGE_1_PSK_BYTES, MESSAGE_2_BYTES, MESSAGE_3_BYTES,
    Noise, NoiseError, Role,
};
use super::preface::{PREFACE_BYTES, Preface, PrefaceError};
use crate::identity::{Identity, PeerId};

/// What an identity signs in a handshake: this domain, the role's byte, the handshake hash, its static key.
const SIGNATURE_DOMAIN: &[u8] = b"mischief handshake";

/// A peer that has proved its identity, and what it said of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authenticated {
    /// Who it is.
    pub peer: PeerId,
    /// Our role.
    pub role: Role,
    /// How frames are protected.
    pub suite: Suite,
    /// The wire version.
    pub version: u8,
    /// The hash of the handshake at the time the peer proved its identity: message 2 for a dialler, 3 for a responder.
    pub handshake_hash: [u8; HASH_BYTES],
    /// What the peer said of itself.
    pub about: About,
    /// From sending a handshake message to its answer; includes the peer's computing.
    pub rtt: Option<Duration>,
}

/// What a step of the handshake came to.
pub(crate) enum Outcome {
    /// A dialler knows who answered; [`Handshake::accept`] goes on.
    Answered(Box<Authenticated>),
    /// A responder has the keys. The error is one that the peer may be told under them.
    Finished(Keys, Result<Box<Authenticated>, Error>),
}

/// What is left when the handshake is over.
pub(crate) struct Keys {
    pub(crate) suite: Suite,
    pub(crate) send: CipherState,
    pub(crate) receive: CipherState,
}

/// Ends a handshake.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    /// What to tell the other side.
    reject: Option<RejectCode>,
}

impl Failure {
    fn silent(error: impl Into<Error>) -> Failure {
        Failure {
            error: error.into(),
            reject: None,
        }
    }

    fn told(error: impl Into<Error>, code: RejectCode) -> Failure {
        Failure {
            error: error.into(),
            reject: Some(code),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The other side's preface is awaited.
    Preface,
    /// The message with this number is awaited.
    Message(u8),
    /// A dialler's owner is deciding.
    Verdict,
    /// Nothing is awaited any longer.
    Over,
}

/// One side of a handshake. Lives in a box of its own and is dropped when the handshake is over.
pub(crate) struct Handshake {
    role: Role,
    step: Step,
    /// A responder has none until it knows the prologue, which is the dialler's preface.
    noise: Option<Noise>,
    ephemeral_secret: Zeroizing<[u8; DH_BYTES]>,
    ephemeral: [u8; DH_BYTES],
    preface_sent: bool,
    peer_preface: Option<Preface>,
    version: u8,
    suite: Suite,
    expected: Option<PeerId>,
    remote: Option<SocketAddr>,
    /// The preface or message that is still incomplete.
    received: Vec<u8>,
    /// What is to be sent.
    out: Vec<u8>,
    sent_at: Option<Instant>,
}

impl Handshake {
    pub(crate) fn dialler(
        config: &Config,
        random: &mut dyn Random,
        expected: Option<PeerId>,
        remote: Option<SocketAddr>,
    ) -> Handshake {
        let mut handshake = Handshake::new(Role::Dialler, random, expected, remote);
        handshake.send_preface(config);
        handshake.start_noise(config, config.preface);
        handshake
            .write_message(&[])
            .expect("message 1 holds nothing that could fail");
        handshake
    }

    pub(crate) fn responder(random: &mut dyn Random, remote: Option<SocketAddr>) -> Handshake {
        Handshake::new(Role::Responder, random, None, remote)
    }

    fn new(
        role: Role,
        random: &mut dyn Random,
        expected: Option<PeerId>,
        remote: Option<SocketAddr>,
    ) -> Handshake {
        let mut ephemeral_secret = Zeroizing::new([0; DH_BYTES]);
        random.fill(&mut *ephemeral_secret);
        Handshake {
            role,
            step: Step::Preface,
            noise: None,
            ephemeral_secret,
            ephemeral: [0; DH_BYTES],
            preface_sent: false,
            peer_preface: None,
            version: 0,
            suite: Suite::ChaChaPoly,
            expected,
            remote,
            received: Vec::new(),
            out: Vec::new(),
            sent_at: None,
        }
    }

    /// Takes what it needs from the front of `input`. To be called again until `input` is empty or there is an outcome.
    pub(crate) fn handle(
        &mut self,
        config: &Config,
        now: Instant,
        input: &mut &[u8],
    ) -> Result<Option<Outcome>, Failure> {
        while !input.is_empty() {
            let want = self.want(config)?;
            let missing = want - self.received.len();
            let (taken, rest) = input.split_at(missing.min(input.len()));
            self.received.extend_from_slice(taken);
            *input = rest;
            if self.step == Step::Preface && !Preface::may_begin_with(&self.received) {
                return Err(Failure::silent(Incompatible::NotMischief));
            }
            if self.received.len() < want || self.want(config)? > want {
                continue;
            }
            let unit = std::mem::take(&mut self.received);
            if self.step == Step::Preface {
                self.handle_preface(config, &unit)?;
            } else if let Some(outcome) = self.handle_message(config, now, &unit[2..])? {
                return Ok(Some(outcome));
            }
        }
        Ok(None)
    }

    /// How long the unit that is being received has to be, as far as that is known.
    fn want(&self, config: &Config) -> Result<usize, Failure> {
        let number = match self.step {
            Step::Preface => return Ok(PREFACE_BYTES),
            Step::Message(number) => number,
            // The other side has to wait for us. All it may send is a refusal.
            Step::Verdict => 0,
            Step::Over => return Err(Failure::silent(Fault::OutOfTurn)),
        };
        let Some((length, code)) = self.received.split_first_chunk::<2>() else {
            return Ok(2);
        };
        let length = usize::from(u16::from_be_bytes(*length));
        if length == 0 {
            // No Noise message is empty: this is a Reject, and its code follows.
            return match code.first() {
                None => Ok(3),
                Some(&code) => {
                    let error = Error::Refused(RejectCode::from_number(code));
                    Err(Failure::silent(error))
                }
            };
        }
        match number {
            0 => return Err(Failure::silent(Fault::OutOfTurn)),
            1 => check_message_1_length(config, length)?,
            // Our own message 1, to be told apart from nonsense once it is here.
            2 if length == message_1_length(config) => {}
            2 => check_length(length, MESSAGE_2_BYTES)?,
            _ => check_length(length, MESSAGE_3_BYTES)?,
        }
        Ok(2 + length)
    }

    fn handle_preface(&mut self, config: &Config, bytes: &[u8]) -> Result<(), Failure> {
        let bytes = bytes.try_into().expect("a whole preface was received");
        let preface = Preface::decode(bytes).map_err(|error| match error {
            PrefaceError::NotMischief => Failure::silent(Incompatible::NotMischief),
            PrefaceError::Versions => Failure::told(Fault::Preface, RejectCode::Handshake),
        })?;
        let Some(version) = config.preface.common_version(&preface) else {
            let error = Incompatible::WireVersion {
                ours: config.preface.versions(),
                theirs: preface.versions(),
            };
            return Err(Failure::told(error, RejectCode::WireVersion));
        };
        if preface.protocol() != config.preface.protocol() {
            return Err(Failure::told(Incompatible::Protocol, RejectCode::Protocol));
        }
        self.version = version;
        self.peer_preface = Some(preface);
        self.step = match self.role {
            Role::Dialler => Step::Message(2),
            Role::Responder => {
                self.start_noise(config, preface);
                Step::Message(1)
            }
        };
        Ok(())
    }

    fn handle_message(
        &mut self,
        config: &Config,
        now: Instant,
        message: &[u8],
    ) -> Result<Option<Outcome>, Failure> {
        // Nobody can answer what was not handed out.
        if !self.out.is_empty() {
            return Err(Failure::silent(Fault::OutOfTurn));
        }
        if message.starts_with(&self.ephemeral) && self.step != Step::Message(1) {
            return Err(Failure::silent(Fault::Reflected));
        }
        match self.step {
            Step::Message(1) => {
                self.handle_message_1(config, message)?;
                Ok(None)
            }
            Step::Message(2) => {
                check_length(message.len(), MESSAGE_2_BYTES)?;
                let told = |error: Error| Failure::told(error, RejectCode::Handshake);
                let (hello, hash) = self.read_hello(message).map_err(told)?;
                let authenticated = self.check_hello(config, now, hello, hash);
                let authenticated =
                    authenticated.map_err(|error| Failure::told(error, RejectCode::Unwanted))?;
                self.step = Step::Verdict;
                Ok(Some(Outcome::Answered(authenticated)))
            }
            Step::Message(_) => {
                let (hello, hash) = self.read_hello(message).map_err(Failure::silent)?;
                self.step = Step::Over;
                // Without a suite there are no keys to say anything under.
                let Some(suite) = hello.choose_suite(config) else {
                    return Err(Failure::silent(Incompatible::Suite));
                };
                let authenticated = self.check_hello(config, now, hello, hash);
                self.suite = suite;
                Ok(Some(Outcome::Finished(self.keys(), authenticated)))
            }
            Step::Preface | Step::Verdict | Step::Over => unreachable!("no message is read then"),
        }
    }

    /// Reads message 1 and answers with message 2. This is where a responder's computing begins.
    fn handle_message_1(&mut self, config: &Config, message: &[u8]) -> Result<(), Failure> {
        match self.noise().read(message) {
            Ok(payload) => assert!(payload.is_empty(), "the length was checked"),
            // Message 1 has no authentication but the network key's.
            Err(_) => return Err(network_key_mismatch()),
        }
        self.send_preface(config);
        let hello = self.own_hello(config);
        self.write_message(&hello).map_err(|error| {
            let fault = noise_fault(error);
            Failure::told(fault, RejectCode::Handshake)
        })?;
        self.step = Step::Message(3);
        Ok(())
    }

    /// Whether the peer is known and the owner's verdict awaited.
    pub(crate) fn is_answered(&self) -> bool {
        self.step == Step::Verdict
    }

    /// A dialler's owner wants the peer: writes message 3. Nothing more is needed from the handshake then.
    pub(crate) fn accept(&mut self, config: &Config) -> Result<Keys, Failure> {
        assert_eq!(self.step, Step::Verdict, "the peer is known and waits");
        self.step = Step::Over;
        let hello = self.own_hello(config);
        self.write_message(&hello)
            .map_err(|error| Failure::told(noise_fault(error), RejectCode::Handshake))?;
        Ok(self.keys())
    }

    /// Gives the handshake up and tells the other side why, unless it cannot be told in clear any longer.
    pub(crate) fn reject(&mut self, config: &Config, code: RejectCode) {
        self.send_preface(config);
        self.out.extend_from_slice(&[0, 0, code.number()]);
        self.step = Step::Over;
    }

    /// The same for a failure of the handshake itself.
    pub(crate) fn fail(&mut self, config: &Config, failure: &Failure) {
        if let Some(code) = failure.reject {
            self.reject(config, code);
        }
        self.step = Step::Over;
    }

    /// What is to be sent now.
    pub(crate) fn take_output(&mut self, now: Instant) -> Vec<u8> {
        self.sent_at = Some(now);
        std::mem::take(&mut self.out)
    }

    pub(crate) fn has_output(&self) -> bool {
        !self.out.is_empty()
    }

    fn start_noise(&mut self, config: &Config, dialler_preface: Preface) {
        self.noise = Some(Noise::new(
            self.role,
            &config.static_key,
            &self.ephemeral_secret,
            config.network_key.as_ref(),
            dialler_preface.as_bytes(),
        ));
    }

    fn noise(&mut self) -> &mut Noise {
        let started = "messages are awaited only after the preface that starts Noise";
        self.noise.as_mut().expect(started)
    }

    fn send_preface(&mut self, config: &Config) {
        if !self.preface_sent {
            self.out.extend_from_slice(config.preface.as_bytes());
            self.preface_sent = true;
        }
    }

    fn write_message(&mut self, payload: &[u8]) -> Result<(), NoiseError> {
        let start = self.out.len();
        self.out.extend_from_slice(&[0, 0]);
        let mut out = std::mem::take(&mut self.out);
        let written = self.noise().write(payload, &mut out);
        self.out = out;
        if let Err(error) = written {
            self.out.truncate(start);
            return Err(error);
        }
        let message = &mut self.out[start..];
        let length = u16::try_from(message.len() - 2).expect("a hello has at most 4 KiB");
        message[..2].copy_from_slice(&length.to_be_bytes());
        if let (Step::Preface | Step::Message(1), Some(e)) = (self.step, message[2..].first_chunk())
        {
            self.ephemeral = *e;
        }
        Ok(())
    }

    fn own_hello(&mut self, config: &Config) -> Vec<u8> {
        let hash = self.noise().hash();
        let hello = Hello {
            identity: *config.identity.peer_id().as_bytes(),
            signature: sign(
                &config.identity,
                self.role,
                &hash,
                config.static_key.public(),
            ),
            preface: *config.preface.as_bytes(),
            suites: config.suites().map(Suite::number).collect(),
            about: About::of(config, self.remote),
        };
        hello.encode()
    }

    /// Reads a message with a hello. Returns it with the handshake hash that its signature covers.
    fn read_hello(&mut self, message: &[u8]) -> Result<(Hello, [u8; HASH_BYTES]), Error> {
        let noise = self.noise();
        let hash = noise.hash();
        let payload = noise.read(message).map_err(noise_fault)?;
        let hello = Hello::decode(&payload).map_err(Fault::Hello)?;
        Ok((hello, hash))
    }

    fn check_hello(
        &mut self,
        config: &Config,
        now: Instant,
        hello: Hello,
        signed_hash: [u8; HASH_BYTES],
    ) -> Result<Box<Authenticated>, Error> {
        let remote_static = self.noise().remote_static();
        let remote_static = remote_static.expect("the message that was read carries it");
        let peer = PeerId::from_bytes(hello.identity);
        let role = self.role.other();
        peer.verify(
            SIGNATURE_DOMAIN,
            &[&[role_byte(role)], &signed_hash, &remote_static],
            &hello.signature,
        )
        .map_err(|_| Fault::Signature)?;
        let preface = self.peer_preface.expect("the preface came first");
        if &hello.preface != preface.as_bytes() {
            return Err(Fault::PrefaceChanged.into());
        }
        if peer == config.identity.peer_id() {
            return Err(Error::SelfDial);
        }
        if &remote_static == config.static_key.public() {
            return Err(Fault::OwnStaticKey.into());
        }
        if let Some(expected) = self.expected.filter(|expected| *expected != peer) {
            return Err(Error::WrongPeer {
                expected,
                found: peer,
            });
        }
        self.suite = hello.choose_suite(config).ok_or(Incompatible::Suite)?;
        Ok(Box::new(Authenticated {
            peer,
            role: self.role,
            suite: self.suite,
            version: self.version,
            handshake_hash: self.noise().hash(),
            about: hello.about,
            rtt: self
                .sent_at
                .map(|sent_at| now.saturating_duration_since(sent_at)),
        }))
    }

    fn keys(&mut self) -> Keys {
        let (suite, role) = (self.suite, self.role);
        let noise = self.noise();
        let hash = noise.hash();
        let (dialler, responder) = noise.split();
        let dialler = CipherState::new(&transport_key(suite, &dialler, Role::Dialler, &hash));
        let responder = CipherState::new(&transport_key(suite, &responder, Role::Responder, &hash));
        let (send, receive) = match role {
            Role::Dialler => (dialler, responder),
            Role::Responder => (responder, dialler),
        };
        Keys {
            suite,
            send,
            receive,
        }
    }
}

fn message_1_length(config: &Config) -> usize {
    match config.network_key {
        Some(_) => MESSAGE_1_PSK_BYTES,
        None => MESSAGE_1_BYTES,
    }
}

/// A tag where there should be none, or none where one should be, means that one side has a network key and the other
/// has not. A payload looks like a tag, and is none of ours either way.
fn check_message_1_length(config: &Config, length: usize) -> Result<(), Failure> {
    if length < MESSAGE_1_BYTES {
        let fault = Fault::HandshakeLength(length);
        return Err(Failure::told(fault, RejectCode::Handshake));
    }
    if length != message_1_length(config) {
        return Err(network_key_mismatch());
    }
    Ok(())
}

fn check_length(length: usize, empty: usize) -> Result<(), Failure> {
    if !(empty..=empty + HELLO_MAX).contains(&length) {
        let fault = Fault::HandshakeLength(length);
        return Err(Failure::told(fault, RejectCode::Handshake));
    }
    Ok(())
}

fn network_key_mismatch() -> Failure {
    Failure::told(Incompatible::NetworkKey, RejectCode::NetworkKey)
}

fn noise_fault(error: NoiseError) -> Fault {
    match error {
        NoiseError::SmallOrder => Fault::SmallOrderPoint,
        NoiseError::Rejected => Fault::Handshake,
    }
}

fn role_byte(role: Role) -> u8 {
    match role {
        Role::Dialler => 1,
        Role::Responder => 2,
    }
}

fn sign(
    identity: &Arc<Identity>,
    role: Role,
    hash: &[u8; HASH_BYTES],
    static_key: &[u8; DH_BYTES],
) -> [u8; 64] {
    identity.sign(SIGNATURE_DOMAIN, &[&[role_byte(role)], hash, static_key])
}
