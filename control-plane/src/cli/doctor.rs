//! `doctor`: one line for each thing that has to be right, and what to do where it is not. It changes nothing.
//!
//! It looks from where it is started: the variables, the network and the files of this shell, and the running gateway
//! through its admin API.

use std::fmt::Display;
use std::fs::Metadata;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::client::Client;
use super::{Common, Error, print};
use crate::config::{Config, policy_file};
use crate::credentials::PLACEHOLDER;
use crate::upstreams::Upstreams;
use crate::{envoy, github, live};

/// The variables of the built-in GitHub credential, in this order.
const GITHUB_VARIABLES: [&str; 2] = ["GITHUB_TOKEN", "GH_TOKEN"];

/// How long a nameserver or an upstream may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// The CA's end is announced so long before.
const CA_WARNING_DAYS: i64 = 60;

/// The years in which a clock is believed: this was written in the first.
const YEARS: std::ops::Range<i16> = 2026..2100;

/// Check that everything a gateway needs is there.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit 0, or 1 where something fails. Example:\n  sallyport doctor --config config/sallyport.yaml"
)]
pub struct Doctor {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// The Envoy that `up` would run [default: envoy on the PATH]
    #[arg(long, value_name = "PATH", env = "ENVOY_BIN")]
    envoy: Option<PathBuf>,
    /// The directory of the filters [default: `filters` beside the program's directory]
    #[arg(long, value_name = "DIR", env = "SALLYPORT_FILTERS")]
    filters: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    Warn,
    Fail,
}

/// One line.
#[derive(Debug, Serialize)]
struct Finding {
    state: State,
    check: &'static str,
    found: String,
    /// What to do about it; empty where nothing is to be done.
    todo: String,
}

impl Finding {
    fn ok(check: &'static str, found: impl Display) -> Self {
        Self { state: State::Ok, check, found: found.to_string(), todo: String::new() }
    }

    fn warn(check: &'static str, found: impl Display, todo: impl Display) -> Self {
        Self { state: State::Warn, check, found: found.to_string(), todo: todo.to_string() }
    }

    fn fail(check: &'static str, found: impl Display, todo: impl Display) -> Self {
        Self { state: State::Fail, check, found: found.to_string(), todo: todo.to_string() }
    }

    fn line(&self) -> String {
        let state = match self.state {
            State::Ok => "ok",
            State::Warn => "warn",
            State::Fail => "FAIL",
        };
        let todo = if self.todo.is_empty() { String::new() } else { format!("; {}", self.todo) };
        // One line each, whatever an error says.
        let found: Vec<&str> = self.found.split_whitespace().collect();
        format!("{state:<4}  {:<12} {}{todo}\n", self.check, found.join(" "))
    }
}

impl Doctor {
    pub(super) fn run(self, common: &Common) -> Result<(), Error> {
        let findings = self.examine(common);
        let failed = findings.iter().filter(|finding| finding.state == State::Fail).count();
        match self.json {
            true => print(&format!("{}\n", serde_json::json!({ "ok": failed == 0, "checks": findings })))?,
            false => print(&findings.iter().map(Finding::line).collect::<String>())?,
        }
        match failed {
            0 => Ok(()),
            1 => Err(Error::Other(anyhow::anyhow!("one check fails; its line says what to do"))),
            more => Err(Error::Other(anyhow::anyhow!("{more} checks fail; their lines say what to do"))),
        }
    }

