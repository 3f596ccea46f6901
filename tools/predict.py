#!/usr/bin/env python
"""Detects objects in photos, or segments them into classes, and draws them; see --help."""

import sys

from rmae_d2.commands.predict import main

if __name__ == "__main__":
    sys.exit(main())
