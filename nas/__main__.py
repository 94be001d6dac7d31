"""`python -m nas`: the command line."""

from nas.cli.main import main

if __name__ == "__main__":
    main()