    fn examine(&self, common: &Common) -> Vec<Finding> {
        let mut findings = Vec::new();
        let config = match common.config() {
            Ok(config) => config,
            // Nothing below can be looked at without it.
            Err(error) => return vec![Finding::fail("config", error, "correct the file")],
        };
        findings.push(Finding::ok("config", "understood"));
        findings.push(policy(&config));
        match common.state_dir(&config) {
            Ok(directory) => findings.extend(state(&directory).into_iter().chain([authority(&directory)])),
            Err(error) => findings.push(Finding::fail("state", error, "name one")),
        }
        findings.push(match envoy::find(self.envoy.clone()) {
            Ok(program) => Finding::ok("envoy", format!("1.40, {}", program.display())),
            Err(error) => Finding::fail("envoy", error, "`make up` fetches it"),
        });
        findings.push(match live::Filters::find(self.filters.clone()).and_then(|filters| filters.read()) {
            Ok(module) => Finding::ok("filters", format!("{}, {} KiB", live::MODULE, module.len() >> 10)),
            Err(error) => Finding::fail("filters", format!("{error:#}"), "run `make build`"),
        });
        let (running, finding) = gateway(&Client::new(common, &config));
        findings.extend(ports(&config, running));
        findings.push(finding);
        findings.push(match config.roots_pem() {
            Ok(_) => Finding::ok("roots", "there are trusted roots for upstreams"),
            Err(error) => Finding::fail("roots", error, "install ca-certificates"),
        });
        findings.extend(credentials(&config));
        findings.push(nameservers(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default(), &config));
        findings.extend(upstreams(&config));
        findings.extend(github(&config));
        findings.extend(spoofing(Path::new("/proc/sys/net/ipv4")));
        findings.push(clock(Timestamp::now()));
        findings
    }
}

fn policy(config: &Config) -> Finding {
    match policy_file::load(&config.policy_file, &config.credentials) {
        Ok(_) if !config.policy_file.exists() => Finding::warn(
            "policy",
            format!("there is no {}, so nothing is allowed", config.policy_file.display()),
            "write one; config/policy.yaml.example explains it",
        ),
        Ok(policy) => Finding::ok("policy", format!("understood, version {}", policy.version)),
        Err(error) => Finding::fail("policy", error, "correct the file"),
    }
}

/// The state directory and what in it is secret.
fn state(directory: &Path) -> Vec<Finding> {
    let shown = directory.display();
    let metadata = match std::fs::metadata(directory) {
        Ok(metadata) if metadata.is_dir() => metadata,
        Ok(_) => return vec![Finding::fail("state", format!("{shown} is no directory"), "name another")],
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return vec![Finding::ok("state", format!("{shown} is not there yet; the first start makes it"))];
        }
        Err(error) => return vec![Finding::fail("state", format!("{shown}: {error}"), "make it readable for you")],
    };
    let me = rustix::process::geteuid().as_raw();
    if metadata.uid() != me {
        let found = format!("{shown} belongs to user {}, and you are {me}", metadata.uid());
        return vec![Finding::warn("state", found, "look as the user who runs the gateway")];
    }
    let open = |metadata: &Metadata| metadata.permissions().mode() & 0o077 != 0;
    let mut secret: Vec<PathBuf> =
        ["ca.key", "ca-next.key", "admin-token", "registry.redb"].map(|name| directory.join(name)).into();
    let tokens = std::fs::read_dir(directory.join("tokens")).into_iter().flatten().flatten();
    secret.extend(tokens.map(|entry| entry.path()));
    secret.push(directory.join("run"));
    let exposed: Vec<String> = secret
        .iter()
        .filter(|path| std::fs::metadata(path).is_ok_and(|metadata| open(&metadata)))
        .map(|path| path.display().to_string())
        .collect();
    if !exposed.is_empty() {
        let found = format!("others than you may use {}", exposed.join(", "));
        return vec![Finding::fail("state", found, format!("chmod go= {}", exposed.join(" ")))];
    }
    match rustix::fs::access(directory, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK) {
        Ok(()) => vec![Finding::ok("state", format!("{shown}, its secrets for you alone"))],
        Err(error) => vec![Finding::fail("state", format!("{shown} cannot be written: {error}"), "make it writable")],
    }
}

