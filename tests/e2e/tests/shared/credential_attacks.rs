//! Attacks of a hostile sandbox on credentials. It sends its own in every place and spelling, and follows redirects
//! away from a host with a credential. It uses resources that others of the same account have stored, and requests
//! resources outside its record. Each test checks both sides: the client's response, and the requests that arrive.

use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use test_support::gateway::{container_id, policy};
use test_support::internet::{NameServer, Record, public_host};
use test_support::upstream::{ADDRESS, Visibility, number};
use test_support::{Curled, Finished, Gateway, Http, Recorded, Rig, Sandbox, TOKEN, Upstream, client, eventually, raw};
use test_support::{scratch, secrets};

const ANTHROPIC: &str = "anthropic_fixture_Vb6kQ2";
const OPENAI: &str = "openai_fixture_Jn4wX8";
const GEMINI: &str = "gemini_fixture_Tc9rL5";
const QUERIED: &str = "queried_fixture_Gh3yK7";

/// The sandbox's own credential.
const OWN: &str = "own_of_the_sandbox_4Wz";

const GEMINI_HOST: &str = "generativelanguage.googleapis.com";

const HOSTS: [&str; 8] = [
    "github.com",
    "api.github.com",
    "api.anthropic.com",
    "api.openai.com",
    GEMINI_HOST,
    "keyed.example.com",
    "second.example.com",
    "files.example.net",
];

/// The operator's entries: one in the query, one for a suffix, one for some containers only.
const ENTRIES: &str = "credentials:\n  query: {host: keyed.example.com, query: sig, from: {env: QUERIED}}\n  \
                       suffix: {host: '*.example.net', header: x-suffix-key, from: {env: OPENAI_API_KEY}}\n";

fn start(policy: &str, settings: &str) -> Rig {
    let upstream = Upstream::start();
    upstream.create_repo("acme/app", Visibility::Private);
    let set = [
        ("ANTHROPIC_API_KEY", ANTHROPIC),
        ("OPENAI_API_KEY", OPENAI),
        ("GEMINI_API_KEY", GEMINI),
        ("QUERIED", QUERIED),
    ];
    let gateway = Gateway::with(policy).settings(settings).upstream(&upstream).envs(&set).up();
    Rig { upstream, gateway }
}

/// The rig of the tests that change nothing in it. files.example.net has no credential.
fn shared() -> &'static Rig {
    static SHARED: OnceLock<Rig> = OnceLock::new();
    SHARED.get_or_init(|| start(&policy(&HOSTS), &ENTRIES.replace("  suffix", "  #suffix")))
}

/// The credential's header for each class of hosts, and a target there, for GET.
fn credentialed() -> [(&'static str, &'static str, String); 4] {
    [
        ("api.openai.com/v1/models", "authorization", format!("Bearer {OPENAI}")),
        ("api.anthropic.com/v1/models", "x-api-key", ANTHROPIC.to_owned()),
        ("generativelanguage.googleapis.com/v1beta/models", "x-goog-api-key", GEMINI.to_owned()),
        ("api.github.com/repos/acme/app/issues", "authorization", format!("Bearer {TOKEN}")),
    ]
}

fn register(rig: &Rig, sandbox: &Sandbox, repos: &[&str], credentials: Value) {
    let known = |name: &&str| json!({"name": name, "id": number(name), "default_branch": "main"});
    let repos: Vec<Value> = repos.iter().map(known).collect();
    let record = json!({
        "container_ip": sandbox.address, "container_id": container_id(sandbox.address), "repos": repos,
        "credentials": credentials,
    });
    let (status, body) = rig.gateway.call("POST", "/internal/containers", Some(&record));
    assert!(matches!(status, 200 | 201), "{status} {body}");
}

fn told(curled: &Curled) -> (u16, Option<String>) {
    (curled.status, curled.rule())
}

