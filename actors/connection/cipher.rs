//! The transport ciphers: one key and one counter for each direction, 40 bytes in all.
//!
//! A key is kept as its 32 bytes and expanded for each frame. That costs some 24 ns for a frame of up to 64 KiB and
//! saves 0.5 KiB for each direction of each idle connection.

use mischief_reactor::sabotage::{self, Mutation};
use ring::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf;
use zeroize::{Zeroize, Zeroizing};

use super::noise::{HASH_BYTES, Role};

/// Bytes of a transport key.
pub const KEY_BYTES: usize = 32;
/// Bytes that a cipher adds to a plaintext.
pub const TAG_BYTES: usize = 16;

/// HKDF's `info` for the AES keys; the direction follows.
const AES_LABEL: &[u8] = b"mischief 1 AES-256-GCM ";

/// How transport frames are protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Suite {
    /// ChaCha20-Poly1305 (RFC 8439) with the keys of the Noise split. Every node has it.
    ChaChaPoly,
    /// AES-256-GCM (NIST SP 800-38D) with keys derived from the split; used when both sides have it in hardware.
    Aes256Gcm,
    /// Frames in clear **without integrity**, for laboratories.
    #[cfg(feature = "lab-plaintext")]
    Plaintext,
}

impl Suite {
    /// The number on the wire.
    pub const fn number(self) -> u8 {
        match self {
            Suite::ChaChaPoly => 1,
            Suite::Aes256Gcm => 2,
            #[cfg(feature = "lab-plaintext")]
            Suite::Plaintext => 255,
        }
    }

    /// The suite with a number, `None` if this build has no such suite.
    pub const fn from_number(number: u8) -> Option<Suite> {
        match number {
            1 => Some(Suite::ChaChaPoly),
            2 => Some(Suite::Aes256Gcm),
            #[cfg(feature = "lab-plaintext")]
            255 => Some(Suite::Plaintext),
            _ => None,
        }
    }

    /// The name shown to people and in events.
    pub const fn name(self) -> &'static str {
        match self {
            Suite::ChaChaPoly => "chacha20-poly1305",
            Suite::Aes256Gcm => "aes-256-gcm",
            #[cfg(feature = "lab-plaintext")]
            Suite::Plaintext => "none",
        }
    }

    /// Bytes that sealing adds to a frame.
    pub const fn tag_bytes(self) -> usize {
        match self {
            Suite::ChaChaPoly | Suite::Aes256Gcm => TAG_BYTES,
            #[cfg(feature = "lab-plaintext")]
            Suite::Plaintext => 0,
        }
    }

    fn expanded(self, key: &[u8; KEY_BYTES]) -> Option<LessSafeKey> {
        let algorithm = match self {
            Suite::ChaChaPoly => &CHACHA20_POLY1305,
            Suite::Aes256Gcm => &AES_256_GCM,
            #[cfg(feature = "lab-plaintext")]
            Suite::Plaintext => return None,
        };
        let key = UnboundKey::new(algorithm, key).expect("both ciphers have keys of 32 bytes");
        Some(LessSafeKey::new(key))
    }

    fn nonce(self, n: u64) -> Nonce {
        match self {
            Suite::Aes256Gcm => AesNonce(n).into(),
            _ => ChaChaNonce(n).into(),
        }
    }
}

/// Noise §12.3: 32 zero bits, then the counter, little-endian.
pub(crate) struct ChaChaNonce(pub(crate) u64);

impl From<ChaChaNonce> for Nonce {
    fn from(nonce: ChaChaNonce) -> Nonce {
        let mut bytes = [0; 12];
        bytes[4..].copy_from_slice(&nonce.0.to_le_bytes());
        Nonce::assume_unique_for_key(bytes)
    }
}

/// Noise §12.4: 32 zero bits, then the counter, big-endian.
struct AesNonce(u64);

impl From<AesNonce> for Nonce {
    fn from(nonce: AesNonce) -> Nonce {
        let mut bytes = [0; 12];
        bytes[4..].copy_from_slice(&nonce.0.to_be_bytes());
        Nonce::assume_unique_for_key(bytes)
    }
}

