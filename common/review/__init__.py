"""Review: results looked at, corrected and decided on by people, in a page on this computer."""
