#!/usr/bin/env python3
"""Makes graphql-types.tsv, graphql-inputs.tsv and graphql-mutations.tsv, which are committed beside this script.

    python3 graphql-generate.py SCHEMA MUTATIONS [--left-out]

SCHEMA is GitHub's public GraphQL schema (octokit/graphql-schema, schema.graphql, 22 July 2026), MUTATIONS a table of
mutations with their classes and the node types that each of their ids may have (the project's reference
`graphql-mutations.tsv`). With --left-out it names the fields of open types that are left
out. Needs graphql-core 3.2. The build needs neither: it reads the three tables.

What may be read is said here, by type: OPEN types with all their fields that lead to types of this table, LISTED types
with the fields that are named, and views (`Repository~`) of types that may belong to another repository.
"""
import sys
from pathlib import Path

from graphql import (
    build_schema,
    extend_schema,
    get_named_type,
    introspection_types,
    is_composite_type,
    is_enum_type,
    is_input_object_type,
    is_union_type,
    parse,
)

# Types that the schema does not have yet. GitHub's documentation or gh has them.
LATER = """
type IssueType { id: ID! name: String! description: String color: String isEnabled: Boolean! isPrivate: Boolean! }
type IssueTypeConnection { nodes: [IssueType] totalCount: Int! pageInfo: PageInfo! }
type AssigneeConnection { nodes: [Assignee] totalCount: Int! pageInfo: PageInfo! }
type ActorConnection { nodes: [Actor] totalCount: Int! pageInfo: PageInfo! }
extend type Repository {
  issueTypes(after: String before: String first: Int last: Int): IssueTypeConnection
  suggestedActors(after: String before: String capabilities: [String!] first: Int last: Int loginNames: String query: String): ActorConnection!
}
extend type Issue {
  issueType: IssueType
  assignedActors(after: String before: String first: Int last: Int): AssigneeConnection!
  suggestedActors(after: String before: String first: Int last: Int loginNames: String query: String): AssigneeConnection!
  blockedBy(after: String before: String first: Int last: Int): IssueConnection!
  blocking(after: String before: String first: Int last: Int): IssueConnection!
  duplicateOf: Issue
}
extend type PullRequest {
  assignedActors(after: String before: String first: Int last: Int): AssigneeConnection!
  suggestedActors(after: String before: String first: Int last: Int loginNames: String query: String): AssigneeConnection!
}
type LaterPayload {
  clientMutationId: String actor: Actor assignable: Assignable issue: Issue issueComment: IssueComment
  pullRequest: PullRequest
}
"""

# Parts of a repository, with all their fields that lead to types of this table. Their connections and edges, and all
# events of timelines, are added.
OPEN = """
Assignable Assignee AutoMergeRequest Blame BlameRange Blob CheckAnnotation CheckAnnotationPosition CheckAnnotationSpan
CheckRun CheckRunStateCount CheckStep CheckSuite Closable CodeOfConduct Comment Commit CommitComment
CommitCommentThread Comparison ContributingGuidelines Deployment DeploymentStatus Discussion DiscussionCategory
DiscussionComment DiscussionPoll DiscussionPollOption FundingLink GitActor GitObject GitSignature GpgSignature Issue
IssueComment IssueOrPullRequest IssueTemplate IssueTimelineItem IssueTimelineItems IssueType Label Labelable Language
License LicenseRule LinkedBranch Lockable MergeQueue MergeQueueConfiguration MergeQueueEntry Milestone Minimizable Node
PageInfo PinnedDiscussion PinnedIssue PullRequest PullRequestChangedFile PullRequestCommit
PullRequestCommitCommentThread PullRequestReview PullRequestReviewComment PullRequestReviewThread
PullRequestRevisionMarker PullRequestTemplate PullRequestTimelineItem PullRequestTimelineItems Push Reactable Reaction
ReactionGroup Reactor Ref Release ReleaseAsset RenamedTitleSubject Repository RepositoryCodeowners
RepositoryCodeownersError RepositoryContactLink RepositoryNode RepositoryTopic RequestedReviewer ReviewRequest
SearchResultItem SearchResultItemConnection SearchResultItemEdge SmimeSignature SshSignature Status StatusCheckRollup
StatusCheckRollupContext StatusContext StatusContextStateCount SubIssuesSummary Submodule Subscribable
SuggestedReviewer Tag TextMatch TextMatchHighlight Tree TreeEntry UniformResourceLocatable UnknownSignature Updatable
UpdatableComment UserConnection UserEdge UserContentEdit Votable Workflow WorkflowRun WorkflowRunFile RateLimit GitHubMetadata
ActorConnection AssigneeConnection IssueTypeConnection RepositoryTopicConnection
""".split()

