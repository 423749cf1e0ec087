//! The hello: what each side says of itself under the handshake's encryption, in messages 2 and 3.
//!
//! A MessagePack map with text keys, at most 4 KiB. Unknown keys and what follows the map are
//! passed over, so that fields can be added.

use std::fmt;
use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr};

use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::ser::SerializeSeq;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use smallvec::SmallVec;

use super::cipher::Suite;
use super::config::{Config, WINDOW_MAX, WINDOW_MIN};
use super::error::HelloFault;
use super::preface::PREFACE_BYTES;
use crate::identity::{PEER_ID_BYTES, SIGNATURE_BYTES};

/// The longest hello in bytes.
pub const HELLO_MAX: usize = 4096;
/// Listen addresses that are read; more are passed over.
pub const LISTEN_MAX: usize = 16;
/// The longest display name and agent in bytes.
pub const NAME_MAX: usize = 64;
/// Suites that are read; more are passed over.
const SUITES_MAX: usize = 16;
/// How deep a value that we pass over may be nested. Keeps a hostile hello from eating the stack.
const DEPTH_MAX: usize = 16;

/// What a peer says of itself, checked for form. It becomes true by the signature and the handshake around it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The Ed25519 public key.
    pub identity: [u8; PEER_ID_BYTES],
    /// The identity's signature over the handshake.
    pub signature: [u8; SIGNATURE_BYTES],
    /// The preface as it was sent.
    pub preface: [u8; PREFACE_BYTES],
    /// Numbers of the suites on offer.
    pub suites: Vec<u8>,
    /// Everything else.
    pub about: About,
}

/// The part of a hello that is of use once the handshake is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// Feature bits.
    pub features: u64,
    /// Bytes that it takes on each stream before it grants more.
    pub window: u32,
    /// The largest message body that it takes.
    pub message_max: u32,
    /// Bulk streams that it lets us open at once.
    pub bulk_streams_max: u16,
    /// Where it listens, as it believes. Unchecked claims.
    pub listen: Vec<SocketAddr>,
    /// The address it sees us under. An unchecked claim.
    pub observed: Option<SocketAddr>,
    /// Its name for people.
    pub name: Option<String>,
    /// Its program.
    pub agent: String,
}

impl About {
    /// What a node with this configuration says to a peer at `remote`.
    pub fn of(config: &Config, remote: Option<SocketAddr>) -> About {
        let announced = |text: &&String| is_shown(text);
        About {
            features: config.features,
            window: config.limits.window,
            message_max: config.limits.message_max,
            bulk_streams_max: config.limits.bulk_streams_max,
            listen: config.listen.iter().take(LISTEN_MAX).copied().collect(),
            observed: remote,
            name: config.name.as_ref().filter(announced).cloned(),
            agent: Some(&config.agent)
                .filter(announced)
                .cloned()
                .unwrap_or_default(),
        }
    }
}

fn is_shown(text: &str) -> bool {
    text.len() <= NAME_MAX && !text.chars().any(char::is_control)
}

impl Hello {
    /// The bytes of the map; at most [`HELLO_MAX`].
    pub fn encode(&self) -> Vec<u8> {
        let about = &self.about;
        let wire = WireHello {
            id: Bytes(&self.identity),
            sig: Bytes(&self.signature),
            preface: Bytes(&self.preface),
            suites: List(self.suites.clone()),
            features: about.features,
            limits: WireLimits {
                window: about.window,
                message: about.message_max,
                streams: about.bulk_streams_max,
            },
            listen: List(about.listen.iter().map(|&a| Address(Some(a))).collect()),
            seen: about.observed.map(|address| Address(Some(address))),
            name: about.name.as_deref(),
            agent: Some(about.agent.as_str()).filter(|agent| !agent.is_empty()),
        };
        let mut bytes = Vec::with_capacity(512);
        let mut serializer = rmp_serde::Serializer::new(&mut bytes).with_struct_map();
        wire.serialize(&mut serializer)
            .expect("writing to memory does not fail");
        assert!(bytes.len() <= HELLO_MAX, "every field is limited");
        bytes
    }

    /// Reads a hello.
    pub fn decode(bytes: &[u8]) -> Result<Hello, HelloFault> {
        if bytes.len() > HELLO_MAX {
            return Err(HelloFault::TooLong);
        }
        let mut deserializer = rmp_serde::Deserializer::from_read_ref(bytes);
        deserializer.set_max_depth(DEPTH_MAX);
        let wire = WireHello::deserialize(&mut deserializer).map_err(|_| HelloFault::Encoding)?;
        let agent = wire.agent.unwrap_or_default();
        if !wire.name.is_none_or(is_shown) || !is_shown(agent) {
            return Err(HelloFault::Text);
        }
        if !(WINDOW_MIN..=WINDOW_MAX).contains(&wire.limits.window) {
            return Err(HelloFault::Limits);
        }
        Ok(Hello {
            identity: wire.id.array()?,
            signature: wire.sig.array()?,
            preface: wire.preface.array()?,
            suites: wire.suites.0,
            about: About {
                features: wire.features,
                window: wire.limits.window,
                message_max: wire.limits.message,
                bulk_streams_max: wire.limits.streams,
                listen: wire.listen.0.iter().filter_map(|a| a.0).collect(),
                observed: wire.seen.and_then(|address| address.0),
                name: wire.name.map(str::to_owned),
                agent: agent.to_owned(),
            },
        })
    }

