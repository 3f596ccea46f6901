#!/usr/bin/env python
"""`rmae-d2 visualize metrics`, by the name it had first."""

from rmae_d2.commands import main

if __name__ == "__main__":
    main("visualize metrics")
