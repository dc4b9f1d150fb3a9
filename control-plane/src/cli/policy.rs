//! `policy check`, and the way to `policy explain`.

use std::path::PathBuf;

use clap::Subcommand;

use super::explain::Explain;
use super::{Common, Error, print};
use config::policy_file;

/// Check a policy file, and explain decisions.
#[derive(Debug, Subcommand)]
pub enum Policy {
    /// Read a policy file as the gateway does, and report its errors
    ///
    /// Exit 0, or 2 with file:line:column and the expected value. Example: sallyport policy check policy.yaml
    Check {
        /// The file [default: the configured policy file]
        file: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    Explain(Explain),
}

impl Policy {
    pub(super) fn run(self, common: &Common) -> Result<(), Error> {
        let (file, json) = match self {
            Self::Explain(explain) => return explain.run(common),
            Self::Check { file, json } => (file, json),
        };
        let config = common.config()?;
        let file = file.unwrap_or(config.policy_file);
        let shown = file.display().to_string();
        // For the gateway a missing file is a policy that allows nothing. For this command it is an error.
        if !file.exists() {
            return Err(Error::Usage(format!(
                "{shown}: the file does not exist, and without a policy nothing is allowed"
            )));
        }
        let policy = policy_file::load(&file, &config.credentials)?;
        let warning = policy.github.branches.warning();
        if let Some(warning) = warning {
            eprintln!("sallyport: warning: {shown}: {warning}");
        }
        if json {
            let said = serde_json::json!({
                "file": shown, "ok": true, "version": policy.version, "warnings": Vec::from_iter(warning),
            });
            print(&format!("{said}\n"))
        } else {
            print(&format!("{shown}: understood, version {}\n", policy.version))
        }
    }
}
