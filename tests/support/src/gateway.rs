//! The shipped binary, `sallyport up`, with its Envoy: started, watched, stopped, restarted.
//!
//! Each gateway has its own ports and state directory. Its output goes into files. When a test fails, the ends of the
//! files are printed.

mod admin;
mod builder;
mod logs;
mod seen;

pub use builder::{Builder, NO_CREDENTIAL_BUT_GITHUB, pin, pins, policy};

use crate::process::{self, Signal};
use crate::{TOKEN, eventually, upstream};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

/// The timeout of a start. The first start includes the compilation of the filters.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// The timeout for the control plane alone to respond.
const LISTENS_WITHIN: Duration = Duration::from_secs(10);
/// The timeout for the writing of an audit line.
const AUDIT_WITHIN: Duration = Duration::from_secs(10);
/// The timeout of a second gateway on one state directory, in seconds.
const SECOND: &str = "10";

/// A running (or stopped) gateway.
pub struct Gateway {
    /// The port of the explicit proxy, on all addresses.
    pub proxy_port: u16,
    /// The state directory.
    pub state: PathBuf,
    directory: PathBuf,
    admin: SocketAddr,
    environment: Vec<(String, String)>,
    workers: u16,
    files: Option<u64>,
    child: Mutex<Option<Child>>,
    /// The Envoy that runs beside `sallyport serve`.
    beside: Mutex<Option<Child>>,
}

