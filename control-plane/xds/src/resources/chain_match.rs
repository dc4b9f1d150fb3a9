//! Selects the filter chain of the tunnel's listener for a connection: TLS for a plain server name, cleartext, or none.
//!
//! Envoy requests a secret by the server name of the handshake, so a handshake without a plain name must end here. A
//! name that is not UTF-8 is no valid protobuf string: it could not be decoded, and would end the whole xDS stream.

use envoy_types::pb::envoy::extensions::matching::common_inputs::network::v3::{
    ServerNameInput, TransportProtocolInput,
};
use envoy_types::pb::google::protobuf::StringValue;
use envoy_types::pb::xds::core::v3::TypedExtensionConfig;
use envoy_types::pb::xds::r#type::matcher::v3::matcher::matcher_list::predicate::{
    MatchType, PredicateList, SinglePredicate, single_predicate,
};
use envoy_types::pb::xds::r#type::matcher::v3::matcher::matcher_list::{FieldMatcher, Predicate};
use envoy_types::pb::xds::r#type::matcher::v3::matcher::{MatcherList, MatcherType, OnMatch, on_match};
use envoy_types::pb::xds::r#type::matcher::v3::{Matcher, RegexMatcher, StringMatcher, regex_matcher, string_matcher};
use envoy_types::util::pack_any;
use prost::{Message, Name};

/// Two or more labels of letters, digits, hyphens and underscores, with an optional trailing dot. Envoy matches the
/// name in lower case.
const PLAIN_NAME: &str = r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})+\.?";

/// Selects the chain `encrypted` for TLS with a plain server name, and `cleartext` for connections without TLS. All
/// other connections are closed.
pub fn by_protocol(encrypted: &str, cleartext: &str) -> Matcher {
    let protocol = |name: &str| {
        single("transport-protocol", TransportProtocolInput {}, string_matcher::MatchPattern::Exact(name.into()))
    };
    let plain_name = string_matcher::MatchPattern::SafeRegex(RegexMatcher {
        regex: PLAIN_NAME.into(),
        engine_type: Some(regex_matcher::EngineType::GoogleRe2(regex_matcher::GoogleRe2 {})),
    });
    let named_tls =
        PredicateList { predicate: vec![protocol("tls"), single("server-name", ServerNameInput {}, plain_name)] };
    let matchers = vec![
        chain(Predicate { match_type: Some(MatchType::AndMatcher(named_tls)) }, encrypted),
        chain(protocol("raw_buffer"), cleartext),
    ];
    Matcher { matcher_type: Some(MatcherType::MatcherList(MatcherList { matchers })), ..Default::default() }
}

fn single<T: Message + Name>(name: &str, input: T, pattern: string_matcher::MatchPattern) -> Predicate {
    let matcher = StringMatcher { match_pattern: Some(pattern), ..Default::default() };
    Predicate {
        match_type: Some(MatchType::SinglePredicate(SinglePredicate {
            input: Some(TypedExtensionConfig { name: name.into(), typed_config: Some(pack_any(input)) }),
            matcher: Some(single_predicate::Matcher::ValueMatch(matcher)),
        })),
    }
}

fn chain(predicate: Predicate, name: &str) -> FieldMatcher {
    let action =
        TypedExtensionConfig { name: "chain".into(), typed_config: Some(pack_any(StringValue { value: name.into() })) };
    FieldMatcher {
        predicate: Some(predicate),
        on_match: Some(OnMatch { on_match: Some(on_match::OnMatch::Action(action)), ..Default::default() }),
    }
}
