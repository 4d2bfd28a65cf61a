"""Mutants of the annotation app's server: one lock taken off at a time."""

from __future__ import annotations

from mutants import Mutant

ACCESS = "tests/web/test_server_access.py"
GATE = "tests/web/test_server_gate.py"
ENTRY = "tests/web/test_server_entry.py"
RATER = "tests/web/test_server_rater.py"
SIDES = "tests/web/test_server_sides.py"
CLIENT = "tests/web/test_server_client.py"

MUTANTS = [
    Mutant(
        "web/security.py",
        "if not with_token and not self._same_origin(request.headers):",
        "if False:",
        GATE,
        "no origin check",
    ),
    Mutant(
        "web/security.py",
        "if not with_token and not hmac.compare_digest(token.encode(), self._expected(request).encode()):",
        "if False:",
        f"{GATE} -k csrf_token",
        "no csrf check",
    ),
    Mutant(
        "web/security.py",
        'if request.headers.get("host", "").lower() not in self._address.hosts:',
        "if False:",
        f"{GATE} -k host",
        "any host",
    ),
    Mutant(
        "web/security.py",
        'api = request.scope["path"].startswith("/api/")\n    return',
        "api = True\n    return",
        f"{GATE} -k token_makes",
        "a token opens forms",
    ),
    Mutant(
        "web/security.py",
        'if api and not streamed and media != "application/json":',
        "if False:",
        f"{GATE} -k json_alone",
        "any media type",
    ),
    Mutant(
        "web/security.py",
        "self._add_headers(MutableHeaders(scope=message))",
        "pass",
        f"{GATE} -k strict_headers",
        "no headers",
    ),
    Mutant(
        "web/security.py", "        if length > limit:\n", "        if False:\n", GATE, "bodies of any length"
    ),
    Mutant(
        "web/auth.py",
        "if permission and permission not in PERMISSIONS[role]:",
        "if False:",
        f"{ACCESS} -k own_project",
        "every role may do all",
    ),
    Mutant(
        "web/auth.py",
        "if project is None or role is None:",
        "role = role or 'viewer'\n    if project is None:",
        f"{ACCESS} -k another",
        "strangers are viewers",
    ),
    Mutant(
        "web/auth.py",
        "if scope not in found.scopes:",
        "if False:",
        f"{ACCESS} -k scope",
        "scopes mean nothing",
    ),
    Mutant(
        "web/auth.py",
        "site.sign_ins_per_address.take_back(address)",
        "site.sign_ins_per_address.forgive(address)",
        f"{ENTRY} -k guesses",
        "a good account pays for guesses",
    ),
    Mutant(
        "web/auth.py",
        'lower = ("adjudicator", "rater", "viewer")',
        'lower = ("manager", "adjudicator", "rater", "viewer")',
        f"{ENTRY} -k managers_cannot",
        "managers make managers",
    ),
    Mutant(
        "web/pages.py",
        "    accounts.end_session(connection, session_token(request))\n    token",
        "    token",
        f"{ENTRY} -k signing_in",
        "the old session stays",
    ),
    Mutant(
        "web/pages.py",
        'target[1:2] not in ("/", "\\\\")',
        "True",
        f"{ENTRY} -k led_elsewhere",
        "leads to another site",
    ),
    Mutant(
        "web/pages.py",
        "if found is None or (found.project_id is None) != admin:",
        "if found is None:",
        f"{ENTRY} -k each_other",
        "an invitation opens the set-up",
    ),
    Mutant(
        "web/api_account.py",
        "        tokens.end_tokens(connection, account.id)\n        token =",
        "        token =",
        f"{ENTRY} -k new_password",
        "tokens outlive the password",
    ),
    Mutant(
        "web/api_people.py",
        'if not may_give(role or ""):',
        "if False:",
        f"{ENTRY} -k end_with_the_role",
        "links outlive the role",
    ),
    Mutant(
        "web/api_rater.py",
        "if found is None or found[0] != account.annotator_id:",
        "if found is None:",
        f"{ACCESS} -k own_project",
        "answering for others",
    ),
    Mutant(
        "web/listing.py",
        "                if as_shown\n",
        "                if not as_shown\n",
        f"{RATER} -k own_list",
        "slots shown to raters",
    ),
    Mutant(
        "ledger/judging.py",
        "return displayed if shown[0] == 0 else -displayed",
        "return displayed",
        SIDES,
        "sides are slots",
    ),
    Mutant(
        "ledger/prepared.py",
        '== bindparam("sha256"), api_token.c.expires_at > bindparam("now")',
        '== bindparam("sha256")',
        f"{CLIENT} -k by_themselves",
        "tokens for ever",
    ),
    Mutant(
        "./client.py",
        "build_opener(_NoRedirects())",
        "build_opener()",
        f"{CLIENT} -k redirect",
        "a token travels on",
    ),
]
