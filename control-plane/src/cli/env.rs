//! `env`: the variables that a sandbox needs so that its programs use the proxy and trust its certificates, and the
//! files without which some clients do not start. docs/clients.md says which client needs which of them, and why.

mod stubs;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::client::Client;
use super::{Common, Error, print};
use crate::app::Addresses;
use config::policy_file;
use credentials::{PLACEHOLDER, placeholder};
use policy::{HostName, HostPattern};

/// The proxy's variables in both spellings: some programs read only one of them.
const PROXY: [&str; 6] = ["https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"];
const NO_PROXY: [&str; 2] = ["no_proxy", "NO_PROXY"];
/// Variables that replace a program's own roots.
const BUNDLE: [&str; 11] = [
    // git, with every TLS library of its libcurl.
    "GIT_SSL_CAINFO",
    // The program curl. libcurl itself reads no variable.
    "CURL_CA_BUNDLE",
    // OpenSSL, and so Python's ssl, httpx and Ruby; Go; rustls-native-certs, and so uv and Codex; Bun.
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "CARGO_HTTP_CAINFO",
    // npm and pnpm. A `cafile` in an npmrc of the image would count in place of NODE_EXTRA_CA_CERTS.
    "npm_config_cafile",
    "AWS_CA_BUNDLE",
    "DENO_CERT",
    // Programs of Nix, which are built to prefer this variable to SSL_CERT_FILE.
    "NIX_SSL_CERT_FILE",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
];

/// The variable with the globs of a container's branches, for its agent.
const BRANCHES: &str = "SALLYPORT_BRANCHES";

/// How long the gateway may take to list its placeholders.
const PATIENCE: Duration = Duration::from_secs(2);

/// The addresses that a sandbox always reaches itself.
const DIRECT: &str = "localhost,127.0.0.1,::1";

/// git's settings.
const GIT_CONFIG: [(&str, &str); 3] = [
    // Over HTTP/2, libcurl 7.88.1 (Debian 12) may send 64 KiB of a push twice.
    ("http.version", "HTTP/1.1"),
    // SSH has no way out: git rewrites the two spellings of an SSH address.
    ("url.https://github.com/.insteadOf", "git@github.com:"),
    ("url.https://github.com/.insteadOf", "ssh://git@github.com/"),
];