/// The sandbox's requests with `mark` in their path that have arrived.
fn arrived(rig: &Rig, mark: &str) -> Vec<Recorded> {
    rig.upstream.requests_with(mark).into_iter().filter(|request| !request.is_own()).collect()
}

#[track_caller]
fn only(rig: &Rig, mark: &str) -> Recorded {
    let mut all = arrived(rig, mark);
    assert_eq!(all.len(), 1, "{mark}: {all:?}");
    all.remove(0)
}

#[track_caller]
fn assert_nothing_of(own: &str, request: &Recorded) {
    secrets::assert_absent(own, &[("what arrived".into(), format!("{request:?}").into_bytes())]);
}

#[test]
fn the_sandbox_s_own_authorization_reaches_no_host_that_has_a_credential_and_others_only_where_that_is_allowed() {
    let keeping =
        start(&(policy(&HOSTS) + "strip_foreign_credentials: false\n"), &ENTRIES.replace("  suffix", "  #suffix"));
    for (rig, kept) in [(shared(), false), (&keeping, true)] {
        let sandbox = rig.registered(&["acme/app"]);
        for (target, header, value) in credentialed() {
            for (number, own) in [format!("Bearer {OWN}"), format!("Basic {OWN}"), OWN.to_owned()].iter().enumerate() {
                let mark = format!("page=10{number}");
                let own = format!("Authorization: {own}");
                let curled = sandbox.curl(&["-H", &own, &format!("https://{target}?{mark}")]);
                assert_eq!(told(&curled), (200, None), "{target}: {curled:?}");
                let request = only(rig, &format!("{target}?{mark}"));
                assert_eq!(request.header(header), [value.as_bytes()], "{request:?}");
                assert_nothing_of(OWN, &request);
            }
        }
        // git: a credential in the remote's URL becomes a header too.
        let url = format!("https://x:{OWN}@github.com/acme/app/info/refs?service=git-upload-pack");
        assert_eq!(told(&sandbox.curl(&[&url])).0, 200);
        let request = arrived(rig, "github.com/acme/app/info/refs").pop().unwrap();
        assert_eq!(request.header("authorization").len(), 1, "{request:?}");
        assert_nothing_of(OWN, &request);
        // A host without a credential.
        let curled = sandbox.curl(&["-H", &format!("Authorization: Bearer {OWN}"), "https://files.example.net/class"]);
        assert_eq!(told(&curled), (200, None), "{curled:?}");
        let request = only(rig, "files.example.net/class");
        let own = format!("Bearer {OWN}");
        let expected: &[&[u8]] = if kept { &[own.as_bytes()] } else { &[] };
        assert_eq!(request.header("authorization"), expected, "{request:?}");
    }
}

/// A server in cleartext, and the heads of its requests.
fn mirror() -> (std::net::SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind((ADDRESS, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let heads = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&heads);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read(&mut byte).unwrap_or(0) == 0 {
                    break;
                }
                head.push(byte[0]);
            }
            kept.lock().unwrap().push(String::from_utf8_lossy(&head).into_owned());
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok");
        }
    });
    (address, heads)
}

#[test]
fn a_cleartext_mirror_sees_no_credential_of_anybody_s() {
    let upstream = Upstream::start();
    let (address, heads) = mirror();
    let public = Ipv4Addr::new(203, 0, 114, 9);
    public_host(public, address);
    let nameserver = NameServer::start(&[("mirror.example.org", &[Record::Address(public.into())])]);
    let policy = "egress:\n  - {host: mirror.example.org, cleartext: true}\n";
    let names = format!("nameservers: ['{}']\n", nameserver.address);
    let gateway = Gateway::with(policy).settings(&names).upstream(&upstream).env("OPENAI_API_KEY", OPENAI).up();
    let rig = Rig { upstream, gateway };
    let sandbox = rig.registered(&["acme/app"]);
    let own = ["-H", &format!("Authorization: Bearer {OWN}"), "-H", &format!("x-api-key: {OWN}")];
    let curled = sandbox.curl(&[&own[..], &["http://mirror.example.org/packages"]].concat());
    assert_eq!(told(&curled), (200, None), "{curled:?}");
    let heads = heads.lock().unwrap().join("\n");
    assert!(heads.starts_with("GET /packages HTTP/1.1"), "{heads}");
    for secret in [OWN, OPENAI, TOKEN] {
        secrets::assert_absent(secret, &[("the mirror".into(), heads.clone().into_bytes())]);
    }
}

