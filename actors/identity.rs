//! Who a node is: an Ed25519 key pair, and the [`PeerId`] that others know it by.
//!
//! The identity signs handshakes, peer records, gossip messages and storage entries. Every signature is made over a
//! domain string and the message, so that what was signed for one purpose never passes for another.

use std::fmt;
use std::str::FromStr;

use mischief_reactor::Random;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use zeroize::Zeroizing;

/// Bytes of a peer id in binary form.
pub const PEER_ID_BYTES: usize = 32;
/// Characters of a peer id in text form.
pub const PEER_ID_CHARS: usize = 52;
/// Characters of the short text form.
pub const PEER_ID_SHORT_CHARS: usize = 8;
/// Bytes of a signature (RFC 8032).
pub const SIGNATURE_BYTES: usize = 64;
/// Bytes of the secret that an identity is made from.
pub const SEED_BYTES: usize = 32;

/// RFC 4648 base32, in lower case.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// The y coordinates of the points of small order, in every encoding that decodes to one; the sign bit is cleared.
///
/// Under such a key a signature can be made that holds for every message, so it identifies nobody.
const SMALL_ORDER: [[u8; 32]; 7] = [
    hex32("0000000000000000000000000000000000000000000000000000000000000000"),
    hex32("0100000000000000000000000000000000000000000000000000000000000000"),
    hex32("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
    hex32("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
    hex32("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    hex32("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    hex32("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
];

/// A peer's public Ed25519 key, which is its name everywhere.
///
/// In text it is 52 characters of lower-case base32 without padding. Holding one proves nothing: the peer proves that
/// it has the key by a signature ([`PeerId::verify`]).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId([u8; PEER_ID_BYTES]);

impl PeerId {
    /// The id with these bytes.
    pub const fn from_bytes(bytes: [u8; PEER_ID_BYTES]) -> PeerId {
        PeerId(bytes)
    }

    /// The 32 bytes of the key.
    pub const fn as_bytes(&self) -> &[u8; PEER_ID_BYTES] {
        &self.0
    }

    /// The first 8 characters of the text form, for people. Not unique against somebody who tries.
    pub const fn short(&self) -> ShortPeerId {
        ShortPeerId(*self)
    }

    /// Whether `signature` was made by this peer with [`Identity::sign`] over the same `domain` and `message`.
    pub fn verify(
        &self,
        domain: &[u8],
        message: &[&[u8]],
        signature: &[u8; SIGNATURE_BYTES],
    ) -> Result<(), SignatureError> {
        let mut y = self.0;
        y[31] &= 0x7f;
        if SMALL_ORDER.contains(&y) {
            return Err(SignatureError::KeyOfSmallOrder);
        }
        let signed = signed_bytes(domain, message);
        UnparsedPublicKey::new(&ED25519, &self.0)
            .verify(&signed, signature)
            .map_err(|_| SignatureError::Wrong)
    }

    fn text(&self) -> [u8; PEER_ID_CHARS] {
        let mut text = [0; PEER_ID_CHARS];
        for (index, character) in text.iter_mut().enumerate() {
            let bit = index * 5;
            let high = u16::from(self.0[bit / 8]) << 8;
            let low = self.0.get(bit / 8 + 1).map_or(0, |&byte| u16::from(byte));
            let five = (high | low) >> (11 - bit % 8) & 31;
            *character = ALPHABET[usize::from(five)];
        }
        text
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(std::str::from_utf8(&self.text()).expect("base32 is ASCII"))
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerId({self})")
    }
}

impl FromStr for PeerId {
    type Err = ParsePeerIdError;

    /// Reads the text form; capital letters are accepted.
    fn from_str(text: &str) -> Result<PeerId, ParsePeerIdError> {
        let count = text.chars().count();
        if count != PEER_ID_CHARS {
            return Err(ParsePeerIdError::Length { count });
        }
        let mut bytes = [0; PEER_ID_BYTES];
        let mut bits = 0u32;
        let mut bit_count = 0;
        let mut filled = 0;
        for (index, character) in text.chars().enumerate() {
            bits = bits << 5 | u32::from(base32_value(index, character)?);
            bit_count += 5;
            if bit_count >= 8 {
                bit_count -= 8;
                bytes[filled] = (bits >> bit_count) as u8;
                filled += 1;
                bits &= (1 << bit_count) - 1;
            }
        }
        // 52 characters hold 260 bits; the last four belong to no byte and have to be zero, so that an id has one text.
        if bits != 0 {
            return Err(ParsePeerIdError::TrailingBits);
        }
        Ok(PeerId(bytes))
    }
}

fn base32_value(index: usize, character: char) -> Result<u8, ParsePeerIdError> {
    match character {
        'a'..='z' => Ok(character as u8 - b'a'),
        'A'..='Z' => Ok(character as u8 - b'A'),
        '2'..='7' => Ok(character as u8 - b'2' + 26),
        _ => Err(ParsePeerIdError::Character { index, character }),
    }
}

/// The short form of a [`PeerId`]; displays as 8 characters.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ShortPeerId(PeerId);

impl fmt::Display for ShortPeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.text();
        f.pad(std::str::from_utf8(&text[..PEER_ID_SHORT_CHARS]).expect("base32 is ASCII"))
    }
}

impl fmt::Debug for ShortPeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The beginning of a peer id's text form, as people type it: 1 to 52 characters of base32.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdPrefix(String);

impl fmt::Display for PeerIdPrefix {
    /// As it was read, in lower case.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl PeerIdPrefix {
    /// Whether the text form of `peer` begins with this.
    pub fn matches(&self, peer: &PeerId) -> bool {
        peer.text().starts_with(self.0.as_bytes())
    }
}

impl FromStr for PeerIdPrefix {
    type Err = ParsePeerIdError;

    fn from_str(text: &str) -> Result<PeerIdPrefix, ParsePeerIdError> {
        let count = text.chars().count();
        if count == 0 || count > PEER_ID_CHARS {
            return Err(ParsePeerIdError::PrefixLength { count });
        }
        for (index, character) in text.chars().enumerate() {
            base32_value(index, character)?;
        }
        Ok(PeerIdPrefix(text.to_ascii_lowercase()))
    }
}

/// Why a text is no peer id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParsePeerIdError {
    /// Too long or too short.
    #[error("a peer id has {PEER_ID_CHARS} characters, this has {count}")]
    Length {
        /// Characters found.
        count: usize,
    },
    /// Empty, or longer than a whole peer id.
    #[error("the beginning of a peer id has 1 to {PEER_ID_CHARS} characters, this has {count}")]
    PrefixLength {
        /// Characters found.
        count: usize,
    },
    /// A character outside of the base32 alphabet.
    #[error("{character:?} at position {index} is no base32 character (a-z, 2-7)")]
    Character {
        /// Which one, counted from 0.
        index: usize,
        /// What it is.
        character: char,
    },
    /// The last character carries bits that belong to no byte.
    #[error("the last character of a peer id is one of a and q")]
    TrailingBits,
}

/// Why a signature was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// The signature does not belong to this message, domain and key.
    #[error("the signature does not match")]
    Wrong,
    /// The key is one of the few for which everybody can make signatures.
    #[error("the public key is a point of small order")]
    KeyOfSmallOrder,
}