PERSON = "id databaseId login name avatarUrl url resourcePath createdAt"
# Types of which only these fields may be read, whatever leads to them.
LISTED = {
    "Actor": "login avatarUrl url resourcePath",
    "App": "id databaseId name slug url",
    "Bot": "id databaseId login avatarUrl url resourcePath createdAt",
    "EnterpriseUserAccount": "id login name avatarUrl url resourcePath",
    "Mannequin": "id databaseId login avatarUrl url resourcePath createdAt",
    "Organization": PERSON + " description isVerified team",
    "ProfileOwner": "id login name",
    "RepositoryOwner": "id login avatarUrl url resourcePath",
    "Team": "id databaseId name slug combinedSlug description url resourcePath organization",
    "User": PERSON + " bio company isViewer pronouns",
    "Topic": "id name",
    "SearchResultItemConnection": "edges nodes pageInfo issueCount discussionCount",
}

# Views of objects that may belong to another account. A field of a view leads to the view of its type, if one exists.
NARROW = {
    "Repository": "id databaseId name nameWithOwner owner viewerPermission defaultBranchRef isPrivate isFork isArchived "
    "isInOrganization visibility url sshUrl description hasIssuesEnabled hasWikiEnabled",
    "Ref": "id name",
    "Issue": "id number url state closed repository",
    "PullRequest": "id number url state closed isDraft merged repository",
    "IssueConnection": "nodes totalCount pageInfo",
    "PullRequestConnection": "nodes totalCount pageInfo",
    "IssueOrPullRequest": "",
    "ReferencedSubject": "",
    "Closer": "",
    "Commit": "id oid abbreviatedOid url",
    "Discussion": "id number url",
    # The fields that gh pr status shows. The other fields are for administrators.
    "BranchProtectionRule": "requiresStrictStatusChecks requiredApprovingReviewCount",
    # Projects: only the names under which an issue or pull request is filed there.
    "ProjectV2": "id number title url closed",
    "ProjectV2Item": "id type isArchived project fieldValueByName",
    "ProjectV2ItemConnection": "nodes totalCount pageInfo",
    "ProjectV2ItemFieldValue": "",
    "ProjectV2ItemFieldSingleSelectValue": "id name optionId",
    "ProjectCard": "id project column",
    "ProjectCardConnection": "nodes totalCount pageInfo",
    "Project": "id number name url",
    "ProjectColumn": "id name",
}
# Fields of open types that lead to such a view.
NARROWED = {
    "BranchProtectionRule",
    "Repository",
    "ProjectV2ItemConnection",
    "ProjectCardConnection",
    "Closer",
    "ReferencedSubject",
}
CROSSING = {
    "Issue": "parent subIssues trackedIssues trackedInIssues closedByPullRequestsReferences blockedBy blocking duplicateOf",
    "PullRequest": "closingIssuesReferences",
    "Commit": "associatedPullRequests",
    "Ref": "associatedPullRequests",
    "CheckSuite": "matchingPullRequests",
}
IN_EVENTS = {"Issue", "PullRequest", "IssueOrPullRequest", "Discussion", "Commit"}

# Types of which no list may be read.
NOT_LISTED = {"Repository", "Organization", "Team", "App", "Topic"}
# Lists of people that aren't a repository's, or an administrator's.
NO_LISTS = ("Enterprise", "Follow", "Mannequin", "Organization", "RepositoryCollaborator", "Stargazer", "Team")

# Fields that hold secrets or the account's own data, or that lead elsewhere.
LEFT_OUT = {
    "Repository.tempCloneToken",
    "Repository.viewerDefaultCommitEmail",
    "Repository.viewerPossibleCommitEmails",
    "GitHubMetadata.gitHubServicesSha",
}