/// Why a frame could not be sealed or opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CipherError {
    /// The counter has reached its end.
    Exhausted,
    /// Shorter than a tag, or its authentication failed.
    Rejected,
}

/// Noise's CipherState of one direction. Wiped when dropped.
pub(crate) struct CipherState {
    key: [u8; KEY_BYTES],
    n: u64,
}

impl CipherState {
    pub(crate) fn new(key: &[u8; KEY_BYTES]) -> CipherState {
        CipherState { key: *key, n: 0 }
    }

    /// Frames sealed or opened since the beginning.
    pub(crate) fn count(&self) -> u64 {
        self.n
    }

    /// Seals `bytes[start..]` in place and appends the tag.
    pub(crate) fn seal(
        &mut self,
        suite: Suite,
        bytes: &mut Vec<u8>,
        start: usize,
    ) -> Result<(), CipherError> {
        let nonce = self.nonce(suite)?;
        sabotage::note_nonce(&self.key, self.n);
        if let Some(key) = suite.expanded(&self.key) {
            let tag = key
                .seal_in_place_separate_tag(nonce, Aad::empty(), &mut bytes[start..])
                .expect("a frame is far below the cipher's limit");
            bytes.extend_from_slice(tag.as_ref());
        }
        self.n += 1;
        Ok(())
    }

    /// Opens a frame in place and returns its plaintext.
    ///
    /// Noise §5.1: a failure leaves the counter alone. What `bytes` hold afterwards is worthless.
    pub(crate) fn open<'a>(
        &mut self,
        suite: Suite,
        bytes: &'a mut [u8],
    ) -> Result<&'a mut [u8], CipherError> {
        let nonce = self.nonce(suite)?;
        let plaintext = match suite.expanded(&self.key) {
            Some(key) => key
                .open_in_place(nonce, Aad::empty(), bytes)
                .map_err(|_| CipherError::Rejected)?,
            None => bytes,
        };
        self.n += 1;
        Ok(plaintext)
    }

    /// Noise §4.2, REKEY: the first 32 bytes of zeros sealed with the reserved nonce. The counter goes on.
    pub(crate) fn rekey(&mut self, suite: Suite) {
        if sabotage::is_on(Mutation::ReuseNonce) {
            self.n = 0;
            return;
        }
        let Some(key) = suite.expanded(&self.key) else {
            return;
        };
        let mut next = Zeroizing::new([0; KEY_BYTES]);
        let _tag = key
            .seal_in_place_separate_tag(suite.nonce(u64::MAX), Aad::empty(), &mut *next)
            .expect("a key is far below the cipher's limit");
        self.key = *next;
    }

    /// Noise §5.1: 2^64 - 1 is kept for REKEY.
    fn nonce(&self, suite: Suite) -> Result<Nonce, CipherError> {
        if self.n == u64::MAX {
            return Err(CipherError::Exhausted);
        }
        Ok(suite.nonce(self.n))
    }

    #[cfg(test)]
    pub(crate) fn set_count(&mut self, n: u64) {
        self.n = n;
    }
}

impl Drop for CipherState {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

/// The key of one direction under `suite`, from its key of the Noise split.
pub(crate) fn transport_key(
    suite: Suite,
    split: &[u8; KEY_BYTES],
    sender: Role,
    handshake_hash: &[u8; HASH_BYTES],
) -> Zeroizing<[u8; KEY_BYTES]> {
    let mut key = Zeroizing::new(*split);
    if suite == Suite::Aes256Gcm {
        // RFC 5869. A key never serves two ciphers.
        let direction: &[u8] = match sender {
            Role::Dialler => b"dialler",
            Role::Responder => b"responder",
        };
        hkdf::Salt::new(hkdf::HKDF_SHA256, handshake_hash)
            .extract(split)
            .expand(&[AES_LABEL, direction], hkdf::HKDF_SHA256)
            .and_then(|okm| okm.fill(&mut *key))
            .expect("32 bytes are what HKDF-SHA256 gives in its first block");
    }
    key
}

#[cfg(test)]
mod tests {
    use super::super::tests::{hex, unhex};
    use super::*;

    fn pair(suite: Suite) -> (CipherState, CipherState) {
        let key = transport_key(suite, &[7; 32], Role::Dialler, &[8; 32]);
        (CipherState::new(&key), CipherState::new(&key))
    }

