//! JSON that peers send: how deep it may be nested, and how much memory a value of it may take.
//!
//! A text of a few bytes can be a value of hundreds: `{"":0}` takes one of the pieces that a large map is made of. So what a
//! value would take is reckoned before it is built.

use std::fmt;

use mischief_reactor::io::memory::MemoryBudget;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// How deep JSON may be nested, the outermost array or object included. Within a line of the machine interface it is one
/// deeper, which is as deep as many parsers go.
pub const JSON_DEPTH_MAX: usize = 126;

/// What a value of a message may take of the memory that traffic may make a node hold.
const VALUE_SHARE: usize = 4;

/// Shorter texts are values of some megabytes at most, and not reckoned.
const RECKONED_MIN: usize = 32 << 10;

/// What an object takes: one node of its tree, with room for eleven keys and values.
const OBJECT_BYTES: usize = 640;
/// What a further value takes in a list that has grown to twice its need.
const VALUE_BYTES: usize = 2 * size_of::<Value>();
/// What a key takes beside its text: its string in the node, and the piece that holds the text.
const KEY_BYTES: usize = 48;

/// Why JSON from a peer is not read.
#[derive(Debug)]
pub(crate) enum JsonError {
    TooDeep,
    TooMuch { bytes: usize, max: usize },
    Other(serde_json::Error),
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JsonError::TooDeep => write!(f, "nested more than {JSON_DEPTH_MAX} deep"),
            JsonError::TooMuch { bytes, max } => {
                write!(f, "the value would take {bytes} bytes, of at most {max}")
            }
            JsonError::Other(error) => error.fmt(f),
        }
    }
}

/// The most that a value of one message may take, in bytes.
pub(crate) fn value_max(memory: &MemoryBudget) -> usize {
    memory.max() / VALUE_SHARE
}

/// Reads a value of at most about `max` bytes.
pub(crate) fn read_value(json: &[u8], max: usize) -> Result<Value, JsonError> {
    if json.len() < RECKONED_MIN {
        return read_typed(json);
    }
    let bytes = Extent::of(json)?.value_bytes(json.len());
    if bytes > max {
        return Err(JsonError::TooMuch { bytes, max });
    }
    serde_json::from_slice(json).map_err(JsonError::Other)
}

/// Reads a value of another type, whose memory is for whoever chose the type to know.
pub(crate) fn read_typed<T: DeserializeOwned>(json: &[u8]) -> Result<T, JsonError> {
    check_depth(json)?;
    serde_json::from_slice(json).map_err(JsonError::Other)
}

/// Whether JSON is nested deeper than a receiver takes it. What is too short for that is not looked at.
pub(crate) fn check_depth(json: &[u8]) -> Result<(), JsonError> {
    if json.len() <= 2 * JSON_DEPTH_MAX {
        return Ok(());
    }
    Extent::of(json).map(drop)
}

/// What JSON consists of. Of bytes that are no JSON it says anything.
#[derive(Debug, Default, PartialEq, Eq)]
struct Extent {
    objects: usize,
    keys: usize,
    separators: usize,
}

impl Extent {
    fn of(json: &[u8]) -> Result<Extent, JsonError> {
        let mut extent = Extent::default();
        let (mut depth, mut is_text, mut is_escaped) = (0usize, false, false);
        for byte in json {
            if is_text {
                match byte {
                    _ if is_escaped => is_escaped = false,
                    b'\\' => is_escaped = true,
                    b'"' => is_text = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => is_text = true,
                b'[' | b'{' => {
                    depth += 1;
                    extent.objects += usize::from(*byte == b'{');
                    if depth > JSON_DEPTH_MAX {
                        return Err(JsonError::TooDeep);
                    }
                }
                b']' | b'}' => depth = depth.saturating_sub(1),
                b':' => extent.keys += 1,
                b',' => extent.separators += 1,
                _ => {}
            }
        }
        Ok(extent)
    }

    /// What the value takes, texts included.
    fn value_bytes(&self, json_bytes: usize) -> usize {
        json_bytes
            + self.objects * OBJECT_BYTES
            + self.keys * KEY_BYTES
            + self.separators * VALUE_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(depth: usize) -> String {
        "[".repeat(depth) + &"]".repeat(depth)
    }

    #[test]
    fn depth_is_limited_and_brackets_in_texts_do_not_count() {
        assert!(read_typed::<Value>(nested(JSON_DEPTH_MAX).as_bytes()).is_ok());
        for depth in [JSON_DEPTH_MAX + 1, 500, 100_000] {
            let error = check_depth(nested(depth).as_bytes());
            assert!(matches!(error, Err(JsonError::TooDeep)), "{depth}");
        }
        let text = format!("\"{}\\\\\"", "[{\\\"".repeat(200));
        assert!(read_typed::<String>(text.as_bytes()).is_ok());
        let closed = "]".repeat(500) + "\"";
        assert!(check_depth(closed.as_bytes()).is_ok());
        assert!(read_typed::<Value>(closed.as_bytes()).is_err());
        let wide = format!("[{}0]", "[],".repeat(1000));
        assert!(read_typed::<Value>(wide.as_bytes()).is_ok());
    }

    #[test]
    fn a_small_text_that_would_be_a_large_value_is_not_read() {
        let objects = format!("[{}0]", "{\"\":0},".repeat(100_000));
        let Err(JsonError::TooMuch { bytes, max }) = read_value(objects.as_bytes(), 50 << 20)
        else {
            panic!("800 KB of objects take more than 50 MiB");
        };
        assert!(bytes > 70 << 20 && max == 50 << 20);
        assert!(read_value(objects.as_bytes(), 100 << 20).is_ok());
        let numbers = format!("[{}0]", "0,".repeat(100_000));
        assert!(read_value(numbers.as_bytes(), 5 << 20).is_err());
        assert!(read_value(numbers.as_bytes(), 10 << 20).is_ok());
        let text = format!("\"{}\"", ",:{".repeat(100_000));
        assert!(read_value(text.as_bytes(), 1 << 20).is_ok());
        // A type of one's own takes what it takes.
        assert_eq!(
            read_typed::<Vec<u8>>(numbers.as_bytes()).unwrap().len(),
            100_001
        );
    }
}
