"""Connections of computer networks, attacks among them (NSL-KDD: Tavallaee, Bagheri, Lu and Ghorbani 2009).

Public format: `KDDTrain+_20Percent.txt` and `KDDTest+.txt`, comma separated, no header: 41 columns of a connection as
KDD Cup 1999 names them, the name of the attack or `normal`, a difficulty (never read). The second file holds attacks
that the first one lacks. A connection goes to one of four operators by its service. The rows of an operator are many:
`core/1` to `core/4` deal them in turn to four participants.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from clients.industry import IndustryClient
from clients.schema import Column, Derived, Schema, Target

__all__ = ["ATTACK", "CLIENT", "COLUMNS", "NORMAL", "PARTS", "SCHEMA", "SITES", "read", "synthesise"]

FILES: Final = ("KDDTrain+_20Percent.txt", "KDDTest+.txt")
NORMAL, ATTACK = "normal", "attack"
COLUMNS: Final = (
    "duration", "protocol_type", "service", "flag", "src_bytes", "dst_bytes", "land", "wrong_fragment", "urgent", "hot",
    "num_failed_logins", "logged_in", "num_compromised", "root_shell", "su_attempted", "num_root", "num_file_creations",
    "num_shells", "num_access_files", "num_outbound_cmds", "is_host_login", "is_guest_login", "count", "srv_count",
    "serror_rate", "srv_serror_rate", "rerror_rate", "srv_rerror_rate", "same_srv_rate", "diff_srv_rate",
    "srv_diff_host_rate", "dst_host_count", "dst_host_srv_count", "dst_host_same_srv_rate", "dst_host_diff_srv_rate",
    "dst_host_same_src_port_rate", "dst_host_srv_diff_host_rate", "dst_host_serror_rate", "dst_host_srv_serror_rate",
    "dst_host_rerror_rate", "dst_host_srv_rerror_rate",
)  # fmt: skip
#: Whose service it is; every other one is the core network's.
SERVICES: Final = {
    "web": ("http", "http_443", "http_8001", "http_2784"),
    "mail": ("smtp", "pop_2", "pop_3", "imap4", "nntp", "nnsp", "mtp"),
    "remote": (
        "ftp", "ftp_data", "tftp_u", "telnet", "ssh", "login", "klogin", "shell", "kshell", "exec", "rje", "remote_job",
        "uucp", "uucp_path", "printer", "X11", "IRC",
    ),
}  # fmt: skip
SITES: Final = ("core", *SERVICES)
PARTS: Final = 4
STATES: Final = ("SF", "S0", "S1", "S2", "S3", "REJ", "RSTR", "RSTO", "RSTOS0", "SH", "OTH")
#: Upper bounds of counts: those of KDD's windows (two seconds, hundred connections), or a number that few rows exceed.
_COUNTS: Final = {
    "wrong_fragment": 3, "urgent": 3, "hot": 30, "num_failed_logins": 5, "num_compromised": 10, "su_attempted": 2,
    "num_root": 10, "num_file_creations": 10, "num_shells": 2, "num_access_files": 4, "count": 511, "srv_count": 511,
    "dst_host_count": 255, "dst_host_srv_count": 255,
}  # fmt: skip
_FLAGS: Final = ("land", "logged_in", "root_shell", "is_host_login", "is_guest_login")
_LONG, _LARGE = 60_000, 1_000_000


def _column(name: str) -> Column:
    if name == "protocol_type":
        return Column(name=name, dtype="category", categories=("tcp", "udp", "icmp"))
    if name == "flag":
        return Column(name=name, dtype="category", categories=STATES, measure="how the connection ended")
    if name == "service":  # it names the operator
        return Column(name=name, dtype="text", required=False)
    if name == "num_outbound_cmds":  # 0 in every published row
        return Column(name=name, dtype="integer", feature=False, required=False)
    if name in _FLAGS:
        return Column(name=name, dtype="flag")
    if name == "duration":
        return Column(name=name, dtype="integer", measure="s", low=0, high=_LONG, valid_low=0)
    if name in {"src_bytes", "dst_bytes"}:
        return Column(name=name, dtype="integer", measure="byte", low=0, high=_LARGE, valid_low=0)
    if name in _COUNTS:
        return Column(name=name, dtype="integer", low=0, high=_COUNTS[name], valid_low=0)
    return Column(name=name, dtype="number", low=0, high=1, valid_low=0, valid_high=1)


def _log(name: str, high: int) -> Derived:
    def logarithm(frame: pd.DataFrame) -> pd.Series[Any]:
        found: pd.Series[Any] = np.log(frame[name] + 1)
        return found

    return Derived(name=f"log {name}", low=0, high=float(np.log1p(high)), function=logarithm)


SCHEMA: Final = Schema(
    name="connections",
    version=1,
    columns=tuple(_column(name) for name in COLUMNS),
    # Sizes lie over seven powers of ten.
    derived=(_log("duration", _LONG), _log("src_bytes", _LARGE), _log("dst_bytes", _LARGE)),
    target=Target(name="label", kind="binary", classes=(NORMAL, ATTACK), prior=(0.5, 0.5)),
)


def read(folder: Path, site: str) -> pd.DataFrame:
    """An operator's connections of both files as text, or those of one of its parts; the name of an attack is lost."""
    operator, _, part = site.partition("/")
    names = [*COLUMNS, "label", "difficulty"]
    frames = [pd.read_csv(folder / file, header=None, names=names, dtype=str, keep_default_na=False) for file in FILES]
    frame = pd.concat(frames, ignore_index=True).drop(columns="difficulty")
    owner = {service: one for one, services in SERVICES.items() for service in services}
    frame = frame[frame["service"].map(lambda service: owner.get(service, "core")) == operator]
    if part:
        frame = frame.iloc[int(part) - 1 :: PARTS]
    frame["label"] = np.where(frame["label"] == NORMAL, NORMAL, ATTACK)
    return frame.reset_index(drop=True)


