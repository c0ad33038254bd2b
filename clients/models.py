"""Builds the network of an industry (encoder, trunk, head) with the loss and predictions of its target.

The three children are the scopes' seams: a parameter is named `encoder.…`, `trunk.…` or `head.…`, and a
contract gives each of the three a scope. The trunk depends on the widths alone, so that industries with
different columns can share it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from clients import networks
from clients.errors import ModelError
from clients.schema import Target
from clients.spec import FLAT, ModelSpec

if TYPE_CHECKING:
    from clients.industry import IndustryClient

__all__ = [
    "Autoencoder",
    "FederatedModule",
    "build",
    "default_encoder",
    "default_head",
    "label_bits",
    "loss_for",
    "predict",
    "predictions",
]

_building = threading.Lock()
#: The mean squared error at which an anomaly's score is one half: every feature is off by a tenth of its range.
_HALF = 0.04


class FederatedModule(nn.Module):
    """The network of one industry: `forward({"features": (n_rows, n_features)})` -> (n_rows, outputs)."""

    def __init__(self, encoder: nn.Module, trunk: nn.Module, head: nn.Module, target: Target) -> None:
        super().__init__()
        self.encoder = encoder
        self.trunk = trunk
        self.head = head
        self.target = target

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Logits for a binary (n_rows, 1) target, of classes or labels (n_rows, k), scaled values of a regression."""
        output: Tensor = self.head(self.trunk(self.encoder(inputs["features"])))
        return output


class Autoencoder(FederatedModule):
    """A network that restores its own input: `forward` gives each row's mean squared error (n_rows, 1).

    What it was trained on it restores well; a row unlike that has a large error (Hinton and Salakhutdinov 2006,
    *Reducing the Dimensionality of Data with Neural Networks*; Sakurada and Yairi 2014, *Anomaly Detection Using
    Autoencoders*). The head gives as many numbers as there are features.
    """

    def __init__(self, encoder: nn.Module, trunk: nn.Module, head: nn.Module, target: Target) -> None:
        super().__init__(encoder, trunk, head, target)
        self.mean = nn.AdaptiveAvgPool1d(1)  # of (n_rows, n_features), row by row

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Mean squared error of each row's features."""
        features = inputs["features"]
        away = self.head(self.trunk(self.encoder(features))) - features
        error: Tensor = self.mean(away * away)
        return error


def default_encoder(n_features: int, spec: ModelSpec) -> nn.Module:
    """One dense layer with tanh for an mlp and an autoencoder, the identity for a linear model.

    tanh because bounded activations keep per-row gradients small, which is what clipping and noise reward
    (Papernot et al. 2021, *Tempered Sigmoid Activations for Deep Learning with Differential Privacy*).
    """
    if spec.kind == "linear":
        return nn.Identity()
    return _stack(n_features, spec.hidden[:1], spec)


def default_head(width: int, spec: ModelSpec, target: Target) -> nn.Module:
    """One dense layer from the trunk's width to the target's outputs, at zero: a public constant.

    An untrained head then predicts the same for every row (one half, equal classes, the middle of the bounds)
    whatever the features. With few noisy steps that matters: they need not undo a random direction first, and
    with one dense layer (a linear model) two seeds start, and without noise end, alike. The layers below keep
    torch's random start, which breaks the symmetry between hidden units.
    """
    del spec
    return _zero(width, target.outputs)


