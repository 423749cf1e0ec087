//! The binaries of the product, where its own workspace puts them.

use std::path::{Path, PathBuf};

/// The static program is built to be small, the other one to be fast.
const FOLDERS: [&str; 2] = ["x86_64-unknown-linux-musl/small", "release"];

/// The binaries that have been built. `MISCHIEF_TARGET_DIR` names the product's target folder, if it is not
/// `target` beside `benches`.
pub fn binaries() -> Vec<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    let folder = std::env::var_os("MISCHIEF_TARGET_DIR").map_or_else(beside, PathBuf::from);
    let path = |built: &&str| folder.join(built).join("mischief");
    FOLDERS
        .iter()
        .map(path)
        .filter(|path| path.is_file())
        .collect()
}

/// Whether it is the static one.
pub fn is_static(path: &Path) -> bool {
    path.iter()
        .any(|part| part.to_string_lossy().ends_with("-musl"))
}

/// How it is called in a figure.
pub fn name_of(path: &Path) -> &'static str {
    if is_static(path) {
        "mischief, static musl"
    } else {
        "mischief, glibc"
    }
}
