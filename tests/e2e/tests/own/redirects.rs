//! Redirects of GitHub's to hosts that the policy does not list, followed by real clients under the shipped policy: logs
//! and artifacts of runs, files of releases. No credential leaves with them.

use policy::redirect::Key;
use std::sync::OnceLock;
use test_support::upstream::Visibility;
use test_support::upstream::pranks::{Api, End, Prank};
use test_support::{Curled, Finished, Gateway, Rig, Sandbox, TOKEN, Upstream, secrets, skip};

const OWN: &str = "acme/app";
/// Another account's public repository.
const LIB: &str = "octo/lib";
const STORE: &str = "productionresultssa7.blob.core.windows.net";
const ASSETS: &str = "release-assets.githubusercontent.com";
/// A query as the stores of GitHub have them, with escapes.
const QUERY: &str = "se=2026-12-01T03%3A41%3A00Z&sig=signature0of0github%2Bb%3D&rscd=attachment%3B+filename%3Dx";
const LOGS: &str = "https://api.github.com/repos/acme/app/actions/runs/1/logs";

fn rig() -> &'static Rig {
    static RIG: OnceLock<Rig> = OnceLock::new();
    RIG.get_or_init(|| {
        let upstream = Upstream::start();
        upstream.create_repo(OWN, Visibility::Private);
        upstream.create_repo(LIB, Visibility::Public);
        for (api, host, path) in [
            ("acme/app/actions/runs/1/logs", STORE, "/run-logs"),
            ("acme/app/actions/runs/2/logs", STORE, "/other-run"),
            ("acme/app/actions/artifacts/7/zip", STORE, "/artifact"),
            ("acme/app/releases/assets/3", ASSETS, "/own-asset"),
            ("octo/lib/releases/assets/4", ASSETS, "/public-asset"),
        ] {
            upstream.set_api(api, Some(Api::Redirect(format!("https://{host}{path}?{QUERY}").leak())));
        }
        let download = Prank {
            after: 0,
            status: 302,
            headers: vec![("location", format!("https://{ASSETS}/web-asset?{QUERY}"))],
            body: Vec::new(),
            end: End::Whole,
        };
        upstream.set_git("/octo/lib/releases/download/v1/lib.tar.gz", Some(download));
        let shipped = std::fs::read_to_string("../../config/policy.yaml").unwrap();
        let gateway = Gateway::with(&shipped).upstream(&upstream).up();
        Rig { upstream, gateway }
    })
}

/// Checks that `times` requests for `path` have arrived at the store as GitHub wrote the URL, without a credential.
#[track_caller]
fn assert_arrived(path: &str, times: usize) {
    let arrived = rig().upstream.requests_with(&format!("{path}?"));
    assert_eq!(arrived.len(), times, "{arrived:?}");
    for request in &arrived {
        assert_eq!(request.path, format!("{path}?{QUERY}"));
        for name in ["authorization", "cookie", "x-api-key", "x-sallyport-sealed", "private-token"] {
            assert!(request.header(name).is_empty(), "{name}: {request:?}");
        }
        assert!(!format!("{request:?}").contains(TOKEN), "{request:?}");
    }
}

/// The URL to which a call of `url` is redirected.
fn location(sandbox: &Sandbox, url: &str) -> String {
    let answer = sandbox.curl(&["-i", url]);
    let line = answer.body.lines().find_map(|line| line.strip_prefix("location: "));
    line.unwrap_or_else(|| panic!("{answer:?}")).trim_end().to_owned()
}

/// The status and the rule.
fn said(curled: &Curled) -> (u16, Option<String>) {
    (curled.status, curled.rule())
}

#[test]
fn curl_follows_github_to_the_stores() {
    let sandbox = rig().registered(&[OWN]);
    for (url, path) in [
        ("https://api.github.com/repos/octo/lib/releases/assets/4", "/public-asset"),
        ("https://api.github.com/repos/acme/app/releases/assets/3", "/own-asset"),
        ("https://github.com/octo/lib/releases/download/v1/lib.tar.gz", "/web-asset"),
    ] {
        let own = "authorization: Bearer ghp_of-the-client";
        // Its own credential goes everywhere, also against curl's habit.
        let got = sandbox.curl(&["-L", "--location-trusted", "-H", own, "-H", "accept: application/octet-stream", url]);
        assert_eq!((got.status, got.body.as_str()), (200, format!("raw {path}").as_str()), "{url}");
        assert_arrived(path, 1);
    }
    let line =
        rig().gateway.audit_line("the asset", |line| line["path"].as_str().is_some_and(|p| p.starts_with("/own-a")));
    assert_eq!((line["rule"].as_str(), line["verdict"].as_str()), (Some("egress.signed"), Some("allow")));
    // Neither GitHub's signature nor the gateway's is in the audit, in a log or in a state file.
    let given = location(&sandbox, &LOGS.replace("runs/1", "runs/2"));
    assert_eq!(sandbox.curl(&[&given]).status, 200);
    let code = given.rsplit('.').next().unwrap();
    let key = std::fs::read(rig().gateway.state.join("redirect.key")).unwrap();
    let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    for secret in [code, "signature0of0github", &hex] {
        secrets::assert_absent(secret, &rig().gateway.readable());
    }
}

