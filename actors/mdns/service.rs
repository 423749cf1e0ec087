//! What is registered and found: types, instances and their TXT records (RFC 6763 §4, §6, §7).

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::error::MdnsError;
use super::name::{LABEL_BYTES_MAX, Name};

/// The largest TXT record that can be registered, in bytes: what still fits into one packet (RFC 6763 §6.2).
pub const TXT_BYTES_MAX: usize = 1300;
/// The longest name of a service type without its underscore, in bytes (RFC 6335 §5.1).
pub const SERVICE_NAME_BYTES_MAX: usize = 15;

/// A service type such as `_rats._tcp`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServiceType(Name);

impl ServiceType {
    /// The type of a name on the wire; `None` if it is none in the domain `local`.
    pub(crate) fn from_name(name: &Name) -> Option<ServiceType> {
        let mut labels = name.labels();
        let (service, transport) = (labels.next()?, labels.next()?);
        let domain = labels.next()?;
        let is_transport = [&b"_tcp"[..], b"_udp"]
            .iter()
            .any(|text| transport.eq_ignore_ascii_case(text));
        let is_type = is_service_label(service)
            && is_transport
            && domain.eq_ignore_ascii_case(b"local")
            && labels.next().is_none();
        is_type.then(|| ServiceType(name.clone()))
    }

    /// `_rats._tcp.local`.
    pub fn name(&self) -> &Name {
        &self.0
    }

    /// The name of an instance of this type.
    pub(crate) fn instance(&self, instance: &str) -> Result<Name, MdnsError> {
        if instance.is_empty()
            || instance.len() > LABEL_BYTES_MAX
            || instance
                .chars()
                .any(|character| character.is_ascii_control())
        {
            return Err(MdnsError::Instance);
        }
        self.0
            .child(instance.as_bytes())
            .map_err(|_| MdnsError::Instance)
    }
}

/// RFC 6335 §5.1, with the underscore of RFC 6763 §7.
fn is_service_label(label: &[u8]) -> bool {
    let Some((b'_', name)) = label.split_first() else {
        return false;
    };
    let is_edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    (1..=SERVICE_NAME_BYTES_MAX).contains(&name.len())
        && is_edge(name.first())
        && is_edge(name.last())
        && name
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
        && name.iter().any(u8::is_ascii_alphabetic)
        && !name.windows(2).any(|pair| pair == b"--")
}

/// Reads `_rats._tcp`, with or without `.local` and a final dot.
impl FromStr for ServiceType {
    type Err = MdnsError;

    fn from_str(text: &str) -> Result<ServiceType, MdnsError> {
        let text = text.strip_suffix('.').unwrap_or(text);
        let labels: Vec<_> = text.split('.').collect();
        let (service, transport) = match labels[..] {
            [service, transport] => (service, transport),
            [service, transport, domain] if domain.eq_ignore_ascii_case("local") => {
                (service, transport)
            }
            _ => return Err(MdnsError::ServiceType),
        };
        Name::plain(&format!("{service}.{transport}.local"))
            .ok()
            .and_then(|name| ServiceType::from_name(&name))
            .ok_or(MdnsError::ServiceType)
    }
}

/// `_rats._tcp`, without the domain.
impl fmt::Display for ServiceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        f.write_str(text.strip_suffix(".local").unwrap_or(&text))
    }
}

/// A TXT record: keys with values (RFC 6763 §6).
#[derive(Clone, PartialEq, Eq)]
pub struct Txt(Box<[u8]>);

impl Txt {
    /// A record with these entries. `None` as value is a key alone, which is not the same as an empty value (RFC 6763 §6.4).
    pub fn new<'a>(
        entries: impl IntoIterator<Item = (&'a str, Option<&'a [u8]>)>,
    ) -> Result<Txt, MdnsError> {
        let mut bytes = Vec::new();
        for (key, value) in entries {
            let is_key = (1..=64).contains(&key.len())
                && key
                    .bytes()
                    .all(|byte| (0x20..=0x7e).contains(&byte) && byte != b'=');
            if !is_key {
                let key = key.chars().take(64).collect();
                return Err(MdnsError::TxtKey { key });
            }
            let len = key.len() + value.map_or(0, |value| 1 + value.len());
            let Ok(short) = u8::try_from(len) else {
                let key = key.to_owned();
                return Err(MdnsError::TxtEntry { key, bytes: len });
            };
            bytes.push(short);
            bytes.extend(key.as_bytes());
            if let Some(value) = value {
                bytes.push(b'=');
                bytes.extend(value);
            }
        }
        if bytes.is_empty() {
            // RFC 6763 §6.1: a record without strings does not exist.
            bytes.push(0);
        }
        if bytes.len() > TXT_BYTES_MAX {
            return Err(MdnsError::TxtSize { bytes: bytes.len() });
        }
        Ok(Txt(bytes.into()))
    }

    /// One that came from the network, with every string whole.
    pub(crate) fn from_wire(bytes: &[u8]) -> Txt {
        Txt(bytes.into())
    }

    pub(crate) fn as_wire(&self) -> &[u8] {
        &self.0
    }

    /// Keys and values in their order. What has no key is left out, and of several entries with one key, whatever the case
    /// of its letters, the first counts (RFC 6763 §6.4).
    pub fn entries(&self) -> Vec<(String, Option<&[u8]>)> {
        let mut entries: Vec<(String, Option<&[u8]>)> = Vec::new();
        let mut rest = &self.0[..];
        while let Some((len, tail)) = rest.split_first() {
            let Some((entry, tail)) = tail.split_at_checked(usize::from(*len)) else {
                break;
            };
            rest = tail;
            let at = entry.iter().position(|byte| *byte == b'=');
            let (key, value) = match at {
                Some(at) => (&entry[..at], Some(&entry[at + 1..])),
                None => (entry, None),
            };
            if key.is_empty() {
                continue;
            }
            let key = String::from_utf8_lossy(key).into_owned();
            if !entries
                .iter()
                .any(|(other, _)| other.eq_ignore_ascii_case(&key))
            {
                entries.push((key, value));
            }
        }
        entries
    }

    /// The value of a key; empty for a key without one.
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        let entries = self.entries();
        let found = entries
            .into_iter()
            .find(|(other, _)| other.eq_ignore_ascii_case(key));
        found.map(|(_, value)| value.unwrap_or_default())
    }
}