def _zero(before: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(before, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _decoder(n_features: int, spec: ModelSpec) -> nn.Module:
    """The encoder's and the trunk's widths backwards, then the features; it restores the middle of the bounds at first.

    That start is `default_head`'s: a public constant.
    """
    widths = spec.hidden[::-1]
    stack = _stack(widths[0], widths[1:], spec)
    stack.add_module("restored", _zero(widths[-1], n_features))
    return stack


def _trunk(spec: ModelSpec) -> nn.Module:
    return _stack(spec.hidden[0], spec.hidden[1:], spec) if len(spec.hidden) > 1 else nn.Identity()


def _stack(before: int, widths: Sequence[int], spec: ModelSpec) -> nn.Sequential:
    """Dense layers with tanh, numbered as in a plain `Sequential`; norms between them are called `norm0`, `norm1` …"""
    stack = nn.Sequential()
    for number, width in enumerate(widths):
        stack.add_module(str(2 * number), nn.Linear(before, width))
        if spec.norm == "layer":
            stack.add_module(f"norm{number}", nn.LayerNorm(width))
        stack.add_module(str(2 * number + 1), nn.Tanh())
        before = width
    return stack


def is_norm(name: str) -> bool:
    """Whether a parameter belongs to a normalisation layer: by its layer's name, which begins with "norm"."""
    return name.rpartition(".")[0].rpartition(".")[2].startswith("norm")


def check_norm_names(module: nn.Module, industry: str) -> None:
    """Refuse a network in which `is_norm` would err: every norm's name, and no other layer's, begins with "norm".

    Raises
    ------
    ModelError
        Naming the layer.
    """
    for name, layer in module.named_modules():
        if not any(True for _ in layer.parameters(recurse=False)):
            continue
        norm = isinstance(layer, nn.GroupNorm | nn.LayerNorm | nn.RMSNorm)
        if norm != is_norm(f"{name}.weight"):
            wanted = (
                "a name that begins with 'norm'" if norm else "another name: 'norm…' is for GroupNorm and LayerNorm"
            )
            raise ModelError(
                f"client {industry!r}: layer {name}: wanted {wanted}, since the contract's scopes.norm goes by names"
            )


def build(client: IndustryClient, spec: ModelSpec, n_features: int, generator: torch.Generator) -> FederatedModule:
    """The network of an industry, initialised from `generator` alone.

    Each module initialises itself in torch's usual way while torch's global CPU generator stands at a seed
    drawn from `generator`; afterwards it is put back as it was. So an industry's own modules keep their own
    initialisation, and the same generator gives the same network.

    Raises
    ------
    ModelError
        An encoder or head gives another shape than promised; the kind of network does not fit the target. The
        message names wanted and got.
    """
    if (spec.kind == "autoencoder") != (client.schema.target.kind == "anomaly"):
        wanted = "autoencoder" if client.schema.target.kind == "anomaly" else "another kind than autoencoder"
        raise ModelError(
            f"client {client.name!r}: model: wanted {wanted} for a target of kind {client.schema.target.kind}, got "
            f"{spec.kind}"
        )
    seed = int(torch.randint(2**62, (1,), generator=generator).item())
    width = spec.width(n_features)
    last = spec.hidden[-1] if spec.hidden else n_features
    # The global generator is the process's: two threads that build at once would disturb each other.
    with _building:
        before = torch.default_generator.get_state()
        torch.default_generator.manual_seed(seed)
        try:
            restores = spec.kind == "autoencoder"
            module = (Autoencoder if restores else FederatedModule)(
                _encoder(client, spec, n_features),
                _trunk(spec),
                _decoder(n_features, spec) if restores else _head(client, spec, last),
                client.schema.target,
            )
        finally:
            torch.default_generator.set_state(before)
    _probe(client, module, n_features, width)
    return module


def _encoder(client: IndustryClient, spec: ModelSpec, n_features: int) -> nn.Module:
    """The client's own encoder, or the network of the kind that the contract names."""
    if spec.kind in FLAT:
        return client.encoder(n_features, spec)
    try:
        return networks.encoder(spec.kind, spec.options, client.schema.shape, spec.width(n_features))
    except ModelError as error:
        raise ModelError(f"client {client.name!r}: {error}") from None


def _head(client: IndustryClient, spec: ModelSpec, width: int) -> nn.Module:
    """The client's own head, or that of the kind, where it brings one."""
    target = client.schema.target
    try:
        own = None if spec.kind in FLAT else networks.head(spec.kind, spec.options, width, target.outputs)
    except ModelError as error:
        raise ModelError(f"client {client.name!r}: {error}") from None
    return client.head(width, spec, target) if own is None else own


def _probe(client: IndustryClient, module: FederatedModule, n_features: int, width: int) -> None:
    """Ask with two rows of zeros for the shapes, so that a wrong width is named here and not in a round."""
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            encoded = module.encoder(torch.zeros(2, n_features))
            if encoded.shape != (2, width):
                raise ModelError(
                    f"client {client.name!r}: encoder: wanted {width} outputs a row, got shape "
                    f"{tuple(encoded.shape)} for 2 rows of {n_features} features"
                )
            output = module({"features": torch.zeros(2, n_features)})
            if output.shape != (2, module.target.outputs):
                raise ModelError(
                    f"client {client.name!r}: head: wanted {module.target.outputs} outputs a row, got shape "
                    f"{tuple(output.shape)} for 2 rows"
                )
    finally:
        module.train(training)


def label_bits(codes: Tensor, labels: int) -> Tensor:
    """Return 0 or 1 for each label, int64 (n_rows, labels), of codes (n_rows,): see `clients._labels`."""
    return (codes.unsqueeze(-1) >> torch.arange(labels, device=codes.device)) & 1


def loss_for(target: Target) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of each row: (output (n, k), target (n,)) -> (n,).

    Logistic loss (of several labels its mean over them), cross entropy, or the squared error on the target's public
    scale; of an anomaly the error with which a row's features are restored, whatever its label says.
    """
    if target.kind == "anomaly":
        return lambda output, y: output.squeeze(-1)
    if target.kind == "binary":
        return lambda output, y: functional.binary_cross_entropy_with_logits(
            output.squeeze(-1), y.to(output.dtype), reduction="none"
        )
    if target.kind == "multiclass":
        return lambda output, y: functional.cross_entropy(output, y, reduction="none")
    if target.kind == "multilabel":
        return lambda output, y: functional.binary_cross_entropy_with_logits(
            output, label_bits(y, target.outputs).to(output.dtype), reduction="none"
        ).mean(-1)
    middle, half = target.scale
    return lambda output, y: (output.squeeze(-1) - (y - middle) / half) ** 2


def predict(module: FederatedModule, inputs: Mapping[str, Tensor]) -> Tensor:
    """Probabilities of the positive class (n,) or of every class or label (n, k); values in the target's unit (n,).

    Of an anomaly scores in [0, 1) whose order is that of the errors (n,).
    """
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            output = module(inputs)
    finally:
        module.train(training)
    return predictions(module.target, output)


def predictions(target: Target, output: Tensor) -> Tensor:
    """What outputs (n, k) of a network predict: probabilities (n,) or (n, k), or values in the target's unit (n,).

    Of an anomaly e / (e + .04) of the mean squared error e (n,): a half where every feature is off by a tenth of its
    range.
    """
    if target.kind == "anomaly":
        error = output.squeeze(-1)
        return error / (error + _HALF)
    if target.kind == "binary":
        return torch.sigmoid(output.squeeze(-1))
    if target.kind == "multiclass":
        return torch.softmax(output, dim=-1)
    if target.kind == "multilabel":
        return torch.sigmoid(output)
    middle, half = target.scale
    scores: Tensor = output.squeeze(-1) * half + middle
    return scores
