"""The statements on the way of every question and answer. Building one takes longer than running it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    ColumnElement,
    Integer,
    ScalarSelect,
    Select,
    bindparam,
    case,
    exists,
    func,
    literal_column,
    select,
    union_all,
    update,
)

from accord.ledger.schema import (
    annotator,
    assignment,
    audit,
    completion,
    guideline_version,
    item,
    item_candidate,
    judgement,
    message,
    presentation,
    prompt,
    prompt_message,
    sampling,
)
from accord.ledger.team_schema import (
    account,
    api_token,
    gold,
    gold_order,
    membership,
    project,
    project_guideline,
    project_item,
    reservation,
    reservation_rater,
    session,
)

LIVE = ("leased", "submitted")  # states that fill one of an item's places
QUEUED = ("judge", "repeat", "gold")  # purposes of what a rater's queue brings, which are all one to her
SETTLES = ("adjudicate",)
LIVE_TALK = "live talk "  # how the reason of a talk's question begins

# What the queue hands out. A talk's question is for who talks, unless more answers to it are wanted.
FOR_ALL = item.c.reason.not_like(f"{LIVE_TALK}%") | (item.c.target_overlap > 1)


def short_reason(reason: str) -> str:
    """Why an item was asked, the same for all turns of all talks."""
    return LIVE_TALK.strip() if reason.startswith(LIVE_TALK) else reason


def places_taken() -> ScalarSelect[int]:
    """Votes given or under way for the item of the enclosing query."""
    count = select(func.count()).select_from(assignment)
    votes = count.where(assignment.c.item_id == item.c.id, assignment.c.purpose == "judge")
    return votes.where(assignment.c.state.in_(LIVE)).scalar_subquery()


RATER = select(annotator.c.id, annotator.c.pseudonym, annotator.c.kind).where(
    (annotator.c.pseudonym == bindparam("rater")) | (annotator.c.id == bindparam("rater"))
)

EXPIRE = (
    update(assignment)
    .where(assignment.c.state == "leased", assignment.c.lease_expires_at <= bindparam("now"))
    .values(state="expired")
)

GUIDELINE = select(guideline_version.c.id).where(guideline_version.c.id == bindparam("guideline"))

SEEN = exists().where(
    assignment.c.item_id == item.c.id,
    assignment.c.annotator_id == bindparam("rater"),
    assignment.c.state.in_((*LIVE, "skipped")),
)

# Questions that are kept for some raters. These look at no item, so they run once for a statement.

_HERS = exists().where(
    reservation_rater.c.reservation_id == reservation.c.id,
    reservation_rater.c.annotator_id == bindparam("rater"),
)
_KEPT = select(reservation.c.reason).where(
    reservation.c.project_id == bindparam("project"), reservation.c.ended_at.is_(None)
)
MAY = item.c.reason.not_in(_KEPT.where(reservation.c.exclusive, ~_HERS))  # of the project's items
_IN_TURN = case(
    (item.c.reason.in_(_KEPT.where(_HERS)), 0), (item.c.reason.in_(_KEPT.where(~_HERS)), 2), else_=1
)
_there, _of = item.alias("kept_item"), project_item.alias("kept_in")
_KEPT_FROM_HER = (
    select(_there.c.id)
    .select_from(_there.join(_of, _of.c.item_id == _there.c.id))
    .join(
        reservation,
        (reservation.c.project_id == _of.c.project_id) & (reservation.c.reason == _there.c.reason),
    )
    .where(reservation.c.ended_at.is_(None), reservation.c.exclusive, ~_HERS)
)

OPEN = select(item.c.id).where(item.c.state == "open", FOR_ALL, ~SEEN, places_taken() < item.c.target_overlap)

FREE = (
    OPEN.where(item.c.kind == bindparam("kind"), item.c.id.not_in(_KEPT_FROM_HER))
    .order_by(item.c.seq)
    .limit(bindparam("limit", type_=Integer))
)

FREE_IN_PROJECT = (
    OPEN.join(project_item)
    .where(project_item.c.project_id == bindparam("project"), MAY)
    .order_by(_IN_TURN, project_item.c.priority.desc(), item.c.seq)
    .limit(bindparam("limit", type_=Integer))
)

ATTEMPTS = (
    select(assignment.c.item_id, func.count().label("n"))
    .where(
        assignment.c.annotator_id == bindparam("rater"),
        assignment.c.item_id.in_(bindparam("items", expanding=True)),
    )
    .group_by(assignment.c.item_id)
)

HELD = (
    select(assignment.c.id)
    .select_from(assignment.join(item).join(project_item, project_item.c.item_id == item.c.id))
    .where(
        assignment.c.annotator_id == bindparam("rater"),
        assignment.c.state == "leased",
        assignment.c.lease_expires_at > bindparam("now"),
        assignment.c.purpose.in_(bindparam("purposes", expanding=True)),
        project_item.c.project_id == bindparam("project"),
        FOR_ALL,
    )
    .order_by(assignment.c.leased_at, item.c.seq)
)

RENEW = (
    update(assignment)
    .where(assignment.c.id.in_(bindparam("ids", expanding=True)))
    .values(lease_expires_at=bindparam("until"))
)

ASSIGNMENTS = (
    select(assignment, annotator.c.pseudonym, annotator.c.kind, presentation.c.slot)
    .select_from(assignment.join(annotator).outerjoin(presentation))
    .where(assignment.c.id.in_(bindparam("ids", expanding=True)))
    .order_by(presentation.c.position)
)

GROUPS = (
    select(completion, sampling.c.settings, item_candidate.c.item_id)
    .add_columns(item.c.prompt_id.label("item_prompt"))
    .select_from(item_candidate.join(item).join(completion).outerjoin(sampling))
    .where(item_candidate.c.item_id.in_(bindparam("items", expanding=True)))
    .order_by(item_candidate.c.item_id, item_candidate.c.slot)
)

PROMPTS = (
    select(prompt.c.id, prompt.c.source, prompt.c.tags, message.c.role, message.c.content)
    .select_from(prompt.outerjoin(prompt_message).outerjoin(message))
    .where(prompt.c.id.in_(bindparam("ids", expanding=True)))
    .order_by(prompt.c.id, prompt_message.c.position)
)

PLACE = (
    select(assignment, annotator.c.pseudonym, annotator.c.kind, item.c.prompt_id)
    .add_columns(presentation.c.slot, item_candidate.c.completion_id)
    .select_from(
        assignment.join(annotator)
        .join(item, item.c.id == assignment.c.item_id)
        .join(presentation, presentation.c.assignment_id == assignment.c.id)
        .join(
            item_candidate,
            (item_candidate.c.item_id == item.c.id) & (item_candidate.c.slot == presentation.c.slot),
        )
    )
    .where(assignment.c.id == bindparam("id"))
    .order_by(presentation.c.position)
)

WHOSE = (
    select(assignment.c.annotator_id, assignment.c.state, assignment.c.purpose, project_item.c.project_id)
    .select_from(assignment.outerjoin(project_item, project_item.c.item_id == assignment.c.item_id))
    .where(assignment.c.id == bindparam("id"))
)

CLOSE = (
    update(item)
    .where(
        item.c.id.in_(bindparam("items", expanding=True)),
        select(func.count())
        .select_from(assignment)
        .where(assignment.c.item_id == item.c.id, assignment.c.state == "submitted")
        .where(assignment.c.purpose == "judge")
        .scalar_subquery()
        >= item.c.target_overlap,
    )
    .values(state="done")
)

SUBMITTED = update(assignment).where(assignment.c.id == bindparam("key")).values(state="submitted")

WITH_KEY = select(judgement.c.id).where(judgement.c.idempotency_key == bindparam("key"))

ASSIGNMENT_OF = select(judgement.c.assignment_id).where(judgement.c.id == bindparam("id"))

LAST_ENTRY = select(audit.c.seq, audit.c.hash).order_by(audit.c.seq.desc()).limit(1)

# How far a rater is

_newer = gold_order.alias()
ORDER_IN_FORCE = (gold_order.c.pairs != "[]") & ~exists().where(
    _newer.c.item_id == gold_order.c.item_id, _newer.c.n > gold_order.c.n
)
NOT_GOLD = ~exists().where(gold.c.item_id == item.c.id) & ~exists().where(
    gold_order.c.item_id == item.c.id, ORDER_IN_FORCE
)
GOLD_ITEMS = union_all(select(gold.c.item_id), select(gold_order.c.item_id).where(ORDER_IN_FORCE))


def _mine(queued: ColumnElement[bool]) -> Select[Any]:
    """Her questions by state, by purpose, and by whether the item is open and `queued`.

    An item that is now kept for others is "kept".
    """
    kept: ColumnElement[str] = literal_column("'kept'")
    elsewhere: ColumnElement[str] = literal_column("'elsewhere'")
    here = case((queued & MAY, item.c.state), (queued, kept), else_=elsewhere).label("item_state")
    return (
        select(assignment.c.state, assignment.c.purpose, here, func.count().label("n"))
        .select_from(assignment.join(item).join(project_item))
        .where(
            assignment.c.annotator_id == bindparam("rater"),
            assignment.c.state.in_((*LIVE, "skipped")),
            assignment.c.purpose != "adjudicate",
            project_item.c.project_id == bindparam("project"),
        )
        .group_by(assignment.c.state, assignment.c.purpose, "item_state")
    )


def _open_items(queued: ColumnElement[bool]) -> Select[Any]:
    items = select(func.count()).select_from(item.join(project_item))
    return items.where(project_item.c.project_id == bindparam("project"), item.c.state == "open", queued, MAY)


MINE, MINE_NOT_GOLD = _mine(FOR_ALL), _mine(FOR_ALL & NOT_GOLD)
OPEN_ITEMS, OPEN_ITEMS_NOT_GOLD = _open_items(FOR_ALL), _open_items(FOR_ALL & NOT_GOLD)

_gold_items = GOLD_ITEMS.subquery()
HAS_GOLD = (
    select(_gold_items.c.item_id)
    .join(project_item, project_item.c.item_id == _gold_items.c.item_id)
    .where(project_item.c.project_id == bindparam("project"))
    .limit(1)
)

# Who asks, and where

ACCOUNT = (
    select(account, annotator.c.pseudonym)
    .join(annotator)
    .where(account.c.id == bindparam("id"), account.c.disabled_at.is_(None))
)

TOKEN = select(api_token).where(
    api_token.c.token_sha256 == bindparam("sha256"), api_token.c.expires_at > bindparam("now")
)

SESSION = select(session.c.account_id, session.c.last_seen_at).where(
    session.c.token_sha256 == bindparam("sha256"),
    session.c.last_seen_at > bindparam("idle"),
    session.c.created_at > bindparam("oldest"),
)

PROJECT = (
    select(project, project_guideline.c.guideline_id, project_guideline.c.n)
    .join(project_guideline)
    .where(project.c.id == bindparam("id"))
    .order_by(project_guideline.c.n.desc())
    .limit(1)
)

ROLE = select(membership.c.role).where(
    membership.c.project_id == bindparam("project"), membership.c.account_id == bindparam("account")
)
