//! Which filter chain of the tunnel's listener a connection gets: TLS for a plain server name, cleartext, or none.
//!
//! The server name of a handshake becomes the name of a secret that Envoy asks us for, so what is no plain name must
//! end here: a protobuf string that is not UTF-8 cannot even be decoded, and would end the whole xDS stream.

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

/// Two labels or more of letters, digits, hyphens and underscores, and perhaps a trailing dot. Envoy shows the name
/// in lower case here.
const PLAIN_NAME: &str = r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})+\.?";

/// Chain `encrypted` for TLS with a plain server name, `cleartext` for whatever is no TLS. Anything else is closed.
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
