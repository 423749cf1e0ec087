//! Reads the sources and proves what the design promises: the sentences with "never" in the README's code map.
//!
//! A rule that fails names the file, the line and the reason. Every rule is itself tested on a snippet that breaks it.

use std::fs;
use std::path::Path;

#[path = "tidy/rules.rs"]
mod rules;
#[path = "tidy/source.rs"]
mod source;

use rules::{Finding, Repository};

#[test]
fn the_repository_is_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    read_folder(root, "", &mut files);
    assert!(
        files.iter().any(|(path, _)| path == "src/lib.rs"),
        "the sources are there"
    );
    let findings = rules::all(&Repository::new(files));
    let listed: String = findings
        .iter()
        .map(|finding| format!("  {finding}\n"))
        .collect();
    assert!(
        findings.is_empty(),
        "{} places are not tidy:\n{listed}",
        findings.len()
    );
}

/// Reads all text files below `root/inside`, but for build results, the version control's own and recorded data.
fn read_folder(root: &Path, inside: &str, files: &mut Vec<(String, String)>) {
    let entries = fs::read_dir(root.join(inside)).expect("the repository can be listed");
    for entry in entries {
        let entry = entry.expect("the repository can be listed");
        let name = entry
            .file_name()
            .into_string()
            .expect("file names are UTF-8");
        let path = if inside.is_empty() {
            name.clone()
        } else {
            format!("{inside}/{name}")
        };
        let kind = entry.file_type().expect("the kind of a file is known");
        if kind.is_dir() && !matches!(name.as_str(), "target" | ".git" | "__pycache__" | "corpus") {
            read_folder(root, &path, files);
        } else if kind.is_file()
            && name != ".git"
            && let Ok(text) = fs::read_to_string(root.join(&path))
        {
            files.push((path, text));
        }
    }
}

fn check(files: &[(&str, &str)]) -> Vec<Finding> {
    let own = |&(path, text): &(&str, &str)| (path.to_owned(), text.to_owned());
    rules::all(&Repository::new(files.iter().map(own).collect()))
}

/// A whole subsystem named `good`, with one of its files replaced by, or extended with, `file`.
fn check_in_subsystem(file: (&str, &str)) -> Vec<Finding> {
    let mut files = vec![
        ("actors/good/mod.rs", "//! A subsystem."),
        ("actors/good/actor.rs", "use std::net::TcpStream;"),
        ("actors/good/machine.rs", "struct Machine;"),
        ("actors/good/error.rs", "enum Error {}"),
        ("actors/good/tests/machine.rs", "use std::fs;"),
    ];
    files.retain(|(path, _)| *path != file.0);
    files.push(file);
    check(&files)
}

#[track_caller]
fn assert_found(findings: &[Finding], path: &str, line: usize, why: &str) {
    let is_it = |finding: &&Finding| {
        finding.path == path && finding.line == line && finding.why.contains(why)
    };
    assert!(
        findings.iter().any(|finding| is_it(&finding)),
        "no {path}:{line} {why:?} in {findings:#?}"
    );
}

#[track_caller]
fn assert_clean(findings: &[Finding]) {
    assert!(findings.is_empty(), "{findings:#?}");
}

#[test]
fn a_machine_that_names_the_outside_is_found() {
    for (code, why) in [
        ("use std::net::{IpAddr, TcpStream};", "a socket"),
        ("use std::{fmt, fs::File};", "a file"),
        ("use mischief_reactor::io::driver::{Disk, Ecn};", "a file"),
        ("fn f() { std::thread::sleep(d) }", "a thread"),
        ("use std::time::{Duration, Instant};", "a clock"),
        ("fn f() -> std::time::SystemTime { g() }", "a clock"),
        ("use ring::rand::SystemRandom;", "a random source"),
        ("fn f() { println!(\"x\") }", "the console"),
        (
            "fn f(cx: &mut mischief_reactor::Context<'_, A>) {}",
            "the actor's context",
        ),
    ] {
        let text = format!("// A line before.\n{code}\n");
        let findings = check_in_subsystem(("actors/good/machine.rs", &text));
        assert_found(&findings, "actors/good/machine.rs", 2, why);
    }
}

#[test]
fn shells_tests_comments_and_strings_may_name_the_outside() {
    let machine = "/// Unlike `std::net::TcpStream`.\nfn f() -> &'static str { \"std::fs::File\" }\n\
                   use mischief_reactor::{Instant, WallTime};\nuse std::time::Duration;\n\
                   #[cfg(test)]\nmod tests { use std::thread; fn f() { thread::sleep(d) } }\n";
    assert_clean(&check_in_subsystem(("actors/good/machine.rs", machine)));
    assert_clean(&check_in_subsystem((
        "actors/good/dial_actor.rs",
        "use std::net::TcpStream;",
    )));
}

