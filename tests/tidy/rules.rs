//! The rules themselves. Each takes the repository and returns what breaks it.

use std::collections::BTreeSet;
use std::fmt;

use crate::source::{NamedPath, Source, Token, tokens};

/// The files of the repository, read from disk or written by a test of the rules.
#[derive(Default)]
pub(crate) struct Repository {
    /// Every text file: path from the root with forward slashes, and content.
    pub(crate) files: Vec<(String, String)>,
    sources: Vec<Source>,
}

impl Repository {
    pub(crate) fn new(files: Vec<(String, String)>) -> Repository {
        let is_rust = |(path, _): &&(String, String)| path.ends_with(".rs");
        let sources = files
            .iter()
            .filter(is_rust)
            .map(|(path, text)| Source::new(path, text))
            .collect();
        Repository { files, sources }
    }

    fn text(&self, path: &str) -> Option<&str> {
        self.files
            .iter()
            .find(|(name, _)| name == path)
            .map(|(_, text)| text.as_str())
    }

    fn has(&self, path: &str) -> bool {
        self.text(path).is_some()
    }

    fn has_below(&self, folder: &str) -> bool {
        self.files.iter().any(|(path, _)| path.starts_with(folder))
    }

    fn sources_below<'a>(&'a self, folder: &'a str) -> impl Iterator<Item = &'a Source> {
        self.sources
            .iter()
            .filter(move |source| source.path.starts_with(folder))
    }
}

/// A place that breaks a rule, and why it matters.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    pub(crate) path: String,
    pub(crate) line: usize,
    pub(crate) why: String,
}

impl Finding {
    fn new(path: &str, line: usize, why: impl Into<String>) -> Finding {
        Finding {
            path: path.to_owned(),
            line,
            why: why.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.why)
    }
}

/// Runs every rule.
pub(crate) fn all(repository: &Repository) -> Vec<Finding> {
    let rules: [fn(&Repository) -> Vec<Finding>; 14] = [
        machines_are_sans_io,
        machines_hold_no_lock,
        hashing_is_seeded,
        unsafe_stays_in_the_reactor,
        systems_stay_in_the_reactor,
        clocks_stay_in_the_drivers,
        no_64_bit_atomics,
        nothing_points_up,
        subsystems_keep_their_insides,
        subsystems_have_their_shape,
        no_foreign_runtime,
        mistakes_stay_in_tests,
        no_workplace,
        readme_has_the_commands,
    ];
    let mut findings: Vec<Finding> = rules.iter().flat_map(|rule| rule(repository)).collect();
    findings.sort();
    findings.dedup();
    findings
}

/// Whether a file below `actors/` must be a pure machine: everything but the shells and the tests.
fn is_machine(path: &str) -> bool {
    let Some(inside) = path.strip_prefix("actors/") else {
        return false;
    };
    !is_test(inside)
        && !inside
            .split('/')
            .any(|part| part == "actor" || part == "actor.rs" || part.ends_with("_actor.rs"))
}

fn is_test(path: &str) -> bool {
    path.split('/').any(|part| {
        matches!(part, "tests" | "benches" | "examples" | "tests.rs") || part.ends_with("_tests.rs")
    })
}

/// What a machine may not name: paths, and what they stand for.
const OUTSIDE: [(&str, &str); 43] = [
    ("TcpStream", "a socket"),
    ("TcpListener", "a socket"),
    ("UdpSocket", "a socket"),
    ("UnixStream", "a socket"),
    ("UnixListener", "a socket"),
    ("UnixDatagram", "a socket"),
    ("ToSocketAddrs", "name resolution"),
    ("socket2", "a socket"),
    ("mio", "a socket"),
    ("polling", "a socket"),
    ("if_addrs", "the interfaces"),
    ("libc", "the operating system"),
    ("SocketId", "a socket"),
    ("DetachedSocket", "a socket"),
    ("mischief_reactor::Driver", "the driver"),
    ("mischief_reactor::io::Driver", "the driver"),
    ("io::driver::Driver", "the driver"),
    ("Disk", "a file"),
    ("DiskFile", "a file"),
    ("OpenOptions", "a file"),
    ("std::fs", "a file"),
    ("std::os", "the operating system"),
    ("std::env", "the environment"),
    ("std::process", "a process"),
    ("std::io::stdin", "the console"),
    ("std::io::stdout", "the console"),
    ("std::io::stderr", "the console"),
    ("println", "the console"),
    ("eprintln", "the console"),
    ("std::thread", "a thread"),
    ("std::sync::mpsc", "a thread"),
    ("crossbeam_channel", "a thread"),
    ("mischief_reactor::Context", "the actor's context"),
    ("actor::Context", "the actor's context"),
    ("mischief_reactor::Runtime", "the runtime"),
    ("std::time::Instant", "a clock"),
    ("SystemTime", "a clock"),
    ("UNIX_EPOCH", "a clock"),
    ("chrono", "a clock"),
    ("getrandom", "a random source"),
    ("OsRng", "a random source"),
    ("SystemRandom", "a random source"),
    ("thread_rng", "a random source"),
];

