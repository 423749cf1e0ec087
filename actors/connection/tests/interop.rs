//! Handshakes against a plain peer: snow with its own primitives, and the rest built here by hand from docs/wire.md.

use super::*;

const PREFACE: usize = 44;

/// A peer that shares no code with the machine but the identity's signature.
struct Plain {
    noise: snow::HandshakeState,
    identity: Identity,
    public: Vec<u8>,
    role: u8,
}

impl Plain {
    fn new(role: u8, prologue: &[u8], network_key: Option<&[u8; 32]>) -> Plain {
        let name = match network_key {
            Some(_) => "Noise_XXpsk0_25519_ChaChaPoly_SHA256",
            None => "Noise_XX_25519_ChaChaPoly_SHA256",
        };
        let builder = snow::Builder::new(name.parse().unwrap());
        let keys = builder.generate_keypair().unwrap();
        let mut builder = builder
            .local_private_key(&keys.private)
            .unwrap()
            .prologue(prologue)
            .unwrap();
        if let Some(key) = network_key {
            builder = builder.psk(0, key).unwrap();
        }
        let noise = match role {
            1 => builder.build_initiator().unwrap(),
            _ => builder.build_responder().unwrap(),
        };
        Plain {
            noise,
            identity: Identity::from_seed(&[77; 32]),
            public: keys.public.clone(),
            role,
        }
    }

    fn preface() -> Vec<u8> {
        let mut preface = b"mischief\x01\x01\0\0".to_vec();
        let label = b"mischief protocol\x04test\x011";
        preface.extend_from_slice(ring::digest::digest(&ring::digest::SHA256, label).as_ref());
        assert_eq!(preface.len(), PREFACE);
        preface
    }

    /// A hello as a MessagePack map, byte by byte.
    fn hello(&self) -> Vec<u8> {
        let hash = self.noise.get_handshake_hash();
        let signature = self
            .identity
            .sign(b"mischief handshake", &[&[self.role], hash, &self.public]);
        let mut map = vec![0x87];
        let bin = |map: &mut Vec<u8>, key: &str, bytes: &[u8]| {
            map.push(0xa0 | key.len() as u8);
            map.extend_from_slice(key.as_bytes());
            map.extend_from_slice(&[0xc4, bytes.len() as u8]);
            map.extend_from_slice(bytes);
        };
        bin(&mut map, "id", self.identity.peer_id().as_bytes());
        bin(&mut map, "sig", &signature);
        bin(&mut map, "preface", &Plain::preface());
        map.extend_from_slice(b"\xa6suites\x91\x01");
        map.extend_from_slice(b"\xa8features\x00");
        map.extend_from_slice(
            b"\xa6limits\x83\xa6window\xce\0\x04\0\0\xa7message\xce\0\x10\0\0\xa7streams\x04",
        );
        map.extend_from_slice(b"\xa3new\x92\x01\xa5thing");
        map
    }

    fn write(&mut self, payload: &[u8]) -> Vec<u8> {
        let mut message = vec![0; 8192];
        let length = self
            .noise
            .write_message(payload, &mut message[2..])
            .unwrap();
        message.truncate(2 + length);
        message[..2].copy_from_slice(&(length as u16).to_be_bytes());
        message
    }

    fn read(&mut self, framed: &[u8]) -> Vec<u8> {
        let length = usize::from(u16::from_be_bytes([framed[0], framed[1]]));
        assert_eq!(framed.len(), 2 + length);
        let mut payload = vec![0; length];
        let length = self.noise.read_message(&framed[2..], &mut payload).unwrap();
        payload.truncate(length);
        payload
    }
}

/// The bytes of `bin` field `key` of a MessagePack map.
fn field<'a>(map: &'a [u8], key: &str) -> &'a [u8] {
    let mut marker = vec![0xa0 | key.len() as u8];
    marker.extend_from_slice(key.as_bytes());
    marker.push(0xc4);
    let at = map
        .windows(marker.len())
        .position(|window| window == marker);
    let at = at.unwrap() + marker.len();
    &map[at + 1..at + 1 + usize::from(map[at])]
}

fn check_hello(plain: &Plain, hash: &[u8], hello: &[u8], role: u8) {
    let peer = Identity::from_seed(&[1; 32]).peer_id();
    assert_eq!(field(hello, "id"), peer.as_bytes());
    assert_eq!(field(hello, "preface"), Plain::preface());
    let signature = field(hello, "sig").try_into().unwrap();
    let remote = plain.noise.get_remote_static().unwrap();
    peer.verify(b"mischief handshake", &[&[role], hash, remote], &signature)
        .unwrap();
}

/// Hands bytes over one at a time and returns what the machine says afterwards.
fn feed(side: &mut Side, bytes: &[u8]) -> Vec<u8> {
    for byte in bytes {
        side.receive(Instant::ZERO, &[*byte]);
    }
    side.transmit(Instant::ZERO)
}

