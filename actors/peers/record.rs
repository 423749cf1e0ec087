//! Signed peer records: where a peer says that it can be reached. Passed on by others, so the peer's own signature is all
//! that makes them true.
//!
//! ```text
//! 0         1         33          41      42
//! +---------+---------+-----------+-------+------------------------+--------------+
//! | version | peer id | sequence  | count | count times an address | signature 64 |
//! +---------+---------+-----------+-------+------------------------+--------------+
//! an address: 4 or 6 (u8), the IP (4 or 16 bytes), the port (u16)
//! ```
//!
//! Numbers are big-endian. The signature is Ed25519 over [`DOMAIN`] and all bytes before it. A record with a higher sequence
//! number replaces one with a lower. The layout is fixed and not MessagePack, so that a record has one encoding and what was
//! signed is what is passed on, byte for byte.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use smallvec::SmallVec;

use super::PeerId;
use super::subnet::is_dialable;
use crate::identity::{Identity, PEER_ID_BYTES, SIGNATURE_BYTES};

/// What the signature is for.
pub const DOMAIN: &[u8] = b"mischief peer record 1";
/// Addresses in one record; not less than one.
pub const RECORD_ADDRS_MAX: usize = 4;
/// The longest record in bytes.
pub const SIGNED_RECORD_BYTES_MAX: usize = HEAD + RECORD_ADDRS_MAX * 19 + SIGNATURE_BYTES;

const VERSION: u8 = 1;
/// Version, id, sequence, count.
const HEAD: usize = 1 + PEER_ID_BYTES + 8 + 1;

/// A record whose signature holds.
#[derive(Clone, PartialEq, Eq)]
pub struct SignedRecord {
    peer: PeerId,
    sequence: u64,
    addrs: SmallVec<[SocketAddr; 1]>,
    bytes: Box<[u8]>,
}

/// Why bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// Not the layout.
    #[error("the record is malformed")]
    Malformed,
    /// An address where nobody can be dialled.
    #[error("the record has an address that cannot be dialled")]
    Address,
    /// The signature does not hold.
    #[error("the record is not signed by its peer")]
    Signature,
}

impl SignedRecord {
    /// A record of this node, with the first [`RECORD_ADDRS_MAX`] of the addresses that can be dialled. `None` if none can.
    pub fn sign(
        identity: &Identity,
        sequence: u64,
        addrs: impl IntoIterator<Item = SocketAddr>,
    ) -> Option<SignedRecord> {
        let mut kept: SmallVec<[SocketAddr; 1]> = SmallVec::new();
        for addr in addrs {
            let addr = SocketAddr::new(addr.ip().to_canonical(), addr.port());
            if is_dialable(addr) && !kept.contains(&addr) && kept.len() < RECORD_ADDRS_MAX {
                kept.push(addr);
            }
        }
        if kept.is_empty() {
            return None;
        }
        let peer = identity.peer_id();
        let mut bytes = Vec::with_capacity(SIGNED_RECORD_BYTES_MAX);
        bytes.push(VERSION);
        bytes.extend_from_slice(peer.as_bytes());
        bytes.extend_from_slice(&sequence.to_be_bytes());
        bytes.push(kept.len() as u8);
        for addr in &kept {
            match addr.ip() {
                IpAddr::V4(ip) => {
                    bytes.push(4);
                    bytes.extend_from_slice(&ip.octets());
                }
                IpAddr::V6(ip) => {
                    bytes.push(6);
                    bytes.extend_from_slice(&ip.octets());
                }
            }
            bytes.extend_from_slice(&addr.port().to_be_bytes());
        }
        let signature = identity.sign(DOMAIN, &[&bytes]);
        bytes.extend_from_slice(&signature);
        Some(SignedRecord {
            peer,
            sequence,
            addrs: kept,
            bytes: bytes.into(),
        })
    }

    /// Reads a record and checks its signature, which takes some 40 µs.
    pub fn decode(bytes: &[u8]) -> Result<SignedRecord, RecordError> {
        let (signed, signature) = bytes
            .split_last_chunk::<SIGNATURE_BYTES>()
            .ok_or(RecordError::Malformed)?;
        let (peer, sequence, addrs) = read(signed).ok_or(RecordError::Malformed)?;
        if !addrs.iter().copied().all(is_dialable) {
            return Err(RecordError::Address);
        }
        peer.verify(DOMAIN, &[signed], signature)
            .map_err(|_| RecordError::Signature)?;
        Ok(SignedRecord {
            peer,
            sequence,
            addrs,
            bytes: bytes.into(),
        })
    }

    /// Reads a record of this node's own file. It was checked before it was written there, and whoever is told of it checks
    /// it again: to check thousands at a start would take a tenth of a second.
    pub(super) fn from_file(bytes: &[u8]) -> Option<SignedRecord> {
        let (signed, _) = bytes.split_last_chunk::<SIGNATURE_BYTES>()?;
        let (peer, sequence, addrs) = read(signed)?;
        addrs
            .iter()
            .copied()
            .all(is_dialable)
            .then(|| SignedRecord {
                peer,
                sequence,
                addrs,
                bytes: bytes.into(),
            })
    }