#[tokio::test]
async fn headers_twice_joined_and_in_odd_case_are_all_replaced() {
    let rig = shared();
    let sandbox = rig.registered(&["acme/app"]);
    let spellings = [
        format!("Authorization: Bearer {OWN}\r\nAuthorization: Bearer {OWN}"),
        format!("AUTHORIZATION: Bearer {OWN}\r\nauthorization: Basic {OWN}\r\naUtHoRiZaTiOn: {OWN}"),
        format!("Authorization: Bearer {OWN}, Bearer {OWN}"),
        format!("authorization:Bearer {OWN}\r\nx-other: 1\r\nauthorization:\t{OWN}"),
        format!("X-API-KEY: {OWN}\r\nx-api-Key: {OWN}, {OWN}"),
        format!("X-Goog-Api-Key: {OWN}\r\nApi-Key: {OWN}\r\nPrivate-Token: {OWN}"),
        format!("Cookie: session={OWN}; other={OWN}\r\nCookie: third={OWN}"),
    ];
    for (target, header, value) in credentialed() {
        let (host, path) = target.split_once('/').unwrap();
        for (number, own) in spellings.iter().enumerate() {
            let mark = format!("page=20{number}");
            let mut stream = client::tls(&sandbox, sandbox.address, host, Http::One).await.unwrap();
            let request = format!("GET /{path}?{mark} HTTP/1.1\r\nHost: {host}\r\n{own}\r\n\r\n");
            let answer = raw::ask(&mut stream, request.as_bytes()).await.unwrap();
            // The gateway refuses requests to GitHub with a repeated header.
            if host == "api.github.com" && answer.rule.as_deref() == Some("github.header") {
                assert!(arrived(rig, &format!("{target}?{mark}")).is_empty(), "{own}");
                continue;
            }
            assert_eq!(answer.status, 200, "{target} {own}: {answer:?}");
            let request = only(rig, &format!("{target}?{mark}"));
            assert_eq!(request.header(header), [value.as_bytes()], "{request:?}");
            assert_nothing_of(OWN, &request);
        }
        // A header that two servers could parse differently does not arrive, or not as a header.
        let odd = [
            (format!("Authorization : Bearer {OWN}"), "page=300"),
            (format!("x-other: 1\r\n Authorization: Bearer {OWN}"), "page=301"),
            (format!("x_api_key: {OWN}"), "page=302"),
        ];
        for (own, mark) in odd {
            let mut stream = client::tls(&sandbox, sandbox.address, host, Http::One).await.unwrap();
            let request = format!("GET /{path}?{mark} HTTP/1.1\r\nHost: {host}\r\n{own}\r\n\r\n");
            let answer = raw::ask(&mut stream, request.as_bytes()).await.unwrap();
            let came = arrived(rig, &format!("{target}?{mark}"));
            assert!(came.is_empty() == (answer.status != 200), "{mark}: {answer:?} {came:?}");
            for request in &came {
                assert_eq!(request.header(header), [value.as_bytes()], "{request:?}");
                let keys = ["authorization", "x-api-key", "x-goog-api-key", "x_api_key"];
                let others = keys.into_iter().filter(|key| *key != header);
                assert!(others.into_iter().all(|key| request.header(key).is_empty()), "{request:?}");
            }
        }
    }
}

