//! The sources of a credential's value: a variable, a file that is read again after a change, the output of a command,
//! GitHub for an App.
//!
//! A value is wrapped as a secret here. Messages about a problem name the source, and never the value.

pub mod app;
mod command;
mod file;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use policy::{Container, Repo};
use secrecy::SecretString;
use secrecy::zeroize::Zeroizing;

use super::format::Format;
use super::oauth::Login;
use super::placeholder;

/// The longest value, in bytes. Many servers accept no header over 8 KiB, and a key has some hundred bytes.
const MAX_VALUE: usize = 8 << 10;

/// The container for which a value is, and the repository of the request, if any.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The container.
    pub container: &'a Container,
    /// One of the container's repositories.
    pub repo: Option<&'a Repo>,
}

/// A source of one value.
#[derive(Debug)]
pub struct Source {
    origin: Origin,
    problem: Mutex<Option<String>>,
}

#[derive(Debug)]
enum Origin {
    /// The variables are read once, at start.
    Variables {
        names: Vec<String>,
        value: Option<Arc<SecretString>>,
    },
    File(file::File),
    Command(Arc<command::Command>),
    Login(Arc<Login>),
    App(Arc<app::App>),
}

/// The reason why a source has no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// The operator has set no value.
    Absent,
    /// The source fails. [`Source::problem`] has the reason.
    Failed,
    /// The source has values for repositories only, and the request or the container has no repository.
    NoRepository,
}

/// The result of reading a source: a value, `None` if the operator has set no value, or the reason of a failure.
type Reading = Result<Option<Arc<SecretString>>, String>;

impl Source {
    /// The first of these variables that is set. A variable that is empty or holds the placeholder counts as unset: the
    /// gateway may be started from a shell that was set up as a sandbox.
    pub fn variables_of(
        names: Vec<String>,
        format: &Format,
        environment: &dyn Fn(&str) -> Option<std::ffi::OsString>,
    ) -> Self {
        use std::os::unix::ffi::OsStringExt;
        let mut problem = None;
        let mut value = None;
        for name in &names {
            match accept(environment(name).unwrap_or_default().into_vec(), format) {
                Ok(None) => {}
                Ok(found) => {
                    value = found;
                    break;
                }
                Err(error) => {
                    problem = Some(format!("the variable {name} {error}"));
                    break;
                }
            }
        }
        Self { origin: Origin::Variables { names, value }, problem: Mutex::new(problem) }
    }

    /// The content of a file.
    pub fn file(path: PathBuf) -> Self {
        Self { origin: Origin::File(file::File::new(path)), problem: Mutex::default() }
    }

    /// The output of a command, cached for `ttl`.
    pub fn command(program: String, arguments: Vec<String>, ttl: Duration) -> Self {
        let command = command::Command::new(program, arguments, ttl);
        Self { origin: Origin::Command(Arc::new(command)), problem: Mutex::default() }
    }

    /// A login that the gateway refreshes.
    pub fn login(login: Arc<Login>) -> Self {
        Self { origin: Origin::Login(login), problem: Mutex::default() }
    }

    /// The login, if the source is a login.
    pub fn as_login(&self) -> Option<&Arc<Login>> {
        match &self.origin {
            Origin::Login(login) => Some(login),
            _ => None,
        }
    }

    /// The tokens of a GitHub App.
    pub fn app(app: Arc<app::App>) -> Self {
        Self { origin: Origin::App(app), problem: Mutex::default() }
    }

    /// A source that always fails, for the reason `problem`. `names` are the variables that an operator can set.
    pub fn broken(names: Vec<String>, problem: String) -> Self {
        Self { origin: Origin::Variables { names, value: None }, problem: Mutex::new(Some(problem)) }
    }

    /// The App, if the source is an App.
    pub fn as_app(&self) -> Option<&app::App> {
        match &self.origin {
            Origin::App(app) => Some(app),
            _ => None,
        }
    }

    /// The current value, checked against `format`. Only an App uses `subject`. `name` is the credential's name, for
    /// the log.
    ///
    /// # Errors
    /// If the source has no value.
    pub async fn value(
        &self,
        name: &str,
        format: &Format,
        subject: Option<Subject<'_>>,
    ) -> Result<Arc<SecretString>, Unavailable> {
        match &self.origin {
            Origin::Variables { value: Some(value), .. } => Ok(Arc::clone(value)),
            Origin::Variables { .. } if self.problem().is_some() => Err(Unavailable::Failed),
            Origin::Variables { .. } => Err(Unavailable::Absent),
            Origin::File(file) => {
                let (reading, warning) = file.read(format).await;
                self.report(name, reading.as_ref().err().cloned().or(warning));
                reading.map_err(|_| Unavailable::Failed)?.ok_or(Unavailable::Absent)
            }
            Origin::Command(command) => {
                let (value, problem) = command.value(format).await;
                self.report(name, problem);
                value.ok_or(Unavailable::Failed)
            }
            Origin::Login(login) => login.value().await.ok_or(Unavailable::Failed),
            Origin::App(app) => app.value(subject).await,
        }
    }

