"""`narrate`, as it is called: imports hardly anything, so that Ctrl-C is quiet from the first moment."""

from narrative import interrupts


def main() -> None:
    """Runs the command line."""
    interrupts.hold()
    from narrative.cli.app import run

    run()


if __name__ == "__main__":
    main()