fn authority(directory: &Path) -> Finding {
    let path = directory.join("ca.pem");
    let shown = path.display();
    let pem = match std::fs::read(&path) {
        Ok(pem) => pem,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return match directory.join("ca.key").exists() {
                true => Finding::fail("ca", format!("{shown} is missing beside its key"), "restore it"),
                false => Finding::ok("ca", "there is none yet; the first start makes it"),
            };
        }
        Err(error) => return Finding::fail("ca", format!("{shown}: {error}"), "make it readable for you"),
    };
    let valid = x509_parser::pem::parse_x509_pem(&pem).ok().and_then(|(_, pem)| {
        let validity = pem.parse_x509().ok()?.validity().clone();
        Some((validity.not_before.timestamp(), validity.not_after.timestamp()))
    });
    let Some((from, until)) = valid else {
        return Finding::fail("ca", format!("{shown} is no certificate"), "restore it");
    };
    let now = Timestamp::now().as_second();
    let days = (until - now) / 86_400;
    match until {
        _ if now < from => Finding::fail("ca", format!("{shown} is not valid yet"), "set this machine's clock"),
        _ if until < now => {
            Finding::fail("ca", format!("{shown} has expired"), "make a new one: `sallyport ca rotate`")
        }
        _ if days < CA_WARNING_DAYS => {
            Finding::warn("ca", format!("{shown} ends in {days} days"), "change it in time: `sallyport ca rotate`")
        }
        _ => Finding::ok("ca", format!("{shown}, for {days} more days")),
    }
}

/// Whether it runs, and whether it is ready.
fn gateway(client: &Client) -> (bool, Finding) {
    let (status, body) = match client.probe("/readyz", PATIENCE) {
        Ok(answer) => answer,
        Err(_) => return (false, Finding::warn("gateway", "does not run", "start it with `sallyport up`")),
    };
    let answer: Value = serde_json::from_str(&body).unwrap_or_default();
    let list = |key: &str| -> String {
        let entries = answer[key].as_array().into_iter().flatten().filter_map(Value::as_str);
        entries.collect::<Vec<_>>().join("; ")
    };
    let finding = match (status, list("warnings")) {
        (200, warnings) if warnings.is_empty() => Finding::ok("gateway", "runs and is ready"),
        (200, warnings) => {
            Finding::warn("gateway", format!("runs and is ready, and warns: {warnings}"), "its log says more")
        }
        (503, _) => Finding::fail("gateway", format!("is not ready: {}", list("missing")), "its log says more"),
        (status, _) => {
            let found = format!("something else answers at its admin address, with status {status}");
            Finding::fail("gateway", found, "free the port, or set listen.admin")
        }
    };
    (true, finding)
}

fn ports(config: &Config, running: bool) -> Vec<Finding> {
    [("proxy", config.proxy), ("admin", config.admin)]
        .map(|(key, address)| match TcpListener::bind(address) {
            // Of a gateway that runs, the port has to be taken.
            Ok(_) if running => {
                Finding::fail("ports", format!("{key} {address} is free though a gateway runs"), "its log says why")
            }
            Ok(_) => Finding::ok("ports", format!("{key} {address} is free")),
            Err(error) if error.kind() == ErrorKind::AddrInUse && running => {
                Finding::ok("ports", format!("{key} {address} is the gateway's"))
            }
            Err(error) => {
                let todo = format!("free it, or set listen.{key}");
                Finding::fail("ports", format!("{key} {address} cannot be used: {error}"), todo)
            }
        })
        .into()
}

/// The variables of this shell, and what is wrong with the sources that are configured.
fn credentials(config: &Config) -> Vec<Finding> {
    let mut problems = config.credentials.problems();
    problems.extend(config.credentials.logins_that_fail());
    if !problems.is_empty() {
        return vec![Finding::warn("credentials", problems.join("; "), "correct `credentials:`, or its source")];
    }
    let app = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let names = GITHUB_VARIABLES.join(" or ");
    let set = GITHUB_VARIABLES.iter().find_map(|name| std::env::var(name).ok().map(|value| (name, value)));
    vec![match set {
        Some((name, value)) if value.trim() == PLACEHOLDER => {
            let found = format!("{name} holds the placeholder of a sandbox");
            Finding::warn("credentials", found, "this shell is set up as a sandbox; set the token itself")
        }
        Some((name, value)) if !value.trim().is_empty() => Finding::ok("credentials", format!("{name} is set here")),
        _ if app("GITHUB_APP_ID") => Finding::ok("credentials", "GITHUB_APP_ID is set here"),
        _ => Finding::warn(
            "credentials",
            "no GitHub token in this shell",
            format!("a gateway started from here adds none, unless `credentials:` names another source; set {names}"),
        ),
    }]
}

