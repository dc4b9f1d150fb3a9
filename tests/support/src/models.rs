//! Responses of the model APIs, as far as their clients need them. A response is two words with a gate between them.
//! For an agent, a call of its shell comes first.

use crate::scripted::{Asked, Gate, Play};
use serde_json::{Value, json};

/// The first word of each response.
pub const FIRST: &str = "first-word";
/// The last word of each response, after the gate.
pub const LAST: &str = "last-word";
/// The only account of a login at chatgpt.com.
pub const ACCOUNT: &str = "account-of-the-rig";
/// The command for an agent's shell. The text of the command does not contain its output.
pub const COMMAND: &str = "printf 'made-by-%s' the-tool";
/// The output of [`COMMAND`].
pub const PRINTED: &str = "made-by-the-tool";

/// api.anthropic.com. If an agent offers the tool `Bash`, the first response calls the tool, once.
pub fn anthropic(asked: &Asked, gate: &Gate) -> Play {
    let body = asked.json();
    let message = |content: Value, reason: Value| {
        json!({
            "id": "msg_1", "type": "message", "role": "assistant", "model": body["model"], "content": content,
            "stop_reason": reason, "stop_sequence": null, "usage": {"input_tokens": 1, "output_tokens": 1},
        })
    };
    match asked.path() {
        "/v1/messages/count_tokens" => return Play::json(200, &json!({"input_tokens": 1})),
        "/v1/messages" => {}
        _ => return not_here(),
    }
    let text = json!([{"type": "text", "text": format!("{FIRST} {LAST}")}]);
    if body["stream"] != true {
        return Play::json(200, &message(text, json!("end_turn")));
    }
    let start = json!({"type": "message_start", "message": message(json!([]), Value::Null)});
    let end = |reason: &str| {
        let delta = json!({"stop_reason": reason, "stop_sequence": null});
        [
            json!({"type": "content_block_stop", "index": 0}),
            json!({"type": "message_delta", "delta": delta, "usage": {"output_tokens": 2}}),
            json!({"type": "message_stop"}),
        ]
    };
    let offered = |name: &str| body["tools"].as_array().is_some_and(|tools| tools.iter().any(|t| t["name"] == name));
    if offered("Bash") && !String::from_utf8_lossy(&asked.body).contains("tool_result") {
        let block = json!({"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {}});
        let input = json!({"command": COMMAND, "description": "Prints something"}).to_string();
        let before = [
            start,
            json!({"type": "content_block_start", "index": 0, "content_block": block}),
            json!({"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": input}}),
        ];
        let all = events(&before) + &events(&end("tool_use"));
        return Play::whole(200, "text/event-stream", all);
    }
    let delta =
        |text: &str| json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}});
    let block = json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}});
    let [stop, change, last] = end("end_turn");
    Play::events(events(&[start, block, delta(FIRST)]), gate, events(&[delta(&format!(" {LAST}")), stop, change, last]))
}

/// api.openai.com and the same part of chatgpt.com: chat and responses, as streams. If an agent offers a shell, the
/// first response calls it, once.
pub fn openai(asked: &Asked, gate: &Gate) -> Play {
    let body = asked.json();
    match asked.path() {
        "/v1/chat/completions" => {
            let chunk = |delta: Value, reason: Value| {
                let choice = json!({"index": 0, "delta": delta, "finish_reason": reason});
                json!({"id": "c_1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-5", "choices": [choice]})
            };
            let before = data(&[chunk(json!({"role": "assistant", "content": FIRST}), Value::Null)]);
            let after = data(&[chunk(json!({"content": LAST}), Value::Null), chunk(json!({}), json!("stop"))]);
            Play::events(before, gate, after + "data: [DONE]\n\n")
        }
        "/v1/responses" | "/backend-api/codex/responses" => responses(&body, gate),
        // Codex requests this first, and stops if its own account is not in the list.
        "/backend-api/wham/accounts/check" => {
            let route = "NO_CONSTRAINT";
            let entry = json!({"id": ACCOUNT, "workspace_backend_origin": route, "account_routing_override": route});
            Play::json(200, &json!({"accounts": [entry]}))
        }
        _ => not_here(),
    }
}

