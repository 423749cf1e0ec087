//! Addresses: their compact form on the wire, the families, and which of them stand for one owner.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::node_id::{ID_BYTES, NodeId};

/// IPv4 or IPv6: two DHTs that share nothing but a process (BEP 32).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Family; 2] = [Family::V4, Family::V6];

    /// The family of an address.
    pub fn of(addr: SocketAddr) -> Family {
        if addr.is_ipv4() {
            Family::V4
        } else {
            Family::V6
        }
    }

    /// Bytes of a compact address: the IP address and a port.
    pub const fn compact_bytes(self) -> usize {
        match self {
            Family::V4 => 6,
            Family::V6 => 18,
        }
    }

    /// Bytes of a compact node: its id and its address.
    pub const fn node_bytes(self) -> usize {
        ID_BYTES + self.compact_bytes()
    }

    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

/// A node of the DHT: who, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Contact {
    /// Its id, as it or somebody else says.
    pub id: NodeId,
    /// Its address.
    pub addr: SocketAddr,
}

/// Appends the compact form of an address.
pub fn write_compact(addr: SocketAddr, out: &mut Vec<u8>) {
    match addr.ip() {
        IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
        IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
    }
    out.extend_from_slice(&addr.port().to_be_bytes());
}

/// Reads a compact address of either family by its length.
pub fn read_compact(bytes: &[u8]) -> Option<SocketAddr> {
    let (ip, port) = bytes.split_at_checked(bytes.len().checked_sub(2)?)?;
    let port = u16::from_be_bytes(port.try_into().ok()?);
    let ip = if let Ok(octets) = <[u8; 4]>::try_from(ip) {
        IpAddr::V4(Ipv4Addr::from(octets))
    } else {
        IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(ip).ok()?))
    };
    Some(SocketAddr::new(ip, port))
}

/// Appends the compact form of a node.
pub fn write_node(node: &Contact, out: &mut Vec<u8>) {
    out.extend_from_slice(&node.id.0);
    write_compact(node.addr, out);
}

/// Reads the compact nodes of one family. What follows the last whole one is left out.
pub fn read_nodes(bytes: &[u8], family: Family) -> impl Iterator<Item = Contact> + '_ {
    bytes.chunks_exact(family.node_bytes()).filter_map(|node| {
        let (id, addr) = node.split_at(ID_BYTES);
        Some(Contact {
            id: NodeId::from_slice(id)?,
            addr: read_compact(addr)?,
        })
    })
}

/// Whether an address is of a local network, so that BEP 42 and the rules of one node for each prefix do not hold there: many
/// nodes of one owner are what a local network is.
pub fn is_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private() || ip.is_loopback() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unique_local(),
    }
}

/// Whether a datagram may come from this address, and one be sent to it.
pub fn is_usable(addr: SocketAddr) -> bool {
    let is_unicast = match addr.ip() {
        IpAddr::V4(ip) => !(ip.is_multicast() || ip.is_broadcast() || ip.octets()[0] == 0),
        IpAddr::V6(ip) => {
            !(ip.is_multicast() || ip.is_unspecified() || ip.to_ipv4_mapped().is_some())
        }
    };
    is_unicast && addr.port() != 0
}

/// Stands for whoever owns an address: its /24 or /64, of which the routing table and a lookup take one node only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Prefix {
    /// The first three bytes of an IPv4 address.
    V4([u8; 3]),
    /// The first half of an IPv6 address.
    V6([u8; 8]),
    /// On a local network every address with its port is an owner of its own.
    Local(SocketAddr),
}

impl Prefix {
    /// The prefix of an address.
    pub fn of(addr: SocketAddr) -> Prefix {
        match addr.ip() {
            ip if is_local(ip) => Prefix::Local(addr),
            IpAddr::V4(ip) => {
                let [a, b, c, _] = ip.octets();
                Prefix::V4([a, b, c])
            }
            IpAddr::V6(ip) => {
                let half = ip.octets()[..8].try_into().expect("8 of 16 bytes");
                Prefix::V6(half)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn compact_forms_are_read_as_written() {
        for text in ["192.0.2.7:6881", "[2001:db8::1]:1"] {
            let mut bytes = Vec::new();
            write_compact(addr(text), &mut bytes);
            assert_eq!(bytes.len(), Family::of(addr(text)).compact_bytes());
            assert_eq!(read_compact(&bytes), Some(addr(text)));
            assert_eq!(read_compact(&bytes[1..]), None);
        }
        assert_eq!(read_compact(b""), None);
        assert_eq!(read_compact(b"a"), None);
        // BEP 5's own example of a peer.
        assert_eq!(read_compact(b"axje.u"), Some(addr("97.120.106.101:11893")));
    }

    #[test]
    fn what_follows_the_last_node_is_left_out() {
        let node = Contact {
            id: NodeId([7; 20]),
            addr: addr("192.0.2.1:9"),
        };
        let mut bytes = Vec::new();
        write_node(&node, &mut bytes);
        bytes.extend_from_slice(&[1; 25]);
        assert_eq!(read_nodes(&bytes, Family::V4).collect::<Vec<_>>(), [node]);
        assert_eq!(read_nodes(&bytes, Family::V6).count(), 1);
    }

    #[test]
    fn local_and_unusable_addresses_are_known() {
        for text in [
            "10.1.2.3",
            "172.31.0.1",
            "192.168.0.1",
            "169.254.9.9",
            "127.3.2.1",
            "::1",
            "fe80::1",
            "fd00::1",
        ] {
            assert!(is_local(text.parse().expect("an address")), "{text}");
        }
        for text in ["172.32.0.1", "11.0.0.1", "2001:db8::1"] {
            assert!(!is_local(text.parse().expect("an address")), "{text}");
        }
        for text in [
            "0.0.0.0:1",
            "0.1.2.3:1",
            "224.0.0.1:1",
            "255.255.255.255:1",
            "1.2.3.4:0",
            "[::]:1",
            "[ff02::1]:1",
            "[::ffff:1.2.3.4]:1",
        ] {
            assert!(!is_usable(addr(text)), "{text}");
        }
        assert!(is_usable(addr("1.2.3.4:1")));
    }

    #[test]
    fn owners_are_told_apart() {
        assert_eq!(Prefix::of(addr("8.8.8.1:1")), Prefix::of(addr("8.8.8.2:2")));
        assert_ne!(Prefix::of(addr("8.8.8.1:1")), Prefix::of(addr("8.8.9.1:1")));
        assert_eq!(
            Prefix::of(addr("[2001:db8::1]:1")),
            Prefix::of(addr("[2001:db8::9]:2"))
        );
        assert_ne!(
            Prefix::of(addr("127.0.0.1:1")),
            Prefix::of(addr("127.0.0.1:2"))
        );
        assert_ne!(
            Prefix::of(addr("10.0.0.1:1")),
            Prefix::of(addr("10.0.0.2:1"))
        );
    }
}
