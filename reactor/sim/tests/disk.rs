use std::io::ErrorKind;

use super::*;
use crate::io::driver::{Disk, OpenOptions};

const WRITE: OpenOptions = OpenOptions {
    write: true,
    create: true,
    create_new: false,
    truncate: false,
    private: false,
};

fn content(disk: &dyn Disk, path: &str) -> Option<Vec<u8>> {
    let file = disk.open(path, OpenOptions::default()).ok()?;
    let mut bytes = vec![0; file.len().unwrap() as usize];
    assert_eq!(file.read_at(0, &mut bytes).unwrap(), bytes.len());
    Some(bytes)
}

fn put(disk: &dyn Disk, path: &str, bytes: &[u8]) {
    let file = disk
        .open(
            path,
            OpenOptions {
                truncate: true,
                ..WRITE
            },
        )
        .unwrap();
    file.write_at(0, bytes).unwrap();
    file.sync().unwrap();
}

#[test]
fn files_are_what_was_written_to_them() {
    let pair = Pair::new(1);
    let disk = pair.a.disk();
    assert_eq!(
        disk.open("/data/x", WRITE).err().unwrap().kind(),
        ErrorKind::NotFound
    );
    disk.create_dir_all("/data/deep").unwrap();
    let file = disk.open("/data/x", WRITE).unwrap();
    assert!(file.is_empty().unwrap());
    file.write_at(3, b"abc").unwrap();
    file.write_at(0, b"12").unwrap();
    assert_eq!(content(&*disk, "/data/./x").unwrap(), b"12\0abc");
    file.set_len(8).unwrap();
    file.set_len(4).unwrap();
    assert_eq!(content(&*disk, "data/deep/../x").unwrap(), b"12\0a");
    let mut bytes = [9; 4];
    assert_eq!(file.read_at(3, &mut bytes).unwrap(), 1);
    assert_eq!(file.read_at(4, &mut bytes).unwrap(), 0);
    assert_eq!(file.read_at(u64::MAX, &mut bytes).unwrap(), 0);
    assert_eq!(
        file.write_at(u64::MAX, b"x").unwrap_err().kind(),
        ErrorKind::FileTooLarge
    );
    assert_eq!(
        file.set_len(1 << 40).unwrap_err().kind(),
        ErrorKind::FileTooLarge
    );
    let reader = disk.open("/data/x", OpenOptions::default()).unwrap();
    assert_eq!(
        reader.write_at(0, b"x").unwrap_err().kind(),
        ErrorKind::PermissionDenied
    );
    assert!(
        pair.b.disk().list("/data").is_err(),
        "another machine has its own"
    );
}

