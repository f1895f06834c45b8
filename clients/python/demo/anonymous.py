"""Runs a Beam program as it is, but for Beam's search for Google's credentials: nobody needs any here, and where
there are none Beam looks for them for half a minute.

    python anonymous.py PROGRAM ARGUMENTS...
"""

import runpy
import sys

from apache_beam.internal.gcp import auth


def main():
    # Says that the search is over. Without credentials Beam's clients are anonymous.
    auth._Credentials._credentials_init = True
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
