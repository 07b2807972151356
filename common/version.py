"""Version of this suite, recorded in every result."""

VERSION = "1.0.0"
