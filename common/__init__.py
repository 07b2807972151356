"""The shared packages of the suite; see docs/house.md."""
