"""PGD-40 by every library on a natural network: what it saves to leave alone the images that are broken already."""

import argparse
from pathlib import Path
from typing import Any

from benchmarks import attack_speed, contenders, networks, plot, record, tables
from casemate import data

NAME = "active_set"


def main() -> None:
    parser = record.options(__doc__)
    parser.add_argument("--model", type=Path, help="a natural checkpoint of madry-mnist; none trains one")
    arguments = parser.parse_args()
    record.run(NAME, arguments, lambda: _measure(arguments), tables.attack_table)


def _measure(arguments: argparse.Namespace) -> dict[str, Any]:
    contenders.refuse_missing()
    dataset = data.load("mnist", "test", limit=arguments.n)
    model = (
        networks.natural(arguments.seed)
        if arguments.model is None
        else networks.opened(arguments.model, arguments.seed)
    )
    search = contenders.Search()
    found = attack_speed.compare(
        model, dataset.images, dataset.labels, search, repeats=arguments.repeats, seed=arguments.seed
    )
    network = "natural, 400 steps" if arguments.model is None else str(arguments.model)
    plot.multiples(found["rows"], "PGD-40 on a network that breaks", arguments.output / f"{NAME}.svg")
    return {"network": network, **found}


if __name__ == "__main__":
    main()