# Mutations that are refused unless the policy allows them by name: they act on what others wrote, make branches whose
# names nobody chose, or ask reviewers that the request does not name. rest.tsv has the same default for their twins
# (tests/twins.rs).
OFF = """
applyPendingIssueSuggestions clearLabelsFromLabelable createLinkedBranch deleteDiscussion deleteDiscussionComment
deleteIssueComment deleteLabel deleteLinkedBranch deletePullRequestReviewComment deleteRef lockLockable minimizeComment
pinIssue pinIssueComment rejectPendingIssueSuggestions rerequestReviews revertPullRequest unlockLockable
unminimizeComment unpinIssue unpinIssueComment updatePullRequestBranch
""".split()

# Inputs that the schema does not have yet: text beside the ids and names of MUTATIONS.
LATER_TEXT = {"replaceActorsForAssignable": [], "requestReviewsByLogin": [("union", "Boolean")],
              "rerequestReviews": [("union", "Boolean")]}
# Ids for which GitHub states no types.
TYPED = {"branch.id": "Ref", "issueTypeId": "IssueType", "issueType.issueTypeId": "IssueType"}

HEADER = "# Made by graphql-generate.py; see there.\n"


def main(schema_path, mutations_path):
    here = Path(__file__).parent
    schema = build_schema(Path(schema_path).read_text(), assume_valid=True)
    schema = extend_schema(schema, parse(LATER), assume_valid=True)
    rows = [line.split("\t") for line in Path(mutations_path).read_text().splitlines()[1:]]
    inputs, mutations, payloads = write_side(schema, rows)
    types = read_side(schema, payloads)
    write(here / "graphql-types.tsv", "type\tfield\treturns\targuments", types)
    write(here / "graphql-inputs.tsv", "input\tfield\tkind\tids", inputs)
    write(here / "graphql-mutations.tsv", "mutation\tclass\tinput\tpayload\tdefault", mutations)


def write(path, columns, rows):
    path.write_text(HEADER + columns + "\n" + "".join("\t".join(row) + "\n" for row in sorted(set(rows))))
    print(path.name, len(set(rows)))


def read_side(schema, payloads):
    wide = {name: None for name in OPEN}
    for name, fields in LISTED.items():
        wide[name] = fields.split()
    # A list may be read if its members may be read.
    for name, kind in schema.type_map.items():
        if name.endswith("Connection") and name not in wide and not name.startswith(NO_LISTS):
            fields = kind.fields
            members = [get_named_type(fields[field].type) for field in ("nodes", "edges") if field in fields]
            edges = [m for m in members if m.name.endswith("Edge")]
            ends = [get_named_type(edge.fields["node"].type) for edge in edges]
            of = [m for m in members if m not in edges] + ends
            if all(m.name in wide and m.name not in NOT_LISTED for m in of):
                for m in [kind, *edges]:
                    wide.setdefault(m.name, None)
    timelines = ["IssueTimelineItem", "IssueTimelineItems", "PullRequestTimelineItem", "PullRequestTimelineItems"]
    for union in timelines:
        for member in schema.type_map[union].types:
            if member.name.endswith("Event"):
                wide.setdefault(member.name, None)
    wide["IssueTimelineConnection"] = wide["PullRequestTimelineConnection"] = None
    for name in payloads:
        wide.setdefault(name, None)
    wide["Mutation"] = wide["Query"] = []
    rows = []

    def arguments(field):
        """Their names. Those that take ids are left out, and so refused."""
        plain = [name for name, argument in field.args.items() if get_named_type(argument.type).name != "ID"]
        return ",".join(sorted(plain)) or "-"

    for name in sorted(wide):
        if name not in schema.type_map:
            sys.exit(f"no type {name}")
        kind = schema.type_map[name]
        rows.append((name, "__typename", "-", "-"))
        if is_union_type(kind):
            continue
        listed = wide[name]
        for field_name, field in kind.fields.items():
            if f"{name}.{field_name}" in LEFT_OUT or (listed is not None and field_name not in listed):
                continue
            to = get_named_type(field.type)
            if not is_composite_type(to):
                rows.append((name, field_name, "-", arguments(field)))
                continue
            crossing = field_name in CROSSING.get(name, "").split()
            event = name.endswith("Event") and to.name in IN_EVENTS
            if to.name in NARROWED or crossing or event:
                target = to.name + "~"
                assert to.name in NARROW, (name, field_name, to.name)
            elif to.name in wide and to.name not in ("Query", "Mutation"):
                target = to.name
            else:
                if "--left-out" in sys.argv and name in OPEN:
                    print("left out:", name, field_name, to.name)
                continue
            rows.append((name, field_name, target, arguments(field)))
        if listed:
            missing = set(listed) - set(kind.fields)
            if missing:
                print("no such fields:", name, missing)
    for name, fields in NARROW.items():
        kind = schema.type_map[name]
        rows.append((name + "~", "__typename", "-", "-"))
        for field_name in fields.split():
            if field_name not in kind.fields:
                print("no such field:", name, field_name)
                continue
            field = kind.fields[field_name]
            to = get_named_type(field.type)
            target = "-"
            if is_composite_type(to):
                target = to.name + "~" if to.name in NARROW else to.name
                assert to.name in NARROW or to.name in wide, (name, field_name)
            rows.append((name + "~", field_name, target, arguments(field)))
    for name, kind in introspection_types.items():
        if is_enum_type(kind):
            continue
        rows.append((name, "__typename", "-", "-"))
        for field_name, field in kind.fields.items():
            to = get_named_type(field.type)
            rows.append((name, field_name, to.name if is_composite_type(to) else "-", arguments(field)))
    return rows


