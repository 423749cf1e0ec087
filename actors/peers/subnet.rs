//! Ranges of addresses: what is banned by range, and which addresses are likely to belong to the same hand.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// A range of addresses in CIDR notation, `192.0.2.0/24` or `2001:db8::/32`. Bits behind the prefix are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subnet {
    /// IPv4 in its v4-mapped form.
    bits: u128,
    /// Leading bits of the v4-mapped form that count.
    length: u8,
    is_v4: bool,
}

/// How many bits of a v4-mapped address come before the IPv4 address in it.
const MAPPED_BITS: u8 = 96;

impl Subnet {
    /// The range of all addresses that begin with the first `length` bits of `ip`. `None` if it has not that many bits.
    pub fn new(ip: IpAddr, length: u8) -> Option<Subnet> {
        let ip = ip.to_canonical();
        let (bits, length_max, offset) = match ip {
            IpAddr::V4(ip) => (ip.to_ipv6_mapped().to_bits(), 32, MAPPED_BITS),
            IpAddr::V6(ip) => (ip.to_bits(), 128, 0),
        };
        if length > length_max {
            return None;
        }
        let length = length + offset;
        Some(Subnet {
            bits: bits & mask(length),
            length,
            is_v4: ip.is_ipv4(),
        })
    }

    /// The range of one address.
    pub fn of(ip: IpAddr) -> Subnet {
        let ip = ip.to_canonical();
        Subnet::new(ip, if ip.is_ipv4() { 32 } else { 128 }).expect("an address has all its bits")
    }

    /// Whether an address is in it.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        ip.is_ipv4() == self.is_v4 && bits_of(ip) & mask(self.length) == self.bits
    }

    /// Its first address.
    pub fn first(&self) -> IpAddr {
        let ip = Ipv6Addr::from_bits(self.bits);
        match self.is_v4 {
            true => IpAddr::V6(ip).to_canonical(),
            false => ip.into(),
        }
    }

    /// How many leading bits of an address of its family count.
    pub fn prefix(&self) -> u8 {
        self.length - if self.is_v4 { MAPPED_BITS } else { 0 }
    }
}

fn mask(length: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0)
}

fn bits_of(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first(), self.prefix())
    }
}

/// Why a text is no range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a subnet is written as 192.0.2.0/24 or 2001:db8::/32, one address without the slash")]
pub struct ParseSubnetError;

impl FromStr for Subnet {
    type Err = ParseSubnetError;

    /// Reads the notation; an address alone is the range of that address. Bits behind the prefix are passed over.
    fn from_str(text: &str) -> Result<Subnet, ParseSubnetError> {
        let (ip, length) = match text.split_once('/') {
            None => (text, None),
            Some((ip, length)) => (ip, Some(length)),
        };
        let ip: IpAddr = ip.parse().map_err(|_| ParseSubnetError)?;
        match length {
            None => Ok(Subnet::of(ip)),
            Some(length) => {
                let is_number = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
                let length = length.parse().ok().filter(|_| is_number);
                length
                    .and_then(|length| Subnet::new(ip, length))
                    .ok_or(ParseSubnetError)
            }
        }
    }
}

/// Addresses that are likely to be one hand's: the same /16 of IPv4 or /32 of IPv6. Peers of one group count as one
/// where independent ones are wanted. Addresses of a private network are a group each: they say nothing about whose they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group(u128);

impl Group {
    /// The group of an address.
    pub fn of(ip: IpAddr) -> Group {
        let ip = ip.to_canonical();
        let length = match ip {
            _ if is_private(ip) => 128,
            IpAddr::V4(_) => MAPPED_BITS + 16,
            IpAddr::V6(_) => 32,
        };
        Group(bits_of(ip) & mask(length))
    }

    /// Whether it is an address of a private network, or this machine.
    pub(super) fn is_private(self) -> bool {
        is_private(Ipv6Addr::from_bits(self.0).into())
    }

    /// The bits of the group.
    pub(super) fn to_be_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// A group from its bits.
    pub(super) fn from_be_bytes(bytes: [u8; 16]) -> Group {
        Group(u128::from_be_bytes(bytes))
    }
}

