//! A small disk, for tests that fill it.

use crate::Finished;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::Command;

/// Mounts a disk of its own under `directory`, and creates the directory. `size` is in the format of mount(8).
pub fn small(directory: &Path, size: &str) {
    fs::create_dir_all(directory).unwrap();
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", &format!("size={size},mode=0700"), "tmpfs"]).arg(directory);
    Finished::of(&mut mount).success();
}

/// Writes to `file` until the disk is full.
pub fn fill(file: &Path) {
    let mut file = File::create(file).unwrap();
    for size in [1 << 16, 1 << 12, 1] {
        loop {
            match file.write(&vec![b'x'; size]) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => panic!("{error}"),
            }
        }
    }
}