/// A machine is handed time, bytes and randomness; one that fetches them itself cannot be simulated or replayed.
fn machines_are_sans_io(repository: &Repository) -> Vec<Finding> {
    let machines = repository
        .sources_below("actors/")
        .filter(|source| is_machine(&source.path));
    let mut findings = Vec::new();
    for source in machines {
        for path in source.paths() {
            if let Some((name, what)) = OUTSIDE.iter().find(|(name, _)| path.contains(name)) {
                let why = format!(
                    "`{name}`: a machine never names {what}; it is handed in, or belongs in actor.rs"
                );
                findings.push(Finding::new(&source.path, path.line, why));
            }
        }
    }
    findings
}

/// The stated exceptions: the admission counters are one small locked table that all cores share, a link is where a
/// connection meets the threads outside, and the roster is where those find the peers.
const LOCKED: [&str; 3] = [
    "actors/connection/admission.rs",
    "actors/connection/link.rs",
    "actors/peers/roster.rs",
];

/// One core owns its actors, so a machine has nothing to lock.
fn machines_hold_no_lock(repository: &Repository) -> Vec<Finding> {
    const LOCKS: [&str; 5] = [
        "Mutex",
        "RwLock",
        "Condvar",
        "parking_lot",
        "std::sync::atomic",
    ];
    let machines = repository
        .sources_below("actors/")
        .filter(|source| is_machine(&source.path) && !LOCKED.contains(&source.path.as_str()));
    forbid_paths(
        machines,
        &LOCKS,
        "one core owns its actors: a machine never holds a lock",
    )
}

/// The standard hasher takes its seed from the system, so the order of a map would differ from run to run.
fn hashing_is_seeded(repository: &Repository) -> Vec<Finding> {
    const UNSEEDED: [&str; 5] = [
        "RandomState",
        "HashMap::new",
        "HashMap::with_capacity",
        "HashSet::new",
        "HashSet::with_capacity",
    ];
    let sources = repository
        .sources_below("actors/")
        .filter(|source| !is_test(&source.path));
    let why = "the order of a default-hashed map differs from run to run: use a BTreeMap or a seeded hasher";
    forbid_paths(sources, &UNSEEDED, why)
}

/// The only file outside of `reactor/` that may be unsafe: an allocator that counts, for tests and benches.
const COUNTING_ALLOCATOR: &str = "counting_allocator.rs";

fn unsafe_stays_in_the_reactor(repository: &Repository) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut allocators = BTreeSet::new();
    for source in repository
        .sources
        .iter()
        .filter(|source| !source.path.starts_with("reactor/"))
    {
        let file = source.path.rsplit('/').next().unwrap_or_default();
        let may_allocate = is_test(&source.path) && file == COUNTING_ALLOCATOR;
        for token in words(&source.code_with_tests, &["unsafe"]) {
            if may_allocate {
                allocators.insert(&source.path);
                continue;
            }
            let why = "`unsafe` stays in reactor/ (and in one counting_allocator.rs of tests and benches)";
            findings.push(Finding::new(&source.path, token.line, why));
        }
    }
    for extra in allocators.iter().skip(1) {
        findings.push(Finding::new(
            extra,
            1,
            "one counting allocator is enough: share it",
        ));
    }
    for root in ["actors/lib.rs", "src/lib.rs", "src/bin/mischief/main.rs"] {
        let forbids = |text: &str| text.contains("#![forbid(unsafe_code)]");
        if repository.text(root).is_some_and(|text| !forbids(text)) {
            findings.push(Finding::new(
                root,
                1,
                "a crate root says #![forbid(unsafe_code)]",
            ));
        }
    }
    findings
}