    #[test]
    fn what_one_side_seals_the_other_opens() {
        for suite in [Suite::ChaChaPoly, Suite::Aes256Gcm] {
            let (mut a, mut b) = pair(suite);
            for length in [0, 1, 15, 16, 17, 1000, 65519] {
                let mut bytes = vec![0x5a; length + 3];
                a.seal(suite, &mut bytes, 3).unwrap();
                assert_eq!(bytes.len(), 3 + length + TAG_BYTES);
                let opened = b.open(suite, &mut bytes[3..]).unwrap();
                assert!(opened.iter().all(|&byte| byte == 0x5a) && opened.len() == length);
            }
        }
    }

    #[test]
    fn a_forged_frame_does_not_put_the_counters_out_of_step() {
        let suite = Suite::ChaChaPoly;
        let (mut a, mut b) = pair(suite);
        let mut frame = b"one".to_vec();
        a.seal(suite, &mut frame, 0).unwrap();
        let mut forged = frame.clone();
        forged[0] ^= 1;
        assert_eq!(b.open(suite, &mut forged), Err(CipherError::Rejected));
        for short in 0..TAG_BYTES {
            let mut forged = vec![0; short];
            assert_eq!(b.open(suite, &mut forged), Err(CipherError::Rejected));
        }
        assert_eq!(b.open(suite, &mut frame).unwrap(), b"one");
        assert_eq!((a.count(), b.count()), (1, 1));
    }

    #[test]
    fn the_counter_ends_before_the_reserved_nonce() {
        for suite in [Suite::ChaChaPoly, Suite::Aes256Gcm] {
            let (mut a, mut b) = pair(suite);
            a.set_count(u64::MAX - 1);
            b.set_count(u64::MAX - 1);
            let mut frame = b"last".to_vec();
            a.seal(suite, &mut frame, 0).unwrap();
            assert_eq!(b.open(suite, &mut frame).unwrap(), b"last");
            let mut frame = vec![0; 20];
            assert_eq!(a.seal(suite, &mut frame, 0), Err(CipherError::Exhausted));
            assert_eq!(frame, [0; 20]);
            assert_eq!(b.open(suite, &mut frame), Err(CipherError::Exhausted));
        }
    }

    /// RFC 8439 §2.8.2 has no nonce of Noise's shape, so the counter that gives it is zero and the rest is by hand.
    #[test]
    fn nonces_are_laid_out_as_noise_says() {
        let nonce: Nonce = ChaChaNonce(0x0102_0304_0506_0708).into();
        assert_eq!(hex(nonce.as_ref()), "000000000807060504030201");
        let nonce: Nonce = AesNonce(0x0102_0304_0506_0708).into();
        assert_eq!(hex(nonce.as_ref()), "000000000102030405060708");
    }

    /// The expected keys come from Python's `cryptography` package.
    #[test]
    fn rekeying_and_derivation_agree_with_another_implementation() {
        let key = transport_key(Suite::Aes256Gcm, &[7; 32], Role::Dialler, &[8; 32]);
        assert_eq!(
            hex(&*key),
            "cf34eb01636cc3910c945eef3e43a423a3ff7779c4f0c6d09517e6f87c84e7b6"
        );
        let key = transport_key(Suite::Aes256Gcm, &[7; 32], Role::Responder, &[8; 32]);
        assert_eq!(
            hex(&*key),
            "100e6d8eb9c540866cabe98239c96bf9ed5c687f5193509354ed4ce65ba53419"
        );
        for (suite, want) in [
            (
                Suite::ChaChaPoly,
                "6680fd904a4d469c95ec1d2ff2a2d784a7780280208935e7c15a07cdfdf8075d",
            ),
            (
                Suite::Aes256Gcm,
                "f590782fc76a17d3847d154b6418cbf8a061f73ed7fd25db47b2e9b0cfb4b7c3",
            ),
        ] {
            let mut state = CipherState::new(&[7; 32]);
            state.set_count(5);
            state.rekey(suite);
            assert_eq!(state.key.to_vec(), unhex(want));
            assert_eq!(state.count(), 5);
        }
    }
}
