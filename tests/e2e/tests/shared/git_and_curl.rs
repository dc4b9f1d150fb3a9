//! An agent's daily work with its usual programs: real git and real curl in a sandbox without a credential.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::OnceLock;
use test_support::gateway::container_id;
use test_support::upstream::{Visibility, git};
use test_support::worktree::gits;
use test_support::{Finished, Rig, Sandbox, TOKEN, secrets};

fn rig() -> &'static Rig {
    static RIG: OnceLock<Rig> = OnceLock::new();
    RIG.get_or_init(Rig::start)
}

fn basic() -> Vec<u8> {
    format!("Basic {}", BASE64_STANDARD.encode(format!("x-access-token:{TOKEN}"))).into_bytes()
}

/// The audit line of a request from `address` to a path that contains `path`.
fn audit(address: Ipv4Addr, host: &str, path: &str) -> Value {
    rig().gateway.audit_line(&format!("{address} {host}{path}"), |line| {
        line["container_ip"] == address.to_string()
            && line["host"] == host
            && line["path"].as_str().is_some_and(|have| have.contains(path))
    })
}

#[test]
fn git_clones_commits_and_pushes_over_both_versions_of_http() {
    let rig = rig();
    for (number, program) in gits().iter().enumerate() {
        for version in ["HTTP/1.1", "HTTP/2"] {
            let repo = format!("acme/work-{number}-{}", version.replace('/', "-"));
            let bare = rig.upstream.create_repo(&repo, Visibility::Private);
            let sandbox = rig.registered(&[&repo]);
            let trace = sandbox.home.join("trace");
            let run = |directory: &Path, args: &[&str]| {
                let mut command = sandbox.command(program);
                command.current_dir(directory).env("GIT_TRACE_CURL", &trace).env("GIT_TRACE_CURL_NO_DATA", "1");
                Finished::of(command.args(["-c", &format!("http.version={version}")]).args(args)).success()
            };
            run(&sandbox.home, &["clone", &format!("https://github.com/{repo}.git"), "work"]);
            let work = sandbox.home.join("work");
            fs::write(work.join("file"), "changed").unwrap();
            run(&work, &["add", "."]);
            run(&work, &["commit", "-m", "change"]);
            run(&work, &["push", "origin", "HEAD:refs/heads/sandbox/change"]);
            assert_eq!(git(&bare, &["rev-parse", "sandbox/change"]), git(&work, &["rev-parse", "HEAD"]));
            run(&sandbox.home, &["clone", "-b", "sandbox/change", &format!("https://github.com/{repo}"), "again"]);
            assert_eq!(fs::read_to_string(sandbox.home.join("again/file")).unwrap(), "changed");

            let trace = fs::read_to_string(trace).unwrap();
            assert_eq!(
                trace.contains("HTTP/2 200"),
                version == "HTTP/2",
                "{program} spoke another HTTP than {version}"
            );
            let mut arrived = rig.upstream.requests_with(&repo);
            arrived.retain(|request| !request.is_own());
            assert!(arrived.iter().any(|request| request.path.contains("git-receive-pack")));
            assert!(arrived.iter().all(|request| request.header("authorization") == [basic()]), "{arrived:?}");
            let line = audit(sandbox.address, "github.com", &format!("{repo}.git/git-receive-pack"));
            assert_eq!((&line["verdict"], &line["method"]), (&"allow".into(), &"POST".into()), "{line}");
            assert_eq!(line["container_id"], container_id(sandbox.address));
        }
    }
}

