//! The cases of tests/corpus/chain: how a file is read, and the runs that it stands for. tests/README.md says how to add
//! a case. The native runner is `chain.rs` here; tests/e2e runs the same cases by `policy explain` and through Envoy.

#![allow(dead_code, reason = "no runner needs all of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use policy::{HostName, Rule};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// The directory of the files.
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus/chain")
}

/// A file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// The property that its cases share.
    why: String,
    /// A name in `policies/`, or the text of a policy.yaml.
    policy: String,
    /// The body of the registration, without an address. Absent: the sender is not registered.
    record: Option<Value>,
    /// The gateway has a key for api.anthropic.com.
    #[serde(default)]
    key: bool,
    /// Defaults. Each case runs once for each of them; without any, once.
    #[serde(default)]
    requests: Vec<Part>,
    cases: Vec<Part>,
}

/// A case, or defaults of cases.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Part {
    name: Option<String>,
    why: Option<String>,
    /// Instead of the file's.
    record: Option<Value>,
    method: Option<String>,
    /// In a CONNECT, `:443` follows.
    host: Option<Bytes>,
    /// The same as it is, also in a CONNECT.
    authority: Option<Bytes>,
    path: Option<Bytes>,
    /// The host of the tunnel and of its handshake. Otherwise `host`.
    tunnel: Option<String>,
    /// `name: value` each.
    headers: Option<Vec<String>>,
    body: Option<Bytes>,
    forms: Option<Vec<String>>,
    answers: Option<Answers>,
    expect: Option<Expect>,
    /// Other expectations, by form.
    #[serde(default)]
    but: BTreeMap<String, But>,
    /// The runners that do not run it, with the reason.
    #[serde(default)]
    without: BTreeMap<Runner, String>,
}

/// Text, or bytes that are no text.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Bytes {
    Text(String),
    Encoded(Encoded),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Encoded {
    base64: String,
}

/// The control plane's answers.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answers {
    /// Whether GitHub confirms that the nodes are the container's.
    pub confirm: bool,
}

/// The expected outcome: exactly one of `allow` and `deny`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// The rule of the last filter that lets it pass.
    allow: Option<Rule>,
    /// The rule that refuses it.
    deny: Option<Rule>,
    /// Otherwise the rule's.
    status: Option<u16>,
    /// The rule in the audit line, where the credential stage decides behind the filters.
    audited: Option<Rule>,
    /// How it arrives. Its path and its body do so unchanged, unless another is given.
    arrives: Option<Arrives>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum But {
    Rule(Rule),
    Expect(Box<Expect>),
}

/// The request at the upstream.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arrives {
    /// The host, also in the handshake.
    pub host: Option<String>,
    /// Path and query.
    pub path: Option<String>,
    /// `name: value` each.
    #[serde(default)]
    pub headers: Vec<String>,
    /// Names of headers that do not arrive.
    #[serde(default)]
    pub absent: Vec<String>,
    /// The gateway's credential, which only the runner with a credential stage sees.
    pub credential: Option<Credential>,
    /// The body.
    pub body: Option<String>,
}

/// The form of a credential.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Credential {
    /// `authorization: Bearer …`
    Bearer,
    /// `authorization: Basic …`
    Basic,
    /// No `authorization`.
    None,
}

/// A runner.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub enum Runner {
    /// The stand-in.
    Native,
    /// `policy explain --batch`.
    Explain,
    /// The real Envoy.
    Envoy,
}

/// How a request reaches the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// `CONNECT authority` at the proxy.
    Connect,
    /// `GET http://authority/path` at the proxy.
    Absolute,
    /// In TLS in a tunnel.
    Tls,
    /// In cleartext in a tunnel to port 80.
    Cleartext,
}

/// A way, and the version of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// The way.
    pub way: Way,
    /// HTTP/2.
    pub two: bool,
}

const WAYS: [(&str, Way); 4] =
    [("connect", Way::Connect), ("absolute", Way::Absolute), ("tls", Way::Tls), ("cleartext", Way::Cleartext)];

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, _) = WAYS.iter().find(|(_, way)| *way == self.way).unwrap();
        write!(f, "{name}-{}", if self.two { "h2" } else { "h1" })
    }
}

impl Form {
    fn all() -> impl Iterator<Item = Self> {
        WAYS.into_iter().flat_map(|(_, way)| [false, true].map(|two| Self { way, two }))
    }

    /// How well `name` names this form: `tls-h1` best, then `tls`, then `h1`.
    fn fit(self, name: &str) -> Option<u8> {
        let own = self.to_string();
        let (way, version) = own.split_once('-').unwrap();
        [(own.as_str(), 3), (way, 2), (version, 1)].into_iter().find(|(known, _)| *known == name).map(|(_, fit)| fit)
    }
}

