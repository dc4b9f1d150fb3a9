"""Tests of the comparison with small descriptions. They need no network and no package."""

import contextlib
import io
import tempfile
import unittest
import zipfile
from pathlib import Path
from unittest import mock

import main
import reads
import rest
import sources
import writes
from sources import Field, Operation, Type

CLIENT = '''
class IssuesClient:
    @overload
    def create(self, owner: str, *, data: ReposIssuesPostBodyType) -> Response: ...

    def create(self, owner: str, *, data: Missing[Union[ReposIssuesPostBodyType, list[ItemType]]] = UNSET, **kwargs):
        """issues/create

        POST /repos/{owner}/{repo}/issues

        Text.
        """
        params = {"per_page": per_page}

    async def async_create(self, owner: str):
        """issues/create

        POST /repos/{owner}/{repo}/other
        """

    def text(self):
        """A method of its own.

        Without a call.
        """
'''
MODELS = '''
class ReposIssuesPostBody(GitHubModel):
    title: str = Field()
    from_: Missing[str] = Field(default=UNSET, alias="from")


class Item(GitHubModel):
    other: str
'''
SPEC = '''gqlspec = {"types": {"Mutation": {"kind": "OBJECT", "fields": {"closeIssue": {
    "type": "CloseIssuePayload", "desc": "Closes\\n an issue", "args": {"input": ["CloseIssueInput!", "", None]}}}},
    "Either": {"kind": "UNION", "of": ["Issue", "PullRequest"]}}}'''


def object_type(fields, kind="OBJECT"):
    return Type(kind, {name: Field(of, f"About {name}.") for name, of in fields.items()})


def schema():
    """A schema with one known mutation, one that is new, and one type of each list."""
    mutations = {
        "closeIssue": Field("CloseIssuePayload", "", {"input": "CloseIssueInput"}),
        "openIssue": Field("OpenIssuePayload", "", {"input": "OpenIssueInput"}),
    }
    issue = {"id": "ID", "number": "Int", "parent": "Issue", "author": "Actor", "secret": "Vault"}
    issue = object_type(issue)
    issue.fields["parent"].arguments = {"first": "Int", "ofRepository": "ID"}
    return {
        "Mutation": Type("OBJECT", mutations),
        "CloseIssuePayload": object_type({"issue": "Issue"}),
        "OpenIssuePayload": object_type({"issue": "Issue"}),
        "CloseIssueInput": object_type({"issueId": "ID", "rationale": "String", "why": "Why"}, "INPUT_OBJECT"),
        "OpenIssueInput": object_type({"issueId": "ID", "labelIds": "ID", "botId": "ID"}, "INPUT_OBJECT"),
        "Why": object_type({"reason": "Reason", "weight": "Float", "sure": "Boolean"}, "INPUT_OBJECT"),
        "Reason": Type("ENUM"),
        "Label": object_type({"id": "ID"}),
        "Issue": issue,
        "Actor": object_type({"login": "String", "email": "String"}, "INTERFACE"),
        "Vault": object_type({"id": "ID"}),
    }


def tables():
    """Tables that know closeIssue with its id, a mutation that is gone, and some operations."""
    operation = ("api.github.com", "-", "-", "-", "dotcom", "-")
    rest_rows = [
        ("GET", "/repos/{owner}/{repo}/issues", "issues/list", "read-repo", "yes", *operation),
        ("POST", "/repos/{owner}/{repo}/issues", "issues/create", "write-collab", "yes", *operation),
        ("GET", "/old", "meta/old", "read-global", "no", *operation),
        ("GET", "/enterprise", "meta/ghes", "read-global", "no", *operation[:4], "ghes", "-"),
    ]
    mutations = [
        ("closeIssue", "write-collab", "CloseIssueInput", "CloseIssuePayload", "off", "schema"),
        ("goneIssue", "account", "GoneIssueInput", "GoneIssuePayload", "-", "schema"),
    ]
    types = [
        ("CloseIssuePayload", "__typename", "-", "-"), ("CloseIssuePayload", "issue", "Issue", "-"),
        ("Issue", "__typename", "-", "-"), ("Issue", "id", "-", "-"), ("Issue", "parent", "Issue~", "-"),
        ("Issue", "deprecated", "-", "-"), ("Actor", "__typename", "-", "-"), ("Actor", "login", "-", "-"),
        ("Issue~", "__typename", "-", "-"), ("Issue~", "id", "-", "-"), ("Issue~", "number", "-", "-"),
        ("Label", "__typename", "-", "-"), ("Label", "id", "-", "-"),
    ]
    return {
        "rest.tsv": {row[:2]: row for row in rest_rows},
        "graphql-mutations.tsv": {row[0]: row for row in mutations},
        "graphql-inputs.tsv": {("CloseIssueInput", "issueId"): ("CloseIssueInput", "issueId", "ID", "Issue")},
        "graphql-types.tsv": {row[:2]: row for row in types},
    }


