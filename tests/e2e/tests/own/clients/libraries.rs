//! The SDKs of the providers, and HTTP in Python, Node and Java.

use super::{
    ANTHROPIC_HOST, GEMINI_HOST, OPENAI_HOST, Row, Skipped, World, assert_credentials, installed, python_of, script,
    trusting, version, version_of, works,
};
use std::process::Command;
use test_support::Finished;
use test_support::models::{FIRST, LAST};
use test_support::scripted::Asked;

/// Runs a script with `python`: once without the variables for trust, then with `trust` alone.
fn streams_by_script(world: &World, python: &str, name: &str, arguments: &[&str], trust: &str) -> (String, Vec<Asked>) {
    let sandbox = world.sandbox();
    let command = || {
        let mut command = sandbox.command(python);
        command.arg(script(name)).args(arguments);
        command
    };
    world.distrusts(&mut command());
    world.streams(trusting(&mut command(), &[trust]))
}

/// Runs a script of an SDK with a call that the gateway refuses. The SDK prints the reason and the rule.
fn is_told(world: &World, python: &str, name: &str) {
    let sandbox = world.sandbox();
    let finished = Finished::of(sandbox.command(python).args([&script(name), "refused"]));
    let told = finished.stderr.lines().last().unwrap_or_default();
    assert_ne!(finished.code, Some(0));
    assert!(told.contains("is for ") && told.contains("rule credentials.path"), "{told}\n{}", finished.stderr);
}

pub(super) fn anthropic(world: &World) -> Result<Row, Skipped> {
    let python = python_of("sdks")?;
    let (printed, asked) = streams_by_script(world, &python, "use_anthropic.py", &[], "SSL_CERT_FILE");
    assert!(printed.contains(&format!("whole: {FIRST} {LAST}\npart: {FIRST}\n")), "{printed}");
    assert_eq!(asked.len(), 2);
    assert_credentials(&asked, ANTHROPIC_HOST, 2);
    is_told(world, &python, "use_anthropic.py");
    works(
        version_of(&python, "anthropic"),
        "`ANTHROPIC_API_KEY` (placeholder), `SSL_CERT_FILE`",
        "yes: whole and streamed",
    )
}

pub(super) fn openai(world: &World) -> Result<Row, Skipped> {
    let python = python_of("sdks")?;
    for api in ["chat", "responses"] {
        let (_, asked) = streams_by_script(world, &python, "use_openai.py", &[api], "SSL_CERT_FILE");
        assert_eq!(asked.len(), 1);
        assert_credentials(&asked, OPENAI_HOST, 1);
    }
    is_told(world, &python, "use_openai.py");
    let needs = "`OPENAI_API_KEY` (placeholder), `SSL_CERT_FILE`";
    works(version_of(&python, "openai"), needs, "yes: chat and responses, streamed")
}

pub(super) fn google_genai(world: &World) -> Result<Row, Skipped> {
    let python = python_of("sdks")?;
    let (printed, asked) = streams_by_script(world, &python, "use_google_genai.py", &[], "SSL_CERT_FILE");
    assert!(printed.contains(&format!("whole: {FIRST} {LAST}\npart: {FIRST}\n")), "{printed}");
    assert_eq!(asked.len(), 2);
    assert_credentials(&asked, GEMINI_HOST, 2);
    is_told(world, &python, "use_google_genai.py");
    let needs = "`GEMINI_API_KEY` (placeholder), `SSL_CERT_FILE`";
    works(version_of(&python, "google-genai"), needs, "yes: whole and streamed")
}

pub(super) fn requests(world: &World) -> Result<Row, Skipped> {
    let python = python_of("sdks")?;
    let (_, asked) = streams_by_script(world, &python, "use_requests.py", &[], "REQUESTS_CA_BUNDLE");
    assert_credentials(&asked, OPENAI_HOST, 1);
    works(version_of(&python, "requests"), "`REQUESTS_CA_BUNDLE`", "yes: streams")
}

pub(super) fn httpx(world: &World) -> Result<Row, Skipped> {
    let python = python_of("sdks")?;
    let (_, asked) = streams_by_script(world, &python, "use_httpx.py", &[], "SSL_CERT_FILE");
    assert_credentials(&asked, OPENAI_HOST, 1);
    works(version_of(&python, "httpx"), "`SSL_CERT_FILE`", "yes: streams")
}

