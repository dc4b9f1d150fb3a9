//! The credentials that need no configuration: where each provider wants its key, and what an agent needs of it.
//!
//! All containers share one account at a provider. So what an agent needs to think is here, and what would let one
//! container see another's work is not: files, batches, stored answers by their id, the organisation's own APIs.

/// One provider's credential.
#[derive(Debug)]
pub struct BuiltIn {
    /// Its name.
    pub name: &'static str,
    /// A name that it shares with others, under which all of them are meant.
    pub group: Option<&'static str>,
    /// The one host that it goes to.
    pub host: &'static str,
    /// What it is for there.
    pub scope: Scope,
    /// How it may be given, in this order; the first that has a value counts.
    pub ways: &'static [Way],
}

/// What a built-in credential is for.
#[derive(Clone, Copy, Debug)]
pub enum Scope {
    /// git on the container's repositories.
    GitHubGit,
    /// The API, on the container's repositories and what belongs to none.
    GitHubApi,
    /// These endpoints.
    Endpoints(&'static [&'static str]),
}

/// Variables, and how their value is put in.
#[derive(Debug)]
pub struct Way {
    /// In this order.
    pub variables: &'static [&'static str],
    /// The header.
    pub header: &'static str,
    /// Its value, with `{}` for the credential's.
    pub format: &'static str,
}

const GITHUB: &[&str] = &["GITHUB_TOKEN", "GH_TOKEN"];

/// All of them.
pub const BUILT_IN: &[BuiltIn] = &[
    BuiltIn {
        name: "github-git",
        group: Some("github"),
        host: "github.com",
        scope: Scope::GitHubGit,
        ways: &[Way { variables: GITHUB, header: "authorization", format: "Basic x-access-token:{}" }],
    },
    BuiltIn {
        name: "github-api",
        group: Some("github"),
        host: "api.github.com",
        scope: Scope::GitHubApi,
        ways: &[Way { variables: GITHUB, header: "authorization", format: "Bearer {}" }],
    },
    BuiltIn {
        name: "anthropic",
        group: None,
        host: "api.anthropic.com",
        scope: Scope::Endpoints(&[
            "POST /v1/messages",
            "POST /v1/messages/count_tokens",
            "GET /v1/models",
            "GET /v1/models/*",
        ]),
        ways: &[
            Way { variables: &["CLAUDE_CODE_OAUTH_TOKEN"], header: "authorization", format: "Bearer {}" },
            Way { variables: &["ANTHROPIC_API_KEY"], header: "x-api-key", format: "{}" },
        ],
    },
    BuiltIn {
        name: "openai",
        group: None,
        host: "api.openai.com",
        scope: Scope::Endpoints(&[
            "POST /v1/chat/completions",
            "POST /v1/responses",
            "POST /v1/embeddings",
            "GET /v1/models",
            "GET /v1/models/*",
        ]),
        ways: &[Way { variables: &["OPENAI_API_KEY"], header: "authorization", format: "Bearer {}" }],
    },
    BuiltIn {
        name: "codex",
        group: None,
        host: "chatgpt.com",
        scope: Scope::Endpoints(&[
            "POST /backend-api/codex/responses",
            "POST /backend-api/codex/responses/compact",
            "GET /backend-api/codex/models",
            "GET /backend-api/wham/config/requirements",
            "GET /backend-api/wham/usage",
        ]),
        // A login: oauth/provider.rs.
        ways: &[],
    },
    BuiltIn {
        name: "gemini-cli",
        group: None,
        host: "cloudcode-pa.googleapis.com",
        scope: Scope::Endpoints(&["POST /v1internal:*"]),
        ways: &[],
    },
    BuiltIn {
        name: "gemini",
        group: None,
        host: "generativelanguage.googleapis.com",
        scope: Scope::Endpoints(&[
            "POST /v1*/models/*:generateContent",
            "POST /v1*/models/*:streamGenerateContent",
            "POST /v1*/models/*:countTokens",
            "POST /v1*/models/*:embedContent",
            "GET /v1*/models",
            "GET /v1*/models/*",
        ]),
        ways: &[Way { variables: &["GEMINI_API_KEY", "GOOGLE_API_KEY"], header: "x-goog-api-key", format: "{}" }],
    },
];
