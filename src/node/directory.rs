//! The connected peers, for the threads outside of the cores.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;

use mischief_actors::connection::Link;
use mischief_actors::identity::{PeerId, PeerIdPrefix};
use parking_lot::RwLock;

use super::error::FindError;

/// One pointer for each peer, found by the id that stands behind it.
pub(crate) struct Directory(RwLock<HashSet<ByPeer, Seed>>);

impl Directory {
    pub(crate) fn new(seed: [u64; 2]) -> Directory {
        Directory(RwLock::new(HashSet::with_hasher(Seed(seed))))
    }

    /// Makes `link` the way to its peer. `true`: there was none before.
    pub(crate) fn insert(&self, link: &Arc<Link>) -> bool {
        self.0.write().replace(ByPeer(link.clone())).is_none()
    }

    /// `true` if `link` was the way to its peer, which it is no more.
    pub(crate) fn remove(&self, link: &Arc<Link>) -> bool {
        let mut links = self.0.write();
        let is_current = links
            .get(link.peer())
            .is_some_and(|ByPeer(current)| Arc::ptr_eq(current, link));
        if is_current {
            links.remove(link.peer());
            if links.len() * 4 < links.capacity() {
                links.shrink_to_fit();
            }
        }
        is_current
    }

    pub(crate) fn get(&self, peer: &PeerId) -> Option<Arc<Link>> {
        self.0.read().get(peer).map(|ByPeer(link)| link.clone())
    }

    pub(crate) fn contains(&self, peer: &PeerId) -> bool {
        self.0.read().contains(peer)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.read().len()
    }

    /// All of them. Their order depends on the seed and on what happened before, and on nothing else.
    pub(crate) fn links(&self) -> Vec<Arc<Link>> {
        self.0
            .read()
            .iter()
            .map(|ByPeer(link)| link.clone())
            .collect()
    }

    /// The only peer whose id begins so.
    pub(crate) fn find(&self, prefix: &PeerIdPrefix) -> Result<PeerId, FindError> {
        let links = self.0.read();
        let mut matching = links
            .iter()
            .map(|ByPeer(link)| *link.peer())
            .filter(|peer| prefix.matches(peer));
        match (matching.next(), matching.count()) {
            (None, _) => Err(FindError::None),
            (Some(peer), 0) => Ok(peer),
            (Some(_), others) => Err(FindError::Several(1 + others)),
        }
    }
}

struct ByPeer(Arc<Link>);

impl Borrow<PeerId> for ByPeer {
    fn borrow(&self) -> &PeerId {
        self.0.peer()
    }
}

impl PartialEq for ByPeer {
    fn eq(&self, other: &ByPeer) -> bool {
        self.0.peer() == other.0.peer()
    }
}

impl Eq for ByPeer {}

impl Hash for ByPeer {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.peer().hash(state);
    }
}

/// Peers choose their ids, so where they fall must depend on a secret; and it must not differ from run to run of a
/// simulation, so the secret is handed in.
#[derive(Clone)]
struct Seed([u64; 2]);

impl BuildHasher for Seed {
    type Hasher = Folding;

    fn build_hasher(&self) -> Folding {
        Folding {
            state: self.0[0],
            key: self.0[1] | 1,
        }
    }
}

/// Multiplies each eight bytes, mixed with the secret, and folds the halves of the product.
struct Folding {
    state: u64,
    key: u64,
}

impl Folding {
    fn fold(&mut self, word: u64) {
        let product = u128::from(self.state ^ word) * u128::from(self.key ^ word.rotate_left(32));
        self.state = (product as u64) ^ ((product >> 64) as u64) ^ self.key;
    }
}

impl Hasher for Folding {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.fold(u64::from_le_bytes(word));
        }
    }

    fn write_usize(&mut self, _: usize) {
        // The length that a slice puts in front of itself: all ids have the same.
    }

    fn finish(&self) -> u64 {
        self.state.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}
