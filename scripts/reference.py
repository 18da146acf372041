"""Writes docs/reference from the code. With --check it writes nothing, and ends with 1 if a page is old."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import click
import msgspec
import sqlalchemy as sa
from prometheus_client.metrics import MetricWrapperBase

from ikon import config, metrics, problems
from ikon.api import discovery, door
from ikon.cli import root
from ikon.db import tables
from ikon.stores.registry import kinds

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "reference"


def pages() -> dict[str, str]:
    """Every page by its file name."""
    made = {
        "settings.md": settings(),
        "commands.md": commands(),
        "problems.md": list_problems(),
        "metrics.md": list_metrics(),
        "routes.md": routes(),
        "tables.md": list_tables(),
    }
    index = [f"- [{name.removesuffix('.md').capitalize()}]({name})" for name in made]
    made["README.md"] = page(
        "Reference", "To look things up. These pages are made from the code by `make docs`; change them there.", *index
    )
    return made


def page(title: str, *lines: str) -> str:
    """A page as it is written."""
    head, *rest = lines
    return "\n".join([f"# {title}", "", head, "", *rest]).rstrip() + "\n"


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table and an empty line."""
    cells = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in cells] + [""]


# Settings


def settings() -> str:
    lines = ["## In the file", "", *struct(config.Settings, "")]
    for field in msgspec.structs.fields(config.Settings):
        kind = plain(field.type)
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            lines += [f"## [{field.name}]", "", str(kind.__doc__), "", *struct(kind, f"{field.name}.")]
    lines += ["## [regions.NAME]", "", str(config.Region.__doc__), "", *struct(config.Region, "regions.NAME.")]
    for name, point in sorted(kinds().items()):
        kind = point.load().Settings
        lines += [f'## [stores.NAME], type = "{name}"', "", str(kind.__doc__), "", *struct(kind, "")]
    return page(
        "Settings",
        "Read from one TOML file (`--config FILE` or `IKON_CONFIG`), then from the environment, then from options; the later wins. "
        "A table's key has two underscores in the environment: `IKON_QUOTA__BYTES=1000`; a list is parted by commas. "
        "Stores and regions are set in the file only, but for a region's single texts. "
        "A key that is not known, here or in the environment, stops the start.",
        *lines,
    )


def struct(kind: Any, prefix: str) -> list[str]:
    """A table of one struct's settings. Those of a store have no variable."""
    in_environment = kind is config.Settings or bool(prefix)
    rows = []
    for field in msgspec.structs.fields(kind):
        inner = plain(field.type)
        if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
            continue
        row = [f"`{field.name}`", kind_of(field.type), default(field), description(field.type)]
        if in_environment:
            variable = config.PREFIX + (prefix.replace(".", "__") + field.name).upper()
            row.insert(1, f"`{variable}`" if get_origin(inner) is not dict and (kind, field.name) != (config.Region, "properties") else "")
        rows.append(row)
    return table(["Key", *(["Variable"] if in_environment else []), "Takes", "Default", "Meaning"], rows)


def plain(kind: Any) -> Any:
    return kind.__origin__ if hasattr(kind, "__metadata__") else kind


def description(kind: Any) -> str:
    return next((meta.description for meta in getattr(kind, "__metadata__", ()) if meta.description), "")


def kind_of(kind: Any) -> str:
    """What may be written, for a person."""
    bounds = ""
    for meta in getattr(kind, "__metadata__", ()):
        bounds += f" >= {meta.ge:g}" if meta.ge is not None else ""
        bounds += f", <= {meta.le:g}" if meta.le is not None else ""
        bounds += f" > {meta.gt:g}" if meta.gt is not None else ""
    inner = plain(kind)
    if hasattr(inner, "__metadata__"):
        return kind_of(inner) + bounds
    if get_args(inner) and all(isinstance(arg, str) for arg in get_args(inner)):
        return ", ".join(f'`"{arg}"`' for arg in get_args(inner))
    if get_origin(inner) is list and get_args(inner) != (str,):
        return f"list of {kind_of(get_args(inner)[0])}"
    names = {int: "integer", float: "number", str: "text", bool: "true, false", list: "list of texts", dict: "tables"}
    return names[get_origin(inner) or inner] + bounds


def default(field: Any) -> str:
    if field.default is msgspec.NODEFAULT:
        return "required" if field.default_factory is msgspec.NODEFAULT else ""
    return f"`{field.default!r}`".replace("'", '"').replace("True", "true").replace("False", "false") if field.default != "" else ""


# Commands


def commands() -> str:
    lines = []
    for context in walk(root, None):
        words = context.command_path
        lines += [f"## {words}", "", "```", context.command.get_help(context), "```", ""]
    return page("Commands", "What `--help` says, of every command. Settings may also come from the file and the environment.", *lines)


