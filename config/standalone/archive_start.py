"""Where symcache.pyz begins. It must parse on older Pythons, to tell them what is missing."""

import sys

if __name__ == "__main__":
    if sys.version_info < (3, 11):  # noqa: UP036 - no installer has asked before an archive starts
        sys.exit("symcache.pyz: needs Python 3.11 or newer; this is %d.%d" % sys.version_info[:2])  # noqa: UP031
    from unpacking import run

    run(sys.path[0])
