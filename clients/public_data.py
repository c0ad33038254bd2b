"""The public data sets that the built-in industries read: publisher, licence, and the hash of each file.

The hashes are of the extracted files, so any archive that holds these files serves. The project ships none of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

__all__ = ["DATA_SETS", "PublicData"]

_CC_BY: Final = """\
It is published under the Creative Commons Attribution 4.0 International licence (CC BY 4.0):
https://creativecommons.org/licenses/by/4.0/legalcode
You may share and change it, for any purpose, commercial ones too. You must name its authors and source as above, give
a link to the licence, and say whether you changed something. It comes without any warranty.
"""


@dataclass(frozen=True, kw_only=True)
class PublicData:
    """One data set.

    Attributes
    ----------
    folder : str
        Where the industry looks for it below `--data`.
    path : str
        The archive's path at the publisher, below `PublicData.publisher`.
    files : mapping
        From the name of a file in the archive to its SHA-256.
    citation : str
        Authors, year, title, DOI.
    """

    title: str
    folder: str
    path: str
    files: Mapping[str, str]
    citation: str
    publisher: str = "https://archive.ics.uci.edu"

    @property
    def licence(self) -> str:
        """The text that is written beside the files."""
        return f"{self.title}\n\n{self.citation}\nSource: {self.publisher}{self.path}\n\n{_CC_BY}"


DATA_SETS: Final[Mapping[str, PublicData]] = MappingProxyType(
    {
        "heart": PublicData(
            title="Heart Disease (four hospitals)",
            folder="hospital/heart",
            path="/static/public/45/heart+disease.zip",
            files={
                "processed.cleveland.data": "a74b7efa387bc9d108d7d0115d831fe9b414b29ae7124f331b622b4efa0427c8",
                "processed.hungarian.data": "d1ad108f785768cd3d7e82dc522e6f5a61eea93cccfb3a46ee8076f73fc3d796",
                "processed.switzerland.data": "834a405ccf5b66ab4056bb77794adc8df0b7125186454c0a1d002d33c6c3b314",
                "processed.va.data": "e7c93d8d0d2acdadfa4c5e8de768e2191e7f618b952e29623f1f0d5949ff6b8f",
            },
            citation=(
                "Janosi, A., Steinbrunn, W., Pfisterer, M., Detrano, R. (1989). Heart Disease [Dataset]. UCI Machine "
                "Learning Repository. https://doi.org/10.24432/C52P4X"
            ),
        ),
        "german": PublicData(
            title="Statlog (German Credit Data)",
            folder="bank/german_credit",
            path="/static/public/144/statlog+german+credit+data.zip",
            files={"german.data": "e2bc10785808eeb5e30462f0805edb73a672f295bc671dec0bca6e2fb5c8e1ca"},
            citation=(
                "Hofmann, H. (1994). Statlog (German Credit Data) [Dataset]. UCI Machine Learning Repository. "
                "https://doi.org/10.24432/C5NC77"
            ),
        ),
        "ai4i": PublicData(
            title="AI4I 2020 Predictive Maintenance",
            folder="factory/ai4i2020",
            path="/static/public/601/ai4i+2020+predictive+maintenance+dataset.zip",
            files={"ai4i2020.csv": "53d0e7b71f760829a91ec3a9df54c0f044836074a227fe5be5a06bedd0cb1125"},
            citation=(
                "Matzka, S. (2020). AI4I 2020 Predictive Maintenance Dataset [Dataset]. UCI Machine Learning "
                "Repository. https://doi.org/10.24432/C5HS5C"
            ),
        ),
        "occupancy": PublicData(
            title="Occupancy Detection",
            folder="smart_home/occupancy",
            path="/static/public/357/occupancy+detection.zip",
            files={
                "datatest.txt": "b94b3d769e021ac0c6867a0a24cc093d7c505bc4c5887cf1865de8bc69e4e7a3",
                "datatest2.txt": "fbf424bf3ca97116c14c835e1843981a2bf2acb8de69b70c1a6546f5e21821e5",
                "datatraining.txt": "918b9e9665be75c6d606a24bc9f10f8b92bfc436783a9cb0cc5967d8d289e231",
            },
            citation=(
                "Candanedo, L. (2016). Occupancy Detection [Dataset]. UCI Machine Learning Repository. "
                "https://doi.org/10.24432/C5X01N"
            ),
        ),
    }
)
