"""The embedded "scenes" dataset: rendered pictures with exact masks."""
