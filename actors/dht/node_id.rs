//! Node ids: 160 bits, the distance between two, and which ids an address may have (BEP 42).

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use mischief_reactor::Random;

use super::address::is_local;

/// Bytes of an id, of an info hash and of the target of an item.
pub const ID_BYTES: usize = 20;

/// The name of a node, or a place in the same space: an info hash, the target of an item or of a lookup.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct NodeId(pub [u8; ID_BYTES]);

/// How far two ids are apart: their bitwise difference, as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Distance([u8; ID_BYTES]);

impl NodeId {
    /// The id in these bytes, if they are as many as an id has.
    pub fn from_slice(bytes: &[u8]) -> Option<NodeId> {
        bytes.try_into().ok().map(NodeId)
    }

    /// The SHA-1 of some bytes: an info hash, or the target of an immutable item.
    pub fn sha1(parts: &[&[u8]]) -> NodeId {
        let mut context = ring::digest::Context::new(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY);
        for part in parts {
            context.update(part);
        }
        let digest = context.finish();
        NodeId::from_slice(digest.as_ref()).expect("SHA-1 has 20 bytes")
    }

    /// Any id.
    pub fn random(random: &mut dyn Random) -> NodeId {
        let mut id = NodeId::default();
        random.fill(&mut id.0);
        id
    }

    /// An id that a node at `ip` may have (BEP 42, "Node ID restriction"). For a local address that is any id.
    pub fn for_ip(ip: IpAddr, random: &mut dyn Random) -> NodeId {
        let mut id = NodeId::random(random);
        if is_local(ip) {
            return id;
        }
        let prefix = ip_prefix(ip, id.0[19]).to_be_bytes();
        id.0[0] = prefix[0];
        id.0[1] = prefix[1];
        id.0[2] = prefix[2] & 0xf8 | id.0[2] & 0x07;
        id
    }

    /// Whether a node at `ip` may have this id (BEP 42). Nodes at local addresses may have any.
    pub fn is_valid_for(&self, ip: IpAddr) -> bool {
        if is_local(ip) {
            return true;
        }
        let prefix = ip_prefix(ip, self.0[19]).to_be_bytes();
        self.0[0] == prefix[0] && self.0[1] == prefix[1] && (self.0[2] ^ prefix[2]) & 0xf8 == 0
    }

    /// How far it is to `other`.
    pub fn distance(&self, other: &NodeId) -> Distance {
        let mut distance = [0; ID_BYTES];
        for (byte, (own, its)) in distance.iter_mut().zip(self.0.iter().zip(&other.0)) {
            *byte = own ^ its;
        }
        Distance(distance)
    }

    /// How many first bits are the same in both, 160 for the same id.
    pub fn common_bits(&self, other: &NodeId) -> usize {
        self.distance(other).leading_zeros()
    }

    /// A random id whose first `bits` bits are this one's and whose next bit is not.
    pub fn neighbour(&self, bits: usize, random: &mut dyn Random) -> NodeId {
        let mut id = NodeId::random(random);
        for bit in 0..bits.min(ID_BYTES * 8) {
            id.copy_bit(self, bit, false);
        }
        if bits < ID_BYTES * 8 {
            id.copy_bit(self, bits, true);
        }
        id
    }

    fn copy_bit(&mut self, from: &NodeId, bit: usize, is_inverted: bool) {
        let mask = 0x80 >> (bit % 8);
        let wanted = (from.0[bit / 8] ^ if is_inverted { mask } else { 0 }) & mask;
        self.0[bit / 8] = self.0[bit / 8] & !mask | wanted;
    }
}

impl Distance {
    /// The largest distance.
    pub const MAX: Distance = Distance([0xff; ID_BYTES]);

    /// How many first bits are zero.
    pub fn leading_zeros(&self) -> usize {
        let whole = self.0.iter().take_while(|byte| **byte == 0).count();
        whole * 8
            + self
                .0
                .get(whole)
                .map_or(0, |byte| byte.leading_zeros() as usize)
    }

    /// The distance as a part of the largest one, between 0 and 1.
    pub fn as_fraction(&self) -> f64 {
        let high: [u8; 8] = self.0[..8].try_into().expect("8 of 20 bytes");
        u64::from_be_bytes(high) as f64 / 2f64.powi(64)
    }
}

/// What the first 21 bits of an id must be (BEP 42). The BEP speaks of hashing 8 bytes for either family, while its code and
/// its vectors hash the 4 masked bytes of an IPv4 address: the vectors decide.
fn ip_prefix(ip: IpAddr, random: u8) -> u32 {
    const V4_MASK: [u8; 4] = [0x03, 0x0f, 0x3f, 0xff];
    const V6_MASK: [u8; 8] = [0x01, 0x03, 0x07, 0x0f, 0x1f, 0x3f, 0x7f, 0xff];
    let mut masked = [0; 8];
    let count = match ip {
        IpAddr::V4(ip) => {
            for (index, (byte, mask)) in ip.octets().iter().zip(V4_MASK).enumerate() {
                masked[index] = byte & mask;
            }
            4
        }
        IpAddr::V6(ip) => {
            for (index, (byte, mask)) in ip.octets().iter().zip(V6_MASK).enumerate() {
                masked[index] = byte & mask;
            }
            8
        }
    };
    masked[0] |= (random & 0x07) << 5;
    crc32c(&masked[..count])
}

/// CRC-32C (Castagnoli; RFC 3720 B.4), bit by bit: it is asked for 8 bytes at most.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ (crc & 1).wrapping_neg() & 0x82f6_3b78;
        }
    }
    !crc
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not 40 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an id has 40 hexadecimal digits")]
pub struct ParseIdError;

impl FromStr for NodeId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<NodeId, ParseIdError> {
        let mut id = NodeId::default();
        let digits = text.as_bytes();
        if digits.len() != ID_BYTES * 2 {
            return Err(ParseIdError);
        }
        for (byte, pair) in id.0.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |at: usize| (pair[at] as char).to_digit(16).ok_or(ParseIdError);
            *byte = (digit(0)? << 4 | digit(1)?) as u8;
        }
        Ok(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_is_castagnolis() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    }

    #[test]
    fn distances_are_ordered_and_counted() {
        let id: NodeId = "8000000000000000000000000000000000000000"
            .parse()
            .expect("an id");
        let zero = NodeId::default();
        assert_eq!(id.common_bits(&zero), 0);
        assert_eq!(id.common_bits(&id), 160);
        assert_eq!(zero.distance(&id).as_fraction(), 0.5);
        let near: NodeId = "0000000000000000000000000000000000000001"
            .parse()
            .expect("an id");
        assert_eq!(zero.common_bits(&near), 159);
        assert!(zero.distance(&near) < zero.distance(&id));
        assert_eq!(near.to_string(), "0000000000000000000000000000000000000001");
        assert_eq!("00".parse::<NodeId>(), Err(ParseIdError));
        assert_eq!("x".repeat(40).parse::<NodeId>(), Err(ParseIdError));
    }

    #[test]
    fn a_neighbour_shares_as_many_bits_as_asked() {
        let mut random = crate::dht::dice::Dice::new(&[1; 32]);
        let id = NodeId::random(&mut random);
        for bits in 0..160 {
            assert_eq!(id.neighbour(bits, &mut random).common_bits(&id), bits);
        }
        assert_eq!(id.neighbour(160, &mut random), id);
    }
}
