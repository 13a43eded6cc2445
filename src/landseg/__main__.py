"""The way in: `landseg` and `python -m landseg`. It imports nothing before it can be interrupted without a traceback."""


def run() -> None:
    """Run the command line; Ctrl-C while it is still being loaded ends with 130 as it does later."""
    try:
        from landseg.cli import run as command

        command()
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    run()
