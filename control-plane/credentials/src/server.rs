//! Envoy's ext_authz. The registry is read again at this last step, so that a container that was removed a millisecond
//! ago gets no credential.

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
use policy::{Authority, Decided, Denial, Form, RULE_HEADER, Rule, render};
use secrecy::SecretString;
use tonic::{Code, Request as GrpcRequest, Response, Status};

use super::Credentials;
use super::decide::{Grant, Request, decide};
use super::entry::{Injection, Location};
use super::oauth::provider::Service;
use super::oauth::stub;
use super::scope::Scope;
use super::source::Subject;
use base::contract::CREDENTIAL_HEADERS;
use base::telemetry;
use registry::Registry;

/// The header with the account of the token in requests of Codex.
const ACCOUNT: &str = "chatgpt-account-id";
/// How often a container's record may change while its value is fetched.
const CHANGES: usize = 3;

/// The service.
#[derive(Debug)]
pub struct Server {
    registry: Arc<Registry>,
    credentials: Arc<Credentials>,
}

impl Server {
    /// Returns the tonic service.
    pub fn service(registry: Arc<Registry>, credentials: Arc<Credentials>) -> AuthorizationServer<Self> {
        AuthorizationServer::new(Self { registry, credentials })
    }

    async fn judge(&self, attributes: &AttributeContext) -> Result<CheckResponse, Denial> {
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
        let mut found: Option<(u64, &Injection, Arc<SecretString>)> = None;
        for _ in 0..=CHANGES {
            let (_, container) = self.registry.lookup(source);
            let container = container.as_deref();
            let entry = self.credentials.entry(request.host);
            let grant = decide(container, request, &self.registry.policy().egress, entry, Timestamp::now())?;
            if let Scope::TokenEndpoint(service) = grant.entry.scope {
                return Ok(answer(service, grant.rule));
            }
            let generation = container.map_or(0, |container| container.generation);
            // A source can take seconds. Meanwhile, the container may have been removed, or may have lost rights. A
            // value for the earlier record may allow more than the current record does.
            if let Some((of, injection, value)) = &found
                && *of == generation
            {
                telemetry::injected(&grant.entry.name);
                return Ok(inject(&grant, injection, value));
            }
            let subject = container.map(|container| Subject { container, repo: grant.repo });
            let (injection, value) = grant.entry.value(subject).await?;
            found = Some((generation, injection, value));
        }
        Err(Denial::new(Rule::CredentialsSource, "the container's registration keeps changing; retry"))
    }
}

#[tonic::async_trait]
impl Authorization for Server {
    async fn check(&self, request: GrpcRequest<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let attributes =
            request.into_inner().attributes.ok_or_else(|| Status::invalid_argument("the check has no attributes"))?;
        Ok(Response::new(match self.judge(&attributes).await {
            Ok(allowed) => allowed,
            Err(denial) => refuse(&denial, &attributes),
        }))
    }
}

fn source(attributes: &AttributeContext) -> Option<IpAddr> {
    let address = attributes.source.as_ref()?.address.as_ref()?.address.as_ref()?;
    let address::Address::SocketAddress(socket) = address else { return None };
    // Only an address with a numeric port is a TCP peer.
    matches!(socket.port_specifier, Some(socket_address::PortSpecifier::PortValue(_))).then_some(())?;
    socket.address.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

fn inject(grant: &Grant<'_, '_>, injection: &Injection, value: &SecretString) -> CheckResponse {
    let filled = injection.fill(value);
    // Envoy removes headers and parameters after it has added others. An added one replaces all of the same name.
    let others = |location: &dyn Fn(String) -> Location, names: &mut dyn Iterator<Item = &str>| {
        names.map(str::to_owned).filter(|name| location(name.clone()) != injection.location).collect()
    };
    let mut ok = OkHttpResponse {
        headers_to_remove: others(&Location::Header, &mut CREDENTIAL_HEADERS.into_iter()),
        query_parameters_to_remove: others(&Location::Query, &mut grant.parameters.iter().map(String::as_str)),
        ..Default::default()
    };
    match &injection.location {
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
        dynamic_metadata: Some(said(&Decided::allowed(grant.rule), Some(&injection.whereabouts()))),
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
        dynamic_metadata: Some(said(&decided, None)),
        http_response: Some(HttpResponse::DeniedResponse(answered)),
    }
}

fn refuse(denial: &Denial, attributes: &AttributeContext) -> CheckResponse {
    let http = attributes.request.as_ref().and_then(|request| request.http.as_ref());
    let path = http.map_or(&[][..], |http| http.path.as_bytes());
    let id = http.and_then(|http| http.headers.get("x-request-id")).map_or("-", String::as_str);
    let refusal = render(denial, Form::of_path(path), id);
    let denied = DeniedHttpResponse {
        status: Some(HttpStatus { code: refusal.status.into() }),
        headers: vec![header("content-type", refusal.content_type), header(RULE_HEADER, refusal.rule.name())],
        body: String::from_utf8_lossy(&refusal.body).into_owned(),
    };
    CheckResponse {
        status: Some(status(Code::PermissionDenied)),
        dynamic_metadata: Some(said(&denial.into(), None)),
        http_response: Some(HttpResponse::DeniedResponse(denied)),
    }
}

/// The dynamic metadata of a check: the decision for the audit, and the place of the credential for the scrub filter.
fn said(decided: &Decided, location: Option<&str>) -> Struct {
    let text = |text: &str| Value { kind: Some(Kind::StringValue(text.into())) };
    let fields = decided.words().into_iter().chain(location.map(|location| ("place", location)));
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
