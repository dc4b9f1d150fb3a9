//! The answers that Envoy gives by itself, in the words of all other refusals: JSON with a rule, and the rule in
//! `x-sallyport-rule`. What the filters and the credential stage answer is left as it is.

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

use super::inline;
use crate::contract::RULE_HEADER;

/// One answer of Envoy's: when it is given, and what it is called.
struct Own {
    when: When,
    stage: &'static str,
    rule: &'static str,
    error: &'static str,
}

/// How Envoy marks an answer. Flags are those of the access log's `RESPONSE_FLAGS`, details those of
/// `RESPONSE_CODE_DETAILS`.
enum When {
    Flags(&'static [&'static str]),
    Status(u32),
    Details(&'static str),
}

/// The first that fits counts. No status stands here that a filter or the credential stage gives.
const OWN: &[Own] = &[
    Own {
        // Not what it answers itself, which may be 503 too.
        when: When::Details("ext_authz_error"),
        stage: "credentials",
        rule: "credentials.unavailable",
        error: "the credential stage does not answer; try again",
    },
    Own {
        when: When::Details("wasm_fail_stream"),
        stage: "listener",
        rule: "listener.filter-failed",
        error: "a filter of the gateway has failed and is started again; try again",
    },
    Own {
        when: When::Details("upgrade_failed"),
        stage: "request",
        rule: "request.upgrade",
        error: "this upgrade is not passed on",
    },
    Own {
        // `OPTIONS *`, and `http://host?query`.
        when: When::Details("absolute_path_rejected"),
        stage: "request",
        rule: "request.target",
        error: "the request's target has no path; it has to begin with a /",
    },
    Own { when: When::Status(400), stage: "request", rule: "request.malformed", error: "the request is malformed" },
    Own { when: When::Status(413), stage: "listener", rule: "limit.body", error: "the body is larger than the limit" },
    Own {
        when: When::Status(431),
        stage: "listener",
        rule: "limit.headers",
        error: "the request's headers are larger than the limit",
    },
    Own {
        when: When::Flags(&["SI", "DT", "UMSDR"]),
        stage: "listener",
        rule: "limit.idle",
        error: "nothing was sent for longer than the idle limit",
    },
    Own {
        when: When::Status(408),
        stage: "listener",
        rule: "limit.request-time",
        error: "the request took longer to arrive than the limit",
    },
    Own { when: When::Flags(&["DF"]), stage: "upstream", rule: "upstream.dns", error: "the host cannot be resolved" },
    Own {
        when: When::Flags(&["UO"]),
        stage: "upstream",
        rule: "limit.upstream",
        error: "too many requests are on their way upstream; try again",
    },
    Own {
        when: When::Flags(&["UF", "UC", "UR", "UH", "UT", "LR", "URX", "UPE", "NC"]),
        stage: "upstream",
        rule: "upstream.unreachable",
        error: "the upstream cannot be reached, or broke off, or its certificate is not valid",
    },
    Own {
        when: When::Flags(&["OM", "LH", "RL"]),
        stage: "listener",
        rule: "limit.overload",
        error: "the gateway is overloaded; try again",
    },
];

/// The configuration.
pub fn named() -> LocalReplyConfig {
    LocalReplyConfig { mappers: OWN.iter().map(mapper).collect(), ..Default::default() }
}

fn mapper(own: &Own) -> ResponseMapper {
    // As text and not as a protobuf `Struct`: the order of a map's entries differs from one build to the next, and a
    // listener that differs drains its connections.
    let body = format!(
        r#"{{"error":"{}","rule":"{}","stage":"{}","request_id":"%FILTER_STATE(wasm.sallyport.request-id:PLAIN)%"}}{}"#,
        own.error, own.rule, own.stage, "\n"
    );
    let header = HeaderValueOption {
        header: Some(HeaderValue { key: RULE_HEADER.into(), value: own.rule.into(), ..Default::default() }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..Default::default()
    };
    ResponseMapper {
        filter: Some(filter(&own.when)),
        body_format_override: Some(SubstitutionFormatString {
            content_type: "application/json".into(),
            format: Some(substitution_format_string::Format::TextFormatSource(inline(body))),
            ..Default::default()
        }),
        headers_to_add: vec![header],
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
        When::Details(details) => of(FilterSpecifier::ExtensionFilter(ExtensionFilter {
            name: "cel".into(),
            config_type: Some(extension_filter::ConfigType::TypedConfig(pack_any(ExpressionFilter {
                expression: format!("response.code_details.startsWith('{details}')"),
                ..Default::default()
            }))),
        })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::LOCAL_REPLIES;

    #[test]
    fn the_audit_knows_the_stage_of_every_reply() {
        let own: Vec<_> = OWN.iter().map(|own| (own.rule, own.stage)).collect();
        assert_eq!(own, LOCAL_REPLIES);
    }
}
