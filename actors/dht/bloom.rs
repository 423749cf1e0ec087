//! Bloom filters by which swarms are counted without naming their peers (BEP 33).

use std::net::IpAddr;

use super::message::BLOOM_BYTES;
use super::node_id::NodeId;

/// Bits of a filter.
const BITS: usize = BLOOM_BYTES * 8;

/// A set of IP addresses, whose size can be estimated and which can be united with others.
#[derive(Clone, PartialEq, Eq)]
pub struct Bloom(pub [u8; BLOOM_BYTES]);

impl Default for Bloom {
    fn default() -> Bloom {
        Bloom([0; BLOOM_BYTES])
    }
}

impl Bloom {
    /// Adds an address.
    pub fn insert(&mut self, ip: IpAddr) {
        let hash = match ip {
            IpAddr::V4(ip) => NodeId::sha1(&[&ip.octets()]),
            IpAddr::V6(ip) => NodeId::sha1(&[&ip.octets()]),
        };
        for pair in hash.0[..4].chunks_exact(2) {
            let index = (usize::from(pair[0]) | usize::from(pair[1]) << 8) % BITS;
            self.0[index / 8] |= 1 << (index % 8);
        }
    }

    /// Adds everything that is in another filter.
    pub fn unite(&mut self, other: &[u8; BLOOM_BYTES]) {
        for (own, its) in self.0.iter_mut().zip(other) {
            *own |= its;
        }
    }

    /// About how many addresses are in it. It breaks down beyond 8,000.
    pub fn estimate(&self) -> f64 {
        let ones: u32 = self.0.iter().map(|byte| byte.count_ones()).sum();
        let zeros = (BITS - ones as usize).clamp(1, BITS - 1) as f64;
        let bits = BITS as f64;
        if ones == 0 {
            return 0.0;
        }
        (zeros / bits).ln() / (2.0 * (1.0 - 1.0 / bits).ln())
    }
}

impl std::fmt::Debug for Bloom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bloom(about {:.0})", self.estimate())
    }
}
