"""The conformance suite says whether the client is right; add what is special about insurer below it."""

from consortia_insurer import CLIENT
from consortia.testing import check_client


def test_insurer_passes_the_conformance_suite() -> None:
    check_client(CLIENT)
