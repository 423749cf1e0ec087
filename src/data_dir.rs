//! The data directory: where a node keeps what outlives it, one node at a time.

use std::any::Any;
use std::ffi::OsString;
use std::io;
use std::sync::Arc;

use mischief_reactor::io::driver::{Disk, DiskFile, OpenOptions};
use mischief_reactor::sabotage::{self, Mutation};
use thiserror::Error;

/// The file that a running node keeps locked.
const LOCK_FILE: &str = "lock";

/// A data directory that this node alone uses until the value is dropped.
///
/// The lock belongs to the process that holds it and goes with it, so a killed node leaves nothing to clean up.
pub struct DataDir {
    path: String,
    disk: Arc<dyn Disk>,
    _lock: Box<dyn Any + Send>,
}

/// Why a data directory cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DataDirError {
    /// The platform's default place is below the home directory, and there is none.
    #[error(
        "there is no home directory to keep the node's data in: name a place with --data-dir DIR, or use --ephemeral"
    )]
    NoHome,
    /// The path holds bytes that are not UTF-8.
    #[error("the data directory {0:?} is not valid UTF-8: choose another with --data-dir DIR")]
    NotUtf8(OsString),
    /// Another node runs on it.
    #[error(
        "the data directory {0} is in use by another node: stop that node, or name another with --data-dir DIR"
    )]
    InUse(String),
    /// It cannot be created, or not be written to.
    #[error(
        "the data directory {path} cannot be used: {source}; name another with --data-dir DIR, or use --ephemeral"
    )]
    Unusable {
        /// The directory.
        path: String,
        /// What the system said.
        source: io::Error,
    },
}

impl DataDir {
    /// Creates the directory with its parents if it is missing, and locks it. Blocks on the disk.
    pub fn open(disk: Arc<dyn Disk>, path: &str) -> Result<DataDir, DataDirError> {
        let unusable = |source| DataDirError::Unusable {
            path: path.to_owned(),
            source,
        };
        disk.create_dir_all(path).map_err(unusable)?;
        let lock = disk
            .lock(&join(path, LOCK_FILE))
            .map_err(|error| match error.kind() {
                io::ErrorKind::WouldBlock => DataDirError::InUse(path.to_owned()),
                _ => unusable(error),
            })?;
        Ok(DataDir {
            path: path.to_owned(),
            disk,
            _lock: lock,
        })
    }

    /// The directory.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The disk it is on.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// The path of a file in it.
    pub fn file(&self, name: &str) -> String {
        join(&self.path, name)
    }

