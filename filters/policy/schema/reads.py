"""Says which parts of GitHub's schema a document may read. The table graphql-types.tsv follows from these lists.

There are OPEN types with all their fields that lead to types of the table, LISTED types with the fields that are named,
and views (`Repository~`) of types that may belong to another repository. CLOSED types may not be read, although open
types lead to them. A type of the schema that is reachable and in none of the lists is reported.
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
IssueDependenciesSummary IssueFieldTimelineOption IssueUpdateIntent PinnedIssueComment RepositoryTopicConnection
IssueFieldCommon IssueFieldDate IssueFieldDateValue IssueFieldMultiSelect IssueFieldMultiSelectValue IssueFieldNumber
IssueFieldNumberValue IssueFieldSingleSelect IssueFieldSingleSelectOption IssueFieldSingleSelectValue IssueFieldText
IssueFieldTextValue IssueFieldValue IssueFieldValueCommon IssueFields
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
    # A type of issue belongs to an organisation, so the issues may be in any of its repositories.
    "IssueType.issues",
}

# Types to which readable types lead, and which may not be read: accounts, settings, deployments, definitions of an
# organisation, stacks, suggestions, and lists of people, projects or other repositories.
CLOSED = """
BranchProtectionRuleConnection ContentWarning DependencyGraphManifestConnection DeployKeyConnection DeploymentRequest
DeploymentRequestConnection DeploymentReviewConnection Environment EnvironmentConnection Hovercard
MilestoneItem PackageConnection PendingIssueSuggestion
PinnedEnvironmentConnection Project ProjectConnection ProjectV2 ProjectV2Connection PullRequestCreationCapConfig
PullRequestStack PullRequestStackEntry RefUpdateRule RepositoryCollaboratorConnection RepositoryConnection
RepositoryCustomPropertyValue RepositoryCustomPropertyValueConnection RepositoryInteractionAbility
RepositoryPlanFeatures RepositoryRuleConnection RepositoryRuleset RepositoryRulesetConnection RepositoryTopicEdge
RepositoryVulnerabilityAlert RepositoryVulnerabilityAlertConnection StargazerConnection
SuggestedReviewerActorConnection TeamConnection
""".split()

COMPOSITE = ("OBJECT", "INTERFACE", "UNION")


def wide(types, payloads):
    """The types that may be read as such. The value is the list of their fields, or None for all."""
    found = {name: None for name in [*OPEN, *payloads]}
    found.update((name, fields.split()) for name, fields in LISTED.items())
    # A list may be read if its members may be read.
    for name, kind in types.items():
        if name.endswith("Connection") and name not in found and not name.startswith(NO_LISTS):
            inner = [kind.fields[field].type for field in ("nodes", "edges") if field in kind.fields]
            edges = [member for member in inner if member.endswith("Edge")]
            ends = [types[edge].fields["node"].type for edge in edges]
            of = [member for member in inner if member not in edges] + ends
            if all(member in found and member not in NOT_LISTED for member in of):
                for member in [name, *edges]:
                    found.setdefault(member, None)
    for union in ("IssueTimelineItem", "IssueTimelineItems", "PullRequestTimelineItem", "PullRequestTimelineItems"):
        for member in types[union].members if union in types else []:
            if member.endswith("Event"):
                found.setdefault(member, None)
    return {name: fields for name, fields in found.items() if name in types}


def arguments(field):
    """The names of a field's arguments. Arguments that take ids are left out, and so refused."""
    return ",".join(sorted(name for name, kind in field.arguments.items() if kind != "ID")) or "-"


def table(types, payloads):
    """The rows of graphql-types.tsv that follow from the schema, and the fields that lead to types of no list."""
    readable, rows, unknown = wide(types, payloads), set(), []
    for name, listed in readable.items():
        rows.add((name, "__typename", "-", "-"))
        for field_name, field in types[name].fields.items():
            if f"{name}.{field_name}" in LEFT_OUT or (listed is not None and field_name not in listed):
                continue
            to, target = field.type, None
            if to not in types or types[to].kind not in COMPOSITE:
                target = "-"
            elif to in NARROWED or field_name in CROSSING.get(name, "").split():
                target = to + "~"
            elif name.endswith("Event") and to in IN_EVENTS:
                target = to + "~"
            elif to in readable:
                target = to
            elif to not in CLOSED and name not in payloads:
                unknown.append((name, field_name, to))
            if target:
                rows.add((name, field_name, target, arguments(field)))
    for name, listed in NARROW.items():
        if name not in types:
            continue
        rows.add((name + "~", "__typename", "-", "-"))
        for field_name in listed.split():
            field = types[name].fields.get(field_name)
            if field and (field.type not in types or types[field.type].kind not in COMPOSITE):
                rows.add((name + "~", field_name, "-", arguments(field)))
            elif field and (field.type in NARROW or field.type in readable):
                target = field.type + "~" if field.type in NARROW else field.type
                rows.add((name + "~", field_name, target, arguments(field)))
    return rows, unknown