/// Frames both ways after the handshake.
fn talk(side: &mut Side, plain: Plain) {
    let mut transport = plain.noise.into_transport_mode().unwrap();
    let mut seal = |records: &[u8]| {
        let mut frame = vec![0; 2 + records.len() + 16];
        let length = transport.write_message(records, &mut frame[2..]).unwrap();
        frame[..2].copy_from_slice(&(length as u16).to_be_bytes());
        frame
    };
    if !side.connection.is_open() {
        let accept = seal(&[0x01, 0, 0]);
        feed(side, &accept);
    }
    assert!(side.connection.is_open(), "{:?}", side.events);
    let message = seal(b"\x10\0\x07\x04chat42");
    feed(side, &message);
    assert_eq!(
        side.inbox.received,
        [Received::Message(Kind::Json, "chat".into(), b"42".to_vec())]
    );
    side.connection.send(Kind::Text, "", b"hello").unwrap();
    let frame = side.transmit(Instant::ZERO);
    let mut records = vec![0; 100];
    let length = transport.read_message(&frame[2..], &mut records).unwrap();
    assert_eq!(records[..length], *b"\x11\0\x06\0hello");
}

fn machine(network_key: Option<&[u8; 32]>) -> Arc<Config> {
    let mut config = config(1);
    config.network_key = network_key.map(NetworkKey::from_bytes);
    // Offered, but the plain peer has ChaChaPoly alone.
    config.aes_hardware = true;
    Arc::new(config)
}

#[test]
fn a_plain_snow_responder_is_dialled() {
    for key in [None, Some([5; 32])] {
        let config = machine(key.as_ref());
        let dialler = Connection::dialler(&config, Instant::ZERO, &mut Seeded(1), None, None);
        let mut side = Side::new(dialler);
        let first = side.transmit(Instant::ZERO);
        assert_eq!(first[..PREFACE], Plain::preface());
        assert_eq!(
            first.len(),
            PREFACE + 2 + if key.is_some() { 48 } else { 32 }
        );
        let mut plain = Plain::new(2, &first[..PREFACE], key.as_ref());
        assert!(plain.read(&first[PREFACE..]).is_empty());
        let hello = plain.hello();
        let answer = [Plain::preface(), plain.write(&hello)].concat();
        let third = feed(&mut side, &answer);
        let hash = plain.noise.get_handshake_hash().to_vec();
        let hello = plain.read(&third);
        check_hello(&plain, &hash, &hello, 1);
        assert_eq!(side.authenticated().peer, plain.identity.peer_id());
        assert!(!side.connection.is_open());
        talk(&mut side, plain);
    }
}

#[test]
fn a_plain_snow_dialler_is_answered() {
    for key in [None, Some([5; 32])] {
        let config = machine(key.as_ref());
        let responder = Connection::responder(&config, Instant::ZERO, &mut Seeded(1), None);
        let mut side = Side::new(responder);
        let mut plain = Plain::new(1, &Plain::preface(), key.as_ref());
        let first = [Plain::preface(), plain.write(&[])].concat();
        let answer = feed(&mut side, &first);
        assert_eq!(answer[..PREFACE], Plain::preface());
        let hash = plain.noise.get_handshake_hash().to_vec();
        let hello = plain.read(&answer[PREFACE..]);
        check_hello(&plain, &hash, &hello, 2);
        let hello = plain.hello();
        let third = plain.write(&hello);
        let accept = feed(&mut side, &third);
        assert_eq!(side.authenticated().peer, plain.identity.peer_id());
        assert!(side.connection.is_open());
        assert_eq!(accept.len(), 2 + 3 + 16);
        let mut transport = plain.noise.into_transport_mode().unwrap();
        let mut records = [0; 16];
        let length = transport.read_message(&accept[2..], &mut records).unwrap();
        assert_eq!(records[..length], [0x01, 0, 0]);
        side.connection.send(Kind::Text, "", b"hi").unwrap();
        let frame = side.transmit(Instant::ZERO);
        let length = transport.read_message(&frame[2..], &mut records).unwrap();
        assert_eq!(records[..length], *b"\x11\0\x03\0hi");
        let mut back = [0; 64];
        let length = transport
            .write_message(b"\x12\0\x02\0!", &mut back[2..])
            .unwrap();
        back[1] = length as u8;
        feed(&mut side, &back[..2 + length]);
        assert_eq!(side.messages(), 1);
    }
}

/// The plain peer signs for another role, over another hash, with another key: each is found.
#[test]
fn a_signature_that_does_not_fit_is_refused() {
    for wrong in 0..3 {
        let config = machine(None);
        let responder = Connection::responder(&config, Instant::ZERO, &mut Seeded(1), None);
        let mut side = Side::new(responder);
        let mut plain = Plain::new(1, &Plain::preface(), None);
        let first = [Plain::preface(), plain.write(&[])].concat();
        let answer = feed(&mut side, &first);
        let early = plain.hello();
        plain.read(&answer[PREFACE..]);
        let hello = match wrong {
            0 => {
                plain.role = 2;
                plain.hello()
            }
            1 => early,
            _ => {
                plain.public[0] ^= 1;
                plain.hello()
            }
        };
        let third = plain.write(&hello);
        feed(&mut side, &third);
        assert_eq!(side.closed(), Some(&Error::from(Fault::Signature)));
    }
}
