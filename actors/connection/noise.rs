//! The Noise handshake (revision 34): `XX_25519_ChaChaPoly_SHA256`, and `XXpsk0` in private networks.
//!
//! The state machine is snow's; the primitives are ring's (ChaCha20-Poly1305, SHA-256) and curve25519-dalek's, since
//! ring keeps its X25519 keys to itself. Randomness is the 32 bytes of the ephemeral key that the caller hands in.

use std::fmt;

use mischief_reactor::Random;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, UnboundKey};
use ring::digest;
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::CryptoResolver;
use snow::types::{Cipher, Dh, Hash};
use zeroize::Zeroizing;

use super::cipher::{ChaChaNonce, KEY_BYTES, TAG_BYTES};
use super::dh::{public_of, x25519};

/// Bytes of an X25519 key, public or secret.
pub const DH_BYTES: usize = 32;
/// Bytes of a SHA-256 handshake hash.
pub const HASH_BYTES: usize = 32;
/// Message 1 without a payload: the ephemeral key, followed in private networks by a tag.
pub const MESSAGE_1_BYTES: usize = DH_BYTES;
/// Message 1 of `XXpsk0` without a payload.
pub const MESSAGE_1_PSK_BYTES: usize = DH_BYTES + TAG_BYTES;
/// Message 2 without a payload: ephemeral key, encrypted static key, tag.
pub const MESSAGE_2_BYTES: usize = DH_BYTES + DH_BYTES + TAG_BYTES + TAG_BYTES;
/// Message 3 without a payload: encrypted static key, tag.
pub const MESSAGE_3_BYTES: usize = DH_BYTES + TAG_BYTES + TAG_BYTES;

const XX: &str = "Noise_XX_25519_ChaChaPoly_SHA256";
const XX_PSK0: &str = "Noise_XXpsk0_25519_ChaChaPoly_SHA256";

/// Which side of a connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Opened the connection: Noise's initiator.
    Dialler,
    /// Accepted it: Noise's responder.
    Responder,
}

impl Role {
    /// The other side.
    pub const fn other(self) -> Role {
        match self {
            Role::Dialler => Role::Responder,
            Role::Responder => Role::Dialler,
        }
    }
}

/// The X25519 key of a node, kept in memory only and replaced at every start. Wiped when dropped.
pub struct StaticKey {
    secret: Zeroizing<[u8; DH_BYTES]>,
    public: [u8; DH_BYTES],
}

impl StaticKey {
    /// The key pair of a secret. Every secret is valid (RFC 7748 §5 clamps it).
    pub fn from_secret(secret: &[u8; DH_BYTES]) -> StaticKey {
        StaticKey {
            secret: Zeroizing::new(*secret),
            public: public_of(secret),
        }
    }

    /// A new key pair.
    pub fn generate(random: &mut dyn Random) -> StaticKey {
        let mut secret = Zeroizing::new([0; DH_BYTES]);
        random.fill(&mut *secret);
        StaticKey::from_secret(&secret)
    }

    /// The public half.
    pub fn public(&self) -> &[u8; DH_BYTES] {
        &self.public
    }
}

impl fmt::Debug for StaticKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StaticKey([redacted])")
    }
}

/// The secret that all nodes of a private network share. Wiped when dropped.
#[derive(Clone)]
pub struct NetworkKey(Zeroizing<[u8; 32]>);

impl NetworkKey {
    /// The network key with these bytes.
    pub fn from_bytes(bytes: &[u8; 32]) -> NetworkKey {
        NetworkKey(Zeroizing::new(*bytes))
    }

    /// Reads 64 hexadecimal digits, with white space around them allowed. `None` for anything else.
    pub fn from_hex(text: &str) -> Option<NetworkKey> {
        let digits = text.trim().as_bytes();
        if digits.len() != 64 {
            return None;
        }
        let mut bytes = Zeroizing::new([0; 32]);
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let high = char::from(pair[0]).to_digit(16)?;
            let low = char::from(pair[1]).to_digit(16)?;
            *byte = (high << 4 | low) as u8;
        }
        Some(NetworkKey(bytes))
    }
}

impl fmt::Debug for NetworkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NetworkKey([redacted])")
    }
}

/// Why a handshake message was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoiseError {
    /// A Diffie-Hellman with a public key of small order.
    SmallOrder,
    /// Too short, or its authentication failed.
    Rejected,
}

impl From<snow::Error> for NoiseError {
    fn from(error: snow::Error) -> NoiseError {
        match error {
            snow::Error::Dh => NoiseError::SmallOrder,
            _ => NoiseError::Rejected,
        }
    }
}

