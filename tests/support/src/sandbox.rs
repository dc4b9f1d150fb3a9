//! A sandbox: a network namespace with a veth pair to the gateway's namespace, no other neighbour and no route.
//!
//! Programs run in it by `nsenter`; sockets for the Rust client are made on a thread that has entered it.

use crate::{Gateway, kept};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc;
use tokio::net::TcpSocket;

/// The timeout of a program in a sandbox, in seconds.
const PROGRAM_DEADLINE: &str = "120";

/// A network namespace behind the gateway.
pub struct Sandbox {
    /// Its own address, `10.99.N.2`.
    pub address: Ipv4Addr,
    /// The gateway's address on its network, `10.99.N.1`: the only address that the sandbox can reach.
    pub gateway_address: Ipv4Addr,
    /// The gateway's explicit proxy, once it is [`Sandbox::behind`] one.
    pub proxy: Option<SocketAddr>,
    /// The home directory of the programs that run in it.
    pub home: PathBuf,
    /// The gateway's CA.
    pub ca_pem: String,
    name: String,
    variables: BTreeMap<String, String>,
    sockets: mpsc::Sender<mpsc::Sender<TcpSocket>>,
}

/// The exit code and the output of a program.
#[derive(Debug)]
pub struct Finished {
    /// The exit code; 124 or 137 if the program was stopped at the deadline.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Finished {
    /// Runs `command` to its end.
    pub fn of(command: &mut Command) -> Self {
        let output = command.output().unwrap();
        kept::note(&format!("{:?}", command.get_program()), &output.stdout);
        kept::note("stderr", &output.stderr);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }

    /// Returns the program's output after a check of its exit code.
    ///
    /// # Panics
    /// If the exit code is not 0. The message has the output.
    #[track_caller]
    pub fn success(self) -> Self {
        assert_eq!(self.code, Some(0), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }
}

/// The result of curl.
#[derive(Debug)]
pub struct Curled {
    /// The HTTP status; 0 without a response.
    pub status: u16,
    /// The status of the CONNECT; 0 without a CONNECT.
    pub connect: u16,
    /// The body.
    pub body: String,
    /// The messages of curl itself.
    pub stderr: String,
}

impl Curled {
    /// The rule of a refusal: from its JSON, or from the text for git.
    pub fn rule(&self) -> Option<String> {
        if let Ok(body) = serde_json::from_str::<serde_json::Value>(&self.body) {
            return body["rule"].as_str().map(ToOwned::to_owned);
        }
        let (_, behind) = self.body.split_once("(rule ")?;
        behind.split_once(')').map(|(rule, _)| rule.to_owned())
    }
}

impl Sandbox {
    /// Makes the namespace and its link.
    pub fn start() -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(number < 155, "out of sandbox networks");
        let home = crate::scratch("home");
        let name = format!("sandbox{number}");
        let link = format!("sp{number}");
        let address = Ipv4Addr::new(10, 99, number, 2);
        let gateway_address = Ipv4Addr::new(10, 99, number, 1);
        ip(&["netns", "add", &name]);
        ip(&["link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &name]);
        ip(&["address", "add", &format!("{gateway_address}/24"), "dev", &link]);
        ip(&["link", "set", &link, "up"]);
        ip(&["-n", &name, "address", "add", &format!("{address}/24"), "dev", "eth0"]);
        ip(&["-n", &name, "link", "set", "eth0", "up"]);
        ip(&["-n", &name, "link", "set", "lo", "up"]);
        let sockets = socket_maker(&name);
        let (proxy, ca_pem, variables) = (None, String::new(), BTreeMap::new());
        Self { address, gateway_address, proxy, home, ca_pem, name, variables, sockets }
    }

    /// Sets the variables that `sallyport env` prints for it.
    #[must_use]
    pub fn behind(mut self, gateway: &Gateway) -> Self {
        self.proxy = Some(SocketAddr::from((self.gateway_address, gateway.proxy_port)));
        self.variables = gateway.sandbox_env(self.gateway_address);
        self.ca_pem = gateway.ca_pem();
        self
    }

    /// Gives the sandbox every address of `10.(100+N).0.0/16` besides [`Sandbox::address`], and returns the first.
    pub fn widen(&self) -> Ipv4Addr {
        let [_, _, number, _] = self.address.octets();
        let first = Ipv4Addr::new(10, 100 + number, 0, 0);
        let network = format!("{first}/16");
        ip(&["-n", &self.name, "route", "add", "local", &network, "dev", "lo"]);
        ip(&["route", "add", &network, "via", &self.address.to_string(), "dev", &format!("sp{number}")]);
        first
    }

    /// A program in the sandbox, with a clean home and only the variables of `sallyport env`. It is stopped after two
    /// minutes.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("timeout");
        command
            .args(["-k", "5", PROGRAM_DEADLINE, "nsenter"])
            .arg(format!("--net=/run/netns/{}", self.name))
            .args(["--", program])
            .env_clear()
            .current_dir(&self.home)
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", &self.home)
            .env("LC_ALL", "C")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_TERMINAL_PROMPT", "0");
        for role in ["AUTHOR", "COMMITTER"] {
            command.env(format!("GIT_{role}_NAME"), "Agent").env(format!("GIT_{role}_EMAIL"), "agent@example.com");
        }
        command.envs(&self.variables);
        command
    }

