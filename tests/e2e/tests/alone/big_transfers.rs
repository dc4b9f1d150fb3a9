//! Memory does not grow with the size of transfers: 200 MB of incompressible data, down and up, twice each.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use test_support::process::peak_memory;
use test_support::upstream::{Visibility, git};
use test_support::{Finished, Gateway, Rig, scratch};

/// The size of the blob.
const SIZE: u64 = 200 << 20;
/// The limit of growth in a second transfer of equal size.
const SECOND: u64 = 32 << 20;
/// The limit of growth of all transfers over small ones. A gateway that held a whole transfer would need [`SIZE`] at
/// the first and no more at the second, so the second alone proves little.
const ALL: u64 = 96 << 20;

/// git without compression and delta search, which does not hold a large blob in memory.
const PLAIN: [&str; 4] = ["-c", "core.compression=0", "-c", "core.bigFileThreshold=1m"];

/// The peak memory of sallyport and of Envoy.
fn peaks(gateway: &Gateway) -> [u64; 2] {
    [peak_memory(gateway.pid()), peak_memory(gateway.envoy_pid().expect("Envoy runs"))]
}

#[track_caller]
fn assert_growth(what: &str, before: [u64; 2], after: [u64; 2], limit: u64) {
    for (name, before, after) in [("sallyport", before[0], after[0]), ("Envoy", before[1], after[1])] {
        println!("{what}: the peak of {name} went from {} to {} KiB", before / 1024, after / 1024);
        assert!(after.saturating_sub(before) < limit, "{what}: the peak of {name} grew from {before} to {after} bytes");
    }
}

/// Puts a blob of [`SIZE`] random bytes on `main` of the bare repository.
fn add_blob(bare: &Path) {
    let work = scratch("large");
    git(&work, &["clone", "--quiet", bare.to_str().unwrap(), "."]);
    io::copy(&mut File::open("/dev/urandom").unwrap().take(SIZE), &mut File::create(work.join("blob")).unwrap())
        .unwrap();
    git(&work, &[&PLAIN[..], &["add", "."]].concat());
    git(&work, &["commit", "--quiet", "-m", "large"]);
    git(&work, &[&PLAIN[..], &["push", "--quiet", "origin", "HEAD:main"]].concat());
    fs::remove_dir_all(work).unwrap();
}

#[test]
fn clones_and_pushes_of_200_mb_do_not_grow_memory() {
    let rig = Rig::start();
    let [small, large, one, two] = ["acme/small", "acme/large", "acme/one", "acme/two"];
    for repo in [small, one, two] {
        rig.upstream.create_repo(repo, Visibility::Private);
    }
    add_blob(&rig.upstream.create_repo(large, Visibility::Private));
    let sandbox = rig.registered(&[small, large, one, two]);
    let run = |args: &[&str]| Finished::of(sandbox.command("git").args(PLAIN).args(args)).success();
    let clone = |repo: &str, to: &str| run(&["clone", "--bare", &format!("https://github.com/{repo}"), to]);
    let push = |from: &str, repo: &str| {
        run(&["-C", from, "push", &format!("https://github.com/{repo}"), "main:refs/heads/sandbox/pushed"])
    };

    clone(small, "small");
    push("small", small);
    let idle = peaks(&rig.gateway);

    clone(large, "first");
    let first = peaks(&rig.gateway);
    clone(large, "second");
    let second = peaks(&rig.gateway);
    assert_growth("the second clone", first, second, SECOND);
    fs::remove_dir_all(sandbox.home.join("second")).unwrap();

    push("first", one);
    let first = peaks(&rig.gateway);
    push("first", two);
    let second = peaks(&rig.gateway);
    assert_growth("the second push", first, second, SECOND);
    assert_growth("all transfers", idle, second, ALL);

    // Check that so many bytes did pass.
    for repo in [one, two] {
        let pushes = rig.upstream.requests_with(&format!("{repo}/git-receive-pack"));
        assert!(pushes.iter().any(|push| push.body_bytes > SIZE), "{pushes:?}");
    }
}
