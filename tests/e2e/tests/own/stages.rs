//! A second Envoy at the control plane of a gateway, with the gateway's configuration except for a stage: removed, turned
//! off by the route, or at another place of the chain. No credential goes upstream that the stage stands before,
//! whatever a sandbox sends.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use policy::HostName;
use policy::mark::{GITHUB, IDENTITY, Judged, SEALED};
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use test_support::gateway::policy;
use test_support::raw::h2;
use test_support::upstream::{HOSTS, Visibility};
use test_support::{Client, Curled, Gateway, Http, Recorded, Rig, Sandbox, TOKEN, Upstream, client, eventually};

const MODEL_KEY: &str = "anthropic_fixture_Wd3pF6";
const FORGED: &str = "forged_by_the_sandbox";
const REPO: &str = "acme/stages";
/// The names of the stages in Envoy's configuration.
const STAGES: [&str; 3] = ["identity", "github", "push"];
/// The timeout of a start, as for a gateway.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// How a stage is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// The filter is not in the chain.
    Removed,
    /// The routes turn the filter off.
    OffByRoute,
    /// The filter stands on the other side of the credential stage.
    Misplaced,
}

/// A request, in absolute form.
#[derive(Clone, Copy, Debug)]
struct Ask {
    what: &'static str,
    method: &'static str,
    host: &'static str,
    path: &'static str,
    args: &'static [&'static str],
}

const ASKS: [Ask; 5] = [
    Ask {
        what: "fetch",
        method: "GET",
        host: "github.com",
        path: "/acme/stages.git/info/refs?service=git-upload-pack",
        args: &[],
    },
    Ask {
        what: "refs",
        method: "GET",
        host: "github.com",
        path: "/acme/stages.git/info/refs?service=git-receive-pack",
        args: &[],
    },
    Ask {
        what: "push",
        method: "POST",
        host: "github.com",
        path: "/acme/stages.git/git-receive-pack",
        args: &["-H", "content-type: application/x-git-receive-pack-request", "-d", "0000"],
    },
    Ask { what: "api", method: "GET", host: "api.github.com", path: "/repos/acme/stages/issues", args: &[] },
    Ask {
        what: "model",
        method: "POST",
        host: "api.anthropic.com",
        path: "/v1/messages",
        args: &["-H", "content-type: application/json", "-d", "{}"],
    },
];

/// The second Envoy.
struct Other(Child);

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Other {
    /// Starts an Envoy with these listeners, and everything else from the control plane of `gateway`.
    fn start(gateway: &Gateway, listeners: &[Value]) -> Self {
        let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../envoy/bootstrap.yaml");
        let mut bootstrap: Value = serde_yaml::from_str(&std::fs::read_to_string(text).unwrap()).unwrap();
        bootstrap["admin"]["address"]["pipe"] = json!({"path": "run/other-admin.sock"});
        bootstrap["dynamic_resources"].as_object_mut().unwrap().remove("lds_config").unwrap();
        bootstrap["static_resources"]["listeners"] = listeners.into();
        let file = gateway.state.join("run/other.json");
        std::fs::write(&file, bootstrap.to_string()).unwrap();
        let mut command = Command::new(std::env::var_os("ENVOY_BIN").expect("ENVOY_BIN is set by run-e2e.sh"));
        command.arg("--config-path").arg(file).args(["--disable-hot-restart", "--log-level", "warning"]);
        command.args(["--concurrency", "1"]).env_clear().current_dir(&gateway.state);
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap())
    }
}

/// The dynamic resources of one kind in the gateway's own Envoy, by their names.
fn dumped(gateway: &Gateway, kind: &str, resource: impl Fn(&Value) -> Option<&Value>, name: &str) -> Value {
    let dump: Value = serde_json::from_str(&gateway.envoy_admin(&format!("/config_dump?resource={kind}"))).unwrap();
    let all = dump["configs"].as_array().unwrap_or_else(|| panic!("no {kind}: {dump}"));
    let found = all.iter().filter_map(resource).find(|resource| resource["name"] == name);
    let mut found = found.unwrap_or_else(|| panic!("no {name} among {kind}")).clone();
    // A resource of its own has a type; as a part of another message it has none.
    found.as_object_mut().unwrap().remove("@type");
    found
}

