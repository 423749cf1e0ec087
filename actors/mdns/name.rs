//! Domain names as labels of bytes. Two names are equal if they differ in the case of ASCII letters alone (RFC 6762 §16).

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use super::error::NameError;

/// The longest label in bytes (RFC 1035 §2.3.4).
pub const LABEL_BYTES_MAX: usize = 63;
/// The longest name on the wire in bytes, with the lengths of its labels and the root (RFC 1035 §2.3.4).
pub const NAME_BYTES_MAX: usize = 255;

/// A domain name, as it is on the wire without compression: labels with their lengths before them, and the root.
#[derive(Clone)]
pub struct Name(Arc<[u8]>);

impl Name {
    /// The name of these labels, the most specific one first.
    pub fn from_labels<'a>(labels: impl IntoIterator<Item = &'a [u8]>) -> Result<Name, NameError> {
        let mut wire = Vec::with_capacity(64);
        for label in labels {
            if label.is_empty() || label.len() > LABEL_BYTES_MAX {
                return Err(NameError::Label { bytes: label.len() });
            }
            wire.push(label.len() as u8);
            wire.extend_from_slice(label);
        }
        wire.push(0);
        if wire.len() > NAME_BYTES_MAX {
            return Err(NameError::TooLong { bytes: wire.len() });
        }
        Ok(Name(wire.into()))
    }

    /// The name of a text with dots between labels and no escapes. For texts of our own.
    pub(crate) fn plain(text: &str) -> Result<Name, NameError> {
        Name::from_labels(text.split('.').map(str::as_bytes))
    }

    /// This name with one more label before it.
    pub(crate) fn child(&self, label: &[u8]) -> Result<Name, NameError> {
        Name::from_labels(std::iter::once(label).chain(self.labels()))
    }

    /// The name without its first label; `None` for the root.
    pub fn parent(&self) -> Option<Name> {
        let first = usize::from(self.0[0]);
        (first > 0).then(|| Name(self.0[first + 1..].into()))
    }

    /// The labels, the most specific one first, without the root.
    pub fn labels(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.0[..];
        std::iter::from_fn(move || {
            let (len, tail) = rest.split_first()?;
            if *len == 0 {
                return None;
            }
            let (label, tail) = tail.split_at(usize::from(*len));
            rest = tail;
            Some(label)
        })
    }

    /// The first label as text. Bytes that are no UTF-8 are replaced.
    pub fn first_label(&self) -> String {
        let label = self.labels().next().unwrap_or_default();
        String::from_utf8_lossy(label).into_owned()
    }

    /// Whether the last label is `local` (RFC 6762 §3).
    pub fn is_local(&self) -> bool {
        let last = self.labels().last();
        last.is_some_and(|label| label.eq_ignore_ascii_case(b"local"))
    }

    /// The name on the wire, without compression.
    pub fn as_wire(&self) -> &[u8] {
        &self.0
    }

    /// The labels with dots between them and nothing escaped, as host names are written: `name.local`.
    pub fn to_host_text(&self) -> String {
        let labels: Vec<_> = self.labels().map(String::from_utf8_lossy).collect();
        labels.join(".")
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Name) -> bool {
        // A length is at most 63 and so never taken for a letter.
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Eq for Name {}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Name) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Name) -> Ordering {
        let lower = |byte: &u8| byte.to_ascii_lowercase();
        self.0.iter().map(lower).cmp(other.0.iter().map(lower))
    }
}

/// Dots and backslashes within labels are escaped with a backslash (RFC 6763 §4.3), bytes that no terminal shows by their
/// decimal number.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, label) in self.labels().enumerate() {
            if index > 0 {
                f.write_str(".")?;
            }
            for character in String::from_utf8_lossy(label).chars() {
                match character {
                    '.' | '\\' => write!(f, "\\{character}")?,
                    control if control.is_control() => write!(f, "\\{:03}", control as u32)?,
                    character => write!(f, "{character}")?,
                }
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The next name to try after a conflict (RFC 6762 §9): `Name` becomes `Name (2)` and that `Name (3)`; with `is_host`
/// `name` becomes `name-2`. The result is a label of at most 63 bytes.
pub(crate) fn renamed(label: &str, is_host: bool) -> String {
    let (open, close) = if is_host { ("-", "") } else { (" (", ")") };
    let split = label
        .strip_suffix(close)
        .and_then(|text| text.rsplit_once(open))
        .and_then(|(base, number)| Some((base, number.parse::<u32>().ok()?)));
    let (base, number) = match split {
        Some((base, number)) if !base.is_empty() && number >= 2 => (base, number.saturating_add(1)),
        _ => (label, 2),
    };
    let tail = format!("{open}{number}{close}");
    let mut end = base.len().min(LABEL_BYTES_MAX - tail.len());
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{tail}", &base[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_differ_in_more_than_the_case_of_letters() {
        let name = |text| Name::plain(text).unwrap();
        assert_eq!(name("A.local"), name("a.LOCAL"));
        assert_eq!(name("A.local").cmp(&name("a.LOCAL")), Ordering::Equal);
        assert_ne!(name("a.local"), name("b.local"));
        assert_ne!(name("ab.local"), name("a.b.local"));
        // Only ASCII letters have a case (RFC 6762 §16).
        assert_ne!(name("ä.local"), name("Ä.local"));
    }

    #[test]
    fn dots_and_backslashes_of_labels_are_escaped_in_text_alone() {
        let name = Name::from_labels([&b"My. \\x"[..], b"_rats", b"_tcp", b"local"]).unwrap();
        assert_eq!(name.to_string(), r"My\. \\x._rats._tcp.local");
        assert_eq!(name.labels().count(), 4);
        assert_eq!(name.first_label(), r"My. \x");
        assert_eq!(name.parent().unwrap().to_string(), "_rats._tcp.local");
        assert!(name.is_local());
    }

    #[test]
    fn labels_and_names_have_their_lengths() {
        assert!(Name::from_labels([&[b'a'; 63][..]]).is_ok());
        assert!(Name::from_labels([&[b'a'; 64][..]]).is_err());
        assert!(Name::from_labels([&b""[..]]).is_err());
        assert!(Name::from_labels([&[b'a'; 63][..]; 3]).is_ok());
        assert!(
            Name::from_labels([&[b'a'; 63][..]; 4]).is_err(),
            "257 bytes"
        );
        assert!(Name::from_labels([]).unwrap().parent().is_none());
    }

    #[test]
    fn a_name_that_is_taken_gets_a_number() {
        assert_eq!(renamed("Attic", false), "Attic (2)");
        assert_eq!(renamed("Attic (2)", false), "Attic (3)");
        assert_eq!(renamed("Attic (x)", false), "Attic (x) (2)");
        assert_eq!(renamed("attic", true), "attic-2");
        assert_eq!(renamed("attic-9", true), "attic-10");
        assert_eq!(renamed("a-b", true), "a-b-2");
        let long = renamed(&"é".repeat(31), false);
        assert_eq!(long.len(), 62);
        assert!(long.ends_with("é (2)"), "{long}");
        assert_eq!(renamed(&long, false).len(), 62);
    }
}