#[test]
fn a_credential_in_the_query_stands_there_once_and_is_ours() {
    let rig = shared();
    let sandbox = rig.registered(&[]);
    for (number, own) in [
        String::new(),
        format!("&sig={OWN}"),
        format!("&sig={OWN}&sig={OWN}&SIG={OWN}&s%69g={OWN}&%73ig={OWN}&$sig={OWN}"),
        format!("&key={OWN}&access_token={OWN}&sig"),
    ]
    .iter()
    .enumerate()
    {
        let mark = format!("mark={number}");
        let key = format!("Authorization: Bearer {OWN}");
        let curled = sandbox.curl(&["-H", &key, &format!("https://keyed.example.com/v1/queried?{mark}{own}&a=%2f")]);
        assert_eq!(told(&curled), (200, None), "{curled:?}");
        let request = only(rig, &mark);
        let (_, query) = request.path.split_once('?').unwrap();
        let of_name = |pair: &&str| pair.to_ascii_lowercase().starts_with("sig");
        let ours: Vec<&str> = query.split('&').filter(of_name).collect();
        assert_eq!(ours, [format!("sig={QUERIED}")], "{query}");
        assert!(query.contains("a=%2f") && query.contains(&mark), "{query}");
        assert!(request.header("authorization").is_empty(), "{request:?}");
        assert_nothing_of(OWN, &request);
    }
    let refused = sandbox.curl(&[&format!("https://keyed.example.com/v1/semi?a=1;sig={OWN}")]);
    assert_eq!(told(&refused), (403, Some("credentials.query".into())));
    assert!(arrived(rig, "/v1/semi").is_empty());
    // The audit has the forwarded path, without the value.
    rig.gateway.audit_line("a query", |line| line["path"].as_str().is_some_and(|path| path.contains("queried")));
    secrets::assert_absent(QUERIED, &rig.gateway.readable());
}

#[test]
fn a_redirect_leads_no_credential_to_another_host() {
    let rig = shared();
    let sandbox = rig.registered(&[]);
    for (to, header) in [("files.example.net/led", None), ("api.openai.com/v1/models?led", Some(OPENAI))] {
        // Trusted: curl sends its own credential to the second host, too.
        let args = ["-L", "--location-trusted", "-H", &format!("Authorization: Bearer {OWN}")];
        let url = format!("https://keyed.example.com/v1/redirect?to=https://{to}");
        let curled = sandbox.curl(&[&args[..], &[&url]].concat());
        assert_eq!(told(&curled), (200, None), "{curled:?}");
        let first = arrived(rig, "keyed.example.com/v1/redirect").pop().unwrap();
        assert!(first.path.contains(QUERIED), "{first:?}");
        let second = arrived(rig, to.split('?').next().unwrap()).pop().unwrap();
        let expected = header.map(|key| format!("Bearer {key}"));
        let values: Vec<&[u8]> = expected.iter().map(|value| value.as_bytes()).collect();
        assert_eq!(second.header("authorization"), values, "{second:?}");
        assert_nothing_of(OWN, &second);
    }
}

