//! The rules: every name by which the gateway refuses a request, lets one pass, or explains an audit line.
//!
//! The table below is the contract between the stages, the audit, the metrics and the operator. `docs/refusals.md` is
//! generated from it (`tests/refusals.rs`). A new rule is one line in this table. No other list of rules is edited.
//!
//! The variant is the rule's name in camel case: `push.protected` is `Rule::PushProtected`. The reason of a refusal is
//! worded where the variant is used.
//!
//! A rule's name never changes its meaning: operators filter audit lines by it, and agents act on it.
//!
//! The file is longer than 600 lines because it is one table.

use crate::Stage;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// The effect of a rule on a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Refuses the request, by default with this HTTP status.
    Refuses(u16),
    /// Allows the request.
    Allows,
    /// Allows the request, or refuses it with this HTTP status.
    Either(u16),
    /// Explains an audit line. No client receives the rule.
    Audited,
}

/// How a rule is known to work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// By an end-to-end test, through Envoy: the name of its function in `tests/e2e`.
    Test(&'static str),
    /// By a case of `tests/corpus/github/bypass-cases.jsonl`, through Envoy: its id.
    GitHub(&'static str),
    /// By a case of `tests/corpus/push/cases.jsonl`, through Envoy: its name.
    Push(&'static str),
    /// By a case of `tests/corpus/chain`, natively, by `policy explain` and through Envoy: its file and its name.
    Chain(&'static str, &'static str),
    /// By a native test only: the name of its function.
    Native(&'static str),
    /// By no request from outside: the reason.
    Cannot(&'static str),
}

macro_rules! rules {
    ($($rule:ident = $name:literal, $stage:ident, $effect:expr, $meaning:literal, $advice:literal, $reached:expr;)+) => {
        /// A rule. Serialises as its name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Rule {
            $(#[doc = $meaning] $rule,)+
        }

        impl Rule {
            /// All rules, in the order of the chain.
            pub const ALL: &'static [Self] = &[$(Self::$rule),+];

            /// The stable name, for example `identity.unknown`: in a refusal's body, in `x-sallyport-rule`, in the
            /// audit and in the metrics.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$rule => $name,)+ }
            }

            /// The stage that applies the rule.
            pub const fn stage(self) -> Stage {
                match self { $(Self::$rule => Stage::$stage,)+ }
            }

            /// The rule's effect on a request.
            pub const fn effect(self) -> Effect {
                match self { $(Self::$rule => $effect,)+ }
            }

            /// The rule's condition, in one line for the operator.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$rule => $meaning,)+ }
            }

            /// The next step for the operator or the agent, in one sentence. Empty if no step is needed.
            pub const fn advice(self) -> &'static str {
                match self { $(Self::$rule => $advice,)+ }
            }

            /// The rule's test.
            pub const fn reached(self) -> Reached {
                match self { $(Self::$rule => $reached,)+ }
            }
        }
    };
}

use Effect::{Allows, Audited, Either, Refuses};
use Reached::{Cannot, Chain, GitHub, Native, Push, Test};

rules! {
    // Listener: Envoy, before any filter of ours.
    ListenerHandshake = "listener.handshake", Listener, Audited,
        "A TLS handshake failed.",
        "Install the gateway's CA in the sandbox, and name a plain host in the handshake.",
        Test("a_refused_handshake_has_a_line_and_a_good_one_has_none");
    ListenerClosed = "listener.closed", Listener, Audited,
        "Envoy ended the request before any stage was asked.",
        "Read `reason` in the audit line: it holds Envoy's own code.",
        Chain("hosts.yaml", "a zero byte");
    ListenerUnnamed = "listener.unnamed", Listener, Audited,
        "The decision that the stages noted cannot be read.",
        "Report it with the control plane's log: it is a fault of the gateway.",
        Cannot("only a fault of the gateway writes such a note; `a_denial_always_has_stage_and_rule` makes one natively");
    ListenerFilterFailed = "listener.filter-failed", Listener, Refuses(503),
        "A filter of the gateway crashed and is started again.",
        "Try again; report the request that the audit line names.",
        Test("whoever_makes_a_filter_panic_is_named_and_blocked_at_the_third_time");
    LimitHeaders = "limit.headers", Listener, Refuses(431),
        "The request's headers are larger than 60 KiB, or more than 100.",
        "Send fewer or shorter headers.",
        Test("a_head_of_60_kib_passes_and_not_one_byte_more");
    LimitBody = "limit.body", Listener, Refuses(413),
        "A body that a stage holds back is larger than 4 MiB, or on GitHub's hosts than 20 MiB.",
        "Send a smaller body.",
        Cannot("each filter drops a body that it holds back well before Envoy's limit, and refuses by a rule of its own");
    LimitRequestTime = "limit.request-time", Listener, Refuses(408),
        "The request's headers took longer than 30 s to arrive.",
        "Try again.",
        Test("a_head_that_takes_too_long_is_refused_with_its_rule");
    LimitIdle = "limit.idle", Listener, Refuses(408),
        "Neither side sent anything for an hour. Envoy chooses the status.",
        "Try again.",
        Cannot("a test would have to be silent for an hour; the limit itself is checked in Envoy's configuration");
    LimitOverload = "limit.overload", Listener, Refuses(503),
        "Envoy is short of memory or of connections. Envoy chooses the status.",
        "Try again later; give the gateway more memory.",
        Test("an_envoy_at_the_end_of_its_heap_refuses_requests_with_a_reason");

    // Request: the identity filter, by the request's form alone.
    RequestMalformed = "request.malformed", Request, Refuses(400),
        "Envoy cannot read the request.",
        "Send a valid HTTP request.",
        Test("bytes_that_are_neither_tls_nor_http_reach_nobody");
    RequestTarget = "request.target", Request, Refuses(404),
        "The request's target is neither a path nor a URL with one, for example `OPTIONS *`.",
        "Send a path that begins with `/`.",
        Test("a_target_without_a_path_is_refused_with_its_rule");
    RequestUpgrade = "request.upgrade", Request, Refuses(403),
        "The request asks for a protocol that the gateway does not pass on.",
        "Use plain HTTP, or a WebSocket where the host has one.",
        Test("an_upgrade_to_connect_opens_no_way_for_raw_bytes");
    RequestConnect = "request.connect", Request, Allows,
        "A CONNECT has a valid form, and the tunnel is opened; the requests inside are judged one by one.",
        "",
        Chain("tunnels.yaml", "an allowed host");
    RequestNestedConnect = "request.nested-connect", Request, Refuses(403),
        "A CONNECT was sent inside a tunnel.",
        "Send CONNECT to the proxy itself.",
        Chain("nested.yaml", "the tunnel's own host");
    RequestAuthority = "request.authority", Request, Refuses(403),
        "The request does not name exactly one host, or the host is no fully qualified name: an IP address, `localhost`, a single label, or a name with userinfo.",
        "Name the host by its full DNS name.",
        Chain("hosts.yaml", "loopback");
    RequestPort = "request.port", Request, Refuses(403),
        "The port is not 443 or 80, or a CONNECT names none.",
        "Use port 443 or 80.",
        Chain("ports.yaml", "port 22");
    RequestPath = "request.path", Request, Refuses(403),
        "The path holds a byte that no URI holds.",
        "Percent-encode the path.",
        Chain("paths.yaml", "a letter beyond ASCII");
    RequestMethod = "request.method", Request, Refuses(403),
        "The method is TRACE, which would echo the credential.",
        "Use another method.",
        Chain("egress.yaml", "TRACE");
    RequestSni = "request.sni", Request, Refuses(421),
        "The request names another host than its TLS handshake.",
        "Open a connection for each host.",
        Chain("handshakes.yaml", "a refused host");
    RequestUnreadable = "request.unreadable", Request, Refuses(400),
        "`policy explain` cannot read its input.",
        "Mend the input; the reason names the field.",
        Test("a_line_that_explain_cannot_read_has_a_rule_too");

    // Identity: the container that sends the request, and the hosts that it may reach.
    LimitTcp = "limit.tcp", Identity, Audited,
        "The address has 512 open TCP connections, an unregistered address 16 (`limits` in the configuration); or all unregistered addresses have half of Envoy's. The connection is closed at once. An address has one line a minute in each Envoy worker.",
        "Close connections that are not used, and reuse them; register the container.",
        Test("a_container_has_512_connections_and_a_stranger_16_and_not_one_more");
    LimitConnections = "limit.connections", Identity, Refuses(429),
        "The address has 256 open tunnels in one Envoy worker.",
        "Close tunnels that are not used.",
        Test("an_address_has_256_tunnels_and_not_one_more");
    LimitStreams = "limit.streams", Identity, Refuses(429),
        "The address has 256 requests under way in one Envoy worker.",
        "Wait for requests to end.",
        Test("an_address_has_256_requests_under_way_and_not_one_more");
    LimitRate = "limit.rate", Identity, Refuses(429),
        "The address opens more than 32 tunnels per second after a burst of 256; an unregistered address: more than 8 tunnels per second after the same burst, or 8 requests per second after 128; or sends 5,000 requests at once where 250 per second are allowed, and its tunnels end. The refusal comes three seconds late.",
        "Open fewer connections, and reuse them; wait for responses; register the container.",
        Test("where_nobody_is_known_128_requests_are_looked_up_at_once_and_then_8_in_a_second");
    LimitNames = "limit.names", Identity, Refuses(429),
        "The address opened 200 tunnels within an hour to hosts that are not allowed.",
        "Allow the host, or stop asking for it.",
        Test("an_address_asks_for_200_strange_names_in_an_hour_and_not_one_more");
    LimitLookups = "limit.lookups", Identity, Refuses(429),
        "64 requests of the address wait for the registry.",
        "Wait for requests to end.",
        Test("an_address_has_64_requests_wait_for_the_registry_and_not_one_more");
    IdentityUnavailable = "identity.unavailable", Identity, Refuses(503),
        "The address is not known in this worker and the registry does not answer, or the gateway cannot judge now.",
        "Try again; check that the control plane runs.",
        Test("while_the_control_plane_is_stopped_what_needs_it_is_refused_with_a_reason_and_soon");
    IdentityUnknown = "identity.unknown", Identity, Refuses(403),
        "No container is registered at the source address.",
        "Register the container with the address that the gateway sees.",
        Test("an_unregistered_address_is_told_so_and_reaches_nothing");
    IdentityExpired = "identity.expired", Identity, Refuses(403),
        "The container's registration has expired.",
        "Register the container again, or with a longer `ttl`.",
        Test("an_expired_record_is_told_so_in_every_form");
    IdentityBlocked = "identity.blocked", Identity, Refuses(403),
        "The gateway blocked the container after three filter crashes within a minute, or ten within a day.",
        "Read the audit, then register the container again.",
        Test("whoever_makes_a_filter_panic_is_named_and_blocked_at_the_third_time");
    EgressHost = "egress.host", Identity, Either(403),
        "The policy allows the request, and it passes; or neither the policy nor the record lists the host, and it is refused.",
        "Add the host to `egress` in the policy, or to the record's `egress_allow`.",
        Test("a_host_that_is_not_allowed_is_refused");
    EgressMethod = "egress.method", Identity, Refuses(403),
        "The policy lists the host for other methods only.",
        "Use one of the methods that the reason names.",
        Test("a_registry_is_read_and_nothing_is_sent_to_it");
    EgressPath = "egress.path", Identity, Refuses(403),
        "A rule of the policy or the record refuses the request, or the host has rules on paths and no rule allows the request; or servers may read its path in two ways.",
        "Send a request that a rule allows, or add the rule that the reason names to `allow` of the host.",
        Chain("rules.yaml", "another path");
    EgressContainer = "egress.container", Identity, Allows,
        "The record's `egress_allow` allows the request.",
        "",
        Chain("egress.yaml", "a host of the record");

    // GitHub: the effect of a request to one of GitHub's hosts.
    GithubUnavailable = "github.unavailable", Github, Refuses(503),
        "The policy changed while the body of a write came; or the filter has no rules or no record, or a call of Envoy's failed.",
        "Try again; if that does not help, report it with Envoy's log.",
        Test("a_write_that_ends_under_another_policy_is_refused");
    GithubHost = "github.host", Github, Refuses(403),
        "Nothing may be requested from this host of GitHub's.",
        "Use api.github.com or git.",
        GitHub("K03");
    GithubWeb = "github.web", Github, Refuses(403),
        "The request to github.com is not one that git or Git LFS sends.",
        "Use git, or api.github.com.",
        GitHub("K13");
    GithubCodeload = "github.codeload", Github, Refuses(403),
        "The request to codeload.github.com is for no archive.",
        "Download an archive by the URL that GitHub's API redirects to.",
        GitHub("R01");
    GithubLfs = "github.lfs", Github, Refuses(403),
        "The Git LFS request is neither a download nor an upload, or a bot uploads or locks.",
        "Allow `lfs/upload` or `lfs/lock` under `github.operations`.",
        Test("lfs_is_by_the_policy_and_its_store_gets_no_credential_of_ours");
    GithubTarget = "github.target", Github, Refuses(403),
        "The path is not spelled plainly: an empty segment, a dot segment, or needless percent-encoding.",
        "Spell the path as GitHub's documentation does.",
        GitHub("A03");
    GithubHeader = "github.header", Github, Refuses(403),
        "A header makes another request of it, is there twice, or asks for another protocol.",
        "Leave the header out that the reason names.",
        GitHub("C04");
    GithubQuery = "github.query", Github, Refuses(403),
        "The operation does not take this query parameter.",
        "Leave the parameter out that the reason names.",
        GitHub("A33");
    GithubBody = "github.body", Github, Refuses(403),
        "The body is no plain JSON object, holds an unexpected member, or is longer than 1 MiB.",
        "Send the members that GitHub documents for the operation.",
        GitHub("E03");
    GithubAlias = "github.alias", Github, Refuses(403),
        "A write names its repository by its number.",
        "Name the repository as owner/name.",
        Cannot("the table of operations has no write by a number, so `github.unknown-operation` decides first");
    GithubRepo = "github.repo", Github, Refuses(403),
        "The repository is not one of the container's.",
        "Register the container with this repository.",
        GitHub("B04");
    GithubUnknownOperation = "github.unknown-operation", Github, Refuses(403),
        "The gateway knows no such operation or mutation of GitHub's API.",
        "Use an operation that GitHub documents; a newer gateway knows newer ones.",
        GitHub("A08");
    GithubBlockedPattern = "github.blocked-pattern", Github, Refuses(403),
        "The path matches one of `blocked_api_patterns`.",
        "Remove the pattern from the policy.",
        Chain("operations.yaml", "a path that matches a pattern");
    GithubOperation = "github.operation", Github, Either(403),
        "The policy allows or refuses the operation by its name.",
        "Change `github.operations` in the policy.",
        Chain("operations.yaml", "an operation that is allowed by its name");
    GithubOffByDefault = "github.off-by-default", Github, Refuses(403),
        "The operation has to be allowed by its name.",
        "Name the operation under `github.operations` in the policy.",
        GitHub("F06");
    GithubGraphql = "github.graphql", Github, Refuses(403),
        "The GraphQL document is malformed, over a limit, not sent by `POST /graphql`, or has a directive other than `@include` and `@skip`.",
        "Send a smaller, plain document by POST /graphql.",
        GitHub("G02");
    GithubField = "github.field", Github, Refuses(403),
        "A GraphQL field, or an argument of one, may not be read there.",
        "Leave the field out that the reason names.",
        GitHub("H39");
    GithubInput = "github.input", Github, Refuses(403),
        "A mutation's input has a member or a value that the gateway does not know there.",
        "Send the members that GitHub documents for the mutation.",
        GitHub("R03");
    GithubNodeId = "github.node-id", Github, Refuses(403),
        "A node id is not known, or of a type that has no place there.",
        "Use the id of a node in one of the container's repositories.",
        GitHub("I09");
    GithubNode = "github.node", Github, Refuses(403),
        "GitHub does not confirm an object of the request. It is in another repository, a branch that may not be moved, a label or a login that the policy refuses, a text of another account, or unknown.",
        "Use an object of one of the container's repositories; write a comment of your own in place of a change.",
        Test("what_a_write_names_is_confirmed_once_and_a_forged_name_is_refused");
    GithubIdsPending = "github.ids-pending", Github, Refuses(503),
        "GitHub's number of one of the container's repositories is not known yet.",
        "Try again in a few seconds.",
        Test("what_needs_the_number_waits_for_it_and_open_streams_go_on");
    GithubUnconfirmed = "github.unconfirmed", Github, Refuses(503),
        "The gateway could not ask GitHub what the objects of the request are.",
        "Try again; check the gateway's own credential for GitHub.",
        Test("a_write_that_cannot_be_confirmed_is_refused_to_try_again");
    LimitGithub = "limit.github", Github, Refuses(429),
        "The container has used its share of the API's quota of the gateway's credential, or the calls that the gateway makes for it in an hour, or GitHub has told its calls to pause. The stages credentials and push refuse by this rule too.",
        "Try again at the time that the reason names; a GitHub App has a quota for each owner.",
        Test("a_flooder_of_the_api_leaves_its_neighbour_a_share_of_the_quota");
    GithubProject = "github.project", Github, Refuses(403),
        "The mutation would change a project.",
        "Leave the projects out.",
        GitHub("R04");
    GithubBranch = "github.branch", Github, Refuses(403),
        "The branch is not one of the container's.",
        "Use a branch that fits `allowed_branches`; the reason lists them.",
        GitHub("F01");
    GithubProtectedBranch = "github.protected-branch", Github, Refuses(403),
        "The branch is protected by the policy, or is the repository's default branch.",
        "Use another branch and open a pull request.",
        GitHub("A14");
    GithubBranchName = "github.branch-name", Github, Refuses(403),
        "The text is no valid name of a branch.",
        "Name a branch that git would accept.",
        GitHub("R05");
    GithubNewName = "github.new-name", Github, Refuses(403),
        "The name has a character that a new branch of a bot may not have, or reads as something other than a branch.",
        "Use letters, digits and `._/+@=-`, or set `branch_characters`; the reason names the fault.",
        GitHub("N01");
    GithubDefaultUnknown = "github.default-unknown", Github, Refuses(503),
        "The repository's default branch, which is protected, is not known yet.",
        "Try again in a few seconds; check the gateway's own credential for GitHub.",
        GitHub("N26");
    GithubBranchMissing = "github.branch-missing", Github, Refuses(403),
        "The request does not name the branch, so GitHub would choose one.",
        "Name the branch.",
        GitHub("E06");
    GithubRef = "github.ref", Github, Refuses(403),
        "The ref is no branch.",
        "Name a ref that begins with `refs/heads/`.",
        GitHub("F03");
    GithubForce = "github.force", Github, Refuses(403),
        "The branch would be moved by force.",
        "Move the branch forward only, or set `allow_force_push`.",
        GitHub("E19");
    GithubDeleteBranch = "github.delete-branch", Github, Refuses(403),
        "A branch would be deleted or renamed.",
        "Keep the branch, or set `allow_branch_deletion`.",
        GitHub("R06");
    GithubBase = "github.base", Github, Refuses(403),
        "The base of a pull request would change.",
        "Open another pull request.",
        GitHub("R07");
    GithubHead = "github.head", Github, Refuses(403),
        "The head of a pull request lies in a repository that is not the container's.",
        "Push the branch to one of the container's repositories.",
        GitHub("F27");
    GithubPath = "github.path", Github, Refuses(403),
        "The path of a file is not plain: an empty, `.`, `..` or `.git` segment, a backslash, or a control character.",
        "Name the file by a plain path.",
        GitHub("R08");
    GithubRestrictedPath = "github.restricted-path", Github, Refuses(403),
        "A bot would write to one of `restricted_paths`, for example a workflow.",
        "Leave the file to a person, or change `github.restricted_paths`.",
        GitHub("R09");
    GithubTree = "github.tree", Github, Refuses(403),
        "An entry of a tree is no plain file with visible content.",
        "Write plain files with mode 100644 or 100755.",
        GitHub("R10");
    GithubCommand = "github.command", Github, Refuses(403),
        "The text mentions a bot, or one of its lines begins with a command to a bot.",
        "Reword the text, or change `github.commands`.",
        GitHub("F31");
    GithubLabel = "github.label", Github, Refuses(403),
        "The label is a command to an automation, or holds automations back and would be removed.",
        "Use another label, or change `github.denied_labels`, `github.allowed_labels` or `github.held_labels`.",
        GitHub("F33");
    GithubForeignIssue = "github.foreign-issue", Github, Refuses(403),
        "An issue is named by its number in all of GitHub, so it may lie in another repository.",
        "Leave the member out that the reason names.",
        GitHub("R11");
    GithubReadRepo = "github.read-repo", Github, Either(403),
        "The class `read-repo`: reading one repository.",
        "Allow the class for the container's `auth_mode`, or the operation by its name.",
        GitHub("A01");
    GithubReadAdmin = "github.read-admin", Github, Either(403),
        "The class `read-admin`: reading a repository's hooks, keys, secrets' names, collaborators.",
        "Allow the class for the container's `auth_mode`, or the operation by its name.",
        GitHub("R12");
    GithubReadGlobal = "github.read-global", Github, Either(403),
        "The class `read-global`: reading what belongs to no repository.",
        "Allow the class for the container's `auth_mode`, or the operation by its name.",
        GitHub("F62");
    GithubReadCross = "github.read-cross", Github, Either(403),
        "The class `read-cross`: reading across repositories, such as a search that is not narrowed to the container's, or a revision with a colon.",
        "Narrow the search with `repo:`, name a branch of the repository, or allow the operation by its name.",
        GitHub("B15");
    GithubReadAccount = "github.read-account", Github, Either(403),
        "The class `read-account`: reading organisations and accounts.",
        "Allow the class for the container's `auth_mode`, or the operation by its name.",
        GitHub("R13");
    GithubWriteCollab = "github.write-collab", Github, Either(403),
        "The class `write-collab`: issues, pull requests, comments, labels.",
        "Allow the class for the container's `auth_mode`, or the operation by its name.",
        GitHub("F26");
    GithubWriteObject = "github.write-object", Github, Either(403),
        "The class `write-object`: git objects that no ref leads to yet.",
        "Allow the class for the container's `auth_mode`, or the operation by its name.",
        GitHub("R14");
    GithubWriteRef = "github.write-ref", Github, Either(403),
        "The class `write-ref`: refs, and commits on a branch.",
        "Allow the class for the container's `auth_mode`, or the operation by its name.",
        GitHub("F02");
    GithubMerge = "github.merge", Github, Either(403),
        "The class `merge`: merging, now or later.",
        "Leave merging to a person, or allow the operation by its name.",
        GitHub("F12");
    GithubGate = "github.gate", Github, Either(403),
        "The class `gate`: checks, statuses and reviews, approvals included.",
        "Leave approval to a person, or allow the operation by its name.",
        GitHub("F20");
    GithubRelease = "github.release", Github, Either(403),
        "The class `release`: releases and their assets.",
        "Leave releases to a person, or allow the operation by its name.",
        GitHub("F34");
    GithubCi = "github.ci", Github, Either(403),
        "The class `ci`: running workflows and deployments.",
        "Allow the class for the container's `auth_mode`, or the operation by its name.",
        GitHub("D03");
    GithubAgent = "github.agent", Github, Either(403),
        "The class `agent`: starting an agent or an automation, an assignee or reviewer that is a bot included.",
        "Leave the bot out, or allow the operation by its name.",
        GitHub("B17");
    GithubAdmin = "github.admin", Github, Either(403),
        "The class `admin`: a repository's settings, keys, hooks, secrets, its deletion.",
        "Leave it to a person, or allow the operation by its name.",
        GitHub("F37");
    GithubExfil = "github.exfil", Github, Either(403),
        "The class `exfil`: carrying content to gists, forks, other repositories.",
        "Leave it to a person, or allow the operation by its name.",
        GitHub("F49");
    GithubAccount = "github.account", Github, Either(403),
        "The class `account`: organisations, projects, the user's own account.",
        "Leave it to a person, or allow the operation by its name.",
        GitHub("B16");

    // Credentials: whether a credential is added, and that no response contains it.
    CredentialsUnavailable = "credentials.unavailable", Credentials, Refuses(503),
        "The control plane did not answer the credential check.",
        "Try again; check that the control plane runs.",
        Test("while_the_control_plane_is_stopped_what_needs_it_is_refused_with_a_reason_and_soon");
    CredentialsUnreadable = "credentials.unreadable", Credentials, Refuses(403),
        "Envoy's check lacks the source address, the request or a plain host.",
        "Report it: it is a fault of the gateway.",
        Cannot("the identity stage lets no request pass without an address and a plain host");
    CredentialsStage = "credentials.stage", Credentials, Refuses(503),
        "A stage before the credential stage has not judged this request, or by a registration that is no longer in force. No credential was added, and nothing was sent.",
        "Try again; if the refusal stays, restart the gateway, and report it: it is a fault of the gateway.",
        Test("a_stage_that_is_left_out_gets_no_credential");
    CredentialsBlocked = "credentials.blocked", Credentials, Refuses(403),
        "The gateway blocked the container while the request was under way; see `identity.blocked`.",
        "Read the audit, then register the container again.",
        Cannot("the identity stage refuses a blocked container first, except for a request in the same moment; `a_blocked_container_gets_nothing` shows it natively");
    CredentialsHost = "credentials.host", Credentials, Refuses(403),
        "The host has no credential, or is allowed by a suffix where the credential needs its name.",
        "List the host by its name.",
        Cannot("routing asks the credential stage only for hosts with a credential; `a_host_that_is_allowed_by_a_suffix_has_no_credential_of_its_name` shows it natively");
    CredentialsContainer = "credentials.container", Credentials, Refuses(403),
        "The container may not use this credential: its record leaves it out, or it is for other labels, ids or another `auth_mode`.",
        "Name the credential in the record, or change `containers` in the credential's configuration.",
        Test("a_record_narrows_what_its_container_may_use");
    CredentialsRepo = "credentials.repo", Credentials, Refuses(403),
        "The repository is not one of the container's.",
        "Register the container with this repository.",
        Cannot("the github stage refuses such a repository first; `nothing_else_gets_a_credential` shows it natively");
    CredentialsPath = "credentials.path", Credentials, Refuses(403),
        "No credential is for this path, or servers may read the path in two ways. The status is 426 for a WebSocket.",
        "Use a path that the reason names, or add it to the credential's `paths`.",
        Test("what_a_credential_is_not_for_is_refused_and_does_not_arrive");
    CredentialsQuery = "credentials.query", Credentials, Refuses(403),
        "A credential of the client's stands behind a `;` in the query and cannot be removed.",
        "Leave the credential out; the gateway adds its own.",
        Test("a_credential_in_the_query_stands_there_once_and_is_ours");
    CredentialsMissing = "credentials.missing", Credentials, Refuses(502),
        "The gateway has no value for the credential, or a GitHub App's credential has no repository to be for.",
        "Set a variable that the reason names, or register the container with a repository.",
        Test("a_missing_value_is_a_502_that_names_the_variables");
    CredentialsSource = "credentials.source", Credentials, Refuses(503),
        "The source of the credential fails: a file, a command, a login that cannot be refreshed, or a GitHub App's token.",
        "Read /readyz or the control plane's log for the cause, then try again.",
        Test("a_command_that_gives_nothing_is_a_503_of_its_own");
    CredentialsRemoteTool = "credentials.remote-tool", Credentials, Refuses(403),
        "The body of a model request makes the provider fetch from a host that is not allowed, or call a server or a tool that the agent chose.",
        "Send the content itself (base64), fetch it in the sandbox, or allow the host; for the rest `also: [remote-tools]` of the credential.",
        Chain("models.yaml", "MCP servers");
    CredentialsStored = "credentials.stored", Credentials, Refuses(403),
        "The body of a model request names state that is stored at the provider, whose account all containers share.",
        "Send the whole conversation, or set `also: [stored]` of the credential.",
        Chain("models.yaml", "a stored file");
    CredentialsBody = "credentials.body", Credentials, Refuses(403),
        "The body of a model request cannot be read for certain: it is no JSON object in UTF-8, is declared or compressed otherwise, or the request is a WebSocket.",
        "Send JSON with `content-type: application/json`, plain or in zstd.",
        Chain("models.yaml", "no JSON");
    CredentialsGuard = "credentials.guard", Credentials, Refuses(502),
        "The model filter could not read what the credential permits, or a call of Envoy's failed. Nothing was sent, or the request never ended at the provider.",
        "Report it with Envoy's log: it is a fault of the gateway.",
        Cannot("the credential stage writes the guard that the model filter reads, and no sandbox can; `a_credential_without_a_guard_is_refused` shows it natively");
    LimitCompressed = "limit.compressed", Credentials, Refuses(429),
        "The compressed model requests under way in one Envoy worker need 96 MiB to be read, or those of one container 28 MiB.",
        "Try again when other requests are done, or send the body plain.",
        Native("a_container_has_its_share_and_the_worker_its_limit");
    CredentialsGit = "credentials.git", Credentials, Allows,
        "The credential for git was added.",
        "",
        Chain("git-services.yaml", "the list that git gets");
    CredentialsApi = "credentials.api", Credentials, Allows,
        "The credential for GitHub's API was added.",
        "",
        Chain("github.yaml", "an issue");
    CredentialsEndpoint = "credentials.endpoint", Credentials, Allows,
        "The credential of the path's provider was added.",
        "",
        Native("each_provider_gets_its_credential_in_its_header_on_what_an_agent_needs");
    CredentialsStub = "credentials.stub", Credentials, Allows,
        "The gateway answered a token endpoint itself, with placeholders and status 200.",
        "",
        Test("a_sandbox_that_asks_a_token_endpoint_gets_a_placeholder_and_nothing_goes_on");
    CredentialsScrub = "credentials.scrub", Credentials, Refuses(502),
        "The scrub filter could not read back the credential that was added, so no answer could be compared with it. Nothing was sent.",
        "Report it with Envoy's log: it is a fault of the gateway.",
        Cannot("the credential stage writes the place that the scrub filter reads, and no sandbox can; `a_credential_that_cannot_be_read_back_ends_the_request` shows it natively");

    // Push: the refs that a push moves, and how.
    PushAllowed = "push.allowed", Push, Allows,
        "The push may pass. The audit line names the credential that was added, or this rule if bytes of the push passed unread and its end never came.",
        "",
        Test("a_push_that_ends_in_the_middle_moves_nothing_and_the_next_one_passes");
    LimitPushes = "limit.pushes", Push, Refuses(429),
        "In one Envoy worker four pushes of the container are under way, its pushes hold 32 MiB, all pushes hold 128 MiB, or its packs decompressed to more than 2 GiB and 16 MiB per second after that.",
        "Push again when the other pushes are done.",
        Test("a_container_has_four_pushes_under_way_and_not_one_more");
    PushContentType = "push.content-type", Push, Refuses(403),
        "The push has another content type than git's.",
        "Push with git.",
        Test("a_push_that_is_encoded_or_typed_otherwise_than_by_git_is_refused_and_nothing_of_it_arrives");
    PushEncoding = "push.encoding", Push, Refuses(403),
        "The push has a content-encoding.",
        "Push with git.",
        Test("a_push_that_is_encoded_or_typed_otherwise_than_by_git_is_refused_and_nothing_of_it_arrives");
    PushMalformed = "push.malformed", Push, Refuses(403),
        "The push or its pack is not as git sends it.",
        "Push with git.",
        Push("list-ends-with-0001");
    PushSigned = "push.signed", Push, Refuses(403),
        "The push is signed (`git push --signed`).",
        "Push without --signed.",
        Push("push-cert");
    PushFormat = "push.format", Push, Refuses(403),
        "The repository's object format is not SHA-1.",
        "Use a repository with SHA-1.",
        Push("sha256-names");
    PushOption = "push.option", Push, Refuses(403),
        "The push has a push option (`git push -o`) that the policy does not list.",
        "Push without the option, or list it under `github.push_options`.",
        Push("push-option-not-listed");
    PushTime = "push.time", Push, Refuses(408),
        "The push took longer than `github.push_time`, 15 minutes by default.",
        "Push in smaller steps, or over a faster connection.",
        Native("a_push_has_an_end");
    PushLimit = "push.limit", Push, Refuses(403),
        "The push has more than 20 refs, more than 50,000 commits, 16 commits of GitHub's to look up for one ref or 16 that GitHub does not know as descendants in all, or exceeds another limit that the reason names.",
        "Push fewer refs or fewer commits at a time.",
        Push("21-refs");
    PushDuplicate = "push.duplicate", Push, Refuses(403),
        "The push names a ref twice.",
        "Name each ref once.",
        Push("duplicate");
    PushRef = "push.ref", Push, Refuses(403),
        "The name is no plain name of a branch or a tag.",
        "Push to refs/heads/ or refs/tags/.",
        Push("name-head");
    PushProtected = "push.protected", Push, Refuses(403),
        "The branch, or the tag's name, is protected by the policy, or is that of the repository's default branch.",
        "Push another branch and open a pull request.",
        Push("protected");
    PushNewName = "push.new-name", Push, Refuses(403),
        "The name has a character that a new branch or tag of a bot may not have, or reads as something else.",
        "Use letters, digits and `._/+@=-`, or set `branch_characters`; the reason names the fault.",
        Push("new-name-shell");
    PushDefaultUnknown = "push.default-unknown", Push, Refuses(503),
        "The repository's default branch, which is protected, is not known yet.",
        "Push again in a few seconds; check the gateway's own credential for GitHub.",
        Push("default-unknown");
    PushBranch = "push.branch", Push, Refuses(403),
        "The branch, or the tag's name, is not one of the container's.",
        "Push a branch that fits `allowed_branches`; the reason lists them.",
        Push("not-its-branch");
    PushDelete = "push.delete", Push, Refuses(403),
        "The push would delete a branch.",
        "Keep the branch, or set `allow_branch_deletion`.",
        Push("delete");
    PushTag = "push.tag", Push, Refuses(403),
        "The push would move or delete a tag.",
        "Push a tag of another name.",
        Push("tag-overwrite");
    PushForce = "push.force", Push, Refuses(403),
        "The branch would move to a commit that does not descend from its present one, or is not known to.",
        "Fetch and merge, or push another branch.",
        Push("force");
    PushStale = "push.stale", Push, Refuses(403),
        "GitHub has the ref elsewhere than the push says.",
        "Fetch, and push again.",
        Push("old-is-a-lie");
    PushUnconfirmed = "push.unconfirmed", Push, Refuses(503),
        "GitHub did not say where the refs are, or which commits descend from which.",
        "Push again; check the gateway's own credential for GitHub.",
        Test("while_github_cannot_be_asked_nothing_moves_and_the_next_try_works");
    PushUnfinished = "push.unfinished", Push, Refuses(502),
        "GitHub ended its answer before it had the whole push, the policy changed so that more has to be proved, or (in the audit only) the client left.",
        "Push again.",
        Test("a_server_that_ends_its_answer_before_it_has_the_push_is_not_heard");
    PushAdvertisement = "push.advertisement", Push, Refuses(502),
        "The server's list of refs, which comes before a push, cannot be read.",
        "Try again; check that the repository exists at GitHub.",
        Test("what_is_no_list_of_refs_is_told_as_such_and_git_prints_it");
    PushUnavailable = "push.unavailable", Push, Refuses(503),
        "The filter has no rules or no record, or a call of Envoy's failed.",
        "Push again; report it with Envoy's log.",
        Cannot("the control plane sends the rules with the filter, and the identity stage the record with each push");

    // Upstream: the resolution of the host, and the connection to it.
    UpstreamDns = "upstream.dns", Upstream, Refuses(503),
        "The host cannot be resolved, or only to addresses that are not public.",
        "Check the name, and the gateway's name servers.",
        Test("a_web_socket_reaches_a_host_that_only_dns_knows");
    UpstreamRefused = "upstream.refused", Upstream, Refuses(503),
        "Nothing accepts connections at the upstream's address.",
        "Try again later.",
        Test("each_fault_of_an_upstream_has_its_own_rule_and_request_ids_lead_to_the_audit");
    UpstreamTimeout = "upstream.timeout", Upstream, Refuses(503),
        "The upstream did not accept a connection in time.",
        "Try again.",
        Test("each_fault_of_an_upstream_has_its_own_rule_and_request_ids_lead_to_the_audit");
    UpstreamCertificate = "upstream.certificate", Upstream, Refuses(503),
        "The upstream's certificate is not valid for the host, or its CA is unknown to the gateway.",
        "Check the host's name; the operator names a CA of his own by `upstream_roots` or `upstreams`.",
        Test("each_fault_of_an_upstream_has_its_own_rule_and_request_ids_lead_to_the_audit");
    UpstreamBrokenOff = "upstream.broken-off", Upstream, Refuses(503),
        "The upstream ended the connection or the request before it answered, or its answer over HTTP/2 is larger than a limit.",
        "Try again, if the request may be done twice: the upstream may have acted on it.",
        Test("each_fault_of_an_upstream_has_its_own_rule_and_request_ids_lead_to_the_audit");
    UpstreamProtocol = "upstream.protocol", Upstream, Refuses(502),
        "The TLS handshake with the upstream failed, or its answer is not HTTP or larger than a limit. Envoy chooses the status.",
        "Trying again does not help; the audit's `reason` holds Envoy's own code.",
        Test("each_fault_of_an_upstream_has_its_own_rule_and_request_ids_lead_to_the_audit");
    UpstreamUnreachable = "upstream.unreachable", Upstream, Refuses(503),
        "The upstream cannot be reached for another reason. Envoy chooses the status.",
        "Try again; the audit's `reason` holds Envoy's own code.",
        Test("each_fault_of_an_upstream_has_its_own_rule_and_request_ids_lead_to_the_audit");
    LimitUpstream = "limit.upstream", Upstream, Refuses(503),
        "16,384 requests to one host are under way.",
        "Try again.",
        Cannot("a test would need 64 addresses with 256 requests each under way");
}

impl Rule {
    /// The default HTTP status of a refusal by this rule. A rule that never refuses has 403, because a denial is never
    /// a success.
    pub const fn status(self) -> u16 {
        match self.effect() {
            Refuses(status) | Either(status) => status,
            Allows | Audited => 403,
        }
    }

    /// The rule called `name`. Returns `None` if no rule has the name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|rule| rule.name() == name)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A rule equals its name, so that tests and corpora can compare it with text.
impl PartialEq<&str> for Rule {
    fn eq(&self, other: &&str) -> bool {
        self.name() == *other
    }
}

impl Serialize for Rule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Rule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::named(&name).ok_or_else(|| D::Error::custom(format!("no rule is called {name:?}")))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_rule_has_a_name_and_a_text_of_its_own() {
        let names: BTreeSet<&str> = Rule::ALL.iter().map(|rule| rule.name()).collect();
        assert_eq!(names.len(), Rule::ALL.len(), "a name stands twice");
        for rule in Rule::ALL {
            let plain = |b: u8| b.is_ascii_lowercase() || b == b'-';
            let (stage, word) = rule.name().split_once('.').unwrap();
            assert!(!word.is_empty() && stage.bytes().chain(word.bytes()).all(plain), "{rule}");
            assert!(rule.meaning().ends_with('.') && !rule.meaning().contains(['|', '\n']), "{rule}");
            let refuses = matches!(rule.effect(), Refuses(_) | Either(_));
            assert_eq!(rule.advice().ends_with('.'), refuses || rule.effect() == Audited, "{rule}");
            assert!(rule.status() >= 400, "{rule}: a refusal is never a success");
        }
    }

    #[test]
    fn a_rule_is_written_and_read_as_its_name() {
        for rule in Rule::ALL {
            let json = serde_json::to_string(rule).unwrap();
            assert_eq!(json, format!("{:?}", rule.name()));
            assert_eq!(serde_json::from_str::<Rule>(&json).unwrap(), *rule);
        }
        for unknown in ["\"\"", "\"identity\"", "\"identity.unknown \"", "7", "null"] {
            assert!(serde_json::from_str::<Rule>(unknown).is_err(), "{unknown}");
        }
    }
}