impl Gateway {
    /// Starts the binary on the same configuration and state, and waits until it is ready.
    pub fn up(&self) {
        let mut child = self.begin(&["up", "--envoy-concurrency", &self.workers.to_string()]);
        eventually("the gateway is ready", READY_WITHIN, || {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("sallyport up ended while it was starting: {status}");
            }
            self.ready().then_some(())
        });
        self.started(child);
    }

    /// Starts the control plane alone, without waiting until it is ready.
    pub fn serve(&self) {
        let child = self.begin(&["serve"]);
        self.started(child);
    }

    /// Waits until the control plane that [`Gateway::serve`] started responds.
    pub fn listens(&self) {
        eventually("the control plane listens", LISTENS_WITHIN, || self.try_call("GET", "/healthz", None).ok());
    }

    /// Starts the control plane and Envoy, each by itself, and waits until both are ready.
    pub fn up_apart(&self) {
        self.serve();
        self.listens();
        self.start_envoy();
    }

    /// Starts Envoy beside `serve` as docker-compose.yml does, and waits until both are ready.
    pub fn start_envoy(&self) {
        let bootstrap = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../envoy/bootstrap.yaml");
        let mut command = Command::new(std::env::var_os("ENVOY_BIN").expect("ENVOY_BIN is set by run-e2e.sh"));
        command.arg("--config-path").arg(bootstrap.canonicalize().unwrap());
        command.args(["--disable-hot-restart", "--log-level", "warning", "--concurrency", &self.workers.to_string()]);
        command.env_clear().current_dir(&self.state);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(self.log("envoy.log"));
        let before = self.beside.lock().unwrap().replace(command.spawn().unwrap());
        assert!(before.is_none(), "Envoy was already running");
        eventually("control plane and Envoy are ready", READY_WITHIN, || self.ready().then_some(()));
    }

    /// Runs `sallyport subcommand` to its end, on the same state directory and with ports of its own.
    pub fn second(&self, subcommand: &str) -> crate::Finished {
        let other = Self::with(&policy(&upstream::HOSTS)).build();
        let sallyport = other.sallyport();
        // `timeout` ends a subcommand that does not end by itself.
        let mut command = Command::new("timeout");
        command.args(["-k", "1", SECOND]).arg(sallyport.get_program()).arg(subcommand);
        command.arg("--config").arg(other.config()).arg("--state-dir").arg(&self.state);
        command.env_clear().current_dir(&other.directory);
        command.envs(sallyport.get_envs().filter_map(|(name, value)| Some((name, value?))));
        crate::Finished::of(&mut command)
    }

    /// `sallyport ARGUMENTS` for this gateway, from a shell of its operator.
    pub fn operator(&self, arguments: &[&str]) -> Command {
        let mut command = self.sallyport();
        command.args(arguments).arg("--config").arg(self.config()).arg("--state-dir").arg(&self.state);
        command.env("GITHUB_TOKEN", TOKEN).envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null());
        command
    }

    fn begin(&self, arguments: &[&str]) -> Child {
        let mut command = self.operator(arguments);
        if let Some(files) = self.files {
            // `prlimit` becomes the gateway.
            let mut limited = Command::new("prlimit");
            limited.arg(format!("--nofile={files}:{files}")).arg(command.get_program()).args(command.get_args());
            limited.env_clear().current_dir(&self.directory).stdin(Stdio::null());
            limited.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
            command = limited;
        }
        command.stdout(self.log("stdout.log")).stderr(self.log("stderr.log")).spawn().unwrap()
    }

    fn started(&self, child: Child) {
        let before = self.child.lock().unwrap().replace(child);
        assert!(before.is_none(), "the gateway was already running");
    }

    fn log(&self, name: &str) -> File {
        OpenOptions::new().create(true).append(true).open(self.directory.join(name)).unwrap()
    }

    /// The binary, with a clean environment.
    fn sallyport(&self) -> Command {
        let mut command = Command::new(std::env::var_os("SALLYPORT_BIN").expect("SALLYPORT_BIN is set by run-e2e.sh"));
        command.env_clear().current_dir(&self.directory).env("HOME", &self.directory).env("RUST_BACKTRACE", "1");
        for name in ["PATH", "ENVOY_BIN", "SALLYPORT_FILTERS", "RUST_LOG"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command
    }

    /// Its output on stderr so far.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.directory.join("stderr.log")).unwrap()).into_owned()
    }

    /// The policy file, which the gateway watches.
    pub fn policy_file(&self) -> PathBuf {
        self.directory.join("policy.yaml")
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.directory.join("sallyport.yaml")
    }

    /// Whether `/readyz` returns 200.
    pub fn ready(&self) -> bool {
        self.try_call("GET", "/readyz", None).is_ok_and(|(status, _)| status == 200)
    }

    /// The process of `sallyport up`.
    pub fn pid(&self) -> u32 {
        self.child.lock().unwrap().as_ref().expect("the gateway runs").id()
    }

    /// The process of its Envoy, if there is one.
    pub fn envoy_pid(&self) -> Option<u32> {
        if let Some(beside) = self.beside.lock().unwrap().as_ref() {
            return Some(beside.id());
        }
        process::child_named(self.pid(), "envoy")
    }

    /// The response of Envoy's own admin interface to a GET.
    pub fn envoy_admin(&self, path: &str) -> String {
        admin::envoy(&self.state.join("run/envoy-admin.sock"), path).unwrap()
    }

    /// A counter or gauge of Envoy's. 0 if Envoy has no metric of that name.
    pub fn envoy_stat(&self, name: &str) -> u64 {
        let text = self.envoy_admin("/stats?usedonly");
        let value = text.lines().filter_map(|line| line.split_once(": ")).find(|(key, _)| *key == name);
        value.map_or(0, |(_, value)| value.trim().parse().unwrap())
    }

    /// Sends `signal` to `sallyport up` alone.
    pub fn signal(&self, signal: Signal) {
        process::signal(self.pid(), signal);
    }

    /// Waits for `sallyport up` to end after a signal that ends it.
    pub fn ended(&self, within: Duration) -> ExitStatus {
        let mut guard = self.child.lock().unwrap();
        let child = guard.as_mut().expect("the gateway runs");
        let status = eventually("sallyport up has ended", within, || child.try_wait().unwrap());
        *guard = None;
        status
    }

    /// The output of `sallyport env` for a sandbox that reaches the gateway at `address`.
    pub fn sandbox_env(&self, address: Ipv4Addr) -> BTreeMap<String, String> {
        self.sandbox_env_with(address, &[])
    }

    /// The output of `sallyport env` with further arguments.
    pub fn sandbox_env_with(&self, address: Ipv4Addr, arguments: &[&str]) -> BTreeMap<String, String> {
        // The shell has none of the variables, and the command warns of this.
        let mut command = self.sallyport();
        command.args(["env", "--shell", "json"]).args(arguments).arg("--config").arg(self.config());
        command.arg("--state-dir").arg(&self.state);
        command.args(["--gateway", &format!("http://{address}:{}", self.proxy_port)]);
        let printed = crate::Finished::of(&mut command).success().stdout;
        serde_json::from_str(&printed).unwrap_or_else(|error| panic!("sallyport env: {error}: {printed}"))
    }

    /// The CA certificate from the admin API.
    pub fn ca_pem(&self) -> String {
        let (status, body) = self.call("GET", "/ca.pem", None);
        assert_eq!(status, 200, "{body}");
        body
    }

    /// One call of the admin API: status and body.
    pub fn call(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, String) {
        self.call_as(method, path, &[], body)
    }

    /// One call of the admin API while the process may end.
    ///
    /// # Errors
    /// If the process is gone.
    pub fn try_call(&self, method: &str, path: &str, body: Option<&Value>) -> std::io::Result<(u16, String)> {
        admin::call(self.admin, method, path, &[("authorization", &self.bearer())], body)
    }

    /// One call with `headers` and the token. A `host` among them replaces the usual one.
    pub fn call_as(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&Value>) -> (u16, String) {
        let bearer = self.bearer();
        let headers = [headers, &[("authorization", &bearer)]].concat();
        let answer = admin::call(self.admin, method, path, &headers, body);
        answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// The value of `authorization` for the admin API. Without a token, before the first start, the token is empty.
    fn bearer(&self) -> String {
        let token = std::fs::read_to_string(self.state.join("admin-token")).unwrap_or_default();
        format!("Bearer {}", token.trim_end())
    }

    /// Begins a call of the admin API, then closes the connection after `after` without reading.
    pub fn abort_call(&self, method: &str, path: &str, body: Option<&Value>, after: Duration) {
        admin::abort(self.admin, method, path, &[("authorization", &self.bearer())], body, after).unwrap();
    }

    /// The address of the admin API.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// The warnings of `/readyz`.
    pub fn warnings(&self) -> Vec<String> {
        let (_, body) = self.call("GET", "/readyz", None);
        let body: Value = serde_json::from_str(&body).unwrap_or_else(|error| panic!("/readyz: {error}: {body}"));
        let warnings = body["warnings"].as_array().unwrap_or_else(|| panic!("/readyz without warnings: {body}"));
        warnings.iter().map(|warning| warning.as_str().unwrap().to_owned()).collect()
    }

    /// Registers `address` with `repos` and the branches `sandbox/*` and `bot/*`, or replaces its record. The record has the
    /// ids and default branches, so that the gateway makes no lookup at GitHub by itself.
    pub fn register(&self, address: impl Into<IpAddr>, repos: &[&str]) {
        let address = address.into();
        let known = |name: &&str| json!({"name": name, "id": upstream::number(name), "default_branch": "main"});
        let repos: Vec<Value> = repos.iter().map(known).collect();
        let record = json!({
            "container_ip": address, "container_id": container_id(address), "repos": repos,
            "allowed_branches": ["sandbox/*", "bot/*"],
        });
        let (status, body) = self.call("POST", "/internal/containers", Some(&record));
        assert!(matches!(status, 200 | 201), "register: {status} {body}");
    }

    /// Removes the record of `address`.
    pub fn remove(&self, address: impl Into<IpAddr>) {
        let (status, body) = self.call("DELETE", &format!("/internal/containers/{}", address.into()), None);
        assert_eq!(status, 204, "remove: {body}");
    }

    /// The audit so far. A last line that is still being written is left out.
    pub fn audit(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.state.join("audit.jsonl")).unwrap_or_default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("audit.jsonl: {e}: {line}"));
        whole.lines().map(parse).collect()
    }

    /// Waits for the audit line that `wanted` recognises. Skips the lines of event `start`, which open long requests.
    pub fn audit_line(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.audit_event(what, |line| line["event"] != "start" && wanted(line))
    }

    /// Waits for an audit line, the lines of event `start` included.
    pub fn audit_event(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        eventually(&format!("an audit line for {what}"), AUDIT_WITHIN, || self.audit().into_iter().find(&wanted))
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.keep_what_is_seen();
        }
        // Its Envoy ends with it, which lifecycle.rs tests.
        for mut child in [&self.child, &self.beside].into_iter().filter_map(|child| child.lock().unwrap().take()) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The `container_id` that [`Gateway::register`] gives to an address.
pub fn container_id(address: impl Into<IpAddr>) -> String {
    format!("box-{}", address.into())
}