/// An Ed25519 key pair. `Debug` shows the public half only.
pub struct Identity {
    seed: Zeroizing<[u8; SEED_BYTES]>,
    // ring offers no way to wipe the expanded key; the identity lives as long as the node.
    key_pair: Ed25519KeyPair,
}

impl Identity {
    /// The identity that belongs to a secret seed (RFC 8032 §5.1.5). Every seed is valid.
    pub fn from_seed(seed: &[u8; SEED_BYTES]) -> Identity {
        let key_pair = Ed25519KeyPair::from_seed_unchecked(seed)
            .expect("ring takes every seed of the right length");
        Identity {
            seed: Zeroizing::new(*seed),
            key_pair,
        }
    }

    /// A new identity.
    pub fn generate(random: &mut dyn Random) -> Identity {
        let mut seed = Zeroizing::new([0; SEED_BYTES]);
        random.fill(&mut *seed);
        Identity::from_seed(&seed)
    }

    /// The secret seed, to be stored where only the owner can read it.
    pub fn seed(&self) -> &[u8; SEED_BYTES] {
        &self.seed
    }

    /// The public half.
    pub fn peer_id(&self) -> PeerId {
        let public = self.key_pair.public_key().as_ref();
        PeerId(
            public
                .try_into()
                .expect("an Ed25519 public key has 32 bytes"),
        )
    }

    /// Signs the concatenation of `message` for the purpose that `domain` names (1 to 255 bytes).
    pub fn sign(&self, domain: &[u8], message: &[&[u8]]) -> [u8; SIGNATURE_BYTES] {
        let signed = signed_bytes(domain, message);
        let signature = self.key_pair.sign(&signed);
        signature
            .as_ref()
            .try_into()
            .expect("an Ed25519 signature has 64 bytes")
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({}, [redacted])", self.peer_id())
    }
}

/// What is really signed: length of the domain, domain, message. The length keeps one domain from being read as the
/// beginning of another with its message.
fn signed_bytes(domain: &[u8], message: &[&[u8]]) -> Vec<u8> {
    let length = u8::try_from(domain.len()).expect("domains are our own short constants");
    assert!(
        length > 0,
        "a signature without a domain could be replayed elsewhere"
    );
    let total: usize = message.iter().map(|part| part.len()).sum();
    let mut signed = Vec::with_capacity(1 + domain.len() + total);
    signed.push(length);
    signed.extend_from_slice(domain);
    for part in message {
        signed.extend_from_slice(part);
    }
    signed
}

