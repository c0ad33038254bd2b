"""Kinds of networks by name, for images, sequences and items. A contract names one with its options.

`cnn` and `tcn` convolve, `gru` and `lstm` are recurrent, `transformer` is a small encoder, `two-tower` recommends. A
package brings its own:

    [project.entry-points."consortia.networks"]
    spectral = "partner_package.spectral:NETWORK"

which a contract calls `kind = "torch:spectral"`. A kind maps a row to `width` numbers; trunk and head follow.
"""

from __future__ import annotations

from clients.networks.kind import NetworkKind
from clients.networks.registry import GROUP, NAMES, encoder, get, head, names, read_options

__all__ = ["GROUP", "NAMES", "NetworkKind", "encoder", "get", "head", "names", "read_options"]
