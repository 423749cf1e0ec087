//! Runs the binary, writes to it and reads its lines with deadlines.

#![allow(dead_code, reason = "every test file uses a part of it")]

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use serde_json::Value;

/// Nothing that is awaited takes this long unless something is broken.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// A running program.
pub(crate) struct Program {
    pid: u32,
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    lines: Option<Receiver<String>>,
    errors: Receiver<String>,
    status: Receiver<ExitStatus>,
    ended: Option<ExitStatus>,
    /// Lines that were read while something else was looked for.
    passed_over: VecDeque<Value>,
}

impl Program {
    /// Starts `mischief` with these arguments. Nothing of the caller's own state is used.
    pub(crate) fn start<S: AsRef<str>>(arguments: &[S]) -> Program {
        let mut program = Program::start_unread(arguments);
        program.read_stdout();
        program
    }

    /// The same without reading stdout, until [`Program::read_stdout`].
    pub(crate) fn start_unread<S: AsRef<str>>(arguments: &[S]) -> Program {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mischief"));
        command
            .args(arguments.iter().map(AsRef::as_ref))
            .env_remove("XDG_STATE_HOME")
            .env("HOME", env!("CARGO_TARGET_TMPDIR"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary starts");
        let (status_sender, status) = mpsc::channel();
        let stderr = child.stderr.take().expect("it is piped");
        let program = Program {
            pid: child.id(),
            stdin: child.stdin.take(),
            stdout: child.stdout.take(),
            lines: None,
            errors: read_lines(stderr),
            status,
            ended: None,
            passed_over: VecDeque::new(),
        };
        thread::spawn(move || {
            let status = child.wait().expect("it is our child");
            let _ = status_sender.send(status);
        });
        program
    }

    /// `mischief node --json --ephemeral --no-mdns` with further arguments: nodes of other tests must not connect to it.
    pub(crate) fn node(arguments: &[&str]) -> Program {
        let fixed = ["node", "--json", "--ephemeral", "--no-mdns"];
        let mut arguments = [&fixed[..], arguments].concat();
        if !arguments
            .iter()
            .any(|argument| argument.starts_with("--dht"))
        {
            // A test speaks to nobody outside.
            arguments.push("--no-dht");
        }
        Program::start(&arguments)
    }

    pub(crate) fn read_stdout(&mut self) {
        let stdout = self.stdout.take().expect("it is not read yet");
        self.lines = Some(read_lines(stdout));
    }

    /// Reads one line of JSON and leaves everything behind it unread.
    pub(crate) fn read_one_line(&mut self) -> Value {
        let stdout = self.stdout.as_mut().expect("it is not read yet");
        let mut line = Vec::new();
        let mut byte = [0];
        while byte != *b"\n" {
            stdout.read_exact(&mut byte).expect("a line comes");
            line.extend(byte);
        }
        serde_json::from_slice(&line).expect("it is JSON")
    }

    pub(crate) fn close_stdout(&mut self) {
        self.stdout = None;
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Writes a line.
    pub(crate) fn write(&mut self, line: impl AsRef<[u8]>) {
        let stdin = self.stdin.as_mut().expect("stdin is open");
        let line = [line.as_ref(), b"\n"].concat();
        stdin.write_all(&line).expect("the program reads");
    }

    /// Writes a line to a program that may be ending.
    pub(crate) fn write_if_open(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("stdin is open");
        let _ = writeln!(stdin, "{line}");
    }

    /// Takes stdin away, to be written to from elsewhere or to be closed.
    pub(crate) fn take_stdin(&mut self) -> ChildStdin {
        self.stdin.take().expect("stdin is open")
    }

    /// The next line of stdout; `None` at its end.
    pub(crate) fn line(&self) -> Option<String> {
        let lines = self.lines.as_ref().expect("stdout is read");
        match lines.recv_timeout(LONG) {
            Ok(line) => Some(line),
            Err(mpsc::RecvTimeoutError::Disconnected) => None,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                panic!("no line in time; stderr: {:?}", self.errors_so_far())
            }
        }
    }

    /// The next line of stdout that contains a text.
    #[track_caller]
    pub(crate) fn line_with(&self, text: &str) -> String {
        let mut seen = Vec::new();
        while let Some(line) = self.line() {
            if line.contains(text) {
                return line;
            }
            seen.push(line);
        }
        panic!(
            "no line has {text:?}: {seen:#?}; stderr: {:?}",
            self.errors_so_far()
        );
    }

    fn json(&self) -> Option<Value> {
        let line = self.line()?;
        let is_harmless = line.chars().all(|c| !c.is_control());
        assert!(is_harmless, "{line:?} has control characters");
        Some(serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}")))
    }

    /// The next object that fits; what comes before it is kept for later.
    #[track_caller]
    pub(crate) fn find(&mut self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        if let Some(place) = self.passed_over.iter().position(&fits) {
            return self.passed_over.remove(place).expect("it is there");
        }
        while let Some(value) = self.json() {
            if fits(&value) {
                return value;
            }
            self.passed_over.push_back(value);
        }
        panic!(
            "stdout has ended without {what}; seen {:#?}; stderr: {:?}",
            self.passed_over,
            self.errors_so_far()
        );
    }

    /// The next event of this name.
    #[track_caller]
    pub(crate) fn event(&mut self, name: &str) -> Value {
        self.find(name, |value| value["event"] == name)
    }

    /// The answer to the request with this id.
    #[track_caller]
    pub(crate) fn reply(&mut self, id: impl Into<Value>) -> Value {
        let id = id.into();
        self.find(&format!("an answer to {id}"), |value| {
            value.get("ok").is_some() && value["id"] == id
        })
    }

    /// Writes a command, given without its id, and waits for its answer.
    #[track_caller]
    pub(crate) fn ask(&mut self, mut command: Value) -> Value {
        static IDS: AtomicUsize = AtomicUsize::new(1);
        let id = IDS.fetch_add(1, Ordering::Relaxed);
        command["id"] = id.into();
        self.write(command.to_string());
        self.reply(id)
    }

    /// The same for a command that succeeds.
    #[track_caller]
    pub(crate) fn ask_well(&mut self, command: Value) -> Value {
        let answer = self.ask(command.clone());
        assert_eq!(answer["ok"], true, "{command}: {answer}");
        answer
    }

    /// The same for a command that fails: the kind of its error.
    #[track_caller]
    pub(crate) fn ask_badly(&mut self, command: Value) -> String {
        let answer = self.ask(command.clone());
        assert_eq!(answer["ok"], false, "{command}: {answer}");
        kind_of(&answer)
    }

    /// Everything that comes on stdout until it ends, besides what was looked for.
    pub(crate) fn rest(&mut self) -> Vec<Value> {
        let mut rest = Vec::from(std::mem::take(&mut self.passed_over));
        while let Some(value) = self.json() {
            rest.push(value);
        }
        rest
    }

    fn errors_so_far(&self) -> Vec<String> {
        self.errors.try_iter().collect()
    }

    /// The next line of stderr that contains a text.
    #[track_caller]
    pub(crate) fn error_with(&self, text: &str) -> String {
        let mut seen = Vec::new();
        while let Ok(line) = self.errors.recv_timeout(LONG) {
            if line.contains(text) {
                return line;
            }
            seen.push(line);
        }
        panic!("no line of stderr has {text:?}: {seen:#?}");
    }

    /// All of stderr, once it has ended.
    pub(crate) fn errors(&self) -> String {
        let mut all = String::new();
        while let Ok(line) = self.errors.recv_timeout(LONG) {
            all += &line;
            all.push('\n');
        }
        all
    }

    /// Asks the system to give the program a signal, by its short name.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.pid.to_string();
        let status = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(status.expect("kill runs").success());
    }

    /// Waits for the end; `None` if a signal was the cause.
    pub(crate) fn code(&mut self) -> Option<i32> {
        let has_ended = self.has_ended_within(LONG);
        assert!(has_ended, "it does not end: {:?}", self.errors_so_far());
        self.ended.and_then(|status| status.code())
    }

    pub(crate) fn has_ended_within(&mut self, timeout: Duration) -> bool {
        if self.ended.is_none() {
            self.ended = self.status.recv_timeout(timeout).ok();
        }
        self.ended.is_some()
    }

    /// Resident memory in KiB, where the system has a file that says so.
    pub(crate) fn resident_kib(&self) -> Option<u64> {
        self.status_kib("VmRSS:")
    }

    /// Resident pages of files, code above all, in KiB.
    pub(crate) fn resident_of_files_kib(&self) -> Option<u64> {
        self.status_kib("RssFile:")
    }

    fn status_kib(&self, field: &str) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(field))?;
        line.split_whitespace().next()?.parse().ok()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if !self.has_ended_within(Duration::ZERO) {
            self.signal("KILL");
        }
    }
}