fn responses(body: &Value, gate: &Gate) -> Play {
    let response = |status: &str, output: &[&Value]| {
        json!({
            "id": "resp_1", "object": "response", "created_at": 1, "status": status, "model": body["model"],
            "output": output, "parallel_tool_calls": false, "tool_choice": "auto", "tools": [],
            "usage": {
                "input_tokens": 1, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 1,
                "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 2,
            },
        })
    };
    let created = json!({"type": "response.created", "sequence_number": 0, "response": response("in_progress", &[])});
    let done = |item: &Value| {
        let output =
            json!({"type": "response.output_item.done", "sequence_number": 8, "output_index": 0, "item": item});
        let whole = response("completed", &[item]);
        [output, json!({"type": "response.completed", "sequence_number": 9, "response": whole})]
    };
    let called = body["input"].as_array().is_some_and(|input| {
        input.iter().any(|item| item["type"].as_str().is_some_and(|kind| kind.ends_with("call_output")))
    });
    if let (Some(call), false) = (shell_call(body), called) {
        let [output, completed] = done(&call);
        return Play::whole(200, "text/event-stream", events(&[created, output, completed]));
    }
    let item = |status: &str, content: Value| json!({"type": "message", "id": "msg_1", "role": "assistant", "status": status, "content": content});
    let part = |text: &str| json!({"type": "output_text", "text": text, "annotations": []});
    let delta = |number: u8, text: &str| {
        json!({
            "type": "response.output_text.delta", "sequence_number": number, "item_id": "msg_1", "output_index": 0,
            "content_index": 0, "delta": text, "logprobs": [],
        })
    };
    let added = json!({
        "type": "response.output_item.added", "sequence_number": 1, "output_index": 0,
        "item": item("in_progress", json!([])),
    });
    let begun = json!({
        "type": "response.content_part.added", "sequence_number": 2, "item_id": "msg_1", "output_index": 0,
        "content_index": 0, "part": part(""),
    });
    let [output, completed] = done(&item("completed", json!([part(&format!("{FIRST} {LAST}"))])));
    let after = [delta(4, &format!(" {LAST}")), output, completed];
    Play::events(events(&[created, added, begun, delta(3, FIRST)]), gate, events(&after))
}

/// A call of the shell among the tools that `body` offers.
fn shell_call(body: &Value) -> Option<Value> {
    let named = |tool: &Value| tool["name"].as_str().map(str::to_owned);
    let names: Vec<String> = body["tools"].as_array()?.iter().filter_map(named).collect();
    let offered = |name: &&str| names.iter().any(|have| have == name);
    let arguments = |name: &str| match name {
        "shell" => json!({"command": ["sh", "-c", COMMAND]}),
        "shell_command" => json!({"command": COMMAND}),
        _ => json!({"cmd": COMMAND}),
    };
    let name = ["exec_command", "shell_command", "shell"].into_iter().find(|name| offered(name))?;
    Some(json!({
        "type": "function_call", "id": "fc_1", "call_id": "call_1", "name": name, "status": "completed",
        "arguments": arguments(name).to_string(),
    }))
}

/// generativelanguage.googleapis.com.
pub fn gemini(asked: &Asked, gate: &Gate) -> Play {
    let answer = |text: &str| {
        let content = json!({"role": "model", "parts": [{"text": text}]});
        json!({"candidates": [{"content": content, "index": 0, "finishReason": "STOP"}], "modelVersion": "m"})
    };
    match asked.path().rsplit_once(':').map(|(_, method)| method) {
        Some("generateContent") => Play::json(200, &answer(&format!("{FIRST} {LAST}"))),
        Some("streamGenerateContent") => Play::events(data(&[answer(FIRST)]), gate, data(&[answer(LAST)])),
        _ => not_here(),
    }
}

fn not_here() -> Play {
    Play::json(404, &json!({"error": {"type": "not_found_error", "message": "not here"}}))
}

/// Server-sent events, each with its type as its event name.
fn events(events: &[Value]) -> String {
    let text = |event: &Value| format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap());
    events.iter().map(text).collect()
}

/// Server-sent events without event names.
fn data(events: &[Value]) -> String {
    events.iter().map(|event| format!("data: {event}\n\n")).collect()
}