/// What differs between systems is behind the driver; everything above it is the same everywhere.
fn systems_stay_in_the_reactor(repository: &Repository) -> Vec<Finding> {
    const SYSTEMS: [&str; 7] = [
        "unix",
        "windows",
        "target_os",
        "target_family",
        "target_env",
        "target_vendor",
        "wasm",
    ];
    let mut findings = Vec::new();
    for source in &repository.sources {
        if source.path.starts_with("reactor/") || is_test(&source.path) {
            continue;
        }
        for condition in cfg_conditions(&source.code_with_tests) {
            if let Some(token) = condition.iter().find(|token| SYSTEMS.contains(&token.text)) {
                let why = format!(
                    "cfg({}): what depends on the system stays in reactor/",
                    token.text
                );
                findings.push(Finding::new(&source.path, token.line, why));
            }
        }
        for path in source
            .paths()
            .iter()
            .filter(|path| path.contains("std::os"))
        {
            let why = "std::os: what depends on the system stays in reactor/";
            findings.push(Finding::new(&source.path, path.line, why));
        }
    }
    for manifest in ["Cargo.toml", "actors/Cargo.toml"] {
        let text = repository.text(manifest).unwrap_or_default();
        for (index, line) in text
            .lines()
            .enumerate()
            .filter(|(_, line)| line.starts_with("[target."))
        {
            let why = format!("{line}: what depends on the system stays in reactor/");
            findings.push(Finding::new(manifest, index + 1, why));
        }
    }
    findings
}

/// The tokens inside of each `cfg(…)`, `cfg!(…)` and `cfg_attr(…)`.
fn cfg_conditions(code: &str) -> Vec<Vec<Token<'_>>> {
    let tokens = tokens(code);
    let mut conditions = Vec::new();
    for at in 0..tokens.len() {
        if !matches!(tokens[at].text, "cfg" | "cfg_attr") {
            continue;
        }
        let is_macro = tokens.get(at + 1).is_some_and(|token| token.text == "!");
        let open = at + if is_macro { 2 } else { 1 };
        if tokens.get(open).is_none_or(|token| token.text != "(") {
            continue;
        }
        let mut depth = 0;
        let mut inside = Vec::new();
        for token in &tokens[open..] {
            match token.text {
                "(" => depth += 1,
                ")" => depth -= 1,
                _ => inside.push(*token),
            }
            if depth == 0 {
                break;
            }
        }
        conditions.push(inside);
    }
    conditions
}

/// Where a thread outside of the cores parks until a deadline. Only real runtimes come here: the simulator waits by
/// stepping its world.
const PARKED: &str = "reactor/actor/reply.rs";

/// Virtual time works only if nobody but a real driver asks the real clock.
fn clocks_stay_in_the_drivers(repository: &Repository) -> Vec<Finding> {
    const CLOCKS: [&str; 3] = ["std::time::Instant", "SystemTime", "UNIX_EPOCH"];
    let sources = repository.sources.iter().filter(|source| {
        let path = &source.path;
        let is_product = ["reactor/", "actors/", "src/"]
            .iter()
            .any(|crate_| path.starts_with(crate_));
        is_product && !path.starts_with("reactor/io/") && path != PARKED && !is_test(path)
    });
    forbid_paths(
        sources,
        &CLOCKS,
        "the real clocks stay in reactor/io: take `now` from outside",
    )
}

fn no_64_bit_atomics(repository: &Repository) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in &repository.sources {
        for token in words(&source.code_with_tests, &["AtomicU64", "AtomicI64"]) {
            let why = format!("{}: MIPS32 and ARMv5 have no 64-bit atomics", token.text);
            findings.push(Finding::new(&source.path, token.line, why));
        }
    }
    findings
}

