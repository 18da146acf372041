"""The outermost handler: finds the route, establishes the caller, turns problems into answers. Nothing else does."""

import re
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import unquote

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ikon import log, metrics
from ikon.api import (
    copies,
    data,
    discovery,
    errors,
    images,
    imports,
    info,
    jobs,
    locations,
    members,
    metadef_files,
    metadefs,
    periodic,
    quotas,
    tags,
    trash,
    users,
)
from ikon.api.address import Proxies, PublicAddress
from ikon.api.auth import Identity
from ikon.api.cors import Cors
from ikon.api.request import Request
from ikon.context import new_request_id
from ikon.kit import Kit
from ikon.problems import ClientGone, HeadersTooLarge, MethodNotAllowed, NotFound, Problem

Handler = Callable[[Request], Awaitable[Response | None]]

#: Every path, with what answers each method. `{x}` stands for any one segment.
ROUTES: dict[str, dict[str, Handler]] = {
    "/": dict.fromkeys(("GET", "POST", "PUT", "PATCH", "DELETE"), discovery.choices),
    "/versions": {"GET": discovery.versions},
    "/versions/": {"GET": discovery.versions},
    "/healthcheck": {"GET": discovery.health, "POST": discovery.health},
    "/healthcheck/ready": {"GET": discovery.ready},
    "/metrics": {"GET": discovery.show_metrics},
    "/v2/images": {"GET": images.browse, "POST": images.create},
    "/v2/images/{id}": {"GET": images.show, "PATCH": images.update, "DELETE": images.delete},
    "/v2/images/{id}/file": {"GET": data.download, "PUT": data.upload},
    "/v2/images/{id}/stage": {"PUT": imports.stage},
    "/v2/images/{id}/import": {"POST": imports.start},
    "/v2/images/{id}/tasks": {"GET": imports.of_image},
    "/v2/images/{id}/actions/{action}": {"POST": images.act},
    "/v2/images/{id}/locations": {"GET": locations.browse, "POST": locations.add},
    "/v2/images/{id}/members": {"GET": members.browse, "POST": members.share},
    "/v2/images/{id}/members/{project}": {"GET": members.show, "PUT": members.answer, "DELETE": members.remove},
    "/v2/images/{id}/tags/{tag}": {"PUT": tags.add, "DELETE": tags.remove},
    "/v2/stores/{store}/{id}": {"DELETE": copies.remove},
    "/v2/info/import": {"GET": info.import_methods},
    "/v2/info/stores": {"GET": info.stores},
    "/v2/info/stores/detail": {"GET": info.stores_detail},
    "/v2/info/usage": {"GET": quotas.usage},
    "/v2/tasks": {"GET": imports.browse, "POST": imports.post},
    "/v2/tasks/{id}": {"GET": imports.show},
    "/v2/schemas/image": {"GET": info.schema_image},
    "/v2/schemas/images": {"GET": info.schema_images},
    "/v2/schemas/member": {"GET": info.schema_member},
    "/v2/schemas/members": {"GET": info.schema_members},
    "/v2/schemas/task": {"GET": info.schema_task},
    "/v2/schemas/tasks": {"GET": info.schema_tasks},
    "/v2/metadefs/namespaces": {"GET": metadefs.browse, "POST": metadefs.create},
    "/v2/metadefs/namespaces/{namespace}": {"GET": metadefs.show, "PUT": metadefs.replace, "DELETE": metadefs.remove},
    "/v2/metadefs/namespaces/{namespace}/objects": {
        "GET": metadefs.browse_objects,
        "POST": metadefs.add_object,
        "DELETE": metadefs.clear_objects,
    },
    "/v2/metadefs/namespaces/{namespace}/objects/{name}": {
        "GET": metadefs.show_object,
        "PUT": metadefs.replace_object,
        "DELETE": metadefs.remove_object,
    },
    "/v2/metadefs/namespaces/{namespace}/properties": {
        "GET": metadefs.browse_properties,
        "POST": metadefs.add_property,
        "DELETE": metadefs.clear_properties,
    },
    "/v2/metadefs/namespaces/{namespace}/properties/{name}": {
        "GET": metadefs.show_property,
        "PUT": metadefs.replace_property,
        "DELETE": metadefs.remove_property,
    },
    "/v2/metadefs/namespaces/{namespace}/tags": {"GET": metadefs.browse_tags, "POST": metadefs.set_tags, "DELETE": metadefs.clear_tags},
    "/v2/metadefs/namespaces/{namespace}/tags/{name}": {
        "GET": metadefs.show_tag,
        "POST": metadefs.add_tag,
        "PUT": metadefs.replace_tag,
        "DELETE": metadefs.remove_tag,
    },
    "/v2/metadefs/namespaces/{namespace}/resource_types": {"GET": metadefs.browse_associations, "POST": metadefs.add_association},
    "/v2/metadefs/namespaces/{namespace}/resource_types/{name}": {"DELETE": metadefs.remove_association},
    "/v2/metadefs/resource_types": {"GET": metadefs.browse_resource_types},
    "/v2/schemas/metadefs/{name}": {"GET": metadefs.schema},
    "/v2/tenants": {"GET": info.tenants},
    "/ikon/v1/images/{id}/copies": {"POST": copies.add},
    "/ikon/v1/images/{id}/timeline": {"GET": jobs.of_image},
    "/ikon/v1/images/{id}/lint": {"GET": images.look},
    "/ikon/v1/jobs": {"GET": jobs.browse},
    "/ikon/v1/jobs/{id}": {"GET": jobs.show},
    "/ikon/v1/jobs/{id}/retry": {"POST": jobs.retry},
    "/ikon/v1/jobs/{id}/cancel": {"POST": jobs.cancel},
    "/ikon/v1/trash": {"GET": trash.browse, "DELETE": trash.purge_all},
    "/ikon/v1/trash/{id}": {"DELETE": trash.purge},
    "/ikon/v1/trash/{id}/restore": {"POST": trash.restore},
    "/ikon/v1/metadefs": {"GET": metadef_files.browse, "POST": metadef_files.load},
    "/ikon/v1/metadefs/{namespace}": {"GET": metadef_files.show, "DELETE": metadef_files.remove},
    "/ikon/v1/periodic": {"GET": periodic.browse},
    "/ikon/v1/periodic/{name}/run": {"POST": periodic.run},
    "/ikon/v1/quotas": {"GET": quotas.browse},
    "/ikon/v1/quotas/{project}": {"GET": quotas.show, "PUT": quotas.limit, "DELETE": quotas.unlimit},
    "/ikon/v1/users": {"GET": users.browse, "POST": users.add},
    "/ikon/v1/users/{name}": {"DELETE": users.remove},
    "/ikon/v1/users/{name}/password": {"PUT": users.set_password},
}
METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"))
#: A request id that a client sends is taken over in this form, so that nothing else gets into headers and logs.
REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]+")
REQUEST_ID_LENGTH = 64
#: What stands, after decoding, for bytes of a path that are no UTF-8.
NO_TEXT = re.compile("[\udc80-\udcff]")


