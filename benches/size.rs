//! How large is the program that a user downloads?
//!
//! Reads the stripped size of the release binary; `--binary FILE` names another than the static one in the target folder.

use std::path::{Path, PathBuf};
use std::process::Command;

use mischief_benches::harness::{Bench, Budget};
use mischief_benches::product;
use mischief_benches::session::Kind;
use serde_json::json;

fn main() {
    let bench = Bench::new("size");
    let found: Vec<PathBuf> = match bench.option::<PathBuf>("--binary") {
        Some(path) => vec![path],
        None => product::binaries(),
    };
    if found.is_empty() {
        bench.note(
            "there is no static binary: cargo build --profile small --target x86_64-unknown-linux-musl",
        );
    }
    let nodes = [Kind::Mischief, Kind::MischiefMusl, Kind::Libp2pDefault]
        .map(|kind| (kind, kind.program()));
    for (kind, path) in nodes.iter().filter(|(_, path)| path.is_file()) {
        let mut case = json!({"program": "node"});
        if *kind == Kind::MischiefMusl {
            case["libc"] = "musl".into();
        }
        let names: &[&str] = if *kind == Kind::Libp2pDefault {
            &["libp2p-default", "libp2p-tuned", "libp2p-full"]
        } else {
            &["mischief"]
        };
        let size = stripped_size(path) / 1024.0;
        for name in names.iter().filter(|_| bench.is_json()) {
            bench.row("binary_kb", name, &case, &[size]);
        }
    }
    for (feature, path) in by_feature() {
        let case = json!({"program": "daemon", "features": feature});
        bench.result("binary_kb", &case, &[stripped_size(&path) / 1024.0]);
    }
    for path in found {
        let size = stripped_size(&path);
        let budget = if product::is_static(&path) {
            Budget::AtMost(3.0)
        } else {
            Budget::None
        };
        let what = format!("{}, stripped", product::name_of(&path));
        bench.figure(&what, "MiB", budget, &[size / f64::from(1 << 20)]);
        let mut case = json!({"program": "daemon", "features": "default"});
        if product::is_static(&path) {
            case["libc"] = "musl".into();
        }
        bench.result("binary_kb", &case, &[size / 1024.0]);
    }
}

/// Programs with one feature each, and with `none`, in the folder that `MISCHIEF_FEATURE_BINARIES` names, if it is there.
fn by_feature() -> Vec<(String, PathBuf)> {
    let folder = std::env::var_os("MISCHIEF_FEATURE_BINARIES").unwrap_or_default();
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let named = |entry: std::fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        Some((name, entry.path()))
    };
    let mut found: Vec<_> = entries.filter_map(named).collect();
    found.sort();
    found
}

/// Bytes of a program without its symbols.
fn stripped_size(path: &Path) -> f64 {
    let stripped = std::env::temp_dir().join(format!("mischief-size-{}", std::process::id()));
    let is_stripped = Command::new("strip")
        .arg("-o")
        .arg(&stripped)
        .arg(path)
        .status();
    let is_stripped = is_stripped.is_ok_and(|status| status.success());
    let file = if is_stripped { &stripped } else { path };
    let size = std::fs::metadata(file)
        .expect("it was found just now")
        .len();
    let _ = std::fs::remove_file(&stripped);
    size as f64
}
