"""What the question about linf and l2 radii comes to: rows beside what others published and what geometry says."""

from casemate.papers import evaluation
from casemate.papers.item import Row
from casemate.papers.madry2018 import norms_answer
from casemate.papers.madry2018.norms_facts import SEARCHES, Facts, Norm
from casemate.papers.madry2018.numbers import percent, ratio
from casemate.papers.madry2018.pair import NATURAL

# Networks for MNIST under a union of attacks with 10 restarts, first 1,000 images; what is left in percent.
UNION = "Maini, Wong and Kolter 2020, other networks"
PUBLISHED: dict[tuple[str, Norm, float], float] = {
    ("linf:0.3", "linf", 0.3): 90.3,
    ("linf:0.3", "l2", 2.0): 13.6,
    ("l2:2", "l2", 2.0): 69.2,
    ("l2:2", "linf", 0.3): 0.4,
}


def rows(found: Facts) -> list[Row]:
    return [
        Row(
            "MNIST: is it fair to compare linf and l2 radii as they are?",
            "not by value; by the gain over a natural network (no number)",
            norms_answer.on_radii(found),
            f"n = {found.n} test images, one network of each kind; a pair of radii would be fair if every network left "
            "about as much standing at the one as at the other",
        ),
        *(_published_row(found, *key) for key in PUBLISHED),
        *(_network_row(found, network) for network in found.networks),
        *(_pair_row(found, eps, match) for eps, matches in found.radii.items() for match in matches),
        *(_searches_row(found, network) for network in found.networks),
    ]


def _published_row(found: Facts, network: str, norm: Norm, radius: float) -> Row:
    return Row(
        f"MNIST, trained on {network}: attacked accuracy at {norm}:{radius:g}",
        f"{PUBLISHED[network, norm, radius]:.1f}",
        evaluation.percent(found.standing(network, norm, radius).columns()),
        f"n = {found.n}; {UNION}",
    )


def _network_row(found: Facts, network: str) -> Row:
    row = found.of(network)
    return Row(
        f"MNIST, {_trained(network)}: median smallest change in linf, l2",
        "no number",
        f"{row['linf']:.3g}, {row['l2']:.3g}",
        f"clean {percent(row['clean'])}; over those of the {NATURAL} network {ratio(row['linf_gain'])}, "
        f"{ratio(row['l2_gain'])}; kappa {ratio(row['linf_kappa'])}, {ratio(row['l2_kappa'])} and share of the pixels "
        f"{_share(row['linf_share'])}, {_share(row['l2_share'])} of the two changes",
    )


def _pair_row(found: Facts, eps: float, match: str) -> Row:
    pairs = (found.pair(network, eps, match) for network in found.networks)
    apart, where = found.apart(eps, match)
    return Row(
        f"MNIST: standing at linf {eps:g} and at l2 {found.radii[eps][match]:.2f} ({match})",
        "alike, were the pair a fair one",
        "; ".join(f"{pair['network']} {percent(pair['linf'])}, {percent(pair['l2'])}" for pair in pairs),
        f"up to {100 * apart:.0f} points apart, {where}",
    )


def _searches_row(found: Facts, network: str) -> Row:
    alone = found.alone(network)
    return Row(
        f"MNIST, {_trained(network)}: median l2 distance by {', '.join(SEARCHES)} alone, by all",
        "PGD finds far too long ones where training was on linf (no number)" if "linf" in network else "no number",
        ", ".join(f"{alone[name]:.3g}" for name in (*SEARCHES, "l2")),
        f"n = {alone['n']}, on which all of them ran",
    )


def _trained(network: str) -> str:
    return network if network == NATURAL else f"trained on {network}"


def _share(value: float | None) -> str:
    return "no number" if value is None else percent(value)
