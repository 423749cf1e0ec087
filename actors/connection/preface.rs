//! The preface: what each side says in clear before anything else, and the refusal that may follow it.

use std::ops::RangeInclusive;

use ring::digest;

/// Bytes of a preface.
pub const PREFACE_BYTES: usize = 44;
/// The first bytes of every connection, both ways.
pub const MAGIC: [u8; 8] = *b"mischief";
/// The wire versions that this build speaks.
pub const WIRE_VERSIONS: RangeInclusive<u8> = 1..=1;
/// The longest name or version of a protocol in bytes.
pub const PROTOCOL_TEXT_MAX: usize = 64;

const PROTOCOL_LABEL: &[u8] = b"mischief protocol";

/// The hash of an application protocol's name and version. Nodes whose hashes differ do not talk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProtocolHash([u8; 32]);

impl ProtocolHash {
    /// The hash for a name and a version of 1 to 64 bytes each; `None` for other lengths.
    pub fn new(name: &str, version: &str) -> Option<ProtocolHash> {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(PROTOCOL_LABEL);
        for text in [name, version] {
            // The lengths keep ("a", "bc") apart from ("ab", "c").
            if text.is_empty() || text.len() > PROTOCOL_TEXT_MAX {
                return None;
            }
            context.update(&[text.len() as u8]);
            context.update(text.as_bytes());
        }
        let hash = context.finish();
        Some(ProtocolHash(
            hash.as_ref().try_into().expect("SHA-256 gives 32 bytes"),
        ))
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// A decoded preface. It keeps the bytes it came from, since the handshake binds them as they were sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preface {
    bytes: [u8; PREFACE_BYTES],
}

impl Preface {
    /// The preface of a node that speaks `versions` and `protocol`.
    pub fn new(versions: RangeInclusive<u8>, protocol: ProtocolHash) -> Preface {
        assert!(
            versions.start() <= versions.end(),
            "a node speaks a version"
        );
        let mut bytes = [0; PREFACE_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8] = *versions.start();
        bytes[9] = *versions.end();
        bytes[12..].copy_from_slice(&protocol.0);
        Preface { bytes }
    }

    /// Reads a preface; the two reserved bytes may hold anything.
    pub fn decode(bytes: &[u8; PREFACE_BYTES]) -> Result<Preface, PrefaceError> {
        if !Preface::may_begin_with(bytes) {
            return Err(PrefaceError::NotMischief);
        }
        if bytes[8] > bytes[9] {
            return Err(PrefaceError::Versions);
        }
        Ok(Preface { bytes: *bytes })
    }

    /// Whether `beginning` may become a preface: a program that speaks something else is found out at its first byte.
    pub fn may_begin_with(beginning: &[u8]) -> bool {
        beginning.iter().zip(&MAGIC).all(|(a, b)| a == b)
    }

    /// Whether a node with this preface has nothing to say to who begins so: something else than a preface, or one of
    /// another wire version or protocol. Takes as much or little as has come.
    pub fn refuses(&self, beginning: &[u8]) -> bool {
        let Some(whole) = beginning.first_chunk() else {
            return !Preface::may_begin_with(beginning);
        };
        Preface::decode(whole).map_or(true, |theirs| {
            self.common_version(&theirs).is_none() || self.protocol() != theirs.protocol()
        })
    }

    /// The bytes as they go over the wire.
    pub fn as_bytes(&self) -> &[u8; PREFACE_BYTES] {
        &self.bytes
    }

    /// The wire versions that its sender speaks, lowest and highest.
    pub fn versions(&self) -> RangeInclusive<u8> {
        self.bytes[8]..=self.bytes[9]
    }

    /// The hash of its sender's application protocol.
    pub fn protocol(&self) -> ProtocolHash {
        let (_, hash) = self
            .bytes
            .split_last_chunk()
            .expect("a preface ends with the hash");
        ProtocolHash(*hash)
    }

    /// The highest wire version that both sides speak.
    pub fn common_version(&self, other: &Preface) -> Option<u8> {
        let highest = self.bytes[9].min(other.bytes[9]);
        let lowest = self.bytes[8].max(other.bytes[8]);
        (highest >= lowest).then_some(highest)
    }
}

/// Why bytes are no preface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrefaceError {
    /// They begin with something else.
    NotMischief,
    /// The lowest version is above the highest.
    Versions,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preface(versions: RangeInclusive<u8>) -> Preface {
        Preface::new(versions, ProtocolHash::new("chat", "1.0").unwrap())
    }

    #[test]
    fn a_preface_survives_the_wire() {
        let preface = preface(1..=3);
        let read = Preface::decode(preface.as_bytes()).unwrap();
        assert_eq!(read, preface);
        assert_eq!(read.versions(), 1..=3);
        assert_eq!(read.protocol(), ProtocolHash::new("chat", "1.0").unwrap());
    }

    #[test]
    fn who_begins_otherwise_is_refused_as_soon_as_that_shows() {
        let ours = preface(2..=3);
        let other = Preface::new(2..=3, ProtocolHash::new("chat", "1.1").unwrap());
        let whole = |preface: &Preface| [preface.as_bytes().as_slice(), b"message 1"].concat();
        for (begins, refused) in [
            (whole(&preface(1..=2)), false),
            (whole(&preface(4..=9)), true),
            (whole(&preface(1..=1)), true),
            (whole(&other), true),
            (b"GET / HTTP/1.1".to_vec(), true),
        ] {
            assert_eq!(ours.refuses(&begins), refused);
            assert!(!ours.refuses(&[]));
            // Only what is no preface at all shows early.
            let half = &begins[..begins.len().min(PREFACE_BYTES - 1)];
            assert_eq!(ours.refuses(half), begins[0] == b'G');
        }
    }

    #[test]
    fn every_byte_of_the_magic_counts_and_the_reserved_ones_do_not() {
        let preface = preface(1..=1);
        for index in 0..MAGIC.len() {
            let mut bytes = *preface.as_bytes();
            bytes[index] ^= 1;
            assert_eq!(Preface::decode(&bytes), Err(PrefaceError::NotMischief));
            assert!(!Preface::may_begin_with(&bytes[..index + 1]));
            assert!(Preface::may_begin_with(&bytes[..index]));
        }
        let mut bytes = *preface.as_bytes();
        bytes[10..12].fill(0xff);
        assert!(Preface::decode(&bytes).is_ok());
        bytes[8] = 2;
        assert_eq!(Preface::decode(&bytes), Err(PrefaceError::Versions));
    }

    #[test]
    fn the_highest_common_version_is_chosen() {
        assert_eq!(preface(1..=3).common_version(&preface(2..=5)), Some(3));
        assert_eq!(preface(2..=5).common_version(&preface(1..=3)), Some(3));
        assert_eq!(preface(1..=1).common_version(&preface(2..=2)), None);
        assert_eq!(preface(4..=4).common_version(&preface(2..=3)), None);
    }

    #[test]
    fn protocols_differ_by_name_and_version() {
        let hash = |name: &str, version: &str| ProtocolHash::new(name, version);
        assert_ne!(hash("a", "bc"), hash("ab", "c"));
        assert_ne!(hash("chat", "1.0"), hash("chat", "1.1"));
        assert_eq!(hash("", "1"), None);
        assert_eq!(hash("a", ""), None);
        assert_eq!(hash(&"a".repeat(65), "1"), None);
        assert!(hash(&"a".repeat(64), "1").is_some());
    }
}
