//! Envoy's own local replies, in the form of all other refusals: JSON with a rule, and the rule in `x-sallyport-rule`.
//! Refusals of the filters and of the credential stage are left unchanged.

use envoy_types::pb::envoy::config::accesslog::v3::{
    AccessLogFilter, ComparisonFilter, ExtensionFilter, ResponseFlagFilter, StatusCodeFilter,
    access_log_filter::FilterSpecifier, comparison_filter, extension_filter,
};
use envoy_types::pb::envoy::config::core::v3::{
    HeaderValue, HeaderValueOption, RuntimeUInt32, SubstitutionFormatString, header_value_option::HeaderAppendAction,
    substitution_format_string,
};
use envoy_types::pb::envoy::extensions::access_loggers::filters::cel::v3::ExpressionFilter;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    LocalReplyConfig, ResponseMapper,
};
use envoy_types::util::pack_any;
use policy::{Denial, Form, RULE_HEADER, Rule, render};

use super::{PROXIED, inline};

/// Envoy's format command for the request's id. It contains no character that JSON escapes.
const REQUEST_ID: &str = "%FILTER_STATE(wasm.sallyport.request-id:PLAIN)%";

/// One local reply of Envoy: its condition, its rule and its text.
struct Own {
    when: When,
    rule: Rule,
    error: &'static str,
}

/// How a local reply is recognized. Flags are those of the access log's `RESPONSE_FLAGS`, details those of
/// `RESPONSE_CODE_DETAILS`.
enum When {
    Flags(&'static [&'static str]),
    Status(u32),
    /// The details begin with this text.
    Details(&'static str),
    /// The connection to the upstream failed, and the details contain one of these texts.
    Connecting(&'static [&'static str]),
    /// The same, for an upstream that the operator's proxy leads to.
    ConnectingByProxy(&'static [&'static str]),
}

/// The known local replies. The first that matches applies. No entry has a status that a filter or the credential stage
/// uses.
const OWN: &[Own] = &[
    Own {
        // Refusals of the credential stage itself don't match, though they may have status 503 too.
        when: When::Details("ext_authz_error"),
        rule: Rule::CredentialsUnavailable,
        error: "the credential stage does not answer; try again",
    },
    Own {
        when: When::Details("wasm_fail_stream"),
        rule: Rule::ListenerFilterFailed,
        error: "a filter of the gateway has failed and is started again; try again",
    },
    // Envoy is at the end of its heap. This reply has no flag.
    Own { when: When::Details("overload"), rule: Rule::LimitOverload, error: "the gateway is overloaded; try again" },
    Own { when: When::Details("upgrade_failed"), rule: Rule::RequestUpgrade, error: "this upgrade is not passed on" },
    Own {
        // `OPTIONS *`, and `http://host?query`.
        when: When::Details("absolute_path_rejected"),
        rule: Rule::RequestTarget,
        error: "the request's target has no path; it has to begin with a /",
    },
    Own { when: When::Status(400), rule: Rule::RequestMalformed, error: "the request is malformed" },
    Own { when: When::Status(413), rule: Rule::LimitBody, error: "the body is larger than the limit" },
    Own { when: When::Status(431), rule: Rule::LimitHeaders, error: "the request's headers are larger than the limit" },
    Own {
        when: When::Flags(&["SI", "DT", "UMSDR"]),
        rule: Rule::LimitIdle,
        error: "nothing was sent for longer than the idle limit",
    },
    Own {
        when: When::Status(408),
        rule: Rule::LimitRequestTime,
        error: "the request took longer to arrive than the limit",
    },
    Own { when: When::Flags(&["DF"]), rule: Rule::UpstreamDns, error: "the host cannot be resolved" },
    Own {
        when: When::Flags(&["UO"]),
        rule: Rule::LimitUpstream,
        error: "too many requests are on their way upstream; try again",
    },
    // Texts of BoringSSL and of Linux, in which Envoy's details have `_` in place of spaces.
    Own {
        when: When::Connecting(&["CERTIFICATE_VERIFY_FAILED"]),
        rule: Rule::UpstreamCertificate,
        error: "the upstream's certificate is not valid for this host; trying again will not help",
    },
    Own {
        // The end of a tunnel that the proxy has not opened, or of one whose upstream has ended it in the handshake.
        when: When::ConnectingByProxy(&["Connection_reset_by_peer"]),
        rule: Rule::UpstreamUnreachable,
        error: "the operator's proxy opens no way to the upstream, or the upstream ended the connection at once; try \
                again later",
    },
    Own {
        when: When::Connecting(&["Connection_reset_by_peer"]),
        rule: Rule::UpstreamUnreachable,
        error: "the upstream ended the connection at once; try again",
    },
    Own {
        when: When::Connecting(&["TLS_error"]),
        rule: Rule::UpstreamProtocol,
        error: "the TLS handshake with the upstream failed; trying again will not help",
    },
    Own {
        when: When::Connecting(&["connection_timeout"]),
        rule: Rule::UpstreamTimeout,
        error: "the upstream does not answer; try again",
    },
    Own {
        when: When::Connecting(&["Connection_refused"]),
        rule: Rule::UpstreamRefused,
        error: "the upstream refuses connections; try again later",
    },
    Own {
        when: When::Flags(&["UPE"]),
        rule: Rule::UpstreamProtocol,
        error: "the upstream's answer is not HTTP, or larger than a limit; trying again will not help",
    },
    Own {
        when: When::Flags(&["UC", "UR", "LR"]),
        rule: Rule::UpstreamBrokenOff,
        error: "the upstream ended the connection before it answered; try again, if the request may be done twice",
    },
    Own {
        when: When::Flags(&["UF", "UH", "UT", "URX", "NC"]),
        rule: Rule::UpstreamUnreachable,
        error: "the upstream cannot be reached; try again",
    },
    Own {
        when: When::Flags(&["OM", "LH", "RL"]),
        rule: Rule::LimitOverload,
        error: "the gateway is overloaded; try again",
    },
];