def walk(command: click.Command, parent: click.Context | None) -> Iterator[click.Context]:
    """A command and all below it, each as it is called."""
    name = command.name if parent else "ikon"
    context = click.Context(command, parent, name, terminal_width=100, max_content_width=100, **own_settings(command))
    yield context
    if isinstance(command, click.Group):
        for each in command.list_commands(context):
            found = command.get_command(context, each)
            assert found is not None
            yield from walk(found, context)


def own_settings(command: click.Command) -> dict[str, Any]:
    return {name: value for name, value in command.context_settings.items() if name != "max_content_width"}


# Problems


def all_problems() -> list[type[problems.Problem]]:
    found = [value for value in vars(problems).values() if isinstance(value, type) and issubclass(value, problems.Problem)]
    return [kind for kind in found if kind is not problems.Problem]


def list_problems() -> str:
    rows = [[str(kind.status), f"`{kind.__name__}`", kind.title, first_line(kind), kind.hint] for kind in all_problems()]
    rows.sort(key=lambda row: row[0])
    return page(
        "Problems",
        "Every way a request can fail: its HTTP status, its class in `ikon/problems.py`, and what is said to the client. "
        "A sentence of the case at hand replaces the general one. "
        "Its form follows the Accept header: nested JSON without one, HTML, flat JSON or plain text.",
        *table(["Status", "Class", "Title", "Says", "Hint"], rows),
        "An unforeseen failure is a 500 that says nothing of the inside, and the log's `request failed` with the request's id. "
        "What keeps the server from starting is a `StartError`: one line on standard error and exit code 2.",
    )


def first_line(thing: Any) -> str:
    return (thing.__doc__ or "").strip().split("\n")[0]


# Metrics


def list_metrics() -> str:
    rows = []
    for value in vars(metrics).values():
        if isinstance(value, MetricWrapperBase):
            name = value._name + ("_total" if value._type == "counter" else "")
            labels = ", ".join(f"`{label}`" for label in value._labelnames)
            rows.append([f"`{name}`", value._type, labels, value._documentation])
    return page(
        "Metrics",
        "`GET /metrics` gives them in Prometheus's text format, to whoever can connect. With several workers each answers for itself.",
        *table(["Name", "Kind", "Labels", "Counts"], rows),
    )


# Routes


def routes() -> str:
    rows = []
    for pattern, handlers in door.ROUTES.items():
        for method, handler in handlers.items():
            story = re.fullmatch(r"[A-Z]+ /\S*: (.+)", first_line(handler))
            assert story, f"{handler.__name__}: its docstring begins with METHOD /path: what it does"
            text = story[1]
            rows.append([method, f"`{pattern}`", text[0].upper() + text[1:]])
    return page(
        "Routes",
        "HEAD works where GET does, OPTIONS everywhere, another method is a 405 with `Allow`. Repeated slashes count once. "
        f"`/v2` also answers as each minor version from `/v2.0` to `/v{discovery.CURRENT}`.",
        *table(["Method", "Path", "What it does"], rows),
        "What each filter and order of a list costs is in [lists](../design/lists.md).",
    )


# Tables


def list_tables() -> str:
    source = (ROOT / "ikon/db/tables.py").read_text(encoding="utf-8")
    lines = []
    for each in tables.metadata.sorted_tables:
        block = source[source.index(f"\n{each.name} = sa.Table(") :].split("\n)\n")[0]
        notes = dict(re.findall(r'sa\.Column\("(\w+)".*#\s(.+)$', block, re.MULTILINE))
        rows = [[f"`{column.name}`", sql_type(column), key(column), notes.get(column.name, "")] for column in each.columns]
        lines += [f"## {each.name}", "", *table(["Column", "Type", "", "Note"], rows)]
        indexes = [f"`{index.name}` ({', '.join(column.name for column in index.columns)})" for index in each.indexes]
        lines += [f"Indexes: {', '.join(sorted(indexes))}", ""] if indexes else []
    return page(
        "Tables",
        f"The schema at revision {tables.SCHEMA}, the same on SQLite, MariaDB and PostgreSQL. {first_line(tables).partition('. ')[2]}",
        *lines,
    )


def sql_type(column: Any) -> str:
    kind = column.type
    return f"text, {kind.length}" if isinstance(kind, sa.String) and kind.length else type(kind).__name__.lower()


def key(column: Any) -> str:
    return "primary key" if column.primary_key else "" if column.nullable else "not null"


def main() -> int:
    """Write the pages, or with --check compare them."""
    made = pages()
    old = [name for name, text in made.items() if not (PAGES / name).exists() or (PAGES / name).read_text(encoding="utf-8") != text]
    if "--check" in sys.argv:
        print(f"old: {', '.join(old)}; run: make docs" if old else "docs/reference is what the code says")
        return 1 if old else 0
    PAGES.mkdir(parents=True, exist_ok=True)
    for name, text in made.items():
        (PAGES / name).write_text(text, encoding="utf-8")
    print(f"docs/reference: {len(made)} pages, {len(old)} changed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
