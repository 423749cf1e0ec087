//! Targets for what a peer can send: preface, handshake, hello, frames, records.
//!
//! The node under test and the peer that the records come from have fixed keys, so that an input always means the same.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use mischief_actors::connection::{
    About, BulkEvent, ChannelMessage, Class, Config, Connection, Error, Event, Hello, Kind,
    LargeMessage, PREFACE_BYTES, Preface, ProtocolHash, Records, Sink, StaticKey, StreamId,
};
use mischief_actors::identity::Identity;
use mischief_reactor::{Instant, Random};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

/// `Preface::decode`, and the same bytes to a node that expects a preface.
pub(crate) fn preface(input: &[u8]) {
    if let Some(bytes) = input.first_chunk::<PREFACE_BYTES>()
        && let Ok(preface) = Preface::decode(bytes)
    {
        assert_eq!(preface.as_bytes(), bytes);
        assert!(preface.versions().start() <= preface.versions().end());
        assert!(Preface::may_begin_with(bytes));
    }
    let mut node = Node::responder();
    node.receive(input, 7);
    assert!(!node.connection.is_open());
}

/// The first byte says to whom the others go, and in which portions.
pub(crate) fn handshake(input: &[u8]) {
    let Some((&how, bytes)) = input.split_first() else {
        return;
    };
    let mut node = match how % 2 {
        0 => Node::responder(),
        _ => Node::dialler(),
    };
    node.receive(bytes, 1 + usize::from(how / 2));
    // Nobody but the holder of the recorded peer's secrets gets this far, and then only with the recorded bytes.
    let recorded = recorded();
    if node.connection.is_open() {
        assert!(how % 2 == 0 && bytes.starts_with(&recorded.handshake));
    }
    node.wait();
}

/// `Hello::decode`. What can be read can be written and read again.
pub(crate) fn hello(input: &[u8]) {
    if let Ok(hello) = Hello::decode(input) {
        assert_eq!(Hello::decode(&hello.encode()), Ok(hello));
    }
}

/// A recorded stream of frames with changes: the first byte is the size of portions, then come places (two bytes) and
/// what is added there. Whatever is delivered is the beginning of what was meant.
pub(crate) fn frames(input: &[u8]) {
    let recorded = recorded();
    let mut stream = recorded.frames.clone();
    let Some((&portion, changes)) = input.split_first() else {
        return;
    };
    for change in changes.chunks_exact(3) {
        let at = usize::from(u16::from_be_bytes([change[0], change[1]])) % stream.len();
        stream[at] ^= change[2];
    }
    let is_changed = stream != recorded.frames;
    let mut node = Node::open();
    node.receive(&stream, 1 + usize::from(portion));
    let meant = &recorded.bodies;
    assert!(node.inbox.bodies.len() <= meant.len());
    assert!(meant.starts_with(&node.inbox.bodies));
    assert_eq!(is_changed, node.inbox.bodies.len() < meant.len());
    node.wait();
}

/// Records under good keys: each frame is a length of two bytes and its plaintext.
pub(crate) fn records(input: &[u8]) {
    let _all: usize = Records::new(input).map(|message| message.body.len()).sum();
    let mut node = Node::open();
    let mut sealer = Sealer::new();
    let mut rest = input;
    while let Some((&[high, low], after)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes([high, low])).min(after.len());
        let (plaintext, after) = after.split_at(length);
        let mut frame = sealer.seal(plaintext);
        node.connection
            .handle_bytes(node.now, &mut frame, &mut node.inbox);
        node.turn();
        rest = after;
    }
    assert!(node.connection.heap_bytes() < 200_000);
    node.wait();
}

/// Takes everything in and gives the credit back at once.
#[derive(Default)]
struct Inbox {
    bodies: Vec<Vec<u8>>,
    credit: Vec<(StreamId, u32)>,
}