pub(super) fn aiohttp(world: &World) -> Result<Row, Skipped> {
    let python = python_of("sdks")?;
    let (_, asked) = streams_by_script(world, &python, "use_aiohttp.py", &[], "SSL_CERT_FILE");
    assert_credentials(&asked, OPENAI_HOST, 1);
    let before = world.scripted.asked().len();
    let deaf = Finished::of(world.sandbox().command(&python).args([&script("use_aiohttp.py"), "deaf"]));
    assert!(deaf.code != Some(0) && deaf.stderr.contains("Cannot connect"), "{deaf:?}");
    assert_eq!(world.scripted.asked().len(), before, "nothing arrives");
    let needs = "`SSL_CERT_FILE`, and `ClientSession(trust_env=True)` in the program";
    works(version_of(&python, "aiohttp"), needs, "yes: streams; without `trust_env` it ignores the proxy's variables")
}

pub(super) fn urllib(world: &World) -> Result<Row, Skipped> {
    let python = python_of("sdks")?;
    let (_, asked) = streams_by_script(world, &python, "use_urllib.py", &[], "SSL_CERT_FILE");
    assert_credentials(&asked, OPENAI_HOST, 1);
    works(version(&python, "--version", "Python "), "`SSL_CERT_FILE`", "yes: streams")
}

pub(super) fn node(world: &World) -> Result<Row, Skipped> {
    installed("node")?;
    let sandbox = world.sandbox();
    let knows = "process.exit(process.allowedNodeEnvironmentFlags.has('--use-env-proxy') ? 0 : 1)";
    let number = version("node", "--version", "v");
    let needs = "`NODE_EXTRA_CA_CERTS`, `NODE_USE_ENV_PROXY=1`";
    if Command::new("node").args(["-e", knows]).status().unwrap().success() {
        let (_, asked) = world.streams(sandbox.command("node").arg(script("use_fetch.mjs")));
        assert_credentials(&asked, OPENAI_HOST, 1);
        return works(number, needs, "yes: streams");
    }
    let before = world.scripted.asked().len();
    let finished = Finished::of(sandbox.command("node").arg(script("use_fetch.mjs")));
    assert!(finished.code != Some(0) && finished.stderr.contains("fetch failed"), "{finished:?}");
    assert_eq!(world.scripted.asked().len(), before, "nothing arrives");
    works(number, needs, "no: before Node 22.21 and 24.5 it ignores the proxy's variables, and reaches nothing")
}

pub(super) fn java(world: &World) -> Result<Row, Skipped> {
    ["java", "keytool"].into_iter().try_for_each(installed)?;
    let sandbox = world.sandbox();
    let needs = "`JAVA_TOOL_OPTIONS`, and a trust store of its own";
    std::fs::write(sandbox.home.join("ca.pem"), &sandbox.ca_pem).unwrap();
    let store = sandbox.home.join("trust.jks");
    let mut keytool = Command::new("keytool");
    keytool.args(["-importcert", "-noprompt", "-alias", "sallyport", "-storetype", "JKS", "-storepass", "changeit"]);
    keytool.arg("-file").arg(sandbox.home.join("ca.pem")).arg("-keystore").arg(&store);
    Finished::of(&mut keytool).success();
    // Without this variable it reaches the gateway and does not trust it.
    let before = world.scripted.asked().len();
    let finished = Finished::of(sandbox.command("java").arg(script("UseHttpsUrlConnection.java")));
    assert!(finished.code != Some(0) && finished.stderr.contains("PKIX path building failed"), "{finished:?}");
    assert_eq!(world.scripted.asked().len(), before, "nothing arrives");
    let arguments = ["--java-trust-store", store.to_str().unwrap()];
    let variables = world.gateway.sandbox_env_with(sandbox.gateway_address, &arguments);
    let mut command = sandbox.command("java");
    command.env("JAVA_TOOL_OPTIONS", &variables["JAVA_TOOL_OPTIONS"]).arg(script("UseHttpsUrlConnection.java"));
    let (_, asked) = world.streams(&mut command);
    assert_credentials(&asked, OPENAI_HOST, 1);
    works(version("java", "-version", "version \""), needs, "yes: streams; without the trust store no")
}
