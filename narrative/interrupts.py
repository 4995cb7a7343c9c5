"""Ctrl-C while a program is still importing: kept until somebody can end it quietly."""

import signal


def hold() -> None:
    """Keeps SIGINT waiting until ``release``, in this process and in the program that takes its place."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def release() -> None:
    """Lets SIGINT through; one that came meanwhile raises KeyboardInterrupt here."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
