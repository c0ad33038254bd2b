"""Participants in processes of their own: each keeps its process, results are the same, a lost process is answered."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from consortia.engines import apart
from consortia.engines.apart import Apart, useful
from consortia.engines.embedded import EmbeddedGrid
from consortia.engines.options import Options
from consortia.engines.runner import execute, prepare


def test_each_number_has_one_process_that_ends_with_its_owner() -> None:
    forks = Apart(lambda data: data + b" " + str(os.getpid()).encode(), 2)
    first, again, other = forks.ask(0, b"a").split(), forks.ask(0, b"b").split(), forks.ask(1, b"c").split()
    assert (first[0], again[0], other[0]) == (b"a", b"b", b"c")
    assert first[1] == again[1]
    assert len({first[1], other[1], str(os.getpid()).encode()}) == 3
    for number in range(2):
        forks.close(number)
    for process in (first, other):
        with pytest.raises(ProcessLookupError):
            os.kill(int(process[1]), 0)


def test_forks_draw_apart() -> None:
    def draw(_: bytes) -> bytes:
        import torch

        return torch.rand(4).numpy().tobytes()

    forks = Apart(draw, 2)
    assert forks.ask(0, b"") != forks.ask(1, b"")
    for number in range(2):
        forks.close(number)


def test_nothing_is_forked_beside_another_thread() -> None:
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    try:
        assert useful(9) == 1
    finally:
        end.set()
        thread.join()


def test_a_lost_process_is_an_error_of_its_participants_alone() -> None:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        if context.node_config["participant"] == "b":
            os.kill(os.getpid(), signal.SIGKILL)
        return Message(RecordDict({"at": ConfigRecord({"pid": os.getpid()})}), reply_to=message)

    grid = EmbeddedGrid(app, {name: {"participant": name} for name in "ab"}, processes=2)
    sent = [grid.create_message(RecordDict(), "train", node, "") for node in grid.get_node_ids()]
    replies = {reply.metadata.src_node_id: reply for reply in grid.send_and_receive(sent)}
    grid.close()
    assert replies[2].content["at"]["pid"] != os.getpid()
    assert replies[3].has_error()


@pytest.mark.end_to_end
def test_a_run_in_processes_gives_the_same_predictions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "useful", lambda participants: 2)

    def predictions(every_core: bool) -> dict[str, str]:
        dump = tmp_path / str(every_core)
        options = Options(scenario="banks-network", rounds=2, epsilon=("inf",), out=tmp_path / "runs", dump=dump)
        assert execute(prepare(options), options, every_core=every_core).result["status"] == "completed"
        return {file.parent.name: file.read_text() for file in dump.glob("*/predictions.csv")}

    apart_, here = predictions(True), predictions(False)
    assert apart_ == here
    assert len(here) > 2
