//! The members of model requests that count, as data. To review a provider, read its rows.
//!
//! Names are in the providers' snake_case. A name in a body is compared without `_`, `-` and case: protobuf JSON takes
//! `fileUri` and `file_uri`, and some decoders ignore case. Sources are the types of the providers' own SDKs: anthropic
//! 2.14, openai 3.57 and google-genai 3.6 for Python, and the API references of the others.

/// The effect of a member's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The provider fetches this URL, or each of a list.
    Url,
    /// The same, or bytes in base64, which have no `:`.
    UrlOrData,
    /// The provider calls something that the value chooses. No value of it is harmless but an empty list and null.
    Remote,
    /// The value names stored state. `also`: further names of `also` that permit it. `but`: values of `type` in the same
    /// object with which the member only repeats what the provider has answered before.
    Stored {
        /// Further names that permit it.
        also: &'static [&'static str],
        /// Harmless values of `type`.
        but: &'static [&'static str],
    },
    /// A tool, or a list of them: see [`TOOLS`] and [`GEMINI_TOOLS`].
    Tool,
    /// A model: see [`MODELS`].
    Model,
    /// The agent's own data, in which no name has a meaning for the provider.
    Data,
}

/// A row: a member, the member in which its object lies (`None`: any), and what its value does.
pub type Row = (Option<&'static str>, &'static str, What);

const fn stored(also: &'static [&'static str]) -> What {
    What::Stored { also, but: &[] }
}

/// Echoes of a hosted tool's answer.
const ECHOES: &[&str] =
    &["file_citation", "container_file_citation", "file_path", "code_execution_output", "bash_code_execution_output"];

/// The rows. The first that fits counts.
pub const MEMBERS: &[Row] = &[
    // The agent's data: schemas, arguments, labels.
    (None, "input_schema", What::Data),
    (None, "output_schema", What::Data),
    (None, "input_examples", What::Data),
    (None, "parameters", What::Data),
    (None, "parameters_json_schema", What::Data),
    (None, "response_schema", What::Data),
    (None, "response_json_schema", What::Data),
    (Some("json_schema"), "schema", What::Data),
    (Some("format"), "schema", What::Data),
    (Some("output_format"), "schema", What::Data),
    // tool_use of Anthropic; `input` of OpenAI is no member of a content block.
    (Some("content"), "input", What::Data),
    (None, "arguments", What::Data),
    (None, "args", What::Data),
    (Some("function_declarations"), "response", What::Data),
    (Some("function_response"), "response", What::Data),
    (Some("tool_response"), "response", What::Data),
    (Some("action"), "env", What::Data),
    (None, "metadata", What::Data),
    (None, "part_metadata", What::Data),
    (None, "labels", What::Data),
    (None, "logit_bias", What::Data),
    // Tools, and models that are tools themselves.
    (None, "tools", What::Tool),
    (Some("tool"), "definition", What::Tool),
    (None, "model", What::Model),
    (None, "models", What::Model),
    // Anthropic: URL sources of images and documents, MCP servers.
    (Some("source"), "url", What::Url),
    (None, "mcp_servers", What::Remote),
    // OpenAI, and those who take its requests.
    (None, "server_url", What::Remote),
    (None, "connector_id", What::Remote),
    (None, "tunnel_id", What::Remote),
    (Some("network_policy"), "allowed_domains", What::Remote),
    (Some("network_policy"), "domain_secrets", What::Remote),
    (None, "image_url", What::Url),
    (None, "video_url", What::Url),
    (None, "audio_url", What::Url),
    (None, "file_url", What::Url),
    (None, "document_url", What::Url),
    (Some("image_url"), "url", What::Url),
    (Some("video_url"), "url", What::Url),
    (Some("audio_url"), "url", What::Url),
    (Some("file_url"), "url", What::Url),
    (Some("document_url"), "url", What::Url),
    // OpenRouter takes a URL here.
    (None, "file_data", What::UrlOrData),
    // xAI's live search reads RSS feeds.
    (Some("sources"), "links", What::Url),
    (None, "webhook_url", What::Url),
    (None, "callback_url", What::Url),
    // Gemini.
    (None, "file_uri", What::Url),
    (None, "gcs_uri", What::Url),
    (None, "url_context", What::Remote),
    (None, "retrieval", What::Remote),
    (None, "parallel_ai_search", What::Remote),
    (None, "exa_ai_search", What::Remote),
    (None, "webhook_config", What::Remote),
    // Stored state.
    (None, "previous_response_id", stored(&["responses"])),
    (None, "previous_interaction_id", stored(&[])),
    (Some("thread"), "previous_message_id", stored(&[])),
    (None, "conversation", stored(&["conversations"])),
    (Some("conversation"), "id", stored(&["conversations"])),
    (Some("prompt"), "id", stored(&[])),
    (Some("audio"), "id", stored(&[])),
    (None, "preset", stored(&[])),
    (None, "container", stored(&[])),
    (Some("container"), "id", stored(&[])),
    (None, "skill_id", What::Stored { also: &["skills"], but: &["anthropic"] }),
    // An answer of OpenAI's file search repeats its ids.
    (Some("results"), "file_id", What::Data),
    (None, "file_id", What::Stored { also: &["files"], but: ECHOES }),
    (None, "file_ids", stored(&["files"])),
    (None, "input_file_id", stored(&["files"])),
    (None, "vector_store_ids", stored(&["vector-stores"])),
    (None, "file_search_store_names", stored(&["vector-stores"])),
    (None, "cached_content", stored(&["caches"])),
    (None, "agent_id", stored(&["agents"])),
    (None, "library_ids", stored(&[])),
    (None, "collection_ids", stored(&[])),
];