/// The configuration of Envoy's local replies.
pub fn named() -> LocalReplyConfig {
    LocalReplyConfig { mappers: OWN.iter().map(mapper).collect(), ..Default::default() }
}

fn mapper(own: &Own) -> ResponseMapper {
    let denial = Denial::new(own.rule, own.error);
    ResponseMapper {
        filter: Some(filter(&own.when)),
        body_format_override: Some(body(&denial)),
        headers_to_add: vec![header(denial.rule)],
        ..Default::default()
    }
}

/// The body of one of Envoy's refusals, as a format string for Envoy. At that time the request no longer has its
/// `x-request-id`, so the id comes from the filter state that the identity filter sets.
pub fn body(denial: &Denial) -> SubstitutionFormatString {
    // Only the id is a format command. The reason is plain text.
    let denial = Denial { reason: denial.reason.replace('%', "%%"), ..denial.clone() };
    let refusal = render(&denial, Form::Json, REQUEST_ID);
    // Text instead of a protobuf `Struct`: the order of a map's entries differs between builds, and a changed listener
    // drains its connections.
    let text = String::from_utf8_lossy(&refusal.body);
    SubstitutionFormatString {
        content_type: refusal.content_type.into(),
        format: Some(substitution_format_string::Format::TextFormatSource(inline(text))),
        ..Default::default()
    }
}

/// The header that names `rule`.
pub fn header(rule: Rule) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue { key: RULE_HEADER.into(), value: rule.name().into(), ..Default::default() }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..Default::default()
    }
}

fn filter(when: &When) -> AccessLogFilter {
    let of = |specifier| AccessLogFilter { filter_specifier: Some(specifier) };
    match when {
        When::Flags(flags) => of(FilterSpecifier::ResponseFlagFilter(ResponseFlagFilter {
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
        })),
        When::Status(status) => of(FilterSpecifier::StatusCodeFilter(StatusCodeFilter {
            comparison: Some(ComparisonFilter {
                op: comparison_filter::Op::Eq.into(),
                value: Some(RuntimeUInt32 {
                    default_value: *status,
                    runtime_key: format!("sallyport.local_reply.{status}"),
                }),
            }),
        })),
        When::Details(details) => of(matching(format!("response.code_details.startsWith('{details}')"))),
        When::Connecting(texts) => of(matching(connecting(texts))),
        When::ConnectingByProxy(texts) => {
            of(matching(format!("xds.cluster_name.startsWith('{PROXIED}') && {}", connecting(texts))))
        }
    }
}

/// A CEL expression: the connection to the upstream failed, and the details contain one of `texts`.
fn connecting(texts: &[&str]) -> String {
    let any: Vec<_> = texts.iter().map(|text| format!("response.code_details.contains('{text}')")).collect();
    let failed = "response.code_details.startsWith('upstream_reset_before_response_started{')";
    format!("{failed} && ({})", any.join(" || "))
}

/// A filter by a CEL expression.
fn matching(expression: String) -> FilterSpecifier {
    FilterSpecifier::ExtensionFilter(ExtensionFilter {
        name: "cel".into(),
        config_type: Some(extension_filter::ConfigType::TypedConfig(pack_any(ExpressionFilter {
            expression,
            ..Default::default()
        }))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;

    fn text(denial: &Denial) -> String {
        let Some(substitution_format_string::Format::TextFormatSource(source)) = body(denial).format else {
            unreachable!()
        };
        let Some(Specifier::InlineString(text)) = source.specifier else { unreachable!() };
        text
    }

    #[test]
    fn envoy_s_own_refusals_are_like_all_others() {
        for own in OWN {
            let denial = Denial::new(own.rule, own.error);
            // Envoy's result for a request with the id 7.
            let sent = text(&denial).replace(REQUEST_ID, "7").replace("%%", "%");
            assert_eq!(sent.as_bytes(), render(&denial, Form::Json, "7").body, "{}", own.rule);
        }
        let denial = Denial::new(Rule::EgressHost, "100% \"no\"");
        assert_eq!(
            text(&denial),
            format!(
                "{}\n",
                r#"{"error":"100%% \"no\"","rule":"egress.host","stage":"identity","request_id":"%FILTER_STATE(wasm.sallyport.request-id:PLAIN)%"}"#
            )
        );
    }
}
