//! Where a credential's value comes from: `from:` with `env`, `file`, `command` or `app`, and the variables of a
//! built-in one.

use std::cell::RefCell;
use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::super::built_in::{self, BuiltIn};
use super::super::entry::Injection;
use super::super::format::Format;
use super::super::oauth::Login;
use super::super::source::Source;
use super::super::source::app::{App, Settings};
use super::FieldError;
use super::location::{read_format, read_header};
use super::shape::{Names, RawSource, Ttl};

/// How long the output of a command is used if `ttl` is absent.
const DEFAULT_TTL: Duration = Duration::from_secs(300);

/// Makes the sources of all credentials of one configuration.
pub struct Sources<'a> {
    /// The directory that paths are relative to.
    pub base: &'a Path,
    /// The value of a variable.
    pub environment: &'a dyn Fn(&str) -> Option<OsString>,
    /// Each App once, so that its tokens serve all credentials.
    apps: RefCell<Vec<Arc<App>>>,
    /// Each login once: two tasks must not spend one refresh token.
    pub(super) logins: RefCell<Vec<Arc<Login>>>,
}

impl<'a> Sources<'a> {
    /// No App and no login yet.
    pub fn new(base: &'a Path, environment: &'a dyn Fn(&str) -> Option<OsString>) -> Self {
        Self { base, environment, apps: RefCell::default(), logins: RefCell::default() }
    }

    /// The value of the variable `name`; `None` if it is unset or empty.
    pub fn variable(&self, name: &str) -> Option<OsString> {
        (self.environment)(name).filter(|value| !value.is_empty())
    }

    /// Reads `from` for a value that is put in as `format`. Returns the source, and the variables that it reads.
    ///
    /// # Errors
    /// If `from` is not exactly one of `env`, `file`, `command` and `app`, or its value is wrong.
    pub fn read(
        &self,
        from: &RawSource,
        format: &Format,
        built_in: Option<&BuiltIn>,
    ) -> Result<(Source, Vec<String>), FieldError> {
        if from.provider.is_some() || from.client_id.is_some() || from.client_secret.is_some() {
            return Err(FieldError::new("from", "provider, client_id and client_secret are for oauth"));
        }
        if from.ttl.is_some() && from.command.is_none() {
            let problem = "is for a command; variables are read once and files when they change";
            return Err(FieldError::new("from.ttl", problem));
        }
        match (&from.env, &from.file, &from.command, &from.app) {
            (Some(names), None, None, None) => {
                let names = read_names(names)?;
                Ok((Source::variables_of(names.clone(), format, self.environment), names))
            }
            (None, Some(path), None, None) => Ok((Source::file(self.base.join(path)), Vec::new())),
            (None, None, Some(command), None) => Ok((self.command(command, from.ttl)?, Vec::new())),
            (None, None, None, Some(app)) if built_in.is_some_and(BuiltIn::is_github) => {
                let settings = app.check(self.base).map_err(|problem| FieldError::new("from.app.id", problem))?;
                Ok((self.app(settings), Vec::new()))
            }
            (None, None, None, Some(_)) => Err(FieldError::new("from.app", "is for github, github-git and github-api")),
            _ => Err(FieldError::new("from", "expected one of env, file, command, oauth and app")),
        }
    }

    /// The injection of a built-in credential that reads variables.
    ///
    /// # Errors
    /// If the built-in header or format is not one (a bug, which a test of all built-in credentials finds).
    pub fn variable_injection(&self, injection: &built_in::HeaderInjection) -> Result<Injection, FieldError> {
        let format = read_format(injection.format)?;
        let variables: Vec<String> = injection.variables.iter().map(|name| (*name).to_owned()).collect();
        let source = Source::variables_of(variables.clone(), &format, self.environment);
        Ok(Injection { source, location: read_header(injection.header)?, format, variables })
    }

