"""From a problem to an answer, in the form that the client's Accept header can read.

Clients differ: one crashes on flat JSON where it asked for anything, another finds the reason only in JSON or HTML. Hence four forms.
"""

from html import escape
from typing import Any

import msgspec
from starlette.responses import Response

from ikon.problems import Problem, reason_phrase

HTML = "<html>\n <head>\n  <title>{code}</title>\n </head>\n <body>\n  <h1>{code}</h1>\n  {text}<br /><br />\n\n\n\n </body>\n</html>"
UNEXPECTED = "The server has either erred or is incapable of performing the requested operation."


def answer(problem: Problem, accept: str | None, request_id: str) -> Response:
    """The answer to a request that failed."""
    return render(problem.status, str(problem), accept, request_id, problem.headers)


def render(status: int, text: str, accept: str | None, request_id: str, headers: dict[str, str] | None = None) -> Response:
    """One error in one of four forms: nested JSON without an Accept header, HTML, flat JSON when asked for by name, plain text."""
    phrase = reason_phrase(status)
    code = f"{status} {phrase}"
    if not accept:
        return _json({"error": {"message": text, "code": status, "title": phrase, "request_id": request_id}}, status, headers)
    if "html" in accept or "*/*" in accept:
        return Response(HTML.format(code=code, text=escape(text)), status, headers, media_type="text/html")
    if "application/json" in accept:
        return _json({"message": text, "code": code, "title": phrase, "request_id": request_id}, status, headers)
    return Response(f"{code}\n\n{text}\n\n   ", status, headers, media_type="text/plain")


def _json(value: Any, status: int, headers: dict[str, str] | None) -> Response:
    return Response(msgspec.json.encode(value), status, headers, media_type="application/json")
