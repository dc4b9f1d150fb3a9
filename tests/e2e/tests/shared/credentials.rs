//! The credentials of the model APIs and of the operator's own entries, from variables, a file and a command. Each has
//! its own header on its own endpoints, without any credential of the sandbox beside it, and no value is readable
//! anywhere.

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use test_support::gateway::{container_id, policy};
use test_support::upstream::{REPEAT, Visibility};
use test_support::{
    Client, Finished, Gateway, Http, Recorded, Rig, Sandbox, TOKEN, Upstream, eventually, scratch, secrets,
};

const ANTHROPIC: &str = "anthropic_fixture_Kq3vT8";
const GEMINI: &str = "gemini_fixture_Zr5wN1";
const FILED: &str = "filed_fixture_Lm7cX4";
const PRINTED: &str = "printed_fixture_Hd2sB6";

/// The sandbox's own credential.
const OWN: &str = "own_of_the_sandbox_9Fj";

const GEMINI_HOST: &str = "generativelanguage.googleapis.com";

/// The timeout for a changed file to take effect, on a loaded machine.
const TAKEN_UP: Duration = Duration::from_secs(10);

const HOSTS: [&str; 7] = [
    "github.com",
    "api.github.com",
    "api.anthropic.com",
    "api.openai.com",
    GEMINI_HOST,
    "keyed.example.com",
    "second.example.com",
];

/// A rig whose file and command are in `keys`.
struct Keyed {
    rig: Rig,
    keys: PathBuf,
}

impl Keyed {
    fn start() -> Self {
        let keys = scratch("keys");
        write(&keys.join("openai"), FILED);
        write(&keys.join("printed"), PRINTED);
        let command = format!("echo run >>{0}/runs; cat {0}/printed", keys.display());
        let lines = format!(
            "credentials:\n  openai: {{from: {{file: {0}/openai}}}}\n  own:\n    host: keyed.example.com\n    \
             paths: ['/v1/**']\n    header: x-own-key\n    format: key={{}}\n    from: {{command: [sh, -c, '{command}'], ttl: 1s}}\n  \
             queried: {{host: second.example.com, paths: ['/v1/**'], query: sig, from: {{file: {0}/openai}}}}\n",
            keys.display(),
        );
        let upstream = Upstream::start();
        let set = [("ANTHROPIC_API_KEY", ANTHROPIC), ("GOOGLE_API_KEY", GEMINI), ("GITHUB_TOKEN", TOKEN)];
        let gateway = Gateway::with(&policy(&HOSTS)).settings(&lines).upstream(&upstream).envs(&set).up();
        Self { rig: Rig { upstream, gateway }, keys }
    }
}

/// The rig of the tests that change no key.
fn keyed() -> &'static Keyed {
    static KEYED: OnceLock<Keyed> = OnceLock::new();
    KEYED.get_or_init(Keyed::start)
}

/// Replaces a file by a rename, readable for its owner alone.
fn write(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    let new = path.with_extension("new");
    std::fs::write(&new, format!("{text}\n")).unwrap();
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::rename(new, path).unwrap();
}

/// POSTs to `url`, with `args` before it. The default is HTTP/1.1: if the response comes before curl has sent its body,
/// curl gives up an HTTP/2 stream without reading the response.
fn post(sandbox: &Sandbox, args: &[&str], url: &str) -> (u16, Option<String>) {
    let curled =
        sandbox.curl(&[&["--http1.1", "-H", "content-type: application/json", "-d", "{}"], args, &[url]].concat());
    assert_ne!(curled.status, 0, "{url}: {curled:?}");
    (curled.status, curled.rule())
}

fn only(rig: &Rig, text: &str) -> Recorded {
    let arrived = rig.upstream.requests_with(text);
    assert_eq!(arrived.len(), 1, "{text}: {arrived:?}");
    arrived.into_iter().next().unwrap()
}

/// Every endpoint of the test: its target, the added header, and the header's value.
fn endpoints() -> [(&'static str, &'static str, String); 4] {
    [
        ("api.anthropic.com/v1/messages", "x-api-key", ANTHROPIC.to_owned()),
        ("api.openai.com/v1/responses", "authorization", format!("Bearer {FILED}")),
        ("generativelanguage.googleapis.com/v1beta/models/m:generateContent", "x-goog-api-key", GEMINI.to_owned()),
        ("keyed.example.com/v1/any/thing", "x-own-key", format!("key={PRINTED}")),
    ]
}

