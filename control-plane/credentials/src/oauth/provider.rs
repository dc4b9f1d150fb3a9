//! The programs that create logins, and the services that refresh them.

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
    /// `~/.local/share/opencode/auth.json`, which holds several logins.
    OpenCode,
}

/// The layout of a login's file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Layout {
    /// Codex.
    Codex,
    /// Gemini CLI.
    Gemini,
    /// Claude Code.
    Claude,
    /// OpenCode, and the key of the provider in its file.
    OpenCode(String),
}

/// A service that refreshes logins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Service {
    /// auth.openai.com
    OpenAi,
    /// oauth2.googleapis.com
    Google,
    /// console.anthropic.com, and platform.claude.com for newer versions of Claude Code.
    Anthropic,
}

/// The login that a built-in credential can use.
pub struct BuiltIn {
    /// The program of the login's file.
    pub program: Program,
    /// The variable that needs a placeholder in a sandbox, if any.
    pub placeholder: Option<&'static str>,
}

/// The login that the built-in credential `name` can use. `None` if the credential has no login.
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
    /// The variable with the path of the login's file. The configuration takes precedence.
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
    /// The program that owns the file.
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

    /// The service that refreshes the login. `None` if the gateway does not know the service.
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
    /// The hosts and paths of the service's token endpoints. The gateway uses the first. A sandbox may use any.
    pub fn endpoints(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::OpenAi => &[("auth.openai.com", "/oauth/token")],
            Self::Google => &[("oauth2.googleapis.com", "/token")],
            Self::Anthropic => {
                &[("console.anthropic.com", "/v1/oauth/token"), ("platform.claude.com", "/v1/oauth/token")]
            }
        }
    }

    /// The token endpoint that the gateway uses.
    pub fn endpoint(self) -> (&'static str, &'static str) {
        self.endpoints().first().copied().unwrap_or_default()
    }

    /// The OAuth client id of the service's programs. `None` if they have different ids.
    pub fn client_id(self) -> Option<&'static str> {
        match self {
            Self::OpenAi => Some("app_EMoamEEZ73f0CkXaXp7hrann"),
            Self::Google => None,
            Self::Anthropic => Some("9d1c250a-e61b-44d9-88ed-5944d1962f5e"),
        }
    }
}