#[track_caller]
pub(crate) fn kind_of(answer: &Value) -> String {
    let error = &answer["error"];
    assert!(error["message"].is_string(), "{answer}");
    error["kind"]
        .as_str()
        .expect("errors have kinds")
        .to_owned()
}

fn read_lines(source: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(source).split(b'\n') {
            let Ok(line) = line else { return };
            let line = String::from_utf8(line).expect("the output is UTF-8");
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// A running `mischief node --json` with what it said at its start.
pub(crate) struct Started {
    pub(crate) program: Program,
    pub(crate) id: String,
    pub(crate) addr: String,
}

impl Started {
    pub(crate) fn new(arguments: &[&str]) -> Started {
        Started::of(Program::node(arguments))
    }

    pub(crate) fn of(mut program: Program) -> Started {
        let ready = program.event("ready");
        assert!(program.passed_over.is_empty(), "`ready` comes first");
        let text = |value: &Value| value.as_str().expect("it is a text").to_owned();
        Started {
            id: text(&ready["peer_id"]),
            addr: ready["listen"].get(0).map(text).unwrap_or_default(),
            program,
        }
    }

    /// Connects to another node and waits until both have said so.
    #[track_caller]
    pub(crate) fn connect(&mut self, other: &mut Started) {
        let command = serde_json::json!({"cmd": "connect", "addr": other.addr});
        let answer = self.program.ask_well(command);
        assert_eq!(answer["peer"], other.id.as_str());
        let (mine, theirs) = (self.id.clone(), other.id.clone());
        self.program.find("its peer", |value| {
            value["event"] == "peer_connected" && value["peer"] == theirs.as_str()
        });
        other.program.find("its peer", |value| {
            value["event"] == "peer_connected" && value["peer"] == mine.as_str()
        });
    }

    /// Ends it in good order.
    #[track_caller]
    pub(crate) fn shut_down(mut self) {
        self.program
            .ask_well(serde_json::json!({"cmd": "shutdown"}));
        self.program.event("stopped");
        assert_eq!(self.program.code(), Some(0));
    }
}

/// A directory of a test's own, removed at its end.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new() -> TempDir {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{number}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&path).expect("the build directory can be written to");
        TempDir(path)
    }

    pub(crate) fn path(&self, name: &str) -> String {
        let path = self.0.join(name);
        path.to_str().expect("the path is UTF-8").to_owned()
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs a program to its end: exit code, stdout and stderr.
pub(crate) fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut program = Program::start(arguments);
    drop(program.take_stdin());
    let mut output = String::new();
    while let Some(line) = program.line() {
        output += &line;
        output.push('\n');
    }
    let errors = program.errors();
    (program.code(), output, errors)
}