/// The /24 of an IPv4 address or the /48 of an IPv6 one: what one machine or site may have.
pub(super) fn site_of(ip: IpAddr) -> Subnet {
    let ip = ip.to_canonical();
    Subnet::new(ip, if ip.is_ipv4() { 24 } else { 48 }).expect("an address has these bits")
}

/// Whether an address means something only near this machine: loopback, link-local, private and shared ranges.
pub(super) fn is_private(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let is_shared = Subnet::new(Ipv4Addr::new(100, 64, 0, 0).into(), 10);
            ip.is_loopback()
                || ip.is_private()
                || ip.is_link_local()
                || is_shared.is_some_and(|shared| shared.contains(ip.into()))
        }
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

/// Whether one node can be dialled there at all.
pub(super) fn is_dialable(addr: SocketAddr) -> bool {
    let is_one_node = match addr.ip().to_canonical() {
        IpAddr::V4(ip) => {
            !(ip.is_unspecified()
                || ip.is_multicast()
                || ip.is_broadcast()
                || ip.octets()[0] >= 240)
        }
        IpAddr::V6(ip) => !(ip.is_unspecified() || ip.is_multicast()),
    };
    is_one_node && addr.port() != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, want: &str) {
        let subnet: Subnet = text.parse().unwrap();
        assert_eq!(subnet.to_string(), want);
        assert_eq!(want.parse(), Ok(subnet));
    }

    #[test]
    fn a_subnet_is_read_and_shown() {
        check("192.0.2.77/24", "192.0.2.0/24");
        check("192.0.2.77", "192.0.2.77/32");
        check("0.0.0.0/0", "0.0.0.0/0");
        check("2001:db8:1::/32", "2001:db8::/32");
        check("::/0", "::/0");
        check("::ffff:192.0.2.1", "192.0.2.1/32");
        for bad in [
            "",
            "/",
            "192.0.2.0/33",
            "::/129",
            "host/8",
            "192.0.2.0/",
            "1.2.3.4/-1",
            "1.2.3.4/+8",
        ] {
            assert_eq!(bad.parse::<Subnet>(), Err(ParseSubnetError), "{bad}");
        }
    }

    #[test]
    fn a_subnet_contains_its_own_family_alone() {
        let contains = |subnet: &str, ip: &str| {
            let subnet: Subnet = subnet.parse().unwrap();
            subnet.contains(ip.parse().unwrap())
        };
        assert!(contains("192.0.2.0/24", "192.0.2.255"));
        assert!(contains("192.0.2.0/24", "::ffff:192.0.2.255"));
        assert!(!contains("192.0.2.0/24", "192.0.3.0"));
        assert!(contains("0.0.0.0/0", "1.2.3.4"));
        assert!(!contains("::/0", "1.2.3.4"));
        assert!(!contains("0.0.0.0/0", "2001:db8::1"));
        assert!(contains("::/0", "2001:db8::1"));
    }

    #[test]
    fn groups_are_of_one_hand() {
        let group = |ip: &str| Group::of(ip.parse().unwrap());
        assert_eq!(group("1.2.3.4"), group("1.2.200.9"));
        assert_ne!(group("1.2.3.4"), group("1.3.3.4"));
        assert_eq!(group("2001:db8::1"), group("2001:db8:ffff::2"));
        assert_ne!(group("10.0.0.1"), group("10.0.0.2"));
        assert_eq!(
            Group::from_be_bytes(group("1.2.3.4").to_be_bytes()),
            group("1.2.3.4")
        );
    }

    #[test]
    fn only_single_nodes_are_dialable() {
        let dialable = |addr: &str| is_dialable(addr.parse().unwrap());
        assert!(dialable("1.2.3.4:1") && dialable("127.0.0.1:9000") && dialable("[2001:db8::1]:9"));
        for bad in [
            "1.2.3.4:0",
            "0.0.0.0:1",
            "224.0.0.1:1",
            "255.255.255.255:1",
            "240.0.0.1:1",
            "[::]:1",
            "[ff02::1]:1",
        ] {
            assert!(!dialable(bad), "{bad}");
        }
    }
}