impl fmt::Debug for Txt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        let entries = self.entries();
        let entries = entries.iter().map(|(key, value)| (key, value.map(text)));
        f.debug_map().entries(entries).finish()
    }
}

impl Default for Txt {
    fn default() -> Txt {
        Txt([0].into())
    }
}

/// A service to be registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// What people see. Another one on the network with this name makes ours `Name (2)`.
    pub instance: String,
    /// What it is.
    pub service_type: ServiceType,
    /// Where it listens.
    pub port: u16,
    /// What it says about itself.
    pub txt: Txt,
}

impl Service {
    /// Whether it can be registered.
    pub(crate) fn check(&self) -> Result<(), MdnsError> {
        self.service_type.instance(&self.instance)?;
        if self.port == 0 {
            return Err(MdnsError::Port);
        }
        Ok(())
    }
}

/// A service that was found on one interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its name.
    pub instance: String,
    /// Its type.
    pub service_type: ServiceType,
    /// The host that it runs on: `name.local`.
    pub host: String,
    /// Where it listens.
    pub port: u16,
    /// The addresses of its host, at most [`ADDRS_MAX`](super::limits::ADDRS_MAX).
    pub addrs: Vec<IpAddr>,
    /// What it says about itself.
    pub txt: Txt,
    /// The index of the interface that it was found on: the scope of its link-local addresses.
    pub interface: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_types_are_checked_as_rfc_6335_says() {
        for good in [
            "_rats._tcp",
            "_a._udp",
            "_RATS._TCP.local",
            "_a-b9._tcp.local.",
            "_abcdefghijklmno._tcp",
        ] {
            assert!(good.parse::<ServiceType>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "rats._tcp",
            "_rats",
            "_rats._sctp",
            "_rats._tcp.example",
            "_abcdefghijklmnop._tcp",
            "_._tcp",
            "_-a._tcp",
            "_a-._tcp",
            "_a--b._tcp",
            "_12._tcp",
            "_a b._tcp",
        ] {
            assert_eq!(
                bad.parse::<ServiceType>(),
                Err(MdnsError::ServiceType),
                "{bad}"
            );
        }
        let parsed: ServiceType = "_rats._tcp.local.".parse().unwrap();
        assert_eq!(parsed.to_string(), "_rats._tcp");
        assert_eq!(parsed.name().to_string(), "_rats._tcp.local");
    }

    #[test]
    fn instances_have_text_of_1_to_63_bytes() {
        let kind: ServiceType = "_rats._tcp".parse().unwrap();
        assert!(kind.instance("Tom's. rat \\ ü").is_ok());
        assert!(kind.instance(&"x".repeat(63)).is_ok());
        for bad in ["", &"x".repeat(64), "a\u{7}b"] {
            assert_eq!(kind.instance(bad), Err(MdnsError::Instance));
        }
    }

    #[test]
    fn txt_entries_are_read_as_they_were_written() {
        let txt = Txt::new([
            ("id", Some(&b"7"[..])),
            ("flag", None),
            ("empty", Some(b"")),
        ])
        .unwrap();
        assert_eq!(txt.as_wire(), b"\x04id=7\x04flag\x06empty=");
        assert_eq!(
            txt.entries(),
            [
                ("id".to_owned(), Some(&b"7"[..])),
                ("flag".to_owned(), None),
                ("empty".to_owned(), Some(&b""[..]))
            ]
        );
        assert_eq!(txt.get("ID"), Some(&b"7"[..]));
        assert_eq!(txt.get("flag"), Some(&b""[..]));
        assert_eq!(txt.get("other"), None);
        assert_eq!(Txt::new([]).unwrap().as_wire(), [0]);
    }

    #[test]
    fn keys_that_are_missing_or_come_again_are_passed_over() {
        let txt = Txt::from_wire(b"\x02=x\x03a=1\x03A=2\x00\x05b=c=d");
        let entries = txt.entries();
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[0], ("a".to_owned(), Some(&b"1"[..])));
        assert_eq!(entries[1], ("b".to_owned(), Some(&b"c=d"[..])));
    }

    #[test]
    fn txt_records_that_cannot_be_are_refused() {
        for key in ["", "a=b", "a\nb", "ä"] {
            assert!(
                matches!(Txt::new([(key, None)]), Err(MdnsError::TxtKey { .. })),
                "{key:?}"
            );
        }
        let long = [b'x'; 254];
        assert!(Txt::new([("k", Some(&long[..253]))]).is_ok());
        let error = Txt::new([("k", Some(&long[..]))]).unwrap_err();
        assert!(matches!(error, MdnsError::TxtEntry { bytes: 256, .. }));
        let keys: Vec<String> = (0..6).map(|index| format!("k{index}")).collect();
        let many = keys.iter().map(|key| (key.as_str(), Some(&long[..252])));
        assert!(matches!(
            Txt::new(many),
            Err(MdnsError::TxtSize { bytes: 1536 })
        ));
    }
}
