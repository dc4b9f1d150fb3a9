//! git itself reads the head of a push that is written anew: every git on the machine moves the refs that it names, and
//! gets the push options and the shallow commits.

#![expect(clippy::unwrap_used, reason = "tests")]

use git_wire::receive_pack::Parser;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// A pack without objects.
const NO_OBJECTS: &[u8] =
    b"PACK\0\0\0\x02\0\0\0\0\x02\x9d\x08\x82\x3b\xd8\xa8\xea\xb5\x10\xad\x6a\xc7\x5c\x82\x3c\xfd\x3e\xd3\x1e";

/// Runs this git in `place` with `input`, and returns its output.
fn run(git: &str, place: &Path, args: &[&str], input: &[u8]) -> String {
    let mut command = Command::new(git);
    command.current_dir(place).args(args).env_clear();
    command.envs([("GIT_CONFIG_NOSYSTEM", "1"), ("GIT_CONFIG_GLOBAL", "/dev/null"), ("HOME", "/nonexistent")]);
    command.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    command.envs(["AUTHOR", "COMMITTER"].map(|who| (format!("GIT_{who}_NAME"), "a")));
    command.envs(["AUTHOR", "COMMITTER"].map(|who| (format!("GIT_{who}_EMAIL"), "a@example.com")));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let _it_may_have_ended = child.stdin.take().unwrap().write_all(input);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{git} {args:?}");
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

fn pkt(line: &str) -> String {
    format!("{:04x}{line}", line.len() + 4)
}

#[test]
fn git_reads_the_head_that_is_written() {
    let gits = ["/usr/bin/git", "/usr/local/bin/git"].into_iter().filter(|git| Path::new(git).exists());
    let mut ran = 0;
    for git in gits.chain(["git"]) {
        let made = tempfile::tempdir().unwrap();
        let place = made.path();
        run(git, place, &["init", "-q", "--bare", "."], b"");
        run(git, place, &["config", "receive.advertisePushOptions", "true"], b"");
        let hook = place.join("hooks/pre-receive");
        let script = "#!/bin/sh\nprintf '%s %s ' \"$GIT_PUSH_OPTION_COUNT\" \"$GIT_PUSH_OPTION_0\" >seen\ncat >>seen\n";
        std::fs::create_dir_all(hook.parent().unwrap()).unwrap();
        std::fs::write(&hook, script).unwrap();
        std::fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let tree = run(git, place, &["mktree"], b"");
        let old = run(git, place, &["commit-tree", &tree, "-m", "old"], b"");
        let new = run(git, place, &["commit-tree", &tree, "-m", "new", "-p", &old], b"");
        run(git, place, &["update-ref", "refs/heads/moved", &old], b"");
        let zero = "0".repeat(40);
        let caps = "report-status session-id=a;b=c x;rails_env=development quiet push-options agent=git/1.(x) atomic";
        let head = [
            pkt(&format!("{old} {new} refs/heads/moved\0{caps}\n")),
            pkt(&format!("{zero} {new} refs/heads/made")),
            "0000".into(),
            pkt("ci.skip\n"),
            "0000".into(),
        ];
        let (request, _) = Parser::default().feed(head.concat().as_bytes()).unwrap().unwrap();
        let written = request.write();
        assert!(!String::from_utf8_lossy(&written).contains(';'));
        let answer = run(git, place, &["receive-pack", "--stateless-rpc", "."], &[&written, NO_OBJECTS].concat());
        for told in ["unpack ok", "ok refs/heads/moved", "ok refs/heads/made"] {
            assert!(answer.contains(told), "{git}: {answer}");
        }
        for name in ["refs/heads/moved", "refs/heads/made"] {
            assert_eq!(run(git, place, &["rev-parse", name], b""), new, "{git}");
        }
        let seen = std::fs::read_to_string(place.join("seen")).unwrap();
        let lines = format!("1 ci.skip {old} {new} refs/heads/moved\n{zero} {new} refs/heads/made\n");
        assert_eq!(seen, lines, "{git}");
        // And a deletion behind a shallow line, without a pack.
        let head =
            [pkt(&format!("shallow {old}\n")), pkt(&format!("{new} {zero} refs/heads/made\0 quiet")), "0000".into()];
        let (request, _) = Parser::default().feed(head.concat().as_bytes()).unwrap().unwrap();
        assert_eq!(request.shallow.len(), 1);
        run(git, place, &["receive-pack", "--stateless-rpc", "."], &request.write());
        assert_eq!(run(git, place, &["for-each-ref", "--format=%(refname)"], b""), "refs/heads/moved", "{git}");
        ran += 1;
    }
    assert!(ran > 0);
}
