use std::io::ErrorKind;

use mischief_reactor::io::driver::OpenOptions;

use crate::fixture::{Core, Fixture};

const CREATE: OpenOptions = OpenOptions {
    write: true,
    create: true,
    create_new: false,
    truncate: false,
    private: false,
};
const READ: OpenOptions = OpenOptions {
    write: false,
    create: false,
    create_new: false,
    truncate: false,
    private: false,
};

pub(crate) fn reading_and_writing_at_offsets(fixture: &mut dyn Fixture) {
    let disk = Core::new(fixture).driver.disk();
    let path = format!("{}/file", fixture.directory());
    let file = disk.open(&path, CREATE).expect("creates");
    assert!(file.is_empty().expect("known"));
    file.write_at(0, b"hello").expect("writes");
    file.write_at(10, b"world").expect("writes beyond the end");
    file.write_at(1, b"a").expect("writes over");
    assert_eq!(file.len().expect("known"), 15);
    let mut bytes = [9; 20];
    assert_eq!(file.read_at(0, &mut bytes).expect("reads"), 15);
    assert_eq!(&bytes[..15], b"hallo\0\0\0\0\0world");
    assert_eq!(file.read_at(12, &mut bytes).expect("reads"), 3);
    assert_eq!(file.read_at(15, &mut bytes).expect("the end"), 0);
    assert_eq!(
        file.read_at(1 << 40, &mut bytes).expect("beyond the end"),
        0
    );
    file.set_len(4).expect("cuts");
    file.sync().expect("durable");
    drop(file);
    let file = disk.open(&path, READ).expect("opens");
    assert_eq!(file.len().expect("known"), 4);
    assert!(file.write_at(0, b"x").is_err(), "opened for reading");
    let file = disk.open(&path, CREATE).expect("opens");
    file.set_len(6).expect("extends");
    assert_eq!(file.read_at(0, &mut bytes).expect("reads"), 6);
    assert_eq!(&bytes[..6], b"hall\0\0");
}

pub(crate) fn options_of_opening(fixture: &mut dyn Fixture) {
    let disk = Core::new(fixture).driver.disk();
    let path = format!("{}/file", fixture.directory());
    assert_eq!(
        disk.open(&path, READ).err().expect("absent").kind(),
        ErrorKind::NotFound
    );
    let write_only = OpenOptions {
        create: false,
        ..CREATE
    };
    assert_eq!(
        disk.open(&path, write_only).err().expect("absent").kind(),
        ErrorKind::NotFound
    );
    let create_new = OpenOptions {
        create_new: true,
        ..CREATE
    };
    disk.open(&path, create_new)
        .expect("creates")
        .write_at(0, b"content")
        .expect("writes");
    assert_eq!(
        disk.open(&path, create_new).err().expect("there").kind(),
        ErrorKind::AlreadyExists
    );
    assert_eq!(
        disk.open(&path, CREATE)
            .expect("opens")
            .len()
            .expect("known"),
        7
    );
    let truncate = OpenOptions {
        truncate: true,
        ..CREATE
    };
    assert_eq!(
        disk.open(&path, truncate)
            .expect("opens")
            .len()
            .expect("known"),
        0
    );
}

pub(crate) fn replacing_a_file(fixture: &mut dyn Fixture) {
    let disk = Core::new(fixture).driver.disk();
    let directory = fixture.directory();
    let (old, new) = (
        format!("{directory}/config"),
        format!("{directory}/config.new"),
    );
    disk.open(&old, CREATE)
        .expect("creates")
        .write_at(0, b"old")
        .expect("writes");
    let file = disk.open(&new, CREATE).expect("creates");
    file.write_at(0, b"newer").expect("writes");
    file.sync().expect("durable");
    disk.rename(&new, &old).expect("replaces");
    disk.sync_dir(&directory).expect("durable");
    assert_eq!(disk.list(&directory).expect("listed"), ["config"]);
    assert_eq!(
        disk.open(&old, READ).expect("opens").len().expect("known"),
        5
    );
    assert_eq!(
        disk.rename(&new, &old).expect_err("gone").kind(),
        ErrorKind::NotFound
    );
}

pub(crate) fn directories(fixture: &mut dyn Fixture) {
    let disk = Core::new(fixture).driver.disk();
    let directory = format!("{}/a/b/c", fixture.directory());
    assert_eq!(
        disk.list(&directory).expect_err("absent").kind(),
        ErrorKind::NotFound
    );
    disk.create_dir_all(&directory).expect("creates");
    disk.create_dir_all(&directory).expect("is there already");
    assert!(disk.list(&directory).expect("listed").is_empty());
    for name in ["zebra", "ant", "mouse"] {
        disk.open(&format!("{directory}/{name}"), CREATE)
            .expect("creates");
    }
    assert_eq!(
        disk.list(&directory).expect("listed"),
        ["ant", "mouse", "zebra"]
    );
    disk.remove(&format!("{directory}/mouse")).expect("removes");
    assert_eq!(disk.list(&directory).expect("listed"), ["ant", "zebra"]);
    assert_eq!(
        disk.remove(&format!("{directory}/mouse"))
            .expect_err("gone")
            .kind(),
        ErrorKind::NotFound
    );
}

pub(crate) fn locks_exclude_and_end(fixture: &mut dyn Fixture) {
    let disk = Core::new(fixture).driver.disk();
    let path = format!("{}/lock", fixture.directory());
    let guard = disk.lock(&path).expect("locks");
    assert_eq!(
        disk.lock(&path).expect_err("held").kind(),
        ErrorKind::WouldBlock
    );
    drop(guard);
    disk.lock(&path).expect("free again");
}

pub(crate) fn private_files(fixture: &mut dyn Fixture) {
    let disk = Core::new(fixture).driver.disk();
    let path = format!("{}/key", fixture.directory());
    let private = OpenOptions {
        private: true,
        ..CREATE
    };
    disk.open(&path, private)
        .expect("creates")
        .write_at(0, b"secret")
        .expect("writes");
    assert_eq!(
        disk.open(&path, READ)
            .expect("its owner reads it")
            .len()
            .expect("known"),
        6
    );
    #[cfg(unix)]
    if fixture.is_real() {
        use std::os::unix::fs::PermissionsExt;
        let mode =
            |path: &str| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        let loose = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(&path, loose).expect("its owner may");
        disk.open(&path, private).expect("opens");
        assert_eq!(
            mode(&path),
            0o600,
            "opening a loose one as private tightens it"
        );
    }
}