    /// Whose it is, without a look at the signature.
    pub(super) fn peer_of(bytes: &[u8]) -> Option<PeerId> {
        let id = bytes.get(1..1 + PEER_ID_BYTES)?;
        Some(PeerId::from_bytes(id.try_into().ok()?))
    }

    /// Whose it is.
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// The higher of two is the newer.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Where the peer can be reached, as it says; at least one.
    pub fn addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// As it is passed on.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl std::fmt::Debug for SignedRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (peer, sequence, addrs) = (self.peer.short(), self.sequence, &self.addrs);
        write!(f, "SignedRecord({peer} #{sequence} at {addrs:?})")
    }
}

type Parts = (PeerId, u64, SmallVec<[SocketAddr; 1]>);

/// The fields before the signature; `None` unless they are the whole of `signed`.
fn read(signed: &[u8]) -> Option<Parts> {
    let (head, mut rest) = signed.split_first_chunk::<HEAD>()?;
    let count = usize::from(head[HEAD - 1]);
    if head[0] != VERSION || !(1..=RECORD_ADDRS_MAX).contains(&count) {
        return None;
    }
    let peer = PeerId::from_bytes(head[1..1 + PEER_ID_BYTES].try_into().ok()?);
    let sequence = u64::from_be_bytes(head[1 + PEER_ID_BYTES..HEAD - 1].try_into().ok()?);
    let mut addrs = SmallVec::new();
    for _ in 0..count {
        let (addr, after) = read_addr(rest)?;
        addrs.push(addr);
        rest = after;
    }
    rest.is_empty().then_some((peer, sequence, addrs))
}

fn read_addr(bytes: &[u8]) -> Option<(SocketAddr, &[u8])> {
    let (&family, rest) = bytes.split_first()?;
    let (ip, rest): (IpAddr, &[u8]) = match family {
        4 => {
            let (ip, rest) = rest.split_first_chunk::<4>()?;
            (Ipv4Addr::from(*ip).into(), rest)
        }
        6 => {
            let (ip, rest) = rest.split_first_chunk::<16>()?;
            let ip = Ipv6Addr::from(*ip);
            // One address has one encoding.
            if ip.to_ipv4_mapped().is_some() {
                return None;
            }
            (ip.into(), rest)
        }
        _ => return None,
    };
    let (port, rest) = rest.split_first_chunk::<2>()?;
    Some((SocketAddr::new(ip, u16::from_be_bytes(*port)), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(n: u8) -> Identity {
        Identity::from_seed(&[n; 32])
    }

    fn addrs(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn record() -> SignedRecord {
        let addrs = addrs(&["192.0.2.1:9000", "[2001:db8::1]:9001"]);
        SignedRecord::sign(&identity(1), 7, addrs).unwrap()
    }

    #[test]
    fn a_record_survives_the_wire() {
        let record = record();
        let read = SignedRecord::decode(record.as_bytes()).unwrap();
        assert_eq!(read, record);
        assert_eq!((read.peer(), read.sequence()), (identity(1).peer_id(), 7));
        assert_eq!(
            read.addrs(),
            addrs(&["192.0.2.1:9000", "[2001:db8::1]:9001"])
        );
        assert_eq!(
            SignedRecord::peer_of(record.as_bytes()),
            Some(record.peer())
        );
    }

    #[test]
    fn every_changed_byte_and_every_truncation_is_refused() {
        let bytes = record().as_bytes().to_vec();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(SignedRecord::decode(&changed).is_err(), "{at}");
            assert!(SignedRecord::decode(&bytes[..at]).is_err(), "{at}");
        }
        let mut longer = bytes;
        longer.push(0);
        assert!(SignedRecord::decode(&longer).is_err());
    }

    #[test]
    fn what_cannot_be_dialled_is_left_out_and_refused() {
        let unusable = addrs(&["0.0.0.0:9", "224.0.0.1:9", "192.0.2.1:0", "[::]:1"]);
        assert_eq!(SignedRecord::sign(&identity(1), 1, unusable), None);
        let many = (0..9).map(|n| SocketAddr::from(([192, 0, 2, n], 9000)));
        let record = SignedRecord::sign(&identity(1), 1, many).unwrap();
        assert_eq!(record.addrs().len(), RECORD_ADDRS_MAX);
        assert!(record.as_bytes().len() <= SIGNED_RECORD_BYTES_MAX);
        let mapped = addrs(&["[::ffff:192.0.2.1]:9", "192.0.2.1:9"]);
        let record = SignedRecord::sign(&identity(1), 1, mapped).unwrap();
        assert_eq!(record.addrs(), addrs(&["192.0.2.1:9"]));
        // Signed all the same, by somebody whose program does not check.
        let mut bytes = record.as_bytes()[..record.as_bytes().len() - SIGNATURE_BYTES].to_vec();
        let at = bytes.len() - 2;
        bytes[at..].fill(0);
        let signature = identity(1).sign(DOMAIN, &[&bytes]);
        bytes.extend_from_slice(&signature);
        assert_eq!(SignedRecord::decode(&bytes), Err(RecordError::Address));
    }
}
