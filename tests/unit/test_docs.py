"""The docs say what the code does: the reference is made from it, every warning is explained, every link and test that is named is there."""

import ast
import importlib.util
import re
import subprocess
from pathlib import Path
from types import ModuleType

import click
import msgspec
import pytest
from prometheus_client.metrics import MetricWrapperBase

from ikon import config, metrics
from ikon.api import door
from ikon.cli import root
from ikon.db import tables

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "scripts/reference.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def reference(name: str) -> str:
    return (DOCS / "reference" / name).read_text(encoding="utf-8")


def test_the_reference_is_what_the_code_says(script: ModuleType) -> None:
    old = [name for name, text in script.pages().items() if not (DOCS / "reference" / name).exists() or reference(name) != text]

    assert not old, f"run: make docs, for {', '.join(old)}"
    assert sorted(path.name for path in (DOCS / "reference").iterdir()) == sorted(script.pages())


def test_every_setting_is_in_the_reference_with_its_meaning() -> None:
    page = reference("settings.md")
    for struct in (
        config.Settings,
        config.Quota,
        config.Limits,
        config.Formats,
        config.Staging,
        config.Jobs,
        config.Trash,
        config.Http,
        config.Cors,
    ):
        for field in msgspec.structs.fields(struct):
            assert f"`{field.name}`" in page or f"## [{field.name}]" in page, field.name
    assert "|  |\n" not in page, "a setting has no description"
    assert "IKON_LIMITS__PAGE_MAX" in page


def test_every_problem_is_in_the_reference_with_a_title_and_a_sentence(script: ModuleType) -> None:
    page = reference("problems.md")
    for kind in script.all_problems():
        assert f"| {kind.status} | `{kind.__name__}` | {kind.title} | " in page
        assert kind.__doc__, kind


def test_every_metric_route_and_table_is_in_the_reference() -> None:
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            assert f"`{metric._name}" in reference("metrics.md")
    for path, handlers in door.ROUTES.items():
        for method in handlers:
            assert f"| {method} | `{path}` |" in reference("routes.md")
    for name in tables.metadata.tables:
        assert f"## {name}\n" in reference("tables.md")


def test_every_command_and_option_is_in_the_reference(script: ModuleType) -> None:
    page = reference("commands.md")
    for context in script.walk(root, None):
        assert f"## {context.command_path}\n" in page
        assert context.command.help, context.command_path
        for option in context.command.params:
            assert not isinstance(option, click.Option) or option.opts[0] in page


def warnings() -> set[str]:
    """The events of every warning and error that the code logs."""
    found = set()
    for path in (ROOT / "ikon").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or ast.unparse(node.func.value) != "log.get()":
                continue
            if node.func.attr not in ("info", "debug"):
                assert isinstance(node.args[0], ast.Constant), f"{path}: an event is a plain text"
                found.add(node.args[0].value)
    return found


def test_every_warning_and_error_has_its_paragraph() -> None:
    explained = set(re.findall(r"^### (.+)$", (DOCS / "how-to/troubleshoot.md").read_text(encoding="utf-8"), re.MULTILINE))

    assert warnings() - explained == set(), "not explained in docs/how-to/troubleshoot.md"
    assert explained - warnings() == set(), "explained, but never logged"


def pages() -> list[Path]:
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]


def test_every_link_leads_somewhere() -> None:
    broken = []
    for page in pages():
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if "://" not in target and not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert not broken


def test_every_file_that_the_design_names_is_there() -> None:
    missing = []
    for page in sorted((DOCS / "design").glob("*.md")):
        for name in re.findall(r"`((?:tests|ikon|scripts)/[\w/.]+\.\w+)`", page.read_text(encoding="utf-8")):
            if not (ROOT / name).exists():
                missing.append(f"{page.name}: {name}")
    assert not missing


def test_the_invariants_are_numbered_without_a_gap() -> None:
    numbers = re.findall(r"^## (\d+)\. ", (DOCS / "design/invariants.md").read_text(encoding="utf-8"), re.MULTILINE)

    assert numbers == [str(n) for n in range(1, len(numbers) + 1)]


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 100


def test_no_file_holds_a_path_of_one_machine() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split("\0")
    places = [str(ROOT), *(str(place) for place in {Path.home()} if place != Path("/root"))]
    guilty = []
    for name in filter(None, listed):
        path = ROOT / name
        if path.is_file():
            text = path.read_bytes().decode("utf-8", "replace")
            if re.search(r"(?<![\w.])/(?:work|home/\w+|Users/\w+|root)/\w", text) or any(place in text for place in places):
                guilty.append(name)
    assert not guilty
