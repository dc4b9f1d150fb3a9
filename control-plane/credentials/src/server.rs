//! Envoy's ext_authz. The registry is read again at this last step, so that a container that was removed a millisecond
//! ago gets no credential.
//!
//! **Invariant:** a request gets a credential only if the earlier stages have judged that request, in this form and
//! under the record that is in force now ([`Marks::check`]). A read of a public repository has a mark of its own, and
//! gets none.

use std::net::IpAddr;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::{
    HeaderValue, HeaderValueOption, QueryParameter, address, header_value_option::HeaderAppendAction, socket_address,
};
use envoy_types::pb::envoy::service::auth::v3::authorization_server::{Authorization, AuthorizationServer};
use envoy_types::pb::envoy::service::auth::v3::{
    AttributeContext, CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse, check_response::HttpResponse,
};
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};
use envoy_types::pb::google::rpc::Status as RpcStatus;
use jiff::Timestamp;
use model::{Guard, OFF};
use policy::github;
use policy::mark::{self, Judged, Marks};
use policy::{Authority, CREDENTIAL_HEADERS, Container, Decided, Denial, Form, RULE_HEADER, Rule, Stage, render};
use secrecy::SecretString;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request as GrpcRequest, Response, Status};

use super::Credentials;
use super::budget::Account;
use super::calls::Calls;
use super::decide::{Grant, Request, decide, decide_public};
use super::entry::{Injection, Location};
use super::oauth::provider::Service;
use super::oauth::stub;
use super::scope::Scope;
use super::source::Subject;
use base::contract::{ACCOUNT_FIELD, GITHUB_MARK, IDENTITY_MARK};
use base::telemetry::{self, GithubCall};
use registry::Registry;

/// The header with the account of the token in requests of Codex.
const ACCOUNT: &str = "chatgpt-account-id";

/// The service.
#[derive(Debug)]
pub struct Server {
    registry: Arc<Registry>,
    credentials: Arc<Credentials>,
    calls: Arc<Calls>,
}

impl Server {
    /// Returns the tonic service.
    pub fn service(
        registry: Arc<Registry>,
        credentials: Arc<Credentials>,
        calls: Arc<Calls>,
    ) -> AuthorizationServer<Self> {
        AuthorizationServer::new(Self { registry, credentials, calls })
    }

    async fn judge(&self, attributes: &AttributeContext, marks: &Marks<'_>) -> Result<CheckResponse, Denial> {
        let unreadable = |what: &str| Denial::new(Rule::CredentialsUnreadable, what);
        let source = source(attributes).ok_or_else(|| unreadable("the source address is missing"))?;
        let http = attributes
            .request
            .as_ref()
            .and_then(|request| request.http.as_ref())
            .ok_or_else(|| unreadable("the request is missing"))?;
        let authority = Authority::parse(http.host.as_bytes()).map_err(|error| unreadable(&error.to_string()))?;
        let upgrade = http.headers.contains_key("upgrade");
        let request = Request { host: &authority.host, method: &http.method, path: http.path.as_bytes(), upgrade };
        let (_, container) = self.registry.lookup(source);
        if marks.are_public() {
            return self.public(container.as_deref(), request, marks, &http.path);
        }
        let grant = self.grant(container.as_deref(), request, marks)?;
        if let Scope::TokenEndpoint(service) = grant.entry.scope {
            return Ok(answer(service, grant.rule));
        }
        let subject = container.as_deref().map(|container| Subject { container, repo: grant.repo });
        let (injection, value) = grant.entry.value(subject).await?;
        // A source can take seconds. Meanwhile, the container may have been removed, or may have lost rights.
        let (_, container) = self.registry.lookup(source);
        let grant = self.grant(container.as_deref(), request, marks)?;
        let account = container
            .as_deref()
            .filter(|_| matches!(grant.entry.scope, Scope::GitHubApi))
            .map(|container| self.pay(container, &grant, injection, &value, &http.path))
            .transpose()?;
        telemetry::injected(&grant.entry.name);
        let target = (request.method, request.path);
        let guard = container
            .as_deref()
            .and_then(|known| self.credentials.guard(grant.entry, known, &self.registry.policy().egress, target));
        Ok(inject(&grant, request, (injection, &value), guard.as_ref(), account.as_ref()))
    }

