//! Logins as sources: `from: {oauth: …}`, the variables that name a login's file, and the token endpoints for which the
//! gateway responds.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use policy::{HostName, HostPattern};
use secrecy::SecretString;

use super::super::entry::{Admits, Entry, Injection, Location};
use super::super::oauth::Login;
use super::super::oauth::endpoint::Client;
use super::super::oauth::provider::{self, Layout, Program, Service};
use super::super::scope::Scope;
use super::super::source::Source;
use super::FieldError;
use super::location::{read_format, read_header};
use super::shape::{RawEntry, RawSource};
use super::source::Sources;

/// Where a login stands in a request if the entry doesn't say.
const HEADER: &str = "authorization";
const FORMAT: &str = "Bearer {}";

impl Sources<'_> {
    /// The injection of the login that `raw` names: `program`'s, with `from` beside it.
    ///
    /// # Errors
    /// If a key stands beside `oauth` that is for another source, or a required key is absent.
    pub fn login_injection(
        &self,
        name: &str,
        program: Program,
        from: &RawSource,
        raw: &RawEntry,
    ) -> Result<Injection, FieldError> {
        if from.env.is_some() || from.command.is_some() || from.ttl.is_some() || from.app.is_some() {
            return Err(FieldError::new("from", "beside oauth stand file, provider, client_id and client_secret"));
        }
        let layout = layout(program, from.provider.as_deref())?;
        let file = from.file.clone().or_else(|| self.variable(program.variable()).map(PathBuf::from));
        let file = file.ok_or_else(|| {
            let problem = format!("is required, or the variable {} that names it", program.variable());
            FieldError::new("from.file", problem)
        })?;
        let client = self.client(from, &layout)?;
        if raw.query.is_some() {
            return Err(FieldError::new("query", "a login stands in a header"));
        }
        let location = read_header(raw.header.as_deref().unwrap_or(HEADER))?;
        let format = read_format(raw.format.as_deref().unwrap_or(FORMAT))?;
        let source = self.login(name, layout, &file, client)?;
        let placeholder = provider::built_in(name).and_then(|built_in| built_in.placeholder);
        Ok(Injection { source, location, format, variables: placeholder.map(str::to_owned).into_iter().collect() })
    }

    /// The injection of the login that the built-in credential `name` may have. `None` if it has none.
    ///
    /// If the variable that names the login's file is unset, the source has no value, and names the variable.
    ///
    /// # Errors
    /// See [`Sources::login_injection`].
    pub fn built_in_login_injection(&self, name: &str) -> Result<Option<Injection>, FieldError> {
        let Some(provider::BuiltIn { program, .. }) = provider::built_in(name) else { return Ok(None) };
        if self.variable(program.variable()).is_none() {
            let format = read_format(FORMAT)?;
            let source = Source::variables_of(vec![program.variable().to_owned()], &format, &|_| None);
            return Ok(Some(Injection {
                source,
                location: Location::Header(HEADER.to_owned()),
                format,
                variables: Vec::new(),
            }));
        }
        let from = RawSource { oauth: Some(program), ..RawSource::default() };
        self.login_injection(name, program, &from, &RawEntry::default()).map(Some)
    }

    /// The OAuth client that refreshes the login. `None` if the gateway doesn't know the service.
    fn client(&self, from: &RawSource, layout: &Layout) -> Result<Option<Client>, FieldError> {
        let text = |name: &str| self.variable(name).and_then(|value| value.into_string().ok());
        let google = layout.service() == Some(Service::Google);
        let id = from.client_id.clone().or_else(|| layout.service().and_then(Service::client_id).map(str::to_owned));
        let id = id.or_else(|| google.then(|| text("GEMINI_OAUTH_CLIENT_ID")).flatten());
        let secret: Option<SecretString> = from
            .client_secret
            .clone()
            .or_else(|| google.then(|| text("GEMINI_OAUTH_CLIENT_SECRET").map(Into::into)).flatten());
        if google && (id.is_none() || secret.is_none()) {
            let problem = "and from.client_secret are required for Gemini CLI, or the variables \
                           GEMINI_OAUTH_CLIENT_ID and GEMINI_OAUTH_CLIENT_SECRET: the values that Gemini CLI contains";
            return Err(FieldError::new("from.client_id", problem));
        }
        Ok(id.map(|id| Client { id, secret }))
    }

    /// The login in `file`, made once for all credentials that name it.
    fn login(&self, name: &str, layout: Layout, file: &Path, client: Option<Client>) -> Result<Source, FieldError> {
        let (mut logins, file) = (self.logins.borrow_mut(), self.base.join(file));
        let Some(known) = logins.iter().find(|login| login.is_of(&layout, &file)) else {
            let login = Arc::new(Login::new(name, layout, file, client));
            logins.push(Arc::clone(&login));
            return Ok(Source::login(login));
        };
        let id = |client: Option<&Client>| client.map(|client| client.id.clone());
        if id(known.client()) != id(client.as_ref()) {
            return Err(FieldError::new("from.client_id", "is another one than elsewhere for the same file"));
        }
        Ok(Source::login(Arc::clone(known)))
    }
}

