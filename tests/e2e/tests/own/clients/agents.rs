//! Claude Code and Codex, with a tool each.

use super::{
    ANTHROPIC_HOST, CHATGPT_HOST, CODEX_EXEC, OPENAI_HOST, Row, Skipped, World, assert_credentials, codex_program,
    file_of, python_of, refused, script, trusting, version, works,
};
use serde_json::Value;
use test_support::models::{self, COMMAND, LAST, PRINTED};
use test_support::scripted::Asked;

pub(super) fn claude_code(world: &World) -> Result<Row, Skipped> {
    let program = file_of("agents", "claude_agent_sdk", "_bundled/claude")?;
    let sandbox = world.sandbox();
    let mut command = sandbox.command(&program);
    command.args(["-p", "Run the command.", "--allowedTools", "Bash", "--model", "claude-sonnet-4-5"]);
    command.args(["--output-format", "stream-json", "--include-partial-messages", "--verbose"]);
    let (printed, asked) = world.streams(trusting(&mut command, &["NODE_EXTRA_CA_CERTS"]));
    assert_credentials(&asked, ANTHROPIC_HOST, 2);
    assert_used_its_tool(&asked);
    assert!(printed.contains(COMMAND), "{printed}");
    refused(world, &sandbox);

    // With a stub login and no key it starts as well.
    let sandbox = world.sandbox();
    world.gateway.sandbox_env_with(sandbox.gateway_address, &["--stub-files", sandbox.home.to_str().unwrap()]);
    let mut command = sandbox.command(&program);
    let (printed, asked) = world.runs(command.env_remove("ANTHROPIC_API_KEY").args(["-p", "hello"]));
    assert!(printed.contains(LAST), "{printed}");
    assert_credentials(&asked, ANTHROPIC_HOST, 1);
    let needs = "`ANTHROPIC_API_KEY` (placeholder) or a stub login; `NODE_EXTRA_CA_CERTS`";
    works(version(&program, "--version", ""), needs, "yes: streams, runs its tools; its other calls are refused")
}

pub(super) fn codex(world: &World) -> Result<Row, Skipped> {
    let program = codex_program()?;
    let sandbox = world.sandbox();
    let (printed, asked) = world.runs(trusting(sandbox.command(&program).args(CODEX_EXEC), &["SSL_CERT_FILE"]));
    assert!(printed.contains(LAST), "{printed}");
    assert_credentials(&asked, OPENAI_HOST, 2);
    assert_used_its_tool(&asked);
    refused(world, &sandbox);
    // It accepts one refusal, and continues with POST. With a status other than 426 it retries seven times.
    let address = sandbox.address.to_string();
    let web_sockets = |line: &Value| line["container_ip"] == address.as_str() && line["status"] == 426;
    world.gateway.audit_line("Codex's WebSocket", web_sockets);
    assert_eq!(world.gateway.audit().iter().filter(|line| web_sockets(line)).count(), 1);

    let (_, asked) = world.streams(world.sandbox().command(&python_of("agents")?).arg(script("use_codex.py")));
    assert_credentials(&asked, OPENAI_HOST, 2);
    assert_used_its_tool(&asked);

    // With a stub login it uses chatgpt.com.
    let sandbox = world.sandbox();
    let stub = ["--stub-files", sandbox.home.to_str().unwrap(), "--codex-account-id", models::ACCOUNT];
    world.gateway.sandbox_env_with(sandbox.gateway_address, &stub);
    let (printed, asked) = world.runs(sandbox.command(&program).env_remove("OPENAI_API_KEY").args(CODEX_EXEC));
    assert!(printed.contains(LAST), "{printed}");
    assert_credentials(&asked, CHATGPT_HOST, 2);
    // Its requests there are compressed, so the stand-in sees no tools in them and responds at once.
    assert!(
        asked.iter().any(|asked| asked.head.method == "POST" && asked.path().ends_with("/responses")),
        "{asked:#?}"
    );
    refused(world, &sandbox);
    let needs = "`OPENAI_API_KEY` (placeholder) or a stub login; `SSL_CERT_FILE`";
    works(version(&program, "--version", "codex-cli "), needs, "yes: streams, runs its tools")
}

/// Checks that the tool's output went back to the model.
#[track_caller]
pub(super) fn assert_used_its_tool(asked: &[Asked]) {
    assert!(asked.iter().any(|asked| String::from_utf8_lossy(&asked.body).contains(PRINTED)), "{asked:#?}");
}
