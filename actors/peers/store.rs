//! The format of `peers.rats` and `peers_ever.rats`.
//!
//! ```text
//! 0        4         5      6         8        12
//! +--------+---------+------+---------+--------+---------+------------+
//! | "RATS" | version | kind | zero    | length | entries | SHA-256 32 |
//! +--------+---------+------+---------+--------+---------+------------+
//! an entry: its type (u8), its length (u16), and so many bytes
//! ```
//!
//! Numbers are big-endian; the length is that of the entries, the digest is over everything before it. Entries of a type that
//! this version does not know are passed over. The files are small and always written whole, so a reader finds the old one or
//! the new one; the digest tells of disks that do not keep that promise. Times in the files are by the wall clock.

use mischief_reactor::WallTime;
use ring::digest::{SHA256, digest};

use super::PeerId;
use super::bans::{BANS_MAX, Target};
use super::book::BOOK_MAX;
use super::record::SignedRecord;
use super::subnet::{Group, Subnet};
use crate::connection::endpoint::HOST_CHARS_MAX;
use crate::connection::{Endpoint, parse_addr};

/// The longest file that is read.
pub const FILE_BYTES_MAX: usize = 4 << 20;
/// Peers in the file of those that are connected.
pub const CURRENT_MAX: usize = 1024;
/// Peers that may be protected.
pub const PROTECTED_MAX: usize = 1024;

const MAGIC: &[u8; 4] = b"RATS";
const VERSION: u8 = 1;
const HEAD: usize = 12;
const DIGEST_BYTES: usize = 32;

const PEER: u8 = 1;
const BAN: u8 = 2;
const PROTECTED: u8 = 3;
const SEQUENCE: u8 = 4;
const CURRENT: u8 = 5;

const TARGET_PEER: u8 = 1;
const TARGET_SUBNET: u8 = 2;

/// Which of the two files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FileKind {
    /// `peers.rats`: who is connected, or was when the node ended.
    Current,
    /// `peers_ever.rats`: the address book, bans, protected peers.
    Ever,
}

impl FileKind {
    /// The name in the data directory.
    pub const fn file_name(self) -> &'static str {
        match self {
            FileKind::Current => "peers.rats",
            FileKind::Ever => "peers_ever.rats",
        }
    }

    const fn number(self) -> u8 {
        match self {
            FileKind::Current => 1,
            FileKind::Ever => 2,
        }
    }
}

/// Why a file cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Longer than any that is written.
    #[error("it is longer than {FILE_BYTES_MAX} bytes")]
    TooLong,
    /// It is something else, or the other of the two files.
    #[error("it is no file of peers")]
    NotOurs,
    /// A later version wrote it.
    #[error("it has version {0}, and this program reads {VERSION}")]
    Version(u8),
    /// Cut short, or changed.
    #[error("it is damaged")]
    Damaged,
}

/// A peer in the book.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredPeer {
    /// Who.
    pub peer: PeerId,
    /// Where.
    pub endpoint: Endpoint,
    /// Who told of it.
    pub source: Group,
    /// When it was last told of or met.
    pub heard_at: WallTime,
    /// When it was last reached.
    pub reached_at: Option<WallTime>,
    /// It has proved who it is.
    pub is_met: bool,
    /// Failures since it was reached.
    pub failures: u8,
    /// What it signed.
    pub record: Option<SignedRecord>,
}

/// Everything that is in either file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// The book.
    pub peers: Vec<StoredPeer>,
    /// Bans and when they end.
    pub bans: Vec<(Target, Option<WallTime>)>,
    /// Protected peers.
    pub protected: Vec<PeerId>,
    /// The number of this node's last record.
    pub sequence: u64,
    /// Connected peers.
    pub current: Vec<(PeerId, Endpoint)>,
}