class Route:
    """One path: its pattern for metrics, its segments by name, its handlers."""

    def __init__(self, pattern: str, handlers: dict[str, Handler]) -> None:
        self.pattern, self.handlers = pattern, handlers
        self.names = [(at, part[1:-1]) for at, part in enumerate(pattern.split("/")) if part.startswith("{")]
        self.methods = sorted({*handlers, "OPTIONS", *(["HEAD"] if "GET" in handlers else [])})


class Tree:
    """Routes by segment: a look-up costs one step for each segment, however many routes there are."""

    def __init__(self, routes: dict[str, dict[str, Handler]]) -> None:
        self._root: dict[str | None, Any] = {}  # by segment, "*" for any one; under None the route that ends here
        for pattern, handlers in routes.items():
            node = self._root
            for part in pattern.split("/"):
                node = node.setdefault("*" if part.startswith("{") else part, {})
            node[None] = Route(pattern, handlers)

    def find(self, parts: list[str]) -> Route | None:
        """The route of a path, given in segments."""
        node = self._root
        for part in parts:
            named = part and not NO_TEXT.search(part)
            node = node.get(part) if part in node and part != "*" else node.get("*") if named else None  # type: ignore[assignment]
            if node is None:
                return None
        return node.get(None)


class Door:
    """The ASGI application."""

    def __init__(self, kit: Kit) -> None:
        self._kit = kit
        proxies = Proxies(kit.settings)
        self._identity = Identity(kit, proxies)
        self._address = PublicAddress(kit.settings, proxies)
        self._cors = Cors(kit.settings.cors.allowed_origins)
        self._tree = Tree(ROUTES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Never raises; an unforeseen failure is a 500, or a broken connection when the answer had begun."""
        began = time.perf_counter()
        request = Request(scope, receive, send)
        request.kit = self._kit
        started = False

        async def sending(message: Any) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                status[0] = message["status"]
                message["headers"] = [*message["headers"], *cors]
                if shows_id:
                    message["headers"].append((b"x-openstack-request-id", request_id.encode()))
            await send(message)

        scope["ikon.send"] = sending
        status = [0]
        cors = self._cors.headers(request.method, request.headers)
        parts = self._segments(request)
        shows_id = parts[1:2] in (["v2"], ["ikon"])
        request_id = new_request_id()
        route = self._tree.find(parts)
        try:
            request_id = _request_id(request)
            response = await self._answer(request, parts, route, request_id)
        except ClientGone:
            response = None
            scope["extensions"]["ikon.abort"]()
        except Problem as problem:
            response = errors.answer(problem, request.headers.get("accept"), request_id)
        except Exception:
            log.get().exception("request failed", request=request_id, method=request.method, route=route.pattern if route else None)
            response = errors.render(500, errors.UNEXPECTED, request.headers.get("accept"), request_id)
        if response is not None:
            if started:
                scope["extensions"]["ikon.abort"]()
            else:
                await response(scope, receive, sending)
        pattern = route.pattern if route else "none"
        metrics.answered(pattern, request.method if request.method in METHODS else "other", status[0]).inc()
        metrics.took(pattern).observe(time.perf_counter() - began)

    def _segments(self, request: Request) -> list[str]:
        """The path's segments, its first one empty: repeated slashes count once, and every version we list is /v2.

        Each is decoded once and by itself, so that a slash that was encoded parts nothing.
        """
        path: str = request.scope["raw_path"].decode("ascii")
        while "//" in path:
            path = path.replace("//", "/")
        parts = [unquote(part, errors="surrogateescape") for part in path.split("/")]
        if len(parts) > 1 and parts[1] in discovery.MINORS:
            parts[1] = "v2"
        if parts[1:2] != ["v2"] and self._means_v2(request, parts):
            parts.insert(1, "v2")
        return parts

    def _means_v2(self, request: Request, parts: list[str]) -> bool:
        """Whether a client that names no version wants /v2: by its media type, or openstacksdk with `http_basic`.

        That one discovers no version with this kind of authentication, and asks for /images right below the endpoint that it was given.
        """
        if "application/vnd.openstack.images-v2" in request.headers.get("accept", ""):
            return True
        basic = request.headers.get("authorization", "")[:6].lower() == "basic "
        return basic and self._tree.find(["", "v2", *parts[1:]]) is not None

    async def _answer(self, request: Request, parts: list[str], route: Route | None, request_id: str) -> Response | None:
        request.public = self._address.of(request)
        if request.method == "OPTIONS":
            return Response(headers={"Allow": ", ".join(route.methods)} if route else None)
        if parts == ["", "v2"] and request.method in ("GET", "HEAD"):
            return Response(status_code=302, headers={"Location": request.link("v2/")}, media_type="text/plain")
        if parts[1:2] in (["v2"], ["ikon"]):
            request.ctx = await self._identity.context(request, request_id)
        elif route is None and request.method in ("GET", "HEAD"):
            return await discovery.choices(request)
        if route is None:
            if request.method not in METHODS:
                return errors.render(501, "The method is not implemented.", request.headers.get("accept"), request_id)
            raise NotFound
        handler = route.handlers.get("GET" if request.method == "HEAD" else request.method)
        if handler is None:
            allowed = ", ".join(route.methods)
            raise MethodNotAllowed(f"The method {request.method:.20} is not allowed for this resource.", headers={"Allow": allowed})
        request.segments = {name: parts[at] for at, name in route.names}
        return await handler(request)


def _request_id(request: Request) -> str:
    """The id that the client sent, in our form, or a new one. Raises HeadersTooLarge."""
    sent = request.headers.get("x-openstack-request-id")
    if not sent or not REQUEST_ID.fullmatch(sent):
        return new_request_id()
    if len(sent) > REQUEST_ID_LENGTH:
        raise HeadersTooLarge(f"X-Openstack-Request-ID is longer than {REQUEST_ID_LENGTH} characters")
    return sent if sent.startswith("req-") else f"req-{sent}"
