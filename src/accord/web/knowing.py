"""What is known of a ranking's order, as a manager writes it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import Field

from accord.ledger import known, projects, rankings, store
from accord.ledger.database import utc_now
from accord.ledger.rankings import WrongAnswerError
from accord.web.auth import Member, RefusedError, needs, not_found, site_of
from accord.web.body import Body

router = APIRouter(prefix="/api/v1", tags=["managing"])

Manager = Annotated[Member, Depends(needs("manage"))]


class OrderBody(Body):
    order: str = Field(
        max_length=500,
        description='by slot, A the first: "A > B = C > D", or what is known, "A > C, B > C"; "" for none',
    )


@router.put("/projects/{project_id}/questions/{item_id}/order")
def set_order(request: Request, who: Manager, item_id: str, body: OrderBody) -> dict[str, str]:
    """Make a ranking a gold question, correct what is known of its order, or take it back.

    What is between = signs, or not named, is not known.
    """
    with site_of(request).ledger.writing() as connection:
        if projects.project_of_item(connection, item_id) != who.project.id:
            raise not_found("this question")
        answers = len(store.read_groups(connection, [item_id])[item_id].completions)
        if answers < rankings.FEWEST:
            raise RefusedError(422, "invalid", "only a ranking has an order; bring gold pairs in as a file")
        try:
            order = known.read_order(body.order, answers)
        except WrongAnswerError as error:
            raise RefusedError(422, "invalid", str(error)) from None
        known.set_orders(connection, {item_id: order}, utc_now())
    return {"order": known.in_words(order, answers)}
