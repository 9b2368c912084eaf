"""`python -m asyncsandbox` is the command line."""

from .cli import main

main()
