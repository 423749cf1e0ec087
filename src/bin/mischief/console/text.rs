//! What a person types at a node, and how what happens is shown. No IO.

use std::fmt::{self, Write};

use mischief::terminal::shown;

/// The longest message of a peer that is shown whole, in characters.
const TEXT_CHARS_MAX: usize = 4000;

pub(crate) const HELP: &str = "\
Everything you type goes to all connected peers, except for these commands:
  /peers            who is connected
  /connect ADDR     connect to HOST:PORT
  /disconnect PEER  end a connection; PEER is an id or the beginning of one
  /request PEER TYPE [JSON]
                    ask a peer for something, with a value or without
  /handle TYPE      take requests of a type; /unhandle TYPE takes them no more
  /reply NUMBER [JSON]
                    answer a request that was shown
  /refuse NUMBER [REASON]
                    refuse one
  /peer PEER        everything about a connected peer
  /protect PEER     keep a place for a peer and never give it up; /unprotect PEER undoes it
  /ban WHOM [SECS]  refuse a PEER, or a range such as 192.0.2.0/24; /unban WHOM lifts it
  /bans             who is banned
  /queue            lost peers that will be dialled again; /clear-queue dials none of them
  /book             all known peers; /forget PEER forgets one
  /id               this node's id
  /help             this list
  /quit             end the node
To say something that begins with a slash, begin it with two.";