impl Sink for Inbox {
    fn records(&mut self, records: Records<'_>) {
        let mut rest = records;
        for message in &mut rest {
            self.bodies.push(message.body.to_vec());
            self.credit.push((StreamId::APPLICATION, message.credit));
        }
        assert!(rest.is_empty(), "a run is messages to its end");
    }

    fn large(&mut self, message: LargeMessage) {
        let message = message.message();
        self.bodies.push(message.body.to_vec());
        self.credit.push((StreamId::APPLICATION, message.credit));
    }

    fn channel(&mut self, message: ChannelMessage<'_>) {
        match message.class {
            Class::Application => self.credit.push((StreamId::APPLICATION, message.credit)),
            Class::Gossip => self.credit.push((StreamId::GOSSIP, message.credit)),
            _ => assert_eq!(message.credit, 0),
        }
    }

    fn bulk(&mut self, stream: StreamId, event: BulkEvent<'_>) {
        if let BulkEvent::Data { credit, .. } = event {
            self.credit.push((stream, credit));
        }
    }
}

/// A machine and its owner.
struct Node {
    connection: Connection,
    inbox: Inbox,
    now: Instant,
    finished: bool,
}

impl Node {
    fn new(connection: Connection) -> Node {
        Node {
            connection,
            inbox: Inbox::default(),
            now: Instant::ZERO,
            finished: false,
        }
    }

    fn responder() -> Node {
        let random = &mut Fixed(3);
        Node::new(Connection::responder(
            config(1),
            Instant::ZERO,
            random,
            None,
        ))
    }

    fn dialler() -> Node {
        let random = &mut Fixed(3);
        let mut node = Node::new(Connection::dialler(
            config(1),
            Instant::ZERO,
            random,
            None,
            None,
        ));
        node.turn();
        node
    }

    /// A responder that the recorded peer has connected to.
    fn open() -> Node {
        let mut node = Node::responder();
        let handshake = &recorded().handshake;
        let (first, third) = handshake.split_at(PREFACE_BYTES + 34);
        node.receive(first, usize::MAX);
        node.receive(third, usize::MAX);
        assert!(node.connection.is_open());
        node
    }

    fn receive(&mut self, bytes: &[u8], portion: usize) {
        for portion in bytes.chunks(portion) {
            let mut portion = portion.to_vec();
            self.connection
                .handle_bytes(self.now, &mut portion, &mut self.inbox);
            self.turn();
        }
    }

    fn turn(&mut self) -> Vec<u8> {
        for (stream, credit) in self.inbox.credit.drain(..) {
            self.connection.consumed(stream, credit);
        }
        let mut out = Vec::new();
        self.connection.poll_transmit(self.now, &mut out, 1 << 20);
        while let Some(event) = self.connection.poll_event() {
            assert!(!self.finished, "{event:?} after the end");
            match event {
                Event::Authenticated(_) => self.connection.accept(self.now),
                Event::Finished { .. } => self.finished = true,
                _ => {}
            }
        }
        self.connection.poll_transmit(self.now, &mut out, 1 << 20);
        out
    }

    /// Whatever came, an hour of silence ends it.
    fn wait(&mut self) {
        let mut looks = 0;
        while let Some(at) = self.connection.poll_timeout() {
            self.now = self.now.max(at);
            self.connection.handle_timeout(self.now);
            self.turn();
            looks += 1;
            assert!(looks < 100, "it goes on and on");
        }
        assert!(self.now <= Instant::ZERO + Duration::from_secs(3600));
        assert!(self.finished && self.connection.error().is_some_and(|e| *e != Error::Lost));
    }
}

/// Randomness of one value.
struct Fixed(u8);

impl Random for Fixed {
    fn fill(&mut self, bytes: &mut [u8]) {
        bytes.fill(self.0);
    }
}

fn config(seed: u8) -> &'static Arc<Config> {
    static CONFIGS: [OnceLock<Arc<Config>>; 3] = [const { OnceLock::new() }; 3];
    CONFIGS[usize::from(seed)].get_or_init(|| {
        let identity = Arc::new(Identity::from_seed(&[seed; 32]));
        let static_key = StaticKey::from_secret(&[seed ^ 0x80; 32]);
        let protocol = ProtocolHash::new("fuzz", "1").expect("both texts are short");
        Arc::new(Config::new(identity, static_key, protocol))
    })
}

