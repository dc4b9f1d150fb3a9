//! The guard of model requests through the real Envoy, where a body is longer than the gateway holds: nothing of a refused
//! one ends at the provider, and an allowed one arrives whole. Short bodies are cases of tests/corpus/chain.

use std::fmt::Write;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use test_support::gateway::policy;
use test_support::{Gateway, Recorded, Rig, Upstream, eventually, scratch};

const KEY: (&str, &str) = ("ANTHROPIC_API_KEY", "anthropic_fixture_Rk5vM3");
const HOST: &str = "api.anthropic.com";
const JSON: [&str; 2] = ["-H", "content-type: application/json"];
/// The forms of a body: curl's arguments.
const FORMS: [(&str, &[&str]); 3] =
    [("length", &["--http1.1"]), ("chunked", &["--http1.1", "-H", "transfer-encoding: chunked"]), ("h2", &["--http2"])];

/// A rig with a key for api.anthropic.com.
fn rig() -> &'static Rig {
    static RIG: OnceLock<Rig> = OnceLock::new();
    RIG.get_or_init(|| {
        let upstream = Upstream::start();
        let gateway = Gateway::with(&policy(&[HOST])).upstream(&upstream).envs(&[KEY]).up();
        Rig { upstream, gateway }
    })
}

/// A file with a message of so many MB and `more` members behind it.
fn body(megabytes: usize, more: &str) -> PathBuf {
    let mut text = String::from(r#"{"model":"claude","messages":[{"role":"user","content":""#);
    for number in 0..megabytes * 62_500 {
        write!(text, "{number:010} word ").unwrap();
    }
    write!(text, r#""}}]{more}}}"#).unwrap();
    let file = scratch("body").join("body.json");
    std::fs::write(&file, text).unwrap();
    file
}

fn arrived(mark: &str) -> Vec<Recorded> {
    rig().upstream.requests_with(mark)
}

#[test]
fn a_long_model_request_that_reaches_out_never_ends_at_the_provider() {
    let sandbox = rig().registered(&[]);
    for (number, (more, rule)) in [
        (r#","mcp_servers":[{"type":"url","url":"https://evil.test/"}]"#, "credentials.remote-tool"),
        (r#","container":"container_1""#, "credentials.stored"),
        ("}", "credentials.body"),
    ]
    .into_iter()
    .enumerate()
    {
        let file = body(3, more);
        let length = std::fs::metadata(&file).unwrap().len();
        for (form, arguments) in FORMS {
            let mark = format!("refused={form}{number}");
            let url = format!("https://{HOST}/v1/messages?{mark}");
            let data = format!("@{}", file.display());
            let curled = sandbox.curl(&[arguments, &JSON, &["--data-binary", &data, &url]].concat());
            assert_eq!((curled.status, curled.rule().as_deref()), (403, Some(rule)), "{form}: {curled:?}");
            for request in arrived(&mark) {
                assert!(request.body_bytes < length, "{form}: {request:?}");
            }
            let line = rig().gateway.audit_line(&mark, |line| line["rule"] == rule && line["status"] == 403);
            assert_eq!(line["stage"], "credentials", "{line}");
        }
    }
}

#[test]
fn a_model_request_of_10_mb_arrives_whole() {
    let sandbox = rig().registered(&[]);
    let file = body(10, "");
    let length = std::fs::metadata(&file).unwrap().len();
    for (form, arguments) in FORMS {
        let mark = format!("allowed={form}");
        let url = format!("https://{HOST}/v1/messages?{mark}");
        let data = format!("@{}", file.display());
        let begun = Instant::now();
        let curled = sandbox.curl(&[arguments, &JSON, &["--data-binary", &data, &url]].concat());
        println!("{form}: {:?}", begun.elapsed());
        assert_eq!((curled.status, curled.rule()), (200, None), "{form}: {curled:?}");
        let whole = || arrived(&mark).first().filter(|request| request.body_bytes == length).cloned();
        let request = eventually("the whole body", Duration::from_secs(5), whole);
        assert_eq!(request.header("x-api-key"), [KEY.1.as_bytes()]);
    }
}
