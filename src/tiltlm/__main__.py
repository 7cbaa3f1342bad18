"""`python -m tiltlm`: the command line, for launchers that start a module (`torchrun -m tiltlm train …`)."""

from tiltlm.cli.main import main

if __name__ == "__main__":
    main()