/// One request in one form, with its expected outcome.
#[derive(Clone, Debug)]
pub struct Run {
    /// The file's name.
    pub file: String,
    /// The case's name.
    pub case: String,
    /// The name of the defaults, where the file has several.
    pub request: String,
    pub form: Form,
    /// The text of the policy.
    pub policy: String,
    /// The gateway has a key for api.anthropic.com.
    pub key: bool,
    /// The registration without an address. `None`: the sender is not registered.
    pub record: Option<Value>,
    pub method: String,
    pub authority: Vec<u8>,
    pub path: Vec<u8>,
    pub tunnel: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub answers: Option<Answers>,
    pub expect: Expect,
    pub without: BTreeMap<Runner, String>,
}

impl Run {
    /// Whether Envoy's codec refuses it before any filter.
    pub fn is_refused_by_the_codec(&self) -> bool {
        matches!(self.expect.rule(), Rule::RequestMalformed | Rule::ListenerClosed)
    }

    /// Whether Envoy's codec removes a user in front of the host.
    pub fn loses_a_user(&self) -> bool {
        self.authority.contains(&b'@') && self.form.way == Way::Absolute && !self.form.two
    }

    /// The body of the registration of a sender at `address`.
    pub fn registration(&self, address: &str) -> Option<Value> {
        let mut record = self.record.clone()?;
        record["container_ip"] = address.into();
        Some(record)
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, case, request, form, .. } = self;
        let request = if request.is_empty() { String::new() } else { format!(" [{request}]") };
        write!(f, "{file}: {case}{request} ({form})")
    }
}

/// An outcome, as a runner sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    pub allowed: bool,
    pub rule: String,
    /// 0 where there is no response.
    pub status: u16,
    pub stage: String,
}

impl fmt::Display for Judged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { allowed, rule, status, stage } = self;
        write!(f, "{} by {rule} of {stage} with {status}", if *allowed { "allowed" } else { "denied" })
    }
}

impl Expect {
    /// Whether the request passes.
    pub fn allows(&self) -> bool {
        self.allow.is_some()
    }

    /// The rule that decides.
    pub fn rule(&self) -> Rule {
        self.allow.or(self.deny).unwrap()
    }

    /// The rule in the audit line.
    pub fn audited(&self) -> Rule {
        self.audited.unwrap_or_else(|| self.rule())
    }

    /// The status that the client gets; `None` where the upstream chooses it, and 0 where there is no response.
    pub fn status(&self) -> Option<u16> {
        let of_rule = self.deny.map(|rule| if rule == Rule::ListenerClosed { 0 } else { rule.status() });
        self.status.or(of_rule)
    }

    /// How the request arrives, if it does.
    pub fn arrives(&self) -> Arrives {
        self.arrives.clone().unwrap_or_default()
    }

    /// Whether a runner's outcome is the expected one. `audit`: the runner sees the audit line.
    pub fn fits(&self, judged: &Judged, audit: bool) -> bool {
        let rule = if audit { self.audited() } else { self.rule() };
        let status = self.status().is_none_or(|status| judged.status == status);
        judged.allowed == self.allows() && rule == judged.rule.as_str() && rule.stage().name() == judged.stage && status
    }

    fn check(&self, what: &str) {
        assert!(self.allow.is_some() != self.deny.is_some(), "{what}: expect either allow or deny");
        assert!(self.allows() || self.arrives.is_none(), "{what}: a denied request does not arrive");
        assert!(self.allows() || self.audited.is_none(), "{what}: a denial has one rule");
    }
}

impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rule = self.rule();
        write!(f, "{} by {rule} of {}", if self.allows() { "allowed" } else { "denied" }, rule.stage().name())?;
        self.status().map_or(Ok(()), |status| write!(f, " with {status}"))
    }
}

impl Bytes {
    /// The bytes, with the placeholders of a text filled in.
    fn fill(&self, fill: impl Fn(&str) -> String) -> Vec<u8> {
        match self {
            Self::Text(text) => fill(text).into_bytes(),
            Self::Encoded(encoded) => BASE64_STANDARD.decode(&encoded.base64).expect("base64"),
        }
    }
}

/// `name: value`.
pub fn header(line: &str) -> (String, String) {
    let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("{line:?} is not `name: value`"));
    (name.to_owned(), value.to_owned())
}

/// The authority as Envoy shows it to the filters: a field's value has no white space around it (RFC 9112 section 5.1),
/// and `strip_trailing_host_dot` removes one dot.
pub fn shown(authority: &[u8]) -> Vec<u8> {
    let authority = authority.trim_ascii();
    let port = authority.iter().rposition(|byte| *byte == b':').filter(|_| !authority.ends_with(b"]"));
    let (host, port) = authority.split_at(port.unwrap_or(authority.len()));
    [host.strip_suffix(b".").unwrap_or(host), port].concat()
}

