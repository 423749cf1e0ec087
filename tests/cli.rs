//! The commands of the binary, as a person or a service manager meets them.

mod process;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use process::{LONG, Program, Started, TempDir, run};
use serde_json::{Value, json};

#[test]
fn the_demo_shows_what_it_promises() {
    let (code, output, errors) = run(&["demo"]);
    assert_eq!((code, errors.as_str()), (Some(0), ""), "{output}");
    for text in [
        "handshake",
        "how many rats",
        "round trips",
        "64 MiB",
        "67108864 bytes",
        "Memory",
    ] {
        assert!(output.contains(text), "no {text:?} in {output}");
    }
    let (code, output, _) = run(&["demo", "--json"]);
    assert_eq!(code, Some(0));
    let figures: Value = serde_json::from_str(&output).expect("one JSON object");
    assert_eq!(figures["bulk_bytes"], 64 << 20);
    assert_eq!(figures["handshake_us"].as_array().map(Vec::len), Some(3));
    for name in ["round_trip_us", "bulk_mb_per_s"] {
        assert!(
            figures[name].as_f64().is_some_and(|value| value > 0.0),
            "{name}"
        );
    }
}

#[test]
fn a_wrong_command_line_is_explained() {
    for line in [
        &["node", "--flux"] as &[&str],
        &["fly"],
        &[],
        &["node", "--connect", "nowhere"],
        &["node", "--listen", "localhost:1"],
    ] {
        let (code, output, errors) = run(line);
        assert_eq!((code, output.as_str()), (Some(2), ""), "{line:?}");
        assert!(
            errors.contains("Usage") || errors.contains("--help"),
            "{errors}"
        );
    }
}

#[test]
fn help_and_version_are_no_errors() {
    for (line, text) in [
        (&["--help"] as &[&str], "mischief node --connect"),
        (&["node", "--help"], "--network-key-file net.key"),
        (&["--version"], env!("CARGO_PKG_VERSION")),
    ] {
        let (code, output, errors) = run(line);
        assert_eq!((code, errors.as_str()), (Some(0), ""));
        assert!(output.contains(text), "{output}");
    }
    let (_, output, _) = run(&["node", "--help"]);
    assert!(output.contains("Examples:"), "{output}");
}

#[test]
fn the_identity_is_made_once_and_shown_again() {
    let directory = TempDir::new();
    let path = directory.path("data");
    let (code, first, _) = run(&["id", "--data-dir", &path]);
    assert_eq!((code, first.len()), (Some(0), 53));
    let (_, second, _) = run(&["id", "--data-dir", &path, "--json"]);
    let second: Value = serde_json::from_str(&second).expect("one JSON object");
    assert_eq!(second["peer_id"], first.trim());
    assert_eq!(second["created"], false);
    // A running node has the directory locked; its identity can be asked for all the same.
    let node = Started::of(on_directory(&path));
    assert_eq!(node.id, first.trim());
    let (code, third, _) = run(&["id", "--data-dir", &path]);
    assert_eq!((code, third), (Some(0), first));
    node.shut_down();
}

fn on_directory(path: &str) -> Program {
    let arguments = [
        "node",
        "--json",
        "--listen",
        "127.0.0.1:0",
        "--data-dir",
        path,
    ];
    Program::start(&arguments)
}