#[test]
fn two_tenants_of_one_account_do_not_see_what_the_other_has_stored() {
    let rig = shared();
    let (one, two) = (rig.registered(&[]), rig.registered(&[]));
    let stored = [
        ("GET", "api.anthropic.com/v1/files"),
        ("GET", "api.anthropic.com/v1/files/file_1"),
        ("GET", "api.anthropic.com/v1/files/file_1/content"),
        ("GET", "api.anthropic.com/v1/messages/batches"),
        ("GET", "api.anthropic.com/v1/messages/batches/b_1/results"),
        ("POST", "api.anthropic.com/v1/messages/batches/b_1/cancel"),
        ("DELETE", "api.anthropic.com/v1/files/file_1"),
        ("GET", "api.anthropic.com/v1/organizations/users"),
        ("GET", "api.openai.com/v1/files"),
        ("GET", "api.openai.com/v1/files/file-1/content"),
        ("GET", "api.openai.com/v1/batches"),
        ("GET", "api.openai.com/v1/responses/resp_1"),
        ("GET", "api.openai.com/v1/responses/resp_1/input_items"),
        ("DELETE", "api.openai.com/v1/responses/resp_1"),
        ("GET", "api.openai.com/v1/chat/completions"),
        ("GET", "api.openai.com/v1/conversations/conv_1"),
        ("GET", "api.openai.com/v1/vector_stores"),
        ("GET", "generativelanguage.googleapis.com/v1beta/files"),
        ("GET", "generativelanguage.googleapis.com/v1beta/files/f1"),
        ("GET", "generativelanguage.googleapis.com/v1beta/cachedContents"),
        ("GET", "generativelanguage.googleapis.com/v1beta/cachedContents/c1"),
        ("PATCH", "generativelanguage.googleapis.com/v1beta/cachedContents/c1"),
        ("GET", "generativelanguage.googleapis.com/v1beta/batches"),
        ("GET", "generativelanguage.googleapis.com/v1beta/tunedModels"),
    ];
    for sandbox in [&one, &two] {
        for (method, target) in stored {
            let curled = sandbox.curl(&["-X", method, &format!("https://{target}")]);
            assert_eq!(told(&curled), (403, Some("credentials.path".into())), "{method} {target}: {curled:?}");
            let (host, path) = target.split_once('/').unwrap();
            let came = arrived(rig, host);
            let same = |request: &&Recorded| request.method == method && request.path == format!("/{path}");
            assert!(!came.iter().any(|request| same(&request)), "{method} {target} arrived");
        }
        for target in [
            "api.anthropic.com/v1/messages",
            "api.openai.com/v1/responses",
            "api.openai.com/v1/chat/completions",
            "generativelanguage.googleapis.com/v1beta/models/m:generateContent",
        ] {
            let url = format!("https://{target}?{}", sandbox.address);
            assert_eq!(
                told(&sandbox.curl(&["--http1.1", "-H", "content-type: application/json", "-d", "{}", &url])),
                (200, None),
                "{target}"
            );
            only(rig, &format!("{target}?{}", sandbox.address));
        }
    }
}

#[test]
fn what_is_switched_on_by_name_goes_and_its_neighbours_do_not() {
    let also = "credentials:\n  openai: {also: [files]}\n  anthropic: {also: [batches]}\n";
    let rig = start(&policy(&HOSTS), also);
    let sandbox = rig.registered(&[]);
    for (target, expected) in [
        ("api.openai.com/v1/files/file-1", (200, None)),
        ("api.openai.com/v1/batches", (403, Some("credentials.path".to_owned()))),
        ("api.openai.com/v1/responses/resp_1", (403, Some("credentials.path".to_owned()))),
        ("api.anthropic.com/v1/messages/batches", (200, None)),
        ("api.anthropic.com/v1/files", (403, Some("credentials.path".to_owned()))),
    ] {
        assert_eq!(told(&sandbox.curl(&[&format!("https://{target}")])), expected, "{target}");
        assert_eq!(arrived(&rig, target).is_empty(), expected.0 != 200, "{target}");
    }
}

#[test]
fn a_record_has_the_credentials_that_it_names_and_no_others() {
    let rig = shared();
    let sandbox = rig.sandbox();
    for (number, (named, may)) in
        [(json!([]), [false, false, false, false]), (json!(["anthropic"]), [false, true, false, false])]
            .into_iter()
            .enumerate()
    {
        register(rig, &sandbox, &["acme/app"], named);
        for ((target, header, value), may) in credentialed().into_iter().zip(may) {
            let own = format!("{header}: {OWN}");
            let curled = sandbox.curl(&["-H", &own, &format!("https://{target}?page=40{number}")]);
            let came = arrived(rig, &format!("{target}?page=40{number}"));
            match may {
                true => {
                    assert_eq!(told(&curled), (200, None), "{target}: {curled:?}");
                    assert_eq!(came[0].header(header), [value.as_bytes()]);
                }
                false => {
                    assert_eq!(told(&curled), (403, Some("credentials.container".into())), "{target}: {curled:?}");
                    assert!(came.is_empty(), "{came:?}");
                }
            }
        }
    }
}

