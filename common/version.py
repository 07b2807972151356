"""Version of this suite, recorded in every result and lineage; `pyproject.toml` reads it here."""

VERSION = "1.0.0"
