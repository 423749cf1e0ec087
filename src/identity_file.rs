//! `identity.key`: the seed of the node's Ed25519 key pair, which is its identity.
//!
//! The file is 48 bytes, numbers big-endian:
//!
//! | offset | bytes | content |
//! |---|---|---|
//! | 0 | 8 | `MISCHIEF` in ASCII |
//! | 8 | 2 | version of this format: 1 |
//! | 10 | 2 | kind of key: 1 = Ed25519 seed (RFC 8032, §5.1.5) |
//! | 12 | 32 | the seed |
//! | 44 | 4 | CRC-32 (IEEE 802.3) of bytes 0 to 43 |
//!
//! The checksum is against damage, not against tampering: one flipped bit of the seed would otherwise be another, valid
//! identity, and the node would come back as a stranger.

use std::io;

use mischief_reactor::Random;
use mischief_reactor::io::driver::{Disk, OpenOptions};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::data_dir::{DataDir, join, read_file};

/// Its name in the data directory.
pub const IDENTITY_FILE: &str = "identity.key";

const MAGIC: &[u8; 8] = b"MISCHIEF";
const VERSION: u16 = 1;
const KIND_ED25519_SEED: u16 = 1;
const SEED_AT: usize = 12;
const CHECKSUM_AT: usize = SEED_AT + 32;
const FILE_SIZE: usize = CHECKSUM_AT + 4;

/// An Ed25519 seed. It is wiped from memory when it is dropped.
pub type Seed = Zeroizing<[u8; 32]>;

/// Why an identity cannot be read or written. The text says how to recover.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The content is not what was once written.
    #[error(
        "the identity {path} is damaged ({damage}): restore it from a backup, or move it away to start with a new \
         identity, which other peers will not know"
    )]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong with it.
        damage: Damage,
    },
    /// A later version of the program wrote it.
    #[error(
        "the identity {path} has format {version}, which this version does not know: use a newer mischief"
    )]
    TooNew {
        /// The file.
        path: String,
        /// The version that it claims.
        version: u16,
    },
    /// Others than its owner may read it.
    #[error(
        "the identity {0} can be read by other users: if nobody has copied it, make it private (chmod 600 {0}), else \
         move it away to start with a new one"
    )]
    NotPrivate(String),
    /// The system refused to read it.
    #[error("the identity {path} cannot be read: {source}")]
    Unreadable {
        /// The file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The system refused to write it.
    #[error("the identity {path} cannot be written: {source}")]
    Unwritable {
        /// The file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
}

/// How an identity file is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Damage {
    /// It has another length; the number counts at most one byte too many.
    #[error("it has {0} bytes instead of {FILE_SIZE}")]
    Length(usize),
    /// It is another kind of file.
    #[error("it is not an identity file")]
    Magic,
    /// The checksum does not fit the content.
    #[error("its checksum is wrong")]
    Checksum,
    /// The checksum fits, but the kind of key is unknown.
    #[error("it holds an unknown kind of key, {0}")]
    Kind(u16),
}

/// Reads the identity from a data directory, or creates one from `random` if there is none. Blocks on the disk.
pub fn load_or_create(directory: &DataDir, random: &mut dyn Random) -> Result<Seed, IdentityError> {
    if let Some(seed) = load(&**directory.disk(), directory.path())? {
        return Ok(seed);
    }
    let mut seed = Seed::default();
    random.fill(&mut *seed);
    directory
        .replace(IDENTITY_FILE, &*encode(&seed), true)
        .map_err(|source| IdentityError::Unwritable {
            path: directory.file(IDENTITY_FILE),
            source,
        })?;
    Ok(seed)
}

/// Reads the identity from the data directory at `directory`, without its lock; `None` if there is none. Blocks on the
/// disk.
pub fn load(disk: &dyn Disk, directory: &str) -> Result<Option<Seed>, IdentityError> {
    let path = join(directory, IDENTITY_FILE);
    let unreadable = |source| IdentityError::Unreadable {
        path: path.clone(),
        source,
    };
    let Some(bytes) = read_file(disk, &path, FILE_SIZE).map_err(unreadable)? else {
        return Ok(None);
    };
    let bytes = Zeroizing::new(bytes);
    let is_exposed = !disk.is_private(&path).map_err(unreadable)?;
    if is_exposed && can_be_private(disk, directory) {
        return Err(IdentityError::NotPrivate(path));
    }
    decode(&bytes, &path).map(Some)
}