/// The GitHub token, as GitHub sees it. Nothing where there is none.
fn github(config: &Config) -> Option<Finding> {
    let upstreams = Upstreams { pins: config.pins.clone(), roots_pem: config.roots_pem().unwrap_or_default() };
    let asked = || {
        let client = github::client::Client::of_command(&upstreams, Arc::clone(&config.credentials))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let answer = runtime.block_on(client.get(None, "/"));
        // A resolver that still looks for the host is left behind.
        runtime.shutdown_background();
        answer
    };
    let answer = match asked() {
        Ok(answer) => answer,
        // Whether there is one is said elsewhere.
        Err(github::client::Error::NoCredential(_)) => return None,
        Err(error) => {
            return Some(Finding::warn(
                "github",
                format!("the token cannot be looked at: {error}"),
                "check the network",
            ));
        }
    };
    Some(token(answer.status, answer.scopes.as_deref()))
}

/// What GitHub's answer to `GET /` says of the token. `scopes` are those of a classic token; others have none there.
fn token(status: u16, scopes: Option<&str>) -> Finding {
    let scopes: Option<Vec<&str>> = scopes.map(|scopes| scopes.split(',').map(str::trim).collect());
    match (status, scopes) {
        (401, _) => Finding::fail("github", "GitHub does not take the token", "make a new one"),
        (200, Some(scopes)) if scopes.contains(&"workflow") => Finding::warn(
            "github",
            "the token may write workflows, which run with rights of their own",
            "use one without the scope `workflow`, so that the gateway is not the only lock",
        ),
        (200, Some(_)) => Finding::ok("github", "the token may not write workflows"),
        (200, None) => Finding::ok(
            "github",
            "GitHub takes the token; whether a fine-grained one may write workflows cannot be told from here, its page says so",
        ),
        (status, _) => {
            Finding::warn("github", format!("api.github.com answers with status {status}"), "try again later")
        }
    }
}

fn nameservers(resolv_conf: &str, config: &Config) -> Finding {
    let servers: Vec<IpAddr> = resolv_conf
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver")?.split_whitespace().next()?.parse().ok())
        .collect();
    let answering = servers.iter().find(|server| ask(SocketAddr::from((**server, 53))).is_ok());
    let list: Vec<String> = servers.iter().map(ToString::to_string).collect();
    let (found, todo) =
        (format!("no nameserver answers: [{}]", list.join(", ")), "set one that does in /etc/resolv.conf");
    match answering {
        Some(server) => Finding::ok("dns", format!("{server} answers")),
        // Pinned hosts need none.
        None if !config.pins.is_empty() => Finding::warn("dns", found, todo),
        None => Finding::fail("dns", found, todo),
    }
}

/// Asks `server` for the addresses of github.com. Any answer will do.
fn ask(server: SocketAddr) -> std::io::Result<()> {
    // RFC 1035 section 4.1: an id, recursion desired, one question: github.com, type A, class IN.
    const QUERY: &[u8] = b"\x5a\x11\x01\0\0\x01\0\0\0\0\0\0\x06github\x03com\0\0\x01\0\x01";
    let any: IpAddr = if server.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(QUERY)?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer)?;
    let ours = answer.get(..length).is_some_and(|answer| answer.starts_with(b"\x5a\x11"));
    if ours { Ok(()) } else { Err(ErrorKind::InvalidData.into()) }
}

