//! The files that a gateway needs: policy, state directory, CA, Envoy, filters.

use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::{Context, Finding};
use crate::{envoy, live};
use config::policy_file;

/// A CA that expires within this number of days is a warning.
const CA_WARNING_DAYS: i64 = 60;

/// Whether the policy file can be used.
pub fn policy(context: &Context) -> Vec<Finding> {
    let config = &context.config;
    vec![match policy_file::load(&config.policy_file, &config.credentials) {
        Ok(_) if !config.policy_file.exists() => Finding::warn(
            "policy",
            format!("{} does not exist, so nothing is allowed", config.policy_file.display()),
            "write a policy; config/policy.yaml.example explains the format",
        ),
        Ok(policy) => match policy.github.branches.warning() {
            Some(warning) => Finding::warn("policy", warning, "list the branches that no container may move"),
            None => Finding::ok("policy", format!("understood, version {}", policy.version)),
        },
        Err(error) => Finding::fail("policy", error, "correct the file"),
    }]
}

/// Whether the state directory can be used, and only its owner can read its secrets.
pub fn state(context: &Context) -> Vec<Finding> {
    vec![match &context.state_dir {
        Ok(directory) => state_in(directory, context.gateway.is_some()),
        Err(error) => Finding::fail("state", error, "name a state directory"),
    }]
}

/// `running` says that a gateway runs.
fn state_in(directory: &Path, running: bool) -> Finding {
    let shown = directory.display();
    let metadata = match std::fs::metadata(directory) {
        Ok(metadata) if metadata.is_dir() => metadata,
        Ok(_) => return Finding::fail("state", format!("{shown} is no directory"), "name another path"),
        Err(error) if error.kind() == ErrorKind::NotFound && running => {
            let found = format!("{shown} does not exist, although a gateway runs");
            return Finding::fail(
                "state",
                found,
                "put it back before the gateway stops, or name its own by --state-dir",
            );
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Finding::ok("state", format!("{shown} does not exist yet; the first start creates it"));
        }
        Err(error) => return Finding::fail("state", format!("{shown}: {error}"), "make it readable for you"),
    };
    let me = rustix::process::geteuid().as_raw();
    if metadata.uid() != me {
        let found = format!("{shown} belongs to user {}, and you are {me}", metadata.uid());
        return Finding::warn("state", found, "run doctor as the user who runs the gateway");
    }
    let open = |metadata: &Metadata| metadata.permissions().mode() & 0o077 != 0;
    let mut secret: Vec<PathBuf> = ["ca.key", "ca-next.key", "admin-token", "redirect.key", "registry.redb"]
        .map(|name| directory.join(name))
        .into();
    let tokens = std::fs::read_dir(directory.join("tokens")).into_iter().flatten().flatten();
    secret.extend(tokens.map(|entry| entry.path()));
    secret.push(directory.join("run"));
    let exposed: Vec<String> = secret
        .iter()
        .filter(|path| std::fs::metadata(path).is_ok_and(|metadata| open(&metadata)))
        .map(|path| path.display().to_string())
        .collect();
    if !exposed.is_empty() {
        let found = format!("other users may use {}", exposed.join(", "));
        return Finding::fail("state", found, format!("chmod go= {}", exposed.join(" ")));
    }
    match rustix::fs::access(directory, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK) {
        Ok(()) => Finding::ok("state", format!("{shown}; only you can read its secrets")),
        Err(error) => Finding::fail("state", format!("{shown} cannot be written: {error}"), "make it writable"),
    }
}

/// Whether the CA's certificate is valid, and for how long. No finding if there is no state directory.
pub fn ca(context: &Context) -> Vec<Finding> {
    context.state_dir.iter().map(|directory| ca_in(directory, context.gateway.is_some())).collect()
}