#[test]
fn names_are_listed_moved_and_removed() {
    let pair = Pair::new(2);
    let disk = pair.a.disk();
    disk.create_dir_all("/d/sub").unwrap();
    put(&*disk, "/d/b", b"b");
    put(&*disk, "/d/a", b"a");
    assert_eq!(disk.list("/d").unwrap(), ["a", "b", "sub"]);
    assert_eq!(disk.list("/").unwrap(), ["d"]);
    assert_eq!(disk.list("/none").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(
        disk.list("/d/a").unwrap_err().kind(),
        ErrorKind::NotADirectory
    );
    let open = disk.open("/d/b", OpenOptions::default()).unwrap();
    disk.rename("/d/a", "/d/b").unwrap();
    assert_eq!(content(&*disk, "/d/b").unwrap(), b"a");
    let mut byte = [0];
    open.read_at(0, &mut byte).unwrap();
    assert_eq!(&byte, b"b", "an open file outlives its name");
    assert_eq!(
        disk.rename("/d/a", "/d/c").unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert_eq!(
        disk.rename("/d/b", "/none/b").unwrap_err().kind(),
        ErrorKind::NotFound
    );
    disk.remove("/d/b").unwrap();
    assert_eq!(disk.remove("/d/b").unwrap_err().kind(), ErrorKind::NotFound);
    let new = OpenOptions {
        create_new: true,
        write: true,
        ..OpenOptions::default()
    };
    disk.open("/d/n", new).unwrap();
    assert_eq!(
        disk.open("/d/n", new).err().unwrap().kind(),
        ErrorKind::AlreadyExists
    );
    assert_eq!(
        disk.open("/d/sub", WRITE).err().unwrap().kind(),
        ErrorKind::IsADirectory
    );
    assert_eq!(
        disk.create_dir_all("/d/n/x").unwrap_err().kind(),
        ErrorKind::NotADirectory
    );
}

#[test]
fn a_lock_is_held_by_one() {
    let pair = Pair::new(3);
    let disk = pair.left.driver().disk();
    let held = pair.a.disk().lock("/lock").unwrap();
    assert_eq!(
        disk.lock("/lock").err().unwrap().kind(),
        ErrorKind::WouldBlock
    );
    drop(held);
    let stale = disk.lock("/lock").unwrap();
    pair.left.disk().lose_unsynced();
    disk.open("/lock", WRITE).unwrap();
    let after = disk.lock("/lock").unwrap();
    drop(stale);
    assert!(
        disk.lock("/lock").is_err(),
        "a guard from before the crash releases nothing"
    );
    drop(after);
    disk.lock("/lock").unwrap();
}

#[test]
fn what_was_not_synced_can_be_lost() {
    let pair = Pair::new(4);
    let disk = pair.left.disk();
    put(&*disk, "/kept", b"one");
    put(&*disk, "/moved", b"old");
    put(&*disk, "/gone", b"gone");
    disk.sync_dir("/").unwrap();

    let file = disk.open("/kept", WRITE).unwrap();
    file.write_at(1, b"NEW LONGER").unwrap();
    file.set_len(2).unwrap();
    file.write_at(5, b"more").unwrap();
    put(&*disk, "/fresh", b"synced, but its name is not");
    put(&*disk, "/moved.new", b"new");
    disk.rename("/moved.new", "/moved").unwrap();
    disk.remove("/gone").unwrap();
    disk.lose_unsynced();
    assert_eq!(content(&*disk, "/kept").unwrap(), b"one");
    assert_eq!(content(&*disk, "/moved").unwrap(), b"old");
    assert_eq!(content(&*disk, "/gone").unwrap(), b"gone");
    assert_eq!(disk.list("/").unwrap(), ["gone", "kept", "moved"]);
}

#[test]
fn what_was_synced_stays() {
    let pair = Pair::new(5);
    let disk = pair.left.disk();
    put(&*disk, "/a", b"first");
    put(&*disk, "/a.new", b"second");
    disk.rename("/a.new", "/a").unwrap();
    disk.sync_dir("/").unwrap();
    disk.lose_unsynced();
    assert_eq!(content(&*disk, "/a").unwrap(), b"second");
    assert_eq!(disk.list("/").unwrap(), ["a"]);
    assert_eq!(disk.used(), 6, "the replaced file is forgotten");
}

#[test]
fn names_resolve_by_the_world_s_table() {
    let pair = Pair::new(6);
    let resolver = pair.a.resolver();
    let addrs = [ip("10.0.0.2"), ip("fd00::2")];
    pair.world.set_name("Seed.Example", &addrs);
    let want: Vec<SocketAddr> = addrs.iter().map(|addr| (*addr, 4000).into()).collect();
    assert_eq!(resolver.resolve("seed.example", 4000).unwrap(), want);
    assert_eq!(resolver.resolve("SEED.example.", 4000).unwrap(), want);
    assert_eq!(
        resolver.resolve("10.1.1.1", 1).unwrap(),
        ["10.1.1.1:1".parse().unwrap()]
    );
    assert_eq!(
        resolver.resolve("::1", 1).unwrap(),
        ["[::1]:1".parse().unwrap()]
    );
    assert_eq!(resolver.resolve("localhost", 1).unwrap().len(), 2);
    pair.world.set_name("seed.example", &[]);
    assert_eq!(
        resolver.resolve("seed.example", 1).unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

#[test]
fn what_is_never_synced_becomes_durable_in_the_end() {
    let pair = Pair::new(7);
    let disk = pair.left.disk();
    let file = disk.open("/log", WRITE).unwrap();
    disk.sync_dir("/").unwrap();
    for place in 0..5000u32 {
        file.write_at(u64::from(place), &[1]).unwrap();
    }
    disk.lose_unsynced();
    assert_eq!(file.len().unwrap(), 5000 - 4096);
    for number in 0..5000 {
        disk.open(&format!("/{number}"), WRITE).unwrap();
    }
    disk.lose_unsynced();
    assert_eq!(disk.list("/").unwrap().len(), 1 + 5000 - 4096);
}
