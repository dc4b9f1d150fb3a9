//! The cases of tests/corpus/chain by `policy explain` and through the real Envoy. The stand-in's `chain.rs` runs the
//! same files natively. If one of the three runners judges a case differently from its file, the case fails and prints
//! each outcome.

// The module of the native runner reads the files.
#[path = "../../../stand-in/tests/support/cases.rs"]
mod cases;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use cases::{Credential, Form, Judged, Run, Runner, Way, header, shown};
use policy::Rule;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use test_support::client::{tls, tunnel_to};
use test_support::gateway::NO_CREDENTIAL_BUT_GITHUB;
use test_support::internet::{NameServer, Trap, hosts_file};
use test_support::raw::{self, h2};
use test_support::upstream::Visibility;
use test_support::ways::Outcome;
use test_support::{Finished, Gateway, Http, Recorded, Sandbox, TOKEN, Upstream, eventually, scratch};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;

/// The timeout for audit lines.
const AUDIT: Duration = Duration::from_secs(10);
/// The number of requests that are sent at a time.
const AT_A_TIME: usize = 32;

/// The setting with a key for api.anthropic.com, too.
const WITH_A_KEY: &str = "credentials: {openai: false, gemini: false}\n";
/// The variable with that key.
const KEY: (&str, &str) = ("ANTHROPIC_API_KEY", "anthropic_fixture_Wp2sD9");

/// The settings of a gateway with or without that key, and its variables.
fn settings(key: bool) -> (&'static str, &'static [(&'static str, &'static str)]) {
    if key { (WITH_A_KEY, &[KEY]) } else { (NO_CREDENTIAL_BUT_GITHUB, &[]) }
}

/// The runs by the text of their policy, and by whether the gateway has that key.
fn by_policy() -> BTreeMap<(String, bool), Vec<Run>> {
    let mut groups = BTreeMap::<_, Vec<Run>>::new();
    for run in cases::corpus() {
        groups.entry((run.policy.clone(), run.key)).or_default().push(run);
    }
    groups
}

/// The reason for which `policy explain` cannot express `run`.
fn inexplicable(run: &Run) -> Option<&'static str> {
    if run.without.contains_key(&Runner::Explain) {
        Some("the file says why")
    } else if run.is_refused_by_the_codec() {
        Some("Envoy's codec refuses the request; the command has no codec")
    } else if run.loses_a_user() {
        Some("Envoy's codec removes the user; the command does not")
    } else if run.record.is_none() {
        Some("the command needs a container")
    } else if run.expect.rule() == Rule::RequestSni {
        Some("a URL names one host")
    } else if run.expect.rule() == Rule::RequestNestedConnect {
        Some("the command knows no tunnel")
    } else if std::str::from_utf8(&run.path).is_err() {
        Some("a line of JSON holds text only")
    } else {
        None
    }
}