/// Whether files in this directory can be kept from other users. File systems such as FAT know no owners: there a fresh
/// private file is as open as any other, and refusing the identity would only make the node unusable.
fn can_be_private(disk: &dyn Disk, directory: &str) -> bool {
    let path = join(directory, "private.probe");
    let options = OpenOptions {
        write: true,
        create: true,
        private: true,
        ..OpenOptions::default()
    };
    let is_private = disk
        .open(&path, options)
        .and_then(|_| disk.is_private(&path));
    // Where it was not created there is nothing to remove.
    let _ = disk.remove(&path);
    is_private.unwrap_or(true)
}

fn encode(seed: &Seed) -> Zeroizing<[u8; FILE_SIZE]> {
    let mut bytes = Zeroizing::new([0; FILE_SIZE]);
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..10].copy_from_slice(&VERSION.to_be_bytes());
    bytes[10..12].copy_from_slice(&KIND_ED25519_SEED.to_be_bytes());
    bytes[SEED_AT..CHECKSUM_AT].copy_from_slice(&**seed);
    let checksum = crc32(&bytes[..CHECKSUM_AT]);
    bytes[CHECKSUM_AT..].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

fn decode(bytes: &[u8], path: &str) -> Result<Seed, IdentityError> {
    let damaged = |damage| IdentityError::Damaged {
        path: path.to_owned(),
        damage,
    };
    if !bytes.starts_with(MAGIC) {
        // A file cut short is more likely than a foreign one.
        let is_cut = bytes.len() < MAGIC.len() && MAGIC.starts_with(bytes);
        return Err(damaged(if is_cut {
            Damage::Length(bytes.len())
        } else {
            Damage::Magic
        }));
    }
    let Ok(bytes) = <&[u8; FILE_SIZE]>::try_from(bytes) else {
        let version = bytes
            .get(8..10)
            .map_or(0, |field| u16::from_be_bytes([field[0], field[1]]));
        return Err(match version {
            // A later format may have another length.
            ..=VERSION => damaged(Damage::Length(bytes.len())),
            _ => IdentityError::TooNew {
                path: path.to_owned(),
                version,
            },
        });
    };
    let checksum = crc32(&bytes[..CHECKSUM_AT]).to_be_bytes();
    if bytes[CHECKSUM_AT..] != checksum {
        return Err(damaged(Damage::Checksum));
    }
    let version = u16::from_be_bytes([bytes[8], bytes[9]]);
    let kind = u16::from_be_bytes([bytes[10], bytes[11]]);
    match (version, kind) {
        (VERSION, KIND_ED25519_SEED) => {
            let mut seed = Seed::default();
            seed.copy_from_slice(&bytes[SEED_AT..CHECKSUM_AT]);
            Ok(seed)
        }
        (VERSION, _) => Err(damaged(Damage::Kind(kind))),
        _ => Err(IdentityError::TooNew {
            path: path.to_owned(),
            version,
        }),
    }
}