def write_side(schema, rows):
    known = schema.mutation_type.fields
    inputs, mutations, payloads = [], [], []

    def add(kind, ids, prefix, seen):
        """The fields of an input type, with the types of ids at their places below it."""
        for name, field in kind.fields.items():
            to = get_named_type(field.type)
            place = prefix + name
            if is_input_object_type(to):
                # Ids are typed by place, so an input type of several places is one of each.
                below = f"{seen}.{name}"
                inputs.append((seen, name, below, "-"))
                if below.count(".") < 6:
                    add(to, ids, place + ".", below)
            elif to.name == "ID":
                inputs.append((seen, name, "ID", ids.get(place, TYPED.get(place, "-"))))
            else:
                inputs.append((seen, name, scalar(to), "-"))

    def scalar(to):
        if is_enum_type(to):
            return "Enum"
        return {"Boolean": "Boolean", "Int": "Number", "Float": "Number", "BigInt": "Number"}.get(to.name, "String")

    for row in rows:
        name, kind, _, id_fields, text_fields = row[:5]
        if "not in any schema" in row[2]:
            continue
        ids = {}
        for field in id_fields.split(", "):
            place, _, types = field.replace("[]", "").partition(":")
            ids[place] = types.replace("|", ",") or TYPED.get(place, "-")
        ids.pop("-", None)
        text = {}
        for field in text_fields.split(", "):
            place, _, to = field.replace("[]", "").partition(":")
            text[place] = {"Boolean": "Boolean", "Int": "Number"}.get(to, "String")
        text.pop("-", None)
        own = name[0].upper() + name[1:] + "Input"
        have = set()
        if name in known:
            before = len(inputs)
            add(get_named_type(known[name].args["input"].type), ids, "", own)
            have = {(r[0] + "." + r[1]).removeprefix(own + ".") for r in inputs[before:]}
            payload = get_named_type(known[name].type).name
        else:
            inputs.append((own, "clientMutationId", "String", "-"))
            payload = "LaterPayload"
            for field, to in LATER_TEXT.get(name, []):
                inputs.append((own, field, to, "-"))
        for place in {**text, **ids}:
            if place in have:
                continue
            *above, last = place.split(".")
            at = own
            for part in above:
                inputs.append((at, part, f"{at}.{part}", "-"))
                at = f"{at}.{part}"
            inputs.append((at, last, "ID", ids[place]) if place in ids else (at, last, text[place], "-"))
        payloads.append(payload)
        mutations.append((name, kind, own, payload, "off" if name in OFF else "-"))
    return inputs, mutations, payloads


if __name__ == "__main__":
    main(*sys.argv[1:3])
