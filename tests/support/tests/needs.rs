//! `.ci/needs` names what a machine lacks before anything is built.

use std::os::unix::fs::symlink;
use std::process::{Command, Output};

/// Runs the script with a PATH that has these programs of this machine.
fn needs(arguments: &[&str], programs: &[&str]) -> Output {
    let path = std::env::temp_dir().join(format!("sallyport-needs-{}-{}", std::process::id(), arguments.join("")));
    std::fs::create_dir(&path).unwrap();
    for program in programs {
        let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output().unwrap();
        symlink(String::from_utf8(found.stdout).unwrap().trim(), path.join(program)).unwrap();
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../.ci/needs");
    let mut command = Command::new("/bin/bash");
    let output = command.arg(script).args(arguments).env_clear().env("PATH", &path).output().unwrap();
    std::fs::remove_dir_all(path).unwrap();
    output
}

#[test]
fn what_a_machine_lacks_is_one_sentence() {
    let said = needs(&["build"], &["curl"]);
    let text = String::from_utf8(said.stderr).unwrap();
    assert_eq!((said.status.code(), text.lines().count()), (Some(1), 1), "{text}");
    let first = "This machine lacks make, git, a C compiler, ";
    assert!(text.starts_with(first) && text.contains("Rust (https://rustup.rs)"), "{text}");
    assert!(text.contains("; on Debian: apt-get install make git gcc"), "{text}");
    let packages = String::from_utf8(needs(&["--packages", "test"], &["curl", "git"]).stdout).unwrap();
    assert!(packages.lines().any(|package| package == "iproute2"), "{packages}");
    assert!(!packages.lines().any(|package| package == "git" || package.is_empty()), "{packages}");
}

#[test]
fn a_machine_that_lacks_nothing_is_told_nothing() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../.ci/needs");
    let said = Command::new(script).arg("build").output().unwrap();
    assert!(said.status.success() && said.stderr.is_empty() && said.stdout.is_empty(), "{said:?}");
}
