//! `env`: the variables that a sandbox needs so that its programs use the proxy and trust its certificates.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{Common, Error, print};
use crate::credentials::PLACEHOLDER;

/// Programs read the one or the other spelling of the proxy's variables.
const PROXY: [&str; 6] = ["https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"];
const NO_PROXY: [&str; 2] = ["no_proxy", "NO_PROXY"];
/// Variables that replace a program's own roots: git, curl, OpenSSL and Go, Python's requests, pip, cargo, and uv.
const BUNDLE: [&str; 6] =
    ["GIT_SSL_CAINFO", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "CARGO_HTTP_CAINFO"];

/// git over HTTP/1.1: over HTTP/2, libcurl 7.88.1 (Debian 12) may send 64 KiB of a push twice.
const GIT_CONFIG: [(&str, &str); 3] =
    [("GIT_CONFIG_COUNT", "1"), ("GIT_CONFIG_KEY_0", "http.version"), ("GIT_CONFIG_VALUE_0", "HTTP/1.1")];

/// Print the variables that a sandbox needs.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  eval \"$(sallyport env --gateway http://gateway:8080 --ca-bundle /etc/sallyport/ca-bundle.pem)\""
)]
pub struct Env {
    /// For which shell, or as JSON
    #[arg(long, value_enum, default_value_t = Shell::Sh)]
    shell: Shell,
    /// Where the sandbox finds the proxy [default: this machine's loopback and the configured port]
    #[arg(long, value_name = "URL")]
    gateway: Option<String>,
    /// Where the sandbox finds the CA bundle [default: ca-bundle.pem in the state directory]
    #[arg(long, value_name = "FILE")]
    ca_bundle: Option<PathBuf>,
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
}

impl Env {
    pub(super) fn run(self, common: &Common) -> Result<(), Error> {
        let config = common.config()?;
        let gateway = self.gateway.unwrap_or_else(|| format!("http://127.0.0.1:{}", config.proxy.port()));
        let bundle = match self.ca_bundle {
            Some(path) => path,
            None => common.state_dir(&config)?.join("ca-bundle.pem"),
        };
        let shell = if self.json { Shell::Json } else { self.shell };
        let placeholders = config.credentials.placeholders();
        print(&render(shell, &variables(&gateway, &bundle.display().to_string(), &placeholders)))
    }
}

fn variables<'a>(gateway: &str, bundle: &str, placeholders: &[&'a str]) -> Vec<(&'a str, String)> {
    let all =
        |names: &[&'a str], value: &str| -> Vec<_> { names.iter().map(|name| (*name, value.to_owned())).collect() };
    let mut variables = all(&PROXY, gateway);
    variables.extend(all(&NO_PROXY, "localhost,127.0.0.1,::1"));
    variables.extend(all(&BUNDLE, bundle));
    // Node adds these to its own roots, and minds the proxy's variables only when told to.
    variables.push(("NODE_EXTRA_CA_CERTS", bundle.to_owned()));
    variables.push(("NODE_USE_ENV_PROXY", "1".to_owned()));
    variables.extend(GIT_CONFIG.map(|(name, value)| (name, value.to_owned())));
    variables.extend(all(placeholders, PLACEHOLDER));
    variables
}

fn render(shell: Shell, variables: &[(&str, String)]) -> String {
    let quoted = |value: &str| format!("'{}'", value.replace('\'', r"'\''"));
    let fish_quoted = |value: &str| format!("'{}'", value.replace('\\', r"\\").replace('\'', r"\'"));
    match shell {
        Shell::Sh => variables.iter().map(|(name, value)| format!("export {name}={}\n", quoted(value))).collect(),
        Shell::Fish => {
            variables.iter().map(|(name, value)| format!("set -gx {name} {}\n", fish_quoted(value))).collect()
        }
        Shell::Json => {
            let object: serde_json::Map<_, _> =
                variables.iter().map(|(name, value)| ((*name).to_owned(), value.clone().into())).collect();
            format!("{}\n", serde_json::Value::Object(object))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted_for_their_shell() {
        let variables = [("A", r"it's \n".to_owned())];
        assert_eq!(render(Shell::Sh, &variables), "export A='it'\\''s \\n'\n");
        assert_eq!(render(Shell::Fish, &variables), "set -gx A 'it\\'s \\\\n'\n");
        assert_eq!(render(Shell::Json, &variables), "{\"A\":\"it's \\\\n\"}\n");
    }
}
