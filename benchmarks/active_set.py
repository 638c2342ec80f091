"""PGD-40 by every library on a natural network: what it saves to leave alone the images that are broken already.

On MNIST with Madry's steps of 0.01 in a ball of 0.3 (2018), where it takes about a dozen steps to move far enough from
a random start, and on CIFAR-10 with their steps of 2/255 in a ball of 8/255, where it takes about two.
"""

import argparse
from typing import Any

from benchmarks import attack_speed, contenders, networks, plot, record, tables
from casemate import data

SEARCHES = {"mnist": contenders.Search(), "cifar10": contenders.Search(eps=8 / 255, step_size=2 / 255)}
NAMES = {"mnist": "active_set", "cifar10": "active_set_cifar10"}


def main() -> None:
    parser = record.options(__doc__)
    parser.add_argument("--data", choices=list(SEARCHES), default="mnist", help="test images and threat model")
    arguments = parser.parse_args()
    record.run(NAMES[arguments.data], arguments, lambda: _measure(arguments), tables.attack_table)


def _measure(arguments: argparse.Namespace) -> dict[str, Any]:
    contenders.refuse_missing()
    dataset = data.load(arguments.data, "test", limit=arguments.n)
    found = attack_speed.compare(
        networks.natural(arguments.data, arguments.seed),
        dataset.images,
        dataset.labels,
        SEARCHES[arguments.data],
        repeats=arguments.repeats,
        seed=arguments.seed,
    )
    plot.multiples(found["rows"], "PGD-40 on a network that breaks", arguments.output / f"{NAMES[arguments.data]}.svg")
    return {"network": f"network A's layers, natural, {networks.NATURAL_STEPS[arguments.data]} steps", **found}


if __name__ == "__main__":
    main()