/// Runs a node that cannot start: what it says on stderr.
#[track_caller]
fn fails(arguments: &[&str]) -> String {
    let (code, output, errors) = run(&[&["node", "--json"], arguments].concat());
    assert_eq!((code, output.as_str()), (Some(1), ""), "{errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
    errors
}

#[test]
fn a_data_directory_has_one_node_at_a_time() {
    let directory = TempDir::new();
    let path = directory.path("data");
    let mut first = Started::of(on_directory(&path));
    let errors = fails(&["--data-dir", &path]);
    assert!(
        errors.contains("in use") && errors.contains(&path),
        "{errors}"
    );
    first.program.ask_well(json!({"cmd": "id"}));
    first.shut_down();
    Started::of(on_directory(&path)).shut_down();
}

#[test]
fn what_cannot_be_used_is_named() {
    let directory = TempDir::new();
    // Root may write anywhere, but nobody below a file.
    let file = directory.path("file");
    fs::write(&file, "").expect("the directory can be written to");
    let below = format!("{file}/data");
    let errors = fails(&["--data-dir", &below]);
    assert!(
        errors.contains("cannot be used") && errors.contains(&below),
        "{errors}"
    );

    let damaged = directory.path("damaged");
    fs::create_dir(&damaged).expect("the directory can be written to");
    fs::write(format!("{damaged}/identity.key"), "rubbish").expect("it can be written to");
    let errors = fails(&["--data-dir", &damaged]);
    assert!(errors.contains("identity.key"), "{errors}");
    let kept = fs::read_to_string(format!("{damaged}/identity.key"));
    assert_eq!(kept.expect("it is still there"), "rubbish");

    for (name, content) in [
        ("short", "12ab"),
        ("no-hex", &"x".repeat(64)[..]),
        ("empty", ""),
    ] {
        let path = directory.path(name);
        fs::write(&path, content).expect("the directory can be written to");
        let errors = fails(&["--ephemeral", "--network-key-file", &path]);
        assert!(
            errors.contains(&path) && !errors.contains("12ab"),
            "{errors}"
        );
    }
    let errors = fails(&[
        "--ephemeral",
        "--network-key-file",
        &directory.path("missing"),
    ]);
    assert!(errors.contains("missing"), "{errors}");
}

#[test]
fn a_port_in_use_is_noticed() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("loopback can be listened on");
    let addr = taken.local_addr().expect("it is bound").to_string();
    for cores in ["1", "2"] {
        let errors = fails(&["--ephemeral", "--listen", &addr, "--cores", cores]);
        assert!(errors.contains(&addr), "{errors}");
    }
    let first = Started::new(&["--listen", "127.0.0.1:0", "--cores", "2"]);
    let errors = fails(&["--ephemeral", "--listen", &first.addr, "--cores", "2"]);
    assert!(errors.contains(&first.addr), "{errors}");
}

#[test]
fn several_cores_serve_one_port() {
    let mut node = Started::new(&["--listen", "127.0.0.1:0", "--cores", "2"]);
    for _ in 0..4 {
        let mut other = Started::new(&["--listen", "127.0.0.1:0"]);
        other.connect(&mut node);
        other
            .program
            .ask_well(json!({"cmd": "send_text", "peer": node.id, "text": "x"}));
        node.program.event("text");
        other.shut_down();
        node.program.event("peer_disconnected");
    }
    node.shut_down();
}

#[test]
fn without_an_address_it_listens_everywhere_on_one_port() {
    let mut program = Program::node(&[]);
    let ready = program.event("ready");
    let addrs: Vec<std::net::SocketAddr> = ready["listen"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|addr| {
            addr.as_str()
                .and_then(|addr| addr.parse().ok())
                .expect("an address")
        })
        .collect();
    assert!(
        addrs
            .iter()
            .all(|addr| addr.ip().is_unspecified() && addr.port() != 0)
    );
    assert!((1..=2).contains(&addrs.len()), "{addrs:?}");
    let other = Started::new(&["--listen", "127.0.0.1:0"]);
    drop(other);
    let port = addrs[0].port();
    TcpStream::connect(("127.0.0.1", port)).expect("it listens on IPv4");
    if TcpListener::bind("[::1]:0").is_ok() {
        assert_eq!(addrs.len(), 2, "{addrs:?}");
        TcpStream::connect(("::1", addrs[1].port())).expect("it listens on IPv6");
    }
}

#[test]
fn signals_end_a_node_after_what_was_sent() {
    for name in ["TERM", "INT"] {
        let mut other = Started::new(&["--listen", "127.0.0.1:0"]);
        let mut node = Started::new(&["--listen", "127.0.0.1:0"]);
        node.connect(&mut other);
        let text = "x".repeat(200_000);
        for number in 0..4 {
            let text = format!("{number}{text}");
            node.program
                .ask_well(json!({"cmd": "send_text", "peer": other.id, "text": text}));
        }
        node.program.signal(name);
        assert_eq!(
            node.program.event("stopped")["reason"],
            format!("SIG{name}")
        );
        assert_eq!(node.program.code(), Some(0));
        for number in 0..4 {
            let event = other.program.event("text");
            assert_eq!(event["text"], format!("{number}{text}"));
        }
        let event = other.program.event("peer_disconnected");
        assert_eq!(event["peer"], node.id.as_str());
        assert_eq!(event["reason"], "stopping", "it was told why");
    }
}

#[test]
fn a_killed_node_comes_back_as_the_same() {
    let directory = TempDir::new();
    let path = directory.path("data");
    let mut first = Started::of(on_directory(&path));
    first.program.signal("KILL");
    assert_eq!(first.program.code(), None);
    let second = Started::of(on_directory(&path));
    assert_eq!(second.id, first.id);
    second.shut_down();
}

