"""`ikon jobs`: work that outlives a request. Speaks to the running server."""

import sys
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode

import click

from ikon.cli.options import settings, settings_options
from ikon.cli.remote import call
from ikon.config import Settings
from ikon.model.job import ENDED, STATES

#: Seconds between two looks at a job that is watched; of its progress the server learns every 3 s.
LOOK_S = 0.5


@click.group()
def jobs() -> None:
    """Look at work that outlives a request (imports, copies), try it again, or cancel it."""


@jobs.command(name="list")
@settings_options
@click.option("--state", multiple=True, type=click.Choice(STATES), help="Only jobs in this state; may be repeated.")
@click.option("--image", help="Only jobs of this image.")
@click.option("--project", help="Only jobs of this project.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="As many of the newest.")
def list_(config: str | None, data: str | None, state: tuple[str, ...], image: str | None, project: str | None, limit: int) -> None:
    """List jobs, newest first: id, kind, image, state, step, progress and reason, parted by tabs."""
    chosen = settings(config, data=data)
    asked = {"state": ",".join(state), "image": image, "project": project, "limit": limit}
    path = f"/ikon/v1/jobs?{urlencode({name: value for name, value in asked.items() if value})}"
    while path and limit > 0:
        page: dict[str, Any] = call(chosen, "GET", path)
        for job in page["jobs"][:limit]:
            fields = (
                job["id"],
                job["kind"],
                job["image"] or "-",
                job["state"],
                job["step"] or "-",
                _progress(job) or "-",
                job["reason"] or "-",
            )
            click.echo("\t".join(fields))
        limit, path = limit - len(page["jobs"]), page.get("next", "")


@jobs.command()
@settings_options
@click.argument("job_id")
def show(config: str | None, data: str | None, job_id: str) -> None:
    """Show all that is known of job JOB_ID."""
    job = _get(settings(config, data=data), job_id)
    for name, value in job.items():
        if value not in (None, [], False):
            click.echo(f"{name + ':':12} {', '.join(value) if isinstance(value, list) else value}")


@jobs.command()
@settings_options
@click.argument("job_id")
def retry(config: str | None, data: str | None, job_id: str) -> None:
    """Begin failed job JOB_ID again, at the step that failed and with the data that was kept."""
    job = call(settings(config, data=data), "POST", f"{_path(job_id)}/retry")
    click.echo(f"Job {job_id} begins again at step {job['step']}")


@jobs.command()
@settings_options
@click.argument("job_id")
def cancel(config: str | None, data: str | None, job_id: str) -> None:
    """End job JOB_ID. What it was writing is removed; staged data, and properties that finished steps set, stay."""
    job = call(settings(config, data=data), "POST", f"{_path(job_id)}/cancel")
    click.echo(f"Job {job_id} is cancelled" if job["state"] == "cancelled" else f"Job {job_id} ends as soon as its process hears of it")


@jobs.command()
@settings_options
@click.argument("job_id")
def watch(config: str | None, data: str | None, job_id: str) -> None:
    """Show how job JOB_ID gets on, until it ends: a bar on a terminal, else a line for each change.

    Ends with 1 when the job fails or is cancelled.
    """
    last = follow(settings(config, data=data), job_id)
    click.echo(f"Job {job_id} is {last['state']}{': ' + last['reason'] if last['reason'] and last['state'] != 'done' else ''}")
    raise SystemExit(0 if last["state"] == "done" else 1)


def follow(chosen: Settings, job_id: str) -> dict[str, Any]:
    """Show how a job gets on, and return it when it has ended. Raises ClickException."""
    seen = _seen(chosen, job_id)
    return _bar(seen) if sys.stdout.isatty() else _lines(seen)


def _seen(chosen: Settings, job_id: str) -> Iterator[dict[str, Any]]:
    """The job, again and again until it has ended."""
    while (job := _get(chosen, job_id))["state"] not in ENDED:
        yield job
        time.sleep(LOOK_S)
    yield job


def _lines(seen: Iterator[dict[str, Any]]) -> dict[str, Any]:
    before, job = "", {}
    for job in seen:
        line = " ".join(filter(None, (job["state"], job["step"], _progress(job))))
        if line != before:
            click.echo(line)
        before = line
    return job


def _bar(seen: Iterator[dict[str, Any]]) -> dict[str, Any]:
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    job: dict[str, Any] = {}
    with Progress(*columns) as progress:
        task, step = progress.add_task("", total=None), None
        for job in seen:
            if job["step"] != step:
                step = job["step"]
                progress.reset(task)
            done = job["total_bytes"] if job["state"] == "done" else job["done_bytes"]
            progress.update(task, description=f"{job['state']} {step or ''}", completed=done or 0, total=job["total_bytes"])
    return job


def _progress(job: dict[str, Any]) -> str:
    """How far a job is, in words."""
    if job["done_bytes"] is None or job["state"] != "running":
        return ""
    share = f"{100 * job['done_bytes'] // job['total_bytes']} % of " if job["total_bytes"] else ""
    return f"{share}{(job['total_bytes'] or job['done_bytes']) / (1 << 20):.1f} MiB"


def _get(chosen: Settings, job_id: str) -> dict[str, Any]:
    found: dict[str, Any] = call(chosen, "GET", _path(job_id))
    return found


def _path(job_id: str) -> str:
    return f"/ikon/v1/jobs/{quote(job_id, safe='')}"
