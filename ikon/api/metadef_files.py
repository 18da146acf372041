"""Routes of whole namespaces of metadata definitions, for administrators and for the commands of this server's own user."""

from typing import Any
from urllib.parse import urlencode

from starlette.responses import Response

from ikon.api.request import Request, empty, json
from ikon.model import definition_file
from ikon.problems import BadValue
from ikon.service import metadef_files

#: Of a file: more than the largest namespace has.
FILE_BYTES = 5 << 20


async def browse(request: Request) -> Response:
    """GET /ikon/v1/metadefs: all namespaces by name, a page behind the name `marker`; `next` leads to the next page."""
    request.refuse_body()
    marker = dict(request.params()).get("marker", "")
    if "\0" in marker or len(marker) > 80:
        raise BadValue("marker: a namespace's name has 80 characters at most, none of them NUL")
    found = await metadef_files.browse(request.kit, request.ctx, marker)
    page: dict[str, Any] = {
        "namespaces": [
            {
                "namespace": namespace.namespace,
                "visibility": namespace.visibility,
                "protected": namespace.protected,
                "owner": namespace.owner,
                "properties": counted.get("property", 0),
                "objects": counted.get("object", 0),
                "tags": counted.get("tag", 0),
                "resource_types": counted.get("resource_type", 0),
            }
            for namespace, counted in found
        ]
    }
    if found and len(found) == request.kit.settings.limits.page_max:
        page["next"] = f"/ikon/v1/metadefs?{urlencode({'marker': found[-1][0].namespace})}"
    return json(page)


async def load(request: Request) -> Response:
    """POST /ikon/v1/metadefs: load a namespace, in the form of its file; if it is there, `existing=` skip, merge, prefer-new or overwrite.

    The answer names the outcome: loaded, skipped, changed or unchanged.
    """
    metadef_files.require(request.ctx)
    existing = definition_file.existing(dict(request.params()).get("existing", "skip"))
    tree = definition_file.parse(await request.json_body(FILE_BYTES))
    outcome = await metadef_files.load(request.kit, request.ctx, tree, existing)
    return json({"namespace": tree.about.namespace, "outcome": outcome})


async def show(request: Request) -> Response:
    """GET /ikon/v1/metadefs/{namespace}: a namespace in the form of its file."""
    request.refuse_body()
    return json(definition_file.form(*await metadef_files.show(request.kit, request.ctx, request.segments["namespace"])))


async def remove(request: Request) -> Response:
    """DELETE /ikon/v1/metadefs/{namespace}: take a namespace away; a protected one with `protected=true`."""
    request.refuse_body()
    protected = dict(request.params()).get("protected", "false")
    if protected not in ("true", "false"):
        raise BadValue(f"protected: {protected!r:.40} is not allowed; allowed: true, false")
    await metadef_files.remove(request.kit, request.ctx, request.segments["namespace"], protected=protected == "true")
    return empty()