    /// The best suite that both sides offer.
    pub(crate) fn choose_suite(&self, config: &Config) -> Option<Suite> {
        let offered = |suite: &Suite| self.suites.contains(&suite.number());
        config.suites().find(offered)
    }
}

/// The map as it is on the wire. Field names are the keys.
#[derive(Serialize, Deserialize)]
struct WireHello<'a> {
    #[serde(borrow)]
    id: Bytes<'a>,
    #[serde(borrow)]
    sig: Bytes<'a>,
    #[serde(borrow)]
    preface: Bytes<'a>,
    suites: List<u8, SUITES_MAX>,
    features: u64,
    limits: WireLimits,
    #[serde(default)]
    listen: List<Address, LISTEN_MAX>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seen: Option<Address>,
    #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
    agent: Option<&'a str>,
}

#[derive(Serialize, Deserialize)]
struct WireLimits {
    window: u32,
    message: u32,
    streams: u16,
}

/// MessagePack `bin`, read without a copy.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn array<const N: usize>(&self) -> Result<[u8; N], HelloFault> {
        self.0.try_into().map_err(|_| HelloFault::Encoding)
    }
}

impl Serialize for Bytes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Bytes<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Bytes<'a>, D::Error> {
        struct BytesVisitor;
        impl<'de> Visitor<'de> for BytesVisitor {
            type Value = &'de [u8];

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_borrowed_bytes<E>(self, bytes: &'de [u8]) -> Result<&'de [u8], E> {
                Ok(bytes)
            }
        }
        deserializer.deserialize_bytes(BytesVisitor).map(Bytes)
    }
}

/// A list of which at most `MAX` elements are kept. Nothing is set aside for a length that is only claimed.
struct List<T, const MAX: usize>(Vec<T>);

impl<T, const MAX: usize> Default for List<T, MAX> {
    fn default() -> List<T, MAX> {
        List(Vec::new())
    }
}

impl<T: Serialize, const MAX: usize> Serialize for List<T, MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(self.0.len()))?;
        for element in &self.0 {
            list.serialize_element(element)?;
        }
        list.end()
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for List<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<List<T, MAX>, D::Error> {
        struct ListVisitor<T, const MAX: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for ListVisitor<T, MAX> {
            type Value = Vec<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
                let mut kept = Vec::new();
                while kept.len() < MAX {
                    match list.next_element()? {
                        Some(element) => kept.push(element),
                        None => return Ok(kept),
                    }
                }
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(kept)
            }
        }
        deserializer
            .deserialize_seq(ListVisitor::<T, MAX>(PhantomData))
            .map(List)
    }
}