#[test]
fn a_suffix_has_a_credential_only_where_an_entry_is_for_that_suffix() {
    // The list has suffixes only; the exact entry for keyed.example.com is for that name alone.
    let rig = start(&policy(&["\"*.example.com\"", "\"*.example.net\""]), ENTRIES);
    let sandbox = rig.registered(&[]);
    let own = ["-H", &format!("Authorization: Bearer {OWN}")];
    for (host, expected) in
        [("files.example.net", Some(OPENAI)), ("large.example.net", Some(OPENAI)), ("keyed.example.com", None)]
    {
        let curled = sandbox.curl(&[&own[..], &[&format!("https://{host}/v1/below")]].concat());
        assert_eq!(told(&curled), (200, None), "{host}: {curled:?}");
        let request = only(&rig, &format!("{host}/v1/below"));
        let values: Vec<&[u8]> = expected.iter().map(|key| key.as_bytes()).collect();
        assert_eq!(request.header("x-suffix-key"), values, "{request:?}");
        assert!(!request.path.contains("sig="), "{request:?}");
        assert_nothing_of(OWN, &request);
    }
}

/// A gateway whose GitHub credential is an App. All of its repositories but one have one owner.
fn with_app() -> Rig {
    let key = scratch("app").join("key.pem");
    let fixture =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../control-plane/credentials/src/source/app/fixture.pem");
    Finished::of(Command::new("install").args(["-m", "600"]).arg(fixture).arg(&key)).success();
    let upstream = Upstream::start();
    for repo in ["acme/app", "acme/lib", "acme/secret", "other/app"] {
        upstream.create_repo(repo, Visibility::Private);
    }
    let settings = format!(
        "credentials:\n  github: {{from: {{app: {{id: 12345, key: {}, permissions: {{contents: write, issues: read}}}}}}}}\n",
        key.display(),
    );
    let builder = Gateway::with(&policy(&["github.com", "api.github.com"])).settings(&settings);
    let gateway = builder.upstream(&upstream).up();
    Rig { upstream, gateway }
}

