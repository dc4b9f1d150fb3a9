//! The credentials that need no configuration: the place of each provider's key in a request, and the endpoints that an
//! agent needs.
//!
//! All containers share one account at a provider. So the endpoints for inference are on. Endpoints with which one
//! container could see another's work are off: files, batches, stored responses by their id. An operator can switch
//! these on by name. The APIs for managing the organisation have no name and stay off.
//!
//! An endpoint whose body is no JSON, or that fetches by its nature, has a name, too. The bodies of the others are read.

use model::{REMOTE, STORED};

/// One provider's credential.
#[derive(Debug)]
pub struct BuiltIn {
    /// The name of the credential.
    pub name: &'static str,
    /// A name that the credential shares with others, and that refers to all of them.
    pub group: Option<&'static str>,
    /// The bodies of its requests are read, because its provider fetches, calls others and keeps state: see
    /// [`crate::permits`].
    pub guarded: bool,
    /// The one host of the credential.
    pub host: &'static str,
    /// The requests on the host that get the credential.
    pub scope: Scope,
    /// Further endpoints, which the operator can switch on.
    pub also: &'static [Also],
    /// The variables and headers, in order. The first injection with a value counts.
    pub injections: &'static [HeaderInjection],
}

/// The requests that get a built-in credential.
#[derive(Clone, Copy, Debug)]
pub enum Scope {
    /// git on the container's repositories.
    GitHubGit,
    /// The API, on the container's repositories and on resources that belong to no repository.
    GitHubApi,
    /// These endpoints.
    Endpoints(&'static [&'static str]),
}

/// Endpoints that are off unless the operator switches them on.
#[derive(Debug)]
pub struct Also {
    /// The name in `also`.
    pub name: &'static str,
    /// The endpoints.
    pub endpoints: &'static [&'static str],
}

/// Variables, and the header for their value.
#[derive(Debug)]
pub struct HeaderInjection {
    /// The variables, in order. The first that is set counts.
    pub variables: &'static [&'static str],
    /// The header.
    pub header: &'static str,
    /// The header's value, with `{}` for the credential's value.
    pub format: &'static str,
}

impl BuiltIn {
    /// Whether `name` is the name of the credential or of its group.
    pub fn is_named(&self, name: &str) -> bool {
        self.name == name || self.group == Some(name)
    }

    /// Whether this is a credential for GitHub.
    pub fn is_github(&self) -> bool {
        matches!(self.scope, Scope::GitHubGit | Scope::GitHubApi)
    }

    /// The endpoints that the operator switches on with `name` in `also`. Empty for a name that permits members of
    /// bodies.
    ///
    /// # Errors
    /// If the credential has nothing of that name. The error lists the known names.
    pub fn also(&self, name: &str) -> Result<&'static [&'static str], String> {
        let members = if self.guarded { &[REMOTE, STORED][..] } else { &[] };
        let named = self.also.iter().find(|also| also.name == name).map(|also| also.endpoints);
        named.or_else(|| members.contains(&name).then_some(&[][..])).ok_or_else(|| {
            let known: Vec<&str> = self.also.iter().map(|also| also.name).chain(members.iter().copied()).collect();
            match known.as_slice() {
                [] => format!("{} has no endpoints to switch on; remove {name:?}", self.name),
                _ => format!("{} has no endpoints {name:?}; expected some of {}", self.name, known.join(", ")),
            }
        })
    }
}

const GITHUB: &[&str] = &["GITHUB_TOKEN", "GH_TOKEN"];

const BEARER: &str = "Bearer {}";

