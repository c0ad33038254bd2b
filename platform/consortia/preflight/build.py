"""Checks that a participant's image was built of the same content as the coordinator's."""

from __future__ import annotations

from consortia.common import environment
from consortia.preflight.findings import Chain, Finding


def check_build(wanted: str) -> list[Finding]:
    """Return one finding: whether the build of this image is `wanted`, the coordinator's as the kit says it."""
    chain = Chain("build")
    own = environment.build().get("build", "")
    if own == wanted:
        chain.ok(f"{own}, as the coordinator's")
    else:
        chain.failed(
            f"this image is build {own or '(none: no image of consortia)'}, the coordinator's is {wanted}",
            f"ask the coordinator for the image consortia-participant:{wanted}, or for a kit of its present build",
        )
    return chain.findings