DESCRIBED = {
    ("GET", "/repos/{owner}/{repo}/issues"): Operation("issues/list", ["page"], []),
    ("POST", "/repos/{owner}/{repo}/issues"): Operation("issues/create", [], ["title"]),
    ("POST", "/repos/{owner}/{repo}/issues/{number}/open"): Operation("issues/open", [], ["why"]),
    ("GET", "/vault"): Operation("vault/get"),
}


class Report(unittest.TestCase):
    maxDiff = None

    def compared(self, old=None):
        return main.compare(DESCRIBED, {}, schema(), old or tables(), ["made-up 1"])

    def test_the_report_has_each_difference_and_a_row_for_it(self):
        text, is_new, _ = self.compared()
        self.assertTrue(is_new)
        expected = (Path(__file__).parent / "test_report.txt").read_text()
        self.assertEqual(text, expected)

    def test_judged_rows_are_no_news(self):
        _, _, new = self.compared()
        judged = {}
        for name, rows in new.items():
            rows = [tuple(column.replace("?", "").replace("unknown", "account") for column in row)
                    for row in rows.values()]
            judged[name] = {row[0] if main.TABLES[name][1] == 1 else row[:2]: row for row in rows}
        reads.CLOSED.append("Vault")
        self.addCleanup(reads.CLOSED.remove, "Vault")
        text, is_new, again = self.compared(judged)
        self.assertFalse(is_new, text)
        self.assertEqual(again, judged)

    def test_a_class_is_suggested_only_if_all_neighbours_have_it(self):
        rows = tables()["rest.tsv"]
        of, _ = rest.suggestion(("GET", "/repos/{o}/{r}/issues/{n}/x"), "issues/x", rows)
        self.assertEqual(of, "read-repo")
        other = ("POST", "/repos/{owner}/{repo}/issues/lock", "issues/lock", "admin", *["-"] * 7)
        of, why = rest.suggestion(("POST", "/repos/{o}/{r}/issues/{n}/x"), "issues/x", {**rows, other[:2]: other})
        self.assertEqual(of, "unknown")
        self.assertEqual(why, "same path /repos/{}/{}/issues, but several classes: admin, write-collab")
        mutations, inputs = tables()["graphql-mutations.tsv"], tables()["graphql-inputs.tsv"]
        of, _ = writes.suggestion(schema(), "openIssue", mutations, inputs)
        self.assertEqual(of, "unknown", "closeIssue and goneIssue differ")

    def test_a_line_keeps_its_form_whatever_a_description_says(self):
        for name in ["a\tb", "a\nb", "a b", "`", "<b>", "", None]:
            with self.assertRaises(sources.Unreadable):
                sources.named(sources.NAME, name)
            with self.assertRaises(sources.Unreadable):
                sources.named(sources.MEMBER, name)


