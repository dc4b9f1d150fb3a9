//! The docs' statements about the tree, checked against the tree: the tests that the docs name exist, and the crates
//! depend on each other as docs/architecture.md draws them. Needs no gateway.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Words in the docs that look like names of tests, but are settings, or Envoy's.
const NO_TESTS: [&str; 9] = [
    "access_log_flush_interval",
    "dns_address_filter_out",
    "downstream_transport_failure_reason",
    "flush_access_log_on_new_request",
    "github_calls_per_hour",
    "ignore_port_in_host_matching",
    "query_parameters_to_remove",
    "strip_any_host_port",
    "strip_trailing_host_dot",
];

/// The underscores from which on a word in code font is taken for the name of a test, or of a function at least.
const LONG: usize = 3;

/// Which crates of ours, and whether the hostcalls' SDK, each one needs.
const ARROWS: &[(&str, &[&str])] = &[
    ("policy", &[]),
    ("git-wire", &[]),
    ("registry-proto", &[]),
    ("push", &["git-wire", "policy"]),
    ("model", &["policy"]),
    ("envoy-host", &["policy", "proxy-wasm"]),
    ("identity-filter", &["envoy-host", "policy", "registry-proto"]),
    ("github-filter", &["envoy-host", "policy", "registry-proto"]),
    ("model-filter", &["envoy-host", "model", "policy"]),
    ("push-filter", &["envoy-host", "policy", "push", "registry-proto"]),
    ("scrub-filter", &["envoy-host", "policy"]),
    (
        "filter-chain",
        &[
            "envoy-host",
            "github-filter",
            "identity-filter",
            "model-filter",
            "proxy-wasm",
            "push-filter",
            "scrub-filter",
        ],
    ),
    ("base", &["policy"]),
    ("registry", &["base", "policy", "registry-proto"]),
    ("ca", &["base", "policy"]),
    ("outbound", &["base", "policy", "registry"]),
    ("audit", &["base", "policy", "registry"]),
    ("credentials", &["base", "model", "outbound", "policy", "registry"]),
    ("config", &["base", "credentials", "outbound", "policy"]),
    ("github", &["base", "credentials", "outbound", "policy", "push", "registry", "registry-proto"]),
    ("xds", &["base", "ca", "outbound", "policy", "registry"]),
    (
        "control-plane",
        &[
            "audit",
            "base",
            "ca",
            "config",
            "credentials",
            "github",
            "model",
            "outbound",
            "policy",
            "push",
            "registry",
            "xds",
        ],
    ),
    ("test-support", &[]),
    ("envoy-stand-in", &["filter-chain", "policy", "registry-proto"]),
    ("filters-panic", &["filter-chain"]),
    ("e2e", &[]),
    ("fuzz", &["envoy-stand-in", "git-wire", "model", "policy", "push", "registry-proto"]),
];

/// The SDK's hostcalls that are left: its dispatcher has to know the tokens that they return.
const SDK_CALLS: [&str; 2] = ["dispatch_grpc_call", "open_grpc_stream"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// The files below `directory` whose names have this ending. Built files are left out.
fn files(directory: &Path, end: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            found.extend(files(&path, end));
        } else if name.ends_with(end) {
            found.push(path);
        }
    }
    found
}

fn is_name(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}

/// The functions in `source`, and whether an attribute makes each a test.
fn functions(source: &str) -> Vec<(String, bool)> {
    let (mut functions, mut test) = (Vec::new(), false);
    for line in source.lines().map(str::trim) {
        let mut words = line.split(' ').skip_while(|word| *word != "fn").skip(1);
        if let Some((name, _)) = words.next().and_then(|word| word.split_once(['(', '<'])) {
            functions.push((name.to_owned(), test));
        }
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            test = true;
        } else if !line.starts_with("#[") && !line.starts_with("//") {
            // The lines between an attribute and its function keep the attribute.
            test = false;
        }
    }
    functions
}

/// The words of `text` in code font that could be names of functions.
fn named(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2).filter(|word| is_name(word))
}

