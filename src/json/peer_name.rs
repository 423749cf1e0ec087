//! How a command names a peer: its whole id, or the first characters of it.

/// Characters of a whole id in base32: 32 bytes, 5 bits a character.
const PEER_ID_LEN: usize = 52;

/// A peer id or the beginning of one, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerName(String);

/// What a [`PeerName`] stands for among some peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolved<T> {
    /// Exactly this one.
    One(T),
    /// None of them.
    None,
    /// So many of them, at least two.
    Several(usize),
}

impl PeerName {
    /// The name in `text`; `None` if no peer id begins like that. Upper case is accepted.
    pub fn parse(text: &str) -> Option<PeerName> {
        let is_base32 = |c: char| c.is_ascii_alphabetic() || ('2'..='7').contains(&c);
        let is_name = (1..=PEER_ID_LEN).contains(&text.len()) && text.chars().all(is_base32);
        is_name.then(|| PeerName(text.to_ascii_lowercase()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Picks the peer that is meant among pairs of a peer and its whole id.
    pub fn resolve<T>(&self, peers: impl IntoIterator<Item = (T, impl AsRef<str>)>) -> Resolved<T> {
        let mut matching = peers
            .into_iter()
            .filter(|(_, id)| id.as_ref().starts_with(&self.0));
        match (matching.next(), matching.count()) {
            (None, _) => Resolved::None,
            (Some((peer, _)), 0) => Resolved::One(peer),
            (Some(_), others) => Resolved::Several(1 + others),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_beginnings_of_ids_are_names() {
        for text in ["a", "ABC234", &"z".repeat(52)] {
            assert_eq!(
                PeerName::parse(text).expect("it is a name").as_str(),
                text.to_lowercase()
            );
        }
        for text in ["", "a1", "a8", "a b", "a-b", "ä", "a\0", &"z".repeat(53)] {
            assert_eq!(PeerName::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_name_resolves_only_if_it_is_unique() {
        let peers = [(1, "abcd"), (2, "abce"), (3, "xyz")];
        let resolve = |text| PeerName::parse(text).expect("it is a name").resolve(peers);
        assert_eq!(resolve("x"), Resolved::One(3));
        assert_eq!(resolve("ABCE"), Resolved::One(2));
        assert_eq!(resolve("abc"), Resolved::Several(2));
        assert_eq!(resolve("abcde"), Resolved::None);
    }
}