#[test]
fn each_credential_stands_in_its_header_and_nothing_of_the_sandbox_s_beside_it() {
    let Keyed { rig, .. } = keyed();
    let sandbox = rig.registered(&[]);
    // Header names in odd letter case, and repeated.
    let own: Vec<String> = [
        "Authorization",
        "authorization",
        "X-Api-KEY",
        "x-api-key",
        "X-Goog-Api-Key",
        "API-Key",
        "Cookie",
        "X-Own-Key",
    ]
    .iter()
    .enumerate()
    .flat_map(|(number, name)| ["-H".to_owned(), format!("{name}: Bearer {OWN}{number}")])
    .chain(["-H".to_owned(), "anthropic-beta: oauth-2025-04-20,other".to_owned()])
    .collect();
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    for http in ["--http1.1", "--http2"] {
        for (target, header, value) in endpoints() {
            let mark = format!("mark={}", http.trim_start_matches('-'));
            let query = format!(
                "{mark}&key={OWN}&%6Bey={OWN}&alt=sse&api_key={OWN}&key={OWN}&access_token={OWN}&$key={OWN}&flag"
            );
            let told = post(&sandbox, &[&[http], &own[..]].concat(), &format!("https://{target}?{query}"));
            assert_eq!(told, (200, None), "{http} {target}");
            // Envoy rewrites the query, sorted.
            let mut arrived = rig.upstream.requests_with(target);
            arrived.retain(|request| request.path.contains(&mark));
            assert_eq!(arrived.len(), 1, "{http} {target}: {arrived:?}");
            let arrived = &arrived[0];
            assert_eq!(arrived.header(header), [value.as_bytes()], "{arrived:?}");
            assert_eq!(arrived.header("anthropic-beta"), [&b"oauth-2025-04-20,other"[..]], "{arrived:?}");
            let whole = format!("{arrived:?}");
            // The only header that keyed.example.com replaces.
            let whole = if header == "x-own-key" { whole } else { whole.replace(&format!("{OWN}7"), "") };
            assert!(!whole.contains(OWN), "{whole}");
            assert!(arrived.path.contains("alt=sse") && arrived.path.contains("flag"), "{}", arrived.path);
            assert!(!arrived.path.to_ascii_lowercase().contains("key"), "{}", arrived.path);
        }
    }
}

#[tokio::test]
async fn a_body_that_comes_faster_than_the_credential_arrives_whole() {
    let Keyed { rig, .. } = keyed();
    // Registered just now: the body exceeds the buffer while a worker looks up the address.
    let sandbox = rig.registered(&[]);
    for (http, path) in [(Http::One, "/v1/responses?one"), (Http::Two, "/v1/responses?two")] {
        let mut client = Client::connect(&sandbox, sandbox.address, "api.openai.com", http).await.unwrap();
        let body = format!("{{\"input\":\"{}\"}}", "x".repeat(8_000_001 - 12)).into();
        client.post(path, "application/json", body).await.unwrap().ok().unwrap();
        assert_eq!(only(rig, path).body_bytes, 8_000_001, "{http:?}");
    }
}

#[tokio::test]
async fn what_an_upstream_repeats_of_a_request_tells_no_credential() {
    let keyed = keyed();
    let sandbox = keyed.rig.registered(&[]);
    for http in [Http::One, Http::Two] {
        for (target, header, value) in endpoints() {
            let (host, path) = target.split_once('/').unwrap();
            let mut client = Client::connect(&sandbox, sandbox.address, host, http).await.unwrap();
            let path = format!("/{path}?{REPEAT}");
            let (status, headers, trailers) = client.fields(&path).await.unwrap();
            assert_eq!(status, 200, "{target}");
            assert!(!headers.contains_key("set-cookie"), "{target}");
            if http == Http::Two {
                assert!(trailers.contains_key("seen-path"), "{target}: {trailers:?}");
            }
            assert!(headers.contains_key("seen-path"), "{target}: {headers:?}");
            let secret = value.rsplit([' ', '=']).next().unwrap();
            for (name, value) in headers.iter().chain(&trailers) {
                assert!(
                    !value.as_bytes().windows(secret.len()).any(|part| part == secret.as_bytes()),
                    "{target} {name}"
                );
            }
            let arrived = keyed.rig.upstream.requests_with(&path);
            assert!(
                arrived.iter().all(|request| request.header(header) == [value.as_bytes()]),
                "{target}: {arrived:?}"
            );
        }
    }
}