    /// The injection of a GitHub App that variables name: the last of `built_in`, with another source. `None` if no
    /// variable of an App is set.
    ///
    /// # Errors
    /// See [`Sources::variable_injection`].
    pub fn app_injection(&self, built_in: &BuiltIn) -> Result<Option<Injection>, FieldError> {
        let source = match Settings::of_variables(self.environment) {
            Ok(None) => return Ok(None),
            Ok(Some(settings)) => self.app(settings),
            Err(problem) => Source::broken(Settings::VARIABLES.map(str::to_owned).into(), problem),
        };
        let Some(last) = built_in.injections.last() else { return Ok(None) };
        Ok(Some(Injection { source, ..self.variable_injection(last)? }))
    }

    fn app(&self, settings: Settings) -> Source {
        let mut apps = self.apps.borrow_mut();
        let known = apps.iter().find(|app| *app.settings() == settings).map(Arc::clone);
        Source::app(known.unwrap_or_else(|| {
            let app = Arc::new(App::new(settings));
            apps.push(Arc::clone(&app));
            app
        }))
    }

    fn command(&self, command: &[String], ttl: Option<Ttl>) -> Result<Source, FieldError> {
        let (program, arguments) = command
            .split_first()
            .filter(|(program, _)| !program.is_empty())
            .ok_or_else(|| FieldError::new("from.command", "names no program"))?;
        // A path is relative to the configuration file; a bare name is looked up in PATH.
        let program =
            if program.contains('/') { self.base.join(program).display().to_string() } else { program.clone() };
        let ttl = ttl.map_or(DEFAULT_TTL, |Ttl(ttl)| ttl);
        Ok(Source::command(program, arguments.to_vec(), ttl))
    }
}

fn read_names(names: &Names) -> Result<Vec<String>, FieldError> {
    let names = match names {
        Names::One(name) => vec![name.clone()],
        Names::Several(names) => names.clone(),
    };
    if let Some(name) = names.iter().find(|name| !is_variable(name)) {
        return Err(FieldError::new("from.env", format!("invalid name of a variable: {name:?}")));
    }
    if names.is_empty() {
        return Err(FieldError::new("from.env", "names no variable"));
    }
    Ok(names)
}

fn is_variable(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::tests::{credentials_of, entry};
    use crate::Credentials;

    #[test]
    fn an_app_of_variables_is_the_last_way_of_github_and_one_for_both() {
        let app = &[("GITHUB_APP_ID", "5"), ("GITHUB_APP_PRIVATE_KEY_FILE", "/k.pem")];
        let of = |credentials: &Credentials, host: &str| {
            let injections = &entry(credentials, host).unwrap().injections;
            let source = &injections.last().unwrap().source;
            (injections.len(), source.as_app().map(std::ptr::from_ref), source.problem())
        };
        let none = credentials_of("{}", &[]).unwrap();
        assert_eq!((of(&none, "github.com").0, of(&none, "github.com").1), (1, None));
        let variables = credentials_of("{}", app).unwrap();
        let (git, api) = (of(&variables, "github.com"), of(&variables, "api.github.com"));
        assert_eq!(git.0, 2);
        assert!(git.1.is_some() && git.1 == api.1, "tokens are good for both");
        assert!(git.2.unwrap().contains("/k.pem is not there"));
        assert_eq!(of(&variables, "api.openai.com").1, None);
        let mut looked_for = variables.placeholders();
        looked_for.retain(|name| name.starts_with("GITHUB") || name.starts_with("GH_"));
        assert_eq!(looked_for, ["GH_TOKEN", "GITHUB_TOKEN"]);
        let written = credentials_of("github: {from: {app: {id: 5, key: k.pem}}}", &[]).unwrap();
        assert!(
            of(&written, "github.com").1.is_some() && of(&written, "github.com").1 == of(&written, "api.github.com").1
        );
        assert_eq!(of(&written, "github.com").0, 1);
        let half = credentials_of("{}", &[("GITHUB_APP_ID", "5")]).unwrap();
        assert!(of(&half, "github.com").2.unwrap().contains("GITHUB_APP_PRIVATE_KEY_FILE is not set"));
        let elsewhere = credentials_of("openai: {from: {app: {id: 5, key: k}}}", &[]).unwrap_err();
        assert!(elsewhere.starts_with("openai.from.app: "), "{elsewhere}");
    }
}
