"""The report: each difference between the tables and GitHub's descriptions, with the line that would be its row."""

REFUSED = "unknown, so refused"
# Fields that lead to one of these may lead to another repository.
OBJECTS = (
    "Commit",
    "Discussion",
    "Issue",
    "IssueOrPullRequest",
    "PullRequest",
    "Ref",
    "ReferencedSubject",
    "Repository",
)


def text(tables, notes, about, unknown, heads):
    """The report, and whether anything in it is new.

    `tables` has the old and the next rows by the name of the table, `notes` why a class is suggested, `about`
    GitHub's sentences, `unknown` the fields that lead to types of no list, `heads` the packages.
    """
    sections = [
        *operations(*tables["rest.tsv"], notes),
        *mutations(tables, notes),
        *inputs(tables, about),
        *types(*tables["graphql-types.tsv"], about),
        ("Types in no list of reads.py: add each to OPEN, LISTED or CLOSED",
         [(f"{to}, from {name}.{field}", None) for name, field, to in unknown]),
    ]
    lines = ["Compared with: " + ", ".join(heads), ""]
    found = [(title, items) for title, items in sections if items]
    if not found:
        return "\n".join([*lines, "Nothing is new.", ""]), False
    lines += [
        "A line below is a row of its table. A question mark marks each part that a person has to judge; the build",
        "refuses a table with question marks. A row that has changed takes the place of the old one.",
        "",
    ]
    for title, items in found:
        lines += [f"## {title} ({len(items)})", ""]
        for note, row in items:
            lines += [note] if row is None else [note, "    " + "\t".join(row)]
        lines.append("")
    return "\n".join(lines), True


def operations(old, new, notes):
    added, changed, gone, back = [], [], [], []
    for key, row in sorted(new.items()):
        call, before = f"{row[0]} {row[1]} ({row[2]})", old.get(key)
        if before is None:
            category = row[2].split("/")[0]
            added.append((f"{call}, category {category}: class {classed(row[3], notes[key])}", row))
        elif row[9] != before[9]:
            (gone if row[9].endswith("-old") else back).append((call, row))
        elif row != before:
            names = [name for column in (row[7], row[8]) for name in column.split(",") if name.endswith("?")]
            changed.append((f"{call}, {row[3]}: {' '.join(names)}", row))
    return [
        ("rest.tsv: new operations", added),
        ("rest.tsv: new parameters and members of known operations", changed),
        ("rest.tsv: operations that GitHub no longer describes", gone),
        ("rest.tsv: operations that GitHub describes again", back),
    ]


def classed(of, note):
    of = of.removesuffix("?")
    return f"{REFUSED if of == 'unknown' else of} ({note})"


def mutations(tables, notes):
    old, new = tables["graphql-mutations.tsv"]
    inputs = tables["graphql-inputs.tsv"][1]
    added, gone, changed = [], [], []
    for name, row in sorted(new.items()):
        if name not in old:
            taken = ", ".join(f"{member}: {kind.removesuffix('?')}" for (own, member), (_, _, kind, _)
                              in sorted(inputs.items()) if own == row[2])
            added.append((f"{name} ({taken}): class {classed(row[1], notes[name])}", row))
        elif row != old[name]:
            (gone if row[5] == "retired" else changed).append((f"{name}, {row[1]}", row))
    return [
        ("graphql-mutations.tsv: new mutations", added),
        ("graphql-mutations.tsv: mutations that the schema no longer has", gone),
        ("graphql-mutations.tsv: mutations with another payload", changed),
    ]


def inputs(tables, about):
    old, new = tables["graphql-inputs.tsv"]
    rows = tables["graphql-mutations.tsv"][1].values()
    classes = {row[2]: row[1].removesuffix("?") for row in rows}
    added = []
    for key, row in sorted(new.items()):
        if key not in old:
            of = classes.get(row[0].split(".")[0], "unknown")
            added.append((f"{row[0]}.{row[1]}, {of}: {about[key]}", row))
    return [("graphql-inputs.tsv: new members", added)]


def types(old, new, about):
    added = []
    for key, row in sorted(new.items()):
        if row != old.get(key):
            kind = row[2].removesuffix("?").removesuffix("Connection")
            hint = " Does it belong to another repository (CROSSING)?" if kind in OBJECTS else ""
            sentence = (about.get(key, "") + hint).strip()
            added.append((f"{row[0]}.{row[1]}: {sentence}".removesuffix(": "), row))
    return [("graphql-types.tsv: new fields that a document may read", added)]