#[tokio::test]
async fn what_an_upstream_repeats_of_a_password_or_of_a_query_tells_no_credential() {
    let Keyed { rig, .. } = keyed();
    let repo = format!("acme/{REPEAT}");
    rig.upstream.create_repo(&repo, Visibility::Private);
    let sandbox = rig.registered(&[&repo]);
    let git = format!("/{repo}.git/info/refs?service=git-upload-pack");
    let query = format!("/v1/{REPEAT}?a=1");
    for http in [Http::One, Http::Two] {
        for (host, path, secret) in [("github.com", &git, TOKEN), ("second.example.com", &query, FILED)] {
            let mut client = Client::connect(&sandbox, sandbox.address, host, http).await.unwrap();
            let answer = client.open(path).await.unwrap();
            assert_eq!(answer.status(), 200, "{host}");
            assert!(answer.headers().contains_key("seen-user-agent"), "{answer:?}");
            let told = answer.headers().iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()));
            secrets::assert_absent(secret, &told.collect::<Vec<_>>());
            let arrived = rig.upstream.requests_with(path.split('?').next().unwrap());
            let credentialed = |request: &Recorded| {
                request.path.contains(&format!("sig={FILED}"))
                    || request.header("authorization")[0].starts_with(b"Basic ")
            };
            assert!(!arrived.is_empty() && arrived.iter().all(credentialed), "{host}: {arrived:?}");
        }
    }
}

#[test]
fn a_query_without_a_credential_goes_on_as_it_is() {
    let Keyed { rig, .. } = keyed();
    let sandbox = rig.registered(&[]);
    let query = "z=1&a=%2f&&b&a=2&c==&monkey=3";
    assert_eq!(post(&sandbox, &[], &format!("https://api.openai.com/v1/embeddings?{query}")), (200, None));
    assert_eq!(only(rig, "api.openai.com/v1/embeddings").path, format!("/v1/embeddings?{query}"));
}

#[test]
fn what_a_credential_is_not_for_is_refused_and_does_not_arrive() {
    let Keyed { rig, .. } = keyed();
    let sandbox = rig.registered(&[]);
    let refused = [
        ("GET", "api.anthropic.com/v1/files", "credentials.path"),
        ("POST", "api.anthropic.com/v1/messages/batches", "credentials.path"),
        ("GET", "api.anthropic.com/v1/messages/not-a-read", "credentials.path"),
        ("GET", "api.openai.com/v1/responses/resp_1", "credentials.path"),
        ("DELETE", "api.openai.com/v1/models/m", "credentials.path"),
        ("GET", "api.openai.com/v1/models/../files", "credentials.path"),
        ("GET", "api.openai.com/v1/f%69les", "credentials.path"),
        ("GET", "generativelanguage.googleapis.com/v1beta/files", "credentials.path"),
        ("GET", "keyed.example.com/v2", "credentials.path"),
        ("POST", "keyed.example.com/v1/semicolon?a=1;key=K", "credentials.query"),
    ];
    for (method, target, rule) in refused {
        for own in [&[][..], &["-H", "authorization: Bearer own"]] {
            let curled =
                sandbox.curl(&[&["--path-as-is", "-X", method], own, &[&format!("https://{target}")]].concat());
            assert_eq!((curled.status, curled.rule().as_deref()), (403, Some(rule)), "{method} {target}: {curled:?}");
        }
        let path = target.split_once('/').unwrap().1.split('?').next().unwrap();
        assert!(rig.upstream.requests_with(path).is_empty(), "{target}");
    }
    // A WebSocket is no way around.
    let upgrade = ["--http1.1", "-H", "upgrade: websocket", "-H", "connection: upgrade"];
    let curled = sandbox.curl(&[&upgrade[..], &["https://api.openai.com/v1/realtime"]].concat());
    assert_eq!((curled.status, curled.rule().as_deref()), (426, Some("credentials.path")), "{curled:?}");
    assert!(rig.upstream.requests_with("/v1/realtime").is_empty());
}

#[test]
fn a_record_narrows_what_its_container_may_use() {
    let Keyed { rig, .. } = keyed();
    let sandbox = rig.sandbox();
    let used = |names: Value| {
        let record = json!({
            "container_ip": sandbox.address, "container_id": container_id(sandbox.address), "repos": [], "credentials": names,
        });
        let (status, body) = rig.gateway.call("POST", "/internal/containers", Some(&record));
        assert!(matches!(status, 200 | 201), "{status} {body}");
        endpoints().map(|(target, _, _)| post(&sandbox, &[], &format!("https://{target}")))
    };
    let no = || (403, Some("credentials.container".to_owned()));
    let yes = || (200, None);
    assert_eq!(used(json!([])), [no(), no(), no(), no()]);
    assert_eq!(used(json!(["openai", "own"])), [no(), yes(), no(), yes()]);
    assert_eq!(used(json!(["anthropic"])), [yes(), no(), no(), no()]);
    assert_eq!(used(Value::Null), [yes(), yes(), yes(), yes()]);
}