const fn hex32(text: &str) -> [u8; 32] {
    const fn nibble(character: u8) -> u8 {
        match character {
            b'0'..=b'9' => character - b'0',
            b'a'..=b'f' => character - b'a' + 10,
            _ => panic!("hex digits"),
        }
    }
    let text = text.as_bytes();
    assert!(text.len() == 64);
    let mut bytes = [0; 32];
    let mut index = 0;
    while index < 32 {
        bytes[index] = nibble(text[index * 2]) << 4 | nibble(text[index * 2 + 1]);
        index += 1;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8032 §7.1, test 1.
    #[test]
    fn a_seed_gives_the_public_key_of_rfc_8032() {
        let seed = hex32("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60");
        let identity = Identity::from_seed(&seed);
        assert_eq!(
            identity.peer_id().as_bytes(),
            &hex32("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
        );
        assert_eq!(identity.seed(), &seed);
    }

    #[test]
    fn a_peer_id_survives_its_text_form() {
        for byte in 0..=255u8 {
            let mut bytes = [byte; 32];
            bytes[usize::from(byte) % 32] ^= 0x5a;
            let peer = PeerId::from_bytes(bytes);
            let text = peer.to_string();
            assert_eq!(text.len(), PEER_ID_CHARS);
            assert_eq!(text.parse(), Ok(peer));
            assert_eq!(text.to_uppercase().parse(), Ok(peer));
            assert!(text.starts_with(&peer.short().to_string()));
        }
    }

    #[test]
    fn the_text_form_is_base32_of_rfc_4648() {
        let mut bytes = [0; 32];
        bytes[..6].copy_from_slice(b"foobar");
        let text = PeerId::from_bytes(bytes).to_string();
        assert!(text.starts_with("mzxw6ytboi"), "{text}");
    }

    #[track_caller]
    fn check_unreadable(text: &str, want: ParsePeerIdError) {
        assert_eq!(text.parse::<PeerId>(), Err(want));
    }

    #[test]
    fn a_text_that_is_no_peer_id_is_refused_with_the_reason() {
        check_unreadable("", ParsePeerIdError::Length { count: 0 });
        check_unreadable(&"a".repeat(53), ParsePeerIdError::Length { count: 53 });
        let one = format!("{}1{}", "a".repeat(3), "a".repeat(48));
        check_unreadable(
            &one,
            ParsePeerIdError::Character {
                index: 3,
                character: '1',
            },
        );
        let umlaut = format!("{}ä", "a".repeat(51));
        check_unreadable(
            &umlaut,
            ParsePeerIdError::Character {
                index: 51,
                character: 'ä',
            },
        );
        let trailing = format!("{}b", "a".repeat(51));
        check_unreadable(&trailing, ParsePeerIdError::TrailingBits);
    }

    #[test]
    fn a_prefix_matches_what_begins_with_it() {
        let peer = Identity::from_seed(&[7; 32]).peer_id();
        let text = peer.to_string();
        for length in 1..=PEER_ID_CHARS {
            let prefix: PeerIdPrefix = text[..length].to_uppercase().parse().unwrap();
            assert!(prefix.matches(&peer));
        }
        let other = if text.starts_with('a') { "b" } else { "a" };
        assert!(!other.parse::<PeerIdPrefix>().unwrap().matches(&peer));
        assert_eq!(
            "".parse::<PeerIdPrefix>(),
            Err(ParsePeerIdError::PrefixLength { count: 0 })
        );
        assert!("no spaces".parse::<PeerIdPrefix>().is_err());
    }

    #[test]
    fn a_signature_holds_for_its_message_domain_and_key_only() {
        let identity = Identity::from_seed(&[1; 32]);
        let peer = identity.peer_id();
        let signature = identity.sign(b"purpose", &[b"one", b"two"]);
        assert_eq!(peer.verify(b"purpose", &[b"onetwo"], &signature), Ok(()));
        let wrong = Err(SignatureError::Wrong);
        assert_eq!(peer.verify(b"purpose", &[b"onetw"], &signature), wrong);
        assert_eq!(peer.verify(b"purposeo", &[b"netwo"], &signature), wrong);
        let other = Identity::from_seed(&[2; 32]).peer_id();
        assert_eq!(other.verify(b"purpose", &[b"onetwo"], &signature), wrong);
        for index in 0..SIGNATURE_BYTES {
            let mut flipped = signature;
            flipped[index] ^= 1;
            assert_eq!(peer.verify(b"purpose", &[b"onetwo"], &flipped), wrong);
        }
    }

    #[test]
    fn keys_of_small_order_identify_nobody() {
        for y in SMALL_ORDER {
            for sign in [0, 0x80] {
                let mut bytes = y;
                bytes[31] |= sign;
                // R = the same point and S = 0 satisfies the equation for some of these under any message.
                let mut signature = [0; SIGNATURE_BYTES];
                signature[..32].copy_from_slice(&bytes);
                assert_eq!(
                    PeerId::from_bytes(bytes).verify(b"d", &[b"m"], &signature),
                    Err(SignatureError::KeyOfSmallOrder)
                );
            }
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let identity = Identity::from_seed(&[0x41; 32]);
        let text = format!("{identity:?}");
        assert!(text.contains("[redacted]") && text.contains(&identity.peer_id().to_string()));
    }
}
