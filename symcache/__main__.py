"""``python -m symcache``."""

from symcache.cli import main

if __name__ == "__main__":
    main()
