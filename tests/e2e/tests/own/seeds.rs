//! The requirements of the original design: its registration, its policy file and its command lines, run unchanged
//! (tests/corpus/seeds/README.md).

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use test_support::upstream::Visibility;
use test_support::{Finished, Gateway, Recorded, Sandbox, TOKEN, Upstream, eventually};

/// A fake key of a model's API.
const KEY: &str = "fixture_key_of_the_model_5Tn8";

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus/seeds")
}

/// A command line, and its expected effects.
struct Case {
    name: String,
    text: String,
    by: String,
    exit: String,
    prints: Vec<String>,
    arrives: Vec<String>,
    nothing_arrives: Vec<String>,
}

impl Case {
    fn read(file: &Path) -> Self {
        let text = std::fs::read_to_string(file).unwrap();
        let mut said: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for line in text.lines().filter_map(|line| line.strip_prefix("# ")) {
            let (key, value) = line.split_once(": ").unwrap_or_else(|| panic!("{}: {line}", file.display()));
            said.entry(key).or_default().push(value.to_owned());
        }
        let mut take = |key| said.remove(key).unwrap_or_default();
        let (by, exit) = (take("by"), take("exit"));
        let (prints, arrives, nothing_arrives) = (take("prints"), take("arrives"), take("nothing arrives"));
        let ([by], [exit]) = (&by[..], &exit[..]) else { panic!("{}: who, and how does it end?", file.display()) };
        let (by, exit) = (by.clone(), exit.clone());
        assert!(said.is_empty(), "{}: {said:?}", file.display());
        assert!(!(prints.is_empty() && arrives.is_empty()), "{}: says too little", file.display());
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        Self { name, text, by, exit, prints, arrives, nothing_arrives }
    }

    fn check(&self, ended: &Finished, upstream: &Upstream) {
        let told = format!("{}: {ended:?}", self.name);
        match self.exit.strip_prefix("not ") {
            Some(code) => assert_ne!(ended.code, Some(code.parse().unwrap()), "{told}"),
            None => assert_eq!(ended.code, Some(self.exit.parse().unwrap()), "{told}"),
        }
        let printed = format!("{}{}", ended.stdout, ended.stderr);
        for text in &self.prints {
            assert!(printed.contains(text), "{told}\nwithout {text}");
        }
        let arrived: Vec<String> = upstream.requests().iter().map(asked).collect();
        for text in &self.arrives {
            assert!(arrived.iter().any(|asked| asked.starts_with(text)), "{told}\n{text} is not in {arrived:#?}");
        }
        for text in &self.nothing_arrives {
            assert!(!arrived.iter().any(|asked| asked.contains(text)), "{told}\n{text} is in {arrived:#?}");
        }
    }
}

fn asked(request: &Recorded) -> String {
    format!("{} {}{}", request.method, request.host, request.path)
}

fn registration(sandbox: &Sandbox, repo: &str, lasts: SignedDuration) -> serde_json::Value {
    json!({"container_ip": sandbox.address, "container_id": repo, "repos": [repo], "auth_mode": "bot",
        "allowed_branches": ["sandbox/*"], "expires_at": Timestamp::now() + lasts})
}

#[test]
fn the_command_lines_of_the_original_design_do_what_it_says() {
    let upstream = Upstream::start();
    for repo in ["owner/repo1", "owner/repo2", "owner/private", "owner/neighbours"] {
        upstream.create_repo(repo, Visibility::Private);
    }
    let policy = std::fs::read_to_string(corpus().join("policy.yaml")).unwrap();
    // The design's commands send no token.
    let gateway = Gateway::with(&policy).settings("admin_token: none\n").upstream(&upstream);
    let gateway = gateway.env("ANTHROPIC_API_KEY", KEY).up();
    let sandbox = || Sandbox::start().behind(&gateway);
    let who = BTreeMap::from(["owner", "neighbour", "stranger", "expired"].map(|who| (who, sandbox())));
    let hour = SignedDuration::from_hours(1);
    for (who, repo, lasts) in
        [(&who["neighbour"], "owner/neighbours", hour), (&who["expired"], "owner/repo1", SignedDuration::from_secs(3))]
    {
        let (status, body) = gateway.call("POST", "/internal/register", Some(&registration(who, repo, lasts)));
        assert_eq!(status, 201, "{body}");
    }
    let expired = Timestamp::now() + SignedDuration::from_secs(3);
    eventually("the short record has expired", Duration::from_secs(10), || (Timestamp::now() > expired).then_some(()));

    let mut files: Vec<PathBuf> = std::fs::read_dir(corpus()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "sh"));
    files.sort();
    assert!(files.len() > 15, "{files:?}");
    for case in files.iter().map(|file| Case::read(file)) {
        let text = case.text.replace("172.18.0.5", &who["owner"].address.to_string());
        let text = text.replace(":8081", &format!(":{}", gateway.admin().port()));
        let text = text.replace("2027-01-15T00:00:00Z", &(Timestamp::now() + hour).to_string());
        let mut command = match case.by.as_str() {
            "operator" => Command::new("sh"),
            name => who.get(name).unwrap_or_else(|| panic!("{}: who is {name}?", case.name)).command("sh"),
        };
        case.check(&Finished::of(command.args(["-c", &text])), &upstream);
    }

    // The gateway added the credentials, each for its own host, and the sandbox sent none.
    for request in upstream.requests() {
        let carries = |name: &str, secret: &str| {
            request.header(name).iter().any(|value| String::from_utf8_lossy(value).contains(secret))
        };
        match request.host.as_str() {
            "api.anthropic.com" => assert!(carries("x-api-key", KEY), "{request:?}"),
            "api.github.com" => assert!(carries("authorization", &format!("Bearer {TOKEN}")), "{request:?}"),
            "github.com" => assert!(carries("authorization", "Basic "), "{request:?}"),
            _ => panic!("{request:?}"),
        }
    }
}

#[test]
fn a_pattern_of_the_policy_refuses_what_is_allowed_without_it() {
    let upstream = Upstream::start();
    upstream.create_repo("owner/repo1", Visibility::Private);
    let plain = "egress: [github]\n";
    // One worker: the policy is in force in all of it.
    let gateway = Gateway::with(plain).upstream(&upstream).workers(1).up();
    let sandbox = Sandbox::start().behind(&gateway);
    gateway.register(sandbox.address, &["owner/repo1"]);
    let ask = |what: &str| sandbox.curl(&[format!("https://api.github.com/repos/owner/repo1/{what}")]);
    assert_eq!(ask("issues").status, 200);
    let blocked = format!("{plain}policy:\n  blocked_api_patterns:\n    GET: [\"^/repos/[^/]+/[^/]+/issues$\"]\n");
    std::fs::write(gateway.policy_file(), blocked).unwrap();
    let refused = eventually("the pattern is in force", Duration::from_secs(5), || {
        let answer = ask("issues");
        (answer.status != 200).then_some(answer)
    });
    assert_eq!((refused.status, refused.rule().as_deref()), (403, Some("github.blocked-pattern")), "{refused:?}");
    let arrived = upstream.requests_with("repo1/issues").len();
    assert_eq!(ask("issues?page=2").rule().as_deref(), Some("github.blocked-pattern"));
    assert_eq!(upstream.requests_with("repo1/issues").len(), arrived);
    // The pattern ends with `$`, and it is for GET.
    assert_eq!(ask("issues/1").status, 200);
}
