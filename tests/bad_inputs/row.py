"""One row of the table of bad inputs."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    script: str
    arguments: str
    words: str
    code: int = 2
    writes: str = (
        ""  # what a step of several files still writes: a regular expression of the new paths
    )

    def __str__(self) -> str:
        return f"{self.script} {self.arguments}"[:110]


def rows(script: str, table: list[tuple[str, ...]]) -> list[Row]:
    return [Row(script, *entry) for entry in table]
