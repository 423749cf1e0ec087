//! Bencode (BEP 3), strictly: what is accepted has exactly one meaning and exactly one encoding.
//!
//! [`decode`] checks a whole message once, without allocating, and gives a [`Value`]: a slice of the message that is known to
//! be well formed. Parts of it are slices again, byte for byte as they arrived, which is what BEP 44 hashes and verifies.
//!
//! Refused: leading zeros, a negative zero, numbers beyond `i64`, keys out of order or twice, anything after the end, and more
//! nesting or more values than the limits below.

/// How deep lists and dictionaries may be nested. A message of the DHT needs 4 for itself; a stored value may be deeper.
pub const DEPTH_MAX: usize = 10;

/// How many values, keys included, a message may hold.
pub const TOKENS_MAX: usize = 500;

/// Why bytes are not bencode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BencodeError {
    /// They end in the middle of a value.
    #[error("the message ends early")]
    Truncated,
    /// A byte that no value begins or goes on with.
    #[error("an unexpected byte")]
    UnexpectedByte,
    /// A number with leading zeros, a negative zero, without digits, or too large.
    #[error("a number that is not written as it must be")]
    BadNumber,
    /// A dictionary whose keys are not strings in ascending order, each once.
    #[error("keys that are not in order")]
    KeysOutOfOrder,
    /// Nested deeper than [`DEPTH_MAX`].
    #[error("nested too deeply")]
    TooDeep,
    /// More values than [`TOKENS_MAX`].
    #[error("too many values")]
    TooMany,
    /// Something follows the value.
    #[error("bytes after the end")]
    Trailing,
}

/// A well-formed value, verbatim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value<'a>(&'a [u8]);

/// Checks that `bytes` are exactly one value.
pub fn decode(bytes: &[u8]) -> Result<Value<'_>, BencodeError> {
    let mut check = Check { bytes, tokens: 0 };
    let end = check.value(0, 0)?;
    if end != bytes.len() {
        return Err(BencodeError::Trailing);
    }
    Ok(Value(bytes))
}

impl<'a> Value<'a> {
    /// The bytes as they arrived.
    pub fn raw(self) -> &'a [u8] {
        self.0
    }

    /// The content of a string.
    pub fn bytes(self) -> Option<&'a [u8]> {
        let (len, start) = read_len(self.0, 0).ok()?;
        self.0.get(start..start + len)
    }

    /// The content of a string that has exactly `N` bytes.
    pub fn array<const N: usize>(self) -> Option<&'a [u8; N]> {
        self.bytes()?.try_into().ok()
    }

    /// The number.
    pub fn int(self) -> Option<i64> {
        read_int(self.0, 0).ok().map(|(number, _)| number)
    }

    /// Whether it is a dictionary.
    pub fn is_dict(self) -> bool {
        self.0.first() == Some(&b'd')
    }

    /// Whether it is a list.
    pub fn is_list(self) -> bool {
        self.0.first() == Some(&b'l')
    }

    /// The value of a key; `None` too if this is no dictionary.
    pub fn get(self, key: &[u8]) -> Option<Value<'a>> {
        if !self.is_dict() {
            return None;
        }
        let mut items = Items { rest: &self.0[1..] };
        while let Some(found) = items.next() {
            let value = items.next()?;
            if found.bytes() == Some(key) {
                return Some(value);
            }
        }
        None
    }

    /// The values of a list; none if this is no list.
    pub fn items(self) -> Items<'a> {
        let rest = if self.is_list() { &self.0[1..] } else { &[] };
        Items { rest }
    }
}

/// The values of a list one after another, or keys and values of a dictionary in turn.
#[derive(Clone, Debug)]
pub struct Items<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Items<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        if matches!(self.rest.first(), None | Some(b'e')) {
            return None;
        }
        let end = skip(self.rest)?;
        let (value, rest) = self.rest.split_at(end);
        self.rest = rest;
        Some(Value(value))
    }
}

/// Where the first value of bytes that have been checked ends.
fn skip(bytes: &[u8]) -> Option<usize> {
    let mut depth = 0;
    let mut at = 0;
    loop {
        match bytes.get(at)? {
            b'd' | b'l' => {
                depth += 1;
                at += 1;
            }
            b'e' => {
                depth -= 1;
                at += 1;
            }
            b'i' => at = read_int(bytes, at).ok()?.1,
            _ => {
                let (len, start) = read_len(bytes, at).ok()?;
                at = start + len;
            }
        }
        if depth == 0 {
            return Some(at);
        }
    }
}

struct Check<'a> {
    bytes: &'a [u8],
    tokens: usize,
}

