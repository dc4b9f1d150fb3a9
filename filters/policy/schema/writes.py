"""Compares the mutations and their inputs with graphql-mutations.tsv and graphql-inputs.tsv.

The tables are the decision: the class of a mutation, whether it is off by default, and the types of node that an id may
have at its place. A mutation is off by default if it acts on texts of other authors, makes a branch whose name the
request does not say, or asks reviewers whom the request does not name. rest.tsv has the same default for its twin
(tests/twins.rs). The availability is `schema`; `retired`, if the schema no longer has the mutation; or `elsewhere`, if
only another source of GitHub's names it.
"""

import re

# A member deeper than this is left out, and so refused.
DEPTH = 6
NUMBERS = ("Int", "Float", "BigInt")


def mutations(types, rows, inputs):
    """The next rows of the table of mutations. A new mutation has a suggested class, and a note how it was found."""
    next_rows, notes = {}, {}
    known = types["Mutation"].fields
    for name, row in rows.items():
        _, of, own, payload, default, availability = row
        if name in known:
            payload = payload if payload == known[name].type else known[name].type + "?"
        if name in known:
            availability = "schema"
        elif availability == "schema":
            availability = "retired"
        next_rows[name] = (name, of, own, payload, default, availability)
    for name in sorted(set(known) - set(rows)):
        own = name[0].upper() + name[1:] + "Input"
        of, notes[name] = suggestion(types, name, rows, inputs)
        next_rows[name] = (name, of + "?", own, known[name].type, "-", "schema")
    return next_rows, notes


def suggestion(types, name, rows, inputs):
    """The class of known mutations with the same object, or else with the same ids, if they agree."""
    noun = re.sub("^[a-z]+", "", name)
    near = [row for row in rows.values() if re.sub("^[a-z]+", "", row[0]) == noun]
    how = "same object"
    if not near:
        input_type = types[types["Mutation"].fields[name].arguments["input"]]
        ids = {member for member, field in input_type.fields.items() if field.type == "ID"}
        of = {}
        for (own, member), row in inputs.items():
            if row[2] == "ID":
                of.setdefault(own, set()).add(member)
        near = [row for row in rows.values() if ids and of.get(row[2]) == ids]
        how = "same ids"
    return agreed(near, how, lambda row: (row[1], row[0]))


def agreed(near, how, read):
    """The one class of the rows `near`, or `unknown`, and why."""
    classes = {read(row)[0] for row in near}
    if len(classes) == 1:
        return classes.pop(), f"{how} as {', '.join(sorted(read(row)[1] for row in near)[:3])}"
    if classes:
        return "unknown", f"{how}, but several classes: {', '.join(sorted(classes))}"
    return "unknown", "no neighbour"


def members(types, mutations, inputs):
    """The next rows of the table of inputs, by input and member, and GitHub's sentence on each new one."""
    next_rows, about = dict(inputs), {}

    def walk(kind, own):
        for member, field in types[kind].fields.items():
            below = f"{own}.{member}"
            composite = field.type in types and types[field.type].kind == "INPUT_OBJECT"
            if (own, member) not in next_rows:
                value, ids = scalar(types, field.type), "-"
                if composite:
                    value = below
                elif value == "ID":
                    ids = nodes(types, member, inputs)
                next_rows[own, member] = (own, member, value + "?", ids)
                about[own, member] = field.about
            if composite and below.count(".") < DEPTH:
                walk(field.type, below)

    for name, row in mutations.items():
        if name in types["Mutation"].fields:
            walk(types["Mutation"].fields[name].arguments["input"], row[2])
    return next_rows, about


def scalar(types, name):
    if name in types and types[name].kind == "ENUM":
        return "Enum"
    return "ID" if name == "ID" else "Boolean" if name == "Boolean" else "Number" if name in NUMBERS else "String"


def nodes(types, member, inputs):
    """The types of node that the id in `member` may have: as elsewhere, or else by the member's name."""
    elsewhere = {row[3] for (_, name), row in inputs.items() if name == member and row[3] != "-"}
    if len(elsewhere) == 1:
        return elsewhere.pop()
    name = re.sub("Ids?$", "", member)
    kind = types.get(name[:1].upper() + name[1:])
    if elsewhere or kind is None:
        return "-"
    return {"OBJECT": name[:1].upper() + name[1:], "UNION": ",".join(sorted(kind.members))}.get(kind.kind, "-")