#[test]
fn python_and_gh_follow_github_to_the_stores() {
    let sandbox = rig().registered(&[OWN]);
    let program = "from pip._vendor import requests; import sys\n\
                   answer = requests.get(sys.argv[1], headers={'Authorization': 'Bearer ghp_of-the-client'})\n\
                   print(answer.status_code, answer.text)";
    let url = "https://api.github.com/repos/acme/app/actions/artifacts/7/zip";
    let got = Finished::of(sandbox.command("python3").args(["-c", program, url])).success();
    assert_eq!(got.stdout.trim(), "200 raw /artifact");
    let gh = std::env::var("NEWER_GH").unwrap_or_else(|_| "gh".into());
    if std::process::Command::new(&gh).arg("--version").output().is_err() {
        skip("gh and redirects", "gh is not installed");
        assert_arrived("/artifact", 1);
        return;
    }
    let mut command = sandbox.command(&gh);
    command.env("TMPDIR", &sandbox.home).env("GH_NO_UPDATE_NOTIFIER", "1").env("NO_COLOR", "1");
    let got = Finished::of(command.args(["api", "repos/acme/app/actions/artifacts/7/zip"])).success();
    assert_eq!(got.stdout, "raw /artifact");
    assert_arrived("/artifact", 2);
}

#[test]
fn a_url_of_github_s_is_for_the_container_that_got_it() {
    let (sandbox, other) = (rig().registered(&[OWN]), rig().registered(&[OWN]));
    let given = location(&sandbox, LOGS);
    let bare = given.rsplit_once('&').unwrap().0;
    assert_eq!(bare, format!("https://{STORE}/run-logs?{QUERY}"));
    let before = rig().upstream.requests_with("/run-logs?").len();
    let signed = (403, Some("egress.signed".to_owned()));
    assert_eq!(said(&other.curl(&[&given])), signed, "another container");
    assert_eq!(said(&sandbox.curl(&["-X", "PUT", "-d", "x", &given])), signed, "a write");
    assert_eq!(said(&sandbox.curl(&[&given.replace("/run-logs", "/other-logs")])), signed, "another path");
    assert_eq!(said(&sandbox.curl(&[&given.replace("ssa7", "ssa8")])), signed, "another host");
    assert_eq!(said(&sandbox.curl(&[&format!("{given}&comp=list")])), signed, "more parameters");
    assert_eq!(said(&sandbox.curl(&[bare])), (403, Some("egress.host".to_owned())), "GitHub's own signature alone");
    let asset = format!("https://{ASSETS}/run-logs?{QUERY}");
    assert_eq!(said(&sandbox.curl(&[&asset])), (403, Some("github.host".to_owned())), "also of a host of the preset");
    // Signed more than an hour ago.
    let key = Key::read(&std::fs::read(rig().gateway.state.join("redirect.key")).unwrap()).unwrap();
    let record = rig().gateway.call("GET", &format!("/internal/containers/{}", sandbox.address), None).1;
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    let generation = record["generation"].as_u64().unwrap_or_else(|| panic!("{record}"));
    let headers = [("location".to_owned(), bare.as_bytes().to_vec())];
    let at = |minutes: i64| {
        let then = jiff::Timestamp::now() - jiff::SignedDuration::from_mins(minutes);
        String::from_utf8(key.redirect(generation, 302, &headers, then).unwrap()).unwrap()
    };
    assert_eq!(said(&sandbox.curl(&[&at(61)])), signed, "expired");
    assert_eq!(rig().upstream.requests_with("/run-logs?").len(), before, "nothing has arrived");
    assert_eq!(sandbox.curl(&[&at(58)]).status, 200);
    assert_eq!(sandbox.curl(&[&given]).status, 200);
    // A new record of the same container ends it, as it ends its open requests.
    rig().gateway.register(sandbox.address, &[OWN]);
    assert_eq!(said(&sandbox.curl(&[&given])), signed, "an earlier record");
    assert_eq!(sandbox.curl(&["-L", LOGS]).status, 200);
}