#[test]
fn addresses_for_ssh_are_cloned_and_pushed_over_https() {
    let rig = rig();
    for (number, program) in gits().iter().enumerate() {
        for (spelling, prefix) in ["git@github.com:", "ssh://git@github.com/"].into_iter().enumerate() {
            let repo = format!("acme/ssh-{number}-{spelling}");
            let bare = rig.upstream.create_repo(&repo, Visibility::Private);
            let sandbox = rig.registered(&[&repo]);
            let run = |directory: &Path, args: &[&str]| {
                Finished::of(sandbox.command(program).current_dir(directory).args(args)).success().stdout
            };
            run(&sandbox.home, &["clone", &format!("{prefix}{repo}.git"), "work"]);
            let work = sandbox.home.join("work");
            // The settings of `sallyport env` stand beside each other.
            assert_eq!(run(&work, &["config", "http.version"]), "HTTP/1.1\n");
            assert_eq!(run(&work, &["remote", "get-url", "origin"]), format!("https://github.com/{repo}.git\n"));
            fs::write(work.join("file"), "changed").unwrap();
            run(&work, &["add", "."]);
            run(&work, &["commit", "-m", "change"]);
            run(&work, &["push", "origin", "HEAD:refs/heads/sandbox/ssh"]);
            assert_eq!(git(&bare, &["rev-parse", "sandbox/ssh"]), git(&work, &["rev-parse", "HEAD"]));
        }
    }
}

#[test]
fn a_push_of_many_megabytes_arrives_whole() {
    let rig = rig();
    let repo = "acme/medium";
    let bare = rig.upstream.create_repo(repo, Visibility::Private);
    let sandbox = rig.registered(&[repo]);
    sandbox.git(&sandbox.home, &["clone", &format!("https://github.com/{repo}"), "work"]).success();
    let work = sandbox.home.join("work");
    // Above http.postBuffer: a probe, then a body of unknown length.
    fs::write(work.join("file"), "medium".repeat(1_000_000)).unwrap();
    sandbox.git(&work, &["add", "."]).success();
    sandbox.git(&work, &["-c", "core.compression=0", "commit", "-m", "large"]).success();
    // HTTP/1.1, as `sallyport env` has set it. Over HTTP/2 libcurl 7.88.1 of Debian 12 may send 64 KiB of a body twice
    // after a slow response (seen without any gateway).
    sandbox.git(&work, &["-c", "core.compression=0", "push", "origin", "HEAD:refs/heads/sandbox/large"]).success();
    assert_eq!(git(&bare, &["rev-parse", "sandbox/large"]), git(&work, &["rev-parse", "HEAD"]));
    git(&bare, &["fsck", "--full"]);
    let push = rig.upstream.requests_with("/acme/medium/git-receive-pack");
    assert!(push.iter().any(|push| push.body_bytes > 6_000_000), "{push:?}");
}

#[test]
fn the_credential_never_enters_the_sandbox() {
    let rig = rig();
    rig.upstream.create_repo("acme/secretive", Visibility::Private);
    let sandbox = rig.registered(&["acme/secretive"]);
    sandbox.git(&sandbox.home, &["clone", "https://github.com/acme/secretive", "work"]).success();
    let curled = sandbox.curl(&["-i", "https://api.github.com/repos/acme/secretive"]);
    assert_eq!(curled.status, 200, "{curled:?}");
    assert_eq!(rig.upstream.requests_with("/repos/acme/secretive")[0].header("authorization").len(), 1);

    let environment = Finished::of(&mut sandbox.command("env")).success().stdout;
    let config = sandbox.git(&sandbox.home.join("work"), &["config", "--list", "--show-origin"]).success().stdout;
    let mut texts = secrets::files(&sandbox.home);
    texts.push(("the environment".into(), environment.into_bytes()));
    texts.push(("git's configuration".into(), config.into_bytes()));
    texts.push(("the answer to curl".into(), curled.body.into_bytes()));
    secrets::assert_absent(TOKEN, &texts);
}