impl Check<'_> {
    /// Checks the value at `at` and returns where it ends. Recursion is bounded by [`DEPTH_MAX`].
    fn value(&mut self, at: usize, depth: usize) -> Result<usize, BencodeError> {
        self.tokens += 1;
        if self.tokens > TOKENS_MAX {
            return Err(BencodeError::TooMany);
        }
        match self.bytes.get(at).ok_or(BencodeError::Truncated)? {
            b'i' => read_int(self.bytes, at).map(|(_, end)| end),
            b'0'..=b'9' => self.string(at).map(|(_, end)| end),
            b'l' | b'd' if depth == DEPTH_MAX => Err(BencodeError::TooDeep),
            b'l' => {
                let mut at = at + 1;
                while *self.bytes.get(at).ok_or(BencodeError::Truncated)? != b'e' {
                    at = self.value(at, depth + 1)?;
                }
                Ok(at + 1)
            }
            b'd' => self.dict(at + 1, depth),
            _ => Err(BencodeError::UnexpectedByte),
        }
    }

    fn dict(&mut self, mut at: usize, depth: usize) -> Result<usize, BencodeError> {
        let mut last: Option<(usize, usize)> = None;
        loop {
            match self.bytes.get(at).ok_or(BencodeError::Truncated)? {
                b'e' => return Ok(at + 1),
                b'0'..=b'9' => {}
                _ => return Err(BencodeError::UnexpectedByte),
            }
            self.tokens += 1;
            let (start, end) = self.string(at)?;
            if last.is_some_and(|(from, to)| self.bytes[from..to] >= self.bytes[start..end]) {
                return Err(BencodeError::KeysOutOfOrder);
            }
            last = Some((start, end));
            at = self.value(end, depth + 1)?;
        }
    }

    /// Where the content of a string begins and ends.
    fn string(&self, at: usize) -> Result<(usize, usize), BencodeError> {
        let (len, start) = read_len(self.bytes, at)?;
        match self.bytes.len().checked_sub(start) {
            Some(left) if left >= len => Ok((start, start + len)),
            _ => Err(BencodeError::Truncated),
        }
    }
}

/// The length of the string at `at`, and where its content begins.
fn read_len(bytes: &[u8], at: usize) -> Result<(usize, usize), BencodeError> {
    let mut len: usize = 0;
    let mut end = at;
    loop {
        match bytes.get(end).ok_or(BencodeError::Truncated)? {
            digit @ b'0'..=b'9' => {
                len = len
                    .checked_mul(10)
                    .and_then(|len| len.checked_add(usize::from(digit - b'0')))
                    .ok_or(BencodeError::BadNumber)?;
            }
            b':' if end > at => break,
            _ => return Err(BencodeError::UnexpectedByte),
        }
        end += 1;
    }
    if bytes[at] == b'0' && end > at + 1 {
        return Err(BencodeError::BadNumber);
    }
    // A length near the end of the address space cannot be there, and must not overflow later.
    if len > bytes.len() {
        return Err(BencodeError::Truncated);
    }
    Ok((len, end + 1))
}

/// The number at `at`, and where it ends.
fn read_int(bytes: &[u8], at: usize) -> Result<(i64, usize), BencodeError> {
    if bytes.get(at) != Some(&b'i') {
        return Err(BencodeError::UnexpectedByte);
    }
    let is_negative = bytes.get(at + 1) == Some(&b'-');
    let start = at + 1 + usize::from(is_negative);
    let mut number: i64 = 0;
    let mut end = start;
    loop {
        match bytes.get(end).ok_or(BencodeError::Truncated)? {
            digit @ b'0'..=b'9' => {
                let digit = i64::from(digit - b'0');
                // Summed with its sign, so that the smallest number fits.
                let digit = if is_negative { -digit } else { digit };
                number = number
                    .checked_mul(10)
                    .and_then(|number| number.checked_add(digit))
                    .ok_or(BencodeError::BadNumber)?;
            }
            b'e' => break,
            _ => return Err(BencodeError::UnexpectedByte),
        }
        end += 1;
    }
    let digits = end - start;
    let is_zero = bytes[start] == b'0';
    if digits == 0 || (is_zero && (digits > 1 || is_negative)) {
        return Err(BencodeError::BadNumber);
    }
    Ok((number, end + 1))
}