/// Print the variables that a sandbox needs.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  eval \"$(sallyport env --gateway http://gateway:8080 --ca-bundle /etc/sallyport/ca-bundle.pem)\"\n  sallyport env --shell env-file --stub-files home/ >sandbox.env; docker run --env-file sandbox.env …"
)]
pub struct Env {
    /// The form: for a shell, as JSON, or as a file for docker's --env-file
    #[arg(long, value_enum, default_value_t = Shell::Sh)]
    shell: Shell,
    /// The proxy's address for the sandbox [default: this machine's loopback and the configured port]
    #[arg(long, value_name = "URL")]
    gateway: Option<String>,
    /// The path of the CA bundle in the sandbox [default: ca-bundle.pem in the state directory]
    #[arg(long, value_name = "FILE")]
    ca_bundle: Option<PathBuf>,
    /// The path of Java's trust store in the sandbox; docs/clients.md says how to create it, since Java reads no PEM
    #[arg(long, value_name = "FILE")]
    java_trust_store: Option<PathBuf>,
    /// A name or an address that the sandbox's programs connect to directly; repeatable. It goes into NO_PROXY beside
    /// localhost. The gateway opens no way there: the sandbox's own network must have one, and the gateway judges nothing
    #[arg(long, value_name = "NAME", value_parser = direct)]
    no_proxy: Vec<String>,
    /// The address of a registered container: also print SALLYPORT_BRANCHES, the globs of its branches
    #[arg(long, value_name = "IP")]
    ip: Option<String>,
    /// Also write stub logins for Claude Code, Codex, Gemini CLI and OpenCode below DIR, the home of a sandbox
    #[arg(long, value_name = "DIR")]
    stub_files: Option<PathBuf>,
    /// The account in Codex's stub; Codex looks for it among the accounts that ChatGPT lists
    #[arg(long, requires = "stub_files", value_name = "ID", default_value = PLACEHOLDER)]
    codex_account_id: String,
    /// Let stub files replace files that are no stubs
    #[arg(long, requires = "stub_files")]
    force: bool,
    /// The same as --shell json
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Shell {
    /// POSIX shells
    Sh,
    /// fish
    Fish,
    /// A JSON object
    Json,
    /// NAME=value lines, for docker's --env-file
    EnvFile,
}

impl Env {
    pub(super) fn run(self, common: &Common) -> Result<(), Error> {
        let config = common.config()?;
        let gateway = self.gateway.unwrap_or_else(|| {
            let Addresses { proxy, .. } = Addresses::find(&config, common.state_dir(&config).ok().as_deref());
            format!("http://127.0.0.1:{}", proxy.port())
        });
        let bundle = match self.ca_bundle {
            Some(path) => path,
            None => common.state_dir(&config)?.join("ca-bundle.pem"),
        };
        let shell = if self.json { Shell::Json } else { self.shell };
        // The gateway says which of a provider's variables it has. This shell may not have them.
        let client = Client::new(common, &config);
        let placeholders =
            told(&client).unwrap_or_else(|| config.credentials.placeholders().into_iter().map(str::to_owned).collect());
        let placeholders: Vec<&str> = placeholders.iter().map(String::as_str).collect();
        for (name, host) in around_the_gateway(&self.no_proxy, &config) {
            eprintln!(
                "sallyport: warning: --no-proxy {name}: the policy allows {host}, but programs then pass the gateway by, \
                 and need a way of their own"
            );
        }
        let mut variables = variables(&gateway, &bundle.display().to_string(), &self.no_proxy, &placeholders);
        variables.push(("JAVA_TOOL_OPTIONS".into(), java(&gateway, self.java_trust_store.as_deref(), &self.no_proxy)?));
        if let Some(ip) = &self.ip {
            variables.push((BRANCHES.into(), branches(&client.get(&format!("/internal/containers/{ip}"))?)));
        }
        // The variables are printed last: if a file is refused, nothing is printed, and a script stops.
        let text = render(shell, &variables)?;
        if let Some(home) = &self.stub_files {
            for path in stubs::write(home, &self.codex_account_id, self.force)? {
                eprintln!("wrote {}", path.display());
            }
        }
        print(&text)
    }
}

/// The globs of the record's branches, with spaces between them. A glob has no space.
fn branches(record: &str) -> String {
    let record: serde_json::Value = serde_json::from_str(record).unwrap_or_default();
    let globs = record["allowed_branches"].as_array().into_iter().flatten().filter_map(serde_json::Value::as_str);
    globs.collect::<Vec<_>>().join(" ")
}

/// The variables for which the running gateway has placeholders.
fn told(client: &Client) -> Option<Vec<String>> {
    let (status, body) = client.probe("/internal/placeholders", PATIENCE).ok()?;
    let names: Vec<String> = serde_json::from_str(&body).ok().filter(|_| status == 200)?;
    // The names become lines of a shell script.
    let plain = |name: &String| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    names.iter().all(plain).then_some(names)
}

/// Parses a value of `--no-proxy`.
fn direct(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/*".contains(&byte);
    if text == "*" {
        Err("'*' turns the proxy off for every host, and a sandbox has no other way out; name single hosts".into())
    } else if text.is_empty() || !text.bytes().all(plain) || text.contains("//") {
        Err("write a name, a suffix or an address, such as registry.internal, .internal or 10.0.0.5".into())
    } else {
        Ok(text.to_owned())
    }
}

/// The names in `no_proxy` that concern a host of the policy, each with the first such host. Programs take a name for all
/// names below it, too. Empty if the policy can't be read here.
fn around_the_gateway<'a>(no_proxy: &'a [String], config: &config::Config) -> Vec<(&'a str, String)> {
    let Ok(policy) = policy_file::load(&config.policy_file, &config.credentials) else { return Vec::new() };
    let concerns = |name: &str, allowed: &HostPattern| {
        let name = name.trim_start_matches(['*', '.']).to_ascii_lowercase();
        let before = allowed.name().as_str().strip_suffix(&name);
        before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
            || HostName::parse(name.as_bytes()).is_ok_and(|host| allowed.covers(&host))
    };
    let first = |name: &str| policy.egress.entries().find(|(allowed, _)| concerns(name, allowed));
    no_proxy.iter().filter_map(|name| Some((name.as_str(), first(name)?.0.to_string()))).collect()
}

fn variables(gateway: &str, bundle: &str, no_proxy: &[String], placeholders: &[&str]) -> Vec<(String, String)> {
    let all = |names: &[&str], value: &str| -> Vec<_> {
        names.iter().map(|name| ((*name).to_owned(), value.to_owned())).collect()
    };
    let mut variables = all(&PROXY, gateway);
    let direct = std::iter::once(DIRECT).chain(no_proxy.iter().map(String::as_str)).collect::<Vec<_>>().join(",");
    variables.extend(all(&NO_PROXY, &direct));
    variables.extend(all(&BUNDLE, bundle));
    // Node adds these CAs to its own roots, and reads the proxy's variables only if a variable says so.
    variables.extend(all(&["NODE_EXTRA_CA_CERTS"], bundle));
    variables.extend(all(&["NODE_USE_ENV_PROXY"], "1"));
    variables.push(("GIT_CONFIG_COUNT".into(), GIT_CONFIG.len().to_string()));
    for (number, (key, value)) in GIT_CONFIG.into_iter().enumerate() {
        variables.push((format!("GIT_CONFIG_KEY_{number}"), key.into()));
        variables.push((format!("GIT_CONFIG_VALUE_{number}"), value.into()));
    }
    variables.extend(placeholders.iter().map(|name| ((*name).to_owned(), placeholder::of(name).to_owned())));
    variables
}

/// Java reads neither the proxy's variables nor PEM. Every JVM reads these options, and prints that on stderr.
fn java(gateway: &str, trust_store: Option<&Path>, no_proxy: &[String]) -> Result<String, Error> {
    let wrong = || Error::Usage(format!("--gateway: invalid URL '{gateway}'; expected a URL like http://gateway:8080"));
    let uri: hyper::Uri = gateway.parse().map_err(|_| wrong())?;
    let host = uri.host().ok_or_else(wrong)?.trim_matches(['[', ']']);
    let port = uri.port_u16().unwrap_or(80);
    let mut options: Vec<String> =
        ["http", "https"].map(|scheme| format!("-D{scheme}.proxyHost={host} -D{scheme}.proxyPort={port}")).into();
    if !no_proxy.is_empty() {
        // The option replaces Java's default, which is its first part. Its `*` stands for all names below a suffix.
        let name = |name: &String| if name.starts_with('.') { format!("*{name}") } else { name.clone() };
        let names = ["localhost", "127.*", "[::1]"].map(str::to_owned).into_iter().chain(no_proxy.iter().map(name));
        options.push(format!("-Dhttp.nonProxyHosts={}", names.collect::<Vec<_>>().join("|")));
    }
    if let Some(path) = trust_store {
        options.push(format!("-Djavax.net.ssl.trustStore={}", path.display()));
    }
    Ok(options.join(" "))
}

fn render(shell: Shell, variables: &[(String, String)]) -> Result<String, Error> {
    let quoted = |value: &str| format!("'{}'", value.replace('\'', r"'\''"));
    let fish_quoted = |value: &str| format!("'{}'", value.replace('\\', r"\\").replace('\'', r"\'"));
    Ok(match shell {
        Shell::Sh => variables.iter().map(|(name, value)| format!("export {name}={}\n", quoted(value))).collect(),
        Shell::Fish => {
            variables.iter().map(|(name, value)| format!("set -gx {name} {}\n", fish_quoted(value))).collect()
        }
        Shell::Json => {
            let object: serde_json::Map<_, _> =
                variables.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
            format!("{}\n", serde_json::Value::Object(object))
        }
        // An env-file has no quoting: docker takes the text after the first '=' literally.
        Shell::EnvFile => {
            if let Some((name, _)) = variables.iter().find(|(_, value)| value.contains(['\n', '\r'])) {
                return Err(Error::Usage(format!(
                    "{name} has more than one line, and an env-file cannot have such a value; use another --shell"
                )));
            }
            variables.iter().map(|(name, value)| format!("{name}={value}\n")).collect()
        }
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted_for_their_shell() {
        let variables = [("A".to_owned(), r"it's \n".to_owned())];
        assert_eq!(render(Shell::Sh, &variables).unwrap(), "export A='it'\\''s \\n'\n");
        assert_eq!(render(Shell::Fish, &variables).unwrap(), "set -gx A 'it\\'s \\\\n'\n");
        assert_eq!(render(Shell::Json, &variables).unwrap(), "{\"A\":\"it's \\\\n\"}\n");
        assert_eq!(render(Shell::EnvFile, &variables).unwrap(), "A=it's \\n\n");
    }

    #[test]
    fn an_env_file_holds_no_second_line() {
        for value in ["a\nB=c", "a\rb"] {
            let variables = [("A".to_owned(), value.to_owned())];
            assert!(matches!(render(Shell::EnvFile, &variables), Err(Error::Usage(_))), "{value:?}");
            assert!(render(Shell::Sh, &variables).is_ok());
        }
    }

    #[test]
    fn the_branches_of_a_record_are_one_variable() {
        let record = serde_json::json!({"container_ip": "172.18.0.5", "allowed_branches": ["sandbox/a/*", "fix-*"]});
        assert_eq!(branches(&record.to_string()), "sandbox/a/* fix-*");
        assert_eq!(branches(r#"{"allowed_branches":[]}"#), "");
    }

    #[test]
    fn java_is_told_host_and_port() {
        let told = |gateway: &str| java(gateway, None, &[]).ok();
        let options = |host: &str, port: &str| {
            Some(format!(
                "-Dhttp.proxyHost={host} -Dhttp.proxyPort={port} -Dhttps.proxyHost={host} -Dhttps.proxyPort={port}"
            ))
        };
        assert_eq!(told("http://gateway:8080"), options("gateway", "8080"));
        assert_eq!(told("http://[fd00::1]:8080"), options("fd00::1", "8080"));
        assert_eq!(told("http://gateway"), options("gateway", "80"));
        assert_eq!(told("/gateway"), None);
        let direct = [".internal".to_owned(), "10.0.0.5".to_owned()];
        let options = java("http://gateway:1", Some(Path::new("/store.p12")), &direct).unwrap();
        let end =
            "-Dhttp.nonProxyHosts=localhost|127.*|[::1]|*.internal|10.0.0.5 -Djavax.net.ssl.trustStore=/store.p12";
        assert!(options.ends_with(end), "{options}");
    }

    #[test]
    fn names_that_are_reached_directly_stand_beside_localhost() {
        let no_proxy = ["registry.internal".to_owned(), ".corp".to_owned()];
        let variables = variables("http://gateway:8080", "/ca.pem", &no_proxy, &["GITHUB_TOKEN", "GROQ_API_KEY"]);
        let value = |name: &str| variables.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        for name in NO_PROXY {
            assert_eq!(value(name), Some("localhost,127.0.0.1,::1,registry.internal,.corp"));
        }
        assert_eq!(
            (value("GIT_CONFIG_COUNT"), value("GIT_CONFIG_VALUE_2")),
            (Some("3"), Some("ssh://git@github.com/"))
        );
        assert!(value("GITHUB_TOKEN").unwrap().starts_with("github_pat_"));
        assert_eq!(value("GROQ_API_KEY"), Some(PLACEHOLDER));
    }

    #[test]
    fn a_name_that_is_reached_directly_is_a_plain_one() {
        for good in
            ["registry.internal", ".internal", "*.internal", "10.0.0.5", "fd00::5", "10.0.0.0/8", "registry:5000"]
        {
            assert!(direct(good).is_ok(), "{good}");
        }
        for bad in ["", "*", "a,b", "a b", "https://registry.internal", "a\nB=c", "$(id)"] {
            assert!(direct(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_governed_host_that_is_to_be_reached_directly_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("sallyport.yaml");
        std::fs::write(&file, "policy: policy.yaml\n").unwrap();
        std::fs::write(directory.path().join("policy.yaml"), "egress: [api.github.com, '*.example.org']\n").unwrap();
        let config = config::Config::load(Some(&file)).unwrap();
        for (name, host) in [
            ("github.com", Some("api.github.com")),
            (".GitHub.com", Some("api.github.com")),
            ("*.com", Some("api.github.com")),
            ("example.org", Some("*.example.org")),
            ("a.example.org", Some("*.example.org")),
            ("hub.com", None),
            ("registry.internal", None),
            ("10.0.0.5", None),
        ] {
            let no_proxy = [name.to_owned()];
            let told = around_the_gateway(&no_proxy, &config);
            assert_eq!(told.first().map(|(_, host)| host.as_str()), host, "{name}");
        }
    }
}