fn listener(gateway: &Gateway, name: &str) -> Value {
    dumped(gateway, "dynamic_listeners", |of| of["active_state"].get("listener"), name)
}

/// `listener` without `stages`.
fn without(gateway: &Gateway, mut listener: Value, stages: &[&str], how: How) -> Value {
    for chain in listener["filter_chains"].as_array_mut().unwrap() {
        let filters = chain["filters"].as_array_mut().unwrap();
        let manager = filters.iter_mut().find(|filter| filter["name"] == "http").unwrap();
        let manager = &mut manager["typed_config"];
        let filters = manager["http_filters"].as_array_mut().unwrap();
        for stage in stages {
            let at = filters.iter().position(|filter| filter["name"] == *stage).unwrap();
            match how {
                How::Removed => drop(filters.remove(at)),
                How::Misplaced => {
                    let filter = filters.remove(at);
                    // Behind the credential stage, or for push before it.
                    let to = if *stage == "push" { 0 } else { filters.len() - 1 };
                    filters.insert(to, filter);
                }
                How::OffByRoute => {}
            }
        }
        if how == How::OffByRoute {
            let name = manager["rds"]["route_config_name"].as_str().unwrap();
            let mut routes = dumped(gateway, "dynamic_route_configs", |config| config.get("route_config"), name);
            for host in routes["virtual_hosts"].as_array_mut().unwrap() {
                for stage in stages {
                    let off =
                        json!({"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": true});
                    host["typed_per_filter_config"][*stage] = off;
                }
            }
            let manager = manager.as_object_mut().unwrap();
            manager.remove("rds");
            manager.insert("route_config".into(), routes);
        }
    }
    listener
}

/// The headers by which a sandbox may try to pass for a judged request, with values that would be right.
fn forged(gateway: &Gateway, sandbox: &Sandbox, ask: &Ask) -> Vec<(String, String)> {
    let (_, record) = gateway.call("GET", &format!("/internal/containers/{}", sandbox.address), None);
    let record: Value = serde_json::from_str(&record).unwrap();
    let generation = record["generation"].as_u64().unwrap_or_else(|| panic!("{record}"));
    let host = HostName::parse(ask.host.as_bytes()).unwrap();
    let judged = Judged { generation, host: &host, method: ask.method.as_bytes(), path: ask.path.as_bytes() };
    let text = |value: Vec<u8>| String::from_utf8(value).unwrap();
    let (identity, github) = (text(judged.identity().value), text(judged.github().value));
    let names = |name: &str| [name.to_owned(), format!("wasm.{name}"), format!("x-{}", name.replace('.', "-"))];
    let identity = names(IDENTITY).map(|name| (name, identity.clone()));
    let github = names(GITHUB).map(|name| (name, github.clone()));
    let token = |name: &str| (name.to_owned(), format!("Bearer {FORGED}"));
    identity.into_iter().chain(github).chain([token(SEALED), token("authorization")]).collect()
}

fn flags(flag: &str, headers: &[(String, String)]) -> Vec<String> {
    headers.iter().flat_map(|(name, value)| [flag.to_owned(), format!("{name}: {value}")]).collect()
}

/// The requests that arrived while `act` ran.
fn arrived<T>(upstream: &Upstream, act: impl FnOnce() -> T) -> (T, Vec<Recorded>) {
    let before = upstream.requests().len();
    let done = act();
    (done, upstream.requests().split_off(before))
}

/// The headers of `request` with a credential in their value.
fn credentials(request: &Recorded) -> Vec<(String, String)> {
    let basic = BASE64_STANDARD.encode(format!("x-access-token:{TOKEN}"));
    let all = request.headers.iter().map(|(name, value)| (name.clone(), String::from_utf8_lossy(value).into_owned()));
    all.filter(|(name, value)| {
        name.starts_with("x-sallyport")
            || [TOKEN, MODEL_KEY, FORGED, &basic].iter().any(|credential| value.contains(*credential))
    })
    .collect()
}

/// The one header of the gateway's own credential in `ask`.
fn own(ask: &Ask) -> Vec<(String, String)> {
    let basic = BASE64_STANDARD.encode(format!("x-access-token:{TOKEN}"));
    let (name, value) = match ask.host {
        "github.com" => ("authorization", format!("Basic {basic}")),
        "api.github.com" => ("authorization", format!("Bearer {TOKEN}")),
        _ => ("x-api-key", MODEL_KEY.to_owned()),
    };
    vec![(name.to_owned(), value)]
}

