#!/usr/bin/env python
"""Train or evaluate DVIS with Detectron2's arguments. See `python train_net.py --help`."""

from dvis_d2.cli.errors import launch, run_program
from dvis_d2.engine import argument_parser, main, missing_arguments

if __name__ == "__main__":
    parser = argument_parser()
    args = parser.parse_args()
    if missing := missing_arguments(args):
        parser.exit(2, f"{parser.prog}: error: {missing}\n")
    print("Command line arguments:", args)
    run_program(lambda: launch(main, args), args.debug)