#[test]
fn an_app_s_token_is_for_the_repositories_of_one_record_and_without_any_there_is_none() {
    let rig = &with_app();
    let (one, two, none) =
        (rig.registered(&["acme/app"]), rig.registered(&["acme/lib", "other/app"]), rig.registered(&[]));
    let api = |sandbox: &Sandbox, repo: &str| sandbox.curl(&[&format!("https://api.github.com/repos/{repo}")]);
    assert_eq!(told(&none.curl(&["https://api.github.com/user"])), (502, Some("credentials.missing".into())));
    assert!(rig.upstream.minted().is_empty(), "{:?}", rig.upstream.minted());
    assert!(rig.upstream.requests_with("api.github.com").is_empty(), "GitHub got no request");

    assert_eq!(told(&api(&one, "acme/app")), (200, None));
    assert_eq!(told(&api(&two, "acme/lib")), (200, None));
    assert_eq!(told(&api(&two, "other/app")), (200, None));
    for (sandbox, repo) in [(&one, "acme/lib"), (&one, "acme/secret"), (&two, "acme/app"), (&two, "acme/secret")] {
        let refused = api(sandbox, repo);
        assert_eq!(refused.status, 403, "{repo}: {refused:?}");
    }
    let minted = rig.upstream.minted();
    let asked: Vec<&Value> = minted.iter().map(|minted| &minted.asked).collect();
    let permissions = json!({"contents": "write", "issues": "read", "metadata": "read"});
    let expected = ["app", "lib", "app"].map(|name| json!({"repositories": [name], "permissions": permissions}));
    assert_eq!(asked, expected.iter().collect::<Vec<_>>());
    let owners = ["acme", "acme", "other"].map(number);
    assert_eq!(minted.iter().map(|minted| minted.installation).collect::<Vec<_>>(), owners);
    let repos: Vec<Vec<&str>> = minted.iter().map(|m| m.repos.iter().map(String::as_str).collect()).collect();
    assert_eq!(repos, [["acme/app"], ["acme/lib"], ["other/app"]]);

    // The same tokens serve git, and each container has its own token.
    let refs = |sandbox: &Sandbox, repo: &str| {
        sandbox.curl(&[&format!("https://github.com/{repo}/info/refs?service=git-upload-pack")]).status
    };
    assert_eq!((refs(&one, "acme/app"), refs(&two, "acme/lib"), refs(&one, "acme/lib")), (200, 200, 403));
    assert_eq!(rig.upstream.minted().len(), 3, "no more tokens were requested");
    for (path, token) in [("repos/acme/app", 0), ("repos/acme/lib", 1), ("repos/other/app", 2)] {
        let request = arrived(rig, &format!("api.github.com/{path}")).pop().unwrap();
        assert_eq!(request.header("authorization"), [format!("Bearer {}", minted[token].token).as_bytes()]);
    }

    // After a change to fewer repositories, the next request gets another token.
    register(rig, &two, &["other/app"], Value::Null);
    assert_eq!(api(&two, "acme/lib").status, 403);
    assert_eq!(told(&api(&two, "other/app")), (200, None));

    // The lookup of a missing id uses a token that is valid for the repository.
    let record = json!({"container_ip": none.address, "container_id": "late", "repos": ["acme/secret"]});
    assert_eq!(rig.gateway.call("POST", "/internal/containers", Some(&record)).0, 200);
    eventually("the id is known", Duration::from_secs(10), || {
        let (_, body) = rig.gateway.call("GET", "/internal/containers", None);
        body.contains(&number("acme/secret").to_string()).then_some(())
    });
    let last = rig.upstream.minted().pop().unwrap();
    assert_eq!(last.repos, ["acme/secret"]);

    let mut texts = rig.gateway.readable();
    texts.extend(secrets::files(&one.home));
    for minted in rig.upstream.minted() {
        secrets::assert_absent(&minted.token, &texts);
    }
}

#[test]
fn an_app_s_token_that_is_for_more_than_was_asked_is_not_used() {
    let rig = &with_app();
    rig.upstream.set_minted_beside(&["acme/secret"]);
    let sandbox = rig.registered(&["acme/app"]);
    let curled = sandbox.curl(&["https://api.github.com/repos/acme/app"]);
    assert_eq!(told(&curled), (503, Some("credentials.source".into())), "{curled:?}");
    assert!(arrived(rig, "/repos/acme/app").is_empty());
    assert_eq!(rig.upstream.minted().len(), 1);
    let warnings = rig.gateway.warnings();
    assert!(warnings.iter().any(|warning| warning.contains("acme/secret")), "{warnings:?}");
    secrets::assert_absent(&rig.upstream.minted()[0].token, &rig.gateway.readable());
}

#[test]
fn memory_is_kept_out_of_core_files_and_envoy_has_no_variables() {
    let rig = shared();
    let envoy = rig.gateway.envoy_pid().unwrap();
    for pid in [rig.gateway.pid(), envoy] {
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        let values: Vec<&str> = core.split_whitespace().skip(4).take(2).collect();
        assert_eq!(values, ["0", "0"], "{core}");
    }
    assert!(std::fs::read(format!("/proc/{envoy}/environ")).unwrap().is_empty(), "Envoy has variables");
    // The gateway's own variables are visible here, so this check would find Envoy's.
    let own = std::fs::read(format!("/proc/{}/environ", rig.gateway.pid())).unwrap();
    assert!(own.windows(OPENAI.len()).any(|window| window == OPENAI.as_bytes()));
}
