"""Run the command line as a module, for launchers that start one: `torchrun -m tiltlm train ...`."""

from tiltlm.cli.main import main

if __name__ == "__main__":
    main()