impl Stored {
    /// The bytes of a file.
    pub fn encode(&self, kind: FileKind) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(1024);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&[VERSION, kind.number(), 0, 0, 0, 0, 0, 0]);
        match kind {
            FileKind::Current => {
                for (peer, endpoint) in self.current.iter().take(CURRENT_MAX) {
                    put_entry(&mut bytes, CURRENT, |out| {
                        out.extend_from_slice(peer.as_bytes());
                        out.extend_from_slice(endpoint.to_string().as_bytes());
                    });
                }
            }
            FileKind::Ever => self.encode_ever(&mut bytes),
        }
        let length = (bytes.len() - HEAD) as u32;
        bytes[8..HEAD].copy_from_slice(&length.to_be_bytes());
        let sum = digest(&SHA256, &bytes);
        bytes.extend_from_slice(sum.as_ref());
        bytes
    }

    fn encode_ever(&self, bytes: &mut Vec<u8>) {
        put_entry(bytes, SEQUENCE, |out| {
            out.extend_from_slice(&self.sequence.to_be_bytes());
        });
        for peer in self.protected.iter().take(PROTECTED_MAX) {
            put_entry(bytes, PROTECTED, |out| {
                out.extend_from_slice(peer.as_bytes())
            });
        }
        for (target, until) in self.bans.iter().take(2 * BANS_MAX) {
            put_entry(bytes, BAN, |out| {
                // 0 stands for no end.
                out.extend_from_slice(
                    &until.map_or(0, |at| at.as_unix_secs().max(1)).to_be_bytes(),
                );
                match target {
                    Target::Peer(peer) => {
                        out.push(TARGET_PEER);
                        out.extend_from_slice(peer.as_bytes());
                    }
                    Target::Subnet(subnet) => {
                        out.push(TARGET_SUBNET);
                        out.extend_from_slice(subnet.to_string().as_bytes());
                    }
                }
            });
        }
        for peer in self.peers.iter().take(BOOK_MAX) {
            put_entry(bytes, PEER, |out| peer.encode(out));
        }
    }

    /// Reads a file.
    pub fn decode(bytes: &[u8], kind: FileKind) -> Result<Stored, StoreError> {
        if bytes.len() > FILE_BYTES_MAX {
            return Err(StoreError::TooLong);
        }
        if !bytes.starts_with(MAGIC) {
            return Err(StoreError::NotOurs);
        }
        let (summed, sum) = bytes
            .split_last_chunk::<DIGEST_BYTES>()
            .ok_or(StoreError::Damaged)?;
        let (head, mut entries) = summed
            .split_first_chunk::<HEAD>()
            .ok_or(StoreError::Damaged)?;
        if digest(&SHA256, summed).as_ref() != sum {
            return Err(StoreError::Damaged);
        }
        if head[4] != VERSION {
            return Err(StoreError::Version(head[4]));
        }
        if head[5] != kind.number() {
            return Err(StoreError::NotOurs);
        }
        let length = u32::from_be_bytes([head[8], head[9], head[10], head[11]]);
        if length as usize != entries.len() {
            return Err(StoreError::Damaged);
        }
        let mut stored = Stored::default();
        while !entries.is_empty() {
            let (entry_kind, body) = take_entry(&mut entries).ok_or(StoreError::Damaged)?;
            stored.take(entry_kind, body);
        }
        Ok(stored)
    }

    /// An entry that is malformed, or one too many, is left out: the digest holds, so another version wrote it.
    fn take(&mut self, kind: u8, body: &[u8]) {
        let whole = |body: &[u8]| Some(PeerId::from_bytes(body.try_into().ok()?));
        match kind {
            SEQUENCE => {
                let sequence = body.try_into().map(u64::from_be_bytes);
                self.sequence = sequence.unwrap_or_default();
            }
            PROTECTED if self.protected.len() < PROTECTED_MAX => self.protected.extend(whole(body)),
            BAN if self.bans.len() < 2 * BANS_MAX => self.bans.extend(read_ban(body)),
            PEER if self.peers.len() < BOOK_MAX => self.peers.extend(StoredPeer::decode(body)),
            CURRENT if self.current.len() < CURRENT_MAX => self.current.extend(read_current(body)),
            _ => {}
        }
    }
}