/// The lines of `policy explain --batch` for the runs, in order.
fn explained(policy: &str, key: bool, runs: &[&Run]) -> Vec<Value> {
    let directory = scratch("explain");
    let [batch, file, config] = ["batch.jsonl", "policy.yaml", "sallyport.yaml"].map(|name| directory.join(name));
    let line = |run: &&Run| {
        let authority = String::from_utf8(shown(&run.authority)).unwrap();
        let path = std::str::from_utf8(&run.path).unwrap();
        let (method, url) = match run.form.way {
            Way::Connect => ("CONNECT", authority),
            Way::Tls => (run.method.as_str(), format!("https://{authority}{path}")),
            Way::Absolute | Way::Cleartext => (run.method.as_str(), format!("http://{authority}{path}")),
        };
        let body = BASE64_STANDARD.encode(&run.body);
        let container = run.registration("172.18.0.5");
        let answer = run.answers.map(|answers| if answers.confirm { "yes" } else { "no" });
        json!({
            "container": container, "method": method, "url": url, "headers": run.headers, "body_base64": body,
            "answer": answer,
        })
        .to_string()
    };
    std::fs::write(&batch, runs.iter().map(line).collect::<Vec<_>>().join("\n")).unwrap();
    std::fs::write(&file, policy).unwrap();
    let (lines, variables) = settings(key);
    std::fs::write(&config, lines).unwrap();
    let mut command = Command::new(std::env::var_os("SALLYPORT_BIN").unwrap());
    command
        .envs(variables.iter().copied())
        .current_dir(&directory)
        .args(["policy", "explain", "--config"])
        .arg(&config);
    command.arg("--batch").arg(&batch).arg("--policy").arg(&file);
    let said = Finished::of(&mut command).success().stdout;
    said.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

#[test]
fn policy_explain_judges_every_case_as_its_file_says() {
    let (mut wrong, mut ran, mut skipped) = (Vec::new(), 0, BTreeMap::<_, u32>::new());
    for ((policy, key), runs) in by_policy() {
        let (out, runs): (Vec<&Run>, Vec<&Run>) = runs.iter().partition(|run| inexplicable(run).is_some());
        out.into_iter().for_each(|run| *skipped.entry(inexplicable(run).unwrap()).or_default() += 1);
        let said = explained(&policy, key, &runs);
        assert_eq!(said.len(), runs.len());
        ran += runs.len();
        for (run, said) in runs.into_iter().zip(said) {
            let judged = Judged {
                allowed: said["verdict"] != "deny",
                rule: said["rule"].as_str().unwrap().into(),
                status: said["status"].as_u64().unwrap().try_into().unwrap(),
                stage: said["stage"].as_str().unwrap().into(),
            };
            // Without GitHub's answer the verdict of the command is `ask`.
            let asks = said["verdict"] == "ask" && run.answers.is_some();
            // The rule of the credential stage, if the request reaches this stage.
            let added = &said["credential"]["rule"];
            let credential = added.is_null() || run.expect.audited() == added.as_str().unwrap_or_default();
            if !(asks || run.expect.fits(&judged, false)) || !credential {
                wrong.push(format!("{run}: expected {}, as natively; explain: {said}", run.expect));
            }
        }
    }
    println!("{ran} runs, skipped: {skipped:?}");
    assert!(wrong.is_empty() && ran > 100, "{} wrong of {ran}:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn a_line_that_explain_cannot_read_has_a_rule_too() {
    let batch = scratch("unreadable").join("batch.jsonl");
    std::fs::write(&batch, "no JSON\n{\"container\":{},\"method\":\"GET\",\"url\":\"https://files.example.net/\"}\n")
        .unwrap();
    let mut command = Command::new(std::env::var_os("SALLYPORT_BIN").unwrap());
    command.current_dir(batch.parent().unwrap()).args(["policy", "explain", "--batch"]).arg(&batch);
    let said = Finished::of(&mut command).success().stdout;
    let lines: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "{said}");
    for line in lines {
        let judged = (&line["verdict"], &line["rule"], &line["stage"], &line["status"]);
        assert_eq!(judged, (&json!("deny"), &json!("request.unreadable"), &json!("request"), &json!(400)), "{line}");
    }
}

/// The peers beyond a gateway.
struct Beyond {
    upstream: Upstream,
    nameserver: NameServer,
    trap: Trap,
}

/// The traffic that has left the gateway: connections to the upstream and to its own machine, DNS queries.
type Left = (u64, u64, usize);

impl Beyond {
    fn left(&self) -> Left {
        (self.upstream.connections(), self.trap.caught(), self.nameserver.asked().len())
    }
}

/// A gateway with one policy.
struct Behind<'a> {
    beyond: &'a Beyond,
    gateway: Gateway,
    sandbox: Arc<Sandbox>,
    first: Ipv4Addr,
    next: u32,
}

impl Behind<'_> {
    /// Registers the sender of `run`, and returns its address, which no other run has.
    fn sender(&mut self, run: &Run) -> Ipv4Addr {
        let address = Ipv4Addr::from_bits(self.first.to_bits() + self.next);
        self.next += 1;
        if let Some(record) = run.registration(&address.to_string()) {
            let (status, answer) = self.gateway.call("POST", "/internal/containers", Some(&record));
            assert!(matches!(status, 200 | 201), "{run}: {answer}");
        }
        address
    }
}

/// The bytes of a run's request over HTTP/1.1.
fn one(run: &Run) -> Vec<u8> {
    let connect = run.form.way == Way::Connect || run.method == "CONNECT";
    let target = match run.form.way {
        _ if connect => run.authority.clone(),
        Way::Absolute => [b"http://", &run.authority[..], &run.path].concat(),
        _ => run.path.clone(),
    };
    let method = if connect { "CONNECT" } else { &run.method };
    let mut head = [method.as_bytes(), b" ", &target, b" HTTP/1.1\r\nHost: ", &run.authority, b"\r\n"].concat();
    head.extend(b"User-Agent: rig\r\n");
    for (name, value) in &run.headers {
        head.extend(format!("{name}: {value}\r\n").bytes());
    }
    if !run.body.is_empty() || matches!(run.method.as_str(), "POST" | "PUT" | "PATCH") {
        head.extend(format!("Content-Length: {}\r\n", run.body.len()).bytes());
    }
    [&head[..], b"\r\n", &run.body].concat()
}