/// One side of a handshake.
pub(crate) struct Noise {
    state: snow::HandshakeState,
}

impl Noise {
    /// Starts a handshake. `ephemeral` is the secret of the ephemeral key: 32 fresh random bytes.
    pub(crate) fn new(
        role: Role,
        static_key: &StaticKey,
        ephemeral: &[u8; DH_BYTES],
        network_key: Option<&NetworkKey>,
        prologue: &[u8],
    ) -> Noise {
        let resolver = Resolver {
            static_public: Some(static_key.public),
            ephemeral: Zeroizing::new(*ephemeral),
        };
        let name = if network_key.is_some() { XX_PSK0 } else { XX };
        let params = name.parse().expect("snow knows both protocol names");
        let builder = snow::Builder::with_resolver(params, Box::new(resolver))
            .local_private_key(&*static_key.secret)
            .and_then(|builder| builder.prologue(prologue));
        let builder = match network_key {
            Some(key) => builder.and_then(|builder| builder.psk(0, &key.0)),
            None => builder,
        };
        let built = builder.and_then(|builder| match role {
            Role::Dialler => builder.build_initiator(),
            Role::Responder => builder.build_responder(),
        });
        Noise {
            state: built.expect("each parameter is set once and the resolver has every primitive"),
        }
    }

    /// The handshake hash as it stands now.
    pub(crate) fn hash(&self) -> [u8; HASH_BYTES] {
        let hash = self.state.get_handshake_hash();
        hash.try_into().expect("SHA-256 gives 32 bytes")
    }

    /// The static key of the other side, once the message that carries it was read.
    pub(crate) fn remote_static(&self) -> Option<[u8; DH_BYTES]> {
        self.state.get_remote_static()?.try_into().ok()
    }

    /// Appends the next handshake message with its payload to `out`.
    pub(crate) fn write(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Result<(), NoiseError> {
        let start = out.len();
        out.resize(start + MESSAGE_2_BYTES + payload.len(), 0);
        let length = self.state.write_message(payload, &mut out[start..])?;
        out.truncate(start + length);
        Ok(())
    }

    /// Reads the next handshake message and returns its payload.
    pub(crate) fn read(&mut self, message: &[u8]) -> Result<Vec<u8>, NoiseError> {
        let mut payload = vec![0; message.len()];
        let length = self.state.read_message(message, &mut payload)?;
        payload.truncate(length);
        Ok(payload)
    }

    /// The two transport keys, dialler to responder first. To be called once the handshake is finished.
    pub(crate) fn split(&mut self) -> (Zeroizing<[u8; KEY_BYTES]>, Zeroizing<[u8; KEY_BYTES]>) {
        assert!(self.state.is_handshake_finished());
        let (first, second) = self.state.dangerously_get_raw_split();
        (Zeroizing::new(first), Zeroizing::new(second))
    }
}

/// The primitives for one handshake.
pub(crate) struct Resolver {
    /// The public half of the only static key that will be set; without it every set key's is computed.
    static_public: Option<[u8; DH_BYTES]>,
    ephemeral: Zeroizing<[u8; DH_BYTES]>,
}

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn snow::types::Random>> {
        let unused = Some(self.ephemeral.clone());
        Some(Box::new(Ephemeral(unused)))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        matches!(choice, DHChoice::Curve25519).then(|| {
            Box::new(Curve25519 {
                secret: Zeroizing::new([0; DH_BYTES]),
                public: [0; DH_BYTES],
                static_public: self.static_public,
            }) as Box<dyn Dh>
        })
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        matches!(choice, HashChoice::SHA256).then(|| {
            Box::new(Sha256 {
                context: digest::Context::new(&digest::SHA256),
            }) as Box<dyn Hash>
        })
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        matches!(choice, CipherChoice::ChaChaPoly).then(|| {
            Box::new(ChaChaPoly {
                key: Zeroizing::new([0; KEY_BYTES]),
            }) as Box<dyn Cipher>
        })
    }
}

/// Gives the ephemeral secret out once; a second draw is refused, since the bytes are no longer random.
struct Ephemeral(Option<Zeroizing<[u8; DH_BYTES]>>);

impl snow::types::Random for Ephemeral {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), snow::Error> {
        let bytes = self.0.take().ok_or(snow::Error::Rng)?;
        if dest.len() != bytes.len() {
            return Err(snow::Error::Rng);
        }
        dest.copy_from_slice(&*bytes);
        Ok(())
    }
}

struct Curve25519 {
    secret: Zeroizing<[u8; DH_BYTES]>,
    public: [u8; DH_BYTES],
    static_public: Option<[u8; DH_BYTES]>,
}

