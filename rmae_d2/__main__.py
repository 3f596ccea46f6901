"""`python -m rmae_d2` is `rmae-d2`."""

from .commands import main

if __name__ == "__main__":
    main()