class Sources(unittest.TestCase):
    def wheel(self, name, files):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        path = Path(directory.name) / name
        with zipfile.ZipFile(path, "w") as wheel:
            for file, text in files.items():
                wheel.writestr(file, text)
        return path

    def setUp(self):
        least = sources.LEAST_OPERATIONS, sources.LEAST_MUTATIONS
        self.addCleanup(lambda: (setattr(sources, "LEAST_OPERATIONS", least[0]),
                                 setattr(sources, "LEAST_MUTATIONS", least[1])))
        sources.LEAST_OPERATIONS = sources.LEAST_MUTATIONS = 1

    def test_operations_are_read_from_generated_code(self):
        files = {"g/v1/rest/issues.py": CLIENT, "g/v1/models/group_0001.py": MODELS, "g/v1/rest/broken.txt": "("}
        found = sources.operations(self.wheel("g_v1-1.0-py3-none-any.whl", files))
        issues = Operation("issues/create", ["per_page"], ["title", "from"])
        self.assertEqual(found, {("POST", "/repos/{owner}/{repo}/issues"): issues})
        sources.LEAST_OPERATIONS = 2
        with self.assertRaisesRegex(sources.Unreadable, "g-v1 1.0 has 1 operations, fewer than 2"):
            sources.operations(self.wheel("g_v1-1.0-py3-none-any.whl", files))

    def test_the_schema_is_read_and_its_code_is_not_run(self):
        found = sources.graphql(self.wheel("ghapi-1-py3-none-any.whl", {"ghapi/gql_spec.py": SPEC}))
        close = found["Mutation"].fields["closeIssue"]
        self.assertEqual(close, Field("CloseIssuePayload", "Closes an issue", {"input": "CloseIssueInput"}))
        self.assertEqual(found["Either"].members, ["Issue", "PullRequest"])
        code = "gqlspec = {'types': __import__('os').abort()}"
        with self.assertRaises(ValueError):
            sources.graphql(self.wheel("ghapi-1-py3-none-any.whl", {"ghapi/gql_spec.py": code}))

    def test_the_index_names_the_versions_of_the_api(self):
        metadata = ("Requires-Dist: githubkit>=0.16.0\nRequires-Dist: githubkit-schemas-2022-11-28==26.1 ; extra\n"
                    "Requires-Dist: githubkit-schemas-ghec-2022-11-28==26.1\n")
        wheel = self.wheel("i-26.1-py3-none-any.whl", {"i-26.1.dist-info/METADATA": metadata})
        names = ["githubkit-schemas-2022-11-28==26.1", "githubkit-schemas-ghec-2022-11-28==26.1"]
        self.assertEqual(main.versions(wheel), names)


class Status(unittest.TestCase):
    def status(self, download):
        """The status with `download` in place of the download, and whether the report of an earlier run is left."""
        with tempfile.TemporaryDirectory() as directory, mock.patch.object(main, "download", download):
            (Path(directory) / "report.txt").write_text("old")
            with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(io.StringIO()):
                status = main.main(directory)
            return status, (Path(directory) / "report.txt").exists(), said.getvalue()

    def test_a_failed_comparison_has_a_status_and_no_report(self):
        status = self.status(mock.Mock(side_effect=sources.Unreadable("pip could not download x")))
        self.assertEqual(status, (2, False, "schema: no comparison: pip could not download x\n"))
        status = self.status(mock.Mock(side_effect=IndexError("x")))
        self.assertEqual(status[:2], (2, False))

    def test_news_have_a_status_and_a_report(self):
        wheel = Path("ghapi-1-py3-none-any.whl")
        download = mock.Mock(side_effect=[[wheel, wheel], [wheel]])
        with (mock.patch.object(main, "versions"), mock.patch.object(sources, "operations", lambda _: dict(DESCRIBED)),
              mock.patch.object(sources, "graphql", lambda _: schema())):
            self.assertEqual(self.status(download)[:2], (1, True))


class Tables(unittest.TestCase):
    def test_the_committed_tables_have_their_order_and_no_question(self):
        for name in main.TABLES:
            text = (main.DATA / name).read_text()
            self.assertEqual(main.written(main.DATA / name, name, main.read(main.DATA / name, name)), text, name)
            self.assertNotIn("?", text, name)


if __name__ == "__main__":
    unittest.main()
