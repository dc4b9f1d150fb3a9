//! `ca export`.

use clap::Subcommand;

use super::client::Client;
use super::{Common, Error, print};

/// The certificate authority that sandboxes trust.
#[derive(Debug, Subcommand)]
pub enum Ca {
    /// Print the CA's certificate, PEM
    ///
    /// Example: sallyport ca export > sallyport-ca.pem
    Export {
        /// The system's roots as well, for clients that take one bundle and no more
        #[arg(long)]
        bundle: bool,
    },
}

impl Ca {
    pub(super) fn run(self, common: &Common) -> Result<(), Error> {
        let config = common.config()?;
        let Self::Export { bundle } = self;
        let certificate = Client::new(config.admin).get("/ca.pem")?;
        if bundle {
            print(&config.roots_pem()?)?;
        }
        print(&certificate)
    }
}
