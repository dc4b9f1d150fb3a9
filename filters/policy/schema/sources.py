"""Reads GitHub's descriptions from the wheels of PyPI packages. Their code is parsed, and never run.

`githubkit-schemas-…` has GitHub's OpenAPI description as generated code: one package for each version of the API, and
one more for each with the operations of Enterprise Cloud. It is released every one to three weeks. `ghapi` has the
answer of GitHub's GraphQL endpoint to a query for its schema, which leaves out deprecated fields.
"""

import ast
import re
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

# Names that other people wrote appear in the report and in tables, so each has to have its form.
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
OPERATION = re.compile(r"(?:DEPRECATED )?([a-z0-9-]+/[a-z0-9-]+)")
CALL = re.compile(r"(GET|HEAD|POST|PUT|PATCH|DELETE) (/[A-Za-z0-9_{}./-]*)")
MEMBER = re.compile(r"[A-Za-z0-9_.:$\[\]+-]+")
# A package with less is broken, and would retire most of a table.
LEAST_OPERATIONS, LEAST_MUTATIONS = 1000, 200


class Unreadable(Exception):
    """A package without the description that the tool expects."""


@dataclass
class Operation:
    """One operation of the REST API, with the names of its parameters in the query and of the members of its body."""

    name: str
    query: list[str] = field(default_factory=list)
    body: list[str] = field(default_factory=list)


@dataclass
class Field:
    """A field of a type or a member of an input: the type without its marks, GitHub's sentence, and the arguments."""

    type: str
    about: str = ""
    arguments: dict[str, str] = field(default_factory=dict)


@dataclass
class Type:
    """A type of the GraphQL schema. A union has the names of its members."""

    kind: str
    fields: dict[str, Field] = field(default_factory=dict)
    members: list[str] = field(default_factory=list)


def label(wheel):
    """The name and the version of a wheel's package."""
    return " ".join(Path(wheel).name.split("-")[:2]).replace("_", "-")


def named(pattern, text):
    """`text`, if the pattern matches it as a whole."""
    if not isinstance(text, str) or not pattern.fullmatch(text):
        raise Unreadable(f"the description has the name {text!r}")
    return text


def operations(wheel):
    """The operations of a wheel of githubkit's, by method and path template."""
    found, models, clients = {}, {}, []
    with zipfile.ZipFile(wheel) as files:
        for name in sorted(files.namelist()):
            if re.search(r"/models/group_\d+\.py$", name):
                for model in ast.parse(files.read(name)).body:
                    if isinstance(model, ast.ClassDef):
                        models[model.name] = model
            elif re.search(r"/rest/[a-z_]+\.py$", name):
                clients += [node for node in ast.parse(files.read(name)).body if isinstance(node, ast.ClassDef)]
    for method in (node for client in clients for node in client.body if isinstance(node, ast.FunctionDef)):
        # Only the method that makes the request has a text, and the text begins with the operation and the call.
        lines = (ast.get_docstring(method) or "").split("\n")
        operation, call = OPERATION.fullmatch(lines[0]), CALL.fullmatch(lines[2]) if len(lines) > 2 else None
        if operation and call:
            found[call[1], call[2]] = Operation(operation[1], query(method), body(method, models))
    if len(found) < LEAST_OPERATIONS:
        raise Unreadable(f"{label(wheel)} has {len(found)} operations, fewer than {LEAST_OPERATIONS}")
    return found


def query(method):
    """The names in `params = {…}`, which are those of the query."""
    for statement in method.body:
        if isinstance(statement, ast.Assign) and getattr(statement.targets[0], "id", None) == "params":
            return [named(MEMBER, ast.literal_eval(key)) for key in statement.value.keys]
    return []


def body(method, models):
    """The members of the models in the annotation of `data`. A body that is no object has no model."""
    names = []
    for argument in method.args.kwonlyargs:
        if argument.arg == "data":
            for part in parts(argument.annotation):
                if part.removesuffix("Type") in models:
                    names += members(models[part.removesuffix("Type")])
    return list(dict.fromkeys(names))


def parts(annotation):
    """The names in an annotation, without those of the items of a list."""
    if isinstance(annotation, ast.Name):
        yield annotation.id
    elif isinstance(annotation, ast.Subscript) and getattr(annotation.value, "id", "") in ("Missing", "Union"):
        yield from parts(annotation.slice)
    elif isinstance(annotation, ast.Tuple):
        for element in annotation.elts:
            yield from parts(element)


def members(model):
    """The names of a model's fields in JSON."""
    for statement in model.body:
        if isinstance(statement, ast.AnnAssign):
            keywords = getattr(statement.value, "keywords", [])
            alias = [ast.literal_eval(keyword.value) for keyword in keywords if keyword.arg == "alias"]
            yield named(MEMBER, alias[0] if alias else statement.target.id)


def graphql(wheel):
    """The types of the schema in a wheel of ghapi's, by name."""
    with zipfile.ZipFile(wheel) as files:
        tree = ast.parse(files.read("ghapi/gql_spec.py"))
    spec = ast.literal_eval(tree.body[0].value)["types"]
    types = {named(NAME, name): type_of(spec[name]) for name in spec}
    if len(types.get("Mutation", Type("")).fields) < LEAST_MUTATIONS:
        raise Unreadable(f"{label(wheel)} has no schema with {LEAST_MUTATIONS} mutations")
    return types


def type_of(spec):
    fields = {}
    for name, given in (spec.get("fields") or {}).items():
        arguments = {named(NAME, argument): bare(kind[0]) for argument, kind in (given.get("args") or {}).items()}
        fields[named(NAME, name)] = Field(bare(given["type"]), " ".join((given.get("desc") or "").split()), arguments)
    return Type(spec["kind"], fields, [named(NAME, name) for name in spec.get("of") or []])


def bare(kind):
    """A type's name without the marks for lists and required values."""
    return named(NAME, kind.replace("[", "").replace("]", "").replace("!", ""))
