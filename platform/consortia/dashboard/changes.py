"""Takes a change from a page in two steps: it is checked and shown in words, and made when it is confirmed.

`Guard` decides who may; what is changed and recorded is the business of whoever offers the change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from consortia.common.acts import acting
from consortia.common.errors import ConsortiaError
from consortia.dashboard.door import form
from consortia.dashboard.security import Tickets


@dataclass(frozen=True)
class Proposal:
    """A change that was checked.

    Attributes
    ----------
    heading, effect, button : str
        What the page says: the question, what follows from it, the button.
    lines : sequence of str
        What would change, before and after.
    back : str
        The page to return to.
    make : callable
        Makes it.
    """

    heading: str
    lines: Sequence[str]
    effect: str
    button: str
    back: str
    make: Callable[[], object]


class Changes:
    """The changes that one view offers.

    Parameters
    ----------
    app : FastAPI
    page : callable
        Renders a template with the view's own values.
    """

    def __init__(self, app: FastAPI, page: Callable[..., Response]) -> None:
        self._app = app
        self._page = page
        self._tickets = Tickets()
        app.post("/change/confirm")(self._confirm)

    def offer(self, path: str, back: str, check: Callable[[dict[str, str]], Proposal]) -> None:
        """Take a form at `/change/` and `path`; `check` raises `InputError` for what cannot be."""

        async def propose(request: Request) -> Response:
            fields = await form(request)
            try:
                proposal = await run_in_threadpool(check, fields)
            except ConsortiaError as error:
                return self._refused(str(error), back)
            values = {name: getattr(proposal, name) for name in ("heading", "lines", "effect", "button", "back")}
            return self._shown(**values, ticket=self._tickets.give(proposal))

        self._app.post(f"/change/{path}")(propose)

    async def _confirm(self, request: Request) -> Response:
        proposal = self._tickets.take((await form(request)).get("ticket", ""))
        if proposal is None:
            return self._refused("This change was made already, or was shown more than ten minutes ago.", "/", 409)
        try:
            with acting(request.state.who):
                await run_in_threadpool(proposal.make)
        except ConsortiaError as error:
            return self._refused(str(error), proposal.back)
        return RedirectResponse(proposal.back, 303)

    def _refused(self, problem: str, back: str, status: int = 422) -> Response:
        return self._shown(status, heading="Nothing was changed", problem=problem, back=back)

    def _shown(self, status: int = 200, **values: Any) -> Response:
        return self._page("confirm.html", status=status, may_change=True, **{"problem": "", **values})