/// Whether a connection to each pinned upstream, and to github.com where it is not pinned, can be made.
fn upstreams(config: &Config) -> Vec<Finding> {
    let pinned = config.pins.iter().map(|(host, at)| (host.to_string(), at.address.clone(), at.port));
    let mut all: Vec<_> = pinned.collect();
    if !all.iter().any(|(host, ..)| host == "github.com") {
        all.push(("github.com".into(), "github.com".into(), 443));
    }
    let (sender, results) = mpsc::channel();
    for (place, (_, address, port)) in all.iter().enumerate() {
        let (sender, address, port) = (sender.clone(), address.clone(), *port);
        // A resolver may take minutes; whoever is not back in time is left behind.
        std::thread::spawn(move || {
            let connected = (address.as_str(), port).to_socket_addrs().and_then(|addresses| {
                let mut last = Err(ErrorKind::NotFound.into());
                for address in addresses {
                    last = TcpStream::connect_timeout(&address, PATIENCE).map(drop);
                    if last.is_ok() {
                        break;
                    }
                }
                last
            });
            drop(sender.send((place, connected)));
        });
    }
    drop(sender);
    let mut found: Vec<Option<std::io::Result<()>>> = all.iter().map(|_| None).collect();
    let until = std::time::Instant::now() + PATIENCE * 2;
    while let Ok((place, connected)) = results.recv_timeout(until.saturating_duration_since(std::time::Instant::now()))
    {
        if let Some(slot) = found.get_mut(place) {
            *slot = Some(connected);
        }
    }
    let unreachable: Vec<String> = all
        .iter()
        .zip(found)
        .filter_map(|((host, address, port), result)| match result {
            Some(Ok(())) => None,
            Some(Err(error)) => Some(format!("{host} ({address}:{port}: {error})")),
            None => Some(format!("{host} ({address}:{port}: no answer in time)")),
        })
        .collect();
    vec![match unreachable.is_empty() {
        true => Finding::ok("upstream", format!("{} can be reached", all.len())),
        false => Finding::warn(
            "upstream",
            format!("cannot be reached from here: {}", unreachable.join(", ")),
            "check the network and `upstreams:`",
        ),
    }]
}