/// `reactor` <- `actors` <- `src`.
fn nothing_points_up(repository: &Repository) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (below, above) in [
        ("reactor/", &["mischief_actors", "mischief"] as &[&str]),
        ("actors/", &["mischief"]),
    ] {
        for source in repository.sources_below(below) {
            for path in source.paths() {
                let first = &path.segments[0];
                if path.segments.len() > 1 && above.contains(&first.as_str()) {
                    let why = format!("{below} never knows `{first}`: dependencies point down");
                    findings.push(Finding::new(&source.path, path.line, why));
                }
            }
        }
        let manifest = format!("{below}Cargo.toml");
        let text = repository.text(&manifest).unwrap_or_default();
        for (index, line) in text.lines().enumerate() {
            let name = line
                .split(['.', '=', ' '])
                .next()
                .unwrap_or_default()
                .replace('-', "_");
            if above.contains(&name.as_str()) {
                let why = format!("{below} never depends on {name}: dependencies point down");
                findings.push(Finding::new(&manifest, index + 1, why));
            }
        }
    }
    findings
}

/// The folders of `actors/` that hold a subsystem.
fn subsystems(repository: &Repository) -> BTreeSet<&str> {
    let folder = |(path, _): &'_ (String, String)| -> Option<usize> {
        let inside = path.strip_prefix("actors/")?;
        let (name, _) = inside.split_once('/')?;
        (!matches!(name, "tests" | "examples" | "benches")).then_some(name.len())
    };
    repository
        .files
        .iter()
        .filter_map(|file| folder(file).map(|len| &file.0["actors/".len()..][..len]))
        .collect()
}

/// Subsystems meet through messages and what their `mod.rs` shows, never through each other's files.
fn subsystems_keep_their_insides(repository: &Repository) -> Vec<Finding> {
    let names = subsystems(repository);
    let mut findings = Vec::new();
    for own in &names {
        let folder = format!("actors/{own}/");
        for source in repository.sources_below(&folder) {
            for path in source.paths() {
                let Some((other, inside)) = foreign_module(&path) else {
                    continue;
                };
                let is_file = repository.has(&format!("actors/{other}/{inside}.rs"))
                    || repository.has_below(&format!("actors/{other}/{inside}/"));
                // What mod.rs makes public is what the subsystem shows.
                let root = repository.text(&format!("actors/{other}/mod.rs"));
                let is_shown = root.is_some_and(|root| {
                    root.lines()
                        .any(|line| line == format!("pub mod {inside};"))
                });
                if other != *own && names.contains(other) && is_file && !is_shown {
                    let why = format!(
                        "{own} reaches into {other}/{inside}: use what {other}/mod.rs shows, or a message"
                    );
                    findings.push(Finding::new(&source.path, path.line, why));
                }
            }
        }
    }
    findings
}

/// `other` and `inside` of `crate::other::inside…` or `super::super::other::inside…`.
fn foreign_module(path: &NamedPath) -> Option<(&str, &str)> {
    let mut segments = path.segments.iter().map(String::as_str);
    if !matches!(segments.next()?, "crate" | "super") {
        return None;
    }
    let other = segments.by_ref().find(|segment| *segment != "super")?;
    Some((other, segments.next()?))
}

/// One folder is one subsystem is one actor, and who knows one folder knows all.
fn subsystems_have_their_shape(repository: &Repository) -> Vec<Finding> {
    let mut findings = Vec::new();
    for name in subsystems(repository) {
        let folder = format!("actors/{name}/");
        let root = format!("{folder}mod.rs");
        match repository.text(&root) {
            None => findings.push(Finding::new(&root, 1, "a subsystem starts in its mod.rs")),
            Some(text) if !text.starts_with("//!") => {
                let why = "mod.rs starts by saying what the subsystem is, and what it leaves out";
                findings.push(Finding::new(&root, 1, why));
            }
            Some(_) => {}
        }
        let inside: Vec<&Source> = repository.sources_below(&folder).collect();
        let has_shell = inside
            .iter()
            .any(|source| !is_test(&source.path) && !is_machine(&source.path));
        let machines = inside.iter().filter(|source| {
            is_machine(&source.path)
                && !["mod.rs", "error.rs"]
                    .iter()
                    .any(|file| source.path.ends_with(file))
        });
        let has_tests = inside
            .iter()
            .any(|source| is_test(&source.path) || source.code != source.code_with_tests);
        for (is_there, what) in [
            (
                has_shell,
                "actor.rs, the shell with the mailbox, the sockets and the timers",
            ),
            (
                machines.count() > 0,
                "a machine that is handed time, bytes and randomness",
            ),
            (
                repository.has(&format!("{folder}error.rs")),
                "error.rs, one error enum",
            ),
            (has_tests, "tests"),
        ] {
            if !is_there {
                findings.push(Finding::new(&root, 1, format!("{name} has no {what}")));
            }
        }
    }
    findings
}

