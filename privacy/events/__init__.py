"""What a release cost, as data. Counting is elsewhere, so that a better accountant can recount old runs.

Every event is stated under the relation *add or remove one unit*, except those of the vertical mode, where the set
of rows is fixed and disclosed by an intersection: *change one label* and *replace one row*. Events of different
relations are never composed. An event says which partition of the
data it read: ``train``, ``validation`` and ``evaluation`` (test) hold disjoint units (splits are by a keyed hash
of the unit), so they compose in parallel.

One file a kind: it holds all that the platform asks of an event (`privacy.events.base.Event`). How to add one:
`docs/how_to/mechanisms.md`.
"""

from privacy.events.base import (
    CHANGE_LABEL,
    PARTITIONS,
    RELATION,
    RELATIONS,
    REPLACE_ROW,
    Event,
    Repeated,
    check_count,
    check_positive,
)
from privacy.events.gaussian import GaussianRelease
from privacy.events.laplace import LaplaceRelease
from privacy.events.non_private import NonPrivate
from privacy.events.poisson_gaussian import PoissonGaussian
from privacy.events.randomized_response import RandomizedResponse
from privacy.events.registry import (
    EVENT_SCHEMA,
    check_known,
    event_from_json,
    event_size,
    event_to_json,
    kinds,
    register,
    relation_of,
    resized,
)
from privacy.events.replace_gaussian import ReplaceGaussian

__all__ = [
    "CHANGE_LABEL",
    "EVENT_SCHEMA",
    "PARTITIONS",
    "RELATION",
    "RELATIONS",
    "REPLACE_ROW",
    "Event",
    "GaussianRelease",
    "LaplaceRelease",
    "NonPrivate",
    "PoissonGaussian",
    "RandomizedResponse",
    "Repeated",
    "ReplaceGaussian",
    "check_count",
    "check_known",
    "check_positive",
    "event_from_json",
    "event_size",
    "event_to_json",
    "kinds",
    "register",
    "relation_of",
    "resized",
]
