//! Git LFS through the real Envoy: its API by the policy and with the gateway's credential, its store by signed URLs
//! and without a credential.

use serde_json::json;
use test_support::upstream::Visibility;
use test_support::upstream::pranks::{End, Prank};
use test_support::{Rig, TOKEN};

const REPO: &str = "acme/large-files";
const OID: &str = "4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393";
const SIGNED: &str = "/alambic/media/1/4d/7a/object?X-Amz-Signature=5f3c&X-Amz-Expires=3600";
const STORES: [&str; 2] = ["github-cloud.githubusercontent.com", "github-cloud.s3.amazonaws.com"];

#[test]
fn lfs_is_by_the_policy_and_its_store_gets_no_credential_of_ours() {
    let rig = Rig::start_with("egress:\n  - preset: github\n", &[]);
    rig.upstream.create_repo(REPO, Visibility::Private);
    let batch = format!("/{REPO}.git/info/lfs/objects/batch");
    let answer = Prank {
        after: 0,
        status: 200,
        headers: vec![("content-type", "application/vnd.git-lfs+json".into())],
        body: json!({"transfer": "basic", "objects": []}).to_string().into_bytes(),
        end: End::Whole,
    };
    rig.upstream.set_git(&batch, Some(answer));
    let sandbox = rig.sandbox();
    for (mode, operation, method, status) in [
        ("bot", "download", "GET", 200),
        ("bot", "upload", "PUT", 403),
        ("user", "download", "GET", 200),
        ("user", "upload", "PUT", 200),
    ] {
        let what = format!("{mode} {operation}");
        let record = json!({"container_ip": sandbox.address, "container_id": mode, "auth_mode": mode, "repos": [REPO]});
        let (registered, told) = rig.gateway.call("POST", "/internal/containers", Some(&record));
        assert!(matches!(registered, 200 | 201), "{told}");
        let asked = |path: &str, host: &str| {
            let mut requests = rig.upstream.requests_with(path);
            requests.retain(|request| request.host == host);
            requests
        };

        let body = json!({"operation": operation, "objects": [{"oid": OID, "size": 3}]}).to_string();
        let before = asked(&batch, "github.com").len();
        let kind = "content-type: application/vnd.git-lfs+json";
        let said = sandbox.curl(&["-H", kind, "-d", &body, &format!("https://github.com{batch}")]);
        assert_eq!(said.status, status, "{what}: {}", said.body);
        let arrived = &asked(&batch, "github.com")[before..];
        assert_eq!(arrived.len(), usize::from(status == 200), "{what}");
        for request in arrived {
            assert_eq!(request.header("authorization").len(), 1, "{what}: with our credential: {request:?}");
        }
        if status == 403 {
            assert!(said.body.contains("github.lfs"), "{what}: {}", said.body);
        }

        for store in STORES {
            let before = asked(SIGNED, store).len();
            let said = sandbox.curl(&["-X", method, "-d", "abc", &format!("https://{store}{SIGNED}")]);
            assert_eq!(said.status, status, "{what} {store}: {}", said.body);
            let arrived = &asked(SIGNED, store)[before..];
            assert_eq!(arrived.len(), usize::from(status == 200), "{what} {store}");
            for request in arrived {
                assert_eq!(request.method, method);
                assert!(request.header("authorization").is_empty(), "{what}: {request:?}");
                let all: Vec<u8> = request.headers.iter().flat_map(|(_, value)| [value, &b"\n"[..]].concat()).collect();
                assert!(!String::from_utf8_lossy(&all).contains(TOKEN), "{what}: {request:?}");
            }
        }
    }
    // Objects of a repository outside the record are refused.
    let body = json!({"operation": "download", "objects": [{"oid": OID, "size": 3}]}).to_string();
    let strange = "https://github.com/acme/other.git/info/lfs/objects/batch";
    assert_eq!(sandbox.curl(&["-H", "content-type: application/vnd.git-lfs+json", "-d", &body, strange]).status, 403);
}