#[test]
fn an_ephemeral_node_leaves_nothing_and_needs_no_home() {
    let (first, second) = (Started::new(&[]), Started::new(&[]));
    assert_ne!(first.id, second.id);
    first.shut_down();
    second.shut_down();
    let path = format!("{}/.local/state/mischief", env!("CARGO_TARGET_TMPDIR"));
    assert!(
        !fs::exists(&path).expect("it can be asked"),
        "{path} was made"
    );
}

#[test]
fn people_talk_over_a_pipe_and_nothing_harmful_reaches_their_terminal() {
    let mut console = Program::start(&[
        "node",
        "--ephemeral",
        "--listen",
        "127.0.0.1:0",
        "--protocol",
        "chat/2.0",
        "--name",
        "anna",
    ]);
    let listening = console.line_with("listening on ");
    let addr = listening
        .rsplit(' ')
        .next()
        .expect("a line has words")
        .to_owned();
    let hint = console.line_with("mischief node --connect");
    assert!(
        hint.contains(&addr) && hint.contains("--protocol chat/2.0"),
        "{hint}"
    );
    let mut other = Started::new(&["--protocol", "chat/2.0", "--connect", &addr]);
    let event = other.program.event("peer_connected");
    assert_eq!(event["name"], "anna");
    console.line_with("connected from");
    console.write("hello there");
    assert_eq!(other.program.event("text")["text"], "hello there");
    console.write("//slash");
    assert_eq!(other.program.event("text")["text"], "/slash");

    let hostile = "a\u{1b}[2J\u{7}\r\nmischief: error: b\u{9b}31m\u{202e}c";
    other
        .program
        .ask_well(json!({"cmd": "send_text", "text": hostile}));
    let shown = console.line_with("[2J");
    assert!(
        !shown.chars().any(char::is_control) && shown.contains("error: b"),
        "{shown:?}"
    );
    other
        .program
        .ask_well(json!({"cmd": "send", "type": "t\u{1b}x", "data": hostile}));
    let shown = console.line_with("t\\u{1b}x");
    assert!(!shown.chars().any(char::is_control), "{shown:?}");
    other
        .program
        .ask_well(json!({"cmd": "send_bytes", "base64": "AAEC"}));
    console.line_with("[3 B]");

    console.write("/peers");
    console.line_with("PEER");
    console.line_with(&other.id[..8]);
    console.write("/nonsense");
    console.write("/help");
    console.line_with("/disconnect");
    console.write(format!("/disconnect {}", &other.id[..8]));
    console.line_with("is gone");
    assert_eq!(
        other.program.event("peer_disconnected")["reason"],
        "by_peer"
    );
    console.write("/quit");
    assert_eq!(console.code(), Some(0));
    let errors = console.errors();
    assert!(errors.contains("no command /nonsense"), "{errors}");
}

#[test]
fn a_peer_cannot_write_to_stderr_what_harms_a_terminal() {
    // A dial to a port that answers nonsense: the diagnostic names it, and stays one line.
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback can be listened on");
    let addr = listener.local_addr().expect("it is bound").to_string();
    let mut console = Program::start(&[
        "node",
        "--ephemeral",
        "--no-mdns",
        "--no-dht",
        "--exit-on-eof",
        "--connect",
        &addr,
    ]);
    let (mut socket, _) = listener.accept().expect("the node dials");
    socket
        .write_all(b"\x1b[2J\x1b[31mhello\n")
        .expect("the node reads");
    let _ = socket.read_to_end(&mut Vec::new());
    drop(console.take_stdin());
    let errors = console.errors();
    assert_eq!(errors.lines().count(), 2, "{errors:?}");
    assert!(
        !errors.replace('\n', "").chars().any(char::is_control),
        "{errors:?}"
    );
    assert_eq!(console.code(), Some(5));
}

/// The code that only a start runs is most of what a node that waits would hold.
#[test]
fn a_node_that_has_started_gives_the_memory_of_its_start_back() {
    let mut program = Program::node(&["--listen", "127.0.0.1:0"]);
    program.event("ready");
    let began = Instant::now();
    // Systems without such a file do not give it back either.
    while program
        .resident_of_files_kib()
        .is_some_and(|kib| kib > 4096)
    {
        assert!(began.elapsed() < LONG);
        thread::sleep(Duration::from_millis(10));
    }
    program.ask_well(json!({"cmd": "shutdown"}));
    assert_eq!(program.code(), Some(0));
}
