//! Lines of the JSON interface.

use std::io::BufReader;

use mischief::json::{Line, LineReader, Reply, parse, to_line};
use serde_json::Value;

/// Whatever comes in, it is cut into the same lines in pieces of any size, no line panics, and every refused one gets an
/// answer that is one line of JSON.
pub(crate) fn json_line(data: &[u8]) {
    let whole = lines(data, 8192);
    assert_eq!(whole, lines(data, 1 + data.len() % 7));
    for line in whole {
        let Some(request) = parse(&line) else {
            continue;
        };
        let Err(error) = request.command else {
            continue;
        };
        let answer = to_line(&Reply::new(&request.id, Err(error)));
        let (end, body) = answer.split_last().expect("a line has an end");
        assert_eq!(*end, b'\n');
        assert!(body.iter().all(|byte| *byte >= b' '));
        let value: Value = serde_json::from_slice(body).expect("an answer is JSON");
        assert_eq!(value["ok"], false);
    }
}

fn lines(data: &[u8], piece: usize) -> Vec<Vec<u8>> {
    let mut reader = LineReader::new(BufReader::with_capacity(piece, data));
    let mut lines = Vec::new();
    while let Some(line) = reader.next_line().expect("memory reads") {
        if let Line::Whole(line) = line {
            lines.push(line.to_owned());
        }
    }
    lines
}