/// Reads one file, as `name` and text. `fresh` makes labels that no other run has.
///
/// # Panics
/// If the file is malformed; the message names the file and the case.
pub fn read(name: &str, text: &str, fresh: &mut impl FnMut() -> String) -> Vec<Run> {
    let file: File = serde_yaml::from_str(text).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(!file.why.is_empty() && !file.cases.is_empty(), "{name}: no reason or no case");
    let policy = if file.policy.contains('\n') {
        file.policy.clone()
    } else {
        let path = directory().join("policies").join(&file.policy);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {}: {error}", path.display()))
    };
    let several = file.requests.len() > 1;
    let requests = if file.requests.is_empty() { vec![Part::default()] } else { file.requests.clone() };
    let mut names = std::collections::BTreeSet::new();
    let mut runs = Vec::new();
    for case in &file.cases {
        let title = case.name.clone().unwrap_or_else(|| panic!("{name}: a case has no name: {case:?}"));
        assert!(names.insert(title.clone()), "{name}: two cases are named {title:?}");
        for request in &requests {
            let request_name = request.name.clone().unwrap_or_default();
            assert!(!several || !request_name.is_empty(), "{name}: one of several requests has no name");
            let base = Run {
                file: name.to_owned(),
                case: title.clone(),
                request: request_name,
                form: Form { way: Way::Tls, two: false },
                policy: policy.clone(),
                key: file.key,
                record: case.record.clone().or_else(|| request.record.clone()).or_else(|| file.record.clone()),
                method: case.method.clone().or_else(|| request.method.clone()).unwrap_or_else(|| "GET".into()),
                authority: Vec::new(),
                path: Vec::new(),
                tunnel: String::new(),
                headers: Vec::new(),
                body: Vec::new(),
                answers: case.answers.or(request.answers),
                expect: Expect { allow: None, deny: None, status: None, audited: None, arrives: None },
                without: request.without.clone().into_iter().chain(case.without.clone()).collect(),
            };
            expand(case, request, &base, fresh, &mut runs);
        }
    }
    runs
}

/// Adds a run for each form.
fn expand(case: &Part, request: &Part, base: &Run, fresh: &mut impl FnMut() -> String, runs: &mut Vec<Run>) {
    let usual = vec!["tls".to_owned()];
    let forms = case.forms.as_ref().or(request.forms.as_ref()).unwrap_or(&usual);
    for name in forms.iter().chain(case.but.keys()).chain(request.but.keys()) {
        assert!(Form::all().any(|form| form.fit(name).is_some()), "{base}: no form is called {name:?}");
    }
    for form in Form::all().filter(|form| forms.iter().any(|name| form.fit(name).is_some())) {
        let label = fresh();
        let run = Run { form, ..base.clone() };
        let text = |bytes: &Option<Bytes>| match bytes {
            Some(Bytes::Text(text)) => Some(text.clone()),
            _ => None,
        };
        let plain = case.tunnel.clone().or_else(|| request.tunnel.clone()).or_else(|| text(&case.host));
        let plain = plain.or_else(|| text(&request.host)).unwrap_or_default().replace("{fresh}", &label);
        let valid = HostName::parse(plain.as_bytes()).is_ok();
        assert!(valid || form.way == Way::Connect, "{run}: no tunnel can be made to {plain:?}");
        let mut capitals = plain.to_ascii_uppercase();
        if let (Some(second), true) = (plain.get(1..2), capitals.len() > 1) {
            capitals.replace_range(1..2, second);
        }
        let fill = |text: &str| text.replace("{fresh}", &label).replace("{host}", &plain).replace("{Host}", &capitals);
        let authority =
            case.authority.as_ref().or(case.host.as_ref().is_none().then_some(()).and(request.authority.as_ref()));
        let authority = match (authority, case.host.as_ref().or(request.host.as_ref())) {
            (Some(authority), _) => authority.fill(fill),
            (None, Some(host)) if form.way == Way::Connect => [&host.fill(fill)[..], b":443"].concat(),
            (None, Some(host)) => host.fill(fill),
            (None, None) => plain.clone().into_bytes(),
        };
        let path = case.path.as_ref().or(request.path.as_ref()).map_or_else(|| b"/".to_vec(), |path| path.fill(fill));
        let headers = case.headers.as_ref().or(request.headers.as_ref()).cloned().unwrap_or_default();
        let body = case.body.as_ref().or(request.body.as_ref()).map(|body| body.fill(str::to_owned));
        let but = |part: &Part| {
            let best = part.but.iter().filter_map(|(name, but)| Some((form.fit(name)?, but.clone())));
            best.max_by_key(|(fit, _)| *fit).map(|(_, but)| match but {
                But::Expect(expect) => *expect,
                But::Rule(rule) => Expect { allow: None, deny: Some(rule), status: None, audited: None, arrives: None },
            })
        };
        let expect = but(case).or_else(|| case.expect.clone()).or_else(|| but(request)).or(request.expect.clone());
        let expect = expect.unwrap_or_else(|| panic!("{run}: nothing is expected"));
        expect.check(&run.to_string());
        runs.push(Run {
            authority,
            path,
            tunnel: plain,
            headers: headers.iter().map(|line| header(line)).collect(),
            body: body.unwrap_or_default(),
            expect,
            ..run
        });
    }
}

/// All runs of all files, in the order of their names.
pub fn corpus() -> Vec<Run> {
    let entries = std::fs::read_dir(directory()).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|end| end == "yaml")).collect();
    files.sort();
    let mut next = 0;
    let mut fresh = || {
        next += 1;
        format!("case{next}")
    };
    let read = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        read(&name, &std::fs::read_to_string(path).unwrap(), &mut fresh)
    };
    files.iter().flat_map(read).collect()
}
