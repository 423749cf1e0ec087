//! Resource records, as far as mDNS and DNS-SD look into them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::name::Name;

/// The type of a record (RFC 1035 §3.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Kind(pub(crate) u16);

impl Kind {
    pub(crate) const A: Kind = Kind(1);
    pub(crate) const PTR: Kind = Kind(12);
    pub(crate) const TXT: Kind = Kind(16);
    pub(crate) const AAAA: Kind = Kind(28);
    pub(crate) const SRV: Kind = Kind(33);
    pub(crate) const NSEC: Kind = Kind(47);
    /// In questions alone: every type.
    pub(crate) const ANY: Kind = Kind(255);

    /// Whether a question of this type asks for records of `other`.
    pub(crate) fn covers(self, other: Kind) -> bool {
        self == Kind::ANY || self == other
    }
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Data {
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    Ptr(Name),
    Srv {
        priority: u16,
        weight: u16,
        port: u16,
        host: Name,
    },
    /// Strings with their lengths before them (RFC 6763 §6.1), one at least.
    Txt(Box<[u8]>),
    /// The types that exist for a name; all others do not (RFC 6762 §6.1). The name that the record repeats is the owner's.
    Nsec {
        next: Name,
        kinds: Vec<Kind>,
    },
    /// Anything else, unread.
    Other(Kind, Box<[u8]>),
}

impl Data {
    pub(crate) fn address(ip: IpAddr) -> Data {
        match ip {
            IpAddr::V4(ip) => Data::A(ip),
            IpAddr::V6(ip) => Data::Aaaa(ip),
        }
    }

    pub(crate) fn kind(&self) -> Kind {
        match self {
            Data::A(_) => Kind::A,
            Data::Aaaa(_) => Kind::AAAA,
            Data::Ptr(_) => Kind::PTR,
            Data::Srv { .. } => Kind::SRV,
            Data::Txt(_) => Kind::TXT,
            Data::Nsec { .. } => Kind::NSEC,
            Data::Other(kind, _) => *kind,
        }
    }

    /// The bytes on the wire, names without compression: what is compared when two probe for one name (RFC 6762 §8.2).
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        match self {
            Data::A(ip) => ip.octets().to_vec(),
            Data::Aaaa(ip) => ip.octets().to_vec(),
            Data::Ptr(name) => name.as_wire().to_vec(),
            Data::Srv {
                priority,
                weight,
                port,
                host,
            } => {
                let numbers = [priority, weight, port].map(|number| number.to_be_bytes());
                [numbers.as_flattened(), host.as_wire()].concat()
            }
            Data::Txt(bytes) | Data::Other(_, bytes) => bytes.to_vec(),
            Data::Nsec { next, kinds } => {
                // Window block 0 holds every type below 256 (RFC 4034 §4.1.2), and all of ours are.
                let mut bits = [0u8; 32];
                for kind in kinds.iter().filter(|kind| kind.0 < 256) {
                    bits[usize::from(kind.0 / 8)] |= 0x80 >> (kind.0 % 8);
                }
                let used = bits
                    .iter()
                    .rposition(|byte| *byte != 0)
                    .map_or(0, |at| at + 1);
                let mut bytes = next.as_wire().to_vec();
                if used > 0 {
                    bytes.extend([0, used as u8]);
                    bytes.extend(&bits[..used]);
                }
                bytes
            }
        }
    }

    /// Bytes it holds beside itself, roughly.
    pub(crate) fn heap_bytes(&self) -> usize {
        match self {
            Data::A(_) | Data::Aaaa(_) => 0,
            Data::Ptr(name) | Data::Srv { host: name, .. } => name.as_wire().len(),
            Data::Txt(bytes) | Data::Other(_, bytes) => bytes.len(),
            Data::Nsec { next, kinds } => next.as_wire().len() + 2 * kinds.len(),
        }
    }
}

/// A record of the class IN.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) name: Name,
    /// Whether it is all there is of its name and type (RFC 6762 §10.2); never set for shared records.
    pub(crate) is_flush: bool,
    /// Seconds it may be kept; 0 takes it back.
    pub(crate) ttl: u32,
    pub(crate) data: Data,
}

impl Record {
    /// Whether both say the same of the same name, for however long.
    pub(crate) fn is_same(&self, other: &Record) -> bool {
        self.data == other.data && self.name == other.name
    }
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    pub(crate) name: Name,
    pub(crate) kind: Kind,
    /// Whether an answer by unicast will do (RFC 6762 §5.4).
    pub(crate) wants_unicast: bool,
}

/// A whole message.
#[derive(Clone, Debug, Default)]
pub(crate) struct Packet {
    pub(crate) id: u16,
    pub(crate) is_response: bool,
    /// More known answers follow in another packet (RFC 6762 §7.2).
    pub(crate) is_truncated: bool,
    pub(crate) questions: Vec<Question>,
    pub(crate) answers: Vec<Record>,
    pub(crate) authorities: Vec<Record>,
    pub(crate) additionals: Vec<Record>,
}
