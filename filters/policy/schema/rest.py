"""Compares the operations of the REST API with rest.tsv.

The availability is `dotcom`, or `ghec` for Enterprise Cloud alone; with `-old`, if the description calls the operation
deprecated or no longer has it; `ghes` for Enterprise Server alone; `undocumented`, if only manuals and clients name it.
"""

import re

from writes import agreed

COLUMNS = 11


def table(described, enterprise, rows):
    """The next rows by method and template, and the notes on new operations.

    `described` has the operations of github.com, `enterprise` those that only Enterprise Cloud has.
    """
    next_rows, notes = {}, {}
    for key, row in rows.items():
        method, template, name, of, scoped, host, multi, body, query, availability, default = row
        operation = described.get(key) or enterprise.get(key)
        place = "dotcom" if key in described else "ghec"
        if operation is None:
            # The other rows stand for other products of GitHub's, and for paths that only its manuals mention.
            availability = availability + "-old" if availability in ("dotcom", "ghec") else availability
        else:
            body, query = joined(body, operation.body), joined(query, operation.query)
            availability = availability if availability.startswith(place) else place
        next_rows[key] = (method, template, name, of, scoped, host, multi, body, query, availability, default)
    for key in sorted({**enterprise, **described}.keys() - rows.keys()):
        operation = described.get(key) or enterprise[key]
        of, notes[key] = suggestion(key, operation.name, rows)
        scoped = "yes" if key[1].startswith("/repos/{owner}/{repo}") else "no"
        next_rows[key] = (*key, operation.name, of + "?", scoped, "api.github.com", "-", listed(operation.body),
                          listed(operation.query), "dotcom" if key in described else "ghec", "-")
    return next_rows, notes


def listed(names):
    return ",".join(names) or "-"


def joined(have, names):
    """The names of a column, and behind them those that it does not have, each with a question mark."""
    old = [] if have == "-" else have.split(",")
    return listed(old + [name + "?" for name in names if name not in old])


def suggestion(key, name, rows):
    """The class of the rows with the longest common path, or else of the same category, if they agree.

    Only reads are neighbours of reads, and only writes of writes.
    """
    parts = segments(key[1])
    alike = [row for row in rows.values() if (row[0] == "GET") == (key[0] == "GET")]
    found = ("unknown", "no neighbour")
    for length in range(len(parts), 0, -1):
        near = [row for row in alike if segments(row[1])[:length] == parts[:length]]
        if near:
            found = agreed(near, "same path /" + "/".join(parts[:length]), lambda row: (row[3], row[2]))
            break
    if found[0] == "unknown":
        category = name.split("/")[0]
        near = [row for row in alike if row[2].split("/")[0] == category]
        by_category = agreed(near, f"same category {category}", lambda row: (row[3], row[2]))
        found = by_category if by_category[0] != "unknown" else found
    return found


def segments(template):
    return [re.sub(r"\{[^}]*\}", "{}", part) for part in template.split("/")[1:]]