#: Share of attacks among an operator's published connections.
ATTACKS: Final = {"core": 0.76, "web": 0.11, "mail": 0.52, "remote": 0.71}
#: What an operator's normal connections are, and its attacks, with their shares.
_TRAFFIC: Final = {
    "core": ({"lookup": 0.8, "ping": 0.2}, {"flood": 0.55, "scan": 0.3, "smurf": 0.15}),
    "web": ({"page": 1.0}, {"flood": 0.3, "upload": 0.7}),
    "mail": ({"letter": 1.0}, {"flood": 0.3, "scan": 0.3, "guess": 0.4}),
    "remote": ({"transfer": 0.7, "session": 0.3}, {"flood": 0.35, "guess": 0.35, "upload": 0.3}),
}
#: (protocol, state, median of bytes sent and received, connections in two seconds, share of them to the same service,
#: share with SYN errors, share rejected, logged in, connections of the host, of them to the same service)
_KINDS: Final[dict[str, tuple[str, str, float, float, float, float, float, float, int, float, float]]] = {
    "lookup": ("udp", "SF", 45, 90, 110, 0.97, 0.0, 0.0, 0, 250, 0.9),
    "ping": ("icmp", "SF", 30, 0, 2, 1.0, 0.0, 0.0, 0, 60, 0.6),
    "page": ("tcp", "SF", 240, 2000, 9, 1.0, 0.01, 0.01, 1, 120, 0.95),
    "letter": ("tcp", "SF", 1100, 330, 2, 0.98, 0.01, 0.02, 1, 150, 0.6),
    "transfer": ("tcp", "SF", 1500, 60, 3, 0.97, 0.01, 0.02, 1, 130, 0.4),
    "session": ("tcp", "SF", 150, 1200, 1, 0.95, 0.01, 0.05, 1, 140, 0.3),
    "flood": ("tcp", "S0", 0, 0, 180, 0.06, 0.95, 0.05, 0, 255, 0.05),
    "scan": ("tcp", "REJ", 4, 0, 40, 0.3, 0.1, 0.8, 0, 220, 0.15),
    "smurf": ("icmp", "SF", 900, 0, 480, 1.0, 0.0, 0.0, 0, 255, 1.0),
    "upload": ("tcp", "SF", 30000, 4000, 6, 0.95, 0.05, 0.05, 1, 200, 0.85),
    "guess": ("tcp", "SF", 120, 180, 2, 0.8, 0.02, 0.1, 0, 200, 0.5),
}