/// Packages that would bring a second runtime, a second TLS stack or another allocator into the product.
fn no_foreign_runtime(repository: &Repository) -> Vec<Finding> {
    const BANNED: [&str; 13] = [
        "tokio",
        "async-std",
        "smol",
        "async-io",
        "async-executor",
        "futures-executor",
        "glommio",
        "monoio",
        "openssl",
        "openssl-sys",
        "mimalloc",
        "tikv-jemallocator",
        "jemallocator",
    ];
    let lock = repository.text("Cargo.lock").unwrap_or_default();
    let mut findings = Vec::new();
    for (index, line) in lock.lines().enumerate() {
        let name = line
            .strip_prefix("name = ")
            .map(|name| name.trim_matches('"'));
        if let Some(name) = name.filter(|name| BANNED.contains(name)) {
            let why = format!("{name} is never part of the product");
            findings.push(Finding::new("Cargo.lock", index + 1, why));
        }
    }
    findings
}

/// A file that names the place it was written at does not work anywhere else.
/// The feature that compiles mistakes in is of the tests alone: no default, no other feature and no dependency of a
/// product switches it on.
fn mistakes_stay_in_tests(repository: &Repository) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in &repository.files {
        if !path.ends_with("Cargo.toml") {
            continue;
        }
        let mut section = "";
        for (index, line) in text.lines().enumerate() {
            if line.starts_with('[') {
                section = line;
            }
            let code = line.split('#').next().unwrap_or_default();
            let is_declared = section == "[features]" && code.trim() == "sabotage = []";
            let is_named = code.contains("sabotage") && !is_declared;
            if is_named && section != "[dev-dependencies]" {
                let why = "mistakes on purpose are for tests: only a dev-dependency has them";
                findings.push(Finding::new(path, index + 1, why));
            }
        }
    }
    findings
}

fn no_workplace(repository: &Repository) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in &repository.files {
        for (index, line) in text.lines().enumerate() {
            for folder in ["tmp", "work", "root"] {
                let place = format!("/{folder}/");
                let named = line.match_indices(&place).any(|(at, _)| {
                    // `a/work/b` and `$HOME/work/` are relative to something else.
                    !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._-~{}>*$".contains(c))
                });
                if named {
                    let why = format!("{place} is a place on one machine");
                    findings.push(Finding::new(path, index + 1, why));
                }
            }
        }
    }
    findings
}

/// The two commands that a stranger types first.
fn readme_has_the_commands(repository: &Repository) -> Vec<Finding> {
    let Some(readme) = repository.text("README.md") else {
        return Vec::new();
    };
    ["cargo run --release -- demo", "cargo test"]
        .iter()
        .filter(|command| !readme.lines().any(|line| line.trim() == **command))
        .map(|command| {
            Finding::new(
                "README.md",
                1,
                format!("`{command}` does not stand on a line of its own"),
            )
        })
        .collect()
}

fn forbid_paths<'a>(
    sources: impl Iterator<Item = &'a Source>,
    forbidden: &[&str],
    why: &str,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources {
        for path in source.paths() {
            if let Some(name) = forbidden.iter().find(|name| path.contains(name)) {
                findings.push(Finding::new(
                    &source.path,
                    path.line,
                    format!("`{name}`: {why}"),
                ));
            }
        }
    }
    findings
}

fn words<'a>(code: &'a str, wanted: &'a [&'a str]) -> impl Iterator<Item = Token<'a>> {
    tokens(code)
        .into_iter()
        .filter(move |token| wanted.contains(&token.text))
}