fn layout(program: Program, provider: Option<&str>) -> Result<Layout, FieldError> {
    match (program, provider) {
        (Program::OpenCode, Some(provider)) => Ok(Layout::OpenCode(provider.to_owned())),
        (Program::OpenCode, None) => {
            Err(FieldError::new("from.provider", "is required: the name of a login in OpenCode's file"))
        }
        (_, Some(_)) => Err(FieldError::new("from.provider", "is for OpenCode, whose file has several logins")),
        (Program::Codex, None) => Ok(Layout::Codex),
        (Program::Gemini, None) => Ok(Layout::Gemini),
        (Program::Claude, None) => Ok(Layout::Claude),
    }
}

/// Adds an entry for each token endpoint of the logins in `entries`: the gateway itself responds there. A host that
/// has an entry keeps it.
pub fn add_token_endpoints(entries: &mut BTreeMap<HostPattern, Entry>) {
    let services: BTreeSet<Service> =
        entries.values().flat_map(Entry::logins).filter_map(|login| login.service()).collect();
    for service in services {
        for (name, _) in service.endpoints() {
            let Ok(host) = HostName::parse(name.as_bytes()) else { continue };
            if entries.keys().any(|taken| taken.covers(&host)) {
                continue;
            }
            let host = HostPattern::Exact(host);
            let entry = Entry {
                name: (*name).to_owned(),
                group: None,
                admits: Admits::default(),
                host: host.clone(),
                scope: Scope::TokenEndpoint(service),
                permits: None,
                injections: Vec::new(),
            };
            entries.insert(host, entry);
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::tests::{credentials, credentials_of, entry};
    use super::*;
    use crate::Credentials;

    #[test]
    fn a_login_is_the_first_way_of_a_built_in_one_and_the_gateway_answers_for_its_token_endpoint() {
        let of = |yaml: &str, set: &[(&str, &str)]| credentials_of(yaml, set).unwrap();
        let login = |credentials: &Credentials, host: &str| {
            let logins: Vec<_> = entry(credentials, host).unwrap().logins().map(|login| login.service()).collect();
            logins
        };
        let answered = |credentials: &Credentials, host: &str| {
            entry(credentials, host).is_some_and(|entry| matches!(entry.scope, Scope::TokenEndpoint(_)))
        };
        let none = of("{}", &[]);
        assert_eq!(login(&none, "chatgpt.com"), []);
        assert!(!answered(&none, "auth.openai.com"));

        let variables = of("{}", &[("CODEX_AUTH_FILE", "/codex"), ("CLAUDE_OAUTH_FILE", "/claude")]);
        assert_eq!(login(&variables, "chatgpt.com"), [Some(Service::OpenAi)]);
        assert_eq!(login(&variables, "api.anthropic.com"), [Some(Service::Anthropic)]);
        assert!(
            entry(&variables, "api.anthropic.com").unwrap().injections.len() > 1,
            "a key is taken where there is no login"
        );
        for host in ["auth.openai.com", "console.anthropic.com", "platform.claude.com"] {
            assert!(answered(&variables, host), "{host}");
        }
        assert!(!answered(&variables, "oauth2.googleapis.com"));

        let gemini = "gemini-cli: {from: {oauth: gemini, file: a, client_id: i, client_secret: s}}";
        assert_eq!(login(&of(gemini, &[]), "cloudcode-pa.googleapis.com"), [Some(Service::Google)]);
        let open = "openai: {from: {oauth: opencode, provider: openai, file: a}}";
        assert_eq!(login(&of(open, &[]), "api.openai.com"), [Some(Service::OpenAi)]);
        let other = "groq: {from: {oauth: opencode, provider: groq, file: a}}";
        assert_eq!(login(&of(other, &[]), "api.groq.com"), [None], "used to its end");
        let own = "mine: {host: auth.openai.com, from: {env: X}}";
        assert!(!answered(&of(own, &[("CODEX_AUTH_FILE", "/codex")]), "auth.openai.com"), "the operator's stays");
    }

    #[test]
    fn two_credentials_of_one_file_have_one_login() {
        let login = |credentials: &Credentials, host: &str| entry(credentials, host).unwrap().logins().next().cloned();
        let yaml = "openai: {from: {oauth: codex, file: /codex}}\ncodex: {from: {oauth: codex, file: /codex}}";
        let shared = credentials(yaml).unwrap();
        let [one, other] = ["api.openai.com", "chatgpt.com"].map(|host| login(&shared, host).unwrap());
        assert!(Arc::ptr_eq(&one, &other));
        let yaml = "openai: {from: {oauth: codex, file: /a}}\ncodex: {from: {oauth: codex, file: /b}}";
        let apart = credentials(yaml).unwrap();
        let [one, other] = ["api.openai.com", "chatgpt.com"].map(|host| login(&apart, host).unwrap());
        assert!(!Arc::ptr_eq(&one, &other));
        let yaml = "openai: {from: {oauth: codex, file: /a, client_id: x}}\ncodex: {from: {oauth: codex, file: /a}}";
        assert!(credentials(yaml).unwrap_err().contains("from.client_id: is another one"));
    }
}
