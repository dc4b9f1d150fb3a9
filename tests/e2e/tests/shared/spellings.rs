//! An internationalised name has many spellings. The table of the spellings of one plain name is
//! tests/corpus/chain/spellings.yaml.

use std::time::Duration;
use test_support::Rig;
use test_support::gateway::policy;
use test_support::raw::greet;
use test_support::upstream::IDN;
use test_support::ways::{Asked, Outcome, REQUESTS, Way};

/// The timeout for a handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn an_internationalised_name_is_its_a_label_in_whatever_case() {
    let rig = Rig::start_with(&policy(&[IDN]), &[]);
    let sandbox = rig.registered(&[]);
    for (number, name) in [IDN.to_owned(), IDN.to_ascii_uppercase(), format!("{IDN}.")].into_iter().enumerate() {
        let greeting = greet(&sandbox, sandbox.address, &name, name.as_bytes(), HANDSHAKE).await.unwrap();
        assert!(greeting.names(IDN), "{name}: {greeting:?}");
        for way in REQUESTS {
            let what = format!("{way:?} {name}");
            let path = format!("/idn/{number}/{way:?}/end");
            let asked = Asked { method: "GET", authority: name.as_bytes(), path: &path, tunnel: &name };
            let outcome = way.ask(&sandbox, sandbox.address, asked).await.unwrap();
            assert!(matches!(&outcome, Outcome::Answered(answer) if answer.status == 200), "{what}: {outcome:?}");
            let [arrived] = &rig.upstream.requests_with(&path)[..] else { panic!("{what}: not exactly one") };
            assert_eq!((arrived.host.as_str(), arrived.sni.as_str()), (IDN, IDN), "{what}: {arrived:?}");
        }
    }
    // The Unicode form of the name is no host name. A different A-label is a different host.
    for (name, rule) in [("b\u{fc}cher.example", None), ("bcher-kva.example", Some("egress.host"))] {
        let asked = Asked { method: "GET", authority: name.as_bytes(), path: "/idn/other", tunnel: IDN };
        match Way::AbsoluteTwo.ask(&sandbox, sandbox.address, asked).await.unwrap() {
            Outcome::Answered(answer) => assert_eq!(answer.rule.as_deref(), rule, "{name}: {answer:?}"),
            outcome => assert!(rule.is_none() && matches!(outcome, Outcome::Cut(_)), "{name}: {outcome:?}"),
        }
    }
    assert!(rig.upstream.requests_with("/idn/other").is_empty());
}
