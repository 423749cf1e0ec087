//! The key file of a private network: 64 hexadecimal digits.

use std::fmt;
use std::io;

use mischief_reactor::io::driver::Disk;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::data_dir::read_file;

/// Longer than a key with its line end and blanks will ever be.
const FILE_SIZE_MAX: usize = 256;

/// The shared secret of a private network, 32 bytes. Nodes without it fail at the first message of the handshake. It is
/// wiped from memory when it is dropped, and never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct NetworkKey(Zeroizing<[u8; 32]>);

/// Why a network key file is refused. No text ever repeats a part of the content.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NetworkKeyError {
    /// The system refused to read it.
    #[error("the network key file {path} cannot be read: {source}")]
    Unreadable {
        /// The file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The content is no key.
    #[error(
        "the network key file {0} must hold 64 hexadecimal digits (make one with: openssl rand -hex 32)"
    )]
    Malformed(String),
}

impl NetworkKey {
    /// The key made of these bytes.
    pub fn new(bytes: [u8; 32]) -> NetworkKey {
        NetworkKey(Zeroizing::new(bytes))
    }

    /// Reads a key file: 64 hexadecimal digits of either case, blanks and line ends around them. Blocks on the disk.
    pub fn load(disk: &dyn Disk, path: &str) -> Result<NetworkKey, NetworkKeyError> {
        let unreadable = |source| NetworkKeyError::Unreadable {
            path: path.to_owned(),
            source,
        };
        let content = read_file(disk, path, FILE_SIZE_MAX).map_err(unreadable)?;
        let content = content.ok_or_else(|| unreadable(io::ErrorKind::NotFound.into()))?;
        let content = Zeroizing::new(content);
        decode(content.trim_ascii()).ok_or_else(|| NetworkKeyError::Malformed(path.to_owned()))
    }

    /// The key's bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for NetworkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NetworkKey([redacted])")
    }
}

fn decode(digits: &[u8]) -> Option<NetworkKey> {
    let mut key = Zeroizing::new([0; 32]);
    if digits.len() != 2 * key.len() {
        return None;
    }
    for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = (high << 4 | low) as u8;
    }
    Some(NetworkKey(key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory_disk::MemoryDisk;

    fn load(content: &[u8]) -> Result<NetworkKey, NetworkKeyError> {
        let disk = MemoryDisk::new();
        disk.put("/key", content);
        NetworkKey::load(&*disk, "/key")
    }

    #[test]
    fn a_key_of_64_digits_is_read() {
        let digits = "00010203040506070809aAbBcCdDeEfF".to_owned() + &"9f".repeat(16);
        for content in [
            digits.clone(),
            format!("{digits}\n"),
            format!(" \t{digits}\r\n\n"),
        ] {
            let key = load(content.as_bytes()).expect("it is a key");
            assert_eq!(key.as_bytes()[..5], [0, 1, 2, 3, 4]);
            assert_eq!(
                key.as_bytes()[10..17],
                [0xAA, 0xBB, 0xCC, 0xDD, 0xEE, 0xFF, 0x9F]
            );
            assert_eq!(format!("{key:?}"), "NetworkKey([redacted])");
        }
    }

    #[test]
    fn anything_else_is_refused_without_repeating_it() {
        let secret = "5ec2e7";
        let almost = secret.repeat(11)[..63].to_owned();
        for content in [
            String::new(),
            almost.clone(),
            format!("{almost}00"),
            format!("{almost}g"),
            format!("{}+1", &almost[..62]),
            format!("0x{}", &almost[..62]),
            format!("{} {}", &almost[..32], &almost[..32]),
            secret.repeat(100_000),
        ] {
            let error = load(content.as_bytes()).expect_err("it is no key");
            let text = format!("{error} {error:?}");
            assert!(
                text.contains("64 hexadecimal digits") && text.contains("/key"),
                "{text}"
            );
            assert!(!text.contains(secret), "{text}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = NetworkKey::load(&*MemoryDisk::new(), "/nowhere").expect_err("there is none");
        assert!(
            error.to_string().contains("/nowhere cannot be read"),
            "{error}"
        );
    }
}