/// An address: 4 or 16 bytes of IP and 2 of port, big-endian. Other lengths are of kinds that this build does not know.
struct Address(Option<SocketAddr>);

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut bytes: SmallVec<[u8; 18]> = SmallVec::new();
        if let Some(address) = self.0 {
            match address.ip().to_canonical() {
                IpAddr::V4(ip) => bytes.extend_from_slice(&ip.octets()),
                IpAddr::V6(ip) => bytes.extend_from_slice(&ip.octets()),
            }
            bytes.extend_from_slice(&address.port().to_be_bytes());
        }
        serializer.serialize_bytes(&bytes)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Address, D::Error> {
        let bytes = Bytes::deserialize(deserializer)?.0;
        let Some((ip, port)) = bytes.split_last_chunk::<2>() else {
            return Ok(Address(None));
        };
        let ip = if let Ok(octets) = <[u8; 4]>::try_from(ip) {
            IpAddr::from(octets)
        } else if let Ok(octets) = <[u8; 16]>::try_from(ip) {
            IpAddr::from(octets).to_canonical()
        } else {
            return Ok(Address(None));
        };
        let address = SocketAddr::new(ip, u16::from_be_bytes(*port));
        Ok(Address(Some(address)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello {
            identity: [1; 32],
            signature: [2; 64],
            preface: [3; 44],
            suites: vec![2, 1],
            about: About {
                features: 1 << 63,
                window: 256 * 1024,
                message_max: 1 << 20,
                bulk_streams_max: 64,
                listen: vec![
                    "127.0.0.1:9000".parse().unwrap(),
                    "[2001:db8::1]:65535".parse().unwrap(),
                ],
                observed: Some("192.0.2.7:1".parse().unwrap()),
                name: Some("Ratatöskr".into()),
                agent: "mischief/0.1.0".into(),
            },
        }
    }

    #[track_caller]
    fn check_refused(hello: &Hello, why: HelloFault) {
        assert_eq!(Hello::decode(&hello.encode()), Err(why));
    }

    #[test]
    fn a_hello_survives_the_wire() {
        let full = hello();
        assert_eq!(Hello::decode(&full.encode()), Ok(full.clone()));
        let mut bare = full;
        bare.about.name = None;
        bare.about.agent = String::new();
        bare.about.observed = None;
        bare.about.listen = Vec::new();
        assert_eq!(Hello::decode(&bare.encode()), Ok(bare));
    }

    #[test]
    fn every_truncation_is_refused_and_bytes_behind_are_passed_over() {
        let bytes = hello().encode();
        for length in 0..bytes.len() {
            assert_eq!(
                Hello::decode(&bytes[..length]),
                Err(HelloFault::Encoding),
                "{length}"
            );
        }
        let mut longer = bytes;
        longer.push(0xc1);
        assert_eq!(Hello::decode(&longer), Ok(hello()));
        assert_eq!(Hello::decode(&[0; HELLO_MAX + 1]), Err(HelloFault::TooLong));
    }

    /// The map of `hello()` with one more field put in front.
    fn with_field(key: &str, value: &[u8]) -> Vec<u8> {
        let bytes = hello().encode();
        assert_eq!(bytes[0] & 0xf0, 0x80, "a small map");
        let mut more = vec![bytes[0] + 1, 0xa0 | key.len() as u8];
        more.extend_from_slice(key.as_bytes());
        more.extend_from_slice(value);
        more.extend_from_slice(&bytes[1..]);
        more
    }

    #[test]
    fn unknown_fields_are_passed_over() {
        assert_eq!(
            Hello::decode(&with_field("later", &[0x93, 1, 2, 0xc4, 1, 9])),
            Ok(hello())
        );
        assert_eq!(
            Hello::decode(&with_field("features", &[1])),
            Err(HelloFault::Encoding),
            "a field that comes twice"
        );
    }

    #[test]
    fn deep_nesting_and_lying_lengths_are_refused() {
        let mut deep = vec![0x91; 3000];
        deep.push(1);
        assert_eq!(
            Hello::decode(&with_field("later", &deep)),
            Err(HelloFault::Encoding)
        );
        for lie in [
            &[0xdd, 0xff, 0xff, 0xff, 0xff][..],
            &[0xdf, 0xff, 0xff, 0xff, 0xff],
            &[0xc6, 0xff, 0xff, 0xff, 0xff],
            &[0xdb, 0xff, 0xff, 0xff, 0xff],
        ] {
            assert_eq!(
                Hello::decode(&with_field("later", lie)),
                Err(HelloFault::Encoding)
            );
            assert_eq!(
                Hello::decode(&[&[0x81, 0xa6], &b"listen"[..], lie].concat()),
                Err(HelloFault::Encoding)
            );
        }
    }

    #[test]
    fn lists_are_cut_at_their_maximum() {
        let mut long = hello();
        long.suites = (0..100).collect();
        long.about.listen = (0..100).map(|port| ([127, 0, 0, 1], port).into()).collect();
        let read = Hello::decode(&long.encode()).unwrap();
        assert_eq!(read.suites, long.suites[..SUITES_MAX]);
        assert_eq!(read.about.listen, long.about.listen[..LISTEN_MAX]);
    }

    #[test]
    fn names_and_limits_out_of_bounds_are_refused() {
        let mut long = hello();
        long.about.name = Some("a".repeat(NAME_MAX));
        assert!(Hello::decode(&long.encode()).is_ok());
        long.about.name = Some("a".repeat(NAME_MAX + 1));
        check_refused(&long, HelloFault::Text);
        long.about.name = Some("bell\u{7}".into());
        check_refused(&long, HelloFault::Text);
        let mut agent = hello();
        agent.about.agent = "a".repeat(NAME_MAX + 1);
        check_refused(&agent, HelloFault::Text);
        for window in [0, WINDOW_MIN - 1, WINDOW_MAX + 1, u32::MAX] {
            let mut hello = hello();
            hello.about.window = window;
            check_refused(&hello, HelloFault::Limits);
        }
    }

    #[test]
    fn addresses_of_unknown_kinds_are_passed_over() {
        // {"listen": [bin(6), bin(3), bin(0)]} in place of the empty list of a bare hello.
        let mut bare = hello();
        bare.about.listen = Vec::new();
        let bytes = bare.encode();
        let at = bytes
            .windows(8)
            .position(|window| window == b"\xa6listen\x90")
            .unwrap();
        let mut mixed = bytes[..at + 7].to_vec();
        mixed.extend_from_slice(b"\x93\xc4\x06\x7f\0\0\x01\x23\x28\xc4\x03abc\xc4\0");
        mixed.extend_from_slice(&bytes[at + 8..]);
        let read = Hello::decode(&mixed).unwrap();
        assert_eq!(read.about.listen, ["127.0.0.1:9000".parse().unwrap()]);
    }

    #[test]
    fn mapped_addresses_travel_as_what_they_are() {
        let mut mapped = hello();
        mapped.about.listen = vec!["[::ffff:127.0.0.1]:7".parse().unwrap()];
        let read = Hello::decode(&mapped.encode()).unwrap();
        assert_eq!(read.about.listen, ["127.0.0.1:7".parse().unwrap()]);
    }
}