#[test]
fn a_lock_in_a_machine_is_found_but_not_in_the_stated_exceptions() {
    let code = "use parking_lot::Mutex;\n";
    let findings = check_in_subsystem(("actors/good/machine.rs", code));
    assert_found(&findings, "actors/good/machine.rs", 1, "never holds a lock");
    let admission = check_in_subsystem(("actors/connection/admission.rs", code));
    assert!(
        admission
            .iter()
            .all(|finding| !finding.why.contains("lock")),
        "{admission:#?}"
    );
}

#[test]
fn a_default_hashed_map_is_found() {
    let code = "use std::collections::HashMap;\nfn f() { let m = HashMap::new(); }\n";
    for file in ["actors/good/machine.rs", "actors/good/actor.rs"] {
        assert_found(&check_in_subsystem((file, code)), file, 2, "seeded hasher");
    }
}

#[test]
fn unsafe_outside_the_reactor_is_found() {
    let code = "#![forbid(unsafe_code)]\n// unsafe\nfn f() { unsafe { g() } }\n";
    assert_found(
        &check(&[("src/lib.rs", code)]),
        "src/lib.rs",
        3,
        "`unsafe` stays",
    );
    assert_found(
        &check(&[("tests/x.rs", code)]),
        "tests/x.rs",
        3,
        "`unsafe` stays",
    );
    assert_clean(&check(&[
        ("reactor/io/x.rs", code),
        ("tests/tidy.rs", "let a = \"unsafe\";"),
    ]));
    let allocator = "unsafe impl GlobalAlloc for Counting {}";
    assert_clean(&check(&[("benches/counting_allocator.rs", allocator)]));
    let two = check(&[
        ("benches/counting_allocator.rs", allocator),
        ("tests/counting_allocator.rs", allocator),
    ]);
    assert_found(
        &two,
        "tests/counting_allocator.rs",
        1,
        "one counting allocator",
    );
    assert_found(
        &check(&[("src/lib.rs", "//! Lib.")]),
        "src/lib.rs",
        1,
        "forbid(unsafe_code)",
    );
}

#[test]
fn what_depends_on_the_system_outside_the_reactor_is_found() {
    for code in [
        "#[cfg(unix)]\nfn f() {}",
        "#[cfg(not(any(windows, feature = \"x\")))]\nfn f() {}",
        "fn f() -> bool { cfg!(target_os = \"linux\") }",
        "#[cfg_attr(target_os = \"linux\", inline)]\nfn f() {}",
    ] {
        assert_found(
            &check(&[("src/a.rs", code)]),
            "src/a.rs",
            1,
            "stays in reactor/",
        );
        assert_clean(&check(&[("reactor/a.rs", code)]));
    }
    let code = "use std::os::unix::fs::OpenOptionsExt;";
    assert_found(&check(&[("src/a.rs", code)]), "src/a.rs", 1, "std::os");
    let manifest = "[package]\n[target.'cfg(unix)'.dependencies]\n";
    assert_found(
        &check(&[("Cargo.toml", manifest)]),
        "Cargo.toml",
        2,
        "stays in reactor/",
    );
    assert_clean(&check(&[(
        "src/a.rs",
        "#[cfg(feature = \"unix\")]\nfn unix() {}",
    )]));
}

#[test]
fn a_real_clock_outside_the_drivers_is_found() {
    let code = "use std::time::{Duration, Instant};";
    for file in ["reactor/core.rs", "src/node.rs"] {
        assert_found(&check(&[(file, code)]), file, 1, "`std::time::Instant`");
    }
    assert_clean(&check(&[
        ("reactor/io/clock.rs", code),
        ("tests/x.rs", code),
    ]));
    assert_clean(&check(&[("src/a.rs", "use mischief_reactor::Instant;")]));
}

#[test]
fn a_64_bit_atomic_is_found() {
    let code = "use std::sync::atomic::{AtomicU32,\n    AtomicU64};";
    assert_found(
        &check(&[("reactor/a.rs", code)]),
        "reactor/a.rs",
        2,
        "64-bit atomics",
    );
}

#[test]
fn a_dependency_that_points_up_is_found() {
    let up = check(&[("reactor/a.rs", "use mischief_actors::dht::Dht;")]);
    assert_found(&up, "reactor/a.rs", 1, "point down");
    let up = check(&[(
        "actors/lib.rs",
        "#![forbid(unsafe_code)]\nfn f() { mischief::Node::builder() }",
    )]);
    assert_found(&up, "actors/lib.rs", 2, "point down");
    let manifest = "[dependencies]\nmischief-actors.workspace = true\n";
    assert_found(
        &check(&[("reactor/Cargo.toml", manifest)]),
        "reactor/Cargo.toml",
        2,
        "point down",
    );
    assert_clean(&check(&[(
        "actors/Cargo.toml",
        "mischief-reactor.workspace = true\n",
    )]));
}

