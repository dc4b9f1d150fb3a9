"""Compares the tables in filters/policy/data with GitHub's descriptions, and reports the difference (`make schema`).

    python3 filters/policy/schema/main.py TARGET

The newest PyPI packages with GitHub's descriptions are downloaded to TARGET/wheels. The report goes to the output and
to TARGET/report.txt, the next tables to TARGET/tables. The committed tables are not changed: a person judges each new
row.

Status 0: nothing is new. Status 1: there is a report. Status 2: no comparison could be made.
"""

import re
import subprocess
import sys
import traceback
import zipfile
from pathlib import Path

import reads
import report
import rest
import sources
import writes

DATA = Path(__file__).resolve().parent.parent / "data"
# The table's name, the number of lines above its rows, and the number of columns that name a row.
TABLES = {
    "rest.tsv": (1, 2),
    "graphql-mutations.tsv": (2, 1),
    "graphql-inputs.tsv": (2, 2),
    "graphql-types.tsv": (2, 2),
}
# This package lists one package for each version of the API.
INDEX, GRAPHQL = "githubkit-schemas", "ghapi"
LISTED = re.compile(r"^Requires-Dist: (githubkit-schemas-[a-z0-9-]+==[0-9.]+)", re.MULTILINE)


def main(target):
    target = Path(target)
    for stale in (target / "report.txt", *(target / "tables").glob("*"), *(target / "wheels").glob("*")):
        stale.unlink(missing_ok=True)
    try:
        return compared(target)
    except sources.Unreadable as error:
        print(f"schema: no comparison: {error}", file=sys.stderr)
    except Exception:
        # A package may have another form than the tool expects.
        traceback.print_exc()
        print("schema: no comparison: a package could not be read", file=sys.stderr)
    return 2


def compared(target):
    """Downloads the packages, and writes the report and the next tables."""
    index, graphql = download([INDEX, GRAPHQL], target / "wheels")
    packages = download(versions(index), target / "wheels")
    described, enterprise = {}, {}
    for wheel in packages:
        merge(enterprise if "_ghec_" in wheel.name else described, sources.operations(wheel))
    heads = [sources.label(wheel) for wheel in [*packages, graphql]]
    old = {name: read(DATA / name, name) for name in TABLES}
    text, is_new, tables = compare(described, enterprise, sources.graphql(graphql), old, heads)
    (target / "tables").mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        (target / "tables" / name).write_text(written(DATA / name, name, rows))
    (target / "report.txt").write_text(text)
    print(text, end="")
    if is_new:
        print(f"The next tables are in {target}/tables. Judge each line with a question mark before you take it over.")
    return 1 if is_new else 0


def download(packages, directory):
    """The wheels of `packages` in their order. Packages are downloaded and not installed: none of their code runs."""
    directory.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
           "--only-binary=:all:", "--ignore-requires-python", "--retries", "2", "--dest", str(directory)]
    if subprocess.run([*pip, *packages], check=False).returncode:
        raise sources.Unreadable(f"pip could not download {' '.join(packages)}; this needs pip and PyPI")
    stems = [re.sub("==.*", "", package).replace("-", "_") for package in packages]
    return [wheel for stem in stems for wheel in directory.glob(f"{stem}-[0-9]*.whl")]


def versions(wheel):
    """The packages of all versions of the API, with their version."""
    with zipfile.ZipFile(wheel) as files:
        name = next(name for name in files.namelist() if name.endswith(".dist-info/METADATA"))
        listed = sorted(set(LISTED.findall(files.read(name).decode())))
    if not listed:
        raise sources.Unreadable(f"{sources.label(wheel)} lists no package with a version of the API")
    return listed


def merge(into, operations):
    """Adds the operations of one version of the API. An operation has the parameters of all versions."""
    for key, operation in operations.items():
        have = into.setdefault(key, operation)
        have.query = list(dict.fromkeys(have.query + operation.query))
        have.body = list(dict.fromkeys(have.body + operation.body))


def compare(described, enterprise, types, old, heads):
    """The report, whether anything is new, and the next tables."""
    inputs = old["graphql-inputs.tsv"]
    operations, notes = rest.table(described, enterprise, old["rest.tsv"])
    mutations, suggested = writes.mutations(types, old["graphql-mutations.tsv"], inputs)
    members, about = writes.members(types, mutations, inputs)
    payloads = {field.type for field in types["Mutation"].fields.values()}
    readable, unknown = reads.table(types, payloads)
    fields = read_side(old["graphql-types.tsv"], readable)
    for name, field in fields:
        kind = types.get(name.removesuffix("~"))
        if kind and field in kind.fields:
            about[name, field] = kind.fields[field].about
    new = {"rest.tsv": operations, "graphql-mutations.tsv": mutations, "graphql-inputs.tsv": members,
           "graphql-types.tsv": fields}
    tables = {name: (old[name], new[name]) for name in TABLES}
    text, is_new = report.text(tables, {**notes, **suggested}, about, unknown, heads)
    return text, is_new, new


def read_side(old, readable):
    """The next rows of the types: the old ones, also those of deprecated fields, and what is new of `readable`."""
    rows = dict(old)
    for name, field, target, arguments in sorted(readable):
        _, _, known, taken = old.get((name, field), (name, field, None, "-"))
        if known is None:
            rows[name, field] = (name, field, target + "?", arguments)
        else:
            taken = rest.joined(taken, [] if arguments == "-" else arguments.split(","))
            rows[name, field] = (name, field, known if known == target else target + "?", taken)
    return rows


def read(path, name):
    """The rows of a table by the columns that name them."""
    head, key = TABLES[name]
    rows = [tuple(line.split("\t")) for line in path.read_text().splitlines()[head:]]
    return {row[0] if key == 1 else row[:key]: row for row in rows}


def written(path, name, rows):
    """The text of a table with `rows`. REST operations are sorted by their paths."""
    head = path.read_text().splitlines()[: TABLES[name][0]]
    order = sorted(rows.values(), key=(lambda row: row[1]) if name == "rest.tsv" else None)
    return "\n".join([*head, *("\t".join(row) for row in order)]) + "\n"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