/// Values of `type` that name stored state wherever they stand, with the names of `also` that permit them.
pub const TYPES: &[(&str, &[&str])] =
    &[("item_reference", &["responses"]), ("container_reference", &[]), ("skill_reference", &["skills"])];

/// The types of tools that stay between the agent and the provider, as globs. Search is among them: the agent chooses a
/// query and no URL. A type that is not listed is refused.
pub const TOOLS: &[&str] = &[
    // The agent runs them.
    "function",
    "custom",
    "namespace",
    "bash_*",
    "text_editor_*",
    "computer",
    "computer_*",
    "computer-*",
    "browser_toolset_*",
    "memory_*",
    "local_shell",
    "apply_patch",
    // The provider runs them, without a network of their own.
    "shell",
    "code_execution*",
    "code_interpreter",
    "image_generation",
    "programmatic_tool_calling",
    "advisor_*",
    "tool_search*",
    "web_search*",
    "x_search",
    "openrouter:web_search",
    "openrouter:datetime",
    // They read stored state, which the rows above refuse by its ids.
    "file_search",
    "collections_search",
    "document_library",
];

/// The members of a tool of Gemini, which has no `type`.
pub const GEMINI_TOOLS: &[&str] = &[
    "function_declarations",
    "google_search",
    "google_search_retrieval",
    "enterprise_web_search",
    "google_maps",
    "code_execution",
    "computer_use",
    "file_search",
];

/// Models that visit URLs by themselves, as globs.
pub const MODELS: &[&str] = &["groq/compound*", "compound-*"];

/// The beginning of a model's name at OpenRouter that names a stored preset.
pub const PRESET: &[u8] = b"@preset/";

/// Whether the member `name` of a body is `word`. Both are compared without case, `_` and `-`.
pub fn is(name: &[u8], word: &str) -> bool {
    let plain = |byte: &&u8| !matches!(byte, b'_' | b'-');
    name.iter().filter(plain).map(u8::to_ascii_lowercase).eq(word.as_bytes().iter().filter(plain).copied())
}

/// The row of the member `name` in an object that lies in the member `under`: its word and its effect.
pub fn what(under: &[u8], name: &[u8]) -> Option<(&'static str, What)> {
    // Most names are in no row, and most rows differ in the first letter.
    let first = name.iter().find(|byte| !matches!(byte, b'_' | b'-'))?.to_ascii_lowercase();
    let mut rows = MEMBERS.iter().filter(|(_, word, _)| word.as_bytes().first() == Some(&first));
    let row = rows.find(|(parent, word, _)| is(name, word) && parent.is_none_or(|parent| is(under, parent)));
    row.map(|(_, word, what)| (*word, *what))
}
