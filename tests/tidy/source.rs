//! Reads Rust well enough for the rules: what is code, what is a comment, a string or a test, and which paths it names.

/// A Rust source file.
pub(crate) struct Source {
    /// Path from the repository's root, with forward slashes.
    pub(crate) path: String,
    /// The code without comments, without the insides of strings and characters, and without `#[cfg(test)]` items. It
    /// has as many lines as the file.
    pub(crate) code: String,
    /// Like `code`, with the test items.
    pub(crate) code_with_tests: String,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Source {
        let code_with_tests = mask_comments_and_literals(text);
        let code = mask_test_items(&code_with_tests);
        Source {
            path: path.to_owned(),
            code,
            code_with_tests,
        }
    }

    /// Every path that the product code of the file names, with its line.
    pub(crate) fn paths(&self) -> Vec<NamedPath> {
        named_paths(&tokens(&self.code))
    }
}

/// A path that code names, such as `std::fs::File`; each leaf of a `use` tree is one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NamedPath {
    pub(crate) segments: Vec<String>,
    pub(crate) line: usize,
}

impl NamedPath {
    /// Whether `wanted`, written as `std::fs`, occurs in the path as a run of whole segments.
    pub(crate) fn contains(&self, wanted: &str) -> bool {
        let wanted: Vec<&str> = wanted.split("::").collect();
        self.segments
            .windows(wanted.len())
            .any(|run| run.iter().eq(wanted.iter()))
    }
}

/// A word or a sign of the code, with its line, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token<'a> {
    pub(crate) text: &'a str,
    pub(crate) line: usize,
}

/// Cuts masked code into words, `::` and single signs.
pub(crate) fn tokens(code: &str) -> Vec<Token<'_>> {
    let mut found = Vec::new();
    for (index, line) in code.lines().enumerate() {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let len = if is_word(first) {
                rest.find(|c| !is_word(c)).unwrap_or(rest.len())
            } else if rest.starts_with("::") {
                2
            } else {
                first.len_utf8()
            };
            found.push(Token {
                text: &rest[..len],
                line: index + 1,
            });
            rest = rest[len..].trim_start();
        }
    }
    found
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn is_word_token(token: &Token<'_>) -> bool {
    token.text.starts_with(is_word)
}

/// Every path among the tokens; single words that are no part of a `use` are paths of one segment.
fn named_paths(tokens: &[Token<'_>]) -> Vec<NamedPath> {
    let mut paths = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if tokens[at].text == "use" {
            at = use_tree(tokens, at + 1, &[], &mut paths);
        } else if is_word_token(&tokens[at]) {
            let line = tokens[at].line;
            let mut segments = vec![tokens[at].text.to_owned()];
            at += 1;
            while at + 1 < tokens.len() && tokens[at].text == "::" && is_word_token(&tokens[at + 1])
            {
                segments.push(tokens[at + 1].text.to_owned());
                at += 2;
            }
            paths.push(NamedPath { segments, line });
        } else {
            at += 1;
        }
    }
    paths
}

