//! Whose logins these are: the programs that made them, and the services that refresh them.

use serde::{Deserialize, Serialize};

/// A program that keeps a login in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Program {
    /// `~/.codex/auth.json`
    Codex,
    /// `~/.gemini/oauth_creds.json`
    Gemini,
    /// `~/.claude/.credentials.json`
    Claude,
    /// `~/.local/share/opencode/auth.json`, which has several.
    OpenCode,
}

/// How a file is laid out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Layout {
    /// Codex.
    Codex,
    /// Gemini CLI.
    Gemini,
    /// Claude Code.
    Claude,
    /// OpenCode, and the provider in its file.
    OpenCode(String),
}

/// Who refreshes a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Service {
    /// auth.openai.com
    OpenAi,
    /// oauth2.googleapis.com
    Google,
    /// console.anthropic.com, and platform.claude.com for newer versions of Claude Code.
    Anthropic,
}

/// A built-in credential that a login may be for.
pub struct BuiltIn {
    /// Whose file it is.
    pub program: Program,
    /// The placeholder that its program wants in a sandbox.
    pub placeholder: Option<&'static str>,
}

/// The login that the built-in credential of this name may come from.
pub fn built_in(name: &str) -> Option<BuiltIn> {
    let (program, placeholder) = match name {
        "codex" => (Program::Codex, None),
        "gemini-cli" => (Program::Gemini, None),
        "anthropic" => (Program::Claude, Some("CLAUDE_CODE_OAUTH_TOKEN")),
        _ => return None,
    };
    Some(BuiltIn { program, placeholder })
}

impl Program {
    /// The variable that names its file, where the configuration does not.
    pub fn variable(self) -> &'static str {
        match self {
            Self::Codex => "CODEX_AUTH_FILE",
            Self::Gemini => "GEMINI_OAUTH_FILE",
            Self::Claude => "CLAUDE_OAUTH_FILE",
            Self::OpenCode => "OPENCODE_AUTH_FILE",
        }
    }
}

impl Layout {
    /// Whose file it is.
    pub fn program(&self) -> &'static str {
        match self {
            Self::Codex => "Codex",
            Self::Gemini => "Gemini CLI",
            Self::Claude => "Claude Code",
            Self::OpenCode(_) => "OpenCode",
        }
    }

    /// The names of the access token and of the refresh token.
    pub fn names(&self) -> [&'static str; 2] {
        match self {
            Self::Codex | Self::Gemini => ["access_token", "refresh_token"],
            Self::Claude => ["accessToken", "refreshToken"],
            Self::OpenCode(_) => ["access", "refresh"],
        }
    }

    /// Who refreshes it, where we know how.
    pub fn service(&self) -> Option<Service> {
        match self {
            Self::Codex => Some(Service::OpenAi),
            Self::Gemini => Some(Service::Google),
            Self::Claude => Some(Service::Anthropic),
            Self::OpenCode(provider) => match provider.as_str() {
                "openai" => Some(Service::OpenAi),
                "anthropic" => Some(Service::Anthropic),
                _ => None,
            },
        }
    }
}

impl Service {
    /// The hosts and paths of its token endpoint. The gateway asks the first, a sandbox may ask any.
    pub fn endpoints(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::OpenAi => &[("auth.openai.com", "/oauth/token")],
            Self::Google => &[("oauth2.googleapis.com", "/token")],
            Self::Anthropic => {
                &[("console.anthropic.com", "/v1/oauth/token"), ("platform.claude.com", "/v1/oauth/token")]
            }
        }
    }

    /// The one that the gateway asks.
    pub fn endpoint(self) -> (&'static str, &'static str) {
        self.endpoints().first().copied().unwrap_or_default()
    }

    /// The client that its programs are, where that is the same in all of them.
    pub fn client_id(self) -> Option<&'static str> {
        match self {
            Self::OpenAi => Some("app_EMoamEEZ73f0CkXaXp7hrann"),
            Self::Google => None,
            Self::Anthropic => Some("9d1c250a-e61b-44d9-88ed-5944d1962f5e"),
        }
    }
}