async fn over(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), run: &Run) -> io::Result<Outcome> {
    let connect = run.form.way == Way::Connect || run.method == "CONNECT";
    if !run.form.two {
        return match raw::ask(stream, &one(run)).await {
            Ok(answer) if run.form.way == Way::Connect && answer.status == 200 => Ok(Outcome::Opened),
            Ok(answer) => Ok(Outcome::Answered(answer)),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(error),
            Err(error) => Ok(Outcome::Cut(error.to_string())),
        };
    }
    let scheme: &[u8] = if run.form.way == Way::Tls { b"https" } else { b"http" };
    let mut fields: Vec<h2::Field<'_>> =
        vec![(b":method", if connect { b"CONNECT" } else { run.method.as_bytes() }), (b":authority", &run.authority)];
    if !connect {
        fields.extend([(&b":scheme"[..], scheme), (b":path", &run.path[..])]);
    }
    let names: Vec<String> = run.headers.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
    fields.push((b"user-agent", b"rig"));
    fields.extend(names.iter().zip(&run.headers).map(|(name, (_, value))| (name.as_bytes(), value.as_bytes())));
    let heard = h2::ask(stream, h2::Request { fields: &fields, body: &run.body, trailers: &[] }).await?;
    Ok(match (heard.status, heard.end) {
        (_, h2::End::Open) => Outcome::Opened,
        (0, end) => Outcome::Cut(format!("{end:?}")),
        _ => Outcome::Answered(heard.answer()),
    })
}

/// Sends a run's request from `source` on a connection of its own.
async fn send(sandbox: &Sandbox, source: Ipv4Addr, run: &Run) -> io::Result<Outcome> {
    match run.form.way {
        Way::Connect | Way::Absolute => {
            let mut stream = sandbox.socket(source).connect(sandbox.proxy.unwrap()).await?;
            stream.set_nodelay(true)?;
            over(&mut stream, run).await
        }
        Way::Tls => {
            let http = if run.form.two { Http::Two } else { Http::One };
            over(&mut tls(sandbox, source, &run.tunnel, http).await?, run).await
        }
        Way::Cleartext => over(&mut tunnel_to(sandbox, source, &format!("{}:80", run.tunnel)).await?, run).await,
    }
}

/// The difference between a run's expectation, and its outcome and audit lines.
fn problem(run: &Run, outcome: &Outcome, lines: &[Value]) -> Option<String> {
    if run.form.way == Way::Connect && run.expect.allows() {
        let opened = matches!(outcome, Outcome::Opened) && lines.is_empty();
        return (!opened).then(|| format!("no tunnel without an audit line: {outcome:?} {lines:?}"));
    }
    let [line] = lines else { return Some(format!("{} audit lines: {outcome:?} {lines:?}", lines.len())) };
    let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
    let mut judged =
        Judged { allowed: line["verdict"] == "allow", rule: text("rule"), status: 0, stage: text("stage") };
    if let Outcome::Answered(answer) = outcome {
        judged.status = answer.status;
        // A refusal tells the client the rule of the audit line, in its header and in its body.
        let body: Value = serde_json::from_str(&answer.body).unwrap_or_default();
        // On the hosts of model APIs the error is an object with a message.
        let reason = body["error"].as_str().or(body["error"]["message"].as_str());
        let told = answer.rule.as_deref() == Some(&*judged.rule)
            && reason.is_some_and(|reason| !reason.is_empty())
            && (&body["rule"], &body["stage"]) == (&line["rule"], &line["stage"])
            // A request that Envoy's codec refuses has no id yet.
            && (body["request_id"] == "-" || body["request_id"] == line["request_id"]);
        // For these paths the body is text, which git prints.
        let plain =
            answer.rule.as_deref() == Some(&*judged.rule) && body.is_null() && answer.body.contains(&judged.rule);
        let head = run.method == "HEAD" && answer.body.is_empty();
        if judged.allowed == answer.rule.is_some() || !(judged.allowed || told || plain || head) {
            return Some(format!("the client's response differs from the audit line: {answer:?} {line}"));
        }
        if line["status"] != answer.status {
            return Some(format!("the audit has another status: {answer:?} {line}"));
        }
    } else if matches!(outcome, Outcome::Opened) {
        return Some("a tunnel was opened".into());
    }
    let host = run.expect.arrives().host.unwrap_or_else(|| run.tunnel.clone());
    if run.expect.allows() && line["host"] != host {
        return Some(format!("the audit has another host than {host}: {line}"));
    }
    (!run.expect.fits(&judged, true)).then(|| format!("Envoy: {judged}: {outcome:?} {line}"))
}