def synthesise(generator: np.random.Generator, rows: int, site: str) -> pd.DataFrame:
    """Connections of a few kinds, each around typical values: floods, scans and guesses among an operator's traffic."""
    operator = site.partition("/")[0]
    attack = generator.random(rows) < ATTACKS[operator]
    quiet = generator.random(rows) < 0.08  # an attack that looks like the operator's ordinary traffic
    kind = np.empty(rows, dtype=object)
    for chosen, shares in zip((~attack | quiet, attack & ~quiet), _TRAFFIC[operator], strict=True):
        kind[chosen] = generator.choice(list(shares), p=list(shares.values()), size=int(chosen.sum()))
    typical = pd.DataFrame([_KINDS[name] for name in kind], columns=range(11)).reindex(range(rows))
    odd = generator.random(rows) < 0.04  # nothing answers now and then, whatever was asked

    def size(place: int) -> Any:
        middle = typical[place].to_numpy(np.float64)
        return np.round(middle * np.exp(generator.normal(0, 0.8, rows))).astype(np.int64)

    def rate(values: Any, spread: float = 12.0) -> Any:
        middle = np.clip(values, 0.004, 0.996)
        return generator.beta(spread * middle, spread * (1 - middle)).round(2)

    frame = pd.DataFrame(0, index=range(rows), columns=list(COLUMNS))
    frame["protocol_type"] = typical[0]
    frame["service"] = SERVICES.get(operator, ("private",))[0]
    frame["flag"] = np.where(odd, generator.choice(["REJ", "S0", "RSTO", "S1"], rows), typical[1])
    for place, name in ((2, "src_bytes"), (3, "dst_bytes")):
        frame[name] = np.where(odd, 0, size(place))
    frame["duration"] = np.where(generator.random(rows) < 0.1, generator.exponential(300, rows), 0).astype(np.int64)
    frame["logged_in"] = np.where(odd, 0, typical[8])
    guessing = kind == "guess"
    frame["num_failed_logins"] = (guessing & (generator.random(rows) < 0.5)).astype(int)
    frame["hot"] = np.where(guessing | (kind == "upload"), generator.integers(0, 4, rows), 0)
    frame["is_guest_login"] = ((kind == "transfer") & (generator.random(rows) < 0.1)).astype(int)
    frame["count"] = np.clip(1 + size(4), 1, 511)
    same = rate(typical[5].to_numpy(np.float64))
    frame["srv_count"] = np.clip((frame["count"] * same).round(), 1, 511).astype(np.int64)
    frame["same_srv_rate"], frame["diff_srv_rate"] = same, rate(0.5 * (1 - same))
    errors, refused = (np.where(odd, 0.5, typical[place]) for place in (6, 7))
    for prefix in ("", "srv_", "dst_host_", "dst_host_srv_"):
        frame[f"{prefix}serror_rate"], frame[f"{prefix}rerror_rate"] = rate(errors), rate(refused)
    frame["srv_diff_host_rate"] = rate(np.full(rows, 0.1), 3.0)
    hosts = np.clip(generator.normal(typical[9].to_numpy(np.float64), 60), 1, 255)
    frame["dst_host_count"] = hosts.astype(np.int64)
    shared = rate(typical[10].to_numpy(np.float64), 4.0)
    frame["dst_host_srv_count"] = np.clip(hosts * shared, 1, 255).astype(np.int64)
    frame["dst_host_same_srv_rate"], frame["dst_host_diff_srv_rate"] = shared, rate(0.3 * (1 - shared))
    frame["dst_host_same_src_port_rate"] = rate(np.full(rows, 0.1), 3.0)
    frame["dst_host_srv_diff_host_rate"] = rate(np.full(rows, 0.03), 6.0)
    frame["label"] = np.where(attack, ATTACK, NORMAL)
    return frame


CLIENT = IndustryClient(
    name="telecom",
    title="Network operators",
    schema=SCHEMA,
    read=read,
    sites=SITES,
    dataset="nsl_kdd",
    synthesise=synthesise,
    metrics=("auc", "auprc", "balanced_accuracy", "accuracy", "brier"),
    default_rows=1000,
    homes=dict.fromkeys(SITES, PARTS),
)