/// A typed line, understood.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Typed<'a> {
    Nothing,
    Say(&'a str),
    Peers,
    Connect(&'a str),
    Disconnect(&'a str),
    Request {
        peer: &'a str,
        kind: &'a str,
        data: &'a str,
    },
    Handle(&'a str),
    Unhandle(&'a str),
    Reply(u64, &'a str),
    Refuse(u64, &'a str),
    Network(NetworkTyped<'a>),
    Id,
    Help,
    Quit,
    Wrong(String),
}

/// What is typed about lost, banned, protected and known peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NetworkTyped<'a> {
    Peer(&'a str),
    Protect(&'a str),
    Unprotect(&'a str),
    Ban(&'a str, Option<u64>),
    Unban(&'a str),
    Bans,
    Queue,
    ClearQueue,
    Book,
    Forget(&'a str),
}

/// Understands a command of [`NetworkTyped`]; `None` if it is another.
fn understand_network<'a>(name: &str, argument: &'a str) -> Option<Typed<'a>> {
    let with_peer: fn(&'a str) -> NetworkTyped<'a> = match name {
        "peer" => NetworkTyped::Peer,
        "protect" => NetworkTyped::Protect,
        "unprotect" => NetworkTyped::Unprotect,
        "unban" => NetworkTyped::Unban,
        "forget" => NetworkTyped::Forget,
        "ban" => return Some(understand_ban(argument)),
        _ => {
            let alone = match name {
                "bans" => NetworkTyped::Bans,
                "queue" => NetworkTyped::Queue,
                "clear-queue" => NetworkTyped::ClearQueue,
                "book" => NetworkTyped::Book,
                _ => return None,
            };
            return Some(match argument.is_empty() {
                true => Typed::Network(alone),
                false => Typed::Wrong(format!("/{name} takes nothing after it")),
            });
        }
    };
    Some(match argument.is_empty() {
        true => Typed::Wrong(format!("/{name} needs the id of a peer")),
        false => Typed::Network(with_peer(argument)),
    })
}

fn understand_ban(argument: &str) -> Typed<'_> {
    let mut words = argument.split_whitespace();
    let whom = words.next();
    let seconds = words
        .next()
        .map(|word| word.parse::<u64>().ok().filter(|seconds| *seconds > 0));
    match (whom, seconds, words.next()) {
        (Some(whom), None, None) => Typed::Network(NetworkTyped::Ban(whom, None)),
        (Some(whom), Some(Some(seconds)), None) => {
            Typed::Network(NetworkTyped::Ban(whom, Some(seconds)))
        }
        _ => Typed::Wrong(
            "/ban needs the id of a peer or a range such as 192.0.2.0/24, and perhaps seconds"
                .into(),
        ),
    }
}

/// Understands a typed line.
pub(crate) fn understand(line: &str) -> Typed<'_> {
    let line = line.trim();
    if line.is_empty() {
        return Typed::Nothing;
    }
    let Some(command) = line.strip_prefix('/') else {
        return Typed::Say(line);
    };
    if command.starts_with('/') {
        return Typed::Say(command);
    }
    let (name, argument) = command
        .split_once(char::is_whitespace)
        .unwrap_or((command, ""));
    let argument = argument.trim();
    if let Some(typed) = understand_network(name, argument) {
        return typed;
    }
    let typed = match name {
        "connect" if argument.is_empty() => {
            return Typed::Wrong("/connect needs an address, such as 192.0.2.7:9000".into());
        }
        "disconnect" if argument.is_empty() => {
            return Typed::Wrong(
                "/disconnect needs the id of a peer, or the beginning of one".into(),
            );
        }
        "request" | "handle" | "unhandle" | "reply" | "refuse" => {
            return about_requests(name, argument);
        }
        "connect" => return Typed::Connect(argument),
        "disconnect" => return Typed::Disconnect(argument),
        "peers" => Typed::Peers,
        "id" => Typed::Id,
        "help" => Typed::Help,
        "quit" | "exit" => Typed::Quit,
        _ => {
            return Typed::Wrong(format!(
                "there is no command /{}: /help lists them",
                shown(name, 40)
            ));
        }
    };
    match argument.is_empty() {
        true => typed,
        false => Typed::Wrong(format!("/{name} takes nothing after it")),
    }
}

fn about_requests<'a>(name: &str, argument: &'a str) -> Typed<'a> {
    let split = |text: &'a str| {
        let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        (word, rest.trim())
    };
    let (first, rest) = split(argument);
    match name {
        "request" => {
            let (kind, data) = split(rest);
            if kind.is_empty() {
                let message = "/request needs the id of a peer and what to ask for";
                return Typed::Wrong(message.into());
            }
            let peer = first;
            Typed::Request { peer, kind, data }
        }
        "handle" | "unhandle" if first.is_empty() || !rest.is_empty() => {
            Typed::Wrong(format!("/{name} needs one word: a type of requests"))
        }
        "handle" => Typed::Handle(first),
        "unhandle" => Typed::Unhandle(first),
        _ => match (first.parse(), name) {
            (Ok(number), "reply") => Typed::Reply(number, rest),
            (Ok(number), _) => Typed::Refuse(number, rest),
            (Err(_), _) => Typed::Wrong(format!("/{name} needs the number of a request")),
        },
    }
}

/// How lines look: with bold and dim where the terminal shows it, plain elsewhere.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    has_colour: bool,
}

impl Style {
    /// Bold and dim on a terminal that understands them, unless the user does not want that (`NO_COLOR`, see
    /// no-color.org).
    pub(crate) fn choose(
        is_terminal: bool,
        variable: impl Fn(&str) -> Option<std::ffi::OsString>,
    ) -> Style {
        let is_unwanted = variable("NO_COLOR").is_some_and(|value| !value.is_empty());
        let is_dumb = variable("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        Style {
            has_colour: is_terminal && !is_unwanted && !is_dumb,
        }
    }

    /// A line about what happened.
    pub(crate) fn notice(self, text: impl fmt::Display) -> String {
        match self.has_colour {
            true => format!("\x1b[2m* {text}\x1b[0m\n"),
            false => format!("* {text}\n"),
        }
    }

    /// A line from a peer. A text of several lines stays one line, so that nobody can play another peer's part.
    pub(crate) fn message(self, from: impl fmt::Display, text: &str) -> String {
        let text = shown(text, TEXT_CHARS_MAX);
        match self.has_colour {
            true => format!("\x1b[1m{from}:\x1b[0m {text}\n"),
            false => format!("{from}: {text}\n"),
        }
    }
}

/// How a peer is called on the console: its short id, with the name it gives itself in front if it has one.
pub(crate) fn peer_label(short_id: &str, name: Option<&str>) -> String {
    match name {
        Some(name) if !name.is_empty() => format!("{} ({short_id})", shown(name, 64)),
        _ => short_id.to_owned(),
    }
}

/// A word for a shell to read back: as it is, or in single quotes.
pub(crate) fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%,=".contains(c);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// The number with a unit that fits it, three digits or four: `17 B`, `1.50 MiB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let decimals = if value < 10.0 {
        2
    } else {
        usize::from(value < 100.0)
    };
    format!("{value:.decimals$} {}", UNITS[unit])
}

/// A table with columns as wide as their widest entry, the last one ragged.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            write!(line, "{cell:width$}  ").expect("a String takes everything");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typed_lines_are_understood() {
        for (line, want) in [
            ("", Typed::Nothing),
            ("  \t", Typed::Nothing),
            (" hello there ", Typed::Say("hello there")),
            ("//peers", Typed::Say("/peers")),
            ("/peers", Typed::Peers),
            ("/connect  a:1 ", Typed::Connect("a:1")),
            ("/disconnect abc", Typed::Disconnect("abc")),
            (
                "/request abc  sum [1, 2] ",
                Typed::Request {
                    peer: "abc",
                    kind: "sum",
                    data: "[1, 2]",
                },
            ),
            (
                "/request abc sum",
                Typed::Request {
                    peer: "abc",
                    kind: "sum",
                    data: "",
                },
            ),
            ("/handle sum", Typed::Handle("sum")),
            ("/unhandle sum", Typed::Unhandle("sum")),
            ("/reply 7 [1, 2]", Typed::Reply(7, "[1, 2]")),
            ("/refuse 7", Typed::Refuse(7, "")),
            ("/refuse 7 not now", Typed::Refuse(7, "not now")),
            ("/bans", Typed::Network(NetworkTyped::Bans)),
            ("/ban abc", Typed::Network(NetworkTyped::Ban("abc", None))),
            (
                "/ban 192.0.2.0/24  60",
                Typed::Network(NetworkTyped::Ban("192.0.2.0/24", Some(60))),
            ),
            ("/forget abc", Typed::Network(NetworkTyped::Forget("abc"))),
            ("/id", Typed::Id),
            ("/help", Typed::Help),
            ("/quit", Typed::Quit),
            ("/exit", Typed::Quit),
        ] {
            assert_eq!(understand(line), want, "{line:?}");
        }
        for (line, want) in [
            ("/connect", "needs an address"),
            ("/disconnect  ", "needs the id"),
            ("/quit now", "takes nothing"),
            ("/request abc", "needs the id of a peer and"),
            ("/handle", "needs one word"),
            ("/unhandle a b", "needs one word"),
            ("/reply x 1", "needs the number"),
            ("/refuse", "needs the number"),
            ("/", "no command /"),
            ("/\u{1b}[2J", r"no command /\u{1b}[2J"),
        ] {
            let Typed::Wrong(message) = understand(line) else {
                panic!("{line:?} is understood")
            };
            assert!(message.contains(want), "{message:?}");
        }
    }

    #[test]
    fn colour_is_only_for_terminals_that_want_it() {
        let choose = |is_terminal, variables: &[(&str, &str)]| {
            let variables: Vec<(String, std::ffi::OsString)> = variables
                .iter()
                .map(|(name, value)| ((*name).into(), value.into()))
                .collect();
            let find = move |name: &str| {
                variables
                    .iter()
                    .find(|(other, _)| other == name)
                    .map(|(_, value)| value.clone())
            };
            Style::choose(is_terminal, find).has_colour
        };
        assert!(choose(true, &[("TERM", "xterm")]));
        assert!(choose(true, &[("TERM", "xterm"), ("NO_COLOR", "")]));
        assert!(!choose(true, &[("TERM", "xterm"), ("NO_COLOR", "1")]));
        assert!(!choose(true, &[("TERM", "dumb")]));
        assert!(!choose(true, &[]));
        assert!(!choose(false, &[("TERM", "xterm")]));
    }

    #[test]
    fn a_peer_cannot_forge_a_line() {
        let style = Style { has_colour: false };
        let line = style.message(
            peer_label("abcdefgh", Some("eve\nann")),
            "hi\nann: \u{1b}[31mhello",
        );
        assert_eq!(
            line,
            "eve\\u{a}ann (abcdefgh): hi\\u{a}ann: \\u{1b}[31mhello\n"
        );
        assert_eq!(style.notice("ready"), "* ready\n");
    }

    #[test]
    fn words_survive_a_shell() {
        assert_eq!(quoted("chat/1.0"), "chat/1.0");
        assert_eq!(quoted("my chat/1"), "'my chat/1'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn numbers_and_tables_are_readable() {
        for (count, want) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (1_572_864, "1.50 MiB"),
            (1_020_000, "996 KiB"),
            (67_108_864, "64.0 MiB"),
            (u64::MAX, "16384 PiB"),
        ] {
            assert_eq!(bytes(count), want);
        }
        let rows = [
            vec!["a".into(), "long".into(), "x".into()],
            vec!["bbb".into(), "c".into(), "y".into()],
        ];
        assert_eq!(table(&rows), "a    long  x\nbbb  c     y\n");
        assert_eq!(table(&[]), "");
    }
}