#[test]
fn a_changed_file_and_a_changed_output_are_taken_up_in_time_and_what_fails_is_told() {
    let Keyed { rig, keys } = &Keyed::start();
    let sandbox = rig.registered(&[]);
    let url = |host: &str, path: &str| format!("https://{host}/v1/{path}");
    let warned = |word: &str| rig.gateway.warnings().iter().any(|warning| warning.contains(word));

    // A file.
    assert_eq!(post(&sandbox, &[], &url("api.openai.com", "responses?before")), (200, None));
    write(&keys.join("openai"), "filed_fixture_second");
    let changed = Instant::now();
    eventually("the changed file is in force", TAKEN_UP, || {
        post(&sandbox, &[], &url("api.openai.com", "responses?after"));
        let arrived = rig.upstream.requests_with("api.openai.com/v1/responses?after");
        let last = arrived.last().map(|request| request.header("authorization")[0].to_vec());
        (last.as_deref() == Some(b"Bearer filed_fixture_second")).then_some(())
    });
    println!("a changed file was taken up after {:?}", changed.elapsed());
    write(&keys.join("openai"), "unusable\u{1}fixture");
    eventually("a value that no header can carry is refused", TAKEN_UP, || {
        (post(&sandbox, &[], &url("api.openai.com", "responses")) == (503, Some("credentials.source".into())))
            .then_some(())
    });
    assert!(warned("keys") && warned("no header can carry"), "{:?}", rig.gateway.warnings());
    std::fs::remove_file(keys.join("openai")).unwrap();
    eventually("requests without the removed file are refused", TAKEN_UP, || {
        (post(&sandbox, &[], &url("api.openai.com", "responses")) == (502, Some("credentials.missing".into())))
            .then_some(())
    });

    // A command: its output is cached for a second, one run serves all, and after a failure the last value stays.
    assert_eq!(post(&sandbox, &[], &url("keyed.example.com", "before")), (200, None));
    write(&keys.join("printed"), "printed_fixture_second");
    eventually("the changed output is in force", TAKEN_UP, || {
        post(&sandbox, &[], &url("keyed.example.com", "after"));
        let arrived = rig.upstream.requests_with("keyed.example.com/v1/after");
        (arrived.last()?.header("x-own-key") == [b"key=printed_fixture_second"]).then_some(())
    });
    std::fs::remove_file(keys.join("printed")).unwrap();
    eventually("the failure is a warning", TAKEN_UP, || {
        assert_eq!(post(&sandbox, &[], &url("keyed.example.com", "kept")), (200, None));
        warned("credentials: own: ").then_some(())
    });
    let kept = rig.upstream.requests_with("keyed.example.com/v1/kept");
    assert!(kept.iter().all(|request| request.header("x-own-key") == [b"key=printed_fixture_second"]), "{kept:?}");
    for secret in ["filed_fixture_second", "printed_fixture_second"] {
        secrets::assert_absent(secret, &rig.gateway.readable());
    }
    let logs = rig.gateway.readable();
    assert!(logs.iter().all(|(_, text)| !text.windows(8).any(|window| window == b"unusable")), "an unusable value");
}

#[test]
fn a_command_that_gives_nothing_is_a_503_of_its_own() {
    let lines = "credentials:\n  own: {host: keyed.example.com, from: {command: [sh, -c, 'printf leaked_%s fixture; exit 3']}}\n";
    let upstream = Upstream::start();
    let gateway = Gateway::with(&policy(&["keyed.example.com"])).settings(lines).upstream(&upstream).up();
    let rig = Rig { upstream, gateway };
    let sandbox = rig.registered(&[]);
    assert_eq!(post(&sandbox, &[], "https://keyed.example.com/x"), (503, Some("credentials.source".into())));
    assert!(rig.gateway.warnings().iter().any(|warning| warning.contains("exit status: 3")));
    assert!(rig.upstream.requests_with("keyed.example.com").is_empty());
    secrets::assert_absent("leaked_fixture", &rig.gateway.readable());
}

