"""Makes `python -m rmae_d2` equivalent to `rmae-d2`."""

from .commands import main

if __name__ == "__main__":
    main()
