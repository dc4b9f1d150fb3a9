//! `ca show | export | rotate`.

use clap::Subcommand;
use sha2::{Digest, Sha256};
use x509_parser::pem::Pem;

use super::client::Client;
use super::{Common, Error, print};

/// The certificate authority that sandboxes trust.
#[derive(Debug, Subcommand)]
pub enum Ca {
    /// Show the CAs that sandboxes must trust; the first one issues
    Show {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the CA's certificate as PEM; during a change, the certificates of both CAs
    ///
    /// Example: sallyport ca export > sallyport-ca.pem
    Export {
        /// Include the system's roots, for clients that accept only one bundle
        #[arg(long)]
        bundle: bool,
    },
    /// Begin a change of CA: create a new CA that is trusted, while the old CA still issues
    ///
    /// Give every sandbox the new bundle, then run `sallyport ca rotate --finish`.
    Rotate {
        /// Issue with the new CA from now on; the old CA stays trusted until the next change
        #[arg(long)]
        finish: bool,
    },
}

impl Ca {
    pub(super) fn run(self, common: &Common) -> Result<(), Error> {
        let config = common.config()?;
        let client = Client::new(common, &config);
        match self {
            Self::Show { json } => show(&client.get("/ca.pem")?, json),
            Self::Export { bundle } => {
                let certificates = client.get("/ca.pem")?;
                if bundle {
                    print(&config.roots_pem()?)?;
                }
                print(&certificates)
            }
            Self::Rotate { finish: false } => {
                client.post("/internal/ca/rotate", &serde_json::Value::Null)?;
                print(
                    "the new bundle has a new CA beside the old one; the old CA still issues\ngive every sandbox the new bundle (sallyport ca export --bundle), then: sallyport ca rotate --finish\n",
                )
            }
            Self::Rotate { finish: true } => {
                client.post("/internal/ca/rotate/finish", &serde_json::Value::Null)?;
                print("the new CA issues from now on; the old CA stays trusted until the next change\n")
            }
        }
    }
}

fn show(pem: &str, json: bool) -> Result<(), Error> {
    let unreadable =
        |error: String| Error::Other(anyhow::anyhow!("cannot parse the gateway's response about its CAs: {error}"));
    let mut rows = Vec::new();
    for (index, pem) in Pem::iter_from_buffer(pem.as_bytes()).enumerate() {
        let pem = pem.map_err(|error| unreadable(error.to_string()))?;
        let certificate = pem.parse_x509().map_err(|error| unreadable(error.to_string()))?;
        let fingerprint: Vec<String> = Sha256::digest(&pem.contents).iter().map(|byte| format!("{byte:02X}")).collect();
        rows.push(serde_json::json!({
            "issues": index == 0,
            "subject": certificate.subject().to_string(),
            "not_after": certificate.validity().not_after.to_string(),
            "sha256": fingerprint.join(":"),
        }));
    }
    if json {
        return print(&format!("{}\n", serde_json::Value::Array(rows)));
    }
    let line = |row: &serde_json::Value| {
        let text = |key: &str| row[key].as_str().unwrap_or("-").to_owned();
        let role = if row["issues"] == true { "issues  " } else { "trusted " };
        format!("{role} {}  until {}\n         SHA-256 {}\n", text("subject"), text("not_after"), text("sha256"))
    };
    print(&rows.iter().map(line).collect::<String>())
}