#[test]
fn a_missing_value_is_a_502_that_names_the_variables() {
    let upstream = Upstream::start();
    let gateway = Gateway::with(&policy(&HOSTS)).upstream(&upstream).up();
    let rig = Rig { upstream, gateway };
    let sandbox = rig.registered(&[]);
    let cases = [
        ("api.anthropic.com/v1/messages", "CLAUDE_CODE_OAUTH_TOKEN or ANTHROPIC_API_KEY"),
        ("api.openai.com/v1/responses", "OPENAI_API_KEY"),
        ("generativelanguage.googleapis.com/v1beta/models/m:countTokens", "GEMINI_API_KEY or GOOGLE_API_KEY"),
    ];
    for (target, variables) in cases {
        let curled = sandbox.curl(&["--http1.1", "-d", "{}", "-H", "x-api-key: own", &format!("https://{target}")]);
        assert_eq!((curled.status, curled.rule().as_deref()), (502, Some("credentials.missing")), "{curled:?}");
        assert!(curled.body.contains(variables), "{curled:?}");
        let host = target.split_once('/').unwrap().0;
        assert!(rig.upstream.requests_with(host).is_empty());
        let line = rig.gateway.audit_line(host, |line| line["host"] == host);
        assert_eq!((&line["rule"], &line["status"]), (&json!("credentials.missing"), &json!(502)), "{line}");
    }
}

#[test]
fn the_shipped_policy_allows_the_hosts_of_configured_credentials() {
    let upstream = Upstream::start();
    let set = [("CLAUDE_CODE_OAUTH_TOKEN", ANTHROPIC)];
    let shipped = std::fs::read_to_string("../../config/policy.yaml").unwrap();
    let gateway = Gateway::with(&shipped).upstream(&upstream).envs(&set).up();
    let rig = Rig { upstream, gateway };
    let sandbox = rig.registered(&[]);
    assert_eq!(post(&sandbox, &["-H", "x-api-key: own"], "https://api.anthropic.com/v1/messages"), (200, None));
    let arrived = only(&rig, "api.anthropic.com/v1/messages");
    assert_eq!(arrived.header("authorization"), [format!("Bearer {ANTHROPIC}").as_bytes()]);
    assert!(arrived.header("x-api-key").is_empty(), "{arrived:?}");
    let refused = post(&sandbox, &[], "https://api.openai.com/v1/responses");
    assert_eq!(refused, (403, Some("egress.host".into())));
}

#[test]
fn no_value_is_where_anybody_could_read_it() {
    let Keyed { rig, .. } = keyed();
    let sandbox = rig.registered(&[]);
    for (target, _, _) in endpoints() {
        let (host, path) = target.split_once('/').unwrap();
        assert_eq!(post(&sandbox, &[], &format!("https://{target}?seen&key={OWN}")), (200, None));
        rig.gateway.audit_line(target, |line| {
            line["host"] == host
                && line["path"].as_str().is_some_and(|have| have.contains(path) && have.contains("seen"))
        });
    }
    let mut texts = rig.gateway.readable();
    let envoy = rig.gateway.envoy_pid().unwrap();
    for file in ["cmdline", "environ"] {
        texts.push((format!("Envoy's {file}"), std::fs::read(format!("/proc/{envoy}/{file}")).unwrap()));
    }
    let own = rig.gateway.pid();
    texts.push(("our command line".into(), std::fs::read(format!("/proc/{own}/cmdline")).unwrap()));
    let socket = rig.gateway.state.join("run/envoy-admin.sock");
    for path in ["config_dump?include_eds", "stats", "clusters"] {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--fail", "--unix-socket"]).arg(&socket).arg(format!("http://envoy/{path}"));
        let dump = Finished::of(&mut curl).success().stdout;
        assert!(!dump.is_empty());
        texts.push((path.to_owned(), dump.into_bytes()));
    }
    let environment = Finished::of(&mut sandbox.command("env")).success().stdout;
    assert!(environment.contains("ANTHROPIC_API_KEY=sk-ant-api03-held-by-the-gateway-no-secret-"), "{environment}");
    assert!(environment.contains("OPENAI_API_KEY=sk-held-by-the-gateway-no-secret-"), "{environment}");
    texts.push(("the sandbox's environment".into(), environment.into_bytes()));
    texts.extend(secrets::files(&sandbox.home));
    for secret in [ANTHROPIC, GEMINI, FILED, PRINTED, OWN] {
        secrets::assert_absent(secret, &texts);
    }
}
