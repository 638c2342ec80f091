"""PGD-40 by every library on a network that resists, in units of 40 bare gradients (float32, all images at once).

Without --model the network is a random one that no image breaks, so only the time means something.
"""

import argparse
from pathlib import Path
from typing import Any

from benchmarks import attack_speed, contenders, networks, plot, record, tables
from casemate import data

NAME = "pgd_speed"


def main() -> None:
    parser = record.options(__doc__)
    parser.add_argument("--model", type=Path, help="a robust checkpoint of madry-mnist, at most the width of network A")
    arguments = parser.parse_args()
    record.run(NAME, arguments, lambda: _measure(arguments), tables.attack_table)


def _measure(arguments: argparse.Namespace) -> dict[str, Any]:
    contenders.refuse_missing()
    dataset = data.load("mnist", "test", limit=arguments.n)
    if arguments.model is None:
        model, labels = networks.unbreakable(arguments.seed, dataset.images)
    else:
        model, labels = networks.opened(arguments.model, arguments.seed), dataset.labels
    search = contenders.Search()
    found = attack_speed.compare(model, dataset.images, labels, search, repeats=arguments.repeats, seed=arguments.seed)
    network = "random, unbreakable" if arguments.model is None else str(arguments.model)
    plot.multiples(found["rows"], "PGD-40, multiples of 40 bare gradients", arguments.output / f"{NAME}.svg")
    return {"network": network, **found}


if __name__ == "__main__":
    main()