#[test]
fn a_subsystem_that_reaches_into_another_is_found() {
    for code in [
        "use crate::other::{Public, routing::Table};",
        "use crate::{other::routing::Table, good::Machine};",
        "fn f() { crate::other::routing::table() }",
        "use super::super::other::routing;",
    ] {
        let mut files = vec![("actors/good/machine.rs", code)];
        files.push(("actors/other/routing.rs", "pub struct Table;"));
        assert_found(
            &check(&files),
            "actors/good/machine.rs",
            1,
            "good reaches into other/routing",
        );
    }
    for code in [
        "use crate::other::Public;",
        "use crate::good::routing::Table;",
    ] {
        let files = [
            ("actors/good/machine.rs", code),
            ("actors/other/routing.rs", ""),
        ];
        let findings = check(&files);
        assert!(
            findings
                .iter()
                .all(|finding| !finding.why.contains("reaches into")),
            "{findings:#?}"
        );
    }
}

#[test]
fn what_a_subsystem_shows_may_be_used() {
    let user = (
        "actors/good/machine.rs",
        "use crate::other::routing::Table;",
    );
    for (root, is_found) in [
        ("//! O.\npub mod routing;\n", false),
        ("mod routing;\n", true),
    ] {
        let files = [
            user,
            ("actors/other/mod.rs", root),
            ("actors/other/routing.rs", ""),
        ];
        let is_it = |finding: &Finding| finding.why.contains("reaches into");
        assert_eq!(check(&files).iter().any(is_it), is_found);
    }
}

#[test]
fn a_subsystem_without_its_shape_is_found() {
    assert_clean(&check_in_subsystem((
        "actors/good/mod.rs",
        "//! A subsystem.",
    )));
    let undocumented = check_in_subsystem(("actors/good/mod.rs", "mod machine;"));
    assert_found(
        &undocumented,
        "actors/good/mod.rs",
        1,
        "what the subsystem is",
    );
    let findings = check(&[("actors/bare/mod.rs", "//! Bare.")]);
    for what in ["actor.rs", "a machine", "error.rs", "tests"] {
        assert_found(&findings, "actors/bare/mod.rs", 1, what);
    }
}

#[test]
fn a_foreign_runtime_is_found() {
    let lock = "[[package]]\nname = \"mio\"\n\n[[package]]\nname = \"tokio\"\n";
    let findings = check(&[("Cargo.lock", lock)]);
    assert_found(
        &findings,
        "Cargo.lock",
        5,
        "tokio is never part of the product",
    );
    assert_eq!(findings.len(), 1);
    assert_clean(&check(&[("benches/Cargo.lock", lock)]));
}

#[test]
fn a_place_on_one_machine_is_found() {
    let place = format!("cp /{}/file .", "tmp");
    assert_found(
        &check(&[("docs/a.md", &place)]),
        "docs/a.md",
        1,
        "a place on one machine",
    );
    assert_clean(&check(&[("docs/a.md", "a/tmp/file and $HOME/work/")]));
}

#[test]
fn a_readme_without_the_two_commands_is_found() {
    let findings = check(&[(
        "README.md",
        "# mischief\n\n    cargo run --release -- demo\n",
    )]);
    assert_eq!(findings.len(), 1);
    assert_found(&findings, "README.md", 1, "`cargo test`");
}

#[test]
fn masking_keeps_lines_and_tells_code_from_text() {
    let masked = source::mask_comments_and_literals(
        "a /* b /* c */ d */ e // f\n\"g\\\" h\" i r#\"j \" k\"# l '\"' m 'n o '\\'' p b\"q\" br\"r\" s'\nt",
    );
    let words: Vec<&str> = masked.split_whitespace().collect();
    assert_eq!(words, ["a", "e", "i", "l", "m", "'n", "o", "p", "s'", "t"]);
    assert_eq!(masked.lines().count(), 3);
}

#[test]
fn a_product_with_mistakes_is_found() {
    let good = "[features]\nsabotage = []\n[dev-dependencies]\nr = { features = [\"sabotage\"] }\n";
    assert_clean(&check(&[("reactor/Cargo.toml", good)]));
    for (bad, line) in [
        ("[features]\ndefault = [\"sabotage\"]\n", 2),
        ("[features]\nsabotage = []\nother = [\"r/sabotage\"]\n", 3),
        ("[dependencies]\nr = { features = [\"sabotage\"] }\n", 2),
    ] {
        let findings = check(&[("Cargo.toml", bad)]);
        assert_found(&findings, "Cargo.toml", line, "only a dev-dependency");
    }
}
