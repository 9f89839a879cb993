"""What customers say and what the scripted model does about it.

A conversation is a list of turns; a turn is what the customer says and the steps of the
model: a :class:`Call` list is one ``AIMessage`` with that many parallel tool calls, a
function of the tool results so far is the model's answer. Answers are made from what the
tools returned, so a stale or borrowed result shows in them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Seen = Mapping[str, Any]
"""The latest result of each tool in this conversation, by tool name."""


@dataclass(frozen=True)
class Call:
    """One tool call as the model writes it.

    ``racing`` marks a read that runs beside a write of the same thing: either answer is
    right, so it is judged against the database only, not against the other run.
    """

    tool: str
    args: Mapping[str, Any] = field(default_factory=dict)
    racing: bool = False


Step = Sequence[Call] | Callable[[Seen], str]


@dataclass(frozen=True)
class Turn:
    """What the customer says, and what the model does until it has answered."""

    customer_says: str
    steps: Sequence[Step]


@dataclass(frozen=True)
class Conversation:
    """One customer's talk with the desk."""

    name: str
    customer: str
    turns: Sequence[Turn]
    circles: bool = False


def _order_line(seen: Seen) -> str:
    order = seen["get_order"]
    return f"Order {order['id']} is {order['status']} and goes to {order['address']}."


def _shelf(seen: Seen) -> str:
    return f"{seen['check_stock']['sku']}: {seen['check_stock']['stock']} left."


def _mine(seen: Seen) -> str:
    orders = ", ".join(f"{o['id']} ({o['status']})" for o in seen["my_orders"])
    cart = ", ".join(f"{c['quantity']} x {c['sku']}" for c in seen["my_cart"])
    return f"Your orders: {orders}. Your cart: {cart}."


def _advice(seen: Seen) -> str:
    found = ", ".join(f"{p['name']} at {p['cents'] / 100:.2f}" for p in seen["search_products"])
    return f"We have {found}. Returns: {seen['return_policy']['returns']}."


WHERE_IS_IT = Conversation(
    "where is my parcel",
    "ada",
    [
        Turn(
            "Where is my order 1001?",
            [
                [Call("get_order", {"order_id": 1001}), Call("track_parcel", {"order_id": 1001})],
                _order_line,
            ],
        ),
        Turn(
            "And when do I get my money back if I return it?",
            [
                # Models look the order up again as a matter of course.
                [Call("get_order", {"order_id": 1001}), Call("return_policy")],
                lambda s: f"{s['return_policy']['refund_days']} days after it is back with us.",
            ],
        ),
        Turn(
            "Thanks. Where was the parcel again?",
            [
                [Call("track_parcel", {"order_id": 1001})],
                lambda s: f"{s['track_parcel']['carrier']}, {s['track_parcel']['place']}.",
            ],
        ),
    ],
)

RETURN = Conversation(
    "a return",
    "ben",
    [
        Turn(
            "I want to send the lamp of order 1002 back.",
            [
                [Call("get_order", {"order_id": 1002}), Call("return_policy")],
                [Call("start_return", {"order_id": 1002})],
                [Call("get_order", {"order_id": 1002})],
                _order_line,
            ],
        ),
        Turn("Is it noted?", [[Call("get_order", {"order_id": 1002})], _order_line]),
    ],
)


def _shopping(customer: str) -> Conversation:
    return Conversation(
        f"tent advice for {customer}",
        customer,
        [
            Turn(
                "Which tents do you have?",
                [
                    [Call("search_products", {"kind": "tent"}), Call("return_policy")],
                    [Call("check_stock", {"sku": "TENT-2"}), Call("check_stock", {"sku": "TENT-4"})],
                    _advice,
                ],
            ),
            Turn(
                "Is the family tent in stock?",
                [
                    [Call("search_products", {"kind": "tent"})],
                    [Call("check_stock", {"sku": "TENT-4"})],
                    _shelf,
                ],
            ),
        ],
    )