    /// Whether the source has a value now. A command, a login and an App always count as having a value.
    pub fn has_value(&self, name: &str, format: &Format) -> bool {
        match &self.origin {
            Origin::Variables { value, .. } => value.is_some(),
            Origin::File(file) => {
                let (reading, warning) = file.read_now(format);
                self.report(name, reading.as_ref().err().cloned().or(warning));
                matches!(reading, Ok(Some(_)))
            }
            Origin::Command(_) | Origin::Login(_) | Origin::App(_) => true,
        }
    }

    /// The variables that an operator can set.
    pub fn variables(&self) -> &[String] {
        match &self.origin {
            Origin::Variables { names, .. } => names,
            Origin::File(_) | Origin::Command(_) | Origin::Login(_) | Origin::App(_) => &[],
        }
    }

    /// The known problem of the source.
    pub fn problem(&self) -> Option<String> {
        match &self.origin {
            Origin::App(app) => app.problem(),
            Origin::Login(login) => login.problem(),
            _ => self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// Stores the problem, and logs a change.
    fn report(&self, name: &str, now: Option<String>) {
        let mut known = self.problem.lock().unwrap_or_else(PoisonError::into_inner);
        if *known == now {
            return;
        }
        match &now {
            Some(problem) => tracing::warn!(credential = name, problem, "the source of a credential has a problem"),
            None => tracing::info!(credential = name, "the source of a credential works again"),
        }
        *known = now;
    }
}

/// Checks the bytes that a source returned, and trims white space. Returns `None` if the rest is empty or a placeholder.
///
/// # Errors
/// If the value is too long or not allowed in `format`. The error is the problem, to be shown after the source's name.
fn accept(bytes: Vec<u8>, format: &Format) -> Result<Option<Arc<SecretString>>, String> {
    let bytes = Zeroizing::new(bytes);
    let text = str::from_utf8(&bytes).map_err(|_| "is not UTF-8 text")?.trim();
    if text.is_empty() || placeholder::is_in(text) {
        return Ok(None);
    }
    if text.len() > MAX_VALUE {
        return Err(format!("is longer than {MAX_VALUE} bytes"));
    }
    format.accepts(text)?;
    Ok(Some(Arc::new(SecretString::from(text))))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

    fn taken(bytes: &[u8]) -> Result<Option<String>, String> {
        let value = accept(bytes.to_vec(), &Format::parse("Bearer {}").unwrap())?;
        Ok(value.map(|value| value.expose_secret().to_owned()))
    }

    #[test]
    fn a_value_is_taken_without_what_is_around_it_and_up_to_the_limit() {
        assert_eq!(taken(b"K\n").unwrap().unwrap(), "K");
        assert_eq!(taken(b" K \r\n").unwrap().unwrap(), "K");
        assert_eq!(taken(b"\n").unwrap(), None);
        for name in
            ["GITHUB_TOKEN", "ANTHROPIC_API_KEY", "CLAUDE_CODE_OAUTH_TOKEN", "OPENAI_API_KEY", "GEMINI_API_KEY", "X"]
        {
            assert_eq!(taken(placeholder::of(name).as_bytes()).unwrap(), None, "{name}");
        }
        assert!(taken(&[b'k'; MAX_VALUE]).is_ok());
        assert!(taken(&[b'k'; MAX_VALUE + 1]).is_err());
    }

    #[test]
    fn what_is_wrong_with_a_value_is_told_without_it() {
        for bytes in [&b"se\ncret"[..], b"se\xffcret", b"se\0cret", "sécret".as_bytes(), &[b'x'; MAX_VALUE + 1]] {
            let problem = taken(bytes).unwrap_err();
            assert!(!problem.contains("se") && !problem.contains("cret") && !problem.contains("xx"), "{problem}");
        }
    }

    #[test]
    fn the_first_variable_that_is_set_counts() {
        let format = Format::parse("{}").unwrap();
        let source = |environment: &'static [(&str, &str)]| {
            let get = |name: &str| environment.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
            Source::variables_of(vec!["A".into(), "B".into()], &format, &get)
        };
        let value = |source: Source| match source.origin {
            Origin::Variables { value, .. } => value.map(|value| value.expose_secret().to_owned()),
            _ => None,
        };
        assert_eq!(value(source(&[("A", "1"), ("B", "2")])).unwrap(), "1");
        assert_eq!(value(source(&[("A", " "), ("B", "2")])).unwrap(), "2");
        assert_eq!(value(source(&[("A", placeholder::PLACEHOLDER), ("B", "2")])).unwrap(), "2");
        assert_eq!(value(source(&[])), None);
        let broken = source(&[("A", "se\ncret"), ("B", "2")]);
        assert_eq!(broken.problem().unwrap(), "the variable A holds a character that no header can carry");
        assert_eq!(value(broken), None, "the next is not taken in its place");
    }
}
