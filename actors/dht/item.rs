//! Items of BEP 44: where they are stored, and who may change them. Hashes and signatures are over the value as it arrived.

use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use super::bencode::{self, Writer};
use super::node_id::NodeId;

/// The longest value, in its bencoded form.
pub const VALUE_BYTES_MAX: usize = 1000;

/// The longest salt.
pub const SALT_BYTES_MAX: usize = 64;

/// A mutable item's owner, sequence number and signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature {
    /// The owner's public key.
    pub key: [u8; 32],
    /// Greater for each change.
    pub seq: i64,
    /// Over salt, sequence number and value.
    pub signature: [u8; 64],
}

/// A value with all that proves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Bencoded, verbatim.
    pub value: Vec<u8>,
    /// `None` for an immutable item.
    pub signature: Option<Signature>,
}

/// Why a value cannot be put.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ItemError {
    /// Longer than [`VALUE_BYTES_MAX`] in its bencoded form.
    #[error("a value may have {VALUE_BYTES_MAX} bytes with its encoding")]
    ValueTooBig,
    /// Longer than [`SALT_BYTES_MAX`].
    #[error("a salt may have {SALT_BYTES_MAX} bytes")]
    SaltTooBig,
    /// The value is not bencoded.
    #[error("the value is not bencoded")]
    NotBencoded,
    /// Sequence numbers are not negative.
    #[error("a sequence number is not negative")]
    BadSequence,
}

/// Where an immutable item is stored.
pub fn immutable_target(value: &[u8]) -> NodeId {
    NodeId::sha1(&[value])
}

/// Where a mutable item is stored.
pub fn mutable_target(key: &[u8; 32], salt: &[u8]) -> NodeId {
    NodeId::sha1(&[key, salt])
}

/// A string as a value.
pub fn string_value(bytes: &[u8]) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.bytes(bytes);
    writer.finish()
}

/// Whether a value and a salt may be put.
pub fn check(value: &[u8], salt: &[u8]) -> Result<(), ItemError> {
    if value.len() > VALUE_BYTES_MAX {
        return Err(ItemError::ValueTooBig);
    }
    if salt.len() > SALT_BYTES_MAX {
        return Err(ItemError::SaltTooBig);
    }
    bencode::decode(value)
        .map(drop)
        .map_err(|_| ItemError::NotBencoded)
}

/// What is signed: the encoded salt if there is one, sequence number and value.
fn signed_bytes(salt: &[u8], seq: i64, value: &[u8]) -> Vec<u8> {
    let mut writer = Writer::new();
    if !salt.is_empty() {
        writer.bytes(b"salt").bytes(salt);
    }
    writer.bytes(b"seq").int(seq).bytes(b"v").raw(value);
    writer.finish()
}

/// Whether the owner of `key` has signed this.
pub fn is_signed(
    key: &[u8; 32],
    salt: &[u8],
    seq: i64,
    value: &[u8],
    signature: &[u8; 64],
) -> bool {
    UnparsedPublicKey::new(&ED25519, key)
        .verify(&signed_bytes(salt, seq, value), signature)
        .is_ok()
}

/// The key pair that changes a mutable item, from its seed of 32 bytes.
pub struct ItemKey(Ed25519KeyPair);

impl ItemKey {
    /// Any 32 bytes make a key pair.
    pub fn from_seed(seed: &[u8; 32]) -> ItemKey {
        ItemKey(Ed25519KeyPair::from_seed_unchecked(seed).expect("a seed has 32 bytes"))
    }

    /// The public key.
    pub fn public(&self) -> [u8; 32] {
        let key = self.0.public_key().as_ref();
        key.try_into().expect("a public key has 32 bytes")
    }

    /// Signs a value.
    pub fn sign(&self, salt: &[u8], seq: i64, value: &[u8]) -> Signature {
        let signature = self.0.sign(&signed_bytes(salt, seq, value));
        Signature {
            key: self.public(),
            seq,
            signature: signature
                .as_ref()
                .try_into()
                .expect("a signature has 64 bytes"),
        }
    }
}

impl std::fmt::Debug for ItemKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ItemKey")
    }
}