/// The kernel's settings by which a sandbox could pass for another, or pass the gateway by; `root` is
/// /proc/sys/net/ipv4.
fn spoofing(root: &Path) -> Vec<Finding> {
    let read = |path: PathBuf| -> Option<u32> { std::fs::read_to_string(path).ok()?.trim().parse().ok() };
    let interfaces: Vec<String> = std::fs::read_dir(root.join("conf"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| !matches!(name.as_str(), "all" | "default" | "lo"))
        .collect();
    // The larger of the interface's own and that of all counts (ip-sysctl: rp_filter, and for route_localnet the OR).
    let value = |interface: &str, key: &str| -> u32 {
        ["all", interface].iter().filter_map(|name| read(root.join("conf").join(name).join(key))).max().unwrap_or(0)
    };
    let those = |wanted: &dyn Fn(&str) -> bool| -> String {
        interfaces.iter().filter(|name| wanted(name)).cloned().collect::<Vec<_>>().join(", ")
    };
    let mut findings = Vec::new();
    let local = those(&|name| value(name, "route_localnet") == 1);
    if !local.is_empty() {
        findings.push(Finding::fail(
            "spoofing",
            format!("route_localnet is on for {local}: what comes in there can reach 127.0.0.1, and so the admin API"),
            "sysctl net.ipv4.conf.IFACE.route_localnet=0",
        ));
    }
    let loose = those(&|name| value(name, "rp_filter") == 0);
    if !loose.is_empty() {
        findings.push(Finding::warn(
            "spoofing",
            format!("rp_filter is off for {loose}: what comes in there may carry another network's source address"),
            "sysctl net.ipv4.conf.all.rp_filter=1",
        ));
    }
    if read(root.join("ip_forward")) == Some(1) {
        findings.push(Finding::warn(
            "spoofing",
            "this machine forwards (ip_forward=1), so a sandbox may have another way out",
            "put sandboxes on an internal network, as config/compose.yaml does",
        ));
    }
    if findings.is_empty() {
        findings.push(match interfaces.is_empty() {
            true => Finding::warn("spoofing", "the kernel's settings cannot be read", "look at them by hand"),
            false => Finding::ok("spoofing", "no forwarding, no route to loopback, reverse paths are checked"),
        });
    }
    findings
}

fn clock(now: Timestamp) -> Finding {
    let year = now.strftime("%Y").to_string();
    match year.parse().is_ok_and(|year: i16| YEARS.contains(&year)) {
        true => Finding::ok("clock", now.strftime("%Y-%m-%dT%H:%MZ")),
        false => {
            Finding::fail("clock", format!("says the year {year}"), "set it: certificates and expiry depend on it")
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn states(findings: &[Finding]) -> Vec<State> {
        findings.iter().map(|finding| finding.state).collect()
    }

    #[test]
    fn secrets_that_others_can_read_fail() {
        let directory = tempfile::tempdir().unwrap();
        let key = directory.path().join("ca.key");
        std::fs::write(&key, "").unwrap();
        let mode = |mode| std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).unwrap();
        mode(0o640);
        let found = state(directory.path());
        assert_eq!(states(&found), [State::Fail]);
        assert!(found[0].todo.starts_with("chmod go= /") && found[0].todo.ends_with("ca.key"), "{found:?}");
        mode(0o600);
        assert_eq!(states(&state(directory.path())), [State::Ok]);
        assert_eq!(states(&state(&directory.path().join("none"))), [State::Ok]);
        assert_eq!(states(&state(&key)), [State::Fail]);
    }

    #[test]
    fn a_ca_is_looked_at() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(authority(directory.path()).state, State::Ok);
        crate::ca::issuer::Issuer::open(directory.path()).unwrap();
        let found = authority(directory.path());
        assert!(found.state == State::Ok && found.found.contains("more days"), "{found:?}");
        std::fs::write(directory.path().join("ca.pem"), "-----BEGIN NONSENSE").unwrap();
        assert_eq!(authority(directory.path()).state, State::Fail);
        std::fs::remove_file(directory.path().join("ca.pem")).unwrap();
        assert_eq!(authority(directory.path()).state, State::Fail, "the key alone");
        let mut params = rcgen::CertificateParams::default();
        let now = time::OffsetDateTime::now_utc();
        for (from, until, expected) in [(-9, -1, State::Fail), (-9, 9, State::Warn), (1, 900, State::Fail)] {
            params.not_before = now + time::Duration::days(from);
            params.not_after = now + time::Duration::days(until);
            let pem = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem();
            std::fs::write(directory.path().join("ca.pem"), pem).unwrap();
            assert_eq!(authority(directory.path()).state, expected, "{from}..{until}");
        }
    }

    #[test]
    fn a_token_that_may_write_workflows_is_pointed_out() {
        for (status, scopes, state, word) in [
            (200, Some("repo, workflow"), State::Warn, "may write workflows"),
            (200, Some("workflow"), State::Warn, "may write workflows"),
            (200, Some("repo, workflows:read"), State::Ok, "may not write workflows"),
            (200, Some(""), State::Ok, "may not"),
            (200, None, State::Ok, "cannot be told"),
            (401, None, State::Fail, "does not take"),
            (503, None, State::Warn, "503"),
        ] {
            let finding = token(status, scopes);
            assert!(finding.state == state && finding.found.contains(word), "{finding:?}");
        }
    }

    #[test]
    fn the_kernels_settings_are_read_for_each_interface() {
        let root = tempfile::tempdir().unwrap();
        let set = |path: &str, value: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, format!("{value}\n")).unwrap();
        };
        assert_eq!(states(&spoofing(root.path())), [State::Warn], "nothing to read");
        for interface in ["all", "default", "lo", "eth0"] {
            set(&format!("conf/{interface}/route_localnet"), "0");
            set(&format!("conf/{interface}/rp_filter"), "0");
        }
        set("ip_forward", "0");
        set("conf/all/rp_filter", "1");
        set("conf/lo/route_localnet", "1");
        assert_eq!(states(&spoofing(root.path())), [State::Ok]);
        set("conf/eth0/route_localnet", "1");
        let found = spoofing(root.path());
        assert!(found[0].state == State::Fail && found[0].found.contains("eth0"), "{found:?}");
        set("conf/eth0/route_localnet", "0");
        set("conf/all/rp_filter", "0");
        set("ip_forward", "1");
        assert_eq!(states(&spoofing(root.path())), [State::Warn, State::Warn]);
    }

    #[test]
    fn a_clock_of_another_century_is_not_believed() {
        for (now, expected) in [
            ("1970-01-01T00:00:00Z", State::Fail),
            ("2026-11-24T00:00:00Z", State::Ok),
            ("2106-02-07T00:00:00Z", State::Fail),
        ] {
            assert_eq!(clock(now.parse().unwrap()).state, expected, "{now}");
        }
    }

    #[test]
    fn a_finding_is_one_line() {
        let line = Finding::fail("policy", "a\n  b", "mend it").line();
        assert_eq!(line, "FAIL  policy       a b; mend it\n");
    }
}