    /// Runs `git args` in `directory` of the sandbox.
    pub fn git(&self, directory: &Path, args: &[&str]) -> Finished {
        Finished::of(self.command("git").args(args).current_dir(directory))
    }

    /// Runs `curl args`.
    pub fn curl(&self, args: &[impl AsRef<OsStr>]) -> Curled {
        let mut command = self.command("curl");
        command.args(["--silent", "--show-error", "--max-time", "20", "-w", "\n%{http_connect} %{http_code}"]);
        let head = self.home.with_extension("head");
        let finished = Finished::of(command.arg("--dump-header").arg(&head).args(args));
        kept::note("head", &std::fs::read(&head).unwrap_or_default());
        let (body, statuses) = finished.stdout.rsplit_once('\n').unwrap_or_else(|| panic!("{finished:?}"));
        let (connect, status) = statuses.split_once(' ').unwrap();
        let (connect, status) = (connect.parse().unwrap(), status.parse().unwrap());
        Curled { status, connect, body: body.to_owned(), stderr: finished.stderr }
    }

    /// A new socket of the sandbox, bound to `source` and any port.
    pub fn socket(&self, source: Ipv4Addr) -> TcpSocket {
        self.socket_at(SocketAddr::from((source, 0)))
    }

    /// A new socket of the sandbox, bound to `source`.
    pub fn socket_at(&self, source: SocketAddr) -> TcpSocket {
        let (sender, receiver) = mpsc::channel();
        self.sockets.send(sender).unwrap();
        let socket = receiver.recv().unwrap();
        socket.bind(source).unwrap();
        socket
    }
}

/// A thread in the namespace `name` that makes sockets for other threads. A socket belongs for its lifetime to the
/// namespace in which it was made, and any thread may use it.
fn socket_maker(name: &str) -> mpsc::Sender<mpsc::Sender<TcpSocket>> {
    let namespace = File::open(format!("/run/netns/{name}")).unwrap();
    let (sender, orders) = mpsc::channel::<mpsc::Sender<TcpSocket>>();
    std::thread::spawn(move || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        for order in orders {
            // The requesting thread may be gone.
            let _ = order.send(TcpSocket::new_v4().unwrap());
        }
    });
    sender
}

/// Runs `ip args` in the gateway's namespace.
pub(crate) fn ip(args: &[&str]) {
    Finished::of(Command::new("ip").args(args)).success();
}
