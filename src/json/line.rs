//! Cuts input into lines within a fixed amount of memory.

use std::io::{self, BufRead};

/// The longest line that is read, in bytes, without its line end.
pub const LINE_SIZE_MAX: usize = 1024 * 1024;

/// A buffer larger than this is given back once its line is done.
const KEPT_CAPACITY_MAX: usize = 16 * 1024;

/// One line of input.
#[derive(Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// The line without its line end.
    Whole(&'a [u8]),
    /// The line had more than [`LINE_SIZE_MAX`] bytes and was passed over to its end.
    TooLong,
}

/// Reads lines. Whatever comes in, it holds at most one line of [`LINE_SIZE_MAX`] besides the input's own buffer.
#[derive(Debug)]
pub struct LineReader<R> {
    input: R,
    line: Vec<u8>,
}

impl<R: BufRead> LineReader<R> {
    /// A reader of the lines of `input`.
    pub fn new(input: R) -> LineReader<R> {
        LineReader {
            input,
            line: Vec::new(),
        }
    }

    /// The next line; `None` at the end of the input. What stands behind the last line end is a line too, unless it is
    /// empty. Blocks on the input.
    pub fn next_line(&mut self) -> io::Result<Option<Line<'_>>> {
        self.line.clear();
        if self.line.capacity() > KEPT_CAPACITY_MAX {
            self.line = Vec::new();
        }
        let mut is_too_long = false;
        let mut has_begun = false;
        loop {
            let available = match self.input.fill_buf() {
                Ok(available) => available,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if available.is_empty() && !has_begun {
                return Ok(None);
            }
            has_begun = true;
            let end = available.iter().position(|byte| *byte == b'\n');
            let part = &available[..end.unwrap_or(available.len())];
            is_too_long |= self.line.len() + part.len() > LINE_SIZE_MAX;
            if is_too_long {
                self.line = Vec::new();
            } else {
                self.line.extend_from_slice(part);
            }
            let is_at_end = end.is_some() || available.is_empty();
            let used = end.map_or(available.len(), |end| end + 1);
            self.input.consume(used);
            if is_at_end {
                break;
            }
        }
        if is_too_long {
            return Ok(Some(Line::TooLong));
        }
        Ok(Some(Line::Whole(
            self.line.strip_suffix(b"\r").unwrap_or(&self.line),
        )))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Read};

    use super::*;

    fn lines(input: &[u8], piece: usize) -> Vec<Option<Vec<u8>>> {
        let mut reader = LineReader::new(BufReader::with_capacity(piece, input));
        let mut lines = Vec::new();
        while let Some(line) = reader.next_line().expect("memory reads") {
            lines.push(match line {
                Line::Whole(line) => Some(line.to_owned()),
                Line::TooLong => None,
            });
        }
        lines
    }

    #[test]
    fn lines_are_the_same_in_pieces_of_any_size() {
        let input = b"one\ntwo\r\n\n\xFF\0\nlast";
        let want: Vec<Option<Vec<u8>>> = [&b"one"[..], b"two", b"", b"\xFF\0", b"last"]
            .iter()
            .map(|line| Some(line.to_vec()))
            .collect();
        for piece in 1..input.len() + 1 {
            assert_eq!(lines(input, piece), want, "pieces of {piece}");
        }
        assert_eq!(lines(b"", 8), []);
        assert_eq!(lines(b"\n", 8), [Some(vec![])]);
    }

    #[test]
    fn a_line_at_the_limit_is_read_and_one_above_it_is_passed_over() {
        let longest = vec![b'x'; LINE_SIZE_MAX];
        let input = [&longest[..], b"\nx", &longest, b"\nnext\n", &longest, b"x"].concat();
        let want = [Some(longest), None, Some(b"next".to_vec()), None];
        assert!(lines(&input, 8192) == want);
    }

    #[test]
    fn an_endless_line_takes_no_memory() {
        let input = BufReader::new(io::repeat(b'x').take(1 << 28).chain(&b"\nnext"[..]));
        let mut reader = LineReader::new(input);
        assert_eq!(
            reader.next_line().expect("memory reads"),
            Some(Line::TooLong)
        );
        assert!(reader.line.capacity() <= LINE_SIZE_MAX);
        assert_eq!(
            reader.next_line().expect("memory reads"),
            Some(Line::Whole(b"next"))
        );
        assert!(reader.line.capacity() <= KEPT_CAPACITY_MAX);
    }
}