/// The differences between the requests that arrived and an allowed run's expectation.
fn differs(run: &Run, arrived: &[Recorded]) -> Vec<String> {
    let [arrived] = arrived else { return vec![format!("{} requests arrived: {arrived:?}", arrived.len())] };
    let arrives = run.expect.arrives();
    let mut wrong = Vec::new();
    let have = |name: &str| -> Vec<String> {
        arrived.header(name).into_iter().map(|value| String::from_utf8_lossy(value).into_owned()).collect()
    };
    let path = arrives.path.unwrap_or_else(|| String::from_utf8_lossy(&run.path).into_owned());
    let host = arrives.host.unwrap_or_else(|| run.tunnel.clone());
    if (&arrived.host, &arrived.sni, &arrived.path) != (&host, &host, &path) {
        wrong.push("another host or path".to_owned());
    }
    for (name, value) in arrives.headers.iter().map(|line| header(line)) {
        if have(&name) != [value] {
            wrong.push(format!("{name}: {:?}", have(&name)));
        }
    }
    wrong.extend(arrives.absent.iter().filter(|name| !have(name).is_empty()).map(|name| format!("{name} is there")));
    let basic = format!("Basic {}", BASE64_STANDARD.encode(format!("x-access-token:{TOKEN}")));
    let credential = match arrives.credential {
        Some(Credential::Bearer) => Some(vec![format!("Bearer {TOKEN}")]),
        Some(Credential::Basic) => Some(vec![basic]),
        Some(Credential::None) => Some(vec![]),
        None => None,
    };
    if credential.is_some_and(|credential| have("authorization") != credential) {
        wrong.push("not the gateway's credential".into());
    }
    let length = arrives.body.map_or(run.body.len(), |body| body.len());
    if arrived.body_bytes != length as u64 {
        wrong.push(format!("{} bytes of body, not {length}", arrived.body_bytes));
    }
    wrong.into_iter().map(|what| format!("the request arrives differently: {what}: {arrived:?}")).collect()
}

/// Sends the runs that leave nothing beyond the gateway, several at a time.
async fn refused(behind: &mut Behind<'_>, runs: Vec<Run>) -> Vec<(Run, Ipv4Addr, Outcome)> {
    let before = behind.beyond.left();
    let mut outcomes = Vec::new();
    let mut runs = runs.into_iter();
    loop {
        let mut sending = JoinSet::new();
        for run in runs.by_ref().take(AT_A_TIME) {
            let (sandbox, source) = (Arc::clone(&behind.sandbox), behind.sender(&run));
            sending.spawn(async move {
                let outcome = send(&sandbox, source, &run).await.unwrap_or_else(|error| panic!("{run}: {error}"));
                (run, source, outcome)
            });
        }
        if sending.is_empty() {
            break;
        }
        outcomes.extend(sending.join_all().await);
    }
    assert_eq!(behind.beyond.left(), before, "something has left the gateway");
    outcomes
}

/// Asserts that the watch works: it sees the DNS query for an allowed host that only DNS resolves.
async fn assert_watched(behind: &mut Behind<'_>, run: &Run) {
    const SEEN: &str = "seen.example.com";
    let form = Form { way: Way::Tls, two: true };
    let record = Some(json!({"repos": []}));
    let (method, authority, tunnel) = ("GET".into(), SEEN.into(), SEEN.into());
    let run = Run { form, record, method, authority, tunnel, headers: vec![], body: vec![], ..run.clone() };
    let source = behind.sender(&run);
    let outcome = send(&behind.sandbox, source, &run).await.unwrap();
    let unresolved = |outcome: &Outcome| matches!(outcome, Outcome::Answered(answer) if answer.status == 503);
    assert!(unresolved(&outcome) && !behind.beyond.nameserver.asked_for(SEEN).is_empty(), "{outcome:?}");
}