/// All built-in credentials.
pub const BUILT_IN: &[BuiltIn] = &[
    BuiltIn {
        name: "github-git",
        group: Some("github"),
        guarded: false,
        host: "github.com",
        scope: Scope::GitHubGit,
        also: &[],
        injections: &[HeaderInjection {
            variables: GITHUB,
            header: "authorization",
            format: "Basic x-access-token:{}",
        }],
    },
    BuiltIn {
        name: "github-api",
        group: Some("github"),
        guarded: false,
        host: "api.github.com",
        scope: Scope::GitHubApi,
        also: &[],
        injections: &[HeaderInjection { variables: GITHUB, header: "authorization", format: BEARER }],
    },
    BuiltIn {
        name: "anthropic",
        group: None,
        guarded: true,
        host: "api.anthropic.com",
        scope: Scope::Endpoints(&[
            "POST /v1/messages",
            "POST /v1/messages/count_tokens",
            "GET /v1/models",
            "GET /v1/models/*",
        ]),
        also: &[
            Also {
                name: "batches",
                endpoints: &[
                    "GET|POST /v1/messages/batches",
                    "DELETE|GET /v1/messages/batches/*",
                    "POST /v1/messages/batches/*/cancel",
                    "GET /v1/messages/batches/*/results",
                ],
            },
            Also {
                name: "files",
                endpoints: &["GET|POST /v1/files", "DELETE|GET /v1/files/*", "GET /v1/files/*/content"],
            },
            Also {
                name: "skills",
                endpoints: &[
                    "GET|POST /v1/skills",
                    "DELETE|GET /v1/skills/*",
                    "GET|POST /v1/skills/*/versions",
                    "DELETE|GET /v1/skills/*/versions/*",
                ],
            },
        ],
        injections: &[
            HeaderInjection { variables: &["CLAUDE_CODE_OAUTH_TOKEN"], header: "authorization", format: BEARER },
            HeaderInjection { variables: &["ANTHROPIC_API_KEY"], header: "x-api-key", format: "{}" },
        ],
    },
    BuiltIn {
        name: "openai",
        group: None,
        guarded: true,
        host: "api.openai.com",
        scope: Scope::Endpoints(&[
            "POST /v1/chat/completions",
            "POST /v1/responses",
            "POST /v1/embeddings",
            "GET /v1/models",
            "GET /v1/models/*",
        ]),
        also: &[
            Also {
                name: "audio",
                endpoints: &["POST /v1/audio/speech", "POST /v1/audio/transcriptions", "POST /v1/audio/translations"],
            },
            Also {
                name: "batches",
                endpoints: &["GET|POST /v1/batches", "GET /v1/batches/*", "POST /v1/batches/*/cancel"],
            },
            Also {
                name: "conversations",
                endpoints: &[
                    "POST /v1/conversations",
                    "DELETE|GET|POST /v1/conversations/*",
                    "GET|POST /v1/conversations/*/items",
                    "DELETE|GET /v1/conversations/*/items/*",
                ],
            },
            Also {
                name: "files",
                endpoints: &[
                    "GET|POST /v1/files",
                    "DELETE|GET /v1/files/*",
                    "GET /v1/files/*/content",
                    "POST /v1/uploads",
                    "POST /v1/uploads/*/*",
                ],
            },
            Also {
                name: "images",
                endpoints: &["POST /v1/images/generations", "POST /v1/images/edits", "POST /v1/images/variations"],
            },
            Also {
                name: "responses",
                endpoints: &[
                    "DELETE|GET /v1/responses/*",
                    "GET /v1/responses/*/input_items",
                    "POST /v1/responses/*/cancel",
                ],
            },
            Also {
                name: "vector-stores",
                endpoints: &[
                    "GET|POST /v1/vector_stores",
                    "DELETE|GET|POST /v1/vector_stores/*",
                    "DELETE|GET|POST /v1/vector_stores/*/**",
                ],
            },
        ],
        injections: &[HeaderInjection { variables: &["OPENAI_API_KEY"], header: "authorization", format: BEARER }],
    },
    BuiltIn {
        name: "codex",
        group: None,
        guarded: true,
        host: "chatgpt.com",
        scope: Scope::Endpoints(&[
            "POST /backend-api/codex/responses",
            "POST /backend-api/codex/responses/compact",
            "GET /backend-api/codex/models",
            "GET /backend-api/wham/config/requirements",
            "GET /backend-api/wham/accounts/check",
            "GET /backend-api/wham/usage",
        ]),
        also: &[],
        // The source is a login: see oauth/provider.rs.
        injections: &[],
    },
    BuiltIn {
        name: "gemini-cli",
        group: None,
        guarded: true,
        host: "cloudcode-pa.googleapis.com",
        // The endpoints that gemini-cli's packages/core/src/code_assist/server.ts uses, without those that change the
        // account.
        scope: Scope::Endpoints(&[
            "POST /v1internal:generateContent",
            "POST /v1internal:streamGenerateContent",
            "POST /v1internal:countTokens",
            "POST /v1internal:loadCodeAssist",
            "POST /v1internal:retrieveUserQuota",
            "POST /v1internal:listExperiments",
            "POST /v1internal:fetchAdminControls",
            "POST /v1internal:recordCodeAssistMetrics",
            "GET /v1internal:getCodeAssistGlobalUserSetting",
        ]),
        also: &[Also {
            name: "account",
            endpoints: &[
                "POST /v1internal:onboardUser",
                "GET /v1internal/operations/*",
                "POST /v1internal:setCodeAssistGlobalUserSetting",
            ],
        }],
        injections: &[],
    },
    BuiltIn {
        name: "gemini",
        group: None,
        guarded: true,
        host: "generativelanguage.googleapis.com",
        scope: Scope::Endpoints(&[
            "POST /v1*/models/*:generateContent",
            "POST /v1*/models/*:streamGenerateContent",
            "POST /v1*/models/*:countTokens",
            "POST /v1*/models/*:embedContent",
            "POST /v1*/models/*:batchEmbedContents",
            "GET /v1*/models",
            "GET /v1*/models/*",
        ]),
        also: &[
            Also {
                name: "batches",
                endpoints: &[
                    "POST /v1*/models/*:batchGenerateContent",
                    "POST /v1*/models/*:asyncBatchEmbedContent",
                    "GET /v1*/batches",
                    "DELETE|GET /v1*/batches/*",
                    "POST /v1*/batches/*:cancel",
                ],
            },
            Also {
                name: "caches",
                endpoints: &["GET|POST /v1*/cachedContents", "DELETE|GET|PATCH /v1*/cachedContents/*"],
            },
            Also {
                name: "files",
                endpoints: &[
                    "POST|PUT /upload/v1*/files",
                    "GET /v1*/files",
                    "DELETE|GET /v1*/files/*",
                    "GET /download/v1*/files/*",
                ],
            },
            Also {
                name: "tuned-models",
                endpoints: &[
                    "GET /v1*/tunedModels",
                    "GET /v1*/tunedModels/*",
                    "POST /v1*/tunedModels/*:generateContent",
                    "POST /v1*/tunedModels/*:streamGenerateContent",
                ],
            },
        ],
        injections: &[HeaderInjection {
            variables: &["GEMINI_API_KEY", "GOOGLE_API_KEY"],
            header: "x-goog-api-key",
            format: "{}",
        }],
    },
    BuiltIn {
        name: "tavily",
        group: None,
        guarded: false,
        host: "api.tavily.com",
        scope: Scope::Endpoints(&["POST /search"]),
        also: &[
            Also { name: "fetch", endpoints: &["POST /extract", "POST /crawl", "POST /map"] },
            Also { name: "research", endpoints: &["POST /research", "GET /research/*"] },
            Also { name: "usage", endpoints: &["GET /usage"] },
        ],
        injections: &[HeaderInjection { variables: &["TAVILY_API_KEY"], header: "authorization", format: BEARER }],
    },
    BuiltIn {
        name: "perplexity",
        group: None,
        guarded: true,
        host: "api.perplexity.ai",
        scope: Scope::Endpoints(&[
            "POST /chat/completions",
            "POST /search",
            "POST /v1/responses",
            "POST /v1/embeddings",
        ]),
        also: &[Also {
            name: "async",
            endpoints: &["GET|POST /async/chat/completions", "GET /async/chat/completions/*"],
        }],
        injections: &[HeaderInjection { variables: &["PERPLEXITY_API_KEY"], header: "authorization", format: BEARER }],
    },
    BuiltIn {
        name: "semantic-scholar",
        group: None,
        guarded: false,
        host: "api.semanticscholar.org",
        scope: Scope::Endpoints(&[
            "GET /graph/v1/**",
            "POST /graph/v1/paper/batch",
            "POST /graph/v1/author/batch",
            "GET /recommendations/v1/papers/forpaper/*",
            "POST /recommendations/v1/papers",
            "POST /recommendations/v1/papers/",
        ]),
        also: &[Also { name: "datasets", endpoints: &["GET /datasets/v1/**"] }],
        injections: &[HeaderInjection { variables: &["SEMANTIC_SCHOLAR_API_KEY"], header: "x-api-key", format: "{}" }],
    },
    BuiltIn {
        name: "openrouter",
        group: None,
        guarded: true,
        host: "openrouter.ai",
        scope: Scope::Endpoints(&[
            "POST /api/v1/chat/completions",
            "POST /api/v1/completions",
            "POST /api/v1/responses",
            "POST /api/v1/messages",
            "POST /api/v1/embeddings",
            "GET /api/v1/models",
            "GET /api/v1/models/**",
            "GET /api/v1/providers",
        ]),
        also: &[
            Also { name: "account", endpoints: &["GET /api/v1/key", "GET /api/v1/credits"] },
            Also { name: "generations", endpoints: &["GET /api/v1/generation"] },
        ],
        injections: &[HeaderInjection { variables: &["OPENROUTER_API_KEY"], header: "authorization", format: BEARER }],
    },
    BuiltIn {
        name: "groq",
        group: None,
        guarded: true,
        host: "api.groq.com",
        scope: Scope::Endpoints(&[
            "POST /openai/v1/chat/completions",
            "POST /openai/v1/responses",
            "POST /openai/v1/embeddings",
            "POST /openai/v1/audio/speech",
            "GET /openai/v1/models",
            "GET /openai/v1/models/**",
        ]),
        also: &[
            Also {
                name: "audio",
                endpoints: &["POST /openai/v1/audio/transcriptions", "POST /openai/v1/audio/translations"],
            },
            Also {
                name: "batches",
                endpoints: &[
                    "GET|POST /openai/v1/batches",
                    "GET /openai/v1/batches/*",
                    "POST /openai/v1/batches/*/cancel",
                ],
            },
            Also {
                name: "files",
                endpoints: &[
                    "GET|POST /openai/v1/files",
                    "DELETE|GET /openai/v1/files/*",
                    "GET /openai/v1/files/*/content",
                ],
            },
        ],
        injections: &[HeaderInjection { variables: &["GROQ_API_KEY"], header: "authorization", format: BEARER }],
    },
    BuiltIn {
        name: "mistral",
        group: None,
        guarded: true,
        host: "api.mistral.ai",
        scope: Scope::Endpoints(&[
            "POST /v1/chat/completions",
            "POST /v1/fim/completions",
            "POST /v1/embeddings",
            "POST /v1/moderations",
            "POST /v1/chat/moderations",
            "POST /v1/ocr",
            "GET /v1/models",
            "GET /v1/models/*",
        ]),
        also: &[
            Also { name: "audio", endpoints: &["POST /v1/audio/transcriptions"] },
            Also {
                name: "agents",
                endpoints: &["POST /v1/agents/completions", "GET|POST /v1/agents", "GET|PATCH /v1/agents/*"],
            },
            Also {
                name: "batches",
                endpoints: &["GET|POST /v1/batch/jobs", "GET /v1/batch/jobs/*", "POST /v1/batch/jobs/*/cancel"],
            },
            Also {
                name: "conversations",
                endpoints: &[
                    "GET|POST /v1/conversations",
                    "DELETE|GET|POST /v1/conversations/*",
                    "GET|POST /v1/conversations/*/*",
                ],
            },
            Also {
                name: "files",
                endpoints: &[
                    "GET|POST /v1/files",
                    "DELETE|GET /v1/files/*",
                    "GET /v1/files/*/content",
                    "GET /v1/files/*/url",
                ],
            },
        ],
        injections: &[HeaderInjection { variables: &["MISTRAL_API_KEY"], header: "authorization", format: BEARER }],
    },
    BuiltIn {
        name: "xai",
        group: None,
        guarded: true,
        host: "api.x.ai",
        scope: Scope::Endpoints(&[
            "POST /v1/chat/completions",
            "POST /v1/responses",
            "POST /v1/messages",
            "POST /v1/tokenize-text",
            "GET /v1/models",
            "GET /v1/models/*",
            "GET /v1/language-models",
            "GET /v1/language-models/*",
        ]),
        also: &[
            Also { name: "deferred", endpoints: &["GET /v1/chat/deferred-completion/*"] },
            Also {
                name: "files",
                endpoints: &["GET|POST /v1/files", "DELETE|GET|PUT /v1/files/*", "GET /v1/files/*/content"],
            },
            Also { name: "images", endpoints: &["POST /v1/images/generations"] },
            Also { name: "responses", endpoints: &["DELETE|GET /v1/responses/*"] },
        ],
        injections: &[HeaderInjection { variables: &["XAI_API_KEY"], header: "authorization", format: BEARER }],
    },
    BuiltIn {
        name: "deepseek",
        group: None,
        guarded: true,
        host: "api.deepseek.com",
        scope: Scope::Endpoints(&[
            "POST /chat/completions",
            "POST /v1/chat/completions",
            "POST /beta/chat/completions",
            "POST /beta/completions",
            "POST /anthropic/v1/messages",
            "GET /models",
            "GET /v1/models",
        ]),
        also: &[Also { name: "balance", endpoints: &["GET /user/balance"] }],
        injections: &[HeaderInjection { variables: &["DEEPSEEK_API_KEY"], header: "authorization", format: BEARER }],
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use policy::endpoint::Endpoint;
    use std::collections::BTreeSet;

    #[test]
    fn every_row_is_understood_and_what_is_off_is_not_on() {
        for built_in in BUILT_IN {
            let Scope::Endpoints(on) = built_in.scope else { continue };
            let on: Vec<Endpoint> = on.iter().flat_map(|text| Endpoint::parse(text, None)).collect();
            assert!(!on.is_empty(), "{}", built_in.name);
            let names: BTreeSet<&str> = built_in.also.iter().map(|also| also.name).collect();
            assert_eq!(names.len(), built_in.also.len(), "{}", built_in.name);
            for text in built_in.also.iter().flat_map(|also| also.endpoints) {
                assert!(Endpoint::parse(text, None).is_ok(), "{text}");
                let (methods, path) = text.split_once(' ').unwrap_or_default();
                let path = path.replace("**", "x").replace('*', "x");
                for method in methods.split('|') {
                    let found = on.iter().find(|endpoint| endpoint.allows(method.as_bytes(), path.as_bytes()));
                    assert!(found.is_none(), "{}: {method} {path} is {found:?}", built_in.name);
                }
            }
        }
    }
}