/// Reads one `use` tree that starts at `at` below `prefix`; returns the place behind it.
fn use_tree(
    tokens: &[Token<'_>],
    mut at: usize,
    prefix: &[String],
    paths: &mut Vec<NamedPath>,
) -> usize {
    let mut segments = prefix.to_vec();
    let mut line = tokens.get(at).map_or(0, |token| token.line);
    while let Some(token) = tokens.get(at) {
        match token.text {
            "::" => at += 1,
            "{" => {
                at += 1;
                while at < tokens.len() && tokens[at].text != "}" {
                    at = use_tree(tokens, at, &segments, paths);
                    if tokens.get(at).is_some_and(|token| token.text == ",") {
                        at += 1;
                    }
                }
                return at + 1;
            }
            "as" => at += 2,
            _ if is_word_token(token) || token.text == "*" => {
                segments.push(token.text.to_owned());
                line = token.line;
                at += 1;
            }
            _ => break,
        }
    }
    paths.push(NamedPath { segments, line });
    at
}

/// Blanks comments and the insides of string and character literals; line breaks stay.
pub(crate) fn mask_comments_and_literals(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut masked = String::with_capacity(text.len());
    let mut at = 0;
    let blank = |masked: &mut String, from: usize, to: usize| {
        masked.extend(
            chars[from..to]
                .iter()
                .map(|&c| if c == '\n' { '\n' } else { ' ' }),
        );
    };
    while at < chars.len() {
        let after_word = at > 0 && is_word(chars[at - 1]);
        let end = match chars[at] {
            '/' if chars.get(at + 1) == Some(&'/') => line_end(&chars, at),
            '/' if chars.get(at + 1) == Some(&'*') => block_comment_end(&chars, at),
            '"' => string_end(&chars, at + 1),
            '\'' => char_literal_end(&chars, at).unwrap_or(at),
            'r' | 'b' | 'c' if !after_word => prefixed_string_end(&chars, at).unwrap_or(at),
            _ => at,
        };
        if end > at {
            blank(&mut masked, at, end);
            at = end;
        } else {
            masked.push(chars[at]);
            at += 1;
        }
    }
    masked
}

fn line_end(chars: &[char], from: usize) -> usize {
    chars[from..]
        .iter()
        .position(|&c| c == '\n')
        .map_or(chars.len(), |len| from + len)
}

fn block_comment_end(chars: &[char], from: usize) -> usize {
    let mut depth = 0;
    let mut at = from;
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => {
                depth += 1;
                at += 2;
            }
            ('*', Some('/')) => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    chars.len()
}

/// The place behind the closing quote of a string whose inside starts at `at`.
fn string_end(chars: &[char], mut at: usize) -> usize {
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

/// The end of `r"…"`, `br#"…"#`, `b"…"`, `c"…"` and `b'…'`; `None` if none of these starts at `at`.
fn prefixed_string_end(chars: &[char], at: usize) -> Option<usize> {
    let mut next = at;
    let mut is_raw = false;
    while let Some('r' | 'b' | 'c') = chars.get(next) {
        is_raw |= chars[next] == 'r';
        next += 1;
    }
    let hashes = chars[next..].iter().take_while(|&&c| c == '#').count();
    match chars.get(next + hashes)? {
        '"' if is_raw => {
            let mut end = next + hashes + 1;
            while end < chars.len() {
                let closing = &chars[end + 1..(end + 1 + hashes).min(chars.len())];
                if chars[end] == '"' && closing.len() == hashes && closing.iter().all(|&c| c == '#')
                {
                    return Some(end + 1 + hashes);
                }
                end += 1;
            }
            Some(chars.len())
        }
        '"' if hashes == 0 => Some(string_end(chars, next + 1)),
        '\'' if hashes == 0 && chars[at] == 'b' => char_literal_end(chars, next),
        _ => None,
    }
}

/// The place behind a character literal whose opening quote is at `at`; `None` for a lifetime.
fn char_literal_end(chars: &[char], at: usize) -> Option<usize> {
    match chars.get(at + 1)? {
        '\\' => {
            let close = chars[at + 3..].iter().position(|&c| c == '\'')?;
            Some(at + 3 + close + 1)
        }
        _ => (chars.get(at + 2) == Some(&'\'')).then_some(at + 3),
    }
}

/// Blanks the items that carry `#[cfg(test)]` or `#[cfg(all(test, …))]`.
fn mask_test_items(code: &str) -> String {
    let mut masked = code.to_owned();
    let mut from = 0;
    while let Some(found) = masked[from..].find("#[cfg(") {
        let start = from + found;
        let condition = &masked[start + "#[cfg(".len()..];
        let is_test = condition.starts_with("test)") || condition.starts_with("all(test");
        from = if is_test {
            item_end(&masked, start)
        } else {
            start + 1
        };
        if is_test {
            let blank: String = masked[start..from]
                .chars()
                .map(|c| if c == '\n' { c } else { ' ' })
                .collect();
            masked.replace_range(start..from, &blank);
            from = start + blank.len();
        }
    }
    masked
}

/// The place behind the item that starts at `start`: its closing brace, or a semicolon outside of all brackets.
fn item_end(code: &str, start: usize) -> usize {
    let mut depth = 0;
    for (at, c) in code[start..].char_indices() {
        match c {
            '{' | '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            '}' => {
                depth -= 1;
                if depth == 0 {
                    return start + at + 1;
                }
            }
            ';' if depth == 0 => return start + at + 1,
            _ => {}
        }
    }
    code.len()
}
