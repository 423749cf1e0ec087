//! Frames: a length of two bytes, big-endian, and one Noise message.

use mischief_reactor::Instant;

use super::cipher::Suite;
use super::error::Fault;
use super::record::RECORD_BYTES_MAX;

/// Bytes of a frame's length.
pub const FRAME_HEADER_BYTES: usize = 2;
/// Plaintext that a frame is filled up to. Longer ones are taken, up to what a length can say.
pub const FRAME_PLAINTEXT_TARGET: usize = RECORD_BYTES_MAX;
/// The longest frame that is sent: header, plaintext, a REKEY record and the tag.
pub const FRAME_BYTES_MAX: usize = FRAME_HEADER_BYTES + FRAME_PLAINTEXT_TARGET + 64 + 16;
/// A frame that has begun has to grow by this much in each
/// [`ConnectionTiming::progress`](super::ConnectionTiming::progress).
pub(crate) const PROGRESS_BYTES: usize = 1024;

/// The length of a whole frame from its header.
#[inline]
pub(crate) fn frame_bytes(header: [u8; 2], suite: Suite) -> Result<usize, Fault> {
    let length = usize::from(u16::from_be_bytes(header));
    if length < suite.tag_bytes() {
        return Err(Fault::FrameLength(length));
    }
    Ok(FRAME_HEADER_BYTES + length)
}

/// A frame of which a part has come. Its memory follows what has come, not what the length claims.
#[derive(Default)]
pub(crate) struct Partial {
    bytes: Vec<u8>,
    checked_at: Instant,
    checked_bytes: usize,
}

impl Partial {
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        self.bytes.capacity()
    }

    /// Keeps the beginning of a frame.
    pub(crate) fn begin(&mut self, now: Instant, bytes: &[u8]) {
        self.bytes.clear();
        self.bytes.extend_from_slice(bytes);
        self.checked_at = now;
        self.checked_bytes = 0;
    }

    /// Takes what the frame still needs from the front of `input`. `true` when it is whole.
    pub(crate) fn fill(&mut self, input: &mut &mut [u8], suite: Suite) -> Result<bool, Fault> {
        if self.bytes.len() < FRAME_HEADER_BYTES {
            self.take(input, FRAME_HEADER_BYTES);
        }
        let Some(&header) = self.bytes.first_chunk() else {
            return Ok(false);
        };
        let whole = frame_bytes(header, suite)?;
        self.take(input, whole);
        Ok(self.bytes.len() == whole)
    }

    fn take(&mut self, input: &mut &mut [u8], until: usize) {
        let missing = (until - self.bytes.len()).min(input.len());
        let (taken, rest) = std::mem::take(input).split_at_mut(missing);
        self.bytes.extend_from_slice(taken);
        *input = rest;
    }

    /// The whole frame, to be given back with [`Partial::put_back`].
    pub(crate) fn take_bytes(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }

    /// Keeps the memory for the next frame.
    pub(crate) fn put_back(&mut self, mut bytes: Vec<u8>) {
        bytes.clear();
        self.bytes = bytes;
    }

    /// When progress was last checked, or the frame began.
    pub(crate) fn checked_at(&self) -> Instant {
        self.checked_at
    }

    /// Whether the frame has grown enough since it was last checked.
    pub(crate) fn check_progress(&mut self, now: Instant) -> bool {
        let grown = self.bytes.len() - self.checked_bytes;
        self.checked_at = now;
        self.checked_bytes = self.bytes.len();
        grown >= PROGRESS_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_put_together_from_pieces_of_any_size() {
        let frame: Vec<u8> = [&[0, 20][..], &[7; 20]].concat();
        for size in 1..frame.len() {
            let mut partial = Partial::default();
            partial.begin(Instant::ZERO, &frame[..size.min(1)]);
            let mut stream = frame[1..].to_vec();
            stream.push(99);
            let mut whole = false;
            let mut seen = 0;
            for piece in stream.chunks_mut(size) {
                let mut input = piece;
                whole = partial.fill(&mut input, Suite::ChaChaPoly).unwrap();
                seen += 1;
                if whole {
                    break;
                }
            }
            assert!(whole, "{size} {seen}");
            assert_eq!(partial.take_bytes(), frame);
        }
    }

    #[test]
    fn lengths_below_the_tag_are_refused() {
        for length in 0..16u16 {
            assert_eq!(
                frame_bytes(length.to_be_bytes(), Suite::ChaChaPoly),
                Err(Fault::FrameLength(usize::from(length)))
            );
        }
        assert_eq!(frame_bytes([0, 16], Suite::Aes256Gcm), Ok(18));
        assert_eq!(frame_bytes([0xff, 0xff], Suite::Aes256Gcm), Ok(65537));
    }
}