/// The audit lines by their sender, when each of `senders` has one.
fn audited(gateway: &Gateway, senders: &[Ipv4Addr]) -> HashMap<String, Vec<Value>> {
    eventually("a line about each", AUDIT, || {
        let mut by = HashMap::<String, Vec<Value>>::new();
        for line in gateway.audit() {
            by.entry(line["container_ip"].as_str().unwrap_or_default().to_owned()).or_default().push(line);
        }
        senders.iter().all(|sender| by.contains_key(&sender.to_string())).then_some(by)
    })
}

/// Runs the cases of one policy, and returns the failures.
async fn through_envoy(beyond: &Beyond, (policy, key): (&str, bool), runs: Vec<Run>) -> Vec<String> {
    let names = format!("nameservers: ['{}']\n", beyond.nameserver.address);
    let (lines, variables) = settings(key);
    let gateway = Gateway::with(policy).settings(lines).settings(&names).upstream(&beyond.upstream);
    let gateway = gateway.envs(variables).up();
    let sandbox = Arc::new(Sandbox::start().behind(&gateway));
    let first = sandbox.widen();
    let mut behind = Behind { beyond, gateway, sandbox, first, next: 1 };
    // No traffic leaves for a tunnel alone. In a case with an answer of GitHub, the gateway itself sends a request.
    let quiet = |run: &Run| run.answers.is_none() && (!run.expect.allows() || run.form.way == Way::Connect);
    let (quiet, others): (Vec<Run>, Vec<Run>) = runs.into_iter().partition(quiet);
    let last = quiet.last().cloned();
    let mut outcomes = refused(&mut behind, quiet).await;
    if let Some(run) = last.filter(|_| policy.contains("*.example.com")) {
        assert_watched(&mut behind, &run).await;
    }
    let mut wrong = Vec::new();
    for run in others {
        let source = behind.sender(&run);
        let before = beyond.upstream.requests().len();
        let outcome = send(&behind.sandbox, source, &run).await.unwrap_or_else(|error| panic!("{run}: {error}"));
        let arrived: Vec<Recorded> =
            beyond.upstream.requests().split_off(before).into_iter().filter(|request| !request.is_own()).collect();
        if run.expect.allows() {
            wrong.extend(differs(&run, &arrived).into_iter().map(|what| format!("{run}: {what}")));
        } else if !arrived.is_empty() {
            wrong.push(format!("{run}: a denied request arrives: {arrived:?}"));
        }
        outcomes.push((run, source, outcome));
    }
    let opened = |run: &Run| run.form.way == Way::Connect && run.expect.allows();
    let senders: Vec<_> = outcomes.iter().filter(|(run, ..)| !opened(run)).map(|(_, source, _)| *source).collect();
    let audit = audited(&behind.gateway, &senders);
    let mut meant = HashMap::new();
    for (run, source, outcome) in &outcomes {
        let lines = audit.get(&source.to_string()).map_or(&[][..], |lines| lines);
        // In each spelling and form, an allowed request is the same operation.
        if let ([line], true) = (lines, run.expect.allows()) {
            let operation = (&line["operation"], &line["class"]);
            let request = (&run.file, &run.method, &run.path, &run.tunnel, &run.body);
            if *meant.entry(request).or_insert(operation) != operation {
                wrong.push(format!("{run}: another operation: {line}"));
            }
        }
        if let Some(what) = problem(run, outcome, lines) {
            wrong.push(format!("{run}: expected {}, as natively; {what}", run.expect));
        }
    }
    wrong
}

#[tokio::test]
async fn envoy_judges_every_case_as_its_file_says() {
    let upstream = Upstream::start();
    upstream.create_repo("acme/app", Visibility::Private);
    upstream.create_repo("octo/lib", Visibility::Public);
    hosts_file("127.0.0.1 localhost intranet\n127.0.0.1 hosts.example.org\n::1 localhost hosts.example.org\n");
    let beyond = Beyond { upstream, nameserver: NameServer::start(&[]), trap: Trap::set() };
    let (mut wrong, mut ran) = (Vec::new(), 0);
    for ((policy, key), runs) in by_policy() {
        let runs: Vec<Run> = runs.into_iter().filter(|run| !run.without.contains_key(&Runner::Envoy)).collect();
        ran += runs.len();
        if !runs.is_empty() {
            wrong.extend(through_envoy(&beyond, (&policy, key), runs).await);
        }
    }
    println!("{ran} runs");
    assert!(wrong.is_empty() && ran > 100, "{} wrong of {ran}:\n{}", wrong.len(), wrong.join("\n"));
}