#[test]
fn every_test_that_the_docs_name_is_there() {
    let root = root();
    let mut functions: BTreeMap<String, bool> = BTreeMap::new();
    for path in files(&root, ".rs") {
        for (name, test) in self::functions(&std::fs::read_to_string(path).unwrap()) {
            *functions.entry(name).or_default() |= test;
        }
    }
    let is_test = |name: &str| functions.get(name) == Some(&true);
    assert!(is_test("every_test_that_the_docs_name_is_there") && !is_test("functions"), "tests are not told apart");
    let mut docs = files(&root.join("docs"), ".md");
    docs.extend([root.join("README.md"), root.join("tests/README.md"), root.join("envoy/README.md")]);
    let mut missing = Vec::new();
    for path in docs {
        let text = std::fs::read_to_string(&path).unwrap();
        // A metric's name has the gateway's before it.
        let is_other = |word: &&str| NO_TESTS.contains(word) || word.starts_with("sallyport_");
        let long = named(&text).filter(|word| word.matches('_').count() >= LONG && !is_other(word));
        let not_there = long.filter(|word| !functions.contains_key(*word));
        missing.extend(not_there.map(|word| format!("{}: {word}", path.display())));
        // Cases in place of a test.
        let cases = text.split('`').skip(1).step_by(2).filter(|word| word.starts_with("tests/corpus/"));
        let not_there = cases.filter(|word| !word.contains('*') && !root.join(word).exists());
        missing.extend(not_there.map(|word| format!("{}: {word}", path.display())));
    }
    let map = std::fs::read_to_string(root.join("docs/architecture.md")).unwrap();
    let (_, invariants) = map.split_once("\n## What always holds\n").expect("the invariants have a heading");
    let cited: Vec<&str> = named(invariants).filter(|word| word.contains('_')).collect();
    assert!(cited.len() > 100, "the invariants name {} tests", cited.len());
    missing.extend(cited.into_iter().filter(|word| !is_test(word)).map(|word| format!("an invariant: {word}")));
    assert!(missing.is_empty(), "there is no such test: {missing:#?}");
}

#[test]
fn arrows_between_crates_point_inward() {
    let mut metadata = Command::new(env!("CARGO"));
    metadata.args(["metadata", "--no-deps", "--offline", "--format-version", "1"]).current_dir(root());
    let output = metadata.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let packages = metadata["packages"].as_array().unwrap();
    let own: BTreeSet<String> = packages.iter().map(|package| text(&package["name"])).collect();
    // Dependencies of tests change nothing of the built crates.
    let needs = |package: &Value| -> BTreeSet<String> {
        let all = package["dependencies"].as_array().unwrap().iter();
        let built = all.filter(|dependency| dependency["kind"] != "dev").map(|dependency| text(&dependency["name"]));
        built.filter(|name| own.contains(name) || name == "proxy-wasm").collect()
    };
    let found: BTreeMap<String, BTreeSet<String>> =
        packages.iter().map(|package| (text(&package["name"]), needs(package))).collect();
    let drawn =
        ARROWS.iter().map(|(name, needs)| ((*name).to_owned(), needs.iter().map(|name| (*name).to_owned()).collect()));
    assert_eq!(found, drawn.collect(), "docs/architecture.md draws them otherwise");
}

#[test]
fn only_envoy_host_makes_hostcalls() {
    let filters = root().join("filters");
    let mut sdk_calls = BTreeSet::new();
    for path in files(&filters, ".rs") {
        let source = std::fs::read_to_string(&path).unwrap();
        let inside = path.strip_prefix(&filters).unwrap();
        let of_host = inside.starts_with("envoy-host");
        let lines = source.lines().map(str::trim).filter(|line| !line.starts_with("//"));
        for line in lines {
            // The macro exports what Envoy calls first.
            let exports = inside == Path::new("chain/src/lib.rs") && line.starts_with("proxy_wasm::main!");
            assert!(of_host || exports || !line.contains("proxy_wasm"), "{}: {line}", path.display());
            assert!(of_host || !line.contains("extern \"C\""), "{}: {line}", path.display());
            // An import names the module alone.
            let calls = line.split("hostcalls::").skip(1).filter(|_| of_host);
            sdk_calls.extend(
                calls.map(|call| call.split(|c: char| c != '_' && !c.is_alphanumeric()).next().unwrap().to_owned()),
            );
        }
    }
    assert_eq!(sdk_calls, BTreeSet::from(SDK_CALLS.map(str::to_owned)));
}

#[test]
fn unsafe_code_is_at_the_two_ends_of_the_abi_only() {
    let (root, attribute) = (root(), "expect(unsafe_code");
    let mut found: Vec<PathBuf> = files(&root, ".rs")
        .into_iter()
        .filter(|path| !path.ends_with("docs.rs") && std::fs::read_to_string(path).unwrap().contains(attribute))
        .map(|path| path.strip_prefix(&root).unwrap().to_owned())
        .collect();
    found.sort();
    let named = ["filters/envoy-host/src/abi.rs", "tests/stand-in/src/hostcalls.rs", "tests/stand-in/src/wasm.rs"];
    assert_eq!(found, named.map(PathBuf::from));
}