impl StoredPeer {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.peer.as_bytes());
        out.push(u8::from(self.is_met));
        out.push(self.failures);
        out.extend_from_slice(&self.heard_at.as_unix_secs().to_be_bytes());
        // 0 stands for never.
        let reached_at = self.reached_at.map_or(0, |at| at.as_unix_secs().max(1));
        out.extend_from_slice(&reached_at.to_be_bytes());
        out.extend_from_slice(&self.source.to_be_bytes());
        let endpoint = self.endpoint.to_string();
        out.extend_from_slice(&(endpoint.len() as u16).to_be_bytes());
        out.extend_from_slice(endpoint.as_bytes());
        if let Some(record) = &self.record {
            out.extend_from_slice(record.as_bytes());
        }
    }

    fn decode(body: &[u8]) -> Option<StoredPeer> {
        let (peer, rest) = body.split_first_chunk::<32>()?;
        let (&[is_met, failures], rest) = rest.split_first_chunk::<2>()?;
        let (heard_at, rest) = rest.split_first_chunk::<8>()?;
        let (reached_at, rest) = rest.split_first_chunk::<8>()?;
        let (source, rest) = rest.split_first_chunk::<16>()?;
        let (length, rest) = rest.split_first_chunk::<2>()?;
        let (endpoint, record) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
        let reached_at = u64::from_be_bytes(*reached_at);
        let peer = PeerId::from_bytes(*peer);
        let record = match record.is_empty() {
            true => None,
            false => SignedRecord::from_file(record).filter(|record| record.peer() == peer),
        };
        Some(StoredPeer {
            peer,
            endpoint: read_endpoint(endpoint)?,
            source: Group::from_be_bytes(*source),
            heard_at: from_unix_secs(u64::from_be_bytes(*heard_at)),
            reached_at: (reached_at > 0).then(|| from_unix_secs(reached_at)),
            is_met: is_met != 0,
            failures,
            record,
        })
    }
}

fn read_ban(body: &[u8]) -> Option<(Target, Option<WallTime>)> {
    let (until, rest) = body.split_first_chunk::<8>()?;
    let until = u64::from_be_bytes(*until);
    let (&kind, rest) = rest.split_first()?;
    let target = match kind {
        TARGET_PEER => Target::Peer(PeerId::from_bytes(rest.try_into().ok()?)),
        TARGET_SUBNET => Target::Subnet(std::str::from_utf8(rest).ok()?.parse::<Subnet>().ok()?),
        _ => return None,
    };
    Some((target, (until > 0).then(|| from_unix_secs(until))))
}

fn read_current(body: &[u8]) -> Option<(PeerId, Endpoint)> {
    let (peer, endpoint) = body.split_first_chunk::<32>()?;
    Some((PeerId::from_bytes(*peer), read_endpoint(endpoint)?))
}

fn read_endpoint(bytes: &[u8]) -> Option<Endpoint> {
    // Port and brackets come to the name.
    if bytes.len() > HOST_CHARS_MAX + 8 {
        return None;
    }
    parse_addr(std::str::from_utf8(bytes).ok()?).ok()
}

/// The time of so many seconds, or the last whole second that there is.
fn from_unix_secs(seconds: u64) -> WallTime {
    const NANOS: u64 = 1_000_000_000;
    WallTime::from_unix_nanos(seconds.min(u64::MAX / NANOS) * NANOS)
}

fn put_entry(bytes: &mut Vec<u8>, kind: u8, write: impl FnOnce(&mut Vec<u8>)) {
    bytes.extend_from_slice(&[kind, 0, 0]);
    let start = bytes.len();
    write(bytes);
    let length = u16::try_from(bytes.len() - start).expect("every entry is short");
    bytes[start - 2..start].copy_from_slice(&length.to_be_bytes());
}