    /// The permission to send `request` of `container` with its credential, by the policy and the time of this moment.
    ///
    /// # Errors
    /// If [`decide`] refuses the request. If an earlier stage has not judged it ([`Marks::check`]).
    fn grant<'c>(
        &self,
        container: Option<&'c Container>,
        request: Request<'_>,
        marks: &Marks<'_>,
    ) -> Result<Grant<'_, 'c>, Denial> {
        let entry = self.credentials.entry(request.host);
        let grant = decide(container, request, &self.registry.policy().egress, entry, Timestamp::now())?;
        marks.check(judged(container, request))?;
        Ok(grant)
    }

    /// Lets `request`, a read of a public repository, go out without a credential.
    ///
    /// # Errors
    /// If [`decide_public`] or a limit of the container refuses the request. If an earlier stage has not judged it
    /// ([`Marks::check_public`]).
    fn public(
        &self,
        container: Option<&Container>,
        request: Request<'_>,
        marks: &Marks<'_>,
        target: &str,
    ) -> Result<CheckResponse, Denial> {
        let parameters = decide_public(container, request, &self.registry.policy(), Timestamp::now())?;
        marks.check_public(judged(container, request))?;
        let api = github::kind(request.host) == Some(github::Kind::Api);
        let account = container.filter(|_| api).map(|container| {
            let admitted = self.calls.admit(container, &Account::Public, target, GithubCall::Sandbox);
            admitted.map(|()| Account::Public).map_err(|limited| limited.denial(Stage::Credentials))
        });
        let account = account.transpose()?;
        let ok = OkHttpResponse {
            headers_to_remove: CREDENTIAL_HEADERS.map(str::to_owned).to_vec(),
            query_parameters_to_remove: parameters,
            ..Default::default()
        };
        Ok(CheckResponse {
            status: Some(status(Code::Ok)),
            dynamic_metadata: Some(said(&Decided::allowed(Rule::CredentialsPublic), None, account.as_ref())),
            http_response: Some(HttpResponse::OkResponse(ok)),
        })
    }

    /// Counts a request of `container` to GitHub's API. Returns the account that pays for it.
    ///
    /// # Errors
    /// If a limit of the container refuses the request.
    fn pay(
        &self,
        container: &Container,
        grant: &Grant<'_, '_>,
        injection: &Injection,
        value: &SecretString,
        target: &str,
    ) -> Result<Account, Denial> {
        let account = self.calls.account(injection, value, Some(Subject { container, repo: grant.repo }));
        match self.calls.admit(container, &account, target, GithubCall::Sandbox) {
            Ok(()) => Ok(account),
            Err(limited) => Err(limited.denial(Stage::Credentials)),
        }
    }
}

/// The request, as the stages before have judged it if their marks stand.
fn judged<'a>(container: Option<&Container>, request: Request<'a>) -> Judged<'a> {
    Judged {
        // A request without a container is refused, whatever its marks.
        generation: container.map_or(0, |container| container.generation),
        host: request.host,
        method: request.method.as_bytes(),
        path: request.path,
    }
}

#[tonic::async_trait]
impl Authorization for Server {
    async fn check(&self, request: GrpcRequest<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let (metadata, _, check) = request.into_parts();
        let attributes = check.attributes.ok_or_else(|| Status::invalid_argument("the check has no attributes"))?;
        Ok(Response::new(match self.judge(&attributes, &marks(&metadata)).await {
            Ok(allowed) => allowed,
            Err(denial) => refuse(&denial, &attributes),
        }))
    }
}

/// The marks that Envoy sends with its call.
fn marks(metadata: &MetadataMap) -> Marks<'_> {
    let value = |name: &str| metadata.get(name).map_or(&[][..], |value| value.as_encoded_bytes());
    Marks { identity: value(IDENTITY_MARK), github: value(GITHUB_MARK) }
}