#[test]
fn a_client_s_own_credential_is_replaced() {
    let rig = rig();
    rig.upstream.create_repo("acme/replaced", Visibility::Private);
    let sandbox = rig.registered(&["acme/replaced"]);
    for http in ["--http1.1", "--http2"] {
        for own in ["Bearer placeholder_of_the_agent", "Basic eDp5", "token placeholder"] {
            let header = format!("Authorization: {own}");
            let args = [http, "-H", &header, "-H", "Cookie: session=placeholder"];
            // No client of the API sends cookies, and a request with a cookie is refused with the reason.
            let api =
                sandbox.curl(&[&args[..2], &[header.as_str(), "https://api.github.com/repos/acme/replaced"]].concat());
            assert_eq!(api.status, 200, "{own}: {api:?}");
            let refs = "https://github.com/acme/replaced.git/info/refs?service=git-receive-pack";
            let git = sandbox.curl(&[&args[..], &["-o", "/dev/null", refs]].concat());
            assert_eq!(git.status, 200, "{own}: {git:?}");
        }
    }
    let bearer = format!("Bearer {TOKEN}").into_bytes();
    for request in rig.upstream.requests_with("acme/replaced") {
        let expected = if request.host == "api.github.com" { &bearer } else { &basic() };
        assert_eq!(request.header("authorization"), [expected.as_slice()], "{request:?}");
        assert!(request.header("cookie").is_empty(), "{request:?}");
    }
}

#[test]
fn an_unregistered_address_is_told_so_and_reaches_nothing() {
    let rig = rig();
    rig.upstream.create_repo("acme/unknown", Visibility::Public);
    let sandbox = rig.sandbox();
    for http in ["--http1.1", "--http2"] {
        let curled = sandbox.curl(&[http, "https://api.github.com/repos/acme/unknown"]);
        assert_eq!((curled.connect, curled.status), (200, 403), "{curled:?}");
        let body: Value = serde_json::from_str(&curled.body).unwrap();
        assert_eq!(body["rule"], "identity.unknown");
        assert_eq!(body["stage"], "identity");
        let line = audit(sandbox.address, "api.github.com", "/repos/acme/unknown");
        assert_eq!((&line["verdict"], &line["rule"], &line["status"]), (&"deny".into(), &body["rule"], &403.into()));
        rig.gateway.audit_line("the request id of the refusal", |line| line["request_id"] == body["request_id"]);
    }
    for program in gits() {
        let clone = Finished::of(sandbox.command(&program).args(["clone", "https://github.com/acme/unknown.git"]));
        assert_ne!(clone.code, Some(0));
        assert!(clone.stderr.contains("identity.unknown"), "{}", clone.stderr);
    }
    audit(sandbox.address, "github.com", "/acme/unknown.git/info/refs");
    assert!(rig.upstream.requests_with("acme/unknown").is_empty());
}

#[test]
fn a_repository_that_is_not_in_the_record_is_refused() {
    let rig = rig();
    rig.upstream.create_repo("acme/mine", Visibility::Private);
    rig.upstream.create_repo("acme/theirs", Visibility::Private);
    let sandbox = rig.registered(&["acme/mine"]);
    let clone = sandbox.git(&sandbox.home, &["clone", "https://github.com/acme/theirs.git"]);
    assert_ne!(clone.code, Some(0));
    assert!(clone.stderr.contains("github.repo"), "{}", clone.stderr);
    let curled = sandbox.curl(&["https://github.com/acme/theirs.git/info/refs?service=git-receive-pack"]);
    assert_eq!((curled.status, curled.rule().as_deref()), (403, Some("github.repo")), "{curled:?}");
    let line = audit(sandbox.address, "github.com", "/acme/theirs.git/info/refs");
    assert_eq!((&line["verdict"], &line["rule"]), (&"deny".into(), &"github.repo".into()), "{line}");
    assert!(rig.upstream.requests_with("acme/theirs").is_empty());
}

#[test]
fn a_host_that_is_not_allowed_is_refused() {
    let rig = rig();
    let sandbox = rig.registered(&["acme/mine"]);
    for url in ["https://example.com/x", "http://example.com/x", "https://gist.github.com/x", "https://xgithub.com/x"] {
        let curled = sandbox.curl(&[url]);
        assert_eq!((curled.status, curled.rule().as_deref()), (403, Some("egress.host")), "{url}: {curled:?}");
    }
    let line = audit(sandbox.address, "example.com", "/x");
    assert_eq!((&line["verdict"], &line["rule"]), (&"deny".into(), &"egress.host".into()), "{line}");
    let clone = sandbox.git(&sandbox.home, &["clone", "https://gitlab.com/acme/mine.git"]);
    assert!(clone.stderr.contains("egress.host"), "{}", clone.stderr);
}