fn take_entry<'a>(bytes: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (&[kind, high, low], rest) = bytes.split_first_chunk::<3>()?;
    let (body, rest) = rest.split_at_checked(u16::from_be_bytes([high, low]).into())?;
    *bytes = rest;
    Some((kind, body))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::identity::Identity;

    fn wall(seconds: u64) -> WallTime {
        from_unix_secs(seconds)
    }

    fn stored() -> Stored {
        let identity = Identity::from_seed(&[4; 32]);
        let addr: SocketAddr = "192.0.2.9:9000".parse().unwrap();
        let peer = |n: u8, endpoint: &str| StoredPeer {
            peer: PeerId::from_bytes([n; 32]),
            endpoint: parse_addr(endpoint).unwrap(),
            source: Group::of(addr.ip()),
            heard_at: wall(1_700_000_000),
            reached_at: None,
            is_met: false,
            failures: n,
            record: None,
        };
        let signed = StoredPeer {
            peer: identity.peer_id(),
            reached_at: Some(wall(1_700_000_001)),
            is_met: true,
            record: SignedRecord::sign(&identity, 3, [addr]),
            ..peer(1, "192.0.2.9:9000")
        };
        Stored {
            peers: vec![
                peer(1, "host.example:9000"),
                peer(2, "[2001:db8::1]:9"),
                signed,
            ],
            bans: vec![
                (Target::Peer(PeerId::from_bytes([8; 32])), None),
                (
                    Target::Subnet("192.0.2.0/24".parse().unwrap()),
                    Some(wall(1_800_000_000)),
                ),
                (Target::Subnet("2001:db8::/32".parse().unwrap()), None),
            ],
            protected: vec![PeerId::from_bytes([9; 32])],
            sequence: u64::MAX,
            current: Vec::new(),
        }
    }

    #[test]
    fn both_files_are_read_as_they_were_written() {
        let stored = stored();
        assert_eq!(
            Stored::decode(&stored.encode(FileKind::Ever), FileKind::Ever),
            Ok(stored)
        );
        let current = Stored {
            current: vec![(
                PeerId::from_bytes([1; 32]),
                parse_addr("a.example:1").unwrap(),
            )],
            ..Stored::default()
        };
        assert_eq!(
            Stored::decode(&current.encode(FileKind::Current), FileKind::Current),
            Ok(current)
        );
        let empty = Stored::default().encode(FileKind::Ever);
        assert_eq!(
            Stored::decode(&empty, FileKind::Ever),
            Ok(Stored::default())
        );
        assert_eq!(
            Stored::decode(&empty, FileKind::Current),
            Err(StoreError::NotOurs)
        );
    }

    #[test]
    fn every_changed_byte_and_every_truncation_is_noticed() {
        let bytes = stored().encode(FileKind::Ever);
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x10;
            assert!(Stored::decode(&changed, FileKind::Ever).is_err(), "{at}");
            assert!(
                Stored::decode(&bytes[..at], FileKind::Ever).is_err(),
                "{at}"
            );
        }
        assert_eq!(
            Stored::decode(&[0; FILE_BYTES_MAX + 1], FileKind::Ever),
            Err(StoreError::TooLong)
        );
    }

    #[test]
    fn a_full_book_fits() {
        let identity = Identity::from_seed(&[4; 32]);
        let addrs = (0..4u16).map(|n| {
            SocketAddr::new(
                std::net::Ipv6Addr::new(0x2001, n, 1, 1, 1, 1, 1, 1).into(),
                9000,
            )
        });
        let record = SignedRecord::sign(&identity, 1, addrs);
        let name = format!(
            "{}.example",
            [
                "a".repeat(60),
                "b".repeat(60),
                "c".repeat(60),
                "d".repeat(50)
            ]
            .join(".")
        );
        let peer = StoredPeer {
            endpoint: parse_addr(&format!("{name}:65535")).unwrap(),
            record,
            ..stored().peers[2].clone()
        };
        let full = Stored {
            peers: vec![peer; BOOK_MAX],
            bans: vec![stored().bans[2]; 2 * BANS_MAX],
            protected: vec![identity.peer_id(); PROTECTED_MAX],
            ..Stored::default()
        };
        let length = full.encode(FileKind::Ever).len();
        assert!(length < FILE_BYTES_MAX, "{length}");
    }

    #[test]
    fn what_a_later_version_adds_is_passed_over() {
        let mut bytes = stored().encode(FileKind::Ever);
        bytes.truncate(bytes.len() - DIGEST_BYTES);
        put_entry(&mut bytes, 200, |out| out.extend_from_slice(b"from later"));
        put_entry(&mut bytes, PEER, |out| out.push(1));
        let length = (bytes.len() - HEAD) as u32;
        bytes[8..HEAD].copy_from_slice(&length.to_be_bytes());
        let sum = digest(&SHA256, &bytes);
        bytes.extend_from_slice(sum.as_ref());
        assert_eq!(Stored::decode(&bytes, FileKind::Ever), Ok(stored()));
    }
}
