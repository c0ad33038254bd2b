"""The Flower ClientApp: one for every industry, the same on every engine.

It hands the envelope to `consortia.participant.handle.handle` and sends back what that returns. Flower puts the text
of an exception into its error reply, so nothing may be raised here.
"""

from __future__ import annotations

import logging

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from consortia.messages.envelope import Envelope, encode
from consortia.messages.flower import pack, unpack
from consortia.participant.node_config import home_of, source_of
from consortia.vertical.answer import answer
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