/// What a peer with fixed keys says to [`Node::responder`], and the key that its frames are sealed under.
struct Recorded {
    handshake: Vec<u8>,
    key: [u8; 32],
    frames: Vec<u8>,
    bodies: Vec<Vec<u8>>,
}

fn recorded() -> &'static Recorded {
    static RECORDED: OnceLock<Recorded> = OnceLock::new();
    RECORDED.get_or_init(record)
}

/// Plays the dialler with snow, which unlike the machine lets us have its keys.
fn record() -> Recorded {
    let (peer, secret) = (config(2), [2 ^ 0x80; 32]);
    let preface = peer.preface.as_bytes();
    let name = "Noise_XX_25519_ChaChaPoly_SHA256";
    let mut noise = snow::Builder::new(name.parse().expect("snow knows the name"))
        .local_private_key(&secret)
        .and_then(|builder| builder.prologue(preface))
        .map(|builder| builder.fixed_ephemeral_key_for_testing_only(&[5; 32]))
        .and_then(snow::Builder::build_initiator)
        .expect("all it needs is given");
    let write = |noise: &mut snow::HandshakeState, payload: &[u8]| {
        let mut message = vec![0; 4096];
        let length = noise.write_message(payload, &mut message[2..]);
        let length = length.expect("it is our turn");
        message.truncate(2 + length);
        message[..2].copy_from_slice(&(length as u16).to_be_bytes());
        message
    };
    let mut handshake = [&preface[..], &write(&mut noise, &[])].concat();
    let mut node = Node::responder();
    let mut input = handshake.clone();
    node.connection
        .handle_bytes(Instant::ZERO, &mut input, &mut node.inbox);
    let answer = node.turn();
    noise
        .read_message(&answer[PREFACE_BYTES + 2..], &mut [0; 4096])
        .expect("the answer is good");
    let hash: [u8; 32] = noise.get_handshake_hash().try_into().expect("SHA-256");
    let signed = [&[1][..], &hash, peer.static_key.public()];
    let hello = Hello {
        identity: *peer.identity.peer_id().as_bytes(),
        signature: peer.identity.sign(b"mischief handshake", &signed),
        preface: *preface,
        suites: vec![1],
        about: About::of(peer, None),
    };
    handshake.extend(write(&mut noise, &hello.encode()));
    let (key, _) = noise.dangerously_get_raw_split();
    let mut sealer = Sealer { key, count: 0 };
    let (mut frames, mut bodies) = (Vec::new(), Vec::new());
    for length in [0, 1, 15, 16, 300] {
        let body = vec![length as u8; length];
        let head = [Kind::Bytes.number() + 0x10, 0, 0, 0];
        let mut record = [&head[..], &body].concat();
        let inside = (record.len() - 3) as u16;
        record[1..3].copy_from_slice(&inside.to_be_bytes());
        frames.extend(sealer.seal(&record));
        bodies.push(body);
    }
    Recorded {
        handshake,
        key,
        frames,
        bodies,
    }
}

struct Sealer {
    key: [u8; 32],
    count: u64,
}

impl Sealer {
    fn new() -> Sealer {
        Sealer {
            key: recorded().key,
            count: 0,
        }
    }

    fn seal(&mut self, plaintext: &[u8]) -> Vec<u8> {
        let key = UnboundKey::new(&CHACHA20_POLY1305, &self.key).expect("32 bytes");
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&self.count.to_le_bytes());
        self.count += 1;
        let mut frame = plaintext.to_vec();
        LessSafeKey::new(key)
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::empty(),
                &mut frame,
            )
            .expect("it is short");
        let length = u16::try_from(frame.len()).expect("inputs are short");
        [&length.to_be_bytes()[..], &frame].concat()
    }
}