fn rig() -> Rig {
    let upstream = Upstream::start();
    upstream.create_repo(REPO, Visibility::Private);
    let gateway = Gateway::with(&policy(&HOSTS)).upstream(&upstream).env("ANTHROPIC_API_KEY", MODEL_KEY).up();
    Rig { upstream, gateway }
}

/// The ways to leave stages out that the test tries. The first leaves nothing out.
fn variants() -> Vec<(Vec<&'static str>, How)> {
    let each = |how| STAGES.map(|stage| (vec![stage], how));
    let both = (vec!["identity", "github"], How::Removed);
    let ways = [How::Removed, How::OffByRoute, How::Misplaced].into_iter().flat_map(each);
    [(vec![], How::Removed), both].into_iter().chain(ways).collect()
}

#[test]
fn a_stage_that_is_left_out_gets_no_credential() {
    let rig = rig();
    let Rig { upstream, gateway } = &rig;
    let sandbox = rig.registered(&[REPO]);
    let variants = variants();
    let port = |at: usize| gateway.proxy_port + 10 + u16::try_from(at).unwrap();
    let mut listeners: Vec<Value> = Vec::new();
    for (at, (stages, how)) in variants.iter().enumerate() {
        let mut other = without(gateway, listener(gateway, "proxy"), stages, *how);
        other["name"] = format!("proxy-{at}").into();
        other["address"]["socket_address"]["port_value"] = port(at).into();
        listeners.push(other);
    }
    let _other = Other::start(gateway, &listeners);
    let curl = |at: usize, ask: &Ask, headers: &[(String, String)]| {
        let proxy = format!("http://{}:{}", sandbox.gateway_address, port(at));
        let url = format!("http://{}{}", ask.host, ask.path);
        let flags = flags("-H", headers);
        let flags = flags.iter().map(String::as_str);
        sandbox.curl(
            &["-x", &proxy].into_iter().chain(ask.args.iter().copied()).chain(flags).chain([&*url]).collect::<Vec<_>>(),
        )
    };
    // A filter that has not arrived yet is a 500.
    let serves = |at: usize| matches!(curl(at, &ASKS[4], &[]).status, 200 | 503);
    eventually("the other Envoy serves", READY_WITHIN, || (0..variants.len()).all(serves).then_some(()));
    for (at, (stages, how)) in variants.iter().enumerate() {
        for ask in &ASKS {
            for headers in [vec![], forged(gateway, &sandbox, ask)] {
                let (curled, arrived) = arrived(upstream, || curl(at, ask, &headers));
                let case = format!("{} without {stages:?} ({how:?}), {headers:?}: {curled:?} {arrived:?}", ask.what);
                let to_github = ask.what != "model";
                let judges = |stage: &&&str| match **stage {
                    "github" => to_github,
                    "push" => ask.host == "github.com",
                    _ => true,
                };
                match stages.iter().filter(judges).copied().collect::<Vec<_>>()[..] {
                    [] => {
                        assert_eq!(arrived.iter().map(credentials).collect::<Vec<_>>(), [own(ask)], "{case}");
                    }
                    // Without its filter nothing refuses the request, and its credential stays sealed.
                    ["push"] => {
                        assert!(arrived.iter().all(|request| credentials(request).is_empty()), "{case}");
                        assert_eq!(arrived.len(), usize::from(curled.status != 503), "{case}");
                        assert!(*how == How::Misplaced || curled.status != 503, "{case}");
                    }
                    // The github stage itself refuses what the identity stage has not judged.
                    ["identity"] if to_github => refused(&curled, &arrived, "github.unavailable", &case),
                    _ => refused(&curled, &arrived, "credentials.stage", &case),
                }
            }
        }
    }
    let line = gateway.audit_line("a stage that is left out", |line| line["rule"] == "credentials.stage");
    assert_eq!(
        (&line["stage"], &line["verdict"], &line["status"]),
        (&json!("credentials"), &json!("deny"), &json!(503))
    );
    let (_, metrics) = gateway.call("GET", "/metrics", None);
    let counted = r#"sallyport_requests_total{verdict="deny",stage="credentials",rule="credentials.stage"}"#;
    assert!(metrics.contains(counted), "{metrics}");
}