NEW_ADDRESS = Conversation(
    "read and write in one turn",
    "eve",
    [
        Turn(
            "I moved! Order 1003 must go to 8 New Street. Where does it go now?",
            [
                # One AIMessage, two tool calls, run at the same time.
                [
                    Call("get_order", {"order_id": 1003}, racing=True),
                    Call("change_address", {"order_id": 1003, "address": "8 New Street"}),
                ],
                [Call("get_order", {"order_id": 1003})],
                _order_line,
            ],
        ),
        Turn("Please check again.", [[Call("get_order", {"order_id": 1003})], _order_line]),
    ],
)

CANCEL = Conversation(
    "a cancellation",
    "fay",
    [
        Turn(
            "How many stoves are left? Please cancel my order 1004.",
            [
                [Call("check_stock", {"sku": "STOVE-1"}), Call("my_orders")],
                [Call("cancel_order", {"order_id": 1004})],
                [Call("check_stock", {"sku": "STOVE-1"}), Call("my_orders")],
                lambda s: f"Done, {s['my_orders'][0]['status']}. " + _shelf(s),
            ],
        ),
    ],
)


def _account(customer: str, puts: str) -> Conversation:
    return Conversation(
        f"the account of {customer}",
        customer,
        [
            Turn("What did I order, and what is in my cart?", [[Call("my_orders"), Call("my_cart")], _mine]),
            Turn(
                f"Add one {puts}.",
                [
                    [Call("add_to_cart", {"sku": puts, "quantity": 1})],
                    [Call("my_cart")],
                    _mine,
                ],
            ),
            Turn("What did I order, and what is in my cart?", [[Call("my_orders"), Call("my_cart")], _mine]),
        ],
    )  # fmt: skip


def _monday(customer: str) -> Conversation:
    return Conversation(
        f"Monday, {customer}",
        customer,
        [
            Turn(
                f"{what.capitalize()}s?",
                [
                    [Call("search_products", {"kind": what})],
                    [Call("check_stock", {"sku": sku})],
                    [Call("return_policy")],
                    lambda s: f"{_advice(s)} {_shelf(s)}",
                ],
            )
            for what, sku in (("jacket", "JKT-M"), ("lamp", "LAMP-1"), ("jacket", "JKT-M"))
        ],
    )


def _last_jacket(customer: str) -> Conversation:
    return Conversation(
        f"the last jacket, {customer}",
        customer,
        [
            Turn("Is the rain jacket L there?", [[Call("check_stock", {"sku": "JKT-L"})], _shelf]),
            Turn(
                "Then I take one.",
                [
                    [Call("place_order", {"sku": "JKT-L", "address": "1 Elm Row"})],
                    [Call("check_stock", {"sku": "JKT-L"}), Call("my_orders")],
                    lambda s: (
                        ("It is yours. " if s["place_order"]["placed"] else "Sorry, sold out. ")
                        + f"You have {len(s['my_orders'])} orders. "
                        + _shelf(s)
                    ),
                ],
            ),
        ],
    )


CIRCLING = Conversation(
    "a model that circles",
    "kim",
    [
        Turn(
            "Where is order 1007? Do not stop until you know.",
            [
                *([Call("track_parcel", {"order_id": 1007})] for _ in range(20)),
                lambda s: f"I could not find out: {s['track_parcel']['place']}.",
            ],
        ),
    ],
    circles=True,
)

ROUNDS: Sequence[tuple[str, Sequence[Conversation]]] = (
    (
        "seven talks at once",
        [WHERE_IS_IT, RETURN, NEW_ADDRESS, CANCEL, *(_shopping(c) for c in ("cleo", "dan", "finn"))],
    ),
    ("two users, one agent", [_account("gil", "TENT-2"), _account("hana", "STOVE-1")]),
    ("six ask the same at once", [_monday(c) for c in ("ola", "pat", "quinn", "ray", "sue", "tim")]),
    ("one jacket, first come", [_last_jacket("ivo")]),
    ("one jacket, first served", [_last_jacket("jil")]),
    ("a model that circles", [CIRCLING]),
)
"""Rounds run one after the other, the conversations of a round at once."""