fn source(attributes: &AttributeContext) -> Option<IpAddr> {
    let address = attributes.source.as_ref()?.address.as_ref()?.address.as_ref()?;
    let address::Address::SocketAddress(socket) = address else { return None };
    // Only an address with a numeric port is a TCP peer.
    matches!(socket.port_specifier, Some(socket_address::PortSpecifier::PortValue(_))).then_some(())?;
    socket.address.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

fn inject(
    grant: &Grant<'_, '_>,
    request: Request<'_>,
    (injection, value): (&Injection, &SecretString),
    guard: Option<&Guard>,
    account: Option<&Account>,
) -> CheckResponse {
    // A guard always serialises. Empty text is no guard, so the model filter refuses the request.
    let guard = guard.map_or(OFF.to_owned(), |guard| serde_json::to_string(guard).unwrap_or_default());
    let filled = injection.fill(value);
    let sealed = Location::Header(mark::SEALED.to_owned());
    let at = if mark::seals(request.host) { &sealed } else { &injection.location };
    // Envoy removes headers and parameters after it has added others. An added one replaces all of the same name.
    let others = |location: &dyn Fn(String) -> Location, names: &mut dyn Iterator<Item = &str>| {
        names.map(str::to_owned).filter(|name| location(name.clone()) != *at).collect()
    };
    let mut ok = OkHttpResponse {
        headers_to_remove: others(&Location::Header, &mut CREDENTIAL_HEADERS.into_iter()),
        query_parameters_to_remove: others(&Location::Query, &mut grant.parameters.iter().map(String::as_str)),
        ..Default::default()
    };
    match at {
        Location::Header(name) => ok.headers.push(header(name, &filled)),
        Location::Query(name) => {
            ok.query_parameters_to_set.push(QueryParameter { key: name.clone(), value: filled });
        }
    }
    if let Some(login) = injection.source.as_login().filter(|login| login.names_account()) {
        match login.account() {
            Some(account) => ok.headers.push(header(ACCOUNT, &account)),
            None => ok.headers_to_remove.push(ACCOUNT.to_owned()),
        }
    }
    CheckResponse {
        status: Some(status(Code::Ok)),
        dynamic_metadata: Some(said(
            &Decided::allowed(grant.rule),
            Some((&injection.whereabouts(at), &guard)),
            account,
        )),
        http_response: Some(HttpResponse::OkResponse(ok)),
    }
}

/// The gateway's own response in place of a token endpoint's. To Envoy the response is a denial, because no request
/// goes to the upstream.
fn answer(service: Service, rule: Rule) -> CheckResponse {
    let decided = Decided { reason: "answered by the gateway".into(), ..Decided::allowed(rule) };
    let answered = DeniedHttpResponse {
        status: Some(HttpStatus { code: 200 }),
        headers: vec![header("content-type", "application/json"), header("cache-control", "no-store")],
        body: stub::body(service),
    };
    CheckResponse {
        status: Some(status(Code::PermissionDenied)),
        dynamic_metadata: Some(said(&decided, None, None)),
        http_response: Some(HttpResponse::DeniedResponse(answered)),
    }
}

fn refuse(denial: &Denial, attributes: &AttributeContext) -> CheckResponse {
    let http = attributes.request.as_ref().and_then(|request| request.http.as_ref());
    let form = http.map_or(Form::Json, |http| Form::of(http.host.as_bytes(), http.path.as_bytes()));
    let id = http.and_then(|http| http.headers.get("x-request-id")).map_or("-", String::as_str);
    let refusal = render(denial, form, id);
    let wait = refusal.retry_after.map(|seconds| header("retry-after", &seconds.to_string()));
    let headers = [header("content-type", refusal.content_type), header(RULE_HEADER, refusal.rule.name())];
    let denied = DeniedHttpResponse {
        status: Some(HttpStatus { code: refusal.status.into() }),
        headers: headers.into_iter().chain(wait).collect(),
        body: String::from_utf8_lossy(&refusal.body).into_owned(),
    };
    CheckResponse {
        status: Some(status(Code::PermissionDenied)),
        dynamic_metadata: Some(said(&denial.into(), None, None)),
        http_response: Some(HttpResponse::DeniedResponse(denied)),
    }
}

/// The dynamic metadata of a check: the decision and the account for the audit; with an added credential its place for the
/// scrub filter, and its guard for the model filter.
fn said(decided: &Decided, added: Option<(&str, &str)>, account: Option<&Account>) -> Struct {
    let text = |text: &str| Value { kind: Some(Kind::StringValue(text.into())) };
    let account = account.map(ToString::to_string);
    let added = added.into_iter().flat_map(|(place, guard)| [("place", place), ("guard", guard)]);
    let more = added.chain(account.as_deref().map(|account| (ACCOUNT_FIELD, account)));
    let fields = decided.words().into_iter().chain(more);
    Struct { fields: fields.map(|(key, value)| (key.to_owned(), text(value))).collect() }
}

fn header(key: &str, value: &str) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue { key: key.into(), value: value.into(), ..Default::default() }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..Default::default()
    }
}

fn status(code: Code) -> RpcStatus {
    RpcStatus { code: code as i32, ..Default::default() }
}
