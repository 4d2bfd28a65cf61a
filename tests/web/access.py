"""Who may do what: the expectations that test_server_access.py compares with the app, route by route.

A route that is not in ACCESS fails the tests: whoever adds one says here who may use it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from web.world import PASSWORD, WHO, Objects

IN = "in"  # gets what the route is for: no 401, 403, 404, no redirect to the sign-in page
Expected = dict[str, int | str]


def _only(*roles: str, among: int = 403, outside: int = 404) -> Expected:
    inside = ("owner", "manager", "adjudicator", "rater", "viewer")
    return {
        **{who: among if who in inside else outside for who in WHO},
        "nobody": 401,
        "admin": IN,
        **dict.fromkeys(roles, IN),
    }


ANYONE: Expected = dict.fromkeys(WHO, IN)
SIGNED_IN: Expected = {**ANYONE, "nobody": 401}
ADMIN = _only(outside=403)
MEMBER = _only("owner", "manager", "adjudicator", "rater", "viewer")
JUDGE = _only("owner", "manager", "adjudicator", "rater")
ADJUDICATE = _only("owner", "manager", "adjudicator")
QUALITY = _only("owner", "manager", "viewer")
MANAGE = _only("owner", "manager")
ADMIN_IN = _only()  # of a project's members, only administrators
NO_SOURCE: Expected = {who: 404 if found == IN else found for who, found in MANAGE.items()}
NOT_YET: Expected = {who: 409 if found == IN else found for who, found in MEMBER.items()}  # too few answers
OWN = _only("owner")
NOT_ASKED: Expected = {who: 404 if found == IN else found for who, found in OWN.items()}
HOLDER: Expected = {**dict.fromkeys(WHO, 404), "nobody": 401, "rater": IN}  # not even an administrator
# whoever may judge, but only the rater has an answer that can be undone
ANSWERED: Expected = JUDGE | dict.fromkeys(("admin", "owner", "manager", "adjudicator"), 404)
NOT_SETTLED: Expected = {who: 404 if found == IN else found for who, found in ADJUDICATE.items()}
# runs are of no project: whoever sees the quality of some project sees them
RUNS: Expected = QUALITY | {"adjudicator": 403, "rater": 403, "stranger": 403, "outsider": IN}
NO_RUN: Expected = {who: 404 if found == IN else found for who, found in RUNS.items()}
NO_RELEASE: Expected = {who: 404 if found == IN else found for who, found in MANAGE.items()}
NO_RATER: Expected = {who: 409 if found == IN else found for who, found in MANAGE.items()}
NO_ORDER: Expected = {who: 422 if found == IN else found for who, found in MANAGE.items()}  # of a pair
NO_MEDIUM: Expected = {who: 404 if found == IN else found for who, found in JUDGE.items()}
NOTHING: Expected = {**dict.fromkeys(WHO, 404), "nobody": 401}  # objects that this account does not have


@dataclass(frozen=True)
class Access:
    who: Expected
    body: Any = None
    scope: str | None = None  # of a token that may do it; None: no token at all
    page: bool = False  # signed-out visitors are led to the sign-in page
    tokens: bool = field(default=True)  # False: tokens mean nothing here, since it is not the API


def page(who: Expected, body: Any = None) -> Access:
    return Access(who, body, page=True, tokens=False)


API = "/api/v1"
P = "/projects/{project_id}"
JUDGEMENT = {"strength": 1, "seconds": 2.5, "key": "0123456789abcdef"}
ACCESS: dict[str, Access] = {
    # pages
    "GET /": page(ANYONE),
    "GET /login": page(ANYONE),
    "POST /login": page(ANYONE, {"login": "rater", "password": PASSWORD}),
    "POST /logout": page(ANYONE),
    "GET /setup/{token}": page(dict.fromkeys(WHO, 404)),  # open ones are in test_server_entry.py
    "POST /setup/{token}": page(dict.fromkeys(WHO, 404)),
    "GET /invite/{token}": page(dict.fromkeys(WHO, 404)),
    "POST /invite/{token}": page(dict.fromkeys(WHO, 404)),
    "GET /projects": page(SIGNED_IN),
    "GET /account": page(SIGNED_IN),
    "GET /account/withdraw": page(SIGNED_IN),
    f"GET {P}/withdrawals": page(MANAGE),
    f"GET {P}/queues": page(MANAGE),
    f"GET {P}/groups": page(MANAGE),
    f"GET {P}/about-me": page(MEMBER),
    f"GET {API}{P}/attributes": Access(MEMBER, None, "read"),
    f"POST {API}{P}/attributes": Access(OWN, {"name": "region", "choices": ["a", "b"]}, "manage"),
    f"DELETE {API}{P}/attributes/{{attribute_id}}": Access(NOT_ASKED, None, "manage"),
    f"PUT {API}{P}/about-me": Access(NOT_YET, {"consent": True, "values": {}}),
    f"DELETE {API}{P}/about-me": Access(MEMBER),
    f"GET {P}": page(MEMBER),
    f"GET {P}/guideline": page(MEMBER),
    f"GET {P}/judge": page(JUDGE),
    f"GET {P}/mine": page(JUDGE),
    f"GET {P}/adjudicate": page(ADJUDICATE),
    f"GET {P}/adjudicated": page(ADJUDICATE),
    f"GET {P}/talk": page(JUDGE),
    f"GET {P}/quality": page(QUALITY),
    f"GET {P}/people": page(MANAGE),
    f"GET {P}/data": page(MANAGE),
    f"GET {P}/judgements": page(MANAGE),
    f"GET {P}/judgements/{{judgement_id}}": page(MANAGE),
    f"GET {P}/settings": page(MANAGE),
    f"GET {P}/media/{{media_id}}": page(NO_MEDIUM),
    "GET /static/{file}": page(ANYONE),
    "GET /runs": page(RUNS),
    "GET /runs/{run}": page(NO_RUN),
    f"GET {API}/runs": Access(RUNS, None, "read"),
    f"GET {API}/runs/{{run}}": Access(NO_RUN, None, "read"),
    # judging
    f"POST {API}{P}/lease": Access(JUDGE, {"want": 1}, "judge"),
    f"POST {API}/assignments/{{assignment_id}}/judgement": Access(HOLDER, JUDGEMENT, "judge"),
    f"POST {API}/assignments/{{assignment_id}}/skip": Access(HOLDER, {"reason": "other"}, "judge"),
    f"POST {API}{P}/undo": Access(ANSWERED, {}, "judge"),
    f"POST {API}{P}/adjudication/lease": Access(ADJUDICATE, {"want": 1}, "judge"),
    f"POST {API}{P}/adjudication/undo": Access(NOT_SETTLED, {}, "judge"),
    # knowing
    f"PUT {API}{P}/questions/{{item_id}}/order": Access(NO_ORDER, {"order": "A > B"}, "manage"),
    # talking
    f"GET {API}{P}/talks": Access(JUDGE, None, "read"),
    f"POST {API}{P}/talks": Access(JUDGE, {"consent": True}, "judge"),
    f"GET {API}/talks/{{talk_id}}": Access(HOLDER, None, "read"),
    f"POST {API}/talks/{{talk_id}}/turns": Access(HOLDER, {"text": "Hi", "key": "0123456789abcdef"}, "judge"),
    f"DELETE {API}/talks/{{talk_id}}/turns": Access(HOLDER, None, "judge"),
    # managing
    f"GET {API}/projects": Access(SIGNED_IN, None, "read"),
    f"POST {API}/projects": Access(ADMIN, {"name": "New", "guideline": "Choose."}, "manage"),
    f"PATCH {API}{P}": Access(MANAGE, {"overlap": 3}, "manage"),
    f"POST {API}{P}/guideline": Access(MANAGE, {"text": "Choose the better one."}, "manage"),
    f"GET {API}{P}/quality": Access(QUALITY, None, "read"),
    f"POST {API}{P}/invitations": Access(MANAGE, {"role": "rater"}, "manage"),
    f"DELETE {API}{P}/invitations/{{invitation_id}}": Access(MANAGE, None, "manage"),
    f"PATCH {API}{P}/members/{{account_id}}": Access(MANAGE, {"role": "viewer"}, "manage"),
    f"DELETE {API}{P}/members/{{account_id}}": Access(MANAGE, None, "manage"),
    f"POST {API}{P}/import": Access(MANAGE, None, "manage"),
    f"POST {API}{P}/adopt": Access(ADMIN_IN, {}, "manage"),
    f"POST {API}{P}/releases": Access(MANAGE, {"name": "r1"}, "manage"),
    f"GET {API}{P}/sources": Access(MANAGE, None, "read"),
    f"PUT {API}{P}/sources/licence": Access(NO_SOURCE, {"source": "no such", "licence": "MIT"}, "manage"),
    f"GET {API}{P}/releases/card": Access(NO_SOURCE, None, "read"),
    f"GET {API}{P}/withdrawals": Access(MANAGE, None, "read"),
    f"GET {API}{P}/queues": Access(MANAGE, None, "read"),
    f"POST {API}{P}/queues": Access(NO_RATER, {"reason": "import", "raters": ["no such"]}, "manage"),
    f"DELETE {API}{P}/queues/{{queue_id}}": Access(NO_SOURCE, None, "manage"),
    f"POST {API}{P}/erasures": Access(NO_SOURCE, {"reason": "no such", "password": PASSWORD}),
    f"POST {API}{P}/withdrawals/successor": Access(NO_RELEASE, {"release": "r", "name": "s"}, "manage"),
    f"GET {API}{P}/export/{{format}}": Access(MANAGE, None, "read"),
    f"GET {API}/judgements/{{judgement_id}}/why": Access(MANAGE, None, "read"),
    f"GET {API}/judgements/{{judgement_id}}/models": Access(MANAGE, None, "read"),
    # the account
    f"GET {API}/openapi.json": Access(SIGNED_IN, None, "read"),
    f"POST {API}/account/password": Access(SIGNED_IN, {"old": PASSWORD, "new": "another long one"}),
    f"DELETE {API}/account/sessions": Access(SIGNED_IN),
    f"DELETE {API}/account/sessions/{{session_id}}": Access(NOTHING),
    f"POST {API}/account/tokens": Access(
        SIGNED_IN, {"name": "t", "scopes": ["read"], "password": PASSWORD}
    ),
    f"DELETE {API}/account/tokens/{{token_id}}": Access(NOTHING),
    f"POST {API}/account/withdraw": Access(
        SIGNED_IN, {"scope": "identity", "password": PASSWORD}
    ),
    f"GET {API}/account/withdraw": Access(SIGNED_IN),
    f"POST {API}/accounts/{{account_id}}/disable": Access(ADMIN, {"disabled": True}),
}  # fmt: skip


def routes(found: Any, prefix: str = "") -> Iterator[str]:
    """ "METHOD /path" of every route of an app, in those that it includes too."""
    for route in found:
        if hasattr(route, "original_router"):
            yield from routes(route.original_router.routes, prefix)
        elif getattr(route, "methods", None):
            yield from (
                f"{method} {prefix}{route.path}" for method in sorted(route.methods) if method != "HEAD"
            )
        else:
            yield f"GET {prefix}{route.path}/{{file}}"


def address(path: str, of: Objects, *, other: Objects | None = None) -> str:
    """`path` with the ids of objects: the project's own, or of another project beside this one's id."""
    inner = other or of
    ids = {
        "project_id": of.project,
        "assignment_id": inner.assignment,
        "judgement_id": inner.judgement,
        "invitation_id": inner.invitation,
        "item_id": inner.items[0],
        "account_id": inner.member,
        "session_id": "0123456789abcdef",
        "token_id": "0123456789abcdef",
        "talk_id": inner.talk,
        "token": "no-such-token",
        "attribute_id": "0123456789abcdef",
        "queue_id": "0123456789abcdef",
        "format": "judgements.csv",
        "media_id": "0" * 64,
        "file": "app.js",
        "run": "no-such-run",
    }
    return path.format(**ids)
