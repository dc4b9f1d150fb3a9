//! Tests of the rig itself, without the gateway: the upstream guards its repositories, and sandboxes reach nothing.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use std::path::Path;
use std::process::Command;
use test_support::upstream::{self, Visibility, git};
use test_support::{Finished, Sandbox, TOKEN, Upstream, scratch};

/// git in the namespace of the upstream, with `credential`. It trusts the upstream's CA and resolves github.com to it.
fn direct(upstream: &Upstream, directory: &Path, credential: Option<&str>, args: &[&str]) -> Finished {
    let mut command = Command::new("git");
    command.current_dir(directory).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
    command.env("HOME", directory).env("GIT_TERMINAL_PROMPT", "0").env("GIT_CONFIG_NOSYSTEM", "1");
    command.env("GIT_SSL_CAINFO", &upstream.ca).env("GIT_AUTHOR_EMAIL", "a@b").env("GIT_COMMITTER_EMAIL", "a@b");
    command.args(["-c", &format!("http.curloptResolve=github.com:{}:{}", upstream.address.port(), upstream::ADDRESS)]);
    if let Some(credential) = credential {
        let basic = BASE64_STANDARD.encode(format!("x-access-token:{credential}"));
        command.args(["-c", &format!("http.extraHeader=Authorization: Basic {basic}")]);
    }
    Finished::of(command.args(["-c", "user.name=x"]).args(args))
}

#[test]
fn the_upstream_is_git_for_those_who_show_the_token() {
    let upstream = Upstream::start();
    let bare = upstream.create_repo("acme/private", Visibility::Private);
    let url = format!("https://github.com:{}/acme/private.git", upstream.address.port());
    let directory = scratch("direct");
    for version in ["HTTP/1.1", "HTTP/2"] {
        let http = format!("http.version={version}");
        let name = version.replace('/', "-");
        direct(&upstream, &directory, Some(TOKEN), &["-c", &http, "clone", &url, &name]).success();
        let work = directory.join(&name);
        // Large enough for the chunked form: a probe, then a request without content-length.
        std::fs::write(work.join("large"), name.repeat(500_000)).unwrap();
        direct(&upstream, &work, None, &["add", "."]).success();
        direct(&upstream, &work, None, &["-c", "core.compression=0", "commit", "-m", "large"]).success();
        let branch = format!("HEAD:refs/heads/{name}");
        let push = ["-c", &http, "-c", "core.compression=0", "push", "origin", &branch];
        direct(&upstream, &work, Some(TOKEN), &push).success();
        assert_eq!(git(&bare, &["rev-parse", &name]), git(&work, &["rev-parse", "HEAD"]));
    }
    let pushes: Vec<_> = upstream.requests_with("private.git/git-receive-pack");
    assert!(pushes.iter().any(|push| push.alpn == "h2" && push.body_bytes > 2 << 20), "{pushes:?}");
    assert!(pushes.iter().any(|push| push.alpn == "http/1.1" && push.body_bytes > 2 << 20), "{pushes:?}");
    assert!(pushes.iter().all(|push| push.sni == "github.com" && push.header("authorization").len() == 1));
}

#[test]
fn the_upstream_refuses_strangers() {
    let upstream = Upstream::start();
    upstream.create_repo("acme/private", Visibility::Private);
    upstream.create_repo("acme/public", Visibility::Public);
    let base = format!("https://github.com:{}/acme", upstream.address.port());
    let directory = scratch("direct");
    direct(&upstream, &directory, None, &["clone", &format!("{base}/public"), "public"]).success();
    let work = directory.join("public");
    for credential in [None, Some("wrong")] {
        let clone = direct(&upstream, &directory, credential, &["clone", &format!("{base}/private")]);
        assert_ne!(clone.code, Some(0));
        let push = direct(&upstream, &work, credential, &["push", "origin", "HEAD:refs/heads/new"]);
        assert_ne!(push.code, Some(0));
        assert!(push.stderr.contains("Authentication failed") || push.stderr.contains("could not read"), "{push:?}");
    }
}

#[tokio::test]
async fn a_sandbox_reaches_its_gateway_and_nothing_else() {
    let upstream = Upstream::start();
    let (one, two) = (Sandbox::start(), Sandbox::start());
    let listener = tokio::net::TcpListener::bind((one.gateway_address, 0)).await.unwrap();
    let open = listener.local_addr().unwrap();
    one.socket(one.address).connect(open).await.unwrap();
    assert_eq!(listener.accept().await.unwrap().1.ip(), one.address);

    let unreachable = [upstream.address, open, (one.address, 80).into(), ([1, 1, 1, 1], 53).into()];
    for target in unreachable {
        let refused = two.socket(two.address).connect(target).await.unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::NetworkUnreachable, "{target}");
    }
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn a_wide_sandbox_speaks_from_thousands_of_addresses() {
    let sandbox = Sandbox::start();
    let first = sandbox.widen();
    let listener = tokio::net::TcpListener::bind((sandbox.gateway_address, 0)).await.unwrap();
    for offset in [1, 300, 65_000] {
        let source = std::net::Ipv4Addr::from_bits(first.to_bits() + offset);
        let _stream = sandbox.socket(source).connect(listener.local_addr().unwrap()).await.unwrap();
        assert_eq!(listener.accept().await.unwrap().1.ip(), source);
    }
}

#[test]
fn a_program_in_a_sandbox_sees_nothing_of_the_machine() {
    let sandbox = Sandbox::start();
    let printed = Finished::of(&mut sandbox.command("env")).success().stdout;
    let names: Vec<&str> = printed.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    assert!(
        names.contains(&"HOME") && !names.iter().any(|name| name.starts_with("CARGO") || name.starts_with("SALLY"))
    );
    let links = Finished::of(sandbox.command("ip").args(["-brief", "link"])).success().stdout;
    assert_eq!(links.lines().count(), 2, "{links}");
}