fn refused(curled: &Curled, arrived: &[Recorded], rule: &str, case: &str) {
    assert_eq!((curled.status, curled.rule().as_deref()), (503, Some(rule)), "{case}");
    assert!(arrived.is_empty(), "{case}");
}

/// Sends `ask` with forged headers on the CONNECT and within the tunnel.
fn through_tunnel(sandbox: &Sandbox, port: u16, ask: &Ask, http: &str, headers: &[(String, String)]) -> Curled {
    let proxy = format!("http://{}:{port}", sandbox.gateway_address);
    let url = format!("https://{}{}", ask.host, ask.path);
    let flags = [flags("--proxy-header", headers), flags("-H", headers)].concat();
    let before = [http, "-x", &proxy].into_iter().chain(ask.args.iter().copied());
    sandbox.curl(&before.chain(flags.iter().map(String::as_str)).chain([&*url]).collect::<Vec<_>>())
}

#[tokio::test]
async fn no_header_and_no_trailer_passes_for_a_mark() {
    let rig = rig();
    let Rig { upstream, gateway } = &rig;
    let mut sandbox = rig.registered(&[REPO]);
    // The tunnel of the other Envoy lacks both stages that leave marks, and so nothing removes a header there.
    let mut proxy = listener(gateway, "proxy");
    let other_port = gateway.proxy_port + 10;
    proxy["address"]["socket_address"]["port_value"] = other_port.into();
    let tunnel = without(gateway, listener(gateway, "tunnel"), &["identity", "github"], How::Removed);
    let _other = Other::start(gateway, &[proxy, tunnel]);
    let serves = || through_tunnel(&sandbox, other_port, &ASKS[0], "--http1.1", &[]).status == 503;
    eventually("the other Envoy serves", READY_WITHIN, || serves().then_some(()));
    for ask in &ASKS {
        let headers = forged(gateway, &sandbox, ask);
        // curl gives up an upload over HTTP/2 that is answered before its end. The last part sends one.
        let over: &[&str] = if ask.method == "GET" { &["--http1.1", "--http2"] } else { &["--http1.1"] };
        for http in over {
            let send = |port| arrived(upstream, || through_tunnel(&sandbox, port, ask, http, &headers));
            let (curled, nothing) = send(other_port);
            let case = format!("{} {http}: {curled:?} {nothing:?}", ask.what);
            refused(&curled, &nothing, "credentials.stage", &case);
            // Through the gateway itself the request has its one credential, and nothing that was forged.
            let (curled, passed) = send(gateway.proxy_port);
            let found: Vec<_> = passed.iter().map(credentials).collect();
            assert_eq!(found, [own(ask)], "{} {http}: {curled:?}", ask.what);
        }
    }
    let push = &ASKS[2];
    let headers = forged(gateway, &sandbox, push);
    let fields: [h2::Field<'_>; 6] = [
        (b":method", b"POST"),
        (b":scheme", b"https"),
        (b":authority", b"github.com"),
        (b":path", push.path.as_bytes()),
        (b"content-type", b"application/x-git-receive-pack-request"),
        (b"te", b"trailers"),
    ];
    let trailers: Vec<h2::Field<'_>> =
        headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
    sandbox.proxy = Some((sandbox.gateway_address, other_port).into());
    let before = upstream.requests().len();
    let mut stream = client::tls(&sandbox, sandbox.address, push.host, Http::Two).await.unwrap();
    let request = h2::Request { fields: &fields, body: b"0000", trailers: &trailers };
    let heard = h2::ask(&mut stream, request).await.unwrap().answer();
    assert_eq!((heard.status, heard.rule.as_deref()), (503, Some("credentials.stage")), "{heard:?}");
    let mut client = Client::connect(&sandbox, sandbox.address, push.host, Http::Two).await.unwrap();
    let again = client.get(ASKS[0].path).await.unwrap();
    assert_eq!((again.status, again.rule.as_deref()), (503, Some("credentials.stage")), "{again:?}");
    assert_eq!(upstream.requests().len(), before, "nothing arrives");
}
