"""Which patches are hidden: every policy, by one protocol."""
