//! The routing table as bytes, so that the next start needs nobody's help.
//!
//! A bencoded dictionary: `id` and `id6`, our ids; `nodes` and `nodes6`, compact nodes; `version`, 1.

use super::address::{Contact, Family, read_nodes, write_node};
use super::bencode::{self, Value, Writer};
use super::error::SavedError;
use super::node_id::NodeId;

/// Nodes of each family that are saved.
pub const SAVED_NODES_MAX: usize = 128;

/// The longest file that is read.
pub const SAVED_BYTES_MAX: usize = 64 << 10;

const VERSION: i64 = 1;

/// What is kept from one start to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// Our ids, by family. They are used again only if they fit the address that we then have.
    pub ids: [Option<NodeId>; 2],
    /// Nodes that were good.
    pub nodes: [Vec<Contact>; 2],
}

impl Saved {
    /// Writes it.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.dict();
        for (key, id) in [&b"id"[..], b"id6"].into_iter().zip(&self.ids) {
            if let Some(id) = id {
                writer.bytes(key).bytes(&id.0);
            }
        }
        for (key, nodes) in [&b"nodes"[..], b"nodes6"].into_iter().zip(&self.nodes) {
            let mut compact = Vec::new();
            for node in nodes.iter().take(SAVED_NODES_MAX) {
                write_node(node, &mut compact);
            }
            writer.bytes(key).bytes(&compact);
        }
        writer.bytes(b"version").int(VERSION).end();
        writer.finish()
    }

    /// Reads it.
    pub fn decode(bytes: &[u8]) -> Result<Saved, SavedError> {
        let root = bencode::decode(bytes).map_err(|_| SavedError::Damaged)?;
        match root.get(b"version").and_then(Value::int) {
            Some(VERSION) => {}
            Some(later) if later > VERSION => return Err(SavedError::Version),
            _ => return Err(SavedError::Damaged),
        }
        let id = |key: &[u8]| root.get(key).and_then(Value::array).map(|id| NodeId(*id));
        let nodes = |key: &[u8], family: Family| {
            let compact = root
                .get(key)
                .and_then(Value::bytes)
                .ok_or(SavedError::Damaged)?;
            if compact.len() % family.node_bytes() != 0 {
                return Err(SavedError::Damaged);
            }
            Ok(read_nodes(compact, family).take(SAVED_NODES_MAX).collect())
        };
        Ok(Saved {
            ids: [id(b"id"), id(b"id6")],
            nodes: [nodes(b"nodes", Family::V4)?, nodes(b"nodes6", Family::V6)?],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_read_again() {
        let node = |last: u8, addr: &str| Contact {
            id: NodeId([last; 20]),
            addr: addr.parse().expect("an address"),
        };
        let saved = Saved {
            ids: [Some(NodeId([1; 20])), None],
            nodes: [
                vec![node(2, "192.0.2.1:1"), node(3, "192.0.2.2:2")],
                vec![node(4, "[2001:db8::1]:3")],
            ],
        };
        assert_eq!(Saved::decode(&saved.encode()), Ok(saved.clone()));
        let many = Saved {
            nodes: [vec![node(2, "192.0.2.1:1"); 1000], Vec::new()],
            ..saved
        };
        let bytes = many.encode();
        assert!(bytes.len() < SAVED_BYTES_MAX);
        assert_eq!(
            Saved::decode(&bytes).expect("well formed").nodes[0].len(),
            SAVED_NODES_MAX
        );
    }

    #[test]
    fn what_is_damaged_is_refused() {
        let bytes = Saved::default().encode();
        for end in 0..bytes.len() {
            assert_eq!(Saved::decode(&bytes[..end]), Err(SavedError::Damaged));
        }
        assert_eq!(
            Saved::decode(b"d5:nodes1:x6:nodes60:7:versioni1ee"),
            Err(SavedError::Damaged)
        );
        assert_eq!(
            Saved::decode(b"d5:nodes0:6:nodes60:7:versioni2ee"),
            Err(SavedError::Version)
        );
    }
}