    /// Writes a file so that after a crash at any instant it is wholly the old or wholly the new one. With `private`
    /// it is readable by its owner alone from the moment that it exists.
    pub fn replace(&self, name: &str, bytes: &[u8], private: bool) -> io::Result<()> {
        let target = self.file(name);
        let fresh = format!("{target}.new");
        // One left by a crash may have any mode and content.
        match self.disk.remove(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let options = OpenOptions {
            write: true,
            create_new: true,
            private,
            ..OpenOptions::default()
        };
        let file = self.disk.open(&fresh, options)?;
        file.write_at(0, bytes)?;
        let is_lazy = sabotage::is_on(Mutation::AcknowledgeBeforeSync);
        if !is_lazy {
            // Without this the rename may reach the disk before the bytes do.
            file.sync()?;
        }
        drop(file);
        self.disk.rename(&fresh, &target)?;
        if is_lazy {
            return Ok(());
        }
        self.disk.sync_dir(&self.path)
    }
}

/// Joins a directory and a name; a slash is understood by every supported system.
pub(crate) fn join(directory: &str, name: &str) -> String {
    match directory.ends_with('/') {
        true => format!("{directory}{name}"),
        false => format!("{directory}/{name}"),
    }
}

/// Reads a whole small file; `None` if there is none. A file longer than `len_max` is cut to `len_max + 1` bytes, so
/// that its reader finds it too long without holding all of it.
pub(crate) fn read_file(
    disk: &dyn Disk,
    path: &str,
    len_max: usize,
) -> io::Result<Option<Vec<u8>>> {
    let file = match disk.open(path, OpenOptions::default()) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    read_up_to(&*file, len_max + 1).map(Some)
}

fn read_up_to(file: &dyn DiskFile, len_max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len_max];
    let mut filled = 0;
    while filled < len_max {
        match file.read_at(filled as u64, &mut bytes[filled..])? {
            0 => break,
            count => filled += count,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// The platform's default data directory, by the name of the system as in [`std::env::consts::OS`] and a look-up of
/// environment variables.
///
/// Linux and every system not named here follow the XDG base directories: `$XDG_STATE_HOME/mischief`, by default
/// `~/.local/state/mischief`. macOS has `~/Library/Application Support/mischief`, Windows `%LOCALAPPDATA%\mischief`.
/// Variables that are empty or hold a relative path are passed over, as the XDG specification asks.
pub fn default_path(
    system: &str,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<String, DataDirError> {
    let folder = |name: &str| -> Result<Option<String>, DataDirError> {
        let value = variable(name).map(|value| value.into_string().map_err(DataDirError::NotUtf8));
        Ok(value.transpose()?.filter(|path| is_absolute(system, path)))
    };
    let (direct, below_home) = match system {
        "windows" => ("LOCALAPPDATA", None),
        "macos" | "ios" => ("", Some("Library/Application Support")),
        _ => ("XDG_STATE_HOME", Some(".local/state")),
    };
    if let Some(base) = folder(direct)? {
        return Ok(join(&base, "mischief"));
    }
    match (below_home, folder("HOME")?) {
        (Some(inside), Some(home)) => Ok(join(&join(&home, inside), "mischief")),
        _ => Err(DataDirError::NoHome),
    }
}

fn is_absolute(system: &str, path: &str) -> bool {
    match system {
        "windows" => path.as_bytes().get(1) == Some(&b':') || path.starts_with(r"\\"),
        _ => path.starts_with('/'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory_disk::MemoryDisk;

    #[track_caller]
    fn check_default(system: &str, variables: &[(&str, &str)], want: Result<&str, &str>) {
        let variable = |name: &str| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| OsString::from(value))
        };
        let path = default_path(system, variable);
        match want {
            Ok(want) => assert_eq!(path.expect("there is a default"), want),
            Err(want) => {
                let error = path.expect_err("there is no default").to_string();
                assert!(error.contains(want), "{error}");
            }
        }
    }

    #[test]
    fn the_default_follows_the_platform() {
        let home = ("HOME", "/users/ann");
        check_default("linux", &[home], Ok("/users/ann/.local/state/mischief"));
        check_default(
            "linux",
            &[home, ("XDG_STATE_HOME", "/state")],
            Ok("/state/mischief"),
        );
        check_default("freebsd", &[home], Ok("/users/ann/.local/state/mischief"));
        check_default(
            "macos",
            &[home],
            Ok("/users/ann/Library/Application Support/mischief"),
        );
        let local = ("LOCALAPPDATA", r"C:\Users\ann\AppData\Local");
        check_default(
            "windows",
            &[local],
            Ok(r"C:\Users\ann\AppData\Local/mischief"),
        );
    }

    #[test]
    fn empty_and_relative_variables_are_passed_over() {
        let home = ("HOME", "/users/ann");
        for state in ["", "state", "./state"] {
            let variables = [home, ("XDG_STATE_HOME", state)];
            check_default("linux", &variables, Ok("/users/ann/.local/state/mischief"));
        }
    }

    #[test]
    fn without_a_home_the_error_names_both_ways_out() {
        for (system, variables) in [
            ("linux", &[] as &[_]),
            ("linux", &[("HOME", "")]),
            ("windows", &[]),
        ] {
            check_default(system, variables, Err("--data-dir"));
            check_default(system, variables, Err("--ephemeral"));
        }
    }

    #[test]
    fn a_second_node_on_the_directory_is_refused_by_name() {
        let disk = MemoryDisk::new();
        let first = DataDir::open(disk.clone(), "/data").expect("a free directory opens");
        let error = DataDir::open(disk.clone(), "/data")
            .err()
            .expect("a locked one does not");
        assert!(matches!(&error, DataDirError::InUse(path) if path == "/data"));
        assert!(error.to_string().contains("/data is in use"), "{error}");
        drop(first);
        DataDir::open(disk, "/data").expect("the lock goes with its holder");
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_named() {
        let disk = MemoryDisk::new();
        disk.make_read_only();
        let error = DataDir::open(disk, "/data")
            .err()
            .expect("nothing can be created");
        assert!(
            error.to_string().contains("/data cannot be used"),
            "{error}"
        );
        assert!(error.to_string().contains("--data-dir"), "{error}");
    }

    #[test]
    fn after_a_crash_at_any_operation_a_replaced_file_is_the_old_or_the_new_one() {
        let mut outcomes = [0, 0];
        for operations in 0.. {
            let disk = MemoryDisk::new();
            let directory = DataDir::open(disk.clone(), "/data").expect("a free directory opens");
            directory
                .replace("file", b"old", true)
                .expect("the disk works");
            disk.crash_after(operations);
            let replaced = directory.replace("file", b"the new one", true);
            drop(directory);
            disk.restart();
            let read = read_file(&*disk, "/data/file", 100).expect("the disk works");
            match read.as_deref() {
                Some(b"old") => outcomes[0] += 1,
                Some(b"the new one") => outcomes[1] += 1,
                other => panic!("after {operations} operations: {other:?}"),
            }
            if replaced.is_ok() {
                assert_eq!(
                    read.as_deref(),
                    Some(&b"the new one"[..]),
                    "success means durable"
                );
                break;
            }
        }
        assert!(outcomes[0] > 3 && outcomes[1] >= 1, "{outcomes:?}");
    }

    #[test]
    fn a_left_over_fresh_file_is_replaced() {
        let disk = MemoryDisk::new();
        let directory = DataDir::open(disk.clone(), "/data").expect("a free directory opens");
        disk.put("/data/file.new", b"half of something much longer");
        directory
            .replace("file", b"whole", true)
            .expect("the disk works");
        let read = read_file(&*disk, "/data/file", 100).expect("the disk works");
        assert_eq!(read.as_deref(), Some(&b"whole"[..]));
    }
}
