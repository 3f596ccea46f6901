#!/usr/bin/env python3
"""Makes, continues or verifies a store of regions; see --help."""

import sys

from rmae_d2.commands.regions import main

if __name__ == "__main__":
    sys.exit(main())
