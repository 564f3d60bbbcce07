"""`python -m adaphi` is the command `adaphi`."""

from adaphi.cli import main

if __name__ == "__main__":
    main()
