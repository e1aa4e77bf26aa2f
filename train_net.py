#!/usr/bin/env python
"""Train or evaluate DVIS with Detectron2's arguments. See `python train_net.py --help`."""

from dvis_d2.cli.errors import launch, run_program
from dvis_d2.engine import argument_parser, main

if __name__ == "__main__":
    args = argument_parser().parse_args()
    if not (args.config_file or args.opts):
        raise SystemExit(
            "There is nothing to train: name a config, and data unless it does, for example\n"
            "  python train_net.py --config-file configs/shapes/shapes_easy.yaml OUTPUT_DIR output/easy\n"
            "All arguments: python train_net.py --help"
        )
    print("Command line arguments:", args)
    run_program(lambda: launch(main, args), args.debug)
