//! How large is the program that a user downloads?
//!
//! Reads the stripped size of the release binary; `--binary FILE` names another than the static one in the target folder.

use std::path::PathBuf;
use std::process::Command;

use mischief_benches::harness::{Bench, Budget};
use mischief_benches::product;

fn main() {
    let bench = Bench::new("size");
    let found: Vec<PathBuf> = match bench.option::<PathBuf>("--binary") {
        Some(path) => vec![path],
        None => product::binaries(),
    };
    if found.is_empty() {
        bench.note(
            "there is no release binary: cargo build --release --target x86_64-unknown-linux-musl",
        );
    }
    for path in found {
        let stripped = std::env::temp_dir().join(format!("mischief-size-{}", std::process::id()));
        let is_stripped = Command::new("strip")
            .arg("-o")
            .arg(&stripped)
            .arg(&path)
            .status();
        let file = if is_stripped.is_ok_and(|status| status.success()) {
            &stripped
        } else {
            &path
        };
        let size = std::fs::metadata(file)
            .expect("it was found just now")
            .len();
        let budget = if product::is_static(&path) {
            Budget::AtMost(3.0)
        } else {
            Budget::None
        };
        let what = format!("{}, stripped", product::name_of(&path));
        bench.figure(&what, "MiB", budget, &[size as f64 / f64::from(1 << 20)]);
        let _ = std::fs::remove_file(&stripped);
    }
}
