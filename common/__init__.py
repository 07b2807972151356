"""Shared rooms of the suite. Imports run one way: geometry and cli, then files, then rendering, then fitting."""
