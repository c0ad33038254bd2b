"""The Flower ClientApp: one for every industry, the same on every engine.

It hands the envelope to `consortia.participant.handle.handle` and sends back what that returns. Flower puts the text
of an exception into its error reply, so nothing may be raised here.
"""

from __future__ import annotations

import logging

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from consortia.messages.envelope import Envelope, encode, kind_of
from consortia.messages.flower import pack, unpack
from consortia.participant.handle import handle
from consortia.participant.home import Home
from consortia.participant.node_config import home_of, log_at_home, source_of
from consortia.vertical.handle import handle as handle_step
from consortia.vertical.request import STEPS

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train one round on this participant's rows."""
    return _answer(message, context)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Measure the final model at home."""
    return _answer(message, context)


def vertical(message: Message, context: Context) -> Message:
    """Answer one step of a vertical run."""
    return _answer(message, context)


for _step in STEPS:
    app.query(_step)(vertical)


def _answer(message: Message, context: Context) -> Message:
    try:
        reply = answer(unpack(message.content), home_of(context), source_of(context))
    except Exception:  # noqa: BLE001 - see the module's docstring
        logging.getLogger("consortia.participant").error("the message or the node config is malformed")
        reply = encode(Envelope({"status": "FAILED", "code": "PARTICIPANT_ERROR", "incident": "unreadable"}))
    return Message(pack(reply), reply_to=message)


def answer(data: bytes, home: Home, source: str | None) -> bytes:
    """Answer one envelope in this process, whose log goes to the participant's folder."""
    log_at_home(home)
    return (handle_step if kind_of(data) in STEPS else handle)(data, home, source)