/// `running` says that a gateway runs.
fn ca_in(directory: &Path, running: bool) -> Finding {
    let path = directory.join("ca.pem");
    let shown = path.display();
    let pem = match std::fs::read(&path) {
        Ok(pem) => pem,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return if directory.join("ca.key").exists() {
                Finding::fail("ca", format!("{shown} is missing, but its key exists"), "restore the certificate")
            } else if running {
                let found = format!("{shown} is missing, although a gateway runs");
                Finding::fail("ca", found, "restore it and ca.key; else the next start creates another CA")
            } else {
                Finding::ok("ca", "no CA yet; the first start creates it")
            };
        }
        Err(error) => return Finding::fail("ca", format!("{shown}: {error}"), "make it readable for you"),
    };
    let valid = x509_parser::pem::parse_x509_pem(&pem).ok().and_then(|(_, pem)| {
        let validity = pem.parse_x509().ok()?.validity().clone();
        Some((validity.not_before.timestamp(), validity.not_after.timestamp()))
    });
    let Some((from, until)) = valid else {
        return Finding::fail("ca", format!("{shown} is no certificate"), "restore the certificate");
    };
    let now = Timestamp::now().as_second();
    let days = (until - now) / 86_400;
    match until {
        _ if now < from => Finding::fail("ca", format!("{shown} is not valid yet"), "set this machine's clock"),
        _ if until < now => {
            Finding::fail("ca", format!("{shown} has expired"), "create a new CA: `sallyport ca rotate`")
        }
        _ if days < CA_WARNING_DAYS => {
            Finding::warn("ca", format!("{shown} expires in {days} days"), "replace it before: `sallyport ca rotate`")
        }
        _ => Finding::ok("ca", format!("{shown}, valid for {days} more days")),
    }
}

/// Whether Envoy is installed, in the supported release.
pub fn envoy(context: &Context) -> Vec<Finding> {
    vec![match envoy::find(context.envoy.clone()) {
        Ok((program, version)) => Finding::ok("envoy", format!("{version}, {}", program.display())),
        Err(error) => Finding::fail("envoy", error, "`make up` fetches it"),
    }]
}

/// Whether the filters' module exists.
pub fn filters(context: &Context) -> Vec<Finding> {
    vec![match live::Filters::find(context.filters.clone()).and_then(|filters| filters.read()) {
        Ok(module) => Finding::ok("filters", format!("{}, {} KiB", live::MODULE, module.len() >> 10)),
        Err(error) => Finding::fail("filters", format!("{error:#}"), "run `make build`"),
    }]
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn secrets_that_others_can_read_fail() {
        let directory = tempfile::tempdir().unwrap();
        let key = directory.path().join("ca.key");
        std::fs::write(&key, "").unwrap();
        let mode = |mode| std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).unwrap();
        mode(0o640);
        let found = state_in(directory.path(), true);
        assert_eq!(found.state, State::Fail);
        assert!(found.todo.starts_with("chmod go= /") && found.todo.ends_with("ca.key"), "{found:?}");
        mode(0o600);
        assert_eq!(state_in(directory.path(), true).state, State::Ok);
        assert_eq!(state_in(&directory.path().join("none"), false).state, State::Ok);
        assert_eq!(state_in(&directory.path().join("none"), true).state, State::Fail);
        assert_eq!(state_in(&key, true).state, State::Fail);
    }

    #[test]
    fn a_ca_is_looked_at() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(ca_in(directory.path(), false).state, State::Ok);
        assert_eq!(ca_in(directory.path(), true).state, State::Fail);
        ::ca::issuer::Issuer::open(directory.path()).unwrap();
        let found = ca_in(directory.path(), false);
        assert!(found.state == State::Ok && found.found.contains("more days"), "{found:?}");
        std::fs::write(directory.path().join("ca.pem"), "-----BEGIN NONSENSE").unwrap();
        assert_eq!(ca_in(directory.path(), false).state, State::Fail);
        std::fs::remove_file(directory.path().join("ca.pem")).unwrap();
        assert_eq!(ca_in(directory.path(), false).state, State::Fail, "the key alone");
        let mut params = rcgen::CertificateParams::default();
        let now = time::OffsetDateTime::now_utc();
        for (from, until, expected) in [(-9, -1, State::Fail), (-9, 9, State::Warn), (1, 900, State::Fail)] {
            params.not_before = now + time::Duration::days(from);
            params.not_after = now + time::Duration::days(until);
            let pem = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem();
            std::fs::write(directory.path().join("ca.pem"), pem).unwrap();
            assert_eq!(ca_in(directory.path(), false).state, expected, "{from}..{until}");
        }
    }
}
