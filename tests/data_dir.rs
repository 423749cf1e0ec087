//! The data directory and the identity on a real file system.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use mischief::data_dir::{DataDir, DataDirError};
use mischief::identity_file::{self, IdentityError};
use mischief_reactor::io::{SystemDisk, SystemRandom};

/// A directory that is removed when the test ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Scratch {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("mischief-data-dir-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).expect("the temporary directory is writable");
        Scratch(path)
    }

    fn path(&self, inside: &str) -> String {
        self.0
            .join(inside)
            .to_str()
            .expect("the temporary directory is UTF-8")
            .to_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn open(path: &str) -> Result<DataDir, DataDirError> {
    DataDir::open(Arc::new(SystemDisk), path)
}

#[test]
fn an_identity_is_created_once_and_kept() {
    let scratch = Scratch::new();
    let path = scratch.path("a/b");
    let directory = open(&path).expect("it can be created");
    let seed =
        identity_file::load_or_create(&directory, &mut SystemRandom).expect("one is created");
    drop(directory);
    let directory = open(&path).expect("it can be opened again");
    let again =
        identity_file::load_or_create(&directory, &mut SystemRandom).expect("it is found again");
    assert_eq!(seed, again);
    assert_ne!(*seed, [0; 32]);
    let mut names: Vec<_> = fs::read_dir(&path)
        .expect("it is there")
        .map(|entry| entry.expect("it can be listed").file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["identity.key", "lock"], "nothing else is left over");
}

#[test]
fn a_directory_in_use_is_refused_until_it_is_free() {
    let scratch = Scratch::new();
    let path = scratch.path("data");
    let first = open(&path).expect("it can be created");
    assert!(matches!(open(&path), Err(DataDirError::InUse(named)) if named == path));
    drop(first);
    open(&path).expect("the lock is gone with its holder");
}

#[test]
fn a_directory_that_cannot_be_created_is_refused() {
    let scratch = Scratch::new();
    let file = scratch.path("file");
    fs::write(&file, "no directory").expect("the temporary directory is writable");
    assert!(matches!(
        open(&format!("{file}/data")),
        Err(DataDirError::Unusable { .. })
    ));
}

#[cfg(unix)]
#[test]
fn the_identity_is_private_and_refused_when_it_is_not() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = Scratch::new();
    let path = scratch.path("data");
    let directory = open(&path).expect("it can be created");
    identity_file::load_or_create(&directory, &mut SystemRandom).expect("one is created");
    let file = directory.file("identity.key");
    let mode = fs::metadata(&file)
        .expect("it is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("it is ours");
    let error = identity_file::load(&SystemDisk, &path).expect_err("others can read it");
    assert!(matches!(error, IdentityError::NotPrivate(named) if named == file));
}