impl Dh for Curve25519 {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        DH_BYTES
    }

    fn priv_len(&self) -> usize {
        DH_BYTES
    }

    /// snow sets the static key only; ephemeral keys are generated. Looking its public half up saves a scalar
    /// multiplication for each handshake.
    fn set(&mut self, privkey: &[u8]) {
        self.secret.copy_from_slice(privkey);
        self.public = match self.static_public {
            Some(public) => public,
            None => public_of(&self.secret),
        };
    }

    fn generate(&mut self, rng: &mut dyn snow::types::Random) -> Result<(), snow::Error> {
        rng.try_fill_bytes(&mut *self.secret)?;
        self.public = public_of(&self.secret);
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        &*self.secret
    }

    fn dh(&self, pubkey: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        // snow hands its key buffer over, which is longer than the key.
        let (remote, _) = pubkey
            .split_first_chunk::<DH_BYTES>()
            .ok_or(snow::Error::Dh)?;
        let shared = x25519(&self.secret, remote).ok_or(snow::Error::Dh)?;
        out[..DH_BYTES].copy_from_slice(&*shared);
        Ok(())
    }
}

struct Sha256 {
    context: digest::Context,
}

impl Hash for Sha256 {
    fn name(&self) -> &'static str {
        "SHA256"
    }

    fn block_len(&self) -> usize {
        64
    }

    fn hash_len(&self) -> usize {
        HASH_BYTES
    }

    fn reset(&mut self) {
        self.context = digest::Context::new(&digest::SHA256);
    }

    fn input(&mut self, data: &[u8]) {
        self.context.update(data);
    }

    fn result(&mut self, out: &mut [u8]) {
        let digest = self.context.clone().finish();
        out[..HASH_BYTES].copy_from_slice(digest.as_ref());
    }
}

struct ChaChaPoly {
    key: Zeroizing<[u8; KEY_BYTES]>,
}

impl ChaChaPoly {
    fn expanded(&self) -> LessSafeKey {
        let key = UnboundKey::new(&CHACHA20_POLY1305, &*self.key);
        LessSafeKey::new(key.expect("the key has the cipher's length"))
    }
}