#[test]
fn connect_to_an_address_a_bad_name_or_another_port_is_refused_at_once() {
    let rig = rig();
    let sandbox = rig.registered(&["acme/mine"]);
    let upstream = format!("https://{}/", rig.upstream.address);
    let admin = format!("https://127.0.0.1:{}/", rig.gateway.proxy_port + 1);
    let targets = [
        &upstream,
        &admin,
        "https://1.1.1.1/",
        "https://[::1]/",
        "https://localhost/",
        "https://github.com:22/",
        "https://intranet/",
    ];
    for url in targets {
        // `--noproxy ""`: a sandbox's list of direct hosts must not decide this test.
        let curled = sandbox.curl(&["--noproxy", "", url]);
        assert_eq!((curled.connect, curled.status), (403, 0), "{url}: {curled:?}");
    }
    let line = rig.gateway.audit_line("the CONNECT to port 22", |line| {
        line["container_ip"] == sandbox.address.to_string()
            && line["method"] == "CONNECT"
            && line["rule"] == "request.port"
    });
    assert_eq!(line["verdict"], "deny");
}

#[test]
fn hosts_without_a_credential_are_reached_as_they_are() {
    let rig = rig();
    let sandbox = rig.registered(&[]);
    let raw = sandbox.curl(&["https://files.example.net/plain//a/../b%2fc?x=%6d"]);
    assert_eq!(raw.status, 200, "{raw:?}");
    let message = sandbox.curl(&["-d", "{}", "https://api.anthropic.com/v1/messages"]);
    assert_eq!(message.status, 200, "{message:?}");
    // curl itself resolves dot segments without this option.
    let raw = sandbox.curl(&["--path-as-is", "https://files.example.net/as-is//a/../b%2fc?x=%6d"]);
    assert_eq!(raw.status, 200, "{raw:?}");
    let arrived = rig.upstream.requests_with("files.example.net/as-is");
    assert_eq!(arrived[0].path, "/as-is//a/../b%2fc?x=%6d");
    assert!(arrived.iter().all(|request| request.header("authorization").is_empty()));
}

#[test]
fn no_secret_is_in_any_log_metric_or_answer() {
    let rig = rig();
    rig.upstream.create_repo("acme/logged", Visibility::Private);
    let (known, unknown) = (rig.registered(&["acme/logged"]), rig.sandbox());
    let own = "own_secret_of_the_agent_42";
    let header = format!("Authorization: Bearer {own}");
    let asks = |sandbox: &Sandbox, url: &str| sandbox.curl(&["-H", &header, url]).status;
    assert_eq!(asks(&known, "https://api.github.com/repos/acme/logged"), 200);
    assert_eq!(asks(&known, "https://github.com/acme/logged.git/info/refs?service=git-upload-pack"), 200);
    assert_eq!(asks(&known, "https://github.com/acme/other.git/info/refs?service=git-upload-pack"), 403);
    assert_eq!(asks(&unknown, "https://api.github.com/repos/acme/logged"), 403);
    audit(known.address, "github.com", "/acme/logged.git/info/refs");
    audit(known.address, "github.com", "/acme/other.git/info/refs");
    audit(known.address, "api.github.com", "/repos/acme/logged");
    audit(unknown.address, "api.github.com", "/repos/acme/logged");
    let readable = rig.gateway.readable();
    assert!(readable.iter().any(|(name, text)| name.ends_with("audit.jsonl") && !text.is_empty()));
    secrets::assert_absent(TOKEN, &readable);
    secrets::assert_absent(own, &readable);
}
