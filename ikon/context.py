"""Who asks: the identity behind a request, as one door established it. Knows nothing of how it was proven."""

import secrets
import uuid
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Context:
    """The caller of one request.

    project None means that the token carried no project; roles are lower-case, and never hold those of a service token, which are
    service_roles: of the service that passed the request on for this caller. token: what proved the caller, where there is one that other
    services may be shown.
    """

    user: str | None = None
    project: str | None = None
    domain: str | None = None
    roles: frozenset[str] = frozenset()
    system_scope: bool = False
    service_roles: frozenset[str] = frozenset()
    token: str | None = field(default=None, repr=False)
    request_id: str = field(default_factory=lambda: new_request_id())
    #: Whether an operator's policy file calls the caller an administrator; None: it is the role that does.
    appointed: bool | None = None
    #: Came by the server's own socket: the operator, whom no policy file holds back.
    local: bool = False

    @property
    def admin(self) -> bool:
        """Sees and may change every project's images. A system-scoped token is no admin here: every rule is about projects."""
        return ("admin" in self.roles if self.appointed is None else self.appointed) and not self.system_scope


def new_request_id() -> str:
    """`req-` and a random UUID: 40 characters, since clients send the id back and may not exceed 64."""
    return f"req-{uuid.UUID(bytes=secrets.token_bytes(16), version=4)}"