impl Cipher for ChaChaPoly {
    fn name(&self) -> &'static str {
        "ChaChaPoly"
    }

    fn set(&mut self, key: &[u8; KEY_BYTES]) {
        *self.key = *key;
    }

    fn encrypt(&self, nonce: u64, authtext: &[u8], plaintext: &[u8], out: &mut [u8]) -> usize {
        let (body, rest) = out.split_at_mut(plaintext.len());
        body.copy_from_slice(plaintext);
        let tag = self
            .expanded()
            .seal_in_place_separate_tag(ChaChaNonce(nonce).into(), Aad::from(authtext), body)
            .expect("handshake messages are far below the cipher's limit");
        rest[..TAG_BYTES].copy_from_slice(tag.as_ref());
        plaintext.len() + TAG_BYTES
    }

    fn decrypt(
        &self,
        nonce: u64,
        authtext: &[u8],
        ciphertext: &[u8],
        out: &mut [u8],
    ) -> Result<usize, snow::Error> {
        let (body, tag) = ciphertext
            .split_last_chunk::<TAG_BYTES>()
            .ok_or(snow::Error::Decrypt)?;
        let out = out.get_mut(..body.len()).ok_or(snow::Error::Input)?;
        out.copy_from_slice(body);
        let opened = self.expanded().open_in_place_separate_tag(
            ChaChaNonce(nonce).into(),
            Aad::from(authtext),
            (*tag).into(),
            out,
            0..,
        );
        opened.map_err(|_| snow::Error::Decrypt)?;
        Ok(body.len())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{SMALL_ORDER, hex, unhex};
    use super::*;

    fn array(bytes: &[u8]) -> [u8; 32] {
        bytes.try_into().unwrap()
    }

    /// Handshakes with empty payloads; returns the sizes of the three messages and both sides, finished.
    fn handshake(key: Option<&NetworkKey>) -> ([usize; 3], Noise, Noise) {
        let (a, b) = (
            StaticKey::from_secret(&[1; 32]),
            StaticKey::from_secret(&[2; 32]),
        );
        let mut dialler = Noise::new(Role::Dialler, &a, &[3; 32], key, b"prologue");
        let mut responder = Noise::new(Role::Responder, &b, &[4; 32], key, b"prologue");
        let mut sizes = [0; 3];
        for (index, size) in sizes.iter_mut().enumerate() {
            let mut message = Vec::new();
            let (from, to) = match index {
                1 => (&mut responder, &mut dialler),
                _ => (&mut dialler, &mut responder),
            };
            from.write(&[], &mut message).unwrap();
            assert_eq!(to.read(&message), Ok(Vec::new()));
            *size = message.len();
        }
        assert_eq!(dialler.remote_static(), Some(*b.public()));
        assert_eq!(responder.remote_static(), Some(*a.public()));
        (sizes, dialler, responder)
    }

    #[test]
    fn messages_have_the_sizes_of_the_specification() {
        let (sizes, mut dialler, mut responder) = handshake(None);
        assert_eq!(sizes, [32, 96, 64]);
        assert_eq!(sizes, [MESSAGE_1_BYTES, MESSAGE_2_BYTES, MESSAGE_3_BYTES]);
        assert_eq!(dialler.split(), responder.split());
        assert_eq!(dialler.hash(), responder.hash());
        let key = NetworkKey::from_bytes(&[5; 32]);
        let (sizes, ..) = handshake(Some(&key));
        assert_eq!(sizes, [48, 96, 64]);
        assert_eq!(
            sizes,
            [MESSAGE_1_PSK_BYTES, MESSAGE_2_BYTES, MESSAGE_3_BYTES]
        );
    }

    #[test]
    fn a_wrong_network_key_fails_at_the_first_message() {
        let key = StaticKey::from_secret(&[1; 32]);
        let (one, two) = (
            NetworkKey::from_bytes(&[5; 32]),
            NetworkKey::from_bytes(&[6; 32]),
        );
        let mut message = Vec::new();
        Noise::new(Role::Dialler, &key, &[3; 32], Some(&one), b"")
            .write(&[], &mut message)
            .unwrap();
        let read = |key: &NetworkKey, static_key| {
            Noise::new(Role::Responder, static_key, &[4; 32], Some(key), b"").read(&message)
        };
        assert_eq!(read(&one, &key), Ok(Vec::new()));
        assert_eq!(read(&two, &key), Err(NoiseError::Rejected));
    }

    #[test]
    fn points_of_small_order_are_refused() {
        // RFC 7748 inputs for which every secret gives zero: 0, 1, and the points of order 8 and 2.
        for point in SMALL_ORDER {
            let key = StaticKey::from_secret(&[1; 32]);
            let mut responder = Noise::new(Role::Responder, &key, &[4; 32], None, b"");
            assert_eq!(responder.read(&unhex(point)), Ok(Vec::new()));
            let mut out = Vec::new();
            assert_eq!(
                responder.write(&[], &mut out),
                Err(NoiseError::SmallOrder),
                "{point}"
            );
        }
    }

    #[test]
    fn an_ephemeral_key_is_used_once() {
        let mut ephemeral = Ephemeral(Some(Zeroizing::new([9; 32])));
        let mut bytes = [0; 32];
        snow::types::Random::try_fill_bytes(&mut ephemeral, &mut bytes).unwrap();
        assert_eq!(bytes, [9; 32]);
        assert!(snow::types::Random::try_fill_bytes(&mut ephemeral, &mut bytes).is_err());
    }

    #[test]
    fn debug_shows_no_secret() {
        assert_eq!(
            format!(
                "{:?} {:?}",
                StaticKey::from_secret(&[1; 32]),
                NetworkKey::from_bytes(&[1; 32])
            ),
            "StaticKey([redacted]) NetworkKey([redacted])"
        );
    }

    #[test]
    fn a_network_key_is_64_hexadecimal_digits() {
        let text = "00112233445566778899aabbccddeeFF00112233445566778899aabbccddeeff";
        let key = NetworkKey::from_hex(&format!(" {text}\n")).unwrap();
        assert_eq!(hex(&*key.0), text.to_lowercase());
        assert!(NetworkKey::from_hex(&text[1..]).is_none());
        assert!(NetworkKey::from_hex(&text.replace('0', "g")).is_none());
        assert!(NetworkKey::from_hex(&text.replace("00", "é")).is_none());
    }

    #[derive(serde::Deserialize)]
    struct Vectors {
        vectors: Vec<Vector>,
    }

    #[derive(serde::Deserialize)]
    struct Vector {
        protocol_name: String,
        init_prologue: String,
        init_static: String,
        init_ephemeral: String,
        #[serde(default)]
        init_psks: Vec<String>,
        resp_prologue: String,
        resp_static: String,
        resp_ephemeral: String,
        #[serde(default)]
        resp_psks: Vec<String>,
        handshake_hash: Option<String>,
        messages: Vec<VectorMessage>,
    }

    #[derive(serde::Deserialize)]
    struct VectorMessage {
        payload: String,
        ciphertext: String,
    }

    /// The numbers after each "psk" of a pattern's modifiers.
    fn psk_places(protocol_name: &str) -> Vec<u8> {
        let pattern = protocol_name.split('_').nth(1).unwrap();
        let places = pattern.split("psk").skip(1);
        places
            .map(|place| place.trim_end_matches('+').parse().unwrap())
            .collect()
    }

    fn build(
        vector: &Vector,
        role: Role,
        prologue: &str,
        secret: &str,
        ephemeral: &str,
        psks: &[String],
    ) -> snow::HandshakeState {
        let resolver = Resolver {
            static_public: None,
            ephemeral: Zeroizing::new([0; 32]),
        };
        let (prologue, secret, ephemeral) = (unhex(prologue), unhex(secret), unhex(ephemeral));
        let psks: Vec<[u8; 32]> = psks.iter().map(|psk| array(&unhex(psk))).collect();
        let params = vector.protocol_name.parse().unwrap();
        let mut builder = snow::Builder::with_resolver(params, Box::new(resolver))
            .prologue(&prologue)
            .unwrap()
            .local_private_key(&secret)
            .unwrap()
            .fixed_ephemeral_key_for_testing_only(&ephemeral);
        for (place, psk) in psk_places(&vector.protocol_name).into_iter().zip(&psks) {
            builder = builder.psk(place, psk).unwrap();
        }
        match role {
            Role::Dialler => builder.build_initiator().unwrap(),
            Role::Responder => builder.build_responder().unwrap(),
        }
    }

    /// Runs the handshake messages through snow with our resolver and the transport messages through our own ciphers.
    fn run(vector: &Vector) {
        use super::super::cipher::{CipherState, Suite};
        let name = &vector.protocol_name;
        let mut sides = [
            build(
                vector,
                Role::Dialler,
                &vector.init_prologue,
                &vector.init_static,
                &vector.init_ephemeral,
                &vector.init_psks,
            ),
            build(
                vector,
                Role::Responder,
                &vector.resp_prologue,
                &vector.resp_static,
                &vector.resp_ephemeral,
                &vector.resp_psks,
            ),
        ];
        let mut buffer = [0; 1024];
        for (index, message) in vector.messages[..3].iter().enumerate() {
            let payload = unhex(&message.payload);
            let length = sides[index % 2]
                .write_message(&payload, &mut buffer)
                .unwrap();
            assert_eq!(hex(&buffer[..length]), message.ciphertext, "{name}");
            let mut read = [0; 1024];
            let length = sides[(index + 1) % 2]
                .read_message(&buffer[..length], &mut read)
                .unwrap();
            assert_eq!(hex(&read[..length]), message.payload, "{name}");
        }
        if let Some(hash) = &vector.handshake_hash {
            for side in &sides {
                assert_eq!(&hex(side.get_handshake_hash()), hash, "{name}");
            }
        }
        let keys: Vec<_> = sides
            .iter_mut()
            .map(|side| side.dangerously_get_raw_split())
            .collect();
        assert_eq!(keys[0], keys[1]);
        // Messages go on alternating; message 4 is the responder's.
        let mut send = [keys[0].0, keys[0].1].map(|key| CipherState::new(&key));
        let mut receive = [keys[0].0, keys[0].1].map(|key| CipherState::new(&key));
        for (index, message) in vector.messages.iter().enumerate().skip(3) {
            let mut bytes = unhex(&message.payload);
            send[index % 2]
                .seal(Suite::ChaChaPoly, &mut bytes, 0)
                .unwrap();
            assert_eq!(hex(&bytes), message.ciphertext, "{name}");
            let opened = receive[index % 2].open(Suite::ChaChaPoly, &mut bytes);
            assert_eq!(hex(opened.unwrap()), message.payload, "{name}");
        }
    }

    fn check_vectors(text: &str, want: usize) {
        let vectors: Vectors = serde_json::from_str(text).unwrap();
        for vector in &vectors.vectors {
            run(vector);
        }
        let names: Vec<_> = vectors.vectors.iter().map(|v| &v.protocol_name).collect();
        println!("{} vectors passed: {names:?}", names.len());
        assert_eq!(vectors.vectors.len(), want);
    }

    #[test]
    fn noise_vectors_of_the_snow_package_pass() {
        check_vectors(include_str!("../../tests/vectors/noise-snow.json"), 7);
    }

    #[test]
    fn noise_vectors_for_private_networks_pass() {
        check_vectors(include_str!("../../tests/vectors/noise-xxpsk0.json"), 2);
    }
}