/// Writes bencode. The caller writes the keys of a dictionary in ascending order; tests decode all that is sent.
#[derive(Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// An empty message.
    pub fn new() -> Writer {
        Writer::default()
    }

    /// The message.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }

    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is written yet.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Begins a dictionary.
    pub fn dict(&mut self) -> &mut Writer {
        self.0.push(b'd');
        self
    }

    /// Begins a list.
    pub fn list(&mut self) -> &mut Writer {
        self.0.push(b'l');
        self
    }

    /// Ends a dictionary or a list.
    pub fn end(&mut self) -> &mut Writer {
        self.0.push(b'e');
        self
    }

    /// A string, or a key.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Writer {
        self.decimal(bytes.len() as i64);
        self.0.push(b':');
        self.0.extend_from_slice(bytes);
        self
    }

    /// A number.
    pub fn int(&mut self, number: i64) -> &mut Writer {
        self.0.push(b'i');
        self.decimal(number);
        self.0.push(b'e');
        self
    }

    /// A value that is encoded already.
    pub fn raw(&mut self, value: &[u8]) -> &mut Writer {
        self.0.extend_from_slice(value);
        self
    }

    fn decimal(&mut self, number: i64) {
        let mut digits = [0; 20];
        let mut at = digits.len();
        let mut rest = number.unsigned_abs();
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        if number < 0 {
            self.0.push(b'-');
        }
        self.0.extend_from_slice(&digits[at..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read() {
        let value = decode(b"d1:ai-42e1:bl4:spami0eed0:lee1:c0:e");
        assert_eq!(
            value,
            Err(BencodeError::UnexpectedByte),
            "d0: is no key's value here"
        );
        let value = decode(b"d1:ai-42e1:bl4:spami0ed0:leee1:c0:e").expect("well formed");
        assert_eq!(value.get(b"a").and_then(Value::int), Some(-42));
        assert_eq!(value.get(b"c").and_then(Value::bytes), Some(&b""[..]));
        assert_eq!(value.get(b"d"), None);
        let items: Vec<&[u8]> = value
            .get(b"b")
            .expect("there")
            .items()
            .map(Value::raw)
            .collect();
        assert_eq!(items, [&b"4:spam"[..], b"i0e", b"d0:lee"]);
        assert_eq!(value.int(), None);
        assert_eq!(value.bytes(), None);
        assert_eq!(value.items().count(), 0);
    }

    #[track_caller]
    fn check(bytes: &[u8], error: BencodeError) {
        assert_eq!(decode(bytes), Err(error), "{}", bytes.escape_ascii());
    }

    #[test]
    fn what_is_not_strict_is_refused() {
        use BencodeError::*;
        for bytes in [
            &b""[..],
            b"i",
            b"i1",
            b"l",
            b"d",
            b"d1:a",
            b"1",
            b"1:",
            b"l1:a",
            b"999999:a",
        ] {
            check(bytes, Truncated);
        }
        for bytes in [
            &b"i-0e"[..],
            b"i00e",
            b"i01e",
            b"ie",
            b"i-e",
            b"i9223372036854775808e",
            b"01:a",
            b"00:",
        ] {
            check(bytes, BadNumber);
        }
        check(b"99999999999999999999999:a", BadNumber);
        check(b"18446744073709551615:a", Truncated);
        for bytes in [
            &b"e"[..],
            b"x",
            b"-1:a",
            b"i1xe",
            b"di1ei1ee",
            b"1x",
            b":",
            b"i+1e",
            b"i 1e",
        ] {
            check(bytes, UnexpectedByte);
        }
        for bytes in [
            &b"d1:bi1e1:ai1ee"[..],
            b"d1:ai1e1:ai1ee",
            b"ld2:aa0:1:a0:ee",
        ] {
            check(bytes, KeysOutOfOrder);
        }
        check(b"i1ei2e", Trailing);
        check(b"0:0", Trailing);
    }

    #[test]
    fn the_largest_and_smallest_numbers_are_read() {
        assert_eq!(
            decode(b"i9223372036854775807e").expect("fits").int(),
            Some(i64::MAX)
        );
        assert_eq!(
            decode(b"i-9223372036854775808e").expect("fits").int(),
            Some(i64::MIN)
        );
    }

    #[test]
    fn depth_and_count_are_bounded() {
        let nested = |depth: usize| [vec![b'l'; depth], vec![b'e'; depth]].concat();
        assert!(decode(&nested(DEPTH_MAX)).is_ok());
        assert_eq!(decode(&nested(DEPTH_MAX + 1)), Err(BencodeError::TooDeep));
        assert_eq!(decode(&nested(100_000)), Err(BencodeError::TooDeep));
        let wide = |count: usize| [b"l".to_vec(), b"0:".repeat(count), b"e".to_vec()].concat();
        assert!(decode(&wide(TOKENS_MAX - 1)).is_ok());
        assert_eq!(decode(&wide(TOKENS_MAX)), Err(BencodeError::TooMany));
    }

    #[test]
    fn what_is_written_is_read() {
        let mut writer = Writer::new();
        writer
            .dict()
            .bytes(b"a")
            .int(i64::MIN)
            .bytes(b"b")
            .list()
            .bytes(b"")
            .int(0)
            .end();
        writer.bytes(b"c").raw(b"i7e").end();
        let bytes = writer.finish();
        assert_eq!(bytes, b"d1:ai-9223372036854775808e1:bl0:i0ee1:ci7ee");
        assert!(decode(&bytes).is_ok());
    }
}