/// CRC-32 as in IEEE 802.3 and gzip (reflected polynomial 0xEDB88320), bit by bit: 44 bytes need no table.
fn crc32(bytes: &[u8]) -> u32 {
    let mut remainder = u32::MAX;
    for byte in bytes {
        remainder ^= u32::from(*byte);
        for _ in 0..8 {
            let is_odd = remainder & 1 == 1;
            remainder = (remainder >> 1) ^ if is_odd { 0xEDB8_8320 } else { 0 };
        }
    }
    !remainder
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::memory_disk::MemoryDisk;

    /// Random bytes that count up, so that a test knows them.
    struct Counting(u8);

    impl Random for Counting {
        fn fill(&mut self, bytes: &mut [u8]) {
            for byte in bytes {
                *byte = self.0;
                self.0 = self.0.wrapping_add(1);
            }
        }
    }

    fn open(disk: &Arc<MemoryDisk>) -> DataDir {
        DataDir::open(disk.clone(), "/data").expect("a free directory opens")
    }

    fn stored(content: &[u8]) -> Arc<MemoryDisk> {
        let disk = MemoryDisk::new();
        disk.put("/data/identity.key", content);
        disk.set_private("/data/identity.key", true);
        disk
    }

    fn valid() -> Vec<u8> {
        let mut seed = Seed::default();
        Counting(7).fill(&mut *seed);
        encode(&seed).to_vec()
    }

    #[test]
    fn the_checksum_is_the_known_one() {
        // The check value that every catalogue of checksums gives for CRC-32.
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }

    #[test]
    fn an_identity_is_created_once_private_and_in_the_documented_form() {
        let disk = MemoryDisk::new();
        let seed = load_or_create(&open(&disk), &mut Counting(7)).expect("one is created");
        let again = load_or_create(&open(&disk), &mut Counting(99)).expect("it is found again");
        assert_eq!(seed, again);
        assert!(
            disk.is_private("/data/identity.key")
                .expect("the file is there")
        );
        let bytes = read_file(&*disk, "/data/identity.key", 100)
            .expect("the disk works")
            .expect("it is there");
        assert_eq!(bytes, valid());
        assert_eq!(bytes[..12], *b"MISCHIEF\0\x01\0\x01");
        assert_eq!(bytes.len(), 48);
    }

    #[test]
    fn every_damage_is_refused_with_a_way_to_recover() {
        let valid = valid();
        let mut damaged: Vec<Vec<u8>> = (0..valid.len())
            .map(|len| valid[..len].to_owned())
            .collect();
        damaged.push([&valid[..], b"\n"].concat());
        damaged.push(vec![0; 48]);
        damaged.push(vec![0; 1 << 20]);
        for bit in 0..valid.len() * 8 {
            let mut flipped = valid.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            damaged.push(flipped);
        }
        for content in damaged {
            let disk = stored(&content);
            let error =
                load_or_create(&open(&disk), &mut Counting(0)).expect_err("damage is refused");
            assert!(matches!(&error, IdentityError::Damaged { .. }), "{error:?}");
            let text = error.to_string();
            assert!(
                text.contains("/data/identity.key") && text.contains("backup"),
                "{text}"
            );
            let kept = read_file(&*disk, "/data/identity.key", 1 << 21).expect("the disk works");
            assert_eq!(
                kept.as_deref(),
                Some(&content[..]),
                "a damaged identity is left as it is"
            );
        }
    }

    #[test]
    fn a_later_format_is_told_from_damage() {
        let mut later = valid();
        later[9] = 2;
        let checksum = crc32(&later[..CHECKSUM_AT]);
        later[CHECKSUM_AT..].copy_from_slice(&checksum.to_be_bytes());
        let longer = [&later[..], &[0; 32]].concat();
        for content in [later, longer] {
            let error = load(&*stored(&content), "/data").expect_err("it is not understood");
            assert!(
                matches!(error, IdentityError::TooNew { version: 2, .. }),
                "{error:?}"
            );
        }
    }

    #[test]
    fn an_identity_that_others_can_read_is_refused() {
        let disk = stored(&valid());
        disk.set_private("/data/identity.key", false);
        let error = load(&*disk, "/data").expect_err("it is exposed");
        assert!(matches!(&error, IdentityError::NotPrivate(_)), "{error:?}");
        assert!(
            error.to_string().contains("chmod 600 /data/identity.key"),
            "{error}"
        );
        assert_eq!(
            disk.list("/data").expect("the disk works"),
            ["identity.key"]
        );
    }

    #[test]
    fn a_disk_without_owners_is_accepted() {
        let disk = stored(&valid());
        disk.set_private("/data/identity.key", false);
        disk.know_no_owners();
        assert!(
            load(&*disk, "/data")
                .expect("there is no way to be private")
                .is_some()
        );
    }

    #[test]
    fn after_a_crash_at_any_operation_there_is_no_identity_or_a_whole_one() {
        for operations in 0.. {
            let disk = MemoryDisk::new();
            let directory = open(&disk);
            disk.crash_after(operations);
            let created = load_or_create(&directory, &mut Counting(7));
            drop(directory);
            disk.restart();
            let read = load(&*disk, "/data").expect("it is never damaged");
            if let Ok(created) = created {
                assert_eq!(read, Some(created), "an identity in use is durable");
                break;
            }
        }
    }

    #[test]
    fn an_identity_that_cannot_be_written_is_named() {
        let disk = MemoryDisk::new();
        let directory = open(&disk);
        disk.make_read_only();
        let error =
            load_or_create(&directory, &mut Counting(7)).expect_err("nothing can be written");
        assert!(
            error
                .to_string()
                .contains("/data/identity.key cannot be written"),
            "{error}"
        );
    }
}
