"""The tables of the annotation app: who may do what, which questions belong together, and what raters say
beside the preference.

Personal data stands in `account` (the login), `api_token` (its name), `answer.body` (free text) and
`attribute_value` alone, so that it can be erased while the record of what was judged stays whole.
"""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from accord.ledger.schema import metadata

ROLES = ("owner", "manager", "adjudicator", "rater", "viewer")
WHOLE = -1  # the slot of an answer that is about the question, not about one of its completions

account = Table(
    "account",
    metadata,
    Column("id", Text, primary_key=True),
    Column("annotator_id", Text, ForeignKey("annotator.id"), nullable=False, unique=True),
    Column("login", Text),  # as typed; empty once erased
    Column("login_key", Text, unique=True),  # how logins are compared
    Column("password_hash", Text),
    Column("admin", Boolean, nullable=False),
    Column("created_at", Text, nullable=False),
    Column("disabled_at", Text),
)

session = Table(  # a session that ends is deleted
    "session",
    metadata,
    Column("token_sha256", Text, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("account_id", Text, ForeignKey("account.id"), nullable=False, index=True),
    Column("created_at", Text, nullable=False),
    Column("last_seen_at", Text, nullable=False),
)

api_token = Table(  # of a program that uses the API for an account; one that is revoked is deleted
    "api_token",
    metadata,
    Column("token_sha256", Text, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("account_id", Text, ForeignKey("account.id"), nullable=False, index=True),
    Column("name", Text, nullable=False),
    Column("scopes", Text, nullable=False),  # with spaces between them
    Column("created_at", Text, nullable=False),
    Column("expires_at", Text, nullable=False),
    Column("last_used_at", Text),
)

project = Table(
    "project",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("overlap", Integer, nullable=False),  # answers wanted for each question added from now on
    Column("form", Text, nullable=False),  # JSON: what is asked beside the preference
    Column("created_at", Text, nullable=False),
    CheckConstraint("state IN ('open', 'paused')", name="state"),
    CheckConstraint("overlap >= 1", name="overlap"),
)

project_guideline = Table(  # the newest is in force
    "project_guideline",
    metadata,
    Column("project_id", Text, ForeignKey("project.id"), primary_key=True),
    Column("n", Integer, primary_key=True),
    Column("guideline_id", Text, ForeignKey("guideline_version.id"), nullable=False),
    Column("created_at", Text, nullable=False),
)

project_item = Table(
    "project_item",
    metadata,
    Column("item_id", Text, ForeignKey("item.id"), primary_key=True),
    Column("project_id", Text, ForeignKey("project.id"), nullable=False, index=True),
    Column("priority", Integer, nullable=False),  # higher comes first
)

membership = Table(
    "membership",
    metadata,
    Column("project_id", Text, ForeignKey("project.id"), primary_key=True),
    Column("account_id", Text, ForeignKey("account.id"), primary_key=True),
    Column("role", Text),  # none: no longer a member
    CheckConstraint(f"role IN {ROLES}", name="role"),
)

invitation = Table(  # of no project: the set-up link, which makes an administrator
    "invitation",
    metadata,
    Column("id", Text, primary_key=True),
    Column("token_sha256", Text, nullable=False, unique=True),
    Column("project_id", Text, ForeignKey("project.id")),
    Column("role", Text, nullable=False),
    Column("created_by", Text, ForeignKey("account.id")),
    Column("created_at", Text, nullable=False),
    Column("expires_at", Text, nullable=False),
    Column("used_by", Text, ForeignKey("account.id")),
    Column("revoked_at", Text),
    CheckConstraint(f"role IN {(*ROLES, 'admin')}", name="role"),
    CheckConstraint("(role = 'admin') = (project_id IS NULL)", name="project"),
)

gold = Table(  # questions whose answer is known: positive means that slot 0 is better
    "gold",
    metadata,
    Column("item_id", Text, ForeignKey("item.id"), primary_key=True),
    Column("strength", Integer, nullable=False),
    Column("created_at", Text, nullable=False),
    CheckConstraint("strength BETWEEN -3 AND 3 AND strength <> 0", name="strength"),
)

gold_order = Table(  # what is known of rankings; the newest is in force
    "gold_order",
    metadata,
    Column("item_id", Text, ForeignKey("item.id"), primary_key=True),
    Column("n", Integer, primary_key=True),
    Column("pairs", Text, nullable=False),  # JSON: [the better slot, the other]; [] takes it back
    Column("created_at", Text, nullable=False),
)

answer = Table(  # flags, ratings, comments and rewritten answers, in canonical slots
    "answer",
    metadata,
    Column("judgement_id", Text, ForeignKey("judgement.id"), primary_key=True),
    Column("key", Text, primary_key=True),
    Column("slot", Integer, primary_key=True),
    Column("number", Integer),
    Column("body", Text),
    Column("salt", Text),  # erased with the body: without it the hash tells nothing about a short text
    Column("body_sha256", Text),
)

withdrawal = Table(
    "withdrawal",
    metadata,
    Column("id", Text, primary_key=True),
    Column("annotator_id", Text, ForeignKey("annotator.id"), nullable=False),
    Column("scope", Text, nullable=False),
    Column("created_at", Text, nullable=False),
    CheckConstraint("scope IN ('identity', 'text', 'all')", name="scope"),
    UniqueConstraint("annotator_id", "scope"),
)

# What raters tell about themselves, if they consent; and under which licence sources stand.

project_attribute = Table(
    "project_attribute",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project_id", Text, ForeignKey("project.id"), nullable=False, index=True),
    Column("name", Text, nullable=False),
    Column("created_at", Text, nullable=False),
    Column("ended_at", Text),
)

attribute_choice = Table(
    "attribute_choice",
    metadata,
    Column("attribute_id", Text, ForeignKey("project_attribute.id"), primary_key=True),
    Column("n", Integer, primary_key=True),
    Column("value", Text, nullable=False),
    Column("given", Integer, nullable=False),  # where the next one stands; it never goes down
    UniqueConstraint("attribute_id", "value"),
    CheckConstraint("given >= 0", name="given"),
)

group_consent = Table(
    "group_consent",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project_id", Text, ForeignKey("project.id"), nullable=False),
    Column("annotator_id", Text, ForeignKey("annotator.id"), nullable=False, index=True),
    Column("statement", Text, nullable=False),  # the words that she agreed to
    Column("given_at", Text, nullable=False),
    Column("withdrawn_at", Text),
)

attribute_value = Table(
    "attribute_value",
    metadata,
    Column("attribute_id", Text, ForeignKey("project_attribute.id"), primary_key=True),
    Column("annotator_id", Text, ForeignKey("annotator.id"), primary_key=True),
    Column("n", Integer, primary_key=True),
    Column("consent_id", Text, ForeignKey("group_consent.id"), nullable=False),
    Column("place", Integer),  # among all who ever gave this value; erased with it
    Column("value", Text),
    Column("salt", Text),  # erased with the value: without it the hash tells nothing
    Column("value_sha256", Text, nullable=False),
    Column("given_at", Text, nullable=False),
)

source_licence = Table(  # the newest is in force
    "source_licence",
    metadata,
    Column("project_id", Text, ForeignKey("project.id"), primary_key=True),
    Column("source", Text, primary_key=True),
    Column("n", Integer, primary_key=True),
    Column("licence", Text, nullable=False),
    Column("created_at", Text, nullable=False),
)

# Questions with the same reason that are kept for some raters, until that ends; for them alone if exclusive.

reservation = Table(
    "reservation",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project_id", Text, ForeignKey("project.id"), nullable=False),
    Column("reason", Text, nullable=False),
    Column("exclusive", Boolean, nullable=False),
    Column("created_at", Text, nullable=False),
    Column("ended_at", Text),
    Index(
        "one_reservation",
        "project_id",
        "reason",
        unique=True,
        sqlite_where=text("ended_at IS NULL"),
        postgresql_where=text("ended_at IS NULL"),
    ),
)

reservation_rater = Table(
    "reservation_rater",
    metadata,
    Column("reservation_id", Text, ForeignKey("reservation.id"), primary_key=True),
    Column("annotator_id", Text, ForeignKey("annotator.id"), primary_key=True),
)

# What left the ledger at somebody's request. The row comes first, and opens the way.

ERASABLE = ("item", "prompt", "completion", "media", "project_media")

erasure = Table(
    "erasure",
    metadata,
    Column("object", Text, primary_key=True),
    Column("object_id", Text, primary_key=True),
    Column("created_at", Text, nullable=False),
    CheckConstraint(f"object IN {ERASABLE}", name="object"),
)
