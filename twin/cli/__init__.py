"""The command line: thin commands that parse, call a room and print."""


def main() -> int:
    """Entry point of the ``twin`` script; the application is imported only when it is run."""
    from twin.cli.main import main as run

    return run()
